//! Figures: `cargo test --release -p nat-user --lib registrar::bench -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{
    tests::{NOW, Server, settings},
    *,
};
use crate::{
    sip::{
        flow::ListenerId,
        location::stored::{Changes, StoredContact},
    },
    store::{Batch, Kind, Store as _, redb::RedbStore},
};

const PHONES: u32 = 1_000_000;

fn text(phone: u32, cseq: u32) -> Bytes {
    let (a, b) = (phone >> 8 & 255, phone & 255);
    Bytes::from(format!(
        "REGISTER sip:net.com SIP/2.0\r\n\
         Via: SIP/2.0/UDP 192.168.{a}.{b}:5060;branch=z9hG4bK-524287-1---{phone:016x};rport\r\n\
         Max-Forwards: 70\r\n\
         Contact: <sip:{phone:07}@192.168.{a}.{b}:5060;rinstance={phone:016x}>\r\n\
         To: <sip:{phone:07}@net.com>\r\n\
         From: <sip:{phone:07}@net.com>;tag={phone:08x}\r\n\
         Call-ID: {phone:032x}@192.168.{a}.{b}\r\n\
         CSeq: {cseq} REGISTER\r\n\
         Expires: 3600\r\n\
         Allow: INVITE, ACK, CANCEL, OPTIONS, BYE, REFER, NOTIFY, MESSAGE, SUBSCRIBE, INFO\r\n\
         User-Agent: Phone {} 1.2.3\r\n\
         Content-Length: 0\r\n\r\n",
        phone % 200
    ))
}

fn flow(phone: u32) -> Flow {
    let remote = std::net::Ipv4Addr::from(0x3000_0000 + phone / 8);
    Flow::udp(ListenerId(0), (remote, 1024 + (phone % 8) as u16).into())
}

/// Bytes of memory that this process has.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn register(server: &mut Server, phone: u32, cseq: u32) -> usize {
    let message = Message::parse(text(phone, cseq)).unwrap();
    let request = Register {
        message: &message,
        flow: flow(phone),
        local: "134.56.3.1:5060".parse().unwrap(),
        domain: DomainId(0),
        user: None,
        trusted: false,
    };
    let answer = server.registrar.register(
        request,
        &server.domains,
        &mut server.location,
        &mut server.paths,
        server.now,
    );
    assert_eq!(answer.code, 200);
    answer.headers.len()
}

#[test]
#[ignore = "takes minutes and a gigabyte; prints figures"]
fn a_million_registrations() {
    let mut server = Server::new(settings());
    let before = resident();
    let start = Instant::now();
    for phone in 0..PHONES {
        register(&mut server, phone, 1);
        server.now = NOW + Duration::from_millis(u64::from(phone) / 500);
    }
    println!(
        "first registration: {:?} each, text made and parsed",
        start.elapsed() / PHONES
    );
    let first = server.location.take_changes();
    let bytes: usize = first.contacts.iter().map(|(_, bytes)| bytes.len()).sum();
    println!("stored: {} bytes each", bytes / PHONES as usize);

    let path = std::env::temp_dir().join(format!("sipnat-bench-{}.redb", std::process::id()));
    let listeners = ["udp 134.56.3.1:5060".to_owned()];
    let mut store = RedbStore::open(&path, &listeners).unwrap();
    let start = Instant::now();
    for chunk in first.contacts.chunks(20_000) {
        let changes = Changes {
            contacts: chunk.to_vec(),
            ..Changes::default()
        };
        store.write(&batch(changes)).unwrap();
    }
    println!("writing all: {:?}", start.elapsed());
    drop(first);
    println!(
        "memory with path records and timers, and what the allocator keeps of the batch: {} bytes each",
        (resident() - before) / PHONES as usize
    );

    let phones: Vec<u32> = (0..200_000u32)
        .map(|n| n.wrapping_mul(2_654_435_761) % PHONES)
        .collect();
    let texts: Vec<(u32, Bytes)> = phones.iter().map(|phone| (*phone, text(*phone, 2))).collect();
    let start = Instant::now();
    let messages: Vec<(u32, Message)> = texts
        .iter()
        .map(|(phone, text)| (*phone, Message::parse(text.clone()).unwrap()))
        .collect();
    println!("parse: {:?} each", start.elapsed() / messages.len() as u32);
    let start = Instant::now();
    let mut done = 0;
    for (phone, message) in &messages {
        let request = Register {
            message,
            flow: flow(*phone),
            local: "134.56.3.1:5060".parse().unwrap(),
            domain: DomainId(0),
            user: None,
            trusted: false,
        };
        let (location, paths) = (&mut server.location, &mut server.paths);
        let answer = server
            .registrar
            .register(request, &server.domains, location, paths, server.now);
        done += u32::from(answer.code == 200);
    }
    println!(
        "refresh: {:?} each ({done} granted)",
        start.elapsed() / messages.len() as u32
    );

    let start = Instant::now();
    let changes = server.location.take_changes();
    println!(
        "{} refreshes collected for the store: {:?} each",
        changes.refreshes.len(),
        start.elapsed() / changes.refreshes.len() as u32
    );
    let start = Instant::now();
    for chunk in changes.refreshes.chunks(10_000) {
        let changes = Changes {
            refreshes: chunk.to_vec(),
            ..Changes::default()
        };
        store.write(&batch(changes)).unwrap();
    }
    println!(
        "and written in batches of 10,000: {:?} each",
        start.elapsed() / changes.refreshes.len() as u32
    );
    drop(store);
    drop(server.location);
    drop(server.paths);

    let mut again = Server::new(settings());
    let start = Instant::now();
    let mut store = RedbStore::open(&path, &listeners).unwrap();
    let opened = start.elapsed();
    let (location, paths) = (&mut again.location, &mut again.paths);
    store
        .load(&mut |loaded| {
            assert_eq!(loaded.kind, Kind::Registration);
            let stored = StoredContact::decode(loaded.bytes).unwrap();
            location.restore(loaded.number, &stored, loaded.refresh.as_ref(), Some, paths, NOW);
        })
        .unwrap();
    println!(
        "{} registrations back in {:?} (opened in {opened:?})",
        location.len(),
        start.elapsed()
    );
    println!("file: {} MiB", std::fs::metadata(&path).unwrap().len() >> 20);
    std::fs::remove_file(&path).unwrap();
}

fn batch(registrations: Changes) -> Batch {
    Batch {
        registrations,
        ..Batch::default()
    }
}

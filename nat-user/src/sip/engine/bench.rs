//! What a refresh costs from its datagram to its answer: `cargo test --release -p nat-user --lib engine::bench -- --ignored --nocapture`.
//! Its instructions: the same binary under `valgrind --tool=callgrind --toggle-collect='*bench::measured*'`.

use std::{net::Ipv4Addr, sync::Arc, time::Instant};

use bytes::Bytes;

use super::*;
use crate::{
    config::sip::{ListenAddress, Listener, Role, Sip},
    sip::{
        flow::{ListenerId, Transport},
        location::domains::tests::{domain, sip},
        transport::{Engine as _, Place},
    },
};

const PHONES: u32 = 1000;
const ROUNDS: u32 = 4;

pub(super) fn setup() -> Setup {
    let listener = Listener {
        transport: Transport::Udp,
        address: ListenAddress::Ip([134, 56, 3, 1].into()),
        port: 5060,
        advertise: None,
        role: Role::Proxy,
    };
    let config = Sip {
        listeners: vec![listener.clone()],
        domains: vec![domain(&["net.com"])],
        ..sip()
    };
    Setup {
        config: Arc::new(config),
        users: vec![None],
        listeners: vec![Place {
            id: ListenerId(0),
            listener,
            found: None,
        }],
    }
}

fn request(phone: u32, cseq: u32) -> Input {
    let remote = (Ipv4Addr::from(0x0a00_0000 + phone), 5060);
    let text = format!(
        "REGISTER sip:net.com SIP/2.0\r\n\
         Via: SIP/2.0/UDP 192.168.1.10:5060;branch=z9hG4bK{phone:x}.{cseq:x};rport\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:u{phone}@net.com>;tag={phone:x}\r\n\
         To: <sip:u{phone}@net.com>\r\n\
         Call-ID: {phone:x}@load\r\n\
         CSeq: {cseq} REGISTER\r\n\
         Contact: <sip:u{phone}@192.168.1.10:5060>\r\n\
         Expires: 3600\r\n\
         User-Agent: load of the bench\r\n\
         Content-Length: 0\r\n\r\n"
    );
    Input::Received {
        flow: Flow::udp(ListenerId(0), remote.into()),
        local: ([134, 56, 3, 1], 5060).into(),
        bytes: Bytes::from(text),
    }
}

#[inline(never)]
fn measured(engine: &mut Engine<Directory>, inputs: Vec<Input>, now: Time, out: &mut Vec<Command>) {
    for input in inputs {
        engine.input(input, now, out);
    }
}

#[test]
#[ignore = "prints figures"]
fn refreshes() {
    let mut now = Time(1_790_000_000_000);
    let mut engine = make(setup(), &[7; 32], now).unwrap();
    let mut out = Vec::with_capacity(PHONES as usize);
    for phone in 0..PHONES {
        engine.input(request(phone, 1), now, &mut out);
    }
    let mut spent = std::time::Duration::ZERO;
    for cseq in 2..2 + ROUNDS {
        now = now + std::time::Duration::from_secs(20);
        engine.tick(now, &mut out);
        out.clear();
        let inputs: Vec<Input> = (0..PHONES).map(|phone| request(phone, cseq)).collect();
        let start = Instant::now();
        measured(&mut engine, inputs, now, &mut out);
        spent += start.elapsed();
        assert!(out.iter().all(|command| match command {
            Command::Send { bytes, .. } => bytes.starts_with(b"SIP/2.0 200 "),
            _ => false,
        }));
        assert_eq!(out.len(), PHONES as usize);
    }
    println!("a refresh: {:?}", spent / (PHONES * ROUNDS));
}

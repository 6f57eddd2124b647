//! The daemon's life: upgraded under traffic, watched by metrics and events.

use std::collections::HashSet;
use std::fs;
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tests::child::Child;
use tests::prelude::*;
use tests::programs::TempDir;
use tests::sipnat::binary;
use tests::sockets::tcp_connect;

#[test]
fn an_upgrade_under_a_stream_loses_no_packet() {
    let lab = Lab::builder().build().unwrap();
    let mut nat = lab.start_nat_as(Nat::Sipnat, "").unwrap();
    let place = TempDir::new().unwrap();
    let new = place.path().join("sipnat-new");
    fs::copy(binary().unwrap(), &new).unwrap();
    let old_programs = programs(&lab);

    let (source, sink) = (host_udp(lab.h(1), 5060).unwrap(), host_udp(lab.o(1), 9).unwrap());
    let stop = AtomicBool::new(false);
    let (sent, received) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| stream(&source, &sink, &stop));
        let receiver = scope.spawn(|| collect(&sink));
        nat.stop().unwrap();
        nat.daemon().set_binary(&new);
        nat.restart().unwrap();
        let running = fs::read_link(format!("/proc/{}/exe", nat.daemon().pid())).unwrap();
        assert_eq!(running, new);
        stop.store(true, Ordering::Relaxed);
        (sender.join().unwrap(), receiver.join().unwrap())
    });
    let lost: Vec<u32> = (0..sent).filter(|number| !received.contains(number)).collect();
    assert!(sent > 500, "only {sent} packets were sent during the upgrade");
    assert!(lost.is_empty(), "{} of {sent} packets lost: {lost:?}", lost.len());
    let new_programs = programs(&lab);
    assert_eq!(new_programs.len(), 2);
    assert!(
        new_programs.is_disjoint(&old_programs),
        "{old_programs:?} {new_programs:?}"
    );
    assert!(nat.log().contains("replaced the program in its link"), "{}", nat.log());
}

#[test]
fn metrics_are_served_in_the_routers_namespace() {
    let lab = Lab::builder().build().unwrap();
    let nat = lab
        .start_nat_as(Nat::Sipnat, "[metrics]\nlisten = \"127.0.0.1:9473\"\n")
        .unwrap();
    let echo = UdpEcho::start(lab.o(1), 7).unwrap();
    seen_by(&echo, &host_udp(lab.h(1), 5060).unwrap()).unwrap();
    // Bindings are counted by the sweeper, once a second.
    let text = wait_for("the binding to be counted", SOON, || {
        let text = scrape(&lab);
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        text.contains("\nsipnat_bindings{proto=\"udp\"} 1\n").then_some(text)
    })
    .unwrap();
    let value = |reason: &str| -> u64 {
        let start = format!("sipnat_packets_total{{direction=\"out\",reason=\"{reason}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("no {start} in {text}")).parse().unwrap()
    };
    assert_eq!(value("outbound"), 1);
    assert_eq!(super::counter(&nat, "outbound"), 1);
}

#[test]
fn events_follow_the_assignment_of_blocks() {
    let lab = Lab::builder().inside_hosts(2).build().unwrap();
    let mut nat = lab.start_nat_as(Nat::Sipnat, "").unwrap();
    let echo = UdpEcho::start(lab.o(1), 7).unwrap();
    seen_by(&echo, &host_udp(lab.h(1), 5060).unwrap()).unwrap();
    let socket = nat.daemon().socket();
    let arguments = ["events", "--follow", "--json", "--socket", socket.to_str().unwrap()];
    let mut events = Child::spawn(nat.daemon().command(&arguments)).unwrap();
    // What had happened before comes first; once it is there, the next can only come by following.
    assigned(&mut events, "192.168.1.10");
    assert!(!events.log().contains("192.168.1.11"));
    let seen = seen_by(&echo, &host_udp(lab.h(2), 5060).unwrap()).unwrap();
    let event = assigned(&mut events, "192.168.1.11");
    assert_eq!(event["external_ip"], lab.external(0).to_string());
    let block = event["first_port"].as_u64().unwrap()..=event["last_port"].as_u64().unwrap();
    assert!(block.contains(&u64::from(seen.port())), "{seen} {event}");
    assert!(events.running());
}

/// Waits for the event of this host's first block.
fn assigned(events: &mut Child, host: &str) -> serde_json::Value {
    events
        .wait_ready("the assigned block", SOON, |events| {
            let log = events.log();
            let mut records = log.lines().filter_map(|line| serde_json::from_str(line).ok());
            records.find(|event: &serde_json::Value| event["event"] == "block_assigned" && event["host"] == host)
        })
        .unwrap()
}

/// Sends numbered datagrams, about 1000 a second, until told to stop; returns how many. Then tells the receiver.
pub fn stream(source: &UdpSocket, sink: &UdpSocket, stop: &AtomicBool) -> u32 {
    let to = sink.local_addr().unwrap();
    let mut number = 0u32;
    while !stop.load(Ordering::Relaxed) {
        source.send_to(&number.to_be_bytes(), to).unwrap();
        number += 1;
        std::thread::sleep(Duration::from_millis(1));
    }
    source.send_to(b"end", to).unwrap();
    number
}

/// The numbers that arrive before the end.
pub fn collect(sink: &UdpSocket) -> HashSet<u32> {
    let mut numbers = HashSet::new();
    let mut buffer = [0; 16];
    loop {
        let (length, _) = sink.recv_from(&mut buffer).unwrap();
        match buffer[..length].try_into() {
            Ok(bytes) => assert!(numbers.insert(u32::from_be_bytes(bytes)), "a number came twice"),
            Err(_) => return numbers,
        }
    }
}

/// Ids of the programs on the router's interfaces.
fn programs(lab: &Lab) -> HashSet<u64> {
    let text = lab.router.run("ip", ["-json", "-d", "link"]).unwrap();
    let links: serde_json::Value = serde_json::from_str(&text).unwrap();
    let id = |link: &serde_json::Value| link["xdp"]["prog"]["id"].as_u64();
    links.as_array().unwrap().iter().filter_map(id).collect()
}

fn scrape(lab: &Lab) -> String {
    let mut stream = tcp_connect(&lab.router, "127.0.0.1:9473").unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

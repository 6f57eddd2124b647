//! The daemon and its data path together: translation, listing, a killed daemon, restart, detach. Needs root.

use std::fs;

use tests::prelude::*;

fn binding_of(nat: &RunningNat, inside: &str) -> serde_json::Value {
    let list = nat.json(&["bindings"]).unwrap();
    let found = list.as_array().unwrap().iter().find(|b| b["inside"] == inside);
    found.cloned().unwrap_or_else(|| panic!("no {inside} in {list}"))
}

#[test]
fn ping_udp_and_tcp_are_translated_and_listed() {
    let lab = Lab::builder().build().unwrap();
    let nat = lab.start_nat_as(Nat::Sipnat, "").unwrap();
    let capture = Capture::host(lab.o(1)).unwrap();
    lab.h(1)
        .run("ping", ["-c", "2", "-i", "0.2", "-W", "5", "203.0.113.100"])
        .unwrap();

    let echo = UdpEcho::start(lab.o(1), 7).unwrap();
    let socket = host_udp(lab.h(1), 5060).unwrap();
    let seen = seen_by(&echo, &socket).unwrap();
    assert_eq!(*seen.ip(), lab.external(0));
    assert_eq!(seen.port() % 2, 0, "parity is kept (RFC 4787 REQ-4)");

    let server = TcpEcho::start(lab.o(1), 8).unwrap();
    let (_stream, external) = tcp_seen_by(&server, lab.h(1)).unwrap();
    assert_eq!(*external.ip(), lab.external(0));

    let binding = binding_of(&nat, "192.168.1.10:5060");
    assert_eq!(binding["external"], seen.to_string());
    assert_eq!(
        (&binding["proto"], &binding["kind"]),
        (&"udp".into(), &"dynamic".into())
    );
    assert!(binding["expires_s"].as_u64().unwrap() <= 300);
    let blocks = nat.json(&["blocks"]).unwrap();
    assert_eq!(blocks[0]["host"], "192.168.1.10", "{blocks}");
    capture.assert_no_bad_checksums().unwrap();
}

#[test]
fn the_data_path_outlives_its_daemon_and_is_taken_over() {
    let lab = Lab::builder().build().unwrap();
    let mut nat = lab.start_nat_as(Nat::Sipnat, "").unwrap();
    let echo = UdpEcho::start(lab.o(1), 7).unwrap();
    let old = host_udp(lab.h(1), 5060).unwrap();
    let seen = seen_by(&echo, &old).unwrap();
    nat.kill9();
    assert_eq!(seen_by(&echo, &old).unwrap(), seen);
    let new = host_udp(lab.h(1), 5062).unwrap();
    let seen_new = seen_by(&echo, &new).unwrap();
    nat.restart().unwrap();
    for (inside, external) in [("192.168.1.10:5060", seen), ("192.168.1.10:5062", seen_new)] {
        assert_eq!(binding_of(&nat, inside)["external"], external.to_string());
    }
    assert_eq!(seen_by(&echo, &old).unwrap(), seen);
    assert_eq!(seen_by(&echo, &new).unwrap(), seen_new);
    nat.stop().unwrap();
    assert_eq!(seen_by(&echo, &old).unwrap(), seen);
}

#[test]
fn detach_leaves_nothing() {
    let lab = Lab::builder().build().unwrap();
    let mut nat = lab.start_nat_as(Nat::Sipnat, "").unwrap();
    let pins = nat.daemon().pin_dir();
    let output = nat.sipnat(&["detach"]).unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(!pins.exists(), "{:?}", fs::read_dir(&pins).unwrap().collect::<Vec<_>>());
    wait_until("the programs to leave", SOON, || {
        !lab.router.run("ip", ["link", "show", "in0"]).unwrap().contains("xdp")
    })
    .unwrap();
}

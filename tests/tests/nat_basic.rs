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

/// What has no room is refused before anything is changed, however late it would have been noticed.
#[test]
fn a_reload_without_room_changes_nothing() {
    let lab = Lab::builder().build().unwrap();
    let mut nat = lab.start_nat_as(Nat::Sipnat, "").unwrap();
    let echo = UdpEcho::start(lab.o(1), 7).unwrap();
    let socket = host_udp(lab.h(1), 5060).unwrap();
    // The data path knows 4096 addresses of the router's own.
    let addresses = |verb: &str| -> Vec<String> {
        let each = |n: u32| format!("addr {verb} 10.77.{}.{}/32 dev lo", n >> 8, n & 255);
        (0..4100).map(each).collect()
    };
    lab.router.ip_batch(&addresses("add")).unwrap();
    let config = "[nat]\nbypass = [\"203.0.113.0/24\"]\n\
        [[policy.rule]]\naction = \"deny\"\ndirection = \"out\"\nprotocol = \"udp\"\ndestination_ports = \"7\"\n";
    nat.daemon().write_config(&lab.complete(config)).unwrap();
    let refused = nat.sipnat(&["reload"]).unwrap();
    let text = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1));
    for part in ["nothing has changed", "addresses", "room for 4096"] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    // Neither the bypass nor the policy is in force, and translation goes on.
    assert_eq!(*seen_by(&echo, &socket).unwrap().ip(), lab.external(0));
    lab.router.ip_batch(&addresses("del")).unwrap();
    let applied = nat.sipnat(&["reload"]).unwrap();
    assert!(applied.status.success(), "{applied:?}");
}

#[test]
fn forwards_are_added_reloaded_and_deleted() {
    let lab = Lab::builder().build().unwrap();
    let forward = "[[forward]]\nprotocol = \"udp\"\nexternal = \"8000\"\ninside = \"192.168.1.10:80\"\n";
    let mut nat = lab.start_nat_as(Nat::Sipnat, forward).unwrap();
    let inside = UdpEcho::start(lab.h(1), 80).unwrap();
    let socket = host_udp(lab.o(1), 999).unwrap();
    let at = |port: u16| (lab.external(0), port);
    let answers = |port| ask(&socket, at(port), b"x").unwrap();
    assert_eq!(answers(8000).1.port(), 8000);
    let add = ["bindings", "add-forward", "udp", "9000", "192.168.1.10:80"];
    assert!(nat.sipnat(&add).unwrap().status.success());
    assert_eq!(answers(9000).1.ip(), &lab.external(0));
    // A wrong config changes nothing; a right one moves the static forward and keeps the other.
    let text = |body: &str| lab.complete(&format!("[ports]\n{body}"));
    nat.daemon().write_config(&text("block_size = 128\n")).unwrap();
    let refused = nat.sipnat(&["reload"]).unwrap();
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("nothing has changed"),
        "{refused:?}"
    );
    assert_eq!(answers(8000).1.port(), 8000);
    let moved = text(&format!("rest = \"1s\"\n{}", forward.replace("8000", "8002")));
    nat.daemon().write_config(&moved).unwrap();
    assert!(nat.sipnat(&["reload"]).unwrap().status.success());
    assert_eq!(answers(8002).1.ip(), &lab.external(0));
    nat.kill9();
    nat.restart().unwrap();
    let kinds: Vec<_> = nat
        .json(&["bindings"])
        .unwrap()
        .as_array()
        .unwrap()
        .iter()
        .map(|b| b["kind"].clone())
        .collect();
    assert!(
        kinds.contains(&"static".into()) && kinds.contains(&"runtime".into()),
        "{kinds:?}"
    );
    assert_eq!(answers(9000).1.ip(), &lab.external(0));
    assert!(
        nat.sipnat(&["bindings", "delete-forward", "udp", "9000"])
            .unwrap()
            .status
            .success()
    );
    let again = nat.sipnat(&["bindings", "delete-forward", "udp", "9000"]).unwrap();
    assert_eq!(again.status.code(), Some(4));
    let served = inside.served();
    socket.send_to(b"x", at(9000)).unwrap();
    answers(8002);
    assert_eq!(inside.served(), served + 1);
}

#[test]
fn expired_bindings_are_freed_and_logged() {
    let lab = Lab::builder().build().unwrap();
    let dir = tests::programs::TempDir::new().unwrap();
    let log = dir.path().join("blocks.jsonl");
    let config = NatConfig::toml(&format!("[log]\nblocks = {log:?}\n")).lifetime_scale(0.004);
    let nat = lab.start_nat_as(Nat::Sipnat, config).unwrap();
    let echo = UdpEcho::start(lab.o(1), 7).unwrap();
    seen_by(&echo, &host_udp(lab.h(1), 5060).unwrap()).unwrap();
    let text = || fs::read_to_string(&log).unwrap_or_default();
    wait_until("the assignment in the log", SOON, || text().contains("block_assigned")).unwrap();
    wait_until("the release in the log", SOON, || text().contains("block_released")).unwrap();
    assert_eq!(nat.json(&["bindings"]).unwrap(), serde_json::json!([]));
    assert_eq!(nat.json(&["status"]).unwrap()["pool"]["blocks_used"], 0);
}

#[test]
fn a_new_outside_address_takes_over() {
    let lab = Lab::builder().build().unwrap();
    let forward = "[[forward]]\nprotocol = \"udp\"\nexternal = \"8000\"\ninside = \"192.168.1.10:80\"\n";
    let nat = lab.start_nat_as(Nat::Sipnat, forward).unwrap();
    let echo = UdpEcho::start(lab.o(1), 7).unwrap();
    let _inside = UdpEcho::start(lab.h(1), 80).unwrap();
    let socket = host_udp(lab.h(1), 5060).unwrap();
    assert_eq!(*seen_by(&echo, &socket).unwrap().ip(), lab.external(0));
    for (change, address) in [("del", "203.0.113.1/24"), ("add", "203.0.113.77/24")] {
        lab.router.run("ip", ["addr", change, address, "dev", "out0"]).unwrap();
    }
    let new = std::net::Ipv4Addr::new(203, 0, 113, 77);
    wait_until("the new address to be used", SOON, || {
        let addresses = nat.json(&["status"]).unwrap()["external_addresses"].clone();
        addresses == serde_json::json!(["203.0.113.77"])
    })
    .unwrap();
    assert_eq!(*seen_by(&echo, &socket).unwrap().ip(), new);
    let outside = host_udp(lab.o(1), 999).unwrap();
    assert_eq!(*ask(&outside, (new, 8000), b"x").unwrap().1.ip(), new);
}

#[test]
fn a_second_instance_is_refused() {
    let lab = Lab::builder().build().unwrap();
    let mut nat = lab.start_nat_as(Nat::Sipnat, "").unwrap();
    let other = nat.daemon().dir().join("other.sock");
    for more in [vec![], vec!["--socket", other.to_str().unwrap()]] {
        let mut child = nat.daemon().spawn(&more).unwrap();
        let status = child.wait_exit(SOON).unwrap();
        assert!(!status.success());
        assert!(child.log().contains("another sipnat"), "{}", child.log());
    }
    assert!(nat.sipnat(&["status"]).unwrap().status.success());
}

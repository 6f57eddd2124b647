//! REQ-1 and REQ-2: queries, their identifiers, and how long they are remembered.

use std::collections::HashSet;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use tests::prelude::*;

use crate::scene::{H, O, Scene, ping, pong, wait_till};

#[test]
fn req_01_queries_and_replies_pass() {
    let mut s = Scene::with_outside(1, "");
    for size in [0, 1, 56, 1400] {
        let request = ping(s.on(H(1), 77), s.on(O(1), 0)).with_payload(&vec![0xa5; size]);
        let seen = s.pass(H(1), O(1), &request);
        assert_eq!((seen.ip.src, seen.ip.ttl), (s.external(0), 63));
        let got = s.pass(O(1), H(1), &pong(&seen));
        assert_eq!((got.dst(), got.ip.src), (s.on(H(1), 77), s.host(O(1)).ip));
    }
}

#[test]
fn req_01_two_hosts_with_one_identifier() {
    let mut s = Scene::new(Lab::builder().inside_hosts(2), "");
    let seen = [H(1), H(2)].map(|h| {
        let request = ping(s.on(h, 77), s.on(O(1), 0));
        s.pass(h, O(1), &request)
    });
    assert_ne!(seen[0].src(), seen[1].src(), "one identifier for two hosts");
    for (h, request) in [(H(2), &seen[1]), (H(1), &seen[0])] {
        assert_eq!(s.pass(O(1), h, &pong(request)).dst(), s.on(h, 77));
    }
}

#[test]
fn req_01a_mapping_does_not_depend_on_the_remote_host() {
    let mut s = Scene::new(Lab::builder().inside_hosts(2).outside_hosts(3), "");
    let taken = ping(s.on(H(1), 77), s.on(O(1), 0));
    s.pass(H(1), O(1), &taken);
    let seen: HashSet<SocketAddrV4> = [O(1), O(2), O(3)]
        .map(|o| {
            let request = ping(s.on(H(2), 77), s.on(o, 0));
            s.pass(H(2), o, &request).src()
        })
        .into();
    assert_eq!(seen.len(), 1, "one query identifier, several outside: {seen:?}");
}

#[test]
fn req_01_pings_of_real_programs_at_the_same_time() {
    let lab = Lab::builder().inside_hosts(2).build().unwrap();
    let _nat = lab.start_nat("").unwrap();
    let remote = lab.o(1).ip.to_string();
    let ping = |h: usize| {
        let args = ["-c", "20", "-i", "0.01", "-W", "10", "-e", "77", &remote];
        lab.h(h).spawn("ping", args).unwrap()
    };
    for mut child in [ping(1), ping(2)] {
        assert!(child.wait_exit(SOON).unwrap().success(), "{}", child.log());
        assert!(child.log().contains(" 0% packet loss"), "{}", child.log());
    }
}

/// A twentieth: 60 s are 3 s.
#[test]
fn req_02_a_query_is_remembered_for_sixty_seconds() {
    let mut s = Scene::with_outside(1, NatConfig::toml("").lifetime_scale(0.05));
    let request = ping(s.on(H(1), 77), s.on(O(1), 0));
    let seen = s.pass(H(1), O(1), &request);
    wait_till(Instant::now() + Duration::from_secs(56).mul_f64(0.05));
    s.pass(O(1), H(1), &pong(&seen));
}

#[test]
fn req_02a_the_lifetime_is_configurable() {
    let reason = "conntrack's timeout is a sysctl of the whole machine; this test is about sipnat's configuration";
    if !applies_to(&[Nat::Sipnat], reason) {
        return;
    }
    let mut s = Scene::with_outside(1, "[lifetimes]\nicmp = \"10m\"\n");
    let request = ping(s.on(H(1), 77), s.on(O(1), 0));
    s.pass(H(1), O(1), &request);
    let listed = s.nat.json(&["bindings", "--proto", "icmp"]).unwrap();
    let expires = listed[0]["expires_s"].as_u64();
    assert!(
        expires.is_some_and(|left| (590..=600).contains(&left)),
        "expires_s of {listed}"
    );
}

#[test]
fn req_10b_timestamps_pass() {
    let mut s = Scene::with_outside(1, "");
    let (inside, remote) = (s.host(H(1)).ip, s.host(O(1)).ip);
    let request = Packet::icmp(inside, remote, 13, 0, [0, 77, 0, 1], &[9; 12]);
    let seen = s.pass(H(1), O(1), &request);
    let id = seen.as_icmp().unwrap().query_id().unwrap().to_be_bytes();
    let reply = Packet::icmp(remote, seen.ip.src, 14, 0, [id[0], id[1], 0, 1], &[8; 12]);
    let got = s.pass(O(1), H(1), &reply);
    assert_eq!(got.dst(), s.on(H(1), 77));
}

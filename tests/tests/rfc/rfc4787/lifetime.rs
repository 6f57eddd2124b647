//! REQ-5 how long a binding lives, REQ-6 what refreshes it. Lifetimes are scaled; the figures are those of the RFC.

use std::time::{Duration, Instant};

use tests::prelude::*;

use crate::scene::{H, O, Scene, udp, wait_till};

/// A hundredth: the RFC's two minutes are 1.2 s, sipnat's default of five minutes 3 s.
const SCALE: f64 = 0.01;

fn scaled(seconds: u64) -> Duration {
    Duration::from_secs(seconds).mul_f64(SCALE)
}

/// A binding with its external endpoint, and when it was surely made.
fn scene(toml: &str) -> (Scene, std::net::SocketAddrV4, Instant) {
    let mut s = Scene::with_outside(1, NatConfig::toml(toml).lifetime_scale(SCALE));
    let start = Instant::now();
    let external = s.mapped(H(1), 6000, O(1), 9);
    (s, external, start)
}

#[test]
fn req_05_a_binding_lives_two_minutes_and_ends() {
    let (mut s, external, start) = scene("");
    wait_till(start + scaled(115));
    let inbound = udp(s.on(O(1), 9), external);
    s.pass(O(1), H(1), &inbound);
    // Five minutes later it is gone, whatever came in meanwhile.
    wait_till(Instant::now() + scaled(310));
    let late = udp(s.on(O(1), 9), external);
    s.stop(O(1), H(1), &late);
}

#[test]
fn req_05_the_default_is_five_minutes() {
    let reason = "conntrack's defaults are 30 s and 120 s; there is no table of bindings to ask";
    if !applies_to(&[Nat::Sipnat], reason) {
        return;
    }
    let mut s = Scene::with_outside(1, "");
    s.mapped(H(1), 6000, O(1), 9);
    let listed = s
        .nat
        .json(&["bindings", "--proto", "udp", "--host", "192.168.1.10"])
        .unwrap();
    let expires = listed[0]["expires_s"].as_u64();
    assert!(
        expires.is_some_and(|left| (290..=301).contains(&left)),
        "expires_s of {listed}"
    );
}

#[test]
fn req_06_packets_from_inside_refresh() {
    let (mut s, external, start) = scene("");
    for minute in 1..=8 {
        wait_till(start + scaled(60 * minute));
        assert_eq!(s.mapped(H(1), 6000, O(1), 9), external);
    }
    let inbound = udp(s.on(O(1), 9), external);
    s.pass(O(1), H(1), &inbound);
}

#[test]
fn req_06_packets_from_outside_refresh_only_by_option() {
    let reason = "conntrack refreshes in both directions, and has no option";
    if !applies_to(&[Nat::Sipnat], reason) {
        return;
    }
    for (option, alive) in [("outbound", false), ("both", true)] {
        let (mut s, external, start) = scene(&format!("[lifetimes]\nrefresh = \"{option}\"\n"));
        let mut passed = true;
        for minute in 1..=6 {
            wait_till(start + scaled(60 * minute));
            let inbound = udp(s.on(O(1), 9), external);
            passed = s.passes(O(1), H(1), &inbound);
        }
        assert_eq!(
            passed, alive,
            "after six minutes of inbound packets, refresh = {option}"
        );
    }
}

//! RFC 7857: updates to the NAT requirements.

use std::time::{Duration, Instant};

use tests::packet::flags::{ACK, FIN, RST, SYN};
use tests::prelude::*;

use crate::scene::{H, O, QUIET, Scene, Talk, syn, udp, wait_till};

const SCALE: f64 = 0.01;

fn scaled(seconds: u64) -> Duration {
    Duration::from_secs(seconds).mul_f64(SCALE)
}

fn scaled_scene(toml: &str) -> Scene {
    Scene::with_outside(1, NatConfig::toml(toml).lifetime_scale(SCALE))
}

#[test]
fn sec_2_1_open_and_close_timers_are_separate() {
    let reason = "conntrack has one timer for each of its states, shorter than four minutes by default";
    if !applies_to(&[Nat::Sipnat], reason) {
        return;
    }
    let toml = "[lifetimes]\ntcp_opening = \"2m\"\ntcp_closing = \"8m\"\nallow_short = true\n";
    let mut s = scaled_scene(toml);
    let mut opening = Talk::new(s.on(H(1), 6000), s.on(O(1), 80));
    opening.external = s.pass(H(1), O(1), &opening.out(SYN, b"")).src();
    let mut closing = s.connect(H(1), 6001, O(1), 80);
    close(&mut s, &mut closing);
    wait_till(Instant::now() + scaled(200));
    s.stop(O(1), H(1), &opening.back(SYN | ACK, b""));
    s.pass(O(1), H(1), &closing.back(ACK, b""));
}

/// Both ends say FIN.
fn close(s: &mut Scene, talk: &mut Talk) {
    s.pass(H(1), O(1), &talk.out(FIN | ACK, b""));
    s.pass(O(1), H(1), &talk.back(FIN | ACK, b""));
}

#[test]
fn sec_2_1_a_closing_connection_lives_four_minutes() {
    let mut s = scaled_scene("");
    let mut talk = s.connect(H(1), 6000, O(1), 80);
    close(&mut s, &mut talk);
    wait_till(Instant::now() + scaled(230));
    s.pass(O(1), H(1), &talk.back(ACK, b""));
}

#[test]
fn sec_2_2_a_reset_is_translated_and_keeps_state_four_minutes() {
    let mut s = scaled_scene("");
    let mut talk = s.connect(H(1), 6000, O(1), 80);
    let reset = talk.back(RST | ACK, b"");
    assert_eq!(s.pass(O(1), H(1), &reset).dst(), talk.inside);
    wait_till(Instant::now() + scaled(220));
    // A second RST, because the first one may have been lost behind the NAT.
    s.pass(O(1), H(1), &reset);
}

#[test]
fn sec_2_2_a_reset_connection_that_goes_on_stays() {
    let mut s = scaled_scene("");
    let mut talk = s.connect(H(1), 6000, O(1), 80);
    s.pass(O(1), H(1), &talk.back(RST, b""));
    // The RST was forged; both ends know nothing of it.
    assert_eq!(s.pass(H(1), O(1), &talk.out(ACK, b"go on")).src(), talk.external);
    s.pass(O(1), H(1), &talk.back(ACK, b"yes"));
    wait_till(Instant::now() + scaled(500));
    s.pass(O(1), H(1), &talk.back(ACK, b"late"));
}

#[test]
fn sec_4_a_host_whose_address_is_full_gets_no_other() {
    if !applies_to(&[Nat::Sipnat], "masquerade has one address") {
        return;
    }
    let toml = "[ports]\nrange = \"20000-20015\"\nblock_size = 16\n";
    let mut s = Scene::new(Lab::builder().external_addresses(2), toml);
    let address = *s.mapped(H(1), 6000, O(1), 9).ip();
    for port in 6001..6016 {
        assert_eq!(*s.mapped(H(1), port, O(1), 9).ip(), address);
    }
    let more = udp(s.on(H(1), 6016), s.on(O(1), 9));
    s.send(H(1), &more);
    s.socket(O(1))
        .assert_silent(QUIET, |got| got.as_udp().is_some())
        .unwrap();
}

#[test]
fn sec_5_mappings_are_protocol_dependent() {
    let mut s = Scene::new(Lab::builder().inside_hosts(2), "");
    let tcp = s.connect(H(1), 6000, O(1), 80).external;
    // Another host may have the same port of another protocol; what counts is that UDP to it finds no TCP binding.
    let packet = udp(s.on(O(1), 80), tcp);
    s.stop(O(1), H(1), &packet);
}

#[test]
fn sec_6_filtering_is_protocol_dependent() {
    let mut s = Scene::with_outside(1, "[filtering]\ntcp = \"endpoint-independent\"\n");
    let external = s.mapped(H(1), 6000, O(1), 80);
    let packet = syn(s.on(O(1), 80), external);
    s.stop(O(1), H(1), &packet);
}

#[test]
fn sec_7_refused_packets_do_not_refresh() {
    let reason = "conntrack has no endpoint-independent filter, so nothing of the kind is refused";
    if !applies_to(&[Nat::Sipnat], reason) {
        return;
    }
    let toml = "[lifetimes]\nrefresh = \"both\"\n[[policy.rule]]\naction = \"deny\"\ndirection = \"in\"\n\
                source = [\"203.0.113.101/32\"]\n";
    let builder = Lab::builder().outside_hosts(2);
    let mut s = Scene::new(builder, NatConfig::toml(toml).lifetime_scale(SCALE));
    let external = s.mapped(H(1), 6000, O(1), 9);
    let start = Instant::now();
    for minute in 1..=5 {
        wait_till(start + scaled(60 * minute));
        let refused = udp(s.on(O(2), 9), external);
        s.send(O(2), &refused);
    }
    wait_till(start + scaled(320));
    let late = udp(s.on(O(1), 9), external);
    s.stop(O(1), H(1), &late);
}

#[test]
fn sec_7_1_errors_from_inside_do_not_refresh() {
    let mut s = scaled_scene("");
    let remote = s.on(O(1), 9);
    let external = s.mapped(H(1), 6000, O(1), 9);
    let start = Instant::now();
    for minute in 1..=4 {
        wait_till(start + scaled(60 * minute));
        let unwanted = udp(remote, external);
        if !s.passes(O(1), H(1), &unwanted) {
            break;
        }
        let quoted = Packet::udp(remote, s.on(H(1), 6000), unwanted.payload());
        s.send(
            H(1),
            &Packet::icmp_error(s.host(H(1)).ip, *remote.ip(), 3, 3, &quoted, 8),
        );
    }
    wait_till(start + scaled(330));
    let late = udp(remote, external);
    s.stop(O(1), H(1), &late);
}

#[test]
fn sec_9_ports_are_not_predictable() {
    let mut s = Scene::new(Lab::builder().inside_hosts(2), "");
    // Ports that have to be changed because another host has them (a NAT that preserves ports), or all.
    let steps: Vec<i32> = (0..40)
        .map(|i| {
            s.mapped(H(1), 6000 + i * 2, O(1), 9);
            i32::from(s.mapped(H(2), 6000 + i * 2, O(1), 9).port())
        })
        .collect::<Vec<i32>>()
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .collect();
    let mut counts = std::collections::HashMap::new();
    steps.iter().for_each(|step| *counts.entry(*step).or_insert(0) += 1);
    let most = counts.values().max().copied().unwrap_or(0);
    assert!(most < 12, "the next port can be guessed from the last: steps {steps:?}");
}

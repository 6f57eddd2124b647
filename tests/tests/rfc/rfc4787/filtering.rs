//! REQ-8: who may send to a binding.

use tests::prelude::*;

use crate::scene::{H, O, Scene, udp};

/// What passes to a binding that has sent to port 9 of `o1`: from there, from its port 10, and from `o2`.
fn what_passes(config: &str) -> [bool; 3] {
    let mut s = Scene::with_outside(2, config);
    let external = s.mapped(H(1), 6000, O(1), 9);
    [(O(1), 9), (O(1), 10), (O(2), 9)].map(|(o, port)| {
        let packet = udp(s.on(o, port), external);
        s.passes(o, H(1), &packet)
    })
}

#[test]
fn req_08_endpoint_independent_filtering_by_default() {
    assert_eq!(what_passes(""), [true, true, true]);
}

#[test]
fn req_08_address_dependent_filtering_by_option() {
    if !applies_to(
        &[Nat::Sipnat],
        "conntrack knows address- and port-dependent filtering only",
    ) {
        return;
    }
    let config = "[filtering]\nudp = \"address-dependent\"\n";
    assert_eq!(what_passes(config), [true, true, false]);
}

#[test]
fn req_08_address_and_port_dependent_filtering_by_option() {
    let config = "[filtering]\nudp = \"address-and-port-dependent\"\n";
    assert_eq!(what_passes(config), [true, false, false]);
}

#[test]
fn req_08_each_remote_that_was_sent_to_may_answer() {
    let mut s = Scene::with_outside(2, "[filtering]\nudp = \"address-and-port-dependent\"\n");
    let first = s.mapped(H(1), 6000, O(1), 9);
    let second = s.mapped(H(1), 6000, O(2), 10);
    for (o, port, external) in [(O(2), 10, second), (O(1), 9, first)] {
        let answer = udp(s.on(o, port), external);
        let got = s.pass(o, H(1), &answer);
        assert_eq!(
            (got.src(), got.dst()),
            (answer.src(), "192.168.1.10:6000".parse().unwrap())
        );
    }
}

//! REQ-9: inside hosts reach each other by their external endpoints.

use tests::prelude::*;

use crate::scene::{H, O, Scene, udp};

#[test]
fn req_09_an_inside_host_reaches_another_by_its_external_endpoint() {
    let mut s = Scene::new(Lab::builder().inside_hosts(2), "");
    let (one, two) = (s.mapped(H(1), 6000, O(1), 9), s.mapped(H(2), 7000, O(1), 9));
    let packet = udp(s.on(H(1), 6000), two);
    let got = s.pass(H(1), H(2), &packet);
    assert_eq!(got.dst(), s.on(H(2), 7000));
    assert_eq!(got.ip.ttl, 63, "it was routed once");
    let answer = udp(s.on(H(2), 7000), one);
    let got = s.pass(H(2), H(1), &answer);
    assert_eq!(got.dst(), s.on(H(1), 6000));
}

#[test]
fn req_09a_hairpinned_packets_come_from_the_external_endpoint() {
    let mut s = Scene::new(Lab::builder().inside_hosts(2), "");
    let (one, two) = (s.mapped(H(1), 6000, O(1), 9), s.mapped(H(2), 7000, O(1), 9));
    let packet = udp(s.on(H(1), 6000), two);
    assert_eq!(s.pass(H(1), H(2), &packet).src(), one);
    // A socket that never spoke before gets a binding by hairpinning, and it is the one that the outside sees.
    let packet = udp(s.on(H(1), 6002), two);
    let seen = s.pass(H(1), H(2), &packet).src();
    assert_eq!(s.mapped(H(1), 6002, O(1), 9), seen);
}

#[test]
fn req_09_a_host_reaches_itself() {
    let mut s = Scene::new(Lab::builder(), "");
    let (one, two) = (s.mapped(H(1), 6000, O(1), 9), s.mapped(H(1), 7000, O(1), 9));
    let packet = udp(s.on(H(1), 6000), two);
    let got = s.pass(H(1), H(1), &packet);
    assert_eq!((got.src(), got.dst()), (one, s.on(H(1), 7000)));
}

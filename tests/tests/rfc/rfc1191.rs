//! RFC 1191: path MTU discovery through the NAT, in both directions.

use tests::lab::OUTSIDE_ROUTER;
use tests::packet::flags::ACK;
use tests::prelude::*;

use crate::scene::{H, O, Scene, udp};

#[test]
fn a_smaller_link_behind_the_router_is_told_to_inside_hosts() {
    let mut s = Scene::new(Lab::builder().outside_mtu(1280), "");
    let mut talk = s.connect(H(1), 6000, O(1), 80);
    let large = talk.out(ACK, &[1; 1360]).df();
    s.send(H(1), &large);
    let error = s.wait(H(1), "fragmentation needed", |got| got.is_icmp(3, 4));
    assert_eq!(error.as_icmp().unwrap().mtu(), 1280);
    let quote = error.quote().unwrap();
    assert_eq!((quote.src, quote.dst), (large.src(), large.dst()));
}

#[test]
fn a_smaller_link_inside_is_told_to_outside_hosts() {
    let mut s = Scene::new(Lab::builder().inside_mtu(1280), "");
    let external = s.mapped(H(1), 6000, O(1), 9);
    let large = udp(s.on(O(1), 9), external).with_payload(&[1; 1372]).df();
    s.send(O(1), &large);
    let error = s.wait(O(1), "fragmentation needed", |got| got.is_icmp(3, 4));
    assert_eq!(error.as_icmp().unwrap().mtu(), 1280);
    let quote = error.quote().unwrap();
    assert_eq!(
        (quote.src, quote.dst),
        (large.src(), large.dst()),
        "the quote must be as the host sent it"
    );
    assert_ne!(error.ip.src.octets()[0], 192, "an inside address shows outside");
}

#[test]
fn fragmentation_needed_of_a_router_outside_keeps_its_mtu() {
    let mut s = Scene::with_outside(1, "");
    let packet = udp(s.on(H(1), 6000), s.on(O(1), 9)).with_payload(&[1; 1400]).df();
    let seen = s.pass(H(1), O(1), &packet);
    for mtu in [1280, 576, 0] {
        let error = Packet::icmp_error(OUTSIDE_ROUTER, seen.ip.src, 3, 4, &seen, 8).mtu(mtu);
        let got = s.pass(O(1), H(1), &error);
        assert_eq!(got.as_icmp().unwrap().mtu(), mtu);
        assert_eq!(got.quote().unwrap().src, packet.src());
    }
}

#[test]
fn fragmentation_needed_of_a_router_inside_keeps_its_mtu() {
    let mut s = Scene::with_outside(1, "");
    let external = s.mapped(H(1), 6000, O(1), 9);
    let packet = udp(s.on(O(1), 9), external).with_payload(&[1; 1400]).df();
    let seen = s.pass(O(1), H(1), &packet);
    let inside = tests::lab::INSIDE_ROUTER;
    let error = Packet::icmp_error(inside, s.host(O(1)).ip, 3, 4, &seen, 8).mtu(1400);
    let got = s.pass(H(1), O(1), &error);
    assert_eq!((got.as_icmp().unwrap().mtu(), got.ip.src), (1400, *external.ip()));
    assert_eq!(got.quote().unwrap().dst, external);
}

#[test]
fn tcp_gets_through_a_link_of_1280_bytes() {
    let lab = Lab::builder().far(1500).build().unwrap();
    let _nat = lab.start_nat("").unwrap();
    // Routes, not links: so both ends announce segments for 1500 bytes and must learn better.
    let hop = lab.other("or");
    hop.ip_batch(&[
        "route change 198.51.100.0/24 dev eth1 mtu lock 1280".into(),
        "route change 203.0.113.0/24 dev eth0 mtu lock 1280".into(),
    ])
    .unwrap();
    let captures = [Capture::host(lab.h(1)).unwrap(), Capture::host(lab.far()).unwrap()];
    let echo = TcpEcho::start(lab.far(), 2222).unwrap();
    let (mut stream, _) = tcp_seen_by(&echo, lab.h(1)).unwrap();
    tcp_echo(&mut stream, &[0x5a; 300_000]).unwrap();
    for capture in captures {
        assert!(
            capture.received().iter().any(|packet| packet.is_icmp(3, 4)),
            "nobody was told about the small link"
        );
        capture.assert_no_bad_checksums().unwrap();
    }
}

//! REQ-3 to REQ-7: errors of others, and the packets they quote.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use tests::lab::{INSIDE_ROUTER, OUTSIDE_ROUTER};
use tests::packet::flags::ACK;
use tests::prelude::*;

use crate::scene::{At, H, O, Scene, ping, pong, syn, udp, wait_till};

/// IPv4 options that no router changes.
const OPTIONS: [u8; 8] = [1, 1, 1, 1, 1, 1, 1, 0];

/// An error passes from one side to the other, and its quote becomes `original`, which is how the receiver knows it.
#[track_caller]
fn quote_becomes(s: &mut Scene, from: At, to: At, error: &Packet, original: &Packet) -> Packet {
    let got = s.pass(from, to, error);
    let quote = got.quote().unwrap();
    assert_eq!(
        (quote.src, quote.dst),
        (original.src(), original.dst()),
        "quoted endpoints"
    );
    assert_eq!(quote.ip.sum, Sum::Right, "checksum of the quoted header");
    assert_eq!(quote.ip.options, original.ip.options, "quoted options");
    let bytes = original.l4_bytes();
    assert_eq!(
        quote.l4,
        bytes[..quote.l4.len()],
        "quoted transport header and what follows"
    );
    got
}

/// Packets of each protocol from inside, with payloads for the largest quotes.
fn outbound(s: &Scene) -> [Packet; 4] {
    let (inside, remote) = (s.on(H(1), 6000), s.on(O(1), 80));
    let large = [0x5a; 700];
    [
        udp(inside, remote).with_payload(&large),
        syn(inside, remote),
        ping(inside, s.on(O(1), 0)).with_payload(&large),
        udp(inside, remote).with_payload(&large).options(&OPTIONS),
    ]
}

/// How much is quoted: the least (RFC 792), more, and all that fits 576 bytes (RFC 1812 §4.3.2.3).
const QUOTED: [usize; 3] = [8, 28, 576 - 20 - 8 - 28];

#[test]
fn req_03_errors_with_a_wrong_icmp_checksum_are_dropped() {
    let mut s = Scene::with_outside(1, "");
    s.expect_bad_checksums();
    for packet in outbound(&s) {
        let seen = s.pass(H(1), O(1), &packet);
        let error = Packet::icmp_error(*seen.dst().ip(), seen.ip.src, 3, 1, &seen, 8);
        s.stop(O(1), H(1), &error.clone().sum(Sum::Wrong(0x1234)));
        quote_becomes(&mut s, O(1), H(1), &error, &packet);
    }
}

#[test]
fn req_03a_errors_with_a_wrong_checksum_in_the_quoted_header_are_dropped() {
    let mut s = Scene::with_outside(1, "");
    let packet = udp(s.on(H(1), 6000), s.on(O(1), 80));
    let mut seen = s.pass(H(1), O(1), &packet);
    seen.ip.sum = Sum::Wrong(0x1234);
    let error = Packet::icmp_error(*packet.dst().ip(), seen.ip.src, 3, 1, &seen, 8);
    s.stop(O(1), H(1), &error);
}

#[test]
fn req_03b_options_in_the_quote_are_stepped_over() {
    let mut s = Scene::with_outside(1, "");
    let packet = udp(s.on(H(1), 6000), s.on(O(1), 80)).options(&OPTIONS);
    let seen = s.pass(H(1), O(1), &packet);
    let error = Packet::icmp_error(OUTSIDE_ROUTER, seen.ip.src, 3, 1, &seen, 8);
    quote_becomes(&mut s, O(1), H(1), &error, &packet);
}

#[test]
fn req_03c_the_transport_checksum_of_the_quote_does_not_matter() {
    let mut s = Scene::with_outside(1, "");
    let packet = udp(s.on(H(1), 6000), s.on(O(1), 80));
    let seen = s.pass(H(1), O(1), &packet).sum(Sum::Wrong(0x1234));
    let error = Packet::icmp_error(OUTSIDE_ROUTER, seen.ip.src, 3, 1, &seen, 20);
    let got = s.pass(O(1), H(1), &error);
    assert_eq!(got.quote().unwrap().src, packet.src());
}

#[test]
fn req_04_errors_from_outside_are_translated() {
    let mut s = Scene::with_outside(1, "");
    for packet in outbound(&s) {
        let seen = s.pass(H(1), O(1), &packet);
        // From the far host, and from a router on the way; of every kind; however much they quote.
        for source in [s.host(O(1)).ip, OUTSIDE_ROUTER] {
            for (kind, code) in [(3, 1), (3, 3), (3, 4), (11, 0), (12, 0)] {
                for quoted in QUOTED {
                    let error = Packet::icmp_error(source, seen.ip.src, kind, code, &seen, quoted);
                    let got = quote_becomes(&mut s, O(1), H(1), &error, &packet);
                    assert_eq!((got.ip.src, got.ip.dst), (source, s.host(H(1)).ip));
                }
            }
        }
    }
}

#[test]
fn req_04_errors_about_nothing_are_dropped() {
    let mut s = Scene::with_outside(1, "");
    let seen = s.mapped(H(1), 6000, O(1), 9);
    let never = udp((*seen.ip(), seen.port() ^ 2), s.on(O(1), 9));
    let error = Packet::icmp_error(OUTSIDE_ROUTER, *seen.ip(), 3, 1, &never, 8);
    s.stop(O(1), H(1), &error);
}

#[test]
fn req_05_errors_from_inside_are_translated() {
    let mut s = Scene::with_outside(1, "");
    let (remote, external) = (s.on(O(1), 80), s.mapped(H(1), 6000, O(1), 80));
    let mut talk = s.connect(H(1), 6000, O(1), 80);
    let request = ping(s.on(H(1), 77), s.on(O(1), 0));
    let echo = s.pass(H(1), O(1), &request);
    let inbound = [
        udp(remote, external).with_payload(&[0x5a; 700]),
        talk.back(ACK, &[0x5a; 700]),
        pong(&echo),
        udp(remote, external).with_payload(&[0x5a; 700]).options(&OPTIONS),
    ];
    for packet in inbound {
        let seen = s.pass(O(1), H(1), &packet);
        // From the host itself, and from a router inside: both show as the external address.
        for source in [s.host(H(1)).ip, INSIDE_ROUTER] {
            for (kind, code) in [(3, 1), (3, 3), (3, 4), (11, 0), (11, 1), (12, 0)] {
                for quoted in QUOTED {
                    let error = Packet::icmp_error(source, *remote.ip(), kind, code, &seen, quoted);
                    let got = quote_becomes(&mut s, H(1), O(1), &error, &packet);
                    assert_eq!((got.ip.src, got.ip.dst), (*external.ip(), *remote.ip()));
                }
            }
        }
    }
}

#[test]
fn req_05_errors_from_inside_about_nothing_are_dropped() {
    let mut s = Scene::with_outside(1, "");
    let never = udp(s.on(O(1), 80), s.on(H(1), 6666));
    s.send(
        H(1),
        &Packet::icmp_error(s.host(H(1)).ip, s.host(O(1)).ip, 3, 3, &never, 8),
    );
    let last = udp(s.on(H(1), 6000), s.on(O(1), 9));
    s.send(H(1), &last);
    s.socket(O(1))
        .recv_only(
            "the datagram after the error",
            SOON,
            |got| got.payload() == last.payload(),
            |got| got.as_icmp().is_some(),
        )
        .unwrap();
}

/// A twentieth: the query's 60 s are 3 s.
#[test]
fn req_06_errors_do_not_refresh_a_query_session() {
    let mut s = Scene::with_outside(1, NatConfig::toml("").lifetime_scale(0.05));
    let request = ping(s.on(H(1), 77), s.on(O(1), 0));
    let seen = s.pass(H(1), O(1), &request);
    let start = Instant::now();
    let error = Packet::icmp_error(OUTSIDE_ROUTER, seen.ip.src, 3, 1, &seen, 8);
    for tenth in 1..=9 {
        wait_till(start + Duration::from_millis(300) * tenth);
        s.send(O(1), &error);
    }
    wait_till(start + Duration::from_millis(3400));
    s.stop(O(1), H(1), &pong(&seen));
}

#[test]
fn req_06_errors_do_not_delete_a_query_session() {
    let mut s = Scene::with_outside(1, "");
    let request = ping(s.on(H(1), 77), s.on(O(1), 0));
    let seen = s.pass(H(1), O(1), &request);
    for (kind, code) in [(3, 0), (3, 1), (3, 3), (3, 13), (11, 0), (12, 0)] {
        let error = Packet::icmp_error(OUTSIDE_ROUTER, seen.ip.src, kind, code, &seen, 8);
        quote_becomes(&mut s, O(1), H(1), &error, &request);
        s.pass(O(1), H(1), &pong(&seen));
    }
}

#[test]
fn req_07_hairpinned_errors_are_translated() {
    let mut s = Scene::new(Lab::builder().inside_hosts(2), "");
    let (one, two) = (s.mapped(H(1), 6000, O(1), 9), s.mapped(H(2), 7000, O(1), 9));
    let packet = udp(s.on(H(1), 6000), two);
    let seen = s.pass(H(1), H(2), &packet);
    for source in [s.host(H(2)).ip, INSIDE_ROUTER] {
        for quoted in [8, packet.l4_bytes().len()] {
            let error = Packet::icmp_error(source, *one.ip(), 3, 3, &seen, quoted);
            let got = quote_becomes(&mut s, H(2), H(1), &error, &packet);
            let outer: (Ipv4Addr, Ipv4Addr) = (got.ip.src, got.ip.dst);
            assert_eq!(outer, (*two.ip(), s.host(H(1)).ip));
        }
    }
}

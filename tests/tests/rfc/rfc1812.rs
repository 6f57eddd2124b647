//! RFC 1812 and RFC 791: what every router does, and a NAT must not forget.

use std::net::Ipv4Addr;

use tests::lab::INSIDE_GATEWAY;
use tests::prelude::*;

use crate::scene::{H, O, QUIET, Scene, udp};

#[test]
fn sec_5_3_1_ttl_is_decremented_once() {
    let mut s = Scene::new(Lab::builder().inside_hosts(2), "");
    let external = s.mapped(H(1), 6000, O(1), 9);
    for ttl in [2, 64, 255] {
        let out = udp(s.on(H(1), 6000), s.on(O(1), 9)).ttl(ttl);
        assert_eq!(s.pass(H(1), O(1), &out).ip.ttl, ttl - 1);
        let back = udp(s.on(O(1), 9), external).ttl(ttl);
        assert_eq!(s.pass(O(1), H(1), &back).ip.ttl, ttl - 1);
    }
}

#[test]
fn sec_5_3_1_an_expired_ttl_is_told_to_the_sender() {
    let mut s = Scene::with_outside(1, "");
    let external = s.mapped(H(1), 6000, O(1), 9);
    let out = udp(s.on(H(1), 6000), s.on(O(1), 9)).ttl(1);
    let back = udp(s.on(O(1), 9), external).ttl(1);
    for (at, packet, router) in [(H(1), out, INSIDE_GATEWAY), (O(1), back, *external.ip())] {
        s.send(at, &packet);
        let error = s.wait(at, "time exceeded", |got| got.is_icmp(11, 0));
        let quote = error.quote().unwrap();
        assert_eq!(error.ip.src, router);
        assert_eq!(
            (quote.src, quote.dst),
            (packet.src(), packet.dst()),
            "the quote must be as it was sent"
        );
        assert_eq!(quote.l4, packet.l4_bytes()[..quote.l4.len()]);
        assert!(quote.l4.len() >= 8);
    }
}

#[test]
fn sec_5_3_1_traceroute_shows_every_hop() {
    let lab = Lab::builder().far(1500).inside_router().build().unwrap();
    let _nat = lab.start_nat("").unwrap();
    let far = lab.far().ip.to_string();
    for method in ["-I", "-T", "-U"] {
        let args = ["-n", "-q", "1", "-w", "3", method, &far];
        let text = lab.deep().run("traceroute", args).unwrap();
        let hops: Vec<&str> = text
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().nth(1))
            .collect();
        let expected = ["10.9.0.1", "192.168.1.1", "203.0.113.250", "198.51.100.10"];
        assert_eq!(hops, expected, "traceroute {method}: {text}");
    }
}

#[test]
fn sec_5_3_1_mtr_shows_every_hop_without_loss() {
    let lab = Lab::builder().far(1500).build().unwrap();
    let _nat = lab.start_nat("").unwrap();
    let far = lab.far().ip.to_string();
    let args = ["--report", "--json", "-n", "-c", "3", "-i", "0.3", &far];
    let text = lab.h(1).run("mtr", args).unwrap();
    for hop in ["192.168.1.1", "203.0.113.250", "198.51.100.10"] {
        assert!(text.contains(hop), "{hop} is missing: {text}");
    }
}

#[test]
fn sec_5_2_2_broken_headers_are_dropped() {
    let mut s = Scene::with_outside(1, "");
    s.expect_bad_checksums();
    let external = s.mapped(H(1), 6000, O(1), 9);
    type Mutation = (&'static str, fn(&mut Vec<u8>));
    let mutations: [Mutation; 6] = [
        ("header checksum", |frame| frame[24] ^= 1),
        ("version", |frame| fix(frame, 0x65)),
        ("header length 4", |frame| fix(frame, 0x44)),
        ("header longer than the packet", |frame| fix(frame, 0x4f)),
        ("total length beyond the frame", |frame| {
            frame[16] = 8;
            let first = frame[14];
            fix(frame, first);
        }),
        ("total length below the header", |frame| {
            (frame[16], frame[17]) = (0, 19);
            let first = frame[14];
            fix(frame, first);
        }),
    ];
    for (from, to, src, dst) in [
        (H(1), O(1), s.on(H(1), 6000), s.on(O(1), 9)),
        (O(1), H(1), s.on(O(1), 9), external),
    ] {
        for (what, mutate) in mutations {
            let broken = Packet::udp(src, dst, b"broken").via(s.host(from));
            let mut frame = broken.build();
            mutate(&mut frame);
            s.socket(from).send(&frame).unwrap();
            let after = udp(src, dst);
            s.send(from, &after);
            let (broken, payload) = (b"broken", after.payload());
            let seen = |frame: &Frame| {
                let has = |text: &[u8]| frame.bytes.windows(text.len()).any(|part| part == text);
                match (has(broken), has(payload)) {
                    (true, _) => Some(false),
                    (_, true) => Some(true),
                    _ => None,
                }
            };
            let well = s.socket(to).recv("the good packet", SOON, seen).unwrap();
            assert!(well, "{what}: the broken packet went through from {from:?}");
        }
    }
}

/// Writes version and header length, and a checksum that is right for what the header then is.
fn fix(frame: &mut [u8], first: u8) {
    frame[14] = first;
    (frame[24], frame[25]) = (0, 0);
    let end = (14 + usize::from(first & 15) * 4).min(frame.len());
    let sum = tests::checksum::internet(&[&frame[14..end]]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn sec_5_3_7_martians_are_dropped() {
    let mut s = Scene::with_outside(1, "");
    let remote = s.on(O(1), 9);
    // What must not leave, and least of all untranslated.
    for source in ["127.0.0.1", "0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255"] {
        let source: Ipv4Addr = source.parse().unwrap();
        let packet = udp((source, 6000), remote);
        s.send(H(1), &packet);
        let after = udp(s.on(H(1), 6000), remote);
        s.send(H(1), &after);
        s.socket(O(1))
            .recv_only(
                "the good packet",
                SOON,
                |got| got.payload() == after.payload(),
                |got| got.payload() == packet.payload(),
            )
            .unwrap();
    }
}

#[test]
fn sec_5_3_8_an_outside_source_from_inside_does_not_leave() {
    let mut s = Scene::with_outside(2, "");
    let remote = s.on(O(1), 9);
    for source in [s.host(O(2)).ip, s.external(0), Ipv4Addr::new(198, 51, 100, 7)] {
        let packet = udp((source, 6000), remote);
        s.send(H(1), &packet);
        let after = udp(s.on(H(1), 6000), remote);
        s.send(H(1), &after);
        s.socket(O(1))
            .recv_only(
                "the good packet",
                SOON,
                |got| got.payload() == after.payload(),
                |got| got.payload() == packet.payload(),
            )
            .unwrap();
    }
}

#[test]
fn sec_5_3_8_an_inside_source_from_outside_does_not_get_in() {
    let mut s = Scene::new(Lab::builder().inside_hosts(2), "");
    let external = s.mapped(H(1), 6000, O(1), 9);
    // An inside host, the router's own addresses, and the external one.
    for source in [s.host(H(2)).ip, INSIDE_GATEWAY, *external.ip()] {
        let spoofed = udp((source, 9), external);
        s.stop(O(1), H(1), &spoofed);
    }
}

#[test]
fn sec_5_3_4_class_e_is_not_routed_untranslated() {
    let mut s = Scene::with_outside(1, "");
    // Even if somebody has a route to it (RFC 1112 §4 reserves it; Linux forwards it).
    let (nobody, via) = (Ipv4Addr::new(240, 0, 0, 1), s.host(O(1)).ip);
    let route = format!("route add 240.0.0.0/4 via {via}");
    s.router.ip_batch(&[route]).unwrap();
    let packet = udp(s.on(H(1), 6000), (nobody, 9));
    s.send(H(1), &packet);
    let after = udp(s.on(H(1), 6000), s.on(O(1), 9));
    s.send(H(1), &after);
    let own = s.external(0);
    s.socket(O(1))
        .recv_only(
            "the good packet",
            SOON,
            |got| got.payload() == after.payload(),
            |got| got.ip.src != own,
        )
        .unwrap();
}

#[test]
fn sec_5_2_7_1_large_packets_reach_the_router_itself() {
    let lab = Lab::builder().build().unwrap();
    let _nat = lab.start_nat("").unwrap();
    let external = lab.external(0).to_string();
    for host in [lab.o(1), lab.h(1)] {
        // Fragments of echo requests, which are the router's own and must stay together.
        host.run("ping", ["-c", "2", "-i", "0.1", "-W", "5", "-s", "4000", &external])
            .unwrap();
    }
}

#[test]
fn sec_5_2_4_1_options_go_through() {
    let mut s = Scene::with_outside(1, "");
    for options in [vec![1; 4], vec![1; 40], vec![148, 4, 0, 0]] {
        let packet = udp(s.on(H(1), 6000), s.on(O(1), 9)).options(&options);
        let seen = s.pass(H(1), O(1), &packet);
        assert_eq!(seen.ip.options, options);
        let back = udp(s.on(O(1), 9), seen.src()).options(&options);
        assert_eq!(s.pass(O(1), H(1), &back).ip.options, options);
    }
}

#[test]
fn sec_5_3_13_4_source_routes_are_refused() {
    let mut s = Scene::with_outside(1, "");
    let external = s.mapped(H(1), 6000, O(1), 9);
    // Loose and strict, with one more hop to go.
    for kind in [131, 137] {
        let options = [kind, 7, 4, 203, 0, 113, 100, 0];
        let back = udp(s.on(O(1), 9), external).options(&options);
        s.stop(O(1), H(1), &back);
        let out = udp(s.on(H(1), 6000), s.on(O(1), 9)).options(&options);
        s.stop(H(1), O(1), &out);
    }
}

#[test]
fn nothing_leaves_untranslated() {
    let mut s = Scene::new(Lab::builder().inside_hosts(2), "");
    let remote = s.host(O(1)).ip;
    for protocol in [2, 41, 47, 50, 132, 253] {
        let packet = Packet::new(s.host(H(1)).ip, remote, L4::Raw(protocol, vec![1; 40]));
        s.send(H(1), &packet);
    }
    // Segments of no connection, replies to no request, pieces of no datagram.
    let (inside, web) = (s.on(H(1), 6000), s.on(O(1), 80));
    for flags in [flags::ACK, flags::RST, flags::FIN | flags::ACK, 0, 0x3f] {
        s.send(H(1), &Packet::tcp(inside, web, flags, 1, 1));
    }
    s.send(H(1), &Packet::echo_reply(s.host(H(1)).ip, remote, 9, 9, b"unasked"));
    s.send(H(1), &udp(inside, web).with_payload(&[1; 2000]).fragments(1200)[1]);
    let after = udp(s.on(H(1), 6000), s.on(O(1), 9));
    s.send(H(1), &after);
    let own = s.external(0);
    s.socket(O(1))
        .recv_only(
            "the good packet",
            SOON,
            |got| got.payload() == after.payload(),
            |got| got.ip.src != own,
        )
        .unwrap();
}

#[test]
fn a_packet_to_nobody_does_not_loop() {
    let reason = "masquerade has no addresses but the interface's own";
    if !applies_to(&[Nat::Sipnat], reason) {
        return;
    }
    // Two addresses that lead to the router, but are on none of its interfaces.
    let toml = "[nat]\naddresses = [\"203.0.113.1\", \"203.0.113.64/31\"]\n";
    let lab = Lab::builder().outside_hosts(1);
    let mut s = Scene::new(lab, toml);
    let opener = udp(s.on(H(1), 6000), s.on(O(1), 9));
    s.pass(H(1), O(1), &opener);
    for protocol in 0..3 {
        let pool = (Ipv4Addr::new(203, 0, 113, 64), 23_456);
        let packet = match protocol {
            0 => udp(s.on(O(1), 9), pool),
            1 => crate::scene::syn(s.on(O(1), 9), pool),
            _ => Packet::echo(s.host(O(1)).ip, pool.0, 5, 5, b"loop?"),
        };
        s.send(O(1), &packet);
        let back = |got: &Packet| crate::scene::same(&packet, got);
        s.socket(O(1)).assert_silent(QUIET, back).unwrap();
    }
}

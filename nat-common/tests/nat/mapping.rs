//! Endpoint-independent mapping, parity, pairs, pooling, hairpinning, static forwards.

use crate::{open_icmp, open_tcp, open_udp, opener};
use nat_common::config::FLAG_HAIRPIN;
use nat_common::counters::Reason;
use nat_common::flow::{Endpoint, Proto};
use nat_common::memory::{Frame, Setup, addr, end};
use nat_common::session::{ACK, SYN};
use std::collections::HashSet;

/// RFC 4787 REQ-1, RFC 5382 REQ-1, RFC 5508 REQ-1.
#[test]
fn three_remotes_see_one_external_endpoint() {
    let world = Setup::default().world();
    for proto in Proto::ALL {
        let seen: HashSet<Endpoint> = ["198.51.100.1:80", "198.51.100.1:81", "192.0.2.9:80"]
            .into_iter()
            .map(|remote| {
                let view = world.out(&opener(proto, end("10.0.0.5:5004"), end(remote)));
                Endpoint::new(view.source, view.ports.0)
            })
            .collect();
        assert_eq!(seen.len(), 1, "{proto:?}: {seen:?}");
    }
}

/// The reply gets to the inside endpoint, with its payload.
#[test]
fn replies_come_back() {
    let world = Setup::default().world();
    let remote = end("198.51.100.1:80");
    let udp = open_udp(&world, "10.0.0.5:5004", "198.51.100.1:80");
    let view = world.back(&Frame::udp(remote, udp, b"answer"));
    assert_eq!(view.flow(), "198.51.100.1:80 > 10.0.0.5:5004");
    assert_eq!(view.data, b"answer");
    let tcp = open_tcp(&world, "10.0.0.5:5004", "198.51.100.1:80", SYN);
    let view = world.back(&Frame::tcp(remote, tcp, SYN | ACK, b""));
    assert_eq!(view.flow(), "198.51.100.1:80 > 10.0.0.5:5004");
    let id = open_icmp(&world, "10.0.0.5:77", "198.51.100.1");
    let view = world.back(&Frame::echo_reply(remote.addr, id, b"ping"));
    assert_eq!(view.flow(), "198.51.100.1:77 > 10.0.0.5:77");
}

/// RFC 4787 REQ-3, for ports and (RFC 5508 REQ-1) identifiers.
#[test]
fn two_hosts_with_one_port_differ_outside() {
    let world = Setup::default().world();
    for proto in Proto::ALL {
        let remote = end("198.51.100.1:80");
        let [a, b] = ["10.0.0.5:5004", "10.0.0.6:5004"].map(|host| {
            let view = world.out(&opener(proto, end(host), remote));
            Endpoint::new(view.source, view.ports.0)
        });
        assert_ne!(a, b, "{proto:?}");
    }
}

/// RFC 4787 REQ-4, until the host's blocks are half full of each parity.
#[test]
fn udp_keeps_parity() {
    let world = Setup::default().world();
    for port in (2000..2000 + 1800).step_by(3) {
        let external = open_udp(&world, &format!("10.0.0.5:{port}"), "198.51.100.1:80");
        assert_eq!(external.port % 2, port % 2, "{port} became {}", external.port);
    }
}

/// RTP on an even port and RTCP on the next one stay neighbours, whichever comes first.
#[test]
fn pairs_stay_adjacent() {
    let world = Setup::default().world();
    for (n, first_is_odd) in [(0, false), (1, true), (2, false), (3, true)] {
        let even = 4000 + n * 10;
        let host = format!("10.0.0.{}", 5 + n);
        // Other sockets before, so that the host's block is not fresh.
        for other in 0..7 {
            open_udp(&world, &format!("{host}:{}", 3000 + other * 3), "198.51.100.1:80");
        }
        let order = if first_is_odd {
            [even + 1, even]
        } else {
            [even, even + 1]
        };
        let mut externals = order.map(|port| open_udp(&world, &format!("{host}:{port}"), "198.51.100.1:80").port);
        externals.sort_unstable();
        assert_eq!(externals[0] + 1, externals[1], "{order:?}");
        assert_eq!(externals[0] % 2, 0);
    }
}

/// RFC 4787 REQ-2, RFC 6888 REQ-2: 200 hosts over two addresses, each host on one; both addresses are used.
#[test]
fn pooling_is_paired() {
    let externals = ["203.0.113.1", "203.0.113.2"].map(addr);
    let world = Setup {
        externals: externals.into(),
        ..Setup::default()
    }
    .world();
    let mut hosts_on = [0; 2];
    for host in 1..=200 {
        let seen: HashSet<u32> = (0..50)
            .map(|n| {
                let proto = Proto::ALL[n as usize % 3];
                let inside = Endpoint::new(addr("10.0.1.0") + host, 5000 + n);
                world.out(&opener(proto, inside, end("198.51.100.1:80"))).source
            })
            .collect();
        assert_eq!(seen.len(), 1, "host {host}");
        hosts_on[usize::from(seen.contains(&externals[1]))] += 1;
    }
    assert!(hosts_on.iter().all(|&n| n > 60), "{hosts_on:?}");
}

/// RFC 4787 REQ-9, REQ-9a; RFC 5382 REQ-8.
#[test]
fn hairpins_show_external_endpoints() {
    let world = Setup::default().world();
    let a = open_udp(&world, "10.0.0.5:5004", "198.51.100.1:80");
    let b = open_udp(&world, "10.0.0.6:6000", "198.51.100.1:80");
    let view = world.out(&Frame::udp(end("10.0.0.5:5004"), b, b"to b"));
    assert_eq!((view.source, view.ports.0), (a.addr, a.port));
    assert_eq!((view.destination, view.ports.1), (addr("10.0.0.6"), 6000));
    let view = world.out(&Frame::udp(end("10.0.0.6:6000"), a, b"to a"));
    assert_eq!((view.source, view.ports.0), (b.addr, b.port));
    assert_eq!((view.destination, view.ports.1), (addr("10.0.0.5"), 5004));
    let view = world.out(&Frame::udp(end("10.0.0.5:5004"), a, b"to myself"));
    assert_eq!((view.source, view.ports.0), (a.addr, a.port));
    assert_eq!((view.destination, view.ports.1), (addr("10.0.0.5"), 5004));
}

/// A TCP connection between two inside hosts by way of a forward, both directions.
#[test]
fn tcp_hairpins() {
    let world = Setup::default().world();
    let server = end("203.0.113.1:8080");
    world.tables.forward(Proto::Tcp, server, end("10.0.0.9:80"));
    let view = world.out(&Frame::tcp(end("10.0.0.5:5004"), server, SYN, b""));
    assert_eq!((view.destination, view.ports.1), (addr("10.0.0.9"), 80));
    let client = Endpoint::new(view.source, view.ports.0);
    let view = world.out(&Frame::tcp(end("10.0.0.9:80"), client, SYN | ACK, b""));
    assert_eq!(view.flow(), "203.0.113.1:8080 > 10.0.0.5:5004");
    assert_eq!(
        world.out(&Frame::tcp(end("10.0.0.5:5004"), server, ACK, b"x")).data,
        b"x"
    );
}

#[test]
fn hairpinning_can_be_off() {
    let world = Setup {
        flags: 0,
        ..Setup::default()
    }
    .world();
    let b = open_udp(&world, "10.0.0.6:6000", "198.51.100.1:80");
    let frame = Frame::udp(end("10.0.0.5:5004"), b, b"to b");
    assert_eq!(world.out_reason(&frame), Reason::HairpinOff);
    assert_ne!(FLAG_HAIRPIN, 0);
}

/// A static forward is open to anybody, and the inside host's own packets leave from it.
#[test]
fn forwards_are_open_and_lasting() {
    let world = Setup::default().world();
    for (proto, public, private) in [
        (Proto::Udp, "203.0.113.1:53", "10.0.0.9:5353"),
        (Proto::Tcp, "203.0.113.1:80", "10.0.0.9:8080"),
    ] {
        world.tables.forward(proto, end(public), end(private));
        world.tables.wait(1_000_000);
        let view = world.back(&opener(proto, end("198.51.100.1:4000"), end(public)));
        assert_eq!(view.flow(), format!("198.51.100.1:4000 > {private}"));
        let view = world.out(&opener(proto, end(private), end("198.51.100.1:4001")));
        assert_eq!(view.flow(), format!("{public} > 198.51.100.1:4001"));
    }
}

/// A static forward moves along when the outside address changes; the address has the same number.
#[test]
fn forwards_survive_a_change_of_address() {
    let mut world = Setup::default().world();
    world
        .tables
        .forward(Proto::Udp, end("203.0.113.1:53"), end("10.0.0.9:5353"));
    world.tables.change_address(0, addr("203.0.113.77"));
    let view = world.back(&Frame::udp(end("198.51.100.1:4000"), end("203.0.113.77:53"), b"?"));
    assert_eq!(view.flow(), "198.51.100.1:4000 > 10.0.0.9:5353");
}

/// The payload of a SIP packet passes byte for byte (RFC 4787 REQ-10).
#[test]
fn payloads_are_not_looked_into() {
    let world = Setup::default().world();
    let message = b"REGISTER sip:example.org SIP/2.0\r\nContact: <sip:a@10.0.0.5:5060>\r\n\r\n";
    let view = world.out(&Frame::udp(end("10.0.0.5:5060"), end("198.51.100.1:5060"), message));
    assert_eq!(view.data, message);
}

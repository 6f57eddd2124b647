//! ICMP errors: outer and quoted packet, from and to both sides (RFC 5508 §4, RFC 4787 REQ-12, RFC 5382 REQ-9).

use crate::{open_icmp, open_tcp, open_udp};
use nat_common::counters::Reason;
use nat_common::flow::{Endpoint, Proto};
use nat_common::memory::oracle::{View, ones};
use nat_common::memory::{Frame, Setup, World, addr, end};
use nat_common::session::{ACK, RST, SYN};

const HOST: &str = "10.0.0.5:5004";
const REMOTE: &str = "198.51.100.1:80";
const ROUTER: &str = "192.0.2.99";

/// A packet as it is on the outside, and what its sender sent.
fn outside_and_inside(world: &World, proto: Proto, data: &[u8], options: &[u8]) -> (Frame, Frame) {
    let (inside, remote) = (end(HOST), end(REMOTE));
    let make = |source: Endpoint| Frame {
        options: options.to_vec(),
        ..match proto {
            Proto::Udp => Frame::udp(source, remote, data),
            Proto::Tcp => Frame::tcp(source, remote, SYN, data),
            Proto::Icmp => Frame::echo(source, remote.addr, data),
        }
    };
    let external = match proto {
        Proto::Udp => open_udp(world, HOST, REMOTE),
        Proto::Tcp => open_tcp(world, HOST, REMOTE, SYN),
        Proto::Icmp => open_icmp(world, HOST, "198.51.100.1"),
    };
    (make(external), make(inside))
}

/// Errors from a router outside: the quote is what the inside host sent, to the byte, as far as it is quoted.
#[test]
fn inbound_errors() {
    for proto in Proto::ALL {
        for options in [&[][..], &[1, 1, 1, 1], &[7, 7, 4, 0, 0, 0, 0, 0], &[1; 40]] {
            // Eight bytes, more than a TCP header, and as much as RFC 1812 §4.3.2.3 allows.
            for quoted in [8, 28, 548 - options.len()] {
                let world = Setup::default().world();
                let (outside, inside) = outside_and_inside(&world, proto, &[0x5a; 600], options);
                let cut = |frame: &Frame| frame.packet()[..20 + options.len() + quoted].to_vec();
                let error = Frame::error(addr(ROUTER), outside.source, (11, 0), &cut(&outside));
                let view = world.back(&error);
                assert_eq!((view.source, view.destination), (addr(ROUTER), addr("10.0.0.5")));
                assert_eq!(view.data[8..], cut(&inside), "{proto:?} {options:?} {quoted}");
            }
        }
    }
}

/// Errors from the inside host: the quote is what the remote host sent.
#[test]
fn outbound_errors() {
    for quoted in [8, 28, 548] {
        let world = Setup::default().world();
        let external = open_udp(&world, HOST, REMOTE);
        let [outside, inside] = [external, end(HOST)].map(|to| Frame::udp(end(REMOTE), to, &[7; 600]));
        let cut = |frame: &Frame| frame.packet()[..20 + quoted].to_vec();
        let error = Frame::error(addr("10.0.0.5"), addr("198.51.100.1"), (3, 3), &cut(&inside));
        let view = world.out(&error);
        assert_eq!((view.source, view.destination), (external.addr, addr("198.51.100.1")));
        assert_eq!(view.data[8..], cut(&outside), "{quoted}");
    }
}

/// An error from a router between the NAT and the inside host leaves with the external address as well
/// (RFC 5508 REQ-5).
#[test]
fn outbound_errors_of_inner_routers() {
    let world = Setup::default().world();
    let external = open_udp(&world, HOST, REMOTE);
    let inside = Frame::udp(end(REMOTE), end(HOST), b"data");
    let error = Frame::error(addr("10.0.0.254"), addr("198.51.100.1"), (11, 0), &inside.packet());
    assert_eq!(world.out(&error).source, external.addr);
}

/// B's error about a packet of A that was hairpinned: A sees its own packet to B's external endpoint.
#[test]
fn hairpinned_errors() {
    let world = Setup::default().world();
    let a = open_udp(&world, "10.0.0.5:5004", REMOTE);
    let b = open_udp(&world, "10.0.0.6:6000", REMOTE);
    let sent = Frame::udp(end("10.0.0.5:5004"), b, b"data");
    let received = Frame::udp(a, end("10.0.0.6:6000"), b"data");
    let error = Frame::error(addr("10.0.0.6"), a.addr, (3, 3), &received.packet());
    let view = world.out(&error);
    assert_eq!((view.source, view.destination), (b.addr, addr("10.0.0.5")));
    assert_eq!(view.data[8..], sent.packet());
}

/// RFC 5508 REQ-6, RFC 4787 REQ-12: an error neither ends nor renews a binding.
#[test]
fn errors_leave_bindings_alone() {
    let world = Setup::default().world();
    let (outside, _) = outside_and_inside(&world, Proto::Udp, b"data", &[]);
    let error = Frame::error(addr(ROUTER), outside.source, (3, 3), &outside.packet());
    world.tables.wait(200);
    world.back(&error);
    let external = Endpoint::new(outside.source, world.external(Proto::Udp, end(HOST)).unwrap().port);
    let data = Frame::udp(end(REMOTE), external, b"x");
    assert_eq!(world.back_reason(&data), Reason::Inbound);
    world.tables.wait(100);
    assert_eq!(world.back_reason(&data), Reason::NoBinding);
    // Hard errors do not end a TCP connection.
    let (outside, _) = outside_and_inside(&world, Proto::Tcp, b"", &[]);
    let external = world.external(Proto::Tcp, end(HOST)).unwrap();
    world.back(&Frame::tcp(end(REMOTE), external, SYN | ACK, b""));
    world.back(&Frame::error(addr(ROUTER), outside.source, (3, 2), &outside.packet()));
    assert_eq!(
        world.back_reason(&Frame::tcp(end(REMOTE), external, ACK, b"x")),
        Reason::Inbound
    );
}

/// RFC 5508 REQ-3: what has a bad checksum, in the error or in the quoted IP header, is dropped. A quoted transport
/// checksum is nobody's business (REQ-3b).
#[test]
fn bad_checksums() {
    let world = Setup::default().world();
    let (outside, _) = outside_and_inside(&world, Proto::Udp, b"data", &[]);
    let good = Frame::error(addr(ROUTER), outside.source, (11, 0), &outside.packet());
    for byte in 0..good.payload.len() {
        let mut bad = good.clone();
        bad.payload[byte] ^= 0x10;
        let reason = world.back_reason(&bad);
        assert!(
            matches!(reason, Reason::IcmpChecksum | Reason::ToRouter),
            "byte {byte}: {reason:?}"
        );
    }
    let mut quote = outside.packet();
    quote[10] ^= 1;
    let bad = Frame::error(addr(ROUTER), outside.source, (11, 0), &quote);
    assert_eq!(world.back_reason(&bad), Reason::IcmpChecksum);
    let mut quote = outside.packet();
    quote[27] ^= 1;
    let fine = Frame::error(addr(ROUTER), outside.source, (11, 0), &quote);
    assert_eq!(world.back_reason(&fine), Reason::IcmpError);
}

/// Errors about flows that there are not.
#[test]
fn unmatched_errors() {
    let world = Setup::default().world();
    let external = open_tcp(&world, HOST, REMOTE, SYN);
    let about = |from: Endpoint, to: &str| {
        let quote = Frame::tcp(from, end(to), SYN, b"").packet();
        world.back_reason(&Frame::error(addr(ROUTER), external.addr, (3, 1), &quote))
    };
    assert_eq!(about(external, REMOTE), Reason::IcmpError);
    assert_eq!(
        about(external, "198.51.100.1:81"),
        Reason::IcmpUnmatched,
        "no session with this port"
    );
    assert_eq!(
        about(Endpoint::new(external.addr, 1), REMOTE),
        Reason::Unbound,
        "the router's own"
    );
    let foreign = Endpoint::new(addr("203.0.113.9"), external.port);
    assert_eq!(
        about(foreign, REMOTE),
        Reason::IcmpUnmatched,
        "not to whom the quoted packet is from"
    );
    let outbound = |quote: Frame| {
        world.out_reason(&Frame::error(
            addr("10.0.0.5"),
            addr("198.51.100.1"),
            (3, 3),
            &quote.packet(),
        ))
    };
    assert_eq!(
        outbound(Frame::udp(end(REMOTE), end(HOST), b"x")),
        Reason::IcmpUnmatched,
        "no UDP binding"
    );
    assert_eq!(
        outbound(Frame::tcp(end(REMOTE), end(HOST), ACK, b"x")),
        Reason::IcmpError
    );
    let stranger = Frame::tcp(end("192.0.2.7:80"), end(HOST), RST, b"");
    assert_eq!(outbound(stranger), Reason::IcmpUnmatched, "no session with it");
}

/// An error goes to whom the quoted packet is from: not, with an external source, to anybody an inside host likes, and
/// not with somebody else's inside address in the quote.
#[test]
fn outbound_errors_go_back_to_the_sender() {
    let world = Setup::default().world();
    open_udp(&world, HOST, REMOTE);
    for source in ["192.0.2.7:80", "10.0.0.9:80"] {
        let quote = Frame::udp(end(source), end(HOST), b"data").packet();
        let error = Frame::error(addr("10.0.0.5"), addr("198.51.100.1"), (3, 3), &quote);
        assert_eq!(world.out_reason(&error), Reason::IcmpUnmatched, "{source}");
    }
}

/// Identifiers of two hosts that use the same one are told apart (RFC 5508 REQ-1).
#[test]
fn echo_identifiers() {
    let world = Setup::default().world();
    let [a, b] = ["10.0.0.5:1", "10.0.0.6:1"].map(|host| open_icmp(&world, host, "198.51.100.1"));
    assert_ne!(a, b);
    for (external, host) in [(a, "10.0.0.5:1"), (b, "10.0.0.6:1")] {
        let view = world.back(&Frame::echo_reply(addr("198.51.100.1"), external, b"ping"));
        assert_eq!(view.flow(), format!("198.51.100.1:1 > {host}"));
        assert_eq!(view.data, b"ping");
    }
    // Timestamps are queries too.
    let stamp = Frame::icmp(addr("10.0.0.5"), addr("198.51.100.1"), (13, 0), [0, 1, 0, 0], &[0; 12]);
    assert_eq!(world.out_reason(&stamp), Reason::Outbound);
    let redirect = Frame::icmp(addr("10.0.0.5"), addr("198.51.100.1"), (5, 1), [0; 4], &[0; 28]);
    assert_eq!(world.out_reason(&redirect), Reason::IcmpType);
}

/// The checksum of a quoted echo request is right after translation, as the sender sees its own packet.
#[test]
fn quoted_echo_requests_have_right_checksums() {
    let world = Setup::default().world();
    let (outside, _) = outside_and_inside(&world, Proto::Icmp, b"ping", &[]);
    let view = world.back(&Frame::error(addr(ROUTER), outside.source, (11, 0), &outside.packet()));
    let quote = View::of(&view.quote()).unwrap();
    assert_eq!((quote.ports.0, quote.sum), (5004, Some(true)));
    assert_eq!(ones(&[&view.data[28..]]), 0xffff);
}

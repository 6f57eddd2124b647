//! Who may send to a binding (RFC 4787 REQ-8, RFC 5382 REQ-3), for each protocol.

use crate::{open_icmp, open_tcp, open_udp, opener};
use nat_common::config::Filtering::{self, AddressAndPortDependent, AddressDependent, EndpointIndependent};
use nat_common::counters::Reason;
use nat_common::flow::{Endpoint, Proto};
use nat_common::memory::{Frame, Setup, World, addr, end};
use nat_common::session::{ACK, FIN, RST, SYN};

fn world(filtering: Filtering) -> World {
    Setup {
        filtering: [filtering; 3],
        ..Setup::default()
    }
    .world()
}

/// Filter, then the reasons for: the same endpoint, another port of it, another address.
const TABLE: [(Filtering, [Reason; 3]); 3] = [
    (EndpointIndependent, [Reason::Inbound; 3]),
    (AddressDependent, [Reason::Inbound, Reason::Inbound, Reason::Filtered]),
    (
        AddressAndPortDependent,
        [Reason::Inbound, Reason::Filtered, Reason::Filtered],
    ),
];
const SENDERS: [&str; 3] = ["198.51.100.1:80", "198.51.100.1:81", "192.0.2.9:80"];

#[test]
fn udp() {
    for (filtering, expected) in TABLE {
        let world = world(filtering);
        let external = open_udp(&world, "10.0.0.5:5004", SENDERS[0]);
        let seen = SENDERS.map(|sender| world.back_reason(&Frame::udp(end(sender), external, b"x")));
        assert_eq!(seen, expected, "{filtering:?}");
    }
}

#[test]
fn tcp_connections_from_outside() {
    for (filtering, expected) in TABLE {
        let world = world(filtering);
        let external = open_tcp(&world, "10.0.0.5:5004", SENDERS[0], SYN);
        let seen = SENDERS.map(|sender| world.back_reason(&Frame::tcp(end(sender), external, SYN, b"")));
        assert_eq!(seen, expected, "{filtering:?}");
    }
}

#[test]
fn icmp_replies() {
    for filtering in [EndpointIndependent, AddressDependent, AddressAndPortDependent] {
        let world = world(filtering);
        let external = open_icmp(&world, "10.0.0.5:9", "198.51.100.1");
        let from = |sender| world.back_reason(&Frame::echo_reply(addr(sender), external, b"ping"));
        assert_eq!(from("198.51.100.1"), Reason::Inbound, "{filtering:?}");
        let stranger = if filtering == EndpointIndependent {
            Reason::Inbound
        } else {
            Reason::Filtered
        };
        assert_eq!(from("192.0.2.9"), stranger, "{filtering:?}");
    }
}

/// Sending to more remotes opens the filter for them, and the mapping stays.
#[test]
fn permissions_add_up() {
    for filtering in [AddressDependent, AddressAndPortDependent] {
        for proto in Proto::ALL {
            let world = world(filtering);
            let inside = end("10.0.0.5:5004");
            let mut external = Endpoint::default();
            for sender in SENDERS {
                let view = world.out(&opener(proto, inside, end(sender)));
                external = Endpoint::new(view.source, view.ports.0);
            }
            for sender in SENDERS {
                let frame = match proto {
                    Proto::Udp => Frame::udp(end(sender), external, b"x"),
                    Proto::Tcp => Frame::tcp(end(sender), external, SYN | ACK, b""),
                    Proto::Icmp => Frame::echo_reply(end(sender).addr, external, b"ping"),
                };
                assert_eq!(
                    world.back_reason(&frame),
                    Reason::Inbound,
                    "{filtering:?} {proto:?} {sender}"
                );
            }
        }
    }
}

/// The filter is the binding's: a remote that one host has sent to may not send to another host.
#[test]
fn permissions_are_not_shared() {
    let world = world(AddressDependent);
    open_udp(&world, "10.0.0.5:5004", "198.51.100.1:80");
    let other = open_udp(&world, "10.0.0.6:5004", "192.0.2.9:80");
    let frame = Frame::udp(end("198.51.100.1:80"), other, b"x");
    assert_eq!(world.back_reason(&frame), Reason::Filtered);
}

/// A hairpinned packet is filtered like any other from outside.
#[test]
fn hairpins_are_filtered() {
    let world = world(AddressDependent);
    let b = open_udp(&world, "10.0.0.6:6000", "198.51.100.1:80");
    let to_b = Frame::udp(end("10.0.0.5:5004"), b, b"x");
    assert_eq!(world.out_reason(&to_b), Reason::Filtered);
    let a = world.external(Proto::Udp, end("10.0.0.5:5004")).unwrap();
    world.out(&Frame::udp(end("10.0.0.6:6000"), a, b"x"));
    assert_eq!(world.out_reason(&to_b), Reason::Hairpin);
}

/// From outside, only a SYN begins a TCP session, and only within the filter.
#[test]
fn tcp_out_of_the_blue() {
    let world = world(EndpointIndependent);
    let external = open_tcp(&world, "10.0.0.5:5004", SENDERS[0], SYN);
    for flags in [ACK, SYN | ACK, RST, FIN | ACK, 0, SYN | FIN, SYN | RST] {
        let frame = Frame::tcp(end("192.0.2.9:80"), external, flags, b"");
        assert_eq!(world.back_reason(&frame), Reason::NoSession, "{flags:#x}");
    }
}

/// RFC 5382 REQ-2: both sides send a SYN.
#[test]
fn simultaneous_open() {
    let world = Setup::default().world();
    let external = open_tcp(&world, "10.0.0.5:5004", SENDERS[0], SYN);
    for flags in [SYN, SYN | ACK, ACK] {
        let frame = Frame::tcp(end(SENDERS[0]), external, flags, b"");
        assert_eq!(world.back_reason(&frame), Reason::Inbound, "{flags:#x}");
    }
}

/// RFC 5382 REQ-4: an unsolicited SYN to the pool is dropped in silence; other protocols go to the router.
#[test]
fn unbound_ports() {
    let world = Setup::default().world();
    let port = end("203.0.113.1:40000");
    let from = end("198.51.100.1:80");
    assert_eq!(world.back_reason(&Frame::tcp(from, port, SYN, b"")), Reason::NoBinding);
    assert_eq!(world.back_reason(&Frame::udp(from, port, b"x")), Reason::Unbound);
    assert_eq!(
        world.back_reason(&Frame::echo_reply(from.addr, port, b"x")),
        Reason::Unbound
    );
    // A port outside of the pool is the router's own.
    let own = end("203.0.113.1:22");
    assert_eq!(world.back_reason(&Frame::tcp(from, own, SYN, b"")), Reason::Unbound);
    // A ping to the router itself.
    let ping = Frame::echo(from, port.addr, b"ping");
    assert_eq!(world.back_reason(&ping), Reason::ToRouter);
}

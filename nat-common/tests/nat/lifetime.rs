//! How long bindings live, what renews them, and what ends them.

use crate::{open_icmp, open_tcp, open_udp};
use nat_common::config::{FLAG_HAIRPIN, FLAG_REFRESH_IN};
use nat_common::counters::Reason;
use nat_common::flow::{Endpoint, Proto};
use nat_common::memory::{Frame, Setup, TICKS, World, addr, end};
use nat_common::session::{ACK, FIN, RST, SYN};

const HOST: &str = "10.0.0.5:5004";
const REMOTE: &str = "198.51.100.1:80";

fn udp_in(world: &World, external: Endpoint) -> Reason {
    world.back_reason(&Frame::udp(end(REMOTE), external, b"x"))
}

fn tcp_in(world: &World, external: Endpoint, flags: u8) -> Reason {
    world.back_reason(&Frame::tcp(end(REMOTE), external, flags, b""))
}

fn tcp_out(world: &World, flags: u8) -> Reason {
    world.out_reason(&Frame::tcp(end(HOST), end(REMOTE), flags, b""))
}

/// An expired binding is absent at once, to the tick, with nobody sweeping.
#[test]
fn expiry_is_exact() {
    let world = Setup::default().world();
    let external = open_udp(&world, HOST, REMOTE);
    let born = world.tables.time();
    world.tables.set_time(born + 300 * TICKS - 1);
    assert_eq!(udp_in(&world, external), Reason::Inbound);
    world.tables.set_time(born + 300 * TICKS);
    assert_eq!(udp_in(&world, external), Reason::NoBinding);
    assert_eq!(world.external(Proto::Udp, end(HOST)), None);
    let id = open_icmp(&world, HOST, "198.51.100.1");
    let born = world.tables.time();
    let reply = Frame::echo_reply(addr("198.51.100.1"), id, b"ping");
    world.tables.set_time(born + 60 * TICKS - 1);
    assert_eq!(world.back_reason(&reply), Reason::Inbound);
    world.tables.set_time(born + 60 * TICKS);
    assert_eq!(world.back_reason(&reply), Reason::NoBinding);
}

/// The port of an expired binding goes to nobody else while it rests (RFC 6888 REQ-8).
#[test]
fn an_expired_binding_gets_a_new_port() {
    let world = Setup::default().world();
    let old = open_udp(&world, HOST, REMOTE);
    world.tables.wait(301);
    let new = open_udp(&world, HOST, REMOTE);
    assert_ne!(old, new);
    assert_eq!(udp_in(&world, old), Reason::NoBinding);
    assert_eq!(udp_in(&world, new), Reason::Inbound);
}

/// RFC 4787 REQ-6: packets from inside renew; those from outside only if configured.
#[test]
fn refresh_direction() {
    for (flags, expected) in [(FLAG_HAIRPIN, Reason::NoBinding), (FLAG_REFRESH_IN, Reason::Inbound)] {
        let world = Setup {
            flags,
            ..Setup::default()
        }
        .world();
        let external = open_udp(&world, HOST, REMOTE);
        world.tables.wait(200);
        assert_eq!(udp_in(&world, external), Reason::Inbound);
        world.tables.wait(200);
        assert_eq!(udp_in(&world, external), expected);
    }
    let world = Setup::default().world();
    let external = open_udp(&world, HOST, REMOTE);
    for _ in 0..10 {
        world.tables.wait(299);
        assert_eq!(open_udp(&world, HOST, REMOTE), external);
    }
}

/// RFC 5382 REQ-5: established connections live 7440 s without a packet, opening ones 240 s.
#[test]
fn tcp_lifetimes() {
    let world = Setup::default().world();
    let external = open_tcp(&world, HOST, REMOTE, SYN);
    world.tables.wait(239);
    assert_eq!(tcp_in(&world, external, SYN | ACK), Reason::Inbound);
    assert_eq!(tcp_out(&world, ACK), Reason::Outbound);
    world.tables.wait(7439);
    assert_eq!(tcp_in(&world, external, ACK), Reason::Inbound);
    world.tables.wait(7440);
    assert_eq!(tcp_in(&world, external, ACK), Reason::NoBinding);

    let world = Setup::default().world();
    let external = open_tcp(&world, HOST, REMOTE, SYN);
    world.tables.wait(240);
    assert_eq!(tcp_in(&world, external, SYN | ACK), Reason::NoBinding);
}

/// After both FINs, or a reset, the transitory lifetime holds (RFC 7857 §2.2: 4 min after a RST).
#[test]
fn closed_connections_go_sooner() {
    for ending in [[(true, FIN | ACK), (false, FIN | ACK)], [(false, ACK), (false, RST)]] {
        let world = Setup::default().world();
        let external = open_tcp(&world, HOST, REMOTE, SYN);
        assert_eq!(tcp_in(&world, external, SYN | ACK), Reason::Inbound);
        for (from_inside, flags) in ending {
            if from_inside {
                assert_eq!(tcp_out(&world, flags), Reason::Outbound);
            } else {
                assert_eq!(tcp_in(&world, external, flags), Reason::Inbound);
            }
        }
        world.tables.wait(239);
        assert_eq!(tcp_in(&world, external, ACK), Reason::Inbound, "within four minutes");
        let world = Setup::default().world();
        let external = open_tcp(&world, HOST, REMOTE, SYN);
        tcp_in(&world, external, SYN | ACK);
        for (from_inside, flags) in ending {
            if from_inside {
                tcp_out(&world, flags);
            } else {
                tcp_in(&world, external, flags);
            }
        }
        world.tables.wait(240);
        assert_eq!(tcp_in(&world, external, ACK), Reason::NoBinding, "after them");
    }
}

/// One closed connection does not end the binding of another one on the same endpoint.
#[test]
fn the_longest_session_holds_the_binding() {
    let world = Setup::default().world();
    let external = open_tcp(&world, HOST, REMOTE, SYN);
    tcp_in(&world, external, SYN | ACK);
    let other = end("192.0.2.9:443");
    world.out(&Frame::tcp(end(HOST), other, SYN, b""));
    world.back(&Frame::tcp(other, external, SYN | ACK, b""));
    tcp_in(&world, external, RST);
    world.tables.wait(7000);
    let view = world.back(&Frame::tcp(other, external, ACK, b"still here"));
    assert_eq!(view.data, b"still here");
}

/// A change of the outside address ends its dynamic bindings at once; new ones use the new address.
#[test]
fn a_change_of_address_ends_bindings() {
    let mut world = Setup::default().world();
    let old = open_udp(&world, HOST, REMOTE);
    world.tables.change_address(0, addr("203.0.113.77"));
    assert_eq!(world.external(Proto::Udp, end(HOST)), None);
    let stale = Endpoint::new(addr("203.0.113.77"), old.port);
    assert_eq!(udp_in(&world, stale), Reason::NoBinding);
    let new = open_udp(&world, HOST, REMOTE);
    assert_eq!(new.addr, addr("203.0.113.77"));
    assert_eq!(udp_in(&world, new), Reason::Inbound);
}

/// Without an address in use nothing leaves; with it the NAT goes on.
#[test]
fn no_outside_address() {
    let mut world = Setup::default().world();
    let external = open_udp(&world, HOST, REMOTE);
    world.tables.set_active(0, false);
    let frame = Frame::udp(end(HOST), end(REMOTE), b"x");
    let (verdict, _) = world.inside(&frame);
    assert!(
        !matches!(verdict, nat_common::verdict::Verdict::Forward(..)),
        "{verdict:?}"
    );
    assert_eq!(udp_in(&world, external), Reason::NoBinding);
    world.tables.set_active(0, true);
    assert_eq!(world.out_reason(&frame), Reason::Outbound);
}

/// The clock wraps around its 32 bits.
#[test]
fn the_clock_may_wrap() {
    let world = Setup::default().world();
    world.tables.set_time(u32::MAX - 100 * TICKS);
    let external = open_udp(&world, HOST, REMOTE);
    world.tables.wait(200);
    assert_eq!(udp_in(&world, external), Reason::Inbound);
    world.tables.wait(101);
    assert_eq!(udp_in(&world, external), Reason::NoBinding);
}

/// A closed session ends by itself, also on a binding that another one keeps (RFC 7857 §2).
#[test]
fn a_closed_session_ends_alone() {
    let world = Setup::default().world();
    let external = open_tcp(&world, HOST, REMOTE, SYN);
    tcp_in(&world, external, SYN | ACK);
    let other = end("192.0.2.9:443");
    world.out(&Frame::tcp(end(HOST), other, SYN, b""));
    world.back(&Frame::tcp(other, external, SYN | ACK, b""));
    tcp_in(&world, external, RST);
    world.tables.wait(240);
    assert_eq!(tcp_in(&world, external, ACK), Reason::NoSession);
    assert_eq!(
        world.back_reason(&Frame::tcp(other, external, ACK, b"x")),
        Reason::Inbound
    );
}

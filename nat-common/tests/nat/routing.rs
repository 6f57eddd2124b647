//! Where packets go: ways out, next hops, VLANs, TTL, MTU, and what is not the NAT's.

use crate::{open_udp, opener};
use nat_common::counters::Reason;
use nat_common::flow::{Proto, Side};
use nat_common::maps::{Interface, ROLE_INSIDE, ROLE_OUTSIDE};
use nat_common::memory::oracle::View;
use nat_common::memory::{Frame, Path, Prefix, Setup, World, addr, end, interface, mac_of};
use nat_common::tables::RouteKind;
use nat_common::verdict::{Argument, Verdict};

const HOST: &str = "10.0.0.5:5004";
const REMOTE: &str = "198.51.100.1:80";

fn udp() -> Frame {
    Frame::udp(end(HOST), end(REMOTE), b"x")
}

/// A world whose routing table has these lines too.
fn with_paths(paths: &[Path]) -> World {
    let mut setup = Setup::default();
    setup.paths.extend(paths);
    setup.world()
}

fn path(prefix: &str, kind: RouteKind) -> Path {
    Path {
        kind,
        ..Path::new(prefix, 20, "0.0.0.0")
    }
}

#[test]
fn next_hops_and_interfaces() {
    let world = Setup::default().world();
    let (verdict, bytes) = world.inside(udp());
    assert_eq!(verdict, Verdict::Forward(Reason::Outbound, 1));
    let view = View::of(&bytes.0).unwrap();
    assert_eq!(view.mac, mac_of(addr("203.0.113.254")), "by the default gateway");
    assert_eq!(view.ttl, 63);
    let view = world.out(&Frame::udp(end(HOST), end("203.0.113.9:80"), b"x"));
    assert_eq!(view.mac, mac_of(addr("203.0.113.9")), "on the link");
    let external = open_udp(&world, HOST, REMOTE);
    let (verdict, bytes) = world.outside(Frame::udp(end(REMOTE), external, b"x"));
    assert_eq!(verdict, Verdict::Forward(Reason::Inbound, 0));
    assert_eq!(View::of(&bytes.0).unwrap().mac, mac_of(addr("10.0.0.5")));
}

/// Several interfaces on both sides: a binding is used by all of them.
#[test]
fn several_interfaces() {
    let mut setup = Setup::default();
    setup.interfaces.push(interface(11, "10.9.0.1", ROLE_INSIDE));
    setup.interfaces.push(interface(21, "192.0.2.1", ROLE_OUTSIDE));
    setup.paths.push(Path::new("10.9.0.0/16", 11, "0.0.0.0"));
    setup.paths.push(Path::new("192.0.2.0/24", 21, "0.0.0.0"));
    let world = setup.world();
    let (verdict, _) = world.on(Side::Inside, 11, Frame::udp(end("10.9.0.5:1000"), end(REMOTE), b"x"));
    assert_eq!(verdict, Verdict::Forward(Reason::Outbound, 1));
    let (verdict, _) = world.on(
        Side::Inside,
        11,
        Frame::udp(end("10.9.0.5:1000"), end("192.0.2.9:80"), b"x"),
    );
    assert_eq!(verdict, Verdict::Forward(Reason::Outbound, 3));
    let external = world.external(Proto::Udp, end("10.9.0.5:1000")).unwrap();
    let (verdict, _) = world.on(Side::Outside, 21, Frame::udp(end("192.0.2.9:80"), external, b"x"));
    assert_eq!(verdict, Verdict::Forward(Reason::Inbound, 2));
}

/// Tags are taken off, put on and changed as the interfaces have them.
#[test]
fn vlans() {
    let tagged = |ifindex, device, vlan, address, role| Interface {
        device,
        vlan,
        ..interface(ifindex, address, role)
    };
    let mut setup = Setup::default();
    setup.interfaces.push(tagged(12, 10, 7, "10.7.0.1", ROLE_INSIDE));
    setup.interfaces.push(tagged(22, 20, 9, "192.0.2.1", ROLE_OUTSIDE));
    setup.paths.push(Path::new("10.7.0.0/16", 12, "0.0.0.0"));
    setup.paths.push(Path::new("192.0.2.0/24", 22, "0.0.0.0"));
    let world = setup.world();
    for (inside, tag) in [("10.0.0.5:1000", None), ("10.7.0.5:1000", Some(7u16))] {
        for (remote, out) in [(REMOTE, None), ("192.0.2.9:80", Some(9))] {
            // Priority bits of the tag do not matter.
            let tci = tag.map(|vlan| vlan | 0x6000);
            let frame = Frame {
                vlan: tci,
                ..Frame::udp(end(inside), end(remote), b"x")
            };
            let view = world.out(&frame);
            assert_eq!(view.vlan, out, "{inside} {remote}");
            let external = nat_common::flow::Endpoint::new(view.source, view.ports.0);
            let frame = Frame {
                vlan: out,
                ..Frame::udp(end(remote), external, b"y")
            };
            let view = world.back(&frame);
            assert_eq!((view.vlan, view.data.as_slice()), (tag, b"y".as_slice()));
        }
    }
}

/// RFC 6888 REQ-6: such destinations are left to the kernel in both directions.
#[test]
fn bypass() {
    let world = Setup {
        bypass: vec![Prefix::new("198.51.100.0/24")],
        ..Setup::default()
    }
    .world();
    assert_eq!(world.out_reason(&udp()), Reason::Bypass);
    let straight = Frame::udp(end(REMOTE), end(HOST), b"x");
    assert_eq!(world.back_reason(&straight), Reason::Bypass);
    let other = Frame::udp(end("192.0.2.9:80"), end(HOST), b"x");
    assert_eq!(world.back_reason(&other), Reason::OutsideToInside);
}

#[test]
fn other_peoples_packets_pass() {
    let world = with_paths(&[Path::new("172.20.0.0/16", 30, "0.0.0.0")]);
    let to = |text| world.out_reason(&Frame::udp(end(HOST), end(text), b"x"));
    assert_eq!(to("10.0.0.1:53"), Reason::ToRouter);
    assert_eq!(to("10.0.0.9:53"), Reason::Elsewhere);
    assert_eq!(to("172.20.0.1:53"), Reason::Elsewhere);
    assert_eq!(to("224.0.0.251:5353"), Reason::Multicast);
    assert_eq!(to("255.255.255.255:67"), Reason::Multicast);
    // The router's own service on its external address, asked from inside.
    assert_eq!(to("203.0.113.1:53"), Reason::Unbound);
    let ping = Frame::echo(end(HOST), addr("203.0.113.1"), b"ping");
    assert_eq!(world.out_reason(&ping), Reason::ToRouter);
}

/// 240.0.0.0/4 is no multicast, and Linux routes it: passed to the kernel it would leave untranslated.
#[test]
fn class_e_does_not_leak() {
    let world = Setup::default().world();
    for destination in ["240.1.2.3:80", "254.255.255.255:80"] {
        let (verdict, _) = world.inside(Frame::udp(end(HOST), end(destination), b"x"));
        assert!(!matches!(verdict, Verdict::Pass(_)), "{destination}: {verdict:?}");
    }
}

/// A sender outside cannot pretend to be an inside host, or the NAT itself: nobody checks the reverse path of what XDP
/// forwards but the NAT (RFC 1812 §5.3.8, RFC 2827).
#[test]
fn spoofed_insiders_stay_outside() {
    let world = Setup::default().world();
    let external = open_udp(&world, HOST, REMOTE);
    for source in ["10.0.0.9:80", "203.0.113.1:80", "10.0.0.1:80"] {
        let (verdict, _) = world.outside(Frame::udp(end(source), external, b"x"));
        assert!(!matches!(verdict, Verdict::Forward(..)), "from {source}: {verdict:?}");
    }
}

#[test]
fn ttl_expires_here() {
    let world = Setup::default().world();
    let external = open_udp(&world, HOST, REMOTE);
    for ttl in [0, 1] {
        assert_eq!(world.out_reason(&Frame { ttl, ..udp() }), Reason::TtlExpired);
        let back = Frame {
            ttl,
            ..Frame::udp(end(REMOTE), external, b"x")
        };
        assert_eq!(world.back_reason(&back), Reason::TtlExpired);
    }
    assert_eq!(world.out(&Frame { ttl: 2, ..udp() }).ttl, 1);
}

/// RFC 1191: the next hop's MTU is handed to whoever writes the error. An interface's own MTU counts too.
#[test]
fn mtu_of_the_way_out() {
    let narrow = Path {
        mtu: 1280,
        ..Path::new("198.51.100.0/24", 20, "203.0.113.254")
    };
    let world = with_paths(&[narrow]);
    let sized = |len: usize| Frame {
        fragment: 0x4000,
        ..Frame::udp(end(HOST), end(REMOTE), &vec![0; len - 28])
    };
    assert_eq!(world.out_reason(&sized(1280)), Reason::Outbound);
    let (verdict, _) = world.inside(sized(1281));
    assert_eq!(verdict, Verdict::Punt(Reason::TooBig, Argument { value: 1280, out: 0 }));
    let wide = Path {
        mtu: 9000,
        ..Path::new("198.51.100.0/24", 20, "203.0.113.254")
    };
    let world = with_paths(&[wide]);
    let (verdict, _) = world.inside(sized(1501));
    assert_eq!(verdict, Verdict::Punt(Reason::TooBig, Argument { value: 1500, out: 0 }));
}

#[test]
fn no_way_out() {
    let world = with_paths(&[
        path("198.51.100.1/32", RouteKind::None),
        path("198.51.100.2/32", RouteKind::Refused),
        path("198.51.100.3/32", RouteKind::ForwardingOff),
    ]);
    for remote in ["198.51.100.1:80", "198.51.100.2:80", "198.51.100.3:80"] {
        assert_eq!(
            world.out_reason(&Frame::udp(end(HOST), end(remote), b"x")),
            Reason::Unreachable
        );
    }
    assert_eq!(
        world.external(Proto::Udp, end(HOST)),
        None,
        "nothing is bound for nothing"
    );
}

/// The packet to a cold neighbour goes to the slow path with what that needs to know; once the neighbour answers, the
/// next one is sent at once.
#[test]
fn cold_neighbours() {
    let mut world = with_paths(&[path("198.51.100.0/24", RouteKind::NoNeighbour)]);
    let (verdict, _) = world.inside(udp());
    let argument = Argument {
        value: addr("198.51.100.1"),
        out: 20,
    };
    assert_eq!(verdict, Verdict::Punt(Reason::NoNeighbour, argument));
    world.tables.paths.last_mut().unwrap().kind = RouteKind::Known;
    assert_eq!(world.out_reason(&udp()), Reason::Outbound);
}

/// Cached routes are believed for a while, and until somebody says that they changed.
#[test]
fn routes_are_cached_and_invalidated() {
    let mut world = Setup::default().world();
    world.out(&udp());
    world.tables.paths[2].next_hop = addr("203.0.113.200");
    assert_eq!(world.out(&udp()).mac, mac_of(addr("203.0.113.254")));
    world.tables.routes_changed();
    assert_eq!(world.out(&udp()).mac, mac_of(addr("203.0.113.200")));
    world.tables.paths[2].next_hop = addr("203.0.113.201");
    world.tables.wait(2);
    assert_eq!(world.out(&udp()).mac, mac_of(addr("203.0.113.201")));
}

/// Only inside hosts get bindings: by configuration if it says, else by the routing table.
#[test]
fn foreign_sources() {
    let world = Setup::default().world();
    for source in ["192.0.2.77:1000", "203.0.113.1:1000", "10.0.0.1:1000"] {
        for proto in Proto::ALL {
            let frame = opener(proto, end(source), end(REMOTE));
            assert_eq!(world.out_reason(&frame), Reason::ForeignSource, "{source} {proto:?}");
        }
    }
    let world = Setup {
        inside: vec![Prefix::new("10.0.0.0/24")],
        ..Setup::default()
    }
    .world();
    assert_eq!(world.out_reason(&udp()), Reason::Outbound);
    let outsider = Frame::udp(end("10.0.1.5:1"), end(REMOTE), b"x");
    assert_eq!(world.out_reason(&outsider), Reason::ForeignSource);
}

#[test]
fn nothing_moves_without_a_configuration() {
    let mut world = Setup::default().world();
    world.tables.state.active = 0;
    let frame = udp().bytes();
    let mut copy = frame.clone();
    let verdict = world.tables.run(Side::Inside, 10, &mut copy);
    assert_eq!((verdict, copy), (Verdict::Drop(Reason::NotConfigured), frame));
}

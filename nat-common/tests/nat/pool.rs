//! Quota, exhaustion, rest time, full tables: what is new is refused, what is there stays.

use crate::{open_udp, opener};
use nat_common::counters::Reason;
use nat_common::event::{EVENT_BLOCK_ASSIGNED, EVENT_EXHAUSTED, EVENT_QUOTA};
use nat_common::flow::{Endpoint, Proto};
use nat_common::memory::{Frame, Setup, World, addr, end};
use nat_common::session::{ACK, SYN};
use std::collections::HashSet;

/// The external endpoints of `flows`, and that each still gets its replies.
fn endpoints(world: &World, flows: &[(Proto, Endpoint)]) -> Vec<Endpoint> {
    let remote = end("198.51.100.1:80");
    flows
        .iter()
        .map(|&(proto, inside)| {
            let external = world.external(proto, inside).expect("the binding is still there");
            let reply = match proto {
                Proto::Udp => Frame::udp(remote, external, b"x"),
                Proto::Tcp => Frame::tcp(remote, external, SYN | ACK, b""),
                Proto::Icmp => Frame::echo_reply(remote.addr, external, b"x"),
            };
            let view = world.back(&reply);
            assert_eq!(view.destination, inside.addr);
            external
        })
        .collect()
}

/// RFC 4787 REQ-3: a pool of four ports; the fifth flow fails and none of the four changes.
#[test]
fn the_fifth_flow_of_four_ports_fails() {
    for proto in [Proto::Tcp, Proto::Icmp, Proto::Udp] {
        let world = Setup {
            pool: 40000..=40003,
            block_shift: 4,
            ..Setup::default()
        }
        .world();
        let remote = end("198.51.100.1:80");
        let flows: Vec<(Proto, Endpoint)> = (0..4)
            .map(|n| (proto, Endpoint::new(addr("10.0.0.5"), 5000 + n)))
            .collect();
        for &(proto, inside) in &flows {
            let view = world.out(&opener(proto, inside, remote));
            assert!((40000..=40003).contains(&view.ports.0), "{}", view.flow());
        }
        let before = endpoints(&world, &flows);
        assert_eq!(before.iter().collect::<HashSet<_>>().len(), 4);
        for fifth in ["10.0.0.5:6000", "10.0.0.5:6001", "10.0.0.6:5000"] {
            let frame = opener(proto, end(fifth), remote);
            assert_eq!(world.out_reason(&frame), Reason::Exhausted, "{proto:?} {fifth}");
        }
        assert_eq!(endpoints(&world, &flows), before);
        assert!(world.tables.events().iter().any(|e| e.kind == EVENT_EXHAUSTED));
    }
}

/// RFC 6888 REQ-4: a host at its quota gets no more; others do, and its own flows stay.
#[test]
fn quota_is_per_host() {
    let world = Setup {
        quota: 2,
        block_shift: 4,
        ..Setup::default()
    }
    .world();
    let remote = end("198.51.100.1:80");
    let flows: Vec<(Proto, Endpoint)> = (0..32)
        .map(|n| (Proto::Tcp, Endpoint::new(addr("10.0.0.5"), 5000 + n)))
        .collect();
    for &(proto, inside) in &flows {
        world.out(&opener(proto, inside, remote));
    }
    let before = endpoints(&world, &flows);
    world.tables.events();
    let one_more = opener(Proto::Tcp, end("10.0.0.5:6000"), remote);
    assert_eq!(world.out_reason(&one_more), Reason::Quota);
    let events = world.tables.events();
    assert!(
        events
            .iter()
            .any(|e| e.kind == EVENT_QUOTA && e.host == addr("10.0.0.5") && e.block == 2),
        "{events:?}"
    );
    world.out(&opener(Proto::Tcp, end("10.0.0.6:6000"), remote));
    // The blocks have UDP ports left: they are the same numbers in another space.
    world.out(&opener(Proto::Udp, end("10.0.0.5:6000"), remote));
    assert_eq!(endpoints(&world, &flows), before);
}

/// Without a sweeper, a port that has expired and rested is taken over when nothing else is left; not before.
#[test]
fn rested_ports_come_back() {
    let world = Setup {
        pool: 40000..=40015,
        block_shift: 4,
        ..Setup::default()
    }
    .world();
    let remote = end("198.51.100.1:80");
    for n in 0..16 {
        world.out(&opener(Proto::Icmp, Endpoint::new(addr("10.0.0.5"), n), remote));
    }
    let again = opener(Proto::Icmp, end("10.0.0.5:99"), remote);
    world.tables.wait(60 + 119);
    assert_eq!(world.out_reason(&again), Reason::Exhausted);
    world.tables.wait(1);
    assert_eq!(world.out_reason(&again), Reason::Outbound);
}

/// Every block that a host gets is told once, with its host.
#[test]
fn blocks_are_logged() {
    let world = Setup::default().world();
    for n in 0..65 {
        world.out(&opener(
            Proto::Tcp,
            Endpoint::new(addr("10.0.0.5"), 5000 + n),
            end("198.51.100.1:80"),
        ));
    }
    let blocks: Vec<u32> = world
        .tables
        .events()
        .iter()
        .map(|e| {
            assert_eq!((e.kind, e.host), (EVENT_BLOCK_ASSIGNED, addr("10.0.0.5")));
            e.block
        })
        .collect();
    assert_eq!(blocks.iter().collect::<HashSet<_>>().len(), 2);
    assert_eq!(blocks.len(), 2);
    let port = open_udp(&world, "10.0.0.5:1", "198.51.100.1:80").port;
    assert!(
        blocks.contains(&u32::from(port >> 6)),
        "a port of one of the host's blocks"
    );
}

/// RFC 6888 REQ-15: ports cannot be foreseen. Their place in the block and the blocks' places are spread evenly:
/// chi-square over 16 classes stays below the 99.9 % quantile for 15 degrees of freedom (37.7).
#[test]
fn ports_are_spread() {
    let world = Setup {
        hosts: 4096,
        ..Setup::default()
    }
    .world();
    let mut within = [0f64; 16];
    let mut across = [0f64; 16];
    let hosts = 600;
    for host in 0..hosts {
        let inside = Endpoint::new(addr("10.0.2.0") + host, 5000);
        let port = world.out(&opener(Proto::Tcp, inside, end("198.51.100.1:80"))).ports.0;
        within[usize::from(port & 63) / 4] += 1.0;
        across[usize::from(port - 1024) * 16 / (65536 - 1024)] += 1.0;
    }
    for seen in [within, across] {
        let expected = f64::from(hosts) / 16.0;
        let chi: f64 = seen.iter().map(|n| (n - expected).powi(2) / expected).sum();
        assert!(chi < 37.7, "{chi}: {seen:?}");
    }
}

/// When the table of hosts is full, known hosts go on.
#[test]
fn hosts_full() {
    let world = Setup {
        hosts: 16,
        ..Setup::default()
    }
    .world();
    let remote = end("198.51.100.1:80");
    let open = |host: u32, port| {
        world.out_reason(&opener(
            Proto::Udp,
            Endpoint::new(addr("10.0.1.0") + host, port),
            remote,
        ))
    };
    for host in 0..16 {
        assert_eq!(open(host, 5000), Reason::Outbound);
    }
    assert_eq!(open(16, 5000), Reason::HostsFull);
    for host in 0..16 {
        assert_eq!(open(host, 5001), Reason::Outbound);
    }
}

/// When the index is full, the port goes back and what is bound stays bound.
#[test]
fn index_full() {
    let world = Setup {
        index_buckets: 1,
        ..Setup::default()
    }
    .world();
    let remote = end("198.51.100.1:80");
    let flows: Vec<(Proto, Endpoint)> = (0..8)
        .map(|n| (Proto::Udp, Endpoint::new(addr("10.0.0.5"), 5000 + n)))
        .collect();
    for &(proto, inside) in &flows {
        world.out(&opener(proto, inside, remote));
    }
    let before = endpoints(&world, &flows);
    for n in 0..100 {
        let frame = opener(Proto::Udp, Endpoint::new(addr("10.0.0.5"), 6000 + n), remote);
        assert_eq!(world.out_reason(&frame), Reason::IndexFull);
    }
    assert_eq!(endpoints(&world, &flows), before);
    // A hundred refusals took no port.
    let used: u32 = (0..world.tables.slot_count() / 64)
        .map(|word| {
            nat_common::tables::Tables::used_ports(&world.tables, word)
                .unwrap()
                .get()
                .count_ones()
        })
        .sum();
    assert_eq!(used, 8);
}

/// When the table of sessions is full, half-open sessions give way and established ones never do.
#[test]
fn a_syn_flood_does_not_end_connections() {
    let world = Setup {
        session_buckets: 8,
        ..Setup::default()
    }
    .world();
    let connections = 4;
    for n in 0..connections {
        let remote = Endpoint::new(addr("198.51.100.1"), 80 + n);
        let view = world.out(&Frame::tcp(end("10.0.0.5:5004"), remote, SYN, b""));
        let external = Endpoint::new(view.source, view.ports.0);
        world.back(&Frame::tcp(remote, external, SYN | ACK, b""));
    }
    for n in 0..2000 {
        let remote = Endpoint::new(addr("192.0.2.0") + n, 80);
        world.inside(Frame::tcp(end("10.0.0.66:6666"), remote, SYN, b""));
    }
    let external = world.external(Proto::Tcp, end("10.0.0.5:5004")).unwrap();
    for n in 0..connections {
        let remote = Endpoint::new(addr("198.51.100.1"), 80 + n);
        assert_eq!(
            world.back_reason(&Frame::tcp(remote, external, ACK, b"x")),
            Reason::Inbound
        );
    }
}

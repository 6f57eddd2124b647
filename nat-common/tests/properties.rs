//! Properties that hold for any packet and any history.

mod common;

use common::{audit, sweep};
use nat_common::config::{FLAG_COUNTING, FLAG_HAIRPIN, FLAG_REFRESH_IN, Filtering};
use nat_common::counters::{Action, Reason};
use nat_common::flow::{Endpoint, Proto, Side};
use nat_common::memory::oracle::View;
use nat_common::memory::{Frame, Setup, World, addr, cases, end};
use nat_common::packet::Bytes;
use nat_common::session::{ACK, SYN};
use nat_common::verdict::Verdict;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use std::collections::BTreeMap;

const REMOTE: &str = "198.51.100.1:80";

/// So many cases, after those that failed once.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "proptest-regressions/properties.txt",
        ))),
        ..ProptestConfig::with_cases(cases)
    }
}

fn setup() -> impl Strategy<Value = Setup> {
    let filtering = prop_oneof![
        Just(Filtering::EndpointIndependent),
        Just(Filtering::AddressDependent),
        Just(Filtering::AddressAndPortDependent)
    ];
    (
        any::<u64>(),
        [filtering.clone(), filtering.clone(), filtering],
        0u32..8,
        prop_oneof![Just(0u32), 500..1500u32],
    )
        .prop_map(|(seed, filtering, flags, mss)| Setup {
            seed,
            filtering,
            flags: flags & (FLAG_HAIRPIN | FLAG_COUNTING | FLAG_REFRESH_IN),
            mss,
            index_buckets: 64,
            session_buckets: 64,
            fragment_buckets: 4,
            hosts: 16,
            ..Setup::default()
        })
}

fn any_side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Inside), Just(Side::Outside)]
}

fn proto() -> impl Strategy<Value = Proto> {
    (0u32..3).prop_map(Proto::from_index)
}

fn opener(proto: Proto, inside: Endpoint, remote: Endpoint, data: &[u8]) -> Frame {
    match proto {
        Proto::Udp => Frame::udp(inside, remote, data),
        Proto::Tcp => Frame::tcp(inside, remote, SYN, data),
        Proto::Icmp => Frame::echo(inside, remote.addr, data),
    }
}

/// A world in which every protocol has bindings, and so most good packets a way.
fn used(setup: Setup) -> World {
    let world = setup.world();
    for proto in Proto::ALL {
        for host in ["10.0.0.5:5004", "10.0.0.6:6000"] {
            world.out(&opener(proto, end(host), end(REMOTE), b"x"));
        }
    }
    world
}

fn run(world: &World, side: Side, frame: Vec<u8>) -> Result<Verdict, TestCaseError> {
    let device = if side == Side::Inside { 10 } else { 20 };
    let (verdict, _, checked) = world.try_on(side, device, &Bytes(frame.clone()));
    prop_assert_eq!(checked, Ok(()), "{:?} of {:02x?}", verdict, frame);
    let expected = match verdict {
        Verdict::Forward(..) => Action::Forward,
        Verdict::Pass(_) => Action::Pass,
        Verdict::Drop(_) => Action::Drop,
        Verdict::Punt(..) => Action::Punt,
    };
    prop_assert_eq!(verdict.reason().action(), expected, "as the table of reasons says");
    Ok(verdict)
}

proptest! {
    #![proptest_config(config(400))]

    /// Any bytes: no panic, nothing that `oracle::check` forbids.
    #[test]
    fn any_bytes(setup in setup(), frames in vec((any_side(), vec(any::<u8>(), 0..200)), 1..8)) {
        let world = used(setup);
        for (side, mut frame) in frames {
            run(&world, side, frame.clone())?;
            // Most of them as IPv4, so that they get beyond the first test.
            if let Some(kind) = frame.get_mut(12..15) {
                kind.copy_from_slice(&[8, 0, 0x45]);
                run(&world, side, frame)?;
            }
        }
    }

    /// Good packets and their mutations, one after the other through one world, with bytes flipped and the IP header
    /// repaired, so that the damage gets deep.
    #[test]
    fn any_damage(setup in setup(), choices in vec((any::<prop::sample::Index>(), vec((any::<u8>(), any::<u8>()), 0..4), any::<bool>()), 1..12)) {
        thread_local! { static CASES: Vec<nat_common::memory::Case> = cases(); }
        let world = used(setup);
        CASES.with(|cases| {
            for (which, flips, repair) in choices {
                let case = &cases[which.index(cases.len())];
                let inside = end("10.0.0.5:5004");
                let proto = Proto::ALL.into_iter().find(|p| case.name.starts_with(p.name())).unwrap_or(Proto::Udp);
                let external = world.external(proto, inside).unwrap_or_default();
                let mut frame = case.frame(external);
                for (at, value) in flips {
                    let len = frame.len().max(1);
                    if let Some(byte) = frame.get_mut(usize::from(at) % len) {
                        *byte ^= value;
                    }
                }
                if repair {
                    mend(&mut frame);
                }
                run(&world, case.side, frame)?;
            }
            Ok::<(), TestCaseError>(())
        })?;
    }

    /// There and back: the reply reaches the inside endpoint, payloads are whole, and a remote sees one endpoint.
    #[test]
    fn there_and_back(setup in setup(), host in 2u32..250, port: u16, remote in (1u32..100, 1u16..), proto in proto(), data in vec(any::<u8>(), 0..80)) {
        let world = setup.world();
        let inside = Endpoint::new(addr("10.0.0.0") + host, port);
        let remote = Endpoint::new(addr("198.51.100.0") + remote.0, remote.1);
        let out = world.out(&opener(proto, inside, remote, &data));
        prop_assert_eq!((out.destination, &out.data), (remote.addr, &data));
        let external = Endpoint::new(out.source, out.ports.0);
        let reply = match proto {
            Proto::Udp => Frame::udp(remote, external, &data),
            Proto::Tcp => Frame::tcp(remote, external, SYN | ACK, &data),
            Proto::Icmp => Frame::echo_reply(remote.addr, external, &data),
        };
        let back = world.back(&reply);
        prop_assert_eq!((back.destination, back.ports.1), (inside.addr, inside.port));
        prop_assert_eq!((back.source, &back.data), (remote.addr, &data));
        let again = world.out(&opener(proto, inside, end(REMOTE), &data));
        prop_assert_eq!((again.source, again.ports.0), (external.addr, external.port));
    }

    /// MSS options at any place among any others.
    #[test]
    fn any_tcp_options(setup in setup(), options in vec(any::<u8>(), 0..41), at in 0usize..36, mss: u16) {
        let world = setup.world();
        let mut options = options;
        options.truncate(options.len() & !3);
        if let Some(place) = options.get_mut(at..at + 4) {
            place.copy_from_slice(&[2, 4, (mss >> 8) as u8, mss as u8]);
        }
        world.out(&Frame::tcp_options(end("10.0.0.5:5004"), end(REMOTE), SYN, &options, b"data"));
    }
}

/// Makes lengths and the checksum of the IP header right again, as far as there is one.
fn mend(frame: &mut [u8]) {
    let Some(packet) = frame.get_mut(14..) else { return };
    let header_len = packet.first().map_or(0, |b| usize::from(b & 15) * 4);
    if header_len < 20 || packet.len() < header_len {
        return;
    }
    packet[0] = 0x40 | packet[0] & 15;
    packet[10..12].fill(0);
    let check = !nat_common::memory::oracle::ones(&[&packet[..header_len]]);
    packet[10..12].copy_from_slice(&check.to_be_bytes());
}

/// A step in the life of the allocator.
#[derive(Clone, Debug)]
enum Act {
    /// A packet of the flow of host, port, protocol.
    Send(u8, u16, Proto),
    /// A packet to what the flow had as external endpoint last.
    Answer(u8, u16, Proto),
    /// Seconds pass.
    Wait(u32),
    Sweep,
    /// The outside address changes.
    Redial,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (0u8..4, 0u16..24, proto()).prop_map(|(host, port, proto)| Act::Send(host, port, proto)),
        3 => (0u8..4, 0u16..24, proto()).prop_map(|(host, port, proto)| Act::Answer(host, port, proto)),
        2 => (0u32..90).prop_map(Act::Wait),
        1 => Just(Act::Sweep),
        1 => prop::bool::weighted(0.1).prop_map(|redial| if redial { Act::Redial } else { Act::Sweep }),
    ]
}

/// What the model knows of a binding.
struct Known {
    external: Endpoint,
    used: u32,
    redials: u32,
}

const LIFE: [(Proto, u32); 3] = [(Proto::Tcp, 240), (Proto::Udp, 300), (Proto::Icmp, 60)];

proptest! {
    #![proptest_config(config(60))]

    /// The allocator against a model: no two live bindings with one external endpoint, a live binding keeps its endpoint,
    /// an expired one is gone at once, its port rests, the quota holds, and all tables agree in the end.
    #[test]
    fn allocator_against_a_model(seed: u64, quota in 1u32..4, acts in vec(act(), 1..150)) {
        let mut world = Setup {
            seed,
            quota,
            pool: 40000..=40095,
            block_shift: 4,
            hosts: 16,
            ..Setup::default()
        }
        .world();
        let mut model: BTreeMap<(Proto, Endpoint), Known> = BTreeMap::new();
        // When each port was used last (and cannot be given out before it has rested).
        let mut busy: BTreeMap<(Proto, u16), ((Proto, Endpoint), u32)> = BTreeMap::new();
        let (mut now, mut redials) = (0u32, 0u32);
        for act in acts {
            let life = |proto| LIFE.iter().find(|l| l.0 == proto).unwrap().1;
            let lives = |known: &Known, proto, now, redials| known.redials == redials && now - known.used < life(proto);
            match act {
                Act::Send(host, port, proto) => {
                    let inside = Endpoint::new(addr("10.0.0.5") + u32::from(host), 2000 + port);
                    let key = (proto, inside);
                    let (verdict, after) = world.inside(opener(proto, inside, end(REMOTE), b"x"));
                    let known = model.get(&key).filter(|k| lives(k, proto, now, redials)).map(|k| k.external);
                    let Verdict::Forward(..) = verdict else {
                        prop_assert!(matches!(verdict.reason(), Reason::Quota | Reason::Exhausted), "{:?}", verdict);
                        prop_assert_eq!(known, None, "a bound flow is never refused");
                        continue;
                    };
                    let view = View::of(&after.0).unwrap();
                    let external = Endpoint::new(view.source, view.ports.0);
                    if let Some(known) = known {
                        prop_assert_eq!(known, external, "a live binding keeps its endpoint");
                    } else if let Some((owner, until)) = busy.get(&(proto, external.port)) {
                        prop_assert!(now >= *until, "port {} of {:?} rests until {}, now is {}", external.port, owner, until, now);
                    }
                    busy.insert((proto, external.port), (key, now + life(proto) + 120));
                    model.insert(key, Known { external, used: now, redials });
                }
                Act::Answer(host, port, proto) => {
                    let inside = Endpoint::new(addr("10.0.0.5") + u32::from(host), 2000 + port);
                    let Some(known) = model.get_mut(&(proto, inside)) else { continue };
                    let remote = end(REMOTE);
                    let frame = match proto {
                        Proto::Udp => Frame::udp(remote, known.external, b"y"),
                        Proto::Tcp => Frame::tcp(remote, known.external, SYN, b"y"),
                        Proto::Icmp => Frame::echo_reply(remote.addr, known.external, b"y"),
                    };
                    // Would establish the connection, whose lifetime the model does not know.
                    if proto == Proto::Tcp {
                        continue;
                    }
                    let (verdict, after) = world.outside(&frame);
                    if lives(known, proto, now, redials) {
                        prop_assert_eq!(verdict.reason(), Reason::Inbound);
                        let view = View::of(&after.0).unwrap();
                        prop_assert_eq!((view.destination, view.ports.1), (inside.addr, inside.port));
                    } else if matches!(verdict, Verdict::Forward(..)) {
                        let view = View::of(&after.0).unwrap();
                        prop_assert_ne!((view.destination, view.ports.1), (inside.addr, inside.port), "expired or of an old address");
                    }
                }
                Act::Wait(seconds) => {
                    now += seconds;
                    world.tables.wait(seconds);
                }
                Act::Sweep => sweep(&world.tables),
                Act::Redial => {
                    redials += 1;
                    // Old bindings end with their last use, so that their ports have less to rest.
                    for ((proto, port), (key, until)) in &mut busy {
                        if model.get(key).is_some_and(|k| k.external.port == *port) {
                            *until = model[key].used + 120;
                        } else {
                            *until = (*until).saturating_sub(life(*proto));
                        }
                    }
                    world.tables.change_address(0, addr("203.0.113.1") + redials);
                }
            }
        }
        // No two live bindings of one external endpoint: `busy` has seen all of them; and the tables agree.
        let mut seen = BTreeMap::new();
        for ((proto, inside), known) in &model {
            let life = LIFE.iter().find(|l| l.0 == *proto).unwrap().1;
            if known.redials == redials && now - known.used < life {
                prop_assert_eq!(world.external(*proto, *inside), Some(known.external));
                prop_assert_eq!(seen.insert((*proto, known.external), *inside), None, "one endpoint for two");
            }
        }
        audit(&world.tables, 40000..=40095);
        world.tables.wait(100_000);
        for _ in 0..3 {
            sweep(&world.tables);
        }
        audit(&world.tables, 40000..=40095);
    }
}

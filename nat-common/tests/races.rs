//! Real threads on one set of tables: what the kernel's processors do to each other, and the daemon's sweeper to them.

mod common;

use common::{audit, sweep, used_slots};
use nat_common::binding;
use nat_common::counters::Reason;
use nat_common::event::EVENT_EXHAUSTED;
use nat_common::flow::{Endpoint, InsideKey, Proto};
use nat_common::memory::{Frame, MemTables, Setup, addr, end, on_cpu};
use nat_common::session::{ACK, SYN};
use std::collections::HashMap;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::thread;

const THREADS: usize = 2;

/// Runs `work` on all processors at once; gives what each returns.
fn race<R: Send>(work: impl Fn(usize) -> R + Sync) -> Vec<R> {
    let start = Barrier::new(THREADS);
    thread::scope(|scope| {
        let runs: Vec<_> = (0..THREADS)
            .map(|cpu| {
                let (start, work) = (&start, &work);
                scope.spawn(move || {
                    on_cpu(cpu);
                    start.wait();
                    work(cpu)
                })
            })
            .collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    })
}

fn large(seed: u64) -> Setup {
    Setup {
        index_buckets: 1 << 15,
        seed,
        ..Setup::default()
    }
}

/// Makes a binding as a host would have it: what is refused because two processors met is sent again.
fn bind_again(t: &MemTables, key: &InsideKey) -> Result<u32, Reason> {
    (0..3).find_map(|_| bind(t, key).ok()).map_or_else(|| bind(t, key), Ok)
}

/// Makes a binding as the data path does: looks first.
fn bind(t: &MemTables, key: &InsideKey) -> Result<u32, Reason> {
    if let Some(slot) = binding::find(t, t.active(), key, t.time()) {
        return Ok(slot);
    }
    let mut reason = Reason::NoAddress;
    match binding::create(t, t.active(), key, t.time(), &mut reason) {
        0 => Err(reason),
        slot => Ok(slot),
    }
}

fn key(n: u32) -> InsideKey {
    InsideKey {
        proto: Proto::from_index(n % 3),
        inside: Endpoint::new(addr("10.0.1.0") + n / 3 / 250 % 60, 1000 + (n / 3 % 250) as u16),
    }
}

/// A million new flows, half of them wanted by both processors at the same moment: each key has one binding, which both
/// got, and no external port has two keys.
#[test]
fn both_processors_allocate() {
    const FLOWS: u32 = 45_000;
    let rounds = std::env::var("SIPNAT_RACE_ROUNDS").map_or(23, |n| n.parse().unwrap());
    for round in 0..rounds {
        let t = large(round).tables();
        let results = race(|cpu| {
            (0..FLOWS)
                .filter(|n| n % 2 == 0 || n / 2 % 2 == cpu as u32)
                .map(|n| (n, bind_again(&t, &key(n))))
                .collect::<HashMap<u32, Result<u32, Reason>>>()
        });
        let mut owner = HashMap::new();
        for (n, slot) in results.iter().flatten() {
            let slot = slot.unwrap_or_else(|reason| panic!("round {round}, flow {n}: {reason:?}"));
            assert_eq!(
                *owner.entry(slot).or_insert(*n),
                *n,
                "round {round}: slot {slot} given twice"
            );
        }
        assert_eq!(owner.len() as u32, FLOWS, "round {round}: a flow has two bindings");
        assert_eq!(
            used_slots(&t).iter().filter(|&&s| s & 0xffff >= 1024).count() as u32,
            FLOWS,
            "round {round}: lost ports"
        );
        audit(&t, 1024..=65535);
    }
}

/// Two processors that give one host its next block at the same moment: nothing is exhausted, and nobody says so in the
/// log or to the host.
#[test]
fn meeting_is_not_exhaustion() {
    let mut refused = Vec::new();
    for round in 0..100 {
        let t = large(round).tables();
        let results = race(|cpu| {
            let key = |n| InsideKey {
                proto: Proto::Tcp,
                inside: Endpoint::new(addr("10.0.0.5"), 1000 + (cpu as u16) * 1000 + n),
            };
            (0..800)
                .filter_map(|n| bind(&t, &key(n)).err())
                .collect::<Vec<Reason>>()
        });
        refused.extend(results.concat());
        refused.extend(
            t.events()
                .iter()
                .filter(|e| e.kind == EVENT_EXHAUSTED)
                .map(|_| Reason::Exhausted),
        );
    }
    assert_eq!(refused, [], "refused, or said to be");
}

/// Both processors want the last ports of a small pool: as many bindings as ports, and the others are refused.
#[test]
fn the_last_ports() {
    for round in 0..80 {
        let t = Setup {
            pool: 40000..=40063,
            block_shift: 4,
            seed: round,
            ..Setup::default()
        }
        .tables();
        let results = race(|cpu| {
            let inside = |n| Endpoint::new(addr("10.0.0.5"), (cpu as u16) << 8 | n);
            let key = |n| InsideKey {
                proto: Proto::Tcp,
                inside: inside(n),
            };
            (0..50).filter_map(|n| bind(&t, &key(n)).ok()).collect::<Vec<u32>>()
        });
        let mut slots = results.concat();
        slots.sort_unstable();
        let all = slots.len();
        slots.dedup();
        assert_eq!(slots.len(), all, "round {round}: a port given twice");
        assert_eq!(all, 64, "round {round}");
        audit(&t, 40000..=40063);
    }
}

/// A sweeper passes all the time while the clock runs and one processor keeps bindings alive by using each within its
/// lifetime: none is ever lost or moved. The other one makes bindings that expire, so that there is work.
#[test]
fn the_sweeper_loses_nothing_that_is_used() {
    let mut setup = large(7);
    setup.seconds.udp = 4;
    setup.seconds.rest = 1;
    let world = setup.world();
    let t = &world.tables;
    let remote = end("198.51.100.1:80");
    let kept: Vec<Endpoint> = (0..200)
        .map(|n| Endpoint::new(addr("10.0.0.5") + n / 100, 1000 + n as u16))
        .collect();
    let at_first: Vec<Endpoint> = kept
        .iter()
        .map(|&inside| {
            let view = world.out(&Frame::udp(inside, remote, b"x"));
            Endpoint::new(view.source, view.ports.0)
        })
        .collect();
    let done = AtomicBool::new(false);
    let passes = AtomicU32::new(0);
    thread::scope(|scope| {
        let sweeper = scope.spawn(|| {
            while !done.load(SeqCst) {
                sweep(t);
                passes.fetch_add(1, SeqCst);
            }
        });
        race(|cpu| {
            for round in 0..60u32 {
                if cpu == 1 {
                    for n in 0..100 {
                        let inside = Endpoint::new(addr("10.0.2.0") + round % 8, (round * 100 + n) as u16);
                        world.inside(Frame::udp(inside, remote, b"x"));
                    }
                    continue;
                }
                for (&inside, &external) in kept.iter().zip(&at_first) {
                    let view = world.out(&Frame::udp(inside, remote, b"x"));
                    assert_eq!(
                        Endpoint::new(view.source, view.ports.0),
                        external,
                        "round {round}: {inside:?} moved"
                    );
                    let view = world.back(&Frame::udp(remote, external, b"y"));
                    assert_eq!((view.destination, view.ports.1), (inside.addr, inside.port));
                }
                // Three seconds of four, and not before the sweeper has had a whole look at it.
                let before = passes.load(SeqCst);
                t.wait(3);
                while passes.load(SeqCst) < before + 2 && !sweeper.is_finished() {
                    thread::yield_now();
                }
            }
        });
        done.store(true, SeqCst);
    });
    t.wait(10);
    for _ in 0..4 {
        sweep(t);
        t.wait(2);
    }
    let left = used_slots(t).into_iter().filter(|slot| slot & 0xffff >= 1024).count();
    assert_eq!(left, 0, "what is not used any more is all freed");
    audit(t, 1024..=65535);
}

/// Both directions of one connection on two processors: its state never falls back, and the count of established
/// sessions on its binding stays right.
#[test]
fn both_directions_of_a_connection() {
    use nat_common::tables::Tables;
    let world = Setup::default().world();
    for port in 0..300 {
        let inside = Endpoint::new(addr("10.0.0.5"), 2000 + port);
        let remote = end("198.51.100.1:80");
        let view = world.out(&Frame::tcp(inside, remote, SYN, b""));
        let external = Endpoint::new(view.source, view.ports.0);
        race(|cpu| {
            let frame = if cpu == 0 {
                Frame::tcp(inside, remote, SYN, b"")
            } else {
                Frame::tcp(remote, external, SYN | ACK, b"")
            };
            for _ in 0..5 {
                let (verdict, _) = if cpu == 0 {
                    world.inside(&frame)
                } else {
                    world.outside(&frame)
                };
                assert!(
                    matches!(verdict.reason(), Reason::Outbound | Reason::Inbound),
                    "{verdict:?}"
                );
            }
        });
        let slot = nat_common::ports::slot_index(0, Proto::Tcp, external.port);
        assert_eq!(
            world.tables.slot(slot).unwrap().established.get(),
            1,
            "connection {port}"
        );
    }
}

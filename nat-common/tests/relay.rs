//! The media relay over tables in memory: who is learned, what goes where, and what is counted.

use nat_common::counters::Reason;
use nat_common::flow::{Endpoint, Proto, Side};
use nat_common::memory::oracle::View;
use nat_common::memory::relay::{TestLeg, arm, open, receiver_report, rtp, sender_report};
use nat_common::memory::{Frame, Setup, TICKS, World, addr, end, on_cpu};
use nat_common::packet::Bytes;
use nat_common::ports::slot_index;
use nat_common::relay::latch::REFUSALS;
use nat_common::relay::quality::Quality;
use nat_common::relay::{CLASS_ANY, CLASS_DTLS, CLASS_RTP, CLASS_STUN, Leg, LegWord, peer_of};
use nat_common::tables::Tables;
use nat_common::translate::process_thoroughly;
use nat_common::verdict::Verdict;
use proptest::prelude::*;
use std::sync::Barrier;
use std::thread;

const A: &str = "198.51.100.1:7000";
const B: &str = "192.0.2.9:9000";
const PORT_A: u16 = 40000;
const PORT_B: u16 = 40002;

fn ext(port: u16) -> Endpoint {
    Endpoint::new(addr("203.0.113.1"), port)
}

fn legs() -> [TestLeg; 2] {
    [TestLeg::rtp(PORT_A, end(A).addr), TestLeg::rtp(PORT_B, end(B).addr)]
}

fn world(legs: [TestLeg; 2]) -> World {
    let world = Setup::default().world();
    open(&world.tables, 4, legs, world.tables.time());
    world
}

fn leg(world: &World, number: u32) -> &Leg {
    world.tables.leg(number).unwrap()
}

/// What becomes of a packet from outside: where it went, or why not.
fn send(world: &World, from: &str, port: u16, data: &[u8]) -> Result<String, Reason> {
    sent(world.outside(Frame::udp(end(from), ext(port), data)))
}

fn sent((verdict, bytes): (Verdict, Bytes)) -> Result<String, Reason> {
    match verdict {
        Verdict::Forward(Reason::Relayed, _) => Ok(View::of(&bytes.0).unwrap().flow()),
        other => Err(other.reason()),
    }
}

fn refused(leg: &Leg) -> [u32; REFUSALS.len()] {
    std::array::from_fn(|n| leg.refused[n].get())
}

const TO_A: &str = "203.0.113.1:40000 > 198.51.100.1:7000";
const TO_B: &str = "203.0.113.1:40002 > 192.0.2.9:9000";

/// From the moment both have sent everything arrives, in both directions; what came before is counted.
#[test]
fn both_directions_complete_themselves() {
    let world = world(legs());
    assert_eq!(send(&world, A, PORT_A, &rtp(1, 1)), Err(Reason::PeerNotLatched));
    assert_eq!(send(&world, A, PORT_A, &rtp(1, 2)), Err(Reason::PeerNotLatched));
    assert_eq!(send(&world, B, PORT_B, &rtp(2, 1)).as_deref(), Ok(TO_A));
    for n in 3..50 {
        assert_eq!(send(&world, A, PORT_A, &rtp(1, n)).as_deref(), Ok(TO_B));
        assert_eq!(send(&world, B, PORT_B, &rtp(2, n)).as_deref(), Ok(TO_A));
    }
    assert_eq!(refused(leg(&world, 4)), [0, 0, 0, 2]);
    assert_eq!(refused(leg(&world, 5)), [0; 4]);
    assert_eq!(leg(&world, 4).packets.get(), 49);
    assert_eq!(leg(&world, 4).bytes.get(), 49 * 200);
}

/// Packets of a leg that somebody captures go the thorough way, arrive as ever, and the daemon gets copies; those of other legs are not copied.
#[test]
fn captured_media_is_copied() {
    let world = world(legs());
    send(&world, A, PORT_A, &rtp(1, 1)).unwrap_err();
    send(&world, B, PORT_B, &rtp(2, 1)).unwrap();
    assert_eq!(world.tables.copies(), [], "nobody captures");
    let word = &leg(&world, 4).word;
    word.set(LegWord(word.get()).copying(true).0);
    assert_eq!(send(&world, A, PORT_A, &rtp(1, 2)).as_deref(), Ok(TO_B));
    assert_eq!(send(&world, B, PORT_B, &rtp(2, 2)).as_deref(), Ok(TO_A));
    send(&world, "198.51.100.99:1", PORT_A, &rtp(3, 1)).unwrap_err();
    let copies = world.tables.copies();
    let [(copied, payload)] = &copies[..] else {
        panic!("{copies:?}")
    };
    assert_eq!(copied.seen.remote(), end(A));
    assert_eq!(copied.seen.slot, slot_index(0, Proto::Udp, PORT_A));
    assert_eq!(
        (payload, usize::from(copied.seen.len)),
        (&rtp(1, 2).to_vec(), payload.len())
    );
    assert_eq!(leg(&world, 4).packets.get(), 2, "each is counted once");
    word.set(LegWord(word.get()).copying(false).0);
    send(&world, A, PORT_A, &rtp(1, 3)).unwrap();
    assert_eq!(world.tables.copies(), []);
}

#[test]
fn before_the_peer_is_known_its_public_endpoint_gets_the_packets() {
    let [a, mut b] = legs();
    b.fallback = Some(end("192.0.2.10:8000"));
    let world = world([a, b]);
    let early = send(&world, A, PORT_A, &rtp(1, 1));
    assert_eq!(early.as_deref(), Ok("203.0.113.1:40002 > 192.0.2.10:8000"));
    assert!(send(&world, B, PORT_B, &rtp(2, 1)).is_ok());
    assert_eq!(send(&world, A, PORT_A, &rtp(1, 2)).as_deref(), Ok(TO_B));
}

#[test]
fn nobody_outside_the_gate_gets_in() {
    let world = world(legs());
    for source in ["198.51.100.2:7000", "192.0.2.9:9000", "203.0.113.77:1"] {
        assert_eq!(
            send(&world, source, PORT_A, &rtp(9, 1)),
            Err(Reason::RelayGate),
            "{source}"
        );
    }
    assert_eq!(leg(&world, 4).peer(), None);
    assert_eq!(refused(leg(&world, 4)), [3, 0, 0, 0]);
    // A wider one.
    let [mut a, b] = legs();
    a.gate = (addr("198.51.100.0"), 24);
    let world = self::world([a, b]);
    assert_eq!(
        send(&world, "198.51.101.1:5", PORT_A, &rtp(9, 1)),
        Err(Reason::RelayGate)
    );
    assert_eq!(
        send(&world, "198.51.100.200:5", PORT_A, &rtp(9, 1)),
        Err(Reason::PeerNotLatched)
    );
    // And none.
    let [mut a, b] = legs();
    a.gate = (0, 0);
    let world = self::world([a, b]);
    assert_eq!(send(&world, A, PORT_A, &rtp(9, 1)), Err(Reason::RelayGate));
}

/// RFC 7983: the first byte says what it is.
#[test]
fn every_first_byte_is_of_one_class() {
    for classes in 0..16 {
        let [mut a, b] = legs();
        a.classes = classes;
        for first in 0..=255u8 {
            let world = world([a, b]);
            let mut data = vec![first; 40];
            data[1] = 0;
            let class = match first {
                0..4 => CLASS_STUN,
                20..64 => CLASS_DTLS,
                128..192 => CLASS_RTP,
                _ => 0,
            };
            let fits = (class | CLASS_ANY) & classes != 0;
            let expected = if fits {
                Reason::PeerNotLatched
            } else {
                Reason::RelayClass
            };
            assert_eq!(send(&world, A, PORT_A, &data), Err(expected), "{first} for {classes}");
            assert_eq!(leg(&world, 4).peer().is_some(), fits);
        }
    }
    // What is too short is not what it seems to be.
    for (data, fits) in [
        (&[0x80, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0][..], false),
        (&[0x80, 200, 0, 1, 0, 0, 0, 1], true),
        (&[0x80, 200, 0, 1, 0, 0, 0], false),
        (&[0x80], false),
        (&[], false),
    ] {
        let world = world(legs());
        assert_eq!(
            send(&world, A, PORT_A, data),
            Err(if fits {
                Reason::PeerNotLatched
            } else {
                Reason::RelayClass
            }),
            "{data:?}"
        );
    }
    let [mut a, b] = legs();
    a.classes = CLASS_ANY;
    let world = world([a, b]);
    assert_eq!(send(&world, A, PORT_A, &[]), Err(Reason::PeerNotLatched), "any payload");
    assert_eq!(Quality::of(leg(&world, 4)), Quality::default());
}

#[test]
fn who_is_learned_stays_until_the_leg_is_armed() {
    let [mut a, b] = legs();
    a.gate.1 = 24;
    let world = world([a, b]);
    let other = "198.51.100.1:7777";
    let _ = send(&world, A, PORT_A, &rtp(1, 1));
    for n in 0..5 {
        assert_eq!(send(&world, other, PORT_A, &rtp(1, 2 + n)), Err(Reason::RelayOther));
        world.tables.wait(20);
    }
    // The same SSRC or not, a day later or not.
    assert_eq!(send(&world, other, PORT_A, &rtp(7, 1)), Err(Reason::RelayOther));
    assert_eq!(refused(leg(&world, 4)), [0, 0, 6, 1]);
    let _ = send(&world, B, PORT_B, &rtp(2, 1));
    arm(leg(&world, 4), world.tables.time());
    // The old one is the peer until another one comes.
    assert_eq!(send(&world, B, PORT_B, &rtp(2, 2)).as_deref(), Ok(TO_A));
    assert_eq!(send(&world, A, PORT_A, &rtp(1, 20)).as_deref(), Ok(TO_B));
    assert_eq!(send(&world, other, PORT_A, &rtp(3, 1)).as_deref(), Ok(TO_B));
    assert_eq!(
        send(&world, B, PORT_B, &rtp(2, 3)).as_deref(),
        Ok("203.0.113.1:40000 > 198.51.100.1:7777")
    );
    assert_eq!(send(&world, A, PORT_A, &rtp(1, 21)), Err(Reason::RelayOther));
    // Who goes on for a while after that is taken for the new one.
    arm(leg(&world, 4), world.tables.time());
    assert!(send(&world, other, PORT_A, &rtp(3, 2)).is_ok());
    world.tables.wait(4);
    assert!(send(&world, other, PORT_A, &rtp(3, 3)).is_ok());
    assert_eq!(send(&world, A, PORT_A, &rtp(1, 22)), Err(Reason::RelayOther));
}

/// A peer that was learned by a gate that is no longer there does not stay.
#[test]
fn a_new_gate_is_for_the_known_peer_too() {
    let world = world(legs());
    let _ = send(&world, A, PORT_A, &rtp(1, 1));
    leg(&world, 4).gates[0].set(nat_common::relay::gate(addr("198.51.100.8"), 32));
    arm(leg(&world, 4), world.tables.time());
    assert_eq!(send(&world, A, PORT_A, &rtp(1, 2)), Err(Reason::RelayGate));
}

#[test]
fn a_rebinding_nat_is_followed_within_limits() {
    let moved = "198.51.100.1:7001";
    let again = "198.51.100.1:7002";
    let following = |follow| {
        let [mut a, b] = legs();
        a.follow = follow;
        let world = world([a, b]);
        let _ = send(&world, B, PORT_B, &rtp(2, 1));
        assert!(send(&world, A, PORT_A, &rtp(1, 100)).is_ok());
        world
    };
    let world = following(false);
    world.tables.wait(1);
    assert_eq!(send(&world, moved, PORT_A, &rtp(1, 101)), Err(Reason::RelayOther));
    // While the old endpoint sends, with another SSRC, another sequence, from elsewhere, or too late: no.
    let world = following(true);
    assert_eq!(send(&world, moved, PORT_A, &rtp(1, 101)), Err(Reason::RelayOther));
    world.tables.wait(1);
    assert_eq!(send(&world, moved, PORT_A, &rtp(3, 101)), Err(Reason::RelayOther));
    assert_eq!(send(&world, moved, PORT_A, &rtp(1, 99)), Err(Reason::RelayOther));
    assert_eq!(send(&world, moved, PORT_A, &rtp(1, 4000)), Err(Reason::RelayOther));
    assert_eq!(
        send(&world, moved, PORT_A, &sender_report(1, 1)),
        Err(Reason::RelayOther)
    );
    assert_eq!(
        send(&world, "198.51.100.2:7000", PORT_A, &rtp(1, 101)),
        Err(Reason::RelayGate)
    );
    // Now it moves, and not again at once.
    assert_eq!(send(&world, moved, PORT_A, &rtp(1, 102)).as_deref(), Ok(TO_B));
    assert_eq!(
        send(&world, B, PORT_B, &rtp(2, 2)).as_deref(),
        Ok("203.0.113.1:40000 > 198.51.100.1:7001")
    );
    assert_eq!(send(&world, A, PORT_A, &rtp(1, 103)), Err(Reason::RelayOther));
    world.tables.wait(1);
    assert_eq!(send(&world, again, PORT_A, &rtp(1, 104)), Err(Reason::RelayOther));
    world.tables.wait(10);
    assert_eq!(send(&world, again, PORT_A, &rtp(1, 105)).as_deref(), Ok(TO_B));
    assert_eq!(leg(&world, 4).moves.get(), 2);
    let world = following(true);
    world.tables.wait(31);
    assert_eq!(send(&world, moved, PORT_A, &rtp(1, 101)), Err(Reason::RelayOther));
}

#[test]
fn what_the_stream_looks_like_is_measured() {
    let world = world(legs());
    let _ = send(&world, B, PORT_B, &rtp(2, 1));
    // Around the end of the sequence numbers, one lost, two swapped, one twice; 20 ms apart, one late by 5 ms.
    for sequence in [65533u16, 65534, 0, 65535, 1, 1, 3, 4] {
        world.tables.wait_nanos(20_000_000);
        let _ = send(&world, A, PORT_A, &rtp(1, sequence));
    }
    let quality = Quality::of(leg(&world, 4));
    assert_eq!((quality.received, quality.expected, quality.late), (8, 8, 2));
    assert_eq!((quality.ssrc, quality.ssrc_changes), (Some(1), 0));
    // The next SSRC begins anew, and what was lost before stays lost.
    for sequence in [10, 12, 13] {
        let _ = send(&world, A, PORT_A, &rtp(5, sequence));
    }
    let quality = Quality::of(leg(&world, 4));
    assert_eq!((quality.received, quality.expected, quality.lost), (11, 12, 1));
    assert_eq!((quality.ssrc, quality.ssrc_changes), (Some(5), 1));
}

/// Jitter as RFC 3550 §A.8 has it, against an independent reckoning in floating point.
#[test]
fn jitter_is_what_the_rfc_says() {
    let world = world(legs());
    let mut jitter = 0.0f64;
    let mut before: Option<f64> = None;
    let mut now = 0u64;
    for n in 0..400u16 {
        let step = 20_000_000 + (u64::from(n) * 7919 % 13) * 400_000;
        now += step;
        world.tables.wait_nanos(step);
        let _ = send(&world, A, PORT_A, &rtp(1, n));
        let transit = now as f64 * 8000.0 / 1e9 - f64::from(n) * 160.0;
        if let Some(before) = before {
            jitter += ((transit - before).abs() - jitter) / 16.0;
        }
        before = Some(transit);
    }
    let quality = Quality::of(leg(&world, 4));
    assert!(
        (f64::from(quality.jitter) - jitter).abs() <= 2.0,
        "{} instead of {jitter}",
        quality.jitter
    );
    assert!(quality.jitter > 10, "a test that shows nothing");
}

#[test]
fn reports_tell_the_round_trip_time() {
    let world = world(legs());
    let _ = send(&world, B, PORT_B, &rtp(2, 1));
    assert!(send(&world, A, PORT_A, &sender_report(1, 0x1234_5678)).is_ok());
    world.tables.wait_nanos(500_000_000);
    // A report of another one says nothing.
    assert!(send(&world, B, PORT_B, &receiver_report(2, 0x1234_5679, 0)).is_ok());
    assert_eq!(leg(&world, 5).round_trip.get(), 0);
    // Held for 400 ms of the 500.
    let held = 65536 * 4 / 10;
    assert!(send(&world, B, PORT_B, &receiver_report(2, 0x1234_5678, held)).is_ok());
    let round_trip = leg(&world, 5).round_trip.get();
    assert!(round_trip.abs_diff(6554) < 4, "{round_trip}");
    assert_eq!(leg(&world, 4).others.get(), 1);
    assert_eq!(leg(&world, 5).others.get(), 2);
}

#[test]
fn the_class_of_service_is_kept_or_set() {
    for (dscp, tos) in [(None, 0xb9), (Some(10), 10 << 2 | 1)] {
        let [mut a, b] = legs();
        a.dscp = dscp;
        let world = world([a, b]);
        let _ = send(&world, B, PORT_B, &rtp(2, 1));
        for fragment in [0, 0x4000] {
            let frame = Frame {
                tos: 0xb9,
                fragment,
                ..Frame::udp(end(A), ext(PORT_A), &rtp(1, 1))
            };
            let (_, bytes) = world.outside(&frame);
            assert_eq!(bytes.0[15], tos);
        }
    }
}

/// Phones on the inside, and one on each side.
#[test]
fn legs_of_inside_phones_work_too() {
    let phone = "10.0.0.5:5004";
    let [a, mut b] = legs();
    b.gate = (end(phone).addr, 32);
    let world = world([a, b]);
    let inside = |data: &[u8]| sent(world.inside(Frame::udp(end(phone), ext(PORT_B), data)));
    assert_eq!(inside(&rtp(2, 1)), Err(Reason::PeerNotLatched));
    assert_eq!(
        send(&world, A, PORT_A, &rtp(1, 1)).as_deref(),
        Ok("203.0.113.1:40002 > 10.0.0.5:5004")
    );
    assert_eq!(inside(&rtp(2, 2)).as_deref(), Ok(TO_A));
    // From outside nobody can claim to be the phone.
    assert_eq!(send(&world, phone, PORT_B, &rtp(2, 3)), Err(Reason::Martian));
    // Nor is a relay's port a way to the host whose address looks like a leg's number.
    let neighbour = world.inside(Frame::udp(end("10.0.0.6:1"), ext(PORT_B), &rtp(9, 1)));
    assert_eq!(neighbour.0.reason(), Reason::RelayGate);
}

#[test]
fn a_port_without_its_leg_is_nobody_s() {
    let world = world(legs());
    let _ = send(&world, B, PORT_B, &rtp(2, 1));
    assert!(send(&world, A, PORT_A, &rtp(1, 1)).is_ok());
    let word = leg(&world, 5).word.get();
    leg(&world, 5).word.set(0);
    assert_eq!(send(&world, A, PORT_A, &rtp(1, 2)), Err(Reason::NoBinding));
    assert_eq!(send(&world, B, PORT_B, &rtp(2, 2)), Err(Reason::NoBinding));
    leg(&world, 5).word.set(word);
    // A leg that has somebody else for a partner.
    leg(&world, 5).partner.set(9);
    assert_eq!(send(&world, A, PORT_A, &rtp(1, 3)), Err(Reason::NoBinding));
}

#[test]
fn legs_end_with_their_external_address() {
    let mut world = world(legs());
    let _ = send(&world, B, PORT_B, &rtp(2, 1));
    assert!(send(&world, A, PORT_A, &rtp(1, 1)).is_ok());
    world.tables.change_address(0, addr("203.0.113.9"));
    let frame = Frame::udp(end(A), Endpoint::new(addr("203.0.113.9"), PORT_A), &rtp(1, 2));
    assert_eq!(world.outside(&frame).0.reason(), Reason::NoBinding);
}

/// An ICMP error about what was relayed is for nobody behind the relay.
#[test]
fn errors_about_relayed_packets_end_here() {
    let world = world(legs());
    let _ = send(&world, B, PORT_B, &rtp(2, 1));
    let quote = Frame::udp(ext(PORT_B), end(B), &rtp(1, 1)).packet();
    let error = Frame::error(end(B).addr, addr("203.0.113.1"), (3, 3), &quote[..28]);
    assert_eq!(world.outside(&error).0.reason(), Reason::IcmpUnmatched);
}

/// Pieces of a large datagram follow the first one.
#[test]
fn fragments_are_relayed() {
    let world = world(legs());
    let _ = send(&world, B, PORT_B, &rtp(2, 1));
    let whole = Frame::udp(end(A), ext(PORT_A), &[&rtp(1, 1)[..], &[7; 1200]].concat());
    let pieces = whole.pieces(&[800]);
    let (verdict, bytes) = world.outside(&pieces[0]);
    assert_eq!(sent((verdict, bytes)).as_deref(), Ok(TO_B));
    let (verdict, bytes) = world.outside(&pieces[1]);
    assert_eq!(verdict.reason(), Reason::Fragment);
    assert_eq!(View::of(&bytes.0).unwrap().destination, end(B).addr);
    // Those of a stranger are refused with the first one.
    let stranger = Frame {
        source: addr("198.51.100.2"),
        ..whole
    };
    let pieces = stranger.pieces(&[800]);
    assert_eq!(world.outside(&pieces[0]).0.reason(), Reason::RelayGate);
    assert_eq!(world.outside(&pieces[1]).0.reason(), Reason::FragmentRefused);
}

/// Several endpoints within the gate at the same moment: one is learned, all agree on which one, and what the others sent is
/// counted.
#[test]
fn one_of_several_is_learned() {
    const THREADS: u16 = 4;
    const PACKETS: u16 = 50;
    for round in 0..200 {
        let [a, mut b] = legs();
        b.fallback = Some(end(B));
        let world = world([a, b]);
        let start = Barrier::new(usize::from(THREADS));
        let through: Vec<u16> = thread::scope(|scope| {
            let runs: Vec<_> = (0..THREADS)
                .map(|cpu| {
                    let (world, start) = (&world, &start);
                    scope.spawn(move || {
                        on_cpu(usize::from(cpu));
                        start.wait();
                        let from = format!("198.51.100.1:{}", 7000 + cpu);
                        (0..PACKETS)
                            .filter(|n| send(world, &from, PORT_A, &rtp(u32::from(cpu), *n)).is_ok())
                            .count() as u16
                    })
                })
                .collect();
            runs.into_iter().map(|run| run.join().unwrap()).collect()
        });
        let winners: Vec<usize> = (0..through.len()).filter(|n| through[*n] != 0).collect();
        assert_eq!(winners.len(), 1, "round {round}: {through:?}");
        assert_eq!(through[winners[0]], PACKETS, "round {round}: the winner lost packets");
        let leg = leg(&world, 4);
        assert_eq!(leg.peer().unwrap().port, 7000 + winners[0] as u16);
        let others = u32::from(THREADS - 1) * u32::from(PACKETS);
        assert_eq!(refused(leg), [0, 0, others, 0], "round {round}");
        assert_eq!(leg.packets.get(), u64::from(PACKETS));
    }
}

/// Both sides begin in the same moment on two processors: after both have sent, every packet arrives, and the early ones are
/// accounted for one by one.
#[test]
fn both_sides_begin_at_once() {
    const PACKETS: u16 = 100;
    for round in 0..200 {
        let world = world(legs());
        let start = Barrier::new(2);
        let arrived: Vec<Vec<bool>> = thread::scope(|scope| {
            let runs = [(0, A, PORT_A), (1, B, PORT_B)].map(|(cpu, from, port)| {
                let (world, start) = (&world, &start);
                scope.spawn(move || {
                    on_cpu(cpu);
                    start.wait();
                    let ok = |n| send(world, from, port, &rtp(cpu as u32, n)).is_ok();
                    (0..PACKETS).map(ok).collect()
                })
            });
            runs.into_iter().map(|run| run.join().unwrap()).collect()
        });
        for (number, arrived) in (4..).zip(&arrived) {
            let early = arrived.iter().filter(|ok| !**ok).count();
            assert!(
                arrived[early..].iter().all(|ok| *ok),
                "round {round}: lost in the middle"
            );
            assert_eq!(refused(leg(&world, number)), [0, 0, 0, early as u32], "round {round}");
        }
        // One of them was the second to begin.
        assert!(arrived.iter().any(|arrived| arrived[0]), "round {round}");
    }
}

proptest! {
    /// The short way and the thorough one do the same with any packet.
    #[test]
    fn both_ways_are_the_same(
        steps in proptest::collection::vec((0u8..6, 0u8..2, 0u8..4, 0u32..3, any::<u16>(), 0u32..80, any::<bool>()), 1..60),
        follow: bool, dscp in proptest::option::of(0u8..64), classes in 1u8..16
    ) {
        let worlds = [0; 2].map(|_| {
            let [mut a, mut b] = legs();
            a.gate.1 = 24;
            a.follow = follow;
            a.dscp = dscp;
            b.classes = classes;
            world([a, b])
        });
        for (kind, side, source, ssrc, sequence, wait, short) in steps {
            let (peer, port) = if side == 0 { (end(A), PORT_A) } else { (end(B), PORT_B) };
            let from = Endpoint::new(peer.addr ^ u32::from(source >> 1), peer.port + u16::from(source & 1));
            let data = match kind {
                0 | 1 => rtp(ssrc, sequence % 200),
                2 => sender_report(ssrc, u32::from(sequence)),
                3 => receiver_report(ssrc, u32::from(sequence), 0),
                4 => vec![sequence as u8; 30],
                _ => {
                    let number = 4 + u32::from(side);
                    worlds.iter().for_each(|world| arm(leg(world, number), world.tables.time()));
                    continue;
                }
            };
            let frame = Frame {
                fragment: if short { 0x4000 } else { 0 },
                tos: ssrc as u8,
                ..Frame::udp(from, ext(port), &data)
            };
            // Identifications are counted in each world by itself.
            let (mut one, mut two) = (frame.bytes(), frame.bytes());
            let verdict = worlds[0].tables.run(Side::Outside, 20, &mut one);
            let other = process_thoroughly(&mut two, &worlds[1].tables, Side::Outside, 20).verdict();
            prop_assert_eq!(verdict, other);
            prop_assert_eq!(one, two);
            for number in 4..6 {
                let [one, two] = [0, 1].map(|n| leg(&worlds[n], number));
                prop_assert_eq!(peer_of(one.remote.get()), peer_of(two.remote.get()));
                prop_assert_eq!(refused(one), refused(two));
                prop_assert_eq!(Quality::of(one), Quality::of(two));
                prop_assert_eq!((one.packets.get(), one.bytes.get()), (two.packets.get(), two.bytes.get()));
            }
            worlds.iter().for_each(|world| {
                world.tables.wait(wait / TICKS);
                world.tables.wait_nanos(u64::from(wait) * 1_000_000);
            });
        }
    }
}

//! The relay in the kernel beside that of the host build: the same packets, the same legs afterwards.

use nat_common::counters::Reason;
use nat_common::flow::{Endpoint, Side};
use nat_common::hash::mix;
use nat_common::memory::relay::{TestLeg, arm, open, receiver_report, rtp, sender_report};
use nat_common::memory::{Frame, Setup, addr, cases, end};
use nat_common::relay::{CLASS_RTP, CLASS_STUN, Leg, quality::Quality};
use nat_common::tables::Tables;
use std::collections::HashSet;

use crate::rig::{Rig, in_lab};
use crate::twin::{ASKED, Twin};

const A: &str = "198.51.100.7:7000";
const B: &str = "192.0.2.9:9000";
const PHONE: &str = "10.0.0.5:5004";

/// Two pairs of legs: outside to outside, and outside to an inside phone.
fn open_all<T: Tables>(t: &T, now: u32) {
    let leg = |port, from: &str| TestLeg {
        gate: (end(from).addr, 24),
        classes: CLASS_RTP | CLASS_STUN,
        follow: true,
        ..TestLeg::rtp(port, end(from).addr)
    };
    let marked = TestLeg {
        dscp: Some(46),
        ..leg(40000, A)
    };
    open(t, 4, [marked, leg(40002, B)], now);
    let public = TestLeg {
        fallback: Some(end("198.51.100.99:8000")),
        ..leg(40004, A)
    };
    open(t, 6, [public, leg(40006, PHONE)], now);
}

/// What is the same in both; the clocks are not.
fn seen(leg: &Leg) -> (u64, u64, u64, Vec<u32>, Quality) {
    let quality = Quality {
        jitter: 0,
        ..Quality::of(leg)
    };
    let refused = leg.refused.iter().map(|count| count.get()).collect();
    (leg.word.get(), leg.remote.get(), leg.bytes.get(), refused, quality)
}

#[test]
fn the_kernel_relays_as_the_host_does() {
    const ROUNDS: u64 = 30;
    const PACKETS: u64 = 40;
    let setup = Setup {
        legs: 8,
        ..cases::setup()
    };
    in_lab(&setup, |_| {
        let mut rig = Rig::new(&setup);
        let (mut reasons, mut asked, mut done) = (HashSet::new(), 0, 0);
        for round in 0..ROUNDS {
            let mut twin = Twin::new(&mut rig, &setup);
            twin.each(|(t, now)| open_all(t, now), |(t, now)| open_all(t, now));
            for n in 0..PACKETS {
                let mut dice = Dice(round * PACKETS + n, 0);
                if dice.below(40) == 0 {
                    let number = 4 + dice.below(4) as u32;
                    twin.each(
                        |(t, now)| arm(t.leg(number).unwrap(), now),
                        |(t, now)| arm(t.leg(number).unwrap(), now),
                    );
                    continue;
                }
                let (side, frame) = packet(&mut dice, n);
                match twin.both(side, &frame.bytes().0) {
                    Ok((_, ran)) => reasons.insert(ran.reason),
                    // The kernel has no routes here; its legs are no longer what the host's are.
                    Err(error) if error == ASKED => {
                        asked += 1;
                        break;
                    }
                    Err(error) => panic!("packet {n} of round {round}: {error}"),
                };
                done += 1;
                for number in 4..8 {
                    let (kernel, host) = twin.legs(number);
                    assert_eq!(
                        seen(kernel),
                        seen(host),
                        "leg {number} after packet {n} of round {round}: {frame:?}"
                    );
                }
            }
        }
        println!("{done} packets, {reasons:?}, {asked} rounds cut short");
        assert!(done > 300, "only {done} packets could be compared");
        for reason in [
            Reason::Relayed,
            Reason::RelayGate,
            Reason::RelayClass,
            Reason::RelayOther,
            Reason::PeerNotLatched,
        ] {
            assert!(reasons.contains(&reason), "{reason:?} never came: {reasons:?}");
        }
    });
}

/// Random numbers that are the same every time.
struct Dice(u64, u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.1 += 1;
        mix(self.0 << 8 | self.1, 0x0123_4567_89ab_cdef) % limit
    }
}

/// Something for one of the legs: mostly RTP of its peer, at times of others or something else.
fn packet(dice: &mut Dice, n: u64) -> (Side, Frame) {
    let (port, peer) = [(40000, A), (40002, B), (40004, A), (40006, PHONE)][dice.below(4) as usize];
    let side = if peer == PHONE { Side::Inside } else { Side::Outside };
    let stranger = u32::from(dice.below(10) == 0) << (dice.below(2) * 8);
    let moved = u16::from(dice.below(12) == 0);
    let from = Endpoint::new(end(peer).addr ^ stranger, end(peer).port + moved);
    let sequence = (n / 4) as u16 ^ u16::from(dice.below(8) == 0);
    let data = match dice.below(10) {
        0 => sender_report(1, 77),
        1 => receiver_report(2, 77, 0),
        2 => vec![dice.below(256) as u8; dice.below(60) as usize],
        _ => rtp(1 + u32::from(dice.below(60) == 0), sequence),
    };
    let frame = Frame {
        tos: dice.below(256) as u8,
        fragment: if dice.below(2) == 0 { 0x4000 } else { 0 },
        options: if dice.below(10) == 0 { vec![1; 4] } else { Vec::new() },
        ..Frame::udp(from, Endpoint::new(addr("203.0.113.1"), port), &data)
    };
    (side, frame)
}

//! The kernel program and the host build do the same with the same packets.

use std::collections::HashSet;

use nat_common::counters::Action;
use nat_common::flow::Endpoint;
use nat_common::hash::mix;
use nat_common::memory::cases::{self, cases};
use nat_common::memory::oracle::ones;

use crate::rig::{Rig, SHORTEST, in_lab};
use crate::twin::{ASKED, Twin};

/// Any source, for packets that no other went before.
const ANY: Endpoint = Endpoint {
    addr: 0xcb00_7101,
    port: 40000,
};

#[test]
fn every_case_is_the_same_byte_by_byte() {
    let setup = cases::setup();
    in_lab(&setup, |_| {
        let mut rig = Rig::new(&setup);
        let (mut wrong, mut done) = (Vec::new(), 0);
        for case in cases() {
            let mut twin = Twin::new(&mut rig, &setup);
            let external = case.first.as_ref().map_or(ANY, |first| twin.first(first));
            let frame = case.frame(external);
            if frame.len() < SHORTEST {
                continue;
            }
            done += 1;
            match twin.both(case.side, &frame) {
                Ok((_, ran)) if ran.reason == case.expected => {}
                Ok((_, ran)) => wrong.push(format!(
                    "{}: {:?} instead of {:?}",
                    case.name, ran.reason, case.expected
                )),
                Err(error) => wrong.push(format!("{}: {error}", case.name)),
            }
        }
        assert!(
            wrong.is_empty(),
            "{} of {done} cases:\n{}",
            wrong.len(),
            wrong.join("\n")
        );
        println!("{done} cases are the same");
        assert!(done > 900, "only {done} cases were run");
    });
}

/// Random numbers that are the same every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 += 1;
        (mix(self.0, 0x0123_4567_89ab_cdef) % limit as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A few bytes are changed, rather in the headers; the length too at times.
fn mutate(frame: &mut Vec<u8>, dice: &mut Dice) {
    for _ in 0..=dice.below(3) {
        let reach = if dice.one_in(4) { 200 } else { 64 };
        let at = 12 + dice.below(frame.len().min(reach) - 12);
        frame[at] = match dice.below(4) {
            0 => frame[at] ^ 1 << dice.below(8),
            1 => dice.below(256) as u8,
            2 => frame[at].wrapping_add(1),
            _ => [0, 1, 0x45, 0x7f, 0x80, 0xff][dice.below(6)],
        };
    }
    match dice.below(12) {
        0 => frame.truncate(SHORTEST + dice.below(frame.len() - SHORTEST)),
        1 => frame.extend((0..dice.below(60)).map(|n| n as u8)),
        _ => {}
    }
    // Else hardly anything would get beyond the checksum.
    let header_len = frame.get(14).map_or(20, |first| (first & 15) as usize * 4).max(20);
    if frame.len() >= 14 + header_len && !dice.one_in(8) {
        frame[24..26].fill(0);
        let check = !ones(&[&frame[14..14 + header_len]]);
        frame[24..26].copy_from_slice(&check.to_be_bytes());
    }
}

#[test]
fn random_packets_are_the_same() {
    const PACKETS: usize = 2000;
    let setup = cases::setup();
    in_lab(&setup, |_| {
        let mut rig = Rig::new(&setup);
        let mut seeds = cases();
        seeds.retain(|case| case.expected.action() == Action::Forward);
        let mut dice = Dice(4711);
        let (mut wrong, mut reasons) = (Vec::new(), HashSet::new());
        let (mut asked, mut forwarded) = (0, 0);
        for _ in 0..PACKETS {
            let case = &seeds[dice.below(seeds.len())];
            let mut twin = Twin::new(&mut rig, &setup);
            let external = case.first.as_ref().map_or(ANY, |first| twin.first(first));
            let mut frame = case.frame(external);
            mutate(&mut frame, &mut dice);
            match twin.both(case.side, &frame) {
                Ok((_, ran)) => {
                    reasons.insert(ran.reason);
                    forwarded += usize::from(ran.reason.action() == Action::Forward);
                }
                Err(error) if error == ASKED => asked += 1,
                Err(error) => wrong.push(format!("from {}: {error}", case.name)),
            }
        }
        assert!(wrong.is_empty(), "{} of {PACKETS}:\n{}", wrong.len(), wrong.join("\n"));
        println!(
            "{forwarded} forwarded, {} reasons, {asked} without a verdict",
            reasons.len()
        );
        assert!(asked < PACKETS / 50, "{asked} packets could not be compared");
        assert!(
            forwarded > PACKETS / 10 && reasons.len() > 15,
            "{forwarded} {reasons:?}"
        );
    });
}

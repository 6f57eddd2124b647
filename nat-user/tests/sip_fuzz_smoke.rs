//! A moment of every fuzz target of the SIP side, without a fuzzer: seeds with random damage. `cargo xtask fuzz` runs them for longer.

use nat_user::sip::targets::{TARGETS, seeds};

const RUNS: u32 = 20_000;
const INTERESTING: &[u8] = b"\r\n\t \":;,<>@=?%[]()\\\0\xff*0z";

#[test]
fn every_target_for_a_moment() {
    for (name, target) in TARGETS {
        let seeds = seeds(name);
        let mut dice = fastrand::Rng::with_seed(1);
        for _ in 0..RUNS {
            let mut input = seeds[dice.usize(..seeds.len())].clone();
            for _ in 0..dice.u8(..6) {
                let at = dice.usize(..=input.len());
                let byte = if dice.bool() {
                    dice.u8(..)
                } else {
                    INTERESTING[dice.usize(..INTERESTING.len())]
                };
                match dice.u8(..5) {
                    0 => input.truncate(at),
                    1 => input.insert(at, byte),
                    2 if at < input.len() => input[at] = byte,
                    3 if at < input.len() => drop(input.remove(at)),
                    _ => {
                        // A piece of it once more somewhere else.
                        let from = dice.usize(..=input.len());
                        let piece = input[from..(from + usize::from(dice.u8(..))).min(input.len())].to_vec();
                        input.splice(at..at, piece);
                    }
                }
            }
            let shown = Shown(name, &input);
            target(&input);
            std::mem::forget(shown);
        }
    }
}

/// Prints the input when the target panics.
struct Shown<'a>(&'a str, &'a [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        eprintln!("target {} panicked on {:?}", self.0, String::from_utf8_lossy(self.1));
    }
}

//! A few seconds of every fuzz target, without a fuzzer: seeds with random damage. `cargo xtask fuzz` runs them for longer
//! and with coverage to guide it.

use nat_common::hash::mix;
use nat_common::memory::targets::{TARGETS, seeds};
use std::time::{Duration, Instant};

/// Milliseconds for each target.
const TIME: u64 = 700;

#[test]
fn every_target_for_a_moment() {
    let millis =
        std::env::var("SIPNAT_FUZZ_MS").map_or(TIME, |text| text.parse().expect("SIPNAT_FUZZ_MS: milliseconds"));
    let seed = std::env::var("SIPNAT_FUZZ_SEED").map_or(1, |text| text.parse().expect("SIPNAT_FUZZ_SEED: a number"));
    for (name, target) in TARGETS {
        let seeds = seeds(name);
        assert!(!seeds.is_empty(), "{name}");
        let end = Instant::now() + Duration::from_millis(millis);
        let mut dice = Dice(mix(seed, name.len() as u64));
        let mut runs = 0u32;
        while runs < 100 || Instant::now() < end {
            let input = damaged(&seeds[dice.below(seeds.len())], &mut dice);
            let shown = Shown(name, &input);
            target(&input);
            core::mem::forget(shown);
            runs += 1;
        }
        println!("{name}: {runs} runs");
    }
}

/// Prints the input when the target panics.
struct Shown<'a>(&'a str, &'a [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        eprintln!("target {} panicked on {:02x?}", self.0, self.1);
    }
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(1);
        (mix(self.0, 0x5eed) % end.max(1) as u64) as usize
    }
}

fn damaged(seed: &[u8], dice: &mut Dice) -> Vec<u8> {
    const INTERESTING: [u8; 12] = [0, 1, 2, 4, 5, 20, 0x45, 0x4f, 0x7f, 0x80, 0xf0, 0xff];
    let mut input = seed.to_vec();
    for _ in 0..dice.below(5) {
        let at = dice.below(input.len());
        match dice.below(6) {
            0 => input.truncate(at),
            1 => input.extend(vec![dice.below(256) as u8; dice.below(40)]),
            2 if !input.is_empty() => input[at] = INTERESTING[dice.below(INTERESTING.len())],
            3 if !input.is_empty() => input[at] ^= 1 << dice.below(8),
            4 if !input.is_empty() => drop(input.remove(at)),
            _ => input.insert(at.min(input.len()), dice.below(256) as u8),
        }
    }
    input
}

//! Which uses of a nonce were seen (RFC 7616 section 5.12): a request that is sent a second time by somebody who has listened is not accepted.

use std::time::Duration;

use rustc_hash::FxHashMap;

use super::nonce::Known;
use crate::sip::time::Time;

/// Nonces that are remembered at most, in each of two generations: some 30 MiB at worst.
const MOST: usize = 1 << 19;

/// The nonces that were used with a right password, for as long as they are good.
#[derive(Debug)]
pub(super) struct Replays {
    lifetime: Duration,
    /// Nonces made before this moment are not accepted, because their uses are forgotten.
    since: Time,
    /// When `current` began.
    turned: Time,
    current: FxHashMap<Key, Uses>,
    previous: FxHashMap<Key, Uses>,
}

type Key = (u64, u32);

/// Counts that were seen: the highest, and which of the 64 before it.
#[derive(Clone, Copy, Debug)]
struct Uses {
    highest: u32,
    seen: u64,
}

impl Replays {
    pub fn new(lifetime: Duration, now: Time) -> Replays {
        Replays {
            lifetime,
            since: now,
            turned: now,
            current: FxHashMap::default(),
            previous: FxHashMap::default(),
        }
    }

    pub fn set_lifetime(&mut self, lifetime: Duration) {
        self.lifetime = lifetime;
    }

    /// Whether a nonce has not been used with this count. Counts may come a little out of order, as datagrams do.
    pub fn is_new(&self, nonce: &Known, nc: u32) -> bool {
        let key = (nonce.made.0, nonce.serial);
        nonce.made >= self.since
            && match self.current.get(&key).or_else(|| self.previous.get(&key)) {
                None => true,
                Some(uses) => uses.is_new(nc),
            }
    }

    /// Remembers a use.
    pub fn used(&mut self, nonce: &Known, nc: u32, now: Time) {
        if now.since(self.turned) >= self.lifetime {
            // What is in `previous` was used more than a lifetime ago, so it was made before that.
            self.previous = std::mem::take(&mut self.current);
            self.turned = now;
        }
        if self.current.len() >= MOST {
            // Everybody gets a new nonce; nothing that was used before is accepted.
            self.current.clear();
            self.previous.clear();
            self.since = Time(now.0 + 1);
            self.turned = now;
        }
        let key = (nonce.made.0, nonce.serial);
        let before = self.previous.remove(&key).unwrap_or(Uses { highest: 0, seen: 0 });
        self.current.entry(key).or_insert(before).note(nc);
    }
}

impl Uses {
    fn is_new(&self, nc: u32) -> bool {
        match self.highest.checked_sub(nc) {
            None => true,
            Some(back @ 0..64) => self.seen >> back & 1 == 0,
            Some(_) => false,
        }
    }

    fn note(&mut self, nc: u32) {
        match nc.checked_sub(self.highest) {
            Some(ahead) => {
                self.seen = self.seen.checked_shl(ahead).unwrap_or(0) | 1;
                self.highest = nc;
            }
            None => self.seen |= 1u64.checked_shl(self.highest - nc).unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIFETIME: Duration = Duration::from_secs(300);

    fn nonce(made: u64, serial: u32) -> Known {
        Known {
            made: Time(made),
            serial,
        }
    }

    proptest! {
        /// Each count once, in any order; what is too far back counts as used.
        #[test]
        fn each_count_is_accepted_once(counts in prop::collection::vec(1..200u32, 0..300)) {
            let mut replays = Replays::new(LIFETIME, Time(0));
            let mut seen = std::collections::HashSet::new();
            for nc in counts {
                let highest = seen.iter().max().copied().unwrap_or(0);
                let expected = !seen.contains(&nc) && nc + 64 > highest;
                prop_assert_eq!(replays.is_new(&nonce(1, 1), nc), expected);
                prop_assert!(replays.is_new(&nonce(1, 2), nc));
                if expected {
                    replays.used(&nonce(1, 1), nc, Time(2));
                    seen.insert(nc);
                }
            }
        }
    }

    #[test]
    fn uses_are_remembered_for_a_lifetime_at_least() {
        let mut replays = Replays::new(LIFETIME, Time(0));
        for at in (0..3_000_000).step_by(10_000) {
            replays.used(&nonce(at, 1), 1, Time(at));
            for old in (at.saturating_sub(299_999)..=at).filter(|old| old % 10_000 == 0) {
                assert!(!replays.is_new(&nonce(old, 1), 1), "{old} at {at}");
            }
            assert!(replays.current.len() + replays.previous.len() <= 61);
        }
    }

    #[test]
    fn memory_is_bounded_and_nothing_comes_back() {
        let mut replays = Replays::new(LIFETIME, Time(0));
        for serial in 0..MOST as u32 + 1 {
            replays.used(&nonce(5, serial), 1, Time(10));
        }
        assert_eq!(replays.current.len(), 1);
        assert!(!replays.is_new(&nonce(5, 0), 1) && !replays.is_new(&nonce(10, 0), 1));
        assert!(replays.is_new(&nonce(11, 0), 1));
    }
}

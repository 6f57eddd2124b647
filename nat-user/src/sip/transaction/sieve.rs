//! A small set that says of most keys at once that they are not in a big table: as good as all requests are new, and to look for them in the table
//! means to wait for memory that nobody has touched for long.

use super::key::Key;

/// Bits for each key that it has room for: then one of eight keys that are not there seems to be.
const BITS: usize = 8;

/// Keys that may be in a table whose entries go in the order in which they came. Keys cannot be taken out, so there are two sets: when all that was put
/// into the older one has gone, it begins anew as the younger one.
#[derive(Debug, Default)]
pub struct Sieve {
    younger: Box<[u64]>,
    older: Box<[u64]>,
    /// So many keys are in the younger set, and so many at most are to be.
    count: usize,
    room: usize,
}

impl Sieve {
    /// For a table of at most so many entries.
    pub fn new(entries: usize) -> Sieve {
        let words = (entries * BITS).div_ceil(64).next_power_of_two();
        Sieve {
            younger: vec![0; words].into(),
            older: vec![0; words].into(),
            count: 0,
            room: entries,
        }
    }

    /// A key comes into the table, which never has more than the entries that this was made for.
    pub fn insert(&mut self, key: Key) {
        if self.count >= self.room {
            std::mem::swap(&mut self.younger, &mut self.older);
            self.younger.fill(0);
            self.count = 0;
        }
        self.count += 1;
        let (word, bit) = self.place(key);
        self.younger[word] |= bit;
    }

    /// Whether a key may be in the table. False: it is not.
    pub fn may_have(&self, key: Key) -> bool {
        let (word, bit) = self.place(key);
        let has = |set: &[u64]| set.get(word).is_some_and(|bits| bits & bit != 0);
        has(&self.younger) || has(&self.older)
    }

    /// By the upper half of the key: tables take the lower one.
    fn place(&self, key: Key) -> (usize, u64) {
        let place = (key.number() >> 32) as usize;
        ((place / 64) & self.younger.len().wrapping_sub(1), 1 << (place % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_table_is_never_missed_and_most_else_is() {
        let keys: Vec<Key> = (0..10_000).map(Key::of_test).collect();
        let mut sieve = Sieve::new(1000);
        let mut seeming = 0;
        for (number, key) in keys.iter().enumerate() {
            seeming += usize::from(sieve.may_have(*key));
            sieve.insert(*key);
            assert!(keys[..=number].iter().rev().take(1000).all(|key| sieve.may_have(*key)));
        }
        assert!(seeming < keys.len() / 4, "{seeming}");
        assert!(!Sieve::default().may_have(keys[0]));
    }
}

//! Token buckets in a table of fixed size.

use crate::sip::time::Time;

/// Places that one source may be in.
const WAYS: usize = 8;
/// Sets of places; 1 MiB in all.
const SETS: usize = 1 << 13;

/// A bucket for each source that has asked lately, found by a keyed hash of its address.
#[derive(Debug)]
pub(super) struct Buckets(Box<[[Bucket; WAYS]]>);

/// Instead of tokens: the moment when the bucket is full again. The further ahead it is, the more was taken.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// What tells sources apart that share a set; two sources of one tag share a bucket, once in 2^50 pairs.
    tag: u64,
    /// Nanoseconds.
    full_at: u64,
}

impl Buckets {
    pub fn new() -> Buckets {
        Buckets(vec![[Bucket::default(); WAYS]; SETS].into_boxed_slice())
    }

    /// Takes one token; `interval`: nanoseconds for which one comes back. False: there is none.
    pub fn take(&mut self, hash: u64, interval: u64, burst: u32, now: Time) -> bool {
        let now = now.0.saturating_mul(1_000_000);
        let set = &mut self.0[hash as usize % SETS];
        let place = match set.iter().position(|bucket| bucket.tag == hash) {
            Some(place) => place,
            None => {
                // The one from which least was taken gives way: it loses least by starting afresh.
                let least = set.iter().enumerate().min_by_key(|(_, bucket)| bucket.full_at);
                let place = least.map_or(0, |(place, _)| place);
                set[place] = Bucket { tag: hash, full_at: 0 };
                place
            }
        };
        let bucket = &mut set[place];
        let full_at = bucket.full_at.max(now).saturating_add(interval);
        if full_at - now > interval.saturating_mul(burst.max(1).into()) {
            return false;
        }
        bucket.full_at = full_at;
        true
    }

    #[cfg(test)]
    pub fn memory(&self) -> usize {
        std::mem::size_of_val(&*self.0)
    }
}

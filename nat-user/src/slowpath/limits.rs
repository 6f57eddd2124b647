//! Rate limits of the ICMP errors (RFC 1812 §4.3.2.8): one budget for all, one per receiver.

use std::collections::HashMap;
use std::time::Instant;

use crate::units::Rate;

/// Receivers whose budgets are remembered; beyond that some are forgotten.
const RECEIVERS: usize = 4096;

/// A token bucket: as many events at once as the rate's count, refilled evenly.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// When the bucket is (or was) full again, in nanoseconds since the limiter began.
    full_at: u64,
}

impl Bucket {
    /// Whether a token is there.
    fn has(&self, rate: &Rate, now: u64) -> bool {
        let used = self.full_at.saturating_sub(now);
        used + rate.interval_ns() <= rate.interval_ns() * u64::from(rate.count)
    }

    fn take(&mut self, rate: &Rate, now: u64) {
        self.full_at = self.full_at.max(now) + rate.interval_ns();
    }
}

/// Decides which errors may be sent.
#[derive(Debug)]
pub struct Limits {
    began: Instant,
    all: Rate,
    each: Rate,
    /// Errors to the outside get at most half of `all`, so that nobody out there can silence `traceroute` inside.
    outside: Rate,
    all_left: Bucket,
    outside_left: Bucket,
    receivers: HashMap<u32, Bucket>,
}

impl Limits {
    /// Full budgets.
    pub fn new(all: Rate, each: Rate, now: Instant) -> Self {
        let full = Bucket { full_at: 0 };
        Self {
            began: now,
            all,
            each,
            outside: half(all),
            all_left: full,
            outside_left: full,
            receivers: HashMap::new(),
        }
    }

    /// Changes the rates; what was used stays used.
    pub fn configure(&mut self, all: Rate, each: Rate) {
        (self.all, self.each, self.outside) = (all, each, half(all));
    }

    /// Takes a token for an error to `receiver`, if every budget has one.
    pub fn allow(&mut self, receiver: u32, from_outside: bool, now: Instant) -> bool {
        let now = now.saturating_duration_since(self.began).as_nanos() as u64;
        if !self.all_left.has(&self.all, now) || from_outside && !self.outside_left.has(&self.outside, now) {
            return false;
        }
        if self.receivers.len() >= RECEIVERS && !self.receivers.contains_key(&receiver) {
            self.forget(now);
        }
        let bucket = self.receivers.entry(receiver).or_insert(Bucket { full_at: 0 });
        if !bucket.has(&self.each, now) {
            return false;
        }
        bucket.take(&self.each, now);
        self.all_left.take(&self.all, now);
        if from_outside {
            self.outside_left.take(&self.outside, now);
        }
        true
    }

    /// Makes room: full buckets need not be remembered; if all are in use, half of them go, whichever they are. Their receivers
    /// begin anew, within the budget of all.
    fn forget(&mut self, now: u64) {
        self.receivers.retain(|_, bucket| bucket.full_at > now);
        if self.receivers.len() >= RECEIVERS {
            let mut keep = false;
            self.receivers.retain(|_, _| {
                keep = !keep;
                keep
            });
        }
    }
}

fn half(rate: Rate) -> Rate {
    Rate {
        count: (rate.count / 2).max(1),
        per: rate.per,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn limits(all: u32, each: u32) -> (Limits, Instant) {
        let now = Instant::now();
        (Limits::new(Rate::per_second(all), Rate::per_second(each), now), now)
    }

    #[test]
    fn a_receiver_gets_its_burst_and_then_its_rate() {
        let (mut l, start) = limits(1000, 10);
        let sent = (0..50).filter(|_| l.allow(1, false, start)).count();
        assert_eq!(sent, 10);
        assert!(!l.allow(1, false, start + Duration::from_millis(99)));
        assert!(l.allow(1, false, start + Duration::from_millis(100)));
        assert!(!l.allow(1, false, start + Duration::from_millis(100)));
        assert!(l.allow(2, false, start), "another receiver has a budget of its own");
    }

    #[test]
    fn all_together_are_limited() {
        let (mut l, start) = limits(100, 10);
        let sent = (0..10_000u32).filter(|i| l.allow(*i, false, start)).count();
        assert_eq!(sent, 100);
        let later = start + Duration::from_secs(1);
        let sent = (0..10_000u32).filter(|i| l.allow(*i, false, later)).count();
        assert_eq!(sent, 100);
    }

    #[test]
    fn the_outside_leaves_half_to_the_inside() {
        let (mut l, start) = limits(100, 10);
        let outside = (0..10_000u32).filter(|i| l.allow(*i, true, start)).count();
        let inside = (0..10_000u32).filter(|i| l.allow(*i, false, start)).count();
        assert_eq!((outside, inside), (50, 50));
    }

    #[test]
    fn refused_receivers_take_no_memory_and_the_table_is_bounded() {
        let (mut l, start) = limits(1_000_000, 10);
        for receiver in 0..100_000 {
            l.allow(receiver, false, start);
        }
        assert!(l.receivers.len() <= RECEIVERS, "{}", l.receivers.len());
        let (mut l, start) = limits(1, 1);
        for receiver in 0..1000 {
            l.allow(receiver, false, start);
        }
        assert_eq!(l.receivers.len(), 1);
    }
}

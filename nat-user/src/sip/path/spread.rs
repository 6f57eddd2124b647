//! Random lengths of time that keep prompts apart from each other, however many paths began at the same moment.

use std::time::Duration;

/// The source of randomness. It decides nothing that an attacker must not guess.
#[derive(Debug)]
pub(super) struct Spread(fastrand::Rng);

impl Spread {
    pub fn new(secret: [u8; 32]) -> Spread {
        let (seed, _) = secret.split_first_chunk().expect("32 bytes hold 8");
        Spread(fastrand::Rng::with_seed(u64::from_le_bytes(*seed)))
    }

    /// From one prompt to the next: between `interval` less `jitter` percent and `interval`, every length as likely as another.
    pub fn period(&mut self, interval: Duration, jitter: u8) -> Duration {
        let (least, most) = bounds(interval, jitter);
        Duration::from_millis(self.0.u64(least..=most))
    }

    /// From the beginning to the first prompt: as long as somebody who comes at any moment waits for the next of a series that has always been
    /// going on. That is what makes the prompts of paths that begin together even from the first on. (A uniform choice from
    /// the interval does not: where its end meets the second prompts of those that came first there would be twice as many.)
    pub fn first(&mut self, interval: Duration, jitter: u8) -> Duration {
        let (least, most) = bounds(interval, jitter);
        loop {
            // Density: flat up to the shortest period, then falling to nothing at the longest. By rejection.
            let wait = self.0.u64(0..=most);
            if wait <= least || self.0.u64(least..=most) >= wait {
                return Duration::from_millis(wait);
            }
        }
    }
}

/// The shortest and the longest period, in milliseconds; at least 1.
fn bounds(interval: Duration, jitter: u8) -> (u64, u64) {
    let most = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1);
    let least = most - most.saturating_mul(u64::from(jitter.min(100))) / 100;
    (least.max(1), most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_only_shortens() {
        let mut spread = Spread::new([7; 32]);
        let interval = Duration::from_secs(15);
        let periods: Vec<_> = (0..10_000).map(|_| spread.period(interval, 20)).collect();
        assert!(
            periods
                .iter()
                .all(|period| (12_000..=15_000).contains(&(period.as_millis() as u64)))
        );
        let mean = periods.iter().sum::<Duration>() / 10_000;
        assert!((13_400..13_600).contains(&(mean.as_millis() as u64)), "{mean:?}");
        assert_eq!(spread.period(interval, 0), interval);
        assert!((0..1000).all(|_| spread.first(interval, 20) <= interval));
        // Odd settings: no panic, never zero periods.
        assert_eq!(spread.period(Duration::ZERO, 200), Duration::from_millis(1));
    }
}

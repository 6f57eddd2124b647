//! The data path's clock: jiffies, shifted to ticks of 50 to 80 ms.
//!
//! How many jiffies a second has is a build option of the kernel that it tells nobody. So a program that reads jiffies is
//! run twice, a little apart; from then on the clock is extrapolated, because jiffies follow CLOCK_MONOTONIC.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, TestRun as _, TestRunOptions,
    maps::{Array, MapData},
};

use super::object;

/// The frequencies that Linux can be built with.
const FREQUENCIES: [u32; 4] = [100, 250, 300, 1000];
/// Far enough apart to tell 250 from 300.
const APART: Duration = Duration::from_millis(120);
/// A reading that took longer than this was interrupted.
const QUICK: Duration = Duration::from_millis(3);
/// The longest span that ages are compared over: half the range of a tick.
const LONGEST: u32 = i32::MAX as u32 / 2;

/// Tells ticks. Cheap to copy.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    hz: u32,
    shift: u32,
    jiffies: u64,
    read: Instant,
}

impl Clock {
    /// A clock of `hz` jiffies in a second that stood at `jiffies` when it was `read`.
    pub fn new(hz: u32, jiffies: u64, read: Instant) -> Self {
        let shift = match hz {
            1000 => 6,
            250 | 300 => 4,
            _ => 3,
        };
        Self {
            hz,
            shift,
            jiffies,
            read,
        }
    }

    /// Finds out how the kernel's clock runs, in about 120 ms. The program `object::CLOCK` must be loaded.
    pub fn measure(ebpf: &mut Ebpf) -> Result<Self> {
        let (first, at_first) = reading(ebpf)?;
        std::thread::sleep(APART);
        let (second, at_second) = reading(ebpf)?;
        let rate = second.wrapping_sub(first) as f64 / at_second.duration_since(at_first).as_secs_f64();
        Ok(Self::new(nearest(rate), second, at_second))
    }

    /// Jiffies in a second.
    pub fn hz(&self) -> u32 {
        self.hz
    }

    /// Shift from jiffies to ticks.
    pub fn tick_shift(&self) -> u32 {
        self.shift
    }

    /// Whole ticks in a second, rounded up.
    pub fn ticks_per_second(&self) -> u32 {
        self.ticks(Duration::from_secs(1))
    }

    /// Now, in ticks.
    pub fn now(&self) -> u32 {
        self.at(Instant::now())
    }

    fn at(&self, when: Instant) -> u32 {
        let passed = when.saturating_duration_since(self.read).as_nanos() as u64 / self.jiffy();
        (self.jiffies.wrapping_add(passed) >> self.shift) as u32
    }

    /// The least number of ticks that is not shorter than `duration`, at least one.
    pub fn ticks(&self, duration: Duration) -> u32 {
        let ticks = duration.as_nanos().div_ceil(u128::from(self.tick()));
        u32::try_from(ticks).unwrap_or(LONGEST).clamp(1, LONGEST)
    }

    /// How long so many ticks are.
    pub fn duration(&self, ticks: u32) -> Duration {
        Duration::from_nanos(u64::from(ticks) * self.tick())
    }

    /// How long ago `stamp` was; nothing for a stamp that is ahead.
    pub fn age(&self, stamp: u32) -> Duration {
        self.duration(self.now().wrapping_sub(stamp).cast_signed().max(0).cast_unsigned())
    }

    /// The wall clock at `stamp`, if it has not been set since.
    pub fn time(&self, stamp: u32) -> SystemTime {
        let now = SystemTime::now();
        now.checked_sub(self.age(stamp)).unwrap_or(now)
    }

    /// Nanoseconds of a jiffy as the kernel rounds them.
    fn jiffy(&self) -> u64 {
        (1_000_000_000 + u64::from(self.hz) / 2) / u64::from(self.hz)
    }

    fn tick(&self) -> u64 {
        self.jiffy() << self.shift
    }
}

/// One reading that was not interrupted, if there is one among a few.
fn reading(ebpf: &mut Ebpf) -> Result<(u64, Instant)> {
    let mut best: Option<(u64, Instant, Duration)> = None;
    for _ in 0..10 {
        let before = Instant::now();
        object::program(ebpf, object::CLOCK)?
            .test_run(TestRunOptions {
                data_in: Some(&[0; 64]),
                ..TestRunOptions::new()
            })
            .context("cannot run the program that reads the kernel's clock")?;
        let took = before.elapsed();
        let map = ebpf.map(object::CLOCK_MAP).context("no map CLOCK in the object")?;
        let jiffies = Array::<&MapData, u64>::try_from(map)?.get(&0, 0)?;
        if best.is_none_or(|(_, _, shortest)| took < shortest) {
            best = Some((jiffies, before + took / 2, took));
        }
        if took < QUICK {
            break;
        }
    }
    match best {
        Some((jiffies, at, _)) if jiffies != 0 => Ok((jiffies, at)),
        _ => bail!("the kernel's clock stands still"),
    }
}

fn nearest(rate: f64) -> u32 {
    let distance = |hz: u32| (rate / f64::from(hz)).ln().abs();
    FREQUENCIES
        .into_iter()
        .min_by(|a, b| distance(*a).total_cmp(&distance(*b)))
        .unwrap_or(250)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_are_recognised_with_jitter() {
        for (rate, hz) in [
            (97.0, 100),
            (110.0, 100),
            (245.0, 250),
            (262.0, 250),
            (290.0, 300),
            (308.0, 300),
            (930.0, 1000),
        ] {
            assert_eq!(nearest(rate), hz, "{rate}");
        }
    }

    #[test]
    fn ticks_are_rounded_up_and_never_none() {
        for (hz, second) in [(100, 13), (250, 16), (300, 19), (1000, 16)] {
            let clock = Clock::new(hz, 0, Instant::now());
            assert_eq!(clock.ticks_per_second(), second, "{hz}");
            assert_eq!(clock.ticks(Duration::ZERO), 1);
            assert_eq!(clock.ticks(Duration::MAX), LONGEST);
            for seconds in [1, 60, 7440, 30 * 86400] {
                let span = Duration::from_secs(seconds);
                let back = clock.duration(clock.ticks(span));
                assert!(
                    back >= span && back - span <= clock.duration(1),
                    "{hz} {seconds} {back:?}"
                );
            }
        }
    }

    #[test]
    fn the_clock_goes_on_and_wraps() {
        let start = Instant::now();
        let clock = Clock::new(250, (u64::from(u32::MAX) << 4) + 15, start);
        assert_eq!(clock.at(start), u32::MAX);
        assert_eq!(clock.at(start + Duration::from_millis(4)), 0);
        assert_eq!(clock.at(start + Duration::from_secs(64)), 999);
        assert_eq!(clock.age(clock.now().wrapping_add(5)), Duration::ZERO);
    }
}

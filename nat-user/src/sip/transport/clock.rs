//! The clock behind [`Time`]: the wall clock once, monotonic time from then on.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::sip::time::Time;

/// Tells the time of the SIP core.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began: Instant,
    wall: Time,
}

impl Clock {
    /// Reads the wall clock.
    pub fn start() -> Clock {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock {
            began: Instant::now(),
            wall: Time(0) + wall,
        }
    }

    pub fn now(&self) -> Time {
        self.wall + self.began.elapsed()
    }

    /// When `time` will have come: not before it, in whole milliseconds. `None`: never.
    pub fn instant(&self, time: Time) -> Option<Instant> {
        const FOREVER: Duration = Duration::from_secs(1 << 32);
        let ahead = time.since(self.wall);
        (ahead < FOREVER).then(|| self.began + ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_has_come_when_its_instant_has() {
        let clock = Clock::start();
        let later = clock.now() + Duration::from_millis(1500);
        let instant = clock.instant(later).expect("soon");
        assert_eq!(clock.wall + (instant - clock.began), later);
        assert_eq!(clock.instant(Time::MAX), None);
        assert!(clock.now() < later);
    }
}

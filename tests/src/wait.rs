//! Waiting for conditions, never for seconds.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// A deadline for things that take milliseconds on an idle machine. It only costs time when a test fails.
pub const SOON: Duration = Duration::from_secs(15);

/// Asks `condition` every few milliseconds until it has a value; the error says what was waited for and how long.
pub fn wait_for<T>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if start.elapsed() >= deadline {
            bail!("waited {:.1} s for {what}, in vain", start.elapsed().as_secs_f64());
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// [`wait_for`] a condition that is just true or false.
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    wait_for(what, deadline, || condition().then_some(()))
}

//! `cargo xtask bench media`: sipnat's relay beside rtpengine, with the same calls in one run.
//!
//! Whatever relays has one core. A relay in XDP works in the soft interrupt of the core that receives a packet, so generator, relay and
//! sink share it, and its cost is what a packet takes above the generator, as in `bench nat`. rtpengine is a process: the load waits for
//! it on another core, what comes in is steered to its own, and its cost is the CPU time of the process and of the soft interrupts
//! there. What the load's core does before it hands a packet over is not counted.

mod calls;
mod load;
mod memory;
mod prog;
mod relay;
mod rtpengine;
mod setups;
mod sink;
mod stand;
mod traffic;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::pps::Plan;
use super::report::Report;
use super::{document, machine};
use crate::cli::{BenchMedia, BenchMediaPart};
use crate::setup::packages::{self, Package};

/// What only this bench needs.
const PACKAGES: [Package; 1] = [("rtpengine-daemon", "rtpengine")];

/// Measures, prints, and writes the section of the document.
pub fn run(options: &BenchMedia) -> Result<()> {
    packages::ensure_these(&PACKAGES)?;
    let start = Instant::now();
    let bench = Bench::new(options)?;
    let cpu = bench.plan.cpu;
    // The load that waits stays off the relay's core.
    machine::pin(if cpu == 0 { 1 } else { 0 }).context("the load needs a core of its own")?;
    let mut report = Report::apart(
        "Media",
        cpu,
        &format!("the relay has core {cpu}, the load that waits for it is on another"),
    );
    relay::measure(&bench, &mut report)?;
    prog::measure(&bench, &mut report)?;
    calls::measure(&bench, &mut report)?;
    memory::measure(&bench, &mut report)?;
    setups::measure(&bench, &mut report)?;
    let whole = options.only.is_empty() && !options.quick;
    document::finish(&report, "media", start, whole, options.output.as_deref())
}

struct Bench {
    options: BenchMedia,
    plan: Plan,
}

impl Bench {
    fn new(options: &BenchMedia) -> Result<Self> {
        let (rounds, time) = if options.quick { (2, 150) } else { (7, 500) };
        let plan = Plan {
            cpu: options.cpu.map_or_else(machine::last_cpu, Ok)?,
            rounds,
            time: Duration::from_millis(time),
        };
        Ok(Self {
            options: options.clone(),
            plan,
        })
    }

    fn wants(&self, part: BenchMediaPart) -> bool {
        self.options.only.is_empty() || self.options.only.contains(&part)
    }
}

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
use crate::run::root;
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
    let mut report = Report {
        title: "Media",
        machine: machine::describe(cpu),
        command: std::env::args()
            .skip(1)
            .fold("cargo xtask".into(), |all, word| all + " " + &word),
        ..Report::default()
    };
    for (what, which) in &mut report.machine {
        if *what == "cores" {
            let count = which.split(';').next().unwrap_or_default();
            *which = format!("{count}; the relay has core {cpu}, the load that waits for it is on another");
        }
        println!("{what:<12} {which}");
    }
    relay::measure(&bench, &mut report)?;
    prog::measure(&bench, &mut report)?;
    calls::measure(&bench, &mut report)?;
    memory::measure(&bench, &mut report)?;
    setups::measure(&bench, &mut report)?;
    let summary = report.summary();
    println!("\n{}\n\n{}", summary.title, summary.render());
    println!("The whole took {:.0} s.", start.elapsed().as_secs_f64());
    let all = options.only.is_empty() && !options.quick;
    let default = all.then(|| root().join("docs/performance.md"));
    if let Some(path) = options.output.clone().or(default) {
        document::write(&path, "media", &report.section())?;
        println!("{} is written.", path.display());
    }
    Ok(())
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

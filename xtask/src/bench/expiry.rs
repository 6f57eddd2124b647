//! Sweeping: what it costs the daemon, and what packets notice of it.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::figures::Series;
use super::pps::Plan;
use super::report::Table;
use super::stand::Stand;

/// Pairs of a round with and a round without the daemon.
const PAIRS: u32 = 5;

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Bindings that were swept over.
    pub bindings: u32,
    /// CPU time of one pass in milliseconds, if the daemon tells it.
    pub pass_ms: Option<f64>,
    /// Share of one core that the daemon took while packets flowed, in percent.
    pub daemon: f64,
    /// Packets per second while the daemon swept.
    pub with: Series,
    /// Packets per second while it was stopped.
    pub without: Series,
}

impl Measured {
    /// Whether sweeping slows packets down by no more than the rounds without it differ among themselves.
    pub fn within_spread(&self) -> bool {
        self.without.median() - self.with.median() <= self.without.max() - self.without.min()
    }
}

/// Rounds with the daemon sweeping and rounds with it stopped (SIGSTOP), in turn.
pub fn measure(stand: &mut Stand, bindings: u32, plan: &Plan) -> Result<Measured> {
    eprintln!("{}: expiry with {bindings} bindings", stand.router);
    stand.open(bindings, plan.cpu)?;
    let mut measured = Measured {
        bindings,
        ..Measured::default()
    };
    let pid = stand.nat()?.daemon().pid();
    let mut share = Series::default();
    for pair in 0..PAIRS {
        // Which comes first changes, so that a drift of the machine favours neither.
        for stopped in [pair % 2 == 0, pair % 2 != 0] {
            stand
                .nat()?
                .daemon()
                .signal(if stopped { libc::SIGSTOP } else { libc::SIGCONT })?;
            let (before, start) = (cpu_ns(pid)?, Instant::now());
            let sample = stand.random(bindings, plan.time, plan.cpu)?;
            if stopped {
                measured.without.push(sample.pps);
            } else {
                measured.with.push(sample.pps);
                share.push((cpu_ns(pid)? - before) as f64 / start.elapsed().as_nanos() as f64 * 100.0);
            }
        }
    }
    measured.daemon = share.median();
    stand.nat()?.daemon().signal(libc::SIGCONT)?;
    let status = stand.nat()?.json(&["status"])?;
    measured.pass_ms = pass_ms(&status);
    let counted = status["bindings"]["udp"].as_u64().unwrap_or(0);
    ensure!(
        counted >= u64::from(bindings),
        "of {bindings} bindings, sipnat counts {counted}"
    );
    Ok(measured)
}

/// CPU time of the last pass in milliseconds: `sweep.cpu_us` in `sipnat status --json`.
fn pass_ms(status: &Value) -> Option<f64> {
    Some(status["sweep"]["cpu_us"].as_f64()? / 1000.0)
}

/// CPU time of all threads of a process so far, in nanoseconds.
fn cpu_ns(pid: u32) -> Result<u64> {
    let tasks = format!("/proc/{pid}/task");
    let mut sum = 0;
    for task in std::fs::read_dir(&tasks).with_context(|| format!("read {tasks}"))? {
        // A thread may end meanwhile.
        if let Ok(text) = std::fs::read_to_string(task?.path().join("schedstat")) {
            sum += text
                .split_whitespace()
                .next()
                .context("an empty schedstat")?
                .parse::<u64>()?;
        }
    }
    Ok(sum)
}

/// The table of these results.
pub fn table(measured: &Measured) -> Table {
    let text = format!(
        "Packets hit {} bindings at random; in {PAIRS} pairs of rounds the daemon sweeps in the one and is stopped in the \
         other.",
        measured.bindings
    );
    let mut table = Table::new("Expiry", &text, &["what", "figure"]);
    let mut row = |what: &str, figure: String| table.rows.push(vec![what.into(), figure]);
    row(
        "CPU of one pass, ms",
        measured.pass_ms.map_or("not told".into(), |ms| format!("{ms:.1}")),
    );
    row("the daemon's share of a core, %", format!("{:.2}", measured.daemon));
    row("Mpps, daemon sweeping", measured.with.text(1e6, 2));
    row("Mpps, daemon stopped", measured.without.text(1e6, 2));
    let change = (measured.with.median() / measured.without.median() - 1.0) * 100.0;
    row("difference of the medians, %", format!("{change:+.1}"));
    row(
        "within the spread",
        if measured.within_spread() {
            "yes".into()
        } else {
            "NO".into()
        },
    );
    table
}

//! Sweeping: what it costs the daemon, and what packets notice of it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::figures::Series;
use super::pps::Plan;
use super::report::Table;
use super::stand::Stand;

/// Pairs of a round with and a round without the daemon.
const PAIRS: u32 = 5;

/// In this time ten passes are made, one a second.
const TEN_PASSES: Duration = Duration::from_secs(60);

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Bindings that were swept over.
    pub bindings: u32,
    /// CPU time of the last pass in milliseconds, if the daemon tells it.
    pub pass_ms: Option<f64>,
    /// That of the dearest of ten passes: one of them looks at sessions, fragments and hosts too.
    pub dearest_ms: Option<f64>,
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
    let status = ten_passes(stand)?;
    measured.pass_ms = milliseconds(&status, "cpu_us");
    measured.dearest_ms = milliseconds(&status, "cpu_us_max");
    let visited = status["sweep"]["bindings_visited"].as_u64();
    ensure!(
        visited.is_none_or(|visited| visited >= u64::from(bindings)),
        "of {bindings} bindings, the last pass looked at {visited:?}: they are not what its CPU time is for"
    );
    let counted = status["bindings"]["udp"].as_u64().unwrap_or(0);
    ensure!(
        counted >= u64::from(bindings),
        "of {bindings} bindings, sipnat counts {counted}"
    );
    Ok(measured)
}

/// The status after ten more passes, so that none of those it tells of is from a time with fewer bindings or was stopped.
fn ten_passes(stand: &mut Stand) -> Result<Value> {
    let passes = |status: &Value| status["sweep"]["passes"].as_u64();
    let mut status = stand.nat()?.json(&["status"])?;
    let Some(first) = passes(&status) else {
        return Ok(status);
    };
    let deadline = Instant::now() + TEN_PASSES;
    // The pass that runs now has begun before.
    while passes(&status).is_some_and(|now| now <= first + 10) {
        ensure!(
            Instant::now() < deadline,
            "the sweeper made {:?} passes, {first} before {TEN_PASSES:?}; it should make one every second",
            passes(&status)
        );
        std::thread::sleep(Duration::from_millis(200));
        status = stand.nat()?.json(&["status"])?;
    }
    Ok(status)
}

/// A CPU time of `sweep` in `sipnat status --json`, in milliseconds.
fn milliseconds(status: &Value, field: &str) -> Option<f64> {
    Some(status["sweep"][field].as_f64()? / 1000.0)
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
    let told = |ms: Option<f64>| ms.map_or("not told".into(), |ms| format!("{ms:.1}"));
    row("CPU of the last pass, ms", told(measured.pass_ms));
    row("CPU of the dearest of ten passes, ms", told(measured.dearest_ms));
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

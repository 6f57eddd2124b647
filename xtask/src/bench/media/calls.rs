//! Calls at the pace of telephones: what a relay adds to the way of their packets, what it loses, and the CPU that they take.

use std::time::Duration;

use anyhow::Result;

use super::Bench;
use super::relay::THOUSAND_CALLS;
use super::stand::{Relay, Stand};
use crate::bench::figures::{Bound, Series};
use crate::bench::report::{Report, Table};
use crate::bench::sip::process;
use crate::cli::BenchMediaPart;

/// One relay.
#[derive(Default)]
struct Measured {
    /// Delay from the sender to the sink in microseconds: the middle, 99 of 100, and 999 of 1,000.
    delays: [Series; 3],
    /// Share of the packets that did not arrive, in percent.
    lost: Series,
    /// Packets per second.
    pps: Series,
    /// Share of a core that the process and the soft interrupts of its core took, in percent.
    cpu: Series,
}

const PERCENTILES: [f64; 3] = [50.0, 99.0, 99.9];
/// Legs of so many calls that one core is enough for rtpengine.
const SOME_CALLS: u32 = 400;

/// Measures all relays in turns.
pub fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut ratio = None;
    if bench.wants(BenchMediaPart::Calls) {
        let mut table = empty_table();
        let mut stands = Vec::new();
        for relay in [Relay::Bare, Relay::Sipnat, Relay::Rtpengine] {
            stands.push(Stand::new(relay, THOUSAND_CALLS, bench.plan.cpu)?);
        }
        let (rounds, time) = if bench.options.quick { (1, 1) } else { (5, 2) };
        for legs in [SOME_CALLS, THOUSAND_CALLS] {
            let mut results: Vec<Measured> = stands.iter().map(|_| Measured::default()).collect();
            for _ in 0..rounds {
                for (stand, measured) in stands.iter_mut().zip(&mut results) {
                    round(stand, measured, legs, Duration::from_secs(time), bench.plan.cpu)?;
                }
            }
            let relays = stands.iter().map(|stand| stand.relay);
            table
                .rows
                .extend(relays.zip(&results).map(|(relay, measured)| measured.row(relay, legs)));
            let [_, own, other] = [0, 1, 2].map(|at: usize| results[at].delays[1].median());
            ratio = ratio.or(Some(own / other));
        }
        report.add(table);
    }
    report.target(
        &format!(
            "p99 of the delay of {} calls over that through rtpengine",
            SOME_CALLS / 2
        ),
        Bound::AtMost(1.0),
        ratio,
        " x",
    );
    Ok(())
}

fn round(stand: &mut Stand, measured: &mut Measured, legs: u32, time: Duration, cpu: usize) -> Result<()> {
    let mut load = stand.load(legs)?;
    stand.count(true)?;
    let pids = stand.engine().map(|engine| engine.pids(cpu)).transpose()?;
    let used = || pids.as_deref().map(process::cpu).transpose();
    let before = used()?;
    let sent = load.talk(time)?;
    // The last ones are still on their way through a process.
    std::thread::sleep(Duration::from_millis(100));
    if let (Some(before), Some(after)) = (before, used()?) {
        measured
            .cpu
            .push(100.0 * (after - before).as_secs_f64() / sent.time.as_secs_f64());
    }
    let arrived = stand.arrived()? as f64;
    measured.lost.push(100.0 * (1.0 - arrived / sent.packets as f64));
    measured.pps.push(arrived / sent.time.as_secs_f64());
    let delays = stand.sink()?.delays()?;
    for (percent, series) in PERCENTILES.into_iter().zip(&mut measured.delays) {
        series.push(delays.percentile(percent).unwrap_or(f64::NAN) / 1000.0);
    }
    Ok(())
}

impl Measured {
    fn row(&self, relay: Relay, legs: u32) -> Vec<String> {
        let [p50, p99, p999] = &self.delays;
        let cpu = (relay == Relay::Rtpengine).then(|| self.cpu.text(1.0, 0));
        vec![
            relay.to_string(),
            (legs / 2).to_string(),
            p50.text(1.0, 1),
            p99.text(1.0, 1),
            p999.text(1.0, 1),
            format!("{:.0}", self.pps.median()),
            self.lost.text(1.0, 2),
            cpu.unwrap_or("-".into()),
        ]
    }
}

fn empty_table() -> Table {
    let text = "Calls of G.711, a packet of 20 ms in each direction: two streams each, evenly spread, sent by the load on another core. The \
                delay is from the load's system call to the sink behind the relay, with both links; the bare redirect shows what of it is not \
                the relay's. A relay in XDP works on the core that sends here and has no process; rtpengine's CPU is that of its process \
                and of its core's soft interrupts as far as they do not run in idle time.";
    let columns = [
        "relay",
        "calls",
        "p50 µs",
        "p99 µs",
        "p99.9 µs",
        "packets per second",
        "lost %",
        "process, % of a core",
    ];
    Table::new("Calls at their own pace", text, &columns)
}

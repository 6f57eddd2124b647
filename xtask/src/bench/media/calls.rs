//! 1,000 calls at the pace of telephones: what a relay adds to the way of their packets, what it loses, and the CPU that they take.

use std::time::Duration;

use anyhow::Result;

use super::Bench;
use super::relay::THOUSAND_CALLS;
use super::stand::{Relay, Stand};
use crate::bench::figures::Series;
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

/// Measures all relays in turns.
pub fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut ratio = None;
    if bench.wants(BenchMediaPart::Calls) {
        let mut stands = Vec::new();
        for relay in [Relay::Bare, Relay::Sipnat, Relay::Rtpengine] {
            stands.push((Stand::new(relay, THOUSAND_CALLS, bench.plan.cpu)?, Measured::default()));
        }
        let (rounds, time) = if bench.options.quick { (1, 1) } else { (5, 4) };
        for _ in 0..rounds {
            for (stand, measured) in &mut stands {
                round(stand, measured, Duration::from_secs(time), bench.plan.cpu)?;
            }
        }
        report.add(table(&stands));
        let p99 = |relay| {
            let (_, measured) = stands.iter().find(|(stand, _)| stand.relay == relay)?;
            Some(measured.delays[1].median())
        };
        ratio = p99(Relay::Sipnat).and_then(|own| Some(own / p99(Relay::Rtpengine)?));
    }
    report.target(
        "p99 of the delay of 1,000 calls over that through rtpengine",
        crate::bench::figures::Bound::AtMost(1.0),
        ratio,
        " x",
    );
    Ok(())
}

fn round(stand: &mut Stand, measured: &mut Measured, time: Duration, cpu: usize) -> Result<()> {
    let mut load = stand.load(THOUSAND_CALLS)?;
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

fn table(stands: &[(Stand, Measured)]) -> Table {
    let text = "1,000 calls of G.711, a packet of 20 ms in each direction; 2,000 streams, evenly spread, sent by the load on another core. The \
                delay is from the load's system call to the sink behind the relay, with both links; the bare redirect shows what of it is not \
                the relay's. A relay in XDP works on the core that sends here and has no process; rtpengine's CPU is that of its process \
                and of its core's soft interrupts as far as they do not run in idle time.";
    let columns = [
        "relay",
        "p50 µs",
        "p99 µs",
        "p99.9 µs",
        "packets per second",
        "lost %",
        "process, % of a core",
    ];
    let mut table = Table::new("1,000 calls", text, &columns);
    for (stand, measured) in stands {
        let [p50, p99, p999] = &measured.delays;
        let cpu = (stand.relay == Relay::Rtpengine).then(|| measured.cpu.text(1.0, 0));
        table.rows.push(vec![
            stand.relay.to_string(),
            p50.text(1.0, 1),
            p99.text(1.0, 1),
            p999.text(1.0, 1),
            format!("{:.0}", measured.pps.median()),
            measured.lost.text(1.0, 2),
            cpu.unwrap_or("-".into()),
        ]);
    }
    table
}

//! Packets per second on one core, and what one of them costs, with few legs and many.

use anyhow::{Context, Result};

use super::Bench;
use super::stand::{Relay, Stand};
use crate::bench::figures::{Bound, Series};
use crate::bench::pps::Plan;
use crate::bench::report::{Report, Table};
use crate::bench::sip::process;
use crate::cli::BenchMediaPart;

/// Legs of the small measurement.
pub const TEN: u32 = 10;
/// Legs of 1,000 calls: the comparison with rtpengine.
pub const THOUSAND_CALLS: u32 = 2_000;
/// Legs of the large measurement.
pub const TEN_THOUSAND: u32 = 10_000;

/// One relay at one number of legs.
struct Measured {
    relay: Relay,
    legs: u32,
    /// Packets per second that arrived.
    pps: Series,
    /// CPU time per packet in nanoseconds; for relays in XDP with the generator's.
    ns: Series,
    /// Share of the packets that did not arrive, in percent.
    lost: Series,
}

/// Measures it, and compares.
pub fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut results = Vec::new();
    if bench.wants(BenchMediaPart::Relay) {
        let plan = &bench.plan;
        let stand = |relay| Stand::new(relay, TEN_THOUSAND, plan.cpu);
        let mut engine = stand(Relay::Rtpengine)?;
        let mut in_kernel = vec![stand(Relay::Generator)?, stand(Relay::Bare)?, stand(Relay::Sipnat)?];
        for legs in [TEN, THOUSAND_CALLS, TEN_THOUSAND] {
            for stand in &mut in_kernel {
                eprintln!("{}: {legs} legs", stand.relay);
                stand.open(legs, plan.cpu)?;
            }
            let before = results.len();
            results.extend(in_kernel.iter().map(|stand| Measured::new(stand.relay, legs)));
            if legs == THOUSAND_CALLS {
                results.push(Measured::new(Relay::Rtpengine, legs));
            }
            for _ in 0..plan.rounds {
                for (stand, result) in in_kernel.iter_mut().zip(&mut results[before..]) {
                    let sample = stand.random(legs, plan.time, plan.cpu)?;
                    result.add(sample.pps, 1e9 / sample.pps, sample.sent, sample.received);
                }
                if legs == THOUSAND_CALLS {
                    press(&mut engine, legs, plan, &mut results[before + in_kernel.len()])?;
                }
            }
        }
        report.add(table(&results));
    }
    goals(&results, report);
    Ok(())
}

/// One round of as many packets as rtpengine relays.
fn press(stand: &mut Stand, legs: u32, plan: &Plan, result: &mut Measured) -> Result<()> {
    let mut load = stand.load(legs)?;
    let pids = stand.engine().context("no rtpengine")?.pids(plan.cpu)?;
    stand.count(false)?;
    let before = process::cpu(&pids)?;
    let sent = load.press(plan.time, || stand.arrived())?;
    let used = process::cpu(&pids)? - before;
    stand.sink()?;
    let arrived = stand.arrived()?;
    let pps = arrived as f64 / sent.time.as_secs_f64();
    result.add(pps, used.as_nanos() as f64 / arrived as f64, sent.packets, arrived);
    Ok(())
}

impl Measured {
    fn new(relay: Relay, legs: u32) -> Self {
        Self {
            relay,
            legs,
            pps: Series::default(),
            ns: Series::default(),
            lost: Series::default(),
        }
    }

    fn add(&mut self, pps: f64, ns: f64, sent: u64, arrived: u64) {
        self.pps.push(pps);
        self.ns.push(ns);
        self.lost.push(100.0 * (1.0 - arrived as f64 / sent as f64));
    }
}

fn find(results: &[Measured], relay: Relay, legs: u32) -> Option<&Measured> {
    results
        .iter()
        .find(|result| result.relay == relay && result.legs == legs)
}

/// Nanoseconds of CPU time for a packet, without the generator's.
fn cost(results: &[Measured], relay: Relay, legs: u32) -> Option<f64> {
    let ns = find(results, relay, legs)?.ns.median();
    Some(match relay {
        Relay::Rtpengine => ns,
        _ => ns - find(results, Relay::Generator, legs)?.ns.median(),
    })
}

fn table(results: &[Measured]) -> Table {
    let text = "20 ms of G.711 in frames of 214 bytes, every leg with a peer of its own that sends, in and out by one interface; streams are \
                hit at random by the generator, in turn by the load. In XDP generator, relay and sink share one core: the cost is what a \
                packet takes above the generator, soft interrupts and redirect included. rtpengine (Debian's, one worker) relays in user \
                space, as its kernel module is not available here; another core sends as many packets as arrive, and the cost is the CPU \
                time of the process and of its core's soft interrupts, whose work on the load's core (reception up to the steering) is not in \
                it.";
    let columns = [
        "relay",
        "legs",
        "thousand packets per second",
        "CPU-ns per packet",
        "lost %",
    ];
    let mut table = Table::new("Relaying", text, &columns);
    for result in results {
        let alone = result.relay == Relay::Generator;
        table.rows.push(vec![
            result.relay.to_string(),
            result.legs.to_string(),
            result.pps.text(1e3, 0),
            cost(results, result.relay, result.legs)
                .filter(|_| !alone)
                .map_or("-".into(), |cost| format!("{cost:.0}")),
            format!("{:.1}", result.lost.median()),
        ]);
    }
    table
}

fn goals(results: &[Measured], report: &mut Report) {
    let cost = |relay, legs| cost(results, relay, legs);
    let over = |one: Option<f64>, other: Option<f64>| Some(one? / other?);
    report.target(
        "rtpengine's CPU time per packet over sipnat's, 1,000 calls",
        Bound::AtLeast(20.0),
        over(
            cost(Relay::Rtpengine, THOUSAND_CALLS),
            cost(Relay::Sipnat, THOUSAND_CALLS),
        ),
        " x",
    );
    report.target(
        "cost above the generator over the bare redirect's, 1,000 calls",
        Bound::AtMost(2.5),
        over(cost(Relay::Sipnat, THOUSAND_CALLS), cost(Relay::Bare, THOUSAND_CALLS)),
        " x",
    );
    report.target(
        "cost with 10,000 legs over that with 10",
        Bound::AtMost(1.3),
        over(cost(Relay::Sipnat, TEN_THOUSAND), cost(Relay::Sipnat, TEN)),
        " x",
    );
}

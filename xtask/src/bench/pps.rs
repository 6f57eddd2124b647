//! Packets per second end to end, and what one packet costs.

use std::time::Duration;

use anyhow::Result;

use super::figures::Series;
use super::report::Table;
use super::stand::{Router, Stand};

/// One router at one number of flows.
#[derive(Clone, Debug)]
pub struct Measured {
    pub router: Router,
    /// Flows that were asked for.
    pub wanted: u32,
    /// Flows that there were.
    pub flows: u32,
    /// Packets per second at the sink.
    pub pps: Series,
    /// Share of the generated packets that did not arrive, in percent.
    pub lost: Series,
}

/// How to measure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub cpu: usize,
    pub rounds: u32,
    pub time: Duration,
}

/// All stands at this number of flows, round by round in turn.
pub fn measure(stands: &mut [Stand], flows: u32, plan: &Plan) -> Result<Vec<Measured>> {
    let mut results = Vec::new();
    for stand in stands.iter_mut() {
        let possible = flows.min(stand.capacity);
        eprintln!("{}: {possible} flows", stand.router);
        stand.open(possible, plan.cpu)?;
        results.push(Measured {
            router: stand.router,
            wanted: flows,
            flows: possible,
            pps: Series::default(),
            lost: Series::default(),
        });
    }
    for _ in 0..plan.rounds {
        for (stand, result) in stands.iter_mut().zip(&mut results) {
            let sample = stand.random(result.flows, plan.time, plan.cpu)?;
            result.pps.push(sample.pps);
            result
                .lost
                .push(100.0 * (1.0 - sample.received as f64 / sample.sent as f64));
        }
    }
    Ok(results)
}

/// The median of one router, if it was measured with so many flows.
pub fn of(results: &[Measured], router: Router, wanted: u32) -> Option<f64> {
    let result = results
        .iter()
        .find(|result| result.router == router && result.wanted == wanted)?;
    Some(result.pps.median())
}

/// Nanoseconds per packet above the generator.
pub fn cost(results: &[Measured], router: Router, wanted: u32) -> Option<f64> {
    let generator = of(results, Router::Generator, wanted)?;
    Some(1e9 / of(results, router, wanted)? - 1e9 / generator)
}

/// The table of these results.
pub fn table(title: &str, text: &str, results: &[Measured]) -> Table {
    let columns = [
        "router",
        "flows",
        "Mpps",
        "x nftables",
        "ns above the generator",
        "lost %",
    ];
    let mut table = Table::new(title, text, &columns);
    for result in results {
        let nftables = of(results, Router::Nftables, result.wanted);
        let ratio = nftables.map(|nftables| result.pps.median() / nftables);
        let alone = result.router == Router::Generator;
        table.rows.push(vec![
            result.router.to_string(),
            result.flows.to_string(),
            result.pps.text(1e6, 2),
            ratio
                .filter(|_| !alone)
                .map_or("-".into(), |ratio| format!("{ratio:.2}")),
            cost(results, result.router, result.wanted)
                .filter(|_| !alone)
                .map_or("-".into(), |cost| format!("{cost:.0}")),
            format!("{:.1}", result.lost.median()),
        ]);
    }
    table
}

//! Nanoseconds per packet of the programs themselves, with few legs and many.

use anyhow::Result;

use super::Bench;
use super::relay::{TEN, TEN_THOUSAND, THOUSAND_CALLS};
use super::stand::{Relay, Stand};
use crate::bench::figures::Series;
use crate::bench::report::{Report, Table};
use crate::cli::BenchMediaPart;

/// Measures the bare redirect's and sipnat's.
pub fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    if !bench.wants(BenchMediaPart::Prog) {
        return Ok(());
    }
    let text = "BPF_PROG_TEST_RUN; each run has a freshly written packet of a stream at random, whose writing is subtracted. The redirect's own \
                work (the device's queue, NAPI) is not in it.";
    let mut table = Table::new("Nanoseconds per packet in the programs", text, &["relay", "legs", "ns"]);
    let (cpu, repeat) = (bench.plan.cpu, if bench.options.quick { 200_000 } else { 1_000_000 });
    let mut stands = Vec::new();
    for relay in [Relay::Bare, Relay::Sipnat] {
        stands.push(Stand::new(relay, TEN_THOUSAND, cpu)?);
    }
    for legs in [TEN, THOUSAND_CALLS, TEN_THOUSAND] {
        let mut results = vec![Series::default(); stands.len()];
        for stand in &mut stands {
            stand.open(legs, cpu)?;
        }
        for _ in 0..bench.plan.rounds {
            for (stand, series) in stands.iter_mut().zip(&mut results) {
                series.push(stand.in_program(legs, cpu, repeat)?);
            }
        }
        for (stand, series) in stands.iter().zip(&results) {
            table
                .rows
                .push(vec![stand.relay.to_string(), legs.to_string(), series.text(1.0, 0)]);
        }
    }
    report.add(table);
    Ok(())
}

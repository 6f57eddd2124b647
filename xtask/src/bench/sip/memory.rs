//! Memory per registration.

use anyhow::Result;

use super::phones::Phones;
use super::process;
use super::server::{Kind, Stand};
use super::{Bench, attempt};
use crate::bench::figures::Bound;
use crate::bench::report::{Report, Table};

/// Memory per registration, as their number grows.
pub fn measure(bench: &Bench, wanted: bool, report: &mut Report) -> Result<()> {
    let mut largest = None;
    if wanted {
        let all: &[u32] = &[10_000, 100_000, 1_000_000];
        let steps = if bench.options.quick { &all[..1] } else { all };
        let mut table = Table::new(
            "Memory per registration",
            "Growth of the proportional set size of all processes of the server, by the number of registrations: one contact each, \
             with a received address of its own. No file is kept.",
            &["server", "registrations", "bytes each", "registered per second"],
        );
        for kind in bench.servers() {
            let mut rows = Vec::new();
            attempt(kind, &mut table, |table| {
                grow(bench, kind, steps, &mut rows)?;
                for (count, bytes, per_second) in &rows {
                    let (bytes, per_second) = (format!("{bytes:.0}"), format!("{per_second:.0}"));
                    table
                        .rows
                        .push(vec![kind.to_string(), count.to_string(), bytes, per_second]);
                }
                Ok(())
            })?;
            if kind == Kind::Sipnat {
                largest = rows
                    .iter()
                    .find(|(count, ..)| *count == 1_000_000)
                    .map(|(_, bytes, _)| *bytes);
            }
        }
        report.add(table);
    }
    report.target(
        "memory per registration at 1 M",
        Bound::AtMost(1024.0),
        largest,
        " bytes",
    );
    Ok(())
}

/// For each step: registrations, bytes for each of them, and how many came per second.
fn grow(bench: &Bench, kind: Kind, steps: &[u32], rows: &mut Vec<(u32, f64, f64)>) -> Result<()> {
    let most = steps.iter().copied().max().unwrap_or(0);
    let stand = Stand::new()?;
    let server = stand.start(kind, bench.options_for(None, most))?;
    let mut crowd = Phones::new(&stand.load, most)?;
    let before = process::memory(&server.pids()?)?;
    let mut from = 0;
    for to in steps {
        let round = crowd.register(from, *to)?;
        let bytes = process::memory(&server.pids()?)?.saturating_sub(before) as f64 / f64::from(*to);
        rows.push((*to, bytes, f64::from(to - from) / round.time.as_secs_f64()));
        from = *to;
    }
    Ok(())
}

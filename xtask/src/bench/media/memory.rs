//! Memory per leg.

use anyhow::{Context, Result};

use super::Bench;
use super::relay::TEN_THOUSAND;
use super::stand::{Relay, Stand};
use crate::bench::figures::Bound;
use crate::bench::memory::{self, MapMemory};
use crate::bench::report::{Report, Table};
use crate::cli::BenchMediaPart;

/// The kernel's memory for a leg of sipnat's, and the process's for one of rtpengine's.
pub fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut bytes = None;
    if bench.wants(BenchMediaPart::Memory) {
        let cpu = bench.plan.cpu;
        let mut table = Table::new(
            "Memory per leg",
            "sipnat: the kernel's, as it accounts for maps (`memlock`). What a leg has for itself is its entry, the slot of its port, that port's bit, its share of a block, and \
             on each core a place for the way to its peer. rtpengine: growth of the proportional set size with 1,000 calls; the kernel's memory for its \
             sockets, four for each call and direction with RTCP, is not in it.",
            &["relay", "what", "bytes per leg"],
        );
        let stand = Stand::new(Relay::Sipnat, TEN_THOUSAND, cpu)?;
        let program = memory::program_on(&stand.lab().router, "out0")?;
        let maps = memory::maps_of(&program)?;
        let mut sum = 0.0;
        for (what, name, share) in [
            ("entry", "LEGS", 1.0),
            ("slot", "SLOTS", 1.0),
            ("port's bit", "USED_PORTS", 1.0 / 64.0),
            ("block", "BLOCKS", 1.0 / 64.0),
            ("way to the peer", "DESTINATIONS", 1.0),
        ] {
            let each = per_entry(&maps, name)? * share;
            sum += each;
            table
                .rows
                .push(vec!["sipnat".into(), what.into(), format!("{each:.1}")]);
        }
        table
            .rows
            .push(vec!["sipnat".into(), "all".into(), format!("{sum:.1}")]);
        drop(stand);
        let calls = if bench.options.quick { 100 } else { 1000 };
        let mut stand = Stand::new(Relay::Rtpengine, 2 * calls, cpu)?;
        // The first call brings what all of them need.
        stand.set_up(2)?;
        let engine = |stand: &mut Stand| stand.engine().context("no rtpengine")?.memory();
        let before = engine(&mut stand)?;
        stand.set_up(2 * calls)?;
        let grown = engine(&mut stand)?.saturating_sub(before) as f64 / f64::from(2 * (calls - 1));
        table
            .rows
            .push(vec!["rtpengine".into(), "process".into(), format!("{grown:.0}")]);
        report.add(table);
        bytes = Some(sum);
    }
    report.target("kernel memory per leg", Bound::AtMost(512.0), bytes, " bytes");
    Ok(())
}

/// Bytes of a map for each of its entries; those of per-CPU maps are on every core.
fn per_entry(maps: &[MapMemory], name: &str) -> Result<f64> {
    let map = maps.iter().find(|map| map.name == name);
    let map = map.with_context(|| format!("the program has no map {name}"))?;
    Ok(map.bytes as f64 / f64::from(map.entries))
}

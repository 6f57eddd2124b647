//! What it costs to keep paths open, and how evenly prompts are spread.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::phones::Phones;
use super::process;
use super::server::{Kind, Stand};
use super::{Bench, attempt};
use crate::bench::figures::Bound;
use crate::bench::report::{Report, Table};

/// How many paths, how often each is prompted, and how long that is looked at; both in seconds.
#[derive(Clone, Copy)]
struct Plan {
    phones: u32,
    interval: u32,
    time: u32,
}

/// What was seen.
#[derive(Clone, Copy)]
struct Kept {
    reached: u32,
    per_second: f64,
    /// The busiest second over the mean.
    busiest: f64,
    /// Percent of a core.
    share: f64,
}

/// 100,000 paths kept open at 30 s.
pub fn measure(bench: &Bench, wanted: bool, report: &mut Report) -> Result<()> {
    let mut own = None;
    if wanted {
        let (phones, interval, time) = if bench.options.quick {
            (5_000, 5, 10)
        } else {
            (100_000, 30, 60)
        };
        let mut table = Table::new(
            "Keeping paths open",
            &format!(
                "{phones} registered phones behind NATs, each prompted with OPTIONS every {interval} s and answering; over {time} s, \
                 after one interval of settling."
            ),
            &[
                "server",
                "paths",
                "prompts per second",
                "busiest second over the mean",
                "% of one core",
            ],
        );
        let plan = Plan { phones, interval, time };
        for kind in bench.servers() {
            attempt(kind, &mut table, |table| {
                let kept = keep_open(bench, kind, plan)?;
                table.rows.push(vec![
                    kind.to_string(),
                    kept.reached.to_string(),
                    format!("{:.0}", kept.per_second),
                    format!("{:.2}", kept.busiest),
                    format!("{:.1}", kept.share),
                ]);
                if kind == Kind::Sipnat {
                    own = Some(kept);
                }
                Ok(())
            })?;
        }
        report.add(table);
    }
    report.target(
        "100 k paths kept open at 30 s, of one core",
        Bound::AtMost(10.0),
        // Fewer paths more often are another load.
        own.filter(|_| !bench.options.quick).map(|kept| kept.share),
        " %",
    );
    report.target(
        "busiest second of prompts over the mean",
        Bound::AtMost(1.5),
        own.map(|kept| kept.busiest),
        " x",
    );
    Ok(())
}

fn keep_open(bench: &Bench, kind: Kind, plan: Plan) -> Result<Kept> {
    let stand = Stand::new()?;
    let server = stand.start(kind, bench.options_for(Some(plan.interval), plan.phones))?;
    let mut crowd = Phones::new(&stand.load, plan.phones)?;
    crowd.register(0, plan.phones)?;
    crowd.be_prompted(Duration::from_secs(plan.interval.into()))?;
    let (before, start) = (process::cpu(&server.pids()?)?, Instant::now());
    let prompts = crowd.be_prompted(Duration::from_secs(plan.time.into()))?;
    let used = process::cpu(&server.pids()?)? - before;
    ensure!(prompts.reached > 0, "nobody was prompted");
    let seconds = &prompts.by_second[..prompts.by_second.len().min(plan.time as usize)];
    let mean = f64::from(seconds.iter().sum::<u32>()) / seconds.len() as f64;
    Ok(Kept {
        reached: prompts.reached,
        per_second: mean,
        busiest: f64::from(seconds.iter().copied().max().unwrap_or(0)) / mean,
        share: used.as_secs_f64() / start.elapsed().as_secs_f64() * 100.0,
    })
}

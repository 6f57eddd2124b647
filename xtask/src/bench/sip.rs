//! `cargo xtask bench sip`: sipnat beside kamailio, each on the same core with the same load.
//!
//! The load is the bench's own: a million phones with an address each are more than sipp can be, and a generator that knows when
//! it sent what can tell what the server added. It is the same for both servers, and runs on another core than they do. Rates
//! are per second of CPU time that the server's processes used, so the generator's own speed does not matter.

mod calls;
mod phones;
mod process;
mod server;
mod socket;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use self::phones::Phones;
use self::server::{Kind, Options, Stand};
use super::figures::{Bound, Series};
use super::report::{Report, Table};
use super::{document, machine};
use crate::cli::{BenchServer, BenchSip, BenchSipPart};
use crate::run::root;

/// Measures, prints, and writes the section of the document.
pub fn run(options: &BenchSip) -> Result<()> {
    let start = Instant::now();
    let cpu = options.cpu.map_or_else(machine::last_cpu, Ok)?;
    let bench = Bench {
        options: options.clone(),
        cpu,
    };
    // The load stays off the servers' core.
    machine::pin(if cpu == 0 { 1 } else { 0 }).context("the load needs a core of its own")?;
    let mut report = Report {
        title: "SIP",
        machine: machine::describe(cpu),
        command: if options.quick {
            "cargo xtask bench sip --quick --output docs/performance.md".into()
        } else {
            "cargo xtask bench sip".into()
        },
        ..Report::default()
    };
    for (what, which) in &mut report.machine {
        if *what == "cores" {
            let count = which.split(';').next().unwrap_or_default();
            *which = format!("{count}; the server has core {cpu} for itself, the load is on another");
        }
        println!("{what:<12} {which}");
    }
    bench.refreshes(&mut report)?;
    bench.calls(&mut report)?;
    bench.memory(&mut report)?;
    bench.paths(&mut report)?;
    let summary = report.summary();
    println!("\n{}\n\n{}", summary.title, summary.render());
    println!("The whole took {:.0} s.", start.elapsed().as_secs_f64());
    let all = options.only.is_empty() && options.servers.is_empty() && !options.quick;
    let default = all.then(|| root().join("docs/performance.md"));
    if let Some(path) = options.output.clone().or(default) {
        document::write(&path, "sip", &report.section())?;
        println!("{} is written.", path.display());
    }
    Ok(())
}

struct Bench {
    options: BenchSip,
    cpu: usize,
}

/// One server's result in several rounds.
struct Measured {
    kind: Kind,
    per_second: Series,
    /// Microseconds at half load.
    half: Vec<u32>,
    half_rate: f64,
}

impl Bench {
    /// REGISTER refreshes of 10,000 phones.
    fn refreshes(&self, report: &mut Report) -> Result<()> {
        let mut results = Vec::new();
        if self.wants(BenchSipPart::Refreshes) {
            let phones = 10_000;
            let rounds = if self.options.quick { 2 } else { 5 };
            let passes = if self.options.quick { 1 } else { 5 };
            for kind in self.servers() {
                let stand = Stand::new()?;
                let server = stand.start(kind, self.options_for(None, phones))?;
                let mut crowd = Phones::new(&stand.load, phones)?;
                crowd.register(0, phones, None)?;
                let mut per_second = Series::default();
                let mut fastest = 0.0f64;
                for _ in 0..rounds {
                    let (before, start) = (process::cpu(&server.pids()?)?, Instant::now());
                    for _ in 0..passes {
                        crowd.register(0, phones, None)?;
                    }
                    let used = process::cpu(&server.pids()?)? - before;
                    per_second.push(f64::from(phones * passes) / used.as_secs_f64());
                    fastest = fastest.max(f64::from(phones * passes) / start.elapsed().as_secs_f64());
                }
                let half_rate = per_second.median().min(fastest) / 2.0;
                let half = crowd.register(0, phones, Some(half_rate))?.latencies;
                results.push(Measured {
                    kind,
                    per_second,
                    half,
                    half_rate,
                });
            }
            let text = "10,000 registered phones behind NATs refresh, as fast as the server answers, no authentication. Then, at half \
                        of that rate, the time from a REGISTER to its answer.";
            report.add(table("REGISTER refreshes", text, "refreshes", &results));
        }
        report.target(
            "REGISTER refreshes per CPU-second over kamailio",
            Bound::AtLeast(2.0),
            ratio(&results),
            " x",
        );
        Ok(())
    }

    /// Calls to 1,000 phones.
    fn calls(&self, report: &mut Report) -> Result<()> {
        let mut results = Vec::new();
        if self.wants(BenchSipPart::Calls) {
            let phones = 1_000;
            let (rounds, count) = if self.options.quick { (2, 1_000) } else { (5, 5_000) };
            for kind in self.servers() {
                let stand = Stand::new()?;
                let server = stand.start(kind, self.options_for(None, phones))?;
                let mut crowd = Phones::new(&stand.load, phones)?;
                crowd.register(0, phones, None)?;
                let mut per_second = Series::default();
                let mut fastest = 0.0f64;
                for round in 0..=rounds {
                    let before = process::cpu(&server.pids()?)?;
                    let outcome = calls::make(
                        &stand.load,
                        &mut crowd,
                        phones,
                        round * count..(round + 1) * count,
                        None,
                    )?;
                    let used = process::cpu(&server.pids()?)? - before;
                    let lost = outcome.failed * 100 > count;
                    ensure!(!lost, "{kind}: {} of {count} calls failed: {outcome:?}", outcome.failed);
                    // The first round warms up.
                    if round > 0 {
                        per_second.push(f64::from(outcome.completed) / used.as_secs_f64());
                        fastest = fastest.max(f64::from(outcome.completed) / outcome.time.as_secs_f64());
                    }
                }
                let half_rate = per_second.median().min(fastest) / 2.0;
                let half = {
                    let numbers = (rounds + 1) * count..(rounds + 2) * count;
                    calls::make(&stand.load, &mut crowd, phones, numbers, Some(half_rate))?.added
                };
                results.push(Measured {
                    kind,
                    per_second,
                    half,
                    half_rate,
                });
            }
            let text = "INVITE with SDP, 180, 200, ACK, BYE, 200 through the proxy to phones behind NATs; the proxy stays in the \
                        dialog. Then, at half of that rate, the time from the caller's INVITE to its arrival at the phone: what the \
                        proxy adds.";
            report.add(table("Proxied calls", text, "calls", &results));
        }
        report.target(
            "proxied calls per CPU-second over kamailio",
            Bound::AtLeast(2.0),
            ratio(&results),
            " x",
        );
        Ok(())
    }

    /// Memory per registration at 100,000 and 1,000,000.
    fn memory(&self, report: &mut Report) -> Result<()> {
        let mut largest = None;
        if self.wants(BenchSipPart::Memory) {
            let steps: &[u32] = if self.options.quick {
                &[10_000]
            } else {
                &[100_000, 1_000_000]
            };
            let all = *steps.last().expect("there are steps");
            let mut table = Table::new(
                "Memory per registration",
                "Growth of the proportional set size of all processes of the server, by the number of registrations: one contact each, \
                 with a received address of its own.",
                &["server", "registrations", "bytes each", "registered per second"],
            );
            for kind in self.servers() {
                let stand = Stand::new()?;
                let server = stand.start(kind, self.options_for(None, all))?;
                let mut crowd = Phones::new(&stand.load, all)?;
                let before = process::memory(&server.pids()?)?;
                let mut from = 0;
                for to in steps {
                    let round = crowd.register(from, *to, None)?;
                    let bytes = process::memory(&server.pids()?)?.saturating_sub(before) as f64 / f64::from(*to);
                    table.rows.push(vec![
                        kind.to_string(),
                        to.to_string(),
                        format!("{bytes:.0}"),
                        format!("{:.0}", f64::from(to - from) / round.time.as_secs_f64()),
                    ]);
                    from = *to;
                    if kind == Kind::Sipnat && *to == 1_000_000 {
                        largest = Some(bytes);
                    }
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

    /// 100,000 paths kept open at 30 s.
    fn paths(&self, report: &mut Report) -> Result<()> {
        let (mut percent, mut uneven) = (None, None);
        if self.wants(BenchSipPart::Paths) {
            let (phones, interval, time) = if self.options.quick {
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
            for kind in self.servers() {
                let stand = Stand::new()?;
                let server = stand.start(kind, self.options_for(Some(interval), phones))?;
                let mut crowd = Phones::new(&stand.load, phones)?;
                crowd.register(0, phones, None)?;
                crowd.be_prompted(Duration::from_secs(u64::from(interval)))?;
                let (before, start) = (process::cpu(&server.pids()?)?, Instant::now());
                let prompts = crowd.be_prompted(Duration::from_secs(time))?;
                let used = process::cpu(&server.pids()?)? - before;
                let share = used.as_secs_f64() / start.elapsed().as_secs_f64() * 100.0;
                let seconds = &prompts.by_second[..prompts.by_second.len().min(time as usize)];
                let mean = f64::from(seconds.iter().sum::<u32>()) / seconds.len() as f64;
                let busiest = f64::from(seconds.iter().copied().max().unwrap_or(0)) / mean;
                ensure!(prompts.reached > 0, "{kind} did not prompt anybody");
                table.rows.push(vec![
                    kind.to_string(),
                    prompts.reached.to_string(),
                    format!("{mean:.0}"),
                    format!("{busiest:.2}"),
                    format!("{share:.1}"),
                ]);
                if kind == Kind::Sipnat {
                    (percent, uneven) = (Some(share), Some(busiest));
                }
            }
            report.add(table);
        }
        report.target(
            "100 k paths kept open at 30 s, of one core",
            Bound::AtMost(10.0),
            // Fewer paths more often are another load.
            percent.filter(|_| !self.options.quick),
            " %",
        );
        report.target(
            "busiest second of prompts over the mean",
            Bound::AtMost(1.5),
            uneven,
            " x",
        );
        Ok(())
    }

    fn options_for(&self, prompts: Option<u32>, registrations: u32) -> Options {
        Options {
            cpu: self.cpu,
            prompts,
            registrations,
        }
    }

    fn wants(&self, part: BenchSipPart) -> bool {
        self.options.only.is_empty() || self.options.only.contains(&part)
    }

    fn servers(&self) -> Vec<Kind> {
        let chosen = |server| self.options.servers.is_empty() || self.options.servers.contains(&server);
        [
            (BenchServer::Kamailio, Kind::Kamailio),
            (BenchServer::Sipnat, Kind::Sipnat),
        ]
        .into_iter()
        .filter(|(server, _)| chosen(*server))
        .map(|(_, kind)| kind)
        .collect()
    }
}

fn table(title: &str, text: &str, what: &str, results: &[Measured]) -> Table {
    let columns = [
        "server",
        &format!("{what} per CPU-second"),
        "x kamailio",
        "at half load, per second",
        "p50 µs",
        "p99 µs",
    ];
    let mut table = Table::new(title, text, &columns);
    let base = results.iter().find(|result| result.kind == Kind::Kamailio);
    for result in results {
        let over = base.map(|base| result.per_second.median() / base.per_second.median());
        table.rows.push(vec![
            result.kind.to_string(),
            result.per_second.text(1.0, 0),
            over.map_or("-".into(), |over| format!("{over:.2}")),
            format!("{:.0}", result.half_rate),
            percentile(&result.half, 50).to_string(),
            percentile(&result.half, 99).to_string(),
        ]);
    }
    table
}

/// sipnat over kamailio.
fn ratio(results: &[Measured]) -> Option<f64> {
    let of = |kind| {
        results
            .iter()
            .find(|result| result.kind == kind)
            .map(|result| result.per_second.median())
    };
    Some(of(Kind::Sipnat)? / of(Kind::Kamailio)?)
}

/// A value of sorted ones; 0 if there are none.
fn percentile(sorted: &[u32], percent: usize) -> u32 {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_few_and_many() {
        assert_eq!(percentile(&[], 50), 0);
        assert_eq!(percentile(&[7], 99), 7);
        let many: Vec<u32> = (0..1000).collect();
        assert_eq!((percentile(&many, 50), percentile(&many, 99)), (500, 990));
    }
}

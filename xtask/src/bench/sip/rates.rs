//! Rates: what each server does per second of its CPU time, and how long it takes at half of that.
//!
//! Both run at the same time on the same core and are loaded in turns, so that what else the machine does meets both alike. Each is sent
//! as much as it answers: a fixed number of requests or calls is open at any time.

use std::time::Duration;

use anyhow::Result;

use super::calls::Calls;
use super::phones::Phones;
use super::process;
use super::server::{Kind, Server, Stand};
use super::{Bench, percentile};
use crate::bench::figures::{Bound, Series};
use crate::bench::report::{Report, Table};

/// What came of requests or calls.
#[derive(Debug, Default)]
pub struct Round {
    /// Those that were answered, or made and ended, as they should.
    pub completed: u32,
    /// Those that were refused or not over in time.
    pub failed: u32,
    /// Requests that were sent again.
    pub again: u32,
    /// From the first request to the last answer.
    pub time: Duration,
    /// How long the server took with each that was not sent again; in microseconds, sorted.
    pub latencies: Vec<u32>,
}

impl Round {
    /// Adds what came after it.
    pub fn join(&mut self, later: Round) {
        self.completed += later.completed;
        self.failed += later.failed;
        self.again += later.again;
        self.time += later.time;
        self.latencies.extend(later.latencies);
        self.latencies.sort_unstable();
    }
}

/// Something that servers are loaded with.
pub struct Load {
    /// Heading of its table.
    pub title: &'static str,
    /// What is done, and what the latency is.
    pub text: &'static str,
    /// What is counted.
    pub unit: &'static str,
    /// Phones that are registered before.
    pub phones: u32,
    /// Requests or calls of a round.
    pub count: u32,
    /// Rounds that count; one more comes before them.
    pub rounds: u32,
    /// So many of them, as fast as they are answered, or at a rate per second.
    pub run: fn(&mut Subject, u32, Option<f64>) -> Result<Round>,
}

/// A server, and who loads it.
pub struct Subject {
    kind: Kind,
    pub crowd: Phones,
    pub calls: Calls,
    server: Box<dyn Server>,
    _stand: Stand,
    /// What was found out, round by round.
    per_second: Vec<f64>,
    /// The most per second of the clock.
    fastest: f64,
    half_rate: f64,
    half: Vec<u32>,
    made: u32,
    failed: u32,
    again: u32,
}

impl Subject {
    fn new(bench: &Bench, kind: Kind, phones: u32) -> Result<Self> {
        let options = bench.options_for(None, phones);
        let stand = Stand::new()?;
        let server = stand.start(kind, options)?;
        let mut crowd = Phones::new(&stand.load, phones)?;
        crowd.register(0, phones)?;
        Ok(Self {
            kind,
            calls: Calls::new(&stand.load, phones)?,
            crowd,
            server,
            _stand: stand,
            per_second: Vec::new(),
            fastest: 0.0,
            half_rate: 0.0,
            half: Vec::new(),
            made: 0,
            failed: 0,
            again: 0,
        })
    }

    /// Requests or calls per second of the server's CPU time, and per second of the clock.
    fn round(&mut self, load: &Load) -> Result<(f64, f64)> {
        let before = process::cpu(&self.server.pids()?)?;
        let round = (load.run)(self, load.count, None)?;
        let used = process::cpu(&self.server.pids()?)? - before;
        self.made += round.completed + round.failed;
        self.failed += round.failed;
        self.again += round.again;
        let completed = f64::from(round.completed);
        Ok((completed / used.as_secs_f64(), completed / round.time.as_secs_f64()))
    }

    fn at_half_load(&mut self, load: &Load) -> Result<()> {
        self.half_rate = self.series().median().min(self.fastest) / 2.0;
        self.half = (load.run)(self, load.count, Some(self.half_rate))?.latencies;
        Ok(())
    }

    fn series(&self) -> Series {
        self.per_second.iter().copied().collect()
    }

    fn row(&self, base: Option<&Subject>) -> Vec<String> {
        vec![
            self.kind.to_string(),
            self.series().text(1.0, 0),
            base.map_or("-".into(), |base| self.over(base).text(1.0, 2)),
            self.made.to_string(),
            self.failed.to_string(),
            self.again.to_string(),
            format!("{:.0}", self.half_rate),
            percentile(&self.half, 50).to_string(),
            percentile(&self.half, 99).to_string(),
        ]
    }

    /// This one's rates over those of another, each over that of the same round.
    fn over(&self, base: &Subject) -> Series {
        let pairs = self.per_second.iter().zip(&base.per_second);
        pairs.map(|(own, other)| own / other).collect()
    }
}

/// Measures one load on all servers.
pub fn measure(bench: &Bench, load: &Load, wanted: bool, report: &mut Report) -> Result<()> {
    let mut subjects = Vec::new();
    if wanted {
        for kind in bench.servers() {
            subjects.push(Subject::new(bench, kind, load.phones)?);
        }
        for number in 0..=load.rounds {
            for subject in &mut subjects {
                let (per_second, by_the_clock) = subject.round(load)?;
                // The first round warms up.
                if number > 0 {
                    subject.per_second.push(per_second);
                    subject.fastest = subject.fastest.max(by_the_clock);
                }
            }
        }
        for subject in &mut subjects {
            subject.at_half_load(load)?;
        }
        report.add(table(load, &subjects));
    }
    let of = |kind| subjects.iter().find(|subject| subject.kind == kind);
    let both = of(Kind::Sipnat).zip(of(Kind::Kamailio));
    let unit = load.unit;
    report.target(
        &format!("{unit} per CPU-second over kamailio"),
        Bound::AtLeast(2.0),
        both.map(|(own, base)| own.over(base).median()),
        " x",
    );
    report.target(
        &format!("{unit}: p99 at half load over kamailio's at half of its own"),
        Bound::AtMost(1.0),
        both.map(|(own, base)| f64::from(percentile(&own.half, 99)) / f64::from(percentile(&base.half, 99))),
        " x",
    );
    Ok(())
}

fn table(load: &Load, subjects: &[Subject]) -> Table {
    let columns = [
        "server",
        &format!("{} per CPU-second", load.unit),
        "x kamailio",
        "made",
        "failed",
        "sent again",
        "at half load, per second",
        "p50 µs",
        "p99 µs",
    ];
    let mut table = Table::new(load.title, load.text, &columns);
    let base = subjects.iter().find(|subject| subject.kind == Kind::Kamailio);
    table.rows = subjects.iter().map(|subject| subject.row(base)).collect();
    table
}

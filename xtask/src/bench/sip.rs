//! `cargo xtask bench sip`: sipnat beside kamailio, each on the same core with the same load.
//!
//! The load is the bench's own: a million phones with an address each are more than sipp can be, and a generator that knows when
//! it sent what can tell what the server added. It is the same for both servers, and runs on another core than they do. Rates
//! are per second of CPU time that the server's processes used, so the generator's own speed does not matter.

pub mod calls;
mod flood;
mod memory;
mod parse;
mod paths;
pub mod phones;
pub mod process;
mod rates;
mod restart;
pub mod server;
pub mod socket;

use std::time::Instant;

use anyhow::{Context, Result};

use self::rates::Load;
use self::server::{Kind, Options};
use super::report::{Report, Table};
use super::{document, machine};
use crate::cli::{BenchServer, BenchSip, BenchSipPart};

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
    let mut report = Report::apart(
        "SIP",
        cpu,
        &format!("the server has core {cpu} for itself, the load is on another"),
    );
    parse::measure(bench.wants(BenchSipPart::Parse), &mut report)?;
    rates::measure(
        &bench,
        &bench.refreshes(),
        bench.wants(BenchSipPart::Refreshes),
        &mut report,
    )?;
    rates::measure(&bench, &bench.calls(), bench.wants(BenchSipPart::Calls), &mut report)?;
    memory::measure(&bench, bench.wants(BenchSipPart::Memory), &mut report)?;
    restart::measure(&bench, bench.wants(BenchSipPart::Restart), &mut report)?;
    paths::measure(&bench, bench.wants(BenchSipPart::Paths), &mut report)?;
    flood::measure(&bench, bench.wants(BenchSipPart::Flood), &mut report)?;
    let whole = options.only.is_empty() && options.servers.is_empty() && !options.quick;
    document::finish(&report, "sip", start, whole, options.output.as_deref())
}

struct Bench {
    options: BenchSip,
    cpu: usize,
}

impl Bench {
    /// REGISTER refreshes of 10,000 phones.
    fn refreshes(&self) -> Load {
        let phones = 10_000;
        let (rounds, passes) = if self.options.quick { (2, 1) } else { (9, 5) };
        Load {
            title: "REGISTER refreshes",
            text: "10,000 registered phones behind NATs refresh, 64 at a time, as fast as the server answers, no authentication. Then, at \
                   half of that rate, the time from a REGISTER to its answer.",
            unit: "refreshes",
            phones,
            count: phones * passes,
            rounds,
            run: |subject, count, rate| subject.crowd.refresh(count, rate),
        }
    }

    /// Calls to 1,000 phones.
    fn calls(&self) -> Load {
        let (rounds, count) = if self.options.quick { (2, 1_000) } else { (7, 5_000) };
        Load {
            title: "Proxied calls",
            text: "INVITE with SDP, 180, 200, ACK, BYE, 200 through the proxy to phones behind NATs, 32 calls at a time; the proxy stays in \
                   the dialog. Then, at half of that rate, the time from the caller's INVITE to its arrival at the phone: what the proxy \
                   adds.",
            unit: "calls",
            phones: 1_000,
            count,
            rounds,
            run: |subject, count, rate| subject.calls.make(&mut subject.crowd, count, rate),
        }
    }

    fn options_for(&self, prompts: Option<u32>, registrations: u32) -> Options {
        Options {
            cpu: self.cpu,
            prompts,
            registrations,
            trusted: true,
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

/// Does something with a server. What the other server cannot do is said below its table and stops nothing.
fn attempt(kind: Kind, table: &mut Table, work: impl FnOnce(&mut Table) -> Result<()>) -> Result<()> {
    let result = work(table).with_context(|| kind.to_string());
    match result {
        Err(error) if kind == Kind::Kamailio => {
            let why = format!("{error:#}");
            let why = why.lines().next().unwrap_or_default();
            table.text += &format!(" {}.", why.chars().take(200).collect::<String>());
            Ok(())
        }
        other => other,
    }
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

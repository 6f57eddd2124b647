//! What a flood of REGISTERs from one source does to the phones of others.

use std::net::Ipv4Addr;

use anyhow::Result;
use tests::sip::load::{Flood, Outcome};

use super::server::{DOMAIN, Kind, Options, SERVER, Stand};
use super::{Bench, attempt};
use crate::bench::figures::Bound;
use crate::bench::report::{Report, Table};

/// REGISTERs of the flood per second: a hundred times what one source may send.
const PER_SECOND: u32 = 10_000;
/// Phones of others.
const PHONES: u8 = 16;

/// The same phones register with and without the flood, in turns.
pub fn measure(bench: &Bench, wanted: bool, report: &mut Report) -> Result<()> {
    let mut own = None;
    if wanted {
        let text = format!(
            "{PHONES} phones register, 200 times a second in all, in turns without and during a flood of {PER_SECOND} REGISTERs a second from \
             one other address; the time from a REGISTER to its 200."
        );
        let columns = [
            "server",
            "measured",
            "flood",
            "p50 µs",
            "p50 µs flooded",
            "p99 µs",
            "p99 µs flooded",
            "x",
        ];
        let mut table = Table::new("A flood from one source", &text, &columns);
        for kind in bench.servers() {
            attempt(kind, &mut table, |table| {
                let outcome = flood(bench, kind)?;
                table.rows.push(row(kind, &outcome));
                if kind == Kind::Sipnat {
                    own = Some(outcome.ratio());
                }
                Ok(())
            })?;
        }
        report.add(table);
    }
    report.target(
        "p99 of others during a REGISTER flood from one source over p99 before it",
        Bound::AtMost(2.0),
        own,
        " x",
    );
    Ok(())
}

fn row(kind: Kind, outcome: &Outcome) -> Vec<String> {
    let Outcome { quiet, flooded, sent } = outcome;
    let mut row = vec![
        kind.to_string(),
        (quiet.len() + flooded.len()).to_string(),
        sent.to_string(),
    ];
    for percent in [50, 99] {
        row.extend([quiet, flooded].map(|delays| delays.percentile(percent).as_micros().to_string()));
    }
    row.push(format!("{:.2}", outcome.ratio()));
    row
}

fn flood(bench: &Bench, kind: Kind) -> Result<Outcome> {
    let (rounds, registers) = if bench.options.quick { (2, 100) } else { (5, 400) };
    let stand = Stand::new()?;
    let options = Options {
        // Peers that are trusted have no limits.
        trusted: false,
        ..bench.options_for(None, 10_000)
    };
    let _server = stand.start(kind, options)?;
    let addresses: Vec<Ipv4Addr> = (1..=PHONES).map(|last| Ipv4Addr::new(10, 2, 0, last)).collect();
    // The flood comes from the namespace's own address.
    let flood = Flood {
        server: SERVER,
        domain: DOMAIN,
        phones: &stand.load,
        addresses: &addresses,
        flooder: &stand.load,
        per_second: PER_SECOND,
    };
    flood.measure(rounds, registers)
}

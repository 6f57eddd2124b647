//! How long registrations take to come back after the end of the server.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::programs::TempDir;
use tests::sipnat::Daemon;

use super::phones::Phones;
use super::server::{Kind, Stand};
use super::{Bench, attempt};
use crate::bench::figures::Bound;
use crate::bench::report::{Report, Table};

/// A million registrations in a file, and restarts after a proper end and after SIGKILL.
pub fn measure(bench: &Bench, wanted: bool, report: &mut Report) -> Result<()> {
    let mut worst = None;
    if wanted {
        let count = if bench.options.quick { 10_000 } else { 1_000_000 };
        let mut table = Table::new(
            "Restart",
            &format!(
                "{count} registrations, kept in a file; from the start of the process until `sipnat status` shows all of them. \
                 kamailio's registrar is in memory here and forgets them."
            ),
            &["server", "ended by", "registrations", "seconds"],
        );
        for kind in bench.servers() {
            attempt(kind, &mut table, |table| {
                ensure!(kind == Kind::Sipnat, "nothing is kept in memory over its end");
                for (how, seconds, back) in restarts(bench, count)? {
                    table.rows.push(vec![
                        kind.to_string(),
                        how.into(),
                        back.to_string(),
                        format!("{seconds:.2}"),
                    ]);
                    worst = Some(worst.map_or(seconds, |worst: f64| worst.max(seconds)));
                }
                Ok(())
            })?;
        }
        report.add(table);
    }
    report.target(
        "1 M registrations back after a restart, the slower one",
        Bound::AtMost(5.0),
        // Fewer are another load.
        worst.filter(|_| !bench.options.quick),
        " s",
    );
    Ok(())
}

/// How the server was ended, the seconds that it took to come back, and with how many registrations.
fn restarts(bench: &Bench, count: u32) -> Result<Vec<(&'static str, f64, u64)>> {
    let (stand, files) = (Stand::new()?, TempDir::new()?);
    let store = files.file("registrations.redb");
    let mut daemon = stand.sipnat(bench.options_for(None, count), &store)?;
    Phones::new(&stand.load, count)?.register(0, count)?;
    let mut rows = Vec::new();
    for how in ["SIGTERM", "SIGKILL"] {
        if how == "SIGTERM" {
            daemon.stop()?;
        } else {
            daemon.kill9();
        }
        let start = Instant::now();
        daemon.restart()?;
        let back = registrations(&daemon)?;
        rows.push((how, start.elapsed().as_secs_f64(), back));
        ensure!(
            back == u64::from(count),
            "{back} of {count} registrations are back after {how}"
        );
        // What was written when it was ended properly stays; this lets it settle.
        std::thread::sleep(Duration::from_secs(2));
    }
    Ok(rows)
}

fn registrations(daemon: &Daemon) -> Result<u64> {
    let output = daemon.cli(&["status", "--json"])?;
    let status: Value = serde_json::from_slice(&output.stdout).context("`sipnat status --json` printed no JSON")?;
    status["sip"]["registrations"]
        .as_u64()
        .context("`sipnat status --json` names no registrations")
}

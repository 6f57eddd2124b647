//! `cargo xtask scorecard`: what each NAT does about each requirement, as the tests just saw it.

mod report;
mod requirements;
mod results;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use tests::router::NAT_VARIABLE;
use tests::sipnat::BINARY_VARIABLE;

use crate::build;
use crate::run::{as_root, binary, is_root, root, test_binary};
use report::Column;
use requirements::REQUIREMENTS;
use results::Results;

/// Where the table is written.
const FILE: &str = "docs/scorecard.md";

/// The NATs of the table, by the names that `SIPNAT_LAB_NAT` knows.
const NATS: [&str; 2] = ["sipnat", "nftables"];

/// Runs the requirement tests against each NAT and writes the table; sipnat is built first unless `SIPNAT_BIN` names a binary. A
/// requirement that sipnat fails is an error, after the
/// table has been written.
pub fn run() -> Result<()> {
    let sipnat: PathBuf = match std::env::var_os(BINARY_VARIABLE) {
        Some(path) => std::path::absolute(path)?,
        None => {
            build::run()?;
            binary()
        }
    };
    let tests = test_binary("rfc")?;
    check_table(&names(&tests)?)?;
    let mut columns = Vec::new();
    for nat in NATS {
        let start = Instant::now();
        eprintln!("\n==> requirement tests against {nat}");
        let results = results_of(&tests, nat, &sipnat)?;
        eprintln!(
            "==> {nat}: {} in {:.0} s",
            results.summary(),
            start.elapsed().as_secs_f64()
        );
        columns.push(Column { nat, results });
    }
    let path = root().join(FILE);
    std::fs::create_dir_all(path.parent().expect("a file in a directory"))?;
    std::fs::write(&path, report::markdown(REQUIREMENTS, &columns))
        .with_context(|| format!("write {}", path.display()))?;
    eprintln!("wrote {}", path.display());
    let failed = columns[0].results.failed();
    ensure!(
        failed.is_empty(),
        "sipnat fails {}:\n{}",
        failed.len(),
        failed.join("\n")
    );
    Ok(())
}

fn names(tests: &str) -> Result<BTreeSet<String>> {
    let output = Command::new(tests)
        .args(["--list", "--format", "terse"])
        .output()
        .context("list the requirement tests")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(String::from)
        .collect())
}

/// Every requirement has tests, and every test a requirement.
fn check_table(names: &BTreeSet<String>) -> Result<()> {
    let mut claimed = BTreeSet::new();
    let mut wrong = Vec::new();
    for requirement in REQUIREMENTS {
        if requirement.tests.is_empty() {
            wrong.push(format!("RFC {} {} has no test", requirement.rfc, requirement.id));
        }
        for test in requirement.tests {
            if !names.contains(*test) {
                wrong.push(format!(
                    "RFC {} {} names {test}, which is no test",
                    requirement.rfc, requirement.id
                ));
            }
            claimed.insert(test.to_string());
        }
    }
    wrong.extend(
        names
            .difference(&claimed)
            .map(|test| format!("{test} belongs to no requirement")),
    );
    if !wrong.is_empty() {
        bail!(
            "xtask/src/scorecard/requirements.rs and tests/tests/rfc disagree:\n{}",
            wrong.join("\n")
        );
    }
    Ok(())
}

fn results_of(tests: &str, nat: &str, sipnat: &Path) -> Result<Results> {
    // Many tests wait for lifetimes to pass, so more of them than there are CPUs make sense.
    let args = [tests, "--show-output", "--test-threads", "4"];
    let mut command = if is_root() {
        let mut command = Command::new(args[0]);
        command.args(&args[1..]);
        command
    } else {
        let why = "making network namespaces and loading programs into the kernel";
        let (bin, nat) = (
            format!("{BINARY_VARIABLE}={}", sipnat.display()),
            format!("{NAT_VARIABLE}={nat}"),
        );
        as_root(why, &[&["env", bin.as_str(), nat.as_str()], &args[..]].concat())?
    };
    command
        .env(NAT_VARIABLE, nat)
        .env(BINARY_VARIABLE, sipnat)
        .env("RUST_BACKTRACE", "0");
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .current_dir(root().join("tests"));
    let output = command.output().with_context(|| format!("run {tests}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Results::parse(&text).with_context(|| {
        format!(
            "the requirement tests ended with {} and said:\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

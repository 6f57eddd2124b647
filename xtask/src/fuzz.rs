//! `cargo xtask fuzz`: every fuzz target for a bounded time, from the seeds of the table of cases.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cli::Fuzz;
use crate::run::{cargo, has, root, step};

/// Builds and runs the targets. The first one that finds something ends it with an error that says how to see it again.
pub fn run(options: &Fuzz) -> Result<()> {
    install()?;
    let targets = targets(options)?;
    let corpus = root().join("fuzz/corpus");
    step("build the fuzz targets", &mut fuzz(["build"]))?;
    for target in &targets {
        // Seeds stay apart from what the fuzzer finds, so that they can be written anew.
        let found = corpus.join(target);
        std::fs::create_dir_all(&found).with_context(|| format!("make {}", found.display()))?;
        let mut command = fuzz(["run", target]);
        command
            .arg(&found)
            .arg(root().join("fuzz/seeds").join(target))
            .arg("--");
        command.args([
            &format!("-max_total_time={}", options.seconds),
            "-max_len=2048",
            "-timeout=10",
            "-rss_limit_mb=2048",
            "-print_final_stats=1",
            "-verbosity=0",
        ]);
        step(&format!("fuzz {target} for {} s", options.seconds), &mut command)
            .with_context(|| format!("{target} found something; the input is in fuzz/artifacts/{target}, run it again with\n    cargo fuzz run {target} fuzz/artifacts/{target}/FILE"))?;
    }
    eprintln!(
        "\n{} targets, {} s each: nothing found.",
        targets.len(),
        options.seconds
    );
    Ok(())
}

/// Writes the seeds, which names the targets.
fn targets(options: &Fuzz) -> Result<Vec<String>> {
    let mut command = cargo(["run", "--quiet", "-p", "nat-common", "--example", "seeds", "fuzz/seeds"]);
    let output = command.output().context("write the seeds: cannot start cargo")?;
    if !output.status.success() {
        bail!("write the seeds: {}", String::from_utf8_lossy(&output.stderr));
    }
    let all: Vec<String> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(String::from)
        .collect();
    match &options.target {
        None => Ok(all),
        Some(one) if all.contains(one) => Ok(vec![one.clone()]),
        Some(one) => bail!("there is no fuzz target {one}; there are {}", all.join(", ")),
    }
}

/// Installs cargo-fuzz if it is not there.
fn install() -> Result<()> {
    if has("cargo-fuzz") {
        return Ok(());
    }
    step("install cargo-fuzz", &mut cargo(["install", "cargo-fuzz", "--locked"]))
}

/// A cargo-fuzz command. The sanitizer is off: there is one file with `unsafe`, and without it the fuzzer is several times
/// as fast.
fn fuzz<const N: usize>(args: [&str; N]) -> Command {
    let mut command = cargo(["fuzz"]);
    command.args(args).args(["--sanitizer", "none"]);
    command
}

//! `cargo xtask fuzz`: every fuzz target for a bounded time, from the seeds of the table of cases.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cli::Fuzz;
use crate::run::{cargo, root, step};

/// Compiles the workspace's own crates so that libFuzzer sees which ways are taken.
const INSTRUMENT: &str = "fuzz/instrument";

/// Builds and runs the targets. The first one that finds something ends it with an error that says how to see it again.
pub fn run(options: &Fuzz) -> Result<()> {
    let targets = targets(options)?;
    let mut build = cargo(["build", "--release", "--locked", "-p", "nat-fuzz"]);
    // Of the workspace's crates only: all others are those of the release build.
    build.env("RUSTC_WORKSPACE_WRAPPER", root().join(INSTRUMENT));
    // The program for the kernel is none of the fuzzers' concern.
    build.env("SIPNAT_SKIP_EBPF", "1");
    step("build the fuzz targets", &mut build)?;
    for target in &targets {
        one(target, options.seconds)?;
    }
    eprintln!(
        "\n{} targets, {} s each: nothing found.",
        targets.len(),
        options.seconds
    );
    Ok(())
}

fn one(target: &str, seconds: u32) -> Result<()> {
    let fuzz = root().join("fuzz");
    // Seeds stay apart from what the fuzzer finds, so that they can be written anew.
    let (found, artifacts) = (fuzz.join("corpus").join(target), fuzz.join("artifacts").join(target));
    for directory in [&found, &artifacts] {
        std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    }
    let program = root().join("target/release").join(target);
    let mut command = Command::new(&program);
    command.args([found, fuzz.join("seeds").join(target)]);
    command.args([
        &format!("-artifact_prefix={}/", artifacts.display()),
        &format!("-max_total_time={seconds}"),
        "-max_len=2048",
        "-timeout=10",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        "-verbosity=0",
    ]);
    step(&format!("fuzz {target} for {seconds} s"), &mut command).with_context(|| {
        format!(
            "{target} found something; the input is in {}, run it again with\n    {} FILE",
            artifacts.display(),
            program.display()
        )
    })
}

/// Writes the seeds, which names the targets.
fn targets(options: &Fuzz) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for (package, example) in [("nat-common", "seeds"), ("nat-user", "sip_seeds")] {
        let mut command = cargo(["run", "--quiet", "-p", package, "--example", example, "fuzz/seeds"]);
        let output = command.output().context("write the seeds: cannot start cargo")?;
        if !output.status.success() {
            bail!("write the seeds: {}", String::from_utf8_lossy(&output.stderr));
        }
        all.extend(String::from_utf8_lossy(&output.stdout).lines().map(String::from));
    }
    match &options.target {
        None => Ok(all),
        Some(one) if all.contains(one) => Ok(vec![one.clone()]),
        Some(one) => bail!("there is no fuzz target {one}; there are {}", all.join(", ")),
    }
}

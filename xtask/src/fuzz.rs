//! `cargo xtask fuzz`: every fuzz target for a bounded time, from the seeds of the table of cases.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cli::Fuzz;
use crate::run::{cargo, host, root, step};

/// How LLVM tells libFuzzer which ways were taken: what `cargo fuzz` passes too, without a sanitizer. There is one file with
/// `unsafe`, and without it the fuzzer is several times as fast.
const COVERAGE: [&str; 7] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions",
];

/// Builds and runs the targets. The first one that finds something ends it with an error that says how to see it again.
pub fn run(options: &Fuzz) -> Result<()> {
    let targets = targets(options)?;
    let host = host()?;
    #[rustfmt::skip]
    let args = ["build", "--release", "--locked", "--manifest-path", "fuzz/Cargo.toml", "--target", &*host];
    // With a target, so that build scripts and macros are built without these flags.
    let mut build = cargo(args);
    build.env("RUSTFLAGS", COVERAGE.join(" "));
    // The program for the kernel is none of the fuzzers' concern.
    build.env("SIPNAT_SKIP_EBPF", "1");
    step("build the fuzz targets", &mut build)?;
    for target in &targets {
        one(target, &host, options.seconds)?;
    }
    eprintln!(
        "\n{} targets, {} s each: nothing found.",
        targets.len(),
        options.seconds
    );
    Ok(())
}

fn one(target: &str, host: &str, seconds: u32) -> Result<()> {
    let fuzz = root().join("fuzz");
    // Seeds stay apart from what the fuzzer finds, so that they can be written anew.
    let (found, artifacts) = (fuzz.join("corpus").join(target), fuzz.join("artifacts").join(target));
    for directory in [&found, &artifacts] {
        std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    }
    let program = fuzz.join("target").join(host).join("release").join(target);
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

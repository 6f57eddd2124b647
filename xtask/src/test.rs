//! `cargo xtask test`: everything that has to hold before a commit.

use std::time::Instant;

use anyhow::Result;

use crate::cli::Fuzz;
use crate::run::{PREPARED, binary, cargo, host, is_root, step};
use crate::{bench, build, fuzz, setup};

/// Enough to run through the seeds and a good many changes of them.
const FUZZ_SECONDS: u32 = 3;

/// Sets up, builds, and runs format, lints, documentation, all tests, and the fuzz targets for a moment. Ends at the first failure.
pub fn run() -> Result<()> {
    let start = Instant::now();
    setup::run()?;
    build::run()?;
    step("format", &mut cargo(["fmt", "--all", "--check"]))?;
    step(
        "lints",
        &mut cargo([
            "clippy",
            "--workspace",
            "--all-targets",
            "--features",
            "xtask/bench",
            "--",
            "-D",
            "warnings",
        ]),
    )?;
    #[rustfmt::skip]
    let ebpf = [
        "clippy", "-p", "nat-ebpf", "--target", "bpfel-unknown-none", "-Z", "build-std=core", "--release",
        "--features", "log", "--", "-D", "warnings",
    ];
    step("lints of the kernel program", &mut cargo(ebpf))?;
    step(
        "documentation",
        cargo(["doc", "--no-deps", "--workspace"]).env("RUSTDOCFLAGS", "-Dwarnings"),
    )?;
    // As the user, because the tests may run as root, who has no cargo.
    bench::object::build()?;
    tests()?;
    fuzz::run(&Fuzz {
        seconds: FUZZ_SECONDS,
        target: None,
    })?;
    eprintln!(
        "\nAll checks and tests passed in {:.0} s.",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

fn tests() -> Result<()> {
    if is_root() {
        for path in tests::stale::remove_stale()? {
            eprintln!("removed what a killed test had left: {path}");
        }
    }
    let mut command = cargo([
        "test",
        "-p",
        "nat-common",
        "-p",
        "nat-user",
        "-p",
        "tests",
        "-p",
        "xtask",
        "--features",
        "xtask/bench",
    ]);
    // Errors are values here, with context; a backtrace for each of them would bury it.
    command
        .env("SIPNAT_BIN", binary())
        .env("RUST_LIB_BACKTRACE", "0")
        .env(PREPARED, "1");
    if !is_root() {
        eprintln!("sudo: the tests make network namespaces and load programs into the kernel, which needs root");
        let variable = format!("CARGO_TARGET_{}_RUNNER", host()?.to_uppercase().replace('-', "_"));
        command.env(variable, "sudo -E");
    }
    step("tests", &mut command)
}

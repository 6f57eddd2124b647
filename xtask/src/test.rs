//! `cargo xtask test`: everything that has to hold before a commit.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::cli::Fuzz;
use crate::run::{PREPARED, binary, cargo, host, is_root, step, step_lines};
use crate::{bench, build, fuzz, setup};

/// Enough to run through the seeds and a good many changes of them.
const FUZZ_SECONDS: u32 = 3;

/// Sets up, builds, and runs format, lints, documentation, all tests, and the fuzz targets for a moment. Ends at
/// the first step that fails; the tests are one step.
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

/// What computes, and what runs real programs. Each of the latter is many processes on a machine that others use, too.
const PACKAGES: [(&str, &[&str], Again); 2] = [
    ("tests of the logic", &["nat-common"], Again::Never),
    (
        "tests",
        &["nat-user", "tests", "xtask", "--features", "xtask/bench"],
        Again::Once,
    ),
];

/// Whether a test that failed is tried once more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    Never,
    Once,
}

/// More failures than this are no accident.
const UNSTEADY: usize = 4;

fn tests() -> Result<()> {
    if is_root() {
        for path in ::tests::stale::remove_stale()? {
            eprintln!("removed what a killed test had left: {path}");
        }
    } else {
        eprintln!("sudo: the tests make network namespaces and load programs into the kernel, which needs root");
    }
    for (what, packages, again) in PACKAGES {
        let failed = run_tests(what, packages, &[])?;
        if failed.is_empty() {
            continue;
        }
        if again == Again::Never || failed.len() > UNSTEADY {
            bail!("{what}: {} failed: {}", failed.len(), failed.join(" "));
        }
        let names: Vec<&str> = failed.iter().map(String::as_str).collect();
        let still = run_tests("what failed, once more and alone", packages, &names)?;
        if !still.is_empty() {
            bail!("{what}: failed twice: {}", still.join(" "));
        }
        eprintln!(
            "UNSTEADY: failed and then passed by themselves; look at their output above: {}",
            failed.join(" ")
        );
    }
    Ok(())
}

/// Runs the tests of these packages, or only those of the given names, one at a time, and returns the names of those that failed.
/// A failure that has no name, such as one to build, is an error.
fn run_tests(what: &str, packages: &[&str], only: &[&str]) -> Result<Vec<String>> {
    let mut command = cargo(["test", "--no-fail-fast"]);
    for package in packages.iter().take_while(|word| !word.starts_with('-')) {
        command.args(["-p", package]);
    }
    command.args(packages.iter().skip_while(|word| !word.starts_with('-')));
    if !only.is_empty() {
        command.args(["--", "--exact", "--test-threads", "1"]).args(only);
    }
    // Errors are values here, with context; a backtrace for each of them would bury it.
    command
        .env("SIPNAT_BIN", binary())
        .env("RUST_LIB_BACKTRACE", "0")
        .env(PREPARED, "1");
    if !is_root() {
        let variable = format!("CARGO_TARGET_{}_RUNNER", host()?.to_uppercase().replace('-', "_"));
        command.env(variable, "sudo -E");
    }
    let mut failed = Vec::new();
    let mut count = 0;
    let result = step_lines(what, &mut command, |line| {
        failed.extend(failure(line));
        count += failures(line).unwrap_or(0);
    });
    match result {
        // Whatever else went wrong is not mended by running these again.
        Err(error) if failed.is_empty() || failed.len() != count => Err(error),
        _ => Ok(failed),
    }
}

/// How many failed, by the line at the end of a test program.
fn failures(line: &str) -> Option<usize> {
    let (before, _) = line.strip_prefix("test result: ")?.split_once(" failed;")?;
    before.rsplit_once(' ')?.1.parse().ok()
}

/// The name of the test that this line of libtest's output says has failed.
fn failure(line: &str) -> Option<String> {
    let (name, outcome) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    // Of a documentation test, "src/lib.rs - item (line 3)", the words are no filter: it has no name.
    let named = !name.contains(' ') || name.ends_with(" - should panic");
    (outcome == "FAILED" && named).then(|| name.trim_end_matches(" - should panic").into())
}

#[cfg(test)]
mod tests {
    use super::{failure, failures};

    #[test]
    fn failures_are_read_from_the_output_of_the_tests() {
        assert_eq!(failure("test a::b ... FAILED"), Some("a::b".into()));
        assert_eq!(failure("test a::b - should panic ... FAILED"), Some("a::b".into()));
        for other in [
            "test a::b ... ok",
            "test result: FAILED. 15 passed; 1 failed; 0 ignored",
            "test src/lib.rs - item (line 3) ... FAILED",
            "    a::b",
        ] {
            assert_eq!(failure(other), None, "{other}");
        }
        assert_eq!(
            failures("test result: FAILED. 15 passed; 1 failed; 0 ignored; 0 measured"),
            Some(1)
        );
        assert_eq!(failures("test a::b ... FAILED"), None);
    }
}

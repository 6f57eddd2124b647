//! `cargo xtask vm`: sipnat on another kernel, Debian's own, in an emulator.
//!
//! The machine that tests run on has one kernel. What another one makes of the programs (its verifier above all), and what
//! needs a module that the machine lacks (VLAN interfaces), is seen here: the kernel boots with a file system of the binary,
//! some of the test programs and the few tools that these call, runs the tests and powers off. No KVM, no network, no disk.

mod image;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::cli::Vm;
use crate::run::{TestTarget, binary, root, test_binary};
use crate::setup::packages;
use crate::{build, setup};

/// What the emulator and the image are made with.
const PACKAGES: [packages::Package; 6] = [
    ("qemu-system-x86", "qemu-system-x86_64"),
    ("busybox-static", "/bin/busybox"),
    ("cpio", "cpio"),
    ("kmod", "depmod"),
    ("xz-utils", "xz"),
    ("binutils", "strip"),
];

/// Modules that the tests need, with what these need.
const MODULES: [&str; 4] = ["veth", "8021q", "bridge", "nf_tables"];

/// Test programs of the crate `tests`, and which tests of them: frames and links, and the whole daemon.
const TESTS: [(&str, &[&str]); 2] = [
    (
        "scenarios",
        &[
            "links::a_tagged",
            "links::a_router_on_a_stick",
            "links::a_jumbo_datagram",
            "links::generic_mode",
            "links::what_is_not_ipv4",
            "life::an_upgrade",
            "stages::",
        ],
    ),
    ("nat_basic", &[]),
];

/// What the image says when a test program ends.
const MARK: &str = "vm-result:";

/// Boots the kernel and runs the tests there; an error if one fails or the machine says nothing for too long.
pub fn run(options: &Vm) -> Result<()> {
    setup::run()?;
    build::run()?;
    packages::ensure_these(&PACKAGES)?;
    let start = Instant::now();
    let directory = root().join("target/vm");
    std::fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    let kernel = image::kernel(&directory, &options.kernel)?;
    let tests = TESTS
        .iter()
        .map(|(name, filter)| {
            Ok(image::Test {
                name,
                program: test_binary(TestTarget::Tests(name))?.into(),
                filter: match &options.filter {
                    Some(only) => std::slice::from_ref(only).to_vec(),
                    None => filter.iter().map(ToString::to_string).collect(),
                },
            })
        })
        .collect::<Result<Vec<_>>>()?;
    eprintln!("\n==> make the image");
    let initrd = image::build(&directory, &kernel, &MODULES, &binary(), &tests, MARK)?;
    let log = directory.join("console.log");
    let results = boot(&kernel.image, &initrd, &log, options)?;
    eprintln!(
        "\nLinux {} in {:.0} s; the console's log is {}",
        kernel.release,
        start.elapsed().as_secs_f64(),
        log.display()
    );
    for (name, code) in &results {
        eprintln!("  {name}: {}", if *code == 0 { "ok" } else { "FAILED" });
    }
    if results.len() == tests.len() && results.iter().all(|(_, code)| *code == 0) {
        return Ok(());
    }
    bail!(
        "not all tests passed on Linux {}; see {}",
        kernel.release,
        log.display()
    )
}

/// Runs the machine until it powers off. Returns the test programs that ended, with their exit codes.
fn boot(kernel: &PathBuf, initrd: &PathBuf, log: &PathBuf, options: &Vm) -> Result<Vec<(String, i32)>> {
    let memory = options.memory.to_string();
    let mut command = Command::new("timeout");
    command.arg(options.seconds.to_string()).arg("qemu-system-x86_64");
    #[rustfmt::skip]
    command.args([
        "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", &memory, "-nographic", "-no-reboot", "-net", "none",
        // An emulated timer on a busy machine does not pass the kernel's test of it.
        "-append", "console=ttyS0 quiet loglevel=1 panic=-1 no_timer_check",
    ]);
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    eprintln!("\n==> boot {}", kernel.display());
    let mut child = command.spawn().context("cannot start qemu")?;
    let mut file = File::create(log).with_context(|| format!("write {}", log.display()))?;
    let mut results = Vec::new();
    let console = child.stdout.take().context("qemu has no output")?;
    for line in BufReader::new(console).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
        writeln!(file, "{line}")?;
        if let Some(result) = line.strip_prefix(MARK)
            && let Some((name, code)) = result.trim().split_once(' ')
        {
            results.push((name.to_owned(), code.parse().unwrap_or(-1)));
        } else if line.starts_with("test ") || line.starts_with("vm:") || line.contains("panic") {
            eprintln!("    {line}");
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!(
            "qemu ended with {status} (124: not done within {} s); see {}",
            options.seconds,
            log.display()
        );
    }
    Ok(results)
}

//! The bench's own eBPF object: built on demand, opened from its file.

#[cfg(feature = "bench")]
use anyhow::Context;
use anyhow::Result;

use crate::run::{cargo, step};

/// Builds it, as nat-user's build script builds sipnat's.
pub fn build() -> Result<()> {
    #[rustfmt::skip]
    let args = [
        "build", "--quiet", "--package", "nat-ebpf", "--bin", "bench-ebpf", "--release",
        "--target", "bpfel-unknown-none", "-Z", "build-std=core", "--target-dir", "target/bpf",
    ];
    let mut command = cargo(args);
    command.env("RUSTFLAGS", "-Cdebuginfo=2 -Clink-arg=--btf -Ctarget-cpu=v3");
    step("build the bench's programs", &mut command)
}

/// Opens it: fresh maps, nothing loaded yet.
#[cfg(feature = "bench")]
pub fn open() -> Result<aya::Ebpf> {
    let path = path();
    let mut loader = aya::EbpfLoader::new();
    loader.verifier_log_level(aya::VerifierLogLevel::STATS);
    loader.load_file(&path).with_context(|| {
        format!(
            "load {}; run this through `cargo xtask`, which builds it",
            path.display()
        )
    })
}

/// Loads one of its programs into the kernel.
#[cfg(feature = "bench")]
pub fn load<'e>(ebpf: &'e mut aya::Ebpf, name: &str) -> Result<&'e mut aya::programs::Xdp> {
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("no program {name} in the bench's object"))?;
    let program: &mut aya::programs::Xdp = program.try_into()?;
    program
        .load()
        .with_context(|| format!("the kernel's verifier refused {name}"))?;
    Ok(program)
}

/// Where it is.
#[cfg(feature = "bench")]
fn path() -> std::path::PathBuf {
    crate::run::root().join("target/bpf/bpfel-unknown-none/release/bench-ebpf")
}

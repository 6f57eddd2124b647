//! `cargo xtask bench`: figures, all measured in one run on one machine.
//!
//! Generator, router and sink share one core. The generator is an XDP program that a thread pinned to that core runs
//! through BPF_PROG_TEST_RUN with live frames; what it redirects into a veth is polled (NAPI) in the soft interrupt of the
//! same core, and so on to the sink, because a veth schedules its peer's NAPI on the core that transmits and nothing on
//! the way (no RPS, no threaded NAPI in these namespaces) moves it. The sink counts by core, so a packet that was handled
//! elsewhere on its way would show, and makes the measurement fail.

#[cfg(feature = "bench")]
mod document;
#[cfg(feature = "bench")]
mod expiry;
#[cfg(feature = "bench")]
mod figures;
#[cfg(feature = "bench")]
mod generator;
#[cfg(feature = "bench")]
mod iperf;
#[cfg(feature = "bench")]
#[path = "../../nat-ebpf/src/bench/layout.rs"]
mod layout;
#[cfg(feature = "bench")]
mod machine;
#[cfg(feature = "bench")]
mod media;
#[cfg(feature = "bench")]
#[path = "../../nat-ebpf/src/bench/media_layout.rs"]
mod media_layout;
#[cfg(feature = "bench")]
mod memory;
#[cfg(feature = "bench")]
mod nat;
#[cfg(feature = "bench")]
mod new_flows;
pub mod object;
#[cfg(feature = "bench")]
mod pps;
#[cfg(feature = "bench")]
mod prog;
#[cfg(feature = "bench")]
mod report;
#[cfg(feature = "bench")]
mod sip;
#[cfg(feature = "bench")]
mod stand;

use anyhow::Result;

use crate::cli::Bench;
#[cfg(feature = "bench")]
pub use memory::memory_of;

/// Runs one of the `bench` commands.
#[cfg(feature = "bench")]
pub fn run(command: &Bench) -> Result<()> {
    match command {
        Bench::Media(options) => media::run(options),
        Bench::Nat(options) => nat::run(options),
        Bench::Prog(options) => prog::run(options),
        Bench::Sip(options) => sip::run(options),
    }
}

/// Runs one of the `bench` commands.
#[cfg(not(feature = "bench"))]
pub fn run(_: &Bench) -> Result<()> {
    again::with_kernel_side("measuring in network namespaces, with programs in the kernel,")
}

/// Commands that need BPF run in a second, release-built xtask: setup has brought bpf-linker by then.
#[cfg(not(feature = "bench"))]
pub mod again {
    use anyhow::{Result, bail};

    use super::object;
    use crate::run::{as_root, cargo, root, step};
    use crate::{build, setup};

    /// Builds everything with the user's rights, then runs this same command as root in an xtask that has the feature.
    pub fn with_kernel_side(why: &str) -> Result<()> {
        setup::run()?;
        build::run()?;
        object::build()?;
        let args = ["build", "--release", "-p", "xtask", "--features", "bench"];
        step("build the bench", &mut cargo(args))?;
        let program = root().join("target/release/xtask").display().to_string();
        let args: Vec<String> = std::env::args().skip(1).collect();
        let words = [vec!["env", &*program], args.iter().map(String::as_str).collect()].concat();
        let status = as_root(why, &words)?.status()?;
        if status.success() {
            Ok(())
        } else {
            bail!("the command ended with {status}")
        }
    }
}

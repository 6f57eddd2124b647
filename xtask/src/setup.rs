//! `cargo xtask setup`: finds out what is missing and installs it. Quick when nothing is.

mod linker;
pub mod packages;
mod toolchain;

use std::time::Instant;

use anyhow::Result;

/// Installs the pinned toolchain, the system's packages and the matching bpf-linker, as far as they are missing.
///
/// Nothing of the host's configuration is changed: no sysctl, no mount, no service left running. Tests mount a bpffs of
/// their own.
pub fn run() -> Result<()> {
    if crate::run::prepared() {
        return Ok(());
    }
    let start = Instant::now();
    let mut installed = toolchain::ensure()?;
    installed |= packages::ensure()?;
    // Last, because it is built against the LLVM that the packages bring.
    installed |= linker::ensure()?;
    let result = if installed {
        "everything is there now"
    } else {
        "nothing is missing"
    };
    eprintln!("setup: {result} ({:.1} s)", start.elapsed().as_secs_f64());
    Ok(())
}

//! The daemon's life. The data path is not part of this build; both entry points say so.

use std::path::Path;

use anyhow::{Result, bail};

use crate::config::RunOptions;

/// Runs the daemon in the foreground until it is told to stop.
pub fn run(options: RunOptions) -> Result<()> {
    let config = options.load()?;
    bail!(
        "data path not built: cannot attach to {}; build sipnat with its eBPF program",
        config.nat.inside[0]
    )
}

/// Removes the links and maps pinned in `pin_dir`, with no daemon running; says what was done.
pub fn detach(pin_dir: &Path) -> Result<String> {
    bail!(
        "data path not built: cannot open the pins in {}; build sipnat with its eBPF program",
        pin_dir.display()
    )
}

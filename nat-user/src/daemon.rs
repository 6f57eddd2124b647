//! The daemon's life: start, run, end. What it does in between is in its parts.

mod blocks;
mod follow;
#[cfg(feature = "ebpf-log")]
mod kernel_log;
mod life;
mod media;
mod nat;
pub mod pap;
mod registrations;
mod reload;
mod sip;
mod slow;
mod start;
pub mod state;
pub mod topology;

use std::{
    io::{self, IsTerminal as _},
    path::Path,
};

use anyhow::{Context as _, Result};
use tracing_subscriber::EnvFilter;

use crate::{config::RunOptions, dataplane::pins};

/// Runs the daemon in the foreground until it is told to stop: a NAT, a SIP server, or both. The data path stays: it needs no daemon to
/// translate.
///
/// # Errors
/// If it cannot start; nothing is attached then that was not before.
pub fn run(options: RunOptions) -> Result<()> {
    let config = options.load()?;
    let filter = EnvFilter::try_new(&config.daemon.log).with_context(|| {
        format!(
            "daemon.log = \"{}\" is no log filter; write info or debug",
            config.daemon.log
        )
    })?;
    // A second call in one process (tests) keeps the first one's log.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .try_init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(async { life::live(start::start(options, config).await?).await });
    // A reader of the control socket that does not read must not hold the end up.
    runtime.shutdown_background();
    result
}

/// Removes the links and maps pinned in `pin_dir`, of every schema, with no daemon running; says what was done.
///
/// # Errors
/// If a daemon works on them, or a pin cannot be removed.
pub fn detach(pin_dir: &Path) -> Result<String> {
    let removed = pins::detach(pin_dir)?;
    Ok(describe(&removed, pin_dir))
}

fn describe(removed: &pins::Removed, pin_dir: &Path) -> String {
    let shown = pin_dir.display();
    match (removed.links, removed.maps) {
        (0, 0) => format!("nothing is pinned in {shown}"),
        (links, maps) => format!("removed {links} links and {maps} maps from {shown}; nothing is translated any more"),
    }
}

//! Log lines of the kernel side, in the daemon's log under `nat_ebpf`. Only built with the feature `ebpf-log`.

use anyhow::{Context as _, Result};
use aya_log::EbpfLogger;
use tokio::io::{Interest, unix::AsyncFd};

use super::state::State;

/// Passes the lines on until the daemon ends.
///
/// # Errors
/// If the program was built without its log.
pub fn start(state: &State) -> Result<()> {
    let logger = EbpfLogger::init(&mut state.kernel.ebpf()).context("the kernel program has no log")?;
    // SAFETY: the logger has its descriptor for itself and keeps it open.
    let logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
    let mut logger = logger.context("cannot wait for the kernel program's log")?;
    tokio::spawn(async move {
        while let Ok(mut guard) = logger.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    });
    Ok(())
}

//! `cargo xtask build`: the release binary with the kernel program inside.

use anyhow::Result;

use crate::run::{binary, cargo, prepared, step};

/// Builds `target/release/sipnat`.
pub fn run() -> Result<()> {
    if prepared() {
        return Ok(());
    }
    step("build sipnat", &mut cargo(["build", "--release", "-p", "nat-user"]))?;
    eprintln!("the binary is {}", binary().display());
    Ok(())
}

//! `cargo xtask build`: the release binary with the kernel program inside.

use anyhow::Result;

use crate::run::{binary, cargo, step};

/// Builds `target/release/sipnat`.
pub fn run() -> Result<()> {
    step("build sipnat", &mut cargo(["build", "--release", "-p", "nat-user"]))?;
    eprintln!("the binary is {}", binary().display());
    Ok(())
}

//! `cargo xtask build`: the release binary with the kernel program inside.

use std::path::PathBuf;

use ::tests::sipnat::BINARY_VARIABLE;
use anyhow::Result;

use crate::run::{binary, cargo, prepared, step};

/// The binary that `SIPNAT_BIN` names, or the one that is built now.
pub fn under_test() -> Result<PathBuf> {
    match std::env::var_os(BINARY_VARIABLE) {
        Some(path) => Ok(std::path::absolute(path)?),
        None => {
            run()?;
            Ok(binary())
        }
    }
}

/// Builds `target/release/sipnat`.
pub fn run() -> Result<()> {
    if prepared() {
        return Ok(());
    }
    step("build sipnat", &mut cargo(["build", "--release", "-p", "nat-user"]))?;
    eprintln!("the binary is {}", binary().display());
    Ok(())
}

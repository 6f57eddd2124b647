//! bpf-linker, which must be built against the same LLVM as the pinned rustc.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::run::{output_of, step};

/// The release that goes with the pinned toolchain.
const VERSION: &str = "0.13.0";

/// The major version of LLVM in the pinned rustc; the package `llvm-22-dev` brings it. Change all of them together.
const LLVM: &str = "22";

/// Builds bpf-linker if it is missing or does not fit. Returns whether it had to.
pub fn ensure() -> Result<bool> {
    let Some(why) = problem() else {
        return Ok(false);
    };
    let prefix = format!("/usr/lib/llvm-{LLVM}");
    let config = format!("{prefix}/bin/llvm-config");
    ensure!(
        PathBuf::from(&config).is_file(),
        "setup: {why}, and there is no LLVM {LLVM} at {prefix} to build it with. Install LLVM {LLVM} with its development \
         files there, or put a prebuilt bpf-linker {VERSION} for LLVM {LLVM} into PATH"
    );
    eprintln!("setup: {why}; cargo builds version {VERSION} for LLVM {LLVM} (about a minute)");
    let feature = format!("llvm-{LLVM}");
    let mut command = Command::new("cargo");
    // Away from the workspace and its settings; so the toolchain must be named, as there may be no default one.
    command
        .env("LLVM_PREFIX", prefix)
        .env("RUSTUP_TOOLCHAIN", super::toolchain::channel()?)
        .current_dir(std::env::temp_dir());
    #[rustfmt::skip]
    command.args([
        "install", "bpf-linker", "--version", VERSION, "--locked", "--force", "--no-default-features", "--features", &feature,
    ]);
    step("bpf-linker", &mut command)?;
    match problem() {
        None => Ok(true),
        Some(why) => Err(anyhow::anyhow!("after its installation, {why}"))
            .context("setup: is cargo's bin directory the first in PATH that has a bpf-linker?"),
    }
}

/// What is wrong with the bpf-linker in PATH, if anything.
fn problem() -> Option<String> {
    let Some(text) = output_of("bpf-linker", &["--version"]) else {
        return Some("bpf-linker is missing or does not start".into());
    };
    if !text.split_whitespace().any(|word| word == VERSION) {
        return Some(format!("bpf-linker is {:?}", text.trim()));
    }
    // Linked dynamically, it names its LLVM; prebuilt ones have theirs inside and cannot be asked.
    let path = std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join("bpf-linker"))
        .find(|path| path.is_file())?;
    let libraries = output_of("ldd", &[path.to_str()?])?;
    let llvm = llvm_of(&libraries)?;
    (llvm != LLVM).then(|| format!("bpf-linker is built for LLVM {llvm}"))
}

/// The major version of the LLVM library that `ldd` lists.
fn llvm_of(libraries: &str) -> Option<&str> {
    let name = libraries.split_whitespace().find(|word| word.starts_with("libLLVM"))?;
    let digits = name.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits
        .split(|c: char| !c.is_ascii_digit())
        .next()
        .filter(|major| !major.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_tells_the_version() {
        let debian = "\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x0)\n\tlibc.so.6 => /lib/libc.so.6";
        assert_eq!(llvm_of(debian), Some("22"));
        assert_eq!(llvm_of("\tlibLLVM-21.so.1 => /x (0x0)"), Some("21"));
        assert_eq!(llvm_of("\tlibc.so.6 => /lib/libc.so.6"), None);
    }
}

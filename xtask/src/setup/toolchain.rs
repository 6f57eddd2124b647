//! The one Rust toolchain that everything is built with.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::run::{has, output_of, root, step};

/// Installs the toolchain of `rust-toolchain.toml`, or components that it lacks. Returns whether it had to.
pub fn ensure() -> Result<bool> {
    let (channel, components) = file()?;
    ensure!(
        has("rustup"),
        "setup: rustup is missing; install it from its home page, it brings the pinned toolchain {channel}"
    );
    let list = output_of("rustup", &["component", "list", "--installed", "--toolchain", &channel]).unwrap_or_default();
    let missing: Vec<&str> = components
        .iter()
        .map(String::as_str)
        // Installed components are listed with the target where they have one.
        .filter(|name| {
            !list
                .lines()
                .any(|line| line == *name || line.starts_with(&format!("{name}-")))
        })
        .collect();
    if !list.is_empty() && missing.is_empty() {
        return Ok(false);
    }
    let what = if list.is_empty() {
        "the toolchain".into()
    } else {
        format!("components {}", missing.join(", "))
    };
    eprintln!("setup: {what} of {channel} missing; rustup installs it");
    let mut command = Command::new("rustup");
    command.args([
        "toolchain",
        "install",
        &channel,
        "--profile",
        "minimal",
        "--no-self-update",
    ]);
    for component in &components {
        command.args(["--component", component]);
    }
    step("toolchain", &mut command)?;
    Ok(true)
}

/// The pinned channel.
pub fn channel() -> Result<String> {
    Ok(file()?.0)
}

fn file() -> Result<(String, Vec<String>)> {
    let path = root().join("rust-toolchain.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    pinned(&text).with_context(|| format!("no channel in {}", path.display()))
}

/// Channel and components of a `rust-toolchain.toml`.
fn pinned(text: &str) -> Option<(String, Vec<String>)> {
    let value = |key: &str| {
        let line = text
            .lines()
            .find(|line| line.split('=').next().is_some_and(|name| name.trim() == key))?;
        Some(line.split_once('=')?.1.trim().to_string())
    };
    let unquoted = |text: &str| text.trim().trim_matches('"').to_string();
    let components = value("components").unwrap_or_default();
    let components = components
        .trim_matches(['[', ']'])
        .split(',')
        .map(unquoted)
        .filter(|name| !name.is_empty());
    Some((unquoted(&value("channel")?), components.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_pins_a_dated_nightly_with_the_sources() {
        let text = fs::read_to_string(root().join("rust-toolchain.toml")).unwrap();
        let (channel, components) = pinned(&text).unwrap();
        assert!(channel.starts_with("nightly-20"), "{channel}");
        assert!(components.contains(&"rust-src".to_string()), "{components:?}");
    }

    #[test]
    fn components_are_optional() {
        assert_eq!(pinned("[toolchain]\nchannel = \"x\"\n"), Some(("x".into(), vec![])));
        assert_eq!(pinned("[toolchain]\n"), None);
    }
}

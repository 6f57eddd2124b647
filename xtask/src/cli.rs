//! The command line of `cargo xtask`: types only.

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Sets up, builds, tests and runs sipnat in this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Finds out what is missing on this machine (toolchain, bpf-linker, Debian packages) and installs it
    Setup,
    /// Builds the release binary, target/release/sipnat
    Build,
    /// Sets up, builds, and runs all checks and tests
    Test,
    /// A lab of network namespaces to try things in by hand
    #[command(subcommand)]
    Lab(Lab),
    /// Runs every fuzz target of the data path for a bounded time
    Fuzz(Fuzz),
    /// What continuous integration runs: the same as test
    Ci,
}

#[derive(Args, Debug)]
pub struct Fuzz {
    /// Seconds for each target
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
    /// Only this target
    pub target: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Lab {
    /// Builds the lab: inside hosts, a router that translates, outside hosts
    Up(LabUp),
    /// Removes exactly what `up` made
    Down(LabName),
    /// Lists the labs, and what runs in them
    Status,
}

#[derive(Args, Debug)]
pub struct LabUp {
    #[command(flatten)]
    pub lab: LabName,
    /// How many inside hosts
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=200))]
    pub phones: u8,
    /// What the router translates with
    #[arg(long, value_enum, default_value_t = LabNat::Sipnat)]
    pub nat: LabNat,
}

#[derive(Args, Debug)]
pub struct LabName {
    /// Several labs can be up side by side under different names
    #[arg(long, default_value = "default", value_parser = lab_name)]
    pub name: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LabNat {
    Sipnat,
    Nftables,
}

/// The name becomes part of namespace names and of a file name.
fn lab_name(text: &str) -> Result<String, String> {
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if (1..=20).contains(&text.len()) && plain {
        Ok(text.into())
    } else {
        Err("use 1 to 20 lower-case letters and digits".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn lab_names_cannot_leave_their_directory() {
        for bad in ["", "../x", "a-b", "a b", "Ä", "aaaaaaaaaaaaaaaaaaaaa"] {
            assert!(lab_name(bad).is_err(), "{bad:?}");
        }
        assert!(lab_name("lab2").is_ok());
    }
}

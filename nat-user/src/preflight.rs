//! Explains, before anything is attached, what is missing or dangerous on this machine for this configuration.
//!
//! [`Facts::gather`] looks, [`judge`] thinks; neither changes anything. Only [`apply_fixes`] writes, and only the
//! sysctls that findings name; the daemon calls it when the user passed `--allow-sysctl` and not otherwise.

mod device;
mod facts;
mod finding;
mod host;
mod judge;
mod network;
mod offload;

#[cfg(test)]
mod namespace_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use crate::net::{NetError, Prefix};

pub use facts::{Device, Facts, PinDir};
pub use finding::{Finding, Fix, Report, apply_fixes};
pub use judge::judge;

/// What the user asked for, as far as it meets the machine.
#[derive(Debug, Clone)]
pub struct PreflightInput {
    pub inside: Vec<InterfaceSpec>,
    pub outside: Vec<InterfaceSpec>,
    /// Configured external addresses; empty: those of the outside interfaces.
    pub external: Vec<Ipv4Addr>,
    /// Configured inside networks; empty: those of the inside interfaces.
    pub inside_prefixes: Vec<Prefix>,
    /// Kernel memory that all maps of the configured capacity take, in bytes.
    pub capacity_bytes: u64,
    /// The part of it that maps already pinned by an earlier run hold, in bytes.
    pub pinned_bytes: u64,
    /// Configured number of bindings, for the message about memory.
    pub max_bindings: u64,
    /// Ports the NAT may use on each external address.
    pub nat_ports: RangeInclusive<u16>,
    pub mode: WantedMode,
    pub socket_path: PathBuf,
    /// Directory below a bpffs for the pinned maps and links; need not exist yet.
    pub pin_dir: PathBuf,
    /// Ids of the programs in our own pinned links: finding one of them attached is no conflict.
    pub own_prog_ids: Vec<u32>,
}

/// One interface of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceSpec {
    /// The device that the program is attached to.
    pub name: String,
    /// Only frames with this 802.1Q tag belong to the NAT; None: frames without a tag.
    pub vlan: Option<u16>,
}

/// How to attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantedMode {
    /// Native where every interface can, generic otherwise.
    Auto,
    Native,
    Generic,
}

/// How the interfaces should be attached: the same for all, because a native program can only redirect to devices
/// that take frames from XDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    #[default]
    Native,
    Generic,
}

/// Looks at the network namespace of the calling thread and judges.
///
/// # Errors
/// Only if the kernel could not be asked at all; whatever is wrong with the answers is in the report.
pub async fn preflight(input: &PreflightInput) -> Result<Report, NetError> {
    Ok(judge(input, &Facts::gather(input).await?))
}

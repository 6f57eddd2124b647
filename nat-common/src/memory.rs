//! The data path without a kernel: every table in plain memory, frames to put in, and a reading of what comes out.
//!
//! For tests, fuzzers and whoever wants to know what the NAT does with a packet. Nothing here is part of the kernel
//! program; functions panic where a test has made a mistake.

pub mod cases;
pub mod frames;
pub mod oracle;
pub mod relay;
mod setup;
mod tables;
pub mod targets;
mod world;

pub use cases::{Case, Expected, cases};
pub use frames::Frame;
pub use setup::{Path, Prefix, Seconds, Setup, TICKS, interface};
pub use tables::{MemTables, mac_of, on_cpu};
pub use world::World;

use crate::flow::Endpoint;

/// An address from its text, host order.
pub fn addr(text: &str) -> u32 {
    let parsed: std::net::Ipv4Addr = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
    parsed.into()
}

/// An endpoint from text such as `192.0.2.1:5060`.
pub fn end(text: &str) -> Endpoint {
    let parsed: std::net::SocketAddrV4 = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
    Endpoint::new((*parsed.ip()).into(), parsed.port())
}

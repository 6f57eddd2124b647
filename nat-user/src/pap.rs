//! The port server: hosts inside ask for external ports and get them, by PCP (RFC 6887) and NAT-PMP (RFC 6886).
//!
//! Both are spoken on UDP port 5351 of the inside addresses. `wire` and `natpmp` are the messages, `mappings` what was granted, `server` decides, without
//! sockets, clocks or tables: it is given datagrams and the time, and asks a [`server::Gateway`] for ports. What it grants are bindings of the one table
//! that all traffic uses, from the blocks of the host that asks.

pub mod gateway;
pub mod mappings;
pub mod natpmp;
pub mod place;
pub mod server;
pub mod store;
pub mod wire;

/// Where requests go to (RFC 6887 section 19.1).
pub const SERVER_PORT: u16 = 5351;
/// Where clients hear announcements (RFC 6887 section 19.1).
pub const CLIENT_PORT: u16 = 5350;

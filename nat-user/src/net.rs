//! The router's own network, as the kernel sees it: interfaces, addresses, routes, neighbours, offloads, sockets.
//!
//! Everything here looks at the network namespace of the thread that calls it (sockets keep the namespace in which
//! they were opened). Nothing here changes a setting; the only writes are requests to resolve a neighbour.

mod decode;
pub mod ethtool;
mod handle;
mod monitor;
pub mod ports;
pub mod sockets;
mod types;
pub mod xdp_features;

#[cfg(test)]
pub(crate) mod testns;
#[cfg(test)]
mod tests;

pub use crate::units::Prefix;
pub use ethtool::Ethtool;
pub use handle::{Net, NetError};
pub use monitor::Monitor;
pub use ports::{OwnPorts, PortSet, excluded_ports};
pub use types::*;
pub use xdp_features::XdpFeatures;

//! The router's own network, as the kernel sees it: interfaces, addresses, routes, neighbours, offloads, sockets.
//!
//! Everything here looks at the network namespace of the thread that calls it (sockets keep the namespace in which
//! they were opened). Nothing here changes a setting; the only writes are requests to resolve a neighbour.

pub mod prefix;
mod types;

pub use prefix::{Prefix, PrefixError};
pub use types::*;

//! The data path as the daemon sees it: the eBPF object, its pinned maps as shared memory, its links.

pub mod clock;
pub mod geometry;
pub mod kernel;
pub mod links;
pub mod object;
pub mod pins;
pub mod shared;
pub mod stages;
pub mod tables;
#[cfg(test)]
pub(crate) mod testing;

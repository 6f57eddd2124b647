//! The data path as the daemon sees it: the eBPF object, its pinned maps as shared memory, its links.

pub mod object;
pub mod shared;

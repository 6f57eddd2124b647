//! The user space of sipnat: configuration, control, metrics and the records they print.

pub mod blocklog;
pub mod cli;
pub mod client;
pub mod commands;
pub mod config;
pub mod control;
pub mod daemon;
pub mod dataplane;
pub mod forwards;
pub mod lines;
pub mod media;
pub mod metrics;
pub mod net;
pub mod output;
pub mod pap;
pub mod pool;
pub mod preflight;
pub mod records;
pub mod relays;
pub mod service;
pub mod sip;
pub mod slowpath;
pub mod store;
pub mod sweep;
pub mod units;

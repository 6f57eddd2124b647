//! The user space of sipnat: configuration, control, metrics and the records they print.

pub mod config;
pub mod units;

//! The pure logic of sipnat's data path and the layouts that kernel and user space share.
//!
//! The same code is compiled into the XDP program and into the daemon, the tests and the fuzzers. It takes the packet
//! through [`packet::Packet`], everything else through [`tables::Tables`], and has no clock, no allocation and no panic.
#![cfg_attr(not(any(test, feature = "std")), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![deny(unsafe_code)]

pub mod binding;
pub mod checksum;
pub mod classify;
pub mod config;
pub mod counters;
pub mod error;
pub mod event;
pub mod flow;
pub mod fragment;
pub mod hash;
pub mod icmp;
pub mod index;
pub mod maps;
#[cfg(any(test, feature = "std"))]
pub mod memory;
pub mod packet;
pub mod parse;
pub mod policy;
pub mod ports;
pub mod quick;
pub mod raw;
pub mod relay;
pub mod rewrite;
pub mod session;
pub mod stage;
pub mod tables;
pub mod translate;
pub mod verdict;
pub mod watch;

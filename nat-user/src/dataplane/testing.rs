//! Tables in memory for the tests of what works on them.

use std::time::Instant;

use nat_common::{
    config::Config,
    maps::{AddressWord, Capacity},
};

use super::{clock::Clock, tables::UserTables};

/// Tables and the numbers that go with them.
pub struct Lab {
    pub tables: UserTables,
    pub cfg: Config,
}

/// Empty tables for so many addresses, 203.0.113.1 and on, with small lifetimes: UDP 50 ticks, TCP 400, 40 and 30, ICMP 10,
/// ports rest for 20.
pub fn lab(addresses: u32, block_shift: u32) -> Lab {
    let capacity = Capacity {
        addresses,
        index_buckets: 1 << 16,
        session_buckets: 256,
        fragment_buckets: 16,
        hosts: 4096,
        destinations: 16,
        counting: false,
        legs: 64,
        block_shift,
    };
    let clock = Clock::new(250, 1 << 20, Instant::now());
    let tables = UserTables::in_memory(&capacity, clock).unwrap();
    for (index, address) in tables.addresses.iter().enumerate() {
        address
            .word
            .set(AddressWord::new(0xcb00_7101 + index as u32, 1, true).0);
    }
    let cfg = Config {
        secret: 0x1234_5678_9abc_def0,
        index_buckets: capacity.index_buckets,
        index_step: nat_common::hash::step(capacity.index_buckets),
        session_mask: capacity.session_buckets - 1,
        fragment_mask: capacity.fragment_buckets - 1,
        host_mask: capacity.hosts - 1,
        destination_mask: 15,
        addresses,
        block_shift,
        blocks_per_host: 32,
        rest: 20,
        refresh: 1,
        ahead: 1,
        reserved: 0,
        route_age: 16,
        udp: 50,
        tcp_established: 400,
        tcp_opening: 40,
        tcp_closing: 30,
        icmp: 10,
        fragment: 10,
        ticks_per_second: 16,
        ..Config::default()
    };
    Lab { tables, cfg }
}

//! How the tables are filled before the first packet.

use super::tables::{Lazy, MemTables};
use super::{World, addr};
use crate::config::{Config, FLAG_HAIRPIN, FLAG_INSIDE_PREFIXES, FLAG_POLICY, Filtering, State};
use crate::flow::Proto;
use crate::maps::{
    AddressWord, Batch, BlockState, BlockWord, FRAGMENT_BUCKET, Interface, PORTS, ROLE_INSIDE, ROLE_OUTSIDE,
    SESSION_BUCKET, egress_key, ingress_key,
};
use crate::policy::Rule;
use crate::ports::{block_index, free_place, free_words, slot_index, used_place};
use crate::tables::{RouteKind, Tables};
use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::vec::Vec;

/// Ticks in a second, unless a test changes it.
pub const TICKS: u32 = 16;

/// An address prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// First address, host order.
    pub addr: u32,
    /// Bits.
    pub len: u32,
}

impl Prefix {
    /// From text such as `10.0.0.0/8`.
    pub fn new(text: &str) -> Self {
        let (first, len) = text
            .split_once('/')
            .unwrap_or_else(|| panic!("{text} is no prefix: write it as 10.0.0.0/8"));
        Self {
            addr: addr(first),
            len: len.parse().unwrap_or_else(|e| panic!("{text}: {e}")),
        }
    }

    /// Whether `addr` is in it.
    pub fn contains(&self, addr: u32) -> bool {
        self.len == 0 || (addr ^ self.addr) >> (32 - self.len) == 0
    }
}

/// A line of the routing table.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// Destinations.
    pub prefix: Prefix,
    /// What the table says.
    pub kind: RouteKind,
    /// Interface index of the way out.
    pub ifindex: u32,
    /// Next hop; 0 if the destination is on the link.
    pub next_hop: u32,
    /// MTU in bytes.
    pub mtu: u16,
    /// The next hop's MAC address; `None` for one made of its IP address.
    pub mac: Option<[u8; 6]>,
}

impl Path {
    /// A way with a known neighbour and an MTU of 1500.
    pub fn new(prefix: &str, ifindex: u32, next_hop: &str) -> Self {
        Self {
            prefix: Prefix::new(prefix),
            kind: RouteKind::Known,
            ifindex,
            next_hop: addr(next_hop),
            mtu: 1500,
            mac: None,
        }
    }
}

/// Lifetimes in seconds.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "named as in Config")]
pub struct Seconds {
    pub rest: u32,
    pub refresh: u32,
    pub route_age: u32,
    pub udp: u32,
    pub tcp_established: u32,
    pub tcp_opening: u32,
    pub tcp_closing: u32,
    pub icmp: u32,
    pub fragment: u32,
}

/// The defaults of the product.
const SECONDS: Seconds = Seconds {
    rest: 120,
    refresh: 1,
    route_age: 1,
    udp: 300,
    tcp_established: 7440,
    tcp_opening: 240,
    tcp_closing: 240,
    icmp: 60,
    fragment: 15,
};

/// A NAT to be built. The default: inside 10.0.0.0/16 on device 10 (the router is 10.0.0.1), outside on device 20 with the
/// external address 203.0.113.1 and a default route to 203.0.113.254.
#[derive(Clone, Debug)]
pub struct Setup {
    /// External addresses.
    pub externals: Vec<u32>,
    /// Interfaces by number.
    pub interfaces: Vec<Interface>,
    /// The routing table; the longest prefix decides.
    pub paths: Vec<Path>,
    /// The router's own addresses and the broadcast addresses of its networks.
    pub locals: Vec<u32>,
    /// Destinations that are routed untranslated.
    pub bypass: Vec<Prefix>,
    /// Inside prefixes; none means that routing decides.
    pub inside: Vec<Prefix>,
    /// Policy rules; none means no policy unless `FLAG_POLICY` is set.
    pub rules: Vec<Rule>,
    /// Ports that are given out.
    pub pool: RangeInclusive<u16>,
    /// Ports per block, as a power of two.
    pub block_shift: u32,
    /// Blocks per host.
    pub quota: u32,
    /// Filtering of TCP, UDP, ICMP.
    pub filtering: [Filtering; 3],
    /// Lifetimes.
    pub seconds: Seconds,
    /// `FLAG_*`; those for prefixes and policy are added where needed.
    pub flags: u32,
    /// Largest MSS; 0 for any.
    pub mss: u32,
    /// Remote ports where registrations are watched.
    pub watch: Vec<u16>,
    /// Buckets of the binding index, a power of two.
    pub index_buckets: u32,
    /// Buckets of the session table, a power of two.
    pub session_buckets: u32,
    /// Buckets of the fragment table, a power of two.
    pub fragment_buckets: u32,
    /// Host records, a power of two.
    pub hosts: u32,
    /// Legs of the media relay.
    pub legs: u32,
    /// Seed of table positions and random numbers.
    pub seed: u64,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            externals: [addr("203.0.113.1")].into(),
            interfaces: [
                interface(10, "10.0.0.1", ROLE_INSIDE),
                interface(20, "203.0.113.1", ROLE_OUTSIDE),
            ]
            .into(),
            paths: [
                Path::new("10.0.0.0/16", 10, "0.0.0.0"),
                Path::new("203.0.113.0/24", 20, "0.0.0.0"),
                Path::new("0.0.0.0/0", 20, "203.0.113.254"),
            ]
            .into(),
            locals: ["10.0.0.1", "10.0.255.255", "203.0.113.255"].map(addr).into(),
            bypass: Vec::new(),
            inside: Vec::new(),
            rules: Vec::new(),
            pool: 1024..=65535,
            block_shift: 6,
            quota: 32,
            filtering: [
                Filtering::AddressDependent,
                Filtering::EndpointIndependent,
                Filtering::EndpointIndependent,
            ],
            seconds: SECONDS,
            flags: FLAG_HAIRPIN,
            mss: 0,
            watch: Vec::new(),
            index_buckets: 4096,
            session_buckets: 4096,
            fragment_buckets: 64,
            hosts: 1024,
            legs: 64,
            seed: 1,
        }
    }
}

/// An interface whose device has the same index, with an MTU of 1500 and no VLAN.
pub fn interface(ifindex: u32, address: &str, role: u8) -> Interface {
    Interface {
        ifindex,
        device: ifindex,
        addr: addr(address),
        mtu: 1500,
        vlan: 0,
        mac: [2, 0, 0, 0, 1, ifindex as u8],
        role,
        reserved: 0,
    }
}

impl Setup {
    /// The NAT and its clock.
    pub fn world(self) -> World {
        World { tables: self.tables() }
    }

    /// The tables.
    pub fn tables(self) -> MemTables {
        let config = self.config();
        let addresses = self.externals.len() as u32;
        let slots = addresses * 3 * PORTS;
        let blocks = addresses * (PORTS >> self.block_shift);
        let mut interface_of = HashMap::new();
        for (number, i) in (0..).zip(&self.interfaces) {
            interface_of.insert(ingress_key(i.device, i.vlan), number);
            interface_of.insert(egress_key(i.ifindex), number);
        }
        let tables = MemTables {
            configs: [config, config],
            state: State {
                active: 1,
                route_generation: 1,
                tick_shift: 0,
                cpus: 2,
                staged: 0,
                reserved: 0,
            },
            addresses: Lazy::new(addresses),
            slots: Lazy::new(slots),
            traffic: Lazy::new(slots),
            index: Lazy::new(self.index_buckets),
            used_ports: Lazy::new(slots / 64),
            free_blocks: Lazy::new(addresses * free_words(self.block_shift)),
            blocks: Lazy::new(blocks),
            hosts: Lazy::new(self.hosts),
            sessions: Lazy::new(self.session_buckets * SESSION_BUCKET),
            fragments: Lazy::new(self.fragment_buckets * FRAGMENT_BUCKET),
            legs: Lazy::new(self.legs),
            destinations: (0..super::tables::CPUS).map(|_| Lazy::new(256)).collect(),
            batches: (0..super::tables::CPUS).map(|_| Batch::default()).collect(),
            rules: self.rules.clone(),
            external: (0..).zip(&self.externals).map(|(i, &a)| (a, i)).collect(),
            local: self.locals.iter().copied().collect::<HashSet<u32>>(),
            bypass: self.bypass.clone(),
            inside: self.inside.clone(),
            interface_of,
            interfaces: self.interfaces.clone(),
            paths: self.paths.clone(),
            locks: (0..crate::maps::LOCKS).map(|_| Mutex::new(())).collect(),
            clock: AtomicU32::new(1_000_000),
            nanos: AtomicU64::new(1 << 50),
            dice: AtomicU64::new(self.seed),
            ids: AtomicU32::new(self.seed as u32),
            events: Mutex::new(Vec::new()),
            copies: Mutex::new(Vec::new()),
        };
        for (index, &external) in (0..).zip(&self.externals) {
            self.fill(&tables, index, external);
        }
        tables
    }

    fn config(&self) -> Config {
        let s = &self.seconds;
        let mut flags = self.flags;
        if !self.inside.is_empty() {
            flags |= FLAG_INSIDE_PREFIXES;
        }
        if !self.rules.is_empty() {
            flags |= FLAG_POLICY;
        }
        let filtering = |proto: Proto| u32::from(self.filtering[proto as usize] as u8) << (proto as u32 * 8);
        Config {
            secret: self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d,
            index_buckets: self.index_buckets,
            index_step: crate::hash::step(self.index_buckets),
            session_mask: mask(self.session_buckets),
            fragment_mask: mask(self.fragment_buckets),
            host_mask: mask(self.hosts),
            destination_mask: 255,
            addresses: self.externals.len() as u32,
            block_shift: self.block_shift,
            blocks_per_host: self.quota,
            rest: s.rest * TICKS,
            refresh: s.refresh * TICKS,
            ahead: s.refresh * TICKS,
            reserved: 0,
            route_age: s.route_age * TICKS,
            udp: s.udp * TICKS,
            tcp_established: s.tcp_established * TICKS,
            tcp_opening: s.tcp_opening * TICKS,
            tcp_closing: s.tcp_closing * TICKS,
            icmp: s.icmp * TICKS,
            fragment: s.fragment * TICKS,
            flags,
            mss: self.mss,
            watch: crate::watch::word(&self.watch),
            policy_len: self.rules.len() as u32,
            filtering: Proto::ALL.map(filtering).iter().sum(),
            ticks_per_second: TICKS,
            ..Config::default()
        }
    }

    /// One external address: its blocks are free as far as they have ports of the pool; their other ports are taken.
    fn fill(&self, t: &MemTables, index: u32, external: u32) {
        let entry = t.address(index).expect("sized by the addresses");
        entry.word.set(AddressWord::new(external, 1, true).0);
        let (first, last) = (*self.pool.start(), *self.pool.end());
        for number in 0..PORTS >> self.block_shift {
            let start = number << self.block_shift;
            let end = start + (1 << self.block_shift) - 1;
            let block = block_index(index, start as u16, self.block_shift);
            if end < u32::from(first) || start > u32::from(last) {
                t.block(block)
                    .expect("a block")
                    .word
                    .set(BlockWord::new(BlockState::Reserved, 0).0);
                continue;
            }
            let (word, bit) = free_place(block, self.block_shift);
            t.free_blocks(word).expect("a word").or(bit);
            entry.free_blocks.fetch_add(1);
            for port in (start..=end).filter(|&p| !self.pool.contains(&(p as u16))) {
                for proto in Proto::ALL {
                    let (word, bit) = used_place(slot_index(index, proto, port as u16));
                    t.used_ports(word).expect("a word").or(bit);
                }
            }
        }
    }
}

fn mask(entries: u32) -> u32 {
    assert!(entries.is_power_of_two(), "{entries} is no power of two");
    entries - 1
}

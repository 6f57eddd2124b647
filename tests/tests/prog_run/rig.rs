//! The loaded programs, their tables filled, and a namespace with the devices that the tables name.

use std::collections::BTreeSet;
use std::time::Instant;

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, DevMap, HashMap, LpmTrie, Map, MapData, PerCpuArray, PerCpuValues, RingBuf};
use aya::programs::Xdp;
use aya::{Ebpf, TestRun, TestRunOptions};
use nat_common::config::Config;
use nat_common::counters::{Count, REASONS, Reason};
use nat_common::flow::Side;
use nat_common::maps::{Capacity, Destination, Interface, PUNT_SOURCES, egress_key, ingress_key};
use nat_common::memory::{MemTables, Prefix, Setup};
use nat_common::policy::Rule;
use nat_common::tables::Tables;
use nat_common::watch::SOURCES;
use nat_user::dataplane::clock::Clock;
use nat_user::dataplane::object;
use nat_user::dataplane::shared::Shared;
use nat_user::dataplane::tables::UserTables;
use tests::ns::Namespace;
use tests::process::pin;

/// XDP_DROP, XDP_PASS and XDP_REDIRECT.
pub const DROP: u32 = 1;
pub const PASS: u32 = 2;
pub const REDIRECT: u32 = 4;

/// The kernel makes no frame shorter than an Ethernet header.
pub const SHORTEST: usize = 14;

/// The largest shift that the program takes: a tick is three months or longer.
const TICK_SHIFT: u32 = 31;
/// Destinations in each processor's cache.
const DESTINATIONS: u32 = 256;
/// More packets for the slow path than any test has, times the ticks of a second.
const TOKENS: u32 = 1 << 28;

/// Runs `work` in a namespace of its own that has a device for each interface, on processor 0.
pub fn in_lab(setup: &Setup, work: impl FnOnce(&Namespace) + Send) {
    let ns = Namespace::new("prog").unwrap();
    let devices: BTreeSet<u32> = setup.interfaces.iter().map(|i| i.device).collect();
    let add = |n| format!("link add d{n} index {n} type veth peer name p{n}");
    let up = |n| format!("link set d{n} up");
    let lines: Vec<String> = devices.iter().map(add).chain(devices.iter().map(up)).collect();
    ns.ip_batch(&lines).unwrap();
    ns.enter(|| {
        pin(0);
        work(&ns);
    });
}

/// What became of a packet in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// XDP_*.
    pub action: u32,
    /// The one counter that moved.
    pub reason: Reason,
    /// The frame afterwards.
    pub bytes: Vec<u8>,
}

/// The programs and their tables.
pub struct Rig {
    pub tables: UserTables,
    ebpf: Ebpf,
    punts: RingBuf<MapData>,
    events: RingBuf<MapData>,
    watched: RingBuf<MapData>,
    now: u32,
    devices: [u32; 2],
    /// What the cache of destinations was filled with.
    believed: Vec<(u32, [u8; size_of::<Destination>()])>,
}

impl Rig {
    /// Loads the object with tables of these sizes; they stay empty until [`Rig::reset`].
    pub fn new(setup: &Setup) -> Self {
        let capacity = Capacity {
            addresses: setup.externals.len() as u32,
            index_buckets: setup.index_buckets,
            session_buckets: setup.session_buckets,
            fragment_buckets: setup.fragment_buckets,
            hosts: setup.hosts,
            destinations: DESTINATIONS,
            counting: false,
            legs: setup.legs,
            block_shift: setup.block_shift,
        };
        let mut ebpf = object::open(&capacity, None).unwrap();
        for name in object::PROGRAMS {
            object::load(&mut ebpf, name).unwrap();
        }
        object::connect(&mut ebpf).unwrap();
        let options = TestRunOptions {
            data_in: Some(&[0; 64]),
            ..TestRunOptions::new()
        };
        object::program(&mut ebpf, object::CLOCK)
            .unwrap()
            .test_run(options)
            .unwrap();
        let jiffies: u64 = array(&mut ebpf, object::CLOCK_MAP).get(&0, 0).unwrap();
        // User space reads no time from its tables here.
        let tables = UserTables::open(&ebpf, Clock::new(250, jiffies, Instant::now())).unwrap();
        let [punts, events, watched] =
            ["PUNTS", "EVENTS", "WATCHED"].map(|name| RingBuf::try_from(ebpf.take_map(name).unwrap()).unwrap());
        let device = |role| setup.interfaces.iter().find(|i| i.role == role).unwrap().device;
        let mut rig = Self {
            tables,
            ebpf,
            punts,
            events,
            watched,
            now: (jiffies >> TICK_SHIFT) as u32,
            devices: [nat_common::maps::ROLE_INSIDE, nat_common::maps::ROLE_OUTSIDE].map(device),
            believed: Vec::new(),
        };
        rig.surround(setup);
        rig
    }

    /// The host's tables for the same NAT, with the kernel's time.
    pub fn memory(&self, setup: &Setup) -> MemTables {
        let mut t = setup.clone().tables();
        for config in &mut t.configs {
            *config = Config {
                route_age: u32::MAX / 4,
                punt_source: TOKENS / config.ticks_per_second,
                punt_total: TOKENS / config.ticks_per_second,
                ..*config
            };
        }
        t.set_time(self.now);
        t
    }

    /// Index of the device of a side.
    pub fn device(&self, side: Side) -> u32 {
        self.devices[side as usize]
    }

    /// What does not change from packet to packet.
    fn surround(&mut self, setup: &Setup) {
        let ebpf = &mut self.ebpf;
        for (number, interface) in (0..).zip(&setup.interfaces) {
            array::<Interface>(ebpf, "INTERFACES")
                .set(number, interface, 0)
                .unwrap();
            let mut devices = DevMap::try_from(ebpf.map_mut("DEVICES").unwrap()).unwrap();
            devices.set(number, interface.device, None, 0).unwrap();
            let mut of = HashMap::<_, u64, u32>::try_from(ebpf.map_mut("INTERFACE_OF").unwrap()).unwrap();
            of.insert(&ingress_key(interface.device, interface.vlan), &number, 0)
                .unwrap();
            of.insert(&egress_key(interface.ifindex), &number, 0).unwrap();
        }
        for (number, rule) in (0..).zip(&setup.rules) {
            array::<Rule>(ebpf, "RULES").set(number, rule, 0).unwrap();
        }
        let mut external = HashMap::<_, u32, u32>::try_from(ebpf.map_mut("EXTERNAL").unwrap()).unwrap();
        for (number, addr) in (0u32..).zip(&setup.externals) {
            external.insert(addr, &number, 0).unwrap();
        }
        let mut local = HashMap::<_, u32, u32>::try_from(ebpf.map_mut("LOCAL").unwrap()).unwrap();
        for addr in &setup.locals {
            local.insert(addr, &1, 0).unwrap();
        }
        for (name, prefixes) in [("BYPASS", &setup.bypass), ("PREFIXES", &setup.inside)] {
            let mut map = LpmTrie::<_, [u8; 4], u32>::try_from(ebpf.map_mut(name).unwrap()).unwrap();
            for Prefix { addr, len } in prefixes {
                map.insert(&Key::new(*len, addr.to_be_bytes()), &1, 0).unwrap();
            }
        }
        let full = [TOKENS.to_ne_bytes(), self.now.to_ne_bytes()].concat();
        let full: [u8; 8] = full.try_into().unwrap();
        for (name, len) in [
            ("PUNT_TOTAL", 1),
            ("PUNT_SOURCE", PUNT_SOURCES),
            ("WATCH_TOTAL", 1),
            ("MEDIA_TOTAL", 1),
            ("WATCH_SOURCE", SOURCES),
        ] {
            let mut map = per_cpu::<[u8; 8]>(ebpf, name);
            (0..len).for_each(|index| map.set(index, everywhere(full), 0).unwrap());
        }
    }

    /// Makes the shared tables what `like` is before its first packet.
    pub fn reset(&mut self, like: &MemTables) {
        let t = &self.tables;
        t.cells().active.set(0);
        for (index, config) in (0..).zip(&like.configs) {
            array::<Config>(&mut self.ebpf, "CONFIG").set(index, config, 0).unwrap();
        }
        wipe(&t.slots);
        wipe(&t.index);
        wipe(&t.hosts);
        wipe(&t.sessions);
        wipe(&t.fragments);
        wipe(&t.legs);
        for (index, entry) in (0..).zip(t.addresses.iter()) {
            let from = like.address(index).unwrap();
            entry.word.set(from.word.get());
            entry.free_blocks.set(from.free_blocks.get());
        }
        for (index, block) in (0..).zip(t.blocks.iter()) {
            block.word.set(like.block(index).unwrap().word.get());
            block.since.set(0);
            block.logged.set(0);
        }
        (0..)
            .zip(t.used_ports.iter())
            .for_each(|(i, word)| word.set(like.used_ports(i).unwrap().get()));
        (0..)
            .zip(t.free_blocks.iter())
            .for_each(|(i, word)| word.set(like.free_blocks(i).unwrap().get()));
        let cells = t.cells();
        cells.route_generation.set(like.state.route_generation);
        cells.tick_shift.set(TICK_SHIFT);
        cells.cpus.set(like.state.cpus);
        cells.active.set(like.state.active);
    }

    /// Fills the cache of destinations of every processor with what `t` has found out.
    pub fn believe(&mut self, t: &MemTables) {
        let mut map = per_cpu::<[u8; size_of::<Destination>()]>(&mut self.ebpf, "DESTINATIONS");
        self.believed.clear();
        for index in 0..DESTINATIONS {
            let entry = t.destination(index).unwrap();
            if entry.class.get() != 0 {
                let bytes = bytes_of(entry);
                map.set(index, everywhere(bytes), 0).unwrap();
                self.believed.push((index, bytes));
            }
        }
    }

    /// Whether the program on processor 0 found what it needed in the cache.
    pub fn asked_nobody(&self) -> bool {
        let map = PerCpuArray::<&MapData, [u8; size_of::<Destination>()]>::try_from(self.map("DESTINATIONS")).unwrap();
        self.believed
            .iter()
            .all(|(index, bytes)| map.get(index, 0).unwrap()[0] == *bytes)
    }

    /// Runs one frame; exactly one counter must move, by one, on the frame's side.
    pub fn run(&mut self, side: Side, frame: &[u8]) -> Ran {
        let before = self.counters();
        let (action, bytes) = run(self.program(side), self.device(side), frame);
        let after = self.counters();
        let moved: Vec<usize> = (0..after.len()).filter(|&i| after[i] != before[i]).collect();
        let [index] = moved[..] else {
            panic!("not one counter moved, but {moved:?}, by {frame:02x?}");
        };
        assert_eq!(after[index] - before[index], 1, "a packet was counted more than once");
        assert_eq!(index / REASONS, side as usize, "a packet was counted on the other side");
        // Rings that are full would refuse.
        while self.punts.next().is_some() {}
        while self.events.next().is_some() {}
        let reason = Reason::ALL[index % REASONS];
        Ran { action, reason, bytes }
    }

    /// The registrations that the daemon would have got copies of since this was asked last.
    pub fn copies(&mut self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.watched.next().map(|record| record.to_vec())).collect()
    }

    /// Takes all tokens for copies of registrations; time stands still, so there are no new ones.
    pub fn drain_watch_budget(&mut self) {
        let none = [0u32.to_ne_bytes(), self.now.to_ne_bytes()].concat();
        let none: [u8; 8] = none.try_into().unwrap();
        let mut map = per_cpu::<[u8; 8]>(&mut self.ebpf, "WATCH_SOURCE");
        (0..SOURCES).for_each(|index| map.set(index, everywhere(none), 0).unwrap());
    }

    /// The program that the device of a side has.
    pub fn program(&self, side: Side) -> &Xdp {
        let name = match side {
            _ if self.devices[0] == self.devices[1] => object::TRUNK,
            Side::Inside => object::INSIDE,
            Side::Outside => object::OUTSIDE,
        };
        self.ebpf.program(name).unwrap().try_into().unwrap()
    }

    fn counters(&self) -> Vec<u64> {
        let map = PerCpuArray::<&MapData, Count>::try_from(self.map("COUNTERS")).unwrap();
        let sum = |index| map.get(&index, 0).unwrap().iter().map(|count| count.packets).sum();
        (0..2 * REASONS as u32).map(sum).collect()
    }

    fn map(&self, name: &str) -> &Map {
        self.ebpf.map(name).unwrap()
    }
}

/// Runs one frame that comes in on `device`: the action, and the frame afterwards.
pub fn run(program: &Xdp, device: u32, frame: &[u8]) -> (u32, Vec<u8>) {
    let context: Vec<u8> = [0, frame.len() as u32, 0, device, 0, 0]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    let mut out = vec![0; 4096];
    let options = TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        ctx_in: Some(&context),
        ..TestRunOptions::new()
    };
    let result = program
        .test_run(options)
        .unwrap_or_else(|error| panic!("cannot run {} bytes: {error}", frame.len()));
    let len = result.data_size_out as usize;
    out.truncate(len);
    (result.return_value, out)
}

fn array<'e, V: aya::Pod>(ebpf: &'e mut Ebpf, name: &str) -> Array<&'e mut MapData, V> {
    Array::try_from(ebpf.map_mut(name).unwrap()).unwrap()
}

fn per_cpu<'e, V: aya::Pod>(ebpf: &'e mut Ebpf, name: &str) -> PerCpuArray<&'e mut MapData, V> {
    PerCpuArray::try_from(ebpf.map_mut(name).unwrap()).unwrap()
}

/// The same value for each processor.
fn everywhere<V: aya::Pod>(value: V) -> PerCpuValues<V> {
    let cpus = aya::util::nr_cpus().unwrap();
    PerCpuValues::try_from(vec![value; cpus.get() as usize]).unwrap()
}

fn wipe<T>(table: &Shared<T>) {
    // SAFETY: the whole mapping; entries are cells, for which all zeroes is a value, and no program runs meanwhile.
    unsafe { std::ptr::write_bytes(table.as_ptr().cast_mut(), 0, table.len()) }
}

fn bytes_of(entry: &Destination) -> [u8; size_of::<Destination>()] {
    // SAFETY: repr(C) without padding, made of cells of numbers; nobody else uses these tables at the moment.
    unsafe { std::mem::transmute_copy(entry) }
}

//! `Tables` over plain memory. All cells are atomic, so several threads may run packets on one `MemTables`.

use super::setup::{Path, Prefix};
use crate::config::{Config, FOREVER, State};
use crate::event::Event;
use crate::flow::{Endpoint, InsideKey, Proto, Side};
use crate::hash::mix;
use crate::index;
use crate::maps::{
    Address, AddressWord, Batch, Block, Bucket, Destination, Fragment, Host, Interface, KIND_STATIC, Session, Slot,
    SlotState, SlotWord, Traffic,
};
use crate::packet::Packet;
use crate::policy::Rule;
use crate::ports::{slot_index, used_place};
use crate::raw::Word64;
use crate::relay::Leg;
use crate::stage;
use crate::tables::{Route, RouteKind, Tables};
use crate::translate::{process, process_late};
use crate::verdict::Verdict;
use crate::watch::{self, Copied, MAX_LEN, NOT, Seen};
use std::boxed::Box;
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::vec::Vec;

/// Destination caches, as every processor has its own.
pub const CPUS: usize = 8;

std::thread_local! {
    static CPU: Cell<usize> = const { Cell::new(0) };
}

/// Says on which processor this thread runs its packets from now on: 0 to 7. Threads that share tables need their own.
pub fn on_cpu(number: usize) {
    assert!(number < CPUS, "there are only {CPUS} processors");
    CPU.set(number);
}

/// All tables, the clock, the routing table, and what the daemon was told.
pub struct MemTables {
    /// Two versions of the configuration.
    pub configs: [Config; 2],
    /// What changes while the NAT runs.
    pub state: State,
    /// The routing table. After a change call [`MemTables::routes_changed`].
    pub paths: Vec<Path>,
    /// Interfaces by number.
    pub interfaces: Vec<Interface>,
    /// Policy rules.
    pub rules: Vec<Rule>,
    pub(super) addresses: Lazy<Address>,
    pub(super) slots: Lazy<Slot>,
    pub(super) traffic: Lazy<Traffic>,
    pub(super) index: Lazy<Bucket>,
    pub(super) used_ports: Lazy<Word64>,
    pub(super) free_blocks: Lazy<Word64>,
    pub(super) blocks: Lazy<Block>,
    pub(super) hosts: Lazy<Host>,
    pub(super) sessions: Lazy<Session>,
    pub(super) fragments: Lazy<Fragment>,
    pub(super) legs: Lazy<Leg>,
    pub(super) destinations: Vec<Lazy<Destination>>,
    pub(super) batches: Vec<Batch>,
    pub(super) external: HashMap<u32, u32>,
    pub(super) local: HashSet<u32>,
    pub(super) bypass: Vec<Prefix>,
    pub(super) inside: Vec<Prefix>,
    pub(super) interface_of: HashMap<u64, u32>,
    pub(super) locks: Vec<Mutex<()>>,
    pub(super) clock: AtomicU32,
    pub(super) nanos: AtomicU64,
    pub(super) dice: AtomicU64,
    pub(super) ids: AtomicU32,
    pub(super) events: Mutex<Vec<Event>>,
    pub(super) copies: Mutex<Vec<(Copied, Vec<u8>)>>,
}

impl MemTables {
    /// The configuration in force.
    pub fn active(&self) -> &Config {
        &self.configs[self.state.active as usize - 1]
    }

    /// Time in ticks.
    pub fn time(&self) -> u32 {
        self.clock.load(SeqCst)
    }

    /// Sets the clock, in ticks.
    pub fn set_time(&self, ticks: u32) {
        self.clock.store(ticks, SeqCst);
    }

    /// Lets seconds pass.
    pub fn wait(&self, seconds: u32) {
        self.clock.fetch_add(seconds * self.active().ticks_per_second, SeqCst);
    }

    /// Lets nanoseconds pass that are too few for the clock of the tables.
    pub fn wait_nanos(&self, nanos: u64) {
        self.nanos.fetch_add(nanos, SeqCst);
    }

    /// Begins another sequence of random numbers.
    pub fn set_random(&self, seed: u64) {
        self.dice.store(seed, SeqCst);
    }

    /// Makes cached routes invalid.
    pub fn routes_changed(&mut self) {
        self.state.route_generation += 1;
    }

    /// What the daemon was told since this was asked last.
    pub fn events(&self) -> Vec<Event> {
        core::mem::take(&mut self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The registrations that the daemon got copies of since this was asked last.
    pub fn copies(&self) -> Vec<(Copied, Vec<u8>)> {
        core::mem::take(&mut self.copies.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The external address number `index` becomes `to`, as after a redial: bindings on it are dead.
    pub fn change_address(&mut self, index: u32, to: u32) {
        let entry = self.address(index).expect("an external address");
        let old = AddressWord(entry.word.get());
        entry
            .word
            .set(AddressWord::new(to, old.generation().wrapping_add(1), true).0);
        self.external.remove(&old.addr());
        self.external.insert(to, index);
        self.routes_changed();
    }

    /// Takes the external address number `index` out of use, or puts it back.
    pub fn set_active(&mut self, index: u32, active: bool) {
        let entry = self.address(index).expect("an external address");
        let old = AddressWord(entry.word.get());
        entry.word.set(AddressWord::new(old.addr(), old.generation(), active).0);
    }

    /// A static forward, as the daemon would make it.
    pub fn forward(&self, proto: Proto, external: Endpoint, inside: Endpoint) {
        let address = self.external(external.addr).expect("an external address");
        let number = slot_index(address, proto, external.port);
        let slot = self.slot(number).expect("a slot");
        let (word, bit) = used_place(number);
        self.used_ports(word).expect("a word").or(bit);
        let generation = SlotWord(slot.word.get()).generation().wrapping_add(1);
        slot.inside_addr.set(inside.addr);
        slot.inside_port.set(inside.port);
        slot.kind.set(KIND_STATIC);
        slot.lifetime.set(FOREVER);
        slot.created.set(self.time());
        slot.word.set(SlotWord::new(SlotState::Live, generation, self.time()).0);
        index::insert(self, self.active(), &InsideKey { proto, inside }, number, self.time());
    }

    /// How many slots there are.
    pub fn slot_count(&self) -> u32 {
        self.slots.len
    }

    /// How many blocks there are.
    pub fn block_count(&self) -> u32 {
        self.blocks.len
    }

    /// How many host records there are.
    pub fn host_count(&self) -> u32 {
        self.hosts.len
    }

    /// How many session entries there are.
    pub fn session_count(&self) -> u32 {
        self.sessions.len
    }

    /// Runs one frame through the data path.
    pub fn run(&self, side: Side, device: u32, frame: &mut crate::packet::Bytes) -> Verdict {
        process(frame, self, side, device).verdict()
    }

    /// One frame through both stages ([`crate::stage`]), if it is one of those, as the kernel program does it.
    pub fn run_staged(&self, side: Side, device: u32, frame: &mut crate::packet::Bytes) -> Verdict {
        let outcome = process(frame, self, side, device);
        if !outcome.is_staged() {
            return outcome.verdict();
        }
        assert!(stage::take_up(frame), "what goes on to the second stage has the mark");
        let sent = self.interfaces[outcome.argument().value as usize].device;
        let here = |port| self.interface(port).is_some_and(|i| i.device == sent);
        stage::settle(process_late(frame, self, device), here).verdict()
    }
}

impl Tables for MemTables {
    fn now(&self, _: &State) -> u32 {
        self.time()
    }

    fn random(&self) -> u32 {
        mix(self.dice.fetch_add(1, SeqCst), 0x1234_5678_9abc_def0) as u32
    }

    fn next_id(&self, _cpus: u32) -> u16 {
        self.ids.fetch_add(1, SeqCst) as u16
    }

    fn state(&self) -> Option<&State> {
        Some(&self.state)
    }

    fn config(&self, index: u32) -> Option<&Config> {
        self.configs.get(index as usize)
    }

    fn address(&self, index: u32) -> Option<&Address> {
        self.addresses.get(index)
    }

    fn slot(&self, index: u32) -> Option<&Slot> {
        self.slots.get(index)
    }

    fn traffic(&self, index: u32) -> Option<&Traffic> {
        self.traffic.get(index)
    }

    fn bucket(&self, index: u32) -> Option<&Bucket> {
        self.index.get(index)
    }

    fn used_ports(&self, index: u32) -> Option<&Word64> {
        self.used_ports.get(index)
    }

    fn free_blocks(&self, index: u32) -> Option<&Word64> {
        self.free_blocks.get(index)
    }

    fn block(&self, index: u32) -> Option<&Block> {
        self.blocks.get(index)
    }

    fn host(&self, index: u32) -> Option<&Host> {
        self.hosts.get(index)
    }

    fn session(&self, index: u32) -> Option<&Session> {
        self.sessions.get(index)
    }

    fn fragment(&self, index: u32) -> Option<&Fragment> {
        self.fragments.get(index)
    }

    fn leg(&self, index: u32) -> Option<&Leg> {
        self.legs.get(index)
    }

    fn nanos(&self) -> u64 {
        self.nanos.load(SeqCst)
    }

    fn batch(&self) -> Option<&Batch> {
        Some(&self.batches[CPU.get()])
    }

    fn destination(&self, index: u32) -> Option<&Destination> {
        self.destinations[CPU.get()].get(index)
    }

    fn rule(&self, index: u32) -> Option<&Rule> {
        self.rules.get(index as usize)
    }

    fn external(&self, addr: u32) -> Option<u32> {
        self.external.get(&addr).copied()
    }

    fn local(&self, addr: u32) -> bool {
        self.local.contains(&addr)
    }

    fn bypassed(&self, addr: u32) -> bool {
        self.bypass.iter().any(|prefix| prefix.contains(addr))
    }

    fn inside_prefix(&self, addr: u32) -> bool {
        self.inside.iter().any(|prefix| prefix.contains(addr))
    }

    fn interface_of(&self, key: u64) -> Option<u32> {
        self.interface_of.get(&key).copied()
    }

    fn interface(&self, index: u32) -> Option<&Interface> {
        self.interfaces.get(index as usize)
    }

    fn route(&self, ifindex: u32, _source: u32, destination: u32, _tos: u8) -> Route {
        let nothing = Route {
            kind: RouteKind::None,
            ifindex,
            next_hop: destination,
            mtu: 0,
            mac: [0; 6],
        };
        let best = self.paths.iter().filter(|path| path.prefix.contains(destination));
        let Some(path) = best.max_by_key(|path| path.prefix.len) else {
            return nothing;
        };
        let next_hop = if path.next_hop == 0 { destination } else { path.next_hop };
        let mac = path.mac.unwrap_or_else(|| mac_of(next_hop));
        match path.kind {
            RouteKind::Known | RouteKind::NoNeighbour => Route {
                kind: path.kind,
                ifindex: path.ifindex,
                next_hop,
                mtu: path.mtu,
                mac: if path.kind == RouteKind::Known { mac } else { [0; 6] },
            },
            kind => Route { kind, ..nothing },
        }
    }

    fn locked<R>(&self, index: u32, insert: impl FnOnce() -> R) -> Option<R> {
        let lock = self.locks.get(index as usize)?;
        let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
        Some(insert())
    }

    fn event(&self, event: Event) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    fn watch<P: Packet>(&self, p: &mut P, seen: &Seen, _: u32) {
        let Some(slot) = self.slot(seen.slot) else { return };
        let generation = watch::wanted(slot, seen);
        if generation == NOT || !slot.is_relay() && !watch::begins(p, seen) {
            return;
        }
        let copied = Copied {
            seen: *seen,
            generation: generation as u16,
            reserved: 0,
        };
        let places = (0..usize::from(seen.len).min(MAX_LEN)).map(|at| usize::from(seen.offset) + at);
        let bytes = places.map_while(|at| p.at::<u8>(at).copied()).collect();
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        copies.push((copied, bytes));
        if seen.outbound() && !slot.is_relay() {
            watch::watch(slot, generation as u16, true);
        }
    }
}

/// The MAC address of a neighbour, unless the routing table says another.
pub fn mac_of(addr: u32) -> [u8; 6] {
    let [a, b, c, d] = addr.to_be_bytes();
    [2, 1, a, b, c, d]
}

/// An array that takes memory where it is used: most of the ports of a test's NAT never are.
pub(super) struct Lazy<T> {
    len: u32,
    parts: Vec<OnceLock<Box<[T]>>>,
}

const PART: u32 = 64;

impl<T: Default> Lazy<T> {
    pub(super) fn new(len: u32) -> Self {
        Self {
            len,
            parts: (0..len.div_ceil(PART)).map(|_| OnceLock::new()).collect(),
        }
    }

    fn get(&self, index: u32) -> Option<&T> {
        if index >= self.len {
            return None;
        }
        let part = self.parts.get((index / PART) as usize)?;
        let part = part.get_or_init(|| (0..PART).map(|_| T::default()).collect());
        part.get((index % PART) as usize)
    }
}

//! Every map, and `Tables` over them. The sizes here are placeholders: the daemon sets them before it loads the programs.

use crate::global;
use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, bpf_spin_lock as SpinLock},
    btf_maps,
    helpers::{
        bpf_get_prandom_u32, bpf_get_smp_processor_id, bpf_jiffies64, bpf_ktime_get_ns, bpf_spin_lock, bpf_spin_unlock,
    },
    macros::{btf_map, map},
    maps::{Array, DevMap, HashMap, LpmTrie, PerCpuArray, RingBuf, lpm_trie::Key as Prefix},
    programs::XdpContext,
};
use nat_common::{
    binding::Ending,
    config::{Config, State},
    counters::{COUNTERS as COUNTER_COUNT, Count},
    event::{Event, PUNT_MAX, Punt},
    flow::{InsideKey, Proto, Side},
    maps::{
        Address, Batch, Block, Bucket, Destination, Fragment, Host, Interface, LOCKS as LOCK_COUNT, MAX_INTERFACES,
        PUNT_SOURCES, Session, Slot, Tokens, Traffic,
    },
    packet::Packet,
    policy::{MAX_RULES, Rule},
    raw::Word64,
    relay::{Leg, latch::Media},
    session::{Flow, SessionState},
    tables::{Route, RouteKind, Tables},
    verdict::Outcome,
    watch::{Copied, MAX_LEN, SOURCES, Seen},
};

/// `State`: what changes while the program runs.
#[map]
static STATE: Array<State> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Two versions of the configuration.
#[map]
static CONFIG: Array<Config> = Array::with_max_entries(2, 0);
/// External addresses.
#[map]
static ADDRESSES: Array<Address> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// What owns each external port.
#[map]
static SLOTS: Array<Slot> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Counters of slots.
#[map]
static TRAFFIC: Array<Traffic> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Index from inside endpoints to slots.
#[map]
static INDEX: Array<Bucket> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Bitmap of ports in use.
#[map]
static USED_PORTS: Array<Word64> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Bitmap of free blocks.
#[map]
static FREE_BLOCKS: Array<Word64> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Blocks.
#[map]
static BLOCKS: Array<Block> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Inside hosts.
#[map]
static HOSTS: Array<Host> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Sessions.
#[map]
static SESSIONS: Array<Session> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Fragmented datagrams.
#[map]
static FRAGMENTS: Array<Fragment> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Policy rules, two versions.
#[map]
static RULES: Array<Rule> = Array::with_max_entries(MAX_RULES * 2, 0);
/// Legs of the media relay.
#[map]
static LEGS: Array<Leg> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Destinations, cached.
#[map]
static DESTINATIONS: PerCpuArray<Destination> = PerCpuArray::with_max_entries(1, 0);
/// Index of each external address.
#[map]
static EXTERNAL: HashMap<u32, u32> = HashMap::with_max_entries(512, 0);
/// The router's own addresses and the broadcast addresses of its networks.
#[map]
static LOCAL: HashMap<u32, u32> = HashMap::with_max_entries(4096, 0);
/// Destinations that are routed untranslated.
#[map]
static BYPASS: LpmTrie<[u8; 4], u32> = LpmTrie::with_max_entries(4096, BPF_F_NO_PREALLOC);
/// Sources that may have bindings.
#[map]
static PREFIXES: LpmTrie<[u8; 4], u32> = LpmTrie::with_max_entries(4096, BPF_F_NO_PREALLOC);
/// Interface number by `ingress_key` or `egress_key`.
#[map]
static INTERFACE_OF: HashMap<u64, u32> = HashMap::with_max_entries(MAX_INTERFACES * 2, 0);
/// Interfaces.
#[map]
static INTERFACES: Array<Interface> = Array::with_max_entries(MAX_INTERFACES, 0);
/// Devices to redirect to, by interface number.
#[map]
pub static DEVICES: DevMap = DevMap::with_max_entries(MAX_INTERFACES, 0);
/// Packets by side and reason.
#[map]
pub static COUNTERS: PerCpuArray<Count> = PerCpuArray::with_max_entries(COUNTER_COUNT, 0);
/// Events for the daemon.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 18, 0);
/// Packets for the daemon.
#[map]
pub static PUNTS: RingBuf = RingBuf::with_byte_size(1 << 21, 0);
/// Budget of slow-path packets of each CPU.
#[map]
pub static PUNT_TOTAL: PerCpuArray<Tokens> = PerCpuArray::with_max_entries(1, 0);
/// Budgets of slow-path packets by source.
#[map]
pub static PUNT_SOURCE: PerCpuArray<Tokens> = PerCpuArray::with_max_entries(PUNT_SOURCES, 0);
/// Where a packet for the daemon is put together.
#[map]
pub static PUNT_SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);
/// Copies of registrations and of captured media for the daemon.
#[map]
pub static WATCHED: RingBuf = RingBuf::with_byte_size(1 << 19, 0);
/// Budget of copies of registrations of each CPU.
#[map]
pub static WATCH_TOTAL: PerCpuArray<Tokens> = PerCpuArray::with_max_entries(1, 0);
/// Budget of copies of media of each CPU.
#[map]
pub static MEDIA_TOTAL: PerCpuArray<Tokens> = PerCpuArray::with_max_entries(1, 0);
/// Budgets of copies of registrations by inside host.
#[map]
pub static WATCH_SOURCE: PerCpuArray<Tokens> = PerCpuArray::with_max_entries(SOURCES, 0);
/// Where such a copy is put together.
#[map]
pub static WATCH_SCRATCH: PerCpuArray<WatchScratch> = PerCpuArray::with_max_entries(1, 0);
/// Last identification given to a packet by each CPU.
#[map]
static IDS: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);
/// What the stages of each CPU tell each other.
#[map]
static BATCHES: PerCpuArray<Batch> = PerCpuArray::with_max_entries(1, 0);
/// What the clock said last.
#[map]
static CLOCK: Array<u64> = Array::with_max_entries(1, 0);
/// Guards insertion into the index.
#[btf_map]
static LOCKS: btf_maps::Array<Lock, { LOCK_COUNT as usize }> = btf_maps::Array::new();

/// A record for the daemon.
#[repr(C)]
pub struct Scratch {
    pub header: Punt,
    pub bytes: [u8; PUNT_MAX],
}

/// A copied message for the daemon.
#[repr(C)]
pub struct WatchScratch {
    pub header: Copied,
    pub bytes: [u8; MAX_LEN],
}

#[repr(C)]
struct Lock {
    lock: SpinLock,
    reserved: u32,
}

/// The tables as the running program sees them.
pub struct Maps<'a> {
    /// The packet's context, without which there are no routes.
    pub ctx: Option<&'a XdpContext>,
}

/// What changes while the program runs.
#[inline(always)]
pub fn state() -> Option<&'static State> {
    STATE.get(0)
}

/// One of the two configurations.
#[inline(always)]
pub fn config(index: u32) -> Option<&'static Config> {
    CONFIG.get(index)
}

/// Writes jiffies where the daemon reads them.
#[inline(always)]
pub fn tell_time() {
    if let Some(clock) = CLOCK.get_ptr_mut(0) {
        // SAFETY: a map element; the helper takes nothing.
        unsafe { *clock = bpf_jiffies64() }
    }
}

impl Tables for Maps<'_> {
    #[inline(always)]
    fn now(&self, state: &State) -> u32 {
        // SAFETY: the helper takes nothing.
        (unsafe { bpf_jiffies64() } >> (state.tick_shift & 31)) as u32
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: the helper takes nothing.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn next_id(&self, cpus: u32) -> u16 {
        let Some(id) = IDS.get_ptr_mut(0) else { return 0 };
        // SAFETY: a per-CPU element, and the program is not interrupted by itself.
        unsafe {
            *id = (*id).wrapping_add(cpus);
            ((*id).wrapping_add(bpf_get_smp_processor_id())) as u16
        }
    }

    #[inline(always)]
    fn state(&self) -> Option<&State> {
        STATE.get(0)
    }

    #[inline(always)]
    fn config(&self, index: u32) -> Option<&Config> {
        CONFIG.get(index)
    }

    #[inline(always)]
    fn address(&self, index: u32) -> Option<&Address> {
        ADDRESSES.get(index)
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<&Slot> {
        SLOTS.get(index)
    }

    #[inline(always)]
    fn traffic(&self, index: u32) -> Option<&Traffic> {
        TRAFFIC.get(index)
    }

    #[inline(always)]
    fn bucket(&self, index: u32) -> Option<&Bucket> {
        INDEX.get(index)
    }

    #[inline(always)]
    fn used_ports(&self, index: u32) -> Option<&Word64> {
        USED_PORTS.get(index)
    }

    #[inline(always)]
    fn free_blocks(&self, index: u32) -> Option<&Word64> {
        FREE_BLOCKS.get(index)
    }

    #[inline(always)]
    fn block(&self, index: u32) -> Option<&Block> {
        BLOCKS.get(index)
    }

    #[inline(always)]
    fn host(&self, index: u32) -> Option<&Host> {
        HOSTS.get(index)
    }

    #[inline(always)]
    fn session(&self, index: u32) -> Option<&Session> {
        SESSIONS.get(index)
    }

    #[inline(always)]
    fn fragment(&self, index: u32) -> Option<&Fragment> {
        FRAGMENTS.get(index)
    }

    #[inline(always)]
    fn leg(&self, index: u32) -> Option<&Leg> {
        LEGS.get(index)
    }

    #[inline(always)]
    fn nanos(&self) -> u64 {
        // SAFETY: the helper takes nothing.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn destination(&self, index: u32) -> Option<&Destination> {
        DESTINATIONS.get(index)
    }

    #[inline(always)]
    fn batch(&self) -> Option<&Batch> {
        BATCHES.get(0)
    }

    #[inline(always)]
    fn rule(&self, index: u32) -> Option<&Rule> {
        RULES.get(index)
    }

    #[inline(always)]
    fn external(&self, addr: u32) -> Option<u32> {
        // SAFETY: a whole word, written at once.
        unsafe { EXTERNAL.get(&addr) }.copied()
    }

    #[inline(always)]
    fn local(&self, addr: u32) -> bool {
        // SAFETY: the value is not read.
        unsafe { LOCAL.get(&addr) }.is_some()
    }

    #[inline(always)]
    fn bypassed(&self, addr: u32) -> bool {
        BYPASS.get(&Prefix::new(32, addr.to_be_bytes())).is_some()
    }

    #[inline(always)]
    fn inside_prefix(&self, addr: u32) -> bool {
        PREFIXES.get(&Prefix::new(32, addr.to_be_bytes())).is_some()
    }

    #[inline(always)]
    fn interface_of(&self, key: u64) -> Option<u32> {
        // SAFETY: a whole word, written at once.
        unsafe { INTERFACE_OF.get(&key) }.copied()
    }

    #[inline(always)]
    fn interface(&self, index: u32) -> Option<&Interface> {
        INTERFACES.get(index)
    }

    #[inline(always)]
    fn route(&self, ifindex: u32, source: u32, destination: u32, tos: u8) -> Route {
        match self.ctx {
            Some(ctx) => crate::forward::route(ctx.as_ptr(), ifindex, source, destination, tos),
            None => Route {
                kind: RouteKind::None,
                ifindex: 0,
                next_hop: 0,
                mtu: 0,
                mac: [0; 6],
            },
        }
    }

    #[inline(always)]
    fn announce(&self, port: u32) -> bool {
        crate::forward::announce(port)
    }

    #[inline(always)]
    fn locked<R>(&self, index: u32, insert: impl FnOnce() -> R) -> Option<R> {
        let lock = LOCKS.get_ptr_mut(index)?;
        // SAFETY: a map element with a lock in it; nothing is called while it is held.
        unsafe {
            bpf_spin_lock(&raw mut (*lock).lock);
            let result = insert();
            bpf_spin_unlock(&raw mut (*lock).lock);
            Some(result)
        }
    }

    #[inline(always)]
    fn event(&self, event: Event) {
        if let Some(mut entry) = EVENTS.reserve::<Event>(0) {
            entry.write(event);
            entry.submit(0);
        }
    }

    #[inline(always)]
    fn watch<P: Packet>(&self, _: &mut P, seen: &Seen, now: u32) {
        if let Some(ctx) = self.ctx {
            global::global_watch(ctx.as_ptr().cast(), seen, now);
        }
    }

    #[inline(always)]
    fn relay<P: Packet>(&self, _: &mut P, side: Side, _: u32, index: u32) -> Outcome {
        match self.ctx {
            Some(ctx) => Outcome::of_number(global::global_relay(ctx.as_ptr().cast(), side as u32, index)),
            None => Outcome::GO_ON,
        }
    }

    #[inline(always)]
    fn admit_media(&self, _: &Config, media: &Media, now: u32, learn: bool) -> u32 {
        global::global_admit(media, now, u32::from(learn))
    }

    #[inline(always)]
    fn media_is_of_its_side(&self, _: &Config, media: &Media, now: u32) -> bool {
        self.ctx
            .is_some_and(|ctx| global::global_media_side(ctx.as_ptr().cast(), media, now) != 0)
    }

    #[inline(always)]
    fn read_report<P: Packet>(&self, _: &mut P, number: u32, offset: usize) {
        if let Some(ctx) = self.ctx {
            global::global_report(ctx.as_ptr().cast(), number, offset as u32);
        }
    }

    #[inline(always)]
    fn claim_port(&self, _: &Config, block: u32, proto: Proto, mask: u64, random: u32) -> u32 {
        global::global_claim_port(block, proto as u32, mask, random)
    }

    #[inline(always)]
    fn grow(&self, _: &Config, host: u32, key: &InsideKey, random: u32, now: u32) -> u32 {
        global::global_grow(host, key, random, now)
    }

    #[inline(always)]
    fn reclaim(&self, _: &Config, host: u32, key: &InsideKey, random: u32, now: u32) -> u32 {
        global::global_reclaim(host, key, random, now)
    }

    #[inline(always)]
    fn find_binding(&self, _: &Config, key: &InsideKey, now: u32) -> u32 {
        global::global_find(key, now)
    }

    #[inline(always)]
    fn insert_binding(&self, _: &Config, key: &InsideKey, index: u32, now: u32) -> u32 {
        global::global_insert(key, index, now)
    }

    #[inline(always)]
    fn forget_binding(&self, _: &Config, key: &InsideKey, index: u32) {
        global::global_forget(key, index);
    }

    #[inline(always)]
    fn last_use(&self, _: &Config, index: u32) -> u32 {
        global::global_last_use(index)
    }

    #[inline(always)]
    fn end_binding(&self, _: &Config, index: u32, ending: &Ending, now: u32) -> bool {
        global::global_end(index, ending, now) != 0
    }

    #[inline(always)]
    fn create_binding(&self, _: &Config, key: &InsideKey, now: u32) -> u32 {
        global::global_create(key, now)
    }

    #[inline(always)]
    fn track(&self, _: &Config, flow: &Flow, side: Side, now: u32) -> u32 {
        global::global_track(flow, side as u32, now)
    }

    #[inline(always)]
    fn free_place(&self, _: &Config, host: u32) -> u32 {
        global::global_free_place(host)
    }

    #[inline(always)]
    fn take_block(&self, _: &Config, address: u32, rank: u32) -> u32 {
        global::global_take_block(address, rank)
    }

    #[inline(always)]
    fn count_blocks(&self, _: &Config, host: u32) -> u32 {
        global::global_count_blocks(host)
    }

    #[inline(always)]
    fn find_session(&self, _: &Config, flow: &Flow, port: u16, now: u32) -> u32 {
        global::global_find_session(flow, u32::from(port), now)
    }

    #[inline(always)]
    fn make_session(&self, _: &Config, flow: &Flow, state: SessionState, now: u32) -> bool {
        global::global_make_session(flow, state as u32, now) != 0
    }

    #[inline(always)]
    fn policy(&self, _: &Config, side: Side, flow: &Flow) -> bool {
        global::global_policy(flow, side as u32) != 0
    }
}

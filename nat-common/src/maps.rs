//! The tables that the kernel program and the daemon share: their entries, their names, how big they are.
//!
//! Every table is an array that both sides see through shared memory; entries are claimed with compare-and-swap, never
//! inserted or deleted by the kernel's map code. So the daemon lists and sweeps without a system call, and nothing is
//! ever handed to somebody else between two steps of a reader.

use crate::flow::Proto;
use crate::raw::{Word8, Word16, Word32, Word64, opaque, opaque64};
use crate::relay::Leg;

/// Version of everything in this file. Pins of another version are never opened.
pub const SCHEMA: u32 = 4;

/// External addresses at most.
pub const MAX_ADDRESSES: u32 = 256;
/// Interfaces at most.
pub const MAX_INTERFACES: u32 = 64;
/// Blocks per host at most.
pub const MAX_BLOCKS_PER_HOST: usize = 64;
/// Ports of one address and protocol.
pub const PORTS: u32 = 65536;
/// Entries of a bucket of the binding index: two cache lines side by side.
pub const BUCKET: usize = 8;
/// Entries on one cache line.
pub const LINE: usize = 4;
/// Sessions in a bucket: so many elements of the table in a row.
pub const SESSION_BUCKET: u32 = 4;
/// Fragmented datagrams in a bucket, likewise.
pub const FRAGMENT_BUCKET: u32 = 4;
/// Ranges of one fragmented datagram that are kept track of.
pub const FRAGMENT_RANGES: usize = 16;
/// Spin locks that guard insertion into the binding index.
pub const LOCKS: u32 = 1024;
/// Token buckets of slow-path sources, per CPU.
pub const PUNT_SOURCES: u32 = 1024;

/// An interface: a device, or one VLAN of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Interface {
    /// Index that the routing table names: the VLAN's own device if there is one, else the device.
    pub ifindex: u32,
    /// Device that frames come in on and leave by.
    pub device: u32,
    /// The router's first address there, host order; source of ICMP errors.
    pub addr: u32,
    /// MTU in bytes.
    pub mtu: u16,
    /// VLAN id of its frames; 0 for none.
    pub vlan: u16,
    /// The device's MAC address.
    pub mac: [u8; 6],
    /// `ROLE_*`.
    pub role: u8,
    /// Always zero.
    pub reserved: u8,
}

/// Not in use.
pub const ROLE_NONE: u8 = 0;
/// Inside.
pub const ROLE_INSIDE: u8 = 1;
/// Outside.
pub const ROLE_OUTSIDE: u8 = 2;

/// The key of an interface in the map `INTERFACE_OF`: device and VLAN for frames that come in.
#[inline(always)]
pub fn ingress_key(device: u32, vlan: u16) -> u64 {
    u64::from(device) << 16 | u64::from(vlan)
}

/// The key of an interface in the map `INTERFACE_OF` for routes that lead to it.
#[inline(always)]
pub fn egress_key(ifindex: u32) -> u64 {
    1 << 63 | u64::from(ifindex)
}

/// An external address.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Address {
    /// Address in the low half, generation in bits 32 to 47, bit 48 set while it is in use, bit 49 set if no interface of
    /// the router carries it.
    pub word: Word64,
    /// Free blocks on it.
    pub free_blocks: Word64,
}

/// [`Address::word`], taken apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressWord(pub u64);

impl AddressWord {
    /// Puts a word together.
    pub fn new(addr: u32, generation: u16, active: bool) -> Self {
        Self(u64::from(addr) | u64::from(generation) << 32 | u64::from(active) << 48)
    }

    /// The address, host order.
    #[inline(always)]
    pub fn addr(self) -> u32 {
        self.0 as u32
    }

    /// Changes when the address does: bindings of an older generation are dead.
    #[inline(always)]
    pub fn generation(self) -> u16 {
        (self.0 >> 32) as u16
    }

    /// The same, but routed to the router without an interface that carries it.
    pub fn uncarried(self) -> Self {
        Self(self.0 | 1 << 49)
    }

    /// Whether an interface of the router carries it: then what no binding has is the router's own. Otherwise the kernel
    /// would forward it, so it must not be passed.
    #[inline(always)]
    pub fn carried(self) -> bool {
        self.0 >> 49 & 1 == 0
    }

    /// Whether it may be used now.
    #[inline(always)]
    pub fn active(self) -> bool {
        self.0 >> 48 & 1 == 1
    }
}

/// What may own an external port: the entry for one protocol, external address and port. Inbound packets find it by
/// one array access.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Slot {
    /// See [`SlotWord`].
    pub word: Word64,
    /// Inside address, host order; of a relay's port the number of its leg.
    pub inside_addr: Word32,
    /// Inside port, host order.
    pub inside_port: Word16,
    /// `KIND_*`.
    pub kind: Word8,
    /// Always zero.
    pub reserved: Word8,
    /// Lifetime in ticks; 0: that of the protocol; `FOREVER`: none. The daemon sets it for as long as a registration was granted
    /// that crosses the NAT by this binding.
    pub lifetime: Word32,
    /// Established TCP sessions.
    pub established: Word32,
    /// When it was made, in ticks.
    pub created: Word32,
    /// Generation of the external address it was made on.
    pub address_generation: Word16,
    /// Whether answers to a REGISTER are copied for the daemon; see [`crate::watch`].
    pub watched: Word16,
}

/// Made by traffic.
pub const KIND_DYNAMIC: u8 = 0;
/// A static forward of the configuration.
pub const KIND_STATIC: u8 = 1;
/// A static forward that was added at run time.
pub const KIND_RUNTIME: u8 = 2;
/// A port of the media relay, see [`crate::relay`]: no binding at all.
pub const KIND_RELAY: u8 = 3;
/// A binding that its host has opened to everybody by PCP or NAT-PMP, until the daemon says that its time is over.
pub const KIND_MAPPED: u8 = 4;

impl Slot {
    /// Whether it is a static forward, of the configuration or of run time.
    #[inline(always)]
    pub fn is_forward(&self) -> bool {
        self.kind.get().wrapping_sub(KIND_STATIC) <= KIND_RUNTIME - KIND_STATIC
    }

    /// Whether everybody may send to it, however the protocol is filtered.
    #[inline(always)]
    pub fn is_open(&self) -> bool {
        self.is_forward() || self.kind.get() == KIND_MAPPED
    }

    /// Whether it is a port of the media relay.
    #[inline(always)]
    pub fn is_relay(&self) -> bool {
        self.kind.get() == KIND_RELAY
    }
}

/// State of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SlotState {
    /// Nobody's.
    Free = 0,
    /// Being written.
    Claimed = 1,
    /// In use.
    Live = 2,
    /// Used until not long ago; see `rest` in the configuration.
    Resting = 3,
}

/// [`Slot::word`], taken apart: last use (or end of use) in the low half, state, generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotWord(pub u64);

impl SlotWord {
    /// Puts a word together.
    #[inline(always)]
    pub fn new(state: SlotState, generation: u16, stamp: u32) -> Self {
        Self(u64::from(stamp) | (state as u64) << 32 | u64::from(generation) << 40)
    }

    /// Last use; for a resting slot the end of use. Ticks.
    #[inline(always)]
    pub fn stamp(self) -> u32 {
        self.0 as u32
    }

    /// State.
    #[inline(always)]
    pub fn state(self) -> SlotState {
        match (self.0 >> 32) as u8 {
            0 => SlotState::Free,
            1 => SlotState::Claimed,
            2 => SlotState::Live,
            _ => SlotState::Resting,
        }
    }

    /// Changes with every new use of the slot.
    #[inline(always)]
    pub fn generation(self) -> u16 {
        (self.0 >> 40) as u16
    }

    /// The same, last used at `stamp`.
    #[inline(always)]
    pub fn stamped(self, stamp: u32) -> Self {
        Self(self.0 & !0xffff_ffff | u64::from(stamp))
    }
}

/// Packets and bytes of a binding, if counting is on. Beside [`Slot`], with the same index.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Traffic {
    /// Packets from inside.
    pub packets_out: Word64,
    /// Bytes of IP packets from inside.
    pub bytes_out: Word64,
    /// Packets from outside.
    pub packets_in: Word64,
    /// Bytes of IP packets from outside.
    pub bytes_in: Word64,
}

/// A bucket of the index from inside endpoints to slots.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub struct Bucket(pub [[Entry; LINE]; 2]);

impl Bucket {
    /// The line that is looked at first, `half` of the bucket, and the other one.
    #[inline(always)]
    pub fn lines(&self, half: u32) -> (&[Entry; LINE], &[Entry; LINE]) {
        (&self.0[(half & 1) as usize], &self.0[(!half & 1) as usize])
    }

    /// Entry number `i` of 8.
    #[inline(always)]
    pub fn at(&self, i: usize) -> &Entry {
        // As a number that LLVM knows nothing of, or it would compute an address that the verifier cannot follow.
        let i = opaque(i as u32) as usize;
        &self.0[(i / LINE) & 1][i % LINE]
    }
}

/// Frames that the kernel sends at once at most: its bulk queue of a device.
pub const BATCH: usize = 16;

/// What the first stage ([`crate::stage`]) tells the second one, on each CPU.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Batch {
    /// Packets since the second stage looked last.
    pub count: Word32,
    /// Always zero.
    pub reserved: Word32,
    /// Numbers of the lines where their bindings must be: twice the bucket's, and the half. Of more packets than there is
    /// room for, the last ones.
    pub lines: [Word32; BATCH],
}

impl Batch {
    /// Notes one more.
    #[inline(always)]
    pub fn add(&self, line: u32) {
        let count = self.count.get();
        self.lines[opaque(count) as usize & (BATCH - 1)].set(line);
        self.count.set(count.wrapping_add(1));
    }
}

/// An entry of the index: the outbound half of a binding.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Entry {
    /// See [`EntryWord`].
    pub word: Word64,
    /// Inside address from bit 32, inside port from bit 16, generation of the external address. Means nothing unless the word
    /// says that the entry is live.
    pub key: Word64,
}

/// State of an entry of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryState {
    /// Nobody's.
    Free = 0,
    /// Being written.
    Claimed = 1,
    /// In use.
    Live = 2,
}

/// [`Entry::word`], taken apart: when the inside endpoint sent last in the low half; slot from bit 32; protocol from bit 58;
/// bit 60 for a static forward, which lives for ever and on whatever address is in use; state from bit 62. 0 is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntryWord(pub u64);

/// Bits of an entry's word that number the slot.
const SLOT_BITS: u32 = 26;

const _: () = assert!((MAX_ADDRESSES as u64 * 3) << 16 <= 1 << SLOT_BITS);

impl EntryWord {
    /// Puts a word together.
    #[inline(always)]
    pub fn new(state: EntryState, proto: Proto, slot: u32, fixed: bool, stamp: u32) -> Self {
        Self(
            u64::from(stamp)
                | u64::from(slot) << 32
                | (proto as u64) << 58
                | u64::from(fixed) << 60
                | (state as u64) << 62,
        )
    }

    /// When the inside endpoint sent last, in ticks.
    #[inline(always)]
    pub fn stamp(self) -> u32 {
        self.0 as u32
    }

    /// The slot of the external endpoint.
    #[inline(always)]
    pub fn slot(self) -> u32 {
        (self.0 >> 32) as u32 & ((1 << SLOT_BITS) - 1)
    }

    /// Whether it is a static forward's.
    #[inline(always)]
    pub fn fixed(self) -> bool {
        self.0 >> 60 & 1 == 1
    }

    /// State.
    #[inline(always)]
    pub fn state(self) -> EntryState {
        match self.0 >> 62 {
            0 => EntryState::Free,
            1 => EntryState::Claimed,
            _ => EntryState::Live,
        }
    }

    /// 1 if it is somebody's, 0 if it is free. Without a branch, as the verifier would follow every outcome.
    #[inline(always)]
    pub fn taken(self) -> u32 {
        (self.0 >> 63 | self.0 >> 62 & 1) as u32
    }

    /// Whether it is in use, by a binding of `proto`.
    #[inline(always)]
    pub fn is_live_of(self, proto: Proto) -> bool {
        (self.0 >> 58 & 0x33) == ((EntryState::Live as u64) << 4 | proto as u64)
    }

    /// 0 if it is in use by a binding of `proto` and `difference`, of 48 bits, is 0.
    #[inline(always)]
    pub fn difference(self, proto: Proto, difference: u64) -> u64 {
        let state = (self.0 >> 58 & 0x33) ^ ((EntryState::Live as u64) << 4 | proto as u64);
        difference | state << 48
    }

    /// All ones if [`Self::difference`] is 0, else 0. Without a branch.
    #[inline(always)]
    pub fn mask_of(self, proto: Proto, difference: u64) -> u64 {
        (opaque64(self.difference(proto, difference)).wrapping_sub(1) as i64 >> 63) as u64
    }

    /// All but the stamp.
    #[inline(always)]
    pub fn identity(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The same, last used at `stamp`.
    #[inline(always)]
    pub fn stamped(self, stamp: u32) -> Self {
        Self(self.0 & !0xffff_ffff | u64::from(stamp))
    }

    /// The same while it is being written.
    #[inline(always)]
    pub fn claimed(self) -> Self {
        Self(self.0 & !(3 << 62) | (EntryState::Claimed as u64) << 62)
    }
}

/// A block of ports.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Block {
    /// See [`BlockWord`].
    pub word: Word64,
    /// Since when, in ticks.
    pub since: Word32,
    /// 1 once the assignment is in the log.
    pub logged: Word32,
}

/// State of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BlockState {
    /// Nobody's.
    Free = 0,
    /// A host's.
    Owned = 1,
    /// Taken from its host; free when its last port has rested.
    Draining = 2,
    /// Not part of the pool.
    Reserved = 3,
}

/// [`Block::word`], taken apart: owner's address in the low half, state above.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockWord(pub u64);

impl BlockWord {
    /// Puts a word together.
    #[inline(always)]
    pub fn new(state: BlockState, owner: u32) -> Self {
        Self(u64::from(owner) | (state as u64) << 32)
    }

    /// The inside host, host order.
    #[inline(always)]
    pub fn owner(self) -> u32 {
        self.0 as u32
    }

    /// State.
    #[inline(always)]
    pub fn state(self) -> BlockState {
        match (self.0 >> 32) as u8 {
            0 => BlockState::Free,
            1 => BlockState::Owned,
            2 => BlockState::Draining,
            _ => BlockState::Reserved,
        }
    }
}

/// An inside host.
#[derive(Debug)]
#[repr(C)]
pub struct Host {
    /// Address in the low half, bit 32 set, index of its external address from bit 40 (paired pooling).
    pub word: Word64,
    /// Place in `blocks` where the last port was found.
    pub current: Word32,
    /// When it was made, in ticks.
    pub created: Word32,
    /// Its blocks: number plus one, 0 for none.
    pub blocks: [Word64; MAX_BLOCKS_PER_HOST],
}

impl Default for Host {
    fn default() -> Self {
        Self {
            word: Word64::new(0),
            current: Word32::new(0),
            created: Word32::new(0),
            blocks: [const { Word64::new(0) }; MAX_BLOCKS_PER_HOST],
        }
    }
}

/// [`Host::word`], taken apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostWord(pub u64);

impl HostWord {
    /// Puts a word together.
    #[inline(always)]
    pub fn new(addr: u32, address_index: u32) -> Self {
        Self(u64::from(addr) | 1 << 32 | u64::from(address_index) << 40)
    }

    /// Whether it is a host at all.
    #[inline(always)]
    pub fn used(self) -> bool {
        self.0 >> 32 & 1 == 1
    }

    /// The host's address.
    #[inline(always)]
    pub fn addr(self) -> u32 {
        self.0 as u32
    }

    /// Index of its external address.
    #[inline(always)]
    pub fn address_index(self) -> u32 {
        (self.0 >> 40) as u32
    }
}

/// A binding used with one remote endpoint, or (remote port 0) the leave of a remote address to send to a binding.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Session {
    /// Last use in the low half, state from bit 32, generation of the slot from bit 40. 0 is free.
    pub word: Word64,
    /// Slot.
    pub slot: Word32,
    /// Remote address, host order.
    pub remote_addr: Word32,
    /// Remote port, host order.
    pub remote_port: Word16,
    /// Always zero.
    pub reserved: Word16,
    /// When it was made, in ticks.
    pub created: Word32,
    /// Always zero.
    pub reserved2: Word64,
}

/// What the first fragment of a datagram said about the others.
#[derive(Debug)]
#[repr(C)]
pub struct Fragment {
    /// Last use in the low half; bit 32: in use; bit 33: lock; bit 34: being written.
    pub word: Word64,
    /// Source of the datagram as it came in.
    pub source: Word32,
    /// Destination of the datagram as it came in.
    pub destination: Word32,
    /// Identification (RFC 791) and protocol: id in the low half, protocol from bit 16, side from bit 24.
    pub datagram: Word32,
    /// Source after translation.
    pub new_source: Word32,
    /// Destination after translation.
    pub new_destination: Word32,
    /// Identification after translation in the low half; bit 16: the datagram is refused.
    pub new_id: Word32,
    /// End of the datagram in units of eight bytes, once the last fragment has been seen; else 0.
    pub end: Word32,
    /// Always zero.
    pub reserved: Word32,
    /// What has been seen: first unit in the low half, unit after the last in the high half; all ones: not in use.
    pub ranges: [Word32; FRAGMENT_RANGES],
}

impl Default for Fragment {
    fn default() -> Self {
        Self {
            word: Word64::new(0),
            source: Word32::new(0),
            destination: Word32::new(0),
            datagram: Word32::new(0),
            new_source: Word32::new(0),
            new_destination: Word32::new(0),
            new_id: Word32::new(0),
            end: Word32::new(0),
            reserved: Word32::new(0),
            ranges: [const { Word32::new(0) }; FRAGMENT_RANGES],
        }
    }
}

/// A cached answer about a destination. Per CPU, so it is never shared.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Destination {
    /// Destination address, host order.
    pub addr: Word32,
    /// `State::route_generation` when it was filled.
    pub generation: Word32,
    /// Key of the interface that the packet came in on, [`ingress_key`].
    pub ingress: Word64,
    /// The next hop's MAC address in the low six bytes, first byte lowest.
    pub mac: Word64,
    /// When it was filled, in ticks.
    pub filled: Word32,
    /// The next hop's address.
    pub next_hop: Word32,
    /// Interface of the way out.
    pub port: Word32,
    /// Index of the external address, or the interface index of the way out.
    pub index: Word32,
    /// MTU of the way out.
    pub mtu: Word16,
    /// `Class` as a number.
    pub class: Word8,
    /// Always zero.
    pub reserved: Word8,
    /// VLAN id of the way out, 0 for none.
    pub vlan: Word16,
    /// Always zero.
    pub reserved2: Word16,
    /// MAC address of the interface of the way out, like `mac`.
    pub source: Word64,
    /// Always zero.
    pub reserved3: Word64,
}

/// A token bucket.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Tokens {
    /// Tokens left, times ticks per second.
    pub left: Word32,
    /// When it was filled last, in ticks.
    pub stamp: Word32,
}

const _: () = {
    assert!(size_of::<Interface>() == 24);
    assert!(size_of::<Address>() == 16);
    assert!(size_of::<Slot>() == 32);
    assert!(size_of::<Traffic>() == 32);
    assert!(size_of::<Entry>() == 16);
    assert!(size_of::<Batch>() == 72);
    assert!(size_of::<Bucket>() == 128);
    assert!(size_of::<Block>() == 16);
    assert!(size_of::<Host>() == 16 + 8 * MAX_BLOCKS_PER_HOST);
    assert!(size_of::<Session>() == 32);
    assert!(size_of::<Fragment>() == 104);
    assert!(size_of::<Destination>() == 64);
    assert!(size_of::<Tokens>() == 8);
};

/// Bytes of kernel memory that a configuration takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// External addresses.
    pub addresses: u32,
    /// Buckets of the binding index.
    pub index_buckets: u32,
    /// Buckets of the session table.
    pub session_buckets: u32,
    /// Buckets of the fragment table.
    pub fragment_buckets: u32,
    /// Host records.
    pub hosts: u32,
    /// Destination cache entries per CPU.
    pub destinations: u32,
    /// Whether bindings have counters.
    pub counting: bool,
    /// Ports per block, as a power of two.
    pub block_shift: u32,
    /// Legs of the media relay.
    pub legs: u32,
}

impl Capacity {
    /// Number of slots.
    pub fn slots(&self) -> u64 {
        u64::from(self.addresses) * 3 * u64::from(PORTS)
    }

    /// Number of blocks.
    pub fn blocks(&self) -> u64 {
        u64::from(self.addresses) * u64::from(PORTS >> self.block_shift)
    }

    /// Memory of bindings, hosts and blocks in bytes: everything that grows with the bindings but their sessions.
    pub fn binding_bytes(&self) -> u64 {
        self.slots() * size_of::<Slot>() as u64
            + if self.counting {
                self.slots() * size_of::<Traffic>() as u64
            } else {
                0
            }
            + self.slots() / 8
            + u64::from(self.index_buckets) * size_of::<Bucket>() as u64
            + self.blocks() * size_of::<Block>() as u64
            + u64::from(self.hosts) * size_of::<Host>() as u64
    }

    /// All memory in bytes on a machine with `cpus` processors.
    pub fn bytes(&self, cpus: u32) -> u64 {
        self.binding_bytes()
            + u64::from(self.session_buckets * SESSION_BUCKET) * size_of::<Session>() as u64
            + u64::from(self.fragment_buckets * FRAGMENT_BUCKET) * size_of::<Fragment>() as u64
            + u64::from(cpus) * u64::from(self.destinations) * size_of::<Destination>() as u64
            + u64::from(self.legs) * size_of::<Leg>() as u64
    }
}

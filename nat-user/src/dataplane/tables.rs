//! The tables of the running data path as user space sees them.

use anyhow::Result;
use aya::Ebpf;
use nat_common::{
    config::{Config, State},
    event::Event,
    maps::{Address, Batch, Block, Bucket, Destination, Fragment, Host, Interface, Session, Slot, Traffic},
    policy::Rule,
    raw::{Word32, Word64},
    relay::Leg,
    tables::{Route, RouteKind, Tables},
};

use super::{clock::Clock, shared::Shared};

/// [`State`] as cells, so that changing one part tears no other.
#[derive(Debug, Default)]
#[repr(C)]
pub struct StateCells {
    /// See [`State::active`].
    pub active: Word32,
    /// See [`State::route_generation`].
    pub route_generation: Word32,
    /// See [`State::tick_shift`].
    pub tick_shift: Word32,
    /// See [`State::cpus`].
    pub cpus: Word32,
    /// See [`State::staged`].
    pub staged: Word32,
    /// See [`State::reserved`].
    pub reserved: Word32,
}

const _: () = assert!(size_of::<StateCells>() == size_of::<State>());

/// The shared arrays. `Tables` over them serves expiry, release and forwards with the code that the packets run through.
///
/// What user space has no business with (routes, interfaces, destinations, policy, the configuration) is absent here, and
/// events go nowhere.
pub struct UserTables {
    /// What changes while the program runs.
    pub state: Shared<StateCells>,
    /// External addresses.
    pub addresses: Shared<Address>,
    /// What owns each external port.
    pub slots: Shared<Slot>,
    /// Counters of slots; a single element if counting is off.
    pub traffic: Shared<Traffic>,
    /// Index from inside endpoints to slots.
    pub index: Shared<Bucket>,
    /// Bitmap of ports in use.
    pub used_ports: Shared<Word64>,
    /// Bitmap of free blocks.
    pub free_blocks: Shared<Word64>,
    /// Blocks.
    pub blocks: Shared<Block>,
    /// Inside hosts.
    pub hosts: Shared<Host>,
    /// Sessions.
    pub sessions: Shared<Session>,
    /// Fragmented datagrams.
    pub fragments: Shared<Fragment>,
    /// Legs of the media relay.
    pub legs: Shared<Leg>,
    clock: Clock,
}

impl UserTables {
    /// Maps all arrays into memory.
    pub fn open(ebpf: &Ebpf, clock: Clock) -> Result<Self> {
        Ok(Self {
            state: Shared::open(ebpf, "STATE")?,
            addresses: Shared::open(ebpf, "ADDRESSES")?,
            slots: Shared::open(ebpf, "SLOTS")?,
            traffic: Shared::open(ebpf, "TRAFFIC")?,
            index: Shared::open(ebpf, "INDEX")?,
            used_ports: Shared::open(ebpf, "USED_PORTS")?,
            free_blocks: Shared::open(ebpf, "FREE_BLOCKS")?,
            blocks: Shared::open(ebpf, "BLOCKS")?,
            hosts: Shared::open(ebpf, "HOSTS")?,
            sessions: Shared::open(ebpf, "SESSIONS")?,
            fragments: Shared::open(ebpf, "FRAGMENTS")?,
            legs: Shared::open(ebpf, "LEGS")?,
            clock,
        })
    }

    /// Tables of these sizes without a kernel.
    #[cfg(test)]
    pub fn in_memory(c: &nat_common::maps::Capacity, clock: Clock) -> Result<Self> {
        use nat_common::maps::{FRAGMENT_BUCKET, SESSION_BUCKET};
        let free_words = c.addresses * nat_common::ports::free_words(c.block_shift);
        Ok(Self {
            state: Shared::in_memory(1)?,
            addresses: Shared::in_memory(c.addresses as usize)?,
            slots: Shared::in_memory(c.slots() as usize)?,
            traffic: Shared::in_memory(if c.counting { c.slots() as usize } else { 1 })?,
            index: Shared::in_memory(c.index_buckets as usize)?,
            used_ports: Shared::in_memory(c.slots() as usize / 64)?,
            free_blocks: Shared::in_memory(free_words as usize)?,
            blocks: Shared::in_memory(c.blocks() as usize)?,
            hosts: Shared::in_memory(c.hosts as usize)?,
            sessions: Shared::in_memory((c.session_buckets * SESSION_BUCKET) as usize)?,
            fragments: Shared::in_memory((c.fragment_buckets * FRAGMENT_BUCKET) as usize)?,
            legs: Shared::in_memory(c.legs.max(1) as usize)?,
            clock,
        })
    }

    /// The cells of the one [`State`].
    pub fn cells(&self) -> &StateCells {
        &self.state[0]
    }

    /// Makes the data path ask for every route and neighbour again.
    pub fn bump_routes(&self) {
        self.cells().route_generation.add(1);
    }
}

impl Tables for UserTables {
    fn now(&self, _: &State) -> u32 {
        self.clock.now()
    }

    fn random(&self) -> u32 {
        let mut bytes = [0; 4];
        // SAFETY: a buffer of our own, with its length.
        unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        u32::from_ne_bytes(bytes)
    }

    fn next_id(&self, _: u32) -> u16 {
        self.random() as u16
    }

    fn state(&self) -> Option<&State> {
        None
    }

    fn config(&self, _: u32) -> Option<&Config> {
        None
    }

    fn address(&self, index: u32) -> Option<&Address> {
        self.addresses.get(index as usize)
    }

    fn slot(&self, index: u32) -> Option<&Slot> {
        self.slots.get(index as usize)
    }

    fn traffic(&self, index: u32) -> Option<&Traffic> {
        self.traffic.get(index as usize)
    }

    fn bucket(&self, index: u32) -> Option<&Bucket> {
        self.index.get(index as usize)
    }

    fn used_ports(&self, index: u32) -> Option<&Word64> {
        self.used_ports.get(index as usize)
    }

    fn free_blocks(&self, index: u32) -> Option<&Word64> {
        self.free_blocks.get(index as usize)
    }

    fn block(&self, index: u32) -> Option<&Block> {
        self.blocks.get(index as usize)
    }

    fn host(&self, index: u32) -> Option<&Host> {
        self.hosts.get(index as usize)
    }

    fn session(&self, index: u32) -> Option<&Session> {
        self.sessions.get(index as usize)
    }

    fn fragment(&self, index: u32) -> Option<&Fragment> {
        self.fragments.get(index as usize)
    }

    fn leg(&self, index: u32) -> Option<&Leg> {
        self.legs.get(index as usize)
    }

    /// Nothing is measured here.
    fn nanos(&self) -> u64 {
        0
    }

    fn destination(&self, _: u32) -> Option<&Destination> {
        None
    }

    fn batch(&self) -> Option<&Batch> {
        None
    }

    fn rule(&self, _: u32) -> Option<&Rule> {
        None
    }

    fn external(&self, addr: u32) -> Option<u32> {
        let holds = |address: &Address| {
            let word = nat_common::maps::AddressWord(address.word.get());
            word.active() && word.addr() == addr
        };
        self.addresses.iter().position(holds).map(|index| index as u32)
    }

    fn local(&self, _: u32) -> bool {
        false
    }

    fn bypassed(&self, _: u32) -> bool {
        false
    }

    fn inside_prefix(&self, _: u32) -> bool {
        false
    }

    fn interface_of(&self, _: u64) -> Option<u32> {
        None
    }

    fn interface(&self, _: u32) -> Option<&Interface> {
        None
    }

    fn route(&self, _: u32, _: u32, _: u32, _: u8) -> Route {
        Route {
            kind: RouteKind::None,
            ifindex: 0,
            next_hop: 0,
            mtu: 0,
            mac: [0; 6],
        }
    }

    /// Runs `insert` without the kernel's lock, which user space cannot take: entries are claimed by compare-and-swap, so
    /// the worst that a packet of the same inside endpoint at the same moment can do is a second entry. Only forwards are
    /// inserted from here, and [`crate::forwards::apply`], which the daemon repeats, ends the other binding.
    fn locked<R>(&self, _: u32, insert: impl FnOnce() -> R) -> Option<R> {
        Some(insert())
    }

    fn event(&self, _: Event) {}
}

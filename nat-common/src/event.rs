//! What the data path tells the daemon through ring buffers.

/// A block was given to a host.
pub const EVENT_BLOCK_ASSIGNED: u32 = 1;
/// A host asked for more blocks than it may have.
pub const EVENT_QUOTA: u32 = 2;
/// No free block on the host's external address.
pub const EVENT_EXHAUSTED: u32 = 3;

/// One event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// `EVENT_*`.
    pub kind: u32,
    /// Inside host.
    pub host: u32,
    /// Block number, see [`crate::ports::block_parts`].
    pub block: u32,
    /// When, in ticks.
    pub when: u32,
}

/// Header in front of a packet that is handed to the slow path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Punt {
    /// [`crate::counters::Reason`] as a number.
    pub reason: u32,
    /// Index of the interface it came in on.
    pub ifindex: u32,
    /// MTU of the way out (`TooBig`), or the next hop's address (`NoNeighbour`).
    pub argument: u32,
    /// Index of the interface of the way out (`NoNeighbour`), else 0.
    pub out: u32,
    /// Length of the frame; more than was copied if the frame is longer than [`PUNT_MAX`].
    pub frame_len: u32,
    /// Length of what follows.
    pub len: u32,
}

/// The largest frame that is handed over whole, in bytes: above what the usual jumbo frames have (9,000 to 9,978).
pub const PUNT_MAX: usize = 10_240;

const _: () = assert!(size_of::<Event>() == 16);
const _: () = assert!(size_of::<Punt>() == 24);

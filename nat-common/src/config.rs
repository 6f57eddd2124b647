//! What the daemon tells the data path. Times are in ticks (see [`State`]), addresses and ports in host order.

use crate::flow::Proto;

/// Filtering behaviour of a binding (RFC 4787 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Filtering {
    /// Anyone may send to the binding.
    EndpointIndependent = 0,
    /// Only addresses that the inside host has sent to.
    AddressDependent = 1,
    /// Only endpoints that the inside host has sent to.
    AddressAndPortDependent = 2,
}

/// A lifetime that never ends.
pub const FOREVER: u32 = u32::MAX;

/// Hairpinning is on.
pub const FLAG_HAIRPIN: u32 = 1;
/// Packets and bytes are counted per binding.
pub const FLAG_COUNTING: u32 = 2;
/// Inbound packets refresh UDP and ICMP bindings too (RFC 4787 REQ-6b).
pub const FLAG_REFRESH_IN: u32 = 4;
/// There is a policy: every flow is tracked by a session.
pub const FLAG_POLICY: u32 = 8;
/// New flows that no rule names are refused.
pub const FLAG_POLICY_DENY: u32 = 16;
/// Inside hosts are limited to the prefixes in the map `PREFIXES`.
pub const FLAG_INSIDE_PREFIXES: u32 = 32;

/// One version of the configuration. There are two in the map; [`State::active`] says which one is in force, so that a
/// change takes effect at once and as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Config {
    /// Secret that table positions and port choices depend on (RFC 6056 §3.3.3).
    pub secret: u64,
    /// Remote UDP ports where REGISTER transactions are watched; see [`crate::watch::word`].
    pub watch: u64,
    /// Number of buckets of the binding index.
    pub index_buckets: u32,
    /// 2^32 divided by it: how far apart the hashes of neighbouring buckets are; see [`crate::hash::reduce`].
    pub index_step: u32,
    /// Number of buckets of the session table, less one (a power of two less one).
    pub session_mask: u32,
    /// Number of buckets of the fragment table, less one.
    pub fragment_mask: u32,
    /// Number of host records, less one.
    pub host_mask: u32,
    /// Number of destination cache entries per CPU, less one.
    pub destination_mask: u32,
    /// Number of external addresses.
    pub addresses: u32,
    /// Ports per block, as a power of two: 4 to 10.
    pub block_shift: u32,
    /// Blocks that one host may have: 1 to 64.
    pub blocks_per_host: u32,
    /// How long a port rests after use (RFC 6888 REQ-8).
    pub rest: u32,
    /// How old a last-use stamp may get before it is renewed: about a second.
    pub refresh: u32,
    /// How long a destination's route is believed.
    pub route_age: u32,
    /// UDP lifetime (RFC 4787 REQ-5).
    pub udp: u32,
    /// TCP established (RFC 5382 REQ-5).
    pub tcp_established: u32,
    /// TCP opening (RFC 7857 §2.1).
    pub tcp_opening: u32,
    /// TCP closing (RFC 7857 §2.1).
    pub tcp_closing: u32,
    /// ICMP queries (RFC 5508 REQ-2).
    pub icmp: u32,
    /// Fragmented datagrams.
    pub fragment: u32,
    /// `FLAG_*`.
    pub flags: u32,
    /// Largest MSS in bytes that a SYN may offer (RFC 9293 §3.7.1), 0 for any.
    pub mss: u32,
    /// First rule in the policy map.
    pub policy_first: u32,
    /// Number of rules.
    pub policy_len: u32,
    /// [`Filtering`] by protocol, a byte each from the lowest. (As an array, the verifier would not know that there are only
    /// three protocols.)
    pub filtering: u32,
    /// Bursts of slow-path packets: size of the bucket of one source and of one CPU, in packets.
    pub punt_source: u32,
    /// See `punt_source`; refill per second of one source.
    pub punt_source_rate: u32,
    /// Bucket of one CPU.
    pub punt_total: u32,
    /// Refill per second of one CPU.
    pub punt_total_rate: u32,
    /// Ticks in one second.
    pub ticks_per_second: u32,
    /// How far ahead packets from inside stamp their entries in the index, so that they need not do it again before: a few
    /// seconds. A binding may live longer by this, never shorter.
    pub ahead: u32,
    /// Always zero.
    pub reserved: u32,
}

impl Config {
    /// Filtering of `proto`.
    #[inline(always)]
    pub fn filtering(&self, proto: Proto) -> Filtering {
        match self.filtering >> (proto as u32 * 8) & 0xff {
            0 => Filtering::EndpointIndependent,
            1 => Filtering::AddressDependent,
            _ => Filtering::AddressAndPortDependent,
        }
    }

    /// Whether `flag` is set.
    #[inline(always)]
    pub fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Whether flows of `proto` have sessions: TCP always (RFC 7857 §2), others if the filter or a policy needs them.
    #[inline(always)]
    pub fn tracks(&self, proto: Proto) -> bool {
        proto == Proto::Tcp || self.has(FLAG_POLICY) || self.filtering(proto) != Filtering::EndpointIndependent
    }

    /// Ports per block.
    #[inline(always)]
    pub fn block_size(&self) -> u32 {
        1 << self.block_shift
    }
}

/// What changes while the program runs.
///
/// Time is kept in ticks: `(jiffies64 - 0) >> tick_shift`, some 50 to 80 ms, because reading jiffies costs nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct State {
    /// Index of the [`Config`] in force, plus one; 0 before the first.
    pub active: u32,
    /// Changes with every event that can make a cached route wrong.
    pub route_generation: u32,
    /// Shift from jiffies to ticks.
    pub tick_shift: u32,
    /// Number of processors that may run the program.
    pub cpus: u32,
    /// Whether packets from inside go through two stages ([`crate::stage`]). Never so unless every device of an outside
    /// interface has the second stage's program, and had it before any frame was queued that the kernel has not sent yet.
    pub staged: u32,
    /// Always zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Config>() == 2 * 8 + 4 * 30);
const _: () = assert!(size_of::<State>() == 24);

//! What sipnat tells people and programs: the records of the control socket, of `--json`, of the
//! block log. Field names are an interface: they are added to, not changed.

mod sip;
#[cfg(test)]
mod tests;

pub use sip::*;

use std::{
    collections::BTreeMap,
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
    str::FromStr,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{config::Filtering, media::mos::Mos, relays::totals::Totals, units::Proto};

/// A moment, written in RFC 3339 as UTC with milliseconds: `2026-01-02T03:04:05.678Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub jiff::Timestamp);

impl Time {
    /// The wall clock now.
    pub fn now() -> Time {
        Time(jiff::Timestamp::now())
    }

    /// So many milliseconds after the Unix epoch, or the latest there is.
    pub fn from_millis(millis: u64) -> Time {
        let moment = i64::try_from(millis)
            .ok()
            .and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
        Time(moment.unwrap_or(jiff::Timestamp::MAX))
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::try_from(self.0.duration_since(earlier.0)).unwrap_or_default()
    }

    /// The moment `duration` before this one, or the earliest there is.
    pub fn before(self, duration: Duration) -> Time {
        Time(self.0.checked_sub(duration).unwrap_or(jiff::Timestamp::MIN))
    }
}

impl From<SystemTime> for Time {
    /// Years that RFC 3339 cannot write become the epoch.
    fn from(time: SystemTime) -> Time {
        Time(jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH))
    }
}

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Time).map_err(|_| {
            format!("`{text}` is no RFC 3339 time with a zone; write it like 2026-01-02T03:04:05Z or 2026-01-02T03:04:05+01:00")
        })
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.0)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<str>::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// One binding (RFC 4787's mapping). Endpoints print as `"192.0.2.1:5060"`; for ICMP the port is the query id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingRecord {
    pub proto: Proto,
    /// Inside endpoint.
    pub inside: SocketAddrV4,
    /// External endpoint.
    pub external: SocketAddrV4,
    pub kind: BindingKind,
    /// Seconds since the last packet that refreshed it.
    pub idle_s: u64,
    /// Seconds until it expires if nothing refreshes it; `null` for static and runtime forwards.
    pub expires_s: Option<u64>,
    /// Seconds since it was made.
    pub created_s: u64,
    pub filtering: Filtering,
    /// Sessions of the binding, where they are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u64>,
    /// Remote endpoints that it has sessions with, at most [`REMOTES`] of them. For UDP and ICMP sessions are only kept under a policy
    /// or with address-and-port-dependent filtering.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remotes: Vec<SocketAddrV4>,
    /// Traffic, if `nat.counting` is on.
    #[serde(default, flatten, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
}

/// How many remote endpoints a [`BindingRecord`] has at most.
pub const REMOTES: usize = 16;

/// Packets and bytes of a binding; bytes are those of the IPv4 packets, headers included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    pub packets_out: u64,
    pub bytes_out: u64,
    pub packets_in: u64,
    pub bytes_in: u64,
}

/// Why a binding exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BindingKind {
    /// A packet from inside made it.
    Dynamic,
    /// The same, and a registration with a registrar elsewhere crosses the NAT by it: it lives as long as that.
    Registered,
    /// A `[[forward]]` of the config.
    Static,
    /// `sipnat bindings add-forward`.
    Runtime,
    /// Its host asked for it by PCP or NAT-PMP.
    Mapped,
}

impl BindingKind {
    /// The name as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            BindingKind::Dynamic => "dynamic",
            BindingKind::Registered => "registered",
            BindingKind::Static => "static",
            BindingKind::Runtime => "runtime",
            BindingKind::Mapped => "mapped",
        }
    }
}

/// One block of ports and the inside host that owns it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRecord {
    pub external_ip: Ipv4Addr,
    pub first_port: u16,
    pub last_port: u16,
    /// The inside host.
    pub host: Ipv4Addr,
    /// When the host got it.
    pub since: Time,
    /// Ports of it that have a binding.
    pub ports_used: u32,
}

/// A leg of the media relay. Times in seconds unless they say otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayRecord {
    /// The number of the relay, as `sipnat calls --media` has it: a stream of a call.
    pub call: u64,
    /// The stream within the call.
    pub stream: u32,
    /// 0 or 1: whose leg it is.
    pub side: u8,
    /// Whether it is the RTCP leg beside one for RTP.
    pub rtcp: bool,
    pub leg: u32,
    /// The leg by which its packets leave.
    pub partner: u32,
    /// Where its peer sends; `null` if the address is not the router's any more.
    pub external: Option<SocketAddrV4>,
    /// The endpoint that was learned.
    pub peer: Option<SocketAddrV4>,
    /// Where packets go before one is.
    pub fallback: Option<SocketAddrV4>,
    pub hold: bool,
    pub created_s: u64,
    /// Since the peer was learned.
    pub latched_s: Option<u64>,
    /// Since the peer sent last.
    pub idle_s: u64,
    /// From the peer, with bytes of the IPv4 packets.
    pub packets: u64,
    pub bytes: u64,
    pub ssrc: Option<u32>,
    pub ssrc_changes: u32,
    /// RTP packets that have not come (RFC 3550).
    pub lost: u64,
    /// RTP packets out of order or twice.
    pub late: u32,
    /// Interarrival jitter (RFC 3550) in microseconds.
    pub jitter_us: Option<u64>,
    /// Round-trip time between relay and peer by RTCP, in microseconds.
    pub round_trip_us: Option<u64>,
    /// How often the peer moved to another endpoint in mid-stream.
    pub moves: u32,
    /// Packets refused, by reason.
    pub refused: BTreeMap<String, u32>,
    /// What the stream carries; `null` if that is no speech or not known.
    #[serde(default)]
    pub codec: Option<String>,
    /// Mean opinion score, 1.00 to 4.50, estimated by the E-model (ITU-T G.107) from loss, jitter, round trip and codec: of what the peer sends, as it is
    /// heard at the relay. `null` where nothing can be said.
    #[serde(default)]
    pub mos: Option<Mos>,
    /// DSCP (RFC 2474) that the peer's packets leave with; left out where they keep their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dscp: Option<u8>,
}

/// What the media relay has done, as metrics show it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayTotals {
    /// Legs in use, by [`RelayTotals::STATES`].
    pub legs: [u64; 4],
    /// What all legs have seen since the daemon started, and those in use before.
    pub seen: Totals,
    /// What those have seen that are closed.
    pub closed: Totals,
}

impl RelayTotals {
    /// Nobody has sent yet; the peer is known; on hold; on an external address that is not ours any more.
    pub const STATES: [&'static str; 4] = ["waiting", "latched", "held", "stranded"];
}

/// A mapping that a host asked for by PCP or NAT-PMP: a line of `sipnat leases --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    pub proto: Proto,
    /// The host's endpoint.
    pub inside: SocketAddrV4,
    pub external: SocketAddrV4,
    /// `pcp` or `nat-pmp`.
    pub by: String,
    pub expires_s: u64,
    /// What the client says it is for (RFC 7220); empty if it says nothing.
    pub description: String,
}

/// The direction of what the slow path counts: events of packets that are counted already when they are given to it.
pub const SLOW: &str = "slow";
/// The direction of what the SIP server refused or gave up.
pub const SIP: &str = "sip";

/// One reason for one direction, summed over the CPUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterRecord {
    /// The reason's name, the same in metrics.
    pub name: String,
    /// `out`, `in`, [`SLOW`] or [`SIP`].
    pub direction: String,
    /// Packets since the maps were made; for [`SIP`] messages since the daemon started.
    pub value: u64,
}

/// The state of the whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StatusRecord {
    pub version: String,
    pub pid: u32,
    /// When the daemon started.
    pub started: Option<Time>,
    pub uptime_s: u64,
    pub interfaces: Vec<InterfaceRecord>,
    pub external_addresses: Vec<Ipv4Addr>,
    pub pool: PoolRecord,
    /// Most bindings at one time.
    pub capacity: u64,
    /// Kernel memory of the maps.
    pub memory_bytes: u64,
    pub bindings: BindingCounts,
    pub sessions: u64,
    /// The sweeper's work.
    #[serde(default)]
    pub sweep: SweepRecord,
    /// New flows that found no port.
    #[serde(default)]
    pub exhaustion: ExhaustionRecord,
    /// What preflight or the running daemon finds worth knowing.
    pub warnings: Vec<String>,
    /// Version of the pinned maps' layout.
    pub schema_version: u32,
    /// Whether a NAT runs. Without one everything about it above is zero or empty.
    #[serde(default = "yes")]
    pub nat: bool,
    /// The SIP server; `null`: none runs.
    #[serde(default)]
    pub sip: Option<SipStatusRecord>,
}

/// Daemons of before there was anything else.
fn yes() -> bool {
    true
}

/// An interface that the program is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceRecord {
    pub name: String,
    /// `inside` or `outside`.
    pub role: String,
    /// `native` or `generic`.
    pub mode: String,
    pub ifindex: u32,
    pub mtu: u32,
    pub vlan: Option<u16>,
}

/// The pool of external ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRecord {
    /// Hosts that can have at least one block at one time.
    pub hosts: u64,
    /// Bindings of one protocol that the pool serves.
    pub bindings: u64,
    pub ports_per_address: u32,
    pub blocks_total: u64,
    pub blocks_used: u64,
}

/// What freeing expired bindings takes, and what came of it since the daemon started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepRecord {
    /// Passes over the tables.
    pub passes: u64,
    /// Processor time of the last pass, in microseconds.
    pub cpu_us: u64,
    /// That of the dearest of the last ten: every tenth looks at sessions, fragments and hosts too.
    pub cpu_us_max: u64,
    /// Ports in use that the last pass looked at: bindings, forwards, ports that rest.
    pub bindings_visited: u64,
    /// Bindings that had expired.
    pub expired: u64,
    /// Entries that nobody owned, put right.
    pub repaired: u64,
}

/// Events of exhaustion since the daemon started, by cause: for one host one in ten seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExhaustionRecord {
    /// The host had all the blocks that it may have.
    pub quota: u64,
    /// No external address had a free block.
    pub pool: u64,
}

/// Bindings by protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingCounts {
    pub tcp: u64,
    pub udp: u64,
    pub icmp: u64,
}

/// An event with its time; also the line of the block log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    pub time: Time,
    #[serde(flatten)]
    pub event: Event,
}

impl EventRecord {
    /// `event` happening now.
    pub fn now(event: Event) -> EventRecord {
        EventRecord {
            time: Time::now(),
            event,
        }
    }
}

/// What happened; in JSON the field `event` has the name in snake case. None of them names a destination (RFC 6888 REQ-12).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// An inside host got a block.
    BlockAssigned {
        #[serde(flatten)]
        block: Block,
        /// When it got it, if that was before this record (found by a daemon that had been away).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<Time>,
    },
    /// It gave the block back, after so many seconds.
    BlockReleased {
        #[serde(flatten)]
        block: Block,
        duration_s: u64,
    },
    /// A new flow found no port: `cause` is `quota`, `pool` or `capacity`.
    Exhausted {
        host: Ipv4Addr,
        proto: Option<Proto>,
        cause: String,
    },
    /// External addresses came and went.
    AddressesChanged {
        added: Vec<Ipv4Addr>,
        removed: Vec<Ipv4Addr>,
    },
    /// A changed config is in force.
    Reloaded { message: String },
    /// Something that an operator should know.
    Warning { message: String },
    /// So many events were lost because the reader or the daemon was slower than they came.
    Missed { count: u64 },
}

impl Event {
    /// The name in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Event::BlockAssigned { .. } => "block_assigned",
            Event::BlockReleased { .. } => "block_released",
            Event::Exhausted { .. } => "exhausted",
            Event::AddressesChanged { .. } => "addresses_changed",
            Event::Reloaded { .. } => "reloaded",
            Event::Warning { .. } => "warning",
            Event::Missed { .. } => "missed",
        }
    }
}

/// A block and its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The inside host.
    pub host: Ipv4Addr,
    pub external_ip: Ipv4Addr,
    pub first_port: u16,
    pub last_port: u16,
}

/// The answer to "who had this external endpoint at this time".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookupRecord {
    /// The inside host.
    pub host: Ipv4Addr,
    pub external_ip: Ipv4Addr,
    pub first_port: u16,
    pub last_port: u16,
    pub from: Time,
    /// `null`: the log knows of no end.
    pub until: Option<Time>,
}

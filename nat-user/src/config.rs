//! The configuration: what a valid one looks like. `config/raw.rs` is the TOML that people write,
//! `config/validate.rs` turns it into the structs of this file and holds every bound, so whoever has
//! a [`Config`] need not check anything again. `sipnat.sample.toml` explains each field to users.

mod defaults;
mod error;
mod nat;
mod raw;
mod rules;
pub mod sip;
mod source;
mod text;
mod validate;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

pub use error::ConfigError;
pub use nat::{MAX_EXTERNAL_ADDRESSES, MAX_INTERFACES, MAX_PREFIXES};
pub use rules::{ExternalSide, MAX_FORWARDS, MAX_POLICY_RULES};
pub use source::{Overrides, RunOptions};

pub use crate::units::{PortRange, Prefix, Proto, Rate};

/// Where the control socket is unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/sipnat/sipnat.sock";
/// Where maps and links are pinned unless told otherwise.
pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/sipnat";

/// A complete, valid configuration. Obtained from [`Config::load`], [`Config::parse`] or [`RunOptions::load`].
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub daemon: Daemon,
    pub nat: Nat,
    pub ports: Ports,
    pub filtering: FilteringByProto,
    pub lifetimes: Lifetimes,
    /// Static forwards, one protocol each (`both` has become two); no two claim one external port.
    pub forwards: Vec<Forward>,
    pub policy: Policy,
    pub icmp: Icmp,
    pub fragments: Fragments,
    pub log: Log,
    pub metrics: Metrics,
    /// `None`: nobody can ask for ports.
    pub pap: Option<Pap>,
    /// `None`: no SIP server runs.
    pub sip: Option<sip::Sip>,
}

impl Config {
    /// Reads and validates a file. The error names file, line, column and remedy.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        source::load(path, &Overrides::default())
    }

    /// Validates `text`; `file` is the name that errors give.
    pub fn parse(text: &str, file: &str) -> Result<Config, ConfigError> {
        validate::config(text, file, &Overrides::default())
    }

    /// Multiplies every lifetime, the rest time of ports, and timer C of SIP by `factor`, for tests that cannot wait
    /// for hours (`--lifetime-scale`). Nothing becomes shorter than one second, the resolution of the stamps.
    pub fn scale_lifetimes(&mut self, factor: f64) {
        let Lifetimes {
            udp,
            tcp_established,
            tcp_opening,
            tcp_closing,
            icmp,
            refresh: _,
            fragments,
        } = &mut self.lifetimes;
        let of_sip = self
            .sip
            .as_mut()
            .map(|sip| [&mut sip.proxy.timer_c, &mut sip.media.timeout]);
        let times = [
            udp,
            tcp_established,
            tcp_opening,
            tcp_closing,
            icmp,
            fragments,
            &mut self.ports.rest,
        ];
        for time in times.into_iter().chain(of_sip.into_iter().flatten()) {
            // An absurd factor saturates instead of panicking.
            *time = Duration::try_from_secs_f64(time.as_secs_f64() * factor)
                .unwrap_or(validate::TCP_MAX)
                .clamp(Duration::from_secs(1).min(*time), validate::TCP_MAX);
        }
    }
}

/// `[daemon]`: the process itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// Control socket. Default [`DEFAULT_SOCKET`].
    pub socket: PathBuf,
    /// Directory on a bpffs for pinned maps and links. Default [`DEFAULT_PIN_DIR`].
    pub pin_dir: PathBuf,
    /// Filter of the daemon's own log in `tracing-subscriber`'s notation. Default `info`.
    pub log: String,
}

/// `[nat]`: which interfaces and addresses are translated, and how much is kept in memory. With `[sip]` and without `[nat]` there are
/// no interfaces: then no NAT runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nat {
    /// Interfaces with the private side (RFC 3022); at least one if a NAT runs.
    pub inside: Vec<Interface>,
    /// Interfaces with the public side; at least one if a NAT runs, none of them in `inside`.
    pub outside: Vec<Interface>,
    /// External addresses. Empty (default): all global IPv4 addresses of the outside interfaces, followed as they change.
    pub addresses: Vec<Prefix>,
    /// Source addresses that are translated. Empty (default): every source that is routed to an inside interface.
    pub inside_prefixes: Vec<Prefix>,
    /// Destinations that are routed untranslated (RFC 6888 REQ-6). Default none.
    pub bypass: Vec<Prefix>,
    /// How the program is attached. Default [`XdpMode::Auto`].
    pub xdp_mode: XdpMode,
    /// Count packets and bytes per binding. Default false: it costs writes to shared cache lines.
    pub counting: bool,
    /// Hairpinning (RFC 4787 REQ-9). Default true.
    pub hairpin: bool,
    /// TCP maximum segment size clamping. Default [`MssClamp::Off`].
    pub mss_clamp: MssClamp,
    /// Most bindings at one time. `None` (default): what the pool of external ports can serve.
    pub capacity: Option<u32>,
    /// Sessions (binding and remote endpoint) in the table. Default 262144.
    pub sessions: u32,
    /// Cached next hops of destinations, per CPU. Default 16384.
    pub destinations: u32,
    /// Legs of the media relay at one time: external ports that it relays by. Default 20000.
    pub relay_legs: u32,
    /// Bindings from which on UDP from inside is translated in two stages. Default 200000.
    pub staged_from: u32,
}

/// `[pap]`: hosts inside ask for ports by PCP (RFC 6887) and NAT-PMP (RFC 6886).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pap {
    /// Where mappings are kept over restarts. `None` (`off`): nowhere. Default `/var/lib/sipnat/mappings.redb`.
    pub store: Option<PathBuf>,
    /// No mapping is granted for less, in seconds. Default 2 min (RFC 6887 section 15).
    pub min_lifetime: Duration,
    /// No mapping is granted for longer, in seconds. Default 24 h (RFC 6887 section 15).
    pub max_lifetime: Duration,
    /// Mappings of one host (RFC 6887 section 11.3). Default 128.
    pub mappings_per_host: u32,
    /// Whether a renewal must have the nonce of the mapping, as its end must (RFC 6887 section 11.3). Default false: a program that has started anew gets
    /// its port again.
    pub strict_nonce: bool,
}

impl Nat {
    /// Whether anything is translated.
    pub fn runs(&self) -> bool {
        !self.inside.is_empty()
    }
}

/// An interface, or one 802.1Q VLAN that arrives tagged on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Interface {
    /// Name as `ip link` shows it, 1 to 15 bytes.
    pub name: String,
    /// VLAN id 1 to 4094; `None`: untagged packets.
    pub vlan: Option<u16>,
}

/// How the XDP program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// Native if the driver can, else generic with a warning.
    Auto,
    /// Native or not at all.
    Native,
    /// Generic (skb) mode: works with every driver, several times slower.
    Generic,
}

/// What is done to the MSS option of TCP SYNs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MssClamp {
    /// Nothing.
    Off,
    /// At most the egress MTU less 40.
    Auto,
    /// At most so many bytes, 536 (RFC 9293 section 3.7.1) to 65495.
    Bytes(u16),
}

/// `[ports]`: the pool of external ports and what a host may take of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports {
    /// External ports that may be allocated. Default 1024-65535; less than 1024 only with `allow_well_known` (RFC 4787 REQ-3a).
    pub range: PortRange,
    /// Ports of that range that are not. Default none.
    pub exclude: Vec<PortRange>,
    /// Leave out the router's own `ip_local_port_range`, `ip_local_reserved_ports` and listening sockets. Default true.
    pub exclude_local: bool,
    /// Ports of a block: a power of two from 16 to 1024. Default 64.
    pub block_size: u16,
    /// Blocks one inside host may hold (RFC 6888 REQ-4), 1 to 64. Default 32.
    pub blocks_per_host: u8,
    /// How long a freed port rests before anyone gets it again (RFC 6888 REQ-8). Default 120 s.
    pub rest: Duration,
    /// Inside hosts that can have bindings at one time. Default 65536.
    pub hosts: u32,
}

/// `[filtering]`: who may send to a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilteringByProto {
    /// Default endpoint-independent (RFC 4787 REQ-8, transparency).
    pub udp: Filtering,
    /// Default address-dependent (RFC 5382 REQ-3).
    pub tcp: Filtering,
    /// Default address-dependent.
    pub icmp: Filtering,
}

/// The filtering behaviours of RFC 4787 section 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filtering {
    /// Anybody may send to the external endpoint.
    EndpointIndependent,
    /// Addresses that the binding has sent to.
    AddressDependent,
    /// Endpoints that the binding has sent to.
    AddressAndPortDependent,
}

/// `[lifetimes]`: how long things live without a packet that refreshes them. At most 24 h, TCP 30 d.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// UDP binding. Default 5 min, at least 2 min (RFC 4787 REQ-5).
    pub udp: Duration,
    /// TCP session that is open in both directions. Default and least 2 h 4 min (RFC 5382 REQ-5).
    pub tcp_established: Duration,
    /// TCP session that is not open yet. Default 4 min (RFC 5382 REQ-5, RFC 7857 section 2.1).
    pub tcp_opening: Duration,
    /// TCP session after FIN or RST. Default 4 min (RFC 5382 REQ-5, RFC 7857 sections 2.1 and 2.2).
    pub tcp_closing: Duration,
    /// ICMP query. Default and least 60 s (RFC 5508 REQ-2).
    pub icmp: Duration,
    /// Which packets refresh a binding (RFC 4787 REQ-6). Default outbound.
    pub refresh: Refresh,
    /// How long a datagram's fragments are recognised after its first one (RFC 4787 REQ-14). Default 15 s.
    pub fragments: Duration,
}

/// Which packets refresh a binding (RFC 4787 REQ-6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refresh {
    /// Those from inside.
    Outbound,
    /// Those of both directions: an outsider can keep a binding alive.
    Both,
}

/// `[[forward]]`: external ports that always lead to one inside host. The ranges have equal length and map in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// TCP or UDP.
    pub protocol: Proto,
    /// The external address; `None`: all of them, whatever they are at the moment.
    pub external_address: Option<Ipv4Addr>,
    pub external_ports: PortRange,
    pub inside_address: Ipv4Addr,
    pub inside_ports: PortRange,
}

/// `[policy]`: which new flows are allowed. The first rule that matches decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What holds when no rule matches. Default allow.
    pub default: Action,
    /// How a refusal is answered. Default [`Refuse::Icmp`].
    pub refuse: Refuse,
    /// At most [`MAX_POLICY_RULES`], lists already expanded, in order.
    pub rules: Vec<Rule>,
}

/// What a rule does with a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    Allow,
    Deny,
}

/// How a refused flow is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refuse {
    /// ICMP 3/13, communication administratively prohibited (RFC 5508 REQ-8), within the rates of `[icmp]`.
    Icmp,
    /// Not at all.
    Silent,
}

/// The direction of a flow's first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlowDirection {
    /// From inside.
    Out,
    /// From outside.
    In,
    Both,
}

/// One condition on a new flow: all parts must match. Addresses and ports are those of the inside host
/// (untranslated) and of the remote endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    pub action: Action,
    pub direction: FlowDirection,
    pub source: Prefix,
    pub destination: Prefix,
    /// `None`: any.
    pub protocol: Option<Proto>,
    /// [`PortRange::ALL`] if the rule says nothing; otherwise `protocol` is TCP or UDP.
    pub source_ports: PortRange,
    /// As `source_ports`.
    pub destination_ports: PortRange,
}

/// `[icmp]`: errors that sipnat itself originates (RFC 1812 section 4.3, RFC 5508 section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icmp {
    /// Host, net and port unreachable, quota and pool exhausted (3/1). Default true.
    pub unreachable: bool,
    /// Time exceeded in transit. Default true; without it `traceroute` does not show this router.
    pub time_exceeded: bool,
    /// Fragmentation needed (3/4). Default true; without it path MTU discovery fails (RFC 1191).
    pub fragmentation_needed: bool,
    /// All errors together (RFC 1812 section 4.3.2.8). Default 100/s.
    pub rate: Rate,
    /// Errors to one destination. Default 10/s, never more than `rate`.
    pub rate_per_source: Rate,
}

/// `[fragments]`: bounds for fragments that come before the first one of their datagram (RFC 4787 REQ-14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragments {
    /// Bytes for buffered fragments. Default 1048576.
    pub memory: u32,
    /// How long they wait. Default 2 s.
    pub timeout: Duration,
    /// Datagrams whose fragments are being followed. Default 4096.
    pub datagrams: u32,
}

/// `[log]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// Where block assignments and releases are recorded (RFC 7422, RFC 6888 REQ-12). Default off.
    pub blocks: LogTarget,
}

/// Where records go, one a line. Default off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LogTarget {
    #[default]
    Off,
    /// The local syslog socket.
    Syslog,
    /// JSON lines, appended.
    File(PathBuf),
}

/// `[metrics]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Where Prometheus metrics are served. Default `None`, off. Not loopback only with `allow_remote`.
    pub listen: Option<SocketAddr>,
}

impl std::fmt::Display for Interface {
    /// `eth1`, or `eth1.100` for a VLAN.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.vlan {
            Some(vlan) => write!(f, "{}.{vlan}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

#[cfg(test)]
mod tests;

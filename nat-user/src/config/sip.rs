//! `[sip]` and its tables: what a valid SIP configuration looks like. Absent: no SIP server runs.

mod check;
mod defaults;
pub(super) mod raw;
#[cfg(test)]
pub(super) mod tests;
mod uri;
pub(super) mod validate;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::{LogTarget, Prefix, Rate};
use crate::{
    media::{
        policy::{Anchor, SameNat},
        sdp::edit::IceMode,
    },
    sip::flow::Transport,
};

/// `[sip]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Sip {
    /// `[[sip.listen]]`: at least one.
    pub listeners: Vec<Listener>,
    /// `[[sip.domain]]`: domains that are served here (RFC 3261 section 10.2). May be empty for a plain outbound proxy.
    pub domains: Vec<Domain>,
    /// `[[sip.route]]`: the dial plan, in order; the first that matches decides.
    pub routes: Vec<Route>,
    /// `[sip.tls]`; present if a listener needs it. Without it connections to others show no certificate and trust the system's authorities.
    pub tls: Option<Tls>,
    /// Where registrations are kept over restarts. Default `/var/lib/sipnat/registrations.redb`; `None` (`"off"`): nowhere.
    pub store: Option<PathBuf>,
    /// Secret for tokens and nonces, kept over restarts: a file that is made with random content if it is not there.
    /// Default `/var/lib/sipnat/secret`.
    pub secret: PathBuf,
    /// IPv4 sources that need not authenticate and may call everywhere (gateways, other proxies), and whose `alias` in Via is heeded (RFC 5923).
    /// Default none.
    pub trusted: Vec<Prefix>,
    /// Users (the part of a request URI before `@`) that pass every limit, ban and shedding. Default `112`, `911`.
    pub emergency: Vec<String>,
    /// Where numbers of `emergency` go; `None`: by location and dial plan like others.
    pub emergency_route: Option<String>,
    /// Name servers (RFC 3263). Empty (default): those of the system.
    pub dns: Vec<SocketAddr>,
    pub registrar: Registrar,
    pub proxy: Proxy,
    pub paths: Paths,
    pub auth: Auth,
    pub limits: SipLimits,
    pub observe: Observe,
    pub media: Media,
    pub calls: Calls,
}

/// `[[sip.listen]]`: an address and transport on which SIP is spoken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub transport: Transport,
    /// Where it binds.
    pub address: ListenAddress,
    /// Default 5060, TLS 5061.
    pub port: u16,
    /// The host (name or address, without port) that Via, Record-Route and Path say instead of the address, for a listener behind somebody
    /// else's static NAT. Present if the address is the unspecified one. Default `None`.
    pub advertise: Option<String>,
    /// What it does with requests from its side. Default [`Role::Proxy`].
    pub role: Role,
}

/// Where a listener binds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// A fixed address.
    Ip(IpAddr),
    /// The first global IPv4 address of an interface, followed as it changes.
    Interface(String),
}

/// What a listener does with requests for users of our domains, and with others' registrations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Registrar and proxy (RFC 3261 sections 10.3 and 16).
    Proxy,
    /// Registrar and redirect server (RFC 3261 section 8.3).
    Redirect,
    /// Outbound proxy: also takes requests for domains that are served elsewhere, REGISTER among them, and passes them on (RFC 5626's edge proxy).
    Outbound,
}

/// `[[sip.domain]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Host names or addresses that mean this domain, lower case; the first is its name and the digest realm.
    pub names: Vec<String>,
    /// Users file (see `sipnat user add`). `None`: everybody may register, which needs `authenticate = false`.
    pub users: Option<PathBuf>,
    /// Whether REGISTER and requests from this domain must authenticate. Default true.
    pub authenticate: bool,
    /// Overrides the listener's role for users of this domain: proxy or redirect. Default `None`.
    pub role: Option<Role>,
    /// `"alias" = "user"`: other names for users.
    pub aliases: Vec<(String, String)>,
    /// Registrations that always exist: `user` and contact URI.
    pub contacts: Vec<StaticContact>,
    /// Calls that one user may have at a time; `None` (default): any number. A users-file entry may say less.
    pub calls_per_user: Option<u32>,
    /// Who may call registered users without authenticating. Default [`Callers::Anyone`].
    pub callers: Callers,
}

/// `contacts` of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticContact {
    pub user: String,
    /// A SIP URI.
    pub contact: String,
    /// 0 to 1000 thousandths. Default 1000.
    pub q: u16,
}

/// Who may call registered users without authenticating.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Callers {
    /// Anybody, within the rates of `[sip.limits]`.
    Anyone,
    /// Trusted peers and authenticated users only.
    Authenticated,
}

/// `[[sip.route]]`: where requests go that are not for registered users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The request URI's user part begins with this. Empty matches all.
    pub prefix: String,
    /// The request URI's host is this domain; `None`: one of ours.
    pub domain: Option<String>,
    /// So many leading characters are taken off.
    pub strip: u8,
    /// These are put in front afterwards.
    pub prepend: String,
    /// Where to: a SIP URI without user (`sip:gateway.example.com:5060;transport=tcp`). Several are tried in order.
    pub to: Vec<String>,
}

/// `[sip.tls]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// PEM: the certificate and its chain. Read anew on reload.
    pub certificate: PathBuf,
    /// PEM: its key.
    pub key: PathBuf,
    /// PEM: whom to trust when we connect to others. `None`: the system's `/etc/ssl/certs/ca-certificates.crt`.
    pub authorities: Option<PathBuf>,
}

/// `[sip.registrar]` (RFC 3261 section 10.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registrar {
    /// Granted when a phone asks for none. Default 3600 s.
    pub default_expires: Duration,
    /// Less is refused with 423. Default 60 s, at most 1 h (RFC 3261 section 10.3 item 7); less than 60 s only with `allow_short_expires`.
    pub min_expires: Duration,
    /// More is granted as this much. Default 7200 s.
    pub max_expires: Duration,
    /// The most that is granted to devices behind a NAT; `None` (default): the same as others.
    pub nat_expires: Option<Duration>,
    /// Contacts of one AoR. Default 10.
    pub max_contacts: u32,
    /// Registrations in all. Default 1,000,000.
    pub max_registrations: u32,
}

/// `[sip.proxy]` (RFC 3261 sections 16 and 17).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Default [`RecordRoute::Always`].
    pub record_route: RecordRoute,
    /// How several contacts are tried. Default [`Fork::Parallel`].
    pub fork: Fork,
    /// Timer C (RFC 3261 section 16.6): more than 3 min. Default 185 s.
    pub timer_c: Duration,
    /// How long one group of contacts with the same q rings before the next is tried. Default 30 s.
    pub serial_ring: Duration,
    /// RFC 3261 section 17: T1. Default 500 ms.
    pub t1: Duration,
    /// T2. Default 4 s.
    pub t2: Duration,
    /// T4. Default 5 s.
    pub t4: Duration,
    /// Max-Breadth if a request has none (RFC 5393). Default 60.
    pub max_breadth: u32,
    /// Calls in all. Default 100,000.
    pub max_calls: u32,
    /// A dialog without a session timer ends after this long. Default 12 h.
    pub max_call_duration: Duration,
}

/// Whether the proxy stays in the dialogs that it helped to make (RFC 3261 section 16.6 item 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordRoute {
    Always,
    /// It leaves after the INVITE; contacts become addresses that the peer can reach.
    Never,
}

/// How several contacts of a user are tried (RFC 3261 section 16.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fork {
    /// All at once.
    Parallel,
    /// Those with the highest q at once, then the next.
    ByQ,
}

/// `[sip.paths]`: how mapped paths to devices are kept open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// What is sent on paths over UDP to devices behind a NAT. Default [`Prompt::Options`].
    pub udp: Prompt,
    /// What is sent on streams. Default [`Prompt::Crlf`].
    pub stream: Prompt,
    /// Whether devices that are not behind a NAT are prompted as well. Default false.
    pub everyone: bool,
    /// Prompt periodically while a registration or subscription holds the path. Default true.
    pub while_registered: bool,
    /// Prompt after silence while only a dialog holds the path. Default true.
    pub during_dialogs: bool,
    /// Time between prompts, and the silence that triggers one. Default 15 s.
    pub interval: Duration,
    /// How much shorter than `interval` a period may be, in percent, so that prompts spread. Default 20.
    pub jitter_percent: u8,
    /// How long prompts go on after the last dialog has ended. Default 32 s.
    pub tail: Duration,
    /// So many unanswered prompts in a row mark the path as down. Default 3.
    pub max_lost: u32,
    /// Whether registrations on a path that is down are removed. Default false: they are marked.
    pub remove_lost: bool,
    /// Adapt each path's interval within these bounds: shorter after a lost path, longer after long success. Default `None`: fixed.
    pub adapt: Option<(Duration, Duration)>,
}

/// What a prompt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prompt {
    /// Nothing.
    Off,
    /// A SIP OPTIONS, whose answer refreshes the mapping from inside.
    Options,
    /// CRLF; double CRLF on streams, whose answer is CRLF (RFC 5626 section 4.4.1).
    Crlf,
}

/// `[sip.auth]` (RFC 7616, RFC 8760).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Offered in this order. Default MD5, because phones in wide use give up when they are challenged with anything else beside it.
    pub algorithms: Vec<DigestAlgorithm>,
    /// How long a nonce is good for. Default 300 s.
    pub nonce_lifetime: Duration,
    /// So many wrong passwords from one source within `ban_window` ban it. Default 10; 0: never.
    pub ban_after: u32,
    /// Default 60 s.
    pub ban_window: Duration,
    /// Default 300 s.
    pub ban: Duration,
}

/// Digest algorithms (RFC 7616 section 3.2, RFC 8760 section 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum DigestAlgorithm {
    #[serde(rename = "MD5")]
    Md5,
    #[serde(rename = "SHA-256")]
    Sha256,
    #[serde(rename = "SHA-512-256")]
    Sha512_256,
}

/// `[sip.limits]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SipLimits {
    /// Requests from one source address that open transactions. Default 100/s; trusted peers are free.
    pub rate_per_source: Rate,
    /// How many such requests may come at once before the rate counts. Default 200.
    pub burst_per_source: u32,
    /// Connections in all. Default 10,000.
    pub connections: u32,
    /// Connections of one source address. Default 100.
    pub connections_per_source: u32,
    /// A connection on which nothing came for this long is closed unless a registration or dialog uses it. Default 120 s.
    pub idle: Duration,
    /// How long one message on a stream may take from its first byte to its last. Default 10 s.
    pub message_time: Duration,
    /// Bytes of one message. Default 65535.
    pub message_size: u32,
    /// Server transactions at one time; beyond 80 % new REGISTERs are shed, beyond 95 % new INVITEs (RFC 7339's spirit). Default 100,000.
    pub transactions: u32,
}

/// `[sip.observe]`: REGISTER transactions that cross our NAT in clear text over UDP, to registrars elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observe {
    /// Whether a granted expiry extends the binding. Default true where a NAT and `[sip]` run together.
    pub enabled: bool,
    /// Remote ports that are looked at. Default 5060.
    pub ports: Vec<u16>,
    /// The longest extension. Default 3632 s.
    pub max: Duration,
}

/// `[sip.media]`: when the media of calls goes through us, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Media {
    /// Which calls' media goes through us. Default [`Anchor::Auto`].
    pub anchor: Anchor,
    /// Calls between two ends inside of the same NAT. Default [`SameNat::Anchor`].
    pub same_nat: SameNat,
    /// What becomes of ICE (RFC 8839) where media goes through us. Default [`IceMode::Replace`].
    pub ice: IceMode,
    /// Media of a phone behind somebody else's NAT may come from the prefix of this length around the source of its signalling, in bits (RFC 7362
    /// section 4). Default 32: from that address alone; at least 24.
    pub gate_prefix: u8,
    /// After so long without a packet from either side the media of a call has ended, unless a stream of it is on hold. Default 5 min, at least 30 s.
    pub timeout: Duration,
    /// What ends with it. Default [`TimeoutEnds::Call`].
    pub timeout_ends: TimeoutEnds,
    /// Streams for which there are ports and legs that only calls to `sip.emergency` get. Default 2.
    pub reserve: u32,
    /// m= lines of one session description; one with more is refused with 488. Default 32.
    pub max_streams: u32,
    /// What is inside of our NAT. `None` (default): the NAT's `inside_prefixes`, or all private addresses where it has none (RFC 1918, RFC 6598).
    pub inside: Option<Vec<Prefix>>,
    /// DSCP (RFC 2474) that relayed packets leave with. `None` (default): the one that they came with.
    pub dscp: Option<u8>,
}

/// `[sip.calls]`: what is told of calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Where a record of each call goes when it has ended. Default off.
    pub records: LogTarget,
}

/// What ends when the media of a call has been silent for [`Media::timeout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimeoutEnds {
    /// The call: both sides get a BYE.
    Call,
    /// Its relays: the call itself ends as its parties or its session timer say.
    Media,
}

impl Media {
    /// What is inside of our NAT; nothing if none runs.
    pub fn inside(&self, nat: &super::Nat) -> Vec<Prefix> {
        match &self.inside {
            Some(inside) => inside.clone(),
            None if !nat.runs() => Vec::new(),
            None if !nat.inside_prefixes.is_empty() => nat.inside_prefixes.clone(),
            None => defaults::PRIVATE.to_vec(),
        }
    }
}

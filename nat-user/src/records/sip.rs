//! Records of the SIP server. Flows are written `udp:134.56.1.1:5070`: transport, remote address and port as the server sees them.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};

use serde::{Deserialize, Serialize};

use super::{RelayRecord, Time};
use crate::sip::{
    flow::Transport,
    metrics::{SipGauges, SipMetrics},
};

/// One contact of one address of record: a row of the registration table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationRecord {
    /// The address abstraction: `user@domain`.
    pub aor: String,
    /// The contact as the phone sent it; stays its request URI.
    pub contact: String,
    /// Where it is reached: behind a NAT the translated address and port. `null` for a static contact.
    pub received: Option<SocketAddr>,
    /// Our socket that the phone registered at, from which it is reached.
    pub local: Option<SocketAddr>,
    pub transport: Option<Transport>,
    /// Whether the address inside the request differed from the packet's source.
    pub behind_nat: bool,
    /// Seconds until it expires; `null`: never.
    pub expires_s: Option<u64>,
    /// 0 to 1000 thousandths (RFC 3261 section 20.10).
    pub q: u16,
    pub call_id: String,
    pub cseq: u32,
    pub user_agent: Option<String>,
    /// The state of the path that it is reached on: `idle`, `registration`, `dialog-and-registration`, `dialog`.
    pub path_state: Option<String>,
    /// Whether too many prompts in a row were lost on the path.
    pub path_down: bool,
    /// `+sip.instance` (RFC 5626 section 4.1).
    pub instance: Option<String>,
    /// `reg-id` (RFC 5626 section 4.2).
    pub reg_id: Option<u32>,
    /// The Path that requests take (RFC 3327).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub path: Vec<String>,
    /// From the configuration.
    #[serde(rename = "static")]
    pub fixed: bool,
}

/// One mapped path to a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathRecord {
    pub transport: Transport,
    /// Our socket.
    pub local: Option<SocketAddr>,
    /// The device as we see it: the outside of its NAT's binding.
    pub remote: SocketAddr,
    /// The connection's number, for streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<u64>,
    /// `idle`, `registration`, `dialog-and-registration` or `dialog`.
    pub state: String,
    pub behind_nat: bool,
    /// What holds it.
    pub registrations: u32,
    pub subscriptions: u32,
    pub dialogs: u32,
    /// Seconds since the device last sent anything on it; `null`: not since the server started.
    pub silence_s: Option<u64>,
    /// `options`, `crlf` or `off`.
    pub prompt: String,
    /// Time between prompts at present, in milliseconds.
    pub interval_ms: u64,
    pub prompts_sent: u64,
    pub prompts_answered: u64,
    pub prompts_lost: u64,
    /// Whether a prompt waits for its answer.
    pub in_flight: bool,
    /// Seconds until the next prompt; `null`: none is due.
    pub next_prompt_s: Option<u64>,
    /// Whether too many prompts in a row were lost.
    pub down: bool,
}

/// One dialog that is followed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DialogRecord {
    pub call_id: String,
    /// `user@host` of From and To.
    pub from: String,
    pub to: String,
    /// `INVITE` for a call, `SUBSCRIBE` for a subscription.
    pub method: String,
    /// `early`, `confirmed` or `ended`.
    pub state: String,
    /// When its first request came.
    pub started: Time,
    pub duration_s: u64,
    /// The flows to the two sides; `null` where that is not known (yet).
    pub caller: Option<String>,
    pub callee: Option<String>,
    /// Seconds until it counts as ended if nothing is heard (RFC 4028 session timer, or `proxy.max_call_duration`).
    pub session_expires_s: Option<u64>,
    /// Its streams that go through us, if they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media: Option<Vec<StreamRecord>>,
}

/// A stream of a call that goes through us: by the relay, or by bindings of the NAT, of which nothing is measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamRecord {
    /// The relay's number, as in `sipnat relays`; `null`: it goes by bindings.
    pub relay: Option<u64>,
    /// Encoding name of the first format of the answer.
    pub codec: String,
    pub held: bool,
    /// It has ended, and its call went on.
    pub ended: bool,
    /// Where caller and callee have said that they take it.
    pub caller: Option<SocketAddrV4>,
    pub callee: Option<SocketAddrV4>,
    /// Side 0 is the caller's, side 1 the callee's. The figures of a stream that has ended are its last ones.
    pub legs: Vec<RelayRecord>,
}

/// A call that has ended: the line of `[sip.calls] records`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRecord {
    pub call_id: String,
    /// `user@host` of From and To.
    pub from: String,
    pub to: String,
    /// The users of ours that they are, as `user@domain`: a caller that has proven it, a callee that was called. `null`: none of ours.
    pub caller_aor: Option<String>,
    pub callee_aor: Option<String>,
    /// When its INVITE came.
    pub began: Time,
    /// When it was answered; `null`: it was not.
    pub answered: Option<Time>,
    pub ended: Time,
    /// From answer to end.
    pub duration_ms: u64,
    /// The flows to the two sides; `null` where there is none.
    pub caller: Option<String>,
    pub callee: Option<String>,
    /// `bye`, `cancel`, `refused`, `timeout`, `media_timeout`, `address_changed`, `left` or `error`.
    pub reason: String,
    /// `caller` or `callee`; `null`: this server, or nobody.
    pub by: Option<String>,
    /// The final response that has ended it.
    pub code: Option<u16>,
    pub media: Vec<StreamRecord>,
}

/// One transaction (RFC 3261 section 17).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionRecord {
    /// `server` or `client`.
    pub side: String,
    pub method: String,
    /// As in RFC 3261's figures, in lower case: `trying`, `proceeding`, `completed` …
    pub state: String,
    pub branch: String,
    pub age_ms: u64,
    /// The flow to the other side; `null` while its address is looked up.
    pub remote: Option<String>,
}

/// A source that is not heard because of wrong passwords.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanRecord {
    pub source: IpAddr,
    pub until: Time,
    pub reason: String,
    /// Wrong passwords that led to it.
    pub failures: u32,
}

/// A user of a users file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRecord {
    pub user: String,
    pub domain: String,
    /// What the user can authenticate with, as in a Digest header.
    pub algorithms: Vec<String>,
    /// Calls at a time; `null`: what the domain says.
    pub calls: Option<u32>,
    /// What may be called: user parts that begin with one of these; empty: anything.
    pub allow: Vec<String>,
}

/// One message as it came or went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceRecord {
    pub time: Time,
    /// `in` or `out`.
    pub direction: String,
    pub transport: Transport,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// The start line, without its end.
    pub summary: String,
    pub call_id: String,
    /// `1 INVITE`.
    pub cseq: String,
    /// The whole message in base64.
    pub message: String,
    /// Messages before this one that were not told because the reader was too slow.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub missed: u64,
}

/// A packet of a call that is captured: a SIP message, or UDP of its media.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureRecord {
    pub time: Time,
    /// `sip` or `media`. A packet of media is told twice, as it came and as it left.
    pub kind: String,
    pub from: SocketAddr,
    pub to: SocketAddr,
    /// Bytes that it had.
    pub length: u64,
    /// In base64; of media no more than 1,500 bytes.
    pub payload: String,
    /// Packets before this one that were not told, because the reader or the daemon was too slow.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub missed: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What of the SIP server is in `sipnat status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SipStatusRecord {
    pub listeners: Vec<SipListenerRecord>,
    /// The names of the domains.
    pub domains: Vec<String>,
    /// Users of all domains' files.
    pub users: u64,
    pub registrations: u64,
    pub registrations_behind_nat: u64,
    pub paths: u64,
    pub paths_down: u64,
    pub calls: u64,
    pub subscriptions: u64,
    pub transactions: u64,
    pub connections: u64,
    pub banned: u64,
}

/// An address that SIP is spoken on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SipListenerRecord {
    pub transport: Transport,
    /// `null`: its interface has no address at the moment.
    pub address: Option<SocketAddr>,
    /// The interface whose address is followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// `proxy`, `redirect` or `outbound`.
    pub role: String,
}

/// Everything that the SIP server counts, as metrics show it.
#[derive(Clone, Debug, Default)]
pub struct SipTotals {
    pub metrics: SipMetrics,
    pub gauges: SipGauges,
    /// One for each transport.
    pub transports: Vec<TransportTotals>,
    /// Messages and connections that the transport gave up, by the name of the reason.
    pub dropped: Vec<(&'static str, u64)>,
    /// DNS look-ups, and those that found nothing in time.
    pub queries: u64,
    pub queries_failed: u64,
    /// Messages that a trace missed because its reader was slow.
    pub traces_lost: u64,
    /// Records of calls that were not written, because the disk was too slow or full.
    pub records_lost: u64,
    /// Streams of calls that were left as they are, by reason.
    pub media_left: Vec<(&'static str, u64)>,
}

/// What went over one transport since the daemon started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransportTotals {
    pub transport: Transport,
    pub messages_in: u64,
    pub messages_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// CRLFs and STUN requests that came.
    pub keep_alives: u64,
    /// Connections that came, that were made, and that are open now.
    pub accepted: u64,
    pub connected: u64,
    pub open: u64,
}

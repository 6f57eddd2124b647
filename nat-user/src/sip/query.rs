//! What people ask the core of a running SIP server: the daemon's control socket sends [`Query`]s to its thread, which answers each
//! through the sender in it. Nobody who asks is waited for: an answer that nobody wants any more is dropped.
//!
//! Lists are read in pages ([`List`]), so that a million registrations do not hold the server up: between two pages it does its work.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{
    metrics::{SipGauges, SipMetrics},
    transport::Place,
    users::Users,
};
use crate::{
    config::sip::Sip,
    media::{
        command::{DataPath, RelayId},
        policy::Policy,
    },
    records::{BanRecord, DialogRecord, PathRecord, RegistrationRecord, TransactionRecord},
};

/// Where an answer goes. Sending never blocks; that nobody waits any more is no error.
pub type Reply<T> = oneshot::Sender<T>;

/// A question or an order for the SIP server.
#[derive(Debug)]
pub enum Query {
    Registrations(List<RegistrationFilter, RegistrationRecord>),
    Paths(List<PathFilter, PathRecord>),
    Dialogs(List<DialogFilter, DialogRecord>),
    Transactions(List<TransactionFilter, TransactionRecord>),
    Bans(List<BanFilter, BanRecord>),
    /// Removes contacts of an AoR (`user@domain`): the one given as it was sent, or all. Static ones stay. Answers how many were removed.
    Unregister {
        aor: String,
        contact: Option<String>,
        reply: Reply<u32>,
    },
    /// Lifts the ban of a source; answers whether it was banned.
    LiftBan {
        source: IpAddr,
        reply: Reply<bool>,
    },
    /// Everything that the core counts.
    Snapshot(Reply<Box<Snapshot>>),
    /// A new configuration is in force: the transport has taken over its listeners already. Cannot fail, since everything was checked before.
    Configure(Box<Setup>, Reply<()>),
    /// A NAT runs beside the server: media of calls that begin from now on goes through its data path where the policy says so.
    AnchorMedia(Policy, Box<dyn DataPath>),
    /// Another policy, for calls that begin from now on.
    MediaPolicy(Policy),
    /// Streams of which nothing has been heard for `sip.media.timeout`; see [`Core::media_silent`](super::core::Core::media_silent). Answers
    /// those that belong to no call.
    SilentMedia(Vec<RelayId>, Reply<Vec<RelayId>>),
    /// The external address that these relays are on is not ours any more. Answers those that no call knows.
    MediaStranded(Vec<RelayId>, Reply<Vec<RelayId>>),
}

/// What the core runs with: the configuration and the files that it names, read and found valid.
#[derive(Clone, Debug)]
pub struct Setup {
    pub config: Arc<Sip>,
    /// The listeners in the order of `config.listeners`, with their ids and the addresses of their interfaces.
    pub listeners: Vec<Place>,
    /// Users by the order of `config.domains`; `None`: a domain without users file.
    pub users: Vec<Option<Arc<Users>>>,
}

/// Everything that the core counts, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub metrics: SipMetrics,
    pub gauges: SipGauges,
    /// Streams of calls that were left as they are, by reason.
    pub media_left: Vec<(&'static str, u64)>,
}

/// Asks for a part of a list.
#[derive(Debug)]
pub struct List<F, R> {
    pub filter: F,
    /// Where to begin: [`Cursor::START`], or what the page before said.
    pub from: Cursor,
    /// How many entries are looked at for one page, whether they match or not.
    pub look_at: usize,
    pub reply: Reply<Page<R>>,
}

/// A place in a list, in whatever order the server keeps it (for example an index into its slab). What stays in the list while it is read
/// is told exactly once; what comes or goes meanwhile may be told or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(pub u64);

impl Cursor {
    /// The beginning.
    pub const START: Cursor = Cursor(0);
}

/// A part of a list.
#[derive(Debug)]
pub struct Page<R> {
    /// The entries that matched, maybe none.
    pub records: Vec<R>,
    /// Where the next page begins; `None`: this was the last.
    pub next: Option<Cursor>,
}

/// Which registrations are asked for; what is `None` matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistrationFilter {
    /// `user@domain`, without `sip:`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// A part of the contact URI.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contact: Option<String>,
    /// The address that it is reached at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind_nat: Option<bool>,
    /// At most so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

impl RegistrationFilter {
    /// Whether a contact is asked for. Cheap, so that it can run before a record is made. `aor` is `user@domain`.
    pub fn matches(&self, aor: &str, contact: &str, received: Option<IpAddr>, behind_nat: bool) -> bool {
        let domain = aor.rsplit_once('@').map_or(aor, |(_, domain)| domain);
        self.aor.as_deref().is_none_or(|wanted| same_aor(wanted, aor))
            && self
                .domain
                .as_deref()
                .is_none_or(|wanted| wanted.eq_ignore_ascii_case(domain))
            && self.contact.as_deref().is_none_or(|part| contact.contains(part))
            && self.ip.is_none_or(|wanted| received == Some(wanted))
            && self.behind_nat.is_none_or(|wanted| wanted == behind_nat)
    }
}

/// Which paths are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PathFilter {
    /// The name of a state, as in the records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The device's address as we see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Only those that are down.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub down: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

impl PathFilter {
    /// Whether a path is asked for.
    pub fn matches(&self, state: &str, remote: SocketAddr, down: bool) -> bool {
        self.state.as_deref().is_none_or(|wanted| wanted == state)
            && self.remote.is_none_or(|wanted| wanted == remote.ip())
            && self.port.is_none_or(|wanted| wanted == remote.port())
            && (!self.down || down)
    }
}

/// Which dialogs are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DialogFilter {
    /// Calls (`INVITE`) only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub calls: bool,
    /// `user` or `user@domain` of either side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call_id: Option<String>,
    /// Their streams too.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub media: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

impl DialogFilter {
    /// Whether a dialog is asked for. `from` and `to` are `user@host`.
    pub fn matches(&self, method: &str, call_id: &str, from: &str, to: &str) -> bool {
        let is_user = |wanted: &str| {
            [from, to]
                .iter()
                .any(|side| same_aor(wanted, side) || side.rsplit_once('@').is_some_and(|(user, _)| user == wanted))
        };
        (!self.calls || method == "INVITE")
            && self.call_id.as_deref().is_none_or(|wanted| wanted == call_id)
            && self.user.as_deref().is_none_or(is_user)
    }
}

/// Which transactions are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TransactionFilter {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// Which bans are asked for: all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BanFilter {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// Which messages are traced: those that pass all parts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TraceFilter {
    /// `user@domain` in the request URI, From or To of a message, or of an earlier one with the same Call-ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call_id: Option<String>,
    /// The other side's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
}

/// Whether two `user@domain` mean the same: users are compared byte by byte, hosts in any case (RFC 3261 section 19.1.4).
pub fn same_aor(a: &str, b: &str) -> bool {
    match (a.rsplit_once('@'), b.rsplit_once('@')) {
        (Some((user, host)), Some((other, other_host))) => user == other && host.eq_ignore_ascii_case(other_host),
        (None, None) => a.eq_ignore_ascii_case(b),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_of_a_filter_counts() {
        let full = RegistrationFilter {
            aor: Some("user@net.com".into()),
            domain: Some("NET.com".into()),
            contact: Some("192.168.1.10".into()),
            ip: Some("134.56.1.1".parse().unwrap()),
            behind_nat: Some(true),
            limit: None,
        };
        let matches =
            |filter: &RegistrationFilter| filter.matches("user@net.com", "sip:user@192.168.1.10:5060", full.ip, true);
        assert!(matches(&full) && matches(&RegistrationFilter::default()));
        let wrong: [fn(&mut RegistrationFilter); 5] = [
            |filter| filter.aor = Some("User@net.com".into()),
            |filter| filter.domain = Some("com".into()),
            |filter| filter.contact = Some("192.168.1.11".into()),
            |filter| filter.ip = Some("134.56.1.2".parse().unwrap()),
            |filter| filter.behind_nat = Some(false),
        ];
        for change in wrong {
            let mut filter = full.clone();
            change(&mut filter);
            assert!(!matches(&filter), "{filter:?}");
        }
        assert!(!full.matches("user@net.com", "sip:user@192.168.1.10", None, true));

        let remote = "134.56.1.1:5070".parse().unwrap();
        let path = PathFilter {
            state: Some("registration".into()),
            remote: full.ip,
            port: Some(5070),
            down: true,
            limit: None,
        };
        assert!(path.matches("registration", remote, true) && PathFilter::default().matches("x", remote, false));
        assert!(!path.matches("registration", remote, false) && !path.matches("dialog", remote, true));
        assert!(!path.matches("registration", "134.56.1.1:5071".parse().unwrap(), true));

        let dialog = DialogFilter {
            calls: true,
            user: Some("user".into()),
            call_id: Some("1".into()),
            media: false,
            limit: None,
        };
        assert!(dialog.matches("INVITE", "1", "a@b", "user@net.com"));
        assert!(!dialog.matches("SUBSCRIBE", "1", "a@b", "user@net.com"));
        assert!(!dialog.matches("INVITE", "2", "a@b", "user@net.com") && !dialog.matches("INVITE", "1", "a@b", "x@y"));
        let user = DialogFilter {
            user: Some("a@B".into()),
            ..DialogFilter::default()
        };
        assert!(user.matches("SUBSCRIBE", "1", "a@b", "c@d") && !user.matches("INVITE", "1", "b@b", "a@c"));
    }

    #[test]
    fn filters_leave_out_what_they_do_not_ask() {
        let json = |value: serde_json::Result<String>| value.unwrap();
        assert_eq!(json(serde_json::to_string(&PathFilter::default())), "{}");
        assert_eq!(json(serde_json::to_string(&DialogFilter::default())), "{}");
        assert!(serde_json::from_str::<TraceFilter>(r#"{"aro":"x"}"#).is_err());
    }
}

//! The control socket: what can be asked of a running daemon ([`Service`], [`Request`]) and the
//! server that answers.
//!
//! One request is one line of JSON: `{"cmd":"bindings","host":"10.0.0.2"}`. The answer is one line per record, then
//! `{"end":true}`, or `{"error":"...","code":N}`. A connection may carry several requests, one after the other;
//! only `events` with `follow` ends with the connection.

mod events;
mod listener;
mod server;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    ops::ControlFlow,
};

use serde::{Deserialize, Serialize};

pub use events::Events;
pub use listener::Listener;
pub use server::{Ended, serve};

use crate::{
    config::{ExternalSide, Forward},
    records::{
        BanRecord, BindingRecord, BlockRecord, CaptureRecord, CounterRecord, DialogRecord, LeaseRecord, PathRecord,
        RegistrationRecord, RelayRecord, RelayTotals, SipTotals, StatusRecord, TraceRecord, TransactionRecord,
        UserRecord,
    },
    sip::query::{BanFilter, DialogFilter, PathFilter, RegistrationFilter, TraceFilter, TransactionFilter},
    units::Proto,
};

/// What the daemon can do for people. Methods may block; the server calls them on threads for blocking work.
pub trait Service: Send + Sync + 'static {
    /// The state of the whole.
    fn status(&self) -> Result<StatusRecord, ServiceError>;

    /// Hands every binding that `filter` matches to `each`, until that breaks. `filter.limit` is not the
    /// service's business. `each` waits for the reader: hold no lock that the daemon needs while calling it.
    fn bindings(
        &self,
        filter: &BindingFilter,
        each: &mut dyn FnMut(BindingRecord) -> ControlFlow<()>,
    ) -> Result<(), ServiceError>;

    /// Hands every block (of `host`, if given) to `each`, until that breaks.
    fn blocks(
        &self,
        host: Option<Ipv4Addr>,
        each: &mut dyn FnMut(BlockRecord) -> ControlFlow<()>,
    ) -> Result<(), ServiceError>;

    /// Hands every leg of the media relay (of `call`, if given) to `each`, until that breaks.
    ///
    /// # Errors
    /// If no NAT runs.
    fn relays(&self, _call: Option<u64>, _each: Each<RelayRecord>) -> Result<(), ServiceError> {
        Err(anyhow::anyhow!(
            "no NAT runs here, so nothing is relayed; write [nat] into the configuration and start again"
        )
        .into())
    }

    /// What the media relay has done.
    ///
    /// # Errors
    /// If no NAT runs.
    fn relay_totals(&self) -> Result<RelayTotals, ServiceError> {
        self.relays(None, &mut |_| ControlFlow::Break(()))?;
        Ok(RelayTotals::default())
    }

    /// The signalling and media of a call, named by its Call-ID or by the number of a relay of it, from now on until it has ended or the receiver is
    /// dropped.
    ///
    /// # Errors
    /// If no SIP server runs; [`ServiceError::NotFound`] if there is no such call.
    fn capture(&self, call: &str) -> Result<tokio::sync::mpsc::Receiver<CaptureRecord>, ServiceError> {
        self.sip()?;
        Err(ServiceError::NotFound(format!("there is no call {call}")))
    }

    /// Opens a stream of the media relay by hand; its legs. For tests of the data path.
    ///
    /// # Errors
    /// If no NAT runs, or there is no leg or port.
    fn open_relay(&self, _plan: &RelayPlan) -> Result<Vec<RelayRecord>, ServiceError> {
        self.relays(None, &mut |_| ControlFlow::Break(()))?;
        Ok(Vec::new())
    }

    /// Closes all legs of a call; [`ServiceError::NotFound`] if there is none.
    fn close_relay(&self, call: u64) -> Result<String, ServiceError> {
        Err(ServiceError::NotFound(format!("call {call} has no relay")))
    }

    /// Hands every mapping that a host asked for by PCP or NAT-PMP to `each`, until that breaks.
    ///
    /// # Errors
    /// If no NAT runs, or nobody can ask for ports.
    fn leases(&self, _each: Each<LeaseRecord>) -> Result<(), ServiceError> {
        Err(anyhow::anyhow!("no NAT runs here, so nobody can ask for ports; write [nat] and [pap] into the configuration and start again").into())
    }

    /// Ends a mapping before its time; [`ServiceError::NotFound`] if there is none.
    fn revoke_lease(&self, proto: Proto, inside: SocketAddrV4) -> Result<String, ServiceError> {
        Err(ServiceError::NotFound(format!("there is no lease of {proto} {inside}")))
    }

    /// All counters, also those that are zero.
    fn counters(&self) -> Result<Vec<CounterRecord>, ServiceError>;

    /// Adds a forward; says what was done.
    fn add_forward(&self, forward: Forward) -> Result<String, ServiceError>;

    /// Deletes the runtime forward with exactly this external side; [`ServiceError::NotFound`] if there is none.
    fn delete_forward(&self, protocol: Proto, external: ExternalSide) -> Result<String, ServiceError>;

    /// Applies the changed config as a whole or not at all; says what changed.
    fn reload(&self) -> Result<String, ServiceError>;

    /// Takes the programs from the interfaces and removes all pins. [`serve`] ends after the answer has gone out.
    fn detach(&self) -> Result<String, ServiceError>;

    /// What the SIP server can do for people.
    ///
    /// # Errors
    /// If none runs.
    fn sip(&self) -> Result<&dyn SipService, ServiceError> {
        Err(anyhow::anyhow!("no SIP server runs here; write [sip] into the configuration and start again").into())
    }
}

/// What a list hands its records to, until that breaks.
pub type Each<'a, R> = &'a mut dyn FnMut(R) -> ControlFlow<()>;

/// What the SIP server can do for people. A list's `limit` is not the service's business. Methods may block, except `trace`.
pub trait SipService: Send + Sync {
    /// Contacts of addresses of record.
    fn registrations(&self, filter: &RegistrationFilter, each: Each<RegistrationRecord>) -> Result<(), ServiceError>;

    /// Mapped paths to devices.
    fn paths(&self, filter: &PathFilter, each: Each<PathRecord>) -> Result<(), ServiceError>;

    /// Dialogs that are followed.
    fn dialogs(&self, filter: &DialogFilter, each: Each<DialogRecord>) -> Result<(), ServiceError>;

    /// Transactions that are under way.
    fn transactions(&self, filter: &TransactionFilter, each: Each<TransactionRecord>) -> Result<(), ServiceError>;

    /// Sources that are banned.
    fn bans(&self, filter: &BanFilter, each: Each<BanRecord>) -> Result<(), ServiceError>;

    /// Users of the users files (of `domain`, if given).
    fn users(&self, domain: Option<&str>, each: Each<UserRecord>) -> Result<(), ServiceError>;

    /// Removes contacts of `user@domain`: this one, or all; says what was done. [`ServiceError::NotFound`] if there is none.
    fn unregister(&self, aor: &str, contact: Option<&str>) -> Result<String, ServiceError>;

    /// Lifts a ban; [`ServiceError::NotFound`] if there is none.
    fn lift_ban(&self, source: IpAddr) -> Result<String, ServiceError>;

    /// Messages as they come and go, until the receiver is dropped.
    fn trace(&self, filter: TraceFilter) -> Result<tokio::sync::mpsc::Receiver<TraceRecord>, ServiceError>;

    /// Everything that is counted.
    fn totals(&self) -> Result<SipTotals, ServiceError>;
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// What the request names does not exist.
    #[error("{0}")]
    NotFound(String),
    /// Everything else; prints with its causes.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

impl ServiceError {
    /// The `code` on the wire, which is also the exit code of the command line.
    pub fn code(&self) -> u8 {
        match self {
            ServiceError::NotFound(_) => 4,
            ServiceError::Failed(_) => 1,
        }
    }
}

/// A request on the control socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    Status,
    Bindings(BindingFilter),
    Blocks {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<Ipv4Addr>,
    },
    Counters {
        /// Also those that are zero.
        #[serde(default)]
        all: bool,
    },
    /// The last events, then, with `follow`, each one as it happens.
    Events {
        #[serde(default)]
        follow: bool,
    },
    /// The words are those of the command line: `tcp`, `203.0.113.1:8080`, `192.168.1.10:80`.
    AddForward {
        protocol: Proto,
        external: String,
        inside: String,
    },
    DeleteForward {
        protocol: Proto,
        external: String,
    },
    /// Legs of the media relay, those of `call` if given.
    Relays {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        call: Option<u64>,
    },
    /// Opens a relay by hand; the command line has no word for it.
    OpenRelay(RelayPlan),
    /// Closes the relays of a call by hand, likewise.
    CloseRelay {
        call: u64,
    },
    /// Mappings that hosts asked for by PCP or NAT-PMP.
    Leases,
    /// Ends one of them.
    RevokeLease {
        protocol: Proto,
        inside: SocketAddrV4,
    },
    Reload,
    Detach,
    Registrations(RegistrationFilter),
    Paths(PathFilter),
    Dialogs(DialogFilter),
    Transactions(TransactionFilter),
    Bans(BanFilter),
    Users {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        domain: Option<String>,
    },
    /// The contact as `registrations` has it; without it all that the AoR (`user@domain`) has.
    Unregister {
        aor: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        contact: Option<String>,
    },
    LiftBan {
        source: IpAddr,
    },
    /// Each message as it comes or goes, until the connection ends.
    Trace(TraceFilter),
    /// Signalling and media of a call, named by its Call-ID or by the number of a relay of it, until it has ended.
    Capture {
        call: String,
    },
}

impl Request {
    /// Whether the answer has no end of its own, so that nobody can tell from silence that something is wrong.
    pub fn follows(&self) -> bool {
        matches!(
            self,
            Request::Events { follow: true } | Request::Trace(_) | Request::Capture { .. }
        )
    }
}

/// Which bindings are asked for; what is `None` matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BindingFilter {
    /// Inside address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proto: Option<Proto>,
    /// Inside port or query id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_ip: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_port: Option<u16>,
    /// At most so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

impl BindingFilter {
    /// Whether a binding is asked for. Cheap, so that it can run before a record is made.
    pub fn matches(&self, proto: Proto, inside: SocketAddrV4, external: SocketAddrV4) -> bool {
        self.proto.is_none_or(|wanted| wanted == proto)
            && self.host.is_none_or(|wanted| wanted == *inside.ip())
            && self.port.is_none_or(|wanted| wanted == inside.port())
            && self.external_ip.is_none_or(|wanted| wanted == *external.ip())
            && self.external_port.is_none_or(|wanted| wanted == external.port())
    }
}

/// A stream to relay between two sides, one gate each, on the first external address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayPlan {
    pub call: u64,
    /// RTP and RTCP on two ports.
    #[serde(default)]
    pub pair: bool,
    /// The address that each side's media comes from.
    pub gates: [Ipv4Addr; 2],
    /// Where packets to each side go before it has sent.
    #[serde(default)]
    pub fallbacks: [Option<SocketAddrV4>; 2],
}

/// The record of a request that does something: what was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    pub message: String,
}

/// How an answer ends. Records never begin with these fields, so a reader can tell by the first bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Ending {
    End { end: bool },
    Error { error: String, code: u8 },
}

impl Ending {
    /// Whether a line of an answer is its ending.
    pub fn is_one(line: &str) -> bool {
        line.starts_with("{\"end\":") || line.starts_with("{\"error\":")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_read_as_documented() {
        let parse = |text: &str| serde_json::from_str::<Request>(text);
        assert_eq!(parse(r#"{"cmd":"status"}"#).unwrap(), Request::Status);
        let filter = BindingFilter {
            host: Some(Ipv4Addr::new(10, 0, 0, 2)),
            ..Default::default()
        };
        assert_eq!(
            parse(r#"{"cmd":"bindings","host":"10.0.0.2"}"#).unwrap(),
            Request::Bindings(filter.clone())
        );
        assert_eq!(
            parse(r#"{"cmd":"counters"}"#).unwrap(),
            Request::Counters { all: false }
        );
        let add = r#"{"cmd":"add_forward","protocol":"tcp","external":"80","inside":"10.0.0.1:80"}"#;
        assert!(matches!(
            parse(add).unwrap(),
            Request::AddForward {
                protocol: Proto::Tcp,
                ..
            }
        ));
        for wrong in [
            r#"{"cmd":"reboot"}"#,
            r#"{"cmd":"bindings","hots":"10.0.0.2"}"#,
            "{}",
            "x",
            r#"{"cmd":"events","x":1}"#,
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        let aor = Some("user@net.com".to_owned());
        for request in [
            Request::Bindings(filter),
            Request::Events { follow: true },
            Request::Detach,
            Request::Registrations(RegistrationFilter {
                aor: aor.clone(),
                behind_nat: Some(true),
                ..Default::default()
            }),
            Request::Unregister {
                aor: "user@net.com".into(),
                contact: None,
            },
            Request::LiftBan {
                source: "::1".parse().unwrap(),
            },
            Request::Trace(TraceFilter {
                aor,
                ..Default::default()
            }),
        ] {
            assert_eq!(parse(&serde_json::to_string(&request).unwrap()).unwrap(), request);
        }
    }

    #[test]
    fn each_part_of_the_filter_counts() {
        let (inside, external) = ("10.0.0.2:5060".parse().unwrap(), "203.0.113.1:40000".parse().unwrap());
        let full = BindingFilter {
            host: Some(Ipv4Addr::new(10, 0, 0, 2)),
            proto: Some(Proto::Udp),
            port: Some(5060),
            external_ip: Some(Ipv4Addr::new(203, 0, 113, 1)),
            external_port: Some(40000),
            limit: None,
        };
        assert!(full.matches(Proto::Udp, inside, external));
        assert!(BindingFilter::default().matches(Proto::Icmp, external, inside));
        let other = Some(Ipv4Addr::new(10, 0, 0, 3));
        for wrong in [
            BindingFilter {
                host: other,
                ..full.clone()
            },
            BindingFilter {
                proto: Some(Proto::Tcp),
                ..full.clone()
            },
            BindingFilter {
                port: Some(5061),
                ..full.clone()
            },
            BindingFilter {
                external_ip: other,
                ..full.clone()
            },
            BindingFilter {
                external_port: Some(40001),
                ..full.clone()
            },
        ] {
            assert!(!wrong.matches(Proto::Udp, inside, external), "{wrong:?}");
        }
    }

    #[test]
    fn endings_are_told_from_records() {
        let end = serde_json::to_string(&Ending::End { end: true }).unwrap();
        let error = serde_json::to_string(&Ending::Error {
            error: "x".into(),
            code: 4,
        })
        .unwrap();
        let done = serde_json::to_string(&Done {
            message: "error".into(),
        })
        .unwrap();
        assert!(Ending::is_one(&end) && Ending::is_one(&error) && !Ending::is_one(&done));
    }
}

//! The SIP server of the memory service: many registrations, and one of everything else.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Mutex,
};

use nat_user::{
    control::{Each, ServiceError, SipService},
    records::*,
    sip::{flow::Transport, query::*},
};
use tokio::sync::mpsc;

/// The in-memory SIP server.
#[derive(Default)]
pub struct MemorySip {
    pub registrations: u32,
    pub banned: Mutex<BTreeSet<IpAddr>>,
    /// Who traces, with the filter.
    pub traces: Mutex<Vec<(TraceFilter, mpsc::Sender<TraceRecord>)>>,
}

impl MemorySip {
    pub fn status(&self) -> SipStatusRecord {
        SipStatusRecord {
            listeners: vec![SipListenerRecord {
                transport: Transport::Udp,
                address: Some("134.56.3.1:5060".parse().unwrap()),
                interface: Some("eth0".into()),
                role: "proxy".into(),
            }],
            domains: vec!["net.com".into()],
            users: 2,
            registrations: u64::from(self.registrations),
            registrations_behind_nat: u64::from(self.registrations / 2),
            ..SipStatusRecord::default()
        }
    }

    /// The first is the one of the founding document.
    pub fn registration(number: u32) -> RegistrationRecord {
        let remote = SocketAddr::from((
            Ipv4Addr::from(0x8638_0101 + number / 1000),
            5070 + (number % 1000) as u16,
        ));
        RegistrationRecord {
            aor: match number {
                0 => "user@net.com".into(),
                number => format!("user{number}@net.com"),
            },
            contact: "sip:user@192.168.1.10:5060".into(),
            received: Some(remote),
            local: Some("134.56.3.1:5060".parse().unwrap()),
            transport: Some(Transport::Udp),
            behind_nat: number.is_multiple_of(2),
            expires_s: Some(280),
            q: 1000,
            call_id: format!("{number}@192.168.1.10"),
            cseq: 1,
            user_agent: Some("phone".into()),
            path_state: Some("registration".into()),
            path_down: false,
            instance: None,
            reg_id: None,
            path: Vec::new(),
            fixed: false,
        }
    }

    pub fn message(summary: &str) -> TraceRecord {
        TraceRecord {
            time: "2026-01-02T03:04:05.678Z".parse().unwrap(),
            direction: "in".into(),
            transport: Transport::Udp,
            local: "134.56.3.1:5060".parse().unwrap(),
            remote: "134.56.1.1:5070".parse().unwrap(),
            summary: summary.into(),
            call_id: "1".into(),
            cseq: "1 OPTIONS".into(),
            message: "T1BUSU9OUw==".into(),
            missed: 0,
        }
    }
}

impl SipService for MemorySip {
    fn registrations(&self, filter: &RegistrationFilter, each: Each<RegistrationRecord>) -> Result<(), ServiceError> {
        for record in (0..self.registrations).map(Self::registration) {
            let ip = record.received.map(|received| received.ip());
            if filter.matches(&record.aor, &record.contact, ip, record.behind_nat) && each(record).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn paths(&self, filter: &PathFilter, each: Each<PathRecord>) -> Result<(), ServiceError> {
        let record = PathRecord {
            transport: Transport::Udp,
            local: Some("134.56.3.1:5060".parse().unwrap()),
            remote: "134.56.1.1:5070".parse().unwrap(),
            connection: None,
            state: "dialog-and-registration".into(),
            behind_nat: true,
            registrations: 1,
            subscriptions: 2,
            dialogs: 3,
            silence_s: Some(7),
            prompt: "options".into(),
            interval_ms: 15_000,
            prompts_sent: 9,
            prompts_answered: 8,
            prompts_lost: 1,
            in_flight: true,
            next_prompt_s: Some(11),
            down: false,
        };
        if filter.matches(&record.state, record.remote, record.down) {
            let _ = each(record);
        }
        Ok(())
    }

    fn dialogs(&self, filter: &DialogFilter, each: Each<DialogRecord>) -> Result<(), ServiceError> {
        for method in ["INVITE", "SUBSCRIBE"] {
            let record = DialogRecord {
                call_id: method.into(),
                from: "caller@example.org".into(),
                to: "user@net.com".into(),
                method: method.into(),
                state: "confirmed".into(),
                started: "2026-01-02T03:04:05Z".parse().unwrap(),
                duration_s: 61,
                caller: Some("udp:134.56.2.1:5060".into()),
                callee: None,
                session_expires_s: Some(1800),
                media: filter.media.then(|| vec![stream()]),
            };
            if filter.matches(&record.method, &record.call_id, &record.from, &record.to) && each(record).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn transactions(&self, filter: &TransactionFilter, each: Each<TransactionRecord>) -> Result<(), ServiceError> {
        let record = TransactionRecord {
            side: "server".into(),
            method: "INVITE".into(),
            state: "proceeding".into(),
            branch: "z9hG4bK1".into(),
            age_ms: 1500,
            remote: Some("udp:134.56.2.1:5060".into()),
        };
        if filter.method.as_ref().is_none_or(|method| *method == record.method) {
            let _ = each(record);
        }
        Ok(())
    }

    fn bans(&self, _: &BanFilter, each: Each<BanRecord>) -> Result<(), ServiceError> {
        for &source in self.banned.lock().unwrap().iter() {
            let record = BanRecord {
                source,
                until: "2026-01-02T03:04:05Z".parse().unwrap(),
                reason: "wrong passwords".into(),
                failures: 10,
            };
            if each(record).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn users(&self, domain: Option<&str>, each: Each<UserRecord>) -> Result<(), ServiceError> {
        let record = UserRecord {
            user: "user".into(),
            domain: "net.com".into(),
            algorithms: vec!["SHA-256".into(), "MD5".into()],
            calls: Some(2),
            allow: vec!["+49".into()],
        };
        if domain.is_none_or(|domain| domain == record.domain) {
            let _ = each(record);
        }
        Ok(())
    }

    fn unregister(&self, aor: &str, contact: Option<&str>) -> Result<String, ServiceError> {
        match (aor, contact) {
            ("user@net.com", None | Some("sip:user@192.168.1.10:5060")) => Ok("removed 1 contact".into()),
            _ => Err(ServiceError::NotFound(format!("{aor} has no such contact"))),
        }
    }

    fn lift_ban(&self, source: IpAddr) -> Result<String, ServiceError> {
        match self.banned.lock().unwrap().remove(&source) {
            true => Ok(format!("{source} is heard again")),
            false => Err(ServiceError::NotFound(format!("{source} is not banned"))),
        }
    }

    fn trace(&self, filter: TraceFilter) -> Result<mpsc::Receiver<TraceRecord>, ServiceError> {
        let (sender, receiver) = mpsc::channel(16);
        self.traces.lock().unwrap().push((filter, sender));
        Ok(receiver)
    }

    fn totals(&self) -> Result<SipTotals, ServiceError> {
        Ok(SipTotals::default())
    }
}

/// A relayed stream of a call.
fn stream() -> StreamRecord {
    let leg = |side: u8| {
        let record = serde_json::json!({
            "call": 4711, "stream": 0, "side": side, "rtcp": false, "leg": side, "partner": 1 - side,
            "external": "134.56.3.1:40000", "peer": "134.56.1.1:6000", "fallback": null, "hold": false, "created_s": 61,
            "latched_s": 60, "idle_s": 0, "packets": 3000, "bytes": 600000, "ssrc": 1, "ssrc_changes": 1, "lost": 30,
            "late": 2, "jitter_us": 1500, "round_trip_us": 42000, "moves": 0, "refused": {"relay_gate": 5}, "codec": "G.711",
            "mos": 4.31,
        });
        serde_json::from_value(record).expect("a record")
    };
    StreamRecord {
        relay: Some(4711),
        codec: "PCMA".into(),
        held: false,
        ended: false,
        caller: Some("10.0.0.2:4000".parse().expect("an endpoint")),
        callee: None,
        legs: vec![leg(0), leg(1)],
    }
}

//! What the SIP server answers on the control socket.

use std::{net::IpAddr, sync::Arc};

use anyhow::anyhow;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use tokio::sync::mpsc;

use crate::{
    commands::user,
    config::sip::{ListenAddress, Role},
    control::{Each, ServiceError, SipService},
    records::{
        BanRecord, CounterRecord, DialogRecord, PathRecord, RegistrationRecord, SIP, SipListenerRecord,
        SipStatusRecord, SipTotals, Time, TraceRecord, TransactionRecord, TransportTotals, UserRecord,
    },
    sip::{
        calls::Recorder,
        flow::Transport,
        metrics::Refusal,
        query::{
            BanFilter, DialogFilter, PathFilter, Query, RegistrationFilter, Snapshot, TraceFilter, TransactionFilter,
        },
        server::Server,
        trace::Sieve,
        transport::{Counters, Direction, Place, Reason, Traced},
    },
};

/// Messages that may wait for a trace, at the server and again at its reader.
const TRACE: usize = 1024;

/// A running SIP server, for people.
pub struct Sip {
    pub server: Arc<Server>,
    /// For what it has lost.
    pub recorder: Arc<Recorder>,
}

impl Sip {
    /// What there is to know of it.
    pub fn status(&self) -> Result<SipStatusRecord, ServiceError> {
        let (snapshot, counters) = self.snapshot()?;
        let (setup, gauges) = (self.server.setup(), snapshot.gauges);
        let open = [Transport::Udp, Transport::Tcp, Transport::Tls].map(|transport| counters.of(transport).open);
        Ok(SipStatusRecord {
            listeners: self.listeners()?,
            domains: setup
                .config
                .domains
                .iter()
                .map(|domain| domain.names[0].clone())
                .collect(),
            users: setup
                .domains()
                .map(|(domain, users)| users.count(&domain.names[0]) as u64)
                .sum(),
            registrations: gauges.registrations,
            registrations_behind_nat: gauges.registrations_behind_nat,
            paths: gauges.paths.iter().sum(),
            paths_down: gauges.paths_down,
            calls: gauges.calls,
            subscriptions: gauges.subscriptions,
            transactions: gauges
                .server_transactions
                .iter()
                .chain(&gauges.client_transactions)
                .sum(),
            connections: open.iter().sum(),
            banned: gauges.banned,
        })
    }

    /// What was refused or given up, by reason.
    pub fn counters(&self) -> Result<Vec<CounterRecord>, ServiceError> {
        let (snapshot, counters) = self.snapshot()?;
        let refused = Refusal::ALL
            .iter()
            .map(|&why| (why.name(), snapshot.metrics.refused[why as usize]));
        let dropped = Reason::ALL
            .into_iter()
            .map(|reason| (reason.name(), counters.dropped(reason)));
        let record = |(name, value): (&str, u64)| CounterRecord {
            name: name.into(),
            direction: SIP.into(),
            value,
        };
        Ok(refused.chain(dropped).map(record).collect())
    }

    fn snapshot(&self) -> Result<(Box<Snapshot>, Counters), ServiceError> {
        let snapshot = self.server.ask(Query::Snapshot)?;
        let counters = tokio::runtime::Handle::current().block_on(self.server.handle().counters())?;
        Ok((snapshot, counters))
    }

    fn listeners(&self) -> Result<Vec<SipListenerRecord>, ServiceError> {
        let locals = tokio::runtime::Handle::current().block_on(self.server.handle().locals())?;
        let setup = self.server.setup();
        let record = |place: &Place| SipListenerRecord {
            transport: place.listener.transport,
            address: locals
                .iter()
                .find(|local| local.listener == place.id)
                .and_then(|local| local.address),
            interface: match &place.listener.address {
                ListenAddress::Interface(name) => Some(name.clone()),
                ListenAddress::Ip(_) => None,
            },
            role: match place.listener.role {
                Role::Proxy => "proxy",
                Role::Redirect => "redirect",
                Role::Outbound => "outbound",
            }
            .into(),
        };
        Ok(setup.listeners.iter().map(record).collect())
    }
}

impl SipService for Sip {
    fn registrations(&self, filter: &RegistrationFilter, each: Each<RegistrationRecord>) -> Result<(), ServiceError> {
        let setup = self.server.setup();
        let first_name = |name: &String| {
            setup
                .domain(name)
                .map_or_else(|| name.clone(), |domain| domain.names[0].clone())
        };
        let filter = RegistrationFilter {
            aor: filter.aor.as_deref().map(|aor| setup.canonical(aor)),
            domain: filter.domain.as_ref().map(first_name),
            ..filter.clone()
        };
        Ok(self.server.list(&filter, Query::Registrations, each)?)
    }

    fn paths(&self, filter: &PathFilter, each: Each<PathRecord>) -> Result<(), ServiceError> {
        Ok(self.server.list(filter, Query::Paths, each)?)
    }

    fn dialogs(&self, filter: &DialogFilter, each: Each<DialogRecord>) -> Result<(), ServiceError> {
        Ok(self.server.list(filter, Query::Dialogs, each)?)
    }

    fn transactions(&self, filter: &TransactionFilter, each: Each<TransactionRecord>) -> Result<(), ServiceError> {
        Ok(self.server.list(filter, Query::Transactions, each)?)
    }

    fn bans(&self, filter: &BanFilter, each: Each<BanRecord>) -> Result<(), ServiceError> {
        Ok(self.server.list(filter, Query::Bans, each)?)
    }

    fn users(&self, domain: Option<&str>, each: Each<UserRecord>) -> Result<(), ServiceError> {
        let setup = self.server.setup();
        let is_wanted =
            |names: &[String]| domain.is_none_or(|wanted| names.iter().any(|name| name.eq_ignore_ascii_case(wanted)));
        for (served, users) in setup.domains().filter(|(served, _)| is_wanted(&served.names)) {
            let name = &served.names[0];
            let mut records: Vec<UserRecord> = users
                .iter()
                .filter(|(realm, ..)| realm == name)
                .map(user::record)
                .collect();
            records.sort_by(|a, b| a.user.cmp(&b.user));
            if records.into_iter().any(|record| each(record).is_break()) {
                break;
            }
        }
        Ok(())
    }

    fn unregister(&self, aor: &str, contact: Option<&str>) -> Result<String, ServiceError> {
        let aor = &self.server.setup().canonical(aor);
        let removed = self.server.ask(|reply| Query::Unregister {
            aor: aor.clone(),
            contact: contact.map(ToOwned::to_owned),
            reply,
        })?;
        match removed {
            0 => Err(ServiceError::NotFound(match contact {
                None => format!("{aor} has no contact that could be removed; `sipnat registrations` lists them"),
                Some(contact) => {
                    format!("{aor} has no contact {contact}; `sipnat registrations --aor {aor}` lists them")
                }
            })),
            1 => Ok(format!("removed 1 contact of {aor}")),
            more => Ok(format!("removed {more} contacts of {aor}")),
        }
    }

    fn lift_ban(&self, source: IpAddr) -> Result<String, ServiceError> {
        if self.server.ask(|reply| Query::LiftBan { source, reply })? {
            Ok(format!("{source} is heard again"))
        } else {
            Err(ServiceError::NotFound(format!(
                "{source} is not banned; `sipnat bans` lists who is"
            )))
        }
    }

    fn trace(&self, filter: TraceFilter) -> Result<mpsc::Receiver<TraceRecord>, ServiceError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|error| anyhow!(error))?;
        let (sender, receiver) = mpsc::channel(TRACE);
        let server = self.server.clone();
        runtime.spawn(async move {
            // An error means that the server has ended, which the reader learns from the end of its channel.
            if let Ok(messages) = server.handle().trace(TRACE).await {
                sift(messages, Sieve::new(filter), sender).await;
            }
        });
        Ok(receiver)
    }

    fn totals(&self) -> Result<SipTotals, ServiceError> {
        let (snapshot, counters) = self.snapshot()?;
        let transports = [Transport::Udp, Transport::Tcp, Transport::Tls].map(|transport| {
            let traffic = counters.of(transport);
            TransportTotals {
                transport,
                messages_in: traffic.messages_in,
                messages_out: traffic.messages_out,
                bytes_in: traffic.bytes_in,
                bytes_out: traffic.bytes_out,
                keep_alives: traffic.keep_alives,
                accepted: traffic.accepted,
                connected: traffic.connected,
                open: traffic.open,
            }
        });
        Ok(SipTotals {
            metrics: snapshot.metrics,
            gauges: snapshot.gauges,
            transports: transports.to_vec(),
            dropped: Reason::ALL
                .into_iter()
                .map(|reason| (reason.name(), counters.dropped(reason)))
                .collect(),
            queries: counters.queries,
            queries_failed: counters.queries_failed,
            traces_lost: counters.traces_lost,
            records_lost: self.recorder.lost(),
            media_left: snapshot.media_left,
        })
    }
}

/// Hands on what passes, until nobody reads or the server has ended.
async fn sift(mut messages: mpsc::Receiver<Traced>, mut sieve: Sieve, to: mpsc::Sender<TraceRecord>) {
    let mut missed = 0;
    loop {
        let traced = tokio::select! {
            () = to.closed() => return,
            traced = messages.recv() => match traced {
                Some(traced) => traced,
                None => return,
            },
        };
        let Some(headline) = sieve.pass(&traced.bytes, traced.flow.remote.ip()) else {
            continue;
        };
        let record = TraceRecord {
            time: Time::from_millis(traced.time.0),
            direction: match traced.direction {
                Direction::In => "in",
                Direction::Out => "out",
            }
            .into(),
            transport: traced.flow.transport,
            local: traced.local,
            remote: traced.flow.remote,
            summary: headline.summary,
            call_id: headline.call_id,
            cseq: headline.cseq,
            message: BASE64_STANDARD.encode(&traced.bytes),
            missed,
        };
        missed = match to.try_send(record) {
            Ok(()) => 0,
            Err(_) => missed + 1,
        };
    }
}

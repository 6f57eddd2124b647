//! From the core's tables to the records that people see. What is no UTF-8 is replaced.

use std::net::SocketAddr;

use crate::{
    media::command::Side,
    records::{BanRecord, CallRecord, DialogRecord, PathRecord, RegistrationRecord, Time as Moment, TransactionRecord},
    sip::{
        calls::Over,
        command::Destination,
        core::{
            desk::{client_label, server_label},
            here::Here,
        },
        dialog::{Dialog, Kind, State},
        flow::{ConnectionId, Flow, ListenerId},
        limits::Ban,
        location::Contact,
        message::{Message, Uri},
        path::{self, PathView, Paths},
        time::Time,
        transaction::{client::Client, server::Server},
    },
};

/// A row of the registration table.
pub fn registration(contact: &Contact<'_>, paths: &Paths, here: &Here, now: Time) -> RegistrationRecord {
    RegistrationRecord {
        aor: contact.aor.to_owned(),
        contact: text(contact.uri),
        received: contact.flow.map(|flow| canonical(flow.remote)),
        local: contact.flow.and_then(|flow| local(here, flow.listener)),
        transport: contact.flow.map(|flow| flow.transport),
        behind_nat: contact.behind_nat,
        expires_s: contact.remaining(now),
        q: contact.q,
        call_id: text(contact.call_id),
        cseq: contact.cseq,
        user_agent: contact.user_agent.map(ToOwned::to_owned),
        path_state: contact.path_id.map(|path| paths.state(path).name().to_owned()),
        path_down: contact.down,
        instance: contact.instance().map(text),
        reg_id: contact.reg_id.map(Into::into),
        path: match contact.path {
            b"" => Vec::new(),
            path => vec![text(path)],
        },
        fixed: contact.fixed,
    }
}

/// A mapped path.
pub fn path(path: &PathView<'_>, here: &Here, now: Time) -> PathRecord {
    let Flow {
        listener,
        transport,
        remote,
        connection,
    } = path.flow;
    PathRecord {
        transport,
        local: local(here, listener),
        remote: canonical(remote),
        connection: (connection != ConnectionId::NONE).then_some(connection.0),
        state: path.state.name().into(),
        behind_nat: path.behind_nat,
        registrations: path.registrations,
        subscriptions: path.subscriptions,
        dialogs: path.dialogs,
        silence_s: path.last_in.map(|last| now.since(last).as_secs()),
        prompt: match path.kind {
            Some(path::Kind::Options) => "options",
            Some(path::Kind::Crlf) => "crlf",
            None => "off",
        }
        .into(),
        interval_ms: u64::try_from(path.interval.as_millis()).unwrap_or(u64::MAX),
        prompts_sent: path.prompts_sent.into(),
        prompts_answered: path.prompts_answered.into(),
        prompts_lost: path.prompts_lost.into(),
        in_flight: path.pending,
        next_prompt_s: path.next_prompt.map(|next| next.since(now).as_secs()),
        down: path.down_since.is_some(),
    }
}

/// A dialog.
pub fn dialog(dialog: &Dialog, now: Time) -> DialogRecord {
    let deadline = dialog.alarm.deadline();
    DialogRecord {
        call_id: text(&dialog.call_id),
        from: user_at(&dialog.from),
        to: user_at(&dialog.to),
        method: match dialog.kind {
            Kind::Call => "INVITE",
            Kind::Subscription => "SUBSCRIBE",
        }
        .into(),
        state: match dialog.state {
            State::Early => "early",
            State::Confirmed => "confirmed",
        }
        .into(),
        started: Moment::from_millis(dialog.started.0),
        duration_s: now.since(dialog.established.unwrap_or(dialog.started)).as_secs(),
        caller: caller_flow(dialog),
        callee: callee_flow(dialog),
        session_expires_s: (deadline != Time::MAX).then(|| deadline.since(now).as_secs()),
        media: None,
    }
}

/// A call that has ended.
pub fn call(over: Over) -> CallRecord {
    let Over {
        dialog,
        end,
        media,
        ended,
    } = over;
    let aor = |aor: &Option<Box<str>>| aor.as_deref().map(ToOwned::to_owned);
    CallRecord {
        call_id: text(&dialog.call_id),
        from: user_at(&dialog.from),
        to: user_at(&dialog.to),
        caller_aor: aor(&dialog.caller_aor),
        callee_aor: aor(&dialog.callee_aor),
        began: Moment::from_millis(dialog.started.0),
        answered: dialog.established.map(|time| Moment::from_millis(time.0)),
        ended: Moment::from_millis(ended.0),
        duration_ms: dialog.established.map_or(0, |answered| millis(answered, ended)),
        caller: caller_flow(&dialog),
        callee: callee_flow(&dialog),
        reason: end.why.name().into(),
        by: end.by.map(|side| {
            match side {
                Side::Caller => "caller",
                Side::Callee => "callee",
            }
            .into()
        }),
        code: end.code,
        media,
    }
}

fn caller_flow(dialog: &Dialog) -> Option<String> {
    dialog.caller.is_device.then(|| dialog.caller.flow.to_string())
}

fn callee_flow(dialog: &Dialog) -> Option<String> {
    let callee = dialog.callees.iter().find(|callee| callee.leg.is_device);
    callee.map(|callee| callee.leg.flow.to_string())
}

/// A server transaction.
pub fn server(server: &Server, now: Time) -> TransactionRecord {
    TransactionRecord {
        side: "server".into(),
        method: text(server.request.method_text()),
        state: server_label(server.state).name().into(),
        branch: branch(&server.request),
        age_ms: millis(server.created, now),
        remote: Some(server.flow.to_string()),
    }
}

/// A client transaction.
pub fn client(client: &Client, now: Time) -> TransactionRecord {
    // What we have sent ourselves can be read.
    let request = Message::parse(client.request.clone()).ok();
    TransactionRecord {
        side: "client".into(),
        method: request
            .as_ref()
            .map(|request| text(request.method_text()))
            .unwrap_or_default(),
        state: client_label(client.state, client.invite).name().into(),
        branch: request.as_ref().map(branch).unwrap_or_default(),
        age_ms: millis(client.created, now),
        remote: Some(match &client.to {
            Destination::Flow(flow) => flow.to_string(),
            Destination::Hop { hop, .. } => format!("{}:{}", hop.transport, hop.address),
        }),
    }
}

/// A ban.
pub fn ban(ban: &Ban) -> BanRecord {
    BanRecord {
        source: ban.source,
        until: Moment::from_millis(ban.until.0),
        reason: match ban.user.as_str() {
            "" => "wrong passwords".into(),
            user => format!("wrong passwords, the last one for {user}"),
        },
        failures: ban.failures,
    }
}

/// An IPv4 address that came in on an IPv6 socket is shown as one.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn local(here: &Here, listener: ListenerId) -> Option<SocketAddr> {
    let place = here.get(listener)?;
    Some(SocketAddr::new(place.ip?, place.port))
}

/// `user@host` of a URI, or all of it if it is no SIP URI.
fn user_at(uri: &[u8]) -> String {
    match Uri::parse(uri).filter(Uri::is_sip) {
        Some(parsed) => match parsed.user_text() {
            Some(user) => format!("{user}@{}", text(parsed.host)),
            None => text(parsed.host),
        },
        None => text(uri),
    }
}

fn branch(request: &Message) -> String {
    request.via().map(|via| text(via.branch())).unwrap_or_default()
}

fn millis(since: Time, now: Time) -> u64 {
    u64::try_from(now.since(since).as_millis()).unwrap_or(u64::MAX)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

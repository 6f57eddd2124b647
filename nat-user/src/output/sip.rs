//! The SIP server's records on a terminal.

use std::{io, io::Write, time::Duration};

use comfy_table::{ColumnConstraint, Table};

use super::{LEG, add, endpoint, leg, seconds, table};
use crate::{
    records::{
        BanRecord, DialogRecord, PathRecord, RegistrationRecord, SipStatusRecord, StreamRecord, Time,
        TransactionRecord, UserRecord,
    },
    units::show_duration,
};

/// `sipnat registrations`: the address abstraction, the translated address and the translated port, and what else there is to know.
pub fn registrations(records: &[RegistrationRecord]) -> Table {
    let columns = [
        "AOR",
        "TRANSLATED",
        ">PORT",
        "OVER",
        "NAT",
        ">EXPIRES",
        "PATH",
        "CONTACT",
    ];
    let mut table = table(&columns);
    // What people copy and paste is not broken; the contact breaks when the terminal is narrow.
    whole(&mut table, &[0, 1, 2, 5]);
    for record in records {
        let path = match (&record.path_state, record.path_down) {
            _ if record.fixed => "static".into(),
            (_, true) => "down".into(),
            (Some(state), false) => state.clone(),
            (None, false) => "-".into(),
        };
        let row = [
            record.aor.clone(),
            record.received.map_or("-".into(), |received| received.ip().to_string()),
            record
                .received
                .map_or("-".into(), |received| received.port().to_string()),
            record.transport.map_or("-".into(), |transport| transport.to_string()),
            yes(record.behind_nat),
            record.expires_s.map_or("-".into(), seconds),
            path,
            record.contact.clone(),
        ];
        add(&mut table, &columns, row);
    }
    table
}

/// `sipnat paths`.
pub fn paths(records: &[PathRecord]) -> Table {
    let columns = [
        "REMOTE",
        "OVER",
        "STATE",
        "REG/SUB/DLG",
        ">SILENCE",
        "PROMPT",
        ">EVERY",
        ">NEXT",
        ">SENT/ANSW/LOST",
    ];
    let mut table = table(&columns);
    whole(&mut table, &[0, 3, 8]);
    for record in records {
        let state = if record.down {
            format!("{} (down)", record.state)
        } else {
            record.state.clone()
        };
        let prompt = if record.in_flight {
            format!("{} (out)", record.prompt)
        } else {
            record.prompt.clone()
        };
        let row = [
            record.remote.to_string(),
            record.transport.to_string(),
            state,
            format!("{}/{}/{}", record.registrations, record.subscriptions, record.dialogs),
            record.silence_s.map_or("-".into(), seconds),
            prompt,
            milliseconds(record.interval_ms),
            record.next_prompt_s.map_or("-".into(), seconds),
            format!(
                "{}/{}/{}",
                record.prompts_sent, record.prompts_answered, record.prompts_lost
            ),
        ];
        add(&mut table, &columns, row);
    }
    table
}

/// `sipnat dialogs`.
pub fn dialogs(records: &[DialogRecord]) -> Table {
    let columns = ["FROM", "TO", "KIND", "STATE", ">LASTS", "CALLER", "CALLEE", "CALL-ID"];
    let mut table = table(&columns);
    whole(&mut table, &[4]);
    for record in records {
        let row = [
            record.from.clone(),
            record.to.clone(),
            record.method.to_ascii_lowercase(),
            record.state.clone(),
            seconds(record.duration_s),
            record.caller.clone().unwrap_or_else(|| "-".into()),
            record.callee.clone().unwrap_or_else(|| "-".into()),
            record.call_id.clone(),
        ];
        add(&mut table, &columns, row);
    }
    table
}

/// `sipnat calls --media`: a row for each leg; for each party where a stream goes by bindings of the NAT.
pub fn media(records: &[DialogRecord]) -> Table {
    let first = ["FROM", "TO", "CALL-ID", ">RELAY", "OF"];
    let columns: Vec<&str> = first.into_iter().chain(LEG).collect();
    let mut table = table(&columns);
    for record in records {
        let call = || [record.from.clone(), record.to.clone(), record.call_id.clone()].into_iter();
        let streams = record.media.iter().flatten();
        let mut rows: Vec<Vec<String>> = streams.flat_map(stream).collect();
        if rows.is_empty() {
            rows.push(vec!["-".into(); columns.len() - 3]);
        }
        for row in rows {
            add(&mut table, &columns, call().chain(row));
        }
    }
    table
}

fn stream(stream: &StreamRecord) -> Vec<Vec<String>> {
    let dash = || "-".to_owned();
    let number = stream.relay.map_or_else(dash, |relay| match stream.ended {
        true => format!("{relay} (ended)"),
        false => relay.to_string(),
    });
    if stream.relay.is_some() {
        let legs = stream.legs.iter();
        let party = |side| if side == 0 { "caller" } else { "callee" }.to_owned();
        return legs
            .map(|of| [number.clone(), party(of.side)].into_iter().chain(leg(of)).collect())
            .collect();
    }
    [("caller", stream.caller), ("callee", stream.callee)]
        .map(|(party, at)| {
            let mut row = vec![number.clone(), party.into(), stream.codec.clone(), endpoint(at)];
            row.resize(2 + LEG.len(), dash());
            row
        })
        .into()
}

/// `sipnat transactions`.
pub fn transactions(records: &[TransactionRecord]) -> Table {
    let columns = ["SIDE", "METHOD", "STATE", ">AGE", "REMOTE", "BRANCH"];
    let mut table = table(&columns);
    for record in records {
        let row = [
            record.side.clone(),
            record.method.clone(),
            record.state.clone(),
            milliseconds(record.age_ms),
            record.remote.clone().unwrap_or_else(|| "-".into()),
            record.branch.clone(),
        ];
        add(&mut table, &columns, row);
    }
    table
}

/// `sipnat bans`.
pub fn bans(records: &[BanRecord]) -> Table {
    let columns = ["SOURCE", ">FOR", "UNTIL", ">FAILURES", "REASON"];
    let mut table = table(&columns);
    let now = Time::now();
    for record in records {
        let row = [
            record.source.to_string(),
            seconds(record.until.since(now).as_secs()),
            record.until.to_string(),
            record.failures.to_string(),
            record.reason.clone(),
        ];
        add(&mut table, &columns, row);
    }
    table
}

/// `sipnat users` and `sipnat user list`.
pub fn users(records: &[UserRecord]) -> Table {
    let columns = ["USER", "DOMAIN", "ALGORITHMS", ">CALLS", "MAY CALL"];
    let mut table = table(&columns);
    for record in records {
        let allow = match record.allow.is_empty() {
            true => "anything".into(),
            false => record
                .allow
                .iter()
                .map(|prefix| format!("{prefix}…"))
                .collect::<Vec<_>>()
                .join(" "),
        };
        let row = [
            record.user.clone(),
            record.domain.clone(),
            record.algorithms.join(" "),
            record.calls.map_or("-".into(), |calls| calls.to_string()),
            allow,
        ];
        add(&mut table, &columns, row);
    }
    table
}

/// The SIP server's part of `sipnat status`.
pub fn status(out: &mut impl Write, status: &SipStatusRecord) -> io::Result<()> {
    let domains = match status.domains.as_slice() {
        [] => "none".into(),
        some => some.join(", "),
    };
    let facts = [
        ("domains", format!("{domains} ({} users)", status.users)),
        (
            "registered",
            format!(
                "{} contacts, {} of them behind a NAT",
                status.registrations, status.registrations_behind_nat
            ),
        ),
        ("paths", format!("{}, {} of them down", status.paths, status.paths_down)),
        (
            "dialogs",
            format!("{} calls, {} subscriptions", status.calls, status.subscriptions),
        ),
        (
            "load",
            format!(
                "{} transactions, {} connections, {} banned sources",
                status.transactions, status.connections, status.banned
            ),
        ),
    ];
    super::write_facts(out, facts)?;
    writeln!(out)?;
    let columns = ["LISTENER", "OVER", "ROLE"];
    let mut listeners = table(&columns);
    for listener in &status.listeners {
        let address = match (listener.address, &listener.interface) {
            (Some(address), Some(interface)) => format!("{address} ({interface})"),
            (Some(address), None) => address.to_string(),
            (None, interface) => format!("{} has no address", interface.as_deref().unwrap_or("it")),
        };
        let row = [address, listener.transport.to_string(), listener.role.clone()];
        add(&mut listeners, &columns, row);
    }
    super::print(out, &listeners)
}

fn whole(table: &mut Table, columns: &[usize]) {
    for &index in columns {
        if let Some(column) = table.column_mut(index) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
}

fn yes(flag: bool) -> String {
    if flag { "yes" } else { "no" }.into()
}

fn milliseconds(ms: u64) -> String {
    show_duration(Duration::from_millis(ms))
}

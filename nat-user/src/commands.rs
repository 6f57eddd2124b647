//! What the command line does with a daemon's answers: JSON straight through, or tables.

pub mod sip;
pub mod user;

use std::{
    io::{self, IsTerminal as _, Write},
    path::Path,
};

use anyhow::Result;
use comfy_table::Table;
use serde::de::DeserializeOwned;

use crate::{
    cli::{Bindings, ChangeForward},
    client::Client,
    control::{BindingFilter, Done, Request},
    output::{self, JsonArray, TABLE_LIMIT},
    records::{BindingRecord, EventRecord},
};

/// Records as a JSON array, straight through, or as a table.
pub fn list<T: DeserializeOwned>(
    out: &mut impl Write,
    socket: &Path,
    request: &Request,
    json: bool,
    table: impl Fn(&[T]) -> Table,
) -> Result<()> {
    let mut client = Client::connect(socket)?;
    if json {
        let mut array = JsonArray::begin(out)?;
        client.request(request, |record| array.push(record))?;
        array.end()?;
    } else {
        output::print(out, &table(&client.collect(request)?))?;
    }
    Ok(())
}

/// The same for lists that can be long: a table has [`TABLE_LIMIT`] rows unless `limit` says otherwise. `request` puts the limit in.
pub fn long_list<T: DeserializeOwned>(
    out: &mut impl Write,
    socket: &Path,
    limit: Option<u64>,
    request: impl Fn(Option<u64>) -> Request,
    json: bool,
    table: impl Fn(&[T]) -> Table,
) -> Result<()> {
    if json {
        return list::<T>(out, socket, &request(limit), true, table);
    }
    // One more than is shown tells whether there are more.
    let shown = limit.unwrap_or(TABLE_LIMIT);
    let mut records: Vec<T> = Client::connect(socket)?.collect(&request(Some(shown.saturating_add(1))))?;
    let more = records.len() as u64 > shown;
    records.truncate(usize::try_from(shown).unwrap_or(usize::MAX));
    output::print(out, &table(&records))?;
    if more {
        out.flush()?;
        eprintln!("sipnat: there are more than {shown}; use --limit, a filter, or --json");
    }
    Ok(())
}

/// Sends an order and prints what was done.
pub fn done(out: &mut impl Write, socket: &Path, request: &Request, json: bool) -> Result<()> {
    print_done(out, Client::connect(socket)?.one::<Done>(request)?.message, json)
}

/// Prints what was done.
pub fn print_done(out: &mut impl Write, message: String, json: bool) -> Result<()> {
    if json {
        writeln!(out, "{}", serde_json::to_string(&Done { message })?)?;
    } else {
        writeln!(out, "{message}")?;
    }
    Ok(())
}

/// `sipnat bindings`, also with a change.
pub fn bindings(out: &mut impl Write, socket: &Path, wanted: Bindings, json: bool) -> Result<()> {
    if let Some(change) = wanted.change {
        return done(out, socket, &change_request(change), json);
    }
    let request = |limit| {
        Request::Bindings(BindingFilter {
            host: wanted.host,
            proto: wanted.proto,
            port: wanted.port,
            external_ip: wanted.external.map(|external| external.ip),
            external_port: wanted.external.and_then(|external| external.port),
            limit,
        })
    };
    long_list::<BindingRecord>(out, socket, wanted.limit, request, json, output::bindings)
}

fn change_request(change: ChangeForward) -> Request {
    match change {
        ChangeForward::AddForward {
            protocol,
            external,
            inside,
        } => Request::AddForward {
            protocol,
            external,
            inside,
        },
        ChangeForward::DeleteForward { protocol, external } => Request::DeleteForward { protocol, external },
    }
}

/// `sipnat events`.
pub fn events(out: &mut impl Write, socket: &Path, follow: bool, json: bool) -> Result<()> {
    // Whoever follows wants each event at once, on a terminal or in a pipe.
    let at_once = follow || io::stdout().is_terminal();
    Client::connect(socket)?.request(&Request::Events { follow }, |line| {
        match serde_json::from_str::<EventRecord>(line) {
            Ok(record) if !json => writeln!(out, "{}", output::event(&record))?,
            // An event that only a newer daemon knows is shown as it came.
            _ => writeln!(out, "{line}")?,
        }
        if at_once { out.flush() } else { Ok(()) }
    })?;
    Ok(())
}

//! The commands that ask a running SIP server.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Write},
    path::Path,
};

use anyhow::{Context as _, Result, bail};

use super::{done, list, long_list};
use crate::{
    cli::{Bans, Capture, Dialogs, Lift, Paths, Registrations, Trace, Transactions, Unregister},
    client::{Client, ClientError},
    control::Request,
    output::{ladder::Ladder, pcap::Pcap, sip as tables},
    records::{
        BanRecord, CaptureRecord, DialogRecord, PathRecord, RegistrationRecord, TraceRecord, TransactionRecord,
        UserRecord,
    },
    sip::query::{BanFilter, DialogFilter, PathFilter, RegistrationFilter, TraceFilter, TransactionFilter},
};

/// A terminal's width if nobody knows it.
const WIDTH: u16 = 120;

/// `sipnat registrations`.
pub fn registrations(out: &mut impl Write, socket: &Path, wanted: Registrations, json: bool) -> Result<()> {
    let limit = wanted.limit;
    let filter = RegistrationFilter {
        aor: wanted.aor,
        domain: wanted.domain,
        contact: wanted.contact,
        ip: wanted.ip,
        behind_nat: wanted.behind_nat,
        limit: None,
    };
    let request = |limit| {
        Request::Registrations(RegistrationFilter {
            limit,
            ..filter.clone()
        })
    };
    long_list::<RegistrationRecord>(out, socket, limit, request, json, tables::registrations)
}

/// `sipnat unregister`.
pub fn unregister(out: &mut impl Write, socket: &Path, wanted: Unregister, json: bool) -> Result<()> {
    let Unregister { aor, contact } = wanted;
    done(out, socket, &Request::Unregister { aor, contact }, json)
}

/// `sipnat paths`.
pub fn paths(out: &mut impl Write, socket: &Path, wanted: Paths, json: bool) -> Result<()> {
    let limit = wanted.limit;
    let filter = PathFilter {
        state: wanted.state,
        remote: wanted.remote.map(|remote| remote.ip),
        port: wanted.remote.and_then(|remote| remote.port),
        down: wanted.down,
        limit: None,
    };
    let request = |limit| {
        Request::Paths(PathFilter {
            limit,
            ..filter.clone()
        })
    };
    long_list::<PathRecord>(out, socket, limit, request, json, tables::paths)
}

/// `sipnat dialogs`, also by its name `calls`.
pub fn dialogs(out: &mut impl Write, socket: &Path, wanted: Dialogs, json: bool) -> Result<()> {
    let limit = wanted.limit;
    let filter = DialogFilter {
        calls: wanted.no_subscriptions || wanted.media,
        user: wanted.user,
        call_id: wanted.call_id,
        media: wanted.media,
        limit: None,
    };
    let request = |limit| {
        Request::Dialogs(DialogFilter {
            limit,
            ..filter.clone()
        })
    };
    let table = if wanted.media { tables::media } else { tables::dialogs };
    long_list::<DialogRecord>(out, socket, limit, request, json, table)
}

/// `sipnat transactions`.
pub fn transactions(out: &mut impl Write, socket: &Path, wanted: Transactions, json: bool) -> Result<()> {
    let Transactions { method, limit } = wanted;
    let request = |limit| {
        Request::Transactions(TransactionFilter {
            method: method.clone(),
            limit,
        })
    };
    long_list::<TransactionRecord>(out, socket, limit, request, json, tables::transactions)
}

/// `sipnat users`.
pub fn users(out: &mut impl Write, socket: &Path, domain: Option<String>, json: bool) -> Result<()> {
    list::<UserRecord>(out, socket, &Request::Users { domain }, json, tables::users)
}

/// `sipnat bans` and `sipnat bans lift`.
pub fn bans(out: &mut impl Write, socket: &Path, wanted: Bans, json: bool) -> Result<()> {
    match wanted.lift {
        Some(Lift::Lift { address }) => done(out, socket, &Request::LiftBan { source: address }, json),
        None => list::<BanRecord>(out, socket, &Request::Bans(BanFilter::default()), json, tables::bans),
    }
}

/// `sipnat capture`, until the call has ended or it is interrupted.
pub fn capture(out: &mut impl Write, socket: &Path, wanted: Capture, json: bool) -> Result<()> {
    let request = Request::Capture { call: wanted.call };
    let mut client = Client::connect(socket)?;
    let mut missed = 0;
    if json {
        client.request(&request, |line| writeln!(out, "{line}").and_then(|()| out.flush()))?;
        return Ok(());
    }
    let mut each = |pcap: &mut Pcap<&mut dyn Write>, line: &str| {
        let record: CaptureRecord = serde_json::from_str(line)?;
        missed += record.missed;
        pcap.capture(&record)
    };
    match wanted.out {
        Some(path) => {
            let named = || format!("cannot write {}; name another file", path.display());
            let mut file = File::create(&path).with_context(named)?;
            let mut pcap = Pcap::begin(&mut file as &mut dyn Write).with_context(named)?;
            client.request(&request, |line| each(&mut pcap, line))?;
        }
        None if io::stdout().is_terminal() => {
            bail!(
                "a capture is not for a terminal; name a file with --out, or pipe it: sipnat capture --call ID | wireshark -k -i -"
            );
        }
        None => {
            let mut pcap = Pcap::begin(out as &mut dyn Write)?;
            client.request(&request, |line| each(&mut pcap, line))?;
        }
    }
    if missed != 0 {
        eprintln!("sipnat: {missed} packets are missing; the daemon or this command was too slow for them");
    }
    Ok(())
}

/// `sipnat trace`, until it is interrupted or has shown as many as were asked for.
pub fn trace(out: &mut impl Write, socket: &Path, wanted: Trace, json: bool) -> Result<()> {
    let request = Request::Trace(TraceFilter {
        aor: wanted.aor,
        call_id: wanted.call_id,
        source: wanted.source,
    });
    let mut client = Client::connect(socket)?;
    let mut left = wanted.count.unwrap_or(u64::MAX);
    if left == 0 {
        return Ok(());
    }
    let mut counted = |shown: io::Result<()>| {
        shown?;
        left -= 1;
        // There is no other way to end an answer that has no end.
        if left == 0 { Err(Enough::error()) } else { Ok(()) }
    };
    let result = match wanted.pcap {
        Some(path) => {
            let named = || format!("cannot write {}; name another file", path.display());
            let mut pcap = Pcap::begin(File::create(&path).with_context(named)?).with_context(named)?;
            client.request(&request, |line| counted(pcap.push(&serde_json::from_str(line)?)))
        }
        None => {
            let mut ladder = Ladder::new(terminal_width());
            client.request(&request, |line| {
                let shown = match serde_json::from_str::<TraceRecord>(line) {
                    Ok(record) if !json => out.write_all(ladder.draw(&record).as_bytes()),
                    _ => writeln!(out, "{line}"),
                };
                counted(shown.and_then(|()| out.flush()))
            })
        }
    };
    match result {
        Err(ClientError::Output(error)) if Enough::is(&error) => Ok(()),
        other => Ok(other?),
    }
}

/// As many as were asked for.
#[derive(Debug, thiserror::Error)]
#[error("enough")]
struct Enough;

impl Enough {
    fn error() -> io::Error {
        io::Error::other(Enough)
    }

    fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Enough>())
    }
}

fn terminal_width() -> usize {
    // The table library knows how to ask a terminal.
    usize::from(comfy_table::Table::new().width().unwrap_or(WIDTH))
}

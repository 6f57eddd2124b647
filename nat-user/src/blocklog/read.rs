//! Reading the block log back: who had an external endpoint at a time, and what a daemon that was away must add.

use std::{
    collections::HashMap,
    io::{self, BufRead},
    net::{Ipv4Addr, SocketAddrV4},
};

use crate::records::{Block, BlockRecord, Event, EventRecord, LookupRecord, Time};

/// What the log says about an external endpoint at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Who had it; `None`: nobody.
    pub holder: Option<LookupRecord>,
    /// The last one who had it before, if nobody had it then.
    pub before: Option<LookupRecord>,
    /// Lines that are no records (a torn last line, for example).
    pub unreadable: u64,
}

/// Finds who had `external` at `time`. Streams: memory is needed only for the records of that one port.
pub fn lookup(log: impl BufRead, external: SocketAddrV4, time: Time) -> io::Result<Answer> {
    let mut found = Vec::new();
    let unreadable = for_each_record(log, |record| {
        if let Event::BlockAssigned { block, .. } | Event::BlockReleased { block, .. } = &record.event
            && block.external_ip == *external.ip()
            && (block.first_port..=block.last_port).contains(&external.port())
        {
            found.push(record);
        }
    })?;
    let mut answer = Answer {
        holder: None,
        before: None,
        unreadable,
    };
    for holding in holdings(found) {
        if holding.from > time {
            continue;
        }
        if holding.until.is_none_or(|until| time < until) {
            answer.holder = Some(holding);
        } else {
            answer.before = Some(holding);
        }
    }
    if answer.holder.is_some() {
        answer.before = None;
    }
    Ok(answer)
}

/// From the records of one port to the intervals in which somebody had it.
fn holdings(mut records: Vec<EventRecord>) -> Vec<LookupRecord> {
    // CPUs report in any order. An assignment found later counts from when it was made.
    let effective = |record: &EventRecord| match &record.event {
        Event::BlockAssigned { since: Some(since), .. } => *since,
        _ => record.time,
    };
    // At the same millisecond the release of the former owner comes first.
    records.sort_by_key(|record| (effective(record), matches!(record.event, Event::BlockAssigned { .. })));
    let mut holdings: Vec<LookupRecord> = Vec::new();
    for record in records {
        let time = effective(&record);
        let open = holdings.last_mut().filter(|holding| holding.until.is_none());
        match record.event {
            Event::BlockAssigned { block, .. } => {
                if let Some(open) = open {
                    if open.host == block.host
                        && (open.first_port, open.last_port) == (block.first_port, block.last_port)
                    {
                        continue;
                    }
                    // Its release was not recorded, but a port has one owner.
                    open.until = Some(time);
                }
                holdings.push(interval(block, time, None));
            }
            Event::BlockReleased { block, duration_s } => match open {
                Some(open) if open.host == block.host => open.until = Some(time),
                // The assignment is not in this file (log rotation), but the release says how long it was.
                _ => {
                    let from = time.before(std::time::Duration::from_secs(duration_s));
                    let at_rotation = holdings
                        .last()
                        .and_then(|last| last.until)
                        .map_or(from, |until| until.max(from));
                    holdings.push(interval(block, at_rotation, Some(time)));
                }
            },
            _ => {}
        }
    }
    holdings
}

fn interval(block: Block, from: Time, until: Option<Time>) -> LookupRecord {
    let Block {
        host,
        external_ip,
        first_port,
        last_port,
    } = block;
    LookupRecord {
        host,
        external_ip,
        first_port,
        last_port,
        from,
        until,
    }
}

/// The records that make the log agree with the blocks that are assigned now, for a daemon that starts over existing
/// tables: releases it has not seen (their time is not known better than `now`), and assignments with their `since`.
pub fn reconcile(log: impl BufRead, assigned: &[BlockRecord], now: Time) -> io::Result<Vec<EventRecord>> {
    type Key = (Ipv4Addr, u16, u16);
    let mut open: HashMap<Key, (Block, Time)> = HashMap::new();
    for_each_record(log, |record| match record.event {
        Event::BlockAssigned { block, since } => {
            let key = (block.external_ip, block.first_port, block.last_port);
            let from = since.unwrap_or(record.time);
            // A repeated record of the same owner does not begin anew.
            if open.get(&key).is_none_or(|(owner, _)| owner.host != block.host) {
                open.insert(key, (block, from));
            }
        }
        Event::BlockReleased { block, .. } => {
            let key = (block.external_ip, block.first_port, block.last_port);
            if open.get(&key).is_some_and(|(owner, _)| owner.host == block.host) {
                open.remove(&key);
            }
        }
        _ => {}
    })?;
    let mut missing = Vec::new();
    for record in assigned {
        let key = (record.external_ip, record.first_port, record.last_port);
        let block = Block {
            host: record.host,
            external_ip: record.external_ip,
            first_port: record.first_port,
            last_port: record.last_port,
        };
        match open.remove(&key) {
            Some((logged, _)) if logged == block => {}
            other => {
                if let Some((former, from)) = other {
                    let until = record.since.max(from);
                    missing.push(released(former, from, until));
                }
                missing.push(EventRecord {
                    time: now,
                    event: Event::BlockAssigned {
                        block,
                        since: Some(record.since),
                    },
                });
            }
        }
    }
    let mut gone: Vec<_> = open.into_values().collect();
    gone.sort_by_key(|(block, from)| (*from, block.external_ip, block.first_port));
    missing.extend(gone.into_iter().map(|(block, from)| released(block, from, now)));
    Ok(missing)
}

fn released(block: Block, from: Time, until: Time) -> EventRecord {
    EventRecord {
        time: until,
        event: Event::BlockReleased {
            block,
            duration_s: until.since(from).as_secs(),
        },
    }
}

/// Hands every record to `each` and counts the lines that are none. Bytes that are not UTF-8 make one such line.
fn for_each_record(mut log: impl BufRead, mut each: impl FnMut(EventRecord)) -> io::Result<u64> {
    let mut unreadable = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        if log.read_until(b'\n', &mut line)? == 0 {
            return Ok(unreadable);
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        match serde_json::from_slice(text) {
            Ok(record) => each(record),
            Err(_) => unreadable += 1,
        }
    }
}

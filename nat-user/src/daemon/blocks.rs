//! The log of blocks and the data path's events: one task that hears of every assignment and release, in order.

use std::{
    collections::HashMap,
    fs::File,
    io::BufReader,
    net::Ipv4Addr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};
use nat_common::{
    event::{EVENT_BLOCK_ASSIGNED, EVENT_QUOTA, Event as Raw},
    maps::{AddressWord, Block as Entry, BlockState, BlockWord},
    ports::block_parts,
    tables::Tables as _,
};
use tokio::{io::unix::AsyncFd, sync::mpsc};

use super::state::State;
use crate::{
    blocklog::{self, BlockLog},
    config::LogTarget,
    records::{Block, Event, EventRecord, Time},
    service::block_record,
    sweep::BlockNews,
};

/// A host's exhaustion is told once in so long.
const EXHAUSTED_AGAIN: Duration = Duration::from_secs(10);
/// Hosts whose exhaustion is remembered.
const EXHAUSTED_HOSTS: usize = 4096;

/// What the task is told.
pub enum News {
    /// By the sweeper.
    Block(BlockNews),
    /// The log's file may have been rotated.
    Reopen,
    /// Another log from now on.
    Replace(Log),
}

/// An open block log.
pub struct Log {
    log: BlockLog,
}

impl Log {
    /// Opens the log of the configuration and brings it up to date with the blocks that are assigned now.
    pub fn open(state: &State) -> Result<Self> {
        let target = state.current().config.log.blocks.clone();
        let mut log = Self::open_target(&target)?;
        if let LogTarget::File(path) = &target {
            let (shift, closed) = {
                let current = state.current();
                (current.numbers.block_shift, current.closed.clone())
            };
            let numbers = 0..state.kernel.tables.blocks.len() as u32;
            let assigned: Vec<(u32, _)> = numbers
                .filter_map(|number| Some((number, block_record(state, number, shift, &closed)?)))
                .collect();
            let records: Vec<_> = assigned.iter().map(|(_, record)| record.clone()).collect();
            let read = || {
                format!(
                    "cannot read the block log {}; check the file or name another",
                    path.display()
                )
            };
            let file = File::open(path).with_context(read)?;
            let missing = blocklog::reconcile(BufReader::new(file), &records, Time::now()).with_context(read)?;
            for record in missing {
                log.write(&record);
            }
            for (number, _) in assigned {
                if let Some(block) = state.kernel.tables.block(number) {
                    block.logged.set(1);
                }
            }
            log.flush();
        }
        Ok(log)
    }

    /// Opens a log as it is.
    pub fn open_target(target: &LogTarget) -> Result<Self> {
        Ok(Self {
            log: BlockLog::open(target)?,
        })
    }

    fn write(&mut self, record: &EventRecord) {
        if let Err(error) = self.log.record(record) {
            self.log.complain(&error);
        }
    }

    fn flush(&mut self) {
        if let Err(error) = self.log.flush() {
            self.log.complain(&error);
        }
    }
}

/// Hears the data path's events and `news` until nobody can send any more.
pub async fn keep(log: Log, state: Arc<State>, mut news: mpsc::UnboundedReceiver<News>) {
    let mut keeper = Keeper {
        log,
        state,
        exhausted: HashMap::new(),
    };
    let ring = keeper.state.kernel.ring("EVENTS").and_then(|ring| {
        // SAFETY: the ring owns its map's descriptor, which is the same until it is dropped.
        Ok(unsafe { AsyncFd::register(ring) }?)
    });
    let mut ring = match ring {
        Ok(ring) => ring,
        Err(error) => {
            tracing::error!("cannot hear the data path's events: {error:#}; blocks are logged by the sweeper");
            while let Some(one) = news.recv().await {
                keeper.news(one);
                keeper.log.flush();
            }
            return;
        }
    };
    loop {
        tokio::select! {
            // A release is told before the block can be assigned again, so news are heard first.
            biased;
            one = news.recv() => match one {
                Some(one) => keeper.news(one),
                None => break,
            },
            ready = ring.readable_mut() => match ready {
                Ok(mut ready) => {
                    keeper.drain(ready.get_inner_mut(), &mut news);
                    ready.clear_ready();
                }
                Err(error) => {
                    tracing::error!(%error, "the ring of events broke");
                    break;
                }
            },
        }
        if news.is_empty() {
            keeper.log.flush();
        }
    }
    keeper.log.flush();
}

struct Keeper {
    log: Log,
    state: Arc<State>,
    exhausted: HashMap<(u32, u32), Instant>,
}

impl Keeper {
    fn drain(&mut self, ring: &mut RingBuf<MapData>, news: &mut mpsc::UnboundedReceiver<News>) {
        while let Some(item) = ring.next() {
            let Some(event) = decode(&item) else { continue };
            drop(item);
            while let Ok(one) = news.try_recv() {
                self.news(one);
            }
            self.event(event);
        }
    }

    fn event(&mut self, event: Raw) {
        if event.kind == EVENT_BLOCK_ASSIGNED {
            let time = self.state.kernel.clock.time(event.when).into();
            return self.assigned(event.block, Some((event.host, time)));
        }
        let now = Instant::now();
        let known = self.exhausted.get(&(event.host, event.kind));
        if known.is_some_and(|last| now.duration_since(*last) < EXHAUSTED_AGAIN) {
            return;
        }
        if self.exhausted.len() >= EXHAUSTED_HOSTS {
            self.exhausted
                .retain(|_, last| now.duration_since(*last) < EXHAUSTED_AGAIN);
        }
        if self.exhausted.len() < EXHAUSTED_HOSTS {
            self.exhausted.insert((event.host, event.kind), now);
        }
        let totals = self.state.totals();
        let (cause, count) = match event.kind {
            EVENT_QUOTA => ("quota", &totals.quota),
            _ => ("pool", &totals.pool),
        };
        count.fetch_add(1, Ordering::Relaxed);
        self.state.events.publish(Event::Exhausted {
            host: event.host.into(),
            proto: None,
            cause: cause.into(),
        });
    }

    fn news(&mut self, news: News) {
        match news {
            News::Block(BlockNews::Unlogged { block }) => self.assigned(block, None),
            News::Block(BlockNews::Released {
                block,
                address,
                host,
                since,
                logged,
            }) => {
                let parts = self.parts(block, host, address);
                let clock = self.state.kernel.clock;
                if !logged {
                    let since = Some(clock.time(since).into());
                    self.publish(EventRecord::now(Event::BlockAssigned { block: parts, since }));
                }
                self.publish(EventRecord::now(Event::BlockReleased {
                    block: parts,
                    duration_s: clock.age(since).as_secs(),
                }));
            }
            News::Reopen => {
                if let Err(error) = self.log.log.reopen() {
                    tracing::error!("{error:#}; the old file stays in use");
                }
            }
            News::Replace(log) => self.log = log,
        }
    }

    /// Logs an assignment, once. `heard` is the owner and the time that an event names; without it the sweeper has found it.
    fn assigned(&mut self, number: u32, heard: Option<(u32, Time)>) {
        let state = self.state.clone();
        let Some(entry) = state.kernel.tables.block(number) else {
            return;
        };
        let word = BlockWord(entry.word.get());
        let owned = matches!(word.state(), BlockState::Owned | BlockState::Draining);
        if !owned || entry.logged.get() != 0 || heard.is_some_and(|(host, _)| host != word.owner()) {
            return;
        }
        let block = self.parts(number, word.owner(), self.address_of(number));
        let event = |since| Event::BlockAssigned { block, since };
        self.publish(match heard {
            Some((_, time)) => EventRecord {
                time,
                event: event(None),
            },
            None => EventRecord::now(event(Some(state.kernel.clock.time(since(entry)).into()))),
        });
        entry.logged.set(1);
    }

    fn publish(&mut self, record: EventRecord) {
        self.log.write(&record);
        self.state.events.publish_record(record);
    }

    fn address_of(&self, number: u32) -> u32 {
        let (place, _) = block_parts(number, self.state.current().numbers.block_shift);
        let address = self.state.kernel.tables.address(place);
        address.map_or(0, |address| AddressWord(address.word.get()).addr())
    }

    fn parts(&self, number: u32, host: u32, address: u32) -> Block {
        let shift = self.state.current().numbers.block_shift;
        let (_, first_port) = block_parts(number, shift);
        Block {
            host: Ipv4Addr::from(host),
            external_ip: Ipv4Addr::from(address),
            first_port,
            last_port: first_port + ((1u32 << shift) - 1) as u16,
        }
    }
}

fn since(entry: &Entry) -> u32 {
    entry.since.get()
}

fn decode(bytes: &[u8]) -> Option<Raw> {
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    Some(Raw {
        kind: word(0)?,
        host: word(4)?,
        block: word(8)?,
        when: word(12)?,
    })
}

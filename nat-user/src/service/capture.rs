//! The signalling and media of one call as they pass, for `sipnat capture`.
//!
//! Signalling is what the server's trace has of the call's Call-ID. Of media the data path gives copies while a leg's flag is set; each becomes two
//! packets, as it came and as it left, with the addresses of both sides.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    ops::ControlFlow,
    sync::Arc,
    time::Duration,
};

use anyhow::anyhow;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use tokio::{
    sync::{broadcast::error::RecvError, mpsc},
    time::{MissedTickBehavior, interval},
};

use crate::{
    control::ServiceError,
    daemon::state::{MediaCopy, State},
    records::{CaptureRecord, DialogRecord, Time},
    relays::{self, LegView, record::shown},
    sip::{
        query::{DialogFilter, Query, TraceFilter},
        server::Server,
        trace::Sieve,
        transport::{Direction, Traced},
    },
};

/// Records that may wait for their reader.
const WAITING: usize = 1024;
/// How often it is looked which relays the call has.
const LOOK: Duration = Duration::from_secs(1);
/// So many looks in a row that find no call end the capture: what is under way with the last BYE still comes.
const GONE: u32 = 3;

/// Begins to capture a call, named by its Call-ID or by the number of one of its relays. Blocks; only within the runtime.
pub fn begin(
    server: Arc<Server>,
    state: Option<Arc<State>>,
    call: &str,
) -> Result<mpsc::Receiver<CaptureRecord>, ServiceError> {
    let call_id = find(&server, call)?.ok_or_else(|| {
        ServiceError::NotFound(format!(
            "there is no call {call}; `sipnat calls --media` lists Call-IDs and numbers of relays"
        ))
    })?;
    let runtime = tokio::runtime::Handle::try_current().map_err(|error| anyhow!(error))?;
    let (to, records) = mpsc::channel(WAITING);
    let capture = Capture {
        server,
        call_id,
        media: state.map(Media::new),
        to,
        missed: 0,
    };
    runtime.spawn(capture.run());
    Ok(records)
}

/// The Call-ID of a call that is named by it or by a relay.
fn find(server: &Server, call: &str) -> Result<Option<String>, ServiceError> {
    let number: Option<u64> = call.parse().ok();
    let filter = DialogFilter {
        calls: true,
        media: number.is_some(),
        ..DialogFilter::default()
    };
    let mut found = None;
    let has = |record: &DialogRecord| {
        let mut streams = record.media.iter().flatten();
        record.call_id == call || number.is_some() && streams.any(|stream| stream.relay == number)
    };
    server.list(&filter, Query::Dialogs, &mut |record: DialogRecord| {
        if !has(&record) {
            return ControlFlow::Continue(());
        }
        found = Some(record.call_id);
        ControlFlow::Break(())
    })?;
    Ok(found)
}

/// The relays of a call; `None`: there is no such call.
fn relays_of(server: &Server, call_id: &str) -> Option<HashSet<u64>> {
    let filter = DialogFilter {
        calls: true,
        call_id: Some(call_id.to_owned()),
        media: true,
        ..DialogFilter::default()
    };
    let mut found = None;
    let add = &mut |record: DialogRecord| {
        let relays: &mut HashSet<u64> = found.get_or_insert_default();
        relays.extend(record.media.into_iter().flatten().filter_map(|stream| stream.relay));
        ControlFlow::Continue(())
    };
    // An error means that the server is ending.
    server.list(&filter, Query::Dialogs, add).ok()?;
    found
}

struct Capture {
    server: Arc<Server>,
    call_id: String,
    /// `None`: no NAT runs.
    media: Option<Media>,
    to: mpsc::Sender<CaptureRecord>,
    /// Records that the reader was too slow for, since the last one.
    missed: u64,
}

impl Capture {
    async fn run(mut self) {
        // An error means that the server has ended, which the reader learns from the end of its channel.
        let Ok(mut messages) = self.server.handle().trace(WAITING).await else {
            return;
        };
        let mut sieve = Sieve::new(TraceFilter {
            call_id: Some(self.call_id.clone()),
            ..TraceFilter::default()
        });
        let mut copies = self.media.as_ref().map(|media| media.state.copies.subscribe());
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut gone = 0;
        loop {
            let copied = async {
                match &mut copies {
                    Some(copies) => copies.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.to.closed() => return,
                traced = messages.recv() => match traced {
                    Some(traced) => {
                        if sieve.pass(&traced.bytes, traced.flow.remote.ip()).is_some() {
                            self.send(message(&traced));
                        }
                    }
                    None => return,
                },
                copy = copied => match copy {
                    Ok(copy) => self.copied(&copy),
                    Err(RecvError::Lagged(count)) => self.missed += count,
                    Err(RecvError::Closed) => return,
                },
                _ = look.tick() => {
                    let (server, call_id) = (self.server.clone(), self.call_id.clone());
                    let relays = tokio::task::spawn_blocking(move || relays_of(&server, &call_id)).await;
                    gone = match relays.ok().flatten() {
                        Some(relays) => {
                            self.missed += self.media.as_mut().map_or(0, |media| media.follow(relays));
                            0
                        }
                        None => gone + 1,
                    };
                    if gone >= GONE {
                        return;
                    }
                }
            }
        }
    }

    fn copied(&mut self, copy: &MediaCopy) {
        if let Some(media) = &mut self.media
            && media.takes(copy)
        {
            let way = |from, to| packet(copy, from, to);
            let (came, left) = (way(copy.peer, copy.alias), copy.onward.map(|(from, to)| way(from, to)));
            self.send(came);
            left.into_iter().for_each(|left| self.send(left));
        }
    }

    fn send(&mut self, record: CaptureRecord) {
        let record = CaptureRecord {
            missed: self.missed,
            ..record
        };
        self.missed = match self.to.try_send(record) {
            Ok(()) => 0,
            Err(_) => self.missed + 1,
        };
    }
}

/// The media part: legs whose packets are copied.
struct Media {
    state: Arc<State>,
    relays: HashMap<u64, Relay>,
}

/// What is known of a relay's copies.
#[derive(Default)]
struct Relay {
    /// Packets that its legs had relayed when the copies began.
    before: u64,
    /// The same a look ago: all copies of these have come, or never will.
    then: u64,
    copies: u64,
    /// Packets that were reported as missed.
    reported: u64,
}

impl Media {
    fn new(state: Arc<State>) -> Media {
        Media {
            state,
            relays: HashMap::new(),
        }
    }

    /// Has the packets of these relays copied. Gives how many copies have gone missing, of those that were not told yet.
    fn follow(&mut self, relays: HashSet<u64>) -> u64 {
        let views: Vec<LegView> = relays::views(&self.state.kernel.tables)
            .filter(|view| relays.contains(&view.call))
            .collect();
        let mut missed = 0;
        for relay in relays {
            let legs = || views.iter().filter(|view| view.call == relay);
            for leg in legs() {
                // A leg that has gone needs no flag.
                let _ = self.state.relays(|_, at| relays::copy(at, leg.id, true));
            }
            let relayed = legs().map(LegView::relayed).sum();
            let known = self.relays.entry(relay).or_insert(Relay {
                before: relayed,
                then: relayed,
                ..Relay::default()
            });
            let lost = (known.then - known.before).saturating_sub(known.copies + known.reported);
            known.reported += lost;
            known.then = relayed.max(known.then);
            missed += lost;
        }
        missed
    }

    /// Whether a copy is of the call.
    fn takes(&mut self, copy: &MediaCopy) -> bool {
        let relay = self.relays.get_mut(&copy.relay);
        relay.map(|relay| relay.copies += 1).is_some()
    }
}

impl Drop for Media {
    fn drop(&mut self) {
        for view in relays::views(&self.state.kernel.tables) {
            if self.relays.contains_key(&view.call) {
                // As above.
                let _ = self.state.relays(|_, at| relays::copy(at, view.id, false));
            }
        }
    }
}

fn message(traced: &Traced) -> CaptureRecord {
    let (from, to) = match traced.direction {
        Direction::In => (traced.flow.remote, traced.local),
        Direction::Out => (traced.local, traced.flow.remote),
    };
    CaptureRecord {
        time: Time::from_millis(traced.time.0),
        kind: "sip".into(),
        from,
        to,
        length: traced.bytes.len() as u64,
        payload: BASE64_STANDARD.encode(&traced.bytes),
        missed: 0,
    }
}

fn packet(copy: &MediaCopy, from: nat_common::flow::Endpoint, to: nat_common::flow::Endpoint) -> CaptureRecord {
    CaptureRecord {
        time: copy.time,
        kind: "media".into(),
        from: SocketAddr::V4(shown(from)),
        to: SocketAddr::V4(shown(to)),
        length: copy.length,
        payload: BASE64_STANDARD.encode(&copy.payload),
        missed: 0,
    }
}

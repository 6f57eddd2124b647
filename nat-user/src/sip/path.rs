//! The path table: mapped ways through somebody's NAT to devices, and the prompts that keep them open.
//!
//! A path is a [`Flow`] that something needs: a registration, a subscription or a dialog *holds* it. Its [`State`] follows from who does:
//!
//! ```text
//!                    registration or subscription
//!           ┌──────┐ ─────────────────────────▶ ┌──────────────┐   prompted periodically
//!           │ idle │ ◀───────────────────────── │ registration │
//!           └──────┘          expiry            └──────────────┘
//!      dialog │ ▲ tail is over            dialog  │ ▲ dialog ends
//!             ▼ │                                 ▼ │
//!         ┌────────┐ ─────────────────────────▶ ┌─────────────────────────┐
//!         │ dialog │       registration         │ dialog and registration │
//!         └────────┘ ◀───────────────────────── └─────────────────────────┘
//!  prompted after silence         expiry              prompted periodically
//! ```
//!
//! What others do:
//!
//! - The registrar calls [`Paths::hold`] once for each contact that it adds and [`Paths::release`] once when that contact is removed, expires or
//!   moves to another flow; the same for subscriptions and dialogs. A refresh on the same flow needs neither
//!   ([`Paths::describe`] if what the contact says of itself has changed). [`PathId`] is small, copied into the owner's record; an id
//!   whose path is gone is harmless.
//! - The core calls [`Paths::touch`] for each message that comes in, [`Paths::kept_alive`] for each [`Input::KeptAlive`], [`Paths::closed`] for
//!   each [`Input::Closed`], and [`Paths::answered`] with the branch of each response that no transaction takes.
//! - [`Paths::next`] says when [`Paths::tick`] wants to be called; what it says to do is turned into [`Command`]s by
//!   [`prompt::Prompter::command`]. [`PathAction::Down`] and [`PathAction::Up`] are for the registrar.
//!
//! [`Input::KeptAlive`]: super::command::Input::KeptAlive
//! [`Input::Closed`]: super::command::Input::Closed
//! [`Command`]: super::command::Command

mod adapt;
pub mod prompt;
mod record;
mod spread;

#[cfg(test)]
mod bench;
#[cfg(test)]
mod figure_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod tests;

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use hashbrown::HashTable;
use slab::Slab;

use self::{
    adapt::Hints,
    record::{Mode, Moment, Record},
    spread::Spread,
};
use super::{flow::Flow, time::Time, timers::Timers};
use crate::config;

/// Names a path for as long as its record lives. Never means another path later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId {
    index: u32,
    /// Tells users of the same index apart.
    serial: u32,
}

/// Why a path is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    Registration,
    /// Counts like a registration.
    Subscription,
    Dialog,
}

/// What is known of the device at the other end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathInfo<'a> {
    /// The address inside its message is not the one that it came from.
    pub behind_nat: bool,
    /// It has declared that it keeps the flow alive itself (RFC 5626 outbound, RFC 6223 `keep`), so it is not prompted.
    pub keeps_alive: bool,
    /// Its contact as it sent it, without angle brackets: the request URI of prompts. `None`: what is known stays.
    pub uri: Option<&'a [u8]>,
}

/// What holds a path open. A subscription counts as a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Nobody, or there is no such path.
    Idle,
    /// Registrations or subscriptions.
    Registration,
    /// Both.
    DialogAndRegistration,
    /// Dialogs only, or the tail of the last one.
    Dialog,
}

impl State {
    /// In the order of [`Paths::states`].
    pub const ALL: [State; 4] = [
        State::Idle,
        State::Registration,
        State::DialogAndRegistration,
        State::Dialog,
    ];

    /// As it is called in lists and metrics.
    pub fn name(self) -> &'static str {
        match self {
            State::Idle => "idle",
            State::Registration => "registration",
            State::DialogAndRegistration => "dialog-and-registration",
            State::Dialog => "dialog",
        }
    }
}

/// What a prompt is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A SIP OPTIONS; whatever the device answers is an answer.
    Options,
    /// CRLF over UDP, which nobody answers, or double CRLF on a stream (RFC 5626 section 4.4.1).
    Crlf,
}

/// Something to be done for a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathAction {
    /// Send a prompt on this flow. One that was not answered has ended.
    Prompt {
        path: PathId,
        flow: Flow,
        kind: Kind,
        /// Counts the prompts of this path; part of the branch.
        sequence: u32,
    },
    /// Send the same OPTIONS again.
    Retransmit { path: PathId, flow: Flow, sequence: u32 },
    /// So many prompts in a row were not answered, or the connection has ended. Reported once; said before the next prompt.
    Down(PathId),
    /// Something came in on a path that was down.
    Up(PathId),
}

/// How prompting is done.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub paths: config::sip::Paths,
    /// RFC 3261 section 17.1.2.2: the first retransmission of an OPTIONS over UDP comes after T1, and they end after 64 × T1.
    pub t1: Duration,
    /// The longest time between two retransmissions.
    pub t2: Duration,
}

impl Settings {
    /// From the configuration.
    pub fn of(config: &config::sip::Sip) -> Settings {
        Settings {
            paths: config.paths.clone(),
            t1: config.proxy.t1,
            t2: config.proxy.t2,
        }
    }
}

/// What has happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    pub prompts_sent: u64,
    pub prompts_retransmitted: u64,
    pub prompts_answered: u64,
    /// Prompts that had ended without an answer, of kinds that are answered.
    pub prompts_lost: u64,
    pub paths_down: u64,
    pub paths_up: u64,
}

/// One path as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathView<'a> {
    pub id: PathId,
    pub flow: Flow,
    pub state: State,
    pub registrations: u32,
    pub subscriptions: u32,
    pub dialogs: u32,
    /// The tail of the last dialog lasts until then.
    pub tail_until: Option<Time>,
    pub behind_nat: bool,
    pub keeps_alive: bool,
    /// The contact as sent.
    pub uri: Option<&'a [u8]>,
    /// When something last came in. `None`: not since the start.
    pub last_in: Option<Time>,
    /// When it was last prompted, retransmissions included.
    pub last_out: Option<Time>,
    pub prompts_sent: u32,
    pub prompts_answered: u32,
    pub prompts_lost: u32,
    /// A prompt is out and not answered.
    pub pending: bool,
    /// What is sent; `None`: this path is not prompted.
    pub kind: Option<Kind>,
    pub interval: Duration,
    pub next_prompt: Option<Time>,
    pub down_since: Option<Time>,
}

/// The table. Its clock is the caller's.
#[derive(Debug)]
pub struct Paths {
    settings: Settings,
    records: Slab<Record>,
    /// Indexes of `records` by flow.
    flows: HashTable<u32>,
    hasher: RandomState,
    serial: u32,
    timers: Timers<PathId>,
    /// Said by the next [`Paths::tick`].
    news: Vec<PathAction>,
    spread: Spread,
    hints: Hints,
    key: prompt::Key,
    counts: Counts,
    states: [u64; 4],
    /// Paths that are down.
    down: u64,
}

impl Paths {
    /// `secret`: random bytes, other ones at each start. Answers to prompts from before are then nobody's.
    pub fn new(settings: Settings, secret: [u8; 32]) -> Paths {
        Paths {
            spread: Spread::new(secret),
            settings,
            records: Slab::new(),
            flows: HashTable::new(),
            hasher: RandomState::new(),
            serial: 0,
            timers: Timers::new(),
            news: Vec::new(),
            hints: Hints::default(),
            key: prompt::Key::new(secret),
            counts: Counts::default(),
            states: [0; 4],
            down: 0,
        }
    }

    /// One more holder for the path over `flow`, which is made if it is not there. What `info` says of a path that registrations or
    /// subscriptions hold is not changed by a dialog, which knows less.
    pub fn hold(&mut self, flow: Flow, holder: Holder, info: PathInfo<'_>, now: Time) -> PathId {
        let id = self.find(&flow).unwrap_or_else(|| self.insert(flow, now));
        self.change(id, now, |record| {
            if holder != Holder::Dialog || !record.registered() {
                record.describe(info);
            }
            *record.count(holder) += 1;
            if holder == Holder::Dialog {
                record.tail_until = Moment::NEVER;
            }
        });
        id
    }

    /// One holder less. The last dialog's leaves a tail, in which the path is still prompted after silence. False: there was no such holder.
    pub fn release(&mut self, id: PathId, holder: Holder, now: Time) -> bool {
        let tail = self.settings.paths.tail;
        let mut held = false;
        self.change(id, now, |record| {
            let count = record.count(holder);
            held = *count > 0;
            *count = count.saturating_sub(1);
            if held && holder == Holder::Dialog && *count == 0 && !record.closed {
                record.tail_until = (now + tail).into();
            }
        });
        held
    }

    /// The device's latest registration says something else about itself, on the same flow.
    pub fn describe(&mut self, id: PathId, info: PathInfo<'_>, now: Time) {
        self.change(id, now, |record| record.describe(info));
    }

    /// A message came in on this flow: its silence ends, a prompt that is out is answered, and a path that was down is up again.
    /// A flow that is no path is none afterwards.
    pub fn touch(&mut self, flow: &Flow, now: Time) {
        if let Some(id) = self.find(flow) {
            self.alive(id, now);
        }
    }

    /// A keep-alive came in on this flow. Like [`Paths::touch`]; where pings are answered regularly, one that is not counts as lost.
    pub fn kept_alive(&mut self, flow: &Flow, now: Time) {
        if let Some(id) = self.find(flow) {
            self.records[id.index as usize].ponged(now);
            self.alive(id, now);
        }
    }

    /// A response came with this branch in its topmost Via, on whatever flow. False: it does not answer a prompt of ours, forged ones
    /// included; it is somebody else's.
    pub fn answered(&mut self, branch: &[u8], now: Time) -> bool {
        let Some((id, sequence)) = self.key.read(branch) else {
            return false;
        };
        if self.get(id).is_some_and(|path| path.prompts_sent == sequence) {
            self.alive(id, now);
        }
        true
    }

    /// A connection has ended: nothing can be sent on it any more, so that the path is down for as long as somebody holds it.
    pub fn closed(&mut self, flow: &Flow, now: Time) {
        if let Some(id) = self.find(flow) {
            self.change(id, now, |record| {
                record.closed = true;
                record.pending = false;
                record.tail_until = Moment::NEVER;
            });
            self.down(id, now);
        }
    }

    pub fn find(&self, flow: &Flow) -> Option<PathId> {
        let index = *self.flows.find(self.hasher.hash_one(flow), |index| {
            self.records[*index as usize].flow == *flow
        })?;
        Some(PathId {
            index,
            serial: self.records[index as usize].serial,
        })
    }

    /// [`State::Idle`] if there is no such path any more.
    pub fn state(&self, id: PathId) -> State {
        self.record(id).map_or(State::Idle, Record::state)
    }

    /// Whether it is known that nothing gets through. False for a path that is not there.
    pub fn is_down(&self, id: PathId) -> bool {
        self.record(id).is_some_and(|record| record.down_since != Moment::NEVER)
    }

    pub fn get(&self, id: PathId) -> Option<PathView<'_>> {
        let mode = self.record(id)?.mode(&self.settings.paths);
        self.record(id)
            .map(|record| record.view(id, mode, &self.settings.paths))
    }

    /// All paths, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = PathView<'_>> {
        self.records.iter().map(|(index, record)| {
            let id = PathId {
                index: index as u32,
                serial: record.serial,
            };
            record.view(id, record.mode(&self.settings.paths), &self.settings.paths)
        })
    }

    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Paths by state, in the order of [`State::ALL`].
    pub fn states(&self) -> [u64; 4] {
        self.states
    }

    /// Paths that are down.
    pub fn down_count(&self) -> u64 {
        self.down
    }

    /// Shows the paths at up to `look_at` places from `from` on (0: the beginning) and says where to go on; `None`: that was the end. A path
    /// that stays meanwhile is shown exactly once.
    pub fn page(&self, from: u64, look_at: usize, mut show: impl FnMut(PathView<'_>)) -> Option<u64> {
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        let end = from.saturating_add(look_at).min(self.records.capacity());
        for index in from..end {
            if let Some(record) = self.records.get(index) {
                let id = PathId {
                    index: index as u32,
                    serial: record.serial,
                };
                show(record.view(id, record.mode(&self.settings.paths), &self.settings.paths));
            }
        }
        (end > from && end < self.records.capacity()).then_some(end as u64)
    }

    /// When [`Paths::tick`] must be called; it may have nothing to do then. `None`: no time is waited for.
    pub fn next(&self) -> Option<Time> {
        if self.news.is_empty() {
            self.timers.next()
        } else {
            Some(Time(0))
        }
    }

    /// Appends what is to be done up to `now`.
    pub fn tick(&mut self, now: Time, actions: &mut Vec<PathAction>) {
        actions.append(&mut self.news);
        while let Some(id) = self.timers.pop(now) {
            let Some(record) = get_mut(&mut self.records, id) else {
                continue;
            };
            if record.alarm.fires(now, &mut self.timers, id) {
                self.due(id, now, actions);
                actions.append(&mut self.news);
            }
        }
    }

    /// Other settings, after a reload. Paths that are prompted now and were not before begin spread over an interval.
    pub fn configure(&mut self, settings: Settings, now: Time) {
        let old = std::mem::replace(&mut self.settings, settings);
        let intervals =
            (old.paths.interval, old.paths.adapt) != (self.settings.paths.interval, self.settings.paths.adapt);
        let ids: Vec<PathId> = self.iter().map(|path| path.id).collect();
        for id in ids {
            let record = &mut self.records[id.index as usize];
            let before = record.mode(&old.paths);
            if intervals {
                record.interval = self.hints.interval(&record.flow, &self.settings.paths, now);
                record.hasten(
                    self.spread.first(record.interval(), self.settings.paths.jitter_percent),
                    now,
                );
            }
            self.settle(id, before, now);
        }
    }
}

/// What happens inside.
impl Paths {
    fn record(&self, id: PathId) -> Option<&Record> {
        self.records
            .get(id.index as usize)
            .filter(|record| record.serial == id.serial)
    }

    fn insert(&mut self, flow: Flow, now: Time) -> PathId {
        self.serial = self.serial.wrapping_add(1);
        let interval = self.hints.interval(&flow, &self.settings.paths, now);
        let index = self.records.insert(Record::new(flow, self.serial, interval)) as u32;
        let (records, hasher) = (&self.records, &self.hasher);
        self.flows.insert_unique(hasher.hash_one(flow), index, |index| {
            hasher.hash_one(records[*index as usize].flow)
        });
        self.states[State::Idle as usize] += 1;
        let id = PathId {
            index,
            serial: self.serial,
        };
        if self.records[index as usize].closed {
            self.down(id, now); // a connection from before a restart
        }
        id
    }

    /// Changes a record and draws the consequences for its prompts, its timer and its life.
    fn change(&mut self, id: PathId, now: Time, change: impl FnOnce(&mut Record)) {
        let Some(record) = get_mut(&mut self.records, id) else {
            return;
        };
        let (state, mode) = (record.state(), record.mode(&self.settings.paths));
        change(record);
        self.states[state as usize] -= 1;
        self.states[record.state() as usize] += 1;
        self.settle(id, mode, now);
    }

    /// After a change: the next prompt by the rules of the mode that holds now, or the end of the record.
    fn settle(&mut self, id: PathId, before: Mode, now: Time) {
        let record = &mut self.records[id.index as usize];
        if record.unused() {
            return self.remove(id);
        }
        let mode = record.mode(&self.settings.paths);
        if mode != before {
            let first = self.spread.first(record.interval(), self.settings.paths.jitter_percent);
            record.enter(mode, first, now);
        }
        let at = record.next_event(mode, &self.settings);
        record.alarm.set(at, &mut self.timers, id);
    }

    fn remove(&mut self, id: PathId) {
        let record = self.records.remove(id.index as usize);
        self.states[record.state() as usize] -= 1;
        self.down -= u64::from(record.down_since != Moment::NEVER);
        let hash = self.hasher.hash_one(record.flow);
        if let Ok(entry) = self.flows.find_entry(hash, |index| *index == id.index) {
            entry.remove();
        }
    }

    /// A sign of life.
    fn alive(&mut self, id: PathId, now: Time) {
        let record = &mut self.records[id.index as usize];
        record.last_in = now.into();
        record.lost_in_a_row = 0;
        if record.closed {
            return;
        }
        if std::mem::take(&mut record.pending) {
            record.answered += 1;
            self.counts.prompts_answered += 1;
            self.hints.answered(record, &self.settings.paths, now);
        }
        if std::mem::replace(&mut record.down_since, Moment::NEVER).get().is_some() {
            self.counts.paths_up += 1;
            self.down -= 1;
            self.news.push(PathAction::Up(id));
        }
    }

    fn down(&mut self, id: PathId, now: Time) {
        if let Some(record) = get_mut(&mut self.records, id)
            && record.down_since == Moment::NEVER
        {
            record.down_since = now.into();
            self.counts.paths_down += 1;
            self.down += 1;
            self.news.push(PathAction::Down(id));
            if !record.closed {
                self.hints.lost(record, &self.settings.paths, now);
            }
        }
    }

    /// A record's moment has come: the end of its tail, a prompt or a retransmission.
    fn due(&mut self, id: PathId, now: Time, actions: &mut Vec<PathAction>) {
        if self.records[id.index as usize]
            .tail_until
            .get()
            .is_some_and(|until| until <= now)
        {
            self.change(id, now, |record| record.tail_until = Moment::NEVER);
        }
        let Some(record) = get_mut(&mut self.records, id) else {
            return; // it was the last that held it
        };
        let mode = record.mode(&self.settings.paths);
        if record.next_prompt(mode).is_some_and(|at| at <= now) {
            self.prompt(id, mode, now, actions);
        } else if record.pending && record.gives_up(&self.settings) <= now {
            self.lost(id, now);
        } else if record.retransmits(&self.settings) <= now {
            record.retransmissions += 1;
            record.last_out = now.into();
            self.counts.prompts_retransmitted += 1;
            actions.push(PathAction::Retransmit {
                path: id,
                flow: record.flow,
                sequence: record.prompts,
            });
        }
        self.settle(id, mode, now);
    }

    /// The next prompt is due, which ends the one before.
    fn prompt(&mut self, id: PathId, mode: Mode, now: Time, actions: &mut Vec<PathAction>) {
        if self.records[id.index as usize].pending {
            self.lost(id, now);
            actions.append(&mut self.news);
        }
        let record = &mut self.records[id.index as usize];
        let Some(kind) = record.kind(&self.settings.paths) else {
            return;
        };
        let period = match mode {
            Mode::Periodic => self
                .spread
                .period(record.interval(), self.settings.paths.jitter_percent),
            Mode::AfterSilence | Mode::Off => record.interval(),
        };
        record.prompted(kind, now, now + period);
        self.counts.prompts_sent += 1;
        actions.push(PathAction::Prompt {
            path: id,
            flow: record.flow,
            kind,
            sequence: record.prompts,
        });
    }

    fn lost(&mut self, id: PathId, now: Time) {
        let record = &mut self.records[id.index as usize];
        if record.loses() {
            self.counts.prompts_lost += 1;
            let most = self.settings.paths.max_lost;
            if most > 0 && u32::from(record.lost_in_a_row) >= most {
                self.down(id, now);
            }
        }
    }
}

fn get_mut(records: &mut Slab<Record>, id: PathId) -> Option<&mut Record> {
    records
        .get_mut(id.index as usize)
        .filter(|record| record.serial == id.serial)
}

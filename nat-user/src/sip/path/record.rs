//! One path's record: who holds it, what came and went, and when something is to be done for it.

use std::{num::NonZeroU64, time::Duration};

use super::{Holder, Kind, PathId, PathInfo, PathView, Settings, State};
use crate::{
    config::sip::{Paths, Prompt},
    sip::{
        flow::{ConnectionId, Flow},
        time::Time,
        timers::Alarm,
    },
};

/// A device answers a ping of ours within this time (RFC 5626 section 4.4.1).
const PONG: Duration = Duration::from_secs(10);
/// So many pings in a row must have been answered before one that is not counts as lost: many devices never answer any.
const PONGS: u8 = 3;

/// Kept small: there may be a million.
#[derive(Debug)]
pub(super) struct Record {
    pub flow: Flow,
    pub uri: Option<Box<[u8]>>,
    pub alarm: Alarm,
    /// A dialog has ended and the path stays until then.
    pub tail_until: Moment,
    pub last_in: Moment,
    pub last_out: Moment,
    pub down_since: Moment,
    /// When the last prompt was sent for the first time.
    prompted: Moment,
    /// The next prompt is not due before. [`Time::MAX`]: none is.
    due: Time,
    pub serial: u32,
    registrations: u32,
    subscriptions: u32,
    dialogs: u32,
    /// Milliseconds.
    pub interval: u32,
    pub prompts: u32,
    pub answered: u32,
    lost: u32,
    /// Answered prompts in a row since the interval last changed.
    pub successes: u16,
    pub lost_in_a_row: u16,
    pub retransmissions: u8,
    pongs: u8,
    /// What the last prompt was.
    sent: Kind,
    behind_nat: bool,
    keeps_alive: bool,
    /// A prompt is out and not answered.
    pub pending: bool,
    /// The connection has ended.
    pub closed: bool,
}

/// A moment, or never, in the space of a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(Option<NonZeroU64>);

impl Moment {
    /// Before every moment.
    pub const NEVER: Moment = Moment(None);

    pub fn get(self) -> Option<Time> {
        self.0.map(|milliseconds| Time(milliseconds.get()))
    }
}

impl From<Time> for Moment {
    fn from(time: Time) -> Moment {
        Moment(NonZeroU64::new(time.0.max(1)))
    }
}

/// When a path is prompted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Off,
    /// By a timer, whatever else comes and goes.
    Periodic,
    /// When the device was silent for the interval.
    AfterSilence,
}

impl Record {
    pub fn new(flow: Flow, serial: u32, interval: u32) -> Record {
        Record {
            flow,
            uri: None,
            alarm: Alarm::default(),
            tail_until: Moment::NEVER,
            last_in: Moment::NEVER,
            last_out: Moment::NEVER,
            down_since: Moment::NEVER,
            prompted: Moment::NEVER,
            due: Time::MAX,
            serial,
            registrations: 0,
            subscriptions: 0,
            dialogs: 0,
            interval,
            prompts: 0,
            answered: 0,
            lost: 0,
            successes: 0,
            lost_in_a_row: 0,
            retransmissions: 0,
            pongs: 0,
            sent: Kind::Options,
            behind_nat: false,
            keeps_alive: false,
            pending: false,
            closed: flow.transport.reliable() && flow.connection == ConnectionId::NONE,
        }
    }

    pub fn describe(&mut self, info: PathInfo<'_>) {
        self.behind_nat = info.behind_nat;
        self.keeps_alive = info.keeps_alive;
        if let Some(uri) = info.uri
            && self.uri.as_deref() != Some(uri)
        {
            self.uri = Some(uri.into());
        }
    }

    pub fn count(&mut self, holder: Holder) -> &mut u32 {
        match holder {
            Holder::Registration => &mut self.registrations,
            Holder::Subscription => &mut self.subscriptions,
            Holder::Dialog => &mut self.dialogs,
        }
    }

    pub fn registered(&self) -> bool {
        self.registrations > 0 || self.subscriptions > 0
    }

    /// A dialog holds it, or the tail of the last one.
    fn in_dialog(&self) -> bool {
        self.dialogs > 0 || self.tail_until.get().is_some()
    }

    pub fn unused(&self) -> bool {
        !self.registered() && !self.in_dialog()
    }

    pub fn state(&self) -> State {
        match (self.registered(), self.dialogs > 0) {
            (true, true) => State::DialogAndRegistration,
            (true, false) => State::Registration,
            (false, _) if self.in_dialog() => State::Dialog,
            (false, _) => State::Idle,
        }
    }

    pub fn kind(&self, settings: &Paths) -> Option<Kind> {
        if self.closed || self.keeps_alive || !(self.behind_nat || settings.everyone) {
            return None;
        }
        let prompt = if self.flow.transport.reliable() {
            settings.stream
        } else {
            settings.udp
        };
        match prompt {
            Prompt::Off => None,
            Prompt::Options => Some(Kind::Options),
            Prompt::Crlf => Some(Kind::Crlf),
        }
    }

    pub fn mode(&self, settings: &Paths) -> Mode {
        if self.kind(settings).is_none() {
            Mode::Off
        } else if self.registered() && settings.while_registered {
            Mode::Periodic
        } else if self.in_dialog() && settings.during_dialogs {
            Mode::AfterSilence
        } else {
            Mode::Off
        }
    }

    pub fn interval(&self) -> Duration {
        Duration::from_millis(self.interval.into())
    }

    /// Begins to be prompted in another way. `first`: how long a periodic timer runs for the first time.
    pub fn enter(&mut self, mode: Mode, first: Duration, now: Time) {
        let bound = now + self.interval();
        self.due = match mode {
            Mode::Off => {
                self.pending = false;
                Time::MAX
            }
            // What was due before stays due.
            Mode::Periodic => self.due.min(now + first),
            Mode::AfterSilence => match self.last_in.get().max(self.prompted.get()) {
                Some(last) => (last + self.interval()).clamp(now, bound),
                None => self.due.min(bound),
            },
        };
    }

    /// The interval has become shorter: the next prompt comes within `first` at the latest.
    pub fn hasten(&mut self, first: Duration, now: Time) {
        if self.due != Time::MAX {
            self.due = self.due.min(now + first);
        }
    }

    pub fn next_prompt(&self, mode: Mode) -> Option<Time> {
        match mode {
            Mode::Off => None,
            Mode::Periodic => Some(self.due),
            Mode::AfterSilence => {
                let silent = self.last_in.get().map_or(Time(0), |last| last + self.interval());
                Some(self.due.max(silent))
            }
        }
    }

    /// When the record wants to be looked at; [`Time::MAX`]: never.
    pub fn next_event(&self, mode: Mode, settings: &Settings) -> Time {
        self.next_prompt(mode)
            .into_iter()
            .chain(self.tail_until.get())
            .chain(self.pending.then(|| self.gives_up(settings)))
            .fold(self.retransmits(settings), Time::min)
    }

    /// A prompt goes out; the next is due at `next`.
    pub fn prompted(&mut self, kind: Kind, now: Time, next: Time) {
        self.prompts = self.prompts.wrapping_add(1);
        self.prompted = now.into();
        self.sent = kind;
        self.last_out = now.into();
        self.due = next;
        self.retransmissions = 0;
        self.pending = kind == Kind::Options || self.flow.transport.reliable();
    }

    /// When the OPTIONS that is out is sent again (RFC 3261 section 17.1.2.2, timer E); [`Time::MAX`]: not any more.
    pub fn retransmits(&self, settings: &Settings) -> Time {
        if !self.pending || self.flow.transport.reliable() {
            return Time::MAX;
        }
        let wait = |number: u8| settings.t1.saturating_mul(1 << number.min(16)).min(settings.t2);
        let at = self.sent_at() + (0..=self.retransmissions).map(wait).sum();
        if at < self.gives_up(settings) { at } else { Time::MAX }
    }

    /// When the prompt that is out has ended (timer F), if the next is not due before.
    pub fn gives_up(&self, settings: &Settings) -> Time {
        self.sent_at() + settings.t1.saturating_mul(64)
    }

    /// When the last prompt was sent for the first time.
    fn sent_at(&self) -> Time {
        self.prompted.get().unwrap_or_default()
    }

    /// A keep-alive came.
    pub fn ponged(&mut self, now: Time) {
        if self.pending && now.since(self.sent_at()) <= PONG {
            self.pongs = self.pongs.saturating_add(1);
        }
    }

    /// The prompt that is out has ended without an answer. Whether that says something about the path.
    pub fn loses(&mut self) -> bool {
        self.pending = false;
        // Only what is sent to be answered, and is by this device, can be lost.
        if self.sent == Kind::Crlf && self.pongs < PONGS {
            self.pongs = 0;
            return false;
        }
        self.successes = 0;
        self.lost = self.lost.wrapping_add(1);
        self.lost_in_a_row = self.lost_in_a_row.saturating_add(1);
        true
    }

    pub fn view(&self, id: PathId, mode: Mode, settings: &Paths) -> PathView<'_> {
        PathView {
            id,
            flow: self.flow,
            state: self.state(),
            registrations: self.registrations,
            subscriptions: self.subscriptions,
            dialogs: self.dialogs,
            tail_until: self.tail_until.get(),
            behind_nat: self.behind_nat,
            keeps_alive: self.keeps_alive,
            uri: self.uri.as_deref(),
            last_in: self.last_in.get(),
            last_out: self.last_out.get(),
            prompts_sent: self.prompts,
            prompts_answered: self.answered,
            prompts_lost: self.lost,
            pending: self.pending,
            kind: self.kind(settings),
            interval: self.interval(),
            next_prompt: self.next_prompt(mode),
            down_since: self.down_since.get(),
        }
    }
}

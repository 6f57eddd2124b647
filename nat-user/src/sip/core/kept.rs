//! Calls that outlive the daemon: handed to the store when they change, and taken back after a restart.
//!
//! A call is one record: its dialog, and its media. Calls that ring are none: nobody could answer their INVITE any more. What has changed is
//! handed over some time later, so that a call which changes often is written once.

use std::time::Duration;

use rustc_hash::FxHashMap;

use super::{Core, Id, media::Call, seam::Registry};
use crate::{
    sip::{dialog::StoredCall, flow::ListenerId, time::Time},
    store::{
        CallChanges,
        codec::{Reader, Stored, put_text},
    },
};

/// How long a change waits before it is handed over.
const BEHIND: Duration = Duration::from_millis(200);
/// The form of the records. One of another form is not understood.
const VERSION: u8 = 1;

/// What there is of calls that are kept.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// When changes are handed over.
    due: Option<Time>,
    /// Calls that have ended.
    gone: Vec<u64>,
    /// The media of calls of before a restart, as it was stored, until there is a data path to take it over.
    asleep: FxHashMap<Id, Box<[u8]>>,
}

impl Kept {
    /// When [`Core::keep_calls`] is due. `None`: nothing has changed.
    pub(super) fn next(&self) -> Option<Time> {
        self.due
    }

    /// A call that the store may have has ended.
    pub(super) fn forget(&mut self, number: u64) {
        self.gone.push(number);
    }

    /// The media of calls of before a restart, for a data path that is there now.
    pub(super) fn wake(&mut self) -> impl Iterator<Item = (Id, Box<[u8]>)> {
        std::mem::take(&mut self.asleep).into_iter()
    }
}

impl<R: Registry> Core<R> {
    /// Sees to it that what has changed is handed to the store.
    pub(super) fn note_changes(&mut self, now: Time) {
        if !self.kept.gone.is_empty() {
            // A call that is over should not come back.
            self.kept.due = Some(now);
        } else if self.kept.due.is_none() && self.dialogs.has_changed() {
            self.kept.due = Some(now + BEHIND);
        }
    }

    /// Hands to the store what has changed, if it is time.
    pub fn keep_calls(&mut self, now: Time) {
        if self.kept.due.is_none_or(|due| due > now) {
            return;
        }
        self.kept.due = None;
        let (changed, gone) = (self.dialogs.changed(), std::mem::take(&mut self.kept.gone));
        if self.registry.keeps_calls() {
            let calls = changed.into_iter().filter_map(|id| self.stored(id)).collect();
            self.registry.keep_calls(CallChanges { calls, gone });
        }
    }

    /// A call's number and record.
    fn stored(&self, id: Id) -> Option<(u64, Vec<u8>)> {
        let dialog = self.dialogs.get(id)?;
        let mut out = Vec::with_capacity(1024);
        out.push(VERSION);
        dialog.put(&mut out);
        match (self.media_call(id), self.kept.asleep.get(&id)) {
            (Some(call), _) => {
                let mut media = Vec::with_capacity(512);
                call.put(&mut media);
                put_text(&mut out, &media);
            }
            (None, Some(bytes)) => put_text(&mut out, bytes),
            (None, None) => put_text(&mut out, b""),
        }
        Some((dialog.number, out))
    }

    /// Takes a call back that the store has. False: it is over, or is not understood; the store is told.
    pub fn restore_call(&mut self, number: u64, bytes: &[u8], now: Time) -> bool {
        let restored = read(bytes).and_then(|(call, media)| {
            let registry = &self.registry;
            let contact = |flow: &_, paths: &_| registry.contact_on(flow, paths, now);
            let (paths, timers) = (&mut self.paths, &mut self.timers);
            let id = self.dialogs.restore(number, call, contact, paths, timers, now)?;
            Some((id, media))
        });
        match restored {
            Some((id, media)) if !media.is_empty() => {
                self.kept.asleep.insert(id, media.into());
            }
            Some(_) => {}
            None => self.kept.forget(number),
        }
        self.note_changes(now);
        restored.is_some()
    }
}

/// The parts of a record: the dialog, and what its media is read from.
fn read(bytes: &[u8]) -> Option<(StoredCall, &[u8])> {
    let mut reader = Reader::new(bytes.strip_prefix(&[VERSION])?);
    let (call, media) = (StoredCall::take(&mut reader)?, reader.text()?);
    reader.is_empty().then_some((call, media))
}

/// A record whose flows have the ids that their listeners have today. `None`: it is not understood.
pub fn translate(bytes: &[u8], today: impl Fn(ListenerId) -> ListenerId) -> Option<Vec<u8>> {
    let (mut call, media) = read(bytes)?;
    call.translate(today);
    let mut out = Vec::with_capacity(bytes.len());
    out.push(VERSION);
    call.put(&mut out);
    put_text(&mut out, media);
    Some(out)
}

impl Call {
    /// The media of a call, as it was stored.
    pub(super) fn of_record(bytes: &[u8], policy: crate::media::policy::Policy) -> Option<Call> {
        let mut reader = Reader::new(bytes);
        let call = Call::take(&mut reader, policy)?;
        reader.is_empty().then_some(call)
    }
}

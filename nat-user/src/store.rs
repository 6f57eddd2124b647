//! What is kept over restarts: registrations, what the outbound role registered elsewhere, and calls that were answered.
//!
//! All are written behind: the server hands over what has changed at least once a second, and a thread of its own writes each batch as one
//! transaction. A crash, also of the machine, therefore loses at most the last batches' worth of refreshes and calls, about a second; what was written
//! before stays. [`Writer`] is the thread, [`Store`] where it writes; [`redb::RedbStore`] is a file on one machine.

pub mod codec;
pub mod redb;
#[cfg(test)]
mod tests;
mod writer;

use std::path::{Path, PathBuf};

pub use self::writer::Writer;
use crate::sip::location::{
    Number,
    stored::{Changes, Refresh},
};

/// Which table a contact belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Of our own domains.
    Registration,
    /// Of devices that have registered elsewhere through us.
    Edge,
}

impl Kind {
    /// Both.
    pub const ALL: [Kind; 2] = [Kind::Registration, Kind::Edge];
}

/// What has changed in all tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    pub registrations: Changes,
    pub edge: Changes,
    pub calls: CallChanges,
    /// What each listener is, by its id, in an unchanging form (`udp 134.56.3.1:5060`): if that has changed.
    pub listeners: Option<Vec<String>>,
}

impl Batch {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.registrations.is_empty() && self.edge.is_empty() && self.calls.is_empty() && self.listeners.is_none()
    }

    /// The changes of one table.
    pub fn of(&self, kind: Kind) -> &Changes {
        match kind {
            Kind::Registration => &self.registrations,
            Kind::Edge => &self.edge,
        }
    }
}

/// The number of a call and its record, as [`sip::core::kept`](crate::sip::core::kept) makes it.
pub type CallRecord = (u64, Vec<u8>);

/// What has happened to calls (see [`sip::core::kept`](crate::sip::core::kept)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallChanges {
    /// Calls that are new or have changed: their numbers and records.
    pub calls: Vec<CallRecord>,
    /// Those that have ended.
    pub gone: Vec<u64>,
}

impl CallChanges {
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty() && self.gone.is_empty()
    }

    /// Adds what has happened later.
    pub fn append(&mut self, mut later: CallChanges) {
        self.calls.append(&mut later.calls);
        self.gone.append(&mut later.gone);
    }
}

/// A contact that was read back.
#[derive(Clone, Copy, Debug)]
pub struct Loaded<'a> {
    pub kind: Kind,
    pub number: Number,
    /// As [`StoredContact::encode`](crate::sip::location::stored::StoredContact::encode) wrote it.
    pub bytes: &'a [u8],
    /// The last refresh behind it.
    pub refresh: Option<Refresh>,
}

/// Something that keeps registrations and calls.
pub trait Store: Send {
    /// Reads everything. Contacts come in the order of their numbers.
    fn load(&mut self, each: &mut dyn FnMut(Loaded<'_>)) -> Result<(), StoreError>;

    /// Reads all calls: their numbers and records.
    fn load_calls(&mut self, each: &mut dyn FnMut(u64, &[u8])) -> Result<(), StoreError>;

    /// Writes a batch, all of it or nothing. It is safe when this returns.
    fn write(&mut self, batch: &Batch) -> Result<(), StoreError>;
}

/// Why registrations cannot be kept or read. Says which file, what is wrong and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{}: {what}; {remedy}", path.display())]
pub struct StoreError {
    pub path: PathBuf,
    pub what: String,
    pub remedy: &'static str,
}

impl StoreError {
    pub(crate) fn new(path: &Path, what: impl Into<String>, remedy: &'static str) -> StoreError {
        StoreError {
            path: path.to_owned(),
            what: what.into(),
            remedy,
        }
    }
}

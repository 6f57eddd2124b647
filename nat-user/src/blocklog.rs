//! The block log: one record per block of ports that an inside host gets or gives back (RFC 7422, RFC 8158),
//! instead of one per flow. Destinations are never in it (RFC 6888 REQ-12). The lines are [`EventRecord`]s in JSON.

mod read;

use std::{io, path::Path};

use anyhow::Result;

pub use read::{Answer, lookup, reconcile};

use crate::{
    config::LogTarget,
    lines::{Lines, Name},
    records::{Event, EventRecord},
};

const NAME: Name = Name {
    what: "the block log",
    key: "log.blocks",
};

/// Where records go. Not shared: the task that drains the ring buffer owns it.
#[derive(Debug)]
pub struct BlockLog(Lines);

impl BlockLog {
    /// Opens the target. A file is created with mode 0640 and appended to.
    pub fn open(target: &LogTarget) -> Result<BlockLog> {
        Lines::open(target, NAME).map(BlockLog)
    }

    /// Opens a syslog socket at another place than [`DEV_LOG`](crate::lines::DEV_LOG).
    pub fn open_syslog(socket: &Path) -> Result<BlockLog> {
        Lines::open_syslog(socket, NAME).map(BlockLog)
    }

    /// Records a block assignment or release; other events are ignored. Call [`BlockLog::flush`] when there is
    /// nothing more to record at the moment.
    ///
    /// # Errors
    /// As [`Lines::push`].
    pub fn record(&mut self, record: &EventRecord) -> io::Result<()> {
        match record.event {
            Event::BlockAssigned { .. } | Event::BlockReleased { .. } => self.0.push(record),
            _ => Ok(()),
        }
    }

    /// See [`Lines::complain`].
    pub fn complain(&mut self, error: &io::Error) {
        self.0.complain(error);
    }

    /// Writes what is buffered to the file.
    pub fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }

    /// Opens the file anew, for log rotation (SIGHUP, `sipnat reload`). On an error the old one stays in use.
    pub fn reopen(&mut self) -> Result<()> {
        self.0.reopen()
    }
}

#[cfg(test)]
mod tests;

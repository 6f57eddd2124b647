//! The block log: one record per block of ports that an inside host gets or gives back (RFC 7422, RFC 8158),
//! instead of one per flow. Destinations are never in it (RFC 6888 REQ-12). The lines are [`EventRecord`]s in JSON.

mod read;
mod syslog;

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

pub use read::{Answer, lookup, reconcile};
pub use syslog::DEV_LOG;

use crate::{
    config::BlockLogTarget,
    records::{Event, EventRecord},
};

/// Lines are written when so many bytes have come together, and at [`BlockLog::flush`].
const BUFFER: usize = 64 * 1024;

/// Where records go. Not shared: the task that drains the ring buffer owns it.
#[derive(Debug)]
pub struct BlockLog {
    sink: Sink,
    /// Whole lines that are not written yet.
    buffer: Vec<u8>,
}

#[derive(Debug)]
enum Sink {
    Off,
    Syslog(syslog::Syslog),
    File { path: PathBuf, file: File, torn: bool },
}

impl BlockLog {
    /// Opens the target. A file is created with mode 0640 and appended to.
    pub fn open(target: &BlockLogTarget) -> Result<BlockLog> {
        let sink = match target {
            BlockLogTarget::Off => Sink::Off,
            BlockLogTarget::Syslog => return BlockLog::open_syslog(Path::new(DEV_LOG)),
            BlockLogTarget::File(path) => open_file(path)?,
        };
        Ok(BlockLog {
            sink,
            buffer: Vec::new(),
        })
    }

    /// Opens a syslog socket at another place than [`DEV_LOG`].
    pub fn open_syslog(socket: &Path) -> Result<BlockLog> {
        let syslog = syslog::Syslog::connect(socket).with_context(|| {
            format!(
                "cannot reach syslog at {}; start a syslog daemon, or write a file's path as log.blocks",
                socket.display()
            )
        })?;
        Ok(BlockLog {
            sink: Sink::Syslog(syslog),
            buffer: Vec::new(),
        })
    }

    /// Records a block assignment or release; other events are ignored. Call [`BlockLog::flush`] when there is
    /// nothing more to record at the moment.
    ///
    /// # Errors
    /// If the target cannot be written. Lines that were not written stay buffered up to a bound; the caller counts and goes on.
    pub fn record(&mut self, record: &EventRecord) -> io::Result<()> {
        if !matches!(record.event, Event::BlockAssigned { .. } | Event::BlockReleased { .. }) {
            return Ok(());
        }
        match &mut self.sink {
            Sink::Off => Ok(()),
            Sink::Syslog(syslog) => syslog.send(&serde_json::to_string(record)?),
            Sink::File { .. } => {
                if self.buffer.len() >= 16 * BUFFER {
                    return Err(io::Error::new(
                        io::ErrorKind::StorageFull,
                        "the block log's buffer is full; make room on its disk",
                    ));
                }
                serde_json::to_writer(&mut self.buffer, record)?;
                self.buffer.push(b'\n');
                if self.buffer.len() < BUFFER {
                    Ok(())
                } else {
                    self.flush()
                }
            }
        }
    }

    /// Writes what is buffered to the file.
    pub fn flush(&mut self) -> io::Result<()> {
        let Sink::File { file, torn, .. } = &mut self.sink else {
            return Ok(());
        };
        if self.buffer.is_empty() {
            return Ok(());
        }
        write_lines(file, &mut self.buffer, torn)
    }

    /// Opens the file anew, for log rotation (SIGHUP, `sipnat reload`). On an error the old one stays in use.
    pub fn reopen(&mut self) -> Result<()> {
        if let Sink::File { path, .. } = &self.sink {
            let path = path.clone();
            self.flush()
                .with_context(|| format!("cannot write the block log {}", path.display()))?;
            self.sink = open_file(&path)?;
        }
        Ok(())
    }
}

/// Writes `buffer` and removes the whole lines that were written, also on an error. `torn`: the file ends within a line.
fn write_lines(file: &mut impl Write, buffer: &mut Vec<u8>, torn: &mut bool) -> io::Result<()> {
    if *torn {
        // A line that ended in the middle (full disk, power cut) must not swallow the next one.
        file.write_all(b"\n")?;
        *torn = false;
    }
    let mut written = 0;
    let mut result = Ok(());
    while written < buffer.len() && result.is_ok() {
        match file.write(&buffer[written..]) {
            Ok(0) => result = Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => result = Err(error),
        }
    }
    // The line that was cut is written again as a whole, behind a newline.
    let whole = buffer[..written]
        .iter()
        .rposition(|&byte| byte == b'\n')
        .map_or(0, |newline| newline + 1);
    *torn = whole != written;
    buffer.drain(..whole);
    result
}

impl Drop for BlockLog {
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            tracing::error!(%error, "the end of the block log was lost");
        }
    }
}

fn open_file(path: &Path) -> Result<Sink> {
    let open = || -> io::Result<(File, bool)> {
        let mut file = File::options()
            .append(true)
            .read(true)
            .create(true)
            .mode(0o640)
            .open(path)?;
        let length = file.metadata()?.len();
        let mut last = *b"\n";
        if length > 0 {
            file.seek(SeekFrom::Start(length - 1))?;
            file.read_exact(&mut last)?;
        }
        Ok((file, last != *b"\n"))
    };
    let (file, torn) = open().with_context(|| {
        format!(
            "cannot open the block log {}; create its directory or check its permissions",
            path.display()
        )
    })?;
    Ok(Sink::File {
        path: path.to_owned(),
        file,
        torn,
    })
}

#[cfg(test)]
mod tests;

//! Files and syslog that lines of JSON go to: the block log, and the records of calls. What is written is whole lines, whatever happens to the disk.

mod syslog;

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::Serialize;

pub use syslog::DEV_LOG;

use crate::config::LogTarget;

/// Lines are written when so many bytes have come together, and at [`Lines::flush`].
const BUFFER: usize = 64 * 1024;

/// What the lines are, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// Like `the block log`.
    pub what: &'static str,
    /// Where the configuration names the target, like `log.blocks`.
    pub key: &'static str,
}

/// Where lines go. Not shared: one task or thread owns it.
#[derive(Debug)]
pub struct Lines {
    name: Name,
    sink: Sink,
    /// Whole lines that are not written yet.
    buffer: Vec<u8>,
    /// How often something could not be written.
    failures: u64,
}

#[derive(Debug)]
enum Sink {
    Off,
    Syslog(syslog::Syslog),
    File { path: PathBuf, file: File, torn: bool },
}

impl Lines {
    /// Opens the target. A file is created with mode 0640 and appended to.
    ///
    /// # Errors
    /// If it cannot be opened: with its name and the remedy.
    pub fn open(target: &LogTarget, name: Name) -> Result<Lines> {
        let sink = match target {
            LogTarget::Off => Sink::Off,
            LogTarget::Syslog => return Lines::open_syslog(Path::new(DEV_LOG), name),
            LogTarget::File(path) => open_file(path, name)?,
        };
        Ok(Lines::to(sink, name))
    }

    /// Opens a syslog socket at another place than [`DEV_LOG`].
    ///
    /// # Errors
    /// If nobody listens there.
    pub fn open_syslog(socket: &Path, name: Name) -> Result<Lines> {
        let syslog = syslog::Syslog::connect(socket).with_context(|| {
            format!(
                "cannot reach syslog at {}; start a syslog daemon, or write a file's path as {}",
                socket.display(),
                name.key
            )
        })?;
        Ok(Lines::to(Sink::Syslog(syslog), name))
    }

    fn to(sink: Sink, name: Name) -> Lines {
        Lines {
            name,
            sink,
            buffer: Vec::new(),
            failures: 0,
        }
    }

    /// Adds a line. Call [`Lines::flush`] when there is nothing more to add at the moment.
    ///
    /// # Errors
    /// If the line is lost. Lines for a file that cannot be written at the moment stay buffered up to a bound.
    pub fn push(&mut self, record: &impl Serialize) -> io::Result<()> {
        match &mut self.sink {
            Sink::Off => Ok(()),
            Sink::Syslog(syslog) => syslog.send(&serde_json::to_string(record)?),
            Sink::File { .. } => {
                if self.buffer.len() >= 16 * BUFFER {
                    let full = format!("the buffer of {} is full; make room on its disk", self.name.what);
                    return Err(io::Error::new(io::ErrorKind::StorageFull, full));
                }
                serde_json::to_writer(&mut self.buffer, record)?;
                self.buffer.push(b'\n');
                if self.buffer.len() >= BUFFER
                    && let Err(error) = self.flush()
                {
                    self.complain(&error);
                }
                Ok(())
            }
        }
    }

    /// Writes what is buffered to the file.
    ///
    /// # Errors
    /// If it cannot be written; what was not stays buffered.
    pub fn flush(&mut self) -> io::Result<()> {
        let Sink::File { file, torn, .. } = &mut self.sink else {
            return Ok(());
        };
        if self.buffer.is_empty() {
            return Ok(());
        }
        write_lines(file, &mut self.buffer, torn)
    }

    /// Tells the daemon's log of an error, not for every line: a full disk would fill that too.
    pub fn complain(&mut self, error: &io::Error) {
        self.failures += 1;
        if self.failures.is_power_of_two() {
            tracing::error!(%error, failures = self.failures, "{} cannot be written", self.name.what);
        }
    }

    /// Opens the file anew, for log rotation (SIGHUP, `sipnat reload`).
    ///
    /// # Errors
    /// If that fails; the old file stays in use.
    pub fn reopen(&mut self) -> Result<()> {
        if let Sink::File { path, .. } = &self.sink {
            let path = path.clone();
            self.flush()
                .with_context(|| format!("cannot write {} {}", self.name.what, path.display()))?;
            self.sink = open_file(&path, self.name)?;
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

impl Drop for Lines {
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            tracing::error!(%error, "the end of {} was lost", self.name.what);
        }
    }
}

fn open_file(path: &Path, name: Name) -> Result<Sink> {
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
            "cannot open {} {}; create its directory or check its permissions",
            name.what,
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

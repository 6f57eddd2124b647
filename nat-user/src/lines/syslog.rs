//! Lines to the local syslog socket in the form that every local syslog daemon reads (RFC 3164).

use std::{
    io,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
};

use jiff::{Timestamp, tz::TimeZone};

/// Where syslog listens.
pub const DEV_LOG: &str = "/dev/log";
/// Facility daemon (3), severity informational (6).
const PRIORITY: u8 = 3 * 8 + 6;

/// A connection to the local syslog daemon, renewed when the daemon restarts.
#[derive(Debug)]
pub struct Syslog {
    path: PathBuf,
    socket: UnixDatagram,
    zone: TimeZone,
}

impl Syslog {
    pub fn connect(path: &Path) -> io::Result<Syslog> {
        Ok(Syslog {
            path: path.to_owned(),
            socket: connected(path)?,
            zone: TimeZone::system(),
        })
    }

    /// Sends one line. Never waits: a syslog daemon that does not keep up costs lines, not the NAT.
    pub fn send(&mut self, text: &str) -> io::Result<()> {
        let time = Timestamp::now().to_zoned(self.zone.clone()).strftime("%b %e %H:%M:%S");
        let line = format!("<{PRIORITY}>{time} sipnat[{}]: {text}", std::process::id());
        match self.socket.send(line.as_bytes()) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            Err(_) => {
                self.socket = connected(&self.path)?;
                self.socket.send(line.as_bytes()).map(|_| ())
            }
        }
    }
}

fn connected(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

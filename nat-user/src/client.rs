//! The command line's side of the control socket.

use std::{
    io::{self, BufRead, BufReader, ErrorKind, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::de::DeserializeOwned;

use crate::{
    cli::{EXIT_ERROR, EXIT_NO_DAEMON, EXIT_NOT_FOUND},
    control::{Ending, Request},
};

/// How long a daemon may be silent within an answer. A reload of a large config is the slowest thing there is.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to the daemon.
pub struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
}

/// Why a request could not be answered.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no daemon answers on {path} ({cause}); start one with `sipnat run`, or name its socket with --socket")]
    NoDaemon { path: String, cause: io::Error },
    #[error("{path} cannot be used by this user; run as root")]
    NotAllowed { path: String },
    /// The daemon's own words.
    #[error("{message}")]
    Refused { message: String, code: u8 },
    #[error("the daemon on {path} broke off its answer ({why}); ask again, its log may say more")]
    Broken { path: String, why: String },
    /// The caller's sink failed, for example a closed pipe.
    #[error(transparent)]
    Output(io::Error),
}

impl ClientError {
    /// What was asked for does not exist, found out without a daemon.
    pub fn not_found(message: String) -> ClientError {
        ClientError::Refused {
            message,
            code: EXIT_NOT_FOUND,
        }
    }

    /// The exit code of the command line.
    pub fn exit_code(&self) -> u8 {
        match self {
            ClientError::NoDaemon { .. } => EXIT_NO_DAEMON,
            ClientError::Refused { code, .. } => *code,
            _ => EXIT_ERROR,
        }
    }
}

impl Client {
    /// Connects to the daemon's socket.
    pub fn connect(path: &Path) -> Result<Client, ClientError> {
        let shown = path.display().to_string();
        match UnixStream::connect(path) {
            Ok(stream) => Ok(Client {
                stream: BufReader::with_capacity(64 * 1024, stream),
                path: path.to_owned(),
            }),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(ClientError::NotAllowed { path: shown }),
            Err(cause) => Err(ClientError::NoDaemon { path: shown, cause }),
        }
    }

    /// Sends `request` and hands each record of the answer, one line of JSON, to `each`.
    pub fn request(
        &mut self,
        request: &Request,
        mut each: impl FnMut(&str) -> io::Result<()>,
    ) -> Result<(), ClientError> {
        let patience = (!request.follows()).then_some(PATIENCE);
        let mut text = serde_json::to_string(request).expect("requests have only string keys");
        text.push('\n');
        let sent = self
            .stream
            .get_ref()
            .set_read_timeout(patience)
            .and_then(|()| self.stream.get_mut().write_all(text.as_bytes()));
        sent.map_err(|error| self.broken(error))?;
        let mut line = String::new();
        loop {
            line.clear();
            match self.stream.read_line(&mut line) {
                Ok(0) => return Err(self.broken("it closed the connection")),
                Ok(_) if !line.ends_with('\n') => {
                    return Err(self.broken("it closed the connection within a record"));
                }
                Ok(_) => {}
                Err(error) => return Err(self.broken(error)),
            }
            let record = line.trim_end();
            if Ending::is_one(record) {
                return match serde_json::from_str(record) {
                    Ok(Ending::End { .. }) => Ok(()),
                    Ok(Ending::Error { error, code }) => Err(ClientError::Refused { message: error, code }),
                    Err(error) => Err(self.broken(error)),
                };
            }
            each(record).map_err(ClientError::Output)?;
        }
    }

    /// All records of an answer.
    pub fn collect<T: DeserializeOwned>(&mut self, request: &Request) -> Result<Vec<T>, ClientError> {
        let mut records = Vec::new();
        let result = self.request(request, |line| {
            records.push(serde_json::from_str(line)?);
            Ok(())
        });
        match result {
            Ok(()) => Ok(records),
            Err(ClientError::Output(error)) => Err(self.broken(format_args!("a record is not as expected: {error}"))),
            Err(error) => Err(error),
        }
    }

    /// The one record of an answer that has exactly one.
    pub fn one<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, ClientError> {
        self.collect(request)?
            .pop()
            .ok_or_else(|| self.broken("there was no record in it"))
    }

    fn broken(&self, why: impl ToString) -> ClientError {
        ClientError::Broken {
            path: self.path.display().to_string(),
            why: why.to_string(),
        }
    }
}

//! SIP over TCP or TLS, literally: connections that send text and split what comes by Content-Length.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::certificates::Authority;
use super::message::{Message, framed};
use crate::lab::Host;
use crate::ns::Namespace;
use crate::sockets;
use crate::wait::SOON;

/// A connection that carries SIP.
pub struct Stream {
    /// Its own address and port.
    pub local: SocketAddrV4,
    /// The other end.
    pub remote: SocketAddrV4,
    io: Box<dyn Io>,
    buffer: Vec<u8>,
}

impl Stream {
    /// Connects over TCP.
    pub fn connect(ns: &Namespace, to: SocketAddrV4) -> Result<Self> {
        Self::over(sockets::tcp_connect(ns, to)?)
    }

    /// Connects over TLS; the server must show a certificate for `name` that this authority signed.
    pub fn connect_tls(ns: &Namespace, to: SocketAddrV4, name: &str, authority: &Authority) -> Result<Self> {
        let stream = sockets::tcp_connect(ns, to)?;
        let (local, remote) = (v4(stream.local_addr()?)?, v4(stream.peer_addr()?)?);
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(authority.roots()?)
            .with_no_client_auth();
        let mut connection = ClientConnection::new(Arc::new(config), ServerName::try_from(name.to_string())?)?;
        let mut stream = stream;
        connection
            .complete_io(&mut stream)
            .with_context(|| format!("TLS handshake with {to}"))?;
        Ok(Self {
            local,
            remote,
            io: Box::new(StreamOwned::new(connection, stream)),
            buffer: Vec::new(),
        })
    }

    /// Takes a connection that was made elsewhere.
    pub fn over(stream: TcpStream) -> Result<Self> {
        let (local, remote) = (v4(stream.local_addr()?)?, v4(stream.peer_addr()?)?);
        stream.set_read_timeout(Some(SOON))?;
        stream.set_write_timeout(Some(SOON))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            local,
            remote,
            io: Box::new(stream),
            buffer: Vec::new(),
        })
    }

    /// Sends a message, a part of one, or any bytes.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        let sent = self.io.write_all(bytes.as_ref()).and_then(|()| self.io.flush());
        sent.with_context(|| format!("send to {}", self.remote))
    }

    /// The next message, within [`SOON`]. Keep-alives before it are left out.
    pub fn recv(&mut self, what: &str) -> Result<Message> {
        let end = Instant::now() + SOON;
        loop {
            let start = self
                .buffer
                .iter()
                .position(|byte| !b"\r\n".contains(byte))
                .unwrap_or(self.buffer.len());
            self.buffer.drain(..start);
            if let Some(length) = framed(&self.buffer)? {
                return Message::new(self.buffer.drain(..length).collect::<Vec<u8>>());
            }
            ensure!(
                Instant::now() < end,
                "waited for {what}, in vain; so far came {:?}",
                self.pending()
            );
            let more = self
                .fill()
                .with_context(|| format!("wait for {what} from {}", self.remote))?;
            ensure!(more, "{} closed the connection instead of sending {what}", self.remote);
        }
    }

    /// The next message that `wanted` accepts; others are dropped.
    pub fn recv_where(&mut self, what: &str, wanted: impl Fn(&Message) -> bool) -> Result<Message> {
        loop {
            let message = self.recv(what)?;
            if wanted(&message) {
                return Ok(message);
            }
        }
    }

    /// The next final response.
    pub fn recv_final(&mut self, what: &str) -> Result<Message> {
        self.recv_where(what, |message| message.status().is_some_and(|code| code >= 200))
    }

    /// Exactly `length` bytes, such as the CRLF that answers a keep-alive (RFC 5626 §4.4.1).
    pub fn recv_bytes(&mut self, length: usize) -> Result<Vec<u8>> {
        while self.buffer.len() < length {
            ensure!(
                self.fill()?,
                "{} closed the connection after {:?}",
                self.remote,
                self.pending()
            );
        }
        Ok(self.buffer.drain(..length).collect())
    }

    /// Waits until the other side closes; what it sends before is dropped.
    pub fn closed(&mut self) -> Result<()> {
        let end = Instant::now() + SOON;
        while Instant::now() < end {
            match self.fill() {
                Ok(true) => self.buffer.clear(),
                Ok(false) => return Ok(()),
                // A reset is an end too.
                Err(error)
                    if error
                        .downcast_ref::<std::io::Error>()
                        .is_some_and(|e| e.kind() == ErrorKind::ConnectionReset) =>
                {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        bail!("{} goes on sending instead of closing", self.remote)
    }

    fn fill(&mut self) -> Result<bool> {
        let mut chunk = [0; 65536];
        let length = loop {
            match self.io.read(&mut chunk) {
                // A signal that has nothing to do with it.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.buffer.extend(&chunk[..length]);
        Ok(length > 0)
    }

    fn pending(&self) -> String {
        String::from_utf8_lossy(&self.buffer).into_owned()
    }
}

/// A listening TCP socket for SIP.
#[derive(Debug)]
pub struct Listener {
    /// Where it listens.
    pub endpoint: SocketAddrV4,
    listener: TcpListener,
}

impl Listener {
    /// Listens on a host's address.
    pub fn start(host: &Host, port: u16) -> Result<Self> {
        let listener = sockets::tcp_listen(host, (host.ip, port))?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            endpoint: v4(listener.local_addr()?)?,
            listener,
        })
    }

    /// The next connection, within [`SOON`].
    pub fn accept(&self) -> Result<Stream> {
        let stream = crate::wait::wait_for("a connection", SOON, || self.listener.accept().ok())?.0;
        stream.set_nonblocking(false)?;
        Stream::over(stream)
    }

    /// An error if somebody connects within `time`.
    pub fn nothing(&self, time: Duration) -> Result<()> {
        match crate::wait::wait_for("nobody", time, || self.listener.accept().ok()) {
            Ok((_, from)) => bail!("{from} connected to {}", self.endpoint),
            Err(_) => Ok(()),
        }
    }
}

trait Io: Read + Write + Send {}
impl<T: Read + Write + Send> Io for T {}

fn v4(address: SocketAddr) -> Result<SocketAddrV4> {
    match address {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(address) => bail!("IPv4 only, not {address}"),
    }
}

//! A SIP peer over UDP that sends literal text and shows what it gets: for tests of exact bytes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::message::Message;
use crate::lab::Host;
use crate::sockets;
use crate::wait::SOON;

/// A UDP socket that speaks SIP. Messages that a caller did not wait for are kept for whoever asks next.
#[derive(Debug)]
pub struct Peer {
    /// Its own address and port.
    pub endpoint: SocketAddrV4,
    socket: UdpSocket,
    kept: RefCell<VecDeque<(Message, SocketAddrV4)>>,
}

impl Peer {
    /// Binds a host's address and this port (0: any).
    pub fn udp(host: &Host, port: u16) -> Result<Self> {
        let socket = sockets::host_udp(host, port)?;
        let SocketAddr::V4(endpoint) = socket.local_addr()? else {
            bail!("IPv4 only")
        };
        Ok(Self {
            endpoint,
            socket,
            kept: RefCell::default(),
        })
    }

    /// Sends a message, or any bytes.
    pub fn send(&self, to: SocketAddrV4, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.socket
            .send_to(bytes.as_ref(), to)
            .with_context(|| format!("send to {to}"))?;
        Ok(())
    }

    /// Sends a message.
    pub fn send_message(&self, to: SocketAddrV4, message: &Message) -> Result<()> {
        self.send(to, message.bytes())
    }

    /// The next message and its sender, within [`SOON`]. Keep-alives (RFC 5626 §3.5.1) are left out.
    pub fn recv(&self, what: &str) -> Result<(Message, SocketAddrV4)> {
        self.recv_where(what, |_| true)
    }

    /// The next message that `wanted` accepts; others are kept.
    pub fn recv_where(&self, what: &str, wanted: impl Fn(&Message) -> bool) -> Result<(Message, SocketAddrV4)> {
        let found = self.wait(SOON, wanted)?;
        found.with_context(|| {
            let kept: Vec<String> = self
                .kept
                .borrow()
                .iter()
                .map(|(message, from)| format!("{from}: {message:?}"))
                .collect();
            format!(
                "{} waited for {what}, in vain; it got: {}",
                self.endpoint,
                kept.join("\n")
            )
        })
    }

    /// The next final response (RFC 3261 §7.2).
    pub fn recv_final(&self, what: &str) -> Result<Message> {
        let is_final = |message: &Message| message.status().is_some_and(|code| code >= 200);
        self.recv_where(what, is_final).map(|(message, _)| message)
    }

    /// The next request of this method and its sender.
    pub fn recv_request(&self, method: &str) -> Result<(Message, SocketAddrV4)> {
        self.recv_where(&format!("a {method}"), |message| {
            message.method().as_deref() == Some(method)
        })
    }

    /// An error if a message that `unwanted` accepts comes within `time` or has come before.
    pub fn nothing(&self, time: Duration, unwanted: impl Fn(&Message) -> bool) -> Result<()> {
        match self.wait(time, unwanted)? {
            Some((message, from)) => bail!("{} got from {from} what must not come: {message:?}", self.endpoint),
            None => Ok(()),
        }
    }

    /// The next datagram as it is, for peers that get something else than SIP.
    pub fn recv_bytes(&self) -> Result<(Vec<u8>, SocketAddrV4)> {
        sockets::receive(&self.socket)
    }

    /// The next message that `wanted` accepts, if one comes within `time` or has come before; others are kept.
    pub fn wait(&self, time: Duration, wanted: impl Fn(&Message) -> bool) -> Result<Option<(Message, SocketAddrV4)>> {
        let kept = self.kept.borrow().iter().position(|(message, _)| wanted(message));
        if let Some(at) = kept {
            return Ok(self.kept.borrow_mut().remove(at));
        }
        let end = Instant::now() + time;
        while let Some(left) = end
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
        {
            let Some((bytes, from)) = sockets::try_receive(&self.socket, left)? else {
                break;
            };
            if bytes.iter().all(|byte| b"\r\n\0".contains(byte)) {
                continue;
            }
            let message = Message::new(bytes).with_context(|| format!("{from} sent to {}", self.endpoint))?;
            if wanted(&message) {
                return Ok(Some((message, from)));
            }
            self.kept.borrow_mut().push_back((message, from));
        }
        Ok(None)
    }
}

//! One UDP socket: datagrams come and go in batches.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsFd as _,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
};

use super::{
    counters::{Counters, Reason},
    event::Event,
    mmsg::{self, Arena, BATCH, Outbox, Outgoing, Refusal, RefusalKind},
};
use crate::sip::{
    command::{Input, SendError, Ticket},
    flow::{Flow, ListenerId, Transport},
    time::Time,
};

/// Datagrams that wait for room in the socket's buffer.
const QUEUE: usize = 8192;
/// Sends that are remembered so that an ICMP error finds who waits for the answer, and for how long: an unresolved neighbour is reported
/// after three seconds.
const REMEMBERED: usize = 8192;
const REMEMBERED_FOR: Duration = Duration::from_secs(5);
/// Remote endpoints whose local address is remembered, twice, where the socket is bound to any.
const LOCALS: usize = 65_536;

/// What a datagram is to the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A SIP message, or what pretends to be one, without the line ends before it (RFC 3261 section 7.5).
    Message(&'a [u8]),
    /// Nothing but line ends and zeros.
    KeepAlive,
    Stun,
}

/// Tells SIP, STUN and keep-alives apart.
pub fn classify(datagram: &[u8]) -> Kind<'_> {
    if super::stun::is_stun(datagram) {
        return Kind::Stun;
    }
    match datagram.iter().position(|byte| !matches!(byte, b'\r' | b'\n' | 0)) {
        Some(begin) => Kind::Message(&datagram[begin..]),
        None => Kind::KeepAlive,
    }
}

/// A socket of a listener.
#[derive(Debug)]
pub struct Udp {
    pub listener: ListenerId,
    pub local: SocketAddr,
    socket: Arc<AsyncFd<UdpSocket>>,
    queue: VecDeque<Queued>,
    recent: VecDeque<Recent>,
    locals: Locals,
}

#[derive(Debug)]
struct Queued {
    datagram: Outgoing,
    ticket: Option<Ticket>,
}

#[derive(Debug)]
struct Recent {
    to: SocketAddr,
    ticket: Ticket,
    at: Time,
}

impl Udp {
    /// Takes over a bound socket. Must be called on the runtime.
    ///
    /// # Errors
    /// If the runtime cannot watch it.
    pub fn new(listener: ListenerId, socket: UdpSocket) -> io::Result<Udp> {
        let local = socket.local_addr()?;
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::ERROR;
        Ok(Udp {
            listener,
            local,
            // SAFETY: a socket keeps its descriptor for life.
            socket: Arc::new(unsafe { AsyncFd::register_with_interest(socket, interest) }?),
            queue: VecDeque::new(),
            recent: VecDeque::new(),
            locals: Locals::default(),
        })
    }

    /// Receives one batch; how many datagrams. Zero: the socket reported an error of an earlier send, and there may be more to receive.
    pub fn poll_receive(&mut self, context: &mut Context<'_>, arena: &mut Arena) -> Poll<usize> {
        loop {
            let Ok(mut guard) = ready!(self.socket.poll_read_ready(context)) else {
                return Poll::Pending;
            };
            match arena.receive(self.socket.get_ref().as_fd()) {
                Ok(count) => {
                    // Fewer than fit: the socket was empty, and what comes later makes it ready again.
                    if count < BATCH {
                        guard.clear_ready();
                    }
                    return Poll::Ready(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                Err(_) => return Poll::Ready(0),
            }
        }
    }

    /// Our address for a datagram from `remote`, whose packet info says `local`.
    pub fn local(&mut self, remote: SocketAddr, local: Option<IpAddr>) -> SocketAddr {
        match local.filter(|_| self.local.ip().is_unspecified()) {
            Some(address) => {
                self.locals.note(remote, address);
                SocketAddr::new(address, self.local.port())
            }
            None => self.local,
        }
    }

    /// Our address for datagrams to `remote`.
    pub fn local_for(&self, remote: SocketAddr) -> SocketAddr {
        let address = self.locals.get(remote).unwrap_or(self.local.ip());
        SocketAddr::new(address, self.local.port())
    }

    /// Puts a datagram into the queue.
    ///
    /// # Errors
    /// If there is no room, or no way there from a socket of this family.
    pub fn push(&mut self, to: SocketAddr, bytes: Bytes, ticket: Option<Ticket>) -> Result<(), SendError> {
        if self.queue.len() >= QUEUE {
            return Err(SendError::Overloaded);
        }
        if to.is_ipv4() != self.local.is_ipv4() || to.port() == 0 || to.ip().is_unspecified() {
            return Err(SendError::Unreachable);
        }
        let source = self.locals.get(to);
        let datagram = Outgoing { to, source, bytes };
        self.queue.push_back(Queued { datagram, ticket });
        Ok(())
    }

    /// Whether datagrams wait.
    pub fn is_waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Ready when the socket has room again.
    pub fn poll_writable(&self, context: &mut Context<'_>) -> Poll<()> {
        match ready!(self.socket.poll_write_ready(context)) {
            Ok(mut guard) => {
                guard.retain_ready();
                Poll::Ready(())
            }
            Err(_) => Poll::Pending,
        }
    }

    /// Sends what is in the queue until it is empty or the socket's buffer is full. What cannot be sent is told by `news`.
    pub fn flush(&mut self, outbox: &mut Outbox, now: Time, counters: &mut Counters, news: &mut VecDeque<Input>) {
        let mut excused = 0;
        while !self.queue.is_empty() {
            let result = self.socket.try_io(Interest::WRITABLE, |socket| {
                outbox.send(socket.as_fd(), self.queue.iter().map(|queued| &queued.datagram))
            });
            let error = match result {
                Ok(count) => {
                    excused = 0;
                    for Queued { datagram, ticket } in self.queue.drain(..count) {
                        counters.sent(Transport::Udp, datagram.bytes.len());
                        remember(&mut self.recent, datagram.to, ticket, now);
                    }
                    continue;
                }
                Err(error) => error,
            };
            let (reason, counted) = match error.raw_os_error() {
                None | Some(libc::EAGAIN) => return,
                Some(libc::EINTR) => continue,
                // It may be the news of an ICMP error about an earlier datagram, told once; the error queue has the whole story.
                Some(libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EHOSTDOWN | libc::EPROTO)
                    if excused < 3 =>
                {
                    excused += 1;
                    continue;
                }
                Some(libc::EMSGSIZE) => (SendError::TooLarge, Reason::SendTooLarge),
                Some(libc::ENOBUFS | libc::ENOMEM) => (SendError::Overloaded, Reason::QueueFull),
                Some(_) => (SendError::Unreachable, Reason::Unreachable),
            };
            excused = 0;
            counters.drop(counted);
            let failed = self.queue.pop_front().and_then(|queued| queued.ticket);
            news.extend(failed.map(|ticket| Input::Failed { ticket, reason }));
        }
    }

    /// Finds who waits for an answer to what was refused.
    pub fn refused(&mut self, refusals: &[Refusal], now: Time, counters: &mut Counters, news: &mut VecDeque<Input>) {
        let mut unreachable = FxHashSet::default();
        let mut too_large = FxHashSet::default();
        for refusal in refusals {
            match refusal.kind {
                RefusalKind::Unreachable => unreachable.insert(refusal.to),
                RefusalKind::TooLarge => too_large.insert(refusal.to),
                RefusalKind::Ignored => continue,
            };
            counters.drop(Reason::Refused);
        }
        if unreachable.is_empty() && too_large.is_empty() {
            return;
        }
        self.recent.retain(|sent| {
            let reason = if unreachable.contains(&sent.to) {
                SendError::Unreachable
            } else if too_large.contains(&sent.to) {
                SendError::TooLarge
            } else {
                return true;
            };
            if now.since(sent.at) <= REMEMBERED_FOR {
                let ticket = sent.ticket;
                news.push_back(Input::Failed { ticket, reason });
            }
            false
        });
    }

    /// A task that waits for the error queue and tells what is in it, until nobody listens.
    pub fn watch(&self, events: mpsc::Sender<Event>) -> impl Future<Output = ()> + Send + use<> {
        let (socket, listener) = (Arc::clone(&self.socket), self.listener);
        async move {
            loop {
                let Ok(mut guard) = socket.ready(Interest::ERROR).await else {
                    return;
                };
                let refusals = mmsg::refusals(socket.get_ref().as_fd());
                if refusals.len() < BATCH {
                    guard.clear_ready();
                }
                drop(guard);
                if !refusals.is_empty() && events.send(Event::Refused(listener, refusals)).await.is_err() {
                    return;
                }
            }
        }
    }

    /// The flow of datagrams with `remote`.
    pub fn flow(&self, remote: SocketAddr) -> Flow {
        Flow::udp(self.listener, remote)
    }

    /// The tickets of what was not sent, when the socket goes away.
    pub fn abandoned(&mut self) -> impl Iterator<Item = Ticket> + '_ {
        self.queue.drain(..).filter_map(|queued| queued.ticket)
    }
}

fn remember(recent: &mut VecDeque<Recent>, to: SocketAddr, ticket: Option<Ticket>, now: Time) {
    let Some(ticket) = ticket else { return };
    while recent
        .front()
        .is_some_and(|oldest| recent.len() >= REMEMBERED || now.since(oldest.at) > REMEMBERED_FOR)
    {
        recent.pop_front();
    }
    recent.push_back(Recent { to, ticket, at: now });
}

/// Through which of our addresses remote endpoints reach us: answers must leave from there (RFC 3581 section 4). When the newer half is full it
/// becomes the older one, so who was heard of lately is known and memory is bounded.
#[derive(Debug, Default)]
struct Locals {
    newer: FxHashMap<SocketAddr, IpAddr>,
    older: FxHashMap<SocketAddr, IpAddr>,
}

impl Locals {
    fn note(&mut self, remote: SocketAddr, local: IpAddr) {
        if self.newer.len() >= LOCALS {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(remote, local);
    }

    fn get(&self, remote: SocketAddr) -> Option<IpAddr> {
        self.newer.get(&remote).or_else(|| self.older.get(&remote)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_alives_and_stun_are_told_apart() {
        assert_eq!(classify(b"\r\n\r\n"), Kind::KeepAlive);
        assert_eq!(classify(b"\0\0\0\0"), Kind::KeepAlive);
        assert_eq!(classify(b""), Kind::KeepAlive);
        assert_eq!(classify(b"\r\n\r\nOPTIONS x"), Kind::Message(b"OPTIONS x"));
        let mut stun = [0; 20];
        stun[1] = 1;
        stun[4..8].copy_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
        assert_eq!(classify(&stun), Kind::Stun);
        stun[4] = 0;
        assert_eq!(classify(&stun), Kind::Message(&stun[1..]));
    }

    #[test]
    fn who_was_heard_of_lately_is_known() {
        let remote = |i: u32| SocketAddr::new(IpAddr::from(i.to_be_bytes()), 5060);
        let local = IpAddr::from([192, 0, 2, 1]);
        let mut locals = Locals::default();
        for i in 0..3 * LOCALS as u32 {
            locals.note(remote(i), local);
        }
        assert_eq!(locals.get(remote(3 * LOCALS as u32 - LOCALS as u32)), Some(local));
        assert_eq!(locals.get(remote(1)), None);
        assert!(locals.newer.len() + locals.older.len() <= 2 * LOCALS);
    }
}

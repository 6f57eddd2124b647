//! The task of one connection: it is made or accepted, carries messages both ways, and ends.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Buf as _, Bytes, BytesMut};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf},
    net::{TcpSocket, TcpStream},
    sync::{mpsc, oneshot},
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{
    counters::Reason,
    event::{Event, Farewell},
    framing::{Frame, Framer},
    listen::set_option,
    tls,
};
use crate::sip::{
    command::{SendError, Ticket},
    flow::ConnectionId,
};

/// How long it may take until a peer answers our connect, and TLS is set up.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a peer may take nothing of what is to be sent to him.
const STALLED: Duration = Duration::from_secs(30);
/// How long the end of a connection waits for the peer's end.
const LINGER: Duration = Duration::from_secs(1);
/// Line ends further apart than this are no ping.
const PAUSE: Duration = Duration::from_secs(1);
/// Room for one read: this much at first, up to that much when there is so much to read.
const ROOM: std::ops::RangeInclusive<usize> = 2048..=65_536;
/// Writes that go out in one piece.
const GATHER: usize = 64;

/// Limits of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub idle: Duration,
    pub message_time: Duration,
    pub message_size: usize,
}

/// What the loop puts into a connection's queue.
#[derive(Debug)]
pub enum Item {
    Send(Bytes, Option<Ticket>),
    /// Close when everything before has gone out.
    Close,
}

/// One connection, as its task sees it.
pub struct Task {
    pub id: ConnectionId,
    /// Bytes in the queue.
    pub queued: Arc<AtomicUsize>,
    pub bounds: Bounds,
    pub events: mpsc::Sender<Event>,
    pub queue: mpsc::UnboundedReceiver<Item>,
    /// What is being written.
    pub writing: Vec<Ticket>,
}

/// How a connection comes about.
pub enum Origin {
    Accepted(TcpStream, Option<(TlsAcceptor, tls::Clients)>),
    Connect {
        /// Our address; `None`: as the kernel likes.
        from: Option<IpAddr>,
        to: SocketAddr,
        tls: Option<(TlsConnector, ServerName<'static>)>,
    },
}

/// Why a task ends.
struct End {
    error: SendError,
    reason: Option<Reason>,
}

impl Task {
    /// Runs until the connection has ended, or the other end of `alive` is dropped, and says so.
    pub async fn run(mut self, origin: Origin, alive: oneshot::Receiver<()>) {
        let End { error, reason } = tokio::select! {
            end = self.live(origin) => end,
            _ = alive => End::quiet(),
        };
        self.queue.close();
        let mut unsent = self.writing;
        while let Ok(item) = self.queue.try_recv() {
            if let Item::Send(_, ticket) = item {
                unsent.extend(ticket);
            }
        }
        let farewell = Farewell { unsent, error, reason };
        let _ = self.events.send(Event::Closed(self.id, farewell)).await;
    }

    async fn live(&mut self, origin: Origin) -> End {
        match origin {
            Origin::Accepted(stream, None) => self.carry(stream.local_addr(), Vec::new(), stream).await,
            Origin::Accepted(stream, Some((acceptor, clients))) => {
                let local = stream.local_addr();
                match timeout(self.bounds.message_time, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => {
                        let domains = clients.domains(stream.get_ref().1.peer_certificates());
                        self.carry(local, domains, stream).await
                    }
                    Ok(Err(_)) => End::of(SendError::Unreachable, Reason::Handshake),
                    Err(_) => End::of(SendError::Unreachable, Reason::Slow),
                }
            }
            Origin::Connect { from, to, tls } => {
                let stream = match timeout(CONNECT, connect(from, to)).await {
                    Ok(Ok(stream)) => stream,
                    Ok(Err(_)) | Err(_) => return End::of(SendError::Unreachable, Reason::Connect),
                };
                let local = stream.local_addr();
                let Some((connector, name)) = tls else {
                    return self.carry(local, Vec::new(), stream).await;
                };
                match timeout(CONNECT, connector.connect(name, stream)).await {
                    Ok(Ok(stream)) => self.carry(local, Vec::new(), stream).await,
                    Ok(Err(error)) if tls::is_certificate(&error) => {
                        End::of(SendError::Certificate, Reason::Certificate)
                    }
                    Ok(Err(_)) | Err(_) => End::of(SendError::Unreachable, Reason::Handshake),
                }
            }
        }
    }

    /// Carries messages until both directions have ended or one is broken.
    async fn carry(
        &mut self,
        local: io::Result<SocketAddr>,
        domains: Vec<Arc<str>>,
        stream: impl AsyncRead + AsyncWrite,
    ) -> End {
        let Ok(local) = local else { return End::quiet() };
        if self.events.send(Event::Opened(self.id, local, domains)).await.is_err() {
            return End::quiet();
        }
        let (reader, writer) = tokio::io::split(stream);
        let read = Reader {
            id: self.id,
            bounds: self.bounds,
            events: &self.events,
        };
        let mut read = pin!(read.run(reader));
        let mut write = pin!(write(writer, &mut self.queue, &mut self.writing, &self.queued));
        tokio::select! {
            ended = &mut read => if ended == Ended::Well {
                write.await;
            },
            ended = &mut write => if ended == Ended::Well {
                let _ = timeout(LINGER, read).await;
            },
        }
        End::quiet()
    }
}

/// How one direction has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// The other direction may go on.
    Well,
    Broken,
}

impl End {
    fn of(error: SendError, reason: Reason) -> End {
        End {
            error,
            reason: Some(reason),
        }
    }

    /// Nothing that is worth counting.
    fn quiet() -> End {
        End {
            error: SendError::Unreachable,
            reason: None,
        }
    }
}

async fn connect(from: Option<IpAddr>, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(from) = from {
        // The port is chosen when the destination is known, so that one port serves many destinations.
        let _ = set_option(&socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1);
        socket.bind(SocketAddr::new(from, 0))?;
    }
    socket.set_nodelay(true)?;
    socket.connect(to).await
}

/// Cuts what comes into messages.
struct Reader<'a> {
    id: ConnectionId,
    bounds: Bounds,
    events: &'a mpsc::Sender<Event>,
}

impl Reader<'_> {
    /// Reads until nothing more comes, and says so to the loop, which then closes the writing side.
    async fn run(&self, mut stream: ReadHalf<impl AsyncRead + AsyncWrite>) -> Ended {
        let Ok(reason) = self.messages(&mut stream).await else {
            return Ended::Broken;
        };
        if self.tell(Event::Ended(self.id, reason)).await.is_err() {
            return Ended::Broken;
        }
        // Bytes that nobody has read when the socket is closed would make the kernel throw away our answer.
        let mut bin = [0; 1024];
        while matches!(stream.read(&mut bin).await, Ok(1..)) {}
        Ended::Well
    }

    /// Reads until nothing more will come; why, if it is worth counting.
    ///
    /// # Errors
    /// If the stream is broken, or nobody listens.
    async fn messages(&self, stream: &mut ReadHalf<impl AsyncRead + AsyncWrite>) -> Result<Option<Reason>, ()> {
        let mut framer = Framer::new(self.bounds.message_size);
        let mut room = *ROOM.start();
        let mut last = Instant::now();
        // When the message that has begun must have ended.
        let mut due = None;
        loop {
            let deadline = due.unwrap_or(last + self.bounds.idle);
            let buffer = framer.buffer(room);
            let before = buffer.len();
            let Ok(read) = timeout_at(deadline, stream.read_buf(buffer)).await else {
                if due.is_some() {
                    self.rest(&mut framer).await?;
                    return Ok(Some(Reason::Slow));
                }
                // The loop closes it unless somebody needs it. Asked again after another such time.
                self.tell(Event::Idle(self.id)).await?;
                last = Instant::now();
                continue;
            };
            let full = buffer.len() == buffer.capacity();
            let length = read.map_err(drop)?;
            if length == 0 {
                self.rest(&mut framer).await?;
                return Ok(None);
            }
            let now = Instant::now();
            if now - last > PAUSE && before == 0 {
                framer.pause();
            }
            last = now;
            room = if full {
                (room * 2).min(*ROOM.end())
            } else {
                *ROOM.start()
            };
            let (more, some) = self.frames(&mut framer).await?;
            if let Some(reason) = more {
                return Ok(Some(reason));
            }
            due = match due {
                _ if !framer.is_partial() => None,
                Some(due) if !some => Some(due),
                _ => Some(now + self.bounds.message_time),
            };
        }
    }

    /// Passes on all frames that are complete: why there will be no more, and whether there were any.
    async fn frames(&self, framer: &mut Framer) -> Result<(Option<Reason>, bool), ()> {
        let (mut some, mut line_ends, mut pings) = (false, 0, 0);
        let reason = loop {
            match framer.frame() {
                Ok(Some(Frame::LineEnd)) => line_ends += 1,
                Ok(Some(Frame::Ping)) => pings += 1,
                Ok(Some(Frame::Message(message))) => {
                    some = true;
                    self.tell(Event::Message(self.id, message)).await?;
                }
                Ok(None) => break None,
                Err(broken) => {
                    if let Some(head) = broken.head {
                        self.tell(Event::Message(self.id, head)).await?;
                    }
                    break Some(if broken.too_large {
                        Reason::TooLarge
                    } else {
                        Reason::Unframeable
                    });
                }
            }
        };
        if line_ends + pings > 0 {
            self.tell(Event::LineEnds(self.id, pings)).await?;
        }
        Ok((reason, some))
    }

    /// Passes on a message that will never be complete: the core can answer it.
    async fn rest(&self, framer: &mut Framer) -> Result<(), ()> {
        match framer.rest() {
            Some(rest) => self.tell(Event::Message(self.id, rest)).await,
            None => Ok(()),
        }
    }

    async fn tell(&self, event: Event) -> Result<(), ()> {
        self.events.send(event).await.map_err(drop)
    }
}

/// Writes what is in the queue until it says that the connection is to be closed, or nothing can be written any more. `writing` are the tickets
/// of what may not have gone out.
async fn write(
    mut stream: WriteHalf<impl AsyncRead + AsyncWrite>,
    queue: &mut mpsc::UnboundedReceiver<Item>,
    writing: &mut Vec<Ticket>,
    queued: &AtomicUsize,
) -> Ended {
    let mut items = Vec::with_capacity(GATHER);
    while queue.recv_many(&mut items, GATHER).await > 0 {
        let mut close = false;
        let mut pieces = Vec::with_capacity(items.len());
        for item in items.drain(..) {
            match item {
                Item::Send(bytes, ticket) => {
                    pieces.push(bytes);
                    writing.extend(ticket);
                }
                Item::Close => close = true,
            }
        }
        let length = pieces.iter().map(Bytes::len).sum();
        let sent = send(&mut stream, join(pieces, length)).await;
        queued.fetch_sub(length, Ordering::Relaxed);
        if sent.is_err() {
            return Ended::Broken;
        }
        writing.clear();
        if close {
            let _ = timeout(LINGER, stream.shutdown()).await;
            return Ended::Well;
        }
    }
    Ended::Broken
}

/// One piece, so that small messages share packets and TLS records.
fn join(mut pieces: Vec<Bytes>, length: usize) -> Bytes {
    if pieces.len() == 1 {
        return pieces.swap_remove(0);
    }
    let mut whole = BytesMut::with_capacity(length);
    pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
    whole.freeze()
}

/// Writes everything, unless the peer takes nothing for too long.
async fn send(stream: &mut WriteHalf<impl AsyncRead + AsyncWrite>, mut bytes: Bytes) -> io::Result<()> {
    while bytes.has_remaining() {
        if timeout(STALLED, stream.write_buf(&mut bytes)).await?? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    timeout(STALLED, stream.flush()).await?
}

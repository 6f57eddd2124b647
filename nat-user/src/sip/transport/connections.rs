//! All connections: who may have one, which one a message takes, and how much may wait on it.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use rustc_hash::FxHashMap;
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
};

use super::{
    connection::{Bounds, Item, Origin, Task},
    counters::Reason,
    event::Event,
    tls::{Identity, server_name},
};
use crate::{
    config::sip::SipLimits,
    sip::{
        command::{Hop, SendError, Ticket},
        flow::{ConnectionId, Flow, ListenerId, Transport},
    },
};

/// Bytes that may wait on one connection: some thousand messages, or sixteen of the biggest.
const QUEUE: usize = 1 << 20;

/// Why something is not sent, for who waits and for the counters.
pub type Refused = (SendError, Reason);

/// The table of connections.
pub struct Connections {
    table: FxHashMap<ConnectionId, Connection>,
    /// Connections that serve for sending to a place.
    places: FxHashMap<(ListenerId, Hop), ConnectionId>,
    /// How many connections a source has made.
    sources: FxHashMap<IpAddr, u32>,
    last: ConnectionId,
    events: mpsc::Sender<Event>,
}

struct Connection {
    flow: Flow,
    state: State,
    /// Our end; while it is not open, what it will be as far as is known.
    local: SocketAddr,
    queue: mpsc::UnboundedSender<Item>,
    /// Bytes in the queue.
    queued: Arc<AtomicUsize>,
    /// Dropped to end the task at once.
    alive: Option<oneshot::Sender<()>>,
    places: Vec<Hop>,
    /// The domains that its client has proven to be.
    domains: Vec<Arc<str>>,
    /// The source that it counts for, if it was accepted.
    source: Option<IpAddr>,
}

enum State {
    /// Being made; these wait for news.
    Opening(Vec<Ticket>),
    Open,
    /// Nothing more is sent. Whether it was open before.
    Closing(bool),
}

/// A connection that is open now.
pub struct Opened {
    pub flow: Flow,
    pub accepted: bool,
    /// Who waits to know the flow.
    pub waiting: Vec<Ticket>,
}

/// What is left of a connection that has gone.
pub struct Gone {
    pub flow: Flow,
    /// Whether anybody has heard of it.
    pub was_open: bool,
}

impl Connections {
    pub fn new(events: mpsc::Sender<Event>) -> Connections {
        Connections {
            table: FxHashMap::default(),
            places: FxHashMap::default(),
            sources: FxHashMap::default(),
            last: ConnectionId::NONE,
            events,
        }
    }

    /// Takes an accepted connection.
    ///
    /// # Errors
    /// If there are too many.
    pub fn accept(
        &mut self,
        (listener, transport): (ListenerId, Transport),
        (stream, remote): (TcpStream, SocketAddr),
        identity: &Identity,
        limits: &SipLimits,
    ) -> Result<(), Reason> {
        let source = source(remote.ip());
        if self.table.len() >= limits.connections as usize {
            return Err(Reason::Connections);
        }
        if self
            .sources
            .get(&source)
            .is_some_and(|count| *count >= limits.connections_per_source)
        {
            return Err(Reason::ConnectionsPerSource);
        }
        let acceptor = match transport {
            Transport::Tls => {
                let acceptor = identity.acceptor.clone().ok_or(Reason::Handshake)?;
                Some((acceptor, identity.clients()))
            }
            _ => None,
        };
        *self.sources.entry(source).or_default() += 1;
        let local = stream.local_addr().unwrap_or(remote);
        let _ = stream.set_nodelay(true);
        let id = self.start(
            (listener, transport),
            (local, remote),
            Origin::Accepted(stream, acceptor),
            limits,
        );
        let place = Hop {
            transport,
            address: remote,
            name: None,
        };
        if let Some(connection) = self.table.get_mut(&id) {
            connection.source = Some(source);
        }
        // Over TLS a place has a name, and whose the client has is not known yet.
        if transport == Transport::Tcp {
            self.serve(id, listener, place);
        }
        Ok(())
    }

    /// The connection for a place: one that serves for it, or a new one from an address of ours.
    ///
    /// # Errors
    /// If there are too many, or no certificate can be the right one.
    pub fn reach(
        &mut self,
        listener: ListenerId,
        hop: &Hop,
        from: IpAddr,
        identity: &Identity,
        limits: &SipLimits,
    ) -> Result<ConnectionId, Refused> {
        if let Some(id) = self.places.get(&(listener, hop.clone())) {
            return Ok(*id);
        }
        let to = hop.address;
        if from.is_ipv4() != to.is_ipv4() || to.port() == 0 || to.ip().is_unspecified() {
            return Err((SendError::Unreachable, Reason::Unreachable));
        }
        if self.table.len() >= limits.connections as usize {
            return Err((SendError::Overloaded, Reason::Connections));
        }
        let tls = match hop.transport {
            Transport::Tls => {
                let name = server_name(hop).map_err(|_| (SendError::Certificate, Reason::Certificate))?;
                Some((identity.connector.clone(), name))
            }
            _ => None,
        };
        let origin = Origin::Connect {
            from: (!from.is_unspecified()).then_some(from),
            to,
            tls,
        };
        let id = self.start(
            (listener, hop.transport),
            (SocketAddr::new(from, 0), to),
            origin,
            limits,
        );
        self.serve(id, listener, hop.clone());
        Ok(id)
    }

    /// Queues bytes. `wants_flow`: who waits wants to know the flow: `Ok(Some)` if it is known already, otherwise [`Connections::opened`] tells.
    ///
    /// # Errors
    /// If the connection is gone, or its peer does not take what is sent: it is closed then.
    pub fn push(
        &mut self,
        id: ConnectionId,
        bytes: Bytes,
        ticket: Option<Ticket>,
        wants_flow: bool,
    ) -> Result<Option<Flow>, Refused> {
        let gone = (SendError::Unreachable, Reason::Unreachable);
        let connection = self.table.get_mut(&id).ok_or(gone)?;
        if matches!(connection.state, State::Closing(_)) {
            return Err(gone);
        }
        let length = bytes.len();
        if connection.queued.load(Ordering::Relaxed) + length > QUEUE {
            self.kill(id);
            return Err((SendError::Overloaded, Reason::QueueFull));
        }
        connection.queue.send(Item::Send(bytes, ticket)).map_err(|_| gone)?;
        connection.queued.fetch_add(length, Ordering::Relaxed);
        match &mut connection.state {
            State::Opening(waiting) if wants_flow => {
                waiting.extend(ticket);
                Ok(None)
            }
            State::Open if wants_flow => Ok(Some(connection.flow)),
            _ => Ok(None),
        }
    }

    /// It is open.
    pub fn opened(&mut self, id: ConnectionId, local: SocketAddr, domains: Vec<Arc<str>>) -> Option<Opened> {
        let connection = self.table.get_mut(&id)?;
        connection.local = local;
        connection.domains = domains;
        match std::mem::replace(&mut connection.state, State::Open) {
            State::Opening(waiting) => Some(Opened {
                flow: connection.flow,
                accepted: connection.source.is_some(),
                waiting,
            }),
            closing => {
                connection.state = closing;
                None
            }
        }
    }

    /// Its task has ended.
    pub fn closed(&mut self, id: ConnectionId) -> Option<Gone> {
        self.retire(id);
        let connection = self.table.remove(&id)?;
        if let Some(source) = connection.source
            && let Some(count) = self.sources.get_mut(&source)
        {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&source);
            }
        }
        Some(Gone {
            flow: connection.flow,
            was_open: matches!(connection.state, State::Open | State::Closing(true)),
        })
    }

    /// Closes it once what is queued has gone out.
    pub fn close(&mut self, id: ConnectionId) {
        if let Some(connection) = self.retire(id) {
            let _ = connection.queue.send(Item::Close);
        }
    }

    /// Ends it at once.
    pub fn kill(&mut self, id: ConnectionId) {
        if let Some(connection) = self.retire(id) {
            connection.alive = None;
        }
    }

    /// Ends those of a listener whose end is not at `kept`.
    pub fn strand(&mut self, listener: ListenerId, kept: Option<IpAddr>) {
        let stranded = |(id, connection): (&ConnectionId, &Connection)| {
            (connection.flow.listener == listener && Some(connection.local.ip()) != kept).then_some(*id)
        };
        for id in self.table.iter().filter_map(stranded).collect::<Vec<_>>() {
            self.kill(id);
        }
    }

    /// Closes all.
    pub fn close_all(&mut self) {
        for id in self.table.keys().copied().collect::<Vec<_>>() {
            self.close(id);
        }
    }

    /// Lets a connection that was accepted serve for sending to the address that its client named (RFC 5923 section 8). Only the port may differ from where it came
    /// from, so that nobody gets what is for others; and over TLS only what is for a domain that the client has proven to be (section 8.2).
    ///
    /// # Errors
    /// If it has no right to that address.
    pub fn alias(&mut self, id: ConnectionId, address: SocketAddr) -> Result<(), Reason> {
        let connection = self.table.get(&id).ok_or(Reason::Alias)?;
        let flow = connection.flow;
        let may = flow.remote.ip() == address.ip() && address.port() != 0;
        let names: Vec<Option<Arc<str>>> = match flow.transport {
            Transport::Tls => connection.domains.iter().cloned().map(Some).collect(),
            _ => vec![None],
        };
        if !may || names.is_empty() || matches!(connection.state, State::Closing(_)) {
            return Err(Reason::Alias);
        }
        for name in names {
            let place = Hop {
                transport: flow.transport,
                address,
                name,
            };
            self.serve(id, flow.listener, place);
        }
        Ok(())
    }

    /// Its flow, if it is open and not closing.
    pub fn open(&self, id: ConnectionId) -> Option<Flow> {
        let open = |connection: &&Connection| matches!(connection.state, State::Open);
        self.table.get(&id).filter(open).map(|connection| connection.flow)
    }

    /// Its flow and our end of it.
    pub fn get(&self, id: ConnectionId) -> Option<(Flow, SocketAddr)> {
        self.table
            .get(&id)
            .map(|connection| (connection.flow, connection.local))
    }

    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    fn start(
        &mut self,
        (listener, transport): (ListenerId, Transport),
        (local, remote): (SocketAddr, SocketAddr),
        origin: Origin,
        limits: &SipLimits,
    ) -> ConnectionId {
        self.last = ConnectionId(self.last.0 + 1);
        let id = self.last;
        let (sender, queue) = mpsc::unbounded_channel();
        let (alive, still) = oneshot::channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let task = Task {
            id,
            queued: Arc::clone(&queued),
            bounds: Bounds {
                idle: limits.idle,
                message_time: limits.message_time,
                message_size: limits.message_size as usize,
            },
            events: self.events.clone(),
            queue,
            writing: Vec::new(),
        };
        tokio::spawn(task.run(origin, still));
        let connection = Connection {
            flow: Flow::stream(listener, transport, remote, id),
            state: State::Opening(Vec::new()),
            local,
            queue: sender,
            queued,
            alive: Some(alive),
            places: Vec::new(),
            domains: Vec::new(),
            source: None,
        };
        self.table.insert(id, connection);
        id
    }

    /// Lets a connection serve for a place, if none does yet.
    fn serve(&mut self, id: ConnectionId, listener: ListenerId, place: Hop) {
        let Some(connection) = self.table.get_mut(&id) else {
            return;
        };
        if let std::collections::hash_map::Entry::Vacant(vacant) = self.places.entry((listener, place.clone())) {
            vacant.insert(id);
            connection.places.push(place);
        }
    }

    /// Nothing more is sent on it, and it serves for no place any more. `None` if that is so already.
    fn retire(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let connection = self.table.get_mut(&id)?;
        let was_open = match connection.state {
            State::Opening(_) => false,
            State::Open => true,
            State::Closing(_) => return None,
        };
        connection.state = State::Closing(was_open);
        for place in connection.places.drain(..) {
            self.places.remove(&(connection.flow.listener, place));
        }
        Some(connection)
    }
}

/// What counts as one source: an IPv4 address, or the /64 that one customer has at least.
fn source(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
    }
}

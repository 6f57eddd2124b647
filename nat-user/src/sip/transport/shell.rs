//! The loop: takes what came, gives it to the core, does what the core says.

use std::{
    collections::VecDeque,
    future::poll_fn,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use anyhow::{Result, anyhow, bail};
use bytes::Bytes;
use tokio::{
    sync::mpsc,
    time::{Instant, Sleep},
};

use super::{
    Counters, Engine, Local, Options, Place, Reason, Request,
    batch::Batch,
    clock::Clock,
    connections::{Connections, Refused},
    event::Event,
    mmsg::{Arena, Outbox},
    sockets::Listening,
    tls::Identity,
    trace::{Direction, Taps, Traced},
};
use crate::sip::{
    command::{Command, Destination, Hop, Input, QueryId, SendError, Target, Ticket},
    flow::{ConnectionId, Flow, ListenerId, Transport},
    resolve::{
        Resolver,
        select::{self, Can, Plan},
    },
    time::Time,
};

/// Events and requests that one turn takes.
const EVENTS: usize = 64;
const REQUESTS: usize = 16;
/// The core's deadlines are served at multiples of this many milliseconds, unless the thread is awake anyway: what is due in between goes out
/// together, in one batch after one wake-up, this much late at most. With 100,000 paths to be prompted, some deadline is due every millisecond.
const STEP: u64 = 20;
/// Look-ups that run at one time.
const QUERIES: usize = 1000;

/// Everything that the thread owns.
pub(super) struct Shell<E: Engine> {
    engine: E,
    clock: Clock,
    now: Time,
    options: Options,
    listeners: Vec<Listening>,
    connections: Connections,
    identity: Identity,
    /// `None`: only addresses are found.
    resolver: Option<Resolver>,
    /// Look-ups that run.
    queries: usize,
    arena: Arena,
    outbox: Outbox,
    /// What is to be told to the core in the next turn.
    inputs: VecDeque<Input>,
    commands: Vec<Command>,
    events: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    came: Vec<Event>,
    requests: mpsc::Receiver<Request<E::Call>>,
    asked: Vec<Request<E::Call>>,
    timer: Pin<Box<Sleep>>,
    armed: Option<Time>,
    counters: Counters,
    taps: Taps,
    /// Whose turn it is to be served first.
    first: usize,
    stopping: bool,
}

impl<E: Engine> Shell<E> {
    /// Binds everything and makes the core.
    pub fn new(
        options: Options,
        requests: mpsc::Receiver<Request<E::Call>>,
        make: impl FnOnce(&[Local], Time) -> Result<E>,
    ) -> Result<Self> {
        let events = mpsc::channel(1024);
        let identity = identity(&options)?;
        let mut listeners = Vec::new();
        for place in &options.listeners {
            listeners.push(Listening::open(place.clone(), &events.0)?);
        }
        let locals: Vec<Local> = listeners.iter().map(Listening::local).collect();
        let clock = Clock::start();
        let now = clock.now();
        Ok(Shell {
            engine: make(&locals, now)?,
            clock,
            now,
            listeners,
            connections: Connections::new(events.0.clone()),
            identity,
            resolver: resolver(&options)?,
            queries: 0,
            arena: Arena::new(),
            outbox: Outbox::new(),
            inputs: VecDeque::new(),
            commands: Vec::new(),
            events,
            came: Vec::new(),
            requests,
            asked: Vec::new(),
            timer: Box::pin(tokio::time::sleep_until(Instant::now())),
            armed: None,
            counters: Counters::default(),
            taps: Taps::default(),
            first: 0,
            stopping: false,
            options,
        })
    }

    /// Runs until it is told to stop or nobody is left who could.
    pub async fn run(mut self) {
        while !self.stopping {
            poll_fn(|context| self.poll_work(context)).await;
            self.turn();
            // Connections, and the driver that says what is ready.
            tokio::task::yield_now().await;
        }
        self.finish().await;
    }

    /// Collects a bounded amount of work from everywhere; pending if there is none anywhere.
    fn poll_work(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.now = self.clock.now();
        let mut work = !self.inputs.is_empty();
        if self.engine.is_ready() {
            work |= self.poll_sockets(context);
            work |= matches!(self.events.1.poll_recv_many(context, &mut self.came, EVENTS), Poll::Ready(n) if n > 0);
        }
        match self.requests.poll_recv_many(context, &mut self.asked, REQUESTS) {
            Poll::Ready(0) => {
                self.stopping = true;
                work = true;
            }
            Poll::Ready(_) => work = true,
            Poll::Pending => {}
        }
        work |= self.poll_timer(context);
        if work { Poll::Ready(()) } else { Poll::Pending }
    }

    /// One batch from each socket.
    fn poll_sockets(&mut self, context: &mut Context<'_>) -> bool {
        let mut work = false;
        let count = self.listeners.len();
        self.first = (self.first + 1) % count.max(1);
        for i in 0..count {
            let Some(udp) = self.listeners[(self.first + i) % count].udp() else {
                continue;
            };
            work |= udp.is_waiting() && udp.poll_writable(context).is_ready();
            if let Poll::Ready(received) = udp.poll_receive(context, &mut self.arena) {
                work = true;
                let mut batch = Batch {
                    arena: &self.arena,
                    limit: self.options.limits.message_size as usize,
                    now: self.now,
                    counters: &mut self.counters,
                    taps: &mut self.taps,
                    inputs: &mut self.inputs,
                };
                (0..received).for_each(|i| batch.take(udp, i));
            }
        }
        work
    }

    fn poll_timer(&mut self, context: &mut Context<'_>) -> bool {
        let next = self.engine.next();
        if next.is_some_and(|next| next <= self.now) {
            return true;
        }
        let step = next.and_then(|next| next.0.checked_next_multiple_of(STEP)).map(Time);
        let Some(instant) = step.and_then(|step| self.clock.instant(step)) else {
            self.armed = None;
            return false;
        };
        if self.armed != step {
            self.armed = step;
            self.timer.as_mut().reset(Instant::from_std(instant));
        }
        self.timer.as_mut().poll(context).is_ready()
    }

    /// Gives everything that came to the core, in order, and carries out what it says.
    fn turn(&mut self) {
        self.now = self.clock.now();
        for _ in 0..self.inputs.len() {
            if let Some(input) = self.inputs.pop_front() {
                self.engine.input(input, self.now, &mut self.commands);
            }
        }
        for event in std::mem::take(&mut self.came) {
            self.event(event);
        }
        for request in std::mem::take(&mut self.asked) {
            self.request(request);
        }
        if self.engine.next().is_some_and(|next| next <= self.now) {
            self.engine.tick(self.now, &mut self.commands);
        }
        let mut commands = std::mem::take(&mut self.commands);
        for command in commands.drain(..) {
            self.execute(command);
        }
        self.commands = commands;
        for udp in self.listeners.iter_mut().filter_map(Listening::udp) {
            udp.flush(&mut self.outbox, self.now, &mut self.counters, &mut self.inputs);
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Refused(listener, refusals) => {
                if let Some(udp) = find(&mut self.listeners, listener).and_then(Listening::udp) {
                    udp.refused(&refusals, self.now, &mut self.counters, &mut self.inputs);
                }
            }
            Event::Accepted(listener, stream, remote) => {
                let Some(listening) = find(&mut self.listeners, listener) else {
                    return;
                };
                let place = (listener, listening.place.listener.transport);
                let (connections, limits) = (&mut self.connections, &self.options.limits);
                if let Err(reason) = connections.accept(place, (stream, remote), &self.identity, limits) {
                    self.counters.drop(reason);
                }
            }
            Event::Opened(id, local, domains) => {
                let Some(opened) = self.connections.opened(id, local, domains) else {
                    return;
                };
                let traffic = self.counters.of_mut(opened.flow.transport);
                traffic.open += 1;
                *(if opened.accepted {
                    &mut traffic.accepted
                } else {
                    &mut traffic.connected
                }) += 1;
                let flow = opened.flow;
                self.tell(Input::Opened(flow));
                for ticket in opened.waiting {
                    self.tell(Input::Sent { ticket, flow });
                }
            }
            Event::Message(id, bytes) => {
                if let Some((flow, local)) = self.connections.get(id) {
                    self.counters.received(flow.transport, bytes.len());
                    self.trace(Direction::In, flow, local, &bytes);
                    self.tell(Input::Received { flow, local, bytes });
                }
            }
            Event::LineEnds(id, pings) => {
                if let Some((flow, _)) = self.connections.get(id) {
                    self.counters.of_mut(flow.transport).keep_alives += 1;
                    if pings > 0 {
                        // If there is no room, the connection is closed, which is an answer too.
                        let _ = self
                            .connections
                            .push(id, Bytes::from(b"\r\n".repeat(pings)), None, false);
                    }
                    self.tell(Input::KeptAlive(flow));
                }
            }
            Event::Idle(id) => {
                let flow = self.connections.open(id);
                if flow.is_some_and(|flow| !self.engine.uses(&flow)) {
                    self.counters.drop(Reason::Idle);
                    self.connections.close(id);
                }
            }
            Event::Ended(id, reason) => {
                if let Some(reason) = reason {
                    self.counters.drop(reason);
                }
                if let Some((flow, _)) = self.connections.get(id) {
                    // After what the core has to say about what came before.
                    self.commands.push(Command::Close(flow));
                }
            }
            Event::Closed(id, farewell) => {
                let Some(gone) = self.connections.closed(id) else {
                    return;
                };
                if let Some(reason) = farewell.reason {
                    self.counters.drop(reason);
                }
                for ticket in farewell.unsent {
                    let reason = farewell.error;
                    self.tell(Input::Failed { ticket, reason });
                }
                if gone.was_open {
                    self.counters.of_mut(gone.flow.transport).open -= 1;
                    self.tell(Input::Closed(gone.flow));
                }
            }
            Event::Resolved(query, hops) => {
                self.queries -= 1;
                self.resolved(query, hops);
            }
        }
    }

    fn tell(&mut self, input: Input) {
        self.engine.input(input, self.now, &mut self.commands);
    }

    fn trace(&mut self, direction: Direction, flow: Flow, local: SocketAddr, bytes: &Bytes) {
        let time = self.now;
        self.taps.tell(&mut self.counters, || Traced {
            time,
            direction,
            flow,
            local,
            bytes: bytes.clone(),
        });
    }

    fn request(&mut self, request: Request<E::Call>) {
        // Who asked may have gone; that is his business.
        match request {
            Request::Call(call) => self.engine.call(call, self.now, &mut self.commands),
            Request::Moved(listener, address, reply) => {
                let _ = reply.send(self.move_listener(listener, address));
            }
            Request::Reload(options, reply) => {
                let _ = reply.send(self.reload(*options));
            }
            Request::Counters(reply) => {
                let _ = reply.send(self.counters.clone());
            }
            Request::Locals(reply) => {
                let _ = reply.send(self.listeners.iter().map(Listening::local).collect());
            }
            Request::Trace(tap, reply) => {
                self.taps.add(tap);
                let _ = reply.send(());
            }
            Request::Stop => self.stopping = true,
        }
    }

    fn execute(&mut self, command: Command) {
        match command {
            Command::Send { to, bytes, ticket } => {
                if let Err((reason, counted)) = self.send(to, bytes, ticket) {
                    self.counters.drop(counted);
                    self.inputs
                        .extend(ticket.map(|ticket| Input::Failed { ticket, reason }));
                }
            }
            Command::Resolve { query, target } => self.resolve(query, target),
            Command::Close(flow) => self.connections.close(flow.connection),
            Command::Alias { flow, address } => {
                if let Err(reason) = self.connections.alias(flow.connection, address) {
                    self.counters.drop(reason);
                }
            }
            Command::KeepAlive(flow) if flow.transport.reliable() => {
                let ping = Bytes::from_static(b"\r\n\r\n");
                // A connection that is gone or does not take it is reported as closed.
                let _ = self.connections.push(flow.connection, ping, None, false);
            }
            Command::KeepAlive(flow) => {
                if let Some(udp) = find(&mut self.listeners, flow.listener).and_then(Listening::udp) {
                    // Lost, like any datagram may be, if there is no room.
                    let _ = udp.push(flow.remote, Bytes::from_static(b"\r\n"), None);
                }
            }
        }
    }

    fn send(&mut self, to: Destination, bytes: Bytes, ticket: Option<Ticket>) -> Result<(), Refused> {
        match to {
            Destination::Flow(flow) if flow.transport.reliable() => {
                self.send_stream(flow.connection, bytes, ticket, false)
            }
            Destination::Flow(flow) => self.send_datagram(flow, bytes, ticket),
            Destination::Hop { listener, hop } if !hop.transport.reliable() => {
                self.send_datagram(Flow::udp(listener, hop.address), bytes, ticket)
            }
            Destination::Hop { listener, hop } => {
                let from = find(&mut self.listeners, listener).and_then(|listening| listening.ip());
                let from = from.ok_or((SendError::Unreachable, Reason::Unreachable))?;
                let (connections, limits) = (&mut self.connections, &self.options.limits);
                let id = connections.reach(listener, &hop, from, &self.identity, limits)?;
                self.send_stream(id, bytes, ticket, true)
            }
        }
    }

    fn send_stream(
        &mut self,
        id: ConnectionId,
        bytes: Bytes,
        ticket: Option<Ticket>,
        wants_flow: bool,
    ) -> Result<(), Refused> {
        let known = self.connections.push(id, bytes.clone(), ticket, wants_flow)?;
        if let Some((flow, local)) = self.connections.get(id) {
            self.counters.sent(flow.transport, bytes.len());
            self.trace(Direction::Out, flow, local, &bytes);
        }
        if let (Some(flow), Some(ticket)) = (known, ticket) {
            self.inputs.push_back(Input::Sent { ticket, flow });
        }
        Ok(())
    }

    fn send_datagram(&mut self, flow: Flow, bytes: Bytes, ticket: Option<Ticket>) -> Result<(), Refused> {
        let udp = find(&mut self.listeners, flow.listener).and_then(Listening::udp);
        let udp = udp.ok_or((SendError::Unreachable, Reason::Unreachable))?;
        // A copy only for those who look.
        let traced = (!self.taps.is_empty()).then(|| bytes.clone());
        udp.push(flow.remote, bytes, ticket).map_err(|reason| match reason {
            SendError::Overloaded => (reason, Reason::QueueFull),
            _ => (reason, Reason::Unreachable),
        })?;
        if let Some(bytes) = traced {
            let local = udp.local_for(flow.remote);
            self.trace(Direction::Out, flow, local, &bytes);
        }
        Ok(())
    }

    /// An address is its own answer; names are asked for in a task.
    fn resolve(&mut self, query: QueryId, target: Target) {
        self.counters.queries += 1;
        if let Plan::Known(hop) = select::plan(&target) {
            return self.inputs.push_back(Input::Resolved { query, hops: vec![hop] });
        }
        let Some(resolver) = self.resolver.clone() else {
            return self.resolved(query, Vec::new());
        };
        if self.queries >= QUERIES {
            self.counters.drop(Reason::Queries);
            return self.resolved(query, Vec::new());
        }
        self.queries += 1;
        let (can, events) = (self.can(), self.events.0.clone());
        tokio::spawn(async move {
            let hops = resolver.resolve(&target, &can).await;
            let _ = events.send(Event::Resolved(query, hops)).await;
        });
    }

    fn resolved(&mut self, query: QueryId, hops: Vec<Hop>) {
        if hops.is_empty() {
            self.counters.queries_failed += 1;
        }
        self.inputs.push_back(Input::Resolved { query, hops });
    }

    fn can(&self) -> Can {
        let any = |family: fn(&IpAddr) -> bool| self.listeners.iter().filter_map(Listening::ip).any(|ip| family(&ip));
        let mut transports: Vec<Transport> = self
            .listeners
            .iter()
            .map(|listening| listening.place.listener.transport)
            .collect();
        transports.sort_unstable();
        transports.dedup();
        Can {
            transports,
            ipv4: any(IpAddr::is_ipv4),
            ipv6: any(IpAddr::is_ipv6),
        }
    }

    fn move_listener(&mut self, id: ListenerId, address: Option<IpAddr>) -> Result<()> {
        let listening = find(&mut self.listeners, id);
        let listening = listening.ok_or_else(|| anyhow!("there is no SIP listener number {}", id.0 + 1))?;
        let mut place = listening.place.clone();
        if place.found == address && listening.ip().is_some() == address.is_some() {
            return Ok(());
        }
        place.found = address;
        let (opened, result) = match Listening::open(place.clone(), &self.events.0) {
            Ok(opened) => (opened, Ok(())),
            Err(error) => (Listening::nowhere(place), Err(error)),
        };
        let old = std::mem::replace(listening, opened);
        let address = listening.ip();
        self.abandon(old, address);
        self.inputs.push_back(Input::Moved { listener: id, address });
        result
    }

    fn reload(&mut self, options: Options) -> Result<()> {
        // Everything that can fail comes first.
        let (identity, resolver) = (identity(&options)?, resolver(&options)?);
        let mut opened = Vec::new();
        for place in &options.listeners {
            let stays = self.listeners.iter().any(|old| old.serves(place));
            opened.push(if stays {
                None
            } else {
                Some(Listening::open(place.clone(), &self.events.0)?)
            });
        }
        let mut old = std::mem::take(&mut self.listeners);
        for (place, opened) in options.listeners.iter().zip(opened) {
            let kept = old.iter().position(|old| old.serves(place));
            self.listeners.extend(opened.or_else(|| {
                let mut kept = old.swap_remove(kept?);
                kept.place.listener = place.listener.clone();
                Some(kept)
            }));
        }
        for gone in old {
            self.abandon(gone, None);
        }
        (self.identity, self.resolver) = (identity, resolver);
        self.options = options;
        Ok(())
    }

    /// A socket goes away: tells who waits for what it has not sent, and ends its connections but those at `kept`.
    fn abandon(&mut self, mut listening: Listening, kept: Option<IpAddr>) {
        let id = listening.place.id;
        if let Some(udp) = listening.udp() {
            let reason = SendError::Unreachable;
            let failed = udp.abandoned().map(|ticket| Input::Failed { ticket, reason });
            self.inputs.extend(failed);
        }
        self.connections.strand(id, kept);
    }

    /// Gives what was queued a moment to go out.
    async fn finish(&mut self) {
        const MOMENT: Duration = Duration::from_secs(1);
        self.listeners.clear();
        self.connections.close_all();
        let all = async {
            while !self.connections.is_empty()
                && let Some(event) = self.events.1.recv().await
            {
                if let Event::Closed(id, _) = event {
                    self.connections.closed(id);
                }
            }
        };
        // Who does not take it by then does not get it.
        let _ = tokio::time::timeout(MOMENT, all).await;
    }
}

/// The certificates, which a TLS listener must have.
fn identity(options: &Options) -> Result<Identity> {
    let identity = Identity::read(options.tls.as_ref())?;
    let tls = |place: &&Place| place.listener.transport == Transport::Tls;
    if let Some(place) = options.listeners.iter().find(tls)
        && identity.acceptor.is_none()
    {
        let number = place.id.0 + 1;
        bail!(
            "[[sip.listen]] number {number} speaks TLS and there is no certificate; set `certificate` and `key` in [sip.tls]"
        );
    }
    Ok(identity)
}

/// Name servers that are given must be usable. Without any, a machine without `/etc/resolv.conf` may do.
fn resolver(options: &Options) -> Result<Option<Resolver>> {
    match Resolver::new(&options.dns) {
        Ok(resolver) => Ok(Some(resolver)),
        Err(error) if options.dns.is_empty() => {
            tracing::warn!("SIP knows no names, only addresses: {error:#}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn find(listeners: &mut [Listening], id: ListenerId) -> Option<&mut Listening> {
    listeners.iter_mut().find(|listening| listening.place.id == id)
}

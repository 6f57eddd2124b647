//! The SIP core: one state machine for everything that a SIP server decides. [`Input`]s and the time go in, [`Command`]s come out.
//!
//! The way of a request (`request.rs`): transaction (copies of what was answered, ACK, CANCEL) → faults → limits → hops and loops → Route → who
//! is it → where does it go → branches (`branches.rs`). A response (`response.rs`) finds its branch by our Via, and the best one is given to
//! the server transaction, which leaves on the flow that the request came in on.

pub mod arena;
mod branches;
mod calls;
pub mod connections;
pub mod desk;
mod dialogs;
mod hang_up;
pub mod here;
pub mod kept;
mod media;
mod queries;
mod request;
mod response;
pub mod seam;
#[cfg(test)]
mod tests;

use std::{net::IpAddr, sync::Arc};

use self::{
    arena::{Arena, Id},
    connections::Connections,
    here::Here,
    queries::{Queries, Waiting},
    seam::Registry,
};
use super::{
    calls::Recorder,
    command::{Command, Input, QueryId},
    dialog::Dialogs,
    flow::{Flow, ListenerId},
    message::Message,
    metrics::{Refusal, SipMetrics, TimerLabel},
    overload::Overload,
    path::{self, PathAction, Paths, prompt::Prompter},
    proxy::Context,
    route::DialPlan,
    time::Time,
    timers::Timers,
    token::Tokens,
    transaction::{
        Due, Periods,
        client::{self, Clients},
        key::Keys,
        server::{self, Servers},
    },
};
use crate::config::sip::{Listener, Sip};

/// What a core begins with.
#[derive(Clone, Debug)]
pub struct Beginning {
    pub config: Arc<Sip>,
    /// The listeners with their ids, and the addresses that those have which follow an interface.
    pub listeners: Vec<(ListenerId, Listener, Option<IpAddr>)>,
    /// For tokens; the same over restarts.
    pub secret: Vec<u8>,
}

/// The core. `R` knows users and registrations.
#[derive(Debug)]
pub struct Core<R> {
    config: Arc<Sip>,
    here: Here,
    tokens: Tokens,
    keys: Keys,
    servers: Servers,
    clients: Clients,
    contexts: Arena<Context>,
    dialogs: Dialogs,
    connections: Connections,
    /// `None`: session descriptions pass as they are.
    media: Option<media::Media>,
    kept: kept::Kept,
    /// `None`: nobody is told of calls that have ended.
    recorder: Option<Arc<Recorder>>,
    queries: Queries,
    timers: Timers<Due>,
    plan: DialPlan,
    overload: Overload,
    pub paths: Paths,
    prompter: Prompter,
    pub registry: R,
    pub metrics: SipMetrics,
    /// Actions of paths that the registrar has to know.
    news: Vec<PathAction>,
}

impl<R: Registry> Core<R> {
    pub fn new(beginning: Beginning, paths: Paths, registry: R) -> Core<R> {
        let config = beginning.config;
        let keys = Keys::default();
        let periods = periods(&config);
        let mut core = Core {
            here: Here::new(beginning.listeners),
            tokens: Tokens::new(&beginning.secret),
            servers: Servers::new(periods, config.limits.transactions as usize),
            clients: Clients::new(periods, keys.clone()),
            keys,
            contexts: Arena::default(),
            dialogs: Dialogs::new(&config.proxy),
            connections: Connections::default(),
            media: None,
            kept: kept::Kept::default(),
            recorder: None,
            queries: Queries::default(),
            timers: Timers::new(),
            plan: DialPlan::new(&config),
            overload: Overload::new(config.limits.transactions),
            paths,
            prompter: Prompter::default(),
            registry,
            metrics: SipMetrics::default(),
            news: Vec::new(),
            config,
        };
        core.name_listeners();
        core
    }

    /// Something happened.
    pub fn input(&mut self, input: Input, now: Time, out: &mut Vec<Command>) {
        self.take(input, now, out);
        self.calls_end(now);
        self.note_changes(now);
    }

    fn take(&mut self, input: Input, now: Time, out: &mut Vec<Command>) {
        match input {
            Input::Received { flow, local, bytes } => {
                if self.here.reached(flow.listener, local) {
                    self.name_listeners();
                }
                self.paths.touch(&flow, now);
                if bytes.starts_with(b"REGISTER ")
                    && let Some((contact, message)) = self.registry.repeats(&bytes, &flow, &self.paths, now)
                    // One of a server like this one may have been here before.
                    && message.via().is_some_and(|via| client::loop_part(via.branch()).is_none())
                {
                    return self.request(message, Some(contact), flow, local, now, out);
                }
                let Ok(message) = Message::parse(bytes) else {
                    return self.metrics.refuse(Refusal::Unparsable); // nobody can be answered
                };
                if message.method().is_some() {
                    self.request(message, None, flow, local, now, out);
                } else {
                    self.response(message, flow, now, out);
                }
            }
            Input::KeptAlive(flow) => self.paths.kept_alive(&flow, now),
            Input::Opened(flow) => self.connections.opened(&flow),
            Input::Closed(flow) => {
                self.connections.closed(&flow);
                // While it is known whose connection that was, for another flow to the same device.
                self.strand(&flow, now, out);
                self.registry.closed(&flow, &mut self.paths, now);
                self.paths.closed(&flow, now);
            }
            Input::Sent { ticket, flow } => {
                if let Some(client) = self.clients.by_ticket(ticket) {
                    self.clients.carried(client, flow);
                }
            }
            Input::Failed { ticket, reason } => {
                if let Some(client) = self.clients.by_ticket(ticket) {
                    self.send_failed(client, reason, now, out);
                }
            }
            Input::Resolved { query, hops } => match self.queries.end(query) {
                Some(Waiting::Branch { context, branch }) => self.resolved(context, branch, hops, now, out),
                Some(Waiting::Ack(ack)) => self.send_ack(*ack, hops, out),
                None => {}
            },
            Input::Moved { listener, address } => {
                self.here.moved(listener, address);
                self.name_listeners();
            }
        }
    }

    /// When [`Core::tick`] is due next. `None`: nothing is waited for.
    pub fn next(&self) -> Option<Time> {
        let all = [
            self.timers.next(),
            self.paths.next(),
            self.registry.next(),
            self.kept.next(),
        ];
        all.into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Time, out: &mut Vec<Command>) {
        while let Some(due) = self.timers.pop(now) {
            match due {
                Due::Server(id) => self.server_due(id, now, out),
                Due::Client(id) => self.client_due(id, now, out),
                Due::Context(id) => self.context_due(id, now, out),
                Due::Dialog(id) => self.dialog_due(id, now),
                Due::Query(query) => self.query_due(query, now, out),
            }
        }
        self.keep_calls(now);
        if self.registry.next().is_some_and(|next| next <= now) {
            self.registry.tick(&mut self.paths, now);
            while let Some(again) = self.registry.again(now) {
                self.input(again, now, out);
            }
        }
        let mut actions = std::mem::take(&mut self.news);
        self.paths.tick(now, &mut actions);
        for action in actions.drain(..) {
            out.extend(self.prompter.command(&self.paths, &action));
            self.registry.path_news(&action, &mut self.paths, now);
        }
        self.news = actions;
        self.calls_end(now);
        self.note_changes(now);
    }

    /// Another configuration and other listeners, after a reload. What is under way goes on as it began. Whoever owns the registry tells it
    /// what concerns it.
    pub fn configure(&mut self, config: Arc<Sip>, listeners: Vec<(ListenerId, Listener, Option<IpAddr>)>, now: Time) {
        let periods = periods(&config);
        self.here = Here::new(listeners);
        self.servers.configure(periods);
        self.clients.configure(periods);
        self.dialogs.configure(&config.proxy);
        self.plan = DialPlan::new(&config);
        self.overload = Overload::new(config.limits.transactions);
        self.paths.configure(path::Settings::of(&config), now);
        self.config = config;
        self.name_listeners();
    }

    /// The configuration in force.
    pub fn config(&self) -> &Arc<Sip> {
        &self.config
    }

    /// The listeners as they are.
    pub fn here(&self) -> &Here {
        &self.here
    }

    /// Makes and reads the tokens of this server.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// The server transactions.
    pub fn servers(&self) -> &Servers {
        &self.servers
    }

    /// The client transactions.
    pub fn clients(&self) -> &Clients {
        &self.clients
    }

    /// The open connections.
    pub fn connections(&self) -> &Connections {
        &self.connections
    }

    /// Transactions that are under way: server, client.
    pub fn transactions(&self) -> (usize, usize) {
        (self.servers.len(), self.clients.len())
    }

    /// Requests that are being forwarded.
    pub fn contexts(&self) -> usize {
        self.contexts.len()
    }

    /// Dialogs that are followed.
    pub fn dialogs(&self) -> &Dialogs {
        &self.dialogs
    }

    fn name_listeners(&mut self) {
        for place in self.here.iter() {
            self.prompter.listen(place.id, place.transport, &place.sent_by);
        }
        self.registry.listeners(&self.here);
    }

    fn server_due(&mut self, id: Id, now: Time, out: &mut Vec<Command>) {
        let timer = match self.servers.due(id, &self.connections, &mut self.timers, now, out) {
            server::Fired::Nothing => return,
            server::Fired::Again => {
                self.metrics.retransmissions_out += 1;
                TimerLabel::G
            }
            server::Fired::NoAck => TimerLabel::H,
            server::Fired::Ended(server::State::Accepted) => TimerLabel::L,
            server::Fired::Ended(_) => TimerLabel::I,
        };
        self.metrics.timer(timer);
    }

    /// A look-up has taken too long.
    fn query_due(&mut self, query: QueryId, now: Time, out: &mut Vec<Command>) {
        let Some(waiting) = self.queries.end(query) else {
            return; // it was answered
        };
        self.metrics.queries_unanswered += 1;
        match waiting {
            Waiting::Branch { context, branch } => self.unresolved(context, branch, now, out),
            // Lost, like any ACK may be: its 2xx comes again, and then it does.
            Waiting::Ack(_) => {}
        }
    }

    fn flow_usable(&self, flow: &Flow) -> bool {
        self.connections.is_open(flow) && self.here.get(flow.listener).is_some()
    }
}

fn periods(config: &Sip) -> Periods {
    Periods {
        t1: config.proxy.t1,
        t2: config.proxy.t2,
        t4: config.proxy.t4,
        c: config.proxy.timer_c,
    }
}

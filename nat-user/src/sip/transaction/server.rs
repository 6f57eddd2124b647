//! Server transactions (RFC 3261 section 17.2, RFC 6026 sections 7.1 and 8.5).
//!
//! ```text
//!  INVITE              2xx ┌──────────┐  L          other   101-199 ┌────────────┐
//!       ┌────────────┐ ───▶│ Accepted │─────▶ gone  request   ┌───▶│ Proceeding │
//!   ──▶ │ Proceeding │     └──────────┘               ──▶ Trying    └────────────┘
//!       └────────────┘ 300-699 ┌───────────┐ ACK ┌───────────┐ I        │ 200-699
//!                      ───────▶│ Completed │────▶│ Confirmed │───▶ gone ▼
//!                              └───────────┘     └───────────┘       handed to `Answered`
//!                              G: again, H: gone
//! ```

use std::collections::HashMap;

use bytes::Bytes;

use super::{
    ByConnection, Due, Periods, Resend,
    answered::Answered,
    key::{Key, KeyHasher},
};
use crate::sip::{
    command::{Command, Destination, Hop},
    core::{
        arena::{Arena, Id},
        connections::Connections,
    },
    flow::Flow,
    message::{Message, Method},
    time::Time,
    timers::{Alarm, Timers},
};

/// Where a server transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Trying,
    Proceeding,
    Completed,
    Confirmed,
    Accepted,
}

/// One request that came in.
#[derive(Debug)]
pub struct Server {
    pub request: Message,
    pub flow: Flow,
    pub state: State,
    /// The proxy's record of what is done about it.
    pub context: Option<Id>,
    pub created: Time,
    pub key: Key,
    invite: bool,
    /// The request is one of ours, so nobody waits for its responses.
    pub own: bool,
    /// The last response, to be given again.
    last: Option<Bytes>,
    resend: Resend,
    ends: Time,
    alarm: Alarm,
}

impl Server {
    /// The code of the last response that was given; 0 if there was none.
    pub fn answered(&self) -> u16 {
        let code = self.last.as_ref().and_then(|last| last.get(8..11));
        code.and_then(crate::sip::message::number).unwrap_or(0) as u16
    }

    /// Whether no final response was given yet.
    pub fn open(&self) -> bool {
        matches!(self.state, State::Trying | State::Proceeding)
    }
}

/// What a timer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fired {
    /// It fired for nothing.
    Nothing,
    /// G: a final response went out again.
    Again,
    /// H: no ACK came. The transaction is gone.
    NoAck,
    /// I, L: the transaction is gone, from this state.
    Ended(State),
}

/// The table of server transactions.
#[derive(Debug)]
pub struct Servers {
    arena: Arena<Server>,
    index: HashMap<Key, Id, KeyHasher>,
    /// Those whose final response waits for an ACK.
    unacknowledged: ByConnection,
    periods: Periods,
    pub answered: Answered,
}

impl Servers {
    /// `most_answered`: how many final answers are remembered at most.
    pub fn new(periods: Periods, most_answered: usize) -> Servers {
        Servers {
            arena: Arena::default(),
            index: HashMap::default(),
            unacknowledged: ByConnection::default(),
            periods,
            answered: Answered::new(most_answered),
        }
    }

    /// Other timers, for what begins from now on.
    pub fn configure(&mut self, periods: Periods) {
        self.periods = periods;
    }

    pub fn find(&self, key: Key) -> Option<Id> {
        self.index.get(&key).copied()
    }

    pub fn get(&self, id: Id) -> Option<&Server> {
        self.arena.get(id)
    }

    pub fn get_mut(&mut self, id: Id) -> Option<&mut Server> {
        self.arena.get_mut(id)
    }

    pub fn len(&self) -> usize {
        self.arena.len()
    }

    pub fn is_empty(&self) -> bool {
        self.arena.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (Id, &Server)> {
        self.arena.iter()
    }

    /// A new request, not an ACK. One without a Via is our own.
    pub fn create(&mut self, request: Message, key: Key, flow: Flow, now: Time) -> Id {
        let invite = request.method() == Some(Method::Invite);
        let own = request.via().is_none();
        let id = self.arena.insert(Server {
            request,
            flow,
            state: if invite { State::Proceeding } else { State::Trying },
            context: None,
            created: now,
            key,
            invite,
            own,
            last: None,
            resend: Resend::NEVER,
            ends: Time::MAX,
            alarm: Alarm::default(),
        });
        self.index.insert(key, id);
        id
    }

    /// The same request came again: the last response is given again, but for a 2xx to an INVITE, which the other side repeats (RFC 6026
    /// section 7.1).
    pub fn again(&mut self, id: Id, connections: &Connections, out: &mut Vec<Command>) {
        let Some(server) = self.arena.get(id) else { return };
        if let Some(last) = &server.last
            && matches!(server.state, State::Proceeding | State::Completed)
        {
            out.push(send(server, last.clone(), connections));
        }
    }

    /// An ACK came for the final response of an INVITE. False: it is for a 2xx, so it must be passed on.
    pub fn ack(&mut self, id: Id, timers: &mut Timers<Due>, now: Time) -> bool {
        let Some(server) = self.arena.get_mut(id) else {
            return false;
        };
        match server.state {
            State::Completed => {
                server.state = State::Confirmed;
                server.resend = Resend::NEVER;
                server.last = None;
                if server.flow.transport.reliable() {
                    self.remove(id);
                } else {
                    server.ends = now + self.periods.t4;
                    server.alarm.set(server.ends, timers, Due::Server(id));
                }
                true
            }
            State::Confirmed => true,
            // An ACK before any final response answers nothing.
            State::Trying | State::Proceeding => true,
            State::Accepted => false,
        }
    }

    /// Gives a response. False: the transaction is gone, or it has a final response already (a further 2xx to an INVITE goes out all the
    /// same, RFC 3261 section 16.7 item 5).
    #[expect(clippy::too_many_arguments, reason = "what is answered, and the world")]
    pub fn respond(
        &mut self,
        id: Id,
        code: u16,
        response: Bytes,
        connections: &Connections,
        timers: &mut Timers<Due>,
        now: Time,
        out: &mut Vec<Command>,
    ) -> bool {
        let Some(server) = self.arena.get_mut(id) else {
            return false;
        };
        if server.own {
            if code >= 200 {
                self.remove(id);
            }
            return true;
        }
        let success = (200..300).contains(&code);
        if !server.open() {
            if server.invite && success {
                out.push(send(server, response, connections));
            }
            return false;
        }
        out.push(send(server, response.clone(), connections));
        let reliable = server.flow.transport.reliable();
        if code < 200 {
            server.state = State::Proceeding;
            server.last = Some(response);
            return true;
        }
        if !server.invite {
            let (key, flow) = (server.key, server.flow);
            self.remove(id);
            if !reliable {
                self.answered.insert(key, flow, &response, &self.periods, now);
            }
            return true;
        }
        server.ends = now + self.periods.give_up();
        if success {
            server.state = State::Accepted;
            server.last = None;
        } else {
            server.state = State::Completed;
            server.last = Some(response);
            if !reliable {
                server.resend = Resend::after(self.periods.t1, now);
            }
            self.unacknowledged.add(&server.flow, id);
        }
        server
            .alarm
            .set(server.ends.min(server.resend.at), timers, Due::Server(id));
        true
    }

    /// A connection has ended: what was answered on it with no success, and may not have got through, is answered once more, by the way that
    /// is left (section 18.2.2).
    pub fn strand(&mut self, flow: &Flow, connections: &Connections, out: &mut Vec<Command>) {
        for id in self.unacknowledged.of(flow) {
            self.again(id, connections, out);
        }
    }

    /// A timer fired for this transaction.
    pub fn due(
        &mut self,
        id: Id,
        connections: &Connections,
        timers: &mut Timers<Due>,
        now: Time,
        out: &mut Vec<Command>,
    ) -> Fired {
        let Some(server) = self.arena.get_mut(id) else {
            return Fired::Nothing;
        };
        if !server.alarm.fires(now, timers, Due::Server(id)) {
            return Fired::Nothing;
        }
        if server.ends <= now {
            let state = server.state;
            self.remove(id);
            return match state {
                State::Completed => Fired::NoAck,
                state => Fired::Ended(state),
            };
        }
        let mut fired = Fired::Nothing;
        if server.resend.at <= now {
            if let Some(last) = &server.last {
                out.push(send(server, last.clone(), connections));
                fired = Fired::Again;
            }
            server.resend.sent(self.periods.t2, now);
        }
        server
            .alarm
            .set(server.ends.min(server.resend.at), timers, Due::Server(id));
        fired
    }

    /// Forgets a transaction.
    pub fn remove(&mut self, id: Id) -> Option<Server> {
        let server = self.arena.remove(id)?;
        self.unacknowledged.remove(&server.flow, id);
        if self.index.get(&server.key) == Some(&id) {
            self.index.remove(&server.key);
        }
        Some(server)
    }
}

fn send(server: &Server, bytes: Bytes, connections: &Connections) -> Command {
    Command::Send {
        to: way_back(&server.request, &server.flow, connections),
        bytes,
        ticket: None,
    }
}

/// Where responses go: on the flow that the request came in on, whatever the Via says. Only if that was a connection that is gone, to the
/// source address and the port of sent-by (RFC 3261 section 18.2.2).
pub fn way_back(request: &Message, flow: &Flow, connections: &Connections) -> Destination {
    if !flow.transport.reliable() || connections.is_open(flow) {
        return Destination::Flow(*flow);
    }
    let port = request.via().and_then(|via| via.port);
    Destination::Hop {
        listener: flow.listener,
        hop: Hop {
            transport: flow.transport,
            address: (flow.remote.ip(), port.unwrap_or(flow.transport.default_port())).into(),
            // Only the source is believed; a name that the sender claims proves nothing.
            name: None,
        },
    }
}

//! Client transactions (RFC 3261 section 17.1, RFC 6026 section 7.2), with the CANCEL of an INVITE (section 9.1) in its record.
//!
//! ```text
//!  INVITE      1xx                          other
//!  ┌─────────┐ ───▶ ┌────────────┐          ┌────────┐ 1xx ┌────────────┐
//!  │ Calling │      │ Proceeding │          │ Trying │ ───▶│ Proceeding │
//!  └─────────┘      └────────────┘          └────────┘     └────────────┘
//!   A: again  │ 2xx    │ C: CANCEL           E: again  │ 200-699  │ E: again
//!   B: gone   ▼        ▼                     F: gone   ▼          ▼ F: gone
//!         Accepted ─M─▶ gone                      Completed ──K──▶ gone
//!             300-699 ▼: ACK
//!         Completed ─D─▶ gone
//! ```
//!
//! The branch names the record, so a response finds it without a search; a random number in it keeps others from making up responses.

use std::time::Duration;

use bytes::Bytes;

use super::{
    ByConnection, Due, Periods, Resend,
    key::{Keys, hex, unhex},
};
use crate::sip::{
    command::{Command, Destination, Ticket},
    core::arena::{Arena, Id},
    flow::Flow,
    message::{HeaderName, Message, Method},
    time::Time,
    timers::{Alarm, Timers},
};

/// What our branches begin with.
const COOKIE: &[u8] = b"z9hG4bKs";
/// Cookie, serial number, index, `-`, and the loop detection's part (RFC 5393 section 4.2.1).
pub const BRANCH: usize = COOKIE.len() + 16 + 16 + 1 + 16;

/// A branch parameter.
pub type Branch = [u8; BRANCH];

/// Where a client transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing has come back. (Trying, if it is no INVITE.)
    Calling,
    Proceeding,
    Completed,
    Accepted,
}

/// One request that went out.
#[derive(Debug)]
pub struct Client {
    /// The proxy's record that wants to know.
    pub context: Id,
    /// Which of its branches.
    pub branch: usize,
    pub state: State,
    pub invite: bool,
    pub to: Destination,
    pub created: Time,
    /// As it was sent.
    pub request: Bytes,
    serial: u64,
    /// The connection that it went out on, as far as is known.
    carrier: Option<Flow>,
    /// Its connection has ended, and it waits whether the answer comes in another way.
    stranded: bool,
    reliable: bool,
    resend: Resend,
    ends: Time,
    alarm: Alarm,
    /// The ACK of a final response that is no success.
    ack: Option<Bytes>,
    cancel: Cancel,
}

/// The CANCEL of an INVITE.
#[derive(Debug)]
enum Cancel {
    None,
    /// As soon as a provisional response has come (section 9.1).
    Wanted,
    Sent {
        bytes: Bytes,
        resend: Resend,
    },
    /// It was answered, or need not be repeated.
    Over,
}

/// What a response means to the one who sent the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Nothing: a retransmission, or the answer to a CANCEL.
    Absorbed,
    /// It is to be processed.
    News,
}

/// What a timer means to the one who sent the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fired {
    Nothing,
    /// A, E: it went out again.
    Again,
    /// B, F: no final response has come, and none is waited for any more. The transaction is gone.
    Timeout,
    /// C: no final response has come to an INVITE that proceeds. It was cancelled; its final response is still waited for.
    TimerC,
    /// Its connection had ended, and no answer has come in another way. The transaction is gone.
    Stranded,
    /// D, K, M: the transaction is gone, from this state.
    Ended(State),
}

/// What is to be sent.
#[derive(Debug)]
pub struct Outgoing {
    pub context: Id,
    pub branch: usize,
    pub invite: bool,
    pub to: Destination,
    pub reliable: bool,
}

/// The table of client transactions.
#[derive(Debug)]
pub struct Clients {
    arena: Arena<Client>,
    on: ByConnection,
    periods: Periods,
    keys: Keys,
    count: u64,
}

impl Clients {
    pub fn new(periods: Periods, keys: Keys) -> Clients {
        Clients {
            arena: Arena::default(),
            on: ByConnection::default(),
            periods,
            keys,
            count: 0,
        }
    }

    /// Other timers, for what begins from now on.
    pub fn configure(&mut self, periods: Periods) {
        self.periods = periods;
    }

    pub fn get(&self, id: Id) -> Option<&Client> {
        self.arena.get(id)
    }

    pub fn len(&self) -> usize {
        self.arena.len()
    }

    pub fn is_empty(&self) -> bool {
        self.arena.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (Id, &Client)> {
        self.arena.iter()
    }

    /// Sends a request that `compose` makes with the branch that it is given.
    pub fn create(
        &mut self,
        outgoing: Outgoing,
        loop_part: u64,
        compose: impl FnOnce(&Branch) -> Bytes,
        timers: &mut Timers<Due>,
        now: Time,
        out: &mut Vec<Command>,
    ) -> Id {
        self.count += 1;
        let serial = self.keys.mix(self.count);
        let t1 = self.periods.t1;
        let id = self.arena.insert(Client {
            context: outgoing.context,
            branch: outgoing.branch,
            state: State::Calling,
            invite: outgoing.invite,
            to: outgoing.to,
            created: now,
            request: Bytes::new(),
            serial,
            carrier: None,
            stranded: false,
            reliable: outgoing.reliable,
            resend: if outgoing.reliable {
                Resend::NEVER
            } else {
                Resend::after(t1, now)
            },
            ends: now + self.periods.give_up(),
            alarm: Alarm::default(),
            ack: None,
            cancel: Cancel::None,
        });
        let bytes = compose(&branch(serial, id, loop_part));
        if let Some(Destination::Flow(flow)) = self.arena.get(id).map(|client| &client.to) {
            let flow = *flow;
            self.carried(id, flow);
        }
        if let Some(client) = self.arena.get_mut(id) {
            client.request = bytes.clone();
            client.arm(id, timers);
            out.push(Command::Send {
                to: client.to.clone(),
                bytes,
                ticket: Some(ticket(id)),
            });
        }
        id
    }

    /// The transaction that a response with this topmost branch belongs to (section 17.1.3).
    pub fn find(&self, branch: &[u8]) -> Option<Id> {
        let rest = branch.strip_prefix(COOKIE)?;
        let (serial, rest) = rest.split_at_checked(16)?;
        let (name, _) = rest.split_at_checked(16)?;
        let (serial, name) = (unhex(serial)?, unhex(name)?);
        let id = Id {
            index: (name >> 32) as u32,
            serial: name as u32,
        };
        self.arena.get(id).filter(|client| client.serial == serial).map(|_| id)
    }

    /// The transaction that something was sent for.
    pub fn by_ticket(&self, ticket: Ticket) -> Option<Id> {
        let id = Id {
            index: (ticket.0 >> 32) as u32,
            serial: ticket.0 as u32,
        };
        self.arena.get(id).map(|_| id)
    }

    /// It goes out on this flow.
    pub fn carried(&mut self, id: Id, flow: Flow) {
        if let Some(client) = self.arena.get_mut(id) {
            if let Some(before) = client.carrier.replace(flow) {
                self.on.remove(&before, id);
            }
            self.on.add(&flow, id);
        }
    }

    /// Those that went out on a connection.
    pub fn on(&self, flow: &Flow) -> Vec<Id> {
        self.on.of(flow)
    }

    /// Its connection has ended. True: that is a transport error (section 17.1.4), and whoever sent the request must be told. An INVITE
    /// that proceeds has none (figure 5): who has it may answer over another connection (section 18.2.2), and has as long for it as a
    /// request has for being answered at all.
    pub fn strand(&mut self, id: Id, timers: &mut Timers<Due>, now: Time) -> bool {
        let Some(client) = self.arena.get_mut(id) else {
            return false;
        };
        match client.state {
            State::Calling => true,
            State::Proceeding if !client.invite => true,
            State::Proceeding => {
                client.stranded = true;
                client.ends = client.ends.min(now + self.periods.give_up());
                client.arm(id, timers);
                false
            }
            State::Completed | State::Accepted => false,
        }
    }

    /// A response to this transaction came.
    pub fn received(
        &mut self,
        id: Id,
        response: &Message,
        timers: &mut Timers<Due>,
        now: Time,
        out: &mut Vec<Command>,
    ) -> Received {
        let Some(client) = self.arena.get_mut(id) else {
            return Received::Absorbed;
        };
        let code = response.code().unwrap_or(0);
        if client.invite && response.cseq().is_some_and(|cseq| cseq.method == Method::Cancel) {
            if code >= 200 {
                client.cancel = Cancel::Over;
            }
            return Received::Absorbed;
        }
        let received = match (client.state, code) {
            (State::Calling | State::Proceeding, 100..200) => {
                client.proceeds(code, &self.periods, now, out);
                Received::News
            }
            (State::Calling | State::Proceeding, _) => {
                client.concludes(code, response, &self.periods, now, out);
                Received::News
            }
            // Further 2xx of an INVITE that was forked elsewhere, or retransmissions: all are passed on (RFC 6026 section 7.2).
            (State::Accepted, 200..300) => Received::News,
            (State::Completed, 300..) => {
                if let Some(ack) = &client.ack {
                    let (to, bytes) = (client.to.clone(), ack.clone());
                    out.push(Command::Send {
                        to,
                        bytes,
                        ticket: None,
                    });
                }
                Received::Absorbed
            }
            (State::Accepted | State::Completed, _) => Received::Absorbed,
        };
        if client.ends <= now {
            self.remove(id);
        } else {
            client.arm(id, timers);
        }
        received
    }

    /// Cancels an INVITE, as soon as that may be done. What is no INVITE goes on.
    pub fn cancel(&mut self, id: Id, timers: &mut Timers<Due>, now: Time, out: &mut Vec<Command>) {
        let Some(client) = self.arena.get_mut(id) else { return };
        if !client.invite || !matches!(client.cancel, Cancel::None) {
            return;
        }
        match client.state {
            State::Calling => client.cancel = Cancel::Wanted,
            State::Proceeding => {
                client.send_cancel(&self.periods, now, out);
                client.arm(id, timers);
            }
            State::Completed | State::Accepted => {}
        }
    }

    /// A timer fired for this transaction.
    pub fn due(&mut self, id: Id, timers: &mut Timers<Due>, now: Time, out: &mut Vec<Command>) -> Fired {
        let Some(client) = self.arena.get_mut(id) else {
            return Fired::Nothing;
        };
        if !client.alarm.fires(now, timers, Due::Client(id)) {
            return Fired::Nothing;
        }
        if client.ends <= now {
            match client.state {
                State::Completed | State::Accepted => {
                    let state = client.state;
                    self.remove(id);
                    return Fired::Ended(state);
                }
                State::Proceeding if client.stranded => {
                    self.remove(id);
                    return Fired::Stranded;
                }
                State::Proceeding if client.invite && matches!(client.cancel, Cancel::None) => {
                    client.send_cancel(&self.periods, now, out);
                    client.arm(id, timers);
                    return Fired::TimerC;
                }
                State::Calling | State::Proceeding => {
                    self.remove(id);
                    return Fired::Timeout;
                }
            }
        }
        let fired = client.resend(&self.periods, now, out);
        client.arm(id, timers);
        fired
    }

    /// Forgets a transaction. Its responses are nobody's then.
    pub fn remove(&mut self, id: Id) -> Option<Client> {
        let client = self.arena.remove(id)?;
        if let Some(flow) = &client.carrier {
            self.on.remove(flow, id);
        }
        Some(client)
    }
}

impl Client {
    fn arm(&mut self, id: Id, timers: &mut Timers<Due>) {
        let cancel = match &self.cancel {
            Cancel::Sent { resend, .. } => resend.at,
            _ => Time::MAX,
        };
        let at = self.ends.min(self.resend.at).min(cancel);
        self.alarm.set(at, timers, Due::Client(id));
    }

    fn proceeds(&mut self, code: u16, periods: &Periods, now: Time, out: &mut Vec<Command>) {
        let first = self.state == State::Calling;
        self.state = State::Proceeding;
        if !self.invite {
            return; // E and F run on
        }
        self.resend = Resend::NEVER;
        match self.cancel {
            Cancel::Wanted => self.send_cancel(periods, now, out),
            // Section 16.7 item 2: every provisional response but 100 sets timer C back. The first of all begins it.
            Cancel::None if first || code > 100 => {
                self.ends = now + periods.c;
                self.stranded = false; // it came in another way
            }
            _ => {}
        }
    }

    fn concludes(&mut self, code: u16, response: &Message, periods: &Periods, now: Time, out: &mut Vec<Command>) {
        self.resend = Resend::NEVER;
        self.cancel = Cancel::Over;
        if self.invite && code < 300 {
            self.state = State::Accepted;
            self.ends = now + periods.give_up();
            self.request = Bytes::new();
            return;
        }
        self.state = State::Completed;
        if self.invite {
            let ack = hop_by_hop(&self.request, Method::Ack, response.value(HeaderName::To));
            out.push(Command::Send {
                to: self.to.clone(),
                bytes: ack.clone(),
                ticket: None,
            });
            self.ack = Some(ack);
            self.ends = now
                + if self.reliable {
                    Duration::ZERO
                } else {
                    periods.give_up()
                };
        } else {
            self.ends = now + if self.reliable { Duration::ZERO } else { periods.t4 };
        }
        self.request = Bytes::new();
    }

    fn send_cancel(&mut self, periods: &Periods, now: Time, out: &mut Vec<Command>) {
        let bytes = hop_by_hop(&self.request, Method::Cancel, None);
        out.push(Command::Send {
            to: self.to.clone(),
            bytes: bytes.clone(),
            ticket: None,
        });
        let resend = if self.reliable {
            Resend::NEVER
        } else {
            Resend::after(periods.t1, now)
        };
        self.cancel = Cancel::Sent { bytes, resend };
        // Section 9.1: after 64 × T1 without a final response the INVITE counts as cancelled.
        self.ends = now + periods.give_up();
    }

    fn resend(&mut self, periods: &Periods, now: Time, out: &mut Vec<Command>) -> Fired {
        let mut fired = Fired::Nothing;
        if self.resend.at <= now {
            out.push(Command::Send {
                to: self.to.clone(),
                bytes: self.request.clone(),
                ticket: None,
            });
            fired = Fired::Again;
            if self.invite {
                self.resend.sent(Duration::MAX, now);
            } else {
                // Section 17.1.2.2: in Proceeding every T2.
                self.resend.sent(periods.t2, now);
                if self.state == State::Proceeding {
                    self.resend.at = now + periods.t2;
                }
            }
        }
        if let Cancel::Sent { bytes, resend } = &mut self.cancel
            && resend.at <= now
        {
            out.push(Command::Send {
                to: self.to.clone(),
                bytes: bytes.clone(),
                ticket: None,
            });
            resend.sent(periods.t2, now);
            fired = Fired::Again;
        }
        fired
    }
}

/// The ticket under which a transaction's request is sent.
fn ticket(id: Id) -> Ticket {
    Ticket(u64::from(id.index) << 32 | u64::from(id.serial))
}

fn branch(serial: u64, id: Id, loop_part: u64) -> Branch {
    let mut branch = [b'-'; BRANCH];
    let (cookie, rest) = branch.split_at_mut(COOKIE.len());
    cookie.copy_from_slice(COOKIE);
    rest[..16].copy_from_slice(&hex(serial));
    rest[16..32].copy_from_slice(&hex(ticket(id).0));
    rest[33..].copy_from_slice(&hex(loop_part));
    branch
}

/// A branch for what is sent without a transaction: the same for each copy of a request (section 16.11).
pub fn stateless_branch(mixed: u64, loop_part: u64) -> Branch {
    let nobody = Id {
        index: u32::MAX,
        serial: 0,
    };
    branch(mixed, nobody, loop_part)
}

/// The loop detection's part of a branch of ours. `None`: it is none.
pub fn loop_part(branch: &[u8]) -> Option<u64> {
    let rest = branch.strip_prefix(COOKIE)?;
    if rest.len() != BRANCH - COOKIE.len() {
        return None;
    }
    unhex(&rest[33..])
}

/// The ACK (section 17.1.1.3) or CANCEL (section 9.1) that goes the way of an INVITE: same request URI, topmost Via, From, Call-ID, CSeq
/// number and Routes; To with the tag of the response if it is an ACK.
fn hop_by_hop(invite: &Bytes, method: Method, to: Option<&[u8]>) -> Bytes {
    let Ok(invite) = Message::parse(invite.clone()) else {
        return Bytes::new(); // it was composed from a message that could be read
    };
    let mut out = Vec::with_capacity(512);
    let mut put = |parts: &[&[u8]]| parts.iter().for_each(|part| out.extend_from_slice(part));
    let name = method.name().as_bytes();
    put(&[name, b" ", invite.request_uri(), b" SIP/2.0\r\nVia: "]);
    if let Some(via) = invite.via() {
        put(&[invite.text(via.span), b"\r\n"]);
    }
    for header in invite
        .headers()
        .iter()
        .filter(|header| header.name == HeaderName::Route)
    {
        put(&[b"Route: ", invite.text(header.value), b"\r\n"]);
    }
    put(&[
        b"Max-Forwards: 70\r\nFrom: ",
        invite.value(HeaderName::From).unwrap_or_default(),
    ]);
    let to = to.or(invite.value(HeaderName::To)).unwrap_or_default();
    put(&[b"\r\nTo: ", to, b"\r\nCall-ID: ", invite.call_id()]);
    let number = invite.cseq().map_or(0, |cseq| cseq.number);
    put(&[
        b"\r\nCSeq: ",
        number.to_string().as_bytes(),
        b" ",
        name,
        b"\r\nContent-Length: 0\r\n\r\n",
    ]);
    Bytes::from(out)
}

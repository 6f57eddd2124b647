//! The media of one call: offers and answers as they pass, and what becomes of their streams (RFC 3264, RFC 6337).
//!
//! A call has a fork for each branch that its INVITE went out on: the offer in each names places of its own, because each may be answered. The
//! dialogs of a fork (there are several if it forks again further on) share its places; each remembers its own answer, and the one that
//! is confirmed counts. A new offer uses the places that its streams have, so that the peer sees no change. What an offer asks for is in force when it is
//! answered; one that is refused changes nothing (RFC 3264 section 8).

mod exchange;
mod outcome;
mod stored;
mod table;
#[cfg(test)]
mod tests;

use self::{
    exchange::{Exchange, Role},
    table::{Answer, Offer, Table, Work},
};
pub use self::{
    outcome::{Left, Lie, Passed, Refusal, Why},
    table::StreamInfo,
};
use super::{
    command::{Command, Ports, RelayId, Side},
    end::Reach,
    policy::{Anchor, Policy},
    sdp::{Sdp, Unreadable, body, edit},
};
use crate::sip::message::{Edits, Message, Method};

/// Dialogs that one fork may have; further ones get what the fork has.
const MAX_DIALOGS: usize = 64;

/// A message of a call on its way.
#[derive(Clone, Copy, Debug)]
pub struct Passing<'a> {
    pub message: &'a Message,
    pub from: Side,
    /// The branch that the call's first INVITE went out on. Of no concern where `tag` is known already.
    pub fork: u32,
    /// The callee's tag; empty as long as there is none.
    pub tag: &'a [u8],
    pub sender: Reach,
    pub receiver: Reach,
}

/// The media of a call.
#[derive(Debug)]
pub struct Session {
    policy: Policy,
    emergency: bool,
    forks: Vec<Fork>,
}

/// A branch of the call.
#[derive(Debug)]
struct Fork {
    id: u32,
    table: Table,
    /// The first one has no tag: it is what others begin as.
    dialogs: Vec<Dialog>,
}

/// What is between the caller and one callee.
#[derive(Clone, Debug, Default)]
struct Dialog {
    tag: Box<[u8]>,
    exchange: Exchange,
    offer: Option<Offer>,
    answer: Option<Answer>,
    /// An answer is in force for good: the INVITE was accepted.
    settled: bool,
}

impl Session {
    /// A call that begins. `emergency`: it may use ports that are kept in reserve.
    pub fn new(policy: Policy, emergency: bool) -> Session {
        Session {
            policy,
            emergency,
            forks: Vec::new(),
        }
    }

    /// A message of the call is about to be sent on: INVITE, ACK, PRACK, UPDATE, and every response to them but 100. What changes in its body goes to
    /// `edits`, what the data path shall do to `out`. `Err`: the request is to be answered so, and is not sent on; responses are never refused.
    pub fn passes(
        &mut self,
        passing: &Passing<'_>,
        ports: &mut dyn Ports,
        edits: &mut Edits,
        out: &mut Vec<Command>,
    ) -> Result<Passed, Refusal> {
        let message = passing.message;
        let method = message.method().or(message.cseq().map(|cseq| cseq.method));
        let method =
            method.filter(|method| matches!(method, Method::Invite | Method::Ack | Method::Prack | Method::Update));
        let Some(method) = method.filter(|_| self.policy.anchor != Anchor::Never) else {
            return Ok(Passed::default());
        };
        let (fork, dialog) = self.place(passing.fork, passing.tag);
        let Fork { table, dialogs, .. } = &mut self.forks[fork];
        let dialog = &mut dialogs[dialog];
        let mut work = Work {
            policy: &self.policy,
            emergency: self.emergency,
            passing,
            ports,
            out,
            passed: Passed::default(),
        };
        let found = body::find(message);
        let role = dialog
            .exchange
            .role(method, message.code(), matches!(found, body::Body::Sdp(_)));
        match found {
            body::Body::Encoded => work.passed.left.push(Left::Encoded),
            body::Body::Sdp(span) if role != Role::Neither => {
                match Sdp::parse(message.bytes(), span, work.policy.max_streams) {
                    Ok(sdp) => dialog.read(role, &sdp, table, &mut work, edits)?,
                    Err(error @ (Unreadable::TooLong | Unreadable::TooManyMedia)) if message.code().is_none() => {
                        return Err(Refusal::unacceptable(Why::Unreadable(error)));
                    }
                    Err(error) => work.passed.left.push(Left::Unreadable(error)),
                }
            }
            _ => {}
        }
        if let Some(code) = message.code() {
            dialog.responded(method, code, table, work.out);
        }
        Ok(work.passed)
    }

    /// A branch has ended without success, or all of its dialogs have.
    pub fn fork_ended(&mut self, fork: u32, out: &mut Vec<Command>) {
        if let Some(at) = self.forks.iter().position(|other| other.id == fork) {
            self.forks.remove(at).table.close(out);
        }
    }

    /// These relays are of no use any more: their streams end. An offer that comes gets them other places.
    pub fn lose(&mut self, relays: &[RelayId], out: &mut Vec<Command>) {
        for fork in &mut self.forks {
            fork.table.lose(relays, out);
        }
    }

    /// The call has ended.
    pub fn end(&mut self, out: &mut Vec<Command>) {
        for mut fork in self.forks.drain(..) {
            fork.table.close(out);
        }
    }

    /// All streams that go through us.
    pub fn streams(&self) -> impl Iterator<Item = StreamInfo<'_>> {
        self.forks.iter().flat_map(|fork| fork.table.info())
    }

    /// The places of fork and dialog, made if they are not there.
    fn place(&mut self, id: u32, tag: &[u8]) -> (usize, usize) {
        let known = self.forks.iter().enumerate().find_map(|(place, fork)| {
            let dialog = fork.dialogs.iter().position(|dialog| *dialog.tag == *tag)?;
            (!tag.is_empty() || fork.id == id).then_some((place, dialog))
        });
        if let Some(known) = known {
            return known;
        }
        let fork = match self.forks.iter().position(|fork| fork.id == id) {
            Some(fork) => fork,
            None => {
                self.forks.push(Fork {
                    id,
                    table: Table::default(),
                    dialogs: vec![Dialog::default()],
                });
                self.forks.len() - 1
            }
        };
        let dialogs = &mut self.forks[fork].dialogs;
        if tag.is_empty() || dialogs.len() >= MAX_DIALOGS {
            return (fork, 0);
        }
        let begins = Dialog {
            tag: tag.into(),
            ..dialogs[0].clone()
        };
        dialogs.push(begins);
        (fork, dialogs.len() - 1)
    }
}

impl Dialog {
    /// A description passes.
    fn read(
        &mut self,
        role: Role,
        sdp: &Sdp<'_>,
        table: &mut Table,
        work: &mut Work<'_>,
        edits: &mut Edits,
    ) -> Result<(), Refusal> {
        let told = match (role, &self.offer) {
            (Role::Answer, Some(offer)) if offer.by != work.passing.from => {
                let (answer, told) = table.answer(sdp, offer, work);
                table.apply(offer, &answer, work.out);
                self.answer = Some(answer);
                // What answers within a dialog is final; the INVITE's answer may still be that of another.
                if self.settled {
                    self.settle(table, work.out);
                }
                told
            }
            (Role::Offer, _) => {
                let (offer, told) = table.offer(sdp, work)?;
                self.offer = Some(offer);
                self.answer = None;
                told
            }
            _ => return Ok(()),
        };
        edit::rewrite(sdp, &told, work.policy.ice, edits);
        Ok(())
    }

    /// A response passes, with a description or without.
    fn responded(&mut self, method: Method, code: u16, table: &mut Table, out: &mut Vec<Command>) {
        match code {
            200..300 if method == Method::Invite => {
                self.settled = true;
                // Another dialog of this fork may have answered last.
                if let (Some(offer), Some(answer)) = (&self.offer, &self.answer) {
                    table.apply(offer, answer, out);
                    self.settle(table, out);
                }
            }
            300.. if self.settled && self.answer.is_none() => {
                self.offer = None;
                table.collect(out);
            }
            _ => {}
        }
    }

    fn settle(&self, table: &mut Table, out: &mut Vec<Command>) {
        if let Some(answer) = &self.answer {
            table.settle(answer);
            table.collect(out);
        }
    }
}

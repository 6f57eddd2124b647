//! Registrations that cross our NAT to registrars elsewhere: how long they were granted is how long their bindings must live.
//!
//! The data path copies clear-text REGISTER requests over UDP and the answers to them ([`nat_common::watch`]); no byte of them is changed.
//! An answer counts only if it comes from the endpoint that the request went to, on the same binding, with its Call-ID and CSeq:
//! whoever guesses less than all of these changes nothing. What is granted is what the phone itself takes for granted (RFC 3261 section
//! 10.2.4), plus [`MARGIN`], and never more than the configuration allows.

#[cfg(test)]
mod tests;

use std::{collections::HashMap, net::SocketAddrV4, time::Duration};

use bytes::Bytes;

use super::{
    message::{HeaderName, Message, Method, NameAddr, Uri},
    time::Time,
    timers::{Alarm, Timers},
};

/// How much longer than its registration a binding lives: the time in which a REGISTER is retransmitted (64 × T1). It is also how long an
/// answer is waited for.
pub const MARGIN: Duration = Duration::from_secs(32);
/// Bindings that are followed at most. Others live as if they carried no registration.
const MOST_BINDINGS: usize = 1 << 17;
/// Requests of one binding that wait for an answer.
const MOST_PENDING: usize = 16;
/// Registrations of one binding: a gateway may have many lines.
const MOST_REGISTRATIONS: usize = 256;
/// Contacts of one request that are looked for in its answer.
const MOST_CONTACTS: usize = 8;

/// A binding of the NAT, for as long as it is in the same hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Binding {
    pub slot: u32,
    pub generation: u16,
}

/// A message that crossed the NAT.
#[derive(Clone, Debug)]
pub struct Observed {
    pub binding: Binding,
    pub remote: SocketAddrV4,
    /// From inside.
    pub outbound: bool,
    /// Possibly cut at its end.
    pub payload: Bytes,
}

/// What is to be done in the tables of the NAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The binding lives for so long after its last use, and this registrar may send to it for as long.
    Extend {
        binding: Binding,
        lifetime: Duration,
        registrar: SocketAddrV4,
    },
    /// It lives as long as other bindings.
    Restore(Binding),
    /// No answer is waited for: the data path may stop copying them.
    Unwatch(Binding),
}

/// What has happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// REGISTER requests that were read.
    pub requests: u64,
    /// Answers that matched one.
    pub answers: u64,
    /// Answers that matched none: late, repeated or forged.
    pub unmatched: u64,
    /// What could not be read or was too much.
    pub ignored: u64,
}

/// Matches requests and answers.
#[derive(Debug, Default)]
pub struct Observer {
    bindings: HashMap<Binding, Record>,
    timers: Timers<Binding>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Record {
    pending: Vec<Pending>,
    registrations: Vec<Registration>,
    alarm: Alarm,
}

/// A request that waits for its answer.
#[derive(Debug)]
struct Pending {
    remote: SocketAddrV4,
    call_id: Box<[u8]>,
    cseq: u32,
    /// The address-of-record (To).
    aor: Box<[u8]>,
    /// Contacts that are to be registered, as sent. None: the request only removes.
    contacts: Vec<Box<[u8]>>,
    until: Time,
}

#[derive(Debug)]
struct Registration {
    registrar: SocketAddrV4,
    aor: Box<[u8]>,
    /// When it ends.
    until: Time,
}

impl Observer {
    /// A message was seen. `most`: no binding lives longer without a packet from inside.
    pub fn observed(&mut self, seen: &Observed, most: Duration, now: Time, actions: &mut Vec<Action>) {
        let Ok(message) = Message::parse(seen.payload.clone()) else {
            self.counts.ignored += 1;
            return;
        };
        // What was cut off is not guessed at.
        if message.fault().is_some() {
            self.counts.ignored += 1;
        } else if seen.outbound {
            self.request(seen, &message, now, actions);
        } else {
            self.answer(seen, &message, most, now, actions);
        }
    }

    /// When [`Observer::tick`] must be called; it may have nothing to do then.
    pub fn next(&self) -> Option<Time> {
        self.timers.next()
    }

    /// Forgets what has ended.
    pub fn tick(&mut self, now: Time, actions: &mut Vec<Action>) {
        while let Some(binding) = self.timers.pop(now) {
            let Some(record) = self.bindings.get_mut(&binding) else {
                continue;
            };
            if !record.alarm.fires(now, &mut self.timers, binding) {
                continue;
            }
            let (waited, registered) = (!record.pending.is_empty(), !record.registrations.is_empty());
            record.pending.retain(|pending| pending.until > now);
            record
                .registrations
                .retain(|registration| registration.until + MARGIN > now);
            if waited && record.pending.is_empty() {
                actions.push(Action::Unwatch(binding));
            }
            if registered && record.registrations.is_empty() {
                actions.push(Action::Restore(binding));
            }
            self.settle(binding);
        }
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Bindings that carry a registration, or a request that waits for its answer.
    pub fn len(&self) -> usize {
        self.bindings.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bindings.is_empty()
    }

    fn request(&mut self, seen: &Observed, message: &Message, now: Time, actions: &mut Vec<Action>) {
        let request = Pending::read(seen.remote, message, now + MARGIN);
        let room = self.bindings.len() < MOST_BINDINGS || self.bindings.contains_key(&seen.binding);
        let Some(request) = request.filter(|_| room) else {
            self.counts.ignored += 1;
            if !self.bindings.contains_key(&seen.binding) {
                actions.push(Action::Unwatch(seen.binding));
            }
            return;
        };
        self.counts.requests += 1;
        let record = self.bindings.entry(seen.binding).or_default();
        // Sent again, or again with credentials: the earlier one will not be answered by a 200 that matters.
        let older = |other: &Pending| other.remote == request.remote && other.call_id == request.call_id;
        record
            .pending
            .retain(|other| !older(other) || other.cseq > request.cseq);
        if record.pending.len() >= MOST_PENDING {
            record.pending.remove(0);
        }
        record.pending.push(request);
        self.settle(seen.binding);
    }

    fn answer(&mut self, seen: &Observed, message: &Message, most: Duration, now: Time, actions: &mut Vec<Action>) {
        let Some((record, place)) = asked(&mut self.bindings, seen, message) else {
            self.counts.unmatched += 1;
            return;
        };
        let request = record.pending.remove(place);
        if record.pending.is_empty() {
            actions.push(Action::Unwatch(seen.binding));
        }
        let granted = request.granted(message);
        let same = |other: &Registration| other.registrar == request.remote && other.aor == request.aor;
        match granted {
            Some(granted) => {
                record.registrations.retain(|other| !same(other));
                if !granted.is_zero() && record.registrations.len() < MOST_REGISTRATIONS {
                    record.registrations.push(Registration {
                        registrar: request.remote,
                        aor: request.aor,
                        until: now + granted,
                    });
                }
            }
            // It says nothing about what the phone asked for.
            None => self.counts.ignored += 1,
        }
        self.counts.answers += 1;
        match record.registrations.iter().map(|registration| registration.until).max() {
            Some(until) => {
                let lifetime = (until.since(now) + MARGIN).min(most);
                actions.push(Action::Extend {
                    binding: seen.binding,
                    lifetime,
                    registrar: seen.remote,
                });
            }
            // Also if this observer never knew of one: it may be from before a restart.
            None if granted.is_some() => actions.push(Action::Restore(seen.binding)),
            None => {}
        }
        self.settle(seen.binding);
    }

    /// Sets a binding's alarm, or forgets a binding that nothing is known of.
    fn settle(&mut self, binding: Binding) {
        let Some(record) = self.bindings.get_mut(&binding) else {
            return;
        };
        let pending = record.pending.iter().map(|pending| pending.until);
        let registered = record
            .registrations
            .iter()
            .map(|registration| registration.until + MARGIN);
        match pending.chain(registered).min() {
            Some(at) => record.alarm.set(at, &mut self.timers, binding),
            None => drop(self.bindings.remove(&binding)),
        }
    }
}

impl Pending {
    /// `None`: no REGISTER that could change a registration. (Without a contact it only asks.)
    fn read(remote: SocketAddrV4, message: &Message, until: Time) -> Option<Pending> {
        let cseq = message.cseq().filter(|cseq| cseq.method == Method::Register)?;
        if message.method() != Some(Method::Register) || message.call_id().is_empty() {
            return None;
        }
        let mut items = message.items(HeaderName::Contact).peekable();
        items.peek()?;
        let contacts = items
            .filter_map(|item| NameAddr::parse(message, item.span))
            .filter(|contact| contact.uri != b"*" && expires(message, contact) != Some(0))
            .take(MOST_CONTACTS)
            .map(|contact| contact.uri.into())
            .collect();
        Some(Pending {
            remote,
            call_id: message.call_id().into(),
            cseq: cseq.number,
            aor: message.to()?.uri.into(),
            contacts,
            until,
        })
    }

    /// How long the answer says that what this request asked for is registered; zero if it is not any more. `None`: it does not say.
    fn granted(&self, answer: &Message) -> Option<Duration> {
        if self.contacts.is_empty() {
            return Some(Duration::ZERO);
        }
        let registered: Vec<NameAddr<'_>> = answer
            .items(HeaderName::Contact)
            .filter_map(|item| NameAddr::parse(answer, item.span))
            .collect();
        let own = |contact: &&NameAddr<'_>| self.contacts.iter().any(|sent| same_uri(sent, contact.uri));
        let granted = registered
            .iter()
            .filter(own)
            .filter_map(|contact| expires(answer, contact))
            .max();
        // Some registrars write what they have made of the contact. If there is only one, it is this device's.
        let only = || match &registered[..] {
            [only] => expires(answer, only),
            _ => answer.number(HeaderName::Expires),
        };
        granted.or_else(only).map(|seconds| Duration::from_secs(seconds.into()))
    }
}

/// The request that a message answers: its binding's record, and its place there.
fn asked<'a>(
    bindings: &'a mut HashMap<Binding, Record>,
    seen: &Observed,
    message: &Message,
) -> Option<(&'a mut Record, usize)> {
    let cseq = message.cseq().filter(|cseq| cseq.method == Method::Register)?;
    if message.code() != Some(200) {
        return None;
    }
    let record = bindings.get_mut(&seen.binding)?;
    let place = record.pending.iter().position(|pending| {
        pending.remote == seen.remote && pending.cseq == cseq.number && *pending.call_id == *message.call_id()
    })?;
    Some((record, place))
}

/// The contact's `expires` parameter, or else the message's Expires header (RFC 3261 section 10.2.1.1), in seconds.
fn expires(message: &Message, contact: &NameAddr<'_>) -> Option<u32> {
    let own = contact.params.get("expires").and_then(super::message::number);
    match own {
        Some(seconds) => Some(u32::try_from(seconds).unwrap_or(u32::MAX)),
        None => message.number(HeaderName::Expires),
    }
}

/// Whether two contacts are the same (RFC 3261 section 19.1.4).
fn same_uri(a: &[u8], b: &[u8]) -> bool {
    a == b || matches!((Uri::parse(a), Uri::parse(b)), (Some(a), Some(b)) if a.same_as(&b))
}

//! Where the core hands calls to [`media`](crate::media): session descriptions that pass, and branches and calls that end.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use bytes::Bytes;
use rustc_hash::{FxHashMap, FxHashSet};

use super::{Core, Id, calls, seam::Registry};
use crate::{
    config::sip::{RecordRoute, Sip},
    media::{
        command::{self, DataPath, RelayId, Side},
        end::Reach,
        mos::Codec,
        policy::Policy,
        session::{Passing, Refusal, Session},
    },
    records::StreamRecord,
    sip::{
        command::{Command, Destination},
        flow::Flow,
        message::{Edits, Message, reply::Reply},
        proxy::{
            Branch, Way,
            best::{Best, reason},
            nat,
        },
        time::Time,
    },
    store::codec::{Reader, Stored, stored},
};

/// The fork of what belongs to a dialog already.
const WITHIN: u32 = u32::MAX;
/// Callees of one call, by their tags.
const MAX_CALLEES: usize = 64;
/// Streams of one call that are remembered after they have ended.
const MAX_ENDED: usize = 64;
/// When a call for which no port is left may be tried again.
const RETRY_AFTER: &[u8] = b"Retry-After: 10\r\n";

/// The media of all calls that go through this server.
#[derive(Debug)]
pub(super) struct Media {
    policy: Policy,
    path: Box<dyn DataPath>,
    calls: FxHashMap<Id, Call>,
    /// Streams that have ended within their calls.
    ended: FxHashMap<Id, Vec<StreamRecord>>,
    left: BTreeMap<&'static str, u64>,
}

/// A call's media and where its parties are.
#[derive(Debug)]
pub(super) struct Call {
    session: Session,
    caller: Reach,
    callees: Vec<Callee>,
    /// When somebody first asked whether it is silent, after the last description that passed: what was on hold was not silent before.
    since: Option<Time>,
    /// Both sides have been sent a BYE.
    hung_up: bool,
}

#[derive(Debug)]
struct Callee {
    fork: u32,
    /// Empty before it has said anything.
    tag: Box<[u8]>,
    reach: Reach,
}

/// A message of a call.
struct Turn<'a> {
    message: &'a Message,
    from: Side,
    fork: u32,
    tag: &'a [u8],
    /// Where the sender is, if this message tells; and the receiver, if that was not known.
    sender: Option<Reach>,
    receiver: Option<Reach>,
}

impl<R: Registry> Core<R> {
    /// Media of calls that begin from now on goes through `path` where `policy` says so. Without this, session descriptions pass as they are.
    /// Calls of before a restart take their places over.
    pub fn anchor_media(&mut self, policy: Policy, path: Box<dyn DataPath>, now: Time) {
        let mut media = Media {
            policy,
            path,
            calls: FxHashMap::default(),
            ended: FxHashMap::default(),
            left: BTreeMap::new(),
        };
        for (id, record) in self.kept.wake() {
            let goes_on = media.adopt(id, &record);
            if self.dialogs.get(id).is_none() {
                media.end(id, None); // it has ended before its media was known
            } else if !goes_on {
                self.dialogs.end(id, &mut self.paths, now);
            }
        }
        self.media = Some(media);
        self.calls_end(now);
        self.note_changes(now);
    }

    /// Another policy, for calls that begin from now on.
    pub fn media_policy(&mut self, policy: Policy) {
        if let Some(media) = &mut self.media {
            media.policy = policy;
        }
    }

    /// How many streams were left as they are, by reason.
    pub fn media_left(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let left = self.media.iter().flat_map(|media| &media.left);
        left.map(|(name, count)| (*name, *count))
    }

    /// The media of a call, by its dialog.
    pub fn media_of(&self, dialog: Id) -> Option<&Session> {
        Some(&self.media.as_ref()?.calls.get(&dialog)?.session)
    }

    pub(super) fn media_call(&self, dialog: Id) -> Option<&Call> {
        self.media.as_ref()?.calls.get(&dialog)
    }

    /// A request is about to leave on a branch: what changes in it.
    pub(super) fn media_request(&mut self, id: Id, index: usize, to: &Destination) -> Result<Edits, Refusal> {
        let Some(context) = self.contexts.get(id) else {
            return Ok(Edits::new());
        };
        let mut edits = context.edits.clone();
        let server = self.servers.get(context.server);
        // Where we leave the dialog, nobody would tell when its media ends.
        let concerns = self.config.proxy.record_route == RecordRoute::Always && (context.invite() || context.within);
        let (Some(dialog), Some(server), true) = (context.dialog, server, concerns) else {
            return Ok(edits);
        };
        let message = &server.request;
        let emergency = !context.within && self.is_emergency(message);
        let Some(media) = &mut self.media else {
            return Ok(edits);
        };
        let sender = reach_of_sender(&self.config, message, &context.flow);
        let receiver = reach_of_branch(&self.config, &context.branches[index], to);
        let turn = if context.within {
            let Some((_, from)) = self.dialogs.find(message) else {
                return Ok(edits);
            };
            Turn {
                message,
                from,
                fork: WITHIN,
                tag: callee_tag(from, message),
                sender: Some(sender),
                receiver: Some(receiver),
            }
        } else {
            Turn {
                message,
                from: Side::Caller,
                fork: index as u32,
                tag: b"",
                sender: Some(sender),
                receiver: Some(receiver),
            }
        };
        media.passes(dialog, &turn, emergency, &mut edits)?;
        Ok(edits)
    }

    /// An ACK for a 2xx is about to leave.
    pub(super) fn media_ack(&mut self, message: &Message, flow: &Flow) -> Edits {
        let mut edits = Edits::new();
        if let (Some(media), Some((dialog, from))) = (&mut self.media, self.dialogs.find(message)) {
            let turn = Turn {
                message,
                from,
                fork: WITHIN,
                tag: callee_tag(from, message),
                sender: Some(reach_of_sender(&self.config, message, flow)),
                receiver: None,
            };
            // An ACK cannot be refused: it passes as it is.
            let _ = media.passes(dialog, &turn, false, &mut edits);
            self.dialogs.change(dialog);
        }
        edits
    }

    /// A response from a branch is about to be given.
    pub(super) fn media_response(&mut self, id: Id, index: usize, message: &Message, edits: &mut Edits) {
        let Some(context) = self.contexts.get(id) else { return };
        let server = self.servers.get(context.server);
        let (Some(media), Some(dialog), Some(server)) = (&mut self.media, context.dialog, server) else {
            return;
        };
        let asked = match context.within {
            true => self.dialogs.find(&server.request).map(|(_, side)| side),
            false => Some(Side::Caller),
        };
        let Some(asked) = asked else { return };
        // A failure of the first INVITE ends the fork, and of no dialog.
        if !context.within && message.code().is_some_and(|code| code >= 300) {
            return;
        }
        let turn = Turn {
            message,
            from: asked.other(),
            fork: if context.within { WITHIN } else { index as u32 },
            tag: callee_tag(asked, message),
            sender: None,
            receiver: None,
        };
        // Responses are never refused.
        let _ = media.passes(dialog, &turn, false, edits);
    }

    /// A request is refused for its media: it goes nowhere, or no further.
    pub(super) fn media_refuses(&mut self, id: Id, index: usize, refusal: Refusal, now: Time, out: &mut Vec<Command>) {
        let server = self
            .contexts
            .get(id)
            .and_then(|context| self.servers.get(context.server));
        let Some(server) = server else { return };
        let tag = self.keys.tag(server.key);
        let mut reply = Reply::new(refusal.code, reason(refusal.code), &tag, server.flow.remote);
        let warning = format!("Warning: 399 sipnat \"{refusal}\"\r\n");
        reply.headers = match refusal.code {
            503 => RETRY_AFTER,
            _ => warning.as_bytes(),
        };
        let bytes: Bytes = reply.to(&server.request);
        self.give(id, refusal.code, None, bytes, now, out);
        self.over(id, index, Best::Own(refusal.code));
        self.cancel_all(id, false, now, out);
    }

    /// A branch has ended without success.
    pub(super) fn media_fork_over(&mut self, id: Id, index: usize) {
        let context = self
            .contexts
            .get(id)
            .filter(|context| context.invite() && !context.within);
        if let (Some(media), Some(dialog)) = (&mut self.media, context.and_then(|context| context.dialog)) {
            media.end(dialog, Some(index as u32));
        }
    }

    /// Dialogs have ended, and their media with them.
    pub(super) fn calls_end(&mut self, now: Time) {
        for ended in self.dialogs.ended() {
            if let Some(call) = ended.call {
                self.call_over(ended.id, call, now);
            }
            if let Some(media) = &mut self.media {
                media.end(ended.id, None);
            }
            if let Some(number) = ended.number {
                self.kept.forget(number);
            }
        }
    }
}

impl Media {
    fn passes(&mut self, dialog: Id, turn: &Turn<'_>, emergency: bool, edits: &mut Edits) -> Result<(), Refusal> {
        if let Some(caller) = turn.sender.filter(|_| turn.fork != WITHIN) {
            self.calls.entry(dialog).or_insert_with(|| Call {
                session: Session::new(self.policy.clone(), emergency),
                caller,
                callees: Vec::new(),
                since: None,
                hung_up: false,
            });
        }
        let Some(call) = self.calls.get_mut(&dialog) else {
            return Ok(()); // it began before media was our business
        };
        call.since = None;
        let Some((sender, receiver)) = call.reaches(turn) else {
            return Ok(());
        };
        let passing = Passing {
            message: turn.message,
            from: turn.from,
            fork: turn.fork,
            tag: turn.tag,
            sender,
            receiver,
        };
        let mut commands = Vec::new();
        let passed = call.session.passes(&passing, &mut *self.path, edits, &mut commands);
        self.run(dialog, commands);
        let passed = passed?;
        for left in passed.left {
            *self.left.entry(left.name()).or_default() += 1;
        }
        if passed.anchored != 0 {
            self.name_codecs(dialog);
        }
        Ok(())
    }

    /// Takes over the media of a call of before a restart, as far as the data path still has it. False: it is all gone, so the call is over.
    fn adopt(&mut self, dialog: Id, record: &[u8]) -> bool {
        let Some(mut call) = Call::of_record(record, self.policy.clone()) else {
            tracing::warn!("the media of a call in the store cannot be read; its relays end when they are silent");
            return true;
        };
        let goes_on = call.session.adopt(&mut *self.path);
        self.calls.insert(dialog, call);
        goes_on
    }

    /// To be asked again and again, with the streams of which nothing has been heard for so long: takes those out that are of a call, and says which
    /// calls have no others.
    pub(super) fn silent(&mut self, silent: &mut FxHashSet<RelayId>, timeout: Duration, now: Time) -> Vec<Id> {
        let mut over = Vec::new();
        for (dialog, call) in &mut self.calls {
            let since = *call.since.get_or_insert(now);
            let (mut streams, mut quiet) = (0, 0);
            for stream in call.session.streams() {
                streams += 1;
                // Where media goes by itself, or by a binding, nobody knows.
                if stream.relay.is_some_and(|relay| silent.remove(&relay.id)) {
                    quiet += u32::from(!stream.held);
                }
            }
            if quiet > 0 && quiet == streams && now.since(since) >= timeout && !call.hung_up {
                over.push(*dialog);
            }
        }
        over
    }

    /// Both sides of a call are sent a BYE: not once more.
    pub(super) fn hung_up(&mut self, dialog: Id) {
        if let Some(call) = self.calls.get_mut(&dialog) {
            call.hung_up = true;
        }
    }

    /// Gives back the places of a call that goes on without media, until an offer asks for some.
    pub(super) fn release(&mut self, dialog: Id) {
        let mut commands = Vec::new();
        if let Some(call) = self.calls.get_mut(&dialog) {
            call.session.end(&mut commands);
        }
        commands.into_iter().for_each(|command| self.path.run(command));
    }

    /// Ends a fork of a call, or all of it.
    fn end(&mut self, dialog: Id, fork: Option<u32>) {
        let mut commands = Vec::new();
        match fork {
            Some(fork) => {
                if let Some(call) = self.calls.get_mut(&dialog) {
                    call.session.fork_ended(fork, &mut commands);
                }
            }
            None => {
                if let Some(mut call) = self.calls.remove(&dialog) {
                    call.session.end(&mut commands);
                }
                self.ended.remove(&dialog);
                return commands.into_iter().for_each(|command| self.path.run(command));
            }
        }
        self.run(dialog, commands);
    }

    /// Has the data path do things for a call that goes on. What was seen of streams that end is kept.
    fn run(&mut self, dialog: Id, commands: Vec<command::Command>) {
        for command in commands {
            if let command::Command::CloseRelay(relay) = command
                && let Some(stream) = calls::ended(relay, &*self.path)
            {
                let ended = self.ended.entry(dialog).or_default();
                if ended.len() < MAX_ENDED {
                    ended.push(stream);
                }
            }
            self.path.run(command);
        }
    }

    /// Tells the data path what the streams of a call carry.
    fn name_codecs(&mut self, dialog: Id) {
        let streams = self
            .calls
            .get(&dialog)
            .into_iter()
            .flat_map(|call| call.session.streams());
        for stream in streams {
            if let Some(relay) = stream.relay {
                self.path
                    .carries(relay.id, Codec::named(stream.codec, stream.expect.clock));
            }
        }
    }

    /// The streams of a call, those that have ended last.
    pub(super) fn streams(&self, dialog: Id) -> Vec<StreamRecord> {
        let streams = self
            .calls
            .get(&dialog)
            .into_iter()
            .flat_map(|call| call.session.streams());
        let running = streams.map(|stream| calls::running(&stream, &*self.path));
        let ended = self.ended.get(&dialog).into_iter().flatten().cloned();
        running.chain(ended).collect()
    }

    /// Ends the streams of these relays; by their calls.
    pub(super) fn strand(&mut self, relays: &[RelayId]) -> Vec<(Id, Vec<RelayId>)> {
        let mut stranded = Vec::new();
        let calls = self.calls.iter_mut();
        let of_calls: Vec<_> = calls
            .map(|(id, call)| {
                let mut commands = Vec::new();
                call.session.lose(relays, &mut commands);
                (*id, commands)
            })
            .filter(|(_, commands)| !commands.is_empty())
            .collect();
        for (id, commands) in of_calls {
            let closed = commands.iter().filter_map(|command| match command {
                command::Command::CloseRelay(relay) => Some(*relay),
                _ => None,
            });
            stranded.push((id, closed.collect()));
            self.run(id, commands);
        }
        stranded
    }
}

stored!(struct Callee { fork, tag, reach });

impl Call {
    /// Appends what outlives the daemon.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        self.caller.put(out);
        self.callees.put(out);
        self.session.put(out);
    }

    /// Reads it back.
    pub(super) fn take(from: &mut Reader<'_>, policy: Policy) -> Option<Call> {
        Some(Call {
            caller: Reach::take(from)?,
            callees: Vec::take(from)?,
            session: Session::take(from, policy)?,
            since: None,
            hung_up: false,
        })
    }

    /// Where sender and receiver are, as of this message. `None`: it comes from a callee that nobody has asked.
    fn reaches(&mut self, turn: &Turn<'_>) -> Option<(Reach, Reach)> {
        let at = self.callee(turn)?;
        let callee = &mut self.callees[at].reach;
        match turn.from {
            Side::Caller => {
                self.caller = turn.sender.unwrap_or(self.caller);
                if turn.fork != WITHIN {
                    *callee = turn.receiver.unwrap_or(*callee);
                }
                Some((self.caller, *callee))
            }
            Side::Callee => {
                *callee = turn.sender.unwrap_or(*callee);
                Some((*callee, self.caller))
            }
        }
    }

    /// The callee of this message: each tag is one, and begins where its fork went.
    fn callee(&mut self, turn: &Turn<'_>) -> Option<usize> {
        let by_tag = self.callees.iter().position(|callee| *callee.tag == *turn.tag);
        if let Some(at) = by_tag.filter(|_| !turn.tag.is_empty()) {
            return Some(at);
        }
        let fork = self
            .callees
            .iter()
            .position(|callee| callee.fork == turn.fork && callee.tag.is_empty());
        let reach = match (fork, turn.from) {
            (Some(at), _) if turn.tag.is_empty() || self.callees.len() >= MAX_CALLEES => return Some(at),
            (Some(at), _) => self.callees[at].reach,
            (None, Side::Caller) => turn.receiver?,
            (None, Side::Callee) => turn.sender?,
        };
        self.callees.push(Callee {
            fork: turn.fork,
            tag: turn.tag.into(),
            reach,
        });
        Some(self.callees.len() - 1)
    }
}

fn callee_tag(asked: Side, message: &Message) -> &[u8] {
    let tag = match asked {
        Side::Caller => message.to_tag(),
        Side::Callee => message.from_tag(),
    };
    tag.unwrap_or_default()
}

fn reach_of_sender(config: &Sip, message: &Message, flow: &Flow) -> Reach {
    Reach {
        signalling: flow.remote.ip(),
        behind_nat: nat::is_behind(message, flow),
        device: nat::is_device(message),
        trusted: is_trusted(config, flow.remote.ip()),
    }
}

fn reach_of_branch(config: &Sip, branch: &Branch, to: &Destination) -> Reach {
    let (signalling, behind_nat, device) = match (&branch.target.way, to) {
        (Way::Flow { flow, nat, .. }, _) => (flow.remote.ip(), *nat, branch.target.path.is_empty()),
        (Way::Uri, Destination::Flow(flow)) => (flow.remote.ip(), false, false),
        (Way::Uri, Destination::Hop { hop, .. }) => (hop.address.ip(), false, false),
    };
    Reach {
        signalling,
        behind_nat,
        device,
        trusted: is_trusted(config, signalling),
    }
}

fn is_trusted(config: &Sip, address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => config.trusted.iter().any(|prefix| prefix.contains(address)),
        IpAddr::V6(_) => false,
    }
}

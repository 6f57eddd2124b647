//! Dialogs that are followed: calls (RFC 3261 section 12) and subscriptions (RFC 6665), from the requests and responses that pass.
//!
//! A record keeps the paths of both devices open while the dialog lasts, knows on which flow each of them is now, limits the calls of a
//! user, and ends by itself if its end was lost (RFC 4028). Routing does not depend on it: what is in the Record-Route tokens
//! suffices, also after a restart; a record only knows better where a device has moved to.

mod bye;
mod record;
mod stored;

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

pub use self::{
    record::{Callee, Dialog, End, Kind, Leg, State},
    stored::StoredCall,
};
use super::{
    core::arena::{Arena, Id},
    flow::Flow,
    location::ContactId,
    message::{HeaderName, Message, Method, NameAddr},
    metrics::CallEnd,
    path::{Holder, PathInfo, Paths},
    time::Time,
    timers::Timers,
    transaction::Due,
};
use crate::{config::sip::Proxy, media::command::Side};

/// How long after a session's or subscription's end its dialog is kept, for the messages that are still under way (64 × T1).
const GRACE: Duration = Duration::from_secs(32);
/// A subscription whose Expires we have not seen (RFC 3515 section 2.4.4: a REFER has none).
const UNTOLD: Duration = Duration::from_secs(3600);

/// What begins a dialog.
#[derive(Debug)]
pub struct Beginning<'a> {
    pub request: &'a Message,
    pub flow: Flow,
    pub behind_nat: bool,
    /// The caller's registration, if it is on this flow.
    pub contact: Option<ContactId>,
    /// `user@domain`, if it has proven who it is.
    pub caller: Option<&'a str>,
    /// `user@domain`, if it is for a user of ours.
    pub callee: Option<&'a str>,
}

/// The table.
#[derive(Debug)]
pub struct Dialogs {
    arena: Arena<Dialog>,
    /// By Call-ID and the caller's tag.
    index: HashMap<u64, Id, super::transaction::key::KeyHasher>,
    hasher: RandomState,
    /// Calls of each user.
    users: HashMap<Box<str>, u32>,
    calls: usize,
    longest: Duration,
    /// Those that have ended since somebody asked.
    ended: Vec<Ended>,
    /// Those that have changed since they were given to the store.
    changed: Vec<Id>,
    /// The last number that was given to one.
    last: u64,
}

/// A dialog that has ended.
#[derive(Debug)]
pub struct Ended {
    pub id: Id,
    /// What the store may have it by; `None`: it was never given to the store.
    pub number: Option<u64>,
    /// What it was, if it was a call.
    pub call: Option<Box<Dialog>>,
}

impl Dialogs {
    pub fn new(proxy: &Proxy) -> Dialogs {
        Dialogs {
            arena: Arena::default(),
            index: HashMap::default(),
            hasher: RandomState::new(),
            users: HashMap::new(),
            calls: 0,
            longest: proxy.max_call_duration,
            ended: Vec::new(),
            changed: Vec::new(),
            last: 0,
        }
    }

    /// Another limit, for calls that are set up from now on.
    pub fn configure(&mut self, proxy: &Proxy) {
        self.longest = proxy.max_call_duration;
    }

    /// Calls, those that are being set up included.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// Subscriptions.
    pub fn subscriptions(&self) -> usize {
        self.arena.len() - self.calls
    }

    /// Calls that a user takes part in.
    pub fn calls_of(&self, aor: &str) -> u32 {
        self.users.get(aor).copied().unwrap_or(0)
    }

    pub fn get(&self, id: Id) -> Option<&Dialog> {
        self.arena.get(id)
    }

    /// All of them, by rising index.
    pub fn iter(&self) -> impl Iterator<Item = (Id, &Dialog)> {
        self.arena.iter()
    }

    /// A request that may make a dialog is sent on. `None`: it cannot be followed, for it has no tag.
    pub fn begin(
        &mut self,
        beginning: &Beginning<'_>,
        paths: &mut Paths,
        timers: &mut Timers<Due>,
        now: Time,
    ) -> Option<Id> {
        let request = beginning.request;
        let tag = request.from_tag().filter(|tag| !tag.is_empty())?;
        let call_id = request.call_id();
        let kind = if request.method() == Some(Method::Invite) {
            Kind::Call
        } else {
            Kind::Subscription
        };
        let key = self.key(call_id, tag);
        if self.index.contains_key(&key) {
            return None; // another request with these tags is under way: one record is enough
        }
        let mut caller = Leg {
            target: contact(request),
            routes: values(request, HeaderName::RecordRoute).join(&b", "[..]).into(),
            cseq: request.cseq().map_or(0, |cseq| cseq.number),
            ..Leg::new(beginning.flow, beginning.behind_nat, beginning.contact)
        };
        caller.hold(kind.holder(), paths, now);
        self.last += 1;
        let id = self.insert(Dialog {
            kind,
            state: State::Early,
            call_id: call_id.into(),
            caller_tag: tag.into(),
            caller,
            callees: Default::default(),
            caller_aor: beginning.caller.map(Into::into),
            callee_aor: beginning.callee.map(Into::into),
            from: address(request, HeaderName::From),
            to: address(request, HeaderName::To),
            started: now,
            established: None,
            session: None,
            alarm: Default::default(),
            number: self.last,
            end: None,
            key,
            unsaved: false,
        });
        // Early dialogs end with their final response; this is for what never gets one.
        if let Some(dialog) = self.arena.get_mut(id) {
            dialog.alarm.set(now + self.longest, timers, Due::Dialog(id));
        }
        Some(id)
    }

    fn insert(&mut self, dialog: Dialog) -> Id {
        if dialog.kind == Kind::Call {
            self.calls += 1;
            for aor in [&dialog.caller_aor, &dialog.callee_aor].into_iter().flatten() {
                *self.users.entry(aor.clone()).or_default() += 1;
            }
        }
        let key = dialog.key;
        let id = self.arena.insert(dialog);
        self.index.insert(key, id);
        id
    }

    /// A response that is no failure came to the request that began this dialog, from this callee.
    pub fn answered(
        &mut self,
        id: Id,
        response: &Message,
        from: Leg,
        paths: &mut Paths,
        timers: &mut Timers<Due>,
        now: Time,
    ) {
        let longest = self.longest;
        let Some(dialog) = self.arena.get_mut(id) else { return };
        let Some(tag) = response.to_tag().filter(|tag| !tag.is_empty()) else {
            return;
        };
        let confirmed = response.code().is_some_and(|code| code >= 200);
        dialog.callee(tag, from, paths, now);
        if !confirmed {
            return;
        }
        if dialog.state == State::Early {
            dialog.state = State::Confirmed;
            dialog.established = Some(now);
            // Early dialogs of other branches end now, but for those that also accept.
            let kind = dialog.kind;
            dialog.callees.retain(|callee| {
                let stays = *callee.tag == *tag;
                if !stays {
                    callee.leg.release(kind.holder(), paths, now);
                }
                stays
            });
        }
        let lasts = dialog.lasts(response, longest);
        match lasts {
            Some(lasts) => dialog.alarm.set(now + lasts, timers, Due::Dialog(id)),
            None => self.end(id, paths, now),
        }
        self.change(id);
    }

    /// A final response that is no success was given to the request that began this dialog, or that ends it.
    pub fn refused(&mut self, id: Id, end: End, paths: &mut Paths, now: Time) {
        if self.arena.get(id).is_some_and(|dialog| dialog.state == State::Early) {
            self.because(id, end);
            self.end(id, paths, now);
        }
    }

    /// A request within a dialog came on this flow and is sent on: if the device has moved, its leg moves with it.
    pub fn request(&mut self, request: &Message, flow: &Flow, paths: &mut Paths, now: Time) -> Option<Id> {
        let (id, side) = self.find(request)?;
        let dialog = self.arena.get_mut(id)?;
        let holder = dialog.kind.holder();
        if let Some(leg) = dialog.side_mut(side, request)
            && leg.flow != *flow
            && leg.is_device
        {
            leg.release(holder, paths, now);
            leg.flow = *flow;
            leg.hold(holder, paths, now);
            self.change(id);
        }
        self.count(id, side, request);
        Some(id)
    }

    /// Notes the CSeq of a request within a dialog.
    fn count(&mut self, id: Id, side: Side, request: &Message) {
        let (Some(dialog), Some(cseq)) = (self.arena.get_mut(id), request.cseq()) else {
            return;
        };
        if let Some(leg) = dialog.side_mut(side, request)
            && leg.cseq < cseq.number
        {
            leg.cseq = cseq.number;
            self.change(id);
        }
    }

    /// Something about a call has changed, in its dialog or in its media: the store has to know.
    pub fn change(&mut self, id: Id) {
        if let Some(dialog) = self.arena.get_mut(id)
            && dialog.is_stored()
            && !std::mem::replace(&mut dialog.unsaved, true)
        {
            self.changed.push(id);
        }
    }

    /// Whether [`Dialogs::changed`] has something.
    pub fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The calls that the store has to know of, or to know better: those that were answered or have changed since this was asked last.
    pub fn changed(&mut self) -> Vec<Id> {
        let mut changed = std::mem::take(&mut self.changed);
        // What has ended meanwhile is not among them.
        changed.retain(|id| {
            self.arena
                .get_mut(*id)
                .is_some_and(|dialog| std::mem::take(&mut dialog.unsaved))
        });
        changed
    }

    /// A response to a request within this dialog is given: what ends the dialog ends it here, what goes on sets its limit anew.
    #[expect(clippy::too_many_arguments, reason = "what was asked and answered, and the world")]
    pub fn within(
        &mut self,
        id: Id,
        request: &Message,
        response: Option<&Message>,
        code: u16,
        paths: &mut Paths,
        timers: &mut Timers<Due>,
        now: Time,
    ) {
        let longest = self.longest;
        if code < 200 {
            return;
        }
        let side = self.find(request).map(|(_, side)| side);
        if request.method() == Some(Method::Bye) {
            let why = CallEnd::Bye;
            self.because(
                id,
                End {
                    by: side,
                    ..End::of(why)
                },
            );
        }
        let Some(dialog) = self.arena.get_mut(id) else { return };
        let lasts = match request.method() {
            // Whatever the answer is, the one who sent it is gone (section 15.1.1).
            Some(Method::Bye) => None,
            Some(Method::Notify) if dialog.kind == Kind::Subscription => notified(request),
            Some(Method::Invite | Method::Update | Method::Subscribe) if code < 300 => match response {
                Some(response) => {
                    dialog.refresh(side, request, response);
                    dialog.lasts(response, longest)
                }
                None => return,
            },
            _ => return,
        };
        match lasts {
            Some(lasts) => dialog.alarm.set(now + lasts, timers, Due::Dialog(id)),
            None => self.end(id, paths, now),
        }
        self.change(id);
    }

    /// The flow of the device that a request within a dialog is for, if it is reached on one.
    pub fn peer(&self, request: &Message) -> Option<Flow> {
        self.other_side(request).filter(|leg| leg.is_device).map(|leg| leg.flow)
    }

    /// The side that a request within a dialog is for.
    pub fn other_side(&self, request: &Message) -> Option<&Leg> {
        let (id, side) = self.find(request)?;
        let dialog = self.arena.get(id)?;
        match side {
            Side::Callee => Some(&dialog.caller),
            Side::Caller => {
                let to = request.to_tag()?;
                dialog
                    .callees
                    .iter()
                    .find(|callee| *callee.tag == *to)
                    .map(|callee| &callee.leg)
            }
        }
    }

    /// A dialog's deadline. True: it has ended.
    pub fn due(&mut self, id: Id, paths: &mut Paths, timers: &mut Timers<Due>, now: Time) -> bool {
        let Some(dialog) = self.arena.get_mut(id) else {
            return false;
        };
        if !dialog.alarm.fires(now, timers, Due::Dialog(id)) {
            return false;
        }
        self.because(id, End::of(CallEnd::Timeout));
        self.end(id, paths, now);
        true
    }

    /// Says why a dialog ends, or will: the first reason stays, and who has ended it is added.
    pub fn because(&mut self, id: Id, end: End) {
        if let Some(dialog) = self.arena.get_mut(id) {
            let known = dialog.end.get_or_insert(end);
            known.by = known.by.or(end.by);
        }
    }

    /// Ends a dialog: its paths are let go.
    pub fn end(&mut self, id: Id, paths: &mut Paths, now: Time) {
        let Some(mut dialog) = self.arena.remove(id) else {
            return;
        };
        self.index.remove(&dialog.key);
        let number = dialog.is_stored().then_some(dialog.number);
        let holder = dialog.kind.holder();
        dialog.caller.release(holder, paths, now);
        for callee in &mut dialog.callees {
            callee.leg.release(holder, paths, now);
        }
        if dialog.kind == Kind::Call {
            self.calls -= 1;
            for aor in [&dialog.caller_aor, &dialog.callee_aor].into_iter().flatten() {
                if let Some(count) = self.users.get_mut(aor) {
                    *count -= 1;
                    if *count == 0 {
                        self.users.remove(aor);
                    }
                }
            }
        }
        let call = (dialog.kind == Kind::Call).then(|| Box::new(dialog));
        self.ended.push(Ended { id, number, call });
    }

    /// The dialogs that have ended since this was asked last.
    pub fn ended(&mut self) -> Vec<Ended> {
        std::mem::take(&mut self.ended)
    }

    /// The dialog that a request belongs to, and who sends it.
    pub fn find(&self, request: &Message) -> Option<(Id, Side)> {
        let (call_id, from, to) = (request.call_id(), request.from_tag()?, request.to_tag()?);
        let matches = |tag: &[u8], other: &[u8], side| {
            let id = *self.index.get(&self.key(call_id, tag))?;
            let dialog = self.arena.get(id)?;
            let known = dialog.callees.iter().any(|callee| *callee.tag == *other);
            (*dialog.caller_tag == *tag && known).then_some((id, side))
        };
        matches(from, to, Side::Caller).or_else(|| matches(to, from, Side::Callee))
    }

    fn key(&self, call_id: &[u8], tag: &[u8]) -> u64 {
        self.hasher.hash_one((call_id, tag))
    }
}

/// How long a subscription lasts after this NOTIFY. `None`: it has ended (RFC 6665 section 4.1.3).
fn notified(request: &Message) -> Option<Duration> {
    let value = request.value(HeaderName::SubscriptionState).unwrap_or_default();
    let end = memchr::memchr(b';', value).unwrap_or(value.len());
    if value[..end].trim_ascii().eq_ignore_ascii_case(b"terminated") {
        return None;
    }
    let expires = super::message::Params(&value[end..])
        .get("expires")
        .and_then(super::message::number);
    Some(expires.map_or(UNTOLD, Duration::from_secs) + GRACE)
}

/// The URI of the first Contact; empty if there is none.
pub fn contact(message: &Message) -> Box<[u8]> {
    let item = message.items(HeaderName::Contact).next();
    let contact = item.and_then(|item| NameAddr::parse(message, item.span));
    contact.map(|contact| contact.uri).unwrap_or_default().into()
}

/// The values of a header, one by one.
fn values(message: &Message, name: HeaderName) -> Vec<&[u8]> {
    message.items(name).map(|item| message.text(item.span)).collect()
}

fn address(request: &Message, name: HeaderName) -> Box<[u8]> {
    let address = match name {
        HeaderName::From => request.from(),
        _ => request.to(),
    };
    address.map(|address| address.uri).unwrap_or_default().into()
}

impl Kind {
    /// What its paths are held as.
    pub fn holder(self) -> Holder {
        match self {
            Kind::Call => Holder::Dialog,
            Kind::Subscription => Holder::Subscription,
        }
    }
}

impl Leg {
    fn hold(&mut self, holder: Holder, paths: &mut Paths, now: Time) {
        if self.is_device && self.path.is_none() {
            let info = PathInfo {
                behind_nat: self.behind_nat,
                keeps_alive: false,
                uri: None,
            };
            self.path = Some(paths.hold(self.flow, holder, info, now));
        }
    }

    fn release(&mut self, holder: Holder, paths: &mut Paths, now: Time) {
        if let Some(path) = self.path.take() {
            paths.release(path, holder, now);
        }
    }
}

impl Dialog {
    /// The leg of a callee, made if it is not there.
    fn callee(&mut self, tag: &[u8], mut leg: Leg, paths: &mut Paths, now: Time) {
        if let Some(known) = self.leg_of(tag) {
            // Only what is final must say where it is reached (section 12.1.2).
            if !leg.target.is_empty() {
                (known.target, known.routes) = (leg.target, leg.routes);
            }
            return;
        }
        if self.callees.len() >= 64 {
            return;
        }
        leg.hold(self.kind.holder(), paths, now);
        self.callees.push(Callee { tag: tag.into(), leg });
    }

    /// The side that sends a request.
    fn side_mut(&mut self, side: Side, request: &Message) -> Option<&mut Leg> {
        match side {
            Side::Caller => Some(&mut self.caller),
            Side::Callee => self.leg_of(request.from_tag()?),
        }
    }

    /// A request that refreshes the remote targets was accepted (section 12.2): `side` has sent it.
    fn refresh(&mut self, side: Option<Side>, request: &Message, response: &Message) {
        let callee = match side {
            Some(Side::Caller) => request.to_tag(),
            Some(Side::Callee) => request.from_tag(),
            None => None,
        };
        let (of_caller, of_callee) = match side {
            Some(Side::Callee) => (response, request),
            _ => (request, response),
        };
        let (of_caller, of_callee) = (contact(of_caller), contact(of_callee));
        if let Some(leg) = callee.and_then(|tag| self.leg_of(tag)) {
            if !of_callee.is_empty() {
                leg.target = of_callee;
            }
            if !of_caller.is_empty() {
                self.caller.target = of_caller;
            }
        }
    }

    /// Whether it outlives the daemon: calls that were answered do.
    fn is_stored(&self) -> bool {
        self.kind == Kind::Call && self.state == State::Confirmed
    }

    fn leg_of(&mut self, tag: &[u8]) -> Option<&mut Leg> {
        self.callees
            .iter_mut()
            .find(|callee| *callee.tag == *tag)
            .map(|callee| &mut callee.leg)
    }

    /// How long it lasts after this success. `None`: it has ended.
    fn lasts(&mut self, response: &Message, longest: Duration) -> Option<Duration> {
        match self.kind {
            Kind::Call => {
                self.session = response.number(HeaderName::SessionExpires);
                // RFC 4028 section 10: whoever does not refresh sends BYE before the end.
                let bound = self
                    .session
                    .map_or(longest, |seconds| Duration::from_secs(u64::from(seconds)) + GRACE);
                Some(bound.min(longest.max(GRACE)))
            }
            Kind::Subscription => match response.number(HeaderName::Expires) {
                Some(0) => None,
                Some(seconds) => Some(Duration::from_secs(u64::from(seconds)) + GRACE),
                None => Some(UNTOLD),
            },
        }
    }
}

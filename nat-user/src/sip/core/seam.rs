//! What the proxy asks of those who know users and registrations.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use super::here::Here;
use crate::sip::{
    command::Input,
    flow::Flow,
    location::ContactId,
    message::{Edits, Message, Uri},
    path::{PathAction, Paths},
    time::Time,
};
use crate::store::CallChanges;

/// A place where an address of record is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which contact it is; `None`: it is none of the location service.
    pub contact: Option<ContactId>,
    /// The contact as the device sent it: the request URI.
    pub uri: Bytes,
    /// The values of its Path, separated by commas (RFC 3327): the Route. Often empty.
    pub path: Bytes,
    /// How it is reached. `None`: by its path, or by its URI.
    pub flow: Option<Flow>,
    pub behind_nat: bool,
    /// Thousandths.
    pub q: u16,
}

/// What a look-up gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lookup {
    /// The highest q first.
    pub usable: Vec<Found>,
    /// There are contacts that nothing gets through to.
    pub down: bool,
}

/// Whose request it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A trusted peer.
    Trusted,
    /// A user of ours has proven who it is, as `user@domain`, by the Proxy-Authorization or Authorization header at this place of
    /// [`Message::headers`] (`None`: none was needed).
    User { aor: String, credentials: Option<usize> },
    /// Nobody we know, who does not claim to be one of ours.
    Anonymous,
    /// It must be answered so: a challenge, or a refusal.
    Answer(Answer),
}

/// A response to be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub code: u16,
    pub reason: &'static str,
    /// Whole header lines, each with its CRLF.
    pub headers: Vec<u8>,
    /// The value that `keep` gets in the topmost Via, in seconds (RFC 6223 section 4.4). `None`: it is left alone.
    pub keep: Option<u32>,
}

impl Answer {
    pub fn new(code: u16, reason: &'static str) -> Answer {
        Answer {
            code,
            reason,
            headers: Vec::new(),
            keep: None,
        }
    }
}

/// A device, as its registration names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device<'a> {
    pub aor: &'a str,
    /// What tells it from others of the address of record: its instance (RFC 5626 section 4.1), else its contact.
    pub name: &'a [u8],
}

/// What is to be done with a REGISTER.
#[derive(Clone, Debug)]
pub enum Registered {
    Answer(Answer),
    /// It is for a registrar elsewhere: forwarded with these changes to its own request URI.
    Forward {
        edits: Edits,
        ticket: u64,
        /// URIs of the places that it is sent to, tried one after the other. Empty: by its Route and request URI.
        next: Vec<Bytes>,
    },
}

/// Users, registrations, limits.
pub trait Registry {
    /// Whether a request that would open a transaction is taken, by the rates and bans of its source. `emergency`: always, but counted.
    fn admit(&mut self, flow: &Flow, emergency: bool, now: Time) -> Result<(), Option<Answer>>;

    /// The place in the configuration of the domain that a host means. `None`: it is not served here.
    fn domain(&self, host: &[u8]) -> Option<usize>;

    /// Writes the address of record that a URI means, aliases resolved, and says its domain. `None`: it is not of a domain served here, or has no user.
    fn aor(&self, uri: &Uri<'_>, aor: &mut String) -> Option<usize>;

    /// The contacts of an address of record.
    fn lookup(&self, aor: &str, now: Time) -> Lookup;

    /// Another way to the device of a contact that has failed, which is none of those that were tried (RFC 5626 section 7).
    fn fallback(&self, failed: ContactId, tried: &[ContactId], now: Time) -> Option<Found>;

    /// The contact that is registered on this flow, if there is one.
    fn contact_on(&self, flow: &Flow, paths: &Paths, now: Time) -> Option<ContactId> {
        let _ = (flow, paths, now);
        None
    }

    /// The flow on which a contact is reached now.
    fn flow_of(&self, contact: ContactId, now: Time) -> Option<Flow> {
        let _ = (contact, now);
        None
    }

    /// The device that is registered on this flow, here or elsewhere through us: if there are several, the one whose address of record this
    /// URI means.
    fn device_on(&self, flow: &Flow, uri: Option<&Uri<'_>>, paths: &Paths, now: Time) -> Option<Device<'_>>;

    /// Where a device of the address of record that this URI means is registered now.
    fn flow_of_device(&self, uri: &Uri<'_>, is_it: &dyn Fn(Device<'_>) -> bool, now: Time) -> Option<Flow>;

    /// Whether this is the address of a trusted peer.
    fn is_trusted(&self, source: IpAddr) -> bool;

    /// Whether a flow is one of a registered device (here, or elsewhere through the outbound role) or of a trusted peer.
    fn is_known(&self, flow: &Flow, paths: &Paths, now: Time) -> bool;

    /// Whether a user may call this destination (the user part of a request URI).
    fn may_call(&self, caller: &str, destination: &str) -> bool;

    /// How many calls a user may take part in at a time; `None`: any number.
    fn calls_allowed(&self, aor: &str) -> Option<u32>;

    /// Who sends this request, which is not within a dialog and no REGISTER.
    fn authorize(&mut self, request: &Message, flow: &Flow, now: Time) -> Verdict;

    /// A REGISTER that is not to be routed elsewhere.
    fn register(
        &mut self,
        request: &Message,
        flow: &Flow,
        local: SocketAddr,
        paths: &mut Paths,
        now: Time,
    ) -> Registered;

    /// The contact that was registered on this flow by a REGISTER that these bytes repeat, and what of them the response is made of
    /// ([`Pattern`](crate::sip::message::pattern::Pattern)). What [`Registry::register`] was asked about before needs no other judgement
    /// than that of [`Registry::refresh`], nor what was asked before that.
    fn repeats(&self, bytes: &Bytes, flow: &Flow, paths: &Paths, now: Time) -> Option<(ContactId, Message)>;

    /// A REGISTER that repeats the one by which this contact was last registered.
    fn refresh(&mut self, contact: ContactId, cseq: u32, now: Time) -> Answer;

    /// A response came to a REGISTER that was forwarded with this ticket: what changes in it on its way back.
    fn registered(&mut self, ticket: u64, response: &Message, paths: &mut Paths, now: Time, edits: &mut Edits);

    /// A connection has ended. Said before the path table knows.
    fn closed(&mut self, flow: &Flow, paths: &mut Paths, now: Time);

    /// A path went down or is up again; other actions are none of the registry's concern.
    fn path_news(&mut self, action: &PathAction, paths: &mut Paths, now: Time);

    /// The listeners are these now: at the start, after a reload, and when an address has changed.
    fn listeners(&mut self, here: &Here);

    /// When [`Registry::tick`] must be called. `None`: nothing expires.
    fn next(&self) -> Option<Time>;

    /// Registrations expire, and whatever else time does.
    fn tick(&mut self, paths: &mut Paths, now: Time);

    /// A REGISTER of before that is to be sent once more, as if it came now, because our address has changed. Asked until there is none.
    fn again(&mut self, now: Time) -> Option<Input> {
        let _ = now;
        None
    }

    /// Whether calls outlive the daemon here.
    fn keeps_calls(&self) -> bool {
        false
    }

    /// Calls have been answered, have changed or have ended: to be kept over a restart, within about a second.
    fn keep_calls(&mut self, changes: CallChanges) {
        let _ = changes;
    }

    /// The device that a token in the user part of a request URI stands for (outbound role): its flow and its contact.
    fn edge(&self, user: &[u8]) -> Option<(Flow, Bytes)>;
}

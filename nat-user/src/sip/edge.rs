//! Registrations of devices at registrars elsewhere, for which we are the outbound proxy (RFC 5626 section 5, RFC 3327).
//!
//! A REGISTER for a domain that is not ours goes on to its registrar with one change that all registrars understand: each contact becomes one at our
//! outside address whose user part is a token. So the registrar sends what is for the device to us, and [`Edge::find`] says on which flow it goes
//! on and what the device calls itself. Where the device knows Path, we add ourselves there as well (with `ob`, so that outbound works).
//! In the response the contact is the device's own again; what the registrar has granted is how long its path is held. Nothing is kept before the
//! registrar has said 200: it authenticates, not we.
//!
//! The token is an HMAC over the registrar, the address of record, the device's contact and its instance. So it is the same at each refresh, also
//! over restarts of sipnat and when the device's NAT has given it another port; nobody can guess another's; and who registers elsewhere or
//! somebody else makes another token. (A REGISTER with a Route that leads elsewhere never comes here, so the registrar in the token is the one
//! that has answered.)
//!
//! When our outside address changes, the registrars have contacts that lead nowhere. We have no password to register with, so
//! [`Edge::register_again`] gives each device's last REGISTER once more, credentials included, as if the device had sent it: the contact in it is new
//! to the registrar (its host is), so CSeq does not matter, and the nonce may still be good. Where it is not, the device itself repairs it with
//! its next refresh. They go out some at a time.

#[cfg(test)]
mod core_tests;
mod pending;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use rustc_hash::FxHashMap;
use sha2::Sha256;

use self::pending::{Pending, Sent, Waiting};
use super::{
    command::Input,
    core::here::{Here, Place},
    flow::{Flow, Transport},
    location::{
        ContactId, Location, Lost, NewContact, Number, instance,
        stored::{Changes, Refresh, StoredContact},
    },
    message::{Edits, HeaderName, Message, NameAddr, Span, Uri, Via, number, uri::Scheme},
    path::{PathId, Paths},
    registrar::ourselves::{is_sent_by, is_source},
    time::Time,
};
use crate::sip::flow::ListenerId;

/// What a token begins with; tokens of flows and dialogs begin otherwise.
const PREFIX: &[u8] = b"e~";
/// Bytes of a token: nobody guesses 96 bits.
const LENGTH: usize = 12;
/// Granted if neither side names an expiry (RFC 3261 section 10.2).
const DEFAULT_EXPIRES: u32 = 3600;

/// So many devices are registered again at once, and then comes a pause.
const AT_ONCE: usize = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// Stands for one contact of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Token([u8; LENGTH]);

/// Why a REGISTER is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: u16,
    pub reason: &'static str,
}

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Contacts of one address of record.
    pub max_contacts: u32,
    /// In all.
    pub max_registrations: u32,
    /// How often devices shall send keep-alives if they offer to (RFC 6223): over UDP, on streams; in seconds.
    pub keep: (u32, u32),
}

/// The registrations that went through us.
#[derive(Debug)]
pub struct Edge {
    settings: Settings,
    key: Hmac<Sha256>,
    here: Here,
    /// By `user@host` of the address of record.
    location: Location,
    tokens: FxHashMap<Token, ContactId>,
    /// The last REGISTER of each contact, and where it was sent to.
    last: FxHashMap<Token, (Bytes, SocketAddr)>,
    pending: Pending,
    /// What is to be registered again, and when the next ones may go out.
    again: VecDeque<Token>,
    again_at: Time,
}

impl Edge {
    /// `secret`: the one that is kept over restarts.
    pub fn new(settings: Settings, secret: &[u8]) -> Edge {
        Edge {
            settings,
            // HMAC takes keys of any length.
            key: Hmac::new_from_slice(secret).unwrap_or_else(|_| Hmac::new(&Default::default())),
            here: Here::default(),
            location: Location::new(),
            tokens: FxHashMap::default(),
            last: FxHashMap::default(),
            pending: Pending::default(),
            again: VecDeque::new(),
            again_at: Time(0),
        }
    }

    /// Other settings, after a reload.
    pub fn configure(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Where our listeners are. If that is elsewhere than before, all that is registered is registered again.
    pub fn set_here(&mut self, here: &Here) {
        let names = |here: &Here| -> Vec<String> { here.iter().map(|place| place.via.clone()).collect() };
        if names(&self.here) != names(here) {
            self.again = self.last.keys().copied().collect();
        }
        self.here = here.clone();
    }

    /// What is registered, for lists.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// A REGISTER for a registrar elsewhere that came to an outbound listener: what changes in it, and the ticket for [`Edge::answered`].
    /// `towards`: the URI that it is sent by, the request URI or what the dial plan says.
    pub fn forward(
        &mut self,
        request: &Message,
        flow: &Flow,
        local: SocketAddr,
        towards: &Uri<'_>,
        now: Time,
    ) -> Result<(Edits, u64), Refusal> {
        let refuse = |code, reason| Err(Refusal { code, reason });
        let (Some(to), Some(registrar)) = (request.to().and_then(|to| to.parsed()), request.target()) else {
            return refuse(400, "Malformed To or Request-URI");
        };
        let Some(aor) = aor(&to, &registrar) else {
            return refuse(400, "To Names No User");
        };
        let Some(place) = self.outside(towards, flow) else {
            return refuse(503, "No Listener Towards the Registrar");
        };
        let mut edits = Edits::new();
        let mut waiting = Waiting {
            flow: *flow,
            local,
            first_hop: request.items(HeaderName::Via).nth(1).is_none(),
            all: false,
            sent: Vec::new(),
            request: request.clone(),
            until: now,
            aor,
        };
        let mut added = 0;
        for item in request.items(HeaderName::Contact) {
            if request.text(item.span) == b"*" {
                waiting.all = true;
                continue;
            }
            let Some(value) = NameAddr::parse(request, item.span) else {
                return refuse(400, "Malformed Contact");
            };
            // What is no SIP URI does not lead to the device anyway.
            let Some(uri) = value.parsed().filter(Uri::is_sip) else {
                continue;
            };
            let token = self.token(&waiting.aor, value.uri, value.params.0);
            added += usize::from(!self.is_there(&token));
            let scheme = if uri.scheme == Scheme::Sips && place.transport == Transport::Tls {
                "sips"
            } else {
                "sip"
            };
            let ours = format!("{scheme}:{}@{}{}", token.text(), place.sent_by, place.transport_param());
            replace(&mut edits, &value, ours.as_bytes());
            waiting.sent.push(Sent {
                token,
                value: value.span,
                at_source: is_source(&uri, flow),
            });
        }
        let limits = &self.settings;
        let others = self.location.contacts(&waiting.aor, now).count();
        if added > 0 && self.location.len() + added > limits.max_registrations as usize {
            return refuse(503, "Too Many Registrations");
        }
        if waiting.sent.len() > limits.max_contacts as usize
            || (added > 0 && others + added > limits.max_contacts as usize)
        {
            return refuse(403, "Too Many Contacts");
        }
        if request.has_token(HeaderName::Supported, "path") {
            let ob = if waiting.first_hop { ";ob" } else { "" };
            let line = format!("Path: <sip:{}{};lr{ob}>\r\n", place.sent_by, place.transport_param());
            edits.insert_before(request, HeaderName::Path, line.as_bytes());
        }
        Ok((edits, self.pending.add(waiting, now)))
    }

    /// The registrar has answered: a 2xx is noted, and the device is shown its own contacts. Other final responses pass as they are.
    pub fn answered(&mut self, ticket: u64, response: &Message, paths: &mut Paths, now: Time, edits: &mut Edits) {
        let Some(code) = response.code().filter(|code| *code >= 200) else {
            return;
        };
        let Some(waiting) = self.pending.take(ticket) else {
            return;
        };
        if code >= 300 {
            return;
        }
        if waiting.all {
            self.location.unregister(&waiting.aor, None, paths, now);
        }
        let mut granted: Vec<Option<u32>> = vec![None; waiting.sent.len()];
        for item in response.items(HeaderName::Contact) {
            let Some(value) = NameAddr::parse(response, item.span) else {
                continue;
            };
            let token = value.parsed().and_then(|uri| Token::parse(uri.user?));
            let Some(place) = waiting.sent.iter().position(|sent| Some(sent.token) == token) else {
                continue;
            };
            let own = waiting.contact(&waiting.sent[place]);
            if let Some(own) = own {
                replace(edits, &value, own.uri);
            }
            let seconds = expires(value.params.get("expires"))
                .or_else(|| expires(response.value(HeaderName::Expires)))
                .or_else(|| own.and_then(|own| expires(own.params.get("expires"))))
                .or_else(|| expires(waiting.request.value(HeaderName::Expires)))
                .unwrap_or(DEFAULT_EXPIRES);
            granted[place] = granted[place].max(Some(seconds));
        }
        for (sent, granted) in waiting.sent.iter().zip(granted) {
            match granted {
                Some(seconds) if seconds > 0 => self.put(&waiting, sent, seconds, paths, now),
                // A 200 without it: it was removed, or not accepted.
                _ => self.remove(&sent.token, paths, now),
            }
        }
        self.keep(&waiting, response, edits);
        self.tidy();
    }

    /// The device that a token in the user part of one of our URIs stands for: the flow to it, and its contact, which becomes the
    /// request URI. `None`: nobody's, or its registration or flow has ended: 430 (RFC 5626 section 5.3.1) if [`is_token`].
    pub fn find(&self, user: &[u8]) -> Option<(Flow, Bytes)> {
        let id = *self.tokens.get(&Token::parse(user)?)?;
        let contact = self.location.get(id, Time(0))?;
        Some((contact.flow?, Bytes::copy_from_slice(contact.uri)))
    }

    /// When [`Edge::tick`] must be called, and [`Edge::register_again`].
    pub fn next(&self) -> Option<Time> {
        let again = (!self.again.is_empty()).then_some(self.again_at);
        [self.location.next(), again].into_iter().flatten().min()
    }

    /// Frees what has expired.
    pub fn tick(&mut self, paths: &mut Paths, now: Time) {
        self.location.tick(now, paths, |_| {});
        self.tidy();
    }

    /// A connection has ended; to be called before [`Paths::closed`].
    pub fn flow_ended(&mut self, flow: &Flow, paths: &mut Paths, now: Time) {
        self.location.flow_ended(flow, paths, now);
    }

    /// Prompts on a path were lost. Says how many contacts this concerns.
    pub fn path_down(&mut self, path: PathId, lost: Lost, paths: &mut Paths, now: Time) -> u32 {
        self.location.path_down(path, lost, paths, now)
    }

    /// Something came in on a path that was down.
    pub fn path_up(&mut self, path: PathId) {
        self.location.path_up(path);
    }

    /// Forgets contacts of an address of record, as [`Location::unregister`]. Their registrar does not know.
    pub fn unregister(&mut self, aor: &str, uri: Option<&[u8]>, paths: &mut Paths, now: Time) -> u32 {
        self.location.unregister(aor, uri, paths, now)
    }

    /// To be fed to the core until there is none: a device's last REGISTER with another branch, as if it had sent it now. The response
    /// goes to the device, which does not know the branch and drops it.
    pub fn register_again(&mut self, now: Time) -> Option<Input> {
        while now >= self.again_at {
            let token = self.again.pop_front()?;
            if self.again.len().is_multiple_of(AT_ONCE) {
                self.again_at = now + PAUSE;
            }
            if let Some(input) = self.repeated(&token) {
                return Some(input);
            }
        }
        None
    }

    /// What has changed for the store.
    pub fn take_changes(&mut self) -> Changes {
        self.location.take_changes()
    }

    /// Takes a contact back after a restart, as [`Location::restore`].
    pub fn restore(
        &mut self,
        number: Number,
        stored: &StoredContact<'_>,
        refresh: Option<&Refresh>,
        listener: impl Fn(ListenerId) -> Option<ListenerId>,
        paths: &mut Paths,
        now: Time,
    ) -> Option<ContactId> {
        let id = self.location.restore(number, stored, refresh, listener, paths, now)?;
        let token = self.token(stored.aor, stored.contact.uri, stored.contact.params);
        self.tokens.insert(token, id);
        Some(id)
    }
}

/// Whether the user part of a URI looks like a token of [`Edge`].
pub fn is_token(user: &[u8]) -> bool {
    user.starts_with(PREFIX)
}

/// What happens inside.
impl Edge {
    fn is_there(&self, token: &Token) -> bool {
        self.tokens
            .get(token)
            .is_some_and(|id| self.location.get(*id, Time(0)).is_some())
    }

    /// The listener that the registrar shall reach us at. `towards`: a URI that leads to it.
    fn outside(&self, towards: &Uri<'_>, flow: &Flow) -> Option<&Place> {
        // Where the name will lead is not known yet; it is most likely out.
        let outside = [
            IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
        ];
        let first = towards.transport().unwrap_or(Transport::Udp);
        let transports = [first, Transport::Udp, Transport::Tcp, Transport::Tls];
        let to = towards.address();
        let choices = transports.into_iter().flat_map(|transport| {
            let to = to.into_iter().chain(outside.into_iter().filter(|_| to.is_none()));
            to.map(move |to| (transport, to))
        });
        let id = choices
            .filter_map(|(transport, to)| self.here.choose(transport, to, flow))
            .next();
        self.here.get(id?)
    }

    fn token(&self, aor: &str, uri: &[u8], params: &[u8]) -> Token {
        let mut mac = self.key.clone();
        mac.update(b"sipnat edge ");
        for part in [aor.as_bytes(), uri, instance(params).unwrap_or_default()] {
            mac.update(&(part.len() as u32).to_be_bytes());
            mac.update(part);
        }
        let mac = mac.finalize().into_bytes();
        let mut token = [0; LENGTH];
        token.copy_from_slice(&mac[..LENGTH]);
        Token(token)
    }

    /// The last REGISTER of a contact with another branch.
    fn repeated(&self, token: &Token) -> Option<Input> {
        let (bytes, local) = self.last.get(token)?;
        let flow = self.location.get(*self.tokens.get(token)?, Time(0))?.flow?;
        let message = Message::parse(bytes.clone()).ok()?;
        let branch = message
            .via()
            .map(|via| via.branch())
            .filter(|branch| !branch.is_empty())?;
        let end = branch.as_ptr() as usize - bytes.as_ptr() as usize + branch.len();
        let mut edits = Edits::new();
        edits.insert_fmt(end as u32, format_args!("-{:08x}", fastrand::u32(..)));
        Some(Input::Received {
            flow,
            local: *local,
            bytes: edits.apply(&message),
        })
    }

    fn put(&mut self, waiting: &Waiting, sent: &Sent, seconds: u32, paths: &mut Paths, now: Time) {
        let Some(own) = waiting.contact(sent) else { return };
        let request = &waiting.request;
        let via = request.via();
        let says_so = via.is_none_or(|via| !is_sent_by(&via, &waiting.flow)) || !sent.at_source;
        let offers = via.is_some_and(|via| via.offers_keep());
        let outbound = own.params.has("reg-id") && request.has_token(HeaderName::Supported, "outbound");
        let new = NewContact {
            uri: own.uri,
            params: own.params.0,
            call_id: request.call_id(),
            cseq: request.cseq().map_or(0, |cseq| cseq.number),
            path: b"",
            flow: Some(waiting.flow),
            behind_nat: waiting.first_hop && says_so,
            keeps_alive: waiting.first_hop && (offers || outbound),
            reg_id: own
                .params
                .get("reg-id")
                .and_then(number)
                .and_then(|id| u32::try_from(id).ok()?.try_into().ok()),
            q: 1000,
            expires: now + Duration::from_secs(seconds.into()),
            user_agent: request.value(HeaderName::UserAgent),
            fixed: false,
        };
        let old = self.tokens.get(&sent.token).copied();
        let id = self.location.put(&waiting.aor, old, &new, paths, now);
        self.tokens.insert(sent.token, id);
        self.last.insert(sent.token, (request.bytes().clone(), waiting.local));
    }

    fn remove(&mut self, token: &Token, paths: &mut Paths, now: Time) {
        self.last.remove(token);
        if let Some(id) = self.tokens.remove(token) {
            self.location.remove(id, paths, now);
        }
    }

    /// The device that offers keep-alives is told how often (RFC 6223): its Via is the second one, ours is taken off.
    fn keep(&self, waiting: &Waiting, response: &Message, edits: &mut Edits) {
        let item = response.items(HeaderName::Via).nth(1).filter(|_| waiting.first_hop);
        let via = item.and_then(|item| Via::parse(response, item.span));
        let Some(via) = via else { return };
        for param in via.params.iter() {
            if param.name.eq_ignore_ascii_case(b"keep") && param.value.is_none() {
                let (udp, stream) = self.settings.keep;
                let seconds = if waiting.flow.transport.reliable() { stream } else { udp };
                edits.insert_fmt(response.place(param.name).end, format_args!("={seconds}"));
            }
        }
    }

    /// Drops tokens of contacts that are gone, once they are as many as the others.
    fn tidy(&mut self) {
        if self.tokens.len() > 2 * self.location.len() + 64 {
            self.tokens.retain(|_, id| self.location.get(*id, Time(0)).is_some());
            self.last.retain(|token, _| self.tokens.contains_key(token));
        }
    }
}

impl Token {
    fn text(&self) -> String {
        let mut text = String::from_utf8_lossy(PREFIX).into_owned();
        URL_SAFE_NO_PAD.encode_string(self.0, &mut text);
        text
    }

    fn parse(user: &[u8]) -> Option<Token> {
        let text = user.strip_prefix(PREFIX)?;
        let mut bytes = [0; LENGTH + 3];
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        bytes[..length].try_into().ok().map(Token)
    }
}

/// `user@host`, and the registrar where that is another host: the name of an address of record that is registered elsewhere.
pub fn aor(to: &Uri<'_>, registrar: &Uri<'_>) -> Option<String> {
    let user = to.user_text().filter(|user| !user.is_empty() && to.is_sip())?;
    let host = |uri: &Uri<'_>| String::from_utf8_lossy(uri.host).to_ascii_lowercase();
    let (own, at) = (host(to), host(registrar));
    let port = registrar.port.map_or(String::new(), |port| format!(":{port}"));
    Some(if own == at && port.is_empty() {
        format!("{user}@{own}")
    } else {
        format!("{user}@{own} at {at}{port}")
    })
}

/// Seconds; what is no number counts as the default (RFC 3261 section 10.2.1.1).
fn expires(text: Option<&[u8]>) -> Option<u32> {
    text.map(|text| number(text).map_or(DEFAULT_EXPIRES, |seconds| u32::try_from(seconds).unwrap_or(u32::MAX)))
}

/// Puts another URI into a value, in brackets.
fn replace(edits: &mut Edits, value: &NameAddr<'_>, uri: &[u8]) {
    let Span { start, end } = value.uri_span;
    if value.bracketed {
        edits.replace(value.uri_span, uri);
    } else {
        edits.replace(Span { start, end }, &[b"<", uri, b">"].concat());
    }
}

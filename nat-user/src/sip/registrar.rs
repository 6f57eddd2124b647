//! The registrar (RFC 3261 section 10.3), with Path (RFC 3327), outbound (RFC 5626) and keep (RFC 6223).
//!
//! The order of its checks is the RFC's. The caller does the ones that concern other requests as well:
//!
//! 1. the domain of the request URI is served here ([`Domains::find`]); otherwise the request is proxied,
//! 2. what is required can be done: else 420 ([`Registrar::unsupported`]),
//! 3. authentication, which gives [`Register::user`],
//! 4. [`Registrar::register`] does the rest: 403, 404, 400, 423, 500, or 200 with all contacts.
//!
//! A request changes everything that it asks for or nothing. Who comes from behind a NAT is found by comparing the addresses inside of the
//! request with where it came from; what counts for reaching the device is the flow it came on, never what it says of itself.

mod answer;
#[cfg(test)]
mod bench;
pub(in crate::sip) mod ourselves;
#[cfg(test)]
mod outbound_tests;
#[cfg(test)]
mod rfc3665_tests;
#[cfg(test)]
mod tests;
mod wanted;

use std::{net::SocketAddr, time::Duration};

use smallvec::SmallVec;

pub use self::ourselves::Ourselves;
use self::{
    answer::Date,
    wanted::{Asked, Wanted},
};
use super::{
    flow::Flow,
    location::{
        Contact, ContactId, Location, NewContact,
        domains::{DomainId, Domains, user_of},
    },
    message::{HeaderName, Message, NameAddr, Uri},
    path::Paths,
    time::Time,
};
use crate::config;

/// Bytes that are stored of one contact at most: URI, parameters, Call-ID and Path.
const MAX_STORED: usize = 4096;

/// Option tags that a REGISTER may require.
const SUPPORTED: [&str; 2] = ["path", "outbound"];

/// What makes registrations.
#[derive(Debug)]
pub struct Registrar {
    settings: Settings,
    ourselves: Ourselves,
    counts: Counts,
    /// The answer's headers; kept for its memory.
    headers: Vec<u8>,
    aor: String,
    date: Date,
}

/// How it is done.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub registrar: config::sip::Registrar,
    /// How often devices shall send keep-alives over UDP if they offer to (RFC 6223, Flow-Timer). Default: `paths.interval`.
    pub keep_udp: Duration,
    /// The same on streams. Default 120 s (RFC 5626 section 4.4.1).
    pub keep_stream: Duration,
}

/// A REGISTER for one of our domains, checked by [`check::request`](super::message::check::request).
#[derive(Clone, Copy, Debug)]
pub struct Register<'a> {
    pub message: &'a Message,
    /// What it came in on.
    pub flow: Flow,
    /// The address that it was sent to.
    pub local: SocketAddr,
    /// Of the request URI.
    pub domain: DomainId,
    /// Who has authenticated. `None`: nobody had to.
    pub user: Option<&'a str>,
    /// It comes from a trusted peer, which may add Path for devices that do not know it.
    pub trusted: bool,
}

/// The response to a REGISTER.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    pub code: u16,
    pub reason: &'static str,
    /// Whole header lines, each with its CRLF.
    pub headers: &'a [u8],
    /// The value that `keep` gets in the topmost Via, in seconds (RFC 6223 section 4.4). `None`: it is left alone.
    pub keep: Option<u32>,
    /// The contact that the request has registered. A request that repeats it does that again and nothing else ([`Registrar::refresh`]). `None`:
    /// there is more to it.
    pub repeatable: Option<ContactId>,
}

/// What has happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Contacts that were new.
    pub added: u64,
    /// Contacts that were registered again.
    pub refreshed: u64,
    /// Contacts that their device has removed.
    pub removed: u64,
    /// Contacts refused because they point at ourselves.
    pub refused_ourselves: u64,
    /// Requests refused because of a limit.
    pub refused_limit: u64,
    /// Requests refused because their CSeq was used before.
    pub refused_order: u64,
}

/// Why a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Refusal {
    code: u16,
    reason: &'static str,
}

const NOT_HIGHER: Refusal = Refusal {
    code: 500,
    reason: "CSeq Not Higher Than Before",
};

const fn refuse<T>(code: u16, reason: &'static str) -> Result<T, Refusal> {
    Err(Refusal { code, reason })
}

/// What a request asks for, seen as a whole.
struct Plan<'a> {
    /// What becomes of each contact in it, and which binding of before it concerns.
    steps: SmallVec<[(Wanted<'a>, Option<ContactId>); 2]>,
    /// Contacts that are down and give way to new ones.
    evicted: SmallVec<[ContactId; 2]>,
}

/// What holds for all contacts of a request.
struct Circumstances<'a> {
    request: Register<'a>,
    call_id: &'a [u8],
    cseq: u32,
    /// The values of Path, separated by commas.
    path: Vec<u8>,
    /// Nobody is between us and the device.
    first_hop: bool,
    behind_nat_by_via: bool,
    /// RFC 5626 section 6 allows outbound processing.
    outbound_possible: bool,
    supports_outbound: bool,
    /// The device offers keep-alives (RFC 6223).
    offers_keep: bool,
    /// One of the contacts that it has registered.
    registered: Option<ContactId>,
    /// As [`Answer::repeatable`].
    repeatable: Option<ContactId>,
}

impl Registrar {
    pub fn new(settings: Settings, ourselves: Ourselves) -> Registrar {
        Registrar {
            settings,
            ourselves,
            counts: Counts::default(),
            headers: Vec::with_capacity(1024),
            aor: String::new(),
            date: Date::default(),
        }
    }

    /// Other settings, after a reload.
    pub fn configure(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Other addresses of ours, after a reload or because one has changed.
    pub fn set_ourselves(&mut self, ourselves: Ourselves) {
        self.ourselves = ourselves;
    }

    /// Whether a request for this URI would come to us.
    pub fn is_ourselves(&self, uri: &Uri<'_>, local: SocketAddr) -> bool {
        self.ourselves.are(uri, local)
    }

    /// What has happened since the start.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Step 2: what the request requires and we cannot do. To be asked before authentication.
    pub fn unsupported(&mut self, message: &Message) -> Option<Answer<'_>> {
        self.headers.clear();
        for item in message.items(HeaderName::Require) {
            let tag = message.text(item.span);
            if !SUPPORTED.iter().any(|known| tag.eq_ignore_ascii_case(known.as_bytes())) {
                answer::list_value(&mut self.headers, HeaderName::Unsupported, tag);
            }
        }
        if self.headers.is_empty() {
            return None;
        }
        self.headers.extend_from_slice(b"\r\n");
        Some(Answer {
            code: 420,
            reason: "Bad Extension",
            headers: &self.headers,
            keep: None,
            repeatable: None,
        })
    }

    /// Steps 4 to 8.
    pub fn register(
        &mut self,
        request: Register<'_>,
        domains: &Domains,
        location: &mut Location,
        paths: &mut Paths,
        now: Time,
    ) -> Answer<'_> {
        let mut aor = std::mem::take(&mut self.aor);
        let result = self.process(request, domains, &mut aor, location, paths, now);
        self.headers.clear();
        let answer = match result {
            Ok(done) => {
                self.success(&done, &aor, location, now);
                Answer {
                    code: 200,
                    reason: "OK",
                    headers: &self.headers,
                    keep: done.offers_keep.then(|| self.keep(&request.flow)),
                    repeatable: done.repeatable,
                }
            }
            Err(Refusal { code, reason }) => {
                self.refusal(code);
                Answer {
                    code,
                    reason,
                    headers: &self.headers,
                    keep: None,
                    repeatable: None,
                }
            }
        };
        self.aor = aor;
        answer
    }

    /// A request that repeats the one by which this contact was last registered ([`Answer::repeatable`]): only its CSeq has to be judged.
    pub fn refresh(&mut self, id: ContactId, cseq: u32, location: &mut Location, now: Time) -> Answer<'_> {
        self.headers.clear();
        if !location.refresh(id, cseq, now) {
            self.counts.refused_order += 1;
            let Refusal { code, reason } = NOT_HIGHER;
            return Answer {
                code,
                reason,
                headers: &self.headers,
                keep: None,
                repeatable: None,
            };
        }
        self.counts.refreshed += 1;
        self.refreshed(id, location, now);
        Answer {
            code: 200,
            reason: "OK",
            headers: &self.headers,
            keep: None,
            repeatable: Some(id),
        }
    }

    fn process<'a>(
        &mut self,
        request: Register<'a>,
        domains: &Domains,
        aor: &mut String,
        location: &mut Location,
        paths: &mut Paths,
        now: Time,
    ) -> Result<Circumstances<'a>, Refusal> {
        let message = request.message;
        match message.to_uri().and_then(|to| domains.aor(&to, aor)) {
            Some(domain) if domain == request.domain && (aor.is_ascii() || !aor.contains('\u{fffd}')) => {}
            _ => return refuse(404, "Not Found"),
        }
        if request
            .user
            .is_some_and(|user| domains.user(request.domain, user) != user_of(aor))
        {
            return refuse(403, "Forbidden");
        }
        let mut circumstances = Circumstances::of(request)?;
        let Some(first) = message.value(HeaderName::Contact) else {
            return Ok(circumstances); // it only asks
        };
        if first.starts_with(b"*") {
            let zero = message.number(HeaderName::Expires) == Some(0);
            if first != b"*" || message.has_several(HeaderName::Contact) || !zero {
                return refuse(400, "Contact * Needs Expires: 0 and No Other Contact");
            }
            self.remove_all(&circumstances, aor, location, paths, now)?;
            return Ok(circumstances);
        }
        let plan = self.plan(&circumstances, aor, domains, location, now)?;
        let plain = plan.steps.len() == 1 && plan.steps[0].0.reg_id.is_none() && circumstances.path.is_empty();
        circumstances.registered = self.carry_out(plan, &circumstances, aor, location, paths, now);
        let repeatable = plain && request.user.is_none() && !circumstances.offers_keep;
        circumstances.repeatable = circumstances.registered.filter(|_| repeatable);
        Ok(circumstances)
    }

    /// Step 6: `*` removes all contacts, unless this request is older than one of them.
    fn remove_all(
        &mut self,
        circumstances: &Circumstances<'_>,
        aor: &str,
        location: &mut Location,
        paths: &mut Paths,
        now: Time,
    ) -> Result<(), Refusal> {
        let mut ids: SmallVec<[ContactId; 8]> = SmallVec::new();
        for contact in location.contacts(aor, now).filter(|contact| !contact.fixed) {
            self.in_order(circumstances, &contact)?;
            ids.push(contact.id);
        }
        for id in ids {
            self.counts.removed += u64::from(location.remove(id, paths, now));
        }
        Ok(())
    }

    /// Step 7: what is to be done, or why nothing is.
    fn plan<'a>(
        &mut self,
        circumstances: &Circumstances<'a>,
        aor: &str,
        domains: &Domains,
        location: &Location,
        now: Time,
    ) -> Result<Plan<'a>, Refusal> {
        let message = circumstances.request.message;
        let most = self.settings.registrar.max_contacts as usize;
        let mut steps: SmallVec<[(Wanted<'a>, Option<ContactId>); 2]> = SmallVec::new();
        for item in message.items(HeaderName::Contact) {
            if steps.len() > most {
                self.counts.refused_limit += 1;
                return refuse(403, "Too Many Contacts");
            }
            let mut wanted = Wanted::read(message, item.span, &self.settings.registrar)?;
            if wanted.reg_id.is_some() && !circumstances.outbound_possible {
                if circumstances.supports_outbound {
                    return refuse(439, "First Hop Lacks Outbound Support");
                }
                wanted.reg_id = None;
            }
            if let Asked::For(seconds) = wanted.asked {
                let least = self.settings.registrar.min_expires.as_secs();
                if u64::from(seconds) < least && seconds < 3600 {
                    return refuse(423, "Interval Too Brief");
                }
                let uri = &wanted.parsed;
                if self.ourselves.are(uri, circumstances.request.local)
                    || (uri.is_sip()
                        && uri.port.is_none()
                        && uri.address().is_none()
                        && domains.find(uri.host).is_some())
                {
                    self.counts.refused_ourselves += 1;
                    return refuse(403, "Contact Points at This Server");
                }
            }
            let stored =
                wanted.uri.len() + wanted.params.len() + circumstances.call_id.len() + circumstances.path.len();
            if stored > MAX_STORED {
                return refuse(400, "Contact Too Long");
            }
            let old = location.contacts(aor, now).find(|contact| wanted.means(contact));
            if let Some(old) = &old {
                self.in_order(circumstances, old)?;
            }
            let old = old.map(|old| old.id);
            if steps
                .iter()
                .any(|(other, id)| (old.is_some() && *id == old) || other.collides(&wanted))
            {
                return refuse(400, "Contact Given Twice");
            }
            steps.push((wanted, old));
        }
        let live = || steps.iter().filter(|(wanted, _)| wanted.asked != Asked::ToRemove);
        if live().count() > 1 && live().any(|(wanted, _)| wanted.reg_id.is_some()) {
            return refuse(400, "More Than One Contact With reg-id");
        }
        let evicted = self.make_room(&steps, aor, location, now)?;
        Ok(Plan { steps, evicted })
    }

    /// The limits of contacts: which ones that are down give way.
    fn make_room(
        &mut self,
        steps: &[(Wanted<'_>, Option<ContactId>)],
        aor: &str,
        location: &Location,
        now: Time,
    ) -> Result<SmallVec<[ContactId; 2]>, Refusal> {
        let is_removed = |(wanted, _): &&(Wanted<'_>, _)| wanted.asked == Asked::ToRemove;
        let added = steps
            .iter()
            .filter(|step| !is_removed(step) && step.1.is_none())
            .count();
        let mut evicted = SmallVec::new();
        if added == 0 {
            return Ok(evicted);
        }
        let removed = steps.iter().filter(|step| is_removed(step) && step.1.is_some()).count();
        let limits = &self.settings.registrar;
        if location.len() + added > removed + limits.max_registrations as usize {
            self.counts.refused_limit += 1;
            return refuse(503, "Too Many Registrations");
        }
        let own = || location.contacts(aor, now).filter(|contact| !contact.fixed);
        let more = (own().count() + added).saturating_sub(removed + limits.max_contacts as usize);
        if more > 0 {
            let untouched = |contact: &Contact<'_>| !steps.iter().any(|(_, old)| *old == Some(contact.id));
            evicted.extend(own().filter(|c| c.down && untouched(c)).map(|c| c.id).take(more));
            if evicted.len() < more {
                self.counts.refused_limit += 1;
                return refuse(403, "Too Many Contacts");
            }
        }
        Ok(evicted)
    }

    /// Commits what was planned; nothing here can fail. Says one of the contacts that are registered now.
    fn carry_out(
        &mut self,
        plan: Plan<'_>,
        circumstances: &Circumstances<'_>,
        aor: &str,
        location: &mut Location,
        paths: &mut Paths,
        now: Time,
    ) -> Option<ContactId> {
        let mut registered = None;
        for id in plan.evicted {
            location.remove(id, paths, now);
        }
        for (wanted, old) in &plan.steps {
            let Asked::For(seconds) = wanted.asked else {
                if let Some(old) = old {
                    self.counts.removed += u64::from(location.remove(*old, paths, now));
                }
                continue;
            };
            let new = self.contact(wanted, seconds, circumstances, now);
            registered = Some(location.put(aor, *old, &new, paths, now));
            *(if old.is_some() {
                &mut self.counts.refreshed
            } else {
                &mut self.counts.added
            }) += 1;
        }
        registered
    }

    /// The contact as it is registered.
    fn contact<'a>(
        &self,
        wanted: &'a Wanted<'_>,
        seconds: u32,
        circumstances: &'a Circumstances<'_>,
        now: Time,
    ) -> NewContact<'a> {
        let flow = circumstances.request.flow;
        let message = circumstances.request.message;
        // Only SIP goes over a flow; a `mailto` or `tel` is for redirects.
        let direct = circumstances.first_hop && wanted.parsed.is_sip();
        let behind_nat = direct && (circumstances.behind_nat_by_via || !ourselves::is_source(&wanted.parsed, &flow));
        let limits = &self.settings.registrar;
        let mut granted = Duration::from_secs(seconds.into()).min(limits.max_expires);
        if behind_nat {
            granted = granted.min(limits.nat_expires.unwrap_or(granted));
        }
        NewContact {
            uri: wanted.uri,
            params: &wanted.params,
            call_id: circumstances.call_id,
            cseq: circumstances.cseq,
            path: &circumstances.path,
            flow: direct.then_some(flow),
            behind_nat,
            keeps_alive: direct
                && (circumstances.offers_keep || (wanted.reg_id.is_some() && circumstances.supports_outbound)),
            reg_id: wanted.reg_id,
            q: wanted.q,
            expires: now + granted,
            user_agent: message.value(HeaderName::UserAgent),
            fixed: false,
        }
    }

    /// Steps 6 and 7: within one Call-ID, requests count in the order of their CSeq.
    fn in_order(&mut self, circumstances: &Circumstances<'_>, contact: &Contact<'_>) -> Result<(), Refusal> {
        if contact.call_id == circumstances.call_id && circumstances.cseq <= contact.cseq {
            self.counts.refused_order += 1;
            return Err(NOT_HIGHER);
        }
        Ok(())
    }

    fn keep(&self, flow: &Flow) -> u32 {
        let keep = if flow.transport.reliable() {
            self.settings.keep_stream
        } else {
            self.settings.keep_udp
        };
        u32::try_from(keep.as_secs()).unwrap_or(u32::MAX).max(1)
    }
}

impl<'a> Circumstances<'a> {
    fn of(request: Register<'a>) -> Result<Circumstances<'a>, Refusal> {
        let message = request.message;
        let via = message.via();
        let mut path = Vec::new();
        let mut first = None;
        for item in message.items(HeaderName::Path) {
            let uri = NameAddr::parse(message, item.span).and_then(|value| value.parsed());
            let Some(uri) = uri.filter(Uri::is_sip) else {
                return refuse(400, "Malformed Path");
            };
            first.get_or_insert(uri.params.has("ob"));
            if !path.is_empty() {
                path.push(b',');
            }
            path.extend_from_slice(message.text(item.span));
        }
        // The recommended policy of RFC 3327 section 5.3.
        if first.is_some() && !request.trusted && !message.has_token(HeaderName::Supported, "path") {
            return refuse(420, "Bad Extension");
        }
        let first_hop = message.has_one_via() && first.is_none();
        Ok(Circumstances {
            request,
            call_id: message.call_id(),
            cseq: message.cseq().map_or(0, |cseq| cseq.number),
            path,
            first_hop,
            behind_nat_by_via: via.is_none_or(|via| !ourselves::is_sent_by(&via, &request.flow)),
            outbound_possible: first_hop || first == Some(true),
            supports_outbound: message.has_token(HeaderName::Supported, "outbound"),
            offers_keep: first_hop && via.is_some_and(|via| via.offers_keep()),
            registered: None,
            repeatable: None,
        })
    }
}

//! Who is who: users, registrations and limits joined into what the core asks ([`Registry`]).

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;

use super::{
    auth::{self, Asker, Authenticator, Credentials},
    command::Input,
    core::{
        here::Here,
        seam::{Answer, Device, Found, Lookup, Registered, Registry, Verdict},
    },
    edge::{self, Edge},
    engine::Office,
    flow::Flow,
    limits::{self, Admission, Ban, Limits},
    location::{
        Contact, ContactId, Location, Lost,
        domains::{DomainId, Domains, domain_of, user_of},
        fixed::Fixed,
        stored::StoredContact,
    },
    message::{Edits, HeaderName, Message, Uri, pattern::Pattern},
    metrics::{Refusal, SipMetrics},
    path::{PathAction, Paths},
    query::Setup,
    registrar::{self, Ourselves, Register, Registrar},
    route::DialPlan,
    time::Time,
    users::{UserEntry, Users},
};
use crate::{
    config::sip::{ListenAddress, Sip},
    store::{Batch, CallChanges, CallRecord, Kind, Store, Writer, redb::NO_LISTENER},
};

/// How long a change waits for being written, so that many go together.
const BEHIND: Duration = Duration::from_secs(1);
/// How often devices shall keep streams alive (RFC 5626 section 4.4.1).
const KEEP_STREAM: Duration = Duration::from_secs(120);

/// Users, registrations and limits.
#[derive(Debug)]
pub struct Directory {
    config: Arc<Sip>,
    /// Where registrars elsewhere are, if not where DNS says.
    plan: DialPlan,
    domains: Domains,
    /// By the order of `config.domains`.
    users: Vec<Option<Arc<Users>>>,
    pub location: Location,
    pub registrar: Registrar,
    pub auth: Authenticator,
    pub limits: Limits,
    /// Registrations elsewhere that went through us.
    pub edge: Edge,
    /// Refusals that only this can count, by [`Refusal`].
    pub refused: [u64; Refusal::COUNT],
    pub wrong_passwords: u64,
    /// Sources that were banned.
    pub bans: u64,
    /// Contacts that expired.
    pub expired: u64,
    /// Where registrations are kept.
    writer: Option<Writer>,
    /// When something was last handed over to be written.
    written: Time,
    /// A batch that the writer did not take.
    unwritten: Batch,
    /// Calls that have changed since the last batch.
    calls: CallChanges,
    /// Room for an address of record.
    aor: String,
    /// Changes with everything that the judgement of a REGISTER depends on.
    seed: u64,
}

impl Directory {
    pub fn new(config: Arc<Sip>, users: Vec<Option<Arc<Users>>>, secret: &[u8], now: Time) -> Directory {
        Directory {
            plan: DialPlan::new(&config),
            domains: Domains::new(&config.domains),
            users,
            location: Location::new(),
            registrar: Registrar::new(registrar_settings(&config), Ourselves::new()),
            auth: Authenticator::new(config.auth.clone(), secret, now),
            limits: Limits::new(limits::Settings::new(&config.limits, &config.auth, &config.trusted)),
            edge: Edge::new(edge_settings(&config), secret),
            refused: [0; Refusal::COUNT],
            wrong_passwords: 0,
            bans: 0,
            expired: 0,
            writer: None,
            written: now,
            unwritten: Batch::default(),
            calls: CallChanges::default(),
            aor: String::new(),
            seed: fastrand::u64(..),
            config,
        }
    }

    /// Takes the registrations back that a store holds, and keeps what changes from now on in it. Says how many contacts there were, and gives the
    /// numbers and records of calls.
    ///
    /// # Errors
    /// If it cannot be read, or there is no room for a thread.
    pub fn keep_in(
        &mut self,
        mut store: impl Store + 'static,
        paths: &mut Paths,
        now: Time,
    ) -> anyhow::Result<(usize, Vec<CallRecord>)> {
        let (location, edge) = (&mut self.location, &mut self.edge);
        let mut damaged = 0;
        store.load(&mut |loaded| {
            let Some(contact) = StoredContact::decode(loaded.bytes) else {
                damaged += 1;
                return;
            };
            let refresh = loaded.refresh.as_ref();
            // The store says which listener it is today; one that is gone has no flow.
            let listener = |id| (id != NO_LISTENER).then_some(id);
            match loaded.kind {
                Kind::Registration => location.restore(loaded.number, &contact, refresh, listener, paths, now),
                Kind::Edge => edge.restore(loaded.number, &contact, refresh, listener, paths, now),
            };
        })?;
        if damaged > 0 {
            tracing::warn!(
                damaged,
                "registrations in the store cannot be read; their devices will register again"
            );
        }
        let mut calls = Vec::new();
        store.load_calls(&mut |number, record| calls.push((number, record.to_vec())))?;
        self.writer = Some(Writer::start(store).context("cannot start the thread that writes registrations")?);
        Ok((self.location.len(), calls))
    }

    /// Hands over what has changed, if the writer takes it.
    fn write(&mut self, now: Time) {
        let Some(writer) = &self.writer else {
            // Nobody keeps them.
            self.location.take_changes();
            self.edge.take_changes();
            self.calls = CallChanges::default();
            return;
        };
        self.written = now;
        if !writer.is_ready() {
            return;
        }
        let mut batch = std::mem::take(&mut self.unwritten);
        if batch.is_empty() {
            batch.registrations = self.location.take_changes();
            batch.edge = self.edge.take_changes();
            batch.calls = std::mem::take(&mut self.calls);
        }
        if let Err(batch) = writer.write(batch) {
            self.unwritten = batch;
        }
    }

    fn has_unwritten(&self) -> bool {
        self.location.has_changes()
            || self.edge.location().has_changes()
            || !self.calls.is_empty()
            || !self.unwritten.is_empty()
    }

    fn users_of(&self, domain: DomainId) -> Option<&Arc<Users>> {
        self.users.get(usize::from(domain.0)).and_then(Option::as_ref)
    }

    fn must_authenticate(&self, domain: DomainId) -> bool {
        self.config
            .domains
            .get(usize::from(domain.0))
            .is_some_and(|domain| domain.authenticate)
    }

    /// Who sends a request that must authenticate in this domain. An error is the response to give.
    fn authenticate(
        &mut self,
        request: &Message,
        flow: &Flow,
        asker: Asker,
        domain: DomainId,
        now: Time,
    ) -> Result<String, Answer> {
        let realm = self.domains.name(domain).to_owned();
        let users = self.users_of(domain).cloned().unwrap_or_default();
        let source = flow.remote.ip();
        let mut stale = false;
        match self.auth.check(request, asker, &realm, &users, source, now) {
            auth::Verdict::Granted { user } => {
                self.limits.right_password(source);
                return Ok(user);
            }
            auth::Verdict::Malformed(reason) => return Err(Answer::new(400, reason)),
            auth::Verdict::Wrong { user } => {
                self.wrong_passwords += 1;
                if self.limits.wrong_password(source, &user, now) {
                    self.bans += 1;
                    tracing::warn!(%source, user, "too many wrong passwords; the source is banned for a while");
                }
            }
            auth::Verdict::Stale => stale = true,
            auth::Verdict::Missing => {}
        }
        // Who is expected decides which algorithms are of use.
        let expected = self.expected(request, domain, &users);
        let (code, reason) = asker.response();
        Err(Answer {
            headers: self
                .auth
                .challenge(asker, &realm, expected.as_ref(), stale, source, now)
                .to_vec(),
            ..Answer::new(code, reason)
        })
    }

    /// The entry of the user that a request says it comes from.
    fn expected(&self, request: &Message, domain: DomainId, users: &Users) -> Option<UserEntry> {
        let from = request.from_uri()?;
        let name = from.user_text()?;
        users
            .find(self.domains.name(domain), self.domains.user(domain, &name))
            .cloned()
    }
}

impl Registry for Directory {
    fn admit(&mut self, flow: &Flow, emergency: bool, now: Time) -> Result<(), Option<Answer>> {
        match self.limits.admit(flow.remote.ip(), now) {
            Admission::Pass => Ok(()),
            _ if emergency => Ok(()),
            // No answer: a flood with a forged source must not be passed on to its victim.
            Admission::OverRate => {
                self.refused[Refusal::Rate as usize] += 1;
                Err(None)
            }
            Admission::Banned => {
                self.refused[Refusal::Banned as usize] += 1;
                Err(None)
            }
        }
    }

    fn domain(&self, host: &[u8]) -> Option<usize> {
        self.domains.find(host).map(|id| usize::from(id.0))
    }

    fn aor(&self, uri: &Uri<'_>, aor: &mut String) -> Option<usize> {
        self.domains.aor(uri, aor).map(|id| usize::from(id.0))
    }

    fn lookup(&self, aor: &str, now: Time) -> Lookup {
        let targets = self.location.lookup(aor, now);
        let usable = targets.usable.iter().filter_map(|id| self.found(*id, now));
        Lookup {
            usable: usable.collect(),
            down: targets.down > 0,
        }
    }

    fn fallback(&self, failed: ContactId, tried: &[ContactId], now: Time) -> Option<Found> {
        self.found(self.location.fallback(failed, tried, now)?, now)
    }

    fn contact_on(&self, flow: &Flow, paths: &Paths, now: Time) -> Option<ContactId> {
        let contact = self.location.on_flow(flow, paths, now).next();
        contact.map(|contact| contact.id)
    }

    fn flow_of(&self, contact: ContactId, now: Time) -> Option<Flow> {
        self.location.get(contact, now)?.flow
    }

    fn device_on(&self, flow: &Flow, uri: Option<&Uri<'_>>, paths: &Paths, now: Time) -> Option<Device<'_>> {
        let here = self.location.on_flow(flow, paths, now);
        let mut all = here.chain(self.edge.location().on_flow(flow, paths, now)).map(device);
        let first = all.next()?;
        let Some(uri) = uri else { return Some(first) };
        let aors = self.aors(uri);
        let meant = std::iter::once(first)
            .chain(all)
            .find(|device| aors.iter().flatten().any(|aor| aor == device.aor));
        Some(meant.unwrap_or(first))
    }

    fn flow_of_device(&self, uri: &Uri<'_>, is_it: &dyn Fn(Device<'_>) -> bool, now: Time) -> Option<Flow> {
        let locations = [&self.location, self.edge.location()];
        let aors = self.aors(uri);
        locations.into_iter().zip(aors).find_map(|(location, aor)| {
            let targets = location.lookup(&aor?, now).usable;
            let mut contacts = targets.into_iter().filter_map(|id| location.get(id, now));
            contacts.find(|contact| is_it(device(*contact)))?.flow
        })
    }

    fn is_trusted(&self, source: IpAddr) -> bool {
        self.limits.is_trusted(source)
    }

    fn is_known(&self, flow: &Flow, paths: &Paths, now: Time) -> bool {
        self.is_trusted(flow.remote.ip())
            || self.location.on_flow(flow, paths, now).next().is_some()
            || self.edge.location().on_flow(flow, paths, now).next().is_some()
    }

    fn may_call(&self, caller: &str, destination: &str) -> bool {
        self.entry(caller).is_none_or(|entry| {
            entry.allow.is_empty() || entry.allow.iter().any(|prefix| destination.starts_with(&**prefix))
        })
    }

    fn calls_allowed(&self, aor: &str) -> Option<u32> {
        let id = self.domains.find(domain_of(aor).as_bytes())?;
        self.entry(aor)
            .and_then(|entry| entry.calls)
            .or(self.config.domains.get(usize::from(id.0))?.calls_per_user)
    }

    fn authorize(&mut self, request: &Message, flow: &Flow, now: Time) -> Verdict {
        if self.is_trusted(flow.remote.ip()) {
            return Verdict::Trusted;
        }
        let mut aor = std::mem::take(&mut self.aor);
        let domain = request.from_uri().and_then(|from| self.domains.aor(&from, &mut aor));
        let verdict = match domain {
            None => Verdict::Anonymous,
            Some(domain) if !self.must_authenticate(domain) => Verdict::User {
                aor: aor.clone(),
                credentials: None,
            },
            Some(domain) => match self.authenticate(request, flow, Asker::Proxy, domain, now) {
                Err(answer) => Verdict::Answer(answer),
                Ok(user) if self.domains.user(domain, &user) != user_of(&aor) => {
                    Verdict::Answer(Answer::new(403, "From Is Not the User Who Authenticated"))
                }
                Ok(_) => Verdict::User {
                    credentials: credentials_of(request, self.domains.name(domain)),
                    aor: aor.clone(),
                },
            },
        };
        self.aor = aor;
        verdict
    }

    fn register(
        &mut self,
        request: &Message,
        flow: &Flow,
        local: SocketAddr,
        paths: &mut Paths,
        now: Time,
    ) -> Registered {
        let uri = request.target();
        let Some(domain) = uri
            .and_then(|uri| self.domains.find(uri.host))
            .or_else(|| self.only_domain(request))
        else {
            // The core asks about other domains only where the listener's role is outbound.
            return match uri.filter(|uri| !self.registrar.is_ourselves(uri, local)) {
                None => Registered::Answer(Answer::new(403, "Forbidden")),
                Some(registrar) => {
                    let next = self.plan.next_hops(registrar.host);
                    let towards = next.first().and_then(|next| Uri::parse(next)).unwrap_or(registrar);
                    match self.edge.forward(request, flow, local, &towards, now) {
                        Ok((edits, ticket)) => Registered::Forward { edits, ticket, next },
                        Err(refused) => Registered::Answer(Answer::new(refused.code, refused.reason)),
                    }
                }
            };
        };
        if let Some(refused) = self.registrar.unsupported(request) {
            return Registered::Answer(given(&refused));
        }
        let trusted = self.is_trusted(flow.remote.ip());
        let user = if trusted || !self.must_authenticate(domain) {
            None
        } else {
            match self.authenticate(request, flow, Asker::Server, domain, now) {
                Ok(user) => Some(user),
                Err(answer) => return Registered::Answer(answer),
            }
        };
        let request = Register {
            message: request,
            flow: *flow,
            local,
            domain,
            user: user.as_deref(),
            trusted,
        };
        let answer = self
            .registrar
            .register(request, &self.domains, &mut self.location, paths, now);
        let (repeatable, answer) = (answer.repeatable, given(&answer));
        if let Some(contact) = repeatable {
            let pattern = Pattern::of(request.message, self.seed);
            self.location.remember(contact, pattern);
        }
        Registered::Answer(answer)
    }

    fn repeats(&self, bytes: &Bytes, flow: &Flow, paths: &Paths, now: Time) -> Option<(ContactId, Message)> {
        let mut patterns = self.location.patterns(flow, paths, now);
        patterns.find_map(|(contact, pattern)| Some((contact, pattern.read(bytes, self.seed)?)))
    }

    fn refresh(&mut self, contact: ContactId, cseq: u32, now: Time) -> Answer {
        given(&self.registrar.refresh(contact, cseq, &mut self.location, now))
    }

    fn registered(&mut self, ticket: u64, response: &Message, paths: &mut Paths, now: Time, edits: &mut Edits) {
        self.edge.answered(ticket, response, paths, now, edits);
    }

    fn path_news(&mut self, action: &PathAction, paths: &mut Paths, now: Time) {
        match action {
            PathAction::Down(path) => {
                let lost = if self.config.paths.remove_lost {
                    Lost::Remove
                } else {
                    Lost::Mark
                };
                let contacts =
                    self.location.path_down(*path, lost, paths, now) + self.edge.path_down(*path, lost, paths, now);
                if contacts > 0 {
                    tracing::info!(contacts, "a device does not answer prompts any more");
                }
            }
            PathAction::Up(path) => {
                self.location.path_up(*path);
                self.edge.path_up(*path);
            }
            _ => {}
        }
    }

    fn closed(&mut self, flow: &Flow, paths: &mut Paths, now: Time) {
        self.location.flow_ended(flow, paths, now);
        self.edge.flow_ended(flow, paths, now);
    }

    fn listeners(&mut self, here: &Here) {
        let mut ourselves = Ourselves::new();
        for place in here.iter() {
            if let Some(ip) = place.ip {
                ourselves.add(SocketAddr::new(ip, place.port), place.advertise.as_deref());
            }
        }
        self.registrar.set_ourselves(ourselves);
        self.seed = self.seed.wrapping_add(1);
        self.edge.set_here(here);
    }

    fn again(&mut self, now: Time) -> Option<Input> {
        self.edge.register_again(now)
    }

    fn next(&self) -> Option<Time> {
        let write = self.has_unwritten().then(|| self.written + BEHIND);
        [self.location.next(), self.edge.next(), write]
            .into_iter()
            .flatten()
            .min()
    }

    fn tick(&mut self, paths: &mut Paths, now: Time) {
        self.location.tick(now, paths, |_| self.expired += 1);
        self.edge.tick(paths, now);
        if self.has_unwritten() && self.written + BEHIND <= now {
            self.write(now);
        }
    }

    fn keeps_calls(&self) -> bool {
        self.writer.is_some()
    }

    fn keep_calls(&mut self, changes: CallChanges) {
        self.calls.append(changes);
    }

    fn edge(&self, user: &[u8]) -> Option<(Flow, Bytes)> {
        self.edge.find(user)
    }
}

impl Office for Directory {
    fn location(&self) -> &Location {
        &self.location
    }

    fn elsewhere(&self) -> &Location {
        self.edge.location()
    }

    fn unregister(&mut self, aor: &str, contact: Option<&[u8]>, paths: &mut Paths, now: Time) -> u32 {
        self.location.unregister(aor, contact, paths, now) + self.edge.unregister(aor, contact, paths, now)
    }

    fn bans(&self, now: Time) -> Vec<Ban> {
        self.limits.bans(now).collect()
    }

    fn lift(&mut self, source: IpAddr, now: Time) -> bool {
        self.limits.lift(source, now)
    }

    /// Registrations, bans and nonces stay.
    fn configure(&mut self, setup: &Setup, paths: &mut Paths, now: Time) {
        let config = setup.config.clone();
        self.seed = self.seed.wrapping_add(1);
        self.plan = DialPlan::new(&config);
        self.domains = Domains::new(&config.domains);
        self.users = setup.users.clone();
        self.registrar.configure(registrar_settings(&config));
        self.edge.configure(edge_settings(&config));
        self.auth.configure(config.auth.clone());
        self.limits
            .configure(limits::Settings::new(&config.limits, &config.auth, &config.trusted));
        self.config = config;
        self.put_fixed(paths, now);
        self.unwritten.listeners = Some(names(setup));
    }

    fn count(&self, metrics: &mut SipMetrics) {
        for (sum, part) in metrics.refused.iter_mut().zip(self.refused) {
            *sum += part;
        }
        let contacts = self.registrar.counts();
        metrics.contacts_added = contacts.added;
        metrics.contacts_refreshed = contacts.refreshed;
        metrics.contacts_removed = contacts.removed;
        metrics.contacts_expired = self.expired;
        metrics.wrong_passwords = self.wrong_passwords;
        metrics.bans = self.bans;
    }
}

impl Drop for Directory {
    /// What has changed in the last second is written too.
    fn drop(&mut self) {
        let Some(writer) = self.writer.take() else { return };
        let mut batch = std::mem::take(&mut self.unwritten);
        if !batch.is_empty()
            && let Err(again) = writer.write(batch)
        {
            batch = again;
        } else {
            batch = Batch::default();
        }
        if batch.is_empty() {
            batch.registrations = self.location.take_changes();
            batch.edge = self.edge.take_changes();
            batch.calls = std::mem::take(&mut self.calls);
        }
        if let Err(error) = writer.finish(batch) {
            tracing::error!("the last registrations were not written: {error}");
        }
    }
}

/// What each listener is, by its id, in an unchanging form.
pub fn names(setup: &Setup) -> Vec<String> {
    let last = setup.listeners.iter().map(|place| usize::from(place.id.0)).max();
    let mut names = vec![String::new(); last.map_or(0, |last| last + 1)];
    for place in &setup.listeners {
        let listener = &place.listener;
        let address = match &listener.address {
            ListenAddress::Ip(ip) => ip.to_string(),
            ListenAddress::Interface(name) => name.clone(),
        };
        names[usize::from(place.id.0)] = format!("{} {address} {}", listener.transport, listener.port);
    }
    names
}

impl Directory {
    /// Puts the contacts of the configuration in, and takes those out that are not there any more.
    pub fn put_fixed(&mut self, paths: &mut Paths, now: Time) {
        let mut wanted = Vec::new();
        for (id, domain) in (0..).map(DomainId).zip(&self.config.domains) {
            wanted.extend(domain.contacts.iter().map(|contact| Fixed {
                aor: format!("{}@{}", self.domains.user(id, &contact.user), self.domains.name(id)),
                uri: contact.contact.clone(),
                q: contact.q,
            }));
        }
        self.location.set_fixed(&wanted, paths, now);
    }

    /// The addresses of record that a URI can mean: one here, and one at a registrar elsewhere.
    fn aors(&self, uri: &Uri<'_>) -> [Option<String>; 2] {
        let mut here = String::new();
        let is_here = self.domains.aor(uri, &mut here).is_some();
        [is_here.then_some(here), edge::aor(uri, uri)]
    }

    fn found(&self, id: ContactId, now: Time) -> Option<Found> {
        let contact = self.location.get(id, now)?;
        Some(Found {
            contact: Some(id),
            uri: Bytes::copy_from_slice(contact.uri),
            path: Bytes::copy_from_slice(contact.path),
            flow: contact.flow,
            behind_nat: contact.behind_nat,
            q: contact.q,
        })
    }

    /// What the users file says of a user.
    fn entry(&self, aor: &str) -> Option<&UserEntry> {
        let domain = self.domains.find(domain_of(aor).as_bytes())?;
        self.users_of(domain)?.find(domain_of(aor), user_of(aor))
    }

    /// A REGISTER whose request URI is our own address is for the domain of its To (phones that are configured with an address alone).
    fn only_domain(&self, request: &Message) -> Option<DomainId> {
        self.domains.find(request.to_uri()?.host)
    }
}

fn device(contact: Contact<'_>) -> Device<'_> {
    Device {
        aor: contact.aor,
        name: contact.instance().unwrap_or(contact.uri),
    }
}

fn given(answer: &registrar::Answer<'_>) -> Answer {
    Answer {
        headers: answer.headers.to_vec(),
        keep: answer.keep,
        ..Answer::new(answer.code, answer.reason)
    }
}

/// The header with the credentials for this realm, which end here (RFC 3261 section 22.3).
fn credentials_of(request: &Message, realm: &str) -> Option<usize> {
    request.headers().iter().position(|header| {
        header.name == HeaderName::ProxyAuthorization
            && Credentials::parse(request.text(header.value))
                .is_ok_and(|found| found.is_some_and(|credentials| credentials.realm == realm))
    })
}

fn edge_settings(config: &Sip) -> edge::Settings {
    let seconds = |span: Duration| u32::try_from(span.as_secs()).unwrap_or(u32::MAX);
    edge::Settings {
        max_contacts: config.registrar.max_contacts,
        max_registrations: config.registrar.max_registrations,
        keep: (seconds(config.paths.interval), seconds(KEEP_STREAM)),
    }
}

fn registrar_settings(config: &Sip) -> registrar::Settings {
    registrar::Settings {
        registrar: config.registrar.clone(),
        keep_udp: config.paths.interval,
        keep_stream: KEEP_STREAM,
    }
}

//! A request from its arrival to its targets (RFC 3261 sections 8.2, 16.3 to 16.5).

use std::net::SocketAddr;

use bytes::Bytes;
use smallvec::smallvec;

use super::{
    Core,
    branches::Next,
    queries::Waiting,
    seam::{Answer, Device, Lookup, Registered, Registry, Verdict},
};
use crate::{
    config::sip::{Callers, Role},
    sip::{
        command::{self, Command, Destination, Hop, QueryId},
        edge,
        flow::{Flow, Transport},
        location::ContactId,
        message::{Edits, HeaderName, Message, Method, NameAddr, Uri, Via, check, reply::Reply, uri::Scheme},
        metrics::Refusal,
        proxy::{
            Context, Target, Way,
            best::reason,
            forward::Forward,
            nat,
            routing::{self, Met, Routing},
        },
        redirect,
        route::Dial,
        time::Time,
        timers::Alarm,
        token::Side,
        transaction::{client, key::Key, server::way_back},
    },
};

/// A request on its way to a decision.
pub(super) struct Incoming {
    pub message: Message,
    pub flow: Flow,
    pub local: SocketAddr,
    pub key: Key,
    pub method: Method,
    pub emergency: bool,
    /// It is a REGISTER that repeats the one by which this contact was registered; only what a response is made of can be asked of it.
    pub repeats: Option<ContactId>,
}

/// A REGISTER that goes on to a registrar elsewhere.
struct Forwarded {
    /// Changes to it.
    edits: Edits,
    /// What its response is known by.
    ticket: u64,
    /// Where it is sent to; see [`Registered::Forward`].
    next: Vec<Bytes>,
}

/// An ACK on its way.
#[derive(Debug)]
pub(super) struct Ack {
    message: Message,
    flow: Flow,
    routing: Routing,
    loop_part: u64,
}

/// What a request deserves that goes nowhere.
pub(super) enum Outcome {
    Answer(Answer),
    /// Nothing at all.
    Ignore,
}

/// Where a request goes.
pub(super) struct Plan {
    pub targets: Vec<Target>,
    pub routing: Routing,
    pub loop_part: u64,
    pub credentials: Option<usize>,
    pub edits: Edits,
    pub register: Option<u64>,
    pub breadth: u32,
    /// The caller, if it has proven who it is.
    pub caller: Option<String>,
    /// The callee, if it is a user of ours.
    pub callee: Option<String>,
}

fn answer<T>(code: u16) -> Result<T, Outcome> {
    Err(Outcome::Answer(Answer::new(code, reason(code))))
}

impl<R: Registry> Core<R> {
    pub(super) fn request(
        &mut self,
        message: Message,
        repeats: Option<ContactId>,
        flow: Flow,
        local: SocketAddr,
        now: Time,
        out: &mut Vec<Command>,
    ) {
        let (Some(key), Some(method)) = (self.keys.of(&message), message.method()) else {
            return self.metrics.refuse(Refusal::Unparsable); // no Via that could be read: nobody can be answered
        };
        if let Some(id) = self.servers.find(key) {
            if method == Method::Ack {
                if !self.servers.ack(id, &mut self.timers, now) {
                    self.acknowledge(&message, flow, local, now, out);
                }
            } else {
                self.metrics.retransmissions_in += 1;
                self.servers.again(id, &self.connections, out);
            }
            return;
        }
        if method == Method::Ack {
            // The ACK of a final response that was given without a transaction ends here; others are for a 2xx.
            if message.to_tag() != Some(&self.keys.tag(key)[..]) && check::request(&message).is_none() {
                self.acknowledge(&message, flow, local, now, out);
            }
            return;
        }
        if let Some(answer) = self.servers.answered.get(key, now) {
            self.metrics.retransmissions_in += 1;
            out.push(Command::Send {
                to: way_back(&message, &answer.flow, &self.connections),
                bytes: answer.response,
                ticket: None,
            });
            return;
        }
        self.metrics.request_in(method);
        self.alias(&message, &flow, out);
        let emergency = self.is_emergency(&message);
        let incoming = Incoming {
            message,
            flow,
            local,
            key,
            method,
            emergency,
            repeats,
        };
        match self.decide(&incoming, now, out) {
            Ok(plan) => self.forward(incoming, *plan, now, out),
            Err(Outcome::Answer(answer)) if method == Method::Invite && (300..400).contains(&answer.code) => {
                self.redirect(incoming, &answer, now, out);
            }
            Err(Outcome::Answer(answer)) => self.answer(&incoming, &answer, out),
            Err(Outcome::Ignore) => {}
        }
    }

    /// RFC 5923 section 8.2: a peer offers its connection for what goes to the address in its Via. Over TLS its certificate says for which
    /// domains that may be. Over TCP nothing proves that it is the one at that port of its address (section 9.3), so it is taken from trusted
    /// peers only, which are known by the address alone.
    fn alias(&mut self, message: &Message, flow: &Flow, out: &mut Vec<Command>) {
        let trusted = || self.registry.is_trusted(flow.remote.ip());
        let port = match flow.transport {
            Transport::Udp => None,
            Transport::Tcp | Transport::Tls => message
                .via()
                .filter(|via| via.params.has("alias"))
                .filter(|_| flow.transport == Transport::Tls || trusted())
                .map(|via| via.port.unwrap_or(flow.transport.default_port())),
        };
        let Some(port) = port else { return };
        let address = SocketAddr::new(flow.remote.ip(), port);
        if self.connections.alias(flow, address) {
            out.push(Command::Alias { flow: *flow, address });
        }
    }

    /// Gives a response without a transaction (section 8.2.7): copies of the request get the same one.
    fn answer(&mut self, incoming: &Incoming, answer: &Answer, out: &mut Vec<Command>) {
        let bytes = self.own_response(incoming, answer);
        out.push(Command::Send {
            to: way_back(&incoming.message, &incoming.flow, &self.connections),
            bytes,
            ticket: None,
        });
    }

    /// Section 8.3: a redirect server keeps the transaction, so that its response comes again until it is acknowledged, and a CANCEL has something to match.
    fn redirect(&mut self, incoming: Incoming, answer: &Answer, now: Time, out: &mut Vec<Command>) {
        let response = self.own_response(&incoming, answer);
        let Incoming { message, key, flow, .. } = incoming;
        let server = self.servers.create(message, key, flow, now);
        self.servers.respond(
            server,
            answer.code,
            response,
            &self.connections,
            &mut self.timers,
            now,
            out,
        );
    }

    fn own_response(&mut self, incoming: &Incoming, answer: &Answer) -> Bytes {
        let tag = self.keys.tag(incoming.key);
        self.metrics.response_out(incoming.method, answer.code);
        match answer.code {
            401 | 407 => self.metrics.refuse(Refusal::Unauthorized),
            403 => self.metrics.refuse(Refusal::Forbidden),
            440 | 482 | 483 => self.metrics.refuse(Refusal::Loop),
            _ => {}
        }
        let mut reply = Reply::new(answer.code, answer.reason, &tag, incoming.flow.remote);
        reply.headers = &answer.headers;
        reply.to(&incoming.message)
    }

    fn decide(&mut self, incoming: &Incoming, now: Time, out: &mut Vec<Command>) -> Result<Box<Plan>, Outcome> {
        let message = &incoming.message;
        if incoming.repeats.is_none()
            && let Some(fault) = check::request(message)
        {
            return Err(Outcome::Answer(Answer::new(fault.code, fault.reason)));
        }
        if incoming.method == Method::Cancel {
            return self.cancel(incoming, now, out);
        }
        if let Err(refused) = self.registry.admit(&incoming.flow, incoming.emergency, now) {
            return Err(refused.map_or(Outcome::Ignore, Outcome::Answer));
        }
        if let Some(contact) = incoming.repeats {
            self.shed(incoming, false)?;
            let cseq = message.cseq().map_or(0, |cseq| cseq.number);
            let answer = self.registry.refresh(contact, cseq, now);
            return Err(self.registered_here(incoming, answer, now, out));
        }
        let Some(uri) = message.target().filter(|uri| uri.scheme != Scheme::Other) else {
            return answer(416);
        };
        let local = incoming.local;
        let routing = match routing::preprocess(message, &self.tokens, |uri| self.is_ours(uri, local)) {
            Ok(routing) => routing,
            Err(_) => {
                self.metrics.refuse(Refusal::Token);
                return answer(403);
            }
        };
        let in_dialog = routing.token.in_dialog();
        self.shed(incoming, in_dialog)?;
        if self.has_looped(message) {
            return answer(482);
        }
        let here = routing.next.is_none() && routing.uri.is_none() && !routing.token.in_dialog();
        let for_us = here && self.is_ours(&uri, local) && uri.user.is_none();
        if incoming.method == Method::Register
            && here
            && (for_us || self.registry.domain(uri.host).is_some() || self.is_outbound(incoming))
        {
            let Forwarded { edits, ticket, next } = self.register(incoming, now, out)?;
            return Ok(Box::new(Plan {
                targets: vec![Target::by_next_hops(next)],
                edits,
                register: Some(ticket),
                ..self.plan(message, routing)
            }));
        }
        if incoming.method == Method::Options && for_us {
            return Err(Outcome::Answer(capabilities()));
        }
        if message.number(HeaderName::MaxForwards) == Some(0) {
            return answer(483);
        }
        self.check_requirements(message)?;
        let mut plan = Box::new(self.plan(message, routing));
        if plan.breadth == 0 {
            return answer(440);
        }
        self.find_targets(incoming, &uri, &mut plan, now)?;
        Ok(plan)
    }

    /// RFC 7339: refuses what can be refused while there is too much to do.
    fn shed(&mut self, incoming: &Incoming, in_dialog: bool) -> Result<(), Outcome> {
        let privileged = in_dialog || incoming.emergency;
        match self.overload.refuses(incoming.method, privileged, self.servers.len()) {
            None => Ok(()),
            Some(refused) => {
                self.metrics.refuse(Refusal::Shed);
                Err(Outcome::Answer(refused))
            }
        }
    }

    /// A plan without targets yet.
    pub(super) fn plan(&self, message: &Message, routing: Routing) -> Plan {
        Plan {
            targets: Vec::new(),
            routing,
            loop_part: self.loop_part(message),
            credentials: None,
            edits: Edits::new(),
            register: None,
            breadth: self.breadth(message),
            caller: None,
            callee: None,
        }
    }

    /// Section 16.3 item 5: we support no extension that a proxy could be required to.
    fn check_requirements(&self, message: &Message) -> Result<(), Outcome> {
        if message.find(HeaderName::ProxyRequire).is_none() {
            return Ok(());
        }
        let mut refused = Answer::new(420, reason(420));
        for item in message.items(HeaderName::ProxyRequire) {
            refused.headers.extend_from_slice(b"Unsupported: ");
            refused.headers.extend_from_slice(message.text(item.span));
            refused.headers.extend_from_slice(b"\r\n");
        }
        Err(Outcome::Answer(refused))
    }

    /// Section 16.5: where the request goes.
    fn find_targets(&mut self, incoming: &Incoming, uri: &Uri<'_>, plan: &mut Plan, now: Time) -> Result<(), Outcome> {
        let message = &incoming.message;
        match plan.routing.token {
            Met::DialogFlow(side) => {
                plan.targets = vec![self.on_flow(self.current(message, side, now))?];
                return Ok(());
            }
            Met::Edge(flow) => {
                plan.targets = vec![self.on_flow(flow)?];
                return Ok(());
            }
            // A remote target may be a user of ours (an address of record as Contact).
            Met::Dialog
                if plan.routing.next.is_none()
                    && plan.routing.uri.is_none()
                    && uri.user.is_some()
                    && self.is_ours(uri, incoming.local) =>
            {
                return self.for_user(incoming, uri, true, plan, now);
            }
            Met::Dialog => {
                plan.targets = vec![Target::by_uri(None)];
                return Ok(());
            }
            Met::None => {}
        }
        // A device that has lost its route set, in a dialog that we follow.
        if plan.routing.next.is_none()
            && !self.is_ours(uri, incoming.local)
            && let Some(flow) = self.dialogs.peer(message)
        {
            plan.targets = vec![self.on_flow(flow)?];
            return Ok(());
        }
        // Contacts of the outbound role stand for their device, whoever sends.
        if plan.routing.next.is_none()
            && let Some(user) = uri.user
            && edge::is_token(user)
            && self.is_ours(uri, incoming.local)
        {
            let Some((flow, contact)) = self.registry.edge(user) else {
                return answer(430);
            };
            let target = self.on_flow(flow)?;
            plan.targets = vec![Target {
                uri: Some(contact),
                ..target
            }];
            return Ok(());
        }
        // RFC 5626 section 5.3.1: the device has gone, or its flow has.
        if plan.routing.next.is_none()
            && self.is_ours(uri, incoming.local)
            && uri.user.is_some_and(crate::sip::edge::is_token)
        {
            return answer(430);
        }
        let mut known = match self.registry.authorize(message, &incoming.flow, now) {
            _ if incoming.emergency => true,
            Verdict::Trusted => true,
            Verdict::User { aor, credentials } => {
                plan.caller = Some(aor);
                plan.credentials = credentials;
                true
            }
            Verdict::Anonymous => false,
            Verdict::Answer(answer) => return Err(Outcome::Answer(answer)),
        };
        if let Some(caller) = &plan.caller
            && !incoming.emergency
            && incoming.method == Method::Invite
            && !self.registry.may_call(caller, &uri.user_text().unwrap_or_default())
        {
            return answer(403);
        }
        // Without Record-Route, what a device of ours sends within its dialogs comes by here only because we are its outbound proxy.
        known |= message.to_tag().is_some() && self.registry.is_known(&incoming.flow, &self.paths, now);
        if plan.routing.next.is_some() {
            if !known && !self.is_client(incoming, now) {
                return answer(403);
            }
            plan.targets = vec![Target::by_uri(None)];
            return Ok(());
        }
        let ours =
            uri.scheme == Scheme::Tel || self.is_ours(uri, incoming.local) || self.registry.domain(uri.host).is_some();
        if !ours {
            if !known && !self.is_client(incoming, now) {
                return answer(403);
            }
            match self.plan.dial(uri, false, incoming.emergency) {
                Some(dial) => Self::dial(dial, plan),
                None if uri.user.is_none() => plan.targets = vec![Target::by_next_hops(self.plan.next_hops(uri.host))],
                None => plan.targets = vec![Target::by_uri(None)],
            }
            return Ok(());
        }
        self.for_user(incoming, uri, known, plan, now)
    }

    /// A request for a user of ours, or for a number.
    fn for_user(
        &mut self,
        incoming: &Incoming,
        uri: &Uri<'_>,
        known: bool,
        plan: &mut Plan,
        now: Time,
    ) -> Result<(), Outcome> {
        let mut aor = String::new();
        let domain = self.registry.aor(uri, &mut aor);
        let mut lookup = match domain {
            Some(_) => self.registry.lookup(&aor, now),
            None => Lookup::default(),
        };
        if uri.scheme == Scheme::Sips {
            // RFC 5630 section 4: never in clear text.
            let all = lookup.usable.len();
            lookup
                .usable
                .retain(|found| found.flow.is_none_or(|flow| flow.transport == Transport::Tls));
            lookup.down |= lookup.usable.len() < all;
        }
        if lookup.usable.is_empty() {
            if let Some(dial) = self.plan.dial(uri, true, incoming.emergency) {
                if !known {
                    return answer(403);
                }
                Self::dial(dial, plan);
                return Ok(());
            }
            return answer(if lookup.down { 480 } else { 404 });
        }
        let settings = domain.and_then(|domain| self.config.domains.get(domain));
        if settings.is_some_and(|domain| domain.callers == Callers::Authenticated) && !known {
            return answer(403);
        }
        let role = settings
            .and_then(|domain| domain.role)
            .or(self.here.get(incoming.flow.listener).map(|place| place.role));
        if role == Some(Role::Redirect) && incoming.method != Method::Cancel {
            return Err(Outcome::Answer(redirect::moved(&lookup.usable)));
        }
        plan.callee = Some(aor);
        plan.targets = lookup.usable.into_iter().map(Target::contact).collect();
        Ok(())
    }

    /// By the dial plan: to one of several gateways, in their order.
    fn dial(dial: Dial, plan: &mut Plan) {
        let count = dial.uris.len();
        let uris = dial.uris.into_iter().enumerate();
        plan.targets = uris
            .map(|(place, uri)| Target {
                // One after the other: each has a q of its own.
                q: (count - place) as u16,
                ..Target::by_uri(Some(uri))
            })
            .collect();
    }

    /// The flow that a request within a dialog goes out on: the one of its token, unless the device has moved since.
    fn current(&self, message: &Message, token: Side, now: Time) -> Flow {
        let leg = self.dialogs.other_side(message).filter(|leg| leg.is_device);
        let flow = match leg {
            // Its own requests within the dialog come from there.
            Some(leg) if leg.flow != token.flow => leg.flow,
            Some(leg) => {
                let registered = leg.contact.and_then(|contact| self.registry.flow_of(contact, now));
                registered.unwrap_or(token.flow)
            }
            None => token.flow,
        };
        // A flow that is gone leads nowhere; and a datagram's can be gone without a sign if nobody has followed the dialog (a restart).
        if self.flow_usable(&flow) && (leg.is_some() || flow.transport.reliable()) {
            return flow;
        }
        self.registered(message, token, now).unwrap_or(flow)
    }

    /// The flow on which the device of a token is registered now. The token has proven which device that is; To only says where to look.
    fn registered(&self, message: &Message, token: Side, now: Time) -> Option<Flow> {
        let device = token.device?;
        let is_it = |found: Device<'_>| self.tokens.device(found.aor, found.name) == device;
        let uri = message.to()?.parsed()?;
        if self.flow_usable(&token.flow)
            && self
                .registry
                .device_on(&token.flow, Some(&uri), &self.paths, now)
                .is_some_and(is_it)
        {
            return Some(token.flow); // one of several flows of the device
        }
        let found = self.registry.flow_of_device(&uri, &is_it, now);
        found.filter(|flow| self.flow_usable(flow))
    }

    /// What a token says of the side of a dialog that is on this flow. `address`: From or To, whichever names it.
    pub(super) fn side(&self, flow: &Flow, address: Option<NameAddr<'_>>, now: Time) -> Side {
        let uri = address.and_then(|address| address.parsed());
        let device = self.registry.device_on(flow, uri.as_ref(), &self.paths, now);
        Side {
            flow: *flow,
            device: device.map(|device| self.tokens.device(device.aor, device.name)),
        }
    }

    pub(super) fn on_flow(&self, flow: Flow) -> Result<Target, Outcome> {
        if !self.flow_usable(&flow) {
            return answer(430);
        }
        Ok(Target {
            uri: None,
            path: Bytes::new(),
            way: Way::Flow {
                flow,
                token: true,
                nat: true,
            },
            next: Vec::new(),
            q: 1000,
            contact: None,
        })
    }

    /// A REGISTER for a registrar: ours, which answers it, or one elsewhere.
    fn register(&mut self, incoming: &Incoming, now: Time, out: &mut Vec<Command>) -> Result<Forwarded, Outcome> {
        match self
            .registry
            .register(&incoming.message, &incoming.flow, incoming.local, &mut self.paths, now)
        {
            Registered::Answer(answer) => Err(self.registered_here(incoming, answer, now, out)),
            Registered::Forward { edits, ticket, next } => {
                if incoming.message.number(HeaderName::MaxForwards) == Some(0) {
                    return answer(483);
                }
                Ok(Forwarded { edits, ticket, next })
            }
        }
    }

    /// Gives the answer of the registrar.
    fn registered_here(&mut self, incoming: &Incoming, answer: Answer, now: Time, out: &mut Vec<Command>) -> Outcome {
        let tag = self.keys.tag(incoming.key);
        let mut reply = Reply::new(answer.code, answer.reason, &tag, incoming.flow.remote);
        reply.headers = &answer.headers;
        self.metrics.response_out(Method::Register, answer.code);
        let bytes = keep(reply.to(&incoming.message), answer.keep);
        if answer.code < 300 && !incoming.flow.transport.reliable() {
            let periods = super::periods(&self.config);
            self.servers
                .answered
                .insert(incoming.key, incoming.flow, &bytes, &periods, now);
        }
        out.push(Command::Send {
            to: Destination::Flow(incoming.flow),
            bytes,
            ticket: None,
        });
        Outcome::Ignore
    }

    /// Section 16.10 and 9.2: the CANCEL is answered here, the INVITE by whoever it was sent to.
    fn cancel(&mut self, incoming: &Incoming, now: Time, out: &mut Vec<Command>) -> Result<Box<Plan>, Outcome> {
        let invite = self
            .keys
            .cancelled(&incoming.message)
            .and_then(|key| self.servers.find(key));
        let Some(invite) = invite else {
            return answer(481);
        };
        let done = Answer::new(200, reason(200));
        self.answer(incoming, &done, out);
        let context = self.servers.get(invite).and_then(|server| server.context);
        if let Some(context) = context {
            self.cancel_all(context, true, now, out);
        }
        Err(Outcome::Ignore)
    }

    /// Opens the transaction and sends the request on its way.
    pub(super) fn forward(&mut self, incoming: Incoming, plan: Plan, now: Time, out: &mut Vec<Command>) {
        let Incoming {
            message,
            flow,
            key,
            method,
            emergency,
            ..
        } = incoming;
        // NOTIFY can make a dialog as well (RFC 6665 section 4.4.1).
        let record = self.records_route(method);
        let caller_needs_flow = (method.makes_dialog() || method == Method::Notify) && nat::needs_flow(&message, &flow);
        let caller_token = record && caller_needs_flow;
        let mut edits = plan.edits;
        if method.makes_dialog() && nat::is_behind(&message, &flow) {
            self.reachable_contact(method, &message, &flow, &mut edits);
        }
        let server = self.servers.create(message, key, flow, now);
        let context = self.contexts.insert(Context {
            server,
            flow,
            method,
            routing: plan.routing,
            loop_part: plan.loop_part,
            record,
            caller_token,
            credentials: plan.credentials,
            edits,
            register: plan.register,
            breadth: plan.breadth,
            branches: smallvec![],
            later: Default::default(),
            next_group: Alarm::default(),
            best: None,
            answered: false,
            challenges: Vec::new(),
            done: false,
            cancelled: false,
            dialog: None,
            within: false,
            created: now,
        });
        if let Some(server) = self.servers.get_mut(server) {
            server.context = Some(context);
        }
        if let Some(refused) = self.follow(context, plan.caller.as_deref(), plan.callee.as_deref(), emergency, now) {
            self.give_own(context, refused, now, out);
            self.clean_up(context);
            return;
        }
        if method == Method::Invite {
            self.give_own(context, 100, now, out);
        }
        self.start(context, plan.targets, now, out);
    }

    /// An ACK for a 2xx: it has no transaction and goes along the route set (section 16.11).
    fn acknowledge(&mut self, message: &Message, flow: Flow, local: SocketAddr, now: Time, out: &mut Vec<Command>) {
        let Ok(routing) = routing::preprocess(message, &self.tokens, |uri| self.is_ours(uri, local)) else {
            return;
        };
        if message.number(HeaderName::MaxForwards) == Some(0) {
            return;
        }
        self.dialogs.request(message, &flow, &mut self.paths, now);
        if self.has_looped(message) {
            return;
        }
        let ack = Ack {
            message: message.clone(),
            flow,
            routing,
            loop_part: self.loop_part(message),
        };
        if let Some(side) = routing.token.side() {
            let flow = self.current(message, side, now);
            if self.flow_usable(&flow) {
                self.put_ack(&ack, Destination::Flow(flow), out);
            }
            return;
        }
        if !routing.token.in_dialog() {
            if let Some(peer) = self.dialogs.peer(message) {
                if self.flow_usable(&peer) {
                    self.put_ack(&ack, Destination::Flow(peer), out);
                }
                return;
            }
            // Only what is in a dialog that we know, or comes from a device that we know, is passed on to anywhere.
            if !self.registry.is_known(&flow, &self.paths, now) {
                return;
            }
        }
        match self.next_hop_or_target(message, &routing, &Target::by_uri(None)) {
            Next::Hops(hops) => self.send_ack(ack, hops, out),
            Next::Resolve(target) => {
                self.look_up(Waiting::Ack(Box::new(ack)), target, now, out);
            }
            Next::Scheme => {}
        }
    }

    /// Has a name looked up, for as long as a request is tried at all (timers B and F).
    pub(super) fn look_up(
        &mut self,
        waiting: Waiting,
        target: command::Target,
        now: Time,
        out: &mut Vec<Command>,
    ) -> QueryId {
        let until = now + super::periods(&self.config).give_up();
        self.queries.ask(waiting, target, until, &mut self.timers, out)
    }

    /// Sends an ACK to the first of these places.
    pub(super) fn send_ack(&mut self, ack: Ack, hops: Vec<Hop>, out: &mut Vec<Command>) {
        for hop in hops {
            if let Some(listener) = self.here.choose(hop.transport, hop.address.ip(), &ack.flow) {
                return self.put_ack(&ack, Destination::Hop { listener, hop }, out);
            }
        }
    }

    fn put_ack(&mut self, ack: &Ack, to: Destination, out: &mut Vec<Command>) {
        let listener = match &to {
            Destination::Flow(flow) => flow.listener,
            Destination::Hop { listener, .. } => *listener,
        };
        let edits = self.media_ack(&ack.message, &ack.flow);
        let Some(from) = self.here.get(listener) else { return };
        let branch = ack.message.via().map_or(&b""[..], |via| via.branch());
        // The same for each copy of the ACK (section 16.11).
        let branch = client::stateless_branch(self.keys.digest([branch, ack.message.call_id()]), ack.loop_part);
        let bytes = Forward {
            request: &ack.message,
            came: ack.flow,
            from,
            branch: &branch,
            uri: None,
            routing: &ack.routing,
            path: b"",
            record_route: b"",
            credentials: None,
            breadth: self.breadth(&ack.message),
            edits,
        }
        .compose();
        out.push(Command::Send {
            to,
            bytes,
            ticket: None,
        });
    }

    /// Whether a URI in Route or request line names this server: one of its listeners, or a domain that it serves.
    pub(super) fn is_ours(&self, uri: &Uri<'_>, local: SocketAddr) -> bool {
        if !uri.is_sip() {
            return false;
        }
        if self.here.is_me(uri, local) {
            return true;
        }
        uri.port.is_none_or(|port| self.here.has_port(port)) && self.registry.domain(uri.host).is_some()
    }

    /// What routing of this request depends on (RFC 5393 section 4.2.1).
    pub(super) fn loop_part(&self, message: &Message) -> u64 {
        let routes = message.items(HeaderName::Route).map(|item| message.text(item.span));
        self.keys.digest(
            [
                message.request_uri(),
                message.from_tag().unwrap_or_default(),
                message.to_tag().unwrap_or_default(),
                message.call_id(),
                message.value(HeaderName::CSeq).unwrap_or_default(),
                message.value(HeaderName::ProxyAuthorization).unwrap_or_default(),
            ]
            .into_iter()
            .chain(routes),
        )
    }

    /// Whether this request was here before, with everything that its way depends on as it was (RFC 5393 section 4.2.2).
    fn has_looped(&self, message: &Message) -> bool {
        let part = |via: Via<'_>| client::loop_part(via.branch());
        if message.has_one_via() && message.via().and_then(part).is_none() {
            return false;
        }
        let mut parts = message
            .items(HeaderName::Via)
            .filter_map(|item| Via::parse(message, item.span))
            .filter_map(part)
            .peekable();
        // Most have not been through a server like this one.
        parts.peek().is_some() && {
            let own = self.loop_part(message);
            parts.any(|part| part == own)
        }
    }

    /// How many copies of a request there may be (RFC 5393 section 5.3.3).
    fn breadth(&self, message: &Message) -> u32 {
        let most = self.config.proxy.max_breadth;
        message.number(HeaderName::MaxBreadth).unwrap_or(most).min(most)
    }

    fn is_outbound(&self, incoming: &Incoming) -> bool {
        self.here
            .get(incoming.flow.listener)
            .is_some_and(|place| place.role == Role::Outbound)
    }

    /// Whether we are the outbound proxy of the sender: it has registered elsewhere through us.
    fn is_client(&self, incoming: &Incoming, now: Time) -> bool {
        self.is_outbound(incoming) && self.registry.is_known(&incoming.flow, &self.paths, now)
    }

    pub(super) fn is_emergency(&self, message: &Message) -> bool {
        if self.config.emergency.is_empty() || message.method() == Some(Method::Register) {
            return false;
        }
        let user = message.target().and_then(|uri| uri.user_text());
        user.is_some_and(|user| self.config.emergency.iter().any(|number| **number == *user))
    }

    fn records_route(&self, method: Method) -> bool {
        self.config.proxy.record_route == crate::config::sip::RecordRoute::Always
            && (method.makes_dialog() || method == Method::Notify)
    }
}

/// The answer to an OPTIONS that is for the server itself (section 11.2).
fn capabilities() -> Answer {
    let mut answer = Answer::new(200, reason(200));
    answer.headers.extend_from_slice(b"Accept: */*\r\nAllow: INVITE, ACK, CANCEL, BYE, REGISTER, OPTIONS, SUBSCRIBE, NOTIFY, PRACK, UPDATE, INFO, REFER, MESSAGE, PUBLISH\r\nSupported: path, outbound\r\n");
    answer
}

/// Puts the value of `keep` into the topmost Via of a response (RFC 6223 section 4.4).
fn keep(response: Bytes, seconds: Option<u32>) -> Bytes {
    let Some(seconds) = seconds else { return response };
    let Ok(message) = Message::parse(response.clone()) else {
        return response;
    };
    let mut edits = Edits::new();
    if let Some(via) = message.via()
        && let Some(param) = via.params.iter().find(|param| param.name.eq_ignore_ascii_case(b"keep"))
        && param.value.is_none()
    {
        edits.insert_fmt(message.place(param.name).end, format_args!("={seconds}"));
    }
    edits.apply(&message)
}

/// The first Contact of a message, taken apart.
pub(super) fn contact(message: &Message) -> Option<NameAddr<'_>> {
    let item = message.items(HeaderName::Contact).next()?;
    NameAddr::parse(message, item.span)
}

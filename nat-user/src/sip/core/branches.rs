//! The branches of a request that is being forwarded (RFC 3261 sections 16.6 to 16.9, RFC 3263 section 4.3).

use std::{collections::VecDeque, net::IpAddr};

use bytes::Bytes;

use super::{Core, Id, calls, queries::Waiting, seam::Registry};
use crate::{
    config::sip::Fork,
    sip::{
        command::{Command, Destination, Hop, SendError},
        flow::{Flow, Transport},
        message::{Message, Method, NameAddr, Uri, reply::Reply},
        metrics::TimerLabel,
        proxy::{
            Branch, Context, Target, Way,
            best::{Best, reason},
            forward::{self, Forward},
            routing::Routing,
        },
        time::Time,
        transaction::{
            Due,
            client::{Fired, Outgoing, State},
        },
    },
};

/// The longest request that goes out in a datagram to a place whose path we do not know (section 18.1.1).
const MTU: usize = 1300;

impl<R: Registry> Core<R> {
    /// Sends a request to its targets: all at once, or by q.
    pub(super) fn start(&mut self, id: Id, targets: Vec<Target>, now: Time, out: &mut Vec<Command>) {
        let groups = groups(targets, self.config.proxy.fork);
        let Some(context) = self.contexts.get_mut(id) else {
            return;
        };
        let breadth = context.breadth.max(1) as usize;
        // Branches that the breadth does not allow at once are tried one group after the other.
        for mut group in groups {
            while group.len() > breadth {
                let rest = group.split_off(breadth);
                context.later.push_back(group);
                group = rest;
            }
            context.later.push_back(group);
        }
        self.next_group(id, now, out);
    }

    fn next_group(&mut self, id: Id, now: Time, out: &mut Vec<Command>) {
        let Some(context) = self.contexts.get_mut(id) else {
            return;
        };
        let Some(group) = context.later.pop_front() else { return };
        let first = context.branches.len();
        context.branches.extend(group.into_iter().map(Branch::new));
        let last = context.branches.len();
        let ring = if context.later.is_empty() || !context.invite() {
            Time::MAX
        } else {
            now + self.config.proxy.serial_ring
        };
        context.next_group.set(ring, &mut self.timers, Due::Context(id));
        for branch in first..last {
            self.start_branch(id, branch, now, out);
        }
        self.settle(id, now, out);
    }

    fn start_branch(&mut self, id: Id, index: usize, now: Time, out: &mut Vec<Command>) {
        let Some((context, branch)) = self.branch(id, index) else {
            return;
        };
        match branch.target.way {
            Way::Flow { flow, .. } => {
                if self.flow_usable(&flow) {
                    self.send(id, index, Destination::Flow(flow), now, out);
                } else {
                    self.fall_back(id, index, Best::Own(430), now, out);
                }
            }
            Way::Uri => {
                let server = context.server;
                let came = context.flow;
                let Some(server) = self.servers.get(server) else { return };
                let message = &server.request;
                match self.next_hop_or_target(message, &context.routing, &branch.target) {
                    Next::Hops(hops) => {
                        let hops = self.prefer_stream(message, hops);
                        self.try_hops(id, index, hops, &came, now, out);
                    }
                    Next::Resolve(target) => {
                        let waiting = Waiting::Branch {
                            context: id,
                            branch: index,
                        };
                        let query = self.look_up(waiting, target, now, out);
                        if let Some(branch) = self.branch_mut(id, index) {
                            branch.query = Some(query);
                        }
                    }
                    Next::Scheme => self.over(id, index, Best::Own(416)),
                }
            }
        }
    }

    /// The places that a name stands for are known.
    pub(super) fn resolved(&mut self, id: Id, index: usize, hops: Vec<Hop>, now: Time, out: &mut Vec<Command>) {
        let Some((context, branch)) = self.branch(id, index) else {
            return;
        };
        if branch.over {
            return;
        }
        let (came, server) = (context.flow, context.server);
        let hops = match self.servers.get(server) {
            Some(server) => self.prefer_stream(&server.request, hops),
            None => hops,
        };
        if let Some(branch) = self.branch_mut(id, index) {
            branch.query = None;
        }
        self.try_hops(id, index, hops, &came, now, out);
        self.settle(id, now, out);
    }

    /// The places that a name stands for were not found in time (section 21.4.9).
    pub(super) fn unresolved(&mut self, id: Id, index: usize, now: Time, out: &mut Vec<Command>) {
        let Some(branch) = self.branch_mut(id, index) else {
            return;
        };
        branch.query = None;
        if !self.next_uri(id, index, now, out) {
            self.over(id, index, Best::Own(408));
        }
        self.settle(id, now, out);
    }

    fn try_hops(&mut self, id: Id, index: usize, mut hops: Vec<Hop>, came: &Flow, now: Time, out: &mut Vec<Command>) {
        hops.reverse();
        let Some(branch) = self.branch_mut(id, index) else {
            return;
        };
        branch.hops = hops;
        if !self.next_place(id, index, came, now, out) {
            // Section 16.9 and RFC 3263 section 4.3: nowhere to go is as if the place had answered 503, which nobody else must see.
            self.over(id, index, Best::Own(503));
        }
    }

    /// Sends to the next of the places that a branch has. False: there is none.
    fn next_place(&mut self, id: Id, index: usize, came: &Flow, now: Time, out: &mut Vec<Command>) -> bool {
        loop {
            let Some(hop) = self.branch_mut(id, index).and_then(|branch| branch.hops.pop()) else {
                return self.next_uri(id, index, now, out);
            };
            if let Some(listener) = self.here.choose(hop.transport, hop.address.ip(), came) {
                self.send(id, index, Destination::Hop { listener, hop }, now, out);
                return true;
            }
        }
    }

    /// Goes on with the next of the places that the dial plan names for a branch. False: there is none.
    fn next_uri(&mut self, id: Id, index: usize, now: Time, out: &mut Vec<Command>) -> bool {
        let Some(branch) = self.branch_mut(id, index) else {
            return false;
        };
        branch.target.next.pop();
        if branch.target.next.is_empty() {
            return false;
        }
        branch.proceeding = false;
        self.start_branch(id, index, now, out);
        true
    }

    fn send(&mut self, id: Id, index: usize, to: Destination, now: Time, out: &mut Vec<Command>) {
        let edits = match self.media_request(id, index, &to) {
            Ok(edits) => edits,
            Err(refusal) => return self.media_refuses(id, index, refusal, now, out),
        };
        let Some(context) = self.contexts.get(id) else { return };
        let Some(server) = self.servers.get(context.server) else {
            return;
        };
        let branch = &context.branches[index];
        let (listener, transport) = match &to {
            Destination::Flow(flow) => (flow.listener, flow.transport),
            Destination::Hop { listener, hop } => (*listener, hop.transport),
        };
        let (Some(from), Some(came_at)) = (
            self.here.get(listener),
            self.here.get(context.flow.listener).or(self.here.get(listener)),
        ) else {
            self.over(id, index, Best::Own(503));
            return;
        };
        let record_route = if context.record {
            let callee = match &branch.target.way {
                Way::Flow { flow, token: true, .. } => Some(self.side(flow, server.request.to(), now)),
                _ => None,
            };
            let caller = context
                .caller_token
                .then(|| self.side(&context.flow, server.request.from(), now));
            let (caller, callee) = ((came_at, caller.as_ref()), (from, callee.as_ref()));
            forward::record_route(&self.tokens, &server.request, caller, callee)
        } else {
            Vec::new()
        };
        let forward = |name: &crate::sip::transaction::client::Branch| {
            let breadth = share(context.breadth, context, index);
            Forward {
                request: &server.request,
                came: context.flow,
                from,
                branch: name,
                uri: branch.target.uri.as_deref(),
                routing: &context.routing,
                path: &branch.target.path,
                record_route: &record_route,
                credentials: context.credentials,
                breadth,
                edits,
            }
            .compose()
        };
        let outgoing = Outgoing {
            context: id,
            branch: index,
            invite: context.invite(),
            to,
            reliable: transport.reliable(),
        };
        let client = self
            .clients
            .create(outgoing, context.loop_part, forward, &mut self.timers, now, out);
        self.metrics
            .request_out(self.contexts.get(id).map_or(Method::Other, |context| context.method));
        if let Some(branch) = self.branch_mut(id, index) {
            branch.client = Some(client);
            branch.sent_from = Some(listener);
        }
    }

    /// What was sent did not get out.
    pub(super) fn send_failed(&mut self, client: Id, reason: SendError, now: Time, out: &mut Vec<Command>) {
        let Some((id, index)) = self.clients.get(client).map(|client| (client.context, client.branch)) else {
            return;
        };
        // A final response that has come counts for more.
        if self
            .branch(id, index)
            .is_none_or(|(_, branch)| branch.client != Some(client) || branch.over)
        {
            return;
        }
        self.clients.remove(client);
        let failed = match reason {
            SendError::TooLarge => Best::Own(513),
            _ => self.transport_error(id, index),
        };
        self.elsewhere(id, index, failed, now, out);
    }

    /// A connection has ended, and with it what was under way on it (sections 17.1.4 and 17.2.4).
    pub(super) fn strand(&mut self, flow: &Flow, now: Time, out: &mut Vec<Command>) {
        for client in self.clients.on(flow) {
            if self.clients.strand(client, &mut self.timers, now) {
                self.send_failed(client, SendError::Unreachable, now, out);
            }
        }
        self.servers.strand(flow, &self.connections, out);
    }

    /// What it means that a branch could not be sent: as if its place had answered 503 (section 16.9), or 430 if it was a flow (RFC 5626
    /// section 5.3.1).
    fn transport_error(&self, id: Id, index: usize) -> Best {
        match self.branch(id, index).map(|(_, branch)| &branch.target.way) {
            Some(Way::Flow { .. }) => Best::Own(430),
            _ => Best::Own(503),
        }
    }

    /// A place has failed: the next one of the branch is tried, or the branch ends so.
    pub(super) fn elsewhere(&mut self, id: Id, index: usize, failed: Best, now: Time, out: &mut Vec<Command>) {
        let Some((context, _)) = self.branch(id, index) else {
            return;
        };
        let (came, cancelled) = (context.flow, context.cancelled || context.done);
        if let Some(branch) = self.branch_mut(id, index) {
            branch.client = None;
        }
        if cancelled {
            self.over(id, index, failed);
        } else if !self.next_place(id, index, &came, now, out) {
            self.fall_back(id, index, failed, now, out);
        }
        self.settle(id, now, out);
    }

    /// A contact has failed: another flow to the same device is tried (RFC 5626 section 7), or the branch ends so.
    pub(super) fn fall_back(&mut self, id: Id, index: usize, failed: Best, now: Time, out: &mut Vec<Command>) {
        let found = self.branch_mut(id, index).and_then(|branch| {
            let contact = branch.target.contact.take()?;
            branch.tried.push(contact);
            Some((contact, branch.tried.clone()))
        });
        let found = found.and_then(|(contact, tried)| self.registry.fallback(contact, &tried, now));
        match found {
            Some(found) => {
                if let Some(branch) = self.branch_mut(id, index) {
                    branch.target = Target::contact(found);
                    branch.client = None;
                    branch.proceeding = false;
                }
                self.start_branch(id, index, now, out);
            }
            None => self.over(id, index, failed),
        }
    }

    /// A client transaction's timer fired.
    pub(super) fn client_due(&mut self, client: Id, now: Time, out: &mut Vec<Command>) {
        let Some((id, index)) = self.clients.get(client).map(|client| (client.context, client.branch)) else {
            return;
        };
        let invite = self.clients.get(client).is_some_and(|client| client.invite);
        let either = |of_invite, other| if invite { of_invite } else { other };
        let timer = match self.clients.due(client, &mut self.timers, now, out) {
            Fired::Nothing => return,
            Fired::Again => {
                self.metrics.retransmissions_out += 1;
                either(TimerLabel::A, TimerLabel::E)
            }
            Fired::TimerC => {
                if let Some(branch) = self.branch_mut(id, index) {
                    branch.timed_out = true;
                }
                TimerLabel::C
            }
            Fired::Timeout => {
                let heard = self.branch(id, index).is_some_and(|(_, branch)| branch.proceeding);
                if heard {
                    self.forget_client(id, index, client);
                    self.over(id, index, Best::Own(408));
                    self.settle(id, now, out);
                } else {
                    self.elsewhere(id, index, Best::Own(408), now, out);
                }
                either(TimerLabel::B, TimerLabel::F)
            }
            Fired::Stranded => {
                let failed = self.transport_error(id, index);
                return self.elsewhere(id, index, failed, now, out);
            }
            Fired::Ended(state) => {
                self.forget_client(id, index, client);
                self.clean_up(id);
                let accepted = state == State::Accepted;
                either(if accepted { TimerLabel::M } else { TimerLabel::D }, TimerLabel::K)
            }
        };
        self.metrics.timer(timer);
    }

    pub(super) fn forget_client(&mut self, id: Id, index: usize, client: Id) {
        if let Some(branch) = self.branch_mut(id, index)
            && branch.client == Some(client)
        {
            branch.client = None;
        }
    }

    /// The contacts with the highest q have rung long enough: the next ones ring instead.
    pub(super) fn context_due(&mut self, id: Id, now: Time, out: &mut Vec<Command>) {
        let Some(context) = self.contexts.get_mut(id) else {
            return;
        };
        if context.next_group.fires(now, &mut self.timers, Due::Context(id)) && !context.done && !context.cancelled {
            self.cancel_branches(id, now, out);
            self.next_group(id, now, out);
        }
    }

    /// Ends a request: no further places are tried, and those that ring are told. `by_caller`: it has cancelled, and gets its answer in any case.
    pub(super) fn cancel_all(&mut self, id: Id, by_caller: bool, now: Time, out: &mut Vec<Command>) {
        let Some(context) = self.contexts.get_mut(id) else {
            return;
        };
        context.later.clear();
        context.cancelled |= by_caller;
        self.cancel_branches(id, now, out);
        self.settle(id, now, out);
    }

    fn cancel_branches(&mut self, id: Id, now: Time, out: &mut Vec<Command>) {
        let Some(context) = self.contexts.get_mut(id) else {
            return;
        };
        for branch in context.branches.iter_mut().filter(|branch| !branch.over) {
            branch.hops.clear();
            branch.target.next.clear();
            match branch.client {
                Some(client) => self.clients.cancel(client, &mut self.timers, now, out),
                // It waits for a name only.
                None => {
                    branch.over = true;
                    if let Some(query) = branch.query.take() {
                        self.queries.end(query);
                    }
                    Best::choose(&mut context.best, Best::Own(487));
                }
            }
        }
    }

    /// A branch has its final response.
    pub(super) fn over(&mut self, id: Id, index: usize, response: Best) {
        let Some(context) = self.contexts.get_mut(id) else {
            return;
        };
        if std::mem::replace(&mut context.branches[index].over, true) {
            return;
        }
        Best::choose(&mut context.best, response);
        self.media_fork_over(id, index);
    }

    /// If all branches have ended: tries the next places, or gives the best response.
    pub(super) fn settle(&mut self, id: Id, now: Time, out: &mut Vec<Command>) {
        let Some(context) = self.contexts.get_mut(id) else {
            return;
        };
        if !context.settled() {
            return;
        }
        if !context.done {
            let best = context.best.as_ref().map_or(0, Best::code);
            if best < 600 && !context.cancelled && !context.later.is_empty() {
                return self.next_group(id, now, out);
            }
            context.later.clear();
            match context.best.take() {
                Some(Best::Received { branch, message }) => self.give_best(id, branch, &message, now, out),
                // Whoever has cancelled knows why nobody answers (section 9.1).
                Some(Best::Own(_)) if context.cancelled => self.give_own(id, 487, now, out),
                Some(Best::Own(code)) => {
                    let named = context.routing.token.side().is_some();
                    self.give_own(id, own_code(code, named), now, out);
                }
                None => {
                    let code = if context.cancelled { 487 } else { 408 };
                    self.give_own(id, code, now, out);
                }
            }
        }
        self.clean_up(id);
    }

    /// Gives a response of our own through the server transaction.
    pub(super) fn give_own(&mut self, id: Id, code: u16, now: Time, out: &mut Vec<Command>) {
        let Some(context) = self.contexts.get_mut(id) else {
            return;
        };
        let Some(server) = self.servers.get(context.server) else {
            return;
        };
        let tag = self.keys.tag(server.key);
        let tag = if code == 100 { &b""[..] } else { &tag };
        let bytes = Reply::new(code, reason(code), tag, server.flow.remote).to(&server.request);
        self.give(id, code, None, bytes, now, out);
    }

    /// Gives a response through the server transaction: one that came, or one of ours.
    pub(super) fn give(
        &mut self,
        id: Id,
        code: u16,
        came: Option<&Message>,
        bytes: Bytes,
        now: Time,
        out: &mut Vec<Command>,
    ) {
        let Some(context) = self.contexts.get_mut(id) else {
            return;
        };
        context.done |= code >= 200;
        let server = context.server;
        if let Some(dialog) = context.dialog.filter(|_| code >= 200) {
            match self.servers.get(server) {
                Some(server) if context.within => {
                    let (paths, timers) = (&mut self.paths, &mut self.timers);
                    self.dialogs
                        .within(dialog, &server.request, came, code, paths, timers, now);
                }
                _ if code >= 300 => {
                    let end = calls::end_of_refused(code, came.is_some(), context.cancelled);
                    self.dialogs.refused(dialog, end, &mut self.paths, now);
                }
                _ => {}
            }
        }
        let (method, created, first) = (
            context.method,
            context.created,
            !std::mem::replace(&mut context.answered, code > 100),
        );
        if first && code > 100 {
            let time = now.since(created);
            match method {
                Method::Invite => self.metrics.invite_time.observe(time),
                _ if code >= 200 => self.metrics.response_time.observe(time),
                _ => {}
            }
        }
        if !self.servers.get(server).is_some_and(|server| server.own) {
            self.metrics.response_out(method, code);
        }
        self.servers
            .respond(server, code, bytes, &self.connections, &mut self.timers, now, out);
    }

    /// Forgets a context that nothing can come for any more.
    pub(super) fn clean_up(&mut self, id: Id) {
        if self.contexts.get(id).is_some_and(Context::finished) {
            self.contexts.remove(id);
        }
    }

    pub(super) fn branch(&self, id: Id, index: usize) -> Option<(&Context, &Branch)> {
        let context = self.contexts.get(id)?;
        Some((context, context.branches.get(index)?))
    }

    pub(super) fn branch_mut(&mut self, id: Id, index: usize) -> Option<&mut Branch> {
        self.contexts.get_mut(id)?.branches.get_mut(index)
    }

    /// Where a request goes that is on no flow: by the first Route that is left, else where local policy says, else by the request URI
    /// (section 16.6 item 7).
    pub(super) fn next_hop_or_target(&self, message: &Message, routing: &Routing, target: &Target) -> Next {
        let uri = if let Some((first, _)) = forward::first_of_list(&target.path) {
            first
        } else if let Some(next) = routing.next.and_then(|next| NameAddr::parse(message, next)) {
            next.uri
        } else {
            let named = target.next.last().or(target.uri.as_ref());
            named
                .map(|uri| &uri[..])
                .or(routing.uri.map(|span| message.text(span)))
                .unwrap_or(message.request_uri())
        };
        let Some(target) = Uri::parse(uri).and_then(|uri| uri.target()) else {
            return Next::Scheme;
        };
        match target.host.parse::<IpAddr>() {
            Ok(ip) => {
                let transport = target
                    .transport
                    .unwrap_or(if target.secure { Transport::Tls } else { Transport::Udp });
                Next::Hops(vec![Hop {
                    transport,
                    address: (ip, target.port.unwrap_or(transport.default_port())).into(),
                    name: None,
                }])
            }
            Err(_) => Next::Resolve(target),
        }
    }

    /// Section 18.1.1: a long request to a place that says nothing of its transport is tried over TCP first.
    fn prefer_stream(&self, message: &Message, mut hops: Vec<Hop>) -> Vec<Hop> {
        if message.bytes().len() > MTU
            && hops.iter().all(|hop| hop.transport == Transport::Udp)
            && self.here.iter().any(|place| place.transport == Transport::Tcp)
        {
            let streams = hops.iter().map(|hop| Hop {
                transport: Transport::Tcp,
                ..hop.clone()
            });
            hops = streams.chain(hops.iter().cloned()).collect();
        }
        hops
    }
}

/// Where a request goes that is on no flow.
pub(super) enum Next {
    Hops(Vec<Hop>),
    Resolve(crate::sip::command::Target),
    /// It cannot be routed by.
    Scheme,
}

/// Targets in the order in which they are tried: those of one group at once.
fn groups(targets: Vec<Target>, fork: Fork) -> VecDeque<Vec<Target>> {
    let mut groups: VecDeque<Vec<Target>> = VecDeque::new();
    for target in targets {
        // Places that are tried by URI stand in an order of their own (the dial plan's gateways), whatever the setting.
        match groups.back_mut() {
            Some(group) if group[0].q == target.q || (fork == Fork::Parallel && group[0].way != Way::Uri) => {
                group.push(target)
            }
            _ => groups.push_back(vec![target]),
        }
    }
    groups
}

/// What of the breadth one of the branches under way gets (RFC 5393 section 5.3.3): together no more than there is.
fn share(breadth: u32, context: &Context, index: usize) -> u32 {
    let open = context.branches.iter().filter(|branch| !branch.over).count().max(1) as u32;
    let rank = context.branches[..index].iter().filter(|branch| !branch.over).count() as u32;
    (breadth / open + u32::from(rank < breadth % open)).max(1)
}

/// What a failure of ours is called towards the caller. Others must not take a 503 of one place as ours (section 16.7 item 6). A flow that has
/// failed is news only for one who has named it; for others the user cannot be reached.
fn own_code(code: u16, named: bool) -> u16 {
    match code {
        503 => 500,
        430 if !named => 480,
        code => code,
    }
}

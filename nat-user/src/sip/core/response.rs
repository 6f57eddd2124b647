//! A response from its arrival to the server transaction (RFC 3261 section 16.7).

use super::{Core, Id, seam::Registry};
use crate::sip::{
    command::Command,
    flow::Flow,
    message::{Edits, HeaderName, Message, Method, check},
    metrics::Refusal,
    proxy::{
        best::{self, Best},
        forward,
    },
    time::Time,
    transaction::client::Received,
};

impl<R: Registry> Core<R> {
    pub(super) fn response(&mut self, message: Message, flow: Flow, now: Time, out: &mut Vec<Command>) {
        let Some(via) = message.via() else {
            return self.metrics.refuse(Refusal::Stray);
        };
        let Some(client) = self.clients.find(via.branch()) else {
            // Answers to prompts have no transaction. Others are nobody's (RFC 6026 section 7.2: they are not passed on).
            if !self.paths.answered(via.branch(), now) {
                self.metrics.refuse(Refusal::Stray);
            }
            return;
        };
        if check::response(&message).is_some() {
            return self.metrics.refuse(Refusal::Unparsable);
        }
        let method = message.cseq().map_or(Method::Other, |cseq| cseq.method);
        self.metrics.response_in(method, message.code().unwrap_or(0));
        let Some((id, index)) = self.clients.get(client).map(|client| (client.context, client.branch)) else {
            return;
        };
        if self.clients.received(client, &message, &mut self.timers, now, out) == Received::Absorbed {
            return;
        }
        match message.code().unwrap_or(0) {
            100..200 => self.provisional(id, index, message, flow, now, out),
            200..300 => self.success(id, index, message, flow, now, out),
            code => self.failure(id, index, client, code, message, now, out),
        }
    }

    fn provisional(&mut self, id: Id, index: usize, message: Message, flow: Flow, now: Time, out: &mut Vec<Command>) {
        if let Some(branch) = self.branch_mut(id, index) {
            branch.proceeding = true;
        }
        // Section 16.7 item 5: 100 is hop by hop.
        if message.code() == Some(100) || self.contexts.get(id).is_none_or(|context| context.done) {
            return;
        }
        let edits = self.hear(id, index, &message, &flow, now);
        self.pass(id, index, &message, edits, now, out);
    }

    fn success(&mut self, id: Id, index: usize, message: Message, flow: Flow, now: Time, out: &mut Vec<Command>) {
        let Some(context) = self.contexts.get_mut(id) else {
            return;
        };
        let invite = context.invite();
        let done = context.done;
        let branch = &mut context.branches[index];
        branch.over = true;
        if !invite {
            branch.client = None;
            if done {
                return self.clean_up(id);
            }
        }
        let edits = self.hear(id, index, &message, &flow, now);
        self.pass(id, index, &message, edits, now, out);
        // Item 10: the others need not ring any more.
        self.cancel_all(id, false, now, out);
    }

    #[expect(clippy::too_many_arguments, reason = "where it belongs, what it is, and the world")]
    fn failure(
        &mut self,
        id: Id,
        index: usize,
        client: Id,
        code: u16,
        message: Message,
        now: Time,
        out: &mut Vec<Command>,
    ) {
        self.forget_client(id, index, client);
        let Some(context) = self.contexts.get_mut(id) else {
            return;
        };
        let Some(branch) = context.branches.get_mut(index) else {
            return;
        };
        if branch.timed_out {
            self.over(id, index, Best::Own(408));
            return self.settle(id, now, out);
        }
        // RFC 3263 section 4.3: another place may do better; RFC 5626 section 7: so may another flow.
        let again = match code {
            503 => !branch.hops.is_empty() || branch.target.next.len() > 1,
            408 | 430 => branch.target.contact.is_some(),
            _ => false,
        };
        if again {
            return self.elsewhere(id, index, Best::Own(code), now, out);
        }
        if matches!(code, 401 | 407) && (context.branches.len() > 1 || !context.later.is_empty()) {
            context.challenges.push((index, best::challenges(&message)));
        }
        let best = if code == 503 {
            Best::Own(503)
        } else {
            Best::Received {
                branch: index,
                message: Box::new(message),
            }
        };
        self.over(id, index, best);
        if code >= 600 {
            // Item 5: nobody else is to be asked.
            return self.cancel_all(id, false, now, out);
        }
        self.settle(id, now, out);
    }

    /// Gives the best of several final responses.
    pub(super) fn give_best(&mut self, id: Id, branch: usize, message: &Message, now: Time, out: &mut Vec<Command>) {
        let mut edits = Edits::new();
        if matches!(message.code(), Some(401 | 407))
            && let Some(context) = self.contexts.get(id)
        {
            // Item 7: the challenges of all.
            for (_, lines) in context.challenges.iter().filter(|(from, _)| *from != branch) {
                edits.append(message, lines);
            }
        }
        self.pass(id, branch, message, edits, now, out);
    }

    /// Gives a response that came, with our Via taken out.
    fn pass(&mut self, id: Id, index: usize, message: &Message, mut edits: Edits, now: Time, out: &mut Vec<Command>) {
        self.media_response(id, index, message, &mut edits);
        let Some(context) = self.contexts.get(id) else { return };
        let stream = context.flow.transport.reliable();
        if let Some(ticket) = context.register {
            self.registry
                .registered(ticket, message, &mut self.paths, now, &mut edits);
        }
        if let Some(ours) = message.items(HeaderName::Via).next() {
            edits.remove_item(message, ours);
        }
        forward::content_length(message, stream, &mut edits);
        let bytes = edits.apply(message);
        self.give(id, message.code().unwrap_or(500), Some(message), bytes, now, out);
    }
}

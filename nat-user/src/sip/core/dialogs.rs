//! What the core tells the dialog table, and contacts that the peer can reach where the proxy leaves the dialog.

use super::{Core, Id, seam::Registry};
use crate::{
    config::sip::RecordRoute,
    sip::{
        dialog::{self, Beginning, End, Leg},
        flow::Flow,
        message::{Edits, HeaderName, Message, Method, NameAddr},
        metrics::CallEnd,
        proxy::{Way, nat},
        redirect,
        time::Time,
        token,
    },
};

impl<R: Registry> Core<R> {
    /// Follows the dialog that a request makes or belongs to. `Some`: it is refused, for there are too many calls.
    pub(super) fn follow(
        &mut self,
        id: Id,
        caller: Option<&str>,
        callee: Option<&str>,
        emergency: bool,
        now: Time,
    ) -> Option<u16> {
        let context = self.contexts.get_mut(id)?;
        let request = &self.servers.get(context.server)?.request;
        if request.to_tag().is_some() {
            context.within = true;
            context.dialog = self.dialogs.request(request, &context.flow, &mut self.paths, now);
            return None;
        }
        if !context.method.makes_dialog() {
            return None;
        }
        if context.method == Method::Invite && !emergency {
            if self.dialogs.calls() >= self.config.proxy.max_calls as usize {
                return Some(503);
            }
            for aor in [caller, callee].into_iter().flatten() {
                if self
                    .registry
                    .calls_allowed(aor)
                    .is_some_and(|most| self.dialogs.calls_of(aor) >= most)
                {
                    return Some(486);
                }
            }
        }
        let beginning = Beginning {
            request,
            flow: context.flow,
            behind_nat: nat::is_behind(request, &context.flow),
            contact: self.registry.contact_on(&context.flow, &self.paths, now),
            caller,
            callee,
        };
        context.dialog = self.dialogs.begin(&beginning, &mut self.paths, &mut self.timers, now);
        None
    }

    /// A response that is no failure passes: what changes in it.
    pub(super) fn hear(&mut self, id: Id, index: usize, message: &Message, flow: &Flow, now: Time) -> Edits {
        let mut edits = Edits::new();
        let Some((context, branch)) = self.branch(id, index) else {
            return edits;
        };
        let leg = match branch.target.way {
            Way::Flow { flow: to, nat, .. } => Leg::new(to, nat, branch.target.contact),
            Way::Uri => Leg::elsewhere(context.flow),
        };
        let (method, within, dialog) = (context.method, context.within, context.dialog);
        if leg.behind_nat && branch.target.path.is_empty() {
            self.reachable_contact(method, message, flow, &mut edits);
        }
        let Some(dialog) = dialog.filter(|_| !within) else {
            return edits; // what is within a dialog is told when it is given
        };
        let leg = Leg {
            target: dialog::contact(message),
            routes: self.routes_beyond(message),
            ..leg
        };
        self.dialogs
            .answered(dialog, message, leg, &mut self.paths, &mut self.timers, now);
        // Without Record-Route nothing of the dialog comes by here any more.
        if message.code().is_some_and(|code| code >= 200) && self.config.proxy.record_route == RecordRoute::Never {
            self.dialogs.because(dialog, End::of(CallEnd::Left));
            self.dialogs.end(dialog, &mut self.paths, now);
        }
        edits
    }

    /// The route set of a response from here on: the Record-Routes of those behind us, turned round (section 12.1.2).
    fn routes_beyond(&self, response: &Message) -> Box<[u8]> {
        let is_ours = |value: &NameAddr<'_>| {
            let local = std::net::SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), 0);
            value
                .parsed()
                .is_some_and(|uri| uri.user.is_some_and(token::is_dialog_token) && self.is_ours(&uri, local))
        };
        let values = response.items(HeaderName::RecordRoute);
        let mut beyond: Vec<&[u8]> = values
            .take_while(|item| !NameAddr::parse(response, item.span).is_some_and(|value| is_ours(&value)))
            .map(|item| response.text(item.span))
            .collect();
        beyond.reverse();
        beyond.join(&b", "[..]).into()
    }

    pub(super) fn dialog_due(&mut self, id: Id, now: Time) {
        self.dialogs.due(id, &mut self.paths, &mut self.timers, now);
    }

    /// Where the proxy leaves the dialog, the contact of a device behind a NAT becomes the address that it is seen at from outside, so
    /// that ACK, BYE and media go client to client. `flow`: where the message came from.
    pub(super) fn reachable_contact(&self, method: Method, message: &Message, flow: &Flow, edits: &mut Edits) {
        if self.config.proxy.record_route != RecordRoute::Never || !method.makes_dialog() {
            return;
        }
        let Some(contact) = super::request::contact(message) else {
            return;
        };
        let seen = contact.parsed().is_some_and(|uri| {
            let same = uri
                .address()
                .is_some_and(|ip| crate::sip::message::value::same_address(ip, flow.remote.ip()));
            same && uri.port_or_default() == flow.remote.port()
        });
        if !seen {
            let translated = redirect::translated(contact.uri, flow.transport, flow.remote);
            edits.replace(contact.uri_span, &translated);
        }
    }
}

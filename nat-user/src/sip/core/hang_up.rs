//! Calls that this server ends itself: those whose media has ended without a BYE.

use std::net::{Ipv4Addr, SocketAddr};

use rustc_hash::FxHashSet;

use super::{
    Core, Id,
    request::{Incoming, Plan},
    seam::Registry,
};
use crate::{
    config::sip::TimeoutEnds,
    media::command::{RelayId, Side},
    sip::{
        command::Command,
        dialog::{End, Leg, State},
        message::{Message, Method},
        metrics::CallEnd,
        proxy::{Target, routing},
        time::Time,
    },
};

impl<R: Registry> Core<R> {
    /// Nothing has been heard of these streams for `sip.media.timeout`. Answered calls that have no others, and none on hold, end, or their media does, as
    /// `sip.media.timeout_ends` says. Returns the streams that belong to no call.
    pub fn media_silent(&mut self, silent: &[RelayId], now: Time, out: &mut Vec<Command>) -> Vec<RelayId> {
        let mut unknown: FxHashSet<RelayId> = silent.iter().copied().collect();
        let settings = &self.config.media;
        let (timeout, ends) = (settings.timeout, settings.timeout_ends);
        let over = match &mut self.media {
            Some(media) => media.silent(&mut unknown, timeout, now),
            None => Vec::new(),
        };
        for id in over {
            if self
                .dialogs
                .get(id)
                .is_none_or(|dialog| dialog.state != State::Confirmed)
            {
                continue; // it rings, and other timers watch over that
            }
            match ends {
                TimeoutEnds::Call => self.hang_up(id, now, out),
                TimeoutEnds::Media => {
                    tracing::info!("the media of a call is silent for {timeout:?}: its relays are closed");
                    if let Some(media) = &mut self.media {
                        media.release(id);
                    }
                    self.dialogs.change(id);
                }
            }
        }
        self.calls_end(now);
        self.note_changes(now);
        unknown.into_iter().collect()
    }

    /// Sends a BYE to both sides of a call. It ends with the first answer, or when there is none in time.
    fn hang_up(&mut self, id: Id, now: Time, out: &mut Vec<Command>) {
        self.dialogs.because(id, End::of(CallEnd::MediaTimeout));
        let Some(dialog) = self.dialogs.get(id) else { return };
        tracing::info!(
            call_id = %String::from_utf8_lossy(&dialog.call_id),
            "the media of a call is silent for {:?}: both sides are sent a BYE",
            self.config.media.timeout
        );
        let mut byes = Vec::new();
        for callee in &dialog.callees {
            let sides = [
                (Side::Caller, &dialog.caller, &callee.leg),
                (Side::Callee, &callee.leg, &dialog.caller),
            ];
            for (side, to, from) in sides {
                let bye = dialog.bye(callee, side).and_then(|bye| Message::parse(bye).ok());
                byes.extend(bye.map(|bye| (bye, self.towards(to, now), from.flow)));
            }
        }
        if let Some(media) = &mut self.media {
            media.hung_up(id);
        }
        if byes.is_empty() {
            self.dialogs.end(id, &mut self.paths, now);
        }
        let local = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        for (message, target, flow) in byes {
            // Its only Routes are those of others.
            let routing =
                routing::preprocess(&message, &self.tokens, |uri| self.is_ours(uri, local)).unwrap_or_default();
            let plan = Plan {
                targets: vec![target],
                ..self.plan(&message, routing)
            };
            let incoming = Incoming {
                key: self.keys.own(&message),
                message,
                flow,
                local,
                method: Method::Bye,
                emergency: false,
                repeats: None,
            };
            self.forward(incoming, plan, now, out);
        }
    }

    /// How a side of a call is reached from here: a device on its flow, or that of its registration if it has moved; others by their Routes or
    /// their remote target.
    fn towards(&self, leg: &Leg, now: Time) -> Target {
        let on_flow = leg.is_device && (leg.routes.is_empty() || leg.behind_nat || leg.flow.transport.reliable());
        let registered = leg.contact.and_then(|contact| self.registry.flow_of(contact, now));
        let flow = on_flow.then(|| registered.unwrap_or(leg.flow));
        let target = flow.and_then(|flow| self.on_flow(flow).ok());
        target.unwrap_or_else(|| Target::by_uri(None))
    }
}

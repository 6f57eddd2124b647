//! Random schedules of calls, with a daemon that dies in between: what the data path has open is what the calls have, at any time.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{kept::restarted, media::*, *};
use crate::media::command::RelayId;

/// Calls at one time.
const SLOTS: usize = 4;

#[derive(Clone, Debug)]
enum Step {
    Call(usize),
    Ring(usize),
    Answer(usize),
    Reject(usize),
    Cancel(usize),
    /// A new offer, on hold or not, at this port; the phone takes it or refuses it.
    Offer(usize, bool, u16, bool),
    Bye(usize),
    /// The BYE does not arrive: nobody says anything any more.
    Vanish(usize),
    /// No packet of it is heard for as long as it takes.
    Silence(usize),
    Restart,
    Pass(u64),
}

#[derive(Debug)]
struct Call {
    name: String,
    /// As the phone has it.
    invite: Sent,
    /// As the caller has it.
    ok: Option<Sent>,
    cseq: u32,
}

struct Run {
    world: World,
    path: Path,
    calls: [Option<Call>; SLOTS],
    begun: usize,
}

impl Run {
    fn ask(name: &str) -> String {
        Ask {
            call: name,
            via: &format!("SIP/2.0/UDP 10.0.0.9:5060;branch=z9hG4bK{name}"),
            ..invite()
        }
        .text()
    }

    fn within(call: &mut Call, method: &str, ok: &Sent) -> String {
        call.cseq += u32::from(method != "ACK");
        let text = within(method, ok).replace("call-1@elsewhere.com", &call.name);
        let text = text.replace(
            &format!("z9hG4bK{method}"),
            &format!("z9hG4bK{}{method}{}", call.name, call.cseq),
        );
        let number = if method == "ACK" { 1 } else { 2 };
        text.replace(&format!("CSeq: {number} "), &format!("CSeq: {} ", call.cseq))
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Call(slot) if self.calls[slot].is_none() => {
                self.begun += 1;
                let name = format!("call{}", self.begun);
                let out = self
                    .world
                    .receive(udp(CALLER), &with(&Self::ask(&name), &audio("10.0.0.9", 4000)));
                let invite = out.into_iter().find(|sent| sent.what() == "INVITE");
                // Else there was no port left, and nothing else has happened.
                self.calls[slot] = invite.map(|invite| Call {
                    name,
                    invite,
                    ok: None,
                    cseq: 1,
                });
            }
            Step::Ring(slot) => {
                if let Some(call) = self.calls[slot].as_ref().filter(|call| call.ok.is_none()) {
                    let early = with(
                        &reply(&call.invite, 183, "phone", CONTACT),
                        &audio("192.168.1.10", 5000),
                    );
                    self.world.receive(udp(PHONE), &early);
                }
            }
            Step::Answer(slot) => {
                let Some(call) = self.calls[slot].as_mut().filter(|call| call.ok.is_none()) else {
                    return;
                };
                let timer = format!("{CONTACT}Session-Expires: 600;refresher=uac\n");
                let answer = with(&reply(&call.invite, 200, "phone", &timer), &audio("192.168.1.10", 5000));
                let Some(ok) = self.world.receive(udp(PHONE), &answer).pop() else {
                    self.calls[slot] = None; // it has rung for too long
                    return;
                };
                let ack = Self::within(call, "ACK", &ok);
                call.ok = Some(ok);
                self.world.receive(udp(CALLER), &ack);
            }
            Step::Reject(slot) => {
                if let Some(call) = self.calls[slot].take_if(|call| call.ok.is_none()) {
                    self.world.receive(udp(PHONE), &reply(&call.invite, 486, "phone", ""));
                }
            }
            Step::Cancel(slot) => {
                if let Some(call) = self.calls[slot].take_if(|call| call.ok.is_none()) {
                    let cancel = Self::ask(&call.name).replace("INVITE", "CANCEL");
                    self.world.receive(udp(CALLER), &cancel);
                    self.world.receive(udp(PHONE), &reply(&call.invite, 487, "phone", ""));
                }
            }
            Step::Offer(slot, held, port, taken) => {
                let Some(call) = &mut self.calls[slot] else { return };
                let Some(ok) = call.ok.take() else { return };
                let mut offer = audio("10.0.0.9", port);
                if held {
                    offer += "a=inactive\n";
                }
                let text = with(&Self::within(call, "INVITE", &ok), &offer);
                let out = self.world.receive(udp(CALLER), &text);
                if let Some(invite) = out.into_iter().find(|sent| sent.what() == "INVITE") {
                    let given = match taken {
                        true => with(&reply(&invite, 200, "phone", CONTACT), &audio("192.168.1.10", 5000)),
                        false => reply(&invite, 488, "phone", ""),
                    };
                    self.world.receive(udp(PHONE), &given);
                }
                call.ok = Some(ok);
            }
            Step::Bye(slot) => {
                let Some(mut call) = self.calls[slot].take_if(|call| call.ok.is_some()) else {
                    return;
                };
                if let Some(ok) = call.ok.take() {
                    let bye = Self::within(&mut call, "BYE", &ok);
                    if let Some(bye) = self.world.receive(udp(CALLER), &bye).first() {
                        self.world.receive(udp(PHONE), &reply(bye, 200, "phone", ""));
                    }
                }
            }
            Step::Vanish(slot) => self.calls[slot] = None,
            Step::Silence(slot) => {
                let Some(call) = self.calls[slot].take_if(|call| call.ok.is_some()) else {
                    return;
                };
                let named = |(_, dialog): &(super::super::Id, &crate::sip::dialog::Dialog)| {
                    *dialog.call_id == *call.name.as_bytes()
                };
                let Some((id, _)) = self.world.core.dialogs().iter().find(named) else {
                    return;
                };
                let media = self.world.core.media_of(id);
                let streams: Vec<RelayId> = media
                    .into_iter()
                    .flat_map(|session| session.streams().filter_map(|stream| Some(stream.relay?.id)))
                    .collect();
                let mut out = Vec::new();
                self.world.core.media_silent(&[], self.world.now, &mut out);
                self.world.pass(Duration::from_secs(300));
                self.world.core.media_silent(&streams, self.world.now, &mut out);
                for bye in sent(out) {
                    self.world
                        .receive(udp(&bye.remote().to_string()), &reply(&bye, 200, "phone", ""));
                }
            }
            Step::Restart => {
                let fresh = World::new(|_| {});
                let world = std::mem::replace(&mut self.world, fresh);
                self.world = restarted(world, &self.path);
                // What belongs to no call ends because it is silent.
                let theirs = self.places();
                self.path.0.lock().unwrap().open.retain(|relay| theirs.contains(relay));
                // Those that rang are nobody's any more.
                for call in &mut self.calls {
                    call.take_if(|call| call.ok.is_none());
                }
            }
            Step::Pass(seconds) => drop(self.world.pass(Duration::from_secs(seconds))),
            Step::Call(_) => {}
        }
    }

    /// The relays that calls have.
    fn places(&self) -> BTreeSet<RelayId> {
        let dialogs = self.world.core.dialogs().iter();
        let sessions = dialogs.filter_map(|(id, _)| self.world.core.media_of(id));
        sessions
            .flat_map(|session| {
                session
                    .streams()
                    .filter_map(|stream| Some(stream.relay?.id))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    fn check(&self, step: &Step) {
        assert_eq!(self.path.0.lock().unwrap().open, self.places(), "after {step:?}");
        for call in self.calls.iter().flatten().filter(|call| call.ok.is_some()) {
            let of_call = |(_, dialog): (_, &crate::sip::dialog::Dialog)| *dialog.call_id == *call.name.as_bytes();
            let known = self.world.core.dialogs().iter().any(of_call);
            // Its session timer may have ended it.
            assert!(
                known || matches!(step, Step::Pass(_) | Step::Silence(_)),
                "{} after {step:?}",
                call.name
            );
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let slot = 0..SLOTS;
    prop_oneof![
        4 => slot.clone().prop_map(Step::Call),
        1 => slot.clone().prop_map(Step::Ring),
        4 => slot.clone().prop_map(Step::Answer),
        1 => slot.clone().prop_map(Step::Reject),
        1 => slot.clone().prop_map(Step::Cancel),
        3 => (slot.clone(), any::<bool>(), 4000..4100u16, any::<bool>())
            .prop_map(|(slot, held, port, taken)| Step::Offer(slot, held, port & !1, taken)),
        2 => slot.clone().prop_map(Step::Bye),
        1 => slot.clone().prop_map(Step::Vanish),
        1 => slot.prop_map(Step::Silence),
        1 => Just(Step::Restart),
        1 => (1..40u64).prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn places_are_those_of_the_calls(steps in prop::collection::vec(step(), 1..60)) {
        let (world, path) = world(phone());
        path.0.lock().unwrap().left = 3 * 2;
        let mut run = Run { world, path, calls: Default::default(), begun: 0 };
        for step in &steps {
            run.step(step);
            run.check(step);
            // Calls that have ended by themselves are no calls.
            let alive: Vec<Vec<u8>> = run.world.core.dialogs().iter().map(|(_, dialog)| dialog.call_id.to_vec()).collect();
            for call in &mut run.calls {
                call.take_if(|call| !alive.contains(&call.name.clone().into_bytes()));
            }
        }
        // Nobody says anything any more.
        run.world.pass(Duration::from_secs(13 * 3600));
        assert_eq!(run.path.0.lock().unwrap().open, BTreeSet::new());
        assert_eq!((run.world.core.dialogs().calls(), run.world.core.registry.stored.len()), (0, 0));
        run.world.assert_idle();
    }
}

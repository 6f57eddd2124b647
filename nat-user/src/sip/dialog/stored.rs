//! Calls as they are stored, and how they come back after a restart.

use smallvec::SmallVec;

use super::{Callee, Dialog, Dialogs, Kind, Leg, State};
use crate::{
    sip::{
        core::arena::Id,
        flow::{Flow, ListenerId},
        location::ContactId,
        path::Paths,
        time::Time,
        timers::Timers,
        transaction::Due,
    },
    store::codec::{Reader, Stored, stored},
};

stored!(struct Callee { tag, leg });

impl Stored for Leg {
    fn put(&self, out: &mut Vec<u8>) {
        self.flow.put(out);
        self.behind_nat.put(out);
        self.is_device.put(out);
        self.target.put(out);
        self.routes.put(out);
        self.cseq.put(out);
    }

    /// Its path and contact are those of today, to be found by its flow.
    fn take(from: &mut Reader<'_>) -> Option<Self> {
        Some(Leg {
            flow: Flow::take(from)?,
            path: None,
            behind_nat: bool::take(from)?,
            contact: None,
            is_device: bool::take(from)?,
            target: Stored::take(from)?,
            routes: Stored::take(from)?,
            cseq: u32::take(from)?,
        })
    }
}

/// A call that was answered.
#[derive(Debug)]
pub struct StoredCall {
    call_id: Box<[u8]>,
    caller_tag: Box<[u8]>,
    caller: Leg,
    callees: SmallVec<[Callee; 1]>,
    caller_aor: Option<Box<str>>,
    callee_aor: Option<Box<str>>,
    from: Box<[u8]>,
    to: Box<[u8]>,
    started: Time,
    established: Option<Time>,
    session: Option<u32>,
    /// When it ends by itself.
    ends: Time,
}

stored!(
    struct StoredCall {
        call_id,
        caller_tag,
        caller,
        callees,
        caller_aor,
        callee_aor,
        from,
        to,
        started,
        established,
        session,
        ends,
    }
);

impl StoredCall {
    /// Gives its flows the ids that their listeners have today.
    pub fn translate(&mut self, today: impl Fn(ListenerId) -> ListenerId) {
        let callees = self.callees.iter_mut().map(|callee| &mut callee.leg);
        for leg in callees.chain([&mut self.caller]) {
            leg.flow.listener = today(leg.flow.listener);
        }
    }
}

impl Dialog {
    /// Appends what [`StoredCall`] reads.
    pub fn put(&self, out: &mut Vec<u8>) {
        self.call_id.put(out);
        self.caller_tag.put(out);
        self.caller.put(out);
        self.callees.put(out);
        self.caller_aor.put(out);
        self.callee_aor.put(out);
        self.from.put(out);
        self.to.put(out);
        self.started.put(out);
        self.established.put(out);
        self.session.put(out);
        self.alarm.deadline().put(out);
    }
}

impl Dialogs {
    /// Takes a call back after a restart. `contact`: the registration on a flow. `None`: it has ended meanwhile, by its session timer.
    pub fn restore(
        &mut self,
        number: u64,
        call: StoredCall,
        contact: impl Fn(&Flow, &Paths) -> Option<ContactId>,
        paths: &mut Paths,
        timers: &mut Timers<Due>,
        now: Time,
    ) -> Option<Id> {
        self.last = self.last.max(number);
        let key = self.key(&call.call_id, &call.caller_tag);
        if call.ends <= now || self.index.contains_key(&key) {
            return None;
        }
        let mut dialog = Dialog {
            kind: Kind::Call,
            state: State::Confirmed,
            call_id: call.call_id,
            caller_tag: call.caller_tag,
            caller: call.caller,
            callees: call.callees,
            caller_aor: call.caller_aor,
            callee_aor: call.callee_aor,
            from: call.from,
            to: call.to,
            started: call.started,
            established: call.established,
            session: call.session,
            alarm: Default::default(),
            number,
            end: None,
            key,
            unsaved: false,
        };
        let callees = dialog.callees.iter_mut().map(|callee| &mut callee.leg);
        for leg in callees.chain([&mut dialog.caller]) {
            // The connection of a stream has ended with the daemon: the device comes back on another one.
            if !leg.flow.transport.reliable() {
                leg.contact = contact(&leg.flow, paths);
                leg.hold(Kind::Call.holder(), paths, now);
            }
        }
        let id = self.insert(dialog);
        if let Some(dialog) = self.arena.get_mut(id) {
            dialog.alarm.set(call.ends, timers, Due::Dialog(id));
        }
        Some(id)
    }
}

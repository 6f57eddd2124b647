//! What is kept of a dialog.

use smallvec::SmallVec;

use crate::{
    media::command::Side,
    sip::{flow::Flow, location::ContactId, metrics::CallEnd, path::PathId, time::Time, timers::Alarm},
};

/// What the dialog is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Made by INVITE.
    Call,
    /// Made by SUBSCRIBE or REFER (RFC 6665).
    Subscription,
}

/// How far it is (RFC 3261 section 12). What has ended is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// No success yet.
    Early,
    Confirmed,
}

/// One dialog; with several callees while a forked INVITE is being set up.
#[derive(Debug)]
pub struct Dialog {
    pub kind: Kind,
    pub state: State,
    pub call_id: Box<[u8]>,
    pub caller_tag: Box<[u8]>,
    pub caller: Leg,
    pub callees: SmallVec<[Callee; 1]>,
    /// `user@domain`, if the caller is a user of ours and has proven it.
    pub caller_aor: Option<Box<str>>,
    /// `user@domain`, if the callee is a user of ours.
    pub callee_aor: Option<Box<str>>,
    /// The URIs of From and To.
    pub from: Box<[u8]>,
    pub to: Box<[u8]>,
    pub started: Time,
    /// When it was confirmed.
    pub established: Option<Time>,
    /// The session interval in seconds (RFC 4028), if there is one.
    pub session: Option<u32>,
    /// Its deadline is when the dialog ends by itself.
    pub alarm: Alarm,
    /// Why it ends, once that is known.
    pub end: Option<End>,
    pub(super) key: u64,
}

/// Why a dialog ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    pub why: CallEnd,
    /// Who has ended it; `None`: this server, or nobody.
    pub by: Option<Side>,
    /// The final response, if one has ended it.
    pub code: Option<u16>,
}

impl End {
    /// It ends for this reason, by itself.
    pub fn of(why: CallEnd) -> End {
        End {
            why,
            by: None,
            code: None,
        }
    }
}

/// Somebody who has answered.
#[derive(Debug)]
pub struct Callee {
    pub tag: Box<[u8]>,
    pub leg: Leg,
}

/// One side.
#[derive(Debug)]
pub struct Leg {
    /// Where its messages come from; without meaning if it is no device.
    pub flow: Flow,
    /// The mapped path, which the dialog holds.
    pub path: Option<PathId>,
    pub behind_nat: bool,
    /// Its registration: if that moves to another flow, so does this.
    pub contact: Option<ContactId>,
    /// It is reached on its flow. False: by its URI, as other servers are.
    pub is_device: bool,
}

impl Leg {
    /// A device on this flow.
    pub fn new(flow: Flow, behind_nat: bool, contact: Option<ContactId>) -> Leg {
        Leg {
            flow,
            path: None,
            behind_nat,
            contact,
            is_device: true,
        }
    }

    /// Somebody who is reached by a URI.
    pub fn elsewhere(flow: Flow) -> Leg {
        Leg {
            flow,
            path: None,
            behind_nat: false,
            contact: None,
            is_device: false,
        }
    }
}

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
    /// What it is called in the store: no other dialog has this number, also after a restart.
    pub number: u64,
    /// Why it ends, once that is known.
    pub end: Option<End>,
    pub(super) key: u64,
    /// It has changed since it was last given to the store.
    pub(super) unsaved: bool,
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
    /// Its remote target: the URI that requests to it are for (RFC 3261 section 12.1). Empty if its Contact was none.
    pub target: Box<[u8]>,
    /// The Route values from us to it, separated by commas; often empty.
    pub routes: Box<[u8]>,
    /// The highest CSeq of its requests that have passed; 0 if none has.
    pub cseq: u32,
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
            target: Box::default(),
            routes: Box::default(),
            cseq: 0,
        }
    }

    /// Somebody who is reached by a URI.
    pub fn elsewhere(flow: Flow) -> Leg {
        Leg {
            is_device: false,
            ..Leg::new(flow, false, None)
        }
    }
}

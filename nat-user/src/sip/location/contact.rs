//! One contact of an AoR: what is kept of it, in little memory, and how others see it.

use std::{num::NonZeroU32, sync::Arc};

use crate::sip::{
    flow::Flow,
    message::{Params, pattern::Pattern},
    path::PathId,
    time::Time,
    timers::Alarm,
};

/// Names a contact for as long as it is registered. Never means another one later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContactId {
    pub(super) index: u32,
    /// Tells users of the same index apart.
    pub(super) serial: u32,
}

/// Names a contact over restarts; greater ones are younger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number(pub u64);

/// No index of a slab.
pub(super) const NONE: u32 = u32::MAX;

/// A contact as the registrar puts it in.
#[derive(Clone, Copy, Debug)]
pub struct NewContact<'a> {
    /// As the device sent it, without angle brackets: the request URI of what is sent to it.
    pub uri: &'a [u8],
    /// The parameters of the Contact value as sent, from their first semicolon, without `expires` and `q`.
    pub params: &'a [u8],
    pub call_id: &'a [u8],
    pub cseq: u32,
    /// The values of Path in their order, separated by commas: the Route of what is sent to it (RFC 3327).
    pub path: &'a [u8],
    /// How it is reached. `None`: by its path, or by its URI.
    pub flow: Option<Flow>,
    /// The address inside its request was not the one that it came from.
    pub behind_nat: bool,
    /// It keeps the flow alive by itself (RFC 5626, RFC 6223).
    pub keeps_alive: bool,
    /// With an instance: one of several flows of a device (RFC 5626 section 4.2).
    pub reg_id: Option<NonZeroU32>,
    /// Thousandths.
    pub q: u16,
    /// [`Time::MAX`]: never.
    pub expires: Time,
    pub user_agent: Option<&'a [u8]>,
    /// From the configuration.
    pub fixed: bool,
}

/// A contact as it is now.
#[derive(Clone, Copy, Debug)]
pub struct Contact<'a> {
    pub id: ContactId,
    pub number: Number,
    /// `user@domain`.
    pub aor: &'a str,
    /// As in [`NewContact::uri`].
    pub uri: &'a [u8],
    /// As in [`NewContact::params`].
    pub params: &'a [u8],
    pub call_id: &'a [u8],
    pub cseq: u32,
    /// As in [`NewContact::path`].
    pub path: &'a [u8],
    /// How it is reached; `None`: by its path, or by its URI.
    pub flow: Option<Flow>,
    /// The mapped path over this flow, which it holds.
    pub path_id: Option<PathId>,
    pub behind_nat: bool,
    pub keeps_alive: bool,
    /// Nothing gets through to it at the moment.
    pub down: bool,
    pub reg_id: Option<NonZeroU32>,
    /// Thousandths.
    pub q: u16,
    /// [`Time::MAX`]: never.
    pub expires: Time,
    /// When it was last registered.
    pub updated: Time,
    pub user_agent: Option<&'a str>,
    pub fixed: bool,
}

impl<'a> Contact<'a> {
    /// `+sip.instance` without quotes (RFC 5626 section 4.1).
    pub fn instance(&self) -> Option<&'a [u8]> {
        instance(self.params)
    }

    /// Seconds that are left of its registration, rounded up; `None`: it never expires.
    pub fn remaining(&self, now: Time) -> Option<u64> {
        (self.expires != Time::MAX).then(|| self.expires.0.saturating_sub(now.0).div_ceil(1000))
    }

    /// Whether it is registered at this moment.
    pub fn is_current(&self, now: Time) -> bool {
        self.expires > now
    }

    /// Whether requests can reach it at this moment.
    pub fn is_usable(&self, now: Time) -> bool {
        self.is_current(now) && !self.down
    }
}

/// `+sip.instance` among the parameters of a Contact value.
pub fn instance(params: &[u8]) -> Option<&[u8]> {
    Params(params).get("+sip.instance").filter(|value| !value.is_empty())
}

/// What must be written to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Unsaved {
    Nothing,
    /// Its expiry and CSeq.
    Refresh,
    All,
}

/// A contact as it is kept. A million of them must fit into a few hundred megabytes.
#[derive(Debug)]
pub(super) struct Record {
    pub number: Number,
    texts: Texts,
    pub flow: Option<Flow>,
    pub path_id: Option<PathId>,
    /// Its deadline is the expiry.
    pub alarm: Alarm,
    pub updated: Time,
    pub user_agent: Option<Arc<str>>,
    pub reg_id: Option<NonZeroU32>,
    pub cseq: u32,
    /// Index of its AoR, and of the next contact of that.
    pub aor: u32,
    pub next: u32,
    /// Indexes of its neighbours in the list of contacts on its path.
    pub before_on_path: u32,
    pub next_on_path: u32,
    pub q: u16,
    pub behind_nat: bool,
    pub keeps_alive: bool,
    pub down: bool,
    pub fixed: bool,
    pub unsaved: Unsaved,
    /// The request that it was last registered by, if that may be repeated.
    pub pattern: Option<Box<Pattern>>,
}

impl Record {
    pub fn new(number: Number, aor: u32, new: &NewContact<'_>, user_agent: Option<Arc<str>>, now: Time) -> Record {
        Record {
            number,
            texts: Texts::new([new.uri, new.params, new.call_id, new.path]),
            flow: new.flow,
            path_id: None,
            alarm: Alarm::default(),
            updated: now,
            user_agent,
            reg_id: new.reg_id,
            cseq: new.cseq,
            aor,
            next: NONE,
            before_on_path: NONE,
            next_on_path: NONE,
            q: new.q,
            behind_nat: new.behind_nat,
            keeps_alive: new.keeps_alive,
            down: false,
            fixed: new.fixed,
            unsaved: Unsaved::Nothing,
            pattern: None,
        }
    }

    /// Takes over what a new request says, but for flow, expiry and user agent. True: more than CSeq has changed.
    pub fn update(&mut self, new: &NewContact<'_>, now: Time) -> bool {
        let texts = [new.uri, new.params, new.call_id, new.path];
        let same = self.texts.all() == texts
            && (self.q, self.reg_id, self.behind_nat, self.keeps_alive, self.fixed)
                == (new.q, new.reg_id, new.behind_nat, new.keeps_alive, new.fixed);
        self.cseq = new.cseq;
        self.updated = now;
        self.pattern = None;
        if !same {
            self.texts = Texts::new(texts);
            self.q = new.q;
            self.reg_id = new.reg_id;
            self.behind_nat = new.behind_nat;
            self.keeps_alive = new.keeps_alive;
            self.fixed = new.fixed;
        }
        !same
    }

    pub fn id(&self, index: u32) -> ContactId {
        ContactId {
            index,
            serial: self.number.0 as u32,
        }
    }

    pub fn view<'a>(&'a self, index: u32, aor: &'a str) -> Contact<'a> {
        let [uri, params, call_id, path] = self.texts.all();
        Contact {
            id: self.id(index),
            number: self.number,
            aor,
            uri,
            params,
            call_id,
            cseq: self.cseq,
            path,
            flow: self.flow,
            path_id: self.path_id,
            behind_nat: self.behind_nat,
            keeps_alive: self.keeps_alive,
            down: self.down,
            reg_id: self.reg_id,
            q: self.q,
            expires: self.alarm.deadline(),
            updated: self.updated,
            user_agent: self.user_agent.as_deref(),
            fixed: self.fixed,
        }
    }
}

/// Several texts in one allocation.
#[derive(Debug)]
struct Texts {
    bytes: Box<[u8]>,
    /// Where each but the last ends.
    ends: [u32; 3],
}

impl Texts {
    fn new(texts: [&[u8]; 4]) -> Texts {
        let mut ends = [0; 3];
        let mut end = 0;
        for (place, text) in ends.iter_mut().zip(texts) {
            // Messages are shorter than 4 GiB by far.
            end += text.len() as u32;
            *place = end;
        }
        Texts {
            bytes: texts.concat().into_boxed_slice(),
            ends,
        }
    }

    fn all(&self) -> [&[u8]; 4] {
        let [a, b, c] = self.ends.map(|end| end as usize);
        [&self.bytes[..a], &self.bytes[a..b], &self.bytes[b..c], &self.bytes[c..]]
    }
}

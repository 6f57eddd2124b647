//! The location service: which contacts an address of record has, and on which flow each is reached (RFC 3261 section 10, RFC 5626 section 7).
//!
//! This is the table of S1: for each AoR the contact as the device sent it, and the translated address and port that count for reaching it.
//! A contact with a flow holds the mapped path over it in [`Paths`], so that prompts keep it open; every call that may change who holds a
//! path therefore takes the path table.
//!
//! An expired contact is absent for every reader from that millisecond on; [`Location::tick`] only frees it.

mod agents;
mod contact;
pub mod domains;
pub mod fixed;
mod select;
pub mod stored;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher as _, RandomState};

use hashbrown::HashTable;
use rustc_hash::FxHashMap;
use slab::Slab;

use self::{
    agents::Agents,
    contact::{NONE, Record, Unsaved},
};
pub use self::{
    contact::{Contact, ContactId, NewContact, Number, instance},
    select::Targets,
};
use super::{
    flow::Flow,
    message::pattern::Pattern,
    path::{Holder, PathId, PathInfo, Paths},
    time::Time,
    timers::Timers,
};

/// All registrations.
#[derive(Debug, Default)]
pub struct Location {
    contacts: Slab<Record>,
    aors: Slab<Aor>,
    /// Indexes of `aors` by key.
    by_key: HashTable<u32>,
    hasher: RandomState,
    /// The first contact of the list of each path.
    by_path: FxHashMap<PathId, u32>,
    timers: Timers<ContactId>,
    agents: Agents,
    /// The number that the next contact gets.
    number: u64,
    /// Indexes of contacts that have something unsaved, each once.
    unsaved: Vec<u32>,
    /// Contacts that are gone and may be in the store.
    gone: Vec<Number>,
    /// Contacts behind a NAT.
    behind_nat: usize,
}

#[derive(Debug)]
struct Aor {
    key: Box<str>,
    /// Index of its oldest contact.
    first: u32,
}

/// What happens to the contacts of a path that is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// They get no requests until something comes in.
    Mark,
    Remove,
}

impl Location {
    pub fn new() -> Location {
        Location {
            number: 1,
            ..Location::default()
        }
    }

    /// How many contacts there are. Some may have expired this moment.
    pub fn len(&self) -> usize {
        self.contacts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.contacts.is_empty()
    }

    /// How many addresses of record have contacts.
    pub fn aors(&self) -> usize {
        self.aors.len()
    }

    /// How many contacts are behind a NAT.
    pub fn behind_nat(&self) -> usize {
        self.behind_nat
    }

    /// A contact, as long as it is registered.
    pub fn get(&self, id: ContactId, now: Time) -> Option<Contact<'_>> {
        self.record(id)?;
        Some(self.view(id.index)).filter(|contact| contact.is_current(now))
    }

    /// The contacts of an address of record (`user@domain` in canonical form), oldest first, those that are down among them.
    pub fn contacts(&self, aor: &str, now: Time) -> impl Iterator<Item = Contact<'_>> {
        let first = self.find_aor(aor).map_or(NONE, |aor| self.aors[aor as usize].first);
        self.list(first, |record| record.next)
            .filter(move |contact| contact.is_current(now))
    }

    /// The contacts of the address of record that this contact belongs to, as [`Location::contacts`].
    pub fn beside(&self, id: ContactId, now: Time) -> impl Iterator<Item = Contact<'_>> {
        let first = self
            .record(id)
            .map_or(NONE, |record| self.aors[record.aor as usize].first);
        self.list(first, |record| record.next)
            .filter(move |contact| contact.is_current(now))
    }

    /// The contacts whose path this is.
    pub fn on_path(&self, path: PathId, now: Time) -> impl Iterator<Item = Contact<'_>> {
        let first = self.by_path.get(&path).copied().unwrap_or(NONE);
        self.list(first, |record| record.next_on_path)
            .filter(move |contact| contact.is_current(now))
    }

    /// The contacts that are reached on a flow: whose device a request on it comes from.
    pub fn on_flow<'a>(&'a self, flow: &Flow, paths: &Paths, now: Time) -> impl Iterator<Item = Contact<'a>> + use<'a> {
        let first = paths.find(flow).and_then(|path| self.by_path.get(&path).copied());
        self.list(first.unwrap_or(NONE), |record| record.next_on_path)
            .filter(move |contact| contact.is_current(now))
    }

    /// Shows the contacts at up to `look_at` places from `from` on (0: the beginning) and says where to go on; `None`: that was the end. A
    /// contact that stays registered meanwhile is shown exactly once.
    pub fn page(&self, from: u64, look_at: usize, now: Time, mut show: impl FnMut(Contact<'_>)) -> Option<u64> {
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        let end = from.saturating_add(look_at).min(self.contacts.capacity());
        for index in from..end {
            if self.contacts.contains(index) {
                let contact = self.view(index as u32);
                if contact.is_current(now) {
                    show(contact);
                }
            }
        }
        (end > from && end < self.contacts.capacity()).then_some(end as u64)
    }

    /// Registers a contact of an address of record, in the place of `old` if that is one of its contacts.
    pub fn put(
        &mut self,
        aor: &str,
        old: Option<ContactId>,
        new: &NewContact<'_>,
        paths: &mut Paths,
        now: Time,
    ) -> ContactId {
        let old = old.filter(|id| {
            self.record(*id)
                .is_some_and(|record| *self.aors[record.aor as usize].key == *aor)
        });
        let id = match old {
            Some(id) => {
                self.update(id, new, paths, now);
                id
            }
            None => self.insert(aor, None, new, paths, now),
        };
        let record = &mut self.contacts[id.index as usize];
        record.alarm.set(new.expires, &mut self.timers, id);
        id
    }

    /// Notes what the request was that has just registered a contact: one that repeats it needs only [`Location::refresh`].
    pub fn remember(&mut self, id: ContactId, pattern: Option<Pattern>) {
        if self.record(id).is_some() {
            self.contacts[id.index as usize].pattern = pattern.map(Box::new);
        }
    }

    /// The contacts on a flow of which it is known what registered them.
    pub fn patterns<'a>(
        &'a self,
        flow: &Flow,
        paths: &Paths,
        now: Time,
    ) -> impl Iterator<Item = (ContactId, &'a Pattern)> + use<'a> {
        self.on_flow(flow, paths, now)
            .filter_map(|contact| Some((contact.id, self.record(contact.id)?.pattern.as_deref()?)))
    }

    /// Registers a contact for as long again, as the request did that it was last registered by. False: this is not a later one.
    pub fn refresh(&mut self, id: ContactId, cseq: u32, now: Time) -> bool {
        if self.record(id).is_none_or(|record| cseq <= record.cseq) {
            return false;
        }
        let record = &mut self.contacts[id.index as usize];
        let granted = record.alarm.deadline().since(record.updated);
        record.alarm.set(now + granted, &mut self.timers, id);
        record.cseq = cseq;
        record.updated = now;
        // It just came in on its flow.
        record.down = false;
        self.save(id, Unsaved::Refresh);
        true
    }

    /// Removes a contact and lets its path go. False: there is no such contact any more.
    pub fn remove(&mut self, id: ContactId, paths: &mut Paths, now: Time) -> bool {
        if self.record(id).is_none() {
            return false;
        }
        self.leave_path(id, paths, now);
        self.leave_aor(id);
        let record = self.contacts.remove(id.index as usize);
        self.behind_nat -= usize::from(record.behind_nat);
        if !record.fixed {
            self.gone.push(record.number);
        }
        self.agents.drop(record.user_agent);
        true
    }

    /// Removes contacts of an address of record: the one whose URI this is as it was sent, or all. Those of the configuration stay.
    /// Says how many were removed.
    pub fn unregister(&mut self, aor: &str, uri: Option<&[u8]>, paths: &mut Paths, now: Time) -> u32 {
        let ids: Vec<ContactId> = self
            .contacts(aor, now)
            .filter(|contact| !contact.fixed && uri.is_none_or(|uri| uri == contact.uri))
            .map(|contact| contact.id)
            .collect();
        ids.iter().map(|id| u32::from(self.remove(*id, paths, now))).sum()
    }

    /// Too many prompts on a path were not answered ([`PathAction::Down`]). Says how many contacts this concerns.
    ///
    /// [`PathAction::Down`]: super::path::PathAction::Down
    pub fn path_down(&mut self, path: PathId, lost: Lost, paths: &mut Paths, now: Time) -> u32 {
        let ids = self.ids_on(path);
        for id in &ids {
            match lost {
                Lost::Mark => self.contacts[id.index as usize].down = true,
                Lost::Remove => {
                    self.remove(*id, paths, now);
                }
            }
        }
        ids.len() as u32
    }

    /// Something came in on a path that was down.
    pub fn path_up(&mut self, path: PathId) {
        for id in self.ids_on(path) {
            self.contacts[id.index as usize].down = false;
        }
    }

    /// A connection has ended, or what was sent on a flow was refused: nothing will be delivered on it any more (RFC 5626 section 7). Contacts
    /// that can be reached in no other way are removed, because their device will register anew; others are reached by their URI from now on.
    /// Says how many were removed. To be called before [`Paths::closed`].
    pub fn flow_ended(&mut self, flow: &Flow, paths: &mut Paths, now: Time) -> u32 {
        let Some(path) = paths.find(flow) else { return 0 };
        let mut removed = 0;
        for id in self.ids_on(path) {
            let record = &self.contacts[id.index as usize];
            if record.reg_id.is_some() || record.behind_nat {
                self.remove(id, paths, now);
                removed += 1;
            } else {
                self.leave_path(id, paths, now);
                self.contacts[id.index as usize].flow = None;
                self.save(id, Unsaved::All);
            }
        }
        removed
    }

    /// When [`Location::tick`] must be called. `None`: nothing expires.
    pub fn next(&self) -> Option<Time> {
        self.timers.next()
    }

    /// Frees what has expired, each contact after `gone` has seen it.
    pub fn tick(&mut self, now: Time, paths: &mut Paths, mut gone: impl FnMut(Contact<'_>)) {
        while let Some(id) = self.timers.pop(now) {
            let fires = match self
                .contacts
                .get_mut(id.index as usize)
                .filter(|record| record.id(id.index) == id)
            {
                Some(record) => record.alarm.fires(now, &mut self.timers, id),
                None => false,
            };
            if fires {
                gone(self.view(id.index));
                self.remove(id, paths, now);
            }
        }
    }
}

/// What happens inside.
impl Location {
    fn record(&self, id: ContactId) -> Option<&Record> {
        self.contacts
            .get(id.index as usize)
            .filter(|record| record.id(id.index) == id)
    }

    fn view(&self, index: u32) -> Contact<'_> {
        let record = &self.contacts[index as usize];
        record.view(index, &self.aors[record.aor as usize].key)
    }

    fn list(&self, first: u32, next: impl Fn(&Record) -> u32) -> impl Iterator<Item = Contact<'_>> {
        let mut at = first;
        std::iter::from_fn(move || {
            let record = self.contacts.get(at as usize)?;
            let contact = self.view(at);
            at = next(record);
            Some(contact)
        })
    }

    fn ids_on(&self, path: PathId) -> Vec<ContactId> {
        self.on_path(path, Time(0)).map(|contact| contact.id).collect()
    }

    fn find_aor(&self, key: &str) -> Option<u32> {
        self.by_key
            .find(self.hasher.hash_one(key), |index| {
                *self.aors[*index as usize].key == *key
            })
            .copied()
    }

    fn insert(
        &mut self,
        aor: &str,
        number: Option<Number>,
        new: &NewContact<'_>,
        paths: &mut Paths,
        now: Time,
    ) -> ContactId {
        let number = number.unwrap_or(Number(self.number));
        self.number = self.number.max(number.0 + 1);
        let user_agent = new.user_agent.map(|name| self.agents.intern(name));
        let aor = self.find_aor(aor).unwrap_or_else(|| self.insert_aor(aor));
        let index = self.contacts.insert(Record::new(number, aor, new, user_agent, now)) as u32;
        self.behind_nat += usize::from(new.behind_nat);
        let id = self.contacts[index as usize].id(index);
        let last = self.last_of(aor);
        match last {
            Some(last) => self.contacts[last as usize].next = index,
            None => self.aors[aor as usize].first = index,
        }
        self.join_path(id, paths, now);
        self.save(id, Unsaved::All);
        id
    }

    fn update(&mut self, id: ContactId, new: &NewContact<'_>, paths: &mut Paths, now: Time) {
        let record = &mut self.contacts[id.index as usize];
        let (nat, keeps) = (record.behind_nat, record.keeps_alive);
        let uri_changed = record.view(id.index, "").uri != new.uri;
        let mut unsaved = Unsaved::Refresh;
        if record.update(new, now) {
            unsaved = Unsaved::All;
        }
        // As a rule it is the same, which needs no search.
        if record.user_agent.as_deref().map(str::as_bytes) != new.user_agent {
            let name = new.user_agent.map(|name| self.agents.intern(name));
            if record.user_agent != name {
                let before = std::mem::replace(&mut record.user_agent, name);
                self.agents.drop(before);
                unsaved = Unsaved::All;
            }
        }
        self.behind_nat += usize::from(record.behind_nat);
        self.behind_nat -= usize::from(nat);
        if record.flow != new.flow {
            self.leave_path(id, paths, now);
            let record = &mut self.contacts[id.index as usize];
            record.flow = new.flow;
            record.down = false;
            self.join_path(id, paths, now);
            unsaved = Unsaved::All;
        } else if let Some(path) = record.path_id
            && (uri_changed || (nat, keeps) != (new.behind_nat, new.keeps_alive))
        {
            paths.describe(path, info(new.behind_nat, new.keeps_alive, new.uri), now);
        }
        // It just came in on this flow.
        self.contacts[id.index as usize].down = false;
        self.save(id, unsaved);
    }

    fn insert_aor(&mut self, key: &str) -> u32 {
        let index = self.aors.insert(Aor {
            key: key.into(),
            first: NONE,
        }) as u32;
        let (aors, hasher) = (&self.aors, &self.hasher);
        self.by_key.insert_unique(hasher.hash_one(key), index, |index| {
            hasher.hash_one(&*aors[*index as usize].key)
        });
        index
    }

    /// The youngest contact of an AoR.
    fn last_of(&self, aor: u32) -> Option<u32> {
        let mut last = None;
        let mut at = self.aors[aor as usize].first;
        while let Some(record) = self.contacts.get(at as usize) {
            last = Some(at);
            at = record.next;
        }
        last
    }

    /// Takes a contact out of the list of its AoR, and the AoR away with its last contact.
    fn leave_aor(&mut self, id: ContactId) {
        let (aor, next) = {
            let record = &self.contacts[id.index as usize];
            (record.aor, record.next)
        };
        if self.aors[aor as usize].first == id.index {
            self.aors[aor as usize].first = next;
        } else {
            let mut at = self.aors[aor as usize].first;
            while let Some(record) = self.contacts.get_mut(at as usize) {
                if record.next == id.index {
                    record.next = next;
                    break;
                }
                at = record.next;
            }
        }
        if self.aors[aor as usize].first == NONE {
            let hash = self.hasher.hash_one(&*self.aors[aor as usize].key);
            if let Ok(entry) = self.by_key.find_entry(hash, |index| *index == aor) {
                entry.remove();
            }
            self.aors.remove(aor as usize);
        }
    }

    /// Holds the path over the contact's flow, if it has one.
    fn join_path(&mut self, id: ContactId, paths: &mut Paths, now: Time) {
        let record = &self.contacts[id.index as usize];
        let Some(flow) = record.flow else { return };
        let uri = record.view(id.index, "").uri;
        let path = paths.hold(
            flow,
            Holder::Registration,
            info(record.behind_nat, record.keeps_alive, uri),
            now,
        );
        let first = self.by_path.insert(path, id.index).unwrap_or(NONE);
        if let Some(first) = self.contacts.get_mut(first as usize) {
            first.before_on_path = id.index;
        }
        let record = &mut self.contacts[id.index as usize];
        record.path_id = Some(path);
        record.before_on_path = NONE;
        record.next_on_path = first;
    }

    /// Lets the path go that the contact holds.
    fn leave_path(&mut self, id: ContactId, paths: &mut Paths, now: Time) {
        let record = &mut self.contacts[id.index as usize];
        let Some(path) = record.path_id.take() else { return };
        let before = std::mem::replace(&mut record.before_on_path, NONE);
        let next = std::mem::replace(&mut record.next_on_path, NONE);
        if let Some(record) = self.contacts.get_mut(next as usize) {
            record.before_on_path = before;
        }
        if let Some(record) = self.contacts.get_mut(before as usize) {
            record.next_on_path = next;
        } else if next == NONE {
            self.by_path.remove(&path);
        } else {
            self.by_path.insert(path, next);
        }
        paths.release(path, Holder::Registration, now);
    }

    /// Notes that the store must learn of something.
    fn save(&mut self, id: ContactId, what: Unsaved) {
        let record = &mut self.contacts[id.index as usize];
        if record.fixed {
            return;
        }
        if record.unsaved == Unsaved::Nothing {
            self.unsaved.push(id.index);
        }
        record.unsaved = record.unsaved.max(what);
    }
}

fn info(behind_nat: bool, keeps_alive: bool, uri: &[u8]) -> PathInfo<'_> {
    PathInfo {
        behind_nat,
        keeps_alive,
        uri: Some(uri),
    }
}

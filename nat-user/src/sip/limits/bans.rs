//! Who has given wrong passwords, and who is banned for it.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use super::{Ban, key};
use crate::sip::time::Time;

/// Sources that are remembered at most.
pub(super) const MOST: usize = 1 << 14;
/// Bytes of a user's name that are kept.
const LONGEST_USER: usize = 64;

/// Sources with wrong passwords.
#[derive(Debug, Default)]
pub(super) struct Bans(HashMap<IpAddr, Record>);

#[derive(Debug)]
struct Record {
    /// The address that asked last, where a prefix counts as one source.
    source: IpAddr,
    failures: u32,
    /// When it is forgotten: the end of the window that began with the first failure, or of the ban.
    until: Time,
    banned: bool,
    user: Box<str>,
}

impl Bans {
    pub fn is_banned(&self, source: IpAddr, now: Time) -> bool {
        !self.0.is_empty() && self.0.get(&key(source)).is_some_and(|record| record.is_ban(now))
    }

    /// Notes a failure. True: that makes a ban.
    pub fn failed(
        &mut self,
        source: IpAddr,
        user: &str,
        after: u32,
        window: Duration,
        ban: Duration,
        now: Time,
    ) -> bool {
        if self.0.len() >= MOST && !self.0.contains_key(&key(source)) {
            self.make_room(now);
        }
        let record = self
            .0
            .entry(key(source))
            .or_insert_with(|| Record::new(source, now, window));
        if record.until <= now {
            *record = Record::new(source, now, window);
        }
        record.source = source;
        record.failures = record.failures.saturating_add(1);
        record.user = user.chars().take(LONGEST_USER).collect();
        if record.failures >= after && !record.banned {
            record.banned = true;
            record.until = now + ban;
            return true;
        }
        false
    }

    pub fn forget_failures(&mut self, source: IpAddr) {
        if self.0.get(&key(source)).is_some_and(|record| !record.banned) {
            self.0.remove(&key(source));
        }
    }

    pub fn lift(&mut self, source: IpAddr, now: Time) -> bool {
        self.is_banned(source, now) && self.0.remove(&key(source)).is_some()
    }

    pub fn iter(&self, now: Time) -> impl Iterator<Item = Ban> {
        self.0
            .values()
            .filter(move |record| record.is_ban(now))
            .map(|record| Ban {
                source: record.source,
                until: record.until,
                failures: record.failures,
                user: record.user.to_string(),
            })
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Forgets what is over; if that is not enough, the half that has failed least or whose ban ends first.
    fn make_room(&mut self, now: Time) {
        self.0.retain(|_, record| record.until > now);
        if self.0.len() < MOST {
            return;
        }
        let rank = |record: &Record| (record.banned, record.failures, record.until);
        let mut ranks: Vec<_> = self.0.values().map(rank).collect();
        let middle = ranks.len() / 2;
        let (_, median, _) = ranks.select_nth_unstable(middle);
        let median = *median;
        let mut spare = middle;
        self.0.retain(|_, record| {
            let goes = spare > 0 && rank(record) <= median;
            spare -= usize::from(goes);
            !goes
        });
    }
}

impl Record {
    fn new(source: IpAddr, now: Time, window: Duration) -> Record {
        Record {
            source,
            failures: 0,
            until: now + window,
            banned: false,
            user: "".into(),
        }
    }

    fn is_ban(&self, now: Time) -> bool {
        self.banned && self.until > now
    }
}

//! Answers that may have to be given again: server transactions, other than INVITE, that have their final response (state
//! Completed of RFC 3261 section 17.2.2, Timer J).
//!
//! A REGISTER storm makes very many of them, so an entry is small, costs no timer, and their number is limited: the oldest go first. A
//! copy of a request whose entry has gone is a new request.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use super::{
    Periods,
    key::{Key, KeyHasher},
};
use crate::sip::{flow::Flow, time::Time};

/// One final response and where it went.
#[derive(Clone, Debug)]
pub struct Answer {
    pub flow: Flow,
    pub response: Bytes,
    until: Time,
}

/// The table. All entries live equally long, so a queue says which ends next.
#[derive(Debug)]
pub struct Answered {
    entries: HashMap<Key, Answer, KeyHasher>,
    order: VecDeque<(Time, Key)>,
    most: usize,
}

impl Answered {
    /// For at most so many entries.
    pub fn new(most: usize) -> Answered {
        Answered {
            entries: HashMap::default(),
            order: VecDeque::new(),
            most,
        }
    }

    /// Remembers a final response to a request that came over an unreliable transport.
    pub fn insert(&mut self, key: Key, flow: Flow, response: Bytes, periods: &Periods, now: Time) {
        self.expire(now);
        while self.order.len() >= self.most.max(1) {
            self.drop_oldest();
        }
        let until = now + periods.give_up();
        let answer = Answer { flow, response, until };
        if self.entries.insert(key, answer).is_none() {
            self.order.push_back((until, key));
        }
    }

    /// What was answered to this request.
    pub fn get(&self, key: Key, now: Time) -> Option<&Answer> {
        self.entries.get(&key).filter(|answer| answer.until > now)
    }

    /// Entries at the moment, those that ended since the last [`Answered::insert`] included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Removes what has ended.
    pub fn expire(&mut self, now: Time) {
        while self.order.front().is_some_and(|(until, _)| *until <= now) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_front() {
            self.entries.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::{flow::ListenerId, message::Message, transaction::key::Keys};

    #[test]
    fn answers_last_32_seconds_and_the_oldest_go_first() {
        let keys = Keys::default();
        let flow = Flow::udp(ListenerId(0), "192.0.2.1:5060".parse().unwrap());
        let key = |number: u32| {
            let text = format!("OPTIONS sip:x SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK{number}\r\n\r\n");
            keys.of(&Message::parse(Bytes::from(text)).unwrap()).unwrap()
        };
        let mut table = Answered::new(3);
        let periods = Periods::default();
        for number in 0..4 {
            table.insert(
                key(number),
                flow,
                Bytes::from_static(b"x"),
                &periods,
                Time(u64::from(number)),
            );
        }
        assert!(table.get(key(0), Time(4)).is_none(), "no room");
        assert_eq!(table.len(), 3);
        assert!(table.get(key(1), Time(32_000)).is_some());
        assert!(table.get(key(1), Time(32_001)).is_none());
        table.expire(Time(32_003));
        assert!(table.is_empty());
    }
}

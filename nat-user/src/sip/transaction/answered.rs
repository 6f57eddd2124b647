//! Answers that may have to be given again: server transactions, other than INVITE, that have their final response (state
//! Completed of RFC 3261 section 17.2.2, Timer J).
//!
//! A REGISTER storm makes very many of them, so an entry is small, costs no timer and no allocation, and their number is limited: the oldest
//! go first. A copy of a request whose entry has gone is a new request.

use std::collections::VecDeque;

use bytes::Bytes;
use hashbrown::HashTable;

use super::{Periods, key::Key};
use crate::sip::{flow::Flow, time::Time};

/// Rings that have so many times the room that they need, and more than [`KEEP`] bytes, give half of it back.
const SPARE: usize = 4;
const KEEP: usize = 1 << 20;

/// One final response and where it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub flow: Flow,
    pub response: Bytes,
}

/// The table. All entries live equally long, so they end in the order in which they came: both the entries and the bytes of their responses
/// are rings, written at one end and given up at the other.
#[derive(Debug)]
pub struct Answered {
    entries: VecDeque<Entry>,
    texts: VecDeque<u8>,
    /// How many entries have gone: the number of the first in `entries`.
    gone: u64,
    /// How many bytes have gone: the place of the first in `texts`.
    cut: u64,
    /// Numbers of entries by key.
    numbers: HashTable<u64>,
    most: usize,
}

#[derive(Debug)]
struct Entry {
    key: Key,
    until: Time,
    flow: Flow,
    /// Where its response ends; it begins where that of the entry before ends.
    end: u64,
}

impl Answered {
    /// For at most so many entries.
    pub fn new(most: usize) -> Answered {
        Answered {
            entries: VecDeque::new(),
            texts: VecDeque::new(),
            gone: 0,
            cut: 0,
            numbers: HashTable::new(),
            most,
        }
    }

    /// Remembers a final response to a request that came over an unreliable transport.
    pub fn insert(&mut self, key: Key, flow: Flow, response: &[u8], periods: &Periods, now: Time) {
        self.expire(now);
        while self.entries.len() >= self.most.max(1) {
            self.drop_oldest();
        }
        let number = self.gone + self.entries.len() as u64;
        self.texts.extend(response);
        self.entries.push_back(Entry {
            key,
            until: now + periods.give_up(),
            flow,
            end: self.cut + self.texts.len() as u64,
        });
        let (entries, gone) = (&self.entries, self.gone);
        let key_of = |number: &u64| entries[(*number - gone) as usize].key;
        let place = self.numbers.entry(
            key.number(),
            |number| key_of(number) == key,
            |number| key_of(number).number(),
        );
        // One that has the key already counts no more.
        place.insert(number);
    }

    /// What was answered to this request.
    pub fn get(&self, key: Key, now: Time) -> Option<Answer> {
        let number = self
            .numbers
            .find(key.number(), |number| self.entry(*number).key == key)?;
        let entry = self.entry(*number);
        let start = match number.checked_sub(self.gone + 1) {
            Some(before) => self.entries[before as usize].end,
            None => self.cut,
        };
        let text = self
            .texts
            .range((start - self.cut) as usize..(entry.end - self.cut) as usize);
        (entry.until > now).then(|| Answer {
            flow: entry.flow,
            response: text.copied().collect(),
        })
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
        while self.entries.front().is_some_and(|entry| entry.until <= now) {
            self.drop_oldest();
        }
        if self.texts.capacity() > KEEP.max(SPARE * self.texts.len()) {
            self.texts.shrink_to(self.texts.capacity() / 2);
            self.entries.shrink_to(self.entries.capacity() / 2);
        }
    }

    fn entry(&self, number: u64) -> &Entry {
        &self.entries[(number - self.gone) as usize]
    }

    fn drop_oldest(&mut self) {
        let Some(oldest) = self.entries.front() else { return };
        let (number, end) = (self.gone, oldest.end);
        if let Ok(place) = self.numbers.find_entry(oldest.key.number(), |other| *other == number) {
            place.remove();
        }
        self.texts.drain(..(end - self.cut) as usize);
        self.cut = end;
        self.entries.pop_front();
        self.gone += 1;
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
                format!("answer {number}").as_bytes(),
                &periods,
                Time(u64::from(number)),
            );
        }
        assert!(table.get(key(0), Time(4)).is_none(), "no room");
        assert_eq!(table.len(), 3);
        for number in 1..4 {
            let answer = table.get(key(number), Time(32_000)).expect("it is not over");
            assert_eq!(
                (answer.flow, &answer.response[..]),
                (flow, format!("answer {number}").as_bytes())
            );
        }
        assert!(table.get(key(1), Time(32_001)).is_none());
        table.expire(Time(32_002));
        assert_eq!(
            table.get(key(3), Time(32_002)).map(|answer| answer.response),
            Some("answer 3".into())
        );
        table.insert(key(3), flow, b"another", &periods, Time(32_002));
        assert_eq!(
            table.get(key(3), Time(32_002)).map(|answer| answer.response),
            Some("another".into())
        );
        table.expire(Time(32_003));
        assert!(table.get(key(3), Time(32_003)).is_some(), "only the older one has gone");
        table.expire(Time(64_002));
        assert!(table.is_empty() && table.texts.is_empty() && table.numbers.is_empty());
    }
}

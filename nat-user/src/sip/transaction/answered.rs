//! Answers that may have to be given again: server transactions, other than INVITE, that have their final response (state
//! Completed of RFC 3261 section 17.2.2, Timer J).
//!
//! A REGISTER storm makes very many of them, so an entry is small, costs no timer and no allocation, and their number is limited: the oldest
//! go first. A copy of a request whose entry has gone is a new request.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{Periods, key::Key, sieve::Sieve};
use crate::sip::{flow::Flow, time::Time};

/// Rings that have so many times the room that they need, and more than [`KEEP`] bytes, give half of it back.
const SPARE: usize = 4;
const KEEP: usize = 1 << 20;
/// The table is full: the oldest of so many parts of it go at once, because one at a time each would be read from memory when nobody expects it.
const PART: usize = 64;

/// One final response and where it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub flow: Flow,
    pub response: Bytes,
}

/// The table. All entries live equally long, so they end in the order in which they came: both the entries and the bytes of their responses
/// are rings, written at one end and given up at the other. Entries are found by chains from the younger to the older one, which end where an entry
/// has gone: so nothing but its place in the ring has to be given up with an entry.
#[derive(Debug)]
pub struct Answered {
    entries: VecDeque<Entry>,
    texts: VecDeque<u8>,
    /// The number of the first in `entries`; the following ones count on.
    first: u32,
    /// How many bytes have gone: the place of the first in `texts`.
    cut: u64,
    /// The beginnings of the chains: the number of the youngest entry by the lowest bits of its key. A power of two, or none.
    chains: Box<[u32]>,
    /// Which keys are not worth looking for.
    sieve: Sieve,
    most: usize,
}

#[derive(Debug)]
struct Entry {
    key: Key,
    until: Time,
    flow: Flow,
    /// Where its response ends; it begins where that of the entry before ends.
    end: u64,
    /// The number of the next older one in its chain.
    older: u32,
}

impl Answered {
    /// For at most so many entries.
    pub fn new(most: usize) -> Answered {
        Answered {
            entries: VecDeque::new(),
            texts: VecDeque::new(),
            first: 1, // so that 0 is one that has gone
            cut: 0,
            chains: Box::default(),
            sieve: Sieve::default(),
            most: most.max(1),
        }
    }

    /// Remembers a final response to a request that came over an unreliable transport.
    pub fn insert(&mut self, key: Key, flow: Flow, response: &[u8], periods: &Periods, now: Time) {
        self.expire(now);
        if self.entries.len() >= self.most {
            self.drop_oldest((self.most / PART).max(1));
        }
        if self.entries.len() * 2 >= self.chains.len() {
            self.link_anew(self.entries.len() + 1);
        }
        self.sieve.insert(key);
        self.texts.extend(response);
        let number = self.first.wrapping_add(self.entries.len() as u32);
        // One that has the key already is behind this one, and counts no more.
        let older = std::mem::replace(self.chain(key), number);
        self.entries.push_back(Entry {
            key,
            until: now + periods.give_up(),
            flow,
            end: self.cut + self.texts.len() as u64,
            older,
        });
    }

    /// What was answered to this request.
    pub fn get(&self, key: Key, now: Time) -> Option<Answer> {
        if !self.sieve.may_have(key) {
            return None;
        }
        let mut place = self.entries.len();
        let mut number = *self.chains.get(slot(key, self.chains.len()))?;
        let entry = loop {
            // Numbers are used again after all others: what leads to no older entry is the number of one that has gone.
            let next = number.wrapping_sub(self.first) as usize;
            if next >= place {
                return None;
            }
            place = next;
            let entry = &self.entries[place];
            if entry.key == key {
                break entry;
            }
            number = entry.older;
        };
        let start = place.checked_sub(1).map_or(self.cut, |before| self.entries[before].end);
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
        let ended = self.entries.iter().take_while(|entry| entry.until <= now).count();
        if ended > 0 {
            self.drop_oldest(ended);
        }
        if self.texts.capacity() > KEEP.max(SPARE * self.texts.len()) {
            self.texts.shrink_to(self.texts.capacity() / 2);
            self.entries.shrink_to(self.entries.capacity() / 2);
            self.link_anew(self.entries.len());
        }
    }

    fn drop_oldest(&mut self, count: usize) {
        let Some(last) = count.checked_sub(1).and_then(|last| self.entries.get(last)) else {
            return;
        };
        let end = last.end;
        self.texts.drain(..(end - self.cut) as usize);
        self.cut = end;
        self.entries.drain(..count);
        self.first = self.first.wrapping_add(count as u32);
    }

    /// Makes chains and sieve anew, for this many entries and as many more.
    fn link_anew(&mut self, entries: usize) {
        self.chains = vec![self.first.wrapping_sub(1); (4 * entries.max(1)).next_power_of_two()].into();
        self.sieve = Sieve::new(self.chains.len() / 2);
        for place in 0..self.entries.len() {
            let number = self.first.wrapping_add(place as u32);
            let key = self.entries[place].key;
            self.entries[place].older = std::mem::replace(self.chain(key), number);
            self.sieve.insert(key);
        }
    }

    /// The beginning of the chain that a key belongs to; there must be chains.
    fn chain(&mut self, key: Key) -> &mut u32 {
        let slot = slot(key, self.chains.len());
        &mut self.chains[slot]
    }
}

/// Which of so many chains a key belongs to.
fn slot(key: Key, chains: usize) -> usize {
    key.number() as usize & chains.wrapping_sub(1)
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
        assert!(table.is_empty() && table.texts.is_empty());
    }

    #[test]
    fn each_is_found_as_long_as_it_is_there_however_many_come_and_go() {
        let flow = Flow::udp(ListenerId(0), "192.0.2.1:5060".parse().unwrap());
        let all: Vec<Key> = (0..5000).map(Key::of_test).collect();
        let mut table = Answered::new(1000);
        table.first = u32::MAX - 2000; // numbers begin anew on the way
        let periods = Periods::default();
        // Those of a second end together; in the fourth there is no room for all.
        for (number, key) in all.iter().enumerate() {
            let now = Time(number as u64 / 700 * 20_000);
            assert_eq!(table.get(*key, now), None);
            table.insert(*key, flow, &number.to_le_bytes(), &periods, now);
            assert!(table.len() <= 1000);
            let first = number + 1 - table.len();
            for (number, key) in all.iter().enumerate().take(number + 1).step_by(97) {
                let response = Bytes::copy_from_slice(&number.to_le_bytes());
                let expected = (number >= first).then_some(Answer { flow, response });
                assert_eq!(table.get(*key, now), expected, "{number}");
            }
        }
        table.expire(Time(u64::MAX));
        assert!(table.is_empty() && all.iter().all(|key| table.get(*key, Time(0)).is_none()));
    }
}

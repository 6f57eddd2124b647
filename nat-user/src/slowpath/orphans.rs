//! Fragments that came before the first one of their datagram (RFC 4787 REQ-14).
//!
//! They are kept for a short time and within a bound of memory, of which one source may fill a quarter; what does not fit
//! pushes out the oldest datagram. Nobody is told about a datagram whose first piece never came.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use nat_common::fragment::Datagram;

use super::frame::Held;

/// Time between looks at the table of datagrams.
pub const POLL: Duration = Duration::from_millis(5);

/// Datagrams looked up in one go; with more, each has its turn.
const LOOKS: usize = 1024;
/// Frames given back in one go, some milliseconds' work; more follow at once.
const RELEASE: usize = 128;
/// How often the pieces of one datagram are given back. Once is enough unless the table forgets it in between.
const ROUNDS: u32 = 8;

/// Says whether the data path knows what becomes of a datagram: its first piece has come.
///
/// The daemon implements it with `nat_common::fragment::find` over the shared tables; the programs' clock and the active
/// configuration are its business.
pub trait KnownDatagrams: Send + Sync {
    /// Whether fragments of `datagram` can be translated now.
    fn known(&self, datagram: &Datagram) -> bool;
}

/// The fragments that wait.
#[derive(Debug)]
pub struct Orphans {
    memory: usize,
    timeout: Duration,
    datagrams: HashMap<Datagram, Waiting>,
    /// All keys of `datagrams` once, oldest first, with the time of the first fragment.
    order: VecDeque<(Datagram, Instant)>,
    /// Bytes by source.
    sources: HashMap<u32, usize>,
    bytes: usize,
    /// Where the next round of look-ups begins in `order`.
    cursor: usize,
    next_look: Instant,
}

#[derive(Debug)]
struct Waiting {
    frames: Vec<Held>,
    bytes: usize,
    rounds: u32,
}

/// What [`Orphans::due`] found.
#[derive(Debug, Default)]
pub struct Due {
    /// Frames to give back, those of one datagram in the order they came in.
    pub release: Vec<Held>,
    /// How many were dropped because their time was over.
    pub expired: usize,
}

impl Orphans {
    /// With `memory` in bytes for all.
    pub fn new(memory: usize, timeout: Duration, now: Instant) -> Self {
        Self {
            memory,
            timeout,
            datagrams: HashMap::new(),
            order: VecDeque::new(),
            sources: HashMap::new(),
            bytes: 0,
            cursor: 0,
            next_look: now,
        }
    }

    /// Changes the bounds. Returns how many fragments were dropped because they no longer fit.
    pub fn configure(&mut self, memory: usize, timeout: Duration) -> usize {
        (self.memory, self.timeout) = (memory, timeout);
        self.make_room(0)
    }

    /// Keeps a fragment. Returns how many were dropped for it, itself perhaps among them.
    pub fn hold(&mut self, datagram: Datagram, frame: Held, now: Instant) -> usize {
        let cost = frame.cost();
        let mine = self.sources.get(&datagram.source).copied().unwrap_or(0);
        let rounds = self.datagrams.get(&datagram).map_or(0, |w| w.rounds);
        if mine + cost > self.memory / 4 || rounds >= ROUNDS {
            return 1;
        }
        let dropped = self.make_room(cost);
        if self.holds_nothing() {
            self.next_look = now + POLL;
        }
        let order = &mut self.order;
        let waiting = self.datagrams.entry(datagram).or_insert_with(|| {
            order.push_back((datagram, now));
            Waiting {
                frames: Vec::new(),
                bytes: 0,
                rounds: 0,
            }
        });
        waiting.frames.push(frame);
        waiting.bytes += cost;
        *self.sources.entry(datagram.source).or_default() += cost;
        self.bytes += cost;
        dropped
    }

    /// Drops what has waited too long and takes out what the data path knows by now.
    pub fn due(&mut self, table: &dyn KnownDatagrams, now: Instant) -> Due {
        let mut due = Due::default();
        while let Some((_, since)) = self.order.front()
            && now.saturating_duration_since(*since) >= self.timeout
        {
            due.expired += self.drop_oldest();
        }
        if now < self.next_look {
            return due;
        }
        self.next_look = now + POLL;
        let looks = self.order.len().min(LOOKS);
        for _ in 0..looks {
            self.cursor = if self.cursor + 1 < self.order.len() {
                self.cursor + 1
            } else {
                0
            };
            let (datagram, _) = self.order[self.cursor];
            let Some(waiting) = self.datagrams.get_mut(&datagram) else {
                continue;
            };
            if waiting.frames.is_empty() || !table.known(&datagram) {
                continue;
            }
            let some = waiting.frames.len().min(RELEASE - due.release.len());
            let before = waiting.bytes;
            for frame in waiting.frames.drain(..some) {
                waiting.bytes -= frame.cost();
                due.release.push(frame);
            }
            if waiting.frames.is_empty() {
                // The entry stays until its time is over, to count the rounds.
                waiting.rounds += 1;
            } else {
                // It is first when the rest is looked at.
                self.cursor = self.cursor.checked_sub(1).unwrap_or(self.order.len() - 1);
            }
            let bytes = before - waiting.bytes;
            self.forget_bytes(datagram.source, bytes);
            if due.release.len() == RELEASE {
                self.next_look = now;
                break;
            }
        }
        due
    }

    /// When [`Self::due`] has something to do next.
    pub fn wake(&self) -> Option<Instant> {
        let end = self.order.front().map(|(_, since)| *since + self.timeout)?;
        Some(if self.holds_nothing() {
            end
        } else {
            end.min(self.next_look)
        })
    }

    fn holds_nothing(&self) -> bool {
        self.bytes == 0
    }

    /// Drops the oldest datagrams until `cost` more bytes and one more datagram fit.
    fn make_room(&mut self, cost: usize) -> usize {
        let mut dropped = 0;
        // An entry without frames costs too, if less: as many as smallest frames would fit.
        while self.bytes + cost > self.memory || self.datagrams.len() * 128 > self.memory {
            if self.order.is_empty() {
                break;
            }
            dropped += self.drop_oldest();
        }
        dropped
    }

    /// Returns how many frames it had.
    fn drop_oldest(&mut self) -> usize {
        let Some((datagram, _)) = self.order.pop_front() else {
            return 0;
        };
        self.cursor = self.cursor.saturating_sub(1);
        let Some(waiting) = self.datagrams.remove(&datagram) else {
            return 0;
        };
        self.forget_bytes(datagram.source, waiting.bytes);
        waiting.frames.len()
    }

    fn forget_bytes(&mut self, source: u32, bytes: usize) {
        self.bytes -= bytes;
        if let Some(mine) = self.sources.get_mut(&source) {
            *mine -= bytes;
            if *mine == 0 {
                self.sources.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    impl KnownDatagrams for HashSet<Datagram> {
        fn known(&self, datagram: &Datagram) -> bool {
            self.contains(datagram)
        }
    }

    const TIMEOUT: Duration = Duration::from_secs(2);

    fn datagram(source: u32, id: u32) -> Datagram {
        Datagram {
            source,
            destination: 9,
            packed: id,
        }
    }

    fn orphans(memory: usize) -> (Orphans, Instant) {
        let now = Instant::now();
        (Orphans::new(memory, TIMEOUT, now), now)
    }

    fn frame(mark: u8, len: usize, now: Instant) -> Held {
        Held::new(1, vec![mark; len], now)
    }

    fn marks(due: &Due) -> Vec<u8> {
        due.release.iter().map(|f| f.bytes[0]).collect()
    }

    fn consistent(o: &Orphans) {
        let by_frames: usize = o.datagrams.values().flat_map(|w| &w.frames).map(Held::cost).sum();
        assert_eq!(o.bytes, by_frames);
        assert_eq!(o.bytes, o.sources.values().sum::<usize>());
        assert_eq!(o.order.len(), o.datagrams.len());
        assert!(o.bytes <= o.memory && o.cursor <= o.order.len());
    }

    #[test]
    fn pieces_wait_for_the_first_one_and_come_back_in_order() {
        let (mut o, now) = orphans(1 << 20);
        let (a, b) = (datagram(1, 1), datagram(1, 2));
        for (mark, d) in [(1, a), (2, b), (3, a)] {
            assert_eq!(o.hold(d, frame(mark, 100, now), now), 0);
        }
        let mut table = HashSet::new();
        assert!(o.due(&table, now + POLL).release.is_empty());
        table.insert(a);
        assert!(
            o.due(&table, now + POLL).release.is_empty(),
            "not looked at twice in five milliseconds"
        );
        assert_eq!(marks(&o.due(&table, now + POLL * 2)), [1, 3]);
        table.insert(b);
        assert_eq!(marks(&o.due(&table, now + POLL * 3)), [2]);
        assert_eq!(o.bytes, 0);
        consistent(&o);
    }

    #[test]
    fn what_waits_too_long_is_dropped() {
        let (mut o, now) = orphans(1 << 20);
        o.hold(datagram(1, 1), frame(1, 100, now), now);
        o.hold(datagram(1, 1), frame(1, 100, now), now + TIMEOUT / 2);
        let due = o.due(&HashSet::from([datagram(1, 1)]), now + TIMEOUT);
        assert_eq!((due.expired, due.release.len()), (2, 0));
        assert_eq!(o.wake(), None);
        consistent(&o);
    }

    #[test]
    fn one_source_has_a_quarter_of_the_memory_at_most() {
        let (mut o, now) = orphans(100_000);
        let refused: usize = (0..1000).map(|i| o.hold(datagram(1, i), frame(1, 872, now), now)).sum();
        assert_eq!(refused, 975);
        assert_eq!(o.hold(datagram(2, 1), frame(2, 872, now), now), 0);
        consistent(&o);
    }

    #[test]
    fn a_flood_from_everywhere_pushes_out_the_oldest_and_takes_no_more_memory() {
        let (mut o, now) = orphans(1 << 20);
        let mut dropped = 0;
        for i in 0..100_000u32 {
            let at = now + Duration::from_micros(u64::from(i));
            dropped += o.hold(datagram(i, i), frame(1, 60, at), at);
        }
        consistent(&o);
        assert_eq!(dropped + o.datagrams.len(), 100_000);
        assert!(o.datagrams.contains_key(&datagram(99_999, 99_999)));
        // Each has its turn.
        let table = HashSet::from([datagram(99_999, 99_999)]);
        let mut at = now + Duration::from_millis(200);
        let mut rounds = 0;
        while o.due(&table, at).release.is_empty() {
            at += POLL;
            rounds += 1;
            assert!(rounds <= (1 << 20) / 128 / LOOKS, "never looked up");
        }
    }

    #[test]
    fn many_pieces_come_back_in_order_and_a_few_at_a_time() {
        let (mut o, now) = orphans(1 << 20);
        for i in 0..=255 {
            o.hold(datagram(1, 1), frame(i, 60, now), now);
            o.hold(datagram(2, 2), frame(i, 60, now), now);
        }
        let table = HashSet::from([datagram(1, 1), datagram(2, 2)]);
        let mut frames = Vec::new();
        let mut rounds = 0;
        while !o.holds_nothing() {
            let due = o.due(&table, now + POLL);
            assert!((1..=RELEASE).contains(&due.release.len()));
            frames.extend(due.release);
            rounds += 1;
        }
        assert_eq!((frames.len(), rounds), (512, 4));
        let marks: Vec<u8> = frames.iter().map(|f| f.bytes[0]).collect();
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!([&marks[..256], &marks[256..]], [&all[..], &all[..]]);
        consistent(&o);
    }

    #[test]
    fn a_piece_that_keeps_coming_back_is_dropped_in_the_end() {
        let (mut o, now) = orphans(1 << 20);
        let table = HashSet::from([datagram(1, 1)]);
        let mut at = now;
        let mut rounds = 0;
        while o.hold(datagram(1, 1), frame(1, 100, at), at) == 0 {
            at += POLL;
            assert_eq!(o.due(&table, at).release.len(), 1);
            rounds += 1;
        }
        assert_eq!(rounds, ROUNDS);
        consistent(&o);
        assert_eq!(o.wake(), Some(now + TIMEOUT), "the memory of it ends too");
    }

    #[test]
    fn a_smaller_memory_takes_effect_at_once() {
        let (mut o, now) = orphans(1 << 20);
        for i in 0..100 {
            o.hold(datagram(i, i), frame(1, 872, now), now);
        }
        assert_eq!(o.configure(10_000, TIMEOUT), 90);
        consistent(&o);
    }
}

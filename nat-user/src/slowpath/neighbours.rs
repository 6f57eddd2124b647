//! Frames that wait for the MAC address of a next hop.
//!
//! A next hop that did not answer within [`PATIENCE`] is given up and the senders are told (RFC 1812 §3.3.2 asks to hold a
//! packet or more while the address is being found out; §5.2.7.1 for the error).

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::frame::Held;

/// How long a next hop may take to answer.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// Time between looks at the kernel's table, should an event have been missed, and between attempts to give frames back
/// that the kernel program did not take yet.
pub const POLL: Duration = Duration::from_millis(20);

/// Frames for one next hop; the oldest goes first.
const PER_NEXT_HOP: usize = 16;
/// Next hops at a time.
const NEXT_HOPS: usize = 256;
/// Bytes of all frames.
const BYTES: usize = 1 << 20;

/// Interface and address (host order) of a next hop.
pub type NextHop = (u32, u32);

/// The waiting frames.
#[derive(Debug, Default)]
pub struct Neighbours {
    waiting: HashMap<NextHop, Waiting>,
    bytes: usize,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    frames: VecDeque<Held>,
    /// The address is known; frames that still come here are given back every [`POLL`].
    known: bool,
    next_try: Instant,
}

/// What [`Neighbours::hold`] did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// The next hop is new here: have it resolved.
    pub resolve: bool,
    /// Frames dropped for want of room, this one perhaps among them.
    pub dropped: usize,
}

/// What [`Neighbours::due`] found.
#[derive(Debug, Default)]
pub struct Due {
    /// Frames to give back.
    pub release: Vec<Held>,
    /// Frames whose next hop did not answer.
    pub expired: Vec<Held>,
    /// Whether to look at the kernel's table of neighbours.
    pub poll: bool,
}

impl Neighbours {
    /// Keeps a frame.
    pub fn hold(&mut self, hop: NextHop, frame: Held, now: Instant) -> Taken {
        let mut taken = Taken::default();
        if !self.waiting.contains_key(&hop) && self.waiting.len() >= NEXT_HOPS {
            taken.dropped = 1;
            return taken;
        }
        let size = frame.cost();
        let waiting = self.waiting.entry(hop).or_insert_with(|| {
            taken.resolve = true;
            Waiting {
                since: now,
                frames: VecDeque::new(),
                known: false,
                next_try: now + POLL,
            }
        });
        if waiting.frames.is_empty() {
            waiting.next_try = now + POLL;
        }
        if waiting.frames.len() >= PER_NEXT_HOP
            && let Some(oldest) = waiting.frames.pop_front()
        {
            self.bytes -= oldest.cost();
            taken.dropped += 1;
        }
        waiting.frames.push_back(frame);
        self.bytes += size;
        while self.bytes > BYTES {
            self.drop_oldest();
            taken.dropped += 1;
        }
        taken
    }

    /// The kernel knows the address now: the frames that waited for it.
    pub fn known(&mut self, hop: NextHop, now: Instant) -> Vec<Held> {
        let Some(waiting) = self.waiting.get_mut(&hop) else {
            return Vec::new();
        };
        waiting.known = true;
        waiting.next_try = now + POLL;
        let frames: Vec<_> = waiting.frames.drain(..).collect();
        self.bytes -= frames.iter().map(Held::cost).sum::<usize>();
        frames
    }

    /// What is to be done by now.
    pub fn due(&mut self, now: Instant) -> Due {
        let mut due = Due::default();
        let bytes = &mut self.bytes;
        self.waiting.retain(|_, waiting| {
            if now >= waiting.since + PATIENCE {
                *bytes -= waiting.frames.iter().map(Held::cost).sum::<usize>();
                due.expired.extend(waiting.frames.drain(..));
                return false;
            }
            if now >= waiting.next_try {
                waiting.next_try = now + POLL;
                if waiting.known {
                    *bytes -= waiting.frames.iter().map(Held::cost).sum::<usize>();
                    due.release.extend(waiting.frames.drain(..));
                } else {
                    due.poll = true;
                }
            }
            true
        });
        due
    }

    /// When [`Self::due`] has something to do next.
    pub fn wake(&self) -> Option<Instant> {
        let when = |w: &Waiting| {
            let end = w.since + PATIENCE;
            let idle = w.known && w.frames.is_empty();
            if idle { end } else { end.min(w.next_try) }
        };
        self.waiting.values().map(when).min()
    }

    /// The next hops that are not known yet.
    pub fn unknown(&self) -> Vec<NextHop> {
        let unknown = self.waiting.iter().filter(|(_, w)| !w.known);
        unknown.map(|(hop, _)| *hop).collect()
    }

    /// Drops the frame that has waited longest.
    fn drop_oldest(&mut self) {
        let first = |w: &Waiting| w.frames.front().map(|f| f.since);
        let oldest = self.waiting.values_mut().filter(|w| !w.frames.is_empty());
        if let Some(frame) = oldest.min_by_key(|w| first(w)).and_then(|w| w.frames.pop_front()) {
            self.bytes -= frame.cost();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOP: NextHop = (3, 0x0a00_0001);

    fn frame(len: usize, now: Instant) -> Held {
        Held::new(1, vec![len as u8; len], now)
    }

    #[test]
    fn the_first_frame_asks_and_the_answer_releases_all_in_order() {
        let now = Instant::now();
        let mut n = Neighbours::default();
        assert_eq!(
            n.hold(HOP, frame(60, now), now),
            Taken {
                resolve: true,
                dropped: 0
            }
        );
        assert_eq!(n.hold(HOP, frame(61, now), now), Taken::default());
        assert_eq!(n.unknown(), [HOP]);
        let lengths: Vec<_> = n.known(HOP, now).iter().map(|f| f.bytes.len()).collect();
        assert_eq!(lengths, [60, 61]);
        assert_eq!(n.bytes, 0);
        assert!(n.known((3, 1), now).is_empty());
    }

    #[test]
    fn the_seventeenth_frame_pushes_the_first_out() {
        let now = Instant::now();
        let mut n = Neighbours::default();
        let dropped: usize = (0..20).map(|i| n.hold(HOP, frame(60 + i, now), now).dropped).sum();
        assert_eq!(dropped, 4);
        let lengths: Vec<_> = n.known(HOP, now).iter().map(|f| f.bytes.len()).collect();
        assert_eq!(lengths, (64..80).collect::<Vec<_>>());
    }

    #[test]
    fn next_hops_and_bytes_are_bounded() {
        let now = Instant::now();
        let mut n = Neighbours::default();
        let dropped: usize = (0..1000).map(|i| n.hold((1, i), frame(60, now), now).dropped).sum();
        assert_eq!((n.waiting.len(), dropped), (NEXT_HOPS, 1000 - NEXT_HOPS));
        let mut n = Neighbours::default();
        let mut dropped = 0;
        for i in 0..4000u32 {
            let at = now + Duration::from_micros(u64::from(i));
            dropped += n.hold((1, i % 256), frame(1500, at), at).dropped;
            assert!(n.bytes <= BYTES);
        }
        let held: usize = n.waiting.values().map(|w| w.frames.len()).sum();
        assert_eq!(held + dropped, 4000);
        assert_eq!(
            n.bytes,
            n.waiting
                .values()
                .flat_map(|w| &w.frames)
                .map(Held::cost)
                .sum::<usize>()
        );
        // The youngest are those that stay.
        let oldest = n
            .waiting
            .values()
            .flat_map(|w| &w.frames)
            .map(|f| f.since)
            .min()
            .unwrap();
        assert_eq!(oldest, now + Duration::from_micros(4000 - held as u64));
    }

    #[test]
    fn no_answer_within_a_second_gives_the_frames_back_as_expired() {
        let now = Instant::now();
        let mut n = Neighbours::default();
        n.hold(HOP, frame(60, now), now);
        assert_eq!(n.wake(), Some(now + POLL));
        let due = n.due(now + POLL);
        assert!(due.poll && due.release.is_empty() && due.expired.is_empty());
        let due = n.due(now + PATIENCE);
        assert_eq!(due.expired.len(), 1);
        assert!(!due.poll);
        assert_eq!((n.wake(), n.bytes), (None, 0));
        assert!(n.hold(HOP, frame(60, now), now).resolve, "the next packet asks anew");
    }

    #[test]
    fn frames_that_come_back_after_the_answer_are_tried_again_but_not_for_ever() {
        let now = Instant::now();
        let mut n = Neighbours::default();
        n.hold(HOP, frame(60, now), now);
        let mut frames = n.known(HOP, now);
        let mut tries = 0;
        let mut at = now;
        loop {
            if let Some(frame) = frames.pop() {
                assert!(!n.hold(HOP, frame, at).resolve);
            }
            at = n.wake().unwrap();
            let due = n.due(at);
            if !due.expired.is_empty() {
                break;
            }
            assert!(!due.poll);
            frames = due.release;
            tries += 1;
        }
        assert_eq!(at, now + PATIENCE);
        assert!((40..=50).contains(&tries), "{tries}");
    }
}

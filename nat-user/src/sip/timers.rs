//! Deadlines of the SIP core: what is due next, and when to look again.
//!
//! [`Timers`] is a hierarchical wheel: arming and firing cost the same with ten entries and with a million. Entries cannot be cancelled,
//! because they need not be: the owner keeps the deadline in its record, by an [`Alarm`], and what fires for a record
//! that is gone or whose deadline has been pushed back is ignored or armed anew. Pushing a deadline back, which is what refreshes
//! and keep-alives do all the time, therefore touches no timer at all.

use std::collections::VecDeque;

use super::time::Time;

/// Bits of a moment that one level of the wheel tells apart.
const BITS: u32 = 6;
const SLOTS: usize = 1 << BITS;
/// So many levels that every [`Time`] has a place.
const LEVELS: usize = u64::BITS.div_ceil(BITS) as usize;
/// A slot that held more entries than this gives its memory back once it is empty.
const KEEP: usize = 256;

/// Keys and the moments when they are due, to the millisecond.
#[derive(Debug)]
pub struct Timers<K> {
    /// Up to here everything has fired or is in `due`.
    position: Time,
    /// What is due at `position` or before, oldest first.
    due: VecDeque<K>,
    /// An entry is in the level of the highest digit (of [`BITS`] bits) in which its moment differs from `position`, in the slot of that digit.
    levels: Vec<Level<K>>,
    len: usize,
}

#[derive(Debug)]
struct Level<K> {
    /// One bit for each slot that has entries.
    occupied: u64,
    slots: Vec<Vec<(Time, K)>>,
}

impl<K: Copy> Default for Timers<K> {
    fn default() -> Self {
        Timers {
            position: Time(0),
            due: VecDeque::new(),
            levels: (0..LEVELS).map(|_| Level::default()).collect(),
            len: 0,
        }
    }
}

impl<K> Default for Level<K> {
    fn default() -> Self {
        Level {
            occupied: 0,
            slots: Vec::new(),
        }
    }
}

impl<K: Copy> Timers<K> {
    pub fn new() -> Self {
        Timers::default()
    }

    /// Makes `key` due at `at`; at once if that has passed, never if it is [`Time::MAX`]. The same key may be armed several times.
    pub fn arm(&mut self, at: Time, key: K) {
        if at != Time::MAX {
            self.len += 1;
            self.place(at, key);
        }
    }

    /// When to call [`Timers::pop`] again: never later than the first entry is due, now and then earlier (then `pop` has nothing, and this
    /// says a later moment). `None`: nothing is armed.
    pub fn next(&self) -> Option<Time> {
        if !self.due.is_empty() {
            return Some(self.position);
        }
        self.first().map(|(_, _, at)| at)
    }

    /// The next key that is due at `now`, in the order of the moments.
    pub fn pop(&mut self, now: Time) -> Option<K> {
        loop {
            if let Some(key) = self.due.pop_front() {
                self.len -= 1;
                return Some(key);
            }
            match self.first() {
                Some((level, slot, at)) if at <= now => {
                    self.position = at;
                    self.spill(level, slot);
                }
                // Between here and the first occupied slot is nothing, so that every entry keeps its place.
                _ => {
                    self.position = self.position.max(now);
                    return None;
                }
            }
        }
    }

    /// Entries, outdated ones included.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn place(&mut self, at: Time, key: K) {
        if at <= self.position {
            self.due.push_back(key);
            return;
        }
        let level = (at.0 ^ self.position.0).ilog2() / BITS;
        let slot = (at.0 >> (level * BITS)) as usize % SLOTS;
        let level = &mut self.levels[level as usize];
        if level.slots.is_empty() {
            level.slots.resize_with(SLOTS, Vec::new);
        }
        level.slots[slot].push((at, key));
        level.occupied |= 1 << slot;
    }

    /// The occupied slot that comes first, and where its span of time begins. Whatever is in a lower level differs from the position in a
    /// lower digit, so it is before all that is in higher ones.
    fn first(&self) -> Option<(usize, usize, Time)> {
        let (number, level) = self.levels.iter().enumerate().find(|(_, level)| level.occupied != 0)?;
        let slot = level.occupied.trailing_zeros() as usize;
        let shift = number as u32 * BITS;
        let above = self.position.0.checked_shr(shift + BITS).unwrap_or(0);
        let begin = above.checked_shl(shift + BITS).unwrap_or(0) | (slot as u64) << shift;
        Some((number, slot, Time(begin)))
    }

    /// Spreads the entries of a slot, whose span begins at the position, over the levels below.
    fn spill(&mut self, level: usize, slot: usize) {
        self.levels[level].occupied &= !(1 << slot);
        let mut entries = std::mem::take(&mut self.levels[level].slots[slot]);
        for (at, key) in entries.drain(..) {
            self.place(at, key);
        }
        if entries.capacity() <= KEEP {
            self.levels[level].slots[slot] = entries;
        }
        if self.due.is_empty() && self.due.capacity() > 16 * KEEP {
            self.due.shrink_to(KEEP);
        }
    }
}

/// The deadline of one record, kept beside what it is for: arms a [`Timers`] entry only when it must.
///
/// ```
/// use nat_user::sip::{time::Time, timers::{Alarm, Timers}};
/// let mut timers = Timers::new();
/// let mut alarm = Alarm::default();
/// alarm.set(Time(1000), &mut timers, 'k');
/// alarm.set(Time(3000), &mut timers, 'k'); // pushed back: no second entry
/// assert_eq!((timers.len(), timers.pop(Time(1000))), (1, Some('k')));
/// assert!(!alarm.fires(Time(1000), &mut timers, 'k')); // too early: armed for 3000 now
/// assert_eq!(timers.pop(Time(3000)), Some('k'));
/// assert!(alarm.fires(Time(3000), &mut timers, 'k'));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Alarm {
    deadline: Time,
    /// When the entry that counts fires; [`Time::MAX`] if there is none.
    armed: Time,
}

impl Default for Alarm {
    fn default() -> Self {
        Alarm {
            deadline: Time::MAX,
            armed: Time::MAX,
        }
    }
}

impl Alarm {
    /// Moves the deadline to `at`; [`Time::MAX`] for none. Only a deadline that is pulled forward needs a new entry.
    pub fn set<K: Copy>(&mut self, at: Time, timers: &mut Timers<K>, key: K) {
        self.deadline = at;
        if at < self.armed {
            self.armed = at;
            timers.arm(at, key);
        }
    }

    /// To be asked when an entry of this record has fired: whether the deadline is reached. It is none afterwards. If it is not
    /// reached, the alarm is armed for it.
    pub fn fires<K: Copy>(&mut self, now: Time, timers: &mut Timers<K>, key: K) -> bool {
        if now < self.armed {
            return false; // left behind by a deadline that was pulled forward; the entry that counts comes later
        }
        self.armed = Time::MAX;
        if self.deadline <= now {
            self.deadline = Time::MAX;
            return true;
        }
        self.set(self.deadline, timers, key);
        false
    }

    /// [`Time::MAX`] if there is none.
    pub fn deadline(&self) -> Time {
        self.deadline
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 2026: levels up to the seventh are in use.
    const NOW: u64 = 1_790_000_000_000;

    fn drain(timers: &mut Timers<u32>, now: Time) -> Vec<u32> {
        std::iter::from_fn(|| timers.pop(now)).collect()
    }

    #[test]
    fn fires_in_order_and_never_early() {
        let mut timers = Timers::new();
        assert_eq!(timers.next(), None);
        for (key, at) in [(1, NOW + 15_000), (2, NOW + 1), (3, NOW + 15_001), (4, NOW + 7_200_000)] {
            timers.arm(Time(at), key);
        }
        assert!(drain(&mut timers, Time(NOW)).is_empty());
        assert_eq!(timers.next(), Some(Time(NOW + 1)));
        assert_eq!(drain(&mut timers, Time(NOW + 14_999)), [2]);
        assert_eq!(drain(&mut timers, Time(NOW + 15_000)), [1]);
        assert_eq!(drain(&mut timers, Time(NOW + 86_400_000)), [3, 4]);
        assert!(timers.is_empty());
    }

    #[test]
    fn the_past_is_due_at_once_and_never_is_not_armed() {
        let mut timers = Timers::new();
        assert_eq!(timers.pop(Time(NOW)), None);
        timers.arm(Time::MAX, 1);
        timers.arm(Time(5), 2);
        timers.arm(Time(NOW), 3);
        assert_eq!(timers.next(), Some(Time(NOW)));
        assert_eq!(drain(&mut timers, Time(NOW)), [2, 3]);
        assert_eq!((timers.next(), timers.len()), (None, 0));
        timers.arm(Time(u64::MAX - 1), 4);
        assert_eq!(drain(&mut timers, Time::MAX), [4]);
    }

    #[test]
    fn an_alarm_that_is_pushed_back_costs_no_entry() {
        let mut timers = Timers::new();
        let mut alarm = Alarm::default();
        for step in 0..1000 {
            alarm.set(Time(NOW + step * 1000 + 30_000), &mut timers, 7);
            for key in drain(&mut timers, Time(NOW + step * 1000)) {
                assert!(!alarm.fires(Time(NOW + step * 1000), &mut timers, key));
            }
            assert_eq!(timers.len(), 1);
        }
        let end = Time(NOW + 999_000 + 30_000);
        assert_eq!(timers.pop(end), Some(7));
        assert!(alarm.fires(end, &mut timers, 7));
        assert_eq!(alarm.deadline(), Time::MAX);
    }

    #[test]
    fn an_alarm_that_is_pulled_forward_fires_once() {
        let mut timers = Timers::new();
        let mut alarm = Alarm::default();
        alarm.set(Time(NOW + 100), &mut timers, 1);
        alarm.set(Time(NOW + 50), &mut timers, 1);
        assert_eq!(timers.pop(Time(NOW + 50)), Some(1));
        assert!(alarm.fires(Time(NOW + 50), &mut timers, 1));
        alarm.set(Time(NOW + 200), &mut timers, 1);
        assert_eq!(timers.pop(Time(NOW + 100)), Some(1));
        assert!(
            !alarm.fires(Time(NOW + 100), &mut timers, 1),
            "the first entry is left over"
        );
        assert_eq!(timers.pop(Time(NOW + 200)), Some(1));
        assert!(alarm.fires(Time(NOW + 200), &mut timers, 1));
        assert!(timers.is_empty());
    }

    proptest! {
        /// Against a sorted list: the same keys come at the same steps, whatever the distances.
        #[test]
        fn like_a_sorted_list(steps in prop::collection::vec((0u32..30, prop::collection::vec(0u32..45, 0..4)), 1..80)) {
            let (mut timers, mut model) = (Timers::new(), Vec::new());
            let (mut now, mut key) = (NOW, 0);
            for (advance, arms) in steps {
                for exponent in arms {
                    let at = now + (1u64 << exponent) - 1;
                    timers.arm(Time(at), key);
                    model.push((at, key));
                    key += 1;
                }
                now += (1u64 << advance) / 3;
                let next = timers.next().map(|time| time.0);
                let first = model.iter().map(|entry| entry.0).min();
                prop_assert!(next.is_some() == first.is_some() && next <= first);
                let fired = drain(&mut timers, Time(now));
                let mut expected: Vec<_> = model.extract_if(.., |entry| entry.0 <= now).collect();
                expected.sort();
                let moments: Vec<_> = fired.iter().map(|key| expected.iter().find(|entry| entry.1 == *key).map(|entry| entry.0)).collect();
                prop_assert!(moments.is_sorted() && moments.iter().all(Option::is_some));
                prop_assert_eq!(fired.len(), expected.len());
                prop_assert_eq!(timers.len(), model.len());
                prop_assert!(timers.next().is_none_or(|next| next.0 > now));
            }
        }
    }
}

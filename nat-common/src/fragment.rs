//! Fragments: what the first one of a datagram said holds for all (RFC 4787 REQ-14). What has been seen of each datagram is
//! remembered as ranges, so that an overlapping piece is recognised and dropped, in whatever order they come.

use crate::config::Config;
use crate::counters::Reason;
use crate::flow::Side;
use crate::hash::{less, lowest, mix, same, second};
use crate::maps::{FRAGMENT_BUCKET, FRAGMENT_RANGES, Fragment};
use crate::parse::{Headers, MF, OFFSET};
use crate::tables::Tables;

const USED: u64 = 1 << 32;
const LOCK: u64 = 1 << 33;
const LOCK_TRIES: u32 = 32;

/// What happens to the pieces of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fate {
    /// Source after translation.
    pub source: u32,
    /// Destination after translation.
    pub destination: u32,
    /// Identification after translation.
    pub id: u16,
    /// `FATE_*`.
    pub kind: u8,
}

/// Translated and sent on.
pub const FATE_FORWARD: u8 = 0;
/// Dropped.
pub const FATE_DROP: u8 = 1;
/// The router's own.
pub const FATE_PASS: u8 = 2;

/// What identifies a datagram (RFC 791 §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Datagram {
    /// Source as it came in.
    pub source: u32,
    /// Destination as it came in.
    pub destination: u32,
    /// Identification, protocol and side, packed as in [`Fragment::datagram`].
    pub packed: u32,
}

impl Datagram {
    /// Of a piece that came in on `side`.
    #[inline(always)]
    pub fn of(h: &Headers, side: Side) -> Self {
        Self {
            source: h.source.addr,
            destination: h.destination.addr,
            packed: u32::from(h.id) | u32::from(h.proto) << 16 | (side as u32) << 24,
        }
    }

    /// The two buckets it may be in.
    #[inline(always)]
    pub fn buckets(&self, cfg: &Config) -> [u32; 2] {
        let h = mix(
            u64::from(self.source) << 32 | u64::from(self.destination),
            cfg.secret ^ u64::from(self.packed),
        );
        [h as u32 & cfg.fragment_mask, second(h, cfg.fragment_mask)]
    }

    /// Whether `entry` is this datagram's and still believed.
    #[inline(always)]
    pub fn is(&self, cfg: &Config, entry: &Fragment, now: u32) -> bool {
        let word = entry.word.get();
        word & USED != 0
            && entry.source.get() == self.source
            && entry.destination.get() == self.destination
            && entry.datagram.get() == self.packed
            && !expired(cfg, word, now)
    }
}

/// Whether an entry's time is over.
#[inline(always)]
pub fn expired(cfg: &Config, word: u64, now: u32) -> bool {
    let age = now.wrapping_sub(word as u32) as i32;
    age >= 0 && age as u32 >= cfg.fragment
}

/// The number of the entry of a datagram.
#[inline(always)]
pub fn find<T: Tables>(t: &T, cfg: &Config, datagram: &Datagram, now: u32) -> Option<u32> {
    let buckets = datagram.buckets(cfg);
    let mut i = 0;
    while i < 2 * FRAGMENT_BUCKET {
        let index = place(buckets, i);
        i += 1;
        if datagram.is(cfg, t.fragment(index)?, now) {
            return Some(index);
        }
    }
    None
}

/// The number of the `i`th entry that a datagram with these buckets may have.
#[inline(always)]
fn place(buckets: [u32; 2], i: u32) -> u32 {
    let bucket = if i < FRAGMENT_BUCKET { buckets[0] } else { buckets[1] };
    bucket * FRAGMENT_BUCKET + i % FRAGMENT_BUCKET
}

/// Remembers what the first piece said, and that it has been seen.
#[inline(always)]
pub fn learn<T: Tables>(t: &T, cfg: &Config, h: &Headers, which: &(Datagram, Fate), now: u32) -> Result<(), Reason> {
    let (datagram, fate) = which;
    let piece = Piece::of(h)?;
    if let Some(index) = find(t, cfg, datagram, now) {
        // The first piece once more.
        return mark(t.fragment(index).ok_or(Reason::FragmentsFull)?, &piece, now);
    }
    let index = claim(t, cfg, datagram, now).ok_or(Reason::FragmentsFull)?;
    let entry = t.fragment(index).ok_or(Reason::FragmentsFull)?;
    entry.source.set(datagram.source);
    entry.destination.set(datagram.destination);
    entry.datagram.set(datagram.packed);
    entry.new_source.set(fate.source);
    entry.new_destination.set(fate.destination);
    entry.new_id.set(u32::from(fate.id) | u32::from(fate.kind) << 16);
    entry.end.set(0);
    let mut i = 0;
    while i < FRAGMENT_RANGES as u32 {
        put(entry, i, UNUSED);
        i += 1;
    }
    entry.word.set(USED | u64::from(now));
    mark(entry, &piece, now)
}

/// Takes an entry that is free or whose time is over; it is locked.
#[inline(always)]
fn claim<T: Tables>(t: &T, cfg: &Config, datagram: &Datagram, now: u32) -> Option<u32> {
    let buckets = datagram.buckets(cfg);
    let mut i = 0;
    while i < 2 * FRAGMENT_BUCKET {
        let index = place(buckets, i);
        i += 1;
        let entry = t.fragment(index)?;
        let word = entry.word.get();
        if (word & USED == 0 || expired(cfg, word, now)) && entry.word.replace(word, LOCK | u64::from(now)) {
            return Some(index);
        }
    }
    None
}

/// What the first piece of the datagram with this entry said.
#[inline(always)]
pub fn fate<T: Tables>(t: &T, index: u32) -> Option<Fate> {
    Some(fate_of(t.fragment(index)?))
}

/// Whether a piece has a sound length and place (RFC 791 §3.2).
#[inline(always)]
pub fn sound(h: &Headers) -> Result<(), Reason> {
    Piece::of(h).map(|_| ())
}

/// Remembers that a piece has been seen.
#[inline(always)]
pub fn seen<T: Tables>(t: &T, h: &Headers, index: u32, now: u32) -> Result<(), Reason> {
    let piece = Piece::of(h)?;
    mark(t.fragment(index).ok_or(Reason::FragmentOrphan)?, &piece, now)
}

#[inline(always)]
fn fate_of(entry: &Fragment) -> Fate {
    let id = entry.new_id.get();
    Fate {
        source: entry.new_source.get(),
        destination: entry.new_destination.get(),
        id: id as u16,
        kind: (id >> 16) as u8,
    }
}

/// A piece in units of eight bytes.
#[derive(Clone, Copy)]
struct Piece {
    start: u32,
    end: u32,
    last: bool,
}

impl Piece {
    #[inline(always)]
    fn of(h: &Headers) -> Result<Self, Reason> {
        let len = h.payload_len() as u32;
        let start = u32::from(h.fragment & OFFSET);
        let last = h.fragment & MF == 0;
        if len == 0 || (!last && len & 7 != 0) || start * 8 + len > 65515 {
            return Err(Reason::BadHeader);
        }
        Ok(Self {
            start,
            end: start + len.div_ceil(8),
            last,
        })
    }
}

/// Marks a piece as seen under the entry's lock.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn mark(entry: &Fragment, piece: &Piece, now: u32) -> Result<(), Reason> {
    if !lock(entry) {
        return Err(Reason::Contended);
    }
    let result = mark_locked(entry, piece);
    // A datagram that is complete needs its entry no longer.
    entry.word.set(if let Ok(true) = result {
        0
    } else {
        USED | u64::from(now)
    });
    result.map(|_| ())
}

/// Takes the entry's lock. Whoever has it is another CPU in the middle of [`mark_locked`].
#[inline(always)]
fn lock(entry: &Fragment) -> bool {
    let mut tries = 0;
    while tries < LOCK_TRIES {
        tries += 1;
        let word = entry.word.get();
        if word & LOCK == 0 && entry.word.replace(word, word | LOCK) {
            return true;
        }
    }
    false
}

/// A range that is not in use: it meets nothing.
const UNUSED: u32 = 0xffff_ffff;

/// True when the datagram is complete.
#[inline(always)]
fn mark_locked(entry: &Fragment, piece: &Piece) -> Result<bool, Reason> {
    let known_end = entry.end.get();
    if known_end != 0 && (piece.last || piece.end > known_end) {
        return Err(Reason::FragmentOverlap);
    }
    let farthest = if piece.last { piece.end } else { UNUSED >> 1 };
    let (mut left, mut right, mut free, mut bad) = (0u32, 0u32, 0u32, 0u32);
    let mut i = 0;
    while i < FRAGMENT_RANGES as u32 {
        let range = get(entry, i);
        let (a, b) = (range & 0xffff, range >> 16);
        // The highest bit is set in UNUSED only.
        let unused = range >> 31;
        bad |= less(piece.start, b) & less(a, piece.end) | (unused ^ 1) & less(farthest, b);
        left |= same(b, piece.start) << i;
        right |= same(a, piece.end) << i;
        free |= unused << i;
        i += 1;
    }
    if bad != 0 {
        return Err(Reason::FragmentOverlap);
    }
    let (mut start, mut end) = (piece.start, piece.end);
    let mut place = free;
    if right != 0 {
        end = get(entry, lowest(u64::from(right))) >> 16;
        place = right;
    }
    if left != 0 {
        start = get(entry, lowest(u64::from(left))) & 0xffff;
        if right != 0 {
            put(entry, lowest(u64::from(right)), UNUSED);
        }
        place = left;
    }
    if place == 0 {
        return Err(Reason::FragmentScattered);
    }
    put(entry, lowest(u64::from(place)), start | end << 16);
    if piece.last {
        entry.end.set(piece.end);
    }
    Ok(start == 0 && end == entry.end.get())
}

#[inline(always)]
fn put(entry: &Fragment, at: u32, value: u32) {
    entry.ranges[at as usize & (FRAGMENT_RANGES - 1)].set(value);
}

#[inline(always)]
fn get(entry: &Fragment, at: u32) -> u32 {
    entry.ranges[at as usize & (FRAGMENT_RANGES - 1)].get()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn piece(start: u32, end: u32, last: bool) -> Piece {
        Piece { start, end, last }
    }

    fn fresh() -> Fragment {
        {
            let entry = Fragment {
                word: crate::raw::Word64::new(USED),
                ..Fragment::default()
            };
            (0..FRAGMENT_RANGES as u32).for_each(|i| put(&entry, i, UNUSED));
            entry
        }
    }

    proptest! {
        /// Pieces in any order complete the datagram exactly once, and a piece seen before is refused.
        #[test]
        fn any_order_completes(cuts in proptest::collection::btree_set(1u32..200, 0..10), seed: u64) {
            let mut edges: Vec<u32> = std::iter::once(0).chain(cuts).collect();
            edges.push(200);
            let mut pieces: Vec<Piece> =
                edges.windows(2).map(|w| piece(w[0], w[1], w[1] == 200)).collect();
            let mut seed = seed;
            for i in (1..pieces.len()).rev() {
                seed = mix(seed, 7);
                pieces.swap(i, seed as usize % (i + 1));
            }
            let entry = fresh();
            for (n, p) in pieces.iter().enumerate() {
                let done = mark_locked(&entry, p).unwrap();
                prop_assert_eq!(done, n + 1 == pieces.len());
                if !done {
                    prop_assert_eq!(mark_locked(&entry, p), Err(Reason::FragmentOverlap));
                }
            }
        }

        /// What overlaps is refused whatever came before.
        #[test]
        fn overlap_is_refused(a in 0u32..100, len in 2u32..20, shift in 1u32..20) {
            let entry = fresh();
            mark_locked(&entry, &piece(a, a + len, false)).unwrap();
            let start = a + shift % len;
            prop_assert_eq!(mark_locked(&entry, &piece(start, start + len, false)), Err(Reason::FragmentOverlap));
        }
    }
}

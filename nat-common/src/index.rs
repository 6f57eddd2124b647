//! The index from inside endpoints to slots: the outbound half of every binding.
//!
//! An entry has all that a packet from inside must know of its binding: the whole key, the slot (which is the external
//! endpoint), the generation of the external address, and when the inside endpoint sent last. Where no session decides, such
//! a packet therefore touches one cache line of the index and no slot. For that to be safe an entry goes before its slot's
//! use ends, never after: see [`crate::binding::end`].

use crate::config::Config;
use crate::flow::{InsideKey, Proto};
use crate::hash::{mix, reduce, second};
use crate::maps::{BUCKET, Bucket, Entry, EntryState, EntryWord, LINE, LOCKS};
use crate::raw::opaque;
use crate::tables::Tables;

/// Buckets in the window of one host and protocol.
const WINDOW: u32 = 1024;
/// Entries of a bucket from which on the other bucket is taken if it has fewer. Most look-ups then need only the first.
const CROWDED: u32 = 5;
/// Attempts at an entry that packets stamp at the same time, which each flow does once in a second.
const ATTEMPTS: u32 = 3;
/// How long a claim is respected, in ticks. Nobody needs longer than a microsecond, unless the daemon was killed.
const CLAIM_AGE: u32 = 256;

/// Where a key can be in the index, and what its entry looks like.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The two buckets.
    pub buckets: [u32; 2],
    /// The entry of each bucket that is looked at first, and then those on its line.
    favourite: u32,
    /// [`Entry::key`] with a generation of 0.
    key: u64,
    proto: Proto,
    lock: u32,
}

impl Place {
    /// Of a key.
    #[inline(always)]
    pub fn of(cfg: &Config, key: &InsideKey) -> Self {
        let packed = u64::from(key.inside.addr) << 32 | u64::from(key.inside.port) << 16;
        let h = mix(packed | key.proto as u64, cfg.secret);
        // The first bucket is in a window of the host's own. There its ports are in their order, four in each bucket and all on
        // the same side of it, since most systems use ports one after the other: so a line that comes from memory is full of
        // what is in use, what one host uses lies on a few pages, each of which needs one entry of the translation buffer, and
        // where the windows of two hosts meet there is room for both. What finds none goes to the other bucket, which is
        // anywhere and this key's alone.
        let port = u32::from(key.inside.port);
        let ahead = ((port / LINE as u32) & (WINDOW - 1)).wrapping_mul(cfg.index_step);
        let window = mix(
            u64::from(key.inside.addr) << 32 | key.proto as u64,
            cfg.secret.rotate_left(21),
        );
        Self {
            buckets: [
                reduce((window as u32).wrapping_add(ahead), cfg.index_buckets),
                reduce(second(h, u32::MAX), cfg.index_buckets),
            ],
            favourite: ((window >> 61) as u32 & LINE as u32) | (port & (LINE as u32 - 1)),
            key: packed,
            proto: key.proto,
            lock: (h >> 40) as u32 & (LOCKS - 1),
        }
    }

    /// Number of the line with the favourite place of the first bucket.
    #[inline(always)]
    pub fn line(&self) -> u32 {
        self.buckets[0] << 1 | self.half()
    }

    #[inline(always)]
    fn half(&self) -> u32 {
        self.favourite / LINE as u32
    }
}

/// An entry that was found, as it was when it was found.
#[derive(Clone, Copy, Debug)]
pub struct Found<'t> {
    /// The entry.
    pub entry: &'t Entry,
    /// Its word.
    pub word: EntryWord,
    /// Generation of the external address that the binding was made on.
    pub generation: u16,
}

/// The entry of a key, whether or not its binding still lives.
#[inline(always)]
pub fn find<'t, T: Tables>(t: &'t T, place: &Place) -> Option<Found<'t>> {
    if let Some(found) = find_in(t.bucket(place.buckets[0])?, place) {
        return Some(found);
    }
    find_in(t.bucket(place.buckets[1])?, place)
}

/// The entry at a key's favourite place, as it was read first of all: for the short way of a packet, which has other things to
/// do while a line comes from memory.
#[derive(Clone, Copy, Debug)]
pub struct Probe<'t> {
    entry: &'t Entry,
    word: u64,
    key: u64,
    again: u64,
}

/// Reads the entry at the favourite place of a key.
#[inline(always)]
pub fn probe<'t, T: Tables>(t: &'t T, place: &Place) -> Option<Probe<'t>> {
    let entry = t.bucket(place.buckets[0])?.at(place.favourite as usize);
    let (word, key) = (entry.word.get(), entry.key.get());
    Some(Probe {
        entry,
        word,
        key,
        again: entry.word.get(),
    })
}

/// [`find`] for the short way of a packet. One branch, which nearly always goes the same way: one that is foretold wrong waits
/// for the line, and what was done meanwhile is lost. `None` also where two entries of one key came to be.
#[inline(always)]
pub fn find_quickly<'t, T: Tables>(t: &'t T, place: &Place, probe: &Probe<'t>) -> Option<Found<'t>> {
    let word = EntryWord(probe.word);
    let changed = (probe.word ^ probe.again) >> 32;
    if word.difference(place.proto, (probe.key ^ place.key) >> 16) | changed == 0 {
        return Some(Found {
            entry: probe.entry,
            word,
            generation: probe.key as u16,
        });
    }
    let entry = elsewhere(t, place)?;
    let word = EntryWord(entry.word.get());
    let key = entry.key.get();
    let same = word.is_live_of(place.proto)
        && !differs(key, place.key)
        && EntryWord(entry.word.get()).identity() == word.identity();
    same.then_some(Found {
        entry,
        word,
        generation: key as u16,
    })
}

/// The entry of a key that is not at its favourite place.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn elsewhere<'t, T: Tables>(t: &'t T, place: &Place) -> Option<&'t Entry> {
    let (home, other) = t.bucket(place.buckets[0])?.lines(place.half());
    if let Some(found) = find_at_once(home, place).or_else(|| find_at_once(other, place)) {
        return Some(found.entry);
    }
    let (home, other) = t.bucket(place.buckets[1])?.lines(place.half());
    find_at_once(home, place)
        .or_else(|| find_at_once(other, place))
        .map(|found| found.entry)
}

/// Looks at all four without a branch.
#[inline(always)]
fn find_at_once<'t>(line: &'t [Entry; LINE], place: &Place) -> Option<Found<'t>> {
    let (mut word, mut key, mut at) = (0, 0, 0);
    let mut i = 0;
    while i < LINE {
        let (w, k) = (line[i].word.get(), line[i].key.get());
        let mask = EntryWord(w).mask_of(place.proto, (k ^ place.key) >> 16);
        word |= w & mask;
        key |= k & mask;
        at |= i as u64 & mask;
        i += 1;
    }
    if word == 0 {
        return None;
    }
    let entry = &line[opaque(at as u32) as usize & (LINE - 1)];
    let word = EntryWord(word);
    (EntryWord(entry.word.get()).identity() == word.identity()).then_some(Found {
        entry,
        word,
        generation: key as u16,
    })
}

#[inline(always)]
fn find_in<'t>(bucket: &'t Bucket, place: &Place) -> Option<Found<'t>> {
    let (home, other) = bucket.lines(place.half());
    find_on(home, place).or_else(|| find_on(other, place))
}

#[inline(always)]
fn find_on<'t>(line: &'t [Entry; LINE], place: &Place) -> Option<Found<'t>> {
    let mut i = 0;
    while i < LINE {
        let entry = &line[i];
        i += 1;
        if differs(entry.key.get(), place.key) {
            continue;
        }
        let word = EntryWord(entry.word.get());
        let key = entry.key.get();
        // The key is that of the word if the entry did not change hands while it was read.
        if word.is_live_of(place.proto)
            && !differs(key, place.key)
            && EntryWord(entry.word.get()).identity() == word.identity()
        {
            return Some(Found {
                entry,
                word,
                generation: key as u16,
            });
        }
    }
    None
}

/// Whether two keys differ in more than the generation.
#[inline(always)]
fn differs(a: u64, b: u64) -> bool {
    (a ^ b) >> 16 != 0
}

/// What came of an attempt to insert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// The entry is in.
    Done,
    /// There is an entry for this key already: its slot.
    Exists(u32),
    /// Both buckets are full.
    Full,
}

/// Puts `key` → slot `index` into the index, last used `now`. The slot must be in use.
#[inline(always)]
pub fn insert<T: Tables>(t: &T, cfg: &Config, key: &InsideKey, index: u32, now: u32) -> Inserted {
    match t.insert_binding(cfg, key, index, now) {
        0 => Inserted::Done,
        FULL => Inserted::Full,
        slot => Inserted::Exists(slot),
    }
}

/// [`insert`] with a number as result: 0 for [`Inserted::Done`], `FULL`, or the slot that exists.
pub const FULL: u32 = u32::MAX;

/// See [`insert`].
#[inline(always)]
pub fn insert_here<T: Tables>(t: &T, cfg: &Config, key: &InsideKey, index: u32, now: u32) -> u32 {
    let place = Place::of(cfg, key);
    let (Some(first), Some(other), Some(slot)) =
        (t.bucket(place.buckets[0]), t.bucket(place.buckets[1]), t.slot(index))
    else {
        return FULL;
    };
    let fixed = slot.is_forward();
    let word = EntryWord::new(EntryState::Live, key.proto, index, fixed, now);
    let key = place.key | u64::from(slot.address_generation.get());
    t.locked(place.lock, || insert_locked(first, other, &place, word, key))
        .unwrap_or(FULL)
}

/// Puts an entry into the emptier of its buckets unless there is one of the same key.
///
/// Runs under the key's lock, so it calls nothing. Others may insert or clear entries of the same bucket at the same time.
#[inline(always)]
fn insert_locked(first: &Bucket, other: &Bucket, place: &Place, word: EntryWord, key: u64) -> u32 {
    let mut used = [0u32; 2];
    let mut i = 0;
    while i < BUCKET {
        let (a, b) = (first.at(i), other.at(i));
        i += 1;
        let (one, two) = (EntryWord(a.word.get()), EntryWord(b.word.get()));
        if one.is_live_of(place.proto) && !differs(a.key.get(), key) {
            return one.slot();
        }
        if two.is_live_of(place.proto) && !differs(b.key.get(), key) {
            return two.slot();
        }
        used[0] += one.taken();
        used[1] += two.taken();
    }
    let swap = used[0] > CROWDED && used[1] < used[0];
    let (one, two) = if swap { (other, first) } else { (first, other) };
    if enter(one, place.favourite, word, key) || enter(two, place.favourite, word, key) {
        0
    } else {
        FULL
    }
}

/// Puts an entry into a free place of a bucket, rather the favourite one, or one on the same line.
#[inline(always)]
fn enter(bucket: &Bucket, favourite: u32, word: EntryWord, key: u64) -> bool {
    let mut i = 0;
    while i < BUCKET {
        let entry = bucket.at(favourite as usize ^ i);
        i += 1;
        let old = EntryWord(entry.word.get());
        let free = old.taken() == 0
            || old.state() == EntryState::Claimed && word.stamp().wrapping_sub(old.stamp()) as i32 > CLAIM_AGE as i32;
        if free && entry.word.replace(old.0, word.claimed().0) {
            entry.key.set(key);
            entry.word.set(word.0);
            return true;
        }
    }
    false
}

/// Takes `key` → slot `index` out of the index.
#[inline(always)]
pub fn forget<T: Tables>(t: &T, cfg: &Config, key: &InsideKey, index: u32) {
    t.forget_binding(cfg, key, index);
}

/// See [`forget`].
#[inline(always)]
pub fn forget_here<T: Tables>(t: &T, cfg: &Config, key: &InsideKey, index: u32) {
    let place = Place::of(cfg, key);
    let mut n = 0;
    while n < 2 {
        if let Some(bucket) = t.bucket(if n == 0 { place.buckets[0] } else { place.buckets[1] }) {
            let mut i = 0;
            while i < BUCKET {
                clear(bucket.at(i), &place, index);
                i += 1;
            }
        }
        n += 1;
    }
}

#[inline(always)]
fn clear(entry: &Entry, place: &Place, index: u32) {
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        attempt += 1;
        let word = EntryWord(entry.word.get());
        if !word.is_live_of(place.proto) || word.slot() != index || differs(entry.key.get(), place.key) {
            return;
        }
        if entry.word.replace(word.0, 0) {
            return;
        }
    }
}

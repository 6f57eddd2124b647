//! Bindings: the index from inside endpoints to slots, their lifetime, making and ending them.

use crate::config::{Config, FOREVER};
use crate::counters::{REFUSED, Reason, refused};
use crate::flow::{Endpoint, InsideKey, Proto};
use crate::hash::{mix, second};
use crate::maps::{AddressWord, BUCKET, Bucket, KIND_DYNAMIC, LOCKS, Slot, SlotState, SlotWord};
use crate::ports::{allocate, release_port, slot_parts};
use crate::tables::Tables;

/// Bits of an index entry that number the slot; the others are part of the key's hash.
pub const SLOT_BITS: u32 = 26;

/// Buckets in the window of one host.
const WINDOW: u32 = 256;
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;

const _: () = assert!((crate::maps::MAX_ADDRESSES as u64 * 3) << 16 <= 1 << SLOT_BITS);

/// Where a key can be in the index, and what its entry looks like.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The two buckets.
    pub buckets: [u32; 2],
    /// The entry's high bits.
    pub tag: u64,
}

impl Place {
    /// Of a key.
    #[inline(always)]
    pub fn of(cfg: &Config, key: &InsideKey) -> Self {
        let packed = u64::from(key.inside.addr) << 32 | u64::from(key.inside.port) << 8 | key.proto as u64;
        let h = mix(packed, cfg.secret);
        // The first bucket is in a window of the host's own, a few pages of memory: what one host uses at the same time
        // then shares translation buffer entries. Where a host has more than its window holds, the other bucket, anywhere,
        // takes the rest.
        let window = mix(u64::from(key.inside.addr), cfg.secret.rotate_left(21)) as u32;
        Self {
            buckets: [
                window.wrapping_add(h as u32 & (WINDOW - 1)) & cfg.index_mask,
                second(h, cfg.index_mask),
            ],
            tag: h & !SLOT_MASK,
        }
    }

    #[inline(always)]
    fn entry(&self, slot: u32) -> u64 {
        self.tag | u64::from(slot)
    }
}

/// Whether the address that a slot was made on is still the same and in use.
#[inline(always)]
fn address_holds<T: Tables>(t: &T, index: u32, slot: &Slot) -> bool {
    let (address, _, _) = slot_parts(index);
    let Some(address) = t.address(address) else {
        return false;
    };
    let word = AddressWord(address.word.get());
    word.active() && (slot.kind.get() != KIND_DYNAMIC || word.generation() == slot.address_generation.get())
}

/// Lifetime of a slot in ticks.
#[inline(always)]
pub fn lifetime(cfg: &Config, proto: Proto, slot: &Slot) -> u32 {
    let own = slot.lifetime.get();
    if own != 0 {
        return own;
    }
    match proto {
        Proto::Udp => cfg.udp,
        Proto::Icmp => cfg.icmp,
        Proto::Tcp if slot.established.get() != 0 => cfg.tcp_established,
        Proto::Tcp => core::cmp::max(cfg.tcp_opening, cfg.tcp_closing),
    }
}

/// When a live slot ends or ended, in ticks; `None` if never.
#[inline(always)]
pub fn expiry<T: Tables>(t: &T, cfg: &Config, index: u32, slot: &Slot, word: SlotWord) -> Option<u32> {
    let life = lifetime(cfg, slot_parts(index).1, slot);
    if life == FOREVER {
        return None;
    }
    if !address_holds(t, index, slot) {
        return Some(word.stamp());
    }
    Some(word.stamp().wrapping_add(life))
}

/// The slot's word, if the slot is in use: an expired one is absent at once, whoever frees it and when.
#[inline(always)]
pub fn live<T: Tables>(t: &T, cfg: &Config, index: u32, slot: &Slot, now: u32) -> Option<SlotWord> {
    let word = SlotWord(slot.word.get());
    if word.state() != SlotState::Live || !address_holds(t, index, slot) {
        return None;
    }
    let life = lifetime(cfg, slot_parts(index).1, slot);
    // A stamp of another CPU can be a tick ahead.
    let age = now.wrapping_sub(word.stamp()) as i32;
    (life == FOREVER || age < 0 || (age as u32) < life).then_some(word)
}

/// Renews the last-use stamp, at most once in `Config::refresh`, so that flows on several CPUs do not share a dirty line.
#[inline(always)]
pub fn refresh(cfg: &Config, slot: &Slot, word: SlotWord, now: u32) {
    let age = now.wrapping_sub(word.stamp()) as i32;
    if age >= cfg.refresh as i32 {
        slot.word.replace(word.0, word.stamped(now).0);
    }
}

/// The slot that `key` is bound to.
#[inline(always)]
pub fn find<T: Tables>(t: &T, cfg: &Config, key: &InsideKey, now: u32) -> Option<u32> {
    let slot = t.find_binding(cfg, key, now);
    (slot != 0).then_some(slot)
}

/// The slot that `key` is bound to, 0 for none: it would be TCP port 0.
#[inline(always)]
pub fn find_here<T: Tables>(t: &T, cfg: &Config, key: &InsideKey, now: u32) -> u32 {
    let place = Place::of(cfg, key);
    let Some(first) = t.bucket(place.buckets[0]) else {
        return 0;
    };
    let slot = find_in(t, cfg, first, &place, key, now);
    if slot != 0 {
        return slot;
    }
    let Some(other) = t.bucket(place.buckets[1]) else {
        return 0;
    };
    find_in(t, cfg, other, &place, key, now)
}

#[inline(always)]
fn find_in<T: Tables>(t: &T, cfg: &Config, bucket: &Bucket, place: &Place, key: &InsideKey, now: u32) -> u32 {
    let mut i = 0;
    while i < BUCKET {
        let entry = bucket.0[i].get();
        i += 1;
        if entry == 0 || (entry ^ place.tag) & !SLOT_MASK != 0 {
            continue;
        }
        let index = (entry & SLOT_MASK) as u32;
        if owns(t, cfg, index, key, now) {
            return index;
        }
        // Left behind by a binding that has ended.
        bucket.0[i - 1].replace(entry, 0);
    }
    0
}

/// Whether slot `index` is a live binding of `key`.
#[inline(always)]
fn owns<T: Tables>(t: &T, cfg: &Config, index: u32, key: &InsideKey, now: u32) -> bool {
    let Some(slot) = t.slot(index) else { return false };
    slot.inside_addr.get() == key.inside.addr
        && slot.inside_port.get() == key.inside.port
        && slot_parts(index).1 == key.proto
        && live(t, cfg, index, slot, now).is_some()
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

/// Puts an entry into the emptier of its buckets unless there is one with the same tag.
///
/// Runs under the key's lock, so it calls nothing. Others may insert or clear entries of the same bucket at the same time.
#[inline(always)]
fn insert_locked(first: &Bucket, other: &Bucket, tag: u64, entry: u64) -> Inserted {
    let mut used = [0u32; 2];
    let mut i = 0;
    while i < BUCKET {
        let (a, b) = (first.0[i].get(), other.0[i].get());
        i += 1;
        if a != 0 {
            used[0] += 1;
            if (a ^ tag) & !SLOT_MASK == 0 {
                return Inserted::Exists((a & SLOT_MASK) as u32);
            }
        }
        if b != 0 {
            used[1] += 1;
            if (b ^ tag) & !SLOT_MASK == 0 {
                return Inserted::Exists((b & SLOT_MASK) as u32);
            }
        }
    }
    // Most look-ups then need only the first bucket.
    let swap = used[0] > 5 && used[1] < used[0];
    let (one, two) = if swap { (other, first) } else { (first, other) };
    let mut i = 0;
    while i < BUCKET {
        if one.0[i].get() == 0 && one.0[i].replace(0, entry) {
            return Inserted::Done;
        }
        i += 1;
    }
    let mut i = 0;
    while i < BUCKET {
        if two.0[i].get() == 0 && two.0[i].replace(0, entry) {
            return Inserted::Done;
        }
        i += 1;
    }
    Inserted::Full
}

/// Puts `key` → `index` into the index.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn insert<T: Tables>(t: &T, cfg: &Config, key: &InsideKey, index: u32) -> Inserted {
    let place = Place::of(cfg, key);
    let (Some(first), Some(other)) = (t.bucket(place.buckets[0]), t.bucket(place.buckets[1])) else {
        return Inserted::Full;
    };
    let (tag, entry) = (place.tag, place.entry(index));
    let lock = (tag >> 40) as u32 & (LOCKS - 1);
    t.locked(lock, || insert_locked(first, other, tag, entry))
        .unwrap_or(Inserted::Full)
}

/// Takes `key` → `index` out of the index.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn forget<T: Tables>(t: &T, cfg: &Config, key: &InsideKey, index: u32) {
    let place = Place::of(cfg, key);
    let entry = place.entry(index);
    let mut n = 0;
    while n < 2 {
        if let Some(bucket) = t.bucket(if n == 0 { place.buckets[0] } else { place.buckets[1] }) {
            let mut i = 0;
            while i < BUCKET {
                if bucket.0[i].get() == entry {
                    bucket.0[i].replace(entry, 0);
                }
                i += 1;
            }
        }
        n += 1;
    }
}

/// Makes a binding for `key`, or finds the one that another CPU just made. The inbound entry is claimed first, then the
/// outbound one; if that fails the port goes back. Returns the slot, or `REFUSED` and the reason.
#[inline(always)]
pub fn create<T: Tables>(t: &T, cfg: &Config, key: &InsideKey, now: u32) -> u32 {
    let index = allocate(t, cfg, key, now);
    if index & REFUSED != 0 {
        return index;
    }
    let (address, _, _) = slot_parts(index);
    let (Some(slot), Some(address)) = (t.slot(index), t.address(address)) else {
        return refused(Reason::NoAddress);
    };
    let address = AddressWord(address.word.get());
    let generation = SlotWord(slot.word.get()).generation().wrapping_add(1);
    slot.word.set(SlotWord::new(SlotState::Claimed, generation, now).0);
    slot.inside_addr.set(key.inside.addr);
    slot.inside_port.set(key.inside.port);
    slot.kind.set(KIND_DYNAMIC);
    slot.lifetime.set(0);
    slot.established.set(0);
    slot.created.set(now);
    slot.address_generation.set(address.generation());
    if cfg.has(crate::config::FLAG_COUNTING)
        && let Some(traffic) = t.traffic(index)
    {
        traffic.packets_out.set(0);
        traffic.bytes_out.set(0);
        traffic.packets_in.set(0);
        traffic.bytes_in.set(0);
    }
    let live = SlotWord::new(SlotState::Live, generation, now);
    slot.word.set(live.0);
    let mut attempt = 0;
    while attempt < 2 {
        attempt += 1;
        match insert(t, cfg, key, index) {
            Inserted::Done => return index,
            Inserted::Exists(other) => {
                if owns(t, cfg, other, key, now) {
                    unmake(t, index, slot, generation);
                    return other;
                }
                forget(t, cfg, key, other);
            }
            Inserted::Full => {
                unmake(t, index, slot, generation);
                return refused(Reason::IndexFull);
            }
        }
    }
    unmake(t, index, slot, generation);
    refused(Reason::Contended)
}

/// Gives a slot back that nobody has seen yet.
#[inline(always)]
fn unmake<T: Tables>(t: &T, index: u32, slot: &Slot, generation: u16) {
    slot.word.set(SlotWord::new(SlotState::Free, generation, 0).0);
    release_port(t, index);
}

/// The inside endpoint of a slot.
#[inline(always)]
pub fn inside_of(slot: &Slot) -> Endpoint {
    Endpoint::new(slot.inside_addr.get(), slot.inside_port.get())
}

/// The external endpoint of slot `index`.
#[inline(always)]
pub fn external_of<T: Tables>(t: &T, index: u32) -> Option<Endpoint> {
    let (address, _, port) = slot_parts(index);
    Some(Endpoint::new(AddressWord(t.address(address)?.word.get()).addr(), port))
}

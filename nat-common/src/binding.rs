//! Bindings: finding them, their lifetime, making and ending them.
//!
//! A binding has two halves: the slot, by which packets from outside find it, and its entry in the index, by which those from
//! inside do. Each half has a stamp of its own; the later one is the last use.

use crate::config::{Config, FOREVER};
use crate::counters::{REFUSED, Reason, refused};
use crate::flow::{Endpoint, InsideKey, Proto};
use crate::index::{self, Found, Inserted, Place};
use crate::maps::{AddressWord, KIND_DYNAMIC, Slot, SlotState, SlotWord};
use crate::ports::{allocate, release_port, slot_parts};
use crate::tables::Tables;

/// Whether the address that a slot was made on is still the same and in use.
#[inline(always)]
fn address_holds<T: Tables>(t: &T, index: u32, slot: &Slot) -> bool {
    let (address, _, _) = slot_parts(index);
    let Some(address) = t.address(address) else {
        return false;
    };
    let word = AddressWord(address.word.get());
    word.active() && (slot.is_forward() || word.generation() == slot.address_generation.get())
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

/// When a live slot ends or ended, in ticks, as far as the slot knows; `None` if never. It may have been used later by its
/// inside endpoint: see [`end`].
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

/// Whether something that lives for `life` ticks after `stamp` is still alive. A stamp of another CPU can be a tick ahead.
#[inline(always)]
pub fn young(stamp: u32, life: u32, now: u32) -> bool {
    let age = now.wrapping_sub(stamp) as i32;
    age < 0 || (age as u32) < life
}

/// The slot's word, if the slot is in use: an expired one is absent at once, whoever frees it and when.
#[inline(always)]
pub fn live<T: Tables>(t: &T, cfg: &Config, index: u32, slot: &Slot, now: u32) -> Option<SlotWord> {
    let word = SlotWord(slot.word.get());
    if word.state() != SlotState::Live || !address_holds(t, index, slot) {
        return None;
    }
    let life = lifetime(cfg, slot_parts(index).1, slot);
    if life == FOREVER || young(word.stamp(), life, now) {
        return Some(word);
    }
    let last = t.last_use(cfg, index);
    young(last, life, now).then(|| renew(slot, word, last))
}

/// Tells a slot that its inside endpoint has used it at `stamp`. The word that it has then.
#[inline(always)]
fn renew(slot: &Slot, word: SlotWord, stamp: u32) -> SlotWord {
    let renewed = word.stamped(stamp);
    slot.word.replace(word.0, renewed.0);
    renewed
}

/// When slot `index` was used last, in ticks: the later stamp of the slot's own and that of its entry in the index.
#[inline(always)]
pub fn last_use<T: Tables>(t: &T, cfg: &Config, index: u32) -> u32 {
    let Some(slot) = t.slot(index) else { return 0 };
    let stamp = SlotWord(slot.word.get()).stamp();
    match index::find(t, &Place::of(cfg, &key_of(index, slot))) {
        Some(found) if found.word.slot() == index && found.word.stamp().wrapping_sub(stamp) as i32 > 0 => {
            found.word.stamp()
        }
        _ => stamp,
    }
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
    let Some(found) = index::find(t, &Place::of(cfg, key)) else {
        return 0;
    };
    let index = found.word.slot();
    if holds(t, cfg, key.proto, &found, now) || owns(t, cfg, index, key, now) {
        return index;
    }
    // Left behind by a binding that has ended.
    found.entry.word.replace(found.word.0, 0);
    0
}

/// Whether an entry of the index shows by itself that its binding is alive. Where sessions decide about lifetimes it never
/// does; nor if the binding is kept alive from outside.
#[inline(always)]
pub fn holds<T: Tables>(t: &T, cfg: &Config, proto: Proto, found: &Found, now: u32) -> bool {
    if cfg.tracks(proto) {
        return false;
    }
    let Some(address) = t.address(slot_parts(found.word.slot()).0) else {
        return false;
    };
    let address = AddressWord(address.word.get());
    let fixed = found.word.fixed();
    let life = if proto == Proto::Udp { cfg.udp } else { cfg.icmp };
    address.active() && (fixed || address.generation() == found.generation && young(found.word.stamp(), life, now))
}

/// Whether slot `index` is a live binding of `key`.
#[inline(always)]
pub fn owns<T: Tables>(t: &T, cfg: &Config, index: u32, key: &InsideKey, now: u32) -> bool {
    let Some(slot) = t.slot(index) else { return false };
    slot.inside_addr.get() == key.inside.addr
        && slot.inside_port.get() == key.inside.port
        && slot_parts(index).1 == key.proto
        && live(t, cfg, index, slot, now).is_some()
}

/// Ends the use of a slot, live or resting, whose time was over `spare` ticks ago according to its word; it becomes `next`.
/// False, and nothing has changed, if it was used since.
///
/// The entry in the index goes first: as long as it is there, packets from inside are sent in the slot's name without looking
/// at the slot.
#[inline(always)]
pub fn end<T: Tables>(t: &T, cfg: &Config, index: u32, ending: &Ending, now: u32) -> bool {
    let Some(slot) = t.slot(index) else { return false };
    let Ending { word, next, .. } = *ending;
    if word.state() != SlotState::Live {
        return slot.word.replace(word.0, next.0);
    }
    let key = key_of(index, slot);
    let Some(found) = index::find(t, &Place::of(cfg, &key)).filter(|found| found.word.slot() == index) else {
        return slot.word.replace(word.0, next.0);
    };
    let life = lifetime(cfg, key.proto, slot).wrapping_add(ending.spare);
    if address_holds(t, index, slot) && young(found.word.stamp(), life, now) {
        renew(slot, word, found.word.stamp());
        return false;
    }
    let claimed = found.word.stamped(now).claimed();
    if !found.entry.word.replace(found.word.0, claimed.0) {
        // A packet from inside has just used it.
        return false;
    }
    let ended = slot.word.replace(word.0, next.0);
    // If not, one from outside has.
    found
        .entry
        .word
        .replace(claimed.0, if ended { 0 } else { found.word.0 });
    ended
}

/// What [`end`] is to do.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Ending {
    /// The slot's word, on which the decision was based.
    pub word: SlotWord,
    /// What it becomes.
    pub next: SlotWord,
    /// For how long the binding must have been over, in ticks.
    pub spare: u32,
    /// Always zero.
    pub reserved: u32,
}

/// Protocol and inside endpoint of a slot.
#[inline(always)]
pub fn key_of(index: u32, slot: &Slot) -> InsideKey {
    InsideKey {
        proto: slot_parts(index).1,
        inside: inside_of(slot),
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
    create_at(t, cfg, key, index, now)
}

/// The same at slot `index`, whose port has been taken for `key`.
#[inline(always)]
pub fn create_at<T: Tables>(t: &T, cfg: &Config, key: &InsideKey, index: u32, now: u32) -> u32 {
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
        match index::insert(t, cfg, key, index, now) {
            Inserted::Done => return index,
            Inserted::Exists(other) => {
                if owns(t, cfg, other, key, now) {
                    unmake(t, index, slot, generation);
                    return other;
                }
                index::forget(t, cfg, key, other);
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

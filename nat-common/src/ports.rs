//! Port allocation: hosts get aligned blocks, bindings get ports of their host's blocks.
//!
//! Two bitmaps say what is free: one of the blocks of every external address, one of the ports of every address and
//! protocol. Taking a bit with compare-and-swap is taking the block or port, so two CPUs never get the same one, and the
//! cost does not depend on how full the pool is. A port's bit stays set while the port rests; whoever frees the slot clears
//! it. Positions are random within what is free (RFC 6056, RFC 6888 REQ-15).

use crate::binding::{self, Ending};
use crate::config::Config;
use crate::counters::{REFUSED, Reason, refused};
use crate::event::{EVENT_BLOCK_ASSIGNED, EVENT_EXHAUSTED, EVENT_QUOTA, Event};
use crate::flow::{Endpoint, InsideKey, PROTOCOLS, Proto};
use crate::hash::{mix, nth_bit};
use crate::maps::{
    AddressWord, BlockState, BlockWord, Host, HostWord, MAX_BLOCKS_PER_HOST, PORTS, SlotState, SlotWord,
};
use crate::raw::{below, opaque};
use crate::tables::Tables;

/// Host records that are looked at for one host.
pub const HOST_WINDOW: u32 = 16;
/// External addresses that are tried for a new host.
const ADDRESS_TRIES: u32 = 16;
/// Attempts at one bitmap word that another CPU changes at the same time.
const ATTEMPTS: u32 = 3;
/// Ports that are looked at for an expired binding when everything is in use and nobody sweeps.
const RECLAIM_TRIES: u32 = 8;
const EVEN: u64 = 0x5555_5555_5555_5555;

/// The number of the slot of a port.
#[inline(always)]
pub fn slot_index(address: u32, proto: Proto, port: u16) -> u32 {
    (address * PROTOCOLS + proto as u32) << 16 | u32::from(port)
}

/// External address, protocol and port of a slot.
#[inline(always)]
pub fn slot_parts(index: u32) -> (u32, Proto, u16) {
    let space = index >> 16;
    (space / PROTOCOLS, Proto::from_index(space % PROTOCOLS), index as u16)
}

/// The number of the block that a port is in.
#[inline(always)]
pub fn block_index(address: u32, port: u16, block_shift: u32) -> u32 {
    address << (16 - block_shift) | u32::from(port) >> block_shift
}

/// External address and first port of a block.
#[inline(always)]
pub fn block_parts(block: u32, block_shift: u32) -> (u32, u16) {
    (block >> (16 - block_shift), (block << block_shift) as u16)
}

/// Place of a port in the bitmap of used ports: word and bit.
#[inline(always)]
pub fn used_place(slot: u32) -> (u32, u64) {
    (slot >> 6, 1 << (slot & 63))
}

/// Words of the bitmap of free blocks for one external address.
#[inline(always)]
pub fn free_words(block_shift: u32) -> u32 {
    let blocks = PORTS >> block_shift;
    if blocks < 64 { 1 } else { blocks / 64 }
}

/// Place of a block in the bitmap of free blocks: word and bit.
#[inline(always)]
pub fn free_place(block: u32, block_shift: u32) -> (u32, u64) {
    let address = block >> (16 - block_shift);
    let number = block & ((PORTS >> block_shift) - 1);
    (address * free_words(block_shift) + number / 64, 1 << (number % 64))
}

/// Takes a port for `key`; returns its slot, or `REFUSED` and the reason. The slot's bit is set and its contents are
/// untouched.
#[inline(always)]
pub fn allocate<T: Tables>(t: &T, cfg: &Config, key: &InsideKey, now: u32) -> u32 {
    let index = host_of(t, cfg, key.inside.addr, now);
    if index & REFUSED != 0 {
        return index;
    }
    let Some(host) = t.host(index) else {
        return refused(Reason::HostsFull);
    };
    let random = mix(u64::from(t.random()), cfg.secret) as u32;
    let mask = wanted(key);
    if key.proto == Proto::Udp
        && let Some(slot) = beside_partner(t, cfg, key, now)
    {
        return slot;
    }
    let mut grown = FAILED_RACE;
    let mut blocks = 0;
    let mut attempt = 0;
    // Another CPU that won the race for the last place in the host's list has filled it with a block that serves us too.
    while attempt < 2 && grown == FAILED_RACE {
        attempt += 1;
        let start = host.current.get();
        blocks = 0;
        let mut i = 0;
        while i < MAX_BLOCKS_PER_HOST as u32 {
            let place = (start + i) & (MAX_BLOCKS_PER_HOST as u32 - 1);
            i += 1;
            let Some(block) = host_block(t, cfg, host, place) else {
                continue;
            };
            blocks += 1;
            let slot = t.claim_port(cfg, block, key.proto, mask, random);
            if slot != 0 {
                host.current.set(place);
                return slot;
            }
        }
        grown = t.grow(cfg, index, key, random, now);
        if grown & FAILED == 0 {
            return grown;
        }
    }
    if grown == FAILED_RACE {
        return refused(Reason::Contended);
    }
    let reclaimed = t.reclaim(cfg, index, key, random, now);
    if reclaimed != 0 {
        return reclaimed;
    }
    let (reason, kind) = if grown == FAILED_QUOTA {
        (Reason::Quota, EVENT_QUOTA)
    } else {
        (Reason::Exhausted, EVENT_EXHAUSTED)
    };
    t.event(Event {
        kind,
        host: key.inside.addr,
        block: blocks,
        when: now,
    });
    refused(reason)
}

/// Set in the result of [`grow`] if it failed.
pub const FAILED: u32 = 1 << 31;
const FAILED_QUOTA: u32 = FAILED | 1;
const FAILED_POOL: u32 = FAILED | 2;
const FAILED_RACE: u32 = FAILED | 3;

/// Which ports of sixty-four fit `key`: UDP keeps parity (RFC 4787 REQ-4).
#[inline(always)]
fn wanted(key: &InsideKey) -> u64 {
    match key.proto {
        Proto::Udp if key.inside.port & 1 == 0 => EVEN,
        Proto::Udp => !EVEN,
        _ => !0,
    }
}

/// For UDP, the port beside the one that the neighbouring inside port has, so that RTP and RTCP stay a pair.
#[inline(always)]
fn beside_partner<T: Tables>(t: &T, cfg: &Config, key: &InsideKey, now: u32) -> Option<u32> {
    let partner = InsideKey {
        proto: key.proto,
        inside: Endpoint::new(key.inside.addr, key.inside.port ^ 1),
    };
    let slot = binding::find(t, cfg, &partner, now)? ^ 1;
    let (word, bit) = used_place(slot);
    let word = t.used_ports(word)?;
    let used = word.get();
    // A static forward's neighbour need not be in a block of this host.
    let (address, _, port) = slot_parts(slot);
    let block = BlockWord(t.block(block_index(address, port, cfg.block_shift))?.word.get());
    let ours = block.state() == BlockState::Owned && block.owner() == key.inside.addr;
    (ours && used & bit == 0 && word.replace(used, used | bit)).then_some(slot)
}

/// The block at `place` in the host's list, if it is still the host's and on an address in use.
#[inline(always)]
fn host_block<T: Tables>(t: &T, cfg: &Config, host: &Host, place: u32) -> Option<u32> {
    let entry = host.blocks[opaque(place) as usize & (MAX_BLOCKS_PER_HOST - 1)].get();
    if entry == 0 {
        return None;
    }
    let block = entry as u32 - 1;
    let word = BlockWord(t.block(block)?.word.get());
    let address = AddressWord(t.address(block_parts(block, cfg.block_shift).0)?.word.get());
    let ours = word.state() == BlockState::Owned && word.owner() == HostWord(host.word.get()).addr();
    (ours && address.active()).then_some(block)
}

/// Takes a free port of `block` among those in `mask`, at a random place; 0 if there is none. (Slot 0 is never given out:
/// it would be TCP port 0.)
#[inline(always)]
pub fn claim_port<T: Tables>(t: &T, cfg: &Config, block: u32, proto: Proto, mask: u64, random: u32) -> u32 {
    let (address, first) = block_parts(block, cfg.block_shift);
    let base = slot_index(address, proto, first);
    let size = cfg.block_size();
    let (words, span) = if size >= 64 {
        (size / 64, !0)
    } else {
        (1, ((1u64 << size) - 1) << (first & 63))
    };
    let mut i = 0;
    while i < 16 && below(i, words) {
        let at = (base >> 6) + ((random + i) & (words - 1));
        i += 1;
        let Some(word) = t.used_ports(at) else { return 0 };
        let mut attempt = 0;
        while attempt < ATTEMPTS {
            attempt += 1;
            let used = word.get();
            let free = !used & span;
            if free & mask == 0 {
                break;
            }
            // Rather a port whose neighbour is free too, so that the neighbour can become its RTCP port.
            let pairs = free & (free >> 1) & EVEN;
            let pairs = (pairs | pairs << 1) & mask;
            let choice = if pairs != 0 { pairs } else { free & mask };
            let bit = nth_bit(choice, (random >> 8) % choice.count_ones()) & 63;
            if word.replace(used, used | 1 << bit) {
                return at << 6 | bit;
            }
        }
    }
    0
}

/// Gives the host number `index` one more block and takes a port of it; `FAILED` is set in the result if that is not
/// possible.
#[inline(always)]
pub fn grow<T: Tables>(t: &T, cfg: &Config, index: u32, key: &InsideKey, random: u32, now: u32) -> u32 {
    let Some(host) = t.host(index) else { return FAILED_POOL };
    let mut place = t.free_place(cfg, index);
    if place == NO_PLACE {
        return FAILED_QUOTA;
    }
    let Some(block) = claim_block(t, cfg, index, host, random) else {
        return FAILED_POOL;
    };
    let Some(record) = t.block(block) else {
        return FAILED_POOL;
    };
    record.since.set(now);
    record.logged.set(0);
    record.word.set(BlockWord::new(BlockState::Owned, key.inside.addr).0);
    // Take the port first: once the block is in the list, other CPUs fill it.
    let slot = t.claim_port(cfg, block, key.proto, wanted(key), random.rotate_left(16));
    if slot == 0 || !enter(t, cfg, index, host, block, &mut place) {
        // Other CPUs filled the list: this block goes back.
        if slot != 0 {
            release_port(t, slot);
        }
        record.word.set(0);
        release_block(t, cfg, block);
        return FAILED_RACE;
    }
    host.current.set(place);
    t.event(Event {
        kind: EVENT_BLOCK_ASSIGNED,
        host: key.inside.addr,
        block,
        when: now,
    });
    slot
}

/// Puts a block into the host's list; other CPUs may do the same.
#[inline(always)]
fn enter<T: Tables>(t: &T, cfg: &Config, index: u32, host: &Host, block: u32, place: &mut u32) -> bool {
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        attempt += 1;
        if *place == NO_PLACE {
            return false;
        }
        if host.blocks[opaque(*place) as usize & (MAX_BLOCKS_PER_HOST - 1)].replace(0, u64::from(block) + 1) {
            return true;
        }
        *place = t.free_place(cfg, index);
    }
    false
}

/// No free place.
pub const NO_PLACE: u32 = u32::MAX;

/// A free place in a host's list of blocks, within its quota, or `NO_PLACE`.
#[inline(always)]
pub fn free_place_of<T: Tables>(t: &T, cfg: &Config, index: u32) -> u32 {
    let Some(host) = t.host(index) else { return NO_PLACE };
    let mut i = 0;
    while i < MAX_BLOCKS_PER_HOST as u32 && below(i, cfg.blocks_per_host) {
        if host.blocks[i as usize].get() == 0 {
            return i;
        }
        i += 1;
    }
    NO_PLACE
}

/// How many blocks a host has on addresses in use.
#[inline(always)]
pub fn count_blocks<T: Tables>(t: &T, cfg: &Config, index: u32) -> u32 {
    let Some(host) = t.host(index) else { return 0 };
    let mut blocks = 0;
    let mut i = 0;
    while i < MAX_BLOCKS_PER_HOST as u32 {
        if host_block(t, cfg, host, i).is_some() {
            blocks += 1;
        }
        i += 1;
    }
    blocks
}

/// Takes a free block on the host's external address; a host without blocks may change the address for it.
#[inline(always)]
fn claim_block<T: Tables>(t: &T, cfg: &Config, index: u32, host: &Host, random: u32) -> Option<u32> {
    let word = HostWord(host.word.get());
    let mut address = word.address_index();
    let entry = t.address(address)?;
    if !AddressWord(entry.word.get()).active() || entry.free_blocks.get() == 0 {
        if t.count_blocks(cfg, index) != 0 {
            return None;
        }
        address = choose_address(t, cfg, word.addr())?;
        if !host.word.replace(word.0, HostWord::new(word.addr(), address).0) {
            return None;
        }
    }
    let entry = t.address(address)?;
    let free = entry.free_blocks.get() as u32;
    // Every free block is as likely as any other (RFC 6888 REQ-15): the one of a random rank. If others took blocks
    // meanwhile, the first one that is left will do.
    let number = if free != 0 {
        t.take_block(cfg, address, (random >> 3) % free)
    } else {
        NO_BLOCK
    };
    let number = if number == NO_BLOCK {
        t.take_block(cfg, address, 0)
    } else {
        number
    };
    if number == NO_BLOCK {
        return None;
    }
    entry.free_blocks.fetch_add(u64::MAX);
    Some(address * (PORTS >> cfg.block_shift) + number)
}

/// No block.
pub const NO_BLOCK: u32 = u32::MAX;

/// Takes the free block of rank `rank` of an external address; its number on that address, or `NO_BLOCK`.
#[inline(always)]
pub fn take_block<T: Tables>(t: &T, cfg: &Config, address: u32, rank: u32) -> u32 {
    let words = free_words(cfg.block_shift);
    let mut rank = rank;
    let mut i = 0;
    while i < 64 && below(i, words) {
        let Some(bits) = t.free_blocks(address * words + i) else {
            return NO_BLOCK;
        };
        let free = bits.get();
        let here = free.count_ones();
        if rank < here {
            let bit = nth_bit(free, rank);
            return if bits.replace(free, free & !(1 << (bit & 63))) {
                i * 64 + bit
            } else {
                NO_BLOCK
            };
        }
        rank -= here;
        i += 1;
    }
    NO_BLOCK
}

/// Clears the bit of a port that nobody uses any more.
#[inline(always)]
pub fn release_port<T: Tables>(t: &T, slot: u32) {
    let (word, bit) = used_place(slot);
    if let Some(word) = t.used_ports(word) {
        word.and(!bit);
    }
}

/// Gives a block back to the pool.
#[inline(always)]
pub fn release_block<T: Tables>(t: &T, cfg: &Config, block: u32) {
    let (word, bit) = free_place(block, cfg.block_shift);
    if let Some(bits) = t.free_blocks(word) {
        bits.or(bit);
    }
    if let Some(address) = t.address(block_parts(block, cfg.block_shift).0) {
        address.free_blocks.fetch_add(1);
    }
}

/// An external address for a host: the same one for the same host as long as it has free blocks (RFC 4787 REQ-2).
#[inline(always)]
fn choose_address<T: Tables>(t: &T, cfg: &Config, host: u32) -> Option<u32> {
    let count = cfg.addresses;
    if count == 0 {
        return None;
    }
    let start = mix(u64::from(host), cfg.secret.rotate_left(7)) as u32 % count;
    let mut i = 0;
    while i < ADDRESS_TRIES && below(i, count) {
        let index = (start + i) % count;
        i += 1;
        let address = t.address(index)?;
        if AddressWord(address.word.get()).active() && address.free_blocks.get() != 0 {
            return Some(index);
        }
    }
    None
}

/// The first record that `addr` may be in.
#[inline(always)]
pub fn host_start(cfg: &Config, addr: u32) -> u32 {
    mix(u64::from(addr), cfg.secret) as u32 & cfg.host_mask
}

/// No host record.
pub const NO_HOST: u32 = u32::MAX;

/// The number of a host's record, or `NO_HOST`.
#[inline(always)]
pub fn find_host<T: Tables>(t: &T, cfg: &Config, addr: u32) -> u32 {
    let start = host_start(cfg, addr);
    let mut i = 0;
    while i < HOST_WINDOW {
        let index = (start + i) & cfg.host_mask;
        i += 1;
        let Some(host) = t.host(index) else { return NO_HOST };
        let word = HostWord(host.word.get());
        if word.used() && word.addr() == addr {
            return index;
        }
    }
    NO_HOST
}

/// The number of a host's record, which is made if there is none yet; `REFUSED` and the reason if that is not possible.
#[inline(always)]
fn host_of<T: Tables>(t: &T, cfg: &Config, addr: u32, now: u32) -> u32 {
    let found = find_host(t, cfg, addr);
    if found != NO_HOST {
        return found;
    }
    let Some(address) = choose_address(t, cfg, addr) else {
        t.event(Event {
            kind: EVENT_EXHAUSTED,
            host: addr,
            block: 0,
            when: now,
        });
        return refused(Reason::Exhausted);
    };
    enter_host(t, cfg, addr, address, now)
}

/// Makes a record for a host on external address number `address`; its number, or that of the record which another CPU has just
/// made, or `REFUSED` and the reason.
#[inline(always)]
pub fn enter_host<T: Tables>(t: &T, cfg: &Config, addr: u32, address: u32, now: u32) -> u32 {
    let start = host_start(cfg, addr);
    let mut i = 0;
    while i < HOST_WINDOW {
        let index = (start + i) & cfg.host_mask;
        i += 1;
        let Some(host) = t.host(index) else {
            return refused(Reason::HostsFull);
        };
        if host.word.replace(0, HostWord::new(addr, address).0) {
            host.created.set(now);
            return index;
        }
        let word = HostWord(host.word.get());
        if word.used() && word.addr() == addr {
            return index;
        }
    }
    refused(Reason::HostsFull)
}

/// Without a daemon nobody frees what has expired. When nothing else is left, a few ports of the host's blocks are looked
/// at; one that has expired and rested is taken over. 0 if there is none.
#[inline(always)]
pub fn reclaim<T: Tables>(t: &T, cfg: &Config, index: u32, key: &InsideKey, random: u32, now: u32) -> u32 {
    let Some(host) = t.host(index) else { return 0 };
    let mut i = 0;
    while i < RECLAIM_TRIES {
        let random = mix(u64::from(random) + u64::from(i), cfg.secret);
        i += 1;
        let place = random as u32 & (MAX_BLOCKS_PER_HOST as u32 - 1);
        let place = if place < cfg.blocks_per_host { place } else { 0 };
        let Some(block) = host_block(t, cfg, host, place) else {
            continue;
        };
        let (address, first) = block_parts(block, cfg.block_shift);
        let mut port = first | (random >> 32) as u16 & (cfg.block_size() - 1) as u16;
        if key.proto == Proto::Udp {
            port = port & !1 | key.inside.port & 1;
        }
        let slot_number = slot_index(address, key.proto, port);
        let Some(slot) = t.slot(slot_number) else { continue };
        let word = SlotWord(slot.word.get());
        let since = match word.state() {
            SlotState::Live => match binding::expiry(t, cfg, slot_number, slot, word) {
                Some(end) if now.wrapping_sub(end) as i32 >= 0 => end,
                _ => continue,
            },
            SlotState::Resting => word.stamp(),
            _ => continue,
        };
        if now.wrapping_sub(since) < cfg.rest || now.wrapping_sub(since) as i32 <= 0 {
            continue;
        }
        let ending = Ending {
            word,
            next: SlotWord::new(SlotState::Claimed, word.generation(), now),
            spare: cfg.rest,
            reserved: 0,
        };
        if t.end_binding(cfg, slot_number, &ending, now) {
            return slot_number;
        }
    }
    0
}

//! Which external ports the data path may give out.
//!
//! A block without any such port is reserved; in a block that has both kinds, the others' bits are set in the bitmap of
//! used ports while their slots stay free. All of it can be done again at any time, also while packets allocate.

use std::ops::RangeInclusive;

use nat_common::{
    config::Config as Numbers,
    flow::Proto,
    maps::{BlockState, BlockWord, PORTS},
    ports::{block_parts, free_place, free_words, release_block, slot_index},
    tables::Tables,
};

use crate::{
    config::{PortRange, Ports},
    net::{OwnPorts, PortSet},
};

const WORDS: usize = PORTS as usize / 64;

/// The ports that are not given out, on any address.
#[derive(Clone, PartialEq, Eq)]
pub struct Closed(Box<[u64; WORDS]>);

impl Closed {
    /// What the configuration leaves out, and what the router itself uses.
    pub fn new(ports: &Ports, own: Option<&OwnPorts>) -> Self {
        let mut set = PortSet::new();
        set.insert(0);
        let PortRange { first, last } = ports.range;
        if first > 0 {
            set.insert_range(0..=first - 1);
        }
        if last < u16::MAX {
            set.insert_range(last + 1..=u16::MAX);
        }
        for range in &ports.exclude {
            set.insert_range(range.ports());
        }
        if let Some(own) = own.filter(|_| ports.exclude_local) {
            set.union(&own.all());
        }
        Self::from(&set)
    }

    /// Whether `port` is not given out.
    pub fn contains(&self, port: u16) -> bool {
        self.0[usize::from(port >> 6)] >> (port & 63) & 1 == 1
    }

    /// Sixty-four ports from `number * 64` on, a bit each.
    pub fn word(&self, number: u32) -> u64 {
        self.0[number as usize % WORDS]
    }

    /// Whether all ports of the block at `first` are.
    pub fn whole_block(&self, first: u16, block_shift: u32) -> bool {
        words_of(first, block_shift).all(|(word, span)| self.word(word) & span == span)
    }

    /// How many ports are given out, on one address.
    pub fn open_ports(&self) -> u32 {
        PORTS - self.0.iter().map(|word| word.count_ones()).sum::<u32>()
    }

    /// How many blocks have such a port, on one address.
    pub fn open_blocks(&self, block_shift: u32) -> u32 {
        (0..PORTS >> block_shift)
            .filter(|number| !self.whole_block((number << block_shift) as u16, block_shift))
            .count() as u32
    }
}

impl From<&PortSet> for Closed {
    fn from(set: &PortSet) -> Self {
        let mut words = Box::new([0; WORDS]);
        for port in 0..=u16::MAX {
            words[usize::from(port >> 6)] |= u64::from(set.contains(port)) << (port & 63);
        }
        Self(words)
    }
}

/// The words of the bitmaps of one port space that a block is in, and its bits there.
pub fn words_of(first: u16, block_shift: u32) -> impl Iterator<Item = (u32, u64)> {
    let word = u32::from(first) / 64;
    let (words, span): (RangeInclusive<u32>, u64) = if block_shift >= 6 {
        (word..=word + (1 << (block_shift - 6)) - 1, !0)
    } else {
        (word..=word, ((1u64 << (1 << block_shift)) - 1) << (first & 63))
    };
    words.map(move |word| (word, span))
}

/// Ports in use in a block that are not closed: leases of its owner, resting ones too.
pub fn used_in_block<T: Tables>(t: &T, block: u32, block_shift: u32, closed: &Closed) -> u32 {
    let (address, first) = block_parts(block, block_shift);
    let mut used = 0;
    for (word, span) in words_of(first, block_shift) {
        let span = span & !closed.word(word);
        for proto in Proto::ALL {
            let place = (slot_index(address, proto, 0) >> 6) + word;
            used += t.used_ports(place).map_or(0, |w| (w.get() & span).count_ones());
        }
    }
    used
}

/// Makes the tables agree with `closed`. `fresh`: no packet has ever used them.
pub fn apply<T: Tables>(t: &T, cfg: &Numbers, closed: &Closed, fresh: bool) {
    let shift = cfg.block_shift;
    for block in 0..cfg.addresses << (16 - shift) {
        let (_, first) = block_parts(block, shift);
        let Some(record) = t.block(block) else { return };
        let word = BlockWord(record.word.get());
        let reserved = BlockWord::new(BlockState::Reserved, 0).0;
        let whole = closed.whole_block(first, shift);
        match word.state() {
            BlockState::Free if whole => {
                if take(t, cfg, block) || fresh {
                    record.word.set(reserved);
                }
            }
            BlockState::Free if fresh => {
                let (place, bit) = free_place(block, shift);
                if let Some(bits) = t.free_blocks(place) {
                    bits.or(bit);
                }
            }
            BlockState::Reserved if !whole => {
                record.word.set(0);
                release_block(t, cfg, block);
            }
            _ => {}
        }
        if BlockWord(record.word.get()).state() != BlockState::Reserved {
            close(t, block, shift, closed);
        }
    }
    if fresh {
        (0..cfg.addresses).for_each(|address| count_free(t, cfg, address));
    }
}

/// Takes a free block out of the bitmap, against the data path; false if that was faster.
fn take<T: Tables>(t: &T, cfg: &Numbers, block: u32) -> bool {
    let (place, bit) = free_place(block, cfg.block_shift);
    let Some(bits) = t.free_blocks(place) else { return false };
    loop {
        let free = bits.get();
        if free & bit == 0 {
            return false;
        }
        if bits.replace(free, free & !bit) {
            let (address, _) = block_parts(block, cfg.block_shift);
            if let Some(address) = t.address(address) {
                address.free_blocks.fetch_add(u64::MAX);
            }
            return true;
        }
    }
}

/// Sets the bits of closed ports. One that is in use stays so until its binding ends; then its bit stays.
fn close<T: Tables>(t: &T, block: u32, shift: u32, closed: &Closed) {
    let (address, first) = block_parts(block, shift);
    for (word, span) in words_of(first, shift) {
        let bits = closed.word(word) & span;
        if bits == 0 {
            continue;
        }
        for proto in Proto::ALL {
            if let Some(used) = t.used_ports((slot_index(address, proto, 0) >> 6) + word) {
                used.or(bits);
            }
        }
    }
}

fn count_free<T: Tables>(t: &T, cfg: &Numbers, address: u32) {
    if let Some(entry) = t.address(address) {
        entry.free_blocks.set(free_blocks(t, cfg, address));
    }
}

/// Blocks of an address that are free now, by the bitmap.
pub fn free_blocks<T: Tables>(t: &T, cfg: &Numbers, address: u32) -> u64 {
    let words = free_words(cfg.block_shift);
    (address * words..(address + 1) * words)
        .filter_map(|place| t.free_blocks(place))
        .map(|bits| u64::from(bits.get().count_ones()))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::testing::{Lab, lab};
    use nat_common::{
        counters::{REFUSED, Reason, refused},
        flow::{Endpoint, InsideKey},
        ports::allocate,
    };

    fn closed(text: &str) -> Closed {
        Closed::from(&text.parse::<PortSet>().unwrap())
    }

    fn key(host: u32, port: u16) -> InsideKey {
        InsideKey {
            proto: Proto::Tcp,
            inside: Endpoint::new(host, port),
        }
    }

    /// Allocates until nothing is left; returns the ports.
    fn drain(Lab { tables, cfg, .. }: &Lab) -> Vec<u16> {
        let mut ports = Vec::new();
        for host in 1..2000 {
            let mut reason = 0;
            for port in 0..cfg.block_size() * cfg.blocks_per_host {
                match allocate(tables, cfg, &key(host, port as u16), 100) {
                    slot if slot & REFUSED != 0 => {
                        reason = slot;
                        break;
                    }
                    slot => ports.push(slot as u16),
                }
            }
            if reason == refused(Reason::Exhausted) {
                break;
            }
        }
        ports.sort_unstable();
        ports
    }

    #[test]
    fn exactly_the_open_ports_are_given_out() {
        for shift in [4, 6, 8] {
            let lab = lab(1, shift);
            let closed = closed("0-40000,40010,50000-65535");
            apply(&lab.tables, &lab.cfg, &closed, true);
            let open: Vec<u16> = (0..=65535).filter(|port| !closed.contains(*port)).collect();
            assert_eq!(drain(&lab), open, "{shift}");
            assert_eq!(closed.open_ports() as usize, open.len());
        }
    }

    #[test]
    fn it_may_be_done_again_and_changed_while_in_use() {
        let lab = lab(1, 6);
        let (tables, cfg) = (&lab.tables, &lab.cfg);
        let first = closed("0-65000");
        apply(tables, cfg, &first, true);
        let slot = allocate(tables, cfg, &key(1, 1), 100);
        let (address, block) = (&tables.addresses[0], &tables.blocks[(slot as usize & 0xffff) >> 6]);
        let free = address.free_blocks.get();
        assert_eq!(free, u64::from(first.open_blocks(6)) - 1);
        apply(tables, cfg, &first, false);
        assert_eq!((address.free_blocks.get(), free_blocks(tables, cfg, 0)), (free, free));
        // Everything closed: the host keeps its block, the others go.
        let all = closed("0-65535");
        apply(tables, cfg, &all, false);
        assert_eq!((address.free_blocks.get(), free_blocks(tables, cfg, 0)), (0, 0));
        assert_eq!(BlockWord(block.word.get()).state(), BlockState::Owned);
        assert_ne!(allocate(tables, cfg, &key(1, 2), 100) & REFUSED, 0);
        // And open again.
        apply(tables, cfg, &first, false);
        assert_eq!(address.free_blocks.get(), free);
    }
}

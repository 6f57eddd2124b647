//! A certain port for a host, if it can have it: for clients that ask again for what they had (RFC 6887 section 11.3).

use nat_common::{
    config::Config as Numbers,
    counters::REFUSED,
    flow::InsideKey,
    maps::{AddressWord, BlockState, BlockWord, Host, HostWord, MAX_BLOCKS_PER_HOST, SlotState, SlotWord},
    ports::{NO_HOST, NO_PLACE, block_index, enter_host, find_host, free_place, release_block, slot_parts, used_place},
    tables::Tables,
};

use super::server::Denied;
use crate::pool::Closed;

/// Takes the port of slot `index` for `key`: it has to be free, in a block that is the host's or nobody's. Its bit is set then, and its slot untouched.
///
/// # Errors
/// [`Denied::Taken`] if it cannot be had, [`Denied::Quota`] if the host may have no further block.
pub fn take<T: Tables>(
    t: &T,
    cfg: &Numbers,
    closed: &Closed,
    key: &InsideKey,
    index: u32,
    now: u32,
) -> Result<(), Denied> {
    let (address, _, port) = slot_parts(index);
    if closed.contains(port) {
        return Err(Denied::Taken);
    }
    let number = block_index(address, port, cfg.block_shift);
    let block = t.block(number).ok_or(Denied::Taken)?;
    let word = BlockWord(block.word.get());
    match word.state() {
        BlockState::Owned if word.owner() == key.inside.addr => {}
        BlockState::Free => {
            let host = host_on(t, cfg, key.inside.addr, address, now)?;
            take_block(t, cfg, host, number, key.inside.addr, now)?;
        }
        _ => return Err(Denied::Taken),
    }
    take_port(t, key, index)
}

/// The number of the host's record, if its blocks are on this address: a host has one external address (RFC 4787 REQ-2).
fn host_on<T: Tables>(t: &T, cfg: &Numbers, addr: u32, address: u32, now: u32) -> Result<u32, Denied> {
    let mut number = find_host(t, cfg, addr);
    if number == NO_HOST {
        number = enter_host(t, cfg, addr, address, now);
        if number & REFUSED != 0 {
            return Err(Denied::Exhausted);
        }
    }
    let host = t.host(number).ok_or(Denied::Exhausted)?;
    let word = HostWord(host.word.get());
    let there = word.address_index() == address
        || t.count_blocks(cfg, number) == 0 && host.word.replace(word.0, HostWord::new(addr, address).0);
    match there {
        true => Ok(number),
        false => Err(Denied::Taken),
    }
}

fn take_block<T: Tables>(t: &T, cfg: &Numbers, host: u32, number: u32, addr: u32, now: u32) -> Result<(), Denied> {
    let (word, bit) = free_place(number, cfg.block_shift);
    let address = number >> (16 - cfg.block_shift);
    let (Some(bits), Some(block), Some(record), Some(entry)) =
        (t.free_blocks(word), t.block(number), t.host(host), t.address(address))
    else {
        return Err(Denied::Taken);
    };
    if !AddressWord(entry.word.get()).active() {
        return Err(Denied::Taken);
    }
    if t.free_place(cfg, host) == NO_PLACE {
        return Err(Denied::Quota);
    }
    loop {
        let free = bits.get();
        if free & bit == 0 {
            return Err(Denied::Taken);
        }
        if bits.replace(free, free & !bit) {
            break;
        }
    }
    entry.free_blocks.fetch_add(u64::MAX);
    block.since.set(now);
    block.logged.set(0);
    block.word.set(BlockWord::new(BlockState::Owned, addr).0);
    if list(t, cfg, host, record, number) {
        return Ok(());
    }
    block.word.set(0);
    release_block(t, cfg, number);
    Err(Denied::Quota)
}

/// Puts a block into the host's list; packets of the host may do the same.
fn list<T: Tables>(t: &T, cfg: &Numbers, host: u32, record: &Host, number: u32) -> bool {
    loop {
        let place = t.free_place(cfg, host) as usize;
        if place >= MAX_BLOCKS_PER_HOST {
            return false;
        }
        if record.blocks[place].replace(0, u64::from(number) + 1) {
            return true;
        }
    }
}

/// Takes the bit of a port. One that rests after the same endpoint has used it is not taken (RFC 6887 section 15).
fn take_port<T: Tables>(t: &T, key: &InsideKey, index: u32) -> Result<(), Denied> {
    let (place, bit) = used_place(index);
    let (Some(word), Some(slot)) = (t.used_ports(place), t.slot(index)) else {
        return Err(Denied::Taken);
    };
    loop {
        let used = word.get();
        if used & bit != 0 {
            let rests = SlotWord(slot.word.get());
            let own = rests.state() == SlotState::Resting && nat_common::binding::inside_of(slot) == key.inside;
            let claimed = SlotWord::new(SlotState::Claimed, rests.generation(), rests.stamp());
            return match own && slot.word.replace(rests.0, claimed.0) {
                true => Ok(()),
                false => Err(Denied::Taken),
            };
        }
        if word.replace(used, used | bit) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use nat_common::{
        binding,
        flow::{Endpoint, Proto},
        ports::slot_index,
    };

    use super::*;
    use crate::{config::Ports, dataplane::testing::lab, pool};

    fn key(host: u8, port: u16) -> InsideKey {
        InsideKey {
            proto: Proto::Udp,
            inside: Endpoint::new(0x0a00_0000 + u32::from(host), port),
        }
    }

    #[test]
    fn a_port_of_nobodys_block_is_taken_with_its_block_and_others_cannot_have_it() {
        let lab = lab(2, 6);
        let closed = Closed::new(&Ports::default(), None);
        pool::apply(&lab.tables, &lab.cfg, &closed, true);
        let take = |key: &InsideKey, index| take(&lab.tables, &lab.cfg, &closed, key, index, 5);
        let at = |address, port| slot_index(address, Proto::Udp, port);
        let free = |address: usize| lab.tables.addresses[address].free_blocks.get();
        let before = free(1);
        assert_eq!(take(&key(1, 5060), at(1, 20_000)), Ok(()));
        assert_eq!(free(1), before - 1);
        let slot = binding::create_at(&lab.tables, &lab.cfg, &key(1, 5060), at(1, 20_000), 5);
        assert_eq!(slot, at(1, 20_000));
        assert_eq!(binding::find(&lab.tables, &lab.cfg, &key(1, 5060), 6), Some(slot));
        assert_eq!(take(&key(1, 5062), at(1, 20_000)), Err(Denied::Taken), "in use");
        assert_eq!(take(&key(1, 5062), at(1, 20_002)), Ok(()), "the block is its own");
        assert_eq!(free(1), before - 1);
        assert_eq!(
            take(&key(2, 1), at(1, 20_004)),
            Err(Denied::Taken),
            "another host's block"
        );
        assert_eq!(
            take(&key(1, 1), at(0, 30_000)),
            Err(Denied::Taken),
            "another address than its blocks'"
        );
        assert_eq!(take(&key(2, 1), at(0, 80)), Err(Denied::Taken), "not given out");
        // What traffic of the same host gets next is in the block that it has.
        let next = binding::create(&lab.tables, &lab.cfg, &key(1, 7000), 6);
        assert_eq!(
            block_index(1, 20_000, 6),
            block_index(slot_parts(next).0, slot_parts(next).2, 6)
        );
    }

    #[test]
    fn a_port_that_rests_goes_back_to_who_had_it_and_to_nobody_else() {
        let lab = lab(1, 6);
        let closed = Closed::new(&Ports::default(), None);
        pool::apply(&lab.tables, &lab.cfg, &closed, true);
        let slot = binding::create(&lab.tables, &lab.cfg, &key(1, 5060), 5);
        let record = lab.tables.slot(slot).unwrap();
        assert!(crate::forwards::retire(&lab.tables, &lab.cfg, slot, record, 6));
        let take = |key: &InsideKey| take(&lab.tables, &lab.cfg, &closed, key, slot, 7);
        assert_eq!(take(&key(1, 5062)), Err(Denied::Taken));
        assert_eq!(take(&key(1, 5060)), Ok(()));
        assert_eq!(binding::create_at(&lab.tables, &lab.cfg, &key(1, 5060), slot, 7), slot);
        assert_eq!(binding::find(&lab.tables, &lab.cfg, &key(1, 5060), 8), Some(slot));
    }

    #[test]
    fn a_host_gets_no_more_blocks_than_its_quota() {
        let mut lab = lab(1, 6);
        lab.cfg.blocks_per_host = 2;
        let closed = Closed::new(&Ports::default(), None);
        pool::apply(&lab.tables, &lab.cfg, &closed, true);
        let take = |port| {
            take(
                &lab.tables,
                &lab.cfg,
                &closed,
                &key(1, port),
                slot_index(0, Proto::Udp, port),
                5,
            )
        };
        assert_eq!((take(20_000), take(21_000)), (Ok(()), Ok(())));
        let free = lab.tables.addresses[0].free_blocks.get();
        assert_eq!(take(22_000), Err(Denied::Quota));
        assert_eq!(lab.tables.addresses[0].free_blocks.get(), free);
    }
}

//! What several test programs use: a sweeper as the daemon has one, and an audit of all tables.

use nat_common::binding::{self, Ending, expiry};
use nat_common::flow::{Endpoint, InsideKey, Proto};
use nat_common::maps::{BlockState, BlockWord, HostWord, KIND_DYNAMIC, MAX_BLOCKS_PER_HOST, SlotState, SlotWord};
use nat_common::memory::MemTables;
use nat_common::ports::{
    block_index, block_parts, find_host, free_place, release_block, release_port, slot_parts, used_place,
};
use nat_common::session::{SessionWord, stale};
use nat_common::tables::Tables;
use std::collections::HashMap;
use std::ops::RangeInclusive;

/// One pass over everything: ended bindings rest, rested ports are free, empty blocks go back, stale sessions are gone.
/// Runs beside packets on other threads.
pub fn sweep(t: &MemTables) {
    let (cfg, now) = (t.active(), t.time());
    for index in used_slots(t) {
        sweep_slot(t, index);
    }
    for index in 0..t.block_count() {
        sweep_block(t, index);
    }
    for index in 0..t.session_count() {
        let session = t.session(index).unwrap();
        let word = SessionWord(session.word.get());
        if word.0 != 0 && stale(t, cfg, session, word, now) {
            session.word.replace(word.0, 0);
        }
    }
}

fn sweep_slot(t: &MemTables, index: u32) {
    let (cfg, now) = (t.active(), t.time());
    let slot = t.slot(index).unwrap();
    let word = SlotWord(slot.word.get());
    match word.state() {
        SlotState::Live => {
            let Some(end) = expiry(t, cfg, index, slot, word) else {
                return;
            };
            if (now.wrapping_sub(end) as i32) < 0 {
                return;
            }
            let ending = Ending {
                word,
                next: SlotWord::new(SlotState::Resting, word.generation(), end),
                spare: 0,
                reserved: 0,
            };
            // A packet that used the binding since keeps it.
            binding::end(t, cfg, index, &ending, now);
        }
        SlotState::Resting
            if now.wrapping_sub(word.stamp()) >= cfg.rest
                && slot
                    .word
                    .replace(word.0, SlotWord::new(SlotState::Free, word.generation(), 0).0) =>
        {
            release_port(t, index);
        }
        _ => {}
    }
}

/// An owned block without a used port leaves its host's list; when still nobody has a port of it, it is free.
fn sweep_block(t: &MemTables, index: u32) {
    let cfg = t.active();
    let block = t.block(index).unwrap();
    let word = BlockWord(block.word.get());
    let (address, first) = block_parts(index, cfg.block_shift);
    let empty = || {
        (0..cfg.block_size()).all(|n| {
            Proto::ALL.iter().all(|&proto| {
                let slot = nat_common::ports::slot_index(address, proto, first + n as u16);
                let (word, bit) = used_place(slot);
                t.used_ports(word).unwrap().get() & bit == 0
            })
        })
    };
    match word.state() {
        BlockState::Owned if empty() => {
            if !block
                .word
                .replace(word.0, BlockWord::new(BlockState::Draining, word.owner()).0)
            {
                return;
            }
            if let Some(host) = t.host(find_host(t, cfg, word.owner())) {
                for entry in &host.blocks {
                    entry.replace(u64::from(index) + 1, 0);
                }
            }
        }
        BlockState::Draining if empty() && block.word.replace(word.0, 0) => release_block(t, cfg, index),
        _ => {}
    }
}

/// The slots whose bit is set.
pub fn used_slots(t: &MemTables) -> Vec<u32> {
    let words = 0..t.slot_count() / 64;
    let bits = |word: u32| {
        let used = t.used_ports(word).unwrap().get();
        (0..64)
            .filter(move |bit| used >> bit & 1 == 1)
            .map(move |bit| word * 64 + bit)
    };
    words.flat_map(bits).collect()
}

/// What holds between packets, whatever happened before: the tables agree with each other.
///
/// `pool` are the ports that are given out.
pub fn audit(t: &MemTables, pool: RangeInclusive<u16>) {
    let (cfg, now) = (t.active(), t.time());
    let mut keys: HashMap<(Proto, Endpoint), u32> = HashMap::new();
    let spaces = (0..t.slot_count()).step_by(1 << 16);
    let ports = *pool.start()..=*pool.end();
    for index in spaces.flat_map(|space| ports.clone().map(move |port| space | u32::from(port))) {
        let (word, bit) = used_place(index);
        let used = t.used_ports(word).unwrap().get() & bit != 0;
        let (address, proto, port) = slot_parts(index);
        let block = BlockWord(t.block(block_index(address, port, cfg.block_shift)).unwrap().word.get());
        if !used {
            let slot = t.slot(index).unwrap();
            assert_eq!(
                SlotWord(slot.word.get()).state(),
                SlotState::Free,
                "{proto:?} {port}: in use, but its bit is free"
            );
            continue;
        }
        let slot = t.slot(index).unwrap();
        let word = SlotWord(slot.word.get());
        assert_ne!(
            word.state(),
            SlotState::Free,
            "{proto:?} {port}: its bit is set, but nobody has it"
        );
        assert_ne!(word.state(), SlotState::Claimed, "{proto:?} {port}: claimed for ever");
        if slot.kind.get() != KIND_DYNAMIC || binding::live(t, cfg, index, slot, now).is_none() {
            continue;
        }
        let inside = Endpoint::new(slot.inside_addr.get(), slot.inside_port.get());
        assert!(
            matches!(block.state(), BlockState::Owned | BlockState::Draining) && block.owner() == inside.addr,
            "{proto:?} {port} of {inside:?} is in a block of somebody else: {block:?}"
        );
        if let Some(other) = keys.insert((proto, inside), index) {
            panic!("{proto:?} {inside:?} has two live bindings: slots {other} and {index}");
        }
        let key = InsideKey { proto, inside };
        assert_eq!(
            binding::find(t, cfg, &key, now),
            Some(index),
            "{key:?} is not in the index"
        );
    }
    audit_blocks(t);
}

fn audit_blocks(t: &MemTables) {
    let cfg = t.active();
    let mut listed = HashMap::new();
    for index in 0..t.host_count() {
        let host = t.host(index).unwrap();
        let owner = HostWord(host.word.get());
        let blocks: Vec<u32> = host.blocks.iter().map(|b| b.get() as u32).filter(|&b| b != 0).collect();
        assert!(
            blocks.len() <= cfg.blocks_per_host as usize && blocks.len() <= MAX_BLOCKS_PER_HOST,
            "quota"
        );
        for block in blocks {
            assert_eq!(
                listed.insert(block - 1, owner.addr()),
                None,
                "block {} twice",
                block - 1
            );
        }
    }
    let mut free_on = HashMap::<u32, u64>::new();
    for index in 0..t.block_count() {
        let block = BlockWord(t.block(index).unwrap().word.get());
        let (word, bit) = free_place(index, cfg.block_shift);
        let free = t.free_blocks(word).unwrap().get() & bit != 0;
        *free_on.entry(block_parts(index, cfg.block_shift).0).or_default() += u64::from(free);
        assert_eq!(free, block.state() == BlockState::Free, "block {index}: {block:?}");
        let owner = listed.get(&index).copied();
        let owned = (block.state() == BlockState::Owned).then(|| block.owner());
        assert_eq!(owner, owned, "block {index}: {block:?}");
    }
    for (address, free) in free_on {
        assert_eq!(
            t.address(address).unwrap().free_blocks.get(),
            free,
            "count of free blocks"
        );
    }
}

//! The blocks' part of a pass: who has no use for a block loses it, and what nobody has is free.

use std::collections::HashMap;

use nat_common::{
    flow::Proto,
    maps::{AddressWord, Block, BlockState, BlockWord, SlotState, SlotWord},
    ports::{NO_HOST, block_parts, find_host, free_place, release_block, slot_index, used_place},
    tables::Tables,
};

use super::{BlockNews, Pass};

impl<T: Tables> Pass<'_, T> {
    /// Looks at every block. `before` are those that looked wrong in the last pass.
    pub(super) fn blocks(&mut self, before: &HashMap<u32, u64>, news: &mut dyn FnMut(BlockNews)) {
        for number in 0..self.cfg.addresses << (16 - self.cfg.block_shift) {
            let Some(block) = self.t.block(number) else { return };
            let word = BlockWord(block.word.get());
            if word.state() == BlockState::Reserved {
                continue;
            }
            self.stats.blocks_total += 1;
            let age = self.round.now.wrapping_sub(block.since.get()).cast_signed();
            let settled = age >= 0 && age.cast_unsigned() >= self.round.settled;
            match word.state() {
                BlockState::Owned | BlockState::Draining if !settled => self.stats.blocks_used += 1,
                BlockState::Owned => self.owned(number, block, word, before, news),
                BlockState::Draining => self.draining(number, block, word, news),
                _ => self.free_block(number, word, before),
            }
        }
    }

    /// A block that nobody uses, or that its owner does not know of, is taken away: it drains.
    fn owned(
        &mut self,
        number: u32,
        block: &Block,
        word: BlockWord,
        before: &HashMap<u32, u64>,
        news: &mut dyn FnMut(BlockNews),
    ) {
        self.stats.blocks_used += 1;
        if block.logged.get() == 0 {
            news(BlockNews::Unlogged { block: number });
        }
        let listed = self.list_entry(number, word.owner());
        if self.leases[number as usize] == 0 {
            self.drain(number, block, word);
        } else if listed.is_none() {
            if before.get(&number) == Some(&word.0) {
                self.drain(number, block, word);
                self.stats.repaired += 1;
            } else {
                self.odd.insert(number, word.0);
            }
        }
    }

    fn drain(&self, number: u32, block: &Block, word: BlockWord) {
        let draining = BlockWord::new(BlockState::Draining, word.owner());
        if block.word.replace(word.0, draining.0)
            && let Some((host, place)) = self.list_entry(number, word.owner())
            && let Some(host) = self.t.host(host)
        {
            host.blocks[place].replace(u64::from(number) + 1, 0);
        }
    }

    /// A block that has been draining for a pass and is empty goes back to the pool.
    fn draining(&mut self, number: u32, block: &Block, word: BlockWord, news: &mut dyn FnMut(BlockNews)) {
        let (_, first) = block_parts(number, self.cfg.block_shift);
        let empty = self.leases[number as usize] == 0 && self.only_forwards(number);
        if !empty {
            self.stats.blocks_used += 1;
            return;
        }
        let (address, _) = block_parts(number, self.cfg.block_shift);
        news(BlockNews::Released {
            block: number,
            address: self.t.address(address).map_or(0, |a| AddressWord(a.word.get()).addr()),
            host: word.owner(),
            since: block.since.get(),
            logged: block.logged.get() != 0,
        });
        if self.round.closed.whole_block(first, self.cfg.block_shift) {
            block.word.set(BlockWord::new(BlockState::Reserved, 0).0);
            return;
        }
        block.word.set(0);
        release_block(self.t, self.cfg, number);
    }

    /// Whether all ports in use in a block are forwards, now and not only when the ports were looked at.
    fn only_forwards(&self, number: u32) -> bool {
        let (address, first) = block_parts(number, self.cfg.block_shift);
        let mut ports = u32::from(first)..u32::from(first) + self.cfg.block_size();
        ports.all(|port| {
            let port = port as u16;
            Proto::ALL.into_iter().all(|proto| {
                let index = slot_index(address, proto, port);
                let (place, bit) = used_place(index);
                let used = self.t.used_ports(place).is_some_and(|word| word.get() & bit != 0);
                let forward = self
                    .t
                    .slot(index)
                    .is_some_and(|slot| SlotWord(slot.word.get()).state() == SlotState::Live && slot.is_forward());
                !used || forward || self.round.closed.contains(port)
            })
        })
    }

    /// A free block is in the bitmap.
    fn free_block(&mut self, number: u32, word: BlockWord, before: &HashMap<u32, u64>) {
        let (place, bit) = free_place(number, self.cfg.block_shift);
        if self.t.free_blocks(place).is_none_or(|bits| bits.get() & bit != 0) {
            return;
        }
        if before.get(&number) == Some(&word.0) {
            release_block(self.t, self.cfg, number);
            self.stats.repaired += 1;
        } else {
            self.odd.insert(number, word.0);
        }
    }

    /// The record of a block's owner and the block's place in its list.
    fn list_entry(&self, number: u32, owner: u32) -> Option<(u32, usize)> {
        let index = find_host(self.t, self.cfg, owner);
        if index == NO_HOST {
            return None;
        }
        let host = self.t.host(index)?;
        let place = host
            .blocks
            .iter()
            .position(|entry| entry.get() == u64::from(number) + 1)?;
        Some((index, place))
    }
}

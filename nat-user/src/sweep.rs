//! Frees what has expired. For packets an expired entry is absent at once; this only makes it usable again.
//!
//! Every change re-checks by compare-and-swap what it was decided upon, so that a packet and the sweeper never race: who
//! comes second finds that the word has changed and leaves it. What should not be (a port that is taken while its slot is
//! free, a block that is in nobody's list) is put right when it is found unchanged in two passes, because for a
//! microsecond in between two steps of a packet all of it is normal.

mod blocks;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, time::Duration};

use nat_common::{
    binding::{self, Ending},
    config::Config as Numbers,
    flow::PROTOCOLS,
    fragment,
    maps::{BlockState, BlockWord, FRAGMENT_BUCKET, HostWord, PORTS, SESSION_BUCKET, Slot, SlotState, SlotWord},
    ports::{block_index, release_port, slot_parts},
    session::{SessionWord, stale},
    tables::Tables,
};

use crate::pool::{self, Closed};

/// Sessions, fragments and hosts are looked at in every so many passes.
const SELDOM: u64 = 10;
/// Most bindings of one pass that are looked up in the index, because their slot says that their time is over: packets from
/// inside stamp the index. What is left waits for the next pass; for packets it is absent already, if it is over.
const LOOK_UPS: u32 = 200_000;

/// What a pass found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Passes so far, with this one.
    pub passes: u64,
    /// Ports in use that the pass looked at: bindings, forwards, and ports that rest.
    pub visited: u64,
    /// Live bindings by protocol, in the order of `Proto`; forwards too.
    pub bindings: [u64; PROTOCOLS as usize],
    /// Ports that rest.
    pub resting: u64,
    /// Blocks that hosts have.
    pub blocks_used: u64,
    /// Blocks that are not reserved.
    pub blocks_total: u64,
    /// Sessions, when they were counted last.
    pub sessions: u64,
    /// Inside hosts, likewise.
    pub hosts: u64,
    /// Bindings whose time was over.
    pub expired: u64,
    /// Things put right that should not have been.
    pub repaired: u64,
    /// Processor time of the pass.
    pub cpu: Duration,
    /// That of the dearest of the last ten passes: one of them looks at sessions, fragments and hosts too.
    pub cpu_max: Duration,
}

/// What the log of blocks is to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockNews {
    /// The block has an owner, and nobody has said so.
    Unlogged {
        /// Block number.
        block: u32,
    },
    /// The block goes back to the pool.
    Released {
        /// Block number.
        block: u32,
        /// The external address that it is on.
        address: u32,
        /// Its owner.
        host: u32,
        /// Since when, in ticks.
        since: u32,
        /// Whether its assignment is in the log.
        logged: bool,
    },
}

/// What is remembered from pass to pass.
#[derive(Debug, Default)]
pub struct Sweeper {
    passes: u64,
    /// Slots and blocks that looked wrong in the last pass, with the word they had.
    odd_slots: HashMap<u32, u64>,
    odd_blocks: HashMap<u32, u64>,
    /// Difference between an address's counter of free blocks and its bitmap in the last pass.
    odd_counts: HashMap<u32, u64>,
    /// Hosts without blocks, and since when.
    idle_hosts: HashMap<u32, u32>,
    sessions: u64,
    hosts: u64,
    /// Processor time of the last passes.
    recent: [Duration; SELDOM as usize],
}

impl Sweeper {
    /// One pass over everything. `host_idle` is how long a host without blocks is remembered, `settled` how old a block is at
    /// least before it is looked at, both in ticks; `news` is told about blocks before they can have another owner.
    pub fn pass<T: Tables>(&mut self, t: &T, cfg: &Numbers, round: &Round, news: &mut dyn FnMut(BlockNews)) -> Stats {
        let start = cpu_time();
        let mut pass = Pass {
            t,
            cfg,
            round,
            stats: Stats::default(),
            leases: vec![0; (cfg.addresses << (16 - cfg.block_shift)) as usize],
            odd: HashMap::new(),
            looked_up: 0,
        };
        pass.slots(&self.odd_slots);
        self.odd_slots = std::mem::take(&mut pass.odd);
        pass.blocks(&self.odd_blocks, news);
        self.odd_blocks = std::mem::take(&mut pass.odd);
        self.counts(t, cfg, &mut pass.stats);
        let mut stats = pass.stats;
        if self.passes.is_multiple_of(SELDOM) {
            self.sessions = sessions(t, cfg, round.now);
            fragments(t, cfg, round.now);
            self.hosts(t, cfg, round);
        }
        self.passes += 1;
        stats.passes = self.passes;
        stats.sessions = self.sessions;
        stats.hosts = self.hosts;
        stats.cpu = cpu_time().saturating_sub(start);
        self.recent[(self.passes % SELDOM) as usize] = stats.cpu;
        stats.cpu_max = self.recent.into_iter().max().unwrap_or_default();
        stats
    }

    /// Puts the counters of free blocks right, which packets only ask whether they are zero.
    fn counts<T: Tables>(&mut self, t: &T, cfg: &Numbers, stats: &mut Stats) {
        let mut odd = HashMap::new();
        for place in 0..cfg.addresses {
            let Some(address) = t.address(place) else { continue };
            let off = pool::free_blocks(t, cfg, place).wrapping_sub(address.free_blocks.get());
            if off == 0 {
                continue;
            }
            if self.odd_counts.get(&place) == Some(&off) {
                address.free_blocks.fetch_add(off);
                stats.repaired += 1;
            } else {
                odd.insert(place, off);
            }
        }
        self.odd_counts = odd;
    }

    fn hosts<T: Tables>(&mut self, t: &T, cfg: &Numbers, round: &Round) {
        let mut idle = HashMap::new();
        self.hosts = 0;
        for index in 0..=cfg.host_mask {
            let Some(host) = t.host(index) else { return };
            let word = HostWord(host.word.get());
            if !word.used() {
                continue;
            }
            self.hosts += 1;
            let mut blocks = 0;
            for entry in &host.blocks {
                let number = entry.get();
                if number == 0 {
                    continue;
                }
                let owner = t.block(number as u32 - 1).map(|block| BlockWord(block.word.get()));
                if owner.is_some_and(|o| o.state() == BlockState::Owned && o.owner() == word.addr()) {
                    blocks += 1;
                } else {
                    // A block becomes its owner's before it gets into the list, so this one is somebody else's.
                    entry.replace(number, 0);
                }
            }
            if blocks != 0 {
                continue;
            }
            let since = self.idle_hosts.get(&index).copied().unwrap_or(round.now);
            if round.now.wrapping_sub(since) < round.host_idle {
                idle.insert(index, since);
            } else if host.word.replace(word.0, 0) {
                // A packet may have been about to give it a block.
                if host.blocks.iter().any(|entry| entry.get() != 0) {
                    host.word.replace(0, word.0);
                } else {
                    self.hosts -= 1;
                }
            }
        }
        self.idle_hosts = idle;
    }
}

/// What a pass is to know. Times in ticks.
pub struct Round<'a> {
    /// Now.
    pub now: u32,
    /// Ports that are not given out.
    pub closed: &'a Closed,
    /// How long a host without blocks is remembered.
    pub host_idle: u32,
    /// How old an assignment is at least before the sweeper looks at the block.
    pub settled: u32,
}

struct Pass<'a, T> {
    t: &'a T,
    cfg: &'a Numbers,
    round: &'a Round<'a>,
    stats: Stats,
    /// Ports of each block that belong to its owner.
    leases: Vec<u32>,
    /// What looked wrong in this pass.
    odd: HashMap<u32, u64>,
    /// Bindings that were looked up in the index.
    looked_up: u32,
}

/// What becomes of a used port.
enum Fate {
    /// It is its block's owner's.
    Lease,
    /// A forward, or closed: it says nothing about the block.
    Neutral,
    /// It was freed.
    Freed,
}

impl<T: Tables> Pass<'_, T> {
    fn slots(&mut self, before: &HashMap<u32, u64>) {
        for place in 0..self.cfg.addresses * PROTOCOLS * (PORTS / 64) {
            let Some(used) = self.t.used_ports(place) else { return };
            let mut bits = used.get();
            while bits != 0 {
                let index = place * 64 + bits.trailing_zeros();
                bits &= bits - 1;
                let Some(slot) = self.t.slot(index) else { return };
                if let Fate::Lease = self.slot(index, slot, before) {
                    let (address, _, port) = slot_parts(index);
                    self.leases[block_index(address, port, self.cfg.block_shift) as usize] += 1;
                }
            }
        }
    }

    fn slot(&mut self, index: u32, slot: &Slot, before: &HashMap<u32, u64>) -> Fate {
        let (now, word) = (self.round.now, SlotWord(slot.word.get()));
        let (_, proto, port) = slot_parts(index);
        let closed = self.round.closed.contains(port);
        // A closed port counts as used so that nobody takes it, which makes it no binding.
        if !closed || word.state() != SlotState::Free {
            self.stats.visited += 1;
        }
        match word.state() {
            SlotState::Live => {
                let over = binding::expiry(self.t, self.cfg, index, slot, word)
                    .is_some_and(|end| now.wrapping_sub(end).cast_signed() >= 0);
                if over && self.looked_up < LOOK_UPS {
                    self.looked_up += 1;
                    if self.end(index, word) {
                        self.stats.resting += 1;
                        self.stats.expired += 1;
                        return Fate::Lease;
                    }
                }
                self.stats.bindings[proto as usize] += 1;
                if slot.is_forward() { Fate::Neutral } else { Fate::Lease }
            }
            SlotState::Resting => {
                let age = now.wrapping_sub(word.stamp()).cast_signed();
                if age >= 0 && age.cast_unsigned() >= self.cfg.rest && self.free(index, slot, word, closed) {
                    return Fate::Freed;
                }
                self.stats.resting += 1;
                Fate::Lease
            }
            SlotState::Free if closed => Fate::Neutral,
            SlotState::Free | SlotState::Claimed => {
                if before.get(&index) != Some(&word.0) {
                    self.odd.insert(index, word.0);
                } else if self.free(index, slot, word, closed) {
                    self.stats.repaired += 1;
                    return Fate::Freed;
                }
                Fate::Lease
            }
        }
    }

    /// Ends a binding, unless it was used later than its slot says, or a packet uses it in this moment.
    fn end(&self, index: u32, word: SlotWord) -> bool {
        let ending = Ending {
            word,
            next: SlotWord::new(SlotState::Resting, word.generation(), self.round.now),
            spare: 0,
            reserved: 0,
        };
        binding::end(self.t, self.cfg, index, &ending, self.round.now)
    }

    /// Frees a slot and its port, unless a packet has just taken it.
    fn free(&self, index: u32, slot: &Slot, word: SlotWord, closed: bool) -> bool {
        let free = SlotWord::new(SlotState::Free, word.generation(), 0);
        let freed = slot.word.replace(word.0, free.0);
        if freed && !closed {
            release_port(self.t, index);
        }
        freed
    }
}

/// Frees sessions that have ended, with their binding or by time; returns how many there are.
fn sessions<T: Tables>(t: &T, cfg: &Numbers, now: u32) -> u64 {
    let mut count = 0;
    for index in 0..(cfg.session_mask + 1) * SESSION_BUCKET {
        let Some(session) = t.session(index) else { break };
        let word = SessionWord(session.word.get());
        if word.0 == 0 {
            continue;
        }
        let slot = t.slot(session.slot.get());
        let slot_word = slot.map_or(SlotWord(0), |slot| SlotWord(slot.word.get()));
        let over = stale(t, cfg, session, word, now) || slot_word.state() != SlotState::Live;
        if !over || !session.word.replace(word.0, 0) {
            count += 1;
            continue;
        }
        if let Some(slot) = slot
            && word.state().established()
            && slot_word.generation() == word.generation()
        {
            slot.established.add(u32::MAX);
        }
    }
    count
}

fn fragments<T: Tables>(t: &T, cfg: &Numbers, now: u32) {
    for index in 0..(cfg.fragment_mask + 1) * FRAGMENT_BUCKET {
        let Some(entry) = t.fragment(index) else { return };
        let word = entry.word.get();
        if word != 0 && fragment::expired(cfg, word, now) {
            entry.word.replace(word, 0);
        }
    }
}

/// Processor time of this thread.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a timespec of our own; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

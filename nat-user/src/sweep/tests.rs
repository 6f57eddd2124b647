//! The sweeper over tables in memory.

use super::*;
use crate::dataplane::testing::{Lab, lab};
use crate::net::PortSet;
use nat_common::{
    counters::REFUSED,
    flow::{Endpoint, InsideKey, Proto},
    maps::AddressWord,
    ports::{NO_HOST, find_host, free_place, free_words, used_place},
    session::{Flow, SessionState, find, make},
};

struct Ground {
    lab: Lab,
    closed: Closed,
    sweeper: Sweeper,
    news: Vec<BlockNews>,
}

impl Ground {
    fn new(shift: u32) -> Self {
        let lab = lab(1, shift);
        let closed = Closed::from(&"0-1023,5001".parse::<PortSet>().unwrap());
        pool::apply(&lab.tables, &lab.cfg, &closed, true);
        Self {
            lab,
            closed,
            sweeper: Sweeper::default(),
            news: Vec::new(),
        }
    }

    fn bind(&self, proto: Proto, host: u32, port: u16, now: u32) -> u32 {
        let key = InsideKey {
            proto,
            inside: Endpoint::new(host, port),
        };
        let slot = binding::create(&self.lab.tables, &self.lab.cfg, &key, now);
        assert_eq!(slot & REFUSED, 0);
        slot
    }

    fn pass(&mut self, now: u32) -> Stats {
        let round = Round {
            now,
            closed: &self.closed,
            host_idle: 100,
            settled: 1,
        };
        let news = &mut self.news;
        self.sweeper
            .pass(&self.lab.tables, &self.lab.cfg, &round, &mut |one| news.push(one))
    }

    fn state(&self, slot: u32) -> SlotState {
        SlotWord(self.lab.tables.slots[slot as usize].word.get()).state()
    }

    fn used(&self, slot: u32) -> bool {
        let (place, bit) = used_place(slot);
        self.lab.tables.used_ports[place as usize].get() & bit != 0
    }

    fn free_blocks(&self) -> (u64, u64) {
        let counter = self.lab.tables.addresses[0].free_blocks.get();
        (counter, pool::free_blocks(&self.lab.tables, &self.lab.cfg, 0))
    }
}

#[test]
fn a_binding_expires_rests_and_is_free_and_its_block_goes_back() {
    for shift in [4, 6, 8] {
        let mut g = Ground::new(shift);
        let all = g.free_blocks();
        let slot = g.bind(Proto::Udp, 7, 5060, 1000);
        assert_eq!(g.free_blocks(), (all.0 - 1, all.1 - 1));
        let stats = g.pass(1049);
        assert_eq!((stats.bindings, stats.blocks_used, stats.visited), ([0, 1, 0], 1, 1));
        let block = block_index(0, slot as u16, shift);
        assert_eq!(g.news, [BlockNews::Unlogged { block }]);
        g.lab.tables.blocks[block as usize].logged.set(1);
        assert_eq!(g.state(slot), SlotState::Live);
        g.pass(1050);
        assert_eq!((g.state(slot), g.used(slot)), (SlotState::Resting, true));
        g.pass(1069);
        assert_eq!(g.state(slot), SlotState::Resting);
        let stats = g.pass(1070);
        assert_eq!((g.state(slot), g.used(slot)), (SlotState::Free, false));
        assert_eq!(stats.repaired, 0);
        assert_eq!(
            g.free_blocks(),
            (all.0 - 1, all.1 - 1),
            "a packet may be taking a port of it"
        );
        g.pass(1071);
        assert_eq!(g.free_blocks(), all);
        let released = BlockNews::Released {
            block,
            address: 0xcb00_7101,
            host: 7,
            since: 1000,
            logged: true,
        };
        assert_eq!(g.news[1..], [released]);
    }
}

#[test]
fn what_a_packet_refreshed_stays_and_forwards_never_go() {
    let mut g = Ground::new(6);
    let slot = g.bind(Proto::Udp, 7, 5060, 1000);
    let entry = &g.lab.tables.slots[slot as usize];
    entry.word.set(SlotWord(entry.word.get()).stamped(1040).0);
    let fixed = g.bind(Proto::Tcp, 8, 80, 1000);
    let entry = &g.lab.tables.slots[fixed as usize];
    entry.kind.set(nat_common::maps::KIND_STATIC);
    entry.lifetime.set(nat_common::config::FOREVER);
    g.pass(1089);
    assert_eq!(g.state(slot), SlotState::Live);
    for now in 1090..2000 {
        g.pass(now);
    }
    assert_eq!((g.state(slot), g.state(fixed)), (SlotState::Free, SlotState::Live));
    let block = block_index(0, fixed as u16, 6) as usize;
    assert_eq!(
        BlockWord(g.lab.tables.blocks[block].word.get()).state(),
        BlockState::Free,
        "a forward is no lease"
    );
    assert!(g.used(fixed));
}

#[test]
fn bindings_of_a_former_address_end() {
    let mut g = Ground::new(6);
    let slot = g.bind(Proto::Icmp, 7, 1, 1000);
    g.lab.tables.addresses[0]
        .word
        .set(AddressWord::new(0xcb00_7102, 2, true).0);
    let stats = g.pass(1001);
    assert_eq!((g.state(slot), stats.expired), (SlotState::Resting, 1));
}

#[test]
fn leaks_are_repaired_in_the_second_pass_and_closed_ports_stay_closed() {
    let mut g = Ground::new(6);
    let all = g.free_blocks();
    let (leaked, closed) = (6000, 5001);
    for port in [leaked, closed] {
        let (place, bit) = used_place(port);
        g.lab.tables.used_ports[place as usize].or(bit);
    }
    let claimed = 6001;
    let (place, bit) = used_place(claimed);
    g.lab.tables.used_ports[place as usize].or(bit);
    g.lab.tables.slots[claimed as usize]
        .word
        .set(SlotWord::new(SlotState::Claimed, 3, 1).0);
    // A block that is in nobody's bitmap, list or hands, and one that its owner does not know of.
    let (place, bit) = free_place(100, 6);
    g.lab.tables.free_blocks[place as usize].and(!bit);
    let slot = g.bind(Proto::Udp, 7, 4000, 990);
    let block = block_index(0, slot as u16, 6);
    let host = find_host(&g.lab.tables, &g.lab.cfg, 7);
    let entry = g.lab.tables.hosts[host as usize]
        .blocks
        .iter()
        .find(|e| e.get() != 0)
        .unwrap();
    entry.set(0);
    assert_eq!(g.pass(1000).repaired, 0);
    assert!(g.used(leaked) && g.used(claimed));
    g.pass(1001);
    assert!(!g.used(leaked) && !g.used(claimed) && g.used(closed));
    assert_eq!(g.state(claimed), SlotState::Free);
    let word = BlockWord(g.lab.tables.blocks[block as usize].word.get());
    assert_eq!((word.state(), word.owner()), (BlockState::Draining, 7));
    assert_eq!(g.state(slot), SlotState::Live, "the binding stays");
    for now in 1002..1200 {
        g.pass(now);
    }
    assert_eq!(g.free_blocks(), all);
}

#[test]
fn hosts_and_sessions_are_forgotten() {
    let mut g = Ground::new(6);
    let slot = g.bind(Proto::Tcp, 7, 80, 1000);
    let flow = Flow {
        slot,
        generation: SlotWord(g.lab.tables.slots[slot as usize].word.get()).generation(),
        proto: Proto::Tcp,
        flags: 2,
        inside: Endpoint::new(7, 80),
        remote: Endpoint::new(9, 443),
    };
    assert!(make(&g.lab.tables, &g.lab.cfg, &flow, SessionState::Opening, 1000));
    let index = find(&g.lab.tables, &g.lab.cfg, &flow, 443, 1001);
    let stats = g.pass(1001);
    assert_eq!((stats.sessions, stats.passes), (1, 1));
    for now in 1002..1200 {
        g.pass(now);
    }
    assert_eq!(g.lab.tables.sessions[index as usize].word.get(), 0);
    assert_eq!(g.sweeper.sessions, 0);
    let host = |g: &Ground| find_host(&g.lab.tables, &g.lab.cfg, 7);
    assert_eq!(host(&g), NO_HOST);
    assert_eq!((g.sweeper.hosts, free_words(6)), (0, 16));
}

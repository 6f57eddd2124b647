use nat_common::{
    flow::Side as Direction,
    maps::{BlockState, BlockWord},
    ports::block_index,
    relay::latch::{Media, admit, onward},
};

use super::*;
use crate::{
    dataplane::testing::{Lab, lab},
    pool::{self, Closed},
    sweep::{Round, Sweeper},
};

const PHONES: [u32; 2] = [0xc633_6401, 0xc000_0209];

fn open_lab(addresses: u32) -> Lab {
    let lab = lab(addresses, 6);
    pool::apply(&lab.tables, &lab.cfg, &closed(), true);
    lab
}

fn closed() -> Closed {
    Closed::from(&"0-1023".parse::<crate::net::PortSet>().unwrap())
}

impl Lab {
    fn at(&self, now: u32) -> At<'_, crate::dataplane::tables::UserTables> {
        At {
            t: &self.tables,
            cfg: &self.cfg,
            now,
        }
    }

    fn used(&self) -> u32 {
        let closed = closed();
        let bits =
            |(place, word): (u32, &nat_common::raw::Word64)| (word.get() & !closed.word(place % 1024)).count_ones();
        (0..).zip(self.tables.used_ports.iter()).map(bits).sum()
    }
}

fn stream(call: u64, pair: bool) -> Stream {
    Stream {
        call,
        number: 3,
        pair,
        classes: CLASS_RTP,
        clock_rate: 8000,
        dscp: None,
        follow: false,
        sides: PHONES.map(|phone| Side {
            address: 0,
            peer: Peer {
                gates: vec![Gate::host(phone)],
                ..Peer::default()
            },
        }),
    }
}

#[test]
fn partners_are_neighbours_and_stay_together() {
    let lab = open_lab(1);
    let (mut relays, _) = Relays::recover(&lab.at(100));
    for call in 1..=32 {
        let opened = relays.open(&lab.at(100), &stream(call, false)).unwrap();
        let [one, two] = opened.map(|side| side.rtp.id.number);
        assert_eq!(two, neighbour(one));
    }
    assert_eq!(relays.free(), 0);
    let legs: Vec<LegView> = views(&lab.tables).collect();
    // One leg of each of two calls does not make room for a third.
    for leg in [&legs[0], &legs[3]] {
        relays.close(&lab.at(110), leg.id);
    }
    assert_eq!(relays.free(), 0);
    assert_eq!(relays.open(&lab.at(110), &stream(33, false)), Err(RelayError::NoLegs));
    relays.close(&lab.at(110), legs[2].id);
    let opened = relays.open(&lab.at(110), &stream(33, false)).unwrap();
    assert_eq!(opened.map(|side| side.rtp.id.number), [2, 3]);
    // A daemon that starts now finds the first leg whose partner has gone, and ends it.
    let (mut again, found) = Relays::recover(&lab.at(120));
    assert_eq!((again.free(), found), (2, Recovered { legs: 62, mended: 1 }));
    assert!(again.open(&lab.at(120), &stream(34, false)).is_ok());
}

#[test]
fn a_pair_is_four_legs_that_lead_to_each_other() {
    let lab = open_lab(2);
    let (mut relays, found) = Relays::recover(&lab.at(100));
    assert_eq!((relays.free(), found), (64, Recovered::default()));
    let mut wanted = stream(7, true);
    wanted.sides[1].address = 1;
    wanted.sides[1].peer.rtp = Some(Endpoint::new(PHONES[1], 9000));
    wanted.sides[1].peer.rtcp = Some(Endpoint::new(PHONES[1], 9005));
    let sides = relays.open(&lab.at(100), &wanted).unwrap();
    assert_eq!(relays.free(), 60);
    for (n, side) in sides.iter().enumerate() {
        let rtcp = side.rtcp.unwrap();
        assert_eq!(side.rtp.external.port & 1, 0);
        assert_eq!(rtcp.external.port, side.rtp.external.port + 1);
        assert_eq!(
            side.rtp.external.addr,
            0xcb00_7101 + n as u32,
            "on the address that was asked for"
        );
        for (leg, other, is_rtcp) in [
            (side.rtp, sides[1 - n].rtp, false),
            (rtcp, sides[1 - n].rtcp.unwrap(), true),
        ] {
            let view = find(&lab.tables, leg.id).unwrap();
            assert_eq!(view.external, Some(leg.external));
            assert_eq!(view.partner, other.id.number);
            let tag = Tag {
                stream: 3,
                side: n as u8,
                rtcp: is_rtcp,
            };
            assert_eq!((view.call, view.tag, view.clock_rate), (7, tag, 8000));
            assert!(view.armed && view.peer.is_none());
            let fallback =
                [(9000, false), (9005, true)].map(|(port, rtcp)| (rtcp == is_rtcp && n == 1).then_some(port));
            assert_eq!(view.fallback.map(|f| f.port), fallback[0].or(fallback[1]));
        }
    }
    assert_eq!(views(&lab.tables).count(), 4);
    assert_eq!(lab.used(), 4);
}

/// All ports that there are can be had, each by one leg.
#[test]
fn every_port_is_given_once() {
    let mut lab = lab(1, 6);
    let few = Closed::from(&"0-64999,65008".parse::<crate::net::PortSet>().unwrap());
    pool::apply(&lab.tables, &lab.cfg, &few, true);
    lab.cfg.blocks_per_host = 1;
    let mut pairs = Vec::new();
    while let Ok(slot) = ports::take(&lab.tables, &lab.cfg, 0, true, 1) {
        assert_eq!(slot & 1, 0);
        pairs.push(slot as u16);
    }
    pairs.sort_unstable();
    let expected: Vec<u16> = (65000..=65535).step_by(2).filter(|port| *port != 65008).collect();
    assert_eq!(pairs, expected, "pairs, and no half of one");
    assert_eq!(ports::take(&lab.tables, &lab.cfg, 0, true, 1), Err(Reason::Exhausted));
}

#[test]
fn what_does_not_fit_takes_nothing() {
    let lab = open_lab(1);
    let (mut relays, _) = Relays::recover(&lab.at(100));
    let mut wanted = stream(1, true);
    wanted.sides[1].address = 5;
    assert_eq!(relays.open(&lab.at(100), &wanted), Err(RelayError::NoAddress(5)));
    assert_eq!((relays.free(), lab.used()), (64, 0));
    for call in 0..16 {
        relays.open(&lab.at(100), &stream(call, true)).unwrap();
    }
    assert_eq!(relays.open(&lab.at(100), &stream(99, false)), Err(RelayError::NoLegs));
    assert_eq!(lab.used(), 64);
}

fn media(leg: u32, from: Endpoint) -> Media {
    Media {
        source: nat_common::relay::latch::source(from),
        ingress: 0,
        start: 0x8000_0001 << 32,
        ssrc: 9,
        len: 172,
        leg,
        side: Direction::Outside as u32,
    }
}

/// What a packet would do, but for the route of its source, which these tables do not know.
fn learn(lab: &Lab, id: LegId, from: Endpoint) {
    let leg = lab.tables.leg(id.number).unwrap();
    let generation = LegWord(leg.word.get()).generation();
    leg.remote.set(peer_word(from, generation));
}

#[test]
fn a_leg_is_closed_for_everybody_at_once() {
    let lab = open_lab(1);
    let (mut relays, _) = Relays::recover(&lab.at(100));
    let [one, two] = relays.open(&lab.at(100), &stream(1, false)).unwrap();
    learn(&lab, two.rtp.id, Endpoint::new(PHONES[1], 9000));
    let leg = lab.tables.leg(one.rtp.id.number).unwrap();
    let hop = onward(&lab.tables, leg, one.rtp.id.number).unwrap();
    assert_eq!((hop.source, hop.destination.port), (two.rtp.external, 9000));
    assert_eq!(relays.close_call(&lab.at(110), 1), 2);
    assert_eq!(onward(&lab.tables, leg, one.rtp.id.number), Err(Reason::NoBinding));
    let refused = admit(
        &lab.tables,
        &lab.cfg,
        &media(one.rtp.id.number, Endpoint::new(PHONES[0], 1)),
        110,
        true,
    );
    assert_eq!(nat_common::relay::latch::denial(refused), Some(Reason::NoBinding));
    assert_eq!(find(&lab.tables, one.rtp.id), None);
    assert_eq!(
        arm(&lab.at(110), one.rtp.id, &arming(false)),
        Err(RelayError::Closed(one.rtp.id.number))
    );
    relays.close(&lab.at(110), one.rtp.id);
    assert_eq!(relays.free(), 64, "closed twice, freed once");
    // The ports rest, and then everything is free again: block, owner, bits.
    assert_eq!(lab.used(), 2);
    let mut sweeper = Sweeper::default();
    for now in (120..400).step_by(2) {
        let round = Round {
            now,
            closed: &closed(),
            host_idle: 10,
            settled: 1,
        };
        let stats = sweeper.pass(&lab.tables, &lab.cfg, &round, &mut |_| {});
        assert_eq!(stats.repaired, 0);
    }
    assert_eq!(lab.used(), 0);
    let block = block_index(0, one.rtp.external.port, 6);
    assert_eq!(
        BlockWord(lab.tables.block(block).unwrap().word.get()).state(),
        BlockState::Free
    );
}

/// The sweeper and the forwards leave legs alone, however long they have been silent.
#[test]
fn open_legs_stay() {
    let lab = open_lab(1);
    let (mut relays, _) = Relays::recover(&lab.at(100));
    relays.open(&lab.at(100), &stream(1, true)).unwrap();
    let mut sweeper = Sweeper::default();
    for now in (120..3000).step_by(40) {
        let round = Round {
            now,
            closed: &closed(),
            host_idle: 10,
            settled: 1,
        };
        sweeper.pass(&lab.tables, &lab.cfg, &round, &mut |_| {});
        crate::forwards::apply(&lab.tables, &lab.cfg, &std::collections::BTreeMap::new(), now);
    }
    assert_eq!(views(&lab.tables).filter(|view| view.external.is_some()).count(), 4);
    let (again, found) = Relays::recover(&lab.at(3000));
    assert_eq!((again.free(), found), (60, Recovered { legs: 4, mended: 0 }));
}

fn arming(keep: bool) -> Arming {
    Arming {
        gates: vec![Gate {
            addr: PHONES[0],
            len: 24,
        }],
        fallback: None,
        keep,
    }
}

#[test]
fn arming_keeps_or_forgets() {
    let lab = open_lab(1);
    let (mut relays, _) = Relays::recover(&lab.at(100));
    let [one, _] = relays.open(&lab.at(100), &stream(1, false)).unwrap();
    let peer = Endpoint::new(PHONES[0], 7000);
    learn(&lab, one.rtp.id, peer);
    assert!(!find(&lab.tables, one.rtp.id).unwrap().armed);
    arm(&lab.at(105), one.rtp.id, &arming(true)).unwrap();
    let view = find(&lab.tables, one.rtp.id).unwrap();
    assert_eq!((view.armed, view.peer), (true, Some(peer)));
    arm(&lab.at(105), one.rtp.id, &arming(false)).unwrap();
    let view = find(&lab.tables, one.rtp.id).unwrap();
    assert_eq!((view.armed, view.peer), (true, None));
    hold(&lab.at(105), one.rtp.id, true).unwrap();
    assert!(find(&lab.tables, one.rtp.id).unwrap().hold);
}

/// A daemon that is killed between any two steps leaves something that the next one can close.
#[test]
fn what_is_half_open_is_closed_by_the_next_daemon() {
    let lab = open_lab(1);
    let (mut relays, _) = Relays::recover(&lab.at(100));
    let [one, two] = relays.open(&lab.at(100), &stream(1, false)).unwrap();
    let [three, _] = relays.open(&lab.at(100), &stream(2, false)).unwrap();
    // One leg is closed, its partner was not; another one's entry is gone and its port was not; a third was being written.
    relays.close(&lab.at(100), one.rtp.id);
    lab.tables.leg(three.rtp.id.number).unwrap().word.set(0);
    let claimed = LegWord::new(77, 1, 1).in_state(LegState::Claimed);
    lab.tables.leg(40).unwrap().word.set(claimed.0);
    let (relays, found) = Relays::recover(&lab.at(200));
    assert_eq!(found.legs, 0, "{found:?}");
    assert_eq!(relays.free(), 64);
    assert!(found.mended >= 3, "{found:?}");
    for side in [one, two, three] {
        let slot = lab
            .tables
            .slot(slot_index(0, Proto::Udp, side.rtp.external.port))
            .unwrap();
        assert_eq!(SlotWord(slot.word.get()).state(), SlotState::Resting);
    }
}

#[test]
fn clock_rates_come_back() {
    for hz in [8000, 16000, 44100, 48000, 90000] {
        assert_eq!(rate(scale(hz)), hz);
    }
}

//! Forwards over tables in memory.

use super::*;
use crate::dataplane::testing::{Lab, lab};
use crate::{net::PortSet, pool};
use nat_common::{
    flow::InsideKey,
    maps::{BUCKET, EntryState, EntryWord},
};

fn ready(addresses: u32) -> Lab {
    let lab = lab(addresses, 6);
    let closed = pool::Closed::from(&"0-1023".parse::<PortSet>().unwrap());
    pool::apply(&lab.tables, &lab.cfg, &closed, true);
    lab
}

fn forward(external: &str, inside: &str) -> Forward {
    Forward::from_words(Proto::Udp, external, inside).unwrap()
}

fn key(text: &str) -> InsideKey {
    let endpoint: std::net::SocketAddrV4 = text.parse().unwrap();
    InsideKey {
        proto: Number::Udp,
        inside: Endpoint::new((*endpoint.ip()).into(), endpoint.port()),
    }
}

fn slot(lab: &Lab, address: u32, port: u16) -> (SlotState, u8, Endpoint) {
    let slot = &lab.tables.slots[slot_index(address, Number::Udp, port) as usize];
    (
        SlotWord(slot.word.get()).state(),
        slot.kind.get(),
        binding::inside_of(slot),
    )
}

#[test]
fn they_take_the_ports_and_lead_both_ways() {
    let lab = ready(2);
    let (t, cfg) = (&lab.tables, &lab.cfg);
    let one = forward("8000-8001", "10.0.0.1:80-81");
    let two = forward("203.0.113.2:9000", "10.0.0.1:80");
    // A dynamic binding of the endpoint and one on the port give way.
    let dynamic = binding::create(t, cfg, &key("10.0.0.1:80"), 5);
    let forwards = Forwards {
        fixed: vec![one, two],
        ..Forwards::default()
    };
    let wanted = forwards.slots(t, cfg);
    assert_eq!(wanted.len(), 5);
    apply(t, cfg, &wanted, 7);
    for address in 0..2 {
        let endpoint = key("10.0.0.1:81").inside;
        assert_eq!(slot(&lab, address, 8001), (SlotState::Live, KIND_STATIC, endpoint));
    }
    assert_eq!(
        slot(&lab, 1, 9000),
        (SlotState::Live, KIND_STATIC, key("10.0.0.1:80").inside)
    );
    assert_eq!(slot(&lab, 0, 9000).0, SlotState::Free);
    assert_eq!(
        SlotWord(t.slots[dynamic as usize].word.get()).state(),
        SlotState::Resting
    );
    let bound = binding::find(t, cfg, &key("10.0.0.1:80"), 1 << 24);
    assert_eq!(bound, Some(slot_index(0, Number::Udp, 8000)));
    // Again is nothing; without them the ports rest.
    let generation = SlotWord(t.slots[bound.unwrap() as usize].word.get()).generation();
    apply(t, cfg, &wanted, 8);
    assert_eq!(
        SlotWord(t.slots[bound.unwrap() as usize].word.get()).generation(),
        generation
    );
    apply(t, cfg, &BTreeMap::new(), 9);
    assert_eq!(slot(&lab, 0, 8000).0, SlotState::Resting);
    assert_eq!(binding::find(t, cfg, &key("10.0.0.1:80"), 9), None);
}

/// A packet inserted under the kernel's lock while the forward was inserted without it.
#[test]
fn a_binding_that_was_made_at_the_same_moment_gives_way_later() {
    let lab = ready(1);
    let (t, cfg) = (&lab.tables, &lab.cfg);
    let forwards = Forwards {
        fixed: vec![forward("8000", "10.0.0.1:80")],
        ..Forwards::default()
    };
    let (key, index) = (key("10.0.0.1:80"), slot_index(0, Number::Udp, 8000));
    apply(t, cfg, &forwards.slots(t, cfg), 7);
    lookup::forget(t, cfg, &key, index);
    let dynamic = binding::create(t, cfg, &key, 7);
    let bucket = &t.index[lookup::Place::of(cfg, &key).buckets[0] as usize];
    // The second entry goes to a place that look-ups come to later.
    for place in 0..BUCKET {
        let free = bucket.at(place);
        if free.word.get() != 0 {
            continue;
        }
        free.key
            .set(u64::from(key.inside.addr) << 32 | u64::from(key.inside.port) << 16);
        free.word
            .set(EntryWord::new(EntryState::Live, Number::Udp, index, true, 7).0);
        if binding::find(t, cfg, &key, 7) == Some(dynamic) {
            break;
        }
        free.word.set(0);
    }
    assert_eq!(
        binding::find(t, cfg, &key, 7),
        Some(dynamic),
        "the packet's entry is found first"
    );
    apply(t, cfg, &forwards.slots(t, cfg), 8);
    assert_eq!(binding::find(t, cfg, &key, 8), Some(index));
    let word = SlotWord(t.slots[dynamic as usize].word.get());
    assert_eq!(word.state(), SlotState::Resting);
}

#[test]
fn when_an_address_goes_the_next_forward_serves() {
    let lab = ready(2);
    let (t, cfg) = (&lab.tables, &lab.cfg);
    let forwards = Forwards {
        fixed: vec![forward("8000", "10.0.0.1:80")],
        ..Forwards::default()
    };
    apply(t, cfg, &forwards.slots(t, cfg), 7);
    let word = AddressWord(t.addresses[0].word.get());
    t.addresses[0]
        .word
        .set(AddressWord::new(word.addr(), word.generation(), false).0);
    apply(t, cfg, &forwards.slots(t, cfg), 8);
    let bound = binding::find(t, cfg, &key("10.0.0.1:80"), 8);
    assert_eq!(bound, Some(slot_index(1, Number::Udp, 8000)));
}

#[test]
fn runtime_forwards_come_back_from_the_tables() {
    let lab = ready(2);
    let (t, cfg) = (&lab.tables, &lab.cfg);
    let mut forwards = Forwards {
        fixed: vec![forward("7000", "10.0.0.9:7")],
        ..Forwards::default()
    };
    for (external, inside) in [("8000-8002", "10.0.0.1:80-82"), ("203.0.113.2:9000", "10.0.0.2:9000")] {
        forwards.add(&forward(external, inside)).unwrap();
    }
    let error = forwards.add(&forward("203.0.113.1:8001", "10.0.0.3:1")).unwrap_err();
    assert!(error.contains("10.0.0.1:81"), "{error}");
    assert!(forwards.add(&forward("7000", "10.0.0.3:1")).is_err());
    apply(t, cfg, &forwards.slots(t, cfg), 7);
    let mut again = Forwards::recover(t, cfg, forwards.fixed.clone());
    assert_eq!(again, forwards);
    assert!(!again.delete(Proto::Udp, "8000-8003".parse().unwrap()));
    assert!(again.delete(Proto::Udp, "8000-8002".parse().unwrap()));
    apply(t, cfg, &again.slots(t, cfg), 8);
    assert_eq!(slot(&lab, 1, 8001).0, SlotState::Resting);
    assert_eq!(slot(&lab, 1, 9000).0, SlotState::Live);
}

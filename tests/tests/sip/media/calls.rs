//! Who is where: both behind NATs of others, inside, in the open.

use std::collections::BTreeSet;

use serde_json::Value;
use tests::lab::EXTERNAL;
use tests::prelude::*;
use tests::sip::edge::endpoint;

use super::{ANNA, BERTA, edge, hang_up, phone, phones, talk};

/// Both are behind NATs of others: each leg learns where its phone is from the first packet, and all end with the call. Each calls and is called,
/// and each hangs up.
#[test]
fn two_phones_behind_two_nats() {
    let edge = edge();
    let [anna, berta] = phones(&edge);
    for (caller, callee, nats) in [(&anna, &berta, [1, 2]), (&berta, &anna, [2, 1])] {
        talk(caller, callee);
        for (leg, nat) in edge.voice_legs().unwrap().iter().zip(nats) {
            assert_eq!(*endpoint(&leg["peer"]).ip(), edge.lab.n(nat).ip, "{leg}");
            assert_eq!(leg["lost"], 0, "{leg}");
        }
        // By anna both times.
        hang_up(&anna, &berta);
        edge.no_legs().unwrap();
    }
}

/// A phone inside of the router's own NAT and one at a public address: the NAT is opened when the descriptions pass, and nothing relays.
#[test]
fn a_phone_inside_and_one_in_the_open() {
    let edge = edge();
    let anna = phone(&edge, "anna", ANNA, edge.lab.h(1));
    let berta = phone(&edge, "berta", BERTA, edge.lab.o(1));
    let capture = Capture::host(edge.lab.o(1)).unwrap();
    talk(&anna, &berta);
    assert_eq!(edge.legs().unwrap(), Vec::<Value>::new());
    hang_up(&anna, &berta);
    let sources: BTreeSet<_> = capture
        .packets()
        .iter()
        .filter(|packet| packet.as_udp().is_some() && packet.payload().first() == Some(&0x80))
        .map(|packet| *packet.src().ip())
        .collect();
    assert_eq!(sources.into_iter().collect::<Vec<_>>(), [EXTERNAL, edge.lab.o(1).ip]);
}

/// A phone inside and one behind a NAT of others: the relay faces the inside as well.
#[test]
fn a_phone_inside_and_one_behind_a_nat() {
    let edge = edge();
    let anna = phone(&edge, "anna", ANNA, edge.lab.f(1));
    let berta = phone(&edge, "berta", BERTA, edge.lab.h(1));
    talk(&anna, &berta);
    assert!(!edge.legs().unwrap().is_empty());
    hang_up(&berta, &anna);
    edge.no_legs().unwrap();
}

/// The NATs in front of the phones are sipnat's too: S3 with nothing but our own NATs in the way.
#[test]
fn two_phones_behind_two_other_sipnats() {
    let edge = edge();
    let lab = &edge.lab;
    let _nats = [1, 2].map(|number| lab.translate_by_sipnat(number, "").unwrap());
    let [anna, berta] = phones(&edge);
    talk(&anna, &berta);
    for (leg, nat) in edge.voice_legs().unwrap().iter().zip([1, 2]) {
        assert_eq!(*endpoint(&leg["peer"]).ip(), lab.n(nat).ip, "{leg}");
    }
    hang_up(&berta, &anna);
    edge.no_legs().unwrap();
}

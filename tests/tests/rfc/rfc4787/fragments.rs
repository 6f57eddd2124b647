//! REQ-14: fragments in any order, within bounds.

use std::net::Ipv4Addr;

use tests::prelude::*;

use crate::scene::{At, H, O, QUIET, Scene, ping, udp};

const ORDERS: [[usize; 3]; 3] = [[0, 1, 2], [1, 0, 2], [2, 1, 0]];

/// Sends the three fragments of a datagram in an order; returns it as it arrives, which must be whole and once.
fn through(s: &mut Scene, from: At, to: At, whole: &Packet, order: [usize; 3]) -> Packet {
    let pieces = whole.fragments(1200);
    assert_eq!(pieces.len(), 3);
    for index in order {
        s.send(from, &pieces[index]);
    }
    let fragment = |got: &Packet| got.ip.mf || got.ip.offset > 0;
    let what = format!("three fragments sent in the order {order:?}");
    let arrived: Vec<Packet> = (0..3).map(|_| s.wait(to, &what, fragment)).collect();
    s.socket(to).assert_silent(QUIET / 4, fragment).unwrap();
    let got = Packet::reassemble(&arrived).unwrap_or_else(|error| panic!("{order:?}: {error:#}: {arrived:?}"));
    assert_eq!(got.payload(), whole.payload());
    assert_eq!(
        got.as_udp().unwrap().sum,
        Sum::Right,
        "checksum over the translated whole"
    );
    got
}

/// A datagram of 3000 bytes with contents of its own.
fn large(src: std::net::SocketAddrV4, dst: std::net::SocketAddrV4, id: u16) -> Packet {
    let contents: Vec<u8> = (0..3000u32)
        .map(|i| (i.wrapping_mul(31) >> 3) as u8 ^ id as u8)
        .collect();
    udp(src, dst).with_payload(&contents).id(id)
}

#[test]
fn req_14_fragments_from_inside_in_any_order() {
    let mut s = Scene::with_outside(1, "");
    for (index, order) in ORDERS.into_iter().enumerate() {
        let whole = large(s.on(H(1), 6000), s.on(O(1), 9), 100 + index as u16);
        let got = through(&mut s, H(1), O(1), &whole, order);
        assert_eq!(got.src(), s.mapped(H(1), 6000, O(1), 9));
    }
}

#[test]
fn req_14_fragments_from_outside_in_any_order() {
    let mut s = Scene::with_outside(1, "");
    let external = s.mapped(H(1), 6000, O(1), 9);
    for (index, order) in ORDERS.into_iter().enumerate() {
        let whole = large(s.on(O(1), 9), external, 200 + index as u16);
        let got = through(&mut s, O(1), H(1), &whole, order);
        assert_eq!((got.src(), got.dst()), (s.on(O(1), 9), s.on(H(1), 6000)));
    }
}

#[test]
fn req_14_hairpinned_fragments_in_any_order() {
    let mut s = Scene::new(Lab::builder().inside_hosts(2), "");
    let (one, two) = (s.mapped(H(1), 6000, O(1), 9), s.mapped(H(2), 7000, O(1), 9));
    for (index, order) in ORDERS.into_iter().enumerate() {
        let whole = large(s.on(H(1), 6000), two, 300 + index as u16);
        let got = through(&mut s, H(1), H(2), &whole, order);
        assert_eq!((got.src(), got.dst()), (one, s.on(H(2), 7000)));
    }
}

#[test]
fn req_14a_overlapping_fragments_are_dropped() {
    let mut s = Scene::with_outside(1, "");
    let external = s.mapped(H(1), 6000, O(1), 9);
    for (from, to, src, dst) in [
        (O(1), H(1), s.on(O(1), 9), external),
        (H(1), O(1), s.on(H(1), 6000), s.on(O(1), 9)),
    ] {
        let pieces = large(src, dst, 400).fragments(1200);
        let mut evil = pieces[1].clone().with_payload(&[0xee; 1200]);
        evil.ip.offset -= 8;
        for piece in [&pieces[0], &evil, &pieces[1], &pieces[2]] {
            s.send(from, piece);
        }
        let mut arrived: Vec<Packet> = Vec::new();
        s.prepare_sentinel(from, to);
        let end = udp(src, dst).with_payload(b"the end");
        s.send(from, &end);
        s.wait(to, "the datagram after the fragments", |got| {
            if got.ip.mf || got.ip.offset > 0 {
                arrived.push(got.clone());
            }
            got.payload() == b"the end"
        });
        arrived.sort_by_key(|piece| piece.ip.offset);
        for pair in arrived.windows(2) {
            let end = usize::from(pair[0].ip.offset) + pair[0].payload().len();
            assert!(
                usize::from(pair[1].ip.offset) >= end,
                "overlapping fragments came through: {arrived:?}"
            );
        }
    }
}

#[test]
fn req_14a_a_flood_of_orphans_costs_other_traffic_nothing() {
    const ORPHANS: u32 = 100_000;
    const BATCH: u32 = 200;
    let mut s = Scene::unwatched(Lab::builder().inside_hosts(2).outside_hosts(2), "");
    let external = s.mapped(H(1), 6000, O(2), 9);
    let orphan = |number: u32, dst: Ipv4Addr, src: [u8; 2]| {
        let mut orphan = Packet::new([src[0], src[1], 0, 7].into(), dst, L4::Raw(17, vec![1; 64]));
        (orphan.ip.offset, orphan.ip.id) = (1480, number as u16);
        orphan.ip.src = Ipv4Addr::from(u32::from(orphan.ip.src) + ((number >> 16) << 8));
        orphan
    };
    for number in 0..ORPHANS {
        // From outside to the binding's address, and from inside.
        if number % 2 == 0 {
            s.send(O(1), &orphan(number, *external.ip(), [203, 0]));
        } else {
            s.send(H(2), &orphan(number, s.host(O(1)).ip, [192, 168]));
        }
        if number % BATCH == 0 {
            let (out, back) = (udp(s.on(H(1), 6000), s.on(O(2), 9)), udp(s.on(O(2), 9), external));
            assert_eq!(s.pass(H(1), O(2), &out).src(), external, "after {number} orphans");
            s.pass(O(2), H(1), &back);
            let request = ping(s.on(H(1), 77), s.on(O(2), 0));
            s.pass(H(1), O(2), &request);
        }
    }
    // Datagrams with all their fragments still get through.
    let whole = large(s.on(H(1), 6000), s.on(O(2), 9), 500);
    through(&mut s, H(1), O(2), &whole, ORDERS[0]);
    let leaked = s.socket(O(1)).drain().unwrap();
    assert!(
        leaked
            .iter()
            .all(|frame| frame.packet().is_none_or(|got| got.ip.src.octets()[0] != 192)),
        "untranslated fragments left"
    );
}

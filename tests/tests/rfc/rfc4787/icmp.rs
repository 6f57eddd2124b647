//! REQ-12 errors end nothing, REQ-13 packets that are too big.

use tests::lab::OUTSIDE_ROUTER;
use tests::prelude::*;

use crate::scene::{H, O, Scene, udp};

#[test]
fn req_12_no_icmp_message_ends_a_binding() {
    let mut s = Scene::with_outside(1, "");
    let opener = udp(s.on(H(1), 6000), s.on(O(1), 9));
    let seen = s.pass(H(1), O(1), &opener);
    let (external, remote) = (seen.src(), s.host(O(1)).ip);
    let codes = (0..16).map(|code| (3, code));
    let errors = codes.chain([(4, 0), (5, 1), (11, 0), (11, 1), (12, 0)]);
    for (kind, code) in errors {
        for source in [remote, OUTSIDE_ROUTER] {
            s.send(O(1), &Packet::icmp_error(source, *external.ip(), kind, code, &seen, 8));
        }
        let inbound = udp(s.on(O(1), 9), external);
        s.pass(O(1), H(1), &inbound);
        assert_eq!(s.mapped(H(1), 6000, O(1), 9), external, "after ICMP {kind}/{code}");
    }
}

#[test]
fn req_13_too_big_with_df_is_answered() {
    let mut s = Scene::new(Lab::builder().outside_mtu(1280), "");
    let packet = udp(s.on(H(1), 6000), s.on(O(1), 9)).with_payload(&[7; 1372]).df();
    s.send(H(1), &packet);
    let error = s.wait(H(1), "an ICMP error", |got| got.is_icmp(3, 4));
    assert_eq!(error.as_icmp().unwrap().mtu(), 1280);
    let quote = error.quote().unwrap();
    assert_eq!(
        (quote.src, quote.dst),
        (packet.src(), packet.dst()),
        "the quote must be as the host sent it"
    );
    // What fits the MTU goes through.
    let packet = packet.with_payload(&[8; 1252]);
    s.pass(H(1), O(1), &packet);
}

#[test]
fn req_13a_too_big_without_df_is_fragmented() {
    let mut s = Scene::new(Lab::builder().outside_mtu(1280), "");
    let packet = udp(s.on(H(1), 6000), s.on(O(1), 9)).with_payload(&[7; 1372]).id(99);
    s.send(H(1), &packet);
    let mut pieces: Vec<Packet> = Vec::new();
    while !pieces.iter().any(|piece| !piece.ip.mf) {
        pieces.push(s.wait(O(1), "a fragment", |got| got.ip.mf || got.ip.offset > 0));
    }
    assert!(
        pieces.is_sorted_by_key(|piece| piece.ip.offset),
        "fragments out of order"
    );
    assert!(pieces.iter().all(|piece| piece.ip_bytes().len() <= 1280));
    let whole = Packet::reassemble(&pieces).unwrap();
    assert_eq!(whole.payload(), packet.payload());
    assert_eq!(whole.ip.src, s.external(0));
}

//! Both phones behind the same NAT of others.

use serde_json::Value;
use tests::prelude::*;
use tests::sip::baresip::Phone;
use tests::sip::edge::{Edge, endpoint};

use super::{ANNA, BERTA, hang_up, phone, phone_with, talk};

/// Two phones on one host behind the first NAT.
fn neighbours(edge: &Edge) -> [Phone; 2] {
    let host = edge.lab.f(1);
    let second = |account: tests::sip::baresip::Account| account.port(5070).rtp_ports(10_100, 10_119);
    [
        phone(edge, "anna", ANNA, host),
        phone_with(edge, "berta", BERTA, host, second),
    ]
}

/// By default nobody outside knows whether they reach each other: they are relayed, both legs with peers at the one address.
#[test]
fn they_are_relayed_by_default() {
    let edge = Edge::open("").unwrap();
    let [anna, berta] = neighbours(&edge);
    talk(&anna, &berta);
    let peers = edge.voice_legs().unwrap().map(|leg| endpoint(&leg["peer"]));
    assert_eq!(peers.map(|peer| *peer.ip()), [edge.lab.n(1).ip; 2]);
    assert_ne!(peers[0], peers[1]);
    hang_up(&anna, &berta);
    edge.no_legs().unwrap();
}

/// `same_nat = "direct"`: media does not even leave.
#[test]
fn they_speak_directly_if_configured() {
    let edge = Edge::open("[sip.media]\nsame_nat = \"direct\"").unwrap();
    let [anna, berta] = neighbours(&edge);
    let capture = Capture::host(edge.lab.n(1)).unwrap();
    talk(&anna, &berta);
    assert_eq!(edge.legs().unwrap(), Vec::<Value>::new());
    hang_up(&anna, &berta);
    let packets = capture.packets();
    let outside = packets
        .iter()
        .filter(|packet| packet.as_udp().is_some() && packet.payload().first() == Some(&0x80));
    assert_eq!(outside.count(), 0, "RTP outside of the NAT");
}

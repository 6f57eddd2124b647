//! Wrong descriptions end to end: refused, or passed without help; never a hole (RFC 3264 §5, §6).

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};

use serde_json::Value;
use tests::lab::{EXTERNAL, INSIDE_GATEWAY};
use tests::prelude::*;
use tests::sip::edge::{Edge, endpoint};
use tests::sip::handset::{Call, Handset, ring, sdp, told};
use tests::sip::request::Request;
use tests::sip::stream::Stream;

use crate::DOMAIN;

/// Everything that lets packets through: legs with whom they take, and bindings.
fn holes(edge: &Edge) -> BTreeSet<String> {
    let bindings = edge.nat.json(&["bindings"]).unwrap();
    let of = |row: &Value, keys: &[&str]| {
        let words: Vec<String> = keys.iter().map(|key| row[key].to_string()).collect();
        words.join(" ")
    };
    let legs = edge.legs().unwrap();
    let legs = legs.iter().map(|leg| of(leg, &["leg", "external", "peer", "fallback"]));
    let bindings = bindings.as_array().unwrap().iter();
    legs.chain(bindings.map(|row| of(row, &["inside", "external"])))
        .collect()
}

/// anna and berta talk, each behind a NAT; eva, who lies, is in the open.
struct Victims<'a> {
    edge: &'a Edge,
    eva: Handset,
    call: Call<'a>,
    /// Of anna's leg.
    leg: SocketAddrV4,
}

impl<'a> Victims<'a> {
    fn new(edge: &'a Edge, anna: &'a Handset, berta: &'a Handset) -> Self {
        let call = ring(anna, berta, &anna.sdp("sendrecv")).unwrap();
        let call = call.answer(&berta.sdp("sendrecv")).unwrap();
        call.connect().unwrap();
        Self {
            leg: endpoint(&edge.voice_legs().unwrap()[0]["external"]),
            eva: edge.handset("eva", edge.lab.o(1)).unwrap(),
            edge,
            call,
        }
    }

    fn berta(&self) -> &'a Handset {
        self.call.parties[1]
    }

    /// Addresses that nobody's media is at.
    fn places(&self) -> Vec<(&'static str, SocketAddrV4)> {
        let at = |address: Ipv4Addr, port| SocketAddrV4::new(address, port);
        vec![
            ("the port of somebody else's leg", self.leg),
            ("a port of ours that nobody has", at(EXTERNAL, 9)),
            ("our signalling", self.edge.server),
            ("our address inside", at(INSIDE_GATEWAY, 4000)),
            ("loopback", at(Ipv4Addr::LOCALHOST, 4000)),
            ("loopback elsewhere", at(Ipv4Addr::new(127, 9, 9, 9), 4000)),
            ("broadcast", at(Ipv4Addr::BROADCAST, 4000)),
            ("class E", at(Ipv4Addr::new(250, 1, 2, 3), 4000)),
            ("this network", at(Ipv4Addr::new(0, 0, 0, 7), 4000)),
        ]
    }
}

#[test]
fn offers_that_lie_are_refused() {
    let edge = Edge::open("").unwrap();
    let [anna, berta] = edge.handsets().unwrap();
    let victims = Victims::new(&edge, &anna, &berta);
    let before = holes(&edge);
    for (what, place) in victims.places() {
        let invite = victims.eva.invite("berta", &sdp(place, "sendrecv"));
        let refusal = victims.eva.refused(&invite).unwrap();
        assert_eq!(refusal.status(), Some(488), "{what}");
        assert!(refusal.header("Warning").starts_with("399 sipnat "), "{what}");
        assert_eq!(holes(&edge), before, "{what}");
    }
    // Of several streams one lie is enough.
    let (good, bad) = (victims.eva.sdp("sendrecv"), sdp(victims.leg, "sendrecv"));
    let [line, connection] = ["m=", "c="].map(|start| bad.lines().find(|line| line.starts_with(start)).unwrap());
    let invite = victims
        .eva
        .invite("berta", &format!("{good}{line}\r\n{connection}\r\n"));
    assert_eq!(victims.eva.refused(&invite).unwrap().status(), Some(488));
    let many = format!("{good}{}", "m=audio 5000 RTP/AVP 0\r\n".repeat(32));
    assert_eq!(
        victims
            .eva
            .refused(&victims.eva.invite("berta", &many))
            .unwrap()
            .status(),
        Some(488)
    );
    enormous(&edge);
    assert_eq!(holes(&edge), before);
    berta
        .sip
        .nothing(std::time::Duration::ZERO, |message| message.method().is_some())
        .unwrap();
    victims.call.compare(10).unwrap();
    victims.call.bye(0).unwrap();
    edge.no_legs().unwrap();
}

/// Longer than any message may be, over TCP.
fn enormous(edge: &Edge) {
    let mut stream = Stream::connect(edge.lab.o(1), edge.server).unwrap();
    let body = format!(
        "{}a={}\r\n",
        sdp("203.0.113.100:4000".parse().unwrap(), "sendrecv"),
        "x".repeat(70_000)
    );
    let invite = Request::new("INVITE", &format!("sip:berta@{DOMAIN}"), &stream).body("application/sdp", &body);
    stream.send(invite.message().bytes()).unwrap();
    let answer = stream.recv("the refusal").unwrap();
    assert!(answer.status() >= Some(400), "{answer:?}");
}

/// What says nothing that could be helped passes byte by byte.
#[test]
fn what_cannot_be_helped_passes_as_it_is() {
    let edge = Edge::open("").unwrap();
    let [anna, berta] = edge.handsets().unwrap();
    let victims = Victims::new(&edge, &anna, &berta);
    let before = holes(&edge);
    let good = victims.eva.sdp("sendrecv");
    let with = |from: &str, to: &str| good.replace(from, to);
    for (what, body) in [
        ("multicast", with("c=IN IP4 203.0.113.100", "c=IN IP4 224.2.1.1/127")),
        ("no description", "this is not a session description".into()),
        ("cut off", good[..good.len() / 2].into()),
        ("no address", with("c=IN IP4 203.0.113.100\r\n", "")),
        ("a port beyond all", with("m=audio 4000", "m=audio 99999")),
        ("a negative port", with("m=audio 4000", "m=audio -4000")),
        ("port 0", with("m=audio 4000", "m=audio 0")),
        ("many ports", with("m=audio 4000", "m=audio 4000/2")),
        ("IPv6", with("IN IP4 203.0.113.100", "IN IP6 2001:db8::1")),
        ("another transport", with("RTP/AVP", "QUIC/XYZ")),
    ] {
        let invite = victims.eva.invite("berta", &body);
        victims.eva.send(&invite).unwrap();
        let came = berta.invited(&invite.header("Call-ID"), 1).unwrap();
        assert_eq!(String::from_utf8_lossy(came.body()), body, "{what}");
        assert_eq!(holes(&edge), before, "{what}");
        berta.busy(&came).unwrap();
        let wanted = |message: &tests::sip::message::Message| message.status() == Some(486);
        let (refusal, _) = victims.eva.sip.recv_where("the 486", wanted).unwrap();
        victims.eva.send(&tests::sip::request::ack(&invite, &refusal)).unwrap();
    }
    victims.call.compare(10).unwrap();
    victims.call.bye(0).unwrap();
    edge.no_legs().unwrap();
}

/// An answer cannot be refused: it passes as it is, its stream ends, and who believes it reaches nobody.
#[test]
fn answers_that_lie_open_nothing() {
    let edge = Edge::open("").unwrap();
    let [anna, berta] = edge.handsets().unwrap();
    let victims = Victims::new(&edge, &anna, &berta);
    let before = holes(&edge);
    for (what, place) in victims.places() {
        let ringing = ring(&victims.eva, victims.berta(), &victims.eva.sdp("sendrecv")).unwrap();
        assert_ne!(told(&ringing.came).unwrap(), victims.eva.voice.endpoint, "{what}");
        let call = ringing.answer(&sdp(place, "sendrecv")).unwrap();
        assert_eq!(call.told[0], place, "{what}");
        assert_eq!(holes(&edge), before, "{what}");
        if place == victims.leg {
            let refused = || edge.voice_legs().unwrap()[0]["refused"]["relay_gate"].as_u64().unwrap();
            let gate = refused();
            call.say(0).unwrap();
            wait_until("the packet to be refused", SOON, || refused() == gate + 1).unwrap();
        }
        call.bye(0).unwrap();
    }
    assert!(victims.eva.voice.heard().unwrap().is_empty());
    victims.call.compare(10).unwrap();
    victims.call.bye(1).unwrap();
    edge.no_legs().unwrap();
}

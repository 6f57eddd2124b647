//! sipp with a capture of G.711 on one side and its echo on the other: what comes back is what was sent, byte by byte.

use std::net::SocketAddrV4;

use tests::prelude::*;
use tests::sip::edge::{Edge, endpoint};
use tests::sip::pcap::{G711A, first_packets};
use tests::sip::sipp::{Running, Sipp};

use crate::DOMAIN;

/// A second and a half.
const PACKETS: usize = 50;
/// Long enough: the test ends it.
const HOLD: &str = "60000";

/// sipp at the first NAT calls berta, who is at this host, and plays a capture.
fn call(edge: &Edge, callee: &Host, berta: Sipp, pcap: &std::path::Path) -> [Running; 2] {
    let register = Sipp::scenario("register").to("berta", DOMAIN, edge.server).port(5060);
    register.run(callee).unwrap();
    let berta = berta.port(5060).media_port(7000).echoes().start(callee).unwrap();
    let anna = Sipp::scenario("uac_call").to("berta", DOMAIN, edge.server);
    let anna = anna.port(5060).media_port(6000).plays(pcap).fill("hold", HOLD);
    [anna.start(edge.lab.f(1)).unwrap(), berta]
}

/// The RTP that a host has got, in its order, and from where.
fn heard(capture: &Capture) -> Vec<(Vec<u8>, SocketAddrV4)> {
    let packets = capture.received();
    let rtp = packets
        .iter()
        .filter(|packet| packet.as_udp().is_some() && packet.payload().first() == Some(&0x80));
    rtp.map(|packet| (packet.payload().to_vec(), packet.src())).collect()
}

/// Waits until a host has heard this last packet, and returns all it heard.
fn heard_up_to(capture: &Capture, last: &[u8]) -> Vec<(Vec<u8>, SocketAddrV4)> {
    wait_for("the last packet", SOON, || {
        let heard = heard(capture);
        heard.last().is_some_and(|(packet, _)| packet == last).then_some(heard)
    })
    .unwrap_or_else(|error| panic!("{error}; heard {} packets", heard(capture).len()))
}

/// A caller behind a NAT, and an echo in the open: packets go to its address in the description from the first one on, and all come back.
#[test]
fn an_echo_in_the_open_gives_back_every_byte() {
    let edge = Edge::open("").unwrap();
    let (pcap, echo) = (edge.files.path().join("voice.pcap"), edge.lab.o(1));
    let sent = first_packets(G711A, PACKETS, &pcap).unwrap();
    let captures = [edge.lab.f(1), echo].map(|host| Capture::host(host).unwrap());
    let _running = call(&edge, echo, Sipp::scenario("uas_answer"), &pcap);
    let back = heard_up_to(&captures[0], &sent[PACKETS - 1]);
    let legs = edge.voice_legs().unwrap();
    // The echo is heard from where anna sends, and it hears her from where it sends.
    for (heard, leg) in [(back, &legs[0]), (heard(&captures[1]), &legs[1])] {
        let external = endpoint(&leg["external"]);
        assert!(heard.iter().all(|(_, from)| *from == external), "{external}");
        let bytes: Vec<Vec<u8>> = heard.into_iter().map(|(bytes, _)| bytes).collect();
        assert!(bytes == sent, "{} of {PACKETS} packets, or others", bytes.len());
    }
    for leg in &legs {
        assert_eq!((&leg["packets"], &leg["lost"]), (&PACKETS.into(), &0.into()), "{leg}");
    }
}

/// Both behind NATs: who waits for the other's voice before it says anything is not heard by anybody, so berta plays too. From the moment both
/// have sent, everything arrives; what came before is accounted for.
#[test]
fn two_captures_and_an_echo_behind_two_nats() {
    let edge = Edge::open("").unwrap();
    let (pcap, greeting) = (
        edge.files.path().join("voice.pcap"),
        edge.files.path().join("greeting.pcap"),
    );
    let sent = first_packets(G711A, PACKETS, &pcap).unwrap();
    let greeted = first_packets(G711A, 5, &greeting).unwrap();
    let captures = [1, 2].map(|number| Capture::host(edge.lab.f(number)).unwrap());
    let berta = Sipp::scenario("uas_answer").plays(&greeting);
    let _running = call(&edge, edge.lab.f(2), berta, &pcap);
    let last = &sent[PACKETS - 1];
    let (back, there) = (heard_up_to(&captures[0], last), heard_up_to(&captures[1], last));
    let [of_anna, of_berta] = edge.voice_legs().unwrap();
    let early = |leg: &serde_json::Value| leg["refused"]["peer_not_latched"].as_u64().unwrap() as usize;
    let (early_of_anna, early_of_berta) = (early(&of_anna), early(&of_berta));
    let bytes = |heard: Vec<(Vec<u8>, SocketAddrV4)>| heard.into_iter().map(|(bytes, _)| bytes).collect::<Vec<_>>();
    assert!(
        bytes(there) == sent[early_of_anna..],
        "all but the {early_of_anna} early ones"
    );
    // What came back is berta's own greeting and anna's echo, in whatever order they were sent.
    let mut expected: Vec<Vec<u8>> = [&greeted[early_of_berta..], &sent[early_of_anna..]].concat();
    let mut back = bytes(back);
    expected.sort();
    back.sort();
    assert!(
        back == expected,
        "{} packets came back instead of {}",
        back.len(),
        expected.len()
    );
}

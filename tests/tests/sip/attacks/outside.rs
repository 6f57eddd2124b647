//! From outside of the gate, at every moment of a call; and, once the phones are known to the relay, from inside of it.

use std::net::SocketAddrV4;
use std::time::Duration;

use tests::lab::EXTERNAL;
use tests::prelude::*;
use tests::sip::edge::{Edge, endpoint};
use tests::sip::handset::Call;
use tests::sip::rtp::rtcp_bye;

use super::arena::{Attacker, MARK, Victims, copies, ports, voices};
use super::{Attack, Promise};

const RTP: &str = "RTP to all ports of the call";
const OUTSIDE: &str = "somebody in the Internet";
const PREFIX: &str = "somebody in the gate's /24";
const GATE: &str = "somebody behind the caller's NAT";
const TALKING: &str = "both phones talk";

fn nothing<'a>(attacker: &'a str, when: &'a str, what: &'a str) -> Attack<'a> {
    Attack {
        attacker,
        when,
        what,
        promise: Promise::Nothing,
    }
}

/// Whoever is not in the gate gets nothing at any moment of a call, and after the latch nobody does but who forges the phone's own endpoint.
#[test]
fn a_call_from_its_first_message_to_after_its_last() {
    let edge = Edge::far("").unwrap();
    let victims = Victims::new(&edge);
    let stranger = Attacker::new(&edge, edge.lab.far());
    let neighbour = Attacker::new(&edge, edge.lab.o(1));
    let inmate = Attacker::new(&edge, edge.lab.f(1));
    let insider = Attacker::new(&edge, edge.lab.h(1));
    let outsiders = [
        (OUTSIDE, &stranger),
        (PREFIX, &neighbour),
        ("a host of our own inside", &insider),
    ];

    let ringing = victims.ring();
    let all = ports(&edge);
    for (who, attacker) in outsiders {
        attacker.sprays(&victims, &all, &nothing(who, "it rings", RTP));
    }
    let call = ringing.answer(&victims.berta.sdp("sendrecv")).unwrap();
    for (who, attacker) in outsiders {
        attacker.sprays(&victims, &all, &nothing(who, "it is answered, nobody has sent", RTP));
    }
    connect(&victims, &call);
    victims.talk_during(&call, || {
        for (who, attacker) in outsiders {
            attacker.sprays(&victims, &all, &nothing(who, TALKING, RTP));
        }
        every_port(&victims, &stranger);
        every_kind(&victims, &stranger, OUTSIDE, &all);
        // The gate is open for the address of the caller's NAT; but the phone is known.
        inmate.sprays(&victims, &all, &nothing(GATE, TALKING, RTP));
        every_kind(&victims, &inmate, GATE, &all);
        forged(&edge, &victims, &neighbour);
        let flood = stranger.sends(&victims, &voices(10_000), &all);
        nothing(OUTSIDE, TALKING, "a flood of RTP to all ports of the call").came_to(flood);
    });
    victims.forget();
    call.compare(20).unwrap();

    let last = call.told;
    call.bye(0).unwrap();
    edge.no_legs().unwrap();
    for (who, attacker) in [(OUTSIDE, &stranger), (PREFIX, &neighbour), (GATE, &inmate)] {
        attacker.sprays(&victims, &all, &nothing(who, "after the BYE", RTP));
    }
    let own = inmate.acts(&victims, || {
        let packets = copies(&victims.anna.voice, 50);
        packets
            .iter()
            .for_each(|packet| victims.anna.voice.send(last[0], packet).unwrap());
        packets.len()
    });
    nothing("the caller's phone itself", "after the BYE", "RTP that goes on").came_to(own);
}

/// Both phones are known to the relay, by RTP and by RTCP.
fn connect(victims: &Victims, call: &Call) {
    call.connect().unwrap();
    let reports = |side: usize| {
        let phone = call.parties[side];
        phone
            .control
            .send(call.control(side), &rtcp_bye(phone.voice.ssrc, 1))
            .unwrap();
    };
    wait_until("the RTCP of both to come", SOON, || {
        [0, 1].into_iter().for_each(reports);
        let legs = call
            .parties
            .map(|phone| phone.control.hear(Duration::from_millis(20)).unwrap());
        legs.iter().all(Option::is_some)
    })
    .unwrap();
    victims.forget();
}

fn every_port(victims: &Victims, stranger: &Attacker) {
    let all: Vec<SocketAddrV4> = (1024..=u16::MAX)
        .map(|port| SocketAddrV4::new(EXTERNAL, port))
        .collect();
    let outcome = stranger.sends(victims, &voices(1), &all);
    nothing(OUTSIDE, TALKING, "RTP to every port from 1024 to 65535").came_to(outcome);
}

fn every_kind(victims: &Victims, attacker: &Attacker, who: &str, ports: &[SocketAddrV4]) {
    let replayed = [copies(&victims.anna.voice, 25), copies(&victims.berta.voice, 25)].concat();
    let reports = [&victims.anna, &victims.berta].map(|phone| vec![rtcp_bye(phone.voice.ssrc, MARK); 25]);
    for (what, packets) in [
        ("RTP with the phones' SSRCs and next sequence numbers", replayed),
        ("RTCP: sender reports and BYE of the phones' SSRCs", reports.concat()),
        ("STUN, DTLS, SIP, ZRTP, empty, garbage", other_kinds()),
    ] {
        nothing(who, TALKING, what).came_to(attacker.sends(victims, &packets, ports));
    }
}

/// What is not RTP by its first byte (RFC 7983), and nothing at all.
fn other_kinds() -> Vec<Vec<u8>> {
    let first = [0, 1, 16, 22, 64, 128, 191, b'O', 0xff];
    let marked = first.map(|first| [&[first][..], &[MARK; 40]].concat());
    marked.into_iter().chain([Vec::new(), vec![0x80]]).collect()
}

/// Whoever can forge addresses, and knows both endpoints of the caller's leg, puts packets into its stream. The answers go to the phone.
fn forged(edge: &Edge, victims: &Victims, neighbour: &Attacker) {
    let legs = edge.legs().unwrap();
    let of_anna = legs
        .iter()
        .find(|leg| leg["side"] == 0 && leg["rtcp"] == false)
        .unwrap();
    let (peer, external) = (endpoint(&of_anna["peer"]), endpoint(&of_anna["external"]));
    let wire = RawSocket::host(edge.lab.o(1)).unwrap();
    let forge = |from: SocketAddrV4| {
        neighbour.acts(victims, || {
            let packets = copies(&victims.anna.voice, 50);
            for packet in &packets {
                let forged = Packet::udp(from, external, packet).via(edge.lab.o(1));
                wire.send_packet(&forged).unwrap();
            }
            packets.len()
        })
    };
    let beside = SocketAddrV4::new(*peer.ip(), peer.port() ^ 1);
    nothing(
        "somebody who forges the NAT's address",
        TALKING,
        "RTP from another port of it",
    )
    .came_to(forge(beside));
    let copies = Attack {
        promise: Promise::Copies,
        ..nothing("somebody who forges the phone's endpoint", TALKING, "RTP with its SSRC")
    };
    copies.came_to(forge(peer));
    let inside = SocketAddrV4::new(edge.lab.h(1).ip, 4000);
    nothing(
        "somebody who forges an address of our inside",
        TALKING,
        "RTP from there",
    )
    .came_to(forge(inside));
}

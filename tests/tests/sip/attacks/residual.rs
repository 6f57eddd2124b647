//! What is left of a risk, measured: who is inside of the gate before the phone has sent, or goes on with its stream while it is silent.

use std::time::Duration;

use tests::prelude::*;
use tests::sip::edge::{Edge, endpoint};
use tests::sip::handset::{Call, sdp};
use tests::sip::rtp::Voice;

use super::arena::{Attacker, Victims, copies, ports, voices};
use super::{Attack, Outcome, Promise};

/// Packets of the phone that is robbed.
const SAID: usize = 50;

fn residual<'a>(attacker: &'a str, when: &'a str, what: &'a str) -> Attack<'a> {
    Attack {
        attacker,
        when,
        what,
        promise: Promise::Residual,
    }
}

/// berta says something, and what comes of it is added.
fn and_berta_talks(attacker: &Attacker, victims: &Victims, call: &Call, outcome: Outcome) -> Outcome {
    let talk = attacker.acts(victims, || {
        (0..SAID).for_each(|_| drop(call.say(1).unwrap()));
        SAID
    });
    Outcome {
        leaked: outcome.leaked + talk.leaked,
        ..outcome
    }
}

/// berta is known to the relay, anna is not.
fn berta_is_known(edge: &Edge, call: &Call) {
    call.say(1).unwrap();
    wait_until("berta to be known", SOON, || {
        edge.legs()
            .unwrap()
            .iter()
            .any(|leg| leg["side"] == 1 && !leg["peer"].is_null())
    })
    .unwrap();
}

/// Another user of the same address who is faster than the phone has its stream, until the phone offers or answers with another place.
#[test]
fn inside_of_the_gate_before_the_phone_has_sent() {
    let edge = Edge::far("").unwrap();
    let victims = Victims::new(&edge);
    let inmate = Attacker::new(&edge, edge.lab.f(1));
    let mut call = victims.call();
    berta_is_known(&edge, &call);
    let outcome = inmate.sends(&victims, &voices(50), &call.told[..1]);
    let outcome = and_berta_talks(&inmate, &victims, &call, outcome);
    assert_eq!((outcome.leaked, outcome.reached), (SAID, 50), "the measure itself");
    let what = "50 RTP packets, then the phone that was called says 50";
    residual("somebody behind the caller's NAT", "before its first packet", what).came_to(outcome);
    // The phone says another place, and is first.
    let there = Voice::bind(edge.lab.f(1), 4100, victims.anna.voice.ssrc).unwrap();
    call.offer(1, &victims.berta.sdp("sendrecv"), &sdp(there.endpoint, "sendrecv"))
        .unwrap();
    there.say(call.told[0]).unwrap();
    wait_until("the stream to be anna's", SOON, || {
        call.say(1).unwrap();
        there.hear(Duration::from_millis(50)).unwrap().is_some()
    })
    .unwrap();
    call.bye(0).unwrap();
}

/// The address is forged: the stream goes to the NAT, and whoever forged it hears nothing.
#[test]
fn a_forged_address_before_the_phone_has_sent() {
    let edge = Edge::far("").unwrap();
    let victims = Victims::new(&edge);
    let neighbour = Attacker::new(&edge, edge.lab.o(1));
    let wire = RawSocket::host(edge.lab.o(1)).unwrap();
    let call = victims.call();
    berta_is_known(&edge, &call);
    let outcome = neighbour.acts(&victims, || {
        for packet in voices(50) {
            let source = (edge.lab.n(1).ip, 9999);
            wire.send_packet(&Packet::udp(source, call.told[0], &packet).via(edge.lab.o(1)))
                .unwrap();
        }
        50
    });
    let outcome = and_berta_talks(&neighbour, &victims, &call, outcome);
    assert_eq!(outcome.leaked, 0, "it goes to the NAT");
    let what = "50 RTP packets, then the phone that was called says 50";
    residual("somebody who forges the NAT's address", "before the first packet", what).came_to(outcome);
    call.bye(0).unwrap();
}

/// The price of following phones whose NAT rebinds: who is inside of the gate and knows SSRC and sequence number takes a stream that pauses.
#[test]
fn inside_of_the_gate_while_the_phone_is_silent() {
    let edge = Edge::far("").unwrap();
    let victims = Victims::new(&edge);
    let inmate = Attacker::new(&edge, edge.lab.f(1));
    let call = victims.call();
    call.connect().unwrap();
    let before = edge.legs().unwrap();
    // Longer than a phone that talks, shorter than one that has gone.
    std::thread::sleep(Duration::from_secs(1));
    let guessed = inmate.sends(&victims, &voices(50), &call.told[..1]);
    let who = "somebody behind the caller's NAT";
    let blind = Attack {
        promise: Promise::Nothing,
        ..residual(who, "the phone is silent for a second", "RTP with another SSRC")
    };
    blind.came_to(guessed);
    let outcome = inmate.sends(&victims, &copies(&victims.anna.voice, 50), &call.told[..1]);
    let outcome = and_berta_talks(&inmate, &victims, &call, outcome);
    assert_ne!(edge.legs().unwrap(), before);
    let what = "50 RTP packets with its SSRC and next sequence numbers, then the phone that was called says 50";
    residual(who, "the phone is silent for a second", what).came_to(outcome);
    call.bye(0).unwrap();
}

/// `gate_prefix = 24`: whoever is in it is inside of the gate.
#[test]
fn a_wider_gate() {
    let edge = Edge::far("[sip.media]\ngate_prefix = 24").unwrap();
    let victims = Victims::new(&edge);
    let neighbour = Attacker::new(&edge, edge.lab.o(1));
    let stranger = Attacker::new(&edge, edge.lab.far());
    let who = "somebody in the gate's /24, with gate_prefix = 24";
    let call = victims.call();
    berta_is_known(&edge, &call);
    stranger.sprays(
        &victims,
        &ports(&edge),
        &Attack {
            promise: Promise::Nothing,
            ..residual(
                "somebody in the Internet, with gate_prefix = 24",
                "before the first packet",
                "RTP to all ports of the call",
            )
        },
    );
    let outcome = neighbour.sends(&victims, &voices(50), &call.told[..1]);
    let outcome = and_berta_talks(&neighbour, &victims, &call, outcome);
    assert_eq!(outcome.leaked, SAID, "the measure itself");
    let what = "50 RTP packets, then the phone that was called says 50";
    residual(who, "before the caller's first packet", what).came_to(outcome);
    call.bye(0).unwrap();
    edge.no_legs().unwrap();

    let call = victims.call();
    call.connect().unwrap();
    let legs = edge.legs().unwrap();
    victims.talk_during(&call, || {
        let of_rtp: Vec<_> = legs
            .iter()
            .filter(|leg| leg["rtcp"] == false)
            .map(|leg| endpoint(&leg["external"]))
            .collect();
        let after = Attack {
            promise: Promise::Nothing,
            ..residual(who, "both phones talk", "RTP to both ports of the call")
        };
        neighbour.sprays(&victims, &of_rtp, &after);
    });
    call.bye(0).unwrap();
}

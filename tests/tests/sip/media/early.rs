//! Early media: what is said before the call is answered (RFC 3960).

use std::time::Duration;

use tests::prelude::*;
use tests::sip::baresip::Event;
use tests::sip::edge::Edge;
use tests::sip::handset::ring;
use tests::sip::sipp::Sipp;

use super::{ANNA, edge, phone};
use crate::DOMAIN;

/// A gateway says 183 with a description and is heard while it rings (here it echoes), long before it answers; the caller gives up.
#[test]
fn a_gateway_is_heard_before_it_answers() {
    let edge = edge();
    let anna = phone(&edge, "anna", ANNA, edge.lab.f(1));
    let register = Sipp::scenario("register").to("berta", DOMAIN, edge.server);
    let host = edge.lab.o(1);
    register.auth("berta", "secret").port(5060).run(host).unwrap();
    let gateway = Sipp::scenario("uas_gateway").port(5060).media_port(7000).echoes();
    let gateway = gateway.fill("ring", "60000").start(host).unwrap();
    anna.dial(&format!("sip:berta@{DOMAIN}")).unwrap();
    anna.event("CALL_PROGRESS").unwrap();
    anna.hears(ANNA).unwrap();
    let established = |event: &Event| event.kind == "CALL_ESTABLISHED";
    assert!(!anna.events().unwrap().iter().any(established));
    for leg in edge.voice_legs().unwrap() {
        assert_eq!(leg["lost"], 0, "{leg}");
    }
    anna.hang_up().unwrap();
    // sipp's scenario knows no CANCEL.
    drop(gateway);
}

/// The caller sends as soon as it has the 183, and the callee answers much later: not one packet is lost in between, and a call that is then
/// refused leaves nothing.
#[test]
fn what_is_said_early_goes_on_through_the_answer() {
    let edge = Edge::open("").unwrap();
    let [anna, berta] = edge.handsets().unwrap();
    let ringing = ring(&anna, &berta, &anna.sdp("sendrecv")).unwrap();
    let early = ringing.early(&berta.sdp("sendrecv")).unwrap();
    // Both are known to the relay once each has said something.
    let offered = tests::sip::handset::told(&ringing.came).unwrap();
    wait_until("berta to hear anna early", SOON, || {
        anna.voice.say(early).unwrap();
        berta.voice.say(offered).unwrap();
        berta.voice.hear(Duration::from_millis(20)).unwrap().is_some()
    })
    .unwrap();
    let call = ringing.answer(&berta.sdp("sendrecv")).unwrap();
    assert_eq!(call.told, [early, offered], "the answer names the same places");
    call.connect().unwrap();
    call.compare(20).unwrap();
    for leg in edge.voice_legs().unwrap() {
        assert_eq!(leg["lost"], 0, "{leg}");
    }
    call.bye(1).unwrap();
    edge.no_legs().unwrap();

    let ringing = ring(&anna, &berta, &anna.sdp("sendrecv")).unwrap();
    ringing.early(&berta.sdp("sendrecv")).unwrap();
    assert!(!edge.legs().unwrap().is_empty());
    berta.busy(&ringing.came).unwrap();
    edge.no_legs().unwrap();
}

//! Hold and resume (RFC 3264 §8.4), in both styles.

use std::net::{Ipv4Addr, SocketAddrV4};

use serde_json::{Value, json};
use tests::prelude::*;
use tests::sip::edge::Edge;
use tests::sip::handset::{Call, ring, sdp};

use super::{edge, hang_up, hear_each_other, phones, talk};

/// What a hold must not change.
fn places(edge: &Edge) -> Vec<(Value, Value)> {
    let legs = edge.voice_legs().unwrap();
    legs.map(|leg| (leg["external"].clone(), leg["peer"].clone())).into()
}

fn held(edge: &Edge) -> [Value; 2] {
    edge.voice_legs().unwrap().map(|leg| leg["hold"].clone())
}

/// Each phone holds and takes back, in a call that one of them made.
#[test]
fn phones_hold_and_resume() {
    let edge = edge();
    let [anna, berta] = phones(&edge);
    talk(&anna, &berta);
    let before = places(&edge);
    for (holds, waits) in [(&anna, &berta), (&berta, &anna)] {
        holds.hold().unwrap();
        wait_until("the legs to be on hold", SOON, || {
            held(&edge) == [json!(true), json!(true)]
        })
        .unwrap();
        assert_eq!(places(&edge), before);
        holds.resume().unwrap();
        wait_until("the legs to be in use again", SOON, || {
            held(&edge) == [json!(false), json!(false)]
        })
        .unwrap();
        // Not what was heard before the hold.
        heard_anew(&edge);
        hear_each_other([holds, waits]);
        assert_eq!(places(&edge), before);
    }
    hang_up(&berta, &anna);
    edge.no_legs().unwrap();
}

/// Waits until each leg has passed a second of media.
fn heard_anew(edge: &Edge) {
    let packets = || edge.voice_legs().unwrap().map(|leg| leg["packets"].as_u64().unwrap());
    let before = packets();
    wait_until("a second of media in both directions", SOON, || {
        packets().iter().zip(before).all(|(now, before)| *now >= before + 50)
    })
    .unwrap();
}

/// The caller or the callee offers this, and is answered with that; the legs are on hold. Then it is taken back, and nothing is lost.
fn hold(edge: &Edge, call: &mut Call, by: usize, offer: &str, answer: &str) {
    let (told, places_before) = (call.told, places(edge));
    call.offer(by, offer, answer).unwrap();
    assert_eq!(held(edge), [json!(true), json!(true)], "{offer}");
    assert_eq!(call.told[by], told[by], "{offer}");
    // The hold of RFC 2543 must be seen as such by the other side.
    let blank = offer.contains("c=IN IP4 0.0.0.0");
    let (now, before) = (call.told[1 - by], told[1 - by]);
    assert_eq!(
        (now == before, now.ip().is_unspecified()),
        (!blank, blank),
        "{now}: {offer}"
    );
    let [one, other] = [by, 1 - by].map(|side| call.parties[side].sdp("sendrecv"));
    call.offer(by, &one, &other).unwrap();
    assert_eq!(held(edge), [json!(false), json!(false)], "{offer}");
    assert_eq!(call.told, told);
    call.compare(5).unwrap();
    assert_eq!(places(edge), places_before);
}

/// sendonly, inactive, and the address 0.0.0.0 of RFC 2543, by either side.
#[test]
fn every_style_of_hold() {
    let edge = Edge::open("").unwrap();
    let [anna, berta] = edge.handsets().unwrap();
    let ringing = ring(&anna, &berta, &anna.sdp("sendrecv")).unwrap();
    let mut call = ringing.answer(&berta.sdp("sendrecv")).unwrap();
    call.connect().unwrap();
    for by in [0, 1] {
        let [one, other] = [by, 1 - by].map(|side| call.parties[side]);
        let blank = sdp(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 4000), "sendrecv");
        for (offer, answer) in [
            (one.sdp("sendonly"), other.sdp("recvonly")),
            (one.sdp("inactive"), other.sdp("inactive")),
            (blank, other.sdp("sendrecv")),
        ] {
            hold(&edge, &mut call, by, &offer, &answer);
        }
    }
    call.bye(0).unwrap();
    edge.no_legs().unwrap();
}

/// Who holds may play music: one direction goes on.
#[test]
fn music_on_hold_is_heard() {
    let edge = Edge::open("").unwrap();
    let [anna, berta] = edge.handsets().unwrap();
    let ringing = ring(&anna, &berta, &anna.sdp("sendrecv")).unwrap();
    let mut call = ringing.answer(&berta.sdp("sendrecv")).unwrap();
    call.connect().unwrap();
    call.offer(0, &anna.sdp("sendonly"), &berta.sdp("recvonly")).unwrap();
    for _ in 0..20 {
        let said = call.say(0).unwrap();
        let (heard, from) = berta.voice.hear(SOON).unwrap().expect("music on hold");
        assert_eq!((heard, from), (said, call.told[1]));
    }
    call.bye(1).unwrap();
}

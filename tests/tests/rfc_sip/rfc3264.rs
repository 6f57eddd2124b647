//! RFC 3264: offers and answers.

use std::net::{Ipv4Addr, SocketAddrV4};

use tests::prelude::*;
use tests::sip::handset::{ring, sdp, told};
use tests::sip::rtp::Voice;

use crate::media::{call, edge, lines};

#[test]
fn sec_5_nothing_but_places_changes() {
    let Some(edge) = edge() else { return };
    let [anna, berta] = edge.handsets().unwrap();
    let more = "a=fmtp:0 x=\"y\"\r\na=ptime:20\r\na=X-unknown: as it  is\r\nb=AS:64\r\n";
    let offer = anna.sdp("sendrecv") + more;
    let ringing = ring(&anna, &berta, &offer).unwrap();
    assert_eq!(*told(&ringing.came).unwrap().ip(), *edge.server.ip());
    let came = lines(&ringing.came);
    let sent: Vec<&str> = offer.lines().collect();
    assert_eq!(came.len(), sent.len(), "{came:?}");
    for (came, sent) in came.iter().zip(sent) {
        let place = sent.starts_with("c=") || sent.starts_with("m=");
        assert_eq!(came != sent, place, "{came:?} instead of {sent:?}");
    }
    berta.busy(&ringing.came).unwrap();
}

#[test]
fn sec_5_2_multicast_passes_as_it_is() {
    let Some(edge) = edge() else { return };
    let [anna, berta] = edge.handsets().unwrap();
    let group = sdp(SocketAddrV4::new(Ipv4Addr::new(233, 252, 0, 1), 4000), "recvonly");
    let offer = group.replace("233.252.0.1\r\nt=", "233.252.0.1/127\r\nt=");
    let ringing = ring(&anna, &berta, &offer).unwrap();
    assert_eq!(ringing.came.body(), offer.as_bytes());
    assert!(edge.legs().unwrap().is_empty());
    berta.busy(&ringing.came).unwrap();
}

/// Two streams are offered and one is taken.
#[test]
fn sec_6_a_stream_that_is_refused_has_no_place() {
    let Some(edge) = edge() else { return };
    let [anna, berta] = edge.handsets().unwrap();
    let ringing = ring(&anna, &berta, &(anna.sdp("sendrecv") + "m=video 4300 RTP/AVP 31\r\n")).unwrap();
    let of_two = edge.legs().unwrap().len();
    let call = ringing
        .answer(&(berta.sdp("sendrecv") + "m=video 0 RTP/AVP 31\r\n"))
        .unwrap();
    wait_until("the place of the second stream to be given back", SOON, || {
        edge.legs().unwrap().len() * 2 == of_two
    })
    .unwrap();
    call.connect().unwrap();
    call.compare(5).unwrap();
    call.bye(0).unwrap();
}

#[test]
fn sec_8_a_refused_offer_changes_nothing() {
    let Some(edge) = edge() else { return };
    let [anna, berta] = edge.handsets().unwrap();
    let mut call = call(&anna, &berta, "");
    call.connect().unwrap();
    let places = || {
        edge.voice_legs()
            .unwrap()
            .map(|leg| [leg["external"].clone(), leg["peer"].clone(), leg["hold"].clone()])
    };
    let before = places();
    for by in [0, 1] {
        let moved = sdp(SocketAddrV4::new(anna.voice.endpoint.ip().to_owned(), 4500), "sendonly");
        call.offer_refused(by, &moved).unwrap();
        assert_eq!(places(), before);
        call.compare(5).unwrap();
    }
    call.bye(1).unwrap();
}

#[test]
fn sec_8_3_1_a_stream_moves_to_another_port() {
    let Some(edge) = edge() else { return };
    let [anna, berta] = edge.handsets().unwrap();
    let mut call = call(&anna, &berta, "");
    call.connect().unwrap();
    let told = call.told;
    let there = Voice::bind(edge.lab.f(1), 4100, 7).unwrap();
    call.offer(0, &sdp(there.endpoint, "sendrecv"), &berta.sdp("sendrecv"))
        .unwrap();
    assert_eq!(call.told, told, "nobody else moves");
    let said = there.say(told[0]).unwrap();
    assert_eq!(berta.voice.hear(SOON).unwrap(), Some((said, told[1])));
    let said = call.say(1).unwrap();
    assert_eq!(there.hear(SOON).unwrap(), Some((said, told[0])));
    call.bye(0).unwrap();
}

#[test]
fn sec_8_4_hold_keeps_the_stream() {
    let Some(edge) = edge() else { return };
    let [anna, berta] = edge.handsets().unwrap();
    let mut call = call(&anna, &berta, "");
    call.connect().unwrap();
    let blank = sdp(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 4000), "sendrecv");
    for (offer, answer) in [
        (anna.sdp("sendonly"), berta.sdp("recvonly")),
        (anna.sdp("inactive"), berta.sdp("inactive")),
        (blank, berta.sdp("sendrecv")),
    ] {
        call.offer(0, &offer, &answer).unwrap();
        assert!(
            edge.voice_legs().unwrap().iter().all(|leg| leg["hold"] == true),
            "{offer}"
        );
        call.offer(0, &anna.sdp("sendrecv"), &berta.sdp("sendrecv")).unwrap();
        assert!(
            edge.voice_legs().unwrap().iter().all(|leg| leg["hold"] == false),
            "{offer}"
        );
        call.compare(5).unwrap();
    }
    call.bye(0).unwrap();
}

//! RFC 7983: what shares a port with RTP.

use serde_json::json;
use tests::prelude::*;

use crate::media::{call, edge, passes};

/// A STUN binding request without attributes (RFC 8489 §5).
const STUN: [u8; 20] = [
    0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
];
/// The beginning of a DTLS handshake record (RFC 6347 §4.1).
const DTLS: [u8; 14] = [22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1];

/// With ICE and DTLS-SRTP in both descriptions.
#[test]
fn sec_7_stun_and_dtls_pass_if_they_were_offered() {
    let Some(edge) = edge() else { return };
    let [anna, berta] = edge.handsets().unwrap();
    let lines = format!(
        "a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=candidate:1 1 UDP 2130706431 192.168.7.10 4000 typ host\r\n\
         a=setup:actpass\r\na=fingerprint:sha-256 {}\r\n",
        ["AB"; 32].join(":")
    );
    let secure = |sdp: String| sdp.replace("RTP/AVP", "UDP/TLS/RTP/SAVP") + &lines;
    let ringing = tests::sip::handset::ring(&anna, &berta, &secure(anna.sdp("sendrecv"))).unwrap();
    let call = ringing.answer(&secure(berta.sdp("sendrecv"))).unwrap();
    // ICE begins with checks of both.
    berta.voice.send(call.told[1], &STUN).unwrap();
    passes(&anna.voice, call.told[0], &berta.voice, &STUN);
    passes(&berta.voice, call.told[1], &anna.voice, &DTLS);
    call.connect().unwrap();
    call.compare(5).unwrap();
    call.bye(0).unwrap();
}

/// Plain RTP: neither STUN nor DTLS nor anything else makes a phone known or passes.
#[test]
fn sec_7_what_was_not_offered_does_not_pass() {
    let Some(edge) = edge() else { return };
    let [anna, berta] = edge.handsets().unwrap();
    let call = call(&anna, &berta, "");
    let others: [&[u8]; 6] = [&STUN, &DTLS, &[64; 20], &[16; 20], &[192; 20], b""];
    let send = || {
        others
            .iter()
            .for_each(|other| anna.voice.send(call.told[0], other).unwrap())
    };
    let refused = |count: usize| {
        wait_until("all of it to be refused", SOON, || {
            edge.voice_legs().unwrap()[0]["refused"]["relay_class"] == json!(count)
        })
        .unwrap();
    };
    send();
    refused(others.len());
    assert!(edge.voice_legs().unwrap()[0]["peer"].is_null());
    call.connect().unwrap();
    send();
    refused(2 * others.len());
    call.compare(5).unwrap();
    assert!(berta.voice.heard().unwrap().is_empty());
    call.bye(0).unwrap();
}

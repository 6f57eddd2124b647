//! Calls with media through a router that runs both NAT and server: phones by hand behind two NATs of others.

use std::time::Duration;

use tests::prelude::*;
use tests::sip::edge::Edge;
use tests::sip::handset::{Call, Handset, ring};
use tests::sip::message::Message;
use tests::sip::rtp::Voice;
use tests::sip::under_test::only_sipnat;

/// The router. `None` if another server is asked: kamailio leaves media to others beside it.
pub fn edge() -> Option<Edge> {
    only_sipnat("media is not kamailio's, but that of a relay beside it").then(|| Edge::open("").unwrap())
}

/// A call with these lines after the descriptions' own, which both phones have; nothing was said yet.
pub fn call<'a>(anna: &'a Handset, berta: &'a Handset, lines: &str) -> Call<'a> {
    let [offer, answer] = [anna, berta].map(|phone| phone.sdp("sendrecv") + lines);
    ring(anna, berta, &offer).unwrap().answer(&answer).unwrap()
}

/// The lines of a message's description.
pub fn lines(message: &Message) -> Vec<String> {
    let text = String::from_utf8_lossy(message.body()).into_owned();
    text.lines().map(String::from).collect()
}

/// Sends a datagram until it arrives, which it must unchanged; the relay may not know both ends yet.
pub fn passes(from: &Voice, to: std::net::SocketAddrV4, ear: &Voice, datagram: &[u8]) {
    let heard = wait_for("a datagram to pass", SOON, || {
        from.send(to, datagram).unwrap();
        ear.hear(Duration::from_millis(50)).unwrap()
    });
    assert_eq!(heard.unwrap().0, datagram);
}

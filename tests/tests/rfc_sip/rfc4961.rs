//! RFC 4961: symmetric RTP and RTCP.

use tests::prelude::*;
use tests::sip::rtp::rtcp_bye;

use crate::media::{call, edge, passes};

#[test]
fn sec_4_media_comes_from_the_port_that_it_is_sent_to() {
    let Some(edge) = edge() else { return };
    let [anna, berta] = edge.handsets().unwrap();
    let call = call(&anna, &berta, "");
    call.connect().unwrap();
    // Who compares looks at the source, too.
    call.compare(10).unwrap();
    let report = rtcp_bye(anna.voice.ssrc, 1);
    berta.control.send(call.control(1), &report).unwrap();
    passes(&anna.control, call.control(0), &berta.control, &report);
    berta.control.send(call.control(1), &report).unwrap();
    let (_, from) = anna.control.hear(SOON).unwrap().expect("a report");
    assert_eq!(from, call.control(0));
    call.bye(0).unwrap();
}

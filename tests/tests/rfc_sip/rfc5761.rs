//! RFC 5761: RTP and RTCP on one port.

use tests::sip::rtp::rtcp_bye;

use crate::media::{call, edge, passes};

#[test]
fn sec_5_1_1_both_on_one_port_if_both_say_so() {
    let Some(edge) = edge() else { return };
    let [anna, berta] = edge.handsets().unwrap();
    let call = call(&anna, &berta, "a=rtcp-mux\r\n");
    call.connect().unwrap();
    for side in [0, 1] {
        let (one, other) = (call.parties[side], call.parties[1 - side]);
        passes(&one.voice, call.told[side], &other.voice, &rtcp_bye(one.voice.ssrc, 1));
    }
    call.compare(5).unwrap();
    // Reports are not taken for media.
    for leg in edge.voice_legs().unwrap() {
        assert_eq!((&leg["lost"], &leg["ssrc_changes"]), (&0.into(), &0.into()), "{leg}");
    }
    call.bye(0).unwrap();
}

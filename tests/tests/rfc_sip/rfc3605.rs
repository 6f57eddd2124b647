//! RFC 3605: the port of RTCP, where it is not the next one.

use tests::sip::handset::ring;
use tests::sip::rtp::{Voice, rtcp_bye};

use crate::media::{edge, passes};

/// A phone in the open names another port for its reports, and has not sent any: they go there.
#[test]
fn sec_2_1_reports_go_where_rtcp_says() {
    let Some(edge) = edge() else { return };
    let anna = edge.handset("anna", edge.lab.o(1)).unwrap();
    let berta = edge.handset("berta", edge.lab.f(2)).unwrap();
    let elsewhere = Voice::bind(edge.lab.o(1), 4444, 7).unwrap();
    let offer = anna.sdp("sendrecv") + "a=rtcp:4444\r\n";
    let ringing = ring(&anna, &berta, &offer).unwrap();
    let call = ringing.answer(&berta.sdp("sendrecv")).unwrap();
    passes(
        &berta.control,
        call.control(1),
        &elsewhere,
        &rtcp_bye(berta.voice.ssrc, 1),
    );
    assert!(
        anna.control.heard().unwrap().is_empty(),
        "nothing at the port next to RTP"
    );
    call.bye(0).unwrap();
}

//! RFC 3550: RTP and its reports.

use crate::media::{call, edge};

#[test]
fn sec_11_rtp_has_an_even_port_and_rtcp_the_next() {
    let Some(edge) = edge() else { return };
    let [anna, berta] = edge.handsets().unwrap();
    let call = call(&anna, &berta, "");
    for side in [0, 1] {
        assert_eq!(call.told[side].port() % 2, 0, "{:?}", call.told);
        let next = call.control(side).to_string();
        let legs = edge.legs().unwrap();
        assert!(
            legs.iter().any(|leg| leg["rtcp"] == true && leg["external"] == *next),
            "{legs:?}"
        );
    }
    call.bye(0).unwrap();
}

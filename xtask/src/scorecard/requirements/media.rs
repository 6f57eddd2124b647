//! What the RFCs about media ask of who stands between two phones: session descriptions and the relay.

use super::{Requirement, requirement};

#[rustfmt::skip]
pub const REQUIREMENTS: &[Requirement] = &[
    requirement("3264", "§5", "an offer passes as it was made, but for the place of its media", &[
        "rfc3264::sec_5_nothing_but_places_changes",
    ]),
    requirement("3264", "§5.2", "multicast has a place of its own", &[
        "rfc3264::sec_5_2_multicast_passes_as_it_is",
    ]),
    requirement("3264", "§6", "a stream that is refused (port 0) is none", &[
        "rfc3264::sec_6_a_stream_that_is_refused_has_no_place",
    ]),
    requirement("3264", "§8", "an offer that is refused changes nothing", &[
        "rfc3264::sec_8_a_refused_offer_changes_nothing",
    ]),
    requirement("3264", "§8.3.1", "a stream moves to another port", &[
        "rfc3264::sec_8_3_1_a_stream_moves_to_another_port",
    ]),
    requirement("3264", "§8.4", "hold, by direction and by the address 0.0.0.0", &[
        "rfc3264::sec_8_4_hold_keeps_the_stream",
    ]),
    requirement("3550", "§11", "RTP has an even port and RTCP the next one", &[
        "rfc3550::sec_11_rtp_has_an_even_port_and_rtcp_the_next",
    ]),
    requirement("3605", "§2.1", "a=rtcp says where reports go", &[
        "rfc3605::sec_2_1_reports_go_where_rtcp_says",
    ]),
    requirement("4961", "§4", "media comes from the port that it is sent to (symmetric RTP and RTCP)", &[
        "rfc4961::sec_4_media_comes_from_the_port_that_it_is_sent_to",
    ]),
    requirement("5761", "§5.1.1", "RTP and RTCP on one port if both say so", &[
        "rfc5761::sec_5_1_1_both_on_one_port_if_both_say_so",
    ]),
    requirement("7983", "§7", "STUN and DTLS are told from RTP by the first byte", &[
        "rfc7983::sec_7_stun_and_dtls_pass_if_they_were_offered",
        "rfc7983::sec_7_what_was_not_offered_does_not_pass",
    ]),
];

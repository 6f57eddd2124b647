//! What the RFCs ask of a SIP server. The tests are in the binary `rfc_sip`; those that begin with `sip::` are unit tests of `nat-user`, most of them with a
//! simulated clock.

use super::{Requirement, requirement};

/// The checklist, in the order of the scorecard.
#[rustfmt::skip]
pub const REQUIREMENTS: &[Requirement] = &[
    requirement("3261", "§7.1", "methods that nobody knows pass", &[
        "rfc3261::messages::sec_7_1_a_method_that_nobody_knows_passes",
    ]),
    requirement("3261", "§7.3.1", "header names in any case, space before the colon", &[
        "rfc3261::messages::sec_7_3_1_names_in_any_case_and_space_before_the_colon",
    ]),
    requirement("3261", "§7.3.1", "folded lines", &[
        "rfc3261::messages::sec_7_3_1_folded_lines",
    ]),
    requirement("3261", "§7.3.1", "lists in one line or in many", &[
        "rfc3261::messages::sec_7_3_1_several_values_in_one_line_or_in_many",
    ]),
    requirement("3261", "§7.3.3", "compact forms", &[
        "rfc3261::messages::sec_7_3_3_compact_forms",
    ]),
    requirement("3261", "§7.4", "bodies of any bytes", &[
        "rfc3261::messages::sec_7_4_a_binary_body_passes_as_it_is",
    ]),
    requirement("3261", "§7.5", "line ends before a message of a stream", &[
        "rfc3261::transport::sec_7_5_line_ends_between_messages_of_a_stream_are_ignored",
    ]),
    requirement("3261", "§8.1.1.5", "CSeq of another method: 400", &[
        "rfc3261::messages::sec_8_1_1_5_another_method_in_cseq_is_answered_with_400",
    ]),
    requirement("3261", "§8.2.6.1", "100 copies Timestamp (SHOULD for its delay) and has no To tag", &[
        "rfc3261::messages::sec_8_2_6_1_a_100_copies_the_timestamp_and_has_no_to_tag_of_ours",
    ]),
    requirement("3261", "§8.2.6.2", "responses have a To tag, copies the same one", &[
        "rfc3261::messages::sec_8_2_6_2_responses_have_a_to_tag_and_the_same_one_for_copies",
    ]),
    requirement("3261", "§8.3", "redirect server: 302 with the contacts", &[
        "rfc3261::redirect::sec_8_3_calls_are_answered_with_302_and_the_contacts",
        "rfc3261::redirect::sec_8_3_a_caller_that_follows_reaches_the_phone",
        "rfc3261::redirect::sec_8_3_a_user_whom_nobody_knows_is_answered_with_404",
    ]),
    requirement("3261", "§8.3", "redirect server: CANCEL gets a 2xx (SHOULD)", &[
        "rfc3261::redirect::sec_8_3_a_cancel_is_answered",
    ]),
    requirement("3261", "§9.1", "CANCEL waits for a provisional response", &[
        "rfc3261::cancel::sec_9_1_a_cancel_waits_for_a_provisional_response",
    ]),
    requirement("3261", "§9.2", "CANCEL after the final response changes nothing", &[
        "rfc3261::cancel::sec_9_2_a_cancel_after_the_final_response_changes_nothing",
    ]),
    requirement("3261", "§9.2", "CANCEL cancels the transaction that it matches and no other", &[
        "rfc3261::cancel::sec_9_2_a_cancel_of_another_branch_cancels_nothing",
        "rfc3261::cancel::sec_16_10_a_cancel_of_nothing_harms_nobody",
    ]),
    requirement("3261", "§10.2.1", "what is registered is where requests go", &[
        "rfc3261::registrar::sec_10_2_1_what_is_registered_is_where_requests_go",
    ]),
    requirement("3261", "§10.2.1.1", "an expiry that is no number is an hour (SHOULD)", &[
        "rfc3261::registrar::sec_10_2_1_1_an_expiry_that_is_no_number_counts_as_an_hour",
    ]),
    requirement("3261", "§10.2.2", "an expiry of zero removes", &[
        "rfc3261::registrar::sec_10_2_2_an_expiry_of_zero_removes_a_contact",
    ]),
    requirement("3261", "§10.2.3", "without a contact it only asks", &[
        "rfc3261::registrar::sec_10_2_3_without_a_contact_it_only_asks",
    ]),
    requirement("3261", "§10.3 item 1", "domains that are not served here", &[
        "rfc3261::registrar::sec_10_3_1_a_domain_that_is_not_served_here_is_not_registered",
    ]),
    requirement("3261", "§10.3 item 2", "Require: 420, before authentication", &[
        "rfc3261::registrar::sec_10_3_2_what_is_required_and_not_supported_is_answered_with_420",
    ]),
    requirement("3261", "§10.3 item 3", "authentication", &[
        "rfc3261::registrar::sec_10_3_3_a_registrar_authenticates",
    ]),
    requirement("3261", "§10.3 item 4", "authorization: 403", &[
        "rfc3261::registrar::sec_10_3_4_who_may_not_change_it_is_answered_with_403",
    ]),
    requirement("3261", "§10.3 item 5", "address of record: 404, canonical form", &[
        "rfc3261::registrar::sec_10_3_5_an_address_of_record_of_another_domain_is_answered_with_404",
        "rfc3261::registrar::sec_10_3_5_parameters_of_the_address_of_record_do_not_count",
    ]),
    requirement("3261", "§10.3 item 6", "`*` removes all; with anything else 400", &[
        "rfc3261::registrar::sec_10_3_6_a_star_removes_all",
        "rfc3261::registrar::sec_10_3_6_a_star_with_an_expiry_or_another_contact_is_answered_with_400",
    ]),
    requirement("3261", "§10.3 item 7", "which expiry counts", &[
        "rfc3261::registrar::sec_10_3_7_the_contacts_own_expiry_counts_before_the_header_and_both_before_the_default",
    ]),
    requirement("3261", "§10.3 item 7", "too brief: 423 with Min-Expires (MAY)", &[
        "rfc3261::registrar::sec_10_3_7_an_interval_that_is_too_brief_is_answered_with_423_and_the_least",
    ]),
    requirement("3261", "§10.3 item 7", "order by Call-ID and CSeq", &[
        "rfc3261::registrar::sec_10_3_7_a_cseq_that_is_not_higher_changes_nothing",
    ]),
    requirement("3261", "§10.3 item 7", "all of a request or nothing", &[
        "rfc3261::registrar::sec_10_3_7_all_contacts_of_a_request_or_none",
    ]),
    requirement("3261", "§10.3 item 7", "contacts are compared as URIs (§19.1.4)", &[
        "rfc3261::registrar::sec_10_3_7_contacts_are_compared_as_uris",
    ]),
    requirement("3261", "§10.3 item 8", "200 lists all contacts; Date (SHOULD)", &[
        "rfc3261::registrar::sec_10_3_8_the_200_lists_all_contacts_with_what_is_left_and_the_date",
    ]),
    requirement("3261", "§10.3", "Record-Route in a REGISTER is ignored", &[
        "rfc3261::registrar::sec_10_3_a_record_route_in_a_register_is_ignored",
    ]),
    requirement("3261", "§11.2", "OPTIONS for the server; Allow, Accept, Supported (SHOULD)", &[
        "rfc3261::messages::sec_11_2_options_for_the_server_itself",
    ]),
    requirement("3261", "§12.2", "a re-INVITE is a transaction of its own", &[
        "rfc3261::transactions::sec_12_2_a_re_invite_is_a_transaction_of_its_own",
    ]),
    requirement("3261", "§16.3", "no open relay", &[
        "rfc3261::proxy::sec_16_3_nobody_sends_to_anywhere_through_it_without_leave",
        "sip::core::tests::ways::never_an_open_relay",
    ]),
    requirement("3261", "§16.3 item 1", "reasonable syntax, else 400", &[
        "rfc3261::messages::sec_16_3_1_a_request_without_what_it_must_have_is_answered_with_400",
        "rfc3261::messages::sec_25_a_uri_that_is_none_is_answered_with_400",
    ]),
    requirement("3261", "§16.3 item 2", "URI scheme: 416", &[
        "rfc3261::proxy::sec_16_3_2_a_scheme_that_is_not_understood_is_answered_with_416",
    ]),
    requirement("3261", "§16.3 item 3", "Max-Forwards 0: 483", &[
        "rfc3261::proxy::sec_16_3_3_no_hops_left_is_answered_with_483",
    ]),
    requirement("3261", "§16.3 item 4", "loops: 482", &[
        "rfc3261::proxy::sec_16_3_4_a_request_that_was_here_before_is_answered_with_482",
    ]),
    requirement("3261", "§16.3 item 5", "Proxy-Require: 420; Require passes", &[
        "rfc3261::proxy::sec_16_3_5_what_a_proxy_must_support_and_does_not_is_answered_with_420",
        "rfc3261::proxy::sec_16_3_5_what_the_other_end_must_support_is_none_of_the_proxys_business",
    ]),
    requirement("3261", "§16.4", "its own Route is taken out", &[
        "rfc3261::proxy::sec_16_4_its_own_route_is_taken_out",
    ]),
    requirement("3261", "§16.4", "a strict router before us", &[
        "rfc3261::proxy::sec_16_4_a_strict_router_before_us",
        "sip::core::tests::ways::strict_routers",
    ]),
    requirement("3261", "§16.5", "unknown users: 404", &[
        "rfc3261::proxy::sec_16_5_a_user_whom_nobody_knows_is_answered_with_404",
    ]),
    requirement("3261", "§16.5", "requests for elsewhere keep their URI", &[
        "rfc3261::proxy::sec_16_5_a_request_for_elsewhere_keeps_its_uri",
    ]),
    requirement("3261", "§16.6", "forking: all at once", &[
        "rfc3261::forking::sec_16_6_all_contacts_ring_with_branches_of_their_own",
    ]),
    requirement("3261", "§16.6", "forking: by q, one after the other (MAY)", &[
        "rfc3261::forking::sec_16_6_by_q_one_after_the_other",
        "sip::core::tests::forks::phones_ring_one_after_the_other",
    ]),
    requirement("3261", "§16.6 item 1", "everything else stays as it came", &[
        "rfc3261::proxy::sec_16_6_1_everything_else_stays_as_it_came",
    ]),
    requirement("3261", "§16.6 item 2", "request URI", &[
        "rfc3261::proxy::sec_16_6_2_the_request_uri_becomes_the_contact",
    ]),
    requirement("3261", "§16.6 item 3", "Max-Forwards; 70 if there is none (SHOULD)", &[
        "rfc3261::proxy::sec_16_6_3_max_forwards_is_counted_down_or_added",
    ]),
    requirement("3261", "§16.6 item 4", "Record-Route; twice if the transport changes", &[
        "rfc3261::proxy::sec_16_6_4_it_stays_in_the_dialog_by_a_loose_record_route",
        "rfc3261::proxy::sec_16_6_4_twice_if_the_transport_changes",
    ]),
    requirement("3261", "§16.6 item 6", "a strict router behind us", &[
        "rfc3261::proxy::sec_16_6_6_a_strict_router_behind_us",
    ]),
    requirement("3261", "§16.6 item 7", "the next Route is the next hop", &[
        "rfc3261::proxy::sec_16_6_7_the_next_route_is_the_next_hop",
    ]),
    requirement("3261", "§16.6 item 8", "Via with a branch that no other has", &[
        "rfc3261::proxy::sec_16_6_8_its_own_via_with_a_branch_that_no_other_has",
    ]),
    requirement("3261", "§16.6 item 9", "Content-Length on streams", &[
        "rfc3261::proxy::sec_16_6_9_a_stream_gets_a_content_length",
    ]),
    requirement("3261", "§16.6 item 11", "timer C, more than 3 min", &[
        "sip::transaction::tests::timer_c_and_cancel",
        "sip::core::tests::forks::a_call_rings_for_ever",
    ]),
    requirement("3261", "§16.7 item 3", "Via is taken out of responses", &[
        "rfc3261::forking::sec_16_7_3_the_proxys_own_via_is_taken_out_of_responses",
    ]),
    requirement("3261", "§16.7 item 5", "provisional responses pass, 100 does not", &[
        "rfc3261::forking::sec_16_7_5_provisional_responses_pass_but_for_100",
    ]),
    requirement("3261", "§16.7 item 5", "every 2xx passes at once; others are cancelled (SHOULD)", &[
        "rfc3261::forking::sec_16_7_5_a_2xx_passes_at_once_and_the_others_are_cancelled",
        "rfc3261::forking::sec_16_7_5_every_2xx_to_an_invite_passes",
    ]),
    requirement("3261", "§16.7 item 5", "6xx ends all (SHOULD)", &[
        "rfc3261::forking::sec_16_7_5_a_6xx_ends_all",
    ]),
    requirement("3261", "§16.7 item 6", "the lowest class is chosen", &[
        "rfc3261::forking::sec_16_7_6_the_lowest_class_is_chosen",
    ]),
    requirement("3261", "§16.7 item 6", "in it what the caller can repair (SHOULD)", &[
        "rfc3261::forking::sec_16_7_6_what_the_caller_can_repair_comes_before_others_of_its_class",
    ]),
    requirement("3261", "§16.7 item 6", "503 is not passed on (SHOULD NOT)", &[
        "rfc3261::forking::sec_16_7_6_a_503_is_given_as_500",
    ]),
    requirement("3261", "§16.7 item 7", "challenges of all branches", &[
        "rfc3261::forking::sec_16_7_7_the_challenges_of_all_are_given_together",
    ]),
    requirement("3261", "§16.8", "timer C ends a branch", &[
        "sip::core::tests::forks::a_call_rings_for_ever",
    ]),
    requirement("3261", "§16.9", "a place that cannot be reached is a 503", &[
        "rfc3261::proxy::sec_16_9_a_place_that_cannot_be_reached_is_as_if_it_had_answered_503",
    ]),
    requirement("3261", "§16.10", "CANCEL: 200 here, hop by hop, 487", &[
        "rfc3261::cancel::sec_16_10_a_cancel_is_answered_here_and_goes_on_hop_by_hop",
    ]),
    requirement("3261", "§16.11", "ACK for a 2xx", &[
        "rfc3261::proxy::sec_16_11_an_ack_for_a_2xx_goes_along_the_route_set",
    ]),
    requirement("3261", "§16.12", "two proxies in a row", &[
        "rfc3261::proxy::sec_16_12_two_proxies_in_a_row",
    ]),
    requirement("3261", "§17.1.1.2", "timer A: INVITE again until something comes; not on streams", &[
        "rfc3261::transactions::sec_17_1_1_2_an_invite_is_sent_again_until_something_comes",
        "rfc3261::transactions::sec_17_1_1_2_nothing_is_sent_again_on_a_stream",
        "sip::transaction::tests::invite_client_over_udp",
        "sip::transaction::tests::invite_client_over_tcp",
        "sip::transaction::tests::intervals_double_up_to_their_limit",
    ]),
    requirement("3261", "§17.1.1.2", "timer B: 408", &[
        "rfc3261::transactions::sec_17_1_1_2_timer_b_ends_an_invite_that_nobody_answers",
    ]),
    requirement("3261", "§17.1.1.2", "timer D: refusals that come again are acknowledged again", &[
        "rfc3261::transactions::sec_17_1_1_2_a_refusal_that_comes_again_is_acknowledged_again",
    ]),
    requirement("3261", "§17.1.1.3", "ACK of a refusal", &[
        "rfc3261::transactions::sec_17_1_1_3_a_refusal_is_acknowledged_hop_by_hop",
        "sip::transaction::tests::ack_and_cancel_go_the_way_of_the_invite",
    ]),
    requirement("3261", "§17.1.2.2", "timers E and K: other requests again", &[
        "rfc3261::transactions::sec_17_1_2_2_another_request_is_sent_again_until_its_final_response",
        "sip::transaction::tests::other_client_over_udp",
        "sip::transaction::tests::other_client_over_tcp",
    ]),
    requirement("3261", "§17.1.2.2", "timer F: 408", &[
        "rfc3261::transactions::sec_17_1_2_2_timer_f_ends_a_request_that_nobody_answers",
    ]),
    requirement("3261", "§17.1.3", "responses are matched by branch and method", &[
        "rfc3261::transactions::sec_17_1_3_a_response_to_nothing_is_not_passed_on",
        "sip::transaction::tests::nobody_can_make_up_a_response",
    ]),
    requirement("3261", "§17.2.1", "100 within 200 ms, for INVITE only", &[
        "rfc3261::transactions::sec_17_2_1_a_100_comes_within_200_ms",
        "rfc3261::transactions::sec_17_2_1_a_100_comes_for_invite_only",
    ]),
    requirement("3261", "§17.2.1", "copies of an INVITE get the last response", &[
        "rfc3261::transactions::sec_17_2_1_an_invite_that_comes_again_gets_the_same_response_and_is_not_passed_on_again",
    ]),
    requirement("3261", "§17.2.1", "timers G, H, I: refusals again until the ACK", &[
        "rfc3261::transactions::sec_17_2_1_a_refusal_is_sent_again_until_its_ack",
        "sip::transaction::tests::invite_server_refuses_over_udp",
        "sip::transaction::tests::invite_server_refuses_over_tcp",
    ]),
    requirement("3261", "§17.2.2", "timer J: copies of other requests get the same response", &[
        "rfc3261::transactions::sec_17_2_2_a_request_that_comes_again_gets_the_same_response",
        "rfc3261::transactions::sec_17_2_2_a_register_that_comes_again_gets_the_same_response",
        "sip::transaction::tests::other_server",
    ]),
    requirement("3261", "§17.2.3", "matching without the cookie (RFC 2543)", &[
        "rfc3261::transactions::sec_17_2_3_branches_without_the_cookie_are_matched_as_rfc_2543_did",
    ]),
    requirement("3261", "§17", "loss of any message in any place", &[
        "sip::core::tests::loss::one_final_response_and_nothing_stays",
    ]),
    requirement("3261", "§18.1.1", "large requests over TCP", &[
        "rfc3261::transport::sec_18_1_1_a_large_request_goes_over_tcp",
    ]),
    requirement("3261", "§18.1.1", "where TCP is refused in a datagram (SHOULD); fragments work", &[
        "rfc3261::transport::sec_18_1_1_where_tcp_is_not_taken_it_goes_in_a_datagram_after_all",
        "rfc3261::transport::sec_18_1_1_datagrams_in_fragments_are_received_and_answered",
    ]),
    requirement("3261", "§18.1.1", "requests to a device leave from where it has registered", &[
        "rfc3261::transport::sec_18_1_1_requests_to_a_device_leave_from_where_it_has_registered",
    ]),
    requirement("3261", "§18.2.1", "UDP and TCP on one port", &[
        "rfc3261::transport::sec_18_2_1_udp_and_tcp_are_served_on_one_port",
    ]),
    requirement("3261", "§18.2.1", "received, also for names; a forged one is replaced", &[
        "rfc3261::transport::sec_18_2_1_received_says_where_a_request_came_from",
        "rfc3261::transport::sec_18_2_1_a_name_in_via_gets_received_as_well",
        "rfc3261::transport::sec_18_2_1_what_the_sender_writes_as_received_is_not_believed",
    ]),
    requirement("3261", "§18.2.2", "responses take the connection of their request, or a new one", &[
        "rfc3261::transport::sec_18_2_2_responses_take_the_connection_of_their_request",
        "rfc3261::transport::sec_18_2_2_if_that_is_gone_a_new_one_to_the_source_and_the_port_of_sent_by",
    ]),
    requirement("3261", "§18.2.2", "without rport: the port of sent-by", &[
        "rfc3261::transport::sec_18_2_2_without_rport_the_port_is_that_of_sent_by",
    ]),
    requirement("3261", "§18.2.2", "maddr in Via", &[
        "rfc3261::transport::sec_18_2_2_a_maddr_in_via_is_where_responses_go",
    ]),
    requirement("3261", "§18.3", "datagrams: cut, whole, or 400", &[
        "rfc3261::transport::sec_18_3_what_a_datagram_has_behind_its_body_is_cut_off",
        "rfc3261::transport::sec_18_3_a_datagram_without_content_length_is_all_body",
        "rfc3261::transport::sec_18_3_a_datagram_that_is_shorter_than_it_says_is_answered_with_400",
    ]),
    requirement("3261", "§18.3", "streams: by Content-Length", &[
        "rfc3261::transport::sec_18_3_messages_of_a_stream_are_told_apart_by_content_length",
    ]),
    requirement("3261", "§19.1.4", "escaped characters are the characters", &[
        "rfc3261::messages::sec_19_1_4_escaped_users_are_the_same_users",
    ]),
    requirement("3261", "§21.5.6", "other versions: 505", &[
        "rfc3261::messages::sec_21_5_6_another_version_is_answered_with_505",
    ]),
    requirement("3261", "§22.1", "ACK and CANCEL are not challenged", &[
        "rfc3261::security::sec_22_1_ack_and_cancel_are_not_challenged",
    ]),
    requirement("3261", "§22.3", "407 for own users; own credentials are taken out", &[
        "rfc3261::security::sec_22_3_a_proxy_challenges_its_own_users_with_407",
    ]),
    requirement("3261", "§22.3", "credentials for others pass", &[
        "rfc3261::security::sec_22_3_credentials_for_others_pass",
    ]),
    requirement("3261", "§22.3", "who is somebody else: 403", &[
        "rfc3261::security::sec_22_3_who_is_somebody_else_than_he_says_is_answered_with_403",
    ]),
    requirement("3261", "§26.2.2", "sips is never sent in clear text", &[
        "sip::core::tests::ways::sips_is_never_sent_in_clear_text",
    ]),
    requirement("3261", "§26.3.2.1", "nothing is kept without the password", &[
        "rfc3261::security::sec_26_3_2_1_nothing_is_kept_of_a_registration_without_its_password",
    ]),
    requirement("3261", "§25.1", "bytes beyond ASCII pass", &[
        "rfc3261::messages::sec_25_1_bytes_beyond_ascii_pass_as_they_are",
    ]),
    requirement("3262", "§3", "100rel and PRACK pass", &[
        "rfc3262::sec_3_reliable_provisional_responses_and_their_prack_pass",
    ]),
    requirement("3311", "§5", "UPDATE passes", &[
        "rfc3262::rfc3311_sec_5_an_update_passes",
    ]),
    requirement("3515", "§2", "REFER passes", &[
        "rfc3262::rfc3515_sec_2_a_refer_passes",
    ]),
    requirement("3263", "§4.1", "NAPTR, then SRV, then addresses", &[
        "rfc3263::sec_4_1_naptr_chooses_the_transport",
        "rfc3263::sec_4_1_without_naptr_the_srv_records_are_asked",
        "rfc3263::sec_4_2_without_srv_the_address_and_the_default_port",
        "sip::resolve::tests::naptr_leads_to_srv_and_srv_to_addresses_in_order",
        "sip::resolve::tests::without_naptr_srv_is_asked_and_without_srv_the_host",
    ]),
    requirement("3263", "§4.1", "numeric addresses; the transport parameter", &[
        "rfc3263::sec_4_1_a_numeric_address_needs_no_names_and_udp",
        "rfc3263::sec_4_1_the_transport_parameter_decides",
    ]),
    requirement("3263", "§4.2", "with a port addresses only; SRV by priority", &[
        "rfc3263::sec_4_2_with_a_port_the_address_only",
        "rfc3263::sec_4_2_srv_by_priority",
    ]),
    requirement("3263", "§4.3", "the next place after ICMP, 503, refused connections", &[
        "rfc3263::sec_4_3_the_next_place_is_tried_where_nobody_listens",
        "rfc3263::sec_4_3_the_next_place_is_tried_after_503",
        "rfc3263::sec_4_3_the_next_place_is_tried_where_tcp_is_refused",
    ]),
    requirement("3263", "§4", "names that are not there", &[
        "rfc3263::sec_4_a_name_that_is_not_there_fails",
    ]),
    requirement("3327", "§5.2", "an outbound proxy puts itself into the Path", &[
        "rfc3327::sec_5_2_an_outbound_proxy_puts_itself_into_the_path",
    ]),
    requirement("3327", "§5.3", "Path is kept and returned", &[
        "rfc3327::sec_5_3_the_path_is_returned",
    ]),
    requirement("3327", "§5.3", "unknown to the device: 420 (RECOMMENDED)", &[
        "rfc3327::sec_5_3_a_path_that_the_device_does_not_know_of_is_answered_with_420",
    ]),
    requirement("3327", "§5.4", "Path is the Route of requests", &[
        "rfc3327::sec_5_4_the_path_is_the_route_of_requests",
    ]),
    requirement("3581", "§4", "rport and received", &[
        "rfc3581::sec_4_rport_and_received_are_filled_in",
        "rfc3581::sec_4_received_is_there_even_if_it_is_the_same",
        "rfc3581::sec_4_the_next_hop_sees_both",
    ]),
    requirement("3581", "§4", "answers leave from where the request came in", &[
        "rfc3581::sec_4_the_answer_leaves_from_where_the_request_came_in",
    ]),
    requirement("3581", "§4", "a phone behind a NAT", &[
        "rfc3581::sec_4_a_phone_behind_a_nat_gets_its_answers",
    ]),
    requirement("3665", "§2.1–2.4", "registration, update, query, cancellation", &[
        "rfc3665::sec_2_1_to_2_4_registering_updating_asking_and_cancelling",
        "sip::registrar::rfc3665_tests::section_2",
    ]),
    requirement("3665", "§2.5", "unsuccessful registration", &[
        "rfc3665::sec_2_5_an_unsuccessful_registration",
    ]),
    requirement("3665", "§3.2", "session through proxies", &[
        "rfc3665::sec_3_2_a_successful_session",
        "sip::core::tests::rfc3665::section_3_2_two_proxies",
    ]),
    requirement("3665", "§3.3", "multiple proxy authentication", &[
        "rfc3665::sec_3_3_a_session_that_is_challenged",
    ]),
    requirement("3665", "§3.7", "re-INVITE with another address", &[
        "rfc3665::sec_3_7_a_re_invite_with_another_address",
    ]),
    requirement("3665", "§3.8", "no answer", &[
        "rfc3665::sec_3_8_no_answer",
    ]),
    requirement("3665", "§3.9", "busy", &[
        "rfc3665::sec_3_9_busy",
    ]),
    requirement("3665", "§3.10", "no response", &[
        "sip::core::tests::forks::nobody_answers",
    ]),
    requirement("3665", "§3.11", "temporarily unavailable", &[
        "rfc3665::sec_3_11_temporarily_unavailable",
    ]),
    requirement("4028", "§6", "422 passes", &[
        "rfc4028::sec_6_a_422_passes_with_its_min_se",
    ]),
    requirement("4028", "§8.1", "session timers pass, none is added", &[
        "rfc4028::sec_8_1_session_expires_and_min_se_pass_unchanged",
        "rfc4028::sec_8_1_nothing_is_asked_for_in_the_name_of_others",
    ]),
    requirement("4028", "§8.2", "they bound the dialog; refreshes go on", &[
        "sip::core::tests::dialogs::a_lost_bye_ends_with_the_session_timer",
        "sip::core::tests::dialogs::a_refresh_goes_on_with_the_call",
    ]),
    requirement("5393", "§4.2", "loops are found, spirals are none", &[
        "rfc5393::sec_4_2_two_proxies_that_point_at_each_other",
        "rfc5393::sec_4_2_a_spiral_is_no_loop",
    ]),
    requirement("5393", "§5.3.3", "Max-Breadth is added, kept, bounded", &[
        "rfc5393::sec_5_3_3_max_breadth_is_added",
        "rfc5393::sec_5_3_3_max_breadth_is_neither_raised_nor_counted_down",
    ]),
    requirement("5393", "§5.3.3", "branches share it; 440", &[
        "rfc5393::sec_5_3_3_branches_share_it",
        "rfc5393::sec_5_3_3_with_a_breadth_of_one_the_next_rings_when_the_first_is_done",
        "rfc5393::sec_5_3_3_without_breadth_it_is_answered_with_440",
    ]),
    requirement("5626", "§3.5.1, §5.4", "double CRLF is answered with CRLF; on UDP it is no message", &[
        "rfc5626::keepalive::sec_5_4_a_double_crlf_on_a_stream_is_answered_with_one",
        "rfc5626::keepalive::sec_3_5_1_a_crlf_in_a_datagram_is_no_message",
    ]),
    requirement("5626", "§8", "STUN on the SIP port", &[
        "rfc5626::keepalive::sec_8_stun_is_answered_on_the_sip_port",
        "rfc5626::keepalive::sec_8_stun_client_finds_its_endpoint",
    ]),
    requirement("5626", "§5.1", "Path with ob, if it is the first hop", &[
        "rfc5626::edge::sec_5_1_the_first_hop_puts_itself_into_the_path_with_ob",
        "rfc5626::edge::sec_5_1_a_proxy_that_is_not_the_first_hop_does_not_say_ob",
    ]),
    requirement("5626", "§5.1", "the Path has a flow token", &[
        "rfc5626::edge::sec_5_1_the_path_of_the_first_hop_has_a_flow_token",
    ]),
    requirement("5626", "§5.2, §5.3.1", "tokens cannot be made up: 403", &[
        "rfc5626::edge::sec_5_3_1_a_token_that_was_tampered_with_leads_nowhere",
        "rfc5626::edge::sec_5_3_1_a_forged_dialog_token_is_answered_with_403",
    ]),
    requirement("5626", "§5.3", "requests come back over the flow, dialogs too", &[
        "rfc5626::edge::sec_5_3_requests_come_back_over_the_flow",
        "rfc5626::edge::sec_5_3_2_the_phones_own_calls_go_out_and_come_back_over_its_flow",
    ]),
    requirement("5626", "§5.3.1", "a flow that is gone: 430 (SHOULD)", &[
        "rfc5626::edge::sec_5_3_1_a_flow_that_is_gone_is_answered_with_430",
    ]),
    requirement("5626", "§6", "outbound registration; Require, Flow-Timer", &[
        "rfc5626::registrar::sec_6_a_direct_registration_with_outbound",
    ]),
    requirement("5626", "§6", "a binding is instance and reg-id", &[
        "rfc5626::registrar::sec_6_a_binding_is_instance_and_reg_id",
    ]),
    requirement("5626", "§6", "reg-id without support or instance", &[
        "rfc5626::registrar::sec_6_reg_id_without_outbound_support_gets_no_outbound",
        "rfc5626::registrar::sec_6_reg_id_without_an_instance_is_ignored",
    ]),
    requirement("5626", "§6", "several contacts with reg-id: 400 (SHOULD)", &[
        "rfc5626::registrar::sec_6_two_contacts_with_reg_id_are_answered_with_400",
    ]),
    requirement("5626", "§6", "first hop without ob: 439; with it outbound", &[
        "rfc5626::registrar::sec_6_a_first_hop_without_outbound_is_answered_with_439",
        "rfc5626::registrar::sec_6_a_first_hop_with_ob_in_its_path",
    ]),
    requirement("5626", "§7", "one flow of a device at a time", &[
        "rfc5626::registrar::sec_7_one_flow_of_an_instance_at_a_time",
    ]),
    requirement("5626", "§7", "after 430 the other flow (SHOULD)", &[
        "rfc5626::registrar::sec_7_after_430_the_other_flow_is_tried",
    ]),
    requirement("5626", "§7", "requests take the flow of the registration; not one that has ended", &[
        "rfc5626::registrar::sec_7_requests_take_the_flow_of_the_registration",
        "rfc5626::registrar::sec_7_bindings_of_a_connection_that_ends_are_not_used",
    ]),
    requirement("5923", "§8.1", "own connections are used again (SHOULD)", &[
        "rfc5923::sec_8_1_the_servers_own_connections_are_used_again",
    ]),
    requirement("5923", "§8.2", "alias: requests take the connection of a trusted peer", &[
        "rfc5923::sec_8_2_an_alias_lets_requests_take_the_connection",
        "rfc5923::sec_8_2_without_an_alias_a_new_connection_is_made",
        "rfc5923::sec_8_2_when_the_aliased_connection_is_gone_a_new_one_is_made",
    ]),
    requirement("5923", "§9.3", "an alias takes nothing from others", &[
        "rfc5923::sec_9_3_an_alias_of_a_stranger_takes_nothing_from_others",
        "sip::transport::tests::tcp::an_accepted_connection_serves_for_where_it_comes_from_and_its_alias",
    ]),
    requirement("6026", "§7.1", "copies of an INVITE after its 2xx are absorbed", &[
        "rfc6026::sec_7_1_an_invite_that_comes_again_after_the_2xx_rings_nobody",
    ]),
    requirement("6026", "§7.1", "2xx that come again pass; none is made by the proxy", &[
        "rfc6026::sec_7_1_a_2xx_that_comes_again_passes_again",
        "rfc6026::sec_7_1_the_proxy_does_not_send_2xx_again_by_itself",
    ]),
    requirement("6026", "§7.1", "every ACK of a 2xx passes", &[
        "rfc6026::sec_7_1_every_ack_of_a_2xx_passes",
    ]),
    requirement("6026", "§7.2", "no ACK for a 2xx by the proxy; other 2xx pass", &[
        "rfc6026::sec_7_2_the_proxy_does_not_acknowledge_a_2xx_itself",
        "rfc6026::sec_8_9_a_2xx_of_another_phone_after_the_first_passes",
    ]),
    requirement("6026", "§7.1, §7.2", "timers L and M: 64 T1", &[
        "sip::transaction::tests::invite_server_accepts",
        "sip::transaction::tests::invite_client_over_udp",
    ]),
    requirement("6026", "§8.9", "2xx without a transaction are dropped", &[
        "rfc6026::sec_8_9_a_2xx_without_a_transaction_is_not_passed_on",
    ]),
    requirement("6223", "§4.4", "keep gets a value in a 200 to REGISTER", &[
        "rfc6223::sec_4_4_a_registration_is_told_how_often",
        "rfc6223::sec_4_4_on_streams_too",
    ]),
    requirement("6223", "§4.4", "it is not negotiated without an offer or by a refusal", &[
        "rfc6223::sec_4_4_who_does_not_offer_is_not_asked",
        "rfc6223::sec_4_4_a_refusal_negotiates_nothing",
    ]),
    requirement("6223", "§4.3", "who keeps its path alive is not prompted", &[
        "rfc6223::sec_4_3_a_device_that_keeps_its_path_alive_is_not_prompted",
    ]),
    requirement("6665", "§4", "SUBSCRIBE and NOTIFY in their dialog", &[
        "rfc6665::sec_4_subscribe_and_notify_pass_in_their_dialog",
    ]),
    requirement("6665", "§4.4.1", "a subscribed, unregistered device stays reachable", &[
        "rfc6665::a_subscribed_unregistered_device_stays_reachable",
        "sip::core::tests::dialogs::a_subscription_holds_a_path_until_it_is_terminated",
    ]),
    requirement("7339", "spirit", "overload: new REGISTER first, then INVITE, never ACK, BYE, CANCEL", &[
        "rfc7339::new_registrations_are_shed_first_and_calls_go_on",
        "rfc7339::new_calls_are_shed_next_and_what_was_begun_never",
        "sip::overload::tests::registrations_go_first_then_calls_and_never_what_was_begun",
    ]),
    requirement("7339", "spirit", "emergency calls pass", &[
        "rfc7339::emergency_calls_pass_everything",
    ]),
    requirement("7616", "§3.3", "challenge: realm, nonce, qop (RFC 8760 §2.6)", &[
        "rfc7616::sec_3_3_a_challenge_has_realm_nonce_and_qop",
        "rfc7616::sec_3_3_no_two_nonces_are_the_same_for_long",
    ]),
    requirement("7616", "§3.3", "old or unknown nonces; stale", &[
        "rfc7616::sec_3_3_an_old_nonce_is_stale",
        "rfc7616::sec_3_3_a_nonce_that_was_not_given_is_challenged_anew",
    ]),
    requirement("7616", "§3.4", "other schemes, realms, malformed credentials", &[
        "rfc7616::sec_3_4_another_scheme_is_as_if_there_was_none",
        "rfc7616::sec_3_4_credentials_for_another_realm_are_passed_over",
        "rfc7616::sec_3_4_malformed_credentials_register_nobody",
        "sip::auth::tests::any_header",
    ]),
    requirement("7616", "§3.4", "nc is hexadecimal and rises", &[
        "rfc7616::sec_3_4_the_count_is_hexadecimal_and_rises",
    ]),
    requirement("7616", "§3.4.1", "the response, as in the RFC's examples", &[
        "rfc7616::sec_3_4_1_the_right_response_passes_and_a_wrong_one_does_not",
        "digest::rfc7616_sec_3_9_1_the_examples_of_the_rfc",
        "sip::auth::tests::hashes_as_in_the_rfcs",
    ]),
    requirement("7616", "§3.4.2", "the method counts", &[
        "rfc7616::sec_3_4_2_the_method_counts",
    ]),
    requirement("7616", "§3.4.6", "uri is the request's", &[
        "rfc7616::sec_3_4_6_the_uri_must_be_that_of_the_request",
    ]),
    requirement("7616", "§5.4", "guessing is slowed down", &[
        "rfc7616::sec_5_4_many_wrong_passwords_ban_the_source",
    ]),
    requirement("7616", "§5.5", "replays", &[
        "rfc7616::sec_5_5_a_replay_is_stale_and_changes_nothing",
    ]),
    requirement("2617", "§3.2.2.1", "old phones without qop", &[
        "rfc7616::rfc2617_sec_3_2_2_1_old_phones_without_qop",
    ]),
    requirement("8760", "§2.1", "SHA-512-256, SHA-256, MD5", &[
        "rfc8760::sec_2_1_each_algorithm_is_accepted",
    ]),
    requirement("8760", "§2.3", "one challenge each, in the order of preference", &[
        "rfc8760::sec_2_3_a_challenge_for_each_algorithm_in_the_order_of_preference",
    ]),
    requirement("8760", "§2.4", "what is not offered is not accepted", &[
        "rfc8760::sec_2_4_an_algorithm_that_is_not_offered_is_not_accepted",
    ]),
    requirement("8760", "§2.5", "no Basic", &[
        "rfc8760::sec_2_5_basic_is_neither_asked_for_nor_accepted",
    ]),
];

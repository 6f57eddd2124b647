//! What the RFCs ask of a NAT; the tests are in the binary `rfc`.

use super::{Requirement, requirement};

/// The checklist, in the order of the scorecard.
#[rustfmt::skip]
pub const REQUIREMENTS: &[Requirement] = &[
    requirement("4787", "REQ-1", "endpoint-independent mapping", &[
        "rfc4787::mapping::req_01_endpoint_independent_mapping",
        "rfc4787::discovery::req_01_natdiscovery_finds_endpoint_independent_mapping",
    ]),
    requirement("4787", "REQ-2", "all bindings of a host on one external address", &[
        "rfc4787::mapping::req_02_one_host_has_one_external_address",
        "rfc4787::mapping::req_02_two_hundred_hosts_keep_their_address_and_use_all",
    ]),
    requirement("4787", "REQ-3", "no port overloading", &[
        "rfc4787::ports::req_03_two_hosts_with_one_source_port",
        "rfc4787::ports::req_03_a_pool_of_sixteen_ports_serves_sixteen",
        "rfc4787::ports::req_03_two_cpus_racing_for_ports_never_share_one",
    ]),
    requirement("4787", "REQ-3a", "ports above 1023 stay above", &[
        "rfc4787::ports::req_03a_ports_above_1023_stay_there",
    ]),
    requirement("4787", "REQ-3a", "ports below 1024 stay below (SHOULD)", &[
        "rfc4787::ports::req_03a_ports_below_1024_stay_there",
    ]),
    requirement("4787", "REQ-4", "port parity; RTP and RTCP adjacent (RECOMMENDED)", &[
        "rfc4787::ports::req_04_parity_is_kept",
        "rfc4787::ports::req_04_rtp_and_rtcp_get_neighbouring_ports",
    ]),
    requirement("4787", "REQ-5", "UDP bindings live two minutes at least, five by default", &[
        "rfc4787::lifetime::req_05_a_binding_lives_two_minutes_and_ends",
        "rfc4787::lifetime::req_05_the_default_is_five_minutes",
    ]),
    requirement("4787", "REQ-6", "outbound packets refresh; inbound by option", &[
        "rfc4787::lifetime::req_06_packets_from_inside_refresh",
        "rfc4787::lifetime::req_06_packets_from_outside_refresh_only_by_option",
    ]),
    requirement("4787", "REQ-7", "overlapping inside and outside networks", &[
        "rfc4787::mapping::req_07_overlapping_networks_are_refused",
    ]),
    requirement("4787", "REQ-8", "endpoint-independent filtering, others by option", &[
        "rfc4787::filtering::req_08_endpoint_independent_filtering_by_default",
        "rfc4787::filtering::req_08_address_dependent_filtering_by_option",
        "rfc4787::filtering::req_08_address_and_port_dependent_filtering_by_option",
        "rfc4787::filtering::req_08_each_remote_that_was_sent_to_may_answer",
        "rfc4787::discovery::req_08_natdiscovery_finds_endpoint_independent_filtering",
    ]),
    requirement("4787", "REQ-9", "hairpinning", &[
        "rfc4787::hairpin::req_09_an_inside_host_reaches_another_by_its_external_endpoint",
        "rfc4787::hairpin::req_09_a_host_reaches_itself",
        "rfc4787::discovery::req_09_natdiscovery_finds_hairpinning",
    ]),
    requirement("4787", "REQ-9a", "hairpinned packets have the external source", &[
        "rfc4787::hairpin::req_09a_hairpinned_packets_come_from_the_external_endpoint",
    ]),
    requirement("4787", "REQ-10", "no ALG touches payloads", &[
        "rfc4787::mapping::req_10_a_sip_message_passes_unchanged",
    ]),
    requirement("4787", "REQ-11", "the same behaviour at any fill", &[
        "rfc4787::mapping::req_11_same_behaviour_at_90_and_100_percent_fill",
    ]),
    requirement("4787", "REQ-12", "ICMP never ends a binding", &[
        "rfc4787::icmp::req_12_no_icmp_message_ends_a_binding",
    ]),
    requirement("4787", "REQ-13", "too big with DF: fragmentation needed", &[
        "rfc4787::icmp::req_13_too_big_with_df_is_answered",
    ]),
    requirement("4787", "REQ-13a", "too big without DF: fragmented", &[
        "rfc4787::icmp::req_13a_too_big_without_df_is_fragmented",
    ]),
    requirement("4787", "REQ-14", "fragments in any order", &[
        "rfc4787::fragments::req_14_fragments_from_inside_in_any_order",
        "rfc4787::fragments::req_14_fragments_from_outside_in_any_order",
        "rfc4787::fragments::req_14_hairpinned_fragments_in_any_order",
    ]),
    requirement("4787", "REQ-14a", "fragments cannot be used to attack", &[
        "rfc4787::fragments::req_14a_overlapping_fragments_are_dropped",
        "rfc4787::fragments::req_14a_a_flood_of_orphans_costs_other_traffic_nothing",
    ]),
    requirement("5382", "REQ-1", "endpoint-independent mapping for TCP", &[
        "rfc5382::req_01_endpoint_independent_mapping",
    ]),
    requirement("5382", "REQ-2", "all valid sequences, also from outside", &[
        "rfc5382::req_02_connections_open_carry_data_and_close",
        "rfc5382::req_02_connections_from_outside_where_the_filter_admits_them",
    ]),
    requirement("5382", "REQ-2a", "simultaneous open", &[
        "rfc5382::req_02_simultaneous_open",
        "rfc5382::req_02_simultaneous_open_after_an_unsolicited_syn",
    ]),
    requirement("5382", "REQ-3", "address-dependent filtering, endpoint-independent by option", &[
        "rfc5382::req_03_address_dependent_filtering_by_default",
        "rfc5382::req_03_endpoint_independent_filtering_by_option",
    ]),
    requirement("5382", "REQ-4", "unsolicited SYNs are not answered", &[
        "rfc5382::req_04_an_unsolicited_syn_is_not_answered",
    ]),
    requirement("5382", "REQ-5", "established 2 h 4 min, transitory 4 min", &[
        "rfc5382::req_05_an_established_connection_lives_two_hours_and_four_minutes",
        "rfc5382::req_05_a_half_open_connection_lives_four_minutes",
        "rfc5382::req_05_a_half_open_connection_ends",
    ]),
    requirement("5382", "REQ-6", "no ALG touches payloads", &[
        "rfc5382::req_06_payloads_are_not_touched",
    ]),
    requirement("5382", "REQ-7", "no port overloading", &[
        "rfc5382::req_07_no_port_overloading",
    ]),
    requirement("5382", "REQ-8", "hairpinning with the external source", &[
        "rfc5382::req_08_hairpinning_with_external_source",
    ]),
    requirement("5382", "REQ-9", "destination unreachable is translated", &[
        "rfc5382::req_09_destination_unreachable_is_translated",
    ]),
    requirement("5382", "REQ-10", "ICMP never ends a connection", &[
        "rfc5382::req_10_no_icmp_message_ends_a_connection",
    ]),
    requirement("5382", "§8", "a flood of SYNs harms no connection", &[
        "rfc5382::a_flood_of_syns_harms_no_connection",
    ]),
    requirement("5508", "REQ-1", "queries pass, also with one identifier for two hosts", &[
        "rfc5508::queries::req_01_queries_and_replies_pass",
        "rfc5508::queries::req_01_two_hosts_with_one_identifier",
        "rfc5508::queries::req_01_pings_of_real_programs_at_the_same_time",
    ]),
    requirement("5508", "REQ-1a", "mapping of identifiers is independent of the remote host (SHOULD)", &[
        "rfc5508::queries::req_01a_mapping_does_not_depend_on_the_remote_host",
    ]),
    requirement("5508", "REQ-2", "queries are remembered for 60 s at least", &[
        "rfc5508::queries::req_02_a_query_is_remembered_for_sixty_seconds",
    ]),
    requirement("5508", "REQ-2a", "that time is configurable", &[
        "rfc5508::queries::req_02a_the_lifetime_is_configurable",
    ]),
    requirement("5508", "REQ-3", "errors with wrong checksums are dropped", &[
        "rfc5508::errors::req_03_errors_with_a_wrong_icmp_checksum_are_dropped",
        "rfc5508::errors::req_03a_errors_with_a_wrong_checksum_in_the_quoted_header_are_dropped",
    ]),
    requirement("5508", "REQ-3b", "options in the quote", &[
        "rfc5508::errors::req_03b_options_in_the_quote_are_stepped_over",
    ]),
    requirement("5508", "REQ-3c", "the quoted transport checksum is not verified", &[
        "rfc5508::errors::req_03c_the_transport_checksum_of_the_quote_does_not_matter",
    ]),
    requirement("5508", "REQ-4", "errors from outside: quote and addresses translated", &[
        "rfc5508::errors::req_04_errors_from_outside_are_translated",
        "rfc5508::errors::req_04_errors_about_nothing_are_dropped",
    ]),
    requirement("5508", "REQ-5", "errors from inside: quote and addresses translated", &[
        "rfc5508::errors::req_05_errors_from_inside_are_translated",
        "rfc5508::errors::req_05_errors_from_inside_about_nothing_are_dropped",
    ]),
    requirement("5508", "REQ-6", "errors neither refresh nor delete", &[
        "rfc5508::errors::req_06_errors_do_not_refresh_a_query_session",
        "rfc5508::errors::req_06_errors_do_not_delete_a_query_session",
    ]),
    requirement("5508", "REQ-7", "hairpinned errors", &[
        "rfc5508::errors::req_07_hairpinned_errors_are_translated",
    ]),
    requirement("5508", "REQ-8", "a refusal is told with ICMP 3/13", &[
        "rfc5508::own::req_08_administrative_refusal_is_told",
    ]),
    requirement("5508", "REQ-10a", "unreachable, time exceeded, echo", &[
        "rfc5508::own::req_10a_destination_unreachable_is_sent",
        "rfc5508::own::req_10a_the_router_answers_echo_requests",
    ]),
    requirement("5508", "REQ-10b", "timestamps (MAY)", &[
        "rfc5508::queries::req_10b_timestamps_pass",
    ]),
    requirement("5508", "REQ-10c", "no source quench (SHOULD NOT)", &[
        "rfc5508::own::req_10c_source_quench_is_not_passed_on",
    ]),
    requirement("5508", "REQ-10d", "errors copy the DS field (SHOULD)", &[
        "rfc5508::own::req_10d_errors_copy_the_ds_field",
    ]),
    requirement("5508", "REQ-10e", "when not to send errors", &[
        "rfc5508::own::req_10e_no_errors_about_errors_fragments_and_broadcasts",
    ]),
    requirement("5508", "REQ-10f", "errors are limited", &[
        "rfc5508::own::req_10f_errors_are_limited",
    ]),
    requirement("1191", "§3", "fragmentation needed with the right MTU", &[
        "rfc1191::a_smaller_link_behind_the_router_is_told_to_inside_hosts",
        "rfc1191::a_smaller_link_inside_is_told_to_outside_hosts",
    ]),
    requirement("1191", "§4", "the MTU in errors of others is kept", &[
        "rfc1191::fragmentation_needed_of_a_router_outside_keeps_its_mtu",
        "rfc1191::fragmentation_needed_of_a_router_inside_keeps_its_mtu",
    ]),
    requirement("1191", "§6", "TCP gets through a link of 1280 bytes", &[
        "rfc1191::tcp_gets_through_a_link_of_1280_bytes",
    ]),
    requirement("6864", "§5.3.1", "identifications of several hosts do not collide", &[
        "rfc6864::ids_of_two_hosts_do_not_collide",
        "rfc6864::fragments_of_two_hosts_with_one_id_do_not_mix",
        "rfc6864::an_atomic_packet_stays_atomic",
    ]),
    requirement("6888", "REQ-2", "paired pooling", &[
        "rfc4787::mapping::req_02_two_hundred_hosts_keep_their_address_and_use_all",
    ]),
    requirement("6888", "REQ-3", "a pool that is not contiguous", &[
        "rfc6888::req_03_the_pool_need_not_be_contiguous",
    ]),
    requirement("6888", "REQ-4", "ports of a host are limited, configurably", &[
        "rfc6888::req_04_ports_of_one_host_are_limited",
    ]),
    requirement("6888", "REQ-5", "state is limited, configurably", &[
        "rfc6888::req_05_sessions_are_limited_and_the_limit_is_configurable",
    ]),
    requirement("6888", "REQ-6", "destinations without translation", &[
        "rfc6888::req_06_some_destinations_are_not_translated",
    ]),
    requirement("6888", "REQ-7", "endpoint-independent filtering", &[
        "rfc4787::filtering::req_08_endpoint_independent_filtering_by_default",
    ]),
    requirement("6888", "REQ-8", "ports rest for 120 s", &[
        "rfc6888::req_08_ports_rest_before_another_binding_gets_them",
    ]),
    requirement("6888", "REQ-9", "a protocol controls mappings", &[
        "rfc6888::req_09_a_protocol_controls_the_mappings",
    ]),
    requirement("6888", "REQ-10", "manageable", &[
        "rfc6888::req_10_the_nat_can_be_managed",
    ]),
    requirement("6888", "REQ-11", "exhaustion: drop, ICMP 3/1, nobody is harmed", &[
        "rfc6888::req_11_exhaustion_drops_the_packet_tells_the_sender_and_harms_nobody",
        "rfc6888::req_11_an_exhausted_pool_is_told_too",
    ]),
    requirement("6888", "REQ-12", "no destinations in logs", &[
        "rfc7422::req_12_no_destination_is_logged",
    ]),
    requirement("6888", "REQ-13", "every port of the pool can be used", &[
        "rfc4787::mapping::req_11_same_behaviour_at_90_and_100_percent_fill",
    ]),
    requirement("6888", "REQ-14", "small logs", &[
        "rfc7422::req_14_a_thousand_bindings_make_few_records",
    ]),
    requirement("6888", "REQ-15", "ports are hard to guess", &[
        "rfc6888::req_15_ports_are_hard_to_guess",
    ]),
    requirement("7422", "§3", "one record for a block of ports", &[
        "rfc7422::one_record_for_a_block_of_ports",
    ]),
    requirement("7422", "§4", "who had an endpoint at a time, from the log alone", &[
        "rfc7422::lookup_finds_the_host_offline",
    ]),
    requirement("7857", "§2.1", "separate timers, four minutes by default", &[
        "rfc7857::sec_2_1_open_and_close_timers_are_separate",
        "rfc7857::sec_2_1_a_closing_connection_lives_four_minutes",
    ]),
    requirement("7857", "§2.2", "a RST is translated and keeps state four minutes", &[
        "rfc7857::sec_2_2_a_reset_is_translated_and_keeps_state_four_minutes",
        "rfc7857::sec_2_2_a_reset_connection_that_goes_on_stays",
    ]),
    requirement("7857", "§4", "a host whose address is full gets no other", &[
        "rfc7857::sec_4_a_host_whose_address_is_full_gets_no_other",
    ]),
    requirement("7857", "§5", "mappings are protocol-dependent", &[
        "rfc7857::sec_5_mappings_are_protocol_dependent",
    ]),
    requirement("7857", "§6", "filtering is protocol-dependent", &[
        "rfc7857::sec_6_filtering_is_protocol_dependent",
    ]),
    requirement("7857", "§7", "refused packets do not refresh", &[
        "rfc7857::sec_7_refused_packets_do_not_refresh",
    ]),
    requirement("7857", "§7.1", "errors from inside do not refresh", &[
        "rfc7857::sec_7_1_errors_from_inside_do_not_refresh",
    ]),
    requirement("7857", "§9", "changed ports are random", &[
        "rfc7857::sec_9_ports_are_not_predictable",
    ]),
    requirement("7857", "§10", "identifications as RFC 6864 says", &[
        "rfc6864::ids_of_two_hosts_do_not_collide",
    ]),
    requirement("1812", "§5.2.2", "broken headers are dropped", &[
        "rfc1812::sec_5_2_2_broken_headers_are_dropped",
    ]),
    requirement("1812", "§5.2.4.1", "options go through", &[
        "rfc1812::sec_5_2_4_1_options_go_through",
    ]),
    requirement("1812", "§5.3.1", "TTL, time exceeded, traceroute", &[
        "rfc1812::sec_5_3_1_ttl_is_decremented_once",
        "rfc1812::sec_5_3_1_an_expired_ttl_is_told_to_the_sender",
        "rfc1812::sec_5_3_1_traceroute_shows_every_hop",
        "rfc1812::sec_5_3_1_mtr_shows_every_hop_without_loss",
    ]),
    requirement("1812", "§5.3.7", "martians are dropped", &[
        "rfc1812::sec_5_3_7_martians_are_dropped",
    ]),
    requirement("1812", "§5.3.8", "foreign sources from inside do not leave", &[
        "rfc1812::sec_5_3_8_an_outside_source_from_inside_does_not_leave",
    ]),
    requirement("1812", "§5.3.8", "inside sources from outside do not get in", &[
        "rfc1812::sec_5_3_8_an_inside_source_from_outside_does_not_get_in",
    ]),
    requirement("1112", "§4", "class E does not leave untranslated", &[
        "rfc1812::sec_5_3_4_class_e_is_not_routed_untranslated",
    ]),
    requirement("1812", "§5.2.7.1", "large packets reach the router itself", &[
        "rfc1812::sec_5_2_7_1_large_packets_reach_the_router_itself",
    ]),
    requirement("1812", "§5.3.13.4", "source routes are refused", &[
        "rfc1812::sec_5_3_13_4_source_routes_are_refused",
    ]),
    requirement("1812", "§5.3.1", "no routing loop for addresses of the pool", &[
        "rfc1812::a_packet_to_nobody_does_not_loop",
    ]),
    requirement("3022", "§5.1", "nothing from inside leaves untranslated", &[
        "rfc1812::nothing_leaves_untranslated",
    ]),
    requirement("1624", "§3", "no bad checksum in any capture", &[
        "rfc1624::no_bad_checksum_in_five_hundred_packets_of_all_kinds",
    ]),
    requirement("1624", "§5", "wrong checksums are not repaired", &[
        "rfc1624::a_wrong_checksum_is_not_repaired",
    ]),
    requirement("768", "", "no checksum stays none; computed zero is all ones", &[
        "rfc1624::no_udp_checksum_stays_none",
        "rfc1624::a_computed_zero_is_sent_as_all_ones",
    ]),
];

//! RFC 5382: NAT behaviour for TCP.

use std::collections::HashSet;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use tests::lab::OUTSIDE_ROUTER;
use tests::packet::flags::{ACK, RST, SYN};
use tests::prelude::*;

use crate::scene::{H, O, Scene, Talk, syn, udp, wait_till};

#[test]
fn req_01_endpoint_independent_mapping() {
    let mut s = Scene::new(Lab::builder().inside_hosts(2).outside_hosts(2), "");
    s.connect(H(1), 6000, O(1), 80);
    let remotes = [(O(1), 80), (O(1), 81), (O(2), 80)];
    let seen: HashSet<SocketAddrV4> = remotes.map(|(o, port)| s.connect(H(2), 6000, o, port).external).into();
    assert_eq!(seen.len(), 1, "one port, several external endpoints: {seen:?}");
}

#[test]
fn req_02_connections_open_carry_data_and_close() {
    let lab = Lab::builder().build().unwrap();
    let _nat = lab.start_nat("").unwrap();
    let capture = Capture::host(lab.o(1)).unwrap();
    let echo = TcpEcho::start(lab.o(1), 2222).unwrap();
    for _ in 0..5 {
        let (mut stream, seen) = tcp_seen_by(&echo, lab.h(1)).unwrap();
        assert_eq!(*seen.ip(), lab.external(0));
        tcp_echo(&mut stream, &[0x5a; 200_000]).unwrap();
    }
    capture.assert_no_bad_checksums().unwrap();
}

#[test]
fn req_02_simultaneous_open() {
    let mut s = Scene::with_outside(1, "");
    let mut talk = Talk::new(s.on(H(1), 6000), s.on(O(1), 80));
    // RFC 9293 figure 7: both send a SYN before they get the other's.
    talk.external = s.pass(H(1), O(1), &talk.out(SYN, b"")).src();
    s.pass(O(1), H(1), &talk.back(SYN, b""));
    open_after_both_syns(&mut s, &mut talk);
}

#[test]
fn req_02_simultaneous_open_after_an_unsolicited_syn() {
    let mut s = Scene::with_outside(2, "");
    // The endpoint is known from another connection; the SYN of the peer comes first and is not admitted.
    let known = s.connect(H(1), 6000, O(2), 80).external;
    let mut talk = Talk::new(s.on(H(1), 6000), s.on(O(1), 80));
    talk.external = known;
    s.send(O(1), &talk.back(SYN, b""));
    assert_eq!(s.pass(H(1), O(1), &talk.out(SYN, b"")).src(), known);
    talk.again_back();
    s.pass(O(1), H(1), &talk.back(SYN, b""));
    open_after_both_syns(&mut s, &mut talk);
}

fn open_after_both_syns(s: &mut Scene, talk: &mut Talk) {
    talk.again_out();
    s.pass(H(1), O(1), &talk.out(SYN | ACK, b""));
    talk.again_back();
    s.pass(O(1), H(1), &talk.back(SYN | ACK, b""));
    s.carries(H(1), O(1), talk);
}

#[test]
fn req_02_connections_from_outside_where_the_filter_admits_them() {
    let mut s = Scene::with_outside(1, "");
    let external = s.connect(H(1), 6000, O(1), 80).external;
    let mut talk = Talk::new(s.on(H(1), 6000), s.on(O(1), 81));
    talk.external = external;
    let got = s.pass(O(1), H(1), &talk.back(SYN, b""));
    assert_eq!((got.src(), got.dst()), (talk.remote, talk.inside));
    assert_eq!(s.pass(H(1), O(1), &talk.out(SYN | ACK, b"")).src(), external);
    s.pass(O(1), H(1), &talk.back(ACK, b""));
    s.carries(H(1), O(1), &mut talk);
}

#[test]
fn req_03_address_dependent_filtering_by_default() {
    let mut s = Scene::with_outside(2, "");
    let external = s.connect(H(1), 6000, O(1), 80).external;
    let passes = [(O(1), 81), (O(2), 80)].map(|(o, port)| {
        let packet = syn(s.on(o, port), external);
        s.passes(o, H(1), &packet)
    });
    assert_eq!(passes, [true, false], "a SYN from another port, and from another host");
}

#[test]
fn req_03_endpoint_independent_filtering_by_option() {
    if !applies_to(
        &[Nat::Sipnat],
        "conntrack knows address- and port-dependent filtering only",
    ) {
        return;
    }
    let mut s = Scene::with_outside(2, "[filtering]\ntcp = \"endpoint-independent\"\n");
    let external = s.connect(H(1), 6000, O(1), 80).external;
    let packet = syn(s.on(O(2), 80), external);
    s.pass(O(2), H(1), &packet);
}

/// The RFC's six seconds are watched for three: an answer that a NAT gives to a SYN it refuses, a RST or an ICMP error, is
/// written on the spot or by a timer of one second (conntrack, kernel), and the silence is then confirmed by a datagram
/// that passes, so the path was open all the time.
#[test]
fn req_04_an_unsolicited_syn_is_not_answered() {
    let mut s = Scene::with_outside(2, "");
    let external = s.connect(H(1), 6000, O(1), 80).external;
    let known = syn(s.on(O(2), 80), external);
    let unknown = syn(s.on(O(2), 81), (*external.ip(), external.port() ^ 1));
    s.stop(O(2), H(1), &known);
    s.send(O(2), &unknown);
    let answer = |got: &Packet| {
        let rst = got.as_tcp().is_some_and(|tcp| tcp.flags & RST != 0);
        rst || got.as_icmp().is_some()
    };
    s.socket(O(2)).assert_silent(Duration::from_secs(3), answer).unwrap();
    s.prepare_sentinel(O(2), H(1));
}

/// A two-thousandth: 2 h 4 min are 3.7 s.
#[test]
fn req_05_an_established_connection_lives_two_hours_and_four_minutes() {
    const SCALE: f64 = 0.0005;
    let mut s = Scene::with_outside(1, NatConfig::toml("").lifetime_scale(SCALE));
    let mut talk = s.connect(H(1), 6000, O(1), 80);
    // Counted from the last packet of the handshake, which has passed by now.
    wait_till(Instant::now() + Duration::from_secs(7200).mul_f64(SCALE));
    s.carries(H(1), O(1), &mut talk);
}

/// A hundredth: four minutes are 2.4 s.
#[test]
fn req_05_a_half_open_connection_lives_four_minutes() {
    let mut s = Scene::with_outside(1, NatConfig::toml("").lifetime_scale(0.01));
    let mut talk = Talk::new(s.on(H(1), 6000), s.on(O(1), 80));
    talk.external = s.pass(H(1), O(1), &talk.out(SYN, b"")).src();
    wait_till(Instant::now() + Duration::from_secs(230).mul_f64(0.01));
    s.pass(O(1), H(1), &talk.back(SYN | ACK, b""));
}

#[test]
fn req_05_a_half_open_connection_ends() {
    let mut s = Scene::with_outside(1, NatConfig::toml("").lifetime_scale(0.005));
    let mut talk = Talk::new(s.on(H(1), 6000), s.on(O(1), 80));
    talk.external = s.pass(H(1), O(1), &talk.out(SYN, b"")).src();
    wait_till(Instant::now() + Duration::from_secs(260).mul_f64(0.005));
    s.stop(O(1), H(1), &talk.back(SYN | ACK, b""));
}

#[test]
fn req_06_payloads_are_not_touched() {
    let mut s = Scene::with_outside(1, "");
    let mut talk = s.connect(H(1), 6000, O(1), 21);
    // It is recognised by its payload: a change is a packet that does not come.
    s.pass(H(1), O(1), &talk.out(ACK, b"PORT 192,168,1,10,23,112\r\n"));
}

#[test]
fn req_07_no_port_overloading() {
    let mut s = Scene::new(Lab::builder().inside_hosts(2).outside_hosts(2), "");
    let first = s.connect(H(1), 7000, O(1), 80).external;
    for (o, port) in [(O(1), 80), (O(1), 81), (O(2), 80)] {
        assert_ne!(
            s.connect(H(2), 7000, o, port).external,
            first,
            "one external endpoint for two hosts"
        );
    }
}

#[test]
fn req_08_hairpinning_with_external_source() {
    let mut s = Scene::new(
        Lab::builder().inside_hosts(2),
        "[filtering]\ntcp = \"endpoint-independent\"\n",
    );
    let one = s.connect(H(1), 6000, O(1), 80).external;
    let two = s.connect(H(2), 7000, O(1), 80).external;
    let mut talk = Talk::new(s.on(H(1), 6000), two);
    let got = s.pass(H(1), H(2), &talk.out(SYN, b""));
    assert_eq!((got.src(), got.dst()), (one, s.on(H(2), 7000)));
    (talk.remote, talk.external) = (s.on(H(2), 7000), one);
    let got = s.pass(H(2), H(1), &talk.back(SYN | ACK, b""));
    assert_eq!((got.src(), got.dst()), (two, s.on(H(1), 6000)));
    talk.remote = two;
    s.pass(H(1), H(2), &talk.out(ACK, b"hello"));
}

#[test]
fn req_09_destination_unreachable_is_translated() {
    let mut s = Scene::with_outside(1, "");
    let opener = syn(s.on(H(1), 6000), s.on(O(1), 80));
    let seen = s.pass(H(1), O(1), &opener);
    for code in [0, 1, 2, 3, 4, 13] {
        let error = Packet::icmp_error(OUTSIDE_ROUTER, seen.ip.src, 3, code, &seen, 8);
        let got = s.pass(O(1), H(1), &error);
        let quote = got.quote().unwrap();
        assert_eq!((got.ip.src, got.ip.dst), (OUTSIDE_ROUTER, s.host(H(1)).ip));
        assert_eq!((quote.src, quote.dst), (opener.src(), opener.dst()), "3/{code}");
    }
}

#[test]
fn req_10_no_icmp_message_ends_a_connection() {
    let mut s = Scene::with_outside(1, "");
    let mut talk = s.connect(H(1), 6000, O(1), 80);
    let seen = s.pass(H(1), O(1), &talk.out(ACK, b"data"));
    for (kind, code) in [
        (3, 0),
        (3, 1),
        (3, 2),
        (3, 3),
        (3, 13),
        (4, 0),
        (5, 1),
        (11, 0),
        (12, 0),
    ] {
        let error = Packet::icmp_error(*talk.remote.ip(), seen.ip.src, kind, code, &seen, 8);
        s.send(O(1), &error);
        s.carries(H(1), O(1), &mut talk);
    }
}

#[test]
fn a_flood_of_syns_harms_no_connection() {
    const SYNS: u32 = 20_000;
    let builder = Lab::builder().inside_hosts(2).outside_hosts(2);
    let mut s = Scene::unwatched(builder, "[nat]\nsessions = 16384\n");
    let mut talk = s.connect(H(1), 6000, O(1), 80);
    for number in 0..SYNS {
        // From inside, as a worm does: more half-open sessions than there is room for.
        let port = 1024 + (number % 1000) as u16;
        let victim = SocketAddrV4::new(s.host(O(2)).ip, (number / 1000) as u16 + 1000);
        s.send(H(2), &syn(s.on(H(2), port), victim));
        if number % 500 == 0 {
            s.carries(H(1), O(1), &mut talk);
        }
    }
    // Other hosts still open connections.
    s.connect(H(1), 6001, O(2), 80);
    let opener = udp(s.on(H(1), 6002), s.on(O(1), 9));
    s.pass(H(1), O(1), &opener);
}

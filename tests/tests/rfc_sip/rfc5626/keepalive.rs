//! RFC 5626 sections 3.5, 4.4, 5.4 and 8: keep-alives.

use std::net::SocketAddrV4;

use tests::sip::request::Request;
use tests::sip::stream::Stream;

use crate::scene::Scene;

#[test]
fn sec_5_4_a_double_crlf_on_a_stream_is_answered_with_one() {
    let scene = Scene::open();
    let mut stream = Stream::connect(scene.lab.o(1), scene.endpoint()).unwrap();
    // A connection on which SIP is spoken.
    let options = Request::new("OPTIONS", &format!("sip:{}", scene.endpoint()), &stream).message();
    stream.send(options.bytes()).unwrap();
    stream.recv_final("the 200").unwrap();
    for _ in 0..2 {
        stream.send("\r\n\r\n").unwrap();
        assert_eq!(stream.recv_bytes(2).unwrap(), b"\r\n");
    }
    // Nothing more came than these two.
    let again = Request::new("OPTIONS", &format!("sip:{}", scene.endpoint()), &stream).message();
    stream.send(again.bytes()).unwrap();
    let head = stream.recv_bytes(11).unwrap();
    assert_eq!(head, b"SIP/2.0 200");
}

/// RFC 5389 section 6: a binding request without attributes.
const REQUEST: [u8; 20] = *b"\x00\x01\x00\x00\x21\x12\xa4\x42abcdefghijkl";

/// The endpoint in XOR-MAPPED-ADDRESS (RFC 5389 section 15.2).
fn mapped(answer: &[u8]) -> SocketAddrV4 {
    assert_eq!(answer[..2], [1, 1], "a success: {answer:?}");
    assert_eq!(answer[4..20], REQUEST[4..20]);
    let mut rest = &answer[20..];
    while let [a, b, c, d, ..] = *rest {
        let (kind, length) = (u16::from_be_bytes([a, b]), usize::from(u16::from_be_bytes([c, d])));
        let value = &rest[4..4 + length];
        if kind == 0x0020 {
            let port = u16::from_be_bytes([value[2], value[3]]) ^ 0x2112;
            let ip = u32::from_be_bytes(value[4..8].try_into().unwrap()) ^ 0x2112_a442;
            return SocketAddrV4::new(ip.into(), port);
        }
        rest = &rest[4 + length.next_multiple_of(4)..];
    }
    panic!("no XOR-MAPPED-ADDRESS: {answer:?}")
}

#[test]
fn sec_8_stun_is_answered_on_the_sip_port() {
    let why = "the lab's kamailio is configured without STUN";
    let Some(scene) = Scene::sipnat(why, |config| config) else {
        return;
    };
    scene.caller.send(scene.endpoint(), REQUEST).unwrap();
    let (answer, from) = scene.caller.recv_bytes().unwrap();
    assert_eq!((mapped(&answer), from), (scene.caller.endpoint, scene.endpoint()));
    // And SIP goes on there.
    scene.register(&scene.phone, "anna");
}

#[test]
fn sec_8_stun_client_finds_its_endpoint() {
    let why = "the lab's kamailio is configured without STUN";
    let Some(scene) = Scene::sipnat(why, |config| config) else {
        return;
    };
    let host = scene.lab.o(1);
    let (ip, port) = (scene.endpoint().ip().to_string(), scene.endpoint().port().to_string());
    let said = host
        .run("turnutils_stunclient", ["-p", &port, "-L", &host.ip.to_string(), &ip])
        .unwrap();
    assert!(said.contains(&format!("reflexive addr: {}", host.ip)), "{said}");
}

#[test]
fn sec_3_5_1_a_crlf_in_a_datagram_is_no_message() {
    let scene = Scene::open();
    for keep_alive in [&b"\r\n\r\n"[..], b"\r\n", b"\0"] {
        scene.caller.send(scene.endpoint(), keep_alive).unwrap();
    }
    scene.register(&scene.caller, "anna");
    scene.caller.nothing(std::time::Duration::ZERO, |_| true).unwrap();
}

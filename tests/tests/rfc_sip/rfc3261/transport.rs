//! RFC 3261 section 18: transports.

use std::net::SocketAddrV4;

use tests::prelude::*;
use tests::router::not_met;
use tests::sip::message::Message;
use tests::sip::request::{Request, contact, of_via};
use tests::sip::stream::{Listener, Stream};

use crate::scene::{ANNA, DOMAIN, QUIET, Scene, is};

fn connect(scene: &Scene) -> Stream {
    Stream::connect(scene.lab.o(1), scene.endpoint()).unwrap()
}

fn options(scene: &Scene, stream: &Stream) -> Message {
    Request::new("OPTIONS", &format!("sip:{}", scene.endpoint()), stream).message()
}

#[test]
fn sec_18_2_1_received_says_where_a_request_came_from() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let via = format!(
        "SIP/2.0/UDP 192.168.7.7:{};branch=z9hG4bKreceived",
        scene.caller.endpoint.port()
    );
    let request = Request::new("MESSAGE", ANNA, &scene.caller).set("Via", &via);
    let came = scene.pass(&request);
    let own = scene.caller.endpoint.ip().to_string();
    let theirs = came.headers("Via").join(", ");
    assert!(
        theirs.contains(&format!("received={own}")),
        "the next hop sees it: {came:?}"
    );
    scene.reply(&scene.phone, &came, 200, "OK");
    let answer = scene.final_of(&scene.caller, &request.message());
    assert_eq!(of_via(&answer, "received"), Some(own), "{answer:?}");
}

#[test]
fn sec_18_2_1_a_name_in_via_gets_received_as_well() {
    let scene = Scene::open();
    let request = Request::new("MESSAGE", "sip:nobody@net.com", &scene.caller)
        .set("Via", "SIP/2.0/UDP phone.example:5060;branch=z9hG4bKname");
    let answer = scene.ask(&scene.caller, &request.message());
    assert_eq!(
        of_via(&answer, "received"),
        Some(scene.caller.endpoint.ip().to_string())
    );
}

#[test]
fn sec_18_2_1_what_the_sender_writes_as_received_is_not_believed() {
    let scene = Scene::open();
    let via = format!(
        "SIP/2.0/UDP 192.168.7.7;received={};branch=z9hG4bKforged",
        scene.phone.endpoint.ip()
    );
    let request = Request::new("MESSAGE", "sip:nobody@net.com", &scene.caller).set("Via", &via);
    let answer = scene.ask(&scene.caller, &request.message());
    assert_eq!(
        of_via(&answer, "received"),
        Some(scene.caller.endpoint.ip().to_string())
    );
}

#[test]
fn sec_18_2_2_without_rport_the_port_is_that_of_sent_by() {
    let scene = Scene::open();
    let from = tests::sip::peer::Peer::udp(scene.lab.o(1), 0).unwrap();
    let via = format!("SIP/2.0/UDP {};branch=z9hG4bKsentby", scene.caller.endpoint);
    let request = Request::new("MESSAGE", "sip:nobody@net.com", &from)
        .set("Via", &via)
        .message();
    scene.send(&from, &request);
    let refusal = |message: &Message| message.status() == Some(404);
    match from.wait(QUIET, refusal).unwrap() {
        None => drop(scene.caller.recv_where("the 404", refusal).unwrap()),
        Some(_) => not_met(
            "on purpose: every response goes to where its request came from, so that phones behind any NAT get it",
        ),
    }
}

#[test]
fn sec_18_2_2_a_maddr_in_via_is_where_responses_go() {
    let scene = Scene::open();
    let via = format!(
        "SIP/2.0/UDP {};maddr={};branch=z9hG4bKmaddr;rport",
        scene.caller.endpoint,
        scene.phone.endpoint.ip()
    );
    let request = Request::new("MESSAGE", "sip:nobody@net.com", &scene.caller)
        .set("Via", &via)
        .message();
    scene.send(&scene.caller, &request);
    let refusal = |message: &Message| message.status() == Some(404);
    match scene.phone.wait(QUIET, refusal).unwrap() {
        Some(_) => {}
        None => {
            scene.caller.recv_where("the 404", refusal).unwrap();
            not_met(
                "on purpose: a response goes to where its request came from, for nothing proves that a maddr is the sender's",
            );
        }
    }
}

#[test]
fn sec_18_2_2_responses_take_the_connection_of_their_request() {
    let scene = Scene::open();
    let mut stream = connect(&scene);
    let request = options(&scene, &stream);
    stream.send(request.bytes()).unwrap();
    assert_eq!(stream.recv_final("the 200").unwrap().branch(), request.branch());
}

#[test]
fn sec_18_2_2_if_that_is_gone_a_new_one_to_the_source_and_the_port_of_sent_by() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let listener = Listener::start(scene.lab.o(1), 5060).unwrap();
    let mut stream = connect(&scene);
    let via = format!("SIP/2.0/TCP {};branch=z9hG4bKgone", listener.endpoint);
    let request = Request::new("MESSAGE", ANNA, &stream).set("Via", &via).message();
    stream.send(request.bytes()).unwrap();
    let came = scene.arrived(&scene.phone, &request);
    drop(stream);
    // The server has seen the end of the connection when it answers on another one that was made later.
    let mut later = connect(&scene);
    let ping = options(&scene, &later);
    later.send(ping.bytes()).unwrap();
    later.recv_final("the 200").unwrap();
    scene.reply(&scene.phone, &came, 200, "OK");
    let mut back = listener.accept().unwrap();
    assert_eq!(back.recv_final("the 200").unwrap().branch(), "z9hG4bKgone");
}

#[test]
fn sec_18_3_what_a_datagram_has_behind_its_body_is_cut_off() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let request = Request::new("MESSAGE", ANNA, &scene.caller)
        .body("text/plain", "hello")
        .message();
    scene
        .caller
        .send(scene.endpoint(), [request.bytes(), b" and more"].concat())
        .unwrap();
    assert_eq!(scene.arrived(&scene.phone, &request).body(), b"hello");
}

#[test]
fn sec_18_3_a_datagram_without_content_length_is_all_body() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let request = Request::new("MESSAGE", ANNA, &scene.caller)
        .body("text/plain", "hello")
        .message();
    let text = String::from_utf8(request.bytes().to_vec()).unwrap();
    scene
        .caller
        .send(scene.endpoint(), text.replace("Content-Length: 5\r\n", ""))
        .unwrap();
    assert_eq!(scene.arrived(&scene.phone, &request).body(), b"hello");
}

#[test]
fn sec_18_3_a_datagram_that_is_shorter_than_it_says_is_answered_with_400() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let request = Request::new("MESSAGE", ANNA, &scene.caller)
        .body("text/plain", "hello")
        .message();
    let text = String::from_utf8(request.bytes().to_vec()).unwrap();
    scene
        .caller
        .send(
            scene.endpoint(),
            text.replace("Content-Length: 5", "Content-Length: 50"),
        )
        .unwrap();
    let answer = scene.final_of(&scene.caller, &request);
    assert_eq!(answer.status(), Some(400), "{answer:?}");
}

#[test]
fn sec_18_3_messages_of_a_stream_are_told_apart_by_content_length() {
    let scene = Scene::open();
    let mut stream = connect(&scene);
    let body = "OPTIONS sip:x SIP/2.0\r\n\r\n";
    let with_body = Request::new("OPTIONS", &format!("sip:{}", scene.endpoint()), &stream)
        .body("text/plain", body)
        .message();
    let next = options(&scene, &stream);
    // Two in one piece.
    stream.send([with_body.bytes(), next.bytes()].concat()).unwrap();
    for sent in [&with_body, &next] {
        assert_eq!(stream.recv_final("the 200").unwrap().branch(), sent.branch());
    }
    // One in several pieces.
    let whole = options(&scene, &stream);
    for piece in whole.bytes().chunks(97) {
        stream.send(piece).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(stream.recv_final("the 200").unwrap().branch(), whole.branch());
}

#[test]
fn sec_7_5_line_ends_between_messages_of_a_stream_are_ignored() {
    let scene = Scene::open();
    let mut stream = connect(&scene);
    let request = options(&scene, &stream);
    stream.send([b"\r\n", request.bytes(), b"\r\n"].concat()).unwrap();
    assert_eq!(stream.recv_final("the 200").unwrap().branch(), request.branch());
    let next = options(&scene, &stream);
    stream.send(next.bytes()).unwrap();
    assert_eq!(stream.recv_final("the 200").unwrap().branch(), next.branch());
}

/// A contact that says nothing of its transport, on a host that takes both.
fn indifferent(scene: &Scene, at: SocketAddrV4) {
    let uri = format!("<sip:anna@{at}>");
    // By way of a proxy, so that it is the URI that counts and not where the REGISTER came from.
    let register = Request::register("anna", DOMAIN, &scene.caller)
        .set("Contact", &uri)
        .add("Via", "SIP/2.0/UDP first.example;branch=z9hG4bKfirst");
    assert_eq!(scene.ask(&scene.caller, &register.message()).status(), Some(200));
}

fn large(scene: &Scene) -> Message {
    let body = format!("v=0\r\na=x:{}\r\n", "y".repeat(1100));
    let request = Request::new("INVITE", ANNA, &scene.caller)
        .body("application/sdp", &body)
        .message();
    assert!(request.bytes().len() > 1400, "{}", request.bytes().len());
    request
}

#[test]
fn sec_18_1_1_a_large_request_goes_over_tcp() {
    let scene = Scene::open();
    indifferent(&scene, scene.phone.endpoint);
    let listener = Listener::start(scene.lab.o(2), 5060).unwrap();
    let request = large(&scene);
    scene.send(&scene.caller, &request);
    let is_invite = is("INVITE");
    if scene.phone.wait(QUIET, &is_invite).unwrap().is_some() {
        return not_met("a MUST: an INVITE of more than 1300 bytes goes out in a datagram");
    }
    let mut stream = listener.accept().unwrap();
    let came = stream.recv_where("the INVITE", is_invite).unwrap();
    assert!(came.header("Via").starts_with("SIP/2.0/TCP"), "{came:?}");
    assert_eq!(came.body(), request.body());
}

#[test]
fn sec_18_1_1_where_tcp_is_not_taken_it_goes_in_a_datagram_after_all() {
    let scene = Scene::open();
    // Nobody listens for TCP there. The datagram is fragmented on its way.
    indifferent(&scene, scene.phone.endpoint);
    let request = large(&scene);
    scene.send(&scene.caller, &request);
    let came = scene.arrived(&scene.phone, &request);
    assert!(came.header("Via").starts_with("SIP/2.0/UDP"), "{came:?}");
    assert_eq!(came.body(), request.body());
}

#[test]
fn sec_18_1_1_datagrams_in_fragments_are_received_and_answered() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let body = "x".repeat(20_000);
    let request = Request::new("MESSAGE", "sip:nobody@net.com", &scene.caller).body("text/plain", &body);
    let answer = scene.ask(&scene.caller, &request.message());
    assert_eq!(answer.status(), Some(404), "{answer:?}");
}

#[test]
fn sec_18_1_1_requests_to_a_device_leave_from_where_it_has_registered() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let request = Request::new("MESSAGE", ANNA, &scene.caller).message();
    scene.send(&scene.caller, &request);
    let (_, from) = scene.phone.recv_request("MESSAGE").unwrap();
    assert_eq!(from, scene.endpoint());
}

#[test]
fn sec_18_2_1_udp_and_tcp_are_served_on_one_port() {
    let scene = Scene::open();
    let answer = scene.ask(
        &scene.caller,
        &Request::new("OPTIONS", &format!("sip:{}", scene.endpoint()), &scene.caller).message(),
    );
    assert_eq!(answer.status(), Some(200));
    let mut stream = connect(&scene);
    let request = options(&scene, &stream);
    stream.send(request.bytes()).unwrap();
    assert_eq!(stream.recv_final("the 200").unwrap().status(), Some(200));
    let bound = contact("x", &stream);
    assert!(bound.contains("transport=tcp"));
    wait_until("the port to be the same", SOON, || stream.remote == scene.endpoint()).unwrap();
}

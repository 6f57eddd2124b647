//! RFC 3581: rport.

use tests::prelude::*;
use tests::sip::document::{self, TRANSLATED};
use tests::sip::message::Message;
use tests::sip::peer::Peer;
use tests::sip::request::{Request, of_via};
use tests::sip::under_test::UnderTest;

use crate::scene::{ANNA, DOMAIN, Scene};

fn refused(scene: &Scene, via: &str) -> (Message, Peer) {
    let from = Peer::udp(scene.lab.o(1), 0).unwrap();
    let request = Request::new("MESSAGE", "sip:nobody@net.com", &from)
        .set("Via", via)
        .message();
    scene.send(&from, &request);
    let answer = scene.final_of(&from, &request);
    assert_eq!(answer.status(), Some(404), "{answer:?}");
    (answer, from)
}

#[test]
fn sec_4_rport_and_received_are_filled_in() {
    let scene = Scene::open();
    let (answer, from) = refused(&scene, "SIP/2.0/UDP 192.168.7.7:5060;rport;branch=z9hG4bKrport");
    assert_eq!(of_via(&answer, "rport"), Some(from.endpoint.port().to_string()));
    assert_eq!(of_via(&answer, "received"), Some(from.endpoint.ip().to_string()));
}

#[test]
fn sec_4_received_is_there_even_if_it_is_the_same() {
    let scene = Scene::open();
    let request = Request::new("MESSAGE", "sip:nobody@net.com", &scene.caller);
    let answer = scene.ask(&scene.caller, &request.message());
    assert_eq!(of_via(&answer, "rport"), Some("5060".into()));
    assert_eq!(
        of_via(&answer, "received"),
        Some(scene.caller.endpoint.ip().to_string())
    );
}

#[test]
fn sec_4_the_next_hop_sees_both() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let came = scene.pass(&Request::new("MESSAGE", ANNA, &scene.caller));
    let vias = came.headers("Via").join(", ");
    let own = scene.caller.endpoint;
    for part in [format!("rport={}", own.port()), format!("received={}", own.ip())] {
        assert!(vias.contains(&part), "{part}: {came:?}");
    }
}

#[test]
fn sec_4_the_answer_leaves_from_where_the_request_came_in() {
    let scene = Scene::open();
    let from = Peer::udp(scene.lab.o(1), 0).unwrap();
    let request = Request::new("MESSAGE", "sip:nobody@net.com", &from).message();
    scene.send(&from, &request);
    let (_, at) = from
        .recv_where("the 404", |message| message.status() == Some(404))
        .unwrap();
    assert_eq!(at, scene.endpoint());
}

#[test]
fn sec_4_a_phone_behind_a_nat_gets_its_answers() {
    let lab = document::lab().build().unwrap();
    let _nat = document::start_nat(&lab, Nat::Nftables, "").unwrap();
    let server = UnderTest::start(lab.o(1), DOMAIN, &[]).unwrap();
    let phone = Peer::udp(lab.h(1), 5060).unwrap();
    let register = Request::register("user", DOMAIN, &phone).message();
    phone.send_message(server.endpoint(), &register).unwrap();
    let (answer, from) = phone
        .recv_where("the 200", |message| message.status() == Some(200))
        .unwrap();
    assert_eq!(from, server.endpoint());
    assert_eq!(of_via(&answer, "received"), Some(TRANSLATED.ip().to_string()));
    assert_eq!(of_via(&answer, "rport"), Some(TRANSLATED.port().to_string()));
    // And what is for it comes the same way.
    let caller = Peer::udp(lab.o(2), 5060).unwrap();
    let request = Request::new("MESSAGE", "sip:user@net.com", &caller).message();
    caller.send_message(server.endpoint(), &request).unwrap();
    let (_, from) = phone.recv_request("MESSAGE").unwrap();
    assert_eq!(from, server.endpoint());
}

//! RFC 5923, and RFC 3261 section 18: which connections requests take.

use tests::sip::message::Message;
use tests::sip::request::Request;
use tests::sip::stream::{Listener, Stream};

use crate::scene::{QUIET, Scene, is};

const SETTING: &str = "this asks for what sipnat's configuration says about trusted peers";

/// Trusted peers, who may send to anywhere.
fn trusted() -> Option<Scene> {
    Scene::sipnat(SETTING, |config| config.line("trusted = [\"203.0.113.0/24\"]"))
}

/// Sends a MESSAGE to a URI from the caller.
fn send_to(scene: &Scene, uri: &str) -> Message {
    let request = Request::new("MESSAGE", uri, &scene.caller).message();
    scene.send(&scene.caller, &request);
    request
}

/// A peer at the second host that listens for TCP and has sent a request over a connection of its own, with this in its Via.
fn connected(scene: &Scene, more: &str) -> (Listener, Stream) {
    let listener = Listener::start(scene.lab.o(3), 5060).unwrap();
    let mut stream = Stream::connect(scene.lab.o(3), scene.endpoint()).unwrap();
    let via = format!("SIP/2.0/TCP {};branch=z9hG4bKconnect{more}", listener.endpoint);
    let options = Request::new("OPTIONS", &format!("sip:{}", scene.endpoint()), &stream)
        .set("Via", &via)
        .message();
    stream.send(options.bytes()).unwrap();
    assert_eq!(stream.recv_final("the 200").unwrap().status(), Some(200));
    (listener, stream)
}

#[test]
fn sec_8_2_an_alias_lets_requests_take_the_connection() {
    let Some(scene) = trusted() else { return };
    let (listener, mut stream) = connected(&scene, ";alias");
    send_to(&scene, &format!("sip:x@{};transport=tcp", listener.endpoint));
    stream.recv_where("the MESSAGE", is("MESSAGE")).unwrap();
    listener.nothing(QUIET).unwrap();
}

#[test]
fn sec_8_2_without_an_alias_a_new_connection_is_made() {
    let Some(scene) = trusted() else { return };
    let (listener, _stream) = connected(&scene, "");
    send_to(&scene, &format!("sip:x@{};transport=tcp", listener.endpoint));
    let mut new = listener.accept().unwrap();
    new.recv_where("the MESSAGE", is("MESSAGE")).unwrap();
}

#[test]
fn sec_8_2_when_the_aliased_connection_is_gone_a_new_one_is_made() {
    let Some(scene) = trusted() else { return };
    let (listener, stream) = connected(&scene, ";alias");
    drop(stream);
    // What was sent before its end was seen may be lost; the next ones are not.
    tests::wait::wait_for("a new connection", tests::wait::SOON, || {
        send_to(&scene, &format!("sip:x@{};transport=tcp", listener.endpoint));
        listener.nothing(QUIET).is_err().then_some(())
    })
    .unwrap();
}

#[test]
fn sec_9_3_an_alias_of_a_stranger_takes_nothing_from_others() {
    // The host of the stranger is not trusted, that of the caller is.
    let Some(scene) = Scene::sipnat(SETTING, |config| config.line("trusted = [\"203.0.113.100/32\"]")) else {
        return;
    };
    let (listener, mut stranger) = connected(&scene, ";alias");
    send_to(&scene, &format!("sip:x@{};transport=tcp", listener.endpoint));
    let mut new = listener.accept().unwrap();
    new.recv_where("the MESSAGE", is("MESSAGE")).unwrap();
    // The stranger gets nothing but what it asks for.
    stranger.send("\r\n\r\n").unwrap();
    assert_eq!(stranger.recv_bytes(2).unwrap(), b"\r\n");
}

#[test]
fn sec_8_1_the_servers_own_connections_are_used_again() {
    let Some(scene) = trusted() else { return };
    let listener = Listener::start(scene.lab.o(3), 5060).unwrap();
    let uri = format!("sip:x@{};transport=tcp", listener.endpoint);
    send_to(&scene, &uri);
    let mut stream = listener.accept().unwrap();
    for _ in 0..2 {
        let came = stream.recv_where("the MESSAGE", is("MESSAGE")).unwrap();
        stream.send(came.reply(200, "OK", &[], "").bytes()).unwrap();
        assert_eq!(scene.caller.recv_final("the 200").unwrap().status(), Some(200));
        send_to(&scene, &uri);
    }
    listener.nothing(QUIET).unwrap();
}

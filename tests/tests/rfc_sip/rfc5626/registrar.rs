//! RFC 5626 sections 6 and 7: the registrar, and the proxy that uses its bindings.

use tests::sip::message::Message;
use tests::sip::peer::Peer;
use tests::sip::request::Request;
use tests::sip::stream::Stream;

use crate::scene::{ANNA, DOMAIN, QUIET, Scene, contacts, is};

const MODULE: &str = "the lab's kamailio is configured without its outbound module";
const INSTANCE: &str = "+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-000A95A0E128>\"";

fn scene() -> Option<Scene> {
    Scene::sipnat(MODULE, |config| config)
}

/// A REGISTER over a flow, directly.
fn over_flow(peer: &Peer, reg_id: u32) -> Request {
    let contact = format!("<sip:anna@{};ob>;reg-id={reg_id};{INSTANCE}", peer.endpoint);
    Request::register("anna", DOMAIN, peer)
        .set("Contact", &contact)
        .add("Supported", "path, outbound")
}

fn ask(scene: &Scene, peer: &Peer, request: &Request) -> Message {
    scene.ask(peer, &request.message())
}

#[test]
fn sec_6_a_direct_registration_with_outbound() {
    let Some(scene) = scene() else { return };
    let answer = ask(&scene, &scene.phone, &over_flow(&scene.phone, 1));
    assert_eq!(answer.status(), Some(200), "{answer:?}");
    assert_eq!(answer.header("Require"), "outbound");
    assert!(contacts(&answer)[0].contains("reg-id=1"), "{answer:?}");
    let timer: u32 = answer.header("Flow-Timer").parse().unwrap();
    assert!(timer > 0, "section 5.4, a MAY");
}

#[test]
fn sec_6_a_binding_is_instance_and_reg_id() {
    let Some(scene) = scene() else { return };
    assert_eq!(
        ask(&scene, &scene.phone, &over_flow(&scene.phone, 1)).status(),
        Some(200)
    );
    // The device has rebooted elsewhere: another URI, another Call-ID, the same binding.
    let answer = ask(&scene, &scene.second, &over_flow(&scene.second, 1));
    let left = contacts(&answer);
    assert!(
        left.len() == 1 && left[0].contains(&scene.second.endpoint.to_string()),
        "{answer:?}"
    );
    // Another reg-id is another flow.
    let answer = ask(&scene, &scene.phone, &over_flow(&scene.phone, 2));
    assert_eq!(contacts(&answer).len(), 2, "{answer:?}");
    // The flow is the new one.
    let request = Request::new("MESSAGE", ANNA, &scene.caller).message();
    scene.send(&scene.caller, &request);
    scene.first_of(&request);
}

#[test]
fn sec_6_reg_id_without_outbound_support_gets_no_outbound() {
    let Some(scene) = scene() else { return };
    let request = over_flow(&scene.phone, 1).without("Supported");
    let answer = ask(&scene, &scene.phone, &request);
    assert_eq!(
        (answer.status(), answer.headers("Require")),
        (Some(200), vec![]),
        "{answer:?}"
    );
}

#[test]
fn sec_6_reg_id_without_an_instance_is_ignored() {
    let Some(scene) = scene() else { return };
    let contact = |peer: &Peer| format!("<sip:anna@{}>;reg-id=1", peer.endpoint);
    for (peer, count) in [(&scene.phone, 1), (&scene.second, 2)] {
        let request = over_flow(peer, 1).set("Contact", &contact(peer));
        let answer = ask(&scene, peer, &request);
        assert_eq!(
            (answer.status(), answer.headers("Require")),
            (Some(200), vec![]),
            "{answer:?}"
        );
        assert_eq!(contacts(&answer).len(), count, "by their URIs: {answer:?}");
    }
}

#[test]
fn sec_6_two_contacts_with_reg_id_are_answered_with_400() {
    let Some(scene) = scene() else { return };
    let request = over_flow(&scene.phone, 1).add("Contact", "<sip:other@203.0.113.101>");
    let answer = ask(&scene, &scene.phone, &request);
    assert_eq!(answer.status(), Some(400), "{answer:?}");
}

/// A REGISTER by way of the caller, who is a proxy in between.
fn by_a_proxy(scene: &Scene, request: Request) -> Message {
    let via = format!("SIP/2.0/UDP {};branch=z9hG4bKproxy;rport", scene.caller.endpoint);
    scene.ask(&scene.caller, &request.first("Via", &via).message())
}

#[test]
fn sec_6_a_first_hop_without_outbound_is_answered_with_439() {
    let Some(scene) = scene() else { return };
    let answer = by_a_proxy(&scene, over_flow(&scene.phone, 1));
    assert_eq!(answer.status(), Some(439), "no Path: {answer:?}");
    let path = "<sip:203.0.113.100;lr>";
    let answer = by_a_proxy(&scene, over_flow(&scene.phone, 1).add("Path", path));
    assert_eq!(answer.status(), Some(439), "a Path without ob: {answer:?}");
    let without = over_flow(&scene.phone, 1).set("Supported", "path").add("Path", path);
    let answer = by_a_proxy(&scene, without);
    assert_eq!(
        (answer.status(), answer.headers("Require")),
        (Some(200), vec![]),
        "reg-id is ignored: {answer:?}"
    );
}

#[test]
fn sec_6_a_first_hop_with_ob_in_its_path() {
    let Some(scene) = scene() else { return };
    let path = "<sip:token@203.0.113.100;lr;ob>";
    let answer = by_a_proxy(&scene, over_flow(&scene.phone, 1).add("Path", path));
    assert_eq!(answer.status(), Some(200), "{answer:?}");
    assert_eq!(
        (answer.header("Require").as_str(), answer.header("Path").as_str()),
        ("outbound", path)
    );
}

/// The device with two flows, of which the one with this reg-id was registered last.
fn two_flows(scene: &Scene) {
    assert_eq!(
        ask(scene, &scene.second, &over_flow(&scene.second, 2)).status(),
        Some(200)
    );
    assert_eq!(
        ask(scene, &scene.phone, &over_flow(&scene.phone, 1)).status(),
        Some(200)
    );
}

#[test]
fn sec_7_one_flow_of_an_instance_at_a_time() {
    let Some(scene) = scene() else { return };
    two_flows(&scene);
    let invite = Request::new("INVITE", ANNA, &scene.caller).message();
    scene.send(&scene.caller, &invite);
    let (first, came, other) = scene.first_of(&invite);
    other.nothing(QUIET, is("INVITE")).unwrap();
    // A response of the device is the device's, whatever flow.
    scene.reply(first, &came, 486, "Busy Here");
    let answer = scene.final_of(&scene.caller, &invite);
    scene.acknowledge(&invite, &answer);
    assert_eq!(answer.status(), Some(486));
    other.nothing(QUIET, is("INVITE")).unwrap();
}

#[test]
fn sec_7_after_430_the_other_flow_is_tried() {
    let Some(scene) = scene() else { return };
    two_flows(&scene);
    let invite = Request::new("INVITE", ANNA, &scene.caller).message();
    scene.send(&scene.caller, &invite);
    let (first, came, other) = scene.first_of(&invite);
    scene.reply(first, &came, 430, "Flow Failed");
    let came = scene.arrived(other, &invite);
    scene.reply(other, &came, 200, "OK");
    assert_eq!(scene.final_of(&scene.caller, &invite).status(), Some(200));
}

#[test]
fn sec_7_requests_take_the_flow_of_the_registration() {
    let Some(scene) = scene() else { return };
    let mut stream = Stream::connect(scene.lab.o(2), scene.endpoint()).unwrap();
    // The contact says nothing true about where the device is.
    let contact = format!("<sip:anna@192.168.7.7;transport=tcp;ob>;reg-id=1;{INSTANCE}");
    let register = Request::register("anna", DOMAIN, &stream)
        .set("Contact", &contact)
        .add("Supported", "path, outbound");
    stream.send(register.message().bytes()).unwrap();
    assert_eq!(stream.recv_final("the 200").unwrap().status(), Some(200));
    let request = Request::new("MESSAGE", ANNA, &scene.caller).message();
    scene.send(&scene.caller, &request);
    let came = stream.recv_where("the MESSAGE", is("MESSAGE")).unwrap();
    assert_eq!(came.request_uri(), "sip:anna@192.168.7.7;transport=tcp;ob");
}

#[test]
fn sec_7_bindings_of_a_connection_that_ends_are_not_used() {
    let Some(scene) = scene() else { return };
    let mut stream = Stream::connect(scene.lab.o(2), scene.endpoint()).unwrap();
    let contact = format!("<sip:anna@192.168.7.7;transport=tcp;ob>;reg-id=1;{INSTANCE}");
    let register = Request::register("anna", DOMAIN, &stream)
        .set("Contact", &contact)
        .add("Supported", "path, outbound");
    stream.send(register.message().bytes()).unwrap();
    assert_eq!(stream.recv_final("the 200").unwrap().status(), Some(200));
    drop(stream);
    // What was sent before the server has seen the end is lost; the next one is not sent there.
    tests::wait::wait_until("the server to see the end", tests::wait::SOON, || {
        let request = Request::new("MESSAGE", ANNA, &scene.caller).message();
        scene.send(&scene.caller, &request);
        let refused = |message: &Message| {
            message.header("Call-ID") == request.header("Call-ID") && matches!(message.status(), Some(404 | 430 | 480))
        };
        scene.caller.wait(QUIET, refused).unwrap().is_some()
    })
    .unwrap();
}

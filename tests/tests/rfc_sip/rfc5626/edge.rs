//! RFC 5626 section 5: the edge proxy, whose registrar is elsewhere (the second peer).

use tests::sip::message::{Message, bracketed};
use tests::sip::request::{Dialog, Request};

use crate::scene::{Scene, is};

const ROLE: &str = "the lab's kamailio has no role of an edge proxy";
const INSTANCE: &str = "+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-000A95A0E128>\"";

/// The phone is registered with the registrar through the edge proxy: the REGISTER as the registrar got it, and the 200 as the phone did.
fn registered() -> Option<(Scene, Message, Message)> {
    let scene = Scene::sipnat(ROLE, |config| {
        config.role("outbound").line("trusted = [\"203.0.113.102/32\"]")
    })?;
    let at = scene.second.endpoint;
    let contact = format!("<sip:anna@{};ob>;reg-id=1;{INSTANCE}", scene.phone.endpoint);
    let register = Request::register("anna", &at.ip().to_string(), &scene.phone)
        .line(&format!("REGISTER sip:{at} SIP/2.0"))
        .set("Contact", &contact)
        .add("Supported", "path, outbound")
        .message();
    scene.send(&scene.phone, &register);
    let came = scene.arrived(&scene.second, &register);
    let lines = [
        format!("Contact: {};expires=300", came.header("Contact")),
        format!("Path: {}", came.header("Path")),
        "Require: outbound".to_string(),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    scene.send(&scene.second, &came.reply(200, "OK", &lines, ""));
    let answer = scene.final_of(&scene.phone, &register);
    assert_eq!(answer.status(), Some(200), "{answer:?}");
    Some((scene, came, answer))
}

/// Where the registrar sends requests for the phone.
fn target(came: &Message) -> String {
    came.uri_of("Contact")
}

#[test]
fn sec_5_1_the_first_hop_puts_itself_into_the_path_with_ob() {
    let Some((scene, came, _)) = registered() else { return };
    let path = came.headers("Path");
    assert_eq!(path.len(), 1, "{came:?}");
    let uri = bracketed(&path[0]).unwrap();
    assert!(uri.contains(&scene.endpoint().to_string()), "{uri}");
    assert!(uri.contains(";lr") && uri.contains(";ob"), "{uri}");
}

#[test]
fn sec_5_1_a_proxy_that_is_not_the_first_hop_does_not_say_ob() {
    let why = ROLE;
    let Some(scene) = Scene::sipnat(why, |config| config.role("outbound")) else {
        return;
    };
    let at = scene.second.endpoint;
    let register = Request::register("anna", &at.ip().to_string(), &scene.phone)
        .line(&format!("REGISTER sip:{at} SIP/2.0"))
        .add("Supported", "path, outbound")
        .add("Via", "SIP/2.0/UDP first.example;branch=z9hG4bKfirst")
        .message();
    scene.send(&scene.phone, &register);
    let came = scene.arrived(&scene.second, &register);
    assert!(!came.headers("Path").join(",").contains(";ob"), "{came:?}");
}

#[test]
fn sec_5_3_requests_come_back_over_the_flow() {
    let Some((scene, came, answer)) = registered() else {
        return;
    };
    // The phone sees its own contact.
    assert_eq!(
        answer.uri_of("Contact"),
        format!("sip:anna@{};ob", scene.phone.endpoint)
    );
    let path = came.header("Path");
    let invite = Request::new("INVITE", &target(&came), &scene.second)
        .add("Route", &path)
        .message();
    scene.send(&scene.second, &invite);
    let (at_phone, from) = scene.phone.recv_request("INVITE").unwrap();
    assert_eq!(from, scene.endpoint());
    assert_eq!(at_phone.request_uri(), format!("sip:anna@{};ob", scene.phone.endpoint));
    assert_eq!(at_phone.headers("Route"), Vec::<String>::new());
    // Section 5.3.1: the dialog finds its way too.
    let given = scene.reply(&scene.phone, &at_phone, 200, "OK");
    let ok = scene.final_of(&scene.second, &invite);
    assert!(!ok.headers("Record-Route").is_empty(), "{ok:?}");
    let dialog = Dialog::of_caller(&invite, &ok, &scene.second);
    let bye = dialog.request("BYE", 2).message();
    scene.send(&scene.second, &bye);
    scene.arrived(&scene.phone, &bye);
    drop(given);
}

#[test]
fn sec_5_3_1_a_token_that_was_tampered_with_leads_nowhere() {
    let Some((scene, came, _)) = registered() else { return };
    let uri = target(&came);
    let (scheme, rest) = uri.split_once(':').unwrap();
    let (user, host) = rest.split_once('@').unwrap();
    let last = user.chars().last().unwrap();
    let forged = format!(
        "{scheme}:{}{}@{host}",
        &user[..user.len() - 1],
        if last == 'A' { 'B' } else { 'A' }
    );
    let answer = scene.ask(
        &scene.second,
        &Request::new("MESSAGE", &forged, &scene.second).message(),
    );
    assert!(matches!(answer.status(), Some(403 | 430)), "{answer:?}");
    scene.phone.nothing(crate::scene::QUIET, is("MESSAGE")).unwrap();
}

#[test]
fn sec_5_3_1_a_forged_dialog_token_is_answered_with_403() {
    let Some((scene, came, _)) = registered() else { return };
    let invite = Request::new("INVITE", &target(&came), &scene.second).message();
    scene.send(&scene.second, &invite);
    let at_phone = scene.arrived(&scene.phone, &invite);
    scene.reply(&scene.phone, &at_phone, 200, "OK");
    let ok = scene.final_of(&scene.second, &invite);
    let mut dialog = Dialog::of_caller(&invite, &ok, &scene.second);
    let route = dialog.routes.last_mut().unwrap();
    let (before, after) = route.split_once('@').unwrap();
    let last = before.chars().last().unwrap();
    *route = format!(
        "{}{}@{after}",
        &before[..before.len() - 1],
        if last == 'A' { 'B' } else { 'A' }
    );
    let answer = scene.ask(&scene.second, &dialog.request("BYE", 2).message());
    assert_eq!(answer.status(), Some(403), "{answer:?}");
    scene.phone.nothing(crate::scene::QUIET, is("BYE")).unwrap();
}

#[test]
fn sec_5_3_1_a_flow_that_is_gone_is_answered_with_430() {
    let Some((scene, came, _)) = registered() else { return };
    // The registrar says that the registration has ended.
    let at = scene.second.endpoint;
    let register = Request::register("anna", &at.ip().to_string(), &scene.phone)
        .line(&format!("REGISTER sip:{at} SIP/2.0"))
        .set(
            "Contact",
            &format!("<sip:anna@{};ob>;reg-id=1;{INSTANCE};expires=0", scene.phone.endpoint),
        )
        .add("Supported", "path, outbound")
        .message();
    scene.send(&scene.phone, &register);
    let again = scene.arrived(&scene.second, &register);
    scene.send(&scene.second, &again.reply(200, "OK", &[], ""));
    assert_eq!(scene.final_of(&scene.phone, &register).status(), Some(200));
    let answer = scene.ask(
        &scene.second,
        &Request::new("MESSAGE", &target(&came), &scene.second).message(),
    );
    assert_eq!(answer.status(), Some(430), "{answer:?}");
}

#[test]
fn sec_5_3_2_the_phones_own_calls_go_out_and_come_back_over_its_flow() {
    let Some((scene, ..)) = registered() else { return };
    let uri = format!("sip:x@{}", scene.second.endpoint);
    let contact = format!("<sip:anna@{};ob>", scene.phone.endpoint);
    let route = format!("<sip:{};lr>", scene.endpoint());
    let invite = Request::new("INVITE", &uri, &scene.phone)
        .set("Contact", &contact)
        .add("Route", &route)
        .message();
    scene.send(&scene.phone, &invite);
    let came = scene.arrived(&scene.second, &invite);
    assert_eq!((came.request_uri(), came.headers("Route")), (uri, vec![]));
    let given = came.reply(200, "OK", &[&format!("Contact: <sip:x@{}>", scene.second.endpoint)], "");
    scene.send(&scene.second, &given);
    assert_eq!(scene.final_of(&scene.phone, &invite).status(), Some(200));
    let bye = Dialog::of_callee(&came, &given, &scene.second)
        .request("BYE", 1)
        .message();
    scene.send(&scene.second, &bye);
    let (_, from) = scene.phone.recv_request("BYE").unwrap();
    assert_eq!(from, scene.endpoint());
}

#[test]
fn sec_5_1_the_path_of_the_first_hop_has_a_flow_token() {
    let Some((scene, came, _)) = registered() else { return };
    let path = came.header("Path");
    if bracketed(&path).is_some_and(|uri| uri.contains('@')) {
        return;
    }
    // What the RFC wants it for is there all the same: a registrar that knows no Path must find the flow too.
    let contact = target(&came);
    assert!(contact.contains(&format!("@{}", scene.endpoint())), "{contact}");
    tests::router::not_met(
        "a MUST: the token of the flow is in the contact and not in the Path, so that registrars without Path find the device as well",
    );
}

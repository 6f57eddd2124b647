//! RFC 3261 sections 8.3 and 21.3: the redirect server.

use tests::sip::request::{Request, ack, cancel};

use crate::scene::{ANNA, QUIET, Scene, contacts, is};

const ROLE: &str = "the lab's kamailio has no role of a redirect server";

fn redirecting() -> Option<Scene> {
    Scene::sipnat(ROLE, |config| config.role("redirect"))
}

#[test]
fn sec_8_3_calls_are_answered_with_302_and_the_contacts() {
    let Some(scene) = redirecting() else { return };
    scene.register(&scene.phone, "anna");
    let lower = format!("<sip:anna@{}>;q=0.2", scene.second.endpoint);
    let register = Request::register("anna", "net.com", &scene.second).set("Contact", &lower);
    assert_eq!(scene.ask(&scene.second, &register.message()).status(), Some(200));
    let invite = Request::new("INVITE", ANNA, &scene.caller).message();
    let answer = scene.ask(&scene.caller, &invite);
    assert_eq!(answer.status(), Some(302), "section 21.3.3: {answer:?}");
    scene.acknowledge(&invite, &answer);
    let listed = contacts(&answer);
    assert_eq!(listed.len(), 2, "{answer:?}");
    let of = |endpoint| {
        listed
            .iter()
            .find(|contact| contact.contains(&format!("sip:anna@{endpoint}")))
            .cloned()
    };
    assert!(of(scene.phone.endpoint).is_some(), "{answer:?}");
    assert!(
        of(scene.second.endpoint).unwrap().contains(";q=0.2"),
        "section 8.3: {answer:?}"
    );
    for peer in [&scene.phone, &scene.second] {
        peer.nothing(QUIET, is("INVITE")).unwrap();
    }
}

#[test]
fn sec_8_3_a_caller_that_follows_reaches_the_phone() {
    let Some(scene) = redirecting() else { return };
    scene.register(&scene.phone, "anna");
    let invite = Request::new("INVITE", ANNA, &scene.caller).message();
    let answer = scene.ask(&scene.caller, &invite);
    scene.acknowledge(&invite, &answer);
    let next = Request::new("INVITE", &answer.uri_of("Contact"), &scene.caller).message();
    scene.caller.send_message(scene.phone.endpoint, &next).unwrap();
    let (came, from) = scene.phone.recv_request("INVITE").unwrap();
    assert_eq!((from, came), (scene.caller.endpoint, next));
}

#[test]
fn sec_8_3_a_user_whom_nobody_knows_is_answered_with_404() {
    let Some(scene) = redirecting() else { return };
    let invite = Request::new("INVITE", "sip:nobody@net.com", &scene.caller).message();
    let answer = scene.ask(&scene.caller, &invite);
    scene.send(&scene.caller, &ack(&invite, &answer));
    assert_eq!(answer.status(), Some(404), "{answer:?}");
}

#[test]
fn sec_8_3_a_cancel_is_answered() {
    let Some(scene) = redirecting() else { return };
    scene.register(&scene.phone, "anna");
    let invite = Request::new("INVITE", ANNA, &scene.caller).message();
    let redirected = scene.ask(&scene.caller, &invite);
    assert_eq!(redirected.status(), Some(302));
    let answer = scene.ask(&scene.caller, &cancel(&invite));
    assert_eq!(answer.status(), Some(200), "{answer:?}");
    scene.acknowledge(&invite, &redirected);
}

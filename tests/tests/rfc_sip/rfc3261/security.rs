//! RFC 3261 section 22: who may do what. The algorithms are RFC 7616's and RFC 8760's.

use tests::sip::request::Request;

use crate::digest::Credentials;
use crate::scene::{ANNA, SECRET, Scene, is};

const NO_407: &str = "the lab's kamailio challenges REGISTER only";

/// The server whose user must authenticate; the phone is registered as that user.
fn closed() -> Option<Scene> {
    let scene = Scene::sipnat(NO_407, |config| config.user(SECRET.0, SECRET.1))?;
    let challenge = scene.ask(
        &scene.phone,
        &Request::register("anna", "net.com", &scene.phone)
            .set("Call-ID", "r")
            .message(),
    );
    let credentials = Credentials::answer(&challenge, SECRET, "REGISTER", "sip:net.com");
    let register = Request::register("anna", "net.com", &scene.phone)
        .set("Call-ID", "r")
        .set("CSeq", "2 REGISTER")
        .add("Authorization", &credentials.header());
    assert_eq!(scene.ask(&scene.phone, &register.message()).status(), Some(200));
    Some(scene)
}

/// A request from our own user.
fn from_anna(scene: &Scene) -> Request {
    Request::new("MESSAGE", ANNA, &scene.caller).set("From", "<sip:anna@net.com>;tag=a")
}

#[test]
fn sec_22_3_a_proxy_challenges_its_own_users_with_407() {
    let Some(scene) = closed() else { return };
    let challenge = scene.ask(&scene.caller, &from_anna(&scene).message());
    assert_eq!(challenge.status(), Some(407), "{challenge:?}");
    assert_eq!(challenge.headers("WWW-Authenticate"), Vec::<String>::new());
    let credentials = Credentials::answer(&challenge, SECRET, "MESSAGE", ANNA);
    assert_eq!(credentials.realm, "net.com");
    let came = scene.pass(&from_anna(&scene).add("Proxy-Authorization", &credentials.header()));
    // Section 22.3: what was for this proxy is taken out.
    assert_eq!(came.headers("Proxy-Authorization"), Vec::<String>::new());
}

#[test]
fn sec_22_3_credentials_for_others_pass() {
    let Some(scene) = closed() else { return };
    let challenge = scene.ask(&scene.caller, &from_anna(&scene).message());
    let own = Credentials::answer(&challenge, SECRET, "MESSAGE", ANNA);
    let other = "Digest username=\"anna\", realm=\"other\", nonce=\"n\", uri=\"u\", response=\"00\"";
    let request = from_anna(&scene)
        .add("Proxy-Authorization", other)
        .add("Proxy-Authorization", &own.header())
        .add("Authorization", other);
    let came = scene.pass(&request);
    assert_eq!(came.headers("Proxy-Authorization"), [other]);
    assert_eq!(came.headers("Authorization"), [other]);
}

#[test]
fn sec_22_3_who_is_somebody_else_than_he_says_is_answered_with_403() {
    let Some(scene) = closed() else { return };
    let berta = || from_anna(&scene).set("From", "<sip:berta@net.com>;tag=b");
    let challenge = scene.ask(&scene.caller, &berta().message());
    assert_eq!(challenge.status(), Some(407), "{challenge:?}");
    let anna = Credentials::answer(&challenge, SECRET, "MESSAGE", ANNA);
    let answer = scene.ask(
        &scene.caller,
        &berta().add("Proxy-Authorization", &anna.header()).message(),
    );
    assert_eq!(answer.status(), Some(403), "{answer:?}");
    scene.nothing_came("anna", &scene.phone, |message| {
        is("MESSAGE")(message) && message.header("From").contains("berta")
    });
}

#[test]
fn sec_22_1_ack_and_cancel_are_not_challenged() {
    let Some(scene) = closed() else { return };
    let invite = Request::new("INVITE", ANNA, &scene.caller)
        .set("From", "<sip:anna@net.com>;tag=a")
        .message();
    let challenge = scene.ask(&scene.caller, &invite);
    assert_eq!(challenge.status(), Some(407), "{challenge:?}");
    scene.acknowledge(&invite, &challenge);
    let cancel = tests::sip::request::cancel(&invite);
    let answer = scene.ask(&scene.caller, &cancel);
    assert!(matches!(answer.status(), Some(200 | 481)), "{answer:?}");
    let challenges = |message: &tests::sip::message::Message| {
        message.status() == Some(407) && message.header("CSeq").ends_with("ACK")
    };
    scene.caller.nothing(crate::scene::QUIET, challenges).unwrap();
}

#[test]
fn sec_26_3_2_1_nothing_is_kept_of_a_registration_without_its_password() {
    let why = "this asks for sipnat's tables";
    let Some(scene) = Scene::sipnat(why, |config| config.user(SECRET.0, SECRET.1)) else {
        return;
    };
    let answer = scene.ask(
        &scene.phone,
        &Request::register("anna", "net.com", &scene.phone).message(),
    );
    assert_eq!(answer.status(), Some(401));
    let server = scene.sipnat_server();
    assert_eq!(server.registrations().unwrap(), Vec::<serde_json::Value>::new());
    assert_eq!(server.paths().unwrap(), Vec::<serde_json::Value>::new());
}

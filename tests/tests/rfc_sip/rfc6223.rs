//! RFC 6223: keep-alives that are negotiated.

use tests::sip::request::{Request, of_via};
use tests::sip::stream::Stream;

use crate::scene::{DOMAIN, Scene};

const PARAMETER: &str = "the lab's kamailio does not know the parameter";

#[test]
fn sec_4_4_a_registration_is_told_how_often() {
    let Some(scene) = Scene::sipnat(PARAMETER, |config| config) else {
        return;
    };
    let via = format!("{};keep", tests::sip::request::via(&scene.phone, "z9hG4bKkeep"));
    let answer = scene.ask(
        &scene.phone,
        &Request::register("anna", DOMAIN, &scene.phone)
            .set("Via", &via)
            .message(),
    );
    assert_eq!(answer.status(), Some(200), "{answer:?}");
    let seconds: u32 = of_via(&answer, "keep").expect("keep").parse().unwrap();
    assert!(seconds > 0, "section 5");
}

#[test]
fn sec_4_4_on_streams_too() {
    let Some(scene) = Scene::sipnat(PARAMETER, |config| config) else {
        return;
    };
    let mut stream = Stream::connect(scene.lab.o(2), scene.endpoint()).unwrap();
    let via = format!("{};keep", tests::sip::request::via(&stream, "z9hG4bKkeep"));
    let register = Request::register("anna", DOMAIN, &stream).set("Via", &via).message();
    stream.send(register.bytes()).unwrap();
    let answer = stream.recv_final("the 200").unwrap();
    let seconds: u32 = of_via(&answer, "keep").expect("keep").parse().unwrap();
    assert!(seconds > 0, "section 5");
}

#[test]
fn sec_4_4_who_does_not_offer_is_not_asked() {
    let scene = Scene::open();
    let answer = scene.register(&scene.phone, "anna");
    assert_eq!(of_via(&answer, "keep"), None, "{answer:?}");
}

#[test]
fn sec_4_4_a_refusal_negotiates_nothing() {
    let scene = Scene::open();
    let via = format!("{};keep", tests::sip::request::via(&scene.phone, "z9hG4bKkeep"));
    let register = Request::register("anna", DOMAIN, &scene.phone)
        .set("Via", &via)
        .set("To", "<sip:a@elsewhere.example>");
    let answer = scene.ask(&scene.phone, &register.message());
    assert!(answer.status() >= Some(400), "{answer:?}");
    assert_eq!(of_via(&answer, "keep").as_deref(), Some(""), "as it came: {answer:?}");
}

#[test]
fn sec_4_3_a_device_that_keeps_its_path_alive_is_not_prompted() {
    let why = "this asks for sipnat's tables";
    let everyone = "[sip.paths]\neveryone = true\n";
    let Some(scene) = Scene::sipnat(why, |config| config.toml(everyone)) else {
        return;
    };
    let via = format!("{};keep", tests::sip::request::via(&scene.phone, "z9hG4bKkeep"));
    let register = Request::register("anna", DOMAIN, &scene.phone).set("Via", &via);
    assert_eq!(scene.ask(&scene.phone, &register.message()).status(), Some(200));
    scene.register(&scene.second, "berta");
    let prompt = |endpoint| scene.sipnat_server().path_to(endpoint).unwrap()["prompt"].clone();
    assert_eq!(prompt(scene.phone.endpoint), "off");
    assert_eq!(prompt(scene.second.endpoint), "options");
}

//! RFC 3327: Path.

use tests::sip::message::Message;
use tests::sip::request::Request;

use crate::scene::{ANNA, QUIET, Scene, is};

/// A REGISTER that has come through the second peer, which is an edge proxy.
fn through_an_edge(scene: &Scene) -> Request {
    Request::register("anna", "net.com", &scene.phone)
        .first(
            "Via",
            &format!("SIP/2.0/UDP {};branch=z9hG4bKedge", scene.second.endpoint),
        )
        .add("Path", &path(scene))
}

fn path(scene: &Scene) -> String {
    format!("<sip:edge@{};lr>,<sip:inner.example;lr>", scene.second.endpoint)
}

fn ask(scene: &Scene, request: &Request) -> Message {
    scene.ask(&scene.second, &request.message())
}

#[test]
fn sec_5_3_the_path_is_returned() {
    let scene = Scene::open();
    let answer = ask(&scene, &through_an_edge(&scene).add("Supported", "path"));
    assert_eq!(answer.status(), Some(200), "{answer:?}");
    assert_eq!(answer.headers("Path").join(",").replace(", ", ","), path(&scene));
}

#[test]
fn sec_5_4_the_path_is_the_route_of_requests() {
    let scene = Scene::open();
    let answer = ask(&scene, &through_an_edge(&scene).add("Supported", "path"));
    assert_eq!(answer.status(), Some(200), "{answer:?}");
    let request = Request::new("MESSAGE", ANNA, &scene.caller).message();
    scene.send(&scene.caller, &request);
    let came = scene.arrived(&scene.second, &request);
    assert_eq!(came.request_uri(), format!("sip:anna@{}", scene.phone.endpoint));
    assert_eq!(came.headers("Route").join(",").replace(", ", ","), path(&scene));
    scene.phone.nothing(QUIET, is("MESSAGE")).unwrap();
}

#[test]
fn sec_5_3_a_path_that_the_device_does_not_know_of_is_answered_with_420() {
    let scene = Scene::open();
    let answer = ask(&scene, &through_an_edge(&scene));
    if answer.status() == Some(200) {
        return tests::router::not_met("RECOMMENDED policy: it is accepted although the device does not support Path");
    }
    assert_eq!(
        (answer.status(), answer.header("Unsupported").as_str()),
        (Some(420), "path"),
        "{answer:?}"
    );
}

#[test]
fn sec_5_2_an_outbound_proxy_puts_itself_into_the_path() {
    let why = "the lab's kamailio has no role of an outbound proxy";
    let Some(scene) = Scene::sipnat(why, |config| config.role("outbound")) else {
        return;
    };
    // The registrar is a peer.
    let registrar = format!("sip:{}", scene.second.endpoint);
    let register = Request::register("anna", "net.com", &scene.phone)
        .line(&format!("REGISTER {registrar} SIP/2.0"))
        .set("To", &format!("<sip:anna@{}>", scene.second.endpoint.ip()))
        .add("Supported", "path")
        .message();
    scene.send(&scene.phone, &register);
    let came = scene.arrived(&scene.second, &register);
    let path = came.header("Path");
    assert!(
        path.contains(&scene.endpoint().to_string()) && path.contains(";lr"),
        "{came:?}"
    );
    // Not altered in the response.
    let line = format!("Path: {path}");
    let contact = format!("Contact: {};expires=300", came.header("Contact"));
    scene.send(&scene.second, &came.reply(200, "OK", &[&line, &contact], ""));
    let answer = scene.final_of(&scene.phone, &register);
    assert_eq!(answer.header("Path"), path);
}

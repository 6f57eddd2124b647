//! RFC 6026: 2xx responses to INVITE.

use tests::sip::message::Message;
use tests::sip::request::{Dialog, Request};

use crate::scene::{ANNA, Scene, is};

fn ok_again(scene: &Scene) {
    let ok = |message: &Message| message.status() == Some(200) && message.header("CSeq") == "1 INVITE";
    scene.caller.recv_where("the 200 again", ok).unwrap();
}

#[test]
fn sec_7_1_an_invite_that_comes_again_after_the_2xx_rings_nobody() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let call = scene.call();
    scene.send(&scene.caller, &call.sent);
    let anew = |message: &Message| is("INVITE")(message) && message.branch() != call.came.branch();
    scene.nothing_came("anna", &scene.phone, anew);
}

#[test]
fn sec_7_1_a_2xx_that_comes_again_passes_again() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let call = scene.call();
    for _ in 0..2 {
        scene.send(&scene.phone, &call.given);
        ok_again(&scene);
    }
}

#[test]
fn sec_7_1_the_proxy_does_not_send_2xx_again_by_itself() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    scene.call();
    let ok = |message: &Message| message.status() == Some(200) && message.header("CSeq") == "1 INVITE";
    scene
        .caller
        .nothing(std::time::Duration::from_millis(1800), ok)
        .unwrap();
}

#[test]
fn sec_7_1_every_ack_of_a_2xx_passes() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let call = scene.call();
    let caller = Dialog::of_caller(&call.sent, &call.ok, &scene.caller);
    for _ in 0..2 {
        let ack = caller.request("ACK", 1).message();
        scene.send(&scene.caller, &ack);
        scene.arrived(&scene.phone, &ack);
    }
}

#[test]
fn sec_7_2_the_proxy_does_not_acknowledge_a_2xx_itself() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    scene.call();
    scene.nothing_came("anna", &scene.phone, is("ACK"));
}

#[test]
fn sec_8_9_a_2xx_without_a_transaction_is_not_passed_on() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let call = scene.call();
    let stray = call.given.head().replacen(&call.came.branch(), "z9hG4bKstray", 1);
    scene.send(
        &scene.phone,
        &Message::new(stray.replacen("200 OK", "200 Stray", 1)).unwrap(),
    );
    // What comes after it has come through.
    scene.send(&scene.phone, &call.given);
    ok_again(&scene);
    let stray = |message: &Message| message.start_line().ends_with("Stray");
    scene.caller.nothing(std::time::Duration::ZERO, stray).unwrap();
}

#[test]
fn sec_8_9_a_2xx_of_another_phone_after_the_first_passes() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let invite = Request::new("INVITE", ANNA, &scene.caller);
    let came = scene.pass(&invite);
    for tag in ["first", "second"] {
        let contact = format!("Contact: <sip:anna@{}>", scene.phone.endpoint);
        let ok = came
            .reply(200, "OK", &[&contact], "")
            .head()
            .replace(";tag=peer", &format!(";tag={tag}"));
        scene.send(&scene.phone, &Message::new(ok).unwrap());
        let wanted = |message: &Message| message.status() == Some(200) && message.tag("To").as_deref() == Some(tag);
        scene.caller.recv_where("the 200", wanted).unwrap();
    }
}

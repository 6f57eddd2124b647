//! RFC 3262 (reliable provisional responses), and other extensions that are between the ends: they pass.

use tests::sip::message::Message;
use tests::sip::request::{Dialog, Request};

use crate::scene::{ANNA, Scene, unchanged};

#[test]
fn sec_3_reliable_provisional_responses_and_their_prack_pass() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let invite = Request::new("INVITE", ANNA, &scene.caller).add("Require", "100rel");
    let came = scene.pass(&invite);
    assert_eq!(came.header("Require"), "100rel");
    let contact = format!("Contact: <sip:anna@{}>", scene.phone.endpoint);
    let lines = [
        &*contact,
        "Require: 100rel",
        "RSeq: 813520",
        "Content-Type: application/sdp",
    ];
    let given = came.reply(183, "Session Progress", &lines, "v=0\r\n");
    scene.send(&scene.phone, &given);
    let (progress, _) = scene
        .caller
        .recv_where("183", |message| message.status() == Some(183))
        .unwrap();
    assert_eq!(unchanged(&progress), unchanged(&given));
    let caller = Dialog::of_caller(&invite.message(), &progress, &scene.caller);
    let prack = caller.request("PRACK", 2).add("RAck", "813520 1 INVITE").message();
    scene.send(&scene.caller, &prack);
    let came = scene.arrived(&scene.phone, &prack);
    assert_eq!(unchanged(&came), unchanged(&prack));
    scene.reply(&scene.phone, &came, 200, "OK");
    assert_eq!(scene.final_of(&scene.caller, &prack).status(), Some(200));
}

/// A request of this method within a call, from the caller, passes unchanged, and so does its response.
fn passes_in_a_call(method: &str, lines: &[(&str, &str)]) {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let call = scene.call();
    let caller = Dialog::of_caller(&call.sent, &call.ok, &scene.caller);
    let request = lines
        .iter()
        .fold(caller.request(method, 2), |request, (name, value)| {
            request.add(name, value)
        })
        .message();
    scene.send(&scene.caller, &request);
    let came = scene.arrived(&scene.phone, &request);
    assert_eq!(unchanged(&came), unchanged(&request));
    let given = came.reply(202, "Accepted", &["X-More: 1"], "");
    scene.send(&scene.phone, &given);
    let answer: Message = scene.final_of(&scene.caller, &request);
    assert_eq!(unchanged(&answer), unchanged(&given));
}

#[test]
fn rfc3311_sec_5_an_update_passes() {
    passes_in_a_call("UPDATE", &[("Session-Expires", "1800;refresher=uac")]);
}

#[test]
fn rfc3515_sec_2_a_refer_passes() {
    passes_in_a_call(
        "REFER",
        &[
            ("Refer-To", "<sip:x@192.0.2.9?Replaces=1%402>"),
            ("Referred-By", CALLER),
        ],
    );
}

const CALLER: &str = "<sip:caller@elsewhere.example>";

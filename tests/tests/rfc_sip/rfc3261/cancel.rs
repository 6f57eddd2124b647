//! RFC 3261 sections 9 and 16.10: CANCEL.

use tests::router::not_met;
use tests::sip::message::Message;
use tests::sip::request::{Request, cancel};

use crate::scene::{ANNA, QUIET, Scene, is};

/// An INVITE as it was sent and as it came to the phone, which has not said anything.
fn ringing(scene: &Scene) -> (Message, Message) {
    scene.register(&scene.phone, "anna");
    let invite = Request::new("INVITE", ANNA, &scene.caller);
    let came = scene.pass(&invite);
    (invite.message(), came)
}

fn rings(scene: &Scene, came: &Message) {
    scene.send(&scene.phone, &came.reply(180, "Ringing", &[], ""));
    scene
        .caller
        .recv_where("180", |message| message.status() == Some(180))
        .unwrap();
}

fn answer_to_cancel(scene: &Scene) -> Message {
    let wanted = |message: &Message| message.status().is_some() && message.header("CSeq").ends_with("CANCEL");
    scene.caller.recv_where("the answer to CANCEL", wanted).unwrap().0
}

#[test]
fn sec_16_10_a_cancel_is_answered_here_and_goes_on_hop_by_hop() {
    let scene = Scene::open();
    let (invite, came) = ringing(&scene);
    rings(&scene, &came);
    scene.send(&scene.caller, &cancel(&invite));
    assert_eq!(answer_to_cancel(&scene).status(), Some(200));
    let (further, _) = scene.phone.recv_request("CANCEL").unwrap();
    assert_eq!(
        (further.branch(), further.request_uri(), further.cseq()),
        (came.branch(), came.request_uri(), came.cseq()),
        "section 9.1: it is the INVITE's"
    );
    assert_eq!(further.headers("Via").len(), 1, "section 9.1: {further:?}");
    scene.send(&scene.phone, &further.reply(200, "OK", &[], ""));
    scene.send(&scene.phone, &came.reply(487, "Request Terminated", &[], ""));
    let answer = scene.final_of(&scene.caller, &invite);
    scene.acknowledge(&invite, &answer);
    assert_eq!(answer.status(), Some(487), "{answer:?}");
}

#[test]
fn sec_9_1_a_cancel_waits_for_a_provisional_response() {
    let scene = Scene::open();
    let (invite, came) = ringing(&scene);
    scene.send(&scene.caller, &cancel(&invite));
    assert_eq!(answer_to_cancel(&scene).status(), Some(200));
    scene.phone.nothing(QUIET, is("CANCEL")).unwrap();
    scene.send(&scene.phone, &came.reply(180, "Ringing", &[], ""));
    let (further, _) = scene.phone.recv_request("CANCEL").unwrap();
    assert_eq!(further.branch(), came.branch());
}

#[test]
fn sec_9_2_a_cancel_after_the_final_response_changes_nothing() {
    let scene = Scene::open();
    let (invite, came) = ringing(&scene);
    scene.reply(&scene.phone, &came, 200, "OK");
    assert_eq!(scene.final_of(&scene.caller, &invite).status(), Some(200));
    scene.send(&scene.caller, &cancel(&invite));
    assert_eq!(answer_to_cancel(&scene).status(), Some(200));
    scene.nothing_came("anna", &scene.phone, is("CANCEL"));
}

#[test]
fn sec_16_10_a_cancel_of_nothing_harms_nobody() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let never_sent = Request::new("INVITE", ANNA, &scene.caller).message();
    scene.send(&scene.caller, &cancel(&never_sent));
    let wanted = |message: &Message| message.status().is_some() && message.header("CSeq").ends_with("CANCEL");
    // Section 16.10 would have it passed on without state, for proxies that might have passed on the INVITE so. These never do.
    match scene.caller.wait(QUIET, wanted).unwrap() {
        None => not_met("section 9.2: it is not answered with 481"),
        Some((answer, _)) => assert_eq!(answer.status(), Some(481), "{answer:?}"),
    }
    scene.nothing_came("anna", &scene.phone, is("CANCEL"));
}

#[test]
fn sec_9_2_a_cancel_of_another_branch_cancels_nothing() {
    let scene = Scene::open();
    let (invite, came) = ringing(&scene);
    rings(&scene, &came);
    let other = cancel(&invite).head().replace("branch=z9hG4bK-", "branch=z9hG4bK-x");
    scene.send(&scene.caller, &Message::new(other).unwrap());
    scene.nothing_came("anna", &scene.phone, is("CANCEL"));
    scene.reply(&scene.phone, &came, 200, "OK");
    assert_eq!(scene.final_of(&scene.caller, &invite).status(), Some(200));
}

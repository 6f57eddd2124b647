//! RFC 3261 section 17: transactions. What takes longer than a test may is shown with a simulated clock in `nat-user`.

use std::time::Duration;

use tests::sip::message::Message;
use tests::sip::request::{Dialog, Request, ack};
use tests::sip::stream::Stream;

use crate::scene::{ANNA, QUIET, Scene, is};

const TIMERS: &str = "this asks for sipnat's setting of T1";

/// With T1 of 100 ms instead of 500, so that 64 of it are 6.4 s.
fn fast() -> Option<Scene> {
    Scene::sipnat(TIMERS, |config| {
        config.toml("[sip.proxy]\nt1 = \"100ms\"\nt2 = \"800ms\"\nt4 = \"500ms\"\n")
    })
}

fn same(first: &Message) -> impl Fn(&Message) -> bool {
    let (branch, method) = (first.branch(), first.method());
    move |message| message.method() == method && message.branch() == branch
}

#[test]
fn sec_17_2_1_a_100_comes_within_200_ms() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    // The phone says nothing: a 100 can only be the proxy's.
    scene.pass(&Request::new("INVITE", ANNA, &scene.caller));
    scene
        .caller
        .recv_where("100", |message| message.status() == Some(100))
        .unwrap();
    scene.nothing_came("anna", &scene.phone, |message| message.status().is_some());
}

#[test]
fn sec_17_2_1_a_100_comes_for_invite_only() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let came = scene.pass(&Request::new("MESSAGE", ANNA, &scene.caller));
    scene
        .caller
        .nothing(QUIET, |message| message.status() == Some(100))
        .unwrap();
    scene.reply(&scene.phone, &came, 200, "OK");
}

#[test]
fn sec_17_1_1_2_an_invite_is_sent_again_until_something_comes() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let came = scene.pass(&Request::new("INVITE", ANNA, &scene.caller));
    for _ in 0..2 {
        scene.phone.recv_where("the INVITE again", same(&came)).unwrap();
    }
    scene.send(&scene.phone, &came.reply(180, "Ringing", &[], ""));
    scene
        .caller
        .recv_where("180", |message| message.status() == Some(180))
        .unwrap();
    // One may have been under way.
    while scene
        .phone
        .wait(Duration::from_millis(200), same(&came))
        .unwrap()
        .is_some()
    {}
    scene.phone.nothing(Duration::from_millis(2500), same(&came)).unwrap();
}

#[test]
fn sec_17_1_1_2_timer_b_ends_an_invite_that_nobody_answers() {
    let Some(scene) = fast() else { return };
    scene.register(&scene.phone, "anna");
    let invite = Request::new("INVITE", ANNA, &scene.caller);
    scene.pass(&invite);
    let answer = scene.final_of(&scene.caller, &invite.message());
    scene.acknowledge(&invite.message(), &answer);
    assert_eq!(answer.status(), Some(408), "{answer:?}");
}

#[test]
fn sec_17_1_1_3_a_refusal_is_acknowledged_hop_by_hop() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let invite = Request::new("INVITE", ANNA, &scene.caller).message();
    scene.send(&scene.caller, &invite);
    let came = scene.arrived(&scene.phone, &invite);
    scene.reply(&scene.phone, &came, 486, "Busy Here");
    let (ack_came, _) = scene.phone.recv_request("ACK").unwrap();
    assert_eq!(
        (ack_came.branch(), ack_came.request_uri(), ack_came.cseq()),
        (came.branch(), came.request_uri(), came.cseq())
    );
    assert_eq!(ack_came.headers("Via").len(), 1, "{ack_came:?}");
    assert_eq!(ack_came.tag("To").as_deref(), Some("peer"));
    assert_eq!(ack_came.header("From"), came.header("From"));
    // The caller's own ACK ends at the proxy.
    let answer = scene.final_of(&scene.caller, &invite);
    assert_eq!(answer.status(), Some(486));
    scene.acknowledge(&invite, &answer);
    scene.nothing_came("anna", &scene.phone, is("ACK"));
}

#[test]
fn sec_17_1_1_2_a_refusal_that_comes_again_is_acknowledged_again() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let came = scene.pass(&Request::new("INVITE", ANNA, &scene.caller));
    for _ in 0..3 {
        scene.reply(&scene.phone, &came, 486, "Busy Here");
        scene.phone.recv_request("ACK").unwrap();
    }
}

#[test]
fn sec_17_1_2_2_another_request_is_sent_again_until_its_final_response() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let request = Request::new("MESSAGE", ANNA, &scene.caller);
    let came = scene.pass(&request);
    for _ in 0..2 {
        scene.phone.recv_where("the MESSAGE again", same(&came)).unwrap();
    }
    scene.reply(&scene.phone, &came, 200, "OK");
    assert_eq!(scene.final_of(&scene.caller, &request.message()).status(), Some(200));
    while scene
        .phone
        .wait(Duration::from_millis(200), same(&came))
        .unwrap()
        .is_some()
    {}
    scene.phone.nothing(Duration::from_millis(4500), same(&came)).unwrap();
}

#[test]
fn sec_17_1_2_2_timer_f_ends_a_request_that_nobody_answers() {
    let Some(scene) = fast() else { return };
    scene.register(&scene.phone, "anna");
    let request = Request::new("MESSAGE", ANNA, &scene.caller);
    scene.pass(&request);
    let answer = scene.final_of(&scene.caller, &request.message());
    assert_eq!(answer.status(), Some(408), "{answer:?}");
}

#[test]
fn sec_17_2_1_an_invite_that_comes_again_gets_the_same_response_and_is_not_passed_on_again() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let invite = Request::new("INVITE", ANNA, &scene.caller);
    let came = scene.pass(&invite);
    scene.send(&scene.phone, &came.reply(180, "Ringing", &[], ""));
    let ringing = |message: &Message| message.status() == Some(180);
    scene.caller.recv_where("180", ringing).unwrap();
    scene.send(&scene.caller, &invite.message());
    scene.caller.recv_where("180 again", ringing).unwrap();
    // Whatever came to the phone is of the one branch.
    scene.nothing_came("anna", &scene.phone, |message| {
        is("INVITE")(message) && !same(&came)(message)
    });
}

#[test]
fn sec_17_2_1_a_refusal_is_sent_again_until_its_ack() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let invite = Request::new("INVITE", ANNA, &scene.caller);
    let came = scene.pass(&invite);
    scene.reply(&scene.phone, &came, 486, "Busy Here");
    let busy = |message: &Message| message.status() == Some(486);
    let (answer, _) = scene.caller.recv_where("486", busy).unwrap();
    for _ in 0..2 {
        scene.caller.recv_where("486 again", busy).unwrap();
    }
    scene.send(&scene.caller, &ack(&invite.message(), &answer));
    while scene.caller.wait(Duration::from_millis(200), busy).unwrap().is_some() {}
    scene.caller.nothing(Duration::from_millis(4500), busy).unwrap();
}

#[test]
fn sec_17_2_2_a_request_that_comes_again_gets_the_same_response() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let request = Request::new("MESSAGE", ANNA, &scene.caller).message();
    scene.send(&scene.caller, &request);
    let came = scene.arrived(&scene.phone, &request);
    scene.send(&scene.phone, &came.reply(299, "Fine", &["X-Once: 1"], ""));
    let first = scene.final_of(&scene.caller, &request);
    let again = scene.ask(&scene.caller, &request);
    assert_eq!(first, again);
    scene.nothing_came("anna", &scene.phone, |message| {
        is("MESSAGE")(message) && message.header("Call-ID") == request.header("Call-ID") && !same(&came)(message)
    });
}

#[test]
fn sec_17_2_2_a_register_that_comes_again_gets_the_same_response() {
    let scene = Scene::open();
    let request = Request::register("anna", "net.com", &scene.phone).message();
    let first = scene.ask(&scene.phone, &request);
    let again = scene.ask(&scene.phone, &request);
    assert_eq!((first.status(), first.tag("To")), (again.status(), again.tag("To")));
    assert_eq!(again.status(), Some(200), "it is no second request: {again:?}");
}

#[test]
fn sec_17_2_3_branches_without_the_cookie_are_matched_as_rfc_2543_did() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let old = |cseq: u32| {
        let via = format!("SIP/2.0/UDP {}", scene.caller.endpoint);
        Request::new("MESSAGE", ANNA, &scene.caller)
            .set("Via", &via)
            .set("Call-ID", "old")
            .set("From", "<sip:caller@elsewhere.example>;tag=old")
            .set("CSeq", &format!("{cseq} MESSAGE"))
            .message()
    };
    let (first, second) = (old(1), old(2));
    scene.send(&scene.caller, &first);
    let came = scene.arrived(&scene.phone, &first);
    scene.reply(&scene.phone, &came, 200, "OK");
    let answer = scene.caller.recv_final("the 200").unwrap();
    assert_eq!(answer.cseq(), 1);
    // The next request is another transaction, a copy is not.
    scene.send(&scene.caller, &first);
    assert_eq!(scene.caller.recv_final("the 200 again").unwrap().cseq(), 1);
    scene.send(&scene.caller, &second);
    let wanted = |message: &Message| is("MESSAGE")(message) && message.cseq() == 2;
    let (came, _) = scene.phone.recv_where("the second MESSAGE", wanted).unwrap();
    scene.reply(&scene.phone, &came, 200, "OK");
    assert_eq!(scene.caller.recv_final("the second 200").unwrap().cseq(), 2);
}

#[test]
fn sec_17_1_3_a_response_to_nothing_is_not_passed_on() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let request = Request::new("MESSAGE", ANNA, &scene.caller);
    let came = scene.pass(&request);
    let forged = came.reply(200, "Forged", &[], "");
    let forged = forged.head().replacen(&came.branch(), "z9hG4bKnobodys", 1);
    scene.send(&scene.phone, &Message::new(forged).unwrap());
    scene.reply(&scene.phone, &came, 200, "OK");
    let answer = scene.final_of(&scene.caller, &request.message());
    assert_eq!(answer.start_line(), "SIP/2.0 200 OK");
}

#[test]
fn sec_17_1_1_2_nothing_is_sent_again_on_a_stream() {
    let scene = Scene::open();
    let mut phone = Stream::connect(scene.lab.o(2), scene.endpoint()).unwrap();
    phone
        .send(Request::register("anna", "net.com", &phone).message().bytes())
        .unwrap();
    assert_eq!(phone.recv_final("the 200").unwrap().status(), Some(200));
    let request = Request::new("INVITE", ANNA, &scene.caller).message();
    scene.send(&scene.caller, &request);
    let came = phone.recv_where("the INVITE", is("INVITE")).unwrap();
    // T1 and 2 T1 pass, which is when it would be sent again.
    std::thread::sleep(Duration::from_millis(1800));
    let next = Request::new("MESSAGE", ANNA, &scene.caller).message();
    scene.send(&scene.caller, &next);
    let second = phone.recv("what follows").unwrap();
    assert_eq!(second.method().as_deref(), Some("MESSAGE"), "{second:?}");
    phone.send(came.reply(486, "Busy Here", &[], "").bytes()).unwrap();
    phone.recv_where("the ACK", is("ACK")).unwrap();
}

#[test]
fn sec_12_2_a_re_invite_is_a_transaction_of_its_own() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let call = scene.call();
    let caller = Dialog::of_caller(&call.sent, &call.ok, &scene.caller);
    scene.send(&scene.caller, &caller.request("ACK", 1).message());
    let again = caller.request("INVITE", 2).message();
    scene.send(&scene.caller, &again);
    let wanted = |message: &Message| is("INVITE")(message) && message.cseq() == 2;
    let (came, _) = scene.phone.recv_where("the re-INVITE", wanted).unwrap();
    assert_eq!(came.tag("To").as_deref(), Some("peer"));
    scene.reply(&scene.phone, &came, 200, "OK");
    let wanted = |message: &Message| message.status() == Some(200) && message.header("CSeq") == "2 INVITE";
    scene.caller.recv_where("the 200 of the re-INVITE", wanted).unwrap();
}

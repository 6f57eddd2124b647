//! RFC 3665: the flows of section 2 (registration) and of section 3 (calls) that one proxy takes part in, message by message. Two proxies are in
//! `rfc3261::proxy` and, with the RFC's own messages, in `nat-user`.

use tests::sip::message::Message;
use tests::sip::request::{Dialog, Request, cancel};

use crate::digest::Credentials;
use crate::scene::{ANNA, DOMAIN, SECRET, Scene, contacts, is};

/// The steps of section 2 with one nonce.
struct Registering {
    scene: Scene,
    cseq: u32,
    credentials: Credentials,
}

impl Registering {
    fn new() -> Self {
        let scene = Scene::closed();
        let challenge = scene.ask(&scene.phone, &request(&scene, 1).message());
        assert_eq!(challenge.status(), Some(401), "F2: {challenge:?}");
        let mut credentials = Credentials::answer(&challenge, SECRET, "REGISTER", "sip:net.com");
        credentials.nc = 0;
        Self {
            scene,
            cseq: 1,
            credentials,
        }
    }

    fn ask(&mut self, change: impl FnOnce(Request) -> Request) -> Message {
        self.cseq += 1;
        self.credentials.nc += 1;
        let request = change(request(&self.scene, self.cseq)).add("Authorization", &self.credentials.header());
        self.scene.ask(&self.scene.phone, &request.message())
    }
}

fn request(scene: &Scene, cseq: u32) -> Request {
    Request::register(SECRET.0, DOMAIN, &scene.phone)
        .set("Call-ID", "1j9FpLxk3uxtm8tn@biloxi.example.com")
        .set("CSeq", &format!("{cseq} REGISTER"))
}

#[test]
fn sec_2_1_to_2_4_registering_updating_asking_and_cancelling() {
    let mut phone = Registering::new();
    let answer = phone.ask(|request| request);
    assert_eq!(
        (answer.status(), contacts(&answer).len()),
        (Some(200), 1),
        "2.1: {answer:?}"
    );
    let answer = phone.ask(|request| request.set("Contact", "mailto:bob@biloxi.example.com"));
    let both = contacts(&answer);
    assert_eq!((answer.status(), both.len()), (Some(200), 2), "2.2: {answer:?}");
    assert!(
        both.iter()
            .any(|contact| contact.contains("mailto:bob@biloxi.example.com"))
    );
    let answer = phone.ask(|request| request.without("Contact"));
    assert_eq!(
        (answer.status(), contacts(&answer).len()),
        (Some(200), 2),
        "2.3: {answer:?}"
    );
    let answer = phone.ask(|request| request.set("Contact", "*").add("Expires", "0"));
    assert_eq!(
        (answer.status(), contacts(&answer).len()),
        (Some(200), 0),
        "2.4: {answer:?}"
    );
}

#[test]
fn sec_2_5_an_unsuccessful_registration() {
    let mut phone = Registering::new();
    phone.credentials.password = "wrong".into();
    let answer = phone.ask(|request| request);
    assert_eq!(answer.status(), Some(401), "{answer:?}");
    phone.credentials.password = SECRET.1.into();
    let answer = phone.ask(|request| request.without("Contact"));
    assert_eq!((answer.status(), contacts(&answer).len()), (Some(200), 0), "{answer:?}");
}

#[test]
fn sec_3_2_a_successful_session() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let invite = Request::new("INVITE", ANNA, &scene.caller).body("application/sdp", "v=0\r\n");
    let came = scene.pass(&invite);
    scene
        .caller
        .recv_where("100", |message| message.status() == Some(100))
        .unwrap();
    let contact = format!("Contact: <sip:anna@{}>", scene.phone.endpoint);
    scene.send(&scene.phone, &came.reply(180, "Ringing", &[&contact], ""));
    scene
        .caller
        .recv_where("180", |message| message.status() == Some(180))
        .unwrap();
    let lines = [&*contact, "Content-Type: application/sdp"];
    let given = came.reply(200, "OK", &lines, "v=0\r\na=answer\r\n");
    scene.send(&scene.phone, &given);
    let ok = scene.final_of(&scene.caller, &invite.message());
    assert_eq!((ok.status(), ok.body()), (Some(200), given.body()));
    let caller = Dialog::of_caller(&invite.message(), &ok, &scene.caller);
    let ack = caller.request("ACK", 1).message();
    scene.send(&scene.caller, &ack);
    scene.arrived(&scene.phone, &ack);
    let phone = Dialog::of_callee(&came, &given, &scene.phone);
    let bye = phone.request("BYE", 1).message();
    scene.send(&scene.phone, &bye);
    let came = scene.arrived(&scene.caller, &bye);
    scene.reply(&scene.caller, &came, 200, "OK");
    assert_eq!(scene.final_of(&scene.phone, &bye).status(), Some(200));
}

#[test]
fn sec_3_3_a_session_that_is_challenged() {
    let why = "the lab's kamailio challenges REGISTER only";
    let Some(scene) = Scene::sipnat(why, |config| {
        config.user(SECRET.0, SECRET.1).line("trusted = [\"203.0.113.101/32\"]")
    }) else {
        return;
    };
    // The phone is a trusted gateway, and the caller our user.
    scene.register(&scene.phone, "berta");
    let invite = || {
        Request::new("INVITE", "sip:berta@net.com", &scene.caller)
            .set("From", "<sip:anna@net.com>;tag=9fxced76sl")
            .set("Call-ID", "multiple")
    };
    let first = invite().message();
    let challenge = scene.ask(&scene.caller, &first);
    assert_eq!(challenge.status(), Some(407), "F2: {challenge:?}");
    scene.acknowledge(&first, &challenge);
    // Further on, another proxy asks too; the caller then sends both.
    let mut own = Credentials::answer(&challenge, SECRET, "INVITE", "sip:berta@net.com");
    let second = invite()
        .set("CSeq", "2 INVITE")
        .add("Proxy-Authorization", &own.header())
        .message();
    scene.send(&scene.caller, &second);
    let came = scene.arrived(&scene.phone, &second);
    let theirs = "Proxy-Authenticate: Digest realm=\"biloxi.example.com\", nonce=\"n\"";
    scene.send(
        &scene.phone,
        &came.reply(407, "Proxy Authorization Required", &[theirs], ""),
    );
    let wanted = |message: &Message| message.status() == Some(407) && message.cseq() == 2;
    let (challenge, _) = scene.caller.recv_where("the 407 of the other", wanted).unwrap();
    assert_eq!(challenge.headers("Proxy-Authenticate").len(), 1, "{challenge:?}");
    scene.acknowledge(&second, &challenge);
    own.nc = 2;
    let other = "Digest username=\"anna\", realm=\"biloxi.example.com\", nonce=\"n\", uri=\"u\", response=\"0\"";
    let third = invite()
        .set("CSeq", "3 INVITE")
        .add("Proxy-Authorization", &own.header())
        .add("Proxy-Authorization", other)
        .message();
    scene.send(&scene.caller, &third);
    let wanted = |message: &Message| is("INVITE")(message) && message.cseq() == 3;
    let (came, _) = scene.phone.recv_where("the third INVITE", wanted).unwrap();
    assert_eq!(came.headers("Proxy-Authorization"), [other]);
    scene.reply(&scene.phone, &came, 200, "OK");
    let wanted = |message: &Message| message.status() == Some(200) && message.cseq() == 3;
    scene.caller.recv_where("the 200", wanted).unwrap();
}

#[test]
fn sec_3_7_a_re_invite_with_another_address() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let call = scene.call();
    let phone = Dialog::of_callee(&call.came, &call.given, &scene.phone);
    // The phone has moved to the second host.
    let moved = format!("<sip:anna@{}>", scene.second.endpoint);
    let again = phone
        .request("INVITE", 14)
        .set("Via", &tests::sip::request::via(&scene.second, "z9hG4bKmoved"))
        .set("Contact", &moved)
        .message();
    scene.send(&scene.second, &again);
    let came = scene.arrived(&scene.caller, &again);
    assert_eq!(came.header("Contact"), moved);
    let given = came.reply(
        200,
        "OK",
        &[&format!("Contact: <sip:caller@{}>", scene.caller.endpoint)],
        "",
    );
    scene.send(&scene.caller, &given);
    assert_eq!(scene.final_of(&scene.second, &again).status(), Some(200));
    let caller = Dialog {
        target: format!("sip:anna@{}", scene.second.endpoint),
        ..Dialog::of_caller(&call.sent, &call.ok, &scene.caller)
    };
    let bye = caller.request("BYE", 2).message();
    scene.send(&scene.caller, &bye);
    scene.arrived(&scene.second, &bye);
}

#[test]
fn sec_3_8_no_answer() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let invite = Request::new("INVITE", ANNA, &scene.caller);
    let came = scene.pass(&invite);
    scene.send(&scene.phone, &came.reply(180, "Ringing", &[], ""));
    scene
        .caller
        .recv_where("180", |message| message.status() == Some(180))
        .unwrap();
    let cancelling = cancel(&invite.message());
    assert_eq!(scene.ask(&scene.caller, &cancelling).status(), Some(200), "F10");
    let (further, _) = scene.phone.recv_request("CANCEL").unwrap();
    scene.send(&scene.phone, &further.reply(200, "OK", &[], ""));
    scene.send(&scene.phone, &came.reply(487, "Request Terminated", &[], ""));
    scene.phone.recv_request("ACK").unwrap();
    let answer = scene.final_of(&scene.caller, &invite.message());
    assert_eq!(answer.status(), Some(487));
    scene.acknowledge(&invite.message(), &answer);
}

/// The phone refuses with this, after it has rung.
fn refused(code: u16, reason: &str) {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let invite = Request::new("INVITE", ANNA, &scene.caller);
    let came = scene.pass(&invite);
    scene.send(&scene.phone, &came.reply(180, "Ringing", &[], ""));
    scene.reply(&scene.phone, &came, code, reason);
    scene.phone.recv_request("ACK").unwrap();
    let answer = scene.final_of(&scene.caller, &invite.message());
    assert_eq!(answer.start_line(), format!("SIP/2.0 {code} {reason}"));
    scene.acknowledge(&invite.message(), &answer);
}

#[test]
fn sec_3_9_busy() {
    refused(486, "Busy Here");
}

#[test]
fn sec_3_11_temporarily_unavailable() {
    refused(480, "Temporarily Unavailable");
}

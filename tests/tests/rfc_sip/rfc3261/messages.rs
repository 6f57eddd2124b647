//! RFC 3261 sections 7, 8.2, 11, 19 and 25: how messages are read and answered.

use tests::sip::message::Message;
use tests::sip::peer::Peer;
use tests::sip::request::Request;

use crate::scene::{ANNA, Scene, unchanged};

/// A MESSAGE of literal lines, with an empty body.
fn literal(scene: &Scene, lines: &[&str]) -> Message {
    let own = scene.caller.endpoint.to_string();
    let text: String = lines.iter().map(|line| line.replace("OWN", &own) + "\r\n").collect();
    Message::new(format!("{text}\r\n")).unwrap()
}

/// The phone gets it with nothing changed but what a proxy changes.
fn passes_unchanged(lines: &[&str]) {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let sent = literal(&scene, lines);
    scene.send(&scene.caller, &sent);
    let came = scene
        .phone
        .recv_where("the MESSAGE", |message| message.method().is_some());
    let came = came.unwrap().0;
    assert_eq!(unchanged(&came), unchanged(&sent));
    assert_eq!(came.headers("Via").len(), 2, "{came:?}");
    scene.reply(&scene.phone, &came, 200, "OK");
    let answer = scene.caller.recv_final("the 200").unwrap();
    assert_eq!(
        (answer.status(), answer.headers("Via").len()),
        (Some(200), 1),
        "{answer:?}"
    );
}

#[test]
fn sec_7_1_a_method_that_nobody_knows_passes() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let came = scene.pass(&Request::new("FROBNICATE", ANNA, &scene.caller));
    scene.reply(&scene.phone, &came, 200, "OK");
    assert_eq!(scene.caller.recv_final("the 200").unwrap().status(), Some(200));
}

#[test]
fn sec_7_3_1_names_in_any_case_and_space_before_the_colon() {
    passes_unchanged(&[
        "MESSAGE sip:anna@net.com SIP/2.0",
        "VIA : SIP/2.0/UDP OWN;branch=z9hG4bKcase;rport",
        "mAX-fORWARDS: 70",
        "FROM: <sip:caller@elsewhere.example>;TAG=1",
        "to\t: <sip:anna@net.com>",
        "call-id: case",
        "CSEQ: 1 MESSAGE",
        "x-UNKNOWN :   value",
        "cONTENT-lENGTH: 0",
    ]);
}

#[test]
fn sec_7_3_1_folded_lines() {
    passes_unchanged(&[
        "MESSAGE sip:anna@net.com SIP/2.0",
        "Via: SIP/2.0/UDP",
        "  OWN",
        " ;branch=z9hG4bKfold;rport",
        "Max-Forwards:",
        "  70",
        "From: \"A",
        " name\" <sip:caller@elsewhere.example>;",
        "\ttag=1",
        "To:",
        " <sip:anna@net.com>",
        "Call-ID: folded",
        "CSeq: 1",
        "  MESSAGE",
        "Subject: I know you're there,",
        "  pick up the phone",
        "   and answer!",
        "Content-Length: 0",
    ]);
}

#[test]
fn sec_7_3_3_compact_forms() {
    passes_unchanged(&[
        "MESSAGE sip:anna@net.com SIP/2.0",
        "v: SIP/2.0/UDP OWN;branch=z9hG4bKcompact;rport",
        "Max-Forwards: 70",
        "f: <sip:caller@elsewhere.example>;tag=1",
        "t: <sip:anna@net.com>",
        "i: compact",
        "CSeq: 1 MESSAGE",
        "m: <sip:caller@OWN>",
        "s: compact",
        "k: timer",
        "e: identity",
        "c: text/plain",
        "l: 0",
    ]);
}

#[test]
fn sec_7_3_1_several_values_in_one_line_or_in_many() {
    let scene = Scene::open();
    let register = Request::register("anna", "net.com", &scene.phone)
        .set(
            "Contact",
            "\"A, B\" <sip:a,x@203.0.113.101>;q=0.5, <sip:b@203.0.113.101>",
        )
        .add("m", "sip:c@203.0.113.101");
    let answer = scene.ask(&scene.phone, &register.message());
    assert_eq!(answer.status(), Some(200), "{answer:?}");
    let text = scene.contacts("anna").join("\n");
    for contact in ["sip:a,x@203.0.113.101", "sip:b@203.0.113.101", "sip:c@203.0.113.101"] {
        assert!(text.contains(contact), "{contact}: {text}");
    }
    // A response finds its way through Vias that share a line.
    scene.register(&scene.phone, "berta");
    let via = format!(
        "SIP/2.0/UDP {};branch=z9hG4bKone, SIP/2.0/TCP first.example;branch=z9hG4bKtwo",
        scene.caller.endpoint
    );
    let request = Request::new("MESSAGE", "sip:berta@net.com", &scene.caller).set("Via", &via);
    let came = scene.pass(&request);
    scene.reply(&scene.phone, &came, 200, "OK");
    let answer = scene.final_of(&scene.caller, &request.message());
    let vias = answer.headers("Via").join(", ");
    let (one, two) = (vias.find("z9hG4bKone"), vias.find("z9hG4bKtwo"));
    assert!(one.is_some() && one < two, "{answer:?}");
}

#[test]
fn sec_8_2_6_2_responses_have_a_to_tag_and_the_same_one_for_copies() {
    let scene = Scene::open();
    let request = Request::new("MESSAGE", "sip:nobody@net.com", &scene.caller).message();
    let answer = scene.ask(&scene.caller, &request);
    assert_eq!(answer.status(), Some(404), "{answer:?}");
    let tag = answer.tag("To").expect("a tag");
    for name in ["From", "Call-ID", "CSeq"] {
        assert_eq!(answer.header(name), request.header(name));
    }
    assert_eq!(answer.branch(), request.branch());
    let again = scene.ask(&scene.caller, &request);
    assert_eq!((again.status(), again.tag("To")), (Some(404), Some(tag)));
}

#[test]
fn sec_8_2_6_1_a_100_copies_the_timestamp_and_has_no_to_tag_of_ours() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let invite = Request::new("INVITE", ANNA, &scene.caller).add("Timestamp", "54.21");
    scene.pass(&invite);
    let (trying, _) = scene
        .caller
        .recv_where("100", |message| message.status() == Some(100))
        .unwrap();
    assert_eq!(trying.tag("To"), None, "section 17.2.1");
    let copied = trying
        .headers("Timestamp")
        .first()
        .is_some_and(|value| value.starts_with("54.21"));
    assert!(copied, "{trying:?}");
}

#[test]
fn sec_11_2_options_for_the_server_itself() {
    let scene = Scene::open();
    let uri = format!("sip:{}", scene.endpoint());
    let answer = scene.ask(&scene.caller, &Request::new("OPTIONS", &uri, &scene.caller).message());
    assert_eq!(answer.status(), Some(200), "{answer:?}");
    let missing: Vec<&str> = ["Allow", "Accept", "Supported"]
        .into_iter()
        .filter(|name| answer.headers(name).is_empty())
        .collect();
    if !missing.is_empty() {
        tests::router::not_met(&format!("a SHOULD: the 200 has no {}", missing.join(", ")));
    }
}

#[test]
fn sec_19_1_4_escaped_users_are_the_same_users() {
    let scene = Scene::open();
    let register =
        Request::register("%61n%6Ea", "net.com", &scene.phone).set("Contact", "<sip:anna@203.0.113.101:5060>");
    assert_eq!(scene.ask(&scene.phone, &register.message()).status(), Some(200));
    let came = scene.pass(&Request::new("MESSAGE", "sip:ann%61@NET.com", &scene.caller));
    assert_eq!(came.request_uri(), "sip:anna@203.0.113.101:5060");
}

/// What is wrong is answered, and the answer can be told from others by Call-ID.
fn refused(change: impl FnOnce(Request, &Peer) -> Request, code: u16) {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let request = change(Request::new("MESSAGE", ANNA, &scene.caller), &scene.caller).message();
    scene.send(&scene.caller, &request);
    let (answer, _) = scene
        .caller
        .recv_where("a refusal", |message| message.status().is_some())
        .unwrap();
    assert_eq!(answer.status(), Some(code), "{answer:?}");
    scene.nothing_came("anna", &scene.phone, |message| {
        message.headers("Call-ID") == request.headers("Call-ID")
    });
}

#[test]
fn sec_16_3_1_a_request_without_what_it_must_have_is_answered_with_400() {
    refused(|request, _| request.without("From"), 400);
}

#[test]
fn sec_8_1_1_5_another_method_in_cseq_is_answered_with_400() {
    refused(|request, _| request.set("CSeq", "1 INFO"), 400);
}

#[test]
fn sec_21_5_6_another_version_is_answered_with_505() {
    refused(|request, _| request.line("MESSAGE sip:anna@net.com SIP/7.0"), 505);
}

#[test]
fn sec_25_a_uri_that_is_none_is_answered_with_400() {
    refused(|request, _| request.line("MESSAGE sip:anna@@net.com:port SIP/2.0"), 400);
}

#[test]
fn sec_7_4_a_binary_body_passes_as_it_is() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let head = Request::new("MESSAGE", ANNA, &scene.caller)
        .add("Content-Type", "application/octet-stream")
        .message();
    let body: Vec<u8> = (0..=255).collect();
    let text = head.head().replace("Content-Length: 0", "Content-Length: 256");
    let sent = Message::new([text.as_bytes(), &body].concat()).unwrap();
    scene.send(&scene.caller, &sent);
    assert_eq!(scene.arrived(&scene.phone, &sent).body(), &body[..]);
}

#[test]
fn sec_25_1_bytes_beyond_ascii_pass_as_they_are() {
    let scene = Scene::open();
    scene.register(&scene.phone, "anna");
    let text = Request::new("MESSAGE", ANNA, &scene.caller)
        .add("Subject", "SUBJECT")
        .message()
        .head();
    let (before, after) = text.split_once("SUBJECT").unwrap();
    // No UTF-8.
    let sent = [before.as_bytes(), b"caf\xe9 \xff\xfe", after.as_bytes()].concat();
    scene.caller.send(scene.endpoint(), &sent).unwrap();
    let came = scene.phone.recv_request("MESSAGE").unwrap().0;
    let found = came.bytes().windows(8).any(|window| window == b"caf\xe9 \xff\xfe\r");
    assert!(found, "{came:?}");
}

//! Overload, in the spirit of RFC 7339: what is refused first, and what never.

use tests::sip::message::Message;
use tests::sip::request::{Request, cancel};

use crate::scene::{ANNA, DOMAIN, Scene};

const SETTING: &str = "this asks for sipnat's limit of transactions";

/// A scene with this many calls ringing, of a hundred transactions that there may be.
fn busy(calls: u32) -> Option<(Scene, Vec<Message>)> {
    let scene = Scene::sipnat(SETTING, |config| {
        config.toml("[sip.limits]\ntransactions = 100\nrate_per_source = \"10000/s\"\nburst_per_source = 10000\n")
    })?;
    scene.register(&scene.phone, "anna");
    let calls = (0..calls)
        .map(|_| {
            let invite = Request::new("INVITE", ANNA, &scene.caller);
            let came = scene.pass(&invite);
            scene.send(&scene.phone, &came.reply(180, "Ringing", &[], ""));
            // Read at once: a socket has room for about two hundred datagrams.
            let invite = invite.message();
            let rings = |message: &Message| {
                message.status() == Some(180) && message.header("Call-ID") == invite.header("Call-ID")
            };
            scene.caller.recv_where("180", rings).unwrap();
            invite
        })
        .collect();
    Some((scene, calls))
}

fn shed(answer: &Message) {
    assert_eq!(answer.status(), Some(503), "{answer:?}");
    let seconds: u32 = answer.header("Retry-After").parse().unwrap();
    assert!(seconds > 0);
}

#[test]
fn new_registrations_are_shed_first_and_calls_go_on() {
    let Some((scene, _)) = busy(80) else { return };
    shed(&scene.ask(
        &scene.second,
        &Request::register("berta", DOMAIN, &scene.second).message(),
    ));
    scene.pass(&Request::new("INVITE", ANNA, &scene.caller));
}

#[test]
fn new_calls_are_shed_next_and_what_was_begun_never() {
    let Some((scene, calls)) = busy(95) else { return };
    let invite = Request::new("INVITE", ANNA, &scene.caller).message();
    let answer = scene.ask(&scene.caller, &invite);
    scene.acknowledge(&invite, &answer);
    shed(&answer);
    // CANCEL passes, and BYE is not shed: there is no such dialog, which is another answer.
    assert_eq!(scene.ask(&scene.caller, &cancel(&calls[0])).status(), Some(200));
    scene.phone.recv_request("CANCEL").unwrap();
    let bye = Request::new("BYE", ANNA, &scene.caller)
        .set("To", &format!("<{ANNA}>;tag=x"))
        .message();
    scene.send(&scene.caller, &bye);
    scene.arrived(&scene.phone, &bye);
}

#[test]
fn emergency_calls_pass_everything() {
    let Some((scene, _)) = busy(95) else { return };
    let register = Request::register("112", DOMAIN, &scene.second).message();
    // Registrations are shed, so the number must lead somewhere by a call that is answered with anything but 503.
    shed(&scene.ask(&scene.second, &register));
    let invite = Request::new("INVITE", "sip:112@net.com", &scene.caller).message();
    let answer = scene.ask(&scene.caller, &invite);
    scene.acknowledge(&invite, &answer);
    assert_eq!(
        answer.status(),
        Some(404),
        "nobody is there, but it was asked for: {answer:?}"
    );
}

//! The single-proxy steps of S4: which state the path to a device is in, and when it is prompted.

use std::time::Duration;

use tests::prelude::*;
use tests::sip::document::{self, TRANSLATED};
use tests::sip::message::Message;
use tests::sip::peer::Peer;
use tests::sip::phone::Request;
use tests::sip::server::Server;

use crate::DOMAIN;

/// A raw phone behind the masquerade, and a raw caller.
struct Scene {
    server: Server,
    phone: Peer,
    caller: Peer,
    _nat: RunningNat,
    _lab: Lab,
}

/// A tail of 2 s instead of 32 s.
const PATHS: &str = "[sip.paths]\ninterval = \"1s\"\ntail = \"2s\"\n[sip.registrar]\nmin_expires = \"1s\"\nallow_short_expires = true\n";

impl Scene {
    fn new() -> Scene {
        let lab = document::lab().build().unwrap();
        let nat = document::start_nat(&lab, Nat::Nftables, "").unwrap();
        let server = Server::config(DOMAIN).toml(PATHS).start(lab.o(1)).unwrap();
        let (phone, caller) = (Peer::udp(lab.h(1), 5060).unwrap(), Peer::udp(lab.o(2), 5060).unwrap());
        Scene {
            server,
            phone,
            caller,
            _nat: nat,
            _lab: lab,
        }
    }

    fn register(&self, cseq: u32, expires: u32) {
        let contact = format!("Contact: <sip:user@{}>;expires={expires}", self.phone.endpoint);
        let register = Request::register("user", DOMAIN).call("register").cseq(cseq);
        let register = register.line(&contact).over_udp(self.phone.endpoint);
        self.phone.send_message(self.server.endpoint, &register).unwrap();
        let answer = self.phone.recv_final("the 200").unwrap();
        assert_eq!(answer.status(), Some(200), "{answer:?}");
    }

    fn answer_a_prompt(&self) -> Message {
        let (prompt, from) = self.phone.recv_request("OPTIONS").unwrap();
        self.phone
            .send_message(from, &prompt.reply(200, "OK", &[], ""))
            .unwrap();
        prompt
    }

    fn no_prompts(&self) {
        // One that was under way may still come.
        while self.phone.nothing(Duration::from_millis(1500), is_options).is_err() {
            let sent = self.server.path_to(TRANSLATED).map(|path| path["prompts_sent"].clone());
            assert!(
                sent.is_err() || sent.is_ok_and(|sent| sent.as_u64() < Some(50)),
                "prompts go on"
            );
        }
    }
}

fn is_options(message: &Message) -> bool {
    message.method().as_deref() == Some("OPTIONS")
}

/// Registered, in a call, after the call, after the expiry.
#[test]
fn the_states_of_a_path_and_its_prompts() {
    let scene = Scene::new();
    assert_eq!(scene.server.paths().unwrap().len(), 0);
    scene.register(1, 300);
    let path = scene.server.path_becomes(TRANSLATED, "registration").unwrap();
    assert_eq!(
        (&path["registrations"], &path["dialogs"]),
        (&1.into(), &0.into()),
        "{path}"
    );
    assert_eq!(
        (&path["prompt"], &path["behind_nat"]),
        (&"options".into(), &true.into())
    );
    // Two prompts, one after the other.
    let (first, second) = (scene.answer_a_prompt(), scene.answer_a_prompt());
    assert_ne!(first.branch(), second.branch());

    let invite = Request::new("INVITE", "sip:user@net.com").from("caller@net.com");
    let invite = invite.over_udp(scene.caller.endpoint);
    scene.caller.send_message(scene.server.endpoint, &invite).unwrap();
    let (received, from) = scene.phone.recv_request("INVITE").unwrap();
    assert_eq!(
        received.request_uri(),
        "sip:user@192.168.1.10:5060",
        "the contact stays the request URI"
    );
    let contact = format!("Contact: <sip:user@{}>", scene.phone.endpoint);
    scene
        .phone
        .send_message(from, &received.reply(200, "OK", &[&contact], ""))
        .unwrap();
    assert_eq!(scene.caller.recv_final("the 200").unwrap().status(), Some(200));
    scene
        .server
        .path_becomes(TRANSLATED, "dialog-and-registration")
        .unwrap();
    scene.answer_a_prompt();

    // The registration goes, the dialog stays: the device is prompted because it is silent.
    scene.register(2, 0);
    let path = scene.server.path_becomes(TRANSLATED, "dialog").unwrap();
    assert_eq!(
        (&path["registrations"], &path["dialogs"]),
        (&0.into(), &1.into()),
        "{path}"
    );
    scene.answer_a_prompt();
    scene.register(3, 300);
    scene
        .server
        .path_becomes(TRANSLATED, "dialog-and-registration")
        .unwrap();
    scene.register(4, 0);
    scene.server.path_becomes(TRANSLATED, "dialog").unwrap();

    // The phone hangs up; the path is kept for the tail, then nobody holds it.
    let bye = Request::of_callee("BYE", &received).over_udp(scene.phone.endpoint);
    scene.phone.send_message(scene.server.endpoint, &bye).unwrap();
    let (bye, from) = scene.caller.recv_request("BYE").unwrap();
    scene.caller.send_message(from, &bye.reply(200, "OK", &[], "")).unwrap();
    wait_until("nobody to hold the path", SOON, || {
        let path = scene.server.path_to(TRANSLATED);
        path.is_err() || path.is_ok_and(|path| path["state"] == "idle")
    })
    .unwrap();
    scene.no_prompts();
}

#[test]
fn prompting_ends_with_the_registration() {
    let scene = Scene::new();
    scene.register(1, 3);
    scene.answer_a_prompt();
    wait_until("the registration to expire", SOON, || {
        scene.server.registrations().unwrap().is_empty()
    })
    .unwrap();
    scene.no_prompts();
}

//! sipsak as a phone behind a NAT: it registers, and it asks and is asked what a phone can do.

use tests::prelude::*;
use tests::sip::document::{self, PHONE, TRANSLATED};
use tests::sip::peer::Peer;
use tests::sip::server::Server;
use tests::sip::sipsak::sipsak;

use crate::{DOMAIN, PROMPTS};

fn through(nat: Nat) {
    let lab = document::lab().build().unwrap();
    let _nat = document::start_nat(&lab, nat, "").unwrap();
    let config = Server::config(DOMAIN).user("user", "secret").toml(PROMPTS);
    let server = config.start(lab.o(1)).unwrap();
    let (port, ip) = (PHONE.port().to_string(), PHONE.ip().to_string());
    let from_inside = |password: &str, args: &[&str]| {
        let own = ["-S", "-l", &port, "-H", &ip, "-u", "user", "-a", password];
        sipsak(lab.h(1), "user", server.endpoint, &[&own, args].concat()).unwrap()
    };
    // Asked for somebody, the server knows that there is nobody.
    let unknown = from_inside("secret", &[]);
    assert!(unknown.text.contains("SIP/2.0 404"), "{}", unknown.text);

    let wrong = from_inside("wrong", &["-U", "-x", "120"]);
    assert_ne!(wrong.code, Some(0), "{}", wrong.text);
    assert_eq!(server.registrations().unwrap().len(), 0);
    let registered = from_inside("secret", &["-U", "-x", "120"]);
    assert_eq!(registered.code, Some(0), "{}", registered.text);
    let rows = server.registrations().unwrap();
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0]["received"], TRANSLATED.to_string());
    assert_eq!(rows[0]["behind_nat"], true);

    // Asked from outside, what it left behind answers: prompts, and the question that came through the server.
    let phone = Peer::udp(lab.h(1), PHONE.port()).unwrap();
    let question = std::thread::scope(|scope| {
        let question = scope.spawn(|| sipsak(lab.o(2), "user", server.endpoint, &[]).unwrap());
        let is_question = |message: &tests::sip::message::Message| {
            message.method().as_deref() == Some("OPTIONS") && message.headers("Via").len() == 2
        };
        let (asked, from) = phone.recv_where("the question", is_question).unwrap();
        phone
            .send_message(from, &asked.reply(200, "OK", &["Allow: OPTIONS"], ""))
            .unwrap();
        question.join().unwrap()
    });
    assert_eq!(question.code, Some(0), "{}", question.text);
    assert!(question.text.contains("Allow: OPTIONS"), "{}", question.text);
}

#[test]
fn a_phone_behind_sipnat_registers_and_is_asked() {
    through(Nat::Sipnat);
}

#[test]
fn a_phone_behind_a_masquerade_registers_and_is_asked() {
    through(Nat::Nftables);
}

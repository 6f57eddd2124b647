//! Digest authentication with the hashes that no phone of Debian knows (RFC 7616, RFC 8760), and with those of `sipnat user add`.

use std::fs;

use tests::prelude::*;
use tests::programs::TempDir;
use tests::sip::digest::{Algorithm, Challenge};
use tests::sip::message::Message;
use tests::sip::peer::Peer;
use tests::sip::phone::Request;
use tests::sip::server::Server;
use tests::sipnat::binary;

use crate::DOMAIN;

/// Password of everybody.
const PASSWORD: &str = "secret";

/// The lines of `sipnat user add` without and with `--plain`.
fn users() -> String {
    let place = TempDir::new().unwrap();
    let file = place.file("made");
    for (user, more) in [("hashed", None), ("plain", Some("--plain"))] {
        let mut command = std::process::Command::new(binary().unwrap());
        command.args([
            "user",
            "add",
            &file,
            &format!("{user}@{DOMAIN}"),
            "--password",
            PASSWORD,
        ]);
        let output = command.args(more).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(text.matches(PASSWORD).count(), 1, "only where it was asked for: {text}");
    text
}

/// A phone that answers challenges of one algorithm.
struct Caller<'a> {
    peer: &'a Peer,
    server: &'a Server,
    algorithm: Algorithm,
}

impl Caller<'_> {
    fn ask(&self, request: &Request) -> Message {
        let at = self.peer.endpoint;
        let sent = request.over_udp(at);
        self.peer.send_message(self.server.endpoint, &sent).unwrap();
        let answer = self.peer.recv_final("an answer").unwrap();
        if sent.method().as_deref() == Some("INVITE") {
            let ack = request.refused(&answer).over_udp(at);
            self.peer.send_message(self.server.endpoint, &ack).unwrap();
        }
        answer
    }

    /// The line that answers a challenge of the algorithm.
    fn credentials(&self, challenge: &Message, user: &str, password: &str, method: &str, uri: &str) -> String {
        let all = Challenge::all(challenge);
        let own = all.iter().find(|one| one.algorithm == self.algorithm);
        let own = own.unwrap_or_else(|| panic!("no {:?} in {challenge:?}", self.algorithm));
        own.answer(user, password, method, uri, 1)
    }
}

#[test]
fn register_and_invite_with_every_hash() {
    let lab = Lab::builder().inside_hosts(0).outside_hosts(2).build().unwrap();
    let (users, peer) = (users(), Peer::udp(lab.o(1), 5060).unwrap());
    for offered in [
        &[Algorithm::Sha512_256][..],
        &[Algorithm::Sha256],
        &[Algorithm::Sha256, Algorithm::Md5],
    ] {
        let names: Vec<&str> = offered.iter().map(|algorithm| algorithm.name()).collect();
        let config = Server::config(DOMAIN).users_file(&users).algorithms(&names);
        let server = config.start(lab.o(2)).unwrap();
        for (number, algorithm) in (1..).zip(offered) {
            for user in ["hashed", "plain"] {
                let caller = Caller {
                    peer: &peer,
                    server: &server,
                    algorithm: *algorithm,
                };
                authenticates(&caller, user, offered, number);
            }
        }
    }
}

/// REGISTER with the right password and the wrong one, and INVITE.
fn authenticates(caller: &Caller, user: &str, offered: &[Algorithm], number: u32) {
    let uri = format!("sip:{DOMAIN}");
    let register = |cseq: u32| {
        let register = Request::register(user, DOMAIN)
            .call(&format!("{user}{number}"))
            .cseq(cseq);
        register.line(&format!("Contact: <sip:{user}@{}>", caller.peer.endpoint))
    };
    let challenge = caller.ask(&register(1));
    assert_eq!(challenge.status(), Some(401), "{challenge:?}");
    let names: Vec<Algorithm> = Challenge::all(&challenge).iter().map(|one| one.algorithm).collect();
    assert_eq!(names, offered, "RFC 8760 §2.2: all of them, best first");
    let wrong = caller.credentials(&challenge, user, "wrong", "REGISTER", &uri);
    let refused = caller.ask(&register(2).line(&wrong));
    assert_eq!(refused.status(), Some(401), "{refused:?}");
    // With `auth-int`, for another URI, or used twice, the right one is none.
    let right = caller.credentials(&refused, user, PASSWORD, "REGISTER", &uri);
    let elsewhere = caller.credentials(&refused, user, PASSWORD, "REGISTER", "sip:elsewhere.org");
    assert_eq!(caller.ask(&register(3).line(&elsewhere)).status(), Some(400));
    assert_eq!(caller.ask(&register(4).line(&right)).status(), Some(200));
    let again = caller.ask(&register(5).line(&right));
    assert_eq!(
        again.status(),
        Some(401),
        "a nonce count is used once (RFC 7616 §3.4): {again:?}"
    );
    assert!(again.header("WWW-Authenticate").contains("stale=true"), "{again:?}");
    let rows = caller.server.registrations().unwrap();
    let own = rows.iter().filter(|row| row["aor"] == format!("{user}@{DOMAIN}"));
    assert!(own.count() >= 1, "{rows:?}");

    // 407, and the password stays here: the phone that is called does not see the credentials.
    let target = format!("sip:{user}@{DOMAIN}");
    let invite = Request::new("INVITE", &target).from(&format!("{user}@{DOMAIN}"));
    let invite = invite.call(&format!("call{user}{number}"));
    let challenge = caller.ask(&invite);
    assert_eq!(challenge.status(), Some(407), "{challenge:?}");
    let line = caller.credentials(&challenge, user, PASSWORD, "INVITE", &target);
    let (invite, at) = (invite.cseq(2).line(&line), caller.peer.endpoint);
    let send = |request: &Request| caller.peer.send_message(caller.server.endpoint, &request.over_udp(at));
    send(&invite).unwrap();
    let (received, from) = caller.peer.recv_request("INVITE").unwrap();
    assert_eq!(received.headers("Proxy-Authorization"), Vec::<String>::new());
    let busy = received.reply(486, "Busy Here", &[], "");
    caller.peer.send_message(from, &busy).unwrap();
    let answer = caller.peer.recv_final("the 486").unwrap();
    assert_eq!(answer.status(), Some(486));
    send(&invite.refused(&answer)).unwrap();
    caller.peer.recv_request("ACK").unwrap();
}

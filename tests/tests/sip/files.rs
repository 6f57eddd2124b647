//! What is written in files: wrong at the start, wrong at a reload, and replaced while connections and calls are there.

use std::fs;
use std::net::SocketAddrV4;

use tests::prelude::*;
use tests::sip::Transport;
use tests::sip::certificates::{Authority, Certificate};
use tests::sip::digest::Challenge;
use tests::sip::peer::Peer;
use tests::sip::phone::Request;
use tests::sip::server::{Config, Server};
use tests::sip::stream::Stream;

use crate::DOMAIN;

/// Nobody in the lab has it.
const ABSENT: &str = "203.0.113.77";

fn lab() -> Lab {
    Lab::builder().inside_hosts(0).outside_hosts(3).build().unwrap()
}

fn says(message: &str, all: &[&str]) {
    for part in all {
        assert!(message.contains(part), "{part:?} is missing in: {message}");
    }
}

/// Whether this password is accepted.
fn may_register(peer: &Peer, server: &Server, user: &str, password: &str) -> bool {
    let register = Request::register(user, DOMAIN).line(&format!("Contact: <sip:{user}@{}>", peer.endpoint));
    let answer = |cseq: u32, lines: &[String]| {
        let call = format!("{user}{password}{}", tests::ns::unique_prefix());
        let register = register.clone().call(&call).cseq(cseq);
        let register = lines.iter().fold(register, |register, line| register.line(line));
        peer.send_message(server.endpoint, &register.over_udp(peer.endpoint))
            .unwrap();
        peer.recv_final("an answer").unwrap()
    };
    let challenge = Challenge::all(&answer(1, &[])).remove(0);
    let line = challenge.answer(user, password, "REGISTER", &format!("sip:{DOMAIN}"), 1);
    answer(2, &[line]).status() == Some(200)
}

const GOOD: &str = "# our users\nanna:net.com:plain:secret\n";
const BAD: &str = "# our users\nberta:net.com:plain:secret2\nclara:net.com:SHA-1:0123\n";

#[test]
fn a_users_file_with_a_bad_line_is_named_with_the_line_and_not_applied() {
    let lab = lab();
    let refused = Server::config(DOMAIN).users_file(BAD).refused(lab.o(3)).unwrap();
    says(
        &refused.message,
        &[&format!("{}:3", refused.users_file()), "no digest algorithm"],
    );

    let server = Server::config(DOMAIN).users_file(GOOD).start(lab.o(3)).unwrap();
    let phone = Peer::udp(lab.o(1), 5060).unwrap();
    assert!(may_register(&phone, &server, "anna", "secret"));
    server.write_users(BAD).unwrap();
    let said = server.reload_refused().unwrap();
    says(
        &said,
        &[
            &format!("{}:3", server.users_file()),
            "no digest algorithm",
            "nothing has changed",
        ],
    );
    server.hang_up("no digest algorithm").unwrap();
    // Neither is the good line before it in force, nor are those of before gone.
    assert!(may_register(&phone, &server, "anna", "secret"));
    assert!(!may_register(&phone, &server, "berta", "secret2"));

    server.write_users(&BAD.replace("clara", "#clara")).unwrap();
    server.reload().unwrap();
    assert!(may_register(&phone, &server, "berta", "secret2"));
    assert!(!may_register(&phone, &server, "anna", "secret"));
}

#[test]
fn a_listener_address_that_is_not_there_is_named_and_nothing_is_opened() {
    let absent = |config: Config| {
        config.toml(&format!(
            "[[sip.listen]]\ntransport = \"udp\"\naddress = \"{ABSENT}\"\nport = 5080"
        ))
    };
    let lab = lab();
    let refused = absent(Server::config(DOMAIN)).refused(lab.o(3)).unwrap();
    says(&refused.message, &[ABSENT, "5080"]);

    let server = Server::config(DOMAIN).start(lab.o(3)).unwrap();
    // What else the same file asks for does not come either: a listener that could be opened, and a user who must authenticate.
    let more = |config: Config| {
        let there = format!(
            "[[sip.listen]]\ntransport = \"udp\"\naddress = \"{}\"\nport = 5070\n",
            lab.o(3).ip
        );
        absent(config.toml(&there)).users_file(GOOD)
    };
    server.write_config(more).unwrap();
    says(
        &server.reload_refused().unwrap(),
        &[ABSENT, "5080", "nothing has changed"],
    );
    server.hang_up(ABSENT).unwrap();
    let phone = Peer::udp(lab.o(1), 5060).unwrap();
    let at = |port: u16| SocketAddrV4::new(lab.o(3).ip, port);
    let options = |to: SocketAddrV4, call: &str| {
        let options = Request::new("OPTIONS", &format!("sip:{to}")).call(call);
        phone.send_message(to, &options.over_udp(phone.endpoint)).unwrap();
    };
    options(at(5070), "not opened");
    options(at(5060), "as before");
    let answer = phone.recv_final("an answer").unwrap();
    assert_eq!(answer.header("Call-ID"), "as before");
    let register = Request::register("anna", DOMAIN).line(&format!("Contact: <sip:anna@{}>", phone.endpoint));
    phone
        .send_message(server.endpoint, &register.over_udp(phone.endpoint))
        .unwrap();
    assert_eq!(phone.recv_final("the 200").unwrap().status(), Some(200));

    // The remedy: the address comes.
    lab.o(3)
        .run("ip", ["addr", "add", &format!("{ABSENT}/32"), "dev", DEV])
        .unwrap();
    server.reload().unwrap();
    options(at(5070), "opened");
    assert_eq!(phone.recv_final("an answer").unwrap().header("Call-ID"), "opened");
}

#[test]
fn a_certificate_that_does_not_match_its_key_is_named_and_the_one_before_stays() {
    let lab = lab();
    let authority = Authority::new().unwrap();
    let ip = lab.o(3).ip.to_string();
    let (right, other) = (
        authority.sign(&[DOMAIN, &ip]).unwrap(),
        authority.sign(&["other.org", &ip]).unwrap(),
    );
    let mixed = Certificate {
        certificate: right.certificate.clone(),
        key: other.key.clone(),
    };
    let files = [mixed.certificate.to_str().unwrap(), mixed.key.to_str().unwrap()];
    let refused = Server::config(DOMAIN).tls(&mixed).refused(lab.o(3)).unwrap();
    says(
        &refused.message,
        &[&files[..], &["is not that of the certificate"]].concat(),
    );

    let server = Server::config(DOMAIN).tls(&right).start(lab.o(3)).unwrap();
    serves(&lab, &server, DOMAIN, &authority).unwrap();
    server.write_config(|config| config.tls(&mixed)).unwrap();
    server.hang_up("is not that of the certificate").unwrap();
    says(
        &server.reload_refused().unwrap(),
        &[&files[..], &["nothing has changed"]].concat(),
    );
    serves(&lab, &server, DOMAIN, &authority).unwrap();
    assert!(serves(&lab, &server, "other.org", &authority).is_err());
}

/// Whether a new TLS connection finds a certificate for `name` by this authority, and is served.
fn serves(lab: &Lab, server: &Server, name: &str, authority: &Authority) -> anyhow::Result<()> {
    let mut stream = Stream::connect_tls(lab.o(1), server.tls_endpoint(), name, authority)?;
    let options = Request::new("OPTIONS", "sip:net.com").sent(stream.local, Transport::Tls);
    stream.send(options.bytes())?;
    stream.recv_final("the 200").map(drop)
}

/// A phone is registered over TLS and in a call when the certificate is replaced: its connection carries the rest of the call.
#[test]
fn new_certificates_are_for_new_connections_and_calls_go_on() {
    let lab = lab();
    let (before, after) = (Authority::new().unwrap(), Authority::new().unwrap());
    let ip = lab.o(3).ip.to_string();
    let first = before.sign(&[DOMAIN, &ip]).unwrap();
    let server = Server::config(DOMAIN).tls(&first).start(lab.o(3)).unwrap();
    let mut phone = Stream::connect_tls(lab.o(1), server.tls_endpoint(), DOMAIN, &before).unwrap();
    let contact = format!("Contact: <sip:anna@{};transport=tls>", phone.local);
    let register = Request::register("anna", DOMAIN).line(&contact);
    phone.send(register.sent(phone.local, Transport::Tls).bytes()).unwrap();
    assert_eq!(phone.recv_final("the 200").unwrap().status(), Some(200));
    let caller = Peer::udp(lab.o(2), 5060).unwrap();
    let invite = Request::new("INVITE", "sip:anna@net.com").from("bob@elsewhere.org");
    caller
        .send_message(server.endpoint, &invite.over_udp(caller.endpoint))
        .unwrap();
    let is = |method: &'static str| {
        move |message: &tests::sip::message::Message| message.method().as_deref() == Some(method)
    };
    let received = phone.recv_where("the INVITE", is("INVITE")).unwrap();
    phone.send(received.reply(200, "OK", &[&contact], "").bytes()).unwrap();
    let ok = caller.recv_final("the 200").unwrap();
    let within = |method: &str| invite.within(method, &ok).over_udp(caller.endpoint);
    caller.send_message(server.endpoint, &within("ACK")).unwrap();
    phone.recv_where("the ACK", is("ACK")).unwrap();

    // The same files, as a program that renews certificates leaves them.
    let second = after.sign(&[DOMAIN, &ip]).unwrap();
    fs::copy(&second.certificate, &first.certificate).unwrap();
    fs::copy(&second.key, &first.key).unwrap();
    server.hang_up("").unwrap();
    wait_until("the new certificate", SOON, || {
        serves(&lab, &server, DOMAIN, &after).is_ok()
    })
    .unwrap();
    assert!(
        serves(&lab, &server, DOMAIN, &before).is_err(),
        "nobody sees the old one"
    );

    caller.send_message(server.endpoint, &within("BYE")).unwrap();
    let bye = phone.recv_where("the BYE", is("BYE")).unwrap();
    phone.send(bye.reply(200, "OK", &[], "").bytes()).unwrap();
    assert_eq!(caller.recv_final("the 200").unwrap().status(), Some(200));
    let options = Request::new("OPTIONS", "sip:net.com")
        .call("old")
        .sent(phone.local, Transport::Tls);
    phone.send(options.bytes()).unwrap();
    assert_eq!(phone.recv_final("the 200").unwrap().status(), Some(200));
    assert_eq!(server.registrations().unwrap().len(), 1);
}

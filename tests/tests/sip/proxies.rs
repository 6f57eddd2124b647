//! More than one proxy: RFC 3665 sections 3.2 to 3.5, the way to another domain by DNS (RFC 3263), and Path (RFC 3327).

use std::net::SocketAddrV4;

use tests::prelude::*;
use tests::programs::{self, Record, TempDir};
use tests::sip::Transport;
use tests::sip::baresip::Phone;
use tests::sip::digest::Challenge;
use tests::sip::document::{self, TRANSLATED};
use tests::sip::kamailio::Kamailio;
use tests::sip::peer::Peer;
use tests::sip::phone::Request;
use tests::sip::server::{Config, Server};
use tests::sip::sipp::Sipp;

use crate::{DOMAIN, PROMPTS};

/// The domain of the other proxy.
const OTHER: &str = "other.org";

fn lab(hosts: u8) -> Lab {
    Lab::builder().inside_hosts(0).outside_hosts(hosts).build().unwrap()
}

/// A server of [`DOMAIN`] that asks this name server.
fn asking(dns: &programs::Server) -> Config {
    Server::config(DOMAIN).line(&format!("dns = [\"{}\"]", dns.endpoint.ip()))
}

fn register(user: &str, domain: &str, at: &Host, server: SocketAddrV4) {
    let register = Sipp::scenario("register").to(user, domain, server).port(5060);
    register.run(at).unwrap();
}

/// RFC 3665 section 3.2: both proxies stay in the dialog, and requests in both directions pass them.
#[test]
fn a_call_goes_through_two_proxies() {
    let lab = lab(5);
    let dns = [Record::A(OTHER, lab.o(4).ip)];
    let dns = programs::dns(lab.o(5), &dns).unwrap();
    let ours = asking(&dns).line(&format!("trusted = [\"{}/32\"]", lab.o(2).ip));
    let ours = ours.start(lab.o(3)).unwrap();
    for other in ["sipnat", "kamailio"] {
        let second: Box<dyn std::any::Any> = match other {
            "sipnat" => Box::new(Server::config(OTHER).start(lab.o(4)).unwrap()),
            _ => Box::new(Kamailio::config(OTHER).start(lab.o(4)).unwrap()),
        };
        let at = SocketAddrV4::new(lab.o(4).ip, 5060);
        register("bob", OTHER, lab.o(1), at);
        for (caller, callee) in [
            ("uac_call", "uas_answer"),
            ("uac_answered_then_bye", "uas_hang_up"),
            ("uac_reinvite", "uas_reinvite"),
            ("uac_cancel", "uas_cancelled"),
            ("uac_100rel", "uas_100rel"),
        ] {
            let mut phone = Sipp::scenario(callee).port(5060).start(lab.o(1)).unwrap();
            let calling = Sipp::scenario(caller).to("bob", OTHER, ours.endpoint);
            calling.run(lab.o(2)).unwrap();
            phone.saw(&format!("Via: SIP/2.0/UDP {}", ours.endpoint.ip())).unwrap();
            phone.finish().unwrap();
        }
        drop(second);
    }
    wait_until("the dialogs to be over", SOON, || ours.dialogs().unwrap().is_empty()).unwrap();
}

/// RFC 3665 section 3.3: each proxy asks for a password of its own, and takes out the credentials that are for it (RFC 3261 section 22.3).
#[test]
fn both_proxies_ask_for_a_password() {
    let lab = lab(5);
    let dns = [Record::A(OTHER, lab.o(4).ip)];
    let dns = programs::dns(lab.o(5), &dns).unwrap();
    let first = asking(&dns).user("caller", "secret").start(lab.o(3)).unwrap();
    // The second one knows the first one's users as well, under a realm of its own.
    let (files, guests) = (TempDir::new().unwrap(), "guests.other.org");
    std::fs::write(files.file("guests"), format!("caller:{guests}:plain:secret2\n")).unwrap();
    let users = format!(
        "[[sip.domain]]\nnames = [\"{guests}\", \"{DOMAIN}\"]\nusers = {:?}\n",
        files.file("guests")
    );
    let second = Server::config(OTHER).user("bob", "secret3").toml(&users);
    let _second = second.start(lab.o(4)).unwrap();
    let (bob, caller) = (Peer::udp(lab.o(1), 5060).unwrap(), Peer::udp(lab.o(2), 5060).unwrap());
    let passwords = [(DOMAIN, "secret"), (guests, "secret2"), (OTHER, "secret3")];
    // Answers every challenge with all credentials so far, as a phone does.
    let insist = |peer: &Peer, to: SocketAddrV4, user: &str, request: Request, most: usize| {
        let mut challenges: Vec<Challenge> = Vec::new();
        for cseq in 1.. {
            let with_credentials = |request: Request, (number, challenge): (usize, &Challenge)| {
                let password = passwords.iter().find(|(realm, _)| *realm == challenge.realm).unwrap().1;
                let (line, count) = (request.over_udp(peer.endpoint), cseq - 1 - number as u32);
                let method = line.method().unwrap();
                request.line(&challenge.answer(user, password, &method, &line.request_uri(), count))
            };
            let all = challenges.iter().enumerate();
            let request = all.fold(request.clone().cseq(cseq), with_credentials);
            let sent = request.over_udp(peer.endpoint);
            peer.send_message(to, &sent).unwrap();
            if challenges.len() == most {
                return request;
            }
            let answer = peer.recv_final("a challenge").unwrap();
            challenges.push(Challenge::all(&answer).remove(0));
            if sent.method().as_deref() == Some("INVITE") {
                peer.send_message(to, &request.refused(&answer).over_udp(peer.endpoint))
                    .unwrap();
            }
        }
        unreachable!("there are more numbers than challenges")
    };
    let register = Request::register("bob", OTHER).line(&format!("Contact: <sip:bob@{}>", bob.endpoint));
    insist(&bob, SocketAddrV4::new(lab.o(4).ip, 5060), "bob", register, 1);
    assert_eq!(bob.recv_final("the 200").unwrap().status(), Some(200));

    let invite = Request::new("INVITE", "sip:bob@other.org")
        .from("caller@net.com")
        .call("twice");
    let invite = insist(&caller, first.endpoint, "caller", invite, 2);
    let (received, from) = bob.recv_request("INVITE").unwrap();
    assert_eq!(received.headers("Proxy-Authorization"), Vec::<String>::new());
    let contact = format!("Contact: <sip:bob@{}>", bob.endpoint);
    bob.send_message(from, &received.reply(200, "OK", &[&contact], ""))
        .unwrap();
    let ok = caller.recv_final("the 200").unwrap();
    assert_eq!(ok.status(), Some(200), "{ok:?}");
    // Within the dialog nobody asks again.
    for method in ["ACK", "BYE"] {
        let next = invite.within(method, &ok).over_udp(caller.endpoint);
        caller.send_message(first.endpoint, &next).unwrap();
        let (request, from) = bob.recv_request(method).unwrap();
        if method == "BYE" {
            bob.send_message(from, &request.reply(200, "OK", &[], "")).unwrap();
        }
    }
    assert_eq!(caller.recv_final("the 200").unwrap().status(), Some(200));
}

/// RFC 3665 section 3.4 and RFC 3263 section 4.3: of the other domain's servers, by NAPTR and SRV, the first is gone and the second is
/// asked, every time and over the transport that the records name.
#[test]
fn the_other_domains_second_server_is_asked_if_the_first_is_gone() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let lab = lab(5);
        let (service, label) = match transport {
            Transport::Udp => ("SIP+D2U", "_sip._udp.other.org"),
            _ => ("SIP+D2T", "_sip._tcp.other.org"),
        };
        let records = [
            Record::Naptr(OTHER, 10, 50, "s", service, label),
            Record::Srv(label, 10, 0, 5070, "gone.other.org"),
            Record::Srv(label, 20, 0, 5060, "there.other.org"),
            // The host is up, and nobody has the port: over UDP an ICMP error says so, over TCP a reset.
            Record::A("gone.other.org", lab.o(4).ip),
            Record::A("there.other.org", lab.o(4).ip),
        ];
        let dns = programs::dns(lab.o(5), &records).unwrap();
        let ours = asking(&dns).line(&format!("trusted = [\"{}/32\"]", lab.o(2).ip));
        let ours = ours.toml("[sip.proxy]\nt1 = \"100ms\"").start(lab.o(3)).unwrap();
        let theirs = Server::config(OTHER).start(lab.o(4)).unwrap();
        register("bob", OTHER, lab.o(1), theirs.endpoint);
        let mut phone = Sipp::scenario("uas_answer").port(5060).start(lab.o(1)).unwrap();
        let calling = Sipp::scenario("uac_call").to("bob", OTHER, ours.endpoint);
        calling.run(lab.o(2)).unwrap();
        phone
            .saw(&format!("Via: SIP/2.0/{} {}", transport.via(), ours.endpoint.ip()))
            .unwrap();
        phone.finish().unwrap();
    }
}

/// A phone finds our server by the records of its domain.
#[test]
fn a_phone_finds_the_server_by_srv_records() {
    let lab = lab(3);
    let records = [
        Record::Naptr(DOMAIN, 10, 50, "s", "SIP+D2U", "_sip._udp.net.com"),
        Record::Srv("_sip._udp.net.com", 10, 0, 5080, "sip1.net.com"),
        Record::A("sip1.net.com", lab.o(3).ip),
    ];
    let _dns = programs::dns(lab.o(2), &records).unwrap();
    let listen = format!(
        "[[sip.listen]]\ntransport = \"udp\"\naddress = \"{}\"\nport = 5080",
        lab.o(3).ip
    );
    let server = Server::config(DOMAIN).user("user", "secret").toml(&listen);
    let server = server.start(lab.o(3)).unwrap();
    let phone = Phone::account("user", DOMAIN)
        .password("secret")
        .dns(lab.o(2).ip)
        .start(lab.o(1))
        .unwrap();
    phone.registered().unwrap();
    let rows = server.registrations().unwrap();
    assert_eq!(rows.len(), 1, "{rows:?}");
    let there = SocketAddrV4::new(lab.o(3).ip, 5080).to_string();
    assert_eq!(rows[0]["local"], there, "as the records say: {rows:?}");
}

/// RFC 3327, and RFC 3665 section 3.5 where the proxy is one that a phone cannot do without: kamailio is the registrar, sipnat the edge
/// before it, the phone is behind a NAT. Its calls come along the Path.
#[test]
fn calls_come_along_the_path_through_the_edge_proxy() {
    let lab = document::lab().outside_hosts(3).build().unwrap();
    let _nat = document::start_nat(&lab, Nat::Nftables, "").unwrap();
    let registrar = Kamailio::config(DOMAIN).start(lab.o(3)).unwrap();
    let dns = programs::dns(lab.o(2), &[Record::A(DOMAIN, lab.o(3).ip)]).unwrap();
    let edge = Server::config("").role("outbound").toml(PROMPTS);
    let edge = edge.line(&format!("dns = [\"{}\"]", dns.endpoint.ip()));
    let edge = edge.start(lab.o(1)).unwrap();
    let (phone, caller) = (Peer::udp(lab.h(1), 5060).unwrap(), Peer::udp(lab.o(2), 5060).unwrap());
    let contact = format!("Contact: <sip:user@{}>", phone.endpoint);
    let register = Request::register("user", DOMAIN).line("Supported: path").line(&contact);
    phone
        .send_message(edge.endpoint, &register.over_udp(phone.endpoint))
        .unwrap();
    let ok = phone.recv_final("the 200").unwrap();
    assert_eq!(ok.status(), Some(200), "{ok:?}");
    assert!(
        ok.header("Contact").contains(&phone.endpoint.to_string()),
        "its own: {ok:?}"
    );
    let known = registrar.contacts("user").unwrap();
    assert_eq!(known.len(), 1, "{known:?}");
    assert!(known[0].path.contains(&edge.endpoint.ip().to_string()), "{known:?}");
    assert!(!known[0].uri.contains("192.168."), "{known:?}");

    let invite = Request::new("INVITE", "sip:user@net.com").from("bob@elsewhere.org");
    caller
        .send_message(registrar.endpoint, &invite.over_udp(caller.endpoint))
        .unwrap();
    let (received, from) = phone.recv_request("INVITE").unwrap();
    assert_eq!(from, edge.endpoint);
    assert_eq!(received.request_uri(), format!("sip:user@{}", phone.endpoint));
    phone
        .send_message(from, &received.reply(200, "OK", &[&contact], ""))
        .unwrap();
    let ok = caller.recv_final("the 200").unwrap();
    assert_eq!(ok.status(), Some(200), "{ok:?}");
    let ack = invite.within("ACK", &ok).over_udp(caller.endpoint);
    caller.send_message(registrar.endpoint, &ack).unwrap();
    phone.recv_request("ACK").unwrap();
    edge.path_becomes(TRANSLATED, "dialog-and-registration").unwrap();
    // The phone hangs up, along the route set as it was shown.
    let bye = Request::of_callee("BYE", &received).over_udp(phone.endpoint);
    phone.send_message(edge.endpoint, &bye).unwrap();
    let (bye, from) = caller.recv_request("BYE").unwrap();
    assert_eq!(from, registrar.endpoint);
    caller.send_message(from, &bye.reply(200, "OK", &[], "")).unwrap();
    assert_eq!(phone.recv_final("the 200").unwrap().status(), Some(200));
}

//! The SIP peers of the harness, tried on kamailio, which is not ours: what they show about sipnat later, they must be able to
//! show here first. Needs root.

use std::net::SocketAddrV4;
use std::time::Duration;

use tests::prelude::*;
use tests::programs::{self, Record};
use tests::sip::baresip::Phone;
use tests::sip::certificates::Authority;
use tests::sip::kamailio::Kamailio;
use tests::sip::message::compose;
use tests::sip::peer::Peer;
use tests::sip::sipp::Sipp;
use tests::sip::sipsak::sipsak;
use tests::sip::stream::Stream;
use tests::sip::{Transport, document};

const DOMAIN: &str = "net.com";

/// Two hosts outside and a server on a third, no NAT in between.
fn open_lab() -> Lab {
    Lab::builder().inside_hosts(0).outside_hosts(3).build().unwrap()
}

#[test]
fn a_phone_behind_a_masquerade_registers_is_called_and_both_are_heard() {
    let lab = document::lab().build().unwrap();
    let _nat = document::start_nat(&lab, Nat::Nftables, "").unwrap();
    let proxy = Kamailio::config(DOMAIN)
        .user("user", "secret")
        .fix_sdp()
        .start(lab.o(1))
        .unwrap();
    assert_eq!(proxy.endpoint, document::PROXY);

    let phone = Phone::account("user", DOMAIN).password("secret").tone(440);
    let phone = phone.outbound(proxy.endpoint, Transport::Udp).start(lab.h(1)).unwrap();
    phone.registered().unwrap();
    let contacts = proxy.contacts("user").unwrap();
    assert_eq!(contacts.len(), 1, "{contacts:?}");
    assert_eq!(contacts[0].received, format!("sip:{}", document::TRANSLATED));
    assert!(
        contacts[0].uri.contains(&format!("@{}", document::PHONE)),
        "{contacts:?}"
    );

    let caller = Phone::account("caller", DOMAIN).register_every(0).tone(620);
    let caller = caller.outbound(proxy.endpoint, Transport::Udp).start(lab.o(2)).unwrap();
    caller.dial("sip:user@net.com").unwrap();
    assert_eq!(phone.incoming().unwrap(), "sip:caller@net.com");
    phone.accept().unwrap();
    caller.established().unwrap();
    phone.established().unwrap();
    caller.hears(440).unwrap();
    phone.hears(620).unwrap();
    caller.hang_up().unwrap();
    phone.closed().unwrap();
}

#[test]
fn the_binding_of_the_masquerade_ends_after_its_timeout_unless_the_proxy_prompts() {
    let lab = document::lab().build().unwrap();
    let _nat = document::start_nat(&lab, Nat::Nftables, "").unwrap();
    // A shorter one than the document's, so that the test need not wait: the lab obeys.
    for key in ["udp_timeout", "udp_timeout_stream"] {
        lab.router
            .sysctl(&format!("net.netfilter.nf_conntrack_{key}"), 3)
            .unwrap();
    }
    let (phone, proxy) = (Peer::udp(lab.h(1), 5060).unwrap(), Peer::udp(lab.o(1), 5060).unwrap());
    phone
        .send(
            proxy.endpoint,
            request("REGISTER", "sip:net.com", "user", "1", "192.168.1.10:5060").bytes(),
        )
        .unwrap();
    let (register, from) = proxy.recv_request("REGISTER").unwrap();
    assert_eq!(from, document::TRANSLATED);
    proxy.send_message(from, &register.reply(200, "OK", &[], "")).unwrap();
    phone.recv_final("the 200").unwrap();

    let entry = || {
        lab.router
            .run("conntrack", ["-L", "-p", "udp"])
            .unwrap_or_default()
            .contains("dport=5060")
    };
    assert!(entry());
    wait_until("the binding to end", SOON, || !entry()).unwrap();
    proxy
        .send(
            document::TRANSLATED,
            request("OPTIONS", "sip:user@x", "proxy", "2", "134.56.3.1:5060").bytes(),
        )
        .unwrap();
    phone
        .nothing(Duration::from_millis(300), |message| {
            message.method().as_deref() == Some("OPTIONS")
        })
        .unwrap();
}

#[test]
fn phones_behind_foreign_nats_share_a_private_address() {
    let lab = Lab::builder()
        .inside_hosts(0)
        .outside_hosts(1)
        .foreign_nats(2)
        .build()
        .unwrap();
    let proxy = Kamailio::config(DOMAIN).start(lab.o(1)).unwrap();
    for (number, user) in [(1, "anna"), (2, "berta")] {
        let register = Sipp::scenario("register").to(user, DOMAIN, proxy.endpoint).port(5060);
        register.run(lab.f(number)).unwrap();
        let contacts = proxy.contacts(user).unwrap();
        assert_eq!(contacts[0].received, format!("sip:{}:5060", lab.n(number).ip));
        assert!(contacts[0].uri.contains("192.168.7.10"), "{contacts:?}");
    }
}

#[test]
fn registrations_of_all_kinds() {
    let lab = open_lab();
    let proxy = Kamailio::config(DOMAIN)
        .user("anna", "secret")
        .expires(60, 300, 3600)
        .start(lab.o(3))
        .unwrap();
    let register = || {
        Sipp::scenario("register")
            .to("anna", DOMAIN, proxy.endpoint)
            .auth("anna", "secret")
    };
    let contacts = || proxy.contacts("anna").unwrap();

    register().port(5060).run(lab.o(1)).unwrap();
    assert!((290..=300).contains(&contacts()[0].expires), "{:?}", contacts());
    register()
        .fill(
            "contact",
            "Contact: <sip:a@203.0.113.101>, \"B\" <sip:b@203.0.113.102>;q=0.5",
        )
        .run(lab.o(1))
        .unwrap();
    assert_eq!(contacts().len(), 3);
    register().port(5060).key("expires", "0").run(lab.o(1)).unwrap();
    assert_eq!(contacts().len(), 2);
    register()
        .fill("contact", "Contact: *")
        .key("expires", "0")
        .run(lab.o(1))
        .unwrap();
    assert_eq!(contacts(), []);
    Sipp::scenario("register_refresh")
        .to("anna", DOMAIN, proxy.endpoint)
        .auth("anna", "secret")
        .run(lab.o(1))
        .unwrap();
    assert_eq!(contacts().len(), 1);

    let refused = Sipp::scenario("register_refused").to("anna", DOMAIN, proxy.endpoint);
    refused.fill("code", "401").run(lab.o(1)).unwrap();
    let wrong = Sipp::scenario("register_wrong_password")
        .to("anna", DOMAIN, proxy.endpoint)
        .auth("anna", "wrong");
    wrong.fill("code", "401").run(lab.o(1)).unwrap();
    // A failure of sipp is one of the test, and tells what came instead.
    let failed = Sipp::scenario("register_refused")
        .to("anna", DOMAIN, proxy.endpoint)
        .fill("code", "423");
    let error = format!("{:#}", failed.run(lab.o(1)).unwrap_err());
    assert!(error.contains("SIP/2.0 401 Unauthorized"), "{error}");

    let answer = sipsak(lab.o(1), "anna", proxy.endpoint, &["-U", "-a", "secret", "-x", "120"]).unwrap();
    assert_eq!(answer.code, Some(0), "{}", answer.text);
    assert_eq!(contacts().len(), 2);
}

/// A caller's scenario, a callee's, and what they need.
fn call(caller: &str, callee: &str, prepare: impl Fn(Sipp) -> Sipp) {
    let lab = open_lab();
    let proxy = Kamailio::config(DOMAIN).start(lab.o(3)).unwrap();
    for transport in [Transport::Udp, Transport::Tcp] {
        let register = Sipp::scenario("register").to("anna", DOMAIN, proxy.endpoint).port(5060);
        register.run(lab.o(1)).unwrap();
        let phone = prepare(Sipp::scenario(callee)).port(5060).start(lab.o(1)).unwrap();
        let calling = prepare(Sipp::scenario(caller))
            .to("anna", DOMAIN, proxy.endpoint)
            .transport(transport);
        calling.run(lab.o(2)).unwrap();
        phone.finish().unwrap();
    }
}

#[test]
fn calls_that_are_answered() {
    call("uac_call", "uas_answer", |sipp| sipp);
    call("uac_answered_then_bye", "uas_hang_up", |sipp| sipp);
    call("uac_no_bye", "uas_no_bye", |sipp| sipp);
}

#[test]
fn calls_that_are_not_answered() {
    call("uac_cancel", "uas_cancelled", |sipp| sipp);
    for response in ["486 Busy Here", "603 Decline", "480 Temporarily Unavailable"] {
        let code = &response[..3];
        call("uac_rejected", "uas_reject", |sipp| {
            sipp.fill("response", response).fill("code", code)
        });
    }
}

#[test]
fn calls_with_more_in_them() {
    call("uac_reinvite", "uas_reinvite", |sipp| sipp);
    call("uac_call_late_offer", "uas_late_offer", |sipp| sipp);
    call("uac_100rel", "uas_100rel", |sipp| sipp);
    call("subscriber", "notifier", |sipp| sipp);
    call("message", "uas_message", |sipp| sipp);
    call("uac_call", "uas_strict_route", |sipp| sipp);
}

#[test]
fn a_caller_follows_a_redirect() {
    let lab = open_lab();
    let moved = Sipp::scenario("uas_redirect").fill("contact", &format!("<sip:anna@{}:5062>", lab.o(1).ip));
    let (moved, phone) = (
        moved.port(5060).start(lab.o(3)).unwrap(),
        Sipp::scenario("uas_answer").port(5062).start(lab.o(1)).unwrap(),
    );
    let caller = Sipp::scenario("uac_redirected").to("anna", DOMAIN, SocketAddrV4::new(lab.o(3).ip, 5060));
    caller.run(lab.o(2)).unwrap();
    moved.finish().unwrap();
    phone.finish().unwrap();
}

#[test]
fn calls_to_and_from_the_telephone_network() {
    let lab = open_lab();
    let gateway_at = SocketAddrV4::new(lab.o(1).ip, 5066);
    let proxy = Kamailio::config(DOMAIN).gateway(gateway_at).start(lab.o(3)).unwrap();
    let gateway = Sipp::scenario("uas_gateway").port(5066).start(lab.o(1)).unwrap();
    Sipp::scenario("uac_call")
        .to("0123456789", DOMAIN, proxy.endpoint)
        .run(lab.o(2))
        .unwrap();
    gateway.finish().unwrap();

    Sipp::scenario("register")
        .to("anna", DOMAIN, proxy.endpoint)
        .port(5060)
        .run(lab.o(2))
        .unwrap();
    let phone = Sipp::scenario("uas_answer").port(5060).start(lab.o(2)).unwrap();
    let gateway = Sipp::scenario("uac_gateway")
        .from("49123456")
        .to("anna", DOMAIN, proxy.endpoint);
    gateway.run(lab.o(1)).unwrap();
    phone.finish().unwrap();
}

#[test]
fn ten_percent_loss_is_survived() {
    let lab = open_lab();
    let proxy = Kamailio::config(DOMAIN).start(lab.o(3)).unwrap();
    Sipp::scenario("register")
        .to("anna", DOMAIN, proxy.endpoint)
        .port(5060)
        .run(lab.o(1))
        .unwrap();
    let _phone = Sipp::scenario("uas_answer")
        .port(5060)
        .endless()
        .start(lab.o(1))
        .unwrap();
    let caller = Sipp::scenario("uac_call")
        .to("anna", DOMAIN, proxy.endpoint)
        .lost(10)
        .calls(10)
        .rate(10);
    caller.run(lab.o(2)).unwrap();
}

#[test]
fn baresip_registers_over_tcp_and_tls() {
    let lab = open_lab();
    let authority = Authority::new().unwrap();
    let certificate = authority.sign(&[DOMAIN, &lab.o(3).ip.to_string()]).unwrap();
    let proxy = Kamailio::config(DOMAIN)
        .user("anna", "secret")
        .tls(&certificate)
        .start(lab.o(3))
        .unwrap();
    for (transport, server) in [(Transport::Tcp, proxy.endpoint), (Transport::Tls, proxy.tls_endpoint())] {
        let phone = Phone::account("anna", DOMAIN).password("secret").trust(&authority);
        let phone = phone.outbound(server, transport).start(lab.o(1)).unwrap();
        phone.registered().unwrap();
        let contacts = proxy.contacts("anna").unwrap();
        assert_eq!(contacts.len(), 1, "{contacts:?}");
        assert!(
            contacts[0].uri.contains(&format!("transport={transport}")),
            "{contacts:?}"
        );
        phone.quit().unwrap();
        wait_until("the phone to be unregistered", SOON, || {
            proxy.contacts("anna").unwrap().is_empty()
        })
        .unwrap();
    }
}

#[test]
fn literal_messages_over_every_transport() {
    let lab = open_lab();
    let authority = Authority::new().unwrap();
    let certificate = authority.sign(&[DOMAIN, &lab.o(3).ip.to_string()]).unwrap();
    let proxy = Kamailio::config(DOMAIN).tls(&certificate).start(lab.o(3)).unwrap();

    let peer = Peer::udp(lab.o(1), 5060).unwrap();
    let options = |via: &str| request("OPTIONS", "sip:net.com", "peer", "1", via);
    peer.send(proxy.endpoint, options("203.0.113.100:5060").bytes())
        .unwrap();
    let answer = peer.recv_final("an answer").unwrap();
    assert_eq!(
        (answer.status(), answer.header("Via").contains("rport=5060")),
        (Some(200), true),
        "{answer:?}"
    );

    let mut tcp = Stream::connect(lab.o(1), proxy.endpoint).unwrap();
    let text = options("203.0.113.100").head().replace("SIP/2.0/UDP", "SIP/2.0/TCP");
    let (first, second) = text.split_at(40);
    tcp.send(first).unwrap();
    tcp.send(second).unwrap();
    assert_eq!(tcp.recv_final("an answer").unwrap().status(), Some(200));

    let name = lab.o(3).ip.to_string();
    let mut tls = Stream::connect_tls(lab.o(1), proxy.tls_endpoint(), &name, &authority).unwrap();
    tls.send(text.replace("SIP/2.0/TCP", "SIP/2.0/TLS")).unwrap();
    assert_eq!(tls.recv_final("an answer").unwrap().status(), Some(200));
    let stranger = Authority::new().unwrap();
    assert!(Stream::connect_tls(lab.o(1), proxy.tls_endpoint(), &name, &stranger).is_err());
}

#[test]
fn phones_find_a_server_by_srv_records() {
    let lab = open_lab();
    let proxy = Kamailio::config(DOMAIN).port(5080).start(lab.o(3)).unwrap();
    let dns = programs::dns(
        lab.o(2),
        &[
            Record::A("sip.net.com", lab.o(3).ip),
            Record::Srv("_sip._udp.net.com", 10, 1, 5080, "sip.net.com"),
            Record::Naptr("net.com", 10, 10, "s", "SIP+D2U", "_sip._udp.net.com"),
        ],
    );
    let _dns = dns.unwrap();
    let phone = Phone::account("anna", DOMAIN).dns(lab.o(2).ip).start(lab.o(1)).unwrap();
    phone.registered().unwrap();
    assert_eq!(proxy.contacts("anna").unwrap().len(), 1);
}

/// A request from `from` with this Call-ID, whose Via names `via`.
fn request(method: &str, uri: &str, from: &str, call_id: &str, via: &str) -> tests::sip::message::Message {
    compose(
        &[
            &format!("{method} {uri} SIP/2.0"),
            &format!("Via: SIP/2.0/UDP {via};branch=z9hG4bK{call_id};rport"),
            "Max-Forwards: 70",
            &format!("From: <sip:{from}@net.com>;tag={call_id}"),
            "To: <sip:user@net.com>",
            &format!("Call-ID: {call_id}"),
            &format!("CSeq: 1 {method}"),
            &format!("Contact: <sip:{from}@{via}>"),
        ],
        "",
    )
}

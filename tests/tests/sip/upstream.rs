//! The outbound proxy role: phones are registered with kamailio, which is not ours, and sipnat stands in between.

use tests::prelude::*;
use tests::programs::{self, Record};
use tests::sip::Transport;
use tests::sip::baresip::Phone;
use tests::sip::document;
use tests::sip::kamailio::Kamailio;
use tests::sip::server::{Config, Server};
use tests::sip::sipp::Sipp;

use crate::{DOMAIN, PROMPTS};

#[test]
fn a_phone_registers_elsewhere_through_the_outbound_proxy_and_is_called() {
    // RFC 3263: the way to the domain is in the DNS.
    through_the_outbound_proxy(|config, lab| config.line(&format!("dns = [\"{}\"]", lab.o(2).ip)));
}

#[test]
fn the_dial_plan_says_where_the_registrar_is() {
    through_the_outbound_proxy(|config, lab| {
        config.toml(&format!(
            "[[sip.route]]\ndomain = {DOMAIN:?}\nto = [\"sip:{}\"]\n",
            lab.o(3).ip
        ))
    });
}

fn through_the_outbound_proxy(finds_it: impl Fn(Config, &Lab) -> Config) {
    let lab = document::lab().outside_hosts(3).build().unwrap();
    let _nat = document::start_nat(&lab, Nat::Nftables, "").unwrap();
    let registrar = Kamailio::config(DOMAIN).user("user", "secret").start(lab.o(3)).unwrap();
    let names = [Record::A(DOMAIN, lab.o(3).ip)];
    let _dns = programs::dns(lab.o(2), &names).unwrap();
    let outbound = Server::config("").role("outbound").toml(PROMPTS);
    let outbound = finds_it(outbound, &lab).start(lab.o(1)).unwrap();

    let phone = Phone::account("user", DOMAIN).password("secret");
    let phone = phone
        .outbound(outbound.endpoint, Transport::Udp)
        .start(lab.h(1))
        .unwrap();
    phone.registered().unwrap();
    // The registrar knows a contact at the outbound proxy; the way from there to the phone is the outbound proxy's own.
    let contacts = registrar.contacts("user").unwrap();
    assert_eq!(contacts.len(), 1, "{contacts:?}");
    assert!(contacts[0].uri.contains("@134.56.3.1"), "{contacts:?}");
    assert!(!contacts[0].uri.contains("192.168."), "{contacts:?}");
    let path = outbound.path_becomes(document::TRANSLATED, "registration").unwrap();
    assert_eq!(path["behind_nat"], true);

    let caller = Sipp::scenario("uac_call").to("user", DOMAIN, registrar.endpoint);
    let caller = caller.start(lab.o(2)).unwrap();
    phone.incoming().unwrap();
    phone.accept().unwrap();
    caller.finish().unwrap();
    phone.closed().unwrap();
    // The call may be over before the first prompt is due.
    wait_until("a prompt to be answered", SOON, || {
        let path = outbound.path_to(document::TRANSLATED);
        path.is_ok_and(|path| path["prompts_answered"].as_u64() >= Some(1))
    })
    .unwrap();
}

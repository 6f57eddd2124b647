//! REGISTER over every transport, with digest authentication, and what a crash leaves of it.

use serde_json::Value;
use tests::prelude::*;
use tests::sip::Transport;
use tests::sip::baresip::Phone;
use tests::sip::certificates::Authority;
use tests::sip::document;
use tests::sip::server::Server;
use tests::sip::sipp::Sipp;

use crate::{DOMAIN, PROMPTS};

/// Hosts outside and a server on the third.
fn lab() -> Lab {
    Lab::builder().inside_hosts(0).outside_hosts(3).build().unwrap()
}

fn contacts(server: &Server) -> Vec<Value> {
    server.registrations().unwrap()
}

#[test]
fn sipp_registers_with_digest_over_udp_and_tcp() {
    let lab = lab();
    let server = Server::config(DOMAIN).user("anna", "secret").start(lab.o(3)).unwrap();
    for (transport, count) in [(Transport::Udp, 1), (Transport::Tcp, 2)] {
        let register = Sipp::scenario("register").to("anna", DOMAIN, server.endpoint);
        register
            .auth("anna", "secret")
            .transport(transport)
            .port(5060)
            .run(lab.o(1))
            .unwrap();
        let rows = contacts(&server);
        assert_eq!(rows.len(), count, "{rows:?}");
        // By its contact, because sipp has closed its connection meanwhile, and a flow that is gone is not shown.
        let over = format!(";transport={}", transport.via());
        let row = rows
            .iter()
            .find(|row| row["contact"].as_str().unwrap().ends_with(&over));
        let row = row.unwrap_or_else(|| panic!("none over {transport}: {rows:?}"));
        assert_eq!(
            (&row["aor"], &row["behind_nat"]),
            (&"anna@net.com".into(), &false.into()),
            "{row}"
        );
        assert!(row["expires_s"].as_u64().unwrap() <= 300);
    }
    let wrong = Sipp::scenario("register_wrong_password").to("anna", DOMAIN, server.endpoint);
    wrong.auth("anna", "wrong").fill("code", "401").run(lab.o(2)).unwrap();
    let stranger = Sipp::scenario("register_refused").to("anna", DOMAIN, server.endpoint);
    stranger.fill("code", "401").run(lab.o(2)).unwrap();
    assert_eq!(contacts(&server).len(), 2, "a wrong password leaves nothing");
}

#[test]
fn registrations_are_added_listed_refreshed_and_removed() {
    let lab = lab();
    let server = Server::config(DOMAIN).user("anna", "secret").start(lab.o(3)).unwrap();
    let register = || {
        let register = Sipp::scenario("register").to("anna", DOMAIN, server.endpoint);
        register.auth("anna", "secret")
    };
    register().port(5060).run(lab.o(1)).unwrap();
    let two = "Contact: <sip:a@203.0.113.101>, \"B\" <sip:b@203.0.113.99>;q=0.5";
    register().fill("contact", two).run(lab.o(1)).unwrap();
    assert_eq!(contacts(&server).len(), 3);
    register().port(5060).key("expires", "0").run(lab.o(1)).unwrap();
    assert_eq!(contacts(&server).len(), 2);
    register()
        .fill("contact", "Contact: *")
        .key("expires", "0")
        .run(lab.o(1))
        .unwrap();
    assert_eq!(contacts(&server), Vec::<Value>::new());
    let refresh = Sipp::scenario("register_refresh").to("anna", DOMAIN, server.endpoint);
    refresh.auth("anna", "secret").run(lab.o(1)).unwrap();
    assert_eq!(contacts(&server).len(), 1);
    let brief = Sipp::scenario("register_wrong_password").to("anna", DOMAIN, server.endpoint);
    let brief = brief.auth("anna", "secret").key("expires", "5").fill("code", "423");
    brief.run(lab.o(1)).unwrap();
}

#[test]
fn baresip_registers_and_is_called_over_tcp_and_tls() {
    let lab = lab();
    let authority = Authority::new().unwrap();
    let certificate = authority.sign(&[DOMAIN, &lab.o(3).ip.to_string()]).unwrap();
    let config = Server::config(DOMAIN).user("anna", "secret").user("berta", "secret2");
    let server = config.tls(&certificate).start(lab.o(3)).unwrap();
    for (transport, at) in [
        (Transport::Tcp, server.endpoint),
        (Transport::Tls, server.tls_endpoint()),
    ] {
        let phone = Phone::account("anna", DOMAIN)
            .password("secret")
            .trust(&authority)
            .tone(440);
        let phone = phone.outbound(at, transport).start(lab.o(1)).unwrap();
        phone.registered().unwrap();
        let rows = contacts(&server);
        assert_eq!(rows.len(), 1, "{rows:?}");
        assert_eq!(rows[0]["transport"], transport.parameter());

        let caller = Phone::account("berta", DOMAIN)
            .password("secret2")
            .register_every(0)
            .tone(620);
        let caller = caller
            .outbound(server.endpoint, Transport::Udp)
            .start(lab.o(2))
            .unwrap();
        caller.dial("sip:anna@net.com").unwrap();
        phone.incoming().unwrap();
        phone.accept().unwrap();
        caller.established().unwrap();
        caller.hears(440).unwrap();
        phone.hears(620).unwrap();
        phone.hang_up().unwrap();
        caller.closed().unwrap();
        phone.quit().unwrap();
        wait_until("the phone to be unregistered", SOON, || contacts(&server).is_empty()).unwrap();
    }
}

#[test]
fn a_phone_behind_a_nat_survives_the_crash_of_the_server() {
    let lab = document::lab().build().unwrap();
    let _nat = document::start_nat(&lab, Nat::Nftables, "").unwrap();
    let config = Server::config(DOMAIN).toml(PROMPTS);
    let mut server = config.start(lab.o(1)).unwrap();
    let phone = Phone::account("user", DOMAIN).register_every(3000);
    let phone = phone.outbound(server.endpoint, Transport::Udp).start(lab.h(1)).unwrap();
    phone.registered().unwrap();
    // What is written behind is written within a second; nothing shows when.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    server.kill9();
    let capture = Capture::host(lab.h(1)).unwrap();
    server.restart().unwrap();
    let rows = contacts(&server);
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0]["received"], document::TRANSLATED.to_string());

    let caller = Sipp::scenario("uac_call").to("user", DOMAIN, server.endpoint);
    let caller = caller.start(lab.o(2)).unwrap();
    phone.incoming().unwrap();
    phone.accept().unwrap();
    caller.finish().unwrap();
    let packets = capture.packets();
    assert!(!packets.iter().any(|packet| packet.payload().starts_with(b"REGISTER")));
}

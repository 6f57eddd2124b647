//! The proxy and the redirect server: RFC 3665's flows with sipp, and what goes wrong in between.

use std::net::SocketAddrV4;
use std::time::Duration;

use tests::prelude::*;
use tests::sip::Transport;
use tests::sip::peer::Peer;
use tests::sip::phone::Request;
use tests::sip::server::{Config, Server};
use tests::sip::sipp::Sipp;

use crate::{DOMAIN, PROMPTS};

/// Hosts outside, a server on the third, no NAT in between.
struct Scene {
    server: Server,
    lab: Lab,
}

impl Scene {
    fn new(prepare: impl Fn(&Lab, Config) -> Config) -> Scene {
        let lab = Lab::builder().inside_hosts(0).outside_hosts(3).build().unwrap();
        let server = prepare(&lab, Server::config(DOMAIN)).start(lab.o(3)).unwrap();
        Scene { server, lab }
    }

    fn register(&self, user: &str, host: usize, port: u16) {
        let register = Sipp::scenario("register").to(user, DOMAIN, self.server.endpoint);
        register.port(port).run(self.lab.o(host)).unwrap();
    }

    fn caller(&self, scenario: &str, user: &str) -> Sipp {
        Sipp::scenario(scenario).to(user, DOMAIN, self.server.endpoint)
    }

    /// A caller's scenario against a callee's, over UDP and TCP to the phone's UDP.
    fn call(&self, caller: &str, callee: &str, prepare: impl Fn(Sipp) -> Sipp) {
        for transport in [Transport::Udp, Transport::Tcp] {
            self.register("anna", 1, 5060);
            let phone = prepare(Sipp::scenario(callee)).port(5060).start(self.lab.o(1)).unwrap();
            let calling = prepare(self.caller(caller, "anna")).transport(transport);
            calling.run(self.lab.o(2)).unwrap();
            phone.finish().unwrap();
        }
    }
}

fn plain(_: &Lab, config: Config) -> Config {
    config
}

#[test]
fn calls_that_are_answered() {
    let scene = Scene::new(plain);
    scene.call("uac_call", "uas_answer", |sipp| sipp);
    scene.call("uac_answered_then_bye", "uas_hang_up", |sipp| sipp);
    wait_until("the dialogs to be over", SOON, || {
        scene.server.dialogs().unwrap().is_empty()
    })
    .unwrap();
}

#[test]
fn calls_that_are_not_answered() {
    let scene = Scene::new(plain);
    scene.call("uac_cancel", "uas_cancelled", |sipp| sipp);
    for response in ["486 Busy Here", "603 Decline", "480 Temporarily Unavailable"] {
        let code = &response[..3];
        scene.call("uac_rejected", "uas_reject", |sipp| {
            sipp.fill("response", response).fill("code", code)
        });
    }
    wait_until("the dialogs to be over", SOON, || {
        scene.server.dialogs().unwrap().is_empty()
    })
    .unwrap();
}

#[test]
fn calls_with_more_in_them() {
    let scene = Scene::new(plain);
    scene.call("uac_reinvite", "uas_reinvite", |sipp| sipp);
    scene.call("uac_call_late_offer", "uas_late_offer", |sipp| sipp);
    scene.call("uac_100rel", "uas_100rel", |sipp| sipp);
    scene.call("subscriber", "notifier", |sipp| sipp);
    scene.call("message", "uas_message", |sipp| sipp);
    scene.call("uac_transfer", "uas_transfer", |sipp| sipp);
}

#[test]
fn a_strict_router_gets_its_own_uri() {
    Scene::new(plain).call("uac_call", "uas_strict_route", |sipp| sipp);
}

#[test]
fn both_phones_ring_and_the_other_one_stops_when_one_answers() {
    let scene = Scene::new(plain);
    scene.register("anna", 1, 5060);
    scene.register("anna", 1, 5062);
    let other = Sipp::scenario("uas_cancelled")
        .port(5060)
        .start(scene.lab.o(1))
        .unwrap();
    let answering = Sipp::scenario("uas_answer").port(5062).fill("ring", "500");
    let answering = answering.start(scene.lab.o(1)).unwrap();
    scene.caller("uac_call", "anna").run(scene.lab.o(2)).unwrap();
    answering.finish().unwrap();
    other.finish().unwrap();
}

/// The desk phone rings first; only when it is busy, or has rung for `serial_ring`, the other one does.
#[test]
fn phones_ring_one_after_the_other_by_their_q() {
    let scene = Scene::new(|_, config| config.toml("[sip.proxy]\nfork = \"by-q\"\nserial_ring = \"1s\""));
    let contact = |port: u16, q: &str| format!("Contact: <sip:anna@{}:{port}>;q={q}", scene.lab.o(1).ip);
    // The one with the lower q registers first.
    for (port, q) in [(5062, "0.5"), (5060, "0.9")] {
        let register = Sipp::scenario("register").to("anna", DOMAIN, scene.server.endpoint);
        let register = register.port(port).fill("contact", &contact(port, q));
        register.run(scene.lab.o(1)).unwrap();
    }
    for (desk, its_end) in [("uas_cancelled", "CANCEL sip:anna@"), ("uas_reject", "SIP/2.0 486")] {
        let desk = Sipp::scenario(desk).port(5060).start(scene.lab.o(1)).unwrap();
        let mobile = Sipp::scenario("uas_answer").port(5062).start(scene.lab.o(1)).unwrap();
        let capture = Capture::host(scene.lab.o(3)).unwrap();
        scene.caller("uac_call", "anna").run(scene.lab.o(2)).unwrap();
        desk.finish().unwrap();
        mobile.finish().unwrap();
        // On the server's own wire: the mobile phone is asked once the desk phone has had its turn.
        let packets = capture.packets();
        let at = |port: u16, text: &str| {
            let is = |packet: &Packet| packet.src().port() == port || packet.dst().port() == port;
            let mut all = packets.iter();
            let found = all.position(|packet| is(packet) && packet.payload().starts_with(text.as_bytes()));
            found.unwrap_or_else(|| panic!("no {text} at port {port}"))
        };
        let (ended, asked) = (at(5060, its_end), at(5062, "INVITE sip:anna@"));
        assert!(
            ended < asked,
            "{its_end}: packet {ended}, the other INVITE: packet {asked}"
        );
    }
}

/// A phone that rings for ever: timer C ends it (RFC 3261 section 16.8), and one that says nothing at all is given up by timer B.
#[test]
fn phones_that_never_answer_are_given_up() {
    let scene = Scene::new(|_, config| config.lifetime_scale(0.01).toml("[sip.proxy]\nt1 = \"100ms\""));
    scene.register("anna", 1, 5060);
    let ringing = Sipp::scenario("uas_cancelled")
        .port(5060)
        .start(scene.lab.o(1))
        .unwrap();
    let caller = scene.caller("uac_rejected", "anna").fill("code", "408");
    caller.run(scene.lab.o(2)).unwrap();
    ringing.finish().unwrap();

    let mut silent = Sipp::scenario("uas_silent")
        .port(5060)
        .endless()
        .start(scene.lab.o(1))
        .unwrap();
    let caller = scene.caller("uac_rejected", "anna").fill("code", "408");
    caller.run(scene.lab.o(2)).unwrap();
    silent.saw("INVITE sip:anna@").unwrap();
    assert!(
        !silent.messages().contains("CANCEL sip:"),
        "nothing is cancelled before a provisional response"
    );
}

#[test]
fn a_caller_follows_the_redirect_server() {
    let scene = Scene::new(|_, config| config.role("redirect"));
    scene.register("anna", 1, 5060);
    let phone = Sipp::scenario("uas_answer").port(5060).start(scene.lab.o(1)).unwrap();
    scene.caller("uac_redirected", "anna").run(scene.lab.o(2)).unwrap();
    phone.finish().unwrap();
    assert_eq!(scene.server.dialogs().unwrap().len(), 0);
}

#[test]
fn calls_to_and_from_the_telephone_network() {
    let scene = Scene::new(|lab, config| {
        let gateway = SocketAddrV4::new(lab.o(1).ip, 5066);
        let route = format!("[[sip.route]]\nprefix = \"00\"\nstrip = 2\nprepend = \"+\"\nto = [\"sip:{gateway}\"]");
        config
            .line(&format!("trusted = [\"{}/32\"]", gateway.ip()))
            .toml(&route)
    });
    let mut gateway = Sipp::scenario("uas_gateway").port(5066).start(scene.lab.o(1)).unwrap();
    scene.caller("uac_call", "0049301234").run(scene.lab.o(2)).unwrap();
    gateway.saw("INVITE sip:+49301234@").unwrap();
    gateway.finish().unwrap();

    scene.register("anna", 2, 5060);
    let phone = Sipp::scenario("uas_answer").port(5060).start(scene.lab.o(2)).unwrap();
    scene
        .caller("uac_gateway", "anna")
        .from("49123456")
        .run(scene.lab.o(1))
        .unwrap();
    phone.finish().unwrap();
}

/// A tenth of all datagrams that come to a host.
const LOSS: &str = "table inet loss {
    chain input {
        type filter hook input priority filter
        meta l4proto udp numgen random mod 10 == 0 drop
    }
}";

/// Everybody loses a tenth of what comes, phones and server. No call is lost by that.
///
/// (The loss is in the hosts because `sipp -lost` is no such thing: a request that it has "lost" once it takes for a retransmission of
/// something old when it comes again.)
#[test]
fn ten_percent_loss_is_survived() {
    let scene = Scene::new(plain);
    scene.register("anna", 1, 5060);
    (1..=3).for_each(|host| scene.lab.o(host).nft(LOSS).unwrap());
    // sipp does not repeat its ACK once it has sent the BYE, and forgets a call with its last message.
    let phone = Sipp::scenario("uas_answer").port(5060).endless();
    let phone = phone.fill("ack", "optional=\"true\"").fill("linger", "32000");
    let _phone = phone.start(scene.lab.o(1)).unwrap();
    let caller = scene.caller("uac_call", "anna").fill("hold", "300");
    // It need not remember calls that are over.
    let caller = caller.args(&["-deadcall_wait", "0"]);
    caller.calls(200).rate(100).run(scene.lab.o(2)).unwrap();
}

/// Both phones are behind NATs of others, and even have the same private address: every request within the dialog, of either side, finds
/// the path of the other.
#[test]
fn requests_within_a_dialog_pass_two_nats() {
    let lab = Lab::builder().inside_hosts(0).outside_hosts(1).foreign_nats(2);
    let lab = lab.build().unwrap();
    let server = Server::config(DOMAIN).toml(PROMPTS).start(lab.o(1)).unwrap();
    let pairs = [
        ("uac_call", "uas_answer"),
        ("uac_answered_then_bye", "uas_hang_up"),
        ("uac_reinvite", "uas_reinvite"),
    ];
    for (caller, callee) in pairs {
        let register = Sipp::scenario("register").to("anna", DOMAIN, server.endpoint);
        register.port(5060).run(lab.f(1)).unwrap();
        let received = server.registrations().unwrap()[0]["received"].clone();
        assert_eq!(received, format!("{}:5060", lab.n(1).ip));
        // It may be prompted before the call: each OPTIONS counts as a call, so it is not asked to end.
        let mut phone = Sipp::scenario(callee).port(5060).endless().start(lab.f(1)).unwrap();
        let calling = Sipp::scenario(caller).to("anna", DOMAIN, server.endpoint).port(5060);
        calling.run(lab.f(2)).unwrap();
        phone.saw("BYE").unwrap();
    }
}

/// The BYE of a call is lost for good: nobody says anything any more, and the session timer (RFC 4028) ends what the server knows of it,
/// 32 s after its end. A phone may not ask for 1 s; a server that is told so keeps to it.
#[test]
fn a_call_whose_bye_is_lost_ends_by_its_session_timer() {
    let scene = Scene::new(|_, config| config.toml("[sip.proxy]\nmax_call_duration = \"1h\""));
    scene.register("anna", 1, 5060);
    let (phone, caller) = (
        Peer::udp(scene.lab.o(1), 5060).unwrap(),
        Peer::udp(scene.lab.o(2), 5060).unwrap(),
    );
    let invite = Request::new("INVITE", "sip:anna@net.com").from("bob@elsewhere.org");
    let invite = invite.line("Supported: timer").line("Session-Expires: 1");
    let invite = invite.over_udp(caller.endpoint);
    caller.send_message(scene.server.endpoint, &invite).unwrap();
    let (request, from) = phone.recv_request("INVITE").unwrap();
    let contact = format!("Contact: <sip:anna@{}>", phone.endpoint);
    let timer = ["Require: timer", "Session-Expires: 1;refresher=uac", &contact];
    phone.send_message(from, &request.reply(200, "OK", &timer, "")).unwrap();
    let ok = caller.recv_final("the 200").unwrap();
    assert_eq!(ok.status(), Some(200));
    wait_until("the call to stand", SOON, || {
        scene
            .server
            .dialogs()
            .unwrap()
            .iter()
            .any(|dialog| dialog["state"] == "confirmed")
    })
    .unwrap();
    let path = scene.server.path_to(phone.endpoint).unwrap();
    assert_eq!(path["dialogs"], 1, "{path}");
    wait_until("the call to end", Duration::from_secs(60), || {
        scene.server.dialogs().unwrap().is_empty()
    })
    .unwrap();
}

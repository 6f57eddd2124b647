//! Connections that end, and what is under way on them; connections that serve for more than the device behind them.

use std::net::SocketAddrV4;

use tests::prelude::*;
use tests::sip::message::{Message, compose};
use tests::sip::peer::Peer;
use tests::sip::server::{Config, Server};
use tests::sip::stream::Stream;

use crate::DOMAIN;

/// Anna's contact: an address that is behind a NAT, since nobody has it.
const ANNA: &str = "sip:anna@10.9.9.9:5060;transport=tcp";
const CALLER: &str = "<sip:bob@elsewhere.org>;tag=bob";

struct Scene {
    server: Server,
    caller: Peer,
    lab: Lab,
}

impl Scene {
    fn new(more: impl Fn(Config, &Lab) -> Config) -> Scene {
        let lab = Lab::builder().inside_hosts(0).outside_hosts(3).build().unwrap();
        let server = more(Server::config(DOMAIN), &lab).start(lab.o(3)).unwrap();
        let caller = Peer::udp(lab.o(2), 5060).unwrap();
        Scene { server, caller, lab }
    }

    /// Anna's phone registers over a new connection.
    fn register(&self, cseq: u32) -> Stream {
        let mut phone = Stream::connect(self.lab.o(1), self.server.endpoint).unwrap();
        let contact = format!("Contact: <{ANNA}>;+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-000a95a0e128>\"");
        let register = request(
            "REGISTER sip:net.com SIP/2.0",
            &via("TCP", phone.local, &format!("register{cseq}")),
            ("<sip:anna@net.com>;tag=1", "<sip:anna@net.com>"),
            ("register", cseq),
            &[&contact, "Expires: 300"],
        );
        phone.send(register.bytes()).unwrap();
        assert_eq!(phone.recv_final("the 200").unwrap().status(), Some(200));
        phone
    }

    /// Sends a request of the caller.
    fn ask(&self, line: &str, branch: &str, to: &str, cseq: u32, more: &[&str]) {
        let via = via("UDP", self.caller.endpoint, branch);
        let request = request(&format!("{line} SIP/2.0"), &via, (CALLER, to), ("call", cseq), more);
        self.caller.send_message(self.server.endpoint, &request).unwrap();
    }

    fn invite(&self, uri: &str) {
        let contact = format!("Contact: <sip:bob@{}>", self.caller.endpoint);
        self.ask(&format!("INVITE {uri}"), "invite", &format!("<{uri}>"), 1, &[&contact]);
    }
}

fn via(transport: &str, at: SocketAddrV4, branch: &str) -> String {
    format!("Via: SIP/2.0/{transport} {at};branch=z9hG4bK{branch};rport")
}

fn request(line: &str, via: &str, (from, to): (&str, &str), (call, cseq): (&str, u32), more: &[&str]) -> Message {
    let method = line.split(' ').next().unwrap_or_default();
    let mut lines = vec![
        line.to_owned(),
        via.to_owned(),
        "Max-Forwards: 70".into(),
        format!("From: {from}"),
        format!("To: {to}"),
        format!("Call-ID: {call}"),
        format!("CSeq: {cseq} {method}"),
    ];
    lines.extend(more.iter().map(|line| line.to_string()));
    compose(&lines, "")
}

fn is(method: &'static str) -> impl Fn(&Message) -> bool {
    move |message| message.method().as_deref() == Some(method)
}

/// RFC 5626 section 5.3.1: the call was made over a connection that a restart of the server has ended. Nobody can reach the phone before it has
/// registered again, and then its call goes on.
#[test]
fn a_call_goes_on_over_the_connection_of_a_new_registration() {
    let mut scene = Scene::new(|config, _| config);
    let mut phone = scene.register(1);
    scene.invite("sip:anna@net.com");
    let invite = phone.recv_where("the call", is("INVITE")).unwrap();
    let ok = invite.reply(200, "OK", &[&format!("Contact: <{ANNA}>")], "");
    phone.send(ok.bytes()).unwrap();
    let ok = scene.caller.recv_final("the 200").unwrap();
    let mut routes: Vec<String> = ok.headers("Record-Route");
    routes.reverse();
    let route = format!("Route: {}", routes.join(", "));
    let to = ok.header("To");
    scene.ask(&format!("ACK {ANNA}"), "ack", &to, 1, &[&route]);
    phone.recv_where("the ACK", is("ACK")).unwrap();

    scene.server.kill9();
    phone.closed().unwrap();
    scene.server.restart().unwrap();
    scene.ask(&format!("BYE {ANNA}"), "early", &to, 2, &[&route]);
    assert_eq!(scene.caller.recv_final("an answer").unwrap().status(), Some(430));
    let mut phone = scene.register(2);
    scene.ask(&format!("BYE {ANNA}"), "bye", &to, 3, &[&route]);
    let bye = phone.recv_where("the BYE", is("BYE")).unwrap();
    assert_eq!(bye.tag("To").as_deref(), Some("peer"));
    phone.send(bye.reply(200, "OK", &[], "").bytes()).unwrap();
    assert_eq!(scene.caller.recv_final("the 200").unwrap().status(), Some(200));
}

/// RFC 3261 sections 16.9 and 17.1.4: whoever calls need not wait for timer B, which is longer than this test waits.
#[test]
fn a_connection_ends_before_its_phone_has_answered() {
    let scene = Scene::new(|config, _| config);
    let mut phone = scene.register(1);
    scene.invite("sip:anna@net.com");
    phone.recv_where("the call", is("INVITE")).unwrap();
    drop(phone);
    assert_eq!(scene.caller.recv_final("an answer").unwrap().status(), Some(480));
}

/// RFC 5923: a trusted gateway that says so is called over the connection that it has made; nobody listens at its port.
#[test]
fn a_gateway_is_called_over_its_own_connection() {
    let scene = Scene::new(|config, lab| {
        let (gateway, caller) = (lab.o(1).ip, lab.o(2).ip);
        let route = format!("[[sip.route]]\nprefix = \"0\"\nto = [\"sip:{gateway}:5060;transport=tcp\"]\n");
        let trusted = format!("trusted = [\"{gateway}/32\", \"{caller}/32\"]");
        config.toml(&route).line(&trusted)
    });
    let mut gateway = Stream::connect(scene.lab.o(1), scene.server.endpoint).unwrap();
    let options = |via: &str, cseq| {
        request(
            &format!("OPTIONS sip:{} SIP/2.0", scene.server.endpoint),
            via,
            ("<sip:gateway@elsewhere.org>;tag=g", "<sip:net.com>"),
            ("options", cseq),
            &[],
        )
    };
    let at = SocketAddrV4::new(scene.lab.o(1).ip, 5060);
    gateway.send(options(&via("TCP", at, "plain"), 1).bytes()).unwrap();
    gateway.recv_final("the 200").unwrap();
    scene.invite("sip:0123@net.com");
    assert_eq!(
        scene.caller.recv_final("an answer").unwrap().status(),
        Some(500),
        "it was not offered"
    );
    gateway
        .send(options(&format!("{};alias", via("TCP", at, "alias")), 2).bytes())
        .unwrap();
    gateway.recv_final("the 200").unwrap();
    scene.ask("MESSAGE sip:0123@net.com", "message", "<sip:0123@net.com>", 2, &[]);
    let message = gateway.recv_where("the MESSAGE", is("MESSAGE")).unwrap();
    assert_eq!(message.request_uri(), format!("sip:0123@{at};transport=tcp"));
}

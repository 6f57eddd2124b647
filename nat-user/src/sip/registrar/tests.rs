use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::sip::{
    flow::{ConnectionId, ListenerId, Transport},
    location::domains::tests::domain,
    message::check,
    path::{self, State},
};

pub(super) const NOW: Time = Time(1_790_000_000_000);

/// A registrar for `net.com` with everything around it, and a clock.
pub(super) struct Server {
    pub registrar: Registrar,
    pub domains: Domains,
    pub location: Location,
    pub paths: Paths,
    pub now: Time,
    pub flow: Flow,
    pub user: Option<&'static str>,
    pub trusted: bool,
}

/// A response, for comparing.
#[derive(Debug)]
pub(super) struct Response {
    pub code: u16,
    pub reason: &'static str,
    pub headers: String,
    pub keep: Option<u32>,
}

impl Response {
    /// The values of Contact.
    pub fn contacts(&self) -> Vec<&str> {
        self.values("Contact")
    }

    pub fn values(&self, name: &str) -> Vec<&str> {
        let lines = self.headers.split("\r\n").filter_map(|line| line.split_once(": "));
        lines
            .filter(|(found, _)| *found == name)
            .map(|(_, value)| value)
            .collect()
    }
}

impl Server {
    pub fn new(registrar: config::sip::Registrar) -> Server {
        let settings = Settings {
            registrar,
            keep_udp: Duration::from_secs(15),
            keep_stream: Duration::from_secs(120),
        };
        let mut ourselves = Ourselves::new();
        ourselves.add("134.56.3.1:5060".parse().unwrap(), None);
        let path_settings = path::Settings {
            paths: config::sip::Paths::default(),
            t1: Duration::from_millis(500),
            t2: Duration::from_secs(4),
        };
        Server {
            registrar: Registrar::new(settings, ourselves),
            domains: Domains::new(&[
                domain(&["net.com"]),
                domain(&["biloxi.example.com", "ss2.biloxi.example.com"]),
            ]),
            location: Location::new(),
            paths: Paths::new(path_settings, [7; 32]),
            now: NOW,
            flow: Flow::udp(ListenerId(0), "134.56.1.1:5070".parse().unwrap()),
            user: None,
            trusted: false,
        }
    }

    /// Sends a REGISTER and gives the response.
    pub fn send(&mut self, text: &str) -> Response {
        let message = Message::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap();
        assert_eq!(check::request(&message), None, "{text}");
        self.location.tick(self.now, &mut self.paths, |_| {});
        let domain = Uri::parse(message.request_uri())
            .and_then(|uri| self.domains.find(uri.host))
            .unwrap();
        let request = Register {
            message: &message,
            flow: self.flow,
            local: "134.56.3.1:5060".parse().unwrap(),
            domain,
            user: self.user,
            trusted: self.trusted,
        };
        let own = |answer: Answer<'_>| Response {
            code: answer.code,
            reason: answer.reason,
            headers: String::from_utf8(answer.headers.to_vec()).unwrap(),
            keep: answer.keep,
        };
        if let Some(answer) = self.registrar.unsupported(&message) {
            return own(answer);
        }
        let (location, paths) = (&mut self.location, &mut self.paths);
        own(self
            .registrar
            .register(request, &self.domains, location, paths, self.now))
    }

    /// A REGISTER of the phone of S1 with these header lines.
    pub fn register(&mut self, call_id: &str, cseq: u32, lines: &[&str]) -> Response {
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        self.send(&format!(
            "REGISTER sip:net.com SIP/2.0\r\n\
             Via: SIP/2.0/UDP 192.168.1.10:5060;branch=z9hG4bK{cseq};rport\r\n\
             From: <sip:user@net.com>;tag=1\r\n\
             To: <sip:user@net.com>\r\n\
             Call-ID: {call_id}\r\n\
             CSeq: {cseq} REGISTER\r\n\
             {lines}Content-Length: 0\r\n\r\n"
        ))
    }

    pub fn uris(&self) -> Vec<String> {
        let uri = |c: Contact<'_>| String::from_utf8(c.uri.to_vec()).unwrap();
        self.location.contacts("user@net.com", self.now).map(uri).collect()
    }
}

pub(super) fn settings() -> config::sip::Registrar {
    config::sip::Registrar::default()
}

const PHONE: &str = "Contact: <sip:user@192.168.1.10:5060>";

/// The table of S1: the address inside is kept, what counts is the translated one.
#[test]
fn a_phone_behind_a_nat() {
    let mut server = Server::new(settings());
    let response = server.register("1", 1, &[PHONE, "Expires: 300", "User-Agent: phone/1"]);
    assert_eq!((response.code, response.reason, response.keep), (200, "OK", None));
    assert_eq!(
        response.headers,
        "Contact: <sip:user@192.168.1.10:5060>;expires=300\r\n\
         Date: Mon, 21 Sep 2026 14:13:20 GMT\r\n\
         Supported: path, outbound\r\n"
    );
    let id = server.location.lookup("user@net.com", NOW).usable[0];
    let contact = server.location.get(id, NOW).unwrap();
    assert_eq!(
        (contact.aor, contact.flow, contact.behind_nat),
        ("user@net.com", Some(server.flow), true)
    );
    assert_eq!(
        (contact.user_agent, contact.call_id, contact.cseq),
        (Some("phone/1"), &b"1"[..], 1)
    );
    let path = server.paths.get(contact.path_id.unwrap()).unwrap();
    assert!(path.behind_nat && path.state == State::Registration && path.uri == Some(contact.uri));

    server.now = NOW + Duration::from_millis(100_500);
    let response = server.register("1", 2, &[]);
    assert_eq!(
        response.contacts(),
        ["<sip:user@192.168.1.10:5060>;expires=200"],
        "a question changes nothing"
    );
    server.now = NOW + Duration::from_secs(300);
    assert!(server.register("1", 3, &[]).contacts().is_empty());
    assert!(server.paths.is_empty());
}

#[test]
fn a_phone_that_is_not_behind_a_nat() {
    let mut server = Server::new(config::sip::Registrar {
        nat_expires: Some(Duration::from_secs(90)),
        ..settings()
    });
    assert_eq!(
        server.register("1", 1, &[PHONE]).contacts(),
        ["<sip:user@192.168.1.10:5060>;expires=90"]
    );
    server.flow = Flow::udp(ListenerId(0), "192.168.1.10:5060".parse().unwrap());
    assert_eq!(
        server.register("1", 2, &[PHONE]).contacts(),
        ["<sip:user@192.168.1.10:5060>;expires=3600"]
    );
    assert_eq!(
        server.paths.len(),
        1,
        "the path that it was reached on before is let go"
    );
    assert!(!server.location.contacts("user@net.com", NOW).next().unwrap().behind_nat);
    // One of the two addresses is enough.
    let other = server.register("1", 3, &["Contact: <sip:user@10.0.0.1:5060>"]);
    assert_eq!(other.contacts()[1], "<sip:user@10.0.0.1:5060>;expires=90");
}

#[test]
fn expiry_is_bounded() {
    let mut server = Server::new(settings());
    let mut ask = |cseq, contact: &str, expires: &[&str]| {
        let contact = format!("Contact: {contact}");
        server.register("1", cseq, &[&[contact.as_str()], expires].concat())
    };
    let brief = ask(1, "<sip:a@1.1.1.1>", &["Expires: 59"]);
    assert_eq!(
        (brief.code, brief.reason, brief.values("Min-Expires")),
        (423, "Interval Too Brief", vec!["60"])
    );
    // The parameter counts before the header; one that is too brief spoils the whole request.
    assert_eq!(ask(2, "<sip:a@1.1.1.1>, <sip:b@1.1.1.1>;expires=10", &[]).code, 423);
    assert!(ask(3, "<sip:none@1.1.1.1>;expires=0", &[]).contacts().is_empty());
    for (cseq, contact, expires, granted) in [
        (4, "<sip:a@1.1.1.1>;expires=60", &["Expires: 10"][..], "60"),
        (5, "sip:a@1.1.1.1;expires=99999", &[], "7200"),
        (6, "<sip:a@1.1.1.1>;expires=99999999999999999999", &[], "7200"),
        (7, "<sip:a@1.1.1.1>;expires=soon", &[], "3600"),
        (8, "<sip:a@1.1.1.1>", &["Expires: later"], "3600"),
        (9, "<sip:a@1.1.1.1>", &[], "3600"),
    ] {
        let response = ask(cseq, contact, expires);
        assert_eq!(
            response.contacts(),
            [format!("<sip:a@1.1.1.1>;expires={granted}")],
            "{contact}"
        );
    }
}

#[test]
fn requests_count_in_their_order() {
    let mut server = Server::new(settings());
    assert_eq!(server.register("1", 5, &[PHONE]).code, 200);
    for cseq in [5, 4] {
        let late = server.register("1", cseq, &[PHONE, "Expires: 0"]);
        assert_eq!((late.code, late.reason), (500, "CSeq Not Higher Than Before"));
        let late = server.register("1", cseq, &["Contact: *", "Expires: 0"]);
        assert_eq!(late.code, 500);
        // All or nothing.
        let late = server.register("1", cseq, &["Contact: <sip:new@1.1.1.1>, <sip:user@192.168.1.10:5060>"]);
        assert_eq!((late.code, server.uris().len()), (500, 1));
    }
    assert_eq!(server.registrar.counts().refused_order, 6);
    // Another Call-ID is another sequence: the phone was restarted.
    assert_eq!(
        server
            .register("2", 1, &["Contact: <sip:us%65r@192.168.1.10:5060;x=1>"])
            .code,
        200
    );
    assert_eq!(server.uris(), ["sip:us%65r@192.168.1.10:5060;x=1"]);
    assert_eq!(server.register("1", 6, &[PHONE, "Expires: 0"]).code, 200);
    assert!(server.uris().is_empty());
}

#[test]
fn star_removes_all_or_is_wrong() {
    let mut server = Server::new(settings());
    server.register(
        "1",
        1,
        &["Contact: <sip:a@1.1.1.1>", "Contact: <sip:b@1.1.1.1>;q=0.5;x"],
    );
    server.register("2", 9, &["m: \"C, c\" <sip:c@1.1.1.1>;q=0.25"]);
    for lines in [
        &["Contact: *"][..],
        &["Contact: *", "Expires: 1"],
        &["Contact: *, <sip:a@1.1.1.1>", "Expires: 0"],
        &["Contact: <sip:a@1.1.1.1>, *", "Expires: 0"],
        &["Contact: *;expires=0"],
    ] {
        assert_eq!(server.register("1", 2, lines).code, 400, "{lines:?}");
    }
    let all = server.register("3", 1, &[]);
    let expected = [
        "<sip:a@1.1.1.1>;expires=3600",
        "<sip:b@1.1.1.1>;x;q=0.5;expires=3600",
        "<sip:c@1.1.1.1>;q=0.25;expires=3600",
    ];
    assert_eq!(all.contacts(), expected);
    // One of them came later in its own sequence: nothing is removed.
    assert_eq!(
        (
            server.register("2", 9, &["Contact: *", "Expires: 0"]).code,
            server.uris().len()
        ),
        (500, 3)
    );
    assert_eq!(
        (
            server.register("2", 10, &["Contact: *", "Expires: 0"]).code,
            server.uris().len()
        ),
        (200, 0)
    );
    assert!(server.paths.is_empty());
}

#[test]
fn who_may_register_what() {
    let mut server = Server::new(settings());
    server.user = Some("other");
    assert_eq!(server.register("1", 1, &[PHONE]).code, 403);
    assert_eq!(server.register("1", 1, &[]).code, 403, "not even look");
    server.user = Some("sales");
    assert_eq!(server.register("1", 1, &[PHONE]).code, 200, "an alias of user");
    let with_to = |to: &str| {
        format!(
            "REGISTER sip:net.com SIP/2.0\r\nVia: SIP/2.0/UDP 1.1.1.1;branch=z9hG4bK1\r\nFrom: <sip:x@y>;tag=1\r\nTo: {to}\r\n\
             Call-ID: 9\r\nCSeq: 1 REGISTER\r\nContact: <sip:u@1.1.1.1>\r\n\r\n"
        )
    };
    for nobody in [
        "<sip:net.com>",
        "<sip:user@other.com>",
        "<tel:+1>",
        "<sip:user@biloxi.example.com>",
        "<sip:%ff@net.com>",
    ] {
        assert_eq!(server.send(&with_to(nobody)).code, 404, "{nobody}");
    }
    assert_eq!(server.send(&with_to("User <sips:s%61les@NET.com;x=y>;tag=9")).code, 200);
    assert_eq!(server.uris().len(), 2);
}

#[test]
fn what_cannot_be_done_is_said() {
    let mut server = Server::new(settings());
    let response = server.register("1", 1, &["Require: path, gruu", "Require: Outbound,x", PHONE]);
    assert_eq!((response.code, response.values("Unsupported")), (420, vec!["gruu, x"]));
    for wrong in [
        "<sip:a@1.1.1.1",
        "sip:a@1.1.1.1?Route=%3Csip:x%3E",
        "<sip:>",
        "nonsense",
        "<sip:a@1.1.1.1>;q=2",
        "<sip:a@1.1.1.1>;q=",
        "<sip:a@1.1.1.1>;+sip.instance=\"<urn:x>\";reg-id=0",
        "<sip:a@1.1.1.1>, <sip:A@1.1.1.1;x>, <sip:a@1.1.1.1;y>",
    ] {
        assert_eq!(
            server.register("1", 1, &[&format!("Contact: {wrong}")]).code,
            400,
            "{wrong}"
        );
    }
    let long = format!("Contact: <sip:{}@1.1.1.1>", "a".repeat(4096));
    assert_eq!(server.register("1", 1, &[&long]).code, 400);
    assert!(server.location.is_empty() && server.paths.is_empty());
    // The message `regescrt` of RFC 4475: escaped headers in a Contact are fine in brackets.
    assert_eq!(
        server
            .register("1", 1, &["Contact: <sip:a@1.1.1.1?Route=%3Csip:x%3E>"])
            .code,
        200
    );
}

#[test]
fn contacts_that_point_at_ourselves() {
    let mut server = Server::new(settings());
    for ours in [
        "sip:x@134.56.3.1",
        "sip:x@134.56.3.1:5060;transport=tcp",
        "sip:x@net.com",
        "sip:1@1.1.1.1;maddr=134.56.3.1",
    ] {
        assert_eq!(
            server.register("1", 1, &[&format!("Contact: <{ours}>")]).code,
            403,
            "{ours}"
        );
    }
    assert_eq!(server.registrar.counts().refused_ourselves, 4);
    // Another customer's path: it is reached on the flow that it came in on, so nothing goes there.
    assert_eq!(server.register("1", 1, &["Contact: <sip:x@134.56.1.1:9999>"]).code, 200);
    let contact = server.location.contacts("user@net.com", NOW).next().unwrap();
    assert_eq!(contact.flow, Some(server.flow));
}

#[test]
fn limits_hold_and_lost_contacts_give_way() {
    let mut server = Server::new(config::sip::Registrar {
        max_contacts: 2,
        max_registrations: 3,
        ..settings()
    });
    let contact = |n: u32| format!("Contact: <sip:{n}@1.1.1.1>");
    assert_eq!(server.register("1", 1, &[&contact(1), &contact(2)]).code, 200);
    assert_eq!(server.register("1", 2, &[&contact(3)]).code, 403);
    assert_eq!(
        server
            .register("1", 3, &[&contact(1), &contact(2), &contact(3), &contact(4)])
            .code,
        403
    );
    assert_eq!(
        server
            .register("1", 4, &[&contact(3), &format!("{};expires=0", contact(1))])
            .code,
        200
    );
    assert_eq!(server.uris(), ["sip:2@1.1.1.1", "sip:3@1.1.1.1"]);
    let path = server.paths.find(&server.flow).unwrap();
    server
        .location
        .path_down(path, crate::sip::location::Lost::Mark, &mut server.paths, NOW);
    server.flow = Flow::udp(ListenerId(0), "134.56.1.1:6000".parse().unwrap());
    assert_eq!(server.register("2", 1, &[&contact(4)]).code, 200);
    assert_eq!(server.uris(), ["sip:3@1.1.1.1", "sip:4@1.1.1.1"]);
    let other = |n: u32| {
        format!(
            "REGISTER sip:net.com SIP/2.0\r\nVia: SIP/2.0/UDP 1.1.1.1;branch=z9hG4bK1\r\nFrom: <sip:x@y>;tag=1\r\n\
             To: <sip:{n}@net.com>\r\nCall-ID: 9\r\nCSeq: {n} REGISTER\r\nContact: <sip:u@1.1.1.1>\r\n\r\n"
        )
    };
    assert_eq!(server.send(&other(1)).code, 200);
    let full = server.send(&other(2));
    assert_eq!((full.code, full.values("Retry-After")), (503, vec!["60"]));
    assert_eq!(
        server.send(&other(3).replace("3@net", "1@net")).code,
        200,
        "a refresh needs no room"
    );
    assert_eq!(server.registrar.counts().refused_limit, 3);
}

#[test]
fn two_devices_with_one_private_address() {
    let mut server = Server::new(settings());
    let instance = |name: &str| format!("{PHONE};+sip.instance=\"<urn:uuid:{name}>\"");
    server.register("1", 1, &[&instance("a")]);
    server.flow = Flow::udp(ListenerId(0), "134.56.2.2:5070".parse().unwrap());
    server.register("2", 1, &[&instance("b")]);
    assert_eq!((server.uris().len(), server.paths.len()), (2, 2));
    server.register("3", 1, &[&instance("a")]);
    assert_eq!((server.uris().len(), server.paths.len()), (2, 1), "the first one moved");
}

/// Days of refreshes: nothing is lost, nothing is left over.
#[test]
fn days_pass() {
    let mut server = Server::new(settings());
    for cseq in 1..5000 {
        let response = server.register("1", cseq, &[PHONE, "Expires: 90"]);
        assert_eq!(response.contacts(), ["<sip:user@192.168.1.10:5060>;expires=90"]);
        server.now = server.now + Duration::from_secs(89);
        assert_eq!(server.location.lookup("user@net.com", server.now).usable.len(), 1);
    }
    assert_eq!((server.location.len(), server.paths.len()), (1, 1));
    server.now = server.now + Duration::from_secs(1);
    server.location.tick(server.now, &mut server.paths, |_| {});
    assert_eq!(
        (server.location.len(), server.paths.len(), server.location.next()),
        (0, 0, None)
    );
}

#[test]
fn streams_compare_addresses_only() {
    let mut server = Server::new(settings());
    server.flow = Flow::stream(
        ListenerId(1),
        Transport::Tcp,
        "192.168.1.10:43210".parse().unwrap(),
        ConnectionId(1),
    );
    server.register("1", 1, &["Contact: <sip:user@192.168.1.10:5060;transport=tcp>"]);
    assert!(!server.location.contacts("user@net.com", NOW).next().unwrap().behind_nat);
}

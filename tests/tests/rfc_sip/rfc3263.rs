//! RFC 3263: where a request goes, by the DNS (`dnsmasq` on the fifth host).

use tests::programs::{self, Record};
use tests::sip::message::Message;
use tests::sip::peer::Peer;
use tests::sip::request::Request;
use tests::sip::stream::Listener;

use crate::scene::{QUIET, Scene, is};

const NO_DNS: &str = "the lab's kamailio is configured without DNS";

/// A scene with these records, whose peers may send to anywhere.
struct Named {
    scene: Scene,
    _dns: programs::Server,
}

impl Named {
    /// `records` are made of the addresses of the phone and the second.
    fn new(records: impl FnOnce(&Scene) -> Vec<Record<'static>>) -> Option<Self> {
        // The address is the one of the lab's fifth host, which the scene has not started yet.
        let scene = Scene::sipnat(NO_DNS, |config| {
            config
                .line("dns = [\"203.0.113.104\"]")
                .line("trusted = [\"203.0.113.0/24\"]")
        })?;
        assert_eq!(scene.lab.o(5).ip.to_string(), "203.0.113.104");
        let dns = programs::dns(scene.lab.o(5), &records(&scene)).unwrap();
        Some(Self { scene, _dns: dns })
    }

    fn send(&self, uri: &str) -> Message {
        let request = Request::new("MESSAGE", uri, &self.scene.caller).message();
        self.scene.send(&self.scene.caller, &request);
        request
    }

    /// Shows that a request for this URI comes to this peer in a datagram.
    fn arrives(&self, uri: &str, at: &Peer) {
        let sent = self.send(uri);
        let came = self.scene.arrived(at, &sent);
        assert_eq!(came.request_uri(), uri);
        self.scene.reply(at, &came, 200, "OK");
        assert_eq!(self.scene.final_of(&self.scene.caller, &sent).status(), Some(200));
    }
}

#[test]
fn sec_4_1_naptr_chooses_the_transport() {
    let named = Named::new(|scene| {
        vec![
            Record::Naptr("x.example", 50, 50, "s", "SIP+D2T", "_sip._tcp.x.example"),
            Record::Naptr("x.example", 90, 50, "s", "SIP+D2U", "_sip._udp.x.example"),
            Record::Srv("_sip._tcp.x.example", 1, 1, 5080, "a.x.example"),
            Record::Srv("_sip._udp.x.example", 1, 1, 5060, "a.x.example"),
            Record::A("a.x.example", scene.lab.o(2).ip),
        ]
    });
    let Some(named) = named else { return };
    let listener = Listener::start(named.scene.lab.o(2), 5080).unwrap();
    named.send("sip:user@x.example");
    let mut stream = listener.accept().unwrap();
    stream.recv_where("the MESSAGE", is("MESSAGE")).unwrap();
}

#[test]
fn sec_4_1_without_naptr_the_srv_records_are_asked() {
    let named = Named::new(|scene| {
        vec![
            Record::Srv("_sip._udp.x.example", 1, 1, 5060, "a.x.example"),
            Record::A("a.x.example", scene.lab.o(2).ip),
            Record::A("x.example", scene.lab.o(3).ip),
        ]
    });
    let Some(named) = named else { return };
    named.arrives("sip:user@x.example", &named.scene.phone);
}

#[test]
fn sec_4_2_without_srv_the_address_and_the_default_port() {
    let Some(named) = Named::new(|scene| vec![Record::A("x.example", scene.lab.o(2).ip)]) else {
        return;
    };
    named.arrives("sip:user@x.example", &named.scene.phone);
}

#[test]
fn sec_4_2_with_a_port_the_address_only() {
    let named = Named::new(|scene| {
        vec![
            Record::Srv("_sip._udp.x.example", 1, 1, 5060, "a.x.example"),
            Record::A("a.x.example", scene.lab.o(3).ip),
            Record::A("x.example", scene.lab.o(2).ip),
        ]
    });
    let Some(named) = named else { return };
    let other = Peer::udp(named.scene.lab.o(2), 5077).unwrap();
    named.arrives("sip:user@x.example:5077", &other);
}

#[test]
fn sec_4_1_a_numeric_address_needs_no_names_and_udp() {
    let Some(named) = Named::new(|_| vec![]) else { return };
    let uri = format!("sip:user@{}", named.scene.phone.endpoint.ip());
    named.arrives(&uri, &named.scene.phone);
}

#[test]
fn sec_4_1_the_transport_parameter_decides() {
    let Some(named) = Named::new(|scene| vec![Record::A("x.example", scene.lab.o(2).ip)]) else {
        return;
    };
    let listener = Listener::start(named.scene.lab.o(2), 5060).unwrap();
    named.send("sip:user@x.example;transport=tcp");
    let mut stream = listener.accept().unwrap();
    stream.recv_where("the MESSAGE", is("MESSAGE")).unwrap();
    named.scene.phone.nothing(QUIET, is("MESSAGE")).unwrap();
}

#[test]
fn sec_4_2_srv_by_priority() {
    let named = Named::new(|scene| {
        vec![
            Record::Srv("_sip._udp.x.example", 20, 100, 5060, "b.x.example"),
            Record::Srv("_sip._udp.x.example", 10, 1, 5060, "a.x.example"),
            Record::A("a.x.example", scene.lab.o(2).ip),
            Record::A("b.x.example", scene.lab.o(3).ip),
        ]
    });
    let Some(named) = named else { return };
    for _ in 0..3 {
        named.arrives("sip:user@x.example", &named.scene.phone);
    }
    named.scene.second.nothing(QUIET, is("MESSAGE")).unwrap();
}

#[test]
fn sec_4_3_the_next_place_is_tried_where_nobody_listens() {
    let named = Named::new(|scene| {
        vec![
            // ICMP says so.
            Record::Srv("_sip._udp.x.example", 10, 1, 5099, "a.x.example"),
            Record::Srv("_sip._udp.x.example", 20, 1, 5060, "b.x.example"),
            Record::A("a.x.example", scene.lab.o(2).ip),
            Record::A("b.x.example", scene.lab.o(3).ip),
        ]
    });
    let Some(named) = named else { return };
    named.arrives("sip:user@x.example", &named.scene.second);
}

#[test]
fn sec_4_3_the_next_place_is_tried_after_503() {
    let named = Named::new(|scene| {
        vec![
            Record::Srv("_sip._udp.x.example", 10, 1, 5060, "a.x.example"),
            Record::Srv("_sip._udp.x.example", 20, 1, 5060, "b.x.example"),
            Record::A("a.x.example", scene.lab.o(2).ip),
            Record::A("b.x.example", scene.lab.o(3).ip),
        ]
    });
    let Some(named) = named else { return };
    let scene = &named.scene;
    let sent = named.send("sip:user@x.example");
    let first = scene.arrived(&scene.phone, &sent);
    scene.reply(&scene.phone, &first, 503, "Service Unavailable");
    let next = scene.arrived(&scene.second, &sent);
    assert_ne!(first.branch(), next.branch(), "it is another transaction");
    scene.reply(&scene.second, &next, 200, "OK");
    assert_eq!(scene.final_of(&scene.caller, &sent).status(), Some(200));
}

#[test]
fn sec_4_3_the_next_place_is_tried_where_tcp_is_refused() {
    let named = Named::new(|scene| {
        vec![
            Record::Srv("_sip._tcp.x.example", 10, 1, 5099, "a.x.example"),
            Record::Srv("_sip._tcp.x.example", 20, 1, 5060, "b.x.example"),
            Record::A("a.x.example", scene.lab.o(2).ip),
            Record::A("b.x.example", scene.lab.o(3).ip),
        ]
    });
    let Some(named) = named else { return };
    let listener = Listener::start(named.scene.lab.o(3), 5060).unwrap();
    named.send("sip:user@x.example;transport=tcp");
    let mut stream = listener.accept().unwrap();
    stream.recv_where("the MESSAGE", is("MESSAGE")).unwrap();
}

#[test]
fn sec_4_a_name_that_is_not_there_fails() {
    let Some(named) = Named::new(|_| vec![]) else { return };
    let sent = named.send("sip:user@x.example");
    let answer = named.scene.final_of(&named.scene.caller, &sent);
    assert!(answer.status() >= Some(400), "{answer:?}");
}

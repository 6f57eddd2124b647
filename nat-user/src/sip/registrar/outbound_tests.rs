//! Path (RFC 3327), outbound (RFC 5626) and keep (RFC 6223).

use super::tests::{NOW, Server, settings};
use crate::sip::flow::{ConnectionId, Flow, ListenerId, Transport};

const INSTANCE: &str = "+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-AABBCCDDEEFF>\"";

fn contact(uri: &str, reg_id: u32) -> String {
    format!("Contact: <{uri}>;reg-id={reg_id};{INSTANCE}")
}

fn tcp(port: u16) -> Flow {
    Flow::stream(
        ListenerId(0),
        Transport::Tcp,
        ([134, 56, 1, 1], port).into(),
        ConnectionId(u64::from(port)),
    )
}

/// RFC 5626 section 9.2 at a registrar that is the first hop.
#[test]
fn flows_replace_each_other_by_instance_and_reg_id() {
    let mut server = Server::new(settings());
    server.flow = tcp(1);
    let supported = "Supported: path, outbound";
    let first = server.register("1", 1, &[supported, &contact("sip:bob@192.0.2.2;transport=tcp", 1)]);
    assert_eq!(first.values("Require"), ["outbound"]);
    assert_eq!(first.values("Flow-Timer"), ["120"]);
    assert_eq!(
        first.contacts(),
        [format!(
            "<sip:bob@192.0.2.2;transport=tcp>;reg-id=1;{INSTANCE};expires=3600"
        )]
    );
    server.flow = tcp(2);
    assert_eq!(
        server
            .register("1", 2, &[supported, &contact("sip:bob@192.0.2.2;transport=tcp", 2)])
            .contacts()
            .len(),
        2
    );
    // The phone was restarted: another URI, another flow, the same binding.
    server.flow = tcp(3);
    let again = server.register("2", 1, &[supported, &contact("sip:bob@192.0.2.3;transport=tcp", 1)]);
    assert_eq!(again.contacts().len(), 2);
    assert_eq!(
        server.uris(),
        ["sip:bob@192.0.2.3;transport=tcp", "sip:bob@192.0.2.2;transport=tcp"]
    );
    assert!(server.paths.find(&tcp(1)).is_none());
    assert!(
        server
            .paths
            .get(server.paths.find(&tcp(3)).unwrap())
            .unwrap()
            .keeps_alive
    );
    let targets = server.location.lookup("user@net.com", NOW).usable;
    assert_eq!(targets.len(), 1, "one device");
    // A flow that is lost takes its binding with it.
    server.location.flow_ended(&tcp(3), &mut server.paths, NOW);
    assert_eq!(server.uris(), ["sip:bob@192.0.2.2;transport=tcp"]);
    let two = format!("{}, <sip:other@1.1.1.1>", contact("sip:bob@192.0.2.2", 2));
    assert_eq!(server.register("3", 1, &[supported, &two]).code, 400);
    let gone = format!("{};expires=0", contact("sip:bob@192.0.2.2", 2));
    assert_eq!(server.register("3", 2, &[supported, &gone]).contacts().len(), 0);
}

#[test]
fn a_reg_id_alone_means_nothing() {
    let mut server = Server::new(settings());
    let without = server.register("1", 1, &["Supported: outbound", "Contact: <sip:a@1.1.1.1>;reg-id=1"]);
    assert_eq!((without.code, without.values("Require").len()), (200, 0));
    assert_eq!(
        server.location.contacts("user@net.com", NOW).next().unwrap().reg_id,
        None
    );
    // Without the option tag the binding is by flow, but nothing is promised.
    let untold = server.register("1", 2, &[&contact("sip:b@1.1.1.1", 1)]);
    assert_eq!(
        (
            untold.code,
            untold.values("Require").len(),
            untold.values("Flow-Timer").len()
        ),
        (200, 0, 0)
    );
    assert!(
        server
            .location
            .contacts("user@net.com", NOW)
            .nth(1)
            .unwrap()
            .reg_id
            .is_some()
    );
}

fn through_a_proxy(cseq: u32, lines: &[&str]) -> String {
    format!(
        "REGISTER sip:net.com SIP/2.0\r\n\
         Via: SIP/2.0/UDP edge.example:5060;branch=z9hG4bKe, SIP/2.0/UDP 192.168.1.10;branch=z9hG4bKu;keep\r\n\
         From: <sip:user@net.com>;tag=1\r\nTo: <sip:user@net.com>\r\nCall-ID: 1\r\nCSeq: {cseq} REGISTER\r\n{}\r\n\r\n",
        lines.join("\r\n")
    )
}

#[test]
fn the_first_hop_must_know_outbound() {
    let mut server = Server::new(settings());
    let bob = contact("sip:bob@192.168.1.10", 1);
    let supported = "Supported: path, outbound";
    let lacks = server.send(&through_a_proxy(1, &[supported, &bob]));
    assert_eq!((lacks.code, lacks.reason), (439, "First Hop Lacks Outbound Support"));
    let lacks = server.send(&through_a_proxy(
        2,
        &[supported, &bob, "Path: <sip:token@edge.example;lr>"],
    ));
    assert_eq!(lacks.code, 439);
    let ignored = server.send(&through_a_proxy(
        3,
        &["Supported: path", &bob, "Path: <sip:token@edge.example;lr>"],
    ));
    assert_eq!((ignored.code, ignored.values("Require").len()), (200, 0));
    assert_eq!(
        server.location.contacts("user@net.com", NOW).next().unwrap().reg_id,
        None
    );
    let path = "Path: <sip:token@edge.example;lr;ob>, <sip:second.example;lr>";
    let known = server.send(&through_a_proxy(4, &[supported, &bob, path]));
    assert_eq!(
        (known.code, known.values("Require"), known.values("Flow-Timer").len()),
        (200, vec!["outbound"], 0)
    );
    assert_eq!(
        known.values("Path"),
        ["<sip:token@edge.example;lr;ob>,<sip:second.example;lr>"]
    );
    assert_eq!(known.keep, None, "keep is between neighbours");
    let contact = server.location.contacts("user@net.com", NOW).nth(1).unwrap();
    assert_eq!((contact.flow, contact.path_id, contact.behind_nat), (None, None, false));
    assert_eq!(contact.path, b"<sip:token@edge.example;lr;ob>,<sip:second.example;lr>");
    assert!(server.paths.is_empty(), "its path is the edge proxy's");
}

/// RFC 3327 section 5.3.
#[test]
fn a_path_that_the_device_does_not_know_of() {
    let mut server = Server::new(settings());
    let lines = ["Contact: <sip:a@1.1.1.1>", "Path: <sip:edge.example;lr>"];
    let refused = server.send(&through_a_proxy(1, &lines));
    assert_eq!((refused.code, refused.values("Unsupported")), (420, vec!["path"]));
    server.trusted = true;
    let accepted = server.send(&through_a_proxy(2, &lines));
    assert_eq!((accepted.code, accepted.values("Path").len()), (200, 0));
    assert_eq!(
        server.location.contacts("user@net.com", NOW).next().unwrap().path,
        b"<sip:edge.example;lr>"
    );
    assert_eq!(server.send(&through_a_proxy(3, &["Path: nonsense"])).code, 400);
}

#[test]
fn keep_is_answered_with_a_time() {
    let mut server = Server::new(settings());
    let request = |server: &mut Server, cseq: u32| {
        server.send(&format!(
            "REGISTER sip:net.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.168.1.10;branch=z9hG4bK1;rport;keep\r\nFrom: <sip:user@net.com>;tag=1\r\n\
             To: <sip:user@net.com>\r\nCall-ID: 1\r\nCSeq: {cseq} REGISTER\r\nContact: <sip:user@192.168.1.10>\r\n\r\n"
        ))
    };
    assert_eq!(request(&mut server, 1).keep, Some(15));
    let contact = server.location.contacts("user@net.com", NOW).next().unwrap();
    assert!(contact.keeps_alive && contact.behind_nat);
    server.flow = tcp(1);
    assert_eq!(request(&mut server, 2).keep, Some(120));
    assert_eq!(request(&mut server, 2).code, 500);
}

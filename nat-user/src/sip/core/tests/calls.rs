//! Whole calls (RFC 3665 section 3).

use super::*;

/// S1: a phone at 192.168.1.10:5060 behind 134.56.1.1:5070 is called from outside, and both sides end a call.
#[test]
fn a_phone_behind_a_nat_is_called() {
    let mut world = World::new(|_| {});
    let (phone, caller) = (udp("134.56.1.1:5070"), udp("134.56.9.9:5060"));
    world.register(
        "user@net.com",
        vec![found("sip:user@192.168.1.10:5060", phone, true, 1000)],
    );

    let out = world.receive(caller, &Ask::default().text());
    assert_eq!(whats(&out), ["100", "INVITE"]);
    assert_eq!(
        (out[0].remote(), &out[1].to),
        (caller.remote, &Destination::Flow(phone))
    );
    let invite = &out[1];
    assert_eq!(invite.message.request_uri(), b"sip:user@192.168.1.10:5060");
    // Exactly these lines differ.
    let rest: Vec<&str> = invite
        .text()
        .lines()
        .filter(|line| !line.starts_with("Record-Route:") && !line.starts_with("Via: SIP/2.0/UDP 134.56.3.1"))
        .collect();
    let expected = Ask {
        uri: "sip:user@192.168.1.10:5060",
        ..Ask::default()
    };
    assert_eq!(
        rest.join("\n") + "\n",
        expected
            .text()
            .replace("Max-Forwards: 70", "Max-Forwards: 69")
            .replace("Content-Length: 0\n", "Content-Length: 0\nMax-Breadth: 60\n")
    );
    assert_eq!(invite.values(HeaderName::Via).len(), 2);
    assert_eq!(
        invite.values(HeaderName::RecordRoute).len(),
        2,
        "the callee's flow must be found again"
    );

    let out = world.receive(phone, &reply(invite, 100, "", ""));
    assert!(out.is_empty(), "100 is hop by hop");
    let ringing = world.receive(phone, &reply(invite, 180, "phone", ""));
    assert_eq!(
        (whats(&ringing), ringing[0].remote()),
        (vec!["180".into()], caller.remote)
    );
    assert_eq!(
        ringing[0].values(HeaderName::Via),
        ["SIP/2.0/UDP 134.56.9.9:5060;branch=z9hG4bKcaller"]
    );
    let ok = world.receive(
        phone,
        &reply(invite, 200, "phone", "Contact: <sip:user@192.168.1.10:5060>\n"),
    );
    assert_eq!(whats(&ok), ["200"]);
    assert_eq!(world.core.dialogs().calls(), 1);

    // The caller's ACK and BYE go along the route set, to the URI of the phone, on its flow.
    let (uri, routes) = (contact(&ok[0]), route_set(&ok[0], true));
    let within = |method, branch: &str, cseq| {
        Ask {
            method,
            uri: &uri,
            via: &format!("SIP/2.0/UDP 134.56.9.9:5060;branch=z9hG4bK{branch}"),
            to: "<sip:user@net.com>;tag=phone",
            more: &routes,
            cseq,
            ..Ask::default()
        }
        .text()
    };
    let ack = world.receive(caller, &within("ACK", "ack", 1));
    assert_eq!(
        (whats(&ack), &ack[0].to),
        (vec!["ACK".into()], &Destination::Flow(phone))
    );
    assert!(ack[0].values(HeaderName::Route).is_empty());
    let bye = world.receive(caller, &within("BYE", "bye", 2));
    assert_eq!(
        (whats(&bye), &bye[0].to),
        (vec!["BYE".into()], &Destination::Flow(phone))
    );
    assert_eq!(bye[0].message.request_uri(), b"sip:user@192.168.1.10:5060");
    let done = world.receive(phone, &reply(&bye[0], 200, "", ""));
    assert_eq!((whats(&done), done[0].remote()), (vec!["200".into()], caller.remote));
    assert_eq!(world.core.dialogs().calls(), 0);

    world.pass(Duration::from_secs(33));
    world.assert_idle();
}

/// The phone behind the NAT calls, and ends the call; then the callee ends another.
#[test]
fn a_phone_behind_a_nat_calls() {
    let mut world = World::new(|_| {});
    let (phone, bob) = (udp("134.56.1.1:5070"), udp("134.56.9.9:5060"));
    world.register("bob@net.com", vec![found("sip:bob@134.56.9.9:5060", bob, false, 1000)]);
    for hangs_up in ["phone", "bob"] {
        let call = format!("call-{hangs_up}");
        let via = format!("SIP/2.0/UDP 192.168.1.10:5060;rport;branch=z9hG4bK{hangs_up}");
        let ask = Ask {
            uri: "sip:bob@net.com",
            via: &via,
            from: "<sip:user@net.com>;tag=phone",
            to: "<sip:bob@net.com>",
            call: &call,
            more: "Contact: <sip:user@192.168.1.10:5060>\n",
            ..Ask::default()
        };
        let out = world.receive(phone, &ask.text());
        assert_eq!(whats(&out), ["100", "INVITE"]);
        let noted = format!("SIP/2.0/UDP 192.168.1.10:5060;rport=5070;branch=z9hG4bK{hangs_up};received=134.56.1.1");
        assert_eq!(out[0].values(HeaderName::Via), [&noted]);
        assert_eq!(out[1].values(HeaderName::Via)[1], noted);
        let ok = world.receive(bob, &reply(&out[1], 200, "bob", "Contact: <sip:bob@134.56.9.9:5060>\n"));
        assert_eq!((whats(&ok), ok[0].remote()), (vec!["200".into()], phone.remote));
        let (from, to) = ("<sip:user@net.com>;tag=phone", "<sip:bob@net.com>;tag=bob");
        let (bye, expected) = if hangs_up == "phone" {
            let routes = route_set(&ok[0], true);
            let bye = Ask {
                method: "BYE",
                uri: "sip:bob@134.56.9.9:5060",
                via: "SIP/2.0/UDP 192.168.1.10:5060;rport;branch=z9hG4bKbye",
                from,
                to,
                call: &call,
                more: &routes,
                ..Ask::default()
            };
            (world.receive(phone, &bye.text()), bob)
        } else {
            let routes = route_set(&out[1], false);
            let bye = Ask {
                method: "BYE",
                uri: "sip:user@192.168.1.10:5060",
                from: to,
                to: from,
                call: &call,
                more: &routes,
                ..Ask::default()
            };
            (world.receive(bob, &bye.text()), phone)
        };
        assert_eq!(
            (whats(&bye), bye[0].remote()),
            (vec!["BYE".into()], expected.remote),
            "{hangs_up}"
        );
        let done = world.receive(expected, &reply(&bye[0], 200, "", ""));
        assert_eq!(whats(&done), ["200"]);
    }
    world.pass(Duration::from_secs(33));
    world.assert_idle();
}

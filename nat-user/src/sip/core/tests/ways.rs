//! Where requests go: foreign domains, loops, routes, transports, flows that are gone.

use super::*;
use crate::sip::{
    command::{Hop, SendError},
    transaction::key::unhex,
};

const CALLER: &str = "134.56.9.9:5060";
/// A contact of the outbound role.
const EDGE: &str = "e~AAAAAAAAAAAAAAAA";

fn answer(sent: &[Sent]) -> &str {
    assert_eq!(sent.len(), 1, "{sent:?}");
    sent[0].text().lines().next().unwrap()
}

#[test]
fn never_an_open_relay() {
    let mut world = World::new(|_| {});
    let ask = |world: &mut World, ask: Ask| {
        let out = world.receive(udp(CALLER), &ask.text());
        world.pass(Duration::from_secs(70));
        world.assert_idle();
        out.first().map(Sent::what)
    };
    let foreign = || Ask {
        uri: "sip:bob@192.0.2.77",
        ..Ask::default()
    };
    assert_eq!(ask(&mut world, foreign()).as_deref(), Some("403"));
    let routed = Ask {
        more: "Route: <sip:134.56.3.1;lr>, <sip:192.0.2.77;lr>\n",
        ..Ask::default()
    };
    assert_eq!(ask(&mut world, routed).as_deref(), Some("403"));
    let pretended = Ask {
        method: "BYE",
        to: "<sip:bob@192.0.2.77>;tag=x",
        more: "Route: <sip:134.56.3.1;lr>\n",
        ..foreign()
    };
    assert_eq!(ask(&mut world, pretended).as_deref(), Some("403"));
    let forged = Ask {
        method: "BYE",
        to: "<sip:bob@192.0.2.77>;tag=x",
        more: "Route: <sip:d~AAAAAAAAAAAAAAAAAAAAAAAA@134.56.3.1;lr>\n",
        ..foreign()
    };
    assert_eq!(ask(&mut world, forged).as_deref(), Some("403"));
    let ack = Ask {
        method: "ACK",
        to: "<sip:bob@192.0.2.77>;tag=x",
        more: "Route: <sip:134.56.3.1;lr>\n",
        ..foreign()
    };
    assert_eq!(ask(&mut world, ack), None);
    let nobody = Ask {
        uri: "sip:nobody@net.com",
        ..Ask::default()
    };
    assert_eq!(ask(&mut world, nobody).as_deref(), Some("404"));
}

#[test]
fn refusals_before_anything_is_stored() {
    let mut world = World::new(|_| {});
    for (line, from, to) in [
        ("SIP/2.0 483 Too Many Hops", "Max-Forwards: 70", "Max-Forwards: 0"),
        (
            "SIP/2.0 420 Bad Extension",
            "Content-Length",
            "Proxy-Require: foo\nContent-Length",
        ),
        (
            "SIP/2.0 416 Unsupported URI Scheme",
            "sip:user@net.com SIP",
            "http://x SIP",
        ),
        (
            "SIP/2.0 440 Max-Breadth Exceeded",
            "Content-Length",
            "Max-Breadth: 0\nContent-Length",
        ),
        ("SIP/2.0 400 Missing Call-ID", "Call-ID: call-1@elsewhere.com\n", ""),
    ] {
        let text = Ask::default().text().replace(from, to);
        assert_eq!(answer(&world.receive(udp(CALLER), &text)), line);
        world.assert_idle();
    }
    // The ACK of such an answer ends here, though it looks like one for a 2xx.
    let out = world.receive(
        udp(CALLER),
        &Ask {
            uri: "sip:nobody@net.com",
            ..Ask::default()
        }
        .text(),
    );
    let to = out[0].values(HeaderName::To)[0].to_owned();
    let ack = Ask {
        method: "ACK",
        uri: "sip:nobody@net.com",
        to: &to,
        ..Ask::default()
    };
    assert!(world.receive(udp(CALLER), &ack.text()).is_empty());
    let options = Ask {
        method: "OPTIONS",
        uri: "sip:134.56.3.1",
        to: "<sip:134.56.3.1>",
        ..Ask::default()
    };
    let out = world.receive(
        udp(CALLER),
        &options.text().replace("Max-Forwards: 70", "Max-Forwards: 0"),
    );
    assert_eq!(answer(&out), "SIP/2.0 200 OK");
    assert!(out[0].message.find(HeaderName::Allow).is_some());
}

#[test]
fn places_are_tried_in_their_order() {
    let mut world = World::new(|_| {});
    world.core.registry.trusted.push(addr(CALLER));
    let ask = Ask {
        uri: "sip:bob@elsewhere.com",
        ..Ask::default()
    };
    let (query, host) = world.receive_and_ask(udp(CALLER), &ask.text());
    assert_eq!(host, "elsewhere.com");
    let hop = |transport, address: &str| Hop {
        transport,
        address: addr(address),
        name: None,
    };
    let hops = vec![
        hop(Transport::Tls, "192.0.2.50:5061"),
        hop(Transport::Tcp, "192.0.2.51:5060"),
        hop(Transport::Udp, "192.0.2.52:5060"),
        hop(Transport::Udp, "192.0.2.53:5060"),
    ];
    let commands = world.input(Input::Resolved { query, hops });
    let ticket = commands.iter().find_map(|command| match command {
        Command::Send { ticket, .. } => *ticket,
        _ => None,
    });
    let out = sent(commands);
    assert_eq!(
        (whats(&out), out[0].remote()),
        (vec!["INVITE".into()], addr("192.0.2.51:5060")),
        "there is no TLS listener"
    );
    assert!(out[0].values(HeaderName::Via)[0].starts_with("SIP/2.0/TCP 134.56.3.1:5060;"));
    assert_eq!(out[0].values(HeaderName::RecordRoute).len(), 2, "the transport changes");
    let failed = Input::Failed {
        ticket: ticket.unwrap(),
        reason: SendError::Unreachable,
    };
    let out = sent(world.input(failed));
    assert_eq!(out[0].remote(), addr("192.0.2.52:5060"));
    assert_eq!(out[0].values(HeaderName::RecordRoute).len(), 1);
    let out = world.receive(udp("192.0.2.52:5060"), &reply(&out[0], 503, "x", ""));
    assert_eq!(
        (whats(&out), out[1].remote()),
        (vec!["ACK".into(), "INVITE".into()], addr("192.0.2.53:5060"))
    );
    let out = world.receive(udp("192.0.2.53:5060"), &reply(&out[1], 503, "x", ""));
    assert_eq!(whats(&out), ["ACK", "500"], "503 would mean us");
    world.pass(Duration::from_secs(33));
    world.assert_idle();
}

#[test]
fn a_name_that_is_not_there() {
    let mut world = World::new(|_| {});
    world.core.registry.trusted.push(addr(CALLER));
    let ask = Ask {
        method: "MESSAGE",
        uri: "sip:bob@elsewhere.com",
        ..Ask::default()
    };
    let (query, _) = world.receive_and_ask(udp(CALLER), &ask.text());
    let out = sent(world.input(Input::Resolved { query, hops: vec![] }));
    assert_eq!(whats(&out), ["500"]);
    world.assert_idle();
    assert_eq!(world.core.metrics.queries_unanswered, 0);
}

/// A look-up that nobody ever answers ends when a request would (64 × T1), and its answer is late then.
#[test]
fn a_name_that_nobody_looks_up() {
    let mut world = World::new(|_| {});
    world.core.registry.trusted.push(addr(CALLER));
    let invite = Ask {
        uri: "sip:bob@elsewhere.com",
        ..Ask::default()
    };
    let (query, _) = world.receive_and_ask(udp(CALLER), &invite.text());
    let ack = Ask {
        method: "ACK",
        to: "<sip:bob@elsewhere.com>;tag=bob",
        via: "SIP/2.0/UDP 134.56.9.9:5060;branch=z9hG4bKack",
        call: "call-2",
        ..invite
    };
    world.receive_and_ask(udp(CALLER), &ack.text());
    assert!(world.pass(Duration::from_millis(31_999)).is_empty());
    let out = world.pass(Duration::from_millis(1));
    assert_eq!(whats(&out), ["408"]);
    assert_eq!(world.core.metrics.queries_unanswered, 2);
    let late = Hop {
        transport: Transport::Udp,
        address: addr("192.0.2.50:5060"),
        name: None,
    };
    assert!(
        world
            .input(Input::Resolved {
                query,
                hops: vec![late]
            })
            .is_empty()
    );
    world.pass(Duration::from_secs(33));
    world.assert_idle();
}

/// The next gateway of the dial plan rings if the name of the first is not looked up in time.
#[test]
fn a_name_that_nobody_looks_up_and_another_gateway() {
    let mut world = World::new(|config| {
        config.routes.push(config::Route {
            prefix: "0".into(),
            domain: None,
            strip: 0,
            prepend: String::new(),
            to: vec!["sip:gateway.example".into(), "sip:192.0.2.62".into()],
        });
    });
    world.core.registry.trusted.push(addr(CALLER));
    let ask = Ask {
        method: "MESSAGE",
        uri: "sip:030@net.com",
        ..Ask::default()
    };
    let (_, host) = world.receive_and_ask(udp(CALLER), &ask.text());
    assert_eq!(host, "gateway.example");
    let out = world.pass(Duration::from_secs(32));
    assert_eq!(
        (whats(&out), out[0].remote()),
        (vec!["MESSAGE".into()], addr("192.0.2.62:5060"))
    );
}

/// Two proxies, each of which takes the other for the home of a user.
#[test]
fn a_loop_ends() {
    let uri = "sip:user@net.com";
    for (fork, expected) in [(false, "482"), (true, "482")] {
        let mut worlds = [World::new(|_| {}), World::new(|_| {})];
        let there = udp("134.56.3.1:5060");
        for world in &mut worlds {
            let mut contacts = vec![found(uri, there, false, 1000)];
            if fork {
                contacts.push(found(uri, there, false, 900));
            }
            world.register("user@net.com", contacts);
        }
        // One carries what the other sends, until nothing moves any more.
        let mut queue: std::collections::VecDeque<(usize, String)> = [(0, Ask::default().text())].into();
        let mut finals = Vec::new();
        let mut steps = 0;
        while let Some((at, text)) = queue.pop_front() {
            steps += 1;
            assert!(steps < 200, "it goes on and on");
            let from = if steps == 1 { udp(CALLER) } else { there };
            for sent in worlds[at].receive(from, &text) {
                if sent.remote() == addr(CALLER) {
                    finals.push(sent.what());
                } else {
                    queue.push_back((1 - at, sent.text().to_owned()));
                }
            }
        }
        assert_eq!(finals, ["100", expected]);
    }
}

#[test]
fn hops_run_out() {
    let mut world = World::new(|_| {});
    world.core.registry.trusted.push(addr(CALLER));
    // A spiral that is none of ours: only Max-Forwards ends it.
    let text = Ask {
        uri: "sip:bob@192.0.2.77",
        ..Ask::default()
    }
    .text();
    let out = world.receive(udp(CALLER), &text.replace("Max-Forwards: 70", "Max-Forwards: 1"));
    assert_eq!(out[1].values(HeaderName::MaxForwards), ["0"]);
    assert_eq!(out[1].remote(), addr("192.0.2.77:5060"));
    let via = out[1].message.via().unwrap();
    assert!(unhex(&via.branch()[8..24]).is_some());
}

#[test]
fn strict_routers() {
    let mut world = World::new(|_| {});
    world.core.registry.trusted.push(addr(CALLER));
    // The next one is strict: its URI becomes the request URI, and ours the last Route.
    let ask = Ask {
        uri: "sip:bob@192.0.2.77",
        more: "Route: <sip:134.56.3.1;lr>, <sip:192.0.2.50>, <sip:192.0.2.51;lr>\n",
        ..Ask::default()
    };
    let out = world.receive(udp(CALLER), &ask.text());
    assert_eq!(
        (out[1].message.request_uri(), out[1].remote()),
        (&b"sip:192.0.2.50"[..], addr("192.0.2.50:5060"))
    );
    assert_eq!(
        out[1].values(HeaderName::Route),
        ["<sip:192.0.2.51;lr>", "<sip:bob@192.0.2.77>"]
    );
    // A loose one: nothing but our own entry goes.
    let ask = Ask {
        call: "call-2",
        via: "SIP/2.0/UDP 134.56.9.9:5060;branch=z9hG4bK2",
        more: "Route: <sip:134.56.3.1;lr>, <sip:192.0.2.50;lr>, <sip:192.0.2.51;lr>\n",
        uri: "sip:bob@192.0.2.77",
        ..Ask::default()
    };
    let out = world.receive(udp(CALLER), &ask.text());
    assert_eq!(
        (out[1].message.request_uri(), out[1].remote()),
        (&b"sip:bob@192.0.2.77"[..], addr("192.0.2.50:5060"))
    );
    assert_eq!(
        out[1].values(HeaderName::Route),
        ["<sip:192.0.2.50;lr>", "<sip:192.0.2.51;lr>"]
    );
}

/// A phone on TCP calls one on UDP; its in-dialog requests and those to it cross, and a connection that is gone is said so.
#[test]
fn two_transports_and_a_connection_that_ends() {
    let mut world = World::new(|_| {});
    let (phone, bob) = (tcp("134.56.1.1:40000", 1), udp("192.0.2.11:5060"));
    world.open(phone);
    world.register("bob@net.com", vec![found("sip:bob@192.0.2.11:5060", bob, false, 1000)]);
    let (from, to) = ("<sip:user@net.com>;tag=phone", "<sip:bob@net.com>;tag=bob");
    let ask = Ask {
        uri: "sip:bob@net.com",
        via: "SIP/2.0/TCP 192.168.1.10:5060;branch=z9hG4bK1",
        from,
        to: "<sip:bob@net.com>",
        more: "Contact: <sip:user@192.168.1.10:5060;transport=tcp>\n",
        ..Ask::default()
    };
    let out = world.receive(phone, &ask.text());
    let record = out[1].values(HeaderName::RecordRoute);
    assert_eq!(record.len(), 2);
    assert!(
        !record[0].contains("transport") && record[1].contains(";transport=tcp"),
        "{record:?}"
    );
    let ok = world.receive(bob, &reply(&out[1], 200, "bob", "Contact: <sip:bob@192.0.2.11:5060>\n"));
    assert_eq!(ok[0].to, Destination::Flow(phone));
    let routes = route_set(&out[1], false);
    let bye = |branch: &'static str| {
        Ask {
            method: "BYE",
            uri: "sip:user@192.168.1.10:5060;transport=tcp",
            via: branch,
            from: to,
            to: from,
            more: &routes,
            cseq: 2,
            ..Ask::default()
        }
        .text()
    };
    let out = world.receive(bob, &bye("SIP/2.0/UDP 192.0.2.11;branch=z9hG4bKb1"));
    assert_eq!(
        (whats(&out), &out[0].to),
        (vec!["BYE".into()], &Destination::Flow(phone))
    );
    world.input(Input::Closed(phone));
    let out = world.receive(bob, &bye("SIP/2.0/UDP 192.0.2.11;branch=z9hG4bKb2"));
    assert_eq!(answer(&out), "SIP/2.0 430 Flow Failed");
}

/// The device has moved: its BYE comes from another port, and what goes to it from then on goes there.
#[test]
fn a_flow_moves_within_a_dialog() {
    let mut world = World::new(|_| {});
    let (phone, moved, bob) = (udp("134.56.1.1:5070"), udp("134.56.1.1:6001"), udp("192.0.2.11:5060"));
    world.register("bob@net.com", vec![found("sip:bob@192.0.2.11:5060", bob, false, 1000)]);
    let (from, to) = ("<sip:user@net.com>;tag=phone", "<sip:bob@net.com>;tag=bob");
    let ask = Ask {
        uri: "sip:bob@net.com",
        via: "SIP/2.0/UDP 192.168.1.10:5060;rport;branch=z9hG4bK1",
        from,
        to: "<sip:bob@net.com>",
        more: "Contact: <sip:user@192.168.1.10:5060>\n",
        ..Ask::default()
    };
    let out = world.receive(phone, &ask.text());
    let invite = &out[1];
    let ok = world.receive(bob, &reply(invite, 200, "bob", "Contact: <sip:bob@192.0.2.11:5060>\n"));
    let info = Ask {
        method: "INFO",
        uri: "sip:bob@192.0.2.11:5060",
        via: "SIP/2.0/UDP 192.168.1.10:5060;rport;branch=z9hG4bK2",
        from,
        to,
        more: &route_set(&ok[0], true),
        cseq: 2,
        ..Ask::default()
    };
    assert_eq!(world.receive(moved, &info.text())[0].remote(), bob.remote);
    let bye = Ask {
        method: "BYE",
        uri: "sip:user@192.168.1.10:5060",
        via: "SIP/2.0/UDP 192.0.2.11;branch=z9hG4bKbye",
        from: to,
        to: from,
        more: &route_set(invite, false),
        ..Ask::default()
    };
    assert_eq!(world.receive(bob, &bye.text())[0].to, Destination::Flow(moved));
    assert!(
        world
            .core
            .paths
            .find(&phone)
            .is_some_and(|path| world.core.paths.get(path).unwrap().dialogs == 0)
    );
}

#[test]
fn without_record_route_contacts_can_be_reached() {
    let mut world = World::new(|config| config.proxy.record_route = config::RecordRoute::Never);
    let (phone, caller) = (udp("134.56.1.1:5070"), udp("134.56.2.2:6090"));
    world.register(
        "user@net.com",
        vec![found("sip:user@192.168.1.10:5060", phone, true, 1000)],
    );
    let ask = Ask {
        via: "SIP/2.0/UDP 10.0.0.3:5060;rport;branch=z9hG4bK1",
        more: "Contact: \"C\" <sip:caller@10.0.0.3:5060>;x=y\n",
        ..Ask::default()
    };
    let out = world.receive(caller, &ask.text());
    assert!(out[1].values(HeaderName::RecordRoute).is_empty());
    assert_eq!(
        out[1].values(HeaderName::Contact),
        ["\"C\" <sip:caller@134.56.2.2:6090>;x=y"]
    );
    for code in [180, 200] {
        let out = world.receive(
            phone,
            &reply(&out[1], code, "phone", "Contact: <sip:user@192.168.1.10:5060>\n"),
        );
        assert_eq!(out[0].values(HeaderName::Contact), ["<sip:user@134.56.1.1:5070>"]);
    }
    assert_eq!(world.core.dialogs().calls(), 0, "nothing of it comes by here any more");
}

#[test]
fn redirects() {
    let mut world = World::new(|config| config.listeners[0].role = Role::Redirect);
    let phone = udp("134.56.1.1:5070");
    world.register(
        "user@net.com",
        vec![found("sip:user@192.168.1.10:5060", phone, true, 1000)],
    );
    let out = world.receive(udp(CALLER), &Ask::default().text());
    assert_eq!(answer(&out), "SIP/2.0 302 Moved Temporarily");
    assert_eq!(out[0].values(HeaderName::Contact), ["<sip:user@134.56.1.1:5070>"]);
    let nobody = Ask {
        uri: "sip:nobody@net.com",
        via: "SIP/2.0/UDP 134.56.9.9:5060;branch=z9hG4bKnobody",
        ..Ask::default()
    };
    assert_eq!(
        answer(&world.receive(udp(CALLER), &nobody.text())),
        "SIP/2.0 404 Not Found"
    );
    // The transaction of the redirected call waits for its ACK.
    let to = String::from_utf8_lossy(out[0].message.value(HeaderName::To).unwrap()).into_owned();
    let ack = Ask {
        method: "ACK",
        to: &to,
        more: "",
        ..Ask::default()
    };
    assert!(world.receive(udp(CALLER), &ack.text()).is_empty());
    world.pass(Duration::from_secs(5)); // timer I
    world.assert_idle();
}

#[test]
fn gateways_and_numbers() {
    let mut world = World::new(|config| {
        config.routes.push(config::Route {
            prefix: "0".into(),
            domain: None,
            strip: 1,
            prepend: "+49".into(),
            to: vec!["sip:192.0.2.61".into(), "sip:192.0.2.62:5080".into()],
        });
        config.emergency_route = Some("sip:192.0.2.66".into());
        config.proxy.max_calls = 1;
    });
    let ask = |uri| Ask {
        uri,
        more: "X-User: user@net.com\nContact: <sip:caller@134.56.9.9:5060>\n",
        ..Ask::default()
    };
    let out = world.receive(udp(CALLER), &ask("sip:030123@net.com").text());
    assert_eq!(
        (out[1].message.request_uri(), out[1].remote()),
        (&b"sip:+4930123@192.0.2.61"[..], addr("192.0.2.61:5060"))
    );
    let out = world.receive(udp("192.0.2.61:5060"), &reply(&out[1], 503, "g", ""));
    assert_eq!(
        (out[1].message.request_uri(), out[1].remote()),
        (&b"sip:+4930123@192.0.2.62:5080"[..], addr("192.0.2.62:5080"))
    );
    // The one call that is allowed is under way: others are refused, an emergency is not, and not from anybody else either.
    let second = |uri| Ask {
        via: "SIP/2.0/UDP 134.56.9.9:5060;branch=z9hG4bKsecond",
        call: "call-2",
        ..ask(uri)
    };
    assert_eq!(
        whats(&world.receive(udp(CALLER), &second("sip:031@net.com").text())),
        ["503"]
    );
    let emergency = Ask {
        uri: "sip:112@net.com",
        call: "call-3",
        via: "SIP/2.0/UDP 134.56.8.8:5060;branch=z9hG4bKthird",
        ..Ask::default()
    };
    let out = world.receive(udp("134.56.8.8:5060"), &emergency.text());
    assert_eq!(
        (whats(&out), out[1].remote()),
        (vec!["100".into(), "INVITE".into()], addr("192.0.2.66:5060"))
    );
    let forbidden = Ask {
        via: "SIP/2.0/UDP 134.56.9.9:5060;branch=z9hG4bKforbidden",
        call: "call-4",
        ..ask("sip:0190@net.com")
    };
    assert_eq!(whats(&world.receive(udp(CALLER), &forbidden.text())), ["403"]);
    let stranger = Ask {
        uri: "sip:030@net.com",
        ..emergency
    };
    let stranger = stranger.text().replace("third", "fourth");
    assert_eq!(whats(&world.receive(udp("134.56.8.8:5060"), &stranger)), ["403"]);
}

/// The phone has registered from another port during the call: requests of the caller follow it.
#[test]
fn a_registration_moves_within_a_dialog() {
    let mut world = World::new(|_| {});
    let (phone, moved, caller) = (udp("134.56.1.1:5070"), udp("134.56.1.1:6001"), udp(CALLER));
    let mut contact = found("sip:user@192.168.1.10:5060", phone, true, 1000);
    contact.contact = Some(world.contact());
    world.register("user@net.com", vec![contact]);
    let out = world.receive(caller, &Ask::default().text());
    let ok = world.receive(
        phone,
        &reply(&out[1], 200, "phone", "Contact: <sip:user@192.168.1.10:5060>\n"),
    );
    world.core.registry.moved = Some(moved);
    let ack = Ask {
        method: "ACK",
        uri: "sip:user@192.168.1.10:5060",
        via: "SIP/2.0/UDP 134.56.9.9:5060;branch=z9hG4bKack",
        to: "<sip:user@net.com>;tag=phone",
        more: &route_set(&ok[0], true),
        ..Ask::default()
    };
    assert_eq!(world.receive(caller, &ack.text())[0].to, Destination::Flow(moved));
}

#[test]
fn sips_is_never_sent_in_clear_text() {
    let mut world = World::new(|_| {});
    world.register(
        "user@net.com",
        vec![found("sip:user@192.0.2.11", udp("192.0.2.11:5060"), false, 1000)],
    );
    let ask = Ask {
        uri: "sips:user@net.com",
        ..Ask::default()
    };
    assert_eq!(
        answer(&world.receive(udp(CALLER), &ask.text())),
        "SIP/2.0 480 Temporarily Unavailable"
    );
}

/// The outbound role serves those who have registered through it, and nobody else.
#[test]
fn an_outbound_proxy_is_no_open_relay() {
    let mut world = World::new(|config| config.listeners[0].role = Role::Outbound);
    let phone = udp("134.56.1.1:5070");
    let ask = Ask {
        uri: "sip:bob@192.0.2.77",
        ..Ask::default()
    };
    assert_eq!(whats(&world.receive(phone, &ask.text())), ["403"]);
    world.core.registry.clients.push(phone.remote);
    let out = world.receive(phone, &ask.text());
    assert_eq!(
        (whats(&out), out[1].remote()),
        (vec!["100".into(), "INVITE".into()], addr("192.0.2.77:5060"))
    );
    // What comes back for the phone's contact finds its flow.
    world.core.registry.edges.insert(
        EDGE.as_bytes().to_vec(),
        (phone, Bytes::from_static(b"sip:me@192.168.1.10:5060")),
    );
    let call = Ask {
        uri: &format!("sip:{EDGE}@134.56.3.1:5060"),
        via: "SIP/2.0/UDP 192.0.2.77:5060;branch=z9hG4bKback",
        call: "call-2",
        ..Ask::default()
    };
    let out = world.receive(udp("192.0.2.77:5060"), &call.text());
    assert_eq!(
        (out[1].message.request_uri(), &out[1].to),
        (&b"sip:me@192.168.1.10:5060"[..], &Destination::Flow(phone))
    );
    assert_eq!(out[1].values(HeaderName::RecordRoute).len(), 2);
}

#[test]
fn a_contact_of_the_outbound_role_that_is_gone() {
    let mut world = World::new(|_| {});
    let ask = Ask {
        uri: &format!("sip:{EDGE}@134.56.3.1:5060"),
        ..Ask::default()
    };
    assert_eq!(
        answer(&world.receive(udp(CALLER), &ask.text())),
        "SIP/2.0 430 Flow Failed"
    );
}

/// RFC 3327 section 5.3: the Path of a registration becomes the Route; a first proxy that is a strict router becomes the request URI.
#[test]
fn the_path_of_a_registration_is_the_route() {
    for (path, uri, routes) in [
        (
            "<sip:edge@192.0.2.50;lr>, <sip:192.0.2.51;lr>",
            "sip:user@10.1.1.1",
            vec!["<sip:edge@192.0.2.50;lr>", "<sip:192.0.2.51;lr>"],
        ),
        (
            "<sip:edge@192.0.2.50>, <sip:192.0.2.51;lr>",
            "sip:edge@192.0.2.50",
            vec!["<sip:192.0.2.51;lr>", "<sip:user@10.1.1.1>"],
        ),
    ] {
        let mut world = World::new(|_| {});
        let contact = Found {
            path: Bytes::from_static(path.as_bytes()),
            flow: None,
            ..found("sip:user@10.1.1.1", udp(CALLER), false, 1000)
        };
        world.register("user@net.com", vec![contact]);
        let out = world.receive(udp(CALLER), &Ask::default().text());
        assert_eq!(
            (out[1].remote(), out[1].message.request_uri()),
            (addr("192.0.2.50:5060"), uri.as_bytes())
        );
        assert_eq!(out[1].values(HeaderName::Route), routes);
    }
}

#[test]
fn who_may_call_whom() {
    let mut world = World::new(|config| config.domains[0].callers = config::Callers::Authenticated);
    let phone = udp("134.56.1.1:5070");
    world.register(
        "user@net.com",
        vec![found("sip:user@192.168.1.10:5060", phone, true, 1000)],
    );
    assert_eq!(whats(&world.receive(udp(CALLER), &Ask::default().text())), ["403"]);
    let known = Ask {
        more: "X-User: other@net.com\n",
        ..Ask::default()
    };
    assert_eq!(whats(&world.receive(udp(CALLER), &known.text())), ["100", "INVITE"]);
    // A path that is down and no other.
    world.core.registry.contacts.insert(
        "user@net.com".into(),
        Lookup {
            usable: vec![],
            down: true,
        },
    );
    let again = known.text().replace("z9hG4bKcaller", "z9hG4bKagain");
    assert_eq!(whats(&world.receive(udp(CALLER), &again)), ["480"]);
}

/// A REGISTER goes where the dial plan says, its request URI stays, and the next place is only tried if the first is not reached.
#[test]
fn a_registrar_by_the_dial_plan() {
    let mut world = World::new(|config| config.listeners[0].role = Role::Outbound);
    let register = |branch: &str| {
        Ask {
            method: "REGISTER",
            uri: "sip:provider.example",
            via: &format!("SIP/2.0/UDP 192.168.1.10:5060;rport;branch=z9hG4bK{branch}"),
            ..Ask::default()
        }
        .text()
    };
    let phone = udp("134.56.1.1:5070");
    world.core.registry.registrars = vec!["sip:192.0.2.61".into(), "sip:192.0.2.62:5080".into()];
    let out = world.receive(phone, &register("r1"));
    assert_eq!(
        (out[0].message.request_uri(), out[0].remote()),
        (&b"sip:provider.example"[..], addr("192.0.2.61:5060"))
    );
    assert!(out[0].values(HeaderName::Route).is_empty());
    let out = world.receive(udp("192.0.2.61:5060"), &reply(&out[0], 401, "r", ""));
    assert_eq!(whats(&out), ["401"], "it was reached");
    let out = world.receive(phone, &register("r2"));
    let out = world.receive(udp("192.0.2.61:5060"), &reply(&out[0], 503, "r", ""));
    assert_eq!(
        (whats(&out), out[0].remote()),
        (vec!["REGISTER".into()], addr("192.0.2.62:5080"))
    );
    let out = world.receive(udp("192.0.2.62:5080"), &reply(&out[0], 200, "r", ""));
    assert_eq!(whats(&out), ["200"]);
    let out = world.receive(phone, &register("r3"));
    assert_eq!(out[0].remote(), addr("192.0.2.61:5060"));
    let out = world.pass(Duration::from_secs(32));
    let last = out.iter().rfind(|sent| sent.what() == "REGISTER").unwrap();
    assert_eq!(last.remote(), addr("192.0.2.62:5080"));
    world.pass(Duration::from_secs(40));
    world.assert_idle();
}

/// Section 18.1.1: over TCP if it does not fit into a datagram, and over UDP after all if that is refused.
#[test]
fn long_requests() {
    let mut world = World::new(|_| {});
    world.core.registry.trusted.push(addr(CALLER));
    let filler = format!("X-Filler: {}\n", "x".repeat(1400));
    let ask = Ask {
        method: "MESSAGE",
        uri: "sip:bob@192.0.2.77",
        more: &filler,
        ..Ask::default()
    };
    let input = Input::Received {
        flow: udp(CALLER),
        local: addr("134.56.3.1:5060"),
        bytes: Bytes::from(ask.text().replace('\n', "\r\n")),
    };
    let commands = world.input(input);
    let Some(Command::Send { to, ticket, .. }) = commands.first() else {
        panic!("{commands:?}")
    };
    assert!(matches!(to, Destination::Hop { hop, .. } if hop.transport == Transport::Tcp));
    let failed = Input::Failed {
        ticket: ticket.unwrap(),
        reason: SendError::Unreachable,
    };
    let out = sent(world.input(failed));
    assert!(matches!(&out[0].to, Destination::Hop { hop, .. } if hop.transport == Transport::Udp));
    assert!(out[0].values(HeaderName::Via)[0].starts_with("SIP/2.0/UDP"));
}

/// Both sides are reached by URI, and the callee's Contact is an address of record of ours: what is for it goes to its device.
#[test]
fn a_remote_target_that_is_a_user_of_ours() {
    let mut world = World::new(|_| {});
    let bob = udp("192.0.2.11:5060");
    world.register("bob@net.com", vec![found("sip:bob@192.0.2.11:5060", bob, false, 1000)]);
    let ask = Ask {
        uri: "sip:bob@net.com",
        ..Ask::default()
    };
    let out = world.receive(udp(CALLER), &ask.text());
    let ok = world.receive(bob, &reply(&out[1], 200, "bob", "Contact: <sip:bob@net.com>\n"));
    let bye = Ask {
        method: "BYE",
        uri: "sip:bob@net.com",
        via: "SIP/2.0/UDP 134.56.9.9:5060;branch=z9hG4bKbye",
        to: "<sip:user@net.com>;tag=bob",
        more: &route_set(&ok[0], true),
        ..Ask::default()
    };
    let out = world.receive(udp(CALLER), &bye.text());
    assert_eq!((whats(&out), &out[0].to), (vec!["BYE".into()], &Destination::Flow(bob)));
    assert_eq!(out[0].message.request_uri(), b"sip:bob@192.0.2.11:5060");
}

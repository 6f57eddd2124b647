//! Connections that end while something is under way on them (RFC 3261 sections 16.9, 17.1.4, 18.2.2).

use super::*;
use crate::sip::command::{Hop, Ticket};

const CALLER: &str = "134.56.9.9:5060";

/// A phone on a connection.
fn world() -> (World, Flow) {
    let mut world = World::new(|_| {});
    let phone = tcp("134.56.1.1:40000", 1);
    world.open(phone);
    let contact = "sip:user@192.168.1.10:5060;transport=tcp";
    world.register("user@net.com", vec![found(contact, phone, true, 1000)]);
    (world, phone)
}

fn hop(address: &str) -> Hop {
    Hop {
        transport: Transport::Tcp,
        address: addr(address),
        name: None,
    }
}

/// The one request that goes out, and its ticket.
fn forwarded(commands: &[Command]) -> (Sent, Ticket) {
    let ticket = commands.iter().find_map(|command| match command {
        Command::Send { ticket, .. } => *ticket,
        _ => None,
    });
    let request = sent(commands.to_vec())
        .into_iter()
        .find(|sent| sent.message.method().is_some());
    (request.unwrap(), ticket.unwrap())
}

#[test]
fn nobody_has_answered_yet() {
    for method in ["INVITE", "MESSAGE"] {
        let (mut world, phone) = world();
        let ask = Ask {
            method,
            ..Ask::default()
        };
        let out = world.receive(udp(CALLER), &ask.text());
        assert_eq!(out.last().unwrap().to, Destination::Flow(phone));
        let out = sent(world.input(Input::Closed(phone)));
        assert_eq!(whats(&out), ["480"], "at once");
        assert_eq!(out[0].remote(), addr(CALLER));
        world.pass(Duration::from_secs(33));
        world.assert_idle();
    }
}

/// It has no other way to say more, for a request that is no INVITE (figure 6: Transport Error in Proceeding).
#[test]
fn a_request_that_proceeds() {
    let (mut world, phone) = world();
    let ask = Ask {
        method: "MESSAGE",
        ..Ask::default()
    };
    let out = world.receive(udp(CALLER), &ask.text());
    world.receive(phone, &reply(&out[0], 100, "", ""));
    assert_eq!(whats(&sent(world.input(Input::Closed(phone)))), ["480"]);
    world.pass(Duration::from_secs(33));
    world.assert_idle();
}

#[test]
fn the_other_way_to_a_device_rings() {
    let (mut world, phone) = world();
    let other = tcp("134.56.1.1:40001", 2);
    world.open(other);
    let contact = "sip:user@192.168.1.10:5060;transport=tcp";
    let mut first = found(contact, phone, true, 1000);
    first.contact = Some(world.contact());
    world.register("user@net.com", vec![first]);
    world.core.registry.fallback = Some(found(contact, other, true, 1000));
    world.receive(udp(CALLER), &Ask::default().text());
    let out = sent(world.input(Input::Closed(phone)));
    assert_eq!(
        (whats(&out), &out[0].to),
        (vec!["INVITE".into()], &Destination::Flow(other))
    );
}

/// A phone that rings has the call: it may accept over another connection.
#[test]
fn a_phone_that_rings() {
    let (mut world, phone) = world();
    let out = world.receive(udp(CALLER), &Ask::default().text());
    let invite = &out[1];
    world.receive(phone, &reply(invite, 180, "phone", ""));
    assert!(world.input(Input::Closed(phone)).is_empty());
    world.pass(Duration::from_secs(20));
    let again = tcp("134.56.1.1:40002", 2);
    world.open(again);
    let contact = "Contact: <sip:user@192.168.1.10:5060;transport=tcp>\n";
    let out = world.receive(again, &reply(invite, 200, "phone", contact));
    assert_eq!((whats(&out), out[0].remote()), (vec!["200".into()], addr(CALLER)));
    world.pass(Duration::from_secs(33));
    world.assert_idle();
}

#[test]
fn a_phone_that_rings_is_waited_for_as_long_as_any_answer() {
    let (mut world, phone) = world();
    let out = world.receive(udp(CALLER), &Ask::default().text());
    let invite = &out[1];
    world.receive(phone, &reply(invite, 180, "phone", ""));
    world.input(Input::Closed(phone));
    assert!(world.pass(Duration::from_millis(31_999)).is_empty());
    assert_eq!(whats(&world.pass(Duration::from_millis(1))), ["480"]);
    world.pass(Duration::from_secs(33));
    world.assert_idle();
    // One that goes on ringing over another connection is not given up before timer C.
    let (mut world, phone) = self::world();
    let out = world.receive(udp(CALLER), &Ask::default().text());
    world.receive(phone, &reply(&out[1], 180, "phone", ""));
    world.input(Input::Closed(phone));
    let again = tcp("134.56.1.1:40002", 2);
    world.open(again);
    assert_eq!(whats(&world.receive(again, &reply(&out[1], 180, "phone", ""))), ["180"]);
    assert!(world.pass(Duration::from_secs(184)).is_empty());
    assert_eq!(whats(&world.pass(Duration::from_secs(1))), ["CANCEL"]);
}

/// Over a connection that was made for it: the core learns which one, and tries the next place.
#[test]
fn the_next_place_is_tried() {
    let mut world = World::new(|_| {});
    world.core.registry.trusted.push(addr(CALLER));
    let ask = Ask {
        method: "MESSAGE",
        uri: "sip:bob@elsewhere.com",
        ..Ask::default()
    };
    let (query, _) = world.receive_and_ask(udp(CALLER), &ask.text());
    let hops = vec![hop("192.0.2.51:5060"), hop("192.0.2.52:5060")];
    let (request, ticket) = forwarded(&world.input(Input::Resolved { query, hops }));
    assert_eq!(request.remote(), addr("192.0.2.51:5060"));
    let flow = tcp("192.0.2.51:5060", 7);
    world.open(flow);
    world.input(Input::Sent { ticket, flow });
    let other = tcp("192.0.2.59:5060", 8);
    world.open(other);
    assert!(world.input(Input::Closed(other)).is_empty(), "nothing was sent on it");
    let out = sent(world.input(Input::Closed(flow)));
    assert_eq!(
        (whats(&out), out[0].remote()),
        (vec!["MESSAGE".into()], addr("192.0.2.52:5060"))
    );
}

/// The caller's connection: what it still has to hear goes to the source address and the port of sent-by, also what may have been
/// lost with the connection.
#[test]
fn responses_without_their_connection() {
    let mut world = World::new(|_| {});
    let (caller, phone) = (tcp("134.56.9.9:40000", 1), udp("134.56.1.1:5070"));
    world.open(caller);
    world.register(
        "user@net.com",
        vec![found("sip:user@192.168.1.10:5060", phone, true, 1000)],
    );
    let ask = |branch: &'static str, call: &'static str| {
        Ask {
            via: branch,
            call,
            ..Ask::default()
        }
        .text()
    };
    let first = world.receive(caller, &ask("SIP/2.0/TCP 10.0.0.3:5080;branch=z9hG4bK1", "call-1"));
    let second = world.receive(caller, &ask("SIP/2.0/TCP 10.0.0.3:5080;branch=z9hG4bK2", "call-2"));
    let there = Destination::Hop {
        listener: ListenerId(1),
        hop: hop("134.56.9.9:5080"),
    };
    let out = world.receive(phone, &reply(&first[1], 486, "phone", ""));
    assert_eq!(
        (whats(&out), &out[1].to),
        (vec!["ACK".into(), "486".into()], &Destination::Flow(caller))
    );
    let out = sent(world.input(Input::Closed(caller)));
    assert_eq!(
        (whats(&out), &out[0].to),
        (vec!["486".into()], &there),
        "no ACK had come"
    );
    let out = world.receive(phone, &reply(&second[1], 486, "phone", ""));
    assert_eq!((whats(&out), &out[1].to), (vec!["ACK".into(), "486".into()], &there));
    world.pass(Duration::from_secs(33));
    world.assert_idle();
}

/// RFC 5923: over TLS whoever asks for it, since certificates decide; over TCP trusted peers.
#[test]
fn peers_offer_their_connections() {
    let asked = |flow: Flow, via: &str, trusted: bool| {
        let mut world = World::new(|config| config.listeners.push(listener(Transport::Tls, "134.56.3.1")));
        world.open(flow);
        if trusted {
            world.core.registry.trusted.push(flow.remote);
        }
        let mut aliases = Vec::new();
        for branch in ["1", "2"] {
            let ask = Ask {
                method: "OPTIONS",
                via: &format!("{via};branch=z9hG4bK{branch}"),
                ..Ask::default()
            };
            let input = Input::Received {
                flow,
                local: addr("134.56.3.1:5060"),
                bytes: Bytes::from(ask.text().replace('\n', "\r\n")),
            };
            aliases.extend(world.input(input).into_iter().filter_map(|command| match command {
                Command::Alias { flow: on, address } if on == flow => Some(address.to_string()),
                _ => None,
            }));
        }
        aliases
    };
    let plain = tcp("192.0.2.7:40000", 1);
    let secure = Flow::stream(ListenerId(2), Transport::Tls, plain.remote, ConnectionId(1));
    let none: [&str; 0] = [];
    assert_eq!(
        asked(secure, "SIP/2.0/TLS p1.example.com;alias", false),
        ["192.0.2.7:5061"],
        "once"
    );
    assert_eq!(
        asked(secure, "SIP/2.0/TLS p1.example.com:5071;alias", false),
        ["192.0.2.7:5071"]
    );
    assert_eq!(asked(secure, "SIP/2.0/TLS p1.example.com", false), none);
    assert_eq!(asked(plain, "SIP/2.0/TCP 10.0.0.1;alias", true), ["192.0.2.7:5060"]);
    assert_eq!(asked(plain, "SIP/2.0/TCP 192.0.2.7;alias", false), none);
    assert_eq!(asked(udp("192.0.2.7:5060"), "SIP/2.0/UDP 192.0.2.7;alias", true), none);
}

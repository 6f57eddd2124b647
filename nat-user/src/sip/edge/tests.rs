use std::time::Duration;

use super::*;
use crate::{
    config,
    config::sip::{ListenAddress, Listener, Role},
    sip::{
        flow::ConnectionId,
        message::check,
        path::{self, State},
    },
};

const NOW: Time = Time(1_790_000_000_000);

fn listener(ip: &str, transport: Transport, role: Role) -> Listener {
    Listener {
        transport,
        address: ListenAddress::Ip(ip.parse().unwrap()),
        port: 5060,
        advertise: None,
        role,
    }
}

fn here(outside: &str) -> Here {
    Here::new([
        (
            ListenerId(0),
            listener("192.168.1.1", Transport::Udp, Role::Outbound),
            None,
        ),
        (ListenerId(1), listener(outside, Transport::Udp, Role::Proxy), None),
        (ListenerId(2), listener(outside, Transport::Tcp, Role::Proxy), None),
    ])
}

fn edge(settings: Settings, secret: &[u8]) -> Edge {
    let mut edge = Edge::new(settings, secret);
    edge.set_here(&here("134.56.1.1"));
    edge
}

struct World {
    edge: Edge,
    paths: Paths,
    now: Time,
    flow: Flow,
}

impl World {
    fn new() -> World {
        let path_settings = path::Settings {
            paths: config::sip::Paths::default(),
            t1: Duration::from_millis(500),
            t2: Duration::from_secs(4),
        };
        let settings = Settings {
            max_contacts: 3,
            max_registrations: 4,
            keep: (15, 120),
        };
        World {
            edge: edge(settings, b"secret"),
            paths: Paths::new(path_settings, [7; 32]),
            now: NOW,
            flow: Flow::udp(ListenerId(0), "192.168.1.10:5060".parse().unwrap()),
        }
    }

    fn forward(&mut self, text: &str) -> Result<(String, u64), u16> {
        let message = message(text);
        assert_eq!(check::request(&message), None, "{text}");
        let local = "192.168.1.1:5060".parse().unwrap();
        let towards = Uri::parse(message.request_uri()).unwrap();
        let forwarded = self.edge.forward(&message, &self.flow, local, &towards, self.now);
        forwarded
            .map(|(edits, ticket)| (String::from_utf8(edits.apply(&message).to_vec()).unwrap(), ticket))
            .map_err(|refusal| refusal.code)
    }

    fn answer(&mut self, ticket: u64, text: &str) -> String {
        let response = message(text);
        assert_eq!(check::response(&response), None, "{text}");
        let mut edits = Edits::new();
        self.edge
            .answered(ticket, &response, &mut self.paths, self.now, &mut edits);
        String::from_utf8(edits.apply(&response).to_vec()).unwrap()
    }

    /// Registers and gives the token.
    fn register(&mut self, contact: &str) -> String {
        let (sent, ticket) = self.forward(&request(contact, "")).unwrap();
        let line = contact_line(&sent);
        self.answer(ticket, &ok(&format!("{line}\r\n")));
        token_of(&sent)
    }
}

fn message(text: &str) -> Message {
    Message::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap()
}

fn request(contact: &str, lines: &str) -> String {
    format!(
        "REGISTER sip:provider.example SIP/2.0\r\n\
         Via: SIP/2.0/UDP 192.168.1.10:5060;branch=z9hG4bK1;rport;keep\r\n\
         From: <sip:user@provider.example>;tag=1\r\n\
         t: <sip:user@Provider.example>\r\n\
         Call-ID: 1\r\n\
         CSeq: 7 REGISTER\r\n\
         {lines}Contact: {contact}\r\n\
         X-Other:   as it is\r\n\
         Content-Length: 0\r\n\r\n"
    )
}

fn ok(lines: &str) -> String {
    format!(
        "SIP/2.0 200 OK\r\n\
         Via: SIP/2.0/UDP 134.56.1.1:5060;branch=z9hG4bKus\r\n\
         Via: SIP/2.0/UDP 192.168.1.10:5060;branch=z9hG4bK1;rport=5060;keep;received=192.168.1.10\r\n\
         From: <sip:user@provider.example>;tag=1\r\nTo: <sip:user@provider.example>;tag=2\r\nCall-ID: 1\r\nCSeq: 7 REGISTER\r\n{lines}\r\n"
    )
}

fn contact_line(text: &str) -> &str {
    text.split("\r\n").find(|line| line.starts_with("Contact: ")).unwrap()
}

fn token_of(text: &str) -> String {
    let start = text.find("sip:e~").unwrap() + 4;
    text[start..].split('@').next().unwrap().to_owned()
}

fn path_state(world: &World) -> State {
    world
        .paths
        .find(&world.flow)
        .map_or(State::Idle, |path| world.paths.state(path))
}

#[test]
fn a_phone_registers_elsewhere() {
    let mut world = World::new();
    let original = request(
        "\"U\" <sip:user@192.168.1.10:5060;x=y>;expires=600;+sip.instance=\"<urn:x>\"",
        "",
    );
    let (sent, ticket) = world.forward(&original).unwrap();
    let token = token_of(&sent);
    // One place has changed and nothing else.
    assert_eq!(
        sent,
        original.replace(
            "sip:user@192.168.1.10:5060;x=y",
            &format!("sip:{token}@134.56.1.1:5060")
        )
    );
    assert!(token.len() == 18 && is_token(token.as_bytes()));
    assert_eq!(
        world.edge.find(token.as_bytes()),
        None,
        "not before the registrar has said so"
    );
    assert_eq!((path_state(&world), world.edge.location().len()), (State::Idle, 0));
    let others = "Contact: <sip:other@203.0.113.9>;expires=30\r\n";
    let answer = ok(&format!(
        "{others}m: <sip:{token}@134.56.1.1:5060>;expires=300;q=0.5\r\n"
    ));
    let back = world.answer(ticket, &answer);
    let expected = answer
        .replace(
            &format!("sip:{token}@134.56.1.1:5060"),
            "sip:user@192.168.1.10:5060;x=y",
        )
        .replace(";keep;", ";keep=15;");
    assert_eq!(back, expected);
    assert_eq!(
        world.edge.find(token.as_bytes()),
        Some((world.flow, Bytes::from_static(b"sip:user@192.168.1.10:5060;x=y")))
    );
    assert_eq!(path_state(&world), State::Registration);
    let contact = world
        .edge
        .location()
        .contacts("user@provider.example", NOW)
        .next()
        .unwrap();
    assert_eq!(
        (contact.remaining(NOW), contact.behind_nat, contact.keeps_alive),
        (Some(300), false, true)
    );
    // The granted expiry is what the path lives by.
    world.now = NOW + Duration::from_secs(300);
    assert!(world.edge.next().is_some_and(|next| next <= world.now));
    world.edge.tick(&mut world.paths, world.now);
    assert_eq!(world.edge.find(token.as_bytes()), None);
    assert!(world.paths.is_empty());
    assert_eq!(world.answer(ticket, &answer), answer, "a ticket is good once");
}

#[test]
fn the_token_stays_while_the_flow_changes() {
    let mut world = World::new();
    world.flow = Flow::udp(ListenerId(1), "198.51.100.7:40000".parse().unwrap());
    let first = world.register("<sip:user@192.168.1.10:5060>");
    assert!(
        world
            .paths
            .get(world.paths.find(&world.flow).unwrap())
            .unwrap()
            .behind_nat
    );
    let before = world.flow;
    world.flow = Flow::udp(ListenerId(1), "198.51.100.7:40001".parse().unwrap());
    assert_eq!(world.register("<sip:user@192.168.1.10:5060>"), first);
    assert_eq!(world.edge.find(first.as_bytes()).unwrap().0, world.flow);
    assert!(world.paths.find(&before).is_none() && world.paths.len() == 1);
    assert_ne!(world.register("<sip:user@192.168.1.11:5060>"), first);
    // Who registers the same elsewhere has another token: the answer of one registrar says nothing about another's user.
    let elsewhere =
        request("<sip:user@192.168.1.10:5060>", "").replace("sip:provider.example SIP", "sip:evil.example SIP");
    let (sent, ticket) = world.forward(&elsewhere).unwrap();
    assert_ne!(token_of(&sent), first);
    world.answer(ticket, &ok(&format!("{}\r\n", contact_line(&sent))));
    assert_eq!(world.edge.find(first.as_bytes()).unwrap().0, world.flow);
    let mut stranger = edge(world.edge.settings, b"another");
    let message = message(&request("<sip:user@192.168.1.10:5060>", ""));
    let (edits, _) = stranger
        .forward(
            &message,
            &world.flow,
            "192.168.1.1:5060".parse().unwrap(),
            &Uri::parse(message.request_uri()).unwrap(),
            NOW,
        )
        .unwrap();
    assert_ne!(token_of(&String::from_utf8_lossy(&edits.apply(&message))), first);
}

#[test]
fn forged_tokens_find_nobody() {
    let mut world = World::new();
    let token = world.register("<sip:user@192.168.1.10:5060>");
    for forged in [
        "",
        "e~",
        "x",
        &token[..17],
        &format!("{token}A"),
        &token.replace("e~", "f~"),
        &format!("e~{}", "A".repeat(16)),
    ] {
        assert_eq!(world.edge.find(forged.as_bytes()), None, "{forged}");
    }
    assert!(world.edge.find(token.as_bytes()).is_some());
}

#[test]
fn path_is_added_where_the_phone_knows_it() {
    let mut world = World::new();
    let lines = "Supported: path, outbound\r\n";
    let original = request("<sip:user@192.168.1.10:5060>;reg-id=1;+sip.instance=\"<urn:x>\"", lines);
    let (sent, _) = world.forward(&original).unwrap();
    assert!(
        sent.contains("Content-Length: 0\r\nPath: <sip:134.56.1.1:5060;lr;ob>\r\n\r\n"),
        "{sent}"
    );
    let behind = original.replace(
        "CSeq:",
        "Path: <sip:inner;lr>\r\nVia: SIP/2.0/UDP x;branch=z9hG4bK2\r\nCSeq:",
    );
    let (sent, _) = world.forward(&behind).unwrap();
    assert!(
        sent.contains("Path: <sip:134.56.1.1:5060;lr>\r\nPath: <sip:inner;lr>\r\n"),
        "{sent}"
    );
    let tcp = original.replace(
        "REGISTER sip:provider.example",
        "REGISTER sip:203.0.113.5;transport=tcp",
    );
    let (sent, _) = world.forward(&tcp).unwrap();
    assert!(
        sent.contains("Path: <sip:134.56.1.1:5060;transport=tcp;lr;ob>"),
        "{sent}"
    );
    assert!(sent.contains("@134.56.1.1:5060;transport=tcp>;reg-id=1"), "{sent}");
    let inside = original.replace("REGISTER sip:provider.example", "REGISTER sip:192.168.1.99");
    let (sent, _) = world.forward(&inside).unwrap();
    assert!(
        sent.contains("@192.168.1.1:5060>;reg-id=1"),
        "the listener towards the registrar: {sent}"
    );
}

#[test]
fn several_contacts_and_the_end_of_them() {
    let mut world = World::new();
    let original = request(
        "sip:a@192.168.1.10;expires=100, <mailto:a@b>,<sip:b@192.168.1.10>",
        "Expires: 200\r\n",
    );
    let (sent, ticket) = world.forward(&original).unwrap();
    let line = contact_line(&sent).to_owned();
    let tokens: Vec<&str> = line
        .split("sip:")
        .skip(1)
        .map(|part| part.split('@').next().unwrap())
        .collect();
    assert_eq!(
        line,
        format!(
            "Contact: <sip:{}@134.56.1.1:5060>;expires=100, <mailto:a@b>,<sip:{}@134.56.1.1:5060>",
            tokens[0], tokens[1]
        )
    );
    let back = world.answer(ticket, &ok(&format!("{line}\r\n")));
    assert!(
        back.contains("Contact: <sip:a@192.168.1.10>;expires=100, <mailto:a@b>,<sip:b@192.168.1.10>\r\n"),
        "{back}"
    );
    let left: Vec<_> = world
        .edge
        .location()
        .contacts("user@provider.example", NOW)
        .map(|c| c.remaining(NOW))
        .collect();
    assert_eq!(left, [Some(100), Some(200)]);
    // One is removed: the registrar does not show it any more.
    let (_, ticket) = world.forward(&request("sip:a@192.168.1.10;expires=0", "")).unwrap();
    world.answer(
        ticket,
        &ok(&format!("Contact: <sip:{}@134.56.1.1:5060>;expires=150\r\n", tokens[1])),
    );
    assert!(world.edge.find(tokens[0].as_bytes()).is_none() && world.edge.find(tokens[1].as_bytes()).is_some());
    let star = request("*", "Expires: 0\r\n");
    let (sent, ticket) = world.forward(&star).unwrap();
    assert_eq!(sent, star);
    let refused = ok("").replace("200 OK", "401 Unauthorized");
    assert_eq!(world.answer(ticket, &refused), refused);
    assert!(world.edge.find(tokens[1].as_bytes()).is_some());
    let (_, ticket) = world.forward(&star).unwrap();
    world.answer(ticket, &ok(""));
    assert!(world.edge.find(tokens[1].as_bytes()).is_none());
    assert!(world.edge.location().is_empty() && world.paths.is_empty());
}

#[test]
fn refusals_pass_and_change_nothing() {
    let mut world = World::new();
    let token = world.register("<sip:user@192.168.1.10:5060>");
    for code in [
        "401 Unauthorized",
        "423 Interval Too Brief",
        "302 Moved Temporarily",
        "500 Error",
    ] {
        let (_, ticket) = world.forward(&request("<sip:user@192.168.1.10:5060>", "")).unwrap();
        let trying = ok("").replace("200 OK", "100 Trying");
        assert_eq!(world.answer(ticket, &trying), trying);
        let answer = ok(&format!(
            "Min-Expires: 3600\r\nContact: <sip:{token}@134.56.1.1:5060>\r\n"
        ))
        .replace("200 OK", code);
        assert_eq!(world.answer(ticket, &answer), answer);
        assert!(world.edge.find(token.as_bytes()).is_some());
    }
    // A 200 without our contact.
    let (_, ticket) = world.forward(&request("<sip:user@192.168.1.10:5060>", "")).unwrap();
    world.answer(ticket, &ok("Contact: <sip:other@1.1.1.1>\r\n"));
    assert!(world.edge.find(token.as_bytes()).is_none() && world.paths.is_empty());
}

#[test]
fn limits_are_kept() {
    let mut world = World::new();
    for port in 1..=3 {
        world.register(&format!("<sip:user@192.168.1.10:{port}>"));
    }
    assert_eq!(
        world.forward(&request("<sip:user@192.168.1.10:4>", "")).unwrap_err(),
        403
    );
    assert!(
        world.forward(&request("<sip:user@192.168.1.10:3>", "")).is_ok(),
        "a refresh"
    );
    let other =
        |n: u32| request(&format!("<sip:user@192.168.1.10:{n}>"), "").replace("user@Provider", "other@Provider");
    let (sent, ticket) = world.forward(&other(1)).unwrap();
    world.answer(ticket, &ok(&format!("{}\r\n", contact_line(&sent))));
    assert_eq!(world.forward(&other(2)).unwrap_err(), 503);
    // What is never answered is forgotten.
    for _ in 0..100 {
        world.forward(&request("<sip:user@192.168.1.10:1>", "")).unwrap();
    }
    world.now = NOW + Duration::from_secs(181);
    world.forward(&request("<sip:user@192.168.1.10:1>", "")).unwrap();
    assert_eq!(world.edge.pending.len(), 1);
}

#[test]
fn another_outside_address_is_registered() {
    let mut world = World::new();
    let token = world.register("<sip:user@192.168.1.10:5060>");
    world.edge.set_here(&here("134.56.1.1"));
    assert!(world.edge.register_again(NOW).is_none(), "nothing has changed");
    world.edge.set_here(&here("134.56.1.2"));
    assert_eq!(world.edge.next(), Some(Time(0)));
    let again = world.edge.register_again(NOW);
    let Some(Input::Received { flow, local, bytes }) = &again else {
        panic!("{again:?}")
    };
    assert!(world.edge.register_again(NOW).is_none());
    assert_eq!((*flow, *local), (world.flow, "192.168.1.1:5060".parse().unwrap()));
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let branch = Message::parse(bytes.clone()).unwrap().via().unwrap().branch().to_vec();
    assert!(branch.starts_with(b"z9hG4bK1-") && branch.len() == 17);
    assert_eq!(
        text.replace(&text[text.find("-").unwrap()..][..9], ""),
        request("<sip:user@192.168.1.10:5060>", "")
    );
    let (sent, ticket) = world.forward(&text).unwrap();
    assert!(
        sent.contains(&format!("Contact: <sip:{token}@134.56.1.2:5060>")),
        "{sent}"
    );
    // The registrar may show the old one for a while.
    let both =
        format!("Contact: <sip:{token}@134.56.1.1:5060>;expires=5, <sip:{token}@134.56.1.2:5060>;expires=500\r\n");
    world.answer(ticket, &ok(&both));
    let contact = world
        .edge
        .location()
        .contacts("user@provider.example", NOW)
        .next()
        .unwrap();
    assert_eq!(contact.remaining(NOW), Some(500));
}

#[test]
fn a_restart_keeps_datagram_flows() {
    let mut world = World::new();
    let token = world.register("<sip:user@192.168.1.10:5060>;+sip.instance=\"<urn:x>\"");
    world.flow = Flow::stream(
        ListenerId(2),
        Transport::Tcp,
        "198.51.100.7:1".parse().unwrap(),
        ConnectionId(1),
    );
    let stream = world.register("<sip:user@192.168.1.10:5061>");
    let changes = world.edge.take_changes();
    let mut again = World::new();
    for (number, bytes) in &changes.contacts {
        let stored = StoredContact::decode(bytes).unwrap();
        again.edge.restore(*number, &stored, None, Some, &mut again.paths, NOW);
    }
    assert_eq!(
        again.edge.find(token.as_bytes()).unwrap().0,
        Flow::udp(ListenerId(0), "192.168.1.10:5060".parse().unwrap())
    );
    assert_eq!(again.edge.find(stream.as_bytes()), None);
    assert_eq!(
        again.register("<sip:user@192.168.1.10:5060>;+sip.instance=\"<urn:x>\""),
        token
    );
    assert_eq!(again.paths.len(), 1);
}

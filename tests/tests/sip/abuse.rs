//! Those who mean harm, or do it: half messages, floods, forged senders, guessed passwords, contacts and tokens that are not theirs.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use serde_json::Value;
use tests::prelude::*;
use tests::sip::Transport;
use tests::sip::certificates::Authority;
use tests::sip::digest::Challenge;
use tests::sip::document::{self, TRANSLATED};
use tests::sip::load::Flood;
use tests::sip::message::Message;
use tests::sip::peer::Peer;
use tests::sip::phone::Request;
use tests::sip::server::{Config, Server};
use tests::sip::sipp::Sipp;
use tests::sip::stream::Stream;

use crate::DOMAIN;

/// How long is waited for what must not come.
const SILENCE: Duration = Duration::from_millis(300);

/// Hosts outside, a server on the last, no NAT in between.
fn scene(hosts: u8, config: Config) -> (Server, Lab) {
    let lab = Lab::builder().inside_hosts(0).outside_hosts(hosts).build().unwrap();
    let server = config.start(lab.o(hosts.into())).unwrap();
    (server, lab)
}

fn register(user: &str, at: SocketAddrV4) -> Request {
    Request::register(user, DOMAIN)
        .call(user)
        .line(&format!("Contact: <sip:{user}@{at}>"))
}

/// Registers a peer, which must work.
fn registered(peer: &Peer, user: &str, server: &Server) {
    let register = register(user, peer.endpoint).over_udp(peer.endpoint);
    peer.send_message(server.endpoint, &register).unwrap();
    assert_eq!(peer.recv_final("the 200").unwrap().status(), Some(200));
}

/// The final answer to a request.
fn answer(peer: &Peer, server: &Server, request: &Request) -> Message {
    let request = request.over_udp(peer.endpoint);
    peer.send_message(server.endpoint, &request).unwrap();
    peer.recv_final(&format!("an answer to {}", request.start_line()))
        .unwrap()
}

/// 300 streams of three sources begin a message of 60 kB and never end it, 20 begin a TLS handshake, and one goes on for ever, byte by byte.
#[test]
fn hundreds_of_half_messages_hold_nobody_up_and_their_streams_are_closed() {
    const LIMITS: &str = "[sip.limits]\nconnections_per_source = 80\nmessage_time = \"5s\"\n";
    let authority = Authority::new().unwrap();
    let certificate = authority.sign(&[DOMAIN]).unwrap();
    let (server, lab) = scene(5, Server::config(DOMAIN).tls(&certificate).toml(LIMITS));
    let before = server.memory().unwrap();
    let mut held = half_handshakes(&lab, &server);
    let mut endless = Stream::connect(lab.o(4), server.endpoint).unwrap();
    endless.send("OPTIONS sip:net.com SIP/2.0\r\nX: ").unwrap();
    held.extend(half_messages(&lab, &server));
    let grown = server.memory().unwrap().saturating_sub(before);
    // 240 streams may have what they sent in a buffer that has grown to the next power of two.
    assert!(grown < 64 * 1024, "{grown} KiB for {} streams", held.len());

    let mut stream = Stream::connect_tls(lab.o(4), server.tls_endpoint(), DOMAIN, &authority).unwrap();
    answers(&mut stream).unwrap();
    others_are_served(&server, lab.o(4));

    wait_until("the endless message to end", SOON, || endless.send("x").is_err()).unwrap();
    held.iter_mut().for_each(|stream| stream.closed().unwrap());
    // What was held for them becomes free: each source may have its 80 streams again.
    let connect = || Stream::connect(lab.o(1), server.endpoint);
    let served = || connect().and_then(|mut stream| answers(&mut stream).map(|()| stream));
    let mut again: Vec<Stream> = Vec::new();
    wait_until("as many streams as before", SOON, || {
        let missing = 80 - again.len();
        again.extend((0..missing).map_while(|_| served().ok()));
        again.len() == 80
    })
    .unwrap_or_else(|error| panic!("{} of 80: {error}", again.len()));
    assert!(served().is_err(), "and no more");
}

/// The first bytes of a ClientHello (RFC 8446 §5.1), 20 times.
fn half_handshakes(lab: &Lab, server: &Server) -> Vec<Stream> {
    let begin = |_| {
        let mut stream = Stream::connect(lab.o(4), server.tls_endpoint()).unwrap();
        stream.send(b"\x16\x03\x01\x02\x00\x01").unwrap();
        stream
    };
    (0..20).map(begin).collect()
}

/// 100 half messages of each of three sources. Beyond the limit, the server may close before everything is sent.
fn half_messages(lab: &Lab, server: &Server) -> Vec<Stream> {
    let half = format!(
        "MESSAGE sip:anna@{DOMAIN} SIP/2.0\r\nVia: SIP/2.0/TCP h;branch=z9hG4bKslow\r\nContent-Length: 60000\r\nX: {}",
        "x".repeat(30_000)
    );
    let begin = |number: usize| {
        let stream = Stream::connect(lab.o(1 + number % 3), server.endpoint);
        stream.and_then(|mut stream| stream.send(&half).map(|()| stream)).ok()
    };
    (0..300).filter_map(begin).collect()
}

/// Phones register and call, and one that is slow but not too slow is heard out: everybody has `message_time`.
fn others_are_served(server: &Server, phones: &Host) {
    for transport in [Transport::Udp, Transport::Tcp] {
        let register = Sipp::scenario("register").to("anna", DOMAIN, server.endpoint);
        register.port(5060).run(phones).unwrap();
        let phone = Sipp::scenario("uas_answer").port(5060).start(phones).unwrap();
        let caller = Sipp::scenario("uac_call").to("anna", DOMAIN, server.endpoint);
        caller.transport(transport).run(phones).unwrap();
        phone.finish().unwrap();
    }
    let mut slow = Stream::connect(phones, server.endpoint).unwrap();
    let options = Request::new("OPTIONS", "sip:net.com").sent(slow.local, Transport::Tcp);
    let (first, rest) = options.bytes().split_at(40);
    slow.send(first).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    slow.send(rest).unwrap();
    assert_eq!(slow.recv_final("the 200").unwrap().status(), Some(200));
}

/// Asks a stream for an answer.
fn answers(stream: &mut Stream) -> anyhow::Result<()> {
    let options = Request::new("OPTIONS", "sip:net.com").sent(stream.local, Transport::Tcp);
    stream.send(options.bytes())?;
    assert_eq!(stream.recv_final("the 200")?.status(), Some(200));
    Ok(())
}

/// `idle` is for connections that nobody needs: that of a registered phone stays.
#[test]
fn silent_streams_are_closed_unless_they_are_a_phones_way() {
    const LIMITS: &str = "[sip.limits]\nidle = \"10s\"\n[sip.paths]\nstream = \"off\"\n";
    let (server, lab) = scene(2, Server::config(DOMAIN).toml(LIMITS));
    let connect = || Stream::connect(lab.o(1), server.endpoint).unwrap();
    let (mut phone, mut silent) = (connect(), connect());
    let register = register("anna", phone.local).sent(phone.local, Transport::Tcp);
    phone.send(register.bytes()).unwrap();
    assert_eq!(phone.recv_final("the 200").unwrap().status(), Some(200));
    let mut asking = connect();
    answers(&mut asking).unwrap();
    silent.closed().unwrap();
    asking.closed().unwrap();
    answers(&mut phone).unwrap();
}

/// The bound on the ratio is one of `cargo xtask bench sip`; here it is only shown, because other tests run at the same time.
#[test]
fn a_flood_of_registers_from_one_source_leaves_the_others_served() {
    let (server, lab) = scene(3, Server::config(DOMAIN));
    let phones: Vec<Ipv4Addr> = (150..158).map(|last| Ipv4Addr::new(203, 0, 113, last)).collect();
    lab.add_addresses(lab.o(1), phones.iter().copied()).unwrap();
    let flood = Flood {
        server: server.endpoint,
        domain: DOMAIN,
        phones: lab.o(1),
        addresses: &phones,
        flooder: lab.o(2),
        per_second: 5000,
    };
    let outcome = flood.measure(3, 150).unwrap();
    println!(
        "p99 of the others: {:?} without, {:?} with the flood of {} requests: {:.2} times",
        outcome.quiet.percentile(99),
        outcome.flooded.percentile(99),
        outcome.sent,
        outcome.ratio()
    );
    assert_eq!(
        (outcome.quiet.len(), outcome.flooded.len()),
        (450, 450),
        "all were answered"
    );
    // The flood was one, and got what one source gets: 100 in a second, 200 at once.
    assert!(outcome.sent > 1000, "{} requests are no flood", outcome.sent);
    let stored = server.registrations().unwrap();
    let flooded = stored
        .iter()
        .filter(|row| row["aor"].as_str().unwrap().starts_with("flood"))
        .count() as u64;
    assert!(
        flooded < outcome.sent,
        "the rate of one source holds: {flooded} of {}",
        outcome.sent
    );
    assert_eq!(stored.len() as u64 - flooded, 8);
}

/// Requests in the name of another host: what it gets for them is no weapon, and nothing is stored.
#[test]
fn forged_senders_leave_nothing_and_their_victims_get_little() {
    let (server, lab) = scene(3, Server::config(DOMAIN).user("anna", "secret"));
    let (attacker, victim, target) = (lab.o(1), lab.o(2), lab.o(3));
    let raw = RawSocket::host(attacker).unwrap();
    let capture = Capture::host(victim).unwrap();
    let from = SocketAddrV4::new(victim.ip, 5060);
    let (mut sent, mut bytes) = (0, 0);
    for number in 0..400 {
        let call = format!("forged{number}");
        let requests = [
            register("anna", from),
            Request::new("INVITE", "sip:nobody@net.com").from("bob@elsewhere.org"),
            Request::new("OPTIONS", "sip:net.com").from("bob@elsewhere.org"),
            Request::new("SUBSCRIBE", "sip:anna@net.com")
                .from("anna@net.com")
                .line("Event: dialog"),
        ];
        for request in requests {
            let request = request.call(&call).over_udp(from);
            let packet = Packet::udp(from, server.endpoint, request.bytes()).macs(attacker.mac, target.mac);
            raw.send_packet(&packet).unwrap();
            sent += 1;
            bytes += request.bytes().len();
        }
    }
    // They have all been looked at: a later request of somebody else was answered.
    let other = Peer::udp(attacker, 5060).unwrap();
    let options = Request::new("OPTIONS", "sip:net.com")
        .from("bob@elsewhere.org")
        .call("other");
    assert_eq!(answer(&other, &server, &options).status(), Some(200));
    assert_eq!(server.registrations().unwrap(), Vec::<Value>::new());
    assert_eq!(server.paths().unwrap(), Vec::<Value>::new());
    assert_eq!(server.dialogs().unwrap(), Vec::<Value>::new());
    assert_eq!(server.json(&["transactions"]).unwrap(), Value::Array(Vec::new()));
    let received: Vec<usize> = capture
        .received()
        .iter()
        .filter(|packet| packet.src() == server.endpoint)
        .map(|packet| packet.payload().len())
        .collect();
    let got: usize = received.iter().sum();
    println!(
        "{sent} forged requests, {bytes} bytes; {} answers, {got} bytes",
        received.len()
    );
    assert!(!received.is_empty(), "they came as from the victim");
    assert!(got < bytes, "the victim got {got} bytes for {bytes}");
    // No answer is repeated, and none is much larger than its request.
    assert!(received.len() <= sent, "{} answers for {sent} requests", received.len());
    let (largest, least) = (received.iter().max().unwrap(), bytes / sent);
    assert!(*largest <= 3 * least, "{largest} bytes for some {least}");
}

#[test]
fn a_wrong_password_a_thousand_times_bans_its_source_and_nobody_else() {
    let limits = "[sip.limits]\nrate_per_source = \"10000/s\"\nburst_per_source = 10000\n";
    let config = Server::config(DOMAIN).user("anna", "secret").toml(limits);
    let (server, lab) = scene(3, config);
    let (guesser, phone) = (Peer::udp(lab.o(1), 5060).unwrap(), Peer::udp(lab.o(2), 5060).unwrap());
    let with = |peer: &Peer, password: &str, cseq: u32| {
        let challenge = answer(peer, &server, &register("anna", peer.endpoint).cseq(cseq));
        assert_eq!(challenge.status(), Some(401), "{challenge:?}");
        let line = Challenge::all(&challenge)[0].answer("anna", password, "REGISTER", "sip:net.com", 1);
        register("anna", peer.endpoint).line(&line)
    };
    let guess = with(&guesser, "guess", 1);
    for cseq in 2..=1001 {
        let guess = guess.clone().cseq(cseq).over_udp(guesser.endpoint);
        guesser.send_message(server.endpoint, &guess).unwrap();
    }
    let bans = || server.json(&["bans"]).unwrap();
    wait_until("the ban", SOON, || {
        bans().as_array().is_some_and(|bans| bans.len() == 1)
    })
    .unwrap();
    let ban = bans()[0].clone();
    assert_eq!(ban["source"], guesser.endpoint.ip().to_string(), "{ban}");
    assert!(ban.to_string().contains("anna"), "{ban}");

    // Others are not affected, the user's own phone least of all.
    let right = with(&phone, "secret", 1).cseq(2);
    assert_eq!(answer(&phone, &server, &right).status(), Some(200));
    assert_eq!(server.registrations().unwrap().len(), 1);
    // The banned source is not answered, whatever it says.
    let mut answers = 0;
    while guesser
        .nothing(SILENCE, |message| message.status() == Some(401))
        .is_err()
    {
        answers += 1;
    }
    assert_eq!(answers, 10, "as many as `ban_after`");
    let options = Request::new("OPTIONS", "sip:net.com").call("banned");
    guesser
        .send_message(server.endpoint, &options.over_udp(guesser.endpoint))
        .unwrap();
    guesser.nothing(SILENCE, |_| true).unwrap();

    let lift = server
        .cli(&["bans", "lift", &guesser.endpoint.ip().to_string()])
        .unwrap();
    assert!(lift.status.success(), "{lift:?}");
    assert_eq!(bans(), Value::Array(Vec::new()));
    let right = with(&guesser, "secret", 1002).cseq(1003);
    assert_eq!(answer(&guesser, &server, &right).status(), Some(200));
    // Nobody is banned twice for the same, and who is not banned cannot be freed.
    let lift = server
        .cli(&["bans", "lift", &guesser.endpoint.ip().to_string()])
        .unwrap();
    assert_eq!(lift.status.code(), Some(4), "{lift:?}");
}

#[test]
fn contacts_that_point_at_the_server_are_refused() {
    let (server, lab) = scene(2, Server::config(DOMAIN));
    let phone = Peer::udp(lab.o(1), 5060).unwrap();
    let ours = server.endpoint;
    let contacts = [
        format!("<sip:anna@{ours}>"),
        format!("<sip:{}>", ours.ip()),
        format!("<sip:anna@{}:5060;transport=tcp>", ours.ip()),
        format!("<sip:anna@{DOMAIN}>"),
        format!("<sip:berta@{DOMAIN}>"),
        format!("<sip:anna@192.0.2.7;maddr={}>", ours.ip()),
        format!("<sip:anna@{}>, <sip:anna@{ours}>", phone.endpoint),
    ];
    for (cseq, contact) in (1..).zip(&contacts) {
        let register = Request::register("anna", DOMAIN).call("own").cseq(cseq);
        let register = register.line(&format!("Contact: {contact}"));
        assert_eq!(answer(&phone, &server, &register).status(), Some(403), "{contact}");
    }
    assert_eq!(server.registrations().unwrap(), Vec::<Value>::new());
    registered(&phone, "anna", &server);
}

/// Mallory registers the translated address of Anna's phone as her own contact: her calls come to herself, and Anna's path is held by Anna.
#[test]
fn a_contact_at_the_path_of_another_customer_gets_nothing_of_it() {
    let lab = document::lab().build().unwrap();
    let _nat = document::start_nat(&lab, Nat::Nftables, "").unwrap();
    let server = Server::config(DOMAIN).start(lab.o(1)).unwrap();
    let (anna, mallory) = (Peer::udp(lab.h(1), 5060).unwrap(), Peer::udp(lab.o(2), 5060).unwrap());
    registered(&anna, "user", &server);
    let before = server.path_to(TRANSLATED).unwrap();

    let register = Request::register("mallory", DOMAIN).line(&format!("Contact: <sip:user@{TRANSLATED}>"));
    assert_eq!(answer(&mallory, &server, &register).status(), Some(200));
    let invite = Request::new("INVITE", "sip:mallory@net.com").from("bob@elsewhere.org");
    let caller = Peer::udp(lab.o(2), 5070).unwrap();
    caller
        .send_message(server.endpoint, &invite.over_udp(caller.endpoint))
        .unwrap();
    let (received, from) = mallory.recv_request("INVITE").unwrap();
    mallory
        .send_message(from, &received.reply(486, "Busy Here", &[], ""))
        .unwrap();
    assert_eq!(caller.recv_final("the 486").unwrap().status(), Some(486));
    let is_invite = |message: &Message| message.method().as_deref() == Some("INVITE");
    anna.nothing(SILENCE, is_invite).unwrap();

    // Nor does she end what is not hers.
    let remove = register.clone().cseq(2).line("Expires: 0");
    assert_eq!(answer(&mallory, &server, &remove).status(), Some(200));
    let after = server.path_to(TRANSLATED).unwrap();
    for what in ["state", "registrations", "dialogs", "down"] {
        assert_eq!(after[what], before[what], "{what}");
    }
    let invite = Request::new("INVITE", "sip:user@net.com")
        .from("bob@elsewhere.org")
        .call("2");
    caller
        .send_message(server.endpoint, &invite.over_udp(caller.endpoint))
        .unwrap();
    anna.recv_request("INVITE").unwrap();
}

/// Record-Route and flow tokens that this server has not made, or not for this dialog.
#[test]
fn forged_tokens_lead_nowhere() {
    let (server, lab) = scene(3, Server::config(DOMAIN));
    let (phone, caller) = (Peer::udp(lab.o(1), 5060).unwrap(), Peer::udp(lab.o(2), 5060).unwrap());
    let (invite, ok) = established(&server, &phone, &caller);
    let recorded = ok.headers("Record-Route").join(",");
    let (_, token) = recorded.split_once("d~").unwrap();
    let (ip, at) = (server.endpoint.ip(), phone.endpoint);
    for (number, (what, user)) in (0..).zip(forgeries(token.split('@').next().unwrap())) {
        for method in ["INVITE", "BYE", "MESSAGE"] {
            let forged = |uri: &str, route: &str, call: &str| {
                let request = Request::new(method, uri).from("bob@elsewhere.org").to_tag("peer");
                let request = request.call(&format!("forged{number}{call}{method}"));
                answer(&caller, &server, &request.line(&format!("Route: <{route}>"))).status()
            };
            let code = forged(&format!("sip:anna@{at}"), &format!("sip:{user}@{ip};lr"), "loose");
            assert_eq!(code, Some(403), "{what}: {method}");
            // A strict router before us would have put it into the request URI.
            let code = forged(&format!("sip:{user}@{ip};lr"), &format!("sip:anna@{at}"), "strict");
            assert!(matches!(code, Some(403 | 404 | 430)), "{what}: {method}: {code:?}");
        }
    }
    let of_the_forger = |message: &Message| message.header("Call-ID").contains("forged");
    phone.nothing(SILENCE, of_the_forger).unwrap();
    // The dialog itself goes on.
    let bye = invite.within("BYE", &ok).over_udp(caller.endpoint);
    caller.send_message(server.endpoint, &bye).unwrap();
    let (bye, from) = phone.recv_request("BYE").unwrap();
    phone.send_message(from, &bye.reply(200, "OK", &[], "")).unwrap();
    assert_eq!(caller.recv_final("the 200").unwrap().status(), Some(200));
}

/// A call to a phone that names an address inside, so that its flow is named by a token: the INVITE and its 200.
fn established(server: &Server, phone: &Peer, caller: &Peer) -> (Request, Message) {
    let contact = "Contact: <sip:anna@192.168.1.10:5060>";
    let register = Request::register("anna", DOMAIN).line(contact);
    assert_eq!(answer(phone, server, &register).status(), Some(200));
    let invite = Request::new("INVITE", "sip:anna@net.com").from("bob@elsewhere.org");
    let send = |request: &Request| caller.send_message(server.endpoint, &request.over_udp(caller.endpoint));
    send(&invite).unwrap();
    let (received, from) = phone.recv_request("INVITE").unwrap();
    phone
        .send_message(from, &received.reply(200, "OK", &[contact], ""))
        .unwrap();
    let ok = caller.recv_final("the 200").unwrap();
    send(&invite.within("ACK", &ok)).unwrap();
    phone.recv_request("ACK").unwrap();
    (invite, ok)
}

/// User parts that look like tokens; `token` is that of a dialog.
fn forgeries(token: &str) -> Vec<(&'static str, String)> {
    let other = |text: &str| if text.ends_with('A') { "B" } else { "A" };
    let (head, last) = token.split_at(token.len() - 2);
    let (first, tail) = token.split_at(1);
    vec![
        ("another dialog's", format!("d~{token}")),
        (
            "changed at its end",
            format!("d~{head}{}{}", other(&last[..1]), &last[1..]),
        ),
        ("changed at its beginning", format!("d~{}{tail}", other(first))),
        ("cut", format!("d~{}", &token[..token.len() - 4])),
        ("empty", "d~".into()),
        ("no base64", "d~!!!!".into()),
        ("for another use", format!("f~{token}")),
        ("a flow's", format!("f~{}", "A".repeat(32))),
    ]
}

/// Contacts of the outbound role stand for their devices: nobody can make one up.
#[test]
fn forged_contacts_of_the_outbound_proxy_reach_nobody() {
    let (server, lab) = scene(3, Server::config("").role("outbound"));
    let (registrar, phone) = (Peer::udp(lab.o(1), 5060).unwrap(), Peer::udp(lab.o(2), 5060).unwrap());
    let elsewhere = registrar.endpoint.ip().to_string();
    let register = Request::register("user", &elsewhere).line(&format!("Contact: <sip:user@{}>", phone.endpoint));
    phone
        .send_message(server.endpoint, &register.over_udp(phone.endpoint))
        .unwrap();
    let (received, from) = registrar.recv_request("REGISTER").unwrap();
    let contact = received.uri_of("Contact");
    registrar
        .send_message(
            from,
            &received.reply(200, "OK", &[&format!("Contact: <{contact}>;expires=300")], ""),
        )
        .unwrap();
    assert_eq!(phone.recv_final("the 200").unwrap().status(), Some(200));

    let message = |uri: &str, call: &str| {
        let message = Request::new("MESSAGE", uri).from("bob@elsewhere.org").call(call);
        message.over_udp(registrar.endpoint)
    };
    let at = contact.find('@').unwrap();
    let last = &contact[at - 1..at];
    let changed = format!(
        "{}{}{}",
        &contact[..at - 2],
        if last == "A" { "BB" } else { "AA" },
        &contact[at..]
    );
    for (uri, call) in [
        (changed.as_str(), "changed"),
        (&format!("sip:e~@{}", server.endpoint.ip()), "empty"),
    ] {
        registrar.send_message(server.endpoint, &message(uri, call)).unwrap();
        let code = registrar.recv_final("an answer").unwrap().status();
        assert!(matches!(code, Some(403 | 404 | 430)), "{call}: {code:?}");
    }
    phone
        .nothing(SILENCE, |message| message.method().as_deref() == Some("MESSAGE"))
        .unwrap();
    registrar
        .send_message(server.endpoint, &message(&contact, "own"))
        .unwrap();
    phone.recv_request("MESSAGE").unwrap();
}

//! Each state machine by its figure in RFC 3261 and RFC 6026: what is sent when, and when it ends.

use std::time::Duration;

use bytes::Bytes;

use super::{
    Due, Periods,
    client::{self, Clients, Outgoing, Received},
    key::Keys,
    server::{self, Servers},
};
use crate::sip::{
    command::{Command, Destination},
    core::{
        arena::{Arena, Id},
        connections::Connections,
    },
    flow::{ConnectionId, Flow, ListenerId, Transport},
    message::Message,
    time::Time,
    timers::Timers,
};

const START: u64 = 1_790_000_000_000;

fn flow(reliable: bool) -> Flow {
    let remote = "192.0.2.1:5060".parse().unwrap();
    if reliable {
        Flow::stream(ListenerId(1), Transport::Tcp, remote, ConnectionId(1))
    } else {
        Flow::udp(ListenerId(0), remote)
    }
}

fn id() -> Id {
    Arena::default().insert(())
}

fn request(method: &str, branch: &str) -> Bytes {
    let text = format!(
        "{method} sip:b@y SIP/2.0\r\nVia: SIP/2.0/UDP h;branch={branch}\r\nFrom: <sip:a@x>;tag=1\r\nTo: <sip:b@y>\r\nCall-ID: c\r\nCSeq: 7 {method}\r\nRoute: <sip:r;lr>\r\nContent-Length: 0\r\n\r\n"
    );
    Bytes::from(text)
}

fn response(code: u16, method: &str, branch: &str) -> Message {
    let text = format!(
        "SIP/2.0 {code} X\r\nVia: SIP/2.0/UDP h;branch={branch}\r\nFrom: <sip:a@x>;tag=1\r\nTo: <sip:b@y>;tag=2\r\nCall-ID: c\r\nCSeq: 7 {method}\r\n\r\n"
    );
    Message::parse(Bytes::from(text)).unwrap()
}

fn line(command: &Command) -> String {
    match command {
        Command::Send { bytes, .. } => {
            let end = bytes.iter().position(|byte| *byte == b'\r').unwrap();
            String::from_utf8_lossy(&bytes[..end])
                .split(' ')
                .next()
                .unwrap()
                .to_owned()
        }
        other => format!("{other:?}"),
    }
}

/// What was sent, and what the timers said, in milliseconds from the start.
type Happened = (Vec<(u64, String)>, Vec<(u64, client::Fired)>);

/// A table of clients with one transaction, and what it does over time.
struct Client {
    clients: Clients,
    timers: Timers<Due>,
    id: Id,
    branch: String,
    out: Vec<Command>,
    now: Time,
}

impl Client {
    fn new(method: &str, reliable: bool) -> Client {
        let mut clients = Clients::new(Periods::default(), Keys::default());
        let (mut timers, mut out, mut branch) = (Timers::new(), Vec::new(), String::new());
        let outgoing = Outgoing {
            context: id(),
            branch: 0,
            invite: method == "INVITE",
            to: Destination::Flow(flow(reliable)),
            reliable,
        };
        let compose = |name: &client::Branch| {
            branch = String::from_utf8(name.to_vec()).unwrap();
            request(method, &branch)
        };
        let id = clients.create(outgoing, 5, compose, &mut timers, Time(START), &mut out);
        assert_eq!(clients.find(branch.as_bytes()), Some(id));
        assert_eq!(client::loop_part(branch.as_bytes()), Some(5));
        Client {
            clients,
            timers,
            id,
            branch,
            out,
            now: Time(START),
        }
    }

    fn receive(&mut self, code: u16, method: &str) -> Received {
        let response = response(code, method, &self.branch);
        self.clients
            .received(self.id, &response, &mut self.timers, self.now, &mut self.out)
    }

    /// What is sent, and what the timers say, in milliseconds from the start, up to then.
    fn until(&mut self, end: u64) -> Happened {
        let (mut sent, mut fired) = (Vec::new(), Vec::new());
        let since = |now: Time| now.0.saturating_sub(START); // the wheel may ask earlier
        sent.extend(self.out.drain(..).map(|command| (since(self.now), line(&command))));
        while let Some(next) = self.timers.next().filter(|next| since(*next) <= end) {
            self.now = self.now.max(next);
            while let Some(due) = self.timers.pop(self.now) {
                let Due::Client(id) = due else { panic!("{due:?}") };
                let one = self.clients.due(id, &mut self.timers, self.now, &mut self.out);
                if !matches!(one, client::Fired::Nothing | client::Fired::Again) {
                    fired.push((since(self.now), one));
                }
                sent.extend(self.out.drain(..).map(|command| (since(self.now), line(&command))));
            }
        }
        self.now = Time(START + end);
        (sent, fired)
    }
}

fn times(sent: &[(u64, String)]) -> Vec<u64> {
    sent.iter().map(|(at, _)| *at).collect()
}

#[test]
fn invite_client_over_udp() {
    // A and B.
    let mut client = Client::new("INVITE", false);
    let (sent, fired) = client.until(100_000);
    assert_eq!(times(&sent), [0, 500, 1500, 3500, 7500, 15_500, 31_500]);
    assert_eq!(fired, [(32_000, client::Fired::Timeout)]);
    assert!(client.clients.is_empty());
    // A refusal is acknowledged each time it comes, until D.
    let mut client = Client::new("INVITE", false);
    client.until(100);
    assert_eq!(client.receive(100, "INVITE"), Received::News);
    client.until(1000);
    assert_eq!(client.receive(486, "INVITE"), Received::News);
    assert_eq!(client.receive(486, "INVITE"), Received::Absorbed);
    let (sent, fired) = client.until(40_000);
    assert_eq!(sent, [(1000, "ACK".into()), (1000, "ACK".into())]);
    assert_eq!(fired, [(33_000, client::Fired::Ended(client::State::Completed))]);
    // A success is passed on each time it comes, until M.
    let mut client = Client::new("INVITE", false);
    client.until(0);
    for _ in 0..2 {
        assert_eq!(client.receive(200, "INVITE"), Received::News);
    }
    assert_eq!(client.receive(486, "INVITE"), Received::Absorbed);
    let (sent, fired) = client.until(40_000);
    assert_eq!(
        (sent, fired),
        (vec![], vec![(32_000, client::Fired::Ended(client::State::Accepted))])
    );
}

#[test]
fn invite_client_over_tcp() {
    let mut client = Client::new("INVITE", true);
    let (sent, fired) = client.until(100_000);
    assert_eq!((times(&sent), fired), (vec![0], vec![(32_000, client::Fired::Timeout)]));
    let mut client = Client::new("INVITE", true);
    assert_eq!(client.receive(404, "INVITE"), Received::News);
    let (sent, _) = client.until(0);
    assert_eq!(sent[1].1, "ACK");
    assert!(client.clients.is_empty(), "D is zero");
}

#[test]
fn timer_c_and_cancel() {
    let mut client = Client::new("INVITE", false);
    client.receive(180, "INVITE");
    client.until(100_000);
    client.receive(180, "INVITE");
    let (sent, fired) = client.until(285_000);
    assert_eq!(fired, [(285_000, client::Fired::TimerC)]);
    assert_eq!(sent, [(285_000, "CANCEL".into())]);
    // The CANCEL goes out again until it is answered; the INVITE is waited for a while.
    let (sent, _) = client.until(287_000);
    assert_eq!(times(&sent), [285_500, 286_500]);
    assert_eq!(client.receive(200, "CANCEL"), Received::Absorbed);
    let (sent, fired) = client.until(400_000);
    assert_eq!((sent, fired), (vec![], vec![(317_000, client::Fired::Timeout)]));
    // Before a provisional response nothing is cancelled.
    let mut client = Client::new("INVITE", false);
    let (timers, out) = (&mut client.timers, &mut client.out);
    client.clients.cancel(client.id, timers, client.now, out);
    assert_eq!(client.until(400).0.len(), 1);
    client.receive(100, "INVITE");
    assert_eq!(client.until(400).0, [(400, "CANCEL".into())]);
}

#[test]
fn other_client_over_udp() {
    // E and F.
    let mut client = Client::new("OPTIONS", false);
    let (sent, fired) = client.until(100_000);
    assert_eq!(
        times(&sent),
        [0, 500, 1500, 3500, 7500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500]
    );
    assert_eq!(fired, [(32_000, client::Fired::Timeout)]);
    // In Proceeding every T2; K after the final response.
    let mut client = Client::new("OPTIONS", false);
    client.until(400);
    client.receive(100, "OPTIONS");
    let (sent, _) = client.until(10_000);
    assert_eq!(times(&sent), [500, 4500, 8500]);
    assert_eq!(client.receive(200, "OPTIONS"), Received::News);
    assert_eq!(client.receive(200, "OPTIONS"), Received::Absorbed);
    let (sent, fired) = client.until(20_000);
    assert_eq!(
        (sent, fired),
        (vec![], vec![(15_000, client::Fired::Ended(client::State::Completed))])
    );
}

#[test]
fn other_client_over_tcp() {
    let mut client = Client::new("OPTIONS", true);
    assert_eq!(client.until(31_999), (vec![(0, "OPTIONS".into())], vec![]));
    assert_eq!(client.receive(200, "OPTIONS"), Received::News);
    assert!(client.clients.is_empty(), "K is zero");
}

#[test]
fn nobody_can_make_up_a_response() {
    let client = Client::new("INVITE", false);
    for place in 8..40 {
        let mut branch = client.branch.clone().into_bytes();
        branch[place] = if branch[place] == b'0' { b'1' } else { b'0' };
        assert_eq!(client.clients.find(&branch), None, "{place}");
    }
    for branch in [
        "",
        "z9hG4bK",
        "z9hG4bKs",
        &client.branch[..30],
        "z9hG4bKs000000000000000\u{e9}0000000000000000",
    ] {
        assert_eq!(client.clients.find(branch.as_bytes()), None);
    }
}

#[test]
fn ack_and_cancel_go_the_way_of_the_invite() {
    let mut client = Client::new("INVITE", false);
    client.receive(180, "INVITE");
    let (timers, out) = (&mut client.timers, &mut client.out);
    client.clients.cancel(client.id, timers, client.now, out);
    client.receive(487, "INVITE");
    let texts: Vec<String> = client
        .out
        .iter()
        .map(|command| match command {
            Command::Send { bytes, .. } => String::from_utf8_lossy(bytes).into_owned(),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = |method: &str, to: &str| {
        format!(
            "{method} sip:b@y SIP/2.0\r\nVia: SIP/2.0/UDP h;branch={}\r\nRoute: <sip:r;lr>\r\nMax-Forwards: 70\r\nFrom: <sip:a@x>;tag=1\r\nTo: <sip:b@y>{to}\r\nCall-ID: c\r\nCSeq: 7 {method}\r\nContent-Length: 0\r\n\r\n",
            client.branch
        )
    };
    assert_eq!(texts[1..], [expected("CANCEL", ""), expected("ACK", ";tag=2")]);
}

/// A table of servers with one transaction.
struct Server {
    servers: Servers,
    connections: Connections,
    timers: Timers<Due>,
    id: Id,
    out: Vec<Command>,
    now: Time,
}

impl Server {
    fn new(method: &str, reliable: bool) -> Server {
        let mut servers = Servers::new(Periods::default(), 10);
        let message = Message::parse(request(method, "z9hG4bK1")).unwrap();
        let key = Keys::default().of(&message).unwrap();
        let mut connections = Connections::default();
        connections.opened(&flow(true));
        let id = servers.create(message, key, flow(reliable), Time(START));
        assert_eq!(servers.find(key), Some(id));
        Server {
            servers,
            connections,
            timers: Timers::new(),
            id,
            out: Vec::new(),
            now: Time(START),
        }
    }

    fn respond(&mut self, code: u16) -> bool {
        let bytes = response(code, "INVITE", "z9hG4bK1").bytes().clone();
        self.servers.respond(
            self.id,
            code,
            bytes,
            &self.connections,
            &mut self.timers,
            self.now,
            &mut self.out,
        )
    }

    fn again(&mut self) -> usize {
        self.out.clear();
        self.servers.again(self.id, &self.connections, &mut self.out);
        std::mem::take(&mut self.out).len()
    }

    fn until(&mut self, end: u64) -> (Vec<u64>, Vec<(u64, server::Fired)>) {
        let (mut sent, mut fired) = (Vec::new(), Vec::new());
        let since = |now: Time| now.0.saturating_sub(START); // the wheel may ask earlier
        sent.extend(self.out.drain(..).map(|_| since(self.now)));
        while let Some(next) = self.timers.next().filter(|next| since(*next) <= end) {
            self.now = self.now.max(next);
            while let Some(due) = self.timers.pop(self.now) {
                let Due::Server(id) = due else { panic!("{due:?}") };
                let connections = &self.connections;
                let one = self
                    .servers
                    .due(id, connections, &mut self.timers, self.now, &mut self.out);
                if !matches!(one, server::Fired::Nothing | server::Fired::Again) {
                    fired.push((since(self.now), one));
                }
                sent.extend(self.out.drain(..).map(|_| since(self.now)));
            }
        }
        self.now = Time(START + end);
        (sent, fired)
    }
}

#[test]
fn invite_server_refuses_over_udp() {
    let mut server = Server::new("INVITE", false);
    assert_eq!(server.again(), 0, "nothing was answered yet");
    assert!(server.respond(180));
    assert_eq!(server.again(), 1);
    assert!(server.respond(486));
    assert!(!server.respond(404), "it has its final response");
    let (sent, _) = server.until(10_000);
    assert_eq!(sent, [0, 500, 1500, 3500, 7500], "G, up to T2");
    assert_eq!(server.again(), 1);
    assert!(server.servers.ack(server.id, &mut server.timers, server.now));
    assert_eq!(server.again(), 0);
    assert!(server.servers.ack(server.id, &mut server.timers, server.now), "a copy");
    let (sent, fired) = server.until(40_000);
    let confirmed = server::Fired::Ended(server::State::Confirmed);
    assert_eq!((sent, fired), (vec![], vec![(15_000, confirmed)]), "I");
    // H.
    let mut server = Server::new("INVITE", false);
    server.respond(486);
    let (sent, fired) = server.until(40_000);
    assert_eq!((sent.len(), fired), (11, vec![(32_000, server::Fired::NoAck)]));
    assert!(server.servers.is_empty());
}

#[test]
fn invite_server_refuses_over_tcp() {
    let mut server = Server::new("INVITE", true);
    server.respond(486);
    assert_eq!(server.until(31_000), (vec![0], vec![]), "no G");
    assert!(server.servers.ack(server.id, &mut server.timers, server.now));
    assert!(server.servers.is_empty(), "I is zero");
}

#[test]
fn invite_server_accepts() {
    let mut server = Server::new("INVITE", false);
    server.respond(200);
    assert_eq!(server.until(100).0, [0]);
    assert_eq!(server.again(), 0, "the callee repeats it");
    assert!(!server.respond(200), "but it goes out");
    assert_eq!(server.until(200).0, [100]);
    assert!(
        !server.servers.ack(server.id, &mut server.timers, server.now),
        "to be passed on"
    );
    let accepted = server::Fired::Ended(server::State::Accepted);
    assert_eq!(server.until(40_000), (vec![], vec![(32_000, accepted)]), "L");
}

#[test]
fn other_server() {
    for reliable in [false, true] {
        let mut server = Server::new("OPTIONS", reliable);
        assert!(server.respond(100));
        assert_eq!(server.again(), 1);
        assert!(server.respond(200));
        assert!(server.servers.is_empty(), "what is kept is the answer");
        assert_eq!(server.servers.answered.len(), usize::from(!reliable), "J");
        assert!(!server.respond(200));
    }
}

/// RFC 3261 section 18.2.2: a response finds another way if the connection of its request is gone.
#[test]
fn a_connection_ends_before_the_response() {
    let mut server = Server::new("INVITE", true);
    server.connections.closed(&flow(true));
    server.respond(486);
    match &server.out[0] {
        Command::Send {
            to: Destination::Hop { hop, .. },
            ..
        } => assert_eq!(
            (hop.transport, hop.address),
            (Transport::Tcp, "192.0.2.1:5060".parse().unwrap())
        ),
        other => panic!("{other:?}"),
    }
}

#[test]
fn intervals_double_up_to_their_limit() {
    let mut resend = super::Resend::after(Duration::from_millis(500), Time(0));
    let mut at = Vec::new();
    for _ in 0..5 {
        at.push(resend.at.0);
        resend.sent(Duration::from_secs(2), resend.at);
    }
    assert_eq!(at, [500, 1500, 3500, 5500, 7500]);
}

//! The core with a simulated clock, users that are made up, and messages as text.

mod calls;
mod connections;
mod dialogs;
mod ended;
mod forks;
mod kept;
mod loss;
mod media;
mod rfc3665;
mod schedules;
mod ways;

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use super::{
    Beginning, Core,
    here::Here,
    seam::{Answer, Device, Found, Lookup, Registered, Registry, Verdict},
};
use crate::{
    config::sip::{self as config, ListenAddress, Listener, Role, Sip},
    sip::{
        command::{Command, Destination, Input, QueryId},
        flow::{ConnectionId, Flow, ListenerId, Transport},
        location::{ContactId, Location, NewContact, domains::tests::sip},
        message::{Edits, HeaderName, Message, NameAddr, Uri},
        path::{self, PathAction, Paths},
        time::Time,
    },
    store::CallChanges,
};

/// Users that are made up: `net.com` is served here, everybody in `trusted` is trusted.
#[derive(Debug, Default)]
struct Fake {
    contacts: HashMap<String, Lookup>,
    trusted: Vec<SocketAddr>,
    edges: HashMap<Vec<u8>, (Flow, Bytes)>,
    calls: Option<u32>,
    moved: Option<Flow>,
    fallback: Option<Found>,
    /// Where REGISTERs for elsewhere are sent.
    registrars: Vec<Bytes>,
    /// On TLS or elsewhere: known all the same.
    clients: Vec<SocketAddr>,
    /// Records of calls, as a store would have them.
    stored: BTreeMap<u64, Vec<u8>>,
}

impl Registry for Fake {
    fn admit(&mut self, _: &Flow, _: bool, _: Time) -> Result<(), Option<Answer>> {
        Ok(())
    }

    fn domain(&self, host: &[u8]) -> Option<usize> {
        let ours = [&b"net.com"[..], b"biloxi.example.com"];
        ours.iter().any(|name| host.eq_ignore_ascii_case(name)).then_some(0)
    }

    fn aor(&self, uri: &Uri<'_>, aor: &mut String) -> Option<usize> {
        self.domain(uri.host)?;
        *aor = format!("{}@{}", uri.user_text()?, String::from_utf8_lossy(uri.host));
        Some(0)
    }

    fn lookup(&self, aor: &str, _: Time) -> Lookup {
        self.contacts.get(aor).cloned().unwrap_or_default()
    }

    fn calls_allowed(&self, _: &str) -> Option<u32> {
        self.calls
    }

    fn authorize(&mut self, request: &Message, flow: &Flow, _: Time) -> Verdict {
        if self.trusted.contains(&flow.remote) {
            return Verdict::Trusted;
        }
        match request.named("X-User") {
            Some(user) => Verdict::User {
                aor: String::from_utf8_lossy(user).into_owned(),
                credentials: None,
            },
            None => Verdict::Anonymous,
        }
    }

    fn fallback(&self, _: ContactId, tried: &[ContactId], _: Time) -> Option<Found> {
        self.fallback.clone().filter(|_| tried.len() < 2)
    }

    fn flow_of(&self, _: ContactId, _: Time) -> Option<Flow> {
        self.moved
    }

    fn device_on(&self, flow: &Flow, _: Option<&Uri<'_>>, _: &Paths, _: Time) -> Option<Device<'_>> {
        let mut all = self.contacts.iter();
        all.find_map(|(aor, lookup)| {
            let found = lookup.usable.iter().find(|found| found.flow == Some(*flow))?;
            Some(Device { aor, name: &found.uri })
        })
    }

    fn flow_of_device(&self, uri: &Uri<'_>, is_it: &dyn Fn(Device<'_>) -> bool, _: Time) -> Option<Flow> {
        let mut aor = String::new();
        self.aor(uri, &mut aor)?;
        let found = &self.contacts.get(&aor)?.usable;
        let found = found.iter().find(|found| {
            is_it(Device {
                aor: &aor,
                name: &found.uri,
            })
        });
        found?.flow
    }

    fn is_trusted(&self, source: IpAddr) -> bool {
        self.trusted.iter().any(|trusted| trusted.ip() == source)
    }

    fn is_known(&self, flow: &Flow, _: &Paths, _: Time) -> bool {
        let contacts = self.contacts.values().flat_map(|lookup| &lookup.usable);
        self.clients.contains(&flow.remote)
            || self.trusted.contains(&flow.remote)
            || contacts.into_iter().any(|found| found.flow == Some(*flow))
    }

    fn may_call(&self, _: &str, destination: &str) -> bool {
        !destination.starts_with("0190")
    }

    fn closed(&mut self, _: &Flow, _: &mut Paths, _: Time) {}

    fn register(&mut self, request: &Message, _: &Flow, _: SocketAddr, _: &mut Paths, _: Time) -> Registered {
        if request.request_uri() == b"sip:net.com" {
            return Registered::Answer(Answer::new(200, "OK"));
        }
        Registered::Forward {
            edits: Edits::new(),
            ticket: 1,
            next: self.registrars.clone(),
        }
    }

    fn repeats(&self, _: &Bytes, _: &Flow, _: &Paths, _: Time) -> Option<(ContactId, Message)> {
        None
    }

    fn refresh(&mut self, _: ContactId, _: u32, _: Time) -> Answer {
        unreachable!("nothing repeats anything")
    }

    fn registered(&mut self, _: u64, _: &Message, _: &mut Paths, _: Time, _: &mut Edits) {}

    fn path_news(&mut self, _: &PathAction, _: &mut Paths, _: Time) {}

    fn listeners(&mut self, _: &Here) {}

    fn next(&self) -> Option<Time> {
        None
    }

    fn tick(&mut self, _: &mut Paths, _: Time) {}

    fn keeps_calls(&self) -> bool {
        true
    }

    fn keep_calls(&mut self, changes: CallChanges) {
        self.stored.extend(changes.calls);
        changes.gone.iter().for_each(|number| drop(self.stored.remove(number)));
    }

    fn edge(&self, user: &[u8]) -> Option<(Flow, Bytes)> {
        self.edges.get(user).cloned()
    }
}

/// A core at 134.56.3.1 (UDP and TCP, port 5060), and the clock.
struct World {
    core: Core<Fake>,
    now: Time,
}

/// What came out.
#[derive(Debug)]
struct Sent {
    to: Destination,
    bytes: Bytes,
    message: Message,
}

impl Sent {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes).unwrap()
    }

    /// `INVITE`, or `200`.
    fn what(&self) -> String {
        match self.message.code() {
            Some(code) => code.to_string(),
            None => String::from_utf8_lossy(self.message.method_text()).into_owned(),
        }
    }

    fn remote(&self) -> SocketAddr {
        match &self.to {
            Destination::Flow(flow) => flow.remote,
            Destination::Hop { hop, .. } => hop.address,
        }
    }

    /// The values of a header, one by one.
    fn values(&self, name: HeaderName) -> Vec<&str> {
        let texts = self.message.items(name).map(|item| self.message.text(item.span));
        texts.map(|text| std::str::from_utf8(text).unwrap()).collect()
    }
}

fn listener(transport: Transport, ip: &str) -> Listener {
    Listener {
        transport,
        address: ListenAddress::Ip(ip.parse().unwrap()),
        port: 5060,
        advertise: None,
        role: Role::Proxy,
    }
}

fn settings() -> Sip {
    Sip {
        listeners: vec![
            listener(Transport::Udp, "134.56.3.1"),
            listener(Transport::Tcp, "134.56.3.1"),
        ],
        domains: vec![config::Domain {
            names: vec!["net.com".into()],
            users: None,
            authenticate: false,
            role: None,
            aliases: vec![],
            contacts: vec![],
            calls_per_user: None,
            callers: config::Callers::Anyone,
        }],
        emergency: vec!["112".into()],
        ..sip()
    }
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn udp(remote: &str) -> Flow {
    Flow::udp(ListenerId(0), addr(remote))
}

fn tcp(remote: &str, id: u64) -> Flow {
    Flow::stream(ListenerId(1), Transport::Tcp, addr(remote), ConnectionId(id))
}

fn found(uri: &str, flow: Flow, behind_nat: bool, q: u16) -> Found {
    Found {
        contact: None,
        uri: Bytes::copy_from_slice(uri.as_bytes()),
        path: Bytes::new(),
        flow: Some(flow),
        behind_nat,
        q,
    }
}

impl World {
    fn new(change: impl FnOnce(&mut Sip)) -> World {
        let mut config = settings();
        change(&mut config);
        let listeners = (0..).map(ListenerId).zip(config.listeners.clone());
        let listeners = listeners.map(|(id, listener)| (id, listener, None)).collect();
        let paths = Paths::new(
            path::Settings {
                paths: config.paths.clone(),
                t1: config.proxy.t1,
                t2: config.proxy.t2,
            },
            [7; 32],
        );
        let beginning = Beginning {
            config: Arc::new(config),
            listeners,
            secret: b"secret".to_vec(),
        };
        World {
            core: Core::new(beginning, paths, Fake::default()),
            now: Time(1_790_000_000_000),
        }
    }

    /// Names a contact that `Fake` need not know.
    fn contact(&self) -> ContactId {
        let (mut location, mut paths) = (Location::new(), Paths::new(self.path_settings(), [1; 32]));
        let new = NewContact {
            uri: b"sip:user@192.168.1.10:5060",
            params: b"",
            call_id: b"r",
            cseq: 1,
            path: b"",
            flow: None,
            behind_nat: true,
            keeps_alive: false,
            reg_id: None,
            q: 1000,
            expires: Time::MAX,
            user_agent: None,
            fixed: false,
        };
        location.put("user@net.com", None, &new, &mut paths, self.now)
    }

    fn path_settings(&self) -> path::Settings {
        let config = self.core.config();
        path::Settings {
            paths: config.paths.clone(),
            t1: config.proxy.t1,
            t2: config.proxy.t2,
        }
    }

    fn register(&mut self, aor: &str, contacts: Vec<Found>) {
        let lookup = Lookup {
            usable: contacts,
            down: false,
        };
        self.core.registry.contacts.insert(aor.into(), lookup);
    }

    fn input(&mut self, input: Input) -> Vec<Command> {
        let mut out = Vec::new();
        self.core.input(input, self.now, &mut out);
        out
    }

    /// Gives the core a message, with CRLF for each LF.
    fn receive(&mut self, flow: Flow, text: &str) -> Vec<Sent> {
        let bytes = Bytes::from(text.replace("\r\n", "\n").replace('\n', "\r\n"));
        let local = addr("134.56.3.1:5060");
        sent(self.input(Input::Received { flow, local, bytes }))
    }

    /// Gives the core a request that makes it look a name up: which look-up, and for which host.
    fn receive_and_ask(&mut self, flow: Flow, text: &str) -> (QueryId, String) {
        let input = Input::Received {
            flow,
            local: addr("134.56.3.1:5060"),
            bytes: Bytes::from(text.replace('\n', "\r\n")),
        };
        let asked = self.input(input).into_iter().find_map(|command| match command {
            Command::Resolve { query, target } => Some((query, target.host)),
            _ => None,
        });
        asked.expect("it looks a name up")
    }

    fn open(&mut self, flow: Flow) {
        self.input(Input::Opened(flow));
    }

    /// Lets time pass, step by step.
    fn pass(&mut self, time: Duration) -> Vec<Sent> {
        let end = self.now + time;
        let mut out = Vec::new();
        while let Some(next) = self.core.next().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.core.tick(self.now, &mut out);
        }
        self.now = end;
        self.core.tick(self.now, &mut out);
        sent(out)
    }

    /// Everything that was begun is over.
    fn assert_idle(&self) {
        assert_eq!((self.core.transactions(), self.core.contexts()), ((0, 0), 0));
        assert!(self.core.queries.is_empty());
    }
}

fn sent(commands: Vec<Command>) -> Vec<Sent> {
    let send = |command| match command {
        Command::Send { to, bytes, .. } => Some(Sent {
            to,
            message: Message::parse(bytes.clone()).unwrap(),
            bytes,
        }),
        _ => None,
    };
    commands.into_iter().filter_map(send).collect()
}

fn whats(sent: &[Sent]) -> Vec<String> {
    sent.iter().map(Sent::what).collect()
}

/// A request of a device.
struct Ask<'a> {
    method: &'a str,
    uri: &'a str,
    via: &'a str,
    from: &'a str,
    to: &'a str,
    call: &'a str,
    cseq: u32,
    more: &'a str,
}

impl Default for Ask<'_> {
    fn default() -> Self {
        Ask {
            method: "INVITE",
            uri: "sip:user@net.com",
            via: "SIP/2.0/UDP 134.56.9.9:5060;branch=z9hG4bKcaller",
            from: "<sip:caller@elsewhere.com>;tag=caller",
            to: "<sip:user@net.com>",
            call: "call-1@elsewhere.com",
            cseq: 1,
            more: "Contact: <sip:caller@134.56.9.9:5060>\n",
        }
    }
}

impl Ask<'_> {
    fn text(&self) -> String {
        let Ask {
            method,
            uri,
            via,
            from,
            to,
            call,
            cseq,
            more,
        } = self;
        format!(
            "{method} {uri} SIP/2.0\nVia: {via}\nMax-Forwards: 70\nFrom: {from}\nTo: {to}\nCall-ID: {call}\nCSeq: {cseq} {method}\n{more}Content-Length: 0\n\n"
        )
    }
}

/// A response that a device gives to what it was sent.
fn reply(request: &Sent, code: u16, tag: &str, more: &str) -> String {
    let message = &request.message;
    let mut out = format!("SIP/2.0 {code} Whatever\n");
    for header in message.headers() {
        let line = String::from_utf8_lossy(message.text(header.line)).replace("\r\n", "\n");
        match header.name {
            HeaderName::To if message.to_tag().is_none() && code > 100 => {
                out.push_str(&format!("{};tag={tag}\n", line.trim_end()));
            }
            HeaderName::Via
            | HeaderName::From
            | HeaderName::To
            | HeaderName::CallId
            | HeaderName::CSeq
            | HeaderName::RecordRoute => {
                out.push_str(&line);
            }
            _ => {}
        }
    }
    out + more + "Content-Length: 0\n\n"
}

/// The route set that a response's (or, reversed, a request's) Record-Route makes, as Route lines.
fn route_set(message: &Sent, reversed: bool) -> String {
    let mut routes = message.values(HeaderName::RecordRoute);
    if reversed {
        routes.reverse();
    }
    routes.iter().map(|route| format!("Route: {route}\n")).collect()
}

/// The contact URI of a message.
fn contact(message: &Sent) -> String {
    let item = message.message.items(HeaderName::Contact).next().unwrap();
    String::from_utf8_lossy(NameAddr::parse(&message.message, item.span).unwrap().uri).into_owned()
}

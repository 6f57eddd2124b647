//! Requests of raw peers: complete ones (RFC 3261 §8.1.1), of which a test then changes what it is about.
//!
//! ```no_run
//! # use tests::prelude::*;
//! # use tests::sip::{peer::Peer, request::Request};
//! # let lab = Lab::builder().build().unwrap();
//! # let server = "203.0.113.100:5060".parse().unwrap();
//! let caller = Peer::udp(lab.o(1), 5060).unwrap();
//! let invite = Request::new("INVITE", "sip:anna@net.com", &caller).without("Max-Forwards").message();
//! caller.send_message(server, &invite).unwrap();
//! let busy = caller.recv_final("486").unwrap();
//! caller.send_message(server, &tests::sip::request::ack(&invite, &busy)).unwrap();
//! ```

use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Transport;
use super::message::{Message, bracketed, compose, parameter};
use super::peer::Peer;
use super::stream::Stream;

/// Where a request is sent from.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// Address and port for Via and Contact.
    pub endpoint: SocketAddrV4,
    /// For Via.
    pub transport: Transport,
}

impl From<&Peer> for Source {
    fn from(peer: &Peer) -> Self {
        Self {
            endpoint: peer.endpoint,
            transport: Transport::Udp,
        }
    }
}

impl From<&Stream> for Source {
    fn from(stream: &Stream) -> Self {
        Self {
            endpoint: stream.local,
            transport: Transport::Tcp,
        }
    }
}

/// A request that is being composed: lines as they will be sent.
#[derive(Clone, Debug)]
pub struct Request {
    line: String,
    fields: Vec<(String, String)>,
    body: String,
}

impl Request {
    /// A request from [`CALLER`], with a branch, a Call-ID and a tag that no other has, the sender's endpoint in Via (which asks for
    /// `rport`) and Contact, and Max-Forwards 70.
    pub fn new(method: &str, uri: &str, from: impl Into<Source>) -> Self {
        let from = from.into();
        let number = unique();
        let fields = [
            ("Via", via(from, &format!("z9hG4bK-{number}"))),
            ("Max-Forwards", "70".into()),
            ("From", format!("<{CALLER}>;tag=f{number}")),
            ("To", format!("<{uri}>")),
            ("Call-ID", format!("c{number}@test")),
            ("CSeq", format!("1 {method}")),
            ("Contact", contact("caller", from)),
        ];
        Self {
            line: format!("{method} {uri} SIP/2.0"),
            fields: fields.map(|(name, value)| (name.to_string(), value)).into(),
            body: String::new(),
        }
    }

    /// A REGISTER of this user of a domain, for [`contact`] of the same user.
    pub fn register(user: &str, domain: &str, from: impl Into<Source>) -> Self {
        let from = from.into();
        let aor = format!("sip:{user}@{domain}");
        Self::new("REGISTER", &format!("sip:{domain}"), from)
            .set("From", &format!("<{aor}>;tag=f{}", unique()))
            .set("To", &format!("<{aor}>"))
            .set("Contact", &contact(user, from))
    }

    /// Adds a header field behind the others.
    pub fn add(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.into(), value.into()));
        self
    }

    /// Adds a header field in front of the others.
    pub fn first(mut self, name: &str, value: &str) -> Self {
        self.fields.insert(0, (name.into(), value.into()));
        self
    }

    /// Gives the header field of this name another value; adds it if there is none.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        match self.fields.iter_mut().find(|(field, _)| field == name) {
            Some((_, old)) => *old = value.into(),
            None => self.fields.push((name.into(), value.into())),
        }
        self
    }

    /// Takes out all header fields of this name.
    pub fn without(mut self, name: &str) -> Self {
        self.fields.retain(|(field, _)| field != name);
        self
    }

    /// Another request line.
    pub fn line(mut self, line: &str) -> Self {
        self.line = line.into();
        self
    }

    /// A body and its type.
    pub fn body(mut self, kind: &str, body: &str) -> Self {
        self.body = body.into();
        self.set("Content-Type", kind)
    }

    /// The message, with its Content-Length.
    pub fn message(&self) -> Message {
        let fields = self.fields.iter().map(|(name, value)| format!("{name}: {value}"));
        let lines: Vec<String> = std::iter::once(self.line.clone()).chain(fields).collect();
        compose(&lines, &self.body)
    }
}

/// Who sends what [`Request::new`] makes.
pub const CALLER: &str = "sip:caller@elsewhere.example";

/// A Contact value of this user at the sender's endpoint.
pub fn contact(user: &str, at: impl Into<Source>) -> String {
    let at = at.into();
    match at.transport {
        Transport::Udp => format!("<sip:{user}@{}>", at.endpoint),
        other => format!("<sip:{user}@{};transport={other}>", at.endpoint),
    }
}

/// A Via value that asks for `rport`.
pub fn via(from: impl Into<Source>, branch: &str) -> String {
    let from = from.into();
    format!(
        "SIP/2.0/{} {};branch={branch};rport",
        from.transport.via(),
        from.endpoint
    )
}

/// The ACK for a final response other than 2xx (RFC 3261 §17.1.1.3).
pub fn ack(invite: &Message, response: &Message) -> Message {
    hop_by_hop("ACK", invite, &response.header("To"))
}

/// The CANCEL of a request (RFC 3261 §9.1).
pub fn cancel(invite: &Message) -> Message {
    hop_by_hop("CANCEL", invite, &invite.header("To"))
}

fn hop_by_hop(method: &str, invite: &Message, to: &str) -> Message {
    let mut lines = vec![
        format!("{method} {} SIP/2.0", invite.request_uri()),
        format!("Via: {}", invite.header("Via")),
        "Max-Forwards: 70".into(),
        format!("From: {}", invite.header("From")),
        format!("To: {to}"),
        format!("Call-ID: {}", invite.header("Call-ID")),
        format!("CSeq: {} {method}", invite.cseq()),
    ];
    lines.extend(invite.headers("Route").iter().map(|route| format!("Route: {route}")));
    compose(&lines, "")
}

/// One side's view of a dialog (RFC 3261 §12.1).
#[derive(Clone, Debug)]
pub struct Dialog {
    /// Where its requests are sent from.
    pub from: Source,
    /// The value of From, with the tag of this side.
    pub local: String,
    /// The value of To, with the tag of the other side.
    pub remote: String,
    pub call_id: String,
    /// The remote target, which is the request URI.
    pub target: String,
    /// The route set, in the order of Route.
    pub routes: Vec<String>,
}

impl Dialog {
    /// The caller's: of its INVITE (or another request that makes a dialog) and the response.
    pub fn of_caller(request: &Message, response: &Message, at: impl Into<Source>) -> Self {
        let mut routes = list(response, "Record-Route");
        routes.reverse();
        Self {
            from: at.into(),
            local: request.header("From"),
            remote: response.header("To"),
            call_id: request.header("Call-ID"),
            target: response.uri_of("Contact"),
            routes,
        }
    }

    /// The callee's: of the request as it came and the response that was given.
    pub fn of_callee(request: &Message, response: &Message, at: impl Into<Source>) -> Self {
        Self {
            from: at.into(),
            local: response.header("To"),
            remote: request.header("From"),
            call_id: request.header("Call-ID"),
            target: request.uri_of("Contact"),
            routes: list(request, "Record-Route"),
        }
    }

    /// A request within it.
    pub fn request(&self, method: &str, cseq: u32) -> Request {
        let request = Request::new(method, &self.target, self.from)
            .set("From", &self.local)
            .set("To", &self.remote)
            .set("Call-ID", &self.call_id)
            .set("CSeq", &format!("{cseq} {method}"));
        self.routes
            .iter()
            .fold(request, |request, route| request.add("Route", route))
    }
}

/// The values of a header whose lists are of name-addrs in angle brackets.
fn list(message: &Message, name: &str) -> Vec<String> {
    let fields = message.headers(name);
    let values = fields.iter().flat_map(|field| field.split(">,"));
    values
        .map(|value| match value.trim() {
            whole if whole.ends_with('>') || !whole.contains('<') => whole.to_string(),
            cut => format!("{cut}>"),
        })
        .collect()
}

/// The first URI of a list of Route, Record-Route or Path values.
pub fn first_uri(value: &str) -> &str {
    bracketed(value).unwrap_or(value)
}

/// A parameter of the topmost Via.
pub fn of_via(message: &Message, name: &str) -> Option<String> {
    parameter(&message.header("Via"), name)
}

fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    // Tests of several processes may speak to one server.
    (std::process::id() << 16) | NEXT.fetch_add(1, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_of_a_dialog() {
        let at = Source {
            endpoint: "192.0.2.1:5060".parse().unwrap(),
            transport: Transport::Udp,
        };
        let invite = Request::new("INVITE", "sip:b@net.com", at);
        let received = invite
            .clone()
            .first("Record-Route", "<sip:p2;lr>, <sip:p1;lr>")
            .message();
        let ok = received.reply(200, "OK", &["Contact: <sip:b@192.0.2.2>"], "");
        let caller = Dialog::of_caller(&invite.message(), &ok, at);
        assert_eq!(caller.routes, ["<sip:p1;lr>", "<sip:p2;lr>"]);
        assert_eq!(caller.target, "sip:b@192.0.2.2");
        let bye = caller.request("BYE", 2).message();
        assert_eq!(
            (bye.header("To"), bye.cseq()),
            ("<sip:b@net.com>;tag=peer".to_string(), 2)
        );
        let callee = Dialog::of_callee(&received, &ok, at);
        assert_eq!(callee.routes, ["<sip:p2;lr>", "<sip:p1;lr>"]);
        assert_eq!(callee.target, "sip:caller@192.0.2.1:5060");
        let cancel = cancel(&invite.message());
        assert_eq!(
            (cancel.branch(), cancel.cseq()),
            (invite.message().branch(), 1),
            "of the same transaction"
        );
    }
}

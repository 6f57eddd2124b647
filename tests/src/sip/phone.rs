//! Requests as phones write them, to be sent by hand.
//!
//! ```no_run
//! # use tests::prelude::*;
//! # use tests::sip::{peer::Peer, phone::Request};
//! # let lab = Lab::builder().build().unwrap();
//! # let (caller, server) = (Peer::udp(lab.o(1), 5060).unwrap(), "203.0.113.100:5060".parse().unwrap());
//! let invite = Request::new("INVITE", "sip:anna@net.com").from("bob@elsewhere.org").call("1");
//! caller.send_message(server, &invite.over_udp(caller.endpoint)).unwrap();
//! let ok = caller.recv_final("the 200").unwrap();
//! caller.send_message(server, &invite.within("ACK", &ok).over_udp(caller.endpoint)).unwrap();
//! ```

use std::net::SocketAddrV4;

use super::Transport;
use super::message::{Message, compose};

/// A request that has everything but the sender's Via and Contact.
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    uri: String,
    from: String,
    from_tag: Option<String>,
    to: String,
    to_tag: Option<String>,
    call_id: String,
    cseq: u32,
    /// What is after the magic cookie in the branch, if it is that of another request.
    branch: Option<String>,
    more: Vec<String>,
}

impl Request {
    /// From and To are the request URI, unless [`Self::from`] and [`Self::to`] say otherwise.
    pub fn new(method: &str, uri: &str) -> Self {
        let address = uri.split_once(':').map_or(uri, |(_, address)| address);
        Self {
            method: method.into(),
            uri: uri.into(),
            from: address.into(),
            from_tag: None,
            to: address.into(),
            to_tag: None,
            call_id: "call".into(),
            cseq: 1,
            branch: None,
            more: Vec::new(),
        }
    }

    /// A REGISTER of `user@domain`. Its contacts are lines of their own.
    pub fn register(user: &str, domain: &str) -> Self {
        let address = format!("{user}@{domain}");
        Self::new("REGISTER", &format!("sip:{domain}"))
            .from(&address)
            .to(&address)
    }

    /// Who sends it, as `user@host`.
    pub fn from(mut self, address: &str) -> Self {
        self.from = address.into();
        self
    }

    /// The tag in From, of a phone that was called.
    pub fn from_tag(mut self, tag: &str) -> Self {
        self.from_tag = Some(tag.into());
        self
    }

    /// For whom it is, as `user@host`.
    pub fn to(mut self, address: &str) -> Self {
        self.to = address.into();
        self
    }

    /// The tag in To, of requests within a dialog.
    pub fn to_tag(mut self, tag: &str) -> Self {
        self.to_tag = Some(tag.into());
        self
    }

    /// The Call-ID, which also names the transaction (with CSeq) and the sender's tag.
    pub fn call(mut self, call_id: &str) -> Self {
        self.call_id = call_id.into();
        self
    }

    /// The number in CSeq (default 1).
    pub fn cseq(mut self, number: u32) -> Self {
        self.cseq = number;
        self
    }

    /// One more header field.
    pub fn line(mut self, line: &str) -> Self {
        self.more.push(line.into());
        self
    }

    /// As it leaves from this endpoint over UDP.
    pub fn over_udp(&self, at: SocketAddrV4) -> Message {
        self.sent(at, Transport::Udp)
    }

    /// As it leaves from this endpoint. Every request but REGISTER has the endpoint as Contact, unless another one was given.
    pub fn sent(&self, at: SocketAddrV4, transport: Transport) -> Message {
        let Self {
            method,
            uri,
            from,
            to,
            call_id,
            cseq,
            ..
        } = self;
        let tag = self.to_tag.as_ref().map_or(String::new(), |tag| format!(";tag={tag}"));
        let own_tag = format!("of-{call_id}");
        let from_tag = self.from_tag.as_ref().unwrap_or(&own_tag);
        let mut lines = vec![
            format!("{method} {uri} SIP/2.0"),
            format!(
                "Via: SIP/2.0/{} {at};branch=z9hG4bK{};rport",
                transport.via(),
                self.branch()
            ),
            "Max-Forwards: 70".into(),
            format!("From: <sip:{from}>;tag={from_tag}"),
            format!("To: <sip:{to}>{tag}"),
            format!("Call-ID: {call_id}"),
            format!("CSeq: {cseq} {method}"),
        ];
        let has_contact = self.more.iter().any(|line| line.starts_with("Contact:"));
        if method != "REGISTER" && !has_contact {
            lines.push(format!("Contact: <sip:{at};transport={transport}>"));
        }
        lines.extend(self.more.iter().cloned());
        compose(&lines, "")
    }

    /// The next request of the same sender within the dialog that this request and a 2xx to it have made (RFC 3261 §12.2.1.1): to the
    /// remote target, along the route set. An ACK has the CSeq of its INVITE, others the next one.
    pub fn within(&self, method: &str, response: &Message) -> Self {
        let recorded = response.headers("Record-Route").join(",");
        let mut next = Self {
            method: method.into(),
            uri: response.uri_of("Contact"),
            to_tag: response.tag("To"),
            cseq: self.cseq + u32::from(method != "ACK"),
            branch: None,
            more: Vec::new(),
            ..self.clone()
        };
        let routes = recorded.split(',').rev().map(str::trim);
        next.more.extend(
            routes
                .filter(|route| !route.is_empty())
                .map(|route| format!("Route: {route}")),
        );
        next
    }

    /// A request of the phone that was called with `invite` and has answered with [`Message::reply`], within that dialog (RFC 3261 §12.1.1).
    pub fn of_callee(method: &str, invite: &Message) -> Self {
        let address = |name: &str| {
            invite
                .uri_of(name)
                .split_once(':')
                .map_or_else(String::new, |(_, at)| at.to_string())
        };
        let request = Self::new(method, &invite.uri_of("Contact"))
            .from(&address("To"))
            .from_tag("peer")
            .to(&address("From"))
            .call(&invite.header("Call-ID"));
        let routes = invite.headers("Record-Route").join(",");
        let routes = routes.split(',').map(str::trim).filter(|route| !route.is_empty());
        Self {
            to_tag: invite.tag("From"),
            ..routes.fold(request, |request, route| request.line(&format!("Route: {route}")))
        }
    }

    /// The ACK of a final response to this INVITE that is no success: of the same transaction (RFC 3261 §17.1.1.3).
    pub fn refused(&self, response: &Message) -> Self {
        Self {
            method: "ACK".into(),
            to_tag: response.tag("To"),
            branch: Some(self.branch()),
            more: Vec::new(),
            ..self.clone()
        }
    }

    fn branch(&self) -> String {
        let own = || format!("{}-{}{}", self.call_id, self.cseq, self.method);
        self.branch.clone().unwrap_or_else(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dialog_goes_along_its_route_set() {
        let at = "192.0.2.1:5060".parse().unwrap();
        let invite = Request::new("INVITE", "sip:anna@net.com").from("bob@x").call("7");
        let sent = invite.over_udp(at);
        assert_eq!(sent.header("Contact"), "<sip:192.0.2.1:5060;transport=udp>");
        let recorded = ["Record-Route: <sip:b;lr>, <sip:a;lr>", "Contact: <sip:anna@c>"];
        let ok = sent.reply(200, "OK", &recorded, "");
        let bye = invite.within("BYE", &ok).over_udp(at);
        assert_eq!((bye.request_uri().as_str(), bye.cseq()), ("sip:anna@c", 2));
        assert_eq!(bye.headers("Route"), ["<sip:a;lr>", "<sip:b;lr>"]);
        assert_eq!(bye.header("To"), "<sip:anna@net.com>;tag=peer");
        assert_eq!(invite.within("ACK", &ok).over_udp(at).cseq(), 1);
        let called = sent.reply(180, "Ringing", &[], "");
        assert_eq!(called.tag("To").as_deref(), Some("peer"));
        let bye = Request::of_callee("BYE", &sent).over_udp(at);
        assert_eq!(
            (bye.header("From"), bye.header("To")),
            (called.header("To"), called.header("From"))
        );
        let ack = invite.refused(&sent.reply(486, "Busy Here", &[], "")).over_udp(at);
        assert_eq!((ack.branch(), ack.tag("To").as_deref()), (sent.branch(), Some("peer")));
    }
}

//! Which messages a trace shows, and what a line of it says.

use std::{collections::HashSet, net::IpAddr};

use bytes::Bytes;

use super::{
    message::{HeaderName, Message, Start, Uri},
    query::{TraceFilter, same_aor},
};

/// Calls that a trace by AoR remembers.
const MAX_CALLS: usize = 65_536;

/// Lets the messages pass that a filter asks for. It remembers the calls that it has seen, so that all messages of a call pass from the first
/// one on that names the AoR.
#[derive(Debug, Default)]
pub struct Sieve {
    filter: TraceFilter,
    calls: HashSet<Box<[u8]>>,
}

/// What a line of a trace says of a message. Bytes that are no UTF-8 are replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headline {
    /// The start line.
    pub summary: String,
    pub call_id: String,
    /// `1 INVITE`.
    pub cseq: String,
}

impl Sieve {
    /// For a filter.
    pub fn new(filter: TraceFilter) -> Sieve {
        Sieve {
            filter,
            calls: HashSet::new(),
        }
    }

    /// The headline of a message that passes. What cannot be read as a message passes if neither AoR nor Call-ID is asked for.
    pub fn pass(&mut self, bytes: &Bytes, remote: IpAddr) -> Option<Headline> {
        if self.filter.source.is_some_and(|source| source != remote) {
            return None;
        }
        let Ok(message) = Message::parse(bytes.clone()) else {
            let all = self.filter.aor.is_none() && self.filter.call_id.is_none();
            let first = bytes
                .split(|byte| matches!(byte, b'\r' | b'\n'))
                .next()
                .unwrap_or_default();
            return all.then(|| Headline {
                summary: text(&first[..first.len().min(200)]),
                ..Headline::default()
            });
        };
        let call_id = message.call_id();
        if self
            .filter
            .call_id
            .as_ref()
            .is_some_and(|wanted| wanted.as_bytes() != call_id)
        {
            return None;
        }
        if let Some(aor) = &self.filter.aor
            && !self.calls.contains(call_id)
        {
            if !names(&message, aor) {
                return None;
            }
            if self.calls.len() < MAX_CALLS && !call_id.is_empty() {
                self.calls.insert(call_id.into());
            }
        }
        Some(headline(&message))
    }
}

/// Whether the request URI, From or To is of this AoR.
fn names(message: &Message, aor: &str) -> bool {
    let sides = [message.from(), message.to()].into_iter().flatten();
    let uris = sides.map(|side| side.uri).chain([message.request_uri()]);
    uris.filter_map(Uri::parse).any(|uri| {
        let host = String::from_utf8_lossy(uri.host);
        match uri.user_text() {
            Some(user) => same_aor(aor, &format!("{user}@{host}")),
            None => same_aor(aor, &host),
        }
    })
}

fn headline(message: &Message) -> Headline {
    let summary = match message.start() {
        Start::Request { .. } => format!("{} {}", text(message.method_text()), text(message.request_uri())),
        Start::Response { code, reason } => format!("{code} {}", text(message.text(reason))),
    };
    Headline {
        summary,
        call_id: text(message.call_id()),
        cseq: text(message.value(HeaderName::CSeq).unwrap_or_default()),
    }
}

/// Without control characters, which would move a terminal's cursor.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .map(|char| if char.is_control() { '\u{fffd}' } else { char })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(start: &str, from: &str, to: &str, call: &str) -> Bytes {
        format!("{start}\r\nVia: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK1\r\nf: <{from}>;tag=1\r\nTo: {to}\r\ni: {call}\r\nCSeq: 1  INVITE\r\n\r\n").into()
    }

    fn sieve(aor: Option<&str>, call_id: Option<&str>, source: Option<&str>) -> Sieve {
        Sieve::new(TraceFilter {
            aor: aor.map(Into::into),
            call_id: call_id.map(Into::into),
            source: source.map(|text| text.parse().unwrap()),
        })
    }

    #[test]
    fn a_call_is_followed_from_the_first_message_that_names_the_user() {
        let remote = IpAddr::from([192, 0, 2, 1]);
        let mut alice = sieve(Some("alice@net.com"), None, None);
        let invite = message(
            "INVITE sip:bob@net.com SIP/2.0",
            "sip:alice@NET.com:5060",
            "<sip:bob@net.com>",
            "a",
        );
        assert_eq!(
            alice.pass(&invite, remote),
            Some(Headline {
                summary: "INVITE sip:bob@net.com".into(),
                call_id: "a".into(),
                cseq: "1  INVITE".into()
            })
        );
        let other = message(
            "INVITE sip:bob@net.com SIP/2.0",
            "sip:Alice@net.com",
            "<sip:bob@net.com>",
            "b",
        );
        assert_eq!(alice.pass(&other, remote), None);
        // A response of the same call that hides who it is from.
        let ringing = message(
            "SIP/2.0 180 Ringing",
            "sip:anonymous@anonymous.invalid",
            "<sip:x@y>",
            "a",
        );
        assert_eq!(alice.pass(&ringing, remote).unwrap().summary, "180 Ringing");
        let called = message("INVITE sip:al%69ce@net.com SIP/2.0", "sip:x@y", "sip:z@y", "c");
        assert!(alice.pass(&called, remote).is_some(), "escapes mean the same user");
    }

    #[test]
    fn call_id_and_source_are_compared_as_they_are() {
        let (remote, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let bytes = message("BYE sip:a@b SIP/2.0", "sip:a@b", "sip:a@b", "x@10.0.0.1");
        assert!(
            sieve(None, Some("x@10.0.0.1"), Some("192.0.2.1"))
                .pass(&bytes, remote)
                .is_some()
        );
        assert!(sieve(None, Some("X@10.0.0.1"), None).pass(&bytes, remote).is_none());
        assert!(sieve(None, None, Some("192.0.2.1")).pass(&bytes, other).is_none());
    }

    #[test]
    fn what_is_no_message_is_shown_without_harm() {
        let remote = IpAddr::from([192, 0, 2, 1]);
        let noise = Bytes::from_static(b"\x1b[2Jhello\xff\r\nX: y\r\n");
        assert_eq!(
            sieve(None, None, None).pass(&noise, remote).unwrap().summary,
            "\u{fffd}[2Jhello\u{fffd}"
        );
        assert!(sieve(Some("a@b"), None, None).pass(&noise, remote).is_none());
        assert!(sieve(None, None, None).pass(&Bytes::new(), remote).is_some());
    }
}

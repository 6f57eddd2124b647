//! Messages that sipnat originates itself, composed by the `rsip` crate. (What passes through is edited, never printed anew: see `message`.)
//!
//! `rsip` prints a request once, with marks where each one differs; [`Template::fill`] then copies bytes.

use rsip::{
    Domain, Header, Host, HostWithPort, Method, Param, Request, Scheme, Uri, Version,
    headers::{self, UntypedHeader as _},
    param::{OtherParam, Tag},
    typed,
};

use super::flow::Transport;

/// A request with gaps.
#[derive(Clone, Debug)]
pub struct Template {
    parts: Vec<Part>,
    /// Of all text.
    len: usize,
}

/// What goes into the gaps.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    /// Request URI and To.
    pub uri: &'a [u8],
    /// Of the Via, with its cookie.
    pub branch: &'a [u8],
    /// In front of `@` and our host.
    pub call_id: &'a [u8],
    /// CSeq.
    pub sequence: u32,
}

#[derive(Clone, Debug)]
enum Part {
    Text(Box<[u8]>),
    Gap(Gap),
}

/// Gaps are marked by control characters, which no header may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gap {
    Uri,
    Branch,
    CallId,
    Sequence,
}

impl Gap {
    const ALL: [Gap; 4] = [Gap::Uri, Gap::Branch, Gap::CallId, Gap::Sequence];

    fn mark(self) -> char {
        match self {
            Gap::Uri => '\x01',
            Gap::Branch => '\x02',
            Gap::CallId => '\x03',
            Gap::Sequence => '\x04',
        }
    }
}

impl Template {
    /// The bytes of one request.
    pub fn fill(&self, fields: &Fields<'_>) -> Vec<u8> {
        let mut digits = [0; 10];
        let sequence = decimal(fields.sequence, &mut digits);
        let room = self.len + 2 * fields.uri.len() + fields.branch.len() + fields.call_id.len() + sequence.len();
        let mut out = Vec::with_capacity(room);
        for part in &self.parts {
            out.extend_from_slice(match part {
                Part::Text(text) => text,
                Part::Gap(Gap::Uri) => fields.uri,
                Part::Gap(Gap::Branch) => fields.branch,
                Part::Gap(Gap::CallId) => fields.call_id,
                Part::Gap(Gap::Sequence) => sequence,
            });
        }
        out
    }

    fn cut(text: &str) -> Template {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((at, gap)) = next_gap(rest) {
            parts.push(Part::Text(rest.as_bytes()[..at].into()));
            parts.push(Part::Gap(gap));
            rest = &rest[at + gap.mark().len_utf8()..];
        }
        parts.push(Part::Text(rest.as_bytes().into()));
        Template { parts, len: text.len() }
    }
}

/// An OPTIONS outside of a dialog (RFC 3261 section 11.1), as short as it may be: it is sent for its answer's sake, so it asks for no body.
/// `sent_by`: what we call ourselves, `host:port`, IPv6 in brackets.
pub fn options(transport: Transport, sent_by: &str) -> Template {
    let gap = |gap: Gap| gap.mark().to_string();
    let host = sent_by.rsplit_once(':').map_or(sent_by, |(host, _)| host);
    let to = Uri {
        host_with_port: named(&gap(Gap::Uri)),
        ..Uri::default()
    };
    let from = Uri {
        scheme: Some(Scheme::Sip),
        host_with_port: named(sent_by),
        ..Uri::default()
    };
    let via = typed::Via {
        version: Version::V2,
        transport: match transport {
            Transport::Udp => rsip::Transport::Udp,
            Transport::Tcp => rsip::Transport::Tcp,
            Transport::Tls => rsip::Transport::Tls,
        },
        uri: Uri {
            host_with_port: named(sent_by),
            ..Uri::default()
        },
        params: vec![
            Param::Branch(gap(Gap::Branch).into()),
            Param::Other(OtherParam::new("rport"), None), // RFC 3581
        ],
    };
    let request = Request {
        method: Method::Options,
        uri: to.clone(),
        version: Version::V2,
        headers: vec![
            via.into(),
            headers::MaxForwards::default().into(),
            typed::From::from(from).with_tag(Tag::new("sipnat")).into(),
            typed::To::from(to).into(),
            headers::CallId::new(format!("{}@{host}", gap(Gap::CallId))).into(),
            Header::from(headers::CSeq::new(format!("{} OPTIONS", gap(Gap::Sequence)))),
            headers::ContentLength::default().into(),
        ]
        .into(),
        body: Vec::new(),
    };
    Template::cut(&request.to_string())
}

fn named(host_with_port: &str) -> HostWithPort {
    HostWithPort {
        host: Host::Domain(Domain::new(host_with_port)),
        port: None,
    }
}

fn next_gap(text: &str) -> Option<(usize, Gap)> {
    let at = text.find(|letter: char| Gap::ALL.iter().any(|gap| gap.mark() == letter))?;
    let gap = Gap::ALL.into_iter().find(|gap| text[at..].starts_with(gap.mark()))?;
    Some((at, gap))
}

fn decimal(mut number: u32, digits: &mut [u8; 10]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_options_has_what_a_request_must_have_and_no_more() {
        let template = options(Transport::Udp, "134.56.3.1:5060");
        let text = template.fill(&Fields {
            uri: b"sip:user@192.168.1.10:5060;ob",
            branch: b"z9hG4bKp01",
            call_id: b"01",
            sequence: 2_147_483_647,
        });
        let expected = "OPTIONS sip:user@192.168.1.10:5060;ob SIP/2.0\r\n\
            Via: SIP/2.0/UDP 134.56.3.1:5060;branch=z9hG4bKp01;rport\r\n\
            Max-Forwards: 70\r\n\
            From: <sip:134.56.3.1:5060>;tag=sipnat\r\n\
            To: <sip:user@192.168.1.10:5060;ob>\r\n\
            Call-ID: 01@134.56.3.1\r\n\
            CSeq: 2147483647 OPTIONS\r\n\
            Content-Length: 0\r\n\r\n";
        assert_eq!(String::from_utf8_lossy(&text), expected);
    }

    #[test]
    fn ipv6_stays_in_brackets_and_the_transport_is_named() {
        let template = options(Transport::Tls, "[2001:db8::1]:5061");
        let text = template.fill(&Fields {
            uri: b"sips:u@[2001:db8::9]",
            branch: b"b",
            call_id: b"c",
            sequence: 0,
        });
        let text = String::from_utf8(text).unwrap();
        assert!(
            text.contains("Via: SIP/2.0/TLS [2001:db8::1]:5061;branch=b;rport\r\n"),
            "{text}"
        );
        assert!(text.contains("Call-ID: c@[2001:db8::1]\r\n"), "{text}");
        assert!(text.contains("CSeq: 0 OPTIONS\r\n"), "{text}");
    }
}

//! A SIP message as tests look at it: literal text, with as much reading as an assertion needs.
//!
//! This is not a parser to be trusted with anything: it must not share code with the one under test.

use anyhow::{Context, Result, bail};

/// A received or composed message.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    bytes: Vec<u8>,
    /// Where the body begins.
    body: usize,
}

impl Message {
    /// Takes bytes that have a start line and an empty line after the header fields.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self> {
        let bytes = bytes.into();
        match find(&bytes, b"\r\n\r\n") {
            Some(end) => Ok(Self { body: end + 4, bytes }),
            None => bail!("no empty line ends the header of {:?}", String::from_utf8_lossy(&bytes)),
        }
    }

    /// Exactly what was sent or received.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Start line and header fields as text.
    pub fn head(&self) -> String {
        String::from_utf8_lossy(&self.bytes[..self.body]).into_owned()
    }

    /// What follows the empty line.
    pub fn body(&self) -> &[u8] {
        &self.bytes[self.body..]
    }

    /// The first line.
    pub fn start_line(&self) -> String {
        self.head().lines().next().unwrap_or_default().to_string()
    }

    /// The status code of a response.
    pub fn status(&self) -> Option<u16> {
        let line = self.start_line();
        line.strip_prefix("SIP/2.0 ")?.get(..3)?.parse().ok()
    }

    /// The method of a request.
    pub fn method(&self) -> Option<String> {
        let line = self.start_line();
        let (method, rest) = line.split_once(' ')?;
        rest.ends_with(" SIP/2.0").then(|| method.to_string())
    }

    /// The URI of a request; panics for a response.
    pub fn request_uri(&self) -> String {
        let line = self.start_line();
        let words: Vec<&str> = line.split(' ').collect();
        assert!(words.len() == 3 && words[2] == "SIP/2.0", "no request line: {line}");
        words[1].to_string()
    }

    /// The values of all header fields of this name (long form), in their order, unfolded; lists are not split.
    pub fn headers(&self, name: &str) -> Vec<String> {
        let compact = COMPACT
            .iter()
            .find(|(_, long)| long.eq_ignore_ascii_case(name))
            .map(|(short, _)| *short);
        let named =
            |field: &str| field.eq_ignore_ascii_case(name) || compact.is_some_and(|c| field.eq_ignore_ascii_case(c));
        let fields = unfold(&self.head());
        let values = fields.iter().skip(1).filter_map(|line| line.split_once(':'));
        values
            .filter(|(field, _)| named(field.trim()))
            .map(|(_, value)| value.trim().to_string())
            .collect()
    }

    /// The value of the first header field of this name; panics with the whole message if there is none.
    pub fn header(&self, name: &str) -> String {
        let first = self.headers(name).into_iter().next();
        first.unwrap_or_else(|| panic!("no {name} in\n{}", self.head()))
    }

    /// The number in CSeq.
    pub fn cseq(&self) -> u32 {
        let value = self.header("CSeq");
        let number = value.split_whitespace().next().and_then(|number| number.parse().ok());
        number.unwrap_or_else(|| panic!("CSeq: {value}"))
    }

    /// The `branch` of the topmost Via.
    pub fn branch(&self) -> String {
        let via = self.header("Via");
        parameter(&via, "branch").unwrap_or_else(|| panic!("no branch in {via}"))
    }

    /// The `tag` of From or To, if it has one.
    pub fn tag(&self, name: &str) -> Option<String> {
        parameter(self.header(name).rsplit('>').next().unwrap_or_default(), "tag")
    }

    /// The URI between the angle brackets of a name-addr such as Contact.
    pub fn uri_of(&self, name: &str) -> String {
        let value = self.header(name);
        bracketed(&value).unwrap_or(&value).to_string()
    }

    /// A response to this request (RFC 3261 §8.2.6): its Via, From, Call-ID, CSeq, and Record-Route fields as they are, To with a
    /// tag if it had none, then these further lines, and the body.
    pub fn reply(&self, code: u16, reason: &str, more: &[&str], body: &str) -> Message {
        let mut lines = vec![format!("SIP/2.0 {code} {reason}")];
        for name in ["Via", "Record-Route", "From", "To", "Call-ID", "CSeq"] {
            for value in self.headers(name) {
                let tagged = name == "To" && code > 100 && self.tag("To").is_none();
                lines.push(format!("{name}: {value}{}", if tagged { ";tag=peer" } else { "" }));
            }
        }
        lines.extend(more.iter().map(|line| line.to_string()));
        compose(&lines, body)
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\n{}", String::from_utf8_lossy(&self.bytes))
    }
}

/// A message of these lines, with its Content-Length, and this body.
pub fn compose<S: AsRef<str>>(lines: &[S], body: &str) -> Message {
    let mut text: String = lines.iter().map(|line| format!("{}\r\n", line.as_ref())).collect();
    text += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
    Message::new(text.into_bytes()).expect("an empty line was just written")
}

/// How long a message in a stream is, if its header is complete (RFC 3261 §18.3).
pub fn framed(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(end) = find(bytes, b"\r\n\r\n") else {
        return Ok(None);
    };
    let message = Message::new(&bytes[..end + 4])?;
    let length = message.headers("Content-Length");
    let length = length
        .first()
        .with_context(|| format!("no Content-Length in a stream:{message:?}"))?;
    let length: usize = length.parse().with_context(|| format!("Content-Length: {length}"))?;
    Ok((bytes.len() >= end + 4 + length).then_some(end + 4 + length))
}

/// A `;name=value` parameter outside of angle brackets and quotes are not told apart: tests know what they look at.
pub fn parameter(text: &str, name: &str) -> Option<String> {
    let parameters = text.split(';').skip(1);
    let pairs = parameters.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let value = pairs
        .filter(|(key, _)| key.trim().eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
        .next()?;
    Some(value.split([',', ' ', '>']).next().unwrap_or_default().to_string())
}

/// What is between the first `<` and the next `>`.
pub fn bracketed(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once('<')?;
    rest.split_once('>').map(|(uri, _)| uri)
}

/// RFC 3261 §7.3.3.
const COMPACT: [(&str, &str); 10] = [
    ("i", "Call-ID"),
    ("m", "Contact"),
    ("e", "Content-Encoding"),
    ("l", "Content-Length"),
    ("c", "Content-Type"),
    ("f", "From"),
    ("s", "Subject"),
    ("k", "Supported"),
    ("t", "To"),
    ("v", "Via"),
];

fn unfold(head: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for line in head.split("\r\n") {
        match (line.starts_with([' ', '\t']), out.last_mut()) {
            (true, Some(last)) => *last += &format!(" {}", line.trim_start()),
            _ => out.push(line.to_string()),
        }
    }
    out
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INVITE: &str = "INVITE sip:a@b SIP/2.0\r\nv: SIP/2.0/UDP h;branch=z9hG4bK1;rport\r\nVia: SIP/2.0/UDP g\r\n ;branch=2\r\n\
                          From: <sip:x@y;tag=no>;tag=yes\r\nt: <sip:a@b>\r\nCSeq: 7 INVITE\r\nCall-ID: c\r\nl: 2\r\n\r\nhi";

    #[test]
    fn what_tests_look_at_is_found() {
        let message = Message::new(INVITE).unwrap();
        assert_eq!(message.method().as_deref(), Some("INVITE"));
        assert_eq!((message.request_uri().as_str(), message.status()), ("sip:a@b", None));
        assert_eq!(message.headers("via").len(), 2);
        assert_eq!(message.headers("Via")[1], "SIP/2.0/UDP g ;branch=2");
        assert_eq!((message.branch().as_str(), message.cseq()), ("z9hG4bK1", 7));
        assert_eq!((message.tag("From").as_deref(), message.tag("To")), (Some("yes"), None));
        assert_eq!((message.uri_of("To").as_str(), message.body()), ("sip:a@b", &b"hi"[..]));
        assert_eq!(framed(INVITE.as_bytes()).unwrap(), Some(INVITE.len()));
        assert_eq!(framed(&INVITE.as_bytes()[..INVITE.len() - 1]).unwrap(), None);
    }

    #[test]
    fn a_reply_answers_its_request() {
        let reply = Message::new(INVITE).unwrap().reply(486, "Busy Here", &["X: 1"], "");
        assert_eq!(
            reply.head(),
            "SIP/2.0 486 Busy Here\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1;rport\r\nVia: SIP/2.0/UDP g ;branch=2\r\n\
             From: <sip:x@y;tag=no>;tag=yes\r\nTo: <sip:a@b>;tag=peer\r\nCall-ID: c\r\nCSeq: 7 INVITE\r\nX: 1\r\n\
             Content-Length: 0\r\n\r\n"
        );
        assert_eq!(reply.status(), Some(486));
    }
}

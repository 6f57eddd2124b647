//! Where in a SIP message a session description is: the body, or a part of it (RFC 3261 section 7.4, RFC 5621).

use crate::sip::message::{HeaderName, Message, Params, Span};

/// Parts in parts in parts: nobody sends more.
const DEPTH: u32 = 3;

/// What a body has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// No description of the session.
    None,
    /// It is compressed or otherwise encoded, so nobody can say.
    Encoded,
    /// A description, here.
    Sdp(Span),
}

/// Finds the description of the session in a message: the first one, if there are several. A description of an early session (RFC 3959) or of
/// something else than the session (Content-Disposition) is none.
pub fn find(message: &Message) -> Body {
    let start = message.body_start();
    let span = Span {
        start,
        end: start + message.body().len() as u32,
    };
    let part = Part {
        kind: message.value(HeaderName::ContentType).unwrap_or_default(),
        encoding: message.value(HeaderName::ContentEncoding).unwrap_or_default(),
        disposition: message.named("Content-Disposition").unwrap_or_default(),
        span,
    };
    part.find(message.bytes(), DEPTH)
}

/// A body, or a part of one.
struct Part<'a> {
    kind: &'a [u8],
    encoding: &'a [u8],
    disposition: &'a [u8],
    span: Span,
}

impl<'a> Part<'a> {
    fn find(&self, bytes: &'a [u8], depth: u32) -> Body {
        let (kind, params) = value_and_params(self.kind);
        let (disposition, _) = value_and_params(self.disposition);
        let session = disposition.is_empty() || disposition.eq_ignore_ascii_case(b"session");
        let multipart = kind.len() > 10 && kind[..10].eq_ignore_ascii_case(b"multipart/");
        if !multipart && !(kind.eq_ignore_ascii_case(b"application/sdp") && session) || self.span.is_empty() {
            return Body::None;
        }
        if !matches!(self.encoding, b"" | b"identity" | b"7bit" | b"8bit" | b"binary") {
            return Body::Encoded;
        }
        if !multipart {
            return Body::Sdp(self.span);
        }
        let Some(boundary) = params
            .get("boundary")
            .filter(|boundary| !boundary.is_empty() && depth > 0)
        else {
            return Body::None;
        };
        parts(bytes, self.span, boundary)
            .map(|span| Part::read(bytes, span).find(bytes, depth - 1))
            .find(|found| *found != Body::None)
            .unwrap_or(Body::None)
    }

    /// A part of a multipart body: header lines, an empty line, and what it holds (RFC 2046 section 5.1).
    fn read(bytes: &'a [u8], span: Span) -> Part<'a> {
        let mut part = Part {
            kind: b"",
            encoding: b"",
            disposition: b"",
            span: Span {
                start: span.end,
                end: span.end,
            },
        };
        for line in super::line::lines(bytes, span) {
            let text = bytes[line.line.range()].trim_ascii();
            if text.is_empty() {
                part.span.start = line.line.end;
                break;
            }
            let Some(colon) = memchr::memchr(b':', text) else {
                continue;
            };
            let (name, value) = (text[..colon].trim_ascii_end(), text[colon + 1..].trim_ascii_start());
            match name.to_ascii_lowercase().as_slice() {
                b"content-type" => part.kind = value,
                b"content-transfer-encoding" | b"content-encoding" => part.encoding = value,
                b"content-disposition" => part.disposition = value,
                _ => {}
            }
        }
        part
    }
}

/// The parts between the lines `--boundary`; the line end before such a line belongs to it.
fn parts<'a>(bytes: &'a [u8], span: Span, boundary: &'a [u8]) -> impl Iterator<Item = Span> + use<'a> {
    let mut at = span.start as usize;
    let end = span.end as usize;
    let mut begins: Option<usize> = None;
    std::iter::from_fn(move || {
        while at < end {
            let next = memchr::memchr(b'\n', &bytes[at..end]).map_or(end, |place| at + place + 1);
            let (line, start) = (bytes[at..next].trim_ascii_end(), at);
            at = next;
            let Some(rest) = line.strip_prefix(b"--").and_then(|line| line.strip_prefix(boundary)) else {
                continue;
            };
            if !matches!(rest, b"" | b"--") {
                continue;
            }
            let part = begins.map(|begin| {
                let text = &bytes[begin..start];
                let text = text.strip_suffix(b"\n").unwrap_or(text);
                let text = text.strip_suffix(b"\r").unwrap_or(text);
                Span {
                    start: begin as u32,
                    end: (begin + text.len()) as u32,
                }
            });
            begins = rest.is_empty().then_some(next);
            if rest == b"--" {
                at = end;
            }
            if part.is_some() {
                return part;
            }
        }
        None
    })
}

fn value_and_params(text: &[u8]) -> (&[u8], Params<'_>) {
    let (value, params) = text.split_at(memchr::memchr(b';', text).unwrap_or(text.len()));
    (value.trim_ascii(), Params(params))
}

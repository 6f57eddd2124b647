//! Responses of our own (RFC 3261 section 8.2.6).

use std::net::SocketAddr;

use bytes::Bytes;

use super::{Edits, HeaderName, Message, Span, put_address, put_number};

/// A response to be made of a request.
#[derive(Clone, Debug)]
pub struct Reply<'a> {
    pub code: u16,
    pub reason: &'a str,
    /// The tag for To if the request has none there. Empty: none is added (only for 100).
    pub to_tag: &'a [u8],
    /// Whole header lines, each with its CRLF.
    pub headers: &'a [u8],
    /// With its Content-Type among `headers` if it is not empty.
    pub body: &'a [u8],
    /// Where the request came from: noted in the topmost Via (section 18.2.1, RFC 3581). `None`: the Via has it already.
    pub source: Option<SocketAddr>,
}

impl<'a> Reply<'a> {
    /// A response without headers of its own.
    pub fn new(code: u16, reason: &'a str, to_tag: &'a [u8], source: SocketAddr) -> Reply<'a> {
        Reply {
            code,
            reason,
            to_tag,
            headers: b"",
            body: b"",
            source: Some(source),
        }
    }

    /// The response: all Vias, From, To, Call-ID and CSeq of the request as they came, and what this says. What the request lacks is left out.
    pub fn to(&self, request: &Message) -> Bytes {
        let mut out = Vec::with_capacity(request.bytes().len().min(2048) + self.headers.len() + self.body.len());
        out.extend_from_slice(b"SIP/2.0 ");
        put_number(&mut out, self.code.into());
        out.push(b' ');
        out.extend_from_slice(self.reason.as_bytes());
        out.extend_from_slice(b"\r\n");
        let mut source = self.source;
        for header in request.headers().iter().filter(|header| header.name == HeaderName::Via) {
            let mut rest = header.line;
            // The topmost Via is in the first of the lines.
            if let Some(source) = source.take() {
                for (old, note) in notes(request, source).into_iter().flatten() {
                    out.extend_from_slice(request.text(Span { end: old.start, ..rest }));
                    note.write(source, &mut out);
                    rest.start = old.end;
                }
            }
            copy(request, rest, &mut out);
        }
        for name in [HeaderName::From, HeaderName::To, HeaderName::CallId, HeaderName::CSeq] {
            let Some(header) = request.find(name) else { continue };
            if name == HeaderName::To && !self.to_tag.is_empty() && request.to_tag().is_none() {
                out.extend_from_slice(b"To: ");
                out.extend_from_slice(request.text(header.value));
                out.extend_from_slice(b";tag=");
                out.extend_from_slice(self.to_tag);
                out.extend_from_slice(b"\r\n");
            } else {
                copy(request, header.line, &mut out);
            }
        }
        // Section 8.2.6.1: a 100 copies the Timestamp.
        if self.code == 100
            && let Some(header) = request.find(HeaderName::Timestamp)
        {
            copy(request, header.line, &mut out);
        }
        out.extend_from_slice(self.headers);
        out.extend_from_slice(b"Content-Length: ");
        put_number(&mut out, self.body.len() as u64);
        out.extend_from_slice(b"\r\n\r\n");
        out.extend_from_slice(self.body);
        Bytes::from(out)
    }
}

/// Notes where a request came from in its topmost Via (section 18.2.1, RFC 3581 section 4): `received` if sent-by is another address or if the port
/// is asked for, and the port if it is asked for. What the sender itself has written as `received` is replaced.
pub fn note_source(request: &Message, source: SocketAddr, edits: &mut Edits) {
    for (old, note) in notes(request, source).into_iter().flatten() {
        edits.replace_with(old, |text| note.write(source, text));
    }
}

/// Something that is noted in a Via.
#[derive(Clone, Copy, Debug)]
enum Note {
    /// In the place of `rport`.
    Port,
    /// In the place of the value of `received`.
    Address,
    /// Behind the Via.
    Received,
}

impl Note {
    fn write(self, source: SocketAddr, out: &mut Vec<u8>) {
        match self {
            Note::Port => {
                out.extend_from_slice(b"rport=");
                return put_number(out, source.port().into());
            }
            Note::Received => out.extend_from_slice(b";received="),
            Note::Address => {}
        }
        put_address(out, source.ip());
    }
}

/// What is to be noted in the topmost Via, each in the place of what is there, in their order.
fn notes(request: &Message, source: SocketAddr) -> [Option<(Span, Note)>; 2] {
    let Some(via) = request.via() else { return [None; 2] };
    let asks = via.asks_rport();
    let is_other =
        || super::uri::host_address(via.host).is_none_or(|host| !super::value::same_address(host, source.ip()));
    let port = via.rport.filter(|_| asks).map(|rport| (rport, Note::Port));
    let address = match via.received {
        Some(received) => Some((received, Note::Address)),
        None => (asks || is_other()).then(|| {
            let end = via.span.end;
            (Span { start: end, end }, Note::Received)
        }),
    };
    match (port, address) {
        (Some((rport, _)), Some((received, _))) if received.start < rport.start => [address, port],
        _ => [port, address],
    }
}

fn copy(request: &Message, line: Span, out: &mut Vec<u8>) {
    let text = request.text(line);
    out.extend_from_slice(text);
    // A line that ended with LF alone, or not at all.
    if !text.ends_with(b"\r\n") {
        out.truncate(out.len() - usize::from(text.ends_with(b"\n")));
        out.extend_from_slice(b"\r\n");
    }
}

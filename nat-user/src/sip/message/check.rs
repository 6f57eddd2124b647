//! Whether a message that could be read is fit to be processed (RFC 3261 sections 8.1.1, 8.2, 16.3, 18.3 and 21.4).

use super::{Fault, HeaderName, Message, Start, lists::quote_end};

/// Headers that may stand only once, as bits.
const SINGLE: u64 = HeaderName::From.bit()
    | HeaderName::To.bit()
    | HeaderName::CallId.bit()
    | HeaderName::CSeq.bit()
    | HeaderName::MaxForwards.bit()
    | HeaderName::ContentLength.bit()
    | HeaderName::ContentType.bit();

/// What is wrong with a request: the response to give. `None`: it can be processed.
pub fn request(message: &Message) -> Option<Fault> {
    if message.fault().is_some() {
        return message.fault();
    }
    let fault = |code, reason| Some(Fault { code, reason });
    let Start::Request { method_text, .. } = message.start() else {
        return fault(400, "Not a Request");
    };
    if let Some(found) = common(message) {
        return Some(found);
    }
    match message.cseq() {
        None => return fault(400, "Malformed CSeq"),
        Some(cseq) if cseq.method_text != message.text(method_text) => {
            return fault(400, "CSeq Method Differs From Request Method");
        }
        Some(_) => {}
    }
    match message.target() {
        None => return fault(400, "Malformed Request-URI"),
        // Section 19.1.1: headers are not allowed there.
        Some(uri) if uri.headers.is_some() => return fault(400, "Headers in Request-URI"),
        Some(_) => {}
    }
    let separators = [HeaderName::Via, HeaderName::Contact];
    if (message.headers().iter())
        .filter(|header| separators.contains(&header.name))
        .any(|header| has_empty_parts(message.text(header.value)))
    {
        return fault(400, "Separators With Nothing Between Them");
    }
    if message.has(HeaderName::MaxForwards) && message.number(HeaderName::MaxForwards).is_none_or(|n| n > 255) {
        return fault(400, "Malformed Max-Forwards");
    }
    None
}

/// Whether a response can be used: nobody is told if not.
pub fn response(message: &Message) -> Option<Fault> {
    let malformed = Some(Fault {
        code: 400,
        reason: "Malformed Response",
    });
    message
        .fault()
        .or_else(|| common(message))
        .or(if message.cseq().is_none() { malformed } else { None })
}

fn common(message: &Message) -> Option<Fault> {
    let fault = |reason| Some(Fault { code: 400, reason });
    if message.names.again & SINGLE != 0 {
        return fault("Header Repeated That May Stand Once");
    }
    if message.from_uri().is_none() {
        return fault("Missing or Malformed From");
    }
    if message.to_uri().is_none() {
        return fault("Missing or Malformed To");
    }
    if message.call_id().is_empty() {
        return fault("Missing Call-ID");
    }
    if !message.has(HeaderName::CSeq) {
        return fault("Missing CSeq");
    }
    match message.via() {
        Some(via) if via.version == b"2.0" => {}
        None if message.items(HeaderName::Via).next().is_none() => return fault("Missing Via"),
        _ => return fault("Malformed Via"),
    }
    if let Some(header) = message.find(HeaderName::ContentLength) {
        match super::number(message.text(header.value)) {
            None => return fault("Malformed Content-Length"),
            // Section 18.3: a datagram that is shorter than it says is answered with 400.
            Some(length) if length > message.rest().len() as u64 => return fault("Body Shorter Than Content-Length"),
            Some(_) => {}
        }
    }
    None
}

/// Whether a comma or semicolon outside of quotes and brackets has nothing behind it (`;;`, `,,`, or one at the end). One pass, since others
/// choose the text. What is behind a quote or bracket that is never closed is not looked at.
fn has_empty_parts(text: &[u8]) -> bool {
    let is_empty = |at: usize| matches!(text[at + 1..].trim_ascii_start().first(), None | Some(b',' | b';'));
    // As nearly always: there is no such place, in quotes or not.
    if !memchr::memchr2_iter(b',', b';', text).any(is_empty) {
        return false;
    }
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let end = match byte {
            b',' | b';' if is_empty(at) => return true,
            b'"' => quote_end(text, at),
            b'<' => memchr::memchr(b'>', &text[at..]).map(|length| at + length + 1),
            _ => Some(at + 1),
        };
        let Some(end) = end else { return false };
        at = end;
    }
    false
}

//! SIP messages: read without loss, edited by splices (RFC 3261 sections 7, 18.3, 20 and 25).
//!
//! A [`Message`] is the bytes as they came and an index of where its lines are. Nothing is copied or re-printed: what a proxy must change
//! is a list of splices ([`edit::Edits`]), all other bytes leave as they came, also those that nobody here understands. Reading
//! is tolerant (any case, compact and folded headers, comma lists, unknown methods and schemes, bytes that are no UTF-8); whether a
//! request is fit to be processed is another question, which [`check::request`] answers.

pub mod check;
pub mod edit;
pub mod lists;
pub mod method;
pub mod name;
pub mod params;
pub mod pattern;
pub mod reply;
pub mod uri;
pub mod value;

use std::{io::Write as _, net::IpAddr, ops::Range};

use bytes::Bytes;
use smallvec::SmallVec;

pub use edit::Edits;
pub use lists::Items;
pub use method::Method;
pub use name::HeaderName;
pub use params::Params;
pub use uri::Uri;
pub use value::{CSeq, NameAddr, Via};

/// Places in a message's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

impl Span {
    /// As a range for slicing.
    pub fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// How many bytes.
    pub fn len(self) -> usize {
        self.range().len()
    }

    /// Whether it has none.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    fn new(start: usize, end: usize) -> Span {
        // A message is at most `MAX_MESSAGE` long.
        Span {
            start: start as u32,
            end: end as u32,
        }
    }
}

/// The longest message that is read: far more than a stream is allowed to carry by default, and little enough for 32-bit places.
pub const MAX_MESSAGE: usize = 16 << 20;

/// So many header lines are kept without memory of their own: those of most requests.
const LINES: usize = 16;

/// One header line, folded lines included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub name: HeaderName,
    /// The line from its first byte to behind its line end.
    pub line: Span,
    /// The value without white space around it; folding inside it stays.
    pub value: Span,
}

/// The first line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Request {
        method: Method,
        method_text: Span,
        uri: Span,
    },
    Response {
        code: u16,
        reason: Span,
    },
}

/// One message and the index of its lines.
#[derive(Clone, Debug)]
pub struct Message {
    bytes: Bytes,
    start: Start,
    headers: SmallVec<[Header; LINES]>,
    /// Behind the empty line.
    body: u32,
    fault: Option<Fault>,
    names: Names,
    /// What nearly everybody asks for: the topmost Via, the request URI, From, To and CSeq.
    top: Option<value::TopVia>,
    target: Option<uri::Places>,
    from: Option<value::AddressPlaces>,
    to: Option<value::AddressPlaces>,
    cseq: Option<value::CSeqPlaces>,
}

/// Which names the header lines have, each a bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Names {
    once: u64,
    /// Those that more than one line has.
    again: u64,
}

impl Names {
    fn add(&mut self, name: HeaderName) {
        self.again |= self.once & name.bit();
        self.once |= name.bit();
    }
}

/// Why bytes cannot be read as a message at all: nobody can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("it has no start line of SIP")]
    NotSip,
    #[error("it is longer than {MAX_MESSAGE} bytes")]
    TooLong,
}

/// What is wrong with a message that can be read well enough to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The response that the RFC asks for.
    pub code: u16,
    /// Its reason phrase, which says what is wrong (RFC 3261 section 21.4.1).
    pub reason: &'static str,
}

impl Message {
    /// Reads the lines of one whole message, which may be followed by nothing else.
    pub fn parse(bytes: Bytes) -> Result<Message, ParseError> {
        if bytes.len() > MAX_MESSAGE {
            return Err(ParseError::TooLong);
        }
        let mut lines = Lines { bytes: &bytes, at: 0 };
        // Empty lines before the start line are to be ignored (section 7.5).
        let first = loop {
            match lines.next() {
                Some(line) if line.is_empty() => {}
                Some(line) => break line,
                None => return Err(ParseError::NotSip),
            }
        };
        let (start, mut fault) = start_line(&bytes, first)?;
        let mut headers: SmallVec<[Header; LINES]> = SmallVec::new();
        let mut names = Names::default();
        let mut ended = false;
        while let Some(line) = lines.next() {
            if line.is_empty() {
                ended = true;
                break;
            }
            let text = &bytes[line.range()];
            if matches!(text[0], b' ' | b'\t') {
                match headers.last_mut() {
                    Some(header) => {
                        header.line.end = lines.at as u32;
                        let value = trim(&bytes, Span::new(header.value.start as usize, line.end as usize));
                        header.value = value;
                    }
                    None => set(&mut fault, 400, "White Space Before the First Header"),
                }
                continue;
            }
            // Names are short, so that a plain search is the quicker one.
            let Some(colon) = text.iter().position(|byte| *byte == b':') else {
                set(&mut fault, 400, "Header Line Without Colon");
                continue;
            };
            let name = HeaderName::of(text[..colon].trim_ascii());
            names.add(name);
            // With the one space that nearly all have.
            let begin = colon + 1 + usize::from(text.get(colon + 1) == Some(&b' '));
            headers.push(Header {
                name,
                line: Span::new(line.start as usize, lines.at),
                value: trim(&bytes, Span::new(line.start as usize + begin, line.end as usize)),
            });
        }
        if !ended {
            set(&mut fault, 400, "No Empty Line After the Headers");
        }
        let body = lines.at as u32;
        let mut message = Message {
            bytes,
            start,
            headers,
            body,
            fault,
            names,
            top: None,
            target: None,
            from: None,
            to: None,
            cseq: None,
        };
        message.top = value::TopVia::of(&message);
        message.target = uri::Places::of(&message, message.request_uri());
        message.from = value::AddressPlaces::of(&message, HeaderName::From);
        message.to = value::AddressPlaces::of(&message, HeaderName::To);
        message.cseq = value::CSeqPlaces::of(&message);
        Ok(message)
    }

    /// The whole message.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The first line.
    pub fn start(&self) -> Start {
        self.start
    }

    /// What the lines themselves have wrong; see [`check::request`] for the rest.
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// The method of a request; `None` for responses.
    pub fn method(&self) -> Option<Method> {
        match self.start {
            Start::Request { method, .. } => Some(method),
            Start::Response { .. } => None,
        }
    }

    /// The method as written; empty for responses.
    pub fn method_text(&self) -> &[u8] {
        match self.start {
            Start::Request { method_text, .. } => self.text(method_text),
            Start::Response { .. } => b"",
        }
    }

    /// The request URI as written; empty for responses.
    pub fn request_uri(&self) -> &[u8] {
        match self.start {
            Start::Request { uri, .. } => self.text(uri),
            Start::Response { .. } => b"",
        }
    }

    /// The request URI taken apart. `None`: it is none ([`Uri::parse`]), or this is a response.
    pub fn target(&self) -> Option<Uri<'_>> {
        self.target.map(|target| target.of_message(self))
    }

    /// The status code of a response.
    pub fn code(&self) -> Option<u16> {
        match self.start {
            Start::Response { code, .. } => Some(code),
            Start::Request { .. } => None,
        }
    }

    /// The header lines in their order.
    pub fn headers(&self) -> &[Header] {
        &self.headers
    }

    /// The first header line of this name.
    pub fn find(&self, name: HeaderName) -> Option<&Header> {
        if !self.has(name) {
            return None;
        }
        self.headers.iter().find(|header| header.name == name)
    }

    /// Whether there is a header line of this name.
    pub fn has(&self, name: HeaderName) -> bool {
        self.names.once & name.bit() != 0
    }

    /// Whether there is more than one.
    pub fn has_several(&self, name: HeaderName) -> bool {
        self.names.again & name.bit() != 0
    }

    /// The value of the first header line of this name. For names that [`HeaderName`] does not know see [`Message::named`].
    pub fn value(&self, name: HeaderName) -> Option<&[u8]> {
        self.find(name).map(|header| self.text(header.value))
    }

    /// The value of the first header whose name is this text, in any case: for headers that have no [`HeaderName`] of their own.
    pub fn named(&self, name: &str) -> Option<&[u8]> {
        self.headers
            .iter()
            .find(|header| {
                let line = self.text(header.line);
                line.len() > name.len()
                    && line[..name.len()].eq_ignore_ascii_case(name.as_bytes())
                    && matches!(line[name.len()], b':' | b' ' | b'\t')
            })
            .map(|header| self.text(header.value))
    }

    /// All values of all lines of this name, comma lists taken apart with respect to quotes and angle brackets (section 7.3.1).
    pub fn items(&self, name: HeaderName) -> Items<'_> {
        Items::new(self, name)
    }

    /// The bytes at a place.
    pub fn text(&self, span: Span) -> &[u8] {
        &self.bytes[span.range()]
    }

    /// Where a part of the message stands in it. For what is no part of it: an empty place at the beginning.
    pub fn place(&self, part: &[u8]) -> Span {
        let start = (part.as_ptr() as usize).wrapping_sub(self.bytes.as_ptr() as usize);
        match start.checked_add(part.len()) {
            Some(end) if end <= self.bytes.len() => Span::new(start, end),
            _ => Span::new(0, 0),
        }
    }

    /// Where the header lines end: the place of the empty line.
    pub fn headers_end(&self) -> u32 {
        match self.headers.last() {
            Some(last) => last.line.end,
            None => self.body,
        }
    }

    /// Where the body begins.
    pub fn body_start(&self) -> u32 {
        self.body
    }

    /// Everything behind the empty line. In a datagram it may be longer than Content-Length says ([`Message::body`]).
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.body as usize..]
    }

    /// The body: as many bytes as Content-Length says, or all there are (section 18.3).
    pub fn body(&self) -> &[u8] {
        let rest = self.rest();
        match self.content_length() {
            Some(length) => &rest[..length.min(rest.len())],
            None => rest,
        }
    }

    /// Content-Length, if it is there and a number.
    pub fn content_length(&self) -> Option<usize> {
        number(self.value(HeaderName::ContentLength)?).and_then(|length| usize::try_from(length).ok())
    }

    /// The topmost Via.
    pub fn via(&self) -> Option<Via<'_>> {
        self.top.map(|top| top.of_message(self))
    }

    /// Whether there is a topmost Via and no other: as far as Via tells, it comes straight from its sender.
    pub fn has_one_via(&self) -> bool {
        self.top.is_some_and(|top| top.alone)
    }

    /// From.
    pub fn from(&self) -> Option<NameAddr<'_>> {
        self.from.map(|places| places.address(self))
    }

    /// The URI of From taken apart.
    pub fn from_uri(&self) -> Option<Uri<'_>> {
        self.from?.uri(self)
    }

    /// To.
    pub fn to(&self) -> Option<NameAddr<'_>> {
        self.to.map(|places| places.address(self))
    }

    /// The URI of To taken apart.
    pub fn to_uri(&self) -> Option<Uri<'_>> {
        self.to?.uri(self)
    }

    /// The tag of From.
    pub fn from_tag(&self) -> Option<&[u8]> {
        self.from().and_then(|from| from.params.get("tag"))
    }

    /// The tag of To: present inside of dialogs.
    pub fn to_tag(&self) -> Option<&[u8]> {
        self.to().and_then(|to| to.params.get("tag"))
    }

    /// Call-ID; empty if there is none.
    pub fn call_id(&self) -> &[u8] {
        self.value(HeaderName::CallId).unwrap_or_default()
    }

    /// CSeq.
    pub fn cseq(&self) -> Option<CSeq<'_>> {
        self.cseq.map(|places| places.of_message(self))
    }

    /// A header that is one number: Expires, Max-Forwards, Min-Expires, Max-Breadth … Parameters behind it are ignored.
    /// More than 32 bits count as the greatest number. `None`: absent or no number.
    pub fn number(&self, name: HeaderName) -> Option<u32> {
        let value = self.value(name)?;
        let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let after = value[digits..].iter().find(|byte| !byte.is_ascii_whitespace());
        if !matches!(after, None | Some(b';' | b'(')) {
            return None;
        }
        number(&value[..digits]).map(|number| u32::try_from(number).unwrap_or(u32::MAX))
    }

    /// Whether a header that lists tokens (Supported, Require …) has this one, in any case.
    pub fn has_token(&self, name: HeaderName, token: &str) -> bool {
        self.items(name)
            .any(|item| self.text(item.span).eq_ignore_ascii_case(token.as_bytes()))
    }
}

/// Decimal digits and nothing else; what is more than 64 bits is the greatest number.
pub fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |sum, byte| {
        byte.is_ascii_digit()
            .then(|| sum.saturating_mul(10).saturating_add(u64::from(byte - b'0')))
    })
}

/// Appends a number in decimal digits. Every response has several, and the standard library's formatting takes longer for one than copying
/// the whole message.
pub fn put_number(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0; 20];
    let (mut at, mut rest) = (digits.len(), number);
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends an address as in the `received` parameter: IPv6 without brackets, and IPv4 as such even if it is mapped into IPv6.
pub fn put_address(out: &mut Vec<u8>, address: IpAddr) {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let (mut text, mut end) = ([b'.'; 15], 0);
            for octet in v4.octets() {
                for (least, unit) in [(100, 100), (10, 10), (0, 1)] {
                    if octet >= least {
                        text[end] = b'0' + octet / unit % 10;
                        end += 1;
                    }
                }
                end += 1;
            }
            out.extend_from_slice(&text[..end - 1]);
        }
        // Writing into memory does not fail.
        IpAddr::V6(v6) => drop(write!(out, "{v6}")),
    }
}

/// Lines that end with CRLF, or, from sloppy senders, with LF alone.
struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Lines<'_> {
    /// The next line without its end; `None` when no line end comes any more.
    fn next(&mut self) -> Option<Span> {
        let start = self.at;
        let end = start + memchr::memchr(b'\n', &self.bytes[start..])?;
        self.at = end + 1;
        let end = if end > start && self.bytes[end - 1] == b'\r' {
            end - 1
        } else {
            end
        };
        Some(Span::new(start, end))
    }
}

fn start_line(bytes: &[u8], line: Span) -> Result<(Start, Option<Fault>), ParseError> {
    let text = &bytes[line.range()];
    let offset = line.start as usize;
    if text.len() >= 4 && text[..4].eq_ignore_ascii_case(b"SIP/") {
        return status_line(bytes, line);
    }
    // The version is behind the last space; what is between belongs to the URI, even where that is wrong.
    let first = memchr::memchr(b' ', text).ok_or(ParseError::NotSip)?;
    let last = memchr::memrchr(b' ', text.trim_ascii_end()).ok_or(ParseError::NotSip)?;
    let version = text[last + 1..].trim_ascii_end();
    if first == 0 || version.len() < 4 || !version[..4].eq_ignore_ascii_case(b"SIP/") {
        return Err(ParseError::NotSip);
    }
    let mut fault = None;
    if !version.eq_ignore_ascii_case(b"SIP/2.0") {
        set(&mut fault, 505, "Version Not Supported");
    }
    let uri = if last > first {
        trim(bytes, Span::new(offset + first + 1, offset + last))
    } else {
        Span::new(offset + last, offset + last)
    };
    let exact = 1 + first + uri.len() + 1 + version.len() == text.len();
    if uri.is_empty() || !exact || bytes[uri.range()].iter().any(|byte| byte.is_ascii_whitespace()) {
        set(&mut fault, 400, "Malformed Request Line");
    }
    let method_text = Span::new(offset, offset + first);
    let method = Method::of(&bytes[method_text.range()]);
    if !TOKEN.has_all(&bytes[method_text.range()]) {
        set(&mut fault, 400, "Malformed Method");
    }
    Ok((
        Start::Request {
            method,
            method_text,
            uri,
        },
        fault,
    ))
}

fn status_line(bytes: &[u8], line: Span) -> Result<(Start, Option<Fault>), ParseError> {
    let text = &bytes[line.range()];
    let mut fault = None;
    if text.len() < 11 || !text[..8].eq_ignore_ascii_case(b"SIP/2.0 ") {
        // Nobody answers a response, so the code only says that it is not to be used.
        set(&mut fault, 505, "Version Not Supported");
    }
    let code = text
        .get(8..11)
        .and_then(number)
        .filter(|code| (100..700).contains(code));
    let after = text.get(11).copied();
    if code.is_none() || !matches!(after, None | Some(b' ')) {
        set(&mut fault, 400, "Malformed Status Line");
    }
    Ok((
        Start::Response {
            code: code.unwrap_or(0) as u16,
            reason: Span::new((line.start as usize + 12).min(line.end as usize), line.end as usize),
        },
        fault,
    ))
}

fn set(fault: &mut Option<Fault>, code: u16, reason: &'static str) {
    fault.get_or_insert(Fault { code, reason });
}

/// The place without white space (and folds) at its ends.
fn trim(bytes: &[u8], span: Span) -> Span {
    let text = &bytes[span.range()];
    // Most have at most one space around them, so that a look at the ends is quicker than a loop.
    let is_space = |byte: Option<&u8>| byte.is_some_and(|byte| *byte <= b' ');
    if !is_space(text.first()) && !is_space(text.last()) {
        return span;
    }
    let start = text.len() - text.trim_ascii_start().len();
    let end = text.trim_ascii_end().len().max(start);
    Span::new(span.start as usize + start, span.start as usize + end)
}

/// A set of bytes, for looking one up without comparing.
pub(crate) struct Class([bool; 256]);

impl Class {
    /// These bytes.
    pub(crate) const fn of(bytes: &[u8]) -> Class {
        let mut class = [false; 256];
        let mut place = 0;
        while place < bytes.len() {
            class[bytes[place] as usize] = true;
            place += 1;
        }
        Class(class)
    }

    /// Letters, digits and what is in `others`.
    pub(crate) const fn alphanumeric_and(others: &[u8]) -> Class {
        let Class(mut class) = Class::of(others);
        let mut byte = 0;
        while byte < class.len() {
            class[byte] |= (byte as u8).is_ascii_alphanumeric();
            byte += 1;
        }
        Class(class)
    }

    /// Whether it has this byte.
    pub(crate) fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte)]
    }

    /// Whether it has all of these.
    pub(crate) fn has_all(&self, text: &[u8]) -> bool {
        text.iter().all(|byte| self.has(*byte))
    }
}

/// What a `token` of section 25.1 is made of.
pub(crate) static TOKEN: Class = Class::alphanumeric_and(b"-.!%*_+`'~");

#[cfg(test)]
mod tests;

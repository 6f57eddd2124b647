//! What a request looks like when it leaves (RFC 3261 section 16.6): the message as it came, with these changes and no others.

use bytes::Bytes;
use smallvec::SmallVec;

use super::routing::Routing;
use crate::sip::{
    core::here::Place,
    flow::Flow,
    message::{Edits, HeaderName, Message, NameAddr, Span, Uri, lists::Item, reply},
    token::{Side, Tokens},
    transaction::client::Branch,
};

/// Everything that changes in one copy.
pub struct Forward<'a> {
    pub request: &'a Message,
    /// Where the request came in.
    pub came: Flow,
    /// The listener that it leaves from.
    pub from: &'a Place,
    pub branch: &'a Branch,
    /// The request URI of the target; `None`: it stays what it is (or what `routing` says).
    pub uri: Option<&'a [u8]>,
    pub routing: &'a Routing,
    /// Route values that are put in front.
    pub path: &'a [u8],
    /// Whole lines.
    pub record_route: &'a [u8],
    /// The header with credentials that were for us, taken out.
    pub credentials: Option<usize>,
    /// Max-Breadth (RFC 5393 section 5.3.3: every request that is forwarded has one).
    pub breadth: u32,
    /// Changes that others have made already.
    pub edits: Edits,
}

impl Forward<'_> {
    /// The message.
    pub fn compose(self) -> Bytes {
        let message = self.request;
        let mut edits = self.edits;
        let via = message.find(HeaderName::Via);
        let at = via.map_or(message.headers_end(), |via| via.line.start);
        edits.insert_fmt(at, format_args!("Via: {}{}\r\n", self.from.via, Ascii(self.branch)));
        // Without one the request is our own.
        if via.is_some() {
            reply::note_source(message, self.came.remote, &mut edits);
        }
        match message.find(HeaderName::MaxForwards) {
            Some(header) => {
                let left = message.number(HeaderName::MaxForwards).unwrap_or(70).saturating_sub(1);
                edits.replace_fmt(header.value, format_args!("{left}"));
            }
            None => edits.append(message, b"Max-Forwards: 70\r\n"),
        }
        if !self.record_route.is_empty() {
            edits.insert_before(message, HeaderName::RecordRoute, self.record_route);
        }
        if let Some(index) = self.credentials {
            edits.remove(message.headers()[index].line);
        }
        if message.number(HeaderName::MaxBreadth) != Some(self.breadth) {
            edits.set_header(message, HeaderName::MaxBreadth, self.breadth.to_string().as_bytes());
        }
        route(message, self.routing, self.uri, self.path, &mut edits);
        content_length(message, self.from.transport.reliable(), &mut edits);
        edits.apply(message)
    }
}

/// Request URI and Routes: section 16.4 and section 16.6 items 2 and 6.
fn route(message: &Message, routing: &Routing, uri: Option<&[u8]>, path: &[u8], edits: &mut Edits) {
    let Some(uri_span) = uri_place(message) else { return };
    let items: SmallVec<[Item; 4]> = if routing.ours > 0 || routing.uri.is_some() || routing.next.is_some() {
        message.items(HeaderName::Route).collect()
    } else {
        SmallVec::new()
    };
    let last = routing.uri.and_then(|_| items.last().copied());
    let strict = strict_next(message, routing, path);
    let goes = |item: &Item| {
        items[..routing.ours.min(items.len())].contains(item)
            || Some(*item) == last
            || (path.is_empty() && strict.is_some() && Some(item.span) == routing.next)
    };
    if !items.is_empty() {
        edits.remove_items(message, HeaderName::Route, |item| goes(&item));
    }
    let uri = uri.or(routing.uri.map(|span| message.text(span)));
    let Some(strict) = strict else {
        if let Some(uri) = uri {
            edits.replace(uri_span, uri);
        }
        if !path.is_empty() {
            put_route(message, &[b"Route: ", path, b"\r\n"], edits);
        }
        return;
    };
    // The next router is a strict one: its URI is the request URI, and the request URI the last Route.
    let uri = uri.unwrap_or(message.request_uri());
    edits.replace(uri_span, strict.uri);
    if !strict.rest.is_empty() {
        put_route(message, &[b"Route: ", strict.rest, b"\r\n"], edits);
    }
    let line = [b"Route: <", uri, b">\r\n"].concat();
    match message
        .headers()
        .iter()
        .rfind(|header| header.name == HeaderName::Route)
    {
        Some(header) => edits.insert(header.line.end, &line),
        None => edits.append(message, &line),
    }
}

/// A next router without `lr`.
struct Strict<'a> {
    uri: &'a [u8],
    /// What is left of the path in front.
    rest: &'a [u8],
}

fn strict_next<'a>(message: &'a Message, routing: &Routing, path: &'a [u8]) -> Option<Strict<'a>> {
    if path.is_empty() {
        let next = NameAddr::parse(message, routing.next?)?;
        let strict = next.parsed().is_some_and(|uri| !uri.params.has("lr"));
        return strict.then_some(Strict {
            uri: next.uri,
            rest: b"",
        });
    }
    let (uri, rest) = first_of_list(path)?;
    let strict = Uri::parse(uri).is_some_and(|uri| !uri.params.has("lr"));
    strict.then_some(Strict { uri, rest })
}

/// The URI of the first of several Route values, and the values behind it.
pub fn first_of_list(values: &[u8]) -> Option<(&[u8], &[u8])> {
    let open = memchr::memchr(b'<', values)?;
    let close = open + memchr::memchr(b'>', &values[open..])?;
    let rest = match memchr::memchr(b',', &values[close..]) {
        Some(comma) => values[close + comma + 1..].trim_ascii(),
        None => b"",
    };
    Some((&values[open + 1..close], rest))
}

fn put_route(message: &Message, parts: &[&[u8]], edits: &mut Edits) {
    edits.insert_before(message, HeaderName::Route, &parts.concat());
}

/// Where the request URI stands.
pub fn uri_place(message: &Message) -> Option<Span> {
    match message.start() {
        crate::sip::message::Start::Request { uri, .. } => Some(uri),
        crate::sip::message::Start::Response { .. } => None,
    }
}

/// What a datagram has behind its body is not passed on, a stream needs a length, and a body that has changed another one (section 18.3).
pub fn content_length(message: &Message, stream: bool, edits: &mut Edits) {
    let grown = edits.growth(message.body_start());
    let changed = message.body().len() as i64 + grown;
    match message.content_length() {
        Some(length) => {
            if length < message.rest().len() {
                let end = message.bytes().len() as u32;
                edits.remove(Span {
                    start: message.body_start() + length as u32,
                    end,
                });
            }
            if grown != 0 {
                edits.set_header(message, HeaderName::ContentLength, changed.to_string().as_bytes());
            }
        }
        None if stream => edits.set_header(message, HeaderName::ContentLength, changed.to_string().as_bytes()),
        None => {}
    }
}

/// The Record-Route lines (section 16.6 item 4): the one that faces the callee first. Two of them where a token names a flow, or where
/// the sides are served by different listeners; else one that says only that we are in the dialog.
pub fn record_route(
    tokens: &Tokens,
    request: &Message,
    caller: (&Place, Option<&Side>),
    callee: (&Place, Option<&Side>),
) -> Vec<u8> {
    let secure = request
        .target()
        .is_some_and(|uri| uri.scheme == crate::sip::message::uri::Scheme::Sips);
    let mut out = Vec::with_capacity(256);
    let mut line = |(place, side): (&Place, Option<&Side>)| {
        out.extend_from_slice(if secure {
            b"Record-Route: <sips:"
        } else {
            b"Record-Route: <sip:"
        });
        tokens.write_dialog(request.call_id(), side, &mut out);
        out.push(b'@');
        out.extend_from_slice(place.sent_by.as_bytes());
        if !secure {
            out.extend_from_slice(place.transport_param().as_bytes());
        }
        out.extend_from_slice(b";lr>\r\n");
    };
    line(callee);
    if caller.1.is_some() || callee.1.is_some() || caller.0.id != callee.0.id {
        line(caller);
    }
    out
}

/// Bytes that are ASCII, for formatting.
struct Ascii<'a>(&'a [u8]);

impl std::fmt::Display for Ascii<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(std::str::from_utf8(self.0).unwrap_or_default())
    }
}

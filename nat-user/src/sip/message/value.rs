//! Header values with a structure: Via, CSeq, and those that hold a URI (From, To, Contact, Route …).

use std::net::{IpAddr, SocketAddr};

use super::{HeaderName, Message, Method, Params, Span, Uri, lists::quote_end, number, trim, uri};

/// One Via value (RFC 3261 section 20.42).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via<'a> {
    /// The whole value.
    pub span: Span,
    /// `2.0`, unless the sender speaks another SIP, which is answered with 505.
    pub version: &'a [u8],
    /// `UDP`, `TCP` …, as written.
    pub transport: &'a [u8],
    /// Host of sent-by; IPv6 with its brackets.
    pub host: &'a [u8],
    pub port: Option<u16>,
    pub params: Params<'a>,
    branch: &'a [u8],
    /// The first `rport` with its value.
    pub(super) rport: Option<Span>,
    /// The value of the first `received`.
    pub(super) received: Option<Span>,
    asks_rport: bool,
    offers_keep: bool,
}

impl<'a> Via<'a> {
    /// Reads the value at `span`. `None`: it is none.
    pub fn parse(message: &'a Message, span: Span) -> Option<Via<'a>> {
        let text = message.text(span);
        let (version, rest) = match text.strip_prefix(b"SIP/2.0/") {
            Some(rest) => (&text[4..7], rest),
            None => {
                let (protocol, rest) = text.split_at(memchr::memchr(b'/', text)?);
                let (version, rest) = rest[1..].split_at(memchr::memchr(b'/', &rest[1..])?);
                if !protocol.trim_ascii().eq_ignore_ascii_case(b"SIP") {
                    return None;
                }
                (version, &rest[1..])
            }
        };
        let rest = rest.trim_ascii_start();
        let (transport, rest) = rest.split_at(rest.iter().position(u8::is_ascii_whitespace)?);
        let params_at = memchr::memchr(b';', rest).unwrap_or(rest.len());
        let (sent_by, params) = rest.split_at(params_at);
        let (host, port) = host_port(sent_by.trim_ascii())?;
        let params = Params(params);
        let (mut branch, mut asks_rport, mut offers_keep) = (None, false, false);
        let (mut rport, mut received) = (None, None);
        for param in params.iter() {
            if param.name.eq_ignore_ascii_case(b"branch") {
                branch = branch.or(Some(param.value.unwrap_or_default()));
            } else if param.name.eq_ignore_ascii_case(b"rport") {
                let end = message.place(param.value.unwrap_or(param.name)).end;
                let start = message.place(param.name).start;
                rport = rport.or(Some(Span { start, end }));
                asks_rport |= param.value.is_none_or(<[u8]>::is_empty);
            } else if param.name.eq_ignore_ascii_case(b"received") {
                received = received.or(param.value.map(|value| message.place(value)));
            } else if param.name.eq_ignore_ascii_case(b"keep") {
                offers_keep = true;
            }
        }
        Some(Via {
            span,
            version: version.trim_ascii(),
            transport,
            host,
            port,
            params,
            branch: branch.unwrap_or_default(),
            rport,
            received,
            asks_rport,
            offers_keep,
        })
    }

    /// The transaction's branch; empty if there is none.
    pub fn branch(&self) -> &'a [u8] {
        self.branch
    }

    /// Whether the branch begins with the magic cookie of RFC 3261 (section 8.1.1.7).
    pub fn has_cookie(&self) -> bool {
        let branch = self.branch();
        branch.len() > 7 && branch[..7].eq_ignore_ascii_case(b"z9hG4bK")
    }

    /// Whether the sender asks for its port (RFC 3581): an `rport` without a value.
    pub fn asks_rport(&self) -> bool {
        self.asks_rport
    }

    /// Whether the sender offers keep-alives (RFC 6223 section 4.1).
    pub fn offers_keep(&self) -> bool {
        self.offers_keep
    }

    /// Whether sent-by is this address: then the sender is not behind a NAT as far as this header tells. A port that is not written is 5060
    /// (5061 for TLS).
    pub fn sent_by_is(&self, source: SocketAddr) -> bool {
        let default = if self.transport.eq_ignore_ascii_case(b"TLS") {
            5061
        } else {
            5060
        };
        uri::host_address(self.host).is_some_and(|host| same_address(host, source.ip()))
            && self.port.unwrap_or(default) == source.port()
    }
}

/// Where the parts of a message's topmost Via are: it is read once, although many ask for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct TopVia {
    pub span: Span,
    pub version: Span,
    pub transport: Span,
    pub host: Span,
    pub port: Option<u16>,
    pub params: Span,
    pub branch: Span,
    pub rport: Option<Span>,
    pub received: Option<Span>,
    pub asks_rport: bool,
    pub offers_keep: bool,
    /// There is no other one.
    pub alone: bool,
}

impl TopVia {
    /// Reads it. `None`: there is none that can be read.
    pub fn of(message: &Message) -> Option<TopVia> {
        let mut all = message.items(HeaderName::Via);
        let via = Via::parse(message, all.next()?.span)?;
        let place = |part| message.place(part);
        Some(TopVia {
            span: via.span,
            version: place(via.version),
            transport: place(via.transport),
            host: place(via.host),
            port: via.port,
            params: place(via.params.0),
            branch: place(via.branch),
            rport: via.rport,
            received: via.received,
            asks_rport: via.asks_rport,
            offers_keep: via.offers_keep,
            alone: all.next().is_none(),
        })
    }

    /// As it stands in the message that it was read from.
    pub fn of_message(self, message: &Message) -> Via<'_> {
        Via {
            span: self.span,
            version: message.text(self.version),
            transport: message.text(self.transport),
            host: message.text(self.host),
            port: self.port,
            params: Params(message.text(self.params)),
            branch: message.text(self.branch),
            rport: self.rport,
            received: self.received,
            asks_rport: self.asks_rport,
            offers_keep: self.offers_keep,
        }
    }
}

/// A name-addr or addr-spec with its parameters (section 20.10): From, To, Contact, Route, Record-Route, Path …
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameAddr<'a> {
    /// The whole value.
    pub span: Span,
    /// The URI, without brackets.
    pub uri: &'a [u8],
    /// Where the URI stands in the message.
    pub uri_span: Span,
    /// The header's parameters, not those of the URI.
    pub params: Params<'a>,
    /// Whether the URI stands in angle brackets.
    pub bracketed: bool,
}

impl<'a> NameAddr<'a> {
    /// Reads the value at `span`. `None`: quotes or brackets that do not match, or nothing where the URI should be. The URI itself is not judged.
    pub fn parse(message: &'a Message, span: Span) -> Option<NameAddr<'a>> {
        let text = message.text(span);
        // An opening bracket outside of quotes.
        let mut open = text.starts_with(b"<").then_some(0);
        let mut at = 0;
        while open.is_none()
            && let Some(place) = memchr::memchr2(b'<', b'"', &text[at..])
        {
            if text[at + place] == b'<' {
                open = Some(at + place);
            } else {
                at = quote_end(text, at + place)?;
            }
        }
        let start = span.start as usize;
        let (uri_span, params_at, bracketed) = match open {
            Some(open) => {
                let close = open + memchr::memchr(b'>', &text[open..])?;
                (Span::new(start + open + 1, start + close), close + 1, true)
            }
            None => {
                // Without brackets all parameters are the header's (section 20).
                let end = memchr::memchr(b';', text).unwrap_or(text.len());
                (Span::new(start, start + end), end, false)
            }
        };
        let uri_span = trim(message.bytes(), uri_span);
        let params = text[params_at..].trim_ascii_start();
        if uri_span.is_empty() || !matches!(params.first(), None | Some(b';')) {
            return None;
        }
        Some(NameAddr {
            span,
            uri: message.text(uri_span),
            uri_span,
            params: Params(params),
            bracketed,
        })
    }

    /// The URI taken apart.
    pub fn parsed(&self) -> Option<Uri<'a>> {
        Uri::parse(self.uri)
    }
}

/// Where the parts of From or To are, and those of the URI in it: both are read once, although many ask for them.
#[derive(Clone, Copy, Debug)]
pub(super) struct AddressPlaces {
    span: Span,
    uri: Span,
    params: Span,
    bracketed: bool,
    parts: Option<uri::Places>,
}

impl AddressPlaces {
    /// Reads the first header of this name. `None`: there is none that can be read.
    pub fn of(message: &Message, name: HeaderName) -> Option<AddressPlaces> {
        let address = NameAddr::parse(message, message.find(name)?.value)?;
        Some(AddressPlaces {
            span: address.span,
            uri: address.uri_span,
            params: message.place(address.params.0),
            bracketed: address.bracketed,
            parts: uri::Places::of(message, address.uri),
        })
    }

    /// As it stands in the message that it was read from.
    pub fn address(self, message: &Message) -> NameAddr<'_> {
        NameAddr {
            span: self.span,
            uri: message.text(self.uri),
            uri_span: self.uri,
            params: Params(message.text(self.params)),
            bracketed: self.bracketed,
        }
    }

    /// Its URI taken apart, as [`NameAddr::parsed`].
    pub fn uri(self, message: &Message) -> Option<Uri<'_>> {
        self.parts.map(|parts| parts.of_message(message))
    }
}

/// Where the parts of CSeq are.
#[derive(Clone, Copy, Debug)]
pub(super) struct CSeqPlaces {
    pub number: u32,
    pub method: Method,
    pub method_text: Span,
}

impl CSeqPlaces {
    /// Reads the first one. `None`: there is none that can be read.
    pub fn of(message: &Message) -> Option<CSeqPlaces> {
        let cseq = CSeq::parse(message.value(HeaderName::CSeq)?)?;
        Some(CSeqPlaces {
            number: cseq.number,
            method: cseq.method,
            method_text: message.place(cseq.method_text),
        })
    }

    /// As it stands in the message that it was read from.
    pub fn of_message(self, message: &Message) -> CSeq<'_> {
        CSeq {
            number: self.number,
            method: self.method,
            method_text: message.text(self.method_text),
        }
    }
}

/// CSeq (section 20.16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CSeq<'a> {
    pub number: u32,
    pub method: Method,
    pub method_text: &'a [u8],
}

impl<'a> CSeq<'a> {
    /// `None`: no number below 2^31, or no method.
    pub fn parse(text: &'a [u8]) -> Option<CSeq<'a>> {
        let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let method_text = text[digits..].trim_ascii();
        if !text[digits..].first()?.is_ascii_whitespace() || !super::TOKEN.has_all(method_text) {
            return None;
        }
        Some(CSeq {
            number: number(&text[..digits]).filter(|number| *number < 1 << 31)? as u32,
            method: Method::of(method_text),
            method_text,
        })
    }
}

/// `host[:port]` as in sent-by; white space around the colon is allowed (section 25.1).
pub fn host_port(text: &[u8]) -> Option<(&[u8], Option<u16>)> {
    let host_end = match text.first()? {
        b'[' => memchr::memchr(b']', text)? + 1,
        _ => memchr::memchr(b':', text).unwrap_or(text.len()),
    };
    let (host, rest) = text.split_at(host_end);
    let host = host.trim_ascii_end();
    let port = match rest.trim_ascii_start().strip_prefix(b":") {
        None if rest.trim_ascii().is_empty() => None,
        None => return None,
        Some(port) => Some(
            u16::try_from(number(port.trim_ascii())?)
                .ok()
                .filter(|port| *port != 0)?,
        ),
    };
    uri::is_host(host).then_some((host, port))
}

/// Whether two addresses are the same, IPv4-mapped IPv6 addresses included.
pub fn same_address(a: IpAddr, b: IpAddr) -> bool {
    a.to_canonical() == b.to_canonical()
}

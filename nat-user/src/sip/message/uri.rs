//! URIs (RFC 3261 sections 19.1 and 25.1).

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr},
};

use super::{Class, Message, Params, Span, number};
use crate::sip::{command::Target, flow::Transport};

/// What the scheme of a URI means to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Sip,
    Sips,
    /// A telephone number (RFC 3966).
    Tel,
    /// Somebody else's; such a URI is passed on, but not routed by.
    Other,
}

/// A URI taken apart. Every part is a slice of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uri<'a> {
    pub scheme: Scheme,
    /// The part before `@` without the password; for `tel` the number. Escapes stay.
    pub user: Option<&'a [u8]>,
    /// Name or address; IPv6 with its brackets. Empty for schemes without.
    pub host: &'a [u8],
    pub port: Option<u16>,
    pub params: Params<'a>,
    /// Behind `?`.
    pub headers: Option<&'a [u8]>,
}

impl<'a> Uri<'a> {
    /// Takes a URI apart. `None`: no scheme, or a `sip` or `sips` URI without a valid host or port.
    pub fn parse(text: &'a [u8]) -> Option<Uri<'a>> {
        // As nearly all are.
        if let [b's' | b'S', b'i' | b'I', b'p' | b'P', b':', rest @ ..] = text {
            return sip(Scheme::Sip, rest);
        }
        let colon = memchr::memchr(b':', text)?;
        let (scheme, rest) = (&text[..colon], &text[colon + 1..]);
        if scheme.is_empty() || !scheme[0].is_ascii_alphabetic() || !SCHEME.has_all(scheme) {
            return None;
        }
        let scheme = match scheme {
            s if s.eq_ignore_ascii_case(b"sips") => Scheme::Sips,
            s if s.eq_ignore_ascii_case(b"tel") => Scheme::Tel,
            _ => Scheme::Other,
        };
        match scheme {
            Scheme::Sip | Scheme::Sips => sip(scheme, rest),
            Scheme::Tel => {
                let end = memchr::memchr(b';', rest).unwrap_or(rest.len());
                Some(Uri {
                    scheme,
                    user: Some(&rest[..end]),
                    host: b"",
                    port: None,
                    params: Params(&rest[end..]),
                    headers: None,
                })
            }
            Scheme::Other => Some(Uri {
                scheme,
                user: None,
                host: b"",
                port: None,
                params: Params(b""),
                headers: None,
            }),
        }
    }

    /// Whether it is `sip` or `sips`, which can be routed by.
    pub fn is_sip(&self) -> bool {
        matches!(self.scheme, Scheme::Sip | Scheme::Sips)
    }

    /// The user part with its escapes resolved, for comparing with names in configuration and tables.
    pub fn user_text(&self) -> Option<Cow<'a, str>> {
        self.user.map(unescape)
    }

    /// The host if it is an address.
    pub fn address(&self) -> Option<IpAddr> {
        host_address(self.host)
    }

    /// The `transport` parameter, if it is there and known. `sips` means TLS whatever it says (RFC 5630).
    pub fn transport(&self) -> Option<Transport> {
        let named = self
            .params
            .get("transport")
            .and_then(|name| std::str::from_utf8(name).ok())
            .and_then(|name| name.parse().ok());
        if self.scheme == Scheme::Sips {
            Some(Transport::Tls)
        } else {
            named
        }
    }

    /// The port, or the default one of its transport.
    pub fn port_or_default(&self) -> u16 {
        self.port
            .unwrap_or_else(|| self.transport().unwrap_or(Transport::Udp).default_port())
    }

    /// What to look up to reach it (RFC 3263 section 4); `maddr` counts as the host. `None`: not a SIP URI, or a host that is no text.
    pub fn target(&self) -> Option<Target> {
        if !self.is_sip() {
            return None;
        }
        let host = self.params.get("maddr").filter(|m| !m.is_empty()).unwrap_or(self.host);
        let host = std::str::from_utf8(host).ok()?;
        Some(Target {
            host: host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase(),
            port: self.port,
            transport: self.transport(),
            secure: self.scheme == Scheme::Sips,
        })
    }

    /// Whether two URIs mean the same (section 19.1.4).
    pub fn same_as(&self, other: &Uri<'_>) -> bool {
        let same_user = match (self.user, other.user) {
            (None, None) => true,
            (Some(a), Some(b)) => a == b || unescape(a) == unescape(b),
            _ => false,
        };
        let same_host = self.host.eq_ignore_ascii_case(other.host)
            || matches!((self.address(), other.address()), (Some(a), Some(b)) if a == b);
        // A parameter that both have must be equal; these must also not be in one alone.
        let alone = ["user", "ttl", "method", "maddr", "transport"];
        let one_sided = |a: &Uri<'_>, b: &Uri<'_>| {
            a.params.iter().all(|param| {
                let name = std::str::from_utf8(param.name).unwrap_or("");
                match b.params.get(name) {
                    Some(value) => value.eq_ignore_ascii_case(param.value.unwrap_or_default()),
                    None => !alone.iter().any(|known| known.eq_ignore_ascii_case(name)),
                }
            })
        };
        self.scheme == other.scheme
            && same_user
            && same_host
            && self.port == other.port
            && one_sided(self, other)
            && one_sided(other, self)
            && self.headers.unwrap_or_default() == other.headers.unwrap_or_default()
    }
}

/// Where the parts of a URI are in the message that it stands in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    scheme: Scheme,
    user: Option<Span>,
    host: Span,
    port: Option<u16>,
    params: Span,
    headers: Option<Span>,
}

impl Places {
    /// Takes a URI apart, as [`Uri::parse`]. `text`: a part of the message.
    pub fn of(message: &Message, text: &[u8]) -> Option<Places> {
        let uri = Uri::parse(text)?;
        Some(Places {
            scheme: uri.scheme,
            user: uri.user.map(|user| message.place(user)),
            host: message.place(uri.host),
            port: uri.port,
            params: message.place(uri.params.0),
            headers: uri.headers.map(|headers| message.place(headers)),
        })
    }

    /// As it stands in the message that it was read from.
    pub fn of_message(self, message: &Message) -> Uri<'_> {
        Uri {
            scheme: self.scheme,
            user: self.user.map(|user| message.text(user)),
            host: message.text(self.host),
            port: self.port,
            params: Params(message.text(self.params)),
            headers: self.headers.map(|headers| message.text(headers)),
        }
    }
}

fn sip<'a>(scheme: Scheme, rest: &'a [u8]) -> Option<Uri<'a>> {
    // `;` and `?` may stand in the user part, `@` may not stand behind it: the last `@` before any header decides.
    let at = find(rest, |b| b == b'@');
    let (user, rest) = match rest.split_at(at) {
        (_, []) => (None, rest),
        (userinfo, [_, rest @ ..]) => {
            let end = find(userinfo, |b| b == b':');
            if end == 0 {
                return None;
            }
            (Some(&userinfo[..end]), rest)
        }
    };
    let host = match rest.first()? {
        b'[' => Some(&rest[..=memchr::memchr(b']', rest)?]).filter(|host| is_host(host))?,
        _ => &rest[..find(rest, |b| !HOST.has(b))],
    };
    if host.is_empty() {
        return None;
    }
    // What else is in the place of the host fails below.
    let rest = &rest[host.len()..];
    let (port, rest) = match rest.strip_prefix(b":") {
        None => (None, rest),
        Some(rest) => {
            let end = find(rest, |b| matches!(b, b';' | b'?'));
            let port = number(&rest[..end]).and_then(|port| u16::try_from(port).ok());
            (Some(port.filter(|port| *port != 0)?), &rest[end..])
        }
    };
    if !matches!(rest.first(), None | Some(b';' | b'?')) {
        return None;
    }
    let (params, headers) = rest.split_at(find(rest, |b| b == b'?'));
    Some(Uri {
        scheme,
        user,
        host,
        port,
        params: Params(params),
        headers: headers.get(1..),
    })
}

/// The place of the first byte that is wanted, or the end. The parts of a URI are too short for a search that is quick on long texts.
fn find(text: &[u8], wanted: impl Fn(u8) -> bool) -> usize {
    text.iter().position(|byte| wanted(*byte)).unwrap_or(text.len())
}

/// What schemes are made of.
static SCHEME: Class = Class::alphanumeric_and(b"+-.");
/// What host names and IPv4 addresses are made of.
static HOST: Class = Class::alphanumeric_and(b"-._");

/// A host name, an IPv4 address, or an IPv6 address in brackets.
pub fn is_host(host: &[u8]) -> bool {
    match host {
        [b'[', ..] => host_address(host).is_some(),
        _ => !host.is_empty() && HOST.has_all(host),
    }
}

/// A host as an address, with or without brackets around IPv6.
pub fn host_address(host: &[u8]) -> Option<IpAddr> {
    // Most names are told by their first letter.
    match host.first()? {
        b'0'..=b'9' => {
            if let Some(v4) = ipv4(host) {
                return Some(IpAddr::V4(v4));
            }
        }
        b'a'..=b'f' | b'A'..=b'F' | b':' | b'[' => {}
        _ => return None,
    }
    let text = std::str::from_utf8(host).ok()?;
    match text.strip_prefix('[') {
        Some(inner) => inner
            .strip_suffix(']')?
            .parse::<std::net::Ipv6Addr>()
            .ok()
            .map(IpAddr::V6),
        None => text.parse().ok(),
    }
}

/// Four decimal numbers without leading zeros, as the standard library reads them, but from bytes and in a fraction of the time: several
/// addresses are in every message.
fn ipv4(mut text: &[u8]) -> Option<Ipv4Addr> {
    let digit = |byte: &u8| Some(u32::from(byte.wrapping_sub(b'0'))).filter(|digit| *digit < 10);
    let mut address = 0;
    for place in 0..4 {
        if place > 0 {
            text = text.strip_prefix(b".")?;
        }
        let mut octet = digit(text.first()?)?;
        text = &text[1..];
        while octet > 0
            && let Some(more) = text.first().and_then(digit)
        {
            octet = octet * 10 + more;
            text = &text[1..];
            if octet > 255 {
                return None;
            }
        }
        address = address << 8 | octet;
    }
    text.is_empty().then(|| address.into())
}

/// Resolves `%HH`; what is no escape stays. Bytes that are no UTF-8 are replaced.
pub fn unescape(text: &[u8]) -> Cow<'_, str> {
    if memchr::memchr(b'%', text).is_none() {
        return match std::str::from_utf8(text) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => String::from_utf8_lossy(text),
        };
    }
    let mut plain = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let hex = |place: usize| text.get(place).and_then(|b| char::from(*b).to_digit(16));
        match (text[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                plain.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&plain).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<Uri<'_>> {
        Uri::parse(text.as_bytes())
    }

    #[test]
    fn the_parts_are_found() {
        let uri = parse("sip:al%69ce;day=tue:secret@Example.com:5070;lr;transport=TCP?subject=x").unwrap();
        assert_eq!(uri.user, Some(&b"al%69ce;day=tue"[..]));
        assert_eq!(uri.user_text().as_deref(), Some("alice;day=tue"));
        assert_eq!((uri.host, uri.port), (&b"Example.com"[..], Some(5070)));
        assert_eq!(uri.transport(), Some(Transport::Tcp));
        assert!(uri.params.has("lr"));
        assert_eq!(uri.headers, Some(&b"subject=x"[..]));
        let uri = parse("SIPS:[2001:db8::10]:5070").unwrap();
        assert_eq!(uri.address(), Some("2001:db8::10".parse().unwrap()));
        assert_eq!((uri.user, uri.port_or_default()), (None, 5070));
        assert_eq!(uri.transport(), Some(Transport::Tls));
        assert_eq!(parse("sips:a.example").unwrap().port_or_default(), 5061);
        assert_eq!(
            parse("tel:+1-201-555;phone-context=x").unwrap().user,
            Some(&b"+1-201-555"[..])
        );
        assert_eq!(parse("soap.beep://192.0.2.103:3002").unwrap().scheme, Scheme::Other);
    }

    #[test]
    fn addresses_are_read_as_the_standard_library_reads_them() {
        for text in [
            "0.0.0.0",
            "192.0.2.1",
            "255.255.255.255",
            "256.0.0.1",
            "1000.0.0.1",
            "1.2.3",
            "1.2.3.",
            "1.2.3.4.",
            "1.2.3.4.5",
            "1..2.3",
            ".1.2.3",
            "01.2.3.4",
            "00.2.3.4",
            "1.2.3.4x",
            "1.2.3.x",
            "12.example",
            "1",
            "2001:db8::1",
            "1::",
            "::ffff:1.2.3.4",
            "fe80::1",
            "face.example",
        ] {
            assert_eq!(host_address(text.as_bytes()), text.parse().ok(), "{text}");
        }
    }

    #[test]
    fn what_is_no_uri() {
        for text in [
            "",
            "sip",
            "sip:",
            "sip:@host",
            "sip:a@",
            "sip:a@host:0",
            "sip:a@host:65536",
            "sip:a@host:x",
            "sip:a@ho st",
            "sip:[::1",
            "sip:[::1]5060",
            "sip:[host]",
            "<sip:a@host>",
            "1sip:a@host",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    /// The examples of section 19.1.4.
    #[test]
    fn comparison_as_in_the_rfc() {
        let same = |a: &str, b: &str| parse(a).unwrap().same_as(&parse(b).unwrap());
        for (a, b) in [
            (
                "sip:%61lice@atlanta.com;transport=TCP",
                "sip:alice@AtLanTa.CoM;Transport=tcp",
            ),
            ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com;security=on"),
            ("sip:a@[2001:db8::1]", "sip:a@[2001:DB8:0::1]"),
        ] {
            assert!(same(a, b) && same(b, a), "{a} {b}");
        }
        for (a, b) in [
            (
                "SIP:ALICE@AtLanTa.CoM;Transport=udp",
                "sip:alice@AtLanTa.CoM;Transport=UDP",
            ),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting"),
            (
                "sip:carol@chicago.com;security=off",
                "sip:carol@chicago.com;security=on",
            ),
            ("sip:a@x", "sips:a@x"),
        ] {
            assert!(!same(a, b) && !same(b, a), "{a} {b}");
        }
    }
}

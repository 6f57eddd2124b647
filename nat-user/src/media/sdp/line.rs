//! What stands in single lines.

use std::{net::Ipv4Addr, ops::Range};

use super::Line;
use crate::sip::message::{Span, number};

/// The address of a c= line or `a=rtcp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    V4(Ipv4Addr),
    /// IPv6, which is passed over.
    V6,
    /// A host name.
    Name,
}

/// A c= line (RFC 8866 section 5.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    pub address: Address,
    /// Where the address type and the address stand: `IP4 192.0.2.1`, with TTL and number of addresses if they are there.
    pub place: Span,
}

/// The port of an m= line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    pub value: u16,
    /// How many ports (of RTP: pairs of ports) in a row: the number behind the slash, 1 if there is none.
    pub count: u32,
    /// The digits of the port.
    pub place: Span,
}

/// `a=rtcp` (RFC 3605 section 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rtcp {
    pub port: u16,
    /// The digits of the port.
    pub place: Span,
    /// The address and where its type and itself stand. `None`: that of c=.
    pub address: Option<(Address, Span)>,
}

/// What carries a stream, as far as a NAT is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proto {
    /// RTP over UDP in any profile (RFC 3551, 3711, 4585, 5124), with or without DTLS (RFC 5764).
    Rtp { dtls: bool },
    /// Other datagrams over UDP: T.38 (udptl), data channels (RFC 8841), whiteboards, games.
    Udp { dtls: bool },
    /// TCP (RFC 4145), MSRP (RFC 4975) and what else is carried by TCP.
    Tcp,
    /// Something that we do not know.
    Other,
}

impl Proto {
    /// By the text of an m= line.
    fn of(text: &[u8]) -> Proto {
        let is = |prefix: &[u8]| {
            text.get(..prefix.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
                && matches!(text.get(prefix.len()), None | Some(b'/'))
        };
        if is(b"RTP") {
            Proto::Rtp { dtls: false }
        } else if is(b"UDP/TLS/RTP") {
            Proto::Rtp { dtls: true }
        } else if is(b"TCP") {
            Proto::Tcp
        } else if is(b"UDP/TLS") || is(b"UDP/DTLS") || is(b"DTLS") {
            Proto::Udp { dtls: true }
        } else if is(b"UDP") || is(b"UDPTL") {
            Proto::Udp { dtls: false }
        } else {
            Proto::Other
        }
    }

    /// Whether it is RTP.
    pub fn rtp(self) -> bool {
        matches!(self, Proto::Rtp { .. })
    }

    /// Whether it says itself that it is protected by DTLS.
    pub fn dtls(self) -> bool {
        matches!(self, Proto::Rtp { dtls: true } | Proto::Udp { dtls: true })
    }
}

/// In which direction a stream flows (RFC 8866 section 6.7), seen from who describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    SendRecv,
    SendOnly,
    RecvOnly,
    Inactive,
}

impl Direction {
    /// By the name of the attribute.
    pub fn of(name: &[u8]) -> Option<Direction> {
        match name {
            b"sendrecv" => Some(Direction::SendRecv),
            b"sendonly" => Some(Direction::SendOnly),
            b"recvonly" => Some(Direction::RecvOnly),
            b"inactive" => Some(Direction::Inactive),
            _ => None,
        }
    }
}

impl Connection {
    /// Reads the value at `span`.
    pub fn parse(bytes: &[u8], span: Span) -> Option<Connection> {
        let (net, words) = split_word(bytes, span)?;
        if !bytes[net.range()].eq_ignore_ascii_case(b"IN") {
            return None;
        }
        let (address, place) = address(bytes, words)?;
        Some(Connection { address, place })
    }
}

impl Rtcp {
    /// Reads the value at `span`. `None`: it is none, and is left alone.
    pub fn parse(bytes: &[u8], span: Span) -> Option<Rtcp> {
        let (place, rest) = split_word(bytes, span)?;
        let port = port(&bytes[place.range()])?;
        let address = match Connection::parse(bytes, rest) {
            Some(connection) => Some((connection.address, connection.place)),
            None if trim(bytes, rest).is_empty() => None,
            None => return None,
        };
        Some(Rtcp { port, place, address })
    }
}

/// `IP4 192.0.2.1/127`: what address it is, and where all of it stands.
fn address(bytes: &[u8], span: Span) -> Option<(Address, Span)> {
    let (kind, rest) = split_word(bytes, span)?;
    let (word, _) = split_word(bytes, rest)?;
    let text = &bytes[word.range()];
    let host = &text[..memchr::memchr(b'/', text).unwrap_or(text.len())];
    let place = Span {
        start: kind.start,
        end: word.end,
    };
    if host.is_empty() {
        return None;
    }
    let kind = &bytes[kind.range()];
    if kind.eq_ignore_ascii_case(b"IP6") {
        return Some((Address::V6, place));
    }
    if !kind.eq_ignore_ascii_case(b"IP4") {
        return None;
    }
    let address = std::str::from_utf8(host).ok().and_then(|host| host.parse().ok());
    Some((address.map_or(Address::Name, Address::V4), place))
}

/// Media type, port, protocol and first format of an m= line (RFC 8866 section 5.14).
pub fn m_line(bytes: &[u8], span: Span) -> Option<(Span, Port, Proto, Span)> {
    let (kind, rest) = split_word(bytes, span)?;
    let (ports, rest) = split_word(bytes, rest)?;
    let (proto, rest) = split_word(bytes, rest)?;
    let format = split_word(bytes, rest).map_or(
        Span {
            start: proto.end,
            end: proto.end,
        },
        |(format, _)| format,
    );
    let text = &bytes[ports.range()];
    let slash = memchr::memchr(b'/', text);
    let digits = &text[..slash.unwrap_or(text.len())];
    let count = match slash {
        Some(slash) => u32::try_from(number(&text[slash + 1..])?)
            .ok()
            .filter(|count| *count > 0)?,
        None => 1,
    };
    let port = Port {
        value: port(digits)?,
        count,
        place: Span {
            start: ports.start,
            end: ports.start + digits.len() as u32,
        },
    };
    Some((kind, port, Proto::of(&bytes[proto.range()]), format))
}

/// A static payload type of RTP: encoding name and clock rate (RFC 3551 section 6).
pub fn static_type(format: &[u8]) -> Option<(&'static [u8], u32)> {
    Some(match format {
        b"0" => (b"PCMU", 8000),
        b"3" => (b"GSM", 8000),
        b"4" => (b"G723", 8000),
        b"5" => (b"DVI4", 8000),
        b"6" => (b"DVI4", 16_000),
        b"7" => (b"LPC", 8000),
        b"8" => (b"PCMA", 8000),
        b"9" => (b"G722", 8000),
        b"10" | b"11" => (b"L16", 44_100),
        b"12" => (b"QCELP", 8000),
        b"13" => (b"CN", 8000),
        b"14" => (b"MPA", 90_000),
        b"15" => (b"G728", 8000),
        b"16" => (b"DVI4", 11_025),
        b"17" => (b"DVI4", 22_050),
        b"18" => (b"G729", 8000),
        b"25" => (b"CelB", 90_000),
        b"26" => (b"JPEG", 90_000),
        b"28" => (b"nv", 90_000),
        b"31" => (b"H261", 90_000),
        b"32" => (b"MPV", 90_000),
        b"33" => (b"MP2T", 90_000),
        b"34" => (b"H263", 90_000),
        _ => return None,
    })
}

/// What an attribute of ICE is to someone who stands between (RFC 8839 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ice {
    /// An address of the sender.
    Candidate,
    /// Addresses of the receiver, as the sender knows them.
    Remote,
    /// Credentials and options, which name no address.
    Session,
}

/// Which of these an attribute is; `None`: it has nothing to do with ICE.
pub fn candidate_of(name: &[u8]) -> Option<Ice> {
    match name {
        b"candidate" => Some(Ice::Candidate),
        b"remote-candidates" => Some(Ice::Remote),
        b"ice-ufrag" | b"ice-pwd" | b"ice-options" | b"ice-lite" | b"ice-mismatch" | b"ice-pacing"
        | b"end-of-candidates" => Some(Ice::Session),
        _ => None,
    }
}

/// Name of an attribute and the place of its value, empty for a flag.
pub fn attribute(bytes: &[u8], span: Span) -> (&[u8], Span) {
    let text = &bytes[span.range()];
    match memchr::memchr(b':', text) {
        Some(colon) => (
            &text[..colon],
            Span {
                start: span.start + colon as u32 + 1,
                end: span.end,
            },
        ),
        None => (
            text.trim_ascii_end(),
            Span {
                start: span.end,
                end: span.end,
            },
        ),
    }
}

/// All lines at a place; what ends them is LF, with CR before it or not. The last one may have no end.
pub fn lines(bytes: &[u8], span: Span) -> Vec<Line> {
    let Range { mut start, end } = span.range();
    let mut lines = Vec::with_capacity(32);
    while start < end {
        let next = memchr::memchr(b'\n', &bytes[start..end]).map_or(end, |at| start + at + 1);
        let text = &bytes[start..next];
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let kind = match text {
            [kind, b'=', ..] => *kind,
            _ => 0,
        };
        let skip = if kind == 0 { 0 } else { 2 };
        lines.push(Line {
            kind,
            line: place(start, next),
            value: place(start + skip, start + text.len()),
        });
        start = next;
    }
    lines
}

/// The place without white space at its ends.
pub fn trim(bytes: &[u8], span: Span) -> Span {
    let text = &bytes[span.range()];
    let start = span.start as usize + (text.len() - text.trim_ascii_start().len());
    place(start, start + text.trim_ascii().len())
}

/// The first word at a place, and what is behind it. `None`: there is none.
fn split_word(bytes: &[u8], span: Span) -> Option<(Span, Span)> {
    let span = trim(bytes, span);
    let text = &bytes[span.range()];
    let length = text.iter().position(u8::is_ascii_whitespace).unwrap_or(text.len());
    let middle = span.start as usize + length;
    (length > 0).then(|| (place(span.start as usize, middle), place(middle, span.end as usize)))
}

fn port(digits: &[u8]) -> Option<u16> {
    number(digits).and_then(|port| u16::try_from(port).ok())
}

/// Places in a message, which is at most [`MAX_MESSAGE`](crate::sip::message::MAX_MESSAGE) long.
fn place(start: usize, end: usize) -> Span {
    Span {
        start: start as u32,
        end: end as u32,
    }
}

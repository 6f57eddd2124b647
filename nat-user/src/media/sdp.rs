//! Session descriptions as lines (RFC 8866): an index over the bytes, read without loss.
//!
//! A [`Sdp`] knows where the lines are that NAT traversal is concerned with: c=, the ports of m=, and a few attributes. What changes is a list of
//! splices ([`rewrite`](edit::rewrite)); all other bytes leave as they came, whatever their line ends are. All places are those of the SIP message
//! that the description was found in ([`body::find`]), so its splices go together with those of the headers.

pub mod body;
pub mod edit;
mod line;
#[cfg(test)]
mod tests;

use std::{net::Ipv4Addr, ops::Range};

pub use self::line::{Address, Connection, Direction, Port, Proto, Rtcp};
use self::line::{candidate_of, lines, m_line};
use crate::sip::message::Span;

/// Greater descriptions than this are not read. A browser's offer has about 5 KiB.
pub const MAX_SIZE: usize = 65_536;

/// One line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// The letter before `=`; 0 if the line is none of SDP, and passes as it is.
    pub kind: u8,
    /// From its first byte to behind its line end, which the last line may not have.
    pub line: Span,
    /// Behind `=`, without the line end.
    pub value: Span,
}

/// Where a stream is taken: by a party, or by us in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub address: Ipv4Addr,
    pub port: u16,
    /// The port of RTCP at the same address. `None`: there is none, it is that of RTP, or it is at another address.
    pub rtcp: Option<u16>,
}

/// Why a description cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unreadable {
    #[error("it is longer than {MAX_SIZE} bytes")]
    TooLong,
    #[error("it has too many m= lines")]
    TooManyMedia,
    #[error("it does not begin with v=0")]
    NotSdp,
    #[error("an m= line has no port or protocol")]
    Media,
    #[error("a c= line has no address")]
    Connection,
}

/// A description and the index of its lines.
#[derive(Clone, Debug)]
pub struct Sdp<'a> {
    /// All of the message.
    bytes: &'a [u8],
    lines: Vec<Line>,
    /// What is before the first m=.
    pub session: Section,
    pub media: Vec<Media>,
    /// The identification tags of each `a=group:BUNDLE` (RFC 9143).
    bundles: Vec<Span>,
}

/// What a session or media level says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// Its lines, by their places among all lines.
    pub lines: Range<usize>,
    /// c= (the first, if there are several).
    pub connection: Option<Connection>,
    pub direction: Option<Direction>,
    /// It has ICE attributes (RFC 8839).
    pub ice: bool,
    /// Its keys are exchanged by DTLS: it has a fingerprint (RFC 8122).
    pub dtls: bool,
}

/// An m= line and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Media {
    pub section: Section,
    /// `audio`, `video`, `image`, `message` …
    pub kind: Span,
    pub port: Port,
    pub proto: Proto,
    /// The first format.
    pub format: Span,
    /// `a=rtcp` (RFC 3605).
    pub rtcp: Option<Rtcp>,
    /// `a=rtcp-mux` or `a=rtcp-mux-only` (RFC 5761, RFC 8858).
    pub rtcp_mux: bool,
    /// `a=mid` (RFC 5888).
    pub mid: Option<Span>,
    /// `a=setup:active` (RFC 4145): it connects and is not connected to.
    pub active: bool,
}

impl<'a> Sdp<'a> {
    /// Reads what is at `span` of a message. `max_media`: m= lines that it may have.
    pub fn parse(bytes: &'a [u8], span: Span, max_media: usize) -> Result<Sdp<'a>, Unreadable> {
        if span.len() > MAX_SIZE {
            return Err(Unreadable::TooLong);
        }
        let lines = lines(bytes, span);
        let first = lines.first().ok_or(Unreadable::NotSdp)?;
        if first.kind != b'v' || bytes[first.value.range()].trim_ascii() != b"0" {
            return Err(Unreadable::NotSdp);
        }
        let starts: Vec<usize> = (0..lines.len()).filter(|at| lines[*at].kind == b'm').collect();
        if starts.len() > max_media {
            return Err(Unreadable::TooManyMedia);
        }
        let mut sdp = Sdp {
            bytes,
            session: Section::default(),
            media: Vec::with_capacity(starts.len()),
            bundles: Vec::new(),
            lines,
        };
        sdp.session.lines = 0..starts.first().copied().unwrap_or(sdp.lines.len());
        sdp.read_session()?;
        for (place, start) in starts.iter().enumerate() {
            let end = starts.get(place + 1).copied().unwrap_or(sdp.lines.len());
            let media = sdp.read_media(*start..end)?;
            sdp.media.push(media);
        }
        Ok(sdp)
    }

    /// The bytes at a place.
    pub fn text(&self, span: Span) -> &'a [u8] {
        &self.bytes[span.range()]
    }

    /// The lines of a section.
    pub fn lines(&self, section: &Section) -> &[Line] {
        &self.lines[section.lines.clone()]
    }

    /// The c= line that counts for a stream: its own, or that of the session (RFC 8866 section 5.7).
    pub fn connection(&self, media: &Media) -> Option<Connection> {
        media.section.connection.or(self.session.connection)
    }

    /// Where a stream wants its packets; those of RTCP as `a=rtcp` says, else at the next port (RFC 3605, RFC 3550 section 11). `None`: it has no
    /// IPv4 address.
    pub fn endpoint(&self, media: &Media) -> Option<Endpoint> {
        let Address::V4(address) = self.connection(media)?.address else {
            return None;
        };
        let port = media.port.value;
        let rtcp = match media.rtcp {
            _ if !media.proto.rtp() => None,
            None => port.checked_add(1),
            Some(rtcp) => {
                let elsewhere = rtcp.address.is_some_and(|(other, _)| other != Address::V4(address));
                Some(rtcp.port).filter(|rtcp| !elsewhere && *rtcp != port)
            }
        };
        Some(Endpoint { address, port, rtcp })
    }

    /// In which direction a stream flows, seen from who describes it (RFC 8866 section 6.7).
    pub fn direction(&self, media: &Media) -> Direction {
        media
            .section
            .direction
            .or(self.session.direction)
            .unwrap_or(Direction::SendRecv)
    }

    /// Whether a stream is on hold: not both directions flow (RFC 3264 section 8.4), or its address is 0.0.0.0 ([`Sdp::blank`]).
    pub fn held(&self, media: &Media) -> bool {
        self.direction(media) != Direction::SendRecv || self.blank(media)
    }

    /// Whether a stream's address is 0.0.0.0 and says that nothing shall come (RFC 2543). With ICE and port 9 it says that candidates follow
    /// (RFC 8840 section 4.1.1), which is no hold.
    pub fn blank(&self, media: &Media) -> bool {
        let trickles = self.ice(media) && media.port.value == 9;
        let endpoint = self.endpoint(media).filter(|_| !trickles);
        endpoint.is_some_and(|endpoint| endpoint.address.is_unspecified())
    }

    /// Whether a stream has ICE attributes of its own or of the session.
    pub fn ice(&self, media: &Media) -> bool {
        media.section.ice || self.session.ice
    }

    /// Whether a stream's keys are exchanged by DTLS (RFC 5763).
    pub fn dtls(&self, media: &Media) -> bool {
        media.section.dtls || self.session.dtls || media.proto.dtls()
    }

    /// The tagged m= line of the bundle that an m= line is in, which all of the bundle share the transport of (RFC 9143 section 7): the one that
    /// the group names first. `None`: it is in no bundle.
    pub fn tagged(&self, index: usize) -> Option<usize> {
        let mid = self.text(self.media.get(index)?.mid?);
        let group = self
            .bundles
            .iter()
            .find(|group| self.mids(**group).any(|other| other == mid))?;
        let first = self.mids(*group).next()?;
        self.media
            .iter()
            .position(|media| media.mid.is_some_and(|mid| self.text(mid) == first))
    }

    /// The name and clock rate in Hz of a stream's first format: from its rtpmap, or of the static types (RFC 3551 section 6). For formats that are
    /// not of RTP the format itself and 0.
    pub fn codec(&self, media: &Media) -> (&'a [u8], u32) {
        let format = self.text(media.format);
        if !media.proto.rtp() {
            return (format, 0);
        }
        let map = self
            .attributes(&media.section)
            .filter(|(name, _)| *name == b"rtpmap")
            .find_map(|(_, value)| {
                let mut words = self.text(value).split(u8::is_ascii_whitespace);
                (words.next()? == format).then(|| words.find(|word| !word.is_empty()))?
            });
        match map {
            Some(map) => {
                let mut parts = map.split(|byte| *byte == b'/');
                let name = parts.next().unwrap_or_default();
                let rate = parts.next().and_then(crate::sip::message::number).unwrap_or(0);
                (name, u32::try_from(rate).unwrap_or(0))
            }
            None => line::static_type(format).unwrap_or((format, 0)),
        }
    }

    /// The attributes of a section: name, and the place of the value (empty for a flag).
    fn attributes<'s>(&'s self, section: &Section) -> impl Iterator<Item = (&'a [u8], Span)> + use<'s, 'a> {
        self.lines[section.lines.clone()]
            .iter()
            .filter(|line| line.kind == b'a')
            .map(|line| line::attribute(self.bytes, line.value))
    }

    /// The end of a line as this description writes it.
    fn line_end(&self) -> &'static str {
        match self.lines.first().map(|line| self.text(line.line)) {
            Some(line) if line.ends_with(b"\n") && !line.ends_with(b"\r\n") => "\n",
            _ => "\r\n",
        }
    }

    fn mids(&self, group: Span) -> impl Iterator<Item = &'a [u8]> {
        self.text(group)
            .split(u8::is_ascii_whitespace)
            .filter(|mid| !mid.is_empty())
    }

    fn read_session(&mut self) -> Result<(), Unreadable> {
        self.session = self.read_section(self.session.lines.clone())?;
        let bundles = self.attributes(&self.session).filter_map(|(name, value)| {
            let mids = self.text(value).strip_prefix(b"BUNDLE ").filter(|_| name == b"group")?;
            let start = value.end - mids.len() as u32;
            Some(Span { start, end: value.end })
        });
        self.bundles = bundles.collect();
        Ok(())
    }

    fn read_section(&self, lines: Range<usize>) -> Result<Section, Unreadable> {
        let mut section = Section {
            lines,
            ..Section::default()
        };
        for line in &self.lines[section.lines.clone()] {
            if line.kind == b'c' && section.connection.is_none() {
                section.connection = Some(Connection::parse(self.bytes, line.value).ok_or(Unreadable::Connection)?);
            }
        }
        for (name, _) in self.attributes(&section) {
            if let Some(direction) = Direction::of(name) {
                section.direction = Some(direction);
            }
            section.ice |= candidate_of(name).is_some();
            section.dtls |= name == b"fingerprint";
        }
        Ok(section)
    }

    fn read_media(&self, lines: Range<usize>) -> Result<Media, Unreadable> {
        let (kind, port, proto, format) = m_line(self.bytes, self.lines[lines.start].value).ok_or(Unreadable::Media)?;
        let section = self.read_section(lines)?;
        let mut media = Media {
            kind,
            port,
            proto,
            format,
            rtcp: None,
            rtcp_mux: false,
            mid: None,
            active: false,
            section,
        };
        for (name, value) in self.attributes(&media.section) {
            match name {
                b"rtcp" => media.rtcp = Rtcp::parse(self.bytes, value),
                b"rtcp-mux" | b"rtcp-mux-only" => media.rtcp_mux = true,
                b"mid" => media.mid = Some(line::trim(self.bytes, value)),
                b"setup" => media.active = self.text(value).trim_ascii() == b"active",
                _ => {}
            }
        }
        Ok(media)
    }
}

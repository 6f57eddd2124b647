//! What changes in a description when media goes through us.

use std::net::Ipv4Addr;

use super::{Address, Endpoint, Line, Media, Sdp, line::Ice, line::candidate_of};
use crate::sip::message::{Edits, Span};

/// Where the receiver of a description shall send one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Instead of where its sender wrote.
    pub to: Endpoint,
    /// Where the receiver itself takes the stream, by what it has said before: for `a=remote-candidates` (RFC 8839 section 5.2).
    pub receiver: Option<Endpoint>,
}

/// What becomes of ICE in streams that go through us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IceMode {
    /// Our place is the only candidate; credentials stay, so that both ends check the way through us and notice nothing (RFC 8839).
    Replace,
    /// All of it goes: both ends do as if the other had none (RFC 8445 section 5.4).
    Remove,
}

/// Writes down what changes. `told` has an entry for each m= line; `None`: that stream is left alone. Streams with port 0 and those whose
/// address is no IPv4 address must be left alone by the caller; an address 0.0.0.0 (hold, RFC 2543) stays.
pub fn rewrite(sdp: &Sdp<'_>, told: &[Option<Told>], ice: IceMode, edits: &mut Edits) {
    let streams = || {
        let told = told.iter().copied().chain(std::iter::repeat(None));
        sdp.media.iter().zip(told)
    };
    let lives = |media: &Media| media.port.value != 0;
    if !streams().any(|(_, told)| told.is_some()) {
        return;
    }
    // The session's c= changes only if that is right for every stream that goes by it.
    let all_ours = streams().all(|(media, told)| told.is_some() || !lives(media));
    let shared = streams().find_map(|(media, told)| told.filter(|_| media.section.connection.is_none()));
    let shared = shared.filter(|shared| {
        streams()
            .filter(|(media, _)| media.section.connection.is_none() && lives(media))
            .all(|(_, told)| told.is_some_and(|told| told.to.address == shared.to.address))
    });
    let editor = Editor {
        sdp,
        ice: if all_ours { ice } else { IceMode::Replace },
    };
    if let (Some(shared), Some(connection)) = (shared, sdp.session.connection) {
        let blank = streams().all(|(media, _)| media.section.connection.is_some() || sdp.blank(media) || !lives(media));
        editor.replace_address(connection.address, connection.place, shared.to.address, blank, edits);
    }
    if editor.ice == IceMode::Remove && sdp.session.ice {
        editor.remove_ice(sdp.lines(&sdp.session), edits);
    }
    for (media, told) in streams() {
        if let Some(told) = told {
            editor.stream(media, &told, shared.is_some(), edits);
        }
    }
}

struct Editor<'a> {
    sdp: &'a Sdp<'a>,
    ice: IceMode,
}

impl Editor<'_> {
    /// One m= line and what belongs to it. `shared`: the session's c= has been changed already.
    fn stream(&self, media: &Media, told: &Told, shared: bool, edits: &mut Edits) {
        if media.port.value != told.to.port {
            edits.replace_fmt(media.port.place, format_args!("{}", told.to.port));
        }
        match media.section.connection {
            Some(connection) => {
                let (address, place) = (connection.address, connection.place);
                self.replace_address(address, place, told.to.address, self.sdp.blank(media), edits);
            }
            None if !shared && !self.sdp.blank(media) => self.add_connection(media, told.to.address, edits),
            None => {}
        }
        self.rtcp(media, told, edits);
        self.message_path(media, told, edits);
        if self.sdp.ice(media) {
            match self.ice {
                IceMode::Remove => self.remove_ice(self.sdp.lines(&media.section), edits),
                IceMode::Replace => self.replace_ice(media, told, edits),
            }
        }
    }

    /// `blank`: 0.0.0.0 stays, for it means hold.
    fn replace_address(&self, old: Address, place: Span, new: Ipv4Addr, blank: bool, edits: &mut Edits) {
        let stays = match old {
            Address::V4(old) => old == new || (blank && old.is_unspecified()),
            Address::V6 | Address::Name => false,
        };
        if !stays {
            edits.replace_fmt(place, format_args!("IP4 {new}"));
        }
    }

    /// A c= of its own, in its place: behind m= and i= (RFC 8866 section 9).
    fn add_connection(&self, media: &Media, address: Ipv4Addr, edits: &mut Edits) {
        let lines = self.sdp.lines(&media.section);
        let before = lines.iter().take_while(|line| matches!(line.kind, b'm' | b'i')).last();
        if let Some(line) = before {
            self.insert_behind(line, format_args!("c=IN IP4 {address}"), edits);
        }
    }

    fn rtcp(&self, media: &Media, told: &Told, edits: &mut Edits) {
        let Some(port) = told.to.rtcp else { return };
        match media.rtcp {
            Some(rtcp) => {
                // Whoever has RTCP at the port of RTP has it so with us.
                let port = if rtcp.port == media.port.value {
                    told.to.port
                } else {
                    port
                };
                if rtcp.port != port {
                    edits.replace_fmt(rtcp.place, format_args!("{port}"));
                }
                if let Some((address, place)) = rtcp.address {
                    self.replace_address(address, place, told.to.address, self.sdp.blank(media), edits);
                }
            }
            None if told.to.port.checked_add(1) != Some(port) => {
                self.insert_at_end(media, format_args!("a=rtcp:{port}"), edits);
            }
            None => {}
        }
    }

    /// The host and port of `a=path` (RFC 4975 section 8.1), which MSRP connects to rather than to those of m= and c=.
    fn message_path(&self, media: &Media, told: &Told, edits: &mut Edits) {
        let Some(endpoint) = self.sdp.endpoint(media) else {
            return;
        };
        let old = format!("//{}:{}/", endpoint.address, endpoint.port);
        for (_, value) in self.sdp.attributes(&media.section).filter(|(name, _)| *name == b"path") {
            if let Some(at) = memchr::memmem::find(self.sdp.text(value), old.as_bytes()) {
                let start = value.start + at as u32;
                let end = start + old.len() as u32;
                edits.replace_fmt(
                    Span { start, end },
                    format_args!("//{}:{}/", told.to.address, told.to.port),
                );
            }
        }
    }

    fn remove_ice(&self, lines: &[Line], edits: &mut Edits) {
        for line in lines {
            if self.ice_of(line).is_some() {
                edits.remove(line.line);
            }
        }
    }

    fn replace_ice(&self, media: &Media, told: &Told, edits: &mut Edits) {
        let candidates = self.candidates(media, told);
        let mut written = false;
        for line in self.sdp.lines(&media.section) {
            match self.ice_of(line) {
                Some(Ice::Candidate) if !written => {
                    written = true;
                    edits.replace(line.value, candidates.as_bytes());
                }
                Some(Ice::Candidate) => edits.remove(line.line),
                Some(Ice::Remote) => match remote_candidates(told) {
                    Some(text) => edits.replace(line.value, text.as_bytes()),
                    None => edits.remove(line.line),
                },
                Some(Ice::Session) | None => {}
            }
        }
        if !written {
            self.insert_at_end(media, format_args!("a={candidates}"), edits);
        }
    }

    /// Our place as a host candidate of the highest priority (RFC 8445 section 5.1.2.1), in one line for each component.
    fn candidates(&self, media: &Media, told: &Told) -> String {
        let candidate = |component: u32, port: u16| {
            let priority = (126 << 24) + (65_535 << 8) + (256 - component);
            format!(
                "candidate:1 {component} UDP {priority} {} {port} typ host",
                told.to.address
            )
        };
        let mut text = candidate(1, told.to.port);
        let has_rtcp = self
            .sdp
            .attributes(&media.section)
            .any(|(name, value)| name == b"candidate" && component(self.sdp.text(value)) == Some(2));
        if let Some(rtcp) = told.to.rtcp.filter(|_| has_rtcp) {
            text.push_str(self.sdp.line_end());
            text.push_str("a=");
            text.push_str(&candidate(2, rtcp));
        }
        text
    }

    fn ice_of(&self, line: &Line) -> Option<Ice> {
        if line.kind != b'a' {
            return None;
        }
        candidate_of(super::line::attribute(self.sdp.bytes, line.value).0)
    }

    fn insert_at_end(&self, media: &Media, text: std::fmt::Arguments<'_>, edits: &mut Edits) {
        if let Some(last) = self.sdp.lines(&media.section).last() {
            self.insert_behind(last, text, edits);
        }
    }

    /// A line of its own behind this one, also if this one, the last, has no line end.
    fn insert_behind(&self, line: &Line, text: std::fmt::Arguments<'_>, edits: &mut Edits) {
        let end = self.sdp.line_end();
        if self.sdp.text(line.line).ends_with(b"\n") {
            edits.insert_fmt(line.line.end, format_args!("{text}{end}"));
        } else {
            edits.insert_fmt(line.line.end, format_args!("{end}{text}"));
        }
    }
}

/// The component of a candidate: its second word.
fn component(candidate: &[u8]) -> Option<u64> {
    let mut words = candidate.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    crate::sip::message::number(words.nth(1)?)
}

fn remote_candidates(told: &Told) -> Option<String> {
    let receiver = told.receiver?;
    let mut text = format!("remote-candidates:1 {} {}", receiver.address, receiver.port);
    if let Some(rtcp) = receiver.rtcp {
        text.push_str(&format!(" 2 {} {rtcp}", receiver.address));
    }
    Some(text)
}

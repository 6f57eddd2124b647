//! Prompts as they go out, and how their answers are known.

use std::borrow::Cow;

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::{Kind, PathAction, PathId, Paths};
use crate::sip::{
    command::{Command, Destination},
    compose::{self, Fields},
    flow::{Flow, ListenerId, Transport},
};

/// Before the rest of a branch (RFC 3261 section 8.1.1.7).
const COOKIE: &str = "z9hG4bKp";
/// Hexadecimal digits of path, serial number and sequence.
const NAME: usize = 24;
/// Hexadecimal digits of the tag.
const TAG: usize = 16;
/// A longer contact is not used as request URI; no device needs it to know itself.
const LONGEST_URI: usize = 512;

/// Composes prompts: one template per listener, made once.
#[derive(Debug, Default)]
pub struct Prompter {
    templates: Vec<Option<compose::Template>>,
}

impl Prompter {
    /// Tells what a listener calls itself in Via: `host:port`, IPv6 in brackets. To be called again when its address moves.
    pub fn listen(&mut self, listener: ListenerId, transport: Transport, sent_by: &str) {
        let index = usize::from(listener.0);
        if self.templates.len() <= index {
            self.templates.resize_with(index + 1, || None);
        }
        self.templates[index] = Some(compose::options(transport, sent_by));
    }

    /// What to send for an action. `None`: nothing ([`PathAction::Down`], [`PathAction::Up`], or the listener is not known).
    pub fn command(&self, paths: &Paths, action: &PathAction) -> Option<Command> {
        match *action {
            PathAction::Prompt {
                flow, kind: Kind::Crlf, ..
            } => Some(Command::KeepAlive(flow)),
            PathAction::Prompt {
                path, flow, sequence, ..
            }
            | PathAction::Retransmit { path, flow, sequence } => Some(Command::Send {
                to: Destination::Flow(flow),
                bytes: self.options(paths, path, &flow, sequence)?,
                ticket: None,
            }),
            PathAction::Down(_) | PathAction::Up(_) => None,
        }
    }

    /// The OPTIONS with this number. The same bytes each time it is asked for.
    fn options(&self, paths: &Paths, path: PathId, flow: &Flow, sequence: u32) -> Option<Bytes> {
        let template = self.templates.get(usize::from(flow.listener.0))?.as_ref()?;
        let branch = paths.key.branch(path, sequence);
        let contact = paths.get(path).and_then(|path| path.uri).and_then(request_uri);
        let uri = contact.map_or_else(|| Cow::from(remote_uri(flow).into_bytes()), Cow::from);
        let text = template.fill(&Fields {
            uri: &uri,
            branch: &branch,
            // As unguessable and as unique, also over restarts.
            call_id: &branch[COOKIE.len()..],
            sequence,
        });
        Some(text.into())
    }
}

/// The contact as a request URI: without headers, which must not be in one (RFC 3261 section 19.1.1). `None`: it cannot be one.
fn request_uri(contact: &[u8]) -> Option<&[u8]> {
    let end = memchr::memchr(b'?', contact).unwrap_or(contact.len());
    let uri = &contact[..end];
    let sound = !uri.is_empty() && uri.len() <= LONGEST_URI && uri.contains(&b':');
    let printable = |byte: &u8| !matches!(byte, 0..=b' ' | b'<' | b'>' | b'"' | 0x7f);
    (sound && uri.iter().all(printable)).then_some(uri)
}

fn remote_uri(flow: &Flow) -> String {
    match flow.transport {
        Transport::Udp => format!("sip:{}", flow.remote),
        other => format!("sip:{};transport={other}", flow.remote),
    }
}

/// Signs branches, so that nobody who has not seen a prompt can answer it.
pub(super) struct Key(Hmac<Sha256>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    pub fn new(secret: [u8; 32]) -> Key {
        Key(Hmac::new_from_slice(&secret).expect("HMAC takes keys of any length"))
    }

    /// `z9hG4bKp`, path, serial number, sequence, tag.
    pub fn branch(&self, path: PathId, sequence: u32) -> [u8; COOKIE.len() + NAME + TAG] {
        let mut branch = [0; COOKIE.len() + NAME + TAG];
        let (cookie, rest) = branch.split_at_mut(COOKIE.len());
        cookie.copy_from_slice(COOKIE.as_bytes());
        let mut number = [0; NAME / 2];
        number[..4].copy_from_slice(&path.index.to_be_bytes());
        number[4..8].copy_from_slice(&path.serial.to_be_bytes());
        number[8..].copy_from_slice(&sequence.to_be_bytes());
        write_hex(&number, &mut rest[..NAME]);
        write_hex(&self.tag(&number), &mut rest[NAME..]);
        branch
    }

    /// The path and the sequence of a branch that this key has signed. In any case: some devices write what they copy in capitals.
    pub fn read(&self, branch: &[u8]) -> Option<(PathId, u32)> {
        let (cookie, rest) = branch.split_at_checked(COOKIE.len())?;
        if !cookie.eq_ignore_ascii_case(COOKIE.as_bytes()) || rest.len() != NAME + TAG {
            return None;
        }
        let number: [u8; NAME / 2] = read_hex(&rest[..NAME])?;
        let tag: [u8; TAG / 2] = read_hex(&rest[NAME..])?;
        let word = |at: usize| u32::from_be_bytes([number[at], number[at + 1], number[at + 2], number[at + 3]]);
        let path = PathId {
            index: word(0),
            serial: word(4),
        };
        bool::from(tag.ct_eq(&self.tag(&number))).then_some((path, word(8)))
    }

    fn tag(&self, number: &[u8]) -> [u8; TAG / 2] {
        let mut mac = self.0.clone();
        mac.update(number);
        let full = mac.finalize().into_bytes();
        std::array::from_fn(|index| full[index])
    }
}

fn write_hex(bytes: &[u8], out: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, pair) in bytes.iter().zip(out.as_chunks_mut::<2>().0) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

fn read_hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    for (byte, pair) in bytes.iter_mut().zip(text.as_chunks::<2>().0) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

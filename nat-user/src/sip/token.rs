//! Tokens that name a flow in a URI that others keep and give back to us (RFC 5626 section 5.2): nothing about them is stored here, so
//! they hold over restarts, and nobody else can make one.
//!
//! A token is the user part of one of our URIs: a letter for what it is good for, `~`, and base64url of what it says and of a
//! truncated HMAC-SHA256 over all of that (and, for a dialog's token, over the Call-ID).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::flow::{ConnectionId, Flow, ListenerId, Transport};

/// How much of the HMAC is kept: as much as RFC 5626 section 5.2 has in its example.
const MAC: usize = 10;
/// The longest content: kind, listener, address, port, device, connection.
const CONTENT: usize = 1 + 2 + 16 + 2 + TAG + 8;
/// How much of an HMAC names a device. Only devices of one address of record must be told apart.
const TAG: usize = 8;

/// A token that nobody here has made, or for another use or dialog than this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token is not one of this server")]
pub struct Forged;

/// What a token of [`Tokens::flow_token`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowToken {
    pub flow: Flow,
}

/// Stands for a device in a token: a keyed hash of what its registration says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceTag([u8; TAG]);

/// The side of a dialog that a token of [`Tokens::write_dialog`] leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side {
    /// Where its messages came from when the dialog was made.
    pub flow: Flow,
    /// Whose flow that was, if it was a registered device's: where that is registered later, requests find it when the flow is gone.
    pub device: Option<DeviceTag>,
}

impl From<Flow> for Side {
    fn from(flow: Flow) -> Side {
        Side { flow, device: None }
    }
}

/// Makes and reads tokens.
#[derive(Clone, Debug)]
pub struct Tokens {
    key: Hmac<Sha256>,
}

/// What a token is good for.
#[derive(Clone, Copy)]
enum Use {
    /// Path, and contacts of the outbound role: out of dialogs, by anybody.
    Flow,
    /// Record-Route: requests with this Call-ID.
    Dialog,
}

impl Use {
    fn prefix(self) -> &'static [u8; 2] {
        match self {
            Use::Flow => b"f~",
            Use::Dialog => b"d~",
        }
    }
}

impl Tokens {
    /// `secret` of any length; the same secret reads the same tokens.
    pub fn new(secret: &[u8]) -> Tokens {
        Tokens {
            // HMAC takes keys of any length.
            key: Hmac::new_from_slice(secret).unwrap_or_else(|_| Hmac::new(&Default::default())),
        }
    }

    /// A token for Path and for contacts that stand for a device (RFC 5626 section 5.2): requests that carry it go out on this flow. The same
    /// flow always has the same token.
    pub fn flow_token(&self, flow: &Flow) -> String {
        let mut out = Vec::with_capacity(64);
        self.write(Use::Flow, Some(&Side::from(*flow)), b"", &mut out);
        // Base64 is ASCII.
        String::from_utf8(out).unwrap_or_default()
    }

    /// Reads a token of [`Tokens::flow_token`].
    pub fn parse(&self, token: &[u8]) -> Result<FlowToken, Forged> {
        match self.read(Use::Flow, token, b"")? {
            Some(side) => Ok(FlowToken { flow: side.flow }),
            None => Err(Forged),
        }
    }

    /// Appends a token for Record-Route, which only requests with this Call-ID can use. `None`: no flow is named, the request goes by its next
    /// route or its request URI; the token proves that we took part in the dialog.
    pub fn write_dialog(&self, call_id: &[u8], side: Option<&Side>, out: &mut Vec<u8>) {
        self.write(Use::Dialog, side, call_id, out);
    }

    /// Reads a token of [`Tokens::write_dialog`].
    pub fn parse_dialog(&self, token: &[u8], call_id: &[u8]) -> Result<Option<Side>, Forged> {
        self.read(Use::Dialog, token, call_id)
    }

    /// The tag of a device: of its address of record and of what tells it from others there. The same over restarts.
    pub fn device(&self, aor: &str, name: &[u8]) -> DeviceTag {
        let mut mac = self.key.clone();
        mac.update(b"sipnat device ");
        // The length keeps the two apart.
        mac.update(&(aor.len() as u32).to_be_bytes());
        mac.update(aor.as_bytes());
        mac.update(name);
        let mac = mac.finalize().into_bytes();
        let mut tag = [0; TAG];
        tag.copy_from_slice(&mac[..TAG]);
        DeviceTag(tag)
    }

    fn write(&self, purpose: Use, side: Option<&Side>, bound_to: &[u8], out: &mut Vec<u8>) {
        let mut content = [0; CONTENT + MAC];
        let length = encode(side, &mut content);
        let mac = self.mac(purpose, &content[..length], bound_to).finalize().into_bytes();
        content[length..length + MAC].copy_from_slice(&mac[..MAC]);
        out.extend_from_slice(purpose.prefix());
        let start = out.len();
        let length = length + MAC;
        out.resize(start + length.div_ceil(3) * 4, 0);
        // The buffer is at least as long as what is written.
        let written = URL_SAFE_NO_PAD
            .encode_slice(&content[..length], &mut out[start..])
            .unwrap_or(0);
        out.truncate(start + written);
    }

    fn read(&self, purpose: Use, token: &[u8], bound_to: &[u8]) -> Result<Option<Side>, Forged> {
        let text = token.strip_prefix(purpose.prefix()).ok_or(Forged)?;
        let mut content = [0; (CONTENT + MAC).div_ceil(3) * 3];
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut content).map_err(|_| Forged)?;
        let (content, mac) = content[..length].split_at(length.checked_sub(MAC).ok_or(Forged)?);
        self.mac(purpose, content, bound_to)
            .verify_truncated_left(mac)
            .map_err(|_| Forged)?;
        decode(content).ok_or(Forged)
    }

    fn mac(&self, purpose: Use, content: &[u8], bound_to: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.key.clone();
        mac.update(b"sipnat token ");
        mac.update(purpose.prefix());
        // The length keeps content and Call-ID apart.
        mac.update(&[content.len() as u8]);
        mac.update(content);
        mac.update(bound_to);
        mac
    }
}

/// Whether the user part of a URI looks like a token of any kind.
pub fn looks_like_token(user: &[u8]) -> bool {
    user.starts_with(Use::Flow.prefix()) || is_dialog_token(user)
}

/// Whether the user part of a URI looks like a token of [`Tokens::write_dialog`].
pub fn is_dialog_token(user: &[u8]) -> bool {
    user.starts_with(Use::Dialog.prefix())
}

/// Kind (0: no flow; else transport, and 4 for IPv6, 8 for a device), listener, address, port, the device, and for streams the connection
/// without its leading zeros.
fn encode(side: Option<&Side>, out: &mut [u8]) -> usize {
    let Some(Side { flow, device }) = side else {
        return 1;
    };
    let mut length = 1;
    let mut put = |bytes: &[u8]| {
        out[length..length + bytes.len()].copy_from_slice(bytes);
        length += bytes.len();
    };
    put(&flow.listener.0.to_be_bytes());
    match flow.remote.ip() {
        IpAddr::V4(ip) => put(&ip.octets()),
        IpAddr::V6(ip) => put(&ip.octets()),
    }
    put(&flow.remote.port().to_be_bytes());
    if let Some(DeviceTag(tag)) = device {
        put(tag);
    }
    let connection = flow.connection.0;
    put(&connection.to_be_bytes()[connection.leading_zeros() as usize / 8..]);
    let transport = match flow.transport {
        Transport::Udp => 1,
        Transport::Tcp => 2,
        Transport::Tls => 3,
    };
    out[0] = transport | u8::from(flow.remote.is_ipv6()) << 2 | u8::from(device.is_some()) << 3;
    length
}

/// What [`encode`] has written. `None`: something else.
fn decode(content: &[u8]) -> Option<Option<Side>> {
    let (&kind, rest) = content.split_first()?;
    if kind == 0 {
        return rest.is_empty().then_some(None);
    }
    let transport = match kind & 3 {
        1 => Transport::Udp,
        2 => Transport::Tcp,
        3 => Transport::Tls,
        _ => return None,
    };
    let (listener, rest) = rest.split_first_chunk()?;
    let (ip, rest) = if kind & 4 == 0 {
        let (ip, rest) = rest.split_first_chunk::<4>()?;
        (IpAddr::V4(Ipv4Addr::from(*ip)), rest)
    } else {
        let (ip, rest) = rest.split_first_chunk::<16>()?;
        (IpAddr::V6(Ipv6Addr::from(*ip)), rest)
    };
    let (port, rest) = rest.split_first_chunk()?;
    let (device, rest) = match kind & 8 {
        0 => (None, rest),
        _ => {
            let (tag, rest) = rest.split_first_chunk()?;
            (Some(DeviceTag(*tag)), rest)
        }
    };
    let connection = rest.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let flow = Flow {
        listener: ListenerId(u16::from_be_bytes(*listener)),
        transport,
        remote: SocketAddr::new(ip, u16::from_be_bytes(*port)),
        connection: ConnectionId(connection),
    };
    Some(Some(Side { flow, device }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flows() -> Vec<Flow> {
        let stream = |transport, remote: &str, id| {
            Flow::stream(ListenerId(300), transport, remote.parse().unwrap(), ConnectionId(id))
        };
        vec![
            Flow::udp(ListenerId(0), "134.56.1.1:5070".parse().unwrap()),
            Flow::udp(ListenerId(7), "[2001:db8::1]:65535".parse().unwrap()),
            stream(Transport::Tcp, "192.0.2.1:40000", 1),
            stream(Transport::Tls, "[2001:db8::2]:40001", u64::MAX),
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        let tokens = Tokens::new(b"secret");
        for flow in flows() {
            let token = tokens.flow_token(&flow);
            assert_eq!(tokens.parse(token.as_bytes()), Ok(FlowToken { flow }), "{token}");
            assert_eq!(Tokens::new(b"secret").flow_token(&flow), token, "stable");
            assert!(looks_like_token(token.as_bytes()));
            for device in [None, Some(tokens.device("user@net.com", b"urn:uuid:1"))] {
                let (side, mut dialog) = (Side { flow, device }, Vec::new());
                tokens.write_dialog(b"call@x", Some(&side), &mut dialog);
                assert_eq!(tokens.parse_dialog(&dialog, b"call@x"), Ok(Some(side)));
                assert_eq!(tokens.parse_dialog(&dialog, b"call@y"), Err(Forged));
                assert_eq!(tokens.parse(&dialog), Err(Forged), "of the other kind");
            }
            assert_eq!(tokens.parse_dialog(token.as_bytes(), b""), Err(Forged));
        }
        let mut none = Vec::new();
        tokens.write_dialog(b"call@x", None, &mut none);
        assert_eq!(tokens.parse_dialog(&none, b"call@x"), Ok(None));
        assert!(tokens.flow_token(&flows()[0]).len() <= 30, "short");
    }

    #[test]
    fn devices_are_told_apart() {
        let tokens = Tokens::new(b"secret");
        let device = tokens.device("user@net.com", b"urn:uuid:1");
        assert_eq!(Tokens::new(b"secret").device("user@net.com", b"urn:uuid:1"), device);
        assert_ne!(Tokens::new(b"other").device("user@net.com", b"urn:uuid:1"), device);
        for (aor, name) in [
            ("user@net.com", "urn:uuid:2"),
            ("bob@net.com", "urn:uuid:1"),
            ("user@net.comurn", ":uuid:1"),
        ] {
            assert_ne!(tokens.device(aor, name.as_bytes()), device, "{aor} {name}");
        }
    }

    #[test]
    fn every_changed_letter_is_seen() {
        let tokens = Tokens::new(b"secret");
        for flow in flows() {
            let token = tokens.flow_token(&flow);
            assert_eq!(Tokens::new(b"other").parse(token.as_bytes()), Err(Forged));
            for place in 0..token.len() {
                let mut changed = token.clone().into_bytes();
                changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
                assert_eq!(tokens.parse(&changed), Err(Forged), "{place}");
                assert_eq!(tokens.parse(&token.as_bytes()[..place]), Err(Forged), "{place}");
            }
        }
        for text in [&b""[..], b"f~", b"f~AAAA", b"alice", b"f~\xff\xff", &[b'f'; 500]] {
            assert_eq!(tokens.parse(text), Err(Forged));
        }
        let long = [b"f~".as_slice(), &[b'A'; 400]].concat();
        assert_eq!(tokens.parse(&long), Err(Forged));
    }
}

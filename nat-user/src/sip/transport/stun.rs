//! STUN binding requests on the SIP port (RFC 5389, RFC 5626 section 4.4.2): read one, write the answer.
//!
//! Only what a server without credentials needs. An answer is never much bigger than its request: 12 bytes at most for IPv4, 24 for IPv6.

use std::net::{IpAddr, SocketAddr};

use bytes::{BufMut as _, Bytes, BytesMut};
use smallvec::SmallVec;

/// RFC 5389 section 6.
const MAGIC: u32 = 0x2112_a442;
const HEADER: usize = 20;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const BINDING_ERROR: u16 = 0x0111;
/// Attributes (RFC 5389 section 18.2). Below 0x8000 they must be understood.
const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const ERROR_CODE: u16 = 0x0009;
const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
const REALM: u16 = 0x0014;
const NONCE: u16 = 0x0015;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const FINGERPRINT: u16 = 0x8028;
const FINGERPRINT_XOR: u32 = 0x5354_554e;

/// What to do with a datagram that looks like STUN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stun {
    /// A binding request; send this back.
    Answer(Bytes),
    /// Malformed, an indication or a response: nothing to say.
    Ignore,
}

/// Whether a datagram is STUN and no SIP: two zero bits and the magic cookie (RFC 5389 section 6). A SIP message begins with a letter.
pub fn is_stun(datagram: &[u8]) -> bool {
    datagram.len() >= HEADER && datagram[0] & 0xc0 == 0 && datagram[4..8] == MAGIC.to_be_bytes()
}

/// Reads a datagram for which [`is_stun`] holds, and answers it if it asks for an answer.
pub fn answer(datagram: &[u8], from: SocketAddr) -> Stun {
    match read(datagram) {
        Some(request) if request.unknown.is_empty() => Stun::Answer(request.success(from)),
        Some(request) => Stun::Answer(request.unknown_attributes()),
        None => Stun::Ignore,
    }
}

/// A well-formed binding request.
struct Request<'a> {
    transaction: &'a [u8],
    fingerprint: bool,
    /// Attributes that must be understood and are not, each once.
    unknown: SmallVec<[u16; 4]>,
}

fn read(datagram: &[u8]) -> Option<Request<'_>> {
    let length = usize::from(u16_at(datagram, 2)?);
    if u16_at(datagram, 0)? != BINDING_REQUEST || length != datagram.len() - HEADER || length % 4 != 0 {
        return None;
    }
    let mut request = Request {
        transaction: &datagram[8..HEADER],
        fingerprint: false,
        unknown: SmallVec::new(),
    };
    let mut at = HEADER;
    let mut integrity = false;
    while at < datagram.len() {
        let (kind, length) = (u16_at(datagram, at)?, usize::from(u16_at(datagram, at + 2)?));
        let value = datagram.get(at + 4..at + 4 + length)?;
        let next = at + 4 + length.next_multiple_of(4);
        if next > datagram.len() {
            return None;
        }
        match kind {
            FINGERPRINT => {
                // It must be the last one and match (RFC 5389 section 15.5).
                let sum = crc32(&datagram[..at]) ^ FINGERPRINT_XOR;
                if next != datagram.len() || value != sum.to_be_bytes() {
                    return None;
                }
                request.fingerprint = true;
            }
            // What follows MESSAGE-INTEGRITY is ignored but for FINGERPRINT (section 15.4).
            _ if integrity => {}
            MESSAGE_INTEGRITY => integrity = true,
            // Credentials are nothing to us: anybody may ask for his address (RFC 5626 section 8).
            USERNAME | REALM | NONCE => {}
            0x8000.. => {}
            _ if request.unknown.contains(&kind) => {}
            _ => request.unknown.push(kind),
        }
        at = next;
    }
    Some(request)
}

impl Request<'_> {
    /// RFC 5389 sections 7.3.1 and 15.2.
    fn success(&self, from: SocketAddr) -> Bytes {
        let mut message = self.begin(BINDING_SUCCESS);
        let port = from.port() ^ (MAGIC >> 16) as u16;
        let cookie = MAGIC.to_be_bytes();
        let mask = || cookie.iter().chain(self.transaction);
        match from.ip() {
            IpAddr::V4(v4) => {
                put_header(&mut message, XOR_MAPPED_ADDRESS, 8);
                message.put_u16(1);
                message.put_u16(port);
                message.extend(v4.octets().iter().zip(mask()).map(|(byte, mask)| byte ^ mask));
            }
            IpAddr::V6(v6) => {
                put_header(&mut message, XOR_MAPPED_ADDRESS, 20);
                message.put_u16(2);
                message.put_u16(port);
                message.extend(v6.octets().iter().zip(mask()).map(|(byte, mask)| byte ^ mask));
            }
        }
        self.end(message)
    }

    /// 420 with the list, and no reason phrase (RFC 5389 sections 7.3.1, 15.6 and 15.9).
    fn unknown_attributes(&self) -> Bytes {
        let mut message = self.begin(BINDING_ERROR);
        put_header(&mut message, ERROR_CODE, 4);
        message.put_u32(0x0000_0414);
        put_header(&mut message, UNKNOWN_ATTRIBUTES, self.unknown.len() * 2);
        for kind in &self.unknown {
            message.put_u16(*kind);
        }
        if self.unknown.len() % 2 == 1 {
            message.put_u16(0);
        }
        self.end(message)
    }

    fn begin(&self, kind: u16) -> BytesMut {
        let mut message = BytesMut::with_capacity(64);
        message.put_u16(kind);
        message.put_u16(0);
        message.put_u32(MAGIC);
        message.put_slice(self.transaction);
        message
    }

    fn end(&self, mut message: BytesMut) -> Bytes {
        let trailer = if self.fingerprint { 8 } else { 0 };
        // Attributes of a datagram are shorter than a datagram.
        let length = (message.len() - HEADER + trailer) as u16;
        message[2..4].copy_from_slice(&length.to_be_bytes());
        if self.fingerprint {
            let sum = crc32(&message) ^ FINGERPRINT_XOR;
            put_header(&mut message, FINGERPRINT, 4);
            message.put_u32(sum);
        }
        message.freeze()
    }
}

fn put_header(message: &mut BytesMut, kind: u16, length: usize) {
    message.put_u16(kind);
    message.put_u16(length as u16);
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// CRC-32 of ITU V.42, as FINGERPRINT wants it.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum: u32, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRANSACTION: [u8; 12] = [0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae];

    fn request(attributes: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 1];
        bytes.extend((attributes.len() as u16).to_be_bytes());
        bytes.extend(MAGIC.to_be_bytes());
        bytes.extend(TRANSACTION);
        bytes.extend(attributes);
        bytes
    }

    fn with_fingerprint(mut bytes: Vec<u8>) -> Vec<u8> {
        let length = u16::from_be_bytes([bytes[2], bytes[3]]) + 8;
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        let sum = crc32(&bytes) ^ FINGERPRINT_XOR;
        bytes.extend([0x80, 0x28, 0, 4]);
        bytes.extend(sum.to_be_bytes());
        bytes
    }

    fn answered(bytes: &[u8], from: &str) -> Vec<u8> {
        assert!(is_stun(bytes));
        match answer(bytes, from.parse().expect("address")) {
            Stun::Answer(answer) => answer.to_vec(),
            Stun::Ignore => panic!("ignored"),
        }
    }

    #[test]
    fn a_plain_request_is_told_its_address() {
        // The address and transaction of RFC 5769 section 2.2.
        let answer = answered(&request(&[]), "192.0.2.1:32853");
        let mut expected = vec![1, 1, 0, 12, 0x21, 0x12, 0xa4, 0x42];
        expected.extend(TRANSACTION);
        expected.extend([0, 0x20, 0, 8, 0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
        assert_eq!(answer, expected);
    }

    #[test]
    fn over_ipv6_the_transaction_is_part_of_the_mask() {
        // RFC 5769 section 2.3.
        let answer = answered(&request(&[]), "[2001:db8:1234:5678:11:2233:4455:6677]:32853");
        let expected = [
            0, 2, 0xa1, 0x47, 0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1, 0x79, 0xbc, 0x25, 0xf4, 0xb5, 0xbe, 0xd2, 0xb9,
            0xd9,
        ];
        assert_eq!(answer[24..], expected);
    }

    #[test]
    fn a_fingerprint_is_checked_and_answered_with_one() {
        let good = with_fingerprint(request(&[0x80, 0x22, 0, 3, b'x', b'y', b'z', 0]));
        let answer = answered(&good, "192.0.2.1:5060");
        let plain = answered(&request(&[]), "192.0.2.1:5060");
        assert_eq!(answer, with_fingerprint(plain));
        for bit in 0..32 {
            let mut bad = good.clone();
            let last = bad.len() - 1 - bit / 8;
            bad[last] ^= 1 << (bit % 8);
            assert_eq!(
                self::answer(&bad, "192.0.2.1:5060".parse().expect("address")),
                Stun::Ignore
            );
        }
    }

    #[test]
    fn crc_of_the_check_string() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn what_must_be_understood_and_is_not_is_named() {
        // CHANGE-REQUEST twice, RESPONSE-PORT, and one that need not be understood.
        let attributes = [
            0, 3, 0, 4, 0, 0, 0, 6, 0, 3, 0, 4, 0, 0, 0, 6, 0, 0x27, 0, 2, 1, 2, 0, 0, 0x80, 0x23, 0, 0,
        ];
        let answer = answered(&request(&attributes), "192.0.2.1:5060");
        let mut expected = vec![1, 0x11, 0, 16, 0x21, 0x12, 0xa4, 0x42];
        expected.extend(TRANSACTION);
        expected.extend([0, 9, 0, 4, 0, 0, 4, 20, 0, 10, 0, 4, 0, 3, 0, 0x27]);
        assert_eq!(answer, expected);
    }

    #[test]
    fn indications_and_responses_get_no_answer() {
        for kind in [0x0011, 0x0101, 0x0111, 0x0003_u16] {
            let mut bytes = request(&[]);
            bytes[..2].copy_from_slice(&kind.to_be_bytes());
            assert_eq!(answer(&bytes, "192.0.2.1:5060".parse().expect("address")), Stun::Ignore);
        }
    }

    #[test]
    fn sip_and_classic_stun_are_not_ours() {
        assert!(!is_stun(b"OPTIONS sip:a@b SIP/2.0\r\n\r\n"));
        let mut classic = request(&[]);
        classic[4] = 0;
        assert!(!is_stun(&classic));
    }

    proptest! {
        #[test]
        fn answers_stay_small_whatever_comes(tail in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..4) {
            let mut bytes = request(&tail);
            bytes.truncate(bytes.len() - cut.min(tail.len()));
            if let Stun::Answer(answer) = answer(&bytes, "[2001:db8::1]:5060".parse().expect("address")) {
                prop_assert!(answer.len() <= bytes.len() + 24);
            }
        }
    }
}

//! The ICMP errors that the router itself says about a packet it cannot forward (RFC 792, RFC 1812 §4.3.2, RFC 1191 §4).
//!
//! [`about`] takes the frame as it came in and gives the whole IP packet to send back, or says why RFC 1812 §4.3.2.7 wants
//! silence. Nothing here is translated: the sender of the frame gets its own packet quoted, byte for byte.

use crate::checksum::full;
use crate::flow::IP_ICMP;
use crate::icmp::{TIME_EXCEEDED, UNREACHABLE};
use crate::packet::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_VLAN, VLAN_LEN};
use crate::parse::OFFSET;

/// The largest error in bytes, IP header included (RFC 1812 §4.3.2.3).
pub const LARGEST: usize = 576;
/// IP header and ICMP header of an error.
pub const HEADERS: usize = 28;
/// The most that is quoted of a packet, its IP header included.
pub const QUOTE: usize = LARGEST - HEADERS;

/// Time to live of an error (RFC 1812 §4.3.2.2: not that of the packet it is about).
const TTL: u8 = 64;
/// What an error takes over of the second byte: the DS field (RFC 5508 §7.7, which supersedes the precedence of RFC 1812
/// §4.3.2.5), so that it comes back in the class of the packet it is about; not the two bits of ECN (RFC 3168 §5).
const DS_FIELD: u8 = 0xfc;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IcmpError {
    /// 11/0: the TTL ran out here.
    TimeExceeded,
    /// 3/0: no way to the network.
    NetUnreachable,
    /// 3/1: no way to the host; also the answer to a spent quota or pool (RFC 6888 REQ-11).
    HostUnreachable,
    /// 3/4 with the MTU of the way out in bytes (RFC 1191 §4).
    FragmentationNeeded(u16),
    /// 3/13: refused by policy (RFC 5508 REQ-8).
    Prohibited,
}

impl IcmpError {
    /// ICMP type and code.
    pub fn type_and_code(self) -> (u8, u8) {
        match self {
            IcmpError::TimeExceeded => (TIME_EXCEEDED, 0),
            IcmpError::NetUnreachable => (UNREACHABLE, 0),
            IcmpError::HostUnreachable => (UNREACHABLE, 1),
            IcmpError::FragmentationNeeded(_) => (UNREACHABLE, 4),
            IcmpError::Prohibited => (UNREACHABLE, 13),
        }
    }
}

/// Why no error may be sent (RFC 1812 §4.3.2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Silence {
    /// No IPv4 packet with a whole header.
    NotIpv4,
    /// It is itself an ICMP error, or an ICMP message that might be one.
    IcmpError,
    /// A fragment other than the first.
    LaterFragment,
    /// Sent to a broadcast or multicast address, of IP or of the link.
    ManyReceivers,
    /// The source is no address that one host can have (RFC 1812 §5.3.7).
    BadSource,
}

/// An ICMP error, ready to be sent: an IP packet with all its checksums, identification 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    bytes: [u8; LARGEST],
    len: usize,
}

impl Message {
    /// The IP packet.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }

    /// Where it goes, host order.
    pub fn destination(&self) -> u32 {
        long(&self.bytes, 16)
    }

    /// ICMP type and code.
    pub fn type_and_code(&self) -> (u8, u8) {
        (self.bytes[20], self.bytes[21])
    }
}

/// Says `error` about `frame` (from its Ethernet header on, perhaps cut off at its end), in the name of `source` (host order).
pub fn about(frame: &[u8], error: IcmpError, source: u32) -> Result<Message, Silence> {
    if frame.first().is_none_or(|first| first & 1 != 0) {
        return Err(Silence::ManyReceivers);
    }
    let packet = ip_packet(frame).ok_or(Silence::NotIpv4)?;
    may_answer(packet)?;
    let quote = &packet[..packet.len().min(QUOTE)];
    let len = HEADERS + quote.len();
    let mut bytes = [0; LARGEST];
    bytes[0] = 0x45;
    bytes[1] = packet[1] & DS_FIELD;
    bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    bytes[8] = TTL;
    bytes[9] = IP_ICMP;
    bytes[12..16].copy_from_slice(&source.to_be_bytes());
    bytes[16..20].copy_from_slice(&packet[12..16]);
    let check = full(&bytes[..20]);
    bytes[10..12].copy_from_slice(&check.to_be_bytes());
    (bytes[20], bytes[21]) = error.type_and_code();
    if let IcmpError::FragmentationNeeded(mtu) = error {
        bytes[26..28].copy_from_slice(&mtu.to_be_bytes());
    }
    bytes[HEADERS..len].copy_from_slice(quote);
    let check = full(&bytes[20..len]);
    bytes[22..24].copy_from_slice(&check.to_be_bytes());
    Ok(Message { bytes, len })
}

/// The IP packet in a frame, without padding of the link; as much of it as there is, its header at least.
pub fn ip_packet(frame: &[u8]) -> Option<&[u8]> {
    let tagged = short(frame, 12)? == ETHERTYPE_VLAN;
    let start = ETHERNET_LEN + if tagged { VLAN_LEN } else { 0 };
    let packet = frame.get(start..)?;
    let header = usize::from(packet.first()? & 0xf) * 4;
    let total = usize::from(short(packet, 2)?);
    if short(frame, start - 2)? != ETHERTYPE_IPV4
        || packet[0] >> 4 != 4
        || header < 20
        || total < header
        || packet.len() < header
    {
        return None;
    }
    Some(&packet[..packet.len().min(total)])
}

/// RFC 1812 §4.3.2.7, for what [`ip_packet`] gave.
fn may_answer(packet: &[u8]) -> Result<(), Silence> {
    if short(packet, 6).unwrap_or(0) & OFFSET != 0 {
        return Err(Silence::LaterFragment);
    }
    let (source, destination) = (long(packet, 12), long(packet, 16));
    if !one_host(source) {
        return Err(Silence::BadSource);
    }
    if destination >> 28 == 0xe || destination == u32::MAX || destination >> 24 == 0 {
        return Err(Silence::ManyReceivers);
    }
    let header = usize::from(packet[0] & 0xf) * 4;
    if packet[9] == IP_ICMP && !packet.get(header).is_some_and(|kind| is_query(*kind)) {
        return Err(Silence::IcmpError);
    }
    Ok(())
}

/// Whether an address can be one host's: not 0/8, 127/8, multicast or class E with the limited broadcast.
fn one_host(addr: u32) -> bool {
    let first = addr >> 24;
    first != 0 && first != 127 && first < 224
}

/// Types that are surely no errors; about all others silence is safe.
fn is_query(kind: u8) -> bool {
    matches!(kind, 0 | 8 | 9 | 10 | 13..=18 | 42 | 43)
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// Four bytes that are known to be there.
fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::{fold, sum};
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    const ROUTER: u32 = 0xc0a8_0101;

    /// UDP from 192.168.1.2 to 203.0.113.9, `payload` bytes after the IP header, in an Ethernet frame.
    fn frame(options: usize, payload: usize) -> Vec<u8> {
        let header = 20 + options;
        let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        f.push(0x40 | (header / 4) as u8);
        f.push(0xb9);
        f.extend(((header + payload) as u16).to_be_bytes());
        f.extend([0x12, 0x34, 0, 0, 1, 17, 0, 0, 192, 168, 1, 2, 203, 0, 113, 9]);
        f.extend(vec![1; options]);
        f.extend((0..payload).map(|i| i as u8));
        f
    }

    fn about_default(frame: &[u8]) -> Result<Message, Silence> {
        about(frame, IcmpError::TimeExceeded, ROUTER)
    }

    #[test]
    fn a_whole_error_byte_by_byte() {
        let message = about(&frame(0, 8), IcmpError::FragmentationNeeded(1280), ROUTER).unwrap();
        #[rustfmt::skip]
        assert_eq!(message.bytes(), [
            0x45, 0xb8, 0, 56, 0, 0, 0, 0, 64, 1, 0xf6, 0xb9, 192, 168, 1, 1, 192, 168, 1, 2,
            3, 4, 0x95, 0x1c, 0, 0, 0x05, 0,
            0x45, 0xb9, 0, 28, 0x12, 0x34, 0, 0, 1, 17, 0, 0, 192, 168, 1, 2, 203, 0, 113, 9,
            0, 1, 2, 3, 4, 5, 6, 7,
        ]);
        assert_eq!(message.destination(), 0xc0a8_0102);
        assert_eq!(message.type_and_code(), (3, 4));
    }

    #[test]
    fn types_and_codes_of_the_rfcs() {
        for (error, expected) in [
            (IcmpError::TimeExceeded, (11, 0)),
            (IcmpError::NetUnreachable, (3, 0)),
            (IcmpError::HostUnreachable, (3, 1)),
            (IcmpError::FragmentationNeeded(576), (3, 4)),
            (IcmpError::Prohibited, (3, 13)),
        ] {
            assert_eq!(about(&frame(0, 20), error, ROUTER).unwrap().type_and_code(), expected);
        }
    }

    #[test]
    fn silence_where_rfc_1812_wants_it() {
        let with = |at: usize, bytes: &[u8]| {
            let mut f = frame(0, 40);
            f[at..at + bytes.len()].copy_from_slice(bytes);
            about_default(&f).map(|_| ())
        };
        assert_eq!(with(0, &[2]), Ok(()));
        // The link's broadcast and multicast.
        assert_eq!(with(0, &[0xff]), Err(Silence::ManyReceivers));
        assert_eq!(with(0, &[0x01, 0, 0x5e]), Err(Silence::ManyReceivers));
        // Source: 0/8, 127/8, multicast, class E, limited broadcast.
        for first in [0, 127, 224, 239, 240, 255] {
            assert_eq!(with(26, &[first]), Err(Silence::BadSource), "source {first}");
        }
        for first in [1, 10, 126, 128, 223] {
            assert_eq!(with(26, &[first]), Ok(()), "source {first}");
        }
        assert_eq!(with(30, &[224]), Err(Silence::ManyReceivers));
        assert_eq!(with(30, &[255, 255, 255, 255]), Err(Silence::ManyReceivers));
        // Fragments: the first one may be answered, no other.
        assert_eq!(with(20, &[0x20, 0]), Ok(()));
        assert_eq!(with(20, &[0x20, 1]), Err(Silence::LaterFragment));
        assert_eq!(with(20, &[0x00, 1]), Err(Silence::LaterFragment));
        // ICMP: queries may be answered, errors and the unknown not.
        for kind in 0..=255u8 {
            let mut f = frame(0, 40);
            f[23] = 1;
            f[34] = kind;
            let expected = matches!(kind, 0 | 8 | 9 | 10 | 13..=18 | 42 | 43);
            assert_eq!(about_default(&f).is_ok(), expected, "ICMP type {kind}");
        }
        // Other EtherTypes, other versions.
        assert_eq!(with(12, &[0x86, 0xdd]), Err(Silence::NotIpv4));
        assert_eq!(with(14, &[0x65]), Err(Silence::NotIpv4));
        assert_eq!(with(14, &[0x44]), Err(Silence::NotIpv4));
    }

    #[test]
    fn a_tagged_frame_is_looked_into() {
        let mut f = frame(0, 40);
        let plain = about_default(&f).unwrap();
        f.splice(12..12, [0x81, 0, 0, 100]);
        assert_eq!(about_default(&f).unwrap(), plain);
    }

    proptest! {
        #[test]
        fn an_error_is_right_whatever_it_is_about(
            words in 0usize..=10, payload in 0usize..1600, padding in 0usize..20, cut in 0usize..1700, mtu: u16
        ) {
            let mut f = frame(words * 4, payload);
            let packet = f[14..].to_vec();
            f.extend(vec![0xee; padding]);
            f.truncate(cut.max(14 + 20 + words * 4));
            let there = packet.len().min(f.len() - 14);
            let message = about(&f, IcmpError::FragmentationNeeded(mtu), ROUTER).unwrap();
            let bytes = message.bytes();
            // As much as there is, and not more than 576 bytes.
            prop_assert_eq!(bytes.len(), 28 + there.min(548));
            prop_assert_eq!(usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), bytes.len());
            prop_assert_eq!(&bytes[28..], &packet[..there.min(548)]);
            prop_assert_eq!(fold(sum(&bytes[..20])), 0xffff);
            prop_assert_eq!(fold(sum(&bytes[20..])), 0xffff);
            prop_assert_eq!(u16::from_be_bytes([bytes[26], bytes[27]]), mtu);
        }

        #[test]
        fn no_bytes_make_it_panic(f in proptest::collection::vec(any::<u8>(), 0..120)) {
            if let Ok(message) = about_default(&f) {
                prop_assert!(message.bytes().len() >= 48);
            }
        }

        #[test]
        fn no_mutation_makes_it_panic(at in 0usize..74, value: u8, cut in 0usize..74) {
            let mut f = frame(0, 40);
            f[at] = value;
            f.truncate(cut);
            if let Ok(message) = about_default(&f) {
                prop_assert!(message.bytes().len() >= 48);
            }
        }
    }
}

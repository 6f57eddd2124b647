//! A second opinion on packets: reads and sums them on its own, without the data path's code, and says whether what the
//! data path did may be.

use super::MemTables;
use crate::counters::Reason;
use crate::flow::Side;
use crate::maps::{ROLE_INSIDE, ROLE_OUTSIDE};
use crate::tables::Tables;
use crate::verdict::Verdict;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::string::String;
use std::vec::Vec;

/// What an IPv4 frame says. Numbers in host order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Destination MAC address.
    pub mac: [u8; 6],
    /// Source MAC address.
    pub from_mac: [u8; 6],
    /// VLAN id.
    pub vlan: Option<u16>,
    /// Where the IP packet is in the frame.
    pub ip: Range<usize>,
    /// Length of the IP header.
    pub header_len: usize,
    /// Identification.
    pub id: u16,
    /// Flags and fragment offset.
    pub fragment: u16,
    /// Time to live.
    pub ttl: u8,
    /// IP protocol.
    pub proto: u8,
    /// Source address.
    pub source: u32,
    /// Destination address.
    pub destination: u32,
    /// Source and destination port; the identifier twice for ICMP; 0 where there is none.
    pub ports: (u16, u16),
    /// Whether the IP checksum is right.
    pub ip_sum: bool,
    /// Whether the transport checksum is right, if there is one in this packet: not in pieces, other protocols, and
    /// UDP without.
    pub sum: Option<bool>,
    /// Whether it is an ICMP error, whose `data` is then the whole message.
    pub error: bool,
    /// What follows the transport header, or the IP header where there is none; everything that no NAT changes.
    pub data: Vec<u8>,
}

impl View {
    /// Of a frame; `None` if it is not a whole IPv4 packet.
    pub fn of(frame: &[u8]) -> Option<Self> {
        let (vlan, l3) = match frame.get(12..14)? {
            [8, 0] => (None, 14),
            [0x81, 0] if frame.get(16..18)? == [8, 0] => (Some(be(frame, 14)? & 0xfff), 18),
            _ => return None,
        };
        let packet = frame.get(l3..)?;
        let (first, total_len) = (*packet.first()?, be(packet, 2)? as usize);
        let header_len = (first & 15) as usize * 4;
        if first >> 4 != 4 || header_len < 20 || total_len < header_len {
            return None;
        }
        let packet = packet.get(..total_len)?;
        let (header, segment) = packet.split_at(header_len);
        let (proto, fragment) = (header[9], be(header, 6)?);
        let whole = fragment & 0x3fff == 0;
        let start = if fragment & 0x1fff == 0 { proto } else { 255 };
        let (ports, skip) = match start {
            6 if segment.len() >= 20 => ((be(segment, 0)?, be(segment, 2)?), 20),
            17 if segment.len() >= 8 => ((be(segment, 0)?, be(segment, 2)?), 8),
            1 if segment.len() >= 8 && matches!(segment[0], 0 | 8 | 13 | 14) => ((be(segment, 4)?, be(segment, 4)?), 8),
            _ => ((0, 0), 0),
        };
        let sum = match (whole, proto) {
            (true, 6) if segment.len() >= 20 => Some(pseudo(header, segment) == 0xffff),
            (true, 17) if segment.len() >= 8 && be(segment, 6)? != 0 => Some(pseudo(header, segment) == 0xffff),
            (true, 1) if segment.len() >= 8 => Some(ones(&[segment]) == 0xffff),
            _ => None,
        };
        Some(Self {
            mac: frame[0..6].try_into().ok()?,
            from_mac: frame[6..12].try_into().ok()?,
            vlan,
            ip: l3..l3 + total_len,
            header_len,
            id: be(header, 4)?,
            fragment,
            ttl: header[8],
            proto,
            source: long(header, 12)?,
            destination: long(header, 16)?,
            ports,
            ip_sum: ones(&[header]) == 0xffff,
            sum,
            error: start == 1 && matches!(segment.first(), Some(3 | 4 | 11 | 12)),
            data: segment[skip..].to_vec(),
        })
    }

    /// `source:port > destination:port`, to compare and to read.
    pub fn flow(&self) -> String {
        let (a, b) = (Ipv4Addr::from(self.source), Ipv4Addr::from(self.destination));
        std::format!("{a}:{} > {b}:{}", self.ports.0, self.ports.1)
    }

    /// The packet that this ICMP error quotes, as a frame.
    pub fn quote(&self) -> Vec<u8> {
        let mut frame = Vec::from([0; 12]);
        frame.extend([8, 0]);
        frame.extend(&self.data[8..]);
        frame
    }
}

/// What holds for any packet whatsoever; the error says what does not.
///
/// What is not forwarded is untouched. What is forwarded is a whole packet, one hop older, with the same payload; its
/// checksums are right if they were; and to the outside it has an external source, in the packet that it quotes too.
pub fn check(t: &MemTables, side: Side, before: &[u8], verdict: &Verdict, after: &[u8]) -> Result<(), String> {
    let Verdict::Forward(_, port) = verdict else {
        return ensure(before == after, "a packet that is not forwarded was changed");
    };
    let old = View::of(before).ok_or("forwarded something that was no packet")?;
    let new = View::of(after).ok_or("made something that is no packet")?;
    let out = t.interface(*port).ok_or("forwarded to no interface")?;
    ensure(new.from_mac == out.mac, "sent from a foreign MAC address")?;
    ensure(new.vlan.unwrap_or(0) == out.vlan, "sent with a wrong VLAN tag")?;
    ensure(
        new.ip.len() == old.ip.len() && new.proto == old.proto,
        "changed length or protocol",
    )?;
    ensure(
        new.ttl.checked_add(1) == Some(old.ttl) && new.ttl != 0,
        "TTL is not one less",
    )?;
    ensure(old.ip_sum && new.ip_sum, "the IP checksum is wrong")?;
    ensure(
        old.sum != Some(true) || new.sum == Some(true),
        "broke the transport checksum",
    )?;
    ensure(old.sum.is_some() == new.sum.is_some(), "a checksum came or went")?;
    let options = 20..old.header_len;
    ensure(
        after[new.ip.clone()][options.clone()] == before[old.ip.clone()][options],
        "changed IP options",
    )?;
    ensure(
        after[new.ip.end..] == before[old.ip.end..],
        "changed what follows the packet",
    )?;
    ensure(old.error == new.error, "made or unmade an error")?;
    if !old.error {
        ensure(same_data(t, &old, &new), "changed the payload")?;
    }
    let relayed = t.external(old.destination).is_some() && t.external(new.source).is_some();
    match out.role {
        _ if verdict.reason() == Reason::Relayed => {
            ensure(relayed, "relayed without an external address on both sides")?
        }
        // A later piece of what was relayed.
        ROLE_OUTSIDE if side == Side::Outside && verdict.reason() == Reason::Fragment => {
            ensure(relayed, "forwarded from outside to outside")?;
        }
        ROLE_OUTSIDE => {
            ensure(side == Side::Inside, "forwarded from outside to outside")?;
            ensure(t.external(new.source).is_some(), "leaked an inside source")?;
            ensure(
                new.destination == old.destination,
                "changed the destination of an outbound packet",
            )?;
        }
        ROLE_INSIDE => {
            ensure(
                t.external(old.destination).is_some(),
                "let in what was not sent to an external address",
            )?;
            ensure(
                side == Side::Outside || t.external(new.source).is_some(),
                "a hairpinned packet has no external source (RFC 4787 REQ-9a)",
            )?;
            ensure(
                side == Side::Inside || new.source == old.source,
                "changed the source of an inbound packet",
            )?;
        }
        _ => return Err("sent out of an interface that is neither inside nor outside".into()),
    }
    if old.error {
        check_error(t, out.role, &old, &new)
    } else {
        Ok(())
    }
}

/// The quoted packet of an error.
fn check_error(t: &MemTables, role: u8, old: &View, new: &View) -> Result<(), String> {
    // Quotes are cut short, so their total length says more than there is.
    let (old_quote, new_quote) = (&old.data[8..], &new.data[8..]);
    ensure(
        old.data[..2] == new.data[..2] && old.data[4..8] == new.data[4..8],
        "changed the kind of an error",
    )?;
    ensure(old_quote.len() >= 28, "forwarded an error that quotes too little")?;
    let header_len = (old_quote[0] & 15) as usize * 4;
    ensure(
        ones(&[&new_quote[..header_len]]) == 0xffff,
        "the quoted IP checksum is wrong",
    )?;
    ensure(
        old_quote[..10] == new_quote[..10],
        "changed more than the quoted addresses",
    )?;
    ensure(
        old_quote[20..header_len] == new_quote[20..header_len],
        "changed the quoted options",
    )?;
    let destination = long(new_quote, 16).unwrap_or(0);
    let source = long(new_quote, 12).unwrap_or(0);
    if role == ROLE_OUTSIDE {
        ensure(t.external(destination).is_some(), "leaked an inside address in a quote")?;
    } else {
        ensure(source == new.destination, "the quoted packet is not the receiver's")?;
    }
    let tail = header_len + 20;
    ensure(
        old_quote.get(tail..) == new_quote.get(tail..),
        "changed the quoted payload",
    )
}

/// Payloads are the same but for the MSS option, when it is clamped.
fn same_data(t: &MemTables, old: &View, new: &View) -> bool {
    if old.data == new.data {
        return true;
    }
    let clamped = t.configs[t.state.active as usize - 1].mss as u16;
    let differing: Vec<usize> = (0..old.data.len()).filter(|&i| old.data[i] != new.data[i]).collect();
    old.proto == 6
        && clamped != 0
        && differing.iter().all(|&i| i < 40)
        && differing.last().unwrap_or(&0) - differing.first().unwrap_or(&0) < 2
        && old.data.len() == new.data.len()
}

/// The sum of 16-bit words in ones' complement, carry by carry; 0xffff over everything that includes its checksum.
pub fn ones(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u16;
    for pair in parts.concat().chunks(2) {
        let word = u16::from(pair[0]) << 8 | u16::from(*pair.get(1).unwrap_or(&0));
        let (next, carry) = sum.overflowing_add(word);
        sum = next + u16::from(carry);
    }
    sum
}

fn pseudo(header: &[u8], segment: &[u8]) -> u16 {
    let len = (segment.len() as u16).to_be_bytes();
    ones(&[&header[12..20], &[0, header[9]], &len, segment])
}

fn be(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn ensure(holds: bool, otherwise: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

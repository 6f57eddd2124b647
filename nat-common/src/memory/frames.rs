//! Frames to put into the data path: every field can be set wrong, lengths and checksums are right unless it is.

use crate::checksum::{full, transport};
use crate::flow::{Endpoint, IP_ICMP, IP_TCP, IP_UDP};
use crate::packet::{Bytes, ETHERTYPE_IPV4, ETHERTYPE_VLAN};
use crate::parse::{ICMP_ECHO, ICMP_ECHO_REPLY, MF};
use std::vec::Vec;

/// An Ethernet frame with an IPv4 packet. Addresses are in host order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// VLAN tag control information.
    pub vlan: Option<u16>,
    /// Type of service.
    pub tos: u8,
    /// Identification.
    pub id: u16,
    /// Flags and fragment offset as in the header.
    pub fragment: u16,
    /// Time to live.
    pub ttl: u8,
    /// IP protocol.
    pub proto: u8,
    /// Source address.
    pub source: u32,
    /// Destination address.
    pub destination: u32,
    /// IP options; a multiple of four bytes.
    pub options: Vec<u8>,
    /// What follows the IP header.
    pub payload: Vec<u8>,
    /// Bytes behind the IP packet.
    pub padding: usize,
}

impl Frame {
    /// An IP packet with any payload.
    pub fn ip(source: u32, destination: u32, proto: u8, payload: &[u8]) -> Self {
        Self {
            vlan: None,
            tos: 0,
            id: 0x1234,
            fragment: 0,
            ttl: 64,
            proto,
            source,
            destination,
            options: Vec::new(),
            payload: payload.to_vec(),
            padding: 0,
        }
    }

    /// A UDP datagram.
    pub fn udp(source: Endpoint, destination: Endpoint, data: &[u8]) -> Self {
        let mut segment = ports(source, destination);
        segment.extend((data.len() as u16 + 8).to_be_bytes());
        segment.extend([0, 0]);
        segment.extend(data);
        let check = match transport(source.addr, destination.addr, IP_UDP, &segment) {
            0 => 0xffff,
            other => other,
        };
        segment[6..8].copy_from_slice(&check.to_be_bytes());
        Self::ip(source.addr, destination.addr, IP_UDP, &segment)
    }

    /// A TCP segment with control bits `flags`.
    pub fn tcp(source: Endpoint, destination: Endpoint, flags: u8, data: &[u8]) -> Self {
        Self::tcp_options(source, destination, flags, &[], data)
    }

    /// A TCP segment with options, a multiple of four bytes.
    pub fn tcp_options(source: Endpoint, destination: Endpoint, flags: u8, options: &[u8], data: &[u8]) -> Self {
        assert!(options.len().is_multiple_of(4) && options.len() <= 40);
        let mut segment = ports(source, destination);
        segment.extend([0, 0, 0, 1, 0, 0, 0, 2]);
        segment.extend([((20 + options.len()) as u8 / 4) << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        segment.extend(options);
        segment.extend(data);
        let check = transport(source.addr, destination.addr, IP_TCP, &segment);
        segment[16..18].copy_from_slice(&check.to_be_bytes());
        Self::ip(source.addr, destination.addr, IP_TCP, &segment)
    }

    /// An ICMP message; `rest` is the second word of its header.
    pub fn icmp(source: u32, destination: u32, (kind, code): (u8, u8), rest: [u8; 4], data: &[u8]) -> Self {
        let mut message = Vec::from([kind, code, 0, 0]);
        message.extend(rest);
        message.extend(data);
        let check = full(&message);
        message[2..4].copy_from_slice(&check.to_be_bytes());
        Self::ip(source, destination, IP_ICMP, &message)
    }

    /// An echo request; the source's port is the identifier.
    pub fn echo(source: Endpoint, destination: u32, data: &[u8]) -> Self {
        let [a, b] = source.port.to_be_bytes();
        Self::icmp(source.addr, destination, (ICMP_ECHO, 0), [a, b, 0, 1], data)
    }

    /// An echo reply; the destination's port is the identifier.
    pub fn echo_reply(source: u32, destination: Endpoint, data: &[u8]) -> Self {
        let [a, b] = destination.port.to_be_bytes();
        Self::icmp(source, destination.addr, (ICMP_ECHO_REPLY, 0), [a, b, 0, 1], data)
    }

    /// An ICMP error of type and code `kind` about `quote`, the first bytes of an IP packet.
    pub fn error(source: u32, destination: u32, kind: (u8, u8), quote: &[u8]) -> Self {
        Self::icmp(source, destination, kind, [0; 4], quote)
    }

    /// The IP packet.
    pub fn packet(&self) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let total_len = (header_len + self.payload.len()) as u16;
        let mut packet = Vec::from([0x40 | (header_len / 4) as u8, self.tos]);
        packet.extend(total_len.to_be_bytes());
        packet.extend(self.id.to_be_bytes());
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([self.ttl, self.proto, 0, 0]);
        packet.extend(self.source.to_be_bytes());
        packet.extend(self.destination.to_be_bytes());
        packet.extend(&self.options);
        let check = full(&packet);
        packet[10..12].copy_from_slice(&check.to_be_bytes());
        packet.extend(&self.payload);
        packet
    }

    /// The whole frame.
    pub fn bytes(&self) -> Bytes {
        let mut frame = Vec::from([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
        if let Some(tag) = self.vlan {
            frame.extend(ETHERTYPE_VLAN.to_be_bytes());
            frame.extend(tag.to_be_bytes());
        }
        frame.extend(ETHERTYPE_IPV4.to_be_bytes());
        frame.extend(self.packet());
        frame.resize(frame.len() + self.padding, 0);
        Bytes(frame)
    }

    /// The same packet in pieces that begin at the offsets `cuts` of the payload, each a multiple of eight.
    pub fn pieces(&self, cuts: &[usize]) -> Vec<Frame> {
        let mut edges = Vec::from([0]);
        edges.extend(cuts);
        edges.push(self.payload.len());
        let last = edges.len() - 2;
        let piece = |(n, edge): (usize, &[usize])| {
            assert!(edge[0].is_multiple_of(8) && edge[0] < edge[1]);
            Frame {
                fragment: (edge[0] / 8) as u16 | if n == last { 0 } else { MF },
                payload: self.payload[edge[0]..edge[1]].to_vec(),
                ..self.clone()
            }
        };
        edges.windows(2).enumerate().map(piece).collect()
    }
}

fn ports(source: Endpoint, destination: Endpoint) -> Vec<u8> {
    [source.port.to_be_bytes(), destination.port.to_be_bytes()].concat()
}

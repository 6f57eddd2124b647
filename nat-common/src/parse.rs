//! Stage 1: from bytes to a flow, with every check that a router owes an IPv4 header (RFC 1812 §5.2.2).

use crate::checksum::fold;
use crate::counters::Reason;
use crate::flow::{Endpoint, IP_ICMP, IP_TCP, IP_UDP};
use crate::hash::same;
use crate::packet::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_VLAN, Ethernet, Packet, TcpStart, VLAN_LEN};
use crate::raw::below;
use network_types::icmp::Icmpv4Hdr;

/// Don't fragment.
pub const DF: u16 = 0x4000;
/// More fragments.
pub const MF: u16 = 0x2000;
/// Fragment offset, units of eight bytes.
pub const OFFSET: u16 = 0x1fff;

/// ICMP echo reply.
pub const ICMP_ECHO_REPLY: u8 = 0;
/// ICMP echo request.
pub const ICMP_ECHO: u8 = 8;
/// ICMP timestamp request.
pub const ICMP_TIMESTAMP: u8 = 13;
/// ICMP timestamp reply.
pub const ICMP_TIMESTAMP_REPLY: u8 = 14;

/// What the headers say. Numbers are in host order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// Offset of the IP header.
    pub l3: u16,
    /// Offset of the header after it.
    pub l4: u16,
    /// VLAN id, 0 for none.
    pub vlan: u16,
    /// Total length of the IP packet.
    pub total_len: u16,
    /// Identification.
    pub id: u16,
    /// Flags and fragment offset as in the header.
    pub fragment: u16,
    /// IP protocol.
    pub proto: u8,
    /// Time to live.
    pub ttl: u8,
    /// Type of service.
    pub tos: u8,
    /// TCP control bits, or the ICMP type.
    pub flags: u8,
    /// Source; the port is 0 for other protocols than TCP and UDP and for later fragments. The query identifier of ICMP
    /// queries and replies.
    pub source: Endpoint,
    /// Destination, likewise; for ICMP the identifier too.
    pub destination: Endpoint,
}

impl Headers {
    /// A piece of a fragmented datagram.
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        self.fragment & (MF | OFFSET) != 0
    }

    /// A piece that has no ports.
    #[inline(always)]
    pub fn is_later_fragment(&self) -> bool {
        self.fragment & OFFSET != 0
    }

    /// Bytes of the transport header and what follows.
    #[inline(always)]
    pub fn payload_len(&self) -> usize {
        usize::from(self.total_len - (self.l4 - self.l3))
    }
}

/// Reads the headers up to the ports. `vlan` tagged frames are looked into; other EtherTypes are not ours.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn parse<P: Packet>(p: &mut P, headers: &mut Headers) -> Result<(), Reason> {
    let ethernet = p.at::<Ethernet>(0).ok_or(Reason::Truncated)?;
    let outer = u16::from_be_bytes(ethernet.ethertype);
    // Without a branch: tagged or not, the verifier sees one way on.
    let tagged = same(u32::from(outer), u32::from(ETHERTYPE_VLAN));
    let mask = (tagged as u16).wrapping_neg();
    let tag = *p.at::<[u8; 4]>(ETHERNET_LEN).ok_or(Reason::NotIpv4)?;
    let inner = u16::from_be_bytes([tag[2], tag[3]]);
    if (outer & !mask | inner & mask) != ETHERTYPE_IPV4 {
        return Err(Reason::NotIpv4);
    }
    let l3 = ETHERNET_LEN + tagged as usize * VLAN_LEN;
    let vlan = u16::from_be_bytes([tag[0], tag[1]]) & 0xfff & mask;
    headers.l3 = l3 as u16;
    headers.vlan = vlan;
    parse_ip(p, headers)
}

#[inline(always)]
fn parse_ip<P: Packet>(p: &mut P, headers: &mut Headers) -> Result<(), Reason> {
    let l3 = usize::from(headers.l3);
    let first = p.be32(l3).ok_or(Reason::Truncated)?;
    let second = p.be32(l3 + 4).ok_or(Reason::Truncated)?;
    let third = p.be32(l3 + 8).ok_or(Reason::Truncated)?;
    let source = p.be32(l3 + 12).ok_or(Reason::Truncated)?;
    let destination = p.be32(l3 + 16).ok_or(Reason::Truncated)?;
    let header_len = (first >> 24 & 0xf) as usize * 4;
    let total_len = first as u16;
    if first >> 28 != 4 || header_len < 20 || (total_len as usize) < header_len {
        return Err(Reason::BadHeader);
    }
    if !p.reaches(l3 + total_len as usize) {
        return Err(Reason::Truncated);
    }
    headers.total_len = total_len;
    headers.id = (second >> 16) as u16;
    headers.fragment = second as u16;
    headers.proto = (third >> 16) as u8;
    headers.ttl = (third >> 24) as u8;
    headers.tos = (first >> 16) as u8;
    headers.source = Endpoint::new(source, 0);
    headers.destination = Endpoint::new(destination, 0);
    let mut sum = u64::from(first) + u64::from(second) + u64::from(third) + u64::from(source) + u64::from(destination);
    if header_len > 20 {
        match options_walk(p, l3) {
            0 => sum += u64::from(options_sum(p, l3)),
            FAULT_ROUTE => return Err(Reason::SourceRoute),
            _ => return Err(Reason::BadHeader),
        }
    }
    let header_len = (p.again(l3).ok_or(Reason::Truncated)? & 0xf) as usize * 4;
    if fold(sum) != 0xffff {
        return Err(Reason::BadChecksum);
    }
    headers.l4 = (l3 + header_len) as u16;
    if headers.is_later_fragment() {
        return Ok(());
    }
    ports(p, headers)
}

const FAULT: u32 = 1;
const FAULT_ROUTE: u32 = 2;

/// Length of the options, read anew from the header.
#[inline(always)]
fn options_len<P: Packet>(p: &mut P, l3: usize) -> usize {
    (p.again(l3).unwrap_or(0x45) & 0xf) as usize * 4 - 20
}

/// The sum of the options.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn options_sum<P: Packet>(p: &mut P, l3: usize) -> u32 {
    let len = options_len(p, l3);
    let mut sum = 0u32;
    let mut i = 0;
    while i < 40 && below(i as u32, len as u32) {
        let Some(pair) = p.at::<[u8; 2]>(l3 + 20 + i) else {
            return 0;
        };
        sum += u32::from(u16::from_be_bytes(*pair));
        i += 2;
    }
    sum
}

/// Walks through the options: 0 if they are sound, `FAULT` if they are malformed, `FAULT_ROUTE` for source routing, which no
/// NAT can serve (RFC 1812 §5.3.13.2 lets it be refused).
#[cfg_attr(target_arch = "bpf", inline(never))]
fn options_walk<P: Packet>(p: &mut P, l3: usize) -> u32 {
    let len = options_len(p, l3);
    let start = l3 + 20;
    // Zero, because the version in the header's first byte is 4, but the verifier does not know it: any of the low six bits
    // could be set. So it sees one unknown place in every round instead of following every sequence of options.
    let Some(first) = p.again(l3) else {
        return FAULT;
    };
    let zero = usize::from(first >> 4 & 3) * 21;
    let mut at = zero & 63;
    let mut steps = 0;
    while steps < 40 && at < 40 && below(at as u32, len as u32) {
        steps += 1;
        let Some(kind) = p.again(start + at) else {
            return FAULT;
        };
        let mut length = 1;
        if kind == 0 {
            return 0;
        }
        if kind == 0x83 || kind == 0x89 {
            return FAULT_ROUTE;
        }
        if kind != 1 {
            let Some(said) = p.again(start + at + 1) else {
                return FAULT;
            };
            length = usize::from(said);
            if length < 2 || at + length > len {
                return FAULT;
            }
        }
        at = ((at + length) ^ zero) & 63;
    }
    0
}

/// Reads ports, TCP control bits, ICMP type and identifier.
#[inline(always)]
fn ports<P: Packet>(p: &mut P, h: &mut Headers) -> Result<(), Reason> {
    let short = if h.is_fragment() {
        Reason::FragmentTiny
    } else {
        Reason::Truncated
    };
    let payload = h.payload_len();
    match h.proto {
        IP_UDP => {
            if payload < 8 {
                return Err(short);
            }
            let udp = p.be64(usize::from(h.l4)).ok_or(short)?;
            h.source.port = (udp >> 48) as u16;
            h.destination.port = (udp >> 32) as u16;
        }
        IP_TCP => {
            if payload < 20 {
                return Err(short);
            }
            let tcp = p.at::<TcpStart>(usize::from(h.l4)).ok_or(short)?;
            let header_len = usize::from(tcp.offset >> 4) * 4;
            if header_len < 20 || (header_len > payload && !h.is_fragment()) {
                return Err(Reason::BadHeader);
            }
            h.source.port = u16::from_be_bytes(tcp.source);
            h.destination.port = u16::from_be_bytes(tcp.destination);
            h.flags = tcp.flags;
        }
        IP_ICMP => {
            if payload < 8 {
                return Err(short);
            }
            let icmp = p.at::<Icmpv4Hdr>(usize::from(h.l4)).ok_or(short)?;
            h.flags = icmp.type_;
            let id = u16::from_be_bytes([icmp.data[0], icmp.data[1]]);
            h.source.port = id;
            h.destination.port = id;
        }
        _ => {}
    }
    Ok(())
}

//! From bytes to [`Packet`], and the packets that ICMP errors quote.

use std::net::SocketAddrV4;

use anyhow::{Result, bail, ensure};

use crate::checksum::{address, internet, pseudo_header, word};
use crate::packet::{ETHERTYPE_IPV4, Eth, ICMP, Icmp, Ip, L4, Packet, Sum, TCP, Tcp, UDP, Udp, split_ethernet};

/// The packet that an ICMP error quotes: a whole IPv4 header and at least a piece of what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// The quoted IPv4 header; `sum` tells whether its checksum is right.
    pub ip: Ip,
    /// The quoted protocol number.
    pub protocol: u8,
    /// The total length that the quoted header states.
    pub total_length: u16,
    /// Quoted source endpoint; for ICMP queries the port is the id.
    pub src: SocketAddrV4,
    /// Quoted destination endpoint, in the same way.
    pub dst: SocketAddrV4,
    /// The checksum field of the quoted TCP, UDP or ICMP header, if the quote reaches so far.
    pub l4_checksum: Option<u16>,
    /// All that is quoted after the IPv4 header.
    pub l4: Vec<u8>,
}

impl Packet {
    /// Reads an Ethernet frame with an IPv4 packet. Anything else, or a packet cut short, is an error.
    pub fn parse(frame: &[u8]) -> Result<Self> {
        let Some((eth, ethertype, rest)) = split_ethernet(frame) else {
            bail!("{} bytes are no frame", frame.len())
        };
        ensure!(
            ethertype == ETHERTYPE_IPV4,
            "Ethernet type {ethertype:#06x} is not IPv4"
        );
        Self::parse_ip(rest).map(|packet| Self { eth, ..packet })
    }

    /// Reads an IPv4 packet; the Ethernet header is left at zero. Bytes beyond the total length are padding.
    pub fn parse_ip(bytes: &[u8]) -> Result<Self> {
        let (ip, protocol, total, header) = parse_header(bytes)?;
        ensure!(
            total <= bytes.len() && total >= header,
            "total length {total}, but {} bytes",
            bytes.len()
        );
        let payload = &bytes[header..total];
        let l4 = match protocol {
            _ if ip.mf || ip.offset > 0 => L4::Raw(protocol, payload.into()),
            UDP => L4::Udp(parse_udp(&ip, payload)?),
            TCP => L4::Tcp(parse_tcp(&ip, payload)?),
            ICMP => L4::Icmp(parse_icmp(payload)?),
            _ => L4::Raw(protocol, payload.into()),
        };
        Ok(Self {
            eth: Eth::default(),
            ip,
            l4,
        })
    }

    /// The packet quoted by this ICMP error (RFC 792, RFC 1812 §4.3.2.3).
    pub fn quote(&self) -> Result<Quote> {
        match &self.l4 {
            L4::Icmp(icmp) if icmp.query_id().is_none() => Quote::parse(&icmp.body),
            other => bail!("no ICMP error: {other:?}"),
        }
    }

    /// Puts the fragments of one packet together, in whatever order they come; a gap or an overlap is an error.
    pub fn reassemble(pieces: &[Packet]) -> Result<Self> {
        let mut pieces: Vec<&Packet> = pieces.iter().collect();
        pieces.sort_by_key(|piece| piece.ip.offset);
        let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else {
            bail!("no fragments")
        };
        ensure!(!last.ip.mf, "the last fragment is missing");
        let mut payload = Vec::new();
        for piece in &pieces {
            ensure!(
                usize::from(piece.ip.offset) == payload.len(),
                "offset {} after {} bytes",
                piece.ip.offset,
                payload.len()
            );
            ensure!(
                piece.ip.id == first.ip.id && piece.ip.src == first.ip.src,
                "fragments of different packets"
            );
            payload.extend(piece.l4_bytes());
        }
        let mut whole = (*first).clone();
        (whole.ip.mf, whole.ip.offset) = (false, 0);
        whole.l4 = L4::Raw(first.protocol(), payload);
        Self::parse_ip(&whole.ip_bytes()).map(|packet| Self {
            eth: first.eth,
            ..packet
        })
    }
}

impl Quote {
    /// Reads a quoted packet.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let (ip, protocol, total, header) = parse_header(bytes)?;
        let l4 = bytes[header..].to_vec();
        let at = |offset: usize| (l4.len() >= offset + 2).then(|| word(&l4, offset));
        let (ports, sum_at) = match protocol {
            UDP => ((at(0), at(2)), 6),
            TCP => ((at(0), at(2)), 16),
            ICMP => ((at(4), at(4)), 2),
            _ => ((None, None), usize::MAX - 2),
        };
        let src = SocketAddrV4::new(ip.src, ports.0.unwrap_or(0));
        let dst = SocketAddrV4::new(ip.dst, ports.1.unwrap_or(0));
        Ok(Self {
            protocol,
            total_length: total as u16,
            src,
            dst,
            l4_checksum: at(sum_at),
            l4,
            ip,
        })
    }
}

fn parse_header(bytes: &[u8]) -> Result<(Ip, u8, usize, usize)> {
    ensure!(
        bytes.len() >= 20 && bytes[0] >> 4 == 4,
        "no IPv4 header in {} bytes",
        bytes.len()
    );
    let header = usize::from(bytes[0] & 15) * 4;
    ensure!(
        (20..=bytes.len()).contains(&header),
        "IPv4 header length {header} of {} bytes",
        bytes.len()
    );
    let fragment = word(bytes, 6);
    let ip = Ip {
        src: address(bytes, 12),
        dst: address(bytes, 16),
        tos: bytes[1],
        id: word(bytes, 4),
        df: fragment & 0x4000 != 0,
        mf: fragment & 0x2000 != 0,
        offset: (fragment & 0x1fff) * 8,
        ttl: bytes[8],
        options: bytes[20..header].to_vec(),
        sum: judge(internet(&[&bytes[..header]]), word(bytes, 10)),
    };
    Ok((ip, bytes[9], usize::from(word(bytes, 2)), header))
}

fn parse_udp(ip: &Ip, bytes: &[u8]) -> Result<Udp> {
    ensure!(bytes.len() >= 8, "UDP of {} bytes", bytes.len());
    ensure!(
        usize::from(word(bytes, 4)) == bytes.len(),
        "UDP length {} of {} bytes",
        word(bytes, 4),
        bytes.len()
    );
    let sum = match word(bytes, 6) {
        0 => Sum::Absent,
        found => judge(
            internet(&[&pseudo_header(ip.src, ip.dst, UDP, bytes.len()), bytes]),
            found,
        ),
    };
    Ok(Udp {
        sport: word(bytes, 0),
        dport: word(bytes, 2),
        payload: bytes[8..].to_vec(),
        sum,
    })
}

fn parse_tcp(ip: &Ip, bytes: &[u8]) -> Result<Tcp> {
    ensure!(bytes.len() >= 20, "TCP of {} bytes", bytes.len());
    let header = usize::from(bytes[12] >> 4) * 4;
    ensure!(
        (20..=bytes.len()).contains(&header),
        "TCP header length {header} of {} bytes",
        bytes.len()
    );
    let long = |at: usize| (u32::from(word(bytes, at)) << 16) | u32::from(word(bytes, at + 2));
    Ok(Tcp {
        sport: word(bytes, 0),
        dport: word(bytes, 2),
        seq: long(4),
        ack: long(8),
        flags: bytes[13],
        window: word(bytes, 14),
        urgent: word(bytes, 18),
        options: bytes[20..header].to_vec(),
        payload: bytes[header..].to_vec(),
        sum: judge(
            internet(&[&pseudo_header(ip.src, ip.dst, TCP, bytes.len()), bytes]),
            word(bytes, 16),
        ),
    })
}

fn parse_icmp(bytes: &[u8]) -> Result<Icmp> {
    ensure!(bytes.len() >= 8, "ICMP of {} bytes", bytes.len());
    let rest = [bytes[4], bytes[5], bytes[6], bytes[7]];
    let sum = judge(internet(&[bytes]), word(bytes, 2));
    Ok(Icmp {
        kind: bytes[0],
        code: bytes[1],
        rest,
        body: bytes[8..].to_vec(),
        sum,
    })
}

fn judge(residue: u16, found: u16) -> Sum {
    if residue == 0 { Sum::Right } else { Sum::Wrong(found) }
}

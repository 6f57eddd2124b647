//! Packets as values: build them, change a field, turn them into bytes, read them back.
//!
//! ```
//! use tests::packet::Packet;
//! let frame = Packet::udp("192.168.1.10:5060", "203.0.113.100:5060", b"hello").ttl(3).build();
//! let back = Packet::parse(&frame).unwrap();
//! assert_eq!((back.ip.ttl, back.payload()), (3, &b"hello"[..]));
//! ```

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::lab::Host;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Protocol numbers of the IPv4 header.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// The Ethernet type of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// The Ethernet type of an 802.1Q tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;

/// TCP flags, to be or-ed.
pub mod flags {
    #![allow(missing_docs, reason = "the names are those of RFC 9293")]
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const PSH: u8 = 8;
    pub const ACK: u8 = 16;
    pub const URG: u8 = 32;
}

/// An Ethernet frame with an IPv4 packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Ethernet header.
    pub eth: Eth,
    /// IPv4 header.
    pub ip: Ip,
    /// What the IPv4 packet carries.
    pub l4: L4,
}

/// The Ethernet header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Eth {
    /// Destination.
    pub dst: Mac,
    /// Source.
    pub src: Mac,
    /// The 802.1Q tag control information (priority and VLAN id), if the frame is tagged.
    pub vlan: Option<u16>,
}

/// The IPv4 header; lengths and checksum follow from the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
    /// Type of service, or DSCP and ECN.
    pub tos: u8,
    /// Identification.
    pub id: u16,
    /// Don't fragment.
    pub df: bool,
    /// More fragments.
    pub mf: bool,
    /// Fragment offset in bytes (a multiple of 8).
    pub offset: u16,
    /// Time to live.
    pub ttl: u8,
    /// Options, padded to a multiple of 4 when built.
    pub options: Vec<u8>,
    /// The header's checksum.
    pub sum: Sum,
}

/// A checksum field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sum {
    /// What the RFC says: built right, or found right.
    #[default]
    Right,
    /// UDP without a checksum.
    Absent,
    /// This value, which is wrong.
    Wrong(u16),
}

/// What the IPv4 packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum L4 {
    /// A UDP datagram.
    Udp(Udp),
    /// A TCP segment.
    Tcp(Tcp),
    /// An ICMP message.
    Icmp(Icmp),
    /// Another protocol, or a fragment: protocol number and bytes.
    Raw(u8, Vec<u8>),
}

/// A UDP datagram.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of RFC 768")]
pub struct Udp {
    pub sport: u16,
    pub dport: u16,
    pub payload: Vec<u8>,
    pub sum: Sum,
}

/// A TCP segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of RFC 9293")]
pub struct Tcp {
    pub sport: u16,
    pub dport: u16,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    pub urgent: u16,
    /// Options, padded to a multiple of 4 when built.
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
    pub sum: Sum,
}

/// An ICMP message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Icmp {
    /// ICMP type.
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
    /// The four bytes after the checksum: id and sequence of an echo, unused and MTU of a 3/4.
    pub rest: [u8; 4],
    /// What follows: the echo's data, or the quoted packet.
    pub body: Vec<u8>,
    /// The checksum.
    pub sum: Sum,
}

/// Parses an endpoint like `"192.0.2.1:5060"`, or takes a [`SocketAddrV4`]; a malformed text panics.
pub trait IntoEndpoint {
    /// The endpoint.
    fn endpoint(self) -> SocketAddrV4;
}

impl IntoEndpoint for &str {
    fn endpoint(self) -> SocketAddrV4 {
        self.parse()
            .unwrap_or_else(|_| panic!("{self:?} is no endpoint like 192.0.2.1:5060"))
    }
}

impl IntoEndpoint for SocketAddrV4 {
    fn endpoint(self) -> SocketAddrV4 {
        self
    }
}

impl IntoEndpoint for (Ipv4Addr, u16) {
    fn endpoint(self) -> SocketAddrV4 {
        SocketAddrV4::new(self.0, self.1)
    }
}

impl Packet {
    /// A UDP datagram.
    pub fn udp(src: impl IntoEndpoint, dst: impl IntoEndpoint, payload: &[u8]) -> Self {
        let (src, dst) = (src.endpoint(), dst.endpoint());
        let udp = Udp {
            sport: src.port(),
            dport: dst.port(),
            payload: payload.into(),
            sum: Sum::Right,
        };
        Self::new(*src.ip(), *dst.ip(), L4::Udp(udp))
    }

    /// A TCP segment with [`flags`] and a window of 65535.
    pub fn tcp(src: impl IntoEndpoint, dst: impl IntoEndpoint, flags: u8, seq: u32, ack: u32) -> Self {
        let (src, dst) = (src.endpoint(), dst.endpoint());
        let ports = Tcp {
            sport: src.port(),
            dport: dst.port(),
            ..Tcp::default()
        };
        Self::new(
            *src.ip(),
            *dst.ip(),
            L4::Tcp(Tcp {
                seq,
                ack,
                flags,
                window: 65535,
                ..ports
            }),
        )
    }

    /// An ICMP echo request.
    pub fn echo(src: Ipv4Addr, dst: Ipv4Addr, id: u16, sequence: u16, data: &[u8]) -> Self {
        Self::icmp(src, dst, 8, 0, join(id, sequence), data)
    }

    /// An ICMP echo reply.
    pub fn echo_reply(src: Ipv4Addr, dst: Ipv4Addr, id: u16, sequence: u16, data: &[u8]) -> Self {
        Self::icmp(src, dst, 0, 0, join(id, sequence), data)
    }

    /// An ICMP message of any kind.
    pub fn icmp(src: Ipv4Addr, dst: Ipv4Addr, kind: u8, code: u8, rest: [u8; 4], body: &[u8]) -> Self {
        Self::new(
            src,
            dst,
            L4::Icmp(Icmp {
                kind,
                code,
                rest,
                body: body.into(),
                sum: Sum::Right,
            }),
        )
    }

    /// An ICMP error about `offender`, quoting its IPv4 header and the first `quoted` bytes of what follows it.
    /// For a 3/4, set the MTU with [`Packet::mtu`].
    pub fn icmp_error(src: Ipv4Addr, dst: Ipv4Addr, kind: u8, code: u8, offender: &Packet, quoted: usize) -> Self {
        let mut quote = offender.ip_bytes();
        let header = usize::from(quote[0] & 15) * 4;
        quote.truncate(header + quoted);
        Self::icmp(src, dst, kind, code, [0; 4], &quote)
    }

    /// Any IPv4 packet.
    pub fn new(src: Ipv4Addr, dst: Ipv4Addr, l4: L4) -> Self {
        let (options, sum) = (Vec::new(), Sum::Right);
        let ip = Ip {
            src,
            dst,
            tos: 0,
            id: 0,
            df: false,
            mf: false,
            offset: 0,
            ttl: 64,
            options,
            sum,
        };
        Self {
            eth: Eth::default(),
            ip,
            l4,
        }
    }

    /// Addresses the frame from this host to its next hop.
    pub fn via(mut self, host: &Host) -> Self {
        (self.eth.src, self.eth.dst) = (host.mac, host.gateway_mac);
        self
    }
    /// Sets the Ethernet addresses.
    pub fn macs(mut self, src: Mac, dst: Mac) -> Self {
        (self.eth.src, self.eth.dst) = (src, dst);
        self
    }
    /// Tags the frame with a VLAN id.
    pub fn vlan(mut self, id: u16) -> Self {
        self.eth.vlan = Some(id);
        self
    }
    /// Sets the time to live.
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ip.ttl = ttl;
        self
    }
    /// Sets the identification.
    pub fn id(mut self, id: u16) -> Self {
        self.ip.id = id;
        self
    }
    /// Sets "don't fragment".
    pub fn df(mut self) -> Self {
        self.ip.df = true;
        self
    }
    /// Sets IPv4 options.
    pub fn options(mut self, options: &[u8]) -> Self {
        self.ip.options = options.into();
        self
    }
    /// Sets TCP options; panics on other protocols.
    pub fn tcp_options(mut self, options: &[u8]) -> Self {
        match &mut self.l4 {
            L4::Tcp(tcp) => tcp.options = options.into(),
            other => panic!("no TCP segment: {other:?}"),
        }
        self
    }
    /// Sets the payload of UDP or TCP, the body of ICMP, or the raw bytes.
    pub fn with_payload(mut self, payload: &[u8]) -> Self {
        let place = match &mut self.l4 {
            L4::Udp(udp) => &mut udp.payload,
            L4::Tcp(tcp) => &mut tcp.payload,
            L4::Icmp(icmp) => &mut icmp.body,
            L4::Raw(_, bytes) => bytes,
        };
        *place = payload.into();
        self
    }
    /// Sets the checksum of UDP, TCP or ICMP.
    pub fn sum(mut self, sum: Sum) -> Self {
        match &mut self.l4 {
            L4::Udp(udp) => udp.sum = sum,
            L4::Tcp(tcp) => tcp.sum = sum,
            L4::Icmp(icmp) => icmp.sum = sum,
            L4::Raw(..) => panic!("raw bytes have no checksum field"),
        }
        self
    }
    /// Sets the next-hop MTU of an ICMP 3/4 (RFC 1191 §4); panics on other protocols.
    pub fn mtu(mut self, mtu: u16) -> Self {
        match &mut self.l4 {
            L4::Icmp(icmp) => icmp.rest[2..].copy_from_slice(&mtu.to_be_bytes()),
            other => panic!("no ICMP message: {other:?}"),
        }
        self
    }

    /// The IPv4 protocol number.
    pub fn protocol(&self) -> u8 {
        match &self.l4 {
            L4::Udp(_) => UDP,
            L4::Tcp(_) => TCP,
            L4::Icmp(_) => ICMP,
            L4::Raw(protocol, _) => *protocol,
        }
    }

    /// Source endpoint; the port of an ICMP query is its id, that of anything else without ports is 0.
    pub fn src(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.ip.src, self.ports().0)
    }

    /// Destination endpoint, in the same way.
    pub fn dst(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.ip.dst, self.ports().1)
    }

    /// Payload of UDP or TCP, body of ICMP, or the raw bytes.
    pub fn payload(&self) -> &[u8] {
        match &self.l4 {
            L4::Udp(udp) => &udp.payload,
            L4::Tcp(tcp) => &tcp.payload,
            L4::Icmp(icmp) => &icmp.body,
            L4::Raw(_, bytes) => bytes,
        }
    }

    /// The UDP datagram, if it is one.
    pub fn as_udp(&self) -> Option<&Udp> {
        if let L4::Udp(udp) = &self.l4 { Some(udp) } else { None }
    }
    /// The TCP segment, if it is one.
    pub fn as_tcp(&self) -> Option<&Tcp> {
        if let L4::Tcp(tcp) = &self.l4 { Some(tcp) } else { None }
    }
    /// The ICMP message, if it is one.
    pub fn as_icmp(&self) -> Option<&Icmp> {
        if let L4::Icmp(icmp) = &self.l4 {
            Some(icmp)
        } else {
            None
        }
    }
    /// Whether this is an ICMP message of that type and code.
    pub fn is_icmp(&self, kind: u8, code: u8) -> bool {
        self.as_icmp()
            .is_some_and(|icmp| (icmp.kind, icmp.code) == (kind, code))
    }

    fn ports(&self) -> (u16, u16) {
        match &self.l4 {
            L4::Udp(udp) => (udp.sport, udp.dport),
            L4::Tcp(tcp) => (tcp.sport, tcp.dport),
            L4::Icmp(icmp) => icmp.query_id().map_or((0, 0), |id| (id, id)),
            L4::Raw(TCP | UDP, bytes) if self.ip.offset == 0 && bytes.len() >= 4 => (
                u16::from_be_bytes([bytes[0], bytes[1]]),
                u16::from_be_bytes([bytes[2], bytes[3]]),
            ),
            L4::Raw(..) => (0, 0),
        }
    }
}

impl Icmp {
    /// The identifier, if this is a query or its reply (RFC 5508 §1: echo, timestamp, address mask).
    pub fn query_id(&self) -> Option<u16> {
        matches!(self.kind, 0 | 8 | 13 | 14 | 17 | 18).then(|| u16::from_be_bytes([self.rest[0], self.rest[1]]))
    }
    /// The sequence number of a query.
    pub fn sequence(&self) -> u16 {
        u16::from_be_bytes([self.rest[2], self.rest[3]])
    }
    /// The next-hop MTU of a 3/4.
    pub fn mtu(&self) -> u16 {
        self.sequence()
    }
}

/// Splits a frame into header, type and what follows (the 802.1Q tag removed); `None` if it is too short.
pub(crate) fn split_ethernet(frame: &[u8]) -> Option<(Eth, u16, &[u8])> {
    let (dst, src) = (frame.get(..6)?.try_into().ok()?, frame.get(6..12)?.try_into().ok()?);
    let word = |at: usize| Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?));
    match word(12)? {
        ETHERTYPE_VLAN => Some((
            Eth {
                dst,
                src,
                vlan: Some(word(14)?),
            },
            word(16)?,
            &frame[18..],
        )),
        ethertype => Some((Eth { dst, src, vlan: None }, ethertype, &frame[14..])),
    }
}

/// An Ethernet address as `ip` writes it.
pub fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn join(high: u16, low: u16) -> [u8; 4] {
    ((u32::from(high) << 16) | u32::from(low)).to_be_bytes()
}

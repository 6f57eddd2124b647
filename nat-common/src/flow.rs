//! The words of a flow: protocol, endpoint, direction.

/// The protocols that are translated (RFC 3022 §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Proto {
    /// TCP.
    Tcp = 0,
    /// UDP.
    Udp = 1,
    /// ICMP queries; the "port" is the query identifier.
    Icmp = 2,
}

/// How many protocols have a port space of their own.
pub const PROTOCOLS: u32 = 3;

/// IP protocol numbers.
pub const IP_ICMP: u8 = 1;
/// IP protocol number of TCP.
pub const IP_TCP: u8 = 6;
/// IP protocol number of UDP.
pub const IP_UDP: u8 = 17;

impl Proto {
    /// All of them, in the order of their numbers.
    pub const ALL: [Proto; 3] = [Proto::Tcp, Proto::Udp, Proto::Icmp];

    /// From an IP protocol number.
    #[inline(always)]
    pub fn from_ip(number: u8) -> Option<Self> {
        match number {
            IP_TCP => Some(Proto::Tcp),
            IP_UDP => Some(Proto::Udp),
            IP_ICMP => Some(Proto::Icmp),
            _ => None,
        }
    }

    /// From the index used in tables.
    #[inline(always)]
    pub fn from_index(index: u32) -> Self {
        match index {
            0 => Proto::Tcp,
            1 => Proto::Udp,
            _ => Proto::Icmp,
        }
    }

    /// Lower-case name as it appears in logs and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Proto::Tcp => "tcp",
            Proto::Udp => "udp",
            Proto::Icmp => "icmp",
        }
    }
}

/// An IPv4 address as a number (host order) and a port or ICMP identifier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Endpoint {
    /// Address, host order.
    pub addr: u32,
    /// Port or ICMP query identifier, host order.
    pub port: u16,
}

impl Endpoint {
    /// An endpoint.
    #[inline(always)]
    pub const fn new(addr: u32, port: u16) -> Self {
        Self { addr, port }
    }
}

/// The side of the NAT that a packet comes in on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Side {
    /// The private side (RFC 3022).
    Inside = 0,
    /// The public side.
    Outside = 1,
}

/// An inside endpoint of one protocol: the key of a mapping (RFC 4787 REQ-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct InsideKey {
    /// Protocol.
    pub proto: Proto,
    /// Inside endpoint.
    pub inside: Endpoint,
}

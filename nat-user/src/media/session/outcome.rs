//! What becomes of a description, and why.

use smallvec::SmallVec;

use crate::media::{command::Exhausted, sdp::Unreadable};

/// A description has passed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Streams whose place in it is one of ours now.
    pub anchored: u32,
    /// Why others were left as they are; for the counters.
    pub left: SmallVec<[Left; 4]>,
}

/// Why a stream, or all of a description, passes as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Left {
    /// Both ends reach each other.
    Direct,
    /// TCP that the relay would have to carry.
    Tcp,
    /// Several ports in a row (`m=video 49170/2`).
    PortRange,
    /// IPv6.
    Ipv6,
    /// A transport that we do not know.
    Transport,
    /// Multicast (RFC 3264 section 5.2).
    Multicast,
    /// An answer for which no port is left: too late to refuse it.
    Exhausted,
    /// An answer that lies.
    Lie(Lie),
    /// It cannot be read.
    Unreadable(Unreadable),
    /// The body is compressed or otherwise encoded.
    Encoded,
}

impl Left {
    /// As in counters.
    pub fn name(self) -> &'static str {
        match self {
            Left::Direct => "direct",
            Left::Tcp => "tcp",
            Left::PortRange => "port_range",
            Left::Ipv6 => "ipv6",
            Left::Transport => "transport",
            Left::Multicast => "multicast",
            Left::Exhausted => "exhausted",
            Left::Lie(_) => "lie",
            Left::Unreadable(_) => "unreadable",
            Left::Encoded => "encoded",
        }
    }
}

/// Addresses that nobody's media can be at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Lie {
    #[error("the address is that of no host")]
    Unusable,
    #[error("the address and port are ours")]
    Ours,
}

/// A request that is not to be sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Refusal {
    /// 488 (RFC 3261 section 21.4.26), or 503, which gets a Retry-After.
    pub code: u16,
    pub why: Why,
}

/// Why it is refused; for the log and the Warning header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    #[error(transparent)]
    Unreadable(Unreadable),
    #[error(transparent)]
    Lie(Lie),
    #[error(transparent)]
    Exhausted(Exhausted),
}

impl Refusal {
    /// 488 Not Acceptable Here.
    pub fn unacceptable(why: Why) -> Refusal {
        Refusal { code: 488, why }
    }
}

impl From<Exhausted> for Refusal {
    fn from(exhausted: Exhausted) -> Refusal {
        Refusal {
            code: 503,
            why: Why::Exhausted(exhausted),
        }
    }
}

//! What a call asks of the data path: places at once, because a description must name them, everything else as commands.

use std::net::Ipv4Addr;

use super::{end::End, mos::Codec, sdp::Endpoint};
use crate::{config::Prefix, records::RelayRecord};

/// One of the two parties of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Who has sent the INVITE that began the call.
    Caller,
    Callee,
}

impl Side {
    /// The peer.
    pub fn other(self) -> Side {
        match self {
            Side::Caller => Side::Callee,
            Side::Callee => Side::Caller,
        }
    }

    /// The place in what there is twice: caller, callee.
    pub fn index(self) -> usize {
        self as usize
    }
}

/// Names a relay in the data path: two legs, one facing each party, for one stream. Given out by [`Ports`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayId(pub u64);

/// Names a NAT binding that was made for a stream. Given out by [`Ports`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PinholeId(pub u64);

/// Who gives places: ports of our own addresses, each for one stream.
pub trait Ports {
    /// Takes a place for two legs, `legs` of caller and callee, between which it relays from now on.
    fn relay(&mut self, want: &Want, legs: [Leg; 2], expect: Expect) -> Result<Relay, Exhausted>;

    /// Makes a NAT binding for an endpoint inside, RTP at an even port and RTCP at the next one if it can be (RFC 4787 REQ-4). It works at
    /// once, with the filter that the NAT has.
    fn pinhole(&mut self, inside: Endpoint, want: &Want) -> Result<Pinhole, Exhausted>;

    /// Whether an endpoint is one of ours: an address of this machine, or a place that was given to another stream.
    fn is_ours(&self, address: Ipv4Addr, port: u16) -> bool;
}

/// Who gives places and does what is asked of them.
pub trait DataPath: Ports + std::fmt::Debug + Send {
    /// Does it, at once or soon. For a place that is gone it does nothing.
    fn run(&mut self, command: Command);

    /// Takes over a relay that another daemon before this one was given, and says whether it is on hold. `None`: it is not there any more.
    fn adopt(&mut self, relay: RelayId) -> Option<bool>;

    /// Takes over the binding of an endpoint inside that another daemon before this one was given. False: it is another one now, or gone.
    fn adopt_pinhole(&mut self, pinhole: &Pinhole, inside: Endpoint, carrier: Carrier) -> bool;

    /// What a relay carries, for the estimate of how it sounds. A data path that measures nothing need not know.
    fn carries(&mut self, _relay: RelayId, _codec: Codec) {}

    /// What was seen of a relay so far, leg by leg; nothing of one that is gone, or where nothing is measured.
    fn legs(&self, _relay: RelayId) -> Vec<RelayRecord> {
        Vec::new()
    }
}

/// What place is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    pub carrier: Carrier,
    /// A port for RTCP too.
    pub rtcp: bool,
    /// Where caller and callee are: by that a leg's address is chosen.
    pub ends: [End; 2],
    /// For an emergency call: what is kept in reserve may be taken.
    pub emergency: bool,
}

/// What carries a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    Udp,
    Tcp,
}

/// A place for a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relay {
    pub id: RelayId,
    /// What faces the caller, and what faces the callee: where that party sends to and gets from.
    pub aliases: [Endpoint; 2],
}

/// A NAT binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pinhole {
    pub id: PinholeId,
    /// What the other side is told.
    pub outside: Endpoint,
}

/// There is no port left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no media port left; see `sipnat status`, and ports.range for more")]
pub struct Exhausted;

/// What the first packet of a party must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leg {
    /// Where it may come from. `None`: from nowhere; the leg is closed.
    pub gate: Option<Prefix>,
    /// Where packets to the party go before its first one. `None`: they are dropped.
    pub fallback: Option<Endpoint>,
}

/// What a stream carries, and so what its first packet may look like (RFC 7983).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expect {
    /// RTP and RTCP; false: any payload.
    pub rtp: bool,
    /// RTCP is at the port of RTP (RFC 5761), as both sides have said.
    pub mux: bool,
    /// One of the sides has ICE: STUN may come first.
    pub stun: bool,
    /// Keys are exchanged by DTLS, which may come first.
    pub dtls: bool,
    /// Of RTP's time stamps, in Hz; 0: not known.
    pub clock: u32,
}

/// What the data path shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// The leg of a party is another now, after an offer and its answer: it may latch anew. `relatch`: who has latched is forgotten at once,
    /// because the party has moved.
    Rearm {
        relay: RelayId,
        side: Side,
        leg: Leg,
        relatch: bool,
    },
    /// What is carried is something else now.
    Expect { relay: RelayId, expect: Expect },
    /// A stream is on hold (silence ends nothing), or goes on.
    Hold { relay: RelayId, held: bool },
    /// Stop relaying and give the place back.
    CloseRelay(RelayId),
    /// End the binding.
    ClosePinhole(PinholeId),
}

//! The media relay: legs, and what their entries say.
//!
//! A leg is one external port of the relay and the peer that sends to it. Two legs are partners: what comes in by one leaves by
//! the other, with that one's external endpoint as source and its peer as destination. A leg owns what it learns about its
//! peer and nobody copies it: a packet for a leg completes that leg ([`latch`]), then reads the partner's peer. So both
//! directions work from the first packet, on all processors, with no help from user space.
//!
//! Several packets meet at a leg at the same time. What decides about them is in whole words: the leg's own ([`LegWord`]) and
//! the peer's endpoint ([`Leg::remote`]), which carries the generation that it was learned in and is replaced by
//! compare-and-swap.

pub mod latch;
pub mod quality;
pub mod send;

use crate::flow::Endpoint;
use crate::raw::{Word32, Word64};

/// A leg. What both directions read is on the first cache line, what every packet of the leg writes on the second one.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Leg {
    /// See [`LegWord`].
    pub word: Word64,
    /// The peer's endpoint, see [`peer_word`], with the generation in which it was learned or cleared. Port and address 0:
    /// none yet.
    pub remote: Word64,
    /// Where packets go before the peer has been learned: its public address in the SDP, see [`peer_word`] with generation 0.
    /// 0: nowhere.
    pub fallback: Word64,
    /// The way that the peer comes in by, so that its side is asked for once: [`crate::maps::ingress_key`] in the low 48 bits, the
    /// generation above.
    pub via: Word64,
    /// Whom the leg may learn: address in the high half, mask in the low half. 0: nobody.
    pub gates: [Word64; GATES],
    /// The partner's number, plus one; 0 for none.
    pub partner: Word32,
    /// RTP clock of the leg's stream, see [`quality::scale`]; 0: not known, no jitter.
    pub clock: Word32,
    /// Generation of the external address that it was made on.
    pub address_generation: Word32,
    /// When it was opened or armed last, in ticks.
    pub armed: Word32,

    /// Packets that came from the peer.
    pub packets: Word64,
    /// Bytes of their IP packets.
    pub bytes: Word64,
    /// SSRC in the high half, highest extended sequence number in the low half (RFC 3550 §A.1), counted from 2^16 on. 0: no RTP
    /// yet.
    pub stream: Word64,
    /// Relative transit time of the last packet in the high half, jitter times 16 in the low half (RFC 3550 §A.8), in timestamp
    /// units.
    pub transit: Word64,
    /// When the peer sent last, in ticks.
    pub last: Word32,
    /// First extended sequence number of the stream.
    pub base: Word32,
    /// Packets expected of streams before this one.
    pub before: Word64,
    /// RTP packets that came after a later one, or twice.
    pub late: Word32,
    /// Packets that were not RTP: RTCP, DTLS, STUN, other media.
    pub others: Word32,
    /// How often the SSRC changed.
    pub ssrc_changes: Word32,
    /// When the peer was learned, in ticks. Means nothing as long as it is not.
    pub latched: Word32,

    /// Packets refused, in the order of [`latch::REFUSALS`].
    pub refused: [Word32; latch::REFUSALS.len()],
    /// Middle of the NTP timestamp of the peer's last RTCP sender report in the low half, when it came in the high half, in
    /// units of 1/65536 s.
    pub report: Word64,
    /// Round-trip time between relay and peer, in units of 1/65536 s; 0: not known.
    pub round_trip: Word32,
    /// How often the peer moved to another endpoint in mid-stream.
    pub moves: Word32,
    /// When it did so last, in ticks.
    pub moved: Word32,
    /// When the leg was opened, in ticks.
    pub created: Word32,
    /// Whose it is: the daemon's number of the call.
    pub call: Word64,
    /// Which of the call's legs it is, in the daemon's words.
    pub tag: Word64,
}

const _: () = assert!(size_of::<Leg>() == 192);

/// Gates of a leg.
pub const GATES: usize = 2;

/// State of a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LegState {
    /// Nobody's.
    Free = 0,
    /// Being written.
    Claimed = 1,
    /// In use.
    Live = 2,
}

/// RTP and RTCP: the first byte is 128 to 191 (RFC 7983 §7).
pub const CLASS_RTP: u8 = 1;
/// DTLS: 20 to 63.
pub const CLASS_DTLS: u8 = 2;
/// STUN: 0 to 3.
pub const CLASS_STUN: u8 = 4;
/// Any payload, for media that is not RTP.
pub const CLASS_ANY: u8 = 8;

/// [`Leg::word`], taken apart: generation in bits 0 to 15, slot in bits 16 to 41, state in bits 42 and 43, `CLASS_*` in bits 44 to
/// 47; bit 48: on hold, bit 49: the peer may move; bit 50: the DSCP is set, to bits 56 to 61; bit 51: the daemon wants copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LegWord(pub u64);

const STATE: u64 = 3 << 42;
const HOLD: u64 = 1 << 48;
const FOLLOW: u64 = 1 << 49;
const MARK: u64 = 1 << 50;
const COPY: u64 = 1 << 51;
const SLOT: u64 = ((1 << 26) - 1) << 16;

impl LegWord {
    /// A leg in use on slot `slot` for packets of `classes`.
    pub fn new(slot: u32, classes: u8, generation: u16) -> Self {
        Self(u64::from(generation) | u64::from(slot) << 16 | u64::from(classes & 15) << 44).in_state(LegState::Live)
    }

    /// The same in another state.
    pub fn in_state(self, state: LegState) -> Self {
        Self(self.0 & !STATE | (state as u64) << 42)
    }

    /// The same in another generation.
    pub fn in_generation(self, generation: u16) -> Self {
        Self(self.0 & !0xffff | u64::from(generation))
    }

    /// The same, on hold or not. Packets go on; it tells the daemon that silence is no sign of an end.
    pub fn on_hold(self, hold: bool) -> Self {
        Self(self.0 & !HOLD | if hold { HOLD } else { 0 })
    }

    /// The same, for packets of other classes.
    pub fn of_classes(self, classes: u8) -> Self {
        Self(self.0 & !(15 << 44) | u64::from(classes & 15) << 44)
    }

    /// The same, with a peer that may move to another endpoint in mid-stream, or not.
    pub fn following(self, follow: bool) -> Self {
        Self(self.0 & !FOLLOW | if follow { FOLLOW } else { 0 })
    }

    /// The same, with a DSCP (RFC 2474) that packets from this peer leave with; `None`: theirs.
    pub fn marking(self, dscp: Option<u8>) -> Self {
        let kept = self.0 & !MARK & 0x00ff_ffff_ffff_ffff;
        Self(kept | dscp.map_or(0, |dscp| MARK | u64::from(dscp & 63) << 56))
    }

    /// The same, with copies of its packets for the daemon or without.
    pub fn copying(self, copy: bool) -> Self {
        Self(self.0 & !COPY | if copy { COPY } else { 0 })
    }

    /// Whether the daemon wants copies of its packets. Only the thorough way makes them.
    #[inline(always)]
    pub fn copies(self) -> bool {
        self.0 & COPY != 0
    }

    /// Changes with every use of the leg and whenever it may learn its peer anew.
    #[inline(always)]
    pub fn generation(self) -> u16 {
        self.0 as u16
    }

    /// The slot of its external endpoint.
    #[inline(always)]
    pub fn slot(self) -> u32 {
        ((self.0 & SLOT) >> 16) as u32
    }

    /// State.
    #[inline(always)]
    pub fn state(self) -> LegState {
        match self.0 >> 42 & 3 {
            0 => LegState::Free,
            1 => LegState::Claimed,
            _ => LegState::Live,
        }
    }

    /// Whether it is in use on slot `slot`.
    #[inline(always)]
    pub fn serves(self, slot: u32) -> bool {
        self.0 & (STATE | SLOT) == (LegState::Live as u64) << 42 | u64::from(slot) << 16
    }

    /// `CLASS_*`.
    #[inline(always)]
    pub fn classes(self) -> u8 {
        (self.0 >> 44) as u8 & 15
    }

    /// Whether it is on hold.
    pub fn is_on_hold(self) -> bool {
        self.0 & HOLD != 0
    }

    /// Whether its peer may move.
    #[inline(always)]
    pub fn follows(self) -> bool {
        self.0 & FOLLOW != 0
    }

    /// The type of service of packets that came with `tos`. ECN is the packet's own (RFC 3168 §5).
    #[inline(always)]
    pub fn tos(self, tos: u8) -> u8 {
        if self.0 & MARK == 0 {
            return tos;
        }
        ((self.0 >> 56) as u8) << 2 | tos & 3
    }

    /// The DSCP that it sets.
    pub fn dscp(self) -> Option<u8> {
        (self.0 & MARK != 0).then_some((self.0 >> 56) as u8)
    }
}

/// An endpoint as [`Leg::remote`] and [`Leg::fallback`] have it: address in the high half, port from bit 16, generation.
#[inline(always)]
pub fn peer_word(peer: Endpoint, generation: u16) -> u64 {
    u64::from(peer.addr) << 32 | u64::from(peer.port) << 16 | u64::from(generation)
}

/// The endpoint in such a word; `None` if there is none.
#[inline(always)]
pub fn peer_of(word: u64) -> Option<Endpoint> {
    (word >> 16 != 0).then_some(Endpoint::new((word >> 32) as u32, (word >> 16) as u16))
}

/// A gate for a prefix of `len` bits; `len` 0 is nobody, as relays for everybody are never wanted.
pub fn gate(addr: u32, len: u8) -> u64 {
    let mask = match len {
        0 => return 0,
        1..=31 => !(u32::MAX >> len),
        _ => u32::MAX,
    };
    u64::from(addr & mask) << 32 | u64::from(mask)
}

/// The leg that the partner of leg `number` most likely is: partners are neighbours, unless an earlier daemon chose them. Who partners
/// are is said by [`Leg::partner`] alone.
#[inline(always)]
pub fn neighbour(number: u32) -> u32 {
    number ^ 1
}

impl Leg {
    /// The peer, once it has been learned.
    pub fn peer(&self) -> Option<Endpoint> {
        peer_of(self.remote.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn words_keep_what_they_are_made_of(
            slot in 0u32..1 << 26, other in 0u32..1 << 26, classes in 0u8..16, generation: u16, hold: bool, follow: bool,
            dscp in proptest::option::of(0u8..64), tos: u8, copy: bool
        ) {
            let word = LegWord::new(slot, classes, generation).on_hold(hold).following(follow).marking(dscp).copying(copy);
            prop_assert_eq!(word.slot(), slot);
            prop_assert_eq!(word.classes(), classes);
            prop_assert_eq!(word.generation(), generation);
            prop_assert_eq!(word.state(), LegState::Live);
            prop_assert_eq!((word.is_on_hold(), word.follows(), word.dscp()), (hold, follow, dscp));
            prop_assert_eq!(word.copies(), copy);
            prop_assert_eq!(word.tos(tos), dscp.map_or(tos, |dscp| dscp << 2 | tos & 3));
            prop_assert!(word.serves(slot));
            prop_assert_eq!(word.serves(other), slot == other);
            prop_assert!(!word.in_state(LegState::Claimed).serves(slot));
            prop_assert_eq!(word.marking(None).on_hold(false).following(false).copying(false), LegWord::new(slot, classes, generation));
        }

        #[test]
        fn peers_keep_their_endpoint(addr: u32, port in 1u16.., generation: u16) {
            let peer = Endpoint::new(addr, port);
            prop_assert_eq!(peer_of(peer_word(peer, generation)), Some(peer));
        }
    }

    #[test]
    fn a_gate_for_everybody_is_none() {
        assert_eq!(gate(0xc000_0201, 0), 0);
        assert_eq!(gate(0xc000_02ff, 24), 0xc000_0200_ffff_ff00);
        assert_eq!(gate(0xc000_02ff, 32), 0xc000_02ff_ffff_ffff);
        assert_eq!(peer_of(peer_word(Endpoint::new(0, 0), 77)), None);
    }
}

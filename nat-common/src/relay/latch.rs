//! Who may send to a leg, and how the leg learns its peer.
//!
//! A leg learns the endpoint of the first packet that its gate lets through and that looks like the media expected (RFC 7983);
//! from then on it takes packets of that endpoint only. It learns anew after the daemon has armed it again, which a new offer or
//! answer does: what it knew is used until another endpoint is there or until the old one has gone on for a while. And it
//! follows a peer whose NAT has given it another endpoint in mid-stream: within the gate, with the SSRC and about the
//! sequence number that are expected, when the old endpoint has fallen silent a moment ago, and seldom.

use super::{CLASS_ANY, CLASS_DTLS, CLASS_RTP, CLASS_STUN, Leg, LegState, LegWord, peer_of, peer_word};
use crate::classify::{Class, Query, Way, destination};
use crate::config::{Config, FLAG_INSIDE_PREFIXES};
use crate::counters::{REFUSED, Reason, refused};
use crate::flow::{Endpoint, Side};
use crate::maps::AddressWord;
use crate::ports::slot_parts;
use crate::raw::opaque;
use crate::tables::Tables;

/// Seconds after which the old endpoint of a leg that was armed again is taken for the new one too.
const SETTLE: u32 = 3;
/// A peer that moves has been silent for a quarter of a second,
const SILENT: u32 = 4;
/// and not for longer than so many seconds.
const FORGOTTEN: u32 = 30;
/// Seconds between two moves of a peer.
const BETWEEN_MOVES: u32 = 10;
/// How far ahead the sequence number of a peer that moves may be: a minute of 20 ms packets (RFC 3550 §A.1, MAX_DROPOUT).
const AHEAD: u16 = 3000;

/// Shortest RTP packet (RFC 3550 §5.1).
const RTP_LEN: u32 = 12;
/// Shortest RTCP packet (RFC 3550 §6.4.2).
const RTCP_LEN: u32 = 8;
/// Shortest STUN message (RFC 8489 §5).
const STUN_LEN: u32 = 20;

/// What a leg counts of refused packets, in the order of [`Leg::refused`].
pub const REFUSALS: [Reason; 4] = [
    Reason::RelayGate,
    Reason::RelayClass,
    Reason::RelayOther,
    Reason::PeerNotLatched,
];

const GATE: usize = 0;
const WRONG_CLASS: usize = 1;
const OTHER: usize = 2;
const NOT_LATCHED: usize = 3;

/// A packet that was sent to a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Media {
    /// Its source, see [`peer_word`], with generation 0.
    pub source: u64,
    /// The way it came in by, [`crate::maps::ingress_key`].
    pub ingress: u64,
    /// The first eight bytes of its payload, as far as there are so many.
    pub start: u64,
    /// The next four bytes: the SSRC of RTP.
    pub ssrc: u32,
    /// Length of its payload.
    pub len: u32,
    /// Number of the leg.
    pub leg: u32,
    /// The side it came from.
    pub side: u32,
}

impl Media {
    /// The packet's class: a `CLASS_*` but [`CLASS_ANY`], or 0.
    #[inline(always)]
    pub fn class(&self) -> u8 {
        let first = (self.start >> 56) as u8;
        if first >> 6 == 2 {
            let least = if self.is_rtcp() { RTCP_LEN } else { RTP_LEN };
            return if self.len >= least { CLASS_RTP } else { 0 };
        }
        if (20..64).contains(&first) && self.len != 0 {
            return CLASS_DTLS;
        }
        if first < 4 && self.len >= STUN_LEN {
            CLASS_STUN
        } else {
            0
        }
    }

    /// Whether an RTP packet by its first byte is RTCP by the second one (RFC 5761 §4).
    #[inline(always)]
    pub fn is_rtcp(&self) -> bool {
        ((self.start >> 48) as u8).wrapping_sub(192) < 32
    }

    /// Sequence number of an RTP packet.
    #[inline(always)]
    pub fn sequence(&self) -> u16 {
        (self.start >> 32) as u16
    }

    /// Timestamp of an RTP packet.
    #[inline(always)]
    pub fn timestamp(&self) -> u32 {
        self.start as u32
    }

    /// Whether a leg with this word takes packets of this class.
    #[inline(always)]
    fn fits(&self, word: LegWord) -> bool {
        (self.class() | CLASS_ANY) & word.classes() != 0
    }

    /// Whether it is RTP of a leg with this word, about which something can be measured.
    #[inline(always)]
    pub fn is_rtp(&self, word: LegWord) -> bool {
        word.classes() & CLASS_ANY == 0 && self.class() == CLASS_RTP && !self.is_rtcp()
    }
}

impl Leg {
    /// Whether the packet is from the peer that is known, in by the same way as ever, and of a class that the leg takes: then it
    /// goes on without further questions. Else [`admit`] decides.
    #[inline(always)]
    pub fn knows(&self, word: LegWord, media: &Media) -> bool {
        let generation = u64::from(word.generation());
        let unknown =
            self.remote.get() ^ (media.source | generation) | self.via.get() ^ (media.ingress | generation << 48);
        unknown == 0 && media.fits(word)
    }

    /// Counts a refused packet.
    #[inline(always)]
    fn refuse(&self, what: usize) -> u32 {
        self.refused[what].add(1);
        refused(REFUSALS[what])
    }

    /// Whether a gate is open for `addr`.
    #[inline(always)]
    fn is_open_for(&self, addr: u32) -> bool {
        let mut open = 0;
        let mut i = 0;
        while i < super::GATES {
            let gate = self.gates[i].get();
            let differs = (gate >> 32) as u32 ^ addr & gate as u32;
            // Without a branch, as the verifier would follow every outcome.
            open |= u32::from(opaque(differs) == 0) & u32::from(opaque(gate as u32) != 0);
            i += 1;
        }
        open != 0
    }
}

/// Decides about a packet that [`Leg::knows`] does not know, and has the leg learn its source if it is to: 0, or `REFUSED` and the
/// reason, which the leg has counted. Whether it is asked once or more often makes no difference to a packet that is let through.
///
/// The route of the source is asked for only after everything else, and the leg, which may have changed meanwhile, once more then.
#[inline(always)]
pub fn let_in<T: Tables>(t: &T, cfg: &Config, media: &Media, now: u32) -> u32 {
    let refused_at_once = t.admit_media(cfg, media, now, false);
    if refused_at_once != 0 {
        return refused_at_once;
    }
    if !t.media_is_of_its_side(cfg, media, now) {
        return refused(Reason::Martian);
    }
    t.admit_media(cfg, media, now, true)
}

/// What the leg says of a packet: 0, or `REFUSED` and the reason, which it has counted. With `learn` it learns the source.
#[inline(always)]
pub fn admit<T: Tables>(t: &T, cfg: &Config, media: &Media, now: u32, learn: bool) -> u32 {
    let Some(leg) = t.leg(media.leg) else {
        return refused(Reason::NoBinding);
    };
    // Before the word: what has been cleared together with a new generation is then not replaced in the old one's name.
    let known = leg.remote.get();
    let word = LegWord(leg.word.get());
    if word.state() != LegState::Live {
        return refused(Reason::NoBinding);
    }
    let generation = u64::from(word.generation());
    let same = (known ^ media.source) >> 16 == 0;
    let learned = known & 0xffff == generation && known >> 16 != 0;
    // A peer that was learned from the fallen gate of an earlier generation has to pass the new one.
    if !(same && learned) && !leg.is_open_for((media.source >> 32) as u32) {
        return leg.refuse(GATE);
    }
    if !media.fits(word) {
        return leg.refuse(WRONG_CLASS);
    }
    if !same && learned && !leg.may_move(cfg, word, media, now) {
        return leg.refuse(OTHER);
    }
    if !learn {
        return 0;
    }
    let wanted = media.source | generation;
    let settled = now.wrapping_sub(leg.armed.get()) >= SETTLE * cfg.ticks_per_second;
    if known != wanted && (!same || settled) {
        if leg.remote.replace(known, wanted) {
            leg.latched.set(now);
            if learned {
                leg.moves.add(1);
                leg.moved.set(now);
            }
        } else if leg.remote.get() != wanted {
            // Another one was faster.
            return leg.refuse(OTHER);
        }
    }
    leg.via.set(media.ingress | generation << 48);
    0
}

impl Leg {
    /// Whether a packet from another endpoint than the peer's shows that the peer's NAT has given it that one.
    #[inline(always)]
    fn may_move(&self, cfg: &Config, word: LegWord, media: &Media, now: u32) -> bool {
        let stream = self.stream.get();
        let second = cfg.ticks_per_second;
        let silence = now.wrapping_sub(self.last.get());
        let since = now.wrapping_sub(self.moved.get());
        word.follows()
            && media.is_rtp(word)
            && stream != 0
            && (stream >> 32) as u32 == media.ssrc
            && media.sequence().wrapping_sub(stream as u16) < AHEAD
            && silence >= second / SILENT
            && silence <= FORGOTTEN * second
            && (self.moves.get() == 0 || since >= BETWEEN_MOVES * second)
    }
}

/// A packet from outside must not claim to come from inside or from the router; one from inside must come from a host that the
/// routing table has there.
#[inline(always)]
pub fn is_of_its_side<T: Tables>(t: &T, cfg: &Config, media: &Media, now: u32) -> bool {
    let source = (media.source >> 32) as u32;
    let query = Query {
        device: (media.ingress >> 16) as u32,
        vlan: media.ingress as u16,
        source,
        addr: source,
        tos: 0,
        now,
        leg: 0,
    };
    let mut back = Way::UNKNOWN;
    if !destination(t, cfg, &query, &mut back) {
        return false;
    }
    let inside = match back.class {
        Class::Inside => true,
        Class::NoNeighbour => back.beyond == Side::Inside,
        _ => false,
    };
    if media.side == Side::Inside as u32 {
        return inside && (!cfg.has(FLAG_INSIDE_PREFIXES) || t.inside_prefix(source));
    }
    !inside && !matches!(back.class, Class::External | Class::Local)
}

/// Where a packet leaves and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The partner's external endpoint.
    pub source: Endpoint,
    /// The partner's peer.
    pub destination: Endpoint,
    /// The partner's number plus one.
    pub leg: u32,
}

/// The next hop of what came in by leg `number`.
///
/// # Errors
/// [`Reason::PeerNotLatched`], counted by the leg, if the partner knows no peer; [`Reason::NoBinding`] if there is no partner
/// (any more).
#[inline(always)]
pub fn onward<T: Tables>(t: &T, leg: &Leg, number: u32) -> Result<Hop, Reason> {
    let beyond = leg.partner.get();
    let partner = t.leg(beyond.wrapping_sub(1)).ok_or(Reason::NoBinding)?;
    let word = LegWord(partner.word.get());
    if word.state() != LegState::Live || partner.partner.get() != number.wrapping_add(1) {
        return Err(Reason::NoBinding);
    }
    let source = alias(t, partner, word).ok_or(Reason::NoBinding)?;
    let mut peer = partner.remote.get();
    if peer >> 16 == 0 {
        peer = partner.fallback.get();
    }
    match peer_of(peer) {
        Some(destination) => Ok(Hop {
            source,
            destination,
            leg: beyond,
        }),
        None => {
            leg.refuse(NOT_LATCHED);
            Err(Reason::PeerNotLatched)
        }
    }
}

/// The external endpoint of a leg, unless its address has become another one.
#[inline(always)]
pub fn alias<T: Tables>(t: &T, leg: &Leg, word: LegWord) -> Option<Endpoint> {
    let (address, _, port) = slot_parts(word.slot());
    let address = AddressWord(t.address(address)?.word.get());
    let holds = address.active() && u32::from(address.generation()) == leg.address_generation.get();
    holds.then_some(Endpoint::new(address.addr(), port))
}

/// Whether a number that [`admit`] returned says no, and the reason.
#[inline(always)]
pub fn denial(number: u32) -> Option<Reason> {
    const CAN_BE: [Reason; 5] = [
        Reason::NoBinding,
        Reason::RelayGate,
        Reason::RelayClass,
        Reason::RelayOther,
        Reason::Martian,
    ];
    if number & REFUSED == 0 {
        return None;
    }
    let mut found = Reason::NoBinding;
    let mut i = 0;
    while i < CAN_BE.len() {
        if number == refused(CAN_BE[i]) {
            found = CAN_BE[i];
        }
        i += 1;
    }
    Some(found)
}

/// A source as [`Media::source`] has it.
#[inline(always)]
pub fn source(of: Endpoint) -> u64 {
    peer_word(of, 0)
}

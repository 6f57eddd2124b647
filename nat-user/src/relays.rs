//! The daemon's handle on the media relay: opens, arms, watches and closes legs; packets are relayed by the data path alone.
//!
//! The daemon is the only one who opens and closes. A leg's entry and its slot are pinned with all tables, so a daemon that starts
//! finds the legs of the one before ([`Relays::recover`]) and maps their numbers ([`LegView::call`], [`LegView::tag`]) back to
//! its calls.

mod ports;
pub mod record;
#[cfg(test)]
mod tests;
pub mod totals;

use std::collections::{BTreeSet, HashMap, VecDeque};

use nat_common::{
    config::{Config as Numbers, FOREVER},
    counters::Reason,
    flow::{Endpoint, Proto},
    maps::{AddressWord, KIND_RELAY, PORTS, SlotState, SlotWord},
    ports::{release_port, slot_index, slot_parts, used_place},
    relay::{
        GATES, Leg, LegState, LegWord,
        latch::{REFUSALS, alias},
        neighbour, peer_of, peer_word,
        quality::{Quality, rate, scale},
    },
    tables::Tables,
};

pub use nat_common::relay::{CLASS_ANY, CLASS_DTLS, CLASS_RTP, CLASS_STUN};
pub use ports::is_owner;

use self::totals::Totals;
use crate::media::{command::RelayId, mos::Codec};

/// What every operation needs to know.
pub struct At<'a, T> {
    /// The tables.
    pub t: &'a T,
    /// The configuration in force.
    pub cfg: &'a Numbers,
    /// Now, in ticks.
    pub now: u32,
}

/// Whom a leg may learn: a prefix of source addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Address, host order.
    pub addr: u32,
    /// Length of the prefix in bits, 1 to 32.
    pub len: u8,
}

impl Gate {
    /// A gate for one address.
    pub fn host(addr: u32) -> Self {
        Self { addr, len: 32 }
    }
}

/// Whom a leg may learn, and where packets go before it has. Without a gate it learns nobody, as it should while the answer is
/// still to come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// At most two gates: that of the signalling's source, and that of a public address in the SDP.
    pub gates: Vec<Gate>,
    /// The peer's public RTP endpoint in the SDP, if it has one.
    pub rtp: Option<Endpoint>,
    /// Likewise for RTCP (RFC 3605, or the port above).
    pub rtcp: Option<Endpoint>,
}

/// One side of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// Number of the external address that its legs are on.
    pub address: u32,
    /// Who sends to them.
    pub peer: Peer,
}

/// A stream to relay: what one m-line negotiates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The daemon's number of the call.
    pub call: u64,
    /// The daemon's number of the stream within the call.
    pub number: u32,
    /// RTP and RTCP on two ports, even and odd (RFC 3550 §11); else on one (RFC 5761), as for media that is not RTP.
    pub pair: bool,
    /// `CLASS_*`: what may come.
    pub classes: u8,
    /// RTP clock rate in Hz; 0 if not known.
    pub clock_rate: u32,
    /// DSCP (RFC 2474) that packets leave with; `None`: their own.
    pub dscp: Option<u8>,
    /// Whether a peer may move to another endpoint in mid-stream: its NAT rebinds.
    pub follow: bool,
    /// Both sides.
    pub sides: [Side; 2],
}

/// A leg that was opened. It names its use, so that an old one does nothing to whoever has the leg next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LegId {
    /// Number of the leg.
    pub number: u32,
    /// Its slot.
    slot: u32,
    /// The call that it was opened for.
    call: u64,
}

/// [`Stream::number`] of a stream that is held in reserve: its legs and ports are nobody else's, and it relays nothing.
pub const RESERVED: u32 = u32::MAX;

/// An opened leg and its external endpoint, which goes into the SDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The leg.
    pub id: LegId,
    /// Where its peer is to send.
    pub external: Endpoint,
}

/// The legs of one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenedSide {
    /// RTP; with [`Stream::pair`] unset everything.
    pub rtp: Opened,
    /// RTCP, with [`Stream::pair`].
    pub rtcp: Option<Opened>,
}

impl OpenedSide {
    /// RTP, and RTCP if it has a leg of its own.
    pub fn legs(&self) -> impl Iterator<Item = Opened> + use<> {
        [Some(self.rtp), self.rtcp].into_iter().flatten()
    }
}

/// Which leg of a call it is: stream, side and component, in [`Leg::tag`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag {
    /// [`Stream::number`].
    pub stream: u32,
    /// 0 or 1: place in [`Stream::sides`].
    pub side: u8,
    /// Whether it is the RTCP leg of a pair.
    pub rtcp: bool,
}

/// Where [`Leg::tag`] has the number of the codec.
const CODEC: u32 = 8;

impl Tag {
    fn word(self) -> u64 {
        u64::from(self.stream) << 32 | u64::from(self.side & 1) << 1 | u64::from(self.rtcp)
    }

    fn of(word: u64) -> Self {
        Self {
            stream: (word >> 32) as u32,
            side: (word >> 1) as u8 & 1,
            rtcp: word & 1 == 1,
        }
    }
}

/// Why a relay could not be opened or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RelayError {
    /// All legs are in use.
    #[error("all legs of the relay are in use; raise nat.relay_legs and start anew after `sipnat detach`")]
    NoLegs,
    /// There is no port.
    #[error("no port for a leg of the relay: {}", .0.name())]
    NoPort(Reason),
    /// The external address is not in use.
    #[error("external address number {0} is not in use")]
    NoAddress(u32),
    /// The leg has been closed.
    #[error("leg {0} of the relay has been closed")]
    Closed(u32),
}

/// Who has which leg. Where the legs themselves are, in the tables, packets use them without asking.
#[derive(Debug, Default)]
pub struct Relays {
    /// Even numbers of legs that are nobody's, as the next ones are; the one that has been so for longest is taken first. Partners are
    /// neighbours, which the data path hopes for ([`nat_common::relay::neighbour`]).
    free: VecDeque<u32>,
    /// What legs had seen that have been closed.
    closed: Totals,
}

/// What [`Relays::recover`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Legs in use.
    pub legs: usize,
    /// Legs and ports that an earlier daemon had not opened or closed whole; they have been.
    pub mended: usize,
}

impl Relays {
    /// Takes over the legs that the tables hold. What was not opened or closed whole when the daemon before ended is closed.
    pub fn recover<T: Tables>(at: &At<T>) -> (Self, Recovered) {
        let mut relays = Self::default();
        let mut found = Recovered::default();
        let mut number = 0;
        while let Some(leg) = at.t.leg(number) {
            let word = LegWord(leg.word.get());
            let whole = word.state() == LegState::Live
                && serves(at.t, number, word)
                && partner_of(at.t, leg).is_some_and(|partner| partner.partner.get() == number + 1);
            if whole {
                found.legs += 1;
                // Whoever captured has gone with its daemon.
                leg.word.set(word.copying(false).0);
            } else if word.state() != LegState::Free {
                found.mended += 1;
                end(at, number, leg);
            }
            number += 1;
        }
        for pair in (0..number).step_by(2) {
            relays.let_go(at.t, pair);
        }
        found.mended += retire_orphans(at);
        (relays, found)
    }

    /// Legs that are nobody's.
    pub fn free(&self) -> usize {
        2 * self.free.len()
    }

    /// Enters a leg that nobody has any more with its neighbour, once that is nobody's either.
    fn let_go<T: Tables>(&mut self, t: &T, number: u32) {
        let is_free = |number| {
            t.leg(number)
                .is_some_and(|leg| LegWord(leg.word.get()).state() == LegState::Free)
        };
        let pair = number & !1;
        if is_free(pair) && is_free(neighbour(pair)) {
            self.free.push_back(pair);
        }
    }

    /// Opens a stream: two legs, or four with [`Stream::pair`]. Packets are relayed when this returns.
    ///
    /// # Errors
    /// If there is no leg, port or address; nothing has been opened then.
    pub fn open<T: Tables>(&mut self, at: &At<T>, stream: &Stream) -> Result<[OpenedSide; 2], RelayError> {
        let components = 1 + u32::from(stream.pair);
        if self.free.len() < components as usize {
            return Err(RelayError::NoLegs);
        }
        let [first, second] = [&stream.sides[0], &stream.sides[1]].map(|side| side.address);
        let mut taken = Vec::new();
        for address in [first, second] {
            match take(at, address, stream.pair) {
                Ok(slot) => taken.push(slot),
                Err(error) => {
                    let ports = taken.iter().flat_map(|slot| (0..components).map(move |c| slot + c));
                    ports.for_each(|slot| release_port(at.t, slot));
                    return Err(error);
                }
            }
        }
        let mut opened = Vec::new();
        for component in 0..components {
            // There are as many as were asked for above.
            let first = self.free.pop_front().unwrap_or_default();
            let numbers = [first, neighbour(first)];
            for (side, number) in numbers.into_iter().enumerate() {
                let rtcp = component == 1;
                let tag = Tag {
                    stream: stream.number,
                    side: side as u8,
                    rtcp,
                };
                let plan = Plan {
                    number,
                    slot: taken[side] + component,
                    partner: numbers[1 - side],
                    tag,
                };
                opened.push(write(at, stream, &plan));
            }
        }
        // Both partners are written before the first packet finds one of them.
        for leg in &opened {
            go_live(at, leg.id);
        }
        Ok([0, 1].map(|side| OpenedSide {
            rtp: opened[side],
            rtcp: opened.get(side + 2).copied(),
        }))
    }

    /// Gives a stream the legs and ports of one that was opened before, with as many components, which ends that one's use.
    pub fn reopen<T: Tables>(&mut self, at: &At<T>, legs: [OpenedSide; 2], stream: &Stream) -> [OpenedSide; 2] {
        let [one, other] = legs;
        let again = |rtcp: bool, side: u8, leg: Opened, partner: Opened| {
            let tag = Tag {
                stream: stream.number,
                side,
                rtcp,
            };
            let plan = Plan {
                number: leg.id.number,
                slot: leg.id.slot,
                partner: partner.id.number,
                tag,
            };
            write(at, stream, &plan)
        };
        let pair = |rtcp, one, other| [again(rtcp, 0, one, other), again(rtcp, 1, other, one)];
        let rtp = pair(false, one.rtp, other.rtp);
        let rtcp = one.rtcp.zip(other.rtcp).map(|(one, other)| pair(true, one, other));
        for leg in rtp.iter().chain(rtcp.iter().flatten()) {
            go_live(at, leg.id);
        }
        [0, 1].map(|side| OpenedSide {
            rtp: rtp[side],
            rtcp: rtcp.map(|rtcp| rtcp[side]),
        })
    }

    /// Closes a leg; its partner's packets are dropped from then on. The port rests as every port does.
    pub fn close<T: Tables>(&mut self, at: &At<T>, id: LegId) {
        if let Some(leg) = used(at.t, id) {
            if let Some(view) = view(at.t, id.number, leg) {
                self.closed.add(&view);
            }
            end(at, id.number, leg);
            self.let_go(at.t, id.number);
        }
    }

    /// What all legs have seen that were closed since the daemon started.
    pub fn closed(&self) -> &Totals {
        &self.closed
    }

    /// Closes all legs of a call; how many there were.
    pub fn close_call<T: Tables>(&mut self, at: &At<T>, call: u64) -> usize {
        let legs: Vec<LegId> = views(at.t)
            .filter(|view| view.id.call == call)
            .map(|view| view.id)
            .collect();
        legs.iter().for_each(|id| self.close(at, *id));
        legs.len()
    }
}

/// How a leg is armed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arming {
    /// Whom it may learn from now on.
    pub gates: Vec<Gate>,
    /// Where packets go as long as it has not learned anybody.
    pub fallback: Option<Endpoint>,
    /// Packets go to the peer that is known until another one has been learned: for an offer or answer that may have changed
    /// nothing. Else that peer is forgotten at once.
    pub keep: bool,
}

/// Lets a leg learn its peer anew, as a new offer or answer from its side does.
///
/// # Errors
/// If the leg has been closed.
pub fn arm<T: Tables>(at: &At<T>, id: LegId, arming: &Arming) -> Result<(), RelayError> {
    let leg = used(at.t, id).ok_or(RelayError::Closed(id.number))?;
    set_gates(leg, &arming.gates);
    set_fallback(leg, arming.fallback);
    leg.armed.set(at.now);
    let word = LegWord(leg.word.get());
    let generation = word.generation().wrapping_add(1);
    leg.word.set(word.in_generation(generation).0);
    if !arming.keep {
        forget(leg, generation);
    }
    Ok(())
}

/// Puts a leg on hold or takes it off: packets go on, but [`LegView::hold`] tells that silence is no sign of an end.
///
/// # Errors
/// If the leg has been closed.
pub fn hold<T: Tables>(at: &At<T>, id: LegId, hold: bool) -> Result<(), RelayError> {
    let leg = used(at.t, id).ok_or(RelayError::Closed(id.number))?;
    leg.word.set(LegWord(leg.word.get()).on_hold(hold).0);
    Ok(())
}

/// Lets a leg take packets of other `CLASS_*`, with an RTP clock rate in Hz (0 if not known): what its stream carries has changed.
///
/// # Errors
/// If the leg has been closed.
pub fn expect<T: Tables>(at: &At<T>, id: LegId, classes: u8, clock_rate: u32) -> Result<(), RelayError> {
    let leg = used(at.t, id).ok_or(RelayError::Closed(id.number))?;
    leg.word.set(LegWord(leg.word.get()).of_classes(classes).0);
    leg.clock.set(scale(clock_rate));
    Ok(())
}

/// Has the daemon be given copies of a leg's packets, or not any more. They take the thorough way as long as they are copied.
///
/// # Errors
/// If the leg has been closed.
pub fn copy<T: Tables>(at: &At<T>, id: LegId, on: bool) -> Result<(), RelayError> {
    let leg = used(at.t, id).ok_or(RelayError::Closed(id.number))?;
    leg.word.set(LegWord(leg.word.get()).copying(on).0);
    Ok(())
}

/// Tells what a leg carries, for the estimate of how it sounds. An RTCP leg carries nothing that sounds.
///
/// # Errors
/// If the leg has been closed.
pub fn carry<T: Tables>(at: &At<T>, id: LegId, codec: Codec) -> Result<(), RelayError> {
    let leg = used(at.t, id).ok_or(RelayError::Closed(id.number))?;
    let word = leg.tag.get() & !(0xff << CODEC);
    leg.tag.set(word | u64::from(codec as u8) << CODEC);
    Ok(())
}

/// What is known of a leg. Times are in ticks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegView {
    /// The leg.
    pub id: LegId,
    /// The call that it was opened for.
    pub call: u64,
    /// Which of the call's legs it is.
    pub tag: Tag,
    /// Number of its partner.
    pub partner: u32,
    /// Its external endpoint; `None` if that address is not the router's any more, so that nothing is relayed.
    pub external: Option<Endpoint>,
    /// Its peer, once it is known.
    pub peer: Option<Endpoint>,
    /// Where packets go before.
    pub fallback: Option<Endpoint>,
    /// Whether it may learn a peer at the moment.
    pub armed: bool,
    /// Whether it is on hold.
    pub hold: bool,
    /// `CLASS_*`.
    pub classes: u8,
    /// DSCP that the peer's packets leave with; `None`: their own.
    pub dscp: Option<u8>,
    /// RTP clock rate in Hz; 0 if not known.
    pub clock_rate: u32,
    /// What its stream carries.
    pub codec: Codec,
    /// When it was opened.
    pub created: u32,
    /// When the peer was learned; `None` if it is not.
    pub latched: Option<u32>,
    /// When the peer sent last; when the leg was opened, if never.
    pub last: u32,
    /// Packets that came from the peer.
    pub packets: u64,
    /// Bytes of their IP packets.
    pub bytes: u64,
    /// What was seen of the peer's RTP.
    pub quality: Quality,
    /// Round-trip time between relay and peer, in units of 1/65536 s.
    pub round_trip: Option<u32>,
    /// How often the peer moved in mid-stream.
    pub moves: u32,
    /// Packets refused by reason.
    pub refused: [(Reason, u32); REFUSALS.len()],
}

/// All legs in use.
pub fn views<T: Tables>(t: &T) -> impl Iterator<Item = LegView> {
    live(t).filter(|view| view.tag.stream != RESERVED)
}

/// All legs, those in reserve too.
fn live<T: Tables>(t: &T) -> impl Iterator<Item = LegView> {
    (0..)
        .map_while(move |number| t.leg(number).map(|leg| (number, leg)))
        .filter_map(move |(number, leg)| view(t, number, leg))
}

/// The streams that relay, or that are held in reserve, each with the legs of both its sides, by their calls. Only for those who give each
/// stream a number of its own as its call. Streams of which a side relays nothing any more (its address is another one now) are left out.
pub fn streams<T: Tables>(t: &T, reserved: bool) -> HashMap<u64, [OpenedSide; 2]> {
    let mut legs: HashMap<u64, [[Option<Opened>; 2]; 2]> = HashMap::new();
    for view in live(t).filter(|view| (view.tag.stream == RESERVED) == reserved) {
        let (side, component) = (usize::from(view.tag.side), usize::from(view.tag.rtcp));
        legs.entry(view.call).or_default()[side][component] =
            view.external.map(|external| Opened { id: view.id, external });
    }
    let side = |[rtp, rtcp]: [Option<Opened>; 2]| Some(OpenedSide { rtp: rtp?, rtcp });
    let streams = legs.into_iter();
    streams
        .filter_map(|(call, [one, other])| Some((call, [side(one)?, side(other)?])))
        .collect()
}

/// The relays of which a leg is on an external address that is not the router's any more.
pub fn stranded<T: Tables>(t: &T) -> Vec<RelayId> {
    let stranded = views(t).filter(|view| view.external.is_none());
    let calls: BTreeSet<u64> = stranded.map(|view| view.call).collect();
    calls.into_iter().map(RelayId).collect()
}

/// What is known of a leg; `None` if it has been closed.
pub fn find<T: Tables>(t: &T, id: LegId) -> Option<LegView> {
    view(t, id.number, used(t, id)?)
}

/// What is known of leg `number`; `None` if it is nobody's.
pub fn in_use<T: Tables>(t: &T, number: u32) -> Option<LegView> {
    view(t, number, t.leg(number)?)
}

fn view<T: Tables>(t: &T, number: u32, leg: &Leg) -> Option<LegView> {
    let word = LegWord(leg.word.get());
    if word.state() != LegState::Live {
        return None;
    }
    let remote = leg.remote.get();
    let peer = peer_of(remote);
    let packets = leg.packets.get();
    let view = LegView {
        id: LegId {
            number,
            slot: word.slot(),
            call: leg.call.get(),
        },
        call: leg.call.get(),
        tag: Tag::of(leg.tag.get()),
        partner: leg.partner.get().wrapping_sub(1),
        external: alias(t, leg, word),
        peer,
        fallback: peer_of(leg.fallback.get()),
        armed: peer.is_none() || remote as u16 != word.generation(),
        hold: word.is_on_hold(),
        classes: word.classes(),
        dscp: word.dscp(),
        clock_rate: rate(leg.clock.get()),
        codec: Codec::from_number((leg.tag.get() >> CODEC) as u8),
        created: leg.created.get(),
        latched: peer.map(|_| leg.latched.get()),
        last: leg.last.get(),
        packets,
        bytes: leg.bytes.get(),
        quality: Quality::of(leg),
        round_trip: Some(leg.round_trip.get()).filter(|time| *time != 0),
        moves: leg.moves.get(),
        refused: std::array::from_fn(|n| (REFUSALS[n], leg.refused[n].get())),
    };
    // A leg that has changed hands while it was read is not reported with parts of both.
    (leg.word.get() == word.0).then_some(view)
}

/// The leg, if it is still in the use that `id` names.
fn used<T: Tables>(t: &T, id: LegId) -> Option<&Leg> {
    let leg = t.leg(id.number)?;
    (LegWord(leg.word.get()).serves(id.slot) && leg.call.get() == id.call).then_some(leg)
}

fn partner_of<'t, T: Tables>(t: &'t T, leg: &Leg) -> Option<&'t Leg> {
    let partner = t.leg(leg.partner.get().checked_sub(1)?)?;
    (LegWord(partner.word.get()).state() == LegState::Live).then_some(partner)
}

/// Whether the slot that a leg names names the leg.
fn serves<T: Tables>(t: &T, number: u32, word: LegWord) -> bool {
    t.slot(word.slot()).is_some_and(|slot| {
        SlotWord(slot.word.get()).state() == SlotState::Live && slot.is_relay() && slot.inside_addr.get() == number
    })
}

fn take<T: Tables>(at: &At<T>, address: u32, pair: bool) -> Result<u32, RelayError> {
    address_word(at, address)
        .filter(|word| word.active())
        .ok_or(RelayError::NoAddress(address))?;
    ports::take(at.t, at.cfg, address, pair, at.now).map_err(RelayError::NoPort)
}

fn address_word<T: Tables>(at: &At<T>, address: u32) -> Option<AddressWord> {
    Some(AddressWord(at.t.address(address)?.word.get()))
}

/// A leg to be written.
struct Plan {
    number: u32,
    slot: u32,
    partner: u32,
    tag: Tag,
}

/// Writes a leg, which no packet finds yet.
fn write<T: Tables>(at: &At<T>, stream: &Stream, plan: &Plan) -> Opened {
    let (address, _, port) = slot_parts(plan.slot);
    let external = address_word(at, address).unwrap_or_default();
    let peer = &stream.sides[usize::from(plan.tag.side)].peer;
    let id = LegId {
        number: plan.number,
        slot: plan.slot,
        call: stream.call,
    };
    let opened = Opened {
        id,
        external: Endpoint::new(external.addr(), port),
    };
    let Some(leg) = at.t.leg(plan.number) else {
        return opened;
    };
    let generation = LegWord(leg.word.get()).generation().wrapping_add(1);
    let word = LegWord::new(plan.slot, stream.classes, generation)
        .following(stream.follow)
        .marking(stream.dscp)
        .in_state(LegState::Claimed);
    leg.word.set(word.0);
    forget(leg, generation);
    set_gates(leg, &peer.gates);
    set_fallback(leg, if plan.tag.rtcp { peer.rtcp } else { peer.rtp });
    leg.via.set(0);
    leg.partner.set(plan.partner + 1);
    leg.clock.set(scale(stream.clock_rate));
    leg.address_generation.set(u32::from(external.generation()));
    leg.armed.set(at.now);
    leg.created.set(at.now);
    leg.last.set(at.now);
    leg.call.set(stream.call);
    leg.tag.set(plan.tag.word());
    for count in [
        &leg.packets,
        &leg.bytes,
        &leg.stream,
        &leg.transit,
        &leg.before,
        &leg.report,
    ] {
        count.set(0);
    }
    for count in [
        &leg.base,
        &leg.late,
        &leg.others,
        &leg.ssrc_changes,
        &leg.latched,
        &leg.round_trip,
        &leg.moves,
        &leg.moved,
    ]
    .into_iter()
    .chain(&leg.refused)
    {
        count.set(0);
    }
    opened
}

/// Lets packets find a leg that has been written.
fn go_live<T: Tables>(at: &At<T>, id: LegId) {
    let (Some(leg), Some(slot)) = (at.t.leg(id.number), at.t.slot(id.slot)) else {
        return;
    };
    let generation = SlotWord(slot.word.get()).generation().wrapping_add(1);
    slot.word.set(SlotWord::new(SlotState::Claimed, generation, at.now).0);
    slot.inside_addr.set(id.number);
    slot.inside_port.set(0);
    slot.kind.set(KIND_RELAY);
    slot.lifetime.set(FOREVER);
    slot.established.set(0);
    slot.created.set(at.now);
    slot.address_generation.set(leg.address_generation.get() as u16);
    slot.word.set(SlotWord::new(SlotState::Live, generation, at.now).0);
    leg.word.set(LegWord(leg.word.get()).in_state(LegState::Live).0);
}

/// Ends the use of a leg and of its port, which rests from now on.
fn end<T: Tables>(at: &At<T>, number: u32, leg: &Leg) {
    let word = LegWord(leg.word.get());
    // In another generation, so that what a packet is about to learn at this moment is worth nothing.
    let generation = word.generation().wrapping_add(1);
    leg.word.set(word.in_state(LegState::Free).in_generation(generation).0);
    forget(leg, generation);
    if serves(at.t, number, word) {
        retire(at, word.slot());
    }
}

/// Ends the use of a port.
fn retire<T: Tables>(at: &At<T>, index: u32) {
    let Some(slot) = at.t.slot(index) else { return };
    let word = SlotWord(slot.word.get());
    slot.word
        .replace(word.0, SlotWord::new(SlotState::Resting, word.generation(), at.now).0);
}

/// Ends ports whose leg is not theirs; how many there were.
fn retire_orphans<T: Tables>(at: &At<T>) -> usize {
    let mut orphans = 0;
    for address in 0..at.cfg.addresses {
        let base = slot_index(address, Proto::Udp, 0);
        for index in base..base + PORTS {
            let (place, bit) = used_place(index);
            let taken = at.t.used_ports(place).is_some_and(|used| used.get() & bit != 0);
            let slot = at.t.slot(index).filter(|slot| taken && slot.is_relay());
            let Some(slot) = slot else { continue };
            let theirs =
                at.t.leg(slot.inside_addr.get())
                    .is_some_and(|leg| LegWord(leg.word.get()).serves(index));
            if SlotWord(slot.word.get()).state() == SlotState::Live && !theirs {
                retire(at, index);
                orphans += 1;
            }
        }
    }
    orphans
}

/// Makes a leg's peer unknown. A packet may learn one at the same moment.
fn forget(leg: &Leg, generation: u16) {
    while !leg
        .remote
        .replace(leg.remote.get(), peer_word(Endpoint::new(0, 0), generation))
    {}
}

fn set_gates(leg: &Leg, gates: &[Gate]) {
    for (place, cell) in leg.gates.iter().enumerate().take(GATES) {
        cell.set(
            gates
                .get(place)
                .map_or(0, |gate| nat_common::relay::gate(gate.addr, gate.len)),
        );
    }
}

fn set_fallback(leg: &Leg, fallback: Option<Endpoint>) {
    leg.fallback.set(fallback.map_or(0, |peer| peer_word(peer, 0)));
}

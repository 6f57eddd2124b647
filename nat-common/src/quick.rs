//! The short way: a packet of a flow about which everything is known already, from its headers to its rewriting in one piece.
//!
//! It decides nothing: whatever is not exactly as expected (options, fragments, a VLAN, a new flow, an unknown way, an
//! expired binding …) is left untouched for [`crate::translate`], which knows what to do and what reason to count. Both
//! ways give the same packet; `tests/quick.rs` compares them.

use crate::binding::{live, owns, young};
use crate::checksum::{Delta, fold};
use crate::classify::{Class, Query, cached};
use crate::config::{Config, FLAG_COUNTING, FLAG_REFRESH_IN, State};
use crate::counters::Reason;
use crate::flow::{Endpoint, InsideKey, Proto, Side};
use crate::index::{self, Found, Place};
use crate::maps::{AddressWord, Destination};
use crate::packet::{ETHERNET_LEN, ETHERTYPE_IPV4, Head, Packet};
use crate::parse::{DF, MF, OFFSET};
use crate::ports::{slot_index, slot_parts};
use crate::session::SYN;
use crate::stage;
use crate::tables::Tables;
use crate::translate::{Use, martian, used};
use crate::verdict::Outcome;
use crate::watch::watches;

/// Offset of the checksum in a UDP packet (RFC 768).
const UDP_CHECK: usize = 40;
/// Offset of the checksum in a TCP packet (RFC 9293 §3.1).
const TCP_CHECK: usize = 50;

/// Translates and writes one packet, or [`Outcome::GO_ON`] if it is not one of those, or [`Outcome::relay`].
#[inline(always)]
pub fn translate<P: Packet, T: Tables>(p: &mut P, t: &T, side: Side, device: u32) -> Outcome {
    match side {
        Side::Inside => from_inside(p, t, device),
        Side::Outside => from_outside(p, t, device),
    }
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn from_inside<P: Packet, T: Tables>(p: &mut P, t: &T, device: u32) -> Outcome {
    outward::<false, _, _>(p, t, device).unwrap_or(Outcome::GO_ON)
}

/// The second stage ([`stage`]) of a packet from inside, if it is one of those.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn translate_late<P: Packet, T: Tables>(p: &mut P, t: &T, device: u32) -> Outcome {
    stage::fetch(t);
    outward::<true, _, _>(p, t, device).unwrap_or(Outcome::GO_ON)
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn from_outside<P: Packet, T: Tables>(p: &mut P, t: &T, device: u32) -> Outcome {
    inward(p, t, device).unwrap_or(Outcome::GO_ON)
}

/// What is in force.
#[derive(Clone, Copy)]
pub struct Now<'t> {
    /// The configuration.
    pub cfg: &'t Config,
    /// Time in ticks.
    pub ticks: u32,
    /// Of routes.
    pub generation: u32,
    /// Processors that may run the program.
    pub cpus: u32,
    /// See [`State::staged`].
    pub staged: bool,
}

impl<'t> Now<'t> {
    /// Asks the tables; `None` if there is no configuration yet.
    #[inline(always)]
    pub fn of<T: Tables>(t: &'t T) -> Option<Self> {
        let state: &State = t.state()?;
        Some(Self {
            cfg: t.config(state.active.wrapping_sub(1))?,
            ticks: t.now(state),
            generation: state.route_generation,
            cpus: state.cpus,
            staged: state.staged != 0,
        })
    }
}

#[inline(always)]
fn outward<const LATE: bool, P: Packet, T: Tables>(p: &mut P, t: &T, device: u32) -> Option<Outcome> {
    let head = p.head().filter(ordinary)?;
    let now = &Now::of(t)?;
    let key = key_of(&head);
    let place = Place::of(now.cfg, &key);
    if !LATE
        && now.staged
        && let Some(staged) = stage::put_off(p, t, now, &head, &place, device)
    {
        return Some(staged);
    }
    let probe = index::probe(t, &place)?;
    let h = Plain::of(p, &head, now.cfg)?;
    if h.is_watched(now.cfg, h.destination.port) {
        return None;
    }
    let way = h.way(t, now, device, h.destination.addr)?;
    if !h.leaves_by(way) {
        return to_relay(t, &h, way);
    }
    // In the shadow of the probe.
    if !LATE && !t.announce(way.port.get()) {
        return None;
    }
    let found = index::find_quickly(t, &place, &probe)?;
    let slot = found.word.slot();
    let (address, _, port) = slot_parts(slot);
    let address = AddressWord(t.address(address)?.word.get());
    if now.cfg.tracks(h.proto) || now.cfg.has(FLAG_COUNTING) {
        if !owns(t, now.cfg, slot, &key, now.ticks) {
            return None;
        }
        let packet = h.used(now, slot, Side::Inside, h.source, h.destination);
        if let Err(reason) = used(t, now.cfg, &packet) {
            return Some(reason.into());
        }
    } else if !alive(now, h.proto, address, &found) || !stamp(now, &found) {
        return None;
    }
    let outside = Endpoint::new(address.addr(), port);
    let mut ip = head.ip;
    let mut header = Delta::new().long(h.source.addr, outside.addr);
    let transport = header.word(h.source.port, outside.port);
    if ip[0] & u64::from(DF) == 0 {
        let (old, id) = ((ip[0] >> 16) as u16, t.next_id(now.cpus));
        ip[0] = ip[0] & !0xffff_0000 | u64::from(id) << 16;
        header = header.word(old, id);
    }
    ip[1] = h.life(&head, header) | u64::from(outside.addr);
    ip[2] = ip[2] & !0xffff_0000 | u64::from(outside.port) << 16;
    h.write(p, way, &ip, transport)?;
    Some(Outcome::announced(Reason::Outbound, way.port.get()))
}

#[inline(always)]
fn inward<P: Packet, T: Tables>(p: &mut P, t: &T, device: u32) -> Option<Outcome> {
    let head = p.head().filter(ordinary)?;
    let now = &Now::of(t)?;
    let h = Plain::of(p, &head, now.cfg)?;
    if h.is_watched(now.cfg, h.source.port) {
        return None;
    }
    let ours = h.way(t, now, device, h.destination.addr)?;
    if ours.class.get() != Class::External as u8 {
        return None;
    }
    let index = slot_index(ours.index.get(), h.proto, h.destination.port);
    let slot = t.slot(index)?;
    if slot.is_relay() {
        return Some(Outcome::relay(index));
    }
    live(t, now.cfg, index, slot, now.ticks)?;
    let target = crate::binding::inside_of(slot);
    // A packet from outside must not claim to come from inside or from the router.
    if h.way(t, now, device, h.source.addr)?.class.get() != Class::Outside as u8 {
        return None;
    }
    let way = h.way(t, now, device, target.addr)?;
    if way.class.get() != Class::Inside as u8 || !h.fits(way) {
        return None;
    }
    if now.cfg.tracks(h.proto) || now.cfg.has(FLAG_COUNTING | FLAG_REFRESH_IN) {
        let packet = h.used(now, index, Side::Outside, target, h.source);
        if let Err(reason) = used(t, now.cfg, &packet) {
            return Some(reason.into());
        }
    }
    let mut ip = head.ip;
    let header = Delta::new().long(h.destination.addr, target.addr);
    let transport = header.word(h.destination.port, target.port);
    ip[1] = h.life(&head, header) | u64::from(h.source.addr);
    ip[2] = u64::from(target.addr) << 32 | u64::from(h.source.port) << 16 | u64::from(target.port);
    h.write(p, way, &ip, transport)?;
    Some(Outcome::forward(Reason::Inbound, way.port.get()))
}

/// From inside to a port of the media relay.
#[inline(always)]
fn to_relay<T: Tables>(t: &T, h: &Plain, way: &Destination) -> Option<Outcome> {
    if way.class.get() != Class::External as u8 {
        return None;
    }
    let index = slot_index(way.index.get(), h.proto, h.destination.port);
    t.slot(index)?.is_relay().then_some(Outcome::relay(index))
}

/// IPv4 without tag and options, and no fragment.
#[inline(always)]
fn ordinary(head: &Head) -> bool {
    let first = head.ip[0];
    head.ethertype == ETHERTYPE_IPV4 && first >> 56 == 0x45 && first & u64::from(MF | OFFSET) == 0
}

/// Protocol, unless it is neither TCP nor UDP, and source of such a packet.
#[inline(always)]
fn key_of(head: &Head) -> InsideKey {
    let [_, second, third] = head.ip;
    let proto = if (second >> 48) as u8 == crate::flow::IP_TCP {
        Proto::Tcp
    } else {
        Proto::Udp
    };
    InsideKey {
        proto,
        inside: Endpoint::new(second as u32, (third >> 16) as u16),
    }
}

/// Whether an entry of the index shows by itself that its binding is alive; see [`crate::binding::holds`].
#[inline(always)]
fn alive(now: &Now, proto: Proto, address: AddressWord, found: &Found) -> bool {
    let life = if proto == Proto::Udp { now.cfg.udp } else { now.cfg.icmp };
    address.active()
        && (found.word.fixed()
            || address.generation() == found.generation && young(found.word.stamp(), life, now.ticks))
}

/// Renews the entry's stamp, at most once in `Config::ahead`, so that flows on several CPUs do not share a dirty line; false if
/// it has gone meanwhile.
#[inline(always)]
fn stamp(now: &Now, found: &Found) -> bool {
    let renewed = found.word.stamped(now.ticks.wrapping_add(now.cfg.ahead));
    (now.ticks.wrapping_sub(found.word.stamp()) as i32) < 0 || found.entry.word.replace(found.word.0, renewed.0)
}

/// The headers of a packet that is nothing out of the ordinary: no tag, no options, no fragment, TCP or UDP, all checks of
/// [`crate::parse`] passed, and no SYN that is to be changed.
pub(crate) struct Plain {
    pub(crate) source: Endpoint,
    pub(crate) destination: Endpoint,
    proto: Proto,
    /// TCP control bits.
    flags: u8,
    ttl: u8,
    pub(crate) total_len: u16,
    /// Transport checksum.
    check: u16,
}

impl Plain {
    /// Whether it may be part of a registration that the daemon gets a copy of ([`crate::watch`]), by its remote port.
    #[inline(always)]
    pub(crate) fn is_watched(&self, cfg: &Config, remote: u16) -> bool {
        self.proto as u8 == Proto::Udp as u8 && watches(cfg.watch, remote)
    }

    /// Those of a UDP packet, unchecked.
    #[inline(always)]
    pub(crate) fn udp(head: &Head) -> Self {
        let [first, second, third] = head.ip;
        Self {
            source: Endpoint::new(second as u32, (third >> 16) as u16),
            destination: Endpoint::new((third >> 32) as u32, third as u16),
            proto: Proto::Udp,
            flags: 0,
            ttl: (second >> 56) as u8,
            total_len: (first >> 32) as u16,
            check: (head.transport[0] >> 32) as u16,
        }
    }

    #[inline(always)]
    fn of<P: Packet>(p: &mut P, head: &Head, cfg: &Config) -> Option<Self> {
        let [first, second, third] = head.ip;
        let low = |word: u64| word & 0xffff_ffff;
        let sum = (first >> 32) + low(first) + (second >> 32) + low(second) + (third >> 32);
        if fold(sum) != 0xffff {
            return None;
        }
        let total_len = (first >> 32) as u16;
        if !p.reaches(ETHERNET_LEN + usize::from(total_len)) {
            return None;
        }
        let mut h = Self::udp(head);
        match (second >> 48) as u8 {
            crate::flow::IP_UDP if total_len >= 28 => {}
            crate::flow::IP_TCP => {
                let [_, rest] = head.transport;
                h.proto = Proto::Tcp;
                h.flags = (rest >> 48) as u8;
                h.check = (rest >> 16) as u16;
                let header_len = (rest >> 60) as u16 * 4;
                if header_len < 20 || total_len < 20 + header_len || cfg.mss != 0 && h.flags & SYN != 0 {
                    return None;
                }
            }
            _ => return None,
        }
        martian(h.source.addr, h.destination.addr).ok()?;
        Some(h)
    }

    /// What the cache knows of an address.
    #[inline(always)]
    pub(crate) fn way<'t, T: Tables>(&self, t: &'t T, now: &Now, device: u32, addr: u32) -> Option<&'t Destination> {
        self.way_of(t, now, device, addr, 0)
    }

    /// The same for the peer of a leg; see [`Query::leg`].
    #[inline(always)]
    pub(crate) fn way_of<'t, T: Tables>(
        &self,
        t: &'t T,
        now: &Now,
        device: u32,
        addr: u32,
        leg: u32,
    ) -> Option<&'t Destination> {
        let query = Query {
            device,
            vlan: 0,
            source: self.source.addr,
            addr,
            tos: 0,
            now: now.ticks,
            leg,
        };
        cached(t, now.cfg, &query, now.generation)
    }

    /// Whether the packet can go this way, untagged: TTL (RFC 1812 §5.3.1), MTU (RFC 1191).
    #[inline(always)]
    pub(crate) fn fits(&self, way: &Destination) -> bool {
        let mtu = way.mtu.get();
        self.ttl > 1 && (mtu == 0 || self.total_len <= mtu) && way.vlan.get() == 0
    }

    /// Whether the packet, from inside, can go this way to the outside.
    #[inline(always)]
    pub(crate) fn leaves_by(&self, way: &Destination) -> bool {
        way.class.get() == Class::Outside as u8 && self.fits(way)
    }

    /// Lifetime, protocol and checksum of the new header, in the high half.
    #[inline(always)]
    pub(crate) fn life(&self, head: &Head, header: Delta) -> u64 {
        let old = (head.ip[1] >> 48) as u16;
        let new = old.wrapping_sub(0x100);
        let check = header.word(old, new).apply((head.ip[1] >> 32) as u16);
        u64::from(new) << 48 | u64::from(check) << 32
    }

    #[inline(always)]
    fn used(&self, now: &Now, slot: u32, side: Side, inside: Endpoint, remote: Endpoint) -> Use {
        Use {
            slot,
            now: now.ticks,
            inside,
            remote,
            total_len: self.total_len,
            flags: self.flags,
            side,
        }
    }

    #[inline(always)]
    pub(crate) fn write<P: Packet>(&self, p: &mut P, way: &Destination, ip: &[u64; 3], transport: Delta) -> Option<()> {
        let link = [way.mac.get(), way.source.get()];
        match self.proto {
            Proto::Udp => p.set_head(link, ip, UDP_CHECK, transport.apply_udp(self.check)),
            _ => p.set_head(link, ip, TCP_CHECK, transport.apply(self.check)),
        }
    }
}

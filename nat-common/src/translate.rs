//! Stage 3: the decision, and the order of the stages.
//!
//! parse → classify → look up, allocate on a miss → resolve the way out → only then write. Everything that can fail comes
//! before the first write; what fails after it is dropped. Nothing from inside leaves untranslated: what should be
//! translated and cannot be is dropped with a counted reason.

use crate::binding::{self, live, refresh};
use crate::classify::{Class, Query, Way, destination};
use crate::config::{Config, FLAG_COUNTING, FLAG_HAIRPIN, FLAG_INSIDE_PREFIXES, FLAG_POLICY, FLAG_REFRESH_IN};
use crate::counters::{Action, REFUSED, Reason, refusal};
use crate::flow::{Endpoint, IP_ICMP, IP_TCP, IP_UDP, InsideKey, Proto, Side};
use crate::fragment::{self, Datagram, FATE_DROP, FATE_FORWARD, FATE_PASS, Fate};
use crate::icmp::{self, Translated};
use crate::maps::{AddressWord, BlockState, BlockWord, Slot, SlotState, SlotWord, ingress_key};
use crate::packet::Packet;
use crate::parse::{DF, Headers, ICMP_ECHO, ICMP_ECHO_REPLY, ICMP_TIMESTAMP, ICMP_TIMESTAMP_REPLY, parse};
use crate::ports::{block_index, slot_index, slot_parts, used_place};
use crate::quick::{self, Now};
use crate::relay::latch::{Media, denial, let_in, onward, source};
use crate::relay::{Leg, LegWord, quality};
use crate::rewrite::{self, Rewrite};
use crate::session::{Flow, RST};
use crate::tables::Tables;
use crate::verdict::{Outcome, Step};
use crate::watch::Seen;

/// Length of a UDP header.
const UDP_LEN: u16 = 8;

/// Decides about one packet and writes the changes if it goes on. `device` is the interface it came in on.
#[inline(always)]
pub fn process<P: Packet, T: Tables>(p: &mut P, t: &T, side: Side, device: u32) -> Outcome {
    let outcome = quick::translate(p, t, side, device);
    if !outcome.is_open() {
        return outcome;
    }
    if outcome != Outcome::GO_ON {
        // Not from within the short way: its stack would be below that of the relay's.
        let outcome = t.relay(p, side, device, outcome.slot());
        if outcome != Outcome::GO_ON {
            return outcome;
        }
    }
    process_thoroughly(p, t, side, device)
}

/// The second stage ([`crate::stage`]) of a packet from inside whose mark was taken: what [`process`] would have done.
#[inline(always)]
pub fn process_late<P: Packet, T: Tables>(p: &mut P, t: &T, device: u32) -> Outcome {
    let outcome = quick::translate_late(p, t, device);
    if !outcome.is_open() {
        return outcome;
    }
    process_thoroughly(p, t, Side::Inside, device)
}

/// The same without the short way of [`crate::quick`].
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn process_thoroughly<P: Packet, T: Tables>(p: &mut P, t: &T, side: Side, device: u32) -> Outcome {
    match run(p, t, side, device) {
        Ok(outcome) | Err(outcome) => outcome,
    }
}

/// A packet on its way through the stages.
struct Job<'t> {
    cfg: &'t Config,
    now: u32,
    /// Where it came in.
    device: u32,
    side: Side,
    /// What its headers say.
    h: Headers,
    /// What its destination is; after stage 3 the way out.
    way: Way,
    /// What the destination becomes.
    target: Endpoint,
    /// The slot that a hairpinned packet goes in by, or `NO_SLOT`.
    behind: u32,
    /// What the source of a relayed packet becomes.
    alias: Endpoint,
}

impl Job<'_> {
    /// The way to `addr`.
    #[inline(always)]
    fn way_to<T: Tables>(&self, t: &T, addr: u32, way: &mut Way) -> Result<(), Reason> {
        let query = self.query(addr);
        if destination(t, self.cfg, &query, way) {
            Ok(())
        } else {
            Err(Reason::NotConfigured)
        }
    }

    #[inline(always)]
    fn used(&self, slot: u32, side: Side, inside: Endpoint, remote: Endpoint) -> Use {
        Use {
            slot,
            now: self.now,
            inside,
            remote,
            total_len: self.h.total_len,
            flags: self.h.flags,
            side,
        }
    }

    #[inline(always)]
    fn query(&self, addr: u32) -> Query {
        Query {
            device: self.device,
            vlan: self.h.vlan,
            source: self.h.source.addr,
            addr,
            tos: self.h.tos,
            now: self.now,
            leg: 0,
        }
    }

    /// The external address that the packet is sent to, if it is one.
    #[inline(always)]
    fn external(&self) -> Option<u32> {
        (self.way.class == Class::External).then_some(self.way.index)
    }
}

#[inline(always)]
fn run<P: Packet, T: Tables>(p: &mut P, t: &T, side: Side, device: u32) -> Step<Outcome> {
    let now = Now::of(t).ok_or(Reason::NotConfigured)?;
    let cfg = now.cfg;
    let mut job = Job {
        cfg,
        now: now.ticks,
        device,
        side,
        h: Headers::default(),
        way: Way::UNKNOWN,
        target: Endpoint::new(0, 0),
        behind: NO_SLOT,
        alias: Endpoint::new(0, 0),
    };
    parse(p, &mut job.h)?;
    martian(job.h.source.addr, job.h.destination.addr)?;
    if !classify(t, &mut job) {
        return Err(Reason::NotConfigured.into());
    }
    let ours = match side {
        Side::Inside => ours_from_inside(&job),
        Side::Outside => ours_from_outside(t, &job),
    };
    if let Err(reason) = ours {
        return Err(leave(t, &job, reason));
    }
    if job.h.is_later_fragment() {
        return Ok(later_fragment(p, t, &mut job));
    }
    if job.h.proto == IP_ICMP && icmp::is_error(job.h.flags) {
        return Ok(icmp_error(p, t, &mut job));
    }
    let stop = match side {
        Side::Inside => look_outward(t, &mut job),
        Side::Outside => look_inward(t, &mut job),
    };
    if stop != Outcome::GO_ON {
        if !stop.is_open() {
            return Err(stop);
        }
        return Ok(relay(p, t, &mut job));
    }
    match side {
        Side::Inside => {
            let key = key_of(&job.h);
            let mut index = t.find_binding(cfg, &key, job.now);
            if index == NO_SLOT {
                admit(t, &job)?;
                index = t.create_binding(cfg, &key, job.now);
                if index & REFUSED != 0 {
                    return Err(refusal(index).into());
                }
            }
            Ok(send_outward(p, t, &job, index))
        }
        Side::Outside => Ok(send_inward(p, t, &job)),
    }
}

/// Stage 2. A function of its own, because what it asks with would otherwise be on the stack of everything that follows.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn classify<T: Tables>(t: &T, job: &mut Job) -> bool {
    let query = job.query(job.h.destination.addr);
    destination(t, job.cfg, &query, &mut job.way)
}

/// Addresses that no packet on a wire may have (RFC 1812 §5.3.7), and those that are not for one receiver.
#[inline(always)]
pub(crate) fn martian(source: u32, destination: u32) -> Result<(), Reason> {
    let (from, to) = (source >> 24, destination >> 24);
    if to >= 240 && destination != u32::MAX {
        return Err(Reason::Martian);
    }
    if to >= 224 {
        return Err(Reason::Multicast);
    }
    if from == 0 || from == 127 || from >= 224 || to == 0 || to == 127 {
        return Err(Reason::Martian);
    }
    Ok(())
}

/// A packet that is not for the NAT. If it is the first fragment of one that is for the router, the others must follow it.
#[inline(always)]
fn leave<T: Tables>(t: &T, job: &Job, reason: Reason) -> Outcome {
    if reason == Reason::ToRouter && !carried(t, job) {
        return Reason::NoBinding.into();
    }
    if reason == Reason::ToRouter && job.h.is_fragment() && !job.h.is_later_fragment() && job.external().is_some() {
        return settle(t, job, reason.into());
    }
    reason.into()
}

/// Whether what is sent to this destination may be passed to the kernel as the router's own.
#[inline(always)]
fn carried<T: Tables>(t: &T, job: &Job) -> bool {
    let Some(index) = job.external() else { return true };
    t.address(index)
        .is_some_and(|address| AddressWord(address.word.get()).carried())
}

/// Remembers the fate of a fragmented datagram that is not translated.
#[inline(always)]
fn settle<T: Tables>(t: &T, job: &Job, outcome: Outcome) -> Outcome {
    let kind = if outcome.action() == Action::Pass {
        FATE_PASS
    } else {
        FATE_DROP
    };
    match remember_fate(t, job, kind) {
        Ok(()) => outcome,
        Err(other) => other.into(),
    }
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn remember_fate<T: Tables>(t: &T, job: &Job, kind: u8) -> Result<(), Reason> {
    remember(t, job, &Rewrite::none(&job.h), kind)
}

/// Whether a packet from inside is for the NAT.
#[inline(always)]
fn ours_from_inside(job: &Job) -> Result<(), Reason> {
    let outward = match job.way.class {
        Class::Outside => true,
        Class::External => false,
        Class::NoNeighbour if job.way.beyond == Side::Outside => true,
        Class::NoNeighbour | Class::Inside | Class::Elsewhere => return Err(Reason::Elsewhere),
        Class::Local => return Err(Reason::ToRouter),
        Class::Bypass => return Err(Reason::Bypass),
        Class::Foreign => return Err(Reason::ForeignVlan),
        Class::NoRoute | Class::Unknown => return Err(Reason::Unreachable),
    };
    let refusal = match job.h.proto {
        IP_TCP | IP_UDP => return Ok(()),
        IP_ICMP if job.h.is_later_fragment() || icmp::is_error(job.h.flags) => return Ok(()),
        IP_ICMP if outward && matches!(job.h.flags, ICMP_ECHO | ICMP_TIMESTAMP) => return Ok(()),
        IP_ICMP => Reason::IcmpType,
        _ => Reason::Protocol,
    };
    // What is not for the NAT but sent to the router's own address is the router's.
    Err(if outward { refusal } else { Reason::ToRouter })
}

/// Whether a packet from outside is for the NAT.
#[inline(always)]
fn ours_from_outside<T: Tables>(t: &T, job: &Job) -> Result<(), Reason> {
    match job.way.class {
        Class::External => {}
        Class::Local => return Err(Reason::ToRouter),
        Class::Foreign => return Err(Reason::ForeignVlan),
        Class::Bypass => return Err(Reason::Bypass),
        Class::NoNeighbour if job.way.beyond == Side::Outside => return Err(Reason::Elsewhere),
        Class::Inside | Class::NoNeighbour if t.bypassed(job.h.source.addr) => return Err(Reason::Bypass),
        Class::Inside | Class::NoNeighbour => return Err(Reason::OutsideToInside),
        Class::Outside | Class::Elsewhere => return Err(Reason::Elsewhere),
        Class::NoRoute | Class::Unknown => return Err(Reason::NoRoute),
    }
    match job.h.proto {
        IP_TCP | IP_UDP => Ok(()),
        IP_ICMP if job.h.is_later_fragment() || icmp::is_error(job.h.flags) => Ok(()),
        IP_ICMP if matches!(job.h.flags, ICMP_ECHO_REPLY | ICMP_TIMESTAMP_REPLY) => Ok(()),
        IP_ICMP if job.h.flags == icmp::SOURCE_QUENCH => Err(Reason::IcmpType),
        _ => Err(Reason::ToRouter),
    }
}

/// Protocol and source of a packet from inside.
#[inline(always)]
fn key_of(h: &Headers) -> InsideKey {
    InsideKey {
        proto: Proto::from_ip(h.proto).unwrap_or(Proto::Icmp),
        inside: h.source,
    }
}

/// Where a packet from inside goes: to its destination or, hairpinned, to the inside endpoint behind an external one.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn look_outward<T: Tables>(t: &T, job: &mut Job) -> Outcome {
    match try_look_outward(t, job) {
        Ok(()) => Outcome::GO_ON,
        Err(outcome) => outcome,
    }
}

#[inline(always)]
fn try_look_outward<T: Tables>(t: &T, job: &mut Job) -> Step<()> {
    job.target = job.h.destination;
    if let Some(address) = job.external() {
        let index = slot_index(address, key_of(&job.h).proto, job.h.destination.port);
        let slot = t.slot(index).ok_or(Reason::Unbound)?;
        if live(t, job.cfg, index, slot, job.now).is_none() {
            return Err(absent(t, job, index, slot));
        }
        if slot.is_relay() {
            job.behind = index;
            return Err(Outcome::relay(index));
        }
        if !job.cfg.has(FLAG_HAIRPIN) {
            return Err(Reason::HairpinOff.into());
        }
        job.target = binding::inside_of(slot);
        job.behind = index;
        let query = job.query(job.target.addr);
        if !destination(t, job.cfg, &query, &mut job.way) {
            return Err(Reason::NotConfigured.into());
        }
    }
    check_way(&job.h, &job.way)
}

/// From inside to outside, or by way of an external address back inside.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn send_outward<P: Packet, T: Tables>(p: &mut P, t: &T, job: &Job, index: u32) -> Outcome {
    match try_send_outward(p, t, job, index) {
        Ok(outcome) | Err(outcome) => outcome,
    }
}

#[inline(always)]
fn try_send_outward<P: Packet, T: Tables>(p: &mut P, t: &T, job: &Job, index: u32) -> Step<Outcome> {
    let h = &job.h;
    let outside = binding::external_of(t, index).ok_or(Reason::NoAddress)?;
    used(t, job.cfg, &job.used(index, Side::Inside, h.source, h.destination))?;
    if job.behind != NO_SLOT {
        used(t, job.cfg, &job.used(job.behind, Side::Outside, job.target, outside))?;
    }
    let r = Rewrite {
        source: outside,
        destination: job.target,
        id: fresh_id(t, h),
        mss: job.cfg.mss as u16,
    };
    if h.is_fragment() {
        remember(t, job, &r, FATE_FORWARD)?;
    }
    if job.behind == NO_SLOT && watched(job, h.destination.port) {
        watch(p, t, job, index);
    }
    write(p, t, h, &r, &job.way)?;
    Ok(Outcome::forward(
        if job.behind != NO_SLOT {
            Reason::Hairpin
        } else {
            Reason::Outbound
        },
        job.way.port,
    ))
}

/// Where a packet from outside goes: to the inside endpoint behind the external one.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn look_inward<T: Tables>(t: &T, job: &mut Job) -> Outcome {
    match try_look_inward(t, job) {
        Ok(()) => Outcome::GO_ON,
        Err(outcome) => outcome,
    }
}

#[inline(always)]
fn try_look_inward<T: Tables>(t: &T, job: &mut Job) -> Step<()> {
    let index = slot_index(job.way.index, key_of(&job.h).proto, job.h.destination.port);
    let slot = t.slot(index).ok_or(Reason::Unbound)?;
    if live(t, job.cfg, index, slot, job.now).is_none() {
        return Err(absent(t, job, index, slot));
    }
    job.behind = index;
    if slot.is_relay() {
        return Err(Outcome::relay(index));
    }
    job.target = binding::inside_of(slot);
    // The kernel's reverse path filter does not see this packet.
    foreign(t, job)?;
    let query = job.query(job.target.addr);
    if !destination(t, job.cfg, &query, &mut job.way) {
        return Err(Reason::NotConfigured.into());
    }
    check_way(&job.h, &job.way)
}

/// From outside to the inside endpoint behind an external one.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn send_inward<P: Packet, T: Tables>(p: &mut P, t: &T, job: &Job) -> Outcome {
    match try_send_inward(p, t, job) {
        Ok(outcome) | Err(outcome) => outcome,
    }
}

#[inline(always)]
fn try_send_inward<P: Packet, T: Tables>(p: &mut P, t: &T, job: &Job) -> Step<Outcome> {
    let h = &job.h;
    used(t, job.cfg, &job.used(job.behind, Side::Outside, job.target, h.source))?;
    let r = Rewrite {
        source: h.source,
        destination: job.target,
        id: h.id,
        mss: job.cfg.mss as u16,
    };
    if h.is_fragment() {
        remember(t, job, &r, FATE_FORWARD)?;
    }
    if watched(job, h.source.port) {
        watch(p, t, job, job.behind);
    }
    write(p, t, h, &r, &job.way)?;
    Ok(Outcome::forward(Reason::Inbound, job.way.port))
}

/// Asks a leg of the media relay about a packet. A function of its own, because what it asks with would otherwise be on the stack
/// of everything that follows.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn let_into_relay<P: Packet, T: Tables>(p: &mut P, t: &T, job: &Job) -> Outcome {
    let Some((number, leg, word)) = leg_of(t, job.behind) else {
        return Reason::NoBinding.into();
    };
    let media = media_of(p, job, number);
    if leg.knows(word, &media) {
        return Outcome::GO_ON;
    }
    match denial(let_in(t, job.cfg, &media, job.now)) {
        Some(reason) => reason.into(),
        None => Outcome::GO_ON,
    }
}

/// The leg that slot `index` is for, its number and its word.
#[inline(always)]
fn leg_of<T: Tables>(t: &T, index: u32) -> Option<(u32, &Leg, LegWord)> {
    let number = t.slot(index)?.inside_addr.get();
    let leg = t.leg(number)?;
    let word = LegWord(leg.word.get());
    word.serves(index).then_some((number, leg, word))
}

/// From one leg of the media relay to its partner's peer: the steps of [`crate::relay::send`] for any packet.
#[inline(always)]
fn relay<P: Packet, T: Tables>(p: &mut P, t: &T, job: &mut Job) -> Outcome {
    let refused = let_into_relay(p, t, job);
    if refused != Outcome::GO_ON {
        return end_relay(t, job, refused);
    }
    let stop = look_onward(p, t, job);
    if stop != Outcome::GO_ON {
        return end_relay(t, job, stop);
    }
    if leg_of(t, job.behind).is_some_and(|(_, _, word)| word.copies()) && !job.h.is_fragment() {
        watch(p, t, job, job.behind);
    }
    send_onward(p, t, job)
}

/// Where a packet for the relay goes, and what its leg sees of it.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn look_onward<P: Packet, T: Tables>(p: &mut P, t: &T, job: &mut Job) -> Outcome {
    match try_look_onward(p, t, job) {
        Ok(()) => Outcome::GO_ON,
        Err(outcome) => outcome,
    }
}

#[inline(always)]
fn try_look_onward<P: Packet, T: Tables>(p: &mut P, t: &T, job: &mut Job) -> Step<()> {
    let (number, leg, word) = leg_of(t, job.behind).ok_or(Reason::NoBinding)?;
    let media = media_of(p, job, number);
    let hop = match onward(t, leg, number) {
        Ok(hop) => hop,
        Err(reason) => {
            quality::count(t, leg, word, &media, job.h.total_len, job.now);
            return Err(reason.into());
        }
    };
    job.alias = hop.source;
    job.target = hop.destination;
    let query = Query {
        leg: hop.leg,
        ..job.query(hop.destination.addr)
    };
    if !destination(t, job.cfg, &query, &mut job.way) {
        return Err(Reason::NotConfigured.into());
    }
    check_way(&job.h, &job.way)?;
    quality::count(t, leg, word, &media, job.h.total_len, job.now);
    if quality::is_report(word, &media) {
        t.read_report(p, number, usize::from(job.h.l4 + UDP_LEN));
    }
    Ok(())
}

/// Writes a relayed packet.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn send_onward<P: Packet, T: Tables>(p: &mut P, t: &T, job: &Job) -> Outcome {
    match try_send_onward(p, t, job) {
        Ok(outcome) | Err(outcome) => outcome,
    }
}

#[inline(always)]
fn try_send_onward<P: Packet, T: Tables>(p: &mut P, t: &T, job: &Job) -> Step<Outcome> {
    let h = &job.h;
    let (_, _, word) = leg_of(t, job.behind).ok_or(Reason::NoBinding)?;
    let r = Rewrite {
        source: job.alias,
        destination: job.target,
        id: fresh_id(t, h),
        mss: 0,
    };
    if h.is_fragment() {
        remember(t, job, &r, FATE_FORWARD)?;
    }
    rewrite::service(p, h, word.tos(h.tos))?;
    write(p, t, h, &r, &job.way)?;
    Ok(Outcome::forward(Reason::Relayed, job.way.port))
}

/// The identification of a packet that leaves in the name of an external address (RFC 6864 §5.3): its own if it is never cut.
#[inline(always)]
fn fresh_id<T: Tables>(t: &T, h: &Headers) -> u16 {
    if h.fragment & DF == 0 || h.is_fragment() {
        t.next_id(t.state().map_or(1, |state| state.cpus))
    } else {
        h.id
    }
}

/// A packet that is not relayed, and the pieces that follow it.
#[inline(always)]
fn end_relay<T: Tables>(t: &T, job: &Job, outcome: Outcome) -> Outcome {
    if job.h.is_fragment() && outcome.action() == Action::Drop {
        settle(t, job, outcome)
    } else {
        outcome
    }
}

/// What leg number `leg` has to know of the packet.
#[inline(always)]
fn media_of<P: Packet>(p: &mut P, job: &Job, leg: u32) -> Media {
    let h = &job.h;
    let payload = usize::from(h.l4 + UDP_LEN);
    let len = (h.payload_len() as u32).wrapping_sub(u32::from(UDP_LEN));
    let mut media = Media {
        source: source(h.source),
        ingress: ingress_key(job.device, h.vlan),
        start: 0,
        ssrc: 0,
        len,
        leg,
        side: job.side as u32,
    };
    if len >= 12 {
        media.start = p.be64(payload).unwrap_or(0);
        media.ssrc = p.be32(payload + 8).unwrap_or(0);
    } else if len >= 8 {
        media.start = p.be64(payload).unwrap_or(0);
    } else if len != 0 {
        media.start = u64::from(p.again(payload).unwrap_or(0)) << 56;
    }
    media
}

/// Whether registrations are watched at this remote port. A message in pieces is not: nobody puts them together.
#[inline(always)]
fn watched(job: &Job, port: u16) -> bool {
    job.h.proto == IP_UDP && crate::watch::watches(job.cfg.watch, port) && !job.h.is_fragment()
}

/// Shows the daemon what may be part of a registration that crosses the NAT, or of a call that somebody captures.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn watch<P: Packet, T: Tables>(p: &mut P, t: &T, job: &Job, index: u32) {
    let h = &job.h;
    let remote = match job.side {
        Side::Inside => h.destination,
        Side::Outside => h.source,
    };
    let seen = Seen {
        slot: index,
        remote_addr: remote.addr,
        remote_port: remote.port,
        offset: h.l4 + UDP_LEN,
        len: (h.payload_len() as u16).saturating_sub(UDP_LEN),
        side: job.side as u8,
        reserved: 0,
    };
    t.watch(p, &seen, job.now);
}

/// A packet from outside must not claim to come from inside or from the router.
#[inline(always)]
fn foreign<T: Tables>(t: &T, job: &Job) -> Result<(), Reason> {
    let mut back = Way::UNKNOWN;
    job.way_to(t, job.h.source.addr, &mut back)?;
    match back.class {
        Class::Inside | Class::External | Class::Local => Err(Reason::Martian),
        Class::NoNeighbour if back.beyond == Side::Inside => Err(Reason::Martian),
        _ => Ok(()),
    }
}

/// No binding has the port: the packet is the router's or nobody's.
#[inline(always)]
fn absent<T: Tables>(t: &T, job: &Job, index: u32, slot: &Slot) -> Outcome {
    let reason = if carried(t, job) {
        unbound(t, job.cfg, index, slot)
    } else {
        Reason::NoBinding
    };
    if job.h.is_fragment() {
        settle(t, job, reason.into())
    } else {
        reason.into()
    }
}

/// No slot: 0 would be TCP port 0.
const NO_SLOT: u32 = 0;

/// A packet and a binding that it uses.
pub(crate) struct Use {
    /// Slot of the binding.
    pub(crate) slot: u32,
    /// Time in ticks.
    pub(crate) now: u32,
    /// Inside endpoint of the binding.
    pub(crate) inside: Endpoint,
    /// Remote endpoint, as this binding sees it.
    pub(crate) remote: Endpoint,
    pub(crate) total_len: u16,
    /// TCP control bits.
    pub(crate) flags: u8,
    /// The side that the packet came from, as this binding sees it.
    pub(crate) side: Side,
}

/// A packet uses a binding: its session moves on (which may refuse the packet), its stamp is renewed, it is counted.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(crate) fn used<T: Tables>(t: &T, cfg: &Config, packet: &Use) -> Result<(), Reason> {
    let index = packet.slot;
    let slot = t.slot(index).ok_or(Reason::Contended)?;
    let (_, proto, _) = slot_parts(index);
    let word = SlotWord(slot.word.get());
    if cfg.tracks(proto) {
        let (flags, remote_port) = match proto {
            Proto::Tcp => (packet.flags, packet.remote.port),
            Proto::Udp => (0, packet.remote.port),
            // The identifier is the binding's; a query has no remote port.
            Proto::Icmp => (0, 0),
        };
        let flow = Flow {
            slot: index,
            generation: word.generation(),
            proto,
            flags,
            inside: packet.inside,
            remote: Endpoint::new(packet.remote.addr, remote_port),
        };
        let refused = t.track(cfg, &flow, packet.side, packet.now);
        if refused & REFUSED != 0 {
            return Err(refusal(refused));
        }
    }
    // Inbound packets refresh TCP bindings, others only if configured so (RFC 4787 REQ-6).
    if packet.side == Side::Inside || proto == Proto::Tcp || cfg.has(FLAG_REFRESH_IN) {
        refresh(cfg, slot, word, packet.now);
    }
    if cfg.has(FLAG_COUNTING)
        && let Some(traffic) = t.traffic(index)
    {
        let (packets, bytes) = match packet.side {
            Side::Inside => (&traffic.packets_out, &traffic.bytes_out),
            Side::Outside => (&traffic.packets_in, &traffic.bytes_in),
        };
        packets.fetch_add(1);
        bytes.fetch_add(u64::from(packet.total_len));
    }
    Ok(())
}

/// Writes the packet.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn write<P: Packet, T: Tables>(p: &mut P, t: &T, h: &Headers, r: &Rewrite, out: &Way) -> Result<(), Reason> {
    let interface = t.interface(out.port).ok_or(Reason::NotConfigured)?;
    rewrite::apply(p, h, r)?;
    rewrite::link(p, h, interface, out.mac)
}

/// Whether a packet can go this way at all: next hop, TTL (RFC 1812 §5.3.1), MTU (RFC 1191).
#[inline(always)]
fn check_way(h: &Headers, way: &Way) -> Step<()> {
    match way.class {
        Class::Inside | Class::Outside | Class::NoNeighbour => {}
        _ => return Err(Reason::Unreachable.into()),
    }
    if h.ttl <= 1 {
        return Err(Reason::TtlExpired.into());
    }
    if way.mtu != 0 && h.total_len > way.mtu {
        return Err(Outcome::punt(Reason::TooBig, u32::from(way.mtu), 0));
    }
    if way.class == Class::NoNeighbour {
        return Err(Outcome::punt(Reason::NoNeighbour, way.next_hop, way.index));
    }
    Ok(())
}

/// Whether a packet may make a binding. Its source must be an inside host by configuration and by the routing table, and
/// what would be refused later must not cost a port now.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn admit<T: Tables>(t: &T, job: &Job) -> Result<(), Reason> {
    let h = &job.h;
    if job.cfg.has(FLAG_INSIDE_PREFIXES) && !t.inside_prefix(h.source.addr) {
        return Err(Reason::ForeignSource);
    }
    if h.proto == IP_TCP && h.flags & RST != 0 {
        return Err(Reason::NoSession);
    }
    if job.cfg.has(FLAG_POLICY) {
        let proto = key_of(h).proto;
        let flow = Flow {
            slot: 0,
            generation: 0,
            proto,
            flags: 0,
            inside: h.source,
            remote: h.destination,
        };
        if !t.policy(job.cfg, Side::Inside, &flow) {
            return Err(Reason::Policy);
        }
    }
    let mut back = Way::UNKNOWN;
    job.way_to(t, job.h.source.addr, &mut back)?;
    match back.class {
        Class::Inside => Ok(()),
        Class::NoNeighbour if back.beyond == Side::Inside => Ok(()),
        _ => Err(Reason::ForeignSource),
    }
}

/// For an external port without a live binding. A port outside the pool is the router's own. In the pool, TCP is dropped
/// without an answer (RFC 5382 REQ-4); UDP and ICMP go to the router, whose resolver may use any port, unless the port
/// rests: then the packet is for a binding that was.
#[inline(always)]
fn unbound<T: Tables>(t: &T, cfg: &Config, index: u32, slot: &Slot) -> Reason {
    if SlotWord(slot.word.get()).state() != SlotState::Free {
        return Reason::NoBinding;
    }
    let (address, proto, port) = slot_parts(index);
    if proto != Proto::Tcp {
        return Reason::Unbound;
    }
    let reserved = match t.block(block_index(address, port, cfg.block_shift)) {
        Some(block) => BlockWord(block.word.get()).state() == BlockState::Reserved,
        None => true,
    };
    let (word, bit) = used_place(index);
    let taken = t.used_ports(word).is_none_or(|w| w.get() & bit != 0);
    if reserved || taken {
        Reason::Unbound
    } else {
        Reason::NoBinding
    }
}

/// Remembers what the first fragment said.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn remember<T: Tables>(t: &T, job: &Job, r: &Rewrite, kind: u8) -> Result<(), Reason> {
    let fate = Fate {
        source: r.source.addr,
        destination: r.destination.addr,
        id: r.id,
        kind,
    };
    fragment::learn(t, job.cfg, &job.h, &(Datagram::of(&job.h, job.side), fate), job.now)
}

/// A fragment without ports goes where the first one went.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn later_fragment<P: Packet, T: Tables>(p: &mut P, t: &T, job: &mut Job) -> Outcome {
    match try_later_fragment(p, t, job) {
        Ok(outcome) | Err(outcome) => outcome,
    }
}

#[inline(always)]
fn try_later_fragment<P: Packet, T: Tables>(p: &mut P, t: &T, job: &mut Job) -> Step<Outcome> {
    fragment::sound(&job.h)?;
    let datagram = Datagram::of(&job.h, job.side);
    let entry = fragment::find(t, job.cfg, &datagram, job.now).ok_or(Reason::FragmentOrphan)?;
    let fate = fragment::fate(t, entry).ok_or(Reason::FragmentOrphan)?;
    if fate.kind == FATE_FORWARD {
        let query = job.query(fate.destination);
        if !destination(t, job.cfg, &query, &mut job.way) {
            return Err(Reason::NotConfigured.into());
        }
        check_way(&job.h, &job.way)?;
    }
    // Not before: what the slow path brings back must not count as seen.
    fragment::seen(t, &job.h, entry, job.now)?;
    match fate.kind {
        FATE_FORWARD => {}
        FATE_PASS => return Err(Reason::Unbound.into()),
        _ => return Err(Reason::FragmentRefused.into()),
    }
    let r = Rewrite {
        source: Endpoint::new(fate.source, 0),
        destination: Endpoint::new(fate.destination, 0),
        id: fate.id,
        mss: 0,
    };
    write(p, t, &job.h, &r, &job.way)?;
    Ok(Outcome::forward(Reason::Fragment, job.way.port))
}

/// An ICMP error and the packet it quotes.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn icmp_error<P: Packet, T: Tables>(p: &mut P, t: &T, job: &mut Job) -> Outcome {
    match try_icmp_error(p, t, job) {
        Ok(outcome) | Err(outcome) => outcome,
    }
}

#[inline(always)]
fn try_icmp_error<P: Packet, T: Tables>(p: &mut P, t: &T, job: &mut Job) -> Step<Outcome> {
    let mut tr = Translated::EMPTY;
    icmp::read_quote(p, &job.h, &mut tr.quote)?;
    find_quoted(t, job, &mut tr)?;
    if job.external().is_some() {
        let query = job.query(tr.destination);
        if !destination(t, job.cfg, &query, &mut job.way) {
            return Err(Reason::NotConfigured.into());
        }
    }
    check_way(&job.h, &job.way)?;
    icmp::apply(p, &job.h, &tr)?;
    let interface = t.interface(job.way.port).ok_or(Reason::Rewrite)?;
    rewrite::link(p, &job.h, interface, job.way.mac)?;
    Ok(Outcome::forward(Reason::IcmpError, job.way.port))
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn find_quoted<T: Tables>(t: &T, job: &Job, tr: &mut Translated) -> Result<(), Reason> {
    icmp::translate(t, job.cfg, &job.h, &(job.side, job.external(), job.now), tr)
}

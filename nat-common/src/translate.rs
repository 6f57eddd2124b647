//! Stage 3: the decision, and the order of the stages.
//!
//! parse → classify → look up, allocate on a miss → resolve the way out → only then write. Everything that can fail comes
//! before the first write; what fails after it is dropped. Nothing from inside leaves untranslated: what should be
//! translated and cannot be is dropped with a counted reason.

use crate::binding::{self, create, find, live, refresh};
use crate::classify::{Class, Query, Way, destination};
use crate::config::{Config, FLAG_COUNTING, FLAG_HAIRPIN, FLAG_INSIDE_PREFIXES, FLAG_REFRESH_IN, State};
use crate::counters::Reason;
use crate::flow::{Endpoint, IP_ICMP, InsideKey, Proto, Side};
use crate::fragment::{self, Datagram, FATE_DROP, FATE_FORWARD, FATE_PASS, Fate};
use crate::icmp;
use crate::maps::{BlockState, BlockWord, KIND_DYNAMIC, Slot, SlotState, SlotWord, ingress_key};
use crate::packet::Packet;
use crate::parse::{DF, Headers, ICMP_ECHO, ICMP_ECHO_REPLY, ICMP_TIMESTAMP, ICMP_TIMESTAMP_REPLY, parse};
use crate::ports::{block_index, slot_index, used_place};
use crate::rewrite::{self, Rewrite};
use crate::session::{self, Flow};
use crate::tables::Tables;
use crate::verdict::{Argument, Step, Verdict};

/// Decides about one packet and writes the changes if it goes on. `device` is the interface it came in on.
#[inline(always)]
pub fn process<P: Packet, T: Tables>(p: &mut P, t: &T, side: Side, device: u32) -> Verdict {
    match run(p, t, side, device) {
        Ok(verdict) | Err(verdict) => verdict,
    }
}

/// What every step needs.
struct Context<'t> {
    cfg: &'t Config,
    state: &'t State,
    now: u32,
    ingress: u64,
    side: Side,
}

impl Context<'_> {
    /// The way to `addr`.
    #[inline(always)]
    fn way<T: Tables>(&self, t: &T, h: &Headers, addr: u32) -> Result<Way, Reason> {
        let query = Query {
            ingress: self.ingress,
            source: h.source.addr,
            addr,
            tos: h.tos,
            now: self.now,
        };
        let mut way = Way::UNKNOWN;
        if destination(t, self.cfg, self.state, &query, &mut way) {
            Ok(way)
        } else {
            Err(Reason::NotConfigured)
        }
    }
}

#[inline(always)]
fn run<P: Packet, T: Tables>(p: &mut P, t: &T, side: Side, device: u32) -> Step<Verdict> {
    let mut h = Headers::default();
    parse(p, &mut h)?;
    let state = t.state().ok_or(Reason::NotConfigured)?;
    if state.active == 0 {
        return Err(Reason::NotConfigured.into());
    }
    let cfg = t.config(state.active - 1).ok_or(Reason::NotConfigured)?;
    let c = Context {
        cfg,
        state,
        now: t.now(state),
        ingress: ingress_key(device, h.vlan),
        side,
    };
    let (from, to) = (h.source.addr >> 24, h.destination.addr >> 24);
    if to >= 224 {
        return Err(Reason::Multicast.into());
    }
    if from == 0 || from == 127 || from >= 224 || to == 0 || to == 127 {
        return Err(Reason::Martian.into());
    }
    let way = c.way(t, &h, h.destination.addr)?;
    match side {
        Side::Inside => from_inside(p, t, &c, &h, way),
        Side::Outside => from_outside(p, t, &c, &h, way),
    }
}

#[inline(always)]
fn from_inside<P: Packet, T: Tables>(p: &mut P, t: &T, c: &Context, h: &Headers, way: Way) -> Step<Verdict> {
    let external = match way.class {
        Class::Outside => None,
        Class::External => Some(way.index),
        Class::NoNeighbour if way.beyond == Side::Outside => None,
        Class::NoNeighbour | Class::Inside | Class::Elsewhere => return Err(Reason::Elsewhere.into()),
        Class::Local => return Err(Reason::ToRouter.into()),
        Class::Bypass => return Err(Reason::Bypass.into()),
        Class::Foreign => return Err(Reason::ForeignVlan.into()),
        Class::NoRoute | Class::Unknown => return Err(Reason::Unreachable.into()),
    };
    let Some(proto) = Proto::from_ip(h.proto) else {
        return Err(if external.is_some() {
            Reason::ToRouter
        } else {
            Reason::Protocol
        }
        .into());
    };
    if h.is_later_fragment() {
        return later_fragment(p, t, c, h);
    }
    if h.proto == IP_ICMP {
        if icmp::is_error(h.flags) {
            return icmp_error(p, t, c, &Arrived { h, external, way: &way });
        }
        if external.is_some() {
            return Err(Reason::ToRouter.into());
        }
        if h.flags != ICMP_ECHO && h.flags != ICMP_TIMESTAMP {
            return Err(Reason::IcmpType.into());
        }
    }
    // What the destination becomes: itself, or, hairpinned, the inside endpoint behind the external one.
    let mut target = h.destination;
    let mut hairpin = None;
    let mut out = way;
    if let Some(address) = external {
        let index = slot_index(address, proto, h.destination.port);
        let slot = t.slot(index).ok_or(Reason::Unbound)?;
        let Some(word) = live(t, c.cfg, index, slot, c.now) else {
            return Err(unbound(t, c.cfg, index, slot, proto));
        };
        if !c.cfg.has(FLAG_HAIRPIN) {
            return Err(Reason::HairpinOff.into());
        }
        target = binding::inside_of(slot);
        out = c.way(t, h, target.addr)?;
        hairpin = Some((index, slot, word));
    }
    check_way(h, &out)?;
    let key = InsideKey {
        proto,
        inside: h.source,
    };
    let mut index = look_up(t, c.cfg, &key, c.now);
    if index == NO_SLOT {
        admit(t, c, h)?;
        let mut reason = Reason::NoAddress;
        index = begin(t, c.cfg, &key, c.now, &mut reason);
        if index == NO_SLOT {
            return Err(reason.into());
        }
    }
    let slot = t.slot(index).ok_or(Reason::Contended)?;
    let word = SlotWord(slot.word.get());
    let outside = binding::external_of(t, index).ok_or(Reason::NoAddress)?;
    if c.cfg.tracks(proto) {
        let flow = flow_of(index, word, h, proto, (h.source, h.destination));
        track_out(t, c.cfg, slot, &flow, c.now)?;
    }
    refresh(c.cfg, slot, word, c.now);
    count(t, c.cfg, index, h, Side::Inside);
    if let Some((index, slot, word)) = hairpin {
        if c.cfg.tracks(proto) {
            let flow = flow_of(index, word, h, proto, (target, outside));
            track_in(t, c.cfg, slot, &flow, c.now)?;
        }
        refresh_inbound(c.cfg, slot, word, proto, c.now);
        count(t, c.cfg, index, h, Side::Outside);
    }
    let id = if h.fragment & DF == 0 || h.is_fragment() {
        t.next_id()
    } else {
        h.id
    };
    let r = Rewrite {
        source: outside,
        destination: target,
        id,
        mss: c.cfg.mss as u16,
    };
    if h.is_fragment() {
        remember(t, c, h, &r, FATE_FORWARD)?;
    }
    let reason = if hairpin.is_some() {
        Reason::Hairpin
    } else {
        Reason::Outbound
    };
    send(p, t, h, &r, &out, reason)
}

#[inline(always)]
fn from_outside<P: Packet, T: Tables>(p: &mut P, t: &T, c: &Context, h: &Headers, way: Way) -> Step<Verdict> {
    let address = match way.class {
        Class::External => way.index,
        Class::Local => return Err(Reason::ToRouter.into()),
        Class::Foreign => return Err(Reason::ForeignVlan.into()),
        Class::Bypass => return Err(Reason::Bypass.into()),
        Class::Inside => {
            return Err(if t.bypassed(h.source.addr) {
                Reason::Bypass
            } else {
                Reason::OutsideToInside
            }
            .into());
        }
        Class::NoNeighbour if way.beyond == Side::Inside => {
            return Err(if t.bypassed(h.source.addr) {
                Reason::Bypass
            } else {
                Reason::OutsideToInside
            }
            .into());
        }
        Class::NoNeighbour | Class::Outside | Class::Elsewhere => return Err(Reason::Elsewhere.into()),
        Class::NoRoute | Class::Unknown => return Err(Reason::NoRoute.into()),
    };
    let Some(proto) = Proto::from_ip(h.proto) else {
        return Err(Reason::ToRouter.into());
    };
    if h.is_later_fragment() {
        return later_fragment(p, t, c, h);
    }
    if h.proto == IP_ICMP {
        if icmp::is_error(h.flags) {
            return icmp_error(
                p,
                t,
                c,
                &Arrived {
                    h,
                    external: Some(address),
                    way: &way,
                },
            );
        }
        if h.flags != ICMP_ECHO_REPLY && h.flags != ICMP_TIMESTAMP_REPLY {
            return Err(Reason::ToRouter.into());
        }
    }
    let index = slot_index(address, proto, h.destination.port);
    let slot = t.slot(index).ok_or(Reason::Unbound)?;
    let Some(word) = live(t, c.cfg, index, slot, c.now) else {
        let verdict = unbound(t, c.cfg, index, slot, proto);
        if h.is_fragment() {
            let kind = if matches!(verdict, Verdict::Pass(_)) {
                FATE_PASS
            } else {
                FATE_DROP
            };
            remember(t, c, h, &Rewrite::none(h), kind)?;
        }
        return Err(verdict);
    };
    let target = binding::inside_of(slot);
    let out = c.way(t, h, target.addr)?;
    check_way(h, &out)?;
    if c.cfg.tracks(proto) {
        let flow = flow_of(index, word, h, proto, (target, h.source));
        track_in(t, c.cfg, slot, &flow, c.now)?;
    }
    refresh_inbound(c.cfg, slot, word, proto, c.now);
    count(t, c.cfg, index, h, Side::Outside);
    let r = Rewrite {
        source: h.source,
        destination: target,
        id: h.id,
        mss: c.cfg.mss as u16,
    };
    if h.is_fragment() {
        remember(t, c, h, &r, FATE_FORWARD)?;
    }
    send(p, t, h, &r, &out, Reason::Inbound)
}

/// Writes the packet and names its way out.
#[inline(always)]
fn send<P: Packet, T: Tables>(p: &mut P, t: &T, h: &Headers, r: &Rewrite, out: &Way, reason: Reason) -> Step<Verdict> {
    write(p, t, h, r, out)?;
    Ok(Verdict::Forward(reason, out.port))
}

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
        return Err(Verdict::Punt(
            Reason::TooBig,
            Argument {
                value: u32::from(way.mtu),
                out: 0,
            },
        ));
    }
    if way.class == Class::NoNeighbour {
        return Err(Verdict::Punt(
            Reason::NoNeighbour,
            Argument {
                value: way.next_hop,
                out: way.index,
            },
        ));
    }
    Ok(())
}

/// Whether the source may have bindings: it must be an inside host by configuration, else by the routing table.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn admit<T: Tables>(t: &T, c: &Context, h: &Headers) -> Result<(), Reason> {
    if c.cfg.has(FLAG_INSIDE_PREFIXES) && !t.inside_prefix(h.source.addr) {
        return Err(Reason::ForeignSource);
    }
    let back = c.way(t, h, h.source.addr)?;
    match back.class {
        Class::Inside => Ok(()),
        Class::NoNeighbour if back.beyond == Side::Inside => Ok(()),
        _ => Err(Reason::ForeignSource),
    }
}

/// No slot: 0 would be TCP port 0.
const NO_SLOT: u32 = 0;

#[cfg_attr(target_arch = "bpf", inline(never))]
fn look_up<T: Tables>(t: &T, cfg: &Config, key: &InsideKey, now: u32) -> u32 {
    find(t, cfg, key, now).unwrap_or(NO_SLOT)
}

/// A new binding.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn begin<T: Tables>(t: &T, cfg: &Config, key: &InsideKey, now: u32, reason: &mut Reason) -> u32 {
    create(t, cfg, key, now, reason)
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn track_out<T: Tables>(t: &T, cfg: &Config, slot: &Slot, flow: &Flow, now: u32) -> Result<(), Reason> {
    session::outbound(t, cfg, slot, flow, now)
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn track_in<T: Tables>(t: &T, cfg: &Config, slot: &Slot, flow: &Flow, now: u32) -> Result<(), Reason> {
    session::inbound(t, cfg, slot, flow, now)
}

#[inline(always)]
fn flow_of(slot: u32, word: SlotWord, h: &Headers, proto: Proto, ends: (Endpoint, Endpoint)) -> Flow {
    let (inside, remote) = ends;
    let (flags, remote) = match proto {
        Proto::Tcp => (h.flags, remote),
        Proto::Udp => (0, remote),
        // The identifier is the binding's; a query has no remote port.
        Proto::Icmp => (0, Endpoint::new(remote.addr, 0)),
    };
    Flow {
        slot,
        generation: word.generation(),
        proto,
        flags,
        inside,
        remote,
    }
}

/// Inbound packets refresh TCP bindings, others only if configured so (RFC 4787 REQ-6).
#[inline(always)]
fn refresh_inbound(cfg: &Config, slot: &Slot, word: SlotWord, proto: Proto, now: u32) {
    if proto == Proto::Tcp || cfg.has(FLAG_REFRESH_IN) {
        refresh(cfg, slot, word, now);
    }
}

/// Counts a packet on its binding, if that is on.
#[inline(always)]
fn count<T: Tables>(t: &T, cfg: &Config, index: u32, h: &Headers, side: Side) {
    if !cfg.has(FLAG_COUNTING) {
        return;
    }
    let Some(traffic) = t.traffic(index) else { return };
    let (packets, bytes) = match side {
        Side::Inside => (&traffic.packets_out, &traffic.bytes_out),
        Side::Outside => (&traffic.packets_in, &traffic.bytes_in),
    };
    packets.fetch_add(1);
    bytes.fetch_add(u64::from(h.total_len));
}

/// For an external port without a live binding. A port outside the pool is the router's own. In the pool, TCP is dropped
/// without an answer (RFC 5382 REQ-4); UDP and ICMP go to the router, whose resolver may use any port, unless the port
/// rests: then the packet is for a binding that was.
#[inline(always)]
fn unbound<T: Tables>(t: &T, cfg: &Config, index: u32, slot: &Slot, proto: Proto) -> Verdict {
    let state = SlotWord(slot.word.get()).state();
    if state != SlotState::Free {
        return Reason::NoBinding.into();
    }
    if proto != Proto::Tcp {
        return Reason::Unbound.into();
    }
    let (address, _, port) = crate::ports::slot_parts(index);
    let reserved = match t.block(block_index(address, port, cfg.block_shift)) {
        Some(block) => BlockWord(block.word.get()).state() == BlockState::Reserved,
        None => true,
    };
    let (word, bit) = used_place(index);
    let taken = t.used_ports(word).is_none_or(|w| w.get() & bit != 0);
    if reserved || taken {
        Reason::Unbound.into()
    } else {
        Reason::NoBinding.into()
    }
}

/// Remembers what the first fragment said.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn remember<T: Tables>(t: &T, c: &Context, h: &Headers, r: &Rewrite, kind: u8) -> Result<(), Reason> {
    let fate = Fate {
        source: r.source.addr,
        destination: r.destination.addr,
        id: r.id,
        kind,
    };
    fragment::learn(t, c.cfg, h, &(Datagram::of(h, c.side), fate), c.now)
}

/// A fragment without ports goes where the first one went.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn later_fragment<P: Packet, T: Tables>(p: &mut P, t: &T, c: &Context, h: &Headers) -> Step<Verdict> {
    let fate = fragment::follow(t, c.cfg, h, &Datagram::of(h, c.side), c.now)?;
    match fate.kind {
        FATE_FORWARD => {}
        FATE_PASS => return Err(Reason::Unbound.into()),
        _ => return Err(Reason::FragmentRefused.into()),
    }
    let out = c.way(t, h, fate.destination)?;
    check_way(h, &out)?;
    let r = Rewrite {
        source: Endpoint::new(fate.source, 0),
        destination: Endpoint::new(fate.destination, 0),
        id: fate.id,
        mss: 0,
    };
    send(p, t, h, &r, &out, Reason::Fragment)
}

/// An ICMP error and what its destination is.
struct Arrived<'a> {
    h: &'a Headers,
    /// Index of the external address that it is sent to.
    external: Option<u32>,
    way: &'a Way,
}

/// An ICMP error and the packet it quotes.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn icmp_error<P: Packet, T: Tables>(p: &mut P, t: &T, c: &Context, arrived: &Arrived) -> Step<Verdict> {
    let Arrived { h, external, way } = *arrived;
    let mut quote = icmp::Quote::EMPTY;
    icmp::read_quote(p, h, &mut quote)?;
    let translated = icmp::translate(t, c.cfg, h, &quote, &(c.side, external, c.now))?;
    let out = if external.is_some() {
        c.way(t, h, translated.outer.destination.addr)?
    } else {
        *way
    };
    check_way(h, &out)?;
    let interface = t.interface(out.port).ok_or(Reason::NotConfigured)?;
    icmp::apply(p, h, &translated)?;
    rewrite::link(p, h, interface, out.mac)?;
    Ok(Verdict::Forward(Reason::IcmpError, out.port))
}

/// Whether a slot is one that traffic made, not the configuration.
pub fn is_dynamic(slot: &Slot) -> bool {
    slot.kind.get() == KIND_DYNAMIC
}

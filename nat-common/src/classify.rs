//! Stage 2: whose is this destination? The answer is cached per CPU, because the routing table is dear.

use crate::config::Config;
use crate::flow::Side;
use crate::maps::{Destination, ROLE_INSIDE, ROLE_OUTSIDE, egress_key, ingress_key};
use crate::tables::{RouteKind, Tables};

/// What a destination is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// Nothing cached.
    Unknown = 0,
    /// Out of an outside interface.
    Outside = 1,
    /// Out of an inside interface.
    Inside = 2,
    /// One of the external addresses.
    External = 3,
    /// The router's own, or broadcast.
    Local = 4,
    /// Routed untranslated.
    Bypass = 5,
    /// Out of another interface.
    Elsewhere = 6,
    /// The routing table has no way.
    NoRoute = 7,
    /// The packet came in on a VLAN that is not configured.
    Foreign = 8,
    /// There is a way, but the next hop's MAC address is not known; `mac` is zero.
    NoNeighbour = 9,
}

impl Class {
    #[inline(always)]
    fn of(number: u8) -> Self {
        match number {
            1 => Self::Outside,
            2 => Self::Inside,
            3 => Self::External,
            4 => Self::Local,
            5 => Self::Bypass,
            6 => Self::Elsewhere,
            7 => Self::NoRoute,
            8 => Self::Foreign,
            9 => Self::NoNeighbour,
            _ => Self::Unknown,
        }
    }
}

/// A destination and the way to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// What it is.
    pub class: Class,
    /// For [`Class::NoNeighbour`] what it would be.
    pub beyond: Side,
    /// MTU of the way out in bytes.
    pub mtu: u16,
    /// Index of the external address, or of the kernel's interface of the way out.
    pub index: u32,
    /// Next hop's address.
    pub next_hop: u32,
    /// Number of the interface of the way out.
    pub port: u32,
    /// The next hop's MAC address.
    pub mac: [u8; 6],
}

impl Way {
    /// Not asked yet.
    pub const UNKNOWN: Way = Way {
        class: Class::Unknown,
        beyond: Side::Outside,
        mtu: 0,
        index: 0,
        next_hop: 0,
        port: 0,
        mac: [0; 6],
    };
}

/// A question.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    /// The device that the packet came in on.
    pub device: u32,
    /// Its VLAN, 0 for none.
    pub vlan: u16,
    /// Source of the packet.
    pub source: u32,
    /// Destination.
    pub addr: u32,
    /// Type of service.
    pub tos: u8,
    /// Time in ticks.
    pub now: u32,
    /// For the peer of a leg of the media relay, that leg's number plus one: the answer has a place by it, so that calls do not push
    /// each other's answers out. Else 0.
    pub leg: u32,
}

/// Answers from the cache, if it knows. `generation` is [`crate::config::State::route_generation`].
#[inline(always)]
pub fn cached<'t, T: Tables>(t: &'t T, cfg: &Config, query: &Query, generation: u32) -> Option<&'t Destination> {
    place(t, cfg, query).filter(|entry| answers(entry, cfg, query, generation))
}

/// Where the answer is or would be.
#[inline(always)]
fn place<'t, T: Tables>(t: &'t T, cfg: &Config, query: &Query) -> Option<&'t Destination> {
    let place = match query.leg {
        0 => (query.addr ^ query.device.rotate_left(13)).wrapping_mul(0x9e37_79b1) >> 15,
        leg => leg,
    };
    t.destination(place & cfg.destination_mask)
}

#[inline(always)]
fn answers(entry: &Destination, cfg: &Config, query: &Query, generation: u32) -> bool {
    entry.addr.get() == query.addr
        && entry.ingress.get() == ingress_key(query.device, query.vlan)
        && entry.generation.get() == generation
        && query.now.wrapping_sub(entry.filled.get()) <= cfg.route_age
        && entry.class.get() != 0
}

/// Answers from the cache or from the tables; false if there is no cache at all.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn destination<T: Tables>(t: &T, cfg: &Config, query: &Query, way: &mut Way) -> bool {
    let Some(entry) = place(t, cfg, query) else {
        return false;
    };
    let generation = t.state().map_or(0, |state| state.route_generation);
    if !answers(entry, cfg, query, generation) {
        fill(t, entry, query, generation);
    }
    let mac = entry.mac.get().to_le_bytes();
    let class = entry.class.get();
    way.class = Class::of(class & 0x7f);
    way.beyond = if class & 0x80 != 0 { Side::Inside } else { Side::Outside };
    way.mtu = entry.mtu.get();
    way.index = entry.index.get();
    way.next_hop = entry.next_hop.get();
    way.port = entry.port.get();
    way.mac = [mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]];
    true
}

/// Asks the tables and fills a cache entry.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn fill<T: Tables>(t: &T, entry: &Destination, query: &Query, generation: u32) {
    entry.addr.set(query.addr);
    entry.ingress.set(ingress_key(query.device, query.vlan));
    entry.generation.set(generation);
    entry.filled.set(query.now);
    entry.mac.set(0);
    entry.mtu.set(0);
    entry.index.set(0);
    entry.class.set(decide(t, entry, query));
}

/// A MAC address as the cache has it.
#[inline(always)]
fn number(m: [u8; 6]) -> u64 {
    u64::from_le_bytes([m[0], m[1], m[2], m[3], m[4], m[5], 0, 0])
}

/// The class; the rest goes into the entry.
#[inline(always)]
fn decide<T: Tables>(t: &T, entry: &Destination, query: &Query) -> u8 {
    let Some(ingress) = t
        .interface_of(ingress_key(query.device, query.vlan))
        .and_then(|i| t.interface(i))
    else {
        return Class::Foreign as u8;
    };
    if let Some(index) = t.external(query.addr) {
        entry.index.set(index);
        return Class::External as u8;
    }
    if t.local(query.addr) {
        return Class::Local as u8;
    }
    if ingress.role == ROLE_INSIDE && t.bypassed(query.addr) {
        return Class::Bypass as u8;
    }
    let route = t.route(ingress.ifindex, query.source, query.addr, query.tos);
    entry.next_hop.set(route.next_hop);
    entry.mtu.set(route.mtu);
    entry.index.set(route.ifindex);
    if route.kind != RouteKind::Known && route.kind != RouteKind::NoNeighbour {
        return Class::NoRoute as u8;
    }
    let Some(port) = t.interface_of(egress_key(route.ifindex)) else {
        return Class::Elsewhere as u8;
    };
    let Some(out) = t.interface(port) else {
        return Class::Elsewhere as u8;
    };
    entry.port.set(port);
    if out.mtu != 0 && (route.mtu == 0 || out.mtu < route.mtu) {
        entry.mtu.set(out.mtu);
    }
    let class = match out.role {
        ROLE_INSIDE => Class::Inside,
        ROLE_OUTSIDE => Class::Outside,
        _ => return Class::Elsewhere as u8,
    };
    if route.kind == RouteKind::NoNeighbour {
        // Not believed for longer than this packet: the daemon is about to resolve it.
        entry.filled.set(query.now.wrapping_sub(1 << 30));
        let inside = if class == Class::Inside { 0x80 } else { 0 };
        return Class::NoNeighbour as u8 | inside;
    }
    entry.mac.set(number(route.mac));
    entry.source.set(number(out.mac));
    entry.vlan.set(out.vlan);
    class as u8
}

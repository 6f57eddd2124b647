//! Everything the decision needs to know and may change, behind one trait: the kernel program implements it over BPF
//! maps, the tests and fuzzers over plain memory.

use crate::binding::{self, Ending};
use crate::config::{Config, State};
use crate::event::Event;
use crate::flow::{InsideKey, Proto, Side};
use crate::index;
use crate::maps::{Address, Batch, Block, Bucket, Destination, Fragment, Host, Interface, Session, Slot, Traffic};
use crate::packet::Packet;
use crate::policy::Rule;
use crate::ports;
use crate::raw::Word64;
use crate::relay::{Leg, latch, latch::Media, quality, send};
use crate::session::{self, Flow, SessionState};
use crate::verdict::Outcome;
use crate::watch::Seen;

/// What the routing table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// There is a way and the next hop's MAC address is known.
    Known,
    /// There is a way; the next hop's MAC address is not known.
    NoNeighbour,
    /// No route, or an address of the router itself.
    None,
    /// Unreachable, blackhole or prohibited by the routing table.
    Refused,
    /// Forwarding is off on the interface.
    ForwardingOff,
}

/// The answer of the routing table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Kind of answer.
    pub kind: RouteKind,
    /// Interface index of the way out.
    pub ifindex: u32,
    /// Next hop, host order.
    pub next_hop: u32,
    /// MTU of the way out in bytes.
    pub mtu: u16,
    /// The next hop's MAC address.
    pub mac: [u8; 6],
}

/// The tables of the data path.
pub trait Tables {
    /// Time in ticks.
    fn now(&self, state: &State) -> u32;
    /// A random number.
    fn random(&self) -> u32;
    /// A number that is unique among the next 2^16 calls on all `cpus` CPUs, for IP identification (RFC 6864).
    fn next_id(&self, cpus: u32) -> u16;
    /// What changes while the program runs.
    fn state(&self) -> Option<&State>;
    /// One of the two configurations.
    fn config(&self, index: u32) -> Option<&Config>;
    /// External address number `index`.
    fn address(&self, index: u32) -> Option<&Address>;
    /// Slot number `index`.
    fn slot(&self, index: u32) -> Option<&Slot>;
    /// Counters of slot `index`.
    fn traffic(&self, index: u32) -> Option<&Traffic>;
    /// A bucket of the binding index.
    fn bucket(&self, index: u32) -> Option<&Bucket>;
    /// Sixty-four ports in use; see [`crate::ports`].
    fn used_ports(&self, index: u32) -> Option<&Word64>;
    /// Sixty-four free blocks.
    fn free_blocks(&self, index: u32) -> Option<&Word64>;
    /// A block.
    fn block(&self, index: u32) -> Option<&Block>;
    /// A host record.
    fn host(&self, index: u32) -> Option<&Host>;
    /// A session.
    fn session(&self, index: u32) -> Option<&Session>;
    /// A fragmented datagram.
    fn fragment(&self, index: u32) -> Option<&Fragment>;
    /// A leg of the media relay.
    fn leg(&self, index: u32) -> Option<&Leg>;
    /// Time in nanoseconds since some moment, for what is measured of media.
    fn nanos(&self) -> u64;
    /// A cached destination of this CPU.
    fn destination(&self, index: u32) -> Option<&Destination>;
    /// What the stages of this CPU tell each other; `None` if nothing is staged here.
    fn batch(&self) -> Option<&Batch>;
    /// A policy rule.
    fn rule(&self, index: u32) -> Option<&Rule>;
    /// Index of the external address that `addr` is.
    fn external(&self, addr: u32) -> Option<u32>;
    /// Whether `addr` is the router's own, or a broadcast address of one of its networks.
    fn local(&self, addr: u32) -> bool;
    /// Whether `addr` is routed untranslated.
    fn bypassed(&self, addr: u32) -> bool;
    /// Whether `addr` is in a configured inside prefix.
    fn inside_prefix(&self, addr: u32) -> bool;
    /// Interface number by [`crate::maps::ingress_key`] or [`crate::maps::egress_key`].
    fn interface_of(&self, key: u64) -> Option<u32>;
    /// Interface number `index`.
    fn interface(&self, index: u32) -> Option<&Interface>;
    /// Asks the routing table.
    fn route(&self, ifindex: u32, source: u32, destination: u32, tos: u8) -> Route;
    /// Makes ready for sending the packet out by interface `port`; false if that is not possible. What is not sent in the end
    /// is no harm.
    fn announce(&self, _port: u32) -> bool {
        true
    }
    /// Runs `insert` while holding lock number `index`.
    fn locked<R>(&self, index: u32, insert: impl FnOnce() -> R) -> Option<R>;
    /// Tells the daemon.
    fn event(&self, event: Event);
    /// A packet of a watched port is about to be translated; the daemon may want a copy of what is in it.
    fn watch<P: Packet>(&self, p: &mut P, seen: &Seen, now: u32)
    where
        Self: Sized,
    {
        let _ = (p, seen, now);
    }

    /// [`send::quickly`]; the kernel program makes it a function that is verified once.
    fn relay<P: Packet>(&self, p: &mut P, side: Side, device: u32, index: u32) -> Outcome
    where
        Self: Sized,
    {
        send::quickly(p, self, side, device, index)
    }

    /// [`latch::admit`], likewise.
    fn admit_media(&self, cfg: &Config, media: &Media, now: u32, learn: bool) -> u32
    where
        Self: Sized,
    {
        latch::admit(self, cfg, media, now, learn)
    }

    /// [`latch::is_of_its_side`], likewise.
    fn media_is_of_its_side(&self, cfg: &Config, media: &Media, now: u32) -> bool
    where
        Self: Sized,
    {
        latch::is_of_its_side(self, cfg, media, now)
    }

    /// [`quality::report`], likewise.
    fn read_report<P: Packet>(&self, p: &mut P, number: u32, offset: usize)
    where
        Self: Sized,
    {
        quality::report(p, self, number, offset);
    }

    /// [`ports::claim_port`], likewise.
    fn claim_port(&self, cfg: &Config, block: u32, proto: Proto, mask: u64, random: u32) -> u32
    where
        Self: Sized,
    {
        ports::claim_port(self, cfg, block, proto, mask, random)
    }

    /// [`binding::find_here`], likewise.
    fn find_binding(&self, cfg: &Config, key: &InsideKey, now: u32) -> u32
    where
        Self: Sized,
    {
        binding::find_here(self, cfg, key, now)
    }

    /// [`index::insert_here`], likewise.
    fn insert_binding(&self, cfg: &Config, key: &InsideKey, index: u32, now: u32) -> u32
    where
        Self: Sized,
    {
        index::insert_here(self, cfg, key, index, now)
    }

    /// [`index::forget_here`], likewise.
    fn forget_binding(&self, cfg: &Config, key: &InsideKey, index: u32)
    where
        Self: Sized,
    {
        index::forget_here(self, cfg, key, index);
    }

    /// [`binding::last_use`], likewise.
    fn last_use(&self, cfg: &Config, index: u32) -> u32
    where
        Self: Sized,
    {
        binding::last_use(self, cfg, index)
    }

    /// [`binding::end`], likewise.
    fn end_binding(&self, cfg: &Config, index: u32, ending: &Ending, now: u32) -> bool
    where
        Self: Sized,
    {
        binding::end(self, cfg, index, ending, now)
    }

    /// [`binding::create`], likewise: the slot, or `REFUSED` and the reason.
    fn create_binding(&self, cfg: &Config, key: &InsideKey, now: u32) -> u32
    where
        Self: Sized,
    {
        binding::create(self, cfg, key, now)
    }

    /// [`session::track`], likewise: 0, or `REFUSED` and the reason.
    fn track(&self, cfg: &Config, flow: &Flow, side: Side, now: u32) -> u32
    where
        Self: Sized,
    {
        session::track(self, cfg, flow, side, now)
    }

    /// [`ports::free_place_of`], likewise.
    fn free_place(&self, cfg: &Config, host: u32) -> u32
    where
        Self: Sized,
    {
        ports::free_place_of(self, cfg, host)
    }

    /// [`ports::take_block`], likewise.
    fn take_block(&self, cfg: &Config, address: u32, rank: u32) -> u32
    where
        Self: Sized,
    {
        ports::take_block(self, cfg, address, rank)
    }

    /// [`ports::count_blocks`], likewise.
    fn count_blocks(&self, cfg: &Config, host: u32) -> u32
    where
        Self: Sized,
    {
        ports::count_blocks(self, cfg, host)
    }

    /// [`ports::grow`], likewise.
    fn grow(&self, cfg: &Config, host: u32, key: &InsideKey, random: u32, now: u32) -> u32
    where
        Self: Sized,
    {
        ports::grow(self, cfg, host, key, random, now)
    }

    /// [`ports::reclaim`], likewise.
    fn reclaim(&self, cfg: &Config, host: u32, key: &InsideKey, random: u32, now: u32) -> u32
    where
        Self: Sized,
    {
        ports::reclaim(self, cfg, host, key, random, now)
    }

    /// [`session::find`], likewise.
    fn find_session(&self, cfg: &Config, flow: &Flow, port: u16, now: u32) -> u32
    where
        Self: Sized,
    {
        session::find(self, cfg, flow, port, now)
    }

    /// [`session::make`], likewise.
    fn make_session(&self, cfg: &Config, flow: &Flow, state: SessionState, now: u32) -> bool
    where
        Self: Sized,
    {
        session::make(self, cfg, flow, state, now)
    }

    /// [`session::judge`], likewise.
    fn policy(&self, cfg: &Config, side: Side, flow: &Flow) -> bool
    where
        Self: Sized,
    {
        session::judge(self, cfg, side, flow)
    }
}

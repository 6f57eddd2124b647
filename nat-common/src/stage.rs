//! The short way in two stages, for tables that the processor's caches do not hold.
//!
//! Among a million bindings nearly every packet waits for one line of the index to come from memory, several times as long as
//! everything else takes, and the instruction set has no prefetch. But the kernel keeps redirected frames back and sends up
//! to sixteen at a time, and runs a program on each of them first if the device's entry has one. So the first stage, on the
//! device that a packet came in on, only writes down where in the index its binding must be, marks the frame, and redirects
//! it. The second stage, when the batch is sent, reads the lines of all of them one after the other, before it
//! translates the first: then they come at the same time, and sixteen packets wait as long as one did.
//!
//! The mark is an EtherType that nothing else from here has, so a frame that met no second stage would be no IP packet. The daemon
//! sees to it that every frame meets one: see [`State::staged`](crate::config::State::staged).

use crate::counters::Reason;
use crate::index::Place;
use crate::maps::{BATCH, LINE};
use crate::packet::{ETHERTYPE_IPV4, Head, Packet};
use crate::quick::{Now, Plain};
use crate::raw::below;
use crate::tables::Tables;
use crate::verdict::Outcome;

/// EtherType of a frame between the stages: IEEE 802's Local Experimental EtherType 1.
pub const ETHERTYPE_STAGED: u16 = 0x88b5;
/// Where the EtherType is.
const ETHERTYPE: usize = 12;

/// The first stage, for a packet whose headers and place are known. `None`, and nothing has changed, if it is not one of those
/// that can only leave by the device of an outside interface, or be dropped: it goes on in one piece.
#[inline(always)]
pub(crate) fn put_off<P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    now: &Now,
    head: &Head,
    place: &Place,
    device: u32,
) -> Option<Outcome> {
    let batch = t.batch()?;
    let h = Plain::udp(head);
    if !head.is_udp() || h.is_watched(now.cfg, h.destination.port) {
        return None;
    }
    let way = h.way(t, now, device, h.destination.addr)?;
    if !h.leaves_by(way) || !t.announce(way.port.get()) {
        return None;
    }
    p.set_be16(ETHERTYPE, ETHERTYPE_STAGED)?;
    batch.add(place.line());
    Some(Outcome::staged(way.port.get()))
}

/// Takes the mark from a frame; false if it has none.
#[inline(always)]
pub fn take_up<P: Packet>(p: &mut P) -> bool {
    p.be16(ETHERTYPE) == Some(ETHERTYPE_STAGED) && p.set_be16(ETHERTYPE, ETHERTYPE_IPV4).is_some()
}

/// Reads the lines of all packets of a batch, if this is the first of them.
#[inline(always)]
pub(crate) fn fetch<T: Tables>(t: &T) -> Option<()> {
    let batch = t.batch()?;
    let count = batch.count.get();
    batch.count.set(0);
    let mut i = 0;
    while i < BATCH as u32 && below(i, count) {
        let line = batch.lines[i as usize].get();
        i += 1;
        t.bucket(line >> 1)?.at((line & 1) as usize * LINE).word.get();
    }
    Some(())
}

/// What the second stage makes of an outcome: it can send a packet by the device that it is on, or not at all. `here` says
/// whether an interface is on that device.
#[inline(always)]
pub fn settle(outcome: Outcome, here: impl FnOnce(u32) -> bool) -> Outcome {
    use crate::counters::Action;
    let sent = match outcome.action() {
        Action::Forward => here(outcome.argument().value),
        Action::Pass => false,
        Action::Drop | Action::Punt => true,
    };
    if sent { outcome } else { Reason::Overtaken.into() }
}

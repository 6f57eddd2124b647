//! The short way of a packet to a relay's port: from its headers to its rewriting in one piece.
//!
//! Like that of the NAT ([`crate::quick`]) it leaves untouched whatever is out of the ordinary; [`crate::translate`] goes the
//! thorough way over the same steps.

use super::latch::{Media, denial, let_in, onward, source};
use super::{Leg, LegWord, neighbour, quality};
use crate::checksum::Delta;
use crate::classify::Class;
use crate::config::Config;
use crate::counters::Reason;
use crate::flow::Side;
use crate::maps::ingress_key;
use crate::packet::{HEAD_LEN, Head, Packet};
use crate::parse::DF;
use crate::quick::{Now, Plain};
use crate::tables::Tables;
use crate::verdict::Outcome;

/// Offset of the UDP payload in an untagged frame without IP options.
const PAYLOAD: usize = 42;
/// Length of the IP and UDP headers of such a packet.
const HEADERS: u16 = 28;

/// Relays a packet whose headers [`crate::quick`] has found in order and whose destination is slot `index`, or
/// [`Outcome::GO_ON`].
#[inline(always)]
pub fn quickly<P: Packet, T: Tables>(p: &mut P, t: &T, side: Side, device: u32, index: u32) -> Outcome {
    relay(p, t, side, device, index).unwrap_or(Outcome::GO_ON)
}

#[inline(always)]
fn relay<P: Packet, T: Tables>(p: &mut P, t: &T, side: Side, device: u32, index: u32) -> Option<Outcome> {
    let head = p.head()?;
    let now = &Now::of(t)?;
    let number = t.slot(index)?.inside_addr.get();
    let leg = t.leg(number)?;
    let word = LegWord(leg.word.get());
    if !word.serves(index) || word.copies() {
        return None;
    }
    expect(t, now.cfg, leg, number);
    let h = Plain::udp(&head);
    let media = media_of(&head, &h, side, device, number);
    if !leg.knows(word, &media)
        && let Some(reason) = denial(let_in(t, now.cfg, &media, now.ticks))
    {
        return Some(reason.into());
    }
    let hop = match onward(t, leg, number) {
        Ok(hop) => hop,
        Err(reason) => {
            quality::count(t, leg, word, &media, h.total_len, now.ticks);
            return Some(reason.into());
        }
    };
    let way = h.way_of(t, now, device, hop.destination.addr, hop.leg)?;
    let class = way.class.get();
    if class != Class::Outside as u8 && class != Class::Inside as u8 || !h.fits(way) {
        return None;
    }
    quality::count(t, leg, word, &media, h.total_len, now.ticks);
    if quality::is_report(word, &media) {
        t.read_report(p, number, PAYLOAD);
    }
    let mut ip = head.ip;
    let mut header = Delta::new()
        .long(h.source.addr, hop.source.addr)
        .long(h.destination.addr, hop.destination.addr);
    let transport = header
        .word(h.source.port, hop.source.port)
        .word(h.destination.port, hop.destination.port);
    let old = (ip[0] >> 48) as u16;
    let new = old & 0xff00 | u16::from(word.tos(old as u8));
    ip[0] = ip[0] & 0x0000_ffff_ffff_ffff | u64::from(new) << 48;
    header = header.word(old, new);
    if ip[0] & u64::from(DF) == 0 {
        let (old, id) = ((ip[0] >> 16) as u16, t.next_id(now.cpus));
        ip[0] = ip[0] & !0xffff_0000 | u64::from(id) << 16;
        header = header.word(old, id);
    }
    ip[1] = h.life(&head, header) | u64::from(hop.source.addr);
    ip[2] = u64::from(hop.destination.addr) << 32 | u64::from(hop.source.port) << 16 | u64::from(hop.destination.port);
    h.write(p, way, &ip, transport)?;
    Some(Outcome::forward(Reason::Relayed, way.port.get()))
}

/// Has the lines of memory that a relayed packet needs come all at once, where each would otherwise be found only by what the one before
/// says: with many legs they are in no cache.
#[inline(always)]
fn expect<T: Tables>(t: &T, cfg: &Config, leg: &Leg, number: u32) {
    leg.stream.get();
    let beyond = neighbour(number);
    if let Some(partner) = t.leg(beyond) {
        partner.word.get();
    }
    if let Some(way) = t.destination(beyond.wrapping_add(1) & cfg.destination_mask) {
        way.filled.get();
    }
}

/// What a leg has to know of a packet with these headers.
#[inline(always)]
fn media_of(head: &Head, h: &Plain, side: Side, device: u32, leg: u32) -> Media {
    // The frame has all of these bytes, but they may lie behind the packet.
    const _: () = assert!(HEAD_LEN == PAYLOAD + 12);
    let [first, second] = head.transport;
    Media {
        source: source(h.source),
        ingress: ingress_key(device, 0),
        start: first << 32 | second >> 32,
        ssrc: second as u32,
        len: u32::from(h.total_len.wrapping_sub(HEADERS)),
        leg,
        side: side as u32,
    }
}

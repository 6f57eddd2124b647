//! Copies of packets for the daemon. Most of it is for watching registrations that cross the NAT: clear-text REGISTER requests over UDP and their
//! answers (RFC 3261 section 10).
//!
//! The packets are translated like all others and no byte of them is changed (RFC 4787 REQ-10). The daemon gets copies and lets the
//! binding live for as long as the registrar has granted: it sets [`Slot::lifetime`], which the data path honours by itself.
//!
//! Nobody may flood the daemon with copies: requests are limited by inside host, and answers are copied only for a
//! binding from which a request was copied before and whose answer the daemon still waits for.
//!
//! The same way go copies of the media of a call that somebody captures ([`LegWord::copies`](crate::relay::LegWord::copies)), with a budget of their own.

use crate::flow::{Endpoint, Side};
use crate::hash::mix;
use crate::maps::{Slot, SlotState, SlotWord};
use crate::packet::Packet;

/// Remote ports at most.
pub const MAX_PORTS: usize = 4;
/// Bytes of a message that are copied at most.
pub const MAX_LEN: usize = 1500;
/// Token buckets of inside hosts, per CPU.
pub const SOURCES: u32 = 1024;
/// Copies that one host may cause at once, and per second from then on.
pub const HOST_TOKENS: (u32, u32) = (64, 16);
/// The same for all hosts on one CPU.
pub const CPU_TOKENS: (u32, u32) = (1024, 2048);
/// The same for all captured media on one CPU: some ten calls of a packet in 20 ms from each side.
pub const MEDIA_TOKENS: (u32, u32) = (2048, 4096);

/// A UDP packet from or to a watched port or a leg of the relay, about to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Seen {
    /// The slot of the binding or leg.
    pub slot: u32,
    /// Address of the remote endpoint, host order.
    pub remote_addr: u32,
    /// Its port.
    pub remote_port: u16,
    /// Offset of the UDP payload in the frame.
    pub offset: u16,
    /// Length of the UDP payload.
    pub len: u16,
    /// [`Side`] that it came from.
    pub side: u8,
    /// Always zero.
    pub reserved: u8,
}

impl Seen {
    /// The remote endpoint.
    pub fn remote(&self) -> Endpoint {
        Endpoint::new(self.remote_addr, self.remote_port)
    }

    /// Whether it came from inside.
    #[inline(always)]
    pub fn outbound(&self) -> bool {
        self.side == Side::Inside as u8
    }
}

/// Header in front of a copied message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Copied {
    /// Where it was seen. `len` is the whole payload's; no more than [`MAX_LEN`] bytes of it follow.
    pub seen: Seen,
    /// The slot's generation at that time.
    pub generation: u16,
    /// Always zero.
    pub reserved: u16,
}

const _: () = assert!(size_of::<Seen>() == 16);
const _: () = assert!(size_of::<Copied>() == 20);

/// A configuration's word for up to [`MAX_PORTS`] watched remote ports; 0 for none. Port 0 cannot be watched.
pub fn word(ports: &[u16]) -> u64 {
    let mut used = ports.iter().copied().filter(|port| *port != 0).take(MAX_PORTS);
    let Some(first) = used.next() else { return 0 };
    let mut word = 0;
    for lane in 0..MAX_PORTS {
        let port = if lane == 0 { first } else { used.next().unwrap_or(first) };
        word |= u64::from(port) << (16 * lane);
    }
    word
}

/// Whether `port` is one of those in `word`. All four are compared at once.
#[inline(always)]
pub fn watches(word: u64, port: u16) -> bool {
    const ONES: u64 = 0x0001_0001_0001_0001;
    let lanes = word ^ u64::from(port).wrapping_mul(ONES);
    word != 0 && lanes.wrapping_sub(ONES) & !lanes & (ONES << 15) != 0
}

/// Whether a payload begins like a REGISTER, or from outside like a 200. The daemon reads the rest.
#[inline(always)]
pub fn begins<P: Packet>(p: &mut P, seen: &Seen) -> bool {
    let at = usize::from(seen.offset);
    let (Some(first), Some(second), Some(third)) = (p.be32(at), p.be32(at + 4), p.be32(at + 8)) else {
        return false;
    };
    let start = (u64::from(first) << 32) | u64::from(second);
    if seen.outbound() {
        start == u64::from_be_bytes(*b"REGISTER") && third >> 24 == u32::from(b' ')
    } else {
        start == u64::from_be_bytes(*b"SIP/2.0 ") && third >> 8 == u32::from_be_bytes(*b"\x00200")
    }
}

/// Whether a message of this binding is to be copied, or media of this leg: the slot's generation, or `NOT`.
#[inline(always)]
pub fn wanted(slot: &Slot, seen: &Seen) -> u32 {
    let word = SlotWord(slot.word.get());
    let ours = word.state() == SlotState::Live
        && (slot.is_relay() || seen.outbound() || slot.watched.get() == mark(word.generation()));
    if ours { u32::from(word.generation()) } else { NOT }
}

/// See [`wanted`].
pub const NOT: u32 = u32::MAX;

/// The daemon waits for an answer on this binding from now on; or not any more. Does nothing if the slot is in other hands.
#[inline(always)]
pub fn watch(slot: &Slot, generation: u16, on: bool) {
    if SlotWord(slot.word.get()).generation() == generation {
        slot.watched.set(if on { mark(generation) } else { 0 });
    }
}

/// Lets a binding live for `lifetime` ticks after its last use; 0: for as long as others. False if the slot is in other hands.
pub fn extend(slot: &Slot, generation: u16, lifetime: u32) -> bool {
    let ours = || {
        let word = SlotWord(slot.word.get());
        word.generation() == generation && word.state() == SlotState::Live
    };
    if !ours() || slot.kind.get() != crate::maps::KIND_DYNAMIC {
        return false;
    }
    slot.lifetime.set(lifetime);
    let still = ours();
    if !still {
        // Whoever has taken it in this moment has its own lifetime.
        slot.lifetime.set(0);
    }
    still
}

/// The number of a host's token bucket.
#[inline(always)]
pub fn source(slot: &Slot) -> u32 {
    mix(u64::from(slot.inside_addr.get()), 0) as u32 & (SOURCES - 1)
}

/// What [`Slot::watched`] is while this generation is watched: a new user of the slot need not clear it.
#[inline(always)]
fn mark(generation: u16) -> u16 {
    generation.wrapping_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_compared_all_at_once() {
        assert_eq!(word(&[]), 0);
        assert_eq!(word(&[0]), 0);
        assert!((0..=u16::MAX).all(|port| !watches(0, port)));
        for ports in [&[5060][..], &[5060, 5062], &[1, 2, 3, 4], &[65535, 5060, 1]] {
            let word = word(ports);
            for port in 0..=u16::MAX {
                assert_eq!(watches(word, port), ports.contains(&port), "{port} in {ports:?}");
            }
        }
        assert!(!watches(word(&[1, 2, 3, 4, 5]), 5), "no more than four");
    }

    #[test]
    fn answers_are_wanted_only_while_the_daemon_waits_for_them() {
        let slot = Slot::default();
        let outbound = Seen::default();
        let inbound = Seen {
            side: Side::Outside as u8,
            ..outbound
        };
        assert_eq!(wanted(&slot, &outbound), NOT, "nobody's slot");
        slot.word.set(SlotWord::new(SlotState::Live, 7, 0).0);
        assert_eq!((wanted(&slot, &outbound), wanted(&slot, &inbound)), (7, NOT));
        watch(&slot, 6, true);
        assert_eq!(wanted(&slot, &inbound), NOT, "that was for another binding");
        watch(&slot, 7, true);
        assert_eq!(wanted(&slot, &inbound), 7);
        slot.word.set(SlotWord::new(SlotState::Live, 8, 0).0);
        assert_eq!(wanted(&slot, &inbound), NOT, "the slot's next user is not watched");
        watch(&slot, 8, true);
        watch(&slot, 8, false);
        assert_eq!(wanted(&slot, &inbound), NOT);
    }

    #[test]
    fn only_the_binding_that_was_meant_is_extended() {
        let slot = Slot::default();
        slot.word.set(SlotWord::new(SlotState::Live, 7, 0).0);
        assert!(!extend(&slot, 6, 100));
        assert_eq!(slot.lifetime.get(), 0);
        assert!(extend(&slot, 7, 100));
        assert_eq!(slot.lifetime.get(), 100);
        slot.kind.set(crate::maps::KIND_STATIC);
        assert!(!extend(&slot, 7, 0), "a forward lives for ever");
        assert_eq!(slot.lifetime.get(), 100);
    }
}

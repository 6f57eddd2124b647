//! Legs for tests, as the daemon would open them, and the media that is sent to them.

use crate::config::FOREVER;
use crate::flow::{Endpoint, Proto};
use crate::maps::{AddressWord, KIND_RELAY, SlotState, SlotWord};
use crate::ports::{slot_index, used_place};
use crate::relay::{CLASS_RTP, Leg, LegWord, gate, peer_word, quality::scale};
use crate::tables::Tables;
use std::vec::Vec;

/// A leg to be opened.
#[derive(Clone, Copy, Debug)]
pub struct TestLeg {
    /// Its external port, on external address number 0.
    pub port: u16,
    /// Prefix that it may learn from, and its length; length 0: nobody.
    pub gate: (u32, u8),
    /// `CLASS_*`.
    pub classes: u8,
    /// Where packets go before the peer is known.
    pub fallback: Option<Endpoint>,
    /// Whether the peer may move.
    pub follow: bool,
    /// DSCP of what leaves.
    pub dscp: Option<u8>,
}

impl TestLeg {
    /// A leg for RTP, with a gate for one address.
    pub fn rtp(port: u16, from: u32) -> Self {
        Self {
            port,
            gate: (from, 32),
            classes: CLASS_RTP,
            fallback: None,
            follow: false,
            dscp: None,
        }
    }
}

/// Opens two partners, legs `number` and `number + 1`, at `now`.
pub fn open<T: Tables>(t: &T, number: u32, legs: [TestLeg; 2], now: u32) {
    let address = AddressWord(t.address(0).expect("an external address").word.get());
    for (n, plan) in (number..).zip(legs) {
        let leg = t.leg(n).expect("a leg");
        let index = slot_index(0, Proto::Udp, plan.port);
        let generation = LegWord(leg.word.get()).generation().wrapping_add(1);
        leg.remote.set(peer_word(Endpoint::default(), generation));
        leg.fallback.set(plan.fallback.map_or(0, |peer| peer_word(peer, 0)));
        leg.gates[0].set(gate(plan.gate.0, plan.gate.1));
        leg.partner.set(if n == number { number + 2 } else { number + 1 });
        leg.clock.set(scale(8000));
        leg.address_generation.set(u32::from(address.generation()));
        leg.armed.set(now);
        leg.word.set(
            LegWord::new(index, plan.classes, generation)
                .following(plan.follow)
                .marking(plan.dscp)
                .0,
        );
        let (word, bit) = used_place(index);
        t.used_ports(word).expect("a word").or(bit);
        let slot = t.slot(index).expect("a slot");
        slot.inside_addr.set(n);
        slot.kind.set(KIND_RELAY);
        slot.lifetime.set(FOREVER);
        slot.address_generation.set(address.generation());
        let generation = SlotWord(slot.word.get()).generation().wrapping_add(1);
        slot.word.set(SlotWord::new(SlotState::Live, generation, now).0);
    }
}

/// Lets a leg learn its peer anew, keeping what it knows until then.
pub fn arm(leg: &Leg, now: u32) {
    let word = LegWord(leg.word.get());
    leg.armed.set(now);
    leg.word.set(word.in_generation(word.generation().wrapping_add(1)).0);
}

/// An RTP packet (RFC 3550 §5.1) of payload type 0 with 20 ms of sound.
pub fn rtp(ssrc: u32, sequence: u16) -> Vec<u8> {
    let mut packet = Vec::from([0x80, 0]);
    packet.extend(sequence.to_be_bytes());
    packet.extend((u32::from(sequence) * 160).to_be_bytes());
    packet.extend(ssrc.to_be_bytes());
    packet.extend([0x55; 160]);
    packet
}

/// An RTCP sender report (RFC 3550 §6.4.1) whose NTP timestamp has `middle` in its middle, without a report block.
pub fn sender_report(ssrc: u32, middle: u32) -> Vec<u8> {
    let mut packet = Vec::from([0x80, 200, 0, 6]);
    packet.extend(ssrc.to_be_bytes());
    packet.extend((u64::from(middle) << 16).to_be_bytes());
    packet.extend([0; 12]);
    packet
}

/// An RTCP receiver report with one block: the report that was heard last, and for how long it has been held, in units of
/// 1/65536 s.
pub fn receiver_report(ssrc: u32, last: u32, held: u32) -> Vec<u8> {
    let mut packet = Vec::from([0x81, 201, 0, 7]);
    packet.extend(ssrc.to_be_bytes());
    packet.extend([0; 16]);
    packet.extend(last.to_be_bytes());
    packet.extend(held.to_be_bytes());
    packet
}

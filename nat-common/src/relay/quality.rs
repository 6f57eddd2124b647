//! What a leg sees of its peer's stream: loss, order, jitter (RFC 3550 appendix A) and, by RTCP, the round-trip time.
//!
//! Packets and bytes are counted exactly. The rest are estimates where one stream is spread over several processors: its fields
//! are written without asking who else does.

use super::latch::Media;
use super::{Leg, LegWord};
use crate::packet::Packet;
use crate::raw::opaque;
use crate::tables::Tables;

/// A sequence number further ahead than this begins a stream anew (RFC 3550 §A.1).
const MAX_DROPOUT: u16 = 3000;
/// A sequence number not further behind than this is late.
const MAX_MISORDER: u16 = 100;
/// The extended sequence number of a stream begins here, so that it is never 0.
const FIRST_CYCLE: u32 = 1 << 16;
/// The longest step of a transit time that counts, in timestamp units: a sender that stopped its clock would be felt for ever.
const MAX_STEP: u32 = 1 << 20;

/// RTCP sender report and receiver report (RFC 3550 §12.1).
const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;

/// [`Leg::clock`] of an RTP clock rate in Hz.
pub const fn scale(rate: u32) -> u32 {
    // Timestamp units in 1024 ns, times 2^24.
    (((rate as u64 * 1024) << 24) / 1_000_000_000) as u32
}

/// The clock rate in Hz of a [`Leg::clock`].
pub fn rate(scale: u32) -> u32 {
    ((u64::from(scale) * 1_000_000_000 + (512 << 24)) / (1024 << 24)) as u32
}

/// A time in nanoseconds in units of a clock, wrapping.
#[inline(always)]
fn units(nanos: u64, scale: u32) -> u32 {
    ((nanos >> 10).wrapping_mul(u64::from(scale)) >> 24) as u32
}

/// The units of RTCP (RFC 3550 §6.4.1: LSR, DLSR).
const REPORT_SCALE: u32 = scale(65536);

/// Counts a packet from the peer.
#[inline(always)]
pub fn count<T: Tables>(t: &T, leg: &Leg, word: LegWord, media: &Media, total_len: u16, now: u32) {
    leg.packets.fetch_add(1);
    leg.bytes.fetch_add(u64::from(total_len));
    leg.last.set(now);
    if !media.is_rtp(word) {
        leg.others.add(1);
        return;
    }
    let known = leg.stream.get();
    let ahead = media.sequence().wrapping_sub(known as u16);
    if known == 0 || (known >> 32) as u32 != media.ssrc || (MAX_DROPOUT..=u16::MAX - MAX_MISORDER).contains(&ahead) {
        begin(t, leg, media, known);
    } else if ahead == 0 || ahead >= MAX_DROPOUT {
        leg.late.add(1);
    } else {
        let extended = (known as u32).wrapping_add(u32::from(ahead));
        leg.stream.set(known & !0xffff_ffff | u64::from(extended));
        arrive(t, leg, media);
    }
}

/// A stream begins: the first one, one with another SSRC, or one that has jumped.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn begin<T: Tables>(t: &T, leg: &Leg, media: &Media, known: u64) {
    let first = FIRST_CYCLE | u32::from(media.sequence());
    let base = leg.base.get();
    if !leg
        .stream
        .replace(known, u64::from(media.ssrc) << 32 | u64::from(first))
    {
        return;
    }
    leg.base.set(first);
    if known != 0 {
        leg.before.fetch_add(u64::from((known as u32).wrapping_sub(base)) + 1);
        if (known >> 32) as u32 != media.ssrc {
            leg.ssrc_changes.add(1);
        }
    }
    // The first packet has no one before it to differ from.
    let transit = units(t.nanos(), leg.clock.get()).wrapping_sub(media.timestamp());
    leg.transit
        .set(u64::from(transit) << 32 | leg.transit.get() & 0xffff_ffff);
}

/// Interarrival jitter (RFC 3550 §A.8).
#[inline(always)]
fn arrive<T: Tables>(t: &T, leg: &Leg, media: &Media) {
    let clock = leg.clock.get();
    if clock == 0 {
        return;
    }
    let transit = units(t.nanos(), clock).wrapping_sub(media.timestamp());
    let before = leg.transit.get();
    let step = transit.wrapping_sub((before >> 32) as u32);
    let sign = ((step as i32) >> 31) as u32;
    let step = (step ^ sign).wrapping_sub(sign).min(MAX_STEP);
    let jitter = before as u32;
    let jitter = jitter.wrapping_add(step).wrapping_sub(jitter.wrapping_add(8) >> 4);
    leg.transit.set(u64::from(transit) << 32 | u64::from(jitter));
}

/// Whether a packet of the peer's is an RTCP report, for [`report`].
#[inline(always)]
pub fn is_report(word: LegWord, media: &Media) -> bool {
    let kind = (media.start >> 48) as u8;
    word.classes() & super::CLASS_RTP != 0
        && media.start >> 62 == 2
        && (kind == SENDER_REPORT || kind == RECEIVER_REPORT)
}

/// Reads an RTCP report of the peer of leg `number` that begins at `offset`: a sender report is remembered, and the first report
/// block tells how long the partner's last sender report has been on its way to the peer and back (RFC 3550 §6.4.1). What is
/// encrypted speaks of no report that was seen.
#[inline(always)]
pub fn report<P: Packet, T: Tables>(p: &mut P, t: &T, number: u32, offset: usize) {
    let (Some(leg), Some(first)) = (t.leg(number), p.be32(offset)) else {
        return;
    };
    let now = units(t.nanos(), REPORT_SCALE);
    let mut block = offset + 8;
    if (first >> 16) as u8 == SENDER_REPORT {
        let Some(middle) = p.be32(offset + 10) else { return };
        leg.report.set(u64::from(now) << 32 | u64::from(middle));
        block = offset + 28;
    }
    if first >> 24 & 0x1f == 0 {
        return;
    }
    let (Some(said), Some(held)) = (p.be32(block + 16), p.be32(block + 20)) else {
        return;
    };
    let Some(partner) = t.leg(leg.partner.get().wrapping_sub(1)) else {
        return;
    };
    let sent = partner.report.get();
    if said == 0 || sent as u32 != said {
        return;
    }
    let round_trip = now.wrapping_sub((sent >> 32) as u32).wrapping_sub(held);
    if opaque(round_trip) as i32 >= 0 {
        leg.round_trip.set(round_trip.max(1));
    }
}

/// What a leg has seen of its peer's RTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quality {
    /// RTP packets.
    pub received: u64,
    /// RTP packets that should have come by now.
    pub expected: u64,
    /// Those that have not.
    pub lost: u64,
    /// RTP packets out of order, or twice.
    pub late: u32,
    /// Interarrival jitter in timestamp units.
    pub jitter: u32,
    /// SSRC of the stream; `None` before the first packet.
    pub ssrc: Option<u32>,
    /// How often it changed.
    pub ssrc_changes: u32,
}

impl Quality {
    /// What `leg` has seen.
    pub fn of(leg: &Leg) -> Self {
        let stream = leg.stream.get();
        let received = leg.packets.get().saturating_sub(u64::from(leg.others.get()));
        let here = match stream {
            0 => 0,
            _ => u64::from((stream as u32).wrapping_sub(leg.base.get())) + 1,
        };
        let expected = leg.before.get() + here;
        Self {
            received,
            expected,
            lost: expected.saturating_sub(received),
            late: leg.late.get(),
            jitter: leg.transit.get() as u32 >> 4,
            ssrc: (stream != 0).then_some((stream >> 32) as u32),
            ssrc_changes: leg.ssrc_changes.get(),
        }
    }
}

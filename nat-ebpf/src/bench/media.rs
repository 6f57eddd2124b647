//! Calls out of nowhere, and a sink that knows where each of their packets belongs.

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    helpers::{bpf_ktime_get_ns, bpf_redirect},
    macros::{map, xdp},
    maps::{Array, PerCpuArray},
    programs::XdpContext,
};

use crate::layout::{Count, Cursor};
use crate::media_layout::{
    DELAY_BUCKETS, MEDIA_ASTRAY, MEDIA_DIRECT, MEDIA_FRAME, MEDIA_OTHER, MEDIA_PAYLOAD, MEDIA_RELAYED, MEDIA_SOUND,
    MediaTraffic, MediaWanted,
};
use crate::programs::{TARGET, fold, next_flow, tally};

/// Streams that there can be at most.
const MEDIA_STREAMS: u32 = 65536;
/// Steps of a factor of two that [`delay_bucket`] tells apart.
const STEPS: u64 = 16;

#[map]
static MEDIA_TRAFFIC: Array<MediaTraffic> = Array::with_max_entries(1, 0);
/// Where each stream's peer sends: the port in the low half, the number of the relay's address in the high half.
#[map]
static MEDIA_LEGS: Array<u32> = Array::with_max_entries(MEDIA_STREAMS, 0);
#[map]
static MEDIA_CURSOR: PerCpuArray<Cursor> = PerCpuArray::with_max_entries(1, 0);
#[map]
static MEDIA_WANTED: Array<MediaWanted> = Array::with_max_entries(1, 0);
#[map]
static MEDIA_SINK: PerCpuArray<Count> = PerCpuArray::with_max_entries(4, 0);
#[map]
static MEDIA_DELAYS: PerCpuArray<u64> = PerCpuArray::with_max_entries(DELAY_BUCKETS, 0);

/// Writes a packet of a call and sends it; see `bench_generate`.
#[xdp(frags)]
fn bench_media_generate(ctx: XdpContext) -> u32 {
    match write_next(&ctx) {
        // SAFETY: the helper takes plain numbers.
        Some(traffic) => unsafe { bpf_redirect(traffic.ifindex, 0) as u32 },
        None => XDP_DROP,
    }
}

/// Writes a packet of a call and lets another program have it; see `bench_restore`.
#[xdp(frags)]
fn bench_media_restore(ctx: XdpContext) -> u32 {
    if write_next(&ctx).is_some() {
        // SAFETY: the map is a program array; returns only if it is empty.
        unsafe { TARGET.tail_call(&ctx, 0) };
    }
    XDP_PASS
}

/// Counts, asks where the packet belongs, and drops it.
#[xdp(frags)]
fn bench_media_sink(ctx: XdpContext) -> u32 {
    if let Some(count) = MEDIA_SINK.get_ptr_mut(kind_of(&ctx)) {
        // SAFETY: a per-CPU element, and the program is not interrupted by itself.
        unsafe { tally(&mut *count) }
    }
    XDP_DROP
}

/// Writes the headers of the next packet, with both checksums.
#[inline(always)]
fn write_next(ctx: &XdpContext) -> Option<&'static MediaTraffic> {
    let traffic = MEDIA_TRAFFIC.get(0)?;
    let cursor = MEDIA_CURSOR.get_ptr_mut(0)?;
    // SAFETY: a per-CPU element, and the program is not interrupted by itself.
    let (stream, sequence) = unsafe {
        let stream = next_flow(traffic.streams, traffic.random, &mut *cursor);
        (
            stream,
            ((*cursor).sent.wrapping_mul(u64::from(traffic.step)) >> 16) as u16,
        )
    };
    let leg = *MEDIA_LEGS.get(stream)?;
    let source = (traffic.peer + stream).to_be();
    let destination = (traffic.relay + (leg >> 16)).to_be();
    let port = u32::from((leg as u16).to_be());
    let timestamp = (u32::from(sequence) * 160).to_be();
    let (sequence, ssrc) = (u32::from(sequence.to_be()), stream.to_be());
    let words = |word: u32| (word & 0xffff) + (word >> 16);
    let addresses = words(source) + words(destination);
    let ip = !fold(traffic.ip_sum + addresses);
    let media = sequence + words(timestamp) + words(ssrc);
    let udp = match !fold(traffic.udp_sum + addresses + port + media) {
        0 => 0xffff,
        sum => sum,
    };
    let frame = start_of::<u64>(ctx)?;
    // Version 2, payload type 0 (RFC 3551: PCMU).
    let rtp = u64::from(0x80u8) << 16;
    // SAFETY: 54 of the bytes that `start_of` found. Frames of BPF_PROG_TEST_RUN begin at a multiple of eight.
    unsafe {
        *frame = traffic.template[0];
        *frame.add(1) = traffic.template[1];
        *frame.add(2) = traffic.template[2];
        *frame.add(3) = u64::from(ip) | u64::from(source) << 16 | u64::from(destination & 0xffff) << 48;
        *frame.add(4) = traffic.template[4] | u64::from(destination >> 16) | u64::from(port) << 32;
        *frame.add(5) = u64::from(udp) | rtp | u64::from(sequence) << 32 | u64::from(timestamp & 0xffff) << 48;
        *frame.add(6).cast::<u32>() = timestamp >> 16 | (ssrc & 0xffff) << 16;
        *frame.add(6).cast::<u16>().add(2) = (ssrc >> 16) as u16;
    }
    Some(traffic)
}

#[inline(always)]
fn kind_of(ctx: &XdpContext) -> u32 {
    let (Some(frame), Some(wanted)) = (start_of::<u8>(ctx), MEDIA_WANTED.get(0)) else {
        return MEDIA_OTHER;
    };
    // SAFETY: within the bytes that `start_of` found; the machines that this runs on read at any address.
    let (ethertype, source, destination, rtp, ssrc, sent) = unsafe {
        (
            *frame.add(12).cast::<u16>(),
            u32::from_be(*frame.add(26).cast::<u32>()),
            u32::from_be(*frame.add(30).cast::<u32>()),
            *frame.add(MEDIA_PAYLOAD),
            u32::from_be(*frame.add(MEDIA_PAYLOAD + 8).cast::<u32>()),
            *frame.add(MEDIA_SOUND).cast::<u64>(),
        )
    };
    if ethertype != 0x0800u16.to_be() || rtp != 0x80 || ssrc >= MEDIA_STREAMS {
        return MEDIA_OTHER;
    }
    if source == wanted.peer + ssrc {
        return MEDIA_DIRECT;
    }
    if wanted.strict != 0 && destination != wanted.peer + (ssrc ^ 1) {
        return MEDIA_ASTRAY;
    }
    if wanted.delays != 0 {
        note_delay(sent);
    }
    MEDIA_RELAYED
}

#[inline(always)]
fn note_delay(sent: u64) {
    // SAFETY: the helper takes nothing.
    let delay = unsafe { bpf_ktime_get_ns() }.wrapping_sub(sent);
    if let Some(count) = MEDIA_DELAYS.get_ptr_mut(delay_bucket(delay)) {
        // SAFETY: a per-CPU element, and the program is not interrupted by itself.
        unsafe { *count += 1 }
    }
}

/// The bucket of a delay in nanoseconds: sixteen to a factor of two.
#[inline(always)]
fn delay_bucket(nanos: u64) -> u32 {
    let nanos = nanos | STEPS;
    let magnitude = 63 - nanos.leading_zeros();
    (magnitude << 4 | (nanos >> (magnitude - 4)) as u32 & 15) & (DELAY_BUCKETS - 1)
}

/// The frame, if it is long enough to be a packet of a call.
#[inline(always)]
fn start_of<T>(ctx: &XdpContext) -> Option<*mut T> {
    let start = ctx.data();
    (start + MEDIA_FRAME <= ctx.data_end()).then_some(start as *mut T)
}

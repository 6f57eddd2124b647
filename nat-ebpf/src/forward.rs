//! Stage 5: routes, the way out, and the copy for the slow path.

use crate::maps::{DEVICES, Maps, PUNT_SCRATCH, PUNT_SOURCE, PUNT_TOTAL, PUNTS};
use aya_ebpf::{
    EbpfContext,
    bindings::{bpf_fib_lookup as FibLookup, xdp_action},
    helpers::{bpf_fib_lookup, bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    maps::PerCpuArray,
    programs::XdpContext,
};
use nat_common::{
    config::Config,
    counters::Reason,
    event::{PUNT_MAX, Punt},
    maps::{PUNT_SOURCES, Tokens},
    packet::ETHERNET_LEN,
    tables::{Route, RouteKind, Tables},
    verdict::Outcome,
};

const AF_INET: u8 = 2;
const FIB_SUCCESS: i64 = 0;
const FIB_FWD_DISABLED: i64 = 5;
const FIB_NOT_FORWARDED: i64 = 4;
const FIB_NO_NEIGHBOUR: i64 = 7;

/// Redirects to an interface; returns the action and the reason to count.
#[inline(always)]
pub fn redirect(outcome: Outcome) -> (u32, u32) {
    if outcome.argument().out != 0 || announce(outcome.argument().value) {
        (xdp_action::XDP_REDIRECT, outcome.reason())
    } else {
        (xdp_action::XDP_DROP, Reason::Rewrite as u32)
    }
}

/// Whether this interface is on the device that the frame is about to be sent by. Only for programs of device maps.
#[inline(always)]
pub fn is_here(ctx: &XdpContext, port: u32) -> bool {
    // SAFETY: the context is that of the running program, and such a program may read the field.
    let device = unsafe { (*ctx.ctx).egress_ifindex };
    let interface = Maps { ctx: Some(ctx) }
        .interface(port)
        .map(|interface| interface.device);
    interface == Some(device)
}

/// Notes where the frame will go if the program says so; false if there is no such interface.
#[inline(always)]
pub fn announce(port: u32) -> bool {
    DEVICES.redirect(port, u64::from(xdp_action::XDP_DROP)) == Ok(xdp_action::XDP_REDIRECT)
}

/// Asks the kernel's routing table and neighbours.
#[inline(always)]
pub fn route(ctx: *mut core::ffi::c_void, ifindex: u32, source: u32, destination: u32, tos: u8) -> Route {
    // SAFETY: a plain C struct, for which all zeroes is a value.
    let mut fib: FibLookup = unsafe { core::mem::zeroed() };
    fib.family = AF_INET;
    fib.ifindex = ifindex;
    fib.__bindgen_anon_2.tos = tos;
    fib.__bindgen_anon_3.ipv4_src = source.to_be();
    fib.__bindgen_anon_4.ipv4_dst = destination.to_be();
    // SAFETY: the context is that of the running program.
    let answer = unsafe { bpf_fib_lookup(ctx.cast(), (&raw mut fib).cast(), size_of::<FibLookup>() as i32, 0) };
    let kind = match answer {
        FIB_SUCCESS => RouteKind::Known,
        FIB_NO_NEIGHBOUR => RouteKind::NoNeighbour,
        FIB_NOT_FORWARDED => RouteKind::None,
        FIB_FWD_DISABLED => RouteKind::ForwardingOff,
        _ => RouteKind::Refused,
    };
    // SAFETY: the fields that the helper fills for IPv4.
    let (next_hop, mtu, mac) = unsafe {
        (
            u32::from_be(fib.__bindgen_anon_4.ipv4_dst),
            fib.__bindgen_anon_1.mtu_result,
            fib.__bindgen_anon_6.__bindgen_anon_2.dmac,
        )
    };
    Route {
        kind,
        ifindex: fib.ifindex,
        next_hop,
        mtu,
        mac,
    }
}

/// Copies a packet for the daemon, within the budgets. Returns the reason to count.
#[inline(never)]
pub fn punt(ctx: &XdpContext, outcome: Outcome) -> u32 {
    match try_punt(ctx, outcome) {
        Ok(()) => outcome.reason(),
        Err(reason) => reason as u32,
    }
}

#[inline(always)]
fn try_punt(ctx: &XdpContext, outcome: Outcome) -> Result<(), Reason> {
    let argument = outcome.argument();
    let maps = Maps { ctx: Some(ctx) };
    let Some(state) = maps.state() else {
        return Err(Reason::NotConfigured);
    };
    let Some(cfg) = maps.config(state.active.wrapping_sub(1)) else {
        return Err(Reason::NotConfigured);
    };
    let now = maps.now(state);
    let source = source_of(ctx).wrapping_mul(0x9e37_79b1) >> 22 & (PUNT_SOURCES - 1);
    if !take(cfg, &PUNT_SOURCE, source, now, cfg.punt_source, cfg.punt_source_rate)
        || !take(cfg, &PUNT_TOTAL, 0, now, cfg.punt_total, cfg.punt_total_rate)
    {
        return Err(Reason::Budget);
    }
    let Some(scratch) = PUNT_SCRATCH.get_ptr_mut(0) else {
        return Err(Reason::Budget);
    };
    // SAFETY: the context is the program's own.
    let whole = unsafe { bpf_xdp_get_buff_len(ctx.as_ptr().cast()) };
    let Some(len) = bounded(whole.min(PUNT_MAX as u64), SHORTEST, PUNT_MAX as u64) else {
        return Err(Reason::Budget);
    };
    // SAFETY: a per-CPU element that this program run has for itself, large enough for header and copy.
    unsafe {
        (*scratch).header = Punt {
            reason: outcome.reason(),
            ifindex: ctx.ingress_ifindex() as u32,
            argument: argument.value,
            out: argument.out,
            frame_len: whole as u32,
            len: len as u32,
        };
        if bpf_xdp_load_bytes(ctx.as_ptr().cast(), 0, (&raw mut (*scratch).bytes).cast(), len as u32) != 0 {
            return Err(Reason::Truncated);
        }
        let record = core::slice::from_raw_parts(scratch.cast::<u8>().cast_const(), size_of::<Punt>() + len as usize);
        if PUNTS.output::<[u8]>(record, 0).is_err() {
            return Err(Reason::Budget);
        }
    }
    Ok(())
}

/// The source address of an IPv4 packet, as a key for budgets.
#[inline(always)]
fn source_of(ctx: &XdpContext) -> u32 {
    let at = ctx.data() + 26;
    if at + 4 > ctx.data_end() {
        return 0;
    }
    // SAFETY: within the frame by the check above.
    unsafe { (at as *const u32).read_unaligned() }
}

/// Takes one token.
#[inline(always)]
pub fn take(cfg: &Config, buckets: &PerCpuArray<Tokens>, index: u32, now: u32, size: u32, per_second: u32) -> bool {
    let Some(tokens) = buckets.get(index) else { return false };
    let one = cfg.ticks_per_second;
    let passed = now.wrapping_sub(tokens.stamp.get()).min(one << 8);
    let full = size.wrapping_mul(one);
    let left = tokens
        .left
        .get()
        .wrapping_add(passed.wrapping_mul(per_second))
        .min(full);
    tokens.stamp.set(now);
    if left < one {
        tokens.left.set(left);
        return false;
    }
    tokens.left.set(left - one);
    true
}

/// Frames have an Ethernet header. (At least 1 would be compiled to "not 0", which older verifiers do not take for a bound.)
const SHORTEST: u64 = ETHERNET_LEN as u64;

/// `lo <= len <= hi` in a way that every verifier since 6.1 understands: the two compares must not be merged, so the value
/// is read anew between them. (An empty `asm!` would do too, but gives two line records for one instruction, which the
/// kernel refuses.)
#[inline(always)]
pub fn bounded(len: u64, lo: u64, hi: u64) -> Option<u64> {
    if len > hi {
        return None;
    }
    // SAFETY: a value of our own.
    let len = unsafe { (&raw const len).read_volatile() };
    (len >= lo).then_some(len)
}

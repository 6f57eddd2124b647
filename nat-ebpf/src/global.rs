//! Functions that the verifier checks once, by themselves, instead of once for every way that leads to a call: "global"
//! functions in the kernel's words. They take numbers and pointers to plain memory, which may be null as far as the
//! verifier knows, and return a number.

use crate::{maps::Maps, packet::XdpPacket};
use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use nat_common::{
    binding::Ending,
    config::Config,
    counters::{Reason, refused},
    flow::{InsideKey, Proto, Side},
    index, ports,
    relay::{
        latch::{self, Media},
        quality, send,
    },
    session::{self, Flow, SessionState},
    verdict::Outcome,
    watch::Seen,
};

/// The tables without a packet: these functions ask for no route.
const TABLES: Maps<'static> = Maps { ctx: None };

#[inline(always)]
fn config() -> Option<&'static Config> {
    let state = crate::maps::state()?;
    crate::maps::config(state.active.wrapping_sub(1))
}

/// See [`session::find`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn global_find_session(flow: *const Flow, port: u32, now: u32) -> u32 {
    // SAFETY: null or a flow of the caller's.
    let (Some(flow), Some(cfg)) = (unsafe { flow.as_ref() }, config()) else {
        return session::NONE;
    };
    session::find(&TABLES, cfg, flow, port as u16, now)
}

/// See [`session::make`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn global_make_session(flow: *const Flow, state: u32, now: u32) -> u32 {
    // SAFETY: null or a flow of the caller's.
    let (Some(flow), Some(cfg)) = (unsafe { flow.as_ref() }, config()) else {
        return 0;
    };
    u32::from(session::make(&TABLES, cfg, flow, SessionState::of(state as u8), now))
}

/// See [`session::judge`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn global_policy(flow: *const Flow, side: u32) -> u32 {
    // SAFETY: null or a flow of the caller's.
    let (Some(flow), Some(cfg)) = (unsafe { flow.as_ref() }, config()) else {
        return 0;
    };
    u32::from(session::judge(
        &TABLES,
        cfg,
        if side == 0 { Side::Inside } else { Side::Outside },
        flow,
    ))
}

/// See [`ports::claim_port`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn global_claim_port(block: u32, proto: u32, mask: u64, random: u32) -> u32 {
    let Some(cfg) = config() else { return 0 };
    ports::claim_port(&TABLES, cfg, block, Proto::from_index(proto), mask, random)
}

/// See [`ports::grow`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn global_grow(host: u32, key: *const InsideKey, random: u32, now: u32) -> u32 {
    // SAFETY: null or a key of the caller's.
    let (Some(key), Some(cfg)) = (unsafe { key.as_ref() }, config()) else {
        return ports::FAILED;
    };
    ports::grow(&TABLES, cfg, host, key, random, now)
}

/// See [`ports::reclaim`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn global_reclaim(host: u32, key: *const InsideKey, random: u32, now: u32) -> u32 {
    // SAFETY: null or a key of the caller's.
    let (Some(key), Some(cfg)) = (unsafe { key.as_ref() }, config()) else {
        return 0;
    };
    ports::reclaim(&TABLES, cfg, host, key, random, now)
}

/// See [`nat_common::binding::find`]; 0 if there is none.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn global_find(key: *const InsideKey, now: u32) -> u32 {
    // SAFETY: null or a key of the caller's.
    let (Some(key), Some(cfg)) = (unsafe { key.as_ref() }, config()) else {
        return 0;
    };
    nat_common::binding::find_here(&TABLES, cfg, key, now)
}

/// See [`nat_common::index::insert`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn global_insert(key: *const InsideKey, index: u32, now: u32) -> u32 {
    // SAFETY: null or a key of the caller's.
    let (Some(key), Some(cfg)) = (unsafe { key.as_ref() }, config()) else {
        return index::FULL;
    };
    index::insert_here(&TABLES, cfg, key, index, now)
}

/// See [`nat_common::index::forget`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn global_forget(key: *const InsideKey, index: u32) -> u32 {
    // SAFETY: null or a key of the caller's.
    let (Some(key), Some(cfg)) = (unsafe { key.as_ref() }, config()) else {
        return 0;
    };
    index::forget_here(&TABLES, cfg, key, index);
    0
}

/// See [`nat_common::binding::last_use`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn global_last_use(index: u32) -> u32 {
    let Some(cfg) = config() else { return 0 };
    nat_common::binding::last_use(&TABLES, cfg, index)
}

/// See [`nat_common::binding::end`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn global_end(index: u32, ending: *const Ending, now: u32) -> u32 {
    // SAFETY: null or the caller's.
    let (Some(ending), Some(cfg)) = (unsafe { ending.as_ref() }, config()) else {
        return 0;
    };
    u32::from(nat_common::binding::end(&TABLES, cfg, index, ending, now))
}

/// See [`nat_common::checksum::sum_of`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn global_sum(ctx: *mut xdp_md, offset: u32, len: u32) -> u32 {
    if offset > 512 || len > 2000 {
        return 0;
    }
    let ctx = XdpContext::new(ctx);
    u32::from(nat_common::checksum::sum_of(
        &mut XdpPacket::new(&ctx),
        offset as usize,
        len as usize,
    ))
}

/// See [`crate::watch::copy`]. Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn global_watch(ctx: *mut xdp_md, seen: *const Seen, now: u32) -> u32 {
    // SAFETY: null or a description of the caller's.
    let (Some(seen), Some(cfg)) = (unsafe { seen.as_ref() }, config()) else {
        return 0;
    };
    crate::watch::copy(&XdpContext::new(ctx), &TABLES, cfg, seen, now);
    0
}

/// See [`send::quickly`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn global_relay(ctx: *mut xdp_md, side: u32, index: u32) -> u64 {
    let ctx = XdpContext::new(ctx);
    let side = if side == 0 { Side::Inside } else { Side::Outside };
    let device = ctx.ingress_ifindex() as u32;
    let outcome: Outcome = send::quickly(
        &mut XdpPacket::new(&ctx),
        &Maps { ctx: Some(&ctx) },
        side,
        device,
        index,
    );
    outcome.number()
}

/// See [`latch::admit`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn global_admit(media: *const Media, now: u32, learn: u32) -> u32 {
    // SAFETY: null or a description of the caller's.
    let (Some(media), Some(cfg)) = (unsafe { media.as_ref() }, config()) else {
        return refused(Reason::NotConfigured);
    };
    latch::admit(&TABLES, cfg, media, now, learn != 0)
}

/// See [`latch::is_of_its_side`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn global_media_side(ctx: *mut xdp_md, media: *const Media, now: u32) -> u32 {
    // SAFETY: null or a description of the caller's.
    let (Some(media), Some(cfg)) = (unsafe { media.as_ref() }, config()) else {
        return 0;
    };
    let ctx = XdpContext::new(ctx);
    u32::from(latch::is_of_its_side(&Maps { ctx: Some(&ctx) }, cfg, media, now))
}

/// See [`quality::report`]. Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn global_report(ctx: *mut xdp_md, number: u32, offset: u32) -> u32 {
    let ctx = XdpContext::new(ctx);
    quality::report(&mut XdpPacket::new(&ctx), &TABLES, number, (offset & 0x1ff) as usize);
    0
}

/// See [`nat_common::binding::create`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn global_create(key: *const InsideKey, now: u32) -> u32 {
    // SAFETY: null or a key of the caller's.
    let (Some(key), Some(cfg)) = (unsafe { key.as_ref() }, config()) else {
        return refused(Reason::NotConfigured);
    };
    nat_common::binding::create(&TABLES, cfg, key, now)
}

/// See [`session::track`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn global_track(flow: *const Flow, side: u32, now: u32) -> u32 {
    // SAFETY: null or a flow of the caller's.
    let (Some(flow), Some(cfg)) = (unsafe { flow.as_ref() }, config()) else {
        return refused(Reason::NotConfigured);
    };
    session::track(
        &TABLES,
        cfg,
        flow,
        if side == 0 { Side::Inside } else { Side::Outside },
        now,
    )
}

/// See [`ports::free_place_of`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn global_free_place(host: u32) -> u32 {
    let Some(cfg) = config() else { return ports::NO_PLACE };
    ports::free_place_of(&TABLES, cfg, host)
}

/// See [`ports::count_blocks`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn global_count_blocks(host: u32) -> u32 {
    let Some(cfg) = config() else { return 0 };
    ports::count_blocks(&TABLES, cfg, host)
}

/// See [`ports::take_block`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn global_take_block(address: u32, rank: u32) -> u32 {
    let Some(cfg) = config() else {
        return ports::NO_BLOCK;
    };
    ports::take_block(&TABLES, cfg, address, rank)
}

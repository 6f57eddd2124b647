//! Copies of registrations and of captured media for the daemon. Off the way of all other packets.

use aya_ebpf::{EbpfContext, helpers::bpf_xdp_load_bytes, programs::XdpContext};
use nat_common::{
    config::Config,
    tables::Tables,
    watch::{self, CPU_TOKENS, Copied, HOST_TOKENS, MAX_LEN, MEDIA_TOKENS, NOT, Seen},
};

use crate::{
    forward::{bounded, take},
    maps::{MEDIA_TOTAL, WATCH_SCRATCH, WATCH_SOURCE, WATCH_TOTAL, WATCHED},
    packet::XdpPacket,
};

/// Copies what was seen if it is (the beginning of) a message that the daemon wants, or captured media, within the budgets.
#[inline(always)]
pub fn copy<T: Tables>(ctx: &XdpContext, t: &T, cfg: &Config, seen: &Seen, now: u32) {
    let Some(slot) = t.slot(seen.slot) else { return };
    let media = slot.is_relay();
    let generation = watch::wanted(slot, seen);
    if generation == NOT {
        return;
    }
    if media {
        if !take(cfg, &MEDIA_TOTAL, 0, now, MEDIA_TOKENS.0, MEDIA_TOKENS.1) {
            return;
        }
    } else {
        if !watch::begins(&mut XdpPacket::new(ctx), seen) {
            return;
        }
        let host = watch::source(slot);
        if !take(cfg, &WATCH_SOURCE, host, now, HOST_TOKENS.0, HOST_TOKENS.1)
            || !take(cfg, &WATCH_TOTAL, 0, now, CPU_TOKENS.0, CPU_TOKENS.1)
        {
            return;
        }
    }
    let Some(scratch) = WATCH_SCRATCH.get_ptr_mut(0) else {
        return;
    };
    let Some(len) = bounded(u64::from(seen.len).min(MAX_LEN as u64), 1, MAX_LEN as u64) else {
        return;
    };
    // SAFETY: a per-CPU element that this program run has for itself, large enough for header and copy.
    unsafe {
        (*scratch).header = Copied {
            seen: *seen,
            generation: generation as u16,
            reserved: 0,
        };
        let into = (&raw mut (*scratch).bytes).cast();
        if bpf_xdp_load_bytes(ctx.as_ptr().cast(), u32::from(seen.offset), into, len as u32) != 0 {
            return;
        }
        let record = core::slice::from_raw_parts(scratch.cast::<u8>().cast_const(), size_of::<Copied>() + len as usize);
        if WATCHED.output::<[u8]>(record, 0).is_err() {
            return;
        }
    }
    if seen.outbound() && !media {
        watch::watch(slot, generation as u16, true);
    }
}

//! The one place where packets are counted.

use crate::maps::COUNTERS;
use aya_ebpf::programs::XdpContext;
use nat_common::{counters::REASONS, flow::Side};

/// Counts a packet for its reason.
#[inline(always)]
pub fn count(ctx: &XdpContext, side: Side, reason: u32) {
    let index = side as u32 * REASONS as u32 + reason;
    if let Some(count) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: a per-CPU element, and the program is not interrupted by itself.
        unsafe {
            (*count).packets += 1;
            (*count).bytes += (ctx.data_end() - ctx.data()) as u64;
        }
    }
}

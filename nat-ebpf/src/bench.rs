//! What `cargo xtask bench` measures with: a generator, a sink, and the least that a translating router can do.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
#[path = "bench/layout.rs"]
mod layout;
#[cfg(target_arch = "bpf")]
#[path = "bench/media.rs"]
mod media;
#[cfg(target_arch = "bpf")]
#[path = "bench/media_layout.rs"]
mod media_layout;

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{
        bindings::xdp_action::{XDP_DROP, XDP_PASS},
        helpers::{bpf_ktime_get_ns, bpf_redirect},
        macros::{map, xdp},
        maps::{Array, DevMap, PerCpuArray, ProgramArray},
        programs::XdpContext,
    };

    use crate::layout::{Count, Cursor, FRAME, OTHER, PORT, Rewrite, STAMP, TRANSLATED, Traffic, UNTRANSLATED};

    #[map]
    static TRAFFIC: Array<Traffic> = Array::with_max_entries(1, 0);
    #[map]
    static CURSOR: PerCpuArray<Cursor> = PerCpuArray::with_max_entries(1, 0);
    #[map]
    static SINK: PerCpuArray<Count> = PerCpuArray::with_max_entries(3, 0);
    #[map]
    static REWRITE: Array<Rewrite> = Array::with_max_entries(1, 0);
    #[map]
    static WAY_OUT: DevMap = DevMap::with_max_entries(1, 0);
    #[map]
    pub static TARGET: ProgramArray = ProgramArray::with_max_entries(1, 0);

    /// Writes a packet and sends it. Run with live frames, whose pages come back as the receiver left them: so the whole
    /// header is written every time.
    #[xdp(frags)]
    fn bench_generate(ctx: XdpContext) -> u32 {
        match write_next(&ctx) {
            // SAFETY: the helper takes plain numbers.
            Some(traffic) => unsafe { bpf_redirect(traffic.ifindex, 0) as u32 },
            None => XDP_DROP,
        }
    }

    /// Writes a packet as the generator does and lets another program have it: for measuring that one with repeated runs,
    /// each of which would otherwise see what the last one made of the packet.
    #[xdp(frags)]
    fn bench_restore(ctx: XdpContext) -> u32 {
        if write_next(&ctx).is_some() {
            // SAFETY: the map is a program array; returns only if it is empty.
            unsafe { TARGET.tail_call(&ctx, 0) };
        }
        XDP_PASS
    }

    /// Does nothing.
    #[xdp(frags)]
    fn bench_empty(_ctx: XdpContext) -> u32 {
        XDP_DROP
    }

    /// Counts and drops.
    #[xdp(frags)]
    fn bench_sink(ctx: XdpContext) -> u32 {
        if let Some(count) = SINK.get_ptr_mut(kind_of(&ctx)) {
            // SAFETY: a per-CPU element, and the program is not interrupted by itself.
            unsafe { tally(&mut *count) }
        }
        XDP_DROP
    }

    /// The limit: every packet gets one fixed source address and one fixed next hop.
    #[xdp(frags)]
    fn bench_bare(ctx: XdpContext) -> u32 {
        match rewrite(&ctx) {
            Some(()) => WAY_OUT.redirect(0, u64::from(XDP_DROP)).unwrap_or(XDP_DROP),
            None => XDP_PASS,
        }
    }

    /// Writes the headers of the next packet, with both checksums.
    #[inline(always)]
    fn write_next(ctx: &XdpContext) -> Option<&'static Traffic> {
        let traffic = TRAFFIC.get(0)?;
        let cursor = CURSOR.get_ptr_mut(0)?;
        // SAFETY: a per-CPU element, and the program is not interrupted by itself.
        let flow = unsafe { next_flow(traffic.flows, traffic.random, &mut *cursor) };
        let source = (traffic.source + (flow >> 10)).to_be();
        let destination = (traffic.destination + (flow & traffic.destination_mask)).to_be();
        let port = ((traffic.first_port + (flow & 1023)) as u16).to_be();
        let addresses = (source & 0xffff) + (source >> 16) + (destination & 0xffff) + (destination >> 16);
        let ip = !fold(traffic.ip_sum + addresses);
        let udp = match !fold(traffic.udp_sum + addresses + u32::from(port)) {
            0 => 0xffff,
            sum => sum,
        };
        let frame = whole_frame::<u64>(ctx)?;
        // SAFETY: 42 of the 64 bytes that `whole_frame` found. Frames of BPF_PROG_TEST_RUN begin at a multiple of eight.
        unsafe {
            *frame = traffic.template[0];
            *frame.add(1) = traffic.template[1];
            *frame.add(2) = traffic.template[2];
            *frame.add(3) = u64::from(ip) | u64::from(source) << 16 | u64::from(destination & 0xffff) << 48;
            *frame.add(4) = traffic.template[4] | u64::from(destination >> 16) | u64::from(port) << 16;
            *frame.add(5).cast::<u16>() = udp;
        }
        Some(traffic)
    }

    /// The number of the next packet's flow. Costs the same for all kinds of traffic.
    #[inline(always)]
    pub fn next_flow(flows: u32, random: u32, cursor: &mut Cursor) -> u32 {
        // Marsaglia's xorshift; zero would stay zero.
        let mut x = cursor.random | u64::from(cursor.random == 0);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        cursor.random = x;
        cursor.sent += 1;
        let in_turn = cursor.next as u32;
        cursor.next = if in_turn + 1 >= flows {
            0
        } else {
            u64::from(in_turn) + 1
        };
        if random != 0 {
            (((x >> 32) * u64::from(flows)) >> 32) as u32
        } else {
            in_turn
        }
    }

    #[inline(always)]
    pub fn tally(count: &mut Count) {
        if count.packets & (STAMP - 1) == 0 {
            // SAFETY: the helper takes nothing.
            let now = unsafe { bpf_ktime_get_ns() };
            if count.packets == 0 {
                count.first = now;
            } else {
                count.last = now;
                count.between = count.packets;
            }
        }
        count.packets += 1;
    }

    #[inline(always)]
    fn kind_of(ctx: &XdpContext) -> u32 {
        let Some(frame) = whole_frame::<u8>(ctx) else {
            return OTHER;
        };
        // SAFETY: within the 64 bytes that `whole_frame` found; the machines that this runs on read at any address.
        let (ethertype, source, port) = unsafe {
            (
                *frame.add(12).cast::<u16>(),
                *frame.add(26),
                *frame.add(36).cast::<u16>(),
            )
        };
        if ethertype != 0x0800u16.to_be() || port != PORT.to_be() {
            return OTHER;
        }
        if source < 192 { UNTRANSLATED } else { TRANSLATED }
    }

    #[inline(always)]
    fn rewrite(ctx: &XdpContext) -> Option<()> {
        let new = REWRITE.get(0)?;
        let frame = whole_frame::<u8>(ctx)?;
        // SAFETY: within the 64 bytes that `whole_frame` found; the machines that this runs on read at any address.
        unsafe {
            if *frame.add(12).cast::<u16>() != 0x0800u16.to_be() || *frame.add(23) != 17 {
                return None;
            }
            let ttl = frame.add(22).cast::<u16>();
            let source = frame.add(26).cast::<u32>();
            let (old_ttl, old_source, new_source) = (*ttl, *source, u32::from_ne_bytes(new.source));
            // One less in the first byte in network order.
            let new_ttl = old_ttl - 1u16.to_le();
            let changed = difference(old_source, new_source);
            let ip = frame.add(24).cast::<u16>();
            *ip = !fold(u32::from(!*ip) + changed + u32::from(!old_ttl) + u32::from(new_ttl));
            let udp = frame.add(40).cast::<u16>();
            if *udp != 0 {
                *udp = match !fold(u32::from(!*udp) + changed) {
                    0 => 0xffff,
                    sum => sum,
                };
            }
            *ttl = new_ttl;
            *source = new_source;
            *frame.cast::<[u8; 12]>() = new.macs;
        }
        Some(())
    }

    /// What replacing `old` by `new` adds to a sum (RFC 1624).
    #[inline(always)]
    fn difference(old: u32, new: u32) -> u32 {
        (!old & 0xffff) + (!old >> 16) + (new & 0xffff) + (new >> 16)
    }

    #[inline(always)]
    pub fn fold(sum: u32) -> u16 {
        let sum = (sum & 0xffff) + (sum >> 16);
        (sum + (sum >> 16)) as u16
    }

    /// The frame, if it is long enough to be the bench's.
    #[inline(always)]
    fn whole_frame<T>(ctx: &XdpContext) -> Option<*mut T> {
        let start = ctx.data();
        (start + FRAME <= ctx.data_end()).then_some(start as *mut T)
    }

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo) -> ! {
        loop {}
    }

    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}

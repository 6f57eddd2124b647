//! The XDP programs of sipnat: one for inside interfaces, one for outside interfaces, and one for frames that leave by the
//! latter.
//!
//! They are thin: `nat_common::translate::process` parses, classifies, looks up (and allocates), finds the way out, and
//! writes; what is left here is where packets, tables and routes come from and where the packet goes.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod count;
#[cfg(target_arch = "bpf")]
mod forward;
#[cfg(target_arch = "bpf")]
mod global;
#[cfg(all(target_arch = "bpf", feature = "log"))]
mod log;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod packet;
#[cfg(target_arch = "bpf")]
mod trunk;
#[cfg(target_arch = "bpf")]
mod watch;

#[cfg(target_arch = "bpf")]
mod programs {
    use crate::{count, forward, maps::Maps, packet::XdpPacket};
    use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
    use nat_common::{
        counters::{Action, Reason},
        flow::Side,
        stage,
        translate::{process, process_late},
        verdict::Outcome,
    };

    #[inline(always)]
    fn handle(ctx: &XdpContext, side: Side) -> u32 {
        let outcome = process(
            &mut XdpPacket::new(ctx),
            &Maps { ctx: Some(ctx) },
            side,
            ctx.ingress_ifindex() as u32,
        );
        if outcome.is_staged() {
            return xdp_action::XDP_REDIRECT;
        }
        finish(ctx, side, outcome, forward::redirect)
    }

    /// Does what was decided, and counts it. `send` does it if the frame is to be sent; it returns the action and the reason.
    #[inline(always)]
    fn finish(ctx: &XdpContext, side: Side, outcome: Outcome, send: impl FnOnce(Outcome) -> (u32, u32)) -> u32 {
        let (action, reason) = match outcome.action() {
            Action::Forward => send(outcome),
            Action::Pass => (xdp_action::XDP_PASS, outcome.reason()),
            Action::Drop => (xdp_action::XDP_DROP, outcome.reason()),
            Action::Punt => (xdp_action::XDP_DROP, forward::punt(ctx, outcome)),
        };
        count::count(ctx, side, reason);
        #[cfg(feature = "log")]
        crate::log::packet(ctx, side, outcome.action(), reason);
        action
    }

    /// For inside interfaces.
    #[xdp(frags)]
    fn sipnat_inside(ctx: XdpContext) -> u32 {
        handle(&ctx, Side::Inside)
    }

    /// For outside interfaces.
    #[xdp(frags)]
    fn sipnat_outside(ctx: XdpContext) -> u32 {
        handle(&ctx, Side::Outside)
    }

    /// The second stage of packets from inside: run on what is redirected to the devices of outside interfaces. Here "pass" means
    /// sent.
    #[xdp(frags, map = "devmap")]
    fn sipnat_late(ctx: XdpContext) -> u32 {
        let packet = &mut XdpPacket::new(&ctx);
        if !stage::take_up(packet) {
            return xdp_action::XDP_PASS;
        }
        let outcome = process_late(packet, &Maps { ctx: Some(&ctx) }, ctx.ingress_ifindex() as u32);
        let outcome = stage::settle(outcome, |port| forward::is_here(&ctx, port));
        finish(&ctx, Side::Inside, outcome, |outcome| {
            (xdp_action::XDP_PASS, outcome.reason())
        })
    }

    /// For devices whose VLANs are on both sides.
    #[xdp(frags)]
    fn sipnat_trunk(ctx: XdpContext) -> u32 {
        crate::trunk::hand_over(&ctx);
        // Only if the map of programs were empty. Nothing may leave untranslated.
        count::count(&ctx, Side::Inside, Reason::NotConfigured as u32);
        xdp_action::XDP_DROP
    }

    /// Never attached: tells the daemon what the programs' clock says, in jiffies, when it is run as a test.
    #[xdp(frags)]
    fn sipnat_clock(_ctx: XdpContext) -> u32 {
        crate::maps::tell_time();
        xdp_action::XDP_PASS
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

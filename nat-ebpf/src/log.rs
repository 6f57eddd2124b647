//! Log lines of the kernel side, through aya-log. Only built with the feature `log`: they cost far more than translating.

use aya_ebpf::{EbpfContext as _, bindings::xdp_md, programs::XdpContext};
use aya_log_ebpf::{log, macro_support::Level};
use nat_common::{
    counters::{Action, REASONS, Reason},
    flow::Side,
    packet::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_VLAN, Ethernet, Packet as _, VLAN_LEN},
    raw::opaque,
};

use crate::packet::XdpPacket;

/// Room for the longest name.
const NAME: usize = 20;

/// Names by number, padded. Not `&str`: a table of pointers would need relocations, which BPF objects do not have.
static NAMES: [[u8; NAME]; REASONS] = {
    let mut names = [[b' '; NAME]; REASONS];
    let mut i = 0;
    while i < REASONS {
        let name = Reason::ALL[i].name().as_bytes();
        let mut at = 0;
        while at < name.len() {
            names[i][at] = name[at];
            at += 1;
        }
        i += 1;
    }
    names
};

/// What became of a packet: at level debug if it was dropped or given to the daemon, else at level trace. The addresses are
/// those that the frame has now, so those of a forwarded packet are translated; zeros for what is not IPv4.
#[inline(always)]
pub fn packet(ctx: &XdpContext, side: Side, action: Action, reason: u32) {
    let dropped = matches!(action, Action::Drop | Action::Punt);
    global_log(ctx.as_ptr().cast(), side as u32, u32::from(dropped), reason);
}

/// A function that the verifier checks once, as those in `global.rs`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn global_log(ctx: *mut xdp_md, side: u32, dropped: u32, reason: u32) -> u32 {
    let ctx = XdpContext::new(ctx);
    let side = if side == Side::Inside as u32 {
        "inside"
    } else {
        "outside"
    };
    let number = opaque(reason) as usize;
    let Some(name) = NAMES.get(number) else { return 0 };
    // SAFETY: names are ASCII.
    let name = unsafe { core::str::from_utf8_unchecked(name) };
    let (proto, source, destination) = addresses(&mut XdpPacket::new(&ctx)).unwrap_or_default();
    let device = ctx.ingress_ifindex() as u32;
    let level = if dropped != 0 { Level::Debug } else { Level::Trace };
    log!(
        &ctx,
        level,
        "{} {} {:i} > {:i} protocol {} device {}",
        side,
        name,
        source,
        destination,
        proto,
        device
    );
    0
}

/// Protocol, source and destination of an IPv4 packet.
#[inline(always)]
fn addresses(packet: &mut XdpPacket) -> Option<(u8, u32, u32)> {
    let mut ethertype = u16::from_be_bytes(packet.at::<Ethernet>(0)?.ethertype);
    let mut start = ETHERNET_LEN;
    if ethertype == ETHERTYPE_VLAN {
        ethertype = packet.be16(start + 2)?;
        start += VLAN_LEN;
    }
    if ethertype != ETHERTYPE_IPV4 {
        return None;
    }
    Some((
        *packet.at::<u8>(start + 9)?,
        packet.be32(start + 12)?,
        packet.be32(start + 16)?,
    ))
}

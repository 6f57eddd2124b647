//! A router on a stick: one device whose VLANs are on both sides. The tag says which side's program has the frame.

use aya_ebpf::{macros::map, maps::ProgramArray, programs::XdpContext};
use nat_common::{
    flow::Side,
    maps::{ROLE_OUTSIDE, ingress_key},
    packet::{ETHERTYPE_VLAN, Ethernet, Packet as _},
    tables::Tables as _,
};

use crate::{maps::Maps, packet::XdpPacket};

/// The program of each side.
#[map]
static SIDES: ProgramArray = ProgramArray::with_max_entries(2, 0);

/// Goes on in the program of the frame's side; returns only if there is none. What belongs to no configured interface
/// goes to the inside program, which passes it as it does on any device.
#[inline(always)]
pub fn hand_over(ctx: &XdpContext) {
    let side = match role(ctx) {
        Some(ROLE_OUTSIDE) => Side::Outside,
        _ => Side::Inside,
    };
    // SAFETY: the map is a program array.
    unsafe { SIDES.tail_call(ctx, side as u32) }
}

#[inline(always)]
fn role(ctx: &XdpContext) -> Option<u8> {
    let maps = Maps { ctx: Some(ctx) };
    let key = ingress_key(ctx.ingress_ifindex() as u32, vlan(&mut XdpPacket::new(ctx))?);
    Some(maps.interface(maps.interface_of(key)?)?.role)
}

/// The frame's VLAN id, 0 for none.
#[inline(always)]
fn vlan(packet: &mut XdpPacket) -> Option<u16> {
    if u16::from_be_bytes(packet.at::<Ethernet>(0)?.ethertype) != ETHERTYPE_VLAN {
        return Some(0);
    }
    Some(packet.be16(size_of::<Ethernet>())? & 0xfff)
}

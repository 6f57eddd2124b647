//! Stage 4: the changes, written when nothing can fail any more.

use crate::checksum::Delta;
use crate::counters::Reason;
use crate::flow::{Endpoint, IP_ICMP, IP_TCP, IP_UDP};
use crate::maps::Interface;
use crate::packet::{ETHERTYPE_IPV4, ETHERTYPE_VLAN, Ethernet, Packet, TcpStart, VLAN_LEN};
use crate::parse::Headers;
use crate::raw::below;
use crate::session::SYN;
use network_types::icmp::Icmpv4Hdr;

/// What becomes of the addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// Source after translation.
    pub source: Endpoint,
    /// Destination after translation.
    pub destination: Endpoint,
    /// Identification after translation.
    pub id: u16,
    /// Largest MSS to let through in a SYN; 0 for any.
    pub mss: u16,
}

impl Rewrite {
    /// No change.
    #[inline(always)]
    pub fn none(h: &Headers) -> Self {
        Self {
            source: h.source,
            destination: h.destination,
            id: h.id,
            mss: 0,
        }
    }
}

/// Translates IP and transport headers and takes one from the TTL.
#[inline(always)]
pub fn apply<P: Packet>(p: &mut P, h: &Headers, r: &Rewrite) -> Result<(), Reason> {
    ip(p, h, r)?;
    if h.is_later_fragment() {
        return Ok(());
    }
    // Ports and identifiers, and the addresses as far as the checksum covers them.
    let addresses = Delta::new()
        .long(h.source.addr, r.source.addr)
        .long(h.destination.addr, r.destination.addr)
        .word(h.source.port, r.source.port)
        .word(h.destination.port, r.destination.port);
    let ports = u32::from(r.source.port) << 16 | u32::from(r.destination.port);
    match h.proto {
        IP_UDP => {
            let l4 = usize::from(h.l4);
            let check = p.be16(l4 + UDP_CHECK).ok_or(Reason::Rewrite)?;
            p.set_be32(l4, ports).ok_or(Reason::Rewrite)?;
            p.set_be16(l4 + UDP_CHECK, addresses.apply_udp(check))
                .ok_or(Reason::Rewrite)?;
        }
        IP_TCP => {
            let l4 = usize::from(h.l4);
            let check = p.be16(l4 + TCP_CHECK).ok_or(Reason::Rewrite)?;
            p.set_be32(l4, ports).ok_or(Reason::Rewrite)?;
            p.set_be16(l4 + TCP_CHECK, addresses.apply(check))
                .ok_or(Reason::Rewrite)?;
            let tcp = p.at::<TcpStart>(l4).ok_or(Reason::Rewrite)?;
            let header_len = (tcp.offset >> 4) as usize * 4;
            if r.mss != 0 && h.flags & SYN != 0 {
                clamp_mss(p, h, header_len, r.mss)?;
            }
        }
        IP_ICMP => {
            // The identifier was read into both ports; one of them changed. ICMPv4 has no pseudo header.
            let id = if r.source.port != h.source.port {
                r.source.port
            } else {
                r.destination.port
            };
            let icmp = p.at::<Icmpv4Hdr>(usize::from(h.l4)).ok_or(Reason::Rewrite)?;
            let old = u16::from_be_bytes([icmp.data[0], icmp.data[1]]);
            let [high, low] = id.to_be_bytes();
            icmp.data[0] = high;
            icmp.data[1] = low;
            icmp.check = Delta::new()
                .word(old, id)
                .apply(u16::from_be_bytes(icmp.check))
                .to_be_bytes();
        }
        _ => {}
    }
    Ok(())
}

/// The IP header: addresses, identification, TTL.
#[inline(always)]
pub fn ip<P: Packet>(p: &mut P, h: &Headers, r: &Rewrite) -> Result<(), Reason> {
    let l3 = usize::from(h.l3);
    let ttl = h.ttl.wrapping_sub(1);
    let old_life = u16::from_be_bytes([h.ttl, h.proto]);
    let new_life = u16::from_be_bytes([ttl, h.proto]);
    let check = p.be16(l3 + IP_CHECK).ok_or(Reason::Rewrite)?;
    let check = Delta::new()
        .long(h.source.addr, r.source.addr)
        .long(h.destination.addr, r.destination.addr)
        .word(h.id, r.id)
        .word(old_life, new_life)
        .apply(check);
    p.set_be16(l3 + IP_ID, r.id).ok_or(Reason::Rewrite)?;
    p.set_be32(l3 + IP_LIFE, u32::from(new_life) << 16 | u32::from(check))
        .ok_or(Reason::Rewrite)?;
    p.set_be32(l3 + IP_SOURCE, r.source.addr).ok_or(Reason::Rewrite)?;
    p.set_be32(l3 + IP_DESTINATION, r.destination.addr)
        .ok_or(Reason::Rewrite)
}

/// Changes the type of service.
#[inline(always)]
pub fn service<P: Packet>(p: &mut P, h: &Headers, tos: u8) -> Result<(), Reason> {
    if tos == h.tos {
        return Ok(());
    }
    let l3 = usize::from(h.l3);
    let check = p.be16(l3 + IP_CHECK).ok_or(Reason::Rewrite)?;
    let check = Delta::new().word(u16::from(h.tos), u16::from(tos)).apply(check);
    *p.at::<u8>(l3 + IP_SERVICE).ok_or(Reason::Rewrite)? = tos;
    p.set_be16(l3 + IP_CHECK, check).ok_or(Reason::Rewrite)
}

// Offsets of fields in the IP header (RFC 791 §3.1).
const IP_SERVICE: usize = 1;
const IP_ID: usize = 4;
const IP_LIFE: usize = 8;
const IP_CHECK: usize = 10;
const IP_SOURCE: usize = 12;
const IP_DESTINATION: usize = 16;
/// Offset of the UDP checksum (RFC 768).
const UDP_CHECK: usize = 6;
/// Offset of the TCP checksum (RFC 9293 §3.1).
const TCP_CHECK: usize = 16;

/// Lowers the MSS option of a SYN (RFC 9293 §3.7.1) to `most`.
#[inline(always)]
fn clamp_mss<P: Packet>(p: &mut P, h: &Headers, header_len: usize, most: u16) -> Result<(), Reason> {
    let end = core::cmp::min(core::cmp::min(header_len, h.payload_len()), 60);
    let mut at = 20usize;
    let mut steps = 0;
    while steps < 20 && below(at as u32 + 3, end as u32) {
        steps += 1;
        let Some(&mut [kind, length]) = p.at::<[u8; 2]>(usize::from(h.l4) + at) else {
            return Ok(());
        };
        match kind {
            0 => return Ok(()),
            1 => at += 1,
            2 if length == 4 => return lower(p, h, at, most),
            _ if length < 2 => return Ok(()),
            _ => at += length as usize,
        }
        at &= 0x7f;
    }
    Ok(())
}

#[inline(always)]
fn lower<P: Packet>(p: &mut P, h: &Headers, at: usize, most: u16) -> Result<(), Reason> {
    let Some(value) = p.at::<[u8; 2]>(usize::from(h.l4) + at + 2) else {
        return Ok(());
    };
    let old = u16::from_be_bytes(*value);
    if old <= most {
        return Ok(());
    }
    *value = most.to_be_bytes();
    // An option at an odd offset straddles two words of the sum: its bytes count swapped.
    let delta = if at & 1 == 0 {
        Delta::new().word(old, most)
    } else {
        Delta::new().word(old.swap_bytes(), most.swap_bytes())
    };
    let tcp = p.at::<TcpStart>(usize::from(h.l4)).ok_or(Reason::Rewrite)?;
    tcp.check = delta.apply(u16::from_be_bytes(tcp.check)).to_be_bytes();
    Ok(())
}

/// Puts the link header of the way out in front: VLAN tag added, removed or changed, MAC addresses.
#[inline(always)]
pub fn link<P: Packet>(p: &mut P, h: &Headers, out: &Interface, mac: [u8; 6]) -> Result<(), Reason> {
    let tagged = usize::from(h.l3) != crate::packet::ETHERNET_LEN;
    if tagged && out.vlan == 0 {
        p.shift_front(VLAN_LEN as i32).ok_or(Reason::Rewrite)?;
    } else if !tagged && out.vlan != 0 {
        p.shift_front(-(VLAN_LEN as i32)).ok_or(Reason::Rewrite)?;
    }
    let ethernet = p.at::<Ethernet>(0).ok_or(Reason::Rewrite)?;
    ethernet.destination = mac;
    ethernet.source = out.mac;
    if out.vlan == 0 {
        ethernet.ethertype = ETHERTYPE_IPV4.to_be_bytes();
        return Ok(());
    }
    ethernet.ethertype = ETHERTYPE_VLAN.to_be_bytes();
    let tag = p.at::<[u8; 4]>(crate::packet::ETHERNET_LEN).ok_or(Reason::Rewrite)?;
    let id = out.vlan.to_be_bytes();
    let inner = ETHERTYPE_IPV4.to_be_bytes();
    *tag = [id[0], id[1], inner[0], inner[1]];
    Ok(())
}

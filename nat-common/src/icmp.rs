//! ICMP errors and the packets they quote (RFC 5508 §4, RFC 4787 REQ-12), and the errors that the router itself says.

use crate::binding;
use crate::checksum::Delta;
use crate::config::Config;
use crate::counters::Reason;
use crate::flow::{Endpoint, InsideKey, Proto, Side};
use crate::packet::{Packet, TcpStart};
use crate::parse::{Headers, OFFSET};
use crate::ports::slot_index;
use crate::rewrite::{self, Rewrite};
use crate::session::{self, Flow};
use crate::tables::Tables;
use network_types::icmp::Icmpv4Hdr;
use network_types::ip::Ipv4Hdr;

/// Destination unreachable.
pub const UNREACHABLE: u8 = 3;
/// Source quench: dropped.
pub const SOURCE_QUENCH: u8 = 4;
/// Time exceeded.
pub const TIME_EXCEEDED: u8 = 11;
/// Parameter problem.
pub const PARAMETER_PROBLEM: u8 = 12;

/// The largest ICMP error whose checksum is verified; larger ones are dropped. RFC 1812 §4.3.2.3 limits them to 576 bytes.
const LARGEST: usize = 1480;

/// Whether an ICMP type is an error that is translated. Redirects are for the router's own link and are not; source quench
/// is dead (RFC 6633, RFC 5508 REQ-10c).
#[inline(always)]
pub fn is_error(kind: u8) -> bool {
    matches!(kind, UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM)
}

/// The packet that an error quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Offset of its IP header in the frame.
    pub l3: u16,
    /// Offset of its transport header.
    pub l4: u16,
    /// Bytes of the transport header and after that are quoted; at least 8.
    pub len: u16,
    /// Protocol.
    pub proto: Proto,
    /// Source; for ICMP the port is the query identifier.
    pub source: Endpoint,
    /// Destination.
    pub destination: Endpoint,
}

impl Quote {
    /// Nothing read yet.
    pub const EMPTY: Quote = Quote {
        l3: 0,
        l4: 0,
        len: 0,
        proto: Proto::Tcp,
        source: Endpoint::new(0, 0),
        destination: Endpoint::new(0, 0),
    };
}

/// What becomes of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translated {
    /// The quoted packet.
    pub quote: Quote,
    /// Its source after translation.
    pub quote_source: Endpoint,
    /// Its destination after translation.
    pub quote_destination: Endpoint,
    /// Source of the error after translation.
    pub source: u32,
    /// Destination of the error after translation.
    pub destination: u32,
}

impl Translated {
    /// Nothing known yet.
    pub const EMPTY: Translated = Translated {
        quote: Quote::EMPTY,
        quote_source: Endpoint::new(0, 0),
        quote_destination: Endpoint::new(0, 0),
        source: 0,
        destination: 0,
    };
}

/// Reads the quoted packet. The checksums of the error and of the quoted IP header must be right (RFC 5508 REQ-3).
///
/// The result goes into `quote`: as a return value its niche-encoded `Result` would have BTF that kernels refuse.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn read_quote<P: Packet>(p: &mut P, h: &Headers, quote: &mut Quote) -> Result<(), Reason> {
    let len = h.payload_len();
    if h.is_fragment() || len < 8 + 20 + 8 {
        return Err(Reason::Truncated);
    }
    if len > LARGEST || p.sum(usize::from(h.l4), len) != 0xffff {
        return Err(Reason::IcmpChecksum);
    }
    let l3 = usize::from(h.l4) + 8;
    let ip = *p.at::<Ipv4Hdr>(l3).ok_or(Reason::Truncated)?;
    let header_len = (ip.vihl & 0xf) as usize * 4;
    if ip.vihl >> 4 != 4 || header_len < 20 || len < 8 + header_len + 8 {
        return Err(Reason::Truncated);
    }
    if p.sum(l3, header_len) != 0xffff {
        return Err(Reason::IcmpChecksum);
    }
    let proto = Proto::from_ip(ip.proto).ok_or(Reason::IcmpUnmatched)?;
    if u16::from_be_bytes(ip.frags) & OFFSET != 0 {
        return Err(Reason::IcmpUnmatched);
    }
    let l4 = l3 + header_len;
    let start = *p.at::<[u8; 8]>(l4).ok_or(Reason::Truncated)?;
    let ports = match proto {
        Proto::Icmp => {
            // Only queries and replies have an identifier.
            if !matches!(start[0], 0 | 8 | 13 | 14) {
                return Err(Reason::IcmpUnmatched);
            }
            let id = u16::from_be_bytes([start[4], start[5]]);
            [id, id]
        }
        _ => [
            u16::from_be_bytes([start[0], start[1]]),
            u16::from_be_bytes([start[2], start[3]]),
        ],
    };
    *quote = Quote {
        l3: l3 as u16,
        l4: l4 as u16,
        len: (len - 8 - header_len) as u16,
        proto,
        source: Endpoint::new(u32::from_be_bytes(ip.src_addr), ports[0]),
        destination: Endpoint::new(u32::from_be_bytes(ip.dst_addr), ports[1]),
    };
    Ok(())
}

/// Finds what an error speaks of. `external` is the index of the external address that the error is sent to, if it is.
///
/// From outside, and for hairpinned flows from inside, the quoted source is an external endpoint; from inside the quoted
/// destination is an inside endpoint. A binding is neither made nor refreshed nor ended by an error (RFC 5508 REQ-6).
#[inline(always)]
pub fn translate<T: Tables>(
    t: &T,
    cfg: &Config,
    h: &Headers,
    way: &(Side, Option<u32>, u32),
    result: &mut Translated,
) -> Result<(), Reason> {
    let (side, external, now) = *way;
    let quote = result.quote;
    result.quote_source = quote.source;
    result.quote_destination = quote.destination;
    result.source = h.source.addr;
    result.destination = h.destination.addr;
    if quote.source.addr != h.destination.addr {
        // An error goes to the sender of what it quotes, and to nobody else.
        return Err(Reason::IcmpUnmatched);
    }
    if side == Side::Inside {
        let key = InsideKey {
            proto: quote.proto,
            inside: quote.destination,
        };
        let index = binding::find(t, cfg, &key, now).ok_or(Reason::IcmpUnmatched)?;
        check(t, cfg, index, quote.destination, &(quote.proto, quote.source, now))?;
        let outside = binding::external_of(t, index).ok_or(Reason::NoAddress)?;
        result.quote_destination = outside;
        result.source = outside.addr;
    }
    if let Some(address) = external {
        let index = slot_index(address, quote.proto, quote.source.port);
        let slot = t.slot(index).ok_or(Reason::Unbound)?;
        binding::live(t, cfg, index, slot, now).ok_or(Reason::Unbound)?;
        if slot.is_relay() {
            // It has no inside endpoint, and its peers have nothing to do with each other's networks.
            return Err(Reason::IcmpUnmatched);
        }
        let inside = binding::inside_of(slot);
        check(t, cfg, index, inside, &(quote.proto, result.quote_destination, now))?;
        result.quote_source = inside;
        result.destination = inside.addr;
    }
    Ok(())
}

/// An error must speak of a flow that there is.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn check<T: Tables>(
    t: &T,
    cfg: &Config,
    index: u32,
    inside: Endpoint,
    what: &(Proto, Endpoint, u32),
) -> Result<(), Reason> {
    let (proto, remote, now) = *what;
    let slot = t.slot(index).ok_or(Reason::IcmpUnmatched)?;
    let generation = crate::maps::SlotWord(slot.word.get()).generation();
    let remote = if proto == Proto::Icmp {
        Endpoint::new(remote.addr, 0)
    } else {
        remote
    };
    let flow = Flow {
        slot: index,
        generation,
        proto,
        flags: 0,
        inside,
        remote,
    };
    if session::known(t, cfg, &flow, now) {
        Ok(())
    } else {
        Err(Reason::IcmpUnmatched)
    }
}

/// Writes a translated error: the quoted packet, the error's checksum, the outer header.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn apply<P: Packet>(p: &mut P, h: &Headers, tr: &Translated) -> Result<(), Reason> {
    let q = &tr.quote;
    let addresses = Delta::new()
        .long(q.source.addr, tr.quote_source.addr)
        .long(q.destination.addr, tr.quote_destination.addr);
    let ip = p.at::<Ipv4Hdr>(usize::from(q.l3)).ok_or(Reason::Rewrite)?;
    let old_check = u16::from_be_bytes(ip.check);
    let new_check = addresses.apply(old_check);
    ip.src_addr = tr.quote_source.addr.to_be_bytes();
    ip.dst_addr = tr.quote_destination.addr.to_be_bytes();
    ip.check = new_check.to_be_bytes();
    let mut all = addresses.word(old_check, new_check);
    if q.proto == Proto::Icmp {
        let id = if tr.quote_source.port != q.source.port {
            tr.quote_source.port
        } else {
            tr.quote_destination.port
        };
        let icmp = p.at::<Icmpv4Hdr>(usize::from(q.l4)).ok_or(Reason::Rewrite)?;
        let old_id = u16::from_be_bytes([icmp.data[0], icmp.data[1]]);
        let old = u16::from_be_bytes(icmp.check);
        let new = Delta::new().word(old_id, id).apply(old);
        let [high, low] = id.to_be_bytes();
        icmp.data[0] = high;
        icmp.data[1] = low;
        icmp.check = new.to_be_bytes();
        all = all.word(old_id, id).word(old, new);
    } else {
        let ports = Delta::new()
            .word(q.source.port, tr.quote_source.port)
            .word(q.destination.port, tr.quote_destination.port);
        let start = p.at::<[u8; 4]>(usize::from(q.l4)).ok_or(Reason::Rewrite)?;
        let [a, b] = tr.quote_source.port.to_be_bytes();
        let [c, d] = tr.quote_destination.port.to_be_bytes();
        *start = [a, b, c, d];
        all = all.join(ports);
        let covered = addresses.join(ports);
        if q.proto == Proto::Udp {
            let check = p.at::<[u8; 2]>(usize::from(q.l4) + 6).ok_or(Reason::Rewrite)?;
            let old = u16::from_be_bytes(*check);
            let new = covered.apply_udp(old);
            *check = new.to_be_bytes();
            all = all.word(old, new);
        } else if usize::from(q.len) >= size_of::<TcpStart>() {
            let check = p.at::<[u8; 2]>(usize::from(q.l4) + 16).ok_or(Reason::Rewrite)?;
            let old = u16::from_be_bytes(*check);
            let new = covered.apply(old);
            *check = new.to_be_bytes();
            all = all.word(old, new);
        }
    }
    let icmp = p.at::<Icmpv4Hdr>(usize::from(h.l4)).ok_or(Reason::Rewrite)?;
    icmp.check = all.apply(u16::from_be_bytes(icmp.check)).to_be_bytes();
    let outer = Rewrite {
        source: Endpoint::new(tr.source, 0),
        destination: Endpoint::new(tr.destination, 0),
        id: h.id,
        mss: 0,
    };
    rewrite::ip(p, h, &outer)
}

//! ICMP errors and the packets they quote (RFC 5508 §4, RFC 4787 REQ-12), and the errors that the router itself says.

use crate::binding;
use crate::checksum::{Delta, fold};
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
/// Source quench (RFC 6633 deprecates it; it is passed on).
pub const SOURCE_QUENCH: u8 = 4;
/// Time exceeded.
pub const TIME_EXCEEDED: u8 = 11;
/// Parameter problem.
pub const PARAMETER_PROBLEM: u8 = 12;

/// The largest ICMP error whose checksum is verified; larger ones are dropped. RFC 1812 §4.3.2.3 limits them to 576 bytes.
const LARGEST: usize = 1480;

/// Whether an ICMP type is an error that is translated. Redirects are for the router's own link and are not.
#[inline(always)]
pub fn is_error(kind: u8) -> bool {
    matches!(kind, UNREACHABLE | SOURCE_QUENCH | TIME_EXCEEDED | PARAMETER_PROBLEM)
}

/// The packet that an error quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Offset of its IP header in the frame.
    pub l3: usize,
    /// Offset of its transport header.
    pub l4: usize,
    /// Bytes of the transport header and after that are quoted; at least 8.
    pub len: usize,
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
    /// The outer packet.
    pub outer: Rewrite,
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
    if len > LARGEST || sum(p, h.l4, len, LARGEST) != 0xffff {
        return Err(Reason::IcmpChecksum);
    }
    let l3 = h.l4 + 8;
    let ip = *p.at::<Ipv4Hdr>(l3).ok_or(Reason::Truncated)?;
    let header_len = (ip.vihl & 0xf) as usize * 4;
    if ip.vihl >> 4 != 4 || header_len < 20 || len < 8 + header_len + 8 {
        return Err(Reason::Truncated);
    }
    if sum(p, l3, header_len, 60) != 0xffff {
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
        l3,
        l4,
        len: len - 8 - header_len,
        proto,
        source: Endpoint::new(u32::from_be_bytes(ip.src_addr), ports[0]),
        destination: Endpoint::new(u32::from_be_bytes(ip.dst_addr), ports[1]),
    };
    Ok(())
}

/// The folded sum of `len` bytes at `start`, 0 if they are not all there. The kernel verifies it once for each caller, so it
/// is a function of its own and reads four bytes at a time.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn sum<P: Packet>(p: &mut P, start: usize, len: usize, most: usize) -> u16 {
    let mut sum = 0u64;
    let mut i = 0;
    while i < most && i + 4 <= len {
        let Some(part) = p.at::<[u8; 4]>(start + i) else {
            return 0;
        };
        sum += u64::from(u32::from_be_bytes(*part));
        i += 4;
    }
    let rest = len.wrapping_sub(i);
    if rest & 2 != 0 {
        let Some(part) = p.at::<[u8; 2]>(start + i) else {
            return 0;
        };
        sum += u64::from(u16::from_be_bytes(*part));
        i += 2;
    }
    if rest & 1 != 0 {
        let Some(part) = p.at::<u8>(start + i) else { return 0 };
        sum += u64::from(*part) << 8;
    }
    fold(sum)
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
    quote: &Quote,
    way: &(Side, Option<u32>, u32),
) -> Result<Translated, Reason> {
    let (side, external, now) = *way;
    let mut result = Translated {
        quote: *quote,
        quote_source: quote.source,
        quote_destination: quote.destination,
        outer: Rewrite::none(h),
    };
    if side == Side::Inside {
        let key = InsideKey {
            proto: quote.proto,
            inside: quote.destination,
        };
        let index = binding::find(t, cfg, &key, now).ok_or(Reason::IcmpUnmatched)?;
        check(t, cfg, index, quote.destination, &(quote.proto, quote.source, now))?;
        let outside = binding::external_of(t, index).ok_or(Reason::NoAddress)?;
        result.quote_destination = outside;
        result.outer.source.addr = outside.addr;
    }
    if let Some(address) = external {
        if quote.source.addr != h.destination.addr {
            return Err(Reason::IcmpUnmatched);
        }
        let index = slot_index(address, quote.proto, quote.source.port);
        let slot = t.slot(index).ok_or(Reason::Unbound)?;
        binding::live(t, cfg, index, slot, now).ok_or(Reason::Unbound)?;
        let inside = binding::inside_of(slot);
        check(t, cfg, index, inside, &(quote.proto, result.quote_destination, now))?;
        result.quote_source = inside;
        result.outer.destination.addr = inside.addr;
    }
    Ok(result)
}

/// An error must speak of a flow that there is.
#[inline(always)]
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
    let ip = p.at::<Ipv4Hdr>(q.l3).ok_or(Reason::Rewrite)?;
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
        let icmp = p.at::<Icmpv4Hdr>(q.l4).ok_or(Reason::Rewrite)?;
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
        let start = p.at::<[u8; 4]>(q.l4).ok_or(Reason::Rewrite)?;
        let [a, b] = tr.quote_source.port.to_be_bytes();
        let [c, d] = tr.quote_destination.port.to_be_bytes();
        *start = [a, b, c, d];
        all = all.join(ports);
        let covered = addresses.join(ports);
        if q.proto == Proto::Udp {
            let check = p.at::<[u8; 2]>(q.l4 + 6).ok_or(Reason::Rewrite)?;
            let old = u16::from_be_bytes(*check);
            let new = covered.apply_udp(old);
            *check = new.to_be_bytes();
            all = all.word(old, new);
        } else if q.len >= size_of::<TcpStart>() {
            let check = p.at::<[u8; 2]>(q.l4 + 16).ok_or(Reason::Rewrite)?;
            let old = u16::from_be_bytes(*check);
            let new = covered.apply(old);
            *check = new.to_be_bytes();
            all = all.word(old, new);
        }
    }
    let icmp = p.at::<Icmpv4Hdr>(h.l4).ok_or(Reason::Rewrite)?;
    icmp.check = all.apply(u16::from_be_bytes(icmp.check)).to_be_bytes();
    rewrite::ip(p, h, &tr.outer)
}

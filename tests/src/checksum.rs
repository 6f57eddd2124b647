//! The Internet checksum (RFC 1071), computed in full: the oracle that incremental updates are compared with.

use std::net::Ipv4Addr;

use anyhow::{Result, bail};

use crate::packet::{ETHERTYPE_IPV4, ICMP, TCP, UDP, split_ethernet};

/// The checksum over all parts as if they were one text; every part but the last must have an even length.
pub fn internet(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The pseudo-header of TCP and UDP (RFC 9293 §3.1, RFC 768).
pub fn pseudo_header(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, length: usize) -> [u8; 12] {
    let [a, b, c, d] = src.octets();
    let [e, f, g, h] = dst.octets();
    let [hi, lo] = (length as u16).to_be_bytes();
    [a, b, c, d, e, f, g, h, 0, protocol, hi, lo]
}

/// Checks every checksum of an Ethernet frame: IPv4 header, and TCP, UDP or ICMP unless the packet is a fragment.
/// Frames that are not IPv4 have nothing to check. A packet cut short, or with lengths that contradict, is an error.
pub fn verify_checksums(frame: &[u8]) -> Result<()> {
    let Some((_, ethertype, ip)) = split_ethernet(frame) else {
        bail!("{} bytes are no Ethernet frame", frame.len())
    };
    if ethertype == ETHERTYPE_IPV4 {
        verify_ip(ip)
    } else {
        Ok(())
    }
}

/// [`verify_checksums`] of a packet that begins with the IPv4 header.
pub fn verify_ip(ip: &[u8]) -> Result<()> {
    let header = usize::from(ip.first().copied().unwrap_or(0) & 15) * 4;
    if ip.len() < 20 || ip[0] >> 4 != 4 || header < 20 || ip.len() < header {
        bail!("no whole IPv4 header in {} bytes", ip.len());
    }
    if internet(&[&ip[..header]]) != 0 {
        bail!("IPv4 header checksum {:#06x} is wrong", word(ip, 10));
    }
    let total = usize::from(word(ip, 2));
    if total < header || total > ip.len() {
        bail!("IPv4 total length {total} does not fit {} bytes", ip.len());
    }
    if word(ip, 6) & 0x3fff != 0 {
        return Ok(());
    }
    let (protocol, payload) = (ip[9], &ip[header..total]);
    let pseudo = pseudo_header(address(ip, 12), address(ip, 16), protocol, payload.len());
    let (name, minimum, at, sum) = match protocol {
        ICMP => ("ICMP", 8, 2, internet(&[payload])),
        TCP => ("TCP", 20, 16, internet(&[&pseudo, payload])),
        UDP => ("UDP", 8, 6, internet(&[&pseudo, payload])),
        _ => return Ok(()),
    };
    if payload.len() < minimum {
        bail!("{name} of {} bytes is cut short", payload.len());
    }
    if protocol == UDP && usize::from(word(payload, 4)) != payload.len() {
        bail!("UDP length {} but {} bytes", word(payload, 4), payload.len());
    }
    if protocol == UDP && word(payload, 6) == 0 {
        return Ok(());
    }
    if sum != 0 {
        bail!("{name} checksum {:#06x} is wrong", word(payload, at));
    }
    Ok(())
}

/// The big-endian 16-bit word at an offset that the caller knows to be there.
pub(crate) fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The IPv4 address at an offset that the caller knows to be there.
pub(crate) fn address(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(internet(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
    }

    #[test]
    fn an_odd_byte_is_padded_on_the_right() {
        assert_eq!(internet(&[&[0x12, 0x34, 0x56]]), !(0x1234 + 0x5600));
    }
}

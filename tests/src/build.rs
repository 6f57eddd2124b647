//! From [`Packet`] to bytes, whole or in fragments.

use crate::checksum::{internet, pseudo_header};
use crate::packet::{ETHERTYPE_IPV4, ETHERTYPE_VLAN, Eth, Icmp, Ip, L4, Packet, Sum, TCP, Tcp, UDP, Udp};

impl Packet {
    /// The Ethernet frame. No padding is added to short ones: veth has no minimum.
    pub fn build(&self) -> Vec<u8> {
        [ethernet(&self.eth), self.ip_bytes()].concat()
    }

    /// The IPv4 packet without the Ethernet header.
    pub fn ip_bytes(&self) -> Vec<u8> {
        let payload = self.l4_bytes();
        [ip_header(&self.ip, self.protocol(), payload.len()), payload].concat()
    }

    /// What the IPv4 packet carries, checksummed as a whole.
    pub fn l4_bytes(&self) -> Vec<u8> {
        match &self.l4 {
            L4::Udp(udp) => udp_bytes(&self.ip, udp),
            L4::Tcp(tcp) => tcp_bytes(&self.ip, tcp),
            L4::Icmp(icmp) => icmp_bytes(icmp),
            L4::Raw(_, bytes) => bytes.clone(),
        }
    }

    /// Cuts the packet into fragments of at most `size` bytes of payload each (rounded down to a multiple of 8), as
    /// packets of their own in the order of their offsets. The checksum of UDP or TCP covers the whole, as it should.
    pub fn fragments(&self, size: usize) -> Vec<Packet> {
        let (payload, size) = (self.l4_bytes(), (size & !7).max(8));
        let count = payload.len().div_ceil(size);
        let piece = |(index, bytes): (usize, &[u8])| {
            let mut piece = self.clone();
            piece.ip.offset = (index * size) as u16;
            piece.ip.mf = index + 1 < count;
            piece.l4 = L4::Raw(self.protocol(), bytes.into());
            piece
        };
        payload.chunks(size).enumerate().map(piece).collect()
    }
}

fn ethernet(eth: &Eth) -> Vec<u8> {
    let mut out = [eth.dst, eth.src].concat();
    if let Some(tag) = eth.vlan {
        out.extend(ETHERTYPE_VLAN.to_be_bytes());
        out.extend(tag.to_be_bytes());
    }
    out.extend(ETHERTYPE_IPV4.to_be_bytes());
    out
}

fn ip_header(ip: &Ip, protocol: u8, payload: usize) -> Vec<u8> {
    let options = padded(&ip.options);
    let length = 20 + options.len();
    let fragment = (u16::from(ip.df) << 14) | (u16::from(ip.mf) << 13) | (ip.offset / 8);
    let mut out = vec![0x40 | (length / 4) as u8, ip.tos];
    out.extend(((length + payload) as u16).to_be_bytes());
    out.extend(ip.id.to_be_bytes());
    out.extend(fragment.to_be_bytes());
    out.extend([ip.ttl, protocol, 0, 0]);
    out.extend(ip.src.octets());
    out.extend(ip.dst.octets());
    out.extend(options);
    let right = internet(&[&out]);
    put_sum(&mut out, 10, ip.sum, right);
    out
}

fn udp_bytes(ip: &Ip, udp: &Udp) -> Vec<u8> {
    let mut out = [udp.sport.to_be_bytes(), udp.dport.to_be_bytes()].concat();
    out.extend(((8 + udp.payload.len()) as u16).to_be_bytes());
    out.extend([0, 0]);
    out.extend(&udp.payload);
    let sum = internet(&[&pseudo_header(ip.src, ip.dst, UDP, out.len()), &out]);
    // RFC 768: a computed zero is sent as all ones, because zero says that there is none.
    put_sum(&mut out, 6, udp.sum, if sum == 0 { 0xffff } else { sum });
    out
}

fn tcp_bytes(ip: &Ip, tcp: &Tcp) -> Vec<u8> {
    let options = padded(&tcp.options);
    let mut out = [tcp.sport.to_be_bytes(), tcp.dport.to_be_bytes()].concat();
    out.extend(tcp.seq.to_be_bytes());
    out.extend(tcp.ack.to_be_bytes());
    out.extend([((20 + options.len()) * 4) as u8, tcp.flags]);
    out.extend(tcp.window.to_be_bytes());
    out.extend([0, 0]);
    out.extend(tcp.urgent.to_be_bytes());
    out.extend(options);
    out.extend(&tcp.payload);
    let right = internet(&[&pseudo_header(ip.src, ip.dst, TCP, out.len()), &out]);
    put_sum(&mut out, 16, tcp.sum, right);
    out
}

fn icmp_bytes(icmp: &Icmp) -> Vec<u8> {
    let mut out = vec![icmp.kind, icmp.code, 0, 0];
    out.extend(icmp.rest);
    out.extend(&icmp.body);
    let right = internet(&[&out]);
    put_sum(&mut out, 2, icmp.sum, right);
    out
}

fn put_sum(out: &mut [u8], at: usize, sum: Sum, right: u16) {
    let value = match sum {
        Sum::Right => right,
        Sum::Absent => 0,
        Sum::Wrong(value) => value,
    };
    out[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn padded(options: &[u8]) -> Vec<u8> {
    let mut out = options.to_vec();
    out.resize(options.len().next_multiple_of(4), 0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::verify_checksums;
    use crate::packet::flags::{ACK, SYN};

    #[test]
    fn a_known_udp_packet_byte_for_byte() {
        let packet = Packet::udp("192.0.2.1:5060", "198.51.100.2:4000", b"hi")
            .id(0x1234)
            .df()
            .ttl(63);
        let packet = packet.macs([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        #[rustfmt::skip]
        let expected = [
            2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00,
            0x45, 0, 0, 30, 0x12, 0x34, 0x40, 0, 63, 17, 0x3d, 0x64, 192, 0, 2, 1, 198, 51, 100, 2,
            0x13, 0xc4, 0x0f, 0xa0, 0, 10, 0x87, 0xd5, b'h', b'i',
        ];
        assert_eq!(packet.build(), expected);
    }

    #[test]
    fn everything_built_verifies_and_reads_back() {
        let (a, b) = ("10.0.0.1:1000", "10.0.0.2:2000");
        let syn = Packet::tcp(a, b, SYN, 7, 0).tcp_options(&[2, 4, 5, 0xb4]);
        let icmp = Packet::echo([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 9, 1, b"abc");
        let packets = [
            Packet::udp(a, b, b"odd"),
            Packet::udp(a, b, b"").vlan(7).options(&[7, 7, 4, 0, 0, 0, 0, 0]),
            Packet::udp(a, b, b"none").sum(Sum::Absent),
            Packet::tcp(a, b, ACK, 1, 2).with_payload(&[1; 99]),
            Packet::icmp_error([10, 0, 0, 3].into(), [10, 0, 0, 1].into(), 3, 4, &syn, 8).mtu(1280),
            syn,
            icmp,
        ];
        for packet in packets {
            verify_checksums(&packet.build()).unwrap();
            assert_eq!(Packet::parse(&packet.build()).unwrap(), packet);
        }
    }

    #[test]
    fn a_wrong_checksum_is_found_and_kept() {
        for packet in [
            Packet::udp("10.0.0.1:1", "10.0.0.2:2", b"x"),
            Packet::tcp("10.0.0.1:1", "10.0.0.2:2", ACK, 1, 1),
        ] {
            let wrong = packet.sum(Sum::Wrong(0xbad));
            assert!(verify_checksums(&wrong.build()).is_err());
            assert_eq!(Packet::parse(&wrong.build()).unwrap(), wrong);
        }
    }

    #[test]
    fn fragments_cover_the_whole_once() {
        let whole = Packet::udp("10.0.0.1:1", "10.0.0.2:2", &[0x5a; 3000]).id(77);
        let pieces = whole.fragments(1480);
        assert_eq!(
            pieces.iter().map(|p| (p.ip.offset, p.ip.mf)).collect::<Vec<_>>(),
            [(0, true), (1480, true), (2960, false)]
        );
        assert_eq!(
            Packet::reassemble(&pieces.into_iter().rev().collect::<Vec<_>>()).unwrap(),
            whole
        );
    }
}

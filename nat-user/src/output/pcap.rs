//! Traces and captured calls as a capture file: each message or packet as a UDP datagram with made-up headers between its endpoints, whatever carried it.

use std::{
    io::{self, Write},
    net::{IpAddr, SocketAddr},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};

use crate::records::{CaptureRecord, Time, TraceRecord};

/// Packets begin with their IP header.
const LINKTYPE_RAW: u32 = 101;
/// The longest IP packet.
const SNAPLEN: u32 = 65_535;
const UDP_HEADER: usize = 8;
const UDP: u8 = 17;

/// Writes the classic pcap format.
pub struct Pcap<W: Write>(W);

impl<W: Write> Pcap<W> {
    /// Writes the file's header.
    pub fn begin(mut out: W) -> io::Result<Self> {
        let mut header = Vec::with_capacity(24);
        // Magic number for microseconds, version 2.4, no time zone, no accuracy.
        header.extend(0xa1b2_c3d4_u32.to_ne_bytes());
        header.extend(2u16.to_ne_bytes());
        header.extend(4u16.to_ne_bytes());
        header.extend([0; 8]);
        header.extend(SNAPLEN.to_ne_bytes());
        header.extend(LINKTYPE_RAW.to_ne_bytes());
        out.write_all(&header)?;
        Ok(Pcap(out))
    }

    /// Adds a message; its end is cut off if no datagram could carry it. At once in the file, so that it can be watched.
    pub fn push(&mut self, record: &TraceRecord) -> io::Result<()> {
        let message = BASE64_STANDARD.decode(&record.message).map_err(io::Error::other)?;
        let (from, to) = match record.direction.as_str() {
            "in" => (record.remote, record.local),
            _ => (record.local, record.remote),
        };
        self.add(record.time, from, to, &message, message.len())
    }

    /// Adds a packet of a captured call, likewise.
    pub fn capture(&mut self, record: &CaptureRecord) -> io::Result<()> {
        let payload = BASE64_STANDARD.decode(&record.payload).map_err(io::Error::other)?;
        let length = usize::try_from(record.length).unwrap_or(usize::MAX).max(payload.len());
        self.add(record.time, record.from, record.to, &payload, length)
    }

    /// Adds a datagram that had `whole` bytes of payload.
    fn add(&mut self, time: Time, from: SocketAddr, to: SocketAddr, payload: &[u8], whole: usize) -> io::Result<()> {
        let (packet, length) = packet(from, to, payload, whole);
        let micros = time.0.as_microsecond();
        let mut head = Vec::with_capacity(16);
        head.extend((micros.div_euclid(1_000_000) as u32).to_ne_bytes());
        head.extend((micros.rem_euclid(1_000_000) as u32).to_ne_bytes());
        head.extend((packet.len() as u32).to_ne_bytes());
        head.extend((length as u32).to_ne_bytes());
        self.0.write_all(&head)?;
        self.0.write_all(&packet)?;
        self.0.flush()
    }
}

/// An IP packet, and how long it would have been with all `whole` bytes of its payload.
fn packet(from: SocketAddr, to: SocketAddr, message: &[u8], whole: usize) -> (Vec<u8>, usize) {
    let (from_ip, to_ip) = (from.ip().to_canonical(), to.ip().to_canonical());
    let header = if from_ip.is_ipv4() && to_ip.is_ipv4() { 20 } else { 40 };
    let cut = &message[..message.len().min(SNAPLEN as usize - 40 - UDP_HEADER)];
    let udp_length = (UDP_HEADER + cut.len()) as u16;
    let mut pseudo = Vec::new();
    let mut packet = Vec::with_capacity(header + usize::from(udp_length));
    match (from_ip, to_ip) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            packet.extend([0x45, 0]);
            packet.extend((20 + udp_length).to_be_bytes());
            packet.extend([0, 0, 0x40, 0, 64, UDP, 0, 0]);
            packet.extend(from.octets());
            packet.extend(to.octets());
            let sum = checksum(&packet);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            pseudo.extend(&packet[12..20]);
        }
        (from, to) => {
            let wide = |ip| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            };
            packet.extend([0x60, 0, 0, 0]);
            packet.extend(udp_length.to_be_bytes());
            packet.extend([UDP, 64]);
            packet.extend(wide(from));
            packet.extend(wide(to));
            pseudo.extend(&packet[8..40]);
        }
    }
    pseudo.extend([0, UDP]);
    pseudo.extend(udp_length.to_be_bytes());
    let udp = packet.len();
    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend(udp_length.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(cut);
    pseudo.extend(&packet[udp..]);
    // A sum of zero would mean that there is none.
    let sum = match checksum(&pseudo) {
        0 => 0xffff,
        sum => sum,
    };
    packet[udp + 6..udp + 8].copy_from_slice(&sum.to_be_bytes());
    (packet, header + UDP_HEADER + whole)
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::flow::Transport;

    fn record(direction: &str, local: &str, remote: &str, message: &[u8]) -> TraceRecord {
        TraceRecord {
            time: "1970-01-01T00:01:00.25Z".parse().unwrap(),
            direction: direction.into(),
            transport: Transport::Tls,
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            summary: String::new(),
            call_id: String::new(),
            cseq: String::new(),
            message: BASE64_STANDARD.encode(message),
            missed: 0,
        }
    }

    #[test]
    fn a_message_is_a_datagram_from_its_sender() {
        let mut file = Vec::new();
        let mut pcap = Pcap::begin(&mut file).unwrap();
        pcap.push(&record("in", "134.56.3.1:5060", "134.56.1.1:5070", b"abc"))
            .unwrap();
        pcap.push(&record("out", "[2001:db8::1]:5061", "[2001:db8::2]:5071", b"abcd"))
            .unwrap();
        let ne = |at: usize| u32::from_ne_bytes(file[at..at + 4].try_into().unwrap());
        assert_eq!((ne(0), ne(16), ne(20)), (0xa1b2_c3d4, 65_535, 101));
        assert_eq!([ne(24), ne(28), ne(32), ne(36)], [60, 250_000, 31, 31]);
        let packet = &file[40..71];
        assert_eq!(packet[12..20], [134, 56, 1, 1, 134, 56, 3, 1]);
        assert_eq!(packet[20..28][..6], [19, 206, 19, 196, 0, 11]);
        assert_eq!(&packet[28..], b"abc");
        assert_eq!(checksum(&packet[..20]), 0, "the header sums up");
        let mut whole = packet[12..20].to_vec();
        whole.extend([0, UDP, 0, 11]);
        whole.extend(&packet[20..]);
        assert_eq!(checksum(&whole), 0, "and the datagram");
        let packet = &file[71 + 16..];
        assert_eq!((packet.len(), packet[0], packet[6]), (40 + 8 + 4, 0x60, UDP));
        assert_eq!((packet[23], packet[39]), (1, 2));
        let mut whole = packet[8..40].to_vec();
        whole.extend([0, UDP, 0, 12]);
        whole.extend(&packet[40..]);
        assert_eq!(checksum(&whole), 0);
    }

    #[test]
    fn what_no_datagram_could_carry_is_cut() {
        let mut file = Vec::new();
        let mut pcap = Pcap::begin(&mut file).unwrap();
        pcap.push(&record("in", "134.56.3.1:5060", "134.56.1.1:5070", &[b'x'; 100_000]))
            .unwrap();
        let ne = |at: usize| u32::from_ne_bytes(file[at..at + 4].try_into().unwrap());
        assert!(ne(32) <= 65_535);
        assert_eq!((ne(36), file.len()), (100_028, 40 + ne(32) as usize));
    }
}

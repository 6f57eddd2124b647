//! Voice from a capture: the RTP of a pcap file such as those of Debian's sip-tester, for sipp to play.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// G.711 A-law, 236 packets of 30 ms.
pub const G711A: &str = "/usr/share/sip-tester/g711a.pcap";

/// Length of the file's header.
const HEAD: usize = 24;
/// Length of the header before each packet.
const RECORD: usize = 16;
/// Ethernet, IPv4 without options, UDP.
const LOWER: usize = 14 + 20 + 8;

/// Writes the first packets of a capture of RTP over Ethernet to another file, and returns their UDP payloads.
pub fn first_packets(of: &str, packets: usize, to: &Path) -> Result<Vec<Vec<u8>>> {
    let bytes = fs::read(of).with_context(|| format!("read {of}, which is in Debian's package sip-tester"))?;
    ensure!(
        bytes.starts_with(&[0xd4, 0xc3, 0xb2, 0xa1]),
        "{of} is no pcap file of little endian"
    );
    let mut at = HEAD;
    let mut payloads = Vec::new();
    while payloads.len() < packets {
        let length = bytes
            .get(at + 8..at + 12)
            .with_context(|| format!("{of} has {} packets", payloads.len()))?;
        let length = u32::from_le_bytes(length.try_into()?) as usize;
        let packet = bytes
            .get(at + RECORD..at + RECORD + length)
            .with_context(|| format!("{of} is cut off"))?;
        payloads.push(
            packet
                .get(LOWER..)
                .with_context(|| format!("{of} has a packet without UDP"))?
                .to_vec(),
        );
        at += RECORD + length;
    }
    fs::write(to, &bytes[..at]).with_context(|| format!("write {}", to.display()))?;
    Ok(payloads)
}

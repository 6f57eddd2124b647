//! RTP by hand (RFC 3550): a phone's voice as packets that a test makes, sends and compares.

use std::net::{SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::Host;
use crate::sockets;

/// Samples of a packet of 20 ms (RFC 3551 §4.5.14).
const SAMPLES: usize = 160;

/// A socket that sends one stream of PCMU, packet by packet.
#[derive(Debug)]
pub struct Voice {
    /// Where the phone has it, behind its NAT.
    pub endpoint: SocketAddrV4,
    /// The synchronisation source.
    pub ssrc: u32,
    socket: UdpSocket,
    next: AtomicU16,
}

impl Voice {
    /// Binds a host's address and this port.
    pub fn bind(host: &Host, port: u16, ssrc: u32) -> Result<Self> {
        Ok(Self {
            endpoint: SocketAddrV4::new(host.ip, port),
            ssrc,
            socket: sockets::host_udp(host, port)?,
            next: AtomicU16::new(1),
        })
    }

    /// Sends the next packet, and returns it.
    pub fn say(&self, to: SocketAddrV4) -> Result<Vec<u8>> {
        let sequence = self.next.fetch_add(1, Ordering::Relaxed);
        let packet = packet(self.ssrc, sequence, self.ssrc as u8);
        self.send(to, &packet)?;
        Ok(packet)
    }

    /// The sequence number of the packet that comes next.
    pub fn next_sequence(&self) -> u16 {
        self.next.load(Ordering::Relaxed)
    }

    /// Sends anything from the same socket.
    pub fn send(&self, to: SocketAddrV4, bytes: &[u8]) -> Result<()> {
        self.socket
            .send_to(bytes, to)
            .with_context(|| format!("send from {} to {to}", self.endpoint))
            .map(drop)
    }

    /// The next datagram that comes within this time, and its sender.
    pub fn hear(&self, time: Duration) -> Result<Option<(Vec<u8>, SocketAddrV4)>> {
        sockets::try_receive(&self.socket, time)
    }

    /// Takes everything that has come so far.
    pub fn heard(&self) -> Result<Vec<Vec<u8>>> {
        let mut all = Vec::new();
        while let Some((packet, _)) = self.hear(Duration::from_millis(1))? {
            all.push(packet);
        }
        Ok(all)
    }
}

/// An RTP packet of PCMU whose samples are all the same.
pub fn packet(ssrc: u32, sequence: u16, sample: u8) -> Vec<u8> {
    let mut bytes = vec![0x80, 0];
    bytes.extend(sequence.to_be_bytes());
    bytes.extend((u32::from(sequence) * SAMPLES as u32).to_be_bytes());
    bytes.extend(ssrc.to_be_bytes());
    bytes.extend([sample; SAMPLES]);
    bytes
}

/// A sender report and a BYE that carries a reason (RFC 3550 §6.4.1, §6.6): `mark` three times.
pub fn rtcp_bye(ssrc: u32, mark: u8) -> Vec<u8> {
    let mut bytes = vec![0x80, 200, 0, 6];
    bytes.extend(ssrc.to_be_bytes());
    bytes.extend([mark; 20]);
    bytes.extend([0x81, 203, 0, 2]);
    bytes.extend(ssrc.to_be_bytes());
    bytes.extend([3, mark, mark, mark]);
    bytes
}

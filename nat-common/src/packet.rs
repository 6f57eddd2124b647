//! Access to packet bytes, and the header types that are laid over them.

use crate::raw::Wire;

/// The one way to touch a packet.
///
/// Implemented by the XDP program over the frame's linear part and, on the host, by [`Bytes`].
pub trait Packet {
    /// `T` at `offset` bytes from the start of the Ethernet header; `None` beyond the end of the packet.
    fn at<T: Wire>(&mut self, offset: usize) -> Option<&mut T>;

    /// The first bytes of an untagged frame, all at once; `None` if there are not so many.
    fn head(&mut self) -> Option<Head> {
        Some(Head {
            ethertype: self.be16(12)?,
            ip: [self.be64(14)?, self.be64(22)?, self.be64(30)?],
            transport: [self.be64(38)?, self.be64(46)?],
        })
    }

    /// Writes what [`Packet::head`] read and a NAT changes, with the transport checksum at offset `check_at`. `link` is the
    /// destination's and the source's MAC address, each in the low six bytes, first byte lowest.
    fn set_head(&mut self, link: [u64; 2], ip: &[u64; 3], check_at: usize, check: u16) -> Option<()> {
        let start = self.at::<[u8; HEAD_LEN]>(0)?;
        start[..6].copy_from_slice(&link[0].to_le_bytes()[..6]);
        start[6..12].copy_from_slice(&link[1].to_le_bytes()[..6]);
        for (word, at) in ip.iter().zip([14, 22, 30]) {
            start[at..at + 8].copy_from_slice(&word.to_be_bytes());
        }
        start
            .get_mut(check_at..check_at + 2)?
            .copy_from_slice(&check.to_be_bytes());
        Some(())
    }

    /// The 64-bit number at `offset`.
    fn be64(&mut self, offset: usize) -> Option<u64> {
        self.at::<[u8; 8]>(offset).map(|bytes| u64::from_be_bytes(*bytes))
    }

    /// Whether the whole frame, Ethernet header included, has at least `len` bytes.
    fn reaches(&mut self, len: usize) -> bool;

    /// The 32-bit number at `offset`.
    fn be32(&mut self, offset: usize) -> Option<u32> {
        self.at::<[u8; 4]>(offset).map(|bytes| u32::from_be_bytes(*bytes))
    }

    /// The 16-bit number at `offset`.
    fn be16(&mut self, offset: usize) -> Option<u16> {
        self.at::<[u8; 2]>(offset).map(|bytes| u16::from_be_bytes(*bytes))
    }

    /// Writes a 32-bit number at `offset`.
    fn set_be32(&mut self, offset: usize, value: u32) -> Option<()> {
        *self.at::<[u8; 4]>(offset)? = value.to_be_bytes();
        Some(())
    }

    /// Writes a 16-bit number at `offset`.
    fn set_be16(&mut self, offset: usize, value: u16) -> Option<()> {
        *self.at::<[u8; 2]>(offset)? = value.to_be_bytes();
        Some(())
    }

    /// The byte at `offset`, read from the packet again even if it was read before.
    ///
    /// The kernel's verifier follows a value that was compared in a loop as one value for each way out of the loop. What is
    /// read anew is one unknown value again.
    fn again(&mut self, offset: usize) -> Option<u8> {
        self.at::<u8>(offset).copied()
    }

    /// The folded ones' complement sum of `len` bytes at `offset`; 0 if they are not all there, or more than 2,000.
    fn sum(&mut self, offset: usize, len: usize) -> u16
    where
        Self: Sized,
    {
        crate::checksum::sum_of(self, offset, len)
    }

    /// Moves the start of the frame `bytes` forward, or backward if negative; `None` if there is no room.
    fn shift_front(&mut self, bytes: i32) -> Option<()>;
}

/// Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Ethernet {
    /// Destination MAC address.
    pub destination: [u8; 6],
    /// Source MAC address.
    pub source: [u8; 6],
    /// EtherType, network order.
    pub ethertype: [u8; 2],
}

/// The part of the TCP header up to the checksum (RFC 9293 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct TcpStart {
    /// Source port.
    pub source: [u8; 2],
    /// Destination port.
    pub destination: [u8; 2],
    /// Sequence number.
    pub sequence: [u8; 4],
    /// Acknowledgement number.
    pub acknowledgement: [u8; 4],
    /// Data offset in the high four bits, in units of four bytes.
    pub offset: u8,
    /// Control bits.
    pub flags: u8,
    /// Window.
    pub window: [u8; 2],
    /// Checksum.
    pub check: [u8; 2],
}

/// The beginning of an untagged frame: Ethernet, an IPv4 header without options, and as much again. Numbers in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// EtherType.
    pub ethertype: u16,
    /// The IP header and the ports: bytes 14 to 37.
    pub ip: [u64; 3],
    /// What follows the ports: bytes 38 to 53.
    pub transport: [u64; 2],
}

impl Head {
    /// Whether it is UDP, if it is IPv4 without options.
    #[inline(always)]
    pub fn is_udp(&self) -> bool {
        (self.ip[1] >> 48) as u8 == crate::flow::IP_UDP
    }
}

/// Bytes of a [`Head`].
pub const HEAD_LEN: usize = 54;
/// Length of an Ethernet header.
pub const ETHERNET_LEN: usize = 14;
/// Length of an 802.1Q tag.
pub const VLAN_LEN: usize = 4;
/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of an 802.1Q tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;

/// A packet in ordinary memory, for the daemon, the tests and the fuzzers.
#[cfg(any(test, feature = "std"))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bytes(pub std::vec::Vec<u8>);

#[cfg(any(test, feature = "std"))]
impl Packet for Bytes {
    fn at<T: Wire>(&mut self, offset: usize) -> Option<&mut T> {
        crate::raw::overlay(&mut self.0, offset)
    }

    fn reaches(&mut self, len: usize) -> bool {
        self.0.len() >= len
    }

    fn shift_front(&mut self, bytes: i32) -> Option<()> {
        match usize::try_from(bytes) {
            Ok(n) if n <= self.0.len() => drop(self.0.drain(..n)),
            Ok(_) => return None,
            Err(_) => drop(
                self.0
                    .splice(0..0, core::iter::repeat_n(0, bytes.unsigned_abs() as usize)),
            ),
        }
        Some(())
    }
}

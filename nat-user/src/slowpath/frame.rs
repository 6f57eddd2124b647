//! A frame that the slow path keeps.

use std::time::Instant;

use nat_common::counters::Reason;
use nat_common::event::Punt;

/// What the bookkeeping of one frame costs, in bytes, so that small frames do not fill memory unseen.
const OVERHEAD: usize = 128;

/// A frame with the interface it came in on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Index of the device it came in on.
    pub ifindex: u32,
    /// From its Ethernet header on.
    pub bytes: Vec<u8>,
    /// When it came here.
    pub since: Instant,
}

impl Held {
    /// A frame.
    pub fn new(ifindex: u32, bytes: Vec<u8>, since: Instant) -> Self {
        Self { ifindex, bytes, since }
    }

    /// What it costs of the memory that is set aside.
    pub fn cost(&self) -> usize {
        self.bytes.len() + OVERHEAD
    }
}

/// One record of the ring `PUNTS`, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Why the kernel program could not finish.
    pub reason: Reason,
    /// The header.
    pub punt: Punt,
    /// The frame, cut off if it is longer than `PUNT_MAX`.
    pub frame: &'a [u8],
}

impl<'a> Record<'a> {
    /// Reads a record; `None` if it is none.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let (header, rest) = bytes.split_at_checked(size_of::<Punt>())?;
        let mut words = header.as_chunks::<4>().0.iter().map(|w| u32::from_ne_bytes(*w));
        let mut next = || words.next();
        let punt = Punt {
            reason: next()?,
            ifindex: next()?,
            argument: next()?,
            out: next()?,
            frame_len: next()?,
            len: next()?,
        };
        Some(Self {
            reason: *Reason::ALL.get(punt.reason as usize)?,
            punt,
            frame: rest.get(..punt.len as usize)?,
        })
    }

    /// Whether the frame is all there.
    pub fn whole(&self) -> bool {
        self.frame.len() == self.punt.frame_len as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_the_kernel_writes_it() {
        let words = [Reason::TooBig as u32, 7, 1280, 0, 3, 3];
        let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        bytes.extend([1, 2, 3, 99]);
        let record = Record::read(&bytes).unwrap();
        assert_eq!(
            (record.reason, record.frame, record.whole()),
            (Reason::TooBig, &[1, 2, 3][..], true)
        );
        assert_eq!(
            (record.punt.ifindex, record.punt.argument, record.punt.out),
            (7, 1280, 0)
        );
        assert_eq!(Record::read(&bytes[..26]), None, "shorter than it says");
        assert_eq!(Record::read(&bytes[..23]), None);
        bytes[0] = 255;
        assert_eq!(Record::read(&bytes), None, "no such reason");
    }
}

//! Internet checksums: full, and incremental by RFC 1624; the UDP zero rules live here and nowhere else.

use crate::packet::Packet;

/// What changes in the sixteen-bit words that a checksum covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(u64);

impl Delta {
    /// Nothing changes.
    #[inline(always)]
    pub const fn new() -> Self {
        Self(0)
    }

    /// A sixteen-bit word changes.
    #[inline(always)]
    pub fn word(self, old: u16, new: u16) -> Self {
        Self(self.0 + u64::from(!old) + u64::from(new))
    }

    /// A thirty-two-bit value at an even offset changes.
    #[inline(always)]
    pub fn long(self, old: u32, new: u32) -> Self {
        // 2^32 is 1 in this arithmetic too; `fold` takes what is above it.
        Self(self.0 + u64::from(!old) + u64::from(new))
    }

    /// Both changes.
    #[inline(always)]
    pub fn join(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The checksum after the change (RFC 1624 §3, equation 3: HC' = ~(~HC + ~m + m')).
    #[inline(always)]
    pub fn apply(self, check: u16) -> u16 {
        !fold(self.0 + u64::from(!check))
    }

    /// The UDP checksum after the change: 0 says "none" and stays, a computed 0 is sent as 0xffff (RFC 768).
    #[inline(always)]
    pub fn apply_udp(self, check: u16) -> u16 {
        if check == 0 {
            return 0;
        }
        match self.apply(check) {
            0 => 0xffff,
            other => other,
        }
    }
}

/// Folds a sum into sixteen bits (ones' complement).
#[inline(always)]
pub fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The folded sum of `len` bytes of a packet; 0 if they are not all there, or more than 2,000. Four bytes at a time and
/// within bounds that the kernel's verifier can follow.
#[inline(always)]
pub fn sum_of<P: Packet>(p: &mut P, offset: usize, len: usize) -> u16 {
    let mut sum = 0u64;
    let mut i = 0;
    while i < 2000 && i + 4 <= len {
        let Some(part) = p.at::<[u8; 4]>(offset + i) else {
            return 0;
        };
        sum += u64::from(u32::from_be_bytes(*part));
        i += 4;
    }
    let rest = len.wrapping_sub(i);
    if rest & 2 != 0 {
        let Some(part) = p.at::<[u8; 2]>(offset + i) else {
            return 0;
        };
        sum += u64::from(u16::from_be_bytes(*part));
        i += 2;
    }
    if rest & 1 != 0 {
        let Some(part) = p.at::<u8>(offset + i) else { return 0 };
        sum += u64::from(*part) << 8;
        i += 1;
    }
    if i == len { fold(sum) } else { 0 }
}

/// The sum of big-endian words of `bytes`, to be folded; an odd last byte counts as the high one.
pub fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<2>();
    let last = rest.first().map_or(0, |b| u64::from(*b) << 8);
    words.iter().map(|w| u64::from(u16::from_be_bytes(*w))).sum::<u64>() + last
}

/// The checksum of `bytes` with its checksum field set to zero.
pub fn full(bytes: &[u8]) -> u16 {
    !fold(sum(bytes))
}

/// The checksum of a TCP or UDP segment with its pseudo header; the segment's checksum field is taken as it is.
pub fn transport(src: u32, dst: u32, ip_proto: u8, segment: &[u8]) -> u16 {
    let pseudo = sum(&src.to_be_bytes()) + sum(&dst.to_be_bytes()) + u64::from(ip_proto) + segment.len() as u64;
    !fold(pseudo + sum(segment))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn incremental_equals_full(mut bytes in proptest::collection::vec(any::<u8>(), 20..200), at in 0usize..9, new: u32) {
            bytes[2] = 0;
            bytes[3] = 0;
            let at = 4 + at * 2 % 12;
            let before = full(&bytes);
            let old = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
            bytes[at..at + 4].copy_from_slice(&new.to_be_bytes());
            let after = Delta::new().long(old, new).apply(before);
            // 0 and 0xffff are the same number in ones' complement; a receiver accepts either.
            prop_assert!(after == full(&bytes) || fold(u64::from(after) + sum(&bytes)) == 0xffff);
        }

        #[test]
        fn udp_zero_rules(check: u16, old: u32, new: u32) {
            let after = Delta::new().long(old, new).apply_udp(check);
            prop_assert_eq!(after == 0, check == 0);
        }
    }

    #[test]
    fn computed_zero_is_sent_as_ones() {
        // 0x0001 changes to 0x0000 under a checksum of 0xfffe gives 0xffff; make one that gives 0.
        let check = 0x0001;
        let d = Delta::new().word(0, 1);
        assert_eq!(d.apply(check), 0);
        assert_eq!(d.apply_udp(check), 0xffff);
    }
}

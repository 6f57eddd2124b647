//! Arithmetic without branches: keyed hashing for table positions and port choices, bit search, comparison.

/// A 64-bit hash of `key` that cannot be foreseen without `secret`.
#[inline(always)]
pub fn mix(key: u64, secret: u64) -> u64 {
    let mut h = key ^ secret;
    h ^= h >> 32;
    h = h.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    h ^= h >> 29;
    h = h.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h ^ h >> 32
}

/// The other bucket that an entry with hash `h` may be in.
#[inline(always)]
pub fn second(h: u64, mask: u32) -> u32 {
    (h as u32 ^ ((h >> 32) as u32 | 1).wrapping_mul(0x5bd1_e995)) & mask
}

/// The one of `n` places in a row that belongs to hash `h`: what is near in the one is near in the other.
#[inline(always)]
pub fn reduce(h: u32, n: u32) -> u32 {
    ((u64::from(h) * u64::from(n)) >> 32) as u32
}

/// How far apart the hashes of neighbours among `n` places are; see [`reduce`].
#[must_use]
pub fn step(n: u32) -> u32 {
    ((1 << 32) / u64::from(n.max(1))) as u32
}

/// Number of the lowest set bit, 64 for none. Without a branch, as the verifier would follow every outcome.
#[inline(always)]
pub fn lowest(bits: u64) -> u32 {
    bits.isolate_lowest_one().wrapping_sub(1).count_ones()
}

/// Number of the set bit of rank `rank`, which must be less than the number of set bits.
#[inline(always)]
pub fn nth_bit(bits: u64, rank: u32) -> u32 {
    let (mut bits, mut rank, mut place) = (bits, rank, 0);
    let mut width = 32;
    while width != 0 {
        let low = (bits & ((1 << width) - 1)).count_ones();
        // All ones if the bit is in the upper half.
        let upper = less(rank, low).wrapping_sub(1);
        rank -= low & upper;
        place += width & upper;
        bits >>= width & upper;
        width /= 2;
    }
    place
}

/// 1 if `a < b`, for numbers below 2^31, without a branch: the verifier would follow both sides of each.
#[inline(always)]
pub fn less(a: u32, b: u32) -> u32 {
    a.wrapping_sub(b) >> 31
}

/// 1 if `a == b` for numbers below 2^31, likewise.
#[inline(always)]
pub fn same(a: u32, b: u32) -> u32 {
    (a ^ b).wrapping_sub(1) >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nth_bit_counts() {
        for bits in [
            1,
            0x8000_0000_0000_0000,
            0x5555_5555_5555_5555,
            u64::MAX,
            0xf0f0_0001_8000_ff00,
        ] {
            let places: Vec<u32> = (0..64).filter(|place| bits >> place & 1 == 1).collect();
            for (rank, place) in places.iter().enumerate() {
                assert_eq!(nth_bit(bits, rank as u32), *place, "{bits:#x}");
            }
        }
    }

    #[test]
    fn lowest_is_trailing_zeros() {
        for shift in 0..64 {
            assert_eq!(lowest(1 << shift), shift);
            assert_eq!(lowest(u64::MAX << shift), shift);
        }
        assert_eq!(lowest(0), 64);
    }
}

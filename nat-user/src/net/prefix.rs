//! An IPv4 network, as in "192.0.2.0/24".

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 network: the host bits of `addr` are always zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    addr: Ipv4Addr,
    len: u8,
}

impl Prefix {
    /// The network of `addr`; host bits are cleared, lengths above 32 count as 32.
    pub fn new(addr: Ipv4Addr, len: u8) -> Self {
        let len = len.min(32);
        Self {
            addr: Ipv4Addr::from_bits(addr.to_bits() & mask(len)),
            len,
        }
    }

    pub fn host(addr: Ipv4Addr) -> Self {
        Self { addr, len: 32 }
    }

    pub fn addr(&self) -> Ipv4Addr {
        self.addr
    }

    #[expect(clippy::len_without_is_empty, reason = "a prefix length is not a number of elements")]
    pub fn len(&self) -> u8 {
        self.len
    }

    /// 0.0.0.0/0.
    pub fn is_default(&self) -> bool {
        self.len == 0
    }

    pub fn contains(&self, addr: Ipv4Addr) -> bool {
        addr.to_bits() & mask(self.len) == self.addr.to_bits()
    }

    /// Some address belongs to both.
    pub fn overlaps(&self, other: &Prefix) -> bool {
        let shorter = mask(self.len.min(other.len));
        self.addr.to_bits() & shorter == other.addr.to_bits() & shorter
    }
}

fn mask(len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    /// "a.b.c.d/len" or a bare address (length 32). Host bits must be zero.
    fn from_str(s: &str) -> Result<Self, PrefixError> {
        let (addr, len) = s.split_once('/').unwrap_or((s, "32"));
        let bad = || PrefixError::Syntax(s.to_owned());
        let addr: Ipv4Addr = addr.parse().map_err(|_| bad())?;
        let len: u8 = len.parse().map_err(|_| bad())?;
        if len > 32 {
            return Err(bad());
        }
        let prefix = Prefix::new(addr, len);
        if prefix.addr != addr {
            return Err(PrefixError::HostBits {
                given: s.to_owned(),
                network: prefix,
            });
        }
        Ok(prefix)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    #[error("\"{0}\" is no IPv4 network: write it like 192.0.2.0/24")]
    Syntax(String),
    #[error("\"{given}\" has bits set behind its prefix length: write {network}")]
    HostBits { given: String, network: Prefix },
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn p(s: &str) -> Prefix {
        s.parse().unwrap()
    }

    #[test]
    fn parses_and_prints() {
        for s in ["0.0.0.0/0", "10.0.0.0/8", "192.0.2.128/25", "192.0.2.1/32"] {
            assert_eq!(p(s).to_string(), s);
        }
        assert_eq!(p("192.0.2.1"), Prefix::host(Ipv4Addr::new(192, 0, 2, 1)));
        for s in ["", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/", "::/0", "10.0.0.0/-1"] {
            assert!(matches!(s.parse::<Prefix>(), Err(PrefixError::Syntax(_))), "{s}");
        }
        let error = "10.0.0.1/8".parse::<Prefix>().unwrap_err();
        assert!(error.to_string().contains("write 10.0.0.0/8"), "{error}");
    }

    #[test]
    fn overlap_table() {
        for (a, b, overlap) in [
            ("10.0.0.0/8", "10.1.0.0/16", true),
            ("10.0.0.0/8", "11.0.0.0/8", false),
            ("0.0.0.0/0", "203.0.113.7/32", true),
            ("192.0.2.0/25", "192.0.2.128/25", false),
            ("192.0.2.0/24", "192.0.2.0/24", true),
        ] {
            assert_eq!(p(a).overlaps(&p(b)), overlap, "{a} {b}");
            assert_eq!(p(b).overlaps(&p(a)), overlap, "{b} {a}");
        }
    }

    proptest! {
        #[test]
        fn overlap_means_one_contains_the_other(a: u32, b: u32, la in 0u8..=32, lb in 0u8..=32) {
            let (a, b) = (Prefix::new(a.into(), la), Prefix::new(b.into(), lb));
            prop_assert_eq!(a.overlaps(&b), a.contains(b.addr()) || b.contains(a.addr()));
        }
    }
}

//! The quantities that people write in the config and on the command line: prefixes, port ranges,
//! protocols, rates and durations, each with one parser whose error names the remedy.

use std::{fmt, net::Ipv4Addr, ops::RangeInclusive, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// An IPv4 prefix whose host bits are zero, written `192.0.2.0/24` (a bare address means `/32`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// The first address of the prefix, host order as `Ipv4Addr` has it.
    pub addr: Ipv4Addr,
    /// Length in bits, 0 to 32.
    pub len: u8,
}

impl Prefix {
    /// Everything: `0.0.0.0/0`.
    pub const ALL: Prefix = Prefix {
        addr: Ipv4Addr::UNSPECIFIED,
        len: 0,
    };

    /// A prefix of one address.
    pub const fn host(addr: Ipv4Addr) -> Prefix {
        Prefix { addr, len: 32 }
    }

    /// The prefix of length `len` that `addr` lies in; lengths above 32 count as 32.
    pub fn new(addr: Ipv4Addr, len: u8) -> Prefix {
        let len = len.min(32);
        Prefix {
            addr: Ipv4Addr::from(u32::from(addr) & mask(len)),
            len,
        }
    }

    /// The prefix of length `len` (0 to 32) that `addr` lies in; `None` if `len` is more than 32.
    pub fn containing(addr: Ipv4Addr, len: u8) -> Option<Prefix> {
        (len <= 32).then(|| Prefix::new(addr, len))
    }

    /// The netmask as a number in host order.
    pub fn mask(&self) -> u32 {
        mask(self.len)
    }

    /// How many addresses the prefix has.
    pub fn size(&self) -> u64 {
        1 << (32 - self.len)
    }

    /// The highest address of the prefix.
    pub fn last(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.addr) | !self.mask())
    }

    /// Whether `addr` lies in the prefix.
    pub fn contains(&self, addr: Ipv4Addr) -> bool {
        u32::from(addr) & self.mask() == u32::from(self.addr)
    }

    /// Whether the two prefixes have an address in common.
    pub fn overlaps(&self, other: &Prefix) -> bool {
        self.contains(other.addr) || other.contains(self.addr)
    }

    /// All addresses in order, network and broadcast addresses included.
    pub fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        (u32::from(self.addr)..=u32::from(self.last())).map(Ipv4Addr::from)
    }
}

fn mask(len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no IPv4 prefix; write it like 192.0.2.0/24 or 192.0.2.1");
        let (addr, len) = text.split_once('/').unwrap_or((text, "32"));
        let addr: Ipv4Addr = addr.parse().map_err(|_| wrong())?;
        let len: u8 = decimal(len).ok_or_else(wrong)?;
        let prefix = Prefix::containing(addr, len).ok_or_else(wrong)?;
        if prefix.addr != addr {
            return Err(format!(
                "`{text}` has bits set behind the prefix length; write {prefix} or {addr}/32"
            ));
        }
        Ok(prefix)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

/// Ports from `first` to `last`, both included, written `8080` or `8000-8010`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// The lowest port.
    pub first: u16,
    /// The highest port; not below `first`.
    pub last: u16,
}

impl PortRange {
    /// Every port, as a rule has it that says nothing about ports.
    pub const ALL: PortRange = PortRange {
        first: 0,
        last: u16::MAX,
    };

    /// A range of one port.
    pub const fn one(port: u16) -> PortRange {
        PortRange {
            first: port,
            last: port,
        }
    }

    /// How many ports the range has (1 to 65536).
    pub fn count(&self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }

    /// Whether `port` lies in the range.
    pub fn contains(&self, port: u16) -> bool {
        self.ports().contains(&port)
    }

    /// Whether the two ranges have a port in common.
    pub fn overlaps(&self, other: &PortRange) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// The ports in order.
    pub fn ports(&self) -> RangeInclusive<u16> {
        self.first..=self.last
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no port or port range; write it like 8080 or 8000-8010");
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let first = decimal(first.trim()).ok_or_else(wrong)?;
        let last = decimal(last.trim()).ok_or_else(wrong)?;
        if first > last {
            return Err(format!("the port range `{text}` runs backwards; write {last}-{first}"));
        }
        Ok(PortRange { first, last })
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// Digits only: `u16::from_str` would take "+80", which nobody means.
fn decimal<T: FromStr>(text: &str) -> Option<T> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        text.parse().ok()
    } else {
        None
    }
}

/// A protocol that is translated. For ICMP a "port" is the query identifier (RFC 5508 section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    Tcp,
    Udp,
    Icmp,
}

impl Proto {
    /// All of them, in the order in which tables list them.
    pub const ALL: [Proto; 3] = [Proto::Tcp, Proto::Udp, Proto::Icmp];

    /// The lower-case name, as in JSON and in the config.
    pub const fn name(self) -> &'static str {
        match self {
            Proto::Tcp => "tcp",
            Proto::Udp => "udp",
            Proto::Icmp => "icmp",
        }
    }

    /// The number in the IPv4 header (IANA protocol numbers).
    pub const fn number(self) -> u8 {
        match self {
            Proto::Tcp => 6,
            Proto::Udp => 17,
            Proto::Icmp => 1,
        }
    }
}

impl FromStr for Proto {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Proto::ALL
            .into_iter()
            .find(|proto| proto.name().eq_ignore_ascii_case(text))
            .ok_or_else(|| format!("`{text}` is no protocol that is translated; write tcp, udp or icmp"))
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// So many events per stretch of time, written `100/s`, `30/m` or `10/h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Events allowed in `per`; at least 1, at most 1,000,000.
    pub count: u32,
    /// One second, one minute or one hour.
    pub per: Duration,
}

impl Rate {
    /// `count` per second.
    pub const fn per_second(count: u32) -> Rate {
        Rate {
            count,
            per: Duration::from_secs(1),
        }
    }

    /// The time that one event takes from the budget, in nanoseconds (never 0).
    pub fn interval_ns(&self) -> u64 {
        self.per.as_nanos() as u64 / u64::from(self.count)
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is no rate; write a number from 1 to 1000000 and a unit, like 100/s, 30/m or 10/h");
        let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
        let count: u32 = decimal(count.trim()).ok_or_else(wrong)?;
        let per = match unit.trim() {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(wrong()),
        };
        if !(1..=1_000_000).contains(&count) {
            return Err(wrong());
        }
        Ok(Rate {
            count,
            per: Duration::from_secs(per),
        })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per.as_secs() {
            1 => 's',
            60 => 'm',
            _ => 'h',
        };
        write!(f, "{}/{unit}", self.count)
    }
}

/// A duration with its unit: `300s`, `5m`, `2h4m`, `500ms`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("`{text}` is no duration ({error}); write it like 300s, 5m or 2h4m"))
}

/// The same notation for output: `2h 4m`.
pub fn show_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prefixes() {
        let net: Prefix = "192.0.2.128/25".parse().unwrap();
        assert!(net.contains("192.0.2.255".parse().unwrap()));
        assert!(!net.contains("192.0.2.127".parse().unwrap()));
        assert_eq!((net.size(), net.last().to_string().as_str()), (128, "192.0.2.255"));
        assert_eq!(net.addresses().count(), 128);
        assert!(net.overlaps(&"192.0.2.0/24".parse().unwrap()) && net.overlaps(&Prefix::ALL));
        assert!(!net.overlaps(&"192.0.2.0/25".parse().unwrap()));
        assert_eq!(
            "10.0.0.1".parse::<Prefix>().unwrap(),
            Prefix::host("10.0.0.1".parse().unwrap())
        );
        assert_eq!((Prefix::ALL.size(), Prefix::ALL.mask()), (1 << 32, 0));
        for wrong in [
            "",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0/8",
            "::/0",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
        ] {
            assert!(
                wrong.parse::<Prefix>().unwrap_err().contains("write it like"),
                "{wrong}"
            );
        }
        assert!("10.0.0.1/8".parse::<Prefix>().unwrap_err().contains("write 10.0.0.0/8"));
    }

    #[test]
    fn ports_protocols_and_rates() {
        let range: PortRange = "8000-8010".parse().unwrap();
        assert_eq!((range.first, range.last, range.count()), (8000, 8010, 11));
        assert!(range.contains(8010) && !range.contains(8011));
        assert!(range.overlaps(&PortRange::one(8000)) && !range.overlaps(&PortRange::one(7999)));
        assert_eq!(PortRange::ALL.count(), 65536);
        for wrong in ["", "-", "80-", "65536", "80,81", "+80", "a"] {
            assert!(
                wrong.parse::<PortRange>().unwrap_err().contains("write it like"),
                "{wrong}"
            );
        }
        assert!("9-8".parse::<PortRange>().unwrap_err().contains("write 8-9"));
        assert_eq!("TCP".parse::<Proto>().unwrap(), Proto::Tcp);
        assert!("sctp".parse::<Proto>().unwrap_err().contains("write tcp, udp or icmp"));
        assert_eq!("100/s".parse::<Rate>().unwrap().interval_ns(), 10_000_000);
        assert_eq!("30/m".parse::<Rate>().unwrap().to_string(), "30/m");
        for wrong in ["", "100", "0/s", "1000001/s", "1/d", "-1/s"] {
            assert!(wrong.parse::<Rate>().unwrap_err().contains("write a number"), "{wrong}");
        }
        assert_eq!(parse_duration("2h4m").unwrap(), Duration::from_secs(7440));
        assert!(parse_duration("300").unwrap_err().contains("write it like"));
    }

    proptest! {
        #[test]
        fn display_and_parse_are_inverse(addr: u32, len in 0u8..=32, a: u16, b: u16, count in 1u32..=1_000_000) {
            let prefix = Prefix::containing(addr.into(), len).unwrap();
            prop_assert_eq!(prefix.to_string().parse::<Prefix>().unwrap(), prefix);
            let range = PortRange { first: a.min(b), last: a.max(b) };
            prop_assert_eq!(range.to_string().parse::<PortRange>().unwrap(), range);
            let rate = Rate::per_second(count);
            prop_assert_eq!(rate.to_string().parse::<Rate>().unwrap(), rate);
        }

        #[test]
        fn any_text_is_an_error_or_a_value(text in "\\PC{0,20}") {
            let _ = (text.parse::<Prefix>(), text.parse::<PortRange>(), text.parse::<Rate>(), parse_duration(&text));
        }
    }
}

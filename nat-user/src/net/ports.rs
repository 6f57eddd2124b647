//! Sets of transport ports, and the ports that the router keeps for itself.

use std::fmt;
use std::io;
use std::ops::RangeInclusive;

use super::sockets::{self, Table};

/// A set of ports 0–65535.
#[derive(Clone, PartialEq, Eq)]
pub struct PortSet(Box<[u64; 1024]>);

impl PortSet {
    pub fn new() -> Self {
        Self(Box::new([0; 1024]))
    }

    pub fn insert(&mut self, port: u16) {
        self.0[usize::from(port >> 6)] |= 1 << (port & 63);
    }

    pub fn contains(&self, port: u16) -> bool {
        self.0[usize::from(port >> 6)] & 1 << (port & 63) != 0
    }

    pub fn insert_range(&mut self, ports: RangeInclusive<u16>) {
        ports.for_each(|port| self.insert(port));
    }

    /// Adds every port of the other set.
    pub fn union(&mut self, other: &PortSet) {
        self.0
            .iter_mut()
            .zip(other.0.iter())
            .for_each(|(mine, theirs)| *mine |= theirs);
    }

    /// How many ports are in the set.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// How many ports of `range` are in the set.
    pub fn count_in(&self, range: RangeInclusive<u16>) -> usize {
        range.filter(|port| self.contains(*port)).count()
    }

    /// The set as ascending ranges that neither touch nor overlap.
    pub fn ranges(&self) -> impl Iterator<Item = RangeInclusive<u16>> + '_ {
        let mut next = 0u32;
        let find = move |from: u32, wanted: bool| (from..=65535).find(|port| self.contains(*port as u16) == wanted);
        std::iter::from_fn(move || {
            let first = find(next, true)?;
            next = find(first, false).unwrap_or(65536);
            Some(first as u16..=(next - 1) as u16)
        })
    }
}

impl Default for PortSet {
    fn default() -> Self {
        Self::new()
    }
}

impl FromIterator<u16> for PortSet {
    fn from_iter<I: IntoIterator<Item = u16>>(ports: I) -> Self {
        let mut set = Self::new();
        ports.into_iter().for_each(|port| set.insert(port));
        set
    }
}

/// "1-5,7"; nothing for the empty set. The kernel's own notation for port lists.
impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.ranges().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            match (range.start(), range.end()) {
                (a, b) if a == b => write!(f, "{comma}{a}")?,
                (a, b) => write!(f, "{comma}{a}-{b}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortSet({self})")
    }
}

impl std::str::FromStr for PortSet {
    type Err = String;

    /// Reads what Display writes; white space around it is allowed.
    fn from_str(s: &str) -> Result<Self, String> {
        let mut set = Self::new();
        for part in s.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let bad = |_| format!("\"{part}\" is no port or range of ports like 5000-5010");
            let (first, last): (u16, u16) = (first.parse().map_err(bad)?, last.parse().map_err(bad)?);
            if first > last {
                return Err(format!("the range {part} ends before it begins"));
            }
            set.insert_range(first..=last);
        }
        Ok(set)
    }
}

/// The ports that the router's own programs use or may be given, in the network namespace of the calling thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnPorts {
    /// net.ipv4.ip_local_port_range: where the kernel takes the source ports of the router's own connections.
    pub local_range: RangeInclusive<u16>,
    /// net.ipv4.ip_local_reserved_ports: what the administrator keeps the kernel from taking.
    pub reserved: PortSet,
    /// TCP sockets that listen.
    pub tcp: PortSet,
    /// UDP sockets bound to a port.
    pub udp: PortSet,
}

impl OwnPorts {
    /// Reads sysctls and socket tables.
    ///
    /// # Errors
    /// With the path of the file in /proc that could not be read or understood.
    pub fn gather() -> io::Result<Self> {
        Ok(Self {
            local_range: sockets::local_port_range()?,
            reserved: sockets::local_reserved_ports()?,
            tcp: sockets::ports(Table::TcpListening)?,
            udp: sockets::ports(Table::Udp)?,
        })
    }

    /// All of them together: what the NAT leaves alone by default, whatever the protocol.
    pub fn all(&self) -> PortSet {
        let mut all = self.reserved.clone();
        all.insert_range(self.local_range.clone());
        all.union(&self.tcp);
        all.union(&self.udp);
        all
    }
}

/// The ports of `nat_range` that the NAT must not hand out because the router itself uses them.
pub fn excluded_ports(own: &OwnPorts, nat_range: RangeInclusive<u16>) -> PortSet {
    let all = own.all();
    nat_range.filter(|port| all.contains(*port)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn prints_ranges() {
        let set = |s: &str| s.parse::<PortSet>().unwrap();
        for s in ["", "7", "1-5,7", "0", "65535", "0-65535", "63-64,127,65534-65535"] {
            assert_eq!(set(s).to_string(), s);
        }
        assert_eq!(set(" 5,1-3, 4\n").to_string(), "1-5");
        assert_eq!(set("0-65535").len(), 65536);
        for s in ["x", "5-1", "65536", "-", "1-", "1--2"] {
            assert!(s.parse::<PortSet>().is_err(), "{s}");
        }
    }

    #[test]
    fn only_ports_of_the_range_are_excluded() {
        let own = OwnPorts {
            local_range: 32768..=60999,
            reserved: "5000-5002".parse().unwrap(),
            tcp: "22,8080".parse().unwrap(),
            udp: "53,5353".parse().unwrap(),
        };
        let excluded = excluded_ports(&own, 1024..=40000);
        assert_eq!(excluded.to_string(), "5000-5002,5353,8080,32768-40000");
    }

    proptest! {
        #[test]
        fn is_a_set(ports in proptest::collection::vec(any::<u16>(), 0..200)) {
            let model: BTreeSet<u16> = ports.iter().copied().collect();
            let set: PortSet = ports.into_iter().collect();
            prop_assert_eq!(set.len(), model.len());
            prop_assert_eq!(set.is_empty(), model.is_empty());
            let listed: Vec<u16> = set.ranges().flatten().collect();
            prop_assert_eq!(listed, model.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(set.to_string().parse::<PortSet>().unwrap(), set);
        }
    }
}

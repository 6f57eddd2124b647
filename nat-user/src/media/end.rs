//! Where a party is, as far as its media is concerned.

use std::net::{IpAddr, Ipv4Addr};

use crate::config::Prefix;

/// What signalling tells about a party.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The address that its messages come from, or go to, as we see it.
    pub signalling: IpAddr,
    /// Its messages say that it is behind a NAT: what is written in them is not where they come from.
    pub behind_nat: bool,
    /// It speaks with us itself: no other proxy is between.
    pub device: bool,
    /// It is a peer that is believed about where its media is (`sip.trusted`).
    pub trusted: bool,
}

/// Where a party is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// At a public address, with no NAT between.
    Public,
    /// At a private address that is not inside of our NAT, with no NAT between.
    Private,
    /// Inside of our own NAT.
    Inside,
    /// Behind a NAT of others, which has this address.
    Behind(Ipv4Addr),
    /// Somewhere that its signalling does not tell.
    Unknown,
}

impl End {
    /// Finds out. `media`: the address in its session description; `None`: there is none yet, or it is no IPv4 address. `inside`: the
    /// prefixes inside of our NAT; empty if there is none.
    pub fn of(reach: &Reach, media: Option<Ipv4Addr>, inside: &[Prefix]) -> End {
        let IpAddr::V4(signalling) = reach.signalling.to_canonical() else {
            return match media {
                Some(media) if is_public(media) && !is_inside(media, inside) => End::Public,
                _ => End::Unknown,
            };
        };
        if reach.behind_nat && reach.device {
            return End::Behind(signalling);
        }
        let media = media.unwrap_or(signalling);
        // Nobody opens a hole to a host that is not itself.
        let own = media == signalling || reach.trusted;
        match (is_inside(media, inside), is_inside(signalling, inside)) {
            (true, true) if own => return End::Inside,
            (true, _) => return End::Unknown,
            (false, _) => {}
        }
        if is_public(media) {
            End::Public
        } else if own || (!reach.device && !is_public(signalling)) {
            End::Private
        } else if reach.device && is_public(signalling) {
            End::Behind(signalling)
        } else {
            End::Unknown
        }
    }

    /// Whether packets to the address in its session description reach it.
    pub fn reachable(self) -> bool {
        matches!(self, End::Public | End::Private | End::Inside)
    }
}

fn is_inside(address: Ipv4Addr, inside: &[Prefix]) -> bool {
    inside.iter().any(|prefix| prefix.contains(address))
}

/// Whether an address is one of the Internet, as far as NATs are concerned: not of RFC 1918, RFC 6598 or a link (RFC 3927). Addresses for
/// documentation count as public.
pub fn is_public(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    let shared = first == 100 && second & 0xc0 == 64;
    !(address.is_private() || shared || address.is_link_local() || is_unusable(address) || address.is_multicast())
}

/// Whether no host can have this address: loopback, "this network" and class E with the broadcast address. 0.0.0.0 is among them; in a
/// description it means hold.
pub fn is_unusable(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    first == 0 || first == 127 || first >= 240
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Device with this source, not behind a NAT by what its messages say.
    fn device(signalling: &str) -> Reach {
        Reach {
            signalling: signalling.parse().unwrap(),
            behind_nat: false,
            device: true,
            trusted: false,
        }
    }

    #[test]
    fn where_a_party_is() {
        let behind = |source| Reach {
            behind_nat: true,
            ..device(source)
        };
        let proxy = |source| Reach {
            device: false,
            ..device(source)
        };
        let trusted = |source| Reach {
            trusted: true,
            ..device(source)
        };
        let nat = End::Behind([198, 51, 100, 7].into());
        for (reach, media, expected) in [
            (device("198.51.100.7"), "198.51.100.7", End::Public),
            (device("198.51.100.7"), "198.51.100.8", End::Public),
            (device("198.51.100.7"), "", End::Public),
            (device("198.51.100.7"), "192.168.7.7", nat),
            (device("198.51.100.7"), "100.64.0.1", nat),
            (behind("198.51.100.7"), "10.0.0.1", nat),
            (behind("198.51.100.7"), "", nat),
            // It has asked a STUN server, which proves nothing about filters.
            (behind("198.51.100.7"), "198.51.100.7", nat),
            (device("10.0.0.5"), "10.0.0.5", End::Private),
            (device("10.0.0.5"), "10.0.0.6", End::Unknown),
            (proxy("10.0.0.5"), "10.0.0.6", End::Private),
            (proxy("198.51.100.7"), "203.0.113.9", End::Public),
            (proxy("198.51.100.7"), "10.0.0.6", End::Unknown),
            (proxy("198.51.100.7"), "", End::Public),
            (device("192.168.1.10"), "192.168.1.10", End::Inside),
            (device("192.168.1.10"), "", End::Inside),
            (device("192.168.1.10"), "192.168.1.11", End::Unknown),
            (proxy("192.168.1.10"), "192.168.1.11", End::Unknown),
            (trusted("192.168.1.10"), "192.168.1.11", End::Inside),
            // A NAT inside of ours.
            (
                behind("192.168.1.10"),
                "10.0.0.1",
                End::Behind([192, 168, 1, 10].into()),
            ),
            (device("198.51.100.7"), "192.168.1.10", End::Unknown),
            (device("2001:db8::1"), "198.51.100.7", End::Public),
            (device("2001:db8::1"), "192.168.1.10", End::Unknown),
            (device("::ffff:198.51.100.7"), "", End::Public),
        ] {
            let end = End::of(&reach, media.parse().ok(), &["192.168.1.0/24".parse().unwrap()]);
            assert_eq!(end, expected, "{reach:?} {media}");
        }
    }

    #[test]
    fn addresses_of_no_host() {
        for unusable in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.0.1",
            "240.0.0.1",
            "255.255.255.255",
        ] {
            let address = unusable.parse().unwrap();
            assert!(is_unusable(address) && !is_public(address), "{unusable}");
        }
        assert!(!is_public([224, 0, 0, 1].into()) && !is_unusable([224, 0, 0, 1].into()));
    }
}

//! When media goes through us: decided for each stream of a call from where its two ends are.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::{
    command::Leg,
    end::{End, Reach, is_public},
    sdp::{Endpoint, edit::IceMode},
};
use crate::config::{Prefix, sip::Media};

/// Which calls go through us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Anchor {
    /// Those that need it: see [`Policy::decide`].
    Auto,
    /// All, through the relay.
    Always,
    /// None: session descriptions are never changed.
    Never,
}

/// What becomes of calls between two ends inside of the same NAT, ours or somebody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SameNat {
    /// Each end is reached from outside: behind a NAT of others by the relay, inside of ours through two pinholes (hairpinning, RFC 4787 REQ-9).
    Anchor,
    /// Media goes from one to the other inside. Right where all hosts behind a NAT reach each other, which nobody outside can know.
    Direct,
}

/// `[sip.media]`, as far as it decides, and what it decides from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub anchor: Anchor,
    pub same_nat: SameNat,
    pub ice: IceMode,
    /// Length of the prefix around the signalling source that media may come from, in bits.
    pub gate: u8,
    /// m= lines of one description.
    pub max_streams: usize,
    /// What is inside of our NAT; empty if there is none.
    pub inside: Vec<Prefix>,
}

/// What is done for a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing: the ends reach each other.
    Direct,
    /// Each end inside of our NAT gets a binding, whose outside address the other one is told.
    Pinhole,
    /// Both ends send to us.
    Relay,
}

impl Policy {
    /// By the configuration. `inside`: what is inside of our NAT ([`Media::inside`]).
    pub fn new(media: &Media, inside: Vec<Prefix>) -> Policy {
        Policy {
            anchor: media.anchor,
            same_nat: media.same_nat,
            ice: media.ice,
            gate: media.gate_prefix,
            max_streams: media.max_streams as usize,
            inside,
        }
    }

    /// What is done for a stream between two ends.
    pub fn decide(&self, ends: [End; 2]) -> Plan {
        match self.anchor {
            Anchor::Never => return Plan::Direct,
            Anchor::Always => return Plan::Relay,
            Anchor::Auto => {}
        }
        let direct = self.same_nat == SameNat::Direct;
        match ends {
            [End::Public, End::Public] | [End::Private, End::Private] => Plan::Direct,
            [End::Inside, End::Inside] if direct => Plan::Direct,
            [End::Inside, End::Inside | End::Public] | [End::Public, End::Inside] => Plan::Pinhole,
            [End::Behind(one), End::Behind(other)] if direct && one == other => Plan::Direct,
            _ => Plan::Relay,
        }
    }

    /// What a leg of the relay lets in for a party: from its address in the session description if that is where it is, else from the
    /// source of its signalling (RFC 7362 section 4). Packets that come before it has sent any go to `endpoint`, if that is where it is.
    pub fn leg(&self, end: End, reach: &Reach, endpoint: Option<Endpoint>) -> Leg {
        let known = endpoint.filter(|endpoint| end.reachable() && !endpoint.address.is_unspecified());
        let gate = match (known, reach.signalling.to_canonical()) {
            (Some(endpoint), _) => Some(Prefix::host(endpoint.address)),
            (None, IpAddr::V4(signalling)) => Some(Prefix::new(signalling, self.width(signalling))),
            (None, IpAddr::V6(_)) => None,
        };
        Leg { gate, fallback: known }
    }

    /// Private addresses are those of single devices: only a NAT in the Internet may have several.
    fn width(&self, signalling: Ipv4Addr) -> u8 {
        if is_public(signalling) { self.gate } else { 32 }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::media) fn policy() -> Policy {
        Policy {
            anchor: Anchor::Auto,
            same_nat: SameNat::Anchor,
            ice: IceMode::Replace,
            gate: 32,
            max_streams: 16,
            inside: vec!["192.168.1.0/24".parse().unwrap()],
        }
    }

    #[test]
    fn when_media_goes_through_us() {
        use End::*;
        let [a, b] = [Behind([198, 51, 100, 1].into()), Behind([198, 51, 100, 2].into())];
        let direct = Policy {
            same_nat: SameNat::Direct,
            ..policy()
        };
        for (ends, by_default, if_direct) in [
            ([Public, Public], Plan::Direct, Plan::Direct),
            ([Private, Private], Plan::Direct, Plan::Direct),
            ([Public, Private], Plan::Relay, Plan::Relay),
            ([Inside, Public], Plan::Pinhole, Plan::Pinhole),
            ([Inside, Inside], Plan::Pinhole, Plan::Direct),
            ([Inside, Private], Plan::Relay, Plan::Relay),
            ([Inside, a], Plan::Relay, Plan::Relay),
            ([Inside, Unknown], Plan::Relay, Plan::Relay),
            ([a, Public], Plan::Relay, Plan::Relay),
            ([a, Private], Plan::Relay, Plan::Relay),
            ([a, b], Plan::Relay, Plan::Relay),
            ([a, a], Plan::Relay, Plan::Direct),
            ([Unknown, Public], Plan::Relay, Plan::Relay),
            ([Unknown, Unknown], Plan::Relay, Plan::Relay),
        ] {
            let turned = [ends[1], ends[0]];
            for ends in [ends, turned] {
                assert_eq!(policy().decide(ends), by_default, "{ends:?}");
                assert_eq!(direct.decide(ends), if_direct, "{ends:?}");
                let of = |anchor| Policy { anchor, ..policy() }.decide(ends);
                assert_eq!((of(Anchor::Always), of(Anchor::Never)), (Plan::Relay, Plan::Direct));
            }
        }
    }

    #[test]
    fn gates() {
        let reach = |signalling: &str| Reach {
            signalling: signalling.parse().unwrap(),
            behind_nat: true,
            device: true,
            trusted: false,
        };
        let endpoint = |address: [u8; 4]| {
            Some(Endpoint {
                address: address.into(),
                port: 4000,
                rtcp: Some(4001),
            })
        };
        let gate = |text: &str| Some(text.parse().unwrap());
        let nat = End::Behind([198, 51, 100, 7].into());
        let wide = Policy { gate: 24, ..policy() };
        for (policy, end, signalling, sdp, expected) in [
            (
                &policy(),
                nat,
                "198.51.100.7",
                endpoint([10, 0, 0, 1]),
                (gate("198.51.100.7"), None),
            ),
            (
                &wide,
                nat,
                "198.51.100.7",
                endpoint([10, 0, 0, 1]),
                (gate("198.51.100.0/24"), None),
            ),
            (
                &wide,
                nat,
                "10.9.9.9",
                endpoint([10, 0, 0, 1]),
                (gate("10.9.9.9"), None),
            ),
            (
                &wide,
                End::Public,
                "198.51.100.7",
                endpoint([203, 0, 113, 9]),
                (gate("203.0.113.9"), endpoint([203, 0, 113, 9])),
            ),
            (
                &policy(),
                End::Public,
                "198.51.100.7",
                endpoint([0; 4]),
                (gate("198.51.100.7"), None),
            ),
            (
                &policy(),
                End::Unknown,
                "198.51.100.7",
                None,
                (gate("198.51.100.7"), None),
            ),
            (
                &policy(),
                End::Unknown,
                "2001:db8::1",
                endpoint([10, 0, 0, 1]),
                (None, None),
            ),
        ] {
            let leg = policy.leg(end, &reach(signalling), sdp);
            assert_eq!((leg.gate, leg.fallback), expected, "{end:?} {signalling}");
        }
    }
}

//! Allow and deny rules for new flows. The first rule that matches decides.

use crate::flow::{Endpoint, Proto, Side};
use crate::hash::{less, same};

/// Rules in one version of the policy.
pub const MAX_RULES: u32 = 64;

/// The rule lets the flow pass.
pub const ACTION_ALLOW: u8 = 1;
/// The rule refuses the flow.
pub const ACTION_DENY: u8 = 2;
/// Flows that begin inside.
pub const DIRECTION_OUT: u8 = 1;
/// Flows that begin outside.
pub const DIRECTION_IN: u8 = 2;
/// The rule is for every protocol.
pub const ANY_PROTOCOL: u8 = 0xff;

/// One rule. Source and destination are those of the flow's first packet with inside addresses on the inside: what the
/// administrator sees in his own network. Hairpinned flows are flows that begin inside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Rule {
    /// Source prefix.
    pub source: u32,
    /// Its mask.
    pub source_mask: u32,
    /// Destination prefix.
    pub destination: u32,
    /// Its mask.
    pub destination_mask: u32,
    /// First and last source port; not looked at for ICMP.
    pub source_ports: [u16; 2],
    /// First and last destination port; not looked at for ICMP.
    pub destination_ports: [u16; 2],
    /// A [`Proto`] as a number, or `ANY_PROTOCOL`.
    pub protocol: u8,
    /// `DIRECTION_*` bits.
    pub direction: u8,
    /// `ACTION_*`.
    pub action: u8,
    /// Always zero.
    pub reserved: u8,
    /// Always zero.
    pub reserved2: u32,
}

const _: () = assert!(size_of::<Rule>() == 32);

impl Rule {
    /// Whether the rule speaks of this flow.
    ///
    /// Without branches: the verifier would follow every way through every rule.
    #[inline(always)]
    pub fn matches(&self, from: Side, proto: Proto, source: Endpoint, destination: Endpoint) -> bool {
        let direction = DIRECTION_OUT << from as u32;
        // Each term is zero if it holds.
        let outside = |ports: [u16; 2], port: u16| {
            let port = u32::from(port);
            less(port, u32::from(ports[0])) | less(u32::from(ports[1]), port)
        };
        let is_icmp = same(proto as u32, Proto::Icmp as u32);
        let other_direction = u32::from(self.direction & direction ^ direction);
        let rule_proto = u32::from(self.protocol);
        let other_proto = (same(rule_proto, proto as u32) | same(rule_proto, u32::from(ANY_PROTOCOL))) ^ 1;
        let other_ports = outside(self.source_ports, source.port) | outside(self.destination_ports, destination.port);
        let other_addresses = (source.addr ^ self.source) & self.source_mask
            | (destination.addr ^ self.destination) & self.destination_mask;
        (other_direction | other_proto | other_ports & (is_icmp ^ 1) | other_addresses) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule {
        source: 0x0a00_0000,
        source_mask: 0xff00_0000,
        destination: 0xcb00_7100,
        destination_mask: 0xffff_ff00,
        source_ports: [0, 65535],
        destination_ports: [80, 90],
        protocol: Proto::Tcp as u8,
        direction: DIRECTION_OUT,
        action: ACTION_DENY,
        reserved: 0,
        reserved2: 0,
    };

    fn matches(rule: Rule, from: Side, proto: Proto, port: u16) -> bool {
        rule.matches(
            from,
            proto,
            Endpoint::new(0x0a01_0203, 1000),
            Endpoint::new(0xcb00_7105, port),
        )
    }

    #[test]
    fn each_field_decides() {
        use Side::{Inside, Outside};
        for port in [80, 85, 90] {
            assert!(matches(RULE, Inside, Proto::Tcp, port));
        }
        for port in [0, 79, 91, 65535] {
            assert!(!matches(RULE, Inside, Proto::Tcp, port));
        }
        assert!(!matches(RULE, Outside, Proto::Tcp, 80));
        assert!(matches(
            Rule {
                direction: DIRECTION_IN | DIRECTION_OUT,
                ..RULE
            },
            Outside,
            Proto::Tcp,
            80
        ));
        for rule in Proto::ALL {
            for proto in Proto::ALL {
                assert_eq!(
                    matches(
                        Rule {
                            protocol: rule as u8,
                            ..RULE
                        },
                        Inside,
                        proto,
                        80
                    ),
                    rule == proto
                );
            }
        }
        assert!(matches(
            Rule {
                protocol: ANY_PROTOCOL,
                ..RULE
            },
            Inside,
            Proto::Udp,
            80
        ));
        assert!(
            matches(
                Rule {
                    protocol: ANY_PROTOCOL,
                    ..RULE
                },
                Inside,
                Proto::Icmp,
                0
            ),
            "ICMP has no ports"
        );
        assert!(!matches(
            Rule {
                source: 0x0b00_0000,
                ..RULE
            },
            Inside,
            Proto::Tcp,
            80
        ));
        assert!(!matches(
            Rule {
                destination: 0xcb00_7200,
                ..RULE
            },
            Inside,
            Proto::Tcp,
            80
        ));
        assert!(matches(
            Rule {
                destination: 0,
                destination_mask: 0,
                ..RULE
            },
            Inside,
            Proto::Tcp,
            80
        ));
    }
}

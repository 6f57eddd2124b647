//! Allow and deny rules for new flows. The first rule that matches decides.

use crate::flow::{Endpoint, Proto, Side};

/// Rules in one version of the policy.
pub const MAX_RULES: u32 = 256;

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
    #[inline(always)]
    pub fn matches(&self, from: Side, proto: Proto, source: Endpoint, destination: Endpoint) -> bool {
        let direction = match from {
            Side::Inside => DIRECTION_OUT,
            Side::Outside => DIRECTION_IN,
        };
        let in_range = |ports: [u16; 2], port: u16| ports[0] <= port && port <= ports[1];
        self.direction & direction != 0
            && (self.protocol == ANY_PROTOCOL || self.protocol == proto as u8)
            && (source.addr ^ self.source) & self.source_mask == 0
            && (destination.addr ^ self.destination) & self.destination_mask == 0
            && (proto == Proto::Icmp
                || (in_range(self.source_ports, source.port) && in_range(self.destination_ports, destination.port)))
    }
}

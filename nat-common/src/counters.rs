//! Why each packet went where it went. One reason per packet, counted once at the program's exit, with the same names in
//! the metrics and the command line.

/// What was counted for one reason: per CPU in the kernel, summed by the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes of whole frames.
    pub bytes: u64,
}

/// What happened to a packet in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Translated (or routed) and sent on.
    Forward,
    /// Left to the kernel, untouched.
    Pass,
    /// Dropped.
    Drop,
    /// Copied to the daemon's slow path and dropped.
    Punt,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident => $action:ident, $name:literal;)*) => {
        /// The reason of a verdict.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant),*];

            /// Name in metrics and tables.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$variant => $name),* }
            }

            /// What happens to a packet with this reason.
            pub fn action(self) -> Action {
                match self { $(Reason::$variant => Action::$action),* }
            }
        }
    };
}

reasons! {
    /// Translated from inside to outside.
    Outbound => Forward, "outbound";
    /// Translated from outside to inside.
    Inbound => Forward, "inbound";
    /// Inside host to inside host by way of an external address (RFC 4787 REQ-9).
    Hairpin => Forward, "hairpin";
    /// A fragment after the first, translated by what the first one said.
    Fragment => Forward, "fragment";
    /// An ICMP error and the packet it quotes, translated (RFC 5508 REQ-4, REQ-5).
    IcmpError => Forward, "icmp_error";
    /// From one leg of the media relay to its partner's peer.
    Relayed => Forward, "relayed";

    /// Not IPv4: IPv6, ARP, LLDP and so on.
    NotIpv4 => Pass, "not_ipv4";
    /// A VLAN tag that no configured interface has.
    ForeignVlan => Pass, "foreign_vlan";
    /// For the router itself.
    ToRouter => Pass, "to_router";
    /// Broadcast or multicast.
    Multicast => Pass, "multicast";
    /// To or from a destination that is routed untranslated (RFC 6888 REQ-6).
    Bypass => Pass, "bypass";
    /// Routed to an interface that is neither inside nor outside, or from inside to inside.
    Elsewhere => Pass, "elsewhere";
    /// To an external address, but no binding has the port: the router's own.
    Unbound => Pass, "unbound";
    /// No configuration loaded yet.
    NotConfigured => Drop, "not_configured";

    /// The packet ends before its headers do.
    Truncated => Drop, "truncated";
    /// IP version, header length or total length are wrong (RFC 1812 §5.2.2).
    BadHeader => Drop, "bad_header";
    /// The IP header checksum is wrong.
    BadChecksum => Drop, "bad_checksum";
    /// Source routing.
    SourceRoute => Drop, "source_route";
    /// A source address that no host can have (RFC 1812 §5.3.7).
    Martian => Drop, "martian";
    /// The source is not an inside host by configuration or routing.
    ForeignSource => Drop, "foreign_source";
    /// From inside, a protocol that cannot be translated.
    Protocol => Drop, "protocol";
    /// An ICMP message that is neither a query nor an error.
    IcmpType => Drop, "icmp_type";
    /// The checksum of an ICMP error or of the header it quotes is wrong (RFC 5508 REQ-3).
    IcmpChecksum => Drop, "icmp_checksum";
    /// An ICMP error that quotes a packet of no binding or session.
    IcmpUnmatched => Drop, "icmp_unmatched";
    /// From outside, no binding has this port.
    NoBinding => Drop, "no_binding";
    /// The filter of the binding does not admit the sender (RFC 4787 REQ-8).
    Filtered => Drop, "filtered";
    /// TCP without a session that is not a SYN.
    NoSession => Drop, "no_session";
    /// From outside straight to an inside address.
    OutsideToInside => Drop, "outside_to_inside";
    /// The outside has no address at the moment.
    NoAddress => Drop, "no_address";
    /// The index of bindings is full.
    IndexFull => Drop, "index_full";
    /// Two CPUs met at the same entry too often.
    Contended => Drop, "contended";
    /// The table of sessions is full.
    SessionsFull => Drop, "sessions_full";
    /// The table of hosts is full.
    HostsFull => Drop, "hosts_full";
    /// The table of fragmented datagrams is full.
    FragmentsFull => Drop, "fragments_full";
    /// Overlaps a fragment that was seen before.
    FragmentOverlap => Drop, "fragment_overlap";
    /// A first fragment too short for the ports (RFC 1858).
    FragmentTiny => Drop, "fragment_tiny";
    /// A datagram in more pieces out of order than are kept track of.
    FragmentScattered => Drop, "fragment_scattered";
    /// A fragment whose datagram was refused.
    FragmentRefused => Drop, "fragment_refused";
    /// No route to the destination.
    NoRoute => Drop, "no_route";
    /// The slow path's budget is used up.
    Budget => Drop, "budget";
    /// Hairpinning is switched off.
    HairpinOff => Drop, "hairpin_off";
    /// The kernel refused a change of the frame.
    Rewrite => Drop, "rewrite";
    /// Its way changed between the two stages of its translation.
    Overtaken => Drop, "overtaken";
    /// To a leg of the relay, from an address that its gate is closed for.
    RelayGate => Drop, "relay_gate";
    /// To a leg of the relay, but not what its media begins with (RFC 7983).
    RelayClass => Drop, "relay_class";
    /// To a leg of the relay that has learned another endpoint.
    RelayOther => Drop, "relay_other_source";
    /// From a leg of the relay whose partner knows no endpoint yet.
    PeerNotLatched => Drop, "peer_not_latched";

    /// The host has as many blocks as it may have (RFC 6888 REQ-4).
    Quota => Punt, "quota";
    /// The pool has no free block (RFC 6888 REQ-11).
    Exhausted => Punt, "exhausted";
    /// Refused by policy (RFC 5508 REQ-8).
    Policy => Punt, "policy";
    /// TTL expired.
    TtlExpired => Punt, "ttl_expired";
    /// Larger than the MTU of the way out.
    TooBig => Punt, "too_big";
    /// The routing table says unreachable, prohibited or nothing.
    Unreachable => Punt, "unreachable";
    /// The next hop's MAC address is not known yet.
    NoNeighbour => Punt, "no_neighbour";
    /// A fragment that came before the first one of its datagram.
    FragmentOrphan => Punt, "fragment_orphan";
}

/// Set in the result of a function that returns a number: its other bits are a [`Reason`]. (Half of a returned
/// `Result<u32, Reason>` is undefined, and the verifier objects to what happens to be in it.)
pub const REFUSED: u32 = 1 << 31;

/// The number that says `reason`.
#[inline(always)]
pub fn refused(reason: Reason) -> u32 {
    REFUSED | reason as u32
}

/// The reason in a number with `REFUSED` set: one of those that making a binding or a session can have.
#[inline(always)]
pub fn refusal(number: u32) -> Reason {
    const CAN_BE: [Reason; 10] = [
        Reason::NoAddress,
        Reason::IndexFull,
        Reason::Contended,
        Reason::SessionsFull,
        Reason::HostsFull,
        Reason::Filtered,
        Reason::NoSession,
        Reason::Quota,
        Reason::Exhausted,
        Reason::Policy,
    ];
    let mut found = Reason::Contended;
    let mut i = 0;
    while i < CAN_BE.len() {
        if number == refused(CAN_BE[i]) {
            found = CAN_BE[i];
        }
        i += 1;
    }
    found
}

/// How many reasons there are.
pub const REASONS: usize = Reason::ALL.len();
/// Size of the counter map: reasons for each side.
pub const COUNTERS: u32 = REASONS as u32 * 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_come_back() {
        for reason in [
            Reason::Quota,
            Reason::Exhausted,
            Reason::Policy,
            Reason::Filtered,
            Reason::SessionsFull,
        ] {
            assert_eq!(refusal(refused(reason)), reason);
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = Reason::ALL.iter().map(|r| r.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), REASONS);
    }
}

//! The default of every section, which is what `sipnat.sample.toml` shows.

use std::time::Duration;

use super::{
    Action, DEFAULT_PIN_DIR, DEFAULT_SOCKET, Daemon, Filtering, FilteringByProto, Fragments, Icmp, Lifetimes, MssClamp,
    Nat, Pap, Policy, PortRange, Ports, Rate, Refresh, Refuse, XdpMode,
};

impl Default for Daemon {
    fn default() -> Self {
        Daemon {
            socket: DEFAULT_SOCKET.into(),
            pin_dir: DEFAULT_PIN_DIR.into(),
            log: "info".into(),
        }
    }
}

impl Default for Pap {
    fn default() -> Self {
        Pap {
            store: Some("/var/lib/sipnat/mappings.redb".into()),
            min_lifetime: Duration::from_secs(120),
            max_lifetime: Duration::from_secs(86_400),
            mappings_per_host: 128,
            strict_nonce: false,
        }
    }
}

impl Default for Nat {
    /// Without interfaces, which is the one thing that has no default.
    fn default() -> Self {
        Nat {
            inside: Vec::new(),
            outside: Vec::new(),
            addresses: Vec::new(),
            inside_prefixes: Vec::new(),
            bypass: Vec::new(),
            xdp_mode: XdpMode::Auto,
            counting: false,
            hairpin: true,
            mss_clamp: MssClamp::Off,
            capacity: None,
            sessions: 262_144,
            destinations: 16_384,
            relay_legs: 20_000,
            staged_from: 200_000,
        }
    }
}

impl Default for Ports {
    fn default() -> Self {
        Ports {
            range: PortRange {
                first: 1024,
                last: 65535,
            },
            exclude: Vec::new(),
            exclude_local: true,
            block_size: 64,
            blocks_per_host: 32,
            rest: Duration::from_secs(120),
            hosts: 65_536,
        }
    }
}

impl Default for FilteringByProto {
    fn default() -> Self {
        FilteringByProto {
            udp: Filtering::EndpointIndependent,
            tcp: Filtering::AddressDependent,
            icmp: Filtering::AddressDependent,
        }
    }
}

impl Default for Lifetimes {
    fn default() -> Self {
        Lifetimes {
            udp: Duration::from_secs(300),
            tcp_established: Duration::from_secs(7440),
            tcp_opening: Duration::from_secs(240),
            tcp_closing: Duration::from_secs(240),
            icmp: Duration::from_secs(60),
            refresh: Refresh::Outbound,
            fragments: Duration::from_secs(15),
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            default: Action::Allow,
            refuse: Refuse::Icmp,
            rules: Vec::new(),
        }
    }
}

impl Default for Icmp {
    fn default() -> Self {
        Icmp {
            unreachable: true,
            time_exceeded: true,
            fragmentation_needed: true,
            rate: Rate::per_second(100),
            rate_per_source: Rate::per_second(10),
        }
    }
}

impl Default for Fragments {
    fn default() -> Self {
        Fragments {
            memory: 1_048_576,
            timeout: Duration::from_secs(2),
            datagrams: 4096,
        }
    }
}

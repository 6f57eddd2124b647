//! The default of every table of `[sip]`, which is what `sipnat.sample.toml` shows.

use std::{net::Ipv4Addr, time::Duration};

use super::{
    Auth, DigestAlgorithm, Fork, Media, Observe, Paths, Prompt, Proxy, RecordRoute, Registrar, SipLimits, TimeoutEnds,
};
use crate::{
    config::{Prefix, Rate},
    media::{
        policy::{Anchor, SameNat},
        sdp::edit::IceMode,
    },
};

/// Where registrations are kept unless told otherwise.
pub const STORE: &str = "/var/lib/sipnat/registrations.redb";
/// Where the secret for tokens and nonces is unless told otherwise.
pub const SECRET: &str = "/var/lib/sipnat/secret";
/// Numbers that pass every limit unless told otherwise.
pub const EMERGENCY: [&str; 2] = ["112", "911"];

/// Private addresses: RFC 1918 and, for the NATs of access providers, RFC 6598.
pub const PRIVATE: [Prefix; 4] = [
    private([10, 0, 0, 0], 8),
    private([172, 16, 0, 0], 12),
    private([192, 168, 0, 0], 16),
    private([100, 64, 0, 0], 10),
];

const fn private([a, b, c, d]: [u8; 4], len: u8) -> Prefix {
    Prefix {
        addr: Ipv4Addr::new(a, b, c, d),
        len,
    }
}

impl Default for Media {
    fn default() -> Self {
        Media {
            anchor: Anchor::Auto,
            same_nat: SameNat::Anchor,
            ice: IceMode::Replace,
            gate_prefix: 32,
            timeout: Duration::from_secs(300),
            timeout_ends: TimeoutEnds::Call,
            reserve: 2,
            max_streams: 32,
            inside: None,
            dscp: None,
        }
    }
}

impl Default for Registrar {
    fn default() -> Self {
        Registrar {
            default_expires: Duration::from_secs(3600),
            min_expires: Duration::from_secs(60),
            max_expires: Duration::from_secs(7200),
            nat_expires: None,
            max_contacts: 10,
            max_registrations: 1_000_000,
        }
    }
}

impl Default for Proxy {
    fn default() -> Self {
        Proxy {
            record_route: RecordRoute::Always,
            fork: Fork::Parallel,
            timer_c: Duration::from_secs(185),
            serial_ring: Duration::from_secs(30),
            t1: Duration::from_millis(500),
            t2: Duration::from_secs(4),
            t4: Duration::from_secs(5),
            max_breadth: 60,
            max_calls: 100_000,
            max_call_duration: Duration::from_secs(12 * 3600),
        }
    }
}

impl Default for Paths {
    fn default() -> Self {
        Paths {
            udp: Prompt::Options,
            stream: Prompt::Crlf,
            everyone: false,
            while_registered: true,
            during_dialogs: true,
            interval: Duration::from_secs(15),
            jitter_percent: 20,
            tail: Duration::from_secs(32),
            max_lost: 3,
            remove_lost: false,
            adapt: None,
        }
    }
}

impl Default for Auth {
    fn default() -> Self {
        Auth {
            algorithms: vec![DigestAlgorithm::Md5],
            nonce_lifetime: Duration::from_secs(300),
            ban_after: 10,
            ban_window: Duration::from_secs(60),
            ban: Duration::from_secs(300),
        }
    }
}

impl Default for Observe {
    fn default() -> Self {
        Observe {
            enabled: true,
            ports: vec![5060],
            max: Duration::from_secs(3632),
        }
    }
}

impl Default for SipLimits {
    fn default() -> Self {
        SipLimits {
            rate_per_source: Rate::per_second(100),
            burst_per_source: 200,
            connections: 10_000,
            connections_per_source: 100,
            idle: Duration::from_secs(120),
            message_time: Duration::from_secs(10),
            message_size: 65_535,
            transactions: 100_000,
        }
    }
}

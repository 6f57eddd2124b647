//! From the configuration to sizes and numbers: how big the tables are, and what the data path is told.

use std::time::Duration;

use nat_common::{
    config::{
        Config as Numbers, FLAG_COUNTING, FLAG_HAIRPIN, FLAG_INSIDE_PREFIXES, FLAG_POLICY, FLAG_POLICY_DENY,
        FLAG_REFRESH_IN,
    },
    maps::{Capacity, FRAGMENT_BUCKET, SESSION_BUCKET},
    policy::{self, ACTION_ALLOW, ACTION_DENY, ANY_PROTOCOL, DIRECTION_IN, DIRECTION_OUT},
    watch,
};

use super::clock::Clock;
use crate::config::{Action, Config, Filtering, FlowDirection, MssClamp, Refresh};
use crate::units::Proto;

/// Bindings that two buckets of the index are meant for. They have room for sixteen, and each binding may be in one of two: with
/// more, runs of ports that meet in a bucket would find both full.
const BINDINGS_IN_TWO_BUCKETS: u64 = 7;
/// Slow-path packets: one source, and one CPU. Bucket and refill per second.
const PUNT_SOURCE: (u32, u32) = (64, 128);
const PUNT_TOTAL: (u32, u32) = (512, 2048);
/// IP and TCP header without options (RFC 879).
const HEADERS: u32 = 40;
const SECOND: Duration = Duration::from_secs(1);

/// The sizes of all tables for so many external addresses.
pub fn capacity(config: &Config, addresses: u32) -> Capacity {
    let mut capacity = Capacity {
        addresses: addresses.max(1),
        block_shift: config.ports.block_size.trailing_zeros(),
        counting: config.nat.counting,
        legs: config.nat.relay_legs,
        destinations: config.nat.destinations.next_power_of_two(),
        session_buckets: (config.nat.sessions / SESSION_BUCKET).max(1).next_power_of_two(),
        fragment_buckets: (config.fragments.datagrams / FRAGMENT_BUCKET)
            .max(1)
            .next_power_of_two(),
        ..Capacity::default()
    };
    let bindings = bindings(config, &capacity);
    capacity.index_buckets = (bindings * 2).div_ceil(BINDINGS_IN_TWO_BUCKETS) as u32;
    let hosts = u64::from(config.ports.hosts).min(capacity.blocks());
    capacity.hosts = (hosts.max(1024) * 3 / 2).next_power_of_two() as u32;
    capacity
}

/// Most bindings at one time.
pub fn bindings(config: &Config, capacity: &Capacity) -> u64 {
    match config.nat.capacity {
        Some(capacity_) => u64::from(capacity_).min(capacity.slots()),
        None => capacity.slots(),
    }
}

/// What the data path is told. `first_rule` is where the policy begins in its map, `mtu` the smallest of all interfaces.
pub fn numbers(config: &Config, capacity: &Capacity, clock: &Clock, secret: u64, mtu: u32, first_rule: u32) -> Numbers {
    let life = &config.lifetimes;
    let shortest = [
        life.udp,
        life.tcp_established,
        life.tcp_opening,
        life.tcp_closing,
        life.icmp,
    ]
    .into_iter()
    .min()
    .unwrap_or(life.udp);
    let filtering = &config.filtering;
    Numbers {
        secret,
        watch: watched(config),
        index_buckets: capacity.index_buckets,
        index_step: nat_common::hash::step(capacity.index_buckets),
        session_mask: capacity.session_buckets - 1,
        fragment_mask: capacity.fragment_buckets - 1,
        host_mask: capacity.hosts - 1,
        destination_mask: capacity.destinations - 1,
        addresses: capacity.addresses,
        block_shift: capacity.block_shift,
        blocks_per_host: u32::from(config.ports.blocks_per_host),
        rest: clock.ticks(config.ports.rest),
        // Lifetimes that tests have scaled down need finer stamps.
        refresh: clock.ticks(SECOND.min(shortest / 8)),
        route_age: clock.ticks(Duration::from_secs(1)),
        udp: clock.ticks(life.udp),
        tcp_established: clock.ticks(life.tcp_established),
        tcp_opening: clock.ticks(life.tcp_opening),
        tcp_closing: clock.ticks(life.tcp_closing),
        icmp: clock.ticks(life.icmp),
        fragment: clock.ticks(life.fragments),
        flags: flags(config),
        mss: match config.nat.mss_clamp {
            MssClamp::Off => 0,
            MssClamp::Auto => mtu.saturating_sub(HEADERS).clamp(536, 65495),
            MssClamp::Bytes(bytes) => u32::from(bytes),
        },
        policy_first: first_rule,
        policy_len: config.policy.rules.len() as u32,
        filtering: filter(filtering.tcp, Proto::Tcp)
            | filter(filtering.udp, Proto::Udp)
            | filter(filtering.icmp, Proto::Icmp),
        punt_source: PUNT_SOURCE.0,
        punt_source_rate: PUNT_SOURCE.1,
        punt_total: PUNT_TOTAL.0,
        punt_total_rate: PUNT_TOTAL.1,
        ticks_per_second: clock.ticks_per_second(),
        ahead: clock.ticks((4 * SECOND).min(shortest / 8)),
        reserved: 0,
    }
}

/// Remote ports where registrations are watched.
fn watched(config: &Config) -> u64 {
    match &config.sip {
        Some(sip) if sip.observe.enabled => watch::word(&sip.observe.ports),
        _ => 0,
    }
}

/// The policy as the data path has it.
pub fn rules(config: &Config) -> Vec<policy::Rule> {
    config
        .policy
        .rules
        .iter()
        .map(|rule| policy::Rule {
            source: rule.source.addr.into(),
            source_mask: rule.source.mask(),
            destination: rule.destination.addr.into(),
            destination_mask: rule.destination.mask(),
            source_ports: [rule.source_ports.first, rule.source_ports.last],
            destination_ports: [rule.destination_ports.first, rule.destination_ports.last],
            protocol: rule.protocol.map_or(ANY_PROTOCOL, |proto| common(proto) as u8),
            direction: match rule.direction {
                FlowDirection::Out => DIRECTION_OUT,
                FlowDirection::In => DIRECTION_IN,
                FlowDirection::Both => DIRECTION_OUT | DIRECTION_IN,
            },
            action: match rule.action {
                Action::Allow => ACTION_ALLOW,
                Action::Deny => ACTION_DENY,
            },
            ..policy::Rule::default()
        })
        .collect()
}

/// The data path's name of a protocol.
pub fn common(proto: Proto) -> nat_common::flow::Proto {
    match proto {
        Proto::Tcp => nat_common::flow::Proto::Tcp,
        Proto::Udp => nat_common::flow::Proto::Udp,
        Proto::Icmp => nat_common::flow::Proto::Icmp,
    }
}

/// People's name of a protocol.
pub fn shown(proto: nat_common::flow::Proto) -> Proto {
    match proto {
        nat_common::flow::Proto::Tcp => Proto::Tcp,
        nat_common::flow::Proto::Udp => Proto::Udp,
        nat_common::flow::Proto::Icmp => Proto::Icmp,
    }
}

fn flags(config: &Config) -> u32 {
    let policy = !config.policy.rules.is_empty() || config.policy.default == Action::Deny;
    [
        (config.nat.hairpin, FLAG_HAIRPIN),
        (config.nat.counting, FLAG_COUNTING),
        (config.lifetimes.refresh == Refresh::Both, FLAG_REFRESH_IN),
        (policy, FLAG_POLICY),
        (config.policy.default == Action::Deny, FLAG_POLICY_DENY),
        (!config.nat.inside_prefixes.is_empty(), FLAG_INSIDE_PREFIXES),
    ]
    .into_iter()
    .filter(|(on, _)| *on)
    .fold(0, |flags, (_, flag)| flags | flag)
}

fn filter(filtering: Filtering, proto: Proto) -> u32 {
    use nat_common::config::Filtering as Number;
    let number = match filtering {
        Filtering::EndpointIndependent => Number::EndpointIndependent,
        Filtering::AddressDependent => Number::AddressDependent,
        Filtering::AddressAndPortDependent => Number::AddressAndPortDependent,
    };
    (number as u32) << (common(proto) as u32 * 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn config(text: &str) -> Config {
        let interfaces = "[nat]\ninside = [\"a\"]\noutside = [\"b\"]\n";
        Config::parse(&format!("{interfaces}{text}"), "test").unwrap()
    }

    #[test]
    fn tables_are_powers_of_two_and_large_enough() {
        for (text, addresses) in [
            ("", 0),
            ("", 1),
            ("", 16),
            ("capacity = 1000000\nsessions = 300000\n[ports]\nblock_size = 16\n", 16),
            ("capacity = 1024\n[ports]\nblock_size = 1024\n", 256),
        ] {
            let config = config(text);
            let c = capacity(&config, addresses);
            assert_eq!(c.addresses, addresses.max(1));
            for size in [c.session_buckets, c.fragment_buckets, c.hosts, c.destinations] {
                assert!(size.is_power_of_two(), "{c:?}");
            }
            assert!(u64::from(c.index_buckets) * BINDINGS_IN_TWO_BUCKETS >= 2 * bindings(&config, &c));
            assert!(c.session_buckets * SESSION_BUCKET >= config.nat.sessions);
            assert!(u64::from(c.hosts) >= u64::from(config.ports.hosts).min(c.blocks()));
            assert_eq!(1 << c.block_shift, config.ports.block_size);
        }
    }

    #[test]
    fn a_million_bindings_stay_below_256_bytes_each() {
        let c = capacity(&config("capacity = 1000000\n"), 16);
        assert!(c.binding_bytes() / 1_000_000 <= 256, "{}", c.binding_bytes());
    }

    #[test]
    fn numbers_say_what_the_config_says() {
        let clock = Clock::new(250, 0, Instant::now());
        let config = config(
            "mss_clamp = \"auto\"\nhairpin = false\n[filtering]\ntcp = \"address-and-port-dependent\"\n[policy]\ndefault = \"deny\"\n\
             [[policy.rule]]\naction = \"allow\"\ndirection = \"out\"\nsource = [\"10.0.0.0/8\"]\nprotocol = \"udp\"\ndestination_ports = \"53\"\n",
        );
        let n = numbers(&config, &capacity(&config, 1), &clock, 7, 1400, 256);
        assert_eq!((n.mss, n.secret, n.policy_first, n.policy_len), (1360, 7, 256, 1));
        assert_eq!(n.flags, FLAG_POLICY | FLAG_POLICY_DENY);
        let filtering = nat_common::flow::Proto::ALL.map(|proto| n.filtering(proto) as u8);
        assert_eq!(filtering, [2, 0, 1]);
        assert_eq!((n.udp, n.rest), (4688, 1875));
        let rule = rules(&config)[0];
        assert_eq!(
            (rule.source, rule.source_mask, rule.protocol),
            (10 << 24, 0xff00_0000, 1)
        );
        assert_eq!((rule.destination_ports, rule.direction), ([53, 53], DIRECTION_OUT));
    }

    #[test]
    fn stamps_are_fine_enough_for_scaled_lifetimes() {
        let clock = Clock::new(250, 0, Instant::now());
        let mut config = config("");
        config.scale_lifetimes(0.001);
        let n = numbers(&config, &capacity(&config, 1), &clock, 7, 1500, 0);
        assert!(n.refresh * 8 <= n.udp + 8, "{} {}", n.refresh, n.udp);
        assert_eq!(n.refresh, 2);
    }
}

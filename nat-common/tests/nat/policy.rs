//! Allow and deny rules for new flows.

use crate::opener;
use nat_common::config::{FLAG_HAIRPIN, FLAG_POLICY, FLAG_POLICY_DENY};
use nat_common::counters::Reason;
use nat_common::flow::Proto;
use nat_common::memory::{Frame, Prefix, Setup, end};
use nat_common::policy::{ACTION_ALLOW, ACTION_DENY, ANY_PROTOCOL, DIRECTION_IN, DIRECTION_OUT, Rule};
use nat_common::session::{ACK, SYN};

const INSIDE: &str = "10.0.0.5:5004";
const REMOTE: &str = "198.51.100.1:25";

fn rule(action: u8, direction: u8) -> Rule {
    Rule {
        source_ports: [0, 65535],
        destination_ports: [0, 65535],
        protocol: ANY_PROTOCOL,
        direction,
        action,
        ..Rule::default()
    }
}

fn to(prefix: &str, rule: Rule) -> Rule {
    let prefix = Prefix::new(prefix);
    Rule {
        destination: prefix.addr,
        destination_mask: u32::MAX << (32 - prefix.len),
        ..rule
    }
}

#[test]
fn rules_name_prefix_protocol_and_ports() {
    let mail = Rule {
        protocol: Proto::Tcp as u8,
        destination_ports: [25, 25],
        ..to("198.51.100.0/24", rule(ACTION_DENY, DIRECTION_OUT))
    };
    let world = Setup {
        rules: vec![mail],
        ..Setup::default()
    }
    .world();
    let reason = |proto, remote| world.out_reason(&opener(proto, end(INSIDE), end(remote)));
    assert_eq!(reason(Proto::Tcp, REMOTE), Reason::Policy);
    assert_eq!(reason(Proto::Tcp, "198.51.100.1:26"), Reason::Outbound);
    assert_eq!(reason(Proto::Tcp, "198.51.101.1:25"), Reason::Outbound);
    assert_eq!(reason(Proto::Udp, REMOTE), Reason::Outbound);
    assert_eq!(reason(Proto::Icmp, REMOTE), Reason::Outbound);
}

#[test]
fn the_first_match_decides() {
    for (first, second, expected) in [
        (ACTION_ALLOW, ACTION_DENY, Reason::Outbound),
        (ACTION_DENY, ACTION_ALLOW, Reason::Policy),
    ] {
        let world = Setup {
            rules: vec![
                to("198.51.100.0/24", rule(first, DIRECTION_OUT)),
                to("198.51.0.0/16", rule(second, DIRECTION_OUT)),
            ],
            ..Setup::default()
        }
        .world();
        for proto in Proto::ALL {
            assert_eq!(
                world.out_reason(&opener(proto, end(INSIDE), end(REMOTE))),
                expected,
                "{proto:?}"
            );
        }
    }
}

#[test]
fn what_no_rule_names() {
    for (flags, expected) in [
        (FLAG_POLICY, Reason::Outbound),
        (FLAG_POLICY | FLAG_POLICY_DENY, Reason::Policy),
    ] {
        let world = Setup {
            flags,
            ..Setup::default()
        }
        .world();
        assert_eq!(
            world.out_reason(&opener(Proto::Udp, end(INSIDE), end(REMOTE))),
            expected
        );
    }
}

/// Rules are for new flows: answers to an allowed one pass, whatever the rules for the other direction say.
#[test]
fn answers_pass() {
    let world = Setup {
        rules: vec![rule(ACTION_DENY, DIRECTION_IN)],
        ..Setup::default()
    }
    .world();
    for proto in Proto::ALL {
        let view = world.out(&opener(proto, end(INSIDE), end(REMOTE)));
        let external = nat_common::flow::Endpoint::new(view.source, view.ports.0);
        let reply = match proto {
            Proto::Udp => Frame::udp(end(REMOTE), external, b"x"),
            Proto::Tcp => Frame::tcp(end(REMOTE), external, SYN | ACK, b""),
            Proto::Icmp => Frame::echo_reply(end(REMOTE).addr, external, b"x"),
        };
        assert_eq!(world.back_reason(&reply), Reason::Inbound, "{proto:?}");
        let stranger = Frame::udp(end("192.0.2.9:1"), external, b"x");
        if proto == Proto::Udp {
            assert_eq!(world.back_reason(&stranger), Reason::Policy);
        }
    }
}

/// Inbound rules see the inside address behind a forward.
#[test]
fn inbound_rules_see_inside_addresses() {
    let world = Setup {
        rules: vec![to("10.0.0.9/32", rule(ACTION_DENY, DIRECTION_IN))],
        ..Setup::default()
    }
    .world();
    world
        .tables
        .forward(Proto::Tcp, end("203.0.113.1:80"), end("10.0.0.9:80"));
    world
        .tables
        .forward(Proto::Tcp, end("203.0.113.1:81"), end("10.0.0.8:80"));
    let syn = |port| world.back_reason(&Frame::tcp(end(REMOTE), end(port), SYN, b""));
    assert_eq!(syn("203.0.113.1:80"), Reason::Policy);
    assert_eq!(syn("203.0.113.1:81"), Reason::Inbound);
}

/// A flow that was allowed goes on when the rules change; a new one meets the new rules.
#[test]
fn changed_rules_are_for_new_flows() {
    let mut world = Setup {
        flags: FLAG_POLICY | FLAG_HAIRPIN,
        ..Setup::default()
    }
    .world();
    world.out(&Frame::tcp(end(INSIDE), end(REMOTE), SYN, b""));
    world.tables.rules = vec![rule(ACTION_DENY, DIRECTION_OUT)];
    let mut config = world.tables.configs[0];
    config.policy_len = 1;
    world.tables.configs[1] = config;
    world.tables.state.active = 2;
    assert_eq!(
        world.out_reason(&Frame::tcp(end(INSIDE), end(REMOTE), ACK, b"x")),
        Reason::Outbound
    );
    let other = Frame::tcp(end(INSIDE), end("198.51.100.1:26"), SYN, b"");
    assert_eq!(world.out_reason(&other), Reason::Policy);
}

/// A refused flow takes no port of its host's quota: it was never let through.
#[test]
fn refused_flows_take_nothing() {
    let world = Setup {
        rules: vec![rule(ACTION_DENY, DIRECTION_OUT)],
        ..Setup::default()
    }
    .world();
    for proto in Proto::ALL {
        assert_eq!(
            world.out_reason(&opener(proto, end(INSIDE), end(REMOTE))),
            Reason::Policy
        );
        assert_eq!(
            world.external(proto, end(INSIDE)),
            None,
            "{proto:?}: a refused flow has a binding"
        );
    }
}

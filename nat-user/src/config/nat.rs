//! `[nat]`: interfaces, addresses and prefixes, and what they may not have in common.

use std::net::Ipv4Addr;

use toml::Spanned;

use super::{
    Interface, Nat, Overrides, Prefix, XdpMode,
    error::Fault,
    raw::{self, RawInterface},
    text::Text,
    validate::number,
};

/// Inside or outside interfaces, each.
pub const MAX_INTERFACES: usize = 32;
/// External addresses, all prefixes together.
pub const MAX_EXTERNAL_ADDRESSES: u64 = nat_common::maps::MAX_ADDRESSES as u64;
/// Entries of `bypass` or `inside_prefixes`, each.
pub const MAX_PREFIXES: usize = 1024;

/// `[nat]`, with what the command line says instead.
pub fn nat(raw: raw::Nat, overrides: &Overrides) -> Result<Nat, Fault> {
    let default = Nat::default();
    let inside = interfaces(raw.inside, &overrides.inside, "inside", &[])?;
    let outside = interfaces(raw.outside, &overrides.outside, "outside", &inside)?;
    let inside_prefixes = prefixes(&raw.inside_prefixes, "nat.inside_prefixes")?;
    let bypass = prefixes(&raw.bypass, "nat.bypass")?;
    let addresses = prefixes(&raw.addresses, "nat.addresses")?;
    let mut total = 0;
    for (index, address) in raw.addresses.iter().enumerate() {
        let prefix = address.get_ref().0;
        check_external(prefix).map_err(|message| {
            Fault::at(
                address.span(),
                message,
                "write public unicast addresses that are routed to this router",
            )
        })?;
        if let Some(other) = addresses[..index].iter().find(|other| other.overlaps(&prefix)) {
            return Err(Fault::at(
                address.span(),
                format!("{prefix} is already in {other}"),
                "keep one of the two",
            ));
        }
        if let Some(other) = inside_prefixes.iter().find(|other| other.overlaps(&prefix)) {
            let message = format!("the external address {prefix} overlaps the inside prefix {other} (RFC 4787 REQ-7)");
            return Err(Fault::at(
                address.span(),
                message,
                "take one of them out: an address is inside or outside",
            ));
        }
        total += prefix.size();
        if total > MAX_EXTERNAL_ADDRESSES {
            let message = format!("nat.addresses has more than {MAX_EXTERNAL_ADDRESSES} addresses");
            return Err(Fault::at(address.span(), message, "write a longer prefix"));
        }
    }
    Ok(Nat {
        inside,
        outside,
        addresses,
        inside_prefixes,
        bypass,
        xdp_mode: if overrides.skb_mode {
            XdpMode::Generic
        } else {
            raw.xdp_mode.map_or(default.xdp_mode, |mode| mode.0)
        },
        counting: raw.counting.unwrap_or(default.counting),
        hairpin: raw.hairpin.unwrap_or(default.hairpin),
        mss_clamp: raw.mss_clamp.map_or(default.mss_clamp, |clamp| clamp.0),
        capacity: match raw.capacity {
            None => None,
            some => Some(number(some, 0, 1024..=67_108_864, "nat.capacity", "bindings")?),
        },
        sessions: number(
            raw.sessions,
            default.sessions,
            1024..=67_108_864,
            "nat.sessions",
            "sessions",
        )?,
        destinations: number(
            raw.destinations,
            default.destinations,
            256..=1_048_576,
            "nat.destinations",
            "entries",
        )?,
        relay_legs: number(
            raw.relay_legs,
            default.relay_legs,
            0..=1_048_576,
            "nat.relay_legs",
            "legs",
        )?,
        staged_from: number(
            raw.staged_from,
            default.staged_from,
            1..=u32::MAX,
            "nat.staged_from",
            "bindings",
        )?,
    })
}

fn interfaces(
    raw: Vec<Spanned<RawInterface>>,
    overrides: &[String],
    side: &str,
    taken: &[Interface],
) -> Result<Vec<Interface>, Fault> {
    let mut found: Vec<(Option<std::ops::Range<usize>>, Interface)> = Vec::new();
    for name in overrides {
        let interface = RawInterface::named(name, None).map_err(|error| {
            let (message, remedy) = error.split_once("; ").unwrap_or((&error, "correct the name"));
            Fault::missing(format!("--{side}: {message}"), remedy)
        })?;
        found.push((None, interface.0));
    }
    if overrides.is_empty() {
        found = raw
            .into_iter()
            .map(|item| (Some(item.span()), item.into_inner().0))
            .collect();
    }
    let mut interfaces: Vec<Interface> = Vec::new();
    for (span, interface) in found {
        let fault = |message: String, remedy: &str| Fault {
            span: span.clone(),
            message,
            remedy: remedy.into(),
        };
        if taken.contains(&interface) {
            return Err(fault(
                format!("{interface} is both inside and outside"),
                "an interface has one side; take it out of one list",
            ));
        }
        if interfaces.contains(&interface) {
            return Err(fault(
                format!("{interface} is in nat.{side} twice"),
                "keep one of the two",
            ));
        }
        if interfaces.len() == MAX_INTERFACES {
            return Err(fault(
                format!("nat.{side} has more than {MAX_INTERFACES} interfaces"),
                "use fewer, or VLANs behind a bridge",
            ));
        }
        interfaces.push(interface);
    }
    if interfaces.is_empty() {
        let message = format!("no {side} interface is named");
        return Err(Fault::missing(
            message,
            format!("write `{side} = [\"IF\"]` under [nat], or run with --{side} IF"),
        ));
    }
    Ok(interfaces)
}

fn prefixes(raw: &[Spanned<Text<Prefix>>], name: &str) -> Result<Vec<Prefix>, Fault> {
    if let Some(first_too_many) = raw.get(MAX_PREFIXES) {
        let message = format!("{name} has more than {MAX_PREFIXES} entries");
        return Err(Fault::at(first_too_many.span(), message, "join neighbouring prefixes"));
    }
    Ok(raw.iter().map(|prefix| prefix.get_ref().0).collect())
}

/// Refuses what cannot be a source address on the public side (RFC 1812 section 5.3.7).
fn check_external(prefix: Prefix) -> Result<(), String> {
    let reserved: [(Ipv4Addr, u8, &str); 3] = [
        (Ipv4Addr::new(0, 0, 0, 0), 8, "\"this network\""),
        (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback"),
        (Ipv4Addr::new(224, 0, 0, 0), 3, "multicast or reserved"),
    ];
    for (addr, len, what) in reserved {
        if prefix.overlaps(&Prefix { addr, len }) {
            return Err(format!("the external address {prefix} is {what}"));
        }
    }
    Ok(())
}

//! The interfaces together: addresses, overlapping networks, forwarding, reverse path filter.

use crate::net::{Address, Prefix};

use super::finding::{Finding, Report};
use super::judge::{Port, Side};
use super::{Facts, PreflightInput};

pub(super) fn judge(input: &PreflightInput, ports: &[Port], facts: &Facts, report: &mut Report) {
    outside_addresses(input, ports, facts, report);
    overlap(input, ports, facts, report);
    inside_overlap(ports, facts, report);
    one_network_each(ports, report);
    for port in ports {
        forwarding(port, facts, report);
    }
    reverse_path(ports, facts, report);
}

fn on<'a>(port: &Port, facts: &'a Facts) -> impl Iterator<Item = &'a Address> + use<'a> {
    let index = port.layer3.index;
    facts.addresses.iter().filter(move |a| a.ifindex == index)
}

fn side<'a, 'b>(ports: &'b [Port<'a>], side: Side) -> impl Iterator<Item = &'b Port<'a>> {
    ports.iter().filter(move |port| port.side == side)
}

fn outside_addresses(input: &PreflightInput, ports: &[Port], facts: &Facts, report: &mut Report) {
    let outside: Vec<&Port> = side(ports, Side::Outside).collect();
    let Some(first) = outside.first() else { return };
    for port in &outside {
        if on(port, facts).next().is_some() {
            continue;
        }
        let finding =
            Finding::new("no-address", port.label(), "the outside interface has no IPv4 address").remedy(format!(
                "wait for DHCP, or: ip address add ADDRESS/LENGTH dev {}",
                port.layer3.name
            ));
        if input.external.is_empty() {
            report.error(finding.why("hosts inside are translated to its address, and none is configured either"));
        } else {
            report
                .warning(finding.why("the router answers ARP and asks for next hops from an address of the interface"));
        }
    }
    let unassigned: Vec<_> = input
        .external
        .iter()
        .filter(|address| !outside.iter().any(|port| on(port, facts).any(|a| a.addr == **address)))
        .collect();
    // One warning, however long the prefix is.
    if let [one, more @ ..] = &unassigned[..] {
        let which = match more.len() {
            0 => one.to_string(),
            count => format!("{one} and {count} more"),
        };
        report.warning(
            Finding::new(
                "external-unassigned",
                which,
                "external addresses that are on no outside interface",
            )
            .why("nobody answers ARP for them, so answers arrive only if the provider routes them to this machine")
            .remedy(format!(
                "unless they are routed here, for each: ip address add {one}/32 dev {}",
                first.layer3.name
            )),
        );
    }
}

/// RFC 4787 REQ-7: a NAT must not have the same addresses on both sides, or must tell them apart; this one refuses.
fn overlap(input: &PreflightInput, ports: &[Port], facts: &Facts, report: &mut Report) {
    let named = |which| {
        side(ports, which)
            .flat_map(|port| on(port, facts).map(|a| (port.label(), a.network())))
            .collect::<Vec<_>>()
    };
    let mut inside = named(Side::Inside);
    let configured = input.inside_prefixes.iter().filter(|prefix| **prefix != Prefix::ALL);
    inside.extend(configured.map(|prefix| ("inside prefixes".into(), *prefix)));
    let mut outside = named(Side::Outside);
    outside.extend(
        input
            .external
            .iter()
            .map(|a| ("external addresses".into(), Prefix::host(*a))),
    );

    for (inside_at, inside) in &inside {
        for (outside_at, outside) in &outside {
            if inside.overlaps(outside) {
                report.error(
                    Finding::new("overlap", format!("{inside_at} and {outside_at}"), format!("inside {inside} and outside {outside} overlap"))
                        .why("the same address would mean two hosts, one on each side, and the router could not reach both (RFC 4787 REQ-7)")
                        .remedy("renumber the inside network, or narrow the inside prefixes so that they leave the outside network out"),
                );
            }
        }
    }
}

fn inside_overlap(ports: &[Port], facts: &Facts, report: &mut Report) {
    let inside: Vec<&Port> = side(ports, Side::Inside).collect();
    for (i, a) in inside.iter().enumerate() {
        for b in &inside[i + 1..] {
            let pair = on(a, facts)
                .flat_map(|x| on(b, facts).map(move |y| (x.network(), y.network())))
                .find(|(x, y)| x.overlaps(y));
            if let Some((x, y)) = pair {
                report.warning(
                    Finding::new(
                        "inside-overlap",
                        format!("{} and {}", a.label(), b.label()),
                        format!("two inside networks overlap: {x} and {y}"),
                    )
                    .why("the route to a host there leads to only one of them")
                    .remedy("give each inside interface a network of its own"),
                );
            }
        }
    }
}

/// The routing table names interfaces, not tags: behind one that stands for several networks it cannot say which is meant.
fn one_network_each(ports: &[Port], report: &mut Report) {
    for (i, port) in ports.iter().enumerate() {
        let Some(other) = ports[..i].iter().find(|other| other.layer3.index == port.layer3.index) else {
            continue;
        };
        let device = &port.device.name;
        let tags: Vec<u16> = [other, port].iter().filter_map(|port| port.spec.vlan).collect();
        let remedy = tags
            .iter()
            .map(|id| format!("ip link add link {device} name {device}.{id} type vlan id {id}"));
        report.error(
            Finding::new(
                "vlan-ambiguous",
                format!("{} and {}", other.label(), port.label()),
                format!("both have {device} as the interface of their addresses and routes"),
            )
            .why("a route to that interface does not say which of the two networks is meant")
            .remedy(format!(
                "give each VLAN an interface of its own, with its address: {}",
                remedy.collect::<Vec<_>>().join("; ")
            )),
        );
    }
}

/// bpf_fib_lookup refuses (FWD_DISABLED) for an interface with forwarding off.
fn forwarding(port: &Port, facts: &Facts, report: &mut Report) {
    let mut looked_up = vec![port.device];
    looked_up.extend(Some(port.layer3).filter(|l3| l3.index != port.device.index));
    for device in looked_up {
        let known = facts.devices.get(&device.index).and_then(|d| d.forwarding);
        if known != Some(false) {
            continue;
        }
        let path = format!("/proc/sys/net/ipv4/conf/{}/forwarding", device.name);
        let finding = Finding::new("forwarding", &device.name, "IPv4 forwarding is off").sysctl(path, "1");
        match port.side {
            Side::Inside => report.error(finding.why(
                "the kernel answers no route look-ups for packets from this interface, so nothing from inside would leave",
            )),
            Side::Outside => report.warning(finding.why(
                "the kernel answers no route look-ups for packets from this interface; answers to known hosts work, static forwards to others may not",
            )),
        }
    }
}

const RP_FILTER_STRICT: u8 = 1;

/// Packets that XDP forwards never meet the filter; the router's own do.
fn reverse_path(ports: &[Port], facts: &Facts, report: &mut Report) {
    let several = side(ports, Side::Outside).count() > 1;
    for port in side(ports, Side::Outside) {
        let device = port.layer3;
        let filter = facts.devices.get(&device.index).and_then(|d| d.rp_filter);
        if filter != Some(RP_FILTER_STRICT) {
            continue;
        }
        let finding = Finding::new("rp-filter", &device.name, "the reverse path filter is strict")
            .why("it does not see what XDP forwards, so it neither protects nor harms the NAT; packets for the router itself are dropped where the way back leads through another interface");
        if several {
            report.warning(finding.remedy(format!(
                "with several outside interfaces: sysctl net.ipv4.conf.{0}.rp_filter=2 (loose)",
                device.name.replace('.', "/")
            )));
        } else {
            report.note(finding.remedy("none is needed with one outside interface"));
        }
    }
}

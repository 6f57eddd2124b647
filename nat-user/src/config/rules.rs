//! Static forwards and policy rules: `both` and lists are expanded, collisions refused.

use std::str::FromStr;

use toml::Spanned;

use super::{
    Forward, Nat, Policy, PortRange, Prefix, Proto, Rule,
    error::Fault,
    raw::{self, ForwardProto, RuleProto},
    text::{ExternalPorts, FromText, InsidePorts, PortList, Text},
};

/// Policy rules after lists are expanded.
pub const MAX_POLICY_RULES: usize = 64;
/// Forwards, `both` counted twice.
pub const MAX_FORWARDS: usize = 4096;

impl Forward {
    /// A forward from the three words of `sipnat bindings add-forward`.
    pub fn from_words(protocol: Proto, external: &str, inside: &str) -> Result<Forward, String> {
        if protocol == Proto::Icmp {
            return Err("ICMP has no ports to forward; write tcp or udp".into());
        }
        let ExternalPorts { address, ports } = ExternalPorts::from_text(external)?;
        let inside = InsidePorts::from_text(inside)?;
        equal_length(ports, inside.ports)?;
        Ok(Forward {
            protocol,
            external_address: address,
            external_ports: ports,
            inside_address: inside.address,
            inside_ports: inside.ports,
        })
    }

    /// The external side as people write it: `203.0.113.1:8080`, or `8080` for all addresses.
    pub fn external(&self) -> String {
        ExternalSide {
            address: self.external_address,
            ports: self.external_ports,
        }
        .to_string()
    }

    /// The inside endpoint as people write it: `192.168.1.10:80`.
    pub fn inside(&self) -> String {
        format!("{}:{}", self.inside_address, self.inside_ports)
    }

    /// Whether both claim one external port.
    pub fn collides_with(&self, other: &Forward) -> bool {
        self.protocol == other.protocol
            && self.external_ports.overlaps(&other.external_ports)
            && (self.external_address.is_none()
                || other.external_address.is_none()
                || self.external_address == other.external_address)
    }
}

/// The external side of a forward, by which `delete-forward` finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExternalSide {
    /// `None`: all external addresses.
    pub address: Option<std::net::Ipv4Addr>,
    pub ports: PortRange,
}

impl FromStr for ExternalSide {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        ExternalPorts::from_text(text).map(|ExternalPorts { address, ports }| ExternalSide { address, ports })
    }
}

impl std::fmt::Display for ExternalSide {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.address {
            Some(address) => write!(f, "{address}:{}", self.ports),
            None => write!(f, "{}", self.ports),
        }
    }
}

fn equal_length(external: PortRange, inside: PortRange) -> Result<(), String> {
    if external.count() == inside.count() {
        return Ok(());
    }
    Err(format!(
        "the forward has {} external and {} inside ports; write ranges of equal length",
        external.count(),
        inside.count()
    ))
}

/// `[[forward]]`.
pub fn forwards(raw: Vec<Spanned<raw::Forward>>, nat: &Nat) -> Result<Vec<Forward>, Fault> {
    let mut forwards: Vec<Forward> = Vec::new();
    for item in raw {
        let span = item.span();
        let item = item.into_inner();
        let (external, inside) = (item.external.get_ref().0, item.inside.get_ref().0);
        equal_length(external.ports, inside.ports).map_err(|error| split(item.inside.span(), &error))?;
        let covers = |prefixes: &[Prefix], address| prefixes.iter().any(|prefix| prefix.contains(address));
        if let Some(address) = external.address
            && !nat.addresses.is_empty()
            && !covers(&nat.addresses, address)
        {
            let message = format!("the forward's external address {address} is not in nat.addresses");
            return Err(Fault::at(
                item.external.span(),
                message,
                "add it there, or write the port alone for all addresses",
            ));
        }
        if !nat.inside_prefixes.is_empty() && !covers(&nat.inside_prefixes, inside.address) {
            let message = format!(
                "the forward leads to {}, which is not in nat.inside_prefixes",
                inside.address
            );
            return Err(Fault::at(
                item.inside.span(),
                message,
                "write an inside address, or add its prefix there",
            ));
        }
        if covers(&nat.addresses, inside.address) {
            let message = format!("the forward leads to {}, which is an external address", inside.address);
            return Err(Fault::at(
                item.inside.span(),
                message,
                "write the inside host's own address",
            ));
        }
        let protocols: &[Proto] = match item.protocol {
            ForwardProto::Tcp => &[Proto::Tcp],
            ForwardProto::Udp => &[Proto::Udp],
            ForwardProto::Both => &[Proto::Tcp, Proto::Udp],
        };
        for &protocol in protocols {
            let forward = Forward {
                protocol,
                external_address: external.address,
                external_ports: external.ports,
                inside_address: inside.address,
                inside_ports: inside.ports,
            };
            if let Some(other) = forwards.iter().find(|other| other.collides_with(&forward)) {
                let message = format!(
                    "{protocol} {} is already forwarded to {}",
                    other.external(),
                    other.inside()
                );
                return Err(Fault::at(
                    item.external.span(),
                    message,
                    "give each external port to one forward",
                ));
            }
            if forwards.len() == MAX_FORWARDS {
                let message = format!("there are more than {MAX_FORWARDS} forwards");
                return Err(Fault::at(span, message, "join neighbouring ports into ranges"));
            }
            forwards.push(forward);
        }
    }
    Ok(forwards)
}

/// `[policy]`.
pub fn policy(raw: raw::Policy) -> Result<Policy, Fault> {
    let default = Policy::default();
    let mut rules = Vec::new();
    for item in raw.rule {
        let span = item.span();
        let rule = item.into_inner();
        let protocol = match rule.protocol {
            None | Some(RuleProto::Any) => None,
            Some(RuleProto::Tcp) => Some(Proto::Tcp),
            Some(RuleProto::Udp) => Some(Proto::Udp),
            Some(RuleProto::Icmp) => Some(Proto::Icmp),
        };
        if let Some(ports) = rule.source_ports.as_ref().or(rule.destination_ports.as_ref())
            && !matches!(protocol, Some(Proto::Tcp | Proto::Udp))
        {
            let message = "a policy rule names ports but neither tcp nor udp";
            return Err(Fault::at(
                ports.span(),
                message,
                "write protocol = \"tcp\" or \"udp\", one rule for each",
            ));
        }
        let prefixes = |list: Vec<Text<Prefix>>| match list.is_empty() {
            true => vec![Prefix::ALL],
            false => list.into_iter().map(|prefix| prefix.0).collect(),
        };
        let ports = |list: raw::At<Text<PortList>>| list.map_or(vec![PortRange::ALL], |list| list.into_inner().0.0);
        let (sources, destinations) = (prefixes(rule.source), prefixes(rule.destination));
        let (source_ports, destination_ports) = (ports(rule.source_ports), ports(rule.destination_ports));
        let expanded = [
            sources.len(),
            destinations.len(),
            source_ports.len(),
            destination_ports.len(),
        ]
        .into_iter()
        .fold(1, usize::saturating_mul);
        if rules.len().saturating_add(expanded) > MAX_POLICY_RULES {
            let message =
                format!("with this rule the policy has more than {MAX_POLICY_RULES} rules once its lists are expanded");
            return Err(Fault::at(
                span,
                message,
                "use shorter prefixes or port ranges, or let policy.default do the work",
            ));
        }
        for &source in &sources {
            for &destination in &destinations {
                for &source_ports in &source_ports {
                    for &destination_ports in &destination_ports {
                        rules.push(Rule {
                            action: rule.action,
                            direction: rule.direction.unwrap_or(super::FlowDirection::Both),
                            source,
                            destination,
                            protocol,
                            source_ports,
                            destination_ports,
                        });
                    }
                }
            }
        }
    }
    Ok(Policy {
        default: raw.default.unwrap_or(default.default),
        refuse: raw.refuse.unwrap_or(default.refuse),
        rules,
    })
}

/// A fault from a `WHAT; REMEDY` text.
fn split(span: std::ops::Range<usize>, error: &str) -> Fault {
    let (message, remedy) = error.split_once("; ").unwrap_or((error, "correct it"));
    Fault::at(span, message, remedy)
}

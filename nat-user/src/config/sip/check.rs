//! What the tables of `[sip]`, and `[sip]` and the NAT, may not have in common.

use std::{collections::HashMap, net::IpAddr, ops::Range};

use super::{ListenAddress, Listener, Role, Sip, raw, uri::Uri};
use crate::{
    config::{Forward, Nat, Ports, error::Fault, text::FromText as _},
    sip::flow::Transport,
    units::Proto,
};

/// Where in the text things are that only a comparison shows to be wrong.
pub struct Places {
    listeners: Vec<Range<usize>>,
    domains: Vec<Vec<Range<usize>>>,
    routes: Vec<(Range<usize>, Vec<Range<usize>>)>,
    emergency_route: Option<Range<usize>>,
}

impl Places {
    /// Of a table that is not taken apart yet.
    pub fn of(raw: &raw::Sip) -> Places {
        let names = |domain: &raw::Domain| domain.names.get_ref().iter().map(toml::Spanned::span).collect();
        let to = |route: &raw::Route| route.to.get_ref().iter().map(toml::Spanned::span).collect();
        Places {
            listeners: raw.listen.iter().map(toml::Spanned::span).collect(),
            domains: raw.domain.iter().map(|domain| names(domain.get_ref())).collect(),
            routes: raw
                .route
                .iter()
                .map(|route| (route.span(), to(route.get_ref())))
                .collect(),
            emergency_route: raw.emergency_route.as_ref().map(toml::Spanned::span),
        }
    }
}

/// Checks between the tables of `[sip]`.
pub fn sip(sip: &Sip, places: &Places) -> Result<(), Fault> {
    if sip.listeners.is_empty() {
        return Err(Fault::missing(
            "[sip] has no [[sip.listen]], so nobody could reach it",
            "write one with transport = \"udp\" and an address or interface, or remove [sip]",
        ));
    }
    listeners(sip, places)?;
    domains(sip, places)?;
    routes(sip, places)?;
    let outbound = sip.listeners.iter().any(|listener| listener.role == Role::Outbound);
    if sip.domains.is_empty() && sip.routes.is_empty() && !outbound {
        return Err(Fault::at(
            places.listeners[0].clone(),
            "there is neither a [[sip.domain]] nor a [[sip.route]], so every request would be refused",
            "write a domain with its names, or role = \"outbound\" for a listener that passes on to others",
        ));
    }
    Ok(())
}

/// Checks between `[sip]` and the NAT that runs beside it; `at` is where `[sip]` begins.
pub fn with_nat(sip: &Sip, nat: &Nat, ports: &Ports, forwards: &[Forward], at: Range<usize>) -> Result<(), Fault> {
    for listener in sip.listeners.iter().filter(|listener| is_external(listener, nat)) {
        let proto = protocol(listener.transport);
        let taken = forwards.iter().find(|forward| {
            forward.protocol == proto
                && forward.external_ports.contains(listener.port)
                && match (&listener.address, forward.external_address) {
                    (ListenAddress::Ip(IpAddr::V4(ip)), Some(address)) => *ip == address || ip.is_unspecified(),
                    _ => true,
                }
        });
        if let Some(forward) = taken {
            let message = format!(
                "the forward of {proto} {} takes the packets of the SIP listener on port {}",
                forward.external(),
                listener.port
            );
            return Err(Fault::at(at, message, "choose another port for one of the two"));
        }
        let given_out =
            ports.range.contains(listener.port) && !ports.exclude.iter().any(|range| range.contains(listener.port));
        if given_out && !ports.exclude_local {
            let message = format!(
                "with ports.exclude_local = false the NAT may give the SIP listener's port {} to an inside host",
                listener.port
            );
            return Err(Fault::at(
                at,
                message,
                format!("add {} to ports.exclude", listener.port),
            ));
        }
    }
    Ok(())
}

/// Whether a listener is on an address that the NAT translates to, as far as the configuration tells.
fn is_external(listener: &Listener, nat: &Nat) -> bool {
    match &listener.address {
        ListenAddress::Ip(IpAddr::V4(ip)) => {
            ip.is_unspecified() || nat.addresses.iter().any(|prefix| prefix.contains(*ip))
        }
        ListenAddress::Ip(IpAddr::V6(ip)) => ip.is_unspecified(),
        ListenAddress::Interface(name) => nat.outside.iter().any(|interface| interface.name == *name),
    }
}

fn protocol(transport: Transport) -> Proto {
    match transport {
        Transport::Udp => Proto::Udp,
        Transport::Tcp | Transport::Tls => Proto::Tcp,
    }
}

fn listeners(sip: &Sip, places: &Places) -> Result<(), Fault> {
    for (index, listener) in sip.listeners.iter().enumerate() {
        let same = |other: &&Listener| {
            protocol(other.transport) == protocol(listener.transport)
                && other.port == listener.port
                && overlap(&other.address, &listener.address)
        };
        if let Some(other) = sip.listeners[..index].iter().find(same) {
            let message = format!(
                "another listener has {} port {} there already",
                other.transport, other.port
            );
            return Err(Fault::at(
                places.listeners[index].clone(),
                message,
                "choose another port or address, or keep one of the two",
            ));
        }
        if listener.transport == Transport::Tls && sip.tls.is_none() {
            return Err(Fault::at(
                places.listeners[index].clone(),
                "a tls listener needs a certificate",
                "write [sip.tls] with certificate and key",
            ));
        }
    }
    Ok(())
}

fn overlap(a: &ListenAddress, b: &ListenAddress) -> bool {
    match (a, b) {
        (ListenAddress::Ip(a), ListenAddress::Ip(b)) => {
            a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()))
        }
        (ListenAddress::Interface(a), ListenAddress::Interface(b)) => a == b,
        (ListenAddress::Ip(ip), ListenAddress::Interface(_)) | (ListenAddress::Interface(_), ListenAddress::Ip(ip)) => {
            ip.is_ipv4() && ip.is_unspecified()
        }
    }
}

fn domains(sip: &Sip, places: &Places) -> Result<(), Fault> {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for (index, (domain, spans)) in sip.domains.iter().zip(&places.domains).enumerate() {
        for (name, span) in domain.names.iter().zip(spans) {
            if let Some(other) = seen.insert(name, index) {
                let message = match other == index {
                    true => format!("{name} is there twice"),
                    false => format!("{name} is a name of the domain {} already", sip.domains[other].names[0]),
                };
                return Err(Fault::at(span.clone(), message, "keep one of the two"));
            }
        }
    }
    Ok(())
}

fn routes(sip: &Sip, places: &Places) -> Result<(), Fault> {
    for (index, (route, (span, spans))) in sip.routes.iter().zip(&places.routes).enumerate() {
        let hidden_by = sip.routes[..index]
            .iter()
            .position(|before| before.domain == route.domain && route.prefix.starts_with(&before.prefix));
        if let Some(before) = hidden_by {
            return Err(Fault::at(
                span.clone(),
                format!(
                    "this route is never taken: route {} has all of `{}` already",
                    before + 1,
                    sip.routes[before].prefix
                ),
                "put the longer prefix first",
            ));
        }
        if let Some(name) = route.domain.as_ref().filter(|name| serves(sip, name)) {
            return Err(Fault::at(
                span.clone(),
                format!("{name} is served here"),
                "leave domain out: then the route is for users of our domains who are not registered",
            ));
        }
        for (uri, span) in route.to.iter().zip(spans) {
            can_send(sip, uri, span.clone())?;
        }
    }
    match (&sip.emergency_route, &places.emergency_route) {
        (Some(uri), Some(span)) => can_send(sip, uri, span.clone()),
        _ => Ok(()),
    }
}

fn serves(sip: &Sip, host: &str) -> bool {
    sip.domains
        .iter()
        .any(|domain| domain.names.iter().any(|name| name == host))
}

/// Whoever sends over a transport must be reachable over it too (RFC 3261 section 18.1.1).
fn can_send(sip: &Sip, uri: &str, span: Range<usize>) -> Result<(), Fault> {
    let wanted = Uri::from_text(uri).ok().and_then(|uri| uri.transport);
    match wanted.filter(|wanted| !sip.listeners.iter().any(|listener| listener.transport == *wanted)) {
        None => Ok(()),
        Some(wanted) => Err(Fault::at(
            span,
            format!("`{uri}` is reached over {wanted}, but there is no {wanted} listener to send from"),
            format!("add a [[sip.listen]] with transport = \"{wanted}\""),
        )),
    }
}

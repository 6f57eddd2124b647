//! What to ask for a target, and in which order to try what is found (RFC 3263 section 4, RFC 2782).

use std::{cmp::Reverse, net::IpAddr, sync::Arc};

use crate::sip::{
    command::{Hop, Target},
    flow::Transport,
};

/// What we can send with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Can {
    /// Transports of our listeners.
    pub transports: Vec<Transport>,
    /// Families of their addresses.
    pub ipv4: bool,
    pub ipv6: bool,
}

/// What to look up first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing: the target is an address.
    Known(Hop),
    /// Addresses of the host; the port is given.
    Addresses(Place),
    /// SRV; the transport is given.
    Services(Vec<Service>),
    /// NAPTR, which says what transports there are; then [`naptr`], or if that finds none [`services`].
    Naptr,
}

/// A host with everything but its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub host: String,
    pub transport: Transport,
    pub port: u16,
}

/// A name that SRV records are looked up for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub name: String,
    pub transport: Transport,
}

/// A NAPTR record (RFC 3403).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Naptr {
    pub order: u16,
    pub preference: u16,
    pub flags: String,
    pub service: String,
    pub replacement: String,
}

/// An SRV record (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub priority: u16,
    pub weight: u16,
    pub port: u16,
    pub target: String,
}

/// RFC 3263 sections 4.1 and 4.2.
pub fn plan(target: &Target) -> Plan {
    let place = fallback(target);
    if let Ok(address) = target.host.parse::<IpAddr>() {
        let (transport, name) = (place.transport, None);
        return Plan::Known(Hop {
            transport,
            address: (address, place.port).into(),
            name,
        });
    }
    match (target.port, target.transport) {
        (Some(_), _) => Plan::Addresses(place),
        (None, Some(_)) => Plan::Services(vec![service(target, place.transport)]),
        (None, None) => Plan::Naptr,
    }
}

/// Services that NAPTR records offer and we can use, the best first (RFC 3263 section 4.1).
pub fn naptr(target: &Target, mut records: Vec<Naptr>, can: &Can) -> Vec<Service> {
    records.sort_by_key(|record| (record.order, record.preference));
    let offered = |record: &Naptr| {
        let transport = match record.service.to_ascii_uppercase().as_str() {
            "SIP+D2U" => Transport::Udp,
            "SIP+D2T" => Transport::Tcp,
            "SIPS+D2T" => Transport::Tls,
            _ => return None,
        };
        let may = if target.secure {
            transport == Transport::Tls
        } else {
            can.transports.contains(&transport)
        };
        let name = record.replacement.clone();
        (may && record.flags.eq_ignore_ascii_case("s") && is_some(&name)).then_some(Service { name, transport })
    };
    records.iter().filter_map(offered).collect()
}

/// Services to ask for without NAPTR (RFC 3263 section 4.1).
pub fn services(target: &Target, can: &Can) -> Vec<Service> {
    if target.secure {
        return vec![service(target, Transport::Tls)];
    }
    [Transport::Udp, Transport::Tcp, Transport::Tls]
        .into_iter()
        .filter(|transport| can.transports.contains(transport))
        .map(|transport| service(target, transport))
        .collect()
}

/// Where the host itself is tried (RFC 3263 section 4.2): by UDP, or TLS if it must be secure, at the port given or the default one.
pub fn fallback(target: &Target) -> Place {
    let transport = match target.transport {
        _ if target.secure => Transport::Tls,
        Some(transport) => transport,
        None => Transport::Udp,
    };
    Place {
        host: target.host.clone(),
        transport,
        port: target.port.unwrap_or(transport.default_port()),
    }
}

/// The order of RFC 2782: by priority; among equals each in turn is drawn by weight. `random` gives a number from 0 to its argument. A
/// server named `.` says that there is no such service.
pub fn order(servers: Vec<Server>, random: &mut impl FnMut(u32) -> u32) -> Vec<Server> {
    let mut left: Vec<Server> = servers.into_iter().filter(|server| is_some(&server.target)).collect();
    // Those of weight 0 come first, so that they are drawn with a small chance only.
    left.sort_by_key(|server| (server.priority, Reverse(server.weight == 0)));
    let mut ordered = Vec::with_capacity(left.len());
    while let Some(first) = left.first() {
        let priority = first.priority;
        let equals = left.iter().take_while(|server| server.priority == priority);
        let sum = equals.clone().map(|server| u32::from(server.weight)).sum();
        let drawn = random(sum);
        let mut running = 0;
        let chosen = equals
            .take_while(|server| {
                running += u32::from(server.weight);
                running < drawn
            })
            .count();
        ordered.push(left.remove(chosen));
    }
    ordered
}

/// Addresses as places to try. Over TLS the certificate must be for the name that the user asked for, whatever the records made of it (RFC 5922 section 4).
pub fn hops(target: &Target, transport: Transport, port: u16, addresses: &[IpAddr]) -> Vec<Hop> {
    let name: Option<Arc<str>> = (transport == Transport::Tls).then(|| target.host.trim_end_matches('.').into());
    let hop = |address: &IpAddr| Hop {
        transport,
        address: (*address, port).into(),
        name: name.clone(),
    };
    addresses.iter().map(hop).collect()
}

fn service(target: &Target, transport: Transport) -> Service {
    let prefix = match transport {
        Transport::Udp => "_sip._udp",
        Transport::Tcp => "_sip._tcp",
        Transport::Tls => "_sips._tcp",
    };
    Service {
        name: format!("{prefix}.{}", target.host),
        transport,
    }
}

fn is_some(name: &str) -> bool {
    !matches!(name, "" | ".")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn target(host: &str) -> Target {
        Target {
            host: host.into(),
            port: None,
            transport: None,
            secure: false,
        }
    }

    fn can(transports: &[Transport]) -> Can {
        Can {
            transports: transports.to_vec(),
            ipv4: true,
            ipv6: true,
        }
    }

    fn server(priority: u16, weight: u16, target: &str) -> Server {
        Server {
            priority,
            weight,
            port: 5060,
            target: target.into(),
        }
    }

    const ALL: [Transport; 3] = [Transport::Udp, Transport::Tcp, Transport::Tls];

    #[test]
    fn what_is_asked_depends_on_what_is_given() {
        let known = |transport, address: &str| {
            let address = address.parse().expect("address");
            Plan::Known(Hop {
                transport,
                address,
                name: None,
            })
        };
        let addresses = |transport, port| {
            let host = "a.example".into();
            Plan::Addresses(Place { host, transport, port })
        };
        let services = |name: &str, transport| {
            let name = name.into();
            Plan::Services(vec![Service { name, transport }])
        };
        let (tcp, udp, tls) = (Some(Transport::Tcp), Some(Transport::Udp), Some(Transport::Tls));
        for (host, port, transport, secure, expected) in [
            ("192.0.2.1", None, None, false, known(Transport::Udp, "192.0.2.1:5060")),
            (
                "192.0.2.1",
                Some(5070),
                tcp,
                false,
                known(Transport::Tcp, "192.0.2.1:5070"),
            ),
            (
                "2001:db8::1",
                None,
                None,
                true,
                known(Transport::Tls, "[2001:db8::1]:5061"),
            ),
            ("192.0.2.1", None, tcp, true, known(Transport::Tls, "192.0.2.1:5061")),
            ("a.example", Some(5070), None, false, addresses(Transport::Udp, 5070)),
            ("a.example", Some(5070), tcp, false, addresses(Transport::Tcp, 5070)),
            ("a.example", Some(5070), None, true, addresses(Transport::Tls, 5070)),
            (
                "a.example",
                None,
                udp,
                false,
                services("_sip._udp.a.example", Transport::Udp),
            ),
            (
                "a.example",
                None,
                tls,
                false,
                services("_sips._tcp.a.example", Transport::Tls),
            ),
            (
                "a.example",
                None,
                tcp,
                true,
                services("_sips._tcp.a.example", Transport::Tls),
            ),
            ("a.example", None, None, false, Plan::Naptr),
            ("a.example", None, None, true, Plan::Naptr),
        ] {
            let target = Target {
                host: host.into(),
                port,
                transport,
                secure,
            };
            assert_eq!(plan(&target), expected, "{target:?}");
        }
    }

    #[test]
    fn naptr_records_are_taken_in_their_order_if_we_can() {
        let record = |order, preference, flags: &str, service: &str| Naptr {
            order,
            preference,
            flags: flags.into(),
            service: service.into(),
            replacement: format!("{service}.example."),
        };
        // The example of RFC 3263 section 4.1, and what must be passed over.
        let records = vec![
            record(50, 60, "s", "SIP+D2T"),
            record(50, 50, "s", "SIPS+D2T"),
            record(10, 10, "u", "E2U+sip"),
            record(90, 50, "S", "sip+d2u"),
            record(1, 1, "a", "SIP+D2U"),
        ];
        let names = |target: &Target, transports: &[Transport]| {
            let services = naptr(target, records.clone(), &can(transports));
            services.into_iter().map(|service| service.name).collect::<Vec<_>>()
        };
        let plain = target("example");
        assert_eq!(
            names(&plain, &ALL),
            ["SIPS+D2T.example.", "SIP+D2T.example.", "sip+d2u.example."]
        );
        assert_eq!(
            names(&plain, &[Transport::Udp, Transport::Tcp]),
            ["SIP+D2T.example.", "sip+d2u.example."]
        );
        let secure = Target { secure: true, ..plain };
        assert_eq!(names(&secure, &ALL), ["SIPS+D2T.example."]);
    }

    #[test]
    fn without_naptr_every_transport_of_ours_is_asked_for() {
        let names = |target: &Target, transports: &[Transport]| {
            services(target, &can(transports))
                .into_iter()
                .map(|service| service.name)
                .collect::<Vec<_>>()
        };
        let plain = target("a.example");
        assert_eq!(
            names(&plain, &[Transport::Tcp, Transport::Udp]),
            ["_sip._udp.a.example", "_sip._tcp.a.example"]
        );
        let secure = Target { secure: true, ..plain };
        assert_eq!(names(&secure, &ALL), ["_sips._tcp.a.example"]);
    }

    #[test]
    fn over_tls_the_name_is_the_one_asked_for() {
        let addresses = [
            "192.0.2.1".parse().expect("address"),
            "2001:db8::1".parse().expect("address"),
        ];
        let hops = hops(&target("a.example."), Transport::Tls, 5071, &addresses);
        let expected = |address: &str| Hop {
            transport: Transport::Tls,
            address: address.parse().expect("address"),
            name: Some("a.example".into()),
        };
        assert_eq!(hops, [expected("192.0.2.1:5071"), expected("[2001:db8::1]:5071")]);
    }

    #[test]
    fn servers_are_drawn_by_weight_within_their_priority() {
        let servers = vec![
            server(20, 0, "last"),
            server(10, 60, "big"),
            server(10, 0, "zero"),
            server(10, 40, "small"),
        ];
        let names = |draws: &[u32]| {
            let mut draws = draws.iter();
            let ordered = order(servers.clone(), &mut |most| (*draws.next().expect("a draw")).min(most));
            ordered.into_iter().map(|server| server.target).collect::<Vec<_>>()
        };
        assert_eq!(names(&[0, 0, 0, 0]), ["zero", "big", "small", "last"]);
        assert_eq!(names(&[1, 100, 0, 0]), ["big", "small", "zero", "last"]);
        assert_eq!(names(&[61, 1, 0, 0]), ["small", "big", "zero", "last"]);
        assert_eq!(order(vec![server(0, 0, ".")], &mut |_| 0), []);
    }

    proptest! {
        #[test]
        fn whatever_is_drawn_every_server_comes_once_and_priorities_rise(
            servers in prop::collection::vec((0u16..3, any::<u16>()), 0..10),
            draws in prop::collection::vec(any::<u32>(), 10),
        ) {
            let servers: Vec<Server> = servers
                .iter()
                .enumerate()
                .map(|(i, (priority, weight))| server(*priority, *weight, &i.to_string()))
                .collect();
            let mut draws = draws.into_iter();
            let ordered = order(servers.clone(), &mut |most| draws.next().map_or(0, |draw| draw % (most + 1)));
            prop_assert!(ordered.is_sorted_by_key(|server| server.priority));
            let mut names: Vec<_> = ordered.into_iter().map(|server| server.target).collect();
            names.sort();
            prop_assert!(names.into_iter().eq(servers.into_iter().map(|server| server.target)));
        }
    }
}

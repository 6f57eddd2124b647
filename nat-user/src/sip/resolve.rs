//! Where to send: from a target's name to places to try (RFC 3263).
//!
//! What to ask and what to make of the answers is in [`select`]; here it is asked. Answers are cached as long as their records say.

pub mod select;

#[cfg(test)]
pub(super) mod tests;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result};
use futures_util::future::join_all;
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts},
    net::runtime::TokioRuntimeProvider,
    proto::rr::{Name, RData, RecordType},
};

use self::select::{Can, Naptr, Plan, Server, Service};
use super::command::{Hop, Target};

/// One query to one name server; it is asked so often.
const TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;
/// All queries for one target: less than a transaction waits.
const TOTAL: Duration = Duration::from_secs(10);
/// An absent name may appear.
const ABSENT: Duration = Duration::from_secs(60);
const CACHE: u64 = 10_000;
/// Servers of one target that are looked up, and places that are tried at most.
const SERVERS: usize = 8;
const HOPS: usize = 16;

/// Asks name servers. Cheap to clone; clones share the cache.
#[derive(Clone)]
pub struct Resolver(TokioResolver);

impl Resolver {
    /// Asks `servers`; if there are none, those that `/etc/resolv.conf` names now.
    ///
    /// # Errors
    /// If that file cannot be read or understood.
    pub fn new(servers: &[SocketAddr]) -> Result<Resolver> {
        let mut builder = if servers.is_empty() {
            TokioResolver::builder_tokio()
                .context("cannot use /etc/resolv.conf; mend it, or name DNS servers by `dns` in [sip]")?
        } else {
            let config = ResolverConfig::from_name_servers(servers.iter().map(|server| name_server(*server)).collect());
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        set(builder.options_mut());
        let resolver = builder.build().context("cannot set up DNS")?;
        Ok(Resolver(resolver))
    }

    /// Places to try, in this order. Empty: there is no such name, or nobody knows in time.
    pub async fn resolve(&self, target: &Target, can: &Can) -> Vec<Hop> {
        tokio::time::timeout(TOTAL, self.hops(target, can))
            .await
            .unwrap_or_default()
    }

    async fn hops(&self, target: &Target, can: &Can) -> Vec<Hop> {
        let mut hops = match select::plan(target) {
            Plan::Known(hop) => vec![hop],
            Plan::Addresses(place) => self.addresses(&place.host, can).await.map_or(vec![], |addresses| {
                select::hops(target, place.transport, place.port, &addresses)
            }),
            Plan::Services(services) => match self.services(&services).await {
                Some(servers) => self.servers(target, servers, can).await,
                None => self.fallback(target, can).await,
            },
            Plan::Naptr => {
                let records = self.naptr(&target.host).await;
                let mut services = select::naptr(target, records, can);
                if services.is_empty() {
                    services = select::services(target, can);
                }
                match self.services(&services).await {
                    Some(servers) => self.servers(target, servers, can).await,
                    None => self.fallback(target, can).await,
                }
            }
        };
        hops.truncate(HOPS);
        hops
    }

    async fn fallback(&self, target: &Target, can: &Can) -> Vec<Hop> {
        let place = select::fallback(target);
        let addresses = self.addresses(&place.host, can).await.unwrap_or_default();
        select::hops(target, place.transport, place.port, &addresses)
    }

    /// The servers of services, in the order to be tried; `None`: there are no such records.
    async fn services(&self, services: &[Service]) -> Option<Vec<(Service, Server)>> {
        let answers = join_all(services.iter().map(|service| self.srv(&service.name))).await;
        let mut found = None;
        for (service, servers) in services.iter().zip(answers) {
            let Some(servers) = servers else { continue };
            let ordered = select::order(servers, &mut random);
            let ordered = ordered.into_iter().map(|server| (service.clone(), server));
            found.get_or_insert_with(Vec::new).extend(ordered);
        }
        found
    }

    async fn servers(&self, target: &Target, mut servers: Vec<(Service, Server)>, can: &Can) -> Vec<Hop> {
        servers.truncate(SERVERS);
        let asked = servers.iter().map(|(_, server)| self.addresses(&server.target, can));
        let mut hops = Vec::new();
        for ((service, server), addresses) in servers.iter().zip(join_all(asked).await) {
            let addresses = addresses.unwrap_or_default();
            for hop in select::hops(target, service.transport, server.port, &addresses) {
                if !hops.contains(&hop) {
                    hops.push(hop);
                }
            }
        }
        hops
    }

    async fn naptr(&self, host: &str) -> Vec<Naptr> {
        let record = |data: &RData| match data {
            RData::NAPTR(naptr) => Some(Naptr {
                order: naptr.order,
                preference: naptr.preference,
                flags: String::from_utf8_lossy(&naptr.flags).into_owned(),
                service: String::from_utf8_lossy(&naptr.services).into_owned(),
                replacement: naptr.replacement.to_utf8(),
            }),
            _ => None,
        };
        self.ask(host, RecordType::NAPTR, record).await.unwrap_or_default()
    }

    async fn srv(&self, name: &str) -> Option<Vec<Server>> {
        let record = |data: &RData| match data {
            RData::SRV(srv) => Some(Server {
                priority: srv.priority,
                weight: srv.weight,
                port: srv.port,
                target: srv.target.to_utf8(),
            }),
            _ => None,
        };
        self.ask(name, RecordType::SRV, record).await
    }

    async fn ask<T>(&self, name: &str, kind: RecordType, read: impl Fn(&RData) -> Option<T>) -> Option<Vec<T>> {
        let lookup = self.0.lookup(fqdn(name)?, kind).await.ok()?;
        let records: Vec<T> = lookup
            .answers()
            .iter()
            .filter_map(|record| read(&record.data))
            .collect();
        (!records.is_empty()).then_some(records)
    }

    /// IPv6 first, as RFC 6724 section 2.1 prefers it; within a family in the order of the server, who may spread load by it.
    async fn addresses(&self, host: &str, can: &Can) -> Option<Vec<IpAddr>> {
        let address = |data: &RData| match data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
            _ => None,
        };
        let families = [(can.ipv6, RecordType::AAAA), (can.ipv4, RecordType::A)];
        let asked = families
            .iter()
            .filter(|(can, _)| *can)
            .map(|(_, kind)| self.ask(host, *kind, address));
        let addresses: Vec<IpAddr> = join_all(asked).await.into_iter().flatten().flatten().collect();
        (!addresses.is_empty()).then_some(addresses)
    }
}

fn name_server(server: SocketAddr) -> NameServerConfig {
    let (mut udp, mut tcp) = (ConnectionConfig::udp(), ConnectionConfig::tcp());
    (udp.port, tcp.port) = (server.port(), server.port());
    NameServerConfig::new(server.ip(), true, vec![udp, tcp])
}

fn set(options: &mut ResolverOpts) {
    options.timeout = TIMEOUT;
    options.attempts = ATTEMPTS;
    options.cache_size = CACHE;
    options.negative_max_ttl = Some(ABSENT);
}

/// Names in SIP are whole (RFC 3263 section 2 knows no search list); a single label may be a machine of the local network.
fn fqdn(host: &str) -> Option<Name> {
    let mut name = Name::from_utf8(host).ok()?;
    if name.num_labels() > 1 {
        name.set_fqdn(true);
    }
    Some(name)
}

/// A number from 0 to `most`.
fn random(most: u32) -> u32 {
    let number = getrandom::u32().unwrap_or_default();
    // Weights are small against 2^32, so the division favours nobody by much.
    ((u64::from(number) * (u64::from(most) + 1)) >> 32) as u32
}

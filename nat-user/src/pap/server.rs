//! What becomes of a request (RFC 6887 sections 8.2, 11.3, 12.3 and 15, RFC 6886 section 3).

#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, SocketAddrV4};

use super::{
    mappings::{Key, Mapping, Mappings},
    natpmp,
    wire::{self, Code, Granted, Operation, Remote, Request, Unread},
};
use crate::units::Proto;

/// A static mapping is for ever (RFC 6887 section 11.3).
const FOREVER: u32 = u32::MAX;

/// What the server may grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// No mapping lives for less, in seconds (RFC 6887 section 15: 120).
    pub min_lifetime: u32,
    /// No mapping lives for longer, in seconds (RFC 6887 section 15: 24 hours).
    pub max_lifetime: u32,
    /// Mappings of one host.
    pub per_host: usize,
    /// Whether the nonce must be the same for a renewal also, not only to end a mapping before its time.
    pub strict: bool,
}

/// Whoever has the ports.
pub trait Gateway {
    /// Whether this host is one of those that are translated.
    fn serves(&self, inside: Ipv4Addr) -> bool;

    /// The external address that a host has or would get; `None`: there is none at the moment.
    fn address_of(&self, inside: Ipv4Addr) -> Option<Ipv4Addr>;

    /// Where a static forward leads to this endpoint from.
    fn fixed(&self, key: &Key) -> Option<SocketAddrV4>;

    /// The binding of an endpoint that has one.
    fn bound(&self, key: &Key) -> Option<SocketAddrV4>;

    /// Opens an endpoint to everybody: makes its binding if there is none, on `wanted` if that can be had, and keeps it until [`Gateway::close`].
    fn open(&mut self, key: &Key, wanted: Wanted) -> Result<SocketAddrV4, Denied>;

    /// The binding is like any other again; says for how many seconds it lives on if it is not used. 0: it is gone.
    fn close(&mut self, key: &Key, external: SocketAddrV4) -> u32;

    /// Makes a binding if there is none, as a packet from inside would, and lets it live for `lifetime` seconds after its last packet, or as long as
    /// any other if that is longer. Says which of the two.
    fn extend(&mut self, key: &Key, wanted: Wanted, lifetime: u32) -> Result<(SocketAddrV4, u32), Denied>;
}

/// The external endpoint that a client would like; 0 and 0.0.0.0 are any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub address: Ipv4Addr,
    pub port: u16,
    /// That one or none.
    pub only: bool,
}

/// Why there is no port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The host has all that it may have.
    Quota,
    /// There is none left.
    Exhausted,
    /// There is no external address.
    NoAddress,
    /// Somebody else has the one that is wanted, or it may not be given out.
    Taken,
}

impl From<Denied> for Code {
    fn from(denied: Denied) -> Code {
        match denied {
            Denied::Quota => Code::UserExQuota,
            Denied::Exhausted => Code::NoResources,
            Denied::NoAddress => Code::NetworkFailure,
            Denied::Taken => Code::CannotProvideExternal,
        }
    }
}

/// A failure, and for how long it will be the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Failure {
    code: Code,
    lifetime: u32,
}

impl From<Code> for Failure {
    fn from(code: Code) -> Failure {
        Failure {
            code,
            lifetime: code.lifetime(),
        }
    }
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Failure {
        Code::from(denied).into()
    }
}

/// The server. Time is in seconds since 1970.
#[derive(Debug)]
pub struct Server {
    policy: Policy,
    mappings: Mappings,
    /// When the epoch began.
    epoch: u64,
}

impl Server {
    /// With what was kept, and when its epoch began.
    pub fn new(policy: Policy, kept: impl IntoIterator<Item = (Key, Mapping)>, epoch: u64) -> Server {
        let mut mappings = Mappings::default();
        for (key, mapping) in kept {
            mappings.put(key, mapping);
        }
        mappings.changes();
        Server {
            policy,
            mappings,
            epoch,
        }
    }

    /// Another policy, for what is asked from now on.
    pub fn configure(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// What is granted at the moment.
    pub fn mappings(&self) -> &Mappings {
        &self.mappings
    }

    /// What has to be written before the answers go out.
    pub fn changes(&mut self) -> Vec<(Key, Option<Mapping>)> {
        self.mappings.changes()
    }

    /// These could not be written: they are changes still.
    pub fn not_written(&mut self, changes: Vec<(Key, Option<Mapping>)>) {
        self.mappings.not_written(changes.into_iter().map(|(key, _)| key));
    }

    /// When the epoch began.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Seconds of the epoch (RFC 6887 section 8.5).
    pub fn seconds(&self, now: u64) -> u32 {
        now.saturating_sub(self.epoch).try_into().unwrap_or(u32::MAX)
    }

    /// Sees to it that all mappings are there after a start. What cannot be had where it was is lost; then a new epoch begins (RFC 6887 section 8.5), and
    /// the result is true.
    pub fn restore(&mut self, now: u64, gateway: &mut dyn Gateway) -> bool {
        self.expire(now, gateway);
        let all: Vec<(Key, SocketAddrV4)> = self
            .mappings
            .iter()
            .map(|(key, mapping)| (*key, mapping.external))
            .collect();
        let mut lost = false;
        for (key, external) in all {
            let wanted = Wanted {
                address: *external.ip(),
                port: external.port(),
                only: true,
            };
            if gateway.open(&key, wanted) != Ok(external) {
                self.mappings.remove(&key);
                lost = true;
            }
        }
        if lost {
            self.epoch = now;
        }
        lost
    }

    /// Moves mappings off addresses that have gone (RFC 6887 section 14.2). If any has, a new epoch begins (section 8.5), and the result is what those
    /// clients are to be told that had a nonce.
    pub fn rehome(&mut self, now: u64, gateway: &mut dyn Gateway) -> Option<Vec<Told>> {
        let all: Vec<(Key, Mapping)> = self
            .mappings
            .iter()
            .map(|(key, mapping)| (*key, mapping.clone()))
            .collect();
        let mut moved = Vec::new();
        for (key, before) in all {
            let wanted = Wanted {
                address: Ipv4Addr::UNSPECIFIED,
                port: before.external.port(),
                only: false,
            };
            let external = gateway.open(&key, wanted).ok();
            if external == Some(before.external) {
                continue;
            }
            match external {
                Some(external) => self.mappings.put(
                    key,
                    Mapping {
                        external,
                        ..before.clone()
                    },
                ),
                None => drop(self.revoke(&key, gateway)),
            }
            moved.push((key, before, external));
        }
        if moved.is_empty() {
            return None;
        }
        self.epoch = now;
        let told = |(key, before, external): (Key, Mapping, Option<SocketAddrV4>)| {
            Some(Told {
                client: before.client,
                map: wire::Map {
                    nonce: before.nonce?,
                    protocol: number(key.proto),
                    internal_port: key.inside.port(),
                    external_port: before.external.port(),
                    external: before.external.ip().to_ipv6_mapped(),
                },
                external: external.map(|external| (*external.ip(), external.port())),
                expires: before.expires,
            })
        };
        Some(moved.into_iter().filter_map(told).collect())
    }

    /// Ends what has not been renewed.
    pub fn expire(&mut self, now: u64, gateway: &mut dyn Gateway) {
        while let Some((key, mapping)) = self.mappings.expired(now) {
            gateway.close(&key, mapping.external);
        }
    }

    /// Ends a mapping before its time, on the operator's behalf.
    pub fn revoke(&mut self, key: &Key, gateway: &mut dyn Gateway) -> Option<Mapping> {
        let mapping = self.mappings.remove(key)?;
        gateway.close(key, mapping.external);
        Some(mapping)
    }

    /// The answer to a datagram, if it gets one.
    pub fn answer(&mut self, bytes: &[u8], from: SocketAddrV4, now: u64, gateway: &mut dyn Gateway) -> Option<Vec<u8>> {
        if bytes.first() == Some(&0) {
            return self.answer_natpmp(bytes, from, now, gateway);
        }
        let epoch = self.seconds(now);
        let failed = |failure: Failure| wire::failure(bytes, failure.code, failure.lifetime, epoch);
        let request = match wire::read(bytes, *from.ip()) {
            Ok(request) => request,
            Err(Unread::Silence) => return None,
            Err(Unread::Answer(code)) => return Some(failed(code.into())),
        };
        Some(match self.carry_out(&request, from, now, gateway) {
            Ok(granted) => wire::success(&request, &granted, epoch),
            Err(failure) => failed(failure),
        })
    }

    fn carry_out(
        &mut self,
        request: &Request<'_>,
        from: SocketAddrV4,
        now: u64,
        gateway: &mut dyn Gateway,
    ) -> Result<Granted, Failure> {
        // Nobody may ask for others; a disabled option is one that is not there (RFC 6887 section 13.1).
        if request.options.third_party.is_some() {
            return Err(Code::UnsuppOption.into());
        }
        let (map, peer) = match request.operation {
            Operation::Announce => {
                return Ok(Granted {
                    lifetime: 0,
                    external: (Ipv4Addr::UNSPECIFIED, 0),
                });
            }
            Operation::Map(map) => (map, None),
            Operation::Peer(map, remote) => (map, Some(remote)),
        };
        if map.protocol == 0 && map.internal_port != 0 {
            return Err(Code::MalformedRequest.into());
        }
        if !gateway.serves(*from.ip()) {
            return Err(Code::NotAuthorized.into());
        }
        let suggested = map.external.to_ipv4_mapped().unwrap_or(Ipv4Addr::UNSPECIFIED);
        // Neither all ports of a protocol nor all protocols can be mapped where several hosts share an address.
        let proto = proto(map.protocol).filter(|_| map.internal_port != 0);
        let Some(proto) = proto else {
            // So there is none to delete, which is a success (RFC 6887 section 15.1).
            return match request.lifetime == 0 && peer.is_none() {
                true => Ok(Granted {
                    lifetime: 0,
                    external: (suggested, map.external_port),
                }),
                false => Err(Code::UnsuppProtocol.into()),
            };
        };
        let asked = Asked {
            key: Key {
                inside: SocketAddrV4::new(*from.ip(), map.internal_port),
                proto,
            },
            nonce: Some(map.nonce),
            wanted: Wanted {
                address: suggested,
                port: map.external_port,
                only: request.options.prefer_failure,
            },
            lifetime: request.lifetime,
            client: from,
            description: request.options.description.unwrap_or_default(),
        };
        let (external, lifetime) = match peer {
            Some(remote) => self.extend(&asked, &remote, now, gateway)?,
            None if request.lifetime == 0 => {
                let lifetime = self.forget(&asked, now, gateway)?;
                return Ok(Granted {
                    lifetime,
                    external: (suggested, map.external_port),
                });
            }
            None => self.map(&asked, now, gateway)?,
        };
        Ok(Granted {
            lifetime,
            external: (*external.ip(), external.port()),
        })
    }

    /// MAP with a lifetime.
    fn map(&mut self, asked: &Asked<'_>, now: u64, gateway: &mut dyn Gateway) -> Result<(SocketAddrV4, u32), Failure> {
        let conflicts = |external: SocketAddrV4| asked.wanted.only && !asked.wanted.is(external);
        if let Some(external) = gateway.fixed(&asked.key) {
            return match conflicts(external) {
                true => Err(Code::CannotProvideExternal.into()),
                false => Ok((external, FOREVER)),
            };
        }
        let before = self.mappings.get(&asked.key);
        if let Some(before) = before {
            if self.policy.strict && before.nonce != asked.nonce {
                return Err(before.belongs_to_another(now));
            }
            if conflicts(before.external) {
                return Err(Code::CannotProvideExternal.into());
            }
        } else if self.mappings.of_host(*asked.key.inside.ip()).count() >= self.policy.per_host {
            return Err(Code::UserExQuota.into());
        }
        // One that belongs to somebody else by its nonce keeps that, and the time it was given: nobody shortens it by renewing.
        let (nonce, least) = match before {
            Some(before) if before.nonce != asked.nonce => (before.nonce, before.expires),
            _ => (asked.nonce, 0),
        };
        let external = gateway.open(&asked.key, asked.wanted)?;
        let lifetime = asked.lifetime.clamp(self.policy.min_lifetime, self.policy.max_lifetime);
        let expires = (now + u64::from(lifetime)).max(least);
        let mapping = Mapping {
            external,
            nonce,
            expires,
            client: asked.client,
            description: asked.description.into(),
        };
        self.mappings.put(asked.key, mapping);
        Ok((external, (expires - now) as u32))
    }

    /// MAP with a lifetime of 0 (RFC 6887 section 15.1). The seconds that the binding lives on for.
    fn forget(&mut self, asked: &Asked<'_>, now: u64, gateway: &mut dyn Gateway) -> Result<u32, Failure> {
        let Some(mapping) = self.mappings.get(&asked.key) else {
            let other = gateway.fixed(&asked.key).or_else(|| gateway.bound(&asked.key));
            return match other {
                Some(_) => Err(Code::NotAuthorized.into()),
                None => Ok(0),
            };
        };
        if mapping.nonce != asked.nonce {
            return Err(mapping.belongs_to_another(now));
        }
        let external = mapping.external;
        self.mappings.remove(&asked.key);
        Ok(gateway.close(&asked.key, external))
    }

    /// PEER (RFC 6887 section 12.3).
    fn extend(
        &mut self,
        asked: &Asked<'_>,
        remote: &Remote,
        now: u64,
        gateway: &mut dyn Gateway,
    ) -> Result<(SocketAddrV4, u32), Failure> {
        let peer = remote.address.to_ipv4_mapped();
        let invalid = |peer: Ipv4Addr| {
            peer.is_loopback()
                || peer.is_multicast()
                || peer.is_broadcast()
                || peer.is_unspecified()
                || remote.port == 0
        };
        if peer.is_none_or(invalid) {
            return Err(Code::MalformedRequest.into());
        }
        if let Some(external) = gateway.fixed(&asked.key) {
            return Ok((external, FOREVER));
        }
        if let Some(mapping) = self.mappings.get(&asked.key) {
            if mapping.nonce != asked.nonce {
                return Err(mapping.belongs_to_another(now));
            }
            return Ok((mapping.external, mapping.left(now)));
        }
        // The suggestion counts for a binding that is not there yet, and then it is that one or none.
        let wanted = Wanted {
            only: asked.wanted.port != 0 && gateway.bound(&asked.key).is_none(),
            ..asked.wanted
        };
        let lifetime = asked.lifetime.min(self.policy.max_lifetime);
        Ok(gateway.extend(&asked.key, wanted, lifetime)?)
    }

    fn answer_natpmp(
        &mut self,
        bytes: &[u8],
        from: SocketAddrV4,
        now: u64,
        gateway: &mut dyn Gateway,
    ) -> Option<Vec<u8>> {
        let epoch = self.seconds(now);
        let map = match natpmp::read(bytes)? {
            natpmp::Request::Unknown(_) => return Some(natpmp::unknown(bytes, epoch)),
            natpmp::Request::Address => {
                return Some(match gateway.address_of(*from.ip()) {
                    Some(address) => natpmp::address(natpmp::Code::Success, address, epoch),
                    None => natpmp::address(natpmp::Code::NetworkFailure, Ipv4Addr::UNSPECIFIED, epoch),
                });
            }
            natpmp::Request::Map(map) => map,
        };
        Some(match self.map_natpmp(&map, from, now, gateway) {
            Ok((port, lifetime)) => natpmp::mapping(natpmp::Code::Success, &map, port, lifetime, epoch),
            Err(failure) => natpmp::mapping(natpmp_code(failure.code), &map, 0, 0, epoch),
        })
    }

    /// External port and lifetime of a mapping by NAT-PMP.
    fn map_natpmp(
        &mut self,
        map: &natpmp::Map,
        from: SocketAddrV4,
        now: u64,
        gateway: &mut dyn Gateway,
    ) -> Result<(u16, u32), Failure> {
        let proto = proto(map.protocol).ok_or(Code::UnsuppProtocol)?;
        if !gateway.serves(*from.ip()) {
            return Err(Code::NotAuthorized.into());
        }
        let asked = Asked {
            key: Key {
                inside: SocketAddrV4::new(*from.ip(), map.internal_port),
                proto,
            },
            nonce: None,
            wanted: Wanted {
                address: Ipv4Addr::UNSPECIFIED,
                port: map.external_port,
                only: false,
            },
            lifetime: map.lifetime,
            client: from,
            description: "",
        };
        if map.lifetime != 0 {
            if map.internal_port == 0 {
                return Err(Code::NotAuthorized.into());
            }
            let (external, lifetime) = self.map(&asked, now, gateway)?;
            return Ok((external.port(), lifetime));
        }
        if map.internal_port == 0 {
            self.forget_by_natpmp(*from.ip(), proto, gateway)?;
            return Ok((0, 0));
        }
        if gateway.fixed(&asked.key).is_some() {
            return Err(Code::NotAuthorized.into());
        }
        // One that traffic made is nothing that could be deleted, so it is as if there were none (RFC 6886 section 3.4).
        if self.mappings.get(&asked.key).is_some() {
            self.forget(&asked, now, gateway)?;
        }
        Ok((0, 0))
    }

    /// All mappings of a host and protocol that NAT-PMP made; those of PCP need their nonce, and are why it fails then.
    fn forget_by_natpmp(&mut self, host: Ipv4Addr, proto: Proto, gateway: &mut dyn Gateway) -> Result<(), Failure> {
        let all: Vec<(Key, bool)> = self
            .mappings
            .of_host(host)
            .filter(|(key, _)| key.proto == proto)
            .map(|(key, mapping)| (*key, mapping.nonce.is_none()))
            .collect();
        let mut refused = false;
        for (key, ours) in all {
            match ours {
                true => drop(self.revoke(&key, gateway)),
                false => refused = true,
            }
        }
        match refused {
            true => Err(Code::NotAuthorized.into()),
            false => Ok(()),
        }
    }
}

/// What a client is told unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Whom.
    pub client: SocketAddrV4,
    map: wire::Map,
    external: Option<(Ipv4Addr, u16)>,
    expires: u64,
}

impl Told {
    /// The message, as of now.
    pub fn message(&self, now: u64, epoch: u32) -> Vec<u8> {
        let left = self.expires.saturating_sub(now).try_into().unwrap_or(u32::MAX);
        let lifetime = self.external.map_or(Code::NoResources.lifetime(), |_| left);
        wire::update(&self.map, self.external, lifetime, epoch)
    }
}

/// A request for one port.
#[derive(Clone, Copy, Debug)]
struct Asked<'a> {
    key: Key,
    nonce: Option<wire::Nonce>,
    wanted: Wanted,
    lifetime: u32,
    client: SocketAddrV4,
    description: &'a str,
}

impl Wanted {
    /// Whether that is what is wanted.
    pub fn is(&self, external: SocketAddrV4) -> bool {
        (self.address.is_unspecified() || self.address == *external.ip())
            && (self.port == 0 || self.port == external.port())
    }
}

impl Mapping {
    /// Seconds that are left of it.
    pub fn left(&self, now: u64) -> u32 {
        self.expires.saturating_sub(now).try_into().unwrap_or(u32::MAX)
    }

    /// It has another nonce (RFC 6887 section 11.3).
    fn belongs_to_another(&self, now: u64) -> Failure {
        Failure {
            code: Code::NotAuthorized,
            lifetime: self.left(now),
        }
    }
}

fn proto(number: u8) -> Option<Proto> {
    match number {
        wire::TCP => Some(Proto::Tcp),
        wire::UDP => Some(Proto::Udp),
        _ => None,
    }
}

fn number(proto: Proto) -> u8 {
    match proto {
        Proto::Tcp => wire::TCP,
        Proto::Udp => wire::UDP,
        Proto::Icmp => 1,
    }
}

fn natpmp_code(code: Code) -> natpmp::Code {
    match code {
        Code::NetworkFailure => natpmp::Code::NetworkFailure,
        Code::NoResources | Code::UserExQuota | Code::CannotProvideExternal => natpmp::Code::OutOfResources,
        _ => natpmp::Code::NotAuthorized,
    }
}

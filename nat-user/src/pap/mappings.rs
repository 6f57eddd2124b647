//! What was granted, and until when.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddrV4},
    ops::Bound,
};

use serde::{Deserialize, Serialize};

use super::wire::Nonce;
use crate::units::Proto;

/// Whose mapping it is: the inside endpoint of one protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// First, so that a host's mappings are side by side.
    pub inside: SocketAddrV4,
    pub proto: Proto,
}

/// A mapping that a MAP request or one of NAT-PMP made (RFC 6887: explicit dynamic inbound).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// The external endpoint.
    pub external: SocketAddrV4,
    /// Of the request; `None`: NAT-PMP, which has none.
    pub nonce: Option<Nonce>,
    /// Seconds since 1970.
    pub expires: u64,
    /// Where the client asked from: there it hears of changes.
    pub client: SocketAddrV4,
    /// What the client says it is for (RFC 7220).
    pub description: String,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Mappings {
    of: BTreeMap<Key, Mapping>,
    /// By expiry.
    ends: BTreeSet<(u64, Key)>,
    /// Those that have changed since they were last written.
    changed: BTreeSet<Key>,
}

impl Mappings {
    pub fn get(&self, key: &Key) -> Option<&Mapping> {
        self.of.get(key)
    }

    pub fn len(&self) -> usize {
        self.of.len()
    }

    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// In the order of their inside endpoints.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Mapping)> {
        self.of.iter()
    }

    /// Those of one host.
    pub fn of_host(&self, inside: Ipv4Addr) -> impl Iterator<Item = (&Key, &Mapping)> {
        let from = Key {
            inside: SocketAddrV4::new(inside, 0),
            proto: Proto::ALL[0],
        };
        let host = move |(key, _): &(&Key, &Mapping)| *key.inside.ip() == inside;
        self.of
            .range((Bound::Included(from), Bound::Unbounded))
            .take_while(host)
    }

    pub fn put(&mut self, key: Key, mapping: Mapping) {
        self.ends.insert((mapping.expires, key));
        if let Some(before) = self.of.insert(key, mapping) {
            let same = self.of[&key].expires == before.expires;
            if !same {
                self.ends.remove(&(before.expires, key));
            }
        }
        self.changed.insert(key);
    }

    pub fn remove(&mut self, key: &Key) -> Option<Mapping> {
        let mapping = self.of.remove(key)?;
        self.ends.remove(&(mapping.expires, *key));
        self.changed.insert(*key);
        Some(mapping)
    }

    /// Takes out one whose time is over.
    pub fn expired(&mut self, now: u64) -> Option<(Key, Mapping)> {
        let &(_, key) = self.ends.first().filter(|(expires, _)| *expires <= now)?;
        self.remove(&key).map(|mapping| (key, mapping))
    }

    /// These have not been written after all.
    pub fn not_written(&mut self, keys: impl IntoIterator<Item = Key>) {
        self.changed.extend(keys);
    }

    /// What has changed since this was last asked; `None` is gone.
    pub fn changes(&mut self) -> Vec<(Key, Option<Mapping>)> {
        let changed = std::mem::take(&mut self.changed);
        changed
            .into_iter()
            .map(|key| (key, self.of.get(&key).cloned()))
            .collect()
    }
}

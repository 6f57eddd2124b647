//! The NAT's tables as the port server sees them.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use nat_common::{
    binding,
    config::{Config as Numbers, FOREVER},
    counters::{REFUSED, Reason, refusal},
    flow::{Endpoint, InsideKey},
    index::{self, Place},
    maps::{AddressWord, HostWord, KIND_DYNAMIC, KIND_MAPPED, PORTS, Slot, SlotState, SlotWord},
    ports::{NO_HOST, find_host, slot_index, slot_parts},
    tables::Tables as _,
};

use super::{
    mappings::Key,
    place,
    server::{Denied, Gateway, Wanted},
};
use crate::{
    daemon::state::State,
    dataplane::geometry::{common, shown},
    forwards,
};

/// Ports of the tables of a NAT that runs.
pub struct Tables {
    state: Arc<State>,
    /// The slots of what is mapped: they are found by it also when their address has gone.
    open: BTreeMap<Key, u32>,
}

impl Tables {
    /// Takes over the mapped slots that an earlier daemon left.
    pub fn new(state: Arc<State>) -> Tables {
        let mut open = BTreeMap::new();
        for index in 0..state.kernel.capacity.addresses * nat_common::flow::PROTOCOLS * PORTS {
            if let Some(slot) = state.kernel.tables.slot(index)
                && slot.kind.get() == KIND_MAPPED
                && SlotWord(slot.word.get()).state() == SlotState::Live
            {
                open.insert(key_of(index, slot), index);
            }
        }
        Tables { state, open }
    }

    /// Closes what is open and not `wanted`.
    pub fn close_others(&mut self, wanted: impl Fn(&Key) -> bool) {
        let others: Vec<(Key, u32)> = self.open.iter().map(|(key, slot)| (*key, *slot)).collect();
        for (key, slot) in others.into_iter().filter(|(key, _)| !wanted(key)) {
            self.open.remove(&key);
            self.shut(&key, slot);
        }
    }

    fn numbers(&self) -> Numbers {
        self.state.current().numbers
    }

    fn find(&self, key: &Key) -> Option<(u32, SocketAddrV4)> {
        let tables = &self.state.kernel.tables;
        let slot = binding::find(tables, &self.numbers(), &inside(key), self.state.now())?;
        Some((slot, self.external(slot)?))
    }

    fn external(&self, slot: u32) -> Option<SocketAddrV4> {
        let external = binding::external_of(&self.state.kernel.tables, slot)?;
        Some(SocketAddrV4::new(external.addr.into(), external.port))
    }

    /// The binding of `key`, made if there is none.
    fn bind(&self, key: &Key, wanted: Wanted) -> Result<(u32, SocketAddrV4), Denied> {
        if let Some((slot, external)) = self.find(key) {
            return match wanted.only && !wanted.is(external) {
                true => Err(Denied::Taken),
                false => Ok((slot, external)),
            };
        }
        let (tables, numbers, now) = (&self.state.kernel.tables, self.numbers(), self.state.now());
        let mut slot = match self.take(key, wanted) {
            Ok(slot) => binding::create_at(tables, &numbers, &inside(key), slot, now),
            Err(denied) if wanted.only => return Err(denied),
            Err(_) => REFUSED,
        };
        if slot & REFUSED != 0 {
            slot = binding::create(tables, &numbers, &inside(key), now);
        }
        if slot & REFUSED != 0 {
            return Err(match refusal(slot) {
                Reason::Quota => Denied::Quota,
                Reason::NoAddress => Denied::NoAddress,
                _ if self.address_of(*key.inside.ip()).is_none() => Denied::NoAddress,
                _ => Denied::Exhausted,
            });
        }
        let external = self.external(slot).ok_or(Denied::NoAddress)?;
        Ok((slot, external))
    }

    /// Takes the port that is wanted.
    fn take(&self, key: &Key, wanted: Wanted) -> Result<u32, Denied> {
        if wanted.port == 0 {
            return Err(Denied::Taken);
        }
        let address = match wanted.address {
            Ipv4Addr::UNSPECIFIED => self.address_of(*key.inside.ip()).ok_or(Denied::NoAddress)?,
            address => address,
        };
        let (tables, numbers) = (&self.state.kernel.tables, self.numbers());
        let place = (0..numbers.addresses).find(|place| self.active(*place) == Some(address));
        let index = slot_index(place.ok_or(Denied::Taken)?, common(key.proto), wanted.port);
        let closed = self.state.current().closed.clone();
        place::take(tables, &numbers, &closed, &inside(key), index, self.state.now())?;
        Ok(index)
    }

    fn active(&self, place: u32) -> Option<Ipv4Addr> {
        let word = AddressWord(self.state.kernel.tables.address(place)?.word.get());
        word.active().then(|| word.addr().into())
    }

    /// Ends a binding whose address has gone; its port may be had again.
    fn end(&self, key: &Key, index: u32) {
        let (tables, numbers) = (&self.state.kernel.tables, self.numbers());
        if let Some(slot) = self.mapped(key, index) {
            slot.kind.set(KIND_DYNAMIC);
            slot.lifetime.set(0);
            forwards::retire(tables, &numbers, index, slot, self.state.now());
        }
    }

    /// The slot, if it is still what this server has made of it.
    fn mapped(&self, key: &Key, index: u32) -> Option<&Slot> {
        self.state.kernel.tables.slot(index).filter(|slot| {
            slot.kind.get() == KIND_MAPPED
                && SlotWord(slot.word.get()).state() == SlotState::Live
                && key_of(index, slot) == *key
        })
    }

    /// What was open is a binding as any other, for as many seconds as its host's last packet gives it; without one it ends.
    fn shut(&self, key: &Key, index: u32) -> u32 {
        let (tables, numbers, now) = (&self.state.kernel.tables, self.numbers(), self.state.now());
        let Some(slot) = self.mapped(key, index) else {
            return 0;
        };
        let entry = index::find(tables, &Place::of(&numbers, &inside(key))).filter(|found| found.word.slot() == index);
        let last = entry
            .map(|found| found.word.stamp())
            .filter(|last| *last != slot.created.get());
        slot.kind.set(KIND_DYNAMIC);
        slot.lifetime.set(0);
        let life = binding::lifetime(&numbers, common(key.proto), slot);
        let left = last.map_or(0, |last| life.saturating_sub(now.wrapping_sub(last)));
        if left == 0 {
            forwards::retire(tables, &numbers, index, slot, now);
        }
        self.seconds(left)
    }

    fn seconds(&self, ticks: u32) -> u32 {
        self.state.kernel.clock.duration(ticks).as_secs_f64().round() as u32
    }
}

impl Gateway for Tables {
    fn serves(&self, inside: Ipv4Addr) -> bool {
        let current = self.state.current();
        let prefixes = &current.config.nat.inside_prefixes;
        prefixes.is_empty() || prefixes.iter().any(|prefix| prefix.contains(inside))
    }

    fn address_of(&self, inside: Ipv4Addr) -> Option<Ipv4Addr> {
        let (tables, numbers) = (&self.state.kernel.tables, self.numbers());
        let host = find_host(tables, &numbers, inside.into());
        let its = match host {
            NO_HOST => None,
            host => tables.host(host).map(|host| HostWord(host.word.get()).address_index()),
        };
        its.and_then(|place| self.active(place))
            .or_else(|| (0..numbers.addresses).find_map(|place| self.active(place)))
    }

    fn fixed(&self, key: &Key) -> Option<SocketAddrV4> {
        let (slot, external) = self.find(key)?;
        self.state.kernel.tables.slot(slot)?.is_forward().then_some(external)
    }

    fn bound(&self, key: &Key) -> Option<SocketAddrV4> {
        self.find(key).map(|(_, external)| external)
    }

    fn open(&mut self, key: &Key, wanted: Wanted) -> Result<SocketAddrV4, Denied> {
        if self.find(key).is_none()
            && let Some(dead) = self.open.remove(key)
        {
            self.end(key, dead);
        }
        let (index, external) = self.bind(key, wanted)?;
        let slot = self.state.kernel.tables.slot(index).ok_or(Denied::Exhausted)?;
        slot.lifetime.set(FOREVER);
        slot.kind.set(KIND_MAPPED);
        if let Some(before) = self.open.insert(*key, index).filter(|before| *before != index) {
            self.shut(key, before);
        }
        Ok(external)
    }

    fn close(&mut self, key: &Key, _: SocketAddrV4) -> u32 {
        self.open.remove(key).map_or(0, |index| self.shut(key, index))
    }

    fn extend(&mut self, key: &Key, wanted: Wanted, lifetime: u32) -> Result<(SocketAddrV4, u32), Denied> {
        let (index, external) = self.bind(key, wanted)?;
        let (tables, numbers, now) = (&self.state.kernel.tables, self.numbers(), self.state.now());
        let slot = tables.slot(index).ok_or(Denied::Exhausted)?;
        let clock = &self.state.kernel.clock;
        let age = now.wrapping_sub(tables.last_use(&numbers, index)).min(FOREVER / 2);
        let wanted = clock.ticks(Duration::from_secs(lifetime.into())).saturating_add(age);
        let has = binding::lifetime(&numbers, common(key.proto), slot);
        if wanted > has {
            slot.lifetime.set(wanted.min(FOREVER - 1));
        }
        let left = wanted.max(has).saturating_sub(age);
        Ok((external, self.seconds(left)))
    }
}

fn inside(key: &Key) -> InsideKey {
    InsideKey {
        proto: common(key.proto),
        inside: Endpoint::new((*key.inside.ip()).into(), key.inside.port()),
    }
}

fn key_of(index: u32, slot: &Slot) -> Key {
    let inside = binding::inside_of(slot);
    Key {
        inside: SocketAddrV4::new(inside.addr.into(), inside.port),
        proto: shown(slot_parts(index).1),
    }
}

//! Static forwards: external ports that always lead to one inside endpoint. Each port of a range is a slot of its own,
//! with the kind `KIND_STATIC` (of the configuration) or `KIND_RUNTIME` (added while the daemon runs; the slots themselves
//! are what survives a restart).

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use nat_common::{
    binding,
    config::{Config as Numbers, FOREVER},
    flow::{Endpoint, Proto as Number},
    index::{self as lookup, Inserted},
    maps::{AddressWord, KIND_RUNTIME, KIND_STATIC, PORTS, Slot, SlotState, SlotWord},
    ports::{slot_index, slot_parts, used_place},
    tables::Tables,
};

use crate::{
    config::{ExternalSide, Forward, PortRange},
    dataplane::geometry::common,
    units::Proto,
};

/// How often a slot that somebody else is writing is looked at again, and how long between.
const PATIENCE: (u32, Duration) = (20, Duration::from_millis(1));

/// What a slot of a forward is to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Inside endpoint.
    pub inside: Endpoint,
    /// `KIND_STATIC` or `KIND_RUNTIME`.
    pub kind: u8,
}

/// The external side of one port of a runtime forward: protocol, address (none: all), port.
type Single = (Proto, Option<Ipv4Addr>, u16);

/// The forwards that are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwards {
    /// Those of the configuration.
    pub fixed: Vec<Forward>,
    runtime: BTreeMap<Single, Endpoint>,
}

impl Forwards {
    /// Those of the configuration, and the runtime forwards that the tables hold.
    pub fn recover<T: Tables>(t: &T, cfg: &Numbers, fixed: Vec<Forward>) -> Self {
        let mut found: BTreeMap<(Proto, u16), Vec<(u32, Endpoint)>> = BTreeMap::new();
        for_each_forward(t, cfg, |index, slot| {
            if slot.kind.get() == KIND_RUNTIME {
                let (address, proto, port) = slot_parts(index);
                let key = (crate::dataplane::geometry::shown(proto), port);
                found.entry(key).or_default().push((address, binding::inside_of(slot)));
            }
        });
        let addresses = (0..cfg.addresses).filter(|index| active(t, *index).is_some()).count();
        let mut runtime = BTreeMap::new();
        for ((proto, port), places) in found {
            let same = places.iter().all(|(_, inside)| *inside == places[0].1);
            if same && places.len() >= addresses {
                runtime.insert((proto, None, port), places[0].1);
                continue;
            }
            for (place, inside) in places {
                let address = t.address(place).map(|a| AddressWord(a.word.get()).addr());
                runtime.insert((proto, address.map(Ipv4Addr::from), port), inside);
            }
        }
        Self { fixed, runtime }
    }

    /// Other forwards of the configuration.
    ///
    /// # Errors
    /// With the runtime forward that has a port of theirs.
    pub fn replace_fixed(&mut self, fixed: Vec<Forward>) -> Result<(), String> {
        for forward in &fixed {
            if let Some((proto, port, inside)) = self.runtime_of(forward) {
                return Err(format!(
                    "{proto} {port} is forwarded to {inside} by `sipnat bindings add-forward`; delete that forward first"
                ));
            }
        }
        self.fixed = fixed;
        Ok(())
    }

    /// The runtime forward that has a port of `forward`.
    fn runtime_of(&self, forward: &Forward) -> Option<(Proto, u16, std::net::SocketAddrV4)> {
        let taken = |(proto, address, port): &Single| {
            *proto == forward.protocol
                && forward.external_ports.contains(*port)
                && (address.is_none() || forward.external_address.is_none() || *address == forward.external_address)
        };
        let ((proto, _, port), inside) = self.runtime.iter().find(|(single, _)| taken(single))?;
        Some((
            *proto,
            *port,
            std::net::SocketAddrV4::new(inside.addr.into(), inside.port),
        ))
    }

    /// Adds a runtime forward.
    ///
    /// # Errors
    /// With the forward that has one of its ports already.
    pub fn add(&mut self, forward: &Forward) -> Result<(), String> {
        if let Some(other) = self.fixed.iter().find(|other| other.collides_with(forward)) {
            return Err(format!(
                "{} {} is already forwarded to {} by the configuration; choose other ports",
                forward.protocol,
                other.external(),
                other.inside()
            ));
        }
        if let Some((proto, port, inside)) = self.runtime_of(forward) {
            return Err(format!(
                "{proto} {port} is already forwarded to {inside}; delete that first"
            ));
        }
        for (port, inside) in pairs(forward) {
            self.runtime
                .insert((forward.protocol, forward.external_address, port), inside);
        }
        Ok(())
    }

    /// Deletes runtime forwards: all ports of `external` must be some. False if they are not.
    pub fn delete(&mut self, proto: Proto, external: ExternalSide) -> bool {
        let singles: Vec<Single> = external
            .ports
            .ports()
            .map(|port| (proto, external.address, port))
            .collect();
        let all = singles.iter().all(|single| self.runtime.contains_key(single));
        if all {
            singles.iter().for_each(|single| {
                self.runtime.remove(single);
            });
        }
        all
    }

    /// Every slot that is to be a forward, lowest first.
    pub fn slots<T: Tables>(&self, t: &T, cfg: &Numbers) -> BTreeMap<u32, Target> {
        let mut slots = BTreeMap::new();
        let runtime = self.runtime.iter().map(|(&(proto, address, port), &inside)| {
            let forward = Forward {
                protocol: proto,
                external_address: address,
                external_ports: PortRange::one(port),
                inside_address: inside.addr.into(),
                inside_ports: PortRange::one(inside.port),
            };
            (forward, KIND_RUNTIME)
        });
        // The configuration has the last word.
        for (forward, kind) in runtime.chain(self.fixed.iter().map(|forward| (*forward, KIND_STATIC))) {
            for place in 0..cfg.addresses {
                let matches = match (forward.external_address, active(t, place)) {
                    (None, _) => true,
                    (Some(wanted), Some(addr)) => u32::from(wanted) == addr,
                    (Some(_), None) => false,
                };
                if matches {
                    for (port, inside) in pairs(&forward) {
                        slots.insert(
                            slot_index(place, common(forward.protocol), port),
                            Target { inside, kind },
                        );
                    }
                }
            }
        }
        slots
    }
}

/// Makes the tables hold exactly these forwards. Harmless to repeat; what is already there is left alone, but for its
/// entry in the index, which is renewed if it is missing.
pub fn apply<T: Tables>(t: &T, cfg: &Numbers, wanted: &BTreeMap<u32, Target>, now: u32) {
    let mut gone = Vec::new();
    for_each_forward(t, cfg, |index, slot| {
        let holds = |target: &Target| target.inside == binding::inside_of(slot);
        if !wanted.get(&index).is_some_and(holds) {
            gone.push(index);
        }
    });
    for index in gone {
        if let Some(slot) = t.slot(index) {
            retire(t, cfg, index, slot, now);
        }
    }
    for (&index, target) in wanted {
        if let Some(slot) = t.slot(index) {
            install(t, cfg, index, slot, target, now);
        }
    }
}

/// Ends a live binding: its port rests, as after any other use. False if it is not live (any more).
pub fn retire<T: Tables>(t: &T, cfg: &Numbers, index: u32, slot: &Slot, now: u32) -> bool {
    let key = binding::key_of(index, slot);
    loop {
        let word = SlotWord(slot.word.get());
        if word.state() != SlotState::Live {
            return false;
        }
        // First its entry: while that is there, packets from inside use the port without asking the slot.
        lookup::forget(t, cfg, &key, index);
        let resting = SlotWord::new(SlotState::Resting, word.generation(), now);
        if slot.word.replace(word.0, resting.0) {
            return true;
        }
    }
}

fn install<T: Tables>(t: &T, cfg: &Numbers, index: u32, slot: &Slot, target: &Target, now: u32) {
    let word = SlotWord(slot.word.get());
    let there = word.state() == SlotState::Live && slot.is_forward() && binding::inside_of(slot) == target.inside;
    if there {
        slot.kind.set(target.kind);
    } else {
        let generation = claim(t, cfg, index, slot, now);
        slot.inside_addr.set(target.inside.addr);
        slot.inside_port.set(target.inside.port);
        slot.kind.set(target.kind);
        slot.lifetime.set(FOREVER);
        slot.established.set(0);
        slot.created.set(now);
        let address = t
            .address(slot_parts(index).0)
            .map(|address| AddressWord(address.word.get()));
        slot.address_generation.set(address.unwrap_or_default().generation());
        if let Some(traffic) = t.traffic(index) {
            traffic.packets_out.set(0);
            traffic.bytes_out.set(0);
            traffic.packets_in.set(0);
            traffic.bytes_in.set(0);
        }
        slot.word.set(SlotWord::new(SlotState::Live, generation, now).0);
    }
    if active(t, slot_parts(index).0).is_some() {
        enter(t, cfg, index, slot, now);
    }
}

/// Takes a slot from whoever has it, with its bit; returns its new generation. Afterwards its state is `Claimed`.
fn claim<T: Tables>(t: &T, cfg: &Numbers, index: u32, slot: &Slot, now: u32) -> u16 {
    let (place, bit) = used_place(index);
    let mut patience = PATIENCE.0;
    loop {
        let word = SlotWord(slot.word.get());
        let taken = t.used_ports(place).is_some_and(|used| used.get() & bit != 0);
        // A port that is taken while its slot is free or claimed may be in the hands of a packet for a microsecond.
        let settled = match word.state() {
            SlotState::Live | SlotState::Resting => true,
            SlotState::Free => !taken,
            SlotState::Claimed => false,
        };
        if !settled && patience > 0 {
            patience -= 1;
            std::thread::sleep(PATIENCE.1);
            continue;
        }
        if let Some(used) = t.used_ports(place) {
            used.or(bit);
        }
        if word.state() == SlotState::Live {
            lookup::forget(t, cfg, &binding::key_of(index, slot), index);
        }
        let generation = word.generation().wrapping_add(1);
        if slot
            .word
            .replace(word.0, SlotWord::new(SlotState::Claimed, generation, now).0)
        {
            return generation;
        }
    }
}

/// Sees to it that what the inside endpoint sends leaves by the forward. Of several forwards the lowest slot wins; a
/// dynamic binding gives way.
///
/// User space cannot take the lock under which packets insert. A packet of the endpoint's first flow that inserts at the same
/// moment leaves a second entry, which look-ups may find first: the daemon repeats this every few seconds, and then the
/// dynamic binding gives way.
fn enter<T: Tables>(t: &T, cfg: &Numbers, index: u32, slot: &Slot, now: u32) {
    let key = binding::key_of(index, slot);
    for _ in 0..4 {
        let found = match lookup::insert(t, cfg, &key, index, now) {
            Inserted::Done => continue,
            Inserted::Full => return,
            Inserted::Exists(other) if other != index => other,
            // Ours is there, which says nothing about another one before or after it.
            Inserted::Exists(_) => match binding::find(t, cfg, &key, now) {
                Some(other) if other != index => other,
                _ => return,
            },
        };
        let Some(there) = t.slot(found) else { return };
        let ours = binding::key_of(found, there) == key && binding::live(t, cfg, found, there, now).is_some();
        if ours && there.is_forward() {
            return;
        }
        if ours {
            retire(t, cfg, found, there, now);
        }
        lookup::forget(t, cfg, &key, found);
    }
}

fn active<T: Tables>(t: &T, place: u32) -> Option<u32> {
    let word = AddressWord(t.address(place)?.word.get());
    word.active().then(|| word.addr())
}

/// External port and inside endpoint, one by one.
fn pairs(forward: &Forward) -> impl Iterator<Item = (u16, Endpoint)> + use<> {
    let addr = u32::from(forward.inside_address);
    forward
        .external_ports
        .ports()
        .zip(forward.inside_ports.ports())
        .map(move |(port, inside)| (port, Endpoint::new(addr, inside)))
}

/// Every live slot that is a forward.
fn for_each_forward<T: Tables>(t: &T, cfg: &Numbers, mut each: impl FnMut(u32, &Slot)) {
    let spaces = (0..cfg.addresses).flat_map(|address| [Number::Tcp, Number::Udp].map(|proto| (address, proto)));
    for (address, proto) in spaces {
        let base = slot_index(address, proto, 0);
        for place in base / 64..(base + PORTS) / 64 {
            let mut bits = t.used_ports(place).map_or(0, |word| word.get());
            while bits != 0 {
                let index = place * 64 + bits.trailing_zeros();
                bits &= bits - 1;
                if let Some(slot) = t.slot(index)
                    && SlotWord(slot.word.get()).state() == SlotState::Live
                    && slot.is_forward()
                {
                    each(index, slot);
                }
            }
        }
    }
}

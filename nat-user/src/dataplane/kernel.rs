//! The data path in the kernel: opened or made, told its configuration, attached, asked for its counters.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, Pod,
    maps::{Array, DevMap, HashMap, LpmTrie, Map, MapData, MapError, MapInfo, PerCpuArray, RingBuf, lpm_trie::Key},
};
use nat_common::{
    config::Config,
    counters::{Count, REASONS, Reason},
    flow::Side,
    maps::{Capacity, Interface, MAX_INTERFACES, ROLE_NONE, egress_key, ingress_key},
    policy::{MAX_RULES, Rule},
};

use super::{
    clock::Clock,
    links::{self, Wanted},
    object,
    pins::Pins,
    stages::{self, Late, Stages},
    tables::UserTables,
};
use crate::{config::Prefix, preflight::Mode};

/// The opened data path.
pub struct Kernel {
    /// The tables that packets and daemon share.
    pub tables: UserTables,
    /// The data path's time.
    pub clock: Clock,
    /// The sizes of the tables.
    pub capacity: Capacity,
    ebpf: Mutex<Ebpf>,
    stages: Stages,
    pins: Pins,
}

/// What the data path knows of the network around it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Surroundings {
    /// Interfaces.
    pub interfaces: Vec<Interface>,
    /// Index of each external address, host order.
    pub external: BTreeMap<u32, u32>,
    /// The router's other addresses and the broadcast addresses of its networks.
    pub local: Vec<u32>,
}

impl Kernel {
    /// Opens what is pinned, or makes it, and loads the programs. Nothing is attached.
    ///
    /// # Errors
    /// If pins of other sizes are there, or the kernel refuses a map or program.
    pub fn open(pins: Pins, capacity: Capacity) -> Result<Self> {
        let mut ebpf = object::open(&capacity, Some(&pins.dir()))?;
        // The second stage's is large, and most routers never need it.
        for program in object::PROGRAMS.into_iter().filter(|program| *program != object::LATE) {
            object::load(&mut ebpf, program)?;
        }
        object::connect(&mut ebpf)?;
        let clock = Clock::measure(&mut ebpf)?;
        let tables = UserTables::open(&ebpf, clock)?;
        let cells = tables.cells();
        if tables.cells().active.get() != 0 && cells.tick_shift.get() != clock.tick_shift() {
            bail!(
                "the pinned tables count time in other units than this kernel; end them with `sipnat detach --pin-dir {}`",
                pins.dir().parent().unwrap_or(&pins.dir()).display()
            );
        }
        cells.tick_shift.set(clock.tick_shift());
        cells.cpus.set(cpus());
        Ok(Self {
            tables,
            clock,
            capacity,
            ebpf: Mutex::new(ebpf),
            stages: Stages::default(),
            pins,
        })
    }

    /// The configuration in force, of this daemon or one before.
    pub fn config(&self) -> Option<Config> {
        let active = self.tables.cells().active.get();
        self.config_half(active.checked_sub(1)?).ok()
    }

    /// The secret of the tables: the one they were filled with, or a new one if they never were.
    pub fn secret(&self) -> u64 {
        let half = self.tables.cells().active.get().saturating_sub(1);
        match self.config_half(half) {
            // An earlier start got no further than this; its static forwards may be in the index.
            Ok(config) if config.secret != 0 => config.secret,
            _ => loop {
                let mut bytes = [0; 8];
                // SAFETY: a buffer of our own, with its length.
                let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
                let secret = u64::from_ne_bytes(bytes);
                if got == 8 && secret != 0 {
                    break secret;
                }
            },
        }
    }

    /// Writes a configuration and its rules beside the one in force; [`Self::activate`] puts it in force. `make` gets the
    /// place of the first rule.
    pub fn prepare(&self, rules: &[Rule], make: impl FnOnce(u32) -> Config) -> Result<u32> {
        let half = match self.tables.cells().active.get() {
            1 => 1,
            _ => 0,
        };
        let first = half * MAX_RULES;
        let config = make(first);
        let mut ebpf = self.ebpf();
        let mut map: Array<&mut MapData, Rule> = typed(&mut ebpf, "RULES")?;
        for (place, rule) in rules.iter().enumerate().take(MAX_RULES as usize) {
            map.set(first + place as u32, rule, 0)?;
        }
        let mut map: Array<&mut MapData, Config> = typed(&mut ebpf, "CONFIG")?;
        map.set(half, &config, 0)?;
        Ok(half)
    }

    /// Puts a prepared configuration in force, for all packets from now on.
    pub fn activate(&self, half: u32) {
        self.tables.cells().active.set(half + 1);
    }

    /// Whether [`Self::surround`] has room for all of it. (The external addresses have been counted before.)
    ///
    /// # Errors
    /// Names the table that is too small.
    pub fn check_room(&self, with: &Surroundings) -> Result<()> {
        let room = room(&self.ebpf(), "LOCAL")? as usize;
        if with.local.len() > room {
            bail!(
                "this machine has {} addresses and broadcast addresses of its own, and the data path has room for {room}; remove some",
                with.local.len()
            );
        }
        if with.interfaces.len() > MAX_INTERFACES as usize {
            bail!(
                "there are {} interfaces, and the data path has room for {MAX_INTERFACES}; name fewer in nat.inside and nat.outside",
                with.interfaces.len()
            );
        }
        Ok(())
    }

    /// Tells the data path about interfaces and addresses. Each table is brought up to date entry by entry, so that
    /// nothing that stays is missing for a moment. `staged_from` is of [`stages::from`].
    ///
    /// # Errors
    /// If a device has just gone, or there is less room than [`Self::check_room`] asks for.
    pub fn surround(&self, with: &Surroundings, staged_from: Option<u64>) -> Result<()> {
        self.check_room(with)?;
        let mut ebpf = self.ebpf();
        let numbers = numbered(&old_interfaces(&mut ebpf)?, &with.interfaces);
        // Until the keys lead to it, a number that is new means nothing to packets.
        let late = match staged_from {
            Some(_) => Some(Late {
                program: object::loaded(&mut ebpf, object::LATE)?,
                devices: stages::devices(&with.interfaces),
            }),
            None => None,
        };
        let mut map: DevMap<&mut MapData> = map_mut(&mut ebpf, "DEVICES")?.try_into()?;
        let entries: Vec<(u32, u32)> = numbers.iter().map(|(number, i)| (*number, i.device)).collect();
        let change = self.stages.change(&self.tables, &mut map, &entries, late.as_ref())?;
        let mut interfaces: Array<&mut MapData, Interface> = typed(&mut ebpf, "INTERFACES")?;
        let mut keys = BTreeMap::new();
        for (number, interface) in &numbers {
            interfaces.set(*number, interface, 0)?;
            keys.insert(ingress_key(interface.device, interface.vlan), *number);
            keys.insert(egress_key(interface.ifindex), *number);
        }
        sync(&mut ebpf, "INTERFACE_OF", &keys)?;
        let local: BTreeMap<u32, u32> = with.local.iter().map(|addr| (*addr, 1)).collect();
        // An address that moves between the two is known at every moment, and first as external.
        sync(&mut ebpf, "EXTERNAL", &with.external)?;
        sync(&mut ebpf, "LOCAL", &local).context("the router has more addresses than the data path has room for")?;
        self.tables.bump_routes();
        change.finish(staged_from);
        Ok(())
    }

    /// Lets packets go through two stages if there are so many bindings that it pays, and [`Self::surround`] allowed it.
    pub fn stage(&self, bindings: u64) {
        self.stages.follow(&self.tables, bindings);
    }

    /// Destinations that are routed untranslated, and the sources that may have bindings.
    pub fn set_prefixes(&self, bypass: &[Prefix], inside: &[Prefix]) -> Result<()> {
        let mut ebpf = self.ebpf();
        sync_prefixes(&mut ebpf, "BYPASS", bypass)?;
        sync_prefixes(&mut ebpf, "PREFIXES", inside)?;
        drop(ebpf);
        self.tables.bump_routes();
        Ok(())
    }

    /// Attaches the programs; see [`links::attach`].
    pub fn attach(&self, wanted: &[Wanted], mode: Mode) -> Result<()> {
        links::attach(&mut self.ebpf(), &self.pins, wanted, mode)
    }

    /// Devices that have a pinned link.
    pub fn attached(&self) -> Vec<u32> {
        self.pins.links().into_iter().map(|(ifindex, _)| ifindex).collect()
    }

    /// Takes the programs from their devices and removes all pins. The maps live on until this is dropped.
    pub fn detach(&self) -> Result<super::pins::Removed> {
        self.pins.remove()
    }

    /// Packets by reason, for each side, summed over the CPUs.
    pub fn counters(&self) -> Result<Vec<(Reason, Side, Count)>> {
        let ebpf = self.ebpf();
        let map = ebpf.map("COUNTERS").context("no map COUNTERS in the object")?;
        let map = PerCpuArray::<&MapData, Count>::try_from(map)?;
        let mut counters = Vec::with_capacity(2 * REASONS);
        for side in [Side::Inside, Side::Outside] {
            for &reason in Reason::ALL {
                let index = side as u32 * REASONS as u32 + reason as u32;
                let sum = map.get(&index, 0)?.iter().fold(Count::default(), |sum, cpu| Count {
                    packets: sum.packets + cpu.packets,
                    bytes: sum.bytes + cpu.bytes,
                });
                counters.push((reason, side, sum));
            }
        }
        Ok(counters)
    }

    /// Takes a ring buffer; each can be taken once.
    pub fn ring(&self, name: &str) -> Result<RingBuf<MapData>> {
        let map = self
            .ebpf()
            .take_map(name)
            .with_context(|| format!("no map {name} left in the object"))?;
        Ok(RingBuf::try_from(map)?)
    }

    /// The object with its maps, for those who read further ones. Not to be held while waiting.
    pub fn ebpf(&self) -> MutexGuard<'_, Ebpf> {
        self.ebpf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn config_half(&self, half: u32) -> Result<Config> {
        let ebpf = self.ebpf();
        let map = ebpf.map("CONFIG").context("no map CONFIG in the object")?;
        Ok(Array::<&MapData, Config>::try_from(map)?.get(&half, 0)?)
    }
}

/// How many external addresses the pinned tables have room for, if there are any.
pub fn pinned_addresses(dir: &Path) -> Option<u32> {
    let info = MapInfo::from_pin(dir.join("ADDRESSES")).ok()?;
    Some(info.max_entries())
}

/// Processors that may run the program.
pub fn cpus() -> u32 {
    aya::util::nr_cpus().map_or(1, u32::from)
}

fn map_mut<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut Map> {
    ebpf.map_mut(name)
        .with_context(|| format!("no map {name} in the object"))
}

fn typed<'e, M>(ebpf: &'e mut Ebpf, name: &str) -> Result<M>
where
    M: TryFrom<&'e mut Map, Error = MapError>,
{
    M::try_from(map_mut(ebpf, name)?).with_context(|| format!("{name} is another kind of map"))
}

/// How many entries a hash map has room for.
fn room(ebpf: &Ebpf, name: &str) -> Result<u32> {
    match ebpf.map(name) {
        Some(Map::HashMap(map)) => Ok(map.info()?.max_entries()),
        _ => bail!("no hash map {name} in the object"),
    }
}

/// The interfaces that the data path knows, by number.
fn old_interfaces(ebpf: &mut Ebpf) -> Result<Vec<Interface>> {
    let map: Array<&mut MapData, Interface> = typed(ebpf, "INTERFACES")?;
    Ok(map.iter().collect::<Result<_, _>>()?)
}

/// Numbers for the interfaces. One that stays keeps its number, because packets remember it for a second; one that comes
/// takes, as long as there are some, a number that nobody has had.
fn numbered(old: &[Interface], wanted: &[Interface]) -> Vec<(u32, Interface)> {
    let same = |a: &Interface, b: &Interface| {
        a.role != ROLE_NONE && (a.ifindex, a.device, a.vlan, a.role) == (b.ifindex, b.device, b.vlan, b.role)
    };
    let kept = |number: &usize| wanted.iter().any(|new| same(&old[*number], new));
    let mut free: Vec<usize> = (0..old.len()).filter(|number| !kept(number)).collect();
    free.sort_by_key(|number| old[*number].role != ROLE_NONE);
    let mut free = free.into_iter();
    let number = |new: &Interface| old.iter().position(|old| same(old, new)).or_else(|| free.next());
    let numbers: Vec<Option<usize>> = wanted.iter().map(number).collect();
    let pair = |(number, new): (Option<usize>, &Interface)| Some((number? as u32, *new));
    numbers.into_iter().zip(wanted).filter_map(pair).collect()
}

/// Makes a hash map hold exactly `wanted`, without a moment in which something that stays is missing.
fn sync<K: Pod + Ord>(ebpf: &mut Ebpf, name: &str, wanted: &BTreeMap<K, u32>) -> Result<()> {
    let room = room(ebpf, name)? as usize;
    let mut map: HashMap<&mut MapData, K, u32> = typed(ebpf, name)?;
    let old: BTreeSet<K> = map.keys().collect::<Result<_, _>>()?;
    let gone: Vec<&K> = old.iter().filter(|key| !wanted.contains_key(key)).collect();
    // If there is room for both, what comes is there before what goes is not.
    let crowded = gone.len() + wanted.len() > room;
    if crowded {
        gone.iter().try_for_each(|key| map.remove(key))?;
    }
    for (key, value) in wanted {
        map.insert(key, value, 0).with_context(|| format!("{name} is full"))?;
    }
    if !crowded {
        gone.iter().try_for_each(|key| map.remove(key))?;
    }
    Ok(())
}

fn sync_prefixes(ebpf: &mut Ebpf, name: &str, wanted: &[Prefix]) -> Result<()> {
    let mut map: LpmTrie<&mut MapData, [u8; 4], u32> = typed(ebpf, name)?;
    let old: Vec<Key<[u8; 4]>> = map.keys().collect::<Result<_, _>>()?;
    let key = |prefix: &Prefix| (u32::from(prefix.len), prefix.addr.octets());
    for prefix in wanted {
        let (len, addr) = key(prefix);
        map.insert(&Key::new(len, addr), &1, 0)
            .with_context(|| format!("{name} is full at {prefix}"))?;
    }
    for old in old {
        if !wanted
            .iter()
            .any(|prefix| key(prefix) == (old.prefix_len(), old.data()))
        {
            map.remove(&old)
                .with_context(|| format!("{name}: {}", Ipv4Addr::from(old.data())))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nat_common::maps::{ROLE_INSIDE, ROLE_OUTSIDE};

    #[test]
    fn interfaces_keep_their_numbers() {
        let interface = |ifindex, role| Interface {
            ifindex,
            device: ifindex,
            role,
            ..Interface::default()
        };
        let (a, b, c) = (
            interface(1, ROLE_INSIDE),
            interface(2, ROLE_OUTSIDE),
            interface(3, ROLE_INSIDE),
        );
        let none = Interface::default();
        assert_eq!(numbered(&[none; 4], &[a, b]), [(0, a), (1, b)]);
        // One more in front of them, with another MTU for those that were there.
        let b = Interface { mtu: 1400, ..b };
        assert_eq!(numbered(&[a, b, none, none], &[c, a, b]), [(2, c), (0, a), (1, b)]);
        // The number of one that went is the last to be given again; on the other side it is another interface.
        assert_eq!(
            numbered(&[a, b, c, none], &[b, interface(1, ROLE_OUTSIDE)])
                .last()
                .unwrap()
                .0,
            3
        );
        assert_eq!(numbered(&[a, b], &[c, b]), [(0, c), (1, b)]);
    }
}

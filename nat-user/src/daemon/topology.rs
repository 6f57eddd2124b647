//! The configured interfaces and addresses on this machine: from what netlink lists to what the data path is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use anyhow::{Context as _, Result, bail};
use nat_common::maps::{AddressWord, Interface as Entry, ROLE_INSIDE, ROLE_OUTSIDE};

use crate::{
    config::{Config, Interface as Name},
    dataplane::{
        kernel::Surroundings,
        links::{Wanted, one_program_each},
        object,
    },
    net::{self, Kind, Scope, XdpAttachMode},
    preflight::Mode,
};

/// A configured interface that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// As configured.
    pub name: Name,
    /// `ROLE_*`.
    pub role: u8,
    /// The device that the program is on.
    pub device: net::Interface,
    /// Index of the interface with the addresses and routes: the VLAN's own if it has one, else the device's.
    pub ifindex: u32,
    /// The first address there.
    pub addr: Option<Ipv4Addr>,
}

/// The configured interfaces and the machine's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Inside ones first, in the order of the configuration.
    pub ports: Vec<Port>,
    /// External addresses, each once.
    pub external: Vec<Ipv4Addr>,
    /// Those of them that an interface of the router has; the others are only routed to it.
    pub carried: BTreeSet<Ipv4Addr>,
    /// The router's other addresses and broadcast addresses.
    pub local: Vec<u32>,
}

impl Topology {
    /// Finds the configured interfaces.
    ///
    /// # Errors
    /// Names the interface that is missing, or two of which the routing table could not tell which is meant.
    pub fn new(config: &Config, interfaces: &[net::Interface], addresses: &[net::Address]) -> Result<Self> {
        let sides = [(ROLE_INSIDE, &config.nat.inside), (ROLE_OUTSIDE, &config.nat.outside)];
        let mut ports = Vec::new();
        for (role, names) in sides {
            for name in names {
                ports.push(port(name, role, interfaces, addresses)?);
            }
        }
        one_network_each(&ports)?;
        let outside: Vec<u32> = ports
            .iter()
            .filter(|port| port.role == ROLE_OUTSIDE)
            .map(|port| port.ifindex)
            .collect();
        let external = external(config, &outside, addresses);
        let wanted: BTreeSet<Ipv4Addr> = external.iter().copied().collect();
        let (carried, local): (BTreeSet<_>, BTreeSet<_>) =
            addresses.iter().flat_map(own).partition(|addr| wanted.contains(addr));
        Ok(Self {
            ports,
            external,
            carried,
            local: local.into_iter().map(u32::from).collect(),
        })
    }

    /// The devices and the programs they want.
    pub fn devices(&self) -> Vec<Wanted> {
        let wanted: Vec<Wanted> = self
            .ports
            .iter()
            .map(|port| Wanted {
                ifindex: port.device.index,
                name: port.device.name.clone(),
                program: if port.role == ROLE_INSIDE {
                    object::INSIDE
                } else {
                    object::OUTSIDE
                },
                attached: port.device.xdp.and_then(|xdp| match xdp.mode {
                    XdpAttachMode::Native => Some(Mode::Native),
                    XdpAttachMode::Generic => Some(Mode::Generic),
                    XdpAttachMode::Hardware | XdpAttachMode::Multiple => None,
                }),
            })
            .collect();
        one_program_each(&wanted)
    }

    /// The interfaces as the data path has them.
    pub fn entries(&self) -> Vec<Entry> {
        self.ports.iter().map(entry).collect()
    }

    /// What the data path is told; `places` are the indexes of the external addresses.
    pub fn surroundings(&self, places: &BTreeMap<u32, u32>) -> Surroundings {
        Surroundings {
            interfaces: self.entries(),
            external: places.clone(),
            local: self.local.clone(),
        }
    }

    /// The smallest MTU of all interfaces, in bytes.
    pub fn mtu(&self) -> u32 {
        self.ports.iter().map(|port| port.device.mtu).min().unwrap_or(1500)
    }

    /// Interfaces with routes and neighbours that packets are sent by.
    pub fn layer3(&self) -> Vec<u32> {
        self.ports.iter().map(|port| port.ifindex).collect()
    }
}

/// How many external addresses the configuration asks for, also before all interfaces are there.
pub fn count_external(config: &Config, interfaces: &[net::Interface], addresses: &[net::Address]) -> u32 {
    let outside: Vec<u32> = config
        .nat
        .outside
        .iter()
        .filter_map(|name| Some(find(name, interfaces)?.1))
        .collect();
    external(config, &outside, addresses).len() as u32
}

fn find<'a>(name: &Name, interfaces: &'a [net::Interface]) -> Option<(&'a net::Interface, u32)> {
    let device = interfaces.iter().find(|interface| interface.name == name.name)?;
    let own = |id| {
        let parent = device.index;
        interfaces.iter().find(|i| i.kind == Kind::Vlan { parent, id })
    };
    let layer3 = name.vlan.and_then(own).unwrap_or(device);
    Some((device, layer3.index))
}

fn port(name: &Name, role: u8, interfaces: &[net::Interface], addresses: &[net::Address]) -> Result<Port> {
    let (device, ifindex) = find(name, interfaces).with_context(|| {
        format!("there is no interface {name}; correct the name, or create it before sipnat starts")
    })?;
    let mut device = device.clone();
    if let Some(upper) = interfaces.iter().find(|interface| interface.index == ifindex) {
        device.mtu = device.mtu.min(upper.mtu);
    }
    let addr = addresses
        .iter()
        .find(|address| address.ifindex == ifindex)
        .map(|address| address.addr);
    Ok(Port {
        name: name.clone(),
        role,
        device,
        ifindex,
        addr,
    })
}

/// Preflight says it more kindly; here it keeps a VLAN interface that goes away from mixing up two networks.
fn one_network_each(ports: &[Port]) -> Result<()> {
    for (i, port) in ports.iter().enumerate() {
        if let Some(other) = ports[..i].iter().find(|other| other.ifindex == port.ifindex) {
            bail!(
                "{} and {} have the same interface for their addresses and routes; give each VLAN an interface of its own",
                other.name,
                port.name
            );
        }
    }
    Ok(())
}

fn external(config: &Config, outside: &[u32], addresses: &[net::Address]) -> Vec<Ipv4Addr> {
    let mut external: Vec<Ipv4Addr> = if config.nat.addresses.is_empty() {
        let global = |address: &&net::Address| outside.contains(&address.ifindex) && address.scope == Scope::Universe;
        addresses.iter().filter(global).map(|address| address.addr).collect()
    } else {
        config
            .nat
            .addresses
            .iter()
            .flat_map(|prefix| prefix.addresses())
            .collect()
    };
    let mut seen = std::collections::HashSet::new();
    external.retain(|address| seen.insert(*address));
    external
}

/// An address and the broadcast addresses that come with it (RFC 1812 §5.3.5).
fn own(address: &net::Address) -> Vec<Ipv4Addr> {
    let mut own = vec![address.addr];
    own.extend(address.broadcast);
    if address.prefix_len < 31 && address.peer.is_none() {
        own.push(address.network().last());
    }
    own
}

fn entry(port: &Port) -> Entry {
    Entry {
        ifindex: port.ifindex,
        device: port.device.index,
        addr: port.addr.map_or(0, u32::from),
        mtu: u16::try_from(port.device.mtu).unwrap_or(u16::MAX),
        vlan: port.name.vlan.unwrap_or(0),
        mac: port.device.mac.unwrap_or_default(),
        role: port.role,
        reserved: 0,
    }
}

/// The new words of the address table: who stays keeps place and generation, who comes takes the place of one that goes,
/// with a new generation, so that bindings of the old address die and static forwards move along. Packets without a
/// binding are the router's own only on an address that is `carried`. Returns the words and the addresses that found no
/// place.
pub fn place_addresses(
    old: &[AddressWord],
    wanted: &[Ipv4Addr],
    carried: &BTreeSet<Ipv4Addr>,
) -> (Vec<AddressWord>, Vec<Ipv4Addr>) {
    let used = |address: Ipv4Addr, generation| {
        let word = AddressWord::new(address.into(), generation, true);
        if carried.contains(&address) {
            word
        } else {
            word.uncarried()
        }
    };
    let mut words: Vec<AddressWord> = old
        .iter()
        .map(|word| AddressWord::new(word.addr(), word.generation(), false))
        .collect();
    let mut homeless = Vec::new();
    for &address in wanted {
        match words.iter().position(|word| word.addr() == u32::from(address)) {
            Some(place) => words[place] = used(address, words[place].generation()),
            None => homeless.push(address),
        }
    }
    // Rather the place of an address that has just gone than that of one that nobody has had.
    let left = |place: &usize| !words[*place].active();
    let mut places: Vec<usize> = (0..words.len()).filter(left).collect();
    places.sort_by_key(|place| !old[*place].active());
    let mut places = places.into_iter();
    homeless.retain(|&address| match places.next() {
        Some(place) => {
            let generation = words[place].generation().wrapping_add(1);
            words[place] = used(address, generation);
            false
        }
        None => true,
    });
    (words, homeless)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
    const B: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
    const C: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 3);

    fn word(addr: Ipv4Addr, generation: u16, active: bool) -> AddressWord {
        AddressWord::new(addr.into(), generation, active)
    }

    fn place(old: &[AddressWord], wanted: &[Ipv4Addr]) -> (Vec<AddressWord>, Vec<Ipv4Addr>) {
        place_addresses(old, wanted, &BTreeSet::from([A, B, C]))
    }

    #[test]
    fn addresses_keep_their_places() {
        let empty = [AddressWord(0); 2];
        let (words, none) = place(&empty, &[A, B]);
        assert_eq!(
            (words.as_slice(), none.as_slice()),
            (&[word(A, 1, true), word(B, 1, true)][..], &[][..])
        );
        // Another order changes nothing; one that goes takes its bindings along.
        let (words, _) = place(&words, &[B]);
        assert_eq!(words, [word(A, 1, false), word(B, 1, true)]);
        // It comes back as it was; a new one takes its place with a new generation.
        assert_eq!(place(&words, &[B, A]).0, [word(A, 1, true), word(B, 1, true)]);
        assert_eq!(place(&words, &[C, B]).0, [word(C, 2, true), word(B, 1, true)]);
        let (words, homeless) = place(&words, &[C, A, B]);
        assert_eq!(
            (words.as_slice(), homeless),
            (&[word(A, 1, true), word(B, 1, true)][..], vec![C])
        );
    }

    #[test]
    fn an_address_change_reuses_the_place_of_the_old_address() {
        let old = [AddressWord(0), word(A, 4, true)];
        assert_eq!(place(&old, &[B]).0, [AddressWord(0), word(B, 5, true)]);
    }

    #[test]
    fn what_is_only_routed_here_is_not_the_routers_own() {
        let (words, _) = place_addresses(&[AddressWord(0); 2], &[A, B], &BTreeSet::from([A]));
        assert_eq!(words, [word(A, 1, true), word(B, 1, true).uncarried()]);
        // Bindings stay when an interface gets the address or loses it.
        let (words, _) = place_addresses(&words, &[A, B], &BTreeSet::from([B]));
        assert_eq!(words, [word(A, 1, true).uncarried(), word(B, 1, true)]);
        let (words, _) = place_addresses(&words, &[B], &BTreeSet::from([A, B]));
        assert_eq!(words, [word(A, 1, false), word(B, 1, true)]);
        let (words, _) = place_addresses(&words, &[C, B], &BTreeSet::from([B]));
        assert_eq!(words, [word(C, 2, true).uncarried(), word(B, 1, true)]);
    }

    #[test]
    fn an_address_that_comes_or_goes_changes_the_topology() {
        let text = format!("[nat]\ninside = [\"in\"]\noutside = [\"out\"]\naddresses = [\"{A}\", \"{B}\"]\n");
        let config = Config::parse(&text, "test").unwrap();
        let interface = |index, name: &str| net::Interface {
            index,
            name: name.into(),
            kind: Kind::Physical,
            ethernet: true,
            mac: Some([2, 0, 0, 0, 0, index as u8]),
            mtu: 1500,
            up: true,
            carrier: true,
            master: None,
            link: None,
            xdp: None,
        };
        let interfaces = [interface(2, "in"), interface(3, "out")];
        let at = |ifindex, addr| net::Address {
            ifindex,
            addr,
            prefix_len: 32,
            peer: None,
            scope: Scope::Universe,
            broadcast: None,
            flags: 0,
        };
        let topology = |addresses: &[net::Address]| Topology::new(&config, &interfaces, addresses).unwrap();
        let before = topology(&[at(3, C)]);
        assert_eq!((before.external.as_slice(), before.carried.len()), (&[A, B][..], 0));
        assert_eq!(before.local, [u32::from(C)]);
        // On any interface, the loopback device as well.
        let after = topology(&[at(3, C), at(1, B)]);
        assert_eq!(after.carried, BTreeSet::from([B]));
        assert_eq!(after.local, before.local);
        assert_ne!(before, after, "else the daemon would not tell the data path");
    }
}

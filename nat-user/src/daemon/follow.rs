//! Following the network: addresses, links, routes, neighbours.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use anyhow::Result;
use nat_common::{
    maps::{AddressWord, BlockState, BlockWord, PORTS},
    tables::Tables as _,
};
use tokio::time::Instant;

use super::{blocks::News, life::Life, nat::Nat, slow, start::set_addresses, topology::Topology};
use crate::{
    dataplane::{geometry, stages},
    net::{self, Event},
    records,
    sweep::BlockNews,
};

/// Events come in bursts: so long is waited for more, but never longer than `LATEST` in all.
const QUIET: Duration = Duration::from_millis(10);
const LATEST: Duration = Duration::from_millis(50);

/// Events that have come and are not acted upon yet.
#[derive(Debug, Default)]
pub struct Pending {
    first: Option<Instant>,
    last: Option<Instant>,
    /// Interfaces or addresses may have changed.
    listing: bool,
}

impl Pending {
    fn add(&mut self, now: Instant, listing: bool) {
        self.first.get_or_insert(now);
        self.last = Some(now);
        self.listing |= listing;
    }

    /// Events may have been missed.
    pub fn everything(&mut self, now: Instant) {
        self.add(now, true);
    }

    /// When to act.
    pub fn due(&self) -> Option<Instant> {
        Some((self.last? + QUIET).min(self.first? + LATEST))
    }
}

impl Life {
    /// Takes note of an event.
    pub fn note(&mut self, event: Event, pending: &mut Pending) {
        tracing::trace!(?event, "network");
        let now = Instant::now();
        match (event, &mut self.nat) {
            (Event::NeighbourChanged(neighbour), Some(nat)) => {
                let mac = neighbour.mac.filter(|_| neighbour.state.is_valid());
                let old = nat.neighbours.insert((neighbour.ifindex, neighbour.addr), mac);
                nat.slow_path
                    .neighbour_changed(neighbour.ifindex, neighbour.addr, mac.is_some());
                if old != Some(mac) {
                    pending.add(now, false);
                }
            }
            (Event::NeighbourRemoved { ifindex, addr }, Some(nat)) => {
                nat.neighbours.remove(&(ifindex, addr));
                pending.add(now, false);
            }
            (Event::RouteChanged { .. } | Event::RuleChanged, Some(_)) => pending.add(now, false),
            (
                Event::AddressAdded(_)
                | Event::AddressRemoved(_)
                | Event::LinkChanged(_)
                | Event::LinkRemoved { .. }
                | Event::Resync,
                _,
            ) => pending.add(now, true),
            // Neighbours and routes are the kernel's business where nothing is translated.
            (_, None) => {}
        }
    }

    /// Acts upon events.
    pub async fn follow(&mut self, pending: Pending) {
        if let Some(nat) = &self.nat {
            nat.state.kernel.tables.bump_routes();
        }
        if pending.listing
            && let Err(error) = self.follow_listing().await
        {
            tracing::warn!("after a change of the network: {error:#}");
        }
    }

    async fn follow_listing(&mut self) -> Result<()> {
        let (interfaces, addresses) = (self.net.interfaces().await?, self.net.addresses().await?);
        if let Some(sip) = &self.sip {
            sip.follow(&interfaces, &addresses).await;
        }
        if let Some(nat) = &mut self.nat {
            nat.follow_listing(&interfaces, &addresses)?;
        }
        self.end_stranded_media().await;
        self.make_way();
        Ok(())
    }

    /// The SIP server's ports are the router's own.
    pub fn make_way(&self) {
        if let (Some(nat), Some(sip)) = (&self.nat, &self.sip) {
            nat.make_way(&sip.sockets());
        }
    }
}

impl Nat {
    fn follow_listing(&mut self, interfaces: &[net::Interface], addresses: &[net::Address]) -> Result<()> {
        let (config, mode, old) = {
            let current = self.state.current();
            (current.config.clone(), current.mode, current.topology.clone())
        };
        let new = Topology::new(&config, interfaces, addresses)?;
        if new == old {
            return Ok(());
        }
        let devices = new.devices();
        let attached = self.state.kernel.attached();
        if devices.iter().any(|device| !attached.contains(&device.ifindex)) {
            // A device that went and came again.
            self.state.kernel.attach(&devices, mode)?;
        }
        self.move_to(new)
    }

    /// Tells the data path of a new topology.
    pub fn move_to(&mut self, new: Topology) -> Result<()> {
        let (kernel, old) = (&self.state.kernel, self.state.current().topology.external.clone());
        kernel.check_room(&new.surroundings(&BTreeMap::new()))?;
        let mut replaced = Vec::new();
        let places = set_addresses(kernel, &new, &mut |place, word| replaced.push((place, word)));
        for (place, word) in replaced {
            self.hand_over_blocks(place, word);
        }
        let (config, mode) = {
            let current = self.state.current();
            (current.config.clone(), current.mode)
        };
        let staged_from = stages::from(&config, &kernel.capacity, mode);
        kernel.surround(&new.surroundings(&places), staged_from)?;
        let mut numbers = self.state.current().numbers;
        let mtu = geometry::numbers(&config, &kernel.capacity, &kernel.clock, 0, new.mtu(), 0).mss;
        if mtu != numbers.mss {
            let half = kernel.prepare(&geometry::rules(&config), |first_rule| {
                numbers.mss = mtu;
                numbers.policy_first = first_rule;
                numbers
            })?;
            kernel.activate(half);
        }
        let external = new.external.clone();
        {
            let mut current = self.state.change();
            current.numbers = numbers;
            current.topology = new;
        }
        slow::configure(&self.slow_path, &self.state);
        self.apply_forwards();
        if let Some(pap) = &mut self.pap {
            pap.follow(&self.state.current().topology.clone());
        }
        self.tell_addresses(&old, &external);
        Ok(())
    }

    fn tell_addresses(&self, old: &[Ipv4Addr], new: &[Ipv4Addr]) {
        let without = |a: &[Ipv4Addr], b: &[Ipv4Addr]| -> Vec<Ipv4Addr> {
            a.iter().filter(|address| !b.contains(address)).copied().collect()
        };
        let (added, removed) = (without(new, old), without(old, new));
        if added.is_empty() && removed.is_empty() {
            return;
        }
        tracing::info!(?added, ?removed, "the external addresses have changed");
        self.state
            .events
            .publish(records::Event::AddressesChanged { added, removed });
    }

    /// Blocks stay with their owners when the address under them changes; for the log that is a release and an assignment.
    fn hand_over_blocks(&self, place: u32, old: AddressWord) {
        let (tables, shift) = (&self.state.kernel.tables, self.state.current().numbers.block_shift);
        let per_address = PORTS >> shift;
        for number in place * per_address..(place + 1) * per_address {
            let Some(block) = tables.block(number) else { return };
            let word = BlockWord(block.word.get());
            if !matches!(word.state(), BlockState::Owned | BlockState::Draining) {
                continue;
            }
            let news = BlockNews::Released {
                block: number,
                address: old.addr(),
                host: word.owner(),
                since: block.since.get(),
                logged: block.logged.get() != 0,
            };
            // Without the log's task the daemon is ending.
            let _ = self.news.send(News::Block(news));
            block.since.set(self.state.now());
            block.logged.set(0);
        }
    }
}

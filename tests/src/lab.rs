//! The lab: inside hosts, a router, outside hosts, each in a network namespace of its own.
//!
//! ```text
//!  h1 h2 …  192.168.1.10+ ──┐                                        ┌── o1 o2 … 203.0.113.100+
//!                         switch ── in0 .1 [ router ] out0 .1 .2 … ──┴─ switch
//!  deep 10.9.0.10 ── ir .254┘                                        └── or .250 ── far 198.51.100.10
//!          g1 192.168.2.10 ─────── in1 .1           out1 .1 ──────────── p1 192.0.2.100
//!                                                                         outside switch ── n1 .201 ── f1 192.168.7.10
//! ```
//!
//! Outside hosts have no route to the inside networks: what leaves untranslated is seen by them and never answered.

mod construction;

use std::net::Ipv4Addr;
use std::ops::Deref;

use anyhow::{Result, ensure};

use crate::link::Offloads;
use crate::ns::{Namespace, unique_prefix};
use crate::packet::Mac;

/// The interface name of every host.
pub const DEV: &str = "eth0";
/// The router's address on `in0`.
pub const INSIDE_GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
/// The router's address on `in1`.
pub const SECOND_INSIDE_GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 1);
/// The router's first address on `out0`; further external addresses follow it.
pub const EXTERNAL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The router's address on `out1`.
pub const SECOND_EXTERNAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The router inside, on the inside switch.
pub const INSIDE_ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 254);
/// The private address of every foreign NAT.
pub const FOREIGN_GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 1);
/// The router outside, on the outside switch.
pub const OUTSIDE_ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 250);
/// The inside router's address towards `deep`.
pub const DEEP_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// The outside router's address towards `far`.
pub const FAR_GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// A host: its namespace (to which it dereferences), address and the way to its router.
#[derive(Clone, Debug)]
pub struct Host {
    ns: Namespace,
    /// Its address on [`DEV`].
    pub ip: Ipv4Addr,
    /// Its Ethernet address.
    pub mac: Mac,
    /// The address of the next hop towards everything else.
    pub gateway: Ipv4Addr,
    /// The Ethernet address of that next hop: the destination of hand-made frames.
    pub gateway_mac: Mac,
    /// The router's interface on whose link it is, unless there is another router in between.
    router_dev: Option<&'static str>,
}

impl Deref for Host {
    type Target = Namespace;
    fn deref(&self) -> &Namespace {
        &self.ns
    }
}

/// What to build. The defaults are one host on each side and one external address.
#[derive(Clone, Debug)]
pub struct LabBuilder {
    prefix: Option<String>,
    inside_hosts: u8,
    outside_hosts: u8,
    external_addresses: u8,
    inside_mtu: u32,
    outside_mtu: u32,
    far_mtu: Option<u32>,
    inside_router: bool,
    second_inside: bool,
    second_outside: bool,
    ipv6: bool,
    cold: bool,
    direct: bool,
    offloads: Offloads,
    outside: OutsideNetwork,
    foreign_nats: u8,
}

/// The addresses of the network outside.
#[derive(Clone, Copy, Debug)]
struct OutsideNetwork {
    /// The router's first address.
    external: Ipv4Addr,
    /// That of `o1`; others follow it.
    first_host: Ipv4Addr,
    /// Length of the prefix that they share.
    length: u8,
}

impl LabBuilder {
    /// Another network outside than 203.0.113.0/24: the router's first address in it, that of `o1`, and the prefix length.
    pub fn outside_network(mut self, external: Ipv4Addr, first_host: Ipv4Addr, length: u8) -> Self {
        self.outside = OutsideNetwork {
            external,
            first_host,
            length,
        };
        self
    }
    /// Adds routers `n1`, `n2` … (at most 9) on the outside switch, and behind each a host `f1`, `f2` …, all of which have the
    /// same private address 192.168.7.10. They translate by nftables masquerade, with conntrack's timeouts.
    pub fn foreign_nats(mut self, count: u8) -> Self {
        self.foreign_nats = count;
        self
    }
    /// Hosts `h1`, `h2` … on the inside switch, at 192.168.1.10 and up (at most 200).
    pub fn inside_hosts(mut self, count: u8) -> Self {
        self.inside_hosts = count;
        self
    }
    /// Hosts `o1`, `o2` … on the outside switch, at 203.0.113.100 and up (at most 100).
    pub fn outside_hosts(mut self, count: u8) -> Self {
        self.outside_hosts = count;
        self
    }
    /// Addresses of the router on `out0`, from 203.0.113.1 on (at most 90).
    pub fn external_addresses(mut self, count: u8) -> Self {
        self.external_addresses = count;
        self
    }
    /// MTU of everything on the inside switch, in bytes.
    pub fn inside_mtu(mut self, mtu: u32) -> Self {
        self.inside_mtu = mtu;
        self
    }
    /// MTU of everything on the outside switch, in bytes.
    pub fn outside_mtu(mut self, mtu: u32) -> Self {
        self.outside_mtu = mtu;
        self
    }
    /// Adds the outside router `or` and behind it, over a link of this MTU, the host `far`.
    pub fn far(mut self, mtu: u32) -> Self {
        self.far_mtu = Some(mtu);
        self
    }
    /// Adds the inside router `ir` and behind it the host `deep` in 10.9.0.0/16.
    pub fn inside_router(mut self) -> Self {
        self.inside_router = true;
        self
    }
    /// Adds the router's interface `in1` (192.168.2.0/24) with the host `g1`.
    pub fn second_inside(mut self) -> Self {
        self.second_inside = true;
        self
    }
    /// Adds the router's interface `out1` (192.0.2.0/24) with the host `p1`.
    pub fn second_outside(mut self) -> Self {
        self.second_outside = true;
        self
    }
    /// Leaves IPv6 on. It is off otherwise, to keep captures quiet.
    pub fn ipv6(mut self) -> Self {
        self.ipv6 = true;
        self
    }
    /// Leaves the router's neighbours to ARP. Otherwise the router knows all hosts from the start.
    pub fn cold_neighbours(mut self) -> Self {
        self.cold = true;
        self
    }
    /// Puts `h1` and `o1` directly on the router's interfaces, without switches: for throughput. Captures at the hosts
    /// then show what GRO merged.
    pub fn direct(mut self) -> Self {
        self.direct = true;
        self
    }
    /// Which offloads the links have.
    pub fn offloads(mut self, offloads: Offloads) -> Self {
        self.offloads = offloads;
        self
    }
    /// Names the namespaces `PREFIX-ROLE` instead of uniquely: for labs that people enter by hand.
    pub fn prefix(mut self, prefix: &str) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// Builds it. Whatever was made is removed again if something fails.
    pub fn build(self) -> Result<Lab> {
        ensure!(
            self.inside_hosts <= 200 && self.outside_hosts <= 100,
            "at most 200 inside and 100 outside hosts"
        );
        ensure!(
            (1..=90).contains(&self.external_addresses),
            "between 1 and 90 external addresses"
        );
        ensure!(
            !self.direct || (self.inside_hosts <= 1 && self.outside_hosts <= 1),
            "a direct lab has one host a side"
        );
        ensure!(
            !self.direct || !(self.inside_router || self.far_mtu.is_some()),
            "a direct lab has no further routers"
        );
        ensure!(self.foreign_nats <= 9, "at most 9 foreign NATs");
        ensure!(
            !self.direct || self.foreign_nats == 0,
            "a direct lab has no foreign NATs"
        );
        ensure!(
            self.far_mtu.is_none() || self.outside.external == EXTERNAL,
            "the outside router is in 203.0.113.0/24"
        );
        let prefix = self.prefix.clone().unwrap_or_else(unique_prefix);
        construction::build(prefix, self)
    }
}

/// A built lab. Dropping it (and every clone of its namespaces) removes it.
#[derive(Debug)]
pub struct Lab {
    /// The router, with `in0`, `out0` and, if asked for, `in1` and `out1`.
    pub router: Namespace,
    prefix: String,
    inside: Vec<Host>,
    outside: Vec<Host>,
    deep: Option<Host>,
    far: Option<Host>,
    second_inside: Option<Host>,
    second_outside: Option<Host>,
    foreign: Vec<(Host, Host)>,
    others: Vec<(&'static str, Namespace)>,
    external: Ipv4Addr,
    external_addresses: u8,
    cold: bool,
}

impl Lab {
    /// Describes a lab to build.
    pub fn builder() -> LabBuilder {
        LabBuilder {
            prefix: None,
            inside_hosts: 1,
            outside_hosts: 1,
            external_addresses: 1,
            inside_mtu: 1500,
            outside_mtu: 1500,
            far_mtu: None,
            inside_router: false,
            second_inside: false,
            second_outside: false,
            ipv6: false,
            cold: false,
            direct: false,
            offloads: Offloads::Xdp,
            outside: OutsideNetwork {
                external: EXTERNAL,
                first_host: Ipv4Addr::new(203, 0, 113, 100),
                length: 24,
            },
            foreign_nats: 0,
        }
    }

    /// Inside host `h1`, `h2` … Panics if the lab has no such host.
    pub fn h(&self, number: usize) -> &Host {
        pick(&self.inside, number, "inside_hosts")
    }

    /// Outside host `o1`, `o2` … Panics if the lab has no such host.
    pub fn o(&self, number: usize) -> &Host {
        pick(&self.outside, number, "outside_hosts")
    }

    /// The host behind the inside router. Panics without [`LabBuilder::inside_router`].
    pub fn deep(&self) -> &Host {
        self.deep.as_ref().expect("the lab was built without .inside_router()")
    }

    /// The host behind the outside router. Panics without [`LabBuilder::far`].
    pub fn far(&self) -> &Host {
        self.far.as_ref().expect("the lab was built without .far(mtu)")
    }

    /// The host on the router's `in1`. Panics without [`LabBuilder::second_inside`].
    pub fn g1(&self) -> &Host {
        self.second_inside
            .as_ref()
            .expect("the lab was built without .second_inside()")
    }

    /// The host on the router's `out1`. Panics without [`LabBuilder::second_outside`].
    pub fn p1(&self) -> &Host {
        self.second_outside
            .as_ref()
            .expect("the lab was built without .second_outside()")
    }

    /// Foreign NAT `n1`, `n2` …, with its outside address. Panics if the lab has no such NAT.
    pub fn n(&self, number: usize) -> &Host {
        &self.foreign_pair(number).0
    }

    /// The host behind foreign NAT `n1`, `n2` …. Panics if the lab has no such NAT.
    pub fn f(&self, number: usize) -> &Host {
        &self.foreign_pair(number).1
    }

    fn foreign_pair(&self, number: usize) -> &(Host, Host) {
        let pair = number.checked_sub(1).and_then(|at| self.foreign.get(at));
        pair.unwrap_or_else(|| panic!("foreign NAT {number} of {}: raise .foreign_nats()", self.foreign.len()))
    }

    /// A namespace by its role: `router`, `ir`, `or`, `inside` and `outside` (the switches). Panics if it is not there.
    pub fn other(&self, role: &str) -> &Namespace {
        let found = self.others.iter().find(|(name, _)| *name == role).map(|(_, ns)| ns);
        found.unwrap_or_else(|| panic!("the lab has no namespace {role:?}"))
    }

    /// External address number `index`, from 0.
    pub fn external(&self, index: u8) -> Ipv4Addr {
        assert!(
            index < self.external_addresses,
            "the lab has {} external addresses",
            self.external_addresses
        );
        offset(self.external, index)
    }

    /// The router's inside interfaces.
    pub fn inside_interfaces(&self) -> Vec<&'static str> {
        if self.second_inside.is_some() {
            vec!["in0", "in1"]
        } else {
            vec!["in0"]
        }
    }

    /// The router's outside interfaces.
    pub fn outside_interfaces(&self) -> Vec<&'static str> {
        if self.second_outside.is_some() {
            vec!["out0", "out1"]
        } else {
            vec!["out0"]
        }
    }

    /// Gives a host one more address on its [`DEV`] (a /32) and makes it known to the router.
    pub fn add_address(&self, host: &Host, address: Ipv4Addr) -> Result<()> {
        self.add_addresses(host, [address])
    }

    /// [`Self::add_address`] for many at once: one namespace then stands for a crowd of hosts.
    pub fn add_addresses(&self, host: &Host, all: impl IntoIterator<Item = Ipv4Addr>) -> Result<()> {
        let all: Vec<Ipv4Addr> = all.into_iter().collect();
        let lines = all.iter().map(|address| format!("addr add {address}/32 dev {DEV}"));
        host.ip_batch(&lines.collect::<Vec<_>>())?;
        match host.router_dev {
            Some(dev) if !self.cold => {
                let lines = all
                    .iter()
                    .map(|address| construction::neighbour(*address, host.mac, dev));
                self.router.ip_batch(&lines.collect::<Vec<_>>())
            }
            _ => Ok(()),
        }
    }

    /// All hosts with their names, such as `h1`.
    pub fn hosts(&self) -> Vec<(String, &Host)> {
        let numbered = |letter: char, hosts: &'_ [Host]| -> Vec<String> {
            (1..=hosts.len()).map(|number| format!("{letter}{number}")).collect()
        };
        let inside = numbered('h', &self.inside).into_iter().zip(&self.inside);
        let outside = numbered('o', &self.outside).into_iter().zip(&self.outside);
        let single = [
            ("deep", &self.deep),
            ("far", &self.far),
            ("g1", &self.second_inside),
            ("p1", &self.second_outside),
        ];
        let single = single
            .into_iter()
            .filter_map(|(name, host)| Some((name.to_string(), host.as_ref()?)));
        let foreign = (1..).zip(&self.foreign);
        let foreign = foreign.flat_map(|(at, (nat, host))| [(format!("n{at}"), nat), (format!("f{at}"), host)]);
        inside.chain(outside).chain(single).chain(foreign).collect()
    }

    /// All namespaces with the role that their name ends in: hosts, routers and switches.
    pub fn namespaces(&self) -> Vec<(String, &Namespace)> {
        let hosts = self.hosts().into_iter().map(|(name, host)| (name, &host.ns));
        let others = self.others.iter().map(|(role, ns)| (role.to_string(), ns));
        hosts.chain(others).collect()
    }

    /// Leaves all namespaces in place when the lab is dropped.
    pub fn keep(&self) {
        self.namespaces().iter().for_each(|(_, ns)| ns.keep());
    }

    /// What the names of this lab's namespaces begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

fn pick<'a>(hosts: &'a [Host], number: usize, option: &str) -> &'a Host {
    assert!(
        (1..=hosts.len()).contains(&number),
        "host {number} of {}: raise .{option}()",
        hosts.len()
    );
    &hosts[number - 1]
}

pub(crate) fn offset(base: Ipv4Addr, by: u8) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(base) + u32::from(by))
}

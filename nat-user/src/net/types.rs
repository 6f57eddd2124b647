//! What the kernel says about interfaces, addresses, routes and neighbours, in our own words.

use std::fmt;
use std::net::Ipv4Addr;

use crate::units::Prefix;

/// One network interface of the current namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub index: u32,
    pub kind: Kind,
    /// Frames start with an Ethernet header (ARPHRD_ETHER); false for PPP, tun, WireGuard, loopback.
    pub ethernet: bool,
    /// None where the link layer has no 48-bit address.
    pub mac: Option<[u8; 6]>,
    /// In bytes, without the link-layer header.
    pub mtu: u32,
    /// Administratively up (IFF_UP).
    pub up: bool,
    /// Has a carrier (IFF_LOWER_UP).
    pub carrier: bool,
    /// The bridge, bond, team or VRF that this interface is a port of.
    pub master: Option<u32>,
    /// The device below (VLAN, macvlan) or the other end (veth). See [`Link::netns`] for where that index counts.
    pub link: Option<Link>,
    pub xdp: Option<AttachedXdp>,
}

/// What an interface hangs on: the parent of a VLAN or macvlan, the peer of a veth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    /// The kernel's id of the namespace that `index` belongs to; None: this namespace.
    pub netns: Option<i32>,
}

/// The sort of device, as far as it matters to an XDP program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Ethernet without a software driver kind: a network card (also a virtual machine's).
    Physical,
    Veth,
    Bridge,
    Bond,
    /// An 802.1Q upper of the interface `parent`.
    Vlan {
        parent: u32,
        id: u16,
    },
    Macvlan,
    Ppp,
    /// Layer 3, no Ethernet header.
    Tun,
    /// The tun driver's Ethernet flavour.
    Tap,
    Dummy,
    Wireguard,
    Loopback,
    /// Anything else, by the kernel's word for it ("vxlan", "ipvlan", ...).
    Other(String),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Physical => "network card",
            Kind::Veth => "veth",
            Kind::Bridge => "bridge",
            Kind::Bond => "bond",
            Kind::Vlan { id, .. } => return write!(f, "VLAN {id}"),
            Kind::Macvlan => "macvlan",
            Kind::Ppp => "PPP",
            Kind::Tun => "tun",
            Kind::Tap => "tap",
            Kind::Dummy => "dummy",
            Kind::Wireguard => "WireGuard",
            Kind::Loopback => "loopback",
            Kind::Other(kind) => kind,
        })
    }
}

/// An XDP program that is attached to an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttachedXdp {
    pub mode: XdpAttachMode,
    /// The kernel's program id; with several modes at once, the one that runs first (hardware, driver, generic).
    pub prog_id: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpAttachMode {
    Native,
    /// Generic ("skb") mode.
    Generic,
    Hardware,
    /// Programs in more than one mode at the same time.
    Multiple,
}

impl fmt::Display for XdpAttachMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            XdpAttachMode::Native => "native",
            XdpAttachMode::Generic => "generic",
            XdpAttachMode::Hardware => "hardware",
            XdpAttachMode::Multiple => "several modes",
        })
    }
}

/// An IPv4 address on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub ifindex: u32,
    pub addr: Ipv4Addr,
    pub prefix_len: u8,
    /// The far end of a point-to-point address, which `prefix_len` then belongs to.
    pub peer: Option<Ipv4Addr>,
    pub scope: Scope,
    pub broadcast: Option<Ipv4Addr>,
    /// IFA_F_* of linux/if_addr.h.
    pub flags: u32,
}

impl Address {
    /// The network that this address makes directly reachable.
    pub fn network(&self) -> Prefix {
        Prefix::new(self.peer.unwrap_or(self.addr), self.prefix_len)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Universe,
    Site,
    Link,
    Host,
    Nowhere,
    Other(u8),
}

/// An IPv4 route of the main table. A multipath route appears once per next hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub dst: Prefix,
    pub oif: Option<u32>,
    pub gateway: Option<Ipv4Addr>,
    pub kind: RouteKind,
    /// Smaller wins among routes to the same prefix.
    pub metric: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteKind {
    Unicast,
    Local,
    Broadcast,
    Multicast,
    Blackhole,
    Unreachable,
    Prohibit,
    Throw,
    Other(u8),
}

/// An entry of the kernel's ARP table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    pub ifindex: u32,
    pub addr: Ipv4Addr,
    /// None while unresolved or failed.
    pub mac: Option<[u8; 6]>,
    pub state: NeighbourState,
}

/// Neighbour unreachability states (NUD_*), RFC 4861 §7.3.2 as Linux applies them to ARP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeighbourState {
    None,
    Incomplete,
    Reachable,
    Stale,
    Delay,
    Probe,
    Failed,
    Noarp,
    Permanent,
    Other(u16),
}

impl NeighbourState {
    /// The entry's MAC address may be used to send (NUD_VALID).
    pub fn is_valid(self) -> bool {
        use NeighbourState::*;
        matches!(self, Permanent | Noarp | Reachable | Probe | Stale | Delay)
    }
}

/// A change that [`super::Monitor`] saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    AddressAdded(Address),
    AddressRemoved(Address),
    /// A route of any table appeared, changed or went; cached next hops may be wrong.
    RouteChanged {
        table: u32,
        dst: Prefix,
        removed: bool,
    },
    /// A policy routing rule appeared or went.
    RuleChanged,
    NeighbourChanged(Neighbour),
    NeighbourRemoved {
        ifindex: u32,
        addr: Ipv4Addr,
    },
    LinkChanged(Interface),
    LinkRemoved {
        index: u32,
        name: String,
    },
    /// Events were lost (the socket's buffer overflowed, or one could not be read): list everything again.
    Resync,
}

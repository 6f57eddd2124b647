//! From rtnetlink messages to the types of [`super::types`].

use std::net::{IpAddr, Ipv4Addr};

use rtnetlink::packet_route as nl;

use nl::address::{AddressAttribute, AddressMessage, AddressScope};
use nl::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp, XdpAttached,
};
use nl::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use nl::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};

use super::types::*;
use crate::units::Prefix;

/// The kernel's id of the main routing table.
pub(super) const RT_TABLE_MAIN: u32 = 254;

pub(super) fn interface(message: &LinkMessage) -> Interface {
    let flags = message.header.flags;
    let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    let mut interface = Interface {
        name: String::new(),
        index: message.header.index,
        kind: Kind::Physical,
        ethernet,
        mac: None,
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        master: None,
        link: None,
        xdp: None,
    };
    let (mut link, mut link_netns, mut info) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
            LinkAttribute::Address(bytes) => interface.mac = mac(bytes),
            LinkAttribute::Controller(index) => interface.master = Some(*index),
            LinkAttribute::Link(index) => link = Some(*index),
            LinkAttribute::LinkNetNsId(id) => link_netns = Some(*id),
            LinkAttribute::LinkInfo(list) => info = Some(list),
            LinkAttribute::Xdp(list) => interface.xdp = attached_xdp(list),
            _ => {}
        }
    }
    interface.link = link.filter(|index| *index != 0).map(|index| Link {
        index,
        netns: link_netns,
    });
    interface.kind = kind(message.header.link_layer_type, info, interface.link);
    if !ethernet {
        interface.mac = None;
    }
    interface
}

fn kind(layer: LinkLayerType, info: Option<&Vec<LinkInfo>>, link: Option<Link>) -> Kind {
    let named = info.into_iter().flatten().find_map(|i| match i {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    });
    match (layer, named) {
        (LinkLayerType::Loopback, _) => Kind::Loopback,
        (LinkLayerType::Ppp, _) => Kind::Ppp,
        (LinkLayerType::Ether, None) => Kind::Physical,
        (layer, None) => Kind::Other(format!("{layer:?}").to_lowercase()),
        (_, Some(InfoKind::Veth)) => Kind::Veth,
        (_, Some(InfoKind::Bridge)) => Kind::Bridge,
        (_, Some(InfoKind::Bond)) => Kind::Bond,
        (_, Some(InfoKind::MacVlan)) => Kind::Macvlan,
        (_, Some(InfoKind::Dummy)) => Kind::Dummy,
        (_, Some(InfoKind::Wireguard)) => Kind::Wireguard,
        (LinkLayerType::Ether, Some(InfoKind::Tun)) => Kind::Tap,
        (_, Some(InfoKind::Tun)) => Kind::Tun,
        (_, Some(InfoKind::Vlan)) => Kind::Vlan {
            parent: link.map_or(0, |l| l.index),
            id: vlan_id(info).unwrap_or(0),
        },
        (_, Some(other)) => Kind::Other(other.to_string()),
    }
}

fn vlan_id(info: Option<&Vec<LinkInfo>>) -> Option<u16> {
    info?.iter().find_map(|i| match i {
        LinkInfo::Data(InfoData::Vlan(list)) => list.iter().find_map(|v| match v {
            InfoVlan::Id(id) => Some(*id),
            _ => None,
        }),
        _ => None,
    })
}

/// A kernel that runs programs in several modes names each by its mode and gives no plain program id.
fn attached_xdp(list: &[LinkXdp]) -> Option<AttachedXdp> {
    let mode = list.iter().find_map(|x| match x {
        LinkXdp::Attached(XdpAttached::Driver) => Some(XdpAttachMode::Native),
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(XdpAttachMode::Generic),
        LinkXdp::Attached(XdpAttached::Hardware) => Some(XdpAttachMode::Hardware),
        LinkXdp::Attached(XdpAttached::Multiple) => Some(XdpAttachMode::Multiple),
        _ => None,
    })?;
    let rank = |x: &LinkXdp| match x {
        LinkXdp::ProgId(id) => Some((0, *id)),
        LinkXdp::HwProgId(id) => Some((1, *id)),
        LinkXdp::DrvProgId(id) => Some((2, *id)),
        LinkXdp::SkbProgId(id) => Some((3, *id)),
        _ => None,
    };
    let (_, prog_id) = list.iter().filter_map(rank).min()?;
    Some(AttachedXdp { mode, prog_id })
}

/// None for anything but IPv4.
pub(super) fn address(message: &AddressMessage) -> Option<Address> {
    let (mut local, mut remote, mut broadcast) = (None, None, None);
    let mut flags = u32::from(message.header.flags.bits());
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(IpAddr::V4(a)) => local = Some(*a),
            AddressAttribute::Address(IpAddr::V4(a)) => remote = Some(*a),
            AddressAttribute::Broadcast(a) => broadcast = Some(*a),
            AddressAttribute::Flags(f) => flags = f.bits(),
            _ => {}
        }
    }
    let addr = local.or(remote)?;
    Some(Address {
        ifindex: message.header.index,
        addr,
        prefix_len: message.header.prefix_len,
        peer: remote.filter(|r| *r != addr),
        scope: match message.header.scope {
            AddressScope::Universe => Scope::Universe,
            AddressScope::Site => Scope::Site,
            AddressScope::Link => Scope::Link,
            AddressScope::Host => Scope::Host,
            AddressScope::Nowhere => Scope::Nowhere,
            other => Scope::Other(other.into()),
        },
        broadcast,
        flags,
    })
}

pub(super) fn table(message: &RouteMessage) -> u32 {
    let attribute = message.attributes.iter().find_map(|a| match a {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    attribute.unwrap_or(message.header.table.into())
}

pub(super) fn destination(message: &RouteMessage) -> Prefix {
    let addr = message.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(RouteAddress::Inet(a)) => Some(*a),
        _ => None,
    });
    Prefix::new(
        addr.unwrap_or(Ipv4Addr::UNSPECIFIED),
        message.header.destination_prefix_length,
    )
}

/// One [`Route`] per next hop.
pub(super) fn routes(message: &RouteMessage) -> Vec<Route> {
    let mut hops = Vec::new();
    let mut metric = 0;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Priority(value) => metric = *value,
            RouteAttribute::MultiPath(list) => hops.extend(
                list.iter()
                    .map(|hop| (Some(hop.interface_index), gateway(&hop.attributes))),
            ),
            _ => {}
        }
    }
    if hops.is_empty() {
        let oif = message.attributes.iter().find_map(|a| match a {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        });
        hops.push((oif, gateway(&message.attributes)));
    }
    let route = |(oif, gateway)| Route {
        dst: destination(message),
        oif,
        gateway,
        kind: route_kind(message.header.kind),
        metric,
    };
    hops.into_iter().map(route).collect()
}

fn gateway(attributes: &[RouteAttribute]) -> Option<Ipv4Addr> {
    attributes.iter().find_map(|a| match a {
        RouteAttribute::Gateway(RouteAddress::Inet(a)) => Some(*a),
        _ => None,
    })
}

fn route_kind(kind: RouteType) -> RouteKind {
    match kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Local => RouteKind::Local,
        RouteType::Broadcast => RouteKind::Broadcast,
        RouteType::Multicast => RouteKind::Multicast,
        RouteType::BlackHole => RouteKind::Blackhole,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Prohibit => RouteKind::Prohibit,
        RouteType::Throw => RouteKind::Throw,
        other => RouteKind::Other(other.into()),
    }
}

/// None for anything but IPv4 (IPv6 neighbours, a bridge's forwarding entries).
pub(super) fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    if message.header.family != nl::AddressFamily::Inet {
        return None;
    }
    let (mut addr, mut lladdr) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => addr = Some(*a),
            NeighbourAttribute::LinkLayerAddress(bytes) => lladdr = mac(bytes),
            _ => {}
        }
    }
    let state = neighbour_state(message.header.state);
    Some(Neighbour {
        ifindex: message.header.ifindex,
        addr: addr?,
        mac: lladdr.filter(|_| state.is_valid()),
        state,
    })
}

fn neighbour_state(state: nl::neighbour::NeighbourState) -> NeighbourState {
    use nl::neighbour::NeighbourState as Nl;
    match state {
        Nl::None => NeighbourState::None,
        Nl::Incomplete => NeighbourState::Incomplete,
        Nl::Reachable => NeighbourState::Reachable,
        Nl::Stale => NeighbourState::Stale,
        Nl::Delay => NeighbourState::Delay,
        Nl::Probe => NeighbourState::Probe,
        Nl::Failed => NeighbourState::Failed,
        Nl::Noarp => NeighbourState::Noarp,
        Nl::Permanent => NeighbourState::Permanent,
        other => NeighbourState::Other(other.into()),
    }
}

fn mac(bytes: &[u8]) -> Option<[u8; 6]> {
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(layer: LinkLayerType, attributes: Vec<LinkAttribute>) -> Interface {
        let mut message = LinkMessage::default();
        message.header.index = 9;
        message.header.link_layer_type = layer;
        message.attributes = attributes;
        interface(&message)
    }

    fn kind_of(layer: LinkLayerType, kind: &str) -> Kind {
        let info = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind.into())]);
        link(layer, vec![info]).kind
    }

    #[test]
    fn kinds_that_not_every_kernel_can_make() {
        use LinkLayerType::{Ether, None as NoLayer, Ppp};
        assert_eq!(link(Ether, vec![]).kind, Kind::Physical);
        assert_eq!(kind_of(Ether, "bond"), Kind::Bond);
        assert_eq!(kind_of(Ether, "dummy"), Kind::Dummy);
        assert_eq!(kind_of(Ppp, "ppp"), Kind::Ppp);
        assert_eq!(kind_of(NoLayer, "wireguard"), Kind::Wireguard);
        assert_eq!(kind_of(Ether, "vxlan"), Kind::Other("vxlan".into()));
        assert_eq!(kind_of(Ether, "future"), Kind::Other("future".into()));
    }

    #[test]
    fn a_vlan_names_its_parent_and_id() {
        let vlan = link(
            LinkLayerType::Ether,
            vec![
                LinkAttribute::Link(4),
                LinkAttribute::LinkInfo(vec![
                    LinkInfo::Kind(InfoKind::Vlan),
                    LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(100)])),
                ]),
            ],
        );
        assert_eq!(vlan.kind, Kind::Vlan { parent: 4, id: 100 });
    }

    #[test]
    fn xdp_in_one_mode_and_in_two() {
        let one = [LinkXdp::Attached(XdpAttached::SocketBuffer), LinkXdp::ProgId(7)];
        let generic = AttachedXdp {
            mode: XdpAttachMode::Generic,
            prog_id: 7,
        };
        assert_eq!(attached_xdp(&one), Some(generic));
        let two = [
            LinkXdp::Attached(XdpAttached::Multiple),
            LinkXdp::SkbProgId(8),
            LinkXdp::DrvProgId(9),
        ];
        let both = AttachedXdp {
            mode: XdpAttachMode::Multiple,
            prog_id: 9,
        };
        assert_eq!(attached_xdp(&two), Some(both));
        assert_eq!(attached_xdp(&[LinkXdp::Attached(XdpAttached::None)]), None);
    }
}

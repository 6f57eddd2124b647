//! The kernel's answers, in namespaces of our own.

use std::net::Ipv4Addr;

use super::testns::{TestNs, pair};
use super::*;

fn by_name<'a>(list: &'a [Interface], name: &str) -> &'a Interface {
    list.iter()
        .find(|i| i.name == name)
        .unwrap_or_else(|| panic!("no {name} in {list:?}"))
}

#[test]
fn interfaces_are_told_apart() {
    let Some(ns) = TestNs::new() else { return };
    ns.ip("link add br0 type bridge");
    ns.ip("link add v0 address 02:00:00:00:00:01 mtu 1400 type veth peer name v1");
    ns.ip("link set v0 up master br0");
    ns.ip("link add link v1 name m0 type macvlan");
    ns.ip("tuntap add t0 mode tun");
    ns.ip("tuntap add t1 mode tap");
    let list = ns.block_on(async || Net::open().unwrap().interfaces().await.unwrap());

    let (v0, v1) = (by_name(&list, "v0"), by_name(&list, "v1"));
    let expected = Interface {
        name: "v0".into(),
        index: v0.index,
        kind: Kind::Veth,
        ethernet: true,
        mac: Some([2, 0, 0, 0, 0, 1]),
        mtu: 1400,
        up: true,
        carrier: false,
        master: Some(by_name(&list, "br0").index),
        link: Some(Link {
            index: v1.index,
            netns: None,
        }),
        xdp: None,
    };
    assert_eq!(*v0, expected);
    for (name, kind, ethernet) in [
        ("lo", Kind::Loopback, false),
        ("br0", Kind::Bridge, true),
        ("m0", Kind::Macvlan, true),
        ("t0", Kind::Tun, false),
        ("t1", Kind::Tap, true),
    ] {
        let interface = by_name(&list, name);
        assert_eq!((&interface.kind, interface.ethernet), (&kind, ethernet), "{name}");
    }
}

#[test]
fn veth_peer_in_another_namespace() {
    let Some((left, _right)) = pair() else { return };
    let list = left.block_on(async || Net::open().unwrap().interfaces().await.unwrap());
    assert!(by_name(&list, "va").link.unwrap().netns.is_some());
}

#[test]
fn addresses_and_routes() {
    let Some(ns) = TestNs::new() else { return };
    ns.add_d0();
    ns.ip("addr add 192.0.2.1/24 brd 192.0.2.255 dev d0");
    ns.ip("addr add 198.51.100.1 peer 198.51.100.2/32 dev d0");
    ns.ip("-6 addr add 2001:db8::1/64 dev d0 nodad");
    ns.ip("route add default via 192.0.2.254 metric 7");
    ns.ip("route add 10.9.0.0/16 nexthop via 192.0.2.3 nexthop via 192.0.2.4");
    ns.ip("route add unreachable 10.8.0.0/16");
    ns.ip("route add 10.7.0.0/16 via 192.0.2.3 table 1000");
    let (list, routes, index) = ns.block_on(async || {
        let net = Net::open().unwrap();
        let index = by_name(&net.interfaces().await.unwrap(), "d0").index;
        (net.addresses().await.unwrap(), net.routes().await.unwrap(), index)
    });

    let on_d0: Vec<_> = list.iter().filter(|a| a.ifindex == index).collect();
    assert_eq!(on_d0.len(), 2, "{on_d0:?}");
    assert_eq!(
        (
            on_d0[0].addr,
            on_d0[0].prefix_len,
            on_d0[0].broadcast,
            on_d0[0].peer,
            on_d0[0].scope
        ),
        (
            [192, 0, 2, 1].into(),
            24,
            Some([192, 0, 2, 255].into()),
            None,
            Scope::Universe
        )
    );
    assert_eq!(on_d0[0].network().to_string(), "192.0.2.0/24");
    assert_eq!(on_d0[1].peer, Some([198, 51, 100, 2].into()));
    assert_eq!(on_d0[1].network().to_string(), "198.51.100.2/32");

    let find = |dst: &str| {
        let dst: Prefix = dst.parse().unwrap();
        routes.iter().filter(|r| r.dst == dst).cloned().collect::<Vec<_>>()
    };
    let default = Route {
        dst: "0.0.0.0/0".parse().unwrap(),
        oif: Some(index),
        gateway: Some([192, 0, 2, 254].into()),
        kind: RouteKind::Unicast,
        metric: 7,
    };
    assert_eq!(find("0.0.0.0/0"), [default]);
    let gateways: Vec<_> = find("10.9.0.0/16").iter().map(|r| r.gateway.unwrap()).collect();
    assert_eq!(gateways, [Ipv4Addr::new(192, 0, 2, 3), Ipv4Addr::new(192, 0, 2, 4)]);
    assert_eq!(find("10.8.0.0/16")[0].kind, RouteKind::Unreachable);
    assert_eq!(find("10.7.0.0/16"), [], "another table's route");
}

#[test]
fn a_neighbour_is_resolved_on_request_and_refreshed_when_stale() {
    let Some((left, right)) = pair() else { return };
    left.ip("addr add 192.0.2.1/24 dev va");
    right.ip("addr add 192.0.2.2/24 dev vb");
    right.ip("link set vb address 02:00:00:00:00:02");
    left.block_on(async || {
        let (mut monitor, net) = (Monitor::open().unwrap(), Net::open().unwrap());
        let ifindex = by_name(&net.interfaces().await.unwrap(), "va").index;
        let ip = Ipv4Addr::new(192, 0, 2, 2);

        assert_eq!(net.neighbours(ifindex).await.unwrap(), []);
        net.resolve_neighbour(ifindex, ip).await.unwrap();
        let reachable = Neighbour {
            ifindex,
            addr: ip,
            mac: Some([2, 0, 0, 0, 0, 2]),
            state: NeighbourState::Reachable,
        };
        while monitor.next().await.unwrap() != Event::NeighbourChanged(reachable) {}
        assert_eq!(net.neighbours(ifindex).await.unwrap(), [reachable]);
        assert_eq!(net.refresh_neighbours(&[ifindex]).await.unwrap(), 0, "nothing is stale");

        left.ip("neigh change 192.0.2.2 dev va lladdr 02:00:00:00:00:02 nud stale");
        assert_eq!(net.refresh_neighbours(&[ifindex]).await.unwrap(), 1);
        let after = net.neighbours(ifindex).await.unwrap()[0].state;
        assert!(
            matches!(
                after,
                NeighbourState::Delay | NeighbourState::Probe | NeighbourState::Reachable
            ),
            "{after:?}"
        );
    });
}

#[test]
fn monitor_reports_addresses_routes_rules_links() {
    let Some(ns) = TestNs::new() else { return };
    ns.block_on(async || {
        let mut monitor = Monitor::open().unwrap();
        ns.add_d0();
        let d0 = wait(&mut monitor, |e| match e {
            Event::LinkChanged(link) if link.name == "d0" => Some(link),
            _ => None,
        })
        .await;
        assert_eq!(d0.kind, Kind::Veth);
        ns.ip("addr add 192.0.2.1/24 dev d0");
        let added = wait(&mut monitor, |e| match e {
            Event::AddressAdded(a) => Some(a),
            _ => None,
        })
        .await;
        assert_eq!((added.addr, added.ifindex), ([192, 0, 2, 1].into(), d0.index));
        ns.ip("route add 10.0.0.0/8 via 192.0.2.9");
        let ten: Prefix = "10.0.0.0/8".parse().unwrap();
        let seen = Event::RouteChanged {
            table: 254,
            dst: ten,
            removed: false,
        };
        wait(&mut monitor, |e| (e == seen).then_some(())).await;
        ns.ip("rule add from 192.0.2.7 table 100");
        wait(&mut monitor, |e| (e == Event::RuleChanged).then_some(())).await;
        ns.ip("addr del 192.0.2.1/24 dev d0");
        wait(&mut monitor, |e| {
            (e == Event::AddressRemoved(added.clone())).then_some(())
        })
        .await;
        ns.ip("link del d0");
        let gone = Event::LinkRemoved {
            index: d0.index,
            name: "d0".into(),
        };
        wait(&mut monitor, |e| (e == gone).then_some(())).await;
    });
}

#[test]
fn an_overflow_says_resync() {
    let Some(ns) = TestNs::new() else { return };
    ns.add_d0();
    ns.block_on(async || {
        let mut monitor = Monitor::open_small().unwrap();
        // Nobody reads meanwhile: this is the runtime's only thread.
        for i in 1..60 {
            ns.ip(&format!("addr add 192.0.2.{i}/24 dev d0"));
        }
        wait(&mut monitor, |e| (e == Event::Resync).then_some(())).await;
        // And it goes on working.
        while tokio::time::timeout(std::time::Duration::ZERO, monitor.next())
            .await
            .is_ok()
        {}
        ns.ip("link set d0 mtu 1300");
        wait(&mut monitor, |e| {
            matches!(e, Event::LinkChanged(i) if i.mtu == 1300).then_some(())
        })
        .await;
    });
}

async fn wait<T>(monitor: &mut Monitor, mut pick: impl FnMut(Event) -> Option<T>) -> T {
    loop {
        if let Some(found) = pick(monitor.next().await.unwrap()) {
            return found;
        }
    }
}

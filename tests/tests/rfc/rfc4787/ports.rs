//! REQ-3 no overloading, REQ-3a port classes, REQ-4 parity and adjacency.

use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicUsize, Ordering};

use tests::prelude::*;
use tests::process::pin;
use tests::router::not_met;

use super::mapping::small_pool;
use crate::scene::{H, O, QUIET, Scene, udp};

#[test]
fn req_03_two_hosts_with_one_source_port() {
    let mut s = Scene::new(Lab::builder().inside_hosts(2).outside_hosts(2), "");
    let first = s.mapped(H(1), 7000, O(1), 9);
    for (o, port) in [(O(1), 9), (O(1), 10), (O(2), 9)] {
        assert_ne!(
            s.mapped(H(2), 7000, o, port),
            first,
            "one external endpoint for two hosts"
        );
    }
    let inbound = udp(s.on(O(1), 9), first);
    let got = s.pass(O(1), H(1), &inbound);
    assert_eq!(got.dst(), s.on(H(1), 7000));
}

#[test]
fn req_03_a_pool_of_sixteen_ports_serves_sixteen() {
    let toml = "[ports]\nrange = \"20000-20015\"\nblock_size = 16\n";
    let mut s = Scene::with_outside(2, NatConfig::toml(toml).nft(&small_pool("20000-20015")));
    let inside: Vec<u16> = (6000..6016).collect();
    // Each to another remote endpoint: a NAT that overloads ports finds room there for ever.
    let seen = |s: &mut Scene| -> Vec<SocketAddrV4> {
        let each = inside.iter();
        each.map(|&port| s.mapped(H(1), port, O(1), port)).collect()
    };
    let before = seen(&mut s);
    let ports: BTreeSet<u16> = before.iter().map(SocketAddrV4::port).collect();
    assert_eq!(ports, (20000..20016).collect(), "sixteen ports for sixteen flows");
    for port in [6016, 6017] {
        let more = udp(s.on(H(1), port), s.on(O(2), 9));
        s.send(H(1), &more);
    }
    assert_eq!(before, seen(&mut s), "existing bindings changed");
    s.socket(O(2))
        .assert_silent(QUIET, |got| got.as_udp().is_some())
        .unwrap();
}

#[test]
fn req_03_two_cpus_racing_for_ports_never_share_one() {
    const HOSTS: u8 = 30;
    const PORTS: u16 = 800;
    let mut s = Scene::unwatched(
        Lab::builder().inside_hosts(2).outside_hosts(1).external_addresses(2),
        "",
    );
    let received = AtomicUsize::new(0);
    let (remote, total) = (s.on(O(1), 9), usize::from(HOSTS) * usize::from(PORTS) * 2);
    let senders = [1, 2].map(|number| (s.host(H(number)).clone(), RawSocket::host(s.host(H(number))).unwrap()));
    let mut owners: HashMap<SocketAddrV4, (Ipv4Addr, u16)> = HashMap::new();
    std::thread::scope(|scope| {
        for (cpu, (host, socket)) in senders.into_iter().enumerate() {
            let received = &received;
            scope.spawn(move || {
                // On a machine with one, they take turns.
                pin(cpu % std::thread::available_parallelism().map_or(1, usize::from));
                // Both walk through all hosts at the same time, each with its own half of the ports, so that they meet
                // in every host's blocks.
                for (index, (last, port)) in (0..HOSTS)
                    .flat_map(|h| (0..PORTS).map(move |p| (h + 20, p)))
                    .enumerate()
                {
                    let source = (Ipv4Addr::new(192, 168, 1, last), 10_000 + port * 2 + cpu as u16);
                    let name = [&source.0.octets()[..], &source.1.to_be_bytes()].concat();
                    socket
                        .send_packet(&Packet::udp(source, remote, &name).via(&host))
                        .unwrap();
                    // Not faster than the receiver, whose buffer is finite; what is lost for good is not waited for.
                    if index % 256 == 255 {
                        let _ = wait_until("the receiver", std::time::Duration::from_millis(200), || {
                            received.load(Ordering::Relaxed) + 20_000 > index * 2
                        });
                    }
                }
            });
        }
        let count = &received;
        let socket = s.socket(O(1));
        while count.load(Ordering::Relaxed) < total {
            let frame = socket.next(SOON).unwrap();
            let Some(packet) = frame.map(|frame| frame.packet().expect("whole packets")) else {
                break;
            };
            let Some(&[a, b, c, d, high, low]) = packet.as_udp().map(|udp| &udp.payload[..]) else {
                continue;
            };
            let owner = (Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low]));
            let earlier = owners.insert(packet.src(), owner);
            assert_eq!(
                earlier.filter(|earlier| *earlier != owner),
                None,
                "{} for two: {owner:?} too",
                packet.src()
            );
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    assert_eq!(received.into_inner(), total, "new flows that got no port, or were lost");
}

#[test]
fn req_03a_ports_above_1023_stay_there() {
    let mut s = Scene::with_outside(1, "");
    for port in (1024..1064).chain(5000..5020).chain(65_500..=65_535) {
        let external = s.mapped(H(1), port, O(1), 9);
        assert!(external.port() >= 1024, "{port} became {external}");
    }
}

#[test]
fn req_03a_ports_below_1024_stay_there() {
    let mut s = Scene::with_outside(1, "");
    let external = s.mapped(H(1), 700, O(1), 9);
    if external.port() >= 1024 {
        not_met(&format!(
            "a SHOULD: source port 700 became {}; without configuration ports below 1024 are left to the router itself",
            external.port()
        ));
    }
}

#[test]
fn req_04_parity_is_kept() {
    let mut s = Scene::new(Lab::builder().inside_hosts(3), "");
    for port in (6000..6030).chain([1025, 65_535, 65_534]) {
        // Three hosts, so that a NAT that prefers the same port meets its own bindings.
        for h in [H(1), H(2), H(3)] {
            let external = s.mapped(h, port, O(1), 9);
            assert_eq!(external.port() % 2, port % 2, "{port} of {h:?} became {external}");
        }
    }
}

#[test]
fn req_04_rtp_and_rtcp_get_neighbouring_ports() {
    let mut s = Scene::new(Lab::builder().inside_hosts(3), "");
    for (h, first, second) in [
        (H(1), 5004, 5005),
        (H(2), 5004, 5005),
        (H(3), 5005, 5004),
        (H(3), 5006, 5007),
    ] {
        let (one, two) = (s.mapped(h, first, O(1), 9), s.mapped(h, second, O(1), 9));
        assert_eq!(
            one.port() ^ 1,
            two.port(),
            "{first} and {second} of {h:?} became {one} and {two}"
        );
    }
}

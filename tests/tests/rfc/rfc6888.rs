//! RFC 6888: requirements for carrier-grade NATs, which hold for a router of one house as well.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use tests::lab::INSIDE_GATEWAY;
use tests::prelude::*;
use tests::router::not_met;

use crate::scene::{H, LIMIT, O, QUIET, Scene, ping, syn, udp, wait_till};

const ONE_SMALL_BLOCK: &str = "[ports]\nblock_size = 16\nblocks_per_host = 1\n";
const NO_QUOTA: &str = "nftables has no quota of ports for a host";

#[test]
fn req_03_the_pool_need_not_be_contiguous() {
    let reason = "nftables' `snat to` takes one range; a map of ranges is another mechanism than masquerade";
    if !applies_to(&[Nat::Sipnat], reason) {
        return;
    }
    let toml = "[nat]\naddresses = [\"203.0.113.2\", \"203.0.113.5\", \"203.0.113.8/31\"]\n";
    let mut s = Scene::new(Lab::builder().external_addresses(10), toml);
    let mut used = HashSet::new();
    for last in 11..111 {
        let packet = udp((Ipv4Addr::new(192, 168, 1, last), 4000), s.on(O(1), 9));
        used.insert(s.pass(H(1), O(1), &packet).ip.src.octets()[3]);
    }
    assert_eq!(used, HashSet::from([2, 5, 8, 9]));
}

#[test]
fn req_04_ports_of_one_host_are_limited() {
    if !applies_to(&[Nat::Sipnat], NO_QUOTA) {
        return;
    }
    let mut s = Scene::new(Lab::builder().inside_hosts(2), ONE_SMALL_BLOCK);
    let mut seen = HashSet::new();
    for port in 6000..6016 {
        seen.insert(s.mapped(H(1), port, O(1), 9));
    }
    assert_eq!(seen.len(), 16);
    let blocks: HashSet<u16> = seen.iter().map(|external| external.port() / 16).collect();
    assert_eq!(blocks.len(), 1, "one block was allowed: {seen:?}");
    let more = udp(s.on(H(1), 6016), s.on(O(1), 9));
    s.send(H(1), &more);
    s.socket(O(1))
        .assert_silent(QUIET, |got| got.payload() == more.payload())
        .unwrap();
    // Protocols are counted apart, and so are hosts.
    let other = [
        syn(s.on(H(1), 6016), s.on(O(1), 9)),
        ping(s.on(H(1), 6016), s.on(O(1), 0)),
    ];
    for packet in other {
        s.pass(H(1), O(1), &packet);
    }
    s.mapped(H(2), 6000, O(1), 9);
}

#[test]
fn req_05_sessions_are_limited_and_the_limit_is_configurable() {
    if !applies_to(&[Nat::Sipnat], "conntrack's table is one for all hosts of the machine") {
        return;
    }
    let mut s = Scene::new(Lab::builder().inside_hosts(2), "[nat]\nsessions = 1024\n");
    let status = s.nat.json(&["status"]).unwrap();
    let mut talk = s.connect(H(2), 6000, O(1), 80);
    for number in 0..4096u16 {
        s.send(H(1), &syn(s.on(H(1), 6000), s.on(O(1), 1000 + number)));
    }
    s.carries(H(2), O(1), &mut talk);
    s.connect(H(2), 6001, O(1), 80);
    let after = s.nat.json(&["status"]).unwrap();
    assert_eq!(
        status["memory_bytes"], after["memory_bytes"],
        "memory grew with the sessions"
    );
}

#[test]
fn req_06_some_destinations_are_not_translated() {
    let rules = "table ip nat { chain post { type nat hook postrouting priority srcnat;
        ip daddr 203.0.113.101 accept; oifname \"out0\" masquerade; }
        }";
    let toml = "[nat]\nbypass = [\"203.0.113.101/32\"]\n";
    let mut s = Scene::new(Lab::builder().outside_hosts(2), NatConfig::toml(toml).nft(rules));
    let plain = udp(s.on(H(1), 6000), s.on(O(2), 9));
    let seen = s.pass(H(1), O(2), &plain);
    assert_eq!((seen.src(), seen.ip.ttl), (plain.src(), 63));
    let back = udp(s.on(O(2), 9), plain.src());
    assert_eq!(s.pass(O(2), H(1), &back).dst(), plain.src());
    assert_eq!(*s.mapped(H(1), 6000, O(1), 9).ip(), s.external(0));
}

#[test]
fn req_08_ports_rest_before_another_binding_gets_them() {
    let reason = "conntrack forgets a port with its entry, and has no option";
    if !applies_to(&[Nat::Sipnat], reason) {
        return;
    }
    // A hundredth: bindings live 3 s, ports rest for 1.2 s.
    let toml = "[ports]\nrange = \"20000-20015\"\nblock_size = 16\nrest = \"120s\"\n";
    let mut s = Scene::with_outside(1, NatConfig::toml(toml).lifetime_scale(0.01));
    for port in (6000..6032).step_by(2).take(8) {
        s.mapped(H(1), port, O(1), 9);
    }
    // All eight even ports are in use until here and a lifetime further.
    let end = Instant::now() + Duration::from_secs(3);
    let first_use = |s: &mut Scene, port: u16, until: Instant| {
        while Instant::now() < until {
            let packet = udp(s.on(H(1), port), s.on(O(1), 9));
            s.send(H(1), &packet);
            let came = s
                .socket(O(1))
                .recv_packet("it", Duration::from_millis(50), |got| got.payload() == packet.payload());
            if came.is_ok() {
                return Some(Instant::now());
            }
        }
        None
    };
    wait_till(end);
    let reused = first_use(&mut s, 7000, end + LIMIT).expect("ports become usable again after their rest");
    assert!(
        reused >= end + Duration::from_millis(1000),
        "a port was given out {:?} after its binding ended",
        reused - end
    );
}

#[test]
fn req_09_a_protocol_controls_the_mappings() {
    let mut s = Scene::with_outside(1, "");
    // PCP ANNOUNCE (RFC 6887 §14.1).
    let mut request = vec![2, 0, 0, 0, 0, 0, 0, 0];
    request.extend([0; 10]);
    request.extend([0xff, 0xff]);
    request.extend(s.host(H(1)).ip.octets());
    let packet = udp(s.on(H(1), 6000), (INSIDE_GATEWAY, 5351)).with_payload(&request);
    s.send(H(1), &packet);
    let answer = s.socket(H(1)).recv_packet("an answer", QUIET, |got| {
        got.src().port() == 5351 && got.payload().first() == Some(&2)
    });
    if answer.is_err() {
        not_met("no PCP server answers on the router's port 5351");
    }
}

#[test]
fn req_10_the_nat_can_be_managed() {
    if !applies_to(&[Nat::Sipnat], "what is asked for here is sipnat's command line") {
        return;
    }
    let mut s = Scene::with_outside(1, "[nat]\ncounting = true\n");
    let external = s.mapped(H(1), 6000, O(1), 9);
    let bindings = s.nat.json(&["bindings", "--proto", "udp"]).unwrap();
    assert_eq!(bindings[0]["external"], external.to_string(), "{bindings}");
    assert_eq!(bindings[0]["packets_out"], 1, "{bindings}");
    let blocks = s.nat.json(&["blocks"]).unwrap();
    assert_eq!(blocks[0]["host"], "192.168.1.10", "{blocks}");
    let counters = s.nat.json(&["counters"]).unwrap();
    let outbound = counters.as_array().unwrap().iter().find(|c| c["name"] == "outbound");
    assert_eq!(outbound.expect("a counter `outbound`")["value"], 1, "{counters}");
}

#[test]
fn req_11_exhaustion_drops_the_packet_tells_the_sender_and_harms_nobody() {
    if !applies_to(&[Nat::Sipnat], NO_QUOTA) {
        return;
    }
    let mut s = Scene::with_outside(1, ONE_SMALL_BLOCK);
    let mut before = HashMap::new();
    for port in 6000..6016 {
        before.insert(port, s.mapped(H(1), port, O(1), 9));
    }
    let more = udp(s.on(H(1), 6016), s.on(O(1), 9));
    s.send(H(1), &more);
    let error = s.wait(H(1), "host unreachable", |got| got.is_icmp(3, 1));
    let quote = error.quote().unwrap();
    assert_eq!((quote.src, quote.dst), (more.src(), more.dst()));
    for (port, external) in before {
        assert_eq!(s.mapped(H(1), port, O(1), 9), external, "the binding of {port} changed");
        let back = udp(s.on(O(1), 9), external);
        s.pass(O(1), H(1), &back);
    }
}

#[test]
fn req_11_an_exhausted_pool_is_told_too() {
    if !applies_to(
        &[Nat::Sipnat],
        "nftables drops without telling; its exhaustion is REQ-3 of RFC 4787",
    ) {
        return;
    }
    let toml = "[ports]\nrange = \"20000-20015\"\nblock_size = 16\n";
    let mut s = Scene::new(Lab::builder().inside_hosts(2), toml);
    let external = s.mapped(H(1), 6000, O(1), 9);
    let more = udp(s.on(H(2), 6000), s.on(O(1), 9));
    s.send(H(2), &more);
    let error = s.wait(H(2), "host unreachable", |got| got.is_icmp(3, 1));
    assert_eq!(error.quote().unwrap().src, more.src());
    let back = udp(s.on(O(1), 9), external);
    s.pass(O(1), H(1), &back);
}

/// First bindings of ten thousand hosts, in a hundred classes of allowed ports: chi-square with 99 degrees of freedom stays
/// below 160 but for one run in ten thousand.
#[test]
fn req_15_ports_are_hard_to_guess() {
    let reason = "masquerade keeps the source port where it can (RFC 4787 calls that preservation)";
    if !applies_to(&[Nat::Sipnat], reason) {
        return;
    }
    const HOSTS: u32 = 10_000;
    let builder = Lab::builder().external_addresses(16).inside_router();
    let mut s = Scene::unwatched(builder, "[ports]\nblock_size = 16\n");
    // What the router keeps for itself is not for the NAT.
    let local = s.router.read_sysctl("net.ipv4.ip_local_port_range").unwrap();
    let local: Vec<u16> = local.split_whitespace().map(|port| port.parse().unwrap()).collect();
    // Whole blocks only: the ends of the excluded range are in blocks of their own.
    let (first, last) = (local[0] & !15, local[1] | 15);
    let allowed: Vec<u16> = (1024..=65_535).filter(|port| !(first..=last).contains(port)).collect();
    let mut ports = Vec::new();
    for host in 0..HOSTS {
        let [_, _, high, low] = (host + 256).to_be_bytes();
        let packet = udp((Ipv4Addr::new(10, 9, high, low), 6000), s.on(O(1), 9));
        ports.push(s.pass(H(1), O(1), &packet).src().port());
    }
    let ranks: Vec<usize> = ports
        .iter()
        .filter_map(|port| allowed.binary_search(port).ok())
        .collect();
    let (chi_square, classes) = uniformity(ranks.iter().map(|rank| rank * 100 / allowed.len()), 100);
    assert!(chi_square < 160.0, "chi-square {chi_square:.0}: {classes:?}");
    // The place within a block, too: eight even ports of sixteen.
    let (chi_square, places) = uniformity(ports.iter().map(|port| usize::from(port % 16 / 2)), 8);
    assert!(
        chi_square < 35.0,
        "within blocks, chi-square {chi_square:.0}: {places:?}"
    );
    // And one port says nothing of the next.
    let steps: HashSet<i32> = ports
        .windows(2)
        .map(|two| i32::from(two[1]) - i32::from(two[0]))
        .collect();
    assert!(steps.len() > 6000, "only {} different steps", steps.len());
}

/// Chi-square of the counts against equal ones, and the counts.
fn uniformity(values: impl Iterator<Item = usize>, classes: usize) -> (f64, Vec<u32>) {
    let mut counts = vec![0u32; classes];
    values.for_each(|value| counts[value] += 1);
    let expected = f64::from(counts.iter().sum::<u32>()) / classes as f64;
    let square = |count: &u32| (f64::from(*count) - expected).powi(2) / expected;
    (counts.iter().map(square).sum(), counts)
}

//! REQ-1 mapping, REQ-2 pooling, REQ-7 overlapping networks, REQ-10 no tampering, REQ-11 determinism.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddrV4};

use tests::prelude::*;

use crate::scene::{H, O, Scene, ping, syn, udp};

#[test]
fn req_01_endpoint_independent_mapping() {
    let mut s = Scene::new(Lab::builder().inside_hosts(2).outside_hosts(3), "");
    // The first host takes the port that a port-preserving NAT would give to the second one as well.
    s.mapped(H(1), 5060, O(1), 5060);
    let remotes = [(O(1), 5060), (O(1), 5061), (O(2), 5060), (O(3), 9)];
    let seen: HashSet<SocketAddrV4> = remotes.map(|(o, port)| s.mapped(H(2), 5060, o, port)).into();
    assert_eq!(seen.len(), 1, "one socket, several external endpoints: {seen:?}");
}

#[test]
fn req_02_one_host_has_one_external_address() {
    let mut s = Scene::new(Lab::builder().external_addresses(2), "");
    let seen: HashSet<Ipv4Addr> = (0..50).map(|i| *s.mapped(H(1), 20_000 + i, O(1), 7).ip()).collect();
    assert_eq!(seen.len(), 1, "{seen:?}");
}

#[test]
fn req_02_two_hundred_hosts_keep_their_address_and_use_all() {
    let reason = "masquerade has one address, and `snat to` with a range picks one for each connection";
    if !applies_to(&[Nat::Sipnat], reason) {
        return;
    }
    let mut s = Scene::new(Lab::builder().external_addresses(2), "");
    let mut used = HashSet::new();
    for last in 11..211 {
        let (host, remote) = (Ipv4Addr::new(192, 168, 1, last), s.on(O(1), 9));
        let packets = [
            udp((host, 4000), remote),
            udp((host, 4001), remote),
            syn((host, 4000), remote),
            ping(SocketAddrV4::new(host, 77), remote),
        ];
        let seen: HashSet<Ipv4Addr> = packets.map(|packet| s.pass(H(1), O(1), &packet).ip.src).into();
        assert_eq!(seen.len(), 1, "{host} has several external addresses: {seen:?}");
        used.extend(seen);
    }
    assert_eq!(used.len(), 2, "all hosts share {used:?}");
}

#[test]
fn req_07_overlapping_networks_are_refused() {
    if !applies_to(
        &[Nat::Sipnat],
        "nftables looks at no networks; the kernel's routes decide",
    ) {
        return;
    }
    let lab = Lab::builder().build().unwrap();
    let inside = "addr add 203.0.113.77/24 dev in0".to_string();
    lab.router.ip_batch(&[inside]).unwrap();
    let error = format!("{:#}", lab.start_nat("").unwrap_err());
    for part in ["overlap", "203.0.113", "in0", "out0"] {
        assert!(error.contains(part), "the refusal does not say {part:?}: {error}");
    }
}

#[test]
fn req_10_a_sip_message_passes_unchanged() {
    let mut s = Scene::with_outside(1, "");
    let text = format!(
        "REGISTER sip:{remote} SIP/2.0\r\nVia: SIP/2.0/UDP {inside}:5060;branch=z9hG4bK1\r\n\
         From: <sip:a@{remote}>;tag=1\r\nTo: <sip:a@{remote}>\r\nCall-ID: 1@{inside}\r\nCSeq: 1 REGISTER\r\n\
         Contact: <sip:a@{inside}:5060>\r\nContent-Length: 0\r\n\r\n",
        inside = s.host(H(1)).ip,
        remote = s.host(O(1)).ip
    );
    let packet = udp(s.on(H(1), 5060), s.on(O(1), 5060)).with_payload(text.as_bytes());
    s.send(H(1), &packet);
    let got = s.wait(O(1), "a message to port 5060", |got| got.dst().port() == 5060);
    assert_eq!(String::from_utf8_lossy(got.payload()), text);
    // And the answer, which names the external endpoint.
    let answer = format!(
        "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP {};received={}\r\n\r\n",
        packet.src(),
        got.src()
    );
    let answer = udp(s.on(O(1), 5060), got.src()).with_payload(answer.as_bytes());
    s.send(O(1), &answer);
    let back = s.wait(H(1), "the answer", |got| got.src().port() == 5060);
    assert_eq!(back.payload(), answer.payload());
}

#[test]
fn req_11_same_behaviour_at_90_and_100_percent_fill() {
    let mut s = Scene::new(
        Lab::builder().inside_hosts(2).outside_hosts(2),
        NatConfig::toml("[ports]\nrange = \"20000-20063\"\nblock_size = 16\n").nft(&small_pool("20000-20063")),
    );
    let mut bindings: Vec<(u16, SocketAddrV4)> = Vec::new();
    let mut port = 20_000;
    for goal in [58, 64] {
        while bindings.len() < goal {
            bindings.push((port, s.mapped(H(2), port, O(1), 9)));
            port += 1;
        }
        let all: HashSet<SocketAddrV4> = bindings.iter().map(|(_, external)| *external).collect();
        assert_eq!(all.len(), goal, "of {goal} bindings some share an external endpoint");
        for (port, external) in bindings.clone() {
            // Mapping (REQ-1) and filtering (REQ-8) of every binding.
            assert_eq!(
                s.mapped(H(2), port, O(2), 10),
                external,
                "mapping of {port} at {goal} of 64"
            );
            let inbound = udp(s.on(O(2), 4321), external);
            s.pass(O(2), H(2), &inbound);
        }
    }
}

/// A ruleset of nftables with these external ports only.
pub fn small_pool(ports: &str) -> String {
    format!(
        "table ip nat {{ chain post {{ type nat hook postrouting priority srcnat;
            meta l4proto {{ tcp, udp }} oifname \"out0\" masquerade to :{ports}; }}
        }}"
    )
}

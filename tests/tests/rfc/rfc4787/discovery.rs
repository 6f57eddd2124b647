//! What coturn's `turnutils_natdiscovery` (RFC 5780), a program that knows nothing of us, finds out.

use std::net::Ipv4Addr;

use tests::prelude::*;
use tests::programs::{Server, turnserver};

/// The tool's output with this option, asked from `h1` against a STUN server on two addresses.
fn discover(option: &str) -> String {
    let lab = Lab::builder().inside_hosts(2).build().unwrap();
    let _nat = lab.start_nat("").unwrap();
    let second = Ipv4Addr::new(203, 0, 113, 200);
    lab.add_address(lab.o(1), second).unwrap();
    let server: Server = turnserver(lab.o(1), second, 3478).unwrap();
    // Another host has the port already that the tool will use: only a NAT that hands out ports without looking at
    // destinations gives the same answer then.
    let other = UdpEcho::start(lab.o(1), 7).unwrap();
    seen_by(&other, &host_udp(lab.h(2), 5060).unwrap()).unwrap();
    let address = server.endpoint.ip().to_string();
    let local = lab.h(1).ip.to_string();
    lab.h(1)
        .run("turnutils_natdiscovery", [option, "-L", &local, "-l", "5060", &address])
        .unwrap()
}

#[test]
fn req_01_natdiscovery_finds_endpoint_independent_mapping() {
    let text = discover("-m");
    assert!(text.contains("NAT with Endpoint Independent Mapping!"), "{text}");
}

#[test]
fn req_08_natdiscovery_finds_endpoint_independent_filtering() {
    let text = discover("-f");
    assert!(text.contains("NAT with Endpoint Independent Filtering!"), "{text}");
}

#[test]
fn req_09_natdiscovery_finds_hairpinning() {
    let text = discover("-H");
    // Its words for: what it sent to its own external endpoint came back.
    assert!(text.contains("successful hairpinning"), "{text}");
}

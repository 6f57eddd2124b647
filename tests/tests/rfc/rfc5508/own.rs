//! REQ-8 and REQ-10: errors that the NAT says itself.

use std::net::Ipv4Addr;

use tests::lab::{INSIDE_GATEWAY, OUTSIDE_ROUTER};
use tests::prelude::*;
use tests::router::not_met;

use crate::scene::{H, O, QUIET, Scene, ping, syn, udp};

#[test]
fn req_08_administrative_refusal_is_told() {
    let toml =
        "[[policy.rule]]\naction = \"deny\"\ndirection = \"out\"\ndestination_ports = \"25\"\nprotocol = \"tcp\"\n";
    let rules = "table ip nat { chain post { type nat hook postrouting priority srcnat; oifname \"out0\" masquerade; }
        }
        table ip filter { chain forward { type filter hook forward priority filter;
            tcp dport 25 reject with icmp admin-prohibited; }
        }";
    let mut s = Scene::with_outside(1, NatConfig::toml(toml).nft(rules));
    let refused = syn(s.on(H(1), 6000), s.on(O(1), 25));
    s.send(H(1), &refused);
    let error = s.wait(H(1), "an ICMP error", |got| got.is_icmp(3, 13));
    let quote = error.quote().unwrap();
    assert_eq!((quote.src, quote.dst), (refused.src(), refused.dst()));
    assert_eq!(error.ip.src, INSIDE_GATEWAY);
    let allowed = syn(s.on(H(1), 6000), s.on(O(1), 26));
    s.send(H(1), &allowed);
    s.socket(O(1))
        .recv_only(
            "the SYN to port 26",
            SOON,
            |got| got.dst().port() == 26,
            |got| got.dst().port() == 25,
        )
        .unwrap();
}

#[test]
fn req_10a_destination_unreachable_is_sent() {
    let mut s = Scene::with_outside(1, "");
    // The lab's router has no default route.
    let lost = udp(s.on(H(1), 6000), (Ipv4Addr::new(198, 18, 0, 1), 9));
    s.send(H(1), &lost);
    let error = s.wait(H(1), "an ICMP error", |got| {
        got.as_icmp().is_some_and(|icmp| icmp.kind == 3)
    });
    assert!(matches!(error.as_icmp().unwrap().code, 0 | 1), "{error:?}");
    assert_eq!(error.quote().unwrap().dst, lost.dst());
}

#[test]
fn req_10a_the_router_answers_echo_requests() {
    let lab = Lab::builder().build().unwrap();
    let _nat = lab.start_nat("").unwrap();
    let (inside, outside) = (INSIDE_GATEWAY.to_string(), lab.external(0).to_string());
    lab.h(1)
        .run("ping", ["-c", "2", "-i", "0.1", "-W", "10", &inside])
        .unwrap();
    lab.h(1)
        .run("ping", ["-c", "2", "-i", "0.1", "-W", "10", &outside])
        .unwrap();
    lab.o(1)
        .run("ping", ["-c", "2", "-i", "0.1", "-W", "10", &outside])
        .unwrap();
}

#[test]
fn req_10c_source_quench_is_not_passed_on() {
    let mut s = Scene::with_outside(1, "");
    let packet = udp(s.on(H(1), 6000), s.on(O(1), 9));
    let seen = s.pass(H(1), O(1), &packet);
    let quench = Packet::icmp_error(OUTSIDE_ROUTER, seen.ip.src, 4, 0, &seen, 8);
    if s.passes(O(1), H(1), &quench) {
        not_met("a SHOULD NOT: source quench (deprecated by RFC 6633) is translated and passed on");
    }
}

#[test]
fn req_10d_errors_copy_the_ds_field() {
    let mut s = Scene::with_outside(1, "");
    let mut packet = udp(s.on(H(1), 6000), s.on(O(1), 9)).ttl(1);
    packet.ip.tos = 46 << 2;
    s.send(H(1), &packet);
    let error = s.wait(H(1), "time exceeded", |got| got.is_icmp(11, 0));
    // RFC 1812 §4.3.2.5 gives errors the precedence of internetwork control, which Linux does; RFC 5508 §7.7 supersedes it.
    if error.ip.tos >> 2 != 46 {
        not_met(&format!(
            "a SHOULD: the error has the DS field {:#04x}, not that of the packet, 0xb8",
            error.ip.tos
        ));
    }
}

#[test]
fn req_10e_no_errors_about_errors_fragments_and_broadcasts() {
    let mut s = Scene::with_outside(1, "");
    let (inside, remote) = (s.host(H(1)).ip, s.host(O(1)).ip);
    let packet = udp(s.on(H(1), 6000), s.on(O(1), 9));
    let seen = s.pass(H(1), O(1), &packet);
    let answer = udp(s.on(O(1), 9), seen.src());
    let seen = s.pass(O(1), H(1), &answer);
    // Each would be answered by "time exceeded" if it were another kind of packet.
    let error = Packet::icmp_error(inside, remote, 3, 3, &seen, 8).ttl(1);
    let later = packet.clone().with_payload(&[1; 2000]).id(5).fragments(1200)[1]
        .clone()
        .ttl(1);
    let broadcast = udp(s.on(H(1), 6000), (Ipv4Addr::BROADCAST, 9)).ttl(1);
    let multicast = udp(s.on(H(1), 6000), (Ipv4Addr::new(239, 1, 2, 3), 9)).ttl(1);
    let reset = Packet::udp("0.0.0.0:68", s.on(O(1), 67), b"x").ttl(1);
    for silent in [error, later, broadcast, multicast, reset] {
        s.send(H(1), &silent);
    }
    s.socket(H(1)).assert_silent(QUIET, |got| got.is_icmp(11, 0)).unwrap();
    s.send(H(1), &packet.ttl(1));
    s.wait(H(1), "time exceeded about a common packet", |got| got.is_icmp(11, 0));
}

#[test]
fn req_10f_errors_are_limited() {
    const PACKETS: usize = 3000;
    let mut s = Scene::unwatched(Lab::builder(), "");
    let packet = udp(s.on(H(1), 6000), s.on(O(1), 9)).ttl(1);
    for _ in 0..PACKETS {
        s.send(H(1), &packet);
    }
    s.wait(H(1), "at least one error", |got| got.is_icmp(11, 0));
    // The answer to this one comes after all that were due for those before it.
    let gateway = Packet::echo(s.host(H(1)).ip, INSIDE_GATEWAY, 9, 9, b"last");
    s.send(H(1), &gateway);
    let mut errors = 1;
    s.wait(H(1), "the router's echo reply", |got| {
        errors += usize::from(got.is_icmp(11, 0));
        got.is_icmp(0, 0)
    });
    assert!(errors < PACKETS / 10, "{errors} errors about {PACKETS} packets");
    // And translation goes on.
    let request = ping(s.on(H(1), 77), s.on(O(1), 0));
    s.pass(H(1), O(1), &request);
}

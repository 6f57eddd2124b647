//! Kinds of links and frames: tags, jumbo frames, generic mode, cold neighbours, and all that is not IPv4.

use std::time::{Duration, Instant};

use tests::prelude::*;
use tests::sipnat::Daemon;

use super::{counter, modes};

const TAG: u16 = 100;
const TAGGED_INSIDE: &str = "[nat]\ninside = [{ interface = \"in0\", vlan = 100 }]\n";

#[test]
fn jumbo_frames_go_through_natively() {
    let lab = Lab::builder().inside_mtu(9000).outside_mtu(9000).build().unwrap();
    let nat = lab.start_nat_as(Nat::Sipnat, "[nat]\nxdp_mode = \"native\"\n").unwrap();
    let mode = ("native".into(), 9000.into());
    assert_eq!(modes(&nat), [mode.clone(), mode]);
    let capture = Capture::host(lab.o(1)).unwrap();
    let echo = UdpEcho::start(lab.o(1), 7).unwrap();
    let socket = host_udp(lab.h(1), 5060).unwrap();
    let text: Vec<u8> = (0..8000).map(|at| (at % 251) as u8).collect();
    let (answer, _) = ask(&socket, echo.endpoint, &text).unwrap();
    assert!(answer.ends_with(&text), "{} bytes came back", answer.len());
    let whole = |packet: &Packet| packet.payload().len() == text.len() && !packet.ip.mf;
    assert!(capture.received().iter().any(whole), "the datagram came in one frame");

    let server = TcpEcho::start(lab.o(1), 8).unwrap();
    let (mut stream, _) = tcp_seen_by(&server, lab.h(1)).unwrap();
    tcp_echo(&mut stream, &text.repeat(100)).unwrap();
    let longest = capture.received().iter().map(|p| p.payload().len()).max().unwrap();
    assert!(longest > 8000, "no segment was longer than {longest}");
    capture.assert_no_bad_checksums().unwrap();
}

#[test]
fn generic_mode_translates_ping_udp_and_tcp() {
    let lab = Lab::builder().build().unwrap();
    let nat = lab
        .start_nat_as(Nat::Sipnat, "[nat]\nxdp_mode = \"generic\"\n")
        .unwrap();
    let mode = ("generic".into(), 1500.into());
    assert_eq!(modes(&nat), [mode.clone(), mode]);
    let capture = Capture::host(lab.o(1)).unwrap();
    lab.h(1)
        .run("ping", ["-c", "2", "-i", "0.2", "-W", "5", "203.0.113.100"])
        .unwrap();
    let echo = UdpEcho::start(lab.o(1), 7).unwrap();
    let seen = seen_by(&echo, &host_udp(lab.h(1), 5060).unwrap()).unwrap();
    assert_eq!(*seen.ip(), lab.external(0));
    let server = TcpEcho::start(lab.o(1), 8).unwrap();
    let (mut stream, external) = tcp_seen_by(&server, lab.h(1)).unwrap();
    assert_eq!(*external.ip(), lab.external(0));
    tcp_echo(&mut stream, &[7; 200_000]).unwrap();
    capture.assert_no_bad_checksums().unwrap();
}

#[test]
fn the_first_packet_to_a_cold_neighbour_arrives_within_a_second() {
    let lab = Lab::builder().cold_neighbours().build().unwrap();
    let forward = "[[forward]]\nprotocol = \"udp\"\nexternal = \"8000\"\ninside = \"192.168.1.10:80\"\n";
    let _nat = lab.start_nat_as(Nat::Sipnat, forward).unwrap();
    let known = lab.router.run("ip", ["neigh", "show", "nud", "reachable"]).unwrap();
    assert!(
        !known.contains("203.0.113.100") && !known.contains("192.168.1.10 "),
        "{known}"
    );

    let ways = [
        (lab.h(1), "192.168.1.10:9000", lab.o(1), "203.0.113.100:9"),
        // The first way made h1 known neither to the FIB nor to the router: it only sent.
        (lab.o(1), "203.0.113.100:9001", lab.h(1), "203.0.113.1:8000"),
    ];
    for (from, source, to, destination) in ways {
        let (sender, mut receiver) = (RawSocket::host(from).unwrap(), RawSocket::host(to).unwrap());
        let packet = Packet::udp(source, destination, b"first").via(from);
        let start = Instant::now();
        sender.send_packet(&packet).unwrap();
        receiver
            .recv_packet("the first packet", SOON, |packet| packet.payload() == b"first")
            .unwrap();
        let took = start.elapsed();
        assert!(took < Duration::from_secs(1), "{source} to {destination}: {took:?}");
    }
}

#[test]
fn what_is_not_ipv4_passes_untouched() {
    let lab = Lab::builder().ipv6().build().unwrap();
    let router = &lab.router;
    let nat = lab.start_nat_as(Nat::Sipnat, "").unwrap();
    // Dual stack: the kernel routes IPv6 as before, to itself and through.
    router.sysctl("net.ipv6.conf.all.forwarding", 1).unwrap();
    let ip = |ns: &Namespace, line: &str| ns.run("ip", ["-6"].into_iter().chain(line.split(' '))).unwrap();
    ip(router, "addr add fd00:1::1/64 dev in0 nodad");
    ip(router, "addr add fd00:2::1/64 dev out0 nodad");
    ip(lab.h(1), "addr add fd00:1::10/64 dev eth0 nodad");
    ip(lab.h(1), "route add default via fd00:1::1");
    ip(lab.o(1), "addr add fd00:2::100/64 dev eth0 nodad");
    ip(lab.o(1), "route add default via fd00:2::1");
    for target in ["fd00:1::1", "fd00:2::100"] {
        lab.h(1)
            .run("ping", ["-6", "-c", "2", "-i", "0.2", "-W", "5", target])
            .unwrap();
    }

    let mut host = RawSocket::host(lab.h(1)).unwrap();
    let mut inside = RawSocket::open(router, "in0", false).unwrap();
    let (mac, gateway_mac) = (lab.h(1).mac, lab.h(1).gateway_mac);
    let ethernet = |to: Mac, kind: u16| [&to[..], &mac[..], &kind.to_be_bytes()[..]].concat();

    // ARP: who has 192.168.1.1? Tell 192.168.1.10.
    let mut request = ethernet([0xff; 6], 0x0806);
    request.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    request.extend([&mac[..], &[192, 168, 1, 10], &[0; 6], &[192, 168, 1, 1]].concat());
    host.send(&request).unwrap();
    host.recv("the ARP answer", SOON, |frame| {
        let answer = frame.bytes.get(12..14)? == [8, 6] && frame.bytes[20..22] == [0, 2];
        (answer && frame.bytes[22..28] == gateway_mac).then_some(())
    })
    .unwrap();

    // An EtherType for experiments (IEEE 802, 0x88b5), and LLDP's.
    for kind in [0x88b5, 0x88cc] {
        let frame = [ethernet(gateway_mac, kind), vec![0x5a; 60]].concat();
        host.send(&frame).unwrap();
        inside
            .recv("the frame as it was", SOON, |got| (got.bytes == frame).then_some(()))
            .unwrap();
    }
    assert!(counter(&nat, "not_ipv4") >= 7);
}

#[test]
fn tags_of_no_configured_interface_pass_untouched() {
    let lab = Lab::builder().build().unwrap();
    let nat = lab.start_nat_as(Nat::Sipnat, "").unwrap();
    let host = RawSocket::host(lab.h(1)).unwrap();
    let mut inside = RawSocket::open(&lab.router, "in0", false).unwrap();
    let mut outside = RawSocket::host(lab.o(1)).unwrap();
    let packet = |text: &[u8]| Packet::udp("192.168.1.10:9000", "203.0.113.100:9", text).via(lab.h(1));
    let frame = packet(b"tagged").vlan(200).build();
    host.send(&frame).unwrap();
    inside
        .recv("the tagged frame as it was", SOON, |got| {
            (got.bytes == frame).then_some(())
        })
        .unwrap();
    host.send_packet(&packet(b"plain")).unwrap();
    let plain = |packet: &Packet| packet.payload() == b"plain";
    let tagged = |packet: &Packet| packet.payload() == b"tagged";
    outside
        .recv_only("the packet without a tag", SOON, plain, tagged)
        .unwrap();
    assert_eq!(counter(&nat, "foreign_vlan"), 1);
}

/// Sends a datagram from the VLAN of h1 to o1 and has it answered.
fn there_and_back(lab: &Lab, source: &str, vlan: u16) {
    let (mut inside, mut outside) = (RawSocket::host(lab.h(1)).unwrap(), RawSocket::host(lab.o(1)).unwrap());
    let out = Packet::udp(source, "203.0.113.100:9", b"out").vlan(vlan).via(lab.h(1));
    inside.send_packet(&out).unwrap();
    let got = outside
        .recv_packet("the packet", SOON, |packet| packet.payload() == b"out")
        .unwrap();
    assert_eq!((got.eth.vlan, got.ip.src), (None, lab.external(0)));
    outside
        .send_packet(&Packet::udp(got.dst(), got.src(), b"in").via(lab.o(1)))
        .unwrap();
    let back = inside
        .recv_packet("the answer", SOON, |packet| packet.payload() == b"in")
        .unwrap();
    assert_eq!((back.eth.vlan, back.dst()), (Some(vlan), out.src()));
    // What the router says itself has the tag, too.
    inside.send_packet(&out.ttl(1)).unwrap();
    let error = inside
        .recv_packet("time exceeded", SOON, |packet| packet.is_icmp(11, 0))
        .unwrap();
    assert_eq!(error.eth.vlan, Some(vlan));
}

/// A kernel without VLAN interfaces (the test machine's may be one) has the routes and neighbours on the device itself.
#[test]
fn a_tagged_inside_needs_no_vlan_interface() {
    let lab = Lab::builder().build().unwrap();
    let nat = lab.start_nat_as(Nat::Sipnat, TAGGED_INSIDE).unwrap();
    let warnings = nat.json(&["status"]).unwrap()["warnings"].to_string();
    assert!(warnings.contains("no VLAN interface for this tag"), "{warnings}");
    lab.o(1).mute().unwrap();
    there_and_back(&lab, "192.168.1.10:9000", TAG);
}

#[test]
fn a_tagged_outside_needs_no_vlan_interface() {
    let lab = Lab::builder().build().unwrap();
    let config = "[nat]\noutside = [{ interface = \"out0\", vlan = 100 }]\n";
    let _nat = lab.start_nat_as(Nat::Sipnat, config).unwrap();
    lab.o(1).mute().unwrap();
    let (mut inside, mut outside) = (RawSocket::host(lab.h(1)).unwrap(), RawSocket::host(lab.o(1)).unwrap());
    let out = Packet::udp("192.168.1.10:9000", "203.0.113.100:9", b"out").via(lab.h(1));
    inside.send_packet(&out).unwrap();
    let got = outside
        .recv_packet("the packet", SOON, |packet| packet.payload() == b"out")
        .unwrap();
    assert_eq!((got.eth.vlan, got.ip.src), (Some(TAG), lab.external(0)));
    // An answer without the tag is no answer: it is not for the NAT.
    let answer = |text| Packet::udp(got.dst(), got.src(), text).via(lab.o(1));
    outside.send_packet(&answer(b"bare")).unwrap();
    outside.send_packet(&answer(b"in").vlan(TAG)).unwrap();
    inside
        .recv_only(
            "the answer",
            SOON,
            |packet| packet.payload() == b"in" && packet.eth.vlan.is_none(),
            |packet| packet.payload() == b"bare",
        )
        .unwrap();
}

/// Gives the router a VLAN interface; false where the kernel has none.
fn vlan_interface(lab: &Lab, parent: &str, id: u16) -> bool {
    let (name, id) = (format!("{parent}.{id}"), id.to_string());
    let line = ["link", "add", "link", parent, "name", &name, "type", "vlan", "id", &id];
    let made = lab.router.output("ip", line).unwrap().status.success();
    if !made {
        println!("this kernel has no VLAN interfaces: not tried");
    }
    made
}

#[test]
fn a_tagged_inside_has_the_routes_of_its_vlan_interface() {
    let lab = Lab::builder().build().unwrap();
    if !vlan_interface(&lab, "in0", TAG) {
        return;
    }
    let mac = tests::packet::mac_text(lab.h(1).mac);
    lab.router
        .ip_batch(&[
            "addr add 192.168.100.1/24 dev in0.100".into(),
            "link set in0.100 up".into(),
            format!("neigh replace 192.168.100.10 lladdr {mac} dev in0.100 nud permanent"),
        ])
        .unwrap();
    let _nat = lab.start_nat_as(Nat::Sipnat, TAGGED_INSIDE).unwrap();
    lab.o(1).mute().unwrap();
    there_and_back(&lab, "192.168.100.10:9000", TAG);
}

/// Which of two VLANs a route leads to, only interfaces of their own can tell; with them one device can be both sides.
#[test]
fn a_router_on_a_stick_translates_or_is_refused_with_the_reason() {
    const STICK: &str =
        "[nat]\ninside = [{ interface = \"in0\", vlan = 100 }]\noutside = [{ interface = \"in0\", vlan = 200 }]\n";
    let lab = Lab::builder().build().unwrap();
    if !(vlan_interface(&lab, "in0", 100) && vlan_interface(&lab, "in0", 200)) {
        let daemon = Daemon::prepare(&lab.router, NatConfig::toml(STICK)).unwrap();
        let mut child = daemon.spawn(&[]).unwrap();
        assert_eq!(child.wait_exit(SOON).unwrap().code(), Some(1));
        let log = child.log();
        for part in [
            "in0 VLAN 100 and in0 VLAN 200",
            "does not say which of the two networks",
            "ip link add link in0 name in0.200 type vlan id 200",
        ] {
            assert!(log.contains(part), "{part:?} is missing in {log}");
        }
        return;
    }
    let mac = tests::packet::mac_text(lab.h(1).mac);
    lab.router
        .ip_batch(&[
            "addr add 192.168.100.1/24 dev in0.100".into(),
            "addr add 198.51.100.1/24 dev in0.200".into(),
            "link set in0.100 up".into(),
            "link set in0.200 up".into(),
            format!("neigh replace 192.168.100.10 lladdr {mac} dev in0.100 nud permanent"),
            format!("neigh replace 198.51.100.9 lladdr {mac} dev in0.200 nud permanent"),
        ])
        .unwrap();
    let _nat = lab.start_nat_as(Nat::Sipnat, STICK).unwrap();
    let mut wire = RawSocket::host(lab.h(1)).unwrap();
    let out = Packet::udp("192.168.100.10:9000", "198.51.100.9:9", b"out").via(lab.h(1));
    wire.send_packet(&out.clone().vlan(100)).unwrap();
    let got = wire
        .recv_packet("the packet", SOON, |packet| packet.ip.src.octets()[0] == 198)
        .unwrap();
    assert_eq!((got.eth.vlan, got.payload()), (Some(200), &b"out"[..]));
    let answer = Packet::udp(got.dst(), got.src(), b"in").via(lab.h(1)).vlan(200);
    wire.send_packet(&answer).unwrap();
    let back = wire
        .recv_packet("the answer", SOON, |packet| packet.dst() == out.src())
        .unwrap();
    assert_eq!((back.eth.vlan, back.payload()), (Some(100), &b"in"[..]));
}

/// The datagram exceeds what the slow path can hand back to the kernel in one frame (RFC 791 §3.2, RFC 1812 §4.2.2.7).
#[test]
fn a_jumbo_datagram_is_fragmented_for_a_smaller_way() {
    let lab = Lab::builder().inside_mtu(9000).build().unwrap();
    let _nat = lab.start_nat_as(Nat::Sipnat, "").unwrap();
    let echo = UdpEcho::start(lab.o(1), 7).unwrap();
    let capture = Capture::host(lab.o(1)).unwrap();
    let (mut host, text) = (
        RawSocket::host(lab.h(1)).unwrap(),
        (0..8000u32).map(|at| (at % 251) as u8).collect::<Vec<u8>>(),
    );
    let packet = Packet::udp("192.168.1.10:9000", echo.endpoint, &text).via(lab.h(1));
    assert!(!packet.ip.df);
    host.send_packet(&packet).unwrap();
    // The far end put it together and found its checksum right; its answer comes in pieces as well.
    let answer = host
        .recv_packet("a piece of the answer", SOON, |packet| packet.ip.mf)
        .unwrap();
    assert_eq!(answer.ip.dst, packet.ip.src);
    let sent: Vec<Packet> = capture.received().into_iter().filter(|packet| packet.ip.mf).collect();
    assert!(sent.len() >= 5, "{} pieces", sent.len());
    assert!(sent.iter().all(|piece| piece.ip.src == lab.external(0)));
}

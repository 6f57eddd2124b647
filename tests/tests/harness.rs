//! The lab itself: that its wires, sockets, captures and programs do what tests rely on. Needs root.

use tests::link::Offloads;
use tests::packet::{ICMP, UDP};
use tests::prelude::*;
use tests::programs;

#[test]
fn udp_and_ping_pass_an_nftables_router_with_right_checksums() {
    let lab = Lab::builder().inside_hosts(2).outside_hosts(2).build().unwrap();
    let _nat = lab.start_nat_as(Nat::Nftables, "").unwrap();
    let captures = [Capture::host(lab.h(1)).unwrap(), Capture::host(lab.o(1)).unwrap()];

    let echo = UdpEcho::start(lab.o(1), 7).unwrap();
    let seen = seen_by(&echo, &host_udp(lab.h(1), 5060).unwrap()).unwrap();
    assert_eq!(*seen.ip(), lab.external(0));
    lab.h(2)
        .run("ping", ["-c", "3", "-i", "0.1", "-W", "10", &lab.o(2).ip.to_string()])
        .unwrap();
    lab.h(1)
        .run("ping", ["-c", "1", "-W", "10", &lab.o(1).ip.to_string()])
        .unwrap();

    let outside = captures[1].packets();
    assert!(
        outside
            .iter()
            .any(|packet| packet.protocol() == UDP && packet.src() == seen)
    );
    assert!(
        outside
            .iter()
            .any(|packet| packet.protocol() == ICMP && packet.ip.src == lab.external(0))
    );
    assert!(
        !outside.iter().any(|packet| packet.ip.src == lab.h(1).ip),
        "an untranslated packet got out"
    );
    captures
        .iter()
        .for_each(|capture| capture.assert_no_bad_checksums().unwrap());
}

#[test]
fn a_long_tcp_stream_is_split_and_summed_as_on_a_wire() {
    let lab = Lab::builder().build().unwrap();
    let _nat = lab.start_nat_as(Nat::Nftables, "").unwrap();
    let capture = Capture::host(lab.o(1)).unwrap();
    let echo = TcpEcho::start(lab.o(1), 2222).unwrap();
    let (mut stream, seen) = tcp_seen_by(&echo, lab.h(1)).unwrap();
    assert_eq!(*seen.ip(), lab.external(0));
    tcp_echo(&mut stream, &[0x5a; 1 << 20]).unwrap();
    capture.assert_no_bad_checksums().unwrap();
    let longest = capture.frames().iter().map(|frame| frame.bytes.len()).max().unwrap();
    assert_eq!(longest, 1514, "full-sized segments, and none merged");
}

#[test]
fn an_outside_host_sees_but_never_answers_untranslated_packets() {
    let lab = Lab::builder().build().unwrap();
    let _nat = lab.start_nat_as(Nat::None, "").unwrap();
    let mut outside = RawSocket::open(lab.o(1), DEV, true).unwrap();
    let socket = host_udp(lab.h(1), 4000).unwrap();
    let _echo = UdpEcho::start(lab.o(1), 7).unwrap();
    socket.send_to(b"leak", (lab.o(1).ip, 7)).unwrap();
    socket.send_to(b"end", (lab.o(1).ip, 8)).unwrap();
    let leaked = outside
        .recv_packet("the leak", SOON, |packet| packet.payload() == b"leak")
        .unwrap();
    assert_eq!(leaked.src().to_string(), "192.168.1.10:4000");
    outside
        .recv_only(
            "the second datagram",
            SOON,
            |packet| packet.payload() == b"end",
            |packet| packet.ip.dst == lab.h(1).ip,
        )
        .unwrap();
}

#[test]
fn raw_frames_pass_unchanged_but_for_what_a_router_changes() {
    let lab = Lab::builder().build().unwrap();
    lab.o(1).mute().unwrap();
    let (inside, mut outside) = (RawSocket::host(lab.h(1)).unwrap(), RawSocket::host(lab.o(1)).unwrap());
    let sent = Packet::udp("192.168.1.10:9000", "203.0.113.100:9", b"raw")
        .id(77)
        .ttl(9)
        .via(lab.h(1));
    inside.send_packet(&sent).unwrap();
    let got = outside
        .recv_packet("the datagram", SOON, |packet| packet.payload() == b"raw")
        .unwrap();
    let mut expected = sent.ttl(8);
    (expected.eth.src, expected.eth.dst) = (lab.o(1).gateway_mac, lab.o(1).mac);
    assert_eq!(got, expected);
}

#[test]
fn tags_stay_in_the_frame_and_show_in_captures() {
    let lab = Lab::builder().inside_hosts(2).build().unwrap();
    let (sender, mut receiver) = (RawSocket::host(lab.h(1)).unwrap(), RawSocket::host(lab.h(2)).unwrap());
    let tagged = Packet::udp("192.168.7.1:1", "192.168.7.2:2", b"tagged")
        .vlan(7)
        .macs(lab.h(1).mac, lab.h(2).mac);
    sender.send_packet(&tagged).unwrap();
    let got = receiver
        .recv_packet("the tagged frame", SOON, |packet| packet.payload() == b"tagged")
        .unwrap();
    assert_eq!(got, tagged);
}

#[test]
fn a_muted_host_leaves_packets_to_raw_sockets() {
    let lab = Lab::builder().build().unwrap();
    let mut inside = RawSocket::host(lab.h(1)).unwrap();
    let syn = Packet::tcp("192.168.1.10:1000", "192.168.1.1:81", flags::SYN, 1, 0).via(lab.h(1));
    lab.h(1).mute().unwrap();
    let mut router = RawSocket::open(&lab.router, "in0", false).unwrap();
    inside.send_packet(&syn).unwrap();
    inside
        .recv_packet("the router's RST", SOON, |packet| {
            packet.as_tcp().is_some_and(|tcp| tcp.flags & flags::RST != 0)
        })
        .unwrap();
    inside
        .send_packet(&Packet::udp("192.168.1.10:1", "192.168.1.1:9", b"end").via(lab.h(1)))
        .unwrap();
    let answers = |packet: &Packet| packet.as_tcp().is_some_and(|tcp| tcp.flags & flags::RST != 0);
    router
        .recv_only("the last datagram", SOON, |packet| packet.payload() == b"end", answers)
        .unwrap();
}

#[test]
fn every_part_of_the_topology_is_reachable() {
    let builder = Lab::builder()
        .external_addresses(3)
        .inside_router()
        .far(1280)
        .second_inside()
        .second_outside();
    let lab = builder.build().unwrap();
    let _nat = lab.start_nat_as(Nat::Nftables, "").unwrap();
    for (from, to) in [
        (lab.h(1), lab.far().ip),
        (lab.deep(), lab.o(1).ip),
        (lab.deep(), lab.far().ip),
        (lab.g1(), lab.p1().ip),
        (lab.g1(), lab.o(1).ip),
        (lab.o(1), lab.external(2)),
        (lab.far(), lab.external(1)),
        (lab.deep(), lab.h(1).ip),
    ] {
        from.run("ping", ["-c", "1", "-W", "10", &to.to_string()]).unwrap();
    }
    // The small link shows in path-MTU discovery.
    let big = lab
        .h(1)
        .output(
            "ping",
            [
                "-c",
                "2",
                "-W",
                "2",
                "-M",
                "do",
                "-s",
                "1400",
                &lab.far().ip.to_string(),
            ],
        )
        .unwrap();
    let text = String::from_utf8_lossy(&big.stdout).into_owned() + &String::from_utf8_lossy(&big.stderr);
    assert!(text.contains("1280"), "{text}");
    let hops = lab
        .h(1)
        .run("traceroute", ["-n", "-q", "1", "-I", &lab.far().ip.to_string()])
        .unwrap();
    for hop in ["192.168.1.1", "203.0.113.250", "198.51.100.10"] {
        assert!(hops.contains(hop), "{hops}");
    }
}

#[test]
fn programs_serve_and_are_stopped() {
    let lab = Lab::builder().outside_hosts(2).build().unwrap();
    let _nat = lab.start_nat_as(Nat::Nftables, "").unwrap();
    let files = programs::TempDir::new().unwrap();
    std::fs::write(files.path().join("index.txt"), "from the web").unwrap();

    let web = programs::http_server(lab.o(1), 8080, files.path()).unwrap();
    let page = lab
        .h(1)
        .run(
            "curl",
            ["-sS", "--max-time", "15", &format!("http://{}/index.txt", web.endpoint)],
        )
        .unwrap();
    assert_eq!(page, "from the web");

    let dns = programs::dnsmasq(lab.o(1), &[("www.sipnat.test", lab.o(2).ip)]).unwrap();
    let script = "import sys\nfrom scapy.all import DNS, DNSQR\n\
        import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.settimeout(15)\n\
        s.sendto(bytes(DNS(rd=1, qd=DNSQR(qname='www.sipnat.test'))), (sys.argv[1], 53))\n\
        print(DNS(s.recv(512)).an.rdata)";
    let answer = lab
        .h(1)
        .run(programs::PYTHON, ["-c", script, &dns.endpoint.ip().to_string()])
        .unwrap();
    assert_eq!(answer.trim(), lab.o(2).ip.to_string());

    let iperf = programs::iperf3_server(lab.o(2)).unwrap();
    let report = programs::iperf3_client(lab.h(1), &iperf, &["-n", "1M"]).unwrap();
    // What was received is asked of the server when the client is done sending: the last segments may still be on their way.
    let bytes = |sum: &str| report["end"][sum]["bytes"].as_u64().unwrap();
    assert!(
        bytes("sum_sent") == 1 << 20 && bytes("sum_received") > 1 << 19,
        "{report}"
    );

    let pids = [web.child.pid(), dns.child.pid(), iperf.child.pid()];
    drop((web, dns, iperf));
    assert!(
        pids.iter()
            .all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists())
    );
}

#[test]
fn nat_discovery_runs_against_two_addresses() {
    let lab = Lab::builder().build().unwrap();
    let _nat = lab.start_nat_as(Nat::Nftables, "").unwrap();
    let second = "203.0.113.200".parse().unwrap();
    lab.add_address(lab.o(1), second).unwrap();
    let server = programs::turnserver(lab.o(1), second, 3478).unwrap();
    let address = server.endpoint.ip().to_string();
    let text = lab.h(1).run("turnutils_natdiscovery", ["-m", "-f", &address]).unwrap();
    assert!(text.contains("NAT with"), "{text}");
}

#[test]
fn wrong_checksums_are_found_by_captures() {
    let lab = Lab::builder().inside_hosts(2).build().unwrap();
    let capture = Capture::host(lab.h(2)).unwrap();
    let sender = RawSocket::host(lab.h(1)).unwrap();
    let good = Packet::udp("192.168.1.10:1", "192.168.1.11:2", b"x").macs(lab.h(1).mac, lab.h(2).mac);
    sender.send_packet(&good).unwrap();
    wait_until("the good one", SOON, || capture.seen() > 0).unwrap();
    capture.assert_no_bad_checksums().unwrap();
    assert_eq!(lab.h(2).stack_counter("UdpInCsumErrors").unwrap(), 0);
    sender.send_packet(&good.sum(Sum::Wrong(1))).unwrap();
    wait_until("the bad one", SOON, || capture.assert_no_bad_checksums().is_err()).unwrap();
    wait_until("the stack to count it", SOON, || {
        lab.h(2).stack_counter("UdpInCsumErrors").unwrap() == 1
    })
    .unwrap();
}

#[test]
fn direct_labs_and_default_offloads_forward_too() {
    for offloads in [Offloads::Xdp, Offloads::KernelDefault] {
        let lab = Lab::builder().direct().offloads(offloads).build().unwrap();
        let _nat = lab.start_nat_as(Nat::Nftables, "").unwrap();
        let echo = TcpEcho::start(lab.o(1), 2222).unwrap();
        let (mut stream, _) = tcp_seen_by(&echo, lab.h(1)).unwrap();
        tcp_echo(&mut stream, &[1; 1 << 18]).unwrap();
    }
}

#[test]
fn scaled_lifetimes_reach_conntrack() {
    let lab = Lab::builder().build().unwrap();
    let _nat = lab
        .start_nat_as(Nat::Nftables, NatConfig::toml("").lifetime_scale(0.01))
        .unwrap();
    assert_eq!(
        lab.router
            .read_sysctl("net.netfilter.nf_conntrack_udp_timeout")
            .unwrap(),
        "1"
    );
    assert_eq!(
        lab.router
            .read_sysctl("net.netfilter.nf_conntrack_tcp_timeout_established")
            .unwrap(),
        "4320"
    );
}

#[test]
fn nothing_is_left_over() {
    let names: Vec<String>;
    {
        let lab = Lab::builder().inside_hosts(2).far(1500).build().unwrap();
        names = lab.namespaces().iter().map(|(_, ns)| ns.name().to_string()).collect();
        let _nat = lab.start_nat_as(Nat::Nftables, "").unwrap();
        let _capture = Capture::host(lab.h(1)).unwrap();
        let _child = lab.h(1).spawn("sleep", ["1000"]).unwrap();
    }
    assert!(names.len() >= 7);
    let list = tests::ns::check(std::process::Command::new("ip").args(["netns", "list"]), "list").unwrap();
    assert!(names.iter().all(|name| !list.contains(name)), "{list}");
}

#[test]
fn what_a_killed_test_left_is_removed_and_nothing_else() {
    let mut gone = std::process::Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    let left = Namespace::create(&format!("snt{}-0-h1", gone.id())).unwrap();
    left.keep();
    let mut orphan = left.spawn("sleep", ["1000"]).unwrap();
    let (mine, other) = (Namespace::new("mine").unwrap(), format!("other{}", gone.id()));
    let _other = Namespace::create(&other).unwrap();
    // Another process may be sweeping, too; so what counts is that it is gone.
    tests::stale::remove_stale().unwrap();
    wait_until("the namespace to go", SOON, || {
        !std::path::Path::new(&left.path()).exists()
    })
    .unwrap();
    wait_until("the orphan to end", SOON, || !orphan.running()).unwrap();
    for name in [mine.name(), &other] {
        assert!(std::path::Path::new("/run/netns").join(name).exists(), "{name}");
    }
}

#[test]
fn one_namespace_stands_for_a_crowd() {
    let lab = Lab::builder().build().unwrap();
    let _nat = lab.start_nat_as(Nat::Nftables, "").unwrap();
    let crowd: Vec<std::net::Ipv4Addr> = (50..100).map(|last| [192, 168, 1, last].into()).collect();
    lab.add_addresses(lab.h(1), crowd.iter().copied()).unwrap();
    let echo = UdpEcho::start(lab.o(1), 7).unwrap();
    for address in crowd {
        let socket = tests::sockets::udp(lab.h(1), (address, 5060)).unwrap();
        assert_eq!(*seen_by(&echo, &socket).unwrap().ip(), lab.external(0));
    }
    assert_eq!(tests::link::mac(&lab.router, "in0").unwrap(), lab.h(1).gateway_mac);
}

#[test]
fn silence_is_told_from_noise() {
    let lab = Lab::builder().inside_hosts(2).build().unwrap();
    let (sender, mut receiver) = (RawSocket::host(lab.h(1)).unwrap(), RawSocket::host(lab.h(2)).unwrap());
    let noise = Packet::udp("192.168.1.10:1", "192.168.1.11:2", b"noise").macs(lab.h(1).mac, lab.h(2).mac);
    let window = std::time::Duration::from_millis(50);
    receiver
        .assert_silent(window, |packet| packet.payload() == b"noise")
        .unwrap();
    sender.send_packet(&noise).unwrap();
    receiver
        .assert_silent(window, |packet| packet.payload() == b"quiet")
        .unwrap();
    sender.send_packet(&noise).unwrap();
    let error = receiver
        .assert_silent(SOON, |packet| packet.payload() == b"noise")
        .unwrap_err()
        .to_string();
    assert!(error.contains("what must not"), "{error}");
}

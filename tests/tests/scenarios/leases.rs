//! Ports that hosts ask for by PCP and NAT-PMP, with clients that others wrote.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use serde_json::Value;
use tests::prelude::*;
use tests::programs::TempDir;
use tests::sockets::{tcp_connect, tcp_listen};

/// A NAT that gives out ports, and the directory of its file.
fn gateway(lab: &Lab) -> (RunningNat, TempDir) {
    let files = TempDir::new().unwrap();
    let config = format!("[pap]\nstore = \"{}\"\n", files.file("mappings.redb"));
    (lab.start_nat(NatConfig::toml(&config)).unwrap(), files)
}

fn natpmpc(host: &Host, args: &[&str]) -> String {
    let gateway = host.gateway.to_string();
    let args = [&["-g", &*gateway][..], args].concat();
    host.run("natpmpc", args).unwrap()
}

/// External port and lifetime of "Mapped public port 20000 protocol UDP to local port 5000 liftime 3600".
fn mapped(output: &str) -> (u16, u32) {
    let line = output.lines().find_map(|line| line.strip_prefix("Mapped public port "));
    let words: Vec<&str> = line.unwrap_or_else(|| panic!("{output}")).split_whitespace().collect();
    let number = |word: Option<&&str>| {
        word.and_then(|word| word.parse().ok())
            .unwrap_or_else(|| panic!("{output}"))
    };
    (number(words.first()) as u16, number(words.last()))
}

fn leases(nat: &RunningNat) -> Vec<Value> {
    nat.json(&["leases"]).unwrap().as_array().unwrap().clone()
}

/// A host outside that has never been heard of reaches `inside` by `external`.
fn reaches(from: &UdpSocket, external: SocketAddrV4, inside: &UdpSocket) {
    from.send_to(b"from outside", external).unwrap();
    let (text, sender) = receive(inside).unwrap();
    assert_eq!(
        (&text[..], sender.port()),
        (&b"from outside"[..], from.local_addr().unwrap().port())
    );
    inside.send_to(b"answer", sender).unwrap();
    let (text, sender) = receive(from).unwrap();
    assert_eq!((&text[..], sender), (&b"answer"[..], external));
}

/// A PCP request for a mapping (RFC 6887 figures 2 and 9) and its answer: code, lifetime, epoch, external port.
fn pcp(socket: &UdpSocket, host: &Host, protocol: u8, internal: u16, suggested: u16, lifetime: u32) -> [u32; 4] {
    let mut request = vec![2, 1, 0, 0];
    request.extend(lifetime.to_be_bytes());
    request.extend(host.ip.to_ipv6_mapped().octets());
    request.extend(*b"nonce of one");
    request.extend([protocol, 0, 0, 0]);
    request.extend(internal.to_be_bytes());
    request.extend(suggested.to_be_bytes());
    request.extend(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().octets());
    let (answer, _) = ask(socket, (host.gateway, 5351), &request).unwrap();
    let word = |at: usize| u32::from_be_bytes(answer[at..at + 4].try_into().unwrap());
    [u32::from(answer[3]), word(4), word(8), word(40) & 0xffff]
}

#[test]
fn natpmpc_opens_a_port_uses_it_and_gives_it_back() {
    let lab = Lab::builder().inside_hosts(2).build().unwrap();
    let (nat, _files) = gateway(&lab);
    let public = natpmpc(lab.h(1), &[]);
    let address = format!("Public IP address : {}", lab.external(0));
    assert!(public.contains(&address), "{public}");
    let (port, lifetime) = mapped(&natpmpc(lab.h(1), &["-a", "20000", "5000", "udp", "3600"]));
    assert_eq!((port, lifetime), (20_000, 3600));
    let [lease] = &leases(&nat)[..] else {
        panic!("one lease")
    };
    let inside = SocketAddrV4::new(lab.h(1).ip, 5000);
    assert_eq!(
        (&lease["inside"], &lease["by"]),
        (&inside.to_string().into(), &"nat-pmp".into())
    );
    let external = SocketAddrV4::new(lab.external(0), port);
    let phone = host_udp(lab.h(1), 5000).unwrap();
    reaches(&host_udp(lab.o(1), 7000).unwrap(), external, &phone);
    // TCP is filtered by address, but not where its host has opened a port.
    let (port, _) = mapped(&natpmpc(lab.h(1), &["-a", "0", "80", "tcp", "3600"]));
    let web = tcp_listen(lab.h(1), (lab.h(1).ip, 80)).unwrap();
    let stream = tcp_connect(lab.o(1), (lab.external(0), port)).unwrap();
    assert_eq!(web.accept().unwrap().1, stream.local_addr().unwrap());
    // Another host does not get what this one has.
    let (other, _) = mapped(&natpmpc(lab.h(2), &["-a", "20000", "5000", "udp", "3600"]));
    assert_ne!(other, 20_000);
    natpmpc(lab.h(1), &["-a", "0", "5000", "udp", "0"]);
    natpmpc(lab.h(1), &["-a", "0", "80", "tcp", "0"]);
    natpmpc(lab.h(2), &["-a", "0", "5000", "udp", "0"]);
    assert_eq!(leases(&nat), Vec::<Value>::new());
}

#[test]
fn an_ended_mapping_lets_nobody_in() {
    let lab = Lab::builder().build().unwrap();
    let (nat, _files) = gateway(&lab);
    let control = host_udp(lab.h(1), 0).unwrap();
    let [code, _, _, port] = pcp(&control, lab.h(1), 17, 5000, 0, 3600);
    assert_eq!(code, 0);
    let external = SocketAddrV4::new(lab.external(0), port as u16);
    let phone = host_udp(lab.h(1), 5000).unwrap();
    let stranger = host_udp(lab.o(1), 7000).unwrap();
    stranger.send_to(b"before", external).unwrap();
    assert_eq!(receive(&phone).unwrap().0, b"before");
    let revoke = nat
        .sipnat(&["leases", "revoke", "udp", &format!("{}:5000", lab.h(1).ip)])
        .unwrap();
    assert!(revoke.status.success(), "{revoke:?}");
    stranger.send_to(b"after", external).unwrap();
    assert_eq!(try_receive(&phone, Duration::from_millis(300)).unwrap(), None);
    let again = nat
        .sipnat(&["leases", "revoke", "udp", &format!("{}:5000", lab.h(1).ip)])
        .unwrap();
    assert_eq!(again.status.code(), Some(4));
    // Its port rests, and its host gets it again before that is over.
    let [code, _, _, same] = pcp(&control, lab.h(1), 17, 5000, port as u16, 3600);
    assert_eq!((code, same), (0, port));
}

#[test]
fn mappings_and_the_epoch_outlive_the_daemon() {
    let lab = Lab::builder().build().unwrap();
    let (mut nat, _files) = gateway(&lab);
    let control = host_udp(lab.h(1), 0).unwrap();
    let [_, _, before, port] = pcp(&control, lab.h(1), 17, 5000, 0, 3600);
    let external = SocketAddrV4::new(lab.external(0), port as u16);
    let phone = host_udp(lab.h(1), 5000).unwrap();
    let stranger = host_udp(lab.o(1), 7000).unwrap();
    nat.kill9();
    reaches(&stranger, external, &phone);
    nat.restart().unwrap();
    let [code, _, after, same] = pcp(&control, lab.h(1), 17, 5000, 0, 3600);
    assert_eq!((code, same), (0, port));
    assert!(after >= before, "the epoch began anew: {before}, {after}");
    assert_eq!(leases(&nat).len(), 1);
    reaches(&host_udp(lab.o(1), 7001).unwrap(), external, &phone);
    // From nothing: the tables are gone, the file is not.
    nat.daemon().detach().unwrap();
    // The kernel takes its time to let go of programs.
    wait_until("a start from nothing", SOON, || {
        let started = nat.restart().is_ok();
        if !started {
            nat.kill9();
        }
        started
    })
    .unwrap();
    assert_eq!(leases(&nat)[0]["external"], external.to_string());
    reaches(&host_udp(lab.o(1), 7002).unwrap(), external, &phone);
}

#[test]
fn mappings_move_with_the_external_address() {
    let lab = Lab::builder().build().unwrap();
    let (nat, _files) = gateway(&lab);
    let control = host_udp(lab.h(1), 0).unwrap();
    let [_, _, _, port] = pcp(&control, lab.h(1), 17, 5000, 0, 3600);
    let old = lab.external(0);
    let bits = u32::from(old);
    let new = Ipv4Addr::from(bits & !0xff | 0xc8);
    lab.router
        .ip_batch(&[
            format!("address del {old}/24 dev {}", lab.outside_interfaces()[0]),
            format!("address add {new}/24 dev {}", lab.outside_interfaces()[0]),
        ])
        .unwrap();
    // Without being asked, the server tells where the mapping is now (RFC 6887 section 14.2).
    let (told, from) = receive(&control).unwrap();
    assert_eq!(from, SocketAddrV4::new(lab.h(1).gateway, 5351));
    assert_eq!((told[1], told[3]), (0x81, 0));
    assert_eq!(told[44..60], new.to_ipv6_mapped().octets());
    let moved = u16::from_be_bytes([told[42], told[43]]);
    assert_eq!(u32::from(moved), port, "its port was free there");
    let phone = host_udp(lab.h(1), 5000).unwrap();
    wait_until("the new address is reached", SOON, || {
        let stranger = host_udp(lab.o(1), 0).unwrap();
        stranger.send_to(b"hello", (new, moved)).unwrap();
        try_receive(&phone, Duration::from_millis(200)).unwrap().is_some()
    })
    .unwrap();
    assert_eq!(leases(&nat)[0]["external"], format!("{new}:{moved}"));
}

#[test]
fn requests_from_outside_get_no_answer() {
    let lab = Lab::builder().build().unwrap();
    let (_nat, _files) = gateway(&lab);
    let stranger = host_udp(lab.o(1), 0).unwrap();
    for target in [lab.external(0), lab.h(1).gateway] {
        // The inside address may have no way from there, which is as well.
        let _ = stranger.send_to(&[0, 0], (target, 5351));
        let refused = try_receive(&stranger, Duration::from_millis(300));
        assert!(!matches!(refused, Ok(Some(_))), "{target}: {refused:?}");
    }
    let (answer, _) = ask(&host_udp(lab.h(1), 0).unwrap(), (lab.h(1).gateway, 5351), &[0, 0]).unwrap();
    assert_eq!(answer[..4], [0, 128, 0, 0]);
}

const TORRENT: &str = r#"
import sys, time, libtorrent
session = libtorrent.session({
    "listen_interfaces": sys.argv[1], "enable_natpmp": True, "enable_upnp": False, "enable_lsd": False, "enable_dht": False,
    "alert_mask": libtorrent.alert.category_t.port_mapping_notification | libtorrent.alert.category_t.port_mapping_log_notification,
})
end = time.time() + 20
while time.time() < end:
    session.wait_for_alert(500)
    for alert in session.pop_alerts():
        print(type(alert).__name__, alert.message(), flush=True)
        if isinstance(alert, libtorrent.portmap_alert):
            print("MAPPED", alert.external_port, alert.map_protocol, flush=True)
            sys.exit(0)
sys.exit(1)
"#;

#[test]
fn libtorrent_maps_its_port_by_pcp_and_tshark_finds_nothing_wrong() {
    let lab = Lab::builder().build().unwrap();
    let (nat, files) = gateway(&lab);
    let capture = Capture::host(lab.h(1)).unwrap();
    let listen = format!("{}:6881", lab.h(1).ip);
    let said = lab.h(1).run("/usr/bin/python3", ["-c", TORRENT, &listen]).unwrap();
    assert!(said.contains("MAPPED"), "{said}");
    assert!(said.contains("transport: PCP"), "{said}");
    // It has taken it back at its end.
    assert_eq!(leases(&nat), Vec::<Value>::new());
    let path = files.path().join("pcp.pcap");
    capture.write_pcap(&path).unwrap();
    let args = [
        "-r",
        path.to_str().unwrap(),
        "-Y",
        "udp.srcport == 5351 && udp.dstport != 5350 && !icmp",
        "-T",
        "fields",
        "-e",
        "_ws.col.Protocol",
        "-e",
        "_ws.expert.message",
    ];
    let decoded = lab.h(1).run("tshark", args).unwrap();
    assert!(decoded.lines().count() >= 2, "{decoded}");
    for line in decoded.lines() {
        let (protocol, expert) = line.split_once('\t').unwrap();
        assert!(
            protocol.contains("PCP") || protocol.contains("Port Control"),
            "{decoded}"
        );
        assert_eq!(expert, "", "{decoded}");
    }
}

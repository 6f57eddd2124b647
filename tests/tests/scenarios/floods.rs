//! Floods and full tables, without harm to what exists.

use std::net::Ipv4Addr;

use tests::prelude::*;

use super::counter;

const SYNS: u32 = 100_000;

#[test]
fn a_syn_flood_from_inside_harms_no_existing_flow() {
    let lab = Lab::builder().outside_hosts(2).build().unwrap();
    let nat = lab.start_nat_as(Nat::Sipnat, "").unwrap();
    // The target: it answers nothing, and needs no ARP.
    lab.o(2).mute().unwrap();
    let (udp, tcp) = (
        UdpEcho::start(lab.o(1), 7).unwrap(),
        TcpEcho::start(lab.o(1), 8).unwrap(),
    );
    let socket = host_udp(lab.h(1), 5060).unwrap();
    let seen = seen_by(&udp, &socket).unwrap();
    let (mut stream, _) = tcp_seen_by(&tcp, lab.h(1)).unwrap();

    let flood = RawSocket::host(lab.h(1)).unwrap();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for number in 0..SYNS {
        let bits = random.next();
        // Neighbours of h1, which are known not to exist, and every eighth an address that nobody inside can have.
        let source = match number % 8 {
            0 => Ipv4Addr::from((bits >> 32) as u32),
            _ => Ipv4Addr::new(192, 168, 1, 20 + (bits >> 32) as u8 % 200),
        };
        let (sport, dport) = (bits as u16 | 1, (bits >> 16) as u16);
        let syn = Packet::tcp((source, sport), (lab.o(2).ip, dport), flags::SYN, bits as u32, 0);
        flood.send_packet(&syn.via(lab.h(1))).unwrap();
        if number % 10_000 == 0 {
            tcp_echo(&mut stream, b"during the flood").unwrap();
            assert_eq!(seen_by(&udp, &socket).unwrap(), seen);
        }
    }
    tcp_echo(&mut stream, &[1; 100_000]).unwrap();
    assert_eq!(seen_by(&udp, &socket).unwrap(), seen);
    // The flood did arrive: the pool is used up, and what had no place inside was refused.
    let counters = nat.json(&["counters"]).unwrap();
    let refused = ["foreign_source", "no_route", "martian"].map(|reason| counter(&nat, reason));
    assert_eq!(refused.iter().sum::<u64>(), u64::from(SYNS / 8), "{counters}");
    all_blocks_are_used(&nat);
}

#[test]
fn full_tables_of_bindings_and_sessions_keep_what_they_have() {
    let lab = Lab::builder().inside_hosts(2).outside_hosts(2).build().unwrap();
    let nat = lab
        .start_nat_as(Nat::Sipnat, "[nat]\ncapacity = 1024\nsessions = 1024\n")
        .unwrap();
    lab.h(2).mute().unwrap();
    lab.o(2).mute().unwrap();
    let (udp, tcp) = (
        UdpEcho::start(lab.o(1), 7).unwrap(),
        TcpEcho::start(lab.o(1), 8).unwrap(),
    );
    let socket = host_udp(lab.h(1), 5060).unwrap();
    let seen = seen_by(&udp, &socket).unwrap();
    let (mut stream, _) = tcp_seen_by(&tcp, lab.h(1)).unwrap();

    let flood = RawSocket::host(lab.h(2)).unwrap();
    let mut outside = RawSocket::host(lab.o(2)).unwrap();
    // One binding and many sessions. Half-open ones give way to new ones, so these are opened; more than there is room for.
    let send = |port: u16, flags: u8| {
        let segment = Packet::tcp((lab.h(2).ip, 2000), (lab.o(2).ip, port), flags, 1, 0);
        flood.send_packet(&segment.via(lab.h(2))).unwrap();
    };
    send(1, flags::SYN);
    let first = outside
        .recv_packet("the SYN", SOON, |packet| packet.as_tcp().is_some())
        .unwrap();
    for port in 1..=4000 {
        send(port, flags::SYN);
        let answer = Packet::tcp((lab.o(2).ip, port), first.src(), flags::SYN | flags::ACK, 1, 2);
        outside.send_packet(&answer.via(lab.o(2))).unwrap();
        send(port, flags::ACK);
    }
    wait_until("the table of sessions to be full", SOON, || {
        counter(&nat, "sessions_full") > 0
    })
    .unwrap();
    // Many bindings, more than there is room for.
    for number in 0..4000u16 {
        let source = Ipv4Addr::new(192, 168, 1, 20 + (number % 200) as u8);
        let packet = Packet::udp((source, 3000 + number), (lab.o(2).ip, 9), b"x");
        flood.send_packet(&packet.via(lab.h(2))).unwrap();
    }
    wait_until("the index of bindings to be full", SOON, || {
        counter(&nat, "index_full") > 0
    })
    .unwrap();
    tcp_echo(&mut stream, &[1; 100_000]).unwrap();
    assert_eq!(seen_by(&udp, &socket).unwrap(), seen);
}

#[test]
fn a_pool_filled_to_the_last_port_refuses_new_flows_and_keeps_the_old() {
    let lab = Lab::builder().inside_hosts(2).build().unwrap();
    let config = "[ports]\nrange = \"2048-2175\"\nblock_size = 64\nexclude_local = false\n";
    let nat = lab.start_nat_as(Nat::Sipnat, config).unwrap();
    let echo = UdpEcho::start(lab.o(1), 7).unwrap();
    let mut external = Vec::new();
    for port in 5000..5128 {
        let socket = host_udp(lab.h(1), port).unwrap();
        let seen = seen_by(&echo, &socket).unwrap_or_else(|error| panic!("port {port}: {error:#}"));
        external.push((socket, seen));
    }
    let mut ports: Vec<u16> = external.iter().map(|(_, seen)| seen.port()).collect();
    ports.sort_unstable();
    assert_eq!(ports, (2048..2176).collect::<Vec<_>>(), "every port once");
    assert_eq!(all_blocks_are_used(&nat), 2);

    for number in [1, 2] {
        let mut host = RawSocket::host(lab.h(number)).unwrap();
        let served = echo.served();
        let late = Packet::udp((lab.h(number).ip, 6000), (lab.o(1).ip, 7), b"late").via(lab.h(number));
        host.send_packet(&late).unwrap();
        let error = host
            .recv_packet("ICMP 3/1", SOON, |packet| packet.is_icmp(3, 1))
            .unwrap();
        assert_eq!((error.ip.src, error.ip.dst), (lab.h(number).gateway, lab.h(number).ip));
        assert_eq!(echo.served(), served, "h{number}'s packet left");
    }
    for (socket, seen) in &external {
        assert_eq!(seen_by(&echo, socket).unwrap(), *seen);
    }
}

/// Waits until the daemon has counted that no block is free; returns how many there are.
fn all_blocks_are_used(nat: &RunningNat) -> u64 {
    wait_for("all blocks to be used", SOON, || {
        let pool = nat.json(&["status"]).unwrap()["pool"].clone();
        (pool["blocks_used"] == pool["blocks_total"]).then(|| pool["blocks_total"].as_u64().unwrap())
    })
    .unwrap()
}

/// xorshift64: the same flood each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

//! The slow path with the real programs and their ring. In namespaces; skipped without root or without the eBPF object.

use std::collections::HashSet;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::maps::{Array, HashMap, PerCpuArray, RingBuf};
use aya::programs::Xdp;
use nat_common::config::{Config as KernelConfig, State};
use nat_common::counters::{Count, REASONS, Reason};
use nat_common::flow::Side;
use nat_common::maps::{Capacity, Interface, ROLE_INSIDE, ROLE_OUTSIDE, egress_key, ingress_key};

use super::namespace_tests::{HOST, Nothing, ROUTER, icmp_receiver, if_index, lab, udp};
use super::outlet::Sockets;
use super::reinject::{KernelPrograms, Reinject as _};
use super::*;
use crate::config::Config;
use crate::dataplane::object;

/// The object with both programs loaded; `None` if this build has none.
fn loaded() -> Option<Ebpf> {
    let capacity = Capacity {
        addresses: 1,
        index_buckets: 64,
        session_buckets: 64,
        fragment_buckets: 64,
        hosts: 64,
        destinations: 64,
        legs: 16,
        counting: false,
        block_shift: 6,
    };
    let mut ebpf = match object::open(&capacity, None) {
        Ok(ebpf) => ebpf,
        Err(error) if format!("{error:#}").contains("SIPNAT_SKIP_EBPF") => {
            eprintln!("skipped: {error:#}");
            return None;
        }
        Err(error) => panic!("{error:#}"),
    };
    for name in [object::INSIDE, object::OUTSIDE] {
        object::load(&mut ebpf, name).unwrap();
    }
    Some(ebpf)
}

fn programs(ebpf: &Ebpf) -> KernelPrograms {
    let [inside, outside]: [&Xdp; 2] =
        [object::INSIDE, object::OUTSIDE].map(|name| ebpf.program(name).unwrap().try_into().unwrap());
    KernelPrograms::new(inside, outside).unwrap()
}

#[test]
fn the_program_of_the_side_runs() {
    let Some((_host, router, vb)) = lab() else { return };
    router.enter(|| {
        let Some(ebpf) = loaded() else { return };
        let mut programs = programs(&ebpf);
        let frame = udp(HOST, ROUTER, 64, b"x");
        programs.reinject(Side::Outside, vb, &frame).unwrap();
        programs.reinject(Side::Outside, vb, &frame).unwrap();
        programs.reinject(Side::Inside, vb, &frame).unwrap();
        // Without a configuration every packet is dropped and counted so, on the side of the program that ran.
        let counts = PerCpuArray::<_, Count>::try_from(ebpf.map("COUNTERS").unwrap()).unwrap();
        let packets = |side: Side| -> u64 {
            let index = Reason::NotConfigured as u32 + side as u32 * REASONS as u32;
            counts.get(&index, 0).unwrap().iter().map(|c| c.packets).sum()
        };
        assert_eq!((packets(Side::Inside), packets(Side::Outside)), (1, 2));
    });
}

/// Tells the data path of one inside interface `vb` and one outside interface `d0`.
fn configure(ebpf: &mut Ebpf, vb: u32, d0: u32) -> Vec<Interface> {
    let interface = |ifindex, addr, role| Interface {
        ifindex,
        device: ifindex,
        addr,
        mtu: 1500,
        role,
        ..Interface::default()
    };
    let interfaces = vec![
        interface(vb, u32::from_be_bytes(ROUTER), ROLE_INSIDE),
        interface(d0, 0xcb00_7101, ROLE_OUTSIDE),
    ];
    let mut map = Array::<_, Interface>::try_from(ebpf.map_mut("INTERFACES").unwrap()).unwrap();
    for (i, interface) in interfaces.iter().enumerate() {
        map.set(i as u32, interface, 0).unwrap();
    }
    let mut map = HashMap::<_, u64, u32>::try_from(ebpf.map_mut("INTERFACE_OF").unwrap()).unwrap();
    for (i, ifindex) in [(0u32, vb), (1, d0)] {
        map.insert(&ingress_key(ifindex, 0), &i, 0).unwrap();
        map.insert(&egress_key(ifindex), &i, 0).unwrap();
    }
    let config = KernelConfig {
        destination_mask: 63,
        index_buckets: 64,
        index_step: nat_common::hash::step(64),
        session_mask: 63,
        fragment_mask: 63,
        host_mask: 63,
        block_shift: 6,
        blocks_per_host: 32,
        route_age: 100,
        punt_source: 100,
        punt_source_rate: 100,
        punt_total: 100,
        punt_total_rate: 100,
        ticks_per_second: 16,
        ..KernelConfig::default()
    };
    Array::<_, KernelConfig>::try_from(ebpf.map_mut("CONFIG").unwrap())
        .unwrap()
        .set(0, &config, 0)
        .unwrap();
    let state = State {
        active: 1,
        tick_shift: 4,
        cpus: 2,
        ..State::default()
    };
    Array::<_, State>::try_from(ebpf.map_mut("STATE").unwrap())
        .unwrap()
        .set(0, &state, 0)
        .unwrap();
    interfaces
}

#[test]
fn from_the_ring_to_the_host_that_is_told() {
    let Some((host, router, vb)) = lab() else { return };
    router.add_d0();
    router.ip("addr add 203.0.113.1/24 dev d0");
    router.ip("route add default via 203.0.113.254");
    router.run("sysctl -qw net.ipv4.conf.vb.forwarding=1");
    let icmp = host.enter(icmp_receiver);
    // The verifier takes its time; what follows has a limit.
    let Some(mut ebpf) = loaded() else { return };
    let interfaces = configure(&mut ebpf, vb, router.enter(|| if_index("d0")));
    router.block_on(async || {
        // A second pair of handles plays the interface on which the host's packets come in.
        let mut wire = programs(&ebpf);
        let reinject = Box::new(programs(&ebpf));
        let slow_path = SlowPath::new(SlowPathParts {
            punts: RingBuf::try_from(ebpf.take_map("PUNTS").unwrap()).unwrap(),
            settings: Settings::from(&Config::parse("[nat]\ninside = [\"vb\"]\noutside = [\"d0\"]\n", "test").unwrap()),
            interfaces,
            table: Box::new(Nothing(HashSet::new())),
            reinject,
            outlet: Box::new(Sockets::open().unwrap()),
            net: Arc::new(Net::open().unwrap()),
        });
        let handle = slow_path.handle();
        let run = tokio::spawn(slow_path.run(std::future::pending()));
        let told = async |ttl: u8, payload: &'static [u8]| {
            let mut frame = udp(HOST, [198, 51, 100, 7], ttl, payload);
            frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
            let begun = Instant::now();
            wire.reinject(Side::Inside, vb, &frame).unwrap();
            let icmp = icmp.try_clone().unwrap();
            let message = tokio::task::spawn_blocking(move || next_message(&icmp)).await.unwrap();
            assert_eq!(&message[28..], &frame[14..], "the quote");
            (message[20], message[21], begun.elapsed())
        };
        let mut told = told;
        let (kind, code, _) = told(1, b"traceroute").await;
        assert_eq!((kind, code), (11, 0));
        // Nobody answers for the next hop 203.0.113.254.
        let (kind, code, time) = told(64, b"into the void").await;
        assert_eq!((kind, code), (3, 1));
        assert!(time >= Duration::from_secs(1), "given up after {time:?}");
        let counters = handle.counters();
        for counter in [("received", 2), ("neighbour_expired", 1), ("sent_host_unreachable", 1)] {
            assert!(counters.contains(&counter), "{counters:?}");
        }
        run.abort();
    });
}

fn next_message(icmp: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 1000];
    let len = icmp.recv(&mut buffer).unwrap();
    buffer.truncate(len);
    buffer
}

//! Media from packet 1: 1,000 calls whose ends both begin to send in the same moment as their legs are opened, from both processors.
//!
//! Every packet has its call, its end and its number in it. Each one that was sent has been received once by the other end of its call, or
//! was counted by its leg because the other end had not sent yet: at most one packet of each call, since of two that pass each other at
//! least one finds the other's end known.

use std::collections::BTreeMap;
use std::net::{SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Barrier, OnceLock};
use std::time::Instant;

use serde_json::{Value, json};
use tests::prelude::*;
use tests::process::{pin, raise_file_limit};

const CALLS: usize = 1000;
/// Packets from each end of a call.
const PACKETS: u16 = 12;
/// The port of the first call's phones; each call has ports of its own.
const FIRST_PORT: u16 = 6000;
/// Packets that may be in the queue of one of the router's interfaces, which has room for 256.
const QUEUE: u64 = 128;

/// Two ends of all calls, each in a network of its own on an interface of its own.
struct Scene {
    /// Where both ends of each call send, once that is known.
    legs: Vec<OnceLock<[SocketAddrV4; 2]>>,
    /// How many threads are about to begin each call.
    there: Vec<AtomicUsize>,
    phones: [Vec<UdpSocket>; 2],
    queues: [Queue; 2],
    lab: Lab,
}

/// The router's interface that an end sends to: how much has been sent, and how much taken from it.
struct Queue {
    dev: &'static str,
    /// What it had taken when the test began.
    before: u64,
    sent: AtomicU64,
}

impl Queue {
    fn new(router: &Namespace, dev: &'static str) -> Queue {
        let sent = AtomicU64::new(0);
        let before = taken(router, dev);
        Queue { dev, before, sent }
    }

    /// Sends when there is room.
    fn send(&self, router: &Namespace, socket: &UdpSocket, packet: &[u8], to: SocketAddrV4) {
        let number = self.sent.fetch_add(1, Ordering::Relaxed);
        if number.is_multiple_of(16) {
            self.wait(router, QUEUE);
        }
        socket.send_to(packet, to).unwrap();
    }

    /// Waits until no more than so many packets are left.
    fn wait(&self, router: &Namespace, left: u64) {
        wait_until("the router to take packets from its queue", SOON, || {
            let taken = taken(router, self.dev) - self.before;
            self.sent.load(Ordering::Relaxed).saturating_sub(taken) <= left
        })
        .unwrap();
    }
}

/// Packets that an interface has received.
fn taken(ns: &Namespace, dev: &str) -> u64 {
    let table = ns
        .enter(|| std::fs::read_to_string("/proc/thread-self/net/dev"))
        .unwrap();
    let line = table
        .lines()
        .find_map(|line| line.trim().strip_prefix(dev)?.strip_prefix(':'));
    line.unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
}

impl Scene {
    fn new() -> (Scene, RunningNat) {
        let lab = Lab::builder().direct().second_outside().build().unwrap();
        // All legs are on the first address.
        lab.p1()
            .ip_batch(&[format!("route add default via {}", lab.p1().gateway)])
            .unwrap();
        let nat = lab.start_nat_as(Nat::Sipnat, "").unwrap();
        let phones = [lab.o(1), lab.p1()].map(|host| {
            let port = |call: usize| FIRST_PORT + call as u16;
            let socket = |call| host_udp(host, port(call)).unwrap();
            let phones: Vec<UdpSocket> = (0..CALLS).map(socket).collect();
            phones.iter().for_each(|phone| phone.set_nonblocking(true).unwrap());
            phones
        });
        let scene = Scene {
            legs: (0..CALLS).map(|_| OnceLock::new()).collect(),
            there: (0..CALLS).map(|_| AtomicUsize::new(0)).collect(),
            phones,
            queues: ["out0", "out1"].map(|dev| Queue::new(&lab.router, dev)),
            lab,
        };
        (scene, nat)
    }

    /// Opens the legs of one call after the other, as answers do. Each address of a phone is that of many.
    fn open(&self, nat: &mut RunningNat) {
        let gates = [self.lab.o(1).ip, self.lab.p1().ip];
        for (call, legs) in self.legs.iter().enumerate() {
            let plan = json!({"cmd": "open_relay", "call": call, "gates": gates});
            let opened = nat.daemon().request(&plan).unwrap();
            let external = |side: usize| {
                let leg = opened.iter().find(|leg| leg["side"] == side).unwrap();
                leg["external"].as_str().unwrap().parse().unwrap()
            };
            legs.set([external(0), external(1)]).unwrap();
        }
    }

    /// Sends packet `number` of one end of every call. Thread 0 speaks for the first end of every even and the second end of every odd call,
    /// thread 1 for the others.
    fn speak(&self, thread: usize, number: u16) {
        for (call, legs) in self.legs.iter().enumerate() {
            let side = (thread + call) % 2;
            if number == 1 {
                self.meet(call);
            }
            let to = legs.get().unwrap()[side];
            let socket = &self.phones[side][call];
            self.queues[side].send(&self.lab.router, socket, &packet(call, side, number), to);
        }
    }

    /// Waits until the legs of a call are open and both threads are about to use them. Not by a condition that sleeps: both go on in the
    /// same moment.
    fn meet(&self, call: usize) {
        let begun = Instant::now();
        let until = |met: &dyn Fn() -> bool| {
            while !met() {
                // On a busy machine the other thread may be waiting for this processor.
                (0..200).take_while(|_| !met()).for_each(|_| std::hint::spin_loop());
                std::thread::yield_now();
                assert!(begun.elapsed() < SOON, "call {call} does not begin");
            }
        };
        until(&|| self.legs[call].get().is_some());
        self.there[call].fetch_add(1, Ordering::SeqCst);
        until(&|| self.there[call].load(Ordering::SeqCst) == 2);
    }

    /// What the ends of all calls have received, by call and end, once it is so many packets: how often each number.
    fn heard_in_all(&self, packets: u64) -> BTreeMap<(usize, usize), BTreeMap<u16, u32>> {
        let (mut heard, mut count) = (BTreeMap::new(), 0);
        wait_until(&format!("{packets} packets at the phones"), SOON, || {
            for (side, phones) in self.phones.iter().enumerate() {
                for (call, socket) in phones.iter().enumerate() {
                    count += self.drain(socket, call, side, heard.entry((call, side)).or_default());
                }
            }
            count >= packets
        })
        .unwrap();
        heard
    }

    /// Reads what one end of a call has received; how many packets.
    fn drain(&self, socket: &UdpSocket, call: usize, side: usize, heard: &mut BTreeMap<u16, u32>) -> u64 {
        let legs = self.legs[call].get().unwrap();
        let (mut buffer, mut count) = ([0; 2048], 0);
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let number = u16::from_be_bytes([buffer[2], buffer[3]]);
            assert_eq!(from, legs[side].into(), "media comes from where the phone sends");
            let sent = packet(call, 1 - side, number);
            assert_eq!(
                buffer[..length],
                sent,
                "unchanged, and from the other end of call {call}"
            );
            *heard.entry(number).or_default() += 1;
            count += 1;
        }
        count
    }

    /// The legs by call and end.
    fn records(&self, nat: &RunningNat) -> BTreeMap<(usize, usize), Value> {
        let list = nat.json(&["relays"]).unwrap();
        let number = |leg: &Value, what: &str| leg[what].as_u64().unwrap() as usize;
        let legs = list.as_array().unwrap().iter();
        legs.map(|leg| ((number(leg, "call"), number(leg, "side")), leg.clone()))
            .collect()
    }
}

/// RTP (RFC 3550 §5.1) with a sequence number, in whose SSRC and sound are the call and who sends it.
fn packet(call: usize, side: usize, number: u16) -> Vec<u8> {
    let ssrc = (2 * call + side) as u32;
    let mut packet = vec![0x80, 0];
    packet.extend(number.to_be_bytes());
    packet.extend((u32::from(number) * 160).to_be_bytes());
    packet.extend(ssrc.to_be_bytes());
    packet.extend(ssrc.to_be_bytes().repeat(40));
    packet
}

#[test]
fn every_packet_after_both_ends_have_sent_arrives_once() {
    raise_file_limit().unwrap();
    let (scene, mut nat) = Scene::new();
    // The first packets of all calls have been worked on before any second one is sent.
    let begun = Barrier::new(3);
    let done = |nat: &RunningNat, packets: u16| {
        let wanted = 2 * CALLS as u64 * u64::from(packets);
        let what = format!("the router to decide about {wanted} packets");
        wait_until(&what, SOON, || {
            super::counter(nat, "relayed") + super::counter(nat, "peer_not_latched") == wanted
        })
        .unwrap();
    };
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (scene_, begun) = (&scene, &begun);
            scope.spawn(move || {
                pin(thread);
                scene_.speak(thread, 1);
                begun.wait();
                (2..=PACKETS).for_each(|number| scene_.speak(thread, number));
            });
        }
        scene.open(&mut nat);
        done(&nat, 1);
        begun.wait();
    });
    done(&nat, PACKETS);
    let relayed = super::counter(&nat, "relayed");
    let heard = scene.heard_in_all(relayed);
    let legs = scene.records(&nat);
    for call in 0..CALLS {
        let early = [0, 1].map(|side| legs[&(call, side)]["refused"]["peer_not_latched"].as_u64().unwrap());
        assert!(
            early[0] + early[1] <= 1,
            "of the first packets of call {call} both were early: {early:?}"
        );
        for side in [0, 1] {
            let leg = &legs[&(call, side)];
            assert_eq!(leg["packets"], u64::from(PACKETS), "{leg}");
            let wanted: BTreeMap<u16, u32> = (1 + early[side] as u16..=PACKETS).map(|number| (number, 1)).collect();
            let heard = &heard[&(call, 1 - side)];
            assert_eq!(
                *heard, wanted,
                "each packet of {leg} once but for {} early ones",
                early[side]
            );
        }
    }
    let too_early = legs
        .values()
        .filter(|leg| leg["refused"]["peer_not_latched"] != 0)
        .count();
    println!("the first packet of one end was too early in {too_early} of {CALLS} calls");
    let all: u64 = legs
        .values()
        .flat_map(|leg| leg["refused"].as_object().unwrap().values())
        .filter_map(Value::as_u64)
        .sum();
    assert_eq!(
        all,
        2 * CALLS as u64 * u64::from(PACKETS) - relayed,
        "refused for no other reason"
    );
}

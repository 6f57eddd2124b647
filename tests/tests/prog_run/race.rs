//! Both processors at the same tables of the kernel, with its atomic instructions and locks.

use std::collections::HashMap;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread;

use nat_common::counters::Reason;
use nat_common::flow::{Endpoint, Proto, Side};
use nat_common::maps::{BlockState, BlockWord, SlotState, SlotWord};
use nat_common::memory::oracle::{View, check};
use nat_common::memory::{Frame, MemTables, Setup, addr, end};
use nat_common::ports::{block_index, slot_index, slot_parts, used_place};
use nat_common::session::SYN;
use nat_common::tables::Tables;
use nat_common::verdict::Verdict;
use tests::ns::Namespace;
use tests::process::pin;

use crate::rig::{REDIRECT, Rig, in_lab, run};

const PROCESSORS: usize = 2;
const REMOTE: &str = "198.51.100.7:7000";
/// Inside ports of one host, for each protocol.
const PORTS: u32 = 1000;
/// New flows of one round.
const FLOWS: u32 = 45 * PORTS * 3;
/// So often a host sends again what was refused because two processors met.
const TRIES: u32 = 4;

/// The hosts that have flows.
struct Hosts(Vec<u32>);

impl Hosts {
    /// Those that have places of their own in the cache of destinations, where the program looks whether they are inside.
    fn cached(host: &MemTables, device: u32) -> Self {
        let first = addr("10.0.1.0");
        let all = first..first + 100;
        for source in all.clone() {
            let frame = Frame::udp(Endpoint::new(source, 1), end(REMOTE), b"");
            host.run(Side::Inside, device, &mut frame.bytes());
        }
        let cached = (0..=host.active().destination_mask).map(|index| host.destination(index).unwrap().addr.get());
        let mut hosts: Vec<u32> = cached.filter(|addr| all.contains(addr)).collect();
        hosts.truncate((FLOWS / (PORTS * 3)) as usize);
        Self(hosts)
    }

    /// The flows follow each other host by host, so that both processors are always at the same host's blocks.
    fn key(&self, n: u32) -> (Proto, Endpoint) {
        let host = self.0[(n / (PORTS * 3)) as usize];
        let port = 2000 + (n / 3 % PORTS) as u16;
        (Proto::from_index(n % 3), Endpoint::new(host, port))
    }

    fn frame(&self, n: u32) -> Vec<u8> {
        let (proto, inside) = self.key(n);
        let remote = end(REMOTE);
        let frame = match proto {
            Proto::Tcp => Frame::tcp(inside, remote, SYN, b""),
            Proto::Udp => Frame::udp(inside, remote, b"data"),
            Proto::Icmp => Frame::echo(inside, remote.addr, b"ping"),
        };
        frame.bytes().0
    }
}

/// New flows as fast as it goes: half of them are wanted by both processors at the same moment, the others by one each.
#[test]
fn no_port_is_given_out_twice() {
    let wanted = std::env::var("SIPNAT_RACE_FLOWS").map_or(200_000, |n| n.parse::<u32>().unwrap());
    let setup = Setup {
        index_buckets: 1 << 18,
        session_buckets: 1 << 17,
        quota: 64,
        ..Setup::default()
    };
    in_lab(&setup, |ns| {
        let mut rig = Rig::new(&setup);
        for round in 0..wanted.div_ceil(FLOWS) {
            let host = rig.memory(&setup);
            rig.reset(&host);
            let hosts = Hosts::cached(&host, rig.device(Side::Inside));
            rig.believe(&host);
            let given = race(&rig, ns, &hosts);
            assert!(rig.asked_nobody());
            let refused = FLOWS as usize - audit(&rig, &host, &hosts, &given);
            println!("round {round}: {refused} of {FLOWS} flows refused");
            // Where the places of an inside endpoint in the index are taken, there is no binding; that is rare.
            assert!(refused < FLOWS as usize / 200, "round {round}: {refused} flows refused");
        }
    });
}

/// What each processor was given: flow and frame.
fn race(rig: &Rig, ns: &Namespace, hosts: &Hosts) -> Vec<Vec<(u32, Vec<u8>)>> {
    let program = rig.program(Side::Inside);
    let device = rig.device(Side::Inside);
    let at = [const { AtomicU32::new(0) }; PROCESSORS];
    let work = |cpu: usize| {
        pin(cpu);
        let mut given = Vec::new();
        for n in (0..FLOWS).filter(|n| n % 2 == 0 || n / 2 % 2 == cpu as u32) {
            at[cpu].store(n, SeqCst);
            // The one that is ahead lets the other catch up, unless that does not run at all.
            (0..2_000).find(|_| {
                spin_loop();
                at[1 - cpu].load(SeqCst) + 2 >= n
            });
            let frame = hosts.frame(n);
            let ran = (0..TRIES)
                .map(|_| run(program, device, &frame))
                .find(|(action, _)| *action == REDIRECT);
            given.extend(ran.map(|(_, bytes)| (n, bytes)));
        }
        at[cpu].store(FLOWS, SeqCst);
        given
    };
    thread::scope(|scope| {
        let work = &work;
        let runs: Vec<_> = (0..PROCESSORS)
            .map(|cpu| scope.spawn(move || ns.enter(|| work(cpu))))
            .collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    })
}

/// Packets and tables agree with each other; gives the number of flows that have a binding.
fn audit(rig: &Rig, host: &MemTables, hosts: &Hosts, given: &[Vec<(u32, Vec<u8>)>]) -> usize {
    let verdict = Verdict::Forward(Reason::Outbound, 1);
    let mut slots = HashMap::new();
    for (n, bytes) in given.iter().flatten() {
        check(host, Side::Inside, &hosts.frame(*n), &verdict, bytes)
            .unwrap_or_else(|wrong| panic!("flow {n}: {wrong}"));
        let seen = View::of(bytes).unwrap();
        let slot = slot_index(0, hosts.key(*n).0, seen.ports.0);
        assert_eq!(*slots.entry(*n).or_insert(slot), slot, "flow {n} has two bindings");
    }
    let mut owners = HashMap::new();
    for (n, slot) in &slots {
        let other = owners.insert(*slot, *n);
        assert_eq!(other, None, "slot {slot} was given to flow {n} too");
    }
    let t = &rig.tables;
    for (index, slot) in (0..).zip(t.slots.iter()) {
        let (address, proto, port) = slot_parts(index);
        let state = SlotWord(slot.word.get()).state();
        let (word, bit) = used_place(index);
        let used = t.used_ports(word).unwrap().get() & bit != 0;
        let inside = Endpoint::new(slot.inside_addr.get(), slot.inside_port.get());
        match owners.get(&index) {
            Some(n) => {
                assert_eq!((state, used), (SlotState::Live, true), "slot {index}");
                assert_eq!((proto, inside), hosts.key(*n), "slot {index}");
                let block = t.block(block_index(address, port, 6)).unwrap();
                let owner = BlockWord::new(BlockState::Owned, inside.addr);
                assert_eq!(BlockWord(block.word.get()), owner, "the block of slot {index}");
            }
            None => assert_eq!((state, used), (SlotState::Free, false), "slot {index} was lost"),
        }
    }
    slots.len()
}

//! The pool used up to its last port.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use nat_common::counters::Reason;
use nat_common::flow::{Endpoint, Side};
use nat_common::memory::oracle::View;
use nat_common::memory::{Frame, Setup, addr, end};
use nat_common::packet::Bytes;

use crate::rig::{DROP, REDIRECT, Rig, in_lab};

const REMOTE: &str = "198.51.100.7:7000";
/// Sixteen blocks.
const POOL: RangeInclusive<u16> = 40000..=41023;
const FIRST: u16 = 2000;

fn out(port: u16) -> Vec<u8> {
    let inside = Endpoint::new(addr("10.0.0.5"), port);
    Frame::udp(inside, end(REMOTE), b"data").bytes().0
}

fn back(external: u16) -> Vec<u8> {
    let external = Endpoint::new(addr("203.0.113.1"), external);
    Frame::udp(end(REMOTE), external, b"answer").bytes().0
}

/// As many flows of one host as it can have, then one more.
fn fill(quota: u32, flows: u16, refusal: Reason) -> BTreeSet<u16> {
    let setup = Setup {
        pool: POOL,
        quota,
        ..Setup::default()
    };
    let mut ports = BTreeSet::new();
    in_lab(&setup, |_| {
        let mut rig = Rig::new(&setup);
        let host = rig.memory(&setup);
        rig.reset(&host);
        // The ways in both directions, which are the same for all flows.
        let mut frame = Bytes(out(FIRST));
        host.run(Side::Inside, rig.device(Side::Inside), &mut frame);
        let seen = View::of(&frame.0).unwrap();
        host.run(Side::Outside, rig.device(Side::Outside), &mut Bytes(back(seen.ports.0)));
        rig.believe(&host);

        let translated = |rig: &mut Rig, port: u16| {
            let ran = rig.run(Side::Inside, &out(port));
            assert_eq!(
                (ran.action, ran.reason),
                (REDIRECT, Reason::Outbound),
                "inside port {port}"
            );
            View::of(&ran.bytes).unwrap().ports.0
        };
        let external: Vec<u16> = (FIRST..FIRST + flows).map(|port| translated(&mut rig, port)).collect();
        ports.extend(external.iter().copied());
        assert_eq!(ports.len(), external.len(), "a port was given out twice");
        for port in FIRST + flows..FIRST + flows + 10 {
            let frame = out(port);
            let ran = rig.run(Side::Inside, &frame);
            assert_eq!((ran.action, ran.reason, ran.bytes), (DROP, refusal, frame));
        }
        for (port, external) in (FIRST..).zip(&external) {
            assert_eq!(translated(&mut rig, port), *external, "inside port {port}");
            let ran = rig.run(Side::Outside, &back(*external));
            assert_eq!((ran.action, ran.reason), (REDIRECT, Reason::Inbound), "{external}");
            let seen = View::of(&ran.bytes).unwrap();
            assert_eq!((seen.destination, seen.ports.1), (addr("10.0.0.5"), port), "{external}");
            assert_eq!(seen.sum, Some(true), "{external}");
        }
        assert!(rig.asked_nobody());
    });
    ports
}

#[test]
fn the_last_port_of_the_pool_is_given_out_and_not_one_more() {
    let ports = fill(64, 1024, Reason::Exhausted);
    assert!(ports.into_iter().eq(POOL), "not exactly the ports of the pool");
}

#[test]
fn a_host_gets_its_quota_and_not_one_port_more() {
    let ports = fill(2, 128, Reason::Quota);
    let blocks: BTreeSet<u16> = ports.iter().map(|port| port / 64).collect();
    assert_eq!((ports.len(), blocks.len()), (128, 2));
}

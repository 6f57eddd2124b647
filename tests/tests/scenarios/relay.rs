//! The media relay with real phones' sockets behind two foreign NATs (nftables): the data path completes itself with the first
//! packets, without the daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddrV4, UdpSocket};
use std::time::Duration;

use serde_json::{Value, json};
use tests::prelude::*;
use tests::sip::rtp;

const CALL: u64 = 4711;
/// Packets from each side.
const PACKETS: u16 = 400;

/// Two phones behind two NATs, and legs that were opened through the daemon.
struct Scene {
    nat: RunningNat,
    phones: [UdpSocket; 2],
    /// Where each phone sends.
    legs: [SocketAddrV4; 2],
    lab: Lab,
}

impl Scene {
    fn new() -> Scene {
        let lab = Lab::builder().foreign_nats(2).build().unwrap();
        let mut nat = lab.start_nat_as(Nat::Sipnat, "").unwrap();
        let plan = json!({"cmd": "open_relay", "call": CALL, "gates": [lab.n(1).ip, lab.n(2).ip]});
        let opened = nat.daemon().request(&plan).unwrap();
        let external = |side: usize| {
            let leg = opened.iter().find(|leg| leg["side"] == side).unwrap();
            leg["external"].as_str().unwrap().parse().unwrap()
        };
        Scene {
            legs: [external(0), external(1)],
            phones: [1, 2].map(|number| host_udp(lab.f(number), 6000).unwrap()),
            nat,
            lab,
        }
    }

    /// Both phones send at the same time; the sequence numbers that each one received, as often as it did.
    fn talk(&self, first: u16) -> [Vec<u16>; 2] {
        let send = |side: usize| {
            for n in first..first + PACKETS {
                self.phones[side].send_to(&rtp(side, n), self.legs[side]).unwrap();
                // Both NATs and the relay have queues of a few hundred packets; phones send one in 20 ms.
                std::thread::sleep(Duration::from_micros(500));
            }
        };
        let hear = |side: usize| {
            let mut heard = Vec::new();
            while let Some((packet, from)) = try_receive(&self.phones[side], Duration::from_secs(2)).unwrap() {
                assert_eq!(from, self.legs[side], "media comes from where the phone sends");
                let sequence = u16::from_be_bytes([packet[2], packet[3]]);
                assert_eq!(packet, rtp(1 - side, sequence), "unchanged, and from the other phone");
                heard.push(sequence);
            }
            heard
        };
        std::thread::scope(|scope| {
            let sending = [0, 1].map(|side| scope.spawn(move || send(side)));
            let hearing = [0, 1].map(|side| scope.spawn(move || hear(side)));
            sending.into_iter().for_each(|thread| thread.join().unwrap());
            hearing.map(|thread| thread.join().unwrap())
        })
    }

    fn legs(&self) -> [Value; 2] {
        let list = self.nat.json(&["relays", "--call", &CALL.to_string()]).unwrap();
        [0, 1].map(|side| {
            let of_side = |leg: &&Value| leg["side"] == side;
            list.as_array().unwrap().iter().find(of_side).unwrap().clone()
        })
    }
}

/// G.711 as RTP (RFC 3550 §5.1); the side is the SSRC.
fn rtp(side: usize, sequence: u16) -> Vec<u8> {
    rtp::packet(side as u32 + 1, sequence, side as u8)
}

fn count(leg: &Value, what: &str) -> u64 {
    leg["refused"][what].as_u64().unwrap()
}

/// From the moment both have sent every packet arrives, once; what came before is accounted for one by one.
#[test]
fn two_phones_behind_two_nats_hear_each_other() {
    let scene = Scene::new();
    let heard = scene.talk(1);
    let legs = scene.legs();
    for side in [0, 1] {
        let (sender, heard) = (&legs[side], &heard[1 - side]);
        let early = count(sender, "peer_not_latched");
        let distinct: BTreeSet<u16> = heard.iter().copied().collect();
        assert_eq!(distinct.len(), heard.len(), "each once");
        let expected: Vec<u16> = (1 + early as u16..=PACKETS).collect();
        assert_eq!(*heard, expected, "all but the {early} early ones, in order: {sender}");
        assert_eq!(sender["packets"], u64::from(PACKETS), "{sender}");
        assert_eq!((&sender["lost"], &sender["late"]), (&json!(0), &json!(0)), "{sender}");
        assert_eq!(sender["ssrc"], side + 1);
        let peer: SocketAddrV4 = sender["peer"].as_str().unwrap().parse().unwrap();
        assert_eq!(*peer.ip(), scene.lab.n(side + 1).ip);
    }
}

/// Who is not behind the gate learns nothing and reaches nobody, before the phones have sent and after.
#[test]
fn a_sprayer_gets_nothing() {
    let scene = Scene::new();
    let sprayer = host_udp(scene.lab.o(1), 6000).unwrap();
    let spray = |times: u16| {
        for n in 0..times {
            for leg in scene.legs {
                sprayer.send_to(&rtp(7, n), leg).unwrap();
            }
        }
    };
    spray(50);
    wait_until("the sprayer's packets to be counted", SOON, || {
        scene.legs().iter().map(|leg| count(leg, "relay_gate")).sum::<u64>() == 100
    })
    .unwrap();
    assert!(scene.legs().iter().all(|leg| leg["peer"].is_null()));
    let heard = std::thread::scope(|scope| {
        let talk = scope.spawn(|| scene.talk(1));
        spray(50);
        talk.join().unwrap()
    });
    assert!(heard.iter().all(|heard| heard.len() > usize::from(PACKETS) / 2));
    let legs = scene.legs();
    assert_eq!(legs.iter().map(|leg| count(leg, "relay_gate")).sum::<u64>(), 200);
    let leaked = try_receive(&sprayer, Duration::from_millis(200)).unwrap();
    assert_eq!(leaked, None, "media for the sprayer");
}

/// The daemon is killed and media goes on; the next one knows the legs and ends them.
#[test]
fn media_outlives_the_daemon() {
    let mut scene = Scene::new();
    scene.talk(1);
    scene.nat.kill9();
    let heard = scene.talk(1000);
    let all: Vec<u16> = (1000..1000 + PACKETS).collect();
    assert_eq!(heard, [all.clone(), all], "no packet lost without a daemon");
    scene.nat.restart().unwrap();
    let legs = scene.legs();
    let packets: BTreeMap<usize, u64> = [0, 1]
        .map(|side| (side, legs[side]["packets"].as_u64().unwrap()))
        .into();
    assert!(
        packets.values().all(|count| *count == 2 * u64::from(PACKETS)),
        "{packets:?}"
    );
    let close = json!({"cmd": "close_relay", "call": CALL});
    scene.nat.daemon().request(&close).unwrap();
    assert_eq!(scene.nat.json(&["relays"]).unwrap(), json!([]));
    let before = super::counter(&scene.nat, "relayed");
    scene.phones[0].send_to(&rtp(0, 1), scene.legs[0]).unwrap();
    wait_until("the packet to a closed leg to be counted", SOON, || {
        super::counter(&scene.nat, "no_binding") != 0
    })
    .unwrap();
    assert_eq!(super::counter(&scene.nat, "relayed"), before);
}

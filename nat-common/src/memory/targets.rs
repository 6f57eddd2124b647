//! What the fuzzers run: each function takes any bytes and panics if something is wrong.

use super::cases::{cases, setup};
use super::frames::Frame;
use super::oracle::{View, ones};
use super::relay::{TestLeg, open};
use super::world::World;
use super::{Setup, addr, end};
use crate::counters::Reason;
use crate::flow::{Endpoint, IP_ICMP, IP_UDP, Proto, Side};
use crate::packet::Bytes;
use crate::parse::{Headers, MF, parse as parse_headers};
use crate::rewrite::{Rewrite, apply};
use crate::session::SYN;
use crate::verdict::Verdict;
use std::vec::Vec;

/// A target.
pub type Target = fn(&[u8]);

/// All targets by name; those of `fuzz/fuzz_targets`.
pub const TARGETS: [(&str, Target); 7] = [
    ("parse", parse),
    ("process_inside", process_inside),
    ("process_outside", process_outside),
    ("icmp_error", icmp_error),
    ("fragment", fragment),
    ("rewrite", rewrite),
    ("relay", relay),
];

/// Something to begin with for a target: what it can make most of.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    let of_side = |side: Option<Side>| -> Vec<Vec<u8>> {
        let world = world();
        cases()
            .into_iter()
            .filter(|case| side.is_none_or(|side| case.side == side))
            .map(|case| {
                let proto = Proto::ALL.into_iter().find(|p| case.name.starts_with(p.name()));
                case.frame(
                    world
                        .external(proto.unwrap_or(Proto::Udp), end(HOST))
                        .unwrap_or_default(),
                )
            })
            .collect()
    };
    let syn = Frame::tcp_options(end(HOST), end(REMOTE), SYN, &[1, 2, 4, 5, 0xb4, 1, 1, 0], b"")
        .bytes()
        .0;
    match target {
        "process_inside" => [of_side(Some(Side::Inside)), [syn].into()].concat(),
        "process_outside" => of_side(Some(Side::Outside)),
        "icmp_error" => of_side(None)
            .into_iter()
            .filter_map(|frame| frame.get(14..).map(<[u8]>::to_vec))
            .collect(),
        "fragment" => [[0, 8, 1, 8, 2, 72], [2, 72, 1, 8, 0, 8], [0, 8, 0, 8, 65, 3]]
            .map(Vec::from)
            .into(),
        "rewrite" => of_side(None)
            .into_iter()
            .chain([syn])
            .map(|frame| [&[7; 16][..], &frame].concat())
            .collect(),
        "relay" => [
            super::relay::rtp(1, 1),
            super::relay::sender_report(1, 7),
            super::relay::receiver_report(1, 7, 1),
        ]
        .into_iter()
        .flat_map(|packet| (0..4).map(move |from| [&[from, packet.len() as u8][..], &packet].concat()))
        .collect(),
        _ => of_side(None),
    }
}

const HOST: &str = "10.0.0.5:5004";
const REMOTE: &str = "198.51.100.7:7000";

/// The NAT of the cases, smaller and so made sooner, with the bindings that the cases need.
fn world() -> World {
    let world = Setup {
        block_shift: 10,
        index_buckets: 64,
        session_buckets: 64,
        fragment_buckets: 4,
        hosts: 16,
        mss: 1300,
        ..setup()
    }
    .world();
    let (host, remote) = (end(HOST), end(REMOTE));
    world.out(&Frame::udp(host, remote, b"data"));
    world.out(&Frame::tcp(host, remote, SYN, b""));
    world.out(&Frame::echo(host, remote.addr, b"ping"));
    world
}

/// Reading headers: they lie within the packet, and say what an independent reading says.
pub fn parse(data: &[u8]) {
    let mut bytes = Bytes(data.to_vec());
    let mut h = Headers::default();
    if parse_headers(&mut bytes, &mut h).is_err() {
        return;
    }
    assert_eq!(bytes.0, data, "reading changes nothing");
    let view = View::of(data).expect("read what is no packet");
    assert!(view.ip_sum, "believed a wrong checksum");
    let seen = (
        h.source.addr,
        h.destination.addr,
        h.proto,
        h.ttl,
        h.id,
        h.fragment,
        usize::from(h.total_len),
    );
    let expected = (
        view.source,
        view.destination,
        view.proto,
        view.ttl,
        view.id,
        view.fragment,
        view.ip.len(),
    );
    assert_eq!(seen, expected);
    assert_eq!(
        (usize::from(h.l3), usize::from(h.l4)),
        (view.ip.start, view.ip.start + view.header_len)
    );
    assert_eq!(h.vlan, view.vlan.unwrap_or(0));
    if h.proto != IP_ICMP {
        assert_eq!((h.source.port, h.destination.port), view.ports);
    }
}

/// A packet from inside, as it is and with its header repaired.
pub fn process_inside(data: &[u8]) {
    process(data, Side::Inside);
}

/// A packet from outside, likewise.
pub fn process_outside(data: &[u8]) {
    process(data, Side::Outside);
}

fn process(data: &[u8], side: Side) {
    let world = world();
    send(&world, side, data.to_vec());
    let mut mended = data.to_vec();
    if mended.len() >= 34 {
        mended[12..14].copy_from_slice(&[8, 0]);
        mend_header(&mut mended[14..]);
        send(&world, side, mended);
    }
}

fn send(world: &World, side: Side, frame: Vec<u8>) -> (Verdict, Bytes) {
    match side {
        Side::Inside => world.inside(frame),
        Side::Outside => world.outside(frame),
    }
}

/// Makes version, total length and checksum of an IP header right, if there is room for it.
fn mend_header(packet: &mut [u8]) {
    let header_len = usize::from(packet[0] & 15) * 4;
    if header_len < 20 || header_len > packet.len() {
        return;
    }
    packet[0] = 0x40 | packet[0] & 15;
    let len = packet.len().min(65535) as u16;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet[10..12].fill(0);
    let check = !ones(&[&packet[..header_len]]);
    packet[10..12].copy_from_slice(&check.to_be_bytes());
}

/// An ICMP error that quotes the data, from both sides, with right checksums.
pub fn icmp_error(data: &[u8]) {
    if data.len() < 20 {
        return;
    }
    let world = world();
    let mut quote = data.to_vec();
    let total_len = [quote[2], quote[3]];
    mend_header(&mut quote);
    for quote in [&quote[..], data] {
        let kind = ([3, 4, 11, 12][usize::from(total_len[1] & 3)], total_len[0]);
        let word = |at: usize| u32::from_be_bytes([quote[at], quote[at + 1], quote[at + 2], quote[at + 3]]);
        let from = addr("10.0.0.5");
        send(
            &world,
            Side::Inside,
            Frame::error(from, word(12), kind, quote).bytes().0,
        );
        send(
            &world,
            Side::Outside,
            Frame::error(addr("192.0.2.99"), addr("203.0.113.1"), kind, quote)
                .bytes()
                .0,
        );
    }
}

/// Pieces of datagrams: two bytes each, offset and length, in units of eight. No byte of a datagram is let through twice.
pub fn fragment(data: &[u8]) {
    let world = world();
    let mut passed: [Vec<u64>; 2] = Default::default();
    let whole = Frame::udp(end(HOST), end(REMOTE), &[0x5a; 56]);
    for pair in data.as_chunks::<2>().0.iter().take(64) {
        let datagram = usize::from(pair[0] >> 7);
        let start = u16::from(pair[0] & 63);
        let units = u64::from(pair[1] & 15);
        let last = pair[1] & 64 != 0;
        let mut payload = std::vec![0x5a; units as usize * 8];
        if start == 0 && payload.len() >= 8 {
            payload[..8].copy_from_slice(&whole.payload[..8]);
        }
        let frame = Frame {
            id: 7 + datagram as u16,
            proto: IP_UDP,
            fragment: start | if last { 0 } else { MF },
            payload,
            ..whole.clone()
        };
        let (verdict, _) = world.inside(&frame);
        if start == 0 && last || !matches!(verdict, Verdict::Forward(..)) {
            continue;
        }
        let seen = ((1u64 << units) - 1).checked_shl(u32::from(start)).unwrap_or(0);
        if start == 0 {
            // A first piece can begin the datagram anew when it was complete before.
            let before = passed[datagram].iter().fold(0, |all, bits| all | bits);
            let complete = before & 1 != 0 && (before + 1).is_power_of_two();
            if complete {
                passed[datagram].clear();
            }
        }
        for other in &passed[datagram] {
            assert_eq!(
                other & seen,
                0,
                "a piece of datagram {datagram} over another: {frame:?}"
            );
        }
        passed[datagram].push(seen);
    }
}

/// Rewriting to any addresses, ports and MSS: sixteen bytes say to what, the others are the frame.
pub fn rewrite(data: &[u8]) {
    let Some((to, frame)) = data.split_at_checked(16) else {
        return;
    };
    let mut frame = Bytes(frame.to_vec());
    if frame.0.len() >= 34 && frame.0[12..14] == [8, 0] {
        mend_header(&mut frame.0[14..]);
    }
    let mut h = Headers::default();
    if parse_headers(&mut frame, &mut h).is_err() || h.ttl < 2 {
        return;
    }
    let Some(before) = View::of(&frame.0) else { return };
    let half = |at: usize| u16::from_be_bytes([to[at], to[at + 1]]);
    let word = |at: usize| u32::from(half(at)) << 16 | u32::from(half(at + 2));
    let icmp = h.proto == IP_ICMP;
    let r = Rewrite {
        source: Endpoint::new(word(0), half(4)),
        // For ICMP only one of the two identifiers changes.
        destination: Endpoint::new(word(6), if icmp { h.destination.port } else { half(10) }),
        id: half(12),
        mss: half(14),
    };
    apply(&mut frame, &h, &r).expect("what was read can be written");
    let after = View::of(&frame.0).expect("it is still a packet");
    assert!(after.ip_sum, "the IP checksum is wrong");
    assert!(
        before.sum != Some(true) || after.sum == Some(true),
        "broke the transport checksum"
    );
    assert_eq!(
        (after.source, after.destination, after.id),
        (r.source.addr, r.destination.addr, r.id)
    );
    assert_eq!(after.ttl, before.ttl - 1);
    if !icmp && !h.is_later_fragment() && matches!(h.proto, 6 | IP_UDP) {
        assert_eq!(after.ports, (r.source.port, r.destination.port));
    }
}

/// Packets to two legs of the relay: a byte that says from whom, one for the length, and the payload; then the next one. A stranger is
/// never relayed, and once both peers have been learned each one's media goes to the other.
pub fn relay(data: &[u8]) {
    let world = world();
    let peers = ["198.51.100.1:7000", "192.0.2.9:9000"].map(end);
    let ports = [40000, 40002];
    let legs = [0, 1].map(|side| TestLeg {
        follow: true,
        classes: 7,
        ..TestLeg::rtp(ports[side], peers[side].addr)
    });
    open(&world.tables, 0, legs, world.tables.time());
    let external = addr("203.0.113.1");
    let mut rest = data;
    while let [from, len, more @ ..] = rest {
        let (payload, after) = more.split_at(usize::from(*len).min(more.len()));
        rest = after;
        let side = usize::from(from & 1);
        let stranger = from & 2 != 0;
        let source = Endpoint::new(
            peers[side].addr ^ u32::from(stranger),
            peers[side].port + u16::from(from >> 2 & 1),
        );
        let frame = Frame::udp(source, Endpoint::new(external, ports[side]), payload);
        let (verdict, bytes) = world.outside(&frame);
        if from & 8 != 0 {
            world.tables.wait(1);
        }
        if verdict.reason() != Reason::Relayed {
            continue;
        }
        assert!(!stranger, "a stranger was relayed");
        let view = View::of(&bytes.0).expect("a packet");
        let to = Endpoint::new(view.destination, view.ports.1);
        assert_eq!(to.addr, peers[1 - side].addr, "to somebody else");
        assert_eq!((view.source, view.ports.0), (external, ports[1 - side]));
    }
}

//! Fragments: any order, once, bounded (RFC 4787 REQ-14).

use crate::open_udp;
use nat_common::counters::Reason;
use nat_common::flow::{Endpoint, Side};
use nat_common::memory::oracle::{View, ones};
use nat_common::memory::{Frame, Setup, World, addr, end};
use nat_common::parse::MF;
use nat_common::verdict::Verdict;

const HOST: &str = "10.0.0.5:5004";
const REMOTE: &str = "198.51.100.1:80";
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

fn data() -> Vec<u8> {
    (0..3000).map(|n| (n * 7) as u8).collect()
}

/// Puts pieces through as the slow path does: orphans wait until the first one has come.
fn deliver(world: &World, side: Side, pieces: &[Frame]) -> Vec<View> {
    let device = if side == Side::Inside { 10 } else { 20 };
    let mut waiting = Vec::new();
    let mut out = Vec::new();
    for piece in pieces {
        let (verdict, after) = world.on(side, device, piece);
        match verdict {
            Verdict::Forward(..) => out.push(View::of(&after.0).unwrap()),
            Verdict::Punt(Reason::FragmentOrphan, _) => waiting.push(piece),
            other => panic!("{other:?}"),
        }
    }
    for piece in waiting {
        let (verdict, after) = world.on(side, device, piece);
        assert_eq!(
            verdict.reason(),
            Reason::Fragment,
            "an orphan whose first piece has come"
        );
        out.push(View::of(&after.0).unwrap());
    }
    out
}

/// Puts the pieces together again: the IP payload, whose checksum must be right.
fn reassemble(views: &[View]) -> Vec<u8> {
    let mut whole = Vec::new();
    for view in views {
        assert_eq!(
            (view.id, view.source, view.destination),
            (views[0].id, views[0].source, views[0].destination)
        );
        let at = usize::from(view.fragment & 0x1fff) * 8;
        // The first piece's ports and length are not part of `data`.
        let (at, bytes) = if at == 0 { (8, &view.data) } else { (at, &view.data) };
        whole.resize(whole.len().max(at + bytes.len()), 0);
        whole[at..at + bytes.len()].copy_from_slice(bytes);
    }
    whole[8..].to_vec()
}

#[test]
fn all_orders_from_inside() {
    for order in ORDERS {
        let world = Setup::default().world();
        let whole = Frame::udp(end(HOST), end(REMOTE), &data());
        let pieces = whole.pieces(&[1024, 2048]);
        let pieces = order.map(|n| pieces[n].clone());
        let views = deliver(&world, Side::Inside, &pieces);
        assert_eq!(views.len(), 3, "{order:?}");
        assert_eq!(reassemble(&views), data(), "{order:?}");
        assert!(
            views
                .iter()
                .all(|v| v.source == addr("203.0.113.1") && v.id != whole.id),
            "{order:?}"
        );
    }
}

#[test]
fn all_orders_from_outside() {
    for order in ORDERS {
        let world = Setup::default().world();
        let external = open_udp(&world, HOST, REMOTE);
        let pieces = Frame::udp(end(REMOTE), external, &data()).pieces(&[1024, 2048]);
        let pieces = order.map(|n| pieces[n].clone());
        let views = deliver(&world, Side::Outside, &pieces);
        assert_eq!(reassemble(&views), data(), "{order:?}");
        assert!(views.iter().all(|v| v.destination == addr("10.0.0.5")), "{order:?}");
    }
}

#[test]
fn all_orders_hairpinned() {
    for order in ORDERS {
        let world = Setup::default().world();
        let b = open_udp(&world, "10.0.0.6:6000", REMOTE);
        let pieces = Frame::udp(end(HOST), b, &data()).pieces(&[1024, 2048]);
        let pieces = order.map(|n| pieces[n].clone());
        let views = deliver(&world, Side::Inside, &pieces);
        assert_eq!(reassemble(&views), data(), "{order:?}");
        assert!(views.iter().all(|v| v.destination == addr("10.0.0.6")), "{order:?}");
    }
}

/// The UDP checksum of the whole datagram is right after translation of its first piece.
#[test]
fn the_whole_datagrams_checksum() {
    let world = Setup::default().world();
    let pieces = Frame::udp(end(HOST), end(REMOTE), &data()).pieces(&[1024, 2048]);
    let mut segment = Vec::new();
    let mut ends = Vec::new();
    for piece in &pieces {
        let (_, after) = world.inside(piece);
        let view = View::of(&after.0).unwrap();
        ends = [view.source.to_be_bytes(), view.destination.to_be_bytes()].concat();
        segment.extend(&after.0[view.ip.start + view.header_len..view.ip.end]);
    }
    let len = (segment.len() as u16).to_be_bytes();
    assert_eq!(ones(&[&ends, &[0, 17], &len, &segment]), 0xffff);
}

/// Each piece passes once; what overlaps is dropped, and the datagram's other pieces still pass.
#[test]
fn duplicates_and_overlaps() {
    let world = Setup::default().world();
    let whole = Frame::udp(end(HOST), end(REMOTE), &data());
    let pieces = whole.pieces(&[1024, 2048]);
    world.out(&pieces[0]);
    world.out(&pieces[1]);
    assert_eq!(world.out_reason(&pieces[1]), Reason::FragmentOverlap, "the same again");
    assert_eq!(world.out_reason(&pieces[0]), Reason::FragmentOverlap, "the first again");
    let across = &whole.pieces(&[1016, 1032])[1];
    assert_eq!(world.out_reason(across), Reason::FragmentOverlap, "over an edge");
    assert_eq!(world.out_reason(&pieces[2]), Reason::Fragment);
    assert_eq!(
        world.out_reason(&pieces[2]),
        Reason::FragmentOrphan,
        "it is complete and forgotten"
    );
}

/// RFC 1858: a first piece without ports, and none at all.
#[test]
fn tiny_fragments() {
    let world = Setup::default().world();
    let tcp = Frame::tcp(end(HOST), end(REMOTE), nat_common::session::SYN, &[0; 64]);
    let tiny = &tcp.pieces(&[8])[0];
    assert_eq!(world.out_reason(tiny), Reason::FragmentTiny);
    let small = &tcp.pieces(&[24])[0];
    assert_eq!(world.out_reason(small), Reason::Outbound);
}

/// Pieces after the end, and a second end.
#[test]
fn beyond_the_end() {
    let world = Setup::default().world();
    let whole = Frame::udp(end(HOST), end(REMOTE), &[1; 504]);
    let pieces = whole.pieces(&[128, 256]);
    world.out(&pieces[0]);
    world.out(&pieces[2]);
    let beyond = Frame {
        fragment: MF | 64,
        payload: vec![0; 64],
        ..whole.clone()
    };
    assert_eq!(world.out_reason(&beyond), Reason::FragmentOverlap);
    let ends_earlier = Frame {
        fragment: 20,
        payload: vec![0; 8],
        ..whole.clone()
    };
    assert_eq!(world.out_reason(&ends_earlier), Reason::FragmentOverlap);
    assert_eq!(world.out_reason(&pieces[1]), Reason::Fragment);
}

/// More holes than are kept track of: refused and counted; the datagram is lost, nothing else.
#[test]
fn scattered_fragments() {
    let world = Setup::default().world();
    let whole = Frame::udp(end(HOST), end(REMOTE), &[1; 1000]);
    let piece = |n: u16| Frame {
        fragment: MF | n,
        payload: vec![n as u8; 8],
        ..whole.clone()
    };
    world.out(&whole.pieces(&[8])[0]);
    let reasons: Vec<Reason> = (1..20).map(|n| world.out_reason(&piece(n * 2))).collect();
    assert!(reasons[..15].iter().all(|&r| r == Reason::Fragment), "{reasons:?}");
    assert!(
        reasons[15..].iter().all(|&r| r == Reason::FragmentScattered),
        "{reasons:?}"
    );
}

/// What the first piece said is forgotten after the time for fragments.
#[test]
fn fragments_have_a_time() {
    let world = Setup::default().world();
    let pieces = Frame::udp(end(HOST), end(REMOTE), &data()).pieces(&[1024, 2048]);
    world.out(&pieces[0]);
    world.tables.wait(14);
    world.out(&pieces[1]);
    world.tables.wait(15);
    assert_eq!(world.out_reason(&pieces[2]), Reason::FragmentOrphan);
}

/// A full table refuses new datagrams; those it knows go on.
#[test]
fn the_table_is_bounded() {
    let world = Setup {
        fragment_buckets: 4,
        ..Setup::default()
    }
    .world();
    let first = |id| Frame {
        id,
        ..Frame::udp(end(HOST), end(REMOTE), &data())
    };
    let known = first(1).pieces(&[1024, 2048]);
    world.out(&known[0]);
    let refused = (2..1000)
        .filter(|&id| world.out_reason(&first(id).pieces(&[1024])[0]) == Reason::FragmentsFull)
        .count();
    assert!(refused >= 998 - 15, "{refused}");
    world.out(&known[1]);
    world.out(&known[2]);
}

/// Orphans cost no state: 10^4 of them, and a datagram passes as before.
#[test]
fn orphans_cost_nothing() {
    let world = Setup::default().world();
    let pieces = Frame::udp(end(HOST), end(REMOTE), &data()).pieces(&[1024, 2048]);
    world.out(&pieces[0]);
    for id in 5000..15000 {
        let orphan = Frame {
            id,
            ..pieces[1].clone()
        };
        assert_eq!(world.out_reason(&orphan), Reason::FragmentOrphan);
    }
    world.out(&pieces[1]);
    world.out(&pieces[2]);
}

/// A datagram for the router itself passes whole: its later pieces follow the first one up, whatever protocol it is and
/// from whichever side.
#[test]
fn the_routers_own_fragments_pass() {
    let external = Endpoint::new(addr("203.0.113.1"), 40000);
    let outside = end(REMOTE);
    let inside = end(HOST);
    for (name, side, whole) in [
        (
            "udp from outside",
            Side::Outside,
            Frame::udp(outside, external, &data()),
        ),
        (
            "ping from outside",
            Side::Outside,
            Frame::echo(outside, external.addr, &data()),
        ),
        ("udp from inside", Side::Inside, Frame::udp(inside, external, &data())),
        (
            "ping from inside",
            Side::Inside,
            Frame::echo(inside, external.addr, &data()),
        ),
    ] {
        let world = Setup::default().world();
        for (n, piece) in whole.pieces(&[1024, 2048]).iter().enumerate() {
            let device = if side == Side::Inside { 10 } else { 20 };
            let (verdict, _) = world.on(side, device, piece);
            assert!(matches!(verdict, Verdict::Pass(_)), "{name}, piece {n}: {verdict:?}");
        }
    }
}

/// What is refused is refused whole.
#[test]
fn refused_datagrams_stay_refused() {
    let world = Setup::default().world();
    let tcp = end("203.0.113.1:40000");
    let pieces = Frame::tcp(end(REMOTE), tcp, nat_common::session::SYN, &data()).pieces(&[1024, 2048]);
    assert_eq!(world.back_reason(&pieces[0]), Reason::NoBinding);
    assert_eq!(world.back_reason(&pieces[1]), Reason::FragmentRefused);
    assert_eq!(world.back_reason(&pieces[2]), Reason::FragmentRefused);
}

/// Pieces larger than the way out are handed to the slow path one by one.
#[test]
fn fragments_have_an_mtu_and_a_ttl() {
    let world = Setup::default().world();
    let pieces = Frame::udp(end(HOST), end(REMOTE), &data()).pieces(&[1024, 2048]);
    world.out(&pieces[0]);
    let late = Frame {
        ttl: 1,
        ..pieces[1].clone()
    };
    assert_eq!(world.out_reason(&late), Reason::TtlExpired);
}

//! Bytes: checksums, identification, MSS, the UDP zero.

use crate::{open_tcp, open_udp, opener};
use nat_common::checksum::transport;
use nat_common::counters::Reason;
use nat_common::flow::{Endpoint, IP_TCP, Proto, Side};
use nat_common::memory::oracle::View;
use nat_common::memory::{Frame, Setup, World, end};
use nat_common::session::{ACK, SYN};
use std::collections::HashSet;

const HOST: &str = "10.0.0.5:5004";
const REMOTE: &str = "198.51.100.1:80";

fn clamping(mss: u32) -> World {
    Setup {
        mss,
        ..Setup::default()
    }
    .world()
}

fn syn(options: &[u8], data: &[u8]) -> Frame {
    Frame::tcp_options(end(HOST), end(REMOTE), SYN, options, data)
}

/// The option at even and at odd offsets, alone and behind others; the checksum is right each time (checked by `World`).
#[test]
fn mss_is_clamped_wherever_it_is() {
    const CLAMPED: [u8; 4] = [2, 4, 5, 20];
    for before in [
        &[][..],
        &[1],
        &[1, 1],
        &[1, 1, 1],
        &[3, 3, 7],
        &[4, 2, 3, 3, 7],
        &[8, 10, 1, 2, 3, 4, 5, 6, 7, 8],
    ] {
        let mut options = [before, &[2, 4, 5, 0xb4]].concat();
        options.resize(options.len().next_multiple_of(4), 1);
        let world = clamping(1300);
        let view = world.out(&syn(&options, b""));
        let at = before.len();
        assert_eq!(view.data[at..at + 4], CLAMPED, "{before:?}");
        assert_eq!(view.sum, Some(true));
    }
}

/// Smaller ones stay, other segments are not looked into, malformed options are left alone.
#[test]
fn mss_is_left_alone() {
    let world = clamping(1300);
    for options in [
        &[2, 4, 5, 20][..],
        &[2, 4, 0, 0],
        &[0, 2, 4, 5, 0xb4, 0, 0, 0],
        &[3, 0, 2, 4, 5, 0xb4, 0, 0],
        &[3, 1, 2, 4, 5, 0xb4, 0, 0],
        &[2, 3, 5, 0xb4],
        &[3, 40, 2, 4],
        &[1, 1, 2, 4],
    ] {
        let view = world.out(&syn(options, b"\x05\xb4data"));
        assert_eq!(view.data, [options, b"\x05\xb4data"].concat(), "{options:?}");
    }
    let options = [2, 4, 5, 0xb4];
    let view = world.out(&Frame::tcp_options(end(HOST), end(REMOTE), ACK, &options, b""));
    assert_eq!(view.data, options);
    let external = open_tcp(&world, HOST, REMOTE, ACK);
    let view = world.back(&Frame::tcp_options(end(REMOTE), external, SYN | ACK, &options, b""));
    assert_eq!(view.data, [2, 4, 5, 20], "from outside too");
}

/// A header that claims to be longer than the segment is wrong; what follows the packet is not an option of it.
#[test]
fn options_end_with_the_segment() {
    let world = clamping(1300);
    let mut frame = syn(&[], b"");
    frame.payload[12] = 0xf0;
    frame.payload[16..18].fill(0);
    let check = transport(frame.source, frame.destination, IP_TCP, &frame.payload);
    frame.payload[16..18].copy_from_slice(&check.to_be_bytes());
    let mut bytes = frame.bytes();
    bytes.0.extend([2, 4, 5, 0xb4, 0, 0]);
    let (verdict, _, checked) = world.try_on(Side::Inside, 10, &bytes);
    assert_eq!(checked, Ok(()), "{verdict:?}");
    assert_eq!(verdict.reason(), Reason::BadHeader);
}

/// RFC 768: no checksum stays no checksum; a computed zero is sent as ones.
#[test]
fn udp_zero_rules() {
    let world = Setup::default().world();
    let without = |mut frame: Frame| {
        frame.payload[6..8].fill(0);
        frame
    };
    let view = world.out(&without(Frame::udp(end(HOST), end(REMOTE), b"x")));
    assert_eq!(view.sum, None);
    let external = open_udp(&world, HOST, REMOTE);
    let back = world.back(&without(Frame::udp(end(REMOTE), external, b"x")));
    assert_eq!(back.sum, None);
    // Every value of a word of the payload, so every value of the checksum, zero among them.
    for word in 0..=u16::MAX {
        let frame = Frame::udp(end(HOST), end(REMOTE), &word.to_be_bytes()).bytes();
        let mut after = frame.clone();
        world.tables.run(Side::Inside, 10, &mut after);
        assert_ne!(after.0[40..42], [0, 0], "{word:#x}");
        assert_eq!(View::of(&after.0).unwrap().sum, Some(true), "{word:#x}");
    }
}

/// RFC 6864: what may be fragmented gets an identification that is unique for the external address.
#[test]
fn identifications_do_not_collide() {
    let world = Setup::default().world();
    let mut seen = HashSet::new();
    for n in 0..1000 {
        let host = format!("10.0.0.{}:5004", 5 + n % 2);
        let view = world.out(&opener(Proto::Udp, end(&host), end(REMOTE)));
        assert!(seen.insert(view.id), "{} again", view.id);
    }
    // An atomic packet's identification means nothing and stays.
    let atomic = Frame {
        fragment: 0x4000,
        ..Frame::udp(end(HOST), end(REMOTE), b"x")
    };
    assert_eq!(world.out(&atomic).id, 0x1234);
}

/// Odd lengths, empty and large payloads.
#[test]
fn payloads_of_all_lengths() {
    let world = Setup::default().world();
    let external = open_udp(&world, HOST, REMOTE);
    for len in (0..64).chain([1471, 1472]) {
        let data: Vec<u8> = (0..len).map(|n| n as u8 ^ 0xa5).collect();
        assert_eq!(world.out(&Frame::udp(end(HOST), end(REMOTE), &data)).data, data);
        assert_eq!(world.back(&Frame::udp(end(REMOTE), external, &data)).data, data);
    }
}

/// Counters of a binding, if they are on.
#[test]
fn traffic_is_counted() {
    use nat_common::tables::Tables;
    let world = Setup {
        flags: nat_common::config::FLAG_COUNTING,
        ..Setup::default()
    }
    .world();
    let external = open_udp(&world, HOST, REMOTE);
    for _ in 0..3 {
        world.back(&Frame::udp(
            end(REMOTE),
            Endpoint::new(external.addr, external.port),
            b"12345",
        ));
    }
    let slot = nat_common::ports::slot_index(0, Proto::Udp, external.port);
    let traffic = world.tables.traffic(slot).unwrap();
    let seen = [
        &traffic.packets_out,
        &traffic.bytes_out,
        &traffic.packets_in,
        &traffic.bytes_in,
    ]
    .map(|c| c.get());
    assert_eq!(seen, [1, 33, 3, 99]);
}

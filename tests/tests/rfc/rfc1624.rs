//! RFC 1624 and the rules around it: checksums are updated, not trusted and not repaired.

use tests::checksum::{internet, pseudo_header};
use tests::packet::UDP;
use tests::packet::flags::{ACK, PSH};
use tests::prelude::*;

use crate::scene::{H, O, Scene, ping, pong, syn, udp};

/// The checksum field of a UDP datagram in a frame without options.
fn udp_field(s: &mut Scene, at: crate::scene::At, payload: &[u8]) -> u16 {
    let wanted = |frame: &Frame| {
        let packet = frame.packet()?;
        (packet.as_udp()?.payload == payload).then(|| u16::from_be_bytes([frame.bytes[40], frame.bytes[41]]))
    };
    s.socket(at).recv("the datagram", SOON, wanted).unwrap()
}

#[test]
fn no_udp_checksum_stays_none() {
    let mut s = Scene::with_outside(1, "");
    let out = udp(s.on(H(1), 6000), s.on(O(1), 9)).sum(Sum::Absent);
    let seen = s.pass(H(1), O(1), &out);
    assert_eq!(seen.as_udp().unwrap().sum, Sum::Absent);
    let back = udp(s.on(O(1), 9), seen.src()).sum(Sum::Absent);
    let got = s.pass(O(1), H(1), &back);
    assert_eq!(got.as_udp().unwrap().sum, Sum::Absent);
}

#[test]
fn a_computed_zero_is_sent_as_all_ones() {
    let mut s = Scene::with_outside(1, "");
    let (inside, remote) = (s.on(H(1), 6000), s.on(O(1), 9));
    let external = s.mapped(H(1), 6000, O(1), 9);
    // Payloads with which the *translated* datagram sums up to zero.
    let payload = |src: std::net::SocketAddrV4, dst: std::net::SocketAddrV4| {
        let header = [src.port(), dst.port(), 10, 0].map(u16::to_be_bytes).concat();
        let pseudo = pseudo_header(*src.ip(), *dst.ip(), UDP, 10);
        internet(&[&pseudo, &header]).to_be_bytes()
    };
    let (out, back) = (payload(external, remote), payload(remote, inside));
    s.send(H(1), &Packet::udp(inside, remote, &out));
    assert_eq!(udp_field(&mut s, O(1), &out), 0xffff);
    s.send(O(1), &Packet::udp(remote, external, &back));
    assert_eq!(udp_field(&mut s, H(1), &back), 0xffff);
}

#[test]
fn a_wrong_checksum_is_not_repaired() {
    let mut s = Scene::with_outside(1, "");
    s.expect_bad_checksums();
    s.mapped(H(1), 6000, O(1), 9);
    let out = udp(s.on(H(1), 6000), s.on(O(1), 9)).sum(Sum::Wrong(0x1234));
    s.send(H(1), &out);
    let last = udp(s.on(H(1), 6000), s.on(O(1), 9));
    s.send(H(1), &last);
    // It may be dropped, but not arrive as if it were right.
    s.wait(O(1), "the datagram after it", |got| {
        if got.payload() == out.payload() {
            assert_ne!(
                got.as_udp().unwrap().sum,
                Sum::Right,
                "a damaged datagram was made to look whole"
            );
        }
        got.payload() == last.payload()
    });
}

/// That none of these has a bad checksum is asserted by the scene's end, from the captures of both hosts.
#[test]
fn no_bad_checksum_in_five_hundred_packets_of_all_kinds() {
    let mut s = Scene::with_outside(1, "");
    let (udp_in, remote) = (s.on(H(1), 6000), s.on(O(1), 80));
    let mut talk = s.connect(H(1), 6001, O(1), 80);
    let udp_out = s.mapped(H(1), 6000, O(1), 80);
    let mut random = 0x2545_f491_4f6c_dd1du64;
    for round in 0..60 {
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        let length = (next() % 1400) as usize + 8;
        let noise: Vec<u8> = (0..length).map(|_| next() as u8).collect();
        let id = next() as u16;
        let tos = next() as u8;
        let finish = |mut packet: Packet| {
            packet.ip.tos = tos & 0xfc;
            packet.with_payload(&noise).id(id)
        };
        let out = [
            finish(udp(udp_in, remote)),
            finish(talk.out(ACK | PSH, &noise)),
            finish(udp(udp_in, remote)).options(&[1, 1, 1, 0]),
            finish(ping(s.on(H(1), id), s.on(O(1), 0))),
        ];
        for packet in out {
            let seen = s.pass(H(1), O(1), &packet);
            if seen.as_icmp().is_some() {
                s.pass(O(1), H(1), &pong(&seen));
            }
        }
        for packet in [finish(udp(remote, udp_out)), finish(talk.back(ACK | PSH, &noise))] {
            s.pass(O(1), H(1), &packet);
        }
        if round % 10 == 0 {
            let options = syn(s.on(H(1), 7000 + round), remote).tcp_options(&[2, 4, 5, 0xb4, 1, 3, 3, 7]);
            s.pass(H(1), O(1), &options);
        }
    }
}

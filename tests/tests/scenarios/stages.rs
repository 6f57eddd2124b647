//! UDP from inside in two stages: begun and ended under traffic, beside everything that goes in one.

use std::sync::atomic::{AtomicBool, Ordering};

use tests::prelude::*;

use super::counter;
use super::life::{collect, stream};

/// EtherType of a frame between the stages (`nat_common::stage`).
const STAGED: [u8; 2] = [0x88, 0xb5];
const FROM_TWO: &str = "[nat]\nstaged_from = 2\n";
const BEGUN: &str = "two stages for UDP from inside have begun";
const ENDED: &str = "two stages for UDP from inside have ended";

#[test]
fn two_stages_begin_and_end_under_a_stream_and_lose_no_packet() {
    let lab = Lab::builder().build().unwrap();
    let mut nat = lab.start_nat_as(Nat::Sipnat, FROM_TWO).unwrap();
    let capture = Capture::host(lab.o(1)).unwrap();
    let echo = UdpEcho::start(lab.o(1), 7).unwrap();
    let (source, sink) = (host_udp(lab.h(1), 5060).unwrap(), host_udp(lab.o(1), 9).unwrap());
    let other = host_udp(lab.h(1), 5070).unwrap();
    let stop = AtomicBool::new(false);
    let (sent, received) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| stream(&source, &sink, &stop));
        let receiver = scope.spawn(|| collect(&sink));
        let seen = seen_by(&echo, &other).unwrap();
        logged(&nat, BEGUN, 1);
        assert_eq!(seen_by(&echo, &other).unwrap(), seen);
        nat.kill9();
        assert_eq!(seen_by(&echo, &other).unwrap(), seen);
        nat.restart().unwrap();
        assert_eq!(seen_by(&echo, &other).unwrap(), seen);
        let never = lab.complete("[nat]\nstaged_from = 4294967295\n");
        nat.daemon().write_config(&never).unwrap();
        assert!(nat.sipnat(&["reload"]).unwrap().status.success());
        logged(&nat, ENDED, 1);
        assert_eq!(seen_by(&echo, &other).unwrap(), seen);
        nat.daemon().write_config(&lab.complete(FROM_TWO)).unwrap();
        assert!(nat.sipnat(&["reload"]).unwrap().status.success());
        logged(&nat, BEGUN, 2);
        assert_eq!(seen_by(&echo, &other).unwrap(), seen);
        stop.store(true, Ordering::Relaxed);
        (sender.join().unwrap(), receiver.join().unwrap())
    });
    let lost: Vec<u32> = (0..sent).filter(|number| !received.contains(number)).collect();
    assert!(lost.is_empty(), "{} of {sent} packets lost: {lost:?}", lost.len());
    let arrived = only_translated(&lab, &capture);
    assert_eq!(counter(&nat, "outbound"), arrived as u64, "each is counted once");
    assert_eq!(counter(&nat, "overtaken"), 0);
}

#[test]
fn what_goes_in_two_stages_and_what_in_one_leave_in_the_same_batch() {
    let lab = Lab::builder().outside_hosts(2).build().unwrap();
    let nat = lab.start_nat_as(Nat::Sipnat, "[nat]\nstaged_from = 1\n").unwrap();
    let (echo, server) = (
        UdpEcho::start(lab.o(1), 7).unwrap(),
        TcpEcho::start(lab.o(1), 8).unwrap(),
    );
    let socket = host_udp(lab.h(1), 5060).unwrap();
    let seen = seen_by(&echo, &socket).unwrap();
    logged(&nat, BEGUN, 1);
    let (mut stream, _) = tcp_seen_by(&server, lab.h(1)).unwrap();
    lab.o(2).mute().unwrap();
    let capture = Capture::host(lab.o(2)).unwrap();
    let raw = RawSocket::host(lab.h(1)).unwrap();
    let (from, to) = (lab.h(1).ip, lab.o(2).ip);
    let rounds = 300u16;
    for number in 0..rounds {
        let data = number.to_be_bytes().repeat(20);
        let packets = [
            Packet::udp((from, 5060), (to, 9), &data).id(number),
            Packet::echo(from, to, 7, number, &data),
            Packet::udp((from, 10_000 + number), (to, 9), &data).df(),
            Packet::udp((from, 5060), (to, 9), &data).options(&[1, 1, 1, 1]),
            Packet::udp((from, 5060), (to, 9), &data).ttl(1),
        ];
        for packet in packets {
            raw.send_packet(&packet.via(lab.h(1))).unwrap();
        }
        if number % 100 == 0 {
            tcp_echo(&mut stream, &[3; 50_000]).unwrap();
        }
    }
    let expected = usize::from(rounds) * 4;
    wait_for("all that is to be sent on", SOON, || {
        (capture.received().len() >= expected).then_some(())
    })
    .unwrap();
    assert_eq!(only_translated(&lab, &capture), expected);
    capture.assert_no_bad_checksums().unwrap();
    assert_eq!(seen_by(&echo, &socket).unwrap(), seen);
    assert_eq!(
        counter(&nat, "ttl_expired") + counter(&nat, "budget"),
        u64::from(rounds)
    );
    assert_eq!(counter(&nat, "overtaken"), 0);
}

/// Waits until the daemon's log has said this so often.
fn logged(nat: &RunningNat, what: &str, times: usize) {
    wait_for(what, SOON, || (nat.log().matches(what).count() >= times).then_some(())).unwrap();
}

/// How many IPv4 packets arrived, all of which must have been translated, and nothing with the mark.
fn only_translated(lab: &Lab, capture: &Capture) -> usize {
    for frame in capture.frames() {
        assert_ne!(frame.bytes[12..14], STAGED, "{:02x?}", frame.bytes);
    }
    let received = capture.received();
    for packet in &received {
        assert_eq!(*packet.src().ip(), lab.external(0), "{packet:?}");
    }
    received.len()
}

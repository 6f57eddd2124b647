//! The policy's refusals: ICMP 3/13 or nothing.

use tests::prelude::*;

const RULE: &str =
    "[[policy.rule]]\naction = \"deny\"\ndirection = \"out\"\nprotocol = \"udp\"\ndestination_ports = \"25\"\n";

/// A lab whose policy refuses port 25 in this way, and packets to it and to another port.
fn refusing(how: &str) -> (Lab, RunningNat, [Packet; 2]) {
    let lab = Lab::builder().build().unwrap();
    let nat = lab
        .start_nat_as(Nat::Sipnat, format!("[policy]\nrefuse = \"{how}\"\n{RULE}"))
        .unwrap();
    lab.o(1).mute().unwrap();
    lab.h(1).mute().unwrap();
    let to = |port: u16, text: &[u8]| Packet::udp("192.168.1.10:9000", (lab.o(1).ip, port), text).via(lab.h(1));
    let packets = [to(25, b"refused"), to(26, b"allowed")];
    (lab, nat, packets)
}

/// Sends both packets; only the second arrives.
fn only_the_allowed_one_leaves(lab: &Lab, sender: &RawSocket, packets: &[Packet; 2]) -> Packet {
    let mut outside = RawSocket::host(lab.o(1)).unwrap();
    for packet in packets {
        sender.send_packet(packet).unwrap();
    }
    let is = |text: &'static [u8]| move |packet: &Packet| packet.payload() == text;
    outside
        .recv_only("the allowed packet", SOON, is(b"allowed"), is(b"refused"))
        .unwrap()
}

#[test]
fn a_refusal_by_icmp_says_administratively_prohibited() {
    let (lab, nat, packets) = refusing("icmp");
    let mut host = RawSocket::host(lab.h(1)).unwrap();
    only_the_allowed_one_leaves(&lab, &host, &packets);
    let error = host
        .recv_packet("ICMP 3/13", SOON, |packet| packet.is_icmp(3, 13))
        .unwrap();
    assert_eq!((error.ip.src, error.ip.dst), (lab.h(1).gateway, lab.h(1).ip));
    assert_eq!(super::counter(&nat, "policy"), 1);
}

#[test]
fn a_silent_refusal_says_nothing() {
    let (lab, nat, packets) = refusing("silent");
    let mut host = RawSocket::host(lab.h(1)).unwrap();
    let allowed = only_the_allowed_one_leaves(&lab, &host, &packets);
    assert_eq!(super::counter(&nat, "policy"), 1);
    // What an ICMP error would have to come before.
    let answer = Packet::udp(allowed.dst(), allowed.src(), b"answer").via(lab.o(1));
    RawSocket::host(lab.o(1)).unwrap().send_packet(&answer).unwrap();
    let is_answer = |packet: &Packet| packet.payload() == b"answer";
    let is_error = |packet: &Packet| packet.as_icmp().is_some();
    host.recv_only("the answer", SOON, is_answer, is_error).unwrap();
}

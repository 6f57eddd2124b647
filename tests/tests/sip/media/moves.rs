//! Phones that move: by another INVITE, and because their NATs have forgotten them.

use serde_json::json;
use tests::prelude::*;
use tests::sip::edge::{Edge, endpoint};
use tests::sip::handset::{ring, sdp};
use tests::sip::rtp::Voice;

use super::{edge, hang_up, hear_each_other, phones, talk};

/// A phone offers another port in mid-call, and answers with yet another one later: it is heard from there, is reached there, and the other side
/// sees no change.
#[test]
fn a_new_port_in_another_invite() {
    let edge = Edge::open("").unwrap();
    let [anna, berta] = edge.handsets().unwrap();
    for (port, by) in [(4100, 0), (4200, 1)] {
        // A stream of its own: the old one would be a phone whose NAT has rebound.
        let there = Voice::bind(edge.lab.f(1), port, anna.voice.ssrc + 1).unwrap();
        let ringing = ring(&anna, &berta, &anna.sdp("sendrecv")).unwrap();
        let mut call = ringing.answer(&berta.sdp("sendrecv")).unwrap();
        call.connect().unwrap();
        let told = call.told;
        let [old, _] = edge.voice_legs().unwrap();
        let of_anna = sdp(there.endpoint, "sendrecv");
        let (offer, answer) = match by {
            0 => (of_anna, berta.sdp("sendrecv")),
            _ => (berta.sdp("sendrecv"), of_anna),
        };
        call.offer(by, &offer, &answer).unwrap();
        assert_eq!(call.told, told, "nobody is told another place");
        // From its new port it is heard at once, and from then on reached there.
        let said = there.say(told[0]).unwrap();
        let (heard, from) = berta
            .voice
            .hear(SOON)
            .unwrap()
            .expect("the first packet from the new port");
        assert_eq!((heard, from), (said, told[1]));
        let said = call.say(1).unwrap();
        let (heard, from) = there.hear(SOON).unwrap().expect("a packet to the new port");
        assert_eq!((heard, from), (said, told[0]));
        let [new, _] = edge.voice_legs().unwrap();
        assert_ne!(new["peer"], old["peer"]);
        // Who still speaks from the old one is nobody any more.
        let refused = new["refused"]["relay_other_source"].as_u64().unwrap();
        call.say(0).unwrap();
        wait_until("the packet from the old port to be refused", SOON, || {
            edge.voice_legs().unwrap()[0]["refused"]["relay_other_source"] == json!(refused + 1)
        })
        .unwrap();
        assert!(berta.voice.heard().unwrap().is_empty());
        call.bye(by).unwrap();
        edge.no_legs().unwrap();
    }
}

/// A NAT that gives every flow a port by chance.
const RANDOM: &str = "
    flush ruleset
    table ip nat {
        chain post { type nat hook postrouting priority srcnat; oifname eth0 masquerade fully-random; }
    }
    table ip filter {
        chain forward {
            type filter hook forward priority filter; policy drop;
            ct state established,related accept
            iifname eth1 accept
        }
    }";

/// The NAT forgets the media of a phone and gives it another port: the relay follows, and both hear each other again.
#[test]
fn a_nat_that_rebinds_in_mid_call() {
    let edge = edge();
    edge.lab.n(1).nft(RANDOM).unwrap();
    let [anna, berta] = phones(&edge);
    talk(&anna, &berta);
    let [before, other] = edge.voice_legs().unwrap();
    let port = endpoint(&before["external"]).port().to_string();
    let forget = ["-D", "-p", "udp", "--orig-port-dst", &port];
    edge.lab.n(1).run("conntrack", forget).unwrap();
    wait_until("the relay to follow", SOON, || {
        let [now, _] = edge.voice_legs().unwrap();
        now["peer"] != before["peer"]
    })
    .unwrap();
    let [moved, _] = edge.voice_legs().unwrap();
    assert_eq!((&moved["moves"], &moved["external"]), (&json!(1), &before["external"]));
    assert_eq!(*endpoint(&moved["peer"]).ip(), edge.lab.n(1).ip);
    wait_until("a second of media from the new port", SOON, || {
        let [now, _] = edge.voice_legs().unwrap();
        now["packets"].as_u64() >= moved["packets"].as_u64().map(|packets| packets + 50)
    })
    .unwrap();
    hear_each_other([&anna, &berta]);
    let [_, now] = edge.voice_legs().unwrap();
    assert_eq!(
        (&now["peer"], &now["moves"]),
        (&other["peer"], &json!(0)),
        "berta has not moved"
    );
    hang_up(&anna, &berta);
    edge.no_legs().unwrap();
}

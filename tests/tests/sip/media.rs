//! S3: phones whose session descriptions say where nobody reaches them; the router's own sipnat relays what they say to each other, or
//! opens the NAT for it.

use std::collections::BTreeSet;
use std::net::SocketAddrV4;

use serde_json::Value;
use tests::lab::EXTERNAL;
use tests::prelude::*;
use tests::programs::TempDir;
use tests::sip::Transport;
use tests::sip::baresip::Phone;
use tests::sip::server::Server;

use crate::DOMAIN;

struct Scene {
    nat: RunningNat,
    server: SocketAddrV4,
    lab: Lab,
    _files: TempDir,
}

impl Scene {
    /// A router with NAT and SIP server, with two phones behind NATs of others.
    fn new() -> Scene {
        let lab = Lab::builder().foreign_nats(2).outside_hosts(2).build().unwrap();
        let files = TempDir::new().unwrap();
        let config = Server::config(DOMAIN).user("anna", "secret").user("berta", "secret");
        let text = config.text(EXTERNAL, &files).unwrap();
        Scene {
            nat: lab.start_nat_as(Nat::Sipnat, NatConfig::toml(&text)).unwrap(),
            server: SocketAddrV4::new(EXTERNAL, 5060),
            lab,
            _files: files,
        }
    }

    fn phone(&self, user: &str, tone: u32, host: &Host) -> Phone {
        let account = Phone::account(user, DOMAIN).password("secret").tone(tone);
        let phone = account.outbound(self.server, Transport::Udp).start(host).unwrap();
        phone.registered().unwrap();
        phone
    }

    fn relays(&self) -> Vec<Value> {
        self.nat.json(&["relays"]).unwrap().as_array().unwrap().clone()
    }
}

/// anna calls berta, and they hear each other.
fn talk(anna: &Phone, berta: &Phone) {
    anna.dial(&format!("sip:berta@{DOMAIN}")).unwrap();
    berta.incoming().unwrap();
    berta.accept().unwrap();
    anna.established().unwrap();
    berta.established().unwrap();
    anna.hears(620).unwrap();
    berta.hears(440).unwrap();
}

fn hang_up(anna: &Phone, berta: &Phone) {
    anna.hang_up().unwrap();
    berta.closed().unwrap();
}

/// Both are behind NATs of others: each leg learns where its phone is from the first packet, and all end with the call.
#[test]
fn two_phones_behind_two_nats() {
    let scene = Scene::new();
    let anna = scene.phone("anna", 440, scene.lab.f(1));
    let berta = scene.phone("berta", 620, scene.lab.f(2));
    talk(&anna, &berta);
    let legs = scene.relays();
    let voice: Vec<&Value> = legs.iter().filter(|leg| leg["rtcp"] == false).collect();
    assert_eq!(voice.len(), 2, "{legs:?}");
    for (leg, nat) in voice.iter().zip([1, 2]) {
        let peer: SocketAddrV4 = leg["peer"].as_str().unwrap().parse().unwrap();
        assert_eq!(*peer.ip(), scene.lab.n(nat).ip, "{leg}");
        assert_eq!(leg["lost"], 0, "{leg}");
    }
    hang_up(&anna, &berta);
    wait_until("the legs to go", SOON, || scene.relays().is_empty()).unwrap();
}

/// A phone inside of the router's own NAT and one at a public address: the NAT is opened when the descriptions pass, and nothing relays.
#[test]
fn a_phone_inside_and_one_in_the_open() {
    let scene = Scene::new();
    let anna = scene.phone("anna", 440, scene.lab.h(1));
    let berta = scene.phone("berta", 620, scene.lab.o(1));
    let capture = Capture::host(scene.lab.o(1)).unwrap();
    talk(&anna, &berta);
    assert_eq!(scene.relays(), Vec::<Value>::new());
    hang_up(&anna, &berta);
    let sources: BTreeSet<_> = capture
        .packets()
        .iter()
        .filter(|packet| packet.as_udp().is_some() && packet.payload().first() == Some(&0x80))
        .map(|packet| *packet.src().ip())
        .collect();
    assert_eq!(sources.into_iter().collect::<Vec<_>>(), [EXTERNAL, scene.lab.o(1).ip]);
}

/// A phone inside and one behind a NAT of others: the relay faces the inside as well.
#[test]
fn a_phone_inside_and_one_behind_a_nat() {
    let scene = Scene::new();
    let anna = scene.phone("anna", 440, scene.lab.f(1));
    let berta = scene.phone("berta", 620, scene.lab.h(1));
    talk(&anna, &berta);
    assert!(!scene.relays().is_empty());
    hang_up(&anna, &berta);
    wait_until("the legs to go", SOON, || scene.relays().is_empty()).unwrap();
}

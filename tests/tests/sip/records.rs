//! What is told of calls: their media leg by leg while they last, a record of each that has ended, and what becomes of them when the router gets
//! another external address.

use std::fs;
use std::net::SocketAddrV4;

use serde_json::Value;
use tests::lab::EXTERNAL;
use tests::prelude::*;
use tests::programs::TempDir;
use tests::sip::Transport;
use tests::sip::baresip::Phone;
use tests::sip::server::Server;

use crate::DOMAIN;

/// EF (RFC 3246) as a type of service.
const EF: u8 = 46 << 2;

/// A router with NAT and SIP server, two phones behind NATs of others, and a file of records.
struct Scene {
    nat: RunningNat,
    anna: Phone,
    berta: Phone,
    lab: Lab,
    files: TempDir,
}

impl Scene {
    fn new() -> Scene {
        let lab = Lab::builder().foreign_nats(2).build().unwrap();
        let files = TempDir::new().unwrap();
        let more = format!(
            "[sip.calls]\nrecords = \"{}\"\n[sip.media]\ndscp = \"ef\"\n",
            files.file("calls.jsonl")
        );
        let config = Server::config(DOMAIN)
            .user("anna", "secret")
            .user("berta", "secret")
            .toml(&more);
        let text = config.text(EXTERNAL, &files).unwrap();
        let nat = lab.start_nat_as(Nat::Sipnat, NatConfig::toml(&text)).unwrap();
        let phone = |user, tone, host| {
            let account = Phone::account(user, DOMAIN).password("secret").tone(tone);
            let proxy = SocketAddrV4::new(EXTERNAL, 5060);
            let phone = account.outbound(proxy, Transport::Udp).start(host).unwrap();
            phone.registered().unwrap();
            phone
        };
        Scene {
            anna: phone("anna", 440, lab.f(1)),
            berta: phone("berta", 620, lab.f(2)),
            nat,
            lab,
            files,
        }
    }

    /// anna calls berta, and they hear each other.
    fn talk(&self) {
        self.anna.dial(&format!("sip:berta@{DOMAIN}")).unwrap();
        self.berta.incoming().unwrap();
        self.berta.accept().unwrap();
        self.anna.established().unwrap();
        self.berta.established().unwrap();
        self.anna.hears(620).unwrap();
        self.berta.hears(440).unwrap();
    }

    fn list(&self, what: &[&str]) -> Vec<Value> {
        self.nat.json(what).unwrap().as_array().unwrap().clone()
    }

    /// The record of the only call, once it is there.
    fn record(&self) -> Value {
        let read = || fs::read_to_string(self.files.file("calls.jsonl")).unwrap_or_default();
        wait_until("a record of the call", SOON, || read().ends_with('\n')).unwrap();
        let text = read();
        assert_eq!(text.lines().count(), 1, "{text}");
        serde_json::from_str(&text).unwrap()
    }
}

/// The voices of both sides: the legs of a stream that are not RTCP's, caller first.
fn voices(stream: &Value) -> [Value; 2] {
    let legs = stream["legs"].as_array().unwrap();
    let mut voices: Vec<Value> = legs.iter().filter(|leg| leg["rtcp"] == false).cloned().collect();
    voices.sort_by_key(|leg| leg["side"].as_u64());
    voices.try_into().unwrap_or_else(|legs| panic!("{legs:?}"))
}

#[test]
fn a_call_from_its_media_to_its_record() {
    let scene = Scene::new();
    let capture = Capture::host(scene.lab.n(2)).unwrap();
    scene.talk();
    let calls = scene.list(&["calls", "--media"]);
    let stream = &calls[0]["media"][0];
    assert_eq!(stream["ended"], false, "{stream}");
    let mut before = Vec::new();
    for (leg, nat) in voices(stream).iter().zip([1, 2]) {
        let peer: SocketAddrV4 = leg["peer"].as_str().unwrap().parse().unwrap();
        assert_eq!(*peer.ip(), scene.lab.n(nat).ip, "{leg}");
        assert_eq!(leg["dscp"], 46, "{leg}");
        assert!(leg["mos"].as_f64().unwrap() > 3.0, "{leg}");
        before.push(leg["packets"].as_u64().unwrap());
    }
    let table = scene.nat.sipnat(&["calls", "--media"]).unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("caller") && table.contains("MOS"), "{table}");

    scene.anna.hang_up().unwrap();
    scene.berta.closed().unwrap();
    let record = scene.record();
    assert_eq!(
        (&record["reason"], &record["by"]),
        (&"bye".into(), &"caller".into()),
        "{record}"
    );
    assert_eq!(
        [&record["caller_aor"], &record["callee_aor"]],
        [&format!("anna@{DOMAIN}"), &format!("berta@{DOMAIN}")]
    );
    assert_eq!(record["call_id"], calls[0]["call_id"]);
    for (flow, nat) in [("caller", 1), ("callee", 2)] {
        let remote = scene.lab.n(nat).ip.to_string();
        assert!(record[flow].as_str().unwrap().contains(&remote), "{record}");
    }
    let moment = |name: &str| record[name].as_str().unwrap().to_owned();
    assert!(
        moment("began") <= moment("answered") && moment("answered") < moment("ended"),
        "{record}"
    );
    assert!(record["duration_ms"].as_u64().unwrap() > 0, "{record}");
    for (leg, before) in voices(&record["media"][0]).iter().zip(before) {
        assert!(leg["packets"].as_u64().unwrap() >= before, "the last figures: {leg}");
        assert!(leg["mos"].as_f64().unwrap() > 3.0, "{leg}");
    }

    let marks: Vec<u8> = capture
        .packets()
        .iter()
        .filter(|packet| *packet.src().ip() == EXTERNAL && packet.as_udp().is_some())
        .filter(|packet| packet.payload().first().is_some_and(|first| first >> 6 == 2))
        .map(|packet| packet.ip.tos)
        .collect();
    assert!(
        !marks.is_empty() && marks.iter().all(|tos| tos & 0xfc == EF),
        "{marks:?}"
    );
}

/// A capture has the signalling and both sides of the media with their real addresses, until the call ends.
#[test]
fn a_call_is_captured() {
    let mut scene = Scene::new();
    scene.talk();
    let call = scene.list(&["calls", "--media"]).remove(0);
    let stream = &call["media"][0];
    let of =
        |side: usize, what: &str| -> SocketAddrV4 { voices(stream)[side][what].as_str().unwrap().parse().unwrap() };
    let ends = [0, 1].map(|side| (of(side, "peer"), of(side, "external")));
    let (by_id, by_number) = (scene.files.file("id.pcap"), scene.files.file("number.pcap"));
    let call_id = call["call_id"].as_str().unwrap().to_owned();
    let number = stream["relay"].to_string();
    let socket = scene.nat.daemon().socket().display().to_string();
    let captures = [(call_id.as_str(), &by_id), (number.as_str(), &by_number)].map(|(call, file)| {
        let args = ["capture", "--call", call, "--out", file, "--socket", &socket];
        scene.nat.daemon().command(&args).spawn().unwrap()
    });
    let begun = || [&by_id, &by_number].iter().all(|file| read_pcap(file).len() > 40);
    wait_until("media in the captures", SOON, begun).unwrap();
    scene.anna.hang_up().unwrap();
    scene.berta.closed().unwrap();
    for capture in captures {
        let output = capture.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    for file in [&by_id, &by_number] {
        let packets = read_pcap(file);
        let has = |from: SocketAddrV4, to: SocketAddrV4| {
            let between = packets.iter().filter(|packet| (packet.from, packet.to) == (from, to));
            between.filter(|packet| packet.payload.first() == Some(&0x80)).count()
        };
        let [(anna, to_anna), (berta, to_berta)] = ends;
        for (from, to) in [(anna, to_anna), (to_berta, berta), (berta, to_berta), (to_anna, anna)] {
            assert!(has(from, to) > 5, "{from} > {to} in {file}");
        }
        let byes = packets
            .iter()
            .filter(|packet| packet.payload.starts_with(b"BYE "))
            .count();
        assert_eq!(byes, 2, "as it came and as it left, in {file}");
    }
    let refused = scene
        .nat
        .sipnat(&["capture", "--call", "nobody", "--out", &by_id])
        .unwrap();
    assert_eq!(refused.status.code(), Some(4));
}

/// A UDP packet of a capture file.
struct Captured {
    from: SocketAddrV4,
    to: SocketAddrV4,
    payload: Vec<u8>,
}

/// The whole packets of a capture file of raw IPv4; none if there is no file yet.
fn read_pcap(file: &str) -> Vec<Captured> {
    let bytes = fs::read(file).unwrap_or_default();
    let mut rest = bytes.get(24..).unwrap_or_default();
    let mut packets = Vec::new();
    while let Some((head, more)) = rest.split_at_checked(16) {
        let length = u32::from_ne_bytes(head[8..12].try_into().unwrap()) as usize;
        let Some((packet, more)) = more.split_at_checked(length) else {
            break;
        };
        let end = |address: usize, port: usize| {
            let address: [u8; 4] = packet[address..address + 4].try_into().unwrap();
            SocketAddrV4::new(
                address.into(),
                u16::from_be_bytes(packet[port..port + 2].try_into().unwrap()),
            )
        };
        packets.push(Captured {
            from: end(12, 20),
            to: end(16, 22),
            payload: packet[28..].to_vec(),
        });
        rest = more;
    }
    packets
}

/// The external address goes in the middle of a call: its relay ends, and the log, the list of calls and the record say which.
#[test]
fn the_external_address_goes() {
    let scene = Scene::new();
    scene.talk();
    let call = scene.list(&["calls"]).remove(0);
    let call_id = call["call_id"].as_str().unwrap();
    for (change, address) in [("del", "203.0.113.1/24"), ("add", "203.0.113.77/24")] {
        scene
            .lab
            .router
            .run("ip", ["addr", change, address, "dev", "out0"])
            .unwrap();
    }
    wait_until("the legs to go", SOON, || scene.list(&["relays"]).is_empty()).unwrap();
    let streams = scene.list(&["calls", "--media"]).remove(0);
    assert_eq!(streams["media"][0]["ended"], true, "{streams}");
    let log = scene.nat.log();
    let told = log
        .lines()
        .any(|line| line.contains(call_id) && line.contains("external address"));
    assert!(told, "{log}");
}

/// A file that cannot be written is told at the start.
#[test]
fn records_need_a_place() {
    let lab = Lab::builder().outside_hosts(1).build().unwrap();
    let refused = Server::config(DOMAIN)
        .toml("[sip.calls]\nrecords = \"/nonexistent/calls.jsonl\"\n")
        .refused(lab.o(1))
        .unwrap();
    let said = "cannot open the records of calls /nonexistent/calls.jsonl; create its directory";
    assert!(refused.message.contains(said), "{}", refused.message);
}

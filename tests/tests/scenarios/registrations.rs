//! A phone inside registers with a registrar elsewhere, through the NAT: not one byte is changed (RFC 4787 REQ-10), and its binding lives
//! as long as the registration was granted, without any prompt.

use std::net::{SocketAddrV4, UdpSocket};
use std::time::Duration;

use serde_json::Value;
use tests::prelude::*;
use tests::programs::TempDir;

/// A hundredth: sipnat's five minutes for UDP are 3 s. What registrars grant is not scaled.
const SCALE: f64 = 0.01;
const LIFETIME: Duration = Duration::from_secs(3);

/// A phone, a registrar, and a NAT that watches registrations.
struct Scene {
    nat: RunningNat,
    phone: UdpSocket,
    registrar: UdpSocket,
    to: SocketAddrV4,
    lab: Lab,
    _files: TempDir,
}

impl Scene {
    fn new(observe: &str) -> Scene {
        let lab = Lab::builder().outside_hosts(2).build().unwrap();
        let files = TempDir::new().unwrap();
        let toml = format!(
            "[sip]\nstore = \"off\"\nsecret = \"{}\"\n[[sip.listen]]\ntransport = \"udp\"\naddress = \"{}\"\nrole = \"outbound\"\n{observe}",
            files.path().join("secret").display(),
            lab.h(1).gateway,
        );
        let nat = lab
            .start_nat_as(Nat::Sipnat, NatConfig::toml(&toml).lifetime_scale(SCALE))
            .unwrap();
        Scene {
            nat,
            phone: host_udp(lab.h(1), 5060).unwrap(),
            registrar: host_udp(lab.o(1), 5060).unwrap(),
            to: SocketAddrV4::new(lab.o(1).ip, 5060),
            lab,
            _files: files,
        }
    }

    /// Sends a REGISTER; the phone's external endpoint. What arrives is what was sent.
    fn register(&self, cseq: u32, expires: u32) -> SocketAddrV4 {
        let request = request(cseq, expires);
        self.phone.send_to(request.as_bytes(), self.to).unwrap();
        let (received, from) = receive(&self.registrar).unwrap();
        assert_eq!(String::from_utf8_lossy(&received), request, "unchanged");
        from
    }

    /// Whether a datagram from this socket reaches the phone, unchanged.
    fn reaches(&self, from: &UdpSocket, external: SocketAddrV4, text: &str) -> bool {
        from.send_to(text.as_bytes(), external).unwrap();
        match try_receive(&self.phone, Duration::from_millis(500)).unwrap() {
            Some((received, _)) => {
                assert_eq!(String::from_utf8_lossy(&received), text, "unchanged");
                true
            }
            None => false,
        }
    }

    /// The phone's binding as the command line shows it: kind, and seconds left.
    fn binding(&self) -> (String, u64) {
        let list = self
            .nat
            .json(&["bindings", "--proto", "udp", "--host", "192.168.1.10"])
            .unwrap();
        let Some([binding]) = list.as_array().map(Vec::as_slice) else {
            panic!("one binding, not {list}");
        };
        let kind = binding["kind"].as_str().unwrap().to_owned();
        (kind, binding["expires_s"].as_u64().unwrap())
    }

    fn wait_for_kind(&self, kind: &str) {
        wait_for(&format!("the binding to be {kind}"), SOON, || {
            (self.binding().0 == kind).then_some(())
        })
        .unwrap();
    }
}

fn request(cseq: u32, expires: u32) -> String {
    format!(
        "REGISTER sip:example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.168.1.10:5060;branch=z9hG4bK{cseq}\r\nMax-Forwards: 70\r\n\
         From: <sip:alice@example.com>;tag=1\r\nTo: <sip:alice@example.com>\r\nCall-ID: 4711@192.168.1.10\r\nCSeq: {cseq} REGISTER\r\n\
         Contact: <sip:alice@192.168.1.10:5060>;expires={expires}\r\nContent-Length: 0\r\n\r\n"
    )
}

fn answer(call_id: &str, cseq: u32, expires: u32) -> String {
    format!(
        "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 192.168.1.10:5060;branch=z9hG4bK{cseq};received=203.0.113.100\r\n\
         From: <sip:alice@example.com>;tag=1\r\nTo: <sip:alice@example.com>;tag=2\r\nCall-ID: {call_id}\r\nCSeq: {cseq} REGISTER\r\n\
         Contact: <sip:alice@192.168.1.10:5060>;expires={expires}\r\nContent-Length: 0\r\n\r\n"
    )
}

const CALL_ID: &str = "4711@192.168.1.10";
const INVITE: &str = "INVITE sip:alice@192.168.1.10:5060 SIP/2.0\r\n\r\n";

/// Nothing but time: the lifetime of a binding has to pass, several times.
fn several_lifetimes() {
    std::thread::sleep(3 * LIFETIME + LIFETIME / 2);
}

#[test]
fn a_binding_lives_as_long_as_the_registration_that_crosses_it() {
    let mut scene = Scene::new("");
    let external = scene.register(1, 3600);
    assert_eq!(scene.binding().0, "dynamic", "nothing is granted yet");
    assert!(scene.reaches(&scene.registrar, external, &answer(CALL_ID, 1, 1800)));
    scene.wait_for_kind("registered");
    let (_, left) = scene.binding();
    assert!((1800..=1833).contains(&left), "what was granted and 32 s, not {left}");

    // The data path knows it by itself.
    scene.nat.daemon().kill9();
    several_lifetimes();
    assert!(scene.reaches(&scene.registrar, external, INVITE), "without a daemon");
    scene.nat.restart().unwrap();
    several_lifetimes();
    assert!(scene.reaches(&scene.registrar, external, INVITE), "with a sweeper");
    let sent_by_itself = try_receive(&scene.registrar, Duration::from_millis(1)).unwrap();
    assert_eq!(
        sent_by_itself, None,
        "nobody has prompted the phone, and it has said nothing"
    );

    assert_eq!(scene.register(2, 0), external, "the same binding all the time");
    assert!(scene.reaches(&scene.registrar, external, &answer(CALL_ID, 2, 0)));
    scene.wait_for_kind("dynamic");
    several_lifetimes();
    assert!(
        !scene.reaches(&scene.registrar, external, INVITE),
        "it ended like others"
    );
}

#[test]
fn forged_and_unmatched_answers_change_nothing() {
    let scene = Scene::new("");
    let external = scene.register(1, 3600);
    let attacker = host_udp(scene.lab.o(2), 5060).unwrap();
    assert!(
        scene.reaches(&attacker, external, &answer(CALL_ID, 1, 3600)),
        "the filter lets it in"
    );
    assert!(scene.reaches(&scene.registrar, external, &answer("4712@192.168.1.10", 1, 3600)));
    assert!(scene.reaches(&scene.registrar, external, &answer(CALL_ID, 2, 3600)));
    let other_port = tests::sockets::udp(scene.lab.o(1), (scene.lab.o(1).ip, 5061)).unwrap();
    assert!(scene.reaches(&other_port, external, &answer(CALL_ID, 1, 3600)));
    several_lifetimes();
    assert!(
        !scene.reaches(&scene.registrar, external, INVITE),
        "the binding has ended like any other"
    );

    // An answer from before anybody has asked on this binding.
    scene.phone.send_to(b"\r\n\r\n", scene.to).unwrap();
    let (_, external) = receive(&scene.registrar).unwrap();
    assert!(scene.reaches(&scene.registrar, external, &answer(CALL_ID, 1, 3600)));
    several_lifetimes();
    assert!(!scene.reaches(&scene.registrar, external, INVITE));
}

#[test]
fn it_can_be_switched_off_and_has_a_bound() {
    let off = Scene::new("[sip.observe]\nenabled = false\n");
    let external = off.register(1, 3600);
    assert!(off.reaches(&off.registrar, external, &answer(CALL_ID, 1, 3600)));
    several_lifetimes();
    assert!(!off.reaches(&off.registrar, external, INVITE), "it ended like others");

    let bounded = Scene::new("[sip.observe]\nmax = \"10m\"\n");
    let external = bounded.register(1, 3600);
    assert!(bounded.reaches(&bounded.registrar, external, &answer(CALL_ID, 1, 3600)));
    bounded.wait_for_kind("registered");
    let (_, left) = bounded.binding();
    assert!((500..=601).contains(&left), "not more than ten minutes: {left}");
    let bindings: Value = bounded.nat.json(&["bindings"]).unwrap();
    assert_eq!(bindings[0]["external"], external.to_string());
}

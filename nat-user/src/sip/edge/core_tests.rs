//! The outbound role through the whole core: a phone inside, a registrar outside, a call that comes back.

use std::{sync::Arc, time::Duration};

use super::*;
use crate::{
    config::sip::{self as config, ListenAddress, Listener, Role, Sip},
    sip::{
        command::{Command, Destination},
        core::{Beginning, Core},
        directory::Directory,
        location::domains::tests::sip,
        path,
    },
};

const NOW: Time = Time(1_790_000_000_000);
const REGISTRAR: &str = "134.56.3.1:5060";

fn listener(ip: &str, role: Role) -> Listener {
    Listener {
        transport: Transport::Udp,
        address: ListenAddress::Ip(ip.parse().unwrap()),
        port: 5060,
        advertise: None,
        role,
    }
}

fn config() -> Sip {
    Sip {
        listeners: vec![
            listener("192.168.1.1", Role::Outbound),
            listener("134.56.1.1", Role::Outbound),
        ],
        routes: vec![config::Route {
            prefix: String::new(),
            domain: Some("provider.example".into()),
            strip: 0,
            prepend: String::new(),
            to: vec!["sip:134.56.3.1".into()],
        }],
        ..sip()
    }
}

struct World {
    core: Core<Directory>,
    now: Time,
}

impl World {
    fn new() -> World {
        let config = Arc::new(config());
        let listeners = (0..).map(ListenerId).zip(config.listeners.clone());
        let path_settings = path::Settings {
            paths: config.paths.clone(),
            t1: config.proxy.t1,
            t2: config.proxy.t2,
        };
        let beginning = Beginning {
            listeners: listeners.map(|(id, listener)| (id, listener, None)).collect(),
            secret: b"secret".to_vec(),
            config: config.clone(),
        };
        let directory = Directory::new(config, Vec::new(), b"secret", NOW);
        World {
            core: Core::new(beginning, Paths::new(path_settings, [7; 32]), directory),
            now: NOW,
        }
    }

    /// What the core sends when it receives a message: listener or flow, to where, text.
    fn receive(&mut self, listener: u16, remote: &str, text: &str) -> Vec<(SocketAddr, String)> {
        let local = if listener == 0 {
            "192.168.1.1:5060"
        } else {
            "134.56.1.1:5060"
        };
        let input = Input::Received {
            flow: Flow::udp(ListenerId(listener), remote.parse().unwrap()),
            local: local.parse().unwrap(),
            bytes: Bytes::copy_from_slice(text.as_bytes()),
        };
        let mut out = Vec::new();
        self.core.input(input, self.now, &mut out);
        sent(out)
    }
}

fn sent(commands: Vec<Command>) -> Vec<(SocketAddr, String)> {
    let text = |command| match command {
        Command::Send { to, bytes, .. } => {
            let remote = match to {
                Destination::Flow(flow) => flow.remote,
                Destination::Hop { hop, .. } => hop.address,
            };
            Some((remote, String::from_utf8(bytes.to_vec()).unwrap()))
        }
        _ => None,
    };
    commands.into_iter().filter_map(text).collect()
}

const PHONE: &str = "192.168.1.10:5060";

fn register(cseq: u32) -> String {
    format!(
        "REGISTER sip:134.56.3.1 SIP/2.0\r\nVia: SIP/2.0/UDP 192.168.1.10:5060;branch=z9hG4bKr{cseq};rport\r\nMax-Forwards: 70\r\n\
         From: <sip:user@134.56.3.1>;tag=1\r\nTo: <sip:user@134.56.3.1>\r\nCall-ID: r\r\nCSeq: {cseq} REGISTER\r\n\
         Contact: <sip:user@192.168.1.10:5060>\r\nAuthorization: Digest username=\"user\"\r\nContent-Length: 0\r\n\r\n"
    )
}

/// The response to a request that was forwarded: its Vias, From, To and so on, and these lines.
fn response(request: &str, status: &str, lines: &str) -> String {
    let kept = ["Via", "From", "To", "Call-ID", "CSeq"];
    let head: String = request
        .split("\r\n")
        .filter(|line| line.split_once(':').is_some_and(|(name, _)| kept.contains(&name)))
        .map(|line| format!("{line}\r\n"))
        .collect();
    format!("SIP/2.0 {status}\r\n{head}{lines}Content-Length: 0\r\n\r\n")
}

fn contact_of(text: &str) -> String {
    let line = text.split("\r\n").find(|line| line.starts_with("Contact: ")).unwrap();
    line["Contact: ".len()..].to_owned()
}

#[test]
fn a_call_comes_back_to_a_phone_that_is_registered_elsewhere() {
    let mut world = World::new();
    let out = world.receive(0, PHONE, &register(1));
    let (to, forwarded) = out.last().unwrap();
    assert_eq!(*to, REGISTRAR.parse().unwrap());
    assert!(
        forwarded.contains("Authorization: Digest username=\"user\"\r\n") && forwarded.contains("z9hG4bKr1"),
        "{forwarded}"
    );
    let ours = contact_of(forwarded);
    assert!(
        ours.starts_with("<sip:e~") && ours.ends_with("@134.56.1.1:5060>"),
        "{ours}"
    );

    let ok = response(forwarded, "200 OK", &format!("Contact: {ours};expires=120\r\n"));
    let out = world.receive(1, REGISTRAR, &ok);
    let (to, back) = &out[0];
    assert_eq!(*to, PHONE.parse().unwrap());
    assert_eq!(contact_of(back), "<sip:user@192.168.1.10:5060>;expires=120");

    let invite = format!(
        "INVITE {} SIP/2.0\r\nVia: SIP/2.0/UDP 134.56.3.1:5060;branch=z9hG4bKi\r\nMax-Forwards: 70\r\n\
         From: <sip:caller@x.example>;tag=1\r\nTo: <sip:user@134.56.3.1>\r\nCall-ID: i\r\nCSeq: 1 INVITE\r\n\
         Contact: <sip:caller@134.56.9.9>\r\nContent-Length: 0\r\n\r\n",
        ours.trim_matches(['<', '>'])
    );
    let out = world.receive(1, REGISTRAR, &invite);
    let (to, call) = out.iter().find(|(_, text)| text.starts_with("INVITE ")).unwrap();
    assert_eq!(*to, PHONE.parse().unwrap());
    assert!(
        call.starts_with("INVITE sip:user@192.168.1.10:5060 SIP/2.0\r\n"),
        "{call}"
    );

    // When the registration is over the token leads nowhere, which is said.
    world.now = NOW + Duration::from_secs(121);
    let mut out = Vec::new();
    world.core.tick(world.now, &mut out);
    let out = world.receive(
        1,
        REGISTRAR,
        &invite
            .replace("z9hG4bKi", "z9hG4bKj")
            .replace("Call-ID: i", "Call-ID: j"),
    );
    assert!(out.iter().any(|(_, text)| text.starts_with("SIP/2.0 430 ")), "{out:?}");
    assert_eq!(world.core.registry.edge.location().len(), 0);
}

/// The dial plan says where the registrar of a domain is, and where calls to it go.
#[test]
fn a_registrar_by_the_dial_plan() {
    let mut world = World::new();
    let elsewhere = |text: &str| {
        text.replace("REGISTER sip:134.56.3.1 ", "REGISTER sip:provider.example ")
            .replace("sip:user@134.56.3.1", "sip:user@provider.example")
    };
    let out = world.receive(0, PHONE, &elsewhere(&register(1)));
    let (to, forwarded) = out.last().unwrap();
    assert_eq!(*to, REGISTRAR.parse().unwrap());
    assert!(
        forwarded.starts_with("REGISTER sip:provider.example SIP/2.0\r\n"),
        "{forwarded}"
    );
    let ours = contact_of(forwarded);
    assert!(ours.ends_with("@134.56.1.1:5060>"), "{ours}");
    let invite = "INVITE sip:bob@provider.example SIP/2.0\r\nVia: SIP/2.0/UDP 192.168.1.10:5060;branch=z9hG4bKi;rport\r\n\
         Max-Forwards: 70\r\nFrom: <sip:user@provider.example>;tag=1\r\nTo: <sip:bob@provider.example>\r\nCall-ID: i\r\n\
         CSeq: 1 INVITE\r\nContact: <sip:user@192.168.1.10:5060>\r\nContent-Length: 0\r\n\r\n";
    let out = world.receive(0, PHONE, invite);
    assert!(out[0].1.starts_with("SIP/2.0 403 "), "it has not registered: {out:?}");
    world.receive(
        1,
        REGISTRAR,
        &response(forwarded, "200 OK", &format!("Contact: {ours};expires=120\r\n")),
    );
    let out = world.receive(0, PHONE, &invite.replace("z9hG4bKi", "z9hG4bKj"));
    let (to, call) = out.iter().find(|(_, text)| text.starts_with("INVITE ")).unwrap();
    assert_eq!(*to, REGISTRAR.parse().unwrap());
    assert!(call.starts_with("INVITE sip:bob@134.56.3.1 SIP/2.0\r\n"), "{call}");
}

#[test]
fn a_new_outside_address_is_registered_at_once() {
    let mut world = World::new();
    let out = world.receive(0, PHONE, &register(1));
    let forwarded = out.last().unwrap().1.clone();
    let ours = contact_of(&forwarded);
    world.receive(
        1,
        REGISTRAR,
        &response(&forwarded, "200 OK", &format!("Contact: {ours};expires=120\r\n")),
    );
    let mut out = Vec::new();
    let moved = Input::Moved {
        listener: ListenerId(1),
        address: Some("134.56.1.99".parse().unwrap()),
    };
    world.core.input(moved, world.now, &mut out);
    world.core.tick(world.now, &mut out);
    let out = sent(out);
    let (to, again) = out.iter().find(|(_, text)| text.starts_with("REGISTER ")).unwrap();
    assert_eq!(*to, REGISTRAR.parse().unwrap());
    assert_eq!(contact_of(again), ours.replace("134.56.1.1:", "134.56.1.99:"));
    assert!(again.contains("Authorization: Digest username=\"user\"\r\n"));
}

#[test]
fn a_registration_for_ourselves_is_no_ones() {
    let mut world = World::new();
    let out = world.receive(
        0,
        PHONE,
        &register(1).replace("REGISTER sip:134.56.3.1 ", "REGISTER sip:192.168.1.1 "),
    );
    assert!(out.len() == 1 && out[0].1.starts_with("SIP/2.0 403 "), "{out:?}");
    // A listener that is no outbound proxy: nobody registers elsewhere through it.
    let refused = world.core.registry.edge.location().len();
    assert_eq!(refused, 0);
}

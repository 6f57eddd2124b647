//! A request that repeats one of before is answered by a shorter way: it must come to what the long one comes to.

use std::net::Ipv4Addr;

use bytes::Bytes;
use proptest::prelude::*;

use super::{bench::setup, *};
use crate::{
    config::sip::{Prompt, Sip},
    sip::{core::seam::Registry as _, flow::ListenerId, transport::Engine as _},
};

/// What a phone does next.
#[derive(Clone, Debug)]
struct Step {
    phone: u8,
    /// From which of two outside ports.
    port: u8,
    /// How much higher its CSeq is than the last one.
    more: i64,
    /// 0: the branch of the request before.
    branch: u8,
    contact: usize,
    expires: usize,
    line: usize,
    /// Seconds until then.
    after: u64,
    /// A listener's address may have changed meanwhile.
    moved: bool,
}

const CONTACTS: [&str; 5] = [
    "<sip:u@192.168.1.10:5060>",
    "<sip:u@192.168.1.10:5060>;expires=90",
    "<sip:u@192.168.1.11>;+sip.instance=\"<urn:1>\";reg-id=1",
    "<sip:u@192.168.1.10:5060>, <sip:v@192.168.1.10:5060>;q=0.5",
    "<sip:134.56.3.1>",
];
const EXPIRES: [&str; 4] = ["Expires: 3600\r\n", "Expires: 60\r\n", "Expires: 0\r\n", ""];
const LINES: [&str; 5] = [
    "",
    "Supported: outbound, path\r\n",
    "Require: nothing\r\n",
    "Path: <sip:edge;lr>\r\n",
    "User-Agent: other\r\n",
];

fn step() -> impl Strategy<Value = Step> {
    let often = |least: usize, all: usize| prop_oneof![4 => Just(least), 1 => 0..all];
    (
        (
            0..2u8,
            prop_oneof![4 => Just(0u8), 1 => Just(1)],
            prop_oneof![6 => Just(1i64), 1 => -2..=2i64],
        ),
        (prop_oneof![5 => Just(1u8), 1 => 0..3u8], often(0, CONTACTS.len())),
        (often(0, EXPIRES.len()), often(0, LINES.len())),
        (
            prop_oneof![4 => Just(20u64), 1 => 0..4000u64],
            prop::bool::weighted(0.05),
        ),
    )
        .prop_map(
            |((phone, port, more), (branch, contact), (expires, line), (after, moved))| Step {
                phone,
                port,
                more,
                branch,
                contact,
                expires,
                line,
                after,
                moved,
            },
        )
}

fn request(step: &Step, cseq: i64, branch: u32) -> Input {
    let (phone, contact) = (step.phone, CONTACTS[step.contact]);
    let text = format!(
        "REGISTER sip:net.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.168.1.10:5060;branch=z9hG4bK{branch};rport\r\nMax-Forwards: 70\r\n\
         From: <sip:u{phone}@net.com>;tag=1\r\nTo: <sip:u{phone}@net.com>\r\nCall-ID: {phone}@h\r\nCSeq: {cseq} REGISTER\r\n\
         Contact: {contact}\r\n{}{}Content-Length: 0\r\n\r\n",
        EXPIRES[step.expires], LINES[step.line],
    );
    Input::Received {
        flow: Flow::udp(
            ListenerId(0),
            (Ipv4Addr::new(10, 0, 0, phone), 5060 + u16::from(step.port)).into(),
        ),
        local: ([134, 56, 3, 1], 5060).into(),
        bytes: Bytes::from(text),
    }
}

/// What went out, without the tag of To, which each server makes with a key of its own.
fn sent(out: &mut Vec<Command>) -> Vec<(String, String)> {
    let text = |command: Command| match command {
        Command::Send { to, bytes, .. } => {
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            let lines = text.split("\r\n").map(|line| match line.strip_prefix("To: ") {
                Some(to) => to.split(";tag=").next().unwrap(),
                None => line,
            });
            (format!("{to:?}"), lines.collect::<Vec<_>>().join("\n"))
        }
        other => (format!("{other:?}"), String::new()),
    };
    out.drain(..).map(text).collect()
}

/// Without prompts, which come at times of their own.
fn server(now: Time) -> Engine<Directory> {
    let mut setup = setup();
    let mut config = Sip::clone(&setup.config);
    config.paths.udp = Prompt::Off;
    setup.config = config.into();
    make(setup, &[7; 32], now).unwrap()
}

fn contacts(engine: &Engine<Directory>, now: Time) -> Vec<String> {
    let mut all = Vec::new();
    let location = engine.core.registry.location();
    location.page(0, usize::MAX, now, |contact| all.push(format!("{contact:?}")));
    all
}

proptest! {
    #[test]
    fn the_short_way_comes_to_what_the_long_one_comes_to(steps in prop::collection::vec(step(), 1..60)) {
        let mut now = Time(1_790_000_000_000);
        let (mut quick, mut long) = (server(now), server(now));
        let (mut cseqs, mut branch, mut out) = ([10_000i64; 2], 10_000, Vec::new());
        for step in steps {
            now = now + std::time::Duration::from_secs(step.after);
            cseqs[usize::from(step.phone)] += step.more;
            branch += u32::from(step.branch);
            let input = || request(&step, cseqs[usize::from(step.phone)], branch);
            // Nothing is known any more of what was said before.
            let here = long.core.here().clone();
            long.core.registry.listeners(&here);
            if step.moved {
                quick.core.registry.listeners(&here);
            }
            let [quick_sent, long_sent] = [&mut quick, &mut long].map(|engine| {
                engine.tick(now, &mut out);
                engine.input(input(), now, &mut out);
                sent(&mut out)
            });
            prop_assert_eq!(quick_sent, long_sent, "{:?}", step);
            prop_assert_eq!(contacts(&quick, now), contacts(&long, now), "{:?}", step);
            prop_assert_eq!(quick.core.registry.registrar.counts(), long.core.registry.registrar.counts());
            let [quick_changes, long_changes] =
                [&mut quick, &mut long].map(|engine| engine.core.registry.location.take_changes());
            prop_assert_eq!(quick_changes, long_changes, "{:?}", step);
        }
    }
}

#[test]
fn a_refresh_takes_the_short_way() {
    let mut now = Time(1_790_000_000_000);
    let mut engine = server(now);
    let step = Step {
        phone: 0,
        port: 0,
        more: 1,
        branch: 1,
        contact: 0,
        expires: 0,
        line: 0,
        after: 20,
        moved: false,
    };
    let mut out = Vec::new();
    engine.input(request(&step, 10, 100), now, &mut out);
    now = now + std::time::Duration::from_secs(20);
    let Input::Received { flow, bytes, .. } = request(&step, 11, 101) else {
        unreachable!("a request");
    };
    let core = &engine.core;
    assert!(core.registry.repeats(&bytes, &flow, &core.paths, now).is_some());
    let later = now + std::time::Duration::from_secs(3600);
    assert!(
        core.registry.repeats(&bytes, &flow, &core.paths, later).is_none(),
        "it has expired"
    );
}

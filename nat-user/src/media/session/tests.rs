use std::{collections::BTreeSet, net::Ipv4Addr};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::media::{
    command::{Carrier, Exhausted, Expect, Leg, Pinhole, PinholeId, Relay, RelayId, Want},
    end::End,
    policy::{SameNat, tests::policy},
    sdp::Endpoint,
};

const OURS: [u8; 4] = [203, 0, 113, 1];
/// Behind NATs of others.
const ALICE: &str = "198.51.100.7";
const BOB: &str = "198.51.100.8";

/// Gives places in their order, as long as there are some.
struct Places {
    next: u16,
    left: u32,
    wants: Vec<Want>,
    opened: Vec<Opened>,
}

/// A relay that was opened since the last message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Opened {
    id: RelayId,
    legs: [Leg; 2],
    expect: Expect,
}

impl Places {
    fn new() -> Places {
        Places {
            next: 20_000,
            left: 1000,
            wants: Vec::new(),
            opened: Vec::new(),
        }
    }

    fn endpoint(&mut self, want: &Want) -> Endpoint {
        let port = self.next;
        self.next += 2;
        Endpoint {
            address: OURS.into(),
            port,
            rtcp: want.rtcp.then_some(port + 1),
        }
    }

    fn take(&mut self, want: &Want) -> Result<(), Exhausted> {
        self.wants.push(*want);
        self.left = self.left.checked_sub(1).ok_or(Exhausted)?;
        Ok(())
    }
}

impl Ports for Places {
    fn relay(&mut self, want: &Want, legs: [Leg; 2], expect: Expect) -> Result<Relay, Exhausted> {
        self.take(want)?;
        let id = RelayId(u64::from(self.next));
        self.opened.push(Opened { id, legs, expect });
        Ok(Relay {
            id,
            aliases: [self.endpoint(want), self.endpoint(want)],
        })
    }

    fn pinhole(&mut self, _: Endpoint, want: &Want) -> Result<Pinhole, Exhausted> {
        self.take(want)?;
        Ok(Pinhole {
            id: PinholeId(u64::from(self.next)),
            outside: self.endpoint(want),
        })
    }

    fn is_ours(&self, address: Ipv4Addr, _: u16) -> bool {
        address == Ipv4Addr::from(OURS)
    }
}

/// A call with its parties.
struct Call {
    session: Session,
    ports: Places,
    caller: Reach,
    callee: Reach,
    commands: Vec<Command>,
    passed: Passed,
}

fn reach(signalling: &str) -> Reach {
    Reach {
        signalling: signalling.parse().unwrap(),
        behind_nat: signalling == ALICE || signalling == BOB,
        device: true,
        trusted: false,
    }
}

impl Call {
    fn new(caller: &str, callee: &str) -> Call {
        Call::with(policy(), caller, callee)
    }

    fn with(policy: Policy, caller: &str, callee: &str) -> Call {
        Call {
            session: Session::new(policy, false),
            ports: Places::new(),
            caller: reach(caller),
            callee: reach(callee),
            commands: Vec::new(),
            passed: Passed::default(),
        }
    }

    /// Passes `INVITE` or `200 INVITE` with a description (or without); what comes out of it. `tag`: the callee's, with the fork before it.
    fn pass(&mut self, from: Side, line: &str, tag: &str, sdp: &str) -> Result<String, Refusal> {
        let (fork, tag) = tag.split_once('/').unwrap_or(("0", tag));
        let start = match line.split_once(' ') {
            Some((code, method)) => format!("SIP/2.0 {code} x\r\nCSeq: 1 {method}\r\n"),
            None => format!("{line} sip:x SIP/2.0\r\nCSeq: 1 {line}\r\n"),
        };
        let kind = if sdp.is_empty() {
            ""
        } else {
            "Content-Type: application/sdp\r\n"
        };
        let message = Message::parse(Bytes::from(format!("{start}{kind}\r\n{sdp}"))).unwrap();
        let (sender, receiver) = match from {
            Side::Caller => (self.caller, self.callee),
            Side::Callee => (self.callee, self.caller),
        };
        let passing = Passing {
            message: &message,
            from,
            fork: fork.parse().unwrap(),
            tag: tag.as_bytes(),
            sender,
            receiver,
        };
        let mut edits = Edits::new();
        self.commands.clear();
        self.ports.opened.clear();
        let passed = self
            .session
            .passes(&passing, &mut self.ports, &mut edits, &mut self.commands);
        self.passed = passed?;
        let bytes = edits.apply(&message)[message.body_start() as usize..].to_vec();
        Ok(String::from_utf8(bytes).unwrap())
    }

    fn caller(&mut self, line: &str, tag: &str, sdp: &str) -> String {
        self.pass(Side::Caller, line, tag, sdp).unwrap()
    }

    fn callee(&mut self, line: &str, tag: &str, sdp: &str) -> String {
        self.pass(Side::Callee, line, tag, sdp).unwrap()
    }

    fn end(&mut self) -> &[Command] {
        self.commands.clear();
        self.session.end(&mut self.commands);
        assert_eq!(self.session.streams().count(), 0);
        &self.commands
    }
}

fn audio(address: &str, port: u16) -> String {
    format!("v=0\r\nc=IN IP4 {address}\r\nm=audio {port} RTP/AVP 8\r\n")
}

fn ours(port: u16) -> String {
    audio("203.0.113.1", port)
}

fn closed(gate: &str) -> Leg {
    Leg {
        gate: Some(gate.parse().unwrap()),
        fallback: None,
    }
}

fn at(address: [u8; 4], port: u16) -> Leg {
    let endpoint = Endpoint {
        address: address.into(),
        port,
        rtcp: Some(port + 1),
    };
    Leg {
        gate: Some(crate::config::Prefix::host(endpoint.address)),
        fallback: Some(endpoint),
    }
}

const PCMA: Expect = Expect {
    rtp: true,
    mux: false,
    stun: false,
    dtls: false,
    clock: 8000,
};

/// Two phones behind NATs, the relay's id is 20000, the alias of the caller 20000, that of the callee 20002.
fn call() -> Call {
    let mut call = Call::new(ALICE, BOB);
    assert_eq!(call.caller("INVITE", "", &audio("192.168.1.10", 4000)), ours(20002));
    assert_eq!(
        call.ports.opened,
        [Opened {
            id: RelayId(20000),
            legs: [closed(ALICE), closed(BOB)],
            expect: PCMA,
        }]
    );
    assert_eq!(call.callee("180 INVITE", "b", ""), "");
    assert_eq!(call.callee("200 INVITE", "b", &audio("10.0.0.2", 5000)), ours(20000));
    assert_eq!(call.commands, [], "where it is, its signalling has said already");
    assert_eq!(call.caller("ACK", "b", ""), "");
    call
}

#[test]
fn two_phones_behind_nats_get_a_relay() {
    let mut call = call();
    // A copy of the response is the same.
    assert_eq!(call.callee("200 INVITE", "b", &audio("10.0.0.2", 5000)), ours(20000));
    assert_eq!(call.commands, []);
    let stream = call.session.streams().next().unwrap();
    assert_eq!(
        (stream.codec, stream.held, stream.relay.unwrap().id),
        ("PCMA", false, RelayId(20000))
    );
    assert_eq!(call.end(), [Command::CloseRelay(RelayId(20000))]);
    let [alice, bob] = [ALICE, BOB].map(|address| End::Behind(address.parse().unwrap()));
    let want = Want {
        carrier: Carrier::Udp,
        rtcp: true,
        ends: [alice, bob],
        emergency: false,
    };
    assert_eq!(call.ports.wants, [want]);
}

#[test]
fn ends_that_reach_each_other_are_left_alone() {
    let mut call = Call::new("198.51.100.1", "198.51.100.2");
    let (offer, answer) = (audio("198.51.100.1", 4000), audio("198.51.100.2", 5000));
    assert_eq!(call.caller("INVITE", "", &offer), offer);
    assert_eq!(call.passed.left[..], [Left::Direct]);
    assert_eq!(call.callee("200 INVITE", "b", &answer), answer);
    assert_eq!(call.end(), []);
    let never = Policy {
        anchor: Anchor::Never,
        ..policy()
    };
    let mut call = Call::with(never, ALICE, BOB);
    assert_eq!(call.caller("INVITE", "", &offer), offer);
    let direct = Policy {
        same_nat: SameNat::Direct,
        ..policy()
    };
    let mut call = Call::with(direct, ALICE, ALICE);
    assert_eq!(call.caller("INVITE", "", &offer), offer);
}

#[test]
fn an_end_inside_gets_a_pinhole() {
    for (caller, callee) in [("192.168.1.10", "198.51.100.2"), ("198.51.100.2", "192.168.1.10")] {
        let mut call = Call::new(caller, callee);
        let (offer, answer) = (audio(caller, 4000), audio(callee, 5000));
        let inside = caller.starts_with("192");
        let told = call.caller("INVITE", "", &offer);
        assert_eq!(told, if inside { ours(20000) } else { offer });
        let told = call.callee("200 INVITE", "b", &answer);
        assert_eq!(told, if inside { answer } else { ours(20000) });
        assert_eq!(call.commands, []);
        assert_eq!(call.end(), [Command::ClosePinhole(PinholeId(20000))]);
    }
    // Both: each is reached from outside.
    let mut call = Call::new("192.168.1.10", "192.168.1.11");
    assert_eq!(call.caller("INVITE", "", &audio("192.168.1.10", 4000)), ours(20000));
    assert_eq!(
        call.callee("200 INVITE", "b", &audio("192.168.1.11", 5000)),
        ours(20002)
    );
    // One moves to another port: the old hole is closed when the new one is agreed.
    assert_eq!(call.caller("INVITE", "b", &audio("192.168.1.10", 4010)), ours(20004));
    assert_eq!(call.commands, []);
    assert_eq!(
        call.callee("200 INVITE", "b", &audio("192.168.1.11", 5000)),
        ours(20002)
    );
    assert_eq!(call.commands, [Command::ClosePinhole(PinholeId(20000))]);
    // A move that is refused leaves what there is.
    assert_eq!(call.callee("INVITE", "b", &audio("192.168.1.11", 5010)), ours(20006));
    assert_eq!(call.caller("488 INVITE", "b", ""), "");
    assert_eq!(call.commands, [Command::ClosePinhole(PinholeId(20006))]);
    assert_eq!(call.end().len(), 2);
    // A hole for somebody else is none.
    let mut call = Call::new("192.168.1.10", "198.51.100.2");
    assert_eq!(call.caller("INVITE", "", &audio("192.168.1.99", 4000)), ours(20002));
    assert_eq!(call.ports.opened[0].legs[0], closed("192.168.1.10"));
}

#[test]
fn a_new_offer_counts_when_it_is_answered() {
    let mut call = call();
    // The same once more (a session timer's refresh): nothing.
    assert_eq!(call.caller("INVITE", "b", &audio("192.168.1.10", 4000)), ours(20002));
    assert_eq!(call.callee("200 INVITE", "b", &audio("10.0.0.2", 5000)), ours(20000));
    assert_eq!(call.commands, []);
    // To a new port, by either side.
    assert_eq!(call.callee("INVITE", "b", &audio("10.0.0.2", 5002)), ours(20000));
    assert_eq!(call.commands, []);
    assert_eq!(
        call.caller("200 INVITE", "b", &audio("192.168.1.10", 4000)),
        ours(20002)
    );
    let rearm = Command::Rearm {
        relay: RelayId(20000),
        side: Side::Callee,
        leg: closed(BOB),
        relatch: true,
    };
    assert_eq!(call.commands, [rearm]);
    // Refused: as if it had not been.
    call.caller("UPDATE", "b", &audio("192.168.1.10", 4444));
    call.callee("491 UPDATE", "b", "");
    assert_eq!(call.commands, []);
    let more = format!("{}m=video 4008 RTP/AVP 31\r\n", audio("192.168.1.10", 4000));
    call.caller("INVITE", "b", &more);
    assert_eq!(call.ports.opened.len(), 1);
    call.callee("488 INVITE", "b", "");
    assert_eq!(call.commands, [Command::CloseRelay(RelayId(20004))]);
    // From another network: a new gate.
    call.caller.signalling = "198.51.100.77".parse().unwrap();
    call.caller("UPDATE", "b", &audio("192.168.1.10", 4000));
    call.callee("200 UPDATE", "b", &audio("10.0.0.2", 5002));
    let rearm = Command::Rearm {
        relay: RelayId(20000),
        side: Side::Caller,
        leg: closed("198.51.100.77"),
        relatch: true,
    };
    assert_eq!(call.commands, [rearm]);
}

#[test]
fn hold_and_resume_keep_the_places() {
    let hold = |held| Command::Hold {
        relay: RelayId(20000),
        held,
    };
    let mut call = call();
    let old = audio("0.0.0.0", 4000);
    assert_eq!(call.caller("INVITE", "b", &old), audio("0.0.0.0", 20002));
    assert_eq!(call.callee("200 INVITE", "b", &audio("10.0.0.2", 5000)), ours(20000));
    assert_eq!(call.commands, [hold(true)]);
    call.caller("INVITE", "b", &audio("192.168.1.10", 4000));
    call.callee("200 INVITE", "b", &audio("10.0.0.2", 5000));
    assert_eq!(call.commands, [hold(false)]);
    let new = |text: String, attribute| format!("{text}a={attribute}\r\n");
    let told = call.callee("INVITE", "b", &new(audio("10.0.0.2", 5000), "sendonly"));
    assert_eq!(told, new(ours(20000), "sendonly"));
    call.caller("200 INVITE", "b", &new(audio("192.168.1.10", 4000), "recvonly"));
    assert_eq!(call.commands, [hold(true)]);
}

#[test]
fn delayed_offers_in_both_forms() {
    let mut call = Call::new(ALICE, "198.51.100.99");
    assert_eq!(call.caller("INVITE", "", ""), "");
    assert_eq!(call.commands, []);
    assert_eq!(
        call.callee("200 INVITE", "b", &audio("198.51.100.99", 5000)),
        ours(20000)
    );
    let opened = Opened {
        id: RelayId(20000),
        legs: [closed(ALICE), at([198, 51, 100, 99], 5000)],
        expect: PCMA,
    };
    assert_eq!(call.ports.opened, [opened]);
    assert_eq!(call.caller("ACK", "b", &audio("192.168.1.10", 4000)), ours(20002));
    assert_eq!(call.commands, []);
    assert_eq!(call.end(), [Command::CloseRelay(RelayId(20000))]);

    let mut call = Call::new(ALICE, BOB);
    call.caller("INVITE", "", "");
    assert_eq!(call.callee("183 INVITE", "b", &audio("10.0.0.2", 5000)), ours(20000));
    assert_eq!(call.caller("PRACK", "b", &audio("192.168.1.10", 4000)), ours(20002));
    call.callee("200 PRACK", "b", "");
    call.callee("200 INVITE", "b", "");
    assert_eq!(call.commands, []);
    assert_eq!(call.session.streams().count(), 1);
}

#[test]
fn each_fork_has_its_own_places_and_each_dialog_its_own_answer() {
    let mut call = Call::new(ALICE, BOB);
    let offer = audio("192.168.1.10", 4000);
    assert_eq!(call.caller("INVITE", "0/", &offer), ours(20002));
    assert_eq!(call.caller("INVITE", "1/", &offer), ours(20006));
    // The first forks again at its home: a gateway with early media, and a phone.
    call.callee.behind_nat = false;
    assert_eq!(
        call.callee("183 INVITE", "0/gateway", &audio("198.51.100.50", 5000)),
        ours(20000)
    );
    let rearm = |leg, relatch| Command::Rearm {
        relay: RelayId(20000),
        side: Side::Callee,
        leg,
        relatch,
    };
    assert_eq!(call.commands, [rearm(at([198, 51, 100, 50], 5000), false)]);
    assert_eq!(
        call.callee("183 INVITE", "0/phone", &audio("198.51.100.60", 6000)),
        ours(20000)
    );
    assert_eq!(call.commands, [rearm(at([198, 51, 100, 60], 6000), true)]);
    // The gateway is the one that is answered, and says nothing again, for its 183 was reliable.
    call.callee("200 INVITE", "0/gateway", "");
    assert_eq!(call.commands, [rearm(at([198, 51, 100, 50], 5000), true)]);
    call.commands.clear();
    call.session.fork_ended(1, &mut call.commands);
    assert_eq!(call.commands, [Command::CloseRelay(RelayId(20004))]);
    assert_eq!(call.end(), [Command::CloseRelay(RelayId(20000))]);
}

#[test]
fn streams_come_and_go() {
    let mut call = call();
    let with_fax =
        |address: &str, audio_port, fax| format!("{}m=image {fax} udptl t38\r\n", audio(address, audio_port));
    let told = call.caller("INVITE", "b", &with_fax("192.168.1.10", 0, 4002));
    assert_eq!(told, with_fax("203.0.113.1", 0, 20006));
    assert_eq!(
        call.ports
            .opened
            .iter()
            .map(|opened| opened.expect.rtp)
            .collect::<Vec<_>>(),
        [false]
    );
    let told = call.callee("200 INVITE", "b", &with_fax("10.0.0.2", 0, 5002));
    assert_eq!(told, with_fax("203.0.113.1", 0, 20004));
    assert_eq!(call.commands, [Command::CloseRelay(RelayId(20000))]);
    // A second one that is refused gets no place for long.
    let two = format!("{}m=video 4008 RTP/AVP 31\r\n", with_fax("192.168.1.10", 0, 4002));
    call.caller("INVITE", "b", &two);
    assert_eq!(
        call.ports.opened.iter().map(|opened| opened.id).collect::<Vec<_>>(),
        [RelayId(20008)]
    );
    call.callee(
        "200 INVITE",
        "b",
        &format!("{}m=video 0 RTP/AVP 31\r\n", with_fax("10.0.0.2", 0, 5002)),
    );
    assert_eq!(call.commands, [Command::CloseRelay(RelayId(20008))]);
    assert_eq!(call.end(), [Command::CloseRelay(RelayId(20004))]);
}

#[test]
fn a_bundle_has_one_transport() {
    let mut call = Call::new(ALICE, BOB);
    let bundle = |address: &str, ports: [u16; 2]| {
        let line = |kind, port, mid| format!("m={kind} {port} UDP/TLS/RTP/SAVPF 96\r\na=mid:{mid}\r\na=rtcp-mux\r\n");
        let [audio, video] = ports;
        let lines = line("audio", audio, 0) + &line("video", video, 1);
        format!("v=0\r\na=group:BUNDLE 0 1\r\nc=IN IP4 {address}\r\na=fingerprint:sha-256 00\r\n{lines}")
    };
    let told = call.caller("INVITE", "", &bundle("192.168.1.10", [4000, 4002]));
    assert_eq!(told, bundle("203.0.113.1", [20002, 20006]));
    let told = call.callee("200 INVITE", "b", &bundle("10.0.0.2", [5000, 5000]));
    assert_eq!(told, bundle("203.0.113.1", [20000, 20000]));
    let expect = Expect {
        mux: true,
        dtls: true,
        clock: 0,
        ..PCMA
    };
    assert_eq!(call.commands, [Command::CloseRelay(RelayId(20004))]);
    assert_eq!(call.session.streams().next().unwrap().expect, expect);
    // From now on offers have it in one place too.
    let told = call.callee("INVITE", "b", &bundle("10.0.0.2", [5000, 5000]));
    assert_eq!(told, bundle("203.0.113.1", [20000, 20000]));
    call.caller("200 INVITE", "b", &bundle("192.168.1.10", [4000, 4000]));
    assert_eq!(call.commands, []);
    assert_eq!(call.end(), [Command::CloseRelay(RelayId(20000))]);
}

/// A stream that is to be carried by something else is another one, and the old one goes on if that is refused.
#[test]
fn another_carrier_is_another_stream() {
    let mut call = Call::new("192.168.1.10", "198.51.100.2");
    call.caller("INVITE", "", &audio("192.168.1.10", 4000));
    call.callee("200 INVITE", "b", &audio("198.51.100.2", 5000));
    let tcp = |address: &str, port| format!("v=0\r\nc=IN IP4 {address}\r\nm=message {port} TCP/MSRP *\r\n");
    assert_eq!(
        call.caller("INVITE", "b", &tcp("192.168.1.10", 7000)),
        tcp("203.0.113.1", 20002)
    );
    call.callee("488 INVITE", "b", "");
    assert_eq!(call.commands, [Command::ClosePinhole(PinholeId(20002))]);
    assert_eq!(
        call.caller("INVITE", "b", &tcp("192.168.1.10", 7000)),
        tcp("203.0.113.1", 20004)
    );
    call.callee("200 INVITE", "b", &tcp("198.51.100.2", 7000));
    assert_eq!(call.commands, [Command::ClosePinhole(PinholeId(20000))]);
    assert_eq!(call.end(), [Command::ClosePinhole(PinholeId(20004))]);
}

#[test]
fn what_is_left_as_it_is() {
    let mut call = Call::new(ALICE, BOB);
    let sdp = "v=0\r\nc=IN IP4 192.168.1.10\r\nm=message 7000 TCP/MSRP *\r\nm=video 49170/2 RTP/AVP 31\r\n\
        m=audio 4000 RTP/AVP 0\r\nc=IN IP6 2001:db8::1\r\nm=audio 4000 RTP/AVP 0\r\nc=IN IP4 224.2.1.1/127\r\nm=x 1 ATM 0\r\n";
    assert_eq!(call.caller("INVITE", "", sdp), sdp);
    let left = [Left::Tcp, Left::PortRange, Left::Ipv6, Left::Multicast, Left::Transport];
    assert_eq!(call.passed.left[..], left);
    assert_eq!(call.caller("INVITE", "", "no SDP"), "no SDP");
    assert_eq!(call.passed.left[..], [Left::Unreadable(Unreadable::NotSdp)]);
    assert_eq!(call.end(), []);
    // Through our own NAT, TCP gets a hole, unless it connects by itself.
    for (setup, told) in [("passive", 20000), ("active", 7000)] {
        let mut call = Call::new("192.168.1.10", "198.51.100.2");
        let msrp = |address: &str, port| {
            format!("v=0\r\nc=IN IP4 {address}\r\nm=message {port} TCP/MSRP *\r\na=setup:{setup}\r\n")
        };
        let address = if told == 7000 { "192.168.1.10" } else { "203.0.113.1" };
        assert_eq!(
            call.caller("INVITE", "", &msrp("192.168.1.10", 7000)),
            msrp(address, told)
        );
    }
}

#[test]
fn lies_are_refused_or_left_alone() {
    for (address, lie) in [
        ("127.0.0.1", Lie::Unusable),
        ("255.255.255.255", Lie::Unusable),
        ("0.0.0.1", Lie::Unusable),
        ("203.0.113.1", Lie::Ours),
    ] {
        let mut call = Call::new(ALICE, BOB);
        // What came before it in the same offer is given back.
        let sdp = format!(
            "{}m=audio 4000 RTP/AVP 0\r\nc=IN IP4 {address}\r\n",
            audio("192.168.1.10", 4)
        );
        let refused = call.pass(Side::Caller, "INVITE", "", &sdp);
        assert_eq!(refused, Err(Refusal::unacceptable(Why::Lie(lie))), "{address}");
        assert_eq!(call.commands.last(), Some(&Command::CloseRelay(RelayId(20000))));
        assert_eq!(call.end(), []);
        // Nobody can refuse an answer: it passes, and its stream ends.
        call.caller("INVITE", "", &audio("192.168.1.10", 4));
        assert_eq!(call.callee("200 INVITE", "b", &audio(address, 5)), audio(address, 5));
        assert_eq!(call.passed.left[..], [Left::Lie(lie)]);
        assert!(matches!(call.commands[..], [Command::CloseRelay(_)]));
    }
    let mut call = Call::new(ALICE, BOB);
    let many = format!("v=0\r\nc=IN IP4 10.0.0.1\r\n{}", "m=audio 4 RTP/AVP 0\r\n".repeat(17));
    let refused = call.pass(Side::Caller, "INVITE", "", &many).unwrap_err();
    assert_eq!(
        (refused.code, refused.why),
        (488, Why::Unreadable(Unreadable::TooManyMedia))
    );
}

#[test]
fn without_ports_new_calls_are_refused_and_running_ones_go_on() {
    let mut call = call();
    call.ports.left = 1;
    let two = |port| {
        format!(
            "{}m=video {port} RTP/AVP 31\r\nm=video 9 RTP/AVP 31\r\n",
            audio("192.168.1.10", 4000)
        )
    };
    let refused = call.pass(Side::Caller, "INVITE", "b", &two(4008)).unwrap_err();
    assert_eq!((refused.code, refused.why), (503, Why::Exhausted(Exhausted)));
    assert_eq!(call.commands.last(), Some(&Command::CloseRelay(RelayId(20004))));
    assert_eq!(call.caller("INVITE", "b", &audio("192.168.1.10", 4000)), ours(20002));
    call.callee("200 INVITE", "b", &audio("10.0.0.2", 5000));
    assert_eq!(call.commands, []);
    // An answer that needs a hole passes without.
    let mut call = Call::new("198.51.100.2", "192.168.1.10");
    call.ports.left = 0;
    call.caller("INVITE", "", &audio("198.51.100.2", 4000));
    let answer = audio("192.168.1.10", 5000);
    assert_eq!(call.callee("200 INVITE", "b", &answer), answer);
    assert_eq!(call.passed.left[..], [Left::Exhausted]);
}

/// A message of a random call: who sends it, what it is, whose dialog, and its ports.
fn message() -> impl Strategy<Value = (bool, &'static str, &'static str, Vec<(u16, u8)>)> {
    let lines = prop::sample::select(vec![
        "INVITE",
        "180 INVITE",
        "183 INVITE",
        "200 INVITE",
        "486 INVITE",
        "ACK",
        "PRACK",
        "200 PRACK",
        "UPDATE",
        "200 UPDATE",
        "491 UPDATE",
    ]);
    let tags = prop::sample::select(vec!["0/", "1/", "a", "b", "1/c"]);
    let media = prop::collection::vec((prop::sample::select(vec![0u16, 4000, 4002, 4004]), 0..4u8), 0..4);
    (any::<bool>(), lines, tags, media)
}

proptest! {
    /// Whatever is said in whatever order: every place is opened and closed once, nothing is said of a place that is closed, and in the end
    /// none is left.
    #[test]
    fn no_place_is_lost(
        messages in prop::collection::vec(message(), 1..40),
        inside in any::<bool>(),
        left in prop_oneof![Just(1000u32), 0..6u32],
    ) {
        let mut call = if inside { Call::new("192.168.1.10", "198.51.100.2") } else { Call::new(ALICE, BOB) };
        call.ports.left = left;
        let mut open = BTreeSet::new();
        let mut closed = BTreeSet::new();
        for (caller, line, tag, media) in messages {
            let side = if caller { Side::Caller } else { Side::Callee };
            let mut sdp = String::new();
            for (place, (port, kind)) in media.iter().enumerate() {
                if place == 0 {
                    sdp.push_str(&format!("v=0\r\na=group:BUNDLE 0 1\r\nc=IN IP4 {}\r\n", if caller { "192.168.1.10" } else { "10.0.0.2" }));
                }
                let proto = ["RTP/AVP", "udptl", "TCP/MSRP", "UDP/TLS/RTP/SAVPF"][usize::from(*kind)];
                sdp.push_str(&format!("m=x {port} {proto} 0\r\na=mid:{place}\r\n"));
            }
            let _ = call.pass(side, line, tag, &sdp);
            open.extend(call.ports.opened.iter().map(|opened| opened.id));
            for command in &call.commands {
                check(command, &mut open, &mut closed)?;
            }
        }
        for command in call.end() {
            check(command, &mut open, &mut closed)?;
        }
        prop_assert!(open.is_empty(), "{:?}", open);
        let asked = call.ports.wants.len();
        let given = if call.ports.left == 0 { asked.min(left as usize) } else { asked };
        prop_assert_eq!(closed.len(), given);
    }
}

/// A command is for a place that is open; what it closes was not closed before.
fn check(command: &Command, open: &mut BTreeSet<RelayId>, closed: &mut BTreeSet<u64>) -> Result<(), TestCaseError> {
    match command {
        Command::CloseRelay(relay) => prop_assert!(open.remove(relay) && closed.insert(relay.0), "{:?}", command),
        Command::ClosePinhole(hole) => prop_assert!(closed.insert(hole.0), "{:?}", command),
        Command::Rearm { relay, .. } | Command::Expect { relay, .. } | Command::Hold { relay, .. } => {
            prop_assert!(open.contains(relay), "{:?}", command);
        }
    }
    Ok(())
}

//! Calls over a network that loses messages, with a caller, a callee and a proxy that all retransmit: whatever is lost, the caller
//! gets one final response, and nothing stays behind.

use std::collections::{BTreeMap, HashSet, VecDeque};

use proptest::prelude::*;

use super::*;

/// What the callee does.
#[derive(Clone, Copy, Debug)]
struct Scene {
    seed: u64,
    /// Messages lost, in percent.
    loss: u64,
    code: u16,
    /// When it answers.
    rings_ms: u64,
    /// When the caller cancels.
    cancels_ms: Option<u64>,
    invite: bool,
}

fn scenes() -> impl Strategy<Value = Scene> {
    let code = prop::sample::select(vec![200u16, 486, 603, 302]);
    let cancels = prop::option::of(100u64..6000);
    (any::<u64>(), 0u64..45, code, 0u64..5000, cancels, any::<bool>()).prop_map(
        |(seed, loss, code, rings_ms, cancels_ms, invite)| Scene {
            seed,
            loss,
            code,
            rings_ms,
            cancels_ms,
            invite,
        },
    )
}

/// Something that one of the two does at a moment.
#[derive(Clone, Debug)]
enum Event {
    ToProxy(Flow, String),
    ToPhone(String),
    ToCaller(String),
    /// The caller's request again, after so many milliseconds the next time.
    Again(u64),
    Cancel(u64),
    /// The callee gives its final response, or gives it again.
    Final(u64),
}

struct Net {
    world: World,
    queue: BTreeMap<(u64, u64), Event>,
    count: u64,
    random: u64,
    scene: Scene,
    start: u64,
    // The caller.
    heard: bool,
    finals: HashSet<u16>,
    cancelled: bool,
    cancel_answered: bool,
    // The phone.
    invite: Option<Sent>,
    code: u16,
    final_given: bool,
    acknowledged: bool,
}

const CALLER: &str = "134.56.9.9:5060";
const PHONE: &str = "134.56.1.1:5070";

impl Net {
    fn new(scene: Scene) -> Net {
        let mut world = World::new(|_| {});
        world.register(
            "user@net.com",
            vec![found("sip:user@192.168.1.10:5060", udp(PHONE), true, 1000)],
        );
        let start = world.now.0;
        let mut net = Net {
            world,
            queue: BTreeMap::new(),
            count: 0,
            random: scene.seed | 1,
            scene,
            start,
            heard: false,
            finals: HashSet::new(),
            cancelled: false,
            cancel_answered: false,
            invite: None,
            code: scene.code,
            final_given: false,
            acknowledged: false,
        };
        net.at(0, Event::Again(500));
        if let Some(cancels) = scene.cancels_ms.filter(|_| scene.invite) {
            net.at(cancels, Event::Cancel(500));
        }
        net
    }

    fn at(&mut self, after: u64, event: Event) {
        self.count += 1;
        self.queue.insert((self.world.now.0 + after, self.count), event);
    }

    fn lost(&mut self) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % 100 < self.scene.loss
    }

    fn ask(&self, method: &str, to: &str, branch: &str, more: &str, uri: &str) -> String {
        Ask {
            method,
            to,
            via: &format!("SIP/2.0/UDP {CALLER};branch=z9hG4bK{branch}"),
            more,
            uri,
            ..Ask::default()
        }
        .text()
    }

    fn method(&self) -> &'static str {
        if self.scene.invite { "INVITE" } else { "MESSAGE" }
    }

    fn sends(&mut self, from: &str, text: String) {
        if !self.lost() {
            self.at(10, Event::ToProxy(udp(from), text));
        }
    }

    fn deliver(&mut self, out: Vec<Sent>) {
        for sent in out {
            if self.lost() {
                continue;
            }
            let text = sent.text().to_owned();
            if sent.remote() == addr(CALLER) {
                self.at(10, Event::ToCaller(text));
            } else {
                self.at(10, Event::ToPhone(text));
            }
        }
    }

    fn run(mut self) -> World {
        loop {
            let event = self.queue.keys().next().copied();
            let timer = self.world.core.next().map(|next| next.0.max(self.world.now.0));
            let end = self.start + 400_000;
            match (event, timer) {
                (Some((at, _)), timer) if timer.is_none_or(|timer| at <= timer) => {
                    self.world.now = Time(at);
                    if let Some((_, event)) = self.queue.pop_first() {
                        self.happen(event);
                    }
                }
                (_, Some(timer)) if timer <= end => {
                    let step = Duration::from_millis(timer - self.world.now.0);
                    let out = self.world.pass(step);
                    self.deliver(out);
                }
                _ => break,
            }
        }
        // A caller that has heard nothing at all has given up by itself.
        assert!(self.finals.len() <= 1, "{:?}: {:?}", self.scene, self.finals);
        if self.scene.loss == 0 {
            assert_eq!(self.finals.len(), 1);
        }
        self.world
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::ToProxy(flow, text) => {
                let out = self.world.receive(flow, &text);
                self.deliver(out);
            }
            Event::Again(interval) => {
                let elapsed = self.world.now.0 - self.start;
                let stop = !self.finals.is_empty() || (self.scene.invite && self.heard) || elapsed >= 32_000;
                if !stop {
                    let text = self.ask(self.method(), "<sip:user@net.com>", "request", "", "sip:user@net.com");
                    self.sends(CALLER, text);
                    let next = if self.scene.invite {
                        interval * 2
                    } else {
                        (interval * 2).min(4000)
                    };
                    self.at(interval, Event::Again(next));
                }
            }
            Event::Cancel(interval) => {
                let elapsed = self.world.now.0 - self.start;
                if self.finals.is_empty() && !self.cancel_answered && elapsed < 45_000 {
                    if self.heard {
                        self.cancelled = true;
                        let text = self.ask("CANCEL", "<sip:user@net.com>", "request", "", "sip:user@net.com");
                        self.sends(CALLER, text);
                    }
                    self.at(interval, Event::Cancel((interval * 2).min(4000)));
                }
            }
            Event::ToCaller(text) => self.caller(&text),
            Event::ToPhone(text) => self.phone(text),
            Event::Final(interval) => self.final_response(interval),
        }
    }

    fn caller(&mut self, text: &str) {
        let message = Message::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap();
        let code = message.code().unwrap();
        if message.value(HeaderName::CSeq).unwrap().ends_with(b"CANCEL") {
            self.cancel_answered |= code >= 200;
            return;
        }
        self.heard = true;
        if code < 200 {
            return;
        }
        self.finals.insert(code);
        if !self.scene.invite {
            return;
        }
        let to = String::from_utf8_lossy(message.value(HeaderName::To).unwrap()).into_owned();
        let ack = if code < 300 {
            let ok = Sent {
                to: Destination::Flow(udp(CALLER)),
                bytes: message.bytes().clone(),
                message,
            };
            self.ask("ACK", &to, "ack", &route_set(&ok, true), &contact(&ok))
        } else {
            self.ask("ACK", &to, "request", "", "sip:user@net.com")
        };
        self.sends(CALLER, ack);
    }

    fn phone(&mut self, text: String) {
        let bytes = Bytes::from(text);
        let message = Message::parse(bytes.clone()).unwrap();
        let sent = Sent {
            to: Destination::Flow(udp(PHONE)),
            bytes,
            message,
        };
        match &*sent.what() {
            "ACK" => self.acknowledged = true,
            "CANCEL" => {
                let answer = reply(&sent, 200, "phone", "");
                self.sends(PHONE, answer);
                if !self.final_given {
                    self.code = 487;
                    self.at(0, Event::Final(500));
                }
            }
            _ => {
                let provisional = (self.scene.invite && !self.final_given).then(|| reply(&sent, 180, "phone", ""));
                let first = self.invite.is_none();
                self.invite = Some(sent);
                if let Some(provisional) = provisional {
                    self.sends(PHONE, provisional);
                }
                if first {
                    self.at(self.scene.rings_ms, Event::Final(500));
                } else if self.final_given {
                    self.give();
                }
            }
        }
    }

    fn final_response(&mut self, interval: u64) {
        // The scheduled answer of a call that was cancelled meanwhile, or that was acknowledged.
        if self.acknowledged || (self.final_given && interval == 500) {
            return;
        }
        self.final_given = true;
        self.give();
        if self.scene.invite && interval < 40_000 {
            self.at(interval, Event::Final(interval * 2));
        }
    }

    fn give(&mut self) {
        if let Some(invite) = &self.invite {
            let text = reply(invite, self.code, "phone", "Contact: <sip:user@192.168.1.10:5060>\n");
            self.sends(PHONE, text);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn one_final_response_and_nothing_stays(scene in scenes()) {
        let world = Net::new(scene).run();
        let (servers, clients) = world.core.transactions();
        prop_assert_eq!((servers, clients, world.core.contexts()), (0, 0, 0));
        // An answered call goes on.
        prop_assert!(world.core.dialogs().calls() <= 1);
    }
}

/// New calls beyond the limit are shed, and those that nobody answers end.
#[test]
fn a_flood_leaves_nothing() {
    let mut world = World::new(|config| config.limits.transactions = 100);
    world.register(
        "user@net.com",
        vec![found("sip:user@192.168.1.10:5060", udp(PHONE), true, 1000)],
    );
    let mut codes: VecDeque<String> = VecDeque::new();
    for number in 0..200 {
        let via = format!("SIP/2.0/UDP {CALLER};branch=z9hG4bK{number}");
        let call = format!("call-{number}");
        let ask = Ask {
            via: &via,
            call: &call,
            ..Ask::default()
        };
        codes.extend(whats(&world.receive(udp(CALLER), &ask.text())).into_iter().take(1));
    }
    assert_eq!(codes.iter().filter(|code| *code == "100").count(), 95);
    assert_eq!(codes.iter().filter(|code| *code == "503").count(), 105);
    world.pass(Duration::from_secs(400));
    world.assert_idle();
    assert_eq!(world.core.dialogs().calls(), 0);
}

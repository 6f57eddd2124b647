//! Calls live longer than the daemon, and no longer than their media.

use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::lab::EXTERNAL;
use tests::prelude::*;
use tests::programs::TempDir;
use tests::sip::server::Server;
use tests::sip::talk::{Call, Party, Refused, Stage};

use crate::DOMAIN;

/// Two hosts outside whose calls all go through the relay of the router's sipnat.
pub struct Scene {
    pub nat: RunningNat,
    pub stage: Stage,
    _lab: Lab,
    _files: TempDir,
}

impl Scene {
    /// With these lines of `[sip.media]`, and further sections. Lifetimes are a tenth of what they say.
    pub fn new(media: &str, more: &str) -> Scene {
        let lab = Lab::builder().inside_hosts(0).outside_hosts(2).build().unwrap();
        let files = TempDir::new().unwrap();
        let config = Server::config(DOMAIN)
            .line("trusted = [\"203.0.113.0/24\"]")
            .toml(&format!("[sip.media]\nanchor = \"always\"\n{media}\n{more}"));
        let text = config.text(EXTERNAL, &files).unwrap();
        let nat = NatConfig::toml(&text).lifetime_scale(0.1);
        let nat = lab.start_nat_as(Nat::Sipnat, nat).unwrap();
        let stage = Stage::new(SocketAddrV4::new(EXTERNAL, 5060), DOMAIN, lab.o(1), lab.o(2)).unwrap();
        Scene {
            nat,
            stage,
            _lab: lab,
            _files: files,
        }
    }

    pub fn list(&self, command: &str) -> Vec<Value> {
        self.nat.json(&[command]).unwrap().as_array().unwrap().clone()
    }

    /// Kills the daemon and starts it again, while all these calls talk on. Says how many packets they exchanged meanwhile.
    pub fn kill_and_restart(&mut self, calls: &[Call], round: &mut u16) -> usize {
        let Scene { nat, stage, .. } = self;
        let (restarted, mut packets) = (AtomicBool::new(false), 0);
        thread::scope(|scope| {
            let restart = scope.spawn(|| {
                nat.kill9();
                let result = nat.restart();
                restarted.store(true, Ordering::Release);
                result
            });
            let mut after = 0;
            while after < 2 {
                after += usize::from(restarted.load(Ordering::Acquire));
                *round += 1;
                packets += stage.exchange(calls, *round).unwrap();
                thread::sleep(Duration::from_millis(20));
            }
            restart.join().unwrap().unwrap();
        });
        packets
    }

    /// Exchanges media until what has happened is stored: that takes about a second.
    pub fn talk_until_stored(&self, calls: &[Call], round: &mut u16) {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(4) {
            *round += 1;
            self.stage.exchange(calls, *round).unwrap();
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The daemon is killed while 500 calls talk. No packet is lost; the next daemon knows the calls: a new offer finds its places, BYE ends
/// legs and dialogs, silence ends a call with BYEs to both sides, and a session timer one of which nothing else is heard.
#[test]
fn five_hundred_calls_survive_the_daemon() {
    let mut scene = Scene::new("timeout = \"80s\"\nreserve = 0", "");
    let mut calls: Vec<Call> = (0..499).map(|_| scene.stage.call(&[]).unwrap()).collect();
    let timer = ["Require: timer", "Session-Expires: 30;refresher=uac"];
    calls.push(scene.stage.call(&timer).unwrap());
    let mut round = 0;
    scene.talk_until_stored(&calls, &mut round);
    assert_eq!(scene.list("relays").len(), 500 * 4);
    let packets = scene.kill_and_restart(&calls, &mut round);
    assert!(packets >= 2 * 2 * 500, "{packets}");

    let known = scene.list("calls");
    assert_eq!(known.len(), 500);
    assert!(known.iter().all(|call| call["state"] == "confirmed"), "{:?}", known[0]);
    // Offers of both sides, on hold and off it again.
    for by in [Party::Caller, Party::Callee] {
        let places = calls[0].places;
        for direction in ["sendonly", "sendrecv"] {
            scene.stage.offer(&mut calls[0], by, direction).unwrap();
            assert_eq!(calls[0].places, places);
            let held = scene.list("relays").iter().filter(|leg| leg["hold"] == true).count();
            assert_eq!(held, if direction == "sendonly" { 4 } else { 0 });
        }
    }
    round += 1;
    scene.stage.exchange(&calls, round).unwrap();

    let with_timer = calls.pop().unwrap();
    let silent = calls.pop().unwrap();
    for (at, call) in calls.into_iter().enumerate() {
        let by = if at % 2 == 0 { Party::Caller } else { Party::Callee };
        scene.stage.bye(call, by).unwrap();
    }
    wait_until("the legs of calls that are over to go", SOON, || {
        scene.list("relays").len() <= 2 * 4
    })
    .unwrap();
    // One call talks on, the other one is silent and ends.
    let mut ended = [vec![], vec![]];
    wait_until(
        "a BYE to both sides of the silent call",
        Duration::from_secs(60),
        || {
            round += 1;
            scene.stage.exchange([&with_timer], round).unwrap();
            for (ended, party) in ended.iter_mut().zip([Party::Caller, Party::Callee]) {
                ended.extend(scene.stage.hung_up(party).unwrap());
            }
            ended.iter().all(|ended| !ended.is_empty())
        },
    )
    .unwrap();
    assert_eq!(ended, [[silent.id()], [silent.id()]]);
    wait_until("the silent call to be over", SOON, || scene.list("calls").len() == 1).unwrap();
    assert_eq!(scene.list("calls")[0]["call_id"], with_timer.id());
    assert_eq!(scene.list("relays").len(), 4);
    // The other one ends 32 s after its session, although it talks.
    let start = Instant::now();
    while !scene.list("calls").is_empty() && start.elapsed() < Duration::from_secs(120) {
        thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(scene.list("calls"), Vec::<Value>::new());
    wait_until("the last legs to go", SOON, || scene.list("relays").is_empty()).unwrap();
    wait_until("all ports to have rested", Duration::from_secs(60), || {
        scene.list("blocks").iter().all(|block| block["ports_used"] == 0)
    })
    .unwrap();
}

/// There is no port left for a new call: it is told when to try again, calls that run go on, and an emergency gets what is kept for it.
#[test]
fn exhausted_media_ports_refuse_new_calls_only() {
    let mut scene = Scene::new(
        "reserve = 1",
        "[nat]\nrelay_legs = 12\n[[sip.route]]\nprefix = \"112\"\nto = [\"sip:203.0.113.101:5060\"]",
    );
    let calls: Vec<Call> = (0..2).map(|_| scene.stage.call(&[]).unwrap()).collect();
    scene.stage.exchange(&calls, 1).unwrap();
    let refused = scene.stage.ring().unwrap_err();
    let Some(Refused(answer)) = refused.downcast_ref() else {
        panic!("{refused:?}");
    };
    assert_eq!(answer.status(), Some(503));
    assert!(
        answer
            .header("Retry-After")
            .parse::<u32>()
            .is_ok_and(|seconds| seconds > 0)
    );
    scene.stage.exchange(&calls, 2).unwrap();

    let emergency = scene.stage.dial(&format!("sip:112@{DOMAIN}")).unwrap();
    let emergency = scene.stage.answer(emergency, &[]).unwrap();
    let all: Vec<Call> = calls.iter().cloned().chain([emergency]).collect();
    scene.stage.exchange(&all, 3).unwrap();
    assert_eq!(scene.list("relays").len(), 3 * 4);
    assert!(scene.stage.dial(&format!("sip:112@{DOMAIN}")).is_err(), "one was kept");
    // It is a call like others: another daemon knows it, and its end gives the reserve back.
    let mut round = 3;
    scene.talk_until_stored(&all, &mut round);
    scene.kill_and_restart(&all, &mut round);
    assert_eq!(scene.list("calls").len(), 3);
    for call in all {
        scene.stage.bye(call, Party::Caller).unwrap();
    }
    wait_until("the legs to go", SOON, || scene.list("relays").is_empty()).unwrap();
    let calls: Vec<Call> = (0..2).map(|_| scene.stage.call(&[]).unwrap()).collect();
    assert!(scene.stage.ring().is_err());
    round += 1;
    scene.stage.exchange(&calls, round).unwrap();
}

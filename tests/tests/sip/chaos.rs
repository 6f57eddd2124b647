//! Calls, cancels, holds, lost BYEs and a daemon that is killed again and again, at random: at any time each call that stands has its media, and at
//! the end nothing is left over.
//!
//! `SIPNAT_CHAOS_SECONDS` says for how long (default 40), `SIPNAT_CHAOS_SEED` repeats a run.

use std::collections::BTreeSet;
use std::env;
use std::thread;
use std::time::{Duration, Instant};

use tests::prelude::*;
use tests::sip::talk::{Call, Party};

use crate::lives::Scene;

/// Calls at one time.
const MOST: usize = 24;
/// Until what has happened is stored for sure.
const STORED: Duration = Duration::from_secs(4);

/// Numbers by a seed: xorshift (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % bound
    }

    fn party(&mut self) -> Party {
        [Party::Caller, Party::Callee][self.below(2)]
    }
}

struct Run {
    scene: Scene,
    random: Random,
    round: u16,
    calls: Vec<(Call, Instant)>,
    /// Calls that the daemon does not know, because it was killed a moment after they were answered. They talk on all the same.
    strangers: BTreeSet<String>,
    /// Calls of which nobody says anything any more.
    vanished: BTreeSet<String>,
    counts: [usize; 9],
}

impl Run {
    fn step(&mut self) {
        let kind = self.random.below(20);
        let place = self.random.below(self.calls.len().max(1));
        let (stage, random) = (&self.scene.stage, &mut self.random);
        let standing = !self.calls.is_empty();
        let count = match kind {
            0..=5 if self.calls.len() < MOST => {
                self.calls.push((stage.call(&[]).unwrap(), Instant::now()));
                0
            }
            6 => {
                stage.cancel(&stage.ring().unwrap()).unwrap();
                1
            }
            7 => {
                stage.reject(&stage.ring().unwrap()).unwrap();
                2
            }
            8..=10 if standing => {
                let directions = ["sendrecv", "sendonly", "inactive", "sendrecv"];
                let (by, direction) = (random.party(), directions[random.below(4)]);
                stage.offer(&mut self.calls[place].0, by, direction).unwrap();
                3
            }
            11..=13 if standing => {
                let (call, _) = self.calls.swap_remove(place);
                stage.bye(call, random.party()).unwrap();
                4
            }
            14 if standing => {
                // One on hold would wait for ever.
                let (mut call, _) = self.calls.swap_remove(place);
                stage.offer(&mut call, Party::Caller, "sendrecv").unwrap();
                self.vanished.insert(call.id().into());
                5
            }
            15 => {
                // Some of the dead answer.
                for party in [Party::Caller, Party::Callee] {
                    for ended in stage.hung_up(party).unwrap() {
                        assert!(self.vanished.contains(&ended), "{ended} was ended, and stands");
                    }
                }
                6
            }
            16 if self.counts[7] * 20 < self.counts.iter().sum() => {
                self.kill();
                7
            }
            _ => 8,
        };
        self.counts[count] += 1;
        self.probe();
        thread::sleep(Duration::from_millis(20));
    }

    /// Each call that stands has its media.
    fn probe(&mut self) {
        self.round = self.round.wrapping_add(1);
        let calls = self.calls.iter().map(|(call, _)| call);
        self.scene.stage.exchange(calls, self.round).unwrap();
    }

    fn kill(&mut self) {
        let killed = Instant::now();
        let calls: Vec<Call> = self.calls.iter().map(|(call, _)| call.clone()).collect();
        self.scene.kill_and_restart(&calls, &mut self.round);
        let known: BTreeSet<String> = self
            .scene
            .list("calls")
            .iter()
            .map(|call| call["call_id"].as_str().unwrap().to_string())
            .collect();
        for (call, since) in &self.calls {
            if !known.contains(call.id()) {
                let old = killed.duration_since(*since) > STORED;
                assert!(!old || self.strangers.contains(call.id()), "{} is forgotten", call.id());
                self.strangers.insert(call.id().into());
            }
        }
    }
}

#[test]
fn nothing_is_left_over_and_nothing_is_missing() {
    let variable = |name: &str, default: u64| env::var(name).map_or(default, |text| text.parse().unwrap());
    let seed = variable("SIPNAT_CHAOS_SEED", (u64::from(std::process::id()) * 0x9e37_79b9) | 1);
    let seconds = variable("SIPNAT_CHAOS_SECONDS", 40);
    println!("SIPNAT_CHAOS_SEED={seed} SIPNAT_CHAOS_SECONDS={seconds}");
    let mut run = Run {
        scene: Scene::new("timeout = \"60s\"\nreserve = 0", ""),
        random: Random(seed),
        round: 0,
        calls: Vec::new(),
        strangers: BTreeSet::new(),
        vanished: BTreeSet::new(),
        counts: [0; 9],
    };
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(seconds) {
        run.step();
    }
    println!(
        "calls, cancels, rejections, offers, BYEs, lost BYEs, looks at BYEs, kills, idle: {:?}; {} rounds of media",
        run.counts, run.round
    );
    for (call, _) in std::mem::take(&mut run.calls) {
        run.scene.stage.bye(call, Party::Callee).unwrap();
    }
    let scene = &run.scene;
    for command in ["calls", "dialogs", "relays", "bindings"] {
        let (what, mut left) = (format!("`sipnat {command}` to be empty"), Vec::new());
        let empty = wait_until(&what, Duration::from_secs(120), || {
            for party in [Party::Caller, Party::Callee] {
                scene.stage.hung_up(party).unwrap();
            }
            left = scene.list(command);
            left.is_empty()
        });
        let (vanished, strangers) = (&run.vanished, &run.strangers);
        assert!(
            empty.is_ok(),
            "{empty:?}: {left:?}\nvanished: {vanished:?}\nstrangers: {strangers:?}"
        );
    }
    wait_until("all ports to have rested", Duration::from_secs(60), || {
        scene.list("blocks").iter().all(|block| block["ports_used"] == 0)
    })
    .unwrap();
}

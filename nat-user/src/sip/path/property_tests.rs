//! Random schedules against what must always hold, and the evenness of prompts.

use std::collections::HashMap;

use proptest::prelude::*;

use super::{
    tests::{BEHIND_NAT, START, seconds, settings, tcp, udp},
    *,
};
use crate::sip::flow::ListenerId;

#[derive(Clone, Debug)]
enum Step {
    Hold(u8, Holder),
    Release(u8, Holder),
    Touch(u8),
    KeptAlive(u8),
    Closed(u8),
    Declares(u8, bool),
    Wait(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let path = 0u8..4;
    let holder = prop_oneof![
        Just(Holder::Registration),
        Just(Holder::Subscription),
        Just(Holder::Dialog)
    ];
    let step = prop_oneof![
        4 => (path.clone(), holder.clone()).prop_map(|(path, holder)| Step::Hold(path, holder)),
        4 => (path.clone(), holder).prop_map(|(path, holder)| Step::Release(path, holder)),
        4 => path.clone().prop_map(Step::Touch),
        1 => path.clone().prop_map(Step::KeptAlive),
        1 => path.clone().prop_map(Step::Closed),
        1 => (path, any::<bool>()).prop_map(|(path, keeps)| Step::Declares(path, keeps)),
        6 => (0u16..40_000).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..120)
}

/// Three paths over UDP and one connection, by number.
fn flow(number: u8) -> Flow {
    if number == 3 {
        tcp(1)
    } else {
        udp(u16::from(number) + 1)
    }
}

/// What is known of a path without looking at how the table works.
#[derive(Clone, Debug, Default)]
struct Model {
    held: HashMap<Holder, u32>,
    tail_until: Option<Time>,
    keeps_alive: bool,
    closed: bool,
    /// When something last came or went, or prompts began to be needed.
    last: Option<Time>,
    /// The number of the prompt that is out.
    out: Option<u32>,
    retransmissions: u32,
}

impl Model {
    fn count(&self, holder: Holder) -> u32 {
        self.held.get(&holder).copied().unwrap_or(0)
    }

    fn holders(&self, now: Time) -> bool {
        self.held.values().any(|count| *count > 0) || self.tail_until.is_some_and(|until| until >= now)
    }

    fn needs_prompts(&self, now: Time) -> bool {
        self.holders(now) && !self.keeps_alive && !self.closed
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn no_prompt_too_many_and_none_too_late(steps in steps(), secret in any::<[u8; 32]>(), jitter in 0u8..=100) {
        let mut settings = settings();
        settings.paths.jitter_percent = jitter;
        let (interval, tail) = (settings.paths.interval, settings.paths.tail);
        let mut paths = Paths::new(settings, secret);
        let mut models: HashMap<Flow, Model> = (0..4).map(|number| (flow(number), Model::default())).collect();
        let mut now = START;
        for step in steps {
            match step {
                Step::Hold(number, holder) => {
                    let flow = flow(number);
                    let model = models.get_mut(&flow).unwrap();
                    if !model.holders(now) {
                        *model = Model { closed: false, ..Model::default() };
                        model.last = Some(now);
                        // A connection never comes back, but here its number does.
                    }
                    let registered = model.count(Holder::Registration) + model.count(Holder::Subscription) > 0;
                    if holder != Holder::Dialog || !registered {
                        if model.keeps_alive {
                            model.last = Some(now);
                        }
                        model.keeps_alive = false;
                    }
                    *model.held.entry(holder).or_default() += 1;
                    if holder == Holder::Dialog {
                        model.tail_until = None;
                    }
                    paths.hold(flow, holder, BEHIND_NAT, now);
                }
                Step::Release(number, holder) => {
                    let flow = flow(number);
                    let model = models.get_mut(&flow).unwrap();
                    let held = model.count(holder) > 0;
                    if held {
                        *model.held.get_mut(&holder).unwrap() -= 1;
                        if holder == Holder::Dialog && model.count(holder) == 0 && !model.closed {
                            model.tail_until = Some(now + tail);
                        }
                    }
                    let released = paths.find(&flow).is_some_and(|id| paths.release(id, holder, now));
                    prop_assert_eq!(released, held);
                }
                Step::Touch(number) | Step::KeptAlive(number) => {
                    let flow = flow(number);
                    let model = models.get_mut(&flow).unwrap();
                    if !model.closed {
                        model.last = Some(now);
                        model.out = None;
                    }
                    match step {
                        Step::Touch(_) => paths.touch(&flow, now),
                        _ => paths.kept_alive(&flow, now),
                    }
                }
                Step::Closed(number) => {
                    let flow = flow(number);
                    let model = models.get_mut(&flow).unwrap();
                    if model.holders(now) {
                        *model = Model { closed: true, tail_until: None, out: None, ..model.clone() };
                    }
                    paths.closed(&flow, now);
                }
                Step::Declares(number, keeps_alive) => {
                    let flow = flow(number);
                    if let Some(id) = paths.find(&flow) {
                        let model = models.get_mut(&flow).unwrap();
                        if model.keeps_alive && !keeps_alive {
                            model.last = Some(now);
                        }
                        model.keeps_alive = keeps_alive;
                        model.out = model.out.filter(|_| !keeps_alive);
                        paths.describe(id, PathInfo { keeps_alive, ..BEHIND_NAT }, now);
                    }
                }
                Step::Wait(milliseconds) => {
                    let until = now + Duration::from_millis(milliseconds.into());
                    let mut actions = Vec::new();
                    while let Some(at) = paths.next().filter(|at| *at <= until) {
                        now = now.max(at);
                        paths.tick(now, &mut actions);
                        for action in actions.drain(..) {
                            check(action, &mut models, now)?;
                        }
                    }
                    now = until;
                }
            }
            for (flow, model) in &models {
                let path = paths.find(flow).and_then(|id| paths.get(id));
                prop_assert_eq!(path.is_some(), model.holders(now) && (!model.closed || model.held.values().any(|count| *count > 0)));
                if model.needs_prompts(now) {
                    let last = model.last.expect("set with the first holder");
                    prop_assert!(now.since(last) <= interval, "{:?} went without for {:?}", flow, now.since(last));
                    prop_assert!(path.and_then(|path| path.next_prompt).is_some_and(|at| at <= last + interval));
                }
            }
            prop_assert_eq!(paths.states().iter().sum::<u64>() as usize, paths.len());
            let by_view = paths.iter().map(|path| path.state).fold([0; 4], |mut states, state| {
                states[state as usize] += 1;
                states
            });
            prop_assert_eq!(paths.states(), by_view);
        }
    }
}

fn check(action: PathAction, models: &mut HashMap<Flow, Model>, now: Time) -> Result<(), TestCaseError> {
    match action {
        PathAction::Prompt { flow, sequence, .. } => {
            let model = models.get_mut(&flow).unwrap();
            prop_assert!(
                model.needs_prompts(now),
                "{flow} is prompted without a reason: {model:?}"
            );
            prop_assert!(model.out.is_none_or(|before| sequence == before + 1));
            model.out = Some(sequence);
            model.retransmissions = 0;
            model.last = Some(now);
        }
        PathAction::Retransmit { flow, sequence, .. } => {
            let model = models.get_mut(&flow).unwrap();
            prop_assert!(model.needs_prompts(now));
            prop_assert_eq!(model.out, Some(sequence), "only what is out is sent again");
            model.retransmissions += 1;
            prop_assert!(model.retransmissions <= 10);
        }
        PathAction::Down(_) | PathAction::Up(_) => {}
    }
    Ok(())
}

/// 100,000 devices that register within one second, as after a restart: no second has more than one and a half times the mean, from the first on.
#[test]
fn prompts_are_even() {
    const DEVICES: u32 = 100_000;
    let mut paths = Paths::new(settings(), [9; 32]);
    for device in 0..DEVICES {
        let remote = std::net::SocketAddr::from((std::net::Ipv4Addr::from(0x0a00_0000 + device), 5060));
        let flow = Flow::udp(ListenerId(0), remote);
        paths.hold(
            flow,
            Holder::Registration,
            BEHIND_NAT,
            START + Duration::from_millis(u64::from(device) / 100),
        );
    }
    let mut per_second = vec![0u32; 120];
    let mut actions = Vec::new();
    for tick in 0..12_000 {
        let now = START + Duration::from_millis(10 * tick);
        paths.tick(now, &mut actions);
        for action in actions.drain(..) {
            if let PathAction::Prompt { flow, .. } = action {
                per_second[tick as usize / 100] += 1;
                paths.touch(&flow, now + seconds(0.02));
            }
        }
    }
    let mean = f64::from(DEVICES) / 13.5;
    let (least, most) = (per_second[1..].iter().min().unwrap(), per_second.iter().max().unwrap());
    println!("mean {mean:.0}, least {least}, most {most} per second");
    assert!(f64::from(*most) <= 1.5 * mean, "{per_second:?}");
    assert!(f64::from(*least) >= mean / 1.5, "{per_second:?}");
    assert_eq!(paths.counts().prompts_lost, 0);
}

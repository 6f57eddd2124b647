//! The figures 2 and 3A to 3F of US 12,395,462 (`mission.md` S4): one device behind a NAT, three proxies, step by step.

use super::{
    tests::{BEHIND_NAT, START, seconds, settings, udp},
    *,
};

/// A proxy, and the device's NAT, which gives each proxy's path a port of its own.
struct Proxy {
    paths: Paths,
    port: u16,
}

impl Proxy {
    fn new(port: u16) -> Proxy {
        Proxy {
            paths: Paths::new(settings(), [port as u8; 32]),
            port,
        }
    }

    fn flow(&self) -> Flow {
        udp(self.port)
    }

    fn hold(&mut self, holder: Holder, now: Time) -> PathId {
        self.paths.touch(&self.flow(), now);
        self.paths.hold(self.flow(), holder, BEHIND_NAT, now)
    }

    /// The state of the only path that there may be.
    fn state(&self) -> State {
        assert!(self.paths.len() <= 1);
        self.paths.iter().next().map_or(State::Idle, |path| path.state)
    }

    /// Up to `until` the device answers each prompt; when it was prompted, in seconds after START.
    fn run(&mut self, until: Time) -> Vec<f64> {
        let mut prompted = Vec::new();
        while let Some(now) = self.paths.next().filter(|at| *at <= until) {
            let mut actions = Vec::new();
            self.paths.tick(now, &mut actions);
            for action in actions {
                assert!(
                    matches!(
                        action,
                        PathAction::Prompt {
                            kind: Kind::Options,
                            ..
                        }
                    ),
                    "{action:?}"
                );
                prompted.push(now.since(START).as_secs_f64());
                self.paths.touch(&self.flow(), now);
            }
        }
        prompted
    }
}

/// All three up to `until` seconds after START; who prompted how often.
fn all(proxies: [&mut Proxy; 3], until: f64) -> [usize; 3] {
    proxies.map(|proxy| proxy.run(START + seconds(until)).len())
}

fn at(second: f64) -> Time {
    START + seconds(second)
}

#[test]
fn figures_3a_to_3f() {
    let (mut a, mut b, mut c) = (Proxy::new(10), Proxy::new(20), Proxy::new(30));
    let states = |a: &Proxy, b: &Proxy, c: &Proxy| [a.state(), b.state(), c.state()];

    // 3A: no registrations, no dialogs, no paths.
    assert_eq!(all([&mut a, &mut b, &mut c], 100.0), [0, 0, 0]);
    assert_eq!(states(&a, &b, &c), [State::Idle; 3]);

    // 3B: the device registers with B for 300 s; B prompts on a periodic timer.
    let registration_b = b.hold(Holder::Registration, at(100.0));
    assert_eq!(states(&a, &b, &c), [State::Idle, State::Registration, State::Idle]);
    let [0, prompts, 0] = all([&mut a, &mut b, &mut c], 200.0) else {
        panic!("only B prompts")
    };
    assert!((6..=9).contains(&prompts), "one in 12 to 15 s: {prompts}");

    // 3C: an INVITE goes through C. Both paths are kept, each by its own proxy.
    let dialog = c.hold(Holder::Dialog, at(200.0));
    assert_eq!(states(&a, &b, &c), [State::Idle, State::Registration, State::Dialog]);
    let prompted = c.run(at(260.0));
    assert_eq!(prompted, [215.0, 230.0, 245.0, 260.0], "after the threshold of silence");
    // The call speaks: nothing is to be kept open.
    for second in 261..300 {
        c.paths.touch(&c.flow(), at(f64::from(second)));
        assert_eq!(c.run(at(f64::from(second))), [0.0; 0]);
    }
    assert!(b.run(at(400.0)).len() >= 13, "B goes on until the registration expires");

    // 3D: the registration with B has expired; nothing is sent on that path any more.
    b.paths.release(registration_b, Holder::Registration, at(400.0));
    assert_eq!(states(&a, &b, &c), [State::Idle, State::Idle, State::Dialog]);
    let [0, 0, prompts] = all([&mut a, &mut b, &mut c], 500.0) else {
        panic!("only C prompts")
    };
    assert!(prompts >= 6);

    // 3E: it registers with C, on the path of the dialog: periodic prompts instead of those after silence. One path, one prompt at a time.
    let registration_c = c.hold(Holder::Registration, at(500.0));
    assert_eq!(registration_c, dialog);
    assert_eq!(c.state(), State::DialogAndRegistration);
    let mut prompted = 0;
    for second in 501..=600 {
        c.paths.touch(&c.flow(), at(f64::from(second)));
        prompted += c.run(at(f64::from(second))).len();
    }
    assert!((6..=9).contains(&prompted), "also while it speaks: {prompted}");
    // That registration expires, the dialog remains: back to prompts after silence. The next one goes to A.
    c.paths.release(registration_c, Holder::Registration, at(600.0));
    let registration_a = a.hold(Holder::Registration, at(600.0));
    assert_eq!(states(&a, &b, &c), [State::Registration, State::Idle, State::Dialog]);
    assert_eq!(c.run(at(640.0)), [615.0, 630.0]);
    assert!(a.run(at(640.0)).len() >= 2);

    // 3F: BYE. C stops 32 s later; A goes on until its registration expires.
    c.paths.touch(&c.flow(), at(640.0));
    c.paths.release(dialog, Holder::Dialog, at(640.0));
    assert_eq!(c.run(at(671.9)), [655.0, 670.0]);
    assert_eq!(c.state(), State::Dialog);
    assert_eq!(c.run(at(2000.0)), [0.0; 0]);
    assert_eq!(states(&a, &b, &c), [State::Registration, State::Idle, State::Idle]);
    assert!(a.run(at(900.0)).len() >= 17);
    a.paths.release(registration_a, Holder::Registration, at(900.0));
    assert_eq!(all([&mut a, &mut b, &mut c], 10_000.0), [0, 0, 0]);
    assert_eq!(states(&a, &b, &c), [State::Idle; 3]);
}

#[test]
fn figure_2_all_transitions() {
    let mut proxy = Proxy::new(1);
    let mut expect = |change: &dyn Fn(&mut Paths, Flow), state| {
        let flow = proxy.flow();
        change(&mut proxy.paths, flow);
        assert_eq!(proxy.state(), state);
        let mut by_state = [0; 4];
        by_state[state as usize] = u64::from(state != State::Idle);
        assert_eq!(proxy.paths.states(), by_state);
    };
    let hold = |holder| {
        move |paths: &mut Paths, flow: Flow| {
            paths.hold(flow, holder, BEHIND_NAT, START);
        }
    };
    let release = |holder| {
        move |paths: &mut Paths, flow: Flow| {
            let id = paths.find(&flow).expect("it is there");
            assert!(paths.release(id, holder, START));
        }
    };
    let tail = |paths: &mut Paths, _: Flow| paths.tick(START + seconds(32.0), &mut Vec::new());
    for registration in [Holder::Registration, Holder::Subscription] {
        expect(&hold(registration), State::Registration);
        expect(&release(registration), State::Idle);
        expect(&hold(registration), State::Registration);
        expect(&hold(Holder::Dialog), State::DialogAndRegistration);
        expect(&release(Holder::Dialog), State::Registration);
        expect(&hold(Holder::Dialog), State::DialogAndRegistration);
        expect(&release(registration), State::Dialog);
        expect(&hold(registration), State::DialogAndRegistration);
        expect(&release(registration), State::Dialog);
        expect(&release(Holder::Dialog), State::Dialog);
        expect(&tail, State::Idle);
        expect(&hold(Holder::Dialog), State::Dialog);
        expect(&release(Holder::Dialog), State::Dialog);
        expect(&tail, State::Idle);
    }
}

//! The rules of prompting, one by one, with a clock that is turned by hand.

use std::net::SocketAddr;

use super::*;
use crate::{
    config::sip::Prompt,
    sip::flow::{ConnectionId, ListenerId, Transport},
};

/// A morning in 2026.
pub(super) const START: Time = Time(1_790_000_000_000);

pub(super) fn settings() -> Settings {
    Settings {
        paths: config::sip::Paths::default(),
        t1: Duration::from_millis(500),
        t2: Duration::from_secs(4),
    }
}

/// As [`settings`], without jitter.
pub(super) fn steady() -> Settings {
    let mut settings = settings();
    settings.paths.jitter_percent = 0;
    settings
}

pub(super) fn udp(port: u16) -> Flow {
    Flow::udp(ListenerId(0), SocketAddr::from(([134, 56, 1, 1], port)))
}

pub(super) fn tcp(number: u64) -> Flow {
    let remote = SocketAddr::from(([134, 56, 1, 1], 40_000));
    Flow::stream(ListenerId(1), Transport::Tcp, remote, ConnectionId(number))
}

pub(super) const BEHIND_NAT: PathInfo<'static> = PathInfo {
    behind_nat: true,
    keeps_alive: false,
    uri: Some(b"sip:user@192.168.1.10:5060"),
};

pub(super) fn seconds(number: f64) -> Duration {
    Duration::from_secs_f64(number)
}

/// Runs the table up to `until`; what was said, and when in seconds after `from`.
pub(super) fn run(paths: &mut Paths, from: Time, until: Time) -> Vec<(f64, PathAction)> {
    let mut log = Vec::new();
    let mut actions = Vec::new();
    while let Some(at) = paths.next().filter(|at| *at <= until) {
        let now = at.max(from);
        paths.tick(now, &mut actions);
        let after = now.since(from).as_millis() as f64 / 1000.0;
        log.extend(actions.drain(..).map(|action| (after, action)));
    }
    paths.tick(until, &mut actions);
    assert_eq!(actions, [], "next() has said all moments");
    log
}

fn prompts(log: &[(f64, PathAction)]) -> Vec<f64> {
    let prompts = log.iter().filter(|entry| matches!(entry.1, PathAction::Prompt { .. }));
    prompts.map(|entry| entry.0).collect()
}

fn retransmissions(log: &[(f64, PathAction)]) -> Vec<f64> {
    let again = log
        .iter()
        .filter(|entry| matches!(entry.1, PathAction::Retransmit { .. }));
    again.map(|entry| entry.0).collect()
}

/// Answers each prompt a moment after it was sent.
fn run_answering(paths: &mut Paths, flow: &Flow, from: Time, until: Time) -> Vec<f64> {
    let mut sent = Vec::new();
    let mut now = from;
    while let Some(at) = paths.next().filter(|at| *at <= until) {
        now = now.max(at);
        let mut actions = Vec::new();
        paths.tick(now, &mut actions);
        for action in actions {
            if let PathAction::Prompt { .. } = action {
                sent.push(now.since(from).as_secs_f64());
                paths.touch(flow, now);
            }
        }
    }
    sent
}

#[test]
fn a_registration_is_prompted_periodically_until_it_is_released() {
    let mut paths = Paths::new(settings(), [1; 32]);
    let id = paths.hold(udp(5070), Holder::Registration, BEHIND_NAT, START);
    assert_eq!(paths.state(id), State::Registration);
    let sent = run_answering(&mut paths, &udp(5070), START, START + seconds(300.0));
    assert!(sent[0] <= 15.0);
    let gaps: Vec<f64> = sent.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| (12.0..=15.0).contains(gap)), "{gaps:?}");
    assert!(gaps.iter().any(|gap| *gap < 14.5), "jittered: {gaps:?}");

    assert!(paths.release(id, Holder::Registration, START + seconds(300.0)));
    assert_eq!((paths.state(id), paths.len()), (State::Idle, 0));
    assert_eq!(run(&mut paths, START, START + seconds(1000.0)), []);
    assert!(
        !paths.release(id, Holder::Registration, START + seconds(300.0)),
        "the id is outdated"
    );
    assert_eq!(paths.states(), [0, 0, 0, 0]);
}

#[test]
fn messages_do_not_postpone_periodic_prompts() {
    let mut paths = Paths::new(steady(), [1; 32]);
    paths.hold(udp(5070), Holder::Subscription, BEHIND_NAT, START);
    let mut sent = Vec::new();
    for second in 0..60 {
        let now = START + seconds(f64::from(second));
        paths.touch(&udp(5070), now);
        let mut actions = Vec::new();
        paths.tick(now, &mut actions);
        sent.extend(actions.iter().map(|_| second));
    }
    assert_eq!(sent.len(), 4, "{sent:?}");
}

#[test]
fn a_dialog_alone_is_prompted_only_after_silence() {
    let mut paths = Paths::new(settings(), [1; 32]);
    let id = paths.hold(udp(5070), Holder::Dialog, BEHIND_NAT, START);
    assert_eq!(paths.state(id), State::Dialog);
    for step in 1..=30 {
        let now = START + seconds(10.0 * f64::from(step));
        let mut actions = Vec::new();
        paths.tick(now, &mut actions);
        assert_eq!(actions, [], "it speaks every ten seconds");
        paths.touch(&udp(5070), now);
    }
    let last = START + seconds(300.0);
    let view = paths.get(id).unwrap();
    assert_eq!(view.next_prompt, Some(last + seconds(15.0)));
    assert_eq!(prompts(&run(&mut paths, last, last + seconds(30.0))), [15.0, 30.0]);
}

#[test]
fn the_tail_of_the_last_dialog_is_prompted_and_ends() {
    let mut paths = Paths::new(settings(), [1; 32]);
    let id = paths.hold(udp(5070), Holder::Dialog, BEHIND_NAT, START);
    assert_eq!(
        paths.hold(udp(5070), Holder::Dialog, BEHIND_NAT, START),
        id,
        "one path for all"
    );
    paths.release(id, Holder::Dialog, START);
    assert_eq!(paths.get(id).unwrap().tail_until, None, "one dialog is left");
    paths.touch(&udp(5070), START);
    paths.release(id, Holder::Dialog, START);
    assert_eq!(paths.get(id).unwrap().tail_until, Some(START + seconds(32.0)));
    assert_eq!(paths.state(id), State::Dialog);
    let sent = prompts(&run(&mut paths, START, START + seconds(300.0)));
    assert_eq!(sent, [15.0, 30.0]);
    assert_eq!((paths.state(id), paths.len()), (State::Idle, 0));
}

#[test]
fn the_tail_goes_on_when_the_registration_ends_within_it() {
    let mut paths = Paths::new(steady(), [1; 32]);
    let id = paths.hold(udp(5070), Holder::Registration, BEHIND_NAT, START);
    paths.hold(udp(5070), Holder::Dialog, BEHIND_NAT, START);
    assert_eq!(paths.state(id), State::DialogAndRegistration);
    paths.release(id, Holder::Dialog, START);
    assert_eq!(paths.state(id), State::Registration);
    paths.touch(&udp(5070), START + seconds(10.0));
    paths.release(id, Holder::Registration, START + seconds(10.0));
    assert_eq!(paths.state(id), State::Dialog);
    run(&mut paths, START, START + seconds(31.9));
    assert_eq!(paths.len(), 1);
    run(&mut paths, START, START + seconds(32.0));
    assert_eq!(paths.len(), 0);
}

#[test]
fn a_registration_that_ends_at_once_does_not_delay_the_dialogs_first_prompt() {
    let mut paths = Paths::new(steady(), [0; 32]);
    let id = paths.hold(udp(5070), Holder::Dialog, BEHIND_NAT, START);
    paths.hold(udp(5070), Holder::Registration, BEHIND_NAT, START);
    paths.release(id, Holder::Registration, START + seconds(1.0));
    let next = paths.get(id).and_then(|path| path.next_prompt);
    assert!(next.is_some_and(|at| at <= START + seconds(15.0)), "{next:?}");
}

#[test]
fn a_device_that_registers_on_another_path_is_prompted_there_only() {
    let mut paths = Paths::new(settings(), [1; 32]);
    let old = paths.hold(udp(5070), Holder::Registration, BEHIND_NAT, START);
    run(&mut paths, START, START + seconds(20.0));
    let moved = START + seconds(20.0);
    let new = paths.hold(udp(6000), Holder::Registration, BEHIND_NAT, moved);
    paths.release(old, Holder::Registration, moved);
    assert_ne!(old, new);
    let log = run(&mut paths, moved, moved + seconds(60.0));
    assert!(prompts(&log).len() >= 4);
    for (_, action) in log {
        let (PathAction::Prompt { flow, .. } | PathAction::Retransmit { flow, .. }) = action else {
            continue;
        };
        assert_eq!(flow, udp(6000));
    }
}

#[test]
fn an_unanswered_options_is_retransmitted_until_the_next_is_due() {
    let mut paths = Paths::new(steady(), [1; 32]);
    paths.hold(udp(5070), Holder::Dialog, BEHIND_NAT, START);
    let log = run(&mut paths, START, START + seconds(45.0));
    assert_eq!(prompts(&log), [15.0, 30.0, 45.0]);
    // T1, doubled up to T2 (RFC 3261 section 17.1.2.2).
    let expected: Vec<f64> = [15.0, 30.0]
        .iter()
        .flat_map(|at| [0.5, 1.5, 3.5, 7.5, 11.5].map(|after| at + after))
        .collect();
    assert_eq!(retransmissions(&log), expected);
    assert_eq!(paths.counts().prompts_retransmitted, 10);
}

#[test]
fn with_a_long_interval_a_prompt_ends_with_timer_f() {
    let mut settings = steady();
    settings.paths.interval = seconds(600.0);
    let mut paths = Paths::new(settings, [1; 32]);
    let id = paths.hold(udp(5070), Holder::Dialog, BEHIND_NAT, START);
    let log = run(&mut paths, START, START + seconds(1199.0));
    assert_eq!(prompts(&log), [600.0]);
    assert_eq!(retransmissions(&log).last(), Some(&631.5));
    assert_eq!(retransmissions(&log).len(), 10);
    let view = paths.get(id).unwrap();
    assert_eq!((view.pending, view.prompts_lost), (false, 1));
}

#[test]
fn an_answer_ends_the_prompt() {
    let mut paths = Paths::new(steady(), [1; 32]);
    let id = paths.hold(udp(5070), Holder::Dialog, BEHIND_NAT, START);
    run(&mut paths, START, START + seconds(15.7));
    assert!(paths.get(id).unwrap().pending);
    paths.touch(&udp(5070), START + seconds(15.7));
    let log = run(&mut paths, START, START + seconds(30.6));
    assert_eq!(log, [], "silence begins anew: next at 30.7");
    let view = paths.get(id).unwrap();
    assert_eq!((view.prompts_sent, view.prompts_answered, view.prompts_lost), (1, 1, 0));
    assert_eq!(view.next_prompt, Some(START + seconds(30.7)));
}

#[test]
fn three_unanswered_in_a_row_mark_the_path_as_down_and_it_is_prompted_on() {
    let mut paths = Paths::new(steady(), [1; 32]);
    let id = paths.hold(udp(5070), Holder::Registration, BEHIND_NAT, START);
    let log = run(&mut paths, START, START + seconds(300.0));
    let sent = prompts(&log);
    let down: Vec<_> = log.iter().filter(|entry| entry.1 == PathAction::Down(id)).collect();
    assert_eq!(down.len(), 1, "said once");
    assert_eq!(down[0].0, sent[3], "when the third has ended");
    assert!(sent.len() >= 20, "prompted on: {sent:?}");
    assert!(paths.is_down(id));
    assert_eq!(paths.get(id).unwrap().down_since, Some(START + seconds(sent[3])));

    paths.touch(&udp(5070), START + seconds(301.0));
    assert!(!paths.is_down(id));
    let log = run(&mut paths, START, START + seconds(301.0));
    assert_eq!(log.first(), Some(&(0.0, PathAction::Up(id))));
    let counts = paths.counts();
    assert_eq!((counts.paths_down, counts.paths_up), (1, 1));
    assert_eq!(counts.prompts_lost, sent.len() as u64 - 1);
}

#[test]
fn an_answer_in_between_begins_the_count_anew() {
    let mut paths = Paths::new(steady(), [1; 32]);
    let id = paths.hold(udp(5070), Holder::Registration, BEHIND_NAT, START);
    for round in 0..20 {
        let from = START + seconds(45.0 * f64::from(round));
        run(&mut paths, from, from + seconds(44.0));
        paths.touch(&udp(5070), from + seconds(44.5));
    }
    assert!(!paths.is_down(id));
    assert_eq!(paths.counts().paths_down, 0);
}

#[test]
fn whom_it_may_concern() {
    // What is prompted, by what the device is and what is configured.
    let device = |behind_nat, keeps_alive| PathInfo {
        behind_nat,
        keeps_alive,
        uri: None,
    };
    let kind = |flow: Flow, info: PathInfo<'_>, change: &dyn Fn(&mut config::sip::Paths)| {
        let mut settings = settings();
        change(&mut settings.paths);
        let mut paths = Paths::new(settings, [1; 32]);
        let id = paths.hold(flow, Holder::Registration, info, START);
        let log = run(&mut paths, START, START + seconds(16.0));
        let kinds = log.iter().find_map(|entry| match entry.1 {
            PathAction::Prompt { kind, .. } => Some(kind),
            _ => None,
        });
        assert_eq!(kinds.is_some(), paths.get(id).unwrap().next_prompt.is_some());
        kinds
    };
    let same = |_: &mut config::sip::Paths| ();
    assert_eq!(kind(udp(1), device(true, false), &same), Some(Kind::Options));
    assert_eq!(kind(tcp(1), device(true, false), &same), Some(Kind::Crlf));
    assert_eq!(kind(udp(1), device(false, false), &same), None, "it needs none");
    assert_eq!(kind(udp(1), device(true, true), &same), None, "it does so itself");
    let everyone = |paths: &mut config::sip::Paths| paths.everyone = true;
    assert_eq!(kind(udp(1), device(false, false), &everyone), Some(Kind::Options));
    assert_eq!(kind(udp(1), device(false, true), &everyone), None);
    let crlf = |paths: &mut config::sip::Paths| (paths.udp, paths.stream) = (Prompt::Crlf, Prompt::Options);
    assert_eq!(kind(udp(1), device(true, false), &crlf), Some(Kind::Crlf));
    assert_eq!(kind(tcp(1), device(true, false), &crlf), Some(Kind::Options));
    let off = |paths: &mut config::sip::Paths| (paths.udp, paths.stream) = (Prompt::Off, Prompt::Off);
    assert_eq!(kind(udp(1), device(true, false), &off), None);
    assert_eq!(kind(tcp(1), device(true, false), &off), None);
    let unregistered = |paths: &mut config::sip::Paths| paths.while_registered = false;
    assert_eq!(kind(udp(1), device(true, false), &unregistered), None);
}

#[test]
fn each_trigger_can_be_switched_off() {
    let mut settings = steady();
    settings.paths.during_dialogs = false;
    let mut paths = Paths::new(settings.clone(), [1; 32]);
    let id = paths.hold(udp(1), Holder::Dialog, BEHIND_NAT, START);
    assert_eq!(run(&mut paths, START, START + seconds(100.0)), []);
    paths.release(id, Holder::Dialog, START + seconds(100.0));
    assert_eq!(run(&mut paths, START, START + seconds(200.0)), []);
    assert_eq!(paths.len(), 0, "the tail ends nevertheless");

    // Without periodic prompts, a dialog on a registered path is still kept open.
    settings.paths.during_dialogs = true;
    settings.paths.while_registered = false;
    let mut paths = Paths::new(settings, [1; 32]);
    paths.hold(udp(1), Holder::Registration, BEHIND_NAT, START);
    paths.hold(udp(1), Holder::Dialog, BEHIND_NAT, START);
    assert_eq!(prompts(&run(&mut paths, START, START + seconds(31.0))), [15.0, 30.0]);
}

#[test]
fn a_dialog_does_not_unsay_what_the_registration_has_declared() {
    let mut paths = Paths::new(steady(), [1; 32]);
    let keeps = PathInfo {
        keeps_alive: true,
        ..BEHIND_NAT
    };
    let id = paths.hold(udp(1), Holder::Registration, keeps, START);
    paths.hold(udp(1), Holder::Dialog, BEHIND_NAT, START);
    assert_eq!(paths.get(id).unwrap().kind, None);
    paths.describe(id, BEHIND_NAT, START);
    assert_eq!(paths.get(id).unwrap().kind, Some(Kind::Options));
    assert!(!prompts(&run(&mut paths, START, START + seconds(15.0))).is_empty());
    paths.describe(id, keeps, START + seconds(15.0));
    assert_eq!(
        run(&mut paths, START, START + seconds(100.0)),
        [],
        "the prompt that is out has ended too"
    );
}

#[test]
fn crlf_over_udp_is_never_lost_and_pings_only_where_they_were_answered() {
    let mut settings = steady();
    settings.paths.udp = Prompt::Crlf;
    let mut paths = Paths::new(settings, [1; 32]);
    let crlf = paths.hold(udp(1), Holder::Registration, BEHIND_NAT, START);
    let deaf = paths.hold(tcp(1), Holder::Registration, BEHIND_NAT, START);
    let pongs = paths.hold(tcp(2), Holder::Registration, BEHIND_NAT, START);
    let mut answer = |until: f64, answering: bool| {
        let until = START + seconds(until);
        while let Some(now) = paths.next().filter(|at| *at <= until) {
            let now = now.max(START);
            let mut actions = Vec::new();
            paths.tick(now, &mut actions);
            for action in actions {
                if matches!(action, PathAction::Prompt { path, .. } if path == pongs && answering) {
                    paths.kept_alive(&tcp(2), now + seconds(0.1));
                }
            }
        }
    };
    answer(100.0, true);
    answer(200.0, false);
    for unaware in [crlf, deaf] {
        let view = paths.get(unaware).unwrap();
        assert_eq!((view.prompts_lost, view.down_since), (0, None));
        assert!(view.prompts_sent >= 12);
    }
    assert!(paths.is_down(pongs), "it has always answered before");
    assert!(paths.get(pongs).unwrap().prompts_answered >= 6);
}

#[test]
fn the_end_of_a_connection_is_the_end_of_its_path() {
    let mut paths = Paths::new(steady(), [1; 32]);
    let id = paths.hold(tcp(7), Holder::Registration, BEHIND_NAT, START);
    paths.hold(tcp(7), Holder::Dialog, BEHIND_NAT, START);
    paths.closed(&tcp(7), START + seconds(1.0));
    paths.closed(&tcp(7), START + seconds(1.0));
    assert!(paths.is_down(id));
    assert_eq!(
        run(&mut paths, START, START + seconds(100.0)),
        [(0.0, PathAction::Down(id))]
    );
    paths.touch(&tcp(7), START + seconds(2.0));
    assert!(paths.is_down(id), "what was still in the queue does not bring it back");
    paths.release(id, Holder::Dialog, START + seconds(3.0));
    paths.release(id, Holder::Registration, START + seconds(3.0));
    assert_eq!(paths.len(), 0, "no tail for what is closed");
    paths.closed(&tcp(8), START);
    assert_eq!(paths.len(), 0);

    // A connection from before a restart.
    let gone = Flow {
        connection: ConnectionId::NONE,
        ..tcp(1)
    };
    let id = paths.hold(gone, Holder::Registration, BEHIND_NAT, START);
    assert!(paths.is_down(id));
    assert_eq!(
        run(&mut paths, START, START + seconds(100.0)),
        [(0.0, PathAction::Down(id))]
    );
}

#[test]
fn the_interval_adapts_within_its_bounds() {
    let mut settings = steady();
    settings.paths.interval = seconds(40.0);
    settings.paths.adapt = Some((seconds(10.0), seconds(60.0)));
    let mut paths = Paths::new(settings, [1; 32]);
    let flow = udp(5070);
    let id = paths.hold(flow, Holder::Registration, BEHIND_NAT, START);
    let interval = |paths: &Paths, id| paths.get(id).unwrap().interval.as_secs_f64();
    assert_eq!(interval(&paths, id), 40.0);
    run_answering(&mut paths, &flow, START, START + seconds(40.0 * 21.0));
    assert_eq!(interval(&paths, id), 50.0, "longer after twenty answers");
    run_answering(&mut paths, &flow, START, START + seconds(10_000.0));
    assert_eq!(interval(&paths, id), 60.0, "and no longer than allowed");
    let now = START + seconds(10_000.0);
    run(&mut paths, now, now + seconds(241.0));
    assert!(paths.is_down(id));
    assert_eq!(interval(&paths, id), 30.0, "shorter after a lost path");
    let now = now + seconds(241.0);

    // The device comes back with another mapping behind the same address: what was learned is not forgotten.
    paths.release(id, Holder::Registration, now);
    let flow = udp(6000);
    let id = paths.hold(flow, Holder::Registration, BEHIND_NAT, now);
    assert_eq!(interval(&paths, id), 30.0);
    run_answering(&mut paths, &flow, now, now + seconds(20_000.0));
    assert_eq!(
        interval(&paths, id),
        45.0,
        "never again what a path was lost at, for a day"
    );
    for round in 1..10 {
        let now = now + seconds(20_000.0 + 1000.0 * f64::from(round));
        run(&mut paths, now, now + seconds(900.0));
        paths.touch(&flow, now + seconds(901.0));
    }
    assert_eq!(interval(&paths, id), 10.0);
    assert_eq!(
        paths
            .get(id)
            .unwrap()
            .next_prompt
            .map(|at| at.since(START) > seconds(20_000.0)),
        Some(true)
    );
}

#[test]
fn a_reload_changes_what_is_prompted() {
    let mut paths = Paths::new(steady(), [1; 32]);
    let id = paths.hold(udp(1), Holder::Registration, BEHIND_NAT, START);
    let mut off = steady();
    off.paths.while_registered = false;
    paths.configure(off, START);
    assert_eq!(run(&mut paths, START, START + seconds(100.0)), []);
    let mut shorter = steady();
    shorter.paths.interval = seconds(5.0);
    paths.configure(shorter, START + seconds(100.0));
    let now = START + seconds(100.0);
    assert!(prompts(&run(&mut paths, now, now + seconds(20.0))).len() >= 4);
    assert_eq!(paths.get(id).unwrap().interval, seconds(5.0));
}

#[test]
fn only_the_right_branch_answers() {
    let mut paths = Paths::new(steady(), [1; 32]);
    let mut prompter = prompt::Prompter::default();
    prompter.listen(ListenerId(0), Transport::Udp, "134.56.3.1:5060");
    let id = paths.hold(udp(5070), Holder::Dialog, BEHIND_NAT, START);
    let log = run(&mut paths, START, START + seconds(15.5));
    let [(_, first), (_, again)] = log[..] else {
        panic!("one prompt and its retransmission, not {log:?}");
    };
    let bytes = |action| match prompter.command(&paths, &action) {
        Some(super::super::command::Command::Send {
            bytes,
            to,
            ticket: None,
        }) => {
            assert_eq!(to, super::super::command::Destination::Flow(udp(5070)));
            bytes
        }
        other => panic!("{other:?}"),
    };
    let sent = bytes(first);
    assert_eq!(sent, bytes(again), "the same request again");
    let text = std::str::from_utf8(&sent).unwrap();
    assert!(text.starts_with("OPTIONS sip:user@192.168.1.10:5060 SIP/2.0\r\nVia: SIP/2.0/UDP 134.56.3.1:5060;branch="));
    assert!(text.len() < 350, "{}", text.len());
    let branch = text
        .split(";branch=")
        .nth(1)
        .unwrap()
        .split(';')
        .next()
        .unwrap()
        .as_bytes();

    let now = START + seconds(16.0);
    for position in 0..branch.len() {
        let mut forged = branch.to_vec();
        forged[position] = if forged[position] == b'0' { b'1' } else { b'0' };
        assert!(!paths.answered(&forged, now), "{position}");
    }
    assert!(!paths.answered(&branch[..branch.len() - 1], now));
    assert!(!paths.answered(b"", now));
    assert!(
        !Paths::new(steady(), [2; 32]).answered(branch, now),
        "another start, another key"
    );
    assert!(paths.get(id).unwrap().pending);
    assert!(paths.answered(&branch.to_ascii_uppercase(), now));
    let view = paths.get(id).unwrap();
    assert_eq!(
        (view.pending, view.prompts_answered, view.last_in),
        (false, 1, Some(now))
    );

    // A late answer is ours, and says nothing about the prompt that is out now.
    run(&mut paths, START, START + seconds(32.0));
    assert!(paths.answered(branch, START + seconds(32.0)));
    assert!(paths.get(id).unwrap().pending);
    // An answer for a path that is gone, whose place another has taken.
    paths.release(id, Holder::Dialog, START + seconds(32.0));
    run(&mut paths, START, START + seconds(100.0));
    let other = paths.hold(udp(1), Holder::Registration, BEHIND_NAT, START + seconds(100.0));
    assert!(paths.answered(branch, START + seconds(101.0)));
    assert_eq!(paths.get(other).unwrap().last_in, None);
}

#[test]
fn a_contact_that_cannot_be_a_request_uri_is_not_used_as_one() {
    let mut paths = Paths::new(steady(), [1; 32]);
    let mut prompter = prompt::Prompter::default();
    prompter.listen(ListenerId(0), Transport::Udp, "p:5060");
    let mut first_line = |uri: Option<&[u8]>| {
        let info = PathInfo { uri, ..BEHIND_NAT };
        let id = paths.hold(udp(5070), Holder::Registration, info, START);
        let action = PathAction::Retransmit {
            path: id,
            flow: udp(5070),
            sequence: 1,
        };
        let command = prompter.command(&paths, &action);
        paths.release(id, Holder::Registration, START);
        match command {
            Some(super::super::command::Command::Send { bytes, .. }) => {
                String::from_utf8_lossy(&bytes).lines().next().unwrap().to_owned()
            }
            other => panic!("{other:?}"),
        }
    };
    let remote = "OPTIONS sip:134.56.1.1:5070 SIP/2.0";
    assert_eq!(
        first_line(Some(b"sip:a@b;x=y?Subject=z")),
        "OPTIONS sip:a@b;x=y SIP/2.0"
    );
    assert_eq!(first_line(None), remote);
    for wrong in [&b"sip:a@b\r\nEvil: 1"[..], b"", b"no-scheme", b"sip:a b", &[b'x'; 600]] {
        assert_eq!(first_line(Some(wrong)), remote, "{wrong:?}");
    }
    let unknown = Flow {
        listener: ListenerId(9),
        ..udp(1)
    };
    let action = PathAction::Retransmit {
        path: PathId { index: 0, serial: 0 },
        flow: unknown,
        sequence: 1,
    };
    assert!(prompter.command(&paths, &action).is_none());
}

//! What a path costs. Figures are printed by
//! `cargo test -p nat-user --release --lib path::bench -- --ignored --nocapture --test-threads 1`.

use std::{net::SocketAddr, time::Instant};

use super::{
    tests::{BEHIND_NAT, START, settings},
    *,
};
use crate::sip::{
    command::Command,
    flow::{ListenerId, Transport},
};

fn device(number: u32) -> Flow {
    let remote = SocketAddr::from((
        std::net::Ipv4Addr::from(0x0a00_0000 + number / 4),
        5060 + (number % 4) as u16,
    ));
    Flow::udp(ListenerId(0), remote)
}

/// Resident memory of this process in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux has it");
    statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<usize>().ok())
        .expect("a number")
        * 4096
}

#[test]
fn a_record_is_small() {
    assert!(size_of::<Record>() <= 176, "{}", size_of::<Record>());
}

#[test]
#[ignore = "prints figures"]
fn memory_of_a_million_paths() {
    let before = resident();
    let mut paths = Paths::new(settings(), [1; 32]);
    for number in 0..1_000_000 {
        paths.hold(device(number), Holder::Registration, BEHIND_NAT, START);
    }
    let per_path = (resident() - before) as f64 / 1e6;
    println!(
        "{per_path:.0} bytes per path, of which the record is {}",
        size_of::<Record>()
    );
    assert!(per_path <= 250.0);
}

#[test]
#[ignore = "prints figures"]
fn time_of_100_k_paths_at_30_s() {
    let mut settings = settings();
    settings.paths.interval = Duration::from_secs(30);
    let mut paths = Paths::new(settings, [1; 32]);
    let mut prompter = prompt::Prompter::default();
    prompter.listen(ListenerId(0), Transport::Udp, "134.56.3.1:5060");
    for number in 0..100_000 {
        paths.hold(device(number), Holder::Registration, BEHIND_NAT, START);
    }
    const SECONDS: u64 = 120;
    let (mut sent, mut bytes, mut actions) = (0u32, 0, Vec::new());
    let begin = Instant::now();
    for tick in 0..SECONDS * 100 {
        let now = START + Duration::from_millis(10 * tick);
        paths.tick(now, &mut actions);
        for action in actions.drain(..) {
            if let Some(Command::Send { bytes: text, .. }) = prompter.command(&paths, &action) {
                sent += 1;
                bytes += text.len();
                let branch = &text[text
                    .windows(8)
                    .position(|part| part == b";branch=")
                    .expect("there is one")
                    + 8..];
                let PathAction::Prompt { flow, .. } = action else {
                    continue;
                };
                paths.touch(&flow, now);
                assert!(paths.answered(&branch[..48], now));
            }
        }
    }
    let spent = begin.elapsed();
    println!(
        "100,000 paths at 30 s: {:.2} % of a core without system calls; {:.0} ns per prompt and answer, {} bytes each",
        100.0 * spent.as_secs_f64() / SECONDS as f64,
        spent.as_nanos() as f64 / f64::from(sent),
        bytes / sent as usize,
    );
}

#[test]
#[ignore = "prints figures"]
fn time_of_a_message() {
    let mut paths = Paths::new(settings(), [1; 32]);
    for number in 0..1_000_000 {
        paths.hold(device(number), Holder::Registration, BEHIND_NAT, START);
    }
    let begin = Instant::now();
    for step in 0..1_000_000u32 {
        paths.touch(&device(step.wrapping_mul(7919) % 1_000_000), START);
    }
    println!(
        "{} ns per message on one of a million paths",
        begin.elapsed().as_nanos() / 1_000_000
    );
}

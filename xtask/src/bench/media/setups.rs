//! Calls set up and torn down per second, with media: whole SIP calls through sipnat's server on one core, whose descriptions it changes,
//! and whose legs it opens and closes.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::lab::Lab;
use tests::router::{Nat, NatConfig, RunningNat};

use super::Bench;
use super::stand::{Relay, Stand};
use crate::bench::figures::{Bound, Series};
use crate::bench::report::{Report, Table};
use crate::bench::sip::calls::Calls;
use crate::bench::sip::phones::Phones;
use crate::bench::sip::process;
use crate::bench::sip::server::{DOMAIN, SERVER};
use crate::cli::BenchMediaPart;
use crate::run::binary;

/// External addresses of the relay.
const ADDRESSES: u8 = 16;
/// Ports of each of them.
const PORTS: u32 = 65_536 - 1024;
/// Ports of a call: RTP and RTCP on each side.
const PORTS_OF_CALL: u32 = 4;
/// How long a port rests after a call.
const REST: Duration = Duration::from_secs(120);
/// Phones that are called.
const PHONES: u32 = 1_000;

/// Calls of sipnat, and beside them what rtpengine does for a call.
pub fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut rate = None;
    if bench.wants(BenchMediaPart::Setups) {
        let sustained = f64::from(u32::from(ADDRESSES) * PORTS / PORTS_OF_CALL) / REST.as_secs_f64();
        let text = format!(
            "sipnat: INVITE with SDP, 180, 200 with SDP, ACK, a packet of media heard by each end, BYE, 200; 32 calls at a time through a server on one \
             core, to phones behind NATs. Both descriptions are changed, and four legs (RTP and RTCP, each with a port on each side) opened \
             and closed. {ADDRESSES} external addresses with {PORTS} ports each, and ports that rest {} s after a call, allow {sustained:.0} calls \
             a second for ever. rtpengine: offer, answer and delete by its control protocol, one after the other; the SIP server beside it is not in it. \
             What soft interrupts do on the load's core is in neither.",
            REST.as_secs()
        );
        let columns = [
            "relay",
            "what",
            "calls per CPU-second",
            "calls per second",
            "made",
            "failed",
            "sent again",
        ];
        let mut table = Table::new("Calls set up and torn down", &text, &columns);
        let (row, per_second) = of_sipnat(bench)?;
        rate = Some(per_second);
        table.rows.push(row);
        table.rows.push(of_rtpengine(bench)?);
        report.add(table);
    }
    report.target(
        "media calls set up and torn down per second and core",
        Bound::AtLeast(1000.0),
        rate,
        "",
    );
    Ok(())
}

/// The row of sipnat, and its calls per second of CPU time.
fn of_sipnat(bench: &Bench) -> Result<(Vec<String>, f64)> {
    let lab = Lab::builder()
        .outside_network(*SERVER.ip(), Ipv4Addr::new(172, 16, 0, 100), 24)
        .external_addresses(ADDRESSES)
        .direct()
        .build()?;
    let load = lab.o(1);
    lab.router
        .ip_batch(&[format!("route add 10.0.0.0/8 via {}", load.ip)])?;
    load.ip_batch(&["route add local 10.0.0.0/8 dev lo".into()])?;
    let config = NatConfig::toml(&config(&lab))
        .binary(&binary())
        .cpus(&bench.plan.cpu.to_string());
    let mut nat = lab.start_nat_as(Nat::Sipnat, config)?;
    let mut crowd = Phones::new(load, PHONES)?;
    crowd.register(0, PHONES)?;
    let mut calls = Calls::with_media(load, PHONES)?;
    let pids = process::family(nat.daemon().pid())?;
    let (rounds, count) = if bench.options.quick { (2, 1_000) } else { (7, 10_000) };
    let (mut per_cpu, mut by_clock, mut sums) = (Series::default(), Series::default(), [0; 3]);
    for number in 0..=rounds {
        let before = process::cpu(&pids)?;
        let round = calls.make(&mut crowd, count, None)?;
        let used = process::cpu(&pids)? - before;
        ensure!(round.failed * 100 <= count, "{} of {count} calls failed", round.failed);
        // The first round warms up.
        if number > 0 {
            per_cpu.push(f64::from(round.completed) / used.as_secs_f64());
            by_clock.push(f64::from(round.completed) / round.time.as_secs_f64());
            for (sum, value) in sums
                .iter_mut()
                .zip([round.completed + round.failed, round.failed, round.again])
            {
                *sum += value;
            }
        }
    }
    no_legs_left(&mut nat)?;
    let mut row = vec![
        "sipnat".into(),
        "whole calls".into(),
        per_cpu.text(1.0, 0),
        by_clock.text(1.0, 0),
    ];
    row.extend(sums.iter().map(u32::to_string));
    // The core can do no more than it has time for, whichever says less.
    Ok((row, per_cpu.median()))
}

/// Calls that have ended leave nothing behind.
fn no_legs_left(nat: &mut RunningNat) -> Result<()> {
    tests::wait::wait_until("the legs of all calls to go", tests::wait::SOON, || {
        nat.json(&["relays"])
            .is_ok_and(|legs| legs.as_array().is_some_and(Vec::is_empty))
    })
}

fn of_rtpengine(bench: &Bench) -> Result<Vec<String>> {
    let mut stand = Stand::new(Relay::Rtpengine, 0, bench.plan.cpu)?;
    let engine = stand.engine().context("no rtpengine")?;
    let pids = engine.pids(bench.plan.cpu)?;
    let (rounds, count) = if bench.options.quick { (2, 100) } else { (5, 1_000) };
    let (mut per_cpu, mut by_clock) = (Series::default(), Series::default());
    for _ in 0..rounds {
        let (start, before) = (Instant::now(), process::cpu(&pids)?);
        for number in 0..count {
            engine.call(number)?;
            engine.end(number)?;
        }
        per_cpu.push(f64::from(count) / (process::cpu(&pids)? - before).as_secs_f64());
        by_clock.push(f64::from(count) / start.elapsed().as_secs_f64());
    }
    let made = (rounds * count).to_string();
    let what = "offer, answer, delete".into();
    Ok(vec![
        "rtpengine".into(),
        what,
        per_cpu.text(1.0, 0),
        by_clock.text(1.0, 0),
        made,
        "0".into(),
        "-".into(),
    ])
}

/// NAT and SIP server in one, which relays everything.
fn config(lab: &Lab) -> String {
    let addresses: Vec<String> = (0..ADDRESSES)
        .map(|index| format!("\"{}\"", lab.external(index)))
        .collect();
    format!(
        "[nat]\naddresses = [{}]\n[ports]\nexclude_local = false\nexclude = [{}]\nrest = \"{}s\"\n\
         [sip]\nstore = \"off\"\ntrusted = [\"10.0.0.0/8\"]\n[[sip.listen]]\ntransport = \"udp\"\naddress = \"{}\"\n\
         [[sip.domain]]\nnames = [\"{DOMAIN}\"]\nauthenticate = false\n[sip.paths]\nudp = \"off\"\n[sip.media]\nanchor = \"always\"\n",
        addresses.join(", "),
        SERVER.port(),
        REST.as_secs(),
        SERVER.ip(),
    )
}

//! `cargo xtask demo`: from nothing to a running NAT with real programs through it.

mod acts;
mod media;
mod telephone;
mod voice;

use std::time::Instant;

use anyhow::{Result, bail};
use tests::{link::Offloads, prelude::*, programs};

use crate::run::{again_as_root, binary, is_root};
use crate::{build, setup};

/// What the demo stands on.
pub struct Stage {
    pub lab: Lab,
    pub nat: RunningNat,
    pub files: programs::TempDir,
}

/// One act: what it shows, and how.
type Act = (&'static str, fn(&mut Stage) -> Result<String>);

const ACTS: &[Act] = &[
    ("ping", acts::ping),
    ("traceroute, the router is a hop", acts::traceroute),
    ("a page from a web server, with curl", acts::web),
    ("a name from a DNS server", acts::dns),
    ("iperf3, TCP and UDP", acts::iperf),
    (
        "a long TCP session and a voice-like stream; then kill -9, a new flow, and a restart",
        acts::survive,
    ),
    ("the tables", acts::tables),
    ("the end: detach leaves nothing", acts::detach),
    (
        "telephones: a phone behind a NAT registers, is called, and stays reachable",
        |_| telephone::run(),
    ),
    (
        "media: two phones behind two NATs of others talk through the relay, and somebody sprays its ports",
        |_| media::run(),
    ),
];

/// Sets up, builds, runs the acts, cleans up. An error if any act failed.
pub fn run() -> Result<()> {
    setup::run()?;
    build::run()?;
    if !is_root() {
        return again_as_root("making network namespaces and loading programs into the kernel");
    }
    let stage = set_stage()?;
    play(stage)
}

fn set_stage() -> Result<Stage> {
    println!("\n== the lab: h1, h2 - router (sipnat) - another router - o1, o2, far; each a network namespace");
    let lab = Lab::builder()
        .inside_hosts(2)
        .outside_hosts(2)
        .far(1400)
        .cold_neighbours()
        .offloads(Offloads::Xdp)
        .build()?;
    let config = NatConfig::toml("[nat]\ncounting = true\n").binary(&binary());
    let nat = lab.start_nat_as(Nat::Sipnat, config)?;
    print!("{}", text_of(&nat, &["status"])?);
    Ok(Stage {
        lab,
        nat,
        files: programs::TempDir::new()?,
    })
}

fn play(mut stage: Stage) -> Result<()> {
    let start = Instant::now();
    let mut results = Vec::new();
    for (title, act) in ACTS {
        println!("\n== {title}");
        let result = act(&mut stage);
        match &result {
            Ok(what) => println!("   {what}"),
            Err(error) => println!("   FAILED: {error:#}"),
        }
        results.push((title, result));
    }
    drop(stage);
    println!("\nSummary ({:.0} s):", start.elapsed().as_secs_f64());
    for (title, result) in &results {
        match result {
            Ok(what) => println!("  ok      {title}: {what}"),
            Err(error) => println!("  FAILED  {title}: {error:#}"),
        }
    }
    let failed = results.iter().filter(|(_, result)| result.is_err()).count();
    if failed > 0 {
        bail!("{failed} of {} acts failed", results.len());
    }
    println!("All of it went through the NAT. The namespaces are gone.");
    Ok(())
}

/// Prints what a program said, a little indented.
pub fn show(text: &str) {
    for line in text.lines() {
        println!("   {line}");
    }
}

/// What a command of the command line prints.
pub fn text_of(nat: &RunningNat, args: &[&str]) -> Result<String> {
    let output = nat.sipnat(args)?;
    if !output.status.success() {
        bail!(
            "sipnat {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

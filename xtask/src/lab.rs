//! `cargo xtask lab`: the lab of the tests, for people.

mod state;

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use tests::lab::Lab;
use tests::router::{Nat, NatConfig};
use tests::{ns, sipnat};

use crate::cli::{self, LabNat, LabUp};
use crate::run::{again_as_root, binary, is_root};
use crate::{build, setup};
use state::State;

/// Runs one of the `lab` commands, as root.
pub fn run(command: &cli::Lab) -> Result<()> {
    if let cli::Lab::Up(up) = command {
        prepare(up)?;
    }
    if !is_root() {
        return again_as_root("making and entering network namespaces");
    }
    match command {
        cli::Lab::Up(up) => self::up(up),
        cli::Lab::Down(lab) => down(&lab.name),
        cli::Lab::Status => status(),
    }
}

/// What a user's own rights are enough (and better) for.
fn prepare(up: &LabUp) -> Result<()> {
    setup::run()?;
    match up.nat {
        LabNat::Sipnat => build::run(),
        LabNat::Nftables => Ok(()),
    }
}

fn up(options: &LabUp) -> Result<()> {
    let name = &options.lab.name;
    if State::load(name)?.is_some() {
        bail!("the lab {name:?} is up already: `cargo xtask lab down --name {name}` removes it, --name makes another");
    }
    let prefix = format!("sipnat-lab-{name}");
    let builder = Lab::builder()
        .prefix(&prefix)
        .inside_hosts(options.phones)
        .outside_hosts(2);
    // People want to see ARP and path-MTU discovery at work, tests mostly do not.
    let lab = builder.external_addresses(2).far(1400).cold_neighbours().build()?;
    let directory = state::directory(name);
    let nat = match options.nat {
        LabNat::Sipnat => Nat::Sipnat,
        LabNat::Nftables => Nat::Nftables,
    };
    let mut running = lab.start_nat_as(nat, NatConfig::toml("").binary(&binary()).detached(&directory))?;
    let pids = if nat == Nat::Sipnat {
        vec![running.daemon().pid()]
    } else {
        Vec::new()
    };
    let namespaces = lab.namespaces().iter().map(|(_, ns)| ns.name().to_string()).collect();
    State {
        name: name.clone(),
        nat: format!("{nat:?}").to_lowercase(),
        namespaces,
        pids,
    }
    .save()?;
    lab.keep();
    running.keep();
    describe(&lab, name, nat);
    Ok(())
}

fn describe(lab: &Lab, name: &str, nat: Nat) {
    println!("The lab {name:?} is up. Enter a namespace with:\n");
    let enter = |ns: &ns::Namespace| format!("nsenter --net={}", ns.path());
    for (role, host) in lab.hosts() {
        println!("  {role:<7} {:<16} {}", host.ip, enter(host));
    }
    println!(
        "  {:<7} {:<16} {}",
        "or",
        tests::lab::OUTSIDE_ROUTER,
        enter(lab.other("or"))
    );
    println!("  {:<7} {:<16} {}", "router", lab.external(0), enter(&lab.router));
    if nat == Nat::Sipnat {
        let directory = state::directory(name);
        println!("\nThe daemon logs to {}/sipnat.log; ask it with:", directory.display());
        println!(
            "  {} status --socket {}/sipnat.sock",
            binary().display(),
            directory.display()
        );
    } else {
        println!("\nThe router's connections:\n  {} conntrack -L", enter(&lab.router));
    }
    println!("\nFor example:\n  {} ping -c 3 {}", enter(lab.h(1)), lab.o(1).ip);
    println!("  {} traceroute -n {}", enter(lab.h(1)), lab.far().ip);
    println!("\nRemove it with `cargo xtask lab down --name {name}`.");
}

fn down(name: &str) -> Result<()> {
    let Some(state) = State::load(name)? else {
        bail!("there is no lab {name:?}; `cargo xtask lab status` lists the labs")
    };
    let directory = state::directory(name);
    let config = directory.join("sipnat.toml");
    for namespace in &state.namespaces {
        if Path::new("/run/netns").join(namespace).exists() {
            ns::remove(namespace)?;
        }
    }
    if config.exists() {
        sipnat::remove_place(&directory)?;
    }
    state.remove()?;
    println!(
        "The lab {name:?} is gone: {} namespaces removed.",
        state.namespaces.len()
    );
    Ok(())
}

fn status() -> Result<()> {
    let labs = state::all()?;
    if labs.is_empty() {
        println!("No lab is up; `cargo xtask lab up` makes one.");
    }
    for lab in labs {
        println!("{} ({}):", lab.name, lab.nat);
        for namespace in &lab.namespaces {
            let pids = Command::new("ip")
                .args(["netns", "pids", namespace])
                .output()
                .context("start ip")?;
            let pids = String::from_utf8_lossy(&pids.stdout)
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ");
            let there = Path::new("/run/netns").join(namespace).exists();
            println!(
                "  {namespace:<32} {}{pids}",
                if !there {
                    "gone"
                } else if pids.is_empty() {
                    ""
                } else {
                    "runs "
                }
            );
        }
    }
    Ok(())
}

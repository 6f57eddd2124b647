//! Situations of a router's life with the real daemon: kinds of links, floods and full tables, upgrades and watching.
//! Needs root.

#[path = "scenarios/first_packets.rs"]
mod first_packets;
#[path = "scenarios/floods.rs"]
mod floods;
#[path = "scenarios/leases.rs"]
mod leases;
#[path = "scenarios/life.rs"]
mod life;
#[path = "scenarios/links.rs"]
mod links;
#[path = "scenarios/policy.rs"]
mod policy;
#[path = "scenarios/registrations.rs"]
mod registrations;
#[path = "scenarios/relay.rs"]
mod relay;
#[path = "scenarios/stages.rs"]
mod stages;

use serde_json::Value;
use tests::prelude::*;

/// A counter of `sipnat counters`, summed over the directions.
fn counter(nat: &RunningNat, name: &str) -> u64 {
    let counters = nat.json(&["counters", "--all"]).unwrap();
    let list = counters.as_array().unwrap();
    let found: Vec<u64> = list
        .iter()
        .filter(|counter| counter["name"] == name)
        .map(|counter| counter["value"].as_u64().unwrap())
        .collect();
    assert!(!found.is_empty(), "no counter {name} in {counters}");
    found.iter().sum()
}

/// The attach mode and MTU of each interface in `sipnat status`.
fn modes(nat: &RunningNat) -> Vec<(Value, Value)> {
    let status = nat.json(&["status"]).unwrap();
    let interfaces = status["interfaces"].as_array().unwrap();
    interfaces
        .iter()
        .map(|i| (i["mode"].clone(), i["mtu"].clone()))
        .collect()
}

//! What translates in the router: sipnat, nftables for comparison, or nothing.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::lab::{DEV, Lab};
use crate::link::ethtool_feature;
use crate::ns::Namespace;
use crate::sipnat::Daemon;

/// The environment variable that chooses the NAT of [`Lab::start_nat`]: `sipnat` (default), `nftables` or `none`.
pub const NAT_VARIABLE: &str = "SIPNAT_LAB_NAT";

/// Who translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nat {
    /// The project's own NAT.
    Sipnat,
    /// nftables masquerade, behind a stateful forward filter as on a home router.
    Nftables,
    /// Plain forwarding by the kernel.
    None,
}

impl Nat {
    /// The choice in [`NAT_VARIABLE`]. An unknown value panics.
    pub fn from_env() -> Self {
        match env::var(NAT_VARIABLE).as_deref() {
            Err(_) | Ok("" | "sipnat") => Self::Sipnat,
            Ok("nftables") => Self::Nftables,
            Ok("none") => Self::None,
            Ok(other) => panic!("{NAT_VARIABLE}={other}: use sipnat, nftables or none"),
        }
    }
}

/// Says whether a test applies to the NAT chosen by the environment. If not, it prints a line that the scorecard
/// reads, and the test should return at once.
///
/// ```no_run
/// # use tests::router::{Nat, applies_to};
/// if !applies_to(&[Nat::Sipnat], "nftables has no blocks of ports") {
///     return;
/// }
/// ```
pub fn applies_to(nats: &[Nat], why_not_others: &str) -> bool {
    let applies = nats.contains(&Nat::from_env());
    if !applies {
        not_applicable(why_not_others);
    }
    applies
}

/// Says that a test cannot be asked of what is under test, and why: a line that the scorecard reads. The test should return at once.
pub fn not_applicable(why: &str) {
    println!("scorecard: not applicable: {why}");
}

/// Says that a recommendation (a SHOULD, not a MUST) is not followed by the NAT under test, and what was seen instead: a line
/// that the scorecard reads. The test itself passes.
pub fn not_met(what_was_seen: &str) {
    println!("scorecard: not met: {what_was_seen}");
}

/// How the NAT is to be configured.
#[derive(Clone, Debug, Default)]
pub struct NatConfig {
    pub(crate) toml: String,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) detached: Option<PathBuf>,
    pub(crate) binary: Option<PathBuf>,
    pub(crate) cpus: Option<String>,
    lifetime_scale: Option<f64>,
    nft: Option<String>,
}

impl NatConfig {
    /// sipnat's TOML. `socket` and `pin_dir` in `[daemon]`, and `inside` and `outside` in `[nat]`, are filled in unless
    /// they are there.
    pub fn toml(text: &str) -> Self {
        Self {
            toml: text.into(),
            ..Self::default()
        }
    }
    /// One more argument of `sipnat run`.
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.into());
        self
    }
    /// One more environment variable of `sipnat run`.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }
    /// Multiplies all lifetimes: `--lifetime-scale` for sipnat, the conntrack timeouts for nftables (at least 1 s).
    pub fn lifetime_scale(mut self, scale: f64) -> Self {
        self.lifetime_scale = Some(scale);
        self
    }
    /// Replaces the ruleset of the nftables router.
    pub fn nft(mut self, rules: &str) -> Self {
        self.nft = Some(rules.into());
        self
    }
    /// Runs this binary instead of the one that [`crate::sipnat::binary`] finds.
    pub fn binary(mut self, path: &Path) -> Self {
        self.binary = Some(path.into());
        self
    }
    /// Runs the daemon on these cores only, as `taskset` names them.
    pub fn cpus(mut self, cpus: &str) -> Self {
        self.cpus = Some(cpus.into());
        self
    }
    /// Lets the daemon outlive this process, with its files and its log in this directory.
    pub fn detached(mut self, directory: &Path) -> Self {
        self.detached = Some(directory.into());
        self
    }
}

impl From<&str> for NatConfig {
    fn from(toml: &str) -> Self {
        Self::toml(toml)
    }
}

impl From<String> for NatConfig {
    fn from(toml: String) -> Self {
        Self::toml(&toml)
    }
}

/// A running NAT. Dropping it removes all of it from the router; if the test failed, the daemon's log is printed.
#[derive(Debug)]
pub struct RunningNat {
    nat: Nat,
    router: Namespace,
    daemon: Option<Daemon>,
}

impl Lab {
    /// Starts the NAT that the environment chooses ([`Nat::from_env`]).
    pub fn start_nat(&self, config: impl Into<NatConfig>) -> Result<RunningNat> {
        self.start_nat_as(Nat::from_env(), config)
    }

    /// Starts this NAT and returns when it translates.
    pub fn start_nat_as(&self, nat: Nat, config: impl Into<NatConfig>) -> Result<RunningNat> {
        let mut config = config.into();
        let daemon = match nat {
            Nat::None => None,
            Nat::Nftables => {
                let rules = config.nft.unwrap_or_else(|| masquerade(self));
                self.router.nft(&rules)?;
                if let Some(scale) = config.lifetime_scale {
                    scale_conntrack(&self.router, scale)?;
                }
                None
            }
            Nat::Sipnat => {
                if let Some(scale) = config.lifetime_scale {
                    config = config.arg("--lifetime-scale").arg(&scale.to_string());
                }
                config.toml = self.complete(&config.toml);
                Some(Daemon::start(&self.router, config)?)
            }
        };
        Ok(RunningNat {
            nat,
            router: self.router.clone(),
            daemon,
        })
    }

    /// Lets sipnat translate in a foreign NAT, instead of nftables, until the daemon that is returned is dropped.
    pub fn translate_by_sipnat(&self, number: usize, toml: &str) -> Result<Daemon> {
        let (nat, host) = (self.n(number), self.f(number));
        nat.run("nft", ["flush", "ruleset"])?;
        // What XDP redirects arrives at ends that poll only ([`crate::link`]).
        ethtool_feature(host, DEV, "gro", true)?;
        ethtool_feature(self.other("outside"), &format!("n{number}"), "gro", true)?;
        let toml = fill_in(toml, "nat", "outside", "[\"eth0\"]");
        let toml = fill_in(&toml, "nat", "inside", "[\"eth1\"]");
        Daemon::start(nat, NatConfig::toml(&toml))
    }

    /// sipnat's TOML with this lab's interfaces filled in where `[nat]` does not name any.
    pub fn complete(&self, toml: &str) -> String {
        let list = |names: Vec<&str>| {
            format!(
                "[{}]",
                names
                    .iter()
                    .map(|name| format!("{name:?}"))
                    .collect::<Vec<_>>()
                    .join(", ")
            )
        };
        let toml = fill_in(toml, "nat", "outside", &list(self.outside_interfaces()));
        fill_in(&toml, "nat", "inside", &list(self.inside_interfaces()))
    }
}

impl RunningNat {
    /// Who translates.
    pub fn nat(&self) -> Nat {
        self.nat
    }

    /// The daemon; panics if this is not sipnat.
    pub fn daemon(&mut self) -> &mut Daemon {
        self.daemon.as_mut().expect("this router does not run sipnat")
    }

    /// Runs `sipnat ARGS --socket …` and returns whatever came of it.
    pub fn sipnat(&self, args: &[&str]) -> Result<Output> {
        self.running()?.cli(args)
    }

    /// Runs `sipnat ARGS --json --socket …`, which must succeed, and returns what it prints.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let output = self.running()?.cli(&[args, &["--json"]].concat())?;
        if !output.status.success() {
            bail!(
                "sipnat {} --json: {}\n{}",
                args.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        serde_json::from_slice(&output.stdout).with_context(|| {
            format!(
                "sipnat {} --json printed no JSON: {}",
                args.join(" "),
                String::from_utf8_lossy(&output.stdout)
            )
        })
    }

    /// Ends the daemon with SIGKILL. The data path goes on.
    pub fn kill9(&mut self) {
        self.daemon().kill9();
    }

    /// Starts the daemon again after [`Self::kill9`] or [`Self::stop`], over the existing pins.
    pub fn restart(&mut self) -> Result<()> {
        self.daemon().restart()
    }

    /// Ends the daemon with SIGTERM and waits for it. The data path goes on.
    pub fn stop(&mut self) -> Result<()> {
        self.daemon().stop()
    }

    /// What the daemon logged so far, over all its starts; nothing for other routers.
    pub fn log(&self) -> String {
        self.daemon.as_ref().map(Daemon::log).unwrap_or_default()
    }

    /// Leaves the NAT in the router when this is dropped.
    pub fn keep(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            daemon.keep();
        }
        self.nat = Nat::None;
    }

    fn running(&self) -> Result<&Daemon> {
        self.daemon.as_ref().context("this router does not run sipnat")
    }
}

impl Drop for RunningNat {
    fn drop(&mut self) {
        if self.nat == Nat::Nftables
            && let Err(error) = self.router.run("nft", ["flush", "ruleset"])
        {
            eprintln!("{error:#}");
        }
    }
}

/// Inserts `key = value` into a section of a TOML text, unless the section has that key; adds the section if needed.
pub(crate) fn fill_in(toml: &str, section: &str, key: &str, value: &str) -> String {
    let header = format!("[{section}]");
    let mut lines: Vec<String> = toml.lines().map(str::to_string).collect();
    let Some(at) = lines.iter().position(|line| line.trim() == header) else {
        return format!("{}\n{header}\n{key} = {value}\n", toml.trim_end());
    };
    let body = lines[at + 1..]
        .iter()
        .take_while(|line| !line.trim_start().starts_with('['));
    let has = |line: &String| line.split('=').next().is_some_and(|name| name.trim() == key);
    if !body.clone().any(has) {
        lines.insert(at + 1, format!("{key} = {value}"));
    }
    lines.join("\n") + "\n"
}

fn masquerade(lab: &Lab) -> String {
    let set = |names: Vec<&str>| {
        names
            .iter()
            .map(|name| format!("{name:?}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let (inside, outside) = (set(lab.inside_interfaces()), set(lab.outside_interfaces()));
    format!(
        "table ip nat {{
            chain post {{ type nat hook postrouting priority srcnat; oifname {{ {outside} }} masquerade; }}
        }}
        table ip filter {{
            chain forward {{
                type filter hook forward priority filter; policy drop;
                ct state established,related accept
                iifname {{ {inside} }} accept
            }}
        }}"
    )
}

fn scale_conntrack(router: &Namespace, scale: f64) -> Result<()> {
    const TIMEOUTS: [&str; 10] = [
        "udp_timeout",
        "udp_timeout_stream",
        "icmp_timeout",
        "tcp_timeout_syn_sent",
        "tcp_timeout_syn_recv",
        "tcp_timeout_established",
        "tcp_timeout_fin_wait",
        "tcp_timeout_close_wait",
        "tcp_timeout_last_ack",
        "tcp_timeout_time_wait",
    ];
    for name in TIMEOUTS {
        let key = format!("net.netfilter.nf_conntrack_{name}");
        let seconds: f64 = router.read_sysctl(&key)?.parse().with_context(|| key.clone())?;
        router.sysctl(&key, (seconds * scale).ceil().max(1.0) as u64)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_keys_are_filled_in_and_given_ones_kept() {
        let text = "[nat]\ninside = [\"x\"]\n[ports]\nrest = \"1s\"\n";
        assert_eq!(fill_in(text, "nat", "inside", "[]"), text);
        assert_eq!(
            fill_in(text, "nat", "outside", "1"),
            format!("[nat]\noutside = 1\n{}", &text[6..])
        );
        assert_eq!(
            fill_in(text, "daemon", "socket", "2"),
            format!("{text}[daemon]\nsocket = 2\n")
        );
    }
}

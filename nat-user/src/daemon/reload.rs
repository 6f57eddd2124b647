//! A changed configuration, applied as a whole or not at all.

use anyhow::{Context as _, Result, bail};

use super::{
    blocks::{Log, News},
    life::Life,
    start::{look, own_ports, sizes},
    topology::{Topology, count_external},
};
use crate::{
    config::Config,
    dataplane::geometry,
    pool::{self, Closed},
    records,
};

impl Life {
    /// Reads the configuration again and applies it; says what changed.
    ///
    /// # Errors
    /// If anything is wrong with it or cannot change without a restart; nothing has changed then.
    pub async fn reload(&mut self) -> Result<String> {
        let (config, old) = (self.options.load()?, self.state.current().config.clone());
        let fixed = unchanged;
        immutable(&old, &config)?;
        let (interfaces, addresses) = (self.net.interfaces().await?, self.net.addresses().await?);
        let kernel = &self.state.kernel;
        let wanted = count_external(&config, &interfaces, &addresses);
        let capacity = sizes(&config, wanted, Some(kernel.capacity.addresses)).map_err(fixed)?;
        if capacity != kernel.capacity {
            return Err(fixed(anyhow::anyhow!(
                "the sizes of the tables would change (nat.capacity, nat.sessions, nat.destinations, nat.counting, ports.block_size, ports.hosts, fragments.datagrams); run `sipnat detach`, which ends all bindings, and start again"
            )));
        }
        let report = look(&config, &capacity, true, self.options.allow_sysctl)
            .await
            .map_err(fixed)?;
        let topology = Topology::new(&config, &interfaces, &addresses).map_err(fixed)?;
        let devices = topology.devices().map_err(fixed)?;
        let closed = Closed::new(&config.ports, own_ports(&config).map_err(fixed)?.as_ref());
        let mut recovered = self.forwards.clone();
        recovered
            .replace_fixed(config.forwards.clone())
            .map_err(|error| fixed(anyhow::anyhow!(error)))?;
        let log = (config.log != old.log)
            .then(|| Log::open_target(&config.log.blocks))
            .transpose()
            .map_err(fixed)?;
        // The last thing that can fail.
        kernel.attach(&devices, report.mode).map_err(fixed)?;

        let secret = kernel.secret();
        let mut numbers = self.state.current().numbers;
        let half = kernel.prepare(&geometry::rules(&config), |first_rule| {
            numbers = geometry::numbers(&config, &capacity, &kernel.clock, secret, topology.mtu(), first_rule);
            numbers
        })?;
        pool::apply(&kernel.tables, &numbers, &closed, false);
        kernel.set_prefixes(&config.nat.bypass, &config.nat.inside_prefixes)?;
        kernel.activate(half);
        self.forwards = recovered;
        let message = difference(&old, &config);
        {
            let mut current = self.state.change();
            current.config = config;
            current.numbers = numbers;
            current.closed = closed;
            current.mode = report.mode;
            current.warnings = report.warnings.iter().map(ToString::to_string).collect();
        }
        self.move_to(topology)
            .context("the new configuration is in force, but")?;
        // Without the log's task the daemon is ending.
        let _ = self.news.send(match log {
            Some(log) => News::Replace(log),
            None => News::Reopen,
        });
        self.state.events.publish(records::Event::Reloaded {
            message: message.clone(),
        });
        Ok(message)
    }
}

fn unchanged(error: anyhow::Error) -> anyhow::Error {
    error.context("the configuration was not applied and nothing has changed")
}

/// Refuses what only a new process can change.
fn immutable(old: &Config, new: &Config) -> Result<()> {
    let parts = [
        ("daemon.socket", old.daemon.socket != new.daemon.socket),
        ("daemon.pin_dir", old.daemon.pin_dir != new.daemon.pin_dir),
        ("daemon.log", old.daemon.log != new.daemon.log),
        ("metrics", old.metrics != new.metrics),
    ];
    let changed: Vec<&str> = parts
        .iter()
        .filter(|(_, changed)| *changed)
        .map(|(name, _)| *name)
        .collect();
    if !changed.is_empty() {
        bail!(
            "the configuration was not applied and nothing has changed: {} cannot change while the daemon runs; stop it and start it again, which loses no binding",
            changed.join(" and ")
        );
    }
    Ok(())
}

/// The sections that differ.
fn difference(old: &Config, new: &Config) -> String {
    let parts = [
        ("nat", old.nat != new.nat),
        ("ports", old.ports != new.ports),
        ("filtering", old.filtering != new.filtering),
        ("lifetimes", old.lifetimes != new.lifetimes),
        ("forwards", old.forwards != new.forwards),
        ("policy", old.policy != new.policy),
        ("icmp", old.icmp != new.icmp),
        ("fragments", old.fragments != new.fragments),
        ("log", old.log != new.log),
    ];
    let changed: Vec<&str> = parts
        .iter()
        .filter(|(_, changed)| *changed)
        .map(|(name, _)| *name)
        .collect();
    if changed.is_empty() {
        "read the configuration again: nothing has changed in it".into()
    } else {
        format!("applied the changed configuration: {}", changed.join(", "))
    }
}

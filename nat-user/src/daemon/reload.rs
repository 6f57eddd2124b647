//! A changed configuration, applied as a whole or not at all.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, anyhow, bail};

use super::{
    blocks::{Log, News},
    life::Life,
    nat::Nat,
    sip,
    start::{look, own_ports, sizes},
    topology::{Topology, count_external},
};
use crate::{
    config::{Config, RunOptions},
    dataplane::{geometry, links::Wanted},
    forwards::Forwards,
    lines::Lines,
    net,
    pool::{self, Closed},
    preflight::Report,
    records,
    sip::{calls, query::Setup},
};

impl Life {
    /// Reads the configuration, with the files that it names, again and applies it; says what changed.
    ///
    /// Everything that can fail comes before anything is applied; of two parts that can both refuse what they were to do, the first takes it
    /// back.
    ///
    /// # Errors
    /// If anything is wrong with it or cannot change without a restart; nothing has changed then.
    pub async fn reload(&mut self) -> Result<String> {
        let ready = self
            .prepare()
            .await
            .context("the configuration was not applied and nothing has changed")?;
        let message = difference(&self.config, &ready.config);
        self.apply(ready)
            .await
            .context("the new configuration is in force, but")?;
        self.events.publish(records::Event::Reloaded {
            message: message.clone(),
        });
        Ok(message)
    }

    /// Everything that can fail.
    async fn prepare(&self) -> Result<Ready> {
        let config = self.options.load()?;
        immutable(&self.config, &config)?;
        let (interfaces, addresses) = (self.net.interfaces().await?, self.net.addresses().await?);
        let sip = self.read_sip(&config, &interfaces, &addresses)?;
        let records = self.open_records(&config)?;
        let nat = match &self.nat {
            Some(nat) => Some(nat.prepare(&self.options, &config, &interfaces, &addresses).await?),
            None => None,
        };
        if let (Some(running), Some(setup)) = (&self.sip, &sip) {
            running.server.listen(setup).await?;
        }
        if let (Some(running), Some(prepared)) = (&self.nat, &nat)
            && let Err(error) = running.state.kernel.attach(&prepared.devices, prepared.report.mode)
        {
            self.take_back_sip().await;
            return Err(running.attach_again(error));
        }
        Ok(Ready {
            config,
            nat,
            sip,
            records,
        })
    }

    async fn apply(&mut self, ready: Ready) -> Result<()> {
        let Ready {
            config,
            nat,
            sip,
            records,
        } = ready;
        self.config = config;
        if let (Some(running), Some(setup)) = (&self.sip, sip) {
            running.server.configure(setup).await?;
        }
        if let (Some(running), Some(prepared)) = (&mut self.nat, nat) {
            running.apply(prepared, self.config.clone())?;
        }
        if let (Some(sip), Some(policy)) = (&self.sip, self.media_policy()) {
            sip.server.media_policy(policy).await?;
        }
        self.record_calls(records);
        self.end_stranded_media().await;
        self.make_way();
        Ok(())
    }

    fn read_sip(
        &self,
        config: &Config,
        interfaces: &[net::Interface],
        addresses: &[net::Address],
    ) -> Result<Option<Setup>> {
        match (&self.sip, &config.sip) {
            (Some(sip), Some(config)) => {
                let old = sip.server.setup();
                sip::read(config, &old.listeners, interfaces, addresses).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Opens the place for records of calls that the configuration names, if it is another one.
    fn open_records(&self, config: &Config) -> Result<Option<Lines>> {
        match (&self.config.sip, &config.sip) {
            (Some(old), Some(new)) if old.calls != new.calls => calls::open(&new.calls.records).map(Some),
            _ => Ok(None),
        }
    }

    /// Has records of calls go to another place, or to the file of that name as it is now.
    fn record_calls(&self, records: Option<Lines>) {
        let (Some(running), Some(config)) = (&self.sip, &self.config.sip) else {
            return;
        };
        let (recorder, target) = (running.recorder.clone(), config.calls.records.clone());
        // It waits for the disk, as nothing else does.
        tokio::task::spawn_blocking(move || match records {
            Some(lines) => recorder.replace(lines, &target),
            None => recorder.reopen(),
        });
    }

    /// Listeners and certificates become again what they were.
    async fn take_back_sip(&self) {
        let Some(sip) = &self.sip else { return };
        let old = sip.server.setup();
        if let Err(error) = sip.server.listen(&old).await {
            tracing::error!("the SIP listeners of before could not be opened again: {error:#}");
        }
    }
}

/// What is to be in force.
struct Ready {
    config: Config,
    nat: Option<Prepared>,
    sip: Option<Setup>,
    /// Another place for the records of calls.
    records: Option<Lines>,
}

/// What a NAT is to become.
struct Prepared {
    report: Report,
    topology: Topology,
    devices: Vec<Wanted>,
    closed: Closed,
    forwards: Forwards,
    log: Option<Log>,
}

impl Nat {
    /// Everything that can fail but attaching; changes nothing.
    async fn prepare(
        &self,
        options: &RunOptions,
        config: &Config,
        interfaces: &[net::Interface],
        addresses: &[net::Address],
    ) -> Result<Prepared> {
        let kernel = &self.state.kernel;
        let wanted = count_external(config, interfaces, addresses);
        let capacity = sizes(config, wanted, Some(kernel.capacity.addresses))?;
        if capacity != kernel.capacity {
            bail!(
                "the sizes of the tables would change (nat.capacity, nat.sessions, nat.destinations, nat.relay_legs, nat.counting, ports.block_size, ports.hosts, fragments.datagrams); run `sipnat detach`, which ends all bindings, and start again"
            );
        }
        let report = look(config, &capacity, true, options.allow_sysctl).await?;
        let topology = Topology::new(config, interfaces, addresses)?;
        let devices = topology.devices();
        let closed = Closed::new(&config.ports, own_ports(config)?.as_ref());
        let mut forwards = self.forwards.clone();
        forwards
            .replace_fixed(config.forwards.clone())
            .map_err(|error| anyhow!(error))?;
        let log = (config.log != self.state.current().config.log)
            .then(|| Log::open_target(&config.log.blocks))
            .transpose()?;
        // Where the external addresses are does not matter to the room.
        kernel.check_room(&topology.surroundings(&BTreeMap::new()))?;
        Ok(Prepared {
            report,
            topology,
            devices,
            closed,
            forwards,
            log,
        })
    }

    /// Gives the devices the programs of before, after an attempt to give them others has failed on the way.
    fn attach_again(&self, error: anyhow::Error) -> anyhow::Error {
        let current = self.state.current();
        match self.state.kernel.attach(&current.topology.devices(), current.mode) {
            Ok(()) => error,
            Err(second) => error.context(format!(
                "but the programs could not all be attached as before ({second:#}); start sipnat again, which loses no binding"
            )),
        }
    }

    /// Puts what was prepared in force.
    fn apply(&mut self, prepared: Prepared, config: Config) -> Result<()> {
        let Prepared {
            report,
            topology,
            closed,
            forwards,
            log,
            ..
        } = prepared;
        let kernel = &self.state.kernel;
        let secret = kernel.secret();
        let mut numbers = self.state.current().numbers;
        let half = kernel.prepare(&geometry::rules(&config), |first_rule| {
            numbers = geometry::numbers(
                &config,
                &kernel.capacity,
                &kernel.clock,
                secret,
                topology.mtu(),
                first_rule,
            );
            numbers
        })?;
        // There is room for them: that was checked.
        kernel.set_prefixes(&config.nat.bypass, &config.nat.inside_prefixes)?;
        pool::apply(&kernel.tables, &numbers, &closed, false);
        kernel.activate(half);
        self.forwards = forwards;
        {
            let mut current = self.state.change();
            current.config = config;
            current.numbers = numbers;
            current.closed = closed;
            current.mode = report.mode;
            current.warnings = report.warnings.iter().map(ToString::to_string).collect();
        }
        let pap = self.state.current().config.pap.clone();
        if let (Some(running), Some(pap)) = (&self.pap, pap) {
            running.configure(&pap);
        }
        self.move_to(topology)?;
        // A SIP server beside may have opened ports in the meantime.
        self.follow_ports();
        // Without the log's task the daemon is ending.
        let _ = self.news.send(match log {
            Some(log) => News::Replace(log),
            None => News::Reopen,
        });
        Ok(())
    }
}

/// Refuses what only a new process can change.
fn immutable(old: &Config, new: &Config) -> Result<()> {
    let files = |config: &Config| config.sip.as_ref().map(|sip| (sip.store.clone(), sip.secret.clone()));
    let parts = [
        ("daemon.socket", old.daemon.socket != new.daemon.socket),
        ("daemon.pin_dir", old.daemon.pin_dir != new.daemon.pin_dir),
        ("daemon.log", old.daemon.log != new.daemon.log),
        ("metrics", old.metrics != new.metrics),
        ("whether there is a [nat]", old.nat.runs() != new.nat.runs()),
        (
            "whether there is a [pap], and pap.store",
            old.pap.as_ref().map(|pap| &pap.store) != new.pap.as_ref().map(|pap| &pap.store),
        ),
        ("whether there is a [sip]", old.sip.is_some() != new.sip.is_some()),
        (
            "sip.store and sip.secret",
            old.sip.is_some() && new.sip.is_some() && files(old) != files(new),
        ),
    ];
    let changed: Vec<&str> = parts
        .iter()
        .filter(|(_, changed)| *changed)
        .map(|(name, _)| *name)
        .collect();
    if !changed.is_empty() {
        bail!(
            "{} cannot change while the daemon runs; stop it and start it again, which loses no binding and no registration",
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
        ("pap", old.pap != new.pap),
        ("sip", old.sip != new.sip),
    ];
    let changed: Vec<&str> = parts
        .iter()
        .filter(|(_, changed)| *changed)
        .map(|(name, _)| *name)
        .collect();
    // What these files say is in force now, whether it has changed or not.
    let files = if new.sip.is_some() {
        "; users files and certificates were read again"
    } else {
        ""
    };
    if changed.is_empty() {
        format!("read the configuration again: nothing has changed in it{files}")
    } else {
        format!("applied the changed configuration: {}{files}", changed.join(", "))
    }
}

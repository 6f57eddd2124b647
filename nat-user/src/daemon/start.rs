//! The start: everything is looked at before anything is touched, and everything is ready before anything is attached.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result, bail};
use nat_common::maps::{AddressWord, Capacity};
use tokio::net::TcpListener;

use super::{
    sip::{self, Sip},
    state::{Current, State},
    topology::{self, Topology, place_addresses},
};
use crate::{
    config::{Config, RunOptions, XdpMode},
    control::{Events, Listener},
    dataplane::{
        geometry,
        kernel::{self, Kernel, cpus},
        links::Wanted,
        pins::{self, Pins},
        stages,
    },
    forwards::{self, Forwards},
    metrics,
    net::{self, Monitor, Net, OwnPorts},
    pool::{self, Closed},
    preflight::{self, InterfaceSpec, PreflightInput, Report, WantedMode},
};

/// A started daemon, about to live.
pub struct Started {
    pub options: RunOptions,
    pub config: Config,
    pub parts: Parts,
    pub events: Arc<Events>,
    pub net: Arc<Net>,
    pub monitor: Monitor,
    pub listener: Listener,
    pub metrics: Option<TcpListener>,
}

/// What of the daemon runs; at least one does.
pub struct Parts {
    pub nat: Option<StartedNat>,
    pub sip: Option<Sip>,
}

/// A NAT that translates already.
pub struct StartedNat {
    pub state: Arc<State>,
    pub forwards: Forwards,
}

/// Starts: over existing pins without losing an entry, or from nothing.
///
/// The SIP server's sockets are opened before the NAT decides which ports are the router's own, and before anything is attached.
pub async fn start(options: RunOptions, config: Config) -> Result<Started> {
    // Subscribed before anything is listed, so that no change falls between the two.
    let monitor = Monitor::open()?;
    let net = Net::open()?;
    let (interfaces, addresses) = (net.interfaces().await?, net.addresses().await?);
    let sip = match &config.sip {
        Some(sip) => Some(sip::read(sip, &[], &interfaces, &addresses)?),
        None => None,
    };
    let looked = match config.nat.runs() {
        true => Some(look_at_nat(&options, &config, &interfaces, &addresses).await?),
        false => None,
    };
    let listener = Listener::bind(&config.daemon.socket)?;
    let metrics = match config.metrics.listen {
        Some(address) => Some(metrics::bind(address).await?),
        None => None,
    };
    let events = Arc::new(Events::new());
    let sip = sip.map(|setup| Sip::start(setup, config.nat.runs())).transpose()?;
    let nat = match looked {
        Some(looked) => match start_nat(&config, looked, events.clone()) {
            Ok(nat) => Some(nat),
            Err(error) => {
                if let Some(sip) = sip {
                    sip.stop().await;
                }
                return Err(error);
            }
        },
        None => None,
    };
    Ok(Started {
        options,
        config,
        parts: Parts { nat, sip },
        events,
        net: Arc::new(net),
        monitor,
        listener,
        metrics,
    })
}

/// What was found before the NAT is started.
struct Looked {
    pinned: Option<u32>,
    capacity: Capacity,
    report: Report,
    topology: Topology,
    devices: Vec<Wanted>,
}

async fn look_at_nat(
    options: &RunOptions,
    config: &Config,
    interfaces: &[net::Interface],
    addresses: &[net::Address],
) -> Result<Looked> {
    let pin_dir = &config.daemon.pin_dir;
    pins::check(pin_dir)?;
    let pinned = kernel::pinned_addresses(&pins::current(pin_dir));
    let capacity = sizes(config, topology::count_external(config, interfaces, addresses), pinned)?;
    let report = look(config, &capacity, pinned.is_some(), options.allow_sysctl).await?;
    let topology = Topology::new(config, interfaces, addresses)?;
    let devices = topology.devices();
    Ok(Looked {
        pinned,
        capacity,
        report,
        topology,
        devices,
    })
}

fn start_nat(config: &Config, looked: Looked, events: Arc<Events>) -> Result<StartedNat> {
    let pins = Pins::open(&config.daemon.pin_dir)?;
    let mut guard = Unfinished(looked.pinned.is_none().then(|| pins.dir()));
    let kernel = Kernel::open(pins, looked.capacity)?;
    let (state, forwards) = prepare(kernel, config.clone(), looked.topology, looked.report, events)?;
    state.kernel.attach(&looked.devices, report_mode(&state))?;
    guard.0 = None;
    announce(&state);
    Ok(StartedNat {
        state: Arc::new(state),
        forwards,
    })
}

fn report_mode(state: &State) -> preflight::Mode {
    state.current().mode
}

/// The sizes of the tables. The number of addresses may shrink over pinned tables, and come back.
pub fn sizes(config: &Config, addresses: u32, pinned: Option<u32>) -> Result<Capacity> {
    let addresses = match pinned {
        Some(pinned) if addresses > pinned => bail!(
            "there are {addresses} external addresses, but the pinned tables have room for {pinned}; name those to be used \
             in nat.addresses, or run `sipnat detach`, which ends all bindings, and start again"
        ),
        Some(pinned) => pinned,
        None => addresses,
    };
    Ok(geometry::capacity(config, addresses))
}

/// Preflight, with its findings in the log.
///
/// # Errors
/// With all findings that stand against a start.
pub async fn look(config: &Config, capacity: &Capacity, pinned: bool, allow_sysctl: bool) -> Result<Report> {
    let input = preflight_input(config, capacity, pinned);
    let mut report = preflight::preflight(&input).await?;
    if allow_sysctl && !report.fixes().is_empty() {
        for fix in preflight::apply_fixes(&report)? {
            tracing::warn!("changed a system setting, as --allow-sysctl permits: {fix}");
        }
        report = preflight::preflight(&input).await?;
    }
    report.notes.iter().for_each(|finding| tracing::info!("{finding}"));
    report.warnings.iter().for_each(|finding| tracing::warn!("{finding}"));
    if !report.is_ok() {
        let errors: Vec<String> = report.errors.iter().map(ToString::to_string).collect();
        bail!("{}", errors.join("\n"));
    }
    Ok(report)
}

fn preflight_input(config: &Config, capacity: &Capacity, pinned: bool) -> PreflightInput {
    let specs = |names: &[crate::config::Interface]| {
        names
            .iter()
            .map(|name| InterfaceSpec {
                name: name.name.clone(),
                vlan: name.vlan,
            })
            .collect()
    };
    let bytes = capacity.bytes(cpus());
    PreflightInput {
        inside: specs(&config.nat.inside),
        outside: specs(&config.nat.outside),
        external: config
            .nat
            .addresses
            .iter()
            .flat_map(|prefix| prefix.addresses())
            .collect(),
        inside_prefixes: config.nat.inside_prefixes.clone(),
        capacity_bytes: bytes,
        pinned_bytes: if pinned { bytes } else { 0 },
        max_bindings: geometry::bindings(config, capacity),
        nat_ports: config.ports.range.ports(),
        mode: match config.nat.xdp_mode {
            XdpMode::Auto => WantedMode::Auto,
            XdpMode::Native => WantedMode::Native,
            XdpMode::Generic => WantedMode::Generic,
        },
        socket_path: config.daemon.socket.clone(),
        pin_dir: config.daemon.pin_dir.clone(),
        own_prog_ids: pins::program_ids(&config.daemon.pin_dir),
    }
}

/// Brings the tables in order and puts the configuration in force.
fn prepare(
    kernel: Kernel,
    config: Config,
    topology: Topology,
    report: Report,
    events: Arc<Events>,
) -> Result<(State, Forwards)> {
    let fresh = kernel.tables.cells().active.get() == 0;
    let secret = kernel.secret();
    let mut numbers = None;
    let half = kernel.prepare(&geometry::rules(&config), |first_rule| {
        *numbers.insert(geometry::numbers(
            &config,
            &kernel.capacity,
            &kernel.clock,
            secret,
            topology.mtu(),
            first_rule,
        ))
    })?;
    let numbers = numbers.context("no configuration was written")?;
    let closed = Closed::new(&config.ports, own_ports(&config)?.as_ref());
    let places = set_addresses(&kernel, &topology, &mut |_, _| {});
    pool::apply(&kernel.tables, &numbers, &closed, fresh);
    let forwards = Forwards::recover(&kernel.tables, &numbers, config.forwards.clone());
    let now = kernel.clock.now();
    forwards::apply(&kernel.tables, &numbers, &forwards.slots(&kernel.tables, &numbers), now);
    kernel.set_prefixes(&config.nat.bypass, &config.nat.inside_prefixes)?;
    let staged_from = stages::from(&config, &kernel.capacity, report.mode);
    kernel.surround(&topology.surroundings(&places), staged_from)?;
    kernel.activate(half);
    let current = Current {
        config,
        numbers,
        topology,
        closed,
        mode: report.mode,
        warnings: report.warnings.iter().map(ToString::to_string).collect(),
    };
    Ok((State::new(kernel, events, current), forwards))
}

/// The router's own ports, if they are to be left out.
pub fn own_ports(config: &Config) -> Result<Option<OwnPorts>> {
    if !config.ports.exclude_local {
        return Ok(None);
    }
    OwnPorts::gather().map(Some).context(
        "cannot find out the router's own ports; name them in ports.exclude and set ports.exclude_local = false",
    )
}

/// Writes the words of the external addresses; `replaced` is told the place and the old address of each that changes.
/// Returns the place of each address in use.
pub fn set_addresses(
    kernel: &Kernel,
    topology: &Topology,
    replaced: &mut dyn FnMut(u32, AddressWord),
) -> BTreeMap<u32, u32> {
    let old: Vec<AddressWord> = kernel
        .tables
        .addresses
        .iter()
        .map(|a| AddressWord(a.word.get()))
        .collect();
    let (words, homeless) = place_addresses(&old, &topology.external, &topology.carried);
    for address in homeless {
        tracing::warn!(%address, "the tables have no room for one more external address; it is not used until they are made anew (sipnat detach, then start)");
    }
    let mut places = BTreeMap::new();
    for ((place, word), old) in (0..).zip(words).zip(old) {
        if word != old {
            kernel.tables.addresses[place as usize].word.set(word.0);
            if word.addr() != old.addr() && old.addr() != 0 {
                replaced(place, old);
            }
        }
        if word.active() {
            places.insert(word.addr(), place);
        }
    }
    places
}

/// Says how many the pool serves, and how to get more.
fn announce(state: &State) {
    let current = state.current();
    let addresses = current.topology.external.len() as u64;
    let hosts = u64::from(current.closed.open_blocks(current.numbers.block_shift)) * addresses;
    let ports = current.closed.open_ports();
    let more = if current.config.ports.exclude_local {
        "; for more: a narrower net.ipv4.ip_local_port_range, further external addresses, or smaller blocks (ports.block_size) for more hosts"
    } else {
        "; for more: further external addresses, or smaller blocks (ports.block_size) for more hosts"
    };
    tracing::info!(
        "{addresses} external addresses with {ports} ports each serve {} bindings of each protocol and {hosts} hosts with a block of {} ports; {} MiB of kernel memory{more}",
        u64::from(ports) * addresses,
        current.config.ports.block_size,
        state.kernel.capacity.bytes(cpus()) >> 20,
    );
}

/// Fresh pins of a start that has not succeeded yet. Dropping it removes them.
struct Unfinished(Option<PathBuf>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let Some(dir) = self.0.take() else { return };
        // What cannot be removed is found by the next start or by `sipnat detach`.
        let _ = fs::remove_dir_all(&dir);
        if let Some(root) = dir.parent() {
            let _ = fs::remove_dir(root);
        }
    }
}

//! The NAT while it runs: whatever changes the data path is done here, one thing after the other.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{Arc, mpsc as threads},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use nat_common::{
    binding,
    maps::{AddressWord, KIND_DYNAMIC, SlotState, SlotWord},
    ports::slot_index,
    tables::Tables as _,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use super::{
    blocks::{self, News},
    describe,
    pap::Pap,
    registrations, slow,
    start::{StartedNat, own_ports},
    state::State,
};
use crate::{
    config::{ExternalSide, Forward},
    control::ServiceError,
    dataplane::geometry,
    forwards::{self, Forwards},
    net::Net,
    pool::{self, Closed},
    slowpath,
    sweep::{Round, Sweeper},
    units::Proto,
};

/// How long a host without blocks is remembered.
const HOST_IDLE: Duration = Duration::from_secs(60);

/// A socket of the router's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    pub proto: Proto,
    /// `None`: any address.
    pub address: Option<Ipv4Addr>,
    pub port: u16,
}

/// What the main loop works on.
pub struct Nat {
    pub state: Arc<State>,
    pub forwards: Forwards,
    pub net: Arc<Net>,
    pub slow_path: slowpath::Handle,
    pub news: mpsc::UnboundedSender<News>,
    /// Neighbours as they were last reported: only what matters to packets makes them ask anew.
    pub neighbours: HashMap<(u32, Ipv4Addr), Option<[u8; 6]>>,
    /// `None`: nobody can ask for ports.
    pub pap: Option<Pap>,
    sweeper: SweeperThread,
    log: JoinHandle<()>,
}

impl Nat {
    /// Starts what a NAT needs of the daemon; it ends when `stopped` turns true and [`Nat::stop`] is called.
    pub fn begin(started: StartedNat, net: Arc<Net>, stopped: watch::Receiver<bool>) -> Result<Nat> {
        let StartedNat { state, forwards } = started;
        let (news, heard) = mpsc::unbounded_channel();
        let log = tokio::spawn(blocks::keep(blocks::Log::open(&state)?, state.clone(), heard));
        let sweeper = start_sweeper(state.clone(), news.clone())?;
        let slow_path = slow::start(&state, net.clone(), stopped.clone())?;
        registrations::start(&state, stopped)?;
        let pap = state.current().config.pap.clone();
        let pap = pap.map(|pap| Pap::start(&pap, &state)).transpose()?;
        Ok(Nat {
            state,
            forwards,
            net,
            slow_path,
            news,
            neighbours: HashMap::new(),
            pap,
            sweeper,
            log,
        })
    }

    /// Ends everything but the data path.
    pub async fn stop(self) {
        if let Some(pap) = self.pap {
            pap.stop();
        }
        self.sweeper.stop();
        // The log ends when nobody can send it news any more. An error means that it has ended already.
        drop(self.news);
        let _ = self.log.await;
    }

    /// See [`Service::delete_forward`](crate::control::Service::delete_forward).
    pub fn delete_forward(&mut self, proto: Proto, external: ExternalSide) -> Result<String, ServiceError> {
        if self.forwards.delete(proto, external) {
            self.apply_forwards();
            return Ok(format!("{proto} {external} leads nowhere any more"));
        }
        Err(ServiceError::NotFound(format!(
            "there is no runtime forward of {proto} {external}; `sipnat bindings` lists them, those of the configuration are deleted there"
        )))
    }

    /// See [`Service::detach`](crate::control::Service::detach).
    pub fn detach(&self) -> Result<String, ServiceError> {
        let removed = self.state.kernel.detach().map_err(ServiceError::Failed)?;
        Ok(describe(&removed, &self.state.current().config.daemon.pin_dir))
    }

    /// See [`Service::add_forward`](crate::control::Service::add_forward).
    pub fn add_forward(&mut self, forward: &Forward) -> Result<String, ServiceError> {
        {
            let current = self.state.current();
            if let Some(address) = forward.external_address
                && !current.topology.external.contains(&address)
            {
                return Err(anyhow!(
                    "{address} is no external address at the moment; `sipnat status` lists them, or write the port alone for all"
                )
                .into());
            }
            let prefixes = &current.config.nat.inside_prefixes;
            if !prefixes.is_empty() && !prefixes.iter().any(|prefix| prefix.contains(forward.inside_address)) {
                return Err(anyhow!(
                    "{} is not in nat.inside_prefixes; add its prefix there",
                    forward.inside_address
                )
                .into());
            }
        }
        self.forwards.add(forward).map_err(|error| anyhow!(error))?;
        self.apply_forwards();
        Ok(format!(
            "{} {} now leads to {}",
            forward.protocol,
            forward.external(),
            forward.inside()
        ))
    }

    /// Ends bindings on ports that a SIP server listens on: packets to it would go to their hosts. New ones are not made there, since the ports
    /// are the router's own; so they need not rest either, which would keep packets away.
    pub fn make_way(&self, sockets: &[Socket]) {
        self.follow_ports();
        let (tables, numbers) = (&self.state.kernel.tables, self.state.current().numbers);
        let closed = self.state.current().closed.clone();
        for place in 0..numbers.addresses {
            let Some(word) = tables.address(place).map(|address| AddressWord(address.word.get())) else {
                return;
            };
            let address = Ipv4Addr::from(word.addr());
            for socket in sockets
                .iter()
                .filter(|socket| socket.address.is_none_or(|wanted| wanted == address))
            {
                let index = slot_index(place, geometry::common(socket.proto), socket.port);
                let Some(slot) = tables.slot(index) else { continue };
                let inside = binding::inside_of(slot);
                if slot.kind.get() == KIND_DYNAMIC && forwards::retire(tables, &numbers, index, slot, self.state.now())
                {
                    tracing::warn!(
                        "ended the binding of {}:{} on {address}:{}, where the SIP server listens now",
                        Ipv4Addr::from(inside.addr),
                        inside.port,
                        socket.port
                    );
                }
                let word = SlotWord(slot.word.get());
                if word.state() == SlotState::Resting && closed.contains(socket.port) {
                    // If it fails, the sweeper was faster. The port's bit stays set, as for all closed ports.
                    slot.word
                        .replace(word.0, SlotWord::new(SlotState::Free, word.generation(), 0).0);
                }
            }
        }
    }

    /// Makes the tables hold the forwards.
    pub fn apply_forwards(&self) {
        let (tables, numbers) = (&self.state.kernel.tables, self.state.current().numbers);
        let slots = self.forwards.slots(tables, &numbers);
        forwards::apply(tables, &numbers, &slots, self.state.now());
    }

    /// Asks stale neighbours whether they are still there.
    pub async fn refresh_neighbours(&self) {
        let layer3 = self.state.current().topology.layer3();
        if let Err(error) = self.net.refresh_neighbours(&layer3).await {
            tracing::debug!(%error, "neighbours were not refreshed");
        }
    }

    /// Leaves out ports that the router has begun to use, and gives out those that it has left.
    pub fn follow_ports(&self) {
        let (config, numbers) = {
            let current = self.state.current();
            (current.config.clone(), current.numbers)
        };
        match own_ports(&config) {
            Ok(own) => {
                let closed = Closed::new(&config.ports, own.as_ref());
                if closed != self.state.current().closed {
                    pool::apply(&self.state.kernel.tables, &numbers, &closed, false);
                    self.state.change().closed = closed;
                }
            }
            Err(error) => tracing::warn!("{error:#}"),
        }
        // The index entry of a forward goes when its address is away for a moment.
        self.apply_forwards();
    }
}

/// The sweeper's thread.
struct SweeperThread {
    stop: threads::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl SweeperThread {
    fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            tracing::error!("the sweeper panicked");
        }
    }
}

fn start_sweeper(state: Arc<State>, news: mpsc::UnboundedSender<News>) -> Result<SweeperThread> {
    let (stop, stopped) = threads::channel::<()>();
    let work = move || {
        let mut sweeper = Sweeper::default();
        loop {
            let (numbers, closed, pause) = {
                let current = state.current();
                (current.numbers, current.closed.clone(), pause(&current.config))
            };
            let clock = &state.kernel.clock;
            let round = Round {
                now: state.now(),
                closed: &closed,
                host_idle: clock.ticks(HOST_IDLE),
                settled: clock.ticks(pause),
            };
            let stats = sweeper.pass(&state.kernel.tables, &numbers, &round, &mut |block| {
                // Without the log's task the daemon is ending.
                let _ = news.send(News::Block(block));
            });
            if stats.repaired != 0 {
                tracing::warn!(count = stats.repaired, "put entries right that nobody owned");
            }
            state.kernel.stage(stats.bindings.iter().sum());
            tracing::trace!(?stats, "swept");
            state.swept(stats);
            match stopped.recv_timeout(pause) {
                Err(threads::RecvTimeoutError::Timeout) => {}
                _ => return,
            }
        }
    };
    let thread = std::thread::Builder::new()
        .name("sweeper".into())
        .spawn(work)
        .context("cannot start the sweeper's thread")?;
    Ok(SweeperThread { stop, thread })
}

/// Between passes: a second, less if lifetimes are scaled down.
fn pause(config: &crate::config::Config) -> Duration {
    let life = &config.lifetimes;
    let shortest = [
        life.udp,
        life.tcp_opening,
        life.tcp_closing,
        life.icmp,
        config.ports.rest,
    ]
    .into_iter()
    .min()
    .unwrap_or(Duration::ZERO);
    (shortest / 8).clamp(Duration::from_millis(100), Duration::from_secs(1))
}

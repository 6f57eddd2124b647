//! The main loop: whatever changes the data path is done here, one thing after the other.

use std::{
    collections::HashMap,
    future::pending,
    net::Ipv4Addr,
    sync::{Arc, mpsc as threads},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    blocks::{self, News},
    describe, slow,
    start::{Started, own_ports},
    state::State,
};
use crate::{
    config::{Forward, RunOptions},
    control::{self, Ended, ServiceError},
    forwards::{self, Forwards},
    metrics,
    net::{Monitor, Net},
    pool::{self, Closed},
    service::{self, Order, Ordered},
    slowpath,
    sweep::{Round, Sweeper},
};

/// How often stale neighbours are confirmed; the kernel forgets them after a minute.
const NEIGHBOURS: Duration = Duration::from_secs(20);
/// How often the router's own ports are looked at.
const OWN_PORTS: Duration = Duration::from_secs(5);
/// How long a host without blocks is remembered.
const HOST_IDLE: Duration = Duration::from_secs(60);

/// What the main loop works on.
pub struct Life {
    pub options: RunOptions,
    pub state: Arc<State>,
    pub forwards: Forwards,
    pub net: Arc<Net>,
    pub slow_path: slowpath::Handle,
    pub news: mpsc::UnboundedSender<News>,
    /// Neighbours as they were last reported: only what matters to packets makes them ask anew.
    pub neighbours: HashMap<(u32, Ipv4Addr), Option<[u8; 6]>>,
}

/// Runs until a signal or a detach.
pub async fn live(started: Started) -> Result<()> {
    let Started {
        options,
        state,
        forwards,
        net,
        mut monitor,
        listener,
        metrics,
    } = started;
    let (orders, mut ordered) = mpsc::unbounded_channel();
    let (news, heard) = mpsc::unbounded_channel();
    let (stop, stopped) = watch::channel(false);
    let log = tokio::spawn(blocks::keep(blocks::Log::open(&state)?, state.clone(), heard));
    let sweeper = start_sweeper(state.clone(), news.clone())?;
    let slow_path = slow::start(&state, net.clone(), stopped.clone())?;
    let service = Arc::new(service::Daemon {
        state: state.clone(),
        slow_path: slow_path.clone(),
        orders,
    });
    let ending = |mut stopped: watch::Receiver<bool>| async move {
        // An error means that the sender is gone, which is the end as well.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    if let Some(socket) = metrics {
        tokio::spawn(metrics::serve(socket, service.clone(), ending(stopped.clone())));
    }
    let served = control::serve(listener, service, state.events.clone(), ending(stopped));
    let mut served = tokio::spawn(served);
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (mut neighbours, mut ports) = (interval(NEIGHBOURS), interval(OWN_PORTS));
    neighbours.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ports.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut life = Life {
        options,
        state,
        forwards,
        net,
        slow_path,
        news,
        neighbours: HashMap::new(),
    };
    let mut pending_events = super::follow::Pending::default();
    tracing::info!("translating");
    let end = loop {
        tokio::select! {
            ended = &mut served => break ended.context("the control socket failed")?,
            _ = terminate.recv() => break Ended::Shutdown,
            _ = interrupt.recv() => break Ended::Shutdown,
            _ = hangup.recv() => match life.reload().await {
                Ok(message) => tracing::info!("{message}"),
                Err(error) => tracing::error!("reload: {error}"),
            },
            Some(order) = ordered.recv() => life.obey(order).await,
            event = monitor.next() => match event {
                Ok(event) => life.note(event, &mut pending_events),
                Err(error) => {
                    tracing::error!(%error, "the network monitor broke; a new one is opened");
                    monitor = Monitor::open()?;
                    pending_events.everything(Instant::now());
                }
            },
            () = due(pending_events.due()) => life.follow(std::mem::take(&mut pending_events)).await,
            _ = neighbours.tick() => life.refresh_neighbours().await,
            _ = ports.tick() => life.follow_ports(),
        }
    };
    stop.send_replace(true);
    if end == Ended::Shutdown {
        let _ = served.await;
        tracing::info!(
            "stopped; the data path goes on translating without a daemon. `sipnat run` takes it over again, `sipnat detach` ends it"
        );
    }
    sweeper.stop();
    // The log ends when nobody can send it news any more.
    drop(life);
    let _ = log.await;
    Ok(())
}

async fn due(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => pending().await,
    }
}

impl Life {
    async fn obey(&mut self, (order, answer): Ordered) {
        let result = match order {
            Order::AddForward(forward) => self.add_forward(&forward),
            Order::DeleteForward(proto, external) => {
                if self.forwards.delete(proto, external) {
                    self.apply_forwards();
                    Ok(format!("{proto} {external} leads nowhere any more"))
                } else {
                    Err(ServiceError::NotFound(format!(
                        "there is no runtime forward of {proto} {external}; `sipnat bindings` lists them, those of the configuration are deleted there"
                    )))
                }
            }
            Order::Reload => self.reload().await.map_err(ServiceError::Failed),
            Order::Detach => {
                let removed = self.state.kernel.detach().map_err(ServiceError::Failed);
                removed.map(|removed| describe(&removed, &self.state.current().config.daemon.pin_dir))
            }
        };
        // Whoever asked may be gone.
        let _ = answer.send(result);
    }

    fn add_forward(&mut self, forward: &Forward) -> Result<String, ServiceError> {
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

    /// Makes the tables hold the forwards.
    pub fn apply_forwards(&self) {
        let (tables, numbers) = (&self.state.kernel.tables, self.state.current().numbers);
        let slots = self.forwards.slots(tables, &numbers);
        forwards::apply(tables, &numbers, &slots, self.state.now());
    }

    async fn refresh_neighbours(&self) {
        let layer3 = self.state.current().topology.layer3();
        if let Err(error) = self.net.refresh_neighbours(&layer3).await {
            tracing::debug!(%error, "neighbours were not refreshed");
        }
    }

    /// Leaves out ports that the router has begun to use, and gives out those that it has left.
    fn follow_ports(&self) {
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

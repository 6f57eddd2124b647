//! The main loop: whatever changes what runs is done here, one thing after the other.

use std::{
    future::pending,
    sync::Arc,
    time::{Duration, Instant as Clock},
};

use anyhow::{Context as _, Result, anyhow};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    follow::Pending,
    media::{self, Media},
    nat::Nat,
    sip::Sip,
    start::{Parts, Started},
};
use crate::{
    config::{Config, RunOptions},
    control::{self, Ended, Events, ServiceError},
    media::{command::RelayId, policy::Policy},
    metrics,
    net::{Monitor, Net},
    records::Time,
    relays,
    service::{self, Order, Ordered},
};

/// How often stale neighbours are confirmed; the kernel forgets them after a minute.
const NEIGHBOURS: Duration = Duration::from_secs(20);
/// How often relays are looked at for silence, unless they may be silent for less.
const SILENCE: Duration = Duration::from_secs(10);
/// How often the router's own ports are looked at.
const OWN_PORTS: Duration = Duration::from_secs(5);

/// What the main loop works on.
pub struct Life {
    pub options: RunOptions,
    /// What is in force.
    pub config: Config,
    pub net: Arc<Net>,
    pub events: Arc<Events>,
    pub nat: Option<Nat>,
    pub sip: Option<Sip>,
}

/// Runs until a signal or a detach.
pub async fn live(started: Started) -> Result<()> {
    let Started {
        options,
        config,
        parts: Parts { nat, sip },
        events,
        net,
        mut monitor,
        listener,
        metrics,
    } = started;
    let (orders, mut ordered) = mpsc::unbounded_channel();
    let (stop, stopped) = watch::channel(false);
    let nat = match nat {
        Some(nat) => Some(Nat::begin(nat, net.clone(), stopped.clone())?),
        None => None,
    };
    let service = Arc::new(service::Daemon {
        started: (Time::now(), Clock::now()),
        nat: nat.as_ref().map(|nat| service::Nat {
            state: nat.state.clone(),
            slow_path: nat.slow_path.clone(),
            pap: nat.pap.as_ref().map(super::pap::Pap::handle),
        }),
        sip: sip.as_ref().map(|sip| service::sip::Sip {
            server: sip.server.clone(),
            recorder: sip.recorder.clone(),
        }),
        orders,
    });
    let ending = |mut stopped: watch::Receiver<bool>| async move {
        // An error means that the sender is gone, which is the end as well.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    if let Some(socket) = metrics {
        tokio::spawn(metrics::serve(socket, service.clone(), ending(stopped.clone())));
    }
    let served = control::serve(listener, service, events.clone(), ending(stopped));
    let mut served = tokio::spawn(served);
    #[cfg(feature = "ebpf-log")]
    super::kernel_log::start(&state)?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let timeout = config.sip.as_ref().map_or(SILENCE, |sip| sip.media.timeout);
    let (mut neighbours, mut ports, mut silence) = (
        interval(NEIGHBOURS),
        interval(OWN_PORTS),
        interval(SILENCE.min(timeout / 3)),
    );
    silence.set_missed_tick_behavior(MissedTickBehavior::Delay);
    neighbours.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ports.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut life = Life {
        options,
        config,
        net,
        events,
        nat,
        sip,
    };
    let mut pending_events = Pending::default();
    life.make_way();
    life.anchor_media().await?;
    life.end_stranded_media().await;
    life.announce();
    let end = loop {
        tokio::select! {
            ended = &mut served => break ended.context("the control socket failed")?,
            _ = terminate.recv() => break Ended::Shutdown,
            _ = interrupt.recv() => break Ended::Shutdown,
            _ = hangup.recv() => match life.reload().await {
                Ok(message) => tracing::info!("{message}"),
                Err(error) => tracing::error!("reload: {error:#}"),
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
            _ = neighbours.tick() => if let Some(nat) = &life.nat { nat.refresh_neighbours().await },
            _ = silence.tick() => life.end_silent_media().await,
            _ = ports.tick() => if let Some(nat) = &life.nat { nat.follow_ports() },
            () = sip_ended(&life.sip) => {
                stop.send_replace(true);
                return Err(anyhow!("the SIP server has ended by itself; the log says why"));
            },
        }
    };
    stop.send_replace(true);
    let Life { nat, sip, .. } = life;
    if end == Ended::Shutdown {
        let _ = served.await;
    }
    if let Some(sip) = sip {
        sip.stop().await;
    }
    if let Some(nat) = nat {
        if end == Ended::Shutdown {
            tracing::info!(
                "stopped; the data path goes on translating without a daemon. `sipnat run` takes it over again, `sipnat detach` ends it"
            );
        }
        nat.stop().await;
    }
    Ok(())
}

async fn due(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => pending().await,
    }
}

async fn sip_ended(sip: &Option<Sip>) {
    match sip {
        Some(sip) => sip.ended().await,
        None => pending().await,
    }
}

impl Life {
    /// What is decided about media; `None` if nothing is, because not both parts run.
    pub fn media_policy(&self) -> Option<Policy> {
        let (_, _, sip) = (self.nat.as_ref()?, self.sip.as_ref()?, self.config.sip.as_ref()?);
        Some(Policy::new(&sip.media, sip.media.inside(&self.config.nat)))
    }

    async fn anchor_media(&self) -> Result<()> {
        if let (Some(nat), Some(sip), Some(policy)) = (&self.nat, &self.sip, self.media_policy()) {
            let path = Media::new(nat.state.clone());
            sip.server.anchor_media(policy, Box::new(path)).await?;
        }
        Ok(())
    }

    /// Ends relays on external addresses that are not ours any more, which relay nothing: the SIP server tells their calls, and those that it does not know
    /// are closed here.
    pub async fn end_stranded_media(&self) {
        let Some(nat) = &self.nat else { return };
        let stranded = relays::stranded(&nat.state.kernel.tables);
        if stranded.is_empty() {
            return;
        }
        let unknown = match &self.sip {
            Some(sip) => sip.server.media_stranded(stranded.clone()).await.unwrap_or(stranded),
            None => stranded,
        };
        let close = |relay: RelayId| nat.state.relays(|relays, at| relays.close_call(at, relay.0));
        let legs: usize = unknown.into_iter().map(close).sum();
        if legs != 0 {
            tracing::warn!(
                "closed {legs} legs of the media relay: their external address is not ours any more, and no call is known that they were of"
            );
        }
    }

    /// Calls whose media is silent end as the server sees fit; relays of which it knows no call are closed.
    async fn end_silent_media(&self) {
        let (Some(nat), Some(sip), Some(config)) = (&self.nat, &self.sip, &self.config.sip) else {
            return;
        };
        let timeout = config.media.timeout;
        let silent = media::silent(&nat.state, timeout);
        // If the server has ended, the main loop is about to hear of it.
        let unknown = sip.server.end_silent(silent).await.unwrap_or_default();
        let legs = media::close(&nat.state, &unknown);
        if legs != 0 {
            tracing::info!("closed {legs} legs of the media relay that belong to no call: silent for {timeout:?}");
        }
    }

    fn announce(&self) {
        match (&self.nat, &self.sip) {
            (Some(_), Some(_)) => tracing::info!("translating, and serving SIP"),
            (Some(_), None) => tracing::info!("translating"),
            (None, _) => tracing::info!("serving SIP; no NAT is configured"),
        }
    }

    async fn obey(&mut self, (order, answer): Ordered) {
        let result = match (order, &mut self.nat) {
            (Order::Reload, _) => self.reload().await.map_err(ServiceError::Failed),
            (Order::AddForward(forward), Some(nat)) => nat.add_forward(&forward),
            (Order::DeleteForward(proto, external), Some(nat)) => nat.delete_forward(proto, external),
            (Order::Detach, Some(nat)) => nat.detach(),
            (_, None) => Err(anyhow!("no NAT runs here").into()),
        };
        // Whoever asked may be gone.
        let _ = answer.send(result);
    }
}

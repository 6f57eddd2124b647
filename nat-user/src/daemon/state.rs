//! What the parts of a running NAT share.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use nat_common::{config::Config as Numbers, flow::Endpoint};
use tokio::sync::broadcast;

use super::topology::Topology;
use crate::{
    config::Config,
    control::Events,
    dataplane::{kernel::Kernel, tables::UserTables},
    pool::Closed,
    preflight::Mode,
    records::Time,
    relays::{At, Relays},
    sweep::Stats,
};

/// What is in force at the moment.
#[derive(Clone)]
pub struct Current {
    /// The configuration.
    pub config: Config,
    /// The same, as the data path has it.
    pub numbers: Numbers,
    /// Interfaces and addresses.
    pub topology: Topology,
    /// Ports that are not given out.
    pub closed: Closed,
    /// How the programs are attached.
    pub mode: Mode,
    /// What preflight found.
    pub warnings: Vec<String>,
}

/// The NAT's state, shared by the main loop, the sweeper and the control socket.
pub struct State {
    /// The data path.
    pub kernel: Kernel,
    /// Where events go.
    pub events: std::sync::Arc<Events>,
    current: RwLock<Current>,
    /// Copies of the packets of legs that somebody captures.
    pub copies: broadcast::Sender<Arc<MediaCopy>>,
    relays: Mutex<Relays>,
    stats: Mutex<Stats>,
    totals: Totals,
}

/// Copies that may wait for a capture.
const COPIES: usize = 4096;

/// A packet of a leg that somebody captures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaCopy {
    pub time: Time,
    /// The number of the relay.
    pub relay: u64,
    /// Who has sent it, and to which external endpoint.
    pub peer: Endpoint,
    pub alias: Endpoint,
    /// The external endpoint that it left by, and where to; `None`: the other leg has gone meanwhile.
    pub onward: Option<(Endpoint, Endpoint)>,
    /// The UDP payload, whose end may be missing.
    pub payload: Vec<u8>,
    /// How long it was.
    pub length: u64,
}

/// What is counted since the daemon started.
#[derive(Debug, Default)]
pub struct Totals {
    /// Bindings that the sweeper found expired.
    pub expired: AtomicU64,
    /// Entries that it put right.
    pub repaired: AtomicU64,
    /// Events of exhaustion because of the quota.
    pub quota: AtomicU64,
    /// Events of exhaustion because of the pool.
    pub pool: AtomicU64,
}

impl State {
    /// The state at the start. Takes over the legs of the media relay that the tables hold.
    pub fn new(kernel: Kernel, events: std::sync::Arc<Events>, current: Current) -> Self {
        let at = At {
            t: &kernel.tables,
            cfg: &current.numbers,
            now: kernel.clock.now(),
        };
        let (relays, recovered) = Relays::recover(&at);
        if recovered.legs != 0 || recovered.mended != 0 {
            tracing::info!(
                "{} legs of the media relay are in use; closed {} that an earlier daemon left half open",
                recovered.legs,
                recovered.mended
            );
        }
        Self {
            kernel,
            events,
            current: RwLock::new(current),
            copies: broadcast::channel(COPIES).0,
            relays: Mutex::new(relays),
            stats: Mutex::default(),
            totals: Totals::default(),
        }
    }

    /// What is in force.
    pub fn current(&self) -> RwLockReadGuard<'_, Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is in force; only the main loop does.
    pub fn change(&self) -> RwLockWriteGuard<'_, Current> {
        self.current.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works on the media relay. Not to be held while waiting.
    pub fn relays<R>(&self, work: impl FnOnce(&mut Relays, &At<UserTables>) -> R) -> R {
        let numbers = self.current().numbers;
        let at = At {
            t: &self.kernel.tables,
            cfg: &numbers,
            now: self.now(),
        };
        work(&mut self.relays.lock().unwrap_or_else(PoisonError::into_inner), &at)
    }

    /// What the last pass of the sweeper found.
    pub fn stats(&self) -> MutexGuard<'_, Stats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a pass of the sweeper found.
    pub fn swept(&self, stats: Stats) {
        self.totals.expired.fetch_add(stats.expired, Relaxed);
        self.totals.repaired.fetch_add(stats.repaired, Relaxed);
        *self.stats() = stats;
    }

    /// Counts since the start.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Now, in ticks.
    pub fn now(&self) -> u32 {
        self.kernel.clock.now()
    }
}

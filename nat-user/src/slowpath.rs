//! The slow path: what the kernel program cannot finish by itself.
//!
//! The program copies such packets into the ring `PUNTS` and drops them. Here they become ICMP errors (RFC 1812 §4.3.2), are
//! cut into pieces (RFC 791 §3.2), wait for the MAC address of their next hop, or wait for the first fragment of their
//! datagram (RFC 4787 REQ-14). What is sent on is never translated here: it is given back to the kernel program as the
//! frame that came in ([`reinject`]), so there is one translation and this is not a way around it. Every queue and table has
//! a bound, and what exceeds it is dropped and counted.
//!
//! [`engine`] decides (`(input, now) -> commands`); this file has the ring, the clock and the sockets.
//!
//! # Wiring
//!
//! The network namespace of the thread that calls [`SlowPath::new`] and of the runtime's threads must be the router's own.
//!
//! ```no_run
//! # use std::{net::Ipv4Addr, sync::Arc};
//! # use nat_user::{config::Config, dataplane::object, net::{Event, Monitor, Net}};
//! # use nat_user::slowpath::{*, orphans::KnownDatagrams, outlet::Sockets, reinject::KernelPrograms};
//! # async fn wire(mut ebpf: aya::Ebpf, config: Config, net: Arc<Net>, table: Box<dyn KnownDatagrams>,
//! #     interfaces: Vec<nat_common::maps::Interface>, stop: tokio::sync::oneshot::Receiver<()>, event: Event)
//! #     -> anyhow::Result<()> {
//! let programs = {
//!     // Both are loaded already; the slow path keeps handles of its own.
//!     let [inside, outside] = [object::INSIDE, object::OUTSIDE].map(|name| ebpf.program(name));
//!     let inside: &aya::programs::Xdp = inside.unwrap().try_into()?;
//!     let outside: &aya::programs::Xdp = outside.unwrap().try_into()?;
//!     KernelPrograms::new(inside, outside)?
//! };
//! let slow_path = SlowPath::new(SlowPathParts {
//!     punts: aya::maps::RingBuf::try_from(ebpf.take_map("PUNTS").unwrap())?,
//!     settings: Settings::from(&config),
//!     interfaces,                             // what the daemon wrote into the map INTERFACES
//!     table,                                  // nat_common::fragment::find over the shared tables
//!     reinject: Box::new(programs),
//!     outlet: Box::new(Sockets::open()?),
//!     net,
//! });
//! let handle = slow_path.handle();
//! tokio::spawn(slow_path.run(async { drop(stop.await) }));
//!
//! // In the loop over `Monitor` events:
//! if let Event::NeighbourChanged(n) = event {
//!     handle.neighbour_changed(n.ifindex, n.addr, n.state.is_valid());
//! }
//! // After a reload, and whenever the interfaces or their addresses change:
//! # let interfaces = vec![];
//! handle.configure(Settings::from(&config), interfaces);
//! // For `sipnat counters` and the metrics:
//! for (name, value) in handle.counters() {
//!     println!("{name} {value}");
//! }
//! # Ok(())
//! # }
//! ```

pub mod counters;
pub mod engine;
pub mod frame;
mod limits;
pub mod neighbours;
pub mod orphans;
pub mod outlet;
pub mod reinject;
mod resolver;
pub mod split;

#[cfg(test)]
mod engine_tests;
#[cfg(test)]
mod namespace_tests;
#[cfg(test)]
mod program_tests;

use std::borrow::Borrow;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};
use nat_common::maps::Interface;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};

use self::counters::{Counter, Counters};
use self::engine::{Command, Engine};
use self::neighbours::NextHop;
use self::orphans::KnownDatagrams;
use self::outlet::Outlet;
use self::reinject::Reinject;
use self::resolver::Ask;
use crate::net::Net;

pub use self::engine::Settings;

/// Records taken from the ring before other tasks have their turn.
const BATCH: usize = 64;
/// News about neighbours that wait to be read.
const NEWS: usize = 1024;

/// Where the records come from: the ring `PUNTS`. Its descriptor becomes readable with new ones.
pub trait Punts: AsFd + Send {
    /// Shows the next record to `take`; false if there is none.
    fn next(&mut self, take: &mut dyn FnMut(&[u8])) -> bool;
}

impl<T: Borrow<MapData> + Send> Punts for RingBuf<T> {
    fn next(&mut self, take: &mut dyn FnMut(&[u8])) -> bool {
        match RingBuf::next(self) {
            Some(record) => {
                take(&record);
                true
            }
            None => false,
        }
    }
}

/// What a slow path is made of.
pub struct SlowPathParts<P> {
    /// The ring.
    pub punts: P,
    /// What the configuration says.
    pub settings: Settings,
    /// The interfaces as in the data path's map; their `addr` is the source of errors to the inside.
    pub interfaces: Vec<Interface>,
    /// Says which datagrams' first fragment has come.
    pub table: Box<dyn KnownDatagrams>,
    /// Gives frames back to the kernel program.
    pub reinject: Box<dyn Reinject>,
    /// Sends errors.
    pub outlet: Box<dyn Outlet>,
    /// Asks the kernel about neighbours.
    pub net: Arc<Net>,
}

/// The slow path, not yet running.
pub struct SlowPath<P> {
    parts: SlowPathParts<P>,
    handle: Handle,
    news: mpsc::Receiver<NextHop>,
    view: watch::Receiver<View>,
}

/// Speaks to a running slow path; cheap to clone. All calls return at once.
#[derive(Clone)]
pub struct Handle {
    counters: Arc<Counters>,
    news: mpsc::Sender<NextHop>,
    view: watch::Sender<View>,
}

type View = (Settings, Vec<Interface>);

impl Handle {
    /// What was counted since the start, by name.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        self.counters.list()
    }

    /// An event of [`crate::net::Monitor`]: the kernel's entry for `addr` changed. `valid`: it has a MAC address to use. An
    /// event too many is forgotten; the slow path also looks for itself while a frame waits.
    pub fn neighbour_changed(&self, ifindex: u32, addr: Ipv4Addr, valid: bool) {
        if valid {
            let _ = self.news.try_send((ifindex, u32::from(addr)));
        }
    }

    /// The configuration or the interfaces changed.
    pub fn configure(&self, settings: Settings, interfaces: Vec<Interface>) {
        self.view.send_replace((settings, interfaces));
    }
}

impl<P: Punts> SlowPath<P> {
    /// Puts the parts together; nothing happens before [`Self::run`].
    pub fn new(parts: SlowPathParts<P>) -> Self {
        let (news, news_receiver) = mpsc::channel(NEWS);
        let (view, view_receiver) = watch::channel((parts.settings.clone(), parts.interfaces.clone()));
        let counters = Arc::new(Counters::default());
        Self {
            parts,
            handle: Handle { counters, news, view },
            news: news_receiver,
            view: view_receiver,
        }
    }

    /// To speak to it while it runs.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs until `shutdown` is ready. What waits then is dropped. Fails if the ring cannot be waited for.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let Self {
            parts,
            handle,
            mut news,
            mut view,
        } = self;
        let counters = handle.counters.clone();
        let mut engine = Engine::new(parts.settings.clone(), parts.table, counters.clone(), Instant::now());
        engine.configure(parts.settings, parts.interfaces);
        let mut edge = Edge {
            ask: resolver::start(parts.net, handle.news.clone()),
            reinject: parts.reinject,
            outlet: parts.outlet,
            counters,
        };
        let mut punts = parts.punts;
        let ready = readiness(&punts).context("cannot wait for the ring PUNTS")?;
        let mut shutdown = pin!(shutdown);
        loop {
            let wake = engine
                .wake()
                .unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                () = &mut shutdown => return Ok(()),
                Some(hop) = news.recv() => edge.execute(engine.neighbour_known(hop, Instant::now())),
                Ok(()) = view.changed() => {
                    let (settings, interfaces) = view.borrow_and_update().clone();
                    engine.configure(settings, interfaces);
                }
                () = tokio::time::sleep_until(wake.into()) => {
                    edge.execute(engine.tick(Instant::now()));
                    tokio::task::yield_now().await;
                }
                guard = ready.readable() => {
                    let mut guard = guard.context("cannot wait for the ring PUNTS")?;
                    let now = Instant::now();
                    let mut left = BATCH;
                    while left > 0 && punts.next(&mut |record| edge.execute(engine.punted(record, now))) {
                        left -= 1;
                    }
                    if left > 0 {
                        guard.clear_ready();
                    } else {
                        drop(guard);
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
    }
}

/// Tells when there are records.
fn readiness(punts: &impl Punts) -> io::Result<AsyncFd<OwnedFd>> {
    let fd = punts.as_fd().try_clone_to_owned()?;
    // SAFETY: an owned descriptor stays open and the same until the `AsyncFd` drops it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// Carries commands out.
struct Edge {
    ask: mpsc::Sender<Ask>,
    reinject: Box<dyn Reinject>,
    outlet: Box<dyn Outlet>,
    counters: Arc<Counters>,
}

impl Edge {
    fn execute(&mut self, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Send { message, link } => {
                    let to = Ipv4Addr::from(message.destination());
                    let sent = match link {
                        None => self.outlet.send(message.bytes(), to),
                        Some(link) => {
                            let frame = [&link.header[..], message.bytes()].concat();
                            self.outlet.send_frame(&frame, link.device)
                        }
                    };
                    match sent {
                        Ok(()) => self.counters.count(Counter::sent(message.type_and_code())),
                        Err(error) => {
                            self.counters.count(Counter::SendFailed);
                            tracing::debug!("cannot send an ICMP error to {to}: {error}");
                        }
                    }
                }
                Command::Reinject { side, ifindex, frame } => {
                    if frame.len() > self.reinject.limit() {
                        self.counters.count(Counter::TooLarge);
                        continue;
                    }
                    match self.reinject.reinject(side, ifindex, &frame) {
                        Ok(()) => self.counters.count(Counter::Reinjected),
                        Err(error) => {
                            self.counters.count(Counter::ReinjectFailed);
                            tracing::debug!("cannot give a frame of interface {ifindex} back: {error}");
                        }
                    }
                }
                // A full queue means a kernel that does not answer; the next hop is given up then.
                Command::Resolve(hop) => drop(self.ask.try_send(Ask::Resolve(hop))),
                // Unanswered questions are not repeated.
                Command::Poll(hops) if self.ask.capacity() == self.ask.max_capacity() => {
                    drop(self.ask.try_send(Ask::Poll(hops)));
                }
                Command::Poll(_) => {}
            }
        }
    }
}

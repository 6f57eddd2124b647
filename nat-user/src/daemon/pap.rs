//! The place of the port server in the daemon: its sockets, its thread, its file. See [`crate::pap`].

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::{Arc, mpsc as threads},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use nat_common::maps::ROLE_INSIDE;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::UdpSocket, sync::oneshot, task::JoinHandle};

use super::{state::State, topology::Topology};
use crate::{
    config::Pap as Config,
    pap::{
        CLIENT_PORT, SERVER_PORT,
        gateway::Tables,
        mappings::{Key, Mapping},
        natpmp,
        server::{Gateway as _, Policy, Server, Told},
        store::{Kept, Store},
        wire,
    },
};

/// Requests that wait; what comes on top is dropped, its sender tries again (RFC 6887 section 8.1.1).
const WAITING: usize = 1024;
/// Requests whose mappings are written together.
const BATCH: usize = 256;
/// Between looks at what has expired.
const PAUSE: Duration = Duration::from_secs(1);
/// All hosts of a link (RFC 6887 section 14.1.3).
const ALL_HOSTS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 1), CLIENT_PORT);
/// A new epoch is announced so often, first after so long, then after twice the time before (RFC 6886 section 3.2.1).
const ANNOUNCEMENTS: (u32, Duration) = (10, Duration::from_millis(250));
/// A mapping that has moved is told so often (RFC 6887 section 14.2).
const UPDATES: u32 = 3;

/// What the thread is to do.
enum Work {
    Answer {
        bytes: Vec<u8>,
        from: SocketAddrV4,
        socket: Arc<UdpSocket>,
    },
    /// The sockets, by inside address.
    Sockets(Vec<Arc<UdpSocket>>),
    /// External addresses may have changed.
    Rehome,
    Configure(Policy),
    List(oneshot::Sender<Vec<(Key, Mapping)>>),
    Revoke(Key, oneshot::Sender<Option<Mapping>>),
    Stop,
}

/// The port server while it runs.
pub struct Pap {
    work: threads::SyncSender<Work>,
    thread: std::thread::JoinHandle<()>,
    sockets: BTreeMap<(Ipv4Addr, u32), (Arc<UdpSocket>, JoinHandle<()>)>,
}

/// What others may ask of it.
#[derive(Clone)]
pub struct Handle(threads::SyncSender<Work>);

impl Handle {
    /// Everything that is granted. Blocks.
    pub fn list(&self) -> Result<Vec<(Key, Mapping)>> {
        self.ask(Work::List)
    }

    /// Ends a mapping; `None` if there is none. Blocks.
    pub fn revoke(&self, key: Key) -> Result<Option<Mapping>> {
        self.ask(|answer| Work::Revoke(key, answer))
    }

    fn ask<R>(&self, work: impl FnOnce(oneshot::Sender<R>) -> Work) -> Result<R> {
        let (sender, answer) = oneshot::channel();
        let ending = "the port server is ending; start the daemon again";
        self.0.send(work(sender)).ok().context(ending)?;
        answer.blocking_recv().context(ending)
    }
}

impl Pap {
    /// Opens the file, takes over what an earlier daemon granted, and begins to answer.
    ///
    /// # Errors
    /// With the file, if it cannot be used.
    pub fn start(config: &Config, state: &Arc<State>) -> Result<Pap> {
        let (store, kept) = match &config.store {
            Some(path) => {
                let (store, kept) = Store::open(path)?;
                (Some(store), kept)
            }
            None => (None, Kept::default()),
        };
        let (work, todo) = threads::sync_channel(WAITING);
        let mut worker = Worker::new(config, Tables::new(state.clone()), store, kept);
        let thread = std::thread::Builder::new()
            .name("ports".into())
            .spawn(move || worker.run(&todo))
            .context("cannot start the thread of the port server")?;
        let mut pap = Pap {
            work,
            thread,
            sockets: BTreeMap::new(),
        };
        pap.follow(&state.current().topology);
        Ok(pap)
    }

    /// For those who ask from other threads.
    pub fn handle(&self) -> Handle {
        Handle(self.work.clone())
    }

    /// Listens on the inside addresses that there are now, and moves mappings to the external ones.
    pub fn follow(&mut self, topology: &Topology) {
        let wanted: Vec<(Ipv4Addr, u32)> = topology
            .ports
            .iter()
            .filter(|port| port.role == ROLE_INSIDE)
            .filter_map(|port| Some((port.addr?, port.ifindex)))
            .collect();
        self.sockets.retain(|place, (_, task)| {
            let stays = wanted.contains(place);
            if !stays {
                task.abort();
            }
            stays
        });
        for place in wanted {
            if self.sockets.contains_key(&place) {
                continue;
            }
            match listen(place) {
                Ok(socket) => {
                    let socket = Arc::new(socket);
                    let task = tokio::spawn(receive(socket.clone(), self.work.clone()));
                    self.sockets.insert(place, (socket, task));
                }
                Err(error) => tracing::error!(
                    "no ports are given out on {}:{SERVER_PORT}: {error}; stop whoever listens there and reload",
                    place.0
                ),
            }
        }
        let sockets = self.sockets.values().map(|(socket, _)| socket.clone()).collect();
        self.tell(Work::Sockets(sockets));
        self.tell(Work::Rehome);
    }

    /// Another policy.
    pub fn configure(&self, config: &Config) {
        self.tell(Work::Configure(policy(config)));
    }

    fn tell(&self, work: Work) {
        // It fails only if the thread has panicked, which has been told.
        let _ = self.work.send(work);
    }

    /// Ends; mappings stay.
    pub fn stop(self) {
        for (_, task) in self.sockets.values() {
            task.abort();
        }
        let _ = self.work.send(Work::Stop);
        if self.thread.join().is_err() {
            tracing::error!("the port server panicked");
        }
    }
}

fn policy(config: &Config) -> Policy {
    Policy {
        min_lifetime: config.min_lifetime.as_secs() as u32,
        max_lifetime: config.max_lifetime.as_secs() as u32,
        per_host: config.mappings_per_host as usize,
        strict: config.strict_nonce,
    }
}

/// A socket that hears what comes in on this interface for this address, and nothing else (RFC 6887 section 8.2).
fn listen((address, ifindex): (Ipv4Addr, u32)) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind_device(Some(&interface_name(ifindex)?))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((address, SERVER_PORT)).into())?;
    UdpSocket::from_std(socket.into())
}

fn interface_name(ifindex: u32) -> io::Result<Vec<u8>> {
    let mut name = [0u8; libc::IF_NAMESIZE];
    // SAFETY: a buffer of the size that the call wants.
    if unsafe { libc::if_indextoname(ifindex, name.as_mut_ptr().cast()) }.is_null() {
        return Err(io::Error::last_os_error());
    }
    Ok(name.into_iter().take_while(|byte| *byte != 0).collect())
}

/// Hands over what comes.
async fn receive(socket: Arc<UdpSocket>, work: threads::SyncSender<Work>) {
    // One octet more than any message has shows what is too long.
    let mut buffer = [0; wire::MAX_LEN + 4];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((len, SocketAddr::V4(from))) => {
                let answer = Work::Answer {
                    bytes: buffer[..len].to_vec(),
                    from,
                    socket: socket.clone(),
                };
                // Too many: the client repeats it.
                let _ = work.try_send(answer);
            }
            Ok(_) => {}
            // An ICMP error about an answer, or an interface that goes; sockets that stay away are noticed by netlink.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// The thread.
struct Worker {
    server: Server,
    tables: Tables,
    store: Option<Store>,
    sockets: Vec<Arc<UdpSocket>>,
    told: Repeated<Vec<Told>>,
    announced: Repeated<()>,
    /// What waits until mappings are on the disk.
    answers: Vec<(Vec<u8>, SocketAddrV4, Arc<UdpSocket>)>,
}

/// Something that is sent several times, at growing intervals.
struct Repeated<T> {
    what: T,
    left: u32,
    pause: Duration,
    next: Instant,
}

impl<T> Repeated<T> {
    fn new(what: T, times: u32) -> Repeated<T> {
        Repeated {
            what,
            left: times,
            pause: ANNOUNCEMENTS.1,
            next: Instant::now(),
        }
    }

    /// Whether it is time; then the next time is later.
    fn due(&mut self) -> bool {
        if self.left == 0 || self.next > Instant::now() {
            return false;
        }
        self.left -= 1;
        self.next += self.pause;
        self.pause *= 2;
        true
    }
}

impl Worker {
    fn new(config: &Config, mut tables: Tables, store: Option<Store>, kept: Kept) -> Worker {
        let now = now();
        let known = kept.epoch.is_some_and(|epoch| epoch <= now);
        let mut server = Server::new(
            policy(config),
            kept.mappings,
            kept.epoch.filter(|_| known).unwrap_or(now),
        );
        tables.close_others(|key| server.mappings().get(key).is_some());
        let lost = server.restore(now, &mut tables) || !known;
        Worker {
            server,
            tables,
            store,
            sockets: Vec::new(),
            told: Repeated::new(Vec::new(), 0),
            announced: Repeated::new((), if lost { ANNOUNCEMENTS.0 } else { 0 }),
            answers: Vec::new(),
        }
    }

    fn run(&mut self, todo: &threads::Receiver<Work>) {
        self.settle(true);
        loop {
            let mut stop = match todo.recv_timeout(self.pause()) {
                Ok(work) => self.work(work),
                Err(threads::RecvTimeoutError::Timeout) => false,
                Err(threads::RecvTimeoutError::Disconnected) => true,
            };
            for _ in 0..BATCH {
                match todo.try_recv() {
                    Ok(work) if !stop => stop = self.work(work),
                    _ => break,
                }
            }
            self.server.expire(now(), &mut self.tables);
            self.settle(false);
            if stop {
                return;
            }
            self.repeat();
        }
    }

    fn pause(&self) -> Duration {
        let until = |next: Instant| next.saturating_duration_since(Instant::now());
        let mut pause = PAUSE;
        if self.announced.left != 0 {
            pause = pause.min(until(self.announced.next));
        }
        if self.told.left != 0 {
            pause = pause.min(until(self.told.next));
        }
        pause
    }

    /// Does one thing; true if that was to stop.
    fn work(&mut self, work: Work) -> bool {
        match work {
            Work::Answer { bytes, from, socket } => {
                if let Some(answer) = self.server.answer(&bytes, from, now(), &mut self.tables) {
                    self.answers.push((answer, from, socket));
                }
            }
            Work::Sockets(sockets) => self.sockets = sockets,
            Work::Rehome => self.rehome(),
            Work::Configure(policy) => self.server.configure(policy),
            // Whoever asked may have gone.
            Work::List(answer) => {
                let all = self.server.mappings().iter();
                let _ = answer.send(all.map(|(key, mapping)| (*key, mapping.clone())).collect());
            }
            Work::Revoke(key, answer) => {
                let revoked = self.server.revoke(&key, &mut self.tables);
                let _ = answer.send(revoked);
            }
            Work::Stop => return true,
        }
        false
    }

    fn rehome(&mut self) {
        if let Some(told) = self.server.rehome(now(), &mut self.tables) {
            tracing::info!("mappings of the port server have moved with the external address; their clients are told");
            self.announced = Repeated::new((), ANNOUNCEMENTS.0);
            self.told = Repeated::new(told, UPDATES);
        }
    }

    /// Writes what has changed; then the answers may go.
    fn settle(&mut self, first: bool) {
        let changes = self.server.changes();
        if let Some(store) = self.store.as_mut().filter(|_| first || !changes.is_empty())
            && let Err(error) = store.write(self.server.epoch(), &changes)
        {
            // Whoever asked tries again, and so does this.
            tracing::error!("mappings cannot be kept, so nobody gets an answer: {error}");
            self.server.not_written(changes);
            self.answers.clear();
        }
        for (answer, to, socket) in self.answers.drain(..) {
            // If the socket's buffer is full, the client repeats its request.
            let _ = socket.try_send_to(&answer, to.into());
        }
    }

    /// Announcements and updates whose time has come.
    fn repeat(&mut self) {
        let (now, epoch) = (now(), self.server.seconds(now()));
        if self.announced.due() {
            for socket in &self.sockets {
                let _ = socket.try_send_to(&wire::announcement(epoch), ALL_HOSTS.into());
                if let Some(address) = self.tables.address_of(Ipv4Addr::UNSPECIFIED) {
                    let message = natpmp::address(natpmp::Code::Success, address, epoch);
                    let _ = socket.try_send_to(&message, ALL_HOSTS.into());
                }
            }
        }
        if self.told.due() {
            for told in &self.told.what {
                for socket in &self.sockets {
                    // Only one of them has a way to it; the others' devices are other links.
                    let _ = socket.try_send_to(&told.message(now, epoch), told.client.into());
                }
            }
        }
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

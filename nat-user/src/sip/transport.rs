//! The shell around the SIP core: it owns sockets, timers and DNS, turns what happens into [`Input`]s and carries out [`Command`]s
//! (RFC 3261 section 18, RFC 3263, RFC 5626 section 4.4, RFC 5922, RFC 5923).
//!
//! One thread runs the core, all sockets and all timers: nothing on a message's way takes a lock. Each turn of its loop takes a bounded
//! number of datagrams from each socket, of events from connections and of requests from other threads, gives them to the core, and then
//! carries out all commands, datagrams in batches. So no source of work starves another.

mod batch;
mod clock;
mod connection;
mod connections;
pub mod counters;
mod event;
pub mod framing;
pub mod listen;
mod mmsg;
mod shell;
mod sockets;
pub mod stun;
mod tls;
pub mod trace;
mod udp;

#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, SocketAddr},
    thread::JoinHandle,
};

use anyhow::{Context as _, Result, anyhow};
use tokio::sync::{mpsc, oneshot};

pub use self::{
    counters::{Counters, Reason},
    listen::{Place, assign},
    trace::{Direction, Traced},
};
use super::{
    command::{Command, Input},
    flow::{Flow, ListenerId},
    time::Time,
};
use crate::config::sip::{SipLimits, Tls};

/// The sans-IO core, seen from outside.
pub trait Engine: 'static {
    /// What other threads (command line, reload) ask of the core. It carries its own way back, such as a channel.
    type Call: Send + 'static;

    /// Something happened.
    fn input(&mut self, input: Input, now: Time, out: &mut Vec<Command>);

    /// When [`Engine::tick`] is due, if ever. Asked after each turn, so it must be quick.
    fn next(&self) -> Option<Time>;

    /// It is [`Engine::next`] or later.
    fn tick(&mut self, now: Time, out: &mut Vec<Command>);

    /// Whether something needs this connection, such as a registration or a dialog. Asked when nothing has come on it for `sip.limits.idle`; it is closed
    /// unless so, and asked again after the same time.
    fn uses(&self, flow: &Flow) -> bool;

    /// Whether what comes may be read already. What is not read waits in the sockets; asked after each [`Engine::call`].
    fn is_ready(&self) -> bool {
        true
    }

    /// Another thread asks for something.
    fn call(&mut self, call: Self::Call, now: Time, out: &mut Vec<Command>);
}

/// What the transports are told by the configuration.
#[derive(Clone, Debug)]
pub struct Options {
    /// Their ids are those of [`assign`].
    pub listeners: Vec<Place>,
    pub limits: SipLimits,
    /// A TLS listener needs it; without it, TLS servers are checked against the system's authorities.
    pub tls: Option<Tls>,
    /// Name servers; none: those of `/etc/resolv.conf`, read at start and at each reload.
    pub dns: Vec<SocketAddr>,
}

/// Where a listener is, by the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    pub listener: ListenerId,
    /// `None`: its interface has no address.
    pub address: Option<SocketAddr>,
}

/// A running shell.
pub struct Running<C> {
    pub handle: Handle<C>,
    /// Ends after [`Handle::stop`], or when the last handle is dropped.
    pub thread: JoinHandle<()>,
}

/// Talks to the thread of the core. Every method fails only if that thread has ended, unless it says more.
pub struct Handle<C> {
    requests: mpsc::Sender<Request<C>>,
}

impl<C> Clone for Handle<C> {
    fn clone(&self) -> Self {
        Handle {
            requests: self.requests.clone(),
        }
    }
}

enum Request<C> {
    Call(C),
    Moved(ListenerId, Option<IpAddr>, oneshot::Sender<Result<()>>),
    Reload(Box<Options>, oneshot::Sender<Result<()>>),
    Counters(oneshot::Sender<Counters>),
    Locals(oneshot::Sender<Vec<Local>>),
    Trace(mpsc::Sender<Traced>, oneshot::Sender<()>),
    Stop,
}

/// Binds all listeners and starts the thread, in the network namespace of the caller. `make` makes the core there, knowing where the listeners are and what
/// time it is.
///
/// # Errors
/// If a listener cannot be bound or a certificate cannot be used; nothing runs then.
pub fn start<E, F>(options: Options, make: F) -> Result<Running<E::Call>>
where
    E: Engine,
    F: FnOnce(&[Local], Time) -> Result<E> + Send + 'static,
{
    const REQUESTS: usize = 1024;
    listen::raise_descriptors(options.limits.connections);
    let (sender, receiver) = mpsc::channel(REQUESTS);
    let (tell, told) = std::sync::mpsc::channel();
    let body = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = match runtime.context("cannot start the SIP runtime") {
            Ok(runtime) => runtime,
            Err(error) => {
                let _ = tell.send(Err(error));
                return;
            }
        };
        runtime.block_on(async move {
            match shell::Shell::new(options, receiver, make) {
                Ok(shell) => {
                    let _ = tell.send(Ok(()));
                    shell.run().await;
                }
                Err(error) => {
                    let _ = tell.send(Err(error));
                }
            }
        });
    };
    let thread = std::thread::Builder::new()
        .name("sip".into())
        .spawn(body)
        .context("cannot start the SIP thread")?;
    told.recv().context("the SIP thread ended at its start")??;
    Ok(Running {
        handle: Handle { requests: sender },
        thread,
    })
}

impl<C: Send + 'static> Handle<C> {
    /// Passes a request to [`Engine::call`].
    pub async fn call(&self, call: C) -> Result<()> {
        self.send(Request::Call(call)).await
    }

    /// The interface that a listener follows has another address, or none. Its socket is bound anew, its connections end, and the core gets
    /// [`Input::Moved`].
    ///
    /// # Errors
    /// If it cannot be bound there; it has no socket then until it moves again, and the core knows.
    pub async fn moved(&self, listener: ListenerId, address: Option<IpAddr>) -> Result<()> {
        self.ask(|reply| Request::Moved(listener, address, reply)).await?
    }

    /// Takes over a new configuration. Listeners that stay ([`assign`]) keep sockets and connections.
    ///
    /// # Errors
    /// If a new listener cannot be bound or a certificate cannot be used; everything stays as it was then.
    pub async fn reload(&self, options: Options) -> Result<()> {
        self.ask(|reply| Request::Reload(Box::new(options), reply)).await?
    }

    /// What was counted.
    pub async fn counters(&self) -> Result<Counters> {
        self.ask(Request::Counters).await
    }

    /// Where the listeners are.
    pub async fn locals(&self) -> Result<Vec<Local>> {
        self.ask(Request::Locals).await
    }

    /// Every message from now on, until the receiver is dropped. `capacity` messages may wait for being read; more are lost and counted.
    pub async fn trace(&self, capacity: usize) -> Result<mpsc::Receiver<Traced>> {
        let (sender, receiver) = mpsc::channel(capacity);
        self.ask(|reply| Request::Trace(sender, reply)).await?;
        Ok(receiver)
    }

    /// Ends the thread after what was to be sent has gone out, within a second.
    pub async fn stop(&self) -> Result<()> {
        self.send(Request::Stop).await
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request<C>) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.send(request(reply)).await?;
        answer.await.map_err(|_| ended())
    }

    async fn send(&self, request: Request<C>) -> Result<()> {
        self.requests.send(request).await.map_err(|_| ended())
    }
}

fn ended() -> anyhow::Error {
    anyhow!("the SIP thread has ended; the log says why")
}

//! The SIP server's place in the daemon.

use std::{net::IpAddr, sync::Arc, thread::JoinHandle};

use anyhow::{Context as _, Result};
use tokio::sync::watch;

use super::nat::Socket;
use crate::{
    config,
    net::{self, Scope},
    sip::{
        calls::{self, Recorder},
        engine,
        flow::Transport,
        query::Setup,
        server::{self, Server},
        transport::Place,
    },
    units::Proto,
};

/// A running SIP server.
pub struct Sip {
    pub server: Arc<Server>,
    /// Takes the records of calls.
    pub recorder: Arc<Recorder>,
    /// Turns true when its thread has ended.
    ended: watch::Receiver<bool>,
}

/// Reads what a configuration names; see [`Setup::read`].
pub fn read(
    config: &config::sip::Sip,
    old: &[Place],
    interfaces: &[net::Interface],
    addresses: &[net::Address],
) -> Result<Setup> {
    Setup::read(config, old, &|name| address_of(name, interfaces, addresses))
}

impl Sip {
    /// Opens its sockets and starts its thread. `beside_nat`: nothing is read from them until [`Server::anchor_media`].
    ///
    /// # Errors
    /// If a socket, a certificate or a file cannot be used; nothing runs then.
    pub fn start(setup: Setup, beside_nat: bool) -> Result<Sip> {
        let secret = server::secret(&setup.config.secret)?;
        if let Some(store) = &setup.config.store {
            server::make_directory(store)?;
        }
        let target = &setup.config.calls.records;
        let recorder = Recorder::start(calls::open(target)?, target)
            .context("cannot start a thread that writes the records of calls")?;
        let told = recorder.clone();
        let (server, thread) = Server::start(setup, move |setup, _, now| {
            let engine = engine::make(setup, &secret, now)?.recording(told);
            Ok(if beside_nat { engine.wait_for_media() } else { engine })
        })?;
        Ok(Sip {
            server,
            recorder,
            ended: watch_thread(thread)?,
        })
    }

    /// Its sockets, as far as they concern a NAT beside it.
    pub fn sockets(&self) -> Vec<Socket> {
        let socket = |place: &Place| {
            let address = match place.address()?.ip() {
                IpAddr::V4(address) => (!address.is_unspecified()).then_some(address),
                // No IPv4 packet reaches it: these sockets are for IPv6 only.
                IpAddr::V6(_) => return None,
            };
            Some(Socket {
                proto: if place.listener.transport == Transport::Udp {
                    Proto::Udp
                } else {
                    Proto::Tcp
                },
                address,
                port: place.listener.port,
            })
        };
        self.server.setup().listeners.iter().filter_map(socket).collect()
    }

    /// Acts upon other addresses of interfaces that listeners follow.
    pub async fn follow(&self, interfaces: &[net::Interface], addresses: &[net::Address]) {
        let find = |name: &str| address_of(name, interfaces, addresses);
        for (listener, address) in self.server.follow(&find).await {
            let transport = listener.transport;
            match address {
                Some(address) => {
                    tracing::info!("the {transport} listener on port {} is at {address} now", listener.port)
                }
                None => tracing::warn!(
                    "the {transport} listener on port {} has no address at the moment",
                    listener.port
                ),
            }
        }
    }

    /// Returns when the thread has ended.
    pub async fn ended(&self) {
        // An error means that who watches it is gone, and the thread with it.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    /// Ends it, after what was to be sent has gone out.
    pub async fn stop(self) {
        self.server.stop().await;
        self.ended().await;
        let recorder = self.recorder;
        // An error means that it panicked, which it has told.
        let _ = tokio::task::spawn_blocking(move || recorder.finish()).await;
    }
}

/// The first global IPv4 address of an interface.
fn address_of(name: &str, interfaces: &[net::Interface], addresses: &[net::Address]) -> Result<Option<IpAddr>> {
    let interface = interfaces
        .iter()
        .find(|interface| interface.name == name)
        .with_context(|| {
            format!("there is no interface {name}; correct the name, or create it before sipnat starts")
        })?;
    let global = |address: &&net::Address| address.ifindex == interface.index && address.scope == Scope::Universe;
    Ok(addresses.iter().find(global).map(|address| address.addr.into()))
}

/// Waits for a thread on another one, since nothing else can.
fn watch_thread(thread: JoinHandle<()>) -> Result<watch::Receiver<bool>> {
    let (tell, ended) = watch::channel(false);
    let wait = move || {
        if thread.join().is_err() {
            tracing::error!("the SIP server panicked");
        }
        tell.send_replace(true);
    };
    std::thread::Builder::new()
        .name("sip-watch".into())
        .spawn(wait)
        .context("cannot start a thread that watches the SIP server")?;
    Ok(ended)
}

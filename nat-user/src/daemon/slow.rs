//! The slow path's place in the daemon.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use aya::programs::Xdp;
use nat_common::fragment::{self, Datagram};
use tokio::sync::watch;

use super::state::State;
use crate::{
    dataplane::object,
    net::Net,
    slowpath::{
        Handle, Settings, SlowPath, SlowPathParts, orphans::KnownDatagrams, outlet::Sockets, reinject::KernelPrograms,
    },
};

/// The shared table of fragments.
struct Fragments(Arc<State>);

impl KnownDatagrams for Fragments {
    fn known(&self, datagram: &Datagram) -> bool {
        let numbers = self.0.current().numbers;
        fragment::find(&self.0.kernel.tables, &numbers, datagram, self.0.now()).is_some()
    }
}

/// Starts the slow path; it ends when `stopped` turns true.
pub fn start(state: &Arc<State>, net: Arc<Net>, mut stopped: watch::Receiver<bool>) -> Result<Handle> {
    let programs = {
        let ebpf = state.kernel.ebpf();
        let loaded = |name| -> Result<&Xdp> {
            let program = ebpf
                .program(name)
                .with_context(|| format!("no program {name} in the object"))?;
            Ok(program.try_into()?)
        };
        KernelPrograms::new(loaded(object::INSIDE)?, loaded(object::OUTSIDE)?)?
    };
    let (settings, interfaces) = view(state);
    let slow_path = SlowPath::new(SlowPathParts {
        punts: state.kernel.ring("PUNTS")?,
        settings,
        interfaces,
        table: Box::new(Fragments(state.clone())),
        reinject: Box::new(programs),
        outlet: Box::new(
            Sockets::open().context("cannot open the raw sockets for ICMP errors; CAP_NET_RAW is needed")?,
        ),
        net,
    });
    let handle = slow_path.handle();
    tokio::spawn(async move {
        let end = async move {
            // An error means that the sender is gone, which is the end as well.
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        if let Err(error) = slow_path.run(end).await {
            tracing::error!(
                "the slow path ended: {error:#}; ICMP errors and packets to new neighbours are lost until a restart"
            );
        }
    });
    Ok(handle)
}

/// Tells a running slow path what is in force now.
pub fn configure(handle: &Handle, state: &State) {
    let (settings, interfaces) = view(state);
    handle.configure(settings, interfaces);
}

fn view(state: &State) -> (Settings, Vec<nat_common::maps::Interface>) {
    let current = state.current();
    (Settings::from(&current.config), current.topology.entries())
}

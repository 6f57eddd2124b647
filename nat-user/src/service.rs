//! What the running daemon answers on its control socket: for the NAT, for the SIP server, for whatever of them runs.

mod capture;
mod leases;
mod nat;
mod relays;
pub mod sip;

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    ops::ControlFlow,
    time::Instant,
};

use anyhow::anyhow;
use tokio::sync::{mpsc, oneshot};

pub use nat::{Nat, block_record};

use crate::{
    config::{ExternalSide, Forward},
    control::{BindingFilter, Each, RelayPlan, Service, ServiceError, SipService},
    records::{
        BindingRecord, BlockRecord, CaptureRecord, CounterRecord, LeaseRecord, RelayRecord, RelayTotals, StatusRecord,
        Time,
    },
    units::Proto,
};

/// What only the daemon's main loop may do.
#[derive(Debug)]
pub enum Order {
    /// See [`Service::add_forward`].
    AddForward(Forward),
    /// See [`Service::delete_forward`].
    DeleteForward(Proto, ExternalSide),
    /// See [`Service::reload`].
    Reload,
    /// See [`Service::detach`].
    Detach,
}

/// An order and where its result goes.
pub type Ordered = (Order, oneshot::Sender<Result<String, ServiceError>>);

/// The service of a running daemon: reads for itself, has the main loop change.
pub struct Daemon {
    /// When it started.
    pub started: (Time, Instant),
    /// `None`: no NAT runs.
    pub nat: Option<Nat>,
    /// `None`: no SIP server runs.
    pub sip: Option<sip::Sip>,
    /// To the main loop.
    pub orders: mpsc::UnboundedSender<Ordered>,
}

impl Daemon {
    fn nat(&self) -> Result<&Nat, ServiceError> {
        self.nat.as_ref().ok_or_else(|| {
            anyhow!("no NAT runs here; write [nat] with inside and outside interfaces into the configuration and start again").into()
        })
    }

    fn running_sip(&self) -> Result<&sip::Sip, ServiceError> {
        self.sip.as_ref().ok_or_else(|| {
            anyhow!("no SIP server runs here; write [sip] into the configuration and start again").into()
        })
    }

    fn order(&self, order: Order) -> Result<String, ServiceError> {
        let gone = || ServiceError::Failed(anyhow!("the daemon is ending; start it again"));
        let (sender, result) = oneshot::channel();
        self.orders.send((order, sender)).map_err(|_| gone())?;
        result.blocking_recv().map_err(|_| gone())?
    }
}

impl Service for Daemon {
    fn status(&self) -> Result<StatusRecord, ServiceError> {
        Ok(StatusRecord {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            started: Some(self.started.0),
            uptime_s: self.started.1.elapsed().as_secs(),
            sip: self.sip.as_ref().map(sip::Sip::status).transpose()?,
            ..self.nat.as_ref().map(Nat::status).unwrap_or_default()
        })
    }

    fn bindings(
        &self,
        filter: &BindingFilter,
        each: &mut dyn FnMut(BindingRecord) -> ControlFlow<()>,
    ) -> Result<(), ServiceError> {
        self.nat()?.bindings(filter, each)
    }

    fn blocks(
        &self,
        host: Option<Ipv4Addr>,
        each: &mut dyn FnMut(BlockRecord) -> ControlFlow<()>,
    ) -> Result<(), ServiceError> {
        self.nat()?.blocks(host, each)
    }

    fn relays(&self, call: Option<u64>, each: Each<RelayRecord>) -> Result<(), ServiceError> {
        relays::list(&self.nat()?.state, call, each);
        Ok(())
    }

    fn relay_totals(&self) -> Result<RelayTotals, ServiceError> {
        Ok(relays::totals(&self.nat()?.state))
    }

    fn capture(&self, call: &str) -> Result<mpsc::Receiver<CaptureRecord>, ServiceError> {
        let state = self.nat.as_ref().map(|nat| nat.state.clone());
        capture::begin(self.running_sip()?.server.clone(), state, call)
    }

    fn open_relay(&self, plan: &RelayPlan) -> Result<Vec<RelayRecord>, ServiceError> {
        relays::open(&self.nat()?.state, plan)
    }

    fn close_relay(&self, call: u64) -> Result<String, ServiceError> {
        relays::close(&self.nat()?.state, call)
    }

    fn leases(&self, each: Each<LeaseRecord>) -> Result<(), ServiceError> {
        leases::list(self.nat()?, each)
    }

    fn revoke_lease(&self, proto: Proto, inside: SocketAddrV4) -> Result<String, ServiceError> {
        leases::revoke(self.nat()?, proto, inside)
    }

    fn counters(&self) -> Result<Vec<CounterRecord>, ServiceError> {
        let mut counters = self.nat.as_ref().map(Nat::counters).transpose()?.unwrap_or_default();
        if let Some(sip) = &self.sip {
            counters.extend(sip.counters()?);
        }
        Ok(counters)
    }

    fn add_forward(&self, forward: Forward) -> Result<String, ServiceError> {
        self.nat()?;
        self.order(Order::AddForward(forward))
    }

    fn delete_forward(&self, protocol: Proto, external: ExternalSide) -> Result<String, ServiceError> {
        self.nat()?;
        self.order(Order::DeleteForward(protocol, external))
    }

    fn reload(&self) -> Result<String, ServiceError> {
        self.order(Order::Reload)
    }

    fn detach(&self) -> Result<String, ServiceError> {
        self.nat()?;
        self.order(Order::Detach)
    }

    fn sip(&self) -> Result<&dyn SipService, ServiceError> {
        self.running_sip().map(|sip| sip as &dyn SipService)
    }
}

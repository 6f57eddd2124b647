//! The tap for `sipnat trace`: every message that comes and goes, for who listens.

use std::net::SocketAddr;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::counters::Counters;
use crate::sip::{flow::Flow, time::Time};

/// Which way a message went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    In,
    Out,
}

/// One message on its way in or out. Keep-alives are not traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traced {
    pub time: Time,
    pub direction: Direction,
    pub flow: Flow,
    /// Our end.
    pub local: SocketAddr,
    pub bytes: Bytes,
}

/// Who listens.
#[derive(Debug, Default)]
pub(super) struct Taps(Vec<mpsc::Sender<Traced>>);

impl Taps {
    pub(super) fn add(&mut self, tap: mpsc::Sender<Traced>) {
        self.0.push(tap);
    }

    /// Whether nobody listens.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells everybody who listens. Who does not keep up loses messages, which is counted; who has gone is forgotten.
    #[inline]
    pub(super) fn tell(&mut self, counters: &mut Counters, traced: impl Fn() -> Traced) {
        if self.0.is_empty() {
            return;
        }
        self.0.retain(|tap| match tap.try_send(traced()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                counters.traces_lost += 1;
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        });
    }
}

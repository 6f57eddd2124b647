//! Transactions (RFC 3261 section 17, as corrected by RFC 6026): what retransmits, absorbs, and gives up.
//!
//! [`server::Servers`] are the requests that came in and are not yet answered for good, [`answered::Answered`] remembers what was
//! answered to requests that are no INVITEs, [`client::Clients`] are the requests that went out. Each is a table whose functions take
//! the time and append commands; what a response or a timeout *means* is for the proxy.

pub mod answered;
pub mod client;
pub mod key;
pub mod server;
mod sieve;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, time::Duration};

use super::{
    command::QueryId,
    core::arena::Id,
    flow::{ConnectionId, Flow},
    time::Time,
};

/// The timers of RFC 3261 table 4 that are configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Periods {
    /// Round-trip time: the first retransmission.
    pub t1: Duration,
    /// The longest time between retransmissions of what is not an INVITE request.
    pub t2: Duration,
    /// How long a message may stay in the network.
    pub t4: Duration,
    /// Timer C: how long an INVITE may be proceeding without news (section 16.6 item 11).
    pub c: Duration,
}

impl Periods {
    /// 64 × T1: timers B, D (at least 32 s), F, H, J, L and M.
    pub fn give_up(&self) -> Duration {
        self.t1 * 64
    }
}

impl Default for Periods {
    fn default() -> Self {
        Periods {
            t1: Duration::from_millis(500),
            t2: Duration::from_secs(4),
            t4: Duration::from_secs(5),
            c: Duration::from_secs(185),
        }
    }
}

/// Whose deadline it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    Server(Id),
    Client(Id),
    Context(Id),
    Dialog(Id),
    /// A look-up that nobody has answered.
    Query(QueryId),
}

/// Which transactions depend on a stream connection.
#[derive(Debug, Default)]
struct ByConnection(BTreeSet<(ConnectionId, Id)>);

impl ByConnection {
    /// It depends on the connection of this flow, if it has one.
    fn add(&mut self, flow: &Flow, id: Id) {
        if flow.transport.reliable() {
            self.0.insert((flow.connection, id));
        }
    }

    fn remove(&mut self, flow: &Flow, id: Id) {
        if flow.transport.reliable() {
            self.0.remove(&(flow.connection, id));
        }
    }

    /// Those that depend on the connection of this flow.
    fn of(&self, flow: &Flow) -> Vec<Id> {
        let id = |number| Id {
            index: number,
            serial: number,
        };
        let range = (flow.connection, id(0))..=(flow.connection, id(u32::MAX));
        self.0.range(range).map(|(_, id)| *id).collect()
    }
}

/// When a message goes out again: after `interval`, which doubles up to a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resend {
    pub at: Time,
    interval: Duration,
}

impl Resend {
    /// Never.
    pub const NEVER: Resend = Resend {
        at: Time::MAX,
        interval: Duration::ZERO,
    };

    /// First after `interval`.
    pub fn after(interval: Duration, now: Time) -> Resend {
        Resend {
            at: now + interval,
            interval,
        }
    }

    /// It was sent again. `limit`: the longest interval.
    pub fn sent(&mut self, limit: Duration, now: Time) {
        self.interval = (self.interval * 2).min(limit);
        self.at = now + self.interval;
    }
}

//! The core as people see it: what there is, what was counted, and another configuration.

use super::{Core, seam::Registry};
use crate::sip::{
    metrics::{SipGauges, SipMetrics, TransactionLabel},
    transaction::{client, server},
};

impl<R: Registry> Core<R> {
    /// What the core and the path table have counted.
    pub fn counted(&self) -> SipMetrics {
        let paths = self.paths.counts();
        SipMetrics {
            prompts_sent: paths.prompts_sent,
            prompts_answered: paths.prompts_answered,
            prompts_lost: paths.prompts_lost,
            paths_lost: paths.paths_down,
            paths_recovered: paths.paths_up,
            ..self.metrics.clone()
        }
    }

    /// What there is at the moment, but registrations and bans.
    pub fn gauges(&self) -> SipGauges {
        let mut gauges = SipGauges {
            paths: self.paths.states(),
            paths_down: self.paths.down_count(),
            calls: self.dialogs.calls() as u64,
            subscriptions: self.dialogs.subscriptions() as u64,
            ..SipGauges::default()
        };
        for (_, server) in self.servers.iter() {
            gauges.server_transactions[server_label(server.state) as usize] += 1;
        }
        for (_, client) in self.clients.iter() {
            gauges.client_transactions[client_label(client.state, client.invite) as usize] += 1;
        }
        gauges
    }
}

/// The name of a server transaction's state.
pub fn server_label(state: server::State) -> TransactionLabel {
    match state {
        server::State::Trying => TransactionLabel::Trying,
        server::State::Proceeding => TransactionLabel::Proceeding,
        server::State::Completed => TransactionLabel::Completed,
        server::State::Confirmed => TransactionLabel::Confirmed,
        server::State::Accepted => TransactionLabel::Accepted,
    }
}

/// The name of a client transaction's state.
pub fn client_label(state: client::State, invite: bool) -> TransactionLabel {
    match state {
        client::State::Calling if invite => TransactionLabel::Calling,
        client::State::Calling => TransactionLabel::Trying,
        client::State::Proceeding => TransactionLabel::Proceeding,
        client::State::Completed => TransactionLabel::Completed,
        client::State::Accepted => TransactionLabel::Accepted,
    }
}

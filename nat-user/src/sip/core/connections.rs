//! Which connections are open.

use rustc_hash::FxHashMap;

use crate::sip::flow::{ConnectionId, Flow};

/// The open connections, by what [`Input::Opened`](crate::sip::command::Input::Opened) and `Closed` say.
#[derive(Debug, Default)]
pub struct Connections {
    // Ids are given out by our own shell, so nobody can choose them.
    open: FxHashMap<ConnectionId, Flow>,
}

impl Connections {
    pub fn opened(&mut self, flow: &Flow) {
        self.open.insert(flow.connection, *flow);
    }

    pub fn closed(&mut self, flow: &Flow) {
        self.open.remove(&flow.connection);
    }

    /// Whether something can be sent on this flow. Datagrams always can. A flow from before a restart may have the id of another one of today,
    /// so all of it counts.
    pub fn is_open(&self, flow: &Flow) -> bool {
        !flow.transport.reliable() || self.open.get(&flow.connection) == Some(flow)
    }

    pub fn len(&self) -> usize {
        self.open.len()
    }

    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

//! Which connections are open.

use std::net::SocketAddr;

use rustc_hash::FxHashMap;

use crate::sip::flow::{ConnectionId, Flow};

/// The open connections, by what [`Input::Opened`](crate::sip::command::Input::Opened) and `Closed` say.
#[derive(Debug, Default)]
pub struct Connections {
    // Ids are given out by our own shell, so nobody can choose them.
    open: FxHashMap<ConnectionId, Open>,
}

#[derive(Debug)]
struct Open {
    flow: Flow,
    /// The address that it was last asked to serve for as well.
    alias: Option<SocketAddr>,
}

impl Connections {
    pub fn opened(&mut self, flow: &Flow) {
        let open = Open {
            flow: *flow,
            alias: None,
        };
        self.open.insert(flow.connection, open);
    }

    pub fn closed(&mut self, flow: &Flow) {
        self.open.remove(&flow.connection);
    }

    /// Whether something can be sent on this flow. Datagrams always can. A flow from before a restart may have the id of another one of today,
    /// so all of it counts.
    pub fn is_open(&self, flow: &Flow) -> bool {
        !flow.transport.reliable() || self.open.get(&flow.connection).is_some_and(|open| open.flow == *flow)
    }

    /// A connection shall serve for this address as well (RFC 5923). Whether that is news.
    pub fn alias(&mut self, flow: &Flow, address: SocketAddr) -> bool {
        let open = self.open.get_mut(&flow.connection).filter(|open| open.flow == *flow);
        open.is_some_and(|open| open.alias.replace(address) != Some(address))
    }

    pub fn len(&self) -> usize {
        self.open.len()
    }

    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

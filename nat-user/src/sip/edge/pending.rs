//! REGISTERs that were passed on and not answered yet.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use rustc_hash::FxHashMap;

use super::Token;
use crate::sip::{
    flow::Flow,
    message::{Message, NameAddr, Span},
    time::Time,
};

/// Nobody waits longer for a response than 64 × T1 and a failover or two.
const LONGEST: Duration = Duration::from_secs(180);
/// So many wait at most; the oldest are forgotten.
const MOST: usize = 50_000;

/// What is needed when the response comes. It is bounded in number and time, and nothing else is kept of a request that is not answered with 2xx.
#[derive(Debug)]
pub(super) struct Waiting {
    pub flow: Flow,
    /// The address that the request was sent to.
    pub local: SocketAddr,
    /// Nobody is between us and the device.
    pub first_hop: bool,
    /// `Contact: *`.
    pub all: bool,
    pub sent: Vec<Sent>,
    pub request: Message,
    pub aor: String,
    pub until: Time,
}

/// A contact that went on as a token.
#[derive(Debug)]
pub(super) struct Sent {
    pub token: Token,
    /// Its value in the request.
    pub value: Span,
    /// Its address is the one that the request came from.
    pub at_source: bool,
}

impl Waiting {
    /// The contact as the device sent it.
    pub fn contact(&self, sent: &Sent) -> Option<NameAddr<'_>> {
        NameAddr::parse(&self.request, sent.value)
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Pending {
    waiting: FxHashMap<u64, Waiting>,
    order: VecDeque<u64>,
    last: u64,
}

impl Pending {
    /// Adds one and gives its ticket.
    pub fn add(&mut self, mut waiting: Waiting, now: Time) -> u64 {
        while let Some(oldest) = self.order.front() {
            let over = match self.waiting.get(oldest) {
                None => true,
                Some(waiting) => waiting.until <= now || self.waiting.len() >= MOST,
            };
            if !over {
                break;
            }
            self.waiting.remove(oldest);
            self.order.pop_front();
        }
        self.last += 1;
        waiting.until = now + LONGEST;
        self.waiting.insert(self.last, waiting);
        self.order.push_back(self.last);
        self.last
    }

    pub fn take(&mut self, ticket: u64) -> Option<Waiting> {
        self.waiting.remove(&ticket)
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }
}

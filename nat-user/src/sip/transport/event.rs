//! What the tasks of the shell tell its loop.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use tokio::net::TcpStream;

use super::{counters::Reason, mmsg::Refusal};
use crate::sip::{
    command::{Hop, QueryId, SendError, Ticket},
    flow::{ConnectionId, ListenerId},
};

/// News from a task. The channel is bounded: who floods it waits, and his peer with him.
#[derive(Debug)]
pub enum Event {
    /// The error queue of a UDP socket.
    Refused(ListenerId, Vec<Refusal>),
    /// Somebody connected.
    Accepted(ListenerId, TcpStream, SocketAddr),
    /// A connection is ready for messages. With our end of it, and the domains that its client has proven to be.
    Opened(ConnectionId, SocketAddr, Vec<Arc<str>>),
    Message(ConnectionId, Bytes),
    /// Line ends between messages, of which so many want an answer.
    LineEnds(ConnectionId, usize),
    /// Nothing has come for as long as a connection may be silent that nobody needs.
    Idle(ConnectionId),
    /// Nothing will be received any more, for this reason if it is worth counting; what is to be sent can be.
    Ended(ConnectionId, Option<Reason>),
    /// A connection is gone, or did not come about.
    Closed(ConnectionId, Farewell),
    /// A look-up is done.
    Resolved(QueryId, Vec<Hop>),
}

/// What a connection leaves behind.
#[derive(Debug)]
pub struct Farewell {
    /// What was not sent.
    pub unsent: Vec<Ticket>,
    /// Why it was not.
    pub error: SendError,
    /// If it is worth counting.
    pub reason: Option<Reason>,
}

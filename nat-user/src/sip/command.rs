//! What goes into the SIP core and what comes out of it. Nothing else crosses its border.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use bytes::Bytes;

use super::flow::{Flow, ListenerId, Transport};

/// Something that happened outside of the core.
#[derive(Clone, Debug)]
pub enum Input {
    /// One message: a datagram, or what Content-Length cut out of a stream (RFC 3261 section 18.3). Keep-alive bytes between
    /// messages have been taken out.
    Received {
        flow: Flow,
        /// The address that it was sent to, known also where the listener is bound to any address.
        local: SocketAddr,
        bytes: Bytes,
    },
    /// A sign of life that is no message: CRLF, double CRLF or a STUN request (RFC 5626 section 4.4). The transport has answered it if it
    /// asks for an answer.
    KeptAlive(Flow),
    /// A connection is open: accepted, or made for a [`Destination::Hop`]. Sent before anything is received on it.
    Opened(Flow),
    /// A connection has ended, from whichever side.
    Closed(Flow),
    /// What was sent with this ticket goes out on this flow. Only for [`Destination::Hop`] over streams, where the core cannot know the flow. Comes
    /// before anything that is received in answer; should the connection break before the last byte has gone out, `Failed` follows.
    Sent { ticket: Ticket, flow: Flow },
    /// What was sent with this ticket did not get out or was refused: no connection, ICMP unreachable, bigger than a datagram may be.
    Failed { ticket: Ticket, reason: SendError },
    /// The answer to [`Command::Resolve`]: places to try, in this order (RFC 3263). Empty: there is no such name.
    Resolved { query: QueryId, hops: Vec<Hop> },
    /// A listener has a new address, because the address of its interface changed; `None`: it has none at the moment.
    Moved {
        listener: ListenerId,
        address: Option<IpAddr>,
    },
}

/// Something that the core wants done.
#[derive(Clone, Debug)]
pub enum Command {
    /// Send these bytes as one message.
    Send {
        to: Destination,
        bytes: Bytes,
        /// Comes back in [`Input::Sent`] and [`Input::Failed`]. `None`: nobody waits for news.
        ticket: Option<Ticket>,
    },
    /// Find places for a target (RFC 3263).
    Resolve { query: QueryId, target: Target },
    /// Close a connection once what was sent before has gone out.
    Close(Flow),
    /// The top Via of a request on an accepted connection had `alias`: send on it what goes to the address that the Via names, port included
    /// (RFC 5923 section 8). Heeded if only the port differs from where the connection comes from, and over TLS for the domains that its client has
    /// proven to be by its certificate. The core asks for it over TCP only for trusted peers, which are known by their addresses.
    Alias { flow: Flow, address: SocketAddr },
    /// Send a keep-alive that is no message: double CRLF on streams (RFC 5626 section 4.4.1), CRLF over UDP.
    KeepAlive(Flow),
}

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// On this flow and no other. A connection that is gone fails.
    Flow(Flow),
    /// To this place from a listener's socket. Over a stream on a connection that is open to there (RFC 5923 where its alias allows), or on a new one.
    Hop { listener: ListenerId, hop: Hop },
}

/// One place to try (RFC 3263 section 4).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Hop {
    pub transport: Transport,
    pub address: SocketAddr,
    /// For TLS: the name that the certificate must have, which is the one that was looked up (RFC 5922). `None`: the address itself.
    pub name: Option<Arc<str>>,
}

/// What to look up (RFC 3263): the parts of a URI, or of a Via for responses (section 5).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Host name, or an address as text without brackets.
    pub host: String,
    /// As written; with a port there is no SRV look-up.
    pub port: Option<u16>,
    /// From the `transport` parameter.
    pub transport: Option<Transport>,
    /// A `sips` URI: TLS only.
    pub secure: bool,
}

/// Names a send that someone waits for. Given out by the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// Names a look-up. Given out by the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QueryId(pub u64);

/// Why a message did not get out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// Refused, unreachable, or the connection failed or is gone.
    Unreachable,
    /// It does not fit into a datagram that may be sent (RFC 3261 section 18.1.1).
    TooLarge,
    /// The peer's certificate is not the one of the name that was looked up.
    Certificate,
    /// Too many connections, or the queue of the connection is full.
    Overloaded,
}

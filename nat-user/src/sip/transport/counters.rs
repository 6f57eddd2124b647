//! What the transports count.

use serde::Serialize;

use crate::sip::flow::Transport;

/// Everything since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    pub udp: Traffic,
    pub tcp: Traffic,
    pub tls: Traffic,
    /// Look-ups asked for, and how many of them found nothing in time.
    pub queries: u64,
    pub queries_failed: u64,
    /// Trace records that were lost because their reader was slow.
    pub traces_lost: u64,
    /// By [`Reason`], in the order of [`Reason::ALL`].
    pub dropped: [u64; Reason::ALL.len()],
}

/// What went over one transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// SIP messages; keep-alives and STUN apart.
    pub messages_in: u64,
    pub bytes_in: u64,
    pub messages_out: u64,
    pub bytes_out: u64,
    /// CRLF, double CRLF and STUN requests that came.
    pub keep_alives: u64,
    /// Connections that came, were made, and are open now. Zero for UDP.
    pub accepted: u64,
    pub connected: u64,
    pub open: u64,
}

/// Why a message or a connection was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Received: more bytes than `sip.limits.message_size`.
    TooLarge,
    /// Received: looks like STUN and is malformed, or asks for nothing.
    BadStun,
    /// Received: from an address that nobody can be answered at.
    BadSource,
    /// A stream on which no message could be told from the next.
    Unframeable,
    /// A stream on which a message or handshake took longer than `sip.limits.message_time`.
    Slow,
    /// A stream on which nothing came for `sip.limits.idle`.
    Idle,
    /// A connection beyond `sip.limits.connections`.
    Connections,
    /// A connection beyond `sip.limits.connections_per_source`.
    ConnectionsPerSource,
    /// A TLS handshake that failed.
    Handshake,
    /// To send: the queue of the socket or connection was full.
    QueueFull,
    /// To send: bigger than a datagram may be.
    SendTooLarge,
    /// To send: no way there, no such listener, or no connection.
    Unreachable,
    /// An ICMP error said that something sent was not delivered.
    Refused,
    /// A connection to somewhere that did not come about.
    Connect,
    /// A peer whose certificate is not the expected one.
    Certificate,
    /// An alias (RFC 5923) that the connection has no right to.
    Alias,
    /// A look-up beyond those that may run at one time.
    Queries,
}

impl Reason {
    /// All, in the order of [`Counters::dropped`].
    pub const ALL: [Reason; 17] = [
        Reason::TooLarge,
        Reason::BadStun,
        Reason::BadSource,
        Reason::Unframeable,
        Reason::Slow,
        Reason::Idle,
        Reason::Connections,
        Reason::ConnectionsPerSource,
        Reason::Handshake,
        Reason::QueueFull,
        Reason::SendTooLarge,
        Reason::Unreachable,
        Reason::Refused,
        Reason::Connect,
        Reason::Certificate,
        Reason::Alias,
        Reason::Queries,
    ];

    /// As in metrics and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Reason::TooLarge => "too_large",
            Reason::BadStun => "bad_stun",
            Reason::BadSource => "bad_source",
            Reason::Unframeable => "unframeable",
            Reason::Slow => "slow",
            Reason::Idle => "idle",
            Reason::Connections => "connections",
            Reason::ConnectionsPerSource => "connections_per_source",
            Reason::Handshake => "handshake",
            Reason::QueueFull => "queue_full",
            Reason::SendTooLarge => "send_too_large",
            Reason::Unreachable => "unreachable",
            Reason::Refused => "refused",
            Reason::Connect => "connect",
            Reason::Certificate => "certificate",
            Reason::Alias => "alias",
            Reason::Queries => "queries",
        }
    }
}

impl Counters {
    /// What went over a transport.
    pub fn of(&self, transport: Transport) -> &Traffic {
        match transport {
            Transport::Udp => &self.udp,
            Transport::Tcp => &self.tcp,
            Transport::Tls => &self.tls,
        }
    }

    pub(super) fn of_mut(&mut self, transport: Transport) -> &mut Traffic {
        match transport {
            Transport::Udp => &mut self.udp,
            Transport::Tcp => &mut self.tcp,
            Transport::Tls => &mut self.tls,
        }
    }

    /// How often something was given up for this reason.
    pub fn dropped(&self, reason: Reason) -> u64 {
        self.dropped[reason as usize]
    }

    pub(super) fn drop(&mut self, reason: Reason) {
        self.dropped[reason as usize] += 1;
    }

    pub(super) fn received(&mut self, transport: Transport, bytes: usize) {
        let traffic = self.of_mut(transport);
        traffic.messages_in += 1;
        traffic.bytes_in += bytes as u64;
    }

    pub(super) fn sent(&mut self, transport: Transport, bytes: usize) {
        let traffic = self.of_mut(transport);
        traffic.messages_out += 1;
        traffic.bytes_out += bytes as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_stand_at_their_places_under_names_of_their_own() {
        for (i, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, i);
            assert_eq!(
                serde_json::to_value(reason).expect("JSON"),
                reason.name(),
                "the name in metrics is the name in JSON"
            );
        }
    }
}

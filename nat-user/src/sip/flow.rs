//! Flows: the ways on which messages come and go (RFC 5626 section 2).

use std::{
    fmt,
    hash::{Hash, Hasher},
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// What carries SIP (RFC 3261 section 18).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    Udp,
    Tcp,
    Tls,
}

impl Transport {
    /// As in a Via (RFC 3261 section 20.42).
    pub fn via(self) -> &'static str {
        match self {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
            Transport::Tls => "TLS",
        }
    }

    /// As in the `transport` parameter of a URI, and in configuration and records.
    pub fn name(self) -> &'static str {
        match self {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
            Transport::Tls => "tls",
        }
    }

    /// Whether it delivers by itself, so that nothing is retransmitted (RFC 3261 section 17).
    pub fn reliable(self) -> bool {
        self != Transport::Udp
    }

    /// 5060, or 5061 for TLS (RFC 3261 section 19.1.2).
    pub fn default_port(self) -> u16 {
        match self {
            Transport::Udp | Transport::Tcp => 5060,
            Transport::Tls => 5061,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Transport {
    type Err = String;

    /// In any case; `tls` for both `transport=tls` and SIPS.
    fn from_str(text: &str) -> Result<Self, String> {
        [Transport::Udp, Transport::Tcp, Transport::Tls]
            .into_iter()
            .find(|transport| transport.name().eq_ignore_ascii_case(text))
            .ok_or_else(|| format!("`{text}` is no transport; write udp, tcp or tls"))
    }
}

/// A configured listener: its place in the configuration's list. A listener's sockets keep the id over reloads as long as transport and
/// address stay, so stored flows find theirs by [`Flow::listener`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ListenerId(pub u16);

/// A stream connection. Ids begin at 1 and are never used again while the daemon runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConnectionId(pub u64);

impl ConnectionId {
    /// Datagrams have no connection. A stream flow from before a restart has none any more either.
    pub const NONE: ConnectionId = ConnectionId(0);
}

/// A way between one of our sockets and a remote endpoint: what a mapped path is made of, and the key of the path table.
/// Responses, and requests to a contact, leave on the flow that its messages came in on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub listener: ListenerId,
    pub transport: Transport,
    /// The remote endpoint as we see it: behind a NAT its translated address and port.
    pub remote: SocketAddr,
    /// [`ConnectionId::NONE`] for UDP.
    pub connection: ConnectionId,
}

impl Flow {
    /// Datagrams between a listener and a remote endpoint.
    pub fn udp(listener: ListenerId, remote: SocketAddr) -> Flow {
        Flow {
            listener,
            transport: Transport::Udp,
            remote,
            connection: ConnectionId::NONE,
        }
    }

    /// A connection.
    pub fn stream(listener: ListenerId, transport: Transport, remote: SocketAddr, connection: ConnectionId) -> Flow {
        Flow {
            listener,
            transport,
            remote,
            connection,
        }
    }
}

impl Hash for Flow {
    /// In few numbers, because every message's flow is looked up and each piece costs as much as the next.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut place = u64::from(self.remote.port()) << 16 | u64::from(self.listener.0);
        match self.remote.ip() {
            IpAddr::V4(v4) => place |= u64::from(v4.to_bits()) << 32,
            IpAddr::V6(v6) => state.write_u128(v6.to_bits()),
        }
        state.write_u64(place);
        // Counted from 1 on, connections do not reach the uppermost bits.
        state.write_u64(self.connection.0 << 2 | self.transport as u64);
    }
}

impl fmt::Display for Flow {
    /// `udp:134.56.1.1:5070`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.transport, self.remote)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports_read_as_they_print() {
        for transport in [Transport::Udp, Transport::Tcp, Transport::Tls] {
            assert_eq!(transport.to_string().parse(), Ok(transport));
            assert_eq!(transport.via().parse(), Ok(transport));
        }
        assert!("sctp".parse::<Transport>().unwrap_err().contains("write udp"));
    }
}

//! Changes of the network as they happen.

use std::collections::VecDeque;
use std::io;

use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};

use super::decode;
use super::handle::NetError;
use super::types::Event;

/// A stream of [`Event`]s from the network namespace in which it was opened.
///
/// Open it before the first listing, so that no change falls between the two. What the daemon is too slow to read
/// waits in the kernel's buffer and is finally dropped there; the stream then says [`Event::Resync`].
pub struct Monitor {
    socket: TokioSocket,
    queue: VecDeque<Event>,
}

const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv4Rule,
];

/// A burst of some thousand neighbour events fits; the kernel doubles this figure and caps it at rmem_max.
const RECEIVE_BUFFER: usize = 1 << 20;

impl Monitor {
    /// Subscribes in the network namespace of the calling thread. Needs a tokio runtime with I/O.
    pub fn open() -> Result<Self, NetError> {
        Self::with_buffer(RECEIVE_BUFFER)
    }

    /// A monitor that overflows after a few events.
    #[cfg(test)]
    pub(super) fn open_small() -> Result<Self, NetError> {
        Self::with_buffer(1)
    }

    fn with_buffer(bytes: usize) -> Result<Self, NetError> {
        let open = || -> io::Result<TokioSocket> {
            let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
            socket
                .socket_mut()
                .set_rx_buf_sz(i32::try_from(bytes).unwrap_or(i32::MAX))?;
            let groups = GROUPS.iter().fold(0u32, |all, group| all | 1 << (*group as u32 - 1));
            socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
            Ok(socket)
        };
        Ok(Self {
            socket: open().map_err(NetError::Open)?,
            queue: VecDeque::new(),
        })
    }

    /// The next change. Cancel-safe: nothing is lost if the future is dropped.
    ///
    /// An error means that the socket is broken; open a new monitor.
    pub async fn next(&mut self) -> io::Result<Event> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Ok(event);
            }
            match self.socket.recv_from_full().await {
                // Only the kernel (port 0) speaks for itself; other processes can send to this socket too.
                Ok((datagram, from)) if from.port_number() == 0 => {
                    parse(&datagram, &mut self.queue);
                }
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    return Ok(Event::Resync);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Splits a datagram into its messages. One that cannot be read is a lost event.
fn parse(mut datagram: &[u8], queue: &mut VecDeque<Event>) {
    const HEADER: usize = 16;
    while datagram.len() >= HEADER {
        let length = u32::from_ne_bytes([datagram[0], datagram[1], datagram[2], datagram[3]]) as usize;
        let Some(message) = datagram.get(..length).filter(|m| m.len() >= HEADER) else {
            queue.push_back(Event::Resync);
            return;
        };
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) {
            Ok(message) => match message.payload {
                NetlinkPayload::InnerMessage(inner) => queue.extend(event(inner)),
                NetlinkPayload::Overrun(_) => queue.push_back(Event::Resync),
                _ => {}
            },
            Err(error) => {
                tracing::debug!(%error, "unreadable netlink event");
                queue.push_back(Event::Resync);
            }
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

fn event(message: RouteNetlinkMessage) -> Option<Event> {
    use RouteNetlinkMessage as Nl;
    let route = |m: &_, removed| Event::RouteChanged {
        table: decode::table(m),
        dst: decode::destination(m),
        removed,
    };
    match message {
        // Bridges report their ports under AF_BRIDGE as well; those carry no more than the plain message does.
        Nl::NewLink(m) | Nl::DelLink(m)
            if m.header.interface_family != rtnetlink::packet_route::AddressFamily::Unspec =>
        {
            None
        }
        Nl::NewLink(m) => Some(Event::LinkChanged(decode::interface(&m))),
        Nl::DelLink(m) => {
            let gone = decode::interface(&m);
            Some(Event::LinkRemoved {
                index: gone.index,
                name: gone.name,
            })
        }
        Nl::NewAddress(m) => decode::address(&m).map(Event::AddressAdded),
        Nl::DelAddress(m) => decode::address(&m).map(Event::AddressRemoved),
        Nl::NewNeighbour(m) => decode::neighbour(&m).map(Event::NeighbourChanged),
        Nl::DelNeighbour(m) => decode::neighbour(&m).map(|n| Event::NeighbourRemoved {
            ifindex: n.ifindex,
            addr: n.addr,
        }),
        Nl::NewRoute(m) => Some(route(&m, false)),
        Nl::DelRoute(m) => Some(route(&m, true)),
        Nl::NewRule(_) | Nl::DelRule(_) => Some(Event::RuleChanged),
        _ => None,
    }
}

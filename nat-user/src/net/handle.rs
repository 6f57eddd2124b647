//! Questions to the kernel over rtnetlink, and the request to resolve a neighbour.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourState as NlState};
use rtnetlink::{Handle, RouteMessageBuilder};
use tokio::task::JoinHandle;

use super::decode;
use super::types::*;

/// A netlink connection to the network namespace in which it was opened.
///
/// Needs a tokio runtime with I/O; cheap to keep open for the life of the daemon.
pub struct Net {
    handle: Handle,
    connection: JoinHandle<()>,
}

#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("cannot open a netlink socket: {0}; the kernel needs CONFIG_NET and a sandbox must allow AF_NETLINK")]
    Open(#[source] std::io::Error),
    #[error("the kernel refused to {what}: {source}")]
    Request { what: String, source: rtnetlink::Error },
}

impl Net {
    /// Opens the connection in the network namespace of the calling thread.
    pub fn open() -> Result<Self, NetError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetError::Open)?;
        Ok(Self {
            handle,
            connection: tokio::spawn(connection),
        })
    }

    pub async fn interfaces(&self) -> Result<Vec<Interface>, NetError> {
        let links: Vec<_> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(request("list the interfaces"))?;
        Ok(links.iter().map(decode::interface).collect())
    }

    /// All IPv4 addresses of all interfaces.
    pub async fn addresses(&self) -> Result<Vec<Address>, NetError> {
        let list: Vec<_> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(request("list the addresses"))?;
        Ok(list.iter().filter_map(decode::address).collect())
    }

    /// The IPv4 routes of the main table; a multipath route once per next hop.
    pub async fn routes(&self) -> Result<Vec<Route>, NetError> {
        let query = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let list: Vec<_> = self
            .handle
            .route()
            .get(query)
            .execute()
            .try_collect()
            .await
            .map_err(request("list the routes"))?;
        let main = |m: &&_| decode::table(m) == decode::RT_TABLE_MAIN;
        Ok(list.iter().filter(main).flat_map(decode::routes).collect())
    }

    /// The ARP entries of one interface.
    pub async fn neighbours(&self, ifindex: u32) -> Result<Vec<Neighbour>, NetError> {
        let mut query = self.handle.neighbours().get().set_address_family(AddressFamily::Inet);
        query
            .message_mut()
            .attributes
            .push(NeighbourAttribute::IfIndex(ifindex));
        let list: Vec<_> = query
            .execute()
            .try_collect()
            .await
            .map_err(request("list the neighbours"))?;
        Ok(list
            .iter()
            .filter_map(decode::neighbour)
            .filter(|n| n.ifindex == ifindex)
            .collect())
    }

    /// Has the kernel find out the MAC address of a next hop that XDP met unresolved: it answers NO_NEIGH, but sends no ARP.
    ///
    /// Returns once the kernel has taken the request; the answer comes as [`Event::NeighbourChanged`]. Harmless for an
    /// entry that is already known: a stale one is probed again, a reachable or permanent one left alone.
    pub async fn resolve_neighbour(&self, ifindex: u32, ip: Ipv4Addr) -> Result<(), NetError> {
        self.handle
            .neighbours()
            .add(ifindex, IpAddr::V4(ip))
            .state(NlState::None)
            .flags(NeighbourFlags::Use)
            .replace()
            .execute()
            .await
            .map_err(request(format!("resolve {ip} on interface {ifindex}")))
    }

    /// Has the kernel confirm every stale neighbour of these interfaces; returns how many.
    ///
    /// Traffic that XDP forwards never touches the kernel's entries, so without this they would be collected while
    /// in use, and a changed MAC address would go unnoticed.
    pub async fn refresh_neighbours(&self, ifindexes: &[u32]) -> Result<usize, NetError> {
        let mut refreshed = 0;
        for &ifindex in ifindexes {
            for neighbour in self.neighbours(ifindex).await? {
                if neighbour.state == NeighbourState::Stale {
                    self.resolve_neighbour(ifindex, neighbour.addr).await?;
                    refreshed += 1;
                }
            }
        }
        Ok(refreshed)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn request(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> NetError {
    move |source| NetError::Request {
        what: what.into(),
        source,
    }
}

//! Sockets for listeners, and what to do if they cannot be had.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    os::fd::AsRawFd as _,
};

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    config::sip::{ListenAddress, Listener},
    sip::flow::{ListenerId, Transport},
};

/// Bytes that a UDP socket should be able to hold while the loop is busy: some 5000 messages.
const BUFFER: usize = 8 << 20;
/// Connections that wait for being accepted.
const BACKLOG: i32 = 1024;

/// A listener to be: its id, what the configuration says, and the address that its interface has if it follows one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub id: ListenerId,
    pub listener: Listener,
    /// For [`ListenAddress::Interface`]: its address; `None`: none at the moment. Otherwise unused.
    pub found: Option<IpAddr>,
}

/// A socket that is bound.
#[derive(Debug)]
pub enum Bound {
    Datagrams(UdpSocket),
    Connections(TcpListener),
}

impl Place {
    /// Where to bind; `None`: its interface has no address.
    pub fn address(&self) -> Option<SocketAddr> {
        let address = match self.listener.address {
            ListenAddress::Ip(address) => Some(address),
            ListenAddress::Interface(_) => self.found,
        };
        address.map(|address| SocketAddr::new(address, self.listener.port))
    }

    /// Whether it can go on with the sockets of `other`.
    pub fn same_socket(&self, other: &Place) -> bool {
        let key = |place: &Place| (place.id, place.listener.transport, place.listener.port);
        key(self) == key(other) && self.listener.address == other.listener.address
    }

    /// As in error messages: `udp eth0 port 5060`.
    fn describe(&self) -> String {
        let place = match &self.listener.address {
            ListenAddress::Ip(address) => address.to_string(),
            ListenAddress::Interface(name) => match self.found {
                Some(address) => format!("{name} ({address})"),
                None => name.clone(),
            },
        };
        format!("{} {place} port {}", self.listener.transport, self.listener.port)
    }

    /// Binds it.
    ///
    /// # Errors
    /// With the listener, the address and the remedy.
    pub fn bind(&self, address: SocketAddr) -> Result<Bound> {
        bind(self.listener.transport, address).with_context(|| {
            let (number, name) = (self.id.0 + 1, self.describe());
            format!("[[sip.listen]] number {number} ({name}) cannot listen")
        })
    }
}

/// Ids for the listeners of a new configuration: those that stay keep theirs, so that stored flows find them; others get free ones.
pub fn assign(old: &[(ListenerId, Listener)], new: &[Listener]) -> Vec<ListenerId> {
    let stays = |listener: &Listener| {
        let same = |(_, o): &&(ListenerId, Listener)| {
            (o.transport, &o.address, o.port) == (listener.transport, &listener.address, listener.port)
        };
        old.iter().find(same).map(|(id, _)| *id)
    };
    let kept: Vec<Option<ListenerId>> = new.iter().map(stays).collect();
    // A listener that is gone may be named by flows: its id is used again only if there is no other.
    let mut free = (0..=u16::MAX)
        .map(ListenerId)
        .filter(|id| !kept.contains(&Some(*id)))
        .collect::<Vec<_>>();
    free.sort_by_key(|id| (old.iter().any(|(taken, _)| taken == id), *id));
    let mut free = free.into_iter();
    kept.iter()
        .map(|id| id.or_else(|| free.next()).unwrap_or(ListenerId(u16::MAX)))
        .collect()
}

fn bind(transport: Transport, address: SocketAddr) -> Result<Bound> {
    let udp = transport == Transport::Udp;
    let (kind, protocol) = if udp {
        (Type::DGRAM, Protocol::UDP)
    } else {
        (Type::STREAM, Protocol::TCP)
    };
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking(), Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if udp {
        enlarge(&socket);
        for (level, option, value) in options(address) {
            set_option(&socket, level, option, value)?;
        }
    } else {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into()).map_err(|error| {
        let remedy = remedy(&error, address);
        anyhow::Error::from(error).context(remedy)
    })?;
    if udp {
        return Ok(Bound::Datagrams(socket.into()));
    }
    socket.listen(BACKLOG).map_err(|error| {
        let remedy = remedy(&error, address);
        anyhow::Error::from(error).context(remedy)
    })?;
    Ok(Bound::Connections(socket.into()))
}

fn remedy(error: &io::Error, address: SocketAddr) -> String {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => format!(
            "{address} is used by another program (`ss -lnptu` says by which); stop that one, or choose another `port` or `address`"
        ),
        Some(libc::EADDRNOTAVAIL) => format!(
            "no interface has the address {}; correct `address`, or write the name of the interface there so that sipnat follows its address",
            address.ip()
        ),
        Some(libc::EACCES | libc::EPERM) => {
            format!("{address} may not be used by this user; run as root or with CAP_NET_BIND_SERVICE")
        }
        _ => format!("binding to {address} failed"),
    }
}

/// As big as the system allows; with CAP_NET_ADMIN as big as we like.
fn enlarge(socket: &Socket) {
    let size = BUFFER as libc::c_int;
    if set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, size).is_err() {
        let _ = socket.set_recv_buffer_size(BUFFER);
    }
    if set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, size).is_err() {
        let _ = socket.set_send_buffer_size(BUFFER);
    }
}

/// Options of a UDP socket: ICMP errors with their addresses; the local address of what comes, where it is not known; and no "don't fragment",
/// so that a message too big for a link on the way is fragmented there and not lost.
fn options(address: SocketAddr) -> Vec<(libc::c_int, libc::c_int, libc::c_int)> {
    let any = address.ip().is_unspecified();
    let mut options = Vec::new();
    if address.is_ipv4() {
        options.push((libc::IPPROTO_IP, libc::IP_RECVERR, 1));
        options.push((libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT));
        if any {
            options.push((libc::IPPROTO_IP, libc::IP_PKTINFO, 1));
        }
    } else {
        options.push((libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1));
        if any {
            options.push((libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1));
        }
    }
    options
}

/// Lets the process have as many descriptors as it may, since every connection is one: the usual limit of 1024 is there for programs that use `select`.
/// Says so if `wanted` connections will not fit.
pub(super) fn raise_descriptors(wanted: u32) {
    /// For everything else that the daemon has open.
    const OTHERS: u64 = 256;
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the struct lives through the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return;
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    let raised = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } == 0;
    if !raised || limit.rlim_max < u64::from(wanted) + OTHERS {
        let allowed = limit.rlim_max;
        tracing::warn!(
            "sip.limits.connections is {wanted}, but this process may have only {allowed} files open; raise LimitNOFILE (`ulimit -n`) or lower it"
        );
    }
}

/// Sets an option that is a number.
pub(super) fn set_option(
    socket: &impl std::os::fd::AsFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the value is an int that lives through the call, its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sip::Role;

    fn listener(transport: Transport, address: &str, port: u16) -> Listener {
        Listener {
            transport,
            address: match address.parse() {
                Ok(ip) => ListenAddress::Ip(ip),
                Err(_) => ListenAddress::Interface(address.into()),
            },
            port,
            advertise: None,
            role: Role::Proxy,
        }
    }

    fn place(listener: Listener) -> Place {
        Place {
            id: ListenerId(0),
            listener,
            found: None,
        }
    }

    #[test]
    fn an_address_that_is_taken_is_named_with_the_remedy() {
        for transport in [Transport::Udp, Transport::Tcp] {
            let first = place(listener(transport, "127.0.0.1", 0));
            let address = first.address().expect("fixed");
            let port = match first.bind(address).expect("free") {
                Bound::Datagrams(socket) => {
                    let port = socket.local_addr().expect("bound").port();
                    std::mem::forget(socket);
                    port
                }
                Bound::Connections(socket) => {
                    let port = socket.local_addr().expect("bound").port();
                    std::mem::forget(socket);
                    port
                }
            };
            let second = place(listener(transport, "127.0.0.1", port));
            let error = format!(
                "{:#}",
                second.bind(second.address().expect("fixed")).expect_err("taken")
            );
            let start = format!(
                "[[sip.listen]] number 1 ({transport} 127.0.0.1 port {port}) cannot listen: 127.0.0.1:{port} is used"
            );
            assert!(error.starts_with(&start), "{error}");
            assert!(error.contains("`ss -lnptu`"), "{error}");
        }
    }

    #[test]
    fn an_address_that_nobody_has_is_named_with_the_remedy() {
        let nowhere = place(listener(Transport::Udp, "192.0.2.77", 5060));
        let error = format!(
            "{:#}",
            nowhere.bind(nowhere.address().expect("fixed")).expect_err("nobody's")
        );
        assert!(
            error.contains("no interface has the address 192.0.2.77; correct `address`"),
            "{error}"
        );
    }

    #[test]
    fn an_interface_without_address_is_nowhere() {
        let mut follows = place(listener(Transport::Udp, "ppp0", 5060));
        assert_eq!(follows.address(), None);
        follows.found = Some(IpAddr::from([192, 0, 2, 1]));
        assert_eq!(follows.address(), Some(SocketAddr::from(([192, 0, 2, 1], 5060))));
    }

    #[test]
    fn listeners_that_stay_keep_their_ids_and_ids_of_the_gone_are_used_last() {
        let (a, b, c) = (
            listener(Transport::Udp, "192.0.2.1", 5060),
            listener(Transport::Tcp, "192.0.2.1", 5060),
            listener(Transport::Tls, "eth0", 5061),
        );
        assert_eq!(assign(&[], &[a.clone(), b.clone()]), [ListenerId(0), ListenerId(1)]);
        let old = [(ListenerId(0), a), (ListenerId(1), b.clone())];
        assert_eq!(assign(&old, &[c, b]), [ListenerId(2), ListenerId(1)]);
    }
}

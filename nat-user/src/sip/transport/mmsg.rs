//! Many datagrams per system call, and the kernel's error queue: the only place that lays out memory for the kernel.

use std::{
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsRawFd as _, BorrowedFd},
};

use bytes::Bytes;

/// Datagrams per system call.
pub const BATCH: usize = 64;
/// A datagram's place in the arena. No datagram is bigger (RFC 768), so none is cut off. The odd number of cache lines above 64 KiB keeps the
/// beginnings of all places from competing for the same lines of the cache.
const SLOT: usize = 65_536 + 13 * 64;
/// Room for control messages: one packet info, or one extended error with the address of its sender.
const CONTROL: usize = 128;

#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Control([u8; CONTROL]);

/// Memory for one batch of received datagrams, used again and again. Pages that no datagram has needed take no memory.
pub struct Arena {
    bytes: Vec<u8>,
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<Control>,
    parts: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    /// So many headers hold what the kernel wrote into them.
    used: usize,
}

/// A datagram in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    pub bytes: &'a [u8],
    pub from: SocketAddr,
    /// Where it was sent to, if the socket asks for packet info.
    pub local: Option<IpAddr>,
}

/// A datagram to send.
#[derive(Clone, Debug)]
pub struct Outgoing {
    pub to: SocketAddr,
    /// Source address, for sockets that are bound to any.
    pub source: Option<IpAddr>,
    pub bytes: Bytes,
}

/// What the error queue says about a datagram that was sent to `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub to: SocketAddr,
    pub kind: RefusalKind,
}

/// Which refusals matter (RFC 3261 section 18.4: unreachable and parameter problem do, time exceeded and source quench do not).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    Unreachable,
    TooLarge,
    Ignored,
}

impl Default for Arena {
    fn default() -> Self {
        Arena::new()
    }
}

impl Arena {
    /// An empty arena.
    pub fn new() -> Arena {
        // SAFETY: all of these are plain data for which zeroes are a value.
        let (name, header) = unsafe { (mem::zeroed::<libc::sockaddr_storage>(), mem::zeroed::<libc::mmsghdr>()) };
        let mut arena = Arena {
            bytes: vec![0; BATCH * SLOT],
            names: vec![name; BATCH],
            controls: vec![Control([0; CONTROL]); BATCH],
            parts: Vec::with_capacity(BATCH),
            headers: vec![header; BATCH],
            used: BATCH,
        };
        for slot in arena.bytes.as_chunks_mut::<SLOT>().0 {
            arena.parts.push(libc::iovec {
                iov_base: slot.as_mut_ptr().cast(),
                iov_len: SLOT,
            });
        }
        arena
    }

    /// Receives what is there, at most [`BATCH`] datagrams, in place of what was received before; how many.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is there, and what the socket has to say otherwise.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        for i in 0..self.used {
            let header = &mut self.headers[i].msg_hdr;
            header.msg_name = (&raw mut self.names[i]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut self.parts[i];
            header.msg_iovlen = 1;
            header.msg_control = (&raw mut self.controls[i]).cast();
            header.msg_controllen = CONTROL as _;
        }
        self.used = 0;
        // SAFETY: every header points into vectors of this arena that are never resized, with their true lengths.
        let got = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        let Ok(count) = usize::try_from(got) else {
            return Err(io::Error::last_os_error());
        };
        self.used = count;
        Ok(count)
    }

    /// One of the datagrams of the last batch; `None` if its sender's address is of a family that is not IP.
    pub fn datagram(&self, i: usize) -> Option<Datagram<'_>> {
        let header = &self.headers[..self.used][i];
        let bytes = &self.bytes[i * SLOT..][..header.msg_len as usize];
        Some(Datagram {
            bytes,
            from: read_name(&self.names[i])?,
            local: control(&header.msg_hdr, packet_info),
        })
    }
}

/// Memory for sending one batch, used again and again.
pub struct Outbox {
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<Control>,
    parts: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl Default for Outbox {
    fn default() -> Self {
        Outbox::new()
    }
}

impl Outbox {
    pub fn new() -> Outbox {
        // SAFETY: all of these are plain data for which zeroes are a value.
        let (name, part, header) = unsafe {
            (
                mem::zeroed::<libc::sockaddr_storage>(),
                mem::zeroed::<libc::iovec>(),
                mem::zeroed::<libc::mmsghdr>(),
            )
        };
        Outbox {
            names: vec![name; BATCH],
            controls: vec![Control([0; CONTROL]); BATCH],
            parts: vec![part; BATCH],
            headers: vec![header; BATCH],
        }
    }

    /// Sends datagrams, at most [`BATCH`] of them; how many of them went out, from the first on.
    ///
    /// # Errors
    /// Why the first did not go out.
    pub fn send<'a>(
        &mut self,
        socket: BorrowedFd<'_>,
        datagrams: impl Iterator<Item = &'a Outgoing>,
    ) -> io::Result<usize> {
        let mut count = 0;
        for datagram in datagrams.take(BATCH) {
            let header = &mut self.headers[count].msg_hdr;
            header.msg_namelen = write_name(datagram.to, &mut self.names[count]);
            header.msg_name = (&raw mut self.names[count]).cast();
            self.parts[count] = libc::iovec {
                iov_base: datagram.bytes.as_ptr().cast_mut().cast(),
                iov_len: datagram.bytes.len(),
            };
            header.msg_iov = &raw mut self.parts[count];
            header.msg_iovlen = 1;
            (header.msg_control, header.msg_controllen) = (std::ptr::null_mut(), 0);
            if let Some(source) = datagram.source {
                header.msg_control = (&raw mut self.controls[count]).cast();
                header.msg_controllen = CONTROL as _;
                write_source(header, source);
            }
            count += 1;
        }
        // SAFETY: the first `count` headers point to names, parts and controls in vectors that are never resized, and to payloads that
        // outlive the call.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count as libc::c_uint,
                (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// Takes refusals off the error queue, at most [`BATCH`].
pub fn refusals(socket: BorrowedFd<'_>) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    for _ in 0..BATCH {
        // SAFETY: plain data for which zeroes are a value.
        let (mut name, mut header) =
            unsafe { (mem::zeroed::<libc::sockaddr_storage>(), mem::zeroed::<libc::msghdr>()) };
        let mut space = Control([0; CONTROL]);
        header.msg_name = (&raw mut name).cast();
        header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        header.msg_control = (&raw mut space).cast();
        header.msg_controllen = CONTROL as _;
        // SAFETY: the header points to locals that outlive the call; it has no part for the payload, which is cut off.
        let got = unsafe {
            libc::recvmsg(
                socket.as_raw_fd(),
                &raw mut header,
                libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT,
            )
        };
        if got < 0 {
            break;
        }
        if let (Some(to), Some(kind)) = (read_name(&name), control(&header, refusal)) {
            refusals.push(Refusal { to, kind });
        }
    }
    refusals
}

/// What `read` makes of the first control message that it knows.
fn control<T>(header: &libc::msghdr, read: impl Fn(&libc::cmsghdr, *const u8) -> Option<T>) -> Option<T> {
    // SAFETY: the kernel filled the control buffer and set its length; the macros stay within it.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            if let Some(value) = read(&*message, libc::CMSG_DATA(message)) {
                return Some(value);
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    None
}

/// The destination address in the header of a received datagram.
fn packet_info(message: &libc::cmsghdr, data: *const u8) -> Option<IpAddr> {
    match (message.cmsg_level, message.cmsg_type) {
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            // SAFETY: a message of this type holds this struct, at any alignment.
            let info = unsafe { data.cast::<libc::in_pktinfo>().read_unaligned() };
            Some(IpAddr::V4(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes())))
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            // SAFETY: as above.
            let info = unsafe { data.cast::<libc::in6_pktinfo>().read_unaligned() };
            Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)))
        }
        _ => None,
    }
}

/// What an extended error means for who sent the datagram.
fn refusal(message: &libc::cmsghdr, data: *const u8) -> Option<RefusalKind> {
    if !matches!(
        (message.cmsg_level, message.cmsg_type),
        (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
    ) {
        return None;
    }
    // SAFETY: a message of this type begins with this struct, at any alignment.
    let error = unsafe { data.cast::<libc::sock_extended_err>().read_unaligned() };
    Some(match (error.ee_origin, error.ee_type, error.ee_code) {
        (libc::SO_EE_ORIGIN_LOCAL, ..) if error.ee_errno == libc::EMSGSIZE as u32 => RefusalKind::TooLarge,
        (libc::SO_EE_ORIGIN_LOCAL, ..) => RefusalKind::Unreachable,
        // Fragmentation needed: the kernel has learned the path's MTU, the retransmission goes in fragments.
        (libc::SO_EE_ORIGIN_ICMP, 3, 4) => RefusalKind::Ignored,
        (libc::SO_EE_ORIGIN_ICMP, 3 | 12, _) => RefusalKind::Unreachable,
        (libc::SO_EE_ORIGIN_ICMP6, 1 | 4, _) => RefusalKind::Unreachable,
        _ => RefusalKind::Ignored,
    })
}

fn read_name(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let name = (&raw const *name).cast::<u8>();
    // SAFETY: a storage is big enough for either address and begins with the family.
    unsafe {
        match libc::c_int::from(name.cast::<libc::sa_family_t>().read()) {
            libc::AF_INET => {
                let v4 = name.cast::<libc::sockaddr_in>().read();
                let address = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(address, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                let v6 = name.cast::<libc::sockaddr_in6>().read();
                let address = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                Some(SocketAddrV6::new(address, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

/// Writes an address for the kernel; its length.
fn write_name(address: SocketAddr, name: &mut libc::sockaddr_storage) -> libc::socklen_t {
    let name = (&raw mut *name).cast::<u8>();
    // SAFETY: a storage is big enough and aligned for either address.
    unsafe {
        match address {
            SocketAddr::V4(v4) => {
                name.cast::<libc::sockaddr_in>().write(libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(v4.ip().octets()),
                    },
                    sin_zero: [0; 8],
                });
                size_of::<libc::sockaddr_in>() as libc::socklen_t
            }
            SocketAddr::V6(v6) => {
                name.cast::<libc::sockaddr_in6>().write(libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr {
                        s6_addr: v6.ip().octets(),
                    },
                    sin6_scope_id: v6.scope_id(),
                });
                size_of::<libc::sockaddr_in6>() as libc::socklen_t
            }
        }
    }
}

/// Makes the one control message that says from which address to send, and sets the control length to its size.
fn write_source(header: &mut libc::msghdr, source: IpAddr) {
    /// # Safety
    /// The header's control buffer must have room for a message with a `T`.
    unsafe fn write<T>(header: &mut libc::msghdr, level: libc::c_int, kind: libc::c_int, value: T) {
        // SAFETY: promised by the caller.
        unsafe {
            let message = libc::CMSG_FIRSTHDR(header);
            (*message).cmsg_level = level;
            (*message).cmsg_type = kind;
            (*message).cmsg_len = libc::CMSG_LEN(size_of::<T>() as u32) as _;
            libc::CMSG_DATA(message).cast::<T>().write_unaligned(value);
            header.msg_controllen = libc::CMSG_SPACE(size_of::<T>() as u32) as _;
        }
    }
    const { assert!(size_of::<libc::cmsghdr>() + size_of::<libc::in6_pktinfo>() + 16 <= CONTROL) };
    // SAFETY: the buffer is CONTROL bytes long, and the biggest message fits, see above.
    unsafe {
        match source {
            IpAddr::V4(v4) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr {
                        s_addr: u32::from_ne_bytes(v4.octets()),
                    },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                write(header, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
            }
            IpAddr::V6(v6) => {
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: v6.octets() },
                    ipi6_ifindex: 0,
                };
                write(header, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket, os::fd::AsFd as _};

    use super::*;

    fn pair(any: &str, loopback: &str) -> (UdpSocket, UdpSocket, SocketAddr) {
        let receiver = UdpSocket::bind(format!("{any}:0")).expect("bind");
        receiver.set_nonblocking(true).expect("non-blocking");
        let to = format!("{loopback}:{}", receiver.local_addr().expect("address").port());
        let sender = UdpSocket::bind(format!("{loopback}:0")).expect("bind");
        (receiver, sender, to.parse().expect("address"))
    }

    #[test]
    fn what_is_sent_in_one_call_is_received_in_one_call() {
        let (receiver, sender, to) = pair("127.0.0.1", "127.0.0.1");
        let datagrams: Vec<Outgoing> = (0..BATCH + 3)
            .map(|i| Outgoing {
                to,
                source: None,
                bytes: Bytes::from(vec![i as u8; i * 10]),
            })
            .collect();
        let mut outbox = Outbox::new();
        assert_eq!(outbox.send(sender.as_fd(), datagrams.iter()).expect("sent"), BATCH);
        let mut arena = Arena::new();
        assert_eq!(arena.receive(receiver.as_fd()).expect("received"), BATCH);
        for (i, outgoing) in datagrams[..BATCH].iter().enumerate() {
            let datagram = arena.datagram(i).expect("IP");
            assert_eq!(datagram.bytes, &outgoing.bytes[..]);
            assert_eq!(datagram.from, sender.local_addr().expect("address"));
        }
        let nothing = arena.receive(receiver.as_fd()).expect_err("nothing more");
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(outbox.send(sender.as_fd(), datagrams[BATCH..].iter()).expect("sent"), 3);
        assert_eq!(arena.receive(receiver.as_fd()).expect("received"), 3);
        assert_eq!(arena.datagram(2).expect("IP").bytes.len(), (BATCH + 2) * 10);
    }

    #[test]
    fn addresses_read_as_they_were_written() {
        for address in ["192.0.2.1:5060", "[2001:db8::1]:65535", "[fe80::1%3]:1"] {
            let address: SocketAddr = address.parse().expect("address");
            // SAFETY: plain data for which zeroes are a value.
            let mut name = unsafe { mem::zeroed() };
            write_name(address, &mut name);
            assert_eq!(read_name(&name), Some(address));
        }
    }
}

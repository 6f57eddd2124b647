//! A UDP socket that is a crowd: it sends from and receives at any address of its namespace, many datagrams per system call.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::ptr;

use anyhow::{Context, Result, bail};
use tests::ns::Namespace;

/// Datagrams per system call.
const BATCH: usize = 64;
/// Longer than any message of the bench.
const LENGTH: usize = 2048;
/// Room for one `IP_PKTINFO`.
const CONTROL: usize = 64;
/// Bytes of socket buffers: a burst must not be lost before it is read.
const BUFFER: i32 = 32 << 20;

/// The socket, with what is to be sent and what was received.
pub struct Socket {
    socket: UdpSocket,
    out: Vec<Datagram>,
    queued: usize,
    input: Vec<Datagram>,
    received: usize,
    /// Datagrams that the kernel refused to send.
    pub refused: u64,
}

/// A datagram, to be sent or received.
pub struct Datagram {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The address on this side, one of the crowd's.
    pub own: Ipv4Addr,
    /// The other side.
    pub other: SocketAddrV4,
}

impl Socket {
    /// Binds a port on all addresses of a namespace.
    pub fn open(ns: &Namespace, port: u16) -> Result<Self> {
        let socket = ns
            .enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))
            .with_context(|| format!("bind UDP port {port} in {}", ns.name()))?;
        socket.set_nonblocking(true)?;
        for (level, option, value) in [
            (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER),
            (libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, BUFFER),
            (libc::IPPROTO_IP, libc::IP_PKTINFO, 1),
        ] {
            let length = size_of::<i32>() as libc::socklen_t;
            // SAFETY: an open socket, and a pointer to an i32 with its length.
            let result =
                unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, ptr::from_ref(&value).cast(), length) };
            if result != 0 {
                bail!("set up the load's socket: {}", io::Error::last_os_error());
            }
        }
        let empty = || Datagram {
            bytes: Vec::with_capacity(LENGTH),
            own: Ipv4Addr::UNSPECIFIED,
            other: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
        };
        Ok(Self {
            socket,
            out: (0..BATCH).map(|_| empty()).collect(),
            queued: 0,
            input: (0..BATCH).map(|_| empty()).collect(),
            received: 0,
            refused: 0,
        })
    }

    /// Queues a datagram that `write` fills in; a full queue is sent.
    pub fn send(&mut self, own: Ipv4Addr, other: SocketAddrV4, write: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        if self.queued == BATCH {
            self.flush()?;
        }
        let datagram = &mut self.out[self.queued];
        (datagram.own, datagram.other) = (own, other);
        datagram.bytes.clear();
        write(&mut datagram.bytes);
        self.queued += 1;
        Ok(())
    }

    /// Sends what is queued.
    pub fn flush(&mut self) -> Result<()> {
        let mut headers = Headers::new(&mut self.out[..self.queued]);
        let mut sent = 0;
        while sent < self.queued {
            let rest = &mut headers.messages[sent..self.queued];
            // SAFETY: the headers point into `headers` and `self.out`, which outlive the call.
            let count = unsafe { libc::sendmmsg(self.socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, 0) };
            match usize::try_from(count) {
                Ok(count) => sent += count,
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                    // One that an ICMP error had come for, or that the device had no room for: the load retransmits.
                    _ => {
                        self.refused += 1;
                        sent += 1;
                    }
                },
            }
        }
        self.queued = 0;
        Ok(())
    }

    /// Receives what is there, at most one batch, without waiting.
    pub fn receive(&mut self) -> Result<&[Datagram]> {
        for datagram in &mut self.input {
            datagram.bytes.resize(LENGTH, 0);
        }
        let mut headers = Headers::new(&mut self.input);
        let (fd, messages) = (self.socket.as_raw_fd(), &mut headers.messages);
        // SAFETY: the headers point into `headers` and `self.input`, which outlive the call.
        let count = unsafe {
            libc::recvmmsg(
                fd,
                messages.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        self.received = usize::try_from(count).unwrap_or(0);
        if count < 0 {
            let error = io::Error::last_os_error();
            // ICMP errors of earlier datagrams are reported here; they are lost datagrams like others.
            if !matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionRefused
            ) {
                return Err(error).context("receive the load's answers");
            }
        }
        let read: Vec<(usize, Ipv4Addr, SocketAddrV4)> = (0..self.received).map(|at| headers.read(at)).collect();
        for (datagram, (length, own, other)) in self.input.iter_mut().zip(read) {
            datagram.bytes.truncate(length);
            (datagram.own, datagram.other) = (own, other);
        }
        Ok(&self.input[..self.received])
    }
}

/// What the kernel reads and writes beside the bytes.
struct Headers {
    messages: Vec<libc::mmsghdr>,
    addresses: Vec<libc::sockaddr_in>,
    _vectors: Vec<libc::iovec>,
    _controls: Vec<[u64; CONTROL / 8]>,
}

impl Headers {
    fn new(datagrams: &mut [Datagram]) -> Self {
        let count = datagrams.len();
        // SAFETY: all-zero bytes are values of these plain structures.
        let (mut addresses, mut vectors, mut messages): (Vec<libc::sockaddr_in>, Vec<libc::iovec>, Vec<libc::mmsghdr>) =
            unsafe { (vec![zeroed(); count], vec![zeroed(); count], vec![zeroed(); count]) };
        let mut controls = vec![[0u64; CONTROL / 8]; count];
        for (at, datagram) in datagrams.iter_mut().enumerate() {
            addresses[at].sin_family = libc::AF_INET as u16;
            addresses[at].sin_addr.s_addr = u32::from_ne_bytes(datagram.other.ip().octets());
            addresses[at].sin_port = datagram.other.port().to_be();
            vectors[at].iov_base = datagram.bytes.as_mut_ptr().cast();
            vectors[at].iov_len = datagram.bytes.len();
            let header = &mut messages[at].msg_hdr;
            header.msg_name = ptr::from_mut(&mut addresses[at]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
            header.msg_iov = &raw mut vectors[at];
            header.msg_iovlen = 1;
            header.msg_control = controls[at].as_mut_ptr().cast();
            header.msg_controllen = CONTROL;
            // SAFETY: the control buffer is aligned and has room for one message of this size.
            unsafe {
                let control = libc::CMSG_FIRSTHDR(header);
                (*control).cmsg_level = libc::IPPROTO_IP;
                (*control).cmsg_type = libc::IP_PKTINFO;
                (*control).cmsg_len = libc::CMSG_LEN(size_of::<libc::in_pktinfo>() as u32) as usize;
                let mut info: libc::in_pktinfo = zeroed();
                info.ipi_spec_dst.s_addr = u32::from_ne_bytes(datagram.own.octets());
                libc::CMSG_DATA(control)
                    .cast::<libc::in_pktinfo>()
                    .write_unaligned(info);
                header.msg_controllen = libc::CMSG_SPACE(size_of::<libc::in_pktinfo>() as u32) as usize;
            }
        }
        Self {
            messages,
            addresses,
            _vectors: vectors,
            _controls: controls,
        }
    }

    /// Length, own address and sender of a received message.
    fn read(&self, at: usize) -> (usize, Ipv4Addr, SocketAddrV4) {
        let (message, address) = (&self.messages[at], &self.addresses[at]);
        let other = SocketAddrV4::new(
            Ipv4Addr::from(address.sin_addr.s_addr.to_ne_bytes()),
            u16::from_be(address.sin_port),
        );
        let mut own = Ipv4Addr::UNSPECIFIED;
        // SAFETY: the kernel wrote the control message, if any, within the buffer.
        unsafe {
            let control = libc::CMSG_FIRSTHDR(&message.msg_hdr);
            if !control.is_null() && (*control).cmsg_type == libc::IP_PKTINFO {
                let info = libc::CMSG_DATA(control).cast::<libc::in_pktinfo>().read_unaligned();
                own = Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes());
            }
        }
        (message.msg_len as usize, own, other)
    }
}

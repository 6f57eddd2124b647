//! The raw sockets that ICMP errors leave by.

use std::io;
use std::mem::size_of;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// Sends what is ready made; never waits.
pub trait Outlet: Send {
    /// Sends an IP packet to its destination `to`, as the kernel routes it.
    fn send(&mut self, packet: &[u8], to: Ipv4Addr) -> io::Result<()>;

    /// Sends a frame out of a device.
    fn send_frame(&mut self, frame: &[u8], device: u32) -> io::Result<()>;
}

/// A socket through which the kernel routes packets whose IP header is ready made (it fills in the identification, which is
/// 0), and one for frames that are whole.
pub struct Sockets {
    packets: OwnedFd,
    frames: OwnedFd,
}

impl Sockets {
    /// Opens them in the network namespace of the calling thread. Needs CAP_NET_RAW.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            // Implies IP_HDRINCL and receives nothing.
            packets: open(libc::AF_INET, libc::IPPROTO_RAW)?,
            // Protocol 0 receives nothing.
            frames: open(libc::AF_PACKET, 0)?,
        })
    }
}

impl Outlet for Sockets {
    fn send(&mut self, packet: &[u8], to: Ipv4Addr) -> io::Result<()> {
        let address = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: 0,
            sin_addr: libc::in_addr {
                s_addr: u32::from(to).to_be(),
            },
            sin_zero: [0; 8],
        };
        send(&self.packets, packet, &address)
    }

    fn send_frame(&mut self, frame: &[u8], device: u32) -> io::Result<()> {
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as libc::sa_family_t,
            sll_protocol: 0,
            sll_ifindex: device as libc::c_int,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: [0; 8],
        };
        send(&self.frames, frame, &address)
    }
}

fn open(family: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers; the descriptor is checked and owned by nobody else.
    unsafe {
        let fd = libc::socket(family, kind, protocol);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// `A` is the socket family's address.
fn send<A>(socket: &OwnedFd, bytes: &[u8], address: &A) -> io::Result<()> {
    // SAFETY: a buffer and an address that live during the call, with their lengths.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_DONTWAIT,
            std::ptr::from_ref(address).cast(),
            size_of::<A>() as libc::socklen_t,
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

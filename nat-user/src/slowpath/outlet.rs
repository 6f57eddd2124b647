//! The raw socket that ICMP errors leave by.

use std::io;
use std::mem::size_of;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// Sends whole IP packets.
pub trait Outlet: Send {
    /// Sends `packet` to its destination `to`; never waits.
    fn send(&mut self, packet: &[u8], to: Ipv4Addr) -> io::Result<()>;
}

/// Lets the kernel route packets whose IP header is ready made (it fills in the identification, which is 0).
pub struct RawSocket(OwnedFd);

impl RawSocket {
    /// Opens it in the network namespace of the calling thread. Needs CAP_NET_RAW.
    pub fn open() -> io::Result<Self> {
        // SAFETY: no pointers; the descriptor is checked and owned by nobody else. IPPROTO_RAW implies IP_HDRINCL and
        // receives nothing.
        unsafe {
            let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
            let fd = libc::socket(libc::AF_INET, kind, libc::IPPROTO_RAW);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Self(OwnedFd::from_raw_fd(fd)))
        }
    }
}

impl Outlet for RawSocket {
    fn send(&mut self, packet: &[u8], to: Ipv4Addr) -> io::Result<()> {
        let address = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: 0,
            sin_addr: libc::in_addr {
                s_addr: u32::from(to).to_be(),
            },
            sin_zero: [0; 8],
        };
        // SAFETY: a buffer and an address that live during the call, with their lengths.
        let sent = unsafe {
            libc::sendto(
                self.0.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                libc::MSG_DONTWAIT,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_in>() as libc::socklen_t,
            )
        };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

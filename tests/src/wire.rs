//! Raw Ethernet on an interface of a namespace: send any frame, wait for one, or show that none came.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::lab::{DEV, Host};
use crate::ns::Namespace;
use crate::packet::{ETHERTYPE_VLAN, L4, Packet};

/// A packet socket on one interface. What arrived since it was opened waits in its buffer, so open it before you send.
#[derive(Debug)]
pub struct RawSocket {
    fd: OwnedFd,
    what: String,
    buffer: Vec<u8>,
    /// Only frames for this interface's own address, not what the switch floods to all ports.
    own_only: bool,
}

/// A frame that a packet socket saw.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The whole frame, with its 802.1Q tag where it had one.
    pub bytes: Vec<u8>,
    /// Whether the namespace sent it (otherwise it received it).
    pub outgoing: bool,
    /// Whether it was for another host, and the switch flooded it.
    pub foreign: bool,
    /// When it was read.
    pub at: std::time::SystemTime,
}

impl Frame {
    /// The frame as an IPv4 packet, if it is a whole one.
    pub fn packet(&self) -> Option<Packet> {
        Packet::parse(&self.bytes).ok()
    }
}

impl RawSocket {
    /// Opens the interface of a host; sees only frames that are for this host.
    pub fn host(host: &Host) -> Result<Self> {
        let socket = Self::open(host, DEV, false)?;
        Ok(Self {
            own_only: true,
            ..socket
        })
    }

    /// Opens an interface; sees received frames, and with `outgoing` also those that the namespace sends.
    pub fn open(ns: &Namespace, dev: &str, outgoing: bool) -> Result<Self> {
        let what = format!("{} {dev}", ns.name());
        let fd = ns
            .enter(|| open_packet_socket(dev, outgoing))
            .with_context(|| format!("packet socket on {what}"))?;
        Ok(Self {
            fd,
            what,
            buffer: vec![0; 70_000],
            own_only: false,
        })
    }

    /// Sends a frame as it is.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        // SAFETY: the pointer and the length describe `frame`.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent != frame.len() as isize {
            bail!(
                "send {} bytes on {}: {}",
                frame.len(),
                self.what,
                io::Error::last_os_error()
            );
        }
        Ok(())
    }

    /// Builds and sends a packet.
    pub fn send_packet(&self, packet: &Packet) -> Result<()> {
        self.send(&packet.build())
    }

    /// Waits for the first frame of which `wanted` makes something; other frames are forgotten.
    /// The error lists what came instead.
    pub fn recv<T>(
        &mut self,
        what: &str,
        deadline: Duration,
        mut wanted: impl FnMut(&Frame) -> Option<T>,
    ) -> Result<T> {
        let start = Instant::now();
        let mut others = Vec::new();
        loop {
            let left = deadline.saturating_sub(start.elapsed());
            match self.next(left)? {
                Some(frame) => match wanted(&frame) {
                    Some(value) => return Ok(value),
                    None => others.push(describe(&frame)),
                },
                None if left.is_zero() => break,
                None => {}
            }
        }
        let total = others.len();
        others.truncate(20);
        bail!(
            "{what} did not come on {} in {deadline:?}; {total} other frames: {others:#?}",
            self.what
        )
    }

    /// Waits for the first IPv4 packet that satisfies `wanted`.
    pub fn recv_packet(
        &mut self,
        what: &str,
        deadline: Duration,
        mut wanted: impl FnMut(&Packet) -> bool,
    ) -> Result<Packet> {
        self.recv(what, deadline, |frame| frame.packet().filter(&mut wanted))
    }

    /// All that is in the buffer now.
    pub fn drain(&mut self) -> Result<Vec<Frame>> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next(Duration::ZERO)? {
            frames.push(frame);
        }
        Ok(frames)
    }

    /// Shows that no packet satisfying `unwanted` came before one satisfying `sentinel`: send the packet that must be
    /// stopped, then one that must pass, and no time is lost in waiting for nothing. Returns the sentinel.
    pub fn recv_only(
        &mut self,
        what: &str,
        deadline: Duration,
        mut sentinel: impl FnMut(&Packet) -> bool,
        mut unwanted: impl FnMut(&Packet) -> bool,
    ) -> Result<Packet> {
        let packet = self.recv_packet(what, deadline, |packet| sentinel(packet) || unwanted(packet))?;
        if unwanted(&packet) {
            bail!("on {} came what must not: {}", self.what, summary(&packet));
        }
        Ok(packet)
    }

    /// Shows that no packet satisfying `unwanted` comes within `window`. Only where no sentinel can follow, such as the
    /// six seconds of RFC 5382 REQ-4.
    pub fn assert_silent(&mut self, window: Duration, mut unwanted: impl FnMut(&Packet) -> bool) -> Result<()> {
        let start = Instant::now();
        while let Some(left) = window.checked_sub(start.elapsed()) {
            if let Some(packet) = self.next(left)?.and_then(|frame| frame.packet())
                && unwanted(&packet)
            {
                bail!(
                    "after {:?} came on {} what must not: {}",
                    start.elapsed(),
                    self.what,
                    summary(&packet)
                );
            }
        }
        Ok(())
    }

    /// The next frame, or `None` when the time is over.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<Frame>> {
        let end = Instant::now() + timeout;
        loop {
            match self.any(end.saturating_duration_since(Instant::now()))? {
                Some(frame) if self.own_only && frame.foreign => {}
                other => return Ok(other),
            }
        }
    }

    fn any(&mut self, timeout: Duration) -> Result<Option<Frame>> {
        let mut poll = libc::pollfd {
            fd: self.fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // Rounded up, so that a wait of a fraction of a millisecond does not spin.
        let millis = timeout.as_nanos().div_ceil(1_000_000).min(60_000) as i32;
        // SAFETY: one valid pollfd.
        match unsafe { libc::poll(&mut poll, 1, millis) } {
            0 => Ok(None),
            1 => receive(&self.fd, &mut self.buffer).with_context(|| format!("receive on {}", self.what)),
            _ => Err(io::Error::last_os_error()).with_context(|| format!("poll {}", self.what)),
        }
    }
}

/// One line about a frame, for messages.
pub fn describe(frame: &Frame) -> String {
    match Packet::parse(&frame.bytes) {
        Ok(packet) => summary(&packet),
        Err(error) => format!("{} bytes: {error}", frame.bytes.len()),
    }
}

/// One line about a packet, for messages.
pub fn summary(packet: &Packet) -> String {
    let kind = match (&packet.l4, packet.ip.mf || packet.ip.offset > 0) {
        (_, true) => format!("protocol {}, fragment at {}", packet.protocol(), packet.ip.offset),
        (L4::Udp(_), _) => "UDP".into(),
        (L4::Tcp(tcp), _) => format!("TCP flags {:#04x}", tcp.flags),
        (L4::Icmp(icmp), _) => format!("ICMP {}/{}", icmp.kind, icmp.code),
        (L4::Raw(protocol, _), _) => format!("protocol {protocol}"),
    };
    format!(
        "{} > {} {kind} ttl {} id {} {} bytes",
        packet.src(),
        packet.dst(),
        packet.ip.ttl,
        packet.ip.id,
        packet.payload().len()
    )
}

fn open_packet_socket(dev: &str, outgoing: bool) -> io::Result<OwnedFd> {
    let name = CString::new(dev)?;
    // SAFETY: plain system calls; the address and the option values are valid for the sizes given with them.
    unsafe {
        // Protocol 0 receives nothing until the bind below, so no frame of another interface gets in.
        let fd = libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
            0,
        );
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = OwnedFd::from_raw_fd(fd);
        let index = libc::if_nametoindex(name.as_ptr());
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        set_option(&fd, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
        set_option(&fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64 << 20)?;
        if !outgoing {
            set_option(&fd, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
        }
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index as i32;
        if libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as u32,
        ) != 0
        {
            return Err(io::Error::last_os_error());
        }
        Ok(fd)
    }
}

fn set_option(fd: &OwnedFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the value is an int, as all options used here want.
    match unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as u32,
        )
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn receive(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<Frame>> {
    let mut control = [0u64; 16];
    // SAFETY: all pointers in the header point to live buffers of the sizes given; the kernel fills them.
    unsafe {
        let mut from: libc::sockaddr_ll = std::mem::zeroed();
        let mut part = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        let mut header: libc::msghdr = std::mem::zeroed();
        (header.msg_name, header.msg_namelen) = ((&raw mut from).cast(), size_of_val(&from) as u32);
        (header.msg_iov, header.msg_iovlen) = (&mut part, 1);
        (header.msg_control, header.msg_controllen) = (control.as_mut_ptr().cast(), size_of_val(&control));
        let length = libc::recvmsg(fd.as_raw_fd(), &mut header, 0);
        if length < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock {
                Ok(None)
            } else {
                Err(error)
            };
        }
        let mut bytes = buffer[..length as usize].to_vec();
        if let Some(tag) = vlan_tag(&header) {
            // The kernel took the tag out of the frame on its way to us; put it back.
            let tag = [ETHERTYPE_VLAN.to_be_bytes(), tag.to_be_bytes()].concat();
            bytes.splice(12..12, tag);
        }
        let outgoing = from.sll_pkttype == libc::PACKET_OUTGOING;
        Ok(Some(Frame {
            bytes,
            outgoing,
            foreign: from.sll_pkttype == libc::PACKET_OTHERHOST,
            at: std::time::SystemTime::now(),
        }))
    }
}

/// SAFETY: `header` was filled by a successful `recvmsg`, and its control buffer is alive.
unsafe fn vlan_tag(header: &libc::msghdr) -> Option<u16> {
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while let Some(cmsg) = message.as_ref() {
            if cmsg.cmsg_level == libc::SOL_PACKET && cmsg.cmsg_type == libc::PACKET_AUXDATA {
                let aux: libc::tpacket_auxdata = libc::CMSG_DATA(message)
                    .cast::<libc::tpacket_auxdata>()
                    .read_unaligned();
                return (aux.tp_status & libc::TP_STATUS_VLAN_VALID != 0).then_some(aux.tp_vlan_tci);
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
        None
    }
}

//! Calls at the pace of telephones, or as fast as a relay keeps up: packets of a packet socket, many per system call.
//!
//! The generator of live frames cannot be paced and keeps its core busy in soft interrupts, where a relay that is a process would
//! get no time. This load runs on another core and waits.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::lab::{DEV, Host};

use super::traffic::{Leg, packet};
use crate::bench::generator::{ifindex, sum};
use crate::bench::media_layout::{MEDIA_PAYLOAD, MEDIA_SOUND};

/// Packets per system call.
const BATCH: usize = 32;
/// Sound in a packet (RFC 3551 §4.2).
const PACKET_TIME: Duration = Duration::from_millis(20);
/// Packets that are under way at a time when the relay is to have as much to do as it can.
const WINDOW: u64 = 256;
/// What has not arrived after this is lost.
const LOST: Duration = Duration::from_millis(50);

/// Streams of G.711 to send.
pub struct Load {
    socket: OwnedFd,
    frames: Vec<Vec<u8>>,
    /// Checksums of the frames without what [`Load::write`] writes (RFC 1071, not folded).
    sums: Vec<u32>,
    /// Packets sent so far; which stream is next, and its sequence number, follow from it.
    next: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Packets sent.
    pub packets: u64,
    /// From the first to the last.
    pub time: Duration,
}

impl Load {
    /// A load from a host to those legs of its router, a stream to each.
    pub fn new(host: &Host, legs: &[Leg]) -> Result<Self> {
        let frames: Vec<Vec<u8>> = (0..).zip(legs).map(|(n, leg)| packet(host, n, *leg)).collect();
        let sums = frames.iter().map(|frame| udp_sum(frame)).collect();
        let index = ifindex(host, DEV)?;
        let socket = host.enter(|| open(index))?;
        Ok(Self {
            socket,
            frames,
            sums,
            next: 0,
        })
    }

    /// Every stream has a packet each 20 ms, evenly spread, for this long.
    pub fn talk(&mut self, time: Duration) -> Result<Sent> {
        let (first, start) = (self.next, Instant::now());
        let interval = PACKET_TIME.as_nanos() as u64 / self.frames.len() as u64;
        while start.elapsed() < time {
            let due = first + start.elapsed().as_nanos() as u64 / interval.max(1);
            while self.next < due {
                self.send((due - self.next).min(BATCH as u64) as usize)?;
            }
            std::hint::spin_loop();
        }
        Ok(self.since(first, start))
    }

    /// As fast as packets arrive, of which `arrived` tells how many have, for this long.
    pub fn press(&mut self, time: Duration, arrived: impl Fn() -> Result<u64>) -> Result<Sent> {
        let (first, start) = (self.next, Instant::now());
        let (mut lost, mut last, mut progress) = (0, arrived()?, start);
        let base = last;
        while start.elapsed() < time {
            let now = arrived()?;
            if now != last {
                (last, progress) = (now, Instant::now());
            }
            let under_way = (self.next - first).saturating_sub(now - base + lost);
            if under_way + BATCH as u64 <= WINDOW {
                self.send(BATCH)?;
            } else if progress.elapsed() > LOST {
                lost += under_way;
                progress = Instant::now();
            }
        }
        Ok(self.since(first, start))
    }

    /// Each stream so many packets, in pieces that queues have room for.
    pub fn begin(&mut self, packets: u64) -> Result<()> {
        let end = self.next + packets * self.frames.len() as u64;
        while self.next < end {
            self.send((end - self.next).min(BATCH as u64) as usize)?;
            std::thread::sleep(Duration::from_micros(500));
        }
        Ok(())
    }

    fn since(&self, first: u64, start: Instant) -> Sent {
        Sent {
            packets: self.next - first,
            time: start.elapsed(),
        }
    }

    /// Sends the next packets, at most [`BATCH`].
    fn send(&mut self, count: usize) -> Result<()> {
        let streams = self.frames.len();
        let count = count.min(streams);
        let now = boot_time();
        let first = self.next;
        // SAFETY: all-zero bytes are values of these plain structures.
        let (mut vectors, mut messages): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) =
            unsafe { (zeroed(), zeroed()) };
        for at in 0..count {
            let number = first + at as u64;
            let stream = (number % streams as u64) as usize;
            self.write(stream, (number / streams as u64) as u16, now);
            let frame = &mut self.frames[stream];
            vectors[at] = libc::iovec {
                iov_base: frame.as_mut_ptr().cast(),
                iov_len: frame.len(),
            };
            messages[at].msg_hdr.msg_iov = &raw mut vectors[at];
            messages[at].msg_hdr.msg_iovlen = 1;
        }
        let mut done = 0;
        while done < count {
            let rest = &mut messages[done..count];
            // SAFETY: the messages and what they point to outlive the call.
            let sent = unsafe { libc::sendmmsg(self.socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, 0) };
            match usize::try_from(sent) {
                Ok(sent) => done += sent,
                // The link's queue is full: this one is lost.
                Err(_) if io::Error::last_os_error().raw_os_error() == Some(libc::ENOBUFS) => done += 1,
                Err(_) => ensure!(false, "send media: {}", io::Error::last_os_error()),
            }
        }
        self.next += count as u64;
        Ok(())
    }

    /// Writes sequence number, timestamp, time of sending and checksum.
    fn write(&mut self, stream: usize, sequence: u16, now: u64) {
        let frame = &mut self.frames[stream];
        frame[MEDIA_PAYLOAD + 2..MEDIA_PAYLOAD + 4].copy_from_slice(&sequence.to_be_bytes());
        frame[MEDIA_PAYLOAD + 4..MEDIA_PAYLOAD + 8].copy_from_slice(&(u32::from(sequence) * 160).to_be_bytes());
        frame[MEDIA_SOUND..MEDIA_SOUND + 8].copy_from_slice(&now.to_ne_bytes());
        let mut all = self.sums[stream]
            + sum(&frame[MEDIA_PAYLOAD + 2..MEDIA_PAYLOAD + 8])
            + sum(&frame[MEDIA_SOUND..MEDIA_SOUND + 8]);
        while all > 0xffff {
            all = (all & 0xffff) + (all >> 16);
        }
        let check = match !(all as u16) {
            0 => 0xffff,
            check => check,
        };
        frame[40..42].copy_from_slice(&check.to_ne_bytes());
    }
}

/// Sum for the UDP checksum of a frame, with zeroes where [`Load::write`] writes.
fn udp_sum(frame: &[u8]) -> u32 {
    let mut frame = frame.to_vec();
    for range in [
        40..42,
        MEDIA_PAYLOAD + 2..MEDIA_PAYLOAD + 8,
        MEDIA_SOUND..MEDIA_SOUND + 8,
    ] {
        frame[range].fill(0);
    }
    let pseudo = [&frame[26..34], &[0, 17], &frame[38..40]].concat();
    sum(&frame[34..]) + sum(&pseudo)
}

/// The clock of the programs in the kernel.
fn boot_time() -> u64 {
    // SAFETY: writes to a local.
    let time = unsafe {
        let mut time: libc::timespec = zeroed();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time);
        time
    };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A packet socket that sends by an interface, past its queue, and receives nothing.
fn open(ifindex: u32) -> Result<OwnedFd> {
    // SAFETY: plain system calls over locals; the descriptor is owned from the moment that it is known to be one.
    unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0);
        ensure!(fd >= 0, "open a packet socket: {}", io::Error::last_os_error());
        let socket = OwnedFd::from_raw_fd(fd);
        let mut address: libc::sockaddr_ll = zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = ifindex as i32;
        let length = size_of::<libc::sockaddr_ll>() as u32;
        let bound = libc::bind(fd, ptr::from_ref(&address).cast(), length);
        ensure!(bound == 0, "bind a packet socket: {}", io::Error::last_os_error());
        let on = 1i32;
        let length = size_of::<i32>() as u32;
        let set = libc::setsockopt(
            fd,
            libc::SOL_PACKET,
            libc::PACKET_QDISC_BYPASS,
            ptr::from_ref(&on).cast(),
            length,
        );
        ensure!(set == 0, "send past the queue: {}", io::Error::last_os_error());
        Ok(socket)
    }
}

//! Giving frames back to the kernel program.
//!
//! BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES runs the program on a frame as if it had come in on an interface, and
//! its verdict takes effect: a redirect sends the frame, XDP_PASS hands it to that interface's stack. The program decides
//! anew with the tables as they are now, and nothing here could disagree with it. The interface is looked up in the network
//! namespace of the calling thread, and the program need not be attached.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use aya::programs::Xdp;
use nat_common::flow::Side;

/// The largest frame that the kernel takes as a live frame: a page of 4096 bytes less 256 of headroom, 320 of
/// `skb_shared_info` and what the kernel keeps beside the frame. Beyond it the answer is EINVAL, also for programs
/// with `xdp.frags`: there are no live frames in several buffers. (6.18 takes 3408; what it keeps differs between versions.)
pub const LIVE_FRAME_MAX: usize = 3328;

/// Gives a frame to the program of a side once more.
pub trait Reinject: Send {
    /// Runs the program of `side` on `frame` as if it had come in on the device `ifindex`.
    fn reinject(&mut self, side: Side, ifindex: u32, frame: &[u8]) -> io::Result<()>;

    /// The largest frame in bytes.
    fn limit(&self) -> usize {
        LIVE_FRAME_MAX
    }
}

/// The programs in the kernel.
pub struct KernelPrograms {
    inside: OwnedFd,
    outside: OwnedFd,
}

impl KernelPrograms {
    /// Descriptors of its own for two loaded programs. It does not matter what becomes of the handles given here.
    pub fn new(inside: &Xdp, outside: &Xdp) -> Result<Self> {
        Ok(Self {
            inside: duplicate(inside).context("the inside program cannot be run by the slow path")?,
            outside: duplicate(outside).context("the outside program cannot be run by the slow path")?,
        })
    }

    /// Of any two XDP programs.
    #[cfg(test)]
    pub(super) fn of(inside: OwnedFd, outside: OwnedFd) -> Self {
        Self { inside, outside }
    }
}

impl Reinject for KernelPrograms {
    fn reinject(&mut self, side: Side, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        let program = match side {
            Side::Inside => &self.inside,
            Side::Outside => &self.outside,
        };
        run_live(program, ifindex, frame)
    }
}

fn duplicate(program: &Xdp) -> Result<OwnedFd> {
    Ok(program.fd()?.as_fd().try_clone_to_owned()?)
}

const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 2;

/// The part of `union bpf_attr` that BPF_PROG_TEST_RUN reads (linux/bpf.h). `aya::TestRun` would do, but an `aya::Xdp` can be
/// neither cloned nor made from a descriptor by others.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    reserved: u32,
}

/// Runs a program once on a live frame.
fn run_live(program: &OwnedFd, ifindex: u32, frame: &[u8]) -> io::Result<()> {
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let context = [0, frame.len() as u32, 0, ifindex, 0, 0];
    let mut attr = TestRun {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr().expose_provenance() as u64,
        ctx_size_in: size_of_val(&context) as u32,
        ctx_in: context.as_ptr().expose_provenance() as u64,
        repeat: 1,
        batch_size: 1,
        flags: BPF_F_TEST_XDP_LIVE_FRAMES,
        ..TestRun::default()
    };
    // SAFETY: the layout of the kernel's structure with its length; frame and context live during the call, and the kernel
    // only reads them, as the sizes of the outputs are 0.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attr, size_of::<TestRun>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

const _: () = assert!(size_of::<TestRun>() == 80);

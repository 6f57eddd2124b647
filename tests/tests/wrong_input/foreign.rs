//! Someone else's XDP program: the smallest there is, loaded by hand.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;

/// A loaded program that passes everything.
pub struct Program(OwnedFd);

impl Program {
    /// Loads it under this name (at most 15 bytes).
    pub fn load(name: &str) -> io::Result<Self> {
        // "r0 = XDP_PASS; exit"
        let code: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
        let license = c"GPL";
        // The head of union bpf_attr for BPF_PROG_LOAD, up to prog_name.
        let mut attr = [0u8; 64];
        attr[0..4].copy_from_slice(&BPF_PROG_TYPE_XDP.to_ne_bytes());
        attr[4..8].copy_from_slice(&(code.len() as u32).to_ne_bytes());
        attr[8..16].copy_from_slice(&(code.as_ptr() as u64).to_ne_bytes());
        attr[16..24].copy_from_slice(&(license.as_ptr() as u64).to_ne_bytes());
        attr[48..48 + name.len()].copy_from_slice(name.as_bytes());
        bpf(BPF_PROG_LOAD, &attr).map(Self)
    }

    /// Attaches it to an interface of the current namespace, until the link is dropped.
    pub fn attach(&self, interface: &str) -> io::Result<OwnedFd> {
        let name = CString::new(interface)?;
        // SAFETY: a valid C string.
        let ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if ifindex == 0 {
            return Err(io::Error::last_os_error());
        }
        let words = [self.0.as_raw_fd() as u32, ifindex, BPF_XDP, 0];
        bpf(BPF_LINK_CREATE, &words.map(u32::to_ne_bytes).concat())
    }

    /// Pins it at a path on a bpffs.
    pub fn pin(&self, path: &Path) -> io::Result<()> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mut attr = [0u8; 16];
        attr[0..8].copy_from_slice(&(path.as_ptr() as u64).to_ne_bytes());
        attr[8..12].copy_from_slice(&self.0.as_raw_fd().to_ne_bytes());
        call(BPF_OBJ_PIN, &attr).map(drop)
    }
}

fn bpf(command: libc::c_long, attr: &[u8]) -> io::Result<OwnedFd> {
    // SAFETY: the commands this is called for return a new descriptor.
    call(command, attr).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

fn call(command: libc::c_long, attr: &[u8]) -> io::Result<i32> {
    // SAFETY: attr is as long as told, and what it points to is alive in the callers; the kernel copies both.
    match unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), attr.len()) } {
        fd @ 0.. => Ok(fd as i32),
        _ => Err(io::Error::last_os_error()),
    }
}

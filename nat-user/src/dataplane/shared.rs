//! BPF arrays as shared memory.

use std::{io, ops::Deref, os::fd::AsRawFd as _, ptr::NonNull};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf,
    maps::{Map, MapData},
};

/// All elements of an mmap-able array, as the kernel program sees them.
///
/// `T` must consist of the cells of `nat_common::raw`, so that reading what others write is sound.
pub struct Shared<T> {
    start: NonNull<T>,
    len: usize,
    bytes: usize,
}

// SAFETY: the memory is shared with the kernel anyway; T's cells are accessed atomically.
unsafe impl<T: Sync> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Maps the array `name` of `ebpf`.
    pub fn open(ebpf: &Ebpf, name: &str) -> Result<Self> {
        let Some(Map::Array(data)) = ebpf.map(name) else {
            bail!("no array {name} in the object")
        };
        Self::map(data).with_context(|| format!("cannot map {name} into memory"))
    }

    fn map(data: &MapData) -> Result<Self> {
        let info = data.info()?;
        // The kernel rounds elements up to eight bytes.
        if info.value_size() as usize != size_of::<T>() || !size_of::<T>().is_multiple_of(8) {
            bail!(
                "its elements have {} bytes instead of {}",
                info.value_size(),
                size_of::<T>()
            );
        }
        let len = info.max_entries() as usize;
        let bytes = (len * size_of::<T>()).next_multiple_of(4096);
        let fd = std::os::fd::AsFd::as_fd(data.fd()).as_raw_fd();
        Self::mmap(len, bytes, libc::MAP_SHARED, fd)
    }

    /// Memory of nobody else, all zeroes: tables without a kernel.
    #[cfg(test)]
    pub fn in_memory(len: usize) -> Result<Self> {
        let bytes = (len * size_of::<T>()).next_multiple_of(4096);
        Self::mmap(len, bytes, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)
    }

    fn mmap(len: usize, bytes: usize, flags: i32, fd: i32) -> Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping, checked below. All zeroes is a value of every table entry.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error().into());
        }
        let start = NonNull::new(start.cast::<T>()).context("mmap returned null")?;
        Ok(Self { start, len, bytes })
    }
}

impl<T> Deref for Shared<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: mapped in `map`, len elements, alive until drop; T's cells make shared access sound.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`, with its length.
        unsafe {
            libc::munmap(self.start.as_ptr().cast(), self.bytes);
        }
    }
}

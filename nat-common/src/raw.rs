//! The one file with `unsafe`: shared memory words, and the types that may be laid over packet bytes.
//!
//! Table entries are shared by all CPUs and, through mmap, with the daemon. Every field is therefore a cell that is read
//! and written whole. On the host the cells are the standard atomics; for the kernel the BPF instruction set has no
//! stable Rust equivalent, so its atomic instructions are written out.
#![allow(unsafe_code)]

use core::cell::UnsafeCell;

/// A type that can be laid over packet bytes at any address.
///
/// # Safety
///
/// The implementor has alignment 1, no padding, and every bit pattern is valid.
pub unsafe trait Wire: Copy {}

// SAFETY: arrays of bytes, and header structs made of bytes and arrays of bytes only.
unsafe impl<const N: usize> Wire for [u8; N] {}
unsafe impl Wire for u8 {}
unsafe impl Wire for network_types::ip::Ipv4Hdr {}
unsafe impl Wire for network_types::udp::UdpHdr {}
unsafe impl Wire for network_types::icmp::Icmpv4Hdr {}
unsafe impl Wire for crate::packet::Ethernet {}
unsafe impl Wire for crate::packet::TcpStart {}

const _: () = {
    assert!(align_of::<network_types::ip::Ipv4Hdr>() == 1);
    assert!(align_of::<network_types::udp::UdpHdr>() == 1);
    assert!(align_of::<network_types::icmp::Icmpv4Hdr>() == 1);
    assert!(align_of::<crate::packet::Ethernet>() == 1);
    assert!(align_of::<crate::packet::TcpStart>() == 1);
};

/// Lays `T` over `bytes` at `offset`; `None` if it does not fit.
#[inline(always)]
pub fn overlay<T: Wire>(bytes: &mut [u8], offset: usize) -> Option<&mut T> {
    let end = offset.checked_add(size_of::<T>())?;
    let part = bytes.get_mut(offset..end)?;
    // SAFETY: the slice is exactly as long as T, and T: Wire has alignment 1 and no invalid patterns.
    Some(unsafe { &mut *part.as_mut_ptr().cast::<T>() })
}

/// `value`, of which the optimiser knows nothing. It would otherwise remove a mask that it can prove superfluous and the
/// kernel's verifier, which looks at one function at a time, cannot.
#[inline(always)]
pub fn opaque(value: u32) -> u32 {
    #[cfg(target_arch = "bpf")]
    {
        let mut wide = u64::from(value);
        // SAFETY: moves a register to itself.
        unsafe { core::arch::asm!("{0} = {0}", inout(reg) wide, options(nomem, nostack, preserves_flags)) }
        wide as u32
    }
    #[cfg(not(target_arch = "bpf"))]
    value
}

/// `i < bound`, for the second bound of a loop: `while i < 64 && below(i, len)`. Of two plain compares LLVM makes one with the
/// smaller bound, a number that changes; verifiers before Linux 6.8 then see no end of the loop ("the sequence of 8193
/// jumps is too complex").
#[inline(always)]
pub fn below(i: u32, bound: u32) -> bool {
    i < opaque(bound)
}

/// [`opaque`] for 64 bits.
#[inline(always)]
pub fn opaque64(value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // SAFETY: moves a register to itself.
        unsafe { core::arch::asm!("{0} = {0}", inout(reg) value, options(nomem, nostack, preserves_flags)) }
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    value
}

macro_rules! cell {
    ($(#[$doc:meta])* $name:ident, $int:ty, $atomic:ident) => {
        $(#[$doc])*
        #[repr(transparent)]
        pub struct $name(UnsafeCell<$int>);

        // SAFETY: all access goes through volatile or atomic reads and writes of the whole value.
        unsafe impl Sync for $name {}
        unsafe impl Send for $name {}

        impl $name {
            /// A cell holding `value`.
            pub const fn new(value: $int) -> Self {
                Self(UnsafeCell::new(value))
            }

            /// Reads the value.
            #[inline(always)]
            pub fn get(&self) -> $int {
                #[cfg(target_arch = "bpf")]
                // SAFETY: the pointer comes from a live reference.
                return unsafe { self.0.get().read_volatile() };
                #[cfg(not(target_arch = "bpf"))]
                // SAFETY: as above; aligned because the type is.
                return unsafe { core::sync::atomic::$atomic::from_ptr(self.0.get()) }
                    .load(core::sync::atomic::Ordering::Acquire);
            }

            /// Writes the value.
            #[inline(always)]
            pub fn set(&self, value: $int) {
                #[cfg(target_arch = "bpf")]
                // SAFETY: the pointer comes from a live reference.
                unsafe {
                    self.0.get().write_volatile(value);
                }
                #[cfg(not(target_arch = "bpf"))]
                // SAFETY: as above; aligned because the type is.
                unsafe { core::sync::atomic::$atomic::from_ptr(self.0.get()) }
                    .store(value, core::sync::atomic::Ordering::Release);
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new(0)
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                self.get().fmt(f)
            }
        }
    };
}

cell!(
    /// Eight bits of shared memory.
    Word8, u8, AtomicU8
);
cell!(
    /// Sixteen bits of shared memory.
    Word16, u16, AtomicU16
);
cell!(
    /// Thirty-two bits of shared memory.
    Word32, u32, AtomicU32
);
cell!(
    /// Sixty-four bits of shared memory, with compare-and-swap.
    Word64, u64, AtomicU64
);

#[cfg(target_arch = "bpf")]
impl Word64 {
    /// Replaces `old` by `new`; false if the value was another one.
    #[inline(always)]
    pub fn replace(&self, old: u64, new: u64) -> bool {
        let mut seen = old;
        // SAFETY: one atomic instruction on memory behind a live reference.
        unsafe {
            core::arch::asm!("r0 = cmpxchg_64({p} + 0, r0, {n})", p = in(reg) self.0.get(), n = in(reg) new,
                inout("r0") seen);
        }
        seen == old
    }

    /// Adds `value` (wrapping) and returns what was there before.
    #[inline(always)]
    pub fn fetch_add(&self, value: u64) -> u64 {
        let mut v = value;
        // SAFETY: one atomic instruction on memory behind a live reference.
        unsafe {
            core::arch::asm!("{v} = atomic_fetch_add((u64 *)({p} + 0), {v})", p = in(reg) self.0.get(),
                v = inout(reg) v);
        }
        v
    }

    /// Clears the bits that are not set in `mask`.
    #[inline(always)]
    pub fn and(&self, mask: u64) {
        // SAFETY: one atomic instruction on memory behind a live reference.
        unsafe {
            core::arch::asm!("lock *(u64 *)({p} + 0) &= {v}", p = in(reg) self.0.get(), v = in(reg) mask);
        }
    }

    /// Sets the bits of `mask`.
    #[inline(always)]
    pub fn or(&self, mask: u64) {
        // SAFETY: one atomic instruction on memory behind a live reference.
        unsafe {
            core::arch::asm!("lock *(u64 *)({p} + 0) |= {v}", p = in(reg) self.0.get(), v = in(reg) mask);
        }
    }
}

#[cfg(target_arch = "bpf")]
impl Word32 {
    /// Adds `value` (wrapping).
    #[inline(always)]
    pub fn add(&self, value: u32) {
        // SAFETY: one atomic instruction on memory behind a live reference.
        unsafe {
            core::arch::asm!("lock *(u32 *)({p} + 0) += {v}", p = in(reg) self.0.get(), v = in(reg) u64::from(value));
        }
    }
}

#[cfg(not(target_arch = "bpf"))]
mod host {
    use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

    impl super::Word64 {
        fn atomic(&self) -> &AtomicU64 {
            // SAFETY: same size and alignment, and all access is atomic.
            unsafe { AtomicU64::from_ptr(self.0.get()) }
        }

        /// Replaces `old` by `new`; false if the value was another one.
        pub fn replace(&self, old: u64, new: u64) -> bool {
            self.atomic().compare_exchange(old, new, SeqCst, SeqCst).is_ok()
        }

        /// Adds `value` (wrapping) and returns what was there before.
        pub fn fetch_add(&self, value: u64) -> u64 {
            self.atomic().fetch_add(value, SeqCst)
        }

        /// Clears the bits that are not set in `mask`.
        pub fn and(&self, mask: u64) {
            self.atomic().fetch_and(mask, SeqCst);
        }

        /// Sets the bits of `mask`.
        pub fn or(&self, mask: u64) {
            self.atomic().fetch_or(mask, SeqCst);
        }
    }

    impl super::Word32 {
        /// Adds `value` (wrapping).
        pub fn add(&self, value: u32) {
            // SAFETY: same size and alignment, and all access is atomic.
            unsafe { AtomicU32::from_ptr(self.0.get()) }.fetch_add(value, SeqCst);
        }
    }
}

/// Marks the shared structs as plain memory for aya.
#[cfg(feature = "user")]
mod pod {
    macro_rules! pod {
        ($($t:ty),* $(,)?) => { $(
            // SAFETY: repr(C), no padding (asserted beside each type), every bit pattern is valid.
            unsafe impl aya::Pod for $t {}
        )* };
    }
    pod!(
        crate::config::Config,
        crate::config::State,
        crate::counters::Count,
        crate::event::Event,
        crate::maps::Interface,
        crate::policy::Rule,
    );
}

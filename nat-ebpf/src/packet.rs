//! Packet access: the only pointer arithmetic over frame memory.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_xdp_adjust_head, bpf_xdp_get_buff_len},
    programs::XdpContext,
};
use nat_common::{
    packet::{HEAD_LEN, Head, Packet},
    raw::Wire,
};

/// No header of ours begins behind this offset; the verifier wants to see a bound.
const FARTHEST: usize = 0x7ff;

/// The frame that the program runs on.
pub struct XdpPacket<'a> {
    ctx: &'a XdpContext,
}

impl<'a> XdpPacket<'a> {
    #[inline(always)]
    pub fn new(ctx: &'a XdpContext) -> Self {
        Self { ctx }
    }
}

impl Packet for XdpPacket<'_> {
    #[inline(always)]
    fn at<T: Wire>(&mut self, offset: usize) -> Option<&mut T> {
        if offset > FARTHEST {
            return None;
        }
        let mut start = self.ctx.data() + offset;
        // The pointer that is checked must be the pointer that is used: the optimiser may otherwise compute it twice, and
        // the verifier knows the second one for another. One move, because an empty `asm!` gives two line records for one
        // instruction, which the kernel refuses.
        // SAFETY: moves a register to itself.
        unsafe { core::arch::asm!("{0} = {0}", inout(reg) start, options(nomem, nostack, preserves_flags)) }
        if start + size_of::<T>() > self.ctx.data_end() {
            return None;
        }
        // SAFETY: within the frame by the check above; T: Wire has alignment 1 and no invalid bit patterns.
        Some(unsafe { &mut *(start as *mut T) })
    }

    // The compiler takes packet bytes for unaligned and loads them one by one; the machines that have XDP do not mind.

    #[inline(always)]
    fn be64(&mut self, offset: usize) -> Option<u64> {
        let start: *const [u8; 8] = self.at::<[u8; 8]>(offset)?;
        let value: u64;
        // SAFETY: eight bytes of the frame.
        unsafe { core::arch::asm!("{v} = *(u64 *)({p} + 0)", v = out(reg) value, p = in(reg) start, options(nostack)) }
        Some(u64::from_be(value))
    }

    #[inline(always)]
    fn be32(&mut self, offset: usize) -> Option<u32> {
        let start: *const [u8; 4] = self.at::<[u8; 4]>(offset)?;
        let mut value: u64;
        // SAFETY: four bytes of the frame.
        unsafe { core::arch::asm!("{v} = *(u32 *)({p} + 0)", v = out(reg) value, p = in(reg) start, options(nostack)) }
        value = u64::from(u32::from_be(value as u32));
        Some(value as u32)
    }

    #[inline(always)]
    fn be16(&mut self, offset: usize) -> Option<u16> {
        let start: *const [u8; 2] = self.at::<[u8; 2]>(offset)?;
        let value: u64;
        // SAFETY: two bytes of the frame.
        unsafe { core::arch::asm!("{v} = *(u16 *)({p} + 0)", v = out(reg) value, p = in(reg) start, options(nostack)) }
        Some(u16::from_be(value as u16))
    }

    #[inline(always)]
    fn set_be32(&mut self, offset: usize, value: u32) -> Option<()> {
        let start: *mut [u8; 4] = self.at::<[u8; 4]>(offset)?;
        let value = u64::from(value.to_be());
        // SAFETY: four bytes of the frame.
        unsafe { core::arch::asm!("*(u32 *)({p} + 0) = {v}", v = in(reg) value, p = in(reg) start, options(nostack)) }
        Some(())
    }

    #[inline(always)]
    fn set_be16(&mut self, offset: usize, value: u16) -> Option<()> {
        let start: *mut [u8; 2] = self.at::<[u8; 2]>(offset)?;
        let value = u64::from(value.to_be());
        // SAFETY: two bytes of the frame.
        unsafe { core::arch::asm!("*(u16 *)({p} + 0) = {v}", v = in(reg) value, p = in(reg) start, options(nostack)) }
        Some(())
    }

    #[inline(always)]
    fn head(&mut self) -> Option<Head> {
        let start: *const [u8; HEAD_LEN] = self.at::<[u8; HEAD_LEN]>(0)?;
        let ethertype: u64;
        let (a, b, c, d, e): (u64, u64, u64, u64, u64);
        // SAFETY: within the bytes that were found.
        unsafe {
            core::arch::asm!("{v} = *(u16 *)({p} + 12)", v = out(reg) ethertype, p = in(reg) start, options(nostack));
            core::arch::asm!("{v} = *(u64 *)({p} + 14)", v = out(reg) a, p = in(reg) start, options(nostack));
            core::arch::asm!("{v} = *(u64 *)({p} + 22)", v = out(reg) b, p = in(reg) start, options(nostack));
            core::arch::asm!("{v} = *(u64 *)({p} + 30)", v = out(reg) c, p = in(reg) start, options(nostack));
            core::arch::asm!("{v} = *(u64 *)({p} + 38)", v = out(reg) d, p = in(reg) start, options(nostack));
            core::arch::asm!("{v} = *(u64 *)({p} + 46)", v = out(reg) e, p = in(reg) start, options(nostack));
        }
        Some(Head {
            ethertype: u16::from_be(ethertype as u16),
            ip: [a, b, c].map(u64::from_be),
            transport: [d, e].map(u64::from_be),
        })
    }

    #[inline(always)]
    fn set_head(&mut self, link: [u64; 2], ip: &[u64; 3], check_at: usize, check: u16) -> Option<()> {
        let start: *mut [u8; HEAD_LEN] = self.at::<[u8; HEAD_LEN]>(0)?;
        if check_at > HEAD_LEN - 2 {
            return None;
        }
        let (first, second) = (link[0] | link[1] << 48, link[1] >> 16);
        let [a, b, c] = [ip[0], ip[1], ip[2]].map(u64::to_be);
        let check = u64::from(check.to_be());
        // SAFETY: within the bytes that were found.
        unsafe {
            let at = start.cast::<u8>().add(check_at);
            core::arch::asm!("*(u64 *)({p} + 0) = {v}", v = in(reg) first, p = in(reg) start, options(nostack));
            core::arch::asm!("*(u32 *)({p} + 8) = {v}", v = in(reg) second, p = in(reg) start, options(nostack));
            core::arch::asm!("*(u64 *)({p} + 14) = {v}", v = in(reg) a, p = in(reg) start, options(nostack));
            core::arch::asm!("*(u64 *)({p} + 22) = {v}", v = in(reg) b, p = in(reg) start, options(nostack));
            core::arch::asm!("*(u64 *)({p} + 30) = {v}", v = in(reg) c, p = in(reg) start, options(nostack));
            core::arch::asm!("*(u16 *)({p} + 0) = {v}", v = in(reg) check, p = in(reg) at, options(nostack));
        }
        Some(())
    }

    #[inline(always)]
    fn again(&mut self, offset: usize) -> Option<u8> {
        // SAFETY: a reference is valid for reads.
        self.at::<u8>(offset)
            .map(|byte| unsafe { core::ptr::from_mut(byte).read_volatile() })
    }

    #[inline(always)]
    fn reaches(&mut self, len: usize) -> bool {
        // Only frames in several buffers (jumbo) are longer than their linear part.
        if self.ctx.data() + len <= self.ctx.data_end() {
            return true;
        }
        // SAFETY: the context is the program's own.
        let whole = unsafe { bpf_xdp_get_buff_len(self.ctx.as_ptr().cast()) };
        whole as usize >= len
    }

    #[inline(always)]
    fn sum(&mut self, offset: usize, len: usize) -> u16 {
        crate::global::global_sum(self.ctx.as_ptr().cast(), offset as u32, len as u32) as u16
    }

    #[inline(always)]
    fn shift_front(&mut self, bytes: i32) -> Option<()> {
        // SAFETY: the context is the program's own; packet pointers are derived anew by every `at`.
        let failed = unsafe { bpf_xdp_adjust_head(self.ctx.as_ptr().cast(), bytes) };
        (failed == 0).then_some(())
    }
}

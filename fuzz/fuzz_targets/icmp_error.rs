//! See `nat_common::memory::targets::icmp_error`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nat_common::memory::targets::icmp_error(data));

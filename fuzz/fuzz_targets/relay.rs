//! See `nat_common::memory::targets::relay`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nat_common::memory::targets::relay(data));

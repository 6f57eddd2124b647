//! See `nat_common::memory::targets::process_inside`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nat_common::memory::targets::process_inside(data));

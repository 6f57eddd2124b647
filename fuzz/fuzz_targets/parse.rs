//! See `nat_common::memory::targets::parse`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nat_common::memory::targets::parse(data));

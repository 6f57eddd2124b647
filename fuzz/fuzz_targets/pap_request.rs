//! See `nat_user::pap::wire::target`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nat_user::pap::wire::target(data));

//! See `nat_user::sip::targets::sip_sdp`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nat_user::sip::targets::sip_sdp(data));

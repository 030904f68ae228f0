//! `cargo fuzz run -s none --features libfuzzer stun`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::stun(data));

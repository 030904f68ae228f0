//! `cargo fuzz run -s none --features libfuzzer srtp`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::srtp(data));

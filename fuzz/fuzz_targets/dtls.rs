//! `cargo fuzz run -s none --features libfuzzer dtls`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::dtls(data));

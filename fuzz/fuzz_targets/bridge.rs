//! `cargo fuzz run -s none --features libfuzzer bridge`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::bridge(data));

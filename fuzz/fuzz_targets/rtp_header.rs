//! `cargo fuzz run -s none --features libfuzzer rtp_header`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::rtp_header(data));

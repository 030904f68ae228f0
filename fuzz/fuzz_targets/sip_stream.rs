//! `cargo fuzz run -s none --features libfuzzer sip_stream`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::sip_stream(data));

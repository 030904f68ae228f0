//! `cargo fuzz run -s none --features libfuzzer sip_message`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::sip_message(data));

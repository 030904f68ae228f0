//! `cargo fuzz run -s none --features libfuzzer sip_agent`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::sip_agent(data));

//! `cargo fuzz run -s none --features libfuzzer telephone_event`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::telephone_event(data));

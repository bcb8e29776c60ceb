//! libFuzzer's door to `reduce`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| polyglot_bridge_fuzz::reduce::run(bytes));

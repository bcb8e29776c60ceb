//! libFuzzer's door to `linear`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| polyglot_bridge_fuzz::linear::run(bytes));

//! libFuzzer's door to `elementwise`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| polyglot_bridge_fuzz::elementwise::run(bytes));

//! libFuzzer's door to `layer_norm`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| polyglot_bridge_fuzz::layer_norm::run(bytes));

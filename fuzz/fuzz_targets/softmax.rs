//! libFuzzer's door to `softmax`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| polyglot_bridge_fuzz::softmax::run(bytes));

//! The fuzz targets without a fuzzer: each on its checked-in corpus and on a few hundred cases made by mutating it, the
//! same in each run. The targets are fuzz/src/; `make fuzz` lets libFuzzer search for longer.
#![cfg(feature = "f16")]
#![allow(dead_code, unreachable_pub, reason = "the sources of another package")]

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use std::path::Path;

/// How many cases are made beyond the corpus, for each target; POLYGLOT_FUZZ_CASES asks for another number.
const CASES: usize = 300;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = folder.read_dir().expect("a corpus").map(|entry| entry.expect("a file").path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).expect("readable")).collect()
}

fn check(target: &str, run: fn(&[u8])) {
    let corpus = corpus(target);
    assert!(corpus.len() > 10, "{target}: a corpus of {} inputs", corpus.len());
    for bytes in &corpus {
        run(bytes);
    }
    let cases = std::env::var("POLYGLOT_FUZZ_CASES").map_or(CASES, |cases| cases.parse().expect("a number"));
    let mut random = fuzz::random(0x5eed ^ cases as u64);
    for _ in 0..cases {
        let mut bytes = corpus[random(corpus.len())].clone();
        bytes.resize(bytes.len().max(1 + random(160)), 0);
        for _ in 0..=random(8) {
            let place = random(bytes.len());
            bytes[place] = random(256) as u8;
        }
        run(&bytes);
    }
}

#[test]
fn elementwise() {
    check("elementwise", fuzz::elementwise::run);
}

#[test]
fn layer_norm() {
    check("layer_norm", fuzz::layer_norm::run);
}

#[test]
fn linear() {
    check("linear", fuzz::linear::run);
}

#[test]
fn reduce() {
    check("reduce", fuzz::reduce::run);
}

#[test]
fn softmax() {
    check("softmax", fuzz::softmax::run);
}

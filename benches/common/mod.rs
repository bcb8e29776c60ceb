//! What the benchmarks share: numbers to work on. Nothing is measured here.

use polyglot_bridge::{Compute, Float};

/// `count` values spread over -2 to 2, the same ones in each run.
pub(crate) fn values<T: Float>(count: usize) -> Vec<T> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f64 / 4_194_304.0 - 2.0
    };
    (0..count).map(|_| T::from_acc(T::Acc::from_f64(next()))).collect()
}

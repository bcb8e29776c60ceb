//! One row times a weight that no cache holds: its rows are read from end to end, a few at a time, as memory is read fast
//! only in long pieces, while the sums wait in the cache. In the order in which all products are summed.

use fearless_simd::{Simd, SimdBase, SimdFloat};

use crate::float::{Float, Lanes};
use crate::simd::{self, dispatch};
use crate::view::{Matrix, inlined};

/// The rows that are read together: so many streams a CPU foresees, and each sum is fetched once for all of them.
const TOGETHER: usize = 4;

/// Adds `x` times the rows of `weight` to `sums`, whole vectors of them. The elements of each row lie side by side.
pub(super) fn add_rows<W: Float>(level: simd::Level, x: &[W::Acc], weight: Matrix<'_, W>, sums: &mut [W::Acc]) {
    #[inline(never)]
    fn add<S: Simd, W: Float>(simd: S, x: &[W::Acc], weight: Matrix<'_, W>, sums: &mut [W::Acc]) {
        simd.vectorize(
            #[inline(always)]
            || add_here(simd, x, weight, sums),
        );
    }
    dispatch!(level, simd => add(simd, x, weight, sums));
}

#[inline(always)]
fn add_here<S: Simd, W: Float>(simd: S, x: &[W::Acc], weight: Matrix<'_, W>, sums: &mut [W::Acc]) {
    let lanes = Lanes::<S, W>::LEN;
    let len = sums.len();
    let row = |index: usize| weight.row(index).and_then(|row| row.get(..len)).unwrap_or(&[]);
    for (group, values) in x.chunks(TOGETHER).enumerate() {
        let first = group * TOGETHER;
        if let &[a, b, c, d] = values {
            let splat = inlined(
                #[inline(always)]
                |value| Lanes::<S, W>::splat(simd, value),
            );
            let factors = [splat(a), splat(b), splat(c), splat(d)];
            let rows = row(first).chunks_exact(lanes).zip(row(first + 1).chunks_exact(lanes));
            let rows = rows.zip(row(first + 2).chunks_exact(lanes)).zip(row(first + 3).chunks_exact(lanes));
            for (sums, (((a, b), c), d)) in sums.chunks_exact_mut(lanes).zip(rows) {
                let mut sum = <W::Acc as Float>::load(simd, sums);
                sum = factors[0].mul_add(W::load(simd, a), sum);
                sum = factors[1].mul_add(W::load(simd, b), sum);
                sum = factors[2].mul_add(W::load(simd, c), sum);
                sum = factors[3].mul_add(W::load(simd, d), sum);
                <W::Acc as Float>::store::<S>(sum, sums);
            }
        } else {
            for (index, &value) in values.iter().enumerate() {
                let factor = Lanes::<S, W>::splat(simd, value);
                for (sums, row) in sums.chunks_exact_mut(lanes).zip(row(first + index).chunks_exact(lanes)) {
                    let sum = factor.mul_add(W::load(simd, row), <W::Acc as Float>::load(simd, sums));
                    <W::Acc as Float>::store::<S>(sum, sums);
                }
            }
        }
    }
}

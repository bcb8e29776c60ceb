//! One row times a weight whose columns are contiguous, as in a layer of PyTorch's, or where the weight is many rows
//! that meet one column: squares of it are transposed in registers and used at once. In the order in which all products
//! are summed.

use fearless_simd::{Simd, SimdBase, SimdFloat};

use crate::float::{Compute, Float, Lanes, MAX_LANES};
use crate::macros::{bug, lane_fn};
use crate::simd::{self, dispatch};
use crate::view::{Matrix, inlined};

/// How far ahead columns are asked for, in bytes.
const AHEAD: usize = 512;

/// Writes `x` times the transpose of `columns` to `sums`. The rows of `columns` are contiguous, and there are
/// at least as many rows as a vector has lanes.
pub(super) fn multiply<W: Float>(level: simd::Level, x: &[W::Acc], columns: Matrix<'_, W>, sums: &mut [W::Acc]) {
    #[inline(never)]
    fn add<S: Simd, W: Float>(simd: S, x: &[W::Acc], columns: Matrix<'_, W>, sums: &mut [W::Acc]) {
        simd.vectorize(lane_fn!(|| multiply_here(simd, x, columns, sums)));
    }
    dispatch!(level, simd => add(simd, x, columns, sums));
}

#[inline(always)]
fn multiply_here<S: Simd, W: Float>(simd: S, x: &[W::Acc], columns: Matrix<'_, W>, sums: &mut [W::Acc]) {
    let lanes = Lanes::<S, W>::LEN;
    let (cols, steps) = columns.shape();
    let whole = steps / lanes * lanes;
    let zero = Lanes::<S, W>::splat(simd, W::Acc::ZERO);
    // The last columns are those before them once more, where there are not enough for a square.
    let Some(last) = cols.checked_sub(lanes) else { return bug!() };
    // One square after another: two side by side would hide how long sums wait for one another, but read from more
    // places than a cache foresees.
    for col in (0..cols).step_by(lanes) {
        let col = col.min(last);
        let mut sum = zero;
        for start in (0..whole).step_by(lanes) {
            let Some(values) = x.get(start..start + lanes) else { return bug!() };
            let Some(square) = load_transposed::<S, W>(simd, columns, col, start) else { return bug!() };
            let mut add = inlined(
                #[inline(always)]
                |index: usize| sum = Lanes::<S, W>::splat(simd, values[index]).mul_add(square[index], sum),
            );
            each_index!(lanes, add);
        }
        // What is left of the steps.
        for step in whole..steps {
            let mut values = [W::ZERO; MAX_LANES];
            for (index, value) in values.iter_mut().enumerate().take(lanes) {
                *value = columns.get(col + index, step).unwrap_or_else(|| bug!(W::ZERO));
            }
            let Some(&value) = x.get(step) else { return bug!() };
            sum = Lanes::<S, W>::splat(simd, value).mul_add(W::load(simd, &values[..lanes]), sum);
        }
        let Some(target) = sums.get_mut(col..col + lanes) else { return bug!() };
        <W::Acc as Float>::store::<S>(sum, target);
    }
}

/// As many steps of as many columns as a vector has lanes, transposed: a vector each step.
#[inline(always)]
fn load_transposed<S: Simd, W: Float>(
    simd: S,
    columns: Matrix<'_, W>,
    col: usize,
    start: usize,
) -> Option<[Lanes<S, W>; MAX_LANES]> {
    let lanes = Lanes::<S, W>::LEN;
    let lines = columns.square(col, start, lanes)?;
    let mut square = [Lanes::<S, W>::splat(simd, W::Acc::ZERO); MAX_LANES];
    let mut load = inlined(
        #[inline(always)]
        |index: usize| {
            let line = lines.line(index, lanes);
            simd::prefetch_far(line.as_ptr().wrapping_byte_add(AHEAD));
            square[index] = W::load(simd, line);
        },
    );
    each_index!(lanes, load);
    Some(transposed::<S, W::Acc>(square))
}

/// As many vectors as each has lanes, rows and columns exchanged: each vector is interleaved with the one half the
/// square on, as often as it takes to move each number to its place (Stone, Parallel Processing with the Perfect
/// Shuffle, 1971).
#[inline(always)]
fn transposed<S: Simd, C: Compute>(square: [C::Lanes<S>; MAX_LANES]) -> [C::Lanes<S>; MAX_LANES] {
    let lanes = C::Lanes::<S>::LEN;
    let mut square = square;
    let mut interleave = inlined(
        #[inline(always)]
        |power: usize| {
            if 1 << (power + 1) <= lanes {
                let before = square;
                let mut pair = inlined(
                    #[inline(always)]
                    |index: usize| {
                        (square[2 * index], square[2 * index + 1]) =
                            before[index].interleave(before[index + lanes / 2]);
                    },
                );
                each_index!(lanes / 2, pair);
            }
        },
    );
    each_index!(4, interleave);
    square
}

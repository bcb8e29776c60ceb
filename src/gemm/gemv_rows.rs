//! Few rows times a weight that is read once and where it lies: its rows are read from end to end, a few at a time, as
//! memory is read fast only in long pieces, and in vectors that do not straddle cache lines, while the sums wait in the
//! cache. In the order in which all products are summed: see the head of [`gemm`](super).

use core::iter::zip;

use fearless_simd::{Simd, SimdBase, SimdFloat};

use super::panel_width;
use crate::float::{Float, Lanes};
use crate::macros::{bug, lane_fn};
use crate::simd::{self, dispatch};
use crate::view::Matrix;

/// The rows of a weight that are read together: a CPU prefetches so many, and each sum is fetched once for all of
/// them.
const TOGETHER: usize = 4;

/// The numbers from a row of sums to the next, for a weight of `cols` columns whose compute type is `C`: they begin
/// somewhere in the first line, and what is left of the columns takes another.
pub(super) const fn stride<C>(cols: usize) -> usize {
    cols + 2 * panel_width::<C>()
}

/// Writes `x` times `weight` to `sums`, and returns where in each row of them, [`stride`] apart, the first column is. x
/// has at most [`MAX_M_GEMV`] rows; the rows of both are contiguous, and there are whole panels of columns.
pub(super) fn multiply<W: Float>(
    level: simd::Level,
    x: Matrix<'_, W::Acc>,
    weight: Matrix<'_, W>,
    sums: &mut [W::Acc],
) -> usize {
    #[inline(never)]
    fn add<S: Simd, W: Float>(simd: S, x: Matrix<'_, W::Acc>, weight: Matrix<'_, W>, sums: &mut [W::Acc]) -> usize {
        simd.vectorize(lane_fn!(|| multiply_here(simd, x, weight, sums)))
    }
    let stride = stride::<W::Acc>(weight.cols());
    let Some(sums) = sums.get_mut(..x.rows() * stride) else { return bug!(0) };
    sums.fill(W::Acc::ZERO);
    dispatch!(level, simd => add(simd, x, weight, sums))
}

#[inline(always)]
fn multiply_here<S: Simd, W: Float>(
    simd: S,
    x: Matrix<'_, W::Acc>,
    weight: Matrix<'_, W>,
    sums: &mut [W::Acc],
) -> usize {
    let lanes = Lanes::<S, W>::LEN;
    let width = const { panel_width::<W::Acc>() };
    let (steps, cols) = weight.shape();
    let stride = stride::<W::Acc>(cols);
    // Vectors shorter than a line need no more than to be aligned to their own size.
    let start = until_aligned(&weight).min(cols) % lanes;
    // Columns before the first vector that is aligned are the beginning of one that is not, those behind the last one
    // the end of another; both have sums of their own. (The first column, how many, where their sums are.)
    let whole = (cols - start) / lanes * lanes;
    let rest = cols - start - whole;
    let parts = [
        (0, if start > 0 { lanes } else { 0 }, 0),
        (start, whole, width),
        (cols - lanes.min(cols), if rest > 0 { lanes } else { 0 }, width + whole),
    ];
    for (col, len, to) in parts {
        let weight = weight.block(0..steps, col..col + len);
        for first in (0..if len > 0 { steps } else { 0 }).step_by(TOGETHER) {
            let group = first..(first + TOGETHER).min(steps);
            let values = |row: usize| x.row(row).and_then(|row| row.get(group.clone())).unwrap_or_else(|| bug!(&[]));
            let mut row = 0;
            while row < x.rows() {
                let Some(sums) = sums.get_mut(row * stride + to..) else { return bug!(0) };
                if row + 1 < x.rows() && group.len() == TOGETHER {
                    let Some((one, other)) = sums.split_at_mut_checked(stride) else { return bug!(0) };
                    let (Some(one), Some(other)) = (one.get_mut(..len), other.get_mut(..len)) else { return bug!(0) };
                    add_two(simd, [values(row), values(row + 1)], &weight, first, one, other);
                    row += 2;
                } else {
                    let Some(sums) = sums.get_mut(..len) else { return bug!(0) };
                    add_one(simd, values(row), &weight, first, sums);
                    row += 1;
                }
            }
        }
    }
    // Side by side: what is needed of the beginning ends where the whole vectors begin, and of the end where the
    // columns do.
    for sums in sums.chunks_exact_mut(stride) {
        sums.copy_within(0..start, width - start);
        sums.copy_within(width + whole + lanes - rest..width + whole + lanes, width + whole);
    }
    width - start
}

/// How many columns lie before the first panel that does not straddle cache lines, less than a panel; 0 where there is
/// none, or where the rows of a matrix do not lie alike in their lines.
pub(super) fn until_aligned<W: Float>(weight: &Matrix<'_, W>) -> usize {
    let size = size_of::<W>().max(1);
    let panel = panel_width::<W::Acc>() * size;
    let are_alike = weight.row_stride().wrapping_mul(size as isize) % panel as isize == 0;
    let behind = weight.row(0).map_or(0, |row| row.as_ptr() as usize) % panel;
    if are_alike { (panel - behind) % panel / size } else { 0 }
}

/// Adds the numbers `x` times the rows of `weight` to `sums`.
#[inline(always)]
fn add_one<S: Simd, W: Float>(simd: S, x: &[W::Acc], weight: &Matrix<'_, W>, first: usize, sums: &mut [W::Acc]) {
    let lanes = Lanes::<S, W>::LEN;
    let row = |index: usize| weight.row(first + index).unwrap_or_else(|| bug!(&[])).chunks_exact(lanes);
    let load = |sums: &[W::Acc]| <W::Acc as Float>::load(simd, sums);
    if let &[a, b, c, d] = x {
        let factors = [a, b, c, d].map(|value| Lanes::<S, W>::splat(simd, value));
        // Nothing but what is needed: the shorter the loop, the further ahead the CPU asks for what comes next.
        for (sums, ((a, b), (c, d))) in zip(sums.chunks_exact_mut(lanes), zip(zip(row(0), row(1)), zip(row(2), row(3))))
        {
            let sum = factors[0].mul_add(W::load(simd, a), load(sums));
            let sum = factors[1].mul_add(W::load(simd, b), sum);
            let sum = factors[2].mul_add(W::load(simd, c), sum);
            <W::Acc as Float>::store::<S>(factors[3].mul_add(W::load(simd, d), sum), sums);
        }
        return;
    }
    for (index, &value) in x.iter().enumerate() {
        let factor = Lanes::<S, W>::splat(simd, value);
        for (sums, row) in zip(sums.chunks_exact_mut(lanes), row(index)) {
            <W::Acc as Float>::store::<S>(factor.mul_add(W::load(simd, row), load(sums)), sums);
        }
    }
}

/// The same for two rows of x at once, of [`TOGETHER`] numbers.
#[inline(always)]
fn add_two<S: Simd, W: Float>(
    simd: S,
    x: [&[W::Acc]; 2],
    weight: &Matrix<'_, W>,
    first: usize,
    one: &mut [W::Acc],
    other: &mut [W::Acc],
) {
    let lanes = Lanes::<S, W>::LEN;
    let row = |index: usize| weight.row(first + index).unwrap_or_else(|| bug!(&[])).chunks_exact(lanes);
    let load = |sums: &[W::Acc]| <W::Acc as Float>::load(simd, sums);
    let (&[a, b, c, d], &[e, f, g, h]) = (x[0], x[1]) else { return bug!() };
    let splat = |value| Lanes::<S, W>::splat(simd, value);
    let (first, second) = ([splat(a), splat(b), splat(c), splat(d)], [splat(e), splat(f), splat(g), splat(h)]);
    let sums = zip(one.chunks_exact_mut(lanes), other.chunks_exact_mut(lanes));
    for ((one, other), ((a, b), (c, d))) in zip(sums, zip(zip(row(0), row(1)), zip(row(2), row(3)))) {
        let columns = [W::load(simd, a), W::load(simd, b), W::load(simd, c), W::load(simd, d)];
        let (mut sum, mut other_sum) = (load(one), load(other));
        for step in 0..TOGETHER {
            sum = first[step].mul_add(columns[step], sum);
            other_sum = second[step].mul_add(columns[step], other_sum);
        }
        <W::Acc as Float>::store::<S>(sum, one);
        <W::Acc as Float>::store::<S>(other_sum, other);
    }
}

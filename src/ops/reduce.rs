//! Sums over all elements, in f64 whatever the storage type, whose order the number of elements alone fixes.

use fearless_simd::{Simd, SimdBase, SimdFloat};

use crate::float::{Compute, Float};
use crate::kernel::kernel;
use crate::macros::{bug, lane_fn};
use crate::parallel;
use crate::simd::{self, dispatch};
use crate::view::{InOutMatrix, Matrix, MatrixMut, PairwiseFold, Row};

/// What one element costs on one core, in nanoseconds, where nothing but memory is waited for.
const COST: f32 = 0.1;

/// The most parts that a sum is split into.
const PARTS: usize = 128;

/// A part has at least so many elements, so that small sums are not split.
const PART: usize = 8192;

/// The sum of x² over all elements, taken and returned in f64 for every storage type; +0.0 where there is none.
///
/// The squares of f16, bf16 and f32 are exact; the error of the sum is that of pairwise summation. The order depends
/// on the shape alone, so the bits do not depend on the number of threads.
///
/// # Examples
///
/// ```
/// assert_eq!(polyglot_bridge::sum_of_squares(&[1.0_f32, 2.0, 3.0]), 14.0);
/// assert_eq!(polyglot_bridge::sum_of_squares(&[1e20_f32; 7]), 7.0 * f64::from(1e20_f32).powi(2));
/// ```
pub fn sum_of_squares<'a, T: Float>(x: impl Into<Matrix<'a, T>>) -> f64 {
    SquareSum::run(x.into())
}

kernel!(SquareSum<T>(x: Matrix<'a, T>) -> f64 = square_sum);

fn square_sum<T: Float>(x: Matrix<'_, T>) -> f64 {
    // A sum may go down the columns as well as along the rows.
    let x = if x.has_contiguous_rows() { x } else { x.transpose() };
    if let Some(values) = x.as_slice() {
        return sum_slice(values);
    }
    // Rows apart: each for itself, and their sums like the parts of one.
    let mut sums = [0.0; PARTS];
    let group = x.rows().div_ceil(PARTS).max(1);
    fill(&mut sums, group.saturating_mul(x.cols()), |part| {
        let mut tree = PairwiseFold::new();
        let start = part.saturating_mul(group);
        for row in start..start.saturating_add(group).min(x.rows()) {
            let mut buffer = [T::ZERO; 256];
            let mut start = 0;
            while start < x.cols() {
                let values = x.load_strided(row, start, &mut buffer);
                tree.push(sum_part(values), &|a, b| a + b);
                start += values.len().max(1);
            }
        }
        tree.finish(0.0, &|a, b| a + b)
    });
    pairwise(&mut sums)
}

fn sum_slice<T: Float>(values: &[T]) -> f64 {
    if values.len() <= PART {
        return sum_part(values);
    }
    let mut sums = [0.0; PARTS];
    let length = values.len().div_ceil(PARTS).next_multiple_of(PART);
    fill(&mut sums, length, |part| {
        let start = (part * length).min(values.len());
        let end = (start + length).min(values.len());
        values.get(start..end).map_or(0.0, sum_part)
    });
    pairwise(&mut sums)
}

/// Writes sum(part) to each place of `sums`, on several threads; `length` is the number of elements of a part.
fn fill(sums: &mut [f64; PARTS], length: usize, sum: impl Fn(usize) -> f64 + Sync) {
    let (rows, cols) = (sums.len(), 1);
    let Ok(sums) = MatrixMut::new(sums, rows, cols) else { return bug!() };
    parallel::for_each_rows(InOutMatrix::in_place(sums), COST * length as f32, |parts, mut block| {
        block.for_each_row(|row, mut place| place.map_each(|_| sum(parts.start + row)));
    });
}

/// The sum of neighbours, of neighbours' sums, and so on.
fn pairwise(sums: &mut [f64; PARTS]) -> f64 {
    let mut count = PARTS;
    while count > 1 {
        count /= 2;
        for index in 0..count {
            sums[index] = sums[2 * index] + sums[2 * index + 1];
        }
    }
    sums[0]
}

fn sum_part<T: Float>(values: &[T]) -> f64 {
    dispatch!(simd::level(), simd => sum_row::<_, T>(simd, values.into()))
}

#[inline(always)]
fn sum_row<S: Simd, T: Float>(simd: S, row: Row<'_, T>) -> f64 {
    let zeros = S::f64s::splat(simd, 0.0);
    row.fold_ahead(
        simd,
        T::Acc::from_f64(0.0),
        zeros,
        lane_fn!(|x| {
            let (low, high) = T::Acc::widen_f64(simd, x);
            // For f64 there is no upper half.
            if size_of::<T::Acc>() == size_of::<f64>() { low * low } else { low.mul_add(low, high * high) }
        }),
        lane_fn!(|a, b| a + b),
    )
    .reduce_sum()
}

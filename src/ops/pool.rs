//! Mean pooling: each sequence's rows become their mean, but for those that a mask hides.

use fearless_simd::{Simd, SimdBase};
use num_traits::Float as _;

use crate::error::ShapeError;
use crate::float::{Compute, Float, Lanes, MAX_LANES};
use crate::kernel::kernel;
use crate::macros::bug;
use crate::math::mean;
use crate::parallel;
use crate::simd::{self, dispatch};
use crate::view::{Matrix, MatrixMut, PairwiseFold, inlined};

/// What one element costs on one core, in nanoseconds.
const COST: f32 = 0.15;
/// The rows that are added one after the other, before their sum joins others pairwise.
const CHAIN: usize = 16;

/// Writes to each row of `out`, of shape (sequences, features), the mean of the rows of one sequence: `x`, of shape
/// (sequences * tokens, features), has them one sequence after the other. A `mask` of shape (sequences, tokens) keeps
/// rows where it is true; what the others hold does not matter, were it NaN. A sequence of which nothing is kept
/// becomes zeros.
///
/// Sums are taken pairwise in the compute type, of the rows that are kept alone: the bits do not depend on padding.
///
/// # Errors
///
/// [`ShapeError`] where the shapes do not fit.
///
/// # Examples
///
/// ```
/// use polyglot_bridge::{mean_pool, Matrix};
///
/// let x = Matrix::new(&[1.0_f32, 2.0, 3.0, 6.0, f32::NAN, 0.0], 3, 2)?;
/// let mut out = [0.0; 2];
/// mean_pool(x, Some((&[true, true, false]).into()), &mut out)?;
/// assert_eq!(out, [2.0, 4.0]);
/// # Ok::<(), polyglot_bridge::ShapeError>(())
/// ```
pub fn mean_pool<'a, 'b, T: Float>(
    x: impl Into<Matrix<'a, T>>,
    mask: Option<Matrix<'_, bool>>,
    out: impl Into<MatrixMut<'b, T>>,
) -> Result<(), ShapeError> {
    mean_pool_bytes(x.into(), mask.map(Matrix::to_bytes), out.into())
}

/// [`mean_pool`] with a mask of bytes, any but 0 being true.
pub(crate) fn mean_pool_bytes<T: Float>(
    x: Matrix<'_, T>,
    mask: Option<Matrix<'_, u8>>,
    out: MatrixMut<'_, T>,
) -> Result<(), ShapeError> {
    const OP: &str = "mean_pool";
    let (sequences, cols) = out.shape();
    let tokens = x.rows() / sequences.max(1);
    ShapeError::check(OP, "x", x.shape(), (sequences * tokens, cols))?;
    if let Some(mask) = mask {
        ShapeError::check(OP, "mask", mask.shape(), (sequences, tokens))?;
    }
    MeanPoolRows::run(x, mask, out);
    Ok(())
}

kernel!(MeanPoolRows<T>(x: Matrix<'a, T>, mask: Option<Matrix<'a, u8>>, out: MatrixMut<'a, T>) = mean_pool_rows);

fn mean_pool_rows<T: Float>(x: Matrix<'_, T>, mask: Option<Matrix<'_, u8>>, out: MatrixMut<'_, T>) {
    let (sequences, cols) = out.shape();
    let tokens = x.rows() / sequences.max(1);
    let level = simd::level();
    parallel::for_each_tile(out, (1, cols), COST * tokens as f32 * cols as f32, |rows, _, mut out| {
        let sequence = rows.start;
        let x = x.block(sequence * tokens..(sequence + 1) * tokens, 0..cols);
        let mask = mask.map(|mask| mask.block(sequence..sequence + 1, 0..tokens));
        let Some(target) = out.row_mut(0) else { return bug!() };
        dispatch!(level, simd => mean_of::<_, T>(simd, x, mask, target));
    });
}

#[inline(always)]
fn mean_of<S: Simd, T: Float>(simd: S, x: Matrix<'_, T>, mask: Option<Matrix<'_, u8>>, target: &mut [T]) {
    let lanes = Lanes::<S, T>::LEN;
    let zero = Lanes::<S, T>::splat(simd, T::Acc::ZERO);
    // Zeros, but for NaN and infinities.
    let mut zeros = zero;
    for (index, target) in target.chunks_mut(lanes).enumerate() {
        let mean = mean_of_columns::<S, T, false>(simd, x, mask, index * lanes);
        zeros += mean * zero;
        let mut whole = [T::ZERO; MAX_LANES];
        T::store::<S>(mean, &mut whole[..lanes]);
        let len = target.len();
        target.copy_from_slice(&whole[..len]);
    }
    if !zeros.reduce_sum().is_nan() {
        return;
    }
    // Once more with small values where a sum overflowed, as the mean of finite values is finite.
    for (index, target) in target.chunks_mut(lanes).enumerate() {
        let mean = mean_of_columns::<S, T, true>(simd, x, mask, index * lanes);
        let mean = mean::restore::<S, T::Acc>(simd, mean);
        for (target, &mean) in target.iter_mut().zip(mean.as_slice()) {
            if !target.to_acc().is_finite() {
                *target = T::from_acc(mean);
            }
        }
    }
}

/// The mean of a vector of columns from `first` on, zeros past the last; with `IS_SHRUNK` that of small values, see
/// [`mean::shrink`].
#[inline(always)]
fn mean_of_columns<S: Simd, T: Float, const IS_SHRUNK: bool>(
    simd: S,
    x: Matrix<'_, T>,
    mask: Option<Matrix<'_, u8>>,
    first: usize,
) -> Lanes<S, T> {
    let lanes = Lanes::<S, T>::LEN;
    let zero = Lanes::<S, T>::splat(simd, T::Acc::ZERO);
    let add = inlined(
        #[inline(always)]
        |a: Lanes<S, T>, b: Lanes<S, T>| a + b,
    );
    let is_kept = |row: usize| mask.is_none_or(|mask| mask.get(0, row).is_some_and(|byte| byte != 0));
    let (mut tree, mut chain, mut count) = (PairwiseFold::new(), zero, 0_usize);
    for row in (0..x.rows()).filter(|&row| is_kept(row)) {
        let part = x.row(row).and_then(|row| row.get(first..first + lanes));
        let values = if let Some(part) = part {
            T::load(simd, part)
        } else {
            let mut part = [T::ZERO; MAX_LANES];
            for (lane, value) in part.iter_mut().enumerate().take(lanes.min(x.cols().saturating_sub(first))) {
                *value = x.get(row, first + lane).unwrap_or_else(|| bug!(T::ZERO));
            }
            T::load(simd, &part[..lanes])
        };
        chain += if IS_SHRUNK { mean::shrink::<S, T::Acc>(simd, values) } else { values };
        count += 1;
        if count.is_multiple_of(CHAIN) {
            tree.push(chain, &add);
            chain = zero;
        }
    }
    let sum = tree.finish(chain, &add);
    sum / Lanes::<S, T>::splat(simd, T::Acc::from_f64(count.max(1) as f64))
}

//! Element-wise transforms: times a factor, and any function of the caller's.

use fearless_simd::{Simd, SimdBase};

use crate::error::ShapeError;
use crate::float::{Float, Lanes};
use crate::kernel::kernel;
use crate::macros::lane_fn;
use crate::parallel;
use crate::simd::{self, dispatch};
use crate::view::{InOut, InOutMatrix, Matrix, MatrixMut};

/// What one element costs on one core, in nanoseconds, where nothing but memory is waited for.
const COST: f32 = 0.1;

/// Writes x * factor to `out`.
///
/// `x` and `out` have the same shape. The product is taken in the compute type and rounded once, so a factor that an
/// f16 cannot hold is not rounded to one.
///
/// # Errors
///
/// [`ShapeError`] where the shapes differ.
///
/// # Examples
///
/// ```
/// let mut out = [0.0_f64; 2];
/// polyglot_bridge::scale(&[1.0, 2.0], 2.5, &mut out)?;
/// assert_eq!(out, [2.5, 5.0]);
/// # Ok::<(), polyglot_bridge::ShapeError>(())
/// ```
pub fn scale<'a, 'b, T: Float>(
    x: impl Into<Matrix<'a, T>>,
    factor: T::Acc,
    out: impl Into<MatrixMut<'b, T>>,
) -> Result<(), ShapeError> {
    ScaleElements::run(InOutMatrix::new("scale", x.into(), out.into())?, factor);
    Ok(())
}

/// [`scale`], over its input.
///
/// # Errors
///
/// None today; the type leaves room for one.
///
/// # Examples
///
/// ```
/// let mut values = [1.0_f32, 2.0];
/// polyglot_bridge::scale_in_place(&mut values, -1.0)?;
/// assert_eq!(values, [-1.0, -2.0]);
/// # Ok::<(), polyglot_bridge::ShapeError>(())
/// ```
pub fn scale_in_place<'a, T: Float>(x: impl Into<MatrixMut<'a, T>>, factor: T::Acc) -> Result<(), ShapeError> {
    ScaleElements::run(InOutMatrix::in_place(x.into()), factor);
    Ok(())
}

/// Writes f(x) to `out` for each element x, on several threads where there is much to do.
///
/// `x` and `out` have the same shape. What is plain arithmetic in `f` is compiled for the CPU's vectors. For a
/// function of this crate call that instead: it is faster.
///
/// # Errors
///
/// [`ShapeError`] where the shapes differ.
///
/// # Examples
///
/// ```
/// let mut out = [0.0_f32; 3];
/// polyglot_bridge::map(&[1.0, 2.0, 3.0], &mut out, |x| x * x + 1.0)?;
/// assert_eq!(out, [2.0, 5.0, 10.0]);
/// # Ok::<(), polyglot_bridge::ShapeError>(())
/// ```
pub fn map<'a, 'b, T: Float>(
    x: impl Into<Matrix<'a, T>>,
    out: impl Into<MatrixMut<'b, T>>,
    f: impl Fn(T) -> T + Sync,
) -> Result<(), ShapeError> {
    map_elements(InOutMatrix::new("map", x.into(), out.into())?, f);
    Ok(())
}

/// [`map`](map()), over its input.
///
/// # Errors
///
/// None today; the type leaves room for one.
///
/// # Examples
///
/// ```
/// let mut values = [1.0_f32, 2.0];
/// polyglot_bridge::map_in_place(&mut values, |x| 1.0 / x)?;
/// assert_eq!(values, [1.0, 0.5]);
/// # Ok::<(), polyglot_bridge::ShapeError>(())
/// ```
pub fn map_in_place<'a, T: Float>(x: impl Into<MatrixMut<'a, T>>, f: impl Fn(T) -> T + Sync) -> Result<(), ShapeError> {
    map_elements(InOutMatrix::in_place(x.into()), f);
    Ok(())
}

kernel!(ScaleElements<T>(io: InOutMatrix<'a, T>, factor: T::Acc) = scale_elements);

fn scale_elements<T: Float>(io: InOutMatrix<'_, T>, factor: T::Acc) {
    let level = simd::level();
    parallel::for_each_elements(io, COST, |_, _, mut block| {
        dispatch!(level, simd => block.for_each_row(lane_fn!(|_, row| scale_row(simd, row, factor))));
    });
}

#[inline(always)]
fn scale_row<S: Simd, T: Float>(simd: S, mut row: InOut<'_, T>, factor: T::Acc) {
    let factors = Lanes::<S, T>::splat(simd, factor);
    row.map::<S, T, 0>(simd, [], lane_fn!(|x, []| x * factors));
}

fn map_elements<T: Float>(io: InOutMatrix<'_, T>, f: impl Fn(T) -> T + Sync) {
    /// A function of the caller's costs more than a multiplication; how much more is not known.
    const COST: f32 = 1.0;
    let _mode = simd::mode::DefaultMode::set();
    let level = simd::level();
    parallel::for_each_elements(io, COST, |_, _, mut block| {
        dispatch!(level, _ => block.for_each_row(lane_fn!(|_, mut row: InOut<'_, T>| row.map_each(&f))));
    });
}

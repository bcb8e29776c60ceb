//! Softmax and log-softmax of each row. The exponential itself is in [`crate::math`].

use fearless_simd::{Simd, SimdBase};
use num_traits::Float as _;

use crate::error::ShapeError;
use crate::float::{Compute, Float, Lanes};
use crate::kernel::kernel;
use crate::macros::lane_fn;
use crate::math::{self, Constants as _, Unrolled};
use crate::parallel;
use crate::simd::{self, dispatch};
use crate::view::{InOut, InOutMatrix, Matrix, MatrixMut, Row, RowBuffer, SplitRow};
use crate::workspace::Workspace;

/// What one element costs on one core, in nanoseconds.
const COST: f32 = 0.6;

/// Writes the softmax of each row of `x` to `out`: exp(x - max) / sum(exp(x - max)).
///
/// `x` and `out` have the same shape; a slice is one row. Each result is rounded once: what lies between is kept in
/// the compute type. A row that holds a NaN or +∞, or nothing but -∞, becomes NaN, as the formula has it; an empty row
/// stays empty.
///
/// # Errors
///
/// [`ShapeError`] where the shapes differ.
///
/// # Examples
///
/// ```
/// let mut out = [0.0_f32; 3];
/// polyglot_bridge::softmax(&[1.0, 1.0, f32::NEG_INFINITY], &mut out)?;
/// assert_eq!(out, [0.5, 0.5, 0.0]);
/// # Ok::<(), polyglot_bridge::ShapeError>(())
/// ```
///
/// Two rows at once:
///
/// ```
/// use polyglot_bridge::{softmax, Matrix, MatrixMut};
///
/// let mut out = [0.0_f64; 4];
/// softmax(Matrix::new(&[7.0, 7.0, 0.0, 1e9], 2, 2)?, MatrixMut::new(&mut out, 2, 2)?)?;
/// assert_eq!(out, [0.5, 0.5, 0.0, 1.0]);
/// # Ok::<(), polyglot_bridge::ShapeError>(())
/// ```
pub fn softmax<'a, 'b, T: Float>(
    x: impl Into<Matrix<'a, T>>,
    out: impl Into<MatrixMut<'b, T>>,
) -> Result<(), ShapeError> {
    SoftmaxRows::run(InOutMatrix::new("softmax", x.into(), out.into())?);
    Ok(())
}

/// [`softmax`], over its input.
///
/// # Errors
///
/// None today; the type leaves room for one.
///
/// # Examples
///
/// ```
/// let mut row = [3.0_f64, 3.0];
/// polyglot_bridge::softmax_in_place(&mut row)?;
/// assert_eq!(row, [0.5, 0.5]);
/// # Ok::<(), polyglot_bridge::ShapeError>(())
/// ```
pub fn softmax_in_place<'a, T: Float>(x: impl Into<MatrixMut<'a, T>>) -> Result<(), ShapeError> {
    SoftmaxRows::run(InOutMatrix::in_place(x.into()));
    Ok(())
}

/// Writes the logarithm of the softmax of each row of `x` to `out`: (x - max) - ln(sum(exp(x - max))).
///
/// Shapes, NaN and infinities as for [`softmax`].
///
/// # Errors
///
/// [`ShapeError`] where the shapes differ.
///
/// # Examples
///
/// ```
/// let mut out = [0.0_f64; 2];
/// polyglot_bridge::log_softmax(&[5.0, 5.0], &mut out)?;
/// assert!((out[0] + 2.0_f64.ln()).abs() < 1e-15);
/// # Ok::<(), polyglot_bridge::ShapeError>(())
/// ```
pub fn log_softmax<'a, 'b, T: Float>(
    x: impl Into<Matrix<'a, T>>,
    out: impl Into<MatrixMut<'b, T>>,
) -> Result<(), ShapeError> {
    LogSoftmaxRows::run(InOutMatrix::new("log_softmax", x.into(), out.into())?);
    Ok(())
}

/// [`log_softmax`], over its input.
///
/// # Errors
///
/// None today; the type leaves room for one.
///
/// # Examples
///
/// ```
/// let mut row = [3.0_f64];
/// polyglot_bridge::log_softmax_in_place(&mut row)?;
/// assert_eq!(row, [0.0]);
/// # Ok::<(), polyglot_bridge::ShapeError>(())
/// ```
pub fn log_softmax_in_place<'a, T: Float>(x: impl Into<MatrixMut<'a, T>>) -> Result<(), ShapeError> {
    LogSoftmaxRows::run(InOutMatrix::in_place(x.into()));
    Ok(())
}

kernel!(SoftmaxRows<T>(io: InOutMatrix<'a, T>) = softmax_rows);
kernel!(LogSoftmaxRows<T>(io: InOutMatrix<'a, T>) = log_softmax_rows);

fn softmax_rows<T: Float>(io: InOutMatrix<'_, T>) {
    let level = simd::level();
    let (bytes, _) = io.buffer_bytes();
    // Where it is missing the results are the same, and take longer.
    let workspace = || if bytes > 0 { Workspace::hold(bytes).ok() } else { None };
    parallel::for_each_rows_with(
        io,
        COST,
        &mut workspace(),
        || Some(workspace()),
        |workspace, _, mut block| {
            let mut buffer = RowBuffer::new(workspace.as_mut().map_or(&mut [], Workspace::lines));
            dispatch!(level, simd => {
                block.for_each_row(lane_fn!(|_, row| softmax_row(simd, row, &mut buffer)));
            });
        },
    );
}

fn log_softmax_rows<T: Float>(io: InOutMatrix<'_, T>) {
    let level = simd::level();
    parallel::for_each_rows(io, COST, |_, mut block| {
        dispatch!(level, simd => block.for_each_row(lane_fn!(|_, row| log_softmax_row(simd, row))));
    });
}

#[inline(always)]
fn softmax_row<S: Simd, T: Float>(simd: S, row: InOut<'_, T>, buffer: &mut RowBuffer<'_, T::Acc>) {
    let one = T::Acc::from_f64(1.0);
    let max = max::<S, T>(simd, row.row());
    match buffer.split(row) {
        SplitRow::Buffered { mut widened, mut narrowing } => {
            let sum = widened.map_sum(simd, lane_fn!(|x| exp_below::<S, T, _>(simd, x, max)));
            let scale = one / sum.reduce_sum();
            narrowing.map::<S, T, 0>(simd, [], lane_fn!(|e, []| e * scale));
        }
        SplitRow::TooLong(mut row) => {
            let scale = one / sum_of_exp::<S, T>(simd, row.row(), max);
            row.map_unrolled(
                simd,
                lane_fn!(|x| {
                    let mut e = exp_below::<S, T, _>(simd, x, max);
                    for part in 0..e.len() {
                        e[part] *= scale;
                    }
                    e
                }),
            );
        }
    }
}

#[inline(always)]
fn log_softmax_row<S: Simd, T: Float>(simd: S, mut row: InOut<'_, T>) {
    let max = max::<S, T>(simd, row.row());
    let sum = sum_of_exp::<S, T>(simd, row.row(), max);
    let log = math::ln::<S, T::Acc>(simd, Lanes::<S, T>::splat(simd, sum * T::Acc::TINY));
    row.map::<S, T, 0>(simd, [], lane_fn!(|x, []| (x - max) - log));
}

/// The largest element. Any value where one is NaN: the sum is NaN then, whatever is subtracted first.
#[inline(always)]
fn max<S: Simd, T: Float>(simd: S, row: Row<'_, T>) -> T::Acc {
    let least = T::Acc::neg_infinity();
    row.fold_exact(
        simd,
        least,
        Lanes::<S, T>::splat(simd, least),
        lane_fn!(|x| x),
        lane_fn!(|a: Lanes<S, T>, b| simd::larger::<S, T::Acc>(simd, a, b)),
    )
    .reduce_max()
}

/// e^(x - max), times a factor that is common to all.
#[inline(always)]
fn exp_below<S: Simd, T: Float, const N: usize>(simd: S, mut x: [Lanes<S, T>; N], max: T::Acc) -> [Lanes<S, T>; N] {
    for part in 0..N {
        x[part] -= max;
    }
    math::wide::raised_exp(Unrolled::<S, T::Acc, N>::new(simd, x)).lanes()
}

#[inline(always)]
fn sum_of_exp<S: Simd, T: Float>(simd: S, row: Row<'_, T>, max: T::Acc) -> T::Acc {
    row.sum_unrolled(simd, T::Acc::neg_infinity(), lane_fn!(|x| exp_below::<S, T, _>(simd, x, max))).reduce_sum()
}

//! Layer norm and RMS norm of each row, with optional weight and bias, and the care that keeps their statistics right
//! for rows whose mean is far above their spread and for rows near the ends of the number range.

use fearless_simd::{Simd, SimdBase, SimdFloat};
use num_traits::Float as _;

use crate::error::{Error, ShapeError};
use crate::float::{Compute, Float, Lanes};
use crate::kernel::kernel;
use crate::macros::lane_fn;
use crate::parallel;
use crate::simd::{self, dispatch};
use crate::view::{InOut, InOutMatrix, Matrix, MatrixMut, Row, RowBuffer, SplitRow};
use crate::workspace::Workspace;

/// What one element costs on one core, in nanoseconds.
const COST: f32 = 0.2;
/// What adding one element costs.
const ADD_COST: f32 = 0.05;

/// Writes (x - mean) / sqrt(variance + eps) * weight + bias to `out`, mean and variance being those of the row.
///
/// `x` and `out` have the same shape, `weight` and `bias` one element a column; a slice is one row. The variance is the
/// mean of squared differences from the mean (Ba, Kiros and Hinton, Layer Normalization, 2016). A row of equal values
/// becomes exactly the bias, whatever `eps` is; a row that holds a NaN or an infinity becomes NaN; statistics that
/// would overflow or vanish are taken of the row times a power of two.
///
/// # Errors
///
/// [`ShapeError`] where the shapes of `x` and `out` differ, or `weight` or `bias` have another length than a row.
///
/// # Examples
///
/// ```
/// let mut out = [0.0_f32; 2];
/// polyglot_bridge::layer_norm(&[1.0, 3.0], Some(&[10.0, 10.0]), None, 0.0, &mut out)?;
/// assert_eq!(out, [-10.0, 10.0]);
/// # Ok::<(), polyglot_bridge::ShapeError>(())
/// ```
pub fn layer_norm<'a, 'b, T: Float>(
    x: impl Into<Matrix<'a, T>>,
    weight: Option<&[T]>,
    bias: Option<&[T]>,
    eps: T::Acc,
    out: impl Into<MatrixMut<'b, T>>,
) -> Result<(), ShapeError> {
    let io = InOutMatrix::new("layer_norm", x.into(), out.into())?;
    LayerNormRows::run(io, Affine { weight, bias }, eps)
}

/// [`layer_norm`], over its input.
///
/// # Errors
///
/// [`ShapeError`] where `weight` or `bias` have another length than a row.
///
/// # Examples
///
/// ```
/// let mut row = [7.0_f64, 7.0];
/// polyglot_bridge::layer_norm_in_place(&mut row, None, Some(&[1.0, 2.0]), 1e-5)?;
/// assert_eq!(row, [1.0, 2.0]);
/// # Ok::<(), polyglot_bridge::ShapeError>(())
/// ```
pub fn layer_norm_in_place<'a, T: Float>(
    x: impl Into<MatrixMut<'a, T>>,
    weight: Option<&[T]>,
    bias: Option<&[T]>,
    eps: T::Acc,
) -> Result<(), ShapeError> {
    LayerNormRows::run(InOutMatrix::in_place(x.into()), Affine { weight, bias }, eps)
}

/// [`layer_norm`] of x + residual, in one pass: what follows each part of a transformer.
///
/// The sum is not rounded, but for rows of 16-bit numbers so long (4096, without std 64) that there is no room for
/// them in the compute type.
///
/// # Errors
///
/// [`Error::Shape`] where the shapes of `x`, `residual` and `out` differ, or `weight` or `bias` have another length
/// than a row; [`Error::OutOfMemory`] where rows that are narrower than their compute type, and more than 8 KiB in it,
/// find no room. `out` is then as it was.
///
/// # Examples
///
/// ```
/// let mut out = [0.0_f32; 2];
/// polyglot_bridge::add_layer_norm(&[1.0, 2.0], &[0.0, 1.0], None, Some(&[5.0, 5.0]), 0.0, &mut out)?;
/// assert_eq!(out, [4.0, 6.0]);
/// # Ok::<(), polyglot_bridge::Error>(())
/// ```
pub fn add_layer_norm<'a, 'b, T: Float>(
    x: impl Into<Matrix<'a, T>>,
    residual: impl Into<Matrix<'a, T>>,
    weight: Option<&[T]>,
    bias: Option<&[T]>,
    eps: T::Acc,
    out: impl Into<MatrixMut<'b, T>>,
) -> Result<(), Error> {
    let io = InOutMatrix::new("add_layer_norm", x.into(), out.into())?;
    AddLayerNormRows::run(io, residual.into(), Affine { weight, bias }, eps)
}

/// [`add_layer_norm`], over its first input.
///
/// # Errors
///
/// As for [`add_layer_norm`].
///
/// # Examples
///
/// ```
/// let mut row = [1.0_f64, 2.0];
/// polyglot_bridge::add_layer_norm_in_place(&mut row, &[2.0, 1.0], None, Some(&[1.0, 2.0]), 1e-5)?;
/// assert_eq!(row, [1.0, 2.0]);
/// # Ok::<(), polyglot_bridge::Error>(())
/// ```
pub fn add_layer_norm_in_place<'a, T: Float>(
    x: impl Into<MatrixMut<'a, T>>,
    residual: impl Into<Matrix<'a, T>>,
    weight: Option<&[T]>,
    bias: Option<&[T]>,
    eps: T::Acc,
) -> Result<(), Error> {
    AddLayerNormRows::run(InOutMatrix::in_place(x.into()), residual.into(), Affine { weight, bias }, eps)
}

/// Writes x / sqrt(mean(x²) + eps) * weight to `out`, the mean being that of the row.
///
/// Shapes, NaN, infinities and extremes as for [`layer_norm`]; a row of zeros stays zero, whatever `eps` is (Zhang and
/// Sennrich, Root Mean Square Layer Normalization, 2019).
///
/// # Errors
///
/// [`ShapeError`] where the shapes of `x` and `out` differ, or `weight` has another length than a row.
///
/// # Examples
///
/// ```
/// let mut out = [0.0_f32; 2];
/// polyglot_bridge::rms_norm(&[1e20, -1e20], None, 1e-6, &mut out)?;
/// assert_eq!(out, [1.0, -1.0]);
/// # Ok::<(), polyglot_bridge::ShapeError>(())
/// ```
pub fn rms_norm<'a, 'b, T: Float>(
    x: impl Into<Matrix<'a, T>>,
    weight: Option<&[T]>,
    eps: T::Acc,
    out: impl Into<MatrixMut<'b, T>>,
) -> Result<(), ShapeError> {
    let io = InOutMatrix::new("rms_norm", x.into(), out.into())?;
    RmsNormRows::run(io, Affine { weight, bias: None }, eps, T::Acc::from_f64(1.0))
}

/// [`rms_norm`], over its input.
///
/// # Errors
///
/// [`ShapeError`] where `weight` has another length than a row.
///
/// # Examples
///
/// ```
/// let mut row = [3.0_f64, 3.0];
/// polyglot_bridge::rms_norm_in_place(&mut row, None, 0.0)?;
/// assert_eq!(row, [1.0, 1.0]);
/// # Ok::<(), polyglot_bridge::ShapeError>(())
/// ```
pub fn rms_norm_in_place<'a, T: Float>(
    x: impl Into<MatrixMut<'a, T>>,
    weight: Option<&[T]>,
    eps: T::Acc,
) -> Result<(), ShapeError> {
    RmsNormRows::run(InOutMatrix::in_place(x.into()), Affine { weight, bias: None }, eps, T::Acc::from_f64(1.0))
}

/// Scales each row of `x` to length 1: x / sqrt(sum(x²)).
///
/// NaN, infinities and extremes as for [`rms_norm`]; a row of zeros stays zero.
///
/// # Errors
///
/// [`ShapeError`] where the shapes of `x` and `out` differ.
///
/// # Examples
///
/// ```
/// let mut out = [0.0_f32; 2];
/// polyglot_bridge::l2_normalize(&[3.0, 4.0], &mut out)?;
/// assert_eq!(out, [0.6, 0.8]);
/// # Ok::<(), polyglot_bridge::ShapeError>(())
/// ```
pub fn l2_normalize<'a, 'b, T: Float>(
    x: impl Into<Matrix<'a, T>>,
    out: impl Into<MatrixMut<'b, T>>,
) -> Result<(), ShapeError> {
    l2_normalize_rows(InOutMatrix::new("l2_normalize", x.into(), out.into())?)
}

/// [`l2_normalize`], over its input.
///
/// # Errors
///
/// None today; the type leaves room for one.
///
/// # Examples
///
/// ```
/// let mut row = [0.0_f64, -2e200];
/// polyglot_bridge::l2_normalize_in_place(&mut row)?;
/// assert!(row[0] == 0.0 && (row[1] + 1.0).abs() < 1e-15);
/// # Ok::<(), polyglot_bridge::ShapeError>(())
/// ```
pub fn l2_normalize_in_place<'a, T: Float>(x: impl Into<MatrixMut<'a, T>>) -> Result<(), ShapeError> {
    l2_normalize_rows(InOutMatrix::in_place(x.into()))
}

/// What is done to a row after it was normalised: times `weight`, plus `bias`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Affine<'a, T> {
    weight: Option<&'a [T]>,
    bias: Option<&'a [T]>,
}

impl<T: Float> Affine<'_, T> {
    fn check(&self, op: &'static str, cols: usize) -> Result<(), ShapeError> {
        for (operand, values) in [("weight", self.weight), ("bias", self.bias)] {
            ShapeError::check(op, operand, (1, values.map_or(cols, <[T]>::len)), (1, cols))?;
        }
        Ok(())
    }

    #[inline(always)]
    fn write<S: Simd, X: Float<Acc = T::Acc>>(
        self,
        simd: S,
        row: &mut InOut<'_, X, T>,
        normalise: impl Fn(Lanes<S, T>) -> Lanes<S, T>,
    ) {
        match (self.weight, self.bias) {
            (None, None) => row.map::<S, T, 0>(simd, [], lane_fn!(|x, []| normalise(x))),
            (Some(weight), None) => row.map(simd, [weight], lane_fn!(|x, [weight]| normalise(x) * weight)),
            (None, Some(bias)) => row.map(simd, [bias], lane_fn!(|x, [bias]| normalise(x) + bias)),
            (Some(weight), Some(bias)) => {
                row.map(simd, [weight, bias], lane_fn!(|x, [weight, bias]| normalise(x).mul_add(weight, bias)));
            }
        }
    }
}

kernel!(LayerNormRows<T>(io: InOutMatrix<'a, T>, affine: Affine<'a, T>, eps: T::Acc) -> Result<(), ShapeError> = layer_norm_rows);
kernel!(AddLayerNormRows<T>(io: InOutMatrix<'a, T>, residual: Matrix<'a, T>, affine: Affine<'a, T>, eps: T::Acc) -> Result<(), Error> = add_layer_norm_rows);
kernel!(RmsNormRows<T>(io: InOutMatrix<'a, T>, affine: Affine<'a, T>, eps: T::Acc, times: T::Acc) -> Result<(), ShapeError> = rms_norm_rows);

fn layer_norm_rows<T: Float>(io: InOutMatrix<'_, T>, affine: Affine<'_, T>, eps: T::Acc) -> Result<(), ShapeError> {
    affine.check("layer_norm", io.shape().1)?;
    let level = simd::level();
    parallel::for_each_rows(io, COST, |_, mut block| {
        dispatch!(level, simd => {
            block.for_each_row(lane_fn!(|_, row| layer_norm_row(simd, row, affine, eps)));
        });
    });
    Ok(())
}

fn add_layer_norm_rows<T: Float>(
    io: InOutMatrix<'_, T>,
    residual: Matrix<'_, T>,
    affine: Affine<'_, T>,
    eps: T::Acc,
) -> Result<(), Error> {
    const OP: &str = "add_layer_norm";
    ShapeError::check(OP, "residual", residual.shape(), io.shape())?;
    affine.check(OP, io.shape().1)?;
    let level = simd::level();
    let (bytes, is_needed) = io.buffer_bytes();
    let workspace = || match (bytes > 0).then(|| Workspace::hold(bytes)).transpose() {
        Err(_) if !is_needed => Ok(None),
        result => result,
    };
    parallel::for_each_rows_with(
        io,
        COST + ADD_COST,
        &mut workspace()?,
        || workspace().ok(),
        |workspace, rows, mut block| {
            let mut buffer = RowBuffer::new(workspace.as_mut().map_or(&mut [], Workspace::lines));
            dispatch!(level, simd => {
                block.for_each_row(
                    lane_fn!(|row, io| match buffer.split(io) {
                        SplitRow::Buffered { widened, narrowing } => {
                            add::<_, T, T::Acc>(simd, widened, residual, rows.start + row);
                            layer_norm_row(simd, narrowing, affine, eps);
                        }
                        SplitRow::TooLong(mut io) => {
                            add::<_, T, T>(simd, io.part(0..usize::MAX), residual, rows.start + row);
                            layer_norm_row(simd, io.in_place(), affine, eps);
                        }
                    }),
                );
            });
        },
    );
    Ok(())
}

/// Adds a row of `residual` to what is read.
#[inline(always)]
fn add<S: Simd, T: Float, U: Float<Acc = T::Acc>>(
    simd: S,
    mut row: InOut<'_, T, U>,
    residual: Matrix<'_, T>,
    index: usize,
) {
    let mut copy = [T::ZERO; 64];
    let mut start = 0;
    while start < residual.cols() {
        let part = residual.load_strided(index, start, &mut copy);
        let end = start + part.len().max(1);
        row.part(start..end).map(simd, [part], lane_fn!(|x, [residual]| x + residual));
        start = end;
    }
}

/// The length of a row is the root of its mean square times its count.
fn l2_normalize_rows<T: Float>(io: InOutMatrix<'_, T>) -> Result<(), ShapeError> {
    let count = T::Acc::from_count(io.shape().1);
    RmsNormRows::run(io, Affine { weight: None, bias: None }, T::Acc::from_f64(0.0), count)
}

fn rms_norm_rows<T: Float>(
    io: InOutMatrix<'_, T>,
    affine: Affine<'_, T>,
    eps: T::Acc,
    times: T::Acc,
) -> Result<(), ShapeError> {
    affine.check("rms_norm", io.shape().1)?;
    let level = simd::level();
    parallel::for_each_rows(io, COST, |_, mut block| {
        dispatch!(level, simd => {
            block.for_each_row(lane_fn!(|_, row| rms_norm_row(simd, row, affine, eps, times)));
        });
    });
    Ok(())
}

#[inline(always)]
fn layer_norm_row<S: Simd, X: Float<Acc = T::Acc>, T: Float>(
    simd: S,
    mut row: InOut<'_, X, T>,
    affine: Affine<'_, T>,
    eps: T::Acc,
) {
    if simd::HAS_VECTORS {
        layer_norm_row_of_any_size(simd, &mut row, affine, eps);
    } else if !layer_norm_row_in_few_passes(simd, &mut row, affine, eps) {
        layer_norm_row_apart(simd, &mut row, affine, eps);
    }
}

/// Normalises a row with few passes over it, for CPUs on which a pass takes as long as its arithmetic. Nothing is
/// written and false returned where the row needs to be scaled for that.
#[inline(always)]
fn layer_norm_row_in_few_passes<S: Simd, X: Float<Acc = T::Acc>, T: Float>(
    simd: S,
    row: &mut InOut<'_, X, T>,
    affine: Affine<'_, T>,
    eps: T::Acc,
) -> bool {
    let moments = Moments::in_few_passes::<S, X, false>(simd, row.row(), T::Acc::from_f64(1.0));
    let Moments { center, shift, variance, .. } = moments;
    if !(shift * shift <= variance && is_safe(variance, eps) && moments.has_center()) {
        return false;
    }
    let factor = reciprocal_root(variance, eps);
    let centers = Lanes::<S, T>::splat(simd, center);
    let factors = Lanes::<S, T>::splat(simd, factor);
    let offsets = Lanes::<S, T>::splat(simd, -shift * factor);
    affine.write(simd, row, lane_fn!(|x| (x - centers).mul_add(factors, offsets)));
    true
}

/// The same for a row that has to be scaled. Few rows have, so it is written element by element: as vectors the four
/// ways to write would take more flash than all the rest.
#[cold]
#[inline(never)]
fn layer_norm_row_apart<S: Simd, X: Float<Acc = T::Acc>, T: Float>(
    simd: S,
    row: &mut InOut<'_, X, T>,
    affine: Affine<'_, T>,
    eps: T::Acc,
) {
    let scale = rescale::<S, X>(simd, row.row(), eps);
    let Moments { center, shift, variance, .. } = Moments::in_few_passes::<S, X, true>(simd, row.row(), scale);
    let factor = reciprocal_root(variance, eps * scale * scale);
    let offset = -shift * factor;
    // Times one and plus -0 every number stays as it is.
    let (one, nothing) = (T::Acc::from_f64(1.0), T::Acc::from_f64(-0.0));
    row.map_one_by_one(lane_fn!(|x, col| {
        let value = |values: Option<&[T]>, other| values.and_then(|v| v.get(col)).map_or(other, |v| v.to_acc());
        let normal = (x * scale - center) * factor + offset;
        normal * value(affine.weight, one) + value(affine.bias, nothing)
    }));
}

#[inline(always)]
fn layer_norm_row_of_any_size<S: Simd, X: Float<Acc = T::Acc>, T: Float>(
    simd: S,
    row: &mut InOut<'_, X, T>,
    affine: Affine<'_, T>,
    eps: T::Acc,
) {
    let Moments { scale, center, shift, variance } = Moments::of::<S, X>(simd, row.row(), eps);
    let factor = reciprocal_root(variance, eps * scale * scale);
    let scales = Lanes::<S, T>::splat(simd, scale);
    let centers = Lanes::<S, T>::splat(simd, center);
    let factors = Lanes::<S, T>::splat(simd, factor);
    let offsets = Lanes::<S, T>::splat(simd, -shift * factor);
    affine.write(simd, row, lane_fn!(|x| x.mul_sub(scales, centers).mul_add(factors, offsets)));
}

/// The row divided by the root of `times` its mean square.
#[inline(always)]
fn rms_norm_row<S: Simd, T: Float>(simd: S, mut row: InOut<'_, T>, affine: Affine<'_, T>, eps: T::Acc, times: T::Acc) {
    let one = T::Acc::from_f64(1.0);
    let mut scale = one;
    let square = loop {
        let square = mean_square::<S, T>(simd, row.row(), scale) * times;
        if scale != one || is_safe(square, eps) {
            break square;
        }
        scale = rescale::<S, T>(simd, row.row(), eps);
        if scale == one {
            break square;
        }
    };
    let factor = reciprocal_root(square, eps * scale * scale);
    affine.write(simd, &mut row, lane_fn!(|x| x * scale * factor));
}

/// Mean and variance of a row times a power of two, `scale`; the mean in two parts: `center`, which is near it, and
/// `shift`, the mean of what is left when `center` is taken away.
#[derive(Clone, Copy, Debug)]
struct Moments<C> {
    scale: C,
    center: C,
    shift: C,
    variance: C,
}

impl<C: Compute> Moments<C> {
    #[inline(always)]
    fn of<S: Simd, T: Float<Acc = C>>(simd: S, row: Row<'_, T>, eps: C) -> Self {
        let (zero, one) = (C::from_f64(0.0), C::from_f64(1.0));
        let zeros = C::Lanes::<S>::splat(simd, zero);
        let count = C::from_count(row.len());
        let mut scale = one;
        loop {
            let sum = row.fold(simd, zero, zeros, lane_fn!(|x| x * scale), lane_fn!(|a, b| a + b));
            let mut center = sum.reduce_sum() / count;
            let mut is_second = false;
            let moments = loop {
                let moments = Self::around::<S, T, true>(simd, row, scale, center);
                // Where what is left is large beside the spread, the first mean was too far off, as rounding makes it
                // for long rows of nearly equal values. The second is at most half a unit in the last place away.
                let is_near = moments.shift * moments.shift * C::from_f64(16.0) <= moments.variance;
                if is_second || is_near {
                    break moments;
                }
                center = moments.center + moments.shift;
                is_second = true;
            };
            if scale != one || is_safe(moments.variance, eps) && moments.has_center() {
                return moments;
            }
            scale = rescale::<S, T>(simd, row, eps);
            if scale == one {
                return moments;
            }
        }
    }

    /// With a guess for the first center, where each pass over a row shows. `SCALED` as in [`around`](Moments::around).
    #[inline(always)]
    fn in_few_passes<S: Simd, T: Float<Acc = C>, const SCALED: bool>(simd: S, row: Row<'_, T>, scale: C) -> Self {
        let mut center = row.sampled_mean(scale);
        let mut passes = 0;
        loop {
            let moments = Self::around::<S, T, SCALED>(simd, row, scale, center);
            passes += 1;
            // Where the guess was unlike the row, each pass comes nearer.
            if moments.shift * moments.shift <= moments.variance || passes == 4 {
                return moments;
            }
            center = moments.center + moments.shift;
        }
    }

    /// Whether the center has all its digits, or the spread is so large that it needs none.
    #[inline(always)]
    fn has_center(&self) -> bool {
        let least = C::min_positive_value() / C::epsilon();
        self.variance >= least || self.center.abs() >= least
    }

    /// With `SCALED` the row is multiplied by `scale`; without, `scale` is one.
    #[inline(always)]
    fn around<S: Simd, T: Float<Acc = C>, const SCALED: bool>(simd: S, row: Row<'_, T>, scale: C, center: C) -> Self {
        let zero = C::from_f64(0.0);
        let zeros = C::Lanes::<S>::splat(simd, zero);
        let count = C::from_count(row.len());
        // What lanes past the end read as must be the center exactly, so that nothing is left of them: where the row is
        // subnormal, that has fewer digits. The shift makes up for it.
        let fill = center / scale;
        let center = fill * scale;
        let scales = C::Lanes::<S>::splat(simd, scale);
        let centers = C::Lanes::<S>::splat(simd, center);
        let (sum, squares) = row.fold_ahead(
            simd,
            fill,
            (zeros, zeros),
            lane_fn!(|x| {
                let rest = if SCALED { x.mul_sub(scales, centers) } else { x - centers };
                (rest, rest * rest)
            }),
            lane_fn!(|a, b| (a.0 + b.0, a.1 + b.1)),
        );
        let shift = sum.reduce_sum() / count;
        let variance = squares.reduce_sum() / count - shift * shift;
        // Rounding may leave less than nothing, and a NaN must stay one.
        Self { scale, center, shift, variance: if variance < zero { zero } else { variance } }
    }
}

/// The mean of (x * scale)².
#[inline(always)]
fn mean_square<S: Simd, T: Float>(simd: S, row: Row<'_, T>, scale: T::Acc) -> T::Acc {
    let zero = T::Acc::from_f64(0.0);
    row.fold_ahead(
        simd,
        zero,
        Lanes::<S, T>::splat(simd, zero),
        lane_fn!(|x| {
            let x = x * scale;
            x * x
        }),
        lane_fn!(|a, b| a + b),
    )
    .reduce_sum()
        / T::Acc::from_count(row.len())
}

/// Whether a mean of squares lost nothing that shows: it did not overflow, and what may have vanished from it is small
/// beside it or beside `eps`.
#[inline(always)]
fn is_safe<C: Compute>(mean: C, eps: C) -> bool {
    let least = C::min_positive_value() / (C::epsilon() * C::epsilon());
    mean + eps >= least && mean < C::infinity()
}

/// The power of two that brings the largest magnitude of a row near 1; NaN where the row is not finite, which makes
/// all that is computed with it NaN.
#[inline(always)]
fn rescale<S: Simd, T: Float>(simd: S, row: Row<'_, T>, eps: T::Acc) -> T::Acc {
    let zero = T::Acc::from_f64(0.0);
    if !simd::HAS_VECTORS {
        let (mut max, mut poison) = (zero, zero);
        row.for_each(lane_fn!(|x| {
            let magnitude = num_traits::Float::abs(x);
            max = if magnitude > max { magnitude } else { max };
            poison += x * zero;
        }));
        return if poison.is_nan() { poison } else { inverse_power(max, eps) };
    }
    let zeros = Lanes::<S, T>::splat(simd, zero);
    let (max, poison) = row.fold(
        simd,
        zero,
        (zeros, zeros),
        lane_fn!(|x| (x.abs(), x * zero)),
        lane_fn!(|a, b| (a.0.max(b.0), a.1 + b.1)),
    );
    // Zero times infinity, or times a NaN, is NaN, and so is what it is added to.
    let poison = poison.reduce_sum();
    if poison.is_nan() { poison } else { inverse_power(max.reduce_max(), eps) }
}

/// The power of two that brings `max` into 2..4, or as near as a normal number can and `eps` times its square allows.
#[inline(never)]
fn inverse_power<C: Compute>(max: C, eps: C) -> C {
    let (two, half) = (C::from_f64(2.0), C::from_f64(0.5));
    let (least, most) = (C::min_positive_value(), C::from_f64(0.25) / C::min_positive_value());
    let mut power = C::from_f64(1.0);
    if max > C::from_f64(0.0) {
        while max * power >= C::from_f64(4.0) && power > least {
            power *= half;
        }
        while max * power < two && power < most && eps * power * power < two {
            power *= two;
        }
    }
    power
}

/// 1 / sqrt(mean + eps), and 0 for 0: what is multiplied by it is 0 itself then.
#[inline(always)]
fn reciprocal_root<C: Compute>(mean: C, eps: C) -> C {
    let sum = mean + eps;
    if sum == C::from_f64(0.0) { sum } else { C::from_f64(1.0) / num_traits::Float::sqrt(sum) }
}

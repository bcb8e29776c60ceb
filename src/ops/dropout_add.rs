//! Dropout with a mask that the caller drew, and the residual that is added to it, in one pass.

use fearless_simd::{Select, Simd, SimdBase, SimdFloat};

use crate::error::ShapeError;
use crate::float::{Compute, Float, Lanes};
use crate::kernel::kernel;
use crate::macros::lane_fn;
use crate::parallel;
use crate::simd::{self, dispatch};
use crate::view::{InOut, InOutMatrix, Matrix, MatrixMut};

/// What one element costs on one core, in nanoseconds, where nothing but memory is waited for.
const COST: f32 = 0.15;

/// Which elements [`dropout_add`] keeps.
///
/// # Examples
///
/// ```
/// use polyglot_bridge::Mask;
///
/// let keep = Mask::<f32>::from(&[true, false]);
/// let weigh = Mask::Multiply((&[0.5_f32, 2.0]).into());
/// # let _ = (keep, weigh);
/// ```
#[derive(Clone, Copy, Debug)]
pub enum Mask<'a, T> {
    /// Keeps an element where the byte is not 0; elsewhere drops it, were it NaN or infinite.
    Select(Matrix<'a, u8>),
    /// Multiplies each element, so a NaN under a 0 stays NaN.
    Multiply(Matrix<'a, T>),
}

impl<'a, T> From<Matrix<'a, bool>> for Mask<'a, T> {
    fn from(mask: Matrix<'a, bool>) -> Self {
        Self::Select(mask.to_bytes())
    }
}

impl<'a, T> From<&'a [bool]> for Mask<'a, T> {
    fn from(mask: &'a [bool]) -> Self {
        Matrix::from(mask).into()
    }
}

impl<'a, T, const N: usize> From<&'a [bool; N]> for Mask<'a, T> {
    fn from(mask: &'a [bool; N]) -> Self {
        Matrix::from(mask).into()
    }
}

/// Writes x * mask * scale + residual to `out`: dropout, as its mask has it, and a residual connection (Srivastava et
/// al., Dropout, 2014; He et al., Deep Residual Learning, 2015).
///
/// All operands have the shape of `x`.
///
/// # Errors
///
/// [`ShapeError`] where a shape differs from that of `x`.
///
/// # Examples
///
/// ```
/// use polyglot_bridge::{dropout_add, Mask};
///
/// let mut out = [0.0_f32; 2];
/// dropout_add(&[3.0, f32::NAN], &[1.0, 1.0], Mask::from(&[true, false]), 2.0, &mut out)?;
/// assert_eq!(out, [7.0, 1.0]);
/// # Ok::<(), polyglot_bridge::ShapeError>(())
/// ```
pub fn dropout_add<'a, 'b, 'c, T: Float>(
    x: impl Into<Matrix<'a, T>>,
    residual: impl Into<Matrix<'b, T>>,
    mask: Mask<'b, T>,
    scale: T::Acc,
    out: impl Into<MatrixMut<'c, T>>,
) -> Result<(), ShapeError> {
    DropoutElements::run(InOutMatrix::new("dropout_add", x.into(), out.into())?, residual.into(), mask, scale)
}

/// [`dropout_add`], over its input.
///
/// # Errors
///
/// [`ShapeError`] where a shape differs from that of `x`.
///
/// # Examples
///
/// ```
/// use polyglot_bridge::{dropout_add_in_place, Mask};
///
/// let mut x = [3.0_f64, 5.0];
/// dropout_add_in_place(&mut x, &[1.0, 1.0], Mask::Multiply((&[1.0, 0.0]).into()), 2.0)?;
/// assert_eq!(x, [7.0, 1.0]);
/// # Ok::<(), polyglot_bridge::ShapeError>(())
/// ```
pub fn dropout_add_in_place<'a, 'b, T: Float>(
    x: impl Into<MatrixMut<'a, T>>,
    residual: impl Into<Matrix<'b, T>>,
    mask: Mask<'b, T>,
    scale: T::Acc,
) -> Result<(), ShapeError> {
    DropoutElements::run(InOutMatrix::in_place(x.into()), residual.into(), mask, scale)
}

kernel!(DropoutElements<T>(io: InOutMatrix<'a, T>, residual: Matrix<'a, T>, mask: Mask<'a, T>, scale: T::Acc) -> Result<(), ShapeError> = dropout_elements);

fn dropout_elements<T: Float>(
    io: InOutMatrix<'_, T>,
    residual: Matrix<'_, T>,
    mask: Mask<'_, T>,
    scale: T::Acc,
) -> Result<(), ShapeError> {
    const OP: &str = "dropout_add";
    ShapeError::check(OP, "residual", residual.shape(), io.shape())?;
    match mask {
        Mask::Select(mask) => {
            ShapeError::check(OP, "mask", mask.shape(), io.shape())?;
            elements::<T, _, true>(io, residual, mask.to_flags(), scale);
        }
        Mask::Multiply(mask) => {
            ShapeError::check(OP, "mask", mask.shape(), io.shape())?;
            elements::<T, _, false>(io, residual, mask, scale);
        }
    }
    Ok(())
}

fn elements<T: Float, M: Float<Acc = T::Acc>, const SELECT: bool>(
    io: InOutMatrix<'_, T>,
    residual: Matrix<'_, T>,
    mask: Matrix<'_, M>,
    scale: T::Acc,
) {
    let level = simd::level();
    let run = |first_row: usize,
               first_col: usize,
               mut block: InOutMatrix<'_, T>,
               residual: Matrix<'_, T>,
               mask: Matrix<'_, M>| {
        dispatch!(level, simd => {
            block_elements::<_, T, M, SELECT>(simd, (first_row, first_col), &mut block, residual, mask, scale);
        });
    };
    match (residual.flat(), mask.flat()) {
        (Some(residual), Some(mask)) if io.is_dense() => {
            parallel::for_each_elements(io, COST, |rows, cols, block| {
                run(rows.start, cols.start, block, residual, mask);
            });
        }
        _ => parallel::for_each_rows(io, COST, |rows, block| run(rows.start, 0, block, residual, mask)),
    }
}

/// `block` begins at element `first` of the other operands.
#[inline(always)]
fn block_elements<S: Simd, T: Float, M: Float<Acc = T::Acc>, const SELECT: bool>(
    simd: S,
    first: (usize, usize),
    block: &mut InOutMatrix<'_, T>,
    residual: Matrix<'_, T>,
    mask: Matrix<'_, M>,
    scale: T::Acc,
) {
    /// Columns that are gathered at a time where the elements of a row do not lie side by side.
    const WIDTH: usize = 256;
    let (mut residuals, mut masks) = ([T::ZERO; WIDTH], [M::ZERO; WIDTH]);
    let cols = block.shape().1;
    let contiguous = residual.has_contiguous_rows() && mask.has_contiguous_rows();
    let width = if contiguous { cols.max(1) } else { WIDTH };
    for start in (0..cols).step_by(width) {
        block.columns(start..start + width).for_each_row(lane_fn!(|row, io| {
            let place = (first.0 + row, first.1 + start);
            let residual = residual.load_strided(place.0, place.1, &mut residuals);
            let mask = mask.load_strided(place.0, place.1, &mut masks);
            dropout_row::<S, T, M, SELECT>(simd, io, residual, mask, scale);
        }));
    }
}

#[inline(always)]
fn dropout_row<S: Simd, T: Float, M: Float<Acc = T::Acc>, const SELECT: bool>(
    simd: S,
    mut row: InOut<'_, T>,
    residual: &[T],
    mask: &[M],
    scale: T::Acc,
) {
    let scales = Lanes::<S, T>::splat(simd, scale);
    let zeros = Lanes::<S, T>::splat(simd, T::Acc::from_f64(0.0));
    row.zip_map(
        simd,
        (residual, mask),
        lane_fn!(|x, (residual, mask)| {
            if SELECT {
                mask.simd_ne(zeros).select(x.mul_add(scales, residual), residual)
            } else {
                (x * mask).mul_add(scales, residual)
            }
        }),
    );
}

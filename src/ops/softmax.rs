//! Softmax and log-softmax over rows.

use fearless_simd::{Simd, SimdBase};

use crate::error::ShapeError;
use crate::float::{Float, Lanes};
use crate::parallel;
use crate::simd::{self, dispatch};
use crate::view::{InOut, InOutMatrix, Matrix, MatrixMut};

/// placeholder
pub fn softmax<'a, T: Float>(x: impl Into<Matrix<'a, T>>, out: impl Into<MatrixMut<'a, T>>) -> Result<(), ShapeError> {
    run(InOutMatrix::new("softmax", x.into(), out.into())?);
    Ok(())
}

/// placeholder
pub fn softmax_in_place<'a, T: Float>(x: impl Into<MatrixMut<'a, T>>) -> Result<(), ShapeError> {
    run(InOutMatrix::in_place(x.into()));
    Ok(())
}

fn run<T: Float>(io: InOutMatrix<'_, T>) {
    let level = simd::level();
    parallel::for_each_rows(io, 1.0, |_, mut block| {
        dispatch!(level, simd => block.for_each_row(#[inline(always)] |_, row| softmax_row(simd, row)));
    });
}

#[inline(always)]
fn softmax_row<S: Simd, T: Float>(simd: S, mut row: InOut<'_, T>) {
    use num_traits::{Float as _, Zero};
    let max = row.fold::<S, _, 4>(
        simd,
        <T::Acc as num_traits::Float>::neg_infinity(),
        Lanes::<S, T>::splat(simd, T::Acc::neg_infinity()),
        #[inline(always)]
        |a, x| a.max(x),
    );
    let m = max[0].max(max[1]).max(max[2].max(max[3])).reduce_max();
    let _ = T::Acc::zero();
    row.map::<S, T, 0>(
        simd,
        [],
        #[inline(always)]
        |x, []| x - m,
    );
}

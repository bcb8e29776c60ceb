//! The matrix product without an epilogue, single and in batches: shapes are checked here, the work is done in `gemm`.

use crate::error::ShapeError;
use crate::float::Float;
use crate::gemm::driver::Multiply;
use crate::gemm::problem::{self, Bias, Finish, Product, Residual, Weight};
use crate::math::activation::Activation;
use crate::parallel;
use crate::view::{Matrix, MatrixMut};

/// `out = a @ b`, for a of shape (m, k), b of shape (k, n) and out of shape (m, n).
///
/// The order of additions and the error bound are those of [`linear`](crate::linear).
///
/// # Errors
///
/// [`ShapeError`] where the shapes do not fit; `out` is then as it was.
///
/// # Examples
///
/// ```
/// use polyglot_bridge::{matmul, Matrix, MatrixMut};
///
/// let a = Matrix::new(&[1.0_f64, 2.0, 3.0, 4.0], 2, 2)?;
/// let mut out = [0.0; 4];
/// matmul(a, a.transpose(), MatrixMut::new(&mut out, 2, 2)?)?;
/// assert_eq!(out, [5.0, 11.0, 11.0, 25.0]);
/// # Ok::<(), polyglot_bridge::ShapeError>(())
/// ```
pub fn matmul<'a, T: Float>(
    a: impl Into<Matrix<'a, T>>,
    b: impl Into<Matrix<'a, T>>,
    out: impl Into<MatrixMut<'a, T>>,
) -> Result<(), ShapeError> {
    let out = out.into();
    let product = product(a.into(), b.into(), &out)?;
    Multiply::run(product, out, true);
    Ok(())
}

/// `count` products: `item(i)` gives a, b and out of the i-th, as for [`matmul`]. It is called more than once for each
/// i, and from several threads; the outs must not overlap.
///
/// Small products go to the threads whole; large ones are computed one after the other, each on all threads.
///
/// # Errors
///
/// [`ShapeError`] where the shapes of a product do not fit; no `out` is then written.
pub fn matmul_batch<'a, T: Float>(
    count: usize,
    item: impl Fn(usize) -> (Matrix<'a, T>, Matrix<'a, T>, MatrixMut<'a, T>) + Sync,
) -> Result<(), ShapeError> {
    let mut work = 0;
    for index in 0..count {
        let (a, b, out) = item(index);
        product(a, b, &out)?;
        work = work.max(problem::work(&a, out.cols()));
    }
    let run = |index: usize, threads: bool| {
        let (a, b, out) = item(index);
        if let Ok(product) = product(a, b, &out) {
            Multiply::run(product, out, threads);
        }
    };
    if count == 1 || work > LARGE {
        (0..count).for_each(|index| run(index, true));
    } else {
        let nanoseconds = problem::nanoseconds::<T::Acc>(work);
        parallel::for_each_block(count, 1, nanoseconds, |items| items.for_each(|index| run(index, false)));
    }
    Ok(())
}

/// The multiply-adds from which a single product keeps all threads busy.
const LARGE: usize = 1 << 24;

fn product<'a, T: Float>(
    a: Matrix<'a, T>,
    b: Matrix<'a, T>,
    out: &MatrixMut<'_, T>,
) -> Result<Product<'a, T, T>, ShapeError> {
    let ((rows, k), (b_rows, cols)) = (a.shape(), b.shape());
    ShapeError::check("matmul", "b", (b_rows, cols), (k, cols))?;
    ShapeError::check("matmul", "out", out.shape(), (rows, cols))?;
    Ok(Product {
        x: a,
        weight: Weight::Matrix(b),
        finish: Finish {
            bias: Bias::None,
            residual: Residual::None,
            activation: Activation::None,
            #[cfg(not(feature = "std"))]
            code: crate::math::activation::code::of::<T::Acc>(Activation::None),
        },
    })
}

//! The matrix product without an epilogue, single and in batches: shapes are checked here, the work is done in `gemm`.

use crate::error::{Error, ShapeError};
use crate::float::Float;
use crate::gemm::partition::{Multiply, MultiplyIn, max_workspace};
use crate::gemm::problem::{self, Bias, FusedEpilogue, Product, Residual, Weight};
use crate::math::activation::Activation;
use crate::parallel;
use crate::view::{Matrix, MatrixMut};
use crate::workspace::{Missing, Workspace};

/// `out = a @ b`, for a of shape (m, k), b of shape (k, n) and out of shape (m, n).
///
/// The order of additions and the error bound are those of [`linear`](crate::linear).
///
/// # Errors
///
/// As for [`linear`](crate::linear).
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
/// # Ok::<(), polyglot_bridge::Error>(())
/// ```
pub fn matmul<'a, T: Float>(
    a: impl Into<Matrix<'a, T>>,
    b: impl Into<Matrix<'a, T>>,
    out: impl Into<MatrixMut<'a, T>>,
) -> Result<(), Error> {
    let out = out.into();
    let product = product(a.into(), b.into(), &out)?;
    Ok(Multiply::run(product, out)?)
}

/// `count` products: `item(i)` gives a, b and out of the i-th, as for [`matmul`]. It is called more than once for each
/// i, and from several threads; the outs must not overlap.
///
/// Small products go to the threads whole; large ones are computed one after the other, each on all threads.
///
/// # Errors
///
/// [`Error::Shape`] where the shapes of a product do not fit, [`Error::OutOfMemory`] where there is no room to lay
/// operands and sums out; no `out` is then written.
pub fn matmul_batch<'a, T: Float>(
    count: usize,
    item: impl Fn(usize) -> (Matrix<'a, T>, Matrix<'a, T>, MatrixMut<'a, T>) + Sync,
) -> Result<(), Error> {
    if count == 1 {
        let (a, b, out) = item(0);
        return matmul(a, b, out);
    }
    let (mut work, mut bytes, mut former) = (0, 0, None);
    for index in 0..count {
        let (a, b, out) = item(index);
        product(a, b, &out)?;
        // Most are alike.
        let sizes = (a.rows(), a.cols(), out.cols());
        if former != Some(sizes) {
            former = Some(sizes);
            work = work.max(problem::work(&a, out.cols()));
            bytes = bytes.max(max_workspace::<T::Acc>(sizes));
        }
    }
    // For all products, before the first is written.
    let mut workspace = Workspace::hold(bytes)?;
    let missing = Missing::default();
    let run = |workspace: &mut Workspace, index: usize, threads: bool| {
        let (a, b, out) = item(index);
        if let Ok(product) = product(a, b, &out) {
            missing.note(MultiplyIn::run(workspace, product, out, threads));
        }
    };
    if work > LARGE {
        (0..count).for_each(|index| run(&mut workspace, index, true));
    } else {
        let nanoseconds = problem::nanoseconds::<T::Acc>(work);
        parallel::for_each_block_with(
            count,
            1,
            nanoseconds,
            &mut workspace,
            || Workspace::hold(bytes).ok(),
            |workspace, items| items.for_each(|index| run(workspace, index, false)),
        );
    }
    Ok(missing.result()?)
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
        epilogue: FusedEpilogue {
            bias: Bias::None,
            residual: Residual::None,
            activation: Activation::None,
            #[cfg(not(feature = "std"))]
            code: crate::math::activation::code::of::<T::Acc>(Activation::None),
        },
    })
}

//! The linear layer, `activation(x @ weight + bias + residual)`: shapes are checked here, the work is done in `gemm`.

use crate::error::{Error, ShapeError};
use crate::float::Float;
use crate::gemm::partition::Multiply;
use crate::gemm::problem::{Bias, FusedEpilogue, Product, Residual, Weight};
use crate::math::activation::Activation;
use crate::view::{Matrix, MatrixMut};

/// What is done to each output of [`linear`] before it is stored. The default does nothing.
///
/// # Examples
///
/// ```
/// use polyglot_bridge::{Activation, Epilogue};
///
/// let epilogue = Epilogue::new().bias(&[0.5_f32, -0.5][..]).activation(Activation::Relu);
/// assert_eq!(epilogue.activation, Activation::Relu);
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Epilogue<'a, T> {
    /// Added to each row: one value a column.
    pub bias: Option<&'a [T]>,
    /// Added after the bias, element by element.
    pub residual: Residual<'a, T>,
    /// Applied last.
    pub activation: Activation,
}

impl<T> Default for Epilogue<'_, T> {
    fn default() -> Self {
        Self { bias: None, residual: Residual::None, activation: Activation::None }
    }
}

impl<'a, T> Epilogue<'a, T> {
    /// The epilogue that does nothing.
    #[must_use]
    #[inline]
    pub fn new() -> Self {
        Self::default()
    }

    /// With this bias, or none.
    #[must_use]
    #[inline]
    pub fn bias(self, bias: impl Into<Option<&'a [T]>>) -> Self {
        Self { bias: bias.into(), ..self }
    }

    /// With this residual.
    #[must_use]
    #[inline]
    pub fn residual(self, residual: impl Into<Residual<'a, T>>) -> Self {
        Self { residual: residual.into(), ..self }
    }

    /// With this activation.
    #[must_use]
    #[inline]
    pub fn activation(self, activation: Activation) -> Self {
        Self { activation, ..self }
    }
}

impl<'a, T> From<Matrix<'a, T>> for Residual<'a, T> {
    fn from(matrix: Matrix<'a, T>) -> Self {
        Self::Matrix(matrix)
    }
}

/// `out = activation(x @ weight + bias + residual)`, for x of shape (m, k), weight of shape (k, n), a bias of n values
/// and residual and out of shape (m, n).
///
/// Sums are kept in the compute type of `T` (f32 for f16 and bf16) and rounded once.
/// Operands may have any strides; a PyTorch weight of shape (n, k) is passed as its [`transpose`](Matrix::transpose).
/// A weight that is used again and again is better packed: [`PackedLinear`](crate::PackedLinear).
///
/// k is cut into equal blocks of at most 512 steps. Each output is the sum of one chain of fused multiply-adds a block
/// (multiply, then add, at CPU levels without them), so its bits depend only on its row, its column, k and the CPU
/// level, and its error is at most k u sum(|x| |w|), u the compute type's unit roundoff (N. J. Higham, Accuracy and
/// Stability of Numerical Algorithms, section 3.1).
///
/// # Errors
///
/// [`Error::Shape`] where the shapes do not fit, [`Error::OutOfMemory`] where there is no room to lay operands and sums
/// out; `out` is then as it was.
///
/// # Examples
///
/// ```
/// use polyglot_bridge::{linear, Activation, Epilogue, Matrix, MatrixMut};
///
/// let x = Matrix::new(&[1.0_f32, 2.0], 1, 2)?;
/// let weight = Matrix::new(&[1.0, 0.0, -3.0, 0.0, 1.0, 0.0], 2, 3)?;
/// let mut out = [0.0; 3];
/// let epilogue = Epilogue::new().bias(&[0.5, 0.5, 0.5][..]).activation(Activation::Relu);
/// linear(x, weight, epilogue, &mut out)?;
/// assert_eq!(out, [1.5, 2.5, 0.0]);
/// # Ok::<(), polyglot_bridge::Error>(())
/// ```
#[inline]
pub fn linear<'a, T: Float>(
    x: impl Into<Matrix<'a, T>>,
    weight: impl Into<Matrix<'a, T>>,
    epilogue: Epilogue<'a, T>,
    out: impl Into<MatrixMut<'a, T>>,
) -> Result<(), Error> {
    let (x, weight, out) = (x.into(), weight.into(), out.into());
    let bias = epilogue.bias.map_or(Bias::None, Bias::Stored);
    let Epilogue { residual, activation, .. } = epilogue;
    #[cfg(not(feature = "std"))]
    let code = crate::math::activation::code::of::<T::Acc>(activation);
    let epilogue = FusedEpilogue {
        bias,
        residual,
        activation,
        #[cfg(not(feature = "std"))]
        code,
    };
    let product = Product { x, weight: Weight::Matrix(weight), epilogue };
    check("linear", &product, &out)?;
    Ok(Multiply::run(product, out)?)
}

/// Sees that the shapes of a product fit each other and `out`.
pub(crate) fn check<T: Float, W: Float>(
    op: &'static str,
    product: &Product<'_, T, W>,
    out: &MatrixMut<'_, T>,
) -> Result<(), ShapeError> {
    let (rows, k) = product.x.shape();
    let (weight_rows, cols) = product.weight.shape();
    ShapeError::check(op, "weight", (weight_rows, cols), (k, cols))?;
    match product.epilogue.bias {
        Bias::None => {}
        #[cfg(feature = "std")]
        Bias::Uniform(_) => {}
        Bias::Stored(bias) => ShapeError::check(op, "bias", (1, bias.len()), (1, cols))?,
        Bias::Computed(bias) => ShapeError::check(op, "bias", (1, bias.len()), (1, cols))?,
    }
    if let Residual::Matrix(residual) = product.epilogue.residual {
        ShapeError::check(op, "residual", residual.shape(), (rows, cols))?;
    }
    ShapeError::check(op, "out", out.shape(), (rows, cols))
}

//! The activations of neural networks, element by element: [`Activation`] names them, for these operations and for the
//! epilogue of the matrix product. The functions themselves live in `math`.

use fearless_simd::Simd;

use crate::error::ShapeError;
use crate::float::Float;
use crate::kernel::kernel;
use crate::macros::lane_fn;
use crate::math::activation::Activation;
use crate::parallel;
use crate::simd::{self, dispatch};
use crate::view::{InOut, InOutMatrix, Matrix, MatrixMut};

/// Writes f(x) to `out` for each element x, f being the activation.
///
/// `x` and `out` have the same shape. f16 and bf16 are computed in f32 and rounded once. NaN stays NaN, and infinities
/// give the function's limit.
///
/// # Errors
///
/// [`ShapeError`] where the shapes differ.
///
/// # Examples
///
/// ```
/// use polyglot_bridge::{Activation, activate};
///
/// let mut out = [0.0_f32; 3];
/// activate(Activation::Relu, &[-1.0, 0.5, f32::INFINITY], &mut out)?;
/// assert_eq!(out, [0.0, 0.5, f32::INFINITY]);
/// # Ok::<(), polyglot_bridge::ShapeError>(())
/// ```
pub fn activate<'a, 'b, T: Float>(
    activation: Activation,
    x: impl Into<Matrix<'a, T>>,
    out: impl Into<MatrixMut<'b, T>>,
) -> Result<(), ShapeError> {
    ActivateElements::run(activation, InOutMatrix::new(activation.name(), x.into(), out.into())?);
    Ok(())
}

/// [`activate`], over its input.
///
/// # Errors
///
/// None today; the type leaves room for one.
///
/// # Examples
///
/// ```
/// use polyglot_bridge::{Activation, activate_in_place};
///
/// let mut values = [f64::NEG_INFINITY, 0.0, f64::INFINITY];
/// activate_in_place(Activation::Sigmoid, &mut values)?;
/// assert_eq!(values, [0.0, 0.5, 1.0]);
/// # Ok::<(), polyglot_bridge::ShapeError>(())
/// ```
pub fn activate_in_place<'a, T: Float>(
    activation: Activation,
    x: impl Into<MatrixMut<'a, T>>,
) -> Result<(), ShapeError> {
    ActivateElements::run(activation, InOutMatrix::in_place(x.into()));
    Ok(())
}

/// One operation and its twin in place, documented.
macro_rules! operation {
    (
        $(#[$doc:meta])*
        $name:ident, $in_place:ident, $activation:ident,
        $example:literal
    ) => {
        $(#[$doc])*
        ///
        /// `x` and `out` have the same shape. f16 and bf16 are computed in f32 and rounded once.
        ///
        /// # Errors
        ///
        /// [`ShapeError`] where the shapes differ.
        ///
        /// # Examples
        ///
        /// ```
        #[doc = concat!("use polyglot_bridge::", stringify!($name), ";\n")]
        #[doc = $example]
        /// # Ok::<(), polyglot_bridge::ShapeError>(())
        /// ```
        pub fn $name<'a, 'b, T: Float>(
            x: impl Into<Matrix<'a, T>>,
            out: impl Into<MatrixMut<'b, T>>,
        ) -> Result<(), ShapeError> {
            activate(Activation::$activation, x, out)
        }

        #[doc = concat!("[`", stringify!($name), "`], over its input.")]
        ///
        /// # Errors
        ///
        /// None today; the type leaves room for one.
        ///
        /// # Examples
        ///
        /// ```
        /// let mut values = [0.0_f32; 2];
        #[doc = concat!("polyglot_bridge::", stringify!($in_place), "(&mut values)?;")]
        /// # Ok::<(), polyglot_bridge::ShapeError>(())
        /// ```
        pub fn $in_place<'a, T: Float>(x: impl Into<MatrixMut<'a, T>>) -> Result<(), ShapeError> {
            activate_in_place(Activation::$activation, x)
        }
    };
}

operation!(
    /// Writes zero to `out` where x <= 0, else x: the rectifier. -0.0 gives +0.0, NaN stays NaN.
    relu,
    relu_in_place,
    Relu,
    "let mut out = [0.0_f32; 3];\nrelu(&[-2.0, -0.0, 3.0], &mut out)?;\nassert_eq!(out, [0.0, 0.0, 3.0]);"
);

operation!(
    /// Writes 1 / (1 + e^-x) to `out`: the logistic function.
    sigmoid,
    sigmoid_in_place,
    Sigmoid,
    "let mut out = [0.0_f32; 2];\nsigmoid(&[0.0, f32::INFINITY], &mut out)?;\nassert_eq!(out, [0.5, 1.0]);"
);

operation!(
    /// Writes the hyperbolic tangent of x to `out`.
    tanh,
    tanh_in_place,
    Tanh,
    "let mut out = [0.0_f64; 2];\ntanh(&[0.0, -40.0], &mut out)?;\nassert_eq!(out, [0.0, -1.0]);"
);

operation!(
    /// Writes x / (1 + e^-x) to `out`: the sigmoid linear unit, also called swish.
    ///
    /// Source: Elfwing, Uchibe and Doya, Sigmoid-weighted linear units for neural network function approximation in
    /// reinforcement learning, 2017.
    silu,
    silu_in_place,
    Silu,
    "let mut out = [1.0_f32; 2];\nsilu(&[f32::NEG_INFINITY, 50.0], &mut out)?;\nassert_eq!(out, [0.0, 50.0]);"
);

operation!(
    /// Writes x (1 + erf(x / sqrt 2)) / 2 to `out`: the Gaussian error linear unit.
    ///
    /// Source: Hendrycks and Gimpel, Gaussian Error Linear Units, 2016.
    gelu,
    gelu_in_place,
    Gelu,
    "let mut out = [1.0_f32; 2];\ngelu(&[f32::NEG_INFINITY, 9.0], &mut out)?;\nassert_eq!(out, [0.0, 9.0]);"
);

operation!(
    /// Writes x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 to `out`: the approximation of [`gelu`] that GPT-2 and
    /// its kin were trained with.
    ///
    /// Source: Hendrycks and Gimpel, Gaussian Error Linear Units, 2016.
    gelu_tanh,
    gelu_tanh_in_place,
    GeluTanh,
    "let mut out = [1.0_f32; 2];\ngelu_tanh(&[0.0, 9.0], &mut out)?;\nassert_eq!(out, [0.0, 9.0]);"
);

kernel!(ActivateElements<T>(activation: Activation, io: InOutMatrix<'a, T>) = activate_elements);

/// Each activation is a function of its own, so that a program links those it names.
fn activate_elements<T: Float>(activation: Activation, io: InOutMatrix<'_, T>) {
    macro_rules! apart {
        ($($variant:ident)*) => {
            match activation {
                $(Activation::$variant => {
                    #[inline(never)]
                    fn apart<T: Float>(io: InOutMatrix<'_, T>) {
                        let level = simd::level();
                        parallel::for_each_elements(io, Activation::$variant.cost(), |_, _, mut block| {
                            dispatch!(level, simd => block.for_each_row(
                                lane_fn!(|_, mut row| row.map_unrolled(
                                    simd,
                                    lane_fn!(|x| Activation::$variant.apply_unrolled::<_, T::Acc, _>(simd, x)),
                                )),
                            ));
                        });
                    }
                    apart::<T>(io);
                })*
                Activation::None | Activation::Relu => simple_elements(activation, io),
            }
        };
    }
    apart!(Sigmoid Tanh Silu Gelu GeluTanh);
}

/// A step or none: memory is all that takes time.
#[inline(never)]
fn simple_elements<T: Float>(activation: Activation, io: InOutMatrix<'_, T>) {
    let level = simd::level();
    parallel::for_each_elements(io, activation.cost(), |_, _, mut block| {
        dispatch!(level, simd => block.for_each_row(
            lane_fn!(|_, row| simple_row(simd, row, activation)),
        ));
    });
}

#[inline(always)]
fn simple_row<S: Simd, T: Float>(simd: S, mut row: InOut<'_, T>, activation: Activation) {
    row.map::<S, T, 0>(
        simd,
        [],
        lane_fn!(|x, []| if activation == Activation::Relu { Activation::Relu.apply::<S, T::Acc>(simd, x) } else { x }),
    );
}

//! The activations of neural networks, element by element: [`Activation`] names them, for these operations and for the
//! epilogue of the matrix product. The functions themselves live in `math`.

use fearless_simd::{ExtractToken, Select, Simd, SimdBase};

use crate::error::ShapeError;
use crate::float::{Compute, Float};
use crate::math::{Several, wide};
use crate::parallel;
use crate::simd::{self, dispatch};
use crate::view::{InOut, InOutMatrix, Matrix, MatrixMut};

/// A function that is applied to each element.
///
/// # Examples
///
/// ```
/// use polyglot_bridge::Activation;
///
/// assert_eq!(Activation::from_name("gelu"), Some(Activation::Gelu));
/// assert_eq!(Activation::GeluTanh.name(), "gelu_tanh");
/// assert_eq!(Activation::from_name("swish"), None);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activation {
    /// x itself.
    #[default]
    None,
    /// Zero where x <= 0, else x.
    Relu,
    /// 1 / (1 + e^-x)
    Sigmoid,
    /// The hyperbolic tangent.
    Tanh,
    /// x * sigmoid(x), also called swish.
    Silu,
    /// x times the normal distribution function, (1 + erf(x / sqrt 2)) / 2.
    Gelu,
    /// The approximation x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 of [`Gelu`](Activation::Gelu).
    GeluTanh,
}

impl Activation {
    /// Each activation there is.
    pub const ALL: [Self; 7] =
        [Self::None, Self::Relu, Self::Sigmoid, Self::Tanh, Self::Silu, Self::Gelu, Self::GeluTanh];

    /// The name in lower case, as Python knows it: `none`, `relu`, `sigmoid`, `tanh`, `silu`, `gelu`, `gelu_tanh`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Relu => "relu",
            Self::Sigmoid => "sigmoid",
            Self::Tanh => "tanh",
            Self::Silu => "silu",
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu_tanh",
        }
    }

    /// The activation with this [`name`](Activation::name).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|activation| activation.name() == name)
    }

    /// Applies the function to one vector.
    #[inline(always)]
    pub(crate) fn apply<S: Simd, C: Compute>(self, simd: S, x: C::Lanes<S>) -> C::Lanes<S> {
        let [result] = self.apply_several::<S, C, 1>(simd, [x]);
        result
    }

    /// Applies the function to several vectors in step.
    #[inline(always)]
    pub(crate) fn apply_several<S: Simd, C: Compute, const N: usize>(
        self,
        simd: S,
        x: [C::Lanes<S>; N],
    ) -> [C::Lanes<S>; N] {
        let x = Several::<S, C, N>::new(simd, x);
        let result = match self {
            Self::None => x,
            Self::Relu => rectified(x),
            Self::Sigmoid => wide::sigmoid(x),
            Self::Tanh => wide::tanh(x),
            Self::Silu => wide::silu(x),
            Self::Gelu => wide::gelu(x),
            Self::GeluTanh => wide::gelu_tanh(x),
        };
        result.lanes()
    }

    /// What one element costs on one core, in nanoseconds, where its operands lie in the cache.
    const fn cost(self) -> f32 {
        match self {
            Self::None | Self::Relu => 0.1,
            Self::Sigmoid | Self::Silu => 0.4,
            Self::Tanh | Self::GeluTanh => 0.7,
            Self::Gelu => 1.0,
        }
    }
}

/// Zero where x <= 0, else x: this, and no maximum, gives +0.0 for -0.0 and keeps NaN at every CPU level.
#[inline(always)]
fn rectified<S: Simd, C: Compute, const N: usize>(x: Several<S, C, N>) -> Several<S, C, N> {
    x.each(
        #[inline(always)]
        |x| {
            let zero = C::Lanes::<S>::splat(x.token(), C::ZERO);
            x.simd_le(C::ZERO).select(zero, x)
        },
    )
}

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
    T::activate_elements(activation, InOutMatrix::new(activation.name(), x.into(), out.into())?);
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
    T::activate_elements(activation, InOutMatrix::in_place(x.into()));
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

/// Each activation is a function of its own, so that a program links those it names.
pub(crate) fn activate_elements<T: Float>(activation: Activation, io: InOutMatrix<'_, T>) {
    macro_rules! apart {
        ($($variant:ident)*) => {
            match activation {
                $(Activation::$variant => {
                    #[inline(never)]
                    fn apart<T: Float>(io: InOutMatrix<'_, T>) {
                        let level = simd::level();
                        parallel::for_each_elements(io, Activation::$variant.cost(), |_, _, mut block| {
                            dispatch!(level, simd => block.for_each_row(
                                #[inline(always)]
                                |_, mut row| row.map_in_step(
                                    simd,
                                    #[inline(always)]
                                    |x| Activation::$variant.apply_several::<_, T::Acc, _>(simd, x),
                                ),
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
            #[inline(always)]
            |_, row| simple_row(simd, row, activation),
        ));
    });
}

#[inline(always)]
fn simple_row<S: Simd, T: Float>(simd: S, mut row: InOut<'_, T>, activation: Activation) {
    row.map::<S, T, 0>(
        simd,
        [],
        #[inline(always)]
        |x, []| if activation == Activation::Relu { Activation::Relu.apply::<S, T::Acc>(simd, x) } else { x },
    );
}

/// What applies an activation to the sums of a product in a build without std, found where the activation is named: so
/// a program links those it names, and not all, as it would if the product itself chose.
#[cfg(not(feature = "std"))]
pub(crate) mod code {
    use super::{Activation, Compute, Simd, SimdBase};
    use crate::simd;

    /// Changes each number; there are whole vectors of them at any CPU level.
    pub(crate) type Code<C> = fn(&mut [C]);

    macro_rules! codes {
        ($type:ident: $($variant:ident $function:ident)*) => {
            pub(crate) mod $type {
                use super::{Activation, Code, each};
                use crate::simd::{dispatch, level};

                $(#[inline(never)]
                fn $function(values: &mut [$type]) {
                    dispatch!(level(), simd => each(simd, Activation::$variant, values));
                })*

                #[inline(always)]
                pub(crate) fn of(activation: Activation) -> Code<$type> {
                    match activation {
                        $(Activation::$variant => $function,)*
                        // Done with the sums in registers.
                        Activation::None | Activation::Relu => |_| {},
                    }
                }
            }
        };
    }
    codes!(f32: Sigmoid sigmoid Tanh tanh Silu silu Gelu gelu GeluTanh gelu_tanh);
    codes!(f64: Sigmoid sigmoid Tanh tanh Silu silu Gelu gelu GeluTanh gelu_tanh);

    /// Applies `activation`, [`simd::IN_STEP`] vectors at a time.
    #[inline(always)]
    fn each<S: Simd, C: Compute>(simd: S, activation: Activation, values: &mut [C]) {
        let lanes = C::Lanes::<S>::LEN;
        for part in values.chunks_mut(simd::IN_STEP * lanes) {
            let mut vectors = [C::Lanes::<S>::splat(simd, C::ZERO); simd::IN_STEP];
            for (vector, part) in vectors.iter_mut().zip(part.chunks_exact(lanes)) {
                *vector = C::load(simd, part);
            }
            let vectors = activation.apply_several::<S, C, { simd::IN_STEP }>(simd, vectors);
            for (vector, part) in vectors.into_iter().zip(part.chunks_exact_mut(lanes)) {
                C::store::<S>(vector, part);
            }
        }
    }
}

//! The activations of neural networks, element by element: [`Activation`] names them, for these operations and for the
//! epilogue of the matrix product. The functions themselves live in `math`.

use fearless_simd::{Select, Simd, SimdBase};

use crate::float::Compute;
use crate::math;

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

    /// The name in lower case, as Python knows it: "none", "relu", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh".
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
        match self {
            Self::None => x,
            Self::Relu => {
                let zero = C::Lanes::<S>::splat(simd, C::ZERO);
                x.simd_le(zero).select(zero, x)
            }
            Self::Sigmoid => math::sigmoid::<S, C>(simd, x),
            Self::Tanh => math::tanh::<S, C>(simd, x),
            Self::Silu => math::silu::<S, C>(simd, x),
            Self::Gelu => math::gelu::<S, C>(simd, x),
            Self::GeluTanh => math::gelu_tanh::<S, C>(simd, x),
        }
    }
}

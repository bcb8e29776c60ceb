//! The activations of neural networks by name, over vectors: for the element-wise operations and for the epilogue of the
//! matrix product.

use fearless_simd::{ExtractToken, Select, Simd, SimdBase};

use super::{Unrolled, wide};
use crate::float::Compute;
use crate::macros::lane_fn;

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
        let [result] = self.apply_unrolled::<S, C, 1>(simd, [x]);
        result
    }

    /// Applies the function to several vectors together.
    #[inline(always)]
    pub(crate) fn apply_unrolled<S: Simd, C: Compute, const N: usize>(
        self,
        simd: S,
        x: [C::Lanes<S>; N],
    ) -> [C::Lanes<S>; N] {
        let x = Unrolled::<S, C, N>::new(simd, x);
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
    pub(crate) const fn cost(self) -> f32 {
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
fn rectified<S: Simd, C: Compute, const N: usize>(x: Unrolled<S, C, N>) -> Unrolled<S, C, N> {
    x.each(lane_fn!(|x| {
        let zero = C::Lanes::<S>::splat(x.token(), C::ZERO);
        x.simd_le(C::ZERO).select(zero, x)
    }))
}

/// What applies an activation to the sums of a product in a build without std, found where the activation is named: so
/// a program links those it names, and not all, as it would if the product itself chose.
#[cfg(not(feature = "std"))]
pub(crate) mod code {
    use super::{Activation, Compute, Simd, SimdBase};
    use crate::kernel::kernel;
    use crate::simd::{self, dispatch};

    /// Changes each number; there are whole vectors of them at any CPU level.
    pub(crate) type Code<C> = fn(&mut [C]);

    macro_rules! codes {
        ($($variant:ident $kernel:ident $function:ident)*) => {
            $(
                kernel!($kernel<T>(values: &'a mut [T::Acc]) = $function);

                fn $function<C: Compute>(values: &mut [C]) {
                    dispatch!(simd::level(), simd => each(simd, Activation::$variant, values));
                }
            )*

            #[inline(always)]
            pub(crate) fn of<C: Compute>(activation: Activation) -> Code<C> {
                match activation {
                    $(Activation::$variant => |values| $kernel::run::<C>(values),)*
                    // Done with the sums in registers.
                    Activation::None | Activation::Relu => |_| {},
                }
            }
        };
    }
    codes!(Sigmoid SigmoidEach sigmoid Tanh TanhEach tanh Silu SiluEach silu Gelu GeluEach gelu GeluTanh GeluTanhEach gelu_tanh);

    /// Applies `activation`, [`simd::UNROLL`] vectors at a time.
    #[inline(always)]
    fn each<S: Simd, C: Compute>(simd: S, activation: Activation, values: &mut [C]) {
        let lanes = C::Lanes::<S>::LEN;
        for part in values.chunks_mut(simd::UNROLL * lanes) {
            let mut vectors = [C::Lanes::<S>::splat(simd, C::ZERO); simd::UNROLL];
            for (vector, part) in vectors.iter_mut().zip(part.chunks_exact(lanes)) {
                *vector = C::load(simd, part);
            }
            let vectors = activation.apply_unrolled::<S, C, { simd::UNROLL }>(simd, vectors);
            for (vector, part) in vectors.into_iter().zip(part.chunks_exact_mut(lanes)) {
                C::store::<S>(vector, part);
            }
        }
    }
}

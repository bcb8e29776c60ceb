//! exp, tanh, erf and their relatives, written once over [`Compute`] lanes: no libm call, no table look-up, no branch
//! a lane. What is applied to whole arrays lives in the operations; here is one vector in, one vector out.
//!
//! A NaN lane stays NaN, and no lane depends on another. How exact each function is stands in ACCURACY.md.
//!
//! # Examples
//!
//! A kernel of your own, compiled for each CPU level:
//!
//! ```
//! use fearless_simd::{Simd, SimdBase, dispatch};
//! use polyglot_bridge::{Compute, math, simd};
//!
//! #[inline(always)]
//! fn softplus<S: Simd, C: Compute>(simd: S, row: &mut [C]) {
//!     for chunk in row.chunks_exact_mut(C::Lanes::<S>::LEN) {
//!         let e = math::exp::<S, C>(simd, C::Lanes::<S>::from_slice(simd, chunk));
//!         math::ln::<S, C>(simd, e + C::from_f64(1.0)).store_slice(chunk);
//!     }
//! }
//!
//! let mut row = [0.0_f32; 16];
//! dispatch!(simd::level(), simd => softplus(simd, &mut row));
//! assert_eq!(row, [core::f32::consts::LN_2; 16]);
//! ```

pub(crate) mod activation;
pub(crate) mod constants;
mod exponential;
mod logarithm;
pub(crate) mod mean;
mod normal;
mod sigmoid;
mod tanh;
mod unrolled;

pub use constants::Constants;
pub use logarithm::ln;
pub(crate) use unrolled::Unrolled;

use fearless_simd::Simd;

use crate::float::Compute;

/// A function of several vectors, over one. A macro, since a function that is handed over as a value is called through
/// a shim, which is compiled for the oldest CPU and keeps its body from being inlined.
macro_rules! of_one {
    ($simd:expr, $x:expr, $function:path) => {{
        let [result] = $function(Unrolled::<S, C, 1>::new($simd, [$x])).lanes();
        result
    }};
}

/// e^x. Subnormal results are kept.
#[inline(always)]
pub fn exp<S: Simd, C: Compute>(simd: S, x: C::Lanes<S>) -> C::Lanes<S> {
    of_one!(simd, x, exponential::exp)
}

/// e^x where x <= 0, cheaper: what softmax needs. Subnormal results are kept. Where x > 0 the result means nothing.
#[inline(always)]
pub fn exp_nonpositive<S: Simd, C: Compute>(simd: S, x: C::Lanes<S>) -> C::Lanes<S> {
    of_one!(simd, x, exponential::exp_nonpositive)
}

/// 1 / (1 + e^-x), the logistic function. Subnormal results are kept.
#[inline(always)]
pub fn sigmoid<S: Simd, C: Compute>(simd: S, x: C::Lanes<S>) -> C::Lanes<S> {
    of_one!(simd, x, sigmoid::sigmoid)
}

/// x / (1 + e^-x), also called swish.
#[inline(always)]
pub fn silu<S: Simd, C: Compute>(simd: S, x: C::Lanes<S>) -> C::Lanes<S> {
    of_one!(simd, x, sigmoid::silu)
}

/// tanh x, the hyperbolic tangent.
#[inline(always)]
pub fn tanh<S: Simd, C: Compute>(simd: S, x: C::Lanes<S>) -> C::Lanes<S> {
    of_one!(simd, x, tanh::tanh)
}

/// erf x, the error function.
#[inline(always)]
pub fn erf<S: Simd, C: Compute>(simd: S, x: C::Lanes<S>) -> C::Lanes<S> {
    of_one!(simd, x, normal::erf)
}

/// x (1 + erf(x / sqrt 2)) / 2: x times the normal distribution function.
///
/// Source: Hendrycks and Gimpel, Gaussian Error Linear Units, 2016.
#[inline(always)]
pub fn gelu<S: Simd, C: Compute>(simd: S, x: C::Lanes<S>) -> C::Lanes<S> {
    of_one!(simd, x, normal::gelu)
}

/// x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, the widely used approximation of [`gelu`].
///
/// Source: Hendrycks and Gimpel, Gaussian Error Linear Units, 2016.
#[inline(always)]
pub fn gelu_tanh<S: Simd, C: Compute>(simd: S, x: C::Lanes<S>) -> C::Lanes<S> {
    of_one!(simd, x, sigmoid::gelu_tanh)
}

/// The same functions over several vectors, for whole arrays.
pub(crate) mod wide {
    pub(crate) use super::exponential::{exp_nonpositive, raised_exp};
    pub(crate) use super::normal::gelu;
    pub(crate) use super::sigmoid::{gelu_tanh, sigmoid, silu};
    pub(crate) use super::tanh::tanh;
}

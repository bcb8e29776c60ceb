//! exp, tanh, erf and their relatives, written once over [`Compute`] lanes: no libm call, no table look-up, no branch
//! a lane. What is applied to whole arrays lives in the operations; here is one vector in, one vector out.

mod constants;
mod exponential;
mod logarithm;
mod sigmoid;
mod tanh;

pub use constants::Constants;
pub use exponential::{exp, exp_nonpositive};
pub use logarithm::ln;
pub use sigmoid::{gelu, gelu_tanh, sigmoid, silu};
pub use tanh::tanh;

use fearless_simd::{Simd, SimdBase, SimdFloat};

use crate::float::Compute;

/// A vector with `value` in each lane.
#[inline(always)]
fn splat<S: Simd, C: Compute>(simd: S, value: C) -> C::Lanes<S> {
    C::Lanes::<S>::splat(simd, value)
}

/// The polynomial with these coefficients, the highest power first, by Horner's rule.
#[inline(always)]
fn polynomial<S: Simd, C: Compute>(simd: S, x: C::Lanes<S>, coefficients: &[C]) -> C::Lanes<S> {
    let Some((&highest, rest)) = coefficients.split_first() else { return splat::<S, C>(simd, C::ZERO) };
    let mut sum = splat::<S, C>(simd, highest);
    for &coefficient in rest {
        sum = sum.mul_add(x, splat::<S, C>(simd, coefficient));
    }
    sum
}

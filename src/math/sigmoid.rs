//! The logistic function, and the products of x with a distribution function: silu and both forms of gelu.

use fearless_simd::{Select, Simd, SimdBase, SimdFloat};

use super::{exp_nonpositive, splat, tanh};
use crate::float::Compute;

/// 1 / (1 + e^-x)
#[inline(always)]
pub fn sigmoid<S: Simd, C: Compute>(simd: S, x: C::Lanes<S>) -> C::Lanes<S> {
    let one = splat::<S, C>(simd, C::from_f64(1.0));
    let e = exp_nonpositive::<S, C>(simd, -x.abs());
    let numerator = x.simd_lt(C::ZERO).select(e, one);
    numerator / (one + e)
}

/// x / (1 + e^-x)
#[inline(always)]
pub fn silu<S: Simd, C: Compute>(simd: S, x: C::Lanes<S>) -> C::Lanes<S> {
    let one = splat::<S, C>(simd, C::from_f64(1.0));
    let e = exp_nonpositive::<S, C>(simd, -x.abs());
    let low = x.clamp(C::EXP_MIN + C::EXP_MIN, <C as num_traits::Float>::infinity());
    let numerator = x.simd_lt(C::ZERO).select(low * e, x);
    numerator / (one + e)
}

/// x times the normal distribution function. TO BE REPLACED: rough.
#[inline(always)]
pub fn gelu<S: Simd, C: Compute>(simd: S, x: C::Lanes<S>) -> C::Lanes<S> {
    gelu_tanh::<S, C>(simd, x)
}

/// The widely used approximation of [`gelu`] by tanh.
#[inline(always)]
pub fn gelu_tanh<S: Simd, C: Compute>(simd: S, x: C::Lanes<S>) -> C::Lanes<S> {
    let low = x.clamp(C::EXP_MIN, <C as num_traits::Float>::infinity());
    let cubic = (low * low * C::from_f64(0.044715)).mul_add(low, low);
    let u = tanh::<S, C>(simd, cubic * C::from_f64(0.7978845608028654));
    low * C::from_f64(0.5) * (u + C::from_f64(1.0))
}

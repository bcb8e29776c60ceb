//! The logistic function, and x times it: silu, and gelu in its tanh form.

use fearless_simd::{Simd, SimdBase, SimdFloat};

use super::exponential::Parts;
use super::{at_least, at_most, splat};
use crate::float::Compute;

/// 1 / (1 + e^-x). Subnormal results are kept.
#[inline(always)]
pub fn sigmoid<S: Simd, C: Compute>(simd: S, x: C::Lanes<S>) -> C::Lanes<S> {
    let x = at_most::<S, C>(simd, at_least::<S, C>(simd, x, C::EXP_MIN), C::SIGMOID_MAX);
    reciprocal::<S, C>(simd, Parts::<S, C>::new(simd, -x, C::SIGMOID_EXPONENT))
}

/// 1 / (1 + e), e given as its parts times 2^[`SIGMOID_EXPONENT`](super::Constants::SIGMOID_EXPONENT), a factor that
/// keeps 1 + e from overflow where the result is subnormal.
#[inline(always)]
fn reciprocal<S: Simd, C: Compute>(simd: S, e: Parts<S, C>) -> C::Lanes<S> {
    let one = splat::<S, C>(simd, C::SIGMOID_ONE);
    // The largest part is added last, so that the sum rounds little more than once.
    one / (e.power.max(one) + e.power.mul_add(e.rest, e.power.min(one)))
}

/// x / (1 + e^-x)
#[inline(always)]
pub fn silu<S: Simd, C: Compute>(simd: S, x: C::Lanes<S>) -> C::Lanes<S> {
    // Cut off below, where the result is zero already, so that minus infinity times zero does not arise.
    let x = at_least::<S, C>(simd, x, C::EXP_MIN);
    let bounded = at_most::<S, C>(simd, x, C::SIGMOID_MAX);
    x * reciprocal::<S, C>(simd, Parts::<S, C>::new(simd, -bounded, C::SIGMOID_EXPONENT))
}

/// x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, the widely used approximation of [`gelu`](super::gelu()).
///
/// Source: Hendrycks and Gimpel, Gaussian Error Linear Units, 2016.
#[inline(always)]
pub fn gelu_tanh<S: Simd, C: Compute>(simd: S, x: C::Lanes<S>) -> C::Lanes<S> {
    let x = at_least::<S, C>(simd, x, C::GELU_TANH_MIN);
    let bounded = at_most::<S, C>(simd, x, C::GELU_TANH_MAX);
    // (1 + tanh u) / 2 = 1 / (1 + e^-2u). An error of 2u counts up to four times in the result, so 2u is kept in two
    // numbers: the upper half of x's bits times the upper half of the factor's, which is exact, and the rest.
    let high = C::Lanes::<S>::from_bits(bounded.to_bits() & C::UPPER_HALF);
    let low = bounded - high;
    let cubic = bounded * bounded * C::GELU_TANH_CUBIC;
    let rest = high.mul_add(C::GELU_TANH_LOW, low.mul_add(splat::<S, C>(simd, C::GELU_TANH_HIGH), cubic * bounded));
    x * reciprocal::<S, C>(simd, Parts::<S, C>::of_sum(simd, [high * -C::GELU_TANH_HIGH], -rest, C::SIGMOID_EXPONENT))
}

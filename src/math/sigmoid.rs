//! The logistic function, and x times it: silu, and gelu in its tanh form.

use fearless_simd::Simd;

use super::Unrolled;
use super::exponential::Parts;
use crate::float::Compute;

/// 1 / (1 + e^-x). Subnormal results are kept.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd, C: Compute, const N: usize>(x: Unrolled<S, C, N>) -> Unrolled<S, C, N> {
    let x = x.at_least(C::EXP_MIN).at_most(C::SIGMOID_MAX);
    reciprocal(Parts::of_multiple(x, -C::ONE, C::SIGMOID_EXPONENT))
}

/// 1 / (1 + e), e given as its parts times 2^[`SIGMOID_EXPONENT`](super::Constants::SIGMOID_EXPONENT), a factor that
/// keeps 1 + e from overflow where the result is subnormal.
#[inline(always)]
fn reciprocal<S: Simd, C: Compute, const N: usize>(e: Parts<S, C, N>) -> Unrolled<S, C, N> {
    let one = e.power.splat(C::SIGMOID_ONE);
    // The largest part is added last, so that the sum rounds little more than once.
    one / (e.power.max(one) + e.power.mul_add(e.rest, e.power.min(one)))
}

/// x / (1 + e^-x)
#[inline(always)]
pub(crate) fn silu<S: Simd, C: Compute, const N: usize>(x: Unrolled<S, C, N>) -> Unrolled<S, C, N> {
    // Cut off below, where the result is zero already, so that minus infinity times zero does not arise.
    let x = x.at_least(C::EXP_MIN);
    x * reciprocal(Parts::of_multiple(x.at_most(C::SIGMOID_MAX), -C::ONE, C::SIGMOID_EXPONENT))
}

/// x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2
#[inline(always)]
pub(crate) fn gelu_tanh<S: Simd, C: Compute, const N: usize>(x: Unrolled<S, C, N>) -> Unrolled<S, C, N> {
    let x = x.at_least(C::GELU_TANH_MIN);
    let bounded = x.at_most(C::GELU_TANH_MAX);
    // (1 + tanh u) / 2 = 1 / (1 + e^-2u). An error of 2u counts up to four times in the result, so -2u is kept in two
    // numbers: the upper half of x's bits times the upper half of the factor's, which is exact, and the rest.
    let high = bounded.upper_half();
    let cubic = bounded * bounded * -C::GELU_TANH_CUBIC * bounded;
    let rest = (bounded - high).mul_add(x.splat(-C::GELU_TANH_HIGH), cubic);
    let rest = high.mul_add(x.splat(-C::GELU_TANH_LOW), rest);
    x * reciprocal(Parts::of_sum([high * -C::GELU_TANH_HIGH], rest, C::SIGMOID_EXPONENT))
}

//! The error function and what else is made of the normal distribution: gelu.

use fearless_simd::Simd;

use super::Several;
use super::exponential::Parts;
use crate::float::Compute;

/// x Phi(x) = x (1 + erf(x / sqrt 2)) / 2
#[inline(always)]
pub(crate) fn gelu<S: Simd, C: Compute, const N: usize>(x: Several<S, C, N>) -> Several<S, C, N> {
    // x Phi(x) is -|x| Phi(-|x|) below zero and x - |x| Phi(-|x|) above: no sum cancels.
    let size = x.abs().at_most(C::GELU_MAX);
    let halved = size * -C::HALF;
    let e = Parts::of_sum([size * halved, halved], log_tail(size), C::TINY_EXPONENT);
    let scaled = size * e.power;
    let tail = scaled.mul_add(e.rest, scaled);
    tail.mul_add(x.splat(-(C::TINY * C::HALF)), x.at_least(C::ZERO))
}

/// erf x
#[inline(always)]
pub(crate) fn erf<S: Simd, C: Compute, const N: usize>(x: Several<S, C, N>) -> Several<S, C, N> {
    let size = x.abs().at_most(C::ERF_MAX);

    // Near zero: x + x P(x^2)
    let square = size * size;
    let near = size.mul_add(square.polynomial(C::ERF), size);

    // Elsewhere: 1 - 2 Phi(-sqrt 2 x)
    let scaled = size * C::SQRT_2;
    let e = Parts::of_sum([-square, scaled * -C::HALF], log_tail(scaled), C::ZERO);
    let far = x.splat(C::ONE) - e.product();

    size.choose(C::ERF_NEAR, near, far).with_sign_of(x)
}

/// ln(2 Phi(-x)) + x^2 / 2 + x / 2 for x >= 0: what is left of the logarithm of the normal distribution's tail without
/// its steep part. It is small where gelu has to be exact, and so is its error.
#[inline(always)]
fn log_tail<S: Simd, C: Compute, const N: usize>(x: Several<S, C, N>) -> Several<S, C, N> {
    let x = if C::LOG_TAIL_MAX < C::GELU_MAX { x.at_most(C::LOG_TAIL_MAX) } else { x };
    x * x.polynomial(C::LOG_TAIL)
}

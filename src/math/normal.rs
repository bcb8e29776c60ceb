//! The error function and what else is made of the normal distribution: gelu.

use fearless_simd::{Select, Simd, SimdBase, SimdFloat};

use super::exponential::Parts;
use super::{at_least, at_most, polynomial, splat};
use crate::float::Compute;

/// x times the normal distribution function: x (1 + erf(x / sqrt 2)) / 2.
///
/// Source: Hendrycks and Gimpel, Gaussian Error Linear Units, 2016.
#[inline(always)]
pub fn gelu<S: Simd, C: Compute>(simd: S, x: C::Lanes<S>) -> C::Lanes<S> {
    // x Phi(x) is -|x| Phi(-|x|) below zero and x - |x| Phi(-|x|) above: no sum cancels.
    let size = at_most::<S, C>(simd, x.abs(), C::GELU_MAX);
    let half = C::from_f64(-0.5);
    let e =
        Parts::<S, C>::of_sum(simd, [size * size * half, size * half], log_tail::<S, C>(simd, size), C::TINY_EXPONENT);
    let scaled = size * e.power;
    let tail = scaled.mul_add(e.rest, scaled);
    let positive = at_least::<S, C>(simd, x, C::ZERO);
    tail.mul_add(-(C::TINY * C::from_f64(0.5)), positive)
}

/// erf x, the error function.
#[inline(always)]
pub fn erf<S: Simd, C: Compute>(simd: S, x: C::Lanes<S>) -> C::Lanes<S> {
    let size = at_most::<S, C>(simd, x.abs(), C::ERF_MAX);
    let square = size * size;

    // Near zero: x + x P(x^2)
    let near = size.mul_add(polynomial::<S, C>(simd, square, C::ERF), size);

    // Elsewhere: 1 - 2 Phi(-sqrt 2 x)
    let one = splat::<S, C>(simd, C::ONE);
    let scaled = size * C::SQRT_2;
    let tail = log_tail::<S, C>(simd, scaled);
    let e = Parts::<S, C>::of_sum(simd, [-square, scaled * C::from_f64(-0.5)], tail, C::ZERO);
    let far = one - e.product();

    size.simd_lt(C::ERF_NEAR).select(near, far).copysign(x)
}

/// ln(2 Phi(-x)) + x^2 / 2 + x / 2 for x >= 0: what is left of the logarithm of the normal distribution's tail without
/// its steep part. It is small where gelu has to be exact, and so is its error.
#[inline(always)]
fn log_tail<S: Simd, C: Compute>(simd: S, x: C::Lanes<S>) -> C::Lanes<S> {
    let x = if C::LOG_TAIL_MAX < C::GELU_MAX { at_most::<S, C>(simd, x, C::LOG_TAIL_MAX) } else { x };
    x * polynomial::<S, C>(simd, x, C::LOG_TAIL)
}

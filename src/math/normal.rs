//! The error function and what else is made of the normal distribution: gelu.

use fearless_simd::Simd;

use super::Unrolled;
use super::exponential::Parts;
use crate::float::Compute;

/// x Phi(x) = x (1 + erf(x / sqrt 2)) / 2
#[inline(always)]
pub(crate) fn gelu<S: Simd, C: Compute, const N: usize>(x: Unrolled<S, C, N>) -> Unrolled<S, C, N> {
    // x Phi(x) is -|x| Phi(-|x|) below zero and x - |x| Phi(-|x|) above: no sum cancels.
    let size = x.abs().at_most(C::GELU_MAX);
    let e = if x.has_fma() {
        Parts::of_small_multiple(size * size, -C::HALF, C::TINY_EXPONENT)
    } else {
        // Where each product is rounded there are more errors already, so the square's is one too many: the upper half of
        // the bits squared, which is exact, and the rest.
        let high = size.upper_half();
        let rest = (size - high) * (size + high) * -C::HALF;
        Parts::of_sum([high * high * -C::HALF], rest, C::TINY_EXPONENT)
    };
    let tail = times_mills_ratio(e, size, size);
    tail.mul_add(x.splat(-C::TINY), x.at_least(C::ZERO))
}

/// erf x
#[inline(always)]
pub(crate) fn erf<S: Simd, C: Compute, const N: usize>(x: Unrolled<S, C, N>) -> Unrolled<S, C, N> {
    let size = x.abs().at_most(C::ERF_MAX);
    let square = size * size;

    // Near zero: x + x P(x^2)
    let near = size.mul_add(square.polynomial(C::ERF), size);

    // Elsewhere: 1 - 2 Phi(-sqrt 2 x)
    let e = Parts::of_small_multiple(square, -C::ONE, C::ZERO);
    let far = x.splat(C::ONE) - times_mills_ratio(e, x.splat(C::TWO), size * C::SQRT_2);

    size.choose(C::ERF_NEAR, near, far).with_sign_of(x)
}

/// `e` times `factor` times Phi(-x) e^(x^2 / 2), the latter being Mills' ratio of the normal distribution but for a factor, for
/// x >= 0.
///
/// That ratio is close to 1 / (2 + x sqrt(8 / pi)). What has to be added to that, relative to it, is at most 1/3 and, where
/// gelu has to be exact, 1/8, so what goes wrong there hardly counts.
#[inline(always)]
fn times_mills_ratio<S: Simd, C: Compute, const N: usize>(
    e: Parts<S, C, N>,
    factor: Unrolled<S, C, N>,
    x: Unrolled<S, C, N>,
) -> Unrolled<S, C, N> {
    let near = e.power * factor / x.mul_add(x.splat(C::MILLS_SLOPE), x.splat(C::TWO));
    let above = x * x * x.horner(C::MILLS) / x.monic(C::MILLS_DIVISOR);
    near.mul_add(e.rest.mul_add(above, e.rest) + above, near)
}

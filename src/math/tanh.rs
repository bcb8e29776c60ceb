//! The hyperbolic tangent.

use fearless_simd::Simd;

use super::Several;
use super::exponential::Parts;
use crate::float::Compute;

/// tanh x
#[inline(always)]
pub(crate) fn tanh<S: Simd, C: Compute, const N: usize>(x: Several<S, C, N>) -> Several<S, C, N> {
    // (1 - e) / (1 + e), e = e^-2|x| being s (1 + w): near zero s is 1, so that 1 - s and nothing cancels; elsewhere
    // 1 - s is exact, or no less than a half. Each of the sums rounds once.
    let size = x.abs().at_most(C::TANH_MAX);
    let e = Parts::of_multiple(size, -C::TWO, C::ZERO);
    let one = x.splat(C::ONE);
    let above = e.power.mul_add(-e.rest, one - e.power);
    let below = e.power.mul_add(e.rest, one + e.power);
    (above / below).with_sign_of(x)
}

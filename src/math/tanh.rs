//! The hyperbolic tangent.

use fearless_simd::Simd;

use super::Unrolled;
use super::exponential::Parts;
use crate::float::Compute;

/// tanh x
#[inline(always)]
pub(crate) fn tanh<S: Simd, C: Compute, const N: usize>(x: Unrolled<S, C, N>) -> Unrolled<S, C, N> {
    // (1 - e) / (1 + e), e = e^-2|x| being s (1 + w): near zero s is 1, so that 1 - s and nothing cancels; elsewhere
    // 1 - s is exact, or no less than a half. Each of the sums rounds once.
    let size = x.abs().at_most(C::TANH_MAX);
    let one = x.splat(C::ONE);
    if C::TANH_NEEDS_NO_CORRECTION && x.has_fma() {
        let e = Parts::of_multiple(size, -C::TWO, C::ZERO);
        let above = e.power.mul_add(-e.rest, one - e.power);
        let below = e.power.mul_add(e.rest, one + e.power);
        return (above / below).with_sign_of(x);
    }
    // Elsewhere that comes to 2.2 units near 1/8. What the sums lost is known exactly, and of the quotient's derivative a
    // few bits are enough: 1 / (1 + e) = (1 + tanh x) / 2.
    let (e, lost) = Parts::with_what_is_lost(size, -C::TWO);
    let (part, lost) = (e.power * e.rest, e.power * lost);
    let (first_above, first_below) = (one - e.power, one + e.power);
    let (above, below) = (first_above - part, first_below + part);
    let quotient = above / below;
    let lost_above = ((first_above - above) - part) - lost;
    let lost_below = (part - (below - first_below)) + lost;
    let lost = (-quotient).mul_add(lost_below, lost_above);
    let half = x.splat(C::ONE / C::TWO);
    lost.mul_add(quotient.mul_add(half, half), quotient).with_sign_of(x)
}

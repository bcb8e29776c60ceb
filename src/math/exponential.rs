//! e^x, for every x and, cheaper, for x <= 0.

use fearless_simd::{Simd, SimdBase, SimdFloat};

use super::{polynomial, splat};
use crate::float::Compute;

/// e^x.
#[inline(always)]
pub fn exp<S: Simd, C: Compute>(simd: S, x: C::Lanes<S>) -> C::Lanes<S> {
    let (n, mantissa) = reduced::<S, C>(simd, x.clamp(C::EXP_MIN, C::EXP_MAX), C::ROUND_DOUBLE_BIAS);
    // 2^n in two steps: together they reach infinity above and round once, below, where the result is subnormal.
    let half = n >> 1;
    let rest = n - half;
    let half = C::Lanes::<S>::from_bits(half << C::MANTISSA_BITS);
    let rest = C::Lanes::<S>::from_bits(rest << C::MANTISSA_BITS);
    mantissa * half * rest
}

/// e^x where x <= 0: what softmax and sigmoid need. Above 0.5 the result is not to be used.
#[inline(always)]
pub fn exp_nonpositive<S: Simd, C: Compute>(simd: S, x: C::Lanes<S>) -> C::Lanes<S> {
    let (n, mantissa) = reduced::<S, C>(simd, x.clamp(C::EXP_MIN, C::EXP_MAX), C::ROUND_TINY);
    // n is at most 0, so an offset keeps the exponent in range until one multiplication rounds.
    let scaled = mantissa.to_bits() + (n << C::MANTISSA_BITS);
    C::Lanes::<S>::from_bits(scaled) * C::TINY
}

/// e^x = 2^n * mantissa; n in the lowest bits of the first, plus what `round` holds beside the rounding constant.
#[inline(always)]
fn reduced<S: Simd, C: Compute>(
    simd: S,
    x: C::Lanes<S>,
    round: C,
) -> (<C::Lanes<S> as SimdFloat<S>>::Bits, C::Lanes<S>) {
    let round = splat::<S, C>(simd, round);
    let n = x.mul_add(C::LOG2_E, round);
    let exponent = n - round;
    let r = exponent.mul_add(-C::LN_2_HIGH, x);
    let r = exponent.mul_add(-C::LN_2_LOW, r);
    let tail = polynomial::<S, C>(simd, r, C::EXP);
    (n.to_bits(), (r * r).mul_add(tail, r) + C::from_f64(1.0))
}

//! e^x, and the form of it that the other functions are made of: a power of two beside e^r - 1, not yet added up.

use fearless_simd::{Simd, SimdBase, SimdFloat};

use super::{at_least, polynomial, splat};
use crate::float::Compute;

/// e^x as s (1 + w): `power` is s, a power of two, and `rest` is w, between -0.3 and 0.42.
///
/// s w is exact, so s + s w rounds once, and so do 1 + s + s w and the like: this is where the functions of this room
/// have their accuracy from, with and without fused multiply-add.
pub(super) struct Parts<S: Simd, C: Compute> {
    pub(super) power: C::Lanes<S>,
    pub(super) rest: C::Lanes<S>,
}

impl<S: Simd, C: Compute> Parts<S, C> {
    /// Of e^x * 2^offset, where that power of two is a normal number: the caller sees to it.
    #[inline(always)]
    pub(super) fn new(simd: S, x: C::Lanes<S>, offset: C) -> Self {
        let round = splat::<S, C>(simd, C::ROUND + C::EXPONENT_BIAS + offset);
        let count = x.mul_add(C::LOG2_E, round);
        let n = count - round;
        let r = n.mul_add(-C::LN_2_HIGH, x);
        let r = n.mul_add(-C::LN_2_LOW, r);
        Self { power: power_of_two::<S, C>(count.to_bits()), rest: expm1_near_zero::<S, C>(simd, r) }
    }

    /// Of e^(the sum of `high` and `low`) * 2^offset. The sum of `high` less its multiple of ln 2 is exact where each
    /// partial sum is, being a multiple of the terms' lowest bit and small; then only the error of `low` counts.
    #[inline(always)]
    pub(super) fn of_sum<const N: usize>(simd: S, high: [C::Lanes<S>; N], low: C::Lanes<S>, offset: C) -> Self {
        let round = splat::<S, C>(simd, C::ROUND + C::EXPONENT_BIAS + offset);
        let mut sum = low;
        for term in high {
            sum += term;
        }
        let count = sum.mul_add(C::LOG2_E, round);
        let n = count - round;
        let [first, rest @ ..] = &high[..] else { return Self::new(simd, low, offset) };
        let mut r = n.mul_add(-C::LN_2_HIGH, *first);
        for &term in rest {
            r += term;
        }
        r += n.mul_add(-C::LN_2_LOW, low);
        Self { power: power_of_two::<S, C>(count.to_bits()), rest: expm1_near_zero::<S, C>(simd, r) }
    }

    /// s (1 + w)
    #[inline(always)]
    pub(super) fn product(self) -> C::Lanes<S> {
        self.power.mul_add(self.rest, self.power)
    }
}

/// 2^n from a number whose lowest bits are n plus the exponent bias; the bits above fall out.
#[inline(always)]
fn power_of_two<S: Simd, C: Compute>(count: <C::Lanes<S> as SimdFloat<S>>::Bits) -> C::Lanes<S> {
    C::Lanes::<S>::from_bits(count << C::MANTISSA_BITS)
}

/// e^r - 1 for |r| <= ln 2 / 2
#[inline(always)]
fn expm1_near_zero<S: Simd, C: Compute>(simd: S, r: C::Lanes<S>) -> C::Lanes<S> {
    (r * r).mul_add(polynomial::<S, C>(simd, r, C::EXP), r)
}

/// e^x. Subnormal results are kept.
#[inline(always)]
pub fn exp<S: Simd, C: Compute>(simd: S, x: C::Lanes<S>) -> C::Lanes<S> {
    let round = splat::<S, C>(simd, C::ROUND + C::EXPONENT_BIAS + C::EXPONENT_BIAS);
    let x = x.clamp(C::EXP_MIN, C::EXP_MAX);
    let count = x.mul_add(C::LOG2_E, round);
    let n = count - round;
    let r = n.mul_add(-C::LN_2_HIGH, x);
    let r = n.mul_add(-C::LN_2_LOW, r);
    let rest = expm1_near_zero::<S, C>(simd, r);
    // n + twice the bias, halved: two powers of two whose product reaches infinity above, and below rounds once.
    let count = count.to_bits();
    let half = count >> 1;
    let power = power_of_two::<S, C>(half);
    power.mul_add(rest, power) * power_of_two::<S, C>(count - half)
}

/// e^x where x <= 0, cheaper: what softmax needs. Subnormal results are kept. Where x > 0 the result means nothing.
#[inline(always)]
pub fn exp_nonpositive<S: Simd, C: Compute>(simd: S, x: C::Lanes<S>) -> C::Lanes<S> {
    // The power of two has to be a normal number, so it is kept too high until a last multiplication, which rounds.
    let x = at_least::<S, C>(simd, x, C::EXP_MIN);
    Parts::<S, C>::new(simd, x, C::TINY_EXPONENT).product() * C::TINY
}

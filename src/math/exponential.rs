//! e^x, and the form of it that the other functions are made of: a power of two beside e^r - 1, not yet added up.

use fearless_simd::Simd;

use super::Unrolled;
use crate::float::Compute;
use crate::macros::lane_fn;

/// e^x as s (1 + w): `power` is s, a power of two, and `rest` is w, between -0.3 and 0.42.
///
/// s w is exact, so s + s w rounds once, and so do 1 + s + s w and the like: this is where the functions of this module
/// have their accuracy from, with and without fused multiply-add.
pub(super) struct Parts<S: Simd, C: Compute, const N: usize> {
    pub(super) power: Unrolled<S, C, N>,
    pub(super) rest: Unrolled<S, C, N>,
}

impl<S: Simd, C: Compute, const N: usize> Parts<S, C, N> {
    /// Of e^x * 2^offset, where that power of two is a normal number: the caller sees to it.
    #[inline(always)]
    pub(super) fn new(x: Unrolled<S, C, N>, offset: C) -> Self {
        Self::of_multiple(x, C::ONE, offset)
    }

    /// Of e^(factor x) * 2^offset, likewise; the product must be exact.
    #[inline(always)]
    pub(super) fn of_multiple(x: Unrolled<S, C, N>, factor: C, offset: C) -> Self {
        let (count, n) = multiples_of_ln_2(x, factor, C::EXPONENT_BIAS + offset);
        let r = n.mul_add(n.splat(-C::LN_2_HIGH), x * factor);
        let r = n.mul_add(n.splat(-C::LN_2_LOW), r);
        Self { power: power_of_two(count), rest: expm1_near_zero(r) }
    }

    /// [`of_multiple`](Self::of_multiple) for products of a few units, or where small results need not be as exact: what
    /// log2 e lost when it was rounded counts factor x times. Two steps less where the CPU fuses.
    #[inline(always)]
    pub(super) fn of_small_multiple(x: Unrolled<S, C, N>, factor: C, offset: C) -> Self {
        if !x.has_fma() {
            return Self::of_multiple(x, factor, offset);
        }
        let (count, n) = multiples_of_ln_2(x, factor, C::EXPONENT_BIAS + offset);
        let f = x.mul_add(x.splat(factor * C::LOG2_E), -n);
        Self { power: power_of_two(count), rest: f * f.horner(C::EXP2) }
    }

    /// [`of_multiple`](Self::of_multiple) without an offset, and what `rest` lost when its last sum was rounded.
    #[inline(always)]
    pub(super) fn with_what_is_lost(x: Unrolled<S, C, N>, factor: C) -> (Self, Unrolled<S, C, N>) {
        let (count, n) = multiples_of_ln_2(x, factor, C::EXPONENT_BIAS);
        let r = n.mul_add(n.splat(-C::LN_2_HIGH), x * factor);
        let r = n.mul_add(n.splat(-C::LN_2_LOW), r);
        let above_r = (r * r) * r.polynomial(C::EXP);
        let rest = r + above_r;
        // Exact, the first term of the sum being the larger (Dekker 1971).
        (Self { power: power_of_two(count), rest }, above_r - (rest - r))
    }

    /// Of e^(the sum of `high` and `low`) * 2^offset. The sum of `high` less its multiple of ln 2 is exact where each
    /// partial sum is, being a multiple of the terms' lowest bit and small; then only the error of `low` counts.
    #[inline(always)]
    pub(super) fn of_sum<const K: usize>(high: [Unrolled<S, C, N>; K], low: Unrolled<S, C, N>, offset: C) -> Self {
        let mut sum = low;
        for term in high {
            sum = sum + term;
        }
        let (count, n) = multiples_of_ln_2(sum, C::ONE, C::EXPONENT_BIAS + offset);
        let low = n.mul_add(n.splat(-C::LN_2_LOW), low);
        let [first, rest @ ..] = &high[..] else { return Self::new(low, offset) };
        let mut r = n.mul_add(n.splat(-C::LN_2_HIGH), *first);
        for &term in rest {
            r = r + term;
        }
        Self { power: power_of_two(count), rest: expm1_near_zero(r + low) }
    }

    /// s (1 + w)
    #[inline(always)]
    pub(super) fn product(self) -> Unrolled<S, C, N> {
        self.power.mul_add(self.rest, self.power)
    }
}

/// The integer n nearest to factor x / ln 2, and before it a number whose lowest bits are n + `offset`.
#[inline(always)]
fn multiples_of_ln_2<S: Simd, C: Compute, const N: usize>(
    x: Unrolled<S, C, N>,
    factor: C,
    offset: C,
) -> (Unrolled<S, C, N>, Unrolled<S, C, N>) {
    let round = x.splat(C::ROUND + offset);
    let count = x.mul_add(x.splat(factor * C::LOG2_E), round);
    (count, count - round)
}

/// 2^n from a number whose lowest bits are n plus the exponent bias; the bits above fall out.
#[inline(always)]
fn power_of_two<S: Simd, C: Compute, const N: usize>(count: Unrolled<S, C, N>) -> Unrolled<S, C, N> {
    count.each_bits(lane_fn!(|count| count << C::MANTISSA_BITS))
}

/// e^r - 1 for |r| <= ln 2 / 2
#[inline(always)]
fn expm1_near_zero<S: Simd, C: Compute, const N: usize>(r: Unrolled<S, C, N>) -> Unrolled<S, C, N> {
    (r * r).mul_add(r.polynomial(C::EXP), r)
}

/// e^x. Subnormal results are kept.
#[inline(always)]
pub(super) fn exp<S: Simd, C: Compute, const N: usize>(x: Unrolled<S, C, N>) -> Unrolled<S, C, N> {
    let x = x.at_least(C::EXP_MIN).at_most(C::EXP_MAX);
    let (count, n) = multiples_of_ln_2(x, C::ONE, C::EXPONENT_BIAS + C::EXPONENT_BIAS);
    let r = n.mul_add(n.splat(-C::LN_2_HIGH), x);
    let r = n.mul_add(n.splat(-C::LN_2_LOW), r);
    let rest = expm1_near_zero(r);
    // n + twice the bias, halved: two powers of two whose product reaches infinity above, and below rounds once.
    let half = count.each_bits(lane_fn!(|count| count >> 1));
    let other = count.each_bits_with(half, lane_fn!(|count, half| count - half));
    Parts { power: power_of_two(half), rest }.product() * power_of_two(other)
}

/// e^x where x <= 0. Subnormal results are kept.
#[inline(always)]
pub(crate) fn exp_nonpositive<S: Simd, C: Compute, const N: usize>(x: Unrolled<S, C, N>) -> Unrolled<S, C, N> {
    // The power of two has to be a normal number, so it is kept too high until a last multiplication, which rounds.
    raised_exp(x) * C::TINY
}

/// e^x / [`TINY`](super::Constants::TINY) where x <= 0: for what is divided by a sum of the same.
#[inline(always)]
pub(crate) fn raised_exp<S: Simd, C: Compute, const N: usize>(x: Unrolled<S, C, N>) -> Unrolled<S, C, N> {
    Parts::new(x.at_least(C::EXP_MIN), C::TINY_EXPONENT).product()
}

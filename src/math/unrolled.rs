//! Loops over vectors unrolled by hand: what the functions of this module are written over.

use core::ops::{Add, Div, Mul, Neg, Sub};

use fearless_simd::{Bytes, Select, Simd, SimdBase, SimdFloat};

use crate::float::Compute;
use crate::macros::lane_fn;
use crate::simd;

/// A vector's bits.
type Bits<S, C> = <<C as Compute>::Lanes<S> as SimdFloat<S>>::Bits;

/// N vectors that take each step of a function together.
///
/// A function is a long chain of steps that wait for each other. With two vectors a CPU has twice as much to do
/// meanwhile, and each constant is fetched once for both. A compiler does not interleave them of its own accord.
pub(crate) struct Unrolled<S: Simd, C: Compute, const N: usize> {
    simd: S,
    lanes: [C::Lanes<S>; N],
}

impl<S: Simd, C: Compute, const N: usize> Clone for Unrolled<S, C, N> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Simd, C: Compute, const N: usize> Copy for Unrolled<S, C, N> {}

impl<S: Simd, C: Compute, const N: usize> Unrolled<S, C, N> {
    #[inline(always)]
    pub(crate) fn new(simd: S, lanes: [C::Lanes<S>; N]) -> Self {
        Self { simd, lanes }
    }

    #[inline(always)]
    pub(crate) fn lanes(self) -> [C::Lanes<S>; N] {
        self.lanes
    }

    /// `value` in each lane of as many vectors as `self` has.
    #[inline(always)]
    pub(super) fn splat(self, value: C) -> Self {
        Self { lanes: [C::Lanes::<S>::splat(self.simd, value); N], ..self }
    }

    #[inline(always)]
    pub(crate) fn each(mut self, f: impl Fn(C::Lanes<S>) -> C::Lanes<S>) -> Self {
        for lanes in &mut self.lanes {
            *lanes = f(*lanes);
        }
        self
    }

    #[inline(always)]
    pub(super) fn each_with(mut self, other: Self, f: impl Fn(C::Lanes<S>, C::Lanes<S>) -> C::Lanes<S>) -> Self {
        for index in 0..N {
            self.lanes[index] = f(self.lanes[index], other.lanes[index]);
        }
        self
    }

    /// `f` of the bits of each vector.
    #[inline(always)]
    pub(super) fn each_bits(self, f: impl Fn(Bits<S, C>) -> Bits<S, C>) -> Self {
        // `from_bits` and `to_bits` would be called, not inlined: `bitcast` is what they do.
        self.each(lane_fn!(|x| f(x.bitcast()).bitcast()))
    }

    #[inline(always)]
    pub(super) fn each_bits_with(self, other: Self, f: impl Fn(Bits<S, C>, Bits<S, C>) -> Bits<S, C>) -> Self {
        self.each_with(other, lane_fn!(|x, other| f(x.bitcast(), other.bitcast()).bitcast()))
    }

    /// Whether [`mul_add`](Self::mul_add) rounds once.
    #[inline(always)]
    pub(super) fn has_fma(&self) -> bool {
        simd::has_fma(self.simd)
    }

    /// self * factor + term; rounded once where the CPU can.
    #[inline(always)]
    pub(super) fn mul_add(mut self, factor: Self, term: Self) -> Self {
        for index in 0..N {
            self.lanes[index] = self.lanes[index].mul_add(factor.lanes[index], term.lanes[index]);
        }
        self
    }

    #[inline(always)]
    pub(super) fn abs(self) -> Self {
        self.each(lane_fn!(|x| x.abs()))
    }

    /// Without the lower half of its bits: see [`UPPER_HALF`](super::Constants::UPPER_HALF).
    #[inline(always)]
    pub(super) fn upper_half(self) -> Self {
        self.each_bits(lane_fn!(|x| x & C::UPPER_HALF))
    }

    /// What has no sign of its own gets that of `other`.
    #[inline(always)]
    pub(super) fn with_sign_of(self, other: Self) -> Self {
        self.each_bits_with(other, lane_fn!(|x, other| x | (other & C::SIGN)))
    }

    /// The larger of the two; either where one is NaN.
    #[inline(always)]
    pub(super) fn max(self, other: Self) -> Self {
        self.each_with(other, lane_fn!(|x, other| x.max(other)))
    }

    /// The smaller of the two; either where one is NaN.
    #[inline(always)]
    pub(super) fn min(self, other: Self) -> Self {
        self.each_with(other, lane_fn!(|x, other| x.min(other)))
    }

    /// The larger of the two; NaN stays.
    #[inline(always)]
    pub(super) fn at_least(self, bound: C) -> Self {
        self.each(lane_fn!(|x| simd::at_least::<S, C>(self.simd, x, bound)))
    }

    /// The smaller of the two; NaN stays.
    #[inline(always)]
    pub(super) fn at_most(self, bound: C) -> Self {
        self.each(lane_fn!(|x| simd::at_most::<S, C>(self.simd, x, bound)))
    }

    /// The polynomial with these coefficients, the highest power first.
    ///
    /// Short ones by Horner's rule. In longer ones two neighbours are taken together and Horner's rule is applied to these,
    /// as Estrin does, which takes half of the time from the first step to the last: a CPU can only look so far ahead for
    /// something else to do meanwhile.
    #[inline(always)]
    pub(super) fn polynomial(self, coefficients: &[C]) -> Self {
        if coefficients.len() < 5 {
            return self.horner(coefficients);
        }
        let square = self * self;
        let (first, pairs) = coefficients.split_at(2 - coefficients.len() % 2);
        let mut sum = self.horner(first);
        for pair in pairs.chunks_exact(2) {
            sum = sum.mul_add(square, self.horner(pair));
        }
        sum
    }

    /// The polynomial with these coefficients, the highest power first, by Horner's rule: the fewest steps.
    #[inline(always)]
    pub(super) fn horner(self, coefficients: &[C]) -> Self {
        let (mut index, mut sum) = (1, self.splat(coefficients.first().copied().unwrap_or(C::ZERO)));
        while let Some(&coefficient) = coefficients.get(index) {
            sum = sum.mul_add(self, self.splat(coefficient));
            index += 1;
        }
        sum
    }

    /// The polynomial whose highest power stands alone and whose other coefficients these are, by Horner's rule.
    #[inline(always)]
    pub(super) fn monic(self, coefficients: &[C]) -> Self {
        let [first, rest @ ..] = coefficients else { return self.splat(C::ONE) };
        let mut sum = self + *first;
        for &coefficient in rest {
            sum = sum.mul_add(self, self.splat(coefficient));
        }
        sum
    }

    /// `below` where self < bound, else `above`; the latter too where self is NaN.
    #[inline(always)]
    pub(super) fn choose(mut self, bound: C, below: Self, above: Self) -> Self {
        for index in 0..N {
            let mask = self.lanes[index].simd_lt(bound);
            self.lanes[index] = mask.select(below.lanes[index], above.lanes[index]);
        }
        self
    }
}

macro_rules! operator {
    ($trait:ident, $method:ident) => {
        impl<S: Simd, C: Compute, const N: usize> $trait for Unrolled<S, C, N> {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                self.each_with(other, lane_fn!(|x, other| x.$method(other)))
            }
        }

        impl<S: Simd, C: Compute, const N: usize> $trait<C> for Unrolled<S, C, N> {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: C) -> Self {
                self.$method(self.splat(other))
            }
        }
    };
}

operator!(Add, add);
operator!(Sub, sub);
operator!(Mul, mul);
operator!(Div, div);

impl<S: Simd, C: Compute, const N: usize> Neg for Unrolled<S, C, N> {
    type Output = Self;

    #[inline(always)]
    fn neg(self) -> Self {
        self.each(lane_fn!(|x| -x))
    }
}

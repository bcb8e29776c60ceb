//! Several vectors worked on in step: what the functions of this room are written over.

use core::ops::{Add, Div, Mul, Neg, Sub};

use fearless_simd::{Bytes, Select, Simd, SimdBase, SimdFloat};

use crate::float::Compute;
use crate::simd;

/// A vector's bits.
type Bits<S, C> = <<C as Compute>::Lanes<S> as SimdFloat<S>>::Bits;

/// N vectors that take each step of a function together.
///
/// A function is a long chain of steps that wait for each other. With two vectors in step a CPU has twice as much to do
/// meanwhile, and each constant is fetched once for both. A compiler does not interleave them of its own accord.
pub(crate) struct Several<S: Simd, C: Compute, const N: usize> {
    simd: S,
    lanes: [C::Lanes<S>; N],
}

impl<S: Simd, C: Compute, const N: usize> Clone for Several<S, C, N> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Simd, C: Compute, const N: usize> Copy for Several<S, C, N> {}

impl<S: Simd, C: Compute, const N: usize> Several<S, C, N> {
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
        self.each(
            #[inline(always)]
            |x| f(x.bitcast()).bitcast(),
        )
    }

    #[inline(always)]
    pub(super) fn each_bits_with(self, other: Self, f: impl Fn(Bits<S, C>, Bits<S, C>) -> Bits<S, C>) -> Self {
        self.each_with(
            other,
            #[inline(always)]
            |x, other| f(x.bitcast(), other.bitcast()).bitcast(),
        )
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
        self.each(
            #[inline(always)]
            |x| x.abs(),
        )
    }

    #[inline(always)]
    pub(super) fn copysign(self, sign: Self) -> Self {
        self.each_with(
            sign,
            #[inline(always)]
            |x, sign| x.copysign(sign),
        )
    }

    /// The larger of the two; either where one is NaN.
    #[inline(always)]
    pub(super) fn max(self, other: Self) -> Self {
        self.each_with(
            other,
            #[inline(always)]
            |x, other| x.max(other),
        )
    }

    /// The smaller of the two; either where one is NaN.
    #[inline(always)]
    pub(super) fn min(self, other: Self) -> Self {
        self.each_with(
            other,
            #[inline(always)]
            |x, other| x.min(other),
        )
    }

    /// The larger of the two; NaN stays.
    #[inline(always)]
    pub(super) fn at_least(self, bound: C) -> Self {
        self.each(
            #[inline(always)]
            |x| simd::at_least::<S, C>(self.simd, x, bound),
        )
    }

    /// The smaller of the two; NaN stays.
    #[inline(always)]
    pub(super) fn at_most(self, bound: C) -> Self {
        self.each(
            #[inline(always)]
            |x| simd::at_most::<S, C>(self.simd, x, bound),
        )
    }

    /// The polynomial with these coefficients, the highest power first.
    ///
    /// Short ones by Horner's rule; in longer ones every second or fourth coefficient is taken together, which makes
    /// two or four shorter chains of steps.
    #[inline(always)]
    pub(super) fn polynomial(self, coefficients: &[C]) -> Self {
        match coefficients.len() {
            0..8 => self.horner::<1>(coefficients, 0),
            8..16 => {
                let square = self * self;
                let even = square.horner::<2>(coefficients, 0);
                let odd = square.horner::<2>(coefficients, 1);
                odd.mul_add(self, even)
            }
            _ => {
                let square = self * self;
                let fourth = square * square;
                let a = fourth.horner::<4>(coefficients, 0);
                let b = fourth.horner::<4>(coefficients, 1);
                let c = fourth.horner::<4>(coefficients, 2);
                let d = fourth.horner::<4>(coefficients, 3);
                d.mul_add(self, c).mul_add(square, b.mul_add(self, a))
            }
        }
    }

    /// The polynomial in `self` whose coefficients are those of the powers `part`, `part + STEP`, and so on.
    #[inline(always)]
    fn horner<const STEP: usize>(self, coefficients: &[C], part: usize) -> Self {
        let mut index = (coefficients.len() + STEP - 1 - part) % STEP;
        let mut sum = self.splat(coefficients.get(index).copied().unwrap_or(C::ZERO));
        index += STEP;
        while let Some(&coefficient) = coefficients.get(index) {
            sum = sum.mul_add(self, self.splat(coefficient));
            index += STEP;
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
        impl<S: Simd, C: Compute, const N: usize> $trait for Several<S, C, N> {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                self.each_with(
                    other,
                    #[inline(always)]
                    |x, other| x.$method(other),
                )
            }
        }

        impl<S: Simd, C: Compute, const N: usize> $trait<C> for Several<S, C, N> {
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

impl<S: Simd, C: Compute, const N: usize> Neg for Several<S, C, N> {
    type Output = Self;

    #[inline(always)]
    fn neg(self) -> Self {
        self.each(
            #[inline(always)]
            |x| -x,
        )
    }
}

//! The natural logarithm.

use fearless_simd::{Bytes, Select, Simd, SimdBase, SimdFloat};

use super::Unrolled;
use crate::float::Compute;

/// ln x: NaN below zero, minus infinity at zero. The method is that of FreeBSD's msun.
#[inline(always)]
pub fn ln<S: Simd, C: Compute>(simd: S, x: C::Lanes<S>) -> C::Lanes<S> {
    type Bits<S, C> = <<C as Compute>::Lanes<S> as SimdFloat<S>>::Bits;
    let zero = C::Lanes::<S>::splat(simd, C::ZERO);
    let subnormal = x.simd_lt(C::MIN_NORMAL);
    let normal = subnormal.select(x * C::NORMALIZE, x);
    let exponent = subnormal.select(C::Lanes::<S>::splat(simd, C::NORMALIZE_EXPONENT), zero);

    // normal = 2^n * m with sqrt(1/2) <= m < sqrt(2); n by way of a float whose lowest bits count ones.
    let one = Bits::<S, C>::splat(simd, C::ONE_BITS);
    let root = Bits::<S, C>::splat(simd, C::SQRT_HALF_BITS);
    let bits = normal.bitcast::<Bits<S, C>>() + (one - root);
    let count = (bits >> C::MANTISSA_BITS) | C::COUNT_BITS;
    let n = count.bitcast::<C::Lanes<S>>() - C::Lanes::<S>::splat(simd, C::COUNT_BIASED) + exponent;
    let m: C::Lanes<S> = ((bits & C::MANTISSA_MASK) + root).bitcast();

    // ln m = f - f^2 / 2 + s (f^2 / 2 + R(s^2)), with f = m - 1 and s = f / (2 + f)
    let f = m - C::ONE;
    let s = f / (f + C::TWO);
    let z = s * s;
    let [tail] = Unrolled::<S, C, 1>::new(simd, [z]).polynomial(C::LN).lanes();
    let tail = tail * z;
    let half_square = f * f * C::HALF;
    let small = s.mul_add(half_square + tail, n * C::LN_2_LOW);
    let result = n.mul_add(C::LN_2_HIGH, f - (half_square - small));

    let infinity = C::Lanes::<S>::splat(simd, <C as num_traits::Float>::infinity());
    let result = x.simd_lt(infinity).select(result, x);
    let result = x.simd_lt(zero).select(C::Lanes::<S>::splat(simd, <C as num_traits::Float>::nan()), result);
    x.simd_eq(zero).select(-infinity, result)
}

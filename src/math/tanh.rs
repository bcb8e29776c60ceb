//! The hyperbolic tangent.

use fearless_simd::{Select, Simd, SimdBase, SimdFloat};

use super::exponential::Parts;
use super::{at_most, polynomial, splat};
use crate::float::Compute;

/// tanh x.
#[inline(always)]
pub fn tanh<S: Simd, C: Compute>(simd: S, x: C::Lanes<S>) -> C::Lanes<S> {
    let size = at_most::<S, C>(simd, x.abs(), C::TANH_MAX);

    // Near zero: x + x^3 P(x^2)
    let square = size * size;
    let near = (size * square).mul_add(polynomial::<S, C>(simd, square, C::TANH), size);

    // Elsewhere: 1 - 2 / (e^2x + 1)
    let one = splat::<S, C>(simd, C::ONE);
    let e = Parts::<S, C>::new(simd, size + size, C::ZERO);
    let far = one - splat::<S, C>(simd, C::TWO) / e.power.mul_add(e.rest, e.power + one);

    size.simd_lt(C::TANH_NEAR).select(near, far).copysign(x)
}

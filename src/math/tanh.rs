//! The hyperbolic tangent.

use fearless_simd::Simd;

use super::Several;
use super::exponential::Parts;
use crate::float::Compute;

/// tanh x
#[inline(always)]
pub(crate) fn tanh<S: Simd, C: Compute, const N: usize>(x: Several<S, C, N>) -> Several<S, C, N> {
    let size = x.abs().at_most(C::TANH_MAX);

    // Near zero: x + x^3 P(x^2)
    let square = size * size;
    let near = (size * square).mul_add(square.polynomial(C::TANH), size);

    // Elsewhere: 1 - 2 / (e^2x + 1)
    let one = x.splat(C::ONE);
    let e = Parts::new(size + size, C::ZERO);
    let far = one - x.splat(C::TWO) / e.power.mul_add(e.rest, e.power + one);

    size.choose(C::TANH_NEAR, near, far).copysign(x)
}

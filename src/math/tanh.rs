//! The hyperbolic tangent.

use fearless_simd::{Simd, SimdBase, SimdFloat};

use super::{exp_nonpositive, splat};
use crate::float::Compute;

/// tanh x. TO BE REPLACED: rough near zero.
#[inline(always)]
pub fn tanh<S: Simd, C: Compute>(simd: S, x: C::Lanes<S>) -> C::Lanes<S> {
    let one = splat::<S, C>(simd, C::from_f64(1.0));
    let e = exp_nonpositive::<S, C>(simd, x.abs() * C::from_f64(-2.0));
    ((one - e) / (one + e)).copysign(x)
}

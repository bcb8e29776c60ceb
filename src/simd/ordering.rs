//! Larger and smaller of two, where levels differ in what they do with NaN.

use fearless_simd::{Select, Simd, SimdBase};

use super::{HAS_VECTORS, is_x86};
use crate::float::Compute;

/// The larger of a lane and `bound`; NaN where the lane is NaN.
#[inline(always)]
pub(crate) fn at_least<S: Simd, C: Compute>(simd: S, lanes: C::Lanes<S>, bound: C) -> C::Lanes<S> {
    let bound = C::Lanes::<S>::splat(simd, bound);
    // x86's instruction gives its second operand where one is NaN; others are free to give either.
    if is_x86(simd) { bound.max(lanes) } else { lanes.simd_lt(bound).select(bound, lanes) }
}

/// The smaller of a lane and `bound`; NaN where the lane is NaN.
#[inline(always)]
pub(crate) fn at_most<S: Simd, C: Compute>(simd: S, lanes: C::Lanes<S>, bound: C) -> C::Lanes<S> {
    let bound = C::Lanes::<S>::splat(simd, bound);
    if is_x86(simd) { bound.min(lanes) } else { lanes.simd_gt(bound).select(bound, lanes) }
}

/// The larger of two; either where one is NaN.
#[inline(always)]
pub(crate) fn larger<S: Simd, C: Compute>(simd: S, a: C::Lanes<S>, b: C::Lanes<S>) -> C::Lanes<S> {
    // Without vectors the vector type's own asks after NaN, for which such CPUs have no instruction.
    if HAS_VECTORS {
        a.max(b)
    } else {
        let _ = simd;
        a.simd_lt(b).select(b, a)
    }
}

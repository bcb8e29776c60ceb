//! The mean of finite numbers whose sum overflows: that of the numbers times a small power of two.

use fearless_simd::{Select, Simd, SimdBase};

use crate::float::Compute;

/// 2^64, more than any sum has terms.
const GROW: f64 = 18_446_744_073_709_551_616.0;

/// Numbers so small that no sum of them overflows. What the smallest lose is nothing beside a sum that did.
#[inline(always)]
pub(crate) fn shrink<S: Simd, C: Compute>(simd: S, values: C::Lanes<S>) -> C::Lanes<S> {
    values * C::Lanes::<S>::splat(simd, C::from_f64(1.0 / GROW))
}

/// The mean, given that of numbers that were shrunk: finite where that is, as rounding may carry it past the largest
/// number, but no mean is larger than what it is of.
#[inline(always)]
pub(crate) fn restore<S: Simd, C: Compute>(simd: S, mean: C::Lanes<S>) -> C::Lanes<S> {
    let splat = |value: C| C::Lanes::<S>::splat(simd, value);
    let most = C::max_value() * C::from_f64(1.0 / GROW);
    let below = mean.simd_gt(splat(most)).select(splat(most), mean);
    let within = below.simd_lt(splat(-most)).select(splat(-most), below);
    // An infinity is one of the numbers, and a NaN stays what it is.
    mean.abs().simd_lt(splat(C::infinity())).select(within, mean) * splat(C::from_f64(GROW))
}

//! exp, tanh, erf and their relatives, written once over [`Compute`] lanes: no libm call, no table look-up, no branch
//! a lane. What is applied to whole arrays lives in the operations; here is one vector in, one vector out.
//!
//! A NaN lane stays NaN, and no lane depends on another. How exact each function is stands in ACCURACY.md.

mod constants;
mod exponential;
mod logarithm;
mod normal;
mod sigmoid;
mod tanh;

pub use constants::Constants;
pub use exponential::{exp, exp_nonpositive};
pub use logarithm::ln;
pub use normal::{erf, gelu};
pub use sigmoid::{gelu_tanh, sigmoid, silu};
pub use tanh::tanh;

use fearless_simd::{Simd, SimdBase, SimdFloat};

use crate::float::Compute;
use crate::simd::{at_least, at_most};

/// A vector with `value` in each lane.
#[inline(always)]
fn splat<S: Simd, C: Compute>(simd: S, value: C) -> C::Lanes<S> {
    C::Lanes::<S>::splat(simd, value)
}

/// The polynomial with these coefficients, the highest power first.
///
/// Short ones by Horner's rule; in longer ones every second or fourth coefficient is taken together, so that the CPU
/// works on two or four sums at a time and need not wait for each step to end.
#[inline(always)]
fn polynomial<S: Simd, C: Compute>(simd: S, x: C::Lanes<S>, coefficients: &[C]) -> C::Lanes<S> {
    match coefficients.len() {
        0..8 => horner::<S, C, 1>(simd, x, coefficients, 0),
        8..16 => {
            let square = x * x;
            let even = horner::<S, C, 2>(simd, square, coefficients, 0);
            let odd = horner::<S, C, 2>(simd, square, coefficients, 1);
            odd.mul_add(x, even)
        }
        _ => {
            let square = x * x;
            let fourth = square * square;
            let a = horner::<S, C, 4>(simd, fourth, coefficients, 0);
            let b = horner::<S, C, 4>(simd, fourth, coefficients, 1);
            let c = horner::<S, C, 4>(simd, fourth, coefficients, 2);
            let d = horner::<S, C, 4>(simd, fourth, coefficients, 3);
            d.mul_add(x, c).mul_add(square, b.mul_add(x, a))
        }
    }
}

/// The polynomial in `power` whose coefficients are those of the powers `part`, `part + STEP`, and so on.
#[inline(always)]
fn horner<S: Simd, C: Compute, const STEP: usize>(
    simd: S,
    power: C::Lanes<S>,
    coefficients: &[C],
    part: usize,
) -> C::Lanes<S> {
    let mut index = (coefficients.len() + STEP - 1 - part) % STEP;
    let mut sum = splat::<S, C>(simd, coefficients.get(index).copied().unwrap_or(C::ZERO));
    index += STEP;
    while let Some(&coefficient) = coefficients.get(index) {
        sum = sum.mul_add(power, splat::<S, C>(simd, coefficient));
        index += STEP;
    }
    sum
}

//! The product of one row and one column, in the order in which all products are summed.

use fearless_simd::{Simd, SimdBase, SimdFloat};

use crate::float::Compute;
use crate::macros::{bug, lane_fn};
use crate::simd::{self, dispatch};

/// The blocks of k that [`dot`] sums at once.
const CHAINS: usize = 8;

/// The product of a row and a column, in blocks of `kc` steps: several of them at once, as each is a chain in which
/// every multiplication waits for the one before.
pub(super) fn dot<C: Compute>(level: simd::Level, x: &[C], column: &[C], kc: usize) -> C {
    #[inline(never)]
    fn sum<S: Simd, C: Compute>(simd: S, x: &[C], column: &[C], kc: usize) -> C {
        simd.vectorize(lane_fn!(|| sum_here(simd, x, column, kc)))
    }
    dispatch!(level, simd => sum(simd, x, column, kc))
}

#[inline(always)]
fn sum_here<S: Simd, C: Compute>(simd: S, x: &[C], column: &[C], kc: usize) -> C {
    let zero = C::Lanes::<S>::splat(simd, C::ZERO);
    let kc = kc.max(1);
    let mut total = None;
    // Every lane of a vector is the same sum: multiply-adds of single numbers are not to be had at every level.
    for (x, column) in x.chunks(CHAINS * kc).zip(column.chunks(CHAINS * kc)) {
        let mut sums = [zero; CHAINS];
        if x.len() == CHAINS * kc && column.len() == x.len() {
            for index in 0..kc {
                let (x, column) = (&x[index..], &column[index..]);
                for chain in 0..CHAINS {
                    let (Some(&x), Some(&w)) = (x.get(chain * kc), column.get(chain * kc)) else {
                        return bug!(C::ZERO);
                    };
                    sums[chain] = C::Lanes::<S>::splat(simd, x).mul_add(C::Lanes::<S>::splat(simd, w), sums[chain]);
                }
            }
        } else {
            for ((sum, x), column) in sums.iter_mut().zip(x.chunks(kc)).zip(column.chunks(kc)) {
                for (&x, &w) in x.iter().zip(column) {
                    *sum = C::Lanes::<S>::splat(simd, x).mul_add(C::Lanes::<S>::splat(simd, w), *sum);
                }
            }
        }
        for &sum in sums.iter().take(x.len().div_ceil(kc)) {
            total = Some(total.map_or(sum, |total| total + sum));
        }
    }
    // Of no steps the sum is zero.
    total.unwrap_or(zero).as_slice().first().copied().unwrap_or(C::ZERO)
}

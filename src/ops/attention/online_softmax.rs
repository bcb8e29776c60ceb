//! Softmax of rows whose scores come block by block (Milakov and Gimelshein, Online normalizer calculation for softmax,
//! 2018): the largest score and the sum of weights so far, and what corrects both where a larger score turns up.

use fearless_simd::{Simd, SimdBase, SimdFloat};

use crate::float::Compute;
use crate::math;
use crate::simd;
use crate::view::inlined;

/// What each query is at.
#[derive(Debug)]
pub(super) struct RowState<'a, C> {
    /// The largest score so far.
    pub(super) max: &'a mut [C],
    /// The sum of weights relative to that, a vector of parts for each query.
    pub(super) sum: &'a mut [C],
}

/// Updates the largest score of a query by its first `limit` ones, and hides those past them. Returns what the scores
/// are to be taken relative to, and what was summed before is to be multiplied by.
#[inline(always)]
pub(super) fn update_row_max<S: Simd, C: Compute>(simd: S, scores: &mut [C], limit: usize, row_max: &mut C) -> (C, C) {
    let lanes = C::Lanes::<S>::LEN;
    let least = C::Lanes::<S>::splat(simd, C::neg_infinity());
    if let Some(past) = scores.get_mut(limit..) {
        past.fill(C::neg_infinity());
    }
    // A NaN may get lost in these; the sum of weights is NaN then, whatever is taken for the largest.
    let mut most = [least; 2];
    for pair in scores.chunks_exact(2 * lanes) {
        most[0] = most[0].max(C::Lanes::<S>::from_slice(simd, &pair[..lanes]));
        most[1] = most[1].max(C::Lanes::<S>::from_slice(simd, &pair[lanes..]));
    }
    if let Some(odd) = odd_vector(scores, lanes) {
        most[0] = most[0].max(C::Lanes::<S>::from_slice(simd, odd));
    }
    let former = *row_max;
    *row_max = most[0].max(most[1]).reduce_max().max(former);
    let anchor = if *row_max == C::neg_infinity() { C::ZERO } else { *row_max };
    let factor = if *row_max == former {
        C::from_f64(1.0)
    } else if former == C::neg_infinity() {
        C::ZERO
    } else {
        let factors = math::exp_nonpositive::<S, C>(simd, C::Lanes::<S>::splat(simd, former - anchor));
        factors.as_slice().first().copied().unwrap_or(C::ZERO)
    };
    (anchor, factor)
}

/// Turns scores of a query into weights, relative to `anchor`, and adds their sum to `row_sum` times `factor`.
#[inline(always)]
pub(super) fn exp_and_sum<S: Simd, C: Compute>(simd: S, scores: &mut [C], anchor: C, factor: C, row_sum: &mut [C]) {
    const TOGETHER: usize = simd::MAP_UNROLL;
    let lanes = C::Lanes::<S>::LEN;
    let anchor = C::Lanes::<S>::splat(simd, anchor);
    let hidden = C::Lanes::<S>::splat(simd, C::neg_infinity());
    let mut parts = [C::Lanes::<S>::splat(simd, C::ZERO); TOGETHER];
    let mut weights_of = inlined(
        #[inline(always)]
        |mut vectors: [C::Lanes<S>; TOGETHER]| {
            for vector in &mut vectors {
                *vector -= anchor;
            }
            let weights = math::wide::exp_nonpositive::<S, C, TOGETHER>(math::Unrolled::new(simd, vectors)).lanes();
            for index in 0..TOGETHER {
                parts[index] += weights[index];
            }
            weights
        },
    );
    let mut whole = scores.chunks_exact_mut(TOGETHER * lanes);
    for few in whole.by_ref() {
        let mut vectors = [hidden; TOGETHER];
        for index in 0..TOGETHER {
            vectors[index] = C::Lanes::<S>::from_slice(simd, &few[index * lanes..(index + 1) * lanes]);
        }
        let weights = weights_of(vectors);
        for index in 0..TOGETHER {
            weights[index].store_slice(&mut few[index * lanes..(index + 1) * lanes]);
        }
    }
    let rest = whole.into_remainder();
    if !rest.is_empty() {
        let mut vectors = [hidden; TOGETHER];
        for (vector, scores) in vectors.iter_mut().zip(rest.chunks_exact(lanes)) {
            *vector = C::Lanes::<S>::from_slice(simd, scores);
        }
        let weights = weights_of(vectors);
        for (weights, scores) in weights.iter().zip(rest.chunks_exact_mut(lanes)) {
            weights.store_slice(scores);
        }
    }
    let mut sum = C::Lanes::<S>::splat(simd, C::ZERO);
    for part in parts {
        sum += part;
    }
    let former = C::Lanes::<S>::from_slice(simd, row_sum);
    former.mul_add(C::Lanes::<S>::splat(simd, factor), sum).store_slice(row_sum);
}

/// The last vector of an odd number of them.
#[inline(always)]
fn odd_vector<C>(scores: &[C], lanes: usize) -> Option<&[C]> {
    let pairs = scores.len() / (2 * lanes) * (2 * lanes);
    scores.get(pairs..).filter(|rest| !rest.is_empty())
}

/// Multiplies what was summed for a query by `factor`, as its largest score changed.
#[inline(always)]
pub(super) fn rescale<S: Simd, C: Compute>(simd: S, sums: &mut [C], factor: C) {
    for part in sums.chunks_exact_mut(C::Lanes::<S>::LEN) {
        (C::Lanes::<S>::from_slice(simd, part) * factor).store_slice(part);
    }
}

//! A block of queries of one head: the walk over its keys, block by block (Dao et al., FlashAttention, 2022). For each
//! a part of the queries at a time: scores, mask, weights, and the sums of weighted values, which are divided at the
//! end.

use core::ops::Range;

use fearless_simd::{Simd, SimdBase, SimdFloat};
use num_traits::Float as _;

use super::head::{BAND, COLUMNS, Head, PARTS, QUERIES};
use super::mask::{AttentionMask, Hidden, KEYS, Keys, mask_row};
use super::online_softmax::{RowState, exp_and_sum, rescale, update_row_max};
use crate::float::{Compute, Float, Lanes, MAX_LANES};
use crate::gemm::backend::multiply_panels;
use crate::gemm::problem::{Beta, PackedPanels, even_split};
use crate::gemm::{pack, panel_width};
use crate::macros::{bug, lane_fn};
use crate::math::mean;
use crate::view::{Line, Matrix, MatrixMut};

/// What a block lays out, in the compute type: see [`Head::parts`].
struct Buffers<'w, C> {
    /// Queries times the scale, row after row.
    queries: &'w mut [C],
    /// Keys in panels of keys.
    keys: &'w mut [C],
    /// Values in panels of columns.
    values: &'w mut [C],
    /// A row for each query of a band; they become weights.
    scores: &'w mut [C],
    /// Sums of weighted values, a row for each query.
    sums: &'w mut [C],
    row_sum: &'w mut [C],
}

/// A block of queries, and how it is gone over.
struct Block<'h, 'a, T: Float> {
    head: &'h Head<'a, T>,
    /// Its queries.
    first: usize,
    rows: usize,
    scale: T::Acc,
    /// A mask of one row, which selects keys before anything is computed.
    selection: Option<Matrix<'a, u8>>,
    /// What any other hides, which is applied to scores.
    hidden: Hidden<'a>,
    /// The columns of q and k that are packed together, and whether these are all.
    step: usize,
    packs_once: bool,
    /// From a row of scores to the next.
    score_stride: usize,
}

/// Where in the walk a block of keys comes.
#[derive(Clone, Copy, Debug)]
struct Place {
    first_key: usize,
    /// Whether these are the first keys.
    is_first: bool,
    /// Whether values are taken times a small power of two: see [`mean::shrink`].
    is_shrunk: bool,
}

/// A band of queries whose scores with a block of keys are there.
#[derive(Clone, Copy, Debug)]
struct ScoredBand<'a> {
    first_query: usize,
    rows: usize,
    /// The keys, counted from the first, that were scored.
    scored: usize,
    keys: Keys<'a>,
    hidden: Hidden<'a>,
    /// Whether these are the first keys.
    is_first: bool,
    /// Whether a value is NaN or infinite that may be hidden from a query.
    has_nonfinite: bool,
}

/// Computes the queries from `first` on into `out`.
#[inline(always)]
pub(super) fn attend<S: Simd, T: Float>(
    simd: S,
    head: &Head<'_, T>,
    first: usize,
    mut out: MatrixMut<'_, T>,
    lines: [&mut [Line]; PARTS],
) {
    let block = Block::new(head, first, out.rows());
    let [queries, keys, values, scores, sums, row_sum] = lines.map(Line::numbers::<T::Acc>);
    let mut buffers = Buffers { queries, keys, values, scores, sums, row_sum };
    if block.packs_once {
        block.pack_queries(simd, first..first + block.rows, 0..head.q.cols(), buffers.queries);
    }
    for start in (0..head.v.cols()).step_by(head.v.cols().min(COLUMNS)) {
        let cols = start..(start + COLUMNS).min(head.v.cols());
        // Once more with small values where a sum overflowed, as the mean of finite values is finite.
        for is_shrunk in [false, true] {
            let mut row_max = [T::Acc::neg_infinity(); QUERIES];
            buffers.row_sum.fill(T::Acc::ZERO);
            buffers.sums.fill(T::Acc::ZERO);
            let (mut cursor, mut is_first) = (0, true);
            while cursor < head.k.rows() {
                let mut selected = [0; KEYS];
                let keys = Keys::next(&mut cursor, head.k.rows(), block.selection, &mut selected);
                // None is left, or none that any of these queries sees.
                let Some(first_key) = keys.get(0) else { break };
                if block.hidden.causal && first_key >= first + block.rows {
                    break;
                }
                let place = Place { first_key, is_first, is_shrunk };
                block.attend_to(simd, keys, place, &cols, &mut buffers, &mut row_max);
                is_first = false;
            }
            let is_finite = if is_shrunk {
                block.store_overflowed(simd, &cols, &buffers, &mut out);
                true
            } else {
                block.store(simd, &cols, &buffers, &mut out)
            };
            if is_finite {
                break;
            }
        }
    }
}

impl<'h, 'a, T: Float> Block<'h, 'a, T> {
    #[inline(always)]
    fn new(head: &'h Head<'a, T>, first: usize, rows: usize) -> Self {
        let width = const { panel_width::<T::Acc>() };
        let depth = head.q.cols();
        let (selection, mask) = match head.options.mask {
            AttentionMask::Select(mask) if head.selects_keys => (Some(mask), None),
            AttentionMask::Select(mask) => (None, Some(mask)),
            _ => (None, None),
        };
        let step = depth.min(COLUMNS);
        Self {
            head,
            first,
            rows,
            scale: head.options.scale.unwrap_or_else(|| T::Acc::from_f64(depth as f64).sqrt().recip()),
            selection,
            hidden: Hidden { mask, causal: head.options.causal },
            step,
            packs_once: step == depth,
            score_stride: KEYS.min(head.k.rows()).next_multiple_of(width),
        }
    }

    /// Adds one block of keys to the sums of all queries of the block.
    #[inline(always)]
    fn attend_to<S: Simd>(
        &self,
        simd: S,
        keys: Keys<'_>,
        Place { first_key, is_first, is_shrunk }: Place,
        cols: &Range<usize>,
        buffers: &mut Buffers<'_, T::Acc>,
        row_max: &mut [T::Acc; QUERIES],
    ) {
        let (lanes, width) = (Lanes::<S, T>::LEN, const { panel_width::<T::Acc>() });
        let Head { k, v, .. } = *self.head;
        let panels = cols.len().div_ceil(width);
        let values_len = panels * keys.len() * width;
        pack_rows_of(simd, v, keys, cols.clone(), false, buffers.values);
        if is_shrunk {
            for part in buffers.values.chunks_exact_mut(lanes) {
                mean::shrink::<S, T::Acc>(simd, Lanes::<S, T>::from_slice(simd, part)).store_slice(part);
            }
        }
        if self.packs_once {
            pack_rows_of(simd, k, keys, 0..k.cols(), true, buffers.keys);
        }
        let has_nonfinite = self.hidden.any()
            && has_nonfinite::<S, T::Acc>(simd, buffers.values.get(..values_len).unwrap_or_else(|| bug!(&[])));
        for band in even_split(self.rows, BAND) {
            let first_query = self.first + band.start;
            // The keys that the last query of the band sees are all that any of them sees.
            let scored = self.hidden.limit(first_query + band.len() - 1, keys, keys.len());
            if scored == 0 {
                continue;
            }
            self.score(simd, &band, keys, scored, buffers);
            self.mask(simd, &band, first_key, scored, buffers.scores);
            let scored_band = ScoredBand {
                first_query,
                rows: band.len(),
                scored,
                keys,
                hidden: self.hidden,
                is_first,
                has_nonfinite,
            };
            let state = RowState {
                max: row_max.get_mut(band.clone()).unwrap_or_else(|| bug!(&mut [])),
                sum: buffers.row_sum.get_mut(band.start * lanes..).unwrap_or_else(|| bug!(&mut [])),
            };
            let values = PackedPanels { numbers: &*buffers.values, len: keys.len() * width };
            let sums = buffers.sums.get_mut(band.start * panels * width..).unwrap_or_else(|| bug!(&mut []));
            let scores = (&mut *buffers.scores, self.score_stride);
            accumulate::<S, T::Acc>(simd, scored_band, scores, state, values, (sums, panels));
        }
    }

    /// Writes the scores of a band of queries and the first `scored` keys, from as many columns at a time as are
    /// packed.
    #[inline(always)]
    fn score<S: Simd>(
        &self,
        simd: S,
        band: &Range<usize>,
        keys: Keys<'_>,
        scored: usize,
        buffers: &mut Buffers<'_, T::Acc>,
    ) {
        let width = const { panel_width::<T::Acc>() };
        let depth = self.head.q.cols();
        // Of no columns there is one part.
        for start in (0..depth.max(1)).step_by(self.step.max(1)) {
            let part = start..(start + self.step).min(depth);
            let queries = if self.packs_once {
                buffers.queries.get(band.start * depth..).unwrap_or_else(|| bug!(&[]))
            } else {
                let rows = self.first + band.start..self.first + band.end;
                self.pack_queries(simd, rows, part.clone(), buffers.queries);
                pack_rows_of(simd, self.head.k, keys, part.clone(), true, buffers.keys);
                &*buffers.queries
            };
            let Ok(queries) = Matrix::new(queries, band.len(), part.len()) else { return bug!() };
            let keys = PackedPanels { numbers: &*buffers.keys, len: part.len() * width };
            let beta = if start == 0 { Beta::Zero } else { Beta::One };
            let scores = (&mut *buffers.scores, self.score_stride);
            multiply_panels::<S, T::Acc>(simd, queries, keys, scored.div_ceil(width), scores, beta);
        }
    }

    /// Applies a mask that does not select keys to the scores of a band.
    #[inline(always)]
    fn mask<S: Simd>(&self, simd: S, band: &Range<usize>, first_key: usize, scored: usize, scores: &mut [T::Acc]) {
        let mask = self.head.options.mask;
        if matches!(mask, AttentionMask::None) || self.selection.is_some() {
            return;
        }
        for (row, scores) in band.clone().zip(scores.chunks_mut(self.score_stride)) {
            mask_row::<S, T>(simd, mask, self.first + row, first_key, scored, scores);
        }
    }

    /// Divides sums by the sums of their weights, and stores them. False where one of them is NaN or infinite, and the
    /// weights are not to blame.
    #[inline(always)]
    fn store<S: Simd>(
        &self,
        simd: S,
        cols: &Range<usize>,
        buffers: &Buffers<'_, T::Acc>,
        out: &mut MatrixMut<'_, T>,
    ) -> bool {
        let lanes = Lanes::<S, T>::LEN;
        let zero = Lanes::<S, T>::splat(simd, T::Acc::ZERO);
        // Zeros, but for NaN and infinities.
        let (mut zeros, mut is_finite) = (zero, true);
        self.for_each_row(
            simd,
            cols,
            buffers,
            out,
            lane_fn!(|sums, total, target| {
                // No weight at all: nothing was attended to.
                let nothing = total == T::Acc::ZERO;
                let factor = total.recip();
                let is_nan = total.is_nan();
                for (sum, target) in sums.chunks_exact(lanes).zip(target.chunks_mut(lanes)) {
                    let value = if nothing { zero } else { Lanes::<S, T>::from_slice(simd, sum) * factor };
                    if target.len() == lanes {
                        if !is_nan {
                            zeros += value * zero;
                        }
                        T::store::<S>(value, target);
                    } else {
                        let mut whole = [T::ZERO; MAX_LANES];
                        T::store::<S>(value, &mut whole[..lanes]);
                        target.copy_from_slice(&whole[..target.len()]);
                        // Past the last column may be anything.
                        is_finite &= is_nan || target.iter().all(|value| value.to_acc().is_finite());
                    }
                }
            }),
        );
        is_finite && !zeros.reduce_sum().is_nan()
    }

    /// The same for sums of values that were shrunk, in place of those that are NaN or infinite.
    #[inline(always)]
    fn store_overflowed<S: Simd>(
        &self,
        simd: S,
        cols: &Range<usize>,
        buffers: &Buffers<'_, T::Acc>,
        out: &mut MatrixMut<'_, T>,
    ) {
        let lanes = Lanes::<S, T>::LEN;
        self.for_each_row(
            simd,
            cols,
            buffers,
            out,
            lane_fn!(|sums, total, target| {
                for (sum, target) in sums.chunks_exact(lanes).zip(target.chunks_mut(lanes)) {
                    let mean = Lanes::<S, T>::from_slice(simd, sum) * total.recip();
                    let mean = mean::restore::<S, T::Acc>(simd, mean);
                    for (target, &mean) in target.iter_mut().zip(mean.as_slice()) {
                        if !target.to_acc().is_finite() {
                            *target = T::from_acc(mean);
                        }
                    }
                }
            }),
        );
    }

    /// Hands over the sums of each query, the sum of its weights, and the place of its result.
    #[inline(always)]
    fn for_each_row<S: Simd>(
        &self,
        simd: S,
        cols: &Range<usize>,
        buffers: &Buffers<'_, T::Acc>,
        out: &mut MatrixMut<'_, T>,
        mut visit: impl FnMut(&[T::Acc], T::Acc, &mut [T]),
    ) {
        let lanes = Lanes::<S, T>::LEN;
        let sum_stride = cols.len().next_multiple_of(const { panel_width::<T::Acc>() });
        for row in 0..self.rows {
            let Some(total) = buffers.row_sum.get(row * lanes..(row + 1) * lanes) else { return bug!() };
            let total = Lanes::<S, T>::from_slice(simd, total).reduce_sum();
            let Some(target) = out.row_mut(row).and_then(|row| row.get_mut(cols.clone())) else { return bug!() };
            let Some(sums) = buffers.sums.get(row * sum_stride..) else { return bug!() };
            visit(sums, total, target);
        }
    }

    /// Packs queries row after row in the compute type, times the scale.
    #[inline(always)]
    fn pack_queries<S: Simd>(&self, simd: S, rows: Range<usize>, cols: Range<usize>, target: &mut [T::Acc]) {
        let lanes = Lanes::<S, T>::LEN;
        let q = self.head.q.block(rows, cols);
        pack::pack_a(simd, q, target);
        let target = target.get_mut(..q.rows() * q.cols()).unwrap_or_else(|| bug!(&mut []));
        let mut parts = target.chunks_exact_mut(lanes);
        for part in parts.by_ref() {
            (Lanes::<S, T>::from_slice(simd, part) * self.scale).store_slice(part);
        }
        for value in parts.into_remainder() {
            *value *= self.scale;
        }
    }
}

/// Packs columns of some keys' rows in panels: of keys where they are `across`, else of columns.
#[inline(always)]
fn pack_rows_of<S: Simd, T: Float>(
    simd: S,
    source: Matrix<'_, T>,
    keys: Keys<'_>,
    cols: Range<usize>,
    across: bool,
    panels: &mut [T::Acc],
) {
    let width = const { panel_width::<T::Acc>() };
    match keys {
        Keys::Range { first, count } => {
            let part = source.block(first..first + count, cols);
            let part = if across { part.transpose() } else { part };
            let len = part.cols().div_ceil(width) * width * part.rows();
            pack::pack_b(simd, part, panels.get_mut(..len).unwrap_or_else(|| bug!(&mut [])));
        }
        Keys::Selected(selected) => {
            let (steps, len) = if across { (cols.len(), selected.len()) } else { (selected.len(), cols.len()) };
            for (panel, target) in panels.chunks_exact_mut((steps * width).max(1)).enumerate().take(len.div_ceil(width))
            {
                for (step, target) in target.chunks_exact_mut(width).enumerate() {
                    for (lane, target) in target.iter_mut().enumerate() {
                        let place = panel * width + lane;
                        let (key, col) = if across { (place, step) } else { (step, place) };
                        // Zeros past the last key and the last column.
                        let value = selected.get(key).and_then(|&key| source.get(key, cols.start + col));
                        *target = value.filter(|_| col < cols.len()).map_or(T::Acc::ZERO, T::to_acc);
                    }
                }
            }
        }
    }
}

/// Whether a NaN or an infinity is among these numbers.
#[inline(always)]
fn has_nonfinite<S: Simd, C: Compute>(simd: S, numbers: &[C]) -> bool {
    let zero = C::Lanes::<S>::splat(simd, C::ZERO);
    let mut sum = zero;
    for part in numbers.chunks_exact(C::Lanes::<S>::LEN) {
        sum = C::Lanes::<S>::from_slice(simd, part).mul_add(zero, sum);
    }
    sum.reduce_sum().is_nan()
}

/// Turns scores into weights and adds the values that they weigh to `sums`. A function of its own, as all storage types
/// share it.
#[inline(never)]
fn accumulate<S: Simd, C: Compute>(
    simd: S,
    band: ScoredBand<'_>,
    scores: (&mut [C], usize),
    state: RowState<'_, C>,
    values: PackedPanels<'_, C>,
    sums: (&mut [C], usize),
) {
    simd.vectorize(lane_fn!(|| accumulate_here::<S, C>(simd, band, scores, state, values, sums)));
}

#[inline(always)]
fn accumulate_here<S: Simd, C: Compute>(
    simd: S,
    band: ScoredBand<'_>,
    (scores, stride): (&mut [C], usize),
    state: RowState<'_, C>,
    values: PackedPanels<'_, C>,
    (sums, panels): (&mut [C], usize),
) {
    let (lanes, width) = (C::Lanes::<S>::LEN, const { panel_width::<C>() });
    // Whole panels of what was scored: the rest is not read.
    let len = band.scored.div_ceil(width) * width;
    // Each of these loops is over all rows, so that none waits for the last step of the row before.
    let mut anchors = [(C::ZERO, C::ZERO); BAND];
    for (row, (anchor, max)) in anchors.iter_mut().zip(state.max.iter_mut()).enumerate().take(band.rows) {
        let Some(scores) = scores.get_mut(row * stride..row * stride + len) else { return bug!() };
        let limit = band.hidden.limit(band.first_query + row, band.keys, band.scored);
        *anchor = update_row_max::<S, C>(simd, scores, limit, max);
    }
    for (row, &(anchor, factor)) in anchors.iter().enumerate().take(band.rows) {
        let sum = state.sum.get_mut(row * lanes..(row + 1) * lanes);
        let (Some(scores), Some(sum)) = (scores.get_mut(row * stride..row * stride + len), sum) else { return bug!() };
        exp_and_sum::<S, C>(simd, scores, anchor, factor, sum);
        if !band.is_first && factor != C::from_f64(1.0) {
            let sums = sums.get_mut(row * panels * width..(row + 1) * panels * width).unwrap_or_else(|| bug!(&mut []));
            rescale::<S, C>(simd, sums, factor);
        }
    }
    let Ok(weights) = Matrix::with_strides(&*scores, band.rows, band.scored, stride, 1) else { return bug!() };
    if band.has_nonfinite {
        add_visible::<S, C>(simd, band, weights, values, (sums, panels));
    } else {
        let beta = if band.is_first { Beta::Zero } else { Beta::One };
        multiply_panels::<S, C>(simd, weights, values, panels, (sums, panels * width), beta);
    }
}

/// Adds weights times values where a NaN or an infinity is among these, which must not reach queries that the key is
/// hidden from: 0 times it is NaN.
#[inline(never)]
fn add_visible<S: Simd, C: Compute>(
    simd: S,
    band: ScoredBand<'_>,
    weights: Matrix<'_, C>,
    values: PackedPanels<'_, C>,
    (sums, panels): (&mut [C], usize),
) {
    let width = panel_width::<C>();
    simd.vectorize(lane_fn!(|| {
        let lanes = C::Lanes::<S>::LEN;
        for (row, panel) in (0..band.rows).flat_map(|row| (0..panels).map(move |panel| (row, panel))) {
            let query = band.first_query + row;
            let start = (row * panels + panel) * width;
            let Some(targets) = sums.get_mut(start..start + width) else { return bug!() };
            for (vector, target) in targets.chunks_exact_mut(lanes).enumerate() {
                let mut sum = C::Lanes::<S>::splat(simd, C::ZERO);
                for index in 0..band.hidden.limit(query, band.keys, band.scored) {
                    if band.hidden.hides(query, band.keys.get(index).unwrap_or_else(|| bug!(0))) {
                        continue;
                    }
                    let first = panel * values.len + index * width + vector * lanes;
                    let Some(part) = values.numbers.get(first..first + lanes) else { return bug!() };
                    let weight = weights.get(row, index).unwrap_or_else(|| bug!(C::ZERO));
                    let weight = C::Lanes::<S>::splat(simd, weight);
                    sum = weight.mul_add(C::Lanes::<S>::from_slice(simd, part), sum);
                }
                let sum = if band.is_first { sum } else { C::Lanes::<S>::from_slice(simd, target) + sum };
                sum.store_slice(target);
            }
        }
    }));
}

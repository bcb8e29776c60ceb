//! Products of few rows: each element of the weight is read once, in the order in which it lies, and the sums wait in
//! the first-level cache.

use core::ops::Range;

use fearless_simd::{Simd, SimdBase, SimdFloat};

use super::driver::Weight;
use super::tile::{add_steps, vectors};
use super::{GROUP, panel_width};
use crate::float::{Compute, Float, Lanes, MAX_LANES};
use crate::simd::{self, dispatch};
use crate::view::{Matrix, inlined};

/// How far ahead of its use a packed weight is asked for, in bytes.
const AHEAD: usize = 1024;

/// How far ahead the rows of a weight that is not packed are asked for.
const GROUPS_AHEAD: usize = 2;

/// The blocks of k that [`dot`] sums at once.
const CHAINS: usize = 8;

/// The product of a row and a column, in blocks of `step`: several of them at once, as each is a chain in which every
/// multiplication waits for the one before.
pub(super) fn dot<C: Compute>(level: simd::Level, x: &[C], column: &[C], step: usize) -> C {
    #[inline(never)]
    fn sum<S: Simd, C: Compute>(simd: S, x: &[C], column: &[C], step: usize) -> C {
        simd.vectorize(
            #[inline(always)]
            || sum_here(simd, x, column, step),
        )
    }
    dispatch!(level, simd => sum(simd, x, column, step))
}

#[inline(always)]
fn sum_here<S: Simd, C: Compute>(simd: S, x: &[C], column: &[C], step: usize) -> C {
    let zero = C::Lanes::<S>::splat(simd, C::ZERO);
    let step = step.max(1);
    let mut total = None;
    // Every lane of a vector is the same sum: multiply-adds of single numbers are not to be had at every level.
    for (x, column) in x.chunks(CHAINS * step).zip(column.chunks(CHAINS * step)) {
        let mut sums = [zero; CHAINS];
        if x.len() == CHAINS * step && column.len() == x.len() {
            for index in 0..step {
                let (x, column) = (&x[index..], &column[index..]);
                for chain in 0..CHAINS {
                    let (Some(&x), Some(&w)) = (x.get(chain * step), column.get(chain * step)) else { continue };
                    sums[chain] = C::Lanes::<S>::splat(simd, x).mul_add(C::Lanes::<S>::splat(simd, w), sums[chain]);
                }
            }
        } else {
            for ((sum, x), column) in sums.iter_mut().zip(x.chunks(step)).zip(column.chunks(step)) {
                for (&x, &w) in x.iter().zip(column) {
                    *sum = C::Lanes::<S>::splat(simd, x).mul_add(C::Lanes::<S>::splat(simd, w), *sum);
                }
            }
        }
        for &sum in sums.iter().take(x.len().div_ceil(step)) {
            total = Some(total.map_or(sum, |total| total + sum));
        }
    }
    total.unwrap_or(zero).as_slice().first().copied().unwrap_or(C::ZERO)
}

/// Adds the steps `depth` of k to the sums of the panels `panels`, of each so many rows, one panel after the other.
/// `values` are x: for each [`GROUP`] of steps each row's elements.
pub(super) fn stream<W: Float>(
    level: simd::Level,
    weight: Weight<'_, W>,
    depth: Range<usize>,
    panels: Range<usize>,
    (values, rows): (&[W::Acc], usize),
    sums: &mut [W::Acc],
) {
    #[inline(always)]
    fn by_vectors<S: Simd, W: Float>(
        simd: S,
        weight: Weight<'_, W>,
        depth: Range<usize>,
        panels: Range<usize>,
        x: (&[W::Acc], usize),
        sums: &mut [W::Acc],
    ) {
        if const { vectors::<S, W::Acc>() == 1 } {
            over::<S, W::Acc, W, 1>(simd, weight, depth, panels, x, sums);
        } else if const { vectors::<S, W::Acc>() == 2 } {
            over::<S, W::Acc, W, 2>(simd, weight, depth, panels, x, sums);
        } else {
            over::<S, W::Acc, W, 4>(simd, weight, depth, panels, x, sums);
        }
    }
    dispatch!(level, simd => by_vectors(simd, weight, depth, panels, (values, rows), sums));
}

#[inline(always)]
fn over<S: Simd, C: Compute, W: Float<Acc = C>, const V: usize>(
    simd: S,
    weight: Weight<'_, W>,
    depth: Range<usize>,
    panels: Range<usize>,
    x: (&[C], usize),
    sums: &mut [C],
) {
    match weight {
        Weight::Matrix(weight) => {
            let width = const { panel_width::<C>() };
            over_matrix::<S, C, W, V>(simd, weight.block(depth, panels.start * width..panels.end * width), x, sums);
        }
        Weight::Packed { panels: packed, shape: (k, _) } => {
            over_panels::<S, C, W, V>(simd, (packed, k), depth, panels, x, sums);
        }
    }
}

/// Copies fewer values than `target` has, in few moves.
#[inline(always)]
fn copy_short<T: Copy>(source: &[T], target: &mut [T; MAX_LANES]) {
    let mut start = 0;
    macro_rules! moves {
        ($($count:literal)*) => {$(
            if source.len() & $count != 0
                && let (Some(source), Some(target)) = (source.get(start..start + $count), target.get_mut(start..start + $count))
            {
                target.copy_from_slice(source);
                start += $count;
            }
        )*};
    }
    moves!(8 4 2 1);
    let _ = start;
}

/// One row and so few panels that their sums stay in registers. `line` gives a step's elements of a panel.
#[inline(always)]
fn in_registers<'w, S: Simd, C: Compute, W: Float<Acc = C>, const V: usize, const P: usize>(
    simd: S,
    line: impl Fn(usize, usize) -> &'w [W],
    values: &[C],
    sums: &mut [C],
) {
    let lanes = C::Lanes::<S>::LEN;
    let Some(sums) = sums.get_mut(..P * V * lanes) else { return };
    let mut tile = [[C::Lanes::<S>::splat(simd, C::ZERO); V]; P];
    for p in 0..P {
        for v in 0..V {
            tile[p][v] = C::load(simd, &sums[(p * V + v) * lanes..(p * V + v + 1) * lanes]);
        }
    }
    for (step, &value) in values.iter().enumerate() {
        let value = C::Lanes::<S>::splat(simd, value);
        for p in 0..P {
            let Some(columns) = line(step, p).get(..V * lanes) else { return };
            for v in 0..V {
                tile[p][v] = value.mul_add(W::load(simd, &columns[v * lanes..(v + 1) * lanes]), tile[p][v]);
            }
        }
    }
    for p in 0..P {
        for v in 0..V {
            C::store::<S>(tile[p][v], &mut sums[(p * V + v) * lanes..(p * V + v + 1) * lanes]);
        }
    }
}

/// Each group of rows of the weight from its first column to its last.
#[inline(always)]
fn over_matrix<S: Simd, C: Compute, W: Float<Acc = C>, const V: usize>(
    simd: S,
    weight: Matrix<'_, W>,
    (values, rows): (&[C], usize),
    sums: &mut [C],
) {
    let width = V * Lanes::<S, W>::LEN;
    let (steps, cols) = weight.shape();
    let whole = cols / width * width;
    if rows == 1 && cols == whole && (1..=2 * width).contains(&cols) {
        let line = inlined(
            #[inline(always)]
            |step: usize, panel: usize| weight.row(step).and_then(|row| row.get(panel * width..)).unwrap_or(&[]),
        );
        let values = values.get(..steps).unwrap_or(&[]);
        return if cols == width {
            in_registers::<S, C, W, V, 1>(simd, line, values, sums);
        } else {
            in_registers::<S, C, W, V, 2>(simd, line, values, sums);
        };
    }
    let dense = weight.as_slice().unwrap_or(&[]);
    let mut padded = [[W::ZERO; MAX_LANES]; GROUP];
    let ahead = weight.row_stride().wrapping_mul((GROUPS_AHEAD * GROUP) as isize);
    let line = |step: usize| weight.row(step).and_then(|row| row.get(..cols)).unwrap_or(&[]);
    for (start, values) in (0..steps).step_by(GROUP).zip(values.chunks(GROUP * rows)) {
        let (values, _) = values.as_chunks::<GROUP>();
        let count = GROUP.min(steps - start);
        let last = start + count - 1;
        let lines = [line(start), line((start + 1).min(last)), line((start + 2).min(last)), line(last)];
        let mut all_sums = sums.chunks_exact_mut(rows * width);
        for (place, sums) in (0..whole).step_by(width).zip(all_sums.by_ref()) {
            let mut parts: [&[W]; GROUP] = [&[]; GROUP];
            for index in 0..GROUP {
                let Some(part) = lines[index].get(place..place + width) else { return };
                parts[index] = part;
                // A later group's: on pages of their own, which the CPU does not foresee.
                simd::prefetch(part.as_ptr().wrapping_offset(ahead));
            }
            add_steps::<S, C, W, V>(simd, parts, count, values, sums);
        }
        if cols > whole
            && let Some(sums) = all_sums.next()
        {
            // What follows the row is never looked at, so that it may be the next one.
            let longer =
                |index: usize| dense.get((start + index) * cols + whole..(start + index) * cols + whole + width);
            for index in 0..GROUP {
                if longer(index).is_none() {
                    copy_short(lines[index].get(whole..).unwrap_or(&[]), &mut padded[index]);
                }
            }
            let mut parts: [&[W]; GROUP] = [&[]; GROUP];
            for index in 0..GROUP {
                parts[index] = longer(index).unwrap_or(&padded[index][..width]);
            }
            add_steps::<S, C, W, V>(simd, parts, count, values, sums);
        }
    }
}

/// Each group of steps from panel to panel.
#[inline(always)]
fn over_panels<S: Simd, C: Compute, W: Float<Acc = C>, const V: usize>(
    simd: S,
    (packed, k): (&[W], usize),
    depth: Range<usize>,
    panels: Range<usize>,
    (values, rows): (&[C], usize),
    sums: &mut [C],
) {
    let width = V * Lanes::<S, W>::LEN;
    if rows == 1 && (1..=2).contains(&panels.len()) {
        let line = inlined(
            #[inline(always)]
            |step: usize, panel: usize| {
                packed.get(((panels.start + panel) * k + depth.start + step) * width..).unwrap_or(&[])
            },
        );
        let values = values.get(..depth.len()).unwrap_or(&[]);
        return if panels.len() == 1 {
            in_registers::<S, C, W, V, 1>(simd, line, values, sums);
        } else {
            in_registers::<S, C, W, V, 2>(simd, line, values, sums);
        };
    }
    for (step, values) in depth.clone().step_by(GROUP).zip(values.chunks(GROUP * rows)) {
        let (values, _) = values.as_chunks::<GROUP>();
        let count = GROUP.min(depth.end - step);
        for (panel, sums) in panels.clone().zip(sums.chunks_exact_mut(rows * width)) {
            let start = (panel * k + step) * width;
            let mut parts: [&[W]; GROUP] = [&[]; GROUP];
            if count == GROUP {
                let Some(lines) = packed.get(start..start + GROUP * width) else { return };
                for index in 0..GROUP {
                    parts[index] = &lines[index * width..(index + 1) * width];
                }
                for line in 0..GROUP * width * size_of::<W>() / 64 {
                    simd::prefetch(lines.as_ptr().wrapping_byte_add(AHEAD + 64 * line));
                }
            } else {
                for (index, part) in parts.iter_mut().enumerate().take(count) {
                    let Some(line) = packed.get(start + index * width..start + (index + 1) * width) else { return };
                    *part = line;
                }
            }
            add_steps::<S, C, W, V>(simd, parts, count, values, sums);
        }
    }
}

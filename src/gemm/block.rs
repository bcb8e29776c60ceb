//! Computes one block of a product on this thread: packs what needs it and goes over blocks of k, bands of rows and strips
//! of panels. Compiled once for each compute type; storage types and CPU levels are behind what it calls.

use core::iter::repeat_n;
use core::ops::Range;

use super::driver::{Weight, runs};
use super::part::{Lie, Operands, Region, Target};
use super::scratch::{self, Scratch};
use super::stream::{dot, stream};
use super::tile::{Run, Store, TileSize, run_tiles};
use super::{GROUP, block_depth, panel_width};
use crate::float::Compute;
use crate::ops::activation::Activation;
use crate::simd::{self, Level};
use crate::view::{Line, Matrix};

/// The most rows for which a weight that is not packed is not packed either.
pub(super) const FEW_ROWS: usize = 16;
/// The most rows that a packed weight is streamed for: those that do not fill a tile.
const FEWEST_ROWS: usize = 3;
/// The rows that go over the panels together, so that what they read of x stays in the cache's second level.
const BAND_ROWS: usize = 96;
/// The panels that are streamed together: enough to hide how long one multiplication takes, few enough for the CPU to
/// foresee what each reads.
const STREAMED_PANELS: usize = 6;
/// The panels that are packed and then streamed together: they stay in the cache's first level.
const PACKED_PANELS: usize = 2;
/// Rows of x that lie so many bytes apart, or a multiple, crowd in a few sets of the first-level cache.
const CROWDED: usize = 2048;
/// From so many panels on x is laid out anew where its rows are crowded.
const MANY_PANELS: usize = 8;

/// Computes a block.
pub(crate) fn compute<C: Compute>(operands: &dyn Operands<C>, k: usize, target: &mut dyn Target<C>) {
    let level = simd::level();
    let (rows, _) = target.shape();
    let lie = operands.lie();
    let most = match lie {
        Lie::NarrowPanels | Lie::Rows => FEW_ROWS,
        Lie::Panels | Lie::Scattered => FEWEST_ROWS,
    };
    scratch::with(|scratch| {
        if rows <= most { few(level, operands, k, target, scratch) } else { many(level, operands, k, target, scratch) }
    });
}

/// Few rows: the weight is streamed.
fn few<C: Compute>(
    level: Level,
    operands: &dyn Operands<C>,
    k: usize,
    target: &mut dyn Target<C>,
    scratch: &mut Scratch,
) {
    let width = panel_width::<C>();
    let (rows, cols) = target.shape();
    let (step, panels) = (block_depth(k), cols.div_ceil(width));
    let lie = operands.lie();
    let together = match lie {
        Lie::Rows => panels,
        Lie::Panels | Lie::NarrowPanels => STREAMED_PANELS.min(panels),
        Lie::Scattered => PACKED_PANELS.min(panels),
    };
    let len = panels * width * rows;
    let direct = rows == 1 && operands.x().is_some();
    let numbers = |count: usize| count * size_of::<C>();
    let [sums, later, bias, x, packed] = scratch.parts([
        numbers(len),
        numbers(if k > step { together * width * rows } else { 0 }),
        numbers(panels * width),
        numbers(if direct { 0 } else { 2 * rows * step.next_multiple_of(GROUP) }),
        numbers(if lie == Lie::Scattered { together * width * step } else { 0 }),
    ]);
    let (sums, later, bias) = (Line::numbers::<C>(sums), Line::numbers::<C>(later), Line::numbers::<C>(bias));
    let (x, packed) = (Line::numbers::<C>(x), Line::numbers::<C>(packed));
    let Some(sums) = sums.get_mut(..len) else { return };
    target.load_bias(level, bias);
    if rows == 1
        && cols == 1
        && let (Some(x), Some(column)) = (operands.x().and_then(|x| x.row(0)), operands.column())
    {
        if let Some(sum) = sums.first_mut() {
            *sum = dot(level, x, column, step);
        }
        return target.store(level, Region { rows: 0..1, cols: 0..1, sums, stride: width, bias });
    }
    let (rows_of_x, groups) = x.split_at_mut(x.len() / 2);
    let mut start = 0;
    while start < k || start == 0 {
        let depth = start..(start + step).min(k);
        let values = match operands.x() {
            Some(x) if rows == 1 => x.row(0).and_then(|row| row.get(depth.clone())).unwrap_or(&[]),
            _ => {
                operands.widen_x(level, 0..rows, depth.clone(), rows_of_x);
                group(rows_of_x, rows, depth.len(), groups);
                &*groups
            }
        };
        let mut tail = [C::ZERO; GROUP];
        for (panel, sums) in (0..panels).step_by(together).zip(sums.chunks_mut((together * rows * width).max(1))) {
            let strip = panel..(panel + together).min(panels);
            let added = if start == 0 { &mut *sums } else { later.get_mut(..sums.len()).unwrap_or(&mut []) };
            added.fill(C::ZERO);
            let mut add = |depth: Range<usize>, values: &[C]| {
                if lie == Lie::Scattered {
                    let cols = strip.start * width..(strip.end * width).min(cols);
                    operands.pack_weight(level, depth.clone(), cols, packed);
                    let weight = Weight::Packed { panels: &*packed, shape: (depth.len(), strip.len() * width) };
                    stream(level, weight, 0..depth.len(), 0..strip.len(), (values, rows), added);
                } else {
                    operands.stream(level, depth, strip.clone(), (values, rows), added);
                }
            };
            // One row of x is used as it lies, in whole groups.
            let whole = if rows == 1 { depth.len() / GROUP * GROUP } else { depth.len() };
            add(depth.start..depth.start + whole, values);
            if whole < depth.len() {
                for (tail, &value) in tail.iter_mut().zip(values.get(whole..).unwrap_or(&[])) {
                    *tail = value;
                }
                add(depth.start + whole..depth.end, &tail);
            }
            if start > 0 {
                for (sum, later) in sums.iter_mut().zip(&*later) {
                    *sum += *later;
                }
            }
        }
        start = depth.end.max(start + 1);
    }
    if rows == 1 {
        let region = Region { rows: 0..1, cols: 0..cols, sums, stride: panels * width, bias };
        return target.store(level, region);
    }
    for (panel, (sums, bias)) in sums.chunks_mut((rows * width).max(1)).zip(bias.chunks(width)).enumerate() {
        let cols = panel * width..((panel + 1) * width).min(cols);
        target.store(level, Region { rows: 0..rows, cols, sums, stride: width, bias });
    }
}

/// Lays out rows of `steps` numbers so that each row's elements for [`GROUP`] steps follow those of the row before.
fn group<C: Compute>(source: &[C], rows: usize, steps: usize, target: &mut [C]) {
    let (targets, _) = target.as_chunks_mut::<GROUP>();
    for (row, source) in source.chunks_exact(steps.max(1)).take(rows).enumerate() {
        let (groups, rest) = source.as_chunks::<GROUP>();
        let mut targets = targets.iter_mut().skip(row).step_by(rows);
        // The groups first: a pair that lacks its second half is lost.
        for (group, target) in groups.iter().zip(targets.by_ref()) {
            *target = *group;
        }
        if let Some(target) = targets.next() {
            for (target, &value) in target.iter_mut().zip(rest) {
                *target = value;
            }
        }
    }
}

/// Many rows: for each block of k, the weight's panels are packed and x is laid out where they need it, then each band
/// of rows goes over the panels tile by tile.
fn many<C: Compute>(
    level: Level,
    operands: &dyn Operands<C>,
    k: usize,
    target: &mut dyn Target<C>,
    scratch: &mut Scratch,
) {
    let width = panel_width::<C>();
    let (rows, cols) = target.shape();
    let (step, panels) = (block_depth(k), cols.div_ceil(width));
    let size = TileSize::at::<C>(level);
    let as_it_lies = operands.lie() == Lie::Panels;
    let crowded = |x: &Matrix<'_, C>| {
        panels >= MANY_PANELS && (x.row_stride().unsigned_abs() * size_of::<C>()).is_multiple_of(CROWDED)
    };
    let x_in_place = operands.x().is_some_and(|x| !crowded(&x));
    let band_rows = BAND_ROWS.min(rows);
    // Where one block of k is all there is, sums need not outlive a band, and where the epilogue is light, not a tile.
    let keep = k > step;
    let activation = target.activation();
    let light = matches!(activation, Activation::None | Activation::Relu) && target.plain(0..rows, 0..cols).is_some();
    let numbers = |count: usize| count * size_of::<C>();
    let [packed, x, sums, bias] = scratch.parts([
        numbers(if as_it_lies { 0 } else { panels * width * step }),
        numbers(if x_in_place { 0 } else { band_rows * step }),
        numbers(width * if keep { rows * panels } else { band_rows * size.panels.min(panels) }),
        numbers(panels * width),
    ]);
    let (packed, widened) = (Line::numbers::<C>(packed), Line::numbers::<C>(x));
    let (all_sums, bias) = (Line::numbers::<C>(sums), Line::numbers::<C>(bias));
    target.load_bias(level, bias);
    let mut start = 0;
    loop {
        let depth = start..(start + step).min(k);
        let steps = depth.len();
        if !as_it_lies {
            operands.pack_weight(level, depth.clone(), 0..cols, packed);
        }
        let mut band = 0;
        for band_rows in runs(rows, BAND_ROWS).into_iter().flat_map(|(count, len)| repeat_n(len, count)) {
            if !x_in_place {
                operands.widen_x(level, band..band + band_rows, depth.clone(), widened);
            }
            let mut panel = 0;
            while panel < panels {
                let count = if panels - panel >= size.panels { size.panels } else { 1 };
                let strip = panel * width..((panel + count) * width).min(cols);
                let direct = depth.end == k && light && strip.len() == count * width;
                let bias = bias.get(panel * width..).unwrap_or(&[]);
                let mut row = 0;
                for (tiles, tile_rows) in runs(band_rows, size.rows) {
                    let (rows_of_run, run) = (band + row..band + row + tiles * tile_rows, tiles * tile_rows);
                    if run == 0 {
                        continue;
                    }
                    let from = if keep { (rows * panel + count * (band + row)) * width } else { 0 };
                    let Some(sums) = all_sums.get_mut(from..from + run * count * width) else { return };
                    let Some(panels) = (if as_it_lies {
                        operands.panels().get((panel * k + depth.start) * width..)
                    } else {
                        packed.get(panel * steps * width..)
                    }) else {
                        return;
                    };
                    let panel_len = if as_it_lies { k * width } else { steps * width };
                    let x = match operands.x() {
                        Some(x) if x_in_place => x.block(rows_of_run.clone(), depth.clone()),
                        _ => match Matrix::new(&*widened, band_rows, steps) {
                            Ok(x) => x.block(row..row + run, 0..steps),
                            Err(_) => return,
                        },
                    };
                    let out = if direct { target.plain(rows_of_run.clone(), strip.clone()) } else { None };
                    let store = out.map(|out| Store { bias, relu: activation == Activation::Relu, out });
                    let first = start == 0;
                    let tiles = Run { x, panels, panel_len, sums: &mut *sums, first, store };
                    run_tiles(level, tile_rows, count, tiles);
                    if depth.end == k && !direct {
                        let region =
                            Region { rows: rows_of_run, cols: strip.clone(), sums, stride: count * width, bias };
                        target.store(level, region);
                    }
                    row += run;
                }
                panel += count;
            }
            band += band_rows;
        }
        if depth.end == k {
            return;
        }
        start = depth.end;
    }
}

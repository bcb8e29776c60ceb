//! Cuts a product into blocks and hands them to threads. Shapes were checked before; how a block is computed is told
//! elsewhere.

use core::ops::Range;

use super::backend::multiply_block;
#[cfg(feature = "std")]
use super::kc_of;
#[cfg(feature = "std")]
use super::macro_kernel::{BlockWorkspace, MC, NC_PANELS};
#[cfg(feature = "std")]
use super::micro_kernel::{MAX_NR_VECTORS, Registers};
#[cfg(feature = "std")]
use super::operands::{BlockOperands, OperandSource};
use super::panel_width;
#[cfg(feature = "std")]
use super::plan::{PanelSource, Plan, plan};
#[cfg(feature = "std")]
use super::problem::{Bias, Residual};
use super::problem::{FusedEpilogue, Product, Weight, nanoseconds, reading};
use crate::error::NoMemory;
#[cfg(feature = "std")]
use crate::error::Shape;
use crate::float::Float;
use crate::kernel::kernel;
#[cfg(feature = "std")]
use crate::macros::bug;
use crate::parallel::{self, Tiling};
#[cfg(feature = "std")]
use crate::simd;
#[cfg(feature = "std")]
use crate::view::MAX_MR_OVERLAPPING;
use crate::view::{Matrix, MatrixMut};
#[cfg(feature = "std")]
use crate::workspace::bytes_of;
use crate::workspace::{Missing, Workspace};

/// The multiply-adds that a block should have, so that handing it to a thread does not matter.
const BLOCK_WORK: usize = 1 << 20;
/// Work with so many multiply-adds and results at most is not worth a look at how to cut it.
const SMALL: usize = 1 << 16;
const SMALL_SUMS: usize = 1 << 12;
/// Into about so many blocks for each thread work is cut that is large enough. What they are changes no bit of a
/// result.
const BLOCKS_EACH: usize = 2;
/// The most rows of a block, which bounds its workspace.
const MOST_ROWS: usize = 1024;
/// The fewest rows that work is cut into where there are more.
const FEWEST_ROWS: usize = 160;
/// The columns of a block in panels: what is packed of them for one block of k stays in the cache's second level.
const MOST_PANELS: usize = 16;
/// The fewest, where there are more; others are a multiple of it, as tiles are two panels wide where registers are
/// many.
const FEWEST_PANELS: usize = 2;
/// Work of at most so many rows is cut into columns alone.
const FEW_ROWS: usize = 16;
/// The fewest columns of such a block in panels, where there are more: as many as the widest tile has.
const FEW_ROWS_PANELS: usize = 16;
/// The most rows times panels of such a block, so that a thread may keep its sums from call to call, and a cache hold
/// them.
const FEW_ROWS_SUMS: usize = if cfg!(feature = "std") { 1 << 14 } else { usize::MAX };

/// How many rows and how many panels each block has, where there are so many threads.
fn partition<C>((rows, k, cols): (usize, usize, usize), few: bool, threads: usize) -> (usize, usize) {
    let panels = cols.div_ceil(panel_width::<C>());
    // Part of a panel takes as long as a whole one.
    let work = rows.saturating_mul(k.max(1)).saturating_mul(panels.saturating_mul(panel_width::<C>()));
    if few {
        // A power of two: three blocks would keep two threads as long as four. And no more: long rows are read faster
        // than short ones.
        let most = (panels / FEW_ROWS_PANELS).min(BLOCKS_EACH * threads).max(1);
        let blocks = 1 << most.ilog2();
        return (rows, panels.div_ceil(blocks).min((FEW_ROWS_SUMS / rows.max(1)).max(1)));
    }
    let wanted = (work / BLOCK_WORK).clamp(1, BLOCKS_EACH * threads).next_power_of_two();
    let across = panels.div_ceil(MOST_PANELS).max(wanted.min(panels / FEWEST_PANELS));
    let across = if rows > 2 * FEWEST_ROWS { panels.div_ceil(MOST_PANELS) } else { across }.max(1);
    let most_panels = panels.div_ceil(across).next_multiple_of(FEWEST_PANELS).min(panels);
    // The busiest thread, where blocks of so many panels are handed out, does so many.
    let busiest = |each: usize| {
        let (whole, rest) = (panels / each, panels % each);
        whole.div_ceil(threads) * each + if whole.is_multiple_of(threads) { rest } else { 0 }
    };
    let fewer = (most_panels / 2..most_panels).rev().filter(|each| each % FEWEST_PANELS == 0 && *each > 0);
    let is_whole = rows.div_ceil(wanted.div_ceil(across)).max(FEWEST_ROWS) >= rows;
    let block_panels =
        fewer.fold(most_panels, |best, each| if is_whole && busiest(each) < busiest(best) { each } else { best });
    let across = panels.div_ceil(block_panels);
    // Rows that are short enough to need many of them for a block to be worth its while.
    let least = BLOCK_WORK / block_panels.saturating_mul(panel_width::<C>()).saturating_mul(k.max(1)).max(1);
    let most = rows.div_ceil(wanted.div_ceil(across)).clamp(FEWEST_ROWS, MOST_ROWS).max(least);
    // The same for rows: blocks one more than threads would keep them all as long as twice as many.
    let down = rows.div_ceil(most);
    let busiest = |down: usize| (down * across).div_ceil(threads) * rows.div_ceil(down);
    let down = (down..=if down > 1 { 2 * down } else { 1 }).min_by_key(|&down| busiest(down)).unwrap_or(down);
    (rows.div_ceil(down), block_panels)
}

kernel! {
    /// A product of one storage type. Nothing is written where there is no memory for that.
    Multiply<T>(product: Product<'a, T, T>, out: MatrixMut<'a, T>) -> Result<(), NoMemory> = multiply_alone
}
kernel! {
    /// A product in the compute type with a weight that is stored in another.
    MultiplyWide<T>(product: Product<'a, T::Acc, T>, out: MatrixMut<'a, T::Acc>) -> Result<(), NoMemory> = multiply_alone
}
kernel! {
    /// One of several products, on all threads or on this one. It needs no more memory than a workspace of
    /// [`max_workspace`] has.
    MultiplyIn<T>(workspace: &'a mut Workspace, product: Product<'a, T, T>, out: MatrixMut<'a, T>, threads: bool)
        -> Result<(), NoMemory> = multiply
}

fn multiply_alone<T: Float, W: Float<Acc = T::Acc>>(
    product: Product<'_, T, W>,
    out: MatrixMut<'_, T>,
) -> Result<(), NoMemory> {
    multiply(&mut Workspace::take(), product, out, true)
}

/// Computes `product` into `out`, on all threads or on this one.
fn multiply<T: Float, W: Float<Acc = T::Acc>>(
    workspace: &mut Workspace,
    product: Product<'_, T, W>,
    out: MatrixMut<'_, T>,
    threads: bool,
) -> Result<(), NoMemory> {
    let (rows, cols) = out.shape();
    if rows == 0 || cols == 0 {
        return Ok(());
    }
    #[cfg(feature = "std")]
    if cols == 1 && rows > 1 && out.row_stride() == 1 {
        return multiply_as_row(product, out, threads, workspace);
    }
    multiply_in_blocks(product.x, product.weight, product.epilogue, out, threads, workspace)
}

/// A weight of one column as the row that it is in memory.
#[cfg(feature = "std")]
fn column_of<C, W: Float>(weight: Weight<'_, W>) -> Option<Matrix<'_, W>> {
    match weight {
        Weight::Matrix(weight) => Some(weight.transpose()),
        Weight::Packed { panels, shape: (k, _) } => {
            Matrix::with_strides(panels, k, 1, panel_width::<C>(), 1).ok().map(Matrix::transpose)
        }
    }
}

/// A result of one column is computed as the row that it is in memory: transposed, with the operands exchanged.
#[cfg(feature = "std")]
fn multiply_as_row<T: Float, W: Float<Acc = T::Acc>>(
    product: Product<'_, T, W>,
    out: MatrixMut<'_, T>,
    threads: bool,
    workspace: &mut Workspace,
) -> Result<(), NoMemory> {
    let Product { x, weight, epilogue } = product;
    let Some(row) = column_of::<T::Acc, W>(weight) else { return bug!(Ok(())) };
    let bias = match epilogue.bias {
        Bias::None => Bias::None,
        Bias::Stored(values) => values.first().map_or(Bias::None, |value| Bias::Uniform(value.to_acc())),
        Bias::Computed(values) => values.first().map_or(Bias::None, |&value| Bias::Uniform(value)),
        Bias::Uniform(value) => Bias::Uniform(value),
    };
    let residual = match epilogue.residual {
        Residual::Matrix(matrix) => Residual::Matrix(matrix.transpose()),
        other => other,
    };
    let Some(out) = out.column_as_row() else { return bug!(Ok(())) };
    let epilogue = FusedEpilogue { bias, residual, ..epilogue };
    multiply_in_blocks(row, Weight::Matrix(x.transpose()), epilogue, out, threads, workspace)
}

/// How a product is cut into blocks. `None`: it is so small that it is one.
fn tiling<X: Float, W: Float<Acc = X::Acc>>(
    x: Matrix<'_, X>,
    weight: Weight<'_, W>,
    (rows, cols): (usize, usize),
    threads: bool,
) -> Option<Tiling> {
    let k = x.cols();
    if rows.saturating_mul(cols).saturating_mul(k.max(1)) <= SMALL && rows.saturating_mul(cols) <= SMALL_SUMS {
        return None;
    }
    let few = !cfg!(feature = "std") || rows <= FEW_ROWS;
    let many = if threads { parallel::num_threads().max(1) } else { 1 };
    let (block_rows, block_panels) = partition::<X::Acc>((rows, k, cols), few, many);
    // So that no block but the first begins with columns that straddle cache lines.
    #[cfg(feature = "std")]
    let shift = {
        let layout = BlockOperands { x, weight }.layout();
        let reads_lines = rows <= MAX_MR_OVERLAPPING
            || plan((rows, cols, k), &layout, 1, Registers::at::<X::Acc>(simd::level())) == Plan::GemvRows;
        if reads_lines { layout.misalignment() } else { 0 }
    };
    #[cfg(not(feature = "std"))]
    let (shift, _) = (0, weight);
    Some(Tiling { size: (block_rows, block_panels * panel_width::<X::Acc>()), shift })
}

/// Cuts a product into blocks, and has them computed.
fn multiply_in_blocks<T: Float, X: Float<Acc = T::Acc>, W: Float<Acc = T::Acc>>(
    x: Matrix<'_, X>,
    weight: Weight<'_, W>,
    epilogue: FusedEpilogue<'_, T>,
    #[cfg_attr(not(feature = "std"), allow(unused_mut, reason = "lent once more with std"))] mut out: MatrixMut<'_, T>,
    threads: bool,
    workspace: &mut Workspace,
) -> Result<(), NoMemory> {
    let shape = out.shape();
    let Some(tiling) = tiling(x, weight, shape, threads) else {
        #[cfg(feature = "python")]
        note_plan(x, weight, shape, false);
        return multiply_block(x, weight, epilogue, out, workspace);
    };
    #[cfg(feature = "python")]
    let first = (tiling.size.0.min(shape.0), tiling.size.1.min(shape.1));
    #[cfg(feature = "std")]
    if tiling.size.0 < shape.0 {
        let operands = BlockOperands { x, weight };
        let (size, row_blocks) = ((shape.0, shape.1, x.cols()), shape.0.div_ceil(tiling.size.0));
        let registers = Registers::at::<T::Acc>(simd::level());
        if plan(size, &operands.layout(), row_blocks, registers) == Plan::Tiles(PanelSource::PackOnce) {
            let packed = operands.pack_once(threads, |panels| {
                #[cfg(feature = "python")]
                note_plan(x, Weight::Packed { panels, shape: (x.cols(), shape.1) }, first, true);
                let weight = Weight::Packed { panels, shape: (x.cols(), shape.1) };
                multiply_partitioned(x, weight, epilogue, out.reborrow(), tiling, threads, workspace)
            });
            if let Some(result) = packed {
                return result;
            }
        }
    }
    #[cfg(feature = "python")]
    note_plan(x, weight, first, false);
    multiply_partitioned(x, weight, epilogue, out, tiling, threads, workspace)
}

/// Tells `explain` which way the first block of a product goes, (rows, columns) of it.
#[cfg(feature = "python")]
fn note_plan<X: Float, W: Float<Acc = X::Acc>>(
    x: Matrix<'_, X>,
    weight: Weight<'_, W>,
    (rows, cols): (usize, usize),
    is_packed_once: bool,
) {
    crate::trace::note(|| {
        let k = x.cols();
        let operands = BlockOperands { x: x.block(0..rows, 0..k), weight: weight.part(k, 0..cols) };
        let registers = Registers::at::<X::Acc>(simd::level());
        let plan = if is_packed_once {
            Plan::Tiles(PanelSource::PackOnce)
        } else {
            plan((rows, cols, k), &operands.layout(), 1, registers)
        };
        let tile = match plan {
            Plan::Tiles(PanelSource::InPlace | PanelSource::Overlapping { .. }) => registers.tile((rows, cols), false),
            Plan::Tiles(_) => registers.tile((rows, cols), true),
            _ => (0, 0),
        };
        crate::trace::Event::Plan { name: plan.name(), tile }
    });
}

/// Has the blocks of a partitioned product computed.
fn multiply_partitioned<T: Float, X: Float<Acc = T::Acc>, W: Float<Acc = T::Acc>>(
    x: Matrix<'_, X>,
    weight: Weight<'_, W>,
    epilogue: FusedEpilogue<'_, T>,
    mut out: MatrixMut<'_, T>,
    tiling: Tiling,
    threads: bool,
    workspace: &mut Workspace,
) -> Result<(), NoMemory> {
    let (shape, k) = (out.shape(), x.cols());
    let block = |workspace: &mut Workspace, rows: Range<usize>, cols: Range<usize>, out: MatrixMut<'_, T>| {
        let x = x.block(rows.clone(), 0..k);
        let (weight, epilogue) = (weight.part(k, cols.clone()), epilogue.part(rows, cols));
        multiply_block(x, weight, epilogue, out, workspace)
    };
    let count = tiling.count(shape);
    #[cfg(feature = "std")]
    let bytes = if count > 1 { workspace_of_blocks(x, weight, shape, tiling) } else { 0 };
    #[cfg(not(feature = "std"))]
    let bytes = 0;
    // For all blocks, before the first is written.
    workspace.reserve(bytes)?;
    if threads && count > 1 {
        let (rows, cols) = tiling.size;
        let work = nanoseconds::<T::Acc>(rows.saturating_mul(cols).saturating_mul(k.max(1)));
        let bytes_read = k.saturating_mul(cols.saturating_add(rows)).saturating_mul(size_of::<W>());
        let missing = Missing::default();
        parallel::for_each_tile_with(
            out,
            tiling,
            work.max(reading(bytes_read)),
            workspace,
            || Workspace::hold(bytes).ok(),
            |workspace, rows, cols, out| missing.note(block(workspace, rows, cols, out)),
        );
        return missing.result();
    }
    for (rows, cols) in (0..count).map(|index| tiling.tile(shape, index)) {
        block(workspace, rows.clone(), cols.clone(), out.block_mut(rows, cols))?;
    }
    Ok(())
}

/// The bytes of the workspace that each block of a product takes at most.
#[cfg(feature = "std")]
fn workspace_of_blocks<X: Float, W: Float<Acc = X::Acc>>(
    x: Matrix<'_, X>,
    weight: Weight<'_, W>,
    shape: Shape,
    tiling: Tiling,
) -> usize {
    let (k, count) = (x.cols(), tiling.count(shape));
    let across = tiling.across(shape.1);
    let mut bytes = 0;
    // Those of a row of blocks are alike but for the first and the last, and rows of them but for the last.
    for first in [0, count - across].into_iter().take(if count > across { 2 } else { 1 }) {
        for col in (0..across.min(2)).chain((across > 2).then_some(across - 1)) {
            let (rows, cols) = tiling.tile(shape, first + col);
            let operands = BlockOperands { x: x.block(rows.clone(), 0..k), weight: weight.part(k, cols.clone()) };
            bytes = bytes.max(BlockWorkspace::run::<X::Acc>(&operands, (rows.len(), cols.len()), k));
        }
    }
    bytes
}

/// The bytes of the workspace that each block of a product with so many rows, steps and columns takes at most, however
/// its operands lie and however many threads there are.
#[cfg(feature = "std")]
pub(crate) fn max_workspace<C>((rows, k, cols): (usize, usize, usize)) -> usize {
    /// Of blocks of many rows, as [`FEW_ROWS_SUMS`] of others; the smallest products have fewer.
    const SUMS: usize = MOST_ROWS * MOST_PANELS;
    const { assert!(SUMS <= FEW_ROWS_SUMS && SMALL_SUMS <= FEW_ROWS_SUMS) };
    if rows == 0 || cols == 0 {
        return 0;
    }
    let width = panel_width::<C>();
    // One at either end, for columns of which the cut or the cache's lines do not allow for.
    let panels = cols.div_ceil(width).saturating_add(2);
    let most = |each: usize| FEW_ROWS_SUMS + each * rows.min(MOST_ROWS);
    let kc = kc_of(k);
    let line = |count: usize, each: usize| count.saturating_mul(each).saturating_mul(64);
    let is_kept = k > kc || rows <= FEW_ROWS;
    let bytes = bytes_of([
        line(panels.min(NC_PANELS), kc),
        rows.min(MC).saturating_mul(kc).saturating_mul(size_of::<C>()),
        if is_kept {
            line(rows.saturating_mul(panels).min(most(2)), 1)
        } else {
            line(rows.min(MC), panels.min(MAX_NR_VECTORS + 1))
        },
        if rows <= FEW_ROWS { line(rows.saturating_mul(panels.saturating_add(2)).min(most(4)), 1) } else { 0 },
        line(panels.min(FEW_ROWS_SUMS + 2).saturating_add(1), 1),
    ]);
    // A single column may be computed as a row.
    if cols == 1 && rows > 1 { bytes.max(max_workspace::<C>((1, k, rows))) } else { bytes }
}

#[cfg(not(feature = "std"))]
#[allow(clippy::extra_unused_type_parameters, reason = "as with std")]
pub(crate) fn max_workspace<C>(_: (usize, usize, usize)) -> usize {
    0
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use std::vec;

    use super::super::macro_kernel::workspace_here;
    use super::*;
    use crate::simd::Level;

    /// What is reserved for all blocks is enough for each, so that none fails once the first is written; and what is
    /// reserved for any product is enough for all of them.
    #[test]
    #[cfg_attr(miri, ignore = "a grid of 100,000 cases, and no memory to watch")]
    fn each_block_fits_what_is_reserved() {
        fn check<T: Float>(sizes: (usize, usize, usize), threads: usize) {
            let (rows, k, cols) = sizes;
            // Strides of 0 make views of any size of one number; those of 1 lie side by side, over one another.
            let numbers = vec![T::ZERO; rows.max(cols).max(k) * 2 + 40];
            let ways = [(0, 0), (1, 1), (0, 1), (1, 0)];
            for ((x_down, x_across), (down, across), start) in
                ways.into_iter().flat_map(|x| ways.map(|weight| (x, weight, 0))).chain([((0, 1), (0, 1), 3)])
            {
                let x = Matrix::with_strides(&numbers, rows, k, x_down, x_across).unwrap();
                let weight = Matrix::with_strides(&numbers[start..], k, cols, down, across).unwrap();
                let panels = Weight::Packed { panels: &numbers[..0], shape: (k, cols) };
                for weight in [Weight::Matrix(weight), panels] {
                    let Some(tiling) = tiling(x, weight, (rows, cols), true) else { continue };
                    let shape = (rows, cols);
                    let reserved = workspace_of_blocks(x, weight, shape, tiling);
                    assert!(reserved <= max_workspace::<T::Acc>(sizes), "{sizes:?} on {threads} threads: {reserved}");
                    for index in 0..tiling.count(shape) {
                        let (rows, cols) = tiling.tile(shape, index);
                        let operands =
                            BlockOperands { x: x.block(rows.clone(), 0..k), weight: weight.part(k, cols.clone()) };
                        let needed = workspace_here::<T::Acc>(&operands, (rows.len(), cols.len()), k);
                        assert!(needed <= reserved, "{sizes:?} on {threads} threads, {index}: {needed} of {reserved}");
                    }
                }
            }
        }
        let best = simd::level();
        for level in [best, Level::baseline()] {
            simd::set_level(level);
            for threads in [1, 2, 7] {
                parallel::with_threads(threads, || {
                    for rows in [1, 2, 3, 4, 5, 12, 13, 16, 17, 48, 161, 330, 1100, 5000] {
                        for k in [0, 1, 40, 512, 513, 1030] {
                            for cols in [1, 7, 16, 65, 300, 1001, 20_000] {
                                check::<f32>((rows, k, cols), threads);
                                check::<f64>((rows, k, cols), threads);
                            }
                        }
                    }
                });
            }
        }
        simd::set_level(best);
    }
}

//! Cuts a product into blocks and hands them to threads. Shapes were checked before; how a block is computed is told
//! elsewhere.

use core::ops::Range;

use super::panel_width;
#[cfg(feature = "std")]
use super::part::{Ending, Sides};
#[cfg(feature = "std")]
use super::problem::{Bias, Residual};
use super::problem::{Finish, Product, Weight, nanoseconds, reading};
use crate::float::Float;
use crate::kernel::kernel;
use crate::parallel::{self, Tiling};
use crate::view::{Matrix, MatrixMut};

/// The multiply-adds that a block should have, so that handing it to a thread does not matter.
const BLOCK_WORK: usize = 1 << 20;
/// Work with so many multiply-adds and results at most is not worth a look at how to cut it.
const SMALL: usize = 1 << 16;
const SMALL_SUMS: usize = 1 << 12;
/// Into about so many blocks for each thread work is cut that is large enough. What they are changes no bit of a result.
const BLOCKS_EACH: usize = 2;
/// The most rows of a block, which bounds its scratch memory.
const MOST_ROWS: usize = 1024;
/// The fewest rows that work is cut into where there are more.
const FEWEST_ROWS: usize = 160;
/// The columns of a block in panels: what is packed of them for one block of k stays in the cache's second level.
const MOST_PANELS: usize = 16;
/// The fewest, where there are more; others are a multiple of it, as tiles are two panels wide where registers are many.
const FEWEST_PANELS: usize = 2;
/// Work of at most so many rows is cut into columns alone.
const FEW_ROWS: usize = 16;
/// The fewest columns of such a block in panels, where there are more: as many as the widest tile has.
const FEW_ROWS_PANELS: usize = 16;
/// The most memory for a weight that is packed once for all blocks of rows, in bytes. It is kept from call to call.
#[cfg(feature = "std")]
const MOST_PACKED: usize = 16 << 20;

/// How many rows and how many panels each block has, where there are so many threads.
fn cut<C>((rows, k, cols): (usize, usize, usize), few: bool, threads: usize) -> (usize, usize) {
    let panels = cols.div_ceil(panel_width::<C>());
    // Part of a panel takes as long as a whole one.
    let work = rows.saturating_mul(k.max(1)).saturating_mul(panels.saturating_mul(panel_width::<C>()));
    if few {
        // A power of two: three blocks would keep two threads as long as four. And no more: long rows are read faster
        // than short ones.
        let most = (panels / FEW_ROWS_PANELS).min(BLOCKS_EACH * threads).max(1);
        let blocks = 1 << most.ilog2();
        return (rows, panels.div_ceil(blocks));
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
    /// A product of one storage type.
    Multiply<T>(product: Product<'a, T, T>, out: MatrixMut<'a, T>, threads: bool) = run
}
kernel! {
    /// A product in the compute type with a weight that is stored in another.
    MultiplyWide<T>(product: Product<'a, T::Acc, T>, out: MatrixMut<'a, T::Acc>, threads: bool) = run
}

/// Computes `product` into `out`, on all threads or on this one.
fn run<T: Float, W: Float<Acc = T::Acc>>(product: Product<'_, T, W>, out: MatrixMut<'_, T>, threads: bool) {
    let (rows, cols) = out.shape();
    if rows == 0 || cols == 0 {
        return;
    }
    #[cfg(feature = "std")]
    if cols == 1 && rows > 1 && out.row_stride() == 1 {
        return run_column(product, out, threads);
    }
    run_blocks(product.x, product.weight, product.finish, out, threads);
}

/// A result of one column is computed as the row that it is in memory: transposed, with the operands exchanged.
#[cfg(feature = "std")]
fn run_column<T: Float, W: Float<Acc = T::Acc>>(product: Product<'_, T, W>, out: MatrixMut<'_, T>, threads: bool) {
    let Product { x, weight, finish } = product;
    let column = match weight {
        Weight::Matrix(weight) => weight,
        Weight::Packed { panels, shape: (k, _) } => {
            let Ok(column) = Matrix::with_strides(panels, k, 1, panel_width::<T::Acc>(), 1) else { return };
            column
        }
    };
    let bias = match finish.bias {
        Bias::None => Bias::None,
        Bias::Stored(values) => values.first().map_or(Bias::None, |value| Bias::One(value.to_acc())),
        Bias::Computed(values) => values.first().map_or(Bias::None, |&value| Bias::One(value)),
        Bias::One(value) => Bias::One(value),
    };
    let residual = match finish.residual {
        Residual::Matrix(matrix) => Residual::Matrix(matrix.transpose()),
        other => other,
    };
    let Some(out) = out.column_as_row() else { return };
    run_blocks(column.transpose(), Weight::Matrix(x.transpose()), Finish { bias, residual, ..finish }, out, threads);
}

/// Cuts a product into blocks, and has them computed.
fn run_blocks<T: Float, X: Float<Acc = T::Acc>, W: Float<Acc = T::Acc>>(
    x: Matrix<'_, X>,
    weight: Weight<'_, W>,
    finish: Finish<'_, T>,
    #[cfg_attr(not(feature = "std"), allow(unused_mut, reason = "lent once more with std"))] mut out: MatrixMut<'_, T>,
    threads: bool,
) {
    let ((rows, cols), k) = (out.shape(), x.cols());
    if rows.saturating_mul(cols).saturating_mul(k.max(1)) <= SMALL && rows.saturating_mul(cols) <= SMALL_SUMS {
        return run_block(x, weight, finish, out);
    }
    let few = !cfg!(feature = "std") || rows <= FEW_ROWS;
    let many = if threads { parallel::num_threads().max(1) } else { 1 };
    let (block_rows, block_panels) = cut::<T::Acc>((rows, k, cols), few, many);
    let width = panel_width::<T::Acc>();
    // So that no block but the first begins with columns that straddle cache lines.
    #[cfg(feature = "std")]
    let shift = Sides { x, weight }.straddling();
    #[cfg(not(feature = "std"))]
    let shift = 0;
    let tiling = Tiling { size: (block_rows, block_panels * width), shift };
    #[cfg(feature = "std")]
    if block_rows < rows && !few {
        let packed = Sides { x, weight }.with_packed(rows, MOST_PACKED, threads, |panels| {
            run_cut(x, Weight::Packed { panels, shape: (k, cols) }, finish, out.reborrow(), tiling, threads);
        });
        if packed {
            return;
        }
    }
    run_cut(x, weight, finish, out, tiling, threads);
}

/// Has blocks computed.
fn run_cut<T: Float, X: Float<Acc = T::Acc>, W: Float<Acc = T::Acc>>(
    x: Matrix<'_, X>,
    weight: Weight<'_, W>,
    finish: Finish<'_, T>,
    mut out: MatrixMut<'_, T>,
    tiling: Tiling,
    threads: bool,
) {
    let (shape, k) = (out.shape(), x.cols());
    let block = |rows: Range<usize>, cols: Range<usize>, out: MatrixMut<'_, T>| {
        let x = x.block(rows.clone(), 0..k);
        let (weight, finish) = (weight.part(k, cols.clone()), finish.part(rows, cols));
        run_block(x, weight, finish, out);
    };
    let count = tiling.count(shape);
    if threads && count > 1 {
        let (rows, cols) = tiling.size;
        let work = nanoseconds::<T::Acc>(rows.saturating_mul(cols).saturating_mul(k.max(1)));
        let bytes = k.saturating_mul(cols.saturating_add(rows)).saturating_mul(size_of::<W>());
        parallel::for_each_tile(out, tiling, work.max(reading(bytes)), block);
    } else {
        for (rows, cols) in (0..count).map(|index| tiling.tile(shape, index)) {
            block(rows.clone(), cols.clone(), out.block_mut(rows, cols));
        }
    }
}

#[cfg(feature = "std")]
fn run_block<T: Float, X: Float<Acc = T::Acc>, W: Float<Acc = T::Acc>>(
    x: Matrix<'_, X>,
    weight: Weight<'_, W>,
    finish: Finish<'_, T>,
    out: MatrixMut<'_, T>,
) {
    let k = x.cols();
    super::block::MultiplyBlock::run::<T::Acc>(&Sides { x, weight }, k, &mut Ending { finish, out });
}

#[cfg(not(feature = "std"))]
use super::direct::run_block;

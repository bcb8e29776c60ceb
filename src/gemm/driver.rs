//! Cuts a product into blocks, hands them to threads, and runs each block tile by tile, with bias, residual,
//! activation and narrowing applied to each tile while it is in the cache's first level. Shapes were checked before.

use core::ops::Range;

use fearless_simd::{Simd, SimdBase};

use super::tile::{Columns, MAX_VECTORS, Panels, Rows, StridedRows, Sums, max_rows, panels_at_once, tile, with_tile};
use super::{DEPTH, pack, panel_width};
use crate::error::Shape;
use crate::float::{Float, Lanes, MAX_LANES};
use crate::ops::activation::Activation;
use crate::parallel;
use crate::simd::{self, dispatch};
use crate::view::{Matrix, MatrixMut};

/// The right operand of a product.
#[derive(Clone, Copy, Debug)]
pub enum Weight<'a, W> {
    /// As the caller has it, in any strides.
    Matrix(Matrix<'a, W>),
    /// In panels: for each panel of columns, its rows one after the other, zeros past the last column.
    Packed { panels: &'a [W], shape: Shape },
}

impl<W: Float> Weight<'_, W> {
    pub(crate) fn shape(&self) -> Shape {
        match self {
            Self::Matrix(matrix) => matrix.shape(),
            Self::Packed { shape, .. } => *shape,
        }
    }
}

/// One value a column, added to each row.
#[derive(Clone, Copy, Debug)]
pub enum Bias<'a, T: Float> {
    None,
    Stored(&'a [T]),
    Computed(&'a [T::Acc]),
}

/// What is added before the activation, element by element.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub enum Residual<'a, T> {
    /// Nothing.
    #[default]
    None,
    /// A matrix of the output's shape.
    Matrix(Matrix<'a, T>),
    /// What the output held before.
    Out,
}

/// A product with its epilogue: `activation(x @ weight + bias + residual)`.
#[derive(Clone, Copy, Debug)]
pub struct Product<'a, T: Float, W> {
    pub(crate) x: Matrix<'a, T>,
    pub(crate) weight: Weight<'a, W>,
    pub(crate) bias: Bias<'a, T>,
    pub(crate) residual: Residual<'a, T>,
    pub(crate) activation: Activation,
}

/// The multiply-adds that a block should have, so that handing it to a thread does not matter.
const BLOCK_WORK: usize = 1 << 21;
/// The most rows of a block, which bounds its scratch memory.
const BLOCK_ROWS: usize = 256;
/// The panels of a block of many rows: what is packed of them for one block of k fits the cache's second level.
const BLOCK_PANELS: usize = 8;
/// The rows that go over the panels together, so that what they read of x stays in the cache's second level.
const BAND_ROWS: usize = 96;

/// The multiply-adds of `x` times a weight of `cols` columns.
pub(crate) fn work<T: Float>(x: &Matrix<'_, T>, cols: usize) -> usize {
    x.rows().saturating_mul(x.cols().max(1)).saturating_mul(cols)
}

/// About how long `work` multiply-adds take on one core.
pub(crate) fn nanoseconds<C>(work: usize) -> f32 {
    work as f32 * (size_of::<C>() as f32 / (4.0 * 50.0))
}

/// Computes `product` into `out`, on all threads or on this one.
pub(crate) fn run<T: Float, W: Float<Acc = T::Acc>>(product: Product<'_, T, W>, out: MatrixMut<'_, T>, threads: bool) {
    let (rows, cols) = out.shape();
    let k = product.x.cols();
    if rows == 0 || cols == 0 {
        return;
    }
    let width = panel_width::<T::Acc>();
    let block_rows = rows.div_ceil(rows.div_ceil(BLOCK_ROWS));
    let work_per_panel = block_rows.saturating_mul(width).saturating_mul(k.max(1));
    let panels = cols.div_ceil(width);
    let block_panels = (BLOCK_WORK / work_per_panel).clamp(BLOCK_PANELS.min(panels), panels);
    let block_panels = panels.div_ceil(panels.div_ceil(block_panels));
    let level = simd::level();
    let block = |rows: Range<usize>, cols: Range<usize>, out: MatrixMut<'_, T>| {
        run_block(level, &product, rows, cols, out);
    };
    if threads {
        let nanoseconds = nanoseconds::<T::Acc>(work_per_panel * block_panels);
        parallel::for_each_tile(out, (block_rows, block_panels * width), nanoseconds, block);
    } else {
        let mut out = out;
        for row in (0..rows).step_by(block_rows) {
            for col in (0..cols).step_by(block_panels * width) {
                let rows = row..(row + block_rows).min(rows);
                let cols = col..(col + block_panels * width).min(cols);
                block(rows.clone(), cols.clone(), out.block_mut(rows, cols));
            }
        }
    }
}

#[cfg(feature = "std")]
fn run_block<T: Float, W: Float<Acc = T::Acc>>(
    level: simd::Level,
    product: &Product<'_, T, W>,
    rows: Range<usize>,
    cols: Range<usize>,
    out: MatrixMut<'_, T>,
) {
    super::scratch::with(|scratch| {
        dispatch!(level, simd => block(simd, product, rows.clone(), cols.clone(), out, scratch));
    });
}

#[cfg(not(feature = "std"))]
fn run_block<T: Float, W: Float<Acc = T::Acc>>(
    level: simd::Level,
    product: &Product<'_, T, W>,
    rows: Range<usize>,
    cols: Range<usize>,
    out: MatrixMut<'_, T>,
) {
    dispatch!(level, simd => direct_block(simd, product, rows.clone(), cols.clone(), out));
}

/// What a block needs besides its operands, and where it lies in the whole product.
struct Block<'a, 'p, T: Float, W> {
    product: &'a Product<'p, T, W>,
    rows: Range<usize>,
    cols: Range<usize>,
}

impl<T: Float, W: Float<Acc = T::Acc>> Block<'_, '_, T, W> {
    /// The part of packed panel number `panel` (of the whole weight) for a block of k.
    #[inline(always)]
    fn packed<'w>(panels: &'w [W], k: usize, panel: usize, depth: Range<usize>) -> &'w [W] {
        let width = panel_width::<T::Acc>();
        panels.get((panel * k + depth.start) * width..(panel * k + depth.end) * width).unwrap_or(&[])
    }

    /// Adds bias and residual to the sums of a tile, applies the activation and stores the tile. `row` and `col` count
    /// from the block's first.
    #[inline(always)]
    fn finish<S: Simd>(
        &self,
        simd: S,
        sums: &Sums<'_, Lanes<S, T>>,
        (row, col): (usize, usize),
        (rows, vectors): (usize, usize),
        out: &mut MatrixMut<'_, T>,
    ) {
        let lanes = Lanes::<S, T>::LEN;
        let cols = (self.cols.len() - col).min(vectors * lanes);
        let first_col = self.cols.start + col;
        let mut bias = [Lanes::<S, T>::splat(simd, T::Acc::ZERO); MAX_VECTORS];
        let has_bias = match self.product.bias {
            Bias::None => false,
            Bias::Stored(values) => {
                if let Some(values) = values.get(first_col..first_col + cols) {
                    for (vector, values) in bias.iter_mut().zip(values.chunks(lanes)) {
                        *vector = load_some::<S, T>(simd, values);
                    }
                }
                true
            }
            Bias::Computed(values) => {
                if let Some(values) = values.get(first_col..first_col + cols) {
                    for (vector, values) in bias.iter_mut().zip(values.chunks(lanes)) {
                        *vector = load_some::<S, T::Acc>(simd, values);
                    }
                }
                true
            }
        };
        for (index, sums) in sums.vectors.chunks(sums.stride.max(1)).take(rows).enumerate() {
            let Some(target) = out.row_mut(row + index).and_then(|row| row.get_mut(col..col + cols)) else { continue };
            for (index_of_vector, ((target, &sum), &bias)) in
                target.chunks_mut(lanes).zip(sums).zip(bias.iter()).enumerate()
            {
                let mut value = if has_bias { sum + bias } else { sum };
                match self.product.residual {
                    Residual::None => {}
                    Residual::Out => value += load_some::<S, T>(simd, target),
                    Residual::Matrix(residual) => {
                        let first = first_col + index_of_vector * lanes;
                        let row = self.rows.start + row + index;
                        let part = residual.row(row).and_then(|row| row.get(first..first + target.len()));
                        value += match part {
                            Some(part) => load_some::<S, T>(simd, part),
                            None => Lanes::<S, T>::from_fn(
                                simd,
                                #[inline(always)]
                                |lane| residual.get(row, first + lane).unwrap_or(T::ZERO).to_acc(),
                            ),
                        };
                    }
                }
                let value = self.product.activation.apply::<S, T::Acc>(simd, value);
                if target.len() == lanes {
                    T::store::<S>(value, target);
                } else {
                    let mut whole = [T::ZERO; MAX_LANES];
                    T::store::<S>(value, &mut whole[..lanes]);
                    for (target, &value) in target.iter_mut().zip(&whole) {
                        *target = value;
                    }
                }
            }
        }
    }
}

/// A vector of up to as many values as it has lanes, then zeros.
#[inline(always)]
fn load_some<S: Simd, T: Float>(simd: S, values: &[T]) -> Lanes<S, T> {
    let lanes = Lanes::<S, T>::LEN;
    if values.len() == lanes {
        return T::load(simd, values);
    }
    let mut whole = [T::ZERO; MAX_LANES];
    for (target, &value) in whole.iter_mut().zip(values) {
        *target = value;
    }
    T::load(simd, &whole[..lanes])
}

/// The rows of a band cut into tiles as even as can be: (first row, rows).
#[inline(always)]
fn tiles(rows: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = rows.div_ceil(most).max(1);
    let (len, longer) = (rows / count, rows % count);
    (0..count).map(
        #[inline(always)]
        move |index| (index * len + index.min(longer), len + usize::from(index < longer)),
    )
}

/// Runs a block with no scratch memory but a tile of sums: operands are read as they lie.
#[inline(always)]
#[cfg_attr(feature = "std", allow(dead_code))]
fn direct_block<S: Simd, T: Float, W: Float<Acc = T::Acc>>(
    simd: S,
    product: &Product<'_, T, W>,
    rows: Range<usize>,
    cols: Range<usize>,
    mut out: MatrixMut<'_, T>,
) {
    let block = Block { product, rows, cols };
    match const { panel_width::<T::Acc>() } / Lanes::<S, T>::LEN {
        1 => direct::<S, T, W, 1>(simd, &block, &mut out),
        2 => direct::<S, T, W, 2>(simd, &block, &mut out),
        _ => direct::<S, T, W, 4>(simd, &block, &mut out),
    }
}

#[inline(always)]
fn direct<S: Simd, T: Float, W: Float<Acc = T::Acc>, const V: usize>(
    simd: S,
    block: &Block<'_, '_, T, W>,
    out: &mut MatrixMut<'_, T>,
) {
    let width = const { panel_width::<T::Acc>() };
    let k = block.product.x.cols();
    let panels = block.cols.len().div_ceil(width);
    for (row, tile_rows) in tiles(block.rows.len(), max_rows(V)) {
        let x = block.product.x.block(block.rows.start + row..block.rows.start + row + tile_rows, 0..k);
        let mut panel = 0;
        while panel < panels {
            let count = panels_at_once(tile_rows, panels - panel, V);
            let mut vectors = [Lanes::<S, T>::splat(simd, T::Acc::ZERO); MAX_VECTORS];
            for start in (0..k).step_by(DEPTH) {
                let depth = start..(start + DEPTH).min(k);
                let x = x.block(0..tile_rows, depth.clone());
                with_tile!(tile_rows, count, V, |R, G| {
                    let sums = Sums { vectors: &mut vectors, stride: G * V, first: start == 0 };
                    direct_tile::<S, T, W, R, G, V>(simd, block, x, panel, depth, sums);
                });
            }
            let sums = Sums { vectors: &mut vectors, stride: count * V, first: false };
            block.finish(simd, &sums, (row, panel * width), (tile_rows, count * V), out);
            panel += count;
        }
    }
}

#[inline(always)]
fn direct_tile<S: Simd, T: Float, W: Float<Acc = T::Acc>, const R: usize, const G: usize, const V: usize>(
    simd: S,
    block: &Block<'_, '_, T, W>,
    x: Matrix<'_, T>,
    panel: usize,
    depth: Range<usize>,
    sums: Sums<'_, Lanes<S, T>>,
) {
    let width = const { panel_width::<T::Acc>() };
    let steps = depth.len();
    let panel = block.cols.start / width + panel;
    match block.product.weight {
        Weight::Packed { panels, shape: (k, _) } => {
            let mut parts: [&[W]; G] = [&[]; G];
            for (index, part) in parts.iter_mut().enumerate() {
                *part = Block::<'_, '_, T, W>::packed(panels, k, panel + index, depth.clone());
            }
            either_rows::<S, T, _, R, G, V>(simd, steps, x, Panels::new(parts), sums);
        }
        Weight::Matrix(weight) => {
            let cols = panel * width..((panel + G) * width).min(block.cols.end);
            let right = Columns::new(weight.block(depth, cols));
            either_rows::<S, T, _, R, G, V>(simd, steps, x, right, sums);
        }
    }
}

#[inline(always)]
fn either_rows<S: Simd, T: Float, B, const R: usize, const G: usize, const V: usize>(
    simd: S,
    steps: usize,
    x: Matrix<'_, T>,
    right: B,
    sums: Sums<'_, Lanes<S, T>>,
) where
    B: super::tile::Right<S, T::Acc, G, V>,
{
    let mut rows: [&[T]; R] = [&[]; R];
    for (index, row) in rows.iter_mut().enumerate() {
        match x.row(index).and_then(|row| row.get(..steps)) {
            Some(found) => *row = found,
            None => return tile::<S, T::Acc, R, G, V>(simd, steps, &StridedRows(x), right, sums),
        }
    }
    tile::<S, T::Acc, R, G, V>(simd, steps, &Rows(rows), right, sums);
}

/// Runs a block: for each block of k, the weight's panels are packed and x is widened where they need it, then each
/// band of rows goes over the panels tile by tile.
#[cfg(feature = "std")]
#[inline(always)]
fn block<S: Simd, T: Float, W: Float<Acc = T::Acc>>(
    simd: S,
    product: &Product<'_, T, W>,
    rows: Range<usize>,
    cols: Range<usize>,
    mut out: MatrixMut<'_, T>,
    scratch: &mut super::scratch::Scratch,
) {
    let block = Block { product, rows, cols };
    match const { panel_width::<T::Acc>() } / Lanes::<S, T>::LEN {
        1 => packed::<S, T, W, 1>(simd, &block, &mut out, scratch),
        2 => packed::<S, T, W, 2>(simd, &block, &mut out, scratch),
        _ => packed::<S, T, W, 4>(simd, &block, &mut out, scratch),
    }
}

#[cfg(feature = "std")]
#[inline(always)]
fn packed<S: Simd, T: Float, W: Float<Acc = T::Acc>, const V: usize>(
    simd: S,
    block: &Block<'_, '_, T, W>,
    out: &mut MatrixMut<'_, T>,
    scratch: &mut super::scratch::Scratch,
) {
    let width = const { panel_width::<T::Acc>() };
    let k = block.product.x.cols();
    let rows = block.rows.len();
    let panels = block.cols.len().div_ceil(width);
    let first_panel = block.cols.start / width;
    // Where one block of k is all there is, the sums of a tile need not outlive it.
    let keep = k > DEPTH;
    let sums_len = if keep { rows * panels * V } else { MAX_VECTORS };
    let x_len = BAND_ROWS.min(rows) * DEPTH.min(k);
    let [panel_lines, x_lines, sum_lines] = scratch.parts([
        size_of::<T::Acc>() * panels * width * DEPTH.min(k),
        size_of::<T::Acc>() * x_len,
        size_of::<Lanes<S, T>>() * sums_len,
    ]);
    let packed_panels = crate::view::Line::numbers::<T::Acc>(panel_lines);
    let widened = crate::view::Line::numbers::<T::Acc>(x_lines);
    let all_sums = crate::view::Line::lanes::<S, T::Acc>(sum_lines);
    let mut start = 0;
    loop {
        let depth = start..(start + DEPTH).min(k);
        let steps = depth.len();
        for (panel, target) in packed_panels.chunks_exact_mut((steps * width).max(1)).take(panels).enumerate() {
            match block.product.weight {
                Weight::Matrix(weight) => {
                    let col = (first_panel + panel) * width;
                    pack::pack_panel(simd, weight.block(depth.clone(), col..col + width), target);
                }
                Weight::Packed { panels, shape: (k, _) } => {
                    let source = Block::<'_, '_, T, W>::packed(panels, k, first_panel + panel, depth.clone());
                    pack::widen_panel(simd, source, target);
                }
            }
        }
        for (band, band_rows) in tiles(rows, BAND_ROWS) {
            let first_row = block.rows.start + band;
            let x = block.product.x.block(first_row..first_row + band_rows, depth.clone());
            for (row, target) in widened.chunks_exact_mut(steps.max(1)).take(band_rows).enumerate() {
                pack::pack_row(simd, x, row, target);
            }
            let most = max_rows(V).min(band_rows);
            let mut panel = 0;
            while panel < panels {
                let count = panels_at_once(most, panels - panel, V);
                for (row, tile_rows) in tiles(band_rows, max_rows(V)) {
                    let (offset, stride) =
                        if keep { (((band + row) * panels + panel) * V, panels * V) } else { (0, count * V) };
                    let Some(vectors) = all_sums.get_mut(offset..) else { continue };
                    with_tile!(tile_rows, count, V, |R, G| {
                        let mut lefts: [&[T::Acc]; R] = [&[]; R];
                        for (index, left) in lefts.iter_mut().enumerate() {
                            *left = widened.get((row + index) * steps..(row + index + 1) * steps).unwrap_or(&[]);
                        }
                        let mut rights: [&[T::Acc]; G] = [&[]; G];
                        for (index, right) in rights.iter_mut().enumerate() {
                            let first = (panel + index) * steps * width;
                            *right = packed_panels.get(first..first + steps * width).unwrap_or(&[]);
                        }
                        let sums = Sums { vectors: &mut *vectors, stride, first: start == 0 };
                        tile::<S, T::Acc, R, G, V>(simd, steps, &Rows(lefts), Panels::new(rights), sums);
                    });
                    if depth.end == k {
                        let sums = Sums { vectors: &mut *vectors, stride, first: false };
                        block.finish(simd, &sums, (band + row, panel * width), (tile_rows, count * V), out);
                    }
                }
                panel += count;
            }
        }
        if depth.end == k {
            return;
        }
        start = depth.end;
    }
}

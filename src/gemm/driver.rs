//! Cuts a product into blocks, hands them to threads, and runs each block tile by tile, with bias, residual,
//! activation and narrowing applied to each tile while it is in the cache's first level. Shapes were checked before.

#![allow(unreachable_pub, reason = "named by hidden methods of the public trait `Float`")]

#[cfg(feature = "std")]
use core::any::TypeId;
use core::ops::Range;

use fearless_simd::{Simd, SimdBase};

#[cfg(feature = "std")]
use super::pack;
#[cfg(feature = "std")]
use super::scratch::Scratch;
#[cfg(not(feature = "std"))]
use super::tile::MAX_VECTORS;
#[cfg(feature = "std")]
use super::tile::{MAX_PANELS, Store};
use super::tile::{Sums, max_rows, panels_at_once, tiles, with_tile};
use super::{DEPTH, panel_width};
use crate::error::Shape;
use crate::float::{Compute, Float, Lanes, MAX_LANES};
use crate::ops::activation::Activation;
use crate::parallel;
use crate::simd::{self, dispatch};
#[cfg(feature = "std")]
use crate::view::Line;
use crate::view::{Matrix, MatrixMut, Strip};

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

/// What is done to sums before they are stored: `activation(sum + bias + residual)`.
#[derive(Clone, Copy, Debug)]
pub struct Finish<'a, T: Float> {
    pub(crate) bias: Bias<'a, T>,
    pub(crate) residual: Residual<'a, T>,
    pub(crate) activation: Activation,
}

/// A product with its epilogue: `activation(x @ weight + bias + residual)`.
#[derive(Clone, Copy, Debug)]
pub struct Product<'a, T: Float, W> {
    pub(crate) x: Matrix<'a, T>,
    pub(crate) weight: Weight<'a, W>,
    pub(crate) finish: Finish<'a, T>,
}

/// The multiply-adds that a block should have, so that handing it to a thread does not matter.
const BLOCK_WORK: usize = 1 << 21;
/// The most rows of a block, which bounds its scratch memory.
const BLOCK_ROWS: usize = 256;
/// The panels of a block of many rows: what is packed of them for one block of k fits the cache's second level.
const BLOCK_PANELS: usize = 8;
/// The rows that go over the panels together, so that what they read of x stays in the cache's second level.
#[cfg(feature = "std")]
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
    dispatch!(level, simd => direct::block(simd, product, rows.clone(), cols.clone(), out));
}

/// The part of a packed weight of `k` rows that holds a panel's rows `depth`.
#[inline(always)]
fn packed_part<W: Float>(panels: &[W], k: usize, panel: usize, depth: Range<usize>) -> &[W] {
    let width = const { panel_width::<W::Acc>() };
    panels.get((panel * k + depth.start) * width..(panel * k + depth.end) * width).unwrap_or(&[])
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

impl<T: Float> Finish<'_, T> {
    /// The bias of the columns from `col` on, a vector at a time; without one -0, which leaves each sum as it is.
    #[inline(always)]
    fn load_bias<S: Simd>(&self, simd: S, cols: Range<usize>, vectors: &mut [Lanes<S, T>]) {
        let lanes = Lanes::<S, T>::LEN;
        match self.bias {
            Bias::None => vectors.fill(Lanes::<S, T>::splat(simd, -T::Acc::ZERO)),
            Bias::Stored(values) => {
                for (vector, values) in vectors.iter_mut().zip(values.get(cols).unwrap_or(&[]).chunks(lanes)) {
                    *vector = load_some::<S, T>(simd, values);
                }
            }
            Bias::Computed(values) => {
                for (vector, values) in vectors.iter_mut().zip(values.get(cols).unwrap_or(&[]).chunks(lanes)) {
                    *vector = load_some::<S, T::Acc>(simd, values);
                }
            }
        }
    }

    /// Finishes sums and stores them in `out`, which begins at row `row` and column `col` of the whole.
    #[inline(never)]
    fn store<S: Simd>(
        &self,
        simd: S,
        sums: Sums<'_, Lanes<S, T>>,
        bias: &[Lanes<S, T>],
        position: (usize, usize),
        out: MatrixMut<'_, T>,
    ) {
        simd.vectorize(
            #[inline(always)]
            || self.store_here(simd, sums, bias, position, out),
        );
    }

    #[inline(always)]
    fn store_here<S: Simd>(
        &self,
        simd: S,
        sums: Sums<'_, Lanes<S, T>>,
        bias: &[Lanes<S, T>],
        (row, col): (usize, usize),
        mut out: MatrixMut<'_, T>,
    ) {
        let lanes = Lanes::<S, T>::LEN;
        let rows = out.rows();
        for (index, sums) in sums.vectors.chunks_mut(sums.stride.max(1)).take(rows).enumerate() {
            let Some(target) = out.row_mut(index) else { break };
            let Some(sums) = sums.get_mut(..target.len().div_ceil(lanes)) else { break };
            for (sum, &bias) in sums.iter_mut().zip(bias) {
                *sum += bias;
            }
            match self.residual {
                Residual::None => {}
                Residual::Out => {
                    for (sum, part) in sums.iter_mut().zip(target.chunks(lanes)) {
                        *sum += load_some::<S, T>(simd, part);
                    }
                }
                Residual::Matrix(residual) => {
                    let residual = residual.block(row + index..row + index + 1, col..col + target.len());
                    if let Some(residual) = residual.row(0) {
                        for (sum, part) in sums.iter_mut().zip(residual.chunks(lanes)) {
                            *sum += load_some::<S, T>(simd, part);
                        }
                    } else {
                        for (vector, sum) in sums.iter_mut().enumerate() {
                            *sum += Lanes::<S, T>::from_fn(
                                simd,
                                #[inline(always)]
                                |lane| residual.get(0, vector * lanes + lane).unwrap_or(T::ZERO).to_acc(),
                            );
                        }
                    }
                }
            }
            if self.activation != Activation::None {
                activate::<S, T::Acc>(simd, self.activation, sums);
            }
            for (&mut sum, target) in sums.iter_mut().zip(target.chunks_mut(lanes)) {
                if target.len() == lanes {
                    T::store::<S>(sum, target);
                } else {
                    let mut whole = [T::ZERO; MAX_LANES];
                    T::store::<S>(sum, &mut whole[..lanes]);
                    target.copy_from_slice(&whole[..target.len()]);
                }
            }
        }
    }
}

/// Applies `activation` to each vector, two in step. A function of its own, as all storage types share it.
#[inline(never)]
fn activate<S: Simd, C: Compute>(simd: S, activation: Activation, vectors: &mut [C::Lanes<S>]) {
    simd.vectorize(
        #[inline(always)]
        || {
            for pair in vectors.chunks_mut(2) {
                let mut values = [C::Lanes::<S>::splat(simd, C::ZERO); 2];
                values[..pair.len()].copy_from_slice(pair);
                let values = activation.apply_several::<S, C, 2>(simd, values);
                pair.copy_from_slice(&values[..pair.len()]);
            }
        },
    );
}

/// How many rows each tile of a band has: as even as can be. Two runs of (tiles, rows of each).
#[inline(always)]
fn runs(rows: usize, most: usize) -> [(usize, usize); 2] {
    let count = rows.div_ceil(most).max(1);
    let (len, longer) = (rows / count, rows % count);
    [(longer, len + 1), (count - longer, len)]
}

/// The length of a block of k, but for the last: as even as can be, at most [`DEPTH`]. Depends on k alone, as a
/// result's bits depend on it.
fn block_depth(k: usize) -> usize {
    k.div_ceil(k.div_ceil(DEPTH).max(1)).max(1)
}

/// `G` panels of a weight from a column on, as they lie.
#[inline(always)]
fn strip_as_it_lies<W: Float, const G: usize>(
    weight: Weight<'_, W>,
    depth: Range<usize>,
    cols: Range<usize>,
) -> Option<Strip<'_, W, G>> {
    let width = const { panel_width::<W::Acc>() };
    match weight {
        Weight::Matrix(weight) => Strip::in_place(weight.block(depth, 0..cols.end), cols.start, width),
        Weight::Packed { panels, shape: (k, _) } => {
            let mut parts: [&[W]; G] = [&[]; G];
            for (index, part) in parts.iter_mut().enumerate() {
                *part = packed_part(panels, k, cols.start / width + index, depth.clone());
            }
            Strip::packed(parts, depth.len(), width)
        }
    }
}

/// Runs a block with no scratch memory but a tile of sums: operands are read as they lie.
#[cfg(not(feature = "std"))]
mod direct {
    use fearless_simd::SimdFloat;

    use super::{
        Float, Lanes, MAX_VECTORS, Matrix, MatrixMut, Product, Range, Simd, SimdBase, Sums, Weight, block_depth,
        max_rows, panel_width, panels_at_once, runs, strip_as_it_lies, tiles, with_tile,
    };

    #[inline(always)]
    pub(super) fn block<S: Simd, T: Float, W: Float<Acc = T::Acc>>(
        simd: S,
        product: &Product<'_, T, W>,
        rows: Range<usize>,
        cols: Range<usize>,
        out: MatrixMut<'_, T>,
    ) {
        match const { panel_width::<T::Acc>() } / Lanes::<S, T>::LEN {
            1 => run::<S, T, W, 1>(simd, product, rows, cols, out),
            2 => run::<S, T, W, 2>(simd, product, rows, cols, out),
            _ => run::<S, T, W, 4>(simd, product, rows, cols, out),
        }
    }

    #[inline(always)]
    fn run<S: Simd, T: Float, W: Float<Acc = T::Acc>, const V: usize>(
        simd: S,
        product: &Product<'_, T, W>,
        rows: Range<usize>,
        cols: Range<usize>,
        mut out: MatrixMut<'_, T>,
    ) {
        let width = const { panel_width::<T::Acc>() };
        let k = product.x.cols();
        let panels = cols.len().div_ceil(width);
        let mut next_row = 0;
        let step = block_depth(k);
        let tile_sizes = runs(rows.len(), max_rows(V)).map(|(count, len)| core::iter::repeat_n(len, count));
        for tile_rows in tile_sizes.into_iter().flatten() {
            let row = next_row;
            next_row += tile_rows;
            let first_row = rows.start + row;
            let x = product.x.block(first_row..first_row + tile_rows, 0..k);
            let mut panel = 0;
            while panel < panels {
                let count = panels_at_once(tile_rows, panels - panel, V);
                let mut vectors = [Lanes::<S, T>::splat(simd, T::Acc::ZERO); MAX_VECTORS];
                let mut bias = vectors;
                let col = cols.start + panel * width;
                let end = (col + count * width).min(cols.end);
                for start in (0..k).step_by(step) {
                    let depth = start..(start + step).min(k);
                    let x = x.block(0..tile_rows, depth.clone());
                    with_tile!(tile_rows, count, V, |R, G| {
                        let strip = strip_as_it_lies::<W, G>(product.weight, depth.clone(), col..cols.end);
                        let sums = Sums { vectors: &mut vectors, stride: G * V, first: start == 0 };
                        match strip {
                            Some(strip) if x.has_contiguous_rows() => {
                                tiles::<S, T::Acc, T, W, R, G, V>(simd, x, strip, sums, None);
                            }
                            _ => strided::<S, T, W>(simd, product, x, depth, (tile_rows, col..end), sums),
                        }
                    });
                }
                let finish = &product.finish;
                finish.load_bias(simd, col..end, &mut bias);
                let sums = Sums { vectors: &mut vectors, stride: count * V, first: false };
                let target = out.block_mut(row..row + tile_rows, col - cols.start..end - cols.start);
                finish.store(simd, sums, &bias, (first_row, col), target);
                panel += count;
            }
        }
    }

    /// A tile whose operands do not lie side by side, element by element.
    #[inline(never)]
    fn strided<S: Simd, T: Float, W: Float<Acc = T::Acc>>(
        simd: S,
        product: &Product<'_, T, W>,
        x: Matrix<'_, T>,
        depth: Range<usize>,
        (rows, cols): (usize, Range<usize>),
        sums: Sums<'_, Lanes<S, T>>,
    ) {
        let (lanes, width) = (Lanes::<S, T>::LEN, const { panel_width::<T::Acc>() });
        let k = x.cols();
        for (row, sums_of_row) in sums.vectors.chunks_mut(sums.stride.max(1)).take(rows).enumerate() {
            for (vector, target) in sums_of_row.iter_mut().enumerate() {
                let mut sum = Lanes::<S, T>::splat(simd, T::Acc::ZERO);
                for step in 0..k {
                    let columns = Lanes::<S, T>::from_fn(
                        simd,
                        #[inline(always)]
                        |lane| {
                            let col = cols.start + vector * lanes + lane;
                            let value = match product.weight {
                                Weight::Matrix(weight) => weight.get(depth.start + step, col),
                                Weight::Packed { panels, shape: (k, _) } => {
                                    panels.get((col / width * k + depth.start + step) * width + col % width).copied()
                                }
                            };
                            value.unwrap_or(W::ZERO).to_acc()
                        },
                    );
                    let value = Lanes::<S, T>::splat(simd, x.get(row, step).unwrap_or(T::ZERO).to_acc());
                    sum = value.mul_add(columns, sum);
                }
                *target = if sums.first { sum } else { *target + sum };
            }
        }
    }
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
    out: MatrixMut<'_, T>,
    scratch: &mut Scratch,
) {
    match const { panel_width::<T::Acc>() } / Lanes::<S, T>::LEN {
        1 => block_of::<S, T, W, 1>(simd, product, rows, cols, out, scratch),
        2 => block_of::<S, T, W, 2>(simd, product, rows, cols, out, scratch),
        _ => block_of::<S, T, W, 4>(simd, product, rows, cols, out, scratch),
    }
}

#[cfg(feature = "std")]
#[inline(always)]
fn block_of<S: Simd, T: Float, W: Float<Acc = T::Acc>, const V: usize>(
    simd: S,
    product: &Product<'_, T, W>,
    row_range: Range<usize>,
    col_range: Range<usize>,
    mut out: MatrixMut<'_, T>,
    scratch: &mut Scratch,
) {
    let width = const { panel_width::<T::Acc>() };
    let k = product.x.cols();
    let step = block_depth(k);
    let rows = row_range.len();
    let panels = col_range.len().div_ceil(width);
    let first_panel = col_range.start / width;
    // The first so many panels are read as they lie, the others are packed.
    let as_they_lie = match product.weight {
        Weight::Packed { .. } if is_same::<W, T::Acc>() || rows <= 4 * max_rows(V) => panels,
        Weight::Matrix(weight) if weight.has_contiguous_rows() && rows <= max_rows(V) => col_range.len() / width,
        _ => 0,
    };
    let x_in_place = product.x.same_type::<T::Acc>().filter(Matrix::has_contiguous_rows);
    let band_rows = BAND_ROWS.min(rows);
    // Where one block of k is all there is, sums need not outlive a band, and where the epilogue is light, not a tile.
    let keep = k > step;
    let relu = product.finish.activation == Activation::Relu;
    let light = is_same::<T, T::Acc>()
        && matches!(product.finish.activation, Activation::None | Activation::Relu)
        && matches!(product.finish.residual, Residual::None);
    let most_at_once = panels.min(MAX_PANELS);
    let [panel_lines, x_lines, sum_lines, bias_lines] = scratch.parts([
        size_of::<T::Acc>() * (panels - as_they_lie) * width * step,
        if x_in_place.is_some() { 0 } else { size_of::<T::Acc>() * band_rows * step },
        size_of::<Lanes<S, T>>() * V * if keep { rows * panels } else { band_rows * most_at_once },
        size_of::<Lanes<S, T>>() * V * panels,
    ]);
    let packed_panels = Line::numbers::<T::Acc>(panel_lines);
    let widened = Line::numbers::<T::Acc>(x_lines);
    let all_sums = Line::lanes::<S, T::Acc>(sum_lines);
    let bias = Line::lanes::<S, T::Acc>(bias_lines);
    product.finish.load_bias(simd, col_range.clone(), bias);
    let mut start = 0;
    loop {
        let depth = start..(start + step).min(k);
        let steps = depth.len();
        match product.weight {
            Weight::Matrix(weight) => {
                let first = (col_range.start + as_they_lie * width).min(col_range.end);
                pack::pack_panels(simd, weight.block(depth.clone(), first..col_range.end), packed_panels);
            }
            Weight::Packed { panels: packed, shape: (k, _) } => {
                let targets = packed_panels.chunks_exact_mut((steps * width).max(1));
                for (panel, target) in (as_they_lie..panels).zip(targets) {
                    pack::widen_panel(simd, packed_part(packed, k, first_panel + panel, depth.clone()), target);
                }
            }
        }
        let mut band = 0;
        for band_rows in runs(rows, BAND_ROWS).into_iter().flat_map(|(count, len)| core::iter::repeat_n(len, count)) {
            let first_row = row_range.start + band;
            let x = if let Some(x) = x_in_place {
                x.block(first_row..first_row + band_rows, depth.clone())
            } else {
                let x = product.x.block(first_row..first_row + band_rows, depth.clone());
                pack::pack_rows(simd, x, widened);
                let Ok(widened) = Matrix::new(&*widened, band_rows, steps) else { return };
                widened
            };
            let most = max_rows(V).min(band_rows);
            let mut panel = 0;
            while panel < panels {
                let end = if panel < as_they_lie { as_they_lie } else { panels };
                let count = panels_at_once(most, end - panel, V);
                let cols = panel * width..((panel + count) * width).min(col_range.len());
                let bias = bias.get(panel * V..).unwrap_or(&[]);
                let direct = depth.end == k && light && cols.len() == count * width;
                let mut row = 0;
                for (tile_count, tile_rows) in runs(band_rows, max_rows(V)) {
                    let run = tile_count * tile_rows;
                    if run == 0 {
                        continue;
                    }
                    let x = x.block(row..row + run, 0..steps);
                    let (offset, stride) =
                        if keep { (((band + row) * panels + panel) * V, panels * V) } else { (0, count * V) };
                    let Some(vectors) = all_sums.get_mut(offset..) else { return };
                    let mut out = out.block_mut(band + row..band + row + run, cols.clone());
                    with_tile!(tile_rows, count, V, |R, G| {
                        let sums = Sums { vectors: &mut *vectors, stride, first: start == 0 };
                        let store = match out.reborrow().same_type::<T::Acc>() {
                            Some(out) if direct => Some(Store { bias, relu, out }),
                            _ => None,
                        };
                        if panel < as_they_lie {
                            let cols = col_range.start + cols.start..col_range.end;
                            if let Some(strip) = strip_as_it_lies::<W, G>(product.weight, depth.clone(), cols) {
                                tiles::<S, T::Acc, T::Acc, W, R, G, V>(simd, x, strip, sums, store);
                            }
                        } else {
                            let mut parts: [&[T::Acc]; G] = [&[]; G];
                            for (index, part) in parts.iter_mut().enumerate() {
                                let first = (panel - as_they_lie + index) * steps * width;
                                *part = packed_panels.get(first..first + steps * width).unwrap_or(&[]);
                            }
                            if let Some(strip) = Strip::packed(parts, steps, width) {
                                tiles::<S, T::Acc, T::Acc, T::Acc, R, G, V>(simd, x, strip, sums, store);
                            }
                        }
                    });
                    if depth.end == k && !direct {
                        let sums = Sums { vectors: &mut *vectors, stride, first: false };
                        let position = (first_row + row, col_range.start + cols.start);
                        product.finish.store(simd, sums, bias, position, out);
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

#[cfg(feature = "std")]
fn is_same<T: 'static, U: 'static>() -> bool {
    TypeId::of::<T>() == TypeId::of::<U>()
}

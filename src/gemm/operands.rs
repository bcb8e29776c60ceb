//! One block of a product with its operands in their storage types, and what the rest of the product's code, which is
//! compiled once for each compute type, asks of it. No loop over blocks of k is here.

use core::any::TypeId;
use core::ops::Range;

use fearless_simd::Simd;

use super::micro_kernel::{MAX_WIDENING_MR, TileArgs, max_mr_at, multiply_tiles, widest};
use super::problem::{self, FusedEpilogue, Residual, Weight};
use super::{gemv_columns, gemv_rows, pack, panel_width};
use crate::error::Shape;
use crate::float::{Compute, Float};
use crate::math::activation::Activation;
use crate::parallel;
use crate::simd::{self, dispatch};
use crate::view::{Line, MAX_MR_OVERLAPPING, Matrix, MatrixMut, PanelGroup};
use crate::workspace::{MOST_SHARED, Workspace};

/// A weight whose rows layout side by side and that spans at most so many bytes is never packed: it stays in the cache's second
/// level, from where tiles read it fast enough.
const MOST_BYTES_CLOSE: usize = 1 << 20;

/// One that spans at most so many bytes is expected in the third level.
const MOST_BYTES_NEAR: usize = 16 << 20;

/// The most rows for which it is not packed: to pack it would cost more than it gains.
const MOST_ROWS_IN_PLACE: usize = 200;

/// The fewest panels of a weight for which it matters how its rows layout in their cache lines; the most rows are those that tiles
/// of inset panels take, [`MAX_MR_OVERLAPPING`].
const LEAST_ALIGNED: usize = 8;

/// So many bytes of a row of a weight are read about as fast as all of it.
const LONG_PIECE: usize = 1024;

/// The panels that are packed at once: so that much of each row of a weight is read together.
const PACKED_AT_ONCE: usize = 16;

/// Rows and columns of a block, and their sums: row r's begin at `r * stride`.
#[derive(Debug)]
pub(crate) struct TileSums<'a, C> {
    pub(super) rows: Range<usize>,
    pub(super) cols: Range<usize>,
    pub(super) sums: &'a mut [C],
    pub(super) stride: usize,
    /// From the first of these columns on.
    pub(super) bias: &'a [C],
}

/// What the code of a block asks of x and the weight, whatever their storage types. Rows and columns count from the
/// block's.
pub(crate) trait OperandSource<C: Compute> {
    /// x, where it is of the compute type and the elements of each row layout side by side.
    fn x(&self) -> Option<Matrix<'_, C>>;
    /// Lays out a block of x row after row.
    fn pack_a(&self, level: simd::Level, rows: Range<usize>, depth: Range<usize>, target: &mut [C]);
    /// Whether the weight lies in panels.
    fn is_packed(&self) -> bool;
    /// How many panels of columns, counted from the first, tiles of so many rows read where the weight lies.
    fn panels_in_place(&self, level: simd::Level, rows: usize) -> usize;
    /// How far before the first column panels should begin, so that they do not straddle cache lines, where that matters to
    /// tiles of so many rows. The first panel and the last then layout within the columns after all, over part of their
    /// neighbours, and none is packed.
    fn before(&self, level: simd::Level, rows: usize) -> Option<usize>;
    /// Whether such panels are not for tiles, but for [`stream`](OperandSource::stream).
    fn streams(&self, level: simd::Level) -> bool;
    /// Writes the steps `depth` of the products of x with such panels. See [`gemv_rows::multiply`].
    fn stream(&self, level: simd::Level, depth: Range<usize>, x: Matrix<'_, C>, sums: &mut [C]) -> usize;
    /// Runs tiles of a size (rows, panels) over such panels (from which on, how far before the columns the first of all
    /// begins); `depth` is the run's steps. See [`multiply_tiles`].
    fn tiles(
        &self,
        level: simd::Level,
        size: (usize, usize),
        panel: (usize, usize),
        depth: Range<usize>,
        run: TileArgs<'_, C>,
    );
    /// The first column, where it is of the compute type and lies side by side.
    fn column(&self) -> Option<&[C]>;
    /// Lays out a block of the weight in panels.
    fn pack_b(&self, level: simd::Level, depth: Range<usize>, cols: Range<usize>, target: &mut [C]);
}

/// What it asks of the result.
pub(crate) trait OutputSink<C: Compute> {
    /// (rows, columns)
    fn shape(&self) -> Shape;
    fn activation(&self) -> Activation;
    /// Where anyone may store sums with bias and activation: nothing else is added, and nothing rounded.
    fn plain(&mut self, rows: Range<usize>, cols: Range<usize>) -> Option<MatrixMut<'_, C>>;
    /// The bias, and zeros past the last column.
    fn load_bias(&self, level: simd::Level, target: &mut [C]);
    /// Finishes sums and stores them.
    fn store(&mut self, level: simd::Level, region: TileSums<'_, C>);
}

/// The operands of a block.
#[derive(Debug)]
pub(super) struct BlockOperands<'a, X, W> {
    pub(super) x: Matrix<'a, X>,
    pub(super) weight: Weight<'a, W>,
}

/// The result of a block.
#[derive(Debug)]
pub(super) struct BlockOutput<'a, T: Float> {
    pub(super) epilogue: FusedEpilogue<'a, T>,
    pub(super) out: MatrixMut<'a, T>,
}

impl<T: Float, W: Float<Acc = T::Acc>> BlockOperands<'_, T, W> {
    /// Calls `body` with the weight in panels of the compute type, packed once for blocks of `rows` rows. Does nothing
    /// where such blocks read it in place, or where a thread does not have or keep so much memory.
    pub(super) fn pack_once<R>(&self, rows: usize, threads: bool, body: impl FnOnce(&[T::Acc]) -> R) -> Option<R> {
        let width = const { panel_width::<T::Acc>() };
        let (k, cols) = self.weight.shape();
        let fits = |len: &usize| (1..=MOST_SHARED / size_of::<T::Acc>()).contains(len);
        let len = pack::packed_len::<T::Acc>(k, cols).filter(fits)?;
        if self.panels_in_place(simd::level(), rows) > 0 {
            return None;
        }
        let bytes = len * size_of::<T::Acc>();
        let mut workspace = Workspace::shared(bytes).ok()?;
        let panels = Line::numbers::<T::Acc>(workspace.lines()).get_mut(..len)?;
        let level = simd::level();
        let pack = |part: Range<usize>, panels: &mut [T::Acc]| {
            let cols = part.start / k..(part.end / k).min(cols);
            self.pack_b(level, 0..k, cols, panels);
        };
        let chunk = PACKED_AT_ONCE * width * k;
        if threads {
            let cost = problem::reading(chunk * (size_of::<T::Acc>() + size_of::<W>()));
            parallel::for_each_tile((&mut *panels).into(), (1, chunk), cost, |_, part, mut panels| {
                pack(part, panels.row_mut(0).unwrap_or(&mut []));
            });
        } else {
            for (start, panels) in (0..len).step_by(chunk).zip(panels.chunks_mut(chunk)) {
                pack(start..start + panels.len(), panels);
            }
        }
        Some(body(panels))
    }
}

/// Whether tile after tile of so many rows would read one cache line of each row of a weight, which all fall into few sets of
/// the cache.
fn would_thrash<C: Compute>(level: simd::Level, rows: usize) -> bool {
    let most = max_mr_at::<C>(level);
    rows > most && widest::<C>(level, most) == 1
}

/// How much memory the elements of a weight layout spread over, in bytes.
fn span<W: Float>(weight: &Matrix<'_, W>) -> usize {
    weight.row_stride().unsigned_abs().saturating_mul(weight.rows()).saturating_mul(size_of::<W>())
}

impl<X: Float, W: Float<Acc = X::Acc>> BlockOperands<'_, X, W> {
    /// Whether one row reads the weight as it lies, its columns side by side.
    fn is_turned(&self, rows: usize) -> bool {
        match self.weight {
            Weight::Matrix(weight) => {
                let is_wide = weight.cols() >= const { panel_width::<W::Acc>() };
                rows == 1 && is_wide && !weight.has_contiguous_rows() && weight.transpose().has_contiguous_rows()
            }
            Weight::Packed { .. } => false,
        }
    }

    /// How many columns of a panel that does not straddle cache lines layout before the first column, where rows are so few
    /// that it matters.
    pub(super) fn misalignment(&self) -> usize {
        match self.weight {
            Weight::Matrix(weight) if self.x.rows() <= MAX_MR_OVERLAPPING || self.streams(simd::level()) => {
                let width = const { panel_width::<W::Acc>() };
                (width - gemv_rows::until_aligned(&weight)) % width
            }
            _ => 0,
        }
    }
}

fn is_same<T: 'static, U: 'static>() -> bool {
    TypeId::of::<T>() == TypeId::of::<U>()
}

impl<T: Float, W: Float<Acc = T::Acc>> OperandSource<T::Acc> for BlockOperands<'_, T, W> {
    fn x(&self) -> Option<Matrix<'_, T::Acc>> {
        self.x.same_type().filter(Matrix::has_contiguous_rows)
    }

    fn pack_a(&self, level: simd::Level, rows: Range<usize>, depth: Range<usize>, target: &mut [T::Acc]) {
        #[inline(never)]
        fn widen<S: Simd, T: Float>(simd: S, x: Matrix<'_, T>, target: &mut [T::Acc]) {
            simd.vectorize(
                #[inline(always)]
                || pack::pack_a(simd, x, target),
            );
        }
        dispatch!(level, simd => widen(simd, self.x.block(rows.clone(), depth.clone()), target));
    }

    fn is_packed(&self) -> bool {
        matches!(self.weight, Weight::Packed { .. })
    }

    fn panels_in_place(&self, level: simd::Level, rows: usize) -> usize {
        // More rows than that fill more than one tile, and each widens anew.
        if !is_same::<W, T::Acc>() && rows > MAX_WIDENING_MR {
            return 0;
        }
        let width = const { panel_width::<T::Acc>() };
        match self.weight {
            Weight::Packed { shape: (_, cols), .. } => cols.div_ceil(width),
            Weight::Matrix(weight) => {
                let most = match span(&weight) {
                    span if span > MOST_BYTES_NEAR => gemv_rows::MOST_ROWS,
                    _ if would_thrash::<T::Acc>(level, rows) => gemv_rows::MOST_ROWS,
                    span if span <= MOST_BYTES_CLOSE => usize::MAX,
                    _ => MOST_ROWS_IN_PLACE,
                };
                if self.is_turned(rows) {
                    weight.cols().div_ceil(width)
                } else if rows <= most && weight.has_contiguous_rows() {
                    weight.cols() / width
                } else {
                    0
                }
            }
        }
    }

    fn before(&self, level: simd::Level, rows: usize) -> Option<usize> {
        let is_worth_it =
            !self.is_packed() && rows <= MAX_MR_OVERLAPPING && self.panels_in_place(level, rows) >= LEAST_ALIGNED;
        (is_worth_it && !self.streams(level)).then(|| self.misalignment())
    }

    fn streams(&self, level: simd::Level) -> bool {
        let Weight::Matrix(weight) = self.weight else { return false };
        // Tiles of one row read pieces of a kilobyte where registers are many.
        let is_long = weight.cols() > LONG_PIECE / size_of::<T::Acc>();
        let by_short_pieces = widest::<T::Acc>(level, 1) * 64 < LONG_PIECE;
        let far = span(&weight) > MOST_BYTES_NEAR;
        if self.is_turned(self.x.rows()) {
            return true;
        }
        match self.x.rows() {
            1 => far || is_long && by_short_pieces,
            rows @ 2..=gemv_rows::MOST_ROWS => far || would_thrash::<T::Acc>(level, rows),
            _ => false,
        }
    }

    fn stream(&self, level: simd::Level, depth: Range<usize>, x: Matrix<'_, T::Acc>, sums: &mut [T::Acc]) -> usize {
        let Weight::Matrix(weight) = self.weight else { return 0 };
        let width = const { panel_width::<T::Acc>() };
        if self.is_turned(x.rows()) {
            gemv_columns::multiply(
                level,
                x.row(0).unwrap_or(&[]),
                weight.block(depth, 0..weight.cols()).transpose(),
                sums,
            );
            return 0;
        }
        gemv_rows::multiply(level, x, weight.block(depth, 0..weight.cols() / width * width), sums)
    }

    fn tiles(
        &self,
        level: simd::Level,
        size: (usize, usize),
        (panel, before): (usize, usize),
        depth: Range<usize>,
        run: TileArgs<'_, T::Acc>,
    ) {
        let width = const { panel_width::<T::Acc>() };
        let strip = match self.weight {
            Weight::Packed { panels, shape: (k, _) } => {
                let numbers = panels.get((panel * k + depth.start) * width..).unwrap_or(&[]);
                PanelGroup::packed(numbers, (size.1, k * width), depth.len(), width)
            }
            Weight::Matrix(weight) => {
                PanelGroup::of_rows(weight.block(depth, 0..weight.cols()), width, before, panel..panel + size.1)
            }
        };
        if let Some(strip) = strip {
            multiply_tiles::<T::Acc, W>(level, size, strip, run);
        }
    }

    fn column(&self) -> Option<&[T::Acc]> {
        match self.weight {
            Weight::Matrix(weight) => weight.transpose().same_type().and_then(|columns| columns.row(0)),
            Weight::Packed { .. } => None,
        }
    }

    fn pack_b(&self, level: simd::Level, depth: Range<usize>, cols: Range<usize>, target: &mut [T::Acc]) {
        #[inline(never)]
        fn pack_matrix<S: Simd, W: Float>(simd: S, weight: Matrix<'_, W>, target: &mut [W::Acc]) {
            simd.vectorize(
                #[inline(always)]
                || pack::pack_b(simd, weight, target),
            );
        }
        #[inline(never)]
        fn widen<S: Simd, W: Float>(simd: S, panel: &[W], target: &mut [W::Acc]) {
            simd.vectorize(
                #[inline(always)]
                || pack::widen_panel(simd, panel, target),
            );
        }
        match self.weight {
            Weight::Matrix(weight) => {
                dispatch!(level, simd => pack_matrix(simd, weight.block(depth.clone(), cols.clone()), target));
            }
            Weight::Packed { panels, shape: (k, _) } => {
                let width = const { panel_width::<T::Acc>() };
                let targets = target.chunks_exact_mut((depth.len() * width).max(1));
                for (panel, target) in (cols.start / width..cols.end.div_ceil(width)).zip(targets) {
                    let part = (panel * k + depth.start) * width..(panel * k + depth.end) * width;
                    let part = panels.get(part).unwrap_or(&[]);
                    dispatch!(level, simd => widen(simd, part, target));
                }
            }
        }
    }
}

impl<T: Float> OutputSink<T::Acc> for BlockOutput<'_, T> {
    fn shape(&self) -> Shape {
        self.out.shape()
    }

    fn activation(&self) -> Activation {
        self.epilogue.activation
    }

    fn plain(&mut self, rows: Range<usize>, cols: Range<usize>) -> Option<MatrixMut<'_, T::Acc>> {
        match self.epilogue.residual {
            Residual::None => self.out.block_mut(rows, cols).same_type(),
            _ => None,
        }
    }

    fn load_bias(&self, level: simd::Level, target: &mut [T::Acc]) {
        #[inline(never)]
        fn load<S: Simd, T: Float>(simd: S, epilogue: &FusedEpilogue<'_, T>, target: &mut [T::Acc]) {
            simd.vectorize(
                #[inline(always)]
                || epilogue.load_bias(simd, target),
            );
        }
        dispatch!(level, simd => load(simd, &self.epilogue, target));
    }

    fn store(&mut self, level: simd::Level, region: TileSums<'_, T::Acc>) {
        #[inline(never)]
        fn store<S: Simd, T: Float>(
            simd: S,
            epilogue: &FusedEpilogue<'_, T>,
            position: (usize, usize),
            (sums, stride): (&mut [T::Acc], usize),
            bias: &[T::Acc],
            out: MatrixMut<'_, T>,
        ) {
            simd.vectorize(
                #[inline(always)]
                || epilogue.store(simd, sums, stride, bias, position, out),
            );
        }
        let TileSums { rows, cols, sums, stride, bias } = region;
        let position = (rows.start, cols.start);
        let out = self.out.block_mut(rows, cols);
        dispatch!(level, simd => store(simd, &self.epilogue, position, (sums, stride), bias, out));
    }
}

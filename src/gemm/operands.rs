//! One block of a product with its operands in their storage types, and what the rest of the product's code, which is
//! compiled once for each compute type, asks of it. No loop over blocks of k is here.

use core::any::TypeId;
use core::ops::Range;

use fearless_simd::Simd;

use super::micro_kernel::{TileArgs, multiply_tiles};
use super::plan::{Layout, Order};
use super::problem::{self, FusedEpilogue, Residual, Weight};
use super::{gemv_columns, gemv_rows, pack, panel_width};
use crate::error::Shape;
use crate::float::{Compute, Float};
use crate::macros::{bug, lane_fn};
use crate::math::activation::Activation;
use crate::parallel;
use crate::simd::{self, dispatch};
use crate::view::{Line, Matrix, MatrixMut, PanelGroup};
use crate::workspace::Workspace;

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
/// block's, `pc` are steps of k.
pub(crate) trait OperandSource<C: Compute> {
    /// How the weight lies, for the [`plan`](super::plan::plan).
    fn layout(&self) -> Layout;
    /// x, where it is of the compute type and its rows are contiguous.
    fn x(&self) -> Option<Matrix<'_, C>>;
    /// The first column, where it is of the compute type and contiguous.
    fn column(&self) -> Option<&[C]>;
    /// Packs rows of x: one after the other, in the compute type.
    fn pack_a(&self, level: simd::Level, rows: Range<usize>, pc: Range<usize>, target: &mut [C]);
    /// Packs columns of the weight in panels of the compute type.
    fn pack_b(&self, level: simd::Level, pc: Range<usize>, cols: Range<usize>, target: &mut [C]);
    /// Runs tiles of (rows, panels) over panels in place: from which on, and how many columns before the first the
    /// first of all begins. See [`multiply_tiles`].
    fn multiply_tiles(
        &self,
        level: simd::Level,
        size: (usize, usize),
        panel_and_lead: (usize, usize),
        pc: Range<usize>,
        args: TileArgs<'_, C>,
    );
    /// Multiplies a few rows by the whole panels of a row-major weight, and tells where in `sums` the first column is:
    /// see [`gemv_rows::multiply`].
    fn gemv_rows(&self, level: simd::Level, pc: Range<usize>, x: Matrix<'_, C>, sums: &mut [C]) -> usize;
    /// Multiplies one row by a column-major weight, and tells the same: see [`gemv_columns::multiply`].
    fn gemv_columns(&self, level: simd::Level, pc: Range<usize>, x: Matrix<'_, C>, sums: &mut [C]) -> usize;
}

/// What it asks of the result.
pub(crate) trait OutputSink<C: Compute> {
    /// (rows, columns)
    fn shape(&self) -> Shape;
    /// Where the micro-kernel may store sums itself, after it added the bias, and whether relu is applied: nothing else
    /// is added, and nothing rounded.
    fn fused(&mut self, rows: Range<usize>, cols: Range<usize>) -> Option<(MatrixMut<'_, C>, bool)>;
    /// The bias, and zeros past the last column.
    fn load_bias(&self, level: simd::Level, target: &mut [C]);
    /// Applies the epilogue to complete sums and stores them.
    fn store(&mut self, level: simd::Level, sums: TileSums<'_, C>);
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
    /// Calls `body` with the weight in panels of the compute type, packed once for all blocks. Does nothing where there
    /// is no memory for it.
    pub(super) fn pack_once<R>(&self, threads: bool, body: impl FnOnce(&[T::Acc]) -> R) -> Option<R> {
        let width = const { panel_width::<T::Acc>() };
        let (k, cols) = self.weight.shape();
        let len = pack::packed_len::<T::Acc>(k, cols)?;
        let mut workspace = Workspace::shared(len * size_of::<T::Acc>()).ok()?;
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
                pack(part, panels.row_mut(0).unwrap_or_else(|| bug!(&mut [])));
            });
        } else {
            for (start, panels) in (0..len).step_by(chunk).zip(panels.chunks_mut(chunk)) {
                pack(start..start + panels.len(), panels);
            }
        }
        Some(body(panels))
    }
}

fn is_same<T: 'static, U: 'static>() -> bool {
    TypeId::of::<T>() == TypeId::of::<U>()
}

impl<T: Float, W: Float<Acc = T::Acc>> OperandSource<T::Acc> for BlockOperands<'_, T, W> {
    fn layout(&self) -> Layout {
        let order = match self.weight {
            Weight::Packed { .. } => Order::Packed,
            Weight::Matrix(weight) if weight.has_contiguous_rows() => {
                let stride = weight.row_stride().unsigned_abs();
                let span = stride.saturating_mul(weight.rows()).saturating_mul(size_of::<W>());
                let width = const { panel_width::<T::Acc>() };
                Order::RowMajor { span, misalignment: (width - gemv_rows::until_aligned(&weight)) % width }
            }
            Weight::Matrix(weight) if weight.transpose().has_contiguous_rows() => Order::ColumnMajor,
            Weight::Matrix(_) => Order::Strided,
        };
        let is_dot = self.weight.shape().1 == 1 && self.x.rows() == 1 && self.x().is_some() && self.column().is_some();
        Layout { order, is_native: is_same::<W, T::Acc>(), is_dot }
    }

    fn x(&self) -> Option<Matrix<'_, T::Acc>> {
        self.x.same_type().filter(Matrix::has_contiguous_rows)
    }

    fn column(&self) -> Option<&[T::Acc]> {
        match self.weight {
            Weight::Matrix(weight) => weight.transpose().same_type().and_then(|columns| columns.row(0)),
            Weight::Packed { .. } => None,
        }
    }

    fn multiply_tiles(
        &self,
        level: simd::Level,
        size: (usize, usize),
        (panel, lead): (usize, usize),
        pc: Range<usize>,
        args: TileArgs<'_, T::Acc>,
    ) {
        let width = const { panel_width::<T::Acc>() };
        let group = match self.weight {
            Weight::Packed { panels, shape: (k, _) } => {
                let numbers = panels.get((panel * k + pc.start) * width..).unwrap_or_else(|| bug!(&[]));
                PanelGroup::packed(numbers, (size.1, k * width), pc.len(), width)
            }
            Weight::Matrix(weight) => {
                PanelGroup::of_rows(weight.block(pc, 0..weight.cols()), width, lead, panel..panel + size.1)
            }
        };
        let Some(group) = group else { return bug!() };
        multiply_tiles::<T::Acc, W>(level, size, group, args);
    }

    fn gemv_rows(&self, level: simd::Level, pc: Range<usize>, x: Matrix<'_, T::Acc>, sums: &mut [T::Acc]) -> usize {
        let Weight::Matrix(weight) = self.weight else { return bug!(0) };
        let width = const { panel_width::<T::Acc>() };
        gemv_rows::multiply(level, x, weight.block(pc, 0..weight.cols() / width * width), sums)
    }

    fn gemv_columns(&self, level: simd::Level, pc: Range<usize>, x: Matrix<'_, T::Acc>, sums: &mut [T::Acc]) -> usize {
        let (Weight::Matrix(weight), Some(x)) = (self.weight, x.row(0)) else { return bug!(0) };
        gemv_columns::multiply(level, x, weight.block(pc, 0..weight.cols()).transpose(), sums);
        0
    }

    fn pack_a(&self, level: simd::Level, rows: Range<usize>, pc: Range<usize>, target: &mut [T::Acc]) {
        #[inline(never)]
        fn pack<S: Simd, T: Float>(simd: S, x: Matrix<'_, T>, target: &mut [T::Acc]) {
            simd.vectorize(lane_fn!(|| pack::pack_a(simd, x, target)));
        }
        dispatch!(level, simd => pack(simd, self.x.block(rows.clone(), pc.clone()), target));
    }

    fn pack_b(&self, level: simd::Level, pc: Range<usize>, cols: Range<usize>, target: &mut [T::Acc]) {
        #[inline(never)]
        fn pack_matrix<S: Simd, W: Float>(simd: S, weight: Matrix<'_, W>, target: &mut [W::Acc]) {
            simd.vectorize(lane_fn!(|| pack::pack_b(simd, weight, target)));
        }
        #[inline(never)]
        fn widen<S: Simd, W: Float>(simd: S, panel: &[W], target: &mut [W::Acc]) {
            simd.vectorize(lane_fn!(|| pack::widen_panel(simd, panel, target)));
        }
        match self.weight {
            Weight::Matrix(weight) => {
                dispatch!(level, simd => pack_matrix(simd, weight.block(pc.clone(), cols.clone()), target));
            }
            Weight::Packed { panels, shape: (k, _) } => {
                let width = const { panel_width::<T::Acc>() };
                let targets = target.chunks_exact_mut((pc.len() * width).max(1));
                for (panel, target) in (cols.start / width..cols.end.div_ceil(width)).zip(targets) {
                    let part = (panel * k + pc.start) * width..(panel * k + pc.end) * width;
                    let part = panels.get(part).unwrap_or_else(|| bug!(&[]));
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

    fn fused(&mut self, rows: Range<usize>, cols: Range<usize>) -> Option<(MatrixMut<'_, T::Acc>, bool)> {
        let FusedEpilogue { residual, activation, .. } = self.epilogue;
        let is_light = matches!(activation, Activation::None | Activation::Relu);
        let out = (is_light && matches!(residual, Residual::None)).then(|| self.out.block_mut(rows, cols))?;
        Some((out.same_type()?, activation == Activation::Relu))
    }

    fn load_bias(&self, level: simd::Level, target: &mut [T::Acc]) {
        #[inline(never)]
        fn load<S: Simd, T: Float>(simd: S, epilogue: &FusedEpilogue<'_, T>, target: &mut [T::Acc]) {
            simd.vectorize(lane_fn!(|| epilogue.load_bias(simd, target)));
        }
        dispatch!(level, simd => load(simd, &self.epilogue, target));
    }

    fn store(&mut self, level: simd::Level, sums: TileSums<'_, T::Acc>) {
        #[inline(never)]
        fn store<S: Simd, T: Float>(
            simd: S,
            epilogue: &FusedEpilogue<'_, T>,
            position: (usize, usize),
            (sums, stride): (&mut [T::Acc], usize),
            bias: &[T::Acc],
            out: MatrixMut<'_, T>,
        ) {
            simd.vectorize(lane_fn!(|| epilogue.store(simd, sums, stride, bias, position, out)));
        }
        let TileSums { rows, cols, sums, stride, bias } = sums;
        let position = (rows.start, cols.start);
        let out = self.out.block_mut(rows, cols);
        dispatch!(level, simd => store(simd, &self.epilogue, position, (sums, stride), bias, out));
    }
}

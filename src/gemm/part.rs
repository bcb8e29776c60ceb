//! One block of a product with its operands in their storage types, and what the rest of the product's code, which is
//! compiled once for each compute type, asks of it. No loop over blocks of k is here.

use core::any::TypeId;
use core::ops::Range;

use fearless_simd::Simd;

use super::driver::{Finish, Residual, Weight};
use super::{pack, panel_width, stream};
use crate::error::Shape;
use crate::float::{Compute, Float};
use crate::ops::activation::Activation;
use crate::simd::{self, dispatch};
use crate::view::{Matrix, MatrixMut};

/// How a weight lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// In panels of the compute type.
    Panels,
    /// In panels of a narrower type.
    NarrowPanels,
    /// The elements of each row side by side.
    Rows,
    /// Otherwise.
    Scattered,
}

/// Rows and columns of a block, and their sums: row r's begin at `r * stride`.
#[derive(Debug)]
pub struct Region<'a, C> {
    pub(super) rows: Range<usize>,
    pub(super) cols: Range<usize>,
    pub(super) sums: &'a mut [C],
    pub(super) stride: usize,
    /// From the first of these columns on.
    pub(super) bias: &'a [C],
}

/// What the code of a block asks of x and the weight, whatever their storage types. Rows and columns count from the
/// block's.
pub trait Operands<C: Compute> {
    /// x, where it is of the compute type and the elements of each row lie side by side.
    fn x(&self) -> Option<Matrix<'_, C>>;
    /// Lays out a block of x row after row.
    fn widen_x(&self, level: simd::Level, rows: Range<usize>, depth: Range<usize>, target: &mut [C]);
    fn lie(&self) -> Lie;
    /// The panels, where the weight lies in those of the compute type.
    fn panels(&self) -> &[C];
    /// The first column, where it is of the compute type and lies side by side.
    fn column(&self) -> Option<&[C]>;
    /// Lays out a block of the weight in panels.
    fn pack_weight(&self, level: simd::Level, depth: Range<usize>, cols: Range<usize>, target: &mut [C]);
    /// See [`stream::stream`].
    fn stream(&self, level: simd::Level, depth: Range<usize>, panels: Range<usize>, x: (&[C], usize), sums: &mut [C]);
}

/// What it asks of the result.
pub trait Target<C: Compute> {
    /// (rows, columns)
    fn shape(&self) -> Shape;
    fn activation(&self) -> Activation;
    /// Where anyone may store sums with bias and activation: nothing else is added, and nothing rounded.
    fn plain(&mut self, rows: Range<usize>, cols: Range<usize>) -> Option<MatrixMut<'_, C>>;
    /// The bias, and zeros past the last column.
    fn load_bias(&self, level: simd::Level, target: &mut [C]);
    /// Finishes sums and stores them.
    fn store(&mut self, level: simd::Level, region: Region<'_, C>);
}

/// The operands of a block.
#[derive(Debug)]
pub(super) struct Sides<'a, X, W> {
    pub(super) x: Matrix<'a, X>,
    pub(super) weight: Weight<'a, W>,
}

/// The result of a block.
#[derive(Debug)]
pub(super) struct Ending<'a, T: Float> {
    pub(super) finish: Finish<'a, T>,
    pub(super) out: MatrixMut<'a, T>,
}

fn is_same<T: 'static, U: 'static>() -> bool {
    TypeId::of::<T>() == TypeId::of::<U>()
}

impl<T: Float, W: Float<Acc = T::Acc>> Operands<T::Acc> for Sides<'_, T, W> {
    fn x(&self) -> Option<Matrix<'_, T::Acc>> {
        self.x.same_type().filter(Matrix::has_contiguous_rows)
    }

    fn widen_x(&self, level: simd::Level, rows: Range<usize>, depth: Range<usize>, target: &mut [T::Acc]) {
        #[inline(never)]
        fn widen<S: Simd, T: Float>(simd: S, x: Matrix<'_, T>, target: &mut [T::Acc]) {
            simd.vectorize(
                #[inline(always)]
                || pack::pack_rows(simd, x, target),
            );
        }
        dispatch!(level, simd => widen(simd, self.x.block(rows.clone(), depth.clone()), target));
    }

    fn lie(&self) -> Lie {
        match self.weight {
            Weight::Packed { .. } if is_same::<W, T::Acc>() => Lie::Panels,
            Weight::Packed { .. } => Lie::NarrowPanels,
            Weight::Matrix(weight) if weight.has_contiguous_rows() => Lie::Rows,
            Weight::Matrix(_) => Lie::Scattered,
        }
    }

    fn panels(&self) -> &[T::Acc] {
        match self.weight {
            Weight::Packed { panels, .. } => Matrix::from(panels).same_type().and_then(|row| row.row(0)).unwrap_or(&[]),
            Weight::Matrix(_) => &[],
        }
    }

    fn column(&self) -> Option<&[T::Acc]> {
        match self.weight {
            Weight::Matrix(weight) => weight.transpose().same_type().and_then(|columns| columns.row(0)),
            Weight::Packed { .. } => None,
        }
    }

    fn pack_weight(&self, level: simd::Level, depth: Range<usize>, cols: Range<usize>, target: &mut [T::Acc]) {
        #[inline(never)]
        fn pack_matrix<S: Simd, W: Float>(simd: S, weight: Matrix<'_, W>, target: &mut [W::Acc]) {
            simd.vectorize(
                #[inline(always)]
                || pack::pack_panels(simd, weight, target),
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

    fn stream(
        &self,
        level: simd::Level,
        depth: Range<usize>,
        panels: Range<usize>,
        x: (&[T::Acc], usize),
        sums: &mut [T::Acc],
    ) {
        stream::stream(level, self.weight, depth, panels, x, sums);
    }
}

impl<T: Float> Target<T::Acc> for Ending<'_, T> {
    fn shape(&self) -> Shape {
        self.out.shape()
    }

    fn activation(&self) -> Activation {
        self.finish.activation
    }

    fn plain(&mut self, rows: Range<usize>, cols: Range<usize>) -> Option<MatrixMut<'_, T::Acc>> {
        match self.finish.residual {
            Residual::None => self.out.block_mut(rows, cols).same_type(),
            _ => None,
        }
    }

    fn load_bias(&self, level: simd::Level, target: &mut [T::Acc]) {
        #[inline(never)]
        fn load<S: Simd, T: Float>(simd: S, finish: &Finish<'_, T>, target: &mut [T::Acc]) {
            simd.vectorize(
                #[inline(always)]
                || finish.load_bias(simd, target),
            );
        }
        dispatch!(level, simd => load(simd, &self.finish, target));
    }

    fn store(&mut self, level: simd::Level, region: Region<'_, T::Acc>) {
        #[inline(never)]
        fn store<S: Simd, T: Float>(
            simd: S,
            finish: &Finish<'_, T>,
            position: (usize, usize),
            (sums, stride): (&mut [T::Acc], usize),
            bias: &[T::Acc],
            out: MatrixMut<'_, T>,
        ) {
            simd.vectorize(
                #[inline(always)]
                || finish.store(simd, sums, stride, bias, position, out),
            );
        }
        let Region { rows, cols, sums, stride, bias } = region;
        let position = (rows.start, cols.start);
        let out = self.out.block_mut(rows, cols);
        dispatch!(level, simd => store(simd, &self.finish, position, (sums, stride), bias, out));
    }
}

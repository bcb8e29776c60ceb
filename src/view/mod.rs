//! Borrowed memory as kernels see it, checked once where it is lent: matrices, rows that become rows, sums of rows in a
//! fixed order, and panels for the matrix product. All `unsafe` that reads or writes an operand is here.
#![allow(unsafe_code, reason = "one of the modules that may; each block says why it is sound")]

use core::slice;

use crate::float::Compute;

mod inout;
mod matrix;
mod pairwise;
#[cfg(feature = "std")]
mod panels;
mod row;

pub(crate) use inout::{InOut, InOutMatrix, RowBuffer, SplitRow};
pub use matrix::{Matrix, MatrixMut};
pub(crate) use pairwise::PairwiseFold;
#[cfg(feature = "std")]
pub(crate) use panels::{MAX_MR_OVERLAPPING, PanelGroup};
pub(crate) use row::Row;

/// The closure that it is given: where an attribute on one may stand.
#[inline(always)]
pub(crate) fn inlined<F>(f: F) -> F {
    f
}

/// A cache line of a workspace, in which kernels lay out numbers and vectors.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Line([u64; 8]);

impl Line {
    pub(crate) const ZERO: Self = Self([0; 8]);

    /// The lines as numbers.
    #[inline(always)]
    pub(crate) fn numbers<C: Compute>(lines: &mut [Self]) -> &mut [C] {
        // SAFETY: f32 and f64, the only `Compute` types, take any bytes, their alignment divides that of a line and
        // their size that of a line.
        unsafe { slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), size_of_val(lines) / size_of::<C>()) }
    }
}

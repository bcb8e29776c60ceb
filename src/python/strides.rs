//! How an n-dimensional call is cut into calls on matrices: strides are merged where they allow it, and what is left is
//! a loop over blocks. Nothing is copied here, and no array is looked into.

use std::ops::RangeInclusive;
use std::vec::Vec;

use numpy::npyffi::npy_intp;
use pyo3::prelude::*;

use super::errors::out_of_memory;
use super::ndarray::Place;

/// A dimension: its length and each operand's stride in bytes.
#[derive(Clone, Copy, Debug)]
struct Dim<const N: usize> {
    len: usize,
    strides: [isize; N],
}

/// A loop over blocks of N operands, one of which is written.
#[derive(Debug)]
pub(super) struct Plan<const N: usize> {
    outer: Vec<Dim<N>>,
    rows: Dim<N>,
    cols: Dim<N>,
}

impl<const N: usize> Plan<N> {
    /// A plan for an element-wise call. Operands have one shape; `output` is the number of the one that is written,
    /// which needs a dimension of stride `item`, or else the plan has columns of one element.
    pub(super) fn elements(
        shape: &[npy_intp],
        strides: [&[npy_intp]; N],
        output: usize,
        item: usize,
    ) -> PyResult<Self> {
        let mut dims = dims(shape, strides, None)?;
        order(&mut dims, output);
        merge(&mut dims);
        let cols = match dims.last() {
            Some(last) if last.strides[output] == item.cast_signed() => dims.pop(),
            _ => None,
        };
        Ok(Self::with_cols(dims, cols.unwrap_or(Dim { len: 1, strides: [item.cast_signed(); N] }), output, item))
    }

    /// A plan for a call on rows along `axis`, of `cols` elements. Rows may have another length in each operand.
    pub(super) fn rows(
        shape: &[npy_intp],
        strides: [&[npy_intp]; N],
        axis: usize,
        cols: usize,
        output: usize,
        item: usize,
    ) -> PyResult<Self> {
        let mut dims = dims(shape, strides, Some(axis))?;
        order(&mut dims, output);
        merge(&mut dims);
        let across = strides.map(|strides| strides.get(axis).copied().unwrap_or(item.cast_signed()));
        Ok(Self::with_cols(dims, Dim { len: cols, strides: across }, output, item))
    }

    fn with_cols(mut outer: Vec<Dim<N>>, cols: Dim<N>, output: usize, item: usize) -> Self {
        let width = (cols.len * item).cast_signed();
        let rows = match outer.last() {
            Some(last) if last.strides[output] >= width => outer.pop(),
            _ => None,
        };
        let rows = rows
            .unwrap_or(Dim { len: 1, strides: cols.strides.map(|stride| stride.wrapping_mul(cols.len.cast_signed())) });
        Self { outer, rows, cols }
    }

    /// Makes blocks of one row where the rows of a block would differ in this operand.
    pub(super) fn hold(&mut self, operand: usize) -> PyResult<()> {
        if self.rows.len > 1 && self.rows.strides[operand] != 0 {
            self.outer.try_reserve(1).map_err(|_| out_of_memory())?;
            self.outer.push(self.rows);
            self.rows.len = 1;
        }
        Ok(())
    }

    /// How many blocks there are.
    pub(super) fn blocks(&self) -> usize {
        self.outer.iter().map(|dim| dim.len).product()
    }

    /// The rows of one block.
    pub(super) fn block_rows(&self) -> usize {
        self.rows.len
    }

    /// Where each operand's part of a block lies. Different blocks have no element of the output in common.
    #[inline]
    pub(super) fn places(&self, block: usize) -> [Place; N] {
        let mut places = [Place { rows: self.rows.len, cols: self.cols.len, ..Place::default() }; N];
        for (operand, (place, offset)) in places.iter_mut().zip(self.offsets(block)).enumerate() {
            place.offset = offset;
            place.row_stride = self.rows.strides[operand];
            place.col_stride = self.cols.strides[operand];
        }
        places
    }

    /// Between which offsets each operand's parts of all blocks begin.
    pub(super) fn reach(&self) -> [RangeInclusive<isize>; N] {
        core::array::from_fn(|operand| reach(self.outer.iter().map(|dim| (dim.len, dim.strides[operand]))))
    }

    /// Where each operand's part of a block begins. All else of its [`Place`] is the same for all blocks.
    #[inline]
    pub(super) fn offsets(&self, block: usize) -> [isize; N] {
        let mut rest = block;
        let mut offsets = [0_isize; N];
        let mut go = |index: usize, dim: &Dim<N>| {
            for (offset, stride) in offsets.iter_mut().zip(dim.strides) {
                *offset = offset.wrapping_add(index.cast_signed().wrapping_mul(stride));
            }
        };
        // The outermost dimension has no need of a division, which takes longer than all the rest.
        if let [outermost, inner @ ..] = &self.outer[..] {
            for dim in inner.iter().rev() {
                go(rest % dim.len, dim);
                rest /= dim.len;
            }
            go(rest, outermost);
        }
        offsets
    }
}

/// Between which offsets all elements of these dimensions begin, given their lengths and strides.
pub(super) fn reach(dims: impl Iterator<Item = (usize, isize)>) -> RangeInclusive<isize> {
    let (mut least, mut most) = (0_isize, 0_isize);
    for (len, stride) in dims {
        let last = len.saturating_sub(1).cast_signed().wrapping_mul(stride);
        let end = if last < 0 { &mut least } else { &mut most };
        *end = end.wrapping_add(last);
    }
    least..=most
}

/// The dimensions of more than one element, but for one axis.
fn dims<const N: usize>(shape: &[npy_intp], strides: [&[npy_intp]; N], but: Option<usize>) -> PyResult<Vec<Dim<N>>> {
    let mut dims = Vec::new();
    dims.try_reserve_exact(shape.len()).map_err(|_| out_of_memory())?;
    for (axis, &len) in shape.iter().enumerate() {
        if len != 1 && but != Some(axis) {
            let strides = strides.map(|strides| strides.get(axis).copied().unwrap_or(0));
            dims.push(Dim { len: len.unsigned_abs(), strides });
        }
    }
    Ok(dims)
}

/// Puts dimensions in the order in which the output lies in memory; a stable sort that needs no memory of its own.
fn order<const N: usize>(dims: &mut [Dim<N>], output: usize) {
    for end in 1..dims.len() {
        let mut place = end;
        while place > 0 && dims[place - 1].strides[output].unsigned_abs() < dims[place].strides[output].unsigned_abs() {
            dims.swap(place - 1, place);
            place -= 1;
        }
    }
}

/// Makes one dimension of neighbours that all operands walk through in one stride.
fn merge<const N: usize>(dims: &mut Vec<Dim<N>>) {
    dims.dedup_by(|inner, outer| {
        let len = inner.len.cast_signed();
        let one = outer.strides.iter().zip(&inner.strides).all(|(&outer, &inner)| outer == inner.wrapping_mul(len));
        if one {
            *outer = Dim { len: outer.len * inner.len, strides: inner.strides };
        }
        one
    });
}

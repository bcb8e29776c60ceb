//! How an n-dimensional call is cut into calls on matrices: strides are merged where they allow it, and what is left is
//! a loop over blocks. Nothing is copied here, and no array is looked into.

use std::vec::Vec;

use numpy::npyffi::npy_intp;

use crate::view::{Matrix, MatrixMut};

/// The operands that one plan can walk through together, the output among them.
pub(super) const OPERANDS: usize = 4;

/// A dimension: its length and each operand's stride in bytes.
#[derive(Clone, Copy, Debug)]
struct Dim {
    len: usize,
    strides: [isize; OPERANDS],
}

/// Where an operand's block of rows x columns lies, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub(super) data: *mut u8,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: isize,
    pub(super) col_stride: isize,
}

// SAFETY: an address; what is read and written through it is promised where it becomes a matrix.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Block {
    /// The block, to read.
    ///
    /// # Safety
    ///
    /// The block lies in a live array of `T`, whose strides are whole numbers of elements, and which nothing writes to
    /// during `'a`. That no other Python thread writes to it while the GIL is released cannot be seen from here: NumPy
    /// asks the same of its callers, and each element is read as a plain number, of which any bits are one.
    #[inline]
    pub(super) unsafe fn matrix<'a, T: Copy>(&self) -> Matrix<'a, T> {
        let item = size_of::<T>().cast_signed();
        // SAFETY: the caller's promise.
        unsafe {
            Matrix::from_raw_parts(
                self.data.cast_const().cast(),
                self.rows,
                self.cols,
                self.row_stride / item,
                self.col_stride / item,
            )
        }
    }

    /// The block, to write.
    ///
    /// # Safety
    ///
    /// As for [`matrix`](Block::matrix); the array is writeable, the block's rows are contiguous and apart, and nothing
    /// else reads or writes them during `'a`.
    ///
    /// A fresh result has not been written yet. Its memory is initialised all the same, as a slice of floats must be:
    /// small ones come from NumPy's allocator, which is C's and thus hands over some bytes or other as far as Rust can
    /// tell, large ones from [`cache`](crate::cache), which has them from the system, zeroed, or from an earlier result.
    /// Any bits are a float, and kernels write an element before they read it.
    #[inline]
    pub(super) unsafe fn matrix_mut<'a, T: Copy>(&self) -> MatrixMut<'a, T> {
        // SAFETY: the caller's promise.
        unsafe {
            MatrixMut::from_raw_parts(
                self.data.cast(),
                self.rows,
                self.cols,
                self.row_stride.unsigned_abs() / size_of::<T>(),
            )
        }
    }
}

/// A loop over blocks.
#[derive(Debug)]
pub(super) struct Plan {
    outer: Vec<Dim>,
    rows: Dim,
    cols: Dim,
}

impl Plan {
    /// A plan for an element-wise call. Operands have one shape; `output` is the number of the one that is written,
    /// which needs a dimension of stride `item`, or else the plan has columns of one element.
    pub(super) fn elements(shape: &[npy_intp], strides: &[&[npy_intp]], output: usize, item: usize) -> Self {
        let mut dims = dims(shape, strides);
        // The output is walked in the order of its memory; the sort is stable.
        dims.sort_by_key(|dim| core::cmp::Reverse(dim.strides[output].unsigned_abs()));
        merge(&mut dims);
        let cols = match dims.last() {
            Some(last) if last.strides[output] == item.cast_signed() => dims.pop(),
            _ => None,
        };
        Self::with_cols(dims, cols.unwrap_or(Dim { len: 1, strides: [item.cast_signed(); OPERANDS] }), output, item)
    }

    /// A plan for a call on rows: `shape` and `strides` are those of the leading dimensions, `cols` is each operand's
    /// row: its stride from element to element. Rows may have another length in each operand.
    pub(super) fn rows(
        shape: &[npy_intp],
        strides: &[&[npy_intp]],
        cols: usize,
        col_strides: &[isize],
        output: usize,
        item: usize,
    ) -> Self {
        let mut dims = dims(shape, strides);
        dims.sort_by_key(|dim| core::cmp::Reverse(dim.strides[output].unsigned_abs()));
        merge(&mut dims);
        let mut across = [item.cast_signed(); OPERANDS];
        for (across, &stride) in across.iter_mut().zip(col_strides) {
            *across = stride;
        }
        Self::with_cols(dims, Dim { len: cols, strides: across }, output, item)
    }

    fn with_cols(mut outer: Vec<Dim>, cols: Dim, output: usize, item: usize) -> Self {
        let width = (cols.len * item).cast_signed();
        let rows = match outer.last() {
            Some(last) if last.strides[output] >= width => outer.pop(),
            _ => None,
        };
        let rows = rows.unwrap_or(Dim { len: 1, strides: cols.strides.map(|stride| stride * cols.len.cast_signed()) });
        Self { outer, rows, cols }
    }

    /// Makes single rows of the blocks whose rows move `operand`.
    pub(super) fn hold(&mut self, operand: usize) {
        if self.rows.len > 1 && self.rows.strides[operand] != 0 {
            self.outer.push(self.rows);
            self.rows.len = 1;
        }
    }

    /// The number of blocks.
    pub(super) fn blocks(&self) -> usize {
        self.outer.iter().map(|dim| dim.len).product()
    }

    /// The rows of one block.
    pub(super) fn block_rows(&self) -> usize {
        self.rows.len
    }

    /// Calls `body` with each operand's part of each block, until one fails.
    pub(super) fn for_each<E>(
        &self,
        data: [*mut u8; OPERANDS],
        mut body: impl FnMut(&[Block; OPERANDS]) -> Result<(), E>,
    ) -> Result<(), E> {
        for index in 0..self.blocks() {
            let mut rest = index;
            let mut data = data;
            for dim in self.outer.iter().rev() {
                let place = (rest % dim.len).cast_signed();
                rest /= dim.len;
                for (data, stride) in data.iter_mut().zip(dim.strides) {
                    *data = data.wrapping_offset(place * stride);
                }
            }
            let mut blocks =
                [Block { data: data[0], rows: self.rows.len, cols: self.cols.len, row_stride: 0, col_stride: 0 };
                    OPERANDS];
            for (operand, block) in blocks.iter_mut().enumerate() {
                block.data = data[operand];
                block.row_stride = self.rows.strides[operand];
                block.col_stride = self.cols.strides[operand];
            }
            body(&blocks)?;
        }
        Ok(())
    }
}

/// The dimensions of more than one element.
fn dims(shape: &[npy_intp], strides: &[&[npy_intp]]) -> Vec<Dim> {
    let dim = |(axis, &len): (usize, &npy_intp)| {
        let mut dim = Dim { len: len.unsigned_abs(), strides: [0; OPERANDS] };
        for (own, strides) in dim.strides.iter_mut().zip(strides) {
            *own = strides.get(axis).copied().unwrap_or(0);
        }
        dim
    };
    shape.iter().enumerate().filter(|&(_, &len)| len != 1).map(dim).collect()
}

/// Makes one dimension of neighbours that all operands walk through in one stride.
fn merge(dims: &mut Vec<Dim>) {
    dims.dedup_by(|inner, outer| {
        let len = inner.len.cast_signed();
        let one = outer.strides.iter().zip(&inner.strides).all(|(&outer, &inner)| outer == inner * len);
        if one {
            *outer = Dim { len: outer.len * inner.len, strides: inner.strides };
        }
        one
    });
}

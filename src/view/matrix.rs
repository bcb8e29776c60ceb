//! [`Matrix`] to read, [`MatrixMut`] to write: shapes and strides, whose lengths are checked here.

#[cfg(feature = "std")]
use core::any::TypeId;
use core::marker::PhantomData;
use core::ops::Range;
use core::slice;

#[cfg(not(feature = "std"))]
use super::inlined;
use crate::error::{Shape, ShapeError};
use crate::float::{Compute, Float};

/// A borrowed matrix of any strides, in elements.
///
/// Made from a slice ([`new`](Matrix::new), or `From`, which gives one row) or as a view of another matrix
/// ([`transpose`](Matrix::transpose)), so a `PyTorch` weight of shape (out, in) costs nothing to use as (in, out).
///
/// # Examples
///
/// ```
/// use polyglot_bridge::Matrix;
///
/// let weight = Matrix::new(&[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0], 2, 3)?;
/// assert_eq!(weight.shape(), (2, 3));
/// assert_eq!(weight.transpose().get(2, 1), Some(6.0));
/// # Ok::<(), polyglot_bridge::ShapeError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a, T> {
    pub(super) data: *const T,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: isize,
    pub(super) col_stride: isize,
    pub(super) lifetime: PhantomData<&'a [T]>,
}

// SAFETY: a `Matrix` is a shared borrow of `T`s, as `&[T]` is.
unsafe impl<T: Sync> Send for Matrix<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Matrix<'_, T> {}

impl<'a, T: Copy> Matrix<'a, T> {
    /// A matrix over `data`, row after row.
    ///
    /// # Errors
    ///
    /// [`ShapeError`] where `data` is shorter than `rows * cols`.
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Result<Self, ShapeError> {
        Self::with_strides(data, rows, cols, cols, 1)
    }

    /// A matrix over `data` whose element (r, c) lies at `r * row_stride + c * col_stride`.
    ///
    /// # Errors
    ///
    /// [`ShapeError`] where an element would lie outside `data`.
    pub fn with_strides(
        data: &'a [T],
        rows: usize,
        cols: usize,
        row_stride: usize,
        col_stride: usize,
    ) -> Result<Self, ShapeError> {
        check_extent(data.len(), (rows, cols), row_stride, col_stride)?;
        // SAFETY: `check_extent` saw that each element lies in `data`, borrowed for 'a.
        Ok(unsafe { Self::from_raw_parts(data.as_ptr(), rows, cols, row_stride as isize, col_stride as isize) })
    }

    /// A matrix over raw memory; strides may be negative.
    ///
    /// # Safety
    ///
    /// For all `r < rows` and `c < cols`, `data.offset(r * row_stride + c * col_stride)` must be aligned, initialised
    /// and valid for reads during `'a`, and nothing may write there meanwhile.
    pub unsafe fn from_raw_parts(
        data: *const T,
        rows: usize,
        cols: usize,
        row_stride: isize,
        col_stride: isize,
    ) -> Self {
        Self { data, rows, cols, row_stride, col_stride, lifetime: PhantomData }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// (rows, columns)
    pub fn shape(&self) -> Shape {
        (self.rows, self.cols)
    }

    /// The distance from a row to the next, in elements.
    pub fn row_stride(&self) -> isize {
        self.row_stride
    }

    /// The distance from a column to the next, in elements.
    pub fn col_stride(&self) -> isize {
        self.col_stride
    }

    /// The pointer to element (0, 0).
    pub fn as_ptr(&self) -> *const T {
        self.data
    }

    /// The same elements with rows and columns exchanged; nothing is copied.
    #[must_use]
    pub fn transpose(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    /// The element at a row and a column, `None` outside the matrix.
    pub fn get(&self, row: usize, col: usize) -> Option<T> {
        // SAFETY: within the matrix, see `from_raw_parts`.
        (row < self.rows && col < self.cols).then(|| unsafe { *self.offset(row, col) })
    }

    /// Gives `f` each of `values` with `width` elements of its row, from column `col` on. False, and nothing done,
    /// where there are fewer rows or columns, where rows are not contiguous, or where `width` is 0.
    #[cfg(not(feature = "std"))]
    #[inline(always)]
    pub(crate) fn for_each_row_of<X: Copy>(
        self,
        values: &[X],
        col: usize,
        width: usize,
        mut f: impl FnMut(X, &'a [T]),
    ) -> bool {
        // With a width of 0 a part might lie anywhere, as an empty matrix may have any strides.
        let fits = self.has_contiguous_rows() && width > 0 && col <= self.cols && width <= self.cols - col;
        if !fits || values.len() > self.rows {
            return false;
        }
        let mut part = self.offset(0, col);
        let mut take = inlined(
            #[inline(always)]
            |value| {
                // SAFETY: there are no more values than rows, so the part lies within the matrix, whose elements are
                // valid for reads during 'a.
                f(value, unsafe { slice::from_raw_parts(part, width) });
                part = part.wrapping_offset(self.row_stride);
            },
        );
        // Two at a time: counting rows takes a CPU without vectors as long as two multiply-adds. Not so where numbers
        // have to be widened first, which takes longer, and more code.
        let (pairs, rest) = if const { size_of::<T>() < 4 } { (&[][..], values) } else { values.as_chunks::<2>() };
        for &[first, second] in pairs {
            take(first);
            take(second);
        }
        for &value in rest {
            take(value);
        }
        true
    }

    /// A row as a slice, where it is contiguous; `None` outside the matrix or where it is not.
    #[inline(always)]
    pub fn row(&self, row: usize) -> Option<&'a [T]> {
        if self.cols == 0 {
            // Any stride is legal here, so the place of the row may be none at all.
            return (row < self.rows).then_some(&[]);
        }
        // SAFETY: the row's elements are valid for reads during 'a and lie side by side.
        (row < self.rows && self.has_contiguous_rows())
            .then(|| unsafe { slice::from_raw_parts(self.offset(row, 0), self.cols) })
    }

    /// Whether each row is contiguous.
    #[inline(always)]
    pub fn has_contiguous_rows(&self) -> bool {
        self.col_stride == 1 || self.cols <= 1
    }

    /// All elements as one slice where they are contiguous, row after row.
    pub fn as_slice(&self) -> Option<&'a [T]> {
        if self.rows == 0 || self.cols == 0 {
            return Some(&[]);
        }
        let dense = self.rows <= 1 || self.row_stride == self.cols as isize;
        // SAFETY: rows * cols elements, each valid, side by side, so that there are no more than can be counted.
        (dense && self.has_contiguous_rows())
            .then(|| unsafe { slice::from_raw_parts(self.data, self.rows * self.cols) })
    }

    /// The part of the matrix with these rows and columns, cut to what there is.
    #[must_use]
    #[inline(always)]
    pub fn block(&self, rows: Range<usize>, cols: Range<usize>) -> Self {
        let (row_end, col_end) = (rows.end.min(self.rows), cols.end.min(self.cols));
        let (row, col) = (rows.start.min(row_end), cols.start.min(col_end));
        Self { data: self.offset(row, col), rows: row_end - row, cols: col_end - col, ..*self }
    }

    /// A matrix of this shape, whose rows or columns are all the same one where `self` has a single one. `None` where
    /// there is another number of them.
    pub(crate) fn broadcast(self, (rows, cols): Shape) -> Option<Self> {
        let stride = |found: usize, wanted: usize, stride: isize| match found {
            1 => Some(0),
            _ => (found == wanted).then_some(stride),
        };
        let row_stride = stride(self.rows, rows, self.row_stride)?;
        let col_stride = stride(self.cols, cols, self.col_stride)?;
        Some(Self { rows, cols, row_stride, col_stride, ..self })
    }

    /// All elements as one row, where they are contiguous.
    pub(crate) fn flat(&self) -> Option<Self> {
        self.as_slice().map(Self::from)
    }

    /// The elements of a row from column `start` on: all of them, read in place, where they are contiguous; else as
    /// many as `buffer` holds, copied there. Empty outside the matrix.
    #[inline(always)]
    pub(crate) fn load_strided<'s>(&self, row: usize, start: usize, buffer: &'s mut [T]) -> &'s [T]
    where
        'a: 's,
    {
        if self.has_contiguous_rows() {
            return self.row(row).and_then(|row| row.get(start..)).unwrap_or_default();
        }
        let count = if row < self.rows { self.cols.saturating_sub(start).min(buffer.len()) } else { 0 };
        for (index, value) in buffer.iter_mut().enumerate().take(count) {
            // SAFETY: row < rows, start + index < cols.
            *value = unsafe { *self.offset(row, start + index) };
        }
        buffer.get(..count).unwrap_or_default()
    }

    /// The same matrix where `U` is `T`.
    #[cfg(feature = "std")]
    #[inline(always)]
    pub(crate) fn same_type<U: Copy + 'static>(self) -> Option<Matrix<'a, U>>
    where
        T: 'static,
    {
        let Self { data, rows, cols, row_stride, col_stride, .. } = self;
        (TypeId::of::<T>() == TypeId::of::<U>()).then_some(Matrix {
            data: data.cast(),
            rows,
            cols,
            row_stride,
            col_stride,
            lifetime: PhantomData,
        })
    }

    #[inline(always)]
    pub(super) fn offset(&self, row: usize, col: usize) -> *const T {
        // Wrapping: the one-past positions that `block` makes for empty parts need not lie in the allocation.
        let (down, across) = (row as isize, col as isize);
        let offset = down.wrapping_mul(self.row_stride).wrapping_add(across.wrapping_mul(self.col_stride));
        self.data.wrapping_offset(offset)
    }
}

impl<'a> Matrix<'a, bool> {
    /// The same elements as bytes, 0 or 1: what a bool is in memory.
    pub(crate) fn to_bytes(self) -> Matrix<'a, u8> {
        let Self { data, rows, cols, row_stride, col_stride, lifetime: _ } = self;
        Matrix { data: data.cast(), rows, cols, row_stride, col_stride, lifetime: PhantomData }
    }
}

impl<'a> Matrix<'a, u8> {
    /// The same elements as flags: a [`Flag`] is one byte, any byte.
    pub(crate) fn to_flags<C: Compute>(self) -> Matrix<'a, Flag<C>> {
        let Self { data, rows, cols, row_stride, col_stride, lifetime: _ } = self;
        Matrix { data: data.cast(), rows, cols, row_stride, col_stride, lifetime: PhantomData }
    }
}

/// A byte that is read as 0 or 1 of a compute type, so that a mask is loaded like any row.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(transparent)]
pub(crate) struct Flag<C> {
    byte: u8,
    compute: PhantomData<C>,
}

impl<C: Compute> Float for Flag<C> {
    type Acc = C;
    const ZERO: Self = Self { byte: 0, compute: PhantomData };

    #[inline(always)]
    fn to_acc(self) -> C {
        C::from_f64(f64::from(self.byte != 0))
    }

    #[inline(always)]
    fn from_acc(value: C) -> Self {
        Self { byte: u8::from(value != C::from_f64(0.0)), compute: PhantomData }
    }
}

impl<'a, T: Copy> From<&'a [T]> for Matrix<'a, T> {
    fn from(row: &'a [T]) -> Self {
        Self {
            data: row.as_ptr(),
            rows: 1,
            cols: row.len(),
            row_stride: row.len() as isize,
            col_stride: 1,
            lifetime: PhantomData,
        }
    }
}

impl<'a, T: Copy, const N: usize> From<&'a [T; N]> for Matrix<'a, T> {
    fn from(row: &'a [T; N]) -> Self {
        Self::from(row.as_slice())
    }
}

/// A mutably borrowed matrix whose rows are contiguous and do not overlap.
///
/// # Examples
///
/// ```
/// use polyglot_bridge::MatrixMut;
///
/// let mut data = [0.0_f32; 6];
/// let mut out = MatrixMut::new(&mut data, 2, 3)?;
/// out.row_mut(1).unwrap()[2] = 1.0;
/// assert_eq!(data[5], 1.0);
/// # Ok::<(), polyglot_bridge::ShapeError>(())
/// ```
#[derive(Debug)]
pub struct MatrixMut<'a, T> {
    pub(super) data: *mut T,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: a `MatrixMut` is a unique borrow of `T`s, as `&mut [T]` is.
unsafe impl<T: Send> Send for MatrixMut<'_, T> {}
// SAFETY: as above; through `&MatrixMut` elements are only read.
unsafe impl<T: Sync> Sync for MatrixMut<'_, T> {}

impl<'a, T: Copy> MatrixMut<'a, T> {
    /// A matrix over `data`, row after row.
    ///
    /// # Errors
    ///
    /// [`ShapeError`] where `data` is shorter than `rows * cols`.
    pub fn new(data: &'a mut [T], rows: usize, cols: usize) -> Result<Self, ShapeError> {
        Self::with_stride(data, rows, cols, cols)
    }

    /// A matrix over `data` whose row r begins at `r * row_stride`.
    ///
    /// # Errors
    ///
    /// [`ShapeError`] where a row would lie outside `data` or rows would overlap.
    pub fn with_stride(data: &'a mut [T], rows: usize, cols: usize, row_stride: usize) -> Result<Self, ShapeError> {
        check_extent(data.len(), (rows, cols), row_stride, 1)?;
        if rows > 1 && row_stride < cols {
            return Err(ShapeError::Unrepresentable { shape: (rows, cols), row_stride });
        }
        // SAFETY: `check_extent` saw that each element lies in `data`, borrowed for 'a, and rows do not overlap.
        Ok(unsafe { Self::from_raw_parts(data.as_mut_ptr(), rows, cols, row_stride) })
    }

    /// A matrix over raw memory.
    ///
    /// # Safety
    ///
    /// For all `r < rows` and `c < cols`, `data.add(r * row_stride + c)` must be aligned and valid for reads and writes
    /// during `'a`, and initialised; nothing else may touch meanwhile what is touched through this matrix; and
    /// `row_stride >= cols` where there are two rows or more.
    pub unsafe fn from_raw_parts(data: *mut T, rows: usize, cols: usize, row_stride: usize) -> Self {
        Self { data, rows, cols, row_stride, lifetime: PhantomData }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// (rows, columns)
    pub fn shape(&self) -> Shape {
        (self.rows, self.cols)
    }

    /// The distance from a row to the next, in elements.
    pub fn row_stride(&self) -> usize {
        self.row_stride
    }

    /// The pointer to element (0, 0).
    pub fn as_mut_ptr(&mut self) -> *mut T {
        self.data
    }

    /// The same matrix, to read.
    pub fn as_matrix(&self) -> Matrix<'_, T> {
        Matrix {
            data: self.data,
            rows: self.rows,
            cols: self.cols,
            row_stride: self.row_stride as isize,
            col_stride: 1,
            lifetime: PhantomData,
        }
    }

    /// The same matrix, borrowed for a shorter time.
    pub fn reborrow(&mut self) -> MatrixMut<'_, T> {
        MatrixMut { lifetime: PhantomData, ..*self }
    }

    /// A row; `None` outside the matrix.
    #[inline(always)]
    pub fn row_mut(&mut self, row: usize) -> Option<&mut [T]> {
        if self.cols == 0 {
            return (row < self.rows).then_some(&mut []);
        }
        // SAFETY: the row is within the matrix; its elements are ours alone, see `from_raw_parts`, and lent again only
        // when the borrow of `self` has ended.
        (row < self.rows).then(|| unsafe { slice::from_raw_parts_mut(self.data.add(row * self.row_stride), self.cols) })
    }

    /// The same matrix where `U` is `T`.
    #[cfg(feature = "std")]
    #[inline(always)]
    pub(crate) fn same_type<U: Copy + 'static>(self) -> Option<MatrixMut<'a, U>>
    where
        T: 'static,
    {
        let Self { data, rows, cols, row_stride, .. } = self;
        (TypeId::of::<T>() == TypeId::of::<U>()).then_some(MatrixMut {
            data: data.cast(),
            rows,
            cols,
            row_stride,
            lifetime: PhantomData,
        })
    }

    /// The part of the matrix with these rows and columns, cut to what there is.
    #[inline(always)]
    pub(crate) fn block_mut(&mut self, rows: Range<usize>, cols: Range<usize>) -> MatrixMut<'_, T> {
        let (row_end, col_end) = (rows.end.min(self.rows), cols.end.min(self.cols));
        let (row, col) = (rows.start.min(row_end), cols.start.min(col_end));
        MatrixMut {
            data: self.data.wrapping_add(row.wrapping_mul(self.row_stride).wrapping_add(col)),
            rows: row_end - row,
            cols: col_end - col,
            row_stride: self.row_stride,
            lifetime: PhantomData,
        }
    }

    /// A contiguous column, as a row.
    #[cfg(feature = "std")]
    pub(crate) fn column_as_row(self) -> Option<Self> {
        let Self { data, rows, .. } = self;
        (self.cols == 1 && self.row_stride == 1).then_some(Self {
            data,
            rows: 1,
            cols: rows,
            row_stride: rows,
            lifetime: PhantomData,
        })
    }

    /// Lends the blocks of one matrix to several threads.
    pub(crate) fn share(&mut self) -> SharedMut<'_, T> {
        SharedMut(self.reborrow())
    }
}

impl<'a, T: Copy> From<&'a mut [T]> for MatrixMut<'a, T> {
    fn from(row: &'a mut [T]) -> Self {
        let cols = row.len();
        Self { data: row.as_mut_ptr(), rows: 1, cols, row_stride: cols, lifetime: PhantomData }
    }
}

impl<'a, T: Copy, const N: usize> From<&'a mut [T; N]> for MatrixMut<'a, T> {
    fn from(row: &'a mut [T; N]) -> Self {
        Self::from(row.as_mut_slice())
    }
}

/// A mutable matrix whose disjoint blocks are handed to threads.
///
/// It is `Sync` because a `MatrixMut` is, of which others may only read; here they write, which asks for `T: Send` too.
/// Each `Float` is both.
#[derive(Debug)]
pub(crate) struct SharedMut<'a, T>(MatrixMut<'a, T>);

impl<T: Copy + Send> SharedMut<'_, T> {
    /// The part of the matrix with these rows and columns, cut to what there is.
    ///
    /// # Safety
    ///
    /// Blocks that live at the same time must not overlap.
    #[inline(always)]
    pub(crate) unsafe fn block(&self, rows: Range<usize>, cols: Range<usize>) -> MatrixMut<'_, T> {
        let (row_end, col_end) = (rows.end.min(self.0.rows), cols.end.min(self.0.cols));
        let (row, col) = (rows.start.min(row_end), cols.start.min(col_end));
        MatrixMut {
            data: self.0.data.wrapping_add(row.wrapping_mul(self.0.row_stride).wrapping_add(col)),
            rows: row_end - row,
            cols: col_end - col,
            row_stride: self.0.row_stride,
            lifetime: PhantomData,
        }
    }
}

/// Sees that element (rows - 1, cols - 1) lies within `len`, without overflow.
fn check_extent(len: usize, shape: Shape, row_stride: usize, col_stride: usize) -> Result<(), ShapeError> {
    let (rows, cols) = shape;
    if rows == 0 || cols == 0 {
        return Ok(());
    }
    let last = (rows - 1)
        .checked_mul(row_stride)
        .zip((cols - 1).checked_mul(col_stride))
        .and_then(|(down, across)| down.checked_add(across)?.checked_add(1))
        .filter(|&needed| isize::try_from(needed).is_ok());
    match last {
        None => Err(ShapeError::Unrepresentable { shape, row_stride }),
        Some(needed) if needed > len => Err(ShapeError::TooShort { shape, needed, len }),
        Some(_) => Ok(()),
    }
}

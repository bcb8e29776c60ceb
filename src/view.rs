//! Borrowed matrices: [`Matrix`] to read, [`MatrixMut`] to write, [`InOut`] for kernels that turn a row into a row,
//! in place or from another. Shapes and lengths are checked here, once, so that kernels need not.
#![allow(unsafe_code, reason = "one of the rooms that may; each block says why it is sound")]

use core::any::TypeId;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ops::Range;
use core::slice;

use fearless_simd::{Select, Simd, SimdBase};

use crate::error::{Shape, ShapeError};
use crate::float::{Compute, Float, Lanes, MAX_LANES};
use crate::simd::{self, stores};

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
    data: *const T,
    rows: usize,
    cols: usize,
    row_stride: isize,
    col_stride: isize,
    lifetime: PhantomData<&'a [T]>,
}

// SAFETY: a `Matrix` is a shared borrow of `T`s.
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
    /// For all `r < rows` and `c < cols`, `data.offset(r * row_stride + c * col_stride)` must be aligned and valid for
    /// reads during `'a`, and nothing may write there meanwhile.
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

    /// Gives `f` each of `values` with `width` elements of its row, from column `col` on. False, and nothing done, where
    /// there are fewer rows or columns, or where a row's elements do not lie side by side.
    #[cfg(not(feature = "std"))]
    #[inline(always)]
    pub(crate) fn for_each_row_of<X: Copy>(
        self,
        values: &[X],
        col: usize,
        width: usize,
        mut f: impl FnMut(X, &'a [T]),
    ) -> bool {
        let fits = self.has_contiguous_rows() && col <= self.cols && width <= self.cols - col;
        if !fits || values.len() > self.rows {
            return false;
        }
        let mut part = self.offset(0, col);
        let mut take = inlined(
            #[inline(always)]
            |value| {
                // SAFETY: the part lies within the matrix, whose elements are valid for reads during 'a.
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

    /// A row as a slice, where its elements lie side by side; `None` outside the matrix or where they do not.
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

    /// Whether the elements of each row lie side by side.
    #[inline(always)]
    pub fn has_contiguous_rows(&self) -> bool {
        self.col_stride == 1 || self.cols <= 1
    }

    /// All elements as one slice where they lie side by side, row after row.
    pub fn as_slice(&self) -> Option<&'a [T]> {
        if self.rows == 0 || self.cols == 0 {
            return Some(&[]);
        }
        let dense = self.rows <= 1 || self.row_stride == self.cols as isize;
        // SAFETY: rows * cols elements, each valid, side by side.
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

    /// All elements as one row, where they lie side by side.
    pub(crate) fn flat(&self) -> Option<Self> {
        self.as_slice().map(Self::from)
    }

    /// The elements of a row from column `start` on: all of them, read in place, where they lie side by side; else as
    /// many as `buffer` holds, copied there. Empty outside the matrix.
    #[inline(always)]
    pub(crate) fn gather<'s>(&self, row: usize, start: usize, buffer: &'s mut [T]) -> &'s [T]
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
    fn offset(&self, row: usize, col: usize) -> *const T {
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
    data: *mut T,
    rows: usize,
    cols: usize,
    row_stride: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: a `MatrixMut` is a unique borrow of `T`s.
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
    /// during `'a`, nothing else may touch it meanwhile, and `row_stride >= cols` where there are two rows or more.
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
        // SAFETY: the row's elements are ours alone, see `from_raw_parts`.
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

    /// A column whose elements lie side by side, as a row.
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

/// A matrix that is read and one of the same shape that is written, which may be the same one: what kernels that turn
/// a row into a row are given.
#[derive(Debug)]
pub(crate) struct InOutMatrix<'a, T> {
    /// `None`: in place.
    source: Option<Matrix<'a, T>>,
    target: MatrixMut<'a, T>,
    /// Whether what is written is too large for the cache, so that it had better pass it by.
    stream: bool,
}

impl<'a, T: Float> InOutMatrix<'a, T> {
    /// Reads `source`, writes `target`.
    pub(crate) fn new(op: &'static str, source: Matrix<'a, T>, target: MatrixMut<'a, T>) -> Result<Self, ShapeError> {
        ShapeError::check(op, "out", target.shape(), source.shape())?;
        let stream = target.rows * target.cols >= STREAM_BYTES / size_of::<T>().max(1);
        Ok(Self { source: Some(source), target, stream })
    }

    /// Reads and writes `target`.
    pub(crate) fn in_place(target: MatrixMut<'a, T>) -> Self {
        Self { source: None, target, stream: false }
    }

    pub(crate) fn shape(&self) -> Shape {
        self.target.shape()
    }

    /// Whether all elements lie side by side, row after row, on both sides.
    pub(crate) fn is_dense(&self) -> bool {
        let (rows, cols) = self.shape();
        (rows <= 1 || self.target.row_stride == cols) && self.source.is_none_or(|source| source.as_slice().is_some())
    }

    /// The same elements as one row, where both sides are dense; else as they are. For element-wise kernels.
    pub(crate) fn flatten(self) -> Self {
        let (rows, cols) = self.shape();
        if rows == 0 || !self.is_dense() {
            return self;
        }
        let len = rows * cols;
        Self {
            source: self.source.and_then(|source| source.flat()),
            target: MatrixMut { rows: 1, cols: len, row_stride: len, ..self.target },
            ..self
        }
    }

    /// Lends disjoint blocks to several threads.
    pub(crate) fn share(&mut self) -> SharedInOut<'_, T> {
        SharedInOut { source: self.source, target: self.target.share(), stream: self.stream }
    }

    /// The part with these columns.
    #[inline(always)]
    pub(crate) fn columns(&mut self, cols: Range<usize>) -> InOutMatrix<'_, T> {
        let end = cols.end.min(self.target.cols);
        let start = cols.start.min(end);
        InOutMatrix {
            source: self.source.map(|source| source.block(0..source.rows, start..end)),
            target: MatrixMut {
                data: self.target.data.wrapping_add(start),
                cols: end - start,
                lifetime: PhantomData,
                ..self.target
            },
            stream: self.stream,
        }
    }

    /// Runs `kernel` on each row in order; it is told the row's number.
    #[inline(always)]
    pub(crate) fn for_each_row(&mut self, mut kernel: impl FnMut(usize, InOut<'_, T>)) {
        let cols = self.target.cols;
        for row in 0..self.target.rows {
            let target = self.target.data.wrapping_add(row * self.target.row_stride);
            let source = match self.source {
                None => target.cast_const(),
                Some(source) if source.has_contiguous_rows() => source.offset(row, 0),
                Some(source) => {
                    for col in 0..cols {
                        // SAFETY: (row, col) lies within both matrices, which have one shape.
                        unsafe { *target.add(col) = *source.offset(row, col) };
                    }
                    target.cast_const()
                }
            };
            let stream = self.stream && !core::ptr::eq(source, target);
            kernel(row, InOut { source, target, len: cols, stream, lifetime: PhantomData });
        }
        if self.stream {
            stores::finish_stores();
        }
    }
}

/// Results of this size and more are written past the cache: they would push out what is still needed, and each of
/// their lines would be read before it is overwritten.
const STREAM_BYTES: usize = 16 << 20;

/// An [`InOutMatrix`] whose disjoint blocks are handed to threads.
#[derive(Debug)]
pub(crate) struct SharedInOut<'a, T> {
    source: Option<Matrix<'a, T>>,
    target: SharedMut<'a, T>,
    stream: bool,
}

impl<T: Float> SharedInOut<'_, T> {
    /// The part with these rows and columns.
    ///
    /// # Safety
    ///
    /// Blocks that live at the same time must not overlap.
    #[inline(always)]
    pub(crate) unsafe fn block(&self, rows: Range<usize>, cols: Range<usize>) -> InOutMatrix<'_, T> {
        InOutMatrix {
            source: self.source.map(|source| source.block(rows.clone(), cols.clone())),
            // SAFETY: the caller's promise.
            target: unsafe { self.target.block(rows, cols) },
            stream: self.stream,
        }
    }
}

/// A row that is read and a row of the same length that is written, which are either the same or apart.
///
/// Kernels go over it a vector at a time with [`map`](InOut::map), [`map_sum`](InOut::map_sum) and
/// [`fold`](Row::fold), which do the short last vector as well; a kernel has no index and no tail.
#[derive(Debug)]
pub(crate) struct InOut<'a, T, U = T> {
    source: *const T,
    target: *mut U,
    len: usize,
    /// Whether `map` writes past the cache. Never where source and target are the same.
    stream: bool,
    lifetime: PhantomData<&'a mut [U]>,
}

/// Rows read beside the one that is mapped, each at least as long.
pub(crate) trait Beside<S: Simd, C: Compute>: Copy {
    /// A vector of each row.
    type Vectors;

    /// The length of the shortest, at most `len`.
    fn len(self, len: usize) -> usize;

    /// The vectors that begin at `index`.
    ///
    /// # Safety
    ///
    /// `index` plus the lanes of a vector is at most the length of each row.
    unsafe fn load(self, simd: S, index: usize) -> Self::Vectors;

    /// The first `count` elements of each row, and zeros.
    ///
    /// # Safety
    ///
    /// `count` is at most the length of each row.
    unsafe fn pad(self, simd: S, count: usize) -> Self::Vectors;
}

impl<S: Simd, T: Float, const K: usize> Beside<S, T::Acc> for [&[T]; K] {
    type Vectors = [Lanes<S, T>; K];

    #[inline(always)]
    fn len(self, mut len: usize) -> usize {
        for part in 0..K {
            len = len.min(self[part].len());
        }
        len
    }

    #[inline(always)]
    unsafe fn load(self, simd: S, index: usize) -> Self::Vectors {
        let mut vectors = [Lanes::<S, T>::splat(simd, T::Acc::from_f64(0.0)); K];
        for part in 0..K {
            // SAFETY: the caller's promise.
            vectors[part] = T::load(simd, unsafe { self[part].get_unchecked(index..index + Lanes::<S, T>::LEN) });
        }
        vectors
    }

    #[inline(always)]
    unsafe fn pad(self, simd: S, count: usize) -> Self::Vectors {
        let mut vectors = [Lanes::<S, T>::splat(simd, T::Acc::from_f64(0.0)); K];
        for part in 0..K {
            // SAFETY: the caller's promise.
            vectors[part] = unsafe { pad::<S, T>(simd, self[part].as_ptr(), count) };
        }
        vectors
    }
}

impl<S: Simd, T: Float, M: Float<Acc = T::Acc>> Beside<S, T::Acc> for (&[T], &[M]) {
    type Vectors = (Lanes<S, T>, Lanes<S, T>);

    #[inline(always)]
    fn len(self, len: usize) -> usize {
        len.min(self.0.len()).min(self.1.len())
    }

    #[inline(always)]
    unsafe fn load(self, simd: S, index: usize) -> Self::Vectors {
        let range = index..index + Lanes::<S, T>::LEN;
        // SAFETY: the caller's promise.
        unsafe { (T::load(simd, self.0.get_unchecked(range.clone())), M::load(simd, self.1.get_unchecked(range))) }
    }

    #[inline(always)]
    unsafe fn pad(self, simd: S, count: usize) -> Self::Vectors {
        // SAFETY: the caller's promise.
        unsafe { (pad::<S, T>(simd, self.0.as_ptr(), count), pad::<S, M>(simd, self.1.as_ptr(), count)) }
    }
}

impl<T: Float, U: Float<Acc = T::Acc>> InOut<'_, T, U> {
    /// The vector that begins at `index`.
    ///
    /// # Safety
    ///
    /// `index + LEN <= self.len`
    #[inline(always)]
    unsafe fn load<S: Simd>(&self, simd: S, index: usize) -> Lanes<S, T> {
        // SAFETY: the caller's promise.
        unsafe { self.row().load(simd, index) }
    }

    /// Writes the vector that begins at `index`.
    ///
    /// # Safety
    ///
    /// `index + LEN <= self.len`
    #[inline(always)]
    unsafe fn store<S: Simd>(&mut self, lanes: Lanes<S, T>, index: usize) {
        // SAFETY: the caller's promise; target is valid for writes of `len` elements, and no other slice of it lives.
        U::store::<S>(lanes, unsafe { slice::from_raw_parts_mut(self.target.add(index), Lanes::<S, T>::LEN) });
    }

    /// Writes the first `count` lanes to the first elements of the row.
    ///
    /// # Safety
    ///
    /// `count <= self.len` and `count <= LEN`
    #[inline(always)]
    unsafe fn store_first<S: Simd>(&mut self, lanes: Lanes<S, T>, count: usize) {
        let mut values = [U::ZERO; MAX_LANES];
        U::store::<S>(lanes, &mut values[..Lanes::<S, T>::LEN]);
        for (index, &value) in values.iter().enumerate().take(count) {
            // SAFETY: index < count <= self.len.
            unsafe { *self.target.add(index) = value };
        }
    }

    /// Replaces each element x by f(x, others), `others` being the elements at the same place of K further rows.
    ///
    /// The last vector overlaps the one before it where the length is no multiple of the lanes: `f` must give a lane
    /// the same result however often it is asked.
    #[inline(always)]
    pub(crate) fn map<S: Simd, V: Float<Acc = T::Acc>, const K: usize>(
        &mut self,
        simd: S,
        others: [&[V]; K],
        f: impl Fn(Lanes<S, T>, [Lanes<S, T>; K]) -> Lanes<S, T>,
    ) {
        self.map_beside(simd, others, f);
    }

    /// Replaces each element x by f(x), [`MAPPED_IN_STEP`](simd::MAPPED_IN_STEP) vectors at a time: for functions of many steps.
    /// There is one copy of `f`, which the ends of the row share with the rest.
    #[inline(always)]
    pub(crate) fn map_in_step<S: Simd>(
        &mut self,
        simd: S,
        f: impl Fn([Lanes<S, T>; simd::MAPPED_IN_STEP]) -> [Lanes<S, T>; simd::MAPPED_IN_STEP],
    ) {
        let lanes = Lanes::<S, T>::LEN;
        let stream = self.stream && stores::can_stream::<S, U>();
        let mut input = [T::ZERO; simd::MAPPED_IN_STEP * MAX_LANES];
        let mut output = [U::ZERO; simd::MAPPED_IN_STEP * MAX_LANES];
        let mut index = 0;
        let mut count = if stream { stores::until_aligned::<S, U>(self.target) } else { 0 };
        while index < self.len {
            if count == 0 {
                count = simd::MAPPED_IN_STEP * lanes;
            }
            count = count.min(self.len - index);
            let whole = count == simd::MAPPED_IN_STEP * lanes;
            // SAFETY: index + count <= self.len; less than a block goes by way of `input` and `output`, which hold one;
            // what is streamed is aligned, since the first block ends where the target is.
            unsafe {
                let source = if whole {
                    self.source.add(index)
                } else {
                    for part in 0..count {
                        input[part] = *self.source.add(index + part);
                    }
                    input.as_ptr()
                };
                let mut vectors = [Lanes::<S, T>::splat(simd, T::Acc::from_f64(0.0)); simd::MAPPED_IN_STEP];
                for (part, vector) in vectors.iter_mut().enumerate() {
                    *vector = T::load(simd, slice::from_raw_parts(source.add(part * lanes), lanes));
                }
                let results = f(vectors);
                if whole && stream {
                    for part in 0..simd::MAPPED_IN_STEP {
                        stores::stream::<S, U>(results[part], self.target.add(index + part * lanes));
                    }
                } else {
                    let target = if whole { self.target.add(index) } else { output.as_mut_ptr() };
                    for part in 0..simd::MAPPED_IN_STEP {
                        U::store::<S>(results[part], slice::from_raw_parts_mut(target.add(part * lanes), lanes));
                    }
                    if !whole {
                        for part in 0..count {
                            *self.target.add(index + part) = output[part];
                        }
                    }
                }
            }
            index += count;
            count = 0;
        }
    }

    /// [`map`](InOut::map) with other rows of other types.
    #[inline(always)]
    pub(crate) fn map_beside<S: Simd, B: Beside<S, T::Acc>>(
        &mut self,
        simd: S,
        beside: B,
        f: impl Fn(Lanes<S, T>, B::Vectors) -> Lanes<S, T>,
    ) {
        let lanes = Lanes::<S, T>::LEN;
        // Shorter rows than asked for cannot happen: operations check shapes. Here they would cut the work short.
        let len = beside.len(self.len);
        let at = inlined(
            #[inline(always)]
            |this: &Self, index: usize| {
                // SAFETY: only called with index + lanes <= len, and each row has at least len elements.
                unsafe { f(this.load(simd, index), beside.load(simd, index)) }
            },
        );
        // SAFETY: each index is at most len - lanes, each count at most len, and `stream` is only called where it may be.
        unsafe {
            if len < lanes {
                let result = f(pad::<S, T>(simd, self.source, len), beside.pad(simd, len));
                return self.store_first::<S>(result, len);
            }
            // Before the loop, which in place overwrites what this reads.
            let last = if len.is_multiple_of(lanes) { None } else { Some(at(self, len - lanes)) };
            let mut index = 0;
            if self.stream && stores::can_stream::<S, U>() {
                index = stores::until_aligned::<S, U>(self.target);
                // A line that is written in the cache and past it is waited for, so the ends go past it as well.
                let first = at(self, 0);
                stores::stream_part::<S, U>(first, 0..index, self.target);
                while index + lanes <= len {
                    // What is to come next has time to arrive while these stores wait for memory.
                    ask_ahead(self.source, len, index);
                    stores::stream::<S, U>(at(self, index), self.target.add(index));
                    index += lanes;
                }
                let end = at(self, len - lanes);
                stores::stream_part::<S, U>(end, lanes - (len - index)..lanes, self.target.add(index));
                return;
            }
            while index + lanes <= len {
                let result = at(self, index);
                self.store::<S>(result, index);
                index += lanes;
            }
            if let Some(last) = last {
                self.store::<S>(last, len - lanes);
            }
        }
    }

    /// Replaces each element x by f(x) and sums what f gave, before it was rounded to be stored. The order of the sum
    /// is fixed by the length: see [`Tree`]. `f` takes several vectors at a time, so that they go in step.
    #[inline(always)]
    pub(crate) fn map_sum<S: Simd>(
        &mut self,
        simd: S,
        f: impl Fn([Lanes<S, T>; simd::IN_STEP]) -> [Lanes<S, T>; simd::IN_STEP],
    ) -> Lanes<S, T> {
        let lanes = Lanes::<S, T>::LEN;
        let zero = Lanes::<S, T>::splat(simd, T::Acc::from_f64(0.0));
        let (vectors, rest) = (self.len / lanes, self.len % lanes);
        let add = inlined(
            #[inline(always)]
            |a: Lanes<S, T>, b: Lanes<S, T>| a + b,
        );
        // Before the loop, which in place overwrites what this reads.
        let last = if rest == 0 { zero } else { self.row().last(simd) };
        let mut tree = Tree::new();
        let mut sum = tree.in_step(
            vectors,
            zero,
            #[inline(always)]
            |vector| {
                let mut values = [zero; simd::IN_STEP];
                ask_ahead(self.source, self.len, vector * lanes);
                ask_ahead(self.target.cast_const(), self.len, vector * lanes);
                // SAFETY: the vectors are among the whole ones.
                unsafe {
                    for part in 0..simd::IN_STEP {
                        values[part] = self.load(simd, (vector + part) * lanes);
                    }
                    values = f(values);
                    for part in 0..simd::IN_STEP {
                        self.store::<S>(values[part], (vector + part) * lanes);
                    }
                }
                values
            },
            &add,
        );
        let left = vectors % simd::IN_STEP;
        if left != 0 || rest != 0 {
            let first = vectors - left;
            let mut values = [last; simd::IN_STEP];
            // SAFETY: whole vectors, and a vector to end with where there is one, else as many elements as there are.
            unsafe {
                for part in 0..left {
                    values[part] = self.load(simd, (first + part) * lanes);
                }
                values = f(values);
                for part in 0..left {
                    self.store::<S>(values[part], (first + part) * lanes);
                    sum = add(sum, values[part]);
                }
                if rest != 0 {
                    let last = values[simd::IN_STEP - 1];
                    if self.len < lanes {
                        self.store_first::<S>(last, rest);
                    } else {
                        self.store::<S>(last, self.len - lanes);
                    }
                    sum = add(sum, self.row().is_last(simd).select(last, zero));
                }
            }
        }
        tree.finish_with(sum, &add)
    }

    /// Replaces each element x by f(x, its column), in no vectors: little code, for what is rarely done.
    #[inline(always)]
    pub(crate) fn map_one_by_one(&mut self, f: impl Fn(T::Acc, usize) -> T::Acc) {
        for col in 0..self.len {
            // SAFETY: `len` elements on each side; rows that are not the same are apart.
            unsafe { *self.target.add(col) = U::from_acc(f((*self.source.add(col)).to_acc(), col)) };
        }
    }

    /// The part with these columns, cut to what there is.
    #[inline(always)]
    pub(crate) fn part(&mut self, cols: Range<usize>) -> InOut<'_, T, U> {
        let end = cols.end.min(self.len);
        let start = cols.start.min(end);
        InOut {
            source: self.source.wrapping_add(start),
            target: self.target.wrapping_add(start),
            len: end - start,
            stream: false,
            lifetime: PhantomData,
        }
    }

    /// The row that is read.
    #[inline(always)]
    pub(crate) fn row(&self) -> Row<'_, T> {
        Row { source: self.source, len: self.len, lifetime: PhantomData }
    }
}

/// A row that is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row<'a, T> {
    source: *const T,
    len: usize,
    lifetime: PhantomData<&'a [T]>,
}

impl<'a, T> From<&'a [T]> for Row<'a, T> {
    #[inline(always)]
    fn from(row: &'a [T]) -> Self {
        Self { source: row.as_ptr(), len: row.len(), lifetime: PhantomData }
    }
}

impl<T: Float> Row<'_, T> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The vector that begins at `index`.
    ///
    /// # Safety
    ///
    /// `index + LEN <= self.len`
    #[inline(always)]
    unsafe fn load<S: Simd>(&self, simd: S, index: usize) -> Lanes<S, T> {
        // SAFETY: the caller's promise; source is valid for reads of `len` elements.
        T::load(simd, unsafe { slice::from_raw_parts(self.source.add(index), Lanes::<S, T>::LEN) })
    }

    /// The mean of a few elements times `scale`, from all over the row.
    #[inline(always)]
    pub(crate) fn mean_of_some(&self, scale: T::Acc) -> T::Acc {
        let step = (self.len / 16).max(1);
        let (mut sum, mut count, mut index) = (T::Acc::from_count(0), 0, 0);
        while index < self.len {
            // SAFETY: source is valid for reads of `len` elements.
            sum += unsafe { *self.source.add(index) }.to_acc() * scale;
            count += 1;
            index += step;
        }
        sum / T::Acc::from_count(count)
    }

    /// Gives each element to `f`, in order.
    #[inline(always)]
    pub(crate) fn for_each(&self, mut f: impl FnMut(T::Acc)) {
        for index in 0..self.len {
            // SAFETY: source is valid for reads of `len` elements.
            f(unsafe { *self.source.add(index) }.to_acc());
        }
    }

    /// Combines what `term` gives for each vector of the row, in an order that the length alone fixes: see [`Tree`].
    /// Lanes past the end read as `fill`, whose term must be neutral, as `neutral` is.
    #[inline(always)]
    pub(crate) fn fold<S: Simd, A: Copy>(
        &self,
        simd: S,
        fill: T::Acc,
        neutral: A,
        term: impl Fn(Lanes<S, T>) -> A,
        combine: impl Fn(A, A) -> A,
    ) -> A {
        self.fold_chains::<S, A, false>(simd, fill, neutral, term, combine, CHAIN)
    }

    /// The sum of what `terms` gives for the vectors of the row, several at a time, so that they go in step. Lanes past
    /// the end read as `fill`, whose term must be zero.
    #[inline(always)]
    pub(crate) fn sum_in_step<S: Simd>(
        &self,
        simd: S,
        fill: T::Acc,
        terms: impl Fn([Lanes<S, T>; simd::IN_STEP]) -> [Lanes<S, T>; simd::IN_STEP],
    ) -> Lanes<S, T> {
        let lanes = Lanes::<S, T>::LEN;
        let (vectors, rest) = (self.len / lanes, self.len % lanes);
        let fills = Lanes::<S, T>::splat(simd, fill);
        let add = inlined(
            #[inline(always)]
            |a: Lanes<S, T>, b: Lanes<S, T>| a + b,
        );
        let mut tree = Tree::new();
        let mut sum = tree.in_step(
            vectors,
            Lanes::<S, T>::splat(simd, T::Acc::from_f64(0.0)),
            #[inline(always)]
            |vector| {
                let mut values = [fills; simd::IN_STEP];
                for part in 0..simd::IN_STEP {
                    // SAFETY: the vectors are among the whole ones.
                    values[part] = unsafe { self.load(simd, (vector + part) * lanes) };
                }
                terms(values)
            },
            &add,
        );
        let left = vectors % simd::IN_STEP;
        if left != 0 || rest != 0 {
            let mut values = [fills; simd::IN_STEP];
            for part in 0..left {
                // SAFETY: the last of the whole vectors.
                values[part] = unsafe { self.load(simd, (vectors - left + part) * lanes) };
            }
            if rest != 0 {
                values[simd::IN_STEP - 1] = self.is_last(simd).select(self.last(simd), fills);
            }
            for term in terms(values) {
                sum = add(sum, term);
            }
        }
        tree.finish_with(sum, &add)
    }

    /// [`fold`](Row::fold) that asks for the row that follows in memory while it is at this one.
    #[inline(always)]
    pub(crate) fn fold_ahead<S: Simd, A: Copy>(
        &self,
        simd: S,
        fill: T::Acc,
        neutral: A,
        term: impl Fn(Lanes<S, T>) -> A,
        combine: impl Fn(A, A) -> A,
    ) -> A {
        self.fold_chains::<S, A, true>(simd, fill, neutral, term, combine, CHAIN)
    }

    /// [`fold`](Row::fold) for what rounds nothing, like the largest element: any order is as good.
    #[inline(always)]
    pub(crate) fn fold_exact<S: Simd, A: Copy>(
        &self,
        simd: S,
        fill: T::Acc,
        neutral: A,
        term: impl Fn(Lanes<S, T>) -> A,
        combine: impl Fn(A, A) -> A,
    ) -> A {
        self.fold_chains::<S, A, false>(simd, fill, neutral, term, combine, usize::MAX)
    }

    #[inline(always)]
    fn fold_chains<S: Simd, A: Copy, const AHEAD: bool>(
        &self,
        simd: S,
        fill: T::Acc,
        neutral: A,
        term: impl Fn(Lanes<S, T>) -> A,
        combine: impl Fn(A, A) -> A,
        chain: usize,
    ) -> A {
        let lanes = Lanes::<S, T>::LEN;
        let end = if self.len.is_multiple_of(lanes) {
            None
        } else {
            let fill = Lanes::<S, T>::splat(simd, fill);
            Some(term(self.is_last(simd).select(self.last(simd), fill)))
        };
        Tree::run::<{ simd::SUMS }>(
            self.len / lanes,
            neutral,
            #[inline(always)]
            |vector| {
                if AHEAD {
                    ask_ahead(self.source, self.len, vector * lanes);
                }
                // SAFETY: vector < len / lanes.
                term(unsafe { self.load(simd, vector * lanes) })
            },
            end,
            combine,
            chain,
        )
    }

    /// The vector that ends the row, for rows whose length is no multiple of the lanes: its first lanes were in the
    /// vector before it. Where the row is shorter than a vector, the elements come first, and zeros after them.
    #[inline(always)]
    fn last<S: Simd>(&self, simd: S) -> Lanes<S, T> {
        let lanes = Lanes::<S, T>::LEN;
        // SAFETY: the row has a vector, or as many elements as are asked for.
        unsafe {
            if self.len < lanes { pad::<S, T>(simd, self.source, self.len) } else { self.load(simd, self.len - lanes) }
        }
    }

    /// A mask of the lanes of [`last`](Row::last) that are in no vector before it.
    #[inline(always)]
    fn is_last<S: Simd>(&self, simd: S) -> <Lanes<S, T> as SimdBase<S>>::Mask {
        let lanes = Lanes::<S, T>::LEN;
        let rest = self.len % lanes;
        // Lanes first..end, where first..LEN ends a row and 0..end is the whole of a short one.
        let (first, end) = if self.len < lanes { (0, rest) } else { (lanes - rest, lanes) };
        let place = Lanes::<S, T>::from_fn(
            simd,
            #[inline(always)]
            |lane| T::Acc::from_count(lane),
        );
        let limit = |count: usize| Lanes::<S, T>::splat(simd, T::Acc::from_count(count));
        place.simd_ge(limit(first)) & place.simd_lt(limit(end))
    }
}

impl<T: Float> InOut<'_, T> {
    /// The row that is written, over itself.
    #[inline(always)]
    pub(crate) fn in_place(&mut self) -> InOut<'_, T> {
        InOut { source: self.target, stream: false, lifetime: PhantomData, ..*self }
    }

    /// Replaces each element x by f(x), one by one: for functions that know nothing of vectors.
    #[inline(always)]
    pub(crate) fn map_each(&mut self, f: impl Fn(T) -> T) {
        if core::ptr::eq(self.source, self.target) {
            // SAFETY: `len` elements that are ours alone.
            for value in unsafe { slice::from_raw_parts_mut(self.target, self.len) } {
                *value = f(*value);
            }
            return;
        }
        // SAFETY: `len` elements on each side; rows that are not the same are apart.
        let (source, target) =
            unsafe { (slice::from_raw_parts(self.source, self.len), slice::from_raw_parts_mut(self.target, self.len)) };
        for (result, &value) in target.iter_mut().zip(source) {
            *result = f(value);
        }
    }
}

/// Terms that an accumulator of a [`Tree`] takes before the totals move up.
const CHAIN: usize = if simd::HAS_VECTORS { 4 } else { 16 };

/// Combines the terms of n vectors in an order that n alone fixes.
///
/// Sixteen vectors or so at a time go into a few accumulators, whose totals are combined pairwise, two blocks with two
/// blocks and so on: as a sum of floats, its error is that of pairwise summation (Higham, Accuracy and Stability of
/// Numerical Algorithms, 4.2).
#[derive(Debug)]
pub(crate) struct Tree<A> {
    /// The totals of the complete subtrees so far, from the largest to the smallest: one for each 1 bit of `blocks`.
    totals: [MaybeUninit<A>; usize::BITS as usize],
    depth: usize,
    blocks: usize,
}

impl<A: Copy> Tree<A> {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self { totals: [const { MaybeUninit::uninit() }; usize::BITS as usize], depth: 0, blocks: 0 }
    }

    #[inline(always)]
    fn run<const WIDE: usize>(
        vectors: usize,
        neutral: A,
        mut term: impl FnMut(usize) -> A,
        end: Option<A>,
        combine: impl Fn(A, A) -> A,
        chain: usize,
    ) -> A {
        let mut tree = Self::new();
        let mut parts = [neutral; WIDE];
        let total = inlined(
            #[inline(always)]
            |mut parts: [A; WIDE]| {
                let mut count = WIDE;
                while count > 1 {
                    count /= 2;
                    for index in 0..count {
                        parts[index] = combine(parts[2 * index], parts[2 * index + 1]);
                    }
                }
                parts[0]
            },
        );
        let (mut vector, mut steps) = (0, 0);
        // One loop with one copy of `term` an accumulator: more would be no faster, and compile for minutes.
        while vector + WIDE <= vectors {
            for (part, total) in parts.iter_mut().enumerate() {
                *total = combine(*total, term(vector + part));
            }
            vector += WIDE;
            steps += 1;
            if steps == chain {
                if simd::HAS_VECTORS {
                    tree.push(total(parts), &combine);
                } else {
                    tree.push_apart(total(parts), &combine);
                }
                parts = [neutral; WIDE];
                steps = 0;
            }
        }
        let mut rest = end.unwrap_or(neutral);
        while WIDE > 1 && vector < vectors {
            rest = combine(rest, term(vector));
            vector += 1;
        }
        let rest = combine(total(parts), rest);
        tree.finish_with(rest, &combine)
    }

    /// The total of the vectors that no block was filled with; blocks are in the tree. For terms that are worth being
    /// taken in step, N vectors at a time, which leave no registers for more accumulators than that, nor need them.
    #[inline(always)]
    fn in_step<const N: usize>(
        &mut self,
        vectors: usize,
        neutral: A,
        mut terms: impl FnMut(usize) -> [A; N],
        combine: &impl Fn(A, A) -> A,
    ) -> A {
        let mut parts = [neutral; N];
        let total = inlined(
            #[inline(always)]
            |parts: [A; N]| {
                let mut total = parts[0];
                for index in 1..N {
                    total = combine(total, parts[index]);
                }
                total
            },
        );
        let (mut vector, mut steps) = (0, 0);
        while vector + N <= vectors {
            let next = terms(vector);
            for index in 0..N {
                parts[index] = combine(parts[index], next[index]);
            }
            vector += N;
            steps += 1;
            if steps == if N == 1 { CHAIN } else { 4 * CHAIN / N } {
                if simd::HAS_VECTORS {
                    self.push(total(parts), combine);
                } else {
                    self.push_apart(total(parts), combine);
                }
                parts = [neutral; N];
                steps = 0;
            }
        }
        total(parts)
    }

    /// [`finish`](Tree::finish), inlined where there are vectors.
    #[inline(always)]
    fn finish_with(&mut self, total: A, combine: &impl Fn(A, A) -> A) -> A {
        if simd::HAS_VECTORS { self.finish(total, combine) } else { self.finish_apart(total, combine) }
    }

    /// Adds the total of one more block.
    #[inline(always)]
    pub(crate) fn push(&mut self, mut total: A, combine: &impl Fn(A, A) -> A) {
        for _ in 0..self.blocks.trailing_ones() {
            total = if simd::HAS_VECTORS { combine(self.pop(), total) } else { self.join_apart(total, combine) };
        }
        // There is one total for each 1 bit of `blocks`, so at most as many as a usize has bits.
        if let Some(slot) = self.totals.get_mut(self.depth) {
            *slot = MaybeUninit::new(total);
            self.depth += 1;
        }
        self.blocks += 1;
    }

    /// [`push`](Tree::push) as a function of its own, for targets that have no instructions to be compiled for and little
    /// room for code.
    #[inline(never)]
    fn push_apart(&mut self, total: A, combine: &impl Fn(A, A) -> A) {
        self.push(total, combine);
    }

    #[inline(never)]
    fn join_apart(&mut self, total: A, combine: &impl Fn(A, A) -> A) -> A {
        combine(self.pop(), total)
    }

    /// [`finish`](Tree::finish) as a function of its own.
    #[inline(never)]
    fn finish_apart(&mut self, total: A, combine: &impl Fn(A, A) -> A) -> A {
        self.finish(total, combine)
    }

    /// The total of all blocks and `total`, the last.
    #[inline(always)]
    pub(crate) fn finish(&mut self, mut total: A, combine: &impl Fn(A, A) -> A) -> A {
        while self.depth > 0 {
            total = if simd::HAS_VECTORS { combine(self.pop(), total) } else { self.join_apart(total, combine) };
        }
        total
    }

    /// The last total; only called where there is one.
    #[inline(always)]
    fn pop(&mut self) -> A {
        self.depth -= 1;
        // SAFETY: `push` wrote each slot below `depth`.
        unsafe { self.totals.get_unchecked(self.depth).assume_init() }
    }
}

/// Asks for what will be wanted after element `index` of a row of `len`: the same place of the row that follows in
/// memory, most likely the next one, or of the next page. A CPU foresees neither: what it fetches of its own accord
/// ends with a page, and is forgotten while a row is gone over once more.
#[inline(always)]
fn ask_ahead<T>(row: *const T, len: usize, index: usize) {
    const PAGE: usize = 4096;
    simd::prefetch(row.wrapping_add(index + len.min(PAGE / size_of::<T>().max(1))));
}

/// Room for one row in the compute type, for kernels whose values between two passes must not be rounded.
#[derive(Debug)]
pub(crate) struct Scratch<C> {
    values: [MaybeUninit<C>; SCRATCH],
}

/// A row on its way into its compute type, and on its way back.
type Between<'a, T> = (InOut<'a, T, <T as Float>::Acc>, InOut<'a, <T as Float>::Acc, T>);

/// The longest row that [`Scratch`] holds: 16 KiB of stack in f32, little on a microcontroller.
const SCRATCH: usize = if cfg!(feature = "std") { 4096 } else { 64 };

impl<C: Compute> Scratch<C> {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self { values: [const { MaybeUninit::uninit() }; SCRATCH] }
    }

    /// The two halves of a way from a row through the compute type and back into the row, which keeps what lies
    /// between unrounded: in `out` itself where that is of the compute type, else in this scratch. The row itself
    /// where it is too long for that.
    #[inline(always)]
    pub(crate) fn between<'s, T: Float<Acc = C>>(
        &'s mut self,
        row: InOut<'s, T>,
    ) -> Result<Between<'s, T>, InOut<'s, T>> {
        let InOut { source, target, len, stream, lifetime: _ } = row;
        let is_native = TypeId::of::<T>() == TypeId::of::<C>();
        let fits = len <= SCRATCH;
        let room = if fits && (stream || !is_native) {
            self.values.as_mut_ptr().cast::<C>()
        } else if is_native {
            target.cast::<C>()
        } else {
            return Err(row);
        };
        // What lies in `target` for a moment is in the cache, and is overwritten there.
        let stream = stream && fits;
        Ok((
            InOut { source, target: room, len, stream: false, lifetime: PhantomData },
            InOut { source: room, target, len, stream, lifetime: PhantomData },
        ))
    }
}

/// The closure that it is given: where an attribute on one may stand.
#[inline(always)]
pub(crate) fn inlined<F>(f: F) -> F {
    f
}

/// A vector of the first `count` elements and zeros.
///
/// # Safety
///
/// `source` is valid for reads of `count` elements.
#[inline(always)]
unsafe fn pad<S: Simd, T: Float>(simd: S, source: *const T, count: usize) -> Lanes<S, T> {
    let mut values = [T::ZERO; MAX_LANES];
    for (index, value) in values.iter_mut().enumerate().take(count) {
        // SAFETY: the caller's promise.
        *value = unsafe { *source.add(index) };
    }
    T::load(simd, &values[..Lanes::<S, T>::LEN])
}

/// As many elements of each of as many rows of a matrix.
#[cfg(feature = "std")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Square<'a, T> {
    start: *const T,
    stride: isize,
    side: usize,
    lifetime: PhantomData<&'a T>,
}

#[cfg(feature = "std")]
impl<'a, T: Copy> Matrix<'a, T> {
    /// The square that begins at a row and a column. `None` where it is not all in the matrix, or where the elements of a row
    /// do not lie side by side.
    #[inline(always)]
    pub(crate) fn square(&self, row: usize, col: usize, side: usize) -> Option<Square<'a, T>> {
        let fits = row.checked_add(side)? <= self.rows && col.checked_add(side)? <= self.cols;
        (fits && self.has_contiguous_rows()).then(|| Square {
            start: self.offset(row, col),
            stride: self.row_stride,
            side,
            lifetime: PhantomData,
        })
    }
}

#[cfg(feature = "std")]
impl<'a, T> Square<'a, T> {
    /// One row. `side` must be the square's: it is passed again because here it is a constant.
    #[inline(always)]
    pub(crate) fn line(&self, index: usize, side: usize) -> &'a [T] {
        if index >= side || side != self.side {
            return &[];
        }
        // SAFETY: `square` saw that so many elements of so many rows are in the matrix, side by side.
        unsafe { slice::from_raw_parts(self.start.offset(index as isize * self.stride), side) }
    }
}

/// The most rows of a tile that may read panels whose first or last is not in its place: see [`Strip::of_rows`].
#[cfg(feature = "std")]
pub(crate) const MOST_ROWS_INSET: usize = 4;

/// The right operand of a register tile: for each step of k, `width` elements side by side of each of `G` panels.
#[cfg(feature = "std")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strip<'a, W> {
    start: *const W,
    panels: usize,
    steps: usize,
    /// The elements of a panel in a step.
    width: usize,
    /// From a panel to the next and from a step to the next.
    panel_stride: isize,
    step_stride: isize,
    /// How far behind its place the first panel begins, and how far before its own the last.
    inset: (usize, usize),
    lifetime: PhantomData<&'a W>,
}

#[cfg(feature = "std")]
impl<'a, W: Copy> Strip<'a, W> {
    /// Packed panels, each step's elements of which follow the former step's: (how many, from one to the next).
    /// `None` where there are not that many numbers.
    #[inline(always)]
    pub(crate) fn packed(
        numbers: &'a [W],
        (panels, panel_len): (usize, usize),
        steps: usize,
        width: usize,
    ) -> Option<Self> {
        let needed = panels.saturating_sub(1).checked_mul(panel_len)?.checked_add(steps.checked_mul(width)?)?;
        (panels > 0 && needed <= numbers.len()).then_some(Self {
            start: numbers.as_ptr(),
            panels,
            steps,
            width,
            panel_stride: panel_len as isize,
            step_stride: width as isize,
            inset: (0, 0),
            lifetime: PhantomData,
        })
    }

    /// The rows of a matrix as steps, some of the panels of its columns, which begin `before` columns before the first. Where
    /// that is none of the matrix a panel begins with the first, and where it would go beyond the last it ends with that.
    /// `None` where the elements of a row do not lie side by side, or there are no such panels.
    #[inline(always)]
    pub(crate) fn of_rows(matrix: Matrix<'a, W>, width: usize, before: usize, panels: Range<usize>) -> Option<Self> {
        let (begin, end) = (panels.start.checked_mul(width)?, panels.end.checked_mul(width)?);
        let begins_inside = before < width && width <= matrix.cols && panels.start < panels.end;
        let ends_inside = end < matrix.cols.checked_add(before)?.checked_add(width)?;
        (begins_inside && ends_inside && matrix.has_contiguous_rows()).then_some(Self {
            start: matrix.data.wrapping_add(begin).wrapping_sub(before),
            panels: panels.len(),
            steps: matrix.rows,
            width,
            panel_stride: width as isize,
            step_stride: matrix.row_stride,
            inset: (before.saturating_sub(begin), end.saturating_sub(matrix.cols + before)),
            lifetime: PhantomData,
        })
    }

    /// From a step's elements to those that will be needed soon, in bytes: `steps` later, or so many bytes in a packed
    /// panel.
    #[inline(always)]
    pub(crate) fn ahead(&self, steps: usize, bytes: isize) -> isize {
        if self.step_stride == self.width as isize {
            return bytes;
        }
        self.step_stride.wrapping_mul((steps * size_of::<W>()) as isize)
    }

    /// Where a panel's elements of the first step lie. It need not be one of the strip's.
    #[inline(always)]
    pub(crate) fn address(&self, panel: usize) -> *const W {
        self.start.wrapping_offset(self.panel_stride.wrapping_mul(panel as isize))
    }

    /// Calls `body` for each step, in order, with the step's element of each of `R` rows of `x`, from `row` on, the
    /// step's elements of each of the first `G` panels, and `follow`, which goes on as their addresses do. False where it
    /// does not fit: too few rows or panels, another number of columns of `x` than there are steps, or rows whose elements
    /// do not lie side by side; for a strip some of whose panels are not in their places, too, unless these are all of its
    /// panels and there are at most [`MOST_ROWS_INSET`] rows. `width` must be the width that the strip was made with: it
    /// is passed again because here it is a constant.
    #[inline(always)]
    pub(crate) fn for_each<'x, A: Copy, const R: usize, const G: usize>(
        self,
        x: Matrix<'x, A>,
        row: usize,
        width: usize,
        mut follow: *const W,
        mut body: impl FnMut([&'x A; R], [&'a [W]; G], *const W),
    ) -> bool {
        let may_be_inset = R <= MOST_ROWS_INSET;
        let is_inset = self.inset != (0, 0);
        if is_inset && !may_be_inset {
            return false;
        }
        let is_whole = !may_be_inset || G == self.panels || !is_inset;
        let fits = G <= self.panels && is_whole && width == self.width && x.cols == self.steps && row + R <= x.rows;
        if !fits || !x.has_contiguous_rows() {
            return false;
        }
        let mut rows = [x.data; R];
        for (index, start) in rows.iter_mut().enumerate() {
            *start = x.offset(row + index, 0);
        }
        let mut start = self.start;
        // A single panel is the first and the last.
        let (first, last) = self.inset;
        let (first, last) = if G == 1 { (first.wrapping_sub(last), 0) } else { (first, last) };
        // Not a closure: one that changes `start` and `follow` keeps them in memory.
        macro_rules! each_step {
            ($first:expr, |$index:ident| $panel:expr) => {
                // Loops and not `map`, which is not always inlined.
                for step in 0..self.steps {
                    // SAFETY: `step` lies within each row, as was just checked, and the step's elements of each panel among
                    // those that the constructor was given: with their insets, which only panels side by side have.
                    unsafe {
                        let mut values = [&*rows[0].add(step); R];
                        for index in 1..R {
                            values[index] = &*rows[index].add(step);
                        }
                        let mut panels = [slice::from_raw_parts($first, width); G];
                        for $index in 1..G {
                            panels[$index] = slice::from_raw_parts($panel, width);
                        }
                        body(values, panels, follow);
                    }
                    start = start.wrapping_offset(self.step_stride);
                    follow = follow.wrapping_offset(self.step_stride);
                }
            };
        }
        // Many panels side by side: where each lies is then part of an instruction, and takes no register.
        if may_be_inset && self.panel_stride == width as isize {
            each_step!(start.wrapping_add(first), |index| {
                start.wrapping_add(index * width).wrapping_sub(if index + 1 == G { last } else { 0 })
            });
        } else {
            each_step!(start, |index| start.offset(index as isize * self.panel_stride));
        }
        true
    }
}

/// A cache line of scratch memory, in which kernels lay out numbers and vectors.
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

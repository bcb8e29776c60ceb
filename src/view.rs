//! Borrowed matrices: [`Matrix`] to read, [`MatrixMut`] to write, [`InOut`] for kernels that turn a row into a row,
//! in place or from another. Shapes and lengths are checked here, once, so that kernels need not.
#![allow(unsafe_code, reason = "one of the rooms that may; each block says why it is sound")]

use core::marker::PhantomData;
use core::ops::Range;
use core::slice;

use fearless_simd::{Select, Simd, SimdBase};

use crate::error::{Shape, ShapeError};
use crate::float::{Compute, Float, Lanes, MAX_LANES};

/// A borrowed matrix of any strides, in elements.
///
/// Made from a slice ([`new`](Matrix::new), or `From`, which gives one row) or as a view of another matrix
/// ([`transpose`](Matrix::transpose)), so a PyTorch weight of shape (out, in) costs nothing to use as (in, out).
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

    /// A row as a slice, where its elements lie side by side; `None` outside the matrix or where they do not.
    #[inline(always)]
    pub fn row(&self, row: usize) -> Option<&'a [T]> {
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
        let dense = self.rows <= 1 || self.cols == 0 || self.row_stride == self.cols as isize;
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

    #[inline(always)]
    fn offset(&self, row: usize, col: usize) -> *const T {
        // Wrapping: the one-past positions that `block` makes for empty parts need not lie in the allocation.
        self.data.wrapping_offset(row as isize * self.row_stride + col as isize * self.col_stride)
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
        // SAFETY: the row's elements are ours alone, see `from_raw_parts`.
        (row < self.rows).then(|| unsafe { slice::from_raw_parts_mut(self.data.add(row * self.row_stride), self.cols) })
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
#[derive(Debug)]
pub(crate) struct SharedMut<'a, T>(MatrixMut<'a, T>);

impl<T: Copy> SharedMut<'_, T> {
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
            data: self.0.data.wrapping_add(row * self.0.row_stride + col),
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
}

impl<'a, T: Float> InOutMatrix<'a, T> {
    /// Reads `source`, writes `target`.
    pub(crate) fn new(op: &'static str, source: Matrix<'a, T>, target: MatrixMut<'a, T>) -> Result<Self, ShapeError> {
        ShapeError::check(op, "out", target.shape(), source.shape())?;
        Ok(Self { source: Some(source), target })
    }

    /// Reads and writes `target`.
    pub(crate) fn in_place(target: MatrixMut<'a, T>) -> Self {
        Self { source: None, target }
    }

    pub(crate) fn shape(&self) -> Shape {
        self.target.shape()
    }

    /// The same elements as one row, where both sides are dense; else as they are. For element-wise kernels.
    pub(crate) fn flatten(self) -> Self {
        let (rows, cols) = self.shape();
        let dense = (rows <= 1 || self.target.row_stride == cols)
            && self.source.is_none_or(|source| source.as_slice().is_some());
        if !dense || rows == 0 {
            return self;
        }
        let len = rows * cols;
        Self {
            source: self.source.map(|source| Matrix { rows: 1, cols: len, row_stride: len as isize, ..source }),
            target: MatrixMut { rows: 1, cols: len, row_stride: len, ..self.target },
        }
    }

    /// Lends disjoint blocks to several threads.
    pub(crate) fn share(&mut self) -> SharedInOut<'_, T> {
        SharedInOut { source: self.source, target: self.target.share() }
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
            kernel(row, InOut { source, target, len: cols, lifetime: PhantomData });
        }
    }
}

/// An [`InOutMatrix`] whose disjoint blocks are handed to threads.
#[derive(Debug)]
pub(crate) struct SharedInOut<'a, T> {
    source: Option<Matrix<'a, T>>,
    target: SharedMut<'a, T>,
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
        }
    }
}

/// A row that is read and a row of the same length that is written, which are either the same or apart.
///
/// Kernels go over it a vector at a time with [`map`](InOut::map) and [`fold`](InOut::fold), which do the short last
/// vector as well; a kernel has no index and no tail.
#[derive(Debug)]
pub(crate) struct InOut<'a, T> {
    source: *const T,
    target: *mut T,
    len: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

impl<T: Float> InOut<'_, T> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// From here on the row written so far is the one that is read.
    #[inline(always)]
    pub(crate) fn read_back(&mut self) {
        self.source = self.target;
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

    /// Writes the vector that begins at `index`.
    ///
    /// # Safety
    ///
    /// `index + LEN <= self.len`
    #[inline(always)]
    unsafe fn store<S: Simd>(&mut self, lanes: Lanes<S, T>, index: usize) {
        // SAFETY: the caller's promise; target is valid for writes of `len` elements, and no other slice of it lives.
        T::store::<S>(lanes, unsafe { slice::from_raw_parts_mut(self.target.add(index), Lanes::<S, T>::LEN) });
    }

    /// Replaces each element x by f(x, others), `others` being the elements at the same place of K further rows.
    ///
    /// The last vector overlaps the one before it where the length is no multiple of the lanes: `f` must give a lane
    /// the same result however often it is asked.
    #[inline(always)]
    pub(crate) fn map<S: Simd, U: Float<Acc = T::Acc>, const K: usize>(
        &mut self,
        simd: S,
        others: [&[U]; K],
        f: impl Fn(Lanes<S, T>, [Lanes<S, T>; K]) -> Lanes<S, T>,
    ) {
        let lanes = Lanes::<S, T>::LEN;
        // Shorter rows than asked for cannot happen: operations check shapes. Here they would cut the work short.
        let len = others.iter().fold(self.len, |len, other| len.min(other.len()));
        if len < lanes {
            let x = pad::<S, T>(simd, self.source, len);
            let others = others.map(|other| pad::<S, U>(simd, other.as_ptr(), len));
            let mut result = [T::ZERO; MAX_LANES];
            T::store::<S>(f(x, others), &mut result[..lanes]);
            for (index, &value) in result[..len].iter().enumerate() {
                // SAFETY: index < len <= self.len.
                unsafe { *self.target.add(index) = value };
            }
            return;
        }
        // SAFETY: each index is at most len - lanes, and each row has at least len elements.
        unsafe {
            let load = |this: &Self, index: usize| {
                let others = others.map(|other| U::load(simd, other.get_unchecked(index..index + lanes)));
                f(this.load(simd, index), others)
            };
            // Before the loop, which in place overwrites what this reads.
            let last = load(self, len - lanes);
            let mut index = 0;
            while index + lanes <= len {
                let result = load(self, index);
                self.store::<S>(result, index);
                index += lanes;
            }
            self.store::<S>(last, len - lanes);
        }
    }

    /// Folds the row into N independent accumulators, vector i into accumulator i % N, so that the order is fixed by
    /// the length alone. Lanes past the end read as `fill`, which must leave an accumulator as it was.
    #[inline(always)]
    pub(crate) fn fold<S: Simd, A: Copy, const N: usize>(
        &self,
        simd: S,
        fill: T::Acc,
        init: A,
        f: impl Fn(A, Lanes<S, T>) -> A,
    ) -> [A; N] {
        let lanes = Lanes::<S, T>::LEN;
        let mut accumulators = [init; N];
        let mut index = 0;
        // SAFETY: each index is at most len - lanes.
        unsafe {
            while index + N * lanes <= self.len {
                for (part, accumulator) in accumulators.iter_mut().enumerate() {
                    *accumulator = f(*accumulator, self.load(simd, index + part * lanes));
                }
                index += N * lanes;
            }
            for accumulator in &mut accumulators {
                if index + lanes > self.len {
                    break;
                }
                *accumulator = f(*accumulator, self.load(simd, index));
                index += lanes;
            }
            let rest = self.len - index;
            if rest > 0 {
                let fill = Lanes::<S, T>::splat(simd, fill);
                let last = if self.len >= lanes {
                    let place = Lanes::<S, T>::from_fn(simd, |lane| T::Acc::from_f64(lane as f64));
                    let first = Lanes::<S, T>::splat(simd, T::Acc::from_f64((lanes - rest) as f64));
                    place.simd_ge(first).select(self.load(simd, self.len - lanes), fill)
                } else {
                    let place = Lanes::<S, T>::from_fn(simd, |lane| T::Acc::from_f64(lane as f64));
                    let end = Lanes::<S, T>::splat(simd, T::Acc::from_f64(rest as f64));
                    place.simd_lt(end).select(pad::<S, T>(simd, self.source, rest), fill)
                };
                let slot = (index / lanes) % N;
                accumulators[slot] = f(accumulators[slot], last);
            }
        }
        accumulators
    }
}

/// A vector of the first `len` elements and zeros.
#[inline(always)]
fn pad<S: Simd, T: Float>(simd: S, source: *const T, len: usize) -> Lanes<S, T> {
    let mut values = [T::ZERO; MAX_LANES];
    for (index, value) in values.iter_mut().enumerate().take(len) {
        // SAFETY: callers pass a source of at least `len` elements.
        *value = unsafe { *source.add(index) };
    }
    T::load(simd, &values[..Lanes::<S, T>::LEN])
}

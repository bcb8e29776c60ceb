//! Rows that become rows, in place or from another: what element-wise and row kernels are written over.

use crate::macros::lane_fn;
use core::any::TypeId;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ops::Range;
use core::slice;

use fearless_simd::{Select, Simd, SimdBase};

use super::matrix::{Matrix, MatrixMut, SharedMut};
use super::pairwise::PairwiseFold;
use super::row::{Row, ask_ahead, pad};
use super::{Line, inlined};
use crate::error::{Shape, ShapeError};
use crate::float::{Compute, Float, Lanes, MAX_LANES};
use crate::simd::{self, stores};

/// A matrix that is read and one of the same shape that is written, which may be the same one: what kernels that turn
/// a row into a row are given.
#[derive(Debug)]
pub(crate) struct InOutMatrix<'a, T> {
    /// `None`: in place.
    pub(super) source: Option<Matrix<'a, T>>,
    pub(super) target: MatrixMut<'a, T>,
    /// Whether what is written is too large for the cache, so that it had better pass it by.
    pub(super) non_temporal: bool,
}

impl<'a, T: Float> InOutMatrix<'a, T> {
    /// Reads `source`, writes `target`.
    pub(crate) fn new(op: &'static str, source: Matrix<'a, T>, target: MatrixMut<'a, T>) -> Result<Self, ShapeError> {
        ShapeError::check(op, "out", target.shape(), source.shape())?;
        let non_temporal = target.rows * target.cols >= NON_TEMPORAL_BYTES / size_of::<T>().max(1);
        Ok(Self { source: Some(source), target, non_temporal })
    }

    /// Reads and writes `target`.
    pub(crate) fn in_place(target: MatrixMut<'a, T>) -> Self {
        Self { source: None, target, non_temporal: false }
    }

    pub(crate) fn shape(&self) -> Shape {
        self.target.shape()
    }

    /// Whether all elements are contiguous, row after row, on both sides.
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

    /// The bytes that a [`RowBuffer`] must be lent for these rows: 0 where none is needed, or where they are too long
    /// for one. (Whether the rows are rounded without it; else it only saves time.)
    pub(crate) fn buffer_bytes(&self) -> (usize, bool) {
        let (cols, is_native) = (self.target.cols, TypeId::of::<T>() == TypeId::of::<T::Acc>());
        let is_long = cols > size_of::<OnStack<T::Acc>>() / size_of::<T::Acc>();
        if is_long && cols <= MAX_BUFFERED && (self.non_temporal || !is_native) {
            (cols * size_of::<T::Acc>(), !is_native)
        } else {
            (0, false)
        }
    }

    /// Lends disjoint blocks to several threads.
    pub(crate) fn share(&mut self) -> SharedInOut<'_, T> {
        SharedInOut { source: self.source, target: self.target.share(), non_temporal: self.non_temporal }
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
            non_temporal: self.non_temporal,
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
                        // SAFETY: (row, col) lies within both matrices, which have one shape; they are apart.
                        unsafe { *target.add(col) = *source.offset(row, col) };
                    }
                    target.cast_const()
                }
            };
            let non_temporal = self.non_temporal && !core::ptr::eq(source, target);
            kernel(row, InOut { source, target, len: cols, non_temporal, lifetime: PhantomData });
        }
        if self.non_temporal {
            stores::fence();
        }
    }
}

/// Results of this size and more are stored non-temporally, past the cache: they would push out what is still needed,
/// and each of their lines would be read before it is overwritten.
const NON_TEMPORAL_BYTES: usize = 16 << 20;

/// An [`InOutMatrix`] whose disjoint blocks are handed to threads.
#[derive(Debug)]
pub(crate) struct SharedInOut<'a, T> {
    source: Option<Matrix<'a, T>>,
    target: SharedMut<'a, T>,
    non_temporal: bool,
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
            non_temporal: self.non_temporal,
        }
    }
}

/// A row that is read and a row of the same length that is written, which are either the same or apart.
///
/// Kernels go over it a vector at a time with [`map`](InOut::map), [`map_sum`](InOut::map_sum) and
/// [`fold`](Row::fold), which do the short last vector as well; a kernel has no index and no tail.
#[derive(Debug)]
pub(crate) struct InOut<'a, T, U = T> {
    pub(super) source: *const T,
    pub(super) target: *mut U,
    pub(super) len: usize,
    /// Whether `map` stores non-temporally. Never where source and target are the same.
    pub(super) non_temporal: bool,
    pub(super) lifetime: PhantomData<&'a mut [U]>,
}

/// Rows read beside the one that is mapped, each at least as long.
pub(crate) trait ZipRows<S: Simd, C: Compute>: Copy {
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

impl<S: Simd, T: Float, const K: usize> ZipRows<S, T::Acc> for [&[T]; K] {
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

impl<S: Simd, T: Float, M: Float<Acc = T::Acc>> ZipRows<S, T::Acc> for (&[T], &[M]) {
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
        self.zip_map(simd, others, f);
    }

    /// Replaces each element x by f(x), [`MAP_UNROLL`](simd::MAP_UNROLL) vectors at a time: for functions of many
    /// steps. There is one copy of `f`, which the ends of the row share with the rest.
    #[inline(always)]
    pub(crate) fn map_unrolled<S: Simd>(
        &mut self,
        simd: S,
        f: impl Fn([Lanes<S, T>; simd::MAP_UNROLL]) -> [Lanes<S, T>; simd::MAP_UNROLL],
    ) {
        let lanes = Lanes::<S, T>::LEN;
        let non_temporal = self.non_temporal && stores::can_store_nt::<S, U>();
        let mut input = [T::ZERO; simd::MAP_UNROLL * MAX_LANES];
        let mut output = [U::ZERO; simd::MAP_UNROLL * MAX_LANES];
        let mut index = 0;
        let mut count = if non_temporal { stores::until_aligned::<S, U>(self.target) } else { 0 };
        while index < self.len {
            if count == 0 {
                count = simd::MAP_UNROLL * lanes;
            }
            count = count.min(self.len - index);
            let whole = count == simd::MAP_UNROLL * lanes;
            // SAFETY: index + count <= self.len; less than a block goes by way of `input` and `output`, which hold one;
            // what is stored non-temporally is aligned, since the first block ends where the target is.
            unsafe {
                let source = if whole {
                    self.source.add(index)
                } else {
                    for part in 0..count {
                        input[part] = *self.source.add(index + part);
                    }
                    input.as_ptr()
                };
                let mut vectors = [Lanes::<S, T>::splat(simd, T::Acc::from_f64(0.0)); simd::MAP_UNROLL];
                for (part, vector) in vectors.iter_mut().enumerate() {
                    *vector = T::load(simd, slice::from_raw_parts(source.add(part * lanes), lanes));
                }
                let results = f(vectors);
                if whole && non_temporal {
                    for part in 0..simd::MAP_UNROLL {
                        stores::store_nt::<S, U>(results[part], self.target.add(index + part * lanes));
                    }
                } else {
                    let target = if whole { self.target.add(index) } else { output.as_mut_ptr() };
                    for part in 0..simd::MAP_UNROLL {
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
    pub(crate) fn zip_map<S: Simd, B: ZipRows<S, T::Acc>>(
        &mut self,
        simd: S,
        beside: B,
        f: impl Fn(Lanes<S, T>, B::Vectors) -> Lanes<S, T>,
    ) {
        let lanes = Lanes::<S, T>::LEN;
        // Shorter rows than asked for cannot happen: operations check shapes. Here they would cut the work short.
        let len = beside.len(self.len);
        debug_assert_eq!(len, self.len, "a row beside is shorter");
        let at = inlined(
            #[inline(always)]
            |this: &Self, index: usize| {
                // SAFETY: only called with index + lanes <= len, and each row has at least len elements.
                unsafe { f(this.load(simd, index), beside.load(simd, index)) }
            },
        );
        // SAFETY: each index is at most len - lanes, each count at most len, and `non_temporal` is only called where it
        // may be.
        unsafe {
            if len < lanes {
                let result = f(pad::<S, T>(simd, self.source, len), beside.pad(simd, len));
                return self.store_first::<S>(result, len);
            }
            // Before the loop, which in place overwrites what this reads.
            let last = if len.is_multiple_of(lanes) { None } else { Some(at(self, len - lanes)) };
            let mut index = 0;
            if self.non_temporal && stores::can_store_nt::<S, U>() {
                index = stores::until_aligned::<S, U>(self.target);
                // A line that is written in the cache and past it is waited for, so the ends go past it as well.
                let first = at(self, 0);
                stores::store_nt_part::<S, U>(first, 0..index, self.target);
                while index + lanes <= len {
                    // What is to come next has time to arrive while these stores wait for memory.
                    ask_ahead(self.source, len, index);
                    stores::store_nt::<S, U>(at(self, index), self.target.add(index));
                    index += lanes;
                }
                let end = at(self, len - lanes);
                stores::store_nt_part::<S, U>(end, lanes - (len - index)..lanes, self.target.add(index));
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
    /// is fixed by the length: see [`PairwiseFold`]. `f` takes several vectors at a time, unrolled.
    #[inline(always)]
    pub(crate) fn map_sum<S: Simd>(
        &mut self,
        simd: S,
        f: impl Fn([Lanes<S, T>; simd::UNROLL]) -> [Lanes<S, T>; simd::UNROLL],
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
        let mut tree = PairwiseFold::new();
        let mut sum = tree.unrolled(
            vectors,
            zero,
            lane_fn!(|vector| {
                let mut values = [zero; simd::UNROLL];
                ask_ahead(self.source, self.len, vector * lanes);
                ask_ahead(self.target.cast_const(), self.len, vector * lanes);
                // SAFETY: the vectors are among the whole ones.
                unsafe {
                    for part in 0..simd::UNROLL {
                        values[part] = self.load(simd, (vector + part) * lanes);
                    }
                    values = f(values);
                    for part in 0..simd::UNROLL {
                        self.store::<S>(values[part], (vector + part) * lanes);
                    }
                }
                values
            }),
            &add,
        );
        let left = vectors % simd::UNROLL;
        if left != 0 || rest != 0 {
            let first = vectors - left;
            let mut values = [last; simd::UNROLL];
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
                    let last = values[simd::UNROLL - 1];
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
            non_temporal: false,
            lifetime: PhantomData,
        }
    }

    /// The row that is read.
    #[inline(always)]
    pub(crate) fn row(&self) -> Row<'_, T> {
        Row { source: self.source, len: self.len, lifetime: PhantomData }
    }
}

impl<T: Float> InOut<'_, T> {
    /// The row that is written, over itself.
    #[inline(always)]
    pub(crate) fn in_place(&mut self) -> InOut<'_, T> {
        InOut { source: self.target, non_temporal: false, lifetime: PhantomData, ..*self }
    }

    /// Replaces each element x by f(x), one by one: for functions that know nothing of vectors.
    #[inline(always)]
    pub(crate) fn map_each(&mut self, f: impl Fn(T) -> T) {
        if core::ptr::eq(self.source, self.target) {
            // SAFETY: `len` elements that are ours alone, and through one pointer: `f` sees copies.
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

/// A buffer for one row in the compute type, for kernels whose values between two passes must not be rounded: a few
/// kilobytes of the stack, and for longer rows what is lent to it.
#[derive(Debug)]
pub(crate) struct RowBuffer<'a, C> {
    on_stack: OnStack<C>,
    lent: &'a mut [Line],
}

/// The part of [`RowBuffer`] on the stack, of which callers' threads may have little.
#[cfg(feature = "std")]
type OnStack<C> = (MaybeUninit<[Line; 8192 / size_of::<Line>()]>, PhantomData<C>);
#[cfg(not(feature = "std"))]
type OnStack<C> = (MaybeUninit<[C; MAX_BUFFERED]>, PhantomData<C>);

/// What [`RowBuffer::split`] makes of a row.
#[derive(Debug)]
pub(crate) enum SplitRow<'a, T: Float> {
    /// The row on its way into its compute type, and on its way from there to where it goes.
    Buffered { widened: InOut<'a, T, T::Acc>, narrowing: InOut<'a, T::Acc, T> },
    /// The row itself, which is too long for a buffer.
    TooLong(InOut<'a, T>),
}

/// The longest row that is kept in the compute type: 16 KiB in f32, little on a microcontroller. Part of what a
/// result's bits depend on.
const MAX_BUFFERED: usize = if cfg!(feature = "std") { 4096 } else { 64 };

impl<'a, C: Compute> RowBuffer<'a, C> {
    /// With so much memory as [`InOutMatrix::buffer_bytes`] asks for, or less.
    #[inline(always)]
    pub(crate) fn new(lent: &'a mut [Line]) -> Self {
        Self { on_stack: (MaybeUninit::uninit(), PhantomData), lent }
    }

    /// Splits what is done to a row into a pass that leaves values of the compute type, and one that rounds them into
    /// the row. In between they lie in `out` itself where that is of the compute type, else in this buffer.
    ///
    /// The buffer holds nothing yet, not even zeros: `widened` must have been gone over as a whole (by `map`, `map_sum`
    /// and their like, which write each element) before `narrowing` is read. Nothing checks it but Miri; both kernels
    /// that split rows, softmax and layer norm, begin with such a pass.
    #[inline(always)]
    pub(crate) fn split<'s, T: Float<Acc = C>>(&'s mut self, row: InOut<'s, T>) -> SplitRow<'s, T> {
        let InOut { source, target, len, non_temporal, lifetime: _ } = row;
        let is_native = TypeId::of::<T>() == TypeId::of::<C>();
        let (start, bytes) = if self.lent.is_empty() {
            (self.on_stack.0.as_mut_ptr().cast::<C>(), size_of::<OnStack<C>>())
        } else {
            (self.lent.as_mut_ptr().cast(), size_of_val(self.lent))
        };
        let fits = len <= MAX_BUFFERED && len <= bytes / size_of::<C>();
        let buffer = if fits && (non_temporal || !is_native) {
            start
        } else if is_native {
            target.cast::<C>()
        } else {
            return SplitRow::TooLong(row);
        };
        // What lies in `target` for a moment is in the cache, and is overwritten there.
        let non_temporal = non_temporal && fits;
        SplitRow::Buffered {
            widened: InOut { source, target: buffer, len, non_temporal: false, lifetime: PhantomData },
            narrowing: InOut { source: buffer, target, len, non_temporal, lifetime: PhantomData },
        }
    }
}

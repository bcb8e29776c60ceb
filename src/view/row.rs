//! A row that is read, and its sums.

use crate::macros::lane_fn;
use core::marker::PhantomData;
use core::slice;

use fearless_simd::{Select, Simd, SimdBase};

use super::inlined;
use super::pairwise::{CHAIN, PairwiseFold};
use crate::float::{Compute, Float, Lanes, MAX_LANES};
use crate::simd;

/// A row that is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row<'a, T> {
    pub(super) source: *const T,
    pub(super) len: usize,
    pub(super) lifetime: PhantomData<&'a [T]>,
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
    pub(super) unsafe fn load<S: Simd>(&self, simd: S, index: usize) -> Lanes<S, T> {
        // SAFETY: the caller's promise; source is valid for reads of `len` elements.
        T::load(simd, unsafe { slice::from_raw_parts(self.source.add(index), Lanes::<S, T>::LEN) })
    }

    /// The mean of a few elements times `scale`, from all over the row.
    #[inline(always)]
    pub(crate) fn sampled_mean(&self, scale: T::Acc) -> T::Acc {
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

    /// Combines what `term` gives for each vector of the row, in an order that the length alone fixes: see
    /// [`PairwiseFold`]. Lanes past the end read as `fill`, whose term must be neutral, as `neutral` is.
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

    /// The sum of what `terms` gives for the vectors of the row, several at a time, unrolled. Lanes past
    /// the end read as `fill`, whose term must be zero.
    #[inline(always)]
    pub(crate) fn sum_unrolled<S: Simd>(
        &self,
        simd: S,
        fill: T::Acc,
        terms: impl Fn([Lanes<S, T>; simd::UNROLL]) -> [Lanes<S, T>; simd::UNROLL],
    ) -> Lanes<S, T> {
        let lanes = Lanes::<S, T>::LEN;
        let (vectors, rest) = (self.len / lanes, self.len % lanes);
        let fills = Lanes::<S, T>::splat(simd, fill);
        let add = inlined(
            #[inline(always)]
            |a: Lanes<S, T>, b: Lanes<S, T>| a + b,
        );
        let mut tree = PairwiseFold::new();
        let mut sum = tree.unrolled(
            vectors,
            Lanes::<S, T>::splat(simd, T::Acc::from_f64(0.0)),
            lane_fn!(|vector| {
                let mut values = [fills; simd::UNROLL];
                for part in 0..simd::UNROLL {
                    // SAFETY: the vectors are among the whole ones.
                    values[part] = unsafe { self.load(simd, (vector + part) * lanes) };
                }
                terms(values)
            }),
            &add,
        );
        let left = vectors % simd::UNROLL;
        if left != 0 || rest != 0 {
            let mut values = [fills; simd::UNROLL];
            for part in 0..left {
                // SAFETY: the last of the whole vectors.
                values[part] = unsafe { self.load(simd, (vectors - left + part) * lanes) };
            }
            if rest != 0 {
                values[simd::UNROLL - 1] = self.is_last(simd).select(self.last(simd), fills);
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
        PairwiseFold::fold::<{ simd::SUMS }>(
            self.len / lanes,
            neutral,
            lane_fn!(|vector| {
                if AHEAD {
                    ask_ahead(self.source, self.len, vector * lanes);
                }
                // SAFETY: vector < len / lanes.
                term(unsafe { self.load(simd, vector * lanes) })
            }),
            end,
            combine,
            chain,
        )
    }

    /// The vector that ends the row, for rows whose length is no multiple of the lanes: its first lanes were in the
    /// vector before it. Where the row is shorter than a vector, the elements come first, and zeros after them.
    #[inline(always)]
    pub(super) fn last<S: Simd>(&self, simd: S) -> Lanes<S, T> {
        let lanes = Lanes::<S, T>::LEN;
        // SAFETY: the row has a vector, or else as many elements as are asked for.
        unsafe {
            if self.len < lanes { pad::<S, T>(simd, self.source, self.len) } else { self.load(simd, self.len - lanes) }
        }
    }

    /// A mask of the lanes of [`last`](Row::last) that are in no vector before it.
    #[inline(always)]
    pub(super) fn is_last<S: Simd>(&self, simd: S) -> <Lanes<S, T> as SimdBase<S>>::Mask {
        let lanes = Lanes::<S, T>::LEN;
        let rest = self.len % lanes;
        // Lanes first..end, where first..LEN ends a row and 0..end is the whole of a short one.
        let (first, end) = if self.len < lanes { (0, rest) } else { (lanes - rest, lanes) };
        let place = Lanes::<S, T>::from_fn(simd, lane_fn!(|lane| T::Acc::from_count(lane)));
        let limit = |count: usize| Lanes::<S, T>::splat(simd, T::Acc::from_count(count));
        place.simd_ge(limit(first)) & place.simd_lt(limit(end))
    }
}

/// Asks for what will be wanted after element `index` of a row of `len`: the same place of the row that follows in
/// memory, most likely the next one, or of the next page. A CPU foresees neither: what it fetches of its own accord
/// ends with a page, and is forgotten while a row is gone over once more.
#[inline(always)]
pub(super) fn ask_ahead<T>(row: *const T, len: usize, index: usize) {
    const PAGE: usize = 4096;
    simd::prefetch(row.wrapping_add(index + len.min(PAGE / size_of::<T>().max(1))));
}

/// A vector of the first `count` elements and zeros.
///
/// # Safety
///
/// `source` is valid for reads of `count` elements.
#[inline(always)]
pub(super) unsafe fn pad<S: Simd, T: Float>(simd: S, source: *const T, count: usize) -> Lanes<S, T> {
    let mut values = [T::ZERO; MAX_LANES];
    for (index, value) in values.iter_mut().enumerate().take(count) {
        // SAFETY: the caller's promise.
        *value = unsafe { *source.add(index) };
    }
    T::load(simd, &values[..Lanes::<S, T>::LEN])
}

//! Which keys a query attends to: the public mask, the keys that one of one row selects, and the others, applied to
//! scores.

use core::ops::Range;

use fearless_simd::{Select, Simd, SimdBase};
use num_traits::Float as _;

use crate::float::{Float, Lanes, MAX_LANES};
use crate::macros::bug;
use crate::view::Matrix;

/// Which keys each query attends to, beside `causal`. A mask of one row holds for all queries, one of one column for
/// all keys.
///
/// # Examples
///
/// ```
/// use polyglot_bridge::AttentionMask;
///
/// let keys = AttentionMask::<f32>::from(&[true, true, false]);
/// let bias = AttentionMask::Add((&[0.0_f32, 0.0, f32::NEG_INFINITY]).into());
/// # let _ = (keys, bias);
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub enum AttentionMask<'a, T> {
    /// All of them.
    #[default]
    None,
    /// Those whose byte is not 0; what the others hold does not matter, were it NaN or infinite.
    Select(Matrix<'a, u8>),
    /// All of them; this is added to the scores, so that -∞ leaves a weight of 0, and a NaN in v stays one.
    Add(Matrix<'a, T>),
}

impl<'a, T> From<Matrix<'a, bool>> for AttentionMask<'a, T> {
    fn from(mask: Matrix<'a, bool>) -> Self {
        Self::Select(mask.to_bytes())
    }
}

impl<'a, T> From<&'a [bool]> for AttentionMask<'a, T> {
    fn from(mask: &'a [bool]) -> Self {
        Matrix::from(mask).into()
    }
}

impl<'a, T, const N: usize> From<&'a [bool; N]> for AttentionMask<'a, T> {
    fn from(mask: &'a [bool; N]) -> Self {
        Matrix::from(mask).into()
    }
}

/// The keys that are scored together. Part of what a result's bits depend on.
pub(super) const KEYS: usize = if cfg!(feature = "std") { 256 } else { 16 };

/// Some keys in ascending order.
#[derive(Clone, Copy, Debug)]
pub(super) enum Keys<'a> {
    Range { first: usize, count: usize },
    Selected(&'a [usize]),
}

impl<'a> Keys<'a> {
    /// The next keys from `*cursor` on, as many as a block takes, of those that a mask of one row selects.
    #[inline(always)]
    pub(super) fn next(
        cursor: &mut usize,
        total: usize,
        selection: Option<Matrix<'_, u8>>,
        buffer: &'a mut [usize; KEYS],
    ) -> Self {
        let Some(selection) = selection else {
            let first = *cursor;
            *cursor = (first + KEYS).min(total);
            return Self::Range { first, count: *cursor - first };
        };
        let mut count = 0;
        while *cursor < total && count < KEYS {
            if selection.get(0, *cursor).is_some_and(|byte| byte != 0) {
                buffer[count] = *cursor;
                count += 1;
            }
            *cursor += 1;
        }
        let selected = &buffer[..count];
        match (selected.first(), selected.last()) {
            (Some(&first), Some(&last)) if last - first + 1 == count => Self::Range { first, count },
            _ => Self::Selected(selected),
        }
    }

    pub(super) fn len(self) -> usize {
        match self {
            Self::Range { count, .. } => count,
            Self::Selected(keys) => keys.len(),
        }
    }

    pub(super) fn get(self, index: usize) -> Option<usize> {
        match self {
            Self::Range { first, count } => (index < count).then_some(first + index),
            Self::Selected(keys) => keys.get(index).copied(),
        }
    }

    /// How many of them are not after `query`.
    pub(super) fn up_to(self, query: usize) -> usize {
        match self {
            Self::Range { first, count } => (query + 1).saturating_sub(first).min(count),
            Self::Selected(keys) => keys.partition_point(|&key| key <= query),
        }
    }
}

/// Which weights of a block are 0 because a key is hidden from a query, whatever v holds there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hidden<'a> {
    pub(super) mask: Option<Matrix<'a, u8>>,
    pub(super) causal: bool,
}

impl Hidden<'_> {
    /// Whether there is anything to hide.
    pub(super) fn any(&self) -> bool {
        self.mask.is_some() || self.causal
    }

    /// How many of the first `scored` keys are not after `query`.
    #[inline(always)]
    pub(super) fn limit(&self, query: usize, keys: Keys<'_>, scored: usize) -> usize {
        if self.causal { keys.up_to(query).min(scored) } else { scored }
    }

    /// Whether the mask hides a key from a query.
    #[inline(always)]
    pub(super) fn hides(&self, query: usize, key: usize) -> bool {
        self.mask.is_some_and(|mask| mask.get(query, key) == Some(0))
    }
}

/// Applies a mask to the scores of one query and the keys from `first_key` on.
#[inline(always)]
pub(super) fn mask_row<S: Simd, T: Float>(
    simd: S,
    mask: AttentionMask<'_, T>,
    query: usize,
    first_key: usize,
    count: usize,
    scores: &mut [T::Acc],
) {
    let lanes = Lanes::<S, T>::LEN;
    for (index, target) in scores.chunks_exact_mut(lanes).enumerate().take(count.div_ceil(lanes)) {
        let scores = Lanes::<S, T>::from_slice(simd, target);
        let keys = first_key + index * lanes..first_key + (index * lanes + lanes).min(count);
        let scores = match mask {
            AttentionMask::None => scores,
            AttentionMask::Select(mask) => {
                let mask = mask.to_flags::<T::Acc>();
                let attends = load_part(simd, mask, query, keys).simd_gt(T::Acc::ZERO);
                attends.select(scores, Lanes::<S, T>::splat(simd, T::Acc::neg_infinity()))
            }
            AttentionMask::Add(mask) => scores + load_part(simd, mask, query, keys),
        };
        scores.store_slice(target);
    }
}

/// Some elements of a row, up to a vector of them, and zeros.
#[inline(always)]
fn load_part<S: Simd, T: Float>(simd: S, matrix: Matrix<'_, T>, row: usize, cols: Range<usize>) -> Lanes<S, T> {
    let lanes = Lanes::<S, T>::LEN;
    let mut whole = [T::ZERO; MAX_LANES];
    match matrix.row(row).and_then(|row| row.get(cols.clone())) {
        Some(part) if part.len() == lanes => return T::load(simd, part),
        _ => {
            for (target, col) in whole.iter_mut().zip(cols) {
                *target = matrix.get(row, col).unwrap_or_else(|| bug!(T::ZERO));
            }
        }
    }
    T::load(simd, &whole[..lanes])
}

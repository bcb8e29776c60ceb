//! The operands of one head, and what its blocks of queries need.

use super::mask::{AttentionMask, KEYS};
use crate::error::ShapeError;
use crate::float::Float;
use crate::gemm::{panel_width, problem};
use crate::view::{Matrix, MatrixMut};
#[cfg(not(feature = "std"))]
use crate::workspace::BYTES;
use crate::workspace::bytes_of;

/// The queries of a block, for which keys and values are laid out once.
pub(super) const QUERIES: usize = if cfg!(feature = "std") { 256 } else { BAND };
/// The same where there are too few heads to keep all threads busy.
pub(super) const FEW_QUERIES: usize = if cfg!(feature = "std") { 64 } else { BAND };
/// Heads times blocks of queries that keep all threads busy.
pub(super) const MANY_BLOCKS: usize = 16;
/// The queries whose scores of [`KEYS`] keys stay in the cache's first level.
pub(super) const BAND: usize = if cfg!(feature = "std") { 24 } else { 4 };
/// What a block lays out.
pub(super) const PARTS: usize = 6;
/// Where there is no allocator: the most columns of q, k and v that are laid out at once.
pub(super) const COLUMNS: usize = if cfg!(feature = "std") { isize::MAX as usize } else { 32 };

#[cfg(not(feature = "std"))]
const _: () = assert!(
    BYTES >= 8 * (2 * KEYS * COLUMNS + 2 * BAND * COLUMNS + BAND * KEYS) + 64 * (BAND + 6),
    "attention's blocks fit the workspace"
);

/// What [`attention`](crate::attention) does beside its products. The default has no mask and scales by 1 / sqrt(head
/// size).
///
/// # Examples
///
/// ```
/// use polyglot_bridge::AttentionOptions;
///
/// let options = AttentionOptions::<f32>::new().causal(true).scale(0.125).mask(&[true, false]);
/// assert_eq!(options.scale, Some(0.125));
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct AttentionOptions<'a, T: Float> {
    /// Which keys each query attends to.
    pub mask: AttentionMask<'a, T>,
    /// Whether query i attends to keys 0 to i alone.
    pub causal: bool,
    /// What scores are multiplied by, `None` for 1 / sqrt(head size).
    pub scale: Option<T::Acc>,
}

impl<T: Float> Default for AttentionOptions<'_, T> {
    fn default() -> Self {
        Self { mask: AttentionMask::None, causal: false, scale: None }
    }
}

impl<'a, T: Float> AttentionOptions<'a, T> {
    /// No mask, and the usual scale.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With this mask.
    #[must_use]
    pub fn mask(self, mask: impl Into<AttentionMask<'a, T>>) -> Self {
        Self { mask: mask.into(), ..self }
    }

    /// Whether query i attends to keys 0 to i alone.
    #[must_use]
    pub fn causal(self, causal: bool) -> Self {
        Self { causal, ..self }
    }

    /// With this scale.
    #[must_use]
    pub fn scale(self, scale: T::Acc) -> Self {
        Self { scale: Some(scale), ..self }
    }
}

/// The operands of one head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head<'a, T: Float> {
    pub(super) q: Matrix<'a, T>,
    pub(super) k: Matrix<'a, T>,
    pub(super) v: Matrix<'a, T>,
    pub(super) options: AttentionOptions<'a, T>,
    /// Whether the mask selects keys for all queries alike.
    pub(super) selects_keys: bool,
}

impl<'a, T: Float> Head<'a, T> {
    /// The operands, once their shapes fit each other and `out`.
    pub(super) fn new(
        (q, k, v): (Matrix<'a, T>, Matrix<'a, T>, Matrix<'a, T>),
        mut options: AttentionOptions<'a, T>,
        out: &MatrixMut<'_, T>,
    ) -> Result<Self, ShapeError> {
        const OP: &str = "attention";
        let shape = (q.rows(), k.rows());
        ShapeError::check(OP, "k", k.shape(), (k.rows(), q.cols()))?;
        ShapeError::check(OP, "v", v.shape(), (k.rows(), v.cols()))?;
        ShapeError::check(OP, "out", out.shape(), (q.rows(), v.cols()))?;
        let misfit = |found| ShapeError::Mismatch { op: OP, operand: "mask", found, expected: shape };
        let selects_keys = matches!(options.mask, AttentionMask::Select(mask) if mask.rows() == 1);
        options.mask = match options.mask {
            AttentionMask::None => AttentionMask::None,
            AttentionMask::Select(mask) => {
                AttentionMask::Select(mask.broadcast(shape).ok_or_else(|| misfit(mask.shape()))?)
            }
            AttentionMask::Add(mask) => AttentionMask::Add(mask.broadcast(shape).ok_or_else(|| misfit(mask.shape()))?),
        };
        Ok(Self { q, k, v, options, selects_keys })
    }

    /// The bytes that a block of so many queries lays out: queries, keys, values, scores, sums, and totals of weights.
    pub(super) fn parts(&self, rows: usize) -> [usize; PARTS] {
        let width = const { panel_width::<T::Acc>() };
        let step = self.q.cols().min(COLUMNS);
        let query_rows = if step == self.q.cols() { rows } else { BAND.min(rows) };
        let keys = KEYS.min(self.k.rows());
        let score_stride = keys.next_multiple_of(width);
        // Of a view that repeats its elements there may be more columns than there is memory.
        let numbers = |count: usize, each: usize| count.saturating_mul(each).saturating_mul(size_of::<T::Acc>());
        let values = self.v.cols().min(COLUMNS).div_ceil(width).saturating_mul(width);
        [
            numbers(query_rows, step),
            numbers(score_stride, step),
            numbers(keys, values),
            numbers(BAND.min(rows), score_stride),
            numbers(rows, values),
            numbers(rows, width),
        ]
    }

    /// The bytes of the workspace of such a block.
    pub(super) fn workspace(&self, rows: usize) -> usize {
        bytes_of(self.parts(rows))
    }

    /// About how long the head takes on one core, in nanoseconds.
    pub(super) fn nanoseconds(&self) -> f32 {
        let scores = self.q.rows().saturating_mul(self.k.rows());
        let products = scores.saturating_mul(self.q.cols().saturating_add(self.v.cols()));
        problem::nanoseconds::<T::Acc>(products) + 0.2 * scores as f32
    }
}

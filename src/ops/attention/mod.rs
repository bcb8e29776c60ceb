//! Scaled dot-product attention: shapes, masks, and the walk over blocks of keys with a softmax that is corrected on the
//! way, so that scores are never stored. The products are `gemm`'s register tiles, the exponential is `math`'s.

use core::ops::Range;

use fearless_simd::{Select, Simd, SimdBase, SimdFloat};
use num_traits::Float as _;

use crate::error::{Error, NoMemory, ShapeError};
use crate::float::{Compute, Float, Lanes, MAX_LANES};
#[cfg(feature = "std")]
use crate::gemm::micro_kernel::{Beta, FusedStore, MAX_NR, PanelLayout, TileArgs, multiply_tiles, row_tiles};
use crate::gemm::{pack, panel_width, problem};
use crate::kernel::kernel;
use crate::math;
use crate::parallel;
use crate::simd::{self, dispatch};
#[cfg(feature = "std")]
use crate::view::PanelGroup;
use crate::view::{Line, Matrix, MatrixMut, inlined};
#[cfg(not(feature = "std"))]
use crate::workspace::BYTES;
use crate::workspace::{Missing, Workspace, bytes_of, split};

/// The keys that are scored together. Part of what a result's bits depend on.
const KEYS: usize = if cfg!(feature = "std") { 256 } else { 16 };
/// The queries of a block, for which keys and values are laid out once.
const QUERIES: usize = if cfg!(feature = "std") { 256 } else { BAND };
/// The same where there are too few heads to keep all threads busy.
const FEW_QUERIES: usize = if cfg!(feature = "std") { 64 } else { BAND };
/// Heads times blocks of queries that keep all threads busy.
const MANY_BLOCKS: usize = 16;
/// The queries whose scores of [`KEYS`] keys stay in the cache's first level.
const BAND: usize = if cfg!(feature = "std") { 24 } else { 4 };
/// What a block lays out.
const PARTS: usize = 6;
/// Where there is no allocator: the most columns of q, k and v that are laid out at once.
const COLUMNS: usize = if cfg!(feature = "std") { isize::MAX as usize } else { 32 };

#[cfg(not(feature = "std"))]
const _: () = assert!(
    BYTES >= 8 * (2 * KEYS * COLUMNS + 2 * BAND * COLUMNS + BAND * KEYS) + 64 * (BAND + 6),
    "attention's blocks fit the workspace"
);

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

/// What [`attention`] does beside its products. The default has no mask and scales by 1 / sqrt(head size).
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
    q: Matrix<'a, T>,
    k: Matrix<'a, T>,
    v: Matrix<'a, T>,
    options: AttentionOptions<'a, T>,
    /// Whether the mask selects keys for all queries alike.
    picks: bool,
}

impl<'a, T: Float> Head<'a, T> {
    /// The operands, once their shapes fit each other and `out`.
    fn new(
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
        let picks = matches!(options.mask, AttentionMask::Select(mask) if mask.rows() == 1);
        options.mask = match options.mask {
            AttentionMask::None => AttentionMask::None,
            AttentionMask::Select(mask) => {
                AttentionMask::Select(mask.broadcast(shape).ok_or_else(|| misfit(mask.shape()))?)
            }
            AttentionMask::Add(mask) => AttentionMask::Add(mask.broadcast(shape).ok_or_else(|| misfit(mask.shape()))?),
        };
        Ok(Self { q, k, v, options, picks })
    }

    /// The bytes that a block of so many queries lays out: queries, keys, values, scores, sums, and totals of weights.
    fn parts(&self, rows: usize) -> [usize; PARTS] {
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
    fn room(&self, rows: usize) -> usize {
        bytes_of(self.parts(rows))
    }

    /// About how long the head takes on one core, in nanoseconds.
    fn nanoseconds(&self) -> f32 {
        let scores = self.q.rows().saturating_mul(self.k.rows());
        let products = scores.saturating_mul(self.q.cols().saturating_add(self.v.cols()));
        problem::nanoseconds::<T::Acc>(products) + 0.2 * scores as f32
    }
}

/// `out = softmax(q @ kᵀ * scale + mask) @ v`, for q of shape (queries, head size), k of shape (keys, head size), v of
/// shape (keys, value size) and out of shape (queries, value size): one head of scaled dot-product attention (Vaswani
/// et al., Attention Is All You Need, 2017).
///
/// Scores are not stored: blocks of keys are weighed one after the other, and what is summed so far is corrected when
/// a larger score turns up (Milakov and Gimelshein, Online normalizer calculation for softmax, 2018; Dao et al.,
/// FlashAttention, 2022). Memory grows with queries plus keys. All of it is computed in the compute type of `T` and
/// rounded once.
///
/// A query that attends to no key becomes zeros, and so does one whose scores are all -∞. A score of NaN or +∞ makes
/// its query's row NaN; a NaN in v reaches each query that attends to its key. A query's bits depend on its own row, k, v, the
/// mask and the CPU level; keys at the end that a mask hides from it change none of them, and neither do keys anywhere
/// that a `Select` mask of one row hides.
///
/// # Errors
///
/// [`Error::Shape`] where the shapes do not fit, or the mask has neither one row nor one a query, or neither one column
/// nor one a key; [`Error::OutOfMemory`] where there is no room to lay operands and sums out. `out` is then as it was.
///
/// # Examples
///
/// ```
/// use polyglot_bridge::{attention, AttentionOptions, Matrix, MatrixMut};
///
/// let q = Matrix::new(&[0.0_f32, 0.0], 1, 2)?;
/// let k = Matrix::new(&[1.0, 0.0, 0.0, 1.0, 5.0, 5.0], 3, 2)?;
/// let v = Matrix::new(&[1.0, 3.0, f32::NAN], 3, 1)?;
/// let mut out = [0.0];
/// attention(q, k, v, AttentionOptions::new().mask(&[true, true, false]), &mut out)?;
/// assert_eq!(out, [2.0]);
/// # Ok::<(), polyglot_bridge::Error>(())
/// ```
pub fn attention<'a, T: Float>(
    q: impl Into<Matrix<'a, T>>,
    k: impl Into<Matrix<'a, T>>,
    v: impl Into<Matrix<'a, T>>,
    options: AttentionOptions<'a, T>,
    out: impl Into<MatrixMut<'a, T>>,
) -> Result<(), Error> {
    let mut out = out.into();
    let head = Head::new((q.into(), k.into(), v.into()), options, &out)?;
    let rows = out.rows();
    if rows == 0 || out.cols() == 0 {
        return Ok(());
    }
    let block = block_rows(1, rows);
    let cost = head.nanoseconds() / rows as f32;
    let cols = out.cols();
    // One block has what it needs before it writes.
    let bytes = if rows > block { head.room(block) } else { 0 };
    let missing = Missing::default();
    parallel::for_each_tile_with(
        out.reborrow(),
        (block, cols),
        cost * block as f32,
        // For all blocks, before the first is written.
        &mut Workspace::hold(bytes)?,
        || Workspace::hold(bytes).ok(),
        |workspace, rows, _, out| missing.note(Attend::run(&head, rows.start, out, workspace)),
    );
    Ok(missing.result()?)
}

/// `count` heads: `item(i)` gives q, k, v, what else there is and out of the i-th, as for [`attention`]. It is called
/// more than once for each i, and from several threads; the outs must not overlap. Heads may differ in shape.
///
/// # Errors
///
/// [`Error::Shape`] where the shapes of a head do not fit, [`Error::OutOfMemory`] where there is no room to lay operands and
/// sums out; no `out` is then written.
pub fn attention_batch<'a, T: Float>(
    count: usize,
    item: impl Fn(usize) -> ([Matrix<'a, T>; 3], AttentionOptions<'a, T>, MatrixMut<'a, T>) + Sync,
) -> Result<(), Error> {
    let head = |index: usize| {
        let ([q, k, v], options, out) = item(index);
        Head::new((q, k, v), options, &out).map(|head| (head, out))
    };
    let (mut most_rows, mut cost, mut bytes) = (0, 0.0, 0);
    for index in 0..count {
        let (head, out) = head(index)?;
        if out.rows() > 0 && out.cols() > 0 {
            most_rows = most_rows.max(out.rows());
            cost += head.nanoseconds();
            bytes = bytes.max(head.room(out.rows().min(QUERIES)));
        }
    }
    let block = block_rows(count, most_rows);
    let blocks = most_rows.div_ceil(block);
    let tasks = count.saturating_mul(blocks);
    let missing = Missing::default();
    parallel::for_each_block_with(
        tasks,
        1,
        cost / tasks.max(1) as f32,
        // For all heads, before the first is written.
        &mut Workspace::hold(bytes)?,
        || Workspace::hold(bytes).ok(),
        |workspace, tasks| {
            for task in tasks {
                let start = task % blocks * block;
                if let Ok((head, mut out)) = head(task / blocks)
                    && start < out.rows()
                    && out.cols() > 0
                {
                    let cols = out.cols();
                    let out = out.block_mut(start..start + block, 0..cols);
                    missing.note(Attend::run(&head, start, out, workspace));
                }
            }
        },
    );
    Ok(missing.result()?)
}

/// The queries of each block of `count` heads of up to `rows` queries.
fn block_rows(count: usize, rows: usize) -> usize {
    let blocks = rows.div_ceil(QUERIES).max(1);
    let most = if count.saturating_mul(blocks) < MANY_BLOCKS { FEW_QUERIES } else { QUERIES };
    rows.div_ceil(rows.div_ceil(most).max(1)).max(1)
}

kernel! {
    Attend<T>(head: &'a Head<'a, T>, start: usize, out: MatrixMut<'a, T>, workspace: &'a mut Workspace)
        -> Result<(), NoMemory> = attend
}

/// Computes a block of queries of a head, those from `start` on, into `out`.
fn attend<T: Float>(
    head: &Head<'_, T>,
    start: usize,
    out: MatrixMut<'_, T>,
    workspace: &mut Workspace,
) -> Result<(), NoMemory> {
    let level = simd::level();
    let parts = head.parts(out.rows());
    workspace.lend(bytes_of(parts), |lines| {
        dispatch!(level, simd => block(simd, head, start, out, split(lines, parts)));
    })
}

/// Some keys in ascending order.
#[derive(Clone, Copy, Debug)]
enum Keys<'a> {
    Range { first: usize, count: usize },
    Picked(&'a [usize]),
}

impl<'a> Keys<'a> {
    /// The next keys from `*cursor` on, as many as a block takes, of those that a mask of one row leaves.
    #[inline(always)]
    fn next(cursor: &mut usize, total: usize, kept: Option<Matrix<'_, u8>>, room: &'a mut [usize; KEYS]) -> Self {
        let Some(kept) = kept else {
            let first = *cursor;
            *cursor = (first + KEYS).min(total);
            return Self::Range { first, count: *cursor - first };
        };
        let mut count = 0;
        while *cursor < total && count < KEYS {
            if kept.get(0, *cursor).is_some_and(|byte| byte != 0) {
                room[count] = *cursor;
                count += 1;
            }
            *cursor += 1;
        }
        let picked = &room[..count];
        match (picked.first(), picked.last()) {
            (Some(&first), Some(&last)) if last - first + 1 == count => Self::Range { first, count },
            _ => Self::Picked(picked),
        }
    }

    fn len(self) -> usize {
        match self {
            Self::Range { count, .. } => count,
            Self::Picked(keys) => keys.len(),
        }
    }

    fn get(self, index: usize) -> Option<usize> {
        match self {
            Self::Range { first, count } => (index < count).then_some(first + index),
            Self::Picked(keys) => keys.get(index).copied(),
        }
    }

    /// How many of them are not after `query`.
    fn up_to(self, query: usize) -> usize {
        match self {
            Self::Range { first, count } => (query + 1).saturating_sub(first).min(count),
            Self::Picked(keys) => keys.partition_point(|&key| key <= query),
        }
    }
}

/// What each query is at: the largest score so far, and the sum of its weights relative to that, a vector of parts.
#[derive(Debug)]
struct Running<'a, C> {
    largest: &'a mut [C],
    totals: &'a mut [C],
}

/// Which weights of a block are 0 because a key is hidden from a query, whatever v holds there.
#[derive(Clone, Copy, Debug)]
struct Hidden<'a> {
    kept: Option<Matrix<'a, u8>>,
    causal: bool,
}

#[inline(always)]
fn block<S: Simd, T: Float>(
    simd: S,
    head: &Head<'_, T>,
    start: usize,
    mut out: MatrixMut<'_, T>,
    [query_lines, key_lines, value_lines, score_lines, sum_lines, total_lines]: [&mut [Line]; PARTS],
) {
    let Head { q, k, v, options, picks } = *head;
    let lanes = Lanes::<S, T>::LEN;
    let width = const { panel_width::<T::Acc>() };
    let zero = Lanes::<S, T>::splat(simd, T::Acc::ZERO);
    let (rows, depth, cols) = (out.rows(), q.cols(), v.cols());
    let scale = options.scale.unwrap_or_else(|| T::Acc::from_f64(depth as f64).sqrt().recip());
    // A mask of one row picks keys before anything is computed; another is applied to scores.
    let (picking, kept) = match options.mask {
        AttentionMask::Select(mask) if picks => (Some(mask), None),
        AttentionMask::Select(mask) => (None, Some(mask)),
        _ => (None, None),
    };
    let hidden = Hidden { kept, causal: options.causal };
    let step = depth.min(COLUMNS);
    let laid_out_once = step == depth;
    let most_cols = cols.min(COLUMNS);
    let score_stride = KEYS.min(k.rows()).next_multiple_of(width);
    let queries = Line::numbers::<T::Acc>(query_lines);
    let keys_across = Line::numbers::<T::Acc>(key_lines);
    let values = Line::numbers::<T::Acc>(value_lines);
    let scores = Line::numbers::<T::Acc>(score_lines);
    let sums = Line::numbers::<T::Acc>(sum_lines);
    let totals = Line::numbers::<T::Acc>(total_lines);
    if laid_out_once {
        lay_out_queries(simd, q.block(start..start + rows, 0..depth), scale, queries);
    }
    for first_col in (0..cols).step_by(most_cols) {
        let col_range = first_col..(first_col + most_cols).min(cols);
        let panels = col_range.len().div_ceil(width);
        let sum_stride = panels * width;
        let mut largest = [T::Acc::neg_infinity(); QUERIES];
        totals.fill(T::Acc::ZERO);
        sums.fill(T::Acc::ZERO);
        let running = Running { largest: &mut largest, totals };
        let (mut cursor, mut is_first) = (0, true);
        while cursor < k.rows() {
            let mut room = [0; KEYS];
            let keys = Keys::next(&mut cursor, k.rows(), picking, &mut room);
            let Some(first_key) = keys.get(0) else { break };
            if options.causal && first_key >= start + rows {
                break;
            }
            let panel_len = keys.len() * width;
            lay_out(simd, v, keys, col_range.clone(), false, values);
            if laid_out_once {
                lay_out(simd, k, keys, 0..depth, true, keys_across);
            }
            let poisoned = (kept.is_some() || options.causal)
                && is_poisoned::<S, T::Acc>(simd, values.get(..panels * panel_len).unwrap_or(&[]));
            let mut row = 0;
            for band in bands(rows) {
                let first_query = start + row;
                // The keys that the last query of the band sees are all that any of them sees.
                let seen = if options.causal { keys.up_to(first_query + band - 1) } else { keys.len() };
                if seen > 0 {
                    let mut first_step = 0;
                    loop {
                        let steps = first_step..(first_step + step).min(depth);
                        let part = if laid_out_once {
                            queries.get(row * depth..).unwrap_or(&[])
                        } else {
                            let q = q.block(first_query..first_query + band, steps.clone());
                            lay_out_queries(simd, q, scale, queries);
                            lay_out(simd, k, keys, steps.clone(), true, keys_across);
                            &*queries
                        };
                        let Ok(x) = Matrix::new(part, band, steps.len()) else { return };
                        let panels = Panels { numbers: &*keys_across, len: steps.len() * width };
                        score::<S, T::Acc>(simd, x, panels, (&mut *scores, score_stride), (seen, first_step == 0));
                        if steps.end >= depth {
                            break;
                        }
                        first_step = steps.end;
                    }
                    if !matches!((options.mask, picking), (AttentionMask::None, _) | (_, Some(_))) {
                        for (index, scores) in scores.chunks_mut(score_stride).enumerate().take(band) {
                            mask_row::<S, T>(simd, options.mask, first_query + index, first_key, seen, scores);
                        }
                    }
                    let running =
                        Running { largest: &mut running.largest[row..], totals: &mut running.totals[row * lanes..] };
                    let values = Panels { numbers: &*values, len: panel_len };
                    let block = ScoredBlock { first_query, band, seen, keys, hidden, is_first, poisoned };
                    let sums = sums.get_mut(row * sum_stride..).unwrap_or(&mut []);
                    add_weighed::<S, T::Acc>(simd, block, (scores, score_stride), running, values, (sums, panels));
                }
                row += band;
            }
            is_first = false;
        }
        for row in 0..rows {
            let Some(total) = running.totals.get(row * lanes..(row + 1) * lanes) else { return };
            let total = Lanes::<S, T>::from_slice(simd, total).reduce_sum();
            // No weight at all: nothing was attended to.
            let nothing = total == T::Acc::ZERO;
            let factor = total.recip();
            let Some(target) = out.row_mut(row).and_then(|row| row.get_mut(col_range.clone())) else { return };
            let sums = sums.get(row * sum_stride..).unwrap_or(&[]);
            for (sum, target) in sums.chunks_exact(lanes).zip(target.chunks_mut(lanes)) {
                let value = if nothing { zero } else { Lanes::<S, T>::from_slice(simd, sum) * factor };
                if target.len() == lanes {
                    T::store::<S>(value, target);
                } else {
                    let mut whole = [T::ZERO; MAX_LANES];
                    T::store::<S>(value, &mut whole[..lanes]);
                    target.copy_from_slice(&whole[..target.len()]);
                }
            }
        }
    }
}

/// How many queries each band of a block has: as even as can be.
#[inline(always)]
fn bands(rows: usize) -> impl Iterator<Item = usize> {
    problem::even_split(rows, BAND).into_iter().flat_map(|(count, len)| core::iter::repeat_n(len, count))
}

/// Lays out queries row after row in the compute type, times `scale`.
#[inline(always)]
fn lay_out_queries<S: Simd, T: Float>(simd: S, q: Matrix<'_, T>, scale: T::Acc, target: &mut [T::Acc]) {
    let lanes = Lanes::<S, T>::LEN;
    let (rows, cols) = q.shape();
    pack::pack_a(simd, q, target);
    let target = target.get_mut(..rows * cols).unwrap_or(&mut []);
    let mut parts = target.chunks_exact_mut(lanes);
    for part in parts.by_ref() {
        (Lanes::<S, T>::from_slice(simd, part) * scale).store_slice(part);
    }
    for value in parts.into_remainder() {
        *value *= scale;
    }
}

/// Lays out columns of some keys' rows in panels: of the keys side by side where `across`, else of the columns.
#[inline(always)]
fn lay_out<S: Simd, T: Float>(
    simd: S,
    source: Matrix<'_, T>,
    keys: Keys<'_>,
    cols: Range<usize>,
    across: bool,
    panels: &mut [T::Acc],
) {
    let width = const { panel_width::<T::Acc>() };
    match keys {
        Keys::Range { first, count } => {
            let part = source.block(first..first + count, cols);
            let part = if across { part.transpose() } else { part };
            let len = part.cols().div_ceil(width) * width * part.rows();
            pack::pack_b(simd, part, panels.get_mut(..len).unwrap_or(&mut []));
        }
        Keys::Picked(picked) => {
            let (steps, len) = if across { (cols.len(), picked.len()) } else { (picked.len(), cols.len()) };
            for (panel, target) in panels.chunks_exact_mut((steps * width).max(1)).enumerate().take(len.div_ceil(width))
            {
                for (step, target) in target.chunks_exact_mut(width).enumerate() {
                    for (lane, target) in target.iter_mut().enumerate() {
                        let place = panel * width + lane;
                        let (key, col) = if across { (place, step) } else { (step, place) };
                        let value = picked.get(key).and_then(|&key| source.get(key, cols.start + col));
                        *target = value.filter(|_| col < cols.len()).map_or(T::Acc::ZERO, T::to_acc);
                    }
                }
            }
        }
    }
}

/// Whether a NaN or an infinity is among these numbers.
#[inline(always)]
fn is_poisoned<S: Simd, C: Compute>(simd: S, numbers: &[C]) -> bool {
    let zero = C::Lanes::<S>::splat(simd, C::ZERO);
    let mut sum = zero;
    for part in numbers.chunks_exact(C::Lanes::<S>::LEN) {
        sum = C::Lanes::<S>::from_slice(simd, part).mul_add(zero, sum);
    }
    sum.reduce_sum().is_nan()
}

/// Numbers in panels.
#[derive(Debug)]
struct Panels<N> {
    numbers: N,
    /// From a panel to the next.
    len: usize,
}

/// Writes the scores of queries `x` and the first `seen` keys, or adds to them where this is not the first part of x.
#[cfg(feature = "std")]
#[inline(always)]
fn score<S: Simd, C: Compute>(
    simd: S,
    x: Matrix<'_, C>,
    keys: Panels<&[C]>,
    (scores, stride): (&mut [C], usize),
    (seen, _): (usize, bool),
) {
    let width = const { panel_width::<C>() };
    let level = simd.level();
    let (rows, steps) = x.shape();
    let bias = [C::ZERO; MAX_NR];
    let Ok(mut scores) = MatrixMut::with_stride(scores, rows, stride, stride) else { return };
    let panels = seen.div_ceil(width);
    for rows in row_tiles::<C>(level, 0..rows) {
        for (panel, count) in rows.panel_groups(0..panels, PanelLayout::Packed) {
            let cols = panel * width..(panel + count) * width;
            let numbers = keys.numbers.get(panel * keys.len..).unwrap_or(&[]);
            let Some(strip) = PanelGroup::packed(numbers, (count, keys.len), steps, width) else { return };
            let store = FusedStore { bias: &bias, relu: false, out: scores.block_mut(rows.range(), cols) };
            let run = TileArgs {
                x: x.block(rows.range(), 0..steps),
                sums: &mut [],
                stride: 0,
                beta: Beta::Zero,
                store: Some(store),
            };
            multiply_tiles(level, (rows.mr, count), strip, run);
        }
    }
}

/// Writes the scores of queries `x` and the first `seen` keys, or adds to them where this is not the first part of x.
#[cfg(not(feature = "std"))]
#[inline(always)]
fn score<S: Simd, C: Compute>(
    simd: S,
    x: Matrix<'_, C>,
    keys: Panels<&[C]>,
    (scores, stride): (&mut [C], usize),
    (seen, first): (usize, bool),
) {
    let width = const { panel_width::<C>() };
    for (row, scores) in scores.chunks_exact_mut(stride.max(1)).enumerate().take(x.rows()) {
        for (panel, scores) in scores.chunks_exact_mut(width).enumerate().take(seen.div_ceil(width)) {
            let panel = keys.numbers.get(panel * keys.len..).unwrap_or(&[]);
            add_row(simd, x.row(row).unwrap_or(&[]), panel, scores, first);
        }
    }
}

/// Adds weights times values to `sums`, or writes it there where these are the first keys.
#[cfg(feature = "std")]
#[inline(always)]
fn weigh_values<S: Simd, C: Compute>(
    simd: S,
    weights: Matrix<'_, C>,
    values: Panels<&[C]>,
    (sums, panels): (&mut [C], usize),
    first: bool,
) {
    let width = const { panel_width::<C>() };
    let level = simd.level();
    let (rows, steps) = weights.shape();
    let stride = panels * width;
    let beta = if first { Beta::Zero } else { Beta::One };
    for rows in row_tiles::<C>(level, 0..rows) {
        for (panel, count) in rows.panel_groups(0..panels, PanelLayout::Packed) {
            let numbers = values.numbers.get(panel * values.len..).unwrap_or(&[]);
            let Some(strip) = PanelGroup::packed(numbers, (count, values.len), steps, width) else { return };
            let Some(sums) = sums.get_mut(rows.range().start * stride + panel * width..) else { return };
            let run = TileArgs { x: weights.block(rows.range(), 0..steps), sums, stride, beta, store: None };
            multiply_tiles(level, (rows.mr, count), strip, run);
        }
    }
}

/// Adds weights times values to `sums`, or writes it there where these are the first keys.
#[cfg(not(feature = "std"))]
#[inline(always)]
fn weigh_values<S: Simd, C: Compute>(
    simd: S,
    weights: Matrix<'_, C>,
    values: Panels<&[C]>,
    (sums, panels): (&mut [C], usize),
    first: bool,
) {
    let width = const { panel_width::<C>() };
    for panel in 0..panels {
        let numbers = values.numbers.get(panel * values.len..).unwrap_or(&[]);
        for row in 0..weights.rows() {
            let start = (row * panels + panel) * width;
            let Some(sums) = sums.get_mut(start..start + width) else { return };
            add_row(simd, weights.row(row).unwrap_or(&[]), numbers, sums, first);
        }
    }
}

/// One row times one panel.
#[cfg(not(feature = "std"))]
#[inline(always)]
fn add_row<S: Simd, C: Compute>(simd: S, x: &[C], panel: &[C], sums: &mut [C], first: bool) {
    let (lanes, width) = (C::Lanes::<S>::LEN, const { panel_width::<C>() });
    for (vector, target) in sums.chunks_exact_mut(lanes).enumerate() {
        let mut sum = C::Lanes::<S>::splat(simd, C::ZERO);
        for (&value, columns) in x.iter().zip(panel.chunks_exact(width)) {
            let Some(columns) = columns.get(vector * lanes..(vector + 1) * lanes) else { return };
            sum = C::Lanes::<S>::splat(simd, value).mul_add(C::Lanes::<S>::from_slice(simd, columns), sum);
        }
        let sum = if first { sum } else { C::Lanes::<S>::from_slice(simd, target) + sum };
        sum.store_slice(target);
    }
}

/// Applies a mask to the scores of one query and the keys from `first_key` on.
#[inline(always)]
fn mask_row<S: Simd, T: Float>(
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
                let kept = load_part(simd, mask, query, keys).simd_gt(T::Acc::ZERO);
                kept.select(scores, Lanes::<S, T>::splat(simd, T::Acc::neg_infinity()))
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
    let mut room = [T::ZERO; MAX_LANES];
    match matrix.row(row).and_then(|row| row.get(cols.clone())) {
        Some(part) if part.len() == lanes => return T::load(simd, part),
        _ => {
            for (target, col) in room.iter_mut().zip(cols) {
                *target = matrix.get(row, col).unwrap_or(T::ZERO);
            }
        }
    }
    T::load(simd, &room[..lanes])
}

/// A band of queries whose scores with a block of keys are there.
#[derive(Clone, Copy, Debug)]
struct ScoredBlock<'a> {
    first_query: usize,
    band: usize,
    /// The keys, counted from the first, that were scored.
    seen: usize,
    keys: Keys<'a>,
    hidden: Hidden<'a>,
    is_first: bool,
    poisoned: bool,
}

impl ScoredBlock<'_> {
    /// How many of the scored keys a query of the band may see.
    #[inline(always)]
    fn limit(&self, query: usize) -> usize {
        if self.hidden.causal { self.keys.up_to(query).min(self.seen) } else { self.seen }
    }
}

/// Turns scores into weights and adds the values that they weigh to `sums`. A function of its own, as all storage types
/// share it.
#[inline(never)]
fn add_weighed<S: Simd, C: Compute>(
    simd: S,
    block: ScoredBlock<'_>,
    scores: (&mut [C], usize),
    running: Running<'_, C>,
    values: Panels<&[C]>,
    sums: (&mut [C], usize),
) {
    simd.vectorize(
        #[inline(always)]
        || add_weighed_here::<S, C>(simd, block, scores, running, values, sums),
    );
}

#[inline(always)]
fn add_weighed_here<S: Simd, C: Compute>(
    simd: S,
    block: ScoredBlock<'_>,
    (scores, stride): (&mut [C], usize),
    running: Running<'_, C>,
    values: Panels<&[C]>,
    (sums, panels): (&mut [C], usize),
) {
    let (lanes, width) = (C::Lanes::<S>::LEN, const { panel_width::<C>() });
    // Whole panels of what was scored: the rest is not read.
    let len = block.seen.div_ceil(width) * width;
    // Each of these loops is over all rows, so that none waits for the last step of the row before.
    let mut settled = [(C::ZERO, C::ZERO); BAND];
    for (row, (settled, largest)) in settled.iter_mut().zip(running.largest.iter_mut()).enumerate().take(block.band) {
        let Some(scores) = scores.get_mut(row * stride..row * stride + len) else { return };
        *settled = settle::<S, C>(simd, scores, block.limit(block.first_query + row), largest);
    }
    for (row, &(anchor, factor)) in settled.iter().enumerate().take(block.band) {
        let total = running.totals.get_mut(row * lanes..(row + 1) * lanes);
        let (Some(scores), Some(total)) = (scores.get_mut(row * stride..row * stride + len), total) else { return };
        weigh::<S, C>(simd, scores, anchor, factor, total);
        if !block.is_first && factor != C::from_f64(1.0) {
            let sums = sums.get_mut(row * panels * width..(row + 1) * panels * width).unwrap_or(&mut []);
            for part in sums.chunks_exact_mut(lanes) {
                (C::Lanes::<S>::from_slice(simd, part) * factor).store_slice(part);
            }
        }
    }
    let Ok(weights) = Matrix::with_strides(&*scores, block.band, block.seen, stride, 1) else { return };
    if block.poisoned {
        add_seen::<S, C>(simd, block, weights, values, (sums, panels));
    } else {
        weigh_values::<S, C>(simd, weights, values, (sums, panels), block.is_first);
    }
}

/// Updates the largest score of a query by its first `limit` ones, and hides those past them. Returns what the scores are
/// to be taken relative to, and what was summed before is to be multiplied by.
#[inline(always)]
fn settle<S: Simd, C: Compute>(simd: S, scores: &mut [C], limit: usize, largest: &mut C) -> (C, C) {
    let lanes = C::Lanes::<S>::LEN;
    let least = C::Lanes::<S>::splat(simd, C::neg_infinity());
    if let Some(past) = scores.get_mut(limit..) {
        past.fill(C::neg_infinity());
    }
    // A NaN may get lost in these; the sum of weights is NaN then, whatever is taken for the largest.
    let mut most = [least; 2];
    for pair in scores.chunks_exact(2 * lanes) {
        most[0] = most[0].max(C::Lanes::<S>::from_slice(simd, &pair[..lanes]));
        most[1] = most[1].max(C::Lanes::<S>::from_slice(simd, &pair[lanes..]));
    }
    if let Some(odd) = odd_vector(scores, lanes) {
        most[0] = most[0].max(C::Lanes::<S>::from_slice(simd, odd));
    }
    let former = *largest;
    *largest = most[0].max(most[1]).reduce_max().max(former);
    let anchor = if *largest == C::neg_infinity() { C::ZERO } else { *largest };
    let factor = if *largest == former {
        C::from_f64(1.0)
    } else if former == C::neg_infinity() {
        C::ZERO
    } else {
        let factors = math::exp_nonpositive::<S, C>(simd, C::Lanes::<S>::splat(simd, former - anchor));
        factors.as_slice().first().copied().unwrap_or(C::ZERO)
    };
    (anchor, factor)
}

/// Turns scores of a query into weights, relative to `anchor`, and adds them to `total` times `factor`.
#[inline(always)]
fn weigh<S: Simd, C: Compute>(simd: S, scores: &mut [C], anchor: C, factor: C, total: &mut [C]) {
    const TOGETHER: usize = simd::MAP_UNROLL;
    let lanes = C::Lanes::<S>::LEN;
    let anchor = C::Lanes::<S>::splat(simd, anchor);
    let hidden = C::Lanes::<S>::splat(simd, C::neg_infinity());
    let mut parts = [C::Lanes::<S>::splat(simd, C::ZERO); TOGETHER];
    let mut weights_of = inlined(
        #[inline(always)]
        |mut vectors: [C::Lanes<S>; TOGETHER]| {
            for vector in &mut vectors {
                *vector -= anchor;
            }
            let weights = math::wide::exp_nonpositive::<S, C, TOGETHER>(math::Unrolled::new(simd, vectors)).lanes();
            for index in 0..TOGETHER {
                parts[index] += weights[index];
            }
            weights
        },
    );
    let mut whole = scores.chunks_exact_mut(TOGETHER * lanes);
    for few in whole.by_ref() {
        let mut vectors = [hidden; TOGETHER];
        for index in 0..TOGETHER {
            vectors[index] = C::Lanes::<S>::from_slice(simd, &few[index * lanes..(index + 1) * lanes]);
        }
        let weights = weights_of(vectors);
        for index in 0..TOGETHER {
            weights[index].store_slice(&mut few[index * lanes..(index + 1) * lanes]);
        }
    }
    let rest = whole.into_remainder();
    if !rest.is_empty() {
        let mut vectors = [hidden; TOGETHER];
        for (vector, scores) in vectors.iter_mut().zip(rest.chunks_exact(lanes)) {
            *vector = C::Lanes::<S>::from_slice(simd, scores);
        }
        let weights = weights_of(vectors);
        for (weights, scores) in weights.iter().zip(rest.chunks_exact_mut(lanes)) {
            weights.store_slice(scores);
        }
    }
    let mut sum = C::Lanes::<S>::splat(simd, C::ZERO);
    for part in parts {
        sum += part;
    }
    let total_before = C::Lanes::<S>::from_slice(simd, total);
    total_before.mul_add(C::Lanes::<S>::splat(simd, factor), sum).store_slice(total);
}

/// The last vector of an odd number of them.
#[inline(always)]
fn odd_vector<C>(scores: &[C], lanes: usize) -> Option<&[C]> {
    let pairs = scores.len() / (2 * lanes) * (2 * lanes);
    scores.get(pairs..).filter(|rest| !rest.is_empty())
}

/// [`weigh_values`] for values among which is a NaN or an infinity, which must not reach queries that the key is
/// hidden from: 0 times it is NaN.
#[inline(never)]
fn add_seen<S: Simd, C: Compute>(
    simd: S,
    block: ScoredBlock<'_>,
    weights: Matrix<'_, C>,
    values: Panels<&[C]>,
    (sums, panels): (&mut [C], usize),
) {
    let width = panel_width::<C>();
    simd.vectorize(
        #[inline(always)]
        || {
            let lanes = C::Lanes::<S>::LEN;
            for (row, panel) in (0..block.band).flat_map(|row| (0..panels).map(move |panel| (row, panel))) {
                let query = block.first_query + row;
                let start = (row * panels + panel) * width;
                let Some(targets) = sums.get_mut(start..start + width) else { return };
                for (vector, target) in targets.chunks_exact_mut(lanes).enumerate() {
                    let mut sum = C::Lanes::<S>::splat(simd, C::ZERO);
                    for index in 0..block.limit(query) {
                        let key = block.keys.get(index).unwrap_or(0);
                        if block.hidden.kept.is_some_and(|kept| kept.get(query, key) == Some(0)) {
                            continue;
                        }
                        let first = panel * values.len + index * width + vector * lanes;
                        let Some(part) = values.numbers.get(first..first + lanes) else { return };
                        let weight = C::Lanes::<S>::splat(simd, weights.get(row, index).unwrap_or(C::ZERO));
                        sum = weight.mul_add(C::Lanes::<S>::from_slice(simd, part), sum);
                    }
                    let sum = if block.is_first { sum } else { C::Lanes::<S>::from_slice(simd, target) + sum };
                    sum.store_slice(target);
                }
            }
        },
    );
}

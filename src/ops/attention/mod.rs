//! Scaled dot-product attention: what it is called with, and its blocks of queries. [`block`] walks over the keys of
//! one with a softmax that is corrected on the way ([`online_softmax`]), so that scores are never stored; [`mask`] says
//! who sees what. The products are `gemm`'s, the exponential is `math`'s.

mod block;
mod head;
mod mask;
mod online_softmax;

pub use head::AttentionOptions;
pub use mask::AttentionMask;

use head::{FEW_QUERIES, Head, MANY_BLOCKS, QUERIES};

use crate::error::{Error, NoMemory};
use crate::float::Float;
use crate::kernel::kernel;
use crate::parallel;
use crate::simd::{self, dispatch};
use crate::view::{Matrix, MatrixMut};
use crate::workspace::{Missing, Workspace, bytes_of, split};

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
/// its query's row NaN; a NaN in v reaches each query that attends to its key. A query's bits depend on its own row, k,
/// v, the mask and the CPU level; keys at the end that a mask hides from it change none of them, and neither do keys
/// anywhere that a `Select` mask of one row hides.
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
    let bytes = if rows > block { head.workspace(block) } else { 0 };
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
/// [`Error::Shape`] where the shapes of a head do not fit, [`Error::OutOfMemory`] where there is no room to lay
/// operands and sums out; no `out` is then written.
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
            bytes = bytes.max(head.workspace(out.rows().min(QUERIES)));
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
        dispatch!(level, simd => block::attend(simd, head, start, out, split(lines, parts)));
    })
}

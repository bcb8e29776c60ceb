//! How work is cut into blocks for threads: by its shape and cost alone.

use core::ops::Range;

/// Work below this many nanoseconds is one range: even a thread that is awake and looking takes half a microsecond, and
/// costs were estimated on a CPU that takes three times as long as some.
pub(super) const SMALLEST_SPLIT: f32 = 12_000.0;
/// The bounds of a block's cost in nanoseconds: above what claiming it costs, a few tens of nanoseconds, by far; and
/// short enough that the thread which claims the last block keeps the others waiting for a moment only.
const BLOCK_COST: (f32, f32) = (4_000.0, 50_000.0);
/// A call of medium size becomes about this many blocks.
const USUAL_BLOCKS: f32 = 32.0;
/// Counts of blocks are kept in 32 bits, and each thread that panics adds as many once more.
const MOST_BLOCKS: usize = 1 << 20;

/// `0..count` in `blocks` blocks of `block` items, the last one perhaps shorter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Split {
    pub(super) count: usize,
    pub(super) block: usize,
    pub(super) blocks: usize,
    /// Nanoseconds on one core, for all of it.
    pub(super) cost: u64,
}

impl Split {
    /// How work is split: by its shape and cost alone. `None` where it is too small to share.
    #[inline]
    pub(super) fn new(count: usize, align: usize, cost: f32) -> Option<Self> {
        let total = cost * count as f32;
        if total >= SMALLEST_SPLIT { Self::large(count, align.max(1), cost, total) } else { None }
    }

    fn large(count: usize, align: usize, cost: f32, total: f32) -> Option<Self> {
        let target = (total / USUAL_BLOCKS).clamp(BLOCK_COST.0, BLOCK_COST.1);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float to usize saturates")]
        let items = ((target / cost) as usize).max(count / MOST_BLOCKS).max(1);
        let units = count.div_ceil(align);
        // As even as whole units allow.
        let block = units.div_ceil(units.div_ceil(items.div_ceil(align))) * align;
        let blocks = count.div_ceil(block);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "as above; times blocks it fits")]
        let cost = total.min(1e11) as u64;
        (blocks > 1).then_some(Self { count, block, blocks, cost })
    }

    #[inline]
    pub(super) fn range(&self, index: usize) -> Range<usize> {
        let start = index * self.block;
        start..self.count.min(start + self.block)
    }
}

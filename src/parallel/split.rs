//! How work is cut into chunks for threads: by its shape and cost alone.

use core::ops::Range;

use super::thresholds::{CHUNK_COST, MOST_CHUNKS, SMALLEST_SPLIT, USUAL_CHUNKS};

/// `0..count` in `chunks` chunks of `chunk` items, the last one perhaps shorter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Split {
    pub(super) count: usize,
    pub(super) chunk: usize,
    pub(super) chunks: usize,
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
        let target = (total / USUAL_CHUNKS).clamp(CHUNK_COST.0, CHUNK_COST.1);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float to usize saturates")]
        let items = ((target / cost) as usize).max(count / MOST_CHUNKS).max(1);
        let units = count.div_ceil(align);
        // As even as whole units allow.
        let chunk = units.div_ceil(units.div_ceil(items.div_ceil(align))) * align;
        let chunks = count.div_ceil(chunk);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "as above; times chunks it fits")]
        let cost = total.min(1e11) as u64;
        (chunks > 1).then_some(Self { count, chunk, chunks, cost })
    }

    #[inline]
    pub(super) fn range(&self, index: usize) -> Range<usize> {
        let start = index * self.chunk;
        start..self.count.min(start + self.chunk)
    }
}

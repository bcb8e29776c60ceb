//! What stands in for the pool in a build without threads: the same blocks, one after the other.

use core::ops::Range;

use super::Split;

/// Runs `body` on each block, in order.
pub(super) fn run(split: Split, body: &(dyn Fn(Range<usize>) + Sync)) {
    for index in 0..split.blocks {
        body(split.range(index));
    }
}

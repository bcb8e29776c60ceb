//! The only room that knows threads: splits rows or elements into blocks by shape, never by the number of threads, so
//! that results do not depend on it. Without the feature `parallel` the same blocks run one after the other.
#![allow(unsafe_code, reason = "one of the rooms that may; each block says why it is sound")]

use core::ops::Range;

use crate::float::Float;
use crate::view::InOutMatrix;

/// Runs `body` on ranges that cover `0..count`, each a multiple of `align` long but for the last. `cost` is what one
/// item takes on one core, in nanoseconds: small work stays on this thread, as one range.
pub(crate) fn for_each_block(count: usize, align: usize, cost: f32, body: impl Fn(Range<usize>) + Sync) {
    let _ = (align, cost);
    if count > 0 {
        body(0..count);
    }
}

/// Runs `body` on blocks of the rows of `io`. `cost` is what one element takes, in nanoseconds.
pub(crate) fn for_each_rows<T: Float>(
    mut io: InOutMatrix<'_, T>,
    cost: f32,
    body: impl Fn(Range<usize>, InOutMatrix<'_, T>) + Sync,
) {
    let (rows, cols) = io.shape();
    let shared = io.share();
    for_each_block(rows, 1, cost * cols as f32, |rows| {
        // SAFETY: the ranges of one `for_each_block` do not overlap.
        body(rows.clone(), unsafe { shared.block(rows, 0..cols) });
    });
}

/// Runs `body` on blocks of the elements of `io`, whole rows or parts of a single row.
pub(crate) fn for_each_elements<T: Float>(
    io: InOutMatrix<'_, T>,
    cost: f32,
    body: impl Fn(Range<usize>, Range<usize>, InOutMatrix<'_, T>) + Sync,
) {
    let mut io = io.flatten();
    let (rows, cols) = io.shape();
    if rows != 1 {
        return for_each_rows(io, cost, |rows, block| body(rows, 0..cols, block));
    }
    let shared = io.share();
    for_each_block(cols, 64, cost, |cols| {
        // SAFETY: the ranges of one `for_each_block` do not overlap.
        body(0..1, cols.clone(), unsafe { shared.block(0..1, cols) });
    });
}

//! The only modules that know threads: this file splits rows or elements into blocks, by shape and never by the number
//! of threads, so that results do not depend on it. `calls` hands blocks to threads, `count` decides how many may
//! help, the threads are rayon's. Without the feature `parallel`, and on WebAssembly, which has no threads, all of it is one block.
//! Kernels live elsewhere.
#![allow(unsafe_code, reason = "one of the modules that may; each block says why it is sound")]

use core::ops::Range;

use crate::float::Float;
use crate::view::{InOutMatrix, MatrixMut};

#[cfg(all(feature = "parallel", not(target_family = "wasm")))]
mod calls;
mod count;
#[cfg(all(feature = "parallel", not(target_family = "wasm")))]
mod slot;
#[cfg(all(feature = "parallel", not(target_family = "wasm")))]
mod split;
#[cfg(all(feature = "parallel", not(target_family = "wasm")))]
mod sync;
#[cfg(all(test, feature = "parallel", not(target_family = "wasm")))]
mod tests;
#[cfg(feature = "parallel")]
mod thresholds;
#[cfg(all(feature = "parallel", not(target_family = "wasm")))]
mod workers;

#[cfg(feature = "parallel")]
pub use count::set_num_threads;
pub use count::{ThreadSource, num_threads, thread_source, with_threads};
#[cfg(feature = "python")]
pub(crate) use thresholds::MOST_THREADS;

/// Runs `body` on ranges that cover `0..count`, each a multiple of `align` long but for the last. `cost` is what one
/// item takes on one core, in nanoseconds: small work stays on this thread, as one range.
///
/// Ranges never overlap, and all of them are done, on whichever threads, when this returns. A panic of `body` comes
/// out of this call, on the calling thread.
#[inline]
pub(crate) fn for_each_block(count: usize, align: usize, cost: f32, body: impl Fn(Range<usize>) + Sync) {
    for_each_block_with(
        count,
        align,
        cost,
        &mut (),
        || Some(()),
        #[inline(always)]
        |(), range| body(range),
    );
}

/// [`for_each_block`] where `body` needs something that each thread has for itself, as memory to work in: `own` on the
/// calling thread; a thread that comes to help asks `theirs` before it claims a range, and leaves where it gets nothing.
/// So no range is left half done, whatever threads do not get.
#[inline]
pub(crate) fn for_each_block_with<W>(
    count: usize,
    align: usize,
    cost: f32,
    own: &mut W,
    theirs: impl Fn() -> Option<W> + Sync,
    body: impl Fn(&mut W, Range<usize>) + Sync,
) {
    #[cfg(all(feature = "parallel", not(target_family = "wasm")))]
    if let Some(split) = split::Split::new(count, align, cost) {
        #[cfg(feature = "python")]
        crate::trace::note(|| crate::trace::Event::Split {
            blocks: split.chunks,
            threads: num_threads().min(split.chunks),
            nanoseconds: split.cost,
        });
        return calls::run(split, &mut |range| body(own, range), &|claim| {
            let Some(mut own) = theirs() else { return };
            // The caller's kernel has set its own thread's.
            let _mode = crate::simd::mode::DefaultMode::set();
            while let Some(range) = claim() {
                body(&mut own, range);
            }
        });
    }
    #[cfg(not(all(feature = "parallel", not(target_family = "wasm"))))]
    let _ = (align, cost, theirs);
    if count > 0 {
        body(own, 0..count);
    }
}

/// Runs `body` on blocks of the rows of `io`. `cost` is what one element takes, in nanoseconds.
#[inline]
pub(crate) fn for_each_rows<T: Float>(
    io: InOutMatrix<'_, T>,
    cost: f32,
    body: impl Fn(Range<usize>, InOutMatrix<'_, T>) + Sync,
) {
    for_each_rows_with(
        io,
        cost,
        &mut (),
        || Some(()),
        #[inline(always)]
        |(), rows, block| body(rows, block),
    );
}

/// [`for_each_rows`] where `body` needs something that each thread has for itself: see [`for_each_block_with`].
#[inline]
pub(crate) fn for_each_rows_with<T: Float, W>(
    mut io: InOutMatrix<'_, T>,
    cost: f32,
    own: &mut W,
    theirs: impl Fn() -> Option<W> + Sync,
    body: impl Fn(&mut W, Range<usize>, InOutMatrix<'_, T>) + Sync,
) {
    let (rows, cols) = io.shape();
    // Rows of nothing may be more than anyone can count.
    let rows = if cols == 0 { 0 } else { rows };
    let shared = io.share();
    for_each_block_with(rows, 1, cost * cols as f32, own, theirs, |own, rows| {
        // SAFETY: the ranges of one `for_each_block_with` do not overlap.
        body(own, rows.clone(), unsafe { shared.block(rows, 0..cols) });
    });
}

/// Runs `body` on blocks of the elements of `io`, whole rows or parts of a single row.
#[inline]
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

/// Runs `body` on tiles of `out`, as `tiling` has them; it is told their rows and columns. `cost` is what one whole tile takes,
/// in nanoseconds.
pub(crate) fn for_each_tile<T: Float>(
    out: MatrixMut<'_, T>,
    tiling: impl Into<Tiling>,
    cost: f32,
    body: impl Fn(Range<usize>, Range<usize>, MatrixMut<'_, T>) + Sync,
) {
    for_each_tile_with(
        out,
        tiling,
        cost,
        &mut (),
        || Some(()),
        #[inline(always)]
        |(), rows, cols, out| body(rows, cols, out),
    );
}

/// [`for_each_tile`] where `body` needs something that each thread has for itself: see [`for_each_block_with`].
pub(crate) fn for_each_tile_with<T: Float, W>(
    mut out: MatrixMut<'_, T>,
    tiling: impl Into<Tiling>,
    cost: f32,
    own: &mut W,
    theirs: impl Fn() -> Option<W> + Sync,
    body: impl Fn(&mut W, Range<usize>, Range<usize>, MatrixMut<'_, T>) + Sync,
) {
    let (shape, tiling) = (out.shape(), tiling.into());
    let shared = out.share();
    for_each_block_with(tiling.count(shape), 1, cost, own, theirs, |own, tiles| {
        for tile in tiles {
            let (rows, cols) = tiling.tile(shape, tile);
            // SAFETY: different tiles do not overlap, and each is in one range of one `for_each_block_with`.
            body(own, rows.clone(), cols.clone(), unsafe { shared.block(rows, cols) });
        }
    });
}

/// How a matrix is cut into tiles.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiling {
    /// The rows and columns of a tile, or less at the edges.
    pub(crate) size: (usize, usize),
    /// So many columns less has the first tile of a row of tiles, and the last so many more.
    pub(crate) shift: usize,
}

impl From<(usize, usize)> for Tiling {
    fn from(size: (usize, usize)) -> Self {
        Self { size, shift: 0 }
    }
}

impl Tiling {
    /// How many tiles lie side by side.
    pub(crate) fn across(&self, cols: usize) -> usize {
        cols.div_ceil(self.size.1.max(1)).max(1)
    }

    /// How many tiles a matrix of (rows, columns) has.
    pub(crate) fn count(&self, (rows, cols): (usize, usize)) -> usize {
        rows.div_ceil(self.size.0.max(1)) * self.across(cols) * usize::from(cols > 0)
    }

    /// The rows and the columns of one of them.
    pub(crate) fn tile(&self, (rows, cols): (usize, usize), index: usize) -> (Range<usize>, Range<usize>) {
        let across = self.across(cols);
        let (row, col) = (index / across * self.size.0, index % across);
        // Where one begins the one before it ends.
        let begin = |col: usize| (col * self.size.1).saturating_sub(self.shift.min(self.size.1));
        let (start, end) = (begin(col), if col + 1 == across { cols } else { begin(col + 1) });
        (row..(row + self.size.0).min(rows), start..end)
    }
}

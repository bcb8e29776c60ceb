//! Scratch memory of a thread, kept from call to call so that none allocates in the steady state. Without std it lies
//! on the stack, and is small.

#[cfg(feature = "std")]
use std::cell::Cell;
#[cfg(feature = "std")]
use std::thread::LocalKey;
#[cfg(feature = "std")]
use std::vec::Vec;

use crate::view::Line;

#[cfg(feature = "std")]
std::thread_local! {
    static LINES: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
    /// What blocks share, so that each may have scratch memory of its own meanwhile.
    static SHARED: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// What there is where it lies on the stack.
#[cfg(not(feature = "std"))]
pub(crate) const BYTES: usize = 12 << 10;

/// Memory that is cut into parts anew by each block.
#[cfg(feature = "std")]
#[derive(Debug)]
pub(crate) struct Scratch(Vec<Line>);

/// Memory that is cut into parts anew by each block.
#[cfg(not(feature = "std"))]
#[derive(Debug)]
pub(crate) struct Scratch([Line; BYTES / size_of::<Line>()]);

impl Scratch {
    /// Parts of at least as many bytes as asked for, each of which begins on a cache line; on the stack, of as many as
    /// there are. Their content is anything.
    #[inline(always)]
    pub(crate) fn parts<const N: usize>(&mut self, bytes: [usize; N]) -> [&mut [Line]; N] {
        let lines = bytes.map(|bytes| bytes.div_ceil(size_of::<Line>()));
        #[cfg(feature = "std")]
        {
            let total = lines.iter().sum();
            if self.0.len() < total {
                self.grow(total);
            }
        }
        let mut rest = self.0.as_mut_slice();
        lines.map(|lines| {
            let all = core::mem::take(&mut rest);
            let (part, others) = all.split_at_mut(lines.min(all.len()));
            rest = others;
            part
        })
    }

    #[cfg(feature = "std")]
    #[cold]
    #[inline(never)]
    fn grow(&mut self, lines: usize) {
        self.0.resize(lines, Line::ZERO);
    }
}

/// Lends this thread's scratch memory to `body`. A call within a call gets memory of its own.
#[cfg(feature = "std")]
pub(crate) fn with<R>(body: impl FnOnce(&mut Scratch) -> R) -> R {
    lend(&LINES, body)
}

/// Lends memory for what several blocks of a product read, while they use what [`with`] lends.
#[cfg(feature = "std")]
pub(crate) fn with_shared<R>(body: impl FnOnce(&mut Scratch) -> R) -> R {
    lend(&SHARED, body)
}

#[cfg(feature = "std")]
fn lend<R>(lines: &'static LocalKey<Cell<Vec<Line>>>, body: impl FnOnce(&mut Scratch) -> R) -> R {
    let mut scratch = Scratch(lines.take());
    let result = body(&mut scratch);
    lines.set(scratch.0);
    result
}

/// Lends scratch memory to `body`.
#[cfg(not(feature = "std"))]
pub(crate) fn with<R>(body: impl FnOnce(&mut Scratch) -> R) -> R {
    body(&mut Scratch([Line::ZERO; BYTES / size_of::<Line>()]))
}

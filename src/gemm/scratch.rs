//! Scratch memory of a thread, kept from call to call so that none allocates in the steady state.

use std::cell::Cell;
use std::vec::Vec;

use crate::view::Line;

std::thread_local! {
    static LINES: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// Memory that is cut into parts anew by each block.
#[derive(Debug)]
pub(crate) struct Scratch(Vec<Line>);

impl Scratch {
    /// Parts of at least as many bytes as asked for, each of which begins on a cache line. Their content is anything.
    #[inline(always)]
    pub(crate) fn parts<const N: usize>(&mut self, bytes: [usize; N]) -> [&mut [Line]; N] {
        let lines = bytes.map(|bytes| bytes.div_ceil(size_of::<Line>()));
        let total = lines.iter().sum();
        if self.0.len() < total {
            self.grow(total);
        }
        let mut rest = self.0.as_mut_slice();
        lines.map(|lines| {
            let (part, others) = core::mem::take(&mut rest).split_at_mut(lines);
            rest = others;
            part
        })
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self, lines: usize) {
        self.0.resize(lines, Line::ZERO);
    }
}

/// Lends this thread's scratch memory to `body`. A call within a call gets memory of its own.
pub(crate) fn with<R>(body: impl FnOnce(&mut Scratch) -> R) -> R {
    let mut scratch = Scratch(LINES.take());
    let result = body(&mut scratch);
    LINES.set(scratch.0);
    result
}

//! Pairwise combination of the terms of a row, in an order that its length alone fixes.

use core::mem::MaybeUninit;

use super::inlined;
use crate::macros::bug;
use crate::simd;

/// Terms that an accumulator of a [`PairwiseFold`] takes before the totals move up.
pub(super) const CHAIN: usize = if simd::HAS_VECTORS { 4 } else { 16 };

/// Combines the terms of n vectors in an order that n alone fixes.
///
/// Sixteen vectors or so at a time go into a few accumulators, whose totals are combined pairwise, two blocks with two
/// blocks and so on: as a sum of floats, its error is that of pairwise summation (Higham, Accuracy and Stability of
/// Numerical Algorithms, 4.2).
#[derive(Debug)]
pub(crate) struct PairwiseFold<A> {
    /// The totals of the complete subtrees so far, from the largest to the smallest: one for each 1 bit of `blocks`.
    totals: [MaybeUninit<A>; usize::BITS as usize],
    depth: usize,
    blocks: usize,
}

impl<A: Copy> PairwiseFold<A> {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self { totals: [const { MaybeUninit::uninit() }; usize::BITS as usize], depth: 0, blocks: 0 }
    }

    #[inline(always)]
    pub(super) fn fold<const WIDE: usize>(
        vectors: usize,
        neutral: A,
        mut term: impl FnMut(usize) -> A,
        end: Option<A>,
        combine: impl Fn(A, A) -> A,
        chain: usize,
    ) -> A {
        let mut tree = Self::new();
        let mut parts = [neutral; WIDE];
        let total = inlined(
            #[inline(always)]
            |mut parts: [A; WIDE]| {
                let mut count = WIDE;
                while count > 1 {
                    count /= 2;
                    for index in 0..count {
                        parts[index] = combine(parts[2 * index], parts[2 * index + 1]);
                    }
                }
                parts[0]
            },
        );
        let (mut vector, mut steps) = (0, 0);
        // One loop with one copy of `term` an accumulator: more would be no faster, and compile for minutes.
        while vector + WIDE <= vectors {
            for (part, total) in parts.iter_mut().enumerate() {
                *total = combine(*total, term(vector + part));
            }
            vector += WIDE;
            steps += 1;
            if steps == chain {
                if simd::HAS_VECTORS {
                    tree.push(total(parts), &combine);
                } else {
                    tree.push_apart(total(parts), &combine);
                }
                parts = [neutral; WIDE];
                steps = 0;
            }
        }
        let mut rest = end.unwrap_or(neutral);
        while WIDE > 1 && vector < vectors {
            rest = combine(rest, term(vector));
            vector += 1;
        }
        let rest = combine(total(parts), rest);
        tree.finish_with(rest, &combine)
    }

    /// The total of the vectors that no block was filled with; blocks are in the tree. For terms that are worth being
    /// unrolled, N vectors at a time, which leave no registers for more accumulators than that, nor need them.
    #[inline(always)]
    pub(super) fn unrolled<const N: usize>(
        &mut self,
        vectors: usize,
        neutral: A,
        mut terms: impl FnMut(usize) -> [A; N],
        combine: &impl Fn(A, A) -> A,
    ) -> A {
        let mut parts = [neutral; N];
        let total = inlined(
            #[inline(always)]
            |parts: [A; N]| {
                let mut total = parts[0];
                for index in 1..N {
                    total = combine(total, parts[index]);
                }
                total
            },
        );
        let (mut vector, mut steps) = (0, 0);
        while vector + N <= vectors {
            let next = terms(vector);
            for index in 0..N {
                parts[index] = combine(parts[index], next[index]);
            }
            vector += N;
            steps += 1;
            if steps == if N == 1 { CHAIN } else { 4 * CHAIN / N } {
                if simd::HAS_VECTORS {
                    self.push(total(parts), combine);
                } else {
                    self.push_apart(total(parts), combine);
                }
                parts = [neutral; N];
                steps = 0;
            }
        }
        total(parts)
    }

    /// [`finish`](PairwiseFold::finish), inlined where there are vectors.
    #[inline(always)]
    pub(super) fn finish_with(&mut self, total: A, combine: &impl Fn(A, A) -> A) -> A {
        if simd::HAS_VECTORS { self.finish(total, combine) } else { self.finish_apart(total, combine) }
    }

    /// Adds the total of one more block.
    #[inline(always)]
    pub(crate) fn push(&mut self, mut total: A, combine: &impl Fn(A, A) -> A) {
        for _ in 0..self.blocks.trailing_ones() {
            total = if simd::HAS_VECTORS { combine(self.pop(), total) } else { self.join_apart(total, combine) };
        }
        // There is one total for each 1 bit of `blocks`, so at most as many as a usize has bits.
        if let Some(slot) = self.totals.get_mut(self.depth) {
            *slot = MaybeUninit::new(total);
            self.depth += 1;
        } else {
            bug!();
        }
        self.blocks += 1;
    }

    /// [`push`](PairwiseFold::push) as a function of its own, for targets that have no instructions to be compiled for
    /// and little space for code.
    #[inline(never)]
    fn push_apart(&mut self, total: A, combine: &impl Fn(A, A) -> A) {
        self.push(total, combine);
    }

    #[inline(never)]
    fn join_apart(&mut self, total: A, combine: &impl Fn(A, A) -> A) -> A {
        combine(self.pop(), total)
    }

    /// [`finish`](PairwiseFold::finish) as a function of its own.
    #[inline(never)]
    fn finish_apart(&mut self, total: A, combine: &impl Fn(A, A) -> A) -> A {
        self.finish(total, combine)
    }

    /// The total of all blocks and `total`, the last.
    #[inline(always)]
    pub(crate) fn finish(&mut self, mut total: A, combine: &impl Fn(A, A) -> A) -> A {
        while self.depth > 0 {
            total = if simd::HAS_VECTORS { combine(self.pop(), total) } else { self.join_apart(total, combine) };
        }
        // As many 1 bits as totals: a `push` goes by them.
        self.blocks = 0;
        total
    }

    /// The last total; only called where there is one: `depth` is the number of 1 bits in `blocks`.
    #[inline(always)]
    fn pop(&mut self) -> A {
        self.depth -= 1;
        // SAFETY: `depth` was not 0, as callers see to, and `push` wrote each slot below it.
        unsafe { self.totals.get_unchecked(self.depth).assume_init() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fold_that_is_finished_begins_anew() {
        for blocks in 0..20_u32 {
            let mut fold = PairwiseFold::new();
            for _ in 0..2 {
                (0..blocks).for_each(|block| fold.push(block, &|a, b| a + b));
                assert_eq!(fold.finish(1000, &|a, b| a + b), 1000 + (0..blocks).sum::<u32>());
            }
        }
    }
}

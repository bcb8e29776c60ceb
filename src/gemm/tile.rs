//! The register tile: a few rows by a few panels of columns, accumulated over one block of k. Nothing here knows about
//! caches, shapes or threads.

use core::slice::ChunksExact;

use fearless_simd::{Simd, SimdBase, SimdFloat};

use super::panel_width;
use crate::float::{Compute, Float};
use crate::simd;
use crate::view::Matrix;

/// The most rows of a tile at any CPU level.
pub(crate) const MAX_ROWS: usize = 8;

/// The most vectors of accumulators at any CPU level.
pub(crate) const MAX_VECTORS: usize = 24;

/// The left operand of a tile: `R` values for each step of k.
pub(crate) trait Left<C, const R: usize> {
    fn at(&self, step: usize) -> [C; R];
}

/// Rows that lie contiguous in memory, each at least as long as the block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a, A, const R: usize>(pub(crate) [&'a [A]; R]);

impl<A: Float, const R: usize> Left<A::Acc, R> for Rows<'_, A, R> {
    #[inline(always)]
    fn at(&self, step: usize) -> [A::Acc; R] {
        let mut values = [A::Acc::ZERO; R];
        for (value, row) in values.iter_mut().zip(&self.0) {
            *value = row[step].to_acc();
        }
        values
    }
}

/// Rows read element by element wherever they lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StridedRows<'a, A>(pub(crate) Matrix<'a, A>);

impl<A: Float, const R: usize> Left<A::Acc, R> for StridedRows<'_, A> {
    #[inline(always)]
    fn at(&self, step: usize) -> [A::Acc; R] {
        let mut values = [A::Acc::ZERO; R];
        for (row, value) in values.iter_mut().enumerate() {
            *value = self.0.get(row, step).unwrap_or(A::ZERO).to_acc();
        }
        values
    }
}

/// The right operand of a tile: `G` panels of `V` vectors for each step of k, in order.
pub(crate) trait Right<S: Simd, C: Compute, const G: usize, const V: usize> {
    fn next(&mut self, simd: S) -> Option<[[C::Lanes<S>; V]; G]>;
}

/// Packed panels: for each step of k the panel's columns, side by side.
#[derive(Clone, Debug)]
pub(crate) struct Panels<'a, W, const G: usize>([ChunksExact<'a, W>; G]);

impl<'a, W: Float, const G: usize> Panels<'a, W, G> {
    #[inline(always)]
    pub(crate) fn new(panels: [&'a [W]; G]) -> Self {
        Self(panels.map(|panel| panel.chunks_exact(panel_width::<W::Acc>())))
    }
}

impl<S: Simd, W: Float, const G: usize, const V: usize> Right<S, W::Acc, G, V> for Panels<'_, W, G> {
    #[inline(always)]
    fn next(&mut self, simd: S) -> Option<[[<W::Acc as Compute>::Lanes<S>; V]; G]> {
        let lanes = <W::Acc as Compute>::Lanes::<S>::LEN;
        let mut vectors = [[<W::Acc as Compute>::Lanes::<S>::splat(simd, W::Acc::ZERO); V]; G];
        for (panel, vectors) in self.0.iter_mut().zip(&mut vectors) {
            let columns = panel.next()?;
            for (vector, columns) in vectors.iter_mut().zip(columns.chunks_exact(lanes)) {
                *vector = W::load(simd, columns);
            }
        }
        Some(vectors)
    }
}

/// The columns of a matrix as they lie: whole vectors where rows are contiguous, else element by element, with zeros
/// past the last column.
#[derive(Clone, Debug)]
pub(crate) struct Columns<'a, W> {
    matrix: Matrix<'a, W>,
    step: usize,
}

impl<'a, W: Float> Columns<'a, W> {
    #[inline(always)]
    pub(crate) fn new(matrix: Matrix<'a, W>) -> Self {
        Self { matrix, step: 0 }
    }
}

impl<S: Simd, W: Float, const G: usize, const V: usize> Right<S, W::Acc, G, V> for Columns<'_, W> {
    #[inline(always)]
    fn next(&mut self, simd: S) -> Option<[[<W::Acc as Compute>::Lanes<S>; V]; G]> {
        let lanes = <W::Acc as Compute>::Lanes::<S>::LEN;
        let step = self.step;
        self.step += 1;
        let mut vectors = [[<W::Acc as Compute>::Lanes::<S>::splat(simd, W::Acc::ZERO); V]; G];
        match self.matrix.row(step).and_then(|row| row.get(..G * V * lanes)) {
            Some(row) => {
                for (vector, columns) in vectors.as_flattened_mut().iter_mut().zip(row.chunks_exact(lanes)) {
                    *vector = W::load(simd, columns);
                }
            }
            None => {
                for (index, vector) in vectors.as_flattened_mut().iter_mut().enumerate() {
                    let matrix = self.matrix;
                    *vector = <W::Acc as Compute>::Lanes::<S>::from_fn(
                        simd,
                        #[inline(always)]
                        |lane| matrix.get(step, index * lanes + lane).unwrap_or(W::ZERO).to_acc(),
                    );
                }
            }
        }
        Some(vectors)
    }
}

/// Where the sums of a tile go: row r's vectors begin at `r * stride`.
#[derive(Debug)]
pub(crate) struct Sums<'a, L> {
    pub(crate) vectors: &'a mut [L],
    pub(crate) stride: usize,
    /// Whether this is the first block of k, whose sums are stored; those of later blocks are added.
    pub(crate) first: bool,
}

/// Multiplies `R` rows by `G` panels over `depth` steps of k.
#[inline(always)]
pub(crate) fn tile<S: Simd, C: Compute, const R: usize, const G: usize, const V: usize>(
    simd: S,
    depth: usize,
    left: &impl Left<C, R>,
    mut right: impl Right<S, C, G, V>,
    sums: Sums<'_, C::Lanes<S>>,
) {
    let mut accumulators = [[[C::Lanes::<S>::splat(simd, C::ZERO); V]; G]; R];
    for step in 0..depth {
        let Some(columns) = right.next(simd) else { break };
        let values = left.at(step);
        for (row, value) in accumulators.iter_mut().zip(values) {
            let value = C::Lanes::<S>::splat(simd, value);
            for (sum, &column) in row.as_flattened_mut().iter_mut().zip(columns.as_flattened()) {
                *sum = value.mul_add(column, *sum);
            }
        }
    }
    for (row, sums_of_row) in accumulators.iter().zip(sums.vectors.chunks_mut(sums.stride.max(1))) {
        for (&sum, target) in row.as_flattened().iter().zip(sums_of_row) {
            *target = if sums.first { sum } else { *target + sum };
        }
    }
}

/// Calls `$body` with the constants `$R` and `$G` for `$rows` rows and `$panels` panels of `$V` vectors. Only pairs
/// whose accumulators fit the registers are compiled.
macro_rules! with_tile {
    ($rows:expr, $panels:expr, $vectors:ident, |$r:ident, $g:ident| $body:expr) => {
        $crate::gemm::tile::with_tile!(@ $rows, $panels, $vectors, $r, $g, $body;
            (1, 1) (1, 2) (1, 3) (1, 4) (1, 6) (2, 1) (2, 2) (2, 3) (2, 4) (2, 6) (3, 1) (3, 2) (3, 3) (3, 4) (3, 6)
            (4, 1) (4, 2) (4, 3) (4, 4) (4, 6) (5, 1) (5, 2) (5, 3) (6, 1) (6, 2) (6, 3) (7, 1) (7, 2) (7, 3)
            (8, 1) (8, 2) (8, 3))
    };
    (@ $rows:expr, $panels:expr, $vectors:ident, $r:ident, $g:ident, $body:expr; $(($rv:literal, $gv:literal))*) => {
        match ($rows, $panels) {
            $(($rv, $gv) => {
                const $r: usize = $rv;
                const $g: usize = $gv;
                if const { $crate::gemm::tile::fits($r, $g, $vectors) } {
                    $body
                }
            })*
            _ => {}
        }
    };
}
pub(crate) use with_tile;

/// Whether a tile is one of those compiled for panels of `vectors` vectors.
pub(crate) const fn fits(rows: usize, panels: usize, vectors: usize) -> bool {
    let room = simd::accumulators(vectors);
    rows <= max_rows(vectors) && (rows * panels * vectors <= room || panels == 1)
}

/// The most rows of a tile.
pub(crate) const fn max_rows(vectors: usize) -> usize {
    let rows = simd::accumulators(vectors) / vectors;
    if rows < 1 {
        1
    } else if rows > MAX_ROWS {
        MAX_ROWS
    } else {
        rows
    }
}

/// How many of the `left` panels a tile of `rows` rows takes at once: as many as keep the multipliers busy, and evenly,
/// as a narrow tile has too few independent chains of additions.
#[inline(always)]
pub(crate) fn panels_at_once(rows: usize, left: usize, vectors: usize) -> usize {
    let room = (simd::accumulators(vectors) / (rows * vectors).max(1)).max(1);
    let most = match room.min(if rows <= 4 { 6 } else { 3 }) {
        5 => 4,
        most => most,
    };
    match left.div_ceil(left.div_ceil(most).max(1)) {
        5 => 3,
        panels => panels,
    }
}

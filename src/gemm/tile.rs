//! The register tile: a few rows by a few panels of columns, accumulated over one block of k. Nothing here knows about
//! caches, shapes or threads.

use fearless_simd::{Select, Simd, SimdBase, SimdFloat};

use crate::float::{Compute, Float};
use crate::simd;
use crate::view::{Matrix, MatrixMut, Strip};

/// The most rows of a tile at any CPU level.
pub(crate) const MAX_ROWS: usize = 8;

/// The most panels of a tile at any CPU level.
#[cfg(feature = "std")]
pub(crate) const MAX_PANELS: usize = 6;

/// The most vectors of accumulators at any CPU level.
#[cfg(not(feature = "std"))]
pub(crate) const MAX_VECTORS: usize = 24;

/// Where the sums of tiles go: row r's vectors begin at `r * stride`.
#[derive(Debug)]
pub(crate) struct Sums<'a, L> {
    pub(crate) vectors: &'a mut [L],
    pub(crate) stride: usize,
    /// Whether this is the first block of k; the sums of later blocks are added to what is there.
    pub(crate) first: bool,
}

/// What is done to sums that are complete, where that is little enough to do it in registers.
#[derive(Debug)]
pub(crate) struct Store<'a, 'o, C, L> {
    pub(crate) bias: &'a [L],
    pub(crate) relu: bool,
    /// Has the columns of the tiles; its first row is theirs.
    pub(crate) out: MatrixMut<'o, C>,
}

/// Multiplies tiles of `R` rows of `x` by a strip of `G` panels, each `V` vectors wide: the rows `first_row..end`, a
/// whole number of tiles. With `store` the sums are finished and stored there, else they are kept in `sums`.
///
/// A function of its own, so that its loop has all registers.
#[inline(never)]
pub(crate) fn tiles<S, C, A, W, const R: usize, const G: usize, const V: usize>(
    simd: S,
    x: Matrix<'_, A>,
    strip: Strip<'_, W, G>,
    sums: Sums<'_, C::Lanes<S>>,
    store: Option<Store<'_, '_, C, C::Lanes<S>>>,
) where
    S: Simd,
    C: Compute,
    A: Float<Acc = C>,
    W: Float<Acc = C>,
{
    simd.vectorize(
        #[inline(always)]
        || tiles_here::<S, C, A, W, R, G, V>(simd, x, strip, sums, store),
    );
}

#[inline(always)]
fn tiles_here<S, C, A, W, const R: usize, const G: usize, const V: usize>(
    simd: S,
    x: Matrix<'_, A>,
    strip: Strip<'_, W, G>,
    sums: Sums<'_, C::Lanes<S>>,
    mut store: Option<Store<'_, '_, C, C::Lanes<S>>>,
) where
    S: Simd,
    C: Compute,
    A: Float<Acc = C>,
    W: Float<Acc = C>,
{
    let lanes = C::Lanes::<S>::LEN;
    for row in (0..x.rows()).step_by(R) {
        let mut tile = [[[C::Lanes::<S>::splat(simd, C::ZERO); V]; G]; R];
        strip.for_each(
            x,
            row,
            V * lanes,
            #[inline(always)]
            |values, panels| step::<S, C, A, W, R, G, V>(simd, values, panels, &mut tile),
        );
        if !sums.first || store.is_none() {
            for r in 0..R {
                let start = (row + r) * sums.stride;
                let Some(sums_of_row) = sums.vectors.get_mut(start..start + G * V) else { return };
                for g in 0..G {
                    for v in 0..V {
                        if !sums.first {
                            tile[r][g][v] = sums_of_row[g * V + v] + tile[r][g][v];
                        }
                        if store.is_none() {
                            sums_of_row[g * V + v] = tile[r][g][v];
                        }
                    }
                }
            }
        }
        if let Some(Store { bias, relu, out }) = &mut store {
            let Some(bias) = bias.get(..G * V) else { return };
            let zero = C::Lanes::<S>::splat(simd, C::ZERO);
            for r in 0..R {
                let Some(target) = out.row_mut(row + r).and_then(|row| row.get_mut(..G * V * lanes)) else { return };
                for g in 0..G {
                    for v in 0..V {
                        let value = tile[r][g][v] + bias[g * V + v];
                        let value = if *relu { value.simd_le(zero).select(zero, value) } else { value };
                        C::store::<S>(value, &mut target[(g * V + v) * lanes..(g * V + v + 1) * lanes]);
                    }
                }
            }
        }
    }
}

/// One step of k.
#[inline(always)]
fn step<S, C, A, W, const R: usize, const G: usize, const V: usize>(
    simd: S,
    values: [&A; R],
    panels: [&[W]; G],
    tile: &mut [[[C::Lanes<S>; V]; G]; R],
) where
    S: Simd,
    C: Compute,
    A: Float<Acc = C>,
    W: Float<Acc = C>,
{
    let lanes = C::Lanes::<S>::LEN;
    if R <= 3 {
        // Few rows: their values stay in registers, and each vector of columns is loaded where it is used.
        let mut splats = [C::Lanes::<S>::splat(simd, C::ZERO); R];
        for r in 0..R {
            splats[r] = C::Lanes::<S>::splat(simd, values[r].to_acc());
        }
        for g in 0..G {
            for v in 0..V {
                let columns = W::load(simd, &panels[g][v * lanes..(v + 1) * lanes]);
                for r in 0..R {
                    tile[r][g][v] = splats[r].mul_add(columns, tile[r][g][v]);
                }
            }
        }
    } else {
        let mut columns = [[C::Lanes::<S>::splat(simd, C::ZERO); V]; G];
        for g in 0..G {
            for v in 0..V {
                columns[g][v] = W::load(simd, &panels[g][v * lanes..(v + 1) * lanes]);
            }
        }
        for r in 0..R {
            let value = C::Lanes::<S>::splat(simd, values[r].to_acc());
            for g in 0..G {
                for v in 0..V {
                    tile[r][g][v] = value.mul_add(columns[g][v], tile[r][g][v]);
                }
            }
        }
    }
}

/// Calls `$body` with the constants `$R` and `$G` for `$rows` rows and `$panels` panels of `$V` vectors. Only pairs
/// whose accumulators fit the registers are compiled.
macro_rules! with_tile {
    ($rows:expr, $panels:expr, $vectors:ident, |$r:ident, $g:ident| $body:expr) => {
        $crate::gemm::tile::with_tile!(@ $rows, $panels, $vectors, $r, $g, $body;
            (1, 1) (1, 2) (1, 3) (1, 6) (2, 1) (2, 2) (2, 3) (2, 6) (3, 1) (3, 2) (3, 3) (3, 6)
            (4, 1) (4, 3) (5, 1) (5, 3) (6, 1) (6, 3) (7, 1) (7, 3) (8, 1) (8, 3))
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

/// How many of the `left` panels a tile of up to `rows` rows takes at once: as many as the registers hold, among the
/// widths that are compiled.
#[inline(always)]
pub(crate) fn panels_at_once(rows: usize, left: usize, vectors: usize) -> usize {
    let room = (simd::accumulators(vectors) / (rows * vectors).max(1)).max(1);
    match left.min(room) {
        6.. if rows <= 3 => 6,
        3.. => 3,
        2 if rows <= 3 => 2,
        0 => 0,
        _ => 1,
    }
}

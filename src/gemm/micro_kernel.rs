//! The inner loop: a few rows by a few panels of columns, their sums in registers over some steps of k. Nothing here knows
//! shapes or threads.

use core::iter::from_fn;
use core::ops::Range;

use fearless_simd::{Select, Simd, SimdBase, SimdFloat};

use super::problem::runs;
use super::vectors;
use crate::float::{Compute, Float, MAX_LANES};
use crate::simd::{self, dispatch};
use crate::view::{Matrix, MatrixMut, Strip, inlined};

/// The most rows of a tile at any CPU level.
const MAX_ROWS: usize = 12;

/// The most rows of a tile that widens a weight as it reads it: for more it is cheaper to widen it once.
pub(crate) const MAX_WIDENING_ROWS: usize = 4;

/// The most vectors of columns of a tile. One row is multiplied as fast as its weight can be read, and the longer the
/// pieces in which it is read, the faster that goes.
pub(crate) const MOST_VECTORS: usize = 16;

/// The most columns of a tile.
pub(crate) const MOST_COLUMNS: usize = MOST_VECTORS * MAX_LANES;

/// The most packed panels that a tile reads at once.
const MOST_STREAMS: usize = 8;

/// Tiles of so few rows read weights faster than the CPU foresees.
const PREFETCHED_ROWS: usize = 4;

/// How far ahead they ask for a weight: rows of one that is not packed, bytes of a packed panel.
const AHEAD: (usize, isize) = (4, 1024);

/// The left operand and the sums of a run of tiles over one strip of panels.
#[derive(Debug)]
pub(crate) struct Run<'a, C> {
    /// Rows of equal tiles, their elements side by side.
    pub(crate) x: Matrix<'a, C>,
    /// The sums of these rows, each as long as the strip is wide, `stride` numbers apart.
    pub(crate) sums: &'a mut [C],
    pub(crate) stride: usize,
    /// What is there already.
    pub(crate) former: Former,
    /// What is done to sums that are complete, where that is little enough to do it in registers.
    pub(crate) store: Option<Store<'a, C>>,
}

/// What the sums of a run hold before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Former {
    /// Anything: this is the first block of k.
    Nothing,
    /// The sum of former blocks of k, to which this one's is added.
    Blocks,
}

/// Where complete sums go from the registers.
#[derive(Debug)]
pub(crate) struct Store<'a, C> {
    /// As many as the strip has columns.
    pub(crate) bias: &'a [C],
    pub(crate) relu: bool,
    /// The rows and columns of the tiles.
    pub(crate) out: MatrixMut<'a, C>,
}

/// Rows that are cut into equal tiles.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TiledRows {
    start: usize,
    tiles: usize,
    /// The rows of each tile.
    pub(crate) each: usize,
    /// The vectors of a panel.
    vectors: usize,
}

impl TiledRows {
    pub(crate) fn range(&self) -> Range<usize> {
        self.start..self.start + self.tiles * self.each
    }

    /// These panels strip by strip: (the first, how many).
    pub(crate) fn strips(self, panels: Range<usize>, lie: Lie) -> impl Iterator<Item = (usize, usize)> {
        let mut panel = panels.start;
        from_fn(move || {
            let left = panels.end.checked_sub(panel).filter(|&left| left > 0)?;
            let count = self.panels(left, lie);
            panel += count;
            Some((panel - count, count))
        })
    }

    /// How many panels the next tiles take where so many are left.
    fn panels(&self, left: usize, lie: Lie) -> usize {
        let wide = wide(self.each, self.vectors);
        let one_more_is_better =
            left.checked_sub(wide + 1).is_some_and(|rest| rest == 0 || rest.is_power_of_two() && rest < wide);
        if lie == Lie::Overlapping && one_more_is_better && fits(self.each, wide + 1, self.vectors) {
            return wide + 1;
        }
        let most = if lie == Lie::Packed { left.min(MOST_STREAMS) } else { left };
        (1..=wide.min(most)).rev().find(|&panels| fits(self.each, panels, self.vectors)).unwrap_or(1)
    }
}

/// How the panels of a weight lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    /// Each on its own. They are streams that a cache has few places for where they are a power of two apart: so at most
    /// [`MOST_STREAMS`] of them.
    Packed,
    /// Side by side in the rows of a matrix.
    SideBySide,
    /// Likewise, but for the first and the last, which lie over part of others: there is one more than there would be,
    /// which is better not left over.
    Overlapping,
}

/// Cuts rows into tiles of nearly the same size for products whose compute type is `C`: one run of them or two.
pub(crate) fn tiled_rows<C: Compute>(level: simd::Level, rows: Range<usize>) -> impl Iterator<Item = TiledRows> {
    let vectors = vectors_at::<C>(level);
    let mut start = rows.start;
    runs(rows.len(), max_rows(vectors)).into_iter().filter(|&(tiles, each)| tiles * each > 0).map(
        move |(tiles, each)| {
            let run = TiledRows { start, tiles, each, vectors };
            start = run.range().end;
            run
        },
    )
}

/// The most rows of a tile of compute type `C` at a CPU level.
pub(crate) fn max_tile_rows<C: Compute>(level: simd::Level) -> usize {
    max_rows(vectors_at::<C>(level))
}

/// The panels that tiles of so many rows are wide at most.
pub(crate) fn widest<C: Compute>(level: simd::Level, rows: usize) -> usize {
    wide(rows, vectors_at::<C>(level))
}

fn vectors_at<C: Compute>(level: simd::Level) -> usize {
    #[inline(always)]
    fn at<S: Simd, C: Compute>(_: S) -> usize {
        const { vectors::<S, C>() }
    }
    dispatch!(level, simd => at::<_, C>(simd))
}

/// Multiplies tiles of `rows` rows by the first `panels` panels of a strip, at a CPU level. The numbers are those that
/// [`TiledRows`] tells; at most [`MAX_WIDENING_ROWS`] rows where `W` is another type than `C`.
pub(crate) fn run_tiles<C: Compute, W: Float<Acc = C>>(
    level: simd::Level,
    (rows, panels): (usize, usize),
    strip: Strip<'_, W>,
    run: Run<'_, C>,
) {
    #[inline(always)]
    fn by_vectors<S: Simd, C: Compute, W: Float<Acc = C>>(
        simd: S,
        size: (usize, usize),
        strip: Strip<'_, W>,
        run: Run<'_, C>,
    ) {
        if const { vectors::<S, C>() == 1 } {
            choose::<S, C, W, 1>(simd, size, strip, run);
        } else if const { vectors::<S, C>() == 2 } {
            choose::<S, C, W, 2>(simd, size, strip, run);
        } else {
            choose::<S, C, W, 4>(simd, size, strip, run);
        }
    }
    dispatch!(level, simd => by_vectors(simd, (rows, panels), strip, run));
}

/// Calls [`tiles`] for the number of rows and panels; only what a level uses is compiled for it.
#[inline(always)]
fn choose<S: Simd, C: Compute, W: Float<Acc = C>, const V: usize>(
    simd: S,
    size: (usize, usize),
    strip: Strip<'_, W>,
    run: Run<'_, C>,
) {
    macro_rules! among {
        ($($r:literal: $($g:literal)*,)*) => {
            match size {
                $($(($r, $g) if const { fits($r, $g, V) && ($r <= MAX_WIDENING_ROWS || is_wide::<C, W>()) } => {
                    tiles::<S, C, W, $r, $g, V>(simd, strip, run);
                })*)*
                _ => debug_assert!(false, "no tile of {size:?}"),
            }
        };
    }
    among!(
        1: 1 2 3 4 6 8 16 17, 2: 1 2 3 4 8 12 13, 3: 1 2 8 9, 4: 1 2 6, 5: 1 2 4, 6: 1 2 4, 7: 1 2 3, 8: 1 2 3, 9: 1 2, 10: 1 2, 11: 1 2,
        12: 1 2,
    );
}

/// Whether weights of `W` need no widening. A type of a user's that is as wide is taken for one that does not.
const fn is_wide<C, W>() -> bool {
    size_of::<C>() == size_of::<W>()
}

/// Whether a tile is one of those that a level with `vectors` vectors a panel uses: the widest, one that is a little wider,
/// and some for what is left of columns, more of them where rows are too few to hide how long a multiplication takes.
const fn fits(rows: usize, panels: usize, vectors: usize) -> bool {
    let wide = wide(rows, vectors);
    let is_rest = panels.is_power_of_two() && panels < wide && (panels <= 2 || rows <= 2);
    // One panel more than the columns have begins or ends among them, see `Operands::before`; on its own it would be read
    // line by line.
    let is_one_more = panels == wide + 1 && rows <= 3 && vectors == 1;
    rows <= max_rows(vectors) && (panels == wide || is_rest || is_one_more)
}

/// The panels of the widest tile of so many rows: as many as there are accumulators for.
const fn wide(rows: usize, vectors: usize) -> usize {
    let by_registers = simd::accumulators(vectors) / (rows * vectors);
    let most = MOST_VECTORS / vectors;
    if by_registers < 1 {
        1
    } else if by_registers > most {
        most
    } else {
        by_registers
    }
}

/// The most rows of a tile.
const fn max_rows(vectors: usize) -> usize {
    let rows = simd::accumulators(vectors) / vectors;
    if rows < 1 {
        1
    } else if rows > MAX_ROWS {
        MAX_ROWS
    } else {
        rows
    }
}

/// A function of its own, so that its loop has all registers.
#[inline(never)]
fn tiles<S: Simd, C: Compute, W: Float<Acc = C>, const R: usize, const G: usize, const V: usize>(
    simd: S,
    strip: Strip<'_, W>,
    run: Run<'_, C>,
) {
    simd.vectorize(
        #[inline(always)]
        || tiles_here::<S, C, W, R, G, V>(simd, strip, run),
    );
}

#[inline(always)]
fn tiles_here<S: Simd, C: Compute, W: Float<Acc = C>, const R: usize, const G: usize, const V: usize>(
    simd: S,
    strip: Strip<'_, W>,
    run: Run<'_, C>,
) {
    let Run { x, sums, stride, former, mut store } = run;
    let lanes = C::Lanes::<S>::LEN;
    let width = V * lanes;
    let ahead = strip.ahead(AHEAD.0, AHEAD.1);
    let keep = store.is_none();
    for (index, row) in (0..x.rows()).step_by(R).enumerate() {
        // The first tiles ask for the panels behind the strip's, one each; the others for what is there already.
        let follow = strip.address(if index < G { G + index } else { 0 });
        let mut tile = [[[C::Lanes::<S>::splat(simd, C::ZERO); V]; G]; R];
        let mut target = sums.get_mut(row * stride..(row + R - 1) * stride + G * width);
        if former == Former::Blocks
            && let Some(target) = &target
        {
            for row in target.chunks(stride.max(1)) {
                for line in row.chunks(64 / size_of::<C>()).take(G) {
                    simd::prefetch(line.as_ptr());
                }
            }
        }
        strip.for_each(
            x,
            row,
            width,
            follow,
            #[inline(always)]
            |values, panels, follow| {
                if R <= PREFETCHED_ROWS {
                    for g in 0..G {
                        simd::prefetch(panels[g].as_ptr().wrapping_byte_offset(ahead));
                    }
                } else {
                    simd::prefetch_far(follow);
                }
                step::<S, C, W, R, G, V>(simd, values, panels, &mut tile);
            },
        );
        if former == Former::Blocks || keep {
            let Some(target) = &mut target else { return };
            let mut add = inlined(
                #[inline(always)]
                |r: usize| {
                    let Some(target) = target.get_mut(r * stride..r * stride + G * width) else { return };
                    for g in 0..G {
                        for v in 0..V {
                            let target = &mut target[g * width + v * lanes..g * width + (v + 1) * lanes];
                            if former == Former::Blocks {
                                tile[r][g][v] = C::load(simd, target) + tile[r][g][v];
                            }
                            if keep {
                                C::store::<S>(tile[r][g][v], target);
                            }
                        }
                    }
                },
            );
            each_index!(R, add);
        }
        if let Some(Store { bias, relu, out }) = &mut store {
            let Some(bias) = bias.get(..G * width) else { return };
            let zero = C::Lanes::<S>::splat(simd, C::ZERO);
            let mut finish = inlined(
                #[inline(always)]
                |r: usize| {
                    let Some(target) = out.row_mut(row + r).and_then(|row| row.get_mut(..G * width)) else { return };
                    for g in 0..G {
                        for v in 0..V {
                            let place = g * width + v * lanes..g * width + (v + 1) * lanes;
                            let value = tile[r][g][v] + C::load(simd, &bias[place.clone()]);
                            let value = if *relu { value.simd_le(zero).select(zero, value) } else { value };
                            C::store::<S>(value, &mut target[place]);
                        }
                    }
                },
            );
            each_index!(R, finish);
        }
    }
}

/// One step of k.
#[inline(always)]
fn step<S: Simd, C: Compute, W: Float<Acc = C>, const R: usize, const G: usize, const V: usize>(
    simd: S,
    values: [&C; R],
    panels: [&[W]; G],
    tile: &mut [[[C::Lanes<S>; V]; G]; R],
) {
    let lanes = C::Lanes::<S>::LEN;
    // The fewer of the two, rows and columns, stay in registers, and the others pass.
    if R <= G * V {
        let mut rows = [C::Lanes::<S>::splat(simd, C::ZERO); R];
        for r in 0..R {
            rows[r] = C::Lanes::<S>::splat(simd, *values[r]);
        }
        for g in 0..G {
            for v in 0..V {
                let columns = W::load(simd, &panels[g][v * lanes..(v + 1) * lanes]);
                for r in 0..R {
                    tile[r][g][v] = rows[r].mul_add(columns, tile[r][g][v]);
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
            let value = C::Lanes::<S>::splat(simd, *values[r]);
            for g in 0..G {
                for v in 0..V {
                    tile[r][g][v] = value.mul_add(columns[g][v], tile[r][g][v]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `run_tiles` has each tile that rows and panels are cut into, and all panels are covered, at any level.
    #[test]
    fn each_size_has_its_tile() {
        for vectors in [1, 2, 4] {
            for each in 1..=max_rows(vectors) {
                let rows = TiledRows { start: 0, tiles: 1, each, vectors };
                let lies = [Lie::Packed, Lie::SideBySide, Lie::Overlapping];
                for (left, lie) in (1..40).flat_map(|left| lies.map(|lie| (left, lie))) {
                    let panels = rows.panels(left, lie);
                    assert!((1..=left).contains(&panels) && fits(each, panels, vectors), "{rows:?} {left}");
                }
            }
        }
    }
}

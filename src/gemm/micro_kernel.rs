//! The inner loop: a few rows by a few panels of columns, their sums in registers over some steps of k. Nothing here knows
//! shapes or threads.

use core::iter::from_fn;
use core::ops::Range;

use fearless_simd::{Select, Simd, SimdBase, SimdFloat};

use super::problem::even_split;
use super::vectors_per_panel;
use crate::float::{Compute, Float, MAX_LANES};
use crate::simd::{self, dispatch};
use crate::view::{Matrix, MatrixMut, PanelGroup, inlined};

/// The most rows of a tile at any CPU level.
const MAX_MR: usize = 12;

/// The most rows of a tile that widens a weight as it reads it: for more it is cheaper to widen it once.
pub(crate) const MAX_WIDENING_MR: usize = 4;

/// The most vectors of columns of a tile. One row is multiplied as fast as its weight can be read, and the longer the
/// pieces in which it is read, the faster that goes.
pub(crate) const MAX_NR_VECTORS: usize = 16;

/// The most columns of a tile.
pub(crate) const MAX_NR: usize = MAX_NR_VECTORS * MAX_LANES;

/// The most packed panels that a tile reads at once.
const MAX_PACKED_STREAMS: usize = 8;

/// Tiles of so few rows read weights faster than the CPU foresees.
const PREFETCHED_MR: usize = 4;

/// How far ahead they ask for a weight: rows of one that is not packed, bytes of a packed panel.
const AHEAD: (usize, isize) = (4, 1024);

/// The left operand and the sums of a run of tiles over one group of panels.
#[derive(Debug)]
pub(crate) struct TileArgs<'a, C> {
    /// Rows of equal tiles, their elements side by side.
    pub(crate) x: Matrix<'a, C>,
    /// The sums of these rows, each as long as the group is wide, `stride` numbers apart.
    pub(crate) sums: &'a mut [C],
    pub(crate) stride: usize,
    /// What is there already.
    pub(crate) beta: Beta,
    /// What is done to sums that are complete, where that is little enough to do it in registers.
    pub(crate) store: Option<FusedStore<'a, C>>,
}

/// What the sums of a run hold before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beta {
    /// Anything: this is the first block of k.
    Zero,
    /// The sum of beta blocks of k, to which this one's is added.
    One,
}

/// Where complete sums go from the registers.
#[derive(Debug)]
pub(crate) struct FusedStore<'a, C> {
    /// As many as the group has columns.
    pub(crate) bias: &'a [C],
    pub(crate) relu: bool,
    /// The rows and columns of the tiles.
    pub(crate) out: MatrixMut<'a, C>,
}

/// Rows that are cut into equal tiles.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowTiles {
    start: usize,
    tiles: usize,
    /// The rows of each tile.
    pub(crate) mr: usize,
    /// The vectors of a panel.
    vectors: usize,
}

impl RowTiles {
    pub(crate) fn range(&self) -> Range<usize> {
        self.start..self.start + self.tiles * self.mr
    }

    /// These panels group by group: (the first, how many).
    pub(crate) fn panel_groups(
        self,
        panels: Range<usize>,
        layout: PanelLayout,
    ) -> impl Iterator<Item = (usize, usize)> {
        let mut panel = panels.start;
        from_fn(move || {
            let left = panels.end.checked_sub(panel).filter(|&left| left > 0)?;
            let count = self.panels(left, layout);
            panel += count;
            Some((panel - count, count))
        })
    }

    /// How many panels the next tiles take where so many are left.
    fn panels(&self, left: usize, layout: PanelLayout) -> usize {
        let wide = wide(self.mr, self.vectors);
        let one_more_is_better =
            left.checked_sub(wide + 1).is_some_and(|rest| rest == 0 || rest.is_power_of_two() && rest < wide);
        if layout == PanelLayout::Overlapping && one_more_is_better && fits(self.mr, wide + 1, self.vectors) {
            return wide + 1;
        }
        let most = if layout == PanelLayout::Packed { left.min(MAX_PACKED_STREAMS) } else { left };
        (1..=wide.min(most)).rev().find(|&panels| fits(self.mr, panels, self.vectors)).unwrap_or(1)
    }
}

/// How the panels of a weight layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PanelLayout {
    /// Each on its own. They are streams that a cache has few places for where they are a power of two apart: so at most
    /// [`MAX_PACKED_STREAMS`] of them.
    Packed,
    /// Side by side in the rows of a matrix.
    SideBySide,
    /// Likewise, but for the first and the last, which layout over part of others: there is one more than there would be,
    /// which is better not left over.
    Overlapping,
}

/// Cuts rows into tiles of nearly the same size for products whose compute type is `C`: one run of them or two.
pub(crate) fn row_tiles<C: Compute>(level: simd::Level, rows: Range<usize>) -> impl Iterator<Item = RowTiles> {
    let vectors = vectors_per_panel_at::<C>(level);
    let mut start = rows.start;
    even_split(rows.len(), max_mr(vectors)).into_iter().filter(|&(tiles, each)| tiles * each > 0).map(
        move |(tiles, each)| {
            let run = RowTiles { start, tiles, mr: each, vectors };
            start = run.range().end;
            run
        },
    )
}

/// The most rows of a tile of compute type `C` at a CPU level.
pub(crate) fn max_mr_at<C: Compute>(level: simd::Level) -> usize {
    max_mr(vectors_per_panel_at::<C>(level))
}

/// The panels that tiles of so many rows are wide at most.
pub(crate) fn widest<C: Compute>(level: simd::Level, rows: usize) -> usize {
    wide(rows, vectors_per_panel_at::<C>(level))
}

fn vectors_per_panel_at<C: Compute>(level: simd::Level) -> usize {
    #[inline(always)]
    fn at<S: Simd, C: Compute>(_: S) -> usize {
        const { vectors_per_panel::<S, C>() }
    }
    dispatch!(level, simd => at::<_, C>(simd))
}

/// Multiplies tiles of `rows` rows by the first `panels` panels of a group, at a CPU level. The numbers are those that
/// [`RowTiles`] tells; at most [`MAX_WIDENING_MR`] rows where `W` is another type than `C`.
pub(crate) fn multiply_tiles<C: Compute, W: Float<Acc = C>>(
    level: simd::Level,
    (rows, panels): (usize, usize),
    group: PanelGroup<'_, W>,
    run: TileArgs<'_, C>,
) {
    #[inline(always)]
    fn by_vectors<S: Simd, C: Compute, W: Float<Acc = C>>(
        simd: S,
        size: (usize, usize),
        group: PanelGroup<'_, W>,
        run: TileArgs<'_, C>,
    ) {
        if const { vectors_per_panel::<S, C>() == 1 } {
            select::<S, C, W, 1>(simd, size, group, run);
        } else if const { vectors_per_panel::<S, C>() == 2 } {
            select::<S, C, W, 2>(simd, size, group, run);
        } else {
            select::<S, C, W, 4>(simd, size, group, run);
        }
    }
    dispatch!(level, simd => by_vectors(simd, (rows, panels), group, run));
}

/// Calls [`micro_kernel`] for the number of rows and panels; only what a level uses is compiled for it.
#[inline(always)]
fn select<S: Simd, C: Compute, W: Float<Acc = C>, const VECTORS: usize>(
    simd: S,
    size: (usize, usize),
    group: PanelGroup<'_, W>,
    run: TileArgs<'_, C>,
) {
    macro_rules! among {
        ($($r:literal: $($g:literal)*,)*) => {
            match size {
                $($(($r, $g) if const { fits($r, $g, VECTORS) && ($r <= MAX_WIDENING_MR || is_wide::<C, W>()) } => {
                    micro_kernel::<S, C, W, $r, $g, VECTORS>(simd, group, run);
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
    // One panel more than the columns have begins or ends among them, see `OperandSource::before`; on its own it would be read
    // line by line.
    let is_one_more = panels == wide + 1 && rows <= 3 && vectors == 1;
    rows <= max_mr(vectors) && (panels == wide || is_rest || is_one_more)
}

/// The panels of the widest tile of so many rows: as many as there are accumulators for.
const fn wide(rows: usize, vectors: usize) -> usize {
    let by_registers = simd::accumulators(vectors) / (rows * vectors);
    let most = MAX_NR_VECTORS / vectors;
    if by_registers < 1 {
        1
    } else if by_registers > most {
        most
    } else {
        by_registers
    }
}

/// The most rows of a tile.
const fn max_mr(vectors: usize) -> usize {
    let rows = simd::accumulators(vectors) / vectors;
    if rows < 1 {
        1
    } else if rows > MAX_MR {
        MAX_MR
    } else {
        rows
    }
}

/// A function of its own, so that its loop has all registers.
#[inline(never)]
fn micro_kernel<S: Simd, C: Compute, W: Float<Acc = C>, const MR: usize, const PANELS: usize, const VECTORS: usize>(
    simd: S,
    group: PanelGroup<'_, W>,
    run: TileArgs<'_, C>,
) {
    simd.vectorize(
        #[inline(always)]
        || micro_kernel_here::<S, C, W, MR, PANELS, VECTORS>(simd, group, run),
    );
}

#[inline(always)]
fn micro_kernel_here<
    S: Simd,
    C: Compute,
    W: Float<Acc = C>,
    const MR: usize,
    const PANELS: usize,
    const VECTORS: usize,
>(
    simd: S,
    group: PanelGroup<'_, W>,
    run: TileArgs<'_, C>,
) {
    let TileArgs { x, sums, stride, beta, mut store } = run;
    let lanes = C::Lanes::<S>::LEN;
    let width = VECTORS * lanes;
    let ahead = group.ahead(AHEAD.0, AHEAD.1);
    let keep = store.is_none();
    for (index, row) in (0..x.rows()).step_by(MR).enumerate() {
        // The first tiles ask for the panels behind the group's, one each; the others for what is there already.
        let follow = group.address(if index < PANELS { PANELS + index } else { 0 });
        let mut tile = [[[C::Lanes::<S>::splat(simd, C::ZERO); VECTORS]; PANELS]; MR];
        let mut target = sums.get_mut(row * stride..(row + MR - 1) * stride + PANELS * width);
        if beta == Beta::One
            && let Some(target) = &target
        {
            for row in target.chunks(stride.max(1)) {
                for line in row.chunks(64 / size_of::<C>()).take(PANELS) {
                    simd::prefetch(line.as_ptr());
                }
            }
        }
        group.for_each(
            x,
            row,
            width,
            follow,
            #[inline(always)]
            |values, panels, follow| {
                if MR <= PREFETCHED_MR {
                    for g in 0..PANELS {
                        simd::prefetch(panels[g].as_ptr().wrapping_byte_offset(ahead));
                    }
                } else {
                    simd::prefetch_far(follow);
                }
                rank_1_update::<S, C, W, MR, PANELS, VECTORS>(simd, values, panels, &mut tile);
            },
        );
        if beta == Beta::One || keep {
            let Some(target) = &mut target else { return };
            let mut add = inlined(
                #[inline(always)]
                |r: usize| {
                    let Some(target) = target.get_mut(r * stride..r * stride + PANELS * width) else { return };
                    for g in 0..PANELS {
                        for v in 0..VECTORS {
                            let target = &mut target[g * width + v * lanes..g * width + (v + 1) * lanes];
                            if beta == Beta::One {
                                tile[r][g][v] = C::load(simd, target) + tile[r][g][v];
                            }
                            if keep {
                                C::store::<S>(tile[r][g][v], target);
                            }
                        }
                    }
                },
            );
            each_index!(MR, add);
        }
        if let Some(FusedStore { bias, relu, out }) = &mut store {
            let Some(bias) = bias.get(..PANELS * width) else { return };
            let zero = C::Lanes::<S>::splat(simd, C::ZERO);
            let mut finish = inlined(
                #[inline(always)]
                |r: usize| {
                    let Some(target) = out.row_mut(row + r).and_then(|row| row.get_mut(..PANELS * width)) else {
                        return;
                    };
                    for g in 0..PANELS {
                        for v in 0..VECTORS {
                            let place = g * width + v * lanes..g * width + (v + 1) * lanes;
                            let value = tile[r][g][v] + C::load(simd, &bias[place.clone()]);
                            let value = if *relu { value.simd_le(zero).select(zero, value) } else { value };
                            C::store::<S>(value, &mut target[place]);
                        }
                    }
                },
            );
            each_index!(MR, finish);
        }
    }
}

/// One step of k.
#[inline(always)]
fn rank_1_update<S: Simd, C: Compute, W: Float<Acc = C>, const MR: usize, const PANELS: usize, const VECTORS: usize>(
    simd: S,
    values: [&C; MR],
    panels: [&[W]; PANELS],
    tile: &mut [[[C::Lanes<S>; VECTORS]; PANELS]; MR],
) {
    let lanes = C::Lanes::<S>::LEN;
    // The fewer of the two, rows and columns, stay in registers, and the others pass.
    if MR <= PANELS * VECTORS {
        let mut rows = [C::Lanes::<S>::splat(simd, C::ZERO); MR];
        for r in 0..MR {
            rows[r] = C::Lanes::<S>::splat(simd, *values[r]);
        }
        for g in 0..PANELS {
            for v in 0..VECTORS {
                let columns = W::load(simd, &panels[g][v * lanes..(v + 1) * lanes]);
                for r in 0..MR {
                    tile[r][g][v] = rows[r].mul_add(columns, tile[r][g][v]);
                }
            }
        }
    } else {
        let mut columns = [[C::Lanes::<S>::splat(simd, C::ZERO); VECTORS]; PANELS];
        for g in 0..PANELS {
            for v in 0..VECTORS {
                columns[g][v] = W::load(simd, &panels[g][v * lanes..(v + 1) * lanes]);
            }
        }
        for r in 0..MR {
            let value = C::Lanes::<S>::splat(simd, *values[r]);
            for g in 0..PANELS {
                for v in 0..VECTORS {
                    tile[r][g][v] = value.mul_add(columns[g][v], tile[r][g][v]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `multiply_tiles` has each tile that rows and panels are cut into, and all panels are covered, at any level.
    #[test]
    fn each_size_has_its_tile() {
        for vectors in [1, 2, 4] {
            for each in 1..=max_mr(vectors) {
                let rows = RowTiles { start: 0, tiles: 1, mr: each, vectors };
                let lies = [PanelLayout::Packed, PanelLayout::SideBySide, PanelLayout::Overlapping];
                for (left, layout) in (1..40).flat_map(|left| lies.map(|layout| (left, layout))) {
                    let panels = rows.panels(left, layout);
                    assert!((1..=left).contains(&panels) && fits(each, panels, vectors), "{rows:?} {left}");
                }
            }
        }
    }
}

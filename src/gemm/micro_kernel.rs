//! The micro-kernel: a register tile of MR rows by some panels of columns, to which each step of k adds the product of
//! a column of x and a row of the weight (a rank-1 update). Nothing here knows shapes or threads.

use core::iter::from_fn;
use core::ops::Range;

use fearless_simd::{Select, Simd, SimdBase, SimdFloat};

use super::problem::{Beta, even_parts};
use super::{panel_width, vectors_per_panel};
use crate::float::{Compute, Float};
use crate::macros::{bug, lane_fn};
use crate::simd::{self, dispatch};
use crate::view::{Matrix, MatrixMut, PanelGroup, inlined};

/// The most rows of a tile at any CPU level.
const MAX_MR: usize = 12;

/// The most rows of a tile that widens a weight as it reads it: for more it is cheaper to widen it once.
pub(crate) const MAX_WIDENING_MR: usize = 4;

/// The most vectors of columns of a tile. One row is multiplied as fast as its weight can be read, and the longer the
/// pieces in which it is read, the faster that goes.
pub(crate) const MAX_NR_VECTORS: usize = 16;

/// The most packed panels that a tile reads at once.
const MAX_PACKED_PANELS: usize = 8;

/// Tiles of so few rows read weights faster than the CPU foresees.
const PREFETCHED_MR: usize = 4;

/// How far ahead they ask for a weight: rows of one that is not packed, bytes of a packed panel.
const AHEAD: (usize, isize) = (4, 1024);

/// The left operand and the sums of equal tiles, one above the other, over one group of panels.
#[derive(Debug)]
pub(crate) struct TileArgs<'a, C> {
    /// The rows of the tiles; the elements of each are contiguous.
    pub(crate) x: Matrix<'a, C>,
    /// The sums of these rows, each as long as the group is wide, `stride` numbers apart.
    pub(crate) sums: &'a mut [C],
    pub(crate) stride: usize,
    pub(crate) beta: Beta,
    /// Where sums go that are complete, where so little is done to them that it is done in registers.
    pub(crate) fused: Option<FusedStore<'a, C>>,
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

/// The registers that a CPU level has for tiles of one compute type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Registers {
    /// The columns of a panel.
    pub(crate) panel: usize,
    /// The vectors of a panel.
    pub(crate) vectors: usize,
}

impl Registers {
    pub(crate) fn at<C: Compute>(level: simd::Level) -> Self {
        #[inline(always)]
        fn vectors<S: Simd, C: Compute>(_: S) -> usize {
            const { vectors_per_panel::<S, C>() }
        }
        let vectors = dispatch!(level, simd => vectors::<_, C>(simd));
        Self { panel: const { panel_width::<C>() }, vectors }
    }

    /// The most rows of a tile.
    pub(crate) fn max_mr(self) -> usize {
        max_mr(self.vectors)
    }

    /// The rows and columns of the largest tile that a block of (rows, columns) is cut into.
    #[cfg(feature = "python")]
    pub(super) fn tile(self, (m, n): (usize, usize), is_packed: bool) -> (usize, usize) {
        let [(longer, _), (_, len)] = even_parts(m, self.max_mr());
        let mr = (len + usize::from(longer > 0)).max(1);
        let most = if is_packed { MAX_PACKED_PANELS } else { usize::MAX };
        (mr, self.max_panels(mr).min(n.div_ceil(self.panel)).min(most) * self.panel)
    }

    /// The panels of the widest tile of so many rows.
    pub(crate) fn max_panels(self, mr: usize) -> usize {
        max_panels(mr, self.vectors)
    }
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

    /// These panels group by group, each as many as a tile has: (the first, how many).
    pub(crate) fn panel_groups(
        self,
        panels: Range<usize>,
        layout: PanelLayout,
    ) -> impl Iterator<Item = (usize, usize)> {
        let mut panel = panels.start;
        from_fn(move || {
            let left = panels.end.checked_sub(panel).filter(|&left| left > 0)?;
            let count = self.next_group(left, layout);
            panel += count;
            Some((panel - count, count))
        })
    }

    /// How many panels the next tiles take where so many are left.
    fn next_group(&self, left: usize, layout: PanelLayout) -> usize {
        let widest = max_panels(self.mr, self.vectors);
        let one_more_is_better =
            left.checked_sub(widest + 1).is_some_and(|rest| rest == 0 || rest.is_power_of_two() && rest < widest);
        if layout == PanelLayout::Overlapping && one_more_is_better && fits(self.mr, widest + 1, self.vectors) {
            return widest + 1;
        }
        let most = if layout == PanelLayout::Packed { left.min(MAX_PACKED_PANELS) } else { left };
        (1..=widest.min(most)).rev().find(|&panels| fits(self.mr, panels, self.vectors)).unwrap_or(1)
    }
}

/// How the panels of a weight lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PanelLayout {
    /// One after the other. Read together they may be a power of two apart, where a cache has few places: so at most
    /// [`MAX_PACKED_PANELS`] of them are.
    Packed,
    /// Side by side in the rows of a matrix.
    SideBySide,
    /// Likewise, but for the first and the last, which lie over part of their neighbours: there is one more than there
    /// would be, which is better not left over.
    Overlapping,
}

/// Cuts rows into tiles of nearly the same size for products whose compute type is `C`: equal ones, and as many of one
/// row less.
pub(crate) fn row_tiles<C: Compute>(level: simd::Level, rows: Range<usize>) -> impl Iterator<Item = RowTiles> {
    let Registers { vectors, .. } = Registers::at::<C>(level);
    let mut start = rows.start;
    even_parts(rows.len(), max_mr(vectors)).into_iter().filter(|&(tiles, mr)| tiles * mr > 0).map(move |(tiles, mr)| {
        let equal = RowTiles { start, tiles, mr, vectors };
        start = equal.range().end;
        equal
    })
}

/// Runs the micro-kernel over equal tiles, of `mr` rows by the first `panels` panels of a group, at a CPU level. The
/// numbers are those that [`RowTiles`] tells; at most [`MAX_WIDENING_MR`] rows where `W` is another type than `C`.
pub(crate) fn multiply_tiles<C: Compute, W: Float<Acc = C>>(
    level: simd::Level,
    (mr, panels): (usize, usize),
    group: PanelGroup<'_, W>,
    args: TileArgs<'_, C>,
) {
    #[inline(always)]
    fn by_vectors<S: Simd, C: Compute, W: Float<Acc = C>>(
        simd: S,
        size: (usize, usize),
        group: PanelGroup<'_, W>,
        args: TileArgs<'_, C>,
    ) {
        if const { vectors_per_panel::<S, C>() == 1 } {
            select::<S, C, W, 1>(simd, size, group, args);
        } else if const { vectors_per_panel::<S, C>() == 2 } {
            select::<S, C, W, 2>(simd, size, group, args);
        } else {
            select::<S, C, W, 4>(simd, size, group, args);
        }
    }
    dispatch!(level, simd => by_vectors(simd, (mr, panels), group, args));
}

/// Calls [`micro_kernel`] for the number of rows and panels; only what a level uses is compiled for it.
#[inline(always)]
fn select<S: Simd, C: Compute, W: Float<Acc = C>, const VECTORS: usize>(
    simd: S,
    size: (usize, usize),
    group: PanelGroup<'_, W>,
    args: TileArgs<'_, C>,
) {
    macro_rules! among {
        ($($r:literal: $($g:literal)*,)*) => {
            match size {
                $($(($r, $g) if const { fits($r, $g, VECTORS) && ($r <= MAX_WIDENING_MR || is_wide::<C, W>()) } => {
                    micro_kernel::<S, C, W, $r, $g, VECTORS>(simd, group, args);
                })*)*
                _ => debug_assert!(false, "no tile of {size:?}"),
            }
        };
    }
    among!(
        1: 1 2 3 4 6 8 16 17, 2: 1 2 3 4 8 12 13, 3: 1 2 8 9, 4: 1 2 6, 5: 1 2 4, 6: 1 2 4, 7: 1 2 3, 8: 1 2 3,
        9: 1 2, 10: 1 2, 11: 1 2, 12: 1 2,
    );
}

/// Whether weights of `W` need no widening. A type of a user's that is as wide is taken for one that does not.
const fn is_wide<C, W>() -> bool {
    size_of::<C>() == size_of::<W>()
}

/// Whether a tile is one of those that a level with `vectors` vectors a panel uses: the widest, one that is a little
/// wider, and some for what is left of columns, more of them where rows are too few to hide how long a multiplication
/// takes.
const fn fits(mr: usize, panels: usize, vectors: usize) -> bool {
    let widest = max_panels(mr, vectors);
    let is_rest = panels.is_power_of_two() && panels < widest && (panels <= 2 || mr <= 2);
    // Panels that overlap are one more than the columns have, see `PanelSource::Overlapping`; on its own it would be
    // read line by line.
    let is_one_more = panels == widest + 1 && mr <= 3 && vectors == 1;
    mr <= max_mr(vectors) && (panels == widest || is_rest || is_one_more)
}

/// The panels of the widest tile of so many rows: as many as there are accumulators for.
const fn max_panels(mr: usize, vectors: usize) -> usize {
    let by_registers = simd::accumulators(vectors) / (mr * vectors);
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
    args: TileArgs<'_, C>,
) {
    simd.vectorize(lane_fn!(|| micro_kernel_here::<S, C, W, MR, PANELS, VECTORS>(simd, group, args)));
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
    args: TileArgs<'_, C>,
) {
    let TileArgs { x, sums, stride, beta, mut fused } = args;
    let lanes = C::Lanes::<S>::LEN;
    let width = VECTORS * lanes;
    let ahead = group.ahead(AHEAD.0, AHEAD.1);
    let keep = fused.is_none();
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
        let fits = group.for_each(
            x,
            row,
            width,
            follow,
            lane_fn!(|values, panels, follow| {
                if MR <= PREFETCHED_MR {
                    for g in 0..PANELS {
                        simd::prefetch(panels[g].as_ptr().wrapping_byte_offset(ahead));
                    }
                } else {
                    simd::prefetch_far(follow);
                }
                rank_1_update::<S, C, W, MR, PANELS, VECTORS>(simd, values, panels, &mut tile);
            }),
        );
        debug_assert!(fits, "x and panels do not fit a tile");
        if beta == Beta::One || keep {
            let Some(target) = &mut target else { return bug!() };
            let mut add = inlined(
                #[inline(always)]
                |r: usize| {
                    let Some(target) = target.get_mut(r * stride..r * stride + PANELS * width) else { return bug!() };
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
        if let Some(FusedStore { bias, relu, out }) = &mut fused {
            let Some(bias) = bias.get(..PANELS * width) else { return bug!() };
            let zero = C::Lanes::<S>::splat(simd, C::ZERO);
            let mut store = inlined(
                #[inline(always)]
                |r: usize| {
                    let Some(target) = out.row_mut(row + r).and_then(|row| row.get_mut(..PANELS * width)) else {
                        return bug!();
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
            each_index!(MR, store);
        }
    }
}

/// One step of k: each sum of the tile takes a multiply-add.
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
            for mr in 1..=max_mr(vectors) {
                let rows = RowTiles { start: 0, tiles: 1, mr, vectors };
                let layouts = [PanelLayout::Packed, PanelLayout::SideBySide, PanelLayout::Overlapping];
                for (left, layout) in (1..40).flat_map(|left| layouts.map(|layout| (left, layout))) {
                    let panels = rows.next_group(left, layout);
                    assert!((1..=left).contains(&panels) && fits(mr, panels, vectors), "{rows:?} {left}");
                }
            }
        }
    }
}

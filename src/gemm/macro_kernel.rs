//! Computes one block of a product on this thread, the way its [`Plan`] says: the loops around the micro-kernel, which
//! the head of [`gemm`](super) draws, or few rows without them. Compiled once for each compute type; storage types and
//! CPU levels are behind what it calls.

use core::iter::from_fn;
use core::ops::Range;

use super::micro_kernel::{FusedStore, MAX_NR_VECTORS, PanelLayout, Registers, TileArgs, multiply_tiles, row_tiles};
use super::operands::{OperandSource, OutputSink, TileSums};
use super::plan::{PanelSource, Plan, plan};
use super::problem::{Beta, even_split};
use super::{dot, gemv_rows, kc_of, panel_width};
use crate::error::{NoMemory, Shape};
use crate::float::Compute;
use crate::kernel::kernel;
use crate::macros::bug;
use crate::simd::{self, Level};
use crate::view::{Line, Matrix, PanelGroup};
use crate::workspace::{Workspace, bytes_of, split};

/// The rows that go over the panels together, so that what they read of x stays in the cache's second level.
pub(super) const MC: usize = 96;
/// The panels that are packed and then used at once: the longer the pieces of the weight that are read together, the
/// faster that goes, and so many stay in the cache's second level.
pub(super) const NC_PANELS: usize = 16;

kernel! {
    /// A block of a product, whatever its storage types: called for compute types alone.
    MultiplyBlock<T>(
        operands: &'a dyn OperandSource<T::Acc>,
        k: usize,
        output: &'a mut dyn OutputSink<T::Acc>,
        workspace: &'a mut Workspace,
    )
        -> Result<(), NoMemory> = multiply_block
}

/// Computes a block. Where there is no memory for that nothing is written.
fn multiply_block<C: Compute>(
    operands: &dyn OperandSource<C>,
    k: usize,
    output: &mut dyn OutputSink<C>,
    workspace: &mut Workspace,
) -> Result<(), NoMemory> {
    let level = simd::level();
    let block = Block::new(level, operands, output.shape(), k, None);
    let parts = block.buffers();
    workspace.lend(bytes_of(parts), |lines| {
        let [a, b, sums, partial, bias] = split(lines, parts).map(Line::numbers::<C>);
        output.load_bias(level, bias);
        let buffers = Buffers { a, b, sums, partial, bias };
        match block.plan {
            Plan::Dot => block.dot(output, buffers),
            Plan::GemvRows | Plan::GemvColumns => block.gemv(output, buffers),
            Plan::Tiles(_) => block.macro_kernel(output, 0..block.panels, buffers),
        }
    })
}

kernel! {
    /// The bytes of the workspace that a block of so many rows and columns takes, wherever in memory its weight begins.
    BlockWorkspace<T>(operands: &'a dyn OperandSource<T::Acc>, shape: Shape, k: usize) -> usize = block_workspace
}

fn block_workspace<C: Compute>(operands: &dyn OperandSource<C>, shape: Shape, k: usize) -> usize {
    bytes_of(Block::new(simd::level(), operands, shape, k, Some(panel_width::<C>() - 1)).buffers())
}

/// The same for the block as its weight lies.
#[cfg(test)]
pub(super) fn workspace_here<C: Compute>(operands: &dyn OperandSource<C>, shape: Shape, k: usize) -> usize {
    bytes_of(Block::new(simd::level(), operands, shape, k, None).buffers())
}

/// What a block lays out in its workspace.
#[derive(Debug)]
struct Buffers<'w, C> {
    /// Rows of x, for one block of k.
    a: &'w mut [C],
    /// Packed panels of the weight, for one block of k.
    b: &'w mut [C],
    /// Sums that wait for the next block of k, or for an epilogue.
    sums: &'w mut [C],
    /// What one block of k adds to the sums of few rows.
    partial: &'w mut [C],
    bias: &'w mut [C],
}

/// Where the micro-kernel finds the weight.
#[derive(Clone, Copy, Debug)]
enum Panels<'a, C> {
    InPlace,
    /// Packed panels, of which the first is so many panels into the block.
    Packed(usize, &'a [C]),
}

/// Equal tiles, one above the other, over one group of panels, for one block of k.
struct Group {
    rows: Range<usize>,
    mr: usize,
    /// The first panel, and how many there are.
    panel: usize,
    count: usize,
    pc: Range<usize>,
}

/// A block, and the sizes of its loops.
struct Block<'o, C> {
    level: Level,
    operands: &'o dyn OperandSource<C>,
    plan: Plan,
    m: usize,
    n: usize,
    k: usize,
    /// The steps of a block of k.
    kc: usize,
    /// The columns of a panel, and how many panels there are.
    width: usize,
    panels: usize,
    /// How many of them, from the first on, are read where the weight lies; the others are packed.
    in_place: usize,
    /// How far before the first column the first panel begins.
    lead: usize,
    /// Whether x is read where it lies.
    is_x_in_place: bool,
}

impl<'o, C: Compute> Block<'o, C> {
    /// For a block of this shape; with `misaligned`, as if its weight lay so many columns off a cache line.
    fn new(
        level: Level,
        operands: &'o dyn OperandSource<C>,
        (m, n): Shape,
        k: usize,
        misaligned: Option<usize>,
    ) -> Self {
        let width = panel_width::<C>();
        let layout = operands.layout();
        let layout = misaligned.map_or(layout, |by| layout.misaligned(by));
        let plan = plan((m, n, k), &layout, 1, Registers::at::<C>(level));
        let lead = if let Plan::Tiles(PanelSource::Overlapping { lead }) = plan { lead } else { 0 };
        let panels = n.saturating_add(lead).div_ceil(width);
        let in_place = match plan {
            Plan::GemvColumns | Plan::Tiles(PanelSource::Packed | PanelSource::Overlapping { .. }) => panels,
            Plan::GemvRows | Plan::Tiles(PanelSource::InPlace) => n / width,
            Plan::Dot | Plan::Tiles(PanelSource::PackEachBlock | PanelSource::PackOnce) => 0,
        };
        let is_x_in_place = operands.x().is_some();
        Self { level, operands, plan, m, n, k, kc: kc_of(k), width, panels, in_place, lead, is_x_in_place }
    }

    fn is_gemv(&self) -> bool {
        matches!(self.plan, Plan::GemvRows | Plan::GemvColumns)
    }

    /// From a row of partial sums to the next.
    fn partial_stride(&self) -> usize {
        gemv_rows::stride::<C>(self.width * self.in_place)
    }

    /// The bytes of each of the [`Buffers`].
    fn buffers(&self) -> [usize; 5] {
        let Self { m, k, kc, width, panels, .. } = *self;
        let bytes = |count: usize, each: usize| count.saturating_mul(each).saturating_mul(size_of::<C>());
        let mc = MC.min(m);
        let packed = if self.plan == Plan::Dot { 0 } else { NC_PANELS.min(panels - self.in_place) };
        // Where one block of k is all there is, sums need not outlive a block of rows, and where the epilogue is light,
        // not a tile.
        let sums = if k > kc || self.is_gemv() {
            bytes(m, width * panels)
        } else {
            bytes(mc, width * panels.min(MAX_NR_VECTORS + 1))
        };
        [
            bytes(if self.is_x_in_place { 0 } else { mc }, kc),
            bytes(packed * width, kc),
            sums,
            bytes(if self.is_gemv() { m } else { 0 }, self.partial_stride()),
            bytes(panels + 1, width),
        ]
    }

    /// Loop 4, pc: blocks of k, one of no steps where there are none.
    fn k_blocks(&self) -> impl Iterator<Item = Range<usize>> + use<C> {
        let k = self.k;
        pieces(0..k.max(1), self.kc).map(move |pc| pc.start..pc.end.min(k))
    }

    /// Loop 5, jc: the panels that are read in place, then as many at a time as are packed together.
    fn column_blocks(&self, panels: Range<usize>) -> impl Iterator<Item = Range<usize>> + use<C> {
        let in_place = panels.start..self.in_place.max(panels.start);
        let packed = pieces(in_place.end..panels.end, NC_PANELS);
        Some(in_place).filter(|in_place| !in_place.is_empty()).into_iter().chain(packed)
    }

    /// The panels of one block of k and of columns: packed now, unless they are read in place.
    fn panels<'b>(&self, pc: &Range<usize>, jc: &Range<usize>, buffer: &'b mut [C]) -> Panels<'b, C> {
        if jc.start < self.in_place {
            return Panels::InPlace;
        }
        let cols = jc.start * self.width..(jc.end * self.width).min(self.n);
        self.operands.pack_b(self.level, pc.clone(), cols, buffer);
        Panels::Packed(jc.start, buffer)
    }

    /// The rows of x of one block of k and of rows: in place, or in `buffer`, where they are packed unless they lie
    /// there.
    fn rows<'s>(&'s self, ic: &Range<usize>, pc: &Range<usize>, buffer: &'s mut [C], is_packed: bool) -> Matrix<'s, C> {
        if let Some(x) = self.operands.x() {
            return x.block(ic.clone(), pc.clone());
        }
        if !is_packed {
            self.operands.pack_a(self.level, ic.clone(), pc.clone(), buffer);
        }
        Matrix::new(&*buffer, ic.len(), pc.len()).unwrap_or_else(|_| bug!((&[]).into()))
    }

    /// The loops over register tiles, for some of the panels: the head of [`gemm`](super) draws them.
    fn macro_kernel(&self, output: &mut dyn OutputSink<C>, panels: Range<usize>, buffers: Buffers<'_, C>) {
        let Buffers { a: a_buffer, b: b_buffer, sums, bias, .. } = buffers;
        let fuses = output.fused(0..self.m, 0..self.n).is_some();
        // Loop 4.
        for pc in self.k_blocks() {
            // Loop 5.
            for jc in self.column_blocks(panels.clone()) {
                let b = self.panels(&pc, &jc, b_buffer);
                // Loop 3.
                for ic in even_split(self.m, MC) {
                    // One block of rows is packed once for all columns.
                    let is_packed = jc.start > panels.start && ic.len() == self.m;
                    let a = self.rows(&ic, &pc, a_buffer, is_packed);
                    for tiles in row_tiles::<C>(self.level, ic.clone()) {
                        let rows = tiles.range();
                        let x = a.block(rows.start - ic.start..rows.end - ic.start, 0..pc.len());
                        // Loop 2. Loop 1, over the tiles of `rows`, is the micro-kernel's.
                        for (panel, count) in tiles.panel_groups(jc.clone(), self.panel_layout(b)) {
                            // Sums that outlive a block of k lie group by group of those of equal tiles.
                            let before = rows.start * panels.len() + rows.len() * (panel - panels.start);
                            let start = if self.k > self.kc { before * self.width } else { 0 };
                            let Some(sums) = sums.get_mut(start..) else { return bug!() };
                            let group = Group { rows: rows.clone(), mr: tiles.mr, panel, count, pc: pc.clone() };
                            self.multiply_group(output, group, (x, b), sums, bias, fuses);
                        }
                    }
                }
            }
        }
    }

    fn panel_layout(&self, b: Panels<'_, C>) -> PanelLayout {
        match (b, self.plan) {
            (Panels::Packed(..), _) | (_, Plan::Tiles(PanelSource::Packed)) => PanelLayout::Packed,
            (_, Plan::Tiles(PanelSource::Overlapping { .. })) => PanelLayout::Overlapping,
            _ => PanelLayout::SideBySide,
        }
    }

    /// Adds one block of k to the sums of one group of panels and, where it is the last, stores what they make: in the
    /// micro-kernel where the epilogue is light and the panels are whole, else after it.
    fn multiply_group(
        &self,
        output: &mut dyn OutputSink<C>,
        group: Group,
        (x, b): (Matrix<'_, C>, Panels<'_, C>),
        sums: &mut [C],
        bias: &[C],
        fuses: bool,
    ) {
        let Self { level, n, k, width, lead, .. } = *self;
        let Group { rows, mr, panel, count, pc } = group;
        let nr = count * width;
        let end = (panel + count) * width - lead;
        let cols = (panel * width).saturating_sub(lead)..end.min(n);
        let is_last = pc.end == k;
        let Some(sums) = sums.get_mut(..rows.len() * nr) else { return bug!() };
        let bias = bias.get(cols.start..).unwrap_or_else(|| bug!(&[]));
        let target = if is_last && fuses && cols.len() == nr { output.fused(rows.clone(), cols.clone()) } else { None };
        let fused = target.map(|(out, relu)| FusedStore { bias, relu, out });
        let is_stored = fused.is_some();
        let beta = if pc.start == 0 { Beta::Zero } else { Beta::One };
        let args = TileArgs { x, sums: &mut *sums, stride: nr, beta, fused };
        self.multiply_tiles((mr, count), panel, &pc, b, args);
        if is_last && !is_stored {
            if cols.len() < nr && self.panel_layout(b) == PanelLayout::Overlapping {
                let first = if panel == 0 { lead } else { 0 };
                sums.chunks_exact_mut(nr).for_each(|sums| compact(sums, width, first, end - cols.end));
            }
            output.store(level, TileSums { rows, cols, sums, stride: nr, bias });
        }
    }

    /// The micro-kernel over tiles of (rows, panels) from panel `panel` on.
    fn multiply_tiles(
        &self,
        (mr, count): (usize, usize),
        panel: usize,
        pc: &Range<usize>,
        b: Panels<'_, C>,
        args: TileArgs<'_, C>,
    ) {
        let Panels::Packed(first, numbers) = b else {
            return self.operands.multiply_tiles(self.level, (mr, count), (panel, self.lead), pc.clone(), args);
        };
        let panel_len = pc.len() * self.width;
        let numbers = numbers.get((panel - first) * panel_len..).unwrap_or_else(|| bug!(&[]));
        let Some(group) = PanelGroup::packed(numbers, (count, panel_len), pc.len(), self.width) else { return bug!() };
        multiply_tiles::<C, C>(self.level, (mr, count), group, args);
    }

    /// Few rows: each block of k adds to all their sums at once. What is left of a panel of columns goes over tiles.
    fn gemv(&self, output: &mut dyn OutputSink<C>, buffers: Buffers<'_, C>) {
        let Self { level, m, n, width, panels, in_place, .. } = *self;
        let Buffers { a, b, sums, partial, bias } = buffers;
        let (nr, stride) = (in_place * width, self.partial_stride());
        let Some((sums, tail_sums)) = sums.split_at_mut_checked(m * nr) else { return bug!() };
        let Some(partial) = partial.get_mut(..m * stride) else { return bug!() };
        for pc in self.k_blocks() {
            let x = self.rows(&(0..m), &pc, a, false);
            let first = match self.plan {
                Plan::GemvColumns => self.operands.gemv_columns(level, pc.clone(), x, partial),
                _ => self.operands.gemv_rows(level, pc.clone(), x, partial),
            };
            for (sums, partial) in sums.chunks_exact_mut(nr).zip(partial.chunks_exact(stride)) {
                let Some(partial) = partial.get(first..first + nr) else { return bug!() };
                if pc.start == 0 {
                    sums.copy_from_slice(partial);
                } else {
                    sums.iter_mut().zip(partial).for_each(|(sum, &partial)| *sum += partial);
                }
            }
        }
        output.store(level, TileSums { rows: 0..m, cols: 0..nr.min(n), sums, stride: nr, bias: &*bias });
        if in_place < panels {
            self.macro_kernel(output, in_place..panels, Buffers { a, b, sums: tail_sums, partial, bias });
        }
    }

    /// One row times one column.
    fn dot(&self, output: &mut dyn OutputSink<C>, Buffers { sums, bias, .. }: Buffers<'_, C>) {
        let Some((x, column)) = self.operands.x().and_then(|x| x.row(0)).zip(self.operands.column()) else {
            return bug!();
        };
        let Some(sum) = sums.first_mut() else { return bug!() };
        *sum = dot::dot(self.level, x, column, self.kc);
        output.store(self.level, TileSums { rows: 0..1, cols: 0..1, sums, stride: self.width, bias });
    }
}

/// Cuts a range into pieces of `len`, and a rest. (`step_by` would divide to know how many.)
fn pieces(range: Range<usize>, len: usize) -> impl Iterator<Item = Range<usize>> {
    let Range { mut start, end } = range;
    from_fn(move || {
        let piece = start..(start + len).min(end);
        start = piece.end;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Makes sums contiguous of which so many are missing in the first panel, at its end, and in the last one, at its
/// beginning.
fn compact<C: Copy>(sums: &mut [C], width: usize, first: usize, last: usize) {
    let len = sums.len();
    sums.copy_within(len - width + last.., len - width);
    sums.copy_within(width.., width - first);
}

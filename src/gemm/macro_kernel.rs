//! Computes one block of a product on this thread: packs what needs it and goes over blocks of k, bands of rows and strips
//! of panels. Compiled once for each compute type; storage types and CPU levels are behind what it calls.

use core::iter::repeat_n;

use super::micro_kernel::{Beta, FusedStore, MAX_NR_VECTORS, PanelLayout, TileArgs, multiply_tiles, row_tiles};
use super::operands::{OperandSource, OutputSink, TileSums};
use super::problem::even_split;
use super::{dot, gemv_rows, kc_of, panel_width};
use crate::error::{NoMemory, Shape};
use crate::float::Compute;
use crate::kernel::kernel;
use crate::math::activation::Activation;
use crate::simd::{self, Level};
use crate::view::{Line, Matrix, PanelGroup};
use crate::workspace::{Workspace, bytes_of, split};

/// The rows that go over the panels together, so that what they read of x stays in the cache's second level.
pub(super) const MC: usize = 96;
/// The panels that are packed and then used at once: the longer the pieces of the weight that are read together, the faster
/// that goes, and so many stay in the cache's second level.
pub(super) const NC_PANELS: usize = 16;

kernel! {
    /// A block of a product, whatever its storage types: called for compute types alone.
    MultiplyBlock<T>(operands: &'a dyn OperandSource<T::Acc>, k: usize, target: &'a mut dyn OutputSink<T::Acc>, workspace: &'a mut Workspace)
        -> Result<(), NoMemory> = compute
}

/// Computes a block. Where there is no memory for that nothing is written.
fn compute<C: Compute>(
    operands: &dyn OperandSource<C>,
    k: usize,
    target: &mut dyn OutputSink<C>,
    workspace: &mut Workspace,
) -> Result<(), NoMemory> {
    let level = simd::level();
    if target.shape() == (1, 1)
        && let (Some(x), Some(column)) = (operands.x().and_then(|x| x.row(0)), operands.column())
    {
        let parts = [panel_width::<C>() * size_of::<C>(); 2];
        return workspace.lend(bytes_of(parts), |lines| one_by_one(level, (x, column), target, split(lines, parts)));
    }
    let plan = Plan::new(level, operands, target.shape(), k, false);
    let parts = plan.parts::<C>();
    workspace.lend(bytes_of(parts), |lines| by_tiles(level, operands, &plan, target, split(lines, parts)))
}

kernel! {
    /// The bytes of the workspace that a block of so many rows and columns takes, wherever in memory its weight begins.
    BlockWorkspace<T>(operands: &'a dyn OperandSource<T::Acc>, shape: Shape, k: usize) -> usize = block_workspace
}

fn block_workspace<C: Compute>(operands: &dyn OperandSource<C>, shape: Shape, k: usize) -> usize {
    bytes_of(Plan::new(simd::level(), operands, shape, k, true).parts::<C>())
}

/// The same for the block as its weight lies.
#[cfg(test)]
pub(super) fn workspace_here<C: Compute>(operands: &dyn OperandSource<C>, shape: Shape, k: usize) -> usize {
    bytes_of(Plan::new(simd::level(), operands, shape, k, false).parts::<C>())
}

/// One row times one column.
fn one_by_one<C: Compute>(
    level: Level,
    (x, column): (&[C], &[C]),
    target: &mut dyn OutputSink<C>,
    [sums, bias]: [&mut [Line]; 2],
) {
    let width = panel_width::<C>();
    let (sums, bias) = (Line::numbers::<C>(sums), Line::numbers::<C>(bias));
    target.load_bias(level, bias);
    if let Some(sum) = sums.first_mut() {
        *sum = dot::dot(level, x, column, kc_of(x.len()));
    }
    target.store(level, TileSums { rows: 0..1, cols: 0..1, sums, stride: width, bias });
}

/// How a block is gone over.
#[derive(Clone, Copy, Debug)]
struct Plan {
    rows: usize,
    cols: usize,
    k: usize,
    /// The steps of a block of k.
    step: usize,
    /// The columns of a panel, how many panels there are, and how many of them, from the first on, are read in place.
    width: usize,
    panels: usize,
    in_place: usize,
    /// How far before the first column panels begin, where the first and the last layout over part of others for that.
    before: Option<usize>,
    /// The panels that are packed together.
    together: usize,
    x_in_place: bool,
    streams: bool,
    /// Whether sums wait in memory for the next block of k.
    keep: bool,
}

impl Plan {
    /// For a block of this shape; with `anywhere`, one that takes as much memory as any does whose weight lies otherwise.
    fn new<C: Compute>(
        level: Level,
        operands: &dyn OperandSource<C>,
        (rows, cols): Shape,
        k: usize,
        anywhere: bool,
    ) -> Self {
        let width = panel_width::<C>();
        let step = kc_of(k);
        // Panels may begin so far before the first column.
        let before = operands.before(level, rows).map(|before| if anywhere { width - 1 } else { before });
        let panels = cols.saturating_add(before.unwrap_or(0)).div_ceil(width);
        let in_place = if before.is_some() { panels } else { operands.panels_in_place(level, rows) };
        let together = NC_PANELS.min(panels - in_place);
        // Few rows, then, and no tiles.
        let streams = in_place > 0 && operands.streams(level);
        // Where one block of k is all there is, sums need not outlive a band, and where the epilogue is light, not a tile.
        let keep = k > step || streams;
        let x_in_place = operands.x().is_some();
        Self { rows, cols, k, step, width, panels, in_place, before, together, x_in_place, streams, keep }
    }

    /// From a row of streamed sums to the next.
    fn stride<C>(&self) -> usize {
        gemv_rows::stride::<C>(self.width * self.in_place)
    }

    /// The bytes of what is packed, of x laid out, of sums, of streamed sums and of the bias.
    fn parts<C>(&self) -> [usize; 5] {
        let Self { rows, step, width, panels, .. } = *self;
        let numbers = |count: usize, each: usize| count.saturating_mul(each).saturating_mul(size_of::<C>());
        let band_rows = MC.min(rows);
        [
            numbers(self.together * width, step),
            numbers(if self.x_in_place { 0 } else { band_rows }, step),
            if self.keep {
                numbers(rows, width * panels)
            } else {
                numbers(band_rows, width * panels.min(MAX_NR_VECTORS + 1))
            },
            numbers(if self.streams { rows } else { 0 }, self.stride::<C>()),
            numbers(panels + 1, width),
        ]
    }
}

/// For each block of k, what tiles cannot read in place is packed, then each band of rows goes over the panels tile by
/// tile.
fn by_tiles<C: Compute>(
    level: Level,
    operands: &dyn OperandSource<C>,
    plan: &Plan,
    target: &mut dyn OutputSink<C>,
    [packed, x, sums, streamed, bias]: [&mut [Line]; 5],
) {
    let Plan { rows, cols, k, step, width, panels, in_place, before, together, x_in_place, streams, keep } = *plan;
    let (before, overlap) = (before.unwrap_or(0), before.is_some());
    let stride = plan.stride::<C>();
    let activation = target.activation();
    let light = matches!(activation, Activation::None | Activation::Relu) && target.plain(0..rows, 0..cols).is_some();
    let (packed, widened) = (Line::numbers::<C>(packed), Line::numbers::<C>(x));
    let (all_sums, bias) = (Line::numbers::<C>(sums), Line::numbers::<C>(bias));
    let streamed = Line::numbers::<C>(streamed);
    target.load_bias(level, bias);
    let mut start = 0;
    loop {
        let depth = start..(start + step).min(k);
        let steps = depth.len();
        let mut first_panel = 0;
        while first_panel < panels {
            let chunk = match first_panel {
                0 if in_place > 0 => 0..in_place,
                first => first..(first + together).min(panels),
            };
            first_panel = chunk.end;
            if chunk.start >= in_place {
                operands.pack_b(level, depth.clone(), chunk.start * width..(chunk.end * width).min(cols), packed);
            }
            let layout = match chunk.start < in_place && !operands.is_packed() {
                false => PanelLayout::Packed,
                true if overlap => PanelLayout::Overlapping,
                true => PanelLayout::SideBySide,
            };
            let mut band = 0;
            for band_rows in even_split(rows, MC).into_iter().flat_map(|(count, len)| repeat_n(len, count)) {
                // One band is laid out once.
                if !x_in_place && (chunk.start == 0 || band_rows < rows) {
                    operands.pack_a(level, band..band + band_rows, depth.clone(), widened);
                }
                for tiled in row_tiles::<C>(level, band..band + band_rows) {
                    let run_rows = tiled.range();
                    let x = match operands.x() {
                        Some(x) => x.block(run_rows.clone(), depth.clone()),
                        None => match Matrix::new(&*widened, band_rows, steps) {
                            Ok(x) => x.block(run_rows.start - band..run_rows.end - band, 0..steps),
                            Err(_) => return,
                        },
                    };
                    let streams = streams && chunk.start < in_place;
                    let offset = if streams {
                        let sums = streamed.get_mut(..rows * stride).unwrap_or(&mut []);
                        operands.stream(level, depth.clone(), x, sums)
                    } else {
                        0
                    };
                    for (panel, count) in tiled.panel_groups(chunk.clone(), layout) {
                        let strip =
                            (panel * width).saturating_sub(before)..((panel + count) * width - before).min(cols);
                        let bias = bias.get(strip.start..).unwrap_or(&[]);
                        // The sums of a run of rows layout strip by strip.
                        let from = if keep { (run_rows.start * panels + run_rows.len() * panel) * width } else { 0 };
                        let len = run_rows.len() * count * width;
                        let Some(sums) = all_sums.get_mut(from..from + len) else { return };
                        let direct = depth.end == k && light && strip.len() == count * width && !streams;
                        let out = if direct { target.plain(run_rows.clone(), strip.clone()) } else { None };
                        let store = out.map(|out| FusedStore { bias, relu: activation == Activation::Relu, out });
                        let beta = if start == 0 { Beta::Zero } else { Beta::One };
                        if streams {
                            for (sums, added) in sums.chunks_mut(count * width).zip(streamed.chunks(stride)) {
                                let added = added.get(offset + panel * width..).unwrap_or(&[]);
                                for (sum, &added) in sums.iter_mut().zip(added) {
                                    *sum = if start == 0 { added } else { *sum + added };
                                }
                            }
                        } else if panel < in_place {
                            let run = TileArgs { x, sums: &mut *sums, stride: count * width, beta, store };
                            operands.tiles(level, (tiled.mr, count), (panel, before), depth.clone(), run);
                        } else {
                            let run = TileArgs { x, sums: &mut *sums, stride: count * width, beta, store };
                            let numbers = packed.get((panel - chunk.start) * steps * width..).unwrap_or(&[]);
                            let Some(packed) = PanelGroup::packed(numbers, (count, steps * width), steps, width) else {
                                return;
                            };
                            multiply_tiles::<C, C>(level, (tiled.mr, count), packed, run);
                        }
                        if depth.end == k && !direct {
                            if overlap && strip.len() < count * width {
                                let (first, last) =
                                    (before * usize::from(panel == 0), (panel + count) * width - before - strip.end);
                                for sums in sums.chunks_exact_mut(count * width) {
                                    compact(sums, width, first, last);
                                }
                            }
                            let region =
                                TileSums { rows: run_rows.clone(), cols: strip, sums, stride: count * width, bias };
                            target.store(level, region);
                        }
                    }
                }
                band += band_rows;
            }
        }
        if depth.end == k {
            return;
        }
        start = depth.end;
    }
}

/// Moves sums side by side of which so many are missing in the first panel, at its end, and in the last one, at its beginning.
fn compact<C: Copy>(sums: &mut [C], width: usize, first: usize, last: usize) {
    let len = sums.len();
    sums.copy_within(len - width + last.., len - width);
    sums.copy_within(width.., width - first);
}

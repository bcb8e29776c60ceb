//! Products with std: what the macro-kernel is given for one block, and register tiles over panels that another packed.

use fearless_simd::Simd;

use super::macro_kernel::MultiplyBlock;
use super::micro_kernel::{PanelLayout, TileArgs, multiply_tiles, row_tiles};
use super::operands::{BlockOperands, BlockOutput};
use super::panel_width;
use super::problem::{Beta, FusedEpilogue, PackedPanels, Weight};
use crate::error::NoMemory;
use crate::float::{Compute, Float};
use crate::macros::bug;
use crate::view::{Matrix, MatrixMut, PanelGroup};
use crate::workspace::Workspace;

/// Computes one block of a product on this thread.
pub(crate) fn multiply_block<T: Float, X: Float<Acc = T::Acc>, W: Float<Acc = T::Acc>>(
    x: Matrix<'_, X>,
    weight: Weight<'_, W>,
    epilogue: FusedEpilogue<'_, T>,
    out: MatrixMut<'_, T>,
    workspace: &mut Workspace,
) -> Result<(), NoMemory> {
    let k = x.cols();
    MultiplyBlock::run::<T::Acc>(&BlockOperands { x, weight }, k, &mut BlockOutput { epilogue, out }, workspace)
}

/// Multiplies `a`, whose rows are contiguous, by the first `count` of some panels, in one chain of multiply-adds:
/// `sums`, rows of whole panels so many numbers apart, are overwritten or added to.
#[inline(always)]
pub(crate) fn multiply_panels<S: Simd, C: Compute>(
    simd: S,
    a: Matrix<'_, C>,
    panels: PackedPanels<'_, C>,
    count: usize,
    (sums, stride): (&mut [C], usize),
    beta: Beta,
) {
    let width = const { panel_width::<C>() };
    let level = simd.level();
    let k = a.cols();
    for ir in row_tiles::<C>(level, 0..a.rows()) {
        for (panel, count) in ir.panel_groups(0..count, PanelLayout::Packed) {
            let numbers = panels.numbers.get(panel * panels.len..).unwrap_or_else(|| bug!(&[]));
            let Some(group) = PanelGroup::packed(numbers, (count, panels.len), k, width) else { return bug!() };
            let Some(sums) = sums.get_mut(ir.range().start * stride + panel * width..) else { return bug!() };
            let args = TileArgs { x: a.block(ir.range(), 0..k), sums, stride, beta, fused: None };
            multiply_tiles(level, (ir.mr, count), group, args);
        }
    }
}

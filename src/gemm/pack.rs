//! Lays operands out for the tile: panels of a weight, rows of an input. Knows no registers and no threads.

use fearless_simd::{Simd, SimdBase};

use super::panel_width;
use crate::float::{Compute, Float};
use crate::view::Matrix;

/// Lays out `weight`, a block of k by at most one panel of columns, as a panel of its compute type: row after row,
/// zeros past the last column. `panel` holds as many rows as `weight` has.
#[inline(always)]
pub(crate) fn pack_panel<S: Simd, W: Float>(simd: S, weight: Matrix<'_, W>, panel: &mut [W::Acc]) {
    let lanes = <W::Acc as Compute>::Lanes::<S>::LEN;
    let width = panel_width::<W::Acc>();
    let cols = weight.cols();
    for (step, target) in panel.chunks_exact_mut(width).enumerate() {
        match weight.row(step) {
            Some(row) if row.len() == width => {
                for (target, source) in target.chunks_exact_mut(lanes).zip(row.chunks_exact(lanes)) {
                    <W::Acc as Float>::store::<S>(W::load(simd, source), target);
                }
            }
            _ => {
                for (col, target) in target.iter_mut().enumerate() {
                    *target = if col < cols { weight.get(step, col).unwrap_or(W::ZERO).to_acc() } else { W::Acc::ZERO };
                }
            }
        }
    }
}

/// Widens a panel, or part of one, to its compute type.
#[inline(always)]
pub(crate) fn widen_panel<S: Simd, W: Float>(simd: S, source: &[W], target: &mut [W::Acc]) {
    let lanes = <W::Acc as Compute>::Lanes::<S>::LEN;
    for (target, source) in target.chunks_exact_mut(lanes).zip(source.chunks_exact(lanes)) {
        <W::Acc as Float>::store::<S>(W::load(simd, source), target);
    }
}

/// Widens a row of `x` into `target`, which is as long.
#[inline(always)]
pub(crate) fn pack_row<S: Simd, T: Float>(simd: S, x: Matrix<'_, T>, row: usize, target: &mut [T::Acc]) {
    let lanes = <T::Acc as Compute>::Lanes::<S>::LEN;
    if let Some(source) = x.row(row) {
        let mut targets = target.chunks_exact_mut(lanes);
        let mut sources = source.chunks_exact(lanes);
        for (target, source) in targets.by_ref().zip(sources.by_ref()) {
            <T::Acc as Float>::store::<S>(T::load(simd, source), target);
        }
        for (target, source) in targets.into_remainder().iter_mut().zip(sources.remainder()) {
            *target = source.to_acc();
        }
        return;
    }
    for (col, target) in target.iter_mut().enumerate() {
        *target = x.get(row, col).unwrap_or(T::ZERO).to_acc();
    }
}

/// The elements that a packed weight of `k` rows and `n` columns takes, `None` where that overflows.
pub(crate) const fn packed_len<C>(k: usize, n: usize) -> Option<usize> {
    let width = panel_width::<C>();
    match n.div_ceil(width).checked_mul(width) {
        Some(cols) => cols.checked_mul(k),
        None => None,
    }
}

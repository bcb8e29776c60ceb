//! Lays operands out for the tile: panels of a weight, rows of an input. Knows no registers and no threads.

#[cfg(feature = "std")]
pub(crate) use blocks::widen_panel;
pub(crate) use blocks::{pack_a, pack_b};

use super::panel_width;
use crate::float::Float;
use crate::view::Matrix;

/// What a block packs into its workspace.
mod blocks {
    use fearless_simd::{Simd, SimdBase};

    use super::panel_width;
    use crate::float::{Compute, Float, Lanes, MAX_LANES};
    use crate::macros::bug;
    use crate::simd;
    use crate::view::Matrix;

    /// The rows of a weight that are read together.
    const ROWS_TOGETHER: usize = 8;

    /// How far ahead of their use long rows are asked for, in bytes.
    const AHEAD: usize = 512;

    /// The same of short ones, each of which may lie in a page of its own.
    const SHORT_ROWS_AHEAD: usize = 4096;

    /// From the elements of a row to those that will be needed soon, in bytes: further on in a long row, where the CPU
    /// foresees the beginning of the next itself, or some rows on.
    #[inline(always)]
    fn ahead<T: Float>(matrix: &Matrix<'_, T>) -> isize {
        let len = matrix.cols() * size_of::<T>();
        if len > 2 * AHEAD {
            return AHEAD as isize;
        }
        // Not one of those that are read together.
        let rows = (SHORT_ROWS_AHEAD / len.max(64)).max(ROWS_TOGETHER);
        matrix.row_stride().wrapping_mul((rows * size_of::<T>()) as isize)
    }

    /// Lays out a block of a weight as panels of its compute type: panel after panel, row after row, any numbers past
    /// the last column.
    #[inline(always)]
    pub(crate) fn pack_b<S: Simd, W: Float>(simd: S, weight: Matrix<'_, W>, panels: &mut [W::Acc]) {
        let lanes = Lanes::<S, W>::LEN;
        let width = const { panel_width::<W::Acc>() };
        let (steps, cols) = weight.shape();
        if steps == 0 {
            return;
        }
        let panel_len = steps * width;
        let whole = cols / width;
        let columns = weight.transpose();
        if weight.has_contiguous_rows() {
            // A few rows at a time: panels may begin a power of two apart, where the cache has room for few lines, so
            // each gets several that follow each other.
            let ahead = ahead(&weight);
            for step in (0..steps).step_by(ROWS_TOGETHER) {
                let rows = step..(step + ROWS_TOGETHER).min(steps);
                for (index, panel) in panels.chunks_exact_mut(panel_len).take(whole).enumerate() {
                    let Some(targets) = panel.get_mut(rows.start * width..rows.end * width) else { return bug!() };
                    // Beyond the last panel may be another thread's memory.
                    let next = if index + 1 < whole { panel_len } else { 0 };
                    for (target, row) in targets.chunks_exact_mut(width).zip(rows.clone()) {
                        let source = weight.row(row).and_then(|row| row.get(index * width..(index + 1) * width));
                        let Some(source) = source else { return bug!() };
                        simd::prefetch(source.as_ptr().wrapping_byte_offset(ahead));
                        // A store waits for its line, and the next for it.
                        simd::prefetch(target.as_ptr().wrapping_add(next));
                        for (target, source) in target.chunks_exact_mut(lanes).zip(source.chunks_exact(lanes)) {
                            <W::Acc as Float>::store::<S>(W::load(simd, source), target);
                        }
                    }
                }
            }
        } else {
            for (index, panel) in panels.chunks_exact_mut(panel_len).take(whole).enumerate() {
                transpose(simd, columns.block(index * width..(index + 1) * width, 0..steps), panel, width, width);
            }
        }
        if cols == whole * width {
            return;
        }
        let Some(last) = panels.chunks_exact_mut(panel_len).nth(whole) else { return bug!() };
        #[cfg(feature = "std")]
        if let Some(weight) = weight.same_type::<W::Acc>().filter(Matrix::has_contiguous_rows) {
            // None of it where rows lie apart.
            let dense = weight.as_slice().unwrap_or(&[]);
            for (step, target) in last.chunks_exact_mut(width).enumerate().take(steps) {
                // Past the last column comes the next row: anything may stand there, and whole vectors are copied
                // fastest.
                if let Some(source) = dense.get(step * cols + whole * width..step * cols + (whole + 1) * width) {
                    target.copy_from_slice(source);
                } else {
                    let Some(source) = weight.row(step).and_then(|row| row.get(whole * width..)) else { return bug!() };
                    target.fill(W::Acc::ZERO);
                    copy_short(source, target);
                }
            }
            return;
        }
        last.fill(W::Acc::ZERO);
        transpose(simd, columns.block(whole * width..cols, 0..steps), last, width, 0);
    }

    /// Copies fewer than 16 values to the beginning of `target`, in few moves.
    #[cfg(feature = "std")]
    #[inline(always)]
    fn copy_short<T: Copy>(source: &[T], target: &mut [T]) {
        let mut start = 0;
        macro_rules! moves {
            ($($count:literal)*) => {$(
                if source.len() & $count != 0
                    && let (Some(source), Some(target)) = (source.get(start..start + $count), target.get_mut(start..start + $count))
                {
                    target.copy_from_slice(source);
                    start += $count;
                }
            )*};
        }
        moves!(8 4 2 1);
        let _ = start;
    }

    /// Widens a panel, or part of one, to its compute type.
    #[cfg(feature = "std")]
    #[inline(always)]
    pub(crate) fn widen_panel<S: Simd, W: Float>(simd: S, source: &[W], target: &mut [W::Acc]) {
        let lanes = Lanes::<S, W>::LEN;
        for (target, source) in target.chunks_exact_mut(lanes).zip(source.chunks_exact(lanes)) {
            <W::Acc as Float>::store::<S>(W::load(simd, source), target);
        }
    }

    /// Lays out `x` in its compute type, row after row.
    #[inline(always)]
    pub(crate) fn pack_a<S: Simd, T: Float>(simd: S, x: Matrix<'_, T>, target: &mut [T::Acc]) {
        let lanes = Lanes::<S, T>::LEN;
        let (rows, cols) = x.shape();
        if !x.has_contiguous_rows() {
            return transpose(simd, x.transpose(), target, cols, 0);
        }
        let ahead = ahead(&x);
        for (row, target) in target.chunks_exact_mut(cols.max(1)).take(rows).enumerate() {
            let Some(source) = x.row(row) else { return bug!() };
            for line in source.chunks((64 / size_of::<T>().max(1)).max(1)) {
                simd::prefetch(line.as_ptr().wrapping_byte_offset(ahead));
            }
            let mut targets = target.chunks_exact_mut(lanes);
            let mut sources = source.chunks_exact(lanes);
            for (target, source) in targets.by_ref().zip(sources.by_ref()) {
                <T::Acc as Float>::store::<S>(T::load(simd, source), target);
            }
            for (target, source) in targets.into_remainder().iter_mut().zip(sources.remainder()) {
                *target = source.to_acc();
            }
        }
    }

    /// Writes element (i, j) of `source` to `j * stride + i` of `target`: small squares are exchanged in registers
    /// where the rows of `source` are contiguous. They are blocks of 128 bits, as exchanging within those is what CPUs
    /// do best. Rows that follow are asked for so far ahead; 0 for not at all.
    #[inline(always)]
    fn transpose<S: Simd, T: Float>(
        simd: S,
        source: Matrix<'_, T>,
        target: &mut [T::Acc],
        stride: usize,
        rows_ahead: usize,
    ) {
        let (rows, cols) = source.shape();
        let (lanes, side) = (Lanes::<S, T>::LEN, <Lanes<S, T> as SimdBase<S>>::Block::LEN);
        let ahead = source.row_stride().wrapping_mul(rows_ahead as isize);
        let line = (64 / size_of::<T>().max(1)).max(1);
        let (mut whole_rows, mut whole_cols) = (0, 0);
        if source.has_contiguous_rows() && side <= SIDE {
            (whole_rows, whole_cols) = (rows / side * side, cols / lanes * lanes);
            for row in (0..whole_rows).step_by(side) {
                let mut sources: [&[T]; SIDE] = [&[]; SIDE];
                for (index, slice) in sources.iter_mut().enumerate().take(side) {
                    *slice = source.row(row + index).and_then(|row| row.get(..whole_cols)).unwrap_or_else(|| bug!(&[]));
                }
                for col in (0..whole_cols).step_by(lanes) {
                    let mut wide = [[T::Acc::ZERO; MAX_LANES]; SIDE];
                    for index in 0..side {
                        let Some(part) = sources[index].get(col..col + lanes) else { return bug!() };
                        <T::Acc as Float>::store::<S>(T::load(simd, part), &mut wide[index][..lanes]);
                        if ahead != 0 && col % line == 0 {
                            simd::prefetch(part.as_ptr().wrapping_offset(ahead));
                        }
                    }
                    // The last row that is written to may end before its stride does.
                    let end = ((col + lanes) * stride).min(target.len());
                    let Some(block) = target.get_mut(col * stride..end) else { return bug!() };
                    for first in (0..lanes).step_by(side) {
                        let mut square = [<Lanes<S, T> as SimdBase<S>>::Block::splat(simd, T::Acc::ZERO); SIDE];
                        for index in 0..side {
                            square[index] = SimdBase::from_slice(simd, &wide[index][first..first + side]);
                        }
                        let square = exchange::<S, T::Acc>(square);
                        for index in 0..side {
                            let start = (first + index) * stride + row;
                            let Some(part) = block.get_mut(start..start + side) else { return bug!() };
                            square[index].store_slice(part);
                        }
                    }
                }
            }
        }
        for row in 0..rows {
            for col in if row < whole_rows { whole_cols } else { 0 }..cols {
                let Some((target, value)) = target.get_mut(col * stride + row).zip(source.get(row, col)) else {
                    return bug!();
                };
                *target = value.to_acc();
            }
        }
    }

    /// The numbers that a block of 128 bits has at most.
    const SIDE: usize = 4;

    type Block128<S, C> = <<C as Compute>::Lanes<S> as SimdBase<S>>::Block;

    /// Exchanges rows and columns of a square of blocks: interleaving each with the one half the square on, as often
    /// as it takes to move each number to its place.
    #[inline(always)]
    fn exchange<S: Simd, C: Compute>(square: [Block128<S, C>; SIDE]) -> [Block128<S, C>; SIDE] {
        let [a, b, c, d] = square;
        if Block128::<S, C>::LEN == 2 {
            let (a, b) = a.interleave(b);
            return [a, b, c, d];
        }
        let ((a, b), (c, d)) = (a.interleave(c), b.interleave(d));
        let ((a, b), (c, d)) = (a.interleave(c), b.interleave(d));
        [a, b, c, d]
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

/// Packs a whole weight in panels of its storage type, which may be another than it has now.
pub(crate) fn pack<V: Float, W: Float<Acc = V::Acc>>(weight: Matrix<'_, V>, panels: &mut [W]) {
    let width = panel_width::<V::Acc>();
    let (rows, cols) = weight.shape();
    let convert = |value: V| W::from_acc(value.to_acc());
    // Of no columns there may be more rows than anyone can count, and there are no panels.
    for (index, panel) in panels.chunks_exact_mut(rows.saturating_mul(width).max(1)).enumerate() {
        let cols = index * width..((index + 1) * width).min(cols);
        let columns = weight.block(0..rows, cols).transpose();
        for col in 0..width {
            let targets = panel.iter_mut().skip(col).step_by(width);
            match columns.row(col) {
                Some(column) => targets.zip(column).for_each(|(target, &value)| *target = convert(value)),
                None => targets.enumerate().for_each(|(row, target)| {
                    *target = columns.get(col, row).map_or(W::ZERO, convert);
                }),
            }
        }
    }
}

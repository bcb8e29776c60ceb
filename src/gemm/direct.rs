//! Computes a block of a product without std: with no memory but a few kilobytes of the stack, operands are read as
//! they lie. In the order that every path keeps.

use core::ops::Range;

use fearless_simd::{Simd, SimdBase, SimdFloat};

use super::problem::{Beta, FusedEpilogue, PackedPanels, Weight};
use super::{kc_of, panel_width, vectors_per_panel};
use crate::error::NoMemory;
use crate::float::{Compute, Float, Lanes, MAX_LANES};
use crate::macros::{bug, lane_fn};
use crate::simd::{self, dispatch};
use crate::view::{Matrix, MatrixMut, inlined};
use crate::workspace::Workspace;

/// The sums that are under way: of so many rows times columns.
const SUMS: usize = 128;
/// The most rows at once.
const ROWS: usize = 4;
/// The steps of k that are added to sums in memory at once.
const GROUP: usize = 4;

/// Computes one block of a product.
#[allow(clippy::unnecessary_wraps, reason = "as with std")]
pub(crate) fn multiply_block<T: Float, X: Float<Acc = T::Acc>, W: Float<Acc = T::Acc>>(
    x: Matrix<'_, X>,
    weight: Weight<'_, W>,
    epilogue: FusedEpilogue<'_, T>,
    out: MatrixMut<'_, T>,
    _: &mut Workspace,
) -> Result<(), NoMemory> {
    #[inline(always)]
    fn by_vectors<S: Simd, T: Float, X: Float<Acc = T::Acc>, W: Float<Acc = T::Acc>>(
        simd: S,
        x: Matrix<'_, X>,
        weight: Weight<'_, W>,
        epilogue: FusedEpilogue<'_, T>,
        out: MatrixMut<'_, T>,
    ) {
        if const { vectors_per_panel::<S, T::Acc>() == 1 } {
            block::<S, T, X, W, 1>(simd, x, weight, epilogue, out);
        } else if const { vectors_per_panel::<S, T::Acc>() == 2 } {
            block::<S, T, X, W, 2>(simd, x, weight, epilogue, out);
        } else {
            block::<S, T, X, W, 4>(simd, x, weight, epilogue, out);
        }
    }
    dispatch!(simd::level(), simd => by_vectors(simd, x, weight, epilogue, out));
    Ok(())
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
    let (lanes, width) = (C::Lanes::<S>::LEN, const { panel_width::<C>() });
    for (row, sums) in sums.chunks_mut(stride.max(1)).enumerate().take(a.rows()) {
        let Some(x) = a.row(row) else { return bug!() };
        for (panel, sums) in sums.chunks_exact_mut(width).enumerate().take(count) {
            let panel = panels.numbers.get(panel * panels.len..).unwrap_or_else(|| bug!(&[]));
            for (vector, target) in sums.chunks_exact_mut(lanes).enumerate() {
                let mut sum = C::Lanes::<S>::splat(simd, C::ZERO);
                for (&value, columns) in x.iter().zip(panel.chunks_exact(width)) {
                    let Some(columns) = columns.get(vector * lanes..(vector + 1) * lanes) else { return bug!() };
                    sum = C::Lanes::<S>::splat(simd, value).mul_add(C::Lanes::<S>::from_slice(simd, columns), sum);
                }
                let sum = if beta == Beta::Zero { sum } else { C::Lanes::<S>::from_slice(simd, target) + sum };
                sum.store_slice(target);
            }
        }
    }
}

#[inline(always)]
fn block<S: Simd, T: Float, X: Float<Acc = T::Acc>, W: Float<Acc = T::Acc>, const VECTORS: usize>(
    simd: S,
    x: Matrix<'_, X>,
    weight: Weight<'_, W>,
    epilogue: FusedEpilogue<'_, T>,
    mut out: MatrixMut<'_, T>,
) {
    // Few rows share too little of what is read to make up for sums that go to the stack and back.
    if !simd::HAS_VECTORS || out.rows() < ROWS {
        return block_in_registers::<S, T, X, W, VECTORS>(simd, x, weight, epilogue, out);
    }
    let width = VECTORS * Lanes::<S, T>::LEN;
    let ((rows, cols), k) = (out.shape(), x.cols());
    let kc = kc_of(k);
    let zeros = [T::Acc::ZERO; SUMS];
    for row in (0..rows).step_by(ROWS) {
        let rows = row..(row + ROWS).min(rows);
        for col in (0..cols).step_by(width) {
            let cols = col..(col + width).min(cols);
            let len = rows.len() * width;
            let (mut sums, mut bias) = (zeros, zeros);
            for start in (0..k).step_by(kc) {
                let mut added = zeros;
                for start in (start..(start + kc).min(k)).step_by(GROUP) {
                    let pc = start..(start + GROUP).min((start / kc * kc + kc).min(k));
                    let mut values = [[T::Acc::ZERO; GROUP]; ROWS];
                    for (values, row) in values.iter_mut().zip(rows.clone()) {
                        for (value, step) in values.iter_mut().zip(pc.clone()) {
                            *value = x.get(row, step).unwrap_or_else(|| bug!(X::ZERO)).to_acc();
                        }
                    }
                    let mut copies = [[W::ZERO; MAX_LANES]; GROUP];
                    let mut parts: [&[W]; GROUP] = [&[]; GROUP];
                    for ((part, copy), step) in parts.iter_mut().zip(&mut copies).zip(pc.clone()) {
                        let Some(copy) = copy.get_mut(..width) else { return bug!() };
                        *part = part_of(weight, step, cols.clone(), copy);
                    }
                    let (Some(values), Some(added)) = (values.get(..rows.len()), added.get_mut(..len)) else {
                        return bug!();
                    };
                    add_steps::<S, T::Acc, W, VECTORS>(simd, parts, pc.len(), values, added);
                }
                for (sum, added) in sums.iter_mut().zip(added).take(len) {
                    *sum = if start == 0 { added } else { *sum + added };
                }
            }
            // Slices whose lengths do not fit cannot be; said this way, no code for a panic is linked.
            let (Some(sums), Some(bias)) = (sums.get_mut(..len), bias.get_mut(..width)) else { return bug!() };
            let epilogue = epilogue.part(rows.clone(), cols.clone());
            epilogue.load_bias(simd, bias);
            let out = out.block_mut(rows.clone(), cols);
            epilogue.store(simd, sums, width, bias, (0, 0), out);
        }
    }
}

/// The same for few rows, and for CPUs without vectors, whose registers hold the sums of a panel of one row and little
/// else.
#[inline(always)]
fn block_in_registers<S: Simd, T: Float, X: Float<Acc = T::Acc>, W: Float<Acc = T::Acc>, const VECTORS: usize>(
    simd: S,
    x: Matrix<'_, X>,
    weight: Weight<'_, W>,
    epilogue: FusedEpilogue<'_, T>,
    mut out: MatrixMut<'_, T>,
) {
    let lanes = Lanes::<S, T>::LEN;
    let width = VECTORS * lanes;
    let ((rows, cols), k) = (out.shape(), x.cols());
    let kc = kc_of(k);
    let zeros = [Lanes::<S, T>::splat(simd, T::Acc::ZERO); VECTORS];
    for row in 0..rows {
        for col in (0..cols).step_by(width) {
            let cols = col..(col + width).min(cols);
            let mut sums = zeros;
            for start in (0..k).step_by(kc) {
                let pc = start..(start + kc).min(k);
                let mut added = zeros;
                let mut add = inlined(
                    #[inline(always)]
                    |value: X, part: &[W]| {
                        let value = Lanes::<S, T>::splat(simd, value.to_acc());
                        for (added, part) in added.iter_mut().zip(part.chunks_exact(lanes)) {
                            *added = value.mul_add(W::load(simd, part), *added);
                        }
                    },
                );
                let values = x.row(row).and_then(|row| row.get(pc.clone()));
                let is_done = match (values, weight) {
                    (Some(values), Weight::Matrix(weight)) => {
                        let weight = weight.block(pc.clone(), 0..weight.cols());
                        weight.for_each_row_of(values, col, width, lane_fn!(|value, part| add(value, part)))
                    }
                    _ => false,
                };
                if !is_done {
                    // What lies behind the last column stays zero.
                    let mut copy = [W::ZERO; MAX_LANES];
                    let Some(copy) = copy.get_mut(..width) else { return bug!() };
                    for step in pc {
                        add(
                            x.get(row, step).unwrap_or_else(|| bug!(X::ZERO)),
                            part_of(weight, step, cols.clone(), copy),
                        );
                    }
                }
                for (sum, added) in sums.iter_mut().zip(added) {
                    *sum = if start == 0 { added } else { *sum + added };
                }
            }
            // The general ending takes as long as some twenty steps.
            let target = out.row_mut(row).and_then(|row| row.get_mut(cols.clone()));
            if target.is_some_and(|target| epilogue.store_whole(simd, sums, cols.clone(), target)) {
                continue;
            }
            let (mut numbers, mut bias) = ([T::Acc::ZERO; MAX_LANES], [T::Acc::ZERO; MAX_LANES]);
            let (Some(numbers), Some(bias)) = (numbers.get_mut(..width), bias.get_mut(..width)) else { return bug!() };
            for (numbers, sum) in numbers.chunks_exact_mut(lanes).zip(sums) {
                <T::Acc as Float>::store::<S>(sum, numbers);
            }
            let epilogue = epilogue.part(row..row + 1, cols.clone());
            epilogue.load_bias(simd, bias);
            let out = out.block_mut(row..row + 1, cols);
            epilogue.store(simd, numbers, width, bias, (0, 0), out);
        }
    }
}

/// A step's elements of some columns, `copy.len()` of them: as they lie, or copied together with zeros behind.
#[inline(always)]
fn part_of<'a, W: Float>(weight: Weight<'a, W>, step: usize, cols: Range<usize>, copy: &'a mut [W]) -> &'a [W] {
    let width = copy.len();
    match weight {
        Weight::Packed { panels, shape: (k, _) } => {
            let start = cols.start * k + step * width;
            panels.get(start..start + width).unwrap_or_else(|| bug!(copy))
        }
        Weight::Matrix(weight) => {
            if let Some(part) = weight.row(step).and_then(|row| row.get(cols.start..cols.start + width)) {
                return part;
            }
            for (target, col) in copy.iter_mut().zip(cols) {
                *target = weight.get(step, col).unwrap_or_else(|| bug!(W::ZERO));
            }
            copy
        }
    }
}

/// Adds up to [`GROUP`] steps of k to the sums of one panel, `VECTORS` vectors wide: `parts` are the steps' elements of
/// the panel, each exactly as long as it is wide, `values` each row's elements for these steps, and `sums` the rows'
/// sums, one after the other.
#[inline(always)]
fn add_steps<S: Simd, C: Compute, W: Float<Acc = C>, const VECTORS: usize>(
    simd: S,
    parts: [&[W]; GROUP],
    count: usize,
    values: &[[C; GROUP]],
    sums: &mut [C],
) {
    // The columns of several steps stay in registers while rows pass: as many as 16 registers allow.
    match (count, VECTORS) {
        (GROUP, ..=2) => add::<S, C, W, GROUP, VECTORS>(simd, parts, 0, values, sums),
        (GROUP, _) => {
            add::<S, C, W, 2, VECTORS>(simd, parts, 0, values, sums);
            add::<S, C, W, 2, VECTORS>(simd, parts, 2, values, sums);
        }
        _ => {
            for step in 0..count {
                add::<S, C, W, 1, VECTORS>(simd, parts, step, values, sums);
            }
        }
    }
}

#[inline(always)]
fn add<S: Simd, C: Compute, W: Float<Acc = C>, const K: usize, const VECTORS: usize>(
    simd: S,
    parts: [&[W]; GROUP],
    start: usize,
    values: &[[C; GROUP]],
    sums: &mut [C],
) {
    let lanes = C::Lanes::<S>::LEN;
    let mut columns = [[C::Lanes::<S>::splat(simd, C::ZERO); VECTORS]; K];
    for (step, columns) in columns.iter_mut().enumerate() {
        let Some(part) = parts.get(start + step).and_then(|part| part.get(..VECTORS * lanes)) else { return bug!() };
        for v in 0..VECTORS {
            columns[v] = W::load(simd, &part[v * lanes..(v + 1) * lanes]);
        }
    }
    // Several rows together, so that multiplications need not wait for each other.
    let together = (4 / VECTORS).max(1);
    let mut rows = values.chunks_exact(together);
    let mut targets = sums.chunks_exact_mut(together * VECTORS * lanes);
    for (values, sums) in rows.by_ref().zip(targets.by_ref()) {
        add_to_rows::<S, C, K, VECTORS>(simd, &columns, start, together, values, sums);
    }
    for (values, sums) in
        rows.remainder().chunks_exact(1).zip(targets.into_remainder().chunks_exact_mut(VECTORS * lanes))
    {
        add_to_rows::<S, C, K, VECTORS>(simd, &columns, start, 1, values, sums);
    }
}

/// The steps from `start` on of a group, for so many rows, at most 4.
#[inline(always)]
fn add_to_rows<S: Simd, C: Compute, const K: usize, const VECTORS: usize>(
    simd: S,
    columns: &[[C::Lanes<S>; VECTORS]; K],
    start: usize,
    rows: usize,
    values: &[[C; GROUP]],
    sums: &mut [C],
) {
    let lanes = C::Lanes::<S>::LEN;
    let mut tile = [[C::Lanes::<S>::splat(simd, C::ZERO); VECTORS]; 4];
    for row in 0..rows {
        for v in 0..VECTORS {
            tile[row][v] = C::load(simd, &sums[(row * VECTORS + v) * lanes..(row * VECTORS + v + 1) * lanes]);
        }
    }
    for step in 0..K {
        for row in 0..rows {
            let value = C::Lanes::<S>::splat(simd, values[row][start + step]);
            for v in 0..VECTORS {
                tile[row][v] = value.mul_add(columns[step][v], tile[row][v]);
            }
        }
    }
    for row in 0..rows {
        for v in 0..VECTORS {
            C::store::<S>(tile[row][v], &mut sums[(row * VECTORS + v) * lanes..(row * VECTORS + v + 1) * lanes]);
        }
    }
}

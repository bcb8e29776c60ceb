//! Embedding lookup: rows of tables by number, added up where there are several tables. Numbers are checked here, once.

use fearless_simd::{Simd, SimdBase};

use crate::error::ShapeError;
use crate::float::{Float, Lanes};
use crate::kernel::kernel;
use crate::macros::bug;
use crate::parallel;
use crate::simd::{self, dispatch};
use crate::view::{Matrix, MatrixMut};

/// What one element of one table costs on one core, in nanoseconds: rows are fetched from memory all over.
const COST: f32 = 0.2;

/// Writes to each row of `out` the sum of one row of each table: of `tables[i].0` row `tables[i].1[row]`, as a
/// transformer adds embeddings of tokens, places and kinds (Devlin et al., BERT, 2018). Without a table rows are zeros.
///
/// Tables have the columns of `out`, and as many numbers as `out` has rows. Sums are taken in order of the tables in
/// the compute type, and rounded once.
///
/// # Errors
///
/// [`ShapeError`] where the shapes do not fit or a number is beyond its table; `out` is then as it was.
///
/// # Examples
///
/// ```
/// use polyglot_bridge::{embedding, Matrix, MatrixMut};
///
/// let words = Matrix::new(&[1.0_f32, 2.0, 3.0, 4.0], 2, 2)?;
/// let places = Matrix::new(&[10.0, 20.0, 30.0, 40.0], 2, 2)?;
/// let mut out = [0.0; 4];
/// embedding(&[(words, &[1, 1]), (places, &[0, 1])], MatrixMut::new(&mut out, 2, 2)?)?;
/// assert_eq!(out, [13.0, 24.0, 33.0, 44.0]);
/// # Ok::<(), polyglot_bridge::ShapeError>(())
/// ```
pub fn embedding<'b, T: Float>(
    tables: &[(Matrix<'_, T>, &[usize])],
    out: impl Into<MatrixMut<'b, T>>,
) -> Result<(), ShapeError> {
    let out = out.into();
    check(tables, out.shape())?;
    Gather::run(tables, out);
    Ok(())
}

/// [`embedding`] with `out` in the compute type: f32 for tables in `f16`.
///
/// # Errors
///
/// As for [`embedding`].
///
/// # Examples
///
/// ```
/// # #[cfg(feature = "f16")] {
/// use half::f16;
/// use polyglot_bridge::{embedding_wide, Matrix};
///
/// let table = [f16::ONE, f16::NEG_ONE];
/// let mut out = [0.0_f32; 2];
/// embedding_wide(&[(Matrix::from(&table), &[0])], &mut out)?;
/// assert_eq!(out, [1.0, -1.0]);
/// # }
/// # Ok::<(), polyglot_bridge::ShapeError>(())
/// ```
pub fn embedding_wide<'b, T: Float>(
    tables: &[(Matrix<'_, T>, &[usize])],
    out: impl Into<MatrixMut<'b, T::Acc>>,
) -> Result<(), ShapeError> {
    let out = out.into();
    check(tables, out.shape())?;
    GatherWide::run(tables, out);
    Ok(())
}

fn check<T: Float>(tables: &[(Matrix<'_, T>, &[usize])], (rows, cols): (usize, usize)) -> Result<(), ShapeError> {
    const OP: &str = "embedding";
    for (table, ids) in tables {
        ShapeError::check(OP, "table", table.shape(), (table.rows(), cols))?;
        ShapeError::check(OP, "ids", (1, ids.len()), (1, rows))?;
        if let Some(&index) = ids.iter().find(|&&id| id >= table.rows()) {
            return Err(ShapeError::OutOfRange { op: OP, operand: "ids", index, len: table.rows() });
        }
    }
    Ok(())
}

kernel!(Gather<T>(tables: &'a [(Matrix<'a, T>, &'a [usize])], out: MatrixMut<'a, T>) = gather);
kernel!(GatherWide<T>(tables: &'a [(Matrix<'a, T>, &'a [usize])], out: MatrixMut<'a, T::Acc>) = gather);

fn gather<T: Float, U: Float<Acc = T::Acc>>(tables: &[(Matrix<'_, T>, &[usize])], out: MatrixMut<'_, U>) {
    let cols = out.cols();
    let level = simd::level();
    let cost = COST * tables.len() as f32 * cols as f32;
    parallel::for_each_tile(out, (1, cols), cost, |rows, _, mut out| {
        let Some(target) = out.row_mut(0) else { return bug!() };
        dispatch!(level, simd => gather_row::<_, T, U>(simd, tables, rows.start, target));
    });
}

#[inline(always)]
fn gather_row<S: Simd, T: Float, U: Float<Acc = T::Acc>>(
    simd: S,
    tables: &[(Matrix<'_, T>, &[usize])],
    row: usize,
    target: &mut [U],
) {
    let lanes = Lanes::<S, T>::LEN;
    let mut done = 0;
    let all_contiguous = tables.iter().all(|(table, _)| table.has_contiguous_rows());
    if all_contiguous {
        for target in target.chunks_exact_mut(lanes) {
            let mut sum = Lanes::<S, T>::splat(simd, T::Acc::ZERO);
            for (index, (table, ids)) in tables.iter().enumerate() {
                let source = ids.get(row).and_then(|&id| table.row(id)).and_then(|row| row.get(done..done + lanes));
                let Some(source) = source else { return bug!() };
                let part = T::load(simd, source);
                sum = if index == 0 { part } else { sum + part };
            }
            U::store::<S>(sum, target);
            done += lanes;
        }
    }
    for (col, target) in target.iter_mut().enumerate().skip(done) {
        let mut terms = tables.iter().map(|(table, ids)| {
            ids.get(row).and_then(|&id| table.get(id, col)).unwrap_or_else(|| bug!(T::ZERO)).to_acc()
        });
        // Of no tables the sum is zero.
        let first = terms.next().unwrap_or(T::Acc::ZERO);
        *target = U::from_acc(terms.fold(first, |sum, term| sum + term));
    }
}

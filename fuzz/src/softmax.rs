//! Softmax and log-softmax against exponentials in f64.

use arbitrary::{Arbitrary, Unstructured};
use polyglot_bridge::{Matrix, MatrixMut, log_softmax, log_softmax_in_place, softmax, softmax_in_place};

use super::common::{Op, all_to_f64, compute_roundoff, exact_sum, to_f64};
use super::number::{Number, assert_close, least};
use super::placement::Placement;
use super::sweep;
use super::values::{Kind, Values, shape};

#[derive(Arbitrary, Clone, Debug)]
struct Case {
    kind: Kind,
    rows: u8,
    cols: u8,
    log: bool,
    placement: Placement,
    x: Values,
}

/// Checks the case that these bytes encode, if they encode one.
pub fn run(bytes: &[u8]) {
    if let Ok(case) = Case::arbitrary_take_rest(Unstructured::new(bytes)) {
        for_kind!(case.kind, check_for(&case));
    }
}

fn check_for<T: Number>(case: &Case) {
    let (rows, cols) = shape(case.rows, case.cols);
    let x: Vec<T> = case.x.make(rows * cols);
    let wide = all_to_f64(&x);
    let rights: Vec<Right> = wide.chunks(cols.max(1)).map(Right::of).collect();
    if case.log {
        let op = Op(
            |x: Matrix<'_, T>, out: MatrixMut<'_, T>| log_softmax(x, out).expect("shapes"),
            |x: MatrixMut<'_, T>| log_softmax_in_place(x).expect("shapes"),
        );
        sweep(&op, &x, (rows, cols), &case.placement, |level, found| {
            for (index, right) in rights.iter().enumerate() {
                let range = index * cols..(index + 1) * cols;
                check_log(&wide[range.clone()], right, &found[range], &format!("{level:?} {rows}x{cols} row {index}"));
            }
        });
    } else {
        let op = Op(
            |x: Matrix<'_, T>, out: MatrixMut<'_, T>| softmax(x, out).expect("shapes"),
            |x: MatrixMut<'_, T>| softmax_in_place(x).expect("shapes"),
        );
        sweep(&op, &x, (rows, cols), &case.placement, |level, found| {
            for (index, right) in rights.iter().enumerate() {
                let range = index * cols..(index + 1) * cols;
                check_row(&wide[range.clone()], right, &found[range], &format!("{level:?} {rows}x{cols} row {index}"));
            }
        });
    }
}

/// What the results of a row are made of.
struct Right {
    max: f64,
    exponentials: Vec<f64>,
    sum: f64,
    /// How far below the largest score the row lies, weighted by the shares: the rounding of x - max comes out of the
    /// sum as often.
    distance: f64,
    /// A NaN or an infinite score, or nothing but -inf: the row is NaN.
    poisoned: bool,
}

impl Right {
    fn of(row: &[f64]) -> Self {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let poisoned = row.iter().any(|x| x.is_nan()) || max.is_infinite();
        if poisoned {
            return Self { max, exponentials: Vec::new(), sum: f64::NAN, distance: 0.0, poisoned };
        }
        let exponentials: Vec<f64> = row.iter().map(|x| (x - max).exp()).collect();
        let sum = exact_sum(exponentials.iter().copied());
        let distance = row.iter().zip(&exponentials).filter(|(_, e)| **e > 0.0).map(|(x, e)| (max - x) * e / sum).sum();
        Self { max, exponentials, sum, distance, poisoned }
    }
}

fn check_row<T: Number>(row: &[f64], right: &Right, found: &[T], what: &str) {
    if right.poisoned {
        assert!(found.iter().all(|value| value.is_nan()), "{} {what}: not NaN though the row is poisoned", T::NAME);
        return;
    }
    let roundoff = compute_roundoff::<T>();
    let (mut total, mut allowed) = (0.0, 0.0);
    for ((x, e), &value) in row.iter().zip(&right.exponentials).zip(found) {
        let share = e / right.sum;
        // Two units for e^x, one rounding each for x - max, the division and the product, and those of the sum.
        let below = if *e > 0.0 { right.max - x } else { 0.0 };
        let steps = 12.0 + (row.len() as f64).log2() + below + right.distance;
        let bound = share * steps * roundoff + 2.0 * least::<T>();
        assert_close(value, share, bound, || format!("{what}: softmax of {x:e}, the largest {:e}", right.max));
        assert!((0.0..=1.0).contains(&to_f64(value)), "{} {what}: {value:?} is no share", T::NAME);
        total += to_f64(value);
        allowed += bound + T::half_ulp(share);
    }
    assert!((total - 1.0).abs() <= allowed + 1e-15 * row.len() as f64, "{} {what}: shares sum to {total}", T::NAME);
}

fn check_log<T: Number>(row: &[f64], right: &Right, found: &[T], what: &str) {
    if right.poisoned {
        assert!(found.iter().all(|value| value.is_nan()), "{} {what}: not NaN though the row is poisoned", T::NAME);
        return;
    }
    let roundoff = compute_roundoff::<T>();
    let log = right.sum.ln();
    for (x, &value) in row.iter().zip(found) {
        let exact = (x - right.max) - log;
        let steps = 12.0 + (row.len() as f64).log2() + right.distance + 2.0 * log;
        let bound = (steps + 2.0 * (right.max - x)) * roundoff;
        assert_close(value, exact, bound, || format!("{what}: log_softmax of {x:e}, the largest {:e}", right.max));
        assert!(to_f64(value) <= 0.0, "{} {what}: {value:?} is no logarithm of a share", T::NAME);
    }
}

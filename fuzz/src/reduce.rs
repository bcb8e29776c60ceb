//! The sum of squares against a compensated sum of exact squares.

use arbitrary::{Arbitrary, Unstructured};
use polyglot_bridge::{Matrix, sum_of_squares};

use super::common::{all_to_f64, exact_sum, for_each_level};
use super::number::Number;
use super::placement::Placement;
use super::values::{Kind, Values, shape};

#[derive(Arbitrary, Clone, Debug)]
struct Case {
    kind: Kind,
    rows: u8,
    cols: u8,
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
    let laid = case.placement.lay(&x, rows, cols);
    // What a square loses to rounding, exactly, unless it overflows or is subnormal.
    let lost = |x: &f64| {
        let square = x * x;
        if square.is_finite() { x.mul_add(*x, -square) } else { 0.0 }
    };
    let right = if wide.iter().all(|x| (x * x).is_finite()) {
        exact_sum(wide.iter().map(|x| x * x).chain(wide.iter().map(lost)))
    } else {
        wide.iter().map(|x| x * x).sum()
    };
    let steps = 12.0 + (x.len().max(1) as f64).log2();
    let bound = right * steps * 2.0_f64.powi(-53) + x.len() as f64 * f64::from_bits(1);
    for_each_level(|level| {
        let dense = sum_of_squares(Matrix::new(&x, rows, cols).expect("dense"));
        let apart = sum_of_squares(laid.matrix());
        for found in [dense, apart] {
            let close = if right.is_finite() && found.is_finite() {
                (found - right).abs() <= bound
            } else if right.is_nan() {
                found.is_nan()
            } else {
                // Near the largest value either may have overflowed.
                found.is_infinite() && (right.is_infinite() || right + bound >= f64::MAX * (1.0 - 1e-12))
                    || right.is_infinite() && wide.iter().all(|x| x.is_finite()) && found >= f64::MAX * (1.0 - 1e-12)
            };
            assert!(close, "{} {level:?} {rows}x{cols}: found {found:e}, right is {right:e}", T::NAME);
            assert!(found.is_nan() || found.is_sign_positive(), "{} {level:?}: found {found}", T::NAME);
        }
        assert!(rows != 1 || dense.to_bits() == sum_of_squares(&x[..]).to_bits() || dense.is_nan());
    });
    laid.assert_untouched(&x);
}

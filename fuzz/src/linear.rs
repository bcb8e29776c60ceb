//! linear and matmul against sums of products without rounding, and activations in f64.

use arbitrary::{Arbitrary, Unstructured};
use polyglot_bridge::{Activation, Epilogue, Matrix, MatrixMut, Residual, linear, matmul};

use super::activation::{Choice, activated};
use super::assert_same;
use super::common::{all_to_f64, compute_roundoff, exact_sum, for_each_level, to_f64};
use super::number::{Number, assert_close, least, most};
use super::placement::{PATTERNS, Placement};
use super::values::{Kind, Values, extent};

#[derive(Arbitrary, Clone, Debug)]
struct Case {
    kind: Kind,
    rows: u8,
    inner: u8,
    cols: u8,
    activation: Choice,
    x_place: Placement,
    weight_place: Placement,
    residual_place: Placement,
    x: Values,
    weight: Values,
    bias: Option<Values>,
    residual: Option<Values>,
}

/// Checks the case that these bytes encode, if they encode one.
pub fn run(bytes: &[u8]) {
    if let Ok(case) = Case::arbitrary_take_rest(Unstructured::new(bytes)) {
        for_kind!(case.kind, check_for(&case));
    }
}

fn check_for<T: Number>(case: &Case) {
    let (rows, inner, cols) = dimensions(case);
    let x: Vec<T> = case.x.make(rows * inner);
    let weight: Vec<T> = case.weight.make(inner * cols);
    let bias: Option<Vec<T>> = case.bias.as_ref().map(|values| values.make(cols));
    let residual: Option<Vec<T>> = case.residual.as_ref().map(|values| values.make(rows * cols));
    let activation = case.activation.activation();
    let rights = rights(&x, &weight, bias.as_deref(), residual.as_deref(), (rows, inner, cols));

    let x_laid = case.x_place.lay(&x, rows, inner);
    let weight_laid = case.weight_place.lay(&weight, inner, cols);
    let residual_laid = residual.as_ref().map(|values| case.residual_place.lay(values, rows, cols));
    let plain = bias.is_none() && residual.is_none() && activation == Activation::None;
    for_each_level(|level| {
        let mut dense = vec![T::from_raw(PATTERNS[0]); rows * cols];
        let call = |x: Matrix<'_, T>, weight: Matrix<'_, T>, residual: Option<Matrix<'_, T>>, out: MatrixMut<'_, T>| {
            let mut epilogue = Epilogue::new().bias(bias.as_deref()).activation(activation);
            if let Some(residual) = residual {
                epilogue = epilogue.residual(residual);
            }
            linear(x, weight, epilogue, out).expect("shapes");
        };
        let dense_weight = Matrix::new(&weight, inner, cols).expect("dense");
        call(
            Matrix::new(&x, rows, inner).expect("dense"),
            dense_weight,
            residual.as_ref().map(|values| Matrix::new(values, rows, cols).expect("dense")),
            MatrixMut::new(&mut dense, rows, cols).expect("dense"),
        );
        for pattern in PATTERNS {
            let mut out = case.x_place.room(rows, cols, pattern);
            let residual = residual_laid.as_ref().map(|laid| laid.matrix());
            call(x_laid.matrix(), weight_laid.matrix(), residual, out.matrix());
            assert_same(&dense, &out.finish(), cols, || format!("{level:?} {rows}x{inner}x{cols} laid out"));
        }
        if let Some(values) = &residual {
            let mut out = case.residual_place.room(rows, cols, PATTERNS[0]);
            out.fill(values);
            let epilogue = Epilogue::new().bias(bias.as_deref()).activation(activation).residual(Residual::Out);
            linear(x_laid.matrix(), weight_laid.matrix(), epilogue, out.matrix()).expect("shapes");
            assert_same(&dense, &out.finish(), cols, || format!("{level:?} {rows}x{inner}x{cols} over its residual"));
        }
        if rows > 1 {
            let row = usize::from(case.x_place.alone) % rows;
            let range = row * cols..(row + 1) * cols;
            let mut alone = vec![T::from_raw(PATTERNS[1]); cols];
            call(
                (&x[row * inner..(row + 1) * inner]).into(),
                dense_weight,
                residual.as_ref().map(|values| (&values[range.clone()]).into()),
                (&mut alone[..]).into(),
            );
            assert_same(&dense[range], &alone, cols, || format!("{level:?} {rows}x{inner}x{cols}: row {row} alone"));
        }
        for (index, (right, &found)) in rights.iter().zip(&dense).enumerate() {
            right.check(activation, found, || {
                let place = (index / cols, index % cols);
                format!("{level:?} {rows}x{inner}x{cols} {activation:?} at {place:?}")
            });
        }
    });
    if plain {
        product(&x, &weight, (rows, inner, cols), case);
    }
    x_laid.assert_untouched(&x);
    weight_laid.assert_untouched(&weight);
    if let (Some(laid), Some(values)) = (residual_laid, residual) {
        laid.assert_untouched(&values);
    }
}

/// matmul gives what linear without an epilogue gives.
fn product<T: Number>(x: &[T], weight: &[T], (rows, inner, cols): (usize, usize, usize), case: &Case) {
    let laid = case.weight_place.lay(weight, inner, cols);
    for_each_level(|level| {
        let x = Matrix::new(x, rows, inner).expect("dense");
        let mut expected = vec![T::ZERO; rows * cols];
        linear(x, laid.matrix(), Epilogue::new(), MatrixMut::new(&mut expected, rows, cols).expect("dense"))
            .expect("shapes");
        let mut out = case.x_place.room(rows, cols, PATTERNS[0]);
        matmul(x, laid.matrix(), out.matrix()).expect("shapes");
        assert_same(&expected, &out.finish(), cols, || format!("{level:?} {rows}x{inner}x{cols} matmul"));
    });
}

/// Rows, inner dimension, columns: at most one of them long.
fn dimensions(case: &Case) -> (usize, usize, usize) {
    let (rows, inner, cols) = (extent(case.rows), extent(case.inner), extent(case.cols));
    let most = |others: usize| (60_000 / others.max(1)).max(3);
    let inner = inner.min(5000);
    let cols = cols.min(most(inner)).min(1100);
    (rows.min(most(inner * cols)).min(600), inner, cols)
}

/// What an output should be before the activation, and how far off it may be.
struct Right {
    sum: f64,
    bound: f64,
    /// Sums in between may overflow, to what is not said.
    overflows: bool,
}

fn rights<T: Number>(
    x: &[T],
    weight: &[T],
    bias: Option<&[T]>,
    residual: Option<&[T]>,
    (rows, inner, cols): (usize, usize, usize),
) -> Vec<Right> {
    let (x, weight) = (all_to_f64(x), all_to_f64(weight));
    let roundoff = compute_roundoff::<T>();
    let mut rights = Vec::with_capacity(rows * cols);
    let mut terms = Vec::with_capacity(2 * inner + 2);
    for row in 0..rows {
        for col in 0..cols {
            terms.clear();
            let mut size = 0.0;
            let (mut extra, mut plain) = (0.0, 0.0);
            for step in 0..inner {
                let (a, b) = (x[row * inner + step], weight[step * cols + col]);
                let product = a * b;
                plain += product;
                terms.push(product);
                if size_of::<T::Acc>() == 8 && product.is_finite() {
                    terms.push(a.mul_add(b, -product));
                }
                // A factor that is not finite makes the result so, whatever the rest is.
                size += if a.is_finite() && b.is_finite() { product.abs() } else { 0.0 };
            }
            for value in [bias.map(|bias| bias[col]), residual.map(|residual| residual[row * cols + col])] {
                let value = value.map_or(0.0, to_f64);
                plain += value;
                terms.push(value);
                extra += if value.is_finite() { value.abs() } else { 0.0 };
            }
            let sum = if plain.is_finite() { exact_sum(terms.iter().copied()) } else { plain };
            let steps = inner as f64 * (1.0 + 1e-3);
            rights.push(Right {
                sum,
                bound: roundoff * (steps * size + 2.0 * (size * (1.0 + steps * roundoff) + extra))
                    + (inner + 1) as f64 * least::<T>(),
                overflows: size + extra > most::<T>() / 4.0,
            });
        }
    }
    rights
}

impl Right {
    fn check<T: Number>(&self, activation: Activation, found: T, what: impl Fn() -> String) {
        if self.overflows {
            return;
        }
        if self.sum.is_nan() {
            assert!(found.is_nan(), "{} {}: found {found:?}, right is NaN", T::NAME, what());
        } else {
            let (right, bound) = activated::<T>(activation, self.sum);
            // No activation is steeper than 1.13.
            assert_close(found, right, bound + 1.13 * self.bound, what);
        }
    }
}

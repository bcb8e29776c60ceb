//! Layer norm and RMS norm against statistics in f64 of the row scaled near 1.

use arbitrary::{Arbitrary, Unstructured};
use polyglot_bridge::{Matrix, MatrixMut, layer_norm, layer_norm_in_place, rms_norm, rms_norm_in_place};

use super::common::{Op, all_to_f64, compute_roundoff, exact_sum, exponent, from_f64, power_of_two, to_f64};
use super::number::{Number, assert_close, least, most};
use super::placement::Placement;
use super::sweep;
use super::values::{Kind, Values, shape};

#[derive(Arbitrary, Clone, Debug)]
struct Case {
    kind: Kind,
    rows: u8,
    cols: u8,
    rms: bool,
    eps: Epsilon,
    placement: Placement,
    x: Values,
    weight: Option<Values>,
    bias: Option<Values>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Epsilon {
    Zero,
    Usual,
    PowerOfTwo(i16),
}

impl Epsilon {
    fn value(self, least: i32, most: i32) -> f64 {
        match self {
            Self::Zero => 0.0,
            Self::Usual => 1e-5,
            Self::PowerOfTwo(power) => power_of_two(least + i32::from(power).rem_euclid(most - least)),
        }
    }
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
    let weight: Option<Vec<T>> = case.weight.as_ref().map(|weight| weight.make(cols));
    let bias: Option<Vec<T>> = case.bias.as_ref().filter(|_| !case.rms).map(|bias| bias.make(cols));
    let affine = (weight.as_deref(), bias.as_deref());
    let limits = if size_of::<T::Acc>() == 8 { (-1074, 1023) } else { (-149, 127) };
    let eps = case.eps.value(limits.0, limits.1);
    let rounded: T::Acc = from_f64(eps);
    let eps = to_f64(rounded);
    let wide = all_to_f64(&x);
    let rights: Vec<Option<Right>> = wide.chunks(cols.max(1)).map(|row| Right::of(row, eps, case.rms)).collect();
    let op = Op(
        |x: Matrix<'_, T>, out: MatrixMut<'_, T>| {
            if case.rms {
                rms_norm(x, affine.0, rounded, out).expect("shapes");
            } else {
                layer_norm(x, affine.0, affine.1, rounded, out).expect("shapes");
            }
        },
        |x: MatrixMut<'_, T>| {
            if case.rms {
                rms_norm_in_place(x, affine.0, rounded).expect("shapes");
            } else {
                layer_norm_in_place(x, affine.0, affine.1, rounded).expect("shapes");
            }
        },
    );
    sweep(&op, &x, (rows, cols), &case.placement, |level, found| {
        for (index, right) in rights.iter().enumerate() {
            let found = &found[index * cols..(index + 1) * cols];
            let what = format!("{level:?} {rows}x{cols} row {index} eps {eps:e}");
            match right {
                None => assert!(found.iter().all(|value| value.is_nan()), "{} {what}: not NaN", T::NAME),
                Some(right) => check_row(right, case.rms, affine, found, &what),
            }
        }
    });
}

/// The results of a row before weight and bias.
struct Right {
    normal: Vec<f64>,
    /// Whether eps is nothing beside the variance, which is more than nothing itself.
    pure: bool,
}

impl Right {
    /// `None` where the row is not finite and the results are NaN.
    fn of(row: &[f64], eps: f64, rms: bool) -> Option<Self> {
        if row.iter().any(|x| !x.is_finite()) {
            return None;
        }
        let largest = row.iter().fold(0.0_f64, |a, b| a.max(b.abs()));
        if largest == 0.0 {
            return Some(Self { normal: vec![0.0; row.len()], pure: false });
        }
        // Near 1, where nothing overflows and what vanishes does not count. In two steps: one may not be representable.
        let power = -exponent(largest);
        let (first, second) = (power_of_two(power / 2), power_of_two(power - power / 2));
        let mut rest: Vec<f64> = row.iter().map(|x| x * first * second).collect();
        let count = row.len() as f64;
        if !rms {
            let center = exact_sum(rest.iter().copied()) / count;
            let shift = exact_sum(rest.iter().map(|x| x - center)) / count;
            for x in &mut rest {
                *x = (*x - center) - shift;
            }
            if row.iter().all(|x| *x == row[0]) {
                rest.fill(0.0);
            }
        }
        let spread = rest.iter().fold(0.0_f64, |a, b| a.max(b.abs()));
        if spread == 0.0 {
            return Some(Self { normal: vec![0.0; row.len()], pure: false });
        }
        let variance = exact_sum(rest.iter().map(|x| (x / spread).powi(2))) / count;
        let plain = eps;
        let eps = eps * first * first * second * second / spread / spread;
        if !eps.is_finite() {
            // Beside eps the variance is nothing.
            let root = plain.sqrt();
            return Some(Self { normal: rest.iter().map(|x| x / first / second / root).collect(), pure: false });
        }
        let deviation = (variance + eps).sqrt();
        let normal = rest.iter().map(|x| x / spread / deviation).collect();
        Some(Self { normal, pure: eps < 1e-300 })
    }
}

fn check_row<T: Number>(right: &Right, rms: bool, affine: (Option<&[T]>, Option<&[T]>), found: &[T], what: &str) {
    let roundoff = compute_roundoff::<T>();
    let steps = 10.0 + 2.0 * (found.len() as f64).log2();
    let mut allowed = 0.0;
    // Results of a row whose largest value is near 1 are subnormal where the others are, and are then multiplied by at
    // most the root of the row's length.
    let lost = 4.0 + 2.0 * (found.len() as f64).sqrt();
    for (col, (&normal, &value)) in right.normal.iter().zip(found).enumerate() {
        let weight = affine.0.map_or(1.0, |weight| to_f64(weight[col]));
        let bias = affine.1.map_or(0.0, |bias| to_f64(bias[col]));
        let product = normal * weight;
        if product.abs().max(bias.abs()) > most::<T>() / 4.0 {
            continue;
        }
        let scale = if rms { normal.abs() } else { normal.abs() + 1.0 };
        if weight.is_infinite() && normal.abs() <= steps * roundoff * scale + lost * least::<T>() {
            // Of what may as well be zero, or on the other side of it, infinity makes a NaN or either infinity.
            assert!(
                !to_f64(value).is_finite(),
                "{} {what} column {col}: {normal:e} * {weight:e} is {value:?}",
                T::NAME
            );
            continue;
        }
        let bound = steps * roundoff * (scale * weight.abs() + bias.abs()) + lost * (1.0 + weight.abs()) * least::<T>();
        assert_close(value, product + bias, bound, || {
            format!("{what} column {col}: {normal:e} * {weight:e} + {bias:e}")
        });
        let off = bound + T::half_ulp(normal);
        allowed += off * (1.0 + 2.0 * normal.abs() + off);
    }
    if right.pure && affine == (None, None) {
        let sum = exact_sum(found.iter().map(|&value| to_f64(value)));
        let squares = exact_sum(found.iter().map(|&value| to_f64(value).powi(2)));
        assert!(rms || sum.abs() <= allowed, "{} {what}: the mean is {sum:e} / {}", T::NAME, found.len());
        let off = (squares - found.len() as f64).abs();
        assert!(off <= allowed + 1e-12, "{} {what}: the squares sum to {squares}, not {}", T::NAME, found.len());
    }
}

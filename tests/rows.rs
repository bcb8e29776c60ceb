//! Softmax, log-softmax, layer norm and RMS norm against references in f64: each storage type, layout, CPU level and a
//! choice of lengths; and the promises they make, one test each.

#![allow(clippy::type_complexity, reason = "the types of two closures")]

#[macro_use]
mod common;

use common::{
    LENGTHS, Layout, Op, Random, Storage, all_from_f64, all_to_f64, at_one_level, compute_roundoff, exact_sum,
    exponent, for_each_level, from_f64, power_of_two, run, to_f64,
};
use polyglot_bridge::{
    Float, Matrix, MatrixMut, ShapeError, layer_norm, layer_norm_in_place, log_softmax, log_softmax_in_place, rms_norm,
    rms_norm_in_place, softmax, softmax_in_place,
};

for_each_type! {
    softmax_is_right => softmax_is_right_for,
    log_softmax_is_right => log_softmax_is_right_for,
    layer_norm_is_right => layer_norm_is_right_for,
    rms_norm_is_right => rms_norm_is_right_for,
    nan_and_infinity_make_softmax_rows_nan => poisoned_softmax_rows,
    nan_and_infinity_make_norm_rows_nan => poisoned_norm_rows,
    equal_values_give_exactly_the_bias => equal_values_give_exactly_the_bias_for,
    almost_equal_values_keep_their_spread => almost_equal_values_keep_their_spread_for,
    equal_scores_give_equal_shares => equal_scores_give_equal_shares_for,
    empty_matrices_are_legal => empty_matrices_are_legal_for,
    a_row_alone_gives_the_same_bits => a_row_alone_gives_the_same_bits_for,
    extreme_magnitudes_are_normalised => extreme_magnitudes_are_normalised_for,
    subnormal_rows_are_normalised => subnormal_rows_are_normalised_for,
    long_rows_are_right => long_rows_are_right_for,
}

fn softmax_op<T: Float>() -> Op<impl Fn(Matrix<'_, T>, MatrixMut<'_, T>), impl Fn(MatrixMut<'_, T>)> {
    Op(
        |x: Matrix<'_, T>, out: MatrixMut<'_, T>| softmax(x, out).expect("shapes"),
        |x: MatrixMut<'_, T>| softmax_in_place(x).expect("shapes"),
    )
}

fn log_softmax_op<T: Float>() -> Op<impl Fn(Matrix<'_, T>, MatrixMut<'_, T>), impl Fn(MatrixMut<'_, T>)> {
    Op(
        |x: Matrix<'_, T>, out: MatrixMut<'_, T>| log_softmax(x, out).expect("shapes"),
        |x: MatrixMut<'_, T>| log_softmax_in_place(x).expect("shapes"),
    )
}

/// The largest, and e^(x - largest) and its sum, in f64.
fn exponentials(row: &[f64]) -> (f64, Vec<f64>, f64) {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exps: Vec<f64> = row.iter().map(|x| (x - max).exp()).collect();
    let sum = exact_sum(exps.iter().copied());
    (max, exps, sum)
}

/// Sees that `found` is the softmax of `row`. e^x is within 2 ULP, a sum within log2(n) roundings, and the rounding of
/// x - max counts as often as x - max is large.
fn check_softmax<T: Storage>(row: &[f64], found: &[T], what: &str) {
    let (max, exps, sum) = exponentials(row);
    let roundoff = compute_roundoff::<T>();
    let mean_distance = exact_sum(row.iter().zip(&exps).map(|(x, e)| if *e > 0.0 { (max - x) * e / sum } else { 0.0 }));
    for ((x, e), &value) in row.iter().zip(&exps).zip(found) {
        let right = e / sum;
        let steps = 12.0 + (row.len() as f64).log2() + if right > 0.0 { max - x } else { 0.0 } + mean_distance;
        let least = if size_of::<T::Acc>() == 8 { f64::from_bits(2) } else { f64::from(f32::from_bits(2)) };
        let bound = right * steps * roundoff + T::half_ulp(right) + least;
        let error = (to_f64(value) - right).abs();
        assert!(error <= bound, "{what}: x {x}, max {max}: {value:?}, not {right}: off by {error:e} > {bound:e}");
        assert!((0.0..=1.0).contains(&to_f64(value)), "{what}: {value:?}");
    }
}

fn softmax_is_right_for<T: Storage>() {
    for_each_level(|level| {
        let mut random = Random::new(1);
        for cols in LENGTHS {
            let rows = if cols > 500 { 2 } else { 5 };
            let x: Vec<T> = (0..rows * cols).map(|_| from_f64(random.normal() * 4.0)).collect();
            let wide = all_to_f64(&x);
            for layout in Layout::ALL {
                let found = run(&softmax_op(), &x, rows, cols, layout);
                for row in 0..rows {
                    let range = row * cols..(row + 1) * cols;
                    let what = format!("{} {level:?} {layout:?} {rows}x{cols}", T::NAME);
                    check_softmax(&wide[range.clone()], &found[range], &what);
                }
            }
        }
    });
}

fn log_softmax_is_right_for<T: Storage>() {
    for_each_level(|level| {
        let mut random = Random::new(2);
        for cols in LENGTHS {
            let rows = if cols > 500 { 2 } else { 5 };
            let x: Vec<T> = (0..rows * cols).map(|_| from_f64(random.normal() * 4.0)).collect();
            let wide = all_to_f64(&x);
            for layout in Layout::ALL {
                let found = run(&log_softmax_op(), &x, rows, cols, layout);
                for row in 0..rows {
                    let range = row * cols..(row + 1) * cols;
                    check_log_softmax(
                        &wide[range.clone()],
                        &found[range],
                        &format!("{level:?} {layout:?} {rows}x{cols}"),
                    );
                }
            }
        }
    });
}

fn check_log_softmax<T: Storage>(row: &[f64], found: &[T], what: &str) {
    let (max, exps, sum) = exponentials(row);
    let roundoff = compute_roundoff::<T>();
    let mean_distance = exact_sum(row.iter().zip(&exps).map(|(x, e)| if *e > 0.0 { (max - x) * e / sum } else { 0.0 }));
    for (x, &value) in row.iter().zip(found) {
        let right = (x - max) - sum.ln();
        let steps = 12.0 + (row.len() as f64).log2() + 2.0 * (max - x) + mean_distance + 2.0 * sum.ln();
        let bound = steps * roundoff + T::half_ulp(right);
        let error = (to_f64(value) - right).abs();
        assert!(error <= bound, "{} {what}: x {x}: {value:?}, not {right}: off by {error:e} > {bound:e}", T::NAME);
    }
}

/// (x - mean) / sqrt(variance + eps), with a mean in two parts so that its rounding does not show.
fn normalised(row: &[f64], eps: f64) -> Vec<f64> {
    let count = row.len() as f64;
    // First near 1, so that nothing overflows.
    let scale = row.iter().fold(0.0_f64, |a, b| a.max(b.abs())).max(f64::MIN_POSITIVE);
    let row: Vec<f64> = row.iter().map(|x| x / power_of_two(exponent(scale))).collect();
    let eps = eps / power_of_two(exponent(scale)) / power_of_two(exponent(scale));
    let center = exact_sum(row.iter().map(|x| x / count));
    let shift = exact_sum(row.iter().map(|x| x - center)) / count;
    let rest: Vec<f64> = row.iter().map(|x| (x - center) - shift).collect();
    if rest.iter().all(|x| *x == 0.0) {
        return rest;
    }
    let deviation = (exact_sum(rest.iter().map(|x| x * x)) / count + eps).sqrt();
    rest.iter().map(|x| x / deviation).collect()
}

fn root_mean_square_normalised(row: &[f64], eps: f64) -> Vec<f64> {
    let largest = row.iter().fold(0.0_f64, |a, b| a.max(b.abs()));
    if largest == 0.0 {
        return row.to_vec();
    }
    let squares = exact_sum(row.iter().map(|x| (x / largest).powi(2))) / row.len() as f64;
    let root = (squares + eps / largest / largest).sqrt();
    row.iter().map(|x| x / largest / root).collect()
}

fn check_norm<T: Storage>(normal: &[f64], affine: (Option<&[T]>, Option<&[T]>), found: &[T], what: &str) {
    let roundoff = compute_roundoff::<T>();
    let steps = 10.0 + 2.0 * (normal.len().max(1) as f64).log2();
    for (col, (&normal, &value)) in normal.iter().zip(found).enumerate() {
        let weight = affine.0.map_or(1.0, |weight| to_f64(weight[col]));
        let bias = affine.1.map_or(0.0, |bias| to_f64(bias[col]));
        let right = normal * weight + bias;
        let bound = steps * roundoff * ((normal.abs() + 1.0) * weight.abs() + bias.abs()) + T::half_ulp(right);
        let error = (to_f64(value) - right).abs();
        assert!(error <= bound, "{} {what}: {value:?}, not {right}: off by {error:e} > {bound:e}", T::NAME);
    }
}

/// With and without weight and bias.
const AFFINE: [(bool, bool); 4] = [(false, false), (true, false), (false, true), (true, true)];

fn layer_norm_is_right_for<T: Storage>() {
    for_each_level(|level| {
        let mut random = Random::new(3);
        for cols in LENGTHS {
            let rows = if cols > 500 { 2 } else { 4 };
            let offset = random.normal() * 10.0;
            let x: Vec<T> = (0..rows * cols).map(|_| from_f64(random.normal() + offset)).collect();
            let wide = all_to_f64(&x);
            let (weight, bias) = (random.normals::<T>(cols), random.normals::<T>(cols));
            for (has_weight, has_bias) in AFFINE {
                let affine = (has_weight.then_some(&weight[..]), has_bias.then_some(&bias[..]));
                let eps = 1e-5;
                let op = Op(
                    |x: Matrix<'_, T>, out: MatrixMut<'_, T>| {
                        layer_norm(x, affine.0, affine.1, from_f64(eps), out).expect("shapes");
                    },
                    |x: MatrixMut<'_, T>| layer_norm_in_place(x, affine.0, affine.1, from_f64(eps)).expect("shapes"),
                );
                for layout in Layout::ALL {
                    let found = run(&op, &x, rows, cols, layout);
                    for row in 0..rows {
                        let range = row * cols..(row + 1) * cols;
                        let what = format!("{level:?} {layout:?} {rows}x{cols} {has_weight} {has_bias}");
                        check_norm(&normalised(&wide[range.clone()], eps), affine, &found[range], &what);
                    }
                }
            }
        }
    });
}

fn rms_norm_is_right_for<T: Storage>() {
    for_each_level(|level| {
        let mut random = Random::new(4);
        for cols in LENGTHS {
            let rows = if cols > 500 { 2 } else { 4 };
            let x: Vec<T> = (0..rows * cols).map(|_| from_f64(random.normal() + 0.5)).collect();
            let wide = all_to_f64(&x);
            let weight = random.normals::<T>(cols);
            for has_weight in [false, true] {
                let weight = has_weight.then_some(&weight[..]);
                let eps = 1e-6;
                let op = Op(
                    |x: Matrix<'_, T>, out: MatrixMut<'_, T>| {
                        rms_norm(x, weight, from_f64(eps), out).expect("shapes");
                    },
                    |x: MatrixMut<'_, T>| rms_norm_in_place(x, weight, from_f64(eps)).expect("shapes"),
                );
                for layout in Layout::ALL {
                    let found = run(&op, &x, rows, cols, layout);
                    for row in 0..rows {
                        let range = row * cols..(row + 1) * cols;
                        let normal = root_mean_square_normalised(&wide[range.clone()], eps);
                        let what = format!("{level:?} {layout:?} {rows}x{cols} {has_weight}");
                        check_norm(&normal, (weight, None), &found[range], &what);
                    }
                }
            }
        }
    });
}

fn poisoned_softmax_rows<T: Storage>() {
    for_each_level(|level| {
        let mut random = Random::new(5);
        for cols in [1, 2, 7, 8, 9, 33, 100, 5000] {
            for poison in [f64::NAN, f64::INFINITY] {
                for place in [0, cols / 2, cols - 1] {
                    let mut x: Vec<T> = random.normals(3 * cols);
                    x[cols + place] = from_f64(poison);
                    let clean = run(&softmax_op(), &x[..cols], 1, cols, Layout::Dense);
                    for is_log in [false, true] {
                        let mut out = vec![T::ZERO; 3 * cols];
                        let (view, target) =
                            (Matrix::new(&x, 3, cols).unwrap(), MatrixMut::new(&mut out, 3, cols).unwrap());
                        if is_log { log_softmax(view, target) } else { softmax(view, target) }.unwrap();
                        for col in 0..cols {
                            assert!(
                                to_f64(out[cols + col]).is_nan(),
                                "{level:?} {cols} {poison} {place} {col} {is_log}"
                            );
                        }
                        assert!(is_log || out[..cols] == clean, "a poisoned row spoilt its neighbour");
                        assert!(all_to_f64(&out[2 * cols..]).iter().all(|x| x.is_finite()));
                    }
                }
            }
            let mut row = vec![from_f64::<T>(f64::NEG_INFINITY); cols];
            softmax_in_place(&mut row[..]).unwrap();
            assert!(all_to_f64(&row).iter().all(|x| x.is_nan()), "{level:?}: all -inf, {cols}");
            if cols > 1 {
                let mut row = vec![from_f64::<T>(f64::NEG_INFINITY); cols];
                row[cols / 2] = from_f64(-3.0);
                let mut log = row.clone();
                softmax_in_place(&mut row[..]).unwrap();
                log_softmax_in_place(&mut log[..]).unwrap();
                for (col, (value, log)) in row.iter().zip(&log).enumerate() {
                    let hit = col == cols / 2;
                    assert_eq!(to_f64(*value), f64::from(u8::from(hit)));
                    assert_eq!(to_f64(*log), if hit { 0.0 } else { f64::NEG_INFINITY });
                }
            }
        }
    });
}

fn poisoned_norm_rows<T: Storage>() {
    for_each_level(|level| {
        let mut random = Random::new(6);
        for cols in [1, 2, 7, 8, 9, 33, 100, 5000] {
            for poison in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                for place in [0, cols / 2, cols - 1] {
                    let mut x: Vec<T> = random.normals(3 * cols);
                    x[cols + place] = from_f64(poison);
                    for rms in [false, true] {
                        let mut out = vec![T::ZERO; 3 * cols];
                        let (view, target) =
                            (Matrix::new(&x, 3, cols).unwrap(), MatrixMut::new(&mut out, 3, cols).unwrap());
                        if rms {
                            rms_norm(view, None, from_f64(1e-6), target).unwrap();
                        } else {
                            layer_norm(view, None, None, from_f64(1e-5), target).unwrap();
                        }
                        let wide = all_to_f64(&out);
                        assert!(wide[cols..2 * cols].iter().all(|x| x.is_nan()), "{level:?} {cols} {poison} {place}");
                        assert!(wide[..cols].iter().chain(&wide[2 * cols..]).all(|x| x.is_finite()));
                    }
                }
            }
        }
    });
}

fn equal_values_give_exactly_the_bias_for<T: Storage>() {
    for_each_level(|level| {
        for cols in [1, 2, 3, 5, 7, 10, 17, 33, 100, 127, 768, 1000, 4099, 100_003] {
            for value in [0.0, 0.1, -3.3, 1e-3, 1234.5, 1e7, 3e4, -1e-7] {
                if !to_f64(from_f64::<T>(value)).is_finite() {
                    continue;
                }
                for eps in [1e-5, 0.0] {
                    let mut row = vec![from_f64::<T>(value); cols];
                    layer_norm_in_place(&mut row[..], None, None, from_f64(eps)).unwrap();
                    assert!(
                        row.iter().all(|&y| to_f64(y) == 0.0),
                        "{level:?} {cols} x {value}, eps {eps}: {:?}",
                        row[0]
                    );
                    let bias = vec![from_f64::<T>(0.3); cols];
                    let mut row = vec![from_f64::<T>(value); cols];
                    layer_norm_in_place(&mut row[..], Some(&bias), Some(&bias), from_f64(eps)).unwrap();
                    assert!(row == bias, "{level:?} {cols} x {value}, eps {eps}");
                }
            }
        }
    });
}

/// The sum of a long row is off by several units of its mean, to either side, where the spread may be a fraction of one:
/// the square of that error must not be what the variance is computed from.
fn almost_equal_values_keep_their_spread_for<T: Storage>() {
    for_each_level(|level| {
        for cols in [4099, 60_000, 100_003] {
            for value in [0.1, 0.7, 3.3, 1234.5] {
                for value in [value, -value] {
                    let most = to_f64(from_f64::<T>(value));
                    let few = most * (1.0 + 2.0 * T::half_unit());
                    let x: Vec<T> = (0..cols).map(|col| from_f64(if col % 997 == 5 { few } else { most })).collect();
                    assert_ne!(x[5], x[0]);
                    let mut out = vec![T::ZERO; cols];
                    layer_norm(&x[..], None, None, from_f64(0.0), &mut out[..]).unwrap();
                    let what = format!("{level:?} {cols} of about {value}");
                    check_norm(&normalised(&all_to_f64(&x), 0.0), (None, None), &out, &what);
                }
            }
        }
    });
}

fn equal_scores_give_equal_shares_for<T: Storage>() {
    for_each_level(|level| {
        for cols in [1, 2, 3, 10, 100, 1000, 4097, 60_000, 140_001] {
            let mut row = vec![from_f64::<T>(2.5); cols];
            softmax_in_place(&mut row[..]).unwrap();
            assert!(row.iter().all(|&share| share == row[0]), "{level:?} {cols}");
            check_softmax(&vec![2.5; cols], &row, &format!("{level:?} {cols} equal"));
        }
    });
}

fn empty_matrices_are_legal_for<T: Storage>() {
    for_each_level(|_| {
        for (rows, cols) in [(0, 0), (0, 5), (5, 0)] {
            let mut out: [T; 0] = [];
            let x = Matrix::new(&[], rows, cols).unwrap();
            softmax(x, MatrixMut::new(&mut out, rows, cols).unwrap()).unwrap();
            log_softmax(x, MatrixMut::new(&mut out, rows, cols).unwrap()).unwrap();
            let weight = vec![T::ZERO; cols];
            let (affine, eps) = (Some(&weight[..]), from_f64(1e-5));
            layer_norm(x, affine, affine, eps, MatrixMut::new(&mut out, rows, cols).unwrap()).unwrap();
            rms_norm(x, affine, eps, MatrixMut::new(&mut out, rows, cols).unwrap()).unwrap();
        }
    });
}

fn bits<T: Float>(values: &[T]) -> Vec<u64> {
    values.iter().map(|&value| to_f64(value).to_bits()).collect()
}

fn a_row_alone_gives_the_same_bits_for<T: Storage>() {
    for_each_level(|level| {
        let mut random = Random::new(7);
        for cols in [1, 3, 10, 64, 100, 128, 1000] {
            let rows = 300;
            let x: Vec<T> = random.normals(rows * cols);
            let weight: Vec<T> = random.normals(cols);
            let norm = Op(
                |x: Matrix<'_, T>, out: MatrixMut<'_, T>| {
                    layer_norm(x, Some(&weight), None, from_f64(1e-5), out).unwrap();
                },
                |_: MatrixMut<'_, T>| {},
            );
            let batch = [
                run(&softmax_op(), &x, rows, cols, Layout::Dense),
                run(&log_softmax_op(), &x, rows, cols, Layout::Dense),
                run(&norm, &x, rows, cols, Layout::Dense),
            ];
            for row in [0, 1, 150, 299] {
                let range = row * cols..(row + 1) * cols;
                let alone = [
                    run(&softmax_op(), &x[range.clone()], 1, cols, Layout::Dense),
                    run(&log_softmax_op(), &x[range.clone()], 1, cols, Layout::Dense),
                    run(&norm, &x[range.clone()], 1, cols, Layout::Dense),
                ];
                for (batch, alone) in batch.iter().zip(&alone) {
                    assert_eq!(bits(&batch[range.clone()]), bits(alone), "{level:?} {cols}");
                }
            }
        }
    });
}

fn extreme_magnitudes_are_normalised_for<T: Storage>() {
    let (least, most) = if size_of::<T::Acc>() == 8 { (1e-307, 1.7e308) } else { (1e-37, 3.4e38) };
    let (least, most) = if T::DIGITS == 11 { (1e-4, 6e4) } else { (least, most) };
    for_each_level(|level| {
        let mut random = Random::new(8);
        for cols in [2, 3, 8, 33, 768] {
            for magnitude in [1e20, 1e200, most / 8.0, most, 1e-20, 1e-200, least] {
                let x: Vec<T> = (0..cols).map(|_| from_f64(random.uniform(-1.0..1.0) * magnitude)).collect();
                let wide = all_to_f64(&x);
                if wide.iter().any(|x| !x.is_finite()) || wide.iter().all(|x| *x == 0.0) {
                    continue;
                }
                for eps in [1e-5, 0.0] {
                    let what = format!("{level:?} {cols} of {magnitude:e}, eps {eps}");
                    let eps_rounded = to_f64(from_f64::<T::Acc>(eps));
                    let mut found = vec![T::ZERO; cols];
                    layer_norm(&x[..], None, None, from_f64(eps), &mut found[..]).unwrap();
                    check_norm(&normalised(&wide, eps_rounded), (None, None), &found, &what);
                    rms_norm(&x[..], None, from_f64(eps), &mut found[..]).unwrap();
                    check_norm(&root_mean_square_normalised(&wide, eps_rounded), (None, None), &found, &what);
                }
            }
        }
    });
}

/// A few units of the smallest subnormal number there is, whose mean and squares no number of the type can hold.
fn subnormal_rows_are_normalised_for<T: Storage>() {
    let unit = power_of_two(T::LEAST_EXPONENT + 1 - T::DIGITS);
    let tiny = if size_of::<T::Acc>() == 8 { 1e-200 } else { 1e-30 };
    for_each_level(|level| {
        let mut random = Random::new(10);
        for cols in [2, 3, 7, 8, 9, 33, 1000] {
            let units: Vec<f64> = (0..cols).map(|_| random.uniform(-7.0..9.0).round()).collect();
            let x: Vec<T> = units.iter().map(|x| from_f64(x * unit)).collect();
            let mean = units.iter().sum::<f64>() / cols as f64;
            for (eps, center) in [(0.0, mean), (0.0, 0.0), (tiny, mean), (tiny, 0.0)] {
                let mut found = vec![T::ZERO; cols];
                if center == 0.0 {
                    rms_norm(&x[..], None, from_f64(eps), &mut found[..]).unwrap();
                } else {
                    layer_norm(&x[..], None, None, from_f64(eps), &mut found[..]).unwrap();
                }
                // In units, or in f64, where the squares of units are nothing beside `eps`, without them.
                let squares = units.iter().map(|x| (x - center).powi(2)).sum::<f64>() / cols as f64;
                let eps = to_f64(from_f64::<T::Acc>(eps));
                let (unit, root) = match eps / unit / unit {
                    eps if eps.is_finite() => (1.0, (squares + eps).sqrt()),
                    _ => (unit, eps.sqrt()),
                };
                for (x, &found) in units.iter().zip(&found) {
                    // In this order: the unit's own multiples are rounded.
                    let right = (x - center) * (unit / root);
                    let bound = 40.0 * compute_roundoff::<T>() * 16.0 * (unit / root) + T::half_ulp(right);
                    let error = (to_f64(found) - right).abs();
                    assert!(
                        error <= bound || root == 0.0,
                        "{} {level:?} {cols}, eps {eps:e}: {found:?}, not {right:e}",
                        T::NAME
                    );
                }
            }
        }
    });
}

fn long_rows_are_right_for<T: Storage>() {
    for_each_level(|level| {
        let mut random = Random::new(9);
        for cols in [4096, 4097, 131_072, 131_073, 300_007] {
            let x: Vec<T> = (0..cols).map(|_| from_f64(random.normal() * 3.0)).collect();
            let wide = all_to_f64(&x);
            for layout in [Layout::Dense, Layout::InPlace] {
                let what = format!("{level:?} {layout:?} {cols}");
                check_softmax(&wide, &run(&softmax_op(), &x, 1, cols, layout), &what);
                check_log_softmax(&wide, &run(&log_softmax_op(), &x, 1, cols, layout), &what);
            }
            let mut found = x.clone();
            layer_norm_in_place(&mut found[..], None, None, from_f64(1e-5)).unwrap();
            check_norm(&normalised(&wide, 1e-5), (None, None), &found, &format!("{level:?} {cols}"));
        }
    });
}

#[test]
fn a_mean_far_above_the_spread_keeps_f32_accuracy() {
    for_each_level(|level| {
        let row = [1e7_f32, 1e7 + 1.0, 1e7 + 2.0, 1e7 + 3.0];
        let mut out = [0.0_f32; 4];
        layer_norm(&row, None, None, 0.0, &mut out).unwrap();
        check_norm(&normalised(&all_to_f64(&row), 0.0), (None, None), &out, &format!("{level:?}"));
        // Also for a row so long that its first mean is off by more than the spread.
        let long: Vec<f32> = (0..100_000).map(|index| 1e7 + (index % 4) as f32).collect();
        let mut out = long.clone();
        layer_norm_in_place(&mut out[..], None, None, 0.0).unwrap();
        check_norm(&normalised(&all_to_f64(&long), 0.0), (None, None), &out, &format!("{level:?} long"));
    });
}

#[test]
fn softmax_keeps_subnormal_shares() {
    for_each_level(|level| {
        let mut row = [0.0_f32, -100.0];
        softmax_in_place(&mut row).unwrap();
        assert!(row[1] > 0.0 && row[1] < f32::MIN_POSITIVE, "{level:?}: {}", row[1]);
        let mut row = [0.0_f64, -740.0];
        softmax_in_place(&mut row).unwrap();
        assert!(row[1] > 0.0 && row[1] < f64::MIN_POSITIVE, "{level:?}: {}", row[1]);
    });
}

#[test]
fn softmax_takes_the_largest_scores_there_are() {
    for_each_level(|level| {
        let mut row = [f32::MAX, f32::MAX, f32::MIN];
        softmax_in_place(&mut row).unwrap();
        assert_eq!(row, [0.5, 0.5, 0.0], "{level:?}");
        let mut row = [f64::MAX, f64::MIN, f64::MAX];
        softmax_in_place(&mut row).unwrap();
        assert_eq!(row, [0.5, 0.0, 0.5], "{level:?}");
    });
}

#[cfg(feature = "f16")]
#[test]
fn sixty_thousand_equal_f16_scores_give_sixty_thousand_equal_shares() {
    use half::f16;
    for_each_level(|level| {
        let mut row = vec![f16::ONE; 60_000];
        softmax_in_place(&mut row[..]).unwrap();
        assert!(row.iter().all(|&share| share == f16::from_f64(1.0 / 60_000.0)), "{level:?}: {}", row[0]);
    });
}

#[test]
fn shapes_that_differ_are_named() {
    let x = [0.0_f32; 6];
    let mut out = [5.0_f32; 4];
    let error = softmax(&x, &mut out).unwrap_err();
    assert_eq!(error, ShapeError::Mismatch { op: "softmax", operand: "out", found: (1, 4), expected: (1, 6) });
    let error = log_softmax(&x, &mut out).unwrap_err();
    assert_eq!(error.to_string(), "log_softmax: out has shape (1, 4), expected (1, 6)");
    let error = layer_norm(&x, Some(&[1.0]), None, 1e-5, &mut [0.0; 6]).unwrap_err();
    assert_eq!(error.to_string(), "layer_norm: weight has shape (1, 1), expected (1, 6)");
    let error = layer_norm(&x, None, Some(&[1.0; 7]), 1e-5, &mut [0.0; 6]).unwrap_err();
    assert_eq!(error.to_string(), "layer_norm: bias has shape (1, 7), expected (1, 6)");
    let error = rms_norm(&x, Some(&[]), 1e-5, &mut [0.0; 6]).unwrap_err();
    assert_eq!(error.to_string(), "rms_norm: weight has shape (1, 0), expected (1, 6)");
    assert_eq!(out, [5.0; 4], "a failed check wrote");
}

#[test]
fn rows_of_one_level_do_not_differ_from_run_to_run() {
    at_one_level(|| {
        let x: Vec<f32> = all_from_f64(&all_to_f64(&Random::new(10).normals::<f32>(10_000)));
        let first = run(&softmax_op(), &x, 100, 100, Layout::Dense);
        for _ in 0..20 {
            assert_eq!(run(&softmax_op(), &x, 100, 100, Layout::Dense), first);
        }
    });
}

//! What transformers need beside attention, against formulas in f64: embedding, mean pooling, scaling to length 1, layer
//! norm of a sum. Within the bound of pairwise summation in the compute type, at each CPU level, in every layout.

#[macro_use]
mod common;

use common::{
    LENGTHS, Layout, Op, Random, Storage, all_to_f64, compute_roundoff, exact_sum, exponent, for_each_level, from_f64,
    power_of_two, run, to_f64,
};
use polyglot_bridge::{
    Error, Float, Matrix, MatrixMut, ShapeError, add_layer_norm, add_layer_norm_in_place, embedding, embedding_wide,
    l2_normalize, l2_normalize_in_place, layer_norm, mean_pool,
};

for_each_type! {
    rows_of_tables_are_added_up => embedding_is_right_for,
    kept_rows_are_averaged => mean_pool_is_right_for,
    padding_changes_no_bit_of_a_mean => padding_for,
    means_of_the_largest_values_are_finite => largest_means_for,
    rows_get_length_1 => l2_normalize_is_right_for,
    extremes_get_length_1 => l2_normalize_extremes_for,
    a_sum_is_normalised => add_layer_norm_is_right_for,
    nan_reaches_its_row_alone => nan_for,
    empty_operands_are_legal => empty_operands_for,
}

fn assert_near<T: Storage>(found: T, right: f64, bound: f64, what: impl Fn() -> String) {
    let (bound, error) = (bound + T::half_ulp(right), (to_f64(found) - right).abs());
    assert!(error <= bound, "{} {}: {found:?}, not {right:e}: off by {error:e} > {bound:e}", T::NAME, what());
}

/// The same values, column after column, so that no row of the view lies side by side.
fn transposed<T: Float>(values: &[T], rows: usize, cols: usize) -> Vec<T> {
    (0..cols).flat_map(|col| (0..rows).map(move |row| values[row * cols + col])).collect()
}

fn embedding_is_right_for<T: Storage>() {
    for_each_level(|level| {
        let mut random = Random::new(1);
        for cols in LENGTHS.into_iter().filter(|&cols| cols < 600) {
            let sizes = [7, 3, 1, 40];
            let tables: Vec<Vec<T>> = sizes.iter().map(|&rows| random.normals(rows * cols)).collect();
            let ids: Vec<Vec<usize>> = sizes.iter().map(|&rows| (0..5).map(|_| random.below(rows)).collect()).collect();
            let turned: Vec<Vec<T>> =
                tables.iter().zip(sizes).map(|(table, rows)| transposed(table, rows, cols)).collect();
            for count in 0..=tables.len() {
                for strided in [false, true] {
                    let views: Vec<(Matrix<'_, T>, &[usize])> = (0..count)
                        .map(|index| {
                            let view = if strided && index % 2 == 0 {
                                Matrix::new(&turned[index], cols, sizes[index]).expect("shape").transpose()
                            } else {
                                Matrix::new(&tables[index], sizes[index], cols).expect("shape")
                            };
                            (view, &ids[index][..])
                        })
                        .collect();
                    let mut found = vec![from_f64::<T>(-77.0); 5 * cols];
                    embedding(&views, MatrixMut::new(&mut found, 5, cols).expect("shape")).expect("shapes");
                    let mut wide = vec![from_f64::<T::Acc>(-77.0); 5 * cols];
                    embedding_wide(&views, MatrixMut::new(&mut wide, 5, cols).expect("shape")).expect("shapes");
                    for (place, (&found, &wide)) in found.iter().zip(&wide).enumerate() {
                        let (row, col) = (place / cols, place % cols);
                        let terms: Vec<T> =
                            (0..count).map(|index| tables[index][ids[index][row] * cols + col]).collect();
                        let terms = all_to_f64(&terms);
                        let right = exact_sum(terms.iter().copied());
                        let size = exact_sum(terms.iter().map(|term| term.abs()));
                        // One table is looked up, not computed.
                        let bound = count.saturating_sub(1) as f64 * compute_roundoff::<T>() * size;
                        let what = || format!("{level:?} {count} tables of {cols}, {strided}, at ({row}, {col})");
                        assert_near(found, right, bound, what);
                        assert!((to_f64(wide) - right).abs() <= bound, "{} {} wide: {wide:?}", T::NAME, what());
                    }
                }
            }
        }
    });
}

/// What kept rows have for a mean, and how far off it may be.
fn mean_of<T: Storage>(x: &[T], keep: &[bool], cols: usize, col: usize) -> (f64, f64) {
    let kept: Vec<f64> =
        keep.iter().enumerate().filter(|(_, keep)| **keep).map(|(row, _)| to_f64(x[row * cols + col])).collect();
    let count = kept.len().max(1) as f64;
    // Sixteen rows in a chain, then pairs, then a division.
    let steps = 18.0 + count.log2();
    let size = exact_sum(kept.iter().map(|x| x.abs())) / count;
    (exact_sum(kept.iter().copied()) / count, steps * compute_roundoff::<T>() * size)
}

fn mean_pool_is_right_for<T: Storage>() {
    for_each_level(|level| {
        let mut random = Random::new(2);
        for cols in [1, 3, 8, 16, 17, 33, 70] {
            for tokens in [1, 2, 15, 16, 17, 70, 300] {
                let sequences = 3;
                let mut x: Vec<T> = random.normals(sequences * tokens * cols);
                let mut keep: Vec<bool> = (0..sequences * tokens).map(|_| random.below(3) > 0).collect();
                // One of which nothing is kept: zeros.
                keep[tokens..2 * tokens].fill(false);
                for all in [true, false] {
                    let keep = if all { vec![true; sequences * tokens] } else { keep.clone() };
                    for (row, _) in keep.iter().enumerate().filter(|(_, keep)| !**keep) {
                        x[row * cols..(row + 1) * cols].fill(from_f64(f64::NAN));
                    }
                    let mask = (!all).then(|| Matrix::new(&keep, sequences, tokens).expect("shape"));
                    let turned = transposed(&x, sequences * tokens, cols);
                    for strided in [false, true] {
                        let view = if strided {
                            Matrix::new(&turned, cols, sequences * tokens).expect("shape").transpose()
                        } else {
                            Matrix::new(&x, sequences * tokens, cols).expect("shape")
                        };
                        let mut found = vec![from_f64::<T>(-77.0); sequences * cols];
                        mean_pool(view, mask, MatrixMut::new(&mut found, sequences, cols).expect("shape"))
                            .expect("shapes");
                        for (place, &found) in found.iter().enumerate() {
                            let (sequence, col) = (place / cols, place % cols);
                            let (rows, keep) = (&x[sequence * tokens * cols..], &keep[sequence * tokens..][..tokens]);
                            let (right, bound) = mean_of(rows, keep, cols, col);
                            assert_near(found, right, bound, || {
                                format!("{level:?} {sequence} of {tokens}x{cols}, {all} {strided}, column {col}")
                            });
                        }
                    }
                }
            }
        }
    });
}

fn padding_for<T: Storage>() {
    for_each_level(|level| {
        let (tokens, cols) = (45, 37);
        let x: Vec<T> = Random::new(3).normals(tokens * cols);
        let mut alone = vec![T::ZERO; cols];
        mean_pool(Matrix::new(&x, tokens, cols).unwrap(), None, &mut alone[..]).unwrap();
        for before in [0, 1, 20] {
            let mut padded = vec![from_f64::<T>(f64::INFINITY); before * cols];
            padded.extend_from_slice(&x);
            padded.resize((before + tokens + 13) * cols, from_f64(f64::NAN));
            let keep: Vec<bool> =
                (0..before + tokens + 13).map(|row| (before..before + tokens).contains(&row)).collect();
            let mut found = vec![T::ZERO; cols];
            mean_pool(Matrix::new(&padded, keep.len(), cols).unwrap(), Some((&keep[..]).into()), &mut found[..])
                .unwrap();
            assert_eq!(found, alone, "{level:?} {before}");
        }
    });
}

fn largest_means_for<T: Storage>() {
    let most = match T::NAME {
        "f16" => 65_504.0,
        "bf16" => 255.0 * 2.0_f64.powi(120),
        "f32" => f64::from(f32::MAX),
        _ => f64::MAX,
    };
    // What brings any sum into f64.
    let small = 2.0_f64.powi(-64);
    for_each_level(|level| {
        for (cols, tokens) in [(1, 2), (7, 3), (16, 17), (19, 100), (40, 31)] {
            let mut x: Vec<T> = Random::new(4).normals(tokens * cols);
            for (index, value) in x.iter_mut().enumerate() {
                let (row, col) = (index / cols, index % cols);
                *value = match col % 5 {
                    0 => from_f64(most),
                    1 => from_f64(-most),
                    2 => from_f64(most * [1.0, 1.0, 1.0, -1.0, -1.0][row % 5]),
                    3 if row == 0 => from_f64(most),
                    _ => *value,
                };
            }
            let pool = |x: &[T]| {
                let mut found = vec![T::ZERO; cols];
                mean_pool(Matrix::new(x, tokens, cols).unwrap(), None, &mut found[..]).unwrap();
                found
            };
            let found = pool(&x);
            for (col, &value) in found.iter().enumerate() {
                let kept: Vec<f64> = (0..tokens).map(|row| to_f64(x[row * cols + col]) * small).collect();
                let right = exact_sum(kept.iter().copied()) / tokens as f64;
                let size = exact_sum(kept.iter().map(|x| x.abs())) / tokens as f64;
                let bound = (19.0 + (tokens as f64).log2()) * compute_roundoff::<T>() * size
                    + 2.02 * T::half_unit() * right.abs()
                    + T::half_ulp(0.0) * small;
                let value = to_f64(value);
                let what = format!("{} {level:?} {tokens}x{cols}, column {col}: {value:e}", T::NAME);
                assert!(value.is_finite() && value.abs() <= most, "{what}");
                assert!((value * small - right).abs() <= bound, "{what}, not {right:e} / {small:e}");
            }
            // A column whose sum does not overflow has the bits that it has beside any others.
            let ordinary: Vec<T> =
                x.iter().enumerate().map(|(index, &x)| if index % cols % 5 == 4 { x } else { T::ZERO }).collect();
            let alone = pool(&ordinary);
            (4..cols).step_by(5).for_each(|col| assert_eq!(alone[col], found[col], "{level:?}"));
            for (poison, wrong) in [(f64::INFINITY, f64::NEG_INFINITY), (f64::NEG_INFINITY, f64::INFINITY)] {
                x[..cols].fill(from_f64(poison));
                assert!(pool(&x).iter().all(|value| to_f64(*value) == poison), "{level:?} {poison}");
                x[cols..2 * cols].fill(from_f64(wrong));
                assert!(pool(&x).iter().all(|value| to_f64(*value).is_nan()), "{level:?} {poison}");
                x[cols..2 * cols].fill(from_f64(most));
            }
        }
    });
}

fn l2_op<T: Float>() -> Op<impl Fn(Matrix<'_, T>, MatrixMut<'_, T>), impl Fn(MatrixMut<'_, T>)> {
    Op(
        |x: Matrix<'_, T>, out: MatrixMut<'_, T>| l2_normalize(x, out).expect("shapes"),
        |x: MatrixMut<'_, T>| l2_normalize_in_place(x).expect("shapes"),
    )
}

/// x / sqrt(sum(x²)), scaled by a power of two so that nothing overflows.
fn length_1(row: &[f64]) -> Vec<f64> {
    let largest = row.iter().fold(0.0_f64, |a, b| a.max(b.abs()));
    if largest == 0.0 {
        return row.to_vec();
    }
    // In two steps: the reciprocal of the smallest numbers overflows.
    let half = power_of_two(-exponent(largest) / 2);
    let row: Vec<f64> = row.iter().map(|x| x * half * half).collect();
    let length = exact_sum(row.iter().map(|x| x * x)).sqrt();
    row.iter().map(|x| x / length).collect()
}

fn check_length_1<T: Storage>(x: &[T], found: &[T], what: &str) {
    let steps = 8.0 + (x.len().max(1) as f64).log2();
    for (right, &found) in length_1(&all_to_f64(x)).into_iter().zip(found) {
        assert_near(found, right, steps * compute_roundoff::<T>() * right.abs(), || what.to_string());
    }
}

fn l2_normalize_is_right_for<T: Storage>() {
    for_each_level(|level| {
        let mut random = Random::new(4);
        for cols in LENGTHS {
            let rows = if cols > 500 { 2 } else { 4 };
            let x: Vec<T> = random.normals(rows * cols);
            for layout in Layout::ALL {
                let found = run(&l2_op(), &x, rows, cols, layout);
                for row in 0..rows {
                    let range = row * cols..(row + 1) * cols;
                    check_length_1(&x[range.clone()], &found[range], &format!("{level:?} {layout:?} {rows}x{cols}"));
                }
            }
        }
    });
}

fn l2_normalize_extremes_for<T: Storage>() {
    let (least, most) = match (size_of::<T::Acc>(), T::DIGITS) {
        (8, _) => (5e-324, 1.7e308),
        (_, 11) => (6e-8, 6e4),
        _ => (1e-40, 3e38),
    };
    for_each_level(|level| {
        let mut random = Random::new(5);
        for cols in [1, 2, 8, 33, 768] {
            for magnitude in [1e20, 1e200, most, 1e-20, 1e-200, 1e-300, 3e-310, 8.0 * least] {
                let x: Vec<T> = (0..cols).map(|_| from_f64(random.uniform(-1.0..1.0) * magnitude)).collect();
                if all_to_f64(&x).iter().any(|x| !x.is_finite()) {
                    continue;
                }
                let mut found = vec![T::ZERO; cols];
                l2_normalize(&x[..], &mut found[..]).unwrap();
                check_length_1(&x, &found, &format!("{level:?} {cols} of {magnitude:e}"));
            }
            let mut zeros = vec![T::ZERO; cols];
            l2_normalize_in_place(&mut zeros[..]).unwrap();
            assert_eq!(all_to_f64(&zeros), vec![0.0; cols], "{level:?}");
        }
    });
}

fn add_layer_norm_is_right_for<T: Storage>() {
    for_each_level(|level| {
        let mut random = Random::new(6);
        // The sum of a longer row goes over the result, rounded to it.
        let longest = if cfg!(feature = "std") { 4096 } else { 64 };
        for cols in [1, 2, 7, 16, 33, 257, 1000, 4099] {
            let rows = 3;
            let (x, residual) = (random.normals::<T>(rows * cols), random.normals::<T>(rows * cols));
            let (weight, bias) = (random.normals::<T>(cols), random.normals::<T>(cols));
            let turned = transposed(&residual, rows, cols);
            let sums: Vec<f64> = x
                .iter()
                .zip(&residual)
                .map(|(&x, &y)| to_f64(x) + to_f64(y))
                .map(|sum| if cols > longest { to_f64(from_f64::<T>(sum)) } else { sum })
                .collect();
            for strided in [false, true] {
                let beside = if strided {
                    Matrix::new(&turned, cols, rows).expect("shape").transpose()
                } else {
                    Matrix::new(&residual, rows, cols).expect("shape")
                };
                let (weight, bias, eps) = (Some(&weight[..]), Some(&bias[..]), from_f64(1e-5));
                let op = Op(
                    |x: Matrix<'_, T>, out: MatrixMut<'_, T>| {
                        add_layer_norm(x, beside, weight, bias, eps, out).expect("shapes");
                    },
                    |x: MatrixMut<'_, T>| add_layer_norm_in_place(x, beside, weight, bias, eps).expect("shapes"),
                );
                for layout in Layout::ALL {
                    let found = run(&op, &x, rows, cols, layout);
                    for row in 0..rows {
                        let range = row * cols..(row + 1) * cols;
                        let count = cols as f64;
                        let mean = exact_sum(sums[range.clone()].iter().copied()) / count;
                        let spread = exact_sum(sums[range.clone()].iter().map(|x| (x - mean).powi(2))) / count;
                        let root = (spread + to_f64::<T::Acc>(eps)).sqrt();
                        for (col, (sum, &found)) in sums[range.clone()].iter().zip(&found[range]).enumerate() {
                            let (w, b) = (to_f64(weight.unwrap()[col]), to_f64(bias.unwrap()[col]));
                            let normal = (sum - mean) / root;
                            let steps = 12.0 + 2.0 * count.log2();
                            // The sum's own rounding, beside the spread.
                            let size = normal.abs() + 1.0 + (sum.abs() + mean.abs()) / root;
                            let bound = steps * compute_roundoff::<T>() * (size * w.abs() + b.abs());
                            assert_near(found, normal * w + b, bound, || {
                                format!("{level:?} {layout:?} {rows}x{cols} {strided} at ({row}, {col})")
                            });
                        }
                    }
                }
            }
        }
    });
}

fn nan_for<T: Storage>() {
    for_each_level(|level| {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            for cols in [1, 8, 17, 70] {
                let mut x: Vec<T> = Random::new(7).normals(3 * cols);
                x[2 * cols - 1] = from_f64(bad);
                let fine: Vec<T> = Random::new(8).normals(3 * cols);
                let view = |x| Matrix::new(x, 3, cols).unwrap();
                let is_nan = |run: &dyn Fn(MatrixMut<'_, T>)| -> Vec<bool> {
                    let mut out = vec![T::ZERO; 3 * cols];
                    run(MatrixMut::new(&mut out, 3, cols).unwrap());
                    all_to_f64(&out).iter().map(|value| value.is_nan()).collect()
                };
                let middle: Vec<bool> = (0..3 * cols).map(|place| place / cols == 1).collect();
                let what = format!("{} {level:?} {cols} with {bad}", T::NAME);
                assert_eq!(is_nan(&|out| l2_normalize(view(&x), out).unwrap()), middle, "l2_normalize {what}");
                for (a, b) in [(&x, &fine), (&fine, &x)] {
                    let normed = is_nan(&|out| {
                        add_layer_norm(view(a), view(b), None, None, from_f64(1e-5), out).unwrap();
                    });
                    assert_eq!(normed, middle, "add_layer_norm {what}");
                }
                let mut out = vec![T::ZERO; cols];
                mean_pool(view(&x), None, &mut out[..]).unwrap();
                embedding(&[(view(&fine), &[0]), (view(&x), &[1])], &mut out[..]).unwrap();
                let last = to_f64(out[cols - 1]);
                assert!(last.is_nan() && bad.is_nan() || last == bad, "embedding {what}: {last}");
                mean_pool(view(&x), None, &mut out[..]).unwrap();
                let last = to_f64(out[cols - 1]);
                assert!(last.is_nan() && bad.is_nan() || last == bad, "mean_pool {what}: {last}");
                assert!(all_to_f64(&out[..cols - 1]).iter().all(|value| value.is_finite()), "mean_pool {what}");
            }
        }
    });
}

fn empty_operands_for<T: Storage>() {
    for_each_level(|_| {
        let mut nothing: [T; 0] = [];
        for (rows, cols) in [(0, 0), (0, 5), (5, 0)] {
            let x = Matrix::<T>::new(&[], rows, cols).unwrap();
            l2_normalize(x, MatrixMut::new(&mut nothing, rows, cols).unwrap()).unwrap();
            add_layer_norm(x, x, None, None, from_f64(1e-5), MatrixMut::new(&mut nothing, rows, cols).unwrap())
                .unwrap();
            let ids = vec![0; rows];
            let table = Matrix::<T>::new(&[], usize::from(rows > 0), cols).unwrap();
            embedding(&[(table, &ids)], MatrixMut::new(&mut nothing, rows, cols).unwrap()).unwrap();
        }
        // Sequences of no tokens: nothing is kept.
        let mut out = [from_f64::<T>(-77.0); 6];
        mean_pool(Matrix::<T>::new(&[], 0, 3).unwrap(), None, MatrixMut::new(&mut out, 2, 3).unwrap()).unwrap();
        assert_eq!(all_to_f64(&out), [0.0; 6]);
    });
}

#[test]
fn in_f32_a_sum_is_normalised_as_if_it_were_added_first() {
    for_each_level(|level| {
        let mut random = Random::new(9);
        for cols in [3, 16, 70, 5000] {
            let (x, residual) = (random.normals::<f32>(cols), random.normals::<f32>(cols));
            let sum: Vec<f32> = x.iter().zip(&residual).map(|(x, y)| x + y).collect();
            let (mut found, mut expected) = (vec![0.0_f32; cols], vec![0.0; cols]);
            add_layer_norm(&x[..], &residual[..], None, None, 1e-5, &mut found[..]).unwrap();
            layer_norm(&sum[..], None, None, 1e-5, &mut expected[..]).unwrap();
            assert_eq!(found, expected, "{level:?} {cols}");
        }
    });
}

#[test]
fn what_does_not_fit_is_named_and_nothing_is_written() {
    let x = [1.0_f32; 6];
    let x = Matrix::new(&x, 3, 2).unwrap();
    let mut out = [5.0_f32; 4];
    let mut fails = |expected: &str, run: &dyn Fn(MatrixMut<'_, f32>) -> Result<(), Error>| {
        let error = run(MatrixMut::new(&mut out, 2, 2).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert_eq!(out, [5.0; 4], "{expected}: wrote");
    };
    fails("l2_normalize: out has shape (2, 2), expected (3, 2)", &|out| Ok(l2_normalize(x, out)?));
    fails("add_layer_norm: out has shape (2, 2), expected (3, 2)", &|out| add_layer_norm(x, x, None, None, 1e-5, out));
    fails("add_layer_norm: residual has shape (3, 2), expected (2, 2)", &|out| {
        add_layer_norm(x.block(0..2, 0..2), x, None, None, 1e-5, out)
    });
    fails("add_layer_norm: bias has shape (1, 3), expected (1, 2)", &|out| {
        let two = x.block(0..2, 0..2);
        add_layer_norm(two, two, None, Some(&[0.0; 3]), 1e-5, out)
    });
    fails("mean_pool: x has shape (3, 2), expected (2, 2)", &|out| Ok(mean_pool(x, None, out)?));
    let keep = [true; 6];
    fails("mean_pool: mask has shape (2, 3), expected (2, 1)", &|out| {
        Ok(mean_pool(x.block(0..2, 0..2), Some(Matrix::new(&keep, 2, 3).unwrap()), out)?)
    });
    fails("embedding: ids has shape (1, 3), expected (1, 2)", &|out| Ok(embedding(&[(x, &[0, 0, 0])], out)?));
    fails("embedding: table has shape (3, 1), expected (3, 2)", &|out| {
        Ok(embedding(&[(x.block(0..3, 0..1), &[0, 0])], out)?)
    });
    let error = embedding(&[(x, &[0, 3])], MatrixMut::new(&mut out, 2, 2).unwrap()).unwrap_err();
    assert!(matches!(error, ShapeError::OutOfRange { operand: "ids", index: 3, len: 3, .. }), "{error:?}");
    assert_eq!(out, [5.0; 4]);
}

//! Scale, map, dropout with residual, and the sum of squares, against references in f64: each storage type, layout, CPU
//! level and a choice of lengths; and the promises they make, one test each.

#![allow(clippy::type_complexity, reason = "the types of two closures")]

#[macro_use]
mod common;

use common::{
    LENGTHS, Layout, Op, Random, Storage, all_to_f64, at_one_level, exact_sum, for_each_level, from_f64, run, to_f64,
};
use polyglot_bridge::{
    Float, Mask, Matrix, MatrixMut, dropout_add, dropout_add_in_place, map, map_in_place, scale, scale_in_place,
    sum_of_squares,
};

for_each_type! {
    scale_and_map_are_right => scale_and_map_are_right_for,
    dropout_add_is_right => dropout_add_is_right_for,
    dropout_add_takes_strided_operands => dropout_add_takes_strided_operands_for,
    sum_of_squares_is_right => sum_of_squares_is_right_for,
    large_results_pass_the_cache_unharmed => large_results_pass_the_cache_unharmed_for,
    empty_matrices_are_legal => empty_matrices_are_legal_for,
}

fn scale_op<T: Float>(factor: f64) -> Op<impl Fn(Matrix<'_, T>, MatrixMut<'_, T>), impl Fn(MatrixMut<'_, T>)> {
    Op(
        move |x: Matrix<'_, T>, out: MatrixMut<'_, T>| scale(x, from_f64(factor), out).expect("shapes"),
        move |x: MatrixMut<'_, T>| scale_in_place(x, from_f64(factor)).expect("shapes"),
    )
}

fn scale_and_map_are_right_for<T: Storage>() {
    for_each_level(|level| {
        let mut random = Random::new(1);
        for cols in LENGTHS {
            let x: Vec<T> = random.normals(3 * cols);
            // No f16 holds 0.1, so it must not have been rounded to one.
            let factor = to_f64(from_f64::<T::Acc>(0.1));
            let right: Vec<T> = x.iter().map(|&x| T::from_acc(x.to_acc() * from_f64::<T::Acc>(factor))).collect();
            let map_op = Op(
                |x: Matrix<'_, T>, out: MatrixMut<'_, T>| {
                    map(x, out, |x| T::from_acc(x.to_acc() * from_f64::<T::Acc>(factor))).expect("shapes");
                },
                |x: MatrixMut<'_, T>| {
                    map_in_place(x, |x| T::from_acc(x.to_acc() * from_f64::<T::Acc>(factor))).expect("shapes");
                },
            );
            for layout in Layout::ALL {
                let what = format!("{} {level:?} {layout:?} 3x{cols}", T::NAME);
                assert_eq!(run(&scale_op(factor), &x, 3, cols, layout), right, "{what}");
                assert_eq!(run(&map_op, &x, 3, cols, layout), right, "map {what}");
            }
        }
    });
}

/// Within one rounding of each of three steps of the exact x * mask * scale + residual.
fn check_dropout<T: Storage>(x: f64, residual: f64, mask: f64, scale: f64, found: T, what: &str) {
    let right = x * mask * scale + residual;
    let roundoff = common::compute_roundoff::<T>();
    let bound = 3.0 * roundoff * ((x * mask * scale).abs() + right.abs()) + T::half_ulp(right);
    let error = (to_f64(found) - right).abs();
    assert!(error <= bound, "{} {what}: {x} * {mask} * {scale} + {residual} = {found:?}", T::NAME);
}

fn dropout_add_is_right_for<T: Storage>() {
    for_each_level(|level| {
        let mut random = Random::new(2);
        for cols in LENGTHS {
            let rows = 3;
            let x: Vec<T> = random.normals(rows * cols);
            let residual: Vec<T> = random.normals(rows * cols);
            let weights: Vec<T> = random.normals(rows * cols);
            let bytes: Vec<u8> = (0..rows * cols).map(|_| [0, 1, 1, 255][random.below(4)]).collect();
            let factor = to_f64(from_f64::<T::Acc>(1.1));
            for select in [false, true] {
                let mask = || {
                    if select {
                        Mask::Select(Matrix::new(&bytes, rows, cols).unwrap())
                    } else {
                        Mask::Multiply(Matrix::new(&weights, rows, cols).unwrap())
                    }
                };
                let residual_view = Matrix::new(&residual, rows, cols).unwrap();
                let op = Op(
                    |x: Matrix<'_, T>, out: MatrixMut<'_, T>| {
                        dropout_add(x, residual_view, mask(), from_f64(factor), out).expect("shapes");
                    },
                    |x: MatrixMut<'_, T>| {
                        dropout_add_in_place(x, residual_view, mask(), from_f64(factor)).expect("shapes");
                    },
                );
                for layout in Layout::ALL {
                    let found = run(&op, &x, rows, cols, layout);
                    for (index, &found) in found.iter().enumerate() {
                        let mask = if select { f64::from(u8::from(bytes[index] != 0)) } else { to_f64(weights[index]) };
                        let what = format!("{level:?} {layout:?} {rows}x{cols} select {select}");
                        check_dropout(to_f64(x[index]), to_f64(residual[index]), mask, factor, found, &what);
                    }
                }
            }
        }
    });
}

fn dropout_add_takes_strided_operands_for<T: Storage>() {
    for_each_level(|level| {
        let mut random = Random::new(3);
        for (rows, cols) in [(1, 1), (2, 3), (5, 17), (3, 255), (3, 257), (2, 1000)] {
            let x: Vec<T> = random.normals(rows * cols);
            let residual: Vec<T> = random.normals(rows * cols * 2);
            let bytes: Vec<u8> = (0..rows * cols).map(|_| (random.below(2)) as u8).collect();
            let mut out = vec![T::ZERO; rows * cols];
            // Every other column of a wider residual; the mask is transposed.
            dropout_add(
                Matrix::new(&x, rows, cols).unwrap(),
                Matrix::with_strides(&residual, rows, cols, 2 * cols, 2).unwrap(),
                Mask::Select(Matrix::new(&bytes, cols, rows).unwrap().transpose()),
                from_f64(2.0),
                MatrixMut::new(&mut out, rows, cols).unwrap(),
            )
            .unwrap();
            for row in 0..rows {
                for col in 0..cols {
                    let index = row * cols + col;
                    let mask = f64::from(bytes[col * rows + row]);
                    let residual = to_f64(residual[2 * index]);
                    check_dropout(
                        to_f64(x[index]),
                        residual,
                        mask,
                        2.0,
                        out[index],
                        &format!("{level:?} {rows}x{cols}"),
                    );
                }
            }
        }
    });
}

fn sum_of_squares_is_right_for<T: Storage>() {
    for_each_level(|level| {
        let mut random = Random::new(4);
        for len in LENGTHS.into_iter().chain([8191, 8192, 8193, 16_385, 100_003, 1_100_000]) {
            let x: Vec<T> = random.normals(len);
            let right = exact_sum(all_to_f64(&x).iter().map(|x| x * x));
            let bound = (len.max(1) as f64).log2().mul_add(2.0_f64.powi(-53), 4.0 * 2.0_f64.powi(-53)) * right;
            let found = sum_of_squares(&x[..]);
            assert!((found - right).abs() <= bound, "{} {level:?} {len}: {found}, not {right}", T::NAME);
            assert!(len > 0 || found.to_bits() == 0, "an empty sum is +0.0");
            if len % 11 == 0 && len > 0 {
                let wide = Matrix::with_strides(&x, 11, len / 11 - 1, len / 11, 1).unwrap();
                let dense: Vec<T> = x.chunks(len / 11).flat_map(|row| &row[..len / 11 - 1]).copied().collect();
                let right = exact_sum(all_to_f64(&dense).iter().map(|x| x * x));
                for view in [wide, wide.transpose()] {
                    let found = sum_of_squares(view);
                    assert!(
                        (found - right).abs() <= bound,
                        "{} {level:?} rows apart, {len}: {found}, not {right}",
                        T::NAME
                    );
                }
                let every_other = Matrix::with_strides(&x, 11, len / 22, len / 11, 2).unwrap();
                let right = exact_sum(
                    (0..11 * (len / 22))
                        .map(|index| to_f64(every_other.get(index / (len / 22), index % (len / 22)).unwrap()).powi(2)),
                );
                assert!((sum_of_squares(every_other) - right).abs() <= bound, "{} {level:?} columns apart", T::NAME);
            }
        }
    });
}

fn large_results_pass_the_cache_unharmed_for<T: Storage>() {
    // More than the size from which results are stored past the cache, and at each alignment.
    let len = (17 << 20) / size_of::<T>();
    let mut random = Random::new(5);
    let x: Vec<T> = random.normals(len + 40);
    let right: Vec<T> = x.iter().map(|&x| T::from_acc(x.to_acc() * from_f64::<T::Acc>(0.75))).collect();
    let mut out = vec![T::ZERO; len + 40];
    for_each_level(|level| {
        for start in [0, 1, 3, 8, 31] {
            out.fill(T::ZERO);
            scale(&x[start..start + len], from_f64(0.75), &mut out[start..start + len]).unwrap();
            assert!(out[start..start + len] == right[start..start + len], "{} {level:?} from {start}", T::NAME);
            assert!(out[..start].iter().chain(&out[start + len..]).all(|&x| x == T::ZERO), "wrote outside");
        }
        // Rows of an odd length, each of which begins elsewhere.
        let cols = 1009;
        let rows = len / cols;
        out.fill(T::ZERO);
        let target = MatrixMut::with_stride(&mut out, rows, cols - 2, cols).unwrap();
        scale(Matrix::with_strides(&x, rows, cols - 2, cols, 1).unwrap(), from_f64(0.75), target).unwrap();
        for row in 0..rows {
            let start = row * cols;
            assert!(out[start..start + cols - 2] == right[start..start + cols - 2], "{} {level:?} row {row}", T::NAME);
            assert!(out[start + cols - 2..start + cols].iter().all(|&x| x == T::ZERO), "wrote in a gap");
        }
    });
}

fn empty_matrices_are_legal_for<T: Storage>() {
    for_each_level(|_| {
        for (rows, cols) in [(0, 0), (0, 5), (5, 0)] {
            let mut out: [T; 0] = [];
            let x = Matrix::new(&[], rows, cols).unwrap();
            scale(x, from_f64(2.0), MatrixMut::new(&mut out, rows, cols).unwrap()).unwrap();
            map(x, MatrixMut::new(&mut out, rows, cols).unwrap(), |x| x).unwrap();
            let target = MatrixMut::new(&mut out, rows, cols).unwrap();
            dropout_add(x, x, Mask::Multiply(x), from_f64(1.0), target).unwrap();
            assert_eq!(sum_of_squares(x).to_bits(), 0);
        }
    });
}

#[test]
fn what_a_mask_drops_does_not_count() {
    for_each_level(|level| {
        let x = [f32::NAN, f32::INFINITY, 2.0, f32::NAN, -1.0, 3.0, f32::NAN, f32::NEG_INFINITY, 7.0];
        let residual = [1.0_f32; 9];
        let keep = [false, false, true, false, true, true, false, false, true];
        let mut out = [0.0_f32; 9];
        dropout_add(&x, &residual, Mask::from(&keep), 2.0, &mut out).unwrap();
        assert_eq!(out, [1.0, 1.0, 5.0, 1.0, -1.0, 7.0, 1.0, 1.0, 15.0], "{level:?}");
        // A number multiplies: 0 times NaN is NaN.
        dropout_add(&x, &residual, Mask::Multiply((&[0.0; 9]).into()), 2.0, &mut out).unwrap();
        assert!(out[0].is_nan() && out[1].is_nan() && out[2] == 1.0, "{level:?}");
        // A dropped element is the residual whatever the scale.
        dropout_add(&x, &residual, Mask::from(&[false; 9]), f32::INFINITY, &mut out).unwrap();
        assert_eq!(out, residual, "{level:?}");
    });
}

#[test]
fn sums_are_taken_in_f64() {
    for_each_level(|level| {
        assert_eq!(sum_of_squares(&[1e20_f32; 7]), 7.0 * f64::from(1e20_f32).powi(2), "{level:?}");
        assert_eq!(sum_of_squares(&[1e200_f64]), f64::INFINITY, "{level:?}");
        assert_eq!(sum_of_squares(&[1e-40_f32]), f64::from(1e-40_f32).powi(2), "{level:?}");
        assert!(sum_of_squares(&[1.0, f64::NAN, 2.0]).is_nan(), "{level:?}");
        assert_eq!(sum_of_squares(&[f32::NEG_INFINITY, 2.0]), f64::INFINITY, "{level:?}");
        #[cfg(feature = "f16")]
        assert_eq!(sum_of_squares(&[half::f16::MAX; 100]), 100.0 * 65504.0 * 65504.0, "{level:?}");
    });
}

#[test]
fn signed_zeros_and_subnormals_are_kept() {
    for_each_level(|level| {
        let mut x = [-0.0_f64, 5e-324, -5e-324, 0.0, 1e-310];
        scale_in_place(&mut x, 1.0).unwrap();
        assert_eq!(x.map(f64::to_bits), [-0.0_f64, 5e-324, -5e-324, 0.0, 1e-310].map(f64::to_bits), "{level:?}");
        let mut x = [f32::from_bits(1), -f32::from_bits(3), -0.0];
        scale_in_place(&mut x, 2.0).unwrap();
        assert_eq!(x.map(f32::to_bits), [2, 0x8000_0006, 0x8000_0000], "{level:?}");
    });
}

#[test]
fn shapes_that_differ_are_named() {
    let x = [0.0_f32; 6];
    let mut out = [5.0_f32; 6];
    let error = dropout_add(&x, &[0.0; 5], Mask::from(&[true; 6]), 1.0, &mut out).unwrap_err();
    assert_eq!(error.to_string(), "dropout_add: residual has shape (1, 5), expected (1, 6)");
    let error = dropout_add(&x, &x, Mask::from(&[true; 7]), 1.0, &mut out).unwrap_err();
    assert_eq!(error.to_string(), "dropout_add: mask has shape (1, 7), expected (1, 6)");
    let error = dropout_add(&x, &x, Mask::Multiply((&[1.0]).into()), 1.0, &mut out).unwrap_err();
    assert_eq!(error.to_string(), "dropout_add: mask has shape (1, 1), expected (1, 6)");
    let error = scale(&x, 1.0, &mut out[..5]).unwrap_err();
    assert_eq!(error.to_string(), "scale: out has shape (1, 5), expected (1, 6)");
    assert_eq!(out, [5.0; 6], "a failed check wrote");
}

#[test]
fn a_map_takes_any_closure() {
    at_one_level(|| {
        let limit = String::from("abc").len() as f64;
        let mut out = vec![0.0; 100_000];
        let x: Vec<f64> = (0..100_000).map(f64::from).collect();
        map(&x[..], &mut out[..], |x| if x > limit { x.sqrt() } else { -x }).unwrap();
        assert!(out.iter().zip(&x).all(|(&y, &x)| y == if x > 3.0 { x.sqrt() } else { -x }));
    });
}

//! Properties that hold for whatever input quickcheck thinks of, most of them to the bit: invariances, in place as
//! apart, and that neither threads nor layout nor batch change a result.

mod common;

use common::{Layout, Op, Random, Storage, all_to_f64, at_one_level, for_each_level, from_f64, run, to_f64};
use polyglot_bridge::{
    Float, Mask, Matrix, MatrixMut, dropout_add, layer_norm, layer_norm_in_place, log_softmax, rms_norm, scale,
    softmax, softmax_in_place, sum_of_squares, with_threads,
};
use quickcheck::{QuickCheck, Testable};

fn check(property: impl Testable) {
    at_one_level(|| QuickCheck::new().tests(300).quickcheck(property));
}

/// The bits of each value; of a NaN, whose bits mean nothing, those of one NaN.
fn bits<T: Float>(values: &[T]) -> Vec<u64> {
    let bits = |value: f64| if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() };
    values.iter().map(|&value| bits(to_f64(value))).collect()
}

fn softmax_of<T: Float>(x: &[T]) -> Vec<T> {
    let mut out = vec![T::ZERO; x.len()];
    softmax(x, &mut out[..]).unwrap();
    out
}

fn layer_norm_of<T: Float>(x: &[T], eps: f64) -> Vec<T> {
    let mut out = vec![T::ZERO; x.len()];
    layer_norm(x, None, None, from_f64(eps), &mut out[..]).unwrap();
    out
}

fn finite<T: Float>(x: &[f64]) -> Vec<T> {
    x.iter().map(|&x| from_f64(x)).filter(|&x| to_f64(x).is_finite()).collect()
}

fn sums_to_one<T: Storage>(x: Vec<f64>) -> bool {
    let x = finite::<T>(&x);
    let shares = all_to_f64(&softmax_of(&x));
    let sum: f64 = shares.iter().sum();
    let bound = (8.0 + x.len() as f64) * T::half_unit();
    x.is_empty() || (sum - 1.0).abs() <= bound && shares.iter().all(|share| (0.0..=1.0).contains(share))
}

#[test]
fn softmax_rows_sum_to_one() {
    check(sums_to_one::<f32> as fn(Vec<f64>) -> bool);
    check(sums_to_one::<f64> as fn(Vec<f64>) -> bool);
    #[cfg(feature = "f16")]
    check(sums_to_one::<half::f16> as fn(Vec<f64>) -> bool);
    #[cfg(feature = "f16")]
    check(sums_to_one::<half::bf16> as fn(Vec<f64>) -> bool);
}

#[test]
fn softmax_does_not_see_a_shift() {
    // Whole numbers, so that the shift itself rounds nothing.
    fn property(x: Vec<i8>, shift: i16) -> bool {
        let plain: Vec<f32> = x.iter().map(|&x| f32::from(x)).collect();
        let shifted: Vec<f32> = x.iter().map(|&x| f32::from(x) + f32::from(shift)).collect();
        bits(&softmax_of(&plain)) == bits(&softmax_of(&shifted))
    }
    check(property as fn(Vec<i8>, i16) -> bool);
}

#[test]
fn softmax_keeps_the_order_of_scores() {
    // Scores so far apart that two ULP of the exponential do not matter.
    fn property(x: Vec<i16>) -> bool {
        let x: Vec<f32> = x.iter().map(|&x| f32::from(x) / 64.0).collect();
        let shares = softmax_of(&x);
        let pairs = || x.iter().zip(&shares);
        pairs().all(|(a, share_a)| pairs().all(|(b, share_b)| a > b || share_a <= share_b))
    }
    check(property as fn(Vec<i16>) -> bool);
}

#[test]
fn log_softmax_is_the_logarithm_of_softmax() {
    fn property(x: Vec<i8>) -> bool {
        let x: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        let mut log = vec![0.0; x.len()];
        log_softmax(&x[..], &mut log[..]).unwrap();
        softmax_of(&x).iter().zip(&log).all(|(share, log)| (share.ln() - log).abs() <= 1e-13 * (1.0 + log.abs()))
    }
    check(property as fn(Vec<i8>) -> bool);
}

#[test]
fn layer_norm_has_mean_0_and_variance_1() {
    fn property(x: Vec<f64>) -> bool {
        let x = finite::<f64>(&x);
        let y = layer_norm_of(&x, 0.0);
        let count = x.len() as f64;
        let mean = y.iter().sum::<f64>() / count;
        let variance = y.iter().map(|y| y * y).sum::<f64>() / count;
        let bound = 1e-13 * (1.0 + count);
        x.iter().all(|a| *a == x[0]) || mean.abs() <= bound && (variance - 1.0).abs() <= bound
    }
    check(property as fn(Vec<f64>) -> bool);
}

#[test]
fn layer_norm_does_not_see_a_shift() {
    fn property(x: Vec<i8>, shift: i16) -> bool {
        let plain: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        let shifted: Vec<f64> = x.iter().map(|&x| f64::from(x) + f64::from(shift)).collect();
        let (plain, shifted) = (layer_norm_of(&plain, 1e-5), layer_norm_of(&shifted, 1e-5));
        plain.iter().zip(&shifted).all(|(a, b)| (a - b).abs() <= 1e-13 * (1.0 + a.abs()))
    }
    check(property as fn(Vec<i8>, i16) -> bool);
}

#[test]
fn layer_norm_does_not_see_a_power_of_two() {
    fn property(x: Vec<i16>, power: i8) -> bool {
        let plain: Vec<f32> = x.iter().map(|&x| f32::from(x)).collect();
        let factor = 2.0_f32.powi(i32::from(power % 40));
        let scaled: Vec<f32> = plain.iter().map(|x| x * factor).collect();
        let (plain, scaled) = (layer_norm_of(&plain, 0.0), layer_norm_of(&scaled, 0.0));
        plain.iter().zip(&scaled).all(|(a, b)| (a - b).abs() <= 1e-6 * (1.0 + a.abs()))
    }
    check(property as fn(Vec<i16>, i8) -> bool);
}

#[test]
fn in_place_gives_the_same_bits() {
    fn property(x: Vec<f32>) -> bool {
        let mut row = x.clone();
        softmax_in_place(&mut row[..]).unwrap();
        let mut normal = x.clone();
        layer_norm_in_place(&mut normal[..], None, None, 1e-5).unwrap();
        bits(&row) == bits(&softmax_of(&x)) && bits(&normal) == bits(&layer_norm_of(&x, 1e-5))
    }
    check(property as fn(Vec<f32>) -> bool);
}

#[test]
fn squares_do_not_see_signs_and_order_hardly() {
    fn property(x: Vec<f32>) -> bool {
        // The bits of a NaN mean nothing.
        let x: Vec<f32> = x.into_iter().filter(|x| !x.is_nan()).collect();
        let negated: Vec<f32> = x.iter().map(|x| -x).collect();
        let reversed: Vec<f32> = x.iter().rev().copied().collect();
        let (sum, reversed) = (sum_of_squares(&x[..]), sum_of_squares(&reversed[..]));
        let is_near = (sum - reversed).abs() <= 1e-15 * sum * (4.0 + x.len() as f64) || !sum.is_finite();
        sum.to_bits() == sum_of_squares(&negated[..]).to_bits() && is_near
    }
    check(property as fn(Vec<f32>) -> bool);
}

/// What each operation makes of one matrix, as bits.
fn all_results<T: Storage>(x: &[T], rows: usize, cols: usize) -> Vec<Vec<u64>> {
    let view = Matrix::new(x, rows, cols).unwrap();
    let affine = Some(&x[..cols]);
    let keep: Vec<bool> = (0..rows * cols).map(|place| place % 3 != 0).collect();
    let mask = || Mask::from(Matrix::new(&keep, rows, cols).unwrap());
    let eps = || from_f64(1e-5);
    let mut results: Vec<Vec<u64>> = Vec::new();
    let mut add = |run: &dyn Fn(MatrixMut<'_, T>)| {
        let mut out = vec![T::ZERO; rows * cols];
        run(MatrixMut::new(&mut out, rows, cols).unwrap());
        results.push(bits(&out));
    };
    add(&|out| softmax(view, out).unwrap());
    add(&|out| log_softmax(view, out).unwrap());
    add(&|out| layer_norm(view, affine, affine, eps(), out).unwrap());
    add(&|out| rms_norm(view, affine, eps(), out).unwrap());
    add(&|out| scale(view, from_f64(1.7), out).unwrap());
    add(&|out| dropout_add(view, view, mask(), from_f64(1.1), out).unwrap());
    add(&|out| dropout_add(view, view, Mask::Multiply(view), from_f64(1.1), out).unwrap());
    results.push(vec![sum_of_squares(view).to_bits()]);
    results
}

fn threads_change_no_bit<T: Storage>() {
    let mut random = Random::new(1);
    for (rows, cols) in [(1, 300_000), (3, 70_001), (700, 129), (20_000, 5)] {
        let x: Vec<T> = random.normals(rows * cols);
        let alone = with_threads(1, || all_results(&x, rows, cols));
        for threads in [2, 3, 5, 16] {
            let together = with_threads(threads, || all_results(&x, rows, cols));
            for (op, (alone, together)) in alone.iter().zip(&together).enumerate() {
                assert!(alone == together, "{} operation {op}, {rows}x{cols}, {threads} threads", T::NAME);
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for_each_level(|_| {
        threads_change_no_bit::<f32>();
    });
    at_one_level(|| {
        threads_change_no_bit::<f64>();
        #[cfg(feature = "f16")]
        threads_change_no_bit::<half::f16>();
        #[cfg(feature = "f16")]
        threads_change_no_bit::<half::bf16>();
    });
}

#[test]
fn the_layout_changes_no_bit() {
    for_each_level(|level| {
        let mut random = Random::new(2);
        for (rows, cols) in [(3, 10), (5, 129), (2, 1000), (40, 33)] {
            let x: Vec<f32> = random.normals(rows * cols);
            let ops: [&dyn Fn(Layout) -> Vec<f32>; 2] = [
                &|layout| {
                    let apart = |x: Matrix<'_, f32>, out: MatrixMut<'_, f32>| softmax(x, out).unwrap();
                    let in_place = |x: MatrixMut<'_, f32>| softmax_in_place(x).unwrap();
                    run(&Op(apart, in_place), &x, rows, cols, layout)
                },
                &|layout| {
                    let apart = |x: Matrix<'_, f32>, out: MatrixMut<'_, f32>| {
                        layer_norm(x, None, None, 1e-5, out).unwrap();
                    };
                    let in_place = |x: MatrixMut<'_, f32>| layer_norm_in_place(x, None, None, 1e-5).unwrap();
                    run(&Op(apart, in_place), &x, rows, cols, layout)
                },
            ];
            for op in ops {
                let dense = op(Layout::Dense);
                for layout in Layout::ALL {
                    assert_eq!(bits(&op(layout)), bits(&dense), "{level:?} {layout:?} {rows}x{cols}");
                }
            }
        }
    });
}

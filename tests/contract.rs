//! The written contract of the operations, case by case: each test is named after what is promised. The promises that
//! only softmax and the norms make are in `rows.rs`, those of dropout and sums in `elements.rs`, accuracy and layouts
//! there too and in `linear.rs`; the same promises towards Python are in `bindings/python/tests`.

#[macro_use]
mod common;

use common::{Random, Storage, all_from_f64, all_to_f64, for_each_level, from_f64, to_f64};
use polyglot_bridge::{
    Activation, AttentionMask, AttentionOptions, Epilogue, Error, Float, Mask, Matrix, MatrixMut, PackedLinear,
    Residual, activate, add_layer_norm, attention, dropout_add, embedding, l2_normalize, layer_norm, linear,
    log_softmax, map, matmul, mean_pool, rms_norm, scale, softmax, sum_of_squares,
};

for_each_type! {
    nan_in_gives_nan_out_in_that_element => nan_stays_for,
    nan_in_gives_nan_out_in_that_row_or_column => nan_in_a_product_for,
    nan_in_gives_nan_out_in_that_row => nan_in_a_row_for,
    relu_keeps_nan_in_a_product_too => relu_keeps_nan_for,
    all_scores_minus_infinity_or_one_plus_infinity_give_a_nan_row => softmax_of_infinities_for,
    equal_scores_of_a_long_row_are_equal_shares => equal_scores_for,
    zero_variance_gives_exactly_the_bias => zero_variance_for,
    norms_of_huge_values_are_right => huge_norms_for,
    a_bool_mask_selects_and_a_number_multiplies => masks_for,
    squares_are_summed_in_f64 => squares_for,
    subnormals_are_kept => subnormals_are_kept_for,
    relu_of_minus_zero_is_plus_zero => relu_for,
    activations_have_their_exact_limits_at_infinity => limits_for,
    zero_times_infinity_is_nan_in_a_product => zero_times_infinity_for,
    without_in_features_linear_gives_the_activation_of_the_bias => no_in_features_for,
    empty_arrays_are_legal => empty_arrays_for,
    sixteen_bit_results_are_rounded_once => rounded_once_for,
    a_row_alone_has_the_bits_it_has_in_a_batch => a_row_alone_for,
    means_far_above_the_spread_are_right => far_mean_for,
    signed_zeros_are_kept => signed_zeros_for,
}

/// Lengths below, at and above each vector width.
const WIDTHS: [usize; 8] = [1, 3, 8, 15, 16, 17, 33, 70];

fn apply<T: Float>(activation: Activation, x: &[T]) -> Vec<T> {
    let mut out = vec![T::ZERO; x.len()];
    activate(activation, x, &mut out[..]).expect("shapes");
    out
}

/// The smallest subnormal of a storage type.
fn least<T: Storage>() -> f64 {
    common::power_of_two(T::LEAST_EXPONENT + 1 - T::DIGITS)
}

fn bits<T: Float>(values: &[T]) -> Vec<u64> {
    all_to_f64(values).into_iter().map(f64::to_bits).collect()
}

fn nan_stays_for<T: Storage>() {
    for_each_level(|level| {
        for len in WIDTHS {
            for place in [0, len / 2, len - 1] {
                let mut x: Vec<T> = Random::new(1).normals(len);
                x[place] = from_f64(f64::NAN);
                let only_there = |found: &[T], what: &str| {
                    for (index, &value) in found.iter().enumerate() {
                        assert_eq!(to_f64(value).is_nan(), index == place, "{level:?} {what}: {index} of {len}");
                    }
                };
                for activation in Activation::ALL {
                    only_there(&apply(activation, &x), activation.name());
                }
                let mut out = vec![T::ZERO; len];
                scale(&x[..], from_f64(0.0), &mut out[..]).unwrap();
                only_there(&out, "scale by 0");
                map(&x[..], &mut out[..], |x| x).unwrap();
                only_there(&out, "map");
                let zeros = vec![T::ZERO; len];
                let mask = Mask::Multiply((&zeros[..]).into());
                dropout_add(&x[..], &zeros[..], mask, from_f64(1.0), &mut out[..]).unwrap();
                only_there(&out, "x of dropout_add under a mask of 0.0");
                let flags = vec![false; len];
                dropout_add(&zeros[..], &x[..], Mask::from(&flags[..]), from_f64(1.0), &mut out[..]).unwrap();
                only_there(&out, "residual of dropout_add");
                assert!(sum_of_squares(&x[..]).is_nan(), "{level:?}");
            }
        }
    });
}

fn nan_in_a_product_for<T: Storage>() {
    for_each_level(|level| {
        let (rows, inner, cols) = (5, 37, 19);
        let mut random = Random::new(2);
        let (mut x, mut weight) = (random.normals::<T>(rows * inner), random.normals::<T>(inner * cols));
        x[2 * inner + 36] = from_f64(f64::NAN);
        weight[4 * cols + 18] = from_f64(f64::NAN);
        let mut out = vec![T::ZERO; rows * cols];
        for activation in Activation::ALL {
            linear(
                Matrix::new(&x, rows, inner).unwrap(),
                Matrix::new(&weight, inner, cols).unwrap(),
                Epilogue::new().activation(activation),
                MatrixMut::new(&mut out, rows, cols).unwrap(),
            )
            .unwrap();
            for (index, &value) in out.iter().enumerate() {
                let spoilt = index / cols == 2 || index % cols == 18;
                assert_eq!(to_f64(value).is_nan(), spoilt, "{level:?} {activation:?} {index}");
            }
        }
    });
}

fn nan_in_a_row_for<T: Storage>() {
    for_each_level(|level| {
        for cols in WIDTHS {
            for place in [0, cols / 2, cols - 1] {
                let mut x: Vec<T> = Random::new(8).normals(3 * cols);
                x[cols + place] = from_f64(f64::NAN);
                let x = Matrix::new(&x, 3, cols).unwrap();
                let check = |name: &str, run: &dyn Fn(MatrixMut<'_, T>)| {
                    let mut out = vec![T::ZERO; 3 * cols];
                    run(MatrixMut::new(&mut out, 3, cols).unwrap());
                    for (index, &value) in out.iter().enumerate() {
                        assert_eq!(to_f64(value).is_nan(), index / cols == 1, "{level:?} {name} of {cols}: {index}");
                    }
                };
                check("softmax", &|out| softmax(x, out).unwrap());
                check("log_softmax", &|out| log_softmax(x, out).unwrap());
                check("layer_norm", &|out| layer_norm(x, None, None, from_f64(1e-5), out).unwrap());
                check("rms_norm", &|out| rms_norm(x, None, from_f64(1e-5), out).unwrap());
                check("l2_normalize", &|out| l2_normalize(x, out).unwrap());
                check("add_layer_norm", &|out| add_layer_norm(x, x, None, None, from_f64(1e-5), out).unwrap());
                check("attention", &|out| {
                    let fine: Vec<T> = Random::new(9).normals(5 * cols);
                    let fine = Matrix::new(&fine, 5, cols).unwrap();
                    attention(x, fine, fine, AttentionOptions::new(), out).unwrap();
                });
            }
        }
    });
}

fn relu_keeps_nan_for<T: Storage>() {
    for_each_level(|level| {
        for cols in WIDTHS {
            let x = [from_f64::<T>(1.0), from_f64(f64::NAN)];
            let weight = vec![from_f64::<T>(-1.0); 2 * cols];
            let mut out = vec![T::ZERO; cols];
            let epilogue = Epilogue::new().activation(Activation::Relu);
            linear(&x, Matrix::new(&weight, 2, cols).unwrap(), epilogue, &mut out[..]).unwrap();
            assert!(all_to_f64(&out).iter().all(|value| value.is_nan()), "{level:?}: {out:?}");
            // Without the NaN it is the zero that relu makes of what is negative.
            linear(&x[..1], Matrix::new(&weight, 1, cols).unwrap(), epilogue, &mut out[..]).unwrap();
            assert_eq!(bits(&out), vec![0; cols], "{level:?}");
        }
    });
}

fn softmax_of_infinities_for<T: Storage>() {
    const INFINITY: f64 = f64::INFINITY;
    for_each_level(|level| {
        for cols in WIDTHS.into_iter().filter(|&cols| cols > 1) {
            for place in [0, cols / 2, cols - 1] {
                let row = |fill: f64, there: f64| -> Vec<T> {
                    (0..cols).map(|col| from_f64(if col == place { there } else { fill })).collect()
                };
                for x in
                    [row(-INFINITY, -INFINITY), row(0.5, INFINITY), row(-INFINITY, INFINITY), row(INFINITY, INFINITY)]
                {
                    let mut out = vec![T::ZERO; cols];
                    softmax(&x[..], &mut out[..]).unwrap();
                    assert!(all_to_f64(&out).iter().all(|value| value.is_nan()), "{level:?} {x:?}: {out:?}");
                    log_softmax(&x[..], &mut out[..]).unwrap();
                    assert!(all_to_f64(&out).iter().all(|value| value.is_nan()), "{level:?} {x:?}: {out:?}");
                }
                // One score among nothing has it all.
                let mut out = vec![T::ZERO; cols];
                softmax(&row(-INFINITY, 3.0)[..], &mut out[..]).unwrap();
                assert_eq!(out, row(0.0, 1.0), "{level:?}");
                log_softmax(&row(-INFINITY, 3.0)[..], &mut out[..]).unwrap();
                assert_eq!(out, row(-INFINITY, 0.0), "{level:?}");
            }
        }
    });
}

fn equal_scores_for<T: Storage>() {
    for_each_level(|level| {
        let x: Vec<T> = std::iter::repeat_n(from_f64(-7.5), 60_000).collect();
        let mut out = x.clone();
        softmax(&x[..], &mut out[..]).unwrap();
        let right = 1.0 / 60_000.0;
        let error = (to_f64(out[0]) - right).abs();
        assert!(error <= T::half_ulp(right) + 3.0 * common::compute_roundoff::<T>() * right, "{level:?}: {:?}", out[0]);
        assert!(out.iter().all(|&value| value == out[0]), "{level:?}");
    });
}

fn zero_variance_for<T: Storage>() {
    for_each_level(|level| {
        for value in [0.1, 3.0, -1000.0, 0.0] {
            for cols in [1, 3, 7, 49, 768, 1000] {
                let x = vec![from_f64::<T>(value); cols];
                let (weight, bias) = (Random::new(10).normals::<T>(cols), Random::new(11).normals::<T>(cols));
                let mut out = vec![from_f64::<T>(-77.0); cols];
                layer_norm(&x[..], Some(&weight), Some(&bias), from_f64(1e-5), &mut out[..]).unwrap();
                assert_eq!(out, bias, "{level:?} {cols} of {value}");
                layer_norm(&x[..], Some(&weight), None, from_f64(0.0), &mut out[..]).unwrap();
                assert_eq!(all_to_f64(&out), vec![0.0; cols], "{level:?} {cols} of {value}, eps 0");
            }
        }
    });
}

fn huge_norms_for<T: Storage>() {
    // Where a square would overflow the type that is computed in; f16 has nothing there.
    let size = if size_of::<T::Acc>() == 8 { 1e200 } else { 1e20 };
    if !to_f64(from_f64::<T>(size)).is_finite() {
        return;
    }
    for_each_level(|level| {
        for size in [size, 1.0 / size] {
            let x: [T; 4] = [-1.0, 1.0, -3.0, 3.0].map(|value| from_f64(value * size));
            let mut out = [T::ZERO; 4];
            let mut check = |name: &str, run: &dyn Fn(&mut [T]), root: f64| {
                run(&mut out);
                for (value, found) in [-1.0, 1.0, -3.0, 3.0].into_iter().zip(all_to_f64(&out)) {
                    let right = value / root;
                    // 1e20 itself is rounded, to a relative half unit.
                    let error = (8.0 * common::compute_roundoff::<T>() + 4.0 * T::half_unit()) * right.abs();
                    assert!((found - right).abs() <= error, "{level:?} {name} of {size:e}: {found}, not {right}");
                }
            };
            let root = 5.0_f64.sqrt();
            check("layer_norm", &|out| layer_norm(&x, None, None, from_f64(0.0), out).unwrap(), root);
            check("rms_norm", &|out| rms_norm(&x, None, from_f64(0.0), out).unwrap(), root);
            check("l2_normalize", &|out| l2_normalize(&x, out).unwrap(), 20.0_f64.sqrt());
        }
    });
}

fn masks_for<T: Storage>() {
    for_each_level(|level| {
        for len in WIDTHS {
            let x = vec![from_f64::<T>(f64::NAN); len];
            let residual: Vec<T> = Random::new(12).normals(len);
            let mut out = vec![T::ZERO; len];
            let none = vec![false; len];
            dropout_add(&x[..], &residual[..], Mask::from(&none[..]), from_f64(2.0), &mut out[..]).unwrap();
            assert_eq!(out, residual, "{level:?}: a NaN under false is dropped");
            let zeros = vec![T::ZERO; len];
            let mask = Mask::Multiply((&zeros[..]).into());
            dropout_add(&x[..], &residual[..], mask, from_f64(2.0), &mut out[..]).unwrap();
            assert!(all_to_f64(&out).iter().all(|value| value.is_nan()), "{level:?}: a NaN times 0 stays");
        }
    });
}

fn squares_for<T: Storage>() {
    for_each_level(|level| {
        assert_eq!(sum_of_squares::<T>(&[]).to_bits(), 0, "{level:?}");
        for len in WIDTHS {
            // Far beyond what f32 holds where the type goes that far.
            let value = from_f64::<T>(if T::DIGITS == 11 { 60_000.0 } else { 1e20 });
            let right = to_f64(value) * to_f64(value) * len as f64;
            let found = sum_of_squares(&vec![value; len][..]);
            assert!((found - right).abs() <= right * 1e-15, "{level:?} {len}: {found:e}, not {right:e}");
        }
    });
}

fn subnormals_are_kept_for<T: Storage>() {
    for_each_level(|level| {
        for len in WIDTHS {
            let x: Vec<T> = (1..=len).map(|count| from_f64(least::<T>() * count as f64)).collect();
            let zeros = vec![T::ZERO; len];
            let mut out = zeros.clone();
            assert_eq!(apply(Activation::Relu, &x), x, "{level:?}");
            assert_eq!(apply(Activation::Tanh, &x), x, "{level:?}");
            scale(&x[..], from_f64(1.0), &mut out[..]).unwrap();
            assert_eq!(out, x, "{level:?} scale");
            let flags = vec![true; len];
            dropout_add(&x[..], &zeros[..], Mask::from(&flags[..]), from_f64(1.0), &mut out[..]).unwrap();
            assert_eq!(out, x, "{level:?} x of dropout_add");
            dropout_add(&zeros[..], &x[..], Mask::from(&flags[..]), from_f64(1.0), &mut out[..]).unwrap();
            assert_eq!(out, x, "{level:?} residual of dropout_add");
            let identity: Vec<T> = (0..len * len).map(|i| from_f64(f64::from(u8::from(i % (len + 1) == 0)))).collect();
            matmul(&x[..], Matrix::new(&identity, len, len).unwrap(), &mut out[..]).unwrap();
            assert_eq!(out, x, "{level:?} matmul");
            layer_norm(&zeros[..], None, Some(&x), from_f64(1e-5), &mut out[..]).unwrap();
            assert_eq!(out, x, "{level:?} bias of layer_norm");
            embedding(&[(Matrix::from(&x[..]), &[0])], &mut out[..]).unwrap();
            assert_eq!(out, x, "{level:?} embedding");
            mean_pool(&x[..], None, &mut out[..]).unwrap();
            assert_eq!(out, x, "{level:?} mean_pool");
            // One key has all of the weight.
            attention(&x[..1], &x[..1], &x[..], AttentionOptions::new(), &mut out[..]).unwrap();
            assert_eq!(out, x, "{level:?} values of attention");
            // A row of subnormals is normalised like any other.
            rms_norm(&vec![x[0]; len][..], None, from_f64(0.0), &mut out[..]).unwrap();
            assert_eq!(all_to_f64(&out), vec![1.0; len], "{level:?} rms_norm");
            if size_of::<T>() < 8 {
                assert!(sum_of_squares(&x[..1]) > 0.0, "{level:?}");
            }
        }
    });
}

fn relu_for<T: Storage>() {
    for_each_level(|level| {
        for len in WIDTHS {
            let found = apply(Activation::Relu, &vec![from_f64::<T>(-0.0); len]);
            assert_eq!(bits(&found), vec![0; len], "{level:?}");
        }
    });
}

fn limits_for<T: Storage>() {
    for_each_level(|level| {
        for len in WIDTHS {
            for (activation, low, high) in [
                (Activation::None, f64::NEG_INFINITY, f64::INFINITY),
                (Activation::Relu, 0.0, f64::INFINITY),
                (Activation::Sigmoid, 0.0, 1.0),
                (Activation::Tanh, -1.0, 1.0),
                (Activation::Silu, 0.0, f64::INFINITY),
                (Activation::Gelu, 0.0, f64::INFINITY),
                (Activation::GeluTanh, 0.0, f64::INFINITY),
            ] {
                for (x, limit) in [(f64::NEG_INFINITY, low), (f64::INFINITY, high)] {
                    let found = all_to_f64(&apply(activation, &vec![from_f64::<T>(x); len]));
                    assert_eq!(found, vec![limit; len], "{level:?} {activation:?} of {x}");
                }
            }
        }
    });
}

fn zero_times_infinity_for<T: Storage>() {
    for_each_level(|level| {
        for infinity in [f64::INFINITY, f64::NEG_INFINITY] {
            for (rows, inner, cols) in [(1, 1, 1), (3, 40, 21), (20, 300, 5)] {
                let mut weight: Vec<T> = Random::new(3).normals(inner * cols);
                weight[(inner - 1) * cols] = from_f64(infinity);
                let x = vec![T::ZERO; rows * inner];
                let mut out = vec![T::ZERO; rows * cols];
                let (x, weight) = (Matrix::new(&x, rows, inner).unwrap(), Matrix::new(&weight, inner, cols).unwrap());
                matmul(x, weight, MatrixMut::new(&mut out, rows, cols).unwrap()).unwrap();
                for (index, &value) in out.iter().enumerate() {
                    let right = if index % cols == 0 { to_f64(value).is_nan() } else { to_f64(value) == 0.0 };
                    assert!(right, "{level:?} {rows}x{inner}x{cols} {index}: {value:?}");
                }
            }
        }
    });
}

fn no_in_features_for<T: Storage>() {
    for_each_level(|level| {
        for cols in WIDTHS {
            let bias: Vec<T> = Random::new(4).normals(cols);
            for activation in Activation::ALL {
                let mut out = vec![from_f64::<T>(-77.0); 3 * cols];
                let epilogue = Epilogue::new().bias(&bias[..]).activation(activation);
                let (x, weight) = (Matrix::<T>::new(&[], 3, 0).unwrap(), Matrix::<T>::new(&[], 0, cols).unwrap());
                linear(x, weight, epilogue, MatrixMut::new(&mut out, 3, cols).unwrap()).unwrap();
                let expected = apply(activation, &bias);
                for row in out.chunks(cols) {
                    assert_eq!(row, expected, "{level:?} {activation:?}");
                }
            }
            let mut out = vec![from_f64::<T>(-77.0); cols];
            let (x, weight) = (Matrix::<T>::new(&[], 1, 0).unwrap(), Matrix::<T>::new(&[], 0, cols).unwrap());
            matmul(x, weight, &mut out[..]).unwrap();
            assert_eq!(bits(&out), vec![0; cols], "{level:?}");
        }
    });
}

fn empty_arrays_for<T: Storage>() {
    for_each_level(|_| {
        for (rows, cols) in [(0, 0), (0, 5), (5, 0)] {
            let mut nothing: [T; 0] = [];
            let x = Matrix::<T>::new(&[], rows, cols).unwrap();
            for activation in Activation::ALL {
                activate(activation, x, MatrixMut::new(&mut nothing, rows, cols).unwrap()).unwrap();
            }
            let weight = vec![T::ZERO; cols * 4];
            let weight = Matrix::new(&weight, cols, 4).unwrap();
            let mut out = vec![from_f64::<T>(1.0); rows * 4];
            matmul(x, weight, MatrixMut::new(&mut out, rows, 4).unwrap()).unwrap();
            assert_eq!(all_to_f64(&out), vec![0.0; rows * 4]);
            let wide = Matrix::<T>::new(&[], cols, 0).unwrap();
            linear(x, wide, Epilogue::new().bias(&[][..]), MatrixMut::new(&mut nothing, rows, 0).unwrap()).unwrap();
        }
    });
}

fn rounded_once_for<T: Storage>() {
    for_each_level(|level| {
        // Added one by one in 16 bits, the ones would stop counting at 2048 (f16) or 256 (bf16).
        let len = 60_000;
        let ones = vec![from_f64::<T>(1.0); len];
        let mut out = [T::ZERO];
        matmul(&ones[..], Matrix::new(&ones, len, 1).unwrap(), &mut out).unwrap();
        assert_eq!(out[0], from_f64::<T>(60_000.0), "{level:?}");
        // 1 + 2^-DIGITS is half way to the next value and goes to the even one; a product that lies a little above half
        // way must not be rounded to half way first.
        let half = common::power_of_two(-T::DIGITS);
        if size_of::<T>() == 2 {
            let x = [from_f64::<T>(1.0), from_f64(half), from_f64(half / 256.0)];
            let ones = [from_f64::<T>(1.0); 3];
            matmul(&x[..2], Matrix::new(&ones[..2], 2, 1).unwrap(), &mut out).unwrap();
            assert_eq!(to_f64(out[0]), 1.0, "{level:?}: half way goes to the even one");
            matmul(&x[..], Matrix::new(&ones, 3, 1).unwrap(), &mut out).unwrap();
            assert_eq!(to_f64(out[0]), 1.0 + 2.0 * half, "{level:?}: rounded once");
        }
    });
}

/// Everything that works on rows, elements or products, on (rows, 70) values.
fn everything<T: Storage>(x: &[T], rows: usize) -> Vec<Vec<u64>> {
    const COLS: usize = 70;
    let mut random = Random::new(5);
    let (weight, bias) = (random.normals::<T>(COLS * 33), random.normals::<T>(COLS));
    let view = Matrix::new(x, rows, COLS).unwrap();
    let mut results = Vec::new();
    let mut run = |op: &dyn Fn(MatrixMut<'_, T>)| {
        let mut out = vec![T::ZERO; rows * COLS];
        op(MatrixMut::new(&mut out, rows, COLS).unwrap());
        results.push(bits(&out));
    };
    run(&|out| softmax(view, out).unwrap());
    run(&|out| log_softmax(view, out).unwrap());
    run(&|out| layer_norm(view, Some(&bias), Some(&bias), from_f64(1e-5), out).unwrap());
    run(&|out| rms_norm(view, Some(&bias), from_f64(1e-5), out).unwrap());
    run(&|out| scale(view, from_f64(0.3), out).unwrap());
    run(&|out| map(view, out, |x| T::from_acc(x.to_acc() + x.to_acc())).unwrap());
    run(&|out| dropout_add(view, view, Mask::Multiply(view), from_f64(0.3), out).unwrap());
    for activation in Activation::ALL {
        run(&|out| activate(activation, view, out).unwrap());
    }
    run(&|out| l2_normalize(view, out).unwrap());
    run(&|out| add_layer_norm(view, view, Some(&bias), None, from_f64(1e-5), out).unwrap());
    let ids: Vec<usize> = (0..rows).collect();
    run(&|out| embedding(&[(view, &ids), (view, &ids)], out).unwrap());
    let weight = Matrix::new(&weight, COLS, 33).unwrap();
    let mut panels = vec![T::ZERO; PackedLinear::<T>::required_len(COLS, 33).unwrap()];
    PackedLinear::<T>::pack_into(&mut panels, weight).unwrap();
    let wide_bias: Vec<T::Acc> = bias[..33].iter().map(|value| value.to_acc()).collect();
    let mut run = |cols: usize, op: &dyn Fn(MatrixMut<'_, T>)| {
        let mut out = vec![T::ZERO; rows * cols];
        op(MatrixMut::new(&mut out, rows, cols).unwrap());
        results.push(bits(&out));
    };
    for activation in Activation::ALL {
        run(33, &|out| linear(view, weight, Epilogue::new().bias(&bias[..33]).activation(activation), out).unwrap());
        let packed = PackedLinear::from_packed(&panels, (COLS, 33), Some(&wide_bias), activation).unwrap();
        run(33, &|out| packed.forward(view, Residual::None, out).unwrap());
    }
    // Each row is ten tokens of seven features, and a query among others.
    let tokens = Matrix::new(x, rows * 10, 7).unwrap();
    let keep: Vec<bool> = (0..rows * 10).map(|token| token % 10 != 3).collect();
    run(7, &|out| mean_pool(tokens, Some(Matrix::new(&keep, rows, 10).unwrap()), out).unwrap());
    let (keys, values) = (random.normals::<T>(300 * COLS), random.normals::<T>(300 * 21));
    let (keys, values) = (Matrix::new(&keys, 300, COLS).unwrap(), Matrix::new(&values, 300, 21).unwrap());
    let some: Vec<u8> = (0..300).map(|key| u8::from(key % 5 != 0)).collect();
    // Not all of a large batch, which would take long.
    let queries = rows.min(400);
    for mask in [AttentionMask::None, AttentionMask::Select((&some[..]).into())] {
        let mut out = vec![T::ZERO; queries * 21];
        let target = MatrixMut::new(&mut out, queries, 21).unwrap();
        attention(view.block(0..queries, 0..COLS), keys, values, AttentionOptions::new().mask(mask), target).unwrap();
        results.push(bits(&out));
    }
    results
}

fn a_row_alone_for<T: Storage>() {
    for_each_level(|level| {
        let rows = 301;
        let x: Vec<T> = Random::new(6).normals(rows * 70);
        let batch = everything(&x, rows);
        for row in [0, 1, 7, 150, 300] {
            let alone = everything(&x[row * 70..(row + 1) * 70], 1);
            for (op, (batch, alone)) in batch.iter().zip(&alone).enumerate() {
                let cols = alone.len();
                assert_eq!(&batch[row * cols..(row + 1) * cols], alone, "{level:?}: operation {op}, row {row}");
            }
        }
    });
}

fn far_mean_for<T: Storage>() {
    for_each_level(|level| {
        // Four neighbours, the first a power of two, near the end of the integers that the type holds.
        let base = common::power_of_two(T::DIGITS - 1);
        let row: [T; 4] = [0.0, 1.0, 2.0, 3.0].map(|step| from_f64(base + step));
        let mut out = [T::ZERO; 4];
        layer_norm(&row, None, None, from_f64(0.0), &mut out).unwrap();
        for (step, &value) in out.iter().enumerate() {
            let right = (step as f64 - 1.5) / 1.25_f64.sqrt();
            let error = (to_f64(value) - right).abs();
            assert!(error <= 8.0 * common::compute_roundoff::<T>() + T::half_ulp(right), "{level:?} {step}: {value:?}");
        }
    });
}

fn signed_zeros_for<T: Storage>() {
    let minus = (-0.0_f64).to_bits();
    for_each_level(|level| {
        for len in WIDTHS {
            let zeros = vec![from_f64::<T>(-0.0); len];
            let mut out = vec![T::ZERO; len];
            for activation in [Activation::None, Activation::Tanh, Activation::Silu, Activation::Gelu] {
                assert_eq!(bits(&apply(activation, &zeros)), vec![minus; len], "{level:?} {activation:?}");
            }
            scale(&zeros[..], from_f64(3.0), &mut out[..]).unwrap();
            assert_eq!(bits(&out), vec![minus; len], "{level:?} scale");
        }
    });
}

#[cfg(feature = "parallel")]
#[test]
fn any_number_of_threads_gives_the_same_bits() {
    fn results<T: Storage>() -> Vec<Vec<u64>> {
        let mut random = Random::new(7);
        let rows = 5003;
        let mut results = everything::<T>(&random.normals(rows * 70), rows);
        let long: Vec<T> = random.normals(900_001);
        results.push(vec![sum_of_squares(&long[..]).to_bits()]);
        let mut out = vec![T::ZERO; 300 * 257];
        let (a, b) = (Matrix::new(&long, 300, 700).unwrap(), Matrix::new(&long, 700, 257).unwrap());
        matmul(a, b, MatrixMut::new(&mut out, 300, 257).unwrap()).unwrap();
        results.push(bits(&out));
        results
    }
    fn check<T: Storage>() {
        let alone = polyglot_bridge::with_threads(1, results::<T>);
        for threads in [2, 3, 5, 16] {
            let together = polyglot_bridge::with_threads(threads, results::<T>);
            for (op, (alone, together)) in alone.iter().zip(&together).enumerate() {
                assert!(alone == together, "{} operation {op}: {threads} threads give other bits", T::NAME);
            }
        }
    }
    for_each_level(|_| {
        check::<f32>();
        check::<f64>();
        #[cfg(feature = "f16")]
        check::<half::f16>();
        #[cfg(feature = "f16")]
        check::<half::bf16>();
    });
}

#[test]
fn shapes_that_do_not_fit_are_errors_that_print_both_and_write_nothing() {
    let (x, weight) = ([1.0_f32; 6], [1.0_f32; 12]);
    let mut out = [5.0_f32; 8];
    let x = Matrix::new(&x, 2, 3).unwrap();
    let mut fails = |expected: &str, run: &dyn Fn(MatrixMut<'_, f32>) -> Result<(), Error>| {
        let error = run(MatrixMut::new(&mut out, 2, 4).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert_eq!(out, [5.0; 8], "{expected}: wrote");
    };
    let wide = Matrix::new(&weight, 3, 4).unwrap();
    let tall = Matrix::new(&weight, 4, 3).unwrap();
    let epilogue = Epilogue::new();
    fails("matmul: b has shape (4, 3), expected (3, 3)", &|out| matmul(x, tall, out));
    fails("matmul: out has shape (2, 4), expected (2, 2)", &|out| matmul(x, wide.block(0..3, 0..2), out));
    fails("linear: weight has shape (4, 3), expected (3, 3)", &|out| linear(x, tall, epilogue, out));
    fails("linear: bias has shape (1, 3), expected (1, 4)", &|out| linear(x, wide, epilogue.bias(&[1.0; 3][..]), out));
    fails("linear: residual has shape (2, 3), expected (2, 4)", &|out| linear(x, wide, epilogue.residual(x), out));
    fails("linear: out has shape (2, 4), expected (2, 3)", &|out| {
        linear(x, wide.block(0..3, 0..3), epilogue.residual(Residual::Out), out)
    });
    fails("gelu: out has shape (2, 4), expected (2, 3)", &|out| Ok(activate(Activation::Gelu, x, out)?));
    let short: [f32; 5] = [0.0; 5];
    assert!(Matrix::new(&short, 2, 3).is_err() && Matrix::with_strides(&short, usize::MAX, 2, usize::MAX, 1).is_err());
}

#[test]
fn weights_of_a_torch_checkpoint_are_passed_transposed() {
    let torch: Vec<f32> = all_from_f64(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let weight = Matrix::new(&torch, 2, 3).unwrap().transpose();
    let mut out = [0.0_f32; 2];
    linear(&[1.0, 0.0, 10.0], weight, Epilogue::new().bias(&[0.5, 0.25][..]), &mut out).unwrap();
    assert_eq!(out, [31.5, 64.25]);
}

#[test]
fn rows_of_no_columns_are_empty_whatever_their_stride() {
    // A stride that would take the first row's address to the null pointer.
    let mut nothing: [f32; 0] = [];
    let stride = usize::MAX;
    let rows = Matrix::with_strides(&nothing, 3, 0, stride, 1).unwrap();
    assert_eq!((rows.row(1), rows.row(3), rows.as_slice()), (Some(&[][..]), None, Some(&[][..])));
    let mut out = MatrixMut::with_stride(&mut nothing, 3, 0, stride).unwrap();
    assert!(out.row_mut(2).is_some_and(|row| row.is_empty()) && out.row_mut(3).is_none());
    // More of them than anyone can count.
    let many = Matrix::new(&[], usize::MAX, 0).unwrap();
    softmax(many, MatrixMut::new(&mut nothing, usize::MAX, 0).unwrap()).unwrap();
    activate(Activation::Gelu, many, MatrixMut::new(&mut nothing, usize::MAX, 0).unwrap()).unwrap();
    assert_eq!(sum_of_squares(many), 0.0);
    let square = Matrix::new(&[], 0, 0).unwrap();
    linear(many, square, Epilogue::new(), MatrixMut::new(&mut nothing, usize::MAX, 0).unwrap()).unwrap();
    matmul(many, square, MatrixMut::new(&mut nothing, usize::MAX, 0).unwrap()).unwrap();
    layer_norm(many, None, None, 1e-5, MatrixMut::new(&mut nothing, usize::MAX, 0).unwrap()).unwrap();
    l2_normalize(many, MatrixMut::new(&mut nothing, usize::MAX, 0).unwrap()).unwrap();
    let rows = Matrix::<f32>::with_strides(&[], 3, 0, stride, 1).unwrap();
    let out = MatrixMut::with_stride(&mut nothing, 3, 0, stride).unwrap();
    rms_norm(rows, None, 1e-5, out).unwrap();
}

/// Sizes of which there are more than memory, in views of one number or of none: nothing overflows, and what has no elements
/// takes no time.
#[test]
fn sizes_without_elements_are_as_good_as_any() {
    type Nothing = PackedLinear<'static, f32>;
    let many = [3, usize::MAX >> 10, usize::MAX >> 4, usize::MAX >> 3, (usize::MAX >> 1) + 1, usize::MAX];
    let nothing = |rows, cols| MatrixMut::<f32>::new(&mut [], rows, cols).unwrap();
    for count in many {
        let tall = Matrix::<f32>::new(&[], count, 0).unwrap();
        let wide = Matrix::<f32>::new(&[], 0, count).unwrap();
        let out = || nothing(count, 0);
        add_layer_norm(tall, tall, None, None, 1e-5, out()).unwrap();
        dropout_add(tall, tall, Mask::Multiply(tall), 2.0, out()).unwrap();
        scale(tall, 2.0, out()).unwrap();
        map(tall, out(), |x| x).unwrap();
        mean_pool(tall, None, out()).unwrap();
        attention(tall, tall, tall, AttentionOptions::new(), out()).unwrap();
        attention(wide, wide, wide, AttentionOptions::new(), nothing(0, count)).unwrap();
        // count x 0 x 0, 0 x count x 0, 0 x 0 x count and their kin.
        linear(wide, tall, Epilogue::new(), nothing(0, 0)).unwrap();
        matmul(wide, tall, nothing(0, 0)).unwrap();
        polyglot_bridge::matmul_batch(2, |_| (wide, tall, nothing(0, 0))).unwrap();
        let empty = Matrix::<f32>::new(&[], 0, 0).unwrap();
        matmul(empty, wide, nothing(0, count)).unwrap();
        // A layer has rows of so many numbers, which must be able to exist.
        let is_row = count <= isize::MAX as usize / 4;
        let down = Nothing::from_packed(&[], (count, 0), None, Activation::Relu);
        let across = Nothing::from_packed(&[], (0, count), None, Activation::Relu);
        assert_eq!((down.is_ok(), across.is_ok()), (is_row, is_row), "{count}");
        assert_eq!(Nothing::pack_into(&mut [], tall).is_ok(), is_row, "{count}");
        assert_eq!(Nothing::pack_into(&mut [], wide).is_ok(), is_row, "{count}");
        for (layer, x) in [(down, wide), (across, empty)] {
            let Ok(layer) = layer else { continue };
            let shape = (layer.in_features(), layer.out_features());
            layer.unpack(nothing(shape.0, shape.1)).unwrap();
            layer.forward(x, Residual::None, nothing(0, shape.1)).unwrap();
            assert_eq!(layer.nbytes(), 0);
        }
        #[cfg(feature = "std")]
        {
            let layer = Nothing::new(tall, None, Activation::None);
            assert_eq!(layer.is_ok(), is_row, "{count}: {layer:?}");
        }
    }
}

/// A weight that is large in name only, each number of it the same one.
#[cfg(feature = "std")]
#[test]
fn a_weight_that_memory_cannot_hold_is_an_error() {
    for rows in [usize::MAX / 4096, usize::MAX / 64] {
        let weight = Matrix::with_strides(&[1.0_f32], rows, 3, 0, 0).expect("a view");
        let error = PackedLinear::<f32>::new(weight, None, Activation::None);
        assert!(matches!(error, Err(Error::OutOfMemory { bytes }) if bytes / 64 >= rows), "{error:?}");
    }
}

/// As are these queries and keys.
#[cfg(feature = "std")]
#[test]
fn queries_that_memory_cannot_hold_are_an_error() {
    for size in [1 << 45, usize::MAX >> 4, usize::MAX >> 2, usize::MAX] {
        let many = |rows| Matrix::with_strides(&[1.0_f32], rows, size, 0, 0).expect("a view");
        let mut out = [5.0_f32; 3];
        let error = attention(many(1), many(2), &[1.0, 2.0, 3.0], AttentionOptions::new(), &mut out);
        assert!(matches!(error, Err(Error::Shape(_))), "{error:?}");
        let v = Matrix::new(&[1.0_f32; 6], 2, 3).expect("shape");
        let error = attention(many(1), many(2), v, AttentionOptions::new(), &mut out);
        assert!(matches!(error, Err(Error::OutOfMemory { bytes }) if bytes >= size), "{error:?}");
        assert_eq!(out, [5.0; 3]);
    }
}

/// Layers without elements, between which there is more than memory.
#[cfg(feature = "std")]
#[test]
fn a_stack_that_memory_cannot_hold_is_an_error() {
    use polyglot_bridge::{Layer, Sequential};

    for features in [1 << 45, (1 << 61) - 1] {
        let layer = |k, n| {
            let layer = PackedLinear::<f32>::from_packed(&[], (k, n), None, Activation::None).expect("no elements");
            Box::new(layer) as Box<dyn Layer<f32>>
        };
        let stack = Sequential::new(vec![layer(0, features), layer(features, 0), layer(0, 3)]);
        assert_eq!(stack.out_features(0), Ok(3));
        for rows in [1, 100] {
            let mut out = vec![5.0; rows * 3];
            let x = Matrix::new(&[], rows, 0).expect("shape");
            let result = stack.forward(x, MatrixMut::new(&mut out, rows, 3).expect("shape"));
            assert!(matches!(result, Err(Error::OutOfMemory { bytes }) if bytes >= features), "{result:?}");
            assert!(out.iter().all(|&value| value == 5.0));
        }
        // Alone, the layer needs no memory but its result's.
        let mut out: [f32; 0] = [];
        let alone = Sequential::new(vec![layer(0, features)]);
        let result = alone
            .forward(Matrix::new(&[], 0, 0).expect("shape"), MatrixMut::new(&mut out, 0, features).expect("shape"));
        assert_eq!(result, Ok(()));
    }
    for features in [1 << 61, 1 << 63, usize::MAX] {
        for shape in [(0, features), (features, 0)] {
            let error = PackedLinear::<f32>::from_packed(&[], shape, None, Activation::None);
            assert!(matches!(error, Err(polyglot_bridge::ShapeError::Unrepresentable { .. })), "{error:?}");
        }
    }
}

#[cfg(feature = "parallel")]
#[test]
fn a_panic_in_a_closure_comes_out_once() {
    let mut values = vec![1.0_f64; 2_000_000];
    polyglot_bridge::with_threads(3, || {
        for _ in 0..20 {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                polyglot_bridge::map_in_place(&mut values[..], |_| panic!("on every thread"))
            }));
            assert!(result.is_err());
            polyglot_bridge::map_in_place(&mut values[..], |x| x).unwrap();
        }
    });
}

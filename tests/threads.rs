//! What operations promise about threads: the same bits whatever their number, and calls from anywhere at any time.
#![cfg(feature = "parallel")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

use polyglot_bridge::{
    Activation, Compute, Epilogue, Float, Mask, Matrix, MatrixMut, dropout_add, gelu, layer_norm, linear, log_softmax,
    map, matmul, relu, rms_norm, scale, softmax, sum_of_squares, with_threads,
};

/// Reproducible numbers in -4..4.
fn numbers<T: Float>(len: usize, seed: u64) -> Vec<T> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            T::from_acc(T::Acc::from_f64((state >> 11) as f64 / (1_u64 << 50) as f64 - 4.0))
        })
        .collect()
}

/// The bits of each operation on operands of this shape.
fn all_operations<T: Float>(rows: usize, cols: usize) -> Vec<Vec<u64>> {
    let x = numbers::<T>(rows * cols, 1);
    let residual = numbers::<T>(rows * cols, 2);
    let weight = numbers::<T>(cols, 3);
    let mask: Vec<bool> = x.iter().zip(&residual).map(|(&a, &b)| a.to_acc() > b.to_acc()).collect();
    let square = numbers::<T>(cols * 24, 4);
    let matrix = |data| Matrix::new(data, rows, cols).unwrap();
    let x = matrix(&x);
    let eps = T::Acc::from_f64(1e-5);
    let mut results = vec![vec![sum_of_squares(x).to_bits()]];
    let mut keep = |cols: usize, operation: &dyn Fn(MatrixMut<'_, T>)| {
        let mut out = vec![T::ZERO; rows * cols];
        operation(MatrixMut::new(&mut out, rows, cols).unwrap());
        results.push(out.iter().map(|value| value.to_acc().into_f64().to_bits()).collect());
    };
    keep(cols, &|out| softmax(x, out).unwrap());
    keep(cols, &|out| log_softmax(x, out).unwrap());
    keep(cols, &|out| layer_norm(x, Some(&weight), None, eps, out).unwrap());
    keep(cols, &|out| rms_norm(x, Some(&weight), eps, out).unwrap());
    keep(cols, &|out| gelu(x, out).unwrap());
    keep(cols, &|out| scale(x, eps, out).unwrap());
    keep(cols, &|out| map(x, out, |x| T::from_acc(x.to_acc() * x.to_acc())).unwrap());
    keep(cols, &|out| {
        let mask = Mask::from(Matrix::new(&mask, rows, cols).unwrap());
        dropout_add(x, matrix(&residual), mask, T::Acc::from_f64(1.25), out).unwrap();
    });
    keep(24, &|out| matmul(x, Matrix::new(&square, cols, 24).unwrap(), out).unwrap());
    keep(24, &|out| {
        let epilogue = Epilogue::new().activation(Activation::Gelu);
        linear(x, Matrix::new(&square, cols, 24).unwrap(), epilogue, out).unwrap();
    });
    results
}

fn same_bits<T: Float>() {
    for (rows, cols) in [(1, 300_007), (7, 40_009), (1001, 257), (50_000, 3)] {
        let alone = with_threads(1, || all_operations::<T>(rows, cols));
        for threads in [2, 3, 5, 16] {
            let together = with_threads(threads, || all_operations::<T>(rows, cols));
            for (index, (a, b)) in alone.iter().zip(&together).enumerate() {
                assert!(a == b, "operation {index} on {rows}x{cols} with {threads} threads");
            }
        }
    }
}

#[test]
fn same_bits_f32() {
    same_bits::<f32>();
}

#[cfg(feature = "f16")]
#[test]
fn same_bits_bf16() {
    same_bits::<half::bf16>();
}

#[test]
fn an_operation_within_a_map() {
    let x = numbers::<f32>(3000, 5);
    let row = numbers::<f32>(20_000, 6);
    let sum = with_threads(1, || sum_of_squares(&row[..])) as f32;
    let mut out = vec![0.0; x.len()];
    with_threads(4, || map(&x[..], &mut out[..], |x| x + sum_of_squares(&row[..]) as f32)).unwrap();
    assert!(out.iter().zip(&x).all(|(&out, &x)| out == x + sum));
}

#[test]
fn calls_from_eight_threads_at_once() {
    let expected = with_threads(1, || all_operations::<f32>(501, 257));
    thread::scope(|scope| {
        for caller in 0..8 {
            let expected = &expected;
            scope.spawn(move || {
                for round in 0..10 {
                    let threads = 1 + (caller + round) % 4;
                    assert!(with_threads(threads, || all_operations::<f32>(501, 257)) == *expected);
                }
            });
        }
    });
}

#[test]
fn a_panic_in_a_map_is_the_callers() {
    let x: Vec<f64> = (0..100_000).map(f64::from).collect();
    for threads in [1, 2, 5] {
        for bad in [0.0, 50_000.0, 99_999.0] {
            let mut out = vec![0.0; x.len()];
            let result = catch_unwind(AssertUnwindSafe(|| {
                with_threads(threads, || {
                    map(&x[..], &mut out[..], |x| {
                        assert!(x != bad, "not {bad}");
                        x
                    })
                })
            }));
            let message = result.expect_err("the panic was lost");
            assert_eq!(message.downcast_ref::<String>(), Some(&format!("not {bad}")));
        }
        let mut out = vec![0.0; x.len()];
        with_threads(threads, || map(&x[..], &mut out[..], |x| x + 1.0)).unwrap();
        assert!(out.iter().zip(&x).all(|(out, x)| *out == x + 1.0));
    }
}

#[test]
fn calls_far_apart() {
    let expected = with_threads(1, || all_operations::<f32>(301, 101));
    for pause in [0, 50, 300, 1000, 20_000] {
        for _ in 0..5 {
            thread::sleep(Duration::from_micros(pause));
            assert!(with_threads(3, || all_operations::<f32>(301, 101)) == expected);
        }
    }
}

/// Prints what calls cost with two threads beside one, from 16 elements to 10^8: `cargo test --features parallel --test
/// threads two_threads -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn two_threads_beside_one() {
    type Operation = fn(Matrix<'_, f32>, &mut [f32]);
    let operations: [(&str, Operation); 4] = [
        ("relu", |x, out| relu(x, MatrixMut::new(out, x.rows(), x.cols()).unwrap()).unwrap()),
        ("gelu", |x, out| gelu(x, MatrixMut::new(out, x.rows(), x.cols()).unwrap()).unwrap()),
        ("softmax", |x, out| softmax(x, MatrixMut::new(out, x.rows(), x.cols()).unwrap()).unwrap()),
        ("layer_norm", |x, out| {
            layer_norm(x, None, None, 1e-5, MatrixMut::new(out, x.rows(), x.cols()).unwrap()).unwrap();
        }),
    ];
    let data = numbers::<f32>(100_000_000, 7);
    let mut out = vec![0.0; data.len()];
    for (name, operation) in operations {
        for len in (0..).map(|step| 16 << (2 * step)).take_while(|&len| len < data.len()).chain([data.len()]) {
            let cols = if len > 256 { 256 } else { len };
            let x = Matrix::new(&data, len / cols, cols).unwrap();
            let mut times = [vec![], vec![]];
            for _ in 0..(40_000_000 / len).clamp(5, 300) {
                for threads in [1, 2] {
                    // Once to warm up, as where calls follow one another.
                    for round in 0..2 {
                        let start = Instant::now();
                        with_threads(threads, || operation(x, &mut out[..len]));
                        if round == 1 {
                            times[threads - 1].push(start.elapsed().as_nanos() as f64 / 1e3);
                        }
                    }
                }
            }
            let at = |threads: usize, percent: usize| {
                let mut times = times[threads - 1].clone();
                times.sort_by(f64::total_cmp);
                times[times.len() * percent / 100]
            };
            eprintln!(
                "{name:>10} {len:>9}: best {:>9.2} and {:>9.2} us, x{:.2}; median {:>9.2} and {:>9.2}, x{:.2}",
                at(1, 0),
                at(2, 0),
                at(1, 0) / at(2, 0),
                at(1, 50),
                at(2, 50),
                at(1, 50) / at(2, 50),
            );
        }
    }
}

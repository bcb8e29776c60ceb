//! linear and matmul against a naive f64 reference, over dtypes, shapes, strides and CPU levels, and the promise that
//! an output's bits depend only on its row, its column, k and the CPU level.

#![cfg(all(feature = "std", feature = "f16"))]

use half::{bf16, f16};
use polyglot_bridge::{
    Activation, Epilogue, Float, Matrix, MatrixMut, PackedLinear, Residual, ShapeError, linear, matmul,
};

/// Reproducible numbers in -1..1, exact in every type tested.
fn numbers<T: Float>(len: usize, seed: u64) -> Vec<T> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let value = ((state >> 56) as f64 - 127.5) / 128.0;
            T::from_acc(polyglot_bridge::Compute::from_f64(value))
        })
        .collect()
}

fn wide<T: Float>(value: T) -> f64 {
    polyglot_bridge::Compute::into_f64(value.to_acc())
}

/// The unit roundoff of the compute type and that of the stored type.
trait Rounding: Float {
    const COMPUTE: f64;
    const STORED: f64;
}
impl Rounding for f16 {
    const COMPUTE: f64 = f32::EPSILON as f64 / 2.0;
    const STORED: f64 = 1.0 / 2048.0;
}
impl Rounding for bf16 {
    const COMPUTE: f64 = f32::EPSILON as f64 / 2.0;
    const STORED: f64 = 1.0 / 256.0;
}
impl Rounding for f32 {
    const COMPUTE: f64 = f32::EPSILON as f64 / 2.0;
    const STORED: f64 = 0.0;
}
impl Rounding for f64 {
    const COMPUTE: f64 = f64::EPSILON / 2.0;
    const STORED: f64 = 0.0;
}

const SIZES: [usize; 12] = [0, 1, 2, 3, 5, 7, 8, 13, 16, 17, 33, 97];

/// x, weight, bias, residual, out and their (m, k, n).
type Call<T, W> = fn(&[T], &[W], &[W], &[T], &mut [T], (usize, usize, usize)) -> Result<(), ShapeError>;

fn unpacked<T: Float>(
    x: &[T],
    w: &[T],
    bias: &[T],
    residual: &[T],
    out: &mut [T],
    (m, k, n): (usize, usize, usize),
) -> Result<(), ShapeError> {
    let epilogue = Epilogue::new().bias(bias).residual(Matrix::new(residual, m, n)?);
    linear(Matrix::new(x, m, k)?, Matrix::new(w, k, n)?, epilogue, MatrixMut::new(out, m, n)?)
}

fn wide_packed<W: Float>(
    x: &[W::Acc],
    w: &[W],
    bias: &[W],
    residual: &[W::Acc],
    out: &mut [W::Acc],
    (m, k, n): (usize, usize, usize),
) -> Result<(), ShapeError> {
    let layer = PackedLinear::<W>::new(Matrix::new(w, k, n)?, Some(bias), Activation::None)?;
    layer.forward_wide(Matrix::new(x, m, k)?, Matrix::new(residual, m, n)?, MatrixMut::new(out, m, n)?)
}

fn against_reference<T: Rounding, W: Rounding>(call: Call<T, W>) {
    for (index, &m) in SIZES.iter().enumerate() {
        for &n in &SIZES {
            for k in [0, 1, 7, 64, 255, 256, 257, 513] {
                if m * n * k > 500_000 && (m + n + index) % 3 != 0 {
                    continue;
                }
                let (x, w) = (numbers::<T>(m * k, 1), numbers::<W>(k * n, 2));
                let (bias, residual) = (numbers::<W>(n, 3), numbers::<T>(m * n, 4));
                let mut out = vec![T::ZERO; m * n];
                call(&x, &w, &bias, &residual, &mut out, (m, k, n)).unwrap();
                for row in 0..m {
                    for col in 0..n {
                        let (mut sum, mut size) = (0.0, 0.0);
                        for p in 0..k {
                            let product = wide(x[row * k + p]) * wide(w[p * n + col]);
                            sum += product;
                            size += product.abs();
                        }
                        sum += wide(bias[col]) + wide(residual[row * n + col]);
                        size += wide(bias[col]).abs() + wide(residual[row * n + col]).abs();
                        let bound = (k as f64 + 2.0) * T::COMPUTE * size + T::STORED * sum.abs() * 1.01;
                        let found = wide(out[row * n + col]);
                        assert!((found - sum).abs() <= bound, "{m}x{k}x{n} ({row}, {col}): {found} for {sum}");
                    }
                }
            }
        }
    }
}

#[test]
fn equals_the_reference() {
    against_reference::<f32, f32>(unpacked);
    against_reference::<f64, f64>(unpacked);
    against_reference::<f16, f16>(unpacked);
    against_reference::<bf16, bf16>(unpacked);
    against_reference::<f32, f16>(wide_packed);
    against_reference::<f32, bf16>(wide_packed);
}

#[test]
fn a_row_alone_and_a_transposed_weight_give_the_same_bits() {
    for (m, k, n) in [(1, 300, 40), (7, 513, 33), (50, 784, 128), (300, 600, 257), (3, 1000, 1), (200, 700, 2)] {
        let (x, w) = (numbers::<f32>(m * k, 5), numbers::<f32>(k * n, 6));
        let x: Vec<f32> = x.iter().enumerate().map(|(i, v)| v * (1.0 + (i as f32).sin())).collect();
        let mut transposed = vec![0.0; k * n];
        for p in 0..k {
            for col in 0..n {
                transposed[col * k + p] = w[p * n + col];
            }
        }
        let (x, w) = (Matrix::new(&x, m, k).unwrap(), Matrix::new(&w, k, n).unwrap());
        let mut out = vec![0.0; m * n];
        matmul(x, w, MatrixMut::new(&mut out, m, n).unwrap()).unwrap();
        let mut other = vec![0.0; m * n];
        let view = Matrix::new(&transposed, n, k).unwrap().transpose();
        matmul(x, view, MatrixMut::new(&mut other, m, n).unwrap()).unwrap();
        assert_eq!(out, other, "{m}x{k}x{n} transposed");
        for row in 0..m {
            let mut alone = vec![0.0; n];
            matmul(x.row(row).unwrap(), w, &mut alone[..]).unwrap();
            assert_eq!(alone, out[row * n..(row + 1) * n], "{m}x{k}x{n} row {row}");
        }
    }
}

#[test]
fn residual_in_place_and_activation() {
    let (x, w) = (numbers::<f32>(5 * 9, 1), numbers::<f32>(9 * 21, 2));
    let former = numbers::<f32>(5 * 21, 3);
    let (x, w) = (Matrix::new(&x, 5, 9).unwrap(), Matrix::new(&w, 9, 21).unwrap());
    for activation in Activation::ALL {
        let mut apart = vec![0.0; 5 * 21];
        let epilogue = Epilogue::new().activation(activation);
        let residual = Residual::Matrix(Matrix::new(&former, 5, 21).unwrap());
        linear(x, w, epilogue.residual(residual), MatrixMut::new(&mut apart, 5, 21).unwrap()).unwrap();
        let mut in_place = former.clone();
        linear(x, w, epilogue.residual(Residual::Out), MatrixMut::new(&mut in_place, 5, 21).unwrap()).unwrap();
        assert_eq!(apart, in_place);
    }
}

fn packed_equals_unpacked<T: Rounding>() {
    for (m, k, n) in [(1, 64, 32), (1, 300, 257), (2, 0, 5), (5, 257, 16), (40, 513, 33), (130, 700, 250)] {
        let (x, w, residual) = (numbers::<T>(m * k, 1), numbers::<T>(k * n, 2), numbers::<T>(m * n, 3));
        let bias: Vec<T> = numbers(n, 4);
        let (x, w) = (Matrix::new(&x, m, k).unwrap(), Matrix::new(&w, k, n).unwrap());
        let residual = Matrix::new(&residual, m, n).unwrap();
        let layer = PackedLinear::<T>::new(w, Some(&bias), Activation::Relu).unwrap();
        let mut packed = vec![T::ZERO; m * n];
        layer.forward(x, residual, MatrixMut::new(&mut packed, m, n).unwrap()).unwrap();
        let epilogue = Epilogue::new().bias(&bias[..]).residual(residual).activation(Activation::Relu);
        let mut unpacked = vec![T::ZERO; m * n];
        linear(x, w, epilogue, MatrixMut::new(&mut unpacked, m, n).unwrap()).unwrap();
        assert_eq!(packed, unpacked, "{m}x{k}x{n}");
        let mut again = vec![T::ZERO; k * n];
        layer.unpack(MatrixMut::new(&mut again, k, n).unwrap()).unwrap();
        assert_eq!(Some(&again[..]), w.as_slice());
        let bias = layer.bias().unwrap();
        let borrowed = PackedLinear::<T>::from_packed(layer.panels(), (k, n), Some(bias), Activation::Relu).unwrap();
        borrowed.clone().forward(x, residual, MatrixMut::new(&mut unpacked, m, n).unwrap()).unwrap();
        assert_eq!(packed, unpacked);
    }
}

#[test]
fn a_packed_layer_gives_the_same_bits() {
    packed_equals_unpacked::<f32>();
    packed_equals_unpacked::<f64>();
    packed_equals_unpacked::<f16>();
    packed_equals_unpacked::<bf16>();
}

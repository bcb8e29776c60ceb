//! Criterion: operations on rows and on elements, on the shapes that `make bench` races other libraries on.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use polyglot_bridge::{
    Float, Mask, Matrix, MatrixMut, ShapeError, dropout_add, layer_norm, log_softmax, rms_norm, scale, softmax,
    sum_of_squares,
};

mod common;
use common::values;

/// Measures one operation on one shape; `name` has the dtype.
fn measure<T: Float>(
    c: &mut Criterion,
    name: &str,
    (rows, cols): (usize, usize),
    mut run: impl FnMut(Matrix<'_, T>, MatrixMut<'_, T>) -> Result<(), ShapeError>,
) {
    let (x, mut out) = (values::<T>(rows * cols), values::<T>(rows * cols));
    let mut run = || run(Matrix::new(&x, rows, cols)?, MatrixMut::new(&mut out, rows, cols)?);
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements((rows * cols) as u64));
    group.bench_function(format!("{rows}x{cols}"), |bencher| {
        bencher.iter(|| run().expect("the shapes fit"));
    });
    group.finish();
}

fn rows<T: Float>(c: &mut Criterion, dtype: &str, eps: T::Acc) {
    for shape in [(1000, 1000), (1536, 128), (8, 50257), (1, 10)] {
        measure::<T>(c, &format!("softmax {dtype}"), shape, |x, out| softmax(x, out));
    }
    measure::<T>(c, &format!("log_softmax {dtype}"), (1000, 1000), |x, out| log_softmax(x, out));
    measure::<T>(c, &format!("layer_norm {dtype}"), (512, 768), |x, out| layer_norm(x, None, None, eps, out));
    let (weight, bias) = (values::<T>(1024), values::<T>(1024));
    measure::<T>(c, &format!("layer_norm with weight and bias {dtype}"), (4096, 1024), |x, out| {
        layer_norm(x, Some(&weight), Some(&bias), eps, out)
    });
    measure::<T>(c, &format!("rms_norm {dtype}"), (512, 768), |x, out| rms_norm(x, Some(&weight[..768]), eps, out));
}

fn elements<T: Float>(c: &mut Criterion, dtype: &str, factor: T::Acc) {
    for shape in [(1, 16), (1, 1_000_000), (1, 10_000_000)] {
        measure::<T>(c, &format!("scale {dtype}"), shape, |x, out| scale(x, factor, out));
        measure::<T>(c, &format!("sum_of_squares {dtype}"), shape, |x, _| {
            std::hint::black_box(sum_of_squares(x));
            Ok(())
        });
    }
    let residual = values::<T>(512 * 768);
    let keep: Vec<bool> = (0..512 * 768).map(|place| place % 5 != 0).collect();
    measure::<T>(c, &format!("dropout_add {dtype}"), (512, 768), |x, out| {
        let mask = Mask::from(Matrix::new(&keep, 512, 768)?);
        dropout_add(x, Matrix::new(&residual, 512, 768)?, mask, factor, out)
    });
}

fn all(c: &mut Criterion) {
    rows::<f32>(c, "f32", 1e-5);
    rows::<f64>(c, "f64", 1e-5);
    elements::<f32>(c, "f32", 2.5);
    elements::<f64>(c, "f64", 2.5);
    #[cfg(feature = "f16")]
    {
        rows::<half::f16>(c, "f16", 1e-5);
        elements::<half::f16>(c, "f16", 2.5);
    }
}

criterion_group!(benches, all);
criterion_main!(benches);

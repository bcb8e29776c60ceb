//! Criterion: linear layers and matrix products, on the shapes that `make bench-linear` races other libraries on.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use polyglot_bridge::{Activation, Epilogue, Error, Float, Matrix, MatrixMut, linear, matmul};

mod common;
use common::values;

fn layer<T: Float>(c: &mut Criterion, dtype: &str, (m, k, n): (usize, usize, usize), activation: Activation) {
    let (x, weight, bias) = (values::<T>(m * k), values::<T>(k * n), values::<T>(n));
    let mut out = values::<T>(m * n);
    let mut run = || -> Result<(), Error> {
        let epilogue = Epilogue::new().bias(&bias[..]).activation(activation);
        linear(Matrix::new(&x, m, k)?, Matrix::new(&weight, k, n)?, epilogue, MatrixMut::new(&mut out, m, n)?)
    };
    let mut group = c.benchmark_group(format!("linear {dtype}"));
    group.throughput(Throughput::Elements(2 * (m * k * n) as u64));
    group.bench_function(format!("{m}x{k}x{n} {}", activation.name()), |bencher| {
        bencher.iter(|| run().expect("the shapes fit"));
    });
    group.finish();
}

fn product<T: Float>(c: &mut Criterion, dtype: &str, (m, k, n): (usize, usize, usize)) {
    let (a, b) = (values::<T>(m * k), values::<T>(k * n));
    let mut out = values::<T>(m * n);
    let mut run = || -> Result<(), Error> {
        matmul(Matrix::new(&a, m, k)?, Matrix::new(&b, k, n)?, MatrixMut::new(&mut out, m, n)?)
    };
    let mut group = c.benchmark_group(format!("matmul {dtype}"));
    group.throughput(Throughput::Elements(2 * (m * k * n) as u64));
    group.bench_function(format!("{m}x{k}x{n}"), |bencher| bencher.iter(|| run().expect("the shapes fit")));
    group.finish();
}

fn all(c: &mut Criterion) {
    layer::<f64>(c, "f64", (1000, 512, 256), Activation::Relu);
    for (shape, activation) in [
        ((1000, 512, 256), Activation::Relu),
        ((128, 384, 1536), Activation::Gelu),
        ((512, 768, 3072), Activation::None),
        ((64, 784, 128), Activation::Relu),
        ((8, 768, 3072), Activation::Relu),
        ((1, 768, 3072), Activation::Relu),
        ((1, 2048, 2048), Activation::None),
        ((1, 64, 32), Activation::Relu),
        ((37, 129, 65), Activation::Relu),
    ] {
        layer::<f32>(c, "f32", shape, activation);
    }
    product::<f32>(c, "f32", (1024, 1024, 1024));
    product::<f64>(c, "f64", (1024, 1024, 1024));
    #[cfg(feature = "f16")]
    {
        layer::<half::f16>(c, "f16", (256, 512, 512), Activation::None);
        layer::<half::f16>(c, "f16", (1, 2048, 2048), Activation::None);
    }
}

criterion_group!(benches, all);
criterion_main!(benches);

//! Each operation on small operands, every layout of them and every way that a product takes, against plain formulas in
//! f64: for Miri, which takes a thousandth of a CPU's time for each step but sees every access (`make test-miri`).
//! What does not fit into its minutes, shapes from the width of vectors on, long rows, is tried in the other files.
#![cfg(all(feature = "std", feature = "f16"))]

#[macro_use]
mod common;

use common::{Layout, Op, Random, RowOp, Storage, all_to_f64, for_each_level, from_f64, run, to_f64};
use polyglot_bridge::{
    Activation, AttentionMask, AttentionOptions, Compute, Epilogue, Float, Mask, Matrix, MatrixMut, PackedLinear,
    Residual, RowOperation, Sequential, add_layer_norm, add_layer_norm_in_place, attention, attention_batch,
    dropout_add, dropout_add_in_place, embedding, embedding_wide, l2_normalize, l2_normalize_in_place, layer_norm,
    layer_norm_in_place, linear, log_softmax, log_softmax_in_place, map, map_in_place, matmul, matmul_batch, mean_pool,
    rms_norm, rms_norm_in_place, scale, scale_in_place, softmax, softmax_in_place, sum_of_squares, with_threads,
};

for_each_type! {
    elements => elements_for,
    norms => norms_for,
    products => products_for,
    packed_products => packed_products_for,
    stacks_of_products => stacks_of_products_for,
    heads => heads_for,
    tables => tables_for,
    pools => pools_for,
    networks => networks_for,
    threads => threads_for,
}

/// (rows, columns): nothing, less than a vector of any level, one and a little more, some of them.
const SHAPES: &[(usize, usize)] =
    if cfg!(miri) { &[(2, 0), (3, 5), (2, 19)] } else { &[(0, 3), (2, 0), (1, 1), (3, 5), (2, 17), (2, 19), (1, 37)] };
/// Each in its own way through the code that they share.
const ACTIVATIONS: &[Activation] = if cfg!(miri) { &[Activation::Relu, Activation::Gelu] } else { &Activation::ALL };

/// How far off results may be that take a few roundings of the compute type, and one of the storage type.
fn assert_near<T: Storage>(found: &[T], right: &[f64], what: impl Fn() -> String) {
    assert_eq!(found.len(), right.len());
    for (index, (&found, &right)) in found.iter().zip(right).enumerate() {
        let bound = T::half_ulp(right) + 1e-5 * (1.0 + right.abs());
        let error = (to_f64(found) - right).abs();
        assert!(error <= bound, "{} {}: {found:?} at {index}, not {right:e}", T::NAME, what());
    }
}

/// Runs `op` on each shape, in each layout, and compares it with `right`, of dense values.
fn check<T: Storage>(name: &str, op: &impl RowOp<T>, right: impl Fn(&[f64]) -> Vec<f64>) {
    let mut random = Random::new(1);
    for &(rows, cols) in SHAPES {
        let x: Vec<T> = random.normals(rows * cols);
        let wide = all_to_f64(&x);
        let expected: Vec<f64> = wide.chunks(cols.max(1)).flat_map(&right).collect();
        for layout in Layout::ALL {
            let found = run(op, &x, rows, cols, layout);
            assert_near(&found, &expected, || format!("{name} of {rows}x{cols}, {layout:?}"));
        }
    }
}

/// An activation in f64; erf as its series has it (Abramowitz and Stegun 7.1.6), which converges fast for small numbers.
fn activated(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::None => x,
        Activation::Relu => x.max(0.0),
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Activation::Tanh => x.tanh(),
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => {
            let z = x / std::f64::consts::SQRT_2;
            let (mut term, mut sum) = (z, z);
            for n in 1..120 {
                term *= 2.0 * z * z / f64::from(2 * n + 1);
                sum += term;
            }
            x * (1.0 + 2.0 / std::f64::consts::PI.sqrt() * (-z * z).exp() * sum) / 2.0
        }
        Activation::GeluTanh => {
            x / (1.0 + (-2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).exp())
        }
        _ => panic!("an activation without a formula"),
    }
}

fn elements_for<T: Storage>() {
    for_each_level(|_| {
        for &activation in ACTIVATIONS {
            let op = Op(
                |x: Matrix<'_, T>, out: MatrixMut<'_, T>| {
                    polyglot_bridge::activate(activation, x, out).expect("shapes");
                },
                |x: MatrixMut<'_, T>| polyglot_bridge::activate_in_place(activation, x).expect("shapes"),
            );
            check(activation.name(), &op, |row| row.iter().map(|&x| activated(activation, x)).collect());
        }
        let factor = T::Acc::from_f64(0.75);
        let op = Op(
            |x: Matrix<'_, T>, out: MatrixMut<'_, T>| scale(x, factor, out).expect("shapes"),
            |x: MatrixMut<'_, T>| scale_in_place(x, factor).expect("shapes"),
        );
        check("scale", &op, |row| row.iter().map(|x| 0.75 * x).collect());
        let double = |x: T| from_f64::<T>(2.0 * to_f64(x));
        let op = Op(
            |x: Matrix<'_, T>, out: MatrixMut<'_, T>| map(x, out, double).expect("shapes"),
            |x: MatrixMut<'_, T>| map_in_place(x, double).expect("shapes"),
        );
        check("map", &op, |row| row.iter().map(|x| 2.0 * x).collect());
        dropout_for::<T>();
    });
}

fn dropout_for<T: Storage>() {
    let mut random = Random::new(2);
    for &(rows, cols) in SHAPES {
        let len = rows * cols;
        let (x, residual): (Vec<T>, Vec<T>) = (random.normals(len), random.normals(len));
        let keep: Vec<bool> = (0..len).map(|_| random.below(2) > 0).collect();
        let weights: Vec<T> = keep.iter().map(|&keep| from_f64(if keep { 2.0 } else { 0.0 })).collect();
        let right: Vec<f64> =
            (0..len).map(|index| to_f64(weights[index]) * to_f64(x[index]) * 0.5 + to_f64(residual[index])).collect();
        let view = |values| Matrix::new(values, rows, cols).expect("shape");
        // The same one by one, each behind a column that is not part of it.
        let apart: Vec<T> = residual.iter().flat_map(|&value| [from_f64(9.0), value]).collect();
        let apart = Matrix::with_strides(apart.get(1..).unwrap_or(&[]), rows, cols, 2 * cols, 2).expect("shape");
        for residual in [view(&residual), apart] {
            for layout in Layout::ALL {
                let half = T::Acc::from_f64(0.5);
                let op = Op(
                    |x: Matrix<'_, T>, out: MatrixMut<'_, T>| {
                        dropout_add(x, residual, Mask::Multiply(view(&weights)), half, out).expect("shapes");
                    },
                    |x: MatrixMut<'_, T>| {
                        dropout_add_in_place(x, residual, Mask::Multiply(view(&weights)), half).expect("shapes");
                    },
                );
                assert_near(&run(&op, &x, rows, cols, layout), &right, || format!("dropout_add, {layout:?}"));
                let one = T::Acc::from_f64(1.0);
                let mask = || Mask::from(Matrix::new(&keep[..], rows, cols).expect("shape"));
                let op = Op(
                    |x: Matrix<'_, T>, out: MatrixMut<'_, T>| {
                        dropout_add(x, residual, mask(), one, out).expect("shapes");
                    },
                    |x: MatrixMut<'_, T>| dropout_add_in_place(x, residual, mask(), one).expect("shapes"),
                );
                assert_near(&run(&op, &x, rows, cols, layout), &right, || format!("dropout_add of bools, {layout:?}"));
            }
        }
    }
}

fn softmax_of(row: &[f64]) -> Vec<f64> {
    let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = row.iter().map(|x| (x - largest).exp()).sum();
    row.iter().map(|x| (x - largest).exp() / sum).collect()
}

fn layer_norm_of(row: &[f64], weight: Option<&[f64]>, bias: Option<&[f64]>) -> Vec<f64> {
    let mean = row.iter().sum::<f64>() / row.len() as f64;
    let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / row.len() as f64;
    let normed = row.iter().map(|x| (x - mean) / (variance + 0.5).sqrt());
    normed
        .enumerate()
        .map(|(index, x)| x * weight.map_or(1.0, |weight| weight[index]) + bias.map_or(0.0, |bias| bias[index]))
        .collect()
}

/// The first values, where there are to be any.
fn pick<T>(has: bool, values: &[T], cols: usize) -> Option<&[T]> {
    has.then(|| &values[..cols])
}

fn norms_for<T: Storage>() {
    let mut random = Random::new(3);
    let (weights, biases): (Vec<T>, Vec<T>) = (random.normals(64), random.normals(64));
    let (wide_weights, wide_biases) = (all_to_f64(&weights), all_to_f64(&biases));
    let eps = T::Acc::from_f64(0.5);
    for_each_level(|_| {
        let op = Op(
            |x: Matrix<'_, T>, out: MatrixMut<'_, T>| softmax(x, out).expect("shapes"),
            |x: MatrixMut<'_, T>| softmax_in_place(x).expect("shapes"),
        );
        check("softmax", &op, softmax_of);
        let op = Op(
            |x: Matrix<'_, T>, out: MatrixMut<'_, T>| log_softmax(x, out).expect("shapes"),
            |x: MatrixMut<'_, T>| log_softmax_in_place(x).expect("shapes"),
        );
        check("log_softmax", &op, |row| softmax_of(row).into_iter().map(f64::ln).collect());
        for (has_weight, has_bias) in [(false, false), (true, false), (true, true)] {
            if cfg!(miri) && has_weight && !has_bias {
                continue;
            }
            let (weight, bias) = (|cols| pick(has_weight, &weights, cols), |cols| pick(has_bias, &biases, cols));
            let op = Op(
                |x: Matrix<'_, T>, out: MatrixMut<'_, T>| {
                    layer_norm(x, weight(x.cols()), bias(x.cols()), eps, out).expect("shapes");
                },
                |x: MatrixMut<'_, T>| {
                    let cols = x.cols();
                    layer_norm_in_place(x, weight(cols), bias(cols), eps).expect("shapes");
                },
            );
            check("layer_norm", &op, |row| {
                layer_norm_of(row, has_weight.then_some(&wide_weights), has_bias.then_some(&wide_biases))
            });
            let op = Op(
                |x: Matrix<'_, T>, out: MatrixMut<'_, T>| {
                    add_layer_norm(x, x, weight(x.cols()), bias(x.cols()), eps, out).expect("shapes");
                },
                |mut x: MatrixMut<'_, T>| {
                    let (rows, cols) = x.shape();
                    let copy: Vec<T> = (0..rows).flat_map(|row| x.row_mut(row).expect("row").to_vec()).collect();
                    let copy = Matrix::new(&copy, rows, cols).expect("shape");
                    add_layer_norm_in_place(x, copy, weight(cols), bias(cols), eps).expect("shapes");
                },
            );
            check("add_layer_norm", &op, |row| {
                let row: Vec<f64> = row.iter().map(|x| 2.0 * x).collect();
                layer_norm_of(&row, has_weight.then_some(&wide_weights), has_bias.then_some(&wide_biases))
            });
            let op = Op(
                |x: Matrix<'_, T>, out: MatrixMut<'_, T>| rms_norm(x, weight(x.cols()), eps, out).expect("shapes"),
                |x: MatrixMut<'_, T>| {
                    let cols = x.cols();
                    rms_norm_in_place(x, weight(cols), eps).expect("shapes");
                },
            );
            check("rms_norm", &op, |row| {
                let square = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
                let weigh = |index: usize| if has_weight { wide_weights[index] } else { 1.0 };
                row.iter().enumerate().map(|(index, x)| x / (square + 0.5).sqrt() * weigh(index)).collect()
            });
        }
        let op = Op(
            |x: Matrix<'_, T>, out: MatrixMut<'_, T>| l2_normalize(x, out).expect("shapes"),
            |x: MatrixMut<'_, T>| l2_normalize_in_place(x).expect("shapes"),
        );
        check("l2_normalize", &op, |row| {
            let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            row.iter().map(|x| x / length).collect()
        });
        for &(rows, cols) in SHAPES {
            let x: Vec<T> = random.normals(rows * cols);
            let right: f64 = all_to_f64(&x).iter().map(|x| x * x).sum();
            let dense = sum_of_squares(Matrix::new(&x, rows, cols).expect("shape"));
            let turned = sum_of_squares(Matrix::new(&x, rows, cols).expect("shape").transpose());
            assert!((dense - right).abs() <= 1e-12 * (1.0 + right) && (turned - right).abs() <= 1e-12 * (1.0 + right));
        }
    });
}

/// Values of a matrix, laid out so that the view of them takes one way or another through a product.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Laid {
    Dense,
    /// One number into a cache line, with gaps between rows.
    Inset,
    /// Columns side by side.
    Turned,
    /// Neither.
    Scattered,
    /// Rows so far apart that they span more than is expected in a cache.
    Far,
    /// Backwards, rows and columns.
    Backwards,
}

const LAID: [Laid; 6] = [Laid::Dense, Laid::Inset, Laid::Turned, Laid::Scattered, Laid::Far, Laid::Backwards];

struct Held<T> {
    laid: Laid,
    shape: (usize, usize),
    data: Vec<T>,
}

impl<T: Float> Held<T> {
    fn new(laid: Laid, values: &[T], (rows, cols): (usize, usize)) -> Self {
        let far = if rows > 1 { (17 << 20) / size_of::<T>() / (rows - 1) } else { cols };
        let len = match laid {
            Laid::Inset => 1 + rows * (cols + 5),
            Laid::Scattered => 2 * rows * (2 * cols + 3),
            Laid::Far => rows.saturating_sub(1) * far + cols,
            _ => rows * cols,
        };
        let mut held = Self { laid, shape: (rows, cols), data: vec![T::ZERO; len] };
        let places: Vec<usize> =
            (0..rows * cols).map(|index| held.place(index / cols.max(1), index % cols.max(1), far)).collect();
        for (place, &value) in places.into_iter().zip(values) {
            held.data[place] = value;
        }
        held
    }

    fn place(&self, row: usize, col: usize, far: usize) -> usize {
        let (rows, cols) = self.shape;
        match self.laid {
            Laid::Dense => row * cols + col,
            Laid::Inset => 1 + row * (cols + 5) + col,
            Laid::Turned => col * rows + row,
            Laid::Scattered => row * (2 * cols + 3) + 2 * col,
            Laid::Far => row * far + col,
            Laid::Backwards => rows * cols - 1 - row * cols - col,
        }
    }

    fn view(&self) -> Matrix<'_, T> {
        let (rows, cols) = self.shape;
        let far = if rows > 1 { (17 << 20) / size_of::<T>() / (rows - 1) } else { cols };
        match self.laid {
            Laid::Dense => Matrix::new(&self.data, rows, cols).expect("shape"),
            Laid::Inset => Matrix::with_strides(&self.data[1..], rows, cols, cols + 5, 1).expect("shape"),
            Laid::Turned => Matrix::new(&self.data, cols, rows).expect("shape").transpose(),
            Laid::Scattered => Matrix::with_strides(&self.data, rows, cols, 2 * cols + 3, 2).expect("shape"),
            Laid::Far => Matrix::with_strides(&self.data, rows, cols, far, 1).expect("shape"),
            Laid::Backwards if rows * cols == 0 => Matrix::new(&self.data, rows, cols).expect("shape"),
            Laid::Backwards => {
                let last = self.data.as_ptr().wrapping_add(rows * cols - 1);
                // SAFETY: from the last element on, backwards through all of them, borrowed as long as the view.
                #[allow(unsafe_code, reason = "strides below zero have no safe constructor")]
                unsafe {
                    Matrix::from_raw_parts(last, rows, cols, -cols.cast_signed(), -1)
                }
            }
        }
    }
}

/// (rows, k, columns), the epilogue chosen by their sum.
const PRODUCTS: &[(usize, usize, usize)] = if cfg!(miri) {
    &[(2, 0, 3), (1, 3, 40), (3, 2, 19), (5, 2, 1), (13, 1, 3), (1, 515, 1), (2, 1, 131)]
} else {
    &[
        (0, 2, 2),
        (2, 0, 3),
        (1, 1, 1),
        (1, 3, 40),
        (2, 5, 17),
        (3, 9, 33),
        (5, 4, 1),
        (13, 6, 18),
        (1, 530, 3),
        (2, 17, 140),
        (17, 3, 20),
        (1, 20, 133),
    ]
};

/// Whether the layout is tried, for the product of this number: under Miri three of them for each, and none that spans
/// megabytes.
fn is_tried(laid: Laid, number: usize) -> bool {
    !cfg!(miri)
        || [Laid::Dense, Laid::Turned, [Laid::Inset, Laid::Scattered, Laid::Backwards][number % 3]].contains(&laid)
}

fn product_of(x: &[f64], weight: &[f64], (rows, k, cols): (usize, usize, usize)) -> Vec<f64> {
    (0..rows * cols)
        .map(|index| (0..k).map(|step| x[index / cols * k + step] * weight[step * cols + index % cols]).sum())
        .collect()
}

fn products_for<T: Storage>() {
    for_each_level(|level| {
        let mut random = Random::new(4);
        for (place, &(rows, k, cols)) in PRODUCTS.iter().enumerate() {
            let small = |values: Vec<T>| -> Vec<T> { values.iter().map(|&x| from_f64(to_f64(x) / 8.0)).collect() };
            let x = small(random.normals(rows * k));
            let (weight, bias) = (small(random.normals(k * cols)), random.normals::<T>(cols));
            let residual: Vec<T> = random.normals(rows * cols);
            let plain = product_of(&all_to_f64(&x), &all_to_f64(&weight), (rows, k, cols));
            let activation = ACTIVATIONS[if cfg!(miri) { 0 } else { place % ACTIVATIONS.len() }];
            let full: Vec<f64> = plain
                .iter()
                .enumerate()
                .map(|(index, sum)| activated(activation, sum + to_f64(bias[index % cols]) + to_f64(residual[index])))
                .collect();
            for (number, laid) in LAID.into_iter().enumerate().filter(|&(_, laid)| is_tried(laid, place)) {
                // Each layout of the weight with another of x.
                let x_laid =
                    Held::new([Laid::Dense, Laid::Scattered, Laid::Inset, Laid::Turned][number % 4], &x, (rows, k));
                let laid = Held::new(laid, &weight, (k, cols));
                let what = || format!("{level:?} {rows}x{k}x{cols} of {:?} and {:?}", x_laid.laid, laid.laid);
                let mut out = vec![from_f64::<T>(-77.0); rows * cols];
                matmul(x_laid.view(), laid.view(), MatrixMut::new(&mut out, rows, cols).expect("shape"))
                    .expect("shapes");
                assert_near(&out, &plain, what);
                let wide = cols + 3;
                let mut out = vec![from_f64::<T>(-77.0); rows * wide];
                let target = MatrixMut::with_stride(&mut out, rows, cols, wide).expect("shape");
                let residual = Held::new(Laid::Scattered, &residual, (rows, cols));
                let epilogue = Epilogue::new().bias(&bias[..]).residual(residual.view()).activation(activation);
                linear(x_laid.view(), laid.view(), epilogue, target).expect("shapes");
                for (row, found) in out.chunks(wide.max(1)).enumerate() {
                    assert_near(&found[..cols], &full[row * cols..(row + 1) * cols], what);
                    assert!(found[cols..].iter().all(|&guard| guard == from_f64(-77.0)), "{}: wrote in a gap", what());
                }
            }
            let mut out = residual.clone();
            let epilogue = Epilogue::new().bias(&bias[..]).residual(Residual::Out).activation(activation);
            let [x, weight] = [(&x, rows, k), (&weight, k, cols)].map(|(v, r, c)| Matrix::new(v, r, c).expect("shape"));
            linear(x, weight, epilogue, MatrixMut::new(&mut out, rows, cols).expect("shape")).expect("shapes");
            assert_near(&out, &full, || format!("{level:?} {rows}x{k}x{cols} over its residual"));
        }
    });
}

fn packed_products_for<T: Storage>() {
    for_each_level(|level| {
        let mut random = Random::new(5);
        for &(rows, k, cols) in PRODUCTS {
            let (x, weight): (Vec<T>, Vec<T>) = (random.normals(rows * k), random.normals(k * cols));
            let weight: Vec<T> = weight.iter().map(|&x| from_f64(to_f64(x) / 8.0)).collect();
            let bias: Vec<T> = random.normals(cols);
            let right: Vec<f64> = product_of(&all_to_f64(&x), &all_to_f64(&weight), (rows, k, cols))
                .iter()
                .enumerate()
                .map(|(index, sum)| (sum + to_f64(bias[index % cols])).max(0.0))
                .collect();
            let held = Held::new(LAID[(rows + cols) % 4], &weight, (k, cols));
            let layer = PackedLinear::<T>::new(held.view(), Some(&bias), Activation::Relu).expect("shapes");
            drop(held);
            let own = PackedLinear::from_packed(layer.panels(), (k, cols), layer.bias(), Activation::Relu);
            for (number, layer) in [&layer, &own.expect("shapes")].into_iter().enumerate() {
                let view = Matrix::new(&x, rows, k).expect("shape");
                let mut out = vec![from_f64::<T>(-77.0); rows * cols];
                layer
                    .forward(view, Residual::None, MatrixMut::new(&mut out, rows, cols).expect("shape"))
                    .expect("shapes");
                assert_near(&out, &right, || format!("{level:?} packed {rows}x{k}x{cols}"));
                if cfg!(miri) && number > 0 {
                    continue;
                }
                let wide: Vec<T::Acc> = x.iter().map(|x| x.to_acc()).collect();
                let wide = Matrix::new(&wide, rows, k).expect("shape");
                let mut found = vec![from_f64::<T::Acc>(-77.0); rows * cols];
                let target = MatrixMut::new(&mut found, rows, cols).expect("shape");
                layer.forward_wide(wide, Residual::None, target).expect("shapes");
                for (found, right) in found.iter().zip(&right) {
                    assert!((to_f64(*found) - right).abs() <= 1e-4 * (1.0 + right), "{level:?} packed wide");
                }
            }
            let mut again = vec![from_f64::<T>(-77.0); k * cols];
            layer.unpack(MatrixMut::new(&mut again, k, cols).expect("shape")).expect("shapes");
            assert!(again == weight, "{level:?} unpacked {k}x{cols}");
        }
    });
}

fn stacks_of_products_for<T: Storage>() {
    for_each_level(|_| {
        let mut random = Random::new(6);
        let (count, rows, k, cols) = (3, 2, 5, 6);
        let (a, b): (Vec<T>, Vec<T>) = (random.normals(count * rows * k), random.normals(k * cols));
        let mut out = vec![from_f64::<T>(-77.0); count * rows * cols];
        let places = Places(out.as_mut_ptr());
        matmul_batch(count, |index| {
            let a = Matrix::new(&a[index * rows * k..][..rows * k], rows, k).expect("shape");
            let b = Matrix::new(&b, k, cols).expect("shape");
            (a, b, places.part(index, rows, cols))
        })
        .expect("shapes");
        for index in 0..count {
            let a = all_to_f64(&a[index * rows * k..][..rows * k]);
            let right = product_of(&a, &all_to_f64(&b), (rows, k, cols));
            assert_near(&out[index * rows * cols..][..rows * cols], &right, || format!("product {index}"));
        }
    });
}

/// Where the results of several products lie, one after the other.
struct Places<T>(*mut T);

#[allow(unsafe_code, reason = "closures that are called for each product share the results")]
// SAFETY: an address; each part of what is there is used by one product.
unsafe impl<T> Sync for Places<T> {}

impl<T: Copy> Places<T> {
    fn part<'a>(&self, index: usize, rows: usize, cols: usize) -> MatrixMut<'a, T> {
        #[allow(unsafe_code, reason = "as above")]
        // SAFETY: parts of a vector that is not touched otherwise until all products are done; each is asked for once.
        unsafe {
            MatrixMut::from_raw_parts(self.0.add(index * rows * cols), rows, cols, cols)
        }
    }
}

fn heads_for<T: Storage>() {
    for_each_level(|level| {
        let mut random = Random::new(7);
        let sizes: &[_] =
            if cfg!(miri) { &[(3, 5, 2, 3)] } else { &[(1, 1, 1, 1), (3, 5, 4, 3), (2, 20, 3, 17), (1, 260, 2, 2)] };
        for &(queries, keys, size, cols) in sizes {
            let [q, k, v] = [queries * size, keys * size, keys * cols].map(|len| random.normals::<T>(len));
            let shows: Vec<bool> = (0..queries * keys).map(|index| index % keys == 0 || random.below(3) > 0).collect();
            let adds: Vec<T> = random.normals(queries * keys);
            for kind in 0..4 {
                let scores = product_of(
                    &all_to_f64(&q),
                    &(0..size * keys).map(|at| to_f64(k[at % keys * size + at / keys])).collect::<Vec<_>>(),
                    (queries, size, keys),
                );
                let mut right = Vec::new();
                for row in 0..queries {
                    let score = |key: usize| {
                        let hidden = kind == 1 && !shows[row * keys + key] || kind == 3 && key > row;
                        let added = if kind == 2 { to_f64(adds[row * keys + key]) } else { 0.0 };
                        if hidden { f64::NEG_INFINITY } else { 0.5 * scores[row * keys + key] + added }
                    };
                    let weights = softmax_of(&(0..keys).map(score).collect::<Vec<_>>());
                    right.extend(product_of(&weights, &all_to_f64(&v), (1, keys, cols)));
                }
                let mut options = AttentionOptions::new().scale(T::Acc::from_f64(0.5)).causal(kind == 3);
                if kind == 1 {
                    options = options.mask(Matrix::new(&shows[..], queries, keys).expect("shape"));
                } else if kind == 2 {
                    options = options.mask(AttentionMask::Add(Matrix::new(&adds[..], queries, keys).expect("shape")));
                }
                let all = [Laid::Dense, Laid::Turned, Laid::Scattered];
                for laid in
                    all.into_iter().skip(if cfg!(miri) { kind % 3 } else { 0 }).take(if cfg!(miri) { 1 } else { 3 })
                {
                    let held = [(&q, queries, size), (&k, keys, size), (&v, keys, cols)]
                        .map(|(x, r, c)| Held::new(laid, x, (r, c)));
                    let [q, k, v] = held.each_ref().map(Held::view);
                    let mut out = vec![from_f64::<T>(-77.0); queries * cols];
                    let target = MatrixMut::new(&mut out, queries, cols).expect("shape");
                    attention(q, k, v, options, target).expect("shapes");
                    let what = || format!("{level:?} attention of {queries}, {keys}, {size}, {cols}, {laid:?}, {kind}");
                    assert_near(&out, &right, what);
                    let mut twice = vec![from_f64::<T>(-77.0); 2 * queries * cols];
                    let places = Places(twice.as_mut_ptr());
                    attention_batch(2, |index| ([q, k, v], options, places.part(index, queries, cols)))
                        .expect("shapes");
                    assert!(twice.chunks(queries * cols).all(|part| part == out), "{}", what());
                }
            }
        }
    });
}

fn tables_for<T: Storage>() {
    for_each_level(|_| {
        let mut random = Random::new(8);
        for cols in [0, 1, 5, 17, 37] {
            let (table, other): (Vec<T>, Vec<T>) = (random.normals(4 * cols), random.normals(3 * cols));
            let (ids, others): ([usize; 5], [usize; 5]) = ([3, 0, 1, 1, 2], [0, 2, 1, 0, 2]);
            let turned = Held::new(Laid::Turned, &other, (3, cols));
            let tables = [(Matrix::new(&table, 4, cols).expect("shape"), &ids[..]), (turned.view(), &others[..])];
            let right: Vec<f64> = (0..5 * cols)
                .map(|at| {
                    to_f64(table[ids[at / cols] * cols + at % cols])
                        + to_f64(other[others[at / cols] * cols + at % cols])
                })
                .collect();
            let mut out = vec![from_f64::<T>(-77.0); 5 * cols];
            embedding(&tables, MatrixMut::new(&mut out, 5, cols).expect("shape")).expect("shapes");
            assert_near(&out, &right, || format!("embedding of {cols}"));
            let mut wide = vec![from_f64::<T::Acc>(-77.0); 5 * cols];
            embedding_wide(&tables, MatrixMut::new(&mut wide, 5, cols).expect("shape")).expect("shapes");
            assert!(
                wide.iter()
                    .zip(&right)
                    .all(|(&found, right)| (to_f64(found) - right).abs() <= 1e-6 * (1.0 + right.abs()))
            );
            let mut out = vec![from_f64::<T>(-77.0); 5 * cols];
            let beyond = [(Matrix::new(&table, 4, cols).expect("shape"), &[0, 1, 2, 3, 4][..])];
            assert!(embedding(&beyond, MatrixMut::new(&mut out, 5, cols).expect("shape")).is_err());
            assert!(out.iter().all(|&value| value == from_f64(-77.0)));
        }
    });
}

fn pools_for<T: Storage>() {
    for_each_level(|_| {
        let mut random = Random::new(9);
        for (tokens, cols) in [(1, 1), (3, 5), (18, 17)] {
            let x: Vec<T> = random.normals(2 * tokens * cols);
            let keep: Vec<bool> = (0..2 * tokens).map(|_| random.below(2) > 0).collect();
            for laid in [Laid::Dense, Laid::Turned, Laid::Scattered] {
                let x_laid = Held::new(laid, &x, (2 * tokens, cols));
                let mask = Held { laid: Laid::Dense, shape: (2, tokens), data: keep.clone() };
                let mask = Matrix::new(&mask.data, 2, tokens).expect("shape");
                let mut out = vec![from_f64::<T>(-77.0); 2 * cols];
                mean_pool(x_laid.view(), Some(mask), MatrixMut::new(&mut out, 2, cols).expect("shape"))
                    .expect("shapes");
                let right: Vec<f64> = (0..2 * cols)
                    .map(|at| {
                        let kept: Vec<usize> = (0..tokens).filter(|token| keep[at / cols * tokens + token]).collect();
                        let value = |token: &usize| to_f64(x[(at / cols * tokens + token) * cols + at % cols]);
                        kept.iter().map(value).sum::<f64>() / kept.len().max(1) as f64
                    })
                    .collect();
                assert_near(&out, &right, || format!("mean_pool of {tokens}x{cols}, {laid:?}"));
            }
        }
    });
}

fn networks_for<T: Storage>() {
    for_each_level(|_| {
        let mut random = Random::new(10);
        let (weight, bias): (Vec<T>, Vec<T>) = (random.normals(5 * 7), random.normals(7));
        let layer = PackedLinear::<T>::new(Matrix::new(&weight, 5, 7).expect("shape"), Some(&bias), Activation::Tanh);
        let norm = RowOperation::LayerNorm { weight: Some(bias.clone()), bias: None, eps: T::Acc::from_f64(0.5) };
        let stack =
            Sequential::new(vec![Box::new(layer.expect("shapes")), Box::new(norm), Box::new(RowOperation::Softmax)]);
        for rows in if cfg!(miri) { [0, 1, 2, 5] } else { [0, 1, 3, 70] } {
            let x: Vec<T> = random.normals(rows * 5);
            let mut out = vec![from_f64::<T>(-77.0); rows * 7];
            let view = Matrix::new(&x, rows, 5).expect("shape");
            stack.forward(view, MatrixMut::new(&mut out, rows, 7).expect("shape")).expect("shapes");
            let sums = product_of(&all_to_f64(&x), &all_to_f64(&weight), (rows, 5, 7));
            let round = |x: f64| to_f64(from_f64::<T>(x));
            for (found, sums) in out.chunks(7).zip(sums.chunks(7)) {
                let row: Vec<f64> =
                    sums.iter().zip(&bias).map(|(sum, &bias)| round((sum + to_f64(bias)).tanh())).collect();
                let normed: Vec<f64> =
                    layer_norm_of(&row, Some(&all_to_f64(&bias)), None).into_iter().map(round).collect();
                for (&found, right) in found.iter().zip(softmax_of(&normed)) {
                    // What is rounded between layers may have been rounded the other way here.
                    let bound = 1e-5 + 8.0 * T::half_unit();
                    assert!((to_f64(found) - right).abs() <= bound, "{} {found:?}, not {right}", T::NAME);
                }
            }
        }
    });
}

/// Calls large enough to be shared by three threads.
fn threads_for<T: Storage>() {
    for_each_level(|level| {
        with_threads(3, || {
            let mut random = Random::new(11);
            let few: Vec<T> = random.normals(997);
            // Work for which sleeping threads are woken.
            let (rows, cols) = (4, 11_000);
            let x: Vec<T> = (0..rows * cols).map(|index| few[index % few.len()]).collect();
            let mut out = vec![from_f64::<T>(-77.0); x.len()];
            let target = MatrixMut::new(&mut out, rows, cols).expect("shape");
            map(Matrix::new(&x, rows, cols).expect("shape"), target, |x| if to_f64(x) > 0.0 { x } else { T::ZERO })
                .expect("shapes");
            assert!(out.iter().zip(&x).all(|(&out, &x)| to_f64(out) == to_f64(x).max(0.0)));
            if cfg!(miri) {
                return;
            }
            // One row times a weight whose reading alone is worth several threads.
            let (k, cols) = (150, 2048 / size_of::<T>());
            let weight: Vec<T> = (0..k * cols).map(|index| few[index % few.len()]).collect();
            let mut out = vec![from_f64::<T>(-77.0); cols];
            let weight_view = Matrix::new(&weight, k, cols).expect("shape");
            matmul(&few[..k], weight_view, &mut out[..]).expect("shapes");
            let right = product_of(&all_to_f64(&few[..k]), &all_to_f64(&weight), (1, k, cols));
            for (&found, right) in out.iter().zip(right) {
                let bound = 1e-4 * (k as f64) + T::half_ulp(right);
                assert!((to_f64(found) - right).abs() <= bound, "{level:?} {found:?}, not {right}");
            }
        });
    });
}

//! linear, matmul, packed layers and stacks of them, at every CPU level and in every storage type: against a plain sum
//! in f64, against the documented order of additions bit by bit, and one way of calling against the other.

#![allow(unsafe_code, reason = "results that are handed to threads have no safe form")]

#[macro_use]
mod common;

use common::{Random, Storage, at_one_level, compute_roundoff, for_each_level, from_f64, to_f64};
use polyglot_bridge::simd::Level;
use polyglot_bridge::{
    Activation, Epilogue, Error, Float, Matrix, MatrixMut, PackedLinear, Residual, activate_in_place, linear, matmul,
    matmul_batch, pack_constant,
};

/// (rows, k, columns)
type Sizes = (usize, usize, usize);

/// Each class of shapes: next to the edges of tiles, panels, groups of steps and blocks of k; empty; of one row or column.
const SHAPES: [Sizes; 39] = [
    (0, 3, 4),
    (3, 4, 0),
    (2, 0, 5),
    (40, 0, 33),
    (1, 1, 1),
    (1, 64, 32),
    (1, 257, 40),
    (1, 513, 1),
    (1, 5000, 1),
    (2, 3, 17),
    (2, 256, 16),
    (3, 255, 15),
    (3, 700, 9),
    (4, 5, 8),
    (4, 1025, 130),
    (5, 300, 49),
    (5, 512, 32),
    (6, 33, 100),
    (7, 65, 31),
    (8, 64, 128),
    (9, 258, 7),
    (11, 2, 3),
    (12, 1030, 33),
    (13, 256, 48),
    (16, 130, 65),
    (17, 129, 64),
    (17, 1000, 1),
    (18, 31, 97),
    (23, 512, 16),
    (25, 700, 50),
    (33, 7, 130),
    (37, 129, 65),
    (50, 784, 12),
    (97, 257, 17),
    (100, 3, 7),
    (100, 64, 1),
    (193, 20, 40),
    (300, 5, 2),
    (700, 16, 16),
];

/// What a call is made of.
struct Operands<T> {
    sizes: Sizes,
    x: Vec<T>,
    weight: Vec<T>,
    bias: Vec<T>,
    residual: Vec<T>,
}

impl<T: Float> Operands<T> {
    fn new(sizes: Sizes) -> Self {
        let (m, k, n) = sizes;
        let mut random = Random::new((m * 1_000_003 + k * 1009 + n) as u64);
        Self {
            sizes,
            x: random.normals(m * k),
            weight: random.normals(k * n),
            bias: random.normals(n),
            residual: random.normals(m * n),
        }
    }

    fn x(&self) -> Matrix<'_, T> {
        Matrix::new(&self.x, self.sizes.0, self.sizes.1).expect("shape")
    }

    fn weight(&self) -> Matrix<'_, T> {
        Matrix::new(&self.weight, self.sizes.1, self.sizes.2).expect("shape")
    }

    fn residual(&self) -> Matrix<'_, T> {
        Matrix::new(&self.residual, self.sizes.0, self.sizes.2).expect("shape")
    }

    /// `x @ weight + bias`
    fn product(&self) -> Vec<T> {
        Operands::<T>::run(self.x(), self.weight(), Epilogue::new().bias(&self.bias[..]))
    }

    fn run(x: Matrix<'_, T>, weight: Matrix<'_, T>, epilogue: Epilogue<'_, T>) -> Vec<T> {
        let (m, n) = (x.rows(), weight.cols());
        let mut out = vec![from_f64(-77.0); m * n];
        linear(x, weight, epilogue, MatrixMut::new(&mut out, m, n).expect("shape")).expect("shapes fit");
        out
    }
}

/// Rows and columns exchanged in memory.
fn transposed<T: Copy>(values: &[T], rows: usize, cols: usize) -> Vec<T> {
    (0..cols).flat_map(|col| (0..rows).map(move |row| values[row * cols + col])).collect()
}

/// Gaps between rows, and rows in reverse.
fn spread<T: Float>(values: &[T], cols: usize, stride: usize) -> Vec<T> {
    let mut data = Vec::new();
    for row in values.chunks(cols.max(1)) {
        data.extend_from_slice(row);
        data.resize(data.len() + stride - cols, from_f64(f64::INFINITY));
    }
    data
}

/// Equal bits, but for those of a NaN.
#[track_caller]
fn same<T: Float>(found: &[T], expected: &[T], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (index, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let (found, expected) = (to_f64(found), to_f64(expected));
        assert!(
            found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(),
            "{what}: element {index} is {found}, expected {expected}"
        );
    }
}

fn layer<'a, T: Float>(
    panels: &'a mut Vec<T>,
    weight: Matrix<'_, T>,
    bias: Option<&'a [T::Acc]>,
    activation: Activation,
) -> PackedLinear<'a, T> {
    panels.resize(PackedLinear::<T>::required_len(weight.rows(), weight.cols()).expect("small"), T::ZERO);
    PackedLinear::<T>::pack_into(panels, weight).expect("long enough");
    PackedLinear::from_packed(panels, weight.shape(), bias, activation).expect("shapes fit")
}

for_each_type! {
    /// Within the error bound that is documented.
    a_plain_sum => equals_a_plain_sum,
    the_order => follows_the_documented_order,
    layouts => does_not_depend_on_layouts,
    neighbours => does_not_depend_on_other_rows_and_columns,
    packed => packed_layers_give_the_same_bits,
    large_weights => large_weights_give_the_same_bits,
    places => any_place_in_memory_gives_the_same_bits,
    turned => transposed_operands_give_the_same_bits,
    special_values => keeps_special_values_apart,
    residuals => adds_residuals,
    wide => narrow_types_are_computed_in_their_compute_type,
    batches => batches_are_products_one_by_one,
}

fn equals_a_plain_sum<T: Storage>() {
    for sizes @ (m, k, n) in SHAPES {
        let operands = Operands::<T>::new(sizes);
        let mut expected = Vec::new();
        for (row, col) in (0..m).flat_map(|row| (0..n).map(move |col| (row, col))) {
            let products = (0..k).map(|p| to_f64(operands.x[row * k + p]) * to_f64(operands.weight[p * n + col]));
            let bias = to_f64(operands.bias[col]);
            let (sum, size) = products.fold((0.0, 0.0), |(sum, size), product| (sum + product, size + product.abs()));
            expected.push((sum + bias, (k + 1) as f64 * compute_roundoff::<T>() * (size + bias.abs())));
        }
        for_each_level(|level| {
            for (found, &(expected, bound)) in operands.product().iter().zip(&expected) {
                // A sum in f64 has an error of its own; f16 and bf16 are rounded once more.
                let rounding = if size_of::<T>() == 2 { T::half_ulp(expected.abs() + bound) } else { 0.0 };
                let distance = (to_f64(*found) - expected).abs();
                assert!(distance <= 2.0 * bound + rounding, "{level:?} {sizes:?}: {found:?}, expected {expected}");
            }
        });
    }
}

/// Blocks of k as even as can be, each a chain of multiply-adds from zero, added in order.
fn follows_the_documented_order<T: Storage>() {
    for sizes @ (m, k, n) in SHAPES {
        let operands = Operands::<T>::new(sizes);
        let block = k.div_ceil(k.div_ceil(512).max(1)).max(1);
        for_each_level(|level| {
            let fused = match level {
                #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
                Level::Avx2(_) | Level::Avx512(_) => true,
                #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
                Level::Sse2(_) | Level::Sse4_2(_) => cfg!(target_feature = "fma"),
                _ => return,
            };
            let mut expected = Vec::new();
            for (row, col) in (0..m).flat_map(|row| (0..n).map(move |col| (row, col))) {
                let mut sum = T::Acc::ZERO;
                for start in (0..k).step_by(block) {
                    let chain = (start..(start + block).min(k)).fold(T::Acc::ZERO, |chain, p| {
                        let (x, w) = (operands.x[row * k + p].to_acc(), operands.weight[p * n + col].to_acc());
                        if fused { num_traits::Float::mul_add(x, w, chain) } else { x * w + chain }
                    });
                    sum = if start == 0 { chain } else { sum + chain };
                }
                expected.push(T::from_acc(sum + operands.bias[col].to_acc()));
            }
            same(&operands.product(), &expected, &format!("{level:?} {sizes:?}"));
        });
    }
}

fn does_not_depend_on_layouts<T: Storage>() {
    for sizes @ (m, k, n) in SHAPES {
        let operands = Operands::<T>::new(sizes);
        let (x_columns, weight_columns) = (transposed(&operands.x, m, k), transposed(&operands.weight, k, n));
        let (x_spread, weight_spread) = (spread(&operands.x, k, k + 3), spread(&operands.weight, n, n + 5));
        let x_turned = Matrix::new(&x_columns, k, m).expect("shape").transpose();
        let weight_turned = Matrix::new(&weight_columns, n, k).expect("shape").transpose();
        let x_gaps = Matrix::with_strides(&x_spread, m, k, k + 3, 1).expect("shape");
        let weight_gaps = Matrix::with_strides(&weight_spread, k, n, n + 5, 1).expect("shape");
        for_each_level(|level| {
            let expected = operands.product();
            let bias = Epilogue::new().bias(&operands.bias[..]);
            for (what, x, weight) in [
                ("weight transposed", operands.x(), weight_turned),
                ("x transposed", x_turned, operands.weight()),
                ("both transposed", x_turned, weight_turned),
                ("gaps in x", x_gaps, operands.weight()),
                ("gaps in the weight", x_turned, weight_gaps),
                ("gaps", x_gaps, weight_gaps),
            ] {
                same(&Operands::<T>::run(x, weight, bias), &expected, &format!("{level:?} {sizes:?} {what}"));
            }
            let mut wide = vec![from_f64::<T>(-77.0); m * (n + 2)];
            let out = MatrixMut::with_stride(&mut wide, m, n, n + 2).expect("shape");
            linear(operands.x(), operands.weight(), bias, out).expect("shapes fit");
            for (row, expected) in wide.chunks(n + 2).zip(expected.chunks(n.max(1))) {
                same(&row[..n], expected, "gaps in out");
                same(&row[n..], &[from_f64(-77.0); 2], "wrote in a gap");
            }
        });
    }
}

fn does_not_depend_on_other_rows_and_columns<T: Storage>() {
    for sizes @ (m, k, n) in SHAPES {
        let operands = Operands::<T>::new(sizes);
        for_each_level(|level| {
            let expected = operands.product();
            let what = format!("{level:?} {sizes:?}");
            for row in [0, m / 2, m.saturating_sub(1)].into_iter().filter(|&row| row < m) {
                let alone = operands.x().block(row..row + 1, 0..k);
                let found = Operands::<T>::run(alone, operands.weight(), Epilogue::new().bias(&operands.bias[..]));
                same(&found, &expected[row * n..(row + 1) * n], &what);
            }
            for cols in [0..1, n / 2..n / 2 + 1, n / 3..n] {
                if cols.end > n || cols.is_empty() {
                    continue;
                }
                let weight = operands.weight().block(0..k, cols.clone());
                let found =
                    Operands::<T>::run(operands.x(), weight, Epilogue::new().bias(&operands.bias[cols.clone()]));
                let expected: Vec<T> = expected.chunks(n).flat_map(|row| row[cols.clone()].to_vec()).collect();
                same(&found, &expected, &what);
            }
        });
    }
}

fn packed_layers_give_the_same_bits<T: Storage>() {
    for sizes @ (m, k, n) in SHAPES {
        let operands = Operands::<T>::new(sizes);
        let bias: Vec<T::Acc> = operands.bias.iter().map(|value| value.to_acc()).collect();
        for_each_level(|level| {
            let mut panels = Vec::new();
            let layer = layer(&mut panels, operands.weight(), Some(&bias), Activation::Relu);
            let epilogue = Epilogue::new().bias(&operands.bias[..]).activation(Activation::Relu);
            let expected = Operands::<T>::run(operands.x(), operands.weight(), epilogue);
            let mut found = vec![T::ZERO; m * n];
            let out = MatrixMut::new(&mut found, m, n).expect("shape");
            layer.forward(operands.x(), Residual::None, out).expect("shapes fit");
            same(&found, &expected, &format!("{level:?} {sizes:?}"));
            // Any alignment.
            let mut moved = vec![T::ZERO; 1];
            moved.extend_from_slice(layer.panels());
            let moved =
                PackedLinear::from_packed(&moved[1..], (k, n), Some(&bias), Activation::Relu).expect("shapes fit");
            let out = MatrixMut::new(&mut found, m, n).expect("shape");
            moved.forward(operands.x(), Residual::None, out).expect("shapes fit");
            same(&found, &expected, "moved");
            let mut unpacked = vec![T::ZERO; k * n];
            layer.unpack(MatrixMut::new(&mut unpacked, k, n).expect("shape")).expect("shapes fit");
            same(&unpacked, &operands.weight, "unpacked");
            assert_eq!((layer.in_features(), layer.out_features()), (k, n));
            assert_eq!(layer.nbytes(), size_of_val(layer.panels()) + size_of_val(&bias[..]));
        });
    }
}

/// Weights that no cache holds are read in long pieces for few rows, packed a few columns at a time for some more, and once
/// for all blocks of many rows: to the same bits as a layer that was packed before.
fn large_weights_give_the_same_bits<T: Storage>() {
    for sizes @ (m, k, n) in [
        (1, 2100, 2064),
        (1, 2100, 2061),
        (3, 2100, 2064),
        (12, 2100, 2064),
        (15, 2100, 2056),
        (210, 1030, 517),
        (420, 300, 1000),
    ] {
        let operands = Operands::<T>::new(sizes);
        let bias: Vec<T::Acc> = operands.bias.iter().map(|value| value.to_acc()).collect();
        for_each_level(|level| {
            if m * k * n > 1 << 24 && format!("{level:?}").contains("Fallback") {
                return; // takes seconds, and reads weights as the others do
            }
            let mut panels = Vec::new();
            let layer = layer(&mut panels, operands.weight(), Some(&bias), Activation::None);
            let mut found = vec![T::ZERO; m * n];
            let out = MatrixMut::new(&mut found, m, n).expect("shape");
            layer.forward(operands.x(), Residual::None, out).expect("shapes fit");
            same(&operands.product(), &found, &format!("{level:?} {sizes:?}"));
        });
    }
}

/// Wherever in its cache lines a weight begins, and however far its rows are apart: to the same bits as a layer that was packed
/// before, with neighbours that would show.
fn any_place_in_memory_gives_the_same_bits<T: Storage>() {
    for (k, n) in [(5, 128), (40, 144), (513, 272), (30, 259), (1030, 160)] {
        for rows in [1, 2, 3, 4, 5] {
            let operands = Operands::<T>::new((rows, k, n));
            let nan = from_f64::<T>(f64::NAN);
            for_each_level(|level| {
                let mut panels = Vec::new();
                let layer = layer(&mut panels, operands.weight(), None, Activation::None);
                let mut expected = vec![T::ZERO; rows * n];
                let out = MatrixMut::new(&mut expected, rows, n).expect("shape");
                layer.forward(operands.x(), Residual::None, out).expect("shapes fit");
                for (offset, stride) in (0..=17).map(|offset| (offset, n)).chain([(3, n + 64), (4, n + 5)]) {
                    let mut memory = vec![nan; offset + k * stride + 64];
                    for (row, values) in operands.weight.chunks(n).enumerate() {
                        memory[offset + row * stride..][..n].copy_from_slice(values);
                    }
                    let weight = Matrix::with_strides(&memory[offset..], k, n, stride, 1).expect("shape");
                    let found = Operands::<T>::run(operands.x(), weight, Epilogue::new());
                    same(&found, &expected, &format!("{level:?} {rows}x{k}x{n} at {offset}, {stride}"));
                }
            });
        }
    }
}

/// One row times a weight whose columns lie side by side, and many rows times one column, which is the same from the other side: to
/// the same bits as a layer that was packed before.
fn transposed_operands_give_the_same_bits<T: Storage>() {
    for (k, n) in [(1, 16), (3, 17), (7, 31), (16, 32), (33, 33), (513, 40), (1030, 130)] {
        let operands = Operands::<T>::new((1, k, n));
        let mut turned = vec![T::ZERO; k * n];
        for (index, value) in turned.iter_mut().enumerate() {
            *value = operands.weight[index % k * n + index / k];
        }
        let turned = Matrix::new(&turned, n, k).expect("shape").transpose();
        for_each_level(|level| {
            let mut panels = Vec::new();
            let layer = layer(&mut panels, operands.weight(), None, Activation::None);
            let mut expected = vec![T::ZERO; n];
            layer.forward(operands.x(), Residual::None, &mut expected[..]).expect("shapes fit");
            let what = format!("{level:?} {k}x{n}");
            same(&Operands::<T>::run(operands.x(), turned, Epilogue::new()), &expected, &what);
            // The weight's columns as rows of x, and x as a weight of one column.
            let column = Matrix::new(&operands.x, k, 1).expect("shape");
            same(&Operands::<T>::run(turned.transpose(), column, Epilogue::new()), &expected, &what);
        });
    }
}

/// Zero times infinity is NaN, a NaN stays in its row or column, and what pads panels is never seen.
fn keeps_special_values_apart<T: Storage>() {
    let infinity = from_f64::<T>(f64::INFINITY);
    for sizes @ (m, k, n) in [(1, 5, 3), (1, 300, 18), (3, 9, 17), (7, 20, 1), (20, 33, 35), (40, 513, 17)] {
        for_each_level(|level| {
            for p in [0, k / 2, k - 1] {
                let mut operands = Operands::<T>::new(sizes);
                for row in 0..m {
                    operands.x[row * k + p] = T::ZERO;
                }
                operands.weight[p * n + n - 1] = infinity;
                for (index, value) in operands.product().into_iter().enumerate() {
                    let what = format!("{level:?} {sizes:?} {p} {index}: {value:?}");
                    assert_eq!(to_f64(value).is_nan(), index % n == n - 1, "0 times infinity, {what}");
                    assert!(index % n == n - 1 || to_f64(value).is_finite(), "infinity elsewhere, {what}");
                }
                let mut operands = Operands::<T>::new(sizes);
                operands.x[(m - 1) * k + p] = from_f64(f64::NAN);
                for (index, value) in operands.product().into_iter().enumerate() {
                    assert_eq!(to_f64(value).is_nan(), index / n == m - 1, "{level:?} {sizes:?} {p} {index}");
                }
            }
        });
    }
    for_each_level(|level| {
        for (m, n) in [(1, 1), (1, 20), (5, 3), (30, 17)] {
            let empty = Operands::<T>::new((m, 0, n));
            let no_bias = Operands::<T>::run(empty.x(), empty.weight(), Epilogue::new());
            same(&no_bias, &vec![T::ZERO; m * n], &format!("{level:?}: k = 0"));
            same(&empty.product(), &empty.bias.repeat(m), "k = 0 with a bias");
        }
    });
}

fn adds_residuals<T: Storage>() {
    for sizes @ (m, _, n) in [(1, 9, 21), (2, 40, 16), (5, 9, 21), (12, 300, 1), (30, 300, 19), (40, 257, 64)] {
        let operands = Operands::<T>::new(sizes);
        let turned = transposed(&operands.residual, m, n);
        let turned = Matrix::new(&turned, n, m).expect("shape").transpose();
        for_each_level(|level| {
            for activation in Activation::ALL {
                let what = format!("{level:?} {sizes:?} {activation:?}");
                let epilogue = Epilogue::new().bias(&operands.bias[..]).activation(activation);
                let expected =
                    Operands::<T>::run(operands.x(), operands.weight(), epilogue.residual(operands.residual()));
                same(&Operands::<T>::run(operands.x(), operands.weight(), epilogue.residual(turned)), &expected, &what);
                let mut in_place = operands.residual.clone();
                let out = MatrixMut::new(&mut in_place, m, n).expect("shape");
                linear(operands.x(), operands.weight(), epilogue.residual(Residual::Out), out).expect("shapes fit");
                same(&in_place, &expected, &what);
                if size_of::<T>() == size_of::<T::Acc>() {
                    // The operations one by one.
                    let epilogue = Epilogue::new().bias(&operands.bias[..]);
                    let mut steps = Operands::<T>::run(operands.x(), operands.weight(), epilogue);
                    for (value, &residual) in steps.iter_mut().zip(&operands.residual) {
                        *value = T::from_acc(value.to_acc() + residual.to_acc());
                    }
                    activate_in_place(activation, &mut steps[..]).expect("in place");
                    same(&expected, &steps, &what);
                }
            }
        });
    }
}

/// What f16 and bf16 give is what their compute type gives, rounded once; and so where only the weight is narrow.
fn narrow_types_are_computed_in_their_compute_type<T: Storage>() {
    let widen = |values: &[T]| -> Vec<T::Acc> { values.iter().map(|value| value.to_acc()).collect() };
    for sizes @ (m, _, n) in SHAPES {
        let narrow = Operands::<T>::new(sizes);
        let wide = Operands {
            sizes,
            x: widen(&narrow.x),
            weight: widen(&narrow.weight),
            bias: widen(&narrow.bias),
            residual: widen(&narrow.residual),
        };
        for_each_level(|level| {
            for activation in [Activation::None, Activation::Relu, Activation::Gelu] {
                let what = format!("{level:?} {sizes:?} {activation:?}");
                let epilogue = Epilogue::new().bias(&wide.bias[..]).residual(wide.residual()).activation(activation);
                let expected = Operands::<T::Acc>::run(wide.x(), wide.weight(), epilogue);
                let rounded: Vec<T> = expected.iter().map(|&value| T::from_acc(value)).collect();
                let epilogue =
                    Epilogue::new().bias(&narrow.bias[..]).residual(narrow.residual()).activation(activation);
                same(&Operands::<T>::run(narrow.x(), narrow.weight(), epilogue), &rounded, &what);
                let mut panels = Vec::new();
                let layer = layer(&mut panels, narrow.weight(), Some(&wide.bias), activation);
                let mut found = vec![T::Acc::ZERO; m * n];
                let out = MatrixMut::new(&mut found, m, n).expect("shape");
                layer.forward_wide(wide.x(), wide.residual(), out).expect("shapes fit");
                same(&found, &expected, &what);
            }
        });
    }
}

fn batches_are_products_one_by_one<T: Storage>() {
    for (count, sizes @ (m, _, n)) in [(0, (2, 3, 4)), (1, (40, 30, 20)), (3, (0, 3, 4)), (70, (9, 33, 17))] {
        let items: Vec<_> = (0..count).map(|_| Operands::<T>::new(sizes)).collect();
        for_each_level(|level| {
            let mut outs: Vec<Vec<T>> = (0..count).map(|_| vec![T::ZERO; m * n]).collect();
            let places: Vec<usize> = outs.iter_mut().map(|out| out.as_mut_ptr() as usize).collect();
            let item = |index: usize| {
                let out = places[index] as *mut T;
                // SAFETY: vectors of m * n elements that nothing else touches meanwhile.
                let out = unsafe { MatrixMut::from_raw_parts(out, m, n, n) };
                (items[index].x(), items[index].weight(), out)
            };
            matmul_batch(count, item).expect("shapes fit");
            for (found, item) in outs.iter().zip(&items) {
                let mut expected = vec![T::ZERO; m * n];
                let out = MatrixMut::new(&mut expected, m, n).expect("shape");
                matmul(item.x(), item.weight(), out).expect("shapes fit");
                same(found, &expected, &format!("{level:?} {sizes:?}"));
            }
        });
    }
}

#[cfg(feature = "parallel")]
#[test]
fn threads_change_no_bit() {
    for sizes in [(1, 2048, 2100), (9, 600, 3000), (120, 300, 700), (700, 513, 65), (9000, 70, 1), (30_000, 7, 5)] {
        let operands = Operands::<f32>::new(sizes);
        for_each_level(|level| {
            let alone = polyglot_bridge::with_threads(1, || operands.product());
            for threads in [2, 3, 8] {
                let found = polyglot_bridge::with_threads(threads, || operands.product());
                same(&found, &alone, &format!("{level:?} {sizes:?} {threads} threads"));
            }
        });
    }
}

#[test]
fn constants_are_packed_while_compiling() {
    const WEIGHT: [[f32; 19]; 3] = {
        let mut weight = [[0.0; 19]; 3];
        let mut index = 0;
        while index < 3 * 19 {
            weight[index / 19][index % 19] = index as f32;
            index += 1;
        }
        weight
    };
    static PANELS: [f32; 96] = pack_constant(&WEIGHT);
    let mut panels = Vec::new();
    let weight = Matrix::new(WEIGHT.as_flattened(), 3, 19).expect("shape");
    assert_eq!(layer(&mut panels, weight, None, Activation::None).panels(), PANELS);
}

#[test]
fn shapes_that_do_not_fit_are_errors_that_print_both() {
    let (x, weight, mut out) = ([1.0_f32; 12], [1.0_f32; 12], [7.0_f32; 12]);
    let x = Matrix::new(&x, 3, 4).expect("shape");
    let error = |result: Result<(), Error>, parts: &[&str]| {
        let text = result.expect_err("does not fit").to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    };
    let wrong = Matrix::new(&weight, 3, 4).expect("shape");
    let right = Matrix::new(&weight, 4, 3).expect("shape");
    error(linear(x, wrong, Epilogue::new(), MatrixMut::new(&mut out, 3, 3).expect("shape")), &["(3, 4)", "(4, 4)"]);
    error(matmul(x, right, MatrixMut::new(&mut out, 3, 4).expect("shape")), &["(3, 4)", "(3, 3)"]);
    let epilogue = Epilogue::new().bias(&[1.0_f32; 2][..]);
    error(linear(x, right, epilogue, MatrixMut::new(&mut out, 3, 3).expect("shape")), &["bias", "2", "3"]);
    let epilogue = Epilogue::new().residual(x);
    error(
        linear(x, right, epilogue, MatrixMut::new(&mut out, 3, 3).expect("shape")),
        &["residual", "(3, 4)", "(3, 3)"],
    );
    let mut panels = Vec::new();
    let layer = layer(&mut panels, right, None, Activation::None);
    error(layer.forward(right, Residual::None, MatrixMut::new(&mut out, 4, 3).expect("shape")), &["(4, 3)", "(3, 3)"]);
    assert_eq!(out, [7.0; 12], "written in spite of an error");
    assert!(PackedLinear::<f32>::from_packed(&weight, (4, 3), None, Activation::None).is_err(), "too short");
    assert!(PackedLinear::<f32>::pack_into(&mut [0.0; 12], right).is_err(), "too short");
    assert!(PackedLinear::<f32>::from_packed(&panels, (4, 3), Some(&[0.0; 4]), Activation::None).is_err(), "bias");
    assert_eq!(PackedLinear::<f32>::required_len(usize::MAX, 2), None);
    at_one_level(|| ());
}

#[cfg(feature = "std")]
mod stacks {
    use super::*;
    use polyglot_bridge::{Compute, Layer, RowOperation, Sequential, Wide};

    /// One layer after the other, each on all rows.
    fn one_by_one<T: Float>(layers: &[Box<dyn Layer<T> + '_>], x: Matrix<'_, T>) -> Vec<T> {
        let (rows, mut features) = x.shape();
        let mut values: Vec<T> =
            (0..rows * features).map(|index| x.get(index / features, index % features).expect("inside")).collect();
        for layer in layers {
            let next = layer.out_features(features);
            let mut out = vec![T::ZERO; rows * next];
            let x = Matrix::new(&values, rows, features).expect("shape");
            layer.run(x, MatrixMut::new(&mut out, rows, next).expect("shape")).expect("shapes fit");
            (values, features) = (out, next);
        }
        values
    }

    fn network<T: Storage>() -> Vec<Box<dyn Layer<T>>> {
        let mut random = Random::new(9);
        let mut linear = |k: usize, n: usize, activation| -> Box<dyn Layer<T>> {
            let (weight, bias) = (random.normals::<T>(k * n), random.normals::<T>(n));
            let weight = Matrix::new(&weight, k, n).expect("shape");
            Box::new(PackedLinear::<T>::new(weight, Some(&bias), activation).expect("shapes fit"))
        };
        let first = linear(30, 65, Activation::Relu);
        let second = linear(65, 17, Activation::None);
        let eps = T::Acc::from_f64(1e-5);
        let norm = RowOperation::LayerNorm { weight: Some(vec![from_f64(1.5); 65]), bias: None, eps };
        let last = RowOperation::Softmax;
        vec![first, Box::new(norm), Box::new(RowOperation::Activation(Activation::Silu)), second, Box::new(last)]
    }

    fn stacks_give_the_same_bits<T: Storage>() {
        let layers = network::<T>();
        let stack = Sequential::new(network::<T>());
        assert_eq!(stack.out_features(30), Ok(17));
        for rows in [0, 1, 2, 47, 48, 49, 200] {
            let values = Random::new(rows as u64).normals::<T>(rows * 30);
            let turned = transposed(&values, rows, 30);
            for_each_level(|level| {
                let x = Matrix::new(&values, rows, 30).expect("shape");
                let expected = one_by_one(&layers, x);
                for x in [x, Matrix::new(&turned, 30, rows).expect("shape").transpose()] {
                    let mut found = vec![T::ZERO; rows * 17];
                    stack.forward(x, MatrixMut::new(&mut found, rows, 17).expect("shape")).expect("shapes fit");
                    same(&found, &expected, &format!("{level:?} {rows} rows"));
                }
            });
        }
    }

    for_each_type! {
        one_after_the_other => stacks_give_the_same_bits,
    }

    #[test]
    fn stacks_of_other_kinds_and_errors() {
        let x: Vec<f32> = Random::new(1).normals(50 * 4);
        let x = Matrix::new(&x, 50, 4).expect("shape");
        let mut out = vec![0.0_f32; 50 * 4];
        let empty = Sequential::<f32>::new(vec![]);
        empty.forward(x, MatrixMut::new(&mut out, 50, 4).expect("shape")).expect("shapes fit");
        assert_eq!(Some(&out[..]), x.as_slice(), "without layers a stack copies");
        let weight = Matrix::new(&[0.5_f64; 12], 4, 3).expect("shape");
        let layer = PackedLinear::<f64>::new(weight, None, Activation::None).expect("shapes fit");
        let stack = Sequential::new(vec![Box::new(Wide(layer.clone())) as Box<dyn Layer<f64>>, Box::new(layer)]);
        assert!(stack.out_features(4).expect_err("3 columns for 4").to_string().contains('3'));
        let x = [0.0_f64; 8];
        let mut out = [7.0; 6];
        let result =
            stack.forward(Matrix::new(&x, 2, 4).expect("shape"), MatrixMut::new(&mut out, 2, 3).expect("shape"));
        assert!(result.is_err());
        assert_eq!(out, [7.0; 6]);
    }

    /// Takes any number of columns, as far as it tells.
    struct Picky;

    impl Layer<f32> for Picky {
        fn in_features(&self) -> Option<usize> {
            None
        }

        fn out_features(&self, in_features: usize) -> usize {
            in_features
        }

        fn run(&self, _: Matrix<'_, f32>, _: MatrixMut<'_, f32>) -> Result<(), Error> {
            Ok(Matrix::new(&[0.0_f32; 3], 2, 2).map(drop)?)
        }
    }

    #[test]
    fn the_error_of_a_layer_is_that_of_the_stack() {
        let x = [0.0_f32; 8];
        for layers in [vec![Box::new(Picky) as Box<dyn Layer<f32>>], vec![Box::new(Picky), Box::new(Picky)]] {
            let mut out = [0.0; 8];
            let out = MatrixMut::new(&mut out, 2, 4).expect("shape");
            let result = Sequential::new(layers).forward(Matrix::new(&x, 2, 4).expect("shape"), out);
            assert_eq!(result, Matrix::new(&[0.0_f32; 3], 2, 2).map(drop).map_err(Error::Shape));
        }
    }
}

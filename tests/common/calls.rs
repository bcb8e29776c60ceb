//! Every public function of the crate, on operands of its own, in the shapes that are computed in a way of their own: for
//! tests of what must hold for each of them.
#![allow(unsafe_code, reason = "the outs of a batch are handed over again and again")]
#![allow(dead_code, reason = "each test binary uses a part")]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use polyglot_bridge::{
    Activation, AttentionMask, AttentionOptions, Compute, Epilogue, Error, Float, Mask, Matrix, MatrixMut,
    PackedLinear, Residual, ShapeError, activate, activate_in_place, add_layer_norm, add_layer_norm_in_place,
    attention, attention_batch, dropout_add, dropout_add_in_place, embedding, embedding_wide, gelu, gelu_in_place,
    gelu_tanh, gelu_tanh_in_place, l2_normalize, l2_normalize_in_place, layer_norm, layer_norm_in_place, linear,
    log_softmax, log_softmax_in_place, map, map_in_place, matmul, matmul_batch, mean_pool, num_threads, pack_constant,
    relu, relu_in_place, rms_norm, rms_norm_in_place, scale, scale_in_place, sigmoid, sigmoid_in_place, silu,
    silu_in_place, softmax, softmax_in_place, sum_of_squares, tanh, tanh_in_place, thread_source, with_threads,
};

use crate::common::{Random, Storage, to_f64};

/// A call whose results are left in memory of its own.
pub(crate) trait Call: Send {
    /// What is called, and on what.
    fn name(&self) -> &str;
    /// The functions that are called, as `file::function`.
    fn functions(&self) -> &'static [&'static str];
    /// Undoes a call.
    fn reset(&mut self);
    /// Calls. Allocates nothing itself.
    fn run(&mut self) -> Result<(), Error>;
    /// The results, bit for bit.
    fn bits(&self) -> Vec<u64>;
}

struct Of<T, F> {
    name: String,
    functions: &'static [&'static str],
    before: Vec<T>,
    out: Vec<T>,
    run: F,
}

impl<T: Float, F: FnMut(&mut [T]) -> Result<(), Error> + Send> Call for Of<T, F> {
    fn name(&self) -> &str {
        &self.name
    }

    fn functions(&self) -> &'static [&'static str] {
        self.functions
    }

    fn reset(&mut self) {
        self.out.copy_from_slice(&self.before);
    }

    fn run(&mut self) -> Result<(), Error> {
        (self.run)(&mut self.out)
    }

    fn bits(&self) -> Vec<u64> {
        self.out.iter().map(|&value| to_f64(value).to_bits()).collect()
    }
}

pub(crate) type Calls = Vec<Box<dyn Call>>;

fn call<T: Float>(
    calls: &mut Calls,
    name: &str,
    functions: &'static [&'static str],
    before: Vec<T>,
    run: impl FnMut(&mut [T]) -> Result<(), Error> + Send + 'static,
) {
    let out = before.clone();
    calls.push(Box::new(Of { name: format!("{} of {name}", functions[0]), functions, before, out, run }));
}

fn numbers<T: Float>(len: usize, seed: u64) -> Vec<T> {
    Random::new(seed).normals(len)
}

/// How a matrix of (rows, columns) lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    Rows,
    /// The transpose of rows.
    Columns,
    /// Rows so far apart that the matrix does not fit a cache.
    Far,
}

/// A matrix that owns its numbers.
struct Owned<T> {
    numbers: Vec<T>,
    rows: usize,
    cols: usize,
    lie: Lie,
}

impl<T: Float> Owned<T> {
    fn new((rows, cols): (usize, usize), lie: Lie, seed: u64) -> Self {
        let mut this = Self { numbers: Vec::new(), rows, cols, lie };
        let dense = numbers::<T>(rows * cols, seed);
        this.numbers = match lie {
            Lie::Rows | Lie::Columns => dense,
            Lie::Far => {
                let stride = this.stride();
                let mut numbers = vec![T::ZERO; rows * stride];
                for (target, row) in numbers.chunks_mut(stride).zip(dense.chunks(cols)) {
                    target[..cols].copy_from_slice(row);
                }
                numbers
            }
        };
        this
    }

    fn stride(&self) -> usize {
        match self.lie {
            Lie::Far => self.cols.max((17 << 20) / size_of::<T>() / self.rows),
            _ => self.cols,
        }
    }

    fn view(&self) -> Matrix<'_, T> {
        match self.lie {
            Lie::Columns => Matrix::new(&self.numbers, self.cols, self.rows).expect("shape").transpose(),
            _ => Matrix::with_strides(&self.numbers, self.rows, self.cols, self.stride(), 1).expect("shape"),
        }
    }
}

/// Operations on the elements and the rows of a matrix, in place as well.
pub(crate) fn row_operations<T: Storage>(calls: &mut Calls, (rows, cols): (usize, usize), lie: Lie) {
    let name = format!("{} {rows}x{cols} {lie:?}", T::NAME);
    let len = rows * cols;
    let eps = T::Acc::from_f64(1e-5);
    let matrix = move |seed| Owned::<T>::new((rows, cols), lie, seed);
    macro_rules! apart {
        ($functions:expr, |$x:ident, $out:ident| $run:expr) => {{
            let x = matrix(1);
            call(calls, &name, &$functions, vec![T::ZERO; len], move |out| {
                let ($x, $out) = (x.view(), MatrixMut::new(out, rows, cols)?);
                Ok($run?)
            });
        }};
    }
    macro_rules! in_place {
        ($functions:expr, |$x:ident| $run:expr) => {
            call(calls, &name, &$functions, numbers::<T>(len, 1), move |out| {
                let $x = MatrixMut::new(out, rows, cols)?;
                Ok($run?)
            });
        };
    }
    apart!(["softmax::softmax"], |x, out| softmax(x, out));
    in_place!(["softmax::softmax_in_place"], |x| softmax_in_place(x));
    apart!(["softmax::log_softmax"], |x, out| log_softmax(x, out));
    in_place!(["softmax::log_softmax_in_place"], |x| log_softmax_in_place(x));
    let (weight, bias) = (numbers::<T>(cols, 3), numbers::<T>(cols, 4));
    let affine = weight.clone();
    apart!(["layer_norm::layer_norm"], |x, out| layer_norm(x, Some(&weight), Some(&bias), eps, out));
    in_place!(["layer_norm::layer_norm_in_place"], |x| layer_norm_in_place(x, None, Some(&affine), eps));
    apart!(["layer_norm::rms_norm"], |x, out| rms_norm(x, None, eps, out));
    in_place!(["layer_norm::rms_norm_in_place"], |x| rms_norm_in_place(x, None, eps));
    apart!(["layer_norm::l2_normalize"], |x, out| l2_normalize(x, out));
    in_place!(["layer_norm::l2_normalize_in_place"], |x| l2_normalize_in_place(x));
    let (one, other) = (matrix(2), matrix(2));
    apart!(["layer_norm::add_layer_norm"], |x, out| add_layer_norm(x, one.view(), None, None, eps, out));
    in_place!(["layer_norm::add_layer_norm_in_place"], |x| {
        add_layer_norm_in_place(x, other.view(), None, None, eps)
    });
    let (one, other) = (matrix(2), matrix(2));
    let select: Vec<bool> = one.numbers.iter().take(len).map(|&value| to_f64(value) > 0.0).collect();
    apart!(["dropout_add::dropout_add"], |x, out| {
        dropout_add(x, one.view(), Mask::from(Matrix::new(&select, rows, cols)?), eps, out)
    });
    in_place!(["dropout_add::dropout_add_in_place"], |x| {
        dropout_add_in_place(x, other.view(), Mask::Multiply(other.view()), eps)
    });
    apart!(["map::scale"], |x, out| scale(x, eps, out));
    in_place!(["map::scale_in_place"], |x| scale_in_place(x, eps));
    apart!(["map::map"], |x, out| map(x, out, |x| x));
    in_place!(["map::map_in_place"], |x| map_in_place(x, |x| x));
    for activation in Activation::ALL {
        apart!(["activation::activate", "activation::name"], |x, out| activate(activation, x, out));
        in_place!(["activation::activate_in_place", "activation::from_name"], |x| {
            activate_in_place(Activation::from_name(activation.name()).unwrap_or(Activation::None), x)
        });
    }
    apart!(["activation::relu"], |x, out| relu(x, out));
    in_place!(["activation::relu_in_place"], |x| relu_in_place(x));
    apart!(["activation::sigmoid"], |x, out| sigmoid(x, out));
    in_place!(["activation::sigmoid_in_place"], |x| sigmoid_in_place(x));
    apart!(["activation::tanh"], |x, out| tanh(x, out));
    in_place!(["activation::tanh_in_place"], |x| tanh_in_place(x));
    apart!(["activation::silu"], |x, out| silu(x, out));
    in_place!(["activation::silu_in_place"], |x| silu_in_place(x));
    apart!(["activation::gelu"], |x, out| gelu(x, out));
    in_place!(["activation::gelu_in_place"], |x| gelu_in_place(x));
    apart!(["activation::gelu_tanh"], |x, out| gelu_tanh(x, out));
    in_place!(["activation::gelu_tanh_in_place"], |x| gelu_tanh_in_place(x));

    let x = matrix(1);
    call(calls, &name, &["reduce::sum_of_squares"], vec![0.0_f64], move |out| {
        out[0] = sum_of_squares(x.view());
        Ok(())
    });
    let (x, sequences) = (matrix(1), if rows.is_multiple_of(3) { 3 } else { 1 });
    let keep: Vec<bool> = (0..rows).map(|row| row % 5 != 1).collect();
    call(calls, &name, &["pool::mean_pool"], vec![T::ZERO; sequences * cols], move |out| {
        let mask = Matrix::new(&keep, sequences, rows / sequences)?;
        Ok(mean_pool(x.view(), Some(mask), MatrixMut::new(out, sequences, cols)?)?)
    });
    let (one, other) = (matrix(1), matrix(2));
    let ids: Vec<usize> = (0..rows).map(|row| (row * 7) % rows).collect();
    let others = ids.clone();
    call(calls, &name, &["embedding::embedding"], vec![T::ZERO; len], move |out| {
        Ok(embedding(&[(one.view(), &ids), (other.view(), &ids)], MatrixMut::new(out, rows, cols)?)?)
    });
    let table = matrix(1);
    call(calls, &name, &["embedding::embedding_wide"], vec![T::Acc::ZERO; len], move |out| {
        Ok(embedding_wide(&[(table.view(), &others)], MatrixMut::new(out, rows, cols)?)?)
    });
}

/// (rows, steps, columns), how x and how the weight lie.
pub(crate) type Product = ((usize, usize, usize), Lie, Lie);

/// Products in each way there is to compute one.
pub(crate) const PRODUCTS: [Product; 24] = [
    ((1, 64, 32), Lie::Rows, Lie::Rows),
    ((1, 1, 1), Lie::Rows, Lie::Rows),
    ((1, 700, 1), Lie::Rows, Lie::Columns),
    ((40, 33, 1), Lie::Rows, Lie::Rows),
    ((40, 700, 1), Lie::Columns, Lie::Rows),
    ((1, 600, 300), Lie::Rows, Lie::Columns),
    ((1, 30, 2100), Lie::Rows, Lie::Rows),
    ((3, 600, 160), Lie::Rows, Lie::Rows),
    ((2, 9, 2100), Lie::Columns, Lie::Rows),
    ((4, 260, 1030), Lie::Rows, Lie::Far),
    ((1, 260, 1030), Lie::Rows, Lie::Far),
    ((16, 200, 530), Lie::Rows, Lie::Far),
    ((5, 520, 300), Lie::Rows, Lie::Columns),
    ((13, 530, 700), Lie::Rows, Lie::Columns),
    ((16, 530, 700), Lie::Columns, Lie::Rows),
    ((37, 129, 65), Lie::Rows, Lie::Rows),
    ((60, 520, 70), Lie::Rows, Lie::Columns),
    ((330, 40, 300), Lie::Columns, Lie::Columns),
    ((1100, 40, 40), Lie::Rows, Lie::Columns),
    ((1100, 3, 7), Lie::Columns, Lie::Rows),
    ((250, 30, 300), Lie::Rows, Lie::Far),
    ((2, 0, 5), Lie::Rows, Lie::Rows),
    ((3, 4, 0), Lie::Rows, Lie::Rows),
    ((0, 3, 4), Lie::Rows, Lie::Rows),
];

/// The outs of a batch, which are handed over more than once.
#[derive(Clone, Copy)]
pub(crate) struct Outs<T>(pub(crate) *mut T);

// SAFETY: used as a mutable borrow by one call, which gives each out to one thread.
unsafe impl<T> Send for Outs<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Outs<T> {}

impl<T: Float> Outs<T> {
    /// # Safety
    ///
    /// So many numbers from `start` on are there, and no two matrices that are used at once overlap.
    pub(crate) unsafe fn matrix<'a>(self, start: usize, rows: usize, cols: usize) -> MatrixMut<'a, T> {
        // SAFETY: the caller's promise.
        unsafe { MatrixMut::from_raw_parts(self.0.add(start), rows, cols, cols) }
    }
}

pub(crate) fn products<T: Storage>(calls: &mut Calls, all: &[Product]) {
    const LINEAR: &[&str] =
        &["linear::linear", "linear::new", "linear::bias", "linear::residual", "linear::activation"];
    for &((m, k, n), of_x, of_weight) in all {
        let name = format!("{} {m}x{k}x{n} {of_x:?} {of_weight:?}", T::NAME);
        let x = move || Owned::<T>::new((m, k), if m * k == 0 { Lie::Rows } else { of_x }, 1);
        let weight = Arc::new(Owned::<T>::new((k, n), if k * n == 0 { Lie::Rows } else { of_weight }, 2));
        let (a, b) = (x(), weight.clone());
        call(calls, &name, &["matmul::matmul"], vec![T::ZERO; m * n], move |out| {
            matmul(a.view(), b.view(), MatrixMut::new(out, m, n)?)
        });
        let (a, b, bias) = (x(), weight.clone(), numbers::<T>(n, 3));
        call(calls, &name, LINEAR, numbers::<T>(m * n, 4), move |out| {
            let epilogue = Epilogue::new().bias(&bias[..]).residual(Residual::Out).activation(Activation::Gelu);
            linear(a.view(), b.view(), epilogue, MatrixMut::new(out, m, n)?)
        });
        // Two of them, and a small one last.
        let (a, b, small) = (x(), weight, Owned::<T>::new((3, 3), Lie::Rows, 5));
        call(calls, &name, &["matmul::matmul_batch"], vec![T::ZERO; 2 * m * n + 9], move |out| {
            let outs = Outs(out.as_mut_ptr());
            matmul_batch(3, |item| {
                let (a, b, rows, cols) =
                    if item < 2 { (a.view(), b.view(), m, n) } else { (small.view(), small.view(), 3, 3) };
                // SAFETY: the outs lie in `out`, one after the other.
                (a, b, unsafe { outs.matrix(item * m * n, rows, cols) })
            })
        });
    }
}

/// (queries, keys, head size, value size), whether causal and what mask.
pub(crate) type Head = ((usize, usize, usize, usize), bool, Hides);

#[derive(Clone, Copy, Debug)]
pub(crate) enum Hides {
    Nothing,
    /// The same keys from all queries.
    Keys,
    /// Keys from each query.
    Scores,
    /// Nothing, but adds to scores.
    Adds,
}

pub(crate) const HEADS: [Head; 7] = [
    ((1, 64, 64, 64), false, Hides::Nothing),
    ((40, 300, 24, 40), true, Hides::Scores),
    ((300, 20, 8, 9), false, Hides::Keys),
    ((25, 530, 33, 7), true, Hides::Adds),
    ((2, 2, 3000, 3), false, Hides::Nothing),
    ((3, 0, 4, 5), false, Hides::Nothing),
    ((0, 3, 4, 5), false, Hides::Nothing),
];

pub(crate) fn attentions<T: Storage>(calls: &mut Calls, all: &[Head]) {
    const ATTENTION: &[&str] = &["attention::attention", "head::new", "head::causal", "head::mask"];
    const BATCH: &[&str] = &["attention::attention_batch", "head::scale"];
    for &((queries, keys, size, values), causal, hides) in all {
        let name = format!("{} {queries}x{keys}x{size}x{values} {causal} {hides:?}", T::NAME);
        let operands = move || {
            let of = |rows, cols, seed| Owned::<T>::new((rows, cols), Lie::Rows, seed);
            [of(queries, size, 1), of(keys, size, 2), of(keys, values, 3), of(queries, keys, 4)]
        };
        let kept: Vec<bool> = (0..queries.max(1) * keys).map(|index| index % 3 != 1).collect();
        let selected = kept.clone();
        let ([q, k, v, added], hidden) = (operands(), kept);
        call(calls, &name, ATTENTION, vec![T::ZERO; queries * values], move |out| {
            let options = AttentionOptions::new().causal(causal).mask(mask(hides, &hidden, &added)?);
            attention(q.view(), k.view(), v.view(), options, MatrixMut::new(out, queries, values)?)
        });
        let ([q, k, v, added], hidden) = (operands(), selected);
        call(calls, &name, BATCH, vec![T::ZERO; 3 * queries * values], move |out| {
            let outs = Outs(out.as_mut_ptr());
            let options = AttentionOptions::new().causal(causal).mask(mask(hides, &hidden, &added)?);
            attention_batch(3, |item| {
                // SAFETY: the outs lie in `out`, one after the other.
                let out = unsafe { outs.matrix(item * queries * values, queries, values) };
                ([q.view(), k.view(), v.view()], options.scale(T::Acc::from_f64(0.5)), out)
            })
        });
    }
}

fn mask<'a, T: Float>(hides: Hides, kept: &'a [bool], added: &'a Owned<T>) -> Result<AttentionMask<'a, T>, ShapeError> {
    let (queries, keys) = (added.rows, added.cols);
    Ok(match hides {
        Hides::Nothing => AttentionMask::None,
        Hides::Keys => Matrix::new(kept, 1, keys)?.into(),
        Hides::Scores => Matrix::new(kept, queries, keys)?.into(),
        Hides::Adds => AttentionMask::Add(added.view()),
    })
}

/// What needs no operation: views, options, and what there is to ask.
pub(crate) fn views<T: Storage>(calls: &mut Calls) {
    const VIEWS: &[&str] = &[
        "matrix::new",
        "matrix::with_strides",
        "matrix::from_raw_parts",
        "matrix::rows",
        "matrix::cols",
        "matrix::shape",
        "matrix::row_stride",
        "matrix::col_stride",
        "matrix::as_ptr",
        "matrix::transpose",
        "matrix::get",
        "matrix::row",
        "matrix::has_contiguous_rows",
        "matrix::as_slice",
        "matrix::block",
        "matrix::with_stride",
        "matrix::as_mut_ptr",
        "matrix::as_matrix",
        "matrix::reborrow",
        "matrix::row_mut",
        "count::num_threads",
        "count::thread_source",
        "count::with_threads",
        "count::set_num_threads",
    ];
    let x = numbers::<T>(12, 1);
    call(calls, T::NAME, VIEWS, vec![T::ZERO; 12], move |out| {
        let view = Matrix::with_strides(&x, 3, 4, 4, 1)?.transpose();
        // SAFETY: the same twelve numbers.
        let view = unsafe { Matrix::from_raw_parts(view.as_ptr(), 4, 3, view.row_stride(), view.col_stride()) };
        let mut target = MatrixMut::with_stride(out, 3, 4, 4)?;
        let of_target = target.reborrow().as_mut_ptr();
        // SAFETY: the same twelve numbers.
        let mut target =
            unsafe { MatrixMut::from_raw_parts(of_target, target.rows(), target.cols(), target.row_stride()) };
        let all = view.transpose().as_slice().map_or(0, <[T]>::len) + target.as_matrix().shape().0;
        let is_right = all == 15 && !view.has_contiguous_rows() && view.row(0).is_none();
        for row in 0..view.cols() {
            let part = view.block(0..view.rows(), row..row + 1);
            for (col, target) in target.row_mut(row).into_iter().flatten().enumerate() {
                *target = part.get(col, 0).filter(|_| is_right).unwrap_or(T::ZERO);
            }
        }
        #[cfg(feature = "parallel")]
        polyglot_bridge::set_num_threads(0);
        with_threads(1, || (num_threads(), thread_source()));
        Ok(())
    });
}

/// Layers, of constants and of a caller's buffer.
pub(crate) fn layers<T: Storage>(calls: &mut Calls) {
    const WEIGHT: [[f32; 3]; 2] = [[1.0, 0.0, -3.0], [0.0, 1.0, 0.0]];
    static PANELS: [f32; 32] = pack_constant(&WEIGHT);
    call(calls, "a constant", &["packed_linear::pack_constant"], vec![0.0_f32; 3], |out| {
        let layer = PackedLinear::from_packed(&PANELS, (2, 3), None, Activation::Relu)?;
        layer.forward(&[1.0, 2.0], Residual::None, out)
    });
    for (m, k, n) in [(1, 64, 32), (7, 600, 40), (60, 40, 300), (40, 20, 1), (3, 0, 9), (400, 530, 33)] {
        const FORWARD: &[&str] = &[
            "packed_linear::forward",
            "packed_linear::from_packed",
            "packed_linear::required_len",
            "packed_linear::pack_into",
            "packed_linear::activation",
            "packed_linear::bias",
            "packed_linear::in_features",
            "packed_linear::out_features",
            "packed_linear::nbytes",
            "packed_linear::panels",
        ];
        let name = format!("{} {m}x{k}x{n}", T::NAME);
        let (x, weight) = (numbers::<T>(m * k, 1), Owned::<T>::new((k, n), Lie::Rows, 2));
        let mut panels = vec![T::ZERO; PackedLinear::<T>::required_len(k, n).expect("few")];
        let wide: Vec<T::Acc> = x.iter().map(|value| value.to_acc()).collect();
        let packed = {
            PackedLinear::<T>::pack_into(&mut panels, weight.view()).expect("shape");
            panels.clone()
        };
        call(calls, &name, FORWARD, vec![T::ZERO; m * n], move |out| {
            PackedLinear::<T>::pack_into(&mut panels, weight.view())?;
            let layer = PackedLinear::<T>::from_packed(&panels, (k, n), None, Activation::Silu)?;
            let size = layer.nbytes() / size_of::<T>() - layer.panels().len();
            let asked =
                (layer.in_features(), layer.out_features(), layer.activation(), layer.bias().map_or(0, <[_]>::len));
            let out = MatrixMut::new(out, m + size, n)?;
            if asked == (k, n, Activation::Silu, 0) {
                layer.forward(Matrix::new(&x, m, k)?, Residual::None, out)?;
            }
            Ok(())
        });
        let panels = packed.clone();
        call(calls, &name, &["packed_linear::forward_wide"], vec![T::Acc::ZERO; m * n], move |out| {
            let layer = PackedLinear::<T>::from_packed(&panels, (k, n), None, Activation::Relu)?;
            layer.forward_wide(Matrix::new(&wide, m, k)?, Residual::None, MatrixMut::new(out, m, n)?)
        });
        call(calls, &name, &["packed_linear::unpack"], vec![T::ZERO; k * n], move |out| {
            let layer = PackedLinear::<T>::from_packed(&packed, (k, n), None, Activation::Relu)?;
            Ok(layer.unpack(MatrixMut::new(out, k, n)?)?)
        });
    }
    #[cfg(feature = "std")]
    with_std::layers::<T>(calls);
}

#[cfg(feature = "std")]
mod with_std {
    use polyglot_bridge::{Layer, RowOperation, Sequential, Wide};

    use super::*;

    const SEQUENTIAL: &[&str] = &["sequential::forward", "sequential::new", "sequential::out_features"];

    pub(super) fn layers<T: Storage>(calls: &mut Calls) {
        for (k, n) in [(64, 32), (600, 40), (0, 9)] {
            let name = format!("{} {k}x{n}", T::NAME);
            let (weight, bias) = (Owned::<T>::new((k, n), Lie::Columns, 2), numbers::<T>(n, 3));
            let layer = PackedLinear::<T>::new(weight.view(), Some(&bias), Activation::None).expect("shapes fit");
            let len = layer.panels().len();
            call(calls, &name, &["packed_linear::new"], vec![T::ZERO; len], move |out| {
                let layer = PackedLinear::<T>::new(weight.view(), Some(&bias), Activation::None)?;
                out.copy_from_slice(layer.panels());
                Ok(())
            });
            call(calls, &name, &["packed_linear::try_clone"], vec![T::ZERO; len], move |out| {
                out.copy_from_slice(layer.try_clone()?.panels());
                Ok(())
            });
        }
        let packed = |k: usize, n: usize| {
            let (weight, bias) = (Owned::<T>::new((k, n), Lie::Rows, 2), numbers::<T>(n, 3));
            Box::new(PackedLinear::<T>::new(weight.view(), Some(&bias), Activation::Gelu).expect("shapes fit"))
        };
        let eps = T::Acc::from_f64(1e-5);
        let network = || -> Vec<Box<dyn Layer<T>>> {
            let norm = RowOperation::LayerNorm { weight: Some(numbers::<T>(700, 4)), bias: None, eps };
            vec![
                packed(30, 700),
                Box::new(norm),
                packed(700, 520),
                Box::new(RowOperation::Activation(Activation::Silu)),
                packed(520, 1),
                packed(1, 30),
                Box::new(RowOperation::RmsNorm { weight: None, eps }),
                Box::new(RowOperation::Softmax),
            ]
        };
        let stacks = [
            (1, network(), 30, 30),
            (100, network(), 30, 30),
            (60, vec![packed(30, 40) as Box<dyn Layer<T>>], 30, 40),
            (3, Vec::new(), 5, 5),
            (50, vec![Box::new(RowOperation::LogSoftmax) as Box<dyn Layer<T>>], 5000, 5000),
        ];
        for (rows, layers, k, n) in stacks {
            let name = format!("{} {rows} rows, {} layers, {k} columns", T::NAME, layers.len());
            let (stack, x) = (Sequential::new(layers), numbers::<T>(rows * k, 1));
            call(calls, &name, SEQUENTIAL, vec![T::ZERO; rows * n], move |out| {
                let n = stack.out_features(k)?;
                stack.forward(Matrix::new(&x, rows, k)?, MatrixMut::new(out, rows, n)?)
            });
        }
        let wide: Vec<Box<dyn Layer<T::Acc>>> =
            vec![Box::new(Wide(*packed(30, 300))), Box::new(Wide(*packed(300, 20)))];
        let (stack, x) = (Sequential::new(wide), numbers::<T::Acc>(70 * 30, 1));
        let name = format!("{}, around narrow weights", T::NAME);
        call(calls, &name, &["sequential::forward"], vec![T::Acc::ZERO; 70 * 20], move |out| {
            stack.forward(Matrix::new(&x, 70, 30)?, MatrixMut::new(out, 70, 20)?)
        });
    }
}

/// All of them, for one storage type.
pub(crate) fn all<T: Storage>() -> Calls {
    let mut calls = Calls::new();
    for (shape, lie) in
        [((1, 9), Lie::Rows), ((6, 40), Lie::Columns), ((3, 2500), Lie::Rows), ((2, 5000), Lie::Columns)]
    {
        row_operations::<T>(&mut calls, shape, lie);
    }
    products::<T>(&mut calls, &PRODUCTS);
    attentions::<T>(&mut calls, &HEADS);
    layers::<T>(&mut calls);
    views::<T>(&mut calls);
    calls
}

/// [`all`] of every storage type.
pub(crate) fn of_all_types() -> Calls {
    let mut calls = all::<f32>();
    calls.extend(all::<f64>());
    #[cfg(feature = "f16")]
    calls.extend(all::<half::f16>());
    #[cfg(feature = "f16")]
    calls.extend(all::<half::bf16>());
    calls
}

/// Public functions that no call has, and why not.
const NOT_CALLED: [(&str, &str); 11] = [
    ("math::exp", "arithmetic in registers"),
    ("math::exp_nonpositive", "arithmetic in registers"),
    ("math::sigmoid", "arithmetic in registers"),
    ("math::silu", "arithmetic in registers"),
    ("math::tanh", "arithmetic in registers"),
    ("math::erf", "arithmetic in registers"),
    ("math::gelu", "arithmetic in registers"),
    ("math::gelu_tanh", "arithmetic in registers"),
    ("logarithm::ln", "arithmetic in registers"),
    ("simd::level", "one load"),
    ("simd::set_level", "one store"),
];

/// The public functions that neither a call nor [`NOT_CALLED`] has, and what these have that is none.
pub(crate) fn forgotten(calls: &Calls) -> Vec<String> {
    let mut public = Vec::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut public);
    let mut known: Vec<&str> = calls.iter().flat_map(|call| call.functions()).copied().collect();
    known.extend(NOT_CALLED.map(|(function, _)| function));
    let is_known = |function: &&String| !known.contains(&function.as_str());
    let mut forgotten: Vec<String> = public.iter().filter(is_known).cloned().collect();
    // Those that a macro writes are in no source, but in the list of what the crate gives.
    let given =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).expect("the crate's source");
    for list in given.split("pub use ").skip(1).filter_map(|text| text.split(';').next()) {
        let list = list.split_once('{').map_or_else(|| list.rsplit("::").next().unwrap_or(list), |(_, list)| list);
        for name in list.split(['}', ',', ' ', '\n']).filter(|name| name.starts_with(char::is_lowercase)) {
            if !known.iter().any(|known| known.rsplit("::").next() == Some(name)) {
                forgotten.push(name.to_string());
            }
        }
    }
    forgotten
}

/// `file::function` of each public function of a folder but for the Python module, whose functions Python calls.
fn read(folder: &Path, public: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("the crate's sources").flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("python") {
            read(&path, public);
        }
        if path.extension().is_some_and(|extension| extension == "rs") {
            // A folder's own file has its name.
            let named = if path.ends_with("mod.rs") { folder } else { path.as_path() };
            let file = named.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            for line in fs::read_to_string(&path).expect("a source").lines().map(str::trim) {
                let function =
                    ["pub fn ", "pub const fn ", "pub unsafe fn "].iter().find_map(|start| line.strip_prefix(start));
                if let Some(name) =
                    function.and_then(|rest| rest.split(['(', '<']).next()).filter(|name| !name.starts_with('$'))
                {
                    public.push(format!("{file}::{name}"));
                }
            }
        }
    }
}

//! `linear` on arrays of any number of dimensions, and its old names; what it shares with layers that own their
//! weights. The kernels are in `gemm`.

use std::format;
use std::ops::Deref;
use std::string::String;
use std::vec::Vec;

use numpy::npyffi::npy_intp;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyStringMethods};

use super::arrays::{Array, Dtype, NdArray, for_dtype, take_all};
use super::errors::{Shape, wrong_dtype, wrong_shape};
use super::layout::{Block, OPERANDS, Plan};
use super::modern::{Object, Returned};
use super::operations::Vector;
use super::output::Output;
use super::rowwise::{Addresses, KEEP_GIL, released};
use crate::error::Error;
use crate::float::Float;
use crate::gemm::problem::Residual;
use crate::math::activation::Activation;
use crate::ops::linear::Epilogue;

/// What one multiplication and addition takes on one core, in nanoseconds, roughly.
pub(super) const COST: f32 = 0.02;
/// Blocks of fewer rows than this are not worth a product of their own: the input is copied together first.
const FEW_ROWS: usize = 32;
/// The most dimensions a NumPy array has.
const MOST_DIMS: usize = 64;

/// The name a function was called by, those of its arguments, and whether it takes float32 only.
#[derive(Clone, Copy)]
pub(super) struct Names {
    op: &'static str,
    x: &'static str,
    weight: &'static str,
    only_f32: bool,
}

impl Names {
    const fn legacy(op: &'static str, only_f32: bool) -> Self {
        Self { op, x: "input", weight: "weights", only_f32 }
    }

    fn check(self, dtype: Dtype) -> PyResult<()> {
        if self.only_f32 && dtype != Dtype::F32 {
            return Err(wrong_dtype(self.op, self.x, dtype.name(), "float32"));
        }
        Ok(())
    }
}

/// The activation of this name.
pub(super) fn activation_of(op: &str, name: Option<&Bound<'_, PyAny>>) -> PyResult<Activation> {
    let Some(name) = name else { return Ok(Activation::None) };
    let text = name.cast::<PyString>().ok().map(PyStringMethods::to_cow).transpose()?;
    match text.as_deref().and_then(Activation::from_name) {
        Some(activation) if activation != Activation::None => Ok(activation),
        _ => {
            let names: Vec<&str> = Activation::ALL[1..].iter().map(|activation| activation.name()).collect();
            let names = names.join("\", \"");
            let found = name.repr()?;
            Err(PyValueError::new_err(format!("{op}: activation must be None or one of \"{names}\", not {found}")))
        }
    }
}

/// What is added to a product before its activation.
#[derive(Clone, Copy)]
pub(super) enum Added {
    Nothing,
    /// The elements of this block.
    Block(Block),
    /// What the output held before.
    Out,
}

impl Added {
    /// # Safety
    ///
    /// As for [`Block::matrix`].
    pub(super) unsafe fn residual<'a, T: Float>(&self) -> Residual<'a, T> {
        match self {
            Self::Nothing => Residual::None,
            Self::Out => Residual::Out,
            // SAFETY: the caller's promise.
            Self::Block(block) => Residual::Matrix(unsafe { block.matrix::<T>() }),
        }
    }
}

/// What turns rows of k values into rows of n values: a weight with a bias and an activation, packed or not.
pub(super) trait Layer: Sync {
    /// Computes `out`, of n columns, from `x`, of k columns.
    ///
    /// # Safety
    ///
    /// The blocks lie in live arrays of `dtype`; nothing but `added` shares memory with `out`.
    unsafe fn run(&self, dtype: Dtype, x: &Block, added: Added, out: &Block) -> Result<(), Error>;

    /// How many multiplications a row takes, roughly.
    #[inline]
    fn work(&self, k: npy_intp, n: npy_intp) -> f32 {
        k as f32 * n as f32
    }
}

/// A weight as the caller passed it.
struct Plain {
    weight: Block,
    bias: Option<Vector>,
    activation: Activation,
}

impl Layer for Plain {
    #[inline]
    unsafe fn run(&self, dtype: Dtype, x: &Block, added: Added, out: &Block) -> Result<(), Error> {
        // SAFETY: the caller's promise; weight and bias are of this dtype too, and alive during the call.
        for_dtype!(dtype, T => unsafe {
            let bias = self.bias.map(|bias| bias.slice::<T>());
            let epilogue = Epilogue::new().bias(bias).residual(added.residual::<T>()).activation(self.activation);
            crate::linear(x.matrix::<T>(), self.weight.matrix::<T>(), epilogue, out.matrix_mut::<T>())
        })
    }
}

/// `activation(x @ weight + bias + residual)`, by any of its names.
fn product<'py>(
    names: Names,
    [x, weight, bias, residual]: [Option<Object<'_, 'py>>; 4],
    activation: Activation,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let arguments = [(names.x, x), (names.weight, weight), ("bias", bias), ("residual", residual)];
    let ([Some(x), Some(weight), mut bias, residual], dtype) = take_all(names.op, arguments)? else {
        return Err(PyValueError::new_err("an array is missing"));
    };
    names.check(dtype)?;
    let &[k, n] = weight.shape() else {
        let (op, name, shape) = (names.op, names.weight, Shape(weight.shape()));
        return Err(PyValueError::new_err(format!("{op}: {name} has shape {shape}, expected two dimensions")));
    };
    if x.shape().last() != Some(&k) {
        return Err(misfit(names, x.shape(), weight.shape()));
    }
    if let Some(array) = &mut bias {
        if array.shape() != [n] {
            let why = format!(", as {} has shape {}", names.weight, Shape(weight.shape()));
            return Err(wrong_shape(names.op, "bias", array.shape(), &[n], &why));
        }
        if !array.is_c_contiguous() {
            *array = array.contiguous()?;
        }
    }
    let layer = Plain { weight: block_of(&weight), bias: bias.as_ref().map(Vector::new), activation };
    let read = [Some(&*weight), bias.as_deref()];
    run(names.op, &layer, [k, n], x, residual, read, out)
}

#[cold]
fn misfit(names: Names, x: &[npy_intp], weight: &[npy_intp]) -> PyErr {
    let turned = matches!((x.last(), weight), (Some(last), [_, second]) if last == second);
    let hint =
        if turned { format!("; a weight of shape (out, in) is passed as {}.T", names.weight) } else { String::new() };
    let (op, x_name, weight_name) = (names.op, names.x, names.weight);
    let (x, weight) = (Shape(x), Shape(weight));
    PyValueError::new_err(format!(
        "{op}: {x_name} has shape {x} and {weight_name} has shape {weight}: the last dimension of {x_name} must be the \
         first of {weight_name}{hint}"
    ))
}

/// An array of two dimensions as a block.
pub(super) fn block_of(array: &NdArray<'_>) -> Block {
    match (array.shape(), array.strides()) {
        (&[rows, cols], &[row_stride, col_stride]) => {
            Block { data: array.data(), rows: rows.unsigned_abs(), cols: cols.unsigned_abs(), row_stride, col_stride }
        }
        _ => Block { data: array.data(), rows: 0, cols: 0, row_stride: 0, col_stride: 0 },
    }
}

/// A shape under construction, on the stack.
pub(super) struct Dims {
    dims: [npy_intp; MOST_DIMS],
    len: usize,
}

impl Dims {
    pub(super) fn new(op: &str, parts: [&[npy_intp]; 3]) -> PyResult<Self> {
        let mut shape = Self { dims: [0; MOST_DIMS], len: 0 };
        for &dim in parts.into_iter().flatten() {
            let Some(slot) = shape.dims.get_mut(shape.len) else {
                return Err(PyValueError::new_err(format!("{op}: the result has more than {MOST_DIMS} dimensions")));
            };
            *slot = dim;
            shape.len += 1;
        }
        Ok(shape)
    }
}

impl Deref for Dims {
    type Target = [npy_intp];

    fn deref(&self) -> &[npy_intp] {
        &self.dims[..self.len]
    }
}

/// Runs a layer on the rows of `x`, which are k long.
pub(super) fn run<'py, L: Layer>(
    op: &str,
    layer: &L,
    [k, n]: [npy_intp; 2],
    mut x: Array<'py>,
    mut residual: Option<Array<'py>>,
    also_read: [Option<&NdArray<'py>>; 2],
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let (py, dtype) = (x.py(), x.dtype());
    let shape = match x.shape() {
        [leading @ .., _] => Dims::new(op, [leading, &[n], &[]])?,
        [] => return Err(PyValueError::new_err(format!("{op}: x has shape (), expected one dimension or more"))),
    };
    if let Some(residual) = &residual
        && residual.shape() != &*shape
    {
        return Err(wrong_shape(op, "residual", residual.shape(), &shape, ", the shape of the result"));
    }
    let mut output = match out {
        None => Output::fresh(py, dtype, &shape)?,
        Some(out) => {
            let inputs = [residual.as_deref(), Some(&*x), also_read[0], also_read[1]];
            Output::given(op, out, dtype, &shape, &inputs, Some(shape.len() - 1))?
        }
    };
    if output.target().len() == 0 {
        return output.finish();
    }
    let item = dtype.size().cast_signed();
    let rows = output.target().len() / n.unsigned_abs();
    let small = rows as f32 * layer.work(k, n) * COST < KEEP_GIL;
    let dense = |array: &NdArray<'py>| array.is_c_contiguous();
    let mut plan = None;
    if !(dense(&x) && residual.as_deref().is_none_or(dense) && dense(output.target())) {
        let mut cut = cut(&x, residual.as_deref(), output.target(), n, item);
        if cut.blocks() > 1 && cut.block_rows() < FEW_ROWS {
            x = x.contiguous()?;
            residual = residual.map(|residual| residual.contiguous()).transpose()?;
            output.make_dense(dtype)?;
            cut = self::cut(&x, residual.as_deref(), output.target(), n, item);
        }
        plan = Some(cut);
    }
    let target = output.target();
    let has_residual = residual.is_some();
    let in_place = output.in_place();
    let data = [x.data(), residual.as_ref().unwrap_or(&x).data(), target.data(), target.data()];
    let body = move |blocks: &[Block; OPERANDS]| {
        let [x, residual, _, out] = blocks;
        let x = Block { cols: k.unsigned_abs(), ..*x };
        let added = match (has_residual, in_place) {
            (false, _) => Added::Nothing,
            (true, true) => Added::Out,
            (true, false) => Added::Block(*residual),
        };
        // SAFETY: blocks of arrays of this dtype, alive during the call; `out` is apart from what is read.
        unsafe { layer.run(dtype, &x, added, out) }
    };
    match plan {
        None => {
            let block = |data: *mut u8, cols: npy_intp| Block {
                data,
                rows,
                cols: cols.unsigned_abs(),
                row_stride: cols * item,
                col_stride: item,
            };
            let blocks = [block(data[0], k), block(data[1], n), block(data[2], n), block(data[3], n)];
            if small { body(&blocks) } else { released(py, move || body(&blocks)) }?;
        }
        Some(plan) => {
            let data = Addresses(data);
            let work = move || {
                let data = data;
                plan.for_each(data.0, body)
            };
            if small { work() } else { released(py, work) }?;
        }
    }
    output.finish()
}

/// The plan for rows of `x` (and of a residual) that become rows of `target`.
fn cut(x: &NdArray<'_>, residual: Option<&NdArray<'_>>, target: &NdArray<'_>, n: npy_intp, item: isize) -> Plan {
    let arrays = [x, residual.unwrap_or(target), target, target];
    let last = x.ndim() - 1;
    let strides = arrays.map(|array| &array.strides()[..last]);
    let across = arrays.map(|array| array.strides()[last]);
    let width = item.unsigned_abs();
    Plan::rows(&x.shape()[..last], &strides, n.unsigned_abs(), &across, OPERANDS - 1, width)
}

/// A linear layer: ``activation(x @ weight + bias + residual)``, in one pass.
///
/// Parameters
/// ----------
/// x : array_like
///     Of shape (..., in_features); float16, bfloat16, float32 or float64.
/// weight : array_like
///     Of shape (in_features, out_features) and any strides: a PyTorch weight of shape (out, in) is passed as
///     ``weight.T``, which copies nothing.
/// bias : array_like, optional
///     Of shape (out_features,).
/// activation : {"relu", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh"}, optional
///     Applied last; "gelu" is the exact one.
/// residual : array_like, optional
///     Of the shape of the result, added before the activation.
/// out : ndarray, optional
///     Where to write the result, of its shape and dtype; may be `residual` itself.
///
/// Returns
/// -------
/// ndarray
///     Of shape (..., out_features) and the dtype of `x`; `out` where that is given. float16 and bfloat16 are summed in
///     float32 and rounded once.
///
/// Raises
/// ------
/// TypeError
///     An argument is no array of floats, or they differ in dtype.
/// ValueError
///     Shapes do not fit, the activation is unknown, or `out` is read-only.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> x = np.array([[1.0, 2.0]])
/// >>> weight = np.array([[1.0, 0.0, -3.0], [0.0, 1.0, 0.0]])
/// >>> pb.linear(x, weight, np.array([0.5, 0.5, 0.5]), activation="relu")
/// array([[1.5, 2.5, 0. ]])
#[pyfunction]
#[pyo3(signature = (x, weight, bias=None, *, activation=None, residual=None, out=None))]
pub(super) fn linear<'py>(
    x: Object<'_, 'py>,
    weight: Object<'_, 'py>,
    bias: Option<Object<'_, 'py>>,
    activation: Option<Object<'_, 'py>>,
    residual: Option<Object<'_, 'py>>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let names = Names { op: "linear", x: "x", weight: "weight", only_f32: false };
    let activation = activation_of(names.op, activation)?;
    product(names, [Some(x), Some(weight), bias, residual], activation, out)
}

/// ``input @ weights + bias``: `linear`, as polyglot-bridge 0.2.0 called it.
///
/// Parameters
/// ----------
/// input : array_like
///     Of shape (..., in_features); float16, bfloat16, float32 or float64.
/// weights : array_like
///     Of shape (in_features, out_features) and any strides.
/// bias : array_like or None
///     Of shape (out_features,).
/// activation : {"relu", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh"}, optional
///     Applied last.
/// residual : array_like, optional
///     Of the shape of the result, added before the activation.
/// out : ndarray, optional
///     Where to write the result; may be `residual` itself.
///
/// Returns
/// -------
/// ndarray
///     Of shape (..., out_features) and the dtype of `input`.
///
/// See Also
/// --------
/// linear
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> pb.fused_linear(np.array([[1.0, 2.0]]), np.eye(2), np.array([0.5, -3.0]))
/// array([[ 1.5, -1. ]])
#[pyfunction]
#[pyo3(signature = (input, weights, bias, *, activation=None, residual=None, out=None))]
pub(super) fn fused_linear<'py>(
    input: Object<'_, 'py>,
    weights: Object<'_, 'py>,
    bias: Option<Object<'_, 'py>>,
    activation: Option<Object<'_, 'py>>,
    residual: Option<Object<'_, 'py>>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let names = Names::legacy("fused_linear", false);
    let activation = activation_of(names.op, activation)?;
    product(names, [Some(input), Some(weights), bias, residual], activation, out)
}

/// ``input @ weights + bias`` for float32 only: `linear` takes every dtype.
///
/// Parameters
/// ----------
/// input : ndarray of float32
///     Of shape (..., in_features).
/// weights : array_like
///     Of shape (in_features, out_features) and any strides.
/// bias : array_like or None
///     Of shape (out_features,).
/// activation : {"relu", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh"}, optional
///     Applied last.
/// residual : array_like, optional
///     Of the shape of the result, added before the activation.
/// out : ndarray, optional
///     Where to write the result; may be `residual` itself.
///
/// Returns
/// -------
/// ndarray of float32
///     Of shape (..., out_features); 0.2.0 returned it flattened.
///
/// See Also
/// --------
/// linear
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> pb.fused_linear_f32(np.ones((1, 2), np.float32), np.eye(2, dtype=np.float32), np.zeros(2, np.float32))
/// array([[1., 1.]], dtype=float32)
#[pyfunction]
#[pyo3(signature = (input, weights, bias, *, activation=None, residual=None, out=None))]
pub(super) fn fused_linear_f32<'py>(
    input: Object<'_, 'py>,
    weights: Object<'_, 'py>,
    bias: Option<Object<'_, 'py>>,
    activation: Option<Object<'_, 'py>>,
    residual: Option<Object<'_, 'py>>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let names = Names::legacy("fused_linear_f32", true);
    let activation = activation_of(names.op, activation)?;
    product(names, [Some(input), Some(weights), bias, residual], activation, out)
}

/// ``relu(input @ weights + bias)``: `linear`, as polyglot-bridge 0.2.0 called it.
///
/// Parameters
/// ----------
/// input : array_like
///     Of shape (..., in_features); float16, bfloat16, float32 or float64.
/// weights : array_like
///     Of shape (in_features, out_features) and any strides.
/// bias : array_like or None
///     Of shape (out_features,).
/// residual : array_like, optional
///     Of the shape of the result, added before the activation.
/// out : ndarray, optional
///     Where to write the result; may be `residual` itself.
///
/// Returns
/// -------
/// ndarray
///     Of shape (..., out_features) and the dtype of `input`.
///
/// See Also
/// --------
/// linear
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> pb.fused_linear_relu(np.array([[1.0, 2.0]]), np.eye(2), np.array([0.5, -3.0]))
/// array([[1.5, 0. ]])
#[pyfunction]
#[pyo3(signature = (input, weights, bias, *, residual=None, out=None))]
pub(super) fn fused_linear_relu<'py>(
    input: Object<'_, 'py>,
    weights: Object<'_, 'py>,
    bias: Option<Object<'_, 'py>>,
    residual: Option<Object<'_, 'py>>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let names = Names::legacy("fused_linear_relu", false);
    product(names, [Some(input), Some(weights), bias, residual], Activation::Relu, out)
}

/// ``relu(input @ weights + bias)`` for float32 only: `linear` takes every dtype.
///
/// Parameters
/// ----------
/// input : ndarray of float32
///     Of shape (..., in_features).
/// weights : array_like
///     Of shape (in_features, out_features) and any strides.
/// bias : array_like or None
///     Of shape (out_features,).
/// residual : array_like, optional
///     Of the shape of the result, added before the activation.
/// out : ndarray, optional
///     Where to write the result; may be `residual` itself.
///
/// Returns
/// -------
/// ndarray of float32
///     Of shape (..., out_features); 0.2.0 returned it flattened.
///
/// See Also
/// --------
/// linear
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> pb.fused_linear_relu_f32(-np.ones((1, 2), np.float32), np.eye(2, dtype=np.float32), np.zeros(2, np.float32))
/// array([[0., 0.]], dtype=float32)
#[pyfunction]
#[pyo3(signature = (input, weights, bias, *, residual=None, out=None))]
pub(super) fn fused_linear_relu_f32<'py>(
    input: Object<'_, 'py>,
    weights: Object<'_, 'py>,
    bias: Option<Object<'_, 'py>>,
    residual: Option<Object<'_, 'py>>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let names = Names::legacy("fused_linear_relu_f32", true);
    product(names, [Some(input), Some(weights), bias, residual], Activation::Relu, out)
}

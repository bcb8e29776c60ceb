//! The names of polyglot-bridge 0.2.0 for NumPy arrays, each a call of what has taken its place.

use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyInt};

use crate::math::activation::Activation;
use crate::python::arguments::Optional;
use crate::python::call::{Call, Names, Object, Returned, Signature};
use crate::python::dtype::for_dtype;
use crate::python::elementwise::{dropped, elementwise, scaled};
use crate::python::errors::{type_error, type_name};
use crate::python::launch;
use crate::python::linear;
use crate::python::linear::activation_of;
use crate::python::matmul;
use crate::python::rows::{LayerNorm, Softmax, normalise, rowwise};
use crate::python::strides::Plan;

/// What one element of a sum takes on one core, in nanoseconds, roughly.
const COST: f32 = 0.2;

/// A function of `arr`.
const ARR: &Names = &Names { x: "arr", ..Names::USUAL };
/// A function of `arr`, which is of float32.
const ARR_F32: &Names = &Names { only_f32: true, ..*ARR };
/// A matrix product.
const A: &Names = &Names { x: "a", ..Names::USUAL };
/// A matrix product in float32.
const A_F32: &Names = &Names { only_f32: true, ..*A };
/// A linear layer.
const INPUT: &Names = &Names { x: "input", weight: "weights", ..Names::USUAL };
/// A linear layer in float32.
const INPUT_F32: &Names = &Names { only_f32: true, ..*INPUT };

/// The sum of squares of an array, whatever its layout: read in place where that is one block of rows.
fn sum(signature: Signature, array: Object<'_, '_>) -> PyResult<f64> {
    let (op, call) = (signature.op, &Call::new(signature, [(signature.x, Some(array))])?);
    let (mut slot, mut dense) = (None, None);
    let mut array = call.take(array, &mut slot)?;
    let (len, dtype) = (array.len(), array.dtype());
    if len == 0 {
        return Ok(0.0);
    }
    let mut place = None;
    if !array.is_c_contiguous() {
        let plan = Plan::elements(array.shape(), [&array.strides()], 0, dtype.size())?;
        if plan.blocks() == 1 {
            let [only] = plan.places(0);
            place = Some(only);
        } else {
            array = array.contiguous(op, &mut dense)?;
        }
    }
    launch::read(call, array.py(), [Some(&**array)], len as f32 * COST, |[array]| {
        let Some(array) = array else { return 0.0 };
        let block = place.map_or_else(|| array.dense(1, len), |place| array.block(place));
        for_dtype!(dtype, T => crate::sum_of_squares(block.matrix::<T>()))
    })
}

/// ``arr * factor``: `scale`, as polyglot-bridge 0.2.0 called it.
///
/// Parameters
/// ----------
/// arr : array_like
///     Of any shape; float16, bfloat16, float32 or float64.
/// factor : float
///     Rounded to the type that is computed in.
/// out : ndarray, optional
///     Where to write the result; may be `arr` itself.
///
/// Returns
/// -------
/// ndarray
///     Of the shape and dtype of `arr`.
///
/// See Also
/// --------
/// scale
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> pb.parallel_map_numpy(np.array([1.0, 2.0]), 2.5)
/// array([2.5, 5. ])
#[pyfunction]
#[pyo3(signature = (arr, factor, *, out=None))]
pub(in crate::python) fn parallel_map_numpy<'py>(
    arr: Object<'_, 'py>,
    factor: Object<'_, 'py>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    scaled(Signature::named("parallel_map_numpy", ARR), arr, factor, out)
}

/// ``arr * factor`` for float32 only: `scale` takes every dtype.
///
/// Parameters
/// ----------
/// arr : ndarray of float32
///     Of any shape.
/// factor : float
///     Rounded to float32.
/// out : ndarray, optional
///     Where to write the result; may be `arr` itself.
///
/// Returns
/// -------
/// ndarray of float32
///     Of the shape of `arr`.
///
/// See Also
/// --------
/// scale
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> pb.parallel_map_numpy_f32(np.array([1, 2], np.float32), 2.5)
/// array([2.5, 5. ], dtype=float32)
#[pyfunction]
#[pyo3(signature = (arr, factor, *, out=None))]
pub(in crate::python) fn parallel_map_numpy_f32<'py>(
    arr: Object<'_, 'py>,
    factor: Object<'_, 'py>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    scaled(Signature::named("parallel_map_numpy_f32", ARR_F32), arr, factor, out)
}

/// ``sum(arr**2)`` as a Python float, summed in float64 whatever the dtype.
///
/// Parameters
/// ----------
/// arr : array_like
///     Of any shape; float16, bfloat16, float32 or float64.
///
/// Returns
/// -------
/// float
///     The sum, not rounded to the dtype of `arr`; 0.0 for an empty array.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> pb.sum_of_squares_numpy(np.array([1.0, 2.0, 3.0]))
/// 14.0
#[pyfunction]
pub(in crate::python) fn sum_of_squares_numpy(arr: Object<'_, '_>) -> PyResult<f64> {
    sum(Signature::named("sum_of_squares_numpy", ARR), arr)
}

/// ``sum(arr**2)`` as a Python float, for float32 only: `sum_of_squares_numpy` takes every dtype.
///
/// Parameters
/// ----------
/// arr : ndarray of float32
///     Of any shape.
///
/// Returns
/// -------
/// float
///     The sum, in float64; 0.0 for an empty array.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> pb.sum_of_squares_numpy_f32(np.array([1, 2, 3], np.float32))
/// 14.0
#[pyfunction]
pub(in crate::python) fn sum_of_squares_numpy_f32(arr: Object<'_, '_>) -> PyResult<f64> {
    sum(Signature::named("sum_of_squares_numpy_f32", ARR_F32), arr)
}

/// ReLU: `relu`, as polyglot-bridge 0.2.0 called it. NaN stays NaN, which 0.2.0 turned into 0.
///
/// Parameters
/// ----------
/// arr : array_like
///     Of any shape; float16, bfloat16, float32 or float64.
/// out : ndarray, optional
///     Where to write the result; may be `arr` itself.
///
/// Returns
/// -------
/// ndarray
///     Of the shape and dtype of `arr`.
///
/// See Also
/// --------
/// relu
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> pb.relu_numpy(np.array([-1.0, 0.0, 1.0, 2.0]))
/// array([0., 0., 1., 2.])
#[pyfunction]
#[pyo3(signature = (arr, *, out=None))]
pub(in crate::python) fn relu_numpy<'py>(arr: Object<'_, 'py>, out: Option<Object<'_, 'py>>) -> Returned<'py> {
    elementwise(Signature::named("relu_numpy", ARR), &Activation::Relu, arr, out)
}

/// ReLU for float32 only: `relu` takes every dtype.
///
/// Parameters
/// ----------
/// arr : ndarray of float32
///     Of any shape.
/// out : ndarray, optional
///     Where to write the result; may be `arr` itself.
///
/// Returns
/// -------
/// ndarray of float32
///     Of the shape of `arr`.
///
/// See Also
/// --------
/// relu
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> pb.relu_numpy_f32(np.array([-1, 2], np.float32))
/// array([0., 2.], dtype=float32)
#[pyfunction]
#[pyo3(signature = (arr, *, out=None))]
pub(in crate::python) fn relu_numpy_f32<'py>(arr: Object<'_, 'py>, out: Option<Object<'_, 'py>>) -> Returned<'py> {
    elementwise(Signature::named("relu_numpy_f32", ARR_F32), &Activation::Relu, arr, out)
}

/// The logistic function: `sigmoid`, as polyglot-bridge 0.2.0 called it.
///
/// Parameters
/// ----------
/// arr : array_like
///     Of any shape; float16, bfloat16, float32 or float64.
/// out : ndarray, optional
///     Where to write the result; may be `arr` itself.
///
/// Returns
/// -------
/// ndarray
///     Of the shape and dtype of `arr`.
///
/// See Also
/// --------
/// sigmoid
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> pb.sigmoid_numpy(np.array([0.0, 1.0, -1.0])).round(4)
/// array([0.5   , 0.7311, 0.2689])
#[pyfunction]
#[pyo3(signature = (arr, *, out=None))]
pub(in crate::python) fn sigmoid_numpy<'py>(arr: Object<'_, 'py>, out: Option<Object<'_, 'py>>) -> Returned<'py> {
    elementwise(Signature::named("sigmoid_numpy", ARR), &Activation::Sigmoid, arr, out)
}

/// The logistic function for float32 only: `sigmoid` takes every dtype.
///
/// Parameters
/// ----------
/// arr : ndarray of float32
///     Of any shape.
/// out : ndarray, optional
///     Where to write the result; may be `arr` itself.
///
/// Returns
/// -------
/// ndarray of float32
///     Of the shape of `arr`.
///
/// See Also
/// --------
/// sigmoid
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> pb.sigmoid_numpy_f32(np.array([0], np.float32))
/// array([0.5], dtype=float32)
#[pyfunction]
#[pyo3(signature = (arr, *, out=None))]
pub(in crate::python) fn sigmoid_numpy_f32<'py>(arr: Object<'_, 'py>, out: Option<Object<'_, 'py>>) -> Returned<'py> {
    elementwise(Signature::named("sigmoid_numpy_f32", ARR_F32), &Activation::Sigmoid, arr, out)
}

/// ``x * dropout_mask * scale + residual``: `dropout_add`, as polyglot-bridge 0.2.0 called it.
///
/// Parameters
/// ----------
/// x, residual : array_like
///     Of one shape and dtype.
/// dropout_mask : array_like
///     Of the shape of `x`. bool and integers select, the dtype of `x` multiplies.
/// scale : float
///     Usually ``1 / (1 - p)``.
/// out : ndarray, optional
///     Where to write the result; may be `x` itself.
///
/// Returns
/// -------
/// ndarray
///     Of the shape and dtype of `x`.
///
/// See Also
/// --------
/// dropout_add
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> pb.fused_dropout_add(np.array([1.0, 3.0]), np.array([1.0, 1.0]), np.array([1.0, 0.0]), 2.0)
/// array([3., 1.])
#[pyfunction]
#[pyo3(signature = (x, residual, dropout_mask, scale, *, out=None))]
pub(in crate::python) fn fused_dropout_add<'py>(
    x: Object<'_, 'py>,
    residual: Object<'_, 'py>,
    dropout_mask: Object<'_, 'py>,
    scale: Object<'_, 'py>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    dropped("fused_dropout_add", "dropout_mask", [x, residual, dropout_mask], Some(scale), out)
}

/// Layer normalisation: `layer_norm`, as polyglot-bridge 0.2.0 called it.
///
/// Parameters
/// ----------
/// x : array_like
///     Of any shape; float16, bfloat16, float32 or float64.
/// eps : float, default 1e-5
///     Added to the variance.
/// weight, bias : array_like, optional
///     One value for each element along the axis.
/// axis : int, default -1
///     The axis that is normalised.
/// out : ndarray, optional
///     Where to write the result; may be `x` itself.
///
/// Returns
/// -------
/// ndarray
///     Of the shape and dtype of `x`.
///
/// See Also
/// --------
/// layer_norm
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> pb.fused_layer_norm(np.array([[1.0, 2.0, 3.0]]), 0.0).round(4)
/// array([[-1.2247,  0.    ,  1.2247]])
#[pyfunction]
#[pyo3(
    signature = (x, eps=Optional::Default, *, weight=None, bias=None, axis=Optional::Default, out=None),
    text_signature = "(x, eps=1e-05, *, weight=None, bias=None, axis=-1, out=None)"
)]
pub(in crate::python) fn fused_layer_norm<'py>(
    x: Object<'_, 'py>,
    eps: Optional<'_, 'py>,
    weight: Option<Object<'_, 'py>>,
    bias: Option<Object<'_, 'py>>,
    axis: Optional<'_, 'py>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let arguments = [Some(x), weight, bias, None];
    normalise(Signature::new("fused_layer_norm"), arguments, (&eps, 1e-5), |eps| LayerNorm { eps }, &axis, out)
}

/// Softmax: `softmax`, as polyglot-bridge 0.2.0 called it.
///
/// Parameters
/// ----------
/// x : array_like
///     Scores, of any shape; float16, bfloat16, float32 or float64.
/// axis : int, default -1
///     The axis that is to sum to one.
/// out : ndarray, optional
///     Where to write the result; may be `x` itself.
///
/// Returns
/// -------
/// ndarray
///     Of the shape and dtype of `x`.
///
/// See Also
/// --------
/// softmax
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> pb.fused_softmax(np.array([[1.0, 1.0]]))
/// array([[0.5, 0.5]])
#[pyfunction]
#[pyo3(signature = (x, *, axis=Optional::Default, out=None), text_signature = "(x, *, axis=-1, out=None)")]
pub(in crate::python) fn fused_softmax<'py>(
    x: Object<'_, 'py>,
    axis: Optional<'_, 'py>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    rowwise(Signature::new("fused_softmax"), &Softmax, x, &axis, out)
}

/// A number is no matrix, and its type is what is wrong with it.
fn refuse_numbers(op: &str, a: Object<'_, '_>, b: Object<'_, '_>) -> PyResult<()> {
    for (name, object) in [("a", a), ("b", b)] {
        if object.is_instance_of::<PyFloat>() || object.is_instance_of::<PyInt>() {
            return Err(type_error!("{op}: {name} must be an array, not {}", type_name(object)));
        }
    }
    Ok(())
}

/// ``a @ b``: `matmul`, as polyglot-bridge 0.2.0 called it.
///
/// Parameters
/// ----------
/// a, b : array_like
///     Of shapes (..., m, k) and (..., k, n) and one dtype: float16, bfloat16, float32 or float64.
/// out : ndarray, optional
///     Where to write the result.
///
/// Returns
/// -------
/// ndarray
///     Of shape (..., m, n).
///
/// See Also
/// --------
/// matmul
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> pb.matmul_numpy(np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]]))
/// array([[11.]])
#[pyfunction]
#[pyo3(signature = (a, b, *, out=None))]
pub(in crate::python) fn matmul_numpy<'py>(
    a: Object<'_, 'py>,
    b: Object<'_, 'py>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    refuse_numbers("matmul_numpy", a, b)?;
    matmul::product(Signature::named("matmul_numpy", A), a, b, out)
}

/// ``a @ b`` for float32 only: `matmul` takes every dtype.
///
/// Parameters
/// ----------
/// a, b : ndarray of float32
///     Of shapes (..., m, k) and (..., k, n).
/// out : ndarray, optional
///     Where to write the result.
///
/// Returns
/// -------
/// ndarray of float32
///     Of shape (..., m, n).
///
/// See Also
/// --------
/// matmul
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> pb.matmul_numpy_f32(np.ones((1, 2), np.float32), np.ones((2, 1), np.float32))
/// array([[2.]], dtype=float32)
#[pyfunction]
#[pyo3(signature = (a, b, *, out=None))]
pub(in crate::python) fn matmul_numpy_f32<'py>(
    a: Object<'_, 'py>,
    b: Object<'_, 'py>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    refuse_numbers("matmul_numpy_f32", a, b)?;
    matmul::product(Signature::named("matmul_numpy_f32", A_F32), a, b, out)
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
pub(in crate::python) fn fused_linear<'py>(
    input: Object<'_, 'py>,
    weights: Object<'_, 'py>,
    bias: Option<Object<'_, 'py>>,
    activation: Option<Object<'_, 'py>>,
    residual: Option<Object<'_, 'py>>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let signature = Signature::named("fused_linear", INPUT);
    let activation = activation_of(signature.op, activation)?;
    linear::product(signature, [Some(input), Some(weights), bias, residual], activation, out)
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
pub(in crate::python) fn fused_linear_f32<'py>(
    input: Object<'_, 'py>,
    weights: Object<'_, 'py>,
    bias: Option<Object<'_, 'py>>,
    activation: Option<Object<'_, 'py>>,
    residual: Option<Object<'_, 'py>>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let signature = Signature::named("fused_linear_f32", INPUT_F32);
    let activation = activation_of(signature.op, activation)?;
    linear::product(signature, [Some(input), Some(weights), bias, residual], activation, out)
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
pub(in crate::python) fn fused_linear_relu<'py>(
    input: Object<'_, 'py>,
    weights: Object<'_, 'py>,
    bias: Option<Object<'_, 'py>>,
    residual: Option<Object<'_, 'py>>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let signature = Signature::named("fused_linear_relu", INPUT);
    linear::product(signature, [Some(input), Some(weights), bias, residual], Activation::Relu, out)
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
pub(in crate::python) fn fused_linear_relu_f32<'py>(
    input: Object<'_, 'py>,
    weights: Object<'_, 'py>,
    bias: Option<Object<'_, 'py>>,
    residual: Option<Object<'_, 'py>>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let signature = Signature::named("fused_linear_relu_f32", INPUT_F32);
    linear::product(signature, [Some(input), Some(weights), bias, residual], Activation::Relu, out)
}

//! The names of polyglot-bridge 0.2.0 for NumPy arrays: a thin layer over `modern` and `products`. The functions on
//! lists are in `lists`.

use pyo3::prelude::*;

use super::arguments::{Optional, number};
use super::modern::{Call, Object, Returned, dropped, elementwise, normalise, rowwise};
use super::operations::{LayerNorm, Scale, Softmax};
use super::reduce::sum;
use crate::math::activation::Activation;

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
pub(super) fn parallel_map_numpy<'py>(
    arr: Object<'_, 'py>,
    factor: Object<'_, 'py>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let factor = number("parallel_map_numpy", "factor", factor)?;
    elementwise(Call::legacy("parallel_map_numpy", "arr", false), &Scale { factor }, arr, out)
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
pub(super) fn parallel_map_numpy_f32<'py>(
    arr: Object<'_, 'py>,
    factor: Object<'_, 'py>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let factor = number("parallel_map_numpy_f32", "factor", factor)?;
    elementwise(Call::legacy("parallel_map_numpy_f32", "arr", true), &Scale { factor }, arr, out)
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
pub(super) fn sum_of_squares_numpy(arr: Object<'_, '_>) -> PyResult<f64> {
    sum(Call::legacy("sum_of_squares_numpy", "arr", false), arr)
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
pub(super) fn sum_of_squares_numpy_f32(arr: Object<'_, '_>) -> PyResult<f64> {
    sum(Call::legacy("sum_of_squares_numpy_f32", "arr", true), arr)
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
pub(super) fn relu_numpy<'py>(arr: Object<'_, 'py>, out: Option<Object<'_, 'py>>) -> Returned<'py> {
    elementwise(Call::legacy("relu_numpy", "arr", false), &Activation::Relu, arr, out)
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
pub(super) fn relu_numpy_f32<'py>(arr: Object<'_, 'py>, out: Option<Object<'_, 'py>>) -> Returned<'py> {
    elementwise(Call::legacy("relu_numpy_f32", "arr", true), &Activation::Relu, arr, out)
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
pub(super) fn sigmoid_numpy<'py>(arr: Object<'_, 'py>, out: Option<Object<'_, 'py>>) -> Returned<'py> {
    elementwise(Call::legacy("sigmoid_numpy", "arr", false), &Activation::Sigmoid, arr, out)
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
pub(super) fn sigmoid_numpy_f32<'py>(arr: Object<'_, 'py>, out: Option<Object<'_, 'py>>) -> Returned<'py> {
    elementwise(Call::legacy("sigmoid_numpy_f32", "arr", true), &Activation::Sigmoid, arr, out)
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
pub(super) fn fused_dropout_add<'py>(
    x: Object<'_, 'py>,
    residual: Object<'_, 'py>,
    dropout_mask: Object<'_, 'py>,
    scale: Object<'_, 'py>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let scale = number("fused_dropout_add", "scale", scale)?;
    dropped("fused_dropout_add", "dropout_mask", [x, residual, dropout_mask], scale, out)
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
pub(super) fn fused_layer_norm<'py>(
    x: Object<'_, 'py>,
    eps: Optional<'_, 'py>,
    weight: Option<Object<'_, 'py>>,
    bias: Option<Object<'_, 'py>>,
    axis: Optional<'_, 'py>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let eps = eps.number("fused_layer_norm", "eps", 1e-5)?;
    let operation = |weight, bias| LayerNorm { weight, bias, eps };
    normalise(Call::new("fused_layer_norm"), [Some(x), weight, bias, None], operation, &axis, out)
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
pub(super) fn fused_softmax<'py>(
    x: Object<'_, 'py>,
    axis: Optional<'_, 'py>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    rowwise(Call::new("fused_softmax"), &Softmax, x, &axis, out)
}

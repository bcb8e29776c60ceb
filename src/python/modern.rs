//! The functions of the Python package that work element by element or row by row, and what they share with their old
//! names in `legacy`. Arrays are taken in by `arrays`, results made by `output`, loops run by `rowwise`.

use std::format;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::arguments::{Optional, number};
use super::arrays::{Array, Dtype, NdArray, take, take_all, take_mask};
use super::errors::{Shape, wrong_dtype, wrong_shape};
use super::operations::{
    AddLayerNorm, DropoutAdd, L2Normalize, LayerNorm, LogSoftmax, RmsNorm, Scale, Softmax, Vector,
};
use super::rowwise::{Operation, axis_of, run};
use crate::math::activation::Activation;

/// An argument as Python hands it over.
pub(super) type Object<'a, 'py> = &'a Bound<'py, PyAny>;
/// What a function returns to Python.
pub(super) type Returned<'py> = PyResult<Bound<'py, PyAny>>;

/// The name a function was called by, that of its array, and whether it takes float32 only.
#[derive(Clone, Copy)]
pub(super) struct Call {
    pub(super) op: &'static str,
    pub(super) x: &'static str,
    pub(super) only_f32: bool,
}

impl Call {
    pub(super) const fn new(op: &'static str) -> Self {
        Self { op, x: "x", only_f32: false }
    }

    /// A function of 0.2.0, whose array is called `x`.
    pub(super) const fn legacy(op: &'static str, x: &'static str, only_f32: bool) -> Self {
        Self { op, x, only_f32 }
    }

    /// Sees that a function for float32 got just that.
    #[inline]
    pub(super) fn check(self, dtype: Dtype) -> PyResult<()> {
        if self.only_f32 && dtype != Dtype::F32 {
            return Err(wrong_dtype(self.op, self.x, dtype.name(), "float32"));
        }
        Ok(())
    }

    #[inline]
    pub(super) fn take<'py>(self, x: Object<'_, 'py>) -> PyResult<Array<'py>> {
        let x = take(self.op, self.x, x)?;
        self.check(x.dtype())?;
        Ok(x)
    }
}

/// An element-wise function of one array.
#[inline]
pub(super) fn elementwise<'py, O: Operation>(
    call: Call,
    operation: &O,
    x: Object<'_, 'py>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let x = call.take(x)?;
    run(call.op, operation, &x, &[], &[], None, out)
}

/// A function of one array's rows.
#[inline]
pub(super) fn rowwise<'py, O: Operation>(
    call: Call,
    operation: &O,
    x: Object<'_, 'py>,
    axis: &Optional<'_, 'py>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let x = call.take(x)?;
    let axis = axis_of(call.op, axis, x.ndim())?;
    run(call.op, operation, &x, &[], &[], Some(axis), out)
}

/// A normalisation of rows, which ends with a weight and a bias of one value an element of the row.
pub(super) fn normalise<'py, O: Operation>(
    call: Call,
    [x, weight, bias, residual]: [Option<Object<'_, 'py>>; 4],
    operation: impl FnOnce(Option<Vector>, Option<Vector>) -> O,
    axis: &Optional<'_, 'py>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let arguments = [(call.x, x), ("weight", weight), ("bias", bias), ("residual", residual)];
    let ([x, weight, bias, residual], dtype) = take_all(call.op, arguments)?;
    call.check(dtype)?;
    let Some(x) = x else { return Err(PyValueError::new_err("x is missing")) };
    let axis = axis_of(call.op, axis, x.ndim())?;
    let len = x.shape().get(axis).copied().unwrap_or(1);
    if let Some(residual) = &residual
        && residual.shape() != x.shape()
    {
        return Err(wrong_shape(call.op, "residual", residual.shape(), x.shape(), ", the shape of x"));
    }
    let vector = |name: &str, array: Option<Array<'py>>| -> PyResult<Option<Array<'py>>> {
        let Some(array) = array else { return Ok(None) };
        if array.shape() != [len] {
            let why = format!(", as axis {axis} of {} of shape {}", call.x, Shape(x.shape()));
            return Err(wrong_shape(call.op, name, array.shape(), &[len], &why));
        }
        array.contiguous().map(Some)
    };
    let (weight, bias) = (vector("weight", weight)?, vector("bias", bias)?);
    let operation = operation(weight.as_ref().map(Vector::new), bias.as_ref().map(Vector::new));
    let added = residual.as_deref();
    let others = added.as_slice();
    match (&weight, &bias) {
        (None, None) => run(call.op, &operation, &x, others, &[], Some(axis), out),
        (Some(one), None) | (None, Some(one)) => run(call.op, &operation, &x, others, &[one], Some(axis), out),
        (Some(weight), Some(bias)) => run(call.op, &operation, &x, others, &[weight, bias], Some(axis), out),
    }
}

/// Dropout and residual, by either name.
pub(super) fn dropped<'py>(
    op: &'static str,
    mask_name: &'static str,
    [x, residual, mask]: [Object<'_, 'py>; 3],
    scale: f64,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let ([x, residual], dtype) = take_all(op, [("x", Some(x)), ("residual", Some(residual))])?;
    let (Some(x), Some(residual)) = (x, residual) else { return Err(PyValueError::new_err("x is missing")) };
    let mask = take_mask(op, mask_name, mask, dtype)?;
    let operands: [(&str, &NdArray<'py>); 2] = [("residual", &residual), (mask_name, &mask)];
    for (name, array) in operands {
        if array.shape() != x.shape() {
            return Err(wrong_shape(op, name, array.shape(), x.shape(), ", the shape of x"));
        }
    }
    run(op, &DropoutAdd::new(&mask, scale), &x, &[&residual, &mask], &[], None, out)
}

/// Softmax along an axis: ``exp(x - max(x)) / sum(exp(x - max(x)))``.
///
/// Parameters
/// ----------
/// x : array_like
///     Scores, of any shape and layout; float16, bfloat16, float32 or float64.
/// axis : int, default -1
///     The axis that is to sum to one.
/// out : ndarray, optional
///     Where to write the result, of its shape and dtype; may be `x` itself.
///
/// Returns
/// -------
/// ndarray
///     Probabilities, of the shape and dtype of `x`; `out` where that is given. float16 is summed in float32. A row
///     that holds a NaN or +inf, or nothing but -inf, becomes NaN.
///
/// Raises
/// ------
/// TypeError
///     `x` is no array of floats, or `out` none of its dtype.
/// ValueError
///     `out` is read-only or of another shape.
/// numpy.exceptions.AxisError
///     `x` has no such axis.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> pb.softmax(np.array([[0.0, 0.0], [1.0, 1.0]]))
/// array([[0.5, 0.5],
///        [0.5, 0.5]])
#[pyfunction]
#[pyo3(signature = (x, *, axis=Optional::Default, out=None), text_signature = "(x, *, axis=-1, out=None)")]
pub(super) fn softmax<'py>(x: Object<'_, 'py>, axis: Optional<'_, 'py>, out: Option<Object<'_, 'py>>) -> Returned<'py> {
    rowwise(Call::new("softmax"), &Softmax, x, &axis, out)
}

/// The logarithm of softmax along an axis: ``x - max(x) - log(sum(exp(x - max(x))))``.
///
/// Parameters
/// ----------
/// x : array_like
///     Scores, of any shape and layout; float16, bfloat16, float32 or float64.
/// axis : int, default -1
///     The axis whose exponentials are to sum to one.
/// out : ndarray, optional
///     Where to write the result, of its shape and dtype; may be `x` itself.
///
/// Returns
/// -------
/// ndarray
///     Logarithms of probabilities, of the shape and dtype of `x`; `out` where that is given.
///
/// Raises
/// ------
/// TypeError
///     `x` is no array of floats, or `out` none of its dtype.
/// ValueError
///     `out` is read-only or of another shape.
/// numpy.exceptions.AxisError
///     `x` has no such axis.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> pb.log_softmax(np.zeros((1, 4))).round(4)
/// array([[-1.3863, -1.3863, -1.3863, -1.3863]])
#[pyfunction]
#[pyo3(signature = (x, *, axis=Optional::Default, out=None), text_signature = "(x, *, axis=-1, out=None)")]
pub(super) fn log_softmax<'py>(
    x: Object<'_, 'py>,
    axis: Optional<'_, 'py>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    rowwise(Call::new("log_softmax"), &LogSoftmax, x, &axis, out)
}

/// Layer normalisation: ``(x - mean) / sqrt(variance + eps) * weight + bias`` along an axis.
///
/// Parameters
/// ----------
/// x : array_like
///     Of any shape and layout; float16, bfloat16, float32 or float64.
/// weight, bias : array_like, optional
///     One value for each element along the axis, of the dtype of `x`; ones and zeros where left out.
/// residual : array_like, optional
///     Of the shape and dtype of `x`, added to it first, in the same pass.
/// eps : float, default 1e-5
///     Added to the variance.
/// axis : int, default -1
///     The axis that is normalised.
/// out : ndarray, optional
///     Where to write the result, of its shape and dtype; may be `x` itself.
///
/// Returns
/// -------
/// ndarray
///     Of the shape and dtype of `x`; `out` where that is given. The mean is taken out before squares are summed, so a
///     large mean does no harm, and neither do values whose squares would overflow.
///
/// Raises
/// ------
/// TypeError
///     An argument is no array of floats, or they differ in dtype.
/// ValueError
///     `weight` or `bias` has another length than the axis, or `residual` another shape than `x`; `out` is read-only or
///     of another shape.
/// numpy.exceptions.AxisError
///     `x` has no such axis.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> pb.layer_norm(np.array([[1.0, 2.0, 3.0]]), eps=0.0).round(4)
/// array([[-1.2247,  0.    ,  1.2247]])
#[pyfunction]
#[pyo3(
    signature = (x, weight=None, bias=None, *, residual=None, eps=Optional::Default, axis=Optional::Default, out=None),
    text_signature = "(x, weight=None, bias=None, *, residual=None, eps=1e-05, axis=-1, out=None)"
)]
pub(super) fn layer_norm<'py>(
    x: Object<'_, 'py>,
    weight: Option<Object<'_, 'py>>,
    bias: Option<Object<'_, 'py>>,
    residual: Option<Object<'_, 'py>>,
    eps: Optional<'_, 'py>,
    axis: Optional<'_, 'py>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let eps = eps.number("layer_norm", "eps", 1e-5)?;
    let (call, arguments) = (Call::new("layer_norm"), [Some(x), weight, bias, residual]);
    if residual.is_some() {
        normalise(call, arguments, |weight, bias| AddLayerNorm { weight, bias, eps }, &axis, out)
    } else {
        normalise(call, arguments, |weight, bias| LayerNorm { weight, bias, eps }, &axis, out)
    }
}

/// Scales to length 1 along an axis: ``x / sqrt(sum(x**2))``.
///
/// Parameters
/// ----------
/// x : array_like
///     Of any shape and layout; float16, bfloat16, float32 or float64.
/// axis : int, default -1
///     The axis along which lengths are taken.
/// out : ndarray, optional
///     Where to write the result, of its shape and dtype; may be `x` itself.
///
/// Returns
/// -------
/// ndarray
///     Of the shape and dtype of `x`; `out` where that is given. Zeros stay zeros.
///
/// Raises
/// ------
/// TypeError
///     `x` is no array of floats, or `out` none of its dtype.
/// ValueError
///     `out` is read-only or of another shape.
/// numpy.exceptions.AxisError
///     `x` has no such axis.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> pb.l2_normalize(np.array([[3.0, 4.0], [0.0, 0.0]]))
/// array([[0.6, 0.8],
///        [0. , 0. ]])
#[pyfunction]
#[pyo3(signature = (x, *, axis=Optional::Default, out=None), text_signature = "(x, *, axis=-1, out=None)")]
pub(super) fn l2_normalize<'py>(
    x: Object<'_, 'py>,
    axis: Optional<'_, 'py>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    rowwise(Call::new("l2_normalize"), &L2Normalize, x, &axis, out)
}

/// Normalisation by the root of the mean square: ``x / sqrt(mean(x**2) + eps) * weight`` along an axis.
///
/// Parameters
/// ----------
/// x : array_like
///     Of any shape and layout; float16, bfloat16, float32 or float64.
/// weight : array_like, optional
///     One value for each element along the axis, of the dtype of `x`; ones where left out.
/// eps : float, default 1e-6
///     Added to the mean square.
/// axis : int, default -1
///     The axis that is normalised.
/// out : ndarray, optional
///     Where to write the result, of its shape and dtype; may be `x` itself.
///
/// Returns
/// -------
/// ndarray
///     Of the shape and dtype of `x`; `out` where that is given.
///
/// Raises
/// ------
/// TypeError
///     An argument is no array of floats, or they differ in dtype.
/// ValueError
///     `weight` has another length than the axis; `out` is read-only or of another shape.
/// numpy.exceptions.AxisError
///     `x` has no such axis.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> pb.rms_norm(np.array([[3.0, 4.0]]), eps=0.0).round(4)
/// array([[0.8485, 1.1314]])
#[pyfunction]
#[pyo3(
    signature = (x, weight=None, *, eps=Optional::Default, axis=Optional::Default, out=None),
    text_signature = "(x, weight=None, *, eps=1e-06, axis=-1, out=None)"
)]
pub(super) fn rms_norm<'py>(
    x: Object<'_, 'py>,
    weight: Option<Object<'_, 'py>>,
    eps: Optional<'_, 'py>,
    axis: Optional<'_, 'py>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let eps = eps.number("rms_norm", "eps", 1e-6)?;
    normalise(Call::new("rms_norm"), [Some(x), weight, None, None], |weight, _| RmsNorm { weight, eps }, &axis, out)
}

/// ReLU, element by element: zero where ``x <= 0``, else `x`; NaN stays NaN.
///
/// Parameters
/// ----------
/// x : array_like
///     Of any shape and layout; float16, bfloat16, float32 or float64.
/// out : ndarray, optional
///     Where to write the result, of its shape and dtype; may be `x` itself.
///
/// Returns
/// -------
/// ndarray
///     Of the shape and dtype of `x`; `out` where that is given.
///
/// Raises
/// ------
/// TypeError
///     `x` is no array of floats, or `out` none of its dtype.
/// ValueError
///     `out` is read-only or of another shape.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> pb.relu(np.array([-1.0, 0.0, 2.0]))
/// array([0., 0., 2.])
#[pyfunction]
#[pyo3(signature = (x, *, out=None))]
pub(super) fn relu<'py>(x: Object<'_, 'py>, out: Option<Object<'_, 'py>>) -> Returned<'py> {
    elementwise(Call::new("relu"), &Activation::Relu, x, out)
}

/// The logistic function, element by element: ``1 / (1 + exp(-x))``.
///
/// Parameters
/// ----------
/// x : array_like
///     Of any shape and layout; float16, bfloat16, float32 or float64.
/// out : ndarray, optional
///     Where to write the result, of its shape and dtype; may be `x` itself.
///
/// Returns
/// -------
/// ndarray
///     Of the shape and dtype of `x`; `out` where that is given.
///
/// Raises
/// ------
/// TypeError
///     `x` is no array of floats, or `out` none of its dtype.
/// ValueError
///     `out` is read-only or of another shape.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> pb.sigmoid(np.array([-np.inf, 0.0, np.inf]))
/// array([0. , 0.5, 1. ])
#[pyfunction]
#[pyo3(signature = (x, *, out=None))]
pub(super) fn sigmoid<'py>(x: Object<'_, 'py>, out: Option<Object<'_, 'py>>) -> Returned<'py> {
    elementwise(Call::new("sigmoid"), &Activation::Sigmoid, x, out)
}

/// The hyperbolic tangent, element by element.
///
/// Parameters
/// ----------
/// x : array_like
///     Of any shape and layout; float16, bfloat16, float32 or float64.
/// out : ndarray, optional
///     Where to write the result, of its shape and dtype; may be `x` itself.
///
/// Returns
/// -------
/// ndarray
///     Of the shape and dtype of `x`; `out` where that is given.
///
/// Raises
/// ------
/// TypeError
///     `x` is no array of floats, or `out` none of its dtype.
/// ValueError
///     `out` is read-only or of another shape.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> pb.tanh(np.array([-np.inf, 0.0, np.inf]))
/// array([-1.,  0.,  1.])
#[pyfunction]
#[pyo3(signature = (x, *, out=None))]
pub(super) fn tanh<'py>(x: Object<'_, 'py>, out: Option<Object<'_, 'py>>) -> Returned<'py> {
    elementwise(Call::new("tanh"), &Activation::Tanh, x, out)
}

/// SiLU, also called swish, element by element: ``x / (1 + exp(-x))``.
///
/// Parameters
/// ----------
/// x : array_like
///     Of any shape and layout; float16, bfloat16, float32 or float64.
/// out : ndarray, optional
///     Where to write the result, of its shape and dtype; may be `x` itself.
///
/// Returns
/// -------
/// ndarray
///     Of the shape and dtype of `x`; `out` where that is given. Zero at -inf, +inf at +inf.
///
/// Raises
/// ------
/// TypeError
///     `x` is no array of floats, or `out` none of its dtype.
/// ValueError
///     `out` is read-only or of another shape.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> pb.silu(np.array([0.0, 1.0])).round(4)
/// array([0.    , 0.7311])
#[pyfunction]
#[pyo3(signature = (x, *, out=None))]
pub(super) fn silu<'py>(x: Object<'_, 'py>, out: Option<Object<'_, 'py>>) -> Returned<'py> {
    elementwise(Call::new("silu"), &Activation::Silu, x, out)
}

/// GELU, element by element: ``x * (1 + erf(x / sqrt(2))) / 2``, or its approximation by tanh.
///
/// Parameters
/// ----------
/// x : array_like
///     Of any shape and layout; float16, bfloat16, float32 or float64.
/// approximate : {"none", "tanh"}, default "none"
///     "tanh" computes ``x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2``.
/// out : ndarray, optional
///     Where to write the result, of its shape and dtype; may be `x` itself.
///
/// Returns
/// -------
/// ndarray
///     Of the shape and dtype of `x`; `out` where that is given. Zero at -inf, +inf at +inf.
///
/// Raises
/// ------
/// TypeError
///     `x` is no array of floats, or `out` none of its dtype.
/// ValueError
///     `approximate` is neither of the two; `out` is read-only or of another shape.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> pb.gelu(np.array([0.0, 1.0])).round(4)
/// array([0.    , 0.8413])
/// >>> pb.gelu(np.array([1.0]), approximate="tanh").round(4)
/// array([0.8412])
#[pyfunction]
#[pyo3(
    signature = (x, *, approximate=Optional::Default, out=None),
    text_signature = "(x, *, approximate='none', out=None)"
)]
pub(super) fn gelu<'py>(
    x: Object<'_, 'py>,
    approximate: Optional<'_, 'py>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let activation = match approximate {
        Optional::Default => Activation::Gelu,
        Optional::Given(name) if name.eq("none")? => Activation::Gelu,
        Optional::Given(name) if name.eq("tanh")? => Activation::GeluTanh,
        Optional::Given(other) => {
            let found = other.repr()?;
            return Err(PyValueError::new_err(format!("gelu: approximate must be 'none' or 'tanh', not {found}")));
        }
    };
    elementwise(Call::new("gelu"), &activation, x, out)
}

/// ``x * factor``, element by element.
///
/// Parameters
/// ----------
/// x : array_like
///     Of any shape and layout; float16, bfloat16, float32 or float64.
/// factor : float
///     Rounded to float32 where `x` is computed in it; it does not change the dtype.
/// out : ndarray, optional
///     Where to write the result, of its shape and dtype; may be `x` itself.
///
/// Returns
/// -------
/// ndarray
///     Of the shape and dtype of `x`; `out` where that is given.
///
/// Raises
/// ------
/// TypeError
///     `x` is no array of floats, `factor` no number, or `out` no array of the dtype of `x`.
/// ValueError
///     `out` is read-only or of another shape.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> pb.scale(np.array([1.0, 2.0]), 2.5)
/// array([2.5, 5. ])
#[pyfunction]
#[pyo3(signature = (x, factor, *, out=None))]
pub(super) fn scale<'py>(x: Object<'_, 'py>, factor: Object<'_, 'py>, out: Option<Object<'_, 'py>>) -> Returned<'py> {
    let factor = number("scale", "factor", factor)?;
    elementwise(Call::new("scale"), &Scale { factor }, x, out)
}

/// Dropout with a given mask, and a residual: ``x * mask * scale + residual``.
///
/// Parameters
/// ----------
/// x, residual : array_like
///     Of one shape and dtype: float16, bfloat16, float32 or float64.
/// mask : array_like
///     Of the shape of `x`. A mask of bool or integers selects: where it is zero, `x` is dropped, even a NaN. A mask of
///     the dtype of `x` multiplies.
/// scale : float, default 1.0
///     What the elements kept are multiplied by, usually ``1 / (1 - p)``.
/// out : ndarray, optional
///     Where to write the result, of its shape and dtype; may be `x` itself.
///
/// Returns
/// -------
/// ndarray
///     Of the shape and dtype of `x`; `out` where that is given.
///
/// Raises
/// ------
/// TypeError
///     An argument is no array of floats, or they differ in dtype.
/// ValueError
///     Shapes differ, or `out` is read-only.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> import polyglot_bridge as pb
/// >>> x, residual = np.array([1.0, np.nan]), np.array([10.0, 20.0])
/// >>> pb.dropout_add(x, residual, np.array([True, False]), 2.0)
/// array([12., 20.])
#[pyfunction]
#[pyo3(signature = (x, residual, mask, scale=Optional::Default, *, out=None), text_signature = "(x, residual, mask, scale=1.0, *, out=None)")]
pub(super) fn dropout_add<'py>(
    x: Object<'_, 'py>,
    residual: Object<'_, 'py>,
    mask: Object<'_, 'py>,
    scale: Optional<'_, 'py>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let scale = scale.number("dropout_add", "scale", 1.0)?;
    dropped("dropout_add", "mask", [x, residual, mask], scale, out)
}

//! Functions that work row by row along an axis: softmax and the norms; and what they share with their old names. The
//! kernels are in `ops`.

use pyo3::prelude::*;

use super::arguments::{Optional, axis_of};
use super::call::{Call, Object, Returned, Signature};
use super::dtype::Element;
use super::errors::{Shape, value_error, wrong_shape};
use super::same_shape::{Arrays, Inputs, Operation, run};
use super::take::{slots, take_all};
use crate::error::Error;
use crate::float::Compute;
use crate::view::MatrixMut;

/// A function of one array's rows.
#[inline]
pub(super) fn rowwise<'py, O: Operation>(
    signature: Signature,
    operation: &O,
    x: Object<'_, 'py>,
    axis: &Optional<'_, 'py>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let mut slots = slots();
    let others = [("axis", axis.object()), ("out", out)];
    let call = Call::with(signature, [(signature.x, Some(x))], others, &mut slots)?;
    let x = call.take(x, &mut slots[0])?;
    let axis = axis_of(call.op, axis, x.ndim())?;
    run(&call, operation, Arrays::of(x), Some(axis), out)
}

/// A normalisation of rows, which ends with a weight and a bias of one value an element of the row.
pub(super) fn normalise<'py, O: Operation>(
    signature: Signature,
    [x, weight, bias, residual]: [Option<Object<'_, 'py>>; 4],
    (eps, usual_eps): (&Optional<'_, 'py>, f64),
    operation: impl FnOnce(f64) -> O,
    axis: &Optional<'_, 'py>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let op = signature.op;
    let arrays = [(signature.x, x), ("weight", weight), ("bias", bias), ("residual", residual)];
    let others = [("eps", eps.object()), ("axis", axis.object()), ("out", out)];
    let mut slots = slots();
    let call = Call::with(signature, arrays, others, &mut slots)?;
    let operation = operation(eps.number(op, "eps", usual_eps)?);
    let dtype = take_all(op, arrays, &mut slots).map_err(|error| call.blame(error))?;
    call.look_again()?;
    signature.check(dtype)?;
    let [x, weight, bias, residual] = slots.each_ref().map(Option::as_ref);
    let Some(x) = x else { return Err(value_error!("{op}: an array is missing")) };
    let axis = axis_of(op, axis, x.ndim())?;
    let len = x.shape().get(axis).copied().unwrap_or(1);
    if let Some(residual) = residual
        && residual.shape() != x.shape()
    {
        return Err(wrong_shape(op, "residual", residual.shape(), x.shape(), format_args!(", the shape of x")));
    }
    for (name, array) in [("weight", weight), ("bias", bias)] {
        if let Some(array) = array
            && array.shape() != [len]
        {
            let why = format_args!(", as axis {axis} of {} of shape {}", signature.x, Shape(x.shape()));
            return Err(wrong_shape(op, name, array.shape(), &[len], why));
        }
    }
    let (mut weight_slot, mut bias_slot) = (None, None);
    let weight = weight.map(|weight| weight.contiguous(op, &mut weight_slot)).transpose()?;
    let bias = bias.map(|bias| bias.contiguous(op, &mut bias_slot)).transpose()?;
    let arrays = Arrays {
        residual: residual.map(|residual| &**residual),
        weight: weight.map(|weight| &**weight),
        bias: bias.map(|bias| &**bias),
        ..Arrays::of(x)
    };
    run(&call, &operation, arrays, Some(axis), out)
}

/// Writes an [`Operation`] from what an element costs, in nanoseconds, and the two kernels, whose further arguments are
/// given in terms of the operation, its inputs and the type.
macro_rules! operation {
    ($name:ident costs $cost:literal; $run:path, $in_place:path; |$this:ident, $inputs:ident, $T:ident| $($extra:expr),*) => {
        impl Operation for $name {
            fn cost(&self) -> f32 {
                $cost
            }

            #[inline]
            fn run<$T: Element>(&self, $inputs: &Inputs<'_>, out: MatrixMut<'_, $T>) -> Result<(), Error> {
                let $this = self;
                let _ = $this;
                $run($inputs.x::<$T>(), $($extra,)* out).map_err(Error::from)
            }

            #[inline]
            fn run_in_place<$T: Element>(&self, $inputs: &Inputs<'_>, out: MatrixMut<'_, $T>) -> Result<(), Error> {
                let $this = self;
                let _ = ($this, $inputs);
                $in_place(out $(, $extra)*).map_err(Error::from)
            }
        }
    };
}

pub(super) struct Softmax;

operation!(Softmax costs 1.0; crate::softmax, crate::softmax_in_place; |this, inputs, T|);

pub(super) struct LogSoftmax;

operation!(LogSoftmax costs 1.0; crate::log_softmax, crate::log_softmax_in_place; |this, inputs, T|);

pub(super) struct LayerNorm {
    pub(super) eps: f64,
}

operation!(LayerNorm costs 0.4; crate::layer_norm, crate::layer_norm_in_place; |this, inputs, T|
    inputs.weight::<T>(), inputs.bias::<T>(), T::Acc::from_f64(this.eps));

struct AddLayerNorm {
    eps: f64,
}

operation!(AddLayerNorm costs 0.5; crate::add_layer_norm, crate::add_layer_norm_in_place; |this, inputs, T|
    inputs.residual::<T>(), inputs.weight::<T>(), inputs.bias::<T>(), T::Acc::from_f64(this.eps));

struct L2Normalize;

operation!(L2Normalize costs 0.3; crate::l2_normalize, crate::l2_normalize_in_place; |this, inputs, T|);

pub(super) struct RmsNorm {
    pub(super) eps: f64,
}

operation!(RmsNorm costs 0.3; crate::rms_norm, crate::rms_norm_in_place; |this, inputs, T|
    inputs.weight::<T>(), T::Acc::from_f64(this.eps));

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
    rowwise(Signature::new("softmax"), &Softmax, x, &axis, out)
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
    rowwise(Signature::new("log_softmax"), &LogSoftmax, x, &axis, out)
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
    let (signature, arguments) = (Signature::new("layer_norm"), [Some(x), weight, bias, residual]);
    if residual.is_some() {
        normalise(signature, arguments, (&eps, 1e-5), |eps| AddLayerNorm { eps }, &axis, out)
    } else {
        normalise(signature, arguments, (&eps, 1e-5), |eps| LayerNorm { eps }, &axis, out)
    }
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
    let arguments = [Some(x), weight, None, None];
    normalise(Signature::new("rms_norm"), arguments, (&eps, 1e-6), |eps| RmsNorm { eps }, &axis, out)
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
    rowwise(Signature::new("l2_normalize"), &L2Normalize, x, &axis, out)
}

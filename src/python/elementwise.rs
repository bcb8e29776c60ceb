//! Functions that work element by element: `relu` and its kin, `scale`, `dropout_add`; and what they share with their old
//! names. The kernels are in `ops`.

use pyo3::prelude::*;

use super::arguments::{Optional, number};
use super::call::{Call, Object, Returned, Signature};
use super::dtype::Element;
use super::errors::{value_error, wrong_shape};
use super::ndarray::NdArray;
use super::same_shape::{Arrays, Inputs, Operation, run};
use super::take::{MaskArray, slots, take_all, take_mask};
use crate::error::Error;
use crate::float::Compute;
use crate::math::activation::Activation;
use crate::ops::dropout_add::Mask;
use crate::view::MatrixMut;

/// An element-wise function of one array.
#[inline]
pub(super) fn elementwise<'py, O: Operation>(
    signature: Signature,
    operation: &O,
    x: Object<'_, 'py>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let mut slots = slots();
    let call = Call::with(signature, [(signature.x, Some(x))], [("out", out)], &mut slots)?;
    run(&call, operation, Arrays::of(call.take(x, &mut slots[0])?), None, out)
}

/// An array times a number, by any name.
pub(super) fn scaled<'py>(
    signature: Signature,
    x: Object<'_, 'py>,
    factor: Object<'_, 'py>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let mut slots = slots();
    let others = [("factor", Some(factor)), ("out", out)];
    let call = Call::with(signature, [(signature.x, Some(x))], others, &mut slots)?;
    let factor = number(call.op, "factor", factor)?;
    run(&call, &Scale { factor }, Arrays::of(call.take(x, &mut slots[0])?), None, out)
}

/// Dropout and residual, by either name.
pub(super) fn dropped<'py>(
    op: &'static str,
    mask_name: &'static str,
    [x, residual, mask]: [Object<'_, 'py>; 3],
    scale: Option<Object<'_, 'py>>,
    out: Option<Object<'_, 'py>>,
) -> Returned<'py> {
    let (mut slots, arrays) = (slots(), [("x", Some(x)), ("residual", Some(residual))]);
    let others = [(mask_name, Some(mask)), ("scale", scale), ("out", out)];
    let call = Call::with(Signature::new(op), arrays, others, &mut slots)?;
    let scale = scale.map_or(Ok(1.0), |scale| number(op, "scale", scale))?;
    let dtype = take_all(op, arrays, &mut slots).map_err(|error| call.blame(error))?;
    let [Some(x), Some(residual)] = &slots else { return Err(value_error!("{op}: an array is missing")) };
    let mask = take_mask(op, mask_name, mask, dtype).map_err(|error| call.blame(error))?;
    call.look_again()?;
    let operands: [(&str, &NdArray<'py>); 2] = [("residual", residual), (mask_name, &mask)];
    for (name, array) in operands {
        if array.shape() != x.shape() {
            return Err(wrong_shape(op, name, array.shape(), x.shape(), format_args!(", the shape of x")));
        }
    }
    let operation = DropoutAdd { selects: matches!(mask, MaskArray::Selects(_)), scale };
    run(&call, &operation, Arrays { residual: Some(residual), mask: Some(&mask), ..Arrays::of(x) }, None, out)
}

impl Operation for Activation {
    fn cost(&self) -> f32 {
        match self {
            Self::None | Self::Relu => 0.2,
            _ => 1.0,
        }
    }

    #[inline]
    fn run<T: Element>(&self, inputs: &Inputs<'_>, out: MatrixMut<'_, T>) -> Result<(), Error> {
        Ok(crate::activate(*self, inputs.x::<T>(), out)?)
    }

    #[inline]
    fn run_in_place<T: Element>(&self, _: &Inputs<'_>, out: MatrixMut<'_, T>) -> Result<(), Error> {
        Ok(crate::activate_in_place(*self, out)?)
    }
}

struct Scale {
    factor: f64,
}

impl Operation for Scale {
    fn cost(&self) -> f32 {
        0.2
    }

    #[inline]
    fn run<T: Element>(&self, inputs: &Inputs<'_>, out: MatrixMut<'_, T>) -> Result<(), Error> {
        Ok(crate::scale(inputs.x::<T>(), T::Acc::from_f64(self.factor), out)?)
    }

    #[inline]
    fn run_in_place<T: Element>(&self, _: &Inputs<'_>, out: MatrixMut<'_, T>) -> Result<(), Error> {
        Ok(crate::scale_in_place(out, T::Acc::from_f64(self.factor))?)
    }
}

struct DropoutAdd {
    selects: bool,
    scale: f64,
}

impl DropoutAdd {
    fn mask<'a, T: Element>(&self, inputs: &Inputs<'a>) -> Mask<'a, T> {
        match inputs.mask() {
            Some(mask) if self.selects => Mask::Select(mask.bytes()),
            Some(mask) => Mask::Multiply(mask.matrix()),
            None => Mask::Multiply(crate::Matrix::from(&[])),
        }
    }
}

impl Operation for DropoutAdd {
    fn cost(&self) -> f32 {
        0.3
    }

    #[inline]
    fn run<T: Element>(&self, inputs: &Inputs<'_>, out: MatrixMut<'_, T>) -> Result<(), Error> {
        let scale = T::Acc::from_f64(self.scale);
        Ok(crate::dropout_add(inputs.x::<T>(), inputs.residual::<T>(), self.mask::<T>(inputs), scale, out)?)
    }

    #[inline]
    fn run_in_place<T: Element>(&self, inputs: &Inputs<'_>, out: MatrixMut<'_, T>) -> Result<(), Error> {
        let scale = T::Acc::from_f64(self.scale);
        Ok(crate::dropout_add_in_place(out, inputs.residual::<T>(), self.mask::<T>(inputs), scale)?)
    }
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
    elementwise(Signature::new("relu"), &Activation::Relu, x, out)
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
    elementwise(Signature::new("sigmoid"), &Activation::Sigmoid, x, out)
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
    elementwise(Signature::new("tanh"), &Activation::Tanh, x, out)
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
    elementwise(Signature::new("silu"), &Activation::Silu, x, out)
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
    let mut slots = slots();
    let others = [("approximate", approximate.object()), ("out", out)];
    let call = Call::with(Signature::new("gelu"), [("x", Some(x))], others, &mut slots)?;
    let activation = match approximate {
        Optional::Default => Activation::Gelu,
        Optional::Given(name) if name.eq("none")? => Activation::Gelu,
        Optional::Given(name) if name.eq("tanh")? => Activation::GeluTanh,
        Optional::Given(other) => {
            return Err(value_error!("gelu: approximate must be 'none' or 'tanh', not {}", other.repr()?));
        }
    };
    run(&call, &activation, Arrays::of(call.take(x, &mut slots[0])?), None, out)
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
    scaled(Signature::new("scale"), x, factor, out)
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
    dropped("dropout_add", "mask", [x, residual, mask], scale.object(), out)
}
